package sluice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/kv"
	"github.com/sluice-go/sluice/internal/remote"
	"github.com/sluice-go/sluice/internal/value"
)

// SharedState is an atomic key-value store that the tools of a run share: a [Key] is one value,
// a [SharedState.Txn] changes several. Operations on one key are linearizable: N increments are N,
// from any number of goroutines. Nothing waits but Watch, and Update and Txn for their function.
// The zero value fails with [ErrNoState]; UnmarshalJSON makes it a store. Lifetimes keep timers until
// Close.
//
// A key counts 96 bytes and its length; a value that [Increment] cannot add also 48 bytes, its type's
// size and what it refers to, by capacity, estimated beyond 1,000 parts. A write over a bound fails
// with [ErrFull].
type SharedState struct {
	view  kv.View
	fleet *Fleet // whose it is, if it is one's
}

// SharedStateConfig bounds a [SharedState].
type SharedStateConfig struct {
	MaxKeys  int // zero means 100,000
	MaxBytes int // as estimated; zero means 256 MiB
	_        struct{}
}

// complete fills in the defaults.
func (c SharedStateConfig) complete() (SharedStateConfig, error) {
	return c, cmp.Or(
		check.Count("sluice: SharedStateConfig.MaxKeys", &c.MaxKeys, 100_000, math.MaxInt),
		check.Count("sluice: SharedStateConfig.MaxBytes", &c.MaxBytes, 256<<20, math.MaxInt))
}

// NewSharedState returns an empty store.
func NewSharedState(c SharedStateConfig) (*SharedState, error) {
	c, err := c.complete()
	if err != nil {
		return nil, err
	}
	return &SharedState{view: value.New(c.MaxKeys, c.MaxBytes)}, nil
}

// FleetStateConfig configures a state of a [Fleet].
type FleetStateConfig struct {
	Name string // of the state, in the Fleet; empty means "state"

	// Marshal and Unmarshal are how values are kept, which [encoding/json] does if they are nil, and always with numbers.
	Marshal   func(v any) ([]byte, error)
	Unmarshal func(data []byte, v any) error
	_         struct{}
}

// NewFleetState returns the state of that name of all processes of f: its keys are at the engine. An operation waits
// for its trips, each no longer than the Fleet's Budget and once more if it is lost, whatever its context says; a Txn
// makes one for each key it uses. If a write may have taken effect still, its error is [ErrUnsure]. Values have no Go
// type, as restored ones. Bounds are the engine's, not those of views. See docs/fleet.md, also for what else is not as
// in the process. Close it before f.
func NewFleetState(f *Fleet, c FleetStateConfig) (*SharedState, error) {
	if f == nil || f.core == nil {
		return nil, errors.New("sluice: NewFleetState: the Fleet is a zero value: must be made by NewFleet")
	}
	view, err := remote.New(f.core, remote.Config{Name: c.Name, Marshal: c.Marshal, Unmarshal: c.Unmarshal})
	if err != nil {
		return nil, fmt.Errorf("sluice: FleetStateConfig%w", err)
	}
	return &SharedState{view: view, fleet: f}, nil
}

// WithState is ctx with another State in its [PipelineContext]; nil is the executor's.
func WithState(ctx context.Context, s *SharedState) context.Context {
	pc := PipelineContextFrom(ctx)
	pc.State = s
	return WithPipelineContext(ctx, pc)
}

// StateFrom returns what keys use under ctx: the state of the transaction, the [PipelineContext] or
// the running call's executor, else nil.
func StateFrom(ctx context.Context) *SharedState { return scopeOf(ctx).state() }

// viewOf is StateFrom for an operation on a key; nil if there is none, or it was closed.
func viewOf(ctx context.Context) *kv.View {
	var s *SharedState
	if x, ok := ctx.(*pipelineNode); ok && x.state != nil { // most contexts are the library's own
		s = x.state
	} else {
		s = scopeOf(ctx).state()
	}
	if s == nil || !s.view.Open() {
		return nil
	}
	return &s.view
}

// check returns an error if s was closed, or not made by NewSharedState.
func (s *SharedState) check(key string) error {
	if s == nil {
		return value.Usable(nil, key, ErrNoState)
	}
	return value.Usable(&s.view, key, ErrNoState)
}

// View returns the part of s under a prefix as a store of its own: its key "x" is prefix+"x" of
// s, and List, Watch, Clear and snapshots see its keys alone. Writes through it keep to c and to the
// bounds of s; a transaction to those of all views it wrote through. c counts all keys under the
// prefix, whoever wrote them.
//
// Closing a view closes those made from it, not s; in a transaction it does nothing. The garbage
// collector closes unused ones.
func (s *SharedState) View(prefix string, c SharedStateConfig) (*SharedState, error) {
	c, err := c.complete()
	if err = cmp.Or(s.check(""), value.CheckPrefix(prefix), err); err != nil {
		return nil, err
	}
	return &SharedState{view: s.view.Nest(prefix, c.MaxKeys, c.MaxBytes), fleet: s.fleet}, nil
}

