package kv

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// Datum is a stored value as its owner knows it. Its methods run no foreign code.
type Datum interface {
	// Fits reports whether a compare-and-swap may put the datum in the place of old.
	Fits(old Datum) bool
}

// Box is an immutable stored value. All numbers of one Go type share one box and differ
// in their bits; see [Store.NumBox].
type Box struct {
	Datum Datum
	Num   Num
	Size  int64 // estimated bytes, without the key and what the store adds; far from the largest int64
}

// Overhead is what the store itself needs for a key, in bytes: its entry, its slots, and
// the header of the key's string.
const Overhead = 96

func (b *Box) cost(key string) int64 { return int64(Overhead+len(key)) + b.Size }

// Value is a box with the bits of a number.
type Value struct {
	Box  *Box
	Bits uint64
}

// Code says how an operation ended.
type Code uint8

// The codes. All but OK mean that nothing was changed.
const (
	OK        Code = iota
	Conflict       // the version is another
	WrongType      // the key holds another type
	Overflow       // the sum is no value of the type
	Full           // it would go over a bound
	NotText        // the key is not UTF-8, so that no snapshot could hold it
	Closed         // the store, or the scope or one around it

	// Of transactions; see View.Txn.
	Again   // what its function has read has changed: the function should return, and runs again
	Over    // its function has ended
	TooMany // its function uses too many keys
	GivenUp // its function has run MaxTries times

	// Of a Far.
	Unsure  // it may have taken effect
	Away    // it has not: the engine is not there, or refuses
	Crowded // its function has run as often as it may
	Swap    // to be done by reading and writing; never told to users
)

var details = [...]string{
	Conflict: "the version is another",
	Full:     "the write would go over a bound of its SharedState",
	Closed:   "the SharedState is closed",
	Again:    "the transaction runs again",
	Over:     "the transaction is over",
	TooMany:  "the transaction uses too many keys",
	GivenUp: "given up after 10,000 tries: each time what the function had used " +
		"was written meanwhile, by others or by the function itself",
	Crowded: "given up after 1,000 tries: each time what the function had used " +
		"was written meanwhile, by others or by the function itself",
}

// Error is what there is to say beside the reason, or nothing.
func (c Code) Error() string { return details[c] }

// Err is nil for OK.
func (c Code) Err() error {
	if c == OK {
		return nil
	}
	return c
}

// Cond is what a write asks of the version that is there; zero stands for absent.
type Cond struct {
	Must bool
	Was  uint64
}

const (
	shardBits  = 6
	shardCount = 1 << shardBits
)

// Store is the table. It is safe for concurrent use.
type Store struct {
	Std Std

	far      Far // nil: the keys are here
	seed     maphash.Seed
	epoch    time.Time
	root     *Scope
	prefixes prefixes
	timers   sync.WaitGroup // timers that are set or whose function runs

	numBoxes atomic.Pointer[[]*Box]

	watchMu  sync.Mutex
	watchers atomic.Pointer[[]*watcher] // copied on write under watchMu

	shards [shardCount]shard
}

// Std are the boxes of the predeclared types of numbers, one for each kind.
type Std [Float64 + 1]*Box

// New returns an empty store with its root scope.
func New(maxKeys, maxBytes int, std Std) (*Store, *Scope) {
	s := &Store{
		Std:   std,
		seed:  maphash.MakeSeed(),
		epoch: time.Now(),
		root:  &Scope{MaxKeys: maxKeys, MaxBytes: maxBytes, account: new(account)},
	}
	for i := range s.shards {
		s.shards[i].id = uint8(i)
	}
	s.numBoxes.Store(new([]*Box))
	s.watchers.Store(new([]*watcher))
	return s, s.root
}

func (s *Store) now() int64 { return int64(time.Since(s.epoch)) }

// hash is the hash of a whole key.
func (s *Store) hash(key string) uint64 { return maphash.String(s.seed, key) }

// hashIn is the hash of prefix+key.
func (s *Store) hashIn(prefix, key string) uint64 {
	if prefix == "" {
		return s.hash(key)
	}
	var buf [128]byte
	return maphash.Bytes(s.seed, append(append(buf[:0], prefix...), key...))
}

func (s *Store) shard(hash uint64) *shard { return &s.shards[hash>>(64-shardBits)] }

// find returns the entry of a key of sc and the key's hash.
func (s *Store) find(sc *Scope, key string) (*entry, uint64) {
	if sc.Prefix != "" {
		return s.findIn(sc.Prefix, key)
	}
	h := maphash.String(s.seed, key)
	return s.shard(h).table.Load().find(uint32(h), key), h
}

