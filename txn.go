package sluice

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/kv"
)

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
// as many as the store may hold, or 100,000. A Txn in a
// transaction of the same store joins it: if the inner fn fails, what the inner fn
// wrote is taken back, and the rest takes effect with the outer one. The state that
// [StateFrom] returns in fn, and its views, are in the transaction; another state
// attached to the context is not. List, Watch, Clear, MarshalJSON and UnmarshalJSON always act
// on the store itself. After fn has returned, its context no longer reaches the state.
func (s *SharedState) Txn(ctx context.Context, fn func(ctx context.Context) error) error {
	if err := s.check(""); err != nil {
		return err
	}
	if t := s.outer(ctx); t != nil {
		return t.nested(func() error { return fn(s.attach(ctx, t)) })
	}
	for range maxTries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		t := newTxn(s)
		err := t.run(func() error { return fn(s.attach(ctx, t)) })
		if t.broken {
			runtime.Gosched()
			continue
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if c := t.commit(); c != kv.Conflict {
			return errorOf("", c)
		}
		runtime.Gosched()
	}
	return errTries("")
}

// maxTries is how often a function is called while others write what it has used. Of n
// that start at once with the same key the last one needs n tries.
const maxTries = 10_000

func errTries(key string) error {
	return &stateError{key: key, reason: ErrConflict, detail: "given up after 10,000 tries: each time what the function had used was written meanwhile, by others or by the function itself"}
}

// outer returns the running transaction of the same store that s or ctx is in.
func (s *SharedState) outer(ctx context.Context) *txn {
	if s.txn != nil {
		return s.txn
	}
	if in := StateFrom(ctx); in != nil && in.txn != nil && in.store == s.store {
		return in.txn
	}
	return nil
}

// attach returns a context in which keys use s in t.
func (s *SharedState) attach(ctx context.Context, t *txn) context.Context {
	pc := PipelineContextFrom(ctx)
	pc.State = &SharedState{store: s.store, scope: s.scope, parent: s, txn: t}
	return WithPipelineContext(ctx, pc)
}

// txn is one run of a transaction's function: what it has read and what it will write.
type txn struct {
	store              *kv.Store
	maxWrites, maxKeys int   // to be written, used
	maxBytes, maxNames int64 // of the values to be written, of the keys used

	mu     sync.Mutex // fn may use its context from several goroutines
	keys   map[string]*txnKey
	names  int64 // bytes of the keys, and of who wrote them
	writes int   // keys to be written
	bytes  int64 // of the values to be written
	broken bool  // a key has changed: run again
	over   bool  // fn has ended
}

// What a transaction may read even of a small store.
const (
	leastKeys  = 100_000
	leastNames = 64 << 20
)

func newTxn(s *SharedState) *txn {
	return &txn{
		store:     s.store,
		maxWrites: s.scope.MaxKeys, maxKeys: max(s.scope.MaxKeys, leastKeys),
		maxBytes: int64(s.scope.MaxBytes), maxNames: max(int64(s.scope.MaxBytes), leastNames),
		keys: make(map[string]*txnKey),
	}
}

// txnKey is a key as the transaction sees it.
type txnKey struct {
	state  *SharedState // that it was first used through; a view must not be collected before the end
	key    string       // in state
	was    uint64       // its version in the store when it was first used
	stored kv.Value
	txnView
}

// txnView is the part of a txnKey that writes change.
type txnView struct {
	value   kv.Value // without a box: absent
	version uint64   // zero: absent
	top     uint64   // the highest version given to the key so far
	dirty   bool
	life    kv.Life
	writers []*SharedState // whose bounds hold for what is written, each once
}

// run calls fn and marks the end of it, also for a panic or Goexit.
func (t *txn) run(fn func() error) error {
	defer func() {
		t.mu.Lock()
		t.over = true
		t.mu.Unlock()
	}()
	return fn()
}

// nested calls fn and takes back what it wrote unless it returns nil.
func (t *txn) nested(fn func() error) error {
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		return errOver("")
	}
	saved := make(map[string]txnView, len(t.keys))
	for full, k := range t.keys {
		saved[full] = k.txnView
	}
	writes, bytes := t.writes, t.bytes
	t.mu.Unlock()
	done := false
	defer func() {
		if done {
			return
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		t.writes, t.bytes = writes, bytes
		for full, k := range t.keys {
			if v, ok := saved[full]; ok {
				k.txnView = v
			} else {
				k.txnView = txnView{value: k.stored, version: k.was, top: k.was}
			}
		}
	}()
	err := fn()
	done = err == nil
	return err
}

func errOver(key string) error {
	return &stateError{key: key, reason: ErrNoState, detail: "the transaction is over"}
}

// useLocked returns the transaction's view of a key, after reading it if it is new to
// the transaction. Then all keys read before must still be as they were: so all that fn
// has read was there together at the instant of the last reading.
func (t *txn) useLocked(s *SharedState, key string) (*txnKey, error) {
	switch {
	case t.over:
		return nil, errOver(key)
	case t.broken:
		return nil, errBroken(key)
	}
	full := s.scope.Prefix + key
	if k := t.keys[full]; k != nil {
		return k, nil
	}
	if len(t.keys) >= t.maxKeys || int64(len(full)) > t.maxNames-t.names {
		return nil, &stateError{key: key, reason: ErrFull, detail: "the transaction uses too many keys"}
	}
	t.names += int64(len(full))
	k := &txnKey{state: s, key: key}
	k.stored, k.was = t.store.Get(s.scope, key)
	k.value, k.version, k.top = k.stored, k.was, k.was
	t.keys[full] = k
	if !t.stillLocked(k) {
		t.broken = true
		return nil, errBroken(key)
	}
	return k, nil
}

