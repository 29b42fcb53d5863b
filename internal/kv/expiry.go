package kv

import (
	"container/heap"
	"iter"
	"math"
	"time"
)

// Life says what a write does to the lifetime of its key: if positive, the value lives this
// long, from the write.
type Life time.Duration

const (
	Keep    Life = 0  // leaves the lifetime as it is
	Endless Life = -1 // the value lives until it is deleted
)

// after returns the instant at which a lifetime ends that starts at now: half-open, the
// value is gone at that instant.
func after(now int64, d Life) int64 {
	x := now + int64(d)
	if x < now {
		return math.MaxInt64
	}
	if x == 0 { // zero means never
		return 1
	}
	return x
}

// lifetimes is a heap of the entries of a shard that expire.
type lifetimes []*entry

func (h lifetimes) Len() int           { return len(h) }
func (h lifetimes) Less(i, j int) bool { return h[i].expires.Load() < h[j].expires.Load() }
func (h lifetimes) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heap, h[j].heap = int32(i+1), int32(j+1)
}
func (h *lifetimes) Push(x any) {
	e := x.(*entry)
	*h = append(*h, e)
	e.heap = int32(len(*h))
}
func (h *lifetimes) Pop() any {
	n := len(*h) - 1
	e := (*h)[n]
	(*h)[n] = nil
	*h = (*h)[:n]
	e.heap = 0
	if n == 0 || n*4 < cap(*h) && cap(*h) > 64 {
		*h = append(make(lifetimes, 0, n), *h...)
	}
	return e
}

// expireAtLocked gives a locked entry, or one nobody sees yet, a new end.
func (s *Store) expireAtLocked(sh *shard, e *entry, x int64) {
	e.expires.Store(x)
	switch {
	case x == 0 && e.heap != 0:
		heap.Remove(&sh.heap, int(e.heap-1))
	case x == 0:
		return
	case e.heap == 0:
		heap.Push(&sh.heap, e)
	default:
		heap.Fix(&sh.heap, int(e.heap-1))
	}
	s.armLocked(sh)
}

// armLocked sets the shard's timer to the next end of a lifetime. A timer that is set
// too early is left: it fires, finds nothing to do and is set again.
func (s *Store) armLocked(sh *shard) {
	if len(sh.heap) == 0 {
		if sh.armed != 0 && sh.timer.Stop() {
			s.timers.Done()
		}
		sh.armed = 0
		return
	}
	next := sh.heap[0].expires.Load()
	if sh.armed != 0 && sh.armed <= next {
		return
	}
	sh.armed = next
	d := time.Duration(max(next-s.now(), 0))
	switch {
	case sh.timer == nil:
		s.timers.Add(1)
		sh.timer = time.AfterFunc(d, func() { s.sweep(sh) })
	case !sh.timer.Reset(d):
		s.timers.Add(1)
	}
}

// sweepBatch bounds how long a sweep holds a shard.
const sweepBatch = 256

// sweep is what the timer of a shard runs.
func (s *Store) sweep(sh *shard) {
	defer s.timers.Done()
	for again := true; again; {
		sh.mu.Lock()
		again = s.sweepLocked(sh, sweepBatch) == sweepBatch
		if !again && !s.root.done.Load() {
			// A timer that fired while it was set anew fires again: harmless.
			sh.armed = 0
			s.armLocked(sh)
		}
		sh.mu.Unlock()
	}
}

// sweepLocked removes up to limit entries whose lifetime is over.
func (s *Store) sweepLocked(sh *shard, limit int) (n int) {
	if len(sh.heap) == 0 || s.root.done.Load() {
		return 0
	}
	now := s.now()
	for n < limit && len(sh.heap) > 0 && sh.heap[0].expires.Load() <= now {
		e := sh.heap[0]
		s.dropLocked(sh, e, e.lock())
		n++
	}
	return n
}

// reclaim removes everything whose lifetime is over.
func (s *Store) reclaim() {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		s.sweepLocked(sh, math.MaxInt)
		sh.mu.Unlock()
	}
}

// Timers walks the shards whose timer is set, for tests.
func (s *Store) Timers() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range s.shards {
			s.shards[i].mu.Lock()
			set := s.shards[i].armed != 0
			s.shards[i].mu.Unlock()
			if set && !yield(i) {
				return
			}
		}
	}
}
