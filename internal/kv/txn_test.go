package kv

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"testing"
	"time"
)

// What a transaction remembers is bounded: of keys, and of their names.
func TestTxnUsesSoManyKeys(t *testing.T) {
	s, root := newTest(1, 1<<20)
	tx := newTxn(View{Store: s, Scope: root})
	for i := range leastKeys {
		tx.keys[fmt.Sprint(i)] = nil
	}
	if _, _, c := tx.get(root, "one more"); c != TooMany {
		t.Errorf("a key more ended with %d, want %d", c, TooMany)
	}
	tx = newTxn(View{Store: s, Scope: root})
	tx.names = tx.maxNames - 3
	if _, _, c := tx.get(root, "long"); c != TooMany {
		t.Errorf("a name more ended with %d, want %d", c, TooMany)
	}
}

// A deletion for which there is no room is refused, not forgotten.
func TestTxnDeletionsAreWrittenOrRefused(t *testing.T) {
	s, root := newTest(10, 1<<20)
	s.Put(root, "k", Cond{}, val("x"), Keep)
	tx := newTxn(View{Store: s, Scope: root})
	tx.names = tx.maxNames - 1
	if c := tx.delete(root, "k", Cond{}); c != Full {
		t.Errorf("the deletion ended with %d, want %d", c, Full)
	}
	if _, version, c := tx.get(root, "k"); version != 1 || c != OK {
		t.Errorf("the transaction sees version %d, %d; want 1", version, c)
	}
}

func TestTxnEndings(t *testing.T) {
	s, root := newTest(10, 1<<20)
	v, ctx := View{Store: s, Scope: root}, context.Background()
	var leaked View
	c, err := v.Txn(ctx, func(in View) error {
		leaked = in
		in.Put("k", Cond{}, val("x"), Keep)
		return errors.ErrUnsupported
	})
	if c != OK || err != errors.ErrUnsupported {
		t.Errorf("a function that fails: %d, %v", c, err)
	}
	if _, version := s.Get(root, "k"); version != 0 {
		t.Error("what it wrote took effect")
	}
	if _, c := leaked.Put("k", Cond{}, val("x"), Keep); c != Over {
		t.Errorf("a write after the end: %d, want %d", c, Over)
	}
	if c, err := leaked.Txn(ctx, func(View) error { return nil }); c != Over || err != nil {
		t.Errorf("a transaction in one that has ended: %d, %v; want %d", c, err, Over)
	}
	runs := 0
	c, err = v.Txn(ctx, func(in View) error {
		runs++
		in.Get("k")
		v.Put("k", Cond{}, val("past it"), Keep)
		_, c := in.Put("other", Cond{}, val("x"), Keep)
		if c != Again {
			t.Errorf("a write after the key was changed: %d, want %d", c, Again)
		}
		return nil
	})
	if c != GivenUp || err != nil || runs != MaxTries {
		t.Errorf("a function in its own way: %d, %v after %d runs; want %d after %d", c, err, runs, GivenUp, MaxTries)
	}
}

// A scope is counted while anybody refers to it, and no longer than until it is left: once.
func TestScopesAreCountedWhileTheyAreUsed(t *testing.T) {
	s, root := newTest(math.MaxInt, math.MaxInt)
	kept := s.Nest(root, "p/", 10, math.MaxInt)
	func() {
		s.Leave(s.Nest(root, "p/", 10, math.MaxInt)) // and then collected
		s.Nest(root, "p/", 10, math.MaxInt)          // collected
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
	s.Leave(kept)
	if n := s.Scopes(); n != 0 {
		t.Errorf("%d prefixes are counted, want none", n)
	}
}
