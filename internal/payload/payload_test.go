package payload

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var testTime = time.Date(2026, 3, 4, 5, 6, 7, 80_000_000, time.FixedZone("", 3600))

// shown is what is shown of v.
func shown(_ testing.TB, v any, max int, redact ...string) any { return New(max, redact).Copy(v) }

type embedded struct {
	Inner string `json:"inner"`
	Same  int
}

type (
	emptyable struct {
		A int            `json:"a,omitempty"`
		B string         `json:",omitempty"`
		C *int           `json:"c,omitempty"`
		D time.Time      `json:"d,omitzero"`
		E []int          `json:"e,omitempty"`
		F map[string]int `json:"f,omitempty"`
		G int            `json:"-"`
		H int64          `json:"h,string"`
		I bool           `json:"i"`
		j int
	}
	wide struct {
		embedded
		*emptyable
		Same  string
		Text  string
		Bytes []byte
		Raw   json.RawMessage
		Num   json.Number
		Arr   [3]float64
		Any   any
		F32   float32
		Time  time.Time
		Dur   time.Duration
		Big   *big.Int
		Map   map[string]any
		ByInt map[int]string
		Nil   []string
		Ptr   **string
	}
)

// What fits and holds no secret looks as encoding/json writes it.
func TestCopiesLookAsEncodingJSONWritesThem(t *testing.T) {
	s := "pointed at"
	p := &s
	w := wide{embedded: embedded{"in", 1}, emptyable: &emptyable{H: math.MaxInt64, I: true, j: 1}, Same: "outer", Text: "q\"\\\n\t<&>é\u2028",
		Bytes: []byte("hello"), Raw: json.RawMessage(` {"a" : [1, 2.5e3, -0, true, null, "x\u0041\/\n"] , "b":{} , "c":[] } `), Num: "12.50",
		Arr: [3]float64{1e-9, 1e21, 0.1}, Any: map[string]any{"z": 1, "a": []any{nil, "x", 1.5}}, F32: 0.1, Time: testTime, Dur: 5,
		Big: big.NewInt(1 << 62), Map: map[string]any{}, ByInt: map[int]string{2: "b", 1: "a"}, Ptr: &p}
	for _, v := range []any{
		w, &w, wide{}, emptyable{}, 1, int8(-1), uint64(math.MaxUint64), 1.0, true, "", "x", []int{}, []int{1}, map[string]int(nil), [0]int{},
		json.RawMessage(`9007199254740993`), time.Time{}, []any{1, []any{}}, map[time.Duration]bool{3: true}, struct{}{}, (*int)(nil),
	} {
		want, err := json.Marshal(v)
		require.NoError(t, err)
		got, ok := shown(t, v, 1<<20).(json.RawMessage)
		if !ok || !json.Valid(got) {
			t.Errorf("%T: got %s", v, shown(t, v, 1<<20))
			continue
		}
		var a, b any
		if json.Unmarshal(got, &a) != nil || json.Unmarshal(want, &b) != nil || fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("%T:\ngot  %s\nwant %s", v, got, want)
		}
	}
}

func TestSecretsAreRedacted(t *testing.T) {
	type login struct {
		User         string
		Password     string
		APIKey       string `json:"key"`
		Renamed      string `json:"client_secret"`
		SSN          string
		MaxTokens    int
		PasswordHint string
	}
	l := login{"ann", "hunter2", "hunter2", "hunter2", "hunter2", 5, "dog"}
	raw := `{"user":"ann", "PassWord" : "hunter2", "a":[{"X-Api-Key":{"hunter2":["hunter2",{"}":"]"}]}}],` +
		`"paſſword":"hunter2","p\u0061ssword":"hunter2","refreshToken":123456,"set-cookie":true,"pass\u200bword":"hunter2","ssn":"hunter2","n":"a\"b"}`
	for name, v := range map[string]any{
		"struct":  l,
		"pointer": &l,
		"nested":  []any{map[string]any{"x": struct{ L *login }{&l}}},
		"map":     map[string]string{"password": "hunter2", "Authorization": "hunter2", "db.password": "hunter2", "AWS_SECRET_ACCESS_KEY": "hunter2", "sS_n": "hunter2", "q": "ann"},
		"raw":     json.RawMessage(raw),
		"marshal": marshaler(func() ([]byte, error) { return []byte(raw), nil }),
	} {
		got, ok := shown(t, v, 0, "SSN").(json.RawMessage)
		if !ok || !json.Valid(got) {
			t.Errorf("%s: %v", name, shown(t, v, 0, "SSN"))
		}
		if s := string(got); strings.Contains(s, "hunter2") || strings.Contains(s, "123456") || !strings.Contains(s, "ann") || !strings.Contains(s, "[redacted]") {
			t.Errorf("%s: %s", name, s)
		}
	}
	assert.Contains(t, fmt.Sprintf("%s", shown(t, l, 0, "SSN")), `"MaxTokens":5,"PasswordHint":"dog"`,
		"redacted too much")
	got := fmt.Sprintf("%s", shown(t, json.RawMessage(raw), 0, "SSN"))
	assert.True(t, strings.HasSuffix(got, `"n":"a\"b"}`), "lost its place after a secret: %s", got)
}

