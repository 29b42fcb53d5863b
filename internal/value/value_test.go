package value

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/sluice-go/sluice/internal/kv"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func newTest(t *testing.T) kv.View {
	v := New(100, 1<<20)
	t.Cleanup(v.Close)
	return v
}

type (
	count  int64
	total  uint64
	weight float64
	places int
)

// A number is kept in the store's bits, all of them, and one box stands for all of a type.
func TestNumbersKeepTheirBitsAndType(t *testing.T) {
	s := newTest(t).Store
	boxes := map[*kv.Box]bool{}
	numbers(t, s, boxes, kv.Int, math.MinInt, -1, 0, math.MaxInt)
	numbers(t, s, boxes, kv.Int64, int64(math.MinInt64), -1, math.MaxInt64, 1<<53+1)
	numbers(t, s, boxes, kv.Uint64, uint64(0), math.MaxUint64)
	numbers(t, s, boxes, kv.Float64, 0.1, math.Inf(-1), math.SmallestNonzeroFloat64)
	numbers(t, s, boxes, kv.Int, places(math.MinInt), -1)
	numbers(t, s, boxes, kv.Int64, count(math.MinInt64), 1<<53+1)
	numbers(t, s, boxes, kv.Uint64, total(math.MaxUint64))
	numbers(t, s, boxes, kv.Float64, weight(0.1), weight(math.Inf(1)))
	assert.Len(t, boxes, 8, "boxes for 8 types")
}

func numbers[T comparable](t *testing.T, s *kv.Store, boxes map[*kv.Box]bool, kind kv.Num, list ...T) {
	t.Helper()
	for _, n := range list {
		v := Encode(s, n)
		boxes[v.Box] = true
		if got, err := Decode[T](v); got != n || err != nil || Load(v) != any(n) {
			t.Errorf("%T %v comes back as %v, %v, and as %v", n, n, got, err, Load(v))
		}
		if v.Box.Num != kind || v.Box.Size != 0 || v.Box != Encode(s, n).Box {
			t.Errorf("%T is kept as a number of kind %d in %d bytes, want %d in none", n, v.Box.Num, v.Box.Size, kind)
		}
	}
}

func TestValuesOfOtherTypesAreToldApart(t *testing.T) {
	s := newTest(t).Store
	for _, c := range []struct {
		v    kv.Value
		want string // of its reading as a string
	}{
		{Encode(s, 1), "it holds int, not string"},
		{Encode(s, count(1)), "it holds value.count, not string"},
		{Encode(s, []byte("x")), "it holds []uint8, not string"},
		{Encode(s, "x"), ""},
		{restore(json.RawMessage(`"x"`)), ""},
		{restore(json.RawMessage(`1`)), "cannot unmarshal number"},
		{restore(json.RawMessage(`null`)), "cannot unmarshal null"},
	} {
		got, err := Decode[string](c.v)
		switch {
		case c.want == "" && (got != "x" || err != nil):
			t.Errorf("%v: got %q, %v", Load(c.v), got, err)
		case c.want != "" && (got != "" || err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%v: got %q, %v; want %s", Load(c.v), got, err, c.want)
		}
	}
	text, number := Encode(s, "x").Box.Datum, Encode(s, 1).Box.Datum
	another, untyped := Encode(s, "y").Box.Datum, restore(nil).Box.Datum
	if text.Fits(number) || number.Fits(text) || !text.Fits(another) || !text.Fits(untyped) {
		t.Error("a value may replace those of its type, and what has none yet; no others")
	}
}

// What a snapshot brought has no type until it is written, and is decoded by each read.
func TestRestoredValuesGetATypeByAWrite(t *testing.T) {
	v := newTest(t)
	data := []byte(`{"keys":{"k":{"value":9007199254740993,"version":3}}}`)
	require.NoError(t, Restore(&v, data))
	stored, version, _ := v.Get("k")
	if !isRestored(stored) || version != 3 {
		t.Errorf("got %v, version %d: want a restored value of version 3", Load(stored), version)
	}
	if raw, ok := Load(stored).(json.RawMessage); !ok || string(raw) != "9007199254740993" {
		t.Errorf("it is loaded as %v", Load(stored))
	}
	n, err := Decode[int64](stored)
	_, c := v.Put("k", kv.Cond{Must: true, Was: 3}, Encode(v.Store, n), kv.Keep)
	assert.Equal(t, int64(1<<53+1), n)
	require.NoError(t, err)
	require.NoError(t, c)
	if stored, _, _ = v.Get("k"); isRestored(stored) || Load(stored) != n {
		t.Errorf("after a write it is %v", Load(stored))
	}
	if Load(kv.Value{}) != nil {
		t.Error("what is not there has a value")
	}
}
