package sluice

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/sluice-go/sluice/internal/kv"
)

// Key names a value of type T in a [SharedState]:
//
//	const hits sluice.Key[int64] = "hits"
//
// Its methods use the state of their context, see [StateFrom], and fail with
// [ErrNoState] if there is none. They do not wait, so that only Update minds the end of
// the context: a tool that was cancelled can still put things right.
//
// A key has a version that grows with each write and is never given again, not even
// after the key was deleted: what carries a version can be told from everything before
// and after it. Version zero stands for an absent key.
//
// A key must be UTF-8, as a snapshot must be; a write to one that is not fails.
//
// A key that holds a value of another type than T is left alone, with [ErrWrongType],
// by everything but Set and the deletions.
//
// Values are shared, not copied: whoever has put a value into the state, or got it out,
// must not change what it refers to. If T has a method Clone() T, the store calls it on
// each value on the way in and on the way out, and the caller's copy is its own.
type Key[T any] string

// Get returns the value and its version; [ErrAbsent] and version zero if there is none.
func (k Key[T]) Get(ctx context.Context) (v T, version uint64, err error) {
	s, err := stateFor(ctx, string(k))
	if err != nil {
		return v, 0, err
	}
	stored, version, err := s.get(string(k))
	if err != nil {
		return v, 0, err
	}
	if version == 0 {
		return v, 0, &stateError{key: string(k), reason: ErrAbsent}
	}
	v, err = decode[T](string(k), stored)
	return v, version, err
}

// Set writes v, whatever was there, and returns its version. Without [TTL] the value
// lives until it is deleted.
func (k Key[T]) Set(ctx context.Context, v T, o ...WriteOption) (uint64, error) {
	return k.write(ctx, kv.Cond{}, v, true, o)
}

// CompareAndSwap writes v if the version is still was, where zero asks for an absent
// key; otherwise it changes nothing and fails with [ErrConflict]. It returns the version
// of v.
func (k Key[T]) CompareAndSwap(ctx context.Context, was uint64, v T, o ...WriteOption) (uint64, error) {
	return k.write(ctx, kv.Cond{Must: true, Was: was}, v, false, o)
}

func (k Key[T]) write(ctx context.Context, cond kv.Cond, v T, endless bool, o []WriteOption) (uint64, error) {
	s, err := stateFor(ctx, string(k))
	if err != nil {
		return 0, err
	}
	life, err := lifeOf(o, endless)
	if err != nil {
		return 0, err
	}
	return s.put(string(k), cond, encode(s.store, v), life)
}

// Update writes what fn makes of the value, and returns it. ok tells whether there was
// one. If somebody else writes the key while fn runs, fn is called again with the new
// value; so fn should do nothing but compute. If fn fails, its error is returned and
// nothing is written. After 10,000 calls of fn Update gives up, with [ErrConflict], and
// writes nothing: fn is too slow for what others write, or it writes the key itself each
// time.
//
// fn runs outside all locks: it may take its time, use the state,
// and panic or exit its goroutine, with no harm to anybody. Update ends with the cause
// of ctx, and writes nothing, once ctx is done when fn is about to be called or has
// returned.
func (k Key[T]) Update(ctx context.Context, fn func(old T, ok bool) (T, error), o ...WriteOption) (T, error) {
	var zero T
	s, err := stateFor(ctx, string(k))
	if err != nil {
		return zero, err
	}
	life, err := lifeOf(o, false)
	if err != nil {
		return zero, err
	}
	for range maxTries {
		if ctx.Err() != nil {
			return zero, context.Cause(ctx)
		}
		stored, version, err := s.get(string(k))
		if err != nil {
			return zero, err
		}
		var old T
		if version != 0 {
			if old, err = decode[T](string(k), stored); err != nil {
				return zero, err
			}
		}
		v, err := fn(old, version != 0)
		if err != nil {
			return zero, err
		}
		if ctx.Err() != nil {
			return zero, context.Cause(ctx)
		}
		_, c, err := s.tryPut(string(k), kv.Cond{Must: true, Was: version}, encode(s.store, v), life)
		if err == nil {
			return v, nil
		}
		if c != kv.Conflict {
			return zero, err
		}
		runtime.Gosched() // the other writer may be about to write again
	}
	return zero, errTries(string(k))
}

// Delete deletes the key. That it is absent is no error.
func (k Key[T]) Delete(ctx context.Context) error {
	return k.remove(ctx, kv.Cond{})
}

// CompareAndDelete deletes the key if the version is still was; otherwise it changes
// nothing and fails with [ErrConflict].
func (k Key[T]) CompareAndDelete(ctx context.Context, was uint64) error {
	return k.remove(ctx, kv.Cond{Must: true, Was: was})
}

