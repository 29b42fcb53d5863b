package sluice

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/errwalk"
	"github.com/sluice-go/sluice/internal/kv"
	"github.com/sluice-go/sluice/internal/value"
)

// SharedState is an atomic key-value store that the tools of a run share. Values are
// read and written through a [Key], which gives them their Go type.
//
// Every operation on one key is linearizable: it takes effect at one instant between
// its call and its return, and N increments are N, from any number of goroutines.
// Several keys change together in a [SharedState.Txn].
//
// A SharedState may be used by any number of goroutines at once. No operation waits,
// but for the iterations of Watch, and Update and Txn while they call their function
// again. It runs no goroutine of its own; while keys with a lifetime exist it has timers
// set, until Close. The zero value holds nothing and every operation on it fails with
// [ErrNoState], except UnmarshalJSON, which makes it a store of the default size.
//
// # Bounds
//
// Each key counts with an estimate of its memory: 96 bytes for the store's own needs,
// the length of the key, and the value. A number of the types that [Increment] takes
// needs nothing more. Any other value counts 48 bytes, what its type occupies, and what
// it refers to: strings and slices in their length and capacity, maps, pointers and
// interfaces followed. After 1,000 parts of a value the rest is taken to be like those
// before it; what several parts share counts for each. A write that goes over a bound
// fails with [ErrFull] and changes nothing.
type SharedState struct {
	view kv.View
}

// SharedStateConfig bounds a [SharedState]. The zero value is ready to use.
type SharedStateConfig struct {
	MaxKeys  int // zero means 100,000
	MaxBytes int // by the estimate that SharedState describes; zero means 256 MiB
	_        struct{}
}

// resolve replaces zeros by defaults.
func (c SharedStateConfig) resolve() (SharedStateConfig, error) {
	if c.MaxKeys < 0 {
		return c, fmt.Errorf("sluice: SharedStateConfig.MaxKeys is %d: must be zero (100,000) or positive", c.MaxKeys)
	}
	if c.MaxBytes < 0 {
		return c, fmt.Errorf("sluice: SharedStateConfig.MaxBytes is %d: must be zero (256 MiB) or positive", c.MaxBytes)
	}
	if c.MaxKeys == 0 {
		c.MaxKeys = 100_000
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 256 << 20
	}
	return c, nil
}

// NewSharedState returns an empty store, or an error that names the field that is wrong.
func NewSharedState(c SharedStateConfig) (*SharedState, error) {
	c, err := c.resolve()
	if err != nil {
		return nil, err
	}
	return &SharedState{view: value.New(c.MaxKeys, c.MaxBytes)}, nil
}

// WithState returns a context under which keys use s. It is [WithPipelineContext] with
// another State, and keeps on whose behalf calls run; a nil s means the executor's.
func WithState(ctx context.Context, s *SharedState) context.Context {
	pc := PipelineContextFrom(ctx)
	pc.State = s
	return WithPipelineContext(ctx, pc)
}

// StateFrom returns the state that keys use under ctx: of the [PipelineContext], else of
// the running call's executor, else nil. In a transaction it is the transaction's.
func StateFrom(ctx context.Context) *SharedState { return scopeOf(ctx).state() }

// viewFor is StateFrom for an operation on a key.
func viewFor(ctx context.Context, key string) (*kv.View, error) {
	s := scopeOf(ctx).state()
	if err := s.check(key); err != nil {
		return nil, err
	}
	return &s.view, nil
}

// check returns an error if s was closed, or not made by NewSharedState.
func (s *SharedState) check(key string) error {
	if s == nil || !s.view.Open() {
		return s.missing(key)
	}
	return nil
}

// missing says why s is no state to work on.
func (s *SharedState) missing(key string) error {
	e := &stateError{key: key, reason: ErrNoState}
	switch {
	case s == nil:
		e.detail = "the context has none"
	case s.view.Store == nil:
		e.detail = "the SharedState was not made by NewSharedState"
	default:
		e.detail = detailClosed
	}
	return e
}

// View returns the part of s under a prefix as a store of its own: its key "x" is the
// key prefix+"x" of s, and List, Watch, Clear and the snapshots are about its keys alone.
// So one call of Clear removes what a run has left.
//
// The bounds of c hold for what is written through the view, on top of those of s. They
// are compared with all keys under the prefix, whoever wrote them; views with the same
// prefix share that count. In a transaction they are compared when it takes effect, and a
// key that was written through several views keeps to the bounds of each. To count the
// keys that are there, the first view of a prefix takes a time in proportion to all keys
// of the store, some milliseconds for 100,000.
//
// Closing a view closes the views made from it, and not s. A view that is no longer used
// is closed by the garbage collector; one that a transaction has used lasts as long as
// that. Of a view made in a transaction Close does nothing.
func (s *SharedState) View(prefix string, c SharedStateConfig) (*SharedState, error) {
	if err := s.check(""); err != nil {
		return nil, err
	}
	if prefix == "" {
		return nil, errors.New(`sluice: the prefix of a view is "": must not be empty`)
	}
	if !utf8.ValidString(prefix) {
		return nil, fmt.Errorf("sluice: the prefix of a view is %s: must be UTF-8", errtext.Quote(prefix))
	}
	c, err := c.resolve()
	if err != nil {
		return nil, err
	}
	return &SharedState{view: s.view.Nest(prefix, c.MaxKeys, c.MaxBytes)}, nil
}

