package value

import (
	"context"
	"runtime"

	"github.com/sluice-go/sluice/internal/kv"
)

// Errors of these functions are a [kv.Code], a [*Mismatch], or what the caller's function or context
// gave.

// Update writes what fn makes of the value, and returns it. It calls fn again whenever others have
// written the key meanwhile, and writes nothing if fn fails, or once ctx is done when fn is about to
// be called or has returned.
func Update[T any](
	ctx context.Context, in *kv.View, key string, life kv.Life, fn func(old T, ok bool) (T, error),
) (v T, err error) {
	var zero T
	for range kv.MaxTries {
		if ctx.Err() != nil {
			return zero, context.Cause(ctx)
		}
		var old T
		stored, version, c := in.Get(key)
		if c != kv.OK {
			return zero, c
		}
		if version != 0 {
			if old, err = Decode[T](stored); err != nil {
				return zero, err
			}
		}
		v, err := fn(old, version != 0)
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return zero, err
		}
		_, c = in.Put(key, kv.Cond{Must: true, Was: version}, Encode(in.Store, v), life)
		switch c {
		case kv.OK:
			return v, nil
		case kv.Conflict:
			runtime.Gosched() // the other writer may be about to write again
		default:
			return zero, c
		}
	}
	return zero, kv.GivenUp
}

// AddAgain adds delta to a number, which has just ended with c, and returns the sum.
func AddAgain[T Number](in *kv.View, key string, delta kv.Value, life kv.Life, c kv.Code) (sum uint64, err error) {
	for c == kv.WrongType { // so is a restored number, until somebody writes it
		if err := retype[T](in, key); err != nil {
			return 0, err
		}
		sum, _, c = in.Add(key, delta, life)
	}
	if c != kv.OK {
		return 0, c
	}
	return sum, nil
}

// retype gives a restored value the type T, unless the key cannot be a T or be written.
func retype[T any](in *kv.View, key string) error {
	stored, version, c := in.Get(key)
	if version == 0 {
		return c.Err()
	}
	v, err := Decode[T](stored)
	if err != nil {
		return err
	}
	if !isRestored(stored) {
		return nil // somebody else has written a T meanwhile
	}
	_, c = in.Put(key, kv.Cond{Must: true, Was: version}, Encode(in.Store, v), kv.Keep)
	if c == kv.Conflict {
		return nil
	}
	return c.Err()
}
