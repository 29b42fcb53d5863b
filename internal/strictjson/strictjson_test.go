package strictjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type search struct {
	Query  string   `json:"query"`
	Limit  int      `json:"limit,omitempty"`
	Params []string `json:"params"`
	Name   *string  `json:"name"`
}

type level int8

type everything struct {
	B     bool
	I8    int8
	L     level
	I     int64
	U8    uint8
	U     uint64
	F32   float32
	F     float64
	S     string
	Bytes []byte
	Three [3]int
	Any   any
	Anys  []any
	M     map[string]int64
	ByInt map[int]string
	When  time.Time
	Raw   json.RawMessage
	Num   json.Number
	Ptr   **int64
	Q     int64 `json:",string"`
	Skip  int   `json:"-"`
	Items []struct{ Name string }
	Self  *everything
	Odd   int64 `json:"a b/c"`
	embedded
	*Deep
}

type embedded struct {
	Promoted int
	S        int // the outer S wins
}

type Deep struct{ Deeper }

type Deeper struct {
	Deepest int
	I       string // the outer I wins
}

func check(t *testing.T, in string, v any, want string) {
	t.Helper()
	got := ""
	if err := Decode([]byte(in), v, Limits{}); err != nil {
		got = err.Error()
	}
	assert.Equal(t, want, got, "Decode(%.200s)", in)
}

func TestNamesAreExact(t *testing.T) {
	const allowed = `: allowed are "query", "limit", "params", "name"`
	for in, want := range map[string]string{
		`{"name":"a","NAME":"b"}`:                            `$ has an unknown key "NAME"` + allowed,
		`{"NAME":"b"}`:                                       `$ has an unknown key "NAME"` + allowed,
		`{"paramſ":[]}`:                                      `$ has an unknown key "param\u017f"` + allowed,
		`{"\u0071uery":"x"}`:                                 ``,
		"{\"\u212a\":1}":                                     `$ has an unknown key "\u212a"` + allowed,
		`{"name":"a","name":"a"}`:                            `$ has the key "name" twice`,
		`{"name":"a","n\u0061me":"b"}`:                       `$ has the key "name" twice`,
		`{"query":"x","limit":3,"other":1}`:                  `$ has an unknown key "other"` + allowed,
		`{"":1}`:                                             `$ has an unknown key ""` + allowed,
		`{"` + strings.Repeat("é", 100) + `":0}`:             `$ has an unknown key "` + strings.Repeat(`\u00e9`, 32) + `..."` + allowed,
		`{"query":"x","limit":3,"params":["a"],"name":null}`: ``,
	} {
		check(t, in, new(search), want)
	}
	var raw json.RawMessage
	check(t, `{"a":1,"A":2,"ſ":3,"s":4,"S":5}`, &raw, "") // nobody folds here
	check(t, `{"a":{"b":1,"b":2}}`, &raw, `$[key 1] has one key twice, as key 1 and as key 2`)
	var m map[string]any
	check(t, `{"a":1,"A":2}`, &m, "")
	check(t, `{"\ud83d\ude00":1,"😀":2}`, &m, `$ has one key twice, as key 1 and as key 2`)
	check(t, `{"\t\n\r\b\f\/\"\\":1,"\u0009\u000A\u000d\u0008\u000C/\u0022\u005c":2}`, &m, `$ has one key twice, as key 1 and as key 2`)
	check(t, `{"`+strings.Repeat("k", 65)+`":tru}`, &m, `$[key 1] has a letter at byte 69: must have a value there`)
	check(t, `{"a":1,"b":2,"\u0061":3}`, &m, `$ has one key twice, as key 1 and as key 3`)
	var k map[int]int
	const whole = "a whole number from -9223372036854775808 to 9223372036854775807"
	check(t, `{"1":1,"-1":2,"0":3}`, &k, "")
	for _, key := range []string{"01", "-0", "-01", "00"} {
		check(t, `{"1":1,"`+key+`":2}`, new(map[int]int), `$[key 2] has the wrong name: must be `+whole+` in its shortest form`)
	}
	check(t, `{"":1}`, &k, `$[key 1] has the wrong name: must be `+whole+` in its shortest form`)
	check(t, `{"-":1}`, &k, `$[key 1] has the wrong name: must be `+whole+` in its shortest form`)
	check(t, `{"300":1}`, new(map[uint8]int), `$[key 1] has the wrong name: must be a whole number from 0 to 255 in its shortest form`)
}