// Close ends the watches of s and makes every later operation fail with [ErrNoState].
// A store gives up its memory and closes its views with it. The view's keys stay in
// its parent; call Clear first to delete them. Close may be called again, and at once
// with anything else; the error is always nil.
func (s *SharedState) Close() error {
	if s != nil {
		s.view.Close()
	}
	return nil
}

// Clear deletes all keys of s, one after the other; a view deletes only its own. Keys
// that are written meanwhile may stay.
func (s *SharedState) Clear() {
	if s.check("") == nil {
		s.view.Store.Clear(s.view.Scope)
	}
}

// Txn runs fn and lets what it writes take effect all together, or not at all. fn gets a
// context in which operations on keys of this store read and write the transaction:
//
//	err := sluice.StateFrom(ctx).Txn(ctx, func(ctx context.Context) error {
//		left, err := sluice.Increment(ctx, seats, -1)
//		if err == nil && left < 0 {
//			err = errSoldOut // nothing happens
//		}
//		return err
//	})
//
// If fn fails, panics or exits its goroutine, nothing is written. If somebody else
// changes a key that fn has used, before fn has ended, fn runs again: at once if it then
// reads on, so that it never sees two keys as they were not at one instant; the
// operation that notices fails with [ErrConflict], and fn should return. So fn should do
// nothing but compute. After 10,000 runs Txn gives up, with ErrConflict: fn is too slow
// for what others write, or it writes past the transaction what it reads in it, with
// another context than the one it was given. Txn ends with the cause of ctx, and writes
// nothing, once ctx is done when fn is about to be called or has returned.
//
// Transactions are strictly serializable with one another and with single operations.
// Nobody waits for a running fn; the price is that fn may have to run often where many
// write the same keys.
//
// Details: A write in a transaction returns the version that its key will have, or for
// a key that was absent a version that is good inside the transaction only. Lifetimes
// begin when the transaction takes effect, and that is when bounds are checked. Each key
// that is read for the first time costs a look at all those read before, and there may be
// as many as the store may hold, or 100,000. A Txn in a transaction of the same store
// joins it: if the inner fn fails, what the inner fn wrote is taken back, and the rest
// takes effect with the outer one. The state that [StateFrom] returns in fn, and its
// views, are in the transaction; another state attached to the context is not. List,
// Watch, Clear, MarshalJSON and UnmarshalJSON always act on the store itself. After fn
// has returned, its context no longer reaches the state.
func (s *SharedState) Txn(ctx context.Context, fn func(ctx context.Context) error) error {
	if err := s.check(""); err != nil {
		return err
	}
	v := s.view
	if outer := StateFrom(ctx); outer != nil {
		v = v.Join(outer.view)
	}
	c, err := v.Txn(ctx, func(in kv.View) error { return fn(WithState(ctx, &SharedState{view: in})) })
	if err != nil {
		return err
	}
	return errorOf("", c)
}

// StateEntry is the state of one key.
type StateEntry struct {
	Key     string
	Value   any    // nil if the key was deleted; json.RawMessage if it was restored and not yet written
	Version uint64 // of a deleted key: above all versions it had
	Lost    int    // of a Watch: changes not delivered since the entry before
}

func stateEntry(e kv.Entry, lost int) StateEntry {
	return StateEntry{Key: e.Key, Value: value.Load(e.Value), Version: e.Version, Lost: lost}
}

// List walks the keys that start with prefix in sorted order. Each entry is current when
// it is yielded, but they need not have been there together; for that, take a snapshot.
// A key that is there during the whole walk is yielded once; one that comes or goes
// meanwhile may be. The body of the loop runs without any lock and may use the state.
func (s *SharedState) List(prefix string) iter.Seq[StateEntry] {
	return func(yield func(StateEntry) bool) {
		if s.check("") == nil {
			s.view.Store.List(s.view.Scope, prefix, func(e kv.Entry) bool { return yield(stateEntry(e, 0)) })
		}
	}
}