type marshaler func() ([]byte, error)

func (m marshaler) MarshalJSON() ([]byte, error) { return m() }

type deepMarshaler struct{ next *deepMarshaler }

func (d *deepMarshaler) MarshalJSON() ([]byte, error) { panic("must not be asked") }

// A cycle, a value of millions of levels and hostile marshalers end in a mark; none of
// them may overflow the stack, which nothing can recover from.
func TestHostileValuesEndInAMark(t *testing.T) {
	type node struct{ Next *node }
	loop := &node{}
	loop.Next = loop
	deep := &node{}
	for range 5_000_000 {
		deep = &node{deep}
	}
	selfMap := map[string]any{}
	selfMap["a"], selfMap["b"] = selfMap, selfMap
	selfSlice := make([]any, 2)
	selfSlice[0], selfSlice[1] = selfSlice, selfSlice
	type loopPointer *loopPointer
	var lp loopPointer
	lp = &lp
	dm := &deepMarshaler{}
	for range 5_000_000 {
		dm = &deepMarshaler{dm}
	}
	for _, tt := range []struct {
		name string
		v    any
		want string // the end, or all
	}{
		{"cycle of pointers", loop, "…[too deep]"},
		{"deep list", deep, "…[too deep]"},
		{"map in itself", selfMap, "…[too deep]"},
		{"slice in itself", selfSlice, "…[too deep]"},
		{"pointer to itself", lp, "…[too deep]"},
		{"deep raw", json.RawMessage(strings.Repeat("[", 5_000_000)), "…[too deep]"},
		{"deep raw under a secret", json.RawMessage(`{"token":` + strings.Repeat("[", 5_000_000)), "…[truncated]"},
		{"deep marshaler", dm, `"[too large]"`},
		{"panicking marshaler", marshaler(func() ([]byte, error) { panic(1) }), `"[MarshalJSON failed]"`},
		{"failing marshaler", marshaler(func() ([]byte, error) { return nil, errors.New("x") }), `"[MarshalJSON failed]"`},
		{"lying marshaler", marshaler(func() ([]byte, error) { return []byte(`{"a":1}}`), nil }), "…[invalid JSON]"},
		{"broken raw", json.RawMessage(`{"a":tru}`), `{"a":…[invalid JSON]`},
		{"empty raw", json.RawMessage{}, "…[invalid JSON]"},
		{"raw with a control character", json.RawMessage("\"a\nb\""), `"a…[invalid JSON]`},
		{"raw with a bad escape", json.RawMessage(`"\x"`), `"…[invalid JSON]`},
		{"raw that is no UTF-8", json.RawMessage("\"\xff\u202e\""), `"\ufffd\u202e"`},
		{"leading zero", json.RawMessage(`01`), "…[invalid JSON]"},
		{"not a number", math.NaN(), `"NaN"`},
		{"channel", make(chan int), `"[chan]"`},
		{"function", func() {}, `"[func]"`},
		{"complex", 1i, `"[complex128]"`},
		{"map of odd keys", map[[1]int]int{{1}: 2}, `{"[array]":2}`},
		{"nil marshaler", (*deepMarshaler)(nil), "null"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := shown(t, tt.v, 200_000)
			s, isText := got.(string)
			raw, isRaw := got.(json.RawMessage)
			if isRaw {
				s = string(raw)
				assert.True(t, json.Valid(raw), "invalid: %.200s", raw)
			}
			if !isText && !isRaw || !strings.HasSuffix(s, tt.want) {
				t.Errorf("got %T ending in %q, want %q", got, s[max(0, len(s)-80):], tt.want)
			}
		})
	}
}