// Close ends watches; later operations fail with [ErrNoState]. A store gives up memory and views;
// a view's keys stay. It may be called at any time, and again; the error is nil.
func (s *SharedState) Close() error {
	if s != nil {
		s.view.Close()
	}
	return nil
}

// Clear deletes all keys of s, one by one; what is written meanwhile may stay.
func (s *SharedState) Clear() {
	if s.check("") == nil {
		s.view.Store.Clear(s.view.Scope)
	}
}

// Txn runs fn and lets what it writes with its context take effect together, or not at all.
// Transactions and single operations are strictly serializable. Nothing is written if fn fails,
// panics or exits, nor, with the cause of ctx, if ctx is done before or after fn.
//
// If others change a key that fn has used, fn runs again, so it should only compute. It never sees
// keys of different instants: an operation that would fails with [ErrConflict], and fn should return.
// After 10,000 runs Txn fails with ErrConflict: fn is too slow, or writes, with another context, what
// it reads.
//
// A write returns the version its key will have; of an absent key one for inside only. Lifetimes begin
// and bounds are checked at the end. fn may use as many keys as fit, or 100,000. A Txn inside joins it;
// if only the inner fn fails, its writes alone are taken back.
// [StateFrom] in fn, and its views, are in the transaction; other states, List, Watch, Clear and
// snapshots are not. After fn its context has no state.
func (s *SharedState) Txn(ctx context.Context, fn func(ctx context.Context) error) error {
	if err := s.check(""); err != nil {
		return err
	}
	v := s.view
	if outer := StateFrom(ctx); outer != nil {
		v = v.Join(outer.view)
	}
	return stateErr("", v.Txn(ctx, func(in kv.View) error { return fn(WithState(ctx, &SharedState{view: in})) }))
}

// StateEntry is the state of one key.
type StateEntry struct {
	Key     string
	Value   any    // nil if deleted; json.RawMessage if restored and not yet written, or a Fleet's
	Version uint64 // if deleted, above all before
	Lost    int    // changes that a Watch left out before
	Err     error  // why a List of a Fleet's state ends here, before its end; there is no Key then
}

func stateEntry(e kv.Entry, lost int) StateEntry {
	return StateEntry{e.Key, value.Load(e.Value), e.Version, lost, stateErr("", e.Err)}
}

// List walks the keys that start with prefix, sorted, each as it is when yielded. A key there
// throughout comes once, others at most. The loop holds no lock.
func (s *SharedState) List(prefix string) iter.Seq[StateEntry] {
	return func(yield func(StateEntry) bool) {
		if s.check("") == nil {
			s.view.Store.List(s.view.Scope, prefix, func(e kv.Entry) bool { return yield(stateEntry(e, 0)) })
		}
	}
}

// Watch yields the keys that start with prefix, sorted, then every change, until ctx ends or s
// is closed. Changes of one key come in order, once; expiry is a deletion, at its instant.
//
// Writers never wait. A reader over 1,024 changes behind gets those, then the latest of each
// key changed since, sorted; the first says in Lost how many were left out. The loop holds no lock;
// a watch remembers keys yielded and not deleted.
func (s *SharedState) Watch(ctx context.Context, prefix string) iter.Seq[StateEntry] {
	return func(yield func(StateEntry) bool) {
		if s.check("") == nil {
			s.view.Store.Watch(ctx, s.view.Scope, prefix, func(e kv.Entry, lost int) bool {
				return yield(stateEntry(e, lost))
			})
		}
	}
}

// MarshalJSON returns all keys of s of one instant:
//
//	{"version":7,"keys":{"hits":{"value":3,"version":7,"expires":"2026-11-24T15:04:05Z"}}}
//
// Values go through [encoding/json], outside locks; if one fails, all does.
func (s *SharedState) MarshalJSON() ([]byte, error) {
	if err := s.check(""); err != nil {
		return nil, err
	}
	return value.Marshal(&s.view)
}

// UnmarshalJSON replaces all keys of s by those of a snapshot, at one instant, or changes
// nothing. Expired ones are left out. Only names that MarshalJSON writes are taken, each once.
//
// Until a [Key] writes a restored value, each read decodes it, integers exactly, or fails with
// [ErrWrongType]. Versions stay, unless s had higher ones; new keys get ones above all of the
// snapshotted store.
func (s *SharedState) UnmarshalJSON(data []byte) error {
	if s == nil || s.view.Store != nil {
		if err := s.check(""); err != nil {
			return err
		}
		return stateErr("", value.Restore(&s.view, data))
	}
	fresh, _ := NewSharedState(SharedStateConfig{})
	err := stateErr("", value.Restore(&fresh.view, data))
	if err == nil {
		s.view = fresh.view
	}
	return err
}

// Key names a value of type T, in UTF-8: const hits sluice.Key[int64] = "hits"
//
// Its methods use the context's state, see [StateFrom]. Only Update minds the context's end: a
// cancelled tool can still put things right. All but Set and deletions fail with [ErrWrongType] if
// another type is there. Each write gives a higher version, never given again, not even after a
// deletion; zero is an absent key.
//
// Values are shared: nobody may change what one refers to. If T has Clone() T, the store calls it on
// the way in and out.
type Key[T any] string

