package value

import (
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/kv"
)

// Codec is how values are written that leave the process, beside numbers, which are JSON always. A nil Codec is
// encoding/json.
type Codec struct {
	Marshal   func(v any) ([]byte, error)
	Unmarshal func(data []byte, v any) error
}

// coded is what data begins with that a Codec has made. No JSON does.
const coded = 1

// NewFar returns a view of what far holds.
func NewFar(far kv.Far) kv.View {
	store, root := kv.NewFar(far, std())
	v := kv.View{Store: store, Scope: root}
	return v.Outside()
}

// Data is what v is elsewhere, under that key. It may call a method of the value, or of c.
func Data(key string, v kv.Value, c *Codec) (data []byte, err error) {
	if r, ok := v.Box.Datum.(*restored); ok {
		return r.data, nil
	}
	if v.Box.Num != kv.NotNum || c == nil {
		data, err = json.Marshal(Load(v))
	} else if data, err = c.Marshal(Load(v)); err == nil {
		data = append([]byte{coded}, data...)
	}
	if err != nil {
		return nil, fmt.Errorf("sluice: shared state key %s: %w", errtext.Quote(key), shortError{err})
	}
	return data, nil
}

// Far is the value that data is of, as Data gave it, read at that instant, or shortly before, when it had so long to
// live, zero meaning for ever.
func Far(data []byte, c *Codec, left time.Duration, at time.Time) kv.Value {
	v := restore(data)
	r := v.Box.Datum.(*restored)
	r.codec, r.left, r.at = c, left, at
	return v
}

// Kept is what life means for a write in place of v, which Far made: Keep is what is left of the lifetime.
func Kept(v kv.Value, life kv.Life) kv.Life {
	if v.Box == nil || life != kv.Keep {
		return life
	}
	r, ok := v.Box.Datum.(*restored)
	switch {
	case !ok:
		return life
	case r.left == 0:
		return kv.Endless
	}
	return max(1, kv.Life(r.left-time.Since(r.at)))
}

// Countable reports whether a number is an integer of 64 bits with a sign, written as its digits.
func Countable(v kv.Value) bool {
	switch v.Box.Num {
	case kv.Int64:
	case kv.Int:
		if word < 8 {
			return false
		}
	default:
		return false
	}
	return v.Box.Datum.(interface{ digits() bool }).digits()
}

// digits reports whether a number of the type is written as its digits.
func (*cell[T]) digits() bool {
	t := reflect.TypeFor[T]()
	for _, m := range []reflect.Type{reflect.TypeFor[json.Marshaler](), reflect.TypeFor[encoding.TextMarshaler]()} {
		if t.Implements(m) {
			return false
		}
	}
	return true
}

// swapAdd adds delta to a number by reading and writing, and returns the sum. If others come between it is tried as an
// addition again, which nobody comes between: it may have been refused for what has passed since.
func swapAdd[T Number](in *kv.View, key string, delta kv.Value, life kv.Life) (sum uint64, err error) {
	for n := 1; ; n++ {
		if sum, err = swapAddOnce[T](in, key, delta, life); err != kv.Conflict {
			return sum, err
		}
		if err = in.Retry(context.Background(), n); err != nil {
			return 0, err
		}
		if sum, _, err = in.Add(key, delta, life); err != kv.Swap {
			return sum, err
		}
	}
}

// swapAddOnce is a Conflict if others came between.
func swapAddOnce[T Number](in *kv.View, key string, delta kv.Value, life kv.Life) (sum uint64, err error) {
	stored, version, err := in.Get(key)
	if err != nil {
		return 0, err
	}
	var old uint64
	if version != 0 {
		v, err := Decode[T](stored)
		if err != nil {
			return 0, err
		}
		old = ToBits(in.Store, v).Bits
	}
	sum, c := delta.Box.Num.Add(old, delta.Bits)
	if c != kv.OK {
		return 0, c
	}
	if _, err = in.Put(key, kv.Cond{Must: true, Was: version}, kv.Value{Box: delta.Box, Bits: sum}, Kept(stored, life)); err != nil {
		return 0, err
	}
	return sum, nil
}

// farSnapshot is the content of v, each key as it was while the keys were read.
func farSnapshot(v *kv.View) (list []kv.Entry, highest uint64, err error) {
	v.Store.List(v.Scope, "", func(e kv.Entry) bool {
		if err = e.Err; err != nil {
			return false
		}
		highest = max(highest, e.Version)
		list = append(list, e)
		return true
	})
	return list, highest, err
}

// errNoRestore is what Restore gives for keys that are not in the process.
var errNoRestore = fmt.Errorf("the state is a Fleet's: %w", errors.ErrUnsupported)

// farError is an error of an operation whose data are not in the process.
type farError struct {
	is    Error
	cause error
}

func (e *farError) Error() string   { return e.is.Error() }
func (e *farError) Unwrap() []error { return []error{e.is.Reason, e.cause} }

func explainFar(key string, f *kv.Failed, reason error) error {
	return &farError{Error{key, reason, errtext.Line(f.Cause.Error())}, f.Cause}
}
