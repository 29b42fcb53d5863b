package kept

import (
	"math"
	"time"

	"github.com/sluice-go/sluice/internal/heap"
)

// times is those whose code runs and whose time is not over, and the timer for the next of them. Most
// code has as much time as that before it, so what comes later is due later: those stand in a list.
// Whose time is over before the last of the list stands in a heap. The Pool is locked.
type times[J any] struct {
	head, tail *Hand[J]
	early      heap.Heap[int64, *Hand[J]]
	timer      *time.Timer
	armed      int64 // when the timer fires, no later than the first needs; zero if it does not run
}

// limit has h be told at the instant due.
func (p *Pool[J]) limit(h *Hand[J], due int64) {
	t := &p.times
	h.due = due
	switch {
	case h.foreign:
		h.own = time.AfterFunc(time.Duration(due-p.clock.Now()), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.late(h, p.clock.Now())
		})
		return
	case t.tail == nil:
		t.head, t.tail = h, h
	case due >= t.tail.due:
		h.prev, t.tail.next, t.tail = t.tail, h, h
	default:
		if t.early.Place == nil {
			t.early.Place = func(h *Hand[J], i int32) { h.place = i + 1 }
		}
		t.early.Push(due, 0, h)
	}
	if t.armed != 0 && t.armed <= due {
		return
	}
	if t.timer == nil {
		t.timer = time.AfterFunc(time.Hour, p.fire)
	}
	t.arm(p.clock.Now())
}

// remove takes h out. If it is not there any more, it is late.
func (t *times[J]) remove(h *Hand[J]) {
	switch {
	case h.own != nil:
		h.own.Stop()
		h.own = nil
	case h.place > 0:
		t.early.Remove(h.place - 1)
	case h == t.head || h.prev != nil:
		if h.prev == nil {
			t.head = h.next
		} else {
			h.prev.next = h.next
		}
		if h.next == nil {
			t.tail = h.prev
		} else {
			h.next.prev = h.prev
		}
		h.prev, h.next = nil, nil
	}
}

// due is when the next is, or never.
func (t *times[J]) due() int64 {
	due := int64(math.MaxInt64)
	if t.head != nil {
		due = t.head.due
	}
	if t.early.Len() > 0 {
		due = min(due, t.early.Min())
	}
	return due
}

// arm makes the timer fire in time for the next, if there is one.
func (t *times[J]) arm(now int64) {
	if due := t.due(); due != math.MaxInt64 {
		t.armed = due
		t.timer.Reset(time.Duration(due - now))
	}
}

// rest stops the timer if the Pool is closed and nobody is left. Else it runs on: that it fires for
// somebody who has been removed since is cheaper than stopping it each time.
func (t *times[J]) rest(closed bool) {
	if closed && t.armed != 0 && t.due() == math.MaxInt64 {
		t.timer.Stop()
		t.armed = 0
	}
}

// fire tells those that are late.
func (p *Pool[J]) fire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, now := &p.times, p.clock.Now()
	t.armed = 0
	for t.head != nil && t.head.due <= now {
		h := t.head
		t.remove(h)
		p.late(h, now)
	}
	for t.early.Len() > 0 && t.early.Min() <= now {
		h := t.early.Top()
		t.early.Remove(0)
		p.late(h, now)
	}
	t.arm(now)
}

// late has whoever waits for h go on without the code, unless that is first or has more time by now. It does
// not block. The Pool is locked.
func (p *Pool[J]) late(h *Hand[J], now int64) {
	if h.term != nil {
		if due := h.term.Expire(now); due > now {
			p.limit(h, due)
			return
		}
	}
	if h.first.CompareAndSwap(nobody, deadline) {
		h.out <- false
	}
}
