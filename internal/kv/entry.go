package kv

import (
	"runtime"
	"sync/atomic"
)

// An entry's word says what most writes change, so that such a write is one compare and swap:
//
//	growth (16 bits) | writes (45) | shut | dead | locked
const (
	locked = 1 << iota // a writer is at work: the other fields may be torn
	dead               // no longer in the table: look the key up again
	shut               // whoever writes must hold the mutex of the shard
	step               // one write

	growthAt = 64 - 16
	writes   = 1<<growthAt - step
)

// entry is one key. Its other fields change only while the lock bit is set. It fills a cache line.
type entry struct {
	key     string // immutable
	word    atomic.Uint64
	base    atomic.Uint64 // the version, less the writes that the word counts
	bits    atomic.Uint64 // the number, less the growth that the word says
	box     atomic.Pointer[Box]
	expires atomic.Int64 // the first instant at which it is gone; zero means never
	hash    uint32       // immutable
	heap    int32        // one more than the place in the shard's heap; under the shard's mutex
}

// version is the entry's version while its word is w.
func (e *entry) version(w uint64) uint64 { return e.base.Load() + w&writes/step }

// value is what the entry holds while its word is w.
func (e *entry) value(w uint64) Value {
	return Value{e.box.Load(), e.bits.Load() + uint64(int64(w)>>growthAt)}
}

// lock sets the lock bit and returns the word without it.
func (e *entry) lock() uint64 {
	for n := 0; ; n++ {
		w := e.word.Load()
		if w&locked != 0 {
			pause(n)
		} else if e.word.CompareAndSwap(w, w|locked) {
			return w
		}
	}
}

// pause is called after the n-th look at a lock bit that was set. Its holder waits for
// nothing, but may have been preempted.
func pause(n int) {
	if n > 16 {
		runtime.Gosched()
	}
}

// is reports whether the word is still w: all that was read since it was w, was there together.
func (e *entry) is(w uint64) bool { return e.word.Load() == w }

// tryWrite makes v the value if the word is still w, which was open, and the box old.
func (e *entry) tryWrite(w uint64, old *Box, v Value) bool {
	if old == v.Box {
		if next, ok := e.grown(w, v.Bits); ok {
			return e.word.CompareAndSwap(w, next)
		}
	}
	return e.rewrite(w, v)
}

// grown is the word after w if the number becomes bits. It is not ok if it has no room for the growth,
// or for one more write.
func (e *entry) grown(w, bits uint64) (next uint64, ok bool) {
	growth := int64(bits - e.bits.Load())
	next = w&writes + step + uint64(growth)<<growthAt
	return next, int64(next)>>growthAt == growth
}

// rewrite is tryWrite under the lock bit.
func (e *entry) rewrite(w uint64, v Value) bool {
	if !e.word.CompareAndSwap(w, w|locked) {
		return false
	}
	e.setLocked(v)
	e.word.Store(e.stampLocked(w, e.version(w)+1))
	return true
}

// setLocked sets the value of an entry that is locked or that nobody sees yet.
func (e *entry) setLocked(v Value) {
	if e.box.Load() != v.Box {
		e.box.Store(v.Box)
	}
	if e.bits.Load() != v.Bits {
		e.bits.Store(v.Bits)
	}
}

// stampLocked gives such an entry, whose word was w, that version with its new value, and returns the
// word with which both become visible. It is another than w, and than all others of at least two days
// of writing.
func (e *entry) stampLocked(w, version uint64) uint64 {
	next := (w&writes + step) & writes
	if base := version - next/step; e.base.Load() != base {
		e.base.Store(base)
	}
	return next
}

// read returns the entry's value at one instant; it is not ok if dead or expired. The
// clock is read while the word stands still: with a value that is old by the time the
// clock is read, a key would look expired that was refreshed in between.
func (e *entry) read(s *Store) (v Value, version uint64, ok bool) {
	for n := 0; ; n++ {
		w := e.word.Load()
		if w&locked != 0 {
			pause(n)
			continue
		}
		v, version = e.value(w), e.version(w)
		ok = w&dead == 0 && !e.due(s)
		if e.is(w) {
			return v, version, ok
		}
	}
}

// hold is read by who holds the mutex of the shard. From then on the entry stands still until that is
// unlocked, and who writes it next must lock it.
func (e *entry) hold(s *Store) (v Value, version uint64, ok bool) {
	e.word.Store(e.lock() | shut)
	return e.read(s)
}

// due reports whether the entry's lifetime is over. It holds still under the entry's
// lock bit, or under the mutex of its shard.
func (e *entry) due(s *Store) bool { return e.expires.Load() != 0 && e.dueNow(s) }

func (e *entry) dueNow(s *Store) bool { return e.dueAt(s.now()) }

func (e *entry) dueAt(now int64) bool {
	x := e.expires.Load()
	return x != 0 && now >= x
}