func TestManyKeys(t *testing.T) {
	for _, n := range []int{2, 7, 8, 9, 10, 1000} {
		for _, twice := range []int{-1, 0, n - 1} {
			var b strings.Builder
			for i := range n {
				fmt.Fprintf(&b, `"k%d":{"inner":[{},{"x":0,"y":0}]},`, i*7919%n)
			}
			last, first := "other", 0
			if twice >= 0 {
				last = fmt.Sprint("k", twice)
				for i := range n {
					if i*7919%n == twice {
						first = i + 1
					}
				}
			}
			err := Check([]byte("{"+b.String()+`"`+last+`":0}`), Limits{})
			if want := fmt.Sprintf("$ has one key twice, as key %d and as key %d", first, n+1); twice < 0 && err != nil || twice >= 0 && (err == nil || err.Error() != want) {
				t.Errorf("%d keys, %q last: %v", n, last, err)
			}
		}
	}
	fields := make([]reflect.StructField, 200) // more than the small set of the scanner holds
	in := "{"
	for i := range fields {
		fields[i] = reflect.StructField{Name: fmt.Sprint("F", i), Type: reflect.TypeFor[int]()}
		in += fmt.Sprintf(`"F%d":%d,`, i, i)
	}
	v := reflect.New(reflect.StructOf(fields))
	check(t, in+`"F199":1}`, v.Interface(), `$ has the key "F199" twice`)
	check(t, strings.TrimSuffix(in, ",")+"}", v.Interface(), "")
	check(t, `{"f1":1}`, reflect.New(reflect.StructOf(fields[:9])).Interface(),
		`$ has an unknown key "f1": allowed are "F0", "F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8"`)
	check(t, `{"f1":1}`, v.Interface(), `$ has an unknown key "f1": allowed are "F0", "F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9", "F10", "F11", "F12", "F13", "F14", "F15", and 184 more`)
	check(t, `{"f1":1}`, new(struct{}), `$ has an unknown key "f1": none is allowed`)
}

func TestNumbersKeepTheirValue(t *testing.T) {
	var s struct {
		I int64
		U uint64
		A any
		M map[string]any
		L []any
		P *any
		S []struct{ A any }
		W map[string]*struct{ A any }
		R json.RawMessage
		embeddedAny
	}
	check(t, `{"I":9007199254740993,"U":18446744073709551615,"A":9007199254740993,"M":{"n":7,"a":{"b":[9007199254740993,1.5,0.1]}},"L":[9007199254740992,1e2],
		"P":9007199254740993,"S":[{"A":9007199254740993},{"A":7}],"W":{"x":{"A":9007199254740993},"y":null},"R":1,"E":9007199254740993,"D":12}`, &s, "")
	big := json.Number("9007199254740993")
	for _, c := range []struct{ got, want any }{
		{s.I, int64(9007199254740993)}, {s.U, uint64(math.MaxUint64)}, {s.A, big},
		{s.M, map[string]any{"n": 7.0, "a": map[string]any{"b": []any{big, 1.5, 0.1}}}}, {s.L, []any{9007199254740992.0, 100.0}},
		{*s.P, big}, {s.S[0].A, big}, {s.S[1].A, 7.0}, {s.W["x"].A, big}, {s.E, big}, {s.D, 12.0},
	} {
		assert.Equal(t, c.want, c.got)
	}
	assert.Nil(t, s.W["y"], "null made something")
}