func (s *Store) findIn(prefix, key string) (*entry, uint64) {
	h := s.hashIn(prefix, key)
	return s.shard(h).table.Load().findIn(uint32(h), prefix, key), h
}

func (s *Store) lockAll() {
	for i := range s.shards {
		s.shards[i].mu.Lock()
	}
}

func (s *Store) unlockAll() {
	for i := range s.shards {
		s.shards[i].mu.Unlock()
	}
}

// NumBox returns the store's one box for the numbers of the defined type that d stands
// for. The list has as many boxes as the program stores such types.
func (s *Store) NumBox(d Datum, n Num) *Box {
	list := s.numBoxes.Load()
	for _, b := range *list {
		if b.Datum == d {
			return b
		}
	}
	longer := append((*list)[:len(*list):len(*list)], &Box{Datum: d, Num: n})
	s.numBoxes.CompareAndSwap(list, &longer)
	return s.NumBox(d, n)
}

// putFast does a write that concerns nothing but its entry, if it is one.
func (s *Store) putFast(e *entry, cond Cond, v Value, life Life) (version uint64, c Code, done bool) {
	for n := 0; ; n++ {
		w := e.word.Load()
		if w&locked != 0 {
			pause(n)
			continue
		}
		if w&(dead|shut) != 0 || life == Endless && e.expires.Load() != 0 || e.due(s) {
			return 0, OK, false
		}
		old, version := e.box.Load(), e.version(w)
		if c := cond.check(version, old, v.Box); c != OK {
			if e.is(w) {
				return 0, c, true
			}
			continue
		}
		if old.Size != v.Box.Size {
			return 0, OK, false
		}
		if e.tryWrite(w, old, v) {
			return version + 1, OK, true
		}
	}
}

// check is what a write asks of a live entry.
func (c Cond) check(version uint64, old, box *Box) Code {
	switch {
	case !c.Must:
		return OK
	case c.Was != version:
		return Conflict
	case !box.Datum.Fits(old.Datum):
		return WrongType
	}
	return OK
}

func (s *Store) putSlow(sc *Scope, h uint64, key string, cond Cond, v Value, life Life) (uint64, Code) {
	sh := s.shard(h)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sc.Closed() {
		return 0, Closed
	}
	e := s.currentLocked(sh, h, sc.Prefix, key)
	if e == nil {
		if cond.Must && cond.Was != 0 {
			return 0, Conflict
		}
		return s.createLocked(sc, sh, h, sc.Prefix+key, v, life)
	}
	w := e.lock()
	old, version := e.box.Load(), e.version(w)
	c := cond.check(version, old, v.Box)
	if grown := v.Box.Size - old.Size; c == OK && grown != 0 && !s.chargeLocked(sc, e.key, 0, grown) {
		c = Full
	}
	if c != OK {
		e.word.Store(w)
		return 0, c
	}
	s.rewriteLocked(sh, e, w, v, life)
	return version + 1, OK
}

// rewriteLocked gives a locked entry, whose word was w, a new value, tells it, and frees the lock bit.
func (s *Store) rewriteLocked(sh *shard, e *entry, w uint64, v Value, life Life) {
	version := e.version(w) + 1
	s.writeLocked(sh, e, v, life)
	e.word.Store(e.stampLocked(w, version) | s.publishLocked(sh, e.key, v, version))
}

// currentLocked returns the live entry of a key, after removing one that is expired.
func (s *Store) currentLocked(sh *shard, h uint64, prefix, key string) *entry {
	e := sh.table.Load().findIn(uint32(h), prefix, key)
	if e != nil && e.due(s) {
		s.dropLocked(sh, e, e.lock())
		return nil
	}
	return e
}

// createLocked charges and adds a key that is absent.
func (s *Store) createLocked(sc *Scope, sh *shard, h uint64, full string, v Value, life Life) (uint64, Code) {
	if !utf8.ValidString(full) {
		return 0, NotText
	}
	if !s.chargeLocked(sc, full, 1, v.Box.cost(full)) {
		return 0, Full
	}
	version := sh.floor + 1
	e := &entry{key: full, hash: uint32(h)}
	s.writeLocked(sh, e, v, life)
	e.word.Store(e.stampLocked(0, version) | s.publishLocked(sh, full, v, version))
	sh.insertLocked(e)
	return version, OK
}

