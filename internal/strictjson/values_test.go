package strictjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

const canary = "sk-CANARY"

var errCanary = errors.New("the key sk-CANARY is bad")

type (
	tattler     struct{}
	textTattler struct{ _ int }
	errTattler  struct{}
	tattleKey   string
	numTattler  struct{}
)

func (*tattler) UnmarshalJSON(b []byte) error     { return fmt.Errorf("%w: %s", errCanary, b) }
func (*textTattler) UnmarshalText(b []byte) error { return fmt.Errorf("bad %s", b) }
func (*tattleKey) UnmarshalText(b []byte) error   { return fmt.Errorf("bad %s", b) }
func (*errTattler) UnmarshalJSON(b []byte) error  { return &json.UnmarshalTypeError{Value: string(b)} }
func (*numTattler) UnmarshalJSON(b []byte) error {
	return &json.UnmarshalTypeError{Value: "number " + string(b), Field: string(b)}
}

// texts is every text that err and the errors behind it have.
func texts(err error) (out []string) {
	for err != nil {
		out = append(out, err.Error(), fmt.Sprintf("%v %+v %q", err, err, err))
		if j, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range j.Unwrap() {
				out = append(out, texts(e)...)
			}
		}
		err = errors.Unwrap(err)
	}
	return out
}

// No error shows a value, wherever it stands and whatever refuses it.
func TestErrorsShowNoValue(t *testing.T) {
	const (
		str    = `"sk-CANARY"`
		digits = "9182736455463728191" // of a secret that is a number
	)
	type at[T any] struct{ At T }
	type quoted struct {
		N int8    `json:",string"`
		F float32 `json:",string"`
		B bool    `json:",string"`
		S string  `json:",string"`
	}
	cases := []struct {
		new func() any
		in  []string
	}{
		{func() any { return new(at[time.Time]) }, []string{`{"At":"sk-CANARY"}`, `{"At":{"sk-CANARY":1}}`, `{"At":` + digits + `}`, `{"At":["sk-CANARY"]}`}},
		{func() any { return new(at[*time.Time]) }, []string{`{"At":"sk-CANARY"}`}},
		{func() any { return new(at[net.IP]) }, []string{`{"At":"sk-CANARY"}`}},
		{func() any { return new(at[netip.Addr]) }, []string{`{"At":"sk-CANARY"}`}},
		{func() any { return new(at[netip.Prefix]) }, []string{`{"At":"sk-CANARY/8"}`}},
		{func() any { return new(at[big.Int]) }, []string{`{"At":"sk-CANARY"}`, `{"At":` + digits + `.5}`}},
		{func() any { return new(at[*big.Float]) }, []string{`{"At":"sk-CANARY"}`}},
		{func() any { return new(at[big.Rat]) }, []string{`{"At":"sk-CANARY"}`}},
		{func() any { return new(at[url.URL]) }, []string{`{"At":"sk-CANARY"}`, `{"At":{"Host":1,"Path":"sk-CANARY"}}`}},
		{func() any { return new(at[json.Number]) }, []string{`{"At":"sk-CANARY"}`}},
		{func() any { return new(at[[]byte]) }, []string{`{"At":"sk-CANARY!"}`, `{"At":[` + digits + `]}`}},
		{func() any { return new(at[tattler]) }, []string{`{"At":"sk-CANARY"}`, `{"At":{"sk-CANARY":[1]}}`, `{"At":null}`}},
		{func() any { return new(at[textTattler]) }, []string{`{"At":"sk-CANARY"}`}},
		{func() any { return new(at[errTattler]) }, []string{`{"At":"sk-CANARY"}`}},
		{func() any { return new([]numTattler) }, []string{`[` + digits + `]`, `["sk-CANARY"]`}},
		{func() any { return new(map[tattleKey]int) }, []string{`{"sk-CANARY":1}`}},
		{func() any { return new(map[string]int) }, []string{`{"sk-CANARY":"x"}`, `{"a":"sk-CANARY"}`, `{"sk-CANARY":1,"sk-CANARY":2}`, `{"sk-CANARY":sk-CANARY}`, `{"sk-CANARY":1.5}`}},
		{func() any { return new(map[string]map[string]bool) }, []string{`{"sk-CANARY":{"sk-CANARY":1}}`, `{"a":{"sk-CANARY":true,"sk-CANARY":true}}`}},
		{func() any { return new(map[int]int) }, []string{`{"sk-CANARY":1}`, `{"` + digits + `0":1}`, `{"0` + digits + `":1}`, `{"` + digits + `":""}`}},
		{func() any { return new(map[uint8]int) }, []string{`{"` + digits + `":1}`, `{"-` + digits + `":1}`}},
		{func() any { return new(map[float64]int) }, []string{`{"` + digits + `":1}`}},
		{func() any { return new(int8) }, []string{digits, "-" + digits, digits + ".5", digits + "e400", "0." + digits, str}},
		{func() any { return new(uint64) }, []string{"-" + digits, digits + "0", "1e400", "-" + digits + ".0"}},
		{func() any { return new(float32) }, []string{digits + "e99", "1e400", str}},
		{func() any { return new(float64) }, []string{digits + "e400"}},
		{func() any { return new(bool) }, []string{digits, str}},
		{func() any { return new(quoted) }, []string{`{"N":"sk-CANARY"}`, `{"N":"` + digits + `"}`, `{"F":"sk-CANARY"}`, `{"B":"sk-CANARY"}`, `{"S":"sk-CANARY"}`, `{"N":` + digits + `}`}},
		{func() any { return new([2]string) }, []string{`["sk-CANARY","sk-CANARY","sk-CANARY"]`, `["sk-CANARY",` + digits + `]`}},
		{func() any { return new(fmt.Stringer) }, []string{`{"sk-CANARY":1}`, str, digits}},
		{func() any { return new(at[fmt.Stringer]) }, []string{`{"At":"sk-CANARY"}`}},
		{func() any { return new(chan int) }, []string{str, digits}},
		{func() any { return new(any) }, []string{`{"sk-CANARY":tru}`, `{"sk-CANARY":1,"sk-CANARY":2}`, `[{"sk-CANARY":{"sk-CANARY":sk-CANARY}}]`, `"sk-CANARY`, `{"sk-CANARY`, `{"sk-CANARY":"\ud800"}`, str + str, strings.Repeat(`{"sk-CANARY":`, 100)}},
		{func() any { return new(json.RawMessage) }, []string{`{"sk-CANARY":tru}`, `{"sk-CANARY":1,"sk-CANARY":2}`, "\"sk-CANARY\xff\""}},
		{func() any { return new(everything) }, []string{`{"M":{"sk-CANARY":{"a":1}}}`, `{"ByInt":{"sk-CANARY":"x"}}`, `{"Any":{"sk-CANARY":1,"b":{"x":1,"x":sk}}}`, `{"Items":[{"Name":"sk-CANARY"},{"Name":` + digits + `}]}`, `{"When":"sk-CANARY"}`}},
	}
	for _, c := range cases {
		for _, in := range c.in {
			v := c.new()
			err := Decode([]byte(in), v, Limits{})
			if err == nil {
				if n := in; strings.Contains(n, "null") || strings.Contains(n, `"Path"`) {
					continue // these methods take it
				}
				t.Errorf("%T takes %s: this shows nothing", v, in)
			}
			for _, text := range texts(err) {
				if strings.Contains(text, "CANARY") || strings.Contains(text, "sk-") || strings.Contains(text, digits[:6]) || strings.Contains(text, digits[12:]) || strings.Contains(text, "e400") {
					t.Errorf("%T of %s: the value is in %q", v, in, text)
				}
			}
			if e, ok := errors.AsType[*Error](err); err != nil && (!ok || !strings.HasPrefix(e.Path, "$") || e.Reason == "") {
				t.Errorf("%T of %s: %v has no place", v, in, err)
			}
		}
	}

	// The error of a method can still be asked for.
	err := Decode([]byte(`{"At":"x"}`), new(at[tattler]), Limits{})
	if want := "$.At is a string: must be what strictjson.tattler reads"; err.Error() != want || !errors.Is(err, errCanary) {
		t.Errorf("%v, want %s, and that it is the method's error", err, want)
	}
	_, ok := errors.AsType[*time.ParseError](Decode([]byte(`{"At":"x"}`), new(at[time.Time]), Limits{}))
	assert.True(t, ok, "a *time.ParseError cannot be found")
}