type embeddedAny struct{ E, D any }

func TestExact(t *testing.T) {
	for in, want := range map[string]bool{
		"0": true, "-0": true, "0.0": true, "-0.0e5": true, "1": true, "0.1": true, "1.10": true, "123456789012345": true, "9007199254740992": true,
		"9007199254740993": false, "9007199254740994": true, "1e22": true, "1E+22": true, "100e-2": true, "1.7976931348623157e308": true, "1e309": false,
		"5e-324": true, "1e-400": false, "0e999999999999999999999": true, "1e999999999999999999999": false, "1e-999999999999999999999": false,
		"0.30000000000000004": true, "3.14159265358979323846": false, "3.141592653589793": true, "12345678901234567890": false,
		"12345678901234567000": true, "10000000000000000000000000000000000000000": true, "0.000000000000000000000000000000000000001": true,
		"1.000000000000000000000000000000": true, "1.0000000000000000000000000000001": false,
	} {
		assert.Equal(t, want, exact([]byte(in)), "exact(%s)", in)
	}
}

func TestErrors(t *testing.T) {
	for in, want := range map[string]string{
		`[]`:                              `$ is an array: must be an object`,
		`"x"`:                             `$ is a string: must be an object`,
		`{"B":1}`:                         `$.B is a number: must be true or false`,
		`{"B":"true"}`:                    `$.B is a string: must be true or false`,
		`{"I8":128}`:                      `$.I8 is a number out of range: must be a whole number from -128 to 127`,
		`{"L":-129}`:                      `$.L is a number out of range: must be a whole number from -128 to 127`,
		`{"I8":-128,"U8":255}`:            ``,
		`{"I":1.5}`:                       `$.I is a number with a fraction: must be a whole number from -9223372036854775808 to 9223372036854775807`,
		`{"U":-1.0}`:                      `$.U is a number out of range: must be a whole number from 0 to 18446744073709551615`,
		`{"I":"1"}`:                       `$.I is a string: must be a whole number from -9223372036854775808 to 9223372036854775807`,
		`{"U":-1}`:                        `$.U is a number out of range: must be a whole number from 0 to 18446744073709551615`,
		`{"U8":256}`:                      `$.U8 is a number out of range: must be a whole number from 0 to 255`,
		`{"I":9223372036854775808}`:       `$.I is a number out of range: must be a whole number from -9223372036854775808 to 9223372036854775807`,
		`{"F32":1e39}`:                    `$.F32 is a number out of range: must fit a float of 32 bits`,
		`{"F":1e309}`:                     `$.F is a number out of range: must fit a float of 64 bits`,
		`{"F":{}}`:                        `$.F is an object: must be a number`,
		`{"S":true}`:                      `$.S is a boolean: must be a string`,
		`{"Bytes":"!"}`:                   `$.Bytes is a string: must be a string in base64`,
		`{"Bytes":"aGk="}`:                ``,
		`{"Bytes":[1,256]}`:               `$.Bytes[1] is a number out of range: must be a whole number from 0 to 255`,
		`{"Three":[1,2,3,4]}`:             `$.Three has more than 3 elements: must be an array of at most 3`,
		`{"Three":[1,2]}`:                 ``,
		`{"M":{"k":"v"}}`:                 `$.M[key 1] is a string: must be a whole number from -9223372036854775808 to 9223372036854775807`,
		`{"M":[]}`:                        `$.M is an array: must be an object`,
		`{"When":"2020-01-02T03:04:05Z"}`: ``,
		`{"S":"","When":"yesterday"}`:     `$.When is a string: must be a time like "2006-01-02T15:04:05Z"`,
		`{"Raw":{"a":[1,{}]}}`:            ``,
		`{"Num":"x"}`:                     `$.Num is a string: must be a number`,
		`{"Num":12e3}`:                    ``,
		`{"Ptr":"x"}`:                     `$.Ptr is a string: must be a whole number from -9223372036854775808 to 9223372036854775807`,
		`{"Q":7}`:                         `$.Q is a number: must be a string that holds the value`,
		`{"Q":"7"}`:                       ``,
		`{"S":"","Q":"x7"}`:               `$.Q is a string: must be one that holds a whole number from -9223372036854775808 to 9223372036854775807`,
		`{"Skip":1}`:                      `$ has an unknown key "Skip": allowed are "B", "I8", "L", "I", "U8", "U", "F32", "F", "S", "Bytes", "Three", "Any", "Anys", "M", "ByInt", "When", and 9 more`,
		`{"Items":[{"Name":"a"},{"Name":"b"},{},{"Name":5}]}`: `$.Items[3].Name is a number: must be a string`,
		`{"Self":{"Self":{"B":0}}}`:                           `$.Self.Self.B is a number: must be true or false`,
		`{"a b/c":"x"}`:                                       `$["a b/c"] is a string: must be a whole number from -9223372036854775808 to 9223372036854775807`,
		`{"Promoted":1,"Deepest":2,"S":"s","I":3}`:            ``,
		`{"Any":{"` + "\x7f" + `\n":[1,{"x":tru}]}}`:          `$.Any[key 1][1][key 1] has a letter at byte 22: must have a value there`,
	} {
		check(t, in, new(everything), want)
	}
}

