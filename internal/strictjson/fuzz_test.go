package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// reading is what encoding/json's tokens say about data, found without this package.
type reading struct {
	twice bool // an object has a key twice
	depth int
}

func read(data []byte) (r reading) {
	type open struct {
		keys map[string]bool // nil for arrays
		key  bool            // the next token is a key
	}
	var stack []open
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	for {
		tok, err := d.Token()
		if err == io.EOF {
			return r
		}
		if err != nil {
			panic(err) // data is valid
		}
		if len(stack) > 0 {
			if top := &stack[len(stack)-1]; top.keys != nil {
				if name, ok := tok.(string); ok && top.key {
					r.twice = r.twice || top.keys[name]
					top.keys[name] = true
					top.key = false
					continue
				}
				top.key = true
			}
		}
		switch tok {
		case json.Delim('{'):
			stack = append(stack, open{map[string]bool{}, true})
		case json.Delim('['):
			stack = append(stack, open{})
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
		}
		r.depth = max(r.depth, len(stack))
	}
}

type nested struct {
	A               int8            `json:"a"`
	B               float32         `json:"b"`
	C               map[int8]nested `json:"c"`
	D               []any           `json:"d"`
	E               *[2]string      `json:"e"`
	F               []byte          `json:"f"`
	G               *nested         `json:"g"`
	H               json.Number     `json:"h"`
	I               any             `json:"i"`
	J               bool            `json:"j"`
	K               uint16          `json:"k"`
	L               float64         `json:"l"`
	json.RawMessage `json:"raw"`
}

// holdsNumber reports whether v holds a json.Number in an any, where encoding/json rounds.
func holdsNumber(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Interface:
		if v.IsNil() {
			return false
		}
		_, ok := v.Interface().(json.Number)
		return ok || holdsNumber(v.Elem())
	case reflect.Pointer:
		return !v.IsNil() && holdsNumber(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if holdsNumber(v.Field(i)) {
				return true
			}
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if holdsNumber(v.Index(i)) {
				return true
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if holdsNumber(it.Value()) {
				return true
			}
		}
	}
	return false
}

// FuzzDecode holds this package against encoding/json: what is accepted, encoding/json
// accepts with an equal value and, told to refuse unknown fields, without finding one; form
// is refused only where encoding/json refuses it or a documented rule does.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		``, `null`, `{}`, `[]`, `"x"`, `1e5`, `{"a":1,"A":2}`, `{"a":1,"\u0061":2}`, `{"c":{"1":{"a":2},"01":{}}}`, `{"d":[9007199254740993,1.5]}`,
		`{"e":["a","b"],"f":"aGk=","g":{"g":{"h":1e400}},"i":{"x":[1,{"y":null}]}}`, `"\ud83d\ude00"`, `"\ud800"`, `{"query":"x","limit":1}`,
		`[[[[[[1]]]]]]`, "{\"\u017f\":1,\"\u212a\":2,\"k\":3}", `{"a":3.0,"k":655e2,"c":{"1":{"a":-0.0}}}`, `{"b":3.4028236e38,"l":1e-400,"k":65535,"j":true,"raw":[1,{}]}`, ` [1 , 2 ] `,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := Check(data, Limits{})
		valid := json.Valid(data) && utf8.Valid(data)
		isEmpty := len(bytes.Trim(data, " \t\r\n")) == 0
		switch {
		case isEmpty:
			require.NoError(t, err, "Check refuses empty input")
		case !valid:
			require.Error(t, err, "Check takes %q, which is no JSON", data)
		default:
			r := read(data)
			surrogate := err != nil && strings.Contains(err.Error(), "surrogate") && bytes.Contains(bytes.ToLower(data), []byte(`\ud`))
			if want := r.twice || r.depth > 64; want != (err != nil) && !surrogate {
				t.Fatalf("Check(%q): %v; a key twice: %v, depth %d", data, err, r.twice, r.depth)
			}
		}
		for _, make := range []func() any{
			func() any { return new(nested) }, func() any { return new(search) }, func() any { return new(any) },
			func() any { return new(map[string]nested) }, func() any { return new([]search) }, func() any { return new(everything) },
		} {
			got, want := make(), make()
			if err := Decode(data, got, Limits{}); err != nil {
				if e, ok := errors.AsType[*Error](err); !ok || len(e.Path) > maxPath || !strings.HasPrefix(e.Path, "$") {
					t.Fatalf("Decode(%q): error %v without a good path", data, err)
				}
				continue
			}
			require.NoError(t, err, "Decode takes %q, Check does not", data)
			if isEmpty {
				continue
			}
			if holdsNumber(reflect.ValueOf(got)) {
				continue
			}
			s := scanner{data: data, max: 64, unique: true}
			s.document(nodeOf(reflect.TypeOf(want)))
			d := json.NewDecoder(bytes.NewReader(s.edited())) // which does not take 3.0 for an integer
			d.DisallowUnknownFields()
			require.NoError(t, d.Decode(want), "Decode takes %q as %T, encoding/json does not", data, got)
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("Decode makes %+v of %q, encoding/json %+v", got, data, want)
			}
		}
	})
}

// FuzzEncode: what one can decode one can encode, and gets the same again.
func FuzzEncode(f *testing.F) {
	f.Add([]byte(`{"a":[1,"<&>",null,true,{"b":9007199254740993}]}`), 100)
	f.Add([]byte(`[[],{},""]`), 3)
	f.Fuzz(func(t *testing.T, data []byte, limit int) {
		var v, again any
		if Decode(data, &v, Limits{}) != nil {
			return
		}
		out, err := Encode(v, limit)
		full, fullErr := Encode(v, 1<<30)
		require.NoError(t, fullErr, "Encode of %q", data)
		if fits := limit <= 0 || len(full) <= limit; fits != (err == nil) || fits && !bytes.Equal(out, full) {
			t.Fatalf("%d bytes encoded with limit %d: %v", len(full), limit, err)
		}
		if err := Decode(full, &again, Limits{MaxBytes: 1 << 30}); err != nil || !reflect.DeepEqual(v, again) {
			t.Fatalf("%q became %q: %v", data, full, err)
		}
		if raw, err := Encode(json.RawMessage(full), 1<<30); err != nil || !bytes.Equal(raw, full) {
			t.Fatalf("raw %q became %q: %v", full, raw, err)
		}
	})
}