type (
	encodeTattler struct{ S string }
	encodePanics  struct{ S string }
	textFails     string
	keyFails      struct{ S string }
)

func (e encodeTattler) MarshalJSON() ([]byte, error) { return nil, errors.New(e.S) }
func (e encodePanics) MarshalJSON() ([]byte, error)  { panic(e.S) }
func (e textFails) MarshalText() ([]byte, error)     { return nil, errors.New(string(e)) }
func (e keyFails) MarshalText() ([]byte, error)      { return nil, errors.New(e.S) }

func TestEncodingErrorsShowNoValue(t *testing.T) {
	for _, v := range []any{
		encodeTattler{canary}, []any{1, encodePanics{canary}}, textFails(canary), map[keyFails]int{{canary}: 1},
		json.Number(canary), map[string]any{canary: math.Inf(1)}, map[string]any{canary: make(chan int)},
		struct{ R json.RawMessage }{json.RawMessage(canary)}, json.RawMessage(`{"sk-CANARY":sk-CANARY}`),
	} {
		_, err := Encode(v, 0)
		assert.Error(t, err, "%T was encoded: this shows nothing", v)
		for _, text := range texts(err) {
			assert.NotContains(t, text, "CANARY", "%T: the value is in", v)
		}
	}
}

// Every spelling of a whole number is an integer, exactly, and nothing else is.
func TestIntegersInAnySpelling(t *testing.T) {
	for in, want := range map[string]int64{
		"3.0": 3, "5e0": 5, "1.20e1": 12, "-3.000": -3, "1e3": 1000, "1E+3": 1000, "100e-2": 1, "-0.0": 0, "0e999999999999999999999": 0,
		"9007199254740993.0": 9007199254740993, "9.223372036854775807e18": math.MaxInt64, "-9223372036854775808.0": math.MinInt64,
		"922337203685477580700e-2": math.MaxInt64, "0.00000000000000000001e20": 1, "-0": 0,
	} {
		var got struct {
			A int64
			P *int64
			L []int64
			M map[string]int64
		}
		in := fmt.Sprintf(`{"A":%[1]s, "P": %[1]s ,"L":[1,%[1]s,%[1]s],"M":{"x":%[1]s}}`, in)
		if err := Decode([]byte(in), &got, Limits{}); err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		for _, n := range []int64{got.A, *got.P, got.L[1], got.L[2], got.M["x"]} {
			if n != want {
				t.Errorf("%s gives %+v, want %d", in, got, want)
				break
			}
		}
	}
	const fraction, out = "$ is a number with a fraction: must be ", "$ is a number out of range: must be "
	for in, want := range map[string]string{
		"3.5": fraction, "5e-1": fraction, "1e-400": fraction, "1e-999999999999999999999": fraction, "-0.1": fraction, "12.0000000000000000000000000000001": fraction,
		"128.0": out, "-1.29e2": out, "1e400": out, "1e999999999999999999999": out, "1e20": out, "10e9223372036854775807": out, "100e99999999999999999999": out, "100000000000000000000000000": out, "25.6e1": out,
	} {
		check(t, in, new(int8), want+"a whole number from -128 to 127")
	}
	check(t, "-0", new(uint8), "")
	check(t, "-0.00", new(uint8), "")
	check(t, "25.50e1", new(uint8), "")
	check(t, "-1.0", new(uint8), out+"a whole number from 0 to 255")

	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		in := fmt.Sprint(rnd.Int64() >> rnd.IntN(64))
		if rnd.IntN(2) == 0 {
			in += "." + strings.Repeat("0", rnd.IntN(3)) + fmt.Sprint(rnd.IntN(30)*10)
		}
		if rnd.IntN(2) == 0 {
			in += fmt.Sprintf("e%d", rnd.IntN(24)-4)
		}
		if rnd.IntN(2) == 0 {
			in = "-" + strings.TrimPrefix(in, "-")
		}
		exact, ok := new(big.Rat).SetString(in)
		if !ok {
			t.Fatal(in)
		}
		var got int64
		err := Decode([]byte(in), &got, Limits{})
		if want := exact.IsInt() && exact.Num().IsInt64(); want != (err == nil) || want && got != exact.Num().Int64() {
			t.Fatalf("%s is read as %d, %v; it is %s", in, got, err, exact.RatString())
		}
	}
}