func TestSyntax(t *testing.T) {
	for in, want := range map[string]string{
		`{`:                `$ ends at byte 1: must have a key there`,
		`{"a"`:             `$ ends at byte 4: must have a colon there`,
		`{"a":`:            `$[key 1] ends at byte 5: must have a value there`,
		`{"a":1`:           `$ ends at byte 6: must have a comma or the end of the object there`,
		`{"a":1,}`:         `$ has '}' at byte 7: must have a key there`,
		`{'a':1}`:          `$ has '\'' at byte 1: must have a key there`,
		`[1,]`:             `$[1] has ']' at byte 3: must have a value there`,
		`[1 2]`:            `$ has a digit at byte 3: must have a comma or the end of the array there`,
		`[1`:               `$ ends at byte 2: must have a comma or the end of the array there`,
		`{} {}`:            `$ has '{' at byte 3: must have its end there`,
		`{}x`:              `$ has a letter at byte 2: must have its end there`,
		"\x00":             `$ has a control character at byte 0: must have a value there`,
		"\xef\xbb\xbf{}":   `$ has a byte order mark at byte 0: must have a value there`,
		"\"\xff\"":         `$ is not valid UTF-8`,
		"\"a\nb\"":         `$ has a control character at byte 2: must have an escape sequence for a control character there`,
		`"abc`:             `$ ends at byte 4: must have the end of a string there`,
		`"\x"`:             `$ has a letter at byte 2: must have an escape sequence there`,
		`"\`:               `$ ends at byte 2: must have an escape sequence there`,
		`"\u12g4"`:         `$ has a letter at byte 2: must have an escape sequence with four hexadecimal digits there`,
		`"\u123`:           `$ has a letter at byte 2: must have an escape sequence with four hexadecimal digits there`,
		`"\ud800"`:         `$ has a surrogate without its partner at byte 1`,
		`"\ud800\u0041"`:   `$ has a surrogate without its partner at byte 1`,
		`"\ud800\n12345"`:  `$ has a surrogate without its partner at byte 1`,
		`"\udc00\ud800"`:   `$ has a surrogate without its partner at byte 1`,
		`"\ud83d\uDE00\/"`: ``,
		`01`:               `$ has a digit at byte 1: must have its end there`,
		`-`:                `$ ends at byte 1: must have a digit there`,
		`-a`:               `$ has a letter at byte 1: must have a digit there`,
		`1.`:               `$ ends at byte 2: must have a digit there`,
		`1.e1`:             `$ has a letter at byte 2: must have a digit there`,
		`1e+`:              `$ ends at byte 3: must have a digit there`,
		`+1`:               `$ has another character at byte 0: must have a value there`,
		`NaN`:              `$ has a letter at byte 0: must have a value there`,
		`nul`:              `$ has a letter at byte 0: must have a value there`,
		`falsé`:            `$ has a letter at byte 0: must have a value there`,
		" \t\r\n[ -0.5e-7 , true , false , null , \"\" ] \n": ``,
	} {
		got := ""
		if err := Check([]byte(in), Limits{}); err != nil {
			got = err.Error()
		}
		assert.Equal(t, want, got, "Check(%q)", in)
		if ok := json.Valid([]byte(in)); !ok && want == "" {
			t.Errorf("Check takes %q, which is no JSON", in)
		}
	}
}

