package jsonschema

//lint:file-ignore SA5008 the tags are odd on purpose
//lint:file-ignore U1000 and so are fields that nobody uses

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	google "github.com/google/jsonschema-go/jsonschema"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type (
	tree struct {
		Name string  `json:"name"`
		Kids []*tree `json:"kids,omitempty"`
		Up   *tree   `json:"up"`
	}
	forest struct {
		Best  *tree           `json:"best,omitempty" jsonschema:"the largest"`
		All   map[string]tree `json:"all"`
		Lists nest            `json:"lists"`
	}
	nest    []nest
	generic struct {
		P pair[int]    `json:"p"`
		Q pair[string] `json:"q"`
	}
	pair[T any] struct {
		V    T        `json:"v"`
		Next *pair[T] `json:"next,omitempty"`
	}
	base struct {
		ID   int    `json:"id"`
		Kind string `json:"kind"`
	}
	embeds struct {
		base
		*Promoted
		Named `json:"named"`
		Kind  bool `json:"kind"`
	}
	Promoted struct {
		P    int
		Same int
	}
	Named struct{ N int }
	Other struct{ Same int }
	twice struct {
		Promoted
		Other
	}
	options struct {
		S      int64    `json:"s,string"`
		SP     *bool    `json:"sp,string"`
		SO     *float64 `json:"so,string,omitempty"`
		L      []int    `json:",string"` // does not count
		Dash   int      `json:"-,"`
		Not    int      `json:"-"`
		Bad    int      `json:"a\"b"`
		hidden int
	}
	numbers struct {
		A int8
		B uint16
		C int32
		D uint32
		E uint64
		F int64
		G float32
		H json.Number
		I big.Int
		J *big.Int
		K uint8
		L int16
	}
	kinds struct {
		Raw    json.RawMessage
		Any    any
		Err    error
		Time   time.Time
		TimeP  *time.Time
		Bytes  []byte
		Array  [2]string
		Map    map[int]bool
		Open   map[string]any
		Addr   netip.Addr
		Level  slog.Level
		Nested [][]int
		Opt    []int          `json:",omitzero"`
		OptMap map[string]int `json:",omitempty"`
	}
	waits struct {
		A time.Duration `json:"a"`
		B time.Duration `json:"b,omitempty" jsonschema:"how long, in nanoseconds <at most 5e9>"`
		C []struct{}    `json:"c"`
	}
	both   struct{ V int }
	encode struct {
		B both
		T textOnly
	}
	textOnly struct{ v int }
	endless2 *endless2
)

func (both) MarshalJSON() ([]byte, error)      { return []byte(`"b"`), nil }
func (*textOnly) UnmarshalText(b []byte) error { return nil }