// The size is bounded for every limit, cuts are marked, and never inside a character.
func TestSizeIsBoundedForEveryLimit(t *testing.T) {
	v := map[string]any{"text": strings.Repeat("é", 300), "list": []int{1, 2, 3}, "bytes": []byte(strings.Repeat("x", 100)), "raw": json.RawMessage(`{"é":"é\u00e9"}`)}
	whole := shown(t, v, 1<<20).(json.RawMessage)
	for max := 1; max <= len(whole)+2; max++ {
		got := shown(t, v, max)
		switch got := got.(type) {
		case json.RawMessage:
			if string(got) != string(whole) || len(whole) > max {
				t.Fatalf("max %d: %s", max, got)
			}
		case string:
			head, ok := strings.CutSuffix(got, "…[truncated]")
			if !ok || len(head) > max || len(head) < max-3 || !utf8.ValidString(got) || !strings.HasPrefix(string(whole), head) || max >= len(whole) {
				t.Fatalf("max %d: %q", max, got)
			}
		default:
			t.Fatalf("max %d: %T", max, got)
		}
	}
}

// The work is bounded by max: a value of 64 MiB costs no more memory than a small one.
func TestWorkIsBounded(t *testing.T) {
	huge := strings.Repeat("x", 64<<20)
	for name, v := range map[string]any{
		"string": huge, "bytes": []byte(huge), "raw": json.RawMessage(`"` + huge + `"`), "list": make([]int, 1<<20),
		"map": map[string]string{huge: huge}, "digits": json.RawMessage(strings.Repeat("1", 1<<20)), "blanks": json.RawMessage(strings.Repeat(" ", 1<<20)),
	} {
		f := New(1000, nil)
		f.Copy(v) // fills the cache of types
		var before, after runtime.MemStats
		const n = 20
		runtime.ReadMemStats(&before)
		for range n {
			f.Copy(v)
		}
		runtime.ReadMemStats(&after)
		if got := (after.TotalAlloc - before.TotalAlloc) / n; got > 32<<10 {
			t.Errorf("%s: %d bytes allocated", name, got)
		}
	}
}

// Nothing a sink sees is shared with the call.
func TestCopiesShareNothing(t *testing.T) {
	raw := json.RawMessage(`{"a":1}`)
	m := map[string]any{"a": raw}
	a, b := shown(t, raw, 0).(json.RawMessage), shown(t, m, 0).(json.RawMessage)
	copy(raw, "{\"z\":2}")
	m["b"] = 1
	assert.Equal(t, `{"a":1}`, string(a), "changed with the caller's data: %s, %s", a, b)
	assert.Equal(t, `{"a":{"a":1}}`, string(b), "changed with the caller's data: %s, %s", a, b)
}

func FuzzRawJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,2,{"password":{"x":"y\"}"}}],"b":"\u00e9"}`, `[`, `"\ud800"`, `1e5`, ` null `, `{"token" : 1 , "b":2}`, "\"\xff\"", `{"a":1,}`, `-0.0e-1`} {
		f.Add([]byte(s), 1000)
		f.Add([]byte(s), 7)
	}
	f.Fuzz(func(t *testing.T, raw []byte, max int) {
		if max < 1 || max > 1<<16 {
			max = 1000
		}
		switch got := shown(t, json.RawMessage(raw), max).(type) {
		case json.RawMessage:
			if !json.Valid(got) || len(got) > max {
				t.Fatalf("%q gave %q", raw, got)
			}
			if !strings.Contains(string(got), "[redacted]") && !json.Valid(raw) {
				t.Fatalf("took %q for valid: %q", raw, got)
			}
		case string:
			if strings.HasSuffix(got, "…["+invalid+"]") && json.Valid(raw) {
				t.Fatalf("took %q for invalid: %q", raw, got)
			}
			if !utf8.ValidString(got) || len(got) > max+len("…[invalid JSON]") {
				t.Fatalf("%q gave %q", raw, got)
			}
		}
	})
}

type (
	secretKey  string
	textKey    struct{ name string }
	stringText string
	badText    struct{}
)

func (k textKey) MarshalText() ([]byte, error)    { return []byte(k.name), nil }
func (k stringText) MarshalText() ([]byte, error) { return []byte("id-" + string(k)), nil }
func (badText) MarshalText() ([]byte, error)      { return nil, errors.New("no") }

// The key of a map is looked at whatever its type is: it may be written as something else,
// or not at all.
func TestKeysOfAnyTypeCanNameASecret(t *testing.T) {
	name, plain := "api_key", "city"
	for what, v := range map[string]any{
		"any":                map[any]any{name: "hunter2", plain: "ann", 7: 1, nil: 2},
		"any, named string":  map[any]any{secretKey(name): "hunter2", secretKey(plain): "ann"},
		"named string":       map[secretKey]any{secretKey(name): "hunter2", secretKey(plain): "ann"},
		"TextMarshaler":      map[textKey]any{{name}: "hunter2", {plain}: "ann"},
		"any, TextMarshaler": map[any]any{textKey{name}: "hunter2", textKey{plain}: "ann"},
		"interface":          map[interface{ MarshalText() ([]byte, error) }]any{textKey{name}: "hunter2", textKey{plain}: "ann", nil: 1},
		"string that is written otherwise": map[stringText]any{
			stringText(name): "hunter2", stringText(plain): "ann"},
		"pointer":                map[*string]any{&name: "hunter2", &plain: "ann"},
		"pointer in any":         map[any]any{&name: "hunter2", &plain: "ann"},
		"struct":                 map[struct{ Service, Field string }]any{{"x", name}: "hunter2", {"x", plain}: "ann"},
		"array":                  map[[2]string]any{{"x", name}: "hunter2", {"x", plain}: "ann"},
		"bytes":                  map[[9]byte]any{{'a', 'p', 'i', '_', 'k', 'e', 'y'}: "hunter2", {'c', 'i', 't', 'y'}: "ann"},
		"marshaler that fails":   map[badText]any{{}: "hunter2"},
		"deep in a list":         []any{map[string]any{"x": map[any]any{name: map[any]any{plain: "hunter2"}}}, "ann"},
		"another name":           map[any]any{secretKey("S-S.N"): 123456, plain: "ann"},
		"marshaler by a pointer": map[*textKey]any{{name}: "hunter2", {plain}: "ann"},
	} {
		got, ok := shown(t, v, 0, "ssn").(json.RawMessage)
		if !ok || !json.Valid(got) {
			t.Fatalf("%s: %v", what, shown(t, v, 0, "ssn"))
		}
		if s := string(got); strings.Contains(s, "hunter2") || strings.Contains(s, "123456") || !strings.Contains(s, "[redacted]") || !strings.Contains(s, "ann") && what != "marshaler that fails" {
			t.Errorf("%s: %s", what, s)
		}
	}
	if got := fmt.Sprintf("%s", shown(t, map[any]any{"a": 1, 2: "b", secretKey("c"): nil}, 0)); got != `{"2":"b","a":1,"c":null}` {
		t.Errorf("keys are shown as %s", got)
	}
}

// A document that breaks inside a secret ends there: nobody knows what belongs to it. For
// each byte that is lost, doubled or changed, nothing inside the secret is shown.
func TestBrokenSecretsEndTheDocument(t *testing.T) {
	for _, raw := range []string{
		`{"user":"ann","password":{"a":{"b":"hunter2"},"pin":"hunter3"},"city":"rome"}`,
		`{"user":"ann","password":["hunter2",{"pin":["hunter3",1]},true],"city":"rome"}`,
		`{"user":"ann","password":[[{"a":"hunter2","b":[]},{}],"hunter3"],"city":"rome"}`,
	} {
		start, end := strings.Index(raw, `"password"`)+len(`"password":`), strings.Index(raw, `,"city"`)
		for i := start; i < end; i++ {
			for _, broken := range []string{raw[:i] + raw[i+1:], raw[:i] + raw[i:i+1] + raw[i:], raw[:i] + "}" + raw[i+1:], raw[:i] + "{" + raw[i+1:], raw[:i] + "]" + raw[i+1:], raw[:i] + `"` + raw[i+1:], raw[:i]} {
				if json.Valid([]byte(broken)) {
					continue
				}
				s, isText := shown(t, json.RawMessage(broken), 0).(string)
				if !isText || strings.Contains(s, "hunter") || strings.Contains(s, "pin") || strings.Contains(s, "rome") {
					t.Errorf("%s\nis shown as %s", broken, s)
				}
			}
		}
	}
}