func TestEmptyAndNull(t *testing.T) {
	for _, in := range []string{"", " \n", "{}", "null"} {
		s := search{}
		check(t, in, &s, "")
		assert.Equal(t, search{}, s, "%q gives more than the zero value", in)
		assert.NoError(t, Check([]byte(in), Limits{}), "Check(%q)", in)
	}
	check(t, "", new(*search), "")
	check(t, "", new(map[string]int), "")
	check(t, "", new(int64), "$ is an object: must be a whole number from -9223372036854775808 to 9223372036854775807")
	check(t, "null", new(int), "")
}

func TestLimits(t *testing.T) {
	deep := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	for _, c := range []struct {
		in   []byte
		l    Limits
		want string // the end of the error
	}{
		{deep(64), Limits{}, ""},
		{deep(65), Limits{}, " is nested too deep: at most 64 levels are allowed"},
		{deep(3), Limits{MaxDepth: 2}, "$[0][0] is nested too deep: at most 2 levels are allowed"},
		{deep(10_000), Limits{MaxDepth: 1 << 30}, ""},
		{deep(10_001), Limits{MaxDepth: 1 << 30}, " is nested too deep: at most 10000 levels are allowed"},
		{deep(2_000_000), Limits{}, " is nested too deep: at most 64 levels are allowed"},
		{[]byte(strings.Repeat(`{"a":`, 65)), Limits{}, " is nested too deep: at most 64 levels are allowed"},
		{make([]byte, 4<<20+1), Limits{}, "$ is 4194305 bytes: must be at most 4194304"},
		{[]byte("[1,2]"), Limits{MaxBytes: 4}, "$ is 5 bytes: must be at most 4"},
		{[]byte("[1,2]"), Limits{MaxBytes: 5}, ""},
	} {
		var v any
		for what, err := range map[string]error{"Check": Check(c.in, c.l), "Decode": Decode(c.in, &v, c.l)} {
			switch {
			case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.HasSuffix(err.Error(), c.want)):
				t.Errorf("%s(%.20s..., %+v): %v, want ...%s", what, c.in, c.l, err, c.want)
			case err != nil && len(err.Error()) > 400:
				t.Errorf("%s: the error has %d bytes", what, len(err.Error()))
			}
		}
	}
	key := strings.Repeat("k", 1000)
	err := Check([]byte(strings.Repeat(`{"`+key+`":`, 60)), Limits{})
	if e, ok := errors.AsType[*Error](err); !ok || len(e.Path) > maxPath {
		t.Errorf("a path of 60 long keys: %v", err)
	}
}

type (
	selfPointer *selfPointer
	ringA       *ringB
	ringB       *ringA
	selfSlice   []selfSlice
	selfMap     map[string]selfMap
	selfArray   [2]*selfArray
	EmbedsSelf  struct {
		*EmbedsSelf
		X int
	}
	hostileMethods struct{}
	panicky        struct{}
	exits          struct{}
	upper          string
	twiceA         struct{ Same, OnlyA int }
	twiceB         struct{ Same, OnlyB int }
)

