// Package recall finds what belongs to the keys of a call, if calls with the same keys come again
// and again.
//
// A [Table] is read without a lock, by [Table.Find]. Its other methods need that of its owner. It is
// bounded, and keys that come once find no place there: those that are put where others have been
// take the place of one of them.
package recall

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/sluice-go/sluice/internal/few"
)

// Keys is the keys of one call: of two calls of one table as many.
type Keys struct {
	few.List[string]
	hash uint64
}

var seed = maphash.MakeSeed()

// sum makes k ready to be looked for.
func (k *Keys) sum() {
	h := uint64(0)
	for i := range k.Len() {
		if h *= 0x9e3779b97f4a7c15; k.At(i) != "" {
			h ^= maphash.String(seed, k.At(i))
		}
	}
	k.hash = h
}

const (
	least = 16   // slots of a table that has some
	most  = 1024 // slots of a table: this many keys are found at most
	near  = 4    // slots at which an entry may stand, from that of its hash on
	marks = 1024 // how many keys that came lately are remembered, by one mark each
)

// Table is values by keys. It is empty at first.
type Table[V any] struct {
	Alive func(*V) bool // what is not alive need not be found
	Left  func(*V)      // is told what is found no more

	slots atomic.Pointer[slots[V]] // nil until there are some
	came  *[marks]uint16           // what came last, for each remainder of the hash; nil until something has
}

// slots are a power of two.
type slots[V any] []slot[V]

// slot is where an entry may stand, and what of its hash tells it from most others: of which one may
// be older than the other for a moment.
type slot[V any] struct {
	tag atomic.Uint32
	at  atomic.Pointer[entry[V]] // nil until there is one
}

func (p *slot[V]) put(e *entry[V]) {
	p.at.Store(e)
	p.tag.Store(tag(e.hash))
}

func tag(hash uint64) uint32 { return uint32(hash >> 32) }

// entry never changes.
type entry[V any] struct {
	hash  uint64
	keys  []string
	value *V
}

// Find is what was put for k, or nil. It needs no lock, and makes k ready for the other methods.
func (t *Table[V]) Find(k *Keys) *V {
	k.sum()
	return t.look(k)
}

func (t *Table[V]) look(k *Keys) *V {
	s := t.slots.Load()
	if s == nil {
		return nil
	}
	for i := range uint64(near) {
		if p := s.at(k.hash + i); p.tag.Load() == tag(k.hash) {
			if e := p.at.Load(); e != nil && e.hash == k.hash && e.is(k) {
				return e.value
			}
		}
	}
	return nil
}

func (s *slots[V]) at(i uint64) *slot[V] { return &(*s)[i&uint64(len(*s)-1)] }

func (e *entry[V]) is(k *Keys) bool {
	for i, x := range e.keys {
		if x != k.At(i) {
			return false
		}
	}
	return true
}

// ComesAgain notes that k has come, and reports whether it is worth a place: it has come before, and
// few others have since.
func (t *Table[V]) ComesAgain(k *Keys) bool {
	if t.came == nil {
		t.came = new([marks]uint16)
	}
	mark := &t.came[k.hash>>48%marks]
	again := *mark == uint16(k.hash)|1
	*mark = uint16(k.hash) | 1
	return again
}

// Put has k find v from now on. Where there is no room, what is not
// alive goes, else what stands in the way.
func (t *Table[V]) Put(k *Keys, v *V) {
	e := &entry[V]{hash: k.hash, value: v}
	for i := range k.Len() {
		e.keys = append(e.keys, strings.Clone(k.At(i))) // which may be a small part of something large
	}
	s := t.slots.Load()
	if s == nil {
		s = newSlots[V](least)
		t.slots.Store(s)
	}
	at := t.room(s, e)
	for ; at == nil && len(*s) < most; at = t.room(s, e) {
		s = t.grown(s)
		t.slots.Store(s)
	}
	if at == nil {
		at = s.at(e.hash + e.hash>>32%near)
	}
	if old := at.at.Load(); old != nil {
		t.Left(old.value)
	}
	at.put(e)
}

// Clear has nothing found any more.
func (t *Table[V]) Clear() {
	s := t.slots.Swap(nil)
	if s == nil {
		return
	}
	for i := range *s {
		if e := (*s)[i].at.Load(); e != nil {
			t.Left(e.value)
		}
	}
}

func newSlots[V any](n int) *slots[V] {
	s := make(slots[V], n)
	return &s
}

// room is a slot of s for e: that of its keys, else one that is free or whose value is not alive; nil
// if there is none.
func (t *Table[V]) room(s *slots[V], e *entry[V]) (free *slot[V]) {
	for i := range uint64(near) {
		p := s.at(e.hash + i)
		switch x := p.at.Load(); {
		case x != nil && x.hash == e.hash && slices.Equal(x.keys, e.keys):
			return p
		case free == nil && (x == nil || !t.Alive(x.value)):
			free = p
		}
	}
	return free
}

// grown is twice as many slots, with what is alive in s and finds room.
func (t *Table[V]) grown(s *slots[V]) *slots[V] {
	more := newSlots[V](2 * len(*s))
	for i := range *s {
		e := (*s)[i].at.Load()
		if e == nil {
			continue
		}
		if p := t.room(more, e); p != nil && t.Alive(e.value) {
			p.put(e)
		} else {
			t.Left(e.value)
		}
	}
	return more
}
