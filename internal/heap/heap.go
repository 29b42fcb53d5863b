// Package heap is a priority queue whose elements can be moved and removed from anywhere
// in it, which container/heap can too, without boxing and with the keys beside each other.
package heap

import (
	"cmp"
	"iter"
)

// Heap is a binary min-heap of things that know their own place in it, ordered by a
// key and then by sub. The keys stand in the array, so comparing touches no element.
type Heap[K cmp.Ordered, T any] struct {
	a     []entry[K, T]
	Place func(T, int32) // tells an element its index, -1 when it has left; set it before the first Push
}

// keep is for how many elements an empty heap keeps room.
const keep = 1024

type entry[K cmp.Ordered, T any] struct {
	key K
	sub uint64
	v   T
}

func (x *entry[K, T]) before(y *entry[K, T]) bool {
	return x.key < y.key || x.key == y.key && x.sub < y.sub
}

// Len is how many elements there are.
func (h *Heap[K, T]) Len() int { return len(h.a) }

// Top is the first element, and Min its key. There must be one.
func (h *Heap[K, T]) Top() T { return h.a[0].v }
func (h *Heap[K, T]) Min() K { return h.a[0].key }

// All is the elements, in no particular order.
func (h *Heap[K, T]) All() iter.Seq[T] {
	return func(yield func(T) bool) {
		for i := range h.a {
			if !yield(h.a[i].v) {
				return
			}
		}
	}
}

// Push adds v.
func (h *Heap[K, T]) Push(key K, sub uint64, v T) {
	h.a = append(h.a, entry[K, T]{key, sub, v})
	h.up(int32(len(h.a) - 1))
}

// Fix gives the element at i a new key.
func (h *Heap[K, T]) Fix(i int32, key K, sub uint64) {
	e := &h.a[i]
	if e.key == key && e.sub == sub {
		return
	}
	if e.key, e.sub = key, sub; len(h.a) > 1 {
		h.down(h.up(i))
	}
}

// Remove takes the element at i out.
func (h *Heap[K, T]) Remove(i int32) {
	n := int32(len(h.a) - 1)
	h.Place(h.a[i].v, -1)
	if i != n {
		h.a[i] = h.a[n]
	}
	h.a[n] = entry[K, T]{}
	h.a = h.a[:n]
	if n == 0 && cap(h.a) > keep { // the room for as many as there ever were
		h.a = nil
	}
	if i < n {
		h.down(h.up(i))
	}
}

func (h *Heap[K, T]) up(i int32) int32 {
	e := h.a[i]
	for i > 0 {
		p := (i - 1) / 2
		if !e.before(&h.a[p]) {
			break
		}
		h.a[i] = h.a[p]
		h.Place(h.a[i].v, i)
		i = p
	}
	h.a[i] = e
	h.Place(e.v, i)
	return i
}

func (h *Heap[K, T]) down(i int32) {
	e, n := h.a[i], int32(len(h.a))
	for {
		k := 2*i + 1
		if k >= n {
			break
		}
		if k+1 < n && h.a[k+1].before(&h.a[k]) {
			k++
		}
		if !h.a[k].before(&e) {
			break
		}
		h.a[i] = h.a[k]
		h.Place(h.a[i].v, i)
		i = k
	}
	h.a[i] = e
	h.Place(e.v, i)
}