func (*panicky) UnmarshalJSON([]byte) error         { panic("boom") }
func (*exits) UnmarshalText([]byte) error           { runtime.Goexit(); return nil }
func (hostileMethods) MarshalJSON() ([]byte, error) { panic("boom") }

type (
	textKey int
	picky   struct{}
	loop    struct {
		Next *loop
		A    any
	}
)

func (*textKey) UnmarshalText([]byte) error { return nil }
func (*picky) UnmarshalJSON(b []byte) error {
	if b[0] != '[' {
		return errors.New("no array")
	}
	return nil
}

func (u *upper) UnmarshalText(b []byte) error {
	if string(b) == "no" {
		return errors.New("no is not allowed")
	}
	*u = upper(strings.ToUpper(string(b)))
	return nil
}

func TestHostileTypes(t *testing.T) {
	check(t, `1`, new(selfPointer), "$ is a number: must be null, since *strictjson.selfPointer has no end")
	check(t, `null`, new(selfPointer), "")
	check(t, `1`, new(ringA), "$ is a number: must be null, since *strictjson.ringA has no end")
	check(t, `[[],[[]]]`, new(selfSlice), "")
	check(t, `[1]`, new(selfSlice), "$[0] is a number: must be an array")
	check(t, `{"a":{"b":{}}}`, new(selfMap), "")
	check(t, `[[null,[]]]`, new(selfArray), "")
	check(t, `{"X":1}`, new(EmbedsSelf), "")
	func() { // a panic passes through
		defer func() {
			if v := recover(); v != "boom" {
				t.Errorf("Decode panicked with %v, want boom", v)
			}
		}()
		check(t, `{"a":{}}`, new(map[string]panicky), "a panic")
	}()
	check(t, `["2020-01-02T03:04:05Z"]`, new([]struct{ time.Time }), "$[0] is a string: must be an object")
	check(t, `{"01":1,"1":2}`, new(map[textKey]int), "") // it says itself what it reads
	check(t, `{"L":[1],"W":"x"}`, new(struct {
		L picky
		W upper
		V time.Time
	}), "")
	check(t, `{"L":[1],"W":"no"}`, new(struct {
		L picky
		W upper
	}), "$.W is a string: must be one that strictjson.upper reads")
	around := &loop{}
	around.Next = around
	check(t, `{"A":9007199254740993}`, around, "")
	check(t, `{"C":null}`, new(struct{ C chan int }), "")
	check(t, `{"C":1}`, new(struct{ C chan int }), "$.C is a number: must be null, since chan int cannot be decoded")
	check(t, `[{},1]`, new([]chan int), "$[0] is an object: must be null, since chan int cannot be decoded")
	check(t, `{"a":1}`, new(map[float64]int), "$ is an object: must be one whose keys float64 reads")
	check(t, `{"a":{"x":1}}`, new(map[string]fmt.Stringer), "$[key 1] is an object: must be null, since fmt.Stringer cannot be decoded")
	check(t, `{"Same":1}`, new(struct {
		twiceA
		twiceB
	}), `$ has an unknown key "Same": allowed are "OnlyA", "OnlyB"`)
	check(t, `{"yes":["a","no"]}`, new(map[upper][]upper), "$[key 1][1] is a string: must be one that strictjson.upper reads")
	check(t, `{"no":[]}`, new(map[upper][]upper), "$ is an object: must be one whose keys strictjson.upper reads")
	check(t, `{"When":"x"}`, new(struct{ time.Time }), "$ is an object: must be what struct { time.Time } reads")
	check(t, `{}`, nil, "strictjson: the target is a <nil>: must be a pointer that is not nil")
	check(t, `{}`, search{}, "strictjson: the target is a strictjson.search: must be a pointer that is not nil")
	check(t, `{}`, (*search)(nil), "strictjson: the target is a *strictjson.search: must be a pointer that is not nil")

	done := make(chan bool)
	go func() { // Goexit passes through
		defer close(done)
		done <- Decode([]byte(`"x"`), new(exits), Limits{}) == nil
	}()
	if v, ok := <-done; ok {
		t.Errorf("Decode returned %v although a method called Goexit", v)
	}
}

