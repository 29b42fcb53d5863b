package sluice

import (
	"encoding/json"
	"math"
	"reflect"
	"slices"

	"github.com/sluice-go/sluice/internal/errwalk"
	"github.com/sluice-go/sluice/internal/kv"
)

// datum is what the store holds of a value.
type datum interface {
	kv.Datum
	load(bits uint64) any // the value as its owner may have it
	typeName() string
}

// cell holds a value of type T. A nil cell stands for the numbers of type T, which are
// kept in the store's own bits.
type cell[T any] struct {
	kv.Box
	v      T
	clones bool // T has a method Clone() T
}

// cloner is a type that copies itself.
type cloner[T any] interface{ Clone() T }

// Fits reports whether a T may replace old.
func (*cell[T]) Fits(old kv.Datum) bool {
	switch old.(type) {
	case *cell[T], *restored:
		return true
	}
	return false
}

func (c *cell[T]) load(bits uint64) any {
	if c == nil {
		return fromBits[T](bits)
	}
	return c.value()
}

func (*cell[T]) typeName() string { return reflect.TypeFor[T]().String() }

func (c *cell[T]) value() T {
	if c.clones {
		return any(c.v).(cloner[T]).Clone()
	}
	return c.v
}

// restored is a value from a snapshot. The first write through a Key gives it a type;
// until then each read decodes it.
type restored struct {
	kv.Box
	data json.RawMessage
}

// Fits is never asked: only a snapshot writes restored values, and it asks nothing.
func (*restored) Fits(kv.Datum) bool { return true }

func (r *restored) load(uint64) any { return slices.Clone(r.data) }

func (*restored) typeName() string { return "restored JSON" }

// boxBytes is what a value needs beside itself.
const boxBytes = 48

// encode makes what the store holds of v. It may call a method Clone of v.
func encode[T any](s *kv.Store, v T) kv.Value {
	if n, std := numOf[T](); std {
		return kv.Value{Box: s.StdBox(n), Bits: toBits(v)}
	} else if n != kv.NotNum {
		return kv.Value{Box: s.NumBox((*cell[T])(nil), n), Bits: toBits(v)}
	}
	c := &cell[T]{v: v}
	if !isPlain[T]() {
		if cl, ok := any(v).(cloner[T]); ok {
			c.v, c.clones = cl.Clone(), true
		}
	}
	c.Box = kv.Box{Datum: c, Size: boxBytes + sizeOf(&c.v)}
	return kv.Value{Box: &c.Box}
}

// decode returns what v holds as a T. It may call a method Clone of the value, or one
// that decodes JSON.
func decode[T any](key string, v kv.Value) (out T, err error) {
	switch d := v.Box.Datum.(type) {
	case *cell[T]:
		if d == nil {
			return fromBits[T](v.Bits), nil
		}
		return d.value(), nil
	case *restored:
		return decodeJSON[T](key, d)
	}
	holds := v.Box.Datum.(datum).typeName()
	return out, &stateError{key: key, reason: ErrWrongType, detail: "it holds " + holds + ", not " + reflect.TypeFor[T]().String()}
}

// decodeJSON is decode for restored values, apart so that decode need not allocate.
func decodeJSON[T any](key string, r *restored) (out T, err error) {
	if err := r.decode(&out); err != nil {
		var zero T
		return zero, &stateError{key: key, reason: ErrWrongType, detail: errwalk.Text(err)}
	}
	return out, nil
}

// decode is json.Unmarshal, except that null fits only what can be nil or decodes itself.
func (r *restored) decode(p any) error {
	if string(r.data) == "null" {
		switch t := reflect.TypeOf(p).Elem(); t.Kind() {
		case reflect.Pointer, reflect.Interface, reflect.Map, reflect.Slice:
		default:
			if _, ok := p.(json.Unmarshaler); !ok {
				return &json.UnmarshalTypeError{Value: "null", Type: t}
			}
		}
	}
	return json.Unmarshal(r.data, p)
}

// isPlain reports whether T is a type without methods that is common.
func isPlain[T any]() bool {
	switch any((*T)(nil)).(type) {
	case *string, *[]byte, *bool, *[]string, *map[string]any, *map[string]string:
		return true
	}
	return false
}

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

func newStore(c SharedStateConfig) (*kv.Store, *kv.Scope) {
	return kv.New(c.MaxKeys, c.MaxBytes, kv.Std{
		kv.Int:     {Datum: (*cell[int])(nil), Num: kv.Int},
		kv.Int64:   {Datum: (*cell[int64])(nil), Num: kv.Int64},
		kv.Uint64:  {Datum: (*cell[uint64])(nil), Num: kv.Uint64},
		kv.Float64: {Datum: (*cell[float64])(nil), Num: kv.Float64},
	})
}

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
