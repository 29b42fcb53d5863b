package kv

import (
	"context"
	"slices"
	"sync"
	"unicode/utf8"
)

// MaxTries is how often a function is called while others write what it has used. Of n
// that start at once with the same key the last one needs n tries.
const MaxTries = 10_000

// What a transaction may use even of a small store.
const (
	leastKeys  = 100_000
	leastNames = 64 << 20
)

// txn is one run of a transaction's function: what that has read and what it will write.
// Nothing of it is in the store before the commit, which asks every key that was used to be
// as it was then.
type txn struct {
	store              *Store
	maxKeys, maxWrites int   // used, to be written
	maxNames, maxBytes int64 // of the keys used, of the values to be written

	mu     sync.Mutex // the function may use its view from several goroutines
	keys   map[string]*txnKey
	names  int64 // bytes of the keys, and of who wrote them
	writes int   // keys to be written
	bytes  int64 // of the values to be written
	broken bool  // a key has changed: the function runs again
	over   bool  // the function has ended
}

func newTxn(v View) *txn {
	keys, bytes := v.Scope.MaxKeys, int64(v.Scope.MaxBytes)
	maxKeys := max(keys, leastKeys)
	if far := v.Store.far; far != nil {
		maxKeys = far.MaxKeys()
	}
	return &txn{
		store:   v.Store,
		maxKeys: maxKeys, maxWrites: keys,
		maxNames: max(bytes, leastNames), maxBytes: bytes,
		keys: make(map[string]*txnKey),
	}
}

// txnKey is a key as the transaction sees it.
type txnKey struct {
	scope  *Scope // that it was first used through
	key    string // in scope
	was    uint64 // its version in the store when it was first used
	stored Value  // and its value
	pending
}

// pending is the part of a txnKey that writes change.
type pending struct {
	value   Value  // without a box: absent
	version uint64 // zero: absent
	top     uint64 // the highest version given to the key so far
	dirty   bool
	life    Life
	writers []*Scope // whose bounds hold for what is written, each once
}

// Txn calls fn with a view in a transaction, and again whenever others write what it has
// used, and then lets what it wrote take effect at one instant. Nothing is written if fn
// fails or does not return, and once ctx is done when fn is about to be called or has
// returned: then Txn returns fn's error or the cause of ctx. In a transaction, fn runs once
// and joins it; what it wrote is taken back if it fails.
func (v View) Txn(ctx context.Context, fn func(View) error) error {
	if t := v.inside(); t != nil {
		return t.nested(func() error { return fn(v) })
	}
	for n := 1; ; n++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		t := newTxn(v)
		err := t.run(func() error { return fn(View{v.Store, v.Scope, t}) })
		if !t.broken {
			if err == nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			if err != nil {
				return err
			}
			if err = t.commit(); err != Conflict {
				return err
			}
		}
		if err := v.Store.retry(ctx, n); err != nil {
			return err
		}
	}
}

// Join is v inside the transaction that in is inside of, if that is one of the same store.
func (v View) Join(in View) View {
	if t := in.inside(); t != nil && v.inside() == nil && in.Store == v.Store {
		v.via = t
	}
	return v
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
		return Over
	}
	saved := make(map[string]pending, len(t.keys))
	for full, k := range t.keys {
		saved[full] = k.pending
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
			if p, ok := saved[full]; ok {
				k.pending = p
			} else {
				k.pending = pending{value: k.stored, version: k.was, top: k.was}
			}
		}
	}()
	err := fn()
	done = err == nil
	return err
}

// useLocked returns a key of sc as the transaction sees it, after reading it if it is new to
// the transaction. Then all keys read before must still be as they were: so all that the
// function has read was there together at the instant of the last reading.
func (t *txn) useLocked(sc *Scope, key string) (*txnKey, error) {
	switch {
	case t.over:
		return nil, Over
	case t.broken:
		return nil, Again
	}
	full := sc.Prefix + key
	if k := t.keys[full]; k != nil {
		return k, nil
	}
	if len(t.keys) >= t.maxKeys || int64(len(full)) > t.maxNames-t.names {
		return nil, TooMany
	}
	t.names += int64(len(full))
	k := &txnKey{scope: sc, key: key}
	t.keys[full] = k
	if err := t.readLocked(full, k); err != nil {
		t.names -= int64(len(full))
		delete(t.keys, full)
		return nil, err
	}
	k.value, k.version, k.top = k.stored, k.was, k.was
	return k, nil
}

