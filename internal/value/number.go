package value

import (
	"math"
	"reflect"

	"github.com/sluice-go/sluice/internal/kv"
)

// numOf tells how the store keeps the values of T, and whether T is predeclared.
func numOf[T any]() (n kv.Num, std bool) {
	switch any((*T)(nil)).(type) {
	case *int:
		return kv.Int, true
	case *int64:
		return kv.Int64, true
	case *uint64:
		return kv.Uint64, true
	case *float64:
		return kv.Float64, true
	case *string, *[]byte, *bool:
		return kv.NotNum, false
	}
	switch reflect.TypeFor[T]().Kind() {
	case reflect.Int:
		return kv.Int, false
	case reflect.Int64:
		return kv.Int64, false
	case reflect.Uint64:
		return kv.Uint64, false
	case reflect.Float64:
		return kv.Float64, false
	}
	return kv.NotNum, false
}

// toBits is what the store keeps of a number of a kind that numOf tells.
func toBits[T any](v T) uint64 {
	switch p := any(&v).(type) {
	case *int:
		return uint64(*p)
	case *int64:
		return uint64(*p)
	case *uint64:
		return *p
	case *float64:
		return math.Float64bits(*p)
	}
	return toBitsNamed(v)
}

// toBitsNamed is toBits for defined types, apart so that toBits need not allocate.
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

// fromBitsNamed is FromBits for defined types.
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
