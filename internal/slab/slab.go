// Package slab allocates small values a few at a time: one allocation serves so many of them, and
// who keeps one keeps no more than its few neighbours alive. A value is zero when it is taken, and is
// never given back: the collector has it once nobody keeps any of its slab.
//
// It is for values that lead to no others of their kind, nor to what leads back to them. Else one slab
// leads to the next, and nothing is let go of as long as values are taken.
package slab

import "sync"

// size makes the most of the allocator's size classes for records of calls.
const size = 5

// Slab is where values are taken from. The zero value is ready; it is safe for concurrent use and
// must not be copied.
type Slab[T any] struct {
	pool sync.Pool
}

// chunk is what is left of one allocation.
type chunk[T any] struct {
	used int
	list *[size]T
}

// Take is a new value.
func (s *Slab[T]) Take() *T {
	c, _ := s.pool.Get().(*chunk[T])
	if c == nil {
		c = new(chunk[T])
	}
	if c.list == nil || c.used == size {
		c.list, c.used = new([size]T), 0
	}
	v := &c.list[c.used]
	c.used++
	s.pool.Put(c)
	return v
}
