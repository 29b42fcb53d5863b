// Package slab allocates small values a few at a time: one allocation serves so many of them, and
// who keeps one keeps no more than its few neighbours alive. A value is zero when it is taken, or
// as [Slab].Fill made it, and is never given back: the collector has it once nobody keeps any of its slab.
package slab

import "sync"

// size makes the most of the allocator's size classes for what a call needs.
const size = 5

// Slab is where values are taken from. The zero value is ready; it is safe for concurrent use and
// must not be copied.
type Slab[T any] struct {
	Fill func([]T) // makes new values ready, if they are not zero; nil otherwise

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
		if s.Fill != nil {
			s.Fill(c.list[:])
		}
	}
	v := &c.list[c.used]
	c.used++
	s.pool.Put(c)
	return v
}
