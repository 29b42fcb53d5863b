package compare

import (
	"context"
	"sync"
)

// fifoSlots are slots with a first-in-first-out queue, guarded by the lock of whoever owns
// them. A slot that is given back goes straight to the first waiter. Waiters are used
// again, so that waiting allocates nothing once the queue has been as long before.
//
// It leaves out: priorities, widths other than one, resizing, a bound of the queue.
type fifoSlots struct {
	limit, used int
	queue       waiterList
	spare       *waiter
	queued      int // how many had to wait, ever
}

// waiter is where a goroutine waits: one token in ready is its slot.
type waiter struct {
	ready      chan struct{}
	list       *waiterList // nil once it has a slot
	prev, next *waiter
}

// takeLocked takes a slot and returns nil, or the waiter to wait at.
func (s *fifoSlots) takeLocked() *waiter {
	if s.used < s.limit {
		s.used++
		return nil
	}
	w := s.waiterLocked()
	s.queue.push(w)
	return w
}

func (s *fifoSlots) waiterLocked() *waiter {
	s.queued++
	w := s.spare
	if w == nil {
		return &waiter{ready: make(chan struct{}, 1)}
	}
	s.spare, w.next = w.next, nil
	return w
}

// giveLocked gives a slot back and returns who has it now; its ready is to be sent to once
// the lock is gone.
func (s *fifoSlots) giveLocked() *waiter {
	w := s.queue.first
	if w == nil {
		s.used--
		return nil
	}
	w.list.remove(w)
	return w
}

// wait waits at w, which mu guards, for the slot or the end of ctx.
func (s *fifoSlots) wait(ctx context.Context, mu *sync.Mutex, w *waiter) error {
	done := ctx.Done()
	if done == nil {
		<-w.ready
		s.recycle(mu, w)
		return nil
	}
	select {
	case <-w.ready:
		s.recycle(mu, w)
		return nil
	case <-done:
	}
	mu.Lock()
	if w.list != nil {
		w.list.remove(w)
		w.next, s.spare = s.spare, w
		mu.Unlock()
		return ctx.Err()
	}
	mu.Unlock()
	<-w.ready // granted meanwhile: pass it on
	mu.Lock()
	next := s.giveLocked()
	mu.Unlock()
	if next != nil {
		next.ready <- struct{}{}
	}
	s.recycle(mu, w)
	return ctx.Err()
}

func (s *fifoSlots) recycle(mu *sync.Mutex, w *waiter) {
	mu.Lock()
	w.next, s.spare = s.spare, w
	mu.Unlock()
}

// waiterList is a doubly linked list, so that a waiter can leave from the middle.
type waiterList struct{ first, last *waiter }

func (l *waiterList) push(w *waiter) {
	w.list, w.prev = l, l.last
	if l.last == nil {
		l.first = w
	} else {
		l.last.next = w
	}
	l.last = w
}

func (l *waiterList) remove(w *waiter) {
	if w.prev == nil {
		l.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.list, w.prev, w.next = nil, nil, nil
}

// levelSemaphore has four levels, the higher first, and first in, first out inside one.
//
// It leaves out: ageing (a low level may starve), fairness between tenants, leaving the
// queue (its callers' contexts never end).
type levelSemaphore struct {
	mu     sync.Mutex
	slots  fifoSlots // its queue stays empty
	levels [4]waiterList
}

func newLevelSemaphore(n int) *levelSemaphore {
	return &levelSemaphore{slots: fifoSlots{limit: n}}
}

func (s *levelSemaphore) acquire(level int) {
	s.mu.Lock()
	if s.slots.used < s.slots.limit {
		s.slots.used++
		s.mu.Unlock()
		return
	}
	w := s.slots.waiterLocked()
	s.levels[level].push(w)
	s.mu.Unlock()
	<-w.ready
	s.slots.recycle(&s.mu, w)
}

func (s *levelSemaphore) release() {
	s.mu.Lock()
	var w *waiter
	for i := len(s.levels) - 1; i >= 0 && w == nil; i-- {
		w = s.levels[i].first
	}
	if w == nil {
		s.slots.used--
	} else {
		w.list.remove(w)
	}
	s.mu.Unlock()
	if w != nil {
		w.ready <- struct{}{}
	}
}