func (k Key[T]) remove(ctx context.Context, cond kv.Cond) error {
	s, err := stateFor(ctx, string(k))
	if err != nil {
		return err
	}
	if s.txn != nil {
		return s.txn.remove(s, string(k), cond)
	}
	c := s.store.Delete(s.scope, string(k), cond)
	runtime.KeepAlive(s) // a view is in use until its operation is through
	return errorOf(string(k), c)
}

// Number is what [Increment] adds.
type Number interface {
	~int | ~int64 | ~uint64 | ~float64
}

// Increment adds delta to a number and returns the sum, which no other increment
// returns unless numbers are also taken away or set. An absent key counts as zero. If
// the sum is no value of T, or for floating point not finite, Increment changes nothing
// and fails with [ErrOverflow]. A lifetime is kept unless [TTL] sets one.
func Increment[T Number](ctx context.Context, k Key[T], delta T, o ...WriteOption) (T, error) {
	s, err := stateFor(ctx, string(k))
	if err != nil {
		return 0, err
	}
	life, err := lifeOf(o, false)
	if err != nil {
		return 0, err
	}
	num := encode(s.store, delta)
	for {
		var sum uint64
		var c kv.Code
		if s.txn != nil {
			sum, c, err = s.txn.add(s, string(k), num, life)
			if err != nil {
				return 0, err
			}
		} else {
			sum, _, c = s.store.Add(s.scope, string(k), num.Box, num.Bits, life)
			runtime.KeepAlive(s)
		}
		switch c {
		case kv.OK:
			return fromBits[T](sum), nil
		case kv.WrongType:
			// A restored number has no type until somebody writes it.
			if again, err := retype[T](s, string(k)); !again {
				return 0, err
			}
		default:
			return 0, errorOf(string(k), c)
		}
	}
}

// retype gives a restored value the type T, and reports whether that is worth another
// try.
func retype[T any](s *SharedState, key string) (again bool, err error) {
	stored, version, err := s.get(key)
	if err != nil || version == 0 {
		return err == nil, err
	}
	v, err := decode[T](key, stored)
	if err != nil {
		return false, err
	}
	if _, raw := stored.Box.Datum.(*restored); !raw {
		return true, nil // somebody else has written a T meanwhile
	}
	_, c, err := s.tryPut(key, kv.Cond{Must: true, Was: version}, encode(s.store, v), kv.Keep)
	if err != nil && c != kv.Conflict {
		return false, err
	}
	return true, nil
}

// WriteOption modifies a write. The zero value changes nothing; of several lifetimes the
// last counts.
type WriteOption struct {
	ttl time.Duration
	set bool
}

// TTL makes the written value live for d: it is there at every instant before d has
// passed since the write, and not from then on. Without TTL, Set makes a value that
// lives until it is deleted, and every other write keeps the lifetime there is. A d
// that is not positive is an error of the write.
func TTL(d time.Duration) WriteOption { return WriteOption{ttl: d, set: true} }

func lifeOf(o []WriteOption, endless bool) (kv.Life, error) {
	if len(o) == 0 {
		return kv.Life{Clear: endless}, nil
	}
	return lifeOfAll(o, endless)
}

func lifeOfAll(o []WriteOption, endless bool) (kv.Life, error) {
	life := kv.Life{Clear: endless}
	for _, o := range o {
		if !o.set {
			continue
		}
		if o.ttl <= 0 {
			return life, fmt.Errorf("sluice: TTL is %v: must be positive", o.ttl)
		}
		life.For = o.ttl
	}
	return life, nil
}

// get returns what key holds, version zero if nothing.
func (s *SharedState) get(key string) (v kv.Value, version uint64, err error) {
	if s.txn != nil {
		return s.txn.get(s, key)
	}
	v, version = s.store.Get(s.scope, key)
	return v, version, nil
}

func (s *SharedState) put(key string, cond kv.Cond, v kv.Value, life kv.Life) (uint64, error) {
	version, _, err := s.tryPut(key, cond, v, life)
	return version, err
}

// tryPut is put, with the code beside the error made from it. The code is OK if the
// error is about the transaction as a whole.
func (s *SharedState) tryPut(key string, cond kv.Cond, v kv.Value, life kv.Life) (uint64, kv.Code, error) {
	if s.txn != nil {
		version, c, err := s.txn.put(s, key, cond, v, life)
		if err == nil {
			err = errorOf(key, c)
		}
		return version, c, err
	}
	version, c := s.store.Put(s.scope, key, cond, v, life)
	runtime.KeepAlive(s)
	return version, c, errorOf(key, c)
}