// Every struct has the fields that encoding/json writes, no more and no fewer.
func TestFieldsAreThoseOfEncodingJSON(t *testing.T) {
	type inner struct{ A, B int }
	type Inner2 struct {
		B int
		C int `json:"c"`
	}
	type tagged struct {
		A int `json:"B"`
		B int
	}
	type Base struct{ X, Y int }
	type left struct{ Base }
	type right struct{ Base }
	type num int
	type Num int
	// Tags that vet and staticcheck would not let stand in the source.
	var odd []reflect.StructField
	for i, tag := range []string{"<&>", "ü", `\`, ",", " ", "-", "-,", "it's", "'a'", "a b/c", ",string", "x,", "e,omitempty,,", "dup", "dup", "F3"} {
		odd = append(odd, reflect.StructField{Name: fmt.Sprint("F", i), Type: reflect.TypeFor[bool](), Tag: reflect.StructTag("json:" + strconv.Quote(tag))})
	}
	filled := reflect.New(reflect.StructOf(odd)).Elem()
	for i := range odd {
		filled.Field(i).SetBool(true)
	}
	for _, v := range []any{
		filled.Interface(),
		struct{}{}, everything{Deep: &Deep{}, Num: "1"}, search{Limit: 1}, EmbedsSelf{}, tagged{},
		struct {
			inner
			Inner2
		}{},
		struct {
			inner
			B string
		}{},
		struct {
			inner `json:"in"`
			Inner2
		}{},
		struct {
			left
			right
			Z int
		}{},
		struct {
			left
			Base
		}{},
		struct {
			num
			Num
			A int `json:"Num2,omitempty,string"`
		}{A: 1},
		struct {
			*Inner2 `json:",omitempty"`
			D       int `json:"c"`
		}{Inner2: &Inner2{}},
		struct {
			A int `json:"x"`
			X int `json:"y"`
			Y int
		}{},
	} {
		data, err := json.Marshal(v)
		require.NoError(t, err)
		want := map[string]json.RawMessage{}
		require.NoError(t, json.Unmarshal(data, &want))
		got := map[string]bool{}
		for _, f := range jsonx.Fields(reflect.TypeOf(v)) {
			if got[f.Name] {
				t.Errorf("%T: field %q twice", v, f.Name)
			}
			got[f.Name] = true
			_, ok := want[f.Name]
			assert.True(t, ok, "%T: field %q, which encoding/json does not write: %s", v, f.Name, data)
		}
		if len(got) != len(want) {
			t.Errorf("%T: %d fields, encoding/json writes %d: %s", v, len(got), len(want), data)
		}
	}
}

func TestNoAllocationsToCheck(t *testing.T) {
	data := []byte(`{"query":"weather in Bern","limit":10,"params":["a","b","c"],"name":"x"}`)
	n := nodeOf(reflect.TypeFor[search]())
	got := testing.AllocsPerRun(200, func() {
		s := scanner{data: data, max: 64, unique: true}
		if !s.document(n) {
			t.Fatal(s.err)
		}
	})
	assert.Zero(t, got, "the check of a struct allocates %v times", got)
	generic := []byte(`{"a":{"b":1,"c":[1,2,{"d":null}]},"e":3.25,"f":"x"}`)
	got = testing.AllocsPerRun(200, func() {
		if err := Check(generic, Limits{}); err != nil {
			t.Fatal(err)
		}
	})
	assert.Zero(t, got, "Check allocates %v times", got)
}

var small = []byte(`{"query":"weather in Bern","limit":10,"params":["a","b"],"name":"x"}`)

func BenchmarkDecode(b *testing.B) {
	b.Run("strictjson", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var s search
			if err := Decode(small, &s, Limits{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding-json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var s search
			if err := json.Unmarshal(small, &s); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if err := Check(small, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}