func TestRequire(t *testing.T) {
	for _, c := range []struct{ in, names, want string }{
		{`{"a":1,"b":null}`, "a b", ""},
		{`{"b":{"a":1},"c":[],"\u0061":"x"}`, "a b", ""},
		{` {"b" : [ {} , {"a":1} ] , "a":2 } `, "a b", ""},
		{`{"x":{"a":1}}`, "a b", `$ lacks "a", "b": required`},
		{`{"b":{"a":1}}`, "a b", `$ lacks "a": required`},
		{`{"A":1,"b":2}`, "a b", `$ lacks "a": required`},
		{`{}`, "a", `$ lacks "a": required`},
		{` null `, "a", `$ lacks "a": required`},
		{``, "a", `$ lacks "a": required`},
		{" \n", "a", `$ lacks "a": required`},
		{`["a"]`, "a", `$ is an array: must be an object`},
		{`"a"`, "a", `$ is a string: must be an object`},
		{`{}`, "\"q\" é", `$ lacks "\"q\"", "\u00e9": required`},
	} {
		got := ""
		if err := Require([]byte(c.in), strings.Fields(c.names)); err != nil {
			got = err.Error()
		}
		assert.Equal(t, c.want, got, "Require(%s, %s)", c.in, c.names)
		l := Limits{Required: strings.Fields(c.names)}
		for name, into := range map[string]func(json.RawMessage, Limits) (any, error){
			"raw": Into[json.RawMessage], "any": Into[any], "map": Into[map[string]any], "interface": Into[fmt.Stringer],
		} {
			got := ""
			if name == "map" && (c.in[:min(1, len(c.in))] == "[" || c.in[:min(1, len(c.in))] == `"`) || name == "interface" && !Blank([]byte(c.in)) {
				continue // it is refused for what it is
			}
			if _, err := into(json.RawMessage(c.in), l); err != nil {
				got = err.Error()
			}
			assert.Equal(t, c.want, got, "Into %s of %s, which must have %s", name, c.in, c.names)
		}
	}
	_, err := Into[json.RawMessage](json.RawMessage(`{"a":1,"a":2}`), Limits{Required: []string{"a", "b"}})
	assert.EqualError(t, err, "$ has one key twice, as key 1 and as key 2", "a key that is there twice is no other")
	many := strings.Split(strings.Repeat("k,", 40)+"k", ",")
	for i := range many {
		many[i] = fmt.Sprintf("k%02d", i)
	}
	if err := Require(nil, many); err == nil || !strings.HasSuffix(err.Error(), `"k15", and 25 more: required`) {
		t.Errorf("%v", err)
	}
}
