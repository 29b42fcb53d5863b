package engine

import "time"

// opLog remembers the answers to named operations, for a while and up to a number.
type opLog[K comparable, V any] struct {
	keep  int64
	max   int
	found map[K]V
	order []opEntry[K] // oldest first, from head on
	head  int
	gone  func(V) // told of what is forgotten, if not nil
}

type opEntry[K comparable] struct {
	id K
	at int64 // when it is forgotten
}

func newOpLog[K comparable, V any](keep time.Duration, most int) opLog[K, V] {
	return opLog[K, V]{keep: int64(keep), max: most, found: map[K]V{}}
}

func (l *opLog[K, V]) get(now int64, id K) (V, bool) {
	l.forget(now)
	v, ok := l.found[id]
	return v, ok
}

// put remembers v under id, which must not be there.
func (l *opLog[K, V]) put(now int64, id K, v V) {
	l.forget(now)
	if len(l.found) >= l.max {
		l.shift()
	}
	l.found[id] = v
	l.order = append(l.order, opEntry[K]{id, now + l.keep})
}

func (l *opLog[K, V]) forget(now int64) {
	for l.head < len(l.order) && l.order[l.head].at <= now {
		l.shift()
	}
}

func (l *opLog[K, V]) shift() {
	id := l.order[l.head].id
	if l.gone != nil {
		l.gone(l.found[id])
	}
	delete(l.found, id)
	l.head++
	if l.head > len(l.order)/2 {
		n := copy(l.order, l.order[l.head:])
		clear(l.order[n:])
		l.order, l.head = l.order[:n], 0
	}
}
