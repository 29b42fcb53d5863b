package value

import (
	"math"
	"reflect"

	"github.com/sluice-go/sluice/internal/kv"
)

// Number is what the store can add to.
type Number interface {
	~int | ~int64 | ~uint64 | ~float64
}

// ToNumber is the number that the store keeps as bits.
func ToNumber[T Number](bits uint64) T {
	if T(1)/2 != 0 { // a floating point number
		return T(math.Float64frombits(bits))
	}
	return T(bits)
}

// ToBits is what the store s holds of a number.
func ToBits[T Number](s *kv.Store, v T) kv.Value {
	if x, ok := any(v).(int64); ok { // most are
		return kv.Value{Box: s.Std[kv.Int64], Bits: uint64(x)}
	}
	n, _ := number(s, &v)
	return n
}

// number is what the store s holds of *p, if that is a number.
func number[T any](s *kv.Store, p *T) (v kv.Value, ok bool) {
	var n kv.Num
	switch p := any(p).(type) {
	case *int:
		n, v.Bits = kv.Int, uint64(*p)
	case *int64:
		n, v.Bits = kv.Int64, uint64(*p)
	case *uint64:
		n, v.Bits = kv.Uint64, *p
	case *float64:
		n, v.Bits = kv.Float64, math.Float64bits(*p)
	case *string, *[]byte, *bool:
		return v, false
	default:
		return named[T](s, p)
	}
	v.Box = s.Std[n]
	return v, true
}

// named is number for a defined type.
func named[T any](s *kv.Store, p any) (v kv.Value, ok bool) {
	var n kv.Num
	switch reflect.TypeFor[T]().Kind() {
	case reflect.Int:
		n = kv.Int
	case reflect.Int64:
		n = kv.Int64
	case reflect.Uint64:
		n = kv.Uint64
	case reflect.Float64:
		n = kv.Float64
	default:
		return v, false
	}
	return kv.Value{Box: s.NumBox((*cell[T])(nil), n), Bits: toBitsNamed(*p.(*T))}, true
}

// toBitsNamed is what the store keeps of a number of a defined type. It is apart so that number need
// not allocate.
func toBitsNamed[T any](v T) uint64 {
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Uint64:
		return r.Uint()
	case reflect.Float64:
		return math.Float64bits(r.Float())
	default:
		return uint64(r.Int())
	}
}

// fromBitsNamed is the number of a defined type that the store keeps as bits.
func fromBitsNamed[T any](bits uint64) (v T) {
	switch r := reflect.ValueOf(&v).Elem(); r.Kind() {
	case reflect.Uint64:
		r.SetUint(bits)
	case reflect.Float64:
		r.SetFloat(math.Float64frombits(bits))
	default:
		r.SetInt(int64(bits))
	}
	return v
}
