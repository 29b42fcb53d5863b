// Package value puts Go values into a kv store and takes them out again: it keeps their type
// (value.go), or writes them for elsewhere (far.go), numbers in the store's own bits (number.go), estimates their size (size.go), works on
// one key (key.go), and writes and reads snapshots (snapshot.go). It holds no state and no lock, and runs methods of
// values (Clone, those of JSON) outside those of the store.
package value

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"slices"
	"time"

	"github.com/sluice-go/sluice/internal/errwalk"
	"github.com/sluice-go/sluice/internal/kv"
)

// datum is what the store holds of a value.
type datum interface {
	kv.Datum
	load(v kv.Value) any // the value as its owner may have it
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

// boxBytes is what a value needs beside itself.
const boxBytes = 48

// New returns the view of an empty store.
func New(maxKeys, maxBytes int) kv.View {
	store, root := kv.New(maxKeys, maxBytes, std())
	return kv.View{Store: store, Scope: root}
}

// std are the boxes of a store.
func std() kv.Std {
	return kv.Std{
		kv.Int:     {Datum: (*cell[int])(nil), Num: kv.Int},
		kv.Int64:   {Datum: (*cell[int64])(nil), Num: kv.Int64},
		kv.Uint64:  {Datum: (*cell[uint64])(nil), Num: kv.Uint64},
		kv.Float64: {Datum: (*cell[float64])(nil), Num: kv.Float64},
	}
}

// Encode makes what the store s holds of v. It may call a method Clone of v.
func Encode[T any](s *kv.Store, v T) kv.Value {
	if n, ok := number(s, &v); ok {
		return n
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

// Mismatch says why a value of the store is no value of the type that is asked for.
type Mismatch struct{ why string }

func (e *Mismatch) Error() string { return e.why }

// Decode returns what v holds as a T, or the zero T and a *Mismatch. It may call a method Clone of
// the value, or one that decodes JSON.
func Decode[T any](v kv.Value) (out T, err error) {
	switch d := v.Box.Datum.(type) {
	case *cell[T]:
		if d != nil {
			return d.value(), nil
		}
		switch p := any(&out).(type) { // a number
		case *int:
			*p = int(int64(v.Bits))
		case *int64:
			*p = int64(v.Bits)
		case *uint64:
			*p = v.Bits
		case *float64:
			*p = math.Float64frombits(v.Bits)
		default:
			out = fromBitsNamed[T](v.Bits)
		}
		return out, nil
	case *restored:
		return decodeJSON[T](d)
	}
	holds := v.Box.Datum.(datum).typeName()
	return out, &Mismatch{"it holds " + holds + ", not " + reflect.TypeFor[T]().String()}
}

// Load returns what v holds, json.RawMessage if it was restored, and nil if v is of no key.
func Load(v kv.Value) any {
	if v.Box == nil {
		return nil
	}
	return v.Box.Datum.(datum).load(v)
}

// Fits reports whether a T may replace old.
func (*cell[T]) Fits(old kv.Datum) bool {
	switch old.(type) {
	case *cell[T], *restored:
		return true
	}
	return false
}

func (*cell[T]) load(v kv.Value) any {
	out, _ := Decode[T](v)
	return out
}

func (*cell[T]) typeName() string { return reflect.TypeFor[T]().String() }

func (c *cell[T]) value() T {
	if c.clones {
		return any(c.v).(cloner[T]).Clone()
	}
	return c.v
}

// isPlain reports whether T is a type without methods that is common.
func isPlain[T any]() bool {
	switch any((*T)(nil)).(type) {
	case *string, *[]byte, *bool, *[]string, *map[string]any, *map[string]string:
		return true
	}
	return false
}

// restored is a value from a snapshot, or from a [kv.Far]. The first write gives it a type; until then
// each read decodes it.
type restored struct {
	kv.Box
	data json.RawMessage

	// Of a Far.
	codec *Codec
	left  time.Duration // to live, zero for ever,
	at    time.Time     // then
}

func restore(data json.RawMessage) kv.Value {
	r := &restored{data: data}
	r.Box = kv.Box{Datum: r, Size: int64(boxBytes + cap(data))}
	return kv.Value{Box: &r.Box}
}

func isRestored(v kv.Value) bool {
	_, raw := v.Box.Datum.(*restored)
	return raw
}

// Fits is never asked: only a snapshot writes restored values, and it asks nothing.
func (*restored) Fits(kv.Datum) bool { return true }

func (r *restored) load(kv.Value) any {
	if !r.coded() {
		return slices.Clone(r.data)
	}
	var raw json.RawMessage
	if r.decode(&raw) == nil {
		return raw
	}
	return slices.Clone([]byte(r.data[1:]))
}

// coded reports whether a Codec has written the value.
func (r *restored) coded() bool { return len(r.data) > 0 && r.data[0] == coded }

func (*restored) typeName() string { return "restored JSON" }

// decodeJSON is Decode for restored values, apart so that Decode need not allocate.
func decodeJSON[T any](r *restored) (out T, err error) {
	if err := r.decode(&out); err != nil {
		var zero T
		return zero, &Mismatch{errwalk.Text(err)}
	}
	return out, nil
}

// decode is json.Unmarshal, except that null fits only what can be nil or decodes itself.
func (r *restored) decode(p any) error {
	if r.coded() {
		if r.codec == nil {
			return errors.New("it was written with a Marshal that is not here")
		}
		return r.codec.Unmarshal(r.data[1:], p)
	}
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
