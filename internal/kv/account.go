package kv

import (
	"iter"
	"math"
	"runtime"
	"sync/atomic"
)

// account counts the keys under one prefix, whoever wrote them.
type account struct {
	keys, bytes atomic.Int64
	refs        int // scopes; under the mutexes of all shards
}

func (a *account) add(keys, bytes int64) {
	a.keys.Add(keys)
	a.bytes.Add(bytes)
}

// noLimit is the limit of an account that nobody who adds to it has bounded.
const noLimit = math.MaxInt64

// tryAdd adds unless the sums are then over a limit.
func (a *account) tryAdd(keys, bytes, maxKeys, maxBytes int64) bool {
	if !grow(&a.keys, keys, maxKeys) {
		return false
	}
	if !grow(&a.bytes, bytes, maxBytes) {
		a.keys.Add(-keys)
		return false
	}
	return true
}

func grow(n *atomic.Int64, by, limit int64) bool {
	if limit == noLimit {
		n.Add(by)
		return true
	}
	for {
		old := n.Load()
		if old+by > limit {
			return false
		}
		if n.CompareAndSwap(old, old+by) {
			return true
		}
	}
}

// Scope is a way into the store: a prefix, and the bounds for what is written through
// it. The root scope covers everything; the others are nested in it.
type Scope struct {
	Prefix            string
	MaxKeys, MaxBytes int
	parent            *Scope
	account           *account
	done              atomic.Bool
	cleanup           runtime.Cleanup // of a nested scope: ends its count
}

// Closed reports whether sc or a scope around it was closed.
func (sc *Scope) Closed() bool {
	for ; sc != nil; sc = sc.parent {
		if sc.done.Load() {
			return true
		}
	}
	return false
}

// within reports whether outer is sc or around it.
func (sc *Scope) within(outer *Scope) bool {
	for ; sc != nil; sc = sc.parent {
		if sc == outer {
			return true
		}
	}
	return false
}

// limits are the bounds that hold for a write which adds so much. What does not grow is
// never over: lowering a bound harms no key.
func (sc *Scope) limits(keys, bytes int64) (maxKeys, maxBytes int64) {
	maxKeys, maxBytes = noLimit, noLimit
	if keys > 0 {
		maxKeys = int64(sc.MaxKeys)
	}
	if bytes > 0 {
		maxBytes = int64(sc.MaxBytes)
	}
	return maxKeys, maxBytes
}

func (sc *Scope) counts(a *account) bool {
	for ; sc != nil; sc = sc.parent {
		if sc.account == a {
			return true
		}
	}
	return false
}

// prefixes holds the accounts of all open scopes but the root. It is read under the
// mutex of any shard and written under the mutexes of all.
type prefixes struct {
	accounts map[string]*account
	lengths  map[int]int // how many accounts have a prefix of that length
}

// of walks the accounts that count key.
func (p *prefixes) of(key string) iter.Seq[*account] {
	return func(yield func(*account) bool) {
		for n := range p.lengths {
			if n <= len(key) {
				if a := p.accounts[key[:n]]; a != nil && !yield(a) {
					return
				}
			}
		}
	}
}

// chargeLocked counts a change to key, or changes nothing and returns false if that
// went over a bound of sc or of a scope around it.
func (s *Store) chargeLocked(sc *Scope, key string, keys, bytes int64) bool {
	for l := sc; l != nil; l = l.parent {
		maxKeys, maxBytes := l.limits(keys, bytes)
		if !l.account.tryAdd(keys, bytes, maxKeys, maxBytes) {
			for u := sc; u != l; u = u.parent {
				u.account.add(-keys, -bytes)
			}
			return false
		}
	}
	if len(s.prefixes.lengths) > 0 {
		for a := range s.prefixes.of(key) {
			if !sc.counts(a) {
				a.add(keys, bytes)
			}
		}
	}
	return true
}

// releaseLocked gives back what a removed key was charged.
func (s *Store) releaseLocked(key string, bytes int64) {
	s.root.account.add(-1, -bytes)
	if len(s.prefixes.lengths) > 0 {
		for a := range s.prefixes.of(key) {
			a.add(-1, -bytes)
		}
	}
}

// Nest opens a scope in parent. Scopes with the same prefix share their count but not
// their bounds. The first scope of a prefix counts the keys that are there, which takes
// time in proportion to all keys of the store. A scope that nobody refers to any more is no
// longer counted; what is nested in it, a watch and a transaction refer to it.
func (s *Store) Nest(parent *Scope, prefix string, maxKeys, maxBytes int) *Scope {
	sc := &Scope{Prefix: parent.Prefix + prefix, MaxKeys: maxKeys, MaxBytes: maxBytes, parent: parent}
	s.lockAll()
	defer s.unlockAll()
	p := &s.prefixes
	a := p.accounts[sc.Prefix]
	if a == nil {
		a = new(account)
		for i := range s.shards {
			for e := range s.shards[i].table.Load().under(sc.Prefix) {
				a.add(1, e.box.Load().cost(e.key))
			}
		}
		if p.accounts == nil {
			p.accounts, p.lengths = make(map[string]*account), make(map[int]int)
		}
		p.accounts[sc.Prefix] = a
		p.lengths[len(sc.Prefix)]++
	}
	a.refs++
	sc.account = a
	sc.cleanup = runtime.AddCleanup(sc, s.uncount, sc.Prefix)
	return sc
}

// CloseScope closes a nested scope: its watches end and its prefix is no longer counted for
// it. Its keys stay.
func (s *Store) CloseScope(sc *Scope) {
	if sc.done.Swap(true) {
		return
	}
	sc.cleanup.Stop()
	s.endWatches(sc)
	s.uncount(sc.Prefix)
	runtime.KeepAlive(sc) // so that its cleanup had not begun when it was stopped
}

// uncount ends the count of a prefix for one of its scopes.
func (s *Store) uncount(prefix string) {
	s.lockAll()
	defer s.unlockAll()
	p := &s.prefixes
	a := p.accounts[prefix]
	if a.refs--; a.refs > 0 {
		return
	}
	delete(p.accounts, prefix)
	if p.lengths[len(prefix)]--; p.lengths[len(prefix)] == 0 {
		delete(p.lengths, len(prefix))
	}
}

// Usage returns how many keys are under sc, and their estimated size.
func (sc *Scope) Usage() (keys, bytes int) {
	return int(sc.account.keys.Load()), int(sc.account.bytes.Load())
}

// Scopes returns how many prefixes are counted, for tests.
func (s *Store) Scopes() int {
	s.lockAll()
	defer s.unlockAll()
	return len(s.prefixes.accounts)
}
