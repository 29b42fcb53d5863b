package kv

import (
	"math"
	"math/big"
	"testing"
)

func TestNumAdd(t *testing.T) {
	f := math.Float64bits
	i := func(n int64) uint64 { return uint64(n) }
	for _, c := range []struct {
		kind    Num
		a, d, s uint64
		ok      bool
	}{
		{Int64, i(1), i(2), i(3), true},
		{Int64, i(1), i(-2), i(-1), true},
		{Int64, i(math.MaxInt64), i(0), i(math.MaxInt64), true},
		{Int64, i(math.MaxInt64), i(1), 0, false},
		{Int64, i(math.MinInt64), i(-1), 0, false},
		{Int64, i(math.MinInt64), i(math.MinInt64), 0, false},
		{Int64, i(math.MinInt64), i(math.MaxInt64), i(-1), true},
		{Int, i(math.MaxInt), i(1), 0, false},
		{Int, i(-1), i(1), 0, true},
		{Uint64, math.MaxUint64, 1, 0, false},
		{Uint64, math.MaxUint64 - 1, 1, math.MaxUint64, true},
		{Float64, f(0.5), f(0.25), f(0.75), true},
		{Float64, f(math.MaxFloat64), f(math.MaxFloat64), 0, false},
		{Float64, f(math.Inf(1)), f(math.Inf(-1)), 0, false},
		{Float64, f(1), f(math.NaN()), 0, false},
		{NotNum, 1, 1, 0, false},
	} {
		s, code := c.kind.Add(c.a, c.d)
		ok := code == OK
		if ok != c.ok || ok && s != c.s {
			t.Errorf("kind %d: %#x + %#x = %#x, %v; want %#x, %v", c.kind, c.a, c.d, s, ok, c.s, c.ok)
		}
	}
}

func FuzzNumAdd(f *testing.F) {
	f.Add(int64(math.MaxInt64), int64(1))
	f.Add(int64(math.MinInt64), int64(-1))
	f.Add(int64(-1), int64(2))
	f.Fuzz(func(t *testing.T, a, d int64) {
		exact := new(big.Int).Add(big.NewInt(a), big.NewInt(d))
		if s, c := Int64.Add(uint64(a), uint64(d)); (c == OK) != exact.IsInt64() || c == OK && int64(s) != exact.Int64() {
			t.Errorf("%d + %d = %d, %v; want %v", a, d, int64(s), c, exact)
		}
		exact.Add(new(big.Int).SetUint64(uint64(a)), new(big.Int).SetUint64(uint64(d)))
		if s, c := Uint64.Add(uint64(a), uint64(d)); (c == OK) != exact.IsUint64() || c == OK && s != exact.Uint64() {
			t.Errorf("%d + %d = %d, %v; want %v", uint64(a), uint64(d), s, c, exact)
		}
	})
}