func TestInfer(t *testing.T) {
	for _, c := range []struct {
		v    any
		out  bool
		want string
	}{
		{struct{}{}, false, `{"type":"object","properties":{},"additionalProperties":false}`},
		{json.RawMessage{}, false, ``},
		{"", true, `{"type":"string"}`},
		{[]string{}, true, `{"type":["array","null"],"items":{"type":"string"}}`},
		{map[string]int{}, false, `{"type":"object","additionalProperties":{"type":"integer"}}`},
		{&base{}, false, `{"type":"object","properties":{"id":{"type":"integer"},"kind":{"type":"string"}},"required":["id","kind"],"additionalProperties":false}`},
		{&base{}, true, `{"type":["object","null"],"properties":{"id":{"type":"integer"},"kind":{"type":"string"}},"required":["id","kind"],"additionalProperties":false}`},
		{tree{}, false, `{"type":"object","properties":{"name":{"type":"string"},"kids":{"type":"array","items":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},` +
			`"up":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["name","up"],"additionalProperties":false}`},
		{forest{}, false, `{"type":"object","properties":{"best":{"description":"the largest","anyOf":[{"$ref":"#/$defs/tree"}]},` +
			`"all":{"type":["object","null"],"additionalProperties":{"$ref":"#/$defs/tree"}},"lists":{"anyOf":[{"$ref":"#/$defs/nest"},{"type":"null"}]}},` +
			`"required":["all","lists"],"additionalProperties":false,"$defs":{"tree":{"type":"object","properties":{"name":{"type":"string"},` +
			`"kids":{"type":"array","items":{"anyOf":[{"$ref":"#/$defs/tree"},{"type":"null"}]}},"up":{"anyOf":[{"$ref":"#/$defs/tree"},{"type":"null"}]}},` +
			`"required":["name","up"],"additionalProperties":false},"nest":{"type":"array","items":{"anyOf":[{"$ref":"#/$defs/nest"},{"type":"null"}]}}}}`},
		{generic{}, false, `{"type":"object","properties":{"p":{"$ref":"#/$defs/pair_int_"},"q":{"$ref":"#/$defs/pair_string_"}},"required":["p","q"],"additionalProperties":false,` +
			`"$defs":{"pair_int_":{"type":"object","properties":{"v":{"type":"integer"},"next":{"$ref":"#/$defs/pair_int_"}},"required":["v"],"additionalProperties":false},` +
			`"pair_string_":{"type":"object","properties":{"v":{"type":"string"},"next":{"$ref":"#/$defs/pair_string_"}},"required":["v"],"additionalProperties":false}}}`},
		{embeds{}, false, `{"type":"object","properties":{"id":{"type":"integer"},"P":{"type":"integer"},"Same":{"type":"integer"},"named":{"type":"object","properties":{"N":{"type":"integer"}},` +
			`"required":["N"],"additionalProperties":false},"kind":{"type":"boolean"}},"required":["id","named","kind"],"additionalProperties":false}`},
		{twice{}, false, `{"type":"object","properties":{"P":{"type":"integer"}},"required":["P"],"additionalProperties":false}`},
		{options{}, false, `{"type":"object","properties":{"s":{"type":"string"},"sp":{"type":["string","null"]},"so":{"type":"string"},"L":{"type":["array","null"],"items":{"type":"integer"}},` +
			`"-":{"type":"integer"},"Bad":{"type":"integer"}},"required":["s","sp","L","-","Bad"],"additionalProperties":false}`},
		{numbers{}, false, `{"type":"object","properties":{"A":{"type":"integer","minimum":-128,"maximum":127},"B":{"type":"integer","minimum":0,"maximum":65535},` +
			`"C":{"type":"integer","minimum":-2147483648,"maximum":2147483647},"D":{"type":"integer","minimum":0,"maximum":4294967295},"E":{"type":"integer","minimum":0},` +
			`"F":{"type":"integer"},"G":{"type":"number"},"H":{"type":"number"},"I":{"type":"integer"},"J":{"type":["integer","null"]},"K":{"type":"integer","minimum":0,"maximum":255},` +
			`"L":{"type":"integer","minimum":-32768,"maximum":32767}},"required":["A","B","C","D","E","F","G","H","I","J","K","L"],"additionalProperties":false}`},
		{kinds{}, false, `{"type":"object","properties":{"Raw":{},"Any":{},"Err":{},"Time":{"type":"string","format":"date-time"},"TimeP":{"type":["string","null"],"format":"date-time"},` +
			`"Bytes":{"type":["string","null"],"contentEncoding":"base64"},"Array":{"type":"array","items":{"type":"string"},"maxItems":2},` +
			`"Map":{"type":["object","null"],"additionalProperties":{"type":"boolean"}},"Open":{"type":["object","null"]},"Addr":{"type":"string"},"Level":{"type":"string"},` +
			`"Nested":{"type":["array","null"],"items":{"type":["array","null"],"items":{"type":"integer"}}},"Opt":{"type":"array","items":{"type":"integer"}},` +
			`"OptMap":{"type":"object","additionalProperties":{"type":"integer"}}},"required":["Raw","Any","Err","Time","TimeP","Bytes","Array","Map","Open","Addr","Level","Nested"],"additionalProperties":false}`},
		{[2]string{}, true, `{"type":"array","items":{"type":"string"},"minItems":2,"maxItems":2}`},
		{waits{}, false, `{"type":"object","properties":{"a":{"type":"integer","description":"nanoseconds"},"b":{"type":"integer","description":"how long, in nanoseconds <at most 5e9>"},` +
			`"c":{"type":["array","null"],"items":{"type":"object","properties":{},"additionalProperties":false}}},"required":["a","c"],"additionalProperties":false}`},
		{encode{}, false, `{"type":"object","properties":{"B":{"type":"object","properties":{"V":{"type":"integer"}},"required":["V"],"additionalProperties":false},"T":{"type":"string"}},` +
			`"required":["B","T"],"additionalProperties":false}`},
		{encode{}, true, `{"type":"object","properties":{"B":{},"T":{"type":"object","properties":{},"additionalProperties":false}},"required":["B","T"],"additionalProperties":false}`},
	} {
		got, err := infer(reflect.TypeOf(c.v), c.out)
		require.NoError(t, err, "%T", c.v)
		assert.Equal(t, c.want, string(got), "%T", c.v)
		if got == nil {
			continue
		}
		_, err = compile("schema", got)
		assert.NoError(t, err, "%T", c.v)
	}
}

