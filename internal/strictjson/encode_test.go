package strictjson

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type (
	listNode struct {
		Next *listNode
		V    int
	}
	twin    struct{ A, B *twin }
	dates   struct{ At time.Time }
	marshal struct{ Self *marshal }
	byText  struct{ Self any }
	bomb    map[string]any
	tinyInt uint8
	octet   uint8
)

func (m *marshal) MarshalJSON() ([]byte, error) { return []byte(`"m"`), nil }
func (byText) MarshalText() ([]byte, error)     { return []byte("text"), nil }
func (octet) MarshalText() ([]byte, error)      { return []byte("o"), nil }

type byMap struct{ M map[string]byMap }

func (*byMap) MarshalJSON() ([]byte, error) { return []byte("0"), nil }

func deepByMap(n int) (v byMap) {
	for range n {
		v = byMap{map[string]byMap{"": v}}
	}
	return v
}

func chain(n int) *listNode {
	var l *listNode
	for range n {
		l = &listNode{Next: l}
	}
	return l
}

func TestEncode(t *testing.T) {
	cyclic := &listNode{}
	cyclic.Next = cyclic
	selfMap := bomb{}
	selfMap["x"] = selfMap
	selfSlice := []any{nil}
	selfSlice[0] = selfSlice
	var ptr selfPointer
	ptr = &ptr
	var boxed any
	boxed = &boxed
	shared := &twin{}
	for range 60 { // 2^60 visits if every path were followed
		shared = &twin{shared, shared}
	}
	own := &marshal{}
	own.Self = own
	const deep = "$ is nested too deep or refers to itself: at most 64 levels are allowed"
	for _, c := range []struct {
		name string
		v    any
		max  int
		want string // JSON or the error
	}{
		{"nil", nil, 0, `null`},
		{"nothing escaped that need not be", map[string]any{"a": "<b>&"}, 0, `{"a":"<b>&"}`},
		{"a struct", search{Query: "x"}, 0, `{"query":"x","params":null,"name":null}`},
		{"time", dates{time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)}, 0, `{"At":"2020-01-02T03:04:05Z"}`},
		{"64 levels", chain(63), 0, strings.Repeat(`{"Next":`, 63) + "null" + strings.Repeat(`,"V":0}`, 63)},
		{"65 levels", chain(65), 0, deep},
		{"a million levels", chain(1_000_000), 0, deep},
		{"cycle of pointers", cyclic, 0, deep},
		{"cycle of maps", selfMap, 0, deep},
		{"cycle of slices", selfSlice, 0, deep},
		{"pointer to itself", ptr, 0, deep},
		{"interface that holds itself", boxed, 0, deep},
		{"parts held many times", shared, 0, "$ takes more than 4194304 bytes: must not"},
		{"parts that encode themselves", []any{own, byText{selfMap}, &byText{own}}, 0, `["m","text","text"]`},
		{"pointer method of what has no address", map[string]marshal{"a": {}}, 0, `{"a":{"Self":null}}`},
		{"deep through pointer methods of what has no address", deepByMap(70), 0, deep},
		{"three bytes", []byte("abc"), 6, `"YWJj"`},
		{"a json.Number", json.Number("12"), 2, `12`},
		{"nil pointers", []*marshal{nil}, 0, `[null]`},
		{"panic", hostileMethods{}, 0, "$ holds what panicked when it was to encode itself"},
		{"no JSON", math.NaN(), 0, "$ holds a number that JSON does not have: NaN or an infinity"},
		{"channel", make(chan int), 0, "$ holds a chan int: JSON has none"},
		{"just fits", []int{1, 2, 3}, 7, `[1,2,3]`},
		{"too long", []int{10, 2, 3}, 7, "$ is 8 bytes: must be at most 7"},
		{"surely too long", make([]int, 1000), 999, "$ takes more than 999 bytes: must not"},
		{"a long string", strings.Repeat("x", 1000), 999, "$ takes more than 999 bytes: must not"},
		{"long keys", map[string]int{strings.Repeat("x", 1000): 1}, 999, "$ takes more than 999 bytes: must not"},
		{"many keys", map[int]bool{1: true, 2: true, 3: true}, 10, "$ takes more than 10 bytes: must not"},
		{"names", struct{ A, B int }{}, 12, "$ takes more than 12 bytes: must not"},
		{"names that fit", struct{ A, B int }{}, 13, `{"A":0,"B":0}`},
		{"bytes", []byte("hello"), 10, `"aGVsbG8="`},
		{"many bytes", make([]byte, 900), 1199, "$ takes more than 1199 bytes: must not"},
		{"named bytes", []tinyInt{1, 2}, 0, `"AQI="`},
		{"bytes that encode themselves", []octet{1, 2}, 0, `["o","o"]`},
		{"left out", struct {
			A [100]int `json:",omitzero"`
			B []int    `json:",omitempty"`
			C string   `json:"-"`
		}{C: strings.Repeat("x", 1000)}, 2, `{}`},
		{"a large array", [100]int{1}, 200, "$ takes more than 200 bytes: must not"},
		{"empty", struct {
			A []int
			M map[string]int
		}{A: []int{}, M: map[string]int{}}, 15, `{"A":[],"M":{}}`},
		{"raw", json.RawMessage(`{"a": 1, "a": [2]}`), 0, `{"a": 1, "a": [2]}`},
		{"raw nil", json.RawMessage(nil), 0, `null`},
		{"raw, empty", json.RawMessage{}, 0, `$ ends at byte 0: must have a value there`},
		{"raw, no JSON", json.RawMessage(`{"a":`), 0, `$[key 1] ends at byte 5: must have a value there`},
		{"raw, no UTF-8", json.RawMessage("\"\xff\""), 0, `$ is not valid UTF-8`},
		{"raw, too long", json.RawMessage(`[1,2]`), 4, `$ is 5 bytes: must be at most 4`},
		{"raw, too deep", json.RawMessage(strings.Repeat("[", 65) + strings.Repeat("]", 65)), 0,
			"$" + strings.Repeat("[0]", 64) + " is nested too deep: at most 64 levels are allowed"},
		{"embedded nil pointer", struct {
			*Deep
			A int
		}{}, 7, `{"A":0}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := Encode(c.v, c.max)
			got := string(out)
			if err != nil {
				got = err.Error()
			}
			assert.Equal(t, c.want, got)
		})
	}
}

func TestEncodeCopiesRaw(t *testing.T) {
	raw := json.RawMessage(`[1]`)
	out, err := Encode(raw, 0)
	require.NoError(t, err)
	raw[1] = '2'
	assert.Equal(t, "[1]", string(out), "the result changed to %s with the tool's own copy", out)
}

// What Encode lets through, Decode lets through: both count levels alike.
func TestDepthIsTheSameBothWays(t *testing.T) {
	for depth := 60; depth < 70; depth++ {
		for name, inner := range map[string]any{"array": []any{}, "object": map[string]any{}, "struct": struct{}{}, "nothing": nil, "bytes": []byte{}} {
			v, levels := inner, depth
			for range depth {
				v = []any{v}
			}
			if name != "nothing" && name != "bytes" {
				levels++
			}
			out, err := Encode(v, 0)
			assert.Equal(t, levels <= 64, err == nil, "%s in %d arrays: %v", name, depth, err)
			if err == nil && Check(out, Limits{}) != nil {
				t.Errorf("%s in %d arrays: encoded, but not decoded", name, depth)
			}
		}
	}
}

func TestCheckValueIsBounded(t *testing.T) {
	shared := any("x")
	for range 50 {
		shared = [3]any{shared, shared, shared}
	}
	for _, v := range []any{shared, []any{shared, fmt.Sprint(1)}} {
		assert.Error(t, CheckValue(v, Limits{MaxBytes: 1000}), "3^50 strings pass for 1000 bytes")
	}
}

func BenchmarkEncode(b *testing.B) {
	v := map[string]any{"a": []any{1.5, "x", true}, "b": search{Query: "q"}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Encode(v, 0); err != nil {
			b.Fatal(err)
		}
	}
}
