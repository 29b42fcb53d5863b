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

// fromBits is the number that the store keeps as bits.
func fromBits[T any](bits uint64) (v T) {
	switch p := any(&v).(type) {
	case *int:
		*p = int(int64(bits))
	case *int64:
		*p = int64(bits)
	case *uint64:
		*p = bits
	case *float64:
		*p = math.Float64frombits(bits)
	default:
		return fromBitsNamed[T](bits)
	}
	return v
}

// fromBitsNamed is fromBits for defined types.
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