// Watch follows the keys that start with prefix. When the loop begins it yields the
// entries that are there, sorted by key, and then every change, until ctx ends or s is
// closed. The changes of one key come in the order of their versions, none twice, and
// expiry is a change like a deletion, at the instant when the lifetime ends.
//
// Writers never wait for a watch. It buffers 1,024 changes; a reader that falls behind
// by more gets those, and then of each key that has changed since, the latest state
// only, sorted by key. The first entry after such a gap says in Lost how many
// changes were left out. The body of the loop runs without any lock and may use the
// state. A watch remembers the keys it has yielded and not yet seen deleted.
func (s *SharedState) Watch(ctx context.Context, prefix string) iter.Seq[StateEntry] {
	return func(yield func(StateEntry) bool) {
		if s.check("") == nil {
			s.view.Store.Watch(ctx, s.view.Scope, prefix, func(e kv.Entry, lost int) bool {
				return yield(stateEntry(e, lost))
			})
		}
	}
}

// MarshalJSON returns a snapshot of all keys of s as they were together at one instant:
//
//	{"version":7,"keys":{"hits":{"value":3,"version":7,"expires":"2026-11-24T15:04:05Z"}}}
//
// Values are encoded as [encoding/json] does it, outside all locks; a value that it cannot
// encode fails the snapshot.
func (s *SharedState) MarshalJSON() ([]byte, error) {
	if err := s.check(""); err != nil {
		return nil, err
	}
	data, err := value.Marshal(&s.view)
	if err != nil {
		return nil, fmt.Errorf("sluice: shared state %w", err)
	}
	return data, nil
}

// UnmarshalJSON replaces all keys of s by those of a snapshot, at one instant; if it
// fails, nothing has changed. What had expired by the time of day is left out. A snapshot
// has the names that MarshalJSON writes, letter for letter, each at most once, and no
// others; a missing version counts as zero.
//
// A restored value has no Go type until a [Key] writes it. Until then each read decodes
// it, without a detour over float64 for integers, and gets [ErrWrongType] if it does not
// fit the key's type. Keys keep their versions where these are higher than all that the
// key has had in s, and no key that is created later gets a version that the
// snapshotted store may have given.
func (s *SharedState) UnmarshalJSON(data []byte) error {
	if s == nil {
		return s.missing("")
	}
	v, zero := s.view, s.view.Store == nil
	if zero {
		c, _ := SharedStateConfig{}.resolve()
		v = value.New(c.MaxKeys, c.MaxBytes)
	} else if err := s.check(""); err != nil {
		return err
	}
	c, err := value.Restore(&v, data)
	if err != nil {
		return fmt.Errorf("sluice: shared state snapshot: %w", err)
	}
	if c == kv.OK && zero {
		s.view = v
	}
	return errorOf("", c)
}

// Key names a value of type T in a [SharedState]:
//
//	const hits sluice.Key[int64] = "hits"
//
// Its methods use the state of their context, see [StateFrom] and [WithState], and fail
// with [ErrNoState] if there is none. They do not wait, so that only Update minds the end
// of the context: a tool that was cancelled can still put things right.
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
	in, err := viewFor(ctx, string(k))
	if err != nil {
		return v, 0, err
	}
	v, version, err = k.read(in)
	if err == nil && version == 0 {
		err = &stateError{key: string(k), reason: ErrAbsent}
	}
	return v, version, err
}

// read returns the value, and version zero if there is none.
func (k Key[T]) read(in *kv.View) (v T, version uint64, err error) {
	stored, version, c := in.Get(string(k))
	if version == 0 {
		return v, 0, errorOf(string(k), c)
	}
	if v, err = value.Decode[T](stored); err != nil {
		err = &stateError{key: string(k), reason: ErrWrongType, detail: errwalk.Text(err)}
	}
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
	in, err := viewFor(ctx, string(k))
	if err != nil {
		return 0, err
	}
	life, err := lifeOf(o, endless)
	if err != nil {
		return 0, err
	}
	version, c := in.Put(string(k), cond, value.Encode(in.Store, v), life)
	return version, errorOf(string(k), c)
}

