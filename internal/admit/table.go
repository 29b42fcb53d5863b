package admit

import "hash/maphash"

// table finds things by a hash and by what else they are. Unlike a map it costs nearly nothing
// where things come and go all the time, as what is there for who waits does. The zero value is
// empty.
type table[T any] struct {
	n     int
	slots []slot[T] // a power of two of them, at most half in use: each thing is at the first free one from its hash on
}

type slot[T any] struct {
	hash uint64
	v    *T // nil: free
}

// find is what has that hash and is what is sought, or nil.
func (t *table[T]) find(hash uint64, is func(*T) bool) *T {
	if t.n == 0 {
		return nil
	}
	last := uint64(len(t.slots) - 1)
	for i := hash & last; ; i = (i + 1) & last {
		if s := &t.slots[i]; s.v == nil || s.hash == hash && is(s.v) {
			return s.v
		}
	}
}

// add puts v, which is not there, under that hash.
func (t *table[T]) add(hash uint64, v *T) {
	if 2*t.n >= len(t.slots) {
		old := t.slots
		t.slots = make([]slot[T], max(8, 2*len(old)))
		for _, s := range old {
			if s.v != nil {
				t.put(s)
			}
		}
	}
	t.n++
	t.put(slot[T]{hash, v})
}

func (t *table[T]) put(s slot[T]) {
	last := uint64(len(t.slots) - 1)
	i := s.hash & last
	for t.slots[i].v != nil {
		i = (i + 1) & last
	}
	t.slots[i] = s
}

// remove takes v, which is there under that hash, out.
func (t *table[T]) remove(hash uint64, v *T) {
	last := uint64(len(t.slots) - 1)
	i := hash & last
	for t.slots[i].v != v {
		i = (i + 1) & last
	}
	for next := (i + 1) & last; t.slots[next].v != nil; next = (next + 1) & last {
		if (next-t.slots[next].hash)&last >= (next-i)&last { // it may stand at i
			t.slots[i] = t.slots[next]
			i = next
		}
	}
	t.slots[i] = slot[T]{}
	t.n--
	t.shrink()
}

// empty takes everything out, and hands it over.
func (t *table[T]) empty(to func(*T)) {
	for i := range t.slots {
		if v := t.slots[i].v; v != nil {
			t.slots[i] = slot[T]{}
			t.n--
			to(v)
		}
	}
	t.shrink()
}

// shrink gives up the room for as many as there ever were.
func (t *table[T]) shrink() {
	if t.n == 0 && len(t.slots) > keep {
		t.slots = nil
	}
}

// all is what is there, to be read: nothing may be added or removed meanwhile.
func (t *table[T]) all(yield func(*T) bool) {
	for i := range t.slots {
		if v := t.slots[i].v; v != nil && !yield(v) {
			return
		}
	}
}

// mix is a multiplicative hash step.
func mix(h, x uint64) uint64 {
	h ^= x
	h *= 0x9e3779b97f4a7c15
	return h ^ h>>29
}

var seed = maphash.MakeSeed()

// hashName is the hash of a tenant's name. Callers choose names: what they hash to is not known.
func hashName(name string) uint64 {
	if name == "" { // as most are
		return 0
	}
	return maphash.String(seed, name)
}
