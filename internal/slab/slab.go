// Package slab allocates small values of one type some at a time: one allocation serves so many,
// and who keeps one keeps no more than its few neighbours alive. A [Slab] is safe for concurrent
// use; what it answers is the caller's, and nothing takes it back.
package slab

import "sync"

// Size is how many are allocated together. It makes the most of the allocator's size classes for
// a call.
const Size = 8

// Slab allocates values. The zero value is ready.
type Slab[T any] struct{ pool sync.Pool } // of *chunk[T]

type chunk[T any] struct {
	used int
	list *[Size]T
}

// Take is a new value.
func (s *Slab[T]) Take() *T {
	c, _ := s.pool.Get().(*chunk[T])
	if c == nil {
		c = new(chunk[T])
	}
	if c.list == nil || c.used == Size {
		c.list, c.used = new([Size]T), 0
	}
	v := &c.list[c.used]
	c.used++
	s.pool.Put(c)
	return v
}