// writeLocked sets the fields of an entry that is locked or that nobody sees yet.
func (s *Store) writeLocked(sh *shard, e *entry, v Value, life Life) {
	e.setLocked(v)
	switch {
	case life > 0:
		s.expireAtLocked(sh, e, after(s.now(), life))
	case life == Endless && e.expires.Load() != 0:
		s.expireAtLocked(sh, e, 0)
	}
}

// dropLocked removes an entry whose lock bit is set and whose word was w. It frees the
// lock bit.
func (s *Store) dropLocked(sh *shard, e *entry, w uint64) {
	s.releaseLocked(e.key, e.box.Load().cost(e.key))
	s.unlinkLocked(sh, e, w)
	e.word.Store(w | dead)
}

// unlinkLocked is dropLocked without counting and without freeing the lock bit.
func (s *Store) unlinkLocked(sh *shard, e *entry, w uint64) {
	version := e.version(w) + 1
	sh.floor = max(sh.floor, version)
	if e.heap != 0 {
		s.expireAtLocked(sh, e, 0)
	}
	sh.removeLocked(e)
	s.publishLocked(sh, e.key, Value{}, version)
}

// addFast does an addition that concerns nothing but its entry, if it is one.
func (s *Store) addFast(e *entry, box *Box, delta uint64) (sum, version uint64, c Code, done bool) {
	for n := 0; ; n++ {
		w := e.word.Load()
		if w&locked != 0 {
			pause(n)
			continue
		}
		if w&(dead|shut) != 0 || e.due(s) {
			return 0, 0, OK, false
		}
		version = e.version(w) + 1
		if sum, c = e.value(w).plus(box, delta); c != OK {
			if e.is(w) {
				return 0, 0, c, true
			}
			continue
		}
		next, ok := e.grown(w, sum)
		if ok && e.word.CompareAndSwap(w, next) || !ok && e.rewrite(w, Value{box, sum}) {
			return sum, version, OK, true
		}
	}
}

func (s *Store) addSlow(sc *Scope, h uint64, key string, box *Box, delta uint64, life Life) (
	sum, version uint64, c Code,
) {
	sh := s.shard(h)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sc.Closed() {
		return 0, 0, Closed
	}
	e := s.currentLocked(sh, h, sc.Prefix, key)
	if e == nil {
		if sum, c = box.Num.Add(0, delta); c != OK {
			return 0, 0, c
		}
		version, c = s.createLocked(sc, sh, h, sc.Prefix+key, Value{box, sum}, life)
		return sum, version, c
	}
	w := e.lock()
	version = e.version(w) + 1
	if sum, c = e.value(w).plus(box, delta); c != OK {
		e.word.Store(w)
		return 0, 0, c
	}
	s.rewriteLocked(sh, e, w, Value{box, sum}, life)
	return sum, version, OK
}

// Delete removes a key. Without a condition an absent key is fine.
func (s *Store) Delete(sc *Scope, key string, cond Cond) Code {
	h := s.hashIn(sc.Prefix, key)
	sh := s.shard(h)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sc.Closed() {
		return Closed
	}
	e := s.currentLocked(sh, h, sc.Prefix, key)
	if e == nil {
		if cond.Must && cond.Was != 0 {
			return Conflict
		}
		return OK
	}
	w := e.lock()
	if cond.Must && cond.Was != e.version(w) {
		e.word.Store(w)
		return Conflict
	}
	s.dropLocked(sh, e, w)
	return OK
}

// Clear removes the keys under sc, one after the other.
func (s *Store) Clear(sc *Scope) {
	if s.far != nil {
		s.clearFar(sc)
		return
	}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for _, e := range sh.matchLocked(sc.Prefix) {
			s.dropLocked(sh, e, e.lock())
		}
		sh.mu.Unlock()
	}
}

// matchLocked collects the entries whose key starts with prefix.
func (sh *shard) matchLocked(prefix string) (list []*entry) {
	for e := range sh.table.Load().under(prefix) {
		list = append(list, e)
	}
	return list
}

// Close ends every watch, frees everything and makes all operations fail. When it
// returns, no timer is set and no sweep runs.
func (s *Store) Close() {
	s.root.done.Store(true)
	s.endWatches(s.root)
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		if sh.armed != 0 && sh.timer.Stop() {
			s.timers.Done()
		}
		sh.armed, sh.heap, sh.live, sh.used = 0, nil, 0, 0
		sh.table.Store(nil)
		sh.mu.Unlock()
	}
	s.timers.Wait()
}
