package value

import (
	"context"

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
	for n := 1; ; n++ {
		if ctx.Err() != nil {
			return zero, context.Cause(ctx)
		}
		var old T
		stored, version, err := in.Get(key)
		if err != nil {
			return zero, err
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
		keep := life
		if in.IsFar() {
			keep = Kept(stored, life)
		}
		switch _, err = in.Put(key, kv.Cond{Must: true, Was: version}, Encode(in.Store, v), keep); err {
		case nil:
			return v, nil
		case kv.Conflict:
			err = in.Retry(ctx, n)
		}
		if err != nil {
			return zero, err
		}
	}
}

// AddAgain adds delta to a number, which has just ended with err, and returns the sum.
func AddAgain[T Number](in *kv.View, key string, delta kv.Value, life kv.Life, err error) (sum uint64, _ error) {
	for err == kv.WrongType { // so is a restored number, until somebody writes it
		if err := retype[T](in, key); err != nil {
			return 0, err
		}
		sum, _, err = in.Add(key, delta, life)
	}
	switch err {
	case nil:
		return sum, nil
	case kv.Swap:
		return swapAdd[T](in, key, delta, life)
	}
	return 0, err
}

// retype gives a restored value the type T, unless the key cannot be a T or be written.
func retype[T any](in *kv.View, key string) error {
	stored, version, err := in.Get(key)
	if version == 0 {
		return err
	}
	v, err := Decode[T](stored)
	if err != nil {
		return err
	}
	if !isRestored(stored) {
		return nil // somebody else has written a T meanwhile
	}
	_, err = in.Put(key, kv.Cond{Must: true, Was: version}, Encode(in.Store, v), kv.Keep)
	if err == kv.Conflict {
		return nil
	}
	return err
}