// A document that is broken beyond where it was cut ends at its first secret too, and a
// control character or a bad escape in one breaks it.
func TestBrokenBehindTheCutEndsAtTheSecret(t *testing.T) {
	long := strings.Repeat("x", 300)
	for raw, want := range map[string]string{
		`{"token":{"a":"b"},"pin":"` + long + `"},"z":1}`: `{"token":"[redacted]"…[invalid JSON]`,
		`{"token":{"a":"b"},"z":"` + long + `"}`:          `{"token":"[redacted]","z":"xxxxxxxxx…[truncated]`,
		"{\"token\":\"a\nb\",\"z\":1}":                    `{"token":"[redacted]"…[invalid JSON]`,
		`{"token":"a\xb","z":1}`:                          `{"token":"[redacted]"…[invalid JSON]`,
	} {
		assert.Equal(t, want, fmt.Sprint(shown(t, json.RawMessage(raw), 36)), "%.40s is shown as", raw)
	}
}

// The fields of types are remembered for so many as a program has, not for any number.
func TestFieldsOfSoManyTypesAreRemembered(t *testing.T) {
	p := New(0, nil)
	p.types.size.Store(maxTypes - 1)
	for range 2 {
		p.Copy(struct{ A int }{})
		p.Copy(struct{ B int }{})
	}
	known := 0
	p.types.known.Range(func(any, any) bool { known++; return true })
	assert.Equal(t, 1, known, "types remembered, there was room for one")
}

// 64 levels are shown and 65 are not, of raw JSON too, inside a secret any number.
func TestSixtyFourLevelsAreShown(t *testing.T) {
	deep := func(n int, open, inside, end string) json.RawMessage {
		return json.RawMessage(strings.Repeat(open, n) + inside + strings.Repeat(end, n))
	}
	for _, form := range [][3]string{{"[", "", "]"}, {"[", "1", "]"}, {`{"a":`, "1", "}"}, {`{"a":`, "{}", "}"}} {
		for n := 62; n <= 66; n++ {
			raw := deep(n, form[0], form[1], form[2])
			levels := n
			if form[1] == "{}" {
				levels++
			}
			got := shown(t, raw, 1<<20)
			if whole, ok := got.(json.RawMessage); ok != (levels <= 64) || ok && string(whole) != string(raw) {
				t.Errorf("%d levels: %v", levels, got)
			} else if s, _ := got.(string); !ok && !strings.HasSuffix(s, "…[too deep]") {
				t.Errorf("%d levels: %v", levels, got)
			}
		}
	}
	secret := json.RawMessage(`{"token":` + string(deep(9_000, `[{"a":`, "1", "}]")) + `,"b":1}`)
	assert.Equal(t, `{"token":"[redacted]","b":1}`, fmt.Sprintf("%s", shown(t, secret, 1<<20)))
}

// A name that no field can be told by is refused, by its place; others are not.
func TestNamesThatTellNoFieldAreRefused(t *testing.T) {
	require.NoError(t, Names("Redact", nil))
	require.NoError(t, Names("Redact", []string{"Card-Number", strings.Repeat("x", maxFieldName)}))
	require.EqualError(t, Names("Redact", []string{"a", "-_."}), `Redact[1] is "-_.": must be the name of a field, of 256 bytes at most`)
	require.ErrorContains(t, Names("Redact", []string{strings.Repeat("x", maxFieldName+1)}), `Redact[0] is "`+strings.Repeat("x", 128)+`…": must`)
}