func TestInferRefuses(t *testing.T) {
	for _, c := range []struct {
		v    any
		want string
	}{
		{struct {
			A struct{ Done chan int }
		}{}, "$.A.Done is a chan int: JSON has none"},
		{struct{ F []func() }{}, "$.F[] is a func(): JSON has none"},
		{struct{ M map[float64]int }{}, "$.M is a map[float64]int: its keys must be strings or integers"},
		{struct {
			A int `jsonschema:""`
		}{}, `$.A: the tag jsonschema:"" is empty: must be a description`},
		{struct {
			A int `jsonschema:"enum=a,enum=b"`
		}{}, `$.A: the tag jsonschema:"enum=a,enum=b" begins like an option: must be a description, whose first word has no =`},
		{struct{ E endless2 }{}, "$.E is a jsonschema.endless2, which has no end"},
		{wide5{}, "is too large: a schema of more than 10000 parts is not made"},
	} {
		_, err := infer(reflect.TypeOf(c.v), false)
		assert.ErrorContains(t, err, c.want, "%T", c.v)
	}
}

type (
	wide1 struct{ A, B, C, D, E, F, G, H, I, J int }
	wide2 struct{ A, B, C, D, E, F, G, H, I, J wide1 }
	wide3 struct{ A, B, C, D, E, F, G, H, I, J wide2 }
	wide4 struct{ A, B, C, D, E, F, G, H, I, J wide3 }
	wide5 struct{ A, B, C, D, E, F, G, H, I, J wide4 }
)

// What encoding/json makes of a value fits the schema of its type, by this package and by jsonschema-go.
func TestInferredOutputFitsWhatIsEncoded(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	type flat struct {
		S  string            `json:"s"`
		N  []numbersFew      `json:"n"`
		M  map[string][]byte `json:"m"`
		P  *pair[uint8]      `json:"p"`
		O  *pair[string]     `json:"o,omitempty"`
		A  [3]*int16         `json:"a"`
		Q  int               `json:"q,string"`
		MI map[int8]any      `json:"mi"`
		embeds
	}
	doc, err := infer(reflect.TypeFor[flat](), true)
	require.NoError(t, err)
	p, err := compile("schema", doc)
	require.NoError(t, err)
	p.lenient = false
	var g google.Schema
	require.NoError(t, json.Unmarshal(doc, &g))
	full, err := g.Resolve(nil)
	require.NoError(t, err)
	for range 300 {
		v := fill(random, reflect.TypeFor[flat](), 5)
		raw, err := json.Marshal(v.Interface())
		require.NoError(t, err)
		require.NoError(t, p.check(raw), "%s", raw)
		d, err := parse(raw, nil)
		require.NoError(t, err)
		x, ok := d.foreignValue(0, 0)
		require.True(t, ok)
		require.NoError(t, full.Validate(x), "%s", raw)
	}
}

type numbersFew struct {
	A int8    `json:"a"`
	B uint64  `json:"b"`
	C int64   `json:"c,omitempty"`
	D float64 `json:"d"`
}

// fill is a random value of t.
func fill(r *rand.Rand, t reflect.Type, depth int) reflect.Value {
	v := reflect.New(t).Elem()
	switch t.Kind() {
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.String:
		v.SetString(strings.Repeat("é<", r.IntN(3)))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(r.Uint64()) >> r.IntN(64) >> (64 - t.Bits()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(r.Uint64() >> r.IntN(64) >> (64 - t.Bits()))
	case reflect.Float64:
		v.SetFloat(r.NormFloat64())
	case reflect.Interface:
		if r.IntN(2) == 0 {
			v.Set(reflect.ValueOf(fmt.Sprint(r.IntN(9))))
		}
	case reflect.Pointer:
		if depth > 0 && r.IntN(2) == 0 {
			v.Set(fill(r, t.Elem(), depth-1).Addr())
		}
	case reflect.Slice:
		if n := r.IntN(4) - 1; n >= 0 && depth > 0 {
			v.Set(reflect.MakeSlice(t, n, n))
		}
		for i := range v.Len() {
			v.Index(i).Set(fill(r, t.Elem(), depth-1))
		}
	case reflect.Array:
		for i := range v.Len() {
			v.Index(i).Set(fill(r, t.Elem(), depth-1))
		}
	case reflect.Map:
		if r.IntN(3) > 0 {
			v.Set(reflect.MakeMap(t))
			for range r.IntN(3) {
				v.SetMapIndex(fill(r, t.Key(), 0), fill(r, t.Elem(), depth-1))
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() {
				f.Set(fill(r, f.Type(), depth))
			}
		}
	}
	return v
}

// The fields are those that encoding/json writes.
func TestFieldsAreThoseOfEncodingJSON(t *testing.T) {
	for _, v := range []any{embeds{Promoted: &Promoted{}}, twice{}, options{}, kinds{}, generic{}, forest{}, numbers{}} {
		raw, err := json.Marshal(v)
		require.NoError(t, err)
		var all map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(raw, &all))
		var want, got []string
		for name := range all {
			want = append(want, name)
		}
		for _, f := range fieldsOf(reflect.TypeOf(v)) {
			if !f.optional {
				got = append(got, f.name)
			}
		}
		assert.ElementsMatch(t, want, got, "%T", v)
	}
}
