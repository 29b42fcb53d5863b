package kv

import (
	"math"
	"math/bits"
	"strconv"
)

// Num says how the 64 bits of a number are read. Numbers are stored in the entry
// itself, so that adding to one allocates nothing.
type Num uint8

// The kinds of number. NotNum marks values that are no numbers.
const (
	NotNum Num = iota
	Int        // int, of the platform's width, sign-extended
	Int64
	Uint64
	Float64
)

// Add returns a + d, and false if the kind cannot hold the sum or, for floating
// point, if it is no finite number.
func (n Num) Add(a, d uint64) (uint64, bool) {
	switch n {
	case Int, Int64:
		x, y := int64(a), int64(d)
		sum := x + y
		if y >= 0 != (sum >= x) {
			return 0, false
		}
		if n == Int && strconv.IntSize == 32 && int64(int32(sum)) != sum {
			return 0, false
		}
		return uint64(sum), true
	case Uint64:
		sum, carry := bits.Add64(a, d, 0)
		return sum, carry == 0
	case Float64:
		sum := math.Float64frombits(a) + math.Float64frombits(d)
		return math.Float64bits(sum), !math.IsNaN(sum) && !math.IsInf(sum, 0)
	}
	return 0, false
}