// Get returns the value and its version, or [ErrAbsent].
func (k Key[T]) Get(ctx context.Context) (v T, version uint64, err error) {
	in := viewOf(ctx)
	if in == nil {
		return v, 0, StateFrom(ctx).check(string(k))
	}
	stored, version, err := in.Get(string(k))
	switch {
	case version != 0:
		v, err = value.Decode[T](stored)
	case err == nil:
		return v, 0, &value.Error{Key: string(k), Reason: ErrAbsent}
	}
	return v, version, stateErr(string(k), err)
}

// Set writes v and returns its version.
func (k Key[T]) Set(ctx context.Context, v T, ttl ...TTL) (uint64, error) {
	return k.write(ctx, kv.Cond{}, v, kv.Endless, ttl)
}

// CompareAndSwap is Set if the version is was (zero: absent), else [ErrConflict].
func (k Key[T]) CompareAndSwap(ctx context.Context, was uint64, v T, ttl ...TTL) (uint64, error) {
	return k.write(ctx, kv.Cond{Must: true, Was: was}, v, kv.Keep, ttl)
}

func (k Key[T]) write(ctx context.Context, cond kv.Cond, v T, otherwise kv.Life, ttl []TTL) (uint64, error) {
	in, life, err := writing(ctx, string(k), ttl, otherwise)
	if err != nil {
		return 0, err
	}
	version, err := in.Put(string(k), cond, value.Encode(in.Store, v), life)
	return version, stateErr(string(k), err)
}

// Update writes and returns what fn makes of the value; ok tells whether there was one. fn holds no
// lock: it may use the state, panic or exit. Nothing is written if it fails, or, with the cause of
// ctx, if ctx is done before or after fn. If others write the key meanwhile fn runs again, so it
// should only compute. After 10,000 runs Update fails with [ErrConflict]: fn is too slow, or writes
// the key itself.
func (k Key[T]) Update(ctx context.Context, fn func(old T, ok bool) (T, error), ttl ...TTL) (T, error) {
	in, life, err := writing(ctx, string(k), ttl, kv.Keep)
	if err != nil {
		var zero T
		return zero, err
	}
	v, err := value.Update(ctx, in, string(k), life, fn)
	return v, stateErr(string(k), err)
}

// Delete deletes the key, if it is there.
func (k Key[T]) Delete(ctx context.Context) error {
	return k.remove(ctx, kv.Cond{})
}

// CompareAndDelete is Delete if the version is was, else [ErrConflict].
func (k Key[T]) CompareAndDelete(ctx context.Context, was uint64) error {
	return k.remove(ctx, kv.Cond{Must: true, Was: was})
}

func (k Key[T]) remove(ctx context.Context, cond kv.Cond) error {
	in := viewOf(ctx)
	if in == nil {
		return StateFrom(ctx).check(string(k))
	}
	return stateErr(string(k), in.Delete(string(k), cond))
}

// Number is a type whose values [Increment] can add.
type Number interface {
	~int | ~int64 | ~uint64 | ~float64
}

// Increment adds delta to a number, absent is zero, and returns the sum, which no other increment
// returns unless somebody subtracts or sets. A sum that T cannot hold, or not finite, changes
// nothing: [ErrOverflow].
func Increment[T Number](ctx context.Context, k Key[T], delta T, ttl ...TTL) (T, error) {
	in, life, err := writing(ctx, string(k), ttl, kv.Keep)
	if err != nil {
		return 0, err
	}
	num := value.ToBits(in.Store, delta)
	sum, _, err := in.Add(string(k), num, life)
	if err != nil {
		sum, err = value.AddAgain[T](in, string(k), num, life, err)
	}
	return value.ToNumber[T](sum), stateErr(string(k), err)
}

// TTL is how long a written value lives: at every instant before that, from the write on. It is positive.
// Without it Set ends a lifetime, other writes keep it.
type TTL time.Duration

// writing is viewOf for a write, and what that makes of the lifetime. Of several TTLs the last counts.
func writing(ctx context.Context, key string, ttl []TTL, otherwise kv.Life) (*kv.View, kv.Life, error) {
	in := viewOf(ctx)
	if in == nil {
		return nil, otherwise, StateFrom(ctx).check(key)
	}
	otherwise, err := value.Life(ttl, otherwise)
	return in, otherwise, err
}

// Errors of SharedState.
var (
	ErrAbsent    = value.ErrAbsent
	ErrConflict  = value.ErrConflict
	ErrOverflow  = value.ErrOverflow
	ErrWrongType = value.ErrWrongType // another Go type
	ErrFull      = value.ErrFull      // over a bound
	ErrNoState   = value.ErrNoState   // none, or closed
	ErrUnsure    = value.ErrUnsure    // of a Fleet's: it may have taken effect, or may yet
)

// stateErr is an error of an operation as its caller gets it; one of the caller's own passes.
func stateErr(key string, err error) error { return value.Told(key, err) }
