package kv

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// What a transaction remembers is bounded: of keys, and of their names.
func TestTxnUsesSoManyKeys(t *testing.T) {
	s, root := newTest(1, 1<<20)
	tx := newTxn(View{Store: s, Scope: root})
	for i := range leastKeys {
		tx.keys[fmt.Sprint(i)] = nil
	}
	_, _, c := tx.get(root, "one more")
	assert.Equal(t, TooMany, c, "a key more ended with")
	tx = newTxn(View{Store: s, Scope: root})
	tx.names = tx.maxNames - 3
	_, _, c = tx.get(root, "long")
	assert.Equal(t, TooMany, c, "a name more ended with")
}

// A deletion for which there is no room is refused, not forgotten.
func TestTxnDeletionsAreWrittenOrRefused(t *testing.T) {
	s, root := newTest(10, 1<<20)
	s.Put(root, "k", Cond{}, val("x"), Keep)
	tx := newTxn(View{Store: s, Scope: root})
	tx.names = tx.maxNames - 1
	assert.Equal(t, Full, tx.delete(root, "k", Cond{}), "the deletion ended with")
	if _, version, c := tx.get(root, "k"); version != 1 || c != nil {
		t.Errorf("the transaction sees version %d, %d; want 1", version, c)
	}
}

func TestTxnEndings(t *testing.T) {
	s, root := newTest(10, 1<<20)
	v, ctx := View{Store: s, Scope: root}, context.Background()
	var leaked View
	err := v.Txn(ctx, func(in View) error {
		leaked = in
		in.Put("k", Cond{}, val("x"), Keep)
		return errors.ErrUnsupported
	})
	if err != errors.ErrUnsupported {
		t.Errorf("a function that fails: %v", err)
	}
	_, version := s.Get(root, "k")
	assert.Zero(t, version, "what it wrote took effect")
	if _, c := leaked.Put("k", Cond{}, val("x"), Keep); c != Over {
		t.Errorf("a write after the end: %d, want %d", c, Over)
	}
	if err := leaked.Txn(ctx, func(View) error { return nil }); err != Over {
		t.Errorf("a transaction in one that has ended: %v; want %d", err, Over)
	}
	runs := 0
	err = v.Txn(ctx, func(in View) error {
		runs++
		in.Get("k")
		v.Put("k", Cond{}, val("past it"), Keep)
		_, c := in.Put("other", Cond{}, val("x"), Keep)
		assert.Equal(t, Again, c, "a write after the key was changed")
		return nil
	})
	if err != GivenUp || runs != MaxTries {
		t.Errorf("a function in its own way: %v after %d runs; want %d after %d", err, runs, GivenUp, MaxTries)
	}
}

// A scope is counted while anybody refers to it, and no longer than until it is left: once.
func TestScopesAreCountedWhileTheyAreUsed(t *testing.T) {
	s, root := newTest(math.MaxInt, math.MaxInt)
	kept := s.Nest(root, "p/", 10, math.MaxInt)
	func() {
		s.CloseScope(s.Nest(root, "p/", 10, math.MaxInt)) // and then collected
		s.Nest(root, "p/", 10, math.MaxInt)               // collected
		s.Nest(s.Nest(root, "q/", 10, math.MaxInt), "r/", 10, math.MaxInt)
	}()
	refs := func() int {
		s.lockAll()
		defer s.unlockAll()
		return s.prefixes.accounts["p/"].refs
	}
	for end := time.Now().Add(10 * time.Second); (s.Scopes() > 1 || refs() > 1) && time.Now().Before(end); {
		runtime.GC()
		runtime.Gosched()
	}
	if n, refs := s.Scopes(), refs(); n != 1 || refs != 1 {
		t.Errorf("%d prefixes are counted, one of them for %d scopes; want 1 for 1", n, refs)
	}
	s.CloseScope(kept)
	assert.Zero(t, s.Scopes(), "prefixes are counted")
}
