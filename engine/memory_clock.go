package engine

import (
	"container/heap"
	"math"
	"time"
)

// clock counts nanoseconds from when it was made; it does not go back.
type clock struct{ epoch time.Time }

func newClock() clock { return clock{time.Now()} }

func (c clock) now() int64 { return int64(time.Since(c.epoch)) }

func (c clock) time(at int64) time.Time { return c.epoch.Add(time.Duration(at)) }

// never is the end of what has none.
const never = math.MaxInt64

// end is when what begins now and lasts ttl is over.
func end(now int64, ttl time.Duration) int64 {
	if ttl == 0 || int64(ttl) > never-now {
		return never
	}
	return now + int64(ttl)
}

// due is something that ends; index is its place in an agenda, -1 outside.
type due[T any] struct {
	at    int64
	index int
	what  T
}

// agenda holds what ends, the soonest first, and rings a timer for it. Its owner's lock
// guards it; ring must take that lock.
type agenda[T any] struct {
	heap  dueHeap[T]
	clock clock
	ring  func()
	timer *time.Timer
	rings int64 // when the timer is set for
}

type dueHeap[T any] []*due[T]

func (h dueHeap[T]) Len() int           { return len(h) }
func (h dueHeap[T]) Less(i, j int) bool { return h[i].at < h[j].at }
func (h dueHeap[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *dueHeap[T]) Push(x any) {
	d := x.(*due[T])
	d.index = len(*h)
	*h = append(*h, d)
}
func (h *dueHeap[T]) Pop() any {
	old := *h
	d := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	d.index = -1
	return d
}

// set makes d end at at, never meaning not at all.
func (a *agenda[T]) set(d *due[T], at int64) {
	d.at = at
	switch {
	case at == never:
		a.drop(d)
	case d.index < 0:
		heap.Push(&a.heap, d)
	default:
		heap.Fix(&a.heap, d.index)
	}
	a.arm()
}

func (a *agenda[T]) drop(d *due[T]) {
	if d.index >= 0 {
		heap.Remove(&a.heap, d.index)
	}
}

// next takes out the first that has ended.
func (a *agenda[T]) next(now int64) (*due[T], bool) {
	if len(a.heap) == 0 || a.heap[0].at > now {
		return nil, false
	}
	return heap.Pop(&a.heap).(*due[T]), true
}

// arm sets the timer for the first. A ring that comes too early, because the first was
// dropped, does no harm.
func (a *agenda[T]) arm() {
	if len(a.heap) == 0 {
		return
	}
	at := a.heap[0].at
	if a.timer != nil && a.rings <= at && a.rings != never {
		return
	}
	a.rings = at
	wait := time.Duration(max(0, at-a.clock.now()))
	if a.timer == nil {
		a.timer = time.AfterFunc(wait, a.ring)
	} else {
		a.timer.Reset(wait)
	}
}

// rang says that the timer is not set any more, and sets it for what is left.
func (a *agenda[T]) rang() {
	a.rings = never
	a.arm()
}

func (a *agenda[T]) stop() {
	if a.timer != nil {
		a.timer.Stop()
	}
	a.heap = nil
}
