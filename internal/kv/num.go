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

// plus is the sum of a number, whose box should be so, and delta.
func (v Value) plus(box *Box, delta uint64) (uint64, Code) {
	if box != v.Box {
		return 0, WrongType
	}
	return v.Box.Num.Add(v.Bits, delta)
}

// Add returns a + d, or Overflow if the kind cannot hold the sum or, for floating point, if
// it is no finite number.
func (n Num) Add(a, d uint64) (uint64, Code) {
	switch n {
	case Int, Int64:
		x, y := int64(a), int64(d)
		sum := x + y
		if y >= 0 != (sum >= x) || n == Int && strconv.IntSize == 32 && int64(int32(sum)) != sum {
			return 0, Overflow
		}
		return uint64(sum), OK
	case Uint64:
		if sum, carry := bits.Add64(a, d, 0); carry == 0 {
			return sum, OK
		}
	case Float64:
		sum := math.Float64frombits(a) + math.Float64frombits(d)
		if !math.IsNaN(sum) && !math.IsInf(sum, 0) {
			return math.Float64bits(sum), OK
		}
	}
	return 0, Overflow
}