// readLocked reads a key that is new to t, and sees that all others are as they were.
func (t *txn) readLocked(full string, k *txnKey) error {
	if t.store.far != nil {
		return t.readFarLocked(full, k)
	}
	k.stored, k.was, _ = t.store.outside(k.scope).Get(k.key)
	if !t.unchangedLocked(k) {
		t.broken = true
		return Again
	}
	return nil
}

// unchangedLocked reports whether all keys are as they were when they were first used, which
// for the last one is now.
func (t *txn) unchangedLocked(last *txnKey) bool {
	absent := false
	for _, k := range t.keys {
		absent = absent || k != last && k.was == 0
	}
	if absent {
		// Absence has no version: a key may have come and gone again since. So all keys
		// are looked at in one instant.
		return t.store.Commit(t.opsLocked(func(*txnKey, *Op) {})) == OK
	}
	// No version comes twice: a key that has the same one as before has had it all the
	// time, so also when the last key was read.
	for _, k := range t.keys {
		if k != last {
			if _, version, _ := t.store.outside(k.scope).Get(k.key); version != k.was {
				return false
			}
		}
	}
	return true
}

// opsLocked asks of all keys to be as they were, with what fill adds.
func (t *txn) opsLocked(fill func(k *txnKey, op *Op)) []Op {
	ops := make([]Op, 0, len(t.keys))
	for _, k := range t.keys {
		op := Op{Scope: k.scope, Key: k.key, Cond: Cond{Must: true, Was: k.was}}
		fill(k, &op)
		ops = append(ops, op)
	}
	return ops
}

func (t *txn) get(sc *Scope, key string) (Value, uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, err := t.useLocked(sc, key)
	if err != nil {
		return Value{}, 0, err
	}
	return k.value, k.version, nil
}

func (t *txn) put(sc *Scope, key string, cond Cond, v Value, life Life) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, err := t.useLocked(sc, key)
	switch {
	case err != nil:
		return 0, err
	case cond.Must && cond.Was != k.version:
		return 0, Conflict
	case cond.Must && k.version != 0 && !v.Box.Datum.Fits(k.value.Box.Datum):
		return 0, WrongType
	}
	if c := t.writeLocked(sc, k, v, life); c != OK {
		return 0, c
	}
	return k.version, nil
}

func (t *txn) add(sc *Scope, key string, delta Value, life Life) (sum, version uint64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, err := t.useLocked(sc, key)
	if err != nil {
		return 0, 0, err
	}
	old := Value{Box: delta.Box}
	if k.version != 0 {
		old = k.value
	}
	sum, c := old.plus(delta.Box, delta.Bits)
	if c == OK {
		c = t.writeLocked(sc, k, Value{Box: delta.Box, Bits: sum}, life)
	}
	return sum, k.version, c.Err()
}

func (t *txn) delete(sc *Scope, key string, cond Cond) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, err := t.useLocked(sc, key)
	switch {
	case err != nil:
		return err
	case cond.Must && cond.Was != k.version:
		return Conflict
	case k.version == 0:
		return nil
	}
	if c := t.writeLocked(sc, k, Value{}, Endless); c != OK {
		return c
	}
	k.version = 0
	return nil
}

// writeLocked gives a key a new value. What a transaction holds is bounded like its
// store, so that a function that never ends cannot fill the memory.
func (t *txn) writeLocked(sc *Scope, k *txnKey, v Value, life Life) Code {
	if k.was == 0 && v.Box != nil && !utf8.ValidString(k.key) {
		return NotText
	}
	another := !slices.Contains(k.writers, sc)
	if another {
		if t.names > t.maxNames-Overhead {
			return Full
		}
		t.names += Overhead
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
			return Full
		}
	}
	t.writes, t.bytes = writes, bytes
	k.top++
	k.value, k.version, k.dirty = v, k.top, true
	if life != Keep {
		k.life = life
	}
	if another {
		k.writers = append(k.writers[:len(k.writers):len(k.writers)], sc)
	}
	return OK
}

// commit writes the transaction, if nothing that it used has changed.
func (t *txn) commit() error {
	t.mu.Lock()
	writes, ops := t.writes, t.opsLocked(func(k *txnKey, op *Op) {
		switch {
		case k.dirty && k.value.Box != nil:
			op.Kind, op.Value, op.Life, op.Least, op.By = Write, k.value, k.life, k.top, k.writers
		case k.dirty:
			op.Kind = Remove
		}
		op.Stored = k.stored
	})
	t.mu.Unlock() // it is over: nobody writes any more
	switch {
	case writes == 0:
		return nil // what was read was there together
	case t.store.far != nil:
		return t.store.far.Commit(ops)
	}
	return t.store.Commit(ops).Err()
}