// stillLocked reports whether all keys are as they were when they were first used.
func (t *txn) stillLocked(last *txnKey) bool {
	absent := false
	for _, k := range t.keys {
		absent = absent || k != last && k.was == 0
	}
	if absent {
		// Absence has no version: a key may have come and gone again since. So all keys
		// are looked at in one instant.
		return t.store.Commit(t.opsLocked(func(*txnKey, *kv.Op) {})) == kv.OK
	}
	// No version comes twice: a key that has the same one as before has had it all the
	// time, so also when the last key was read.
	for _, k := range t.keys {
		if k != last {
			if _, version := t.store.Get(k.state.scope, k.key); version != k.was {
				return false
			}
		}
	}
	return true
}

// opsLocked asks of all keys to be as they were, with what fill adds.
func (t *txn) opsLocked(fill func(k *txnKey, op *kv.Op)) []kv.Op {
	ops := make([]kv.Op, 0, len(t.keys))
	for _, k := range t.keys {
		op := kv.Op{Scope: k.state.scope, Key: k.key, Cond: kv.Cond{Must: true, Was: k.was}}
		fill(k, &op)
		ops = append(ops, op)
	}
	return ops
}

func errBroken(key string) error {
	return &stateError{key: key, reason: ErrConflict, detail: "the transaction runs again"}
}

func (t *txn) get(s *SharedState, key string) (kv.Value, uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, err := t.useLocked(s, key)
	if err != nil {
		return kv.Value{}, 0, err
	}
	return k.value, k.version, nil
}

func (t *txn) put(s *SharedState, key string, cond kv.Cond, v kv.Value, life kv.Life) (uint64, kv.Code, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, err := t.useLocked(s, key)
	switch {
	case err != nil:
		return 0, kv.OK, err
	case cond.Must && cond.Was != k.version:
		return 0, kv.Conflict, nil
	case cond.Must && k.version != 0 && !v.Box.Datum.Fits(k.value.Box.Datum):
		return 0, kv.WrongType, nil
	}
	if c := t.writeLocked(s, k, v, life); c != kv.OK {
		return 0, c, nil
	}
	return k.version, kv.OK, nil
}

func (t *txn) add(s *SharedState, key string, delta kv.Value, life kv.Life) (uint64, kv.Code, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, err := t.useLocked(s, key)
	if err != nil {
		return 0, kv.OK, err
	}
	old := kv.Value{Box: delta.Box}
	if k.version != 0 {
		old = k.value
	}
	if old.Box != delta.Box {
		return 0, kv.WrongType, nil
	}
	sum, ok := delta.Box.Num.Add(old.Bits, delta.Bits)
	if !ok {
		return 0, kv.Overflow, nil
	}
	return sum, t.writeLocked(s, k, kv.Value{Box: delta.Box, Bits: sum}, life), nil
}

func (t *txn) remove(s *SharedState, key string, cond kv.Cond) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, err := t.useLocked(s, key)
	if err != nil {
		return err
	}
	if cond.Must && cond.Was != k.version {
		return errorOf(key, kv.Conflict)
	}
	if k.version == 0 {
		return nil
	}
	t.writeLocked(s, k, kv.Value{}, kv.Life{Clear: true})
	k.version = 0
	return nil
}

// writeLocked gives a key a new value. What a transaction holds is bounded like its
// store, so that a function that never ends cannot fill the memory.
func (t *txn) writeLocked(s *SharedState, k *txnKey, v kv.Value, life kv.Life) kv.Code {
	if k.was == 0 && v.Box != nil && !utf8.ValidString(k.key) {
		return kv.NotText
	}
	another := !slices.ContainsFunc(k.writers, func(w *SharedState) bool { return w.scope == s.scope })
	if another {
		if t.names > t.maxNames-kv.Overhead {
			return kv.Full
		}
		t.names += kv.Overhead
	}
	writes, bytes := t.writes, t.bytes
	if !k.dirty {
		writes++
	} else if k.value.Box != nil {
		bytes -= k.value.Box.Size
	}
	if v.Box != nil {
		bytes += v.Box.Size
		if writes > t.maxWrites && writes > t.writes || bytes > t.maxBytes && bytes > t.bytes {
			return kv.Full
		}
	}
	t.writes, t.bytes = writes, bytes
	k.top++
	k.value, k.version, k.dirty = v, k.top, true
	if life != kv.Keep {
		k.life = life
	}
	if another {
		k.writers = append(k.writers[:len(k.writers):len(k.writers)], s)
	}
	return kv.OK
}

// commit writes the transaction, if nothing that it used has changed.
func (t *txn) commit() kv.Code {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.writes == 0 {
		return kv.OK // what was read was there together
	}
	return t.store.Commit(t.opsLocked(func(k *txnKey, op *kv.Op) {
		switch {
		case k.dirty && k.value.Box != nil:
			op.Kind, op.Value, op.Life, op.Least = kv.Write, k.value, k.life, k.top
			for _, w := range k.writers {
				op.By = append(op.By, w.scope)
			}
		case k.dirty:
			op.Kind = kv.Remove
		}
	}))
}
