package admit

import "cmp"

// heap is a binary min-heap of things that know their own place in it, ordered by a
// key and then by sub. The keys stand in the array, so comparing touches no element.
type heap[K cmp.Ordered, T any] struct {
	a     []entry[K, T]
	place func(T, int32) // tells an element its index, -1 when it has left
}

type entry[K cmp.Ordered, T any] struct {
	key K
	sub uint64
	v   T
}

func (x *entry[K, T]) before(y *entry[K, T]) bool {
	return x.key < y.key || x.key == y.key && x.sub < y.sub
}

func (h *heap[K, T]) len() int { return len(h.a) }
func (h *heap[K, T]) top() T   { return h.a[0].v }
func (h *heap[K, T]) min() K   { return h.a[0].key }

func (h *heap[K, T]) push(key K, sub uint64, v T) {
	h.a = append(h.a, entry[K, T]{key, sub, v})
	h.up(int32(len(h.a) - 1))
}

// fix gives the element at i a new key.
func (h *heap[K, T]) fix(i int32, key K, sub uint64) {
	e := &h.a[i]
	if e.key == key && e.sub == sub {
		return
	}
	e.key, e.sub = key, sub
	h.down(h.up(i))
}

func (h *heap[K, T]) remove(i int32) {
	n := int32(len(h.a) - 1)
	h.place(h.a[i].v, -1)
	if i != n {
		h.a[i] = h.a[n]
	}
	h.a[n] = entry[K, T]{}
	h.a = h.a[:n]
	if i < n {
		h.down(h.up(i))
	}
}

func (h *heap[K, T]) up(i int32) int32 {
	e := h.a[i]
	for i > 0 {
		p := (i - 1) / 2
		if !e.before(&h.a[p]) {
			break
		}
		h.a[i] = h.a[p]
		h.place(h.a[i].v, i)
		i = p
	}
	h.a[i] = e
	h.place(e.v, i)
	return i
}

func (h *heap[K, T]) down(i int32) {
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
		h.place(h.a[i].v, i)
		i = k
	}
	h.a[i] = e
	h.place(e.v, i)
}
