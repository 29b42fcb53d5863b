package kv

import (
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// gone marks a slot whose entry was removed, so that probes go on behind it.
var gone = new(entry)

// table is a hash table with linear probing that is read without a lock. Entries never
// move within a table; growing makes a new one that holds the same entries.
type table struct {
	mask  uint32
	slots []atomic.Pointer[entry]
}

// find returns the entry of a whole key.
func (t *table) find(hash uint32, key string) *entry {
	if t == nil {
		return nil
	}
	for i := hash & t.mask; ; i = (i + 1) & t.mask {
		e := t.slots[i].Load()
		if e == nil {
			return nil
		}
		if e.hash != hash || e == gone {
			continue
		}
		if e.key == key {
			return e
		}
	}
}

// findIn returns the entry of prefix+key, without putting them together.
func (t *table) findIn(hash uint32, prefix, key string) *entry {
	if t == nil {
		return nil
	}
	for i := hash & t.mask; ; i = (i + 1) & t.mask {
		e := t.slots[i].Load()
		if e == nil {
			return nil
		}
		if e.hash != hash || e == gone || len(e.key) != len(prefix)+len(key) {
			continue
		}
		if e.key[:len(prefix)] == prefix && e.key[len(prefix):] == key {
			return e
		}
	}
}

// shard is a part of the table with what its mutex guards.
type shard struct {
	table atomic.Pointer[table] // written under mu
	id    uint8                 // immutable

	mu    sync.Mutex
	live  int    // entries
	used  int    // slots that are not nil
	floor uint64 // no deleted key had a higher version
	heap  lifetimes
	timer *time.Timer
	armed int64 // when the timer fires; zero means it does not

	_ [32]byte // keeps neighbours off this shard's cache lines
}

const minSlots = 8

// insertLocked adds an entry whose key is absent.
func (sh *shard) insertLocked(e *entry) {
	t := sh.table.Load()
	if t == nil || (sh.used+1)*4 > len(t.slots)*3 {
		t = sh.rebuildLocked(sh.live + 1)
	}
	sh.live++
	if t.place(e) {
		sh.used++
	}
}

// place puts e into the first free slot and reports whether that was a nil one.
func (t *table) place(e *entry) (fresh bool) {
	for i := e.hash & t.mask; ; i = (i + 1) & t.mask {
		if old := t.slots[i].Load(); old == nil || old == gone {
			t.slots[i].Store(e)
			return old == nil
		}
	}
}

// removeLocked takes e out of the table. Slots shrink with their entries.
func (sh *shard) removeLocked(e *entry) {
	t := sh.table.Load()
	for i := e.hash & t.mask; ; i = (i + 1) & t.mask {
		if t.slots[i].Load() != e {
			continue
		}
		if t.slots[(i+1)&t.mask].Load() == nil { // no probe goes on from here
			t.slots[i].Store(nil)
			sh.used--
		} else {
			t.slots[i].Store(gone)
		}
		break
	}
	sh.live--
	if len(t.slots) > minSlots && sh.live*8 < len(t.slots) || sh.live == 0 {
		sh.rebuildLocked(sh.live)
	}
}

// rebuildLocked makes a table for n entries, at most half full.
func (sh *shard) rebuildLocked(n int) *table {
	if n == 0 {
		sh.used = 0
		sh.table.Store(nil)
		return nil
	}
	size := minSlots
	for size < n*2 {
		size *= 2
	}
	t := &table{mask: uint32(size - 1), slots: make([]atomic.Pointer[entry], size)}
	for e := range sh.table.Load().entries {
		t.place(e)
	}
	sh.used = sh.live
	sh.table.Store(t)
	return t
}

// entries walks the table. Without the shard's mutex it sees every entry that is there
// all the time, and perhaps some that come or go meanwhile.
func (t *table) entries(yield func(*entry) bool) {
	if t == nil {
		return
	}
	for i := range t.slots {
		if e := t.slots[i].Load(); e != nil && e != gone && !yield(e) {
			return
		}
	}
}

// under walks the entries whose key starts with prefix.
func (t *table) under(prefix string) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for e := range t.entries {
			if strings.HasPrefix(e.key, prefix) && !yield(e) {
				return
			}
		}
	}
}
