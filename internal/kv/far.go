package kv

import (
	"context"
	"runtime"
	"unicode/utf8"
)

// Far is where the keys of a store live that are not in the process: see [NewFar]. Its keys are whole, UTF-8
// where they are written. Its errors are a [Code], a [*Failed], or what encoding a value gave.
type Far interface {
	Get(key string) (Value, uint64, error)
	Put(key string, cond Cond, v Value, life Life) (version uint64, err error)

	// Add adds as [View.Add] does, or says [Swap]: it is to be done by reading and writing.
	Add(key string, delta Value, life Life) (sum, version uint64, err error)
	Delete(key string, cond Cond) error

	// Fetch returns the keys as they were together at one instant, in their order, and Commit does all ops
	// at one instant, or none. Both take [Far.MaxKeys] at most. What an op keeps of a lifetime is that of Was.
	Fetch(keys []string) ([]Entry, error)
	Commit(ops []Op) error
	MaxKeys() int

	// List and Watch yield entries as those of a store do, until yield returns false or ended is closed or has
	// something. An entry of List that has an Err is the last.
	List(prefix string, yield func(Entry) bool)
	Watch(ctx context.Context, ended <-chan struct{}, prefix string, yield func(Entry) bool)

	// Retry waits before what has met others for the n-th time is tried again, until ctx ends. It is GivenUp or
	// Crowded if that was the last time.
	Retry(ctx context.Context, n int) error
	Close()
}

// Failed is how an operation of a Far ended, and why.
type Failed struct {
	Code
	Cause error
}

// Error is what the cause says.
func (f *Failed) Error() string { return f.Cause.Error() }

// Unwrap is the cause.
func (f *Failed) Unwrap() error { return f.Cause }

// NewFar is New for a store whose keys live at far. Bounds of its scopes are not kept.
func NewFar(far Far, std Std) (*Store, *Scope) {
	s, root := New(leastKeys, leastNames, std) // the bounds of what a transaction holds
	s.far = far
	return s, root
}

// Far is where the keys of s live, nil if that is the process.
func (s *Store) Far() Far { return s.far }

// way is how views go that are in no transaction.
func (s *Store) way() via {
	if s.far == nil {
		return nil
	}
	return farWay{s.far}
}

// farWay leads to a Far.
type farWay struct{ far Far }

func (w farWay) get(sc *Scope, key string) (Value, uint64, error) {
	full := sc.Prefix + key
	if !utf8.ValidString(full) {
		return Value{}, 0, nil
	}
	return w.far.Get(full)
}

func (w farWay) put(sc *Scope, key string, cond Cond, v Value, life Life) (uint64, error) {
	full, err := writable(sc, key)
	if err != nil {
		return 0, err
	}
	return w.far.Put(full, cond, v, life)
}

func (w farWay) add(sc *Scope, key string, delta Value, life Life) (sum, version uint64, err error) {
	full, err := writable(sc, key)
	if err != nil {
		return 0, 0, err
	}
	return w.far.Add(full, delta, life)
}

func (w farWay) delete(sc *Scope, key string, cond Cond) error {
	full, err := writable(sc, key)
	switch {
	case err == nil:
		return w.far.Delete(full, cond)
	case err == NotText && cond.Must && cond.Was != 0:
		return Conflict
	case err == NotText: // it cannot be there
		return nil
	}
	return err
}

// writable is the whole key, or why nothing can be written under it.
func writable(sc *Scope, key string) (string, error) {
	full := sc.Prefix + key
	switch {
	case sc.Closed():
		return "", Closed
	case !utf8.ValidString(full):
		return "", NotText
	}
	return full, nil
}

// retry is called before the function of an Update or a Txn runs again, for the n-th time: others have written
// what it used.
func (s *Store) retry(ctx context.Context, n int) error {
	switch {
	case s.far != nil:
		return s.far.Retry(ctx, n)
	case n >= MaxTries:
		return GivenUp
	}
	runtime.Gosched() // the other writer may be about to write again
	return nil
}

// Retry is to be called by who does with v what others may come between, before trying for the n-th time again.
func (v *View) Retry(ctx context.Context, n int) error { return v.Store.retry(ctx, n) }

// IsFar reports whether v is a way to a Far, and in no transaction.
func (v *View) IsFar() bool {
	_, far := v.via.(farWay)
	return far
}

// readFarLocked reads k, which has just been put among the keys of t, and all others with it at one instant: they
// must still be as they were.
func (t *txn) readFarLocked(full string, k *txnKey) error {
	names := make([]string, 1, len(t.keys))
	names[0] = full
	for name := range t.keys {
		if name != full {
			names = append(names, name)
		}
	}
	list, err := t.store.far.Fetch(names)
	if err != nil {
		return err
	}
	for i, e := range list[1:] {
		if t.keys[names[i+1]].was != e.Version {
			t.broken = true
			return Again
		}
	}
	k.stored, k.was = list[0].Value, list[0].Version
	return nil
}

// listFar is List.
func (s *Store) listFar(sc *Scope, prefix string, yield func(Entry) bool) {
	s.far.List(sc.Prefix+prefix, func(e Entry) bool {
		if sc.Closed() {
			return false
		}
		if e.Err == nil {
			e.Key = e.Key[len(sc.Prefix):]
		}
		return yield(e)
	})
}

// watchFar is Watch. The store, which is empty, tells it of nothing but its end.
func (s *Store) watchFar(ctx context.Context, sc *Scope, prefix string, yield func(e Entry, lost int) bool) {
	w := &watcher{scope: sc, wake: make(chan struct{}, 1)}
	s.register(w)
	defer s.unregister(w)
	if sc.Closed() {
		return
	}
	s.far.Watch(ctx, w.wake, sc.Prefix+prefix, func(e Entry) bool {
		if ctx.Err() != nil || w.isEnded() {
			return false
		}
		e.Key = e.Key[len(sc.Prefix):]
		return yield(e, 0)
	})
}

// clearFar is Clear.
func (s *Store) clearFar(sc *Scope) {
	var ops []Op
	flush := func() bool {
		err := s.far.Commit(ops)
		ops = ops[:0]
		return err == nil
	}
	s.far.List(sc.Prefix, func(e Entry) bool {
		if e.Err != nil || sc.Closed() {
			return false
		}
		ops = append(ops, Op{Scope: sc, Key: e.Key[len(sc.Prefix):], Kind: Remove})
		return len(ops) < s.far.MaxKeys() || flush()
	})
	if len(ops) > 0 && !sc.Closed() {
		flush()
	}
}