// Update writes what fn makes of the value, and returns it. ok tells whether there was
// one. If somebody else writes the key while fn runs, fn is called again with the new
// value; so fn should do nothing but compute. If fn fails, its error is returned and
// nothing is written. After 10,000 calls of fn Update gives up, with [ErrConflict], and
// writes nothing: fn is too slow for what others write, or it writes the key itself each
// time.
//
// fn runs outside all locks: it may take its time, use the state, and panic or exit its
// goroutine, with no harm to anybody. Update ends with the cause of ctx, and writes
// nothing, once ctx is done when fn is about to be called or has returned.
func (k Key[T]) Update(ctx context.Context, fn func(old T, ok bool) (T, error), o ...WriteOption) (T, error) {
	var zero T
	in, err := viewFor(ctx, string(k))
	if err != nil {
		return zero, err
	}
	life, err := lifeOf(o, false)
	if err != nil {
		return zero, err
	}
	for range kv.MaxTries {
		if ctx.Err() != nil {
			return zero, context.Cause(ctx)
		}
		old, version, err := k.read(in)
		if err != nil {
			return zero, err
		}
		v, err := fn(old, version != 0)
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return zero, err
		}
		_, c := in.Put(string(k), kv.Cond{Must: true, Was: version}, value.Encode(in.Store, v), life)
		switch c {
		case kv.OK:
			return v, nil
		case kv.Conflict:
			runtime.Gosched() // the other writer may be about to write again
		default:
			return zero, errorOf(string(k), c)
		}
	}
	return zero, errorOf(string(k), kv.GivenUp)
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
	in, err := viewFor(ctx, string(k))
	if err != nil {
		return err
	}
	return errorOf(string(k), in.Delete(string(k), cond))
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
	in, err := viewFor(ctx, string(k))
	if err != nil {
		return 0, err
	}
	life, err := lifeOf(o, false)
	if err != nil {
		return 0, err
	}
	num := value.Encode(in.Store, delta)
	for {
		sum, c := in.Add(string(k), num, life)
		switch c {
		case kv.OK:
			return value.FromBits[T](sum), nil
		case kv.WrongType:
			// A restored number has no type until somebody writes it.
			if err := k.retype(in); err != nil {
				return 0, err
			}
		default:
			return 0, errorOf(string(k), c)
		}
	}
}

// retype gives a restored value the type T. It returns an error if the key cannot be a T
// or be written.
func (k Key[T]) retype(in *kv.View) error {
	stored, version, c := in.Get(string(k))
	if version == 0 {
		return errorOf(string(k), c)
	}
	v, err := value.Decode[T](stored)
	if err != nil {
		return &stateError{key: string(k), reason: ErrWrongType, detail: errwalk.Text(err)}
	}
	if !value.Restored(stored) {
		return nil // somebody else has written a T meanwhile
	}
	_, c = in.Put(string(k), kv.Cond{Must: true, Was: version}, value.Encode(in.Store, v), kv.Keep)
	if c == kv.Conflict {
		return nil
	}
	return errorOf(string(k), c)
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

// lifeOf is what options make of the lifetime; without TTL it ends or, if endless, does not.
func lifeOf(options []WriteOption, endless bool) (kv.Life, error) {
	life := kv.Life{Clear: endless}
	for _, o := range options {
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

// Errors of SharedState.
var (
	ErrAbsent    = errors.New("absent")
	ErrConflict  = errors.New("conflict")   // the version is another, or has been each time
	ErrOverflow  = errors.New("overflow")   // the sum is no value of the type
	ErrWrongType = errors.New("wrong type") // the key holds another Go type
	ErrFull      = errors.New("full")       // the write would go over a bound
	ErrNoState   = errors.New("no state")   // none in the context, or it is closed
)

// stateError says which key an error of SharedState is about. It is made for every miss
// of Get and every lost CompareAndSwap, so its text is put together only when asked for.
type stateError struct {
	key    string
	reason error
	detail string
}

func (e *stateError) Error() string {
	s := "sluice: shared state"
	if e.key != "" {
		s += " key " + errtext.Quote(e.key)
	}
	s += ": " + e.reason.Error()
	if e.detail != "" {
		s += ": " + errtext.Line(e.detail)
	}
	return s
}

func (e *stateError) Unwrap() error { return e.reason }

// errNotText is the reason of a write to a key that no snapshot could hold.
var errNotText = errors.New("not UTF-8: a key must be")

const detailClosed = "the SharedState is closed"

// errorOf turns how an operation of the store ended into an error.
func errorOf(key string, c kv.Code) error {
	if c == kv.OK {
		return nil
	}
	e := &stateError{key: key}
	switch c {
	case kv.Conflict:
		e.reason, e.detail = ErrConflict, "the version is another"
	case kv.WrongType:
		e.reason = ErrWrongType
	case kv.Overflow:
		e.reason = ErrOverflow
	case kv.Full:
		e.reason, e.detail = ErrFull, "the write would go over a bound of its SharedState"
	case kv.NotText:
		e.reason = errNotText
	case kv.Again:
		e.reason, e.detail = ErrConflict, "the transaction runs again"
	case kv.GivenUp:
		e.reason, e.detail = ErrConflict, "given up after 10,000 tries: each time what the function had used "+
			"was written meanwhile, by others or by the function itself"
	case kv.TooMany:
		e.reason, e.detail = ErrFull, "the transaction uses too many keys"
	case kv.Over:
		e.reason, e.detail = ErrNoState, "the transaction is over"
	default:
		e.reason, e.detail = ErrNoState, detailClosed
	}
	return e
}
