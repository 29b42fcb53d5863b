// Package census counts who is inside an executor, and what became of calls, on cache lines that
// processors need not share.
//
// A call comes in by a [Lane], which is a line, and leaves by the same, with what became of it: that is
// one word, so each is one step. What is seldom, goroutines beside the calls' own for one, counts in
// one word for all. Once the census is closed everybody counts there, so that whoever leaves last knows
// it.
package census

import (
	"sync"
	"sync/atomic"
)

// lanes is how many there are. It is a power of two.
const lanes = 16

// Census is who is inside. The zero value is empty and open. It must not be copied.
type Census struct {
	lanes   [lanes]Lane
	inside  atomic.Int64 // twice those who are not in a lane, plus one once the lanes are closed
	closing atomic.Bool
	once    sync.Once  // the lanes are closed
	sums    sync.Mutex // held by who carries over, and by who adds up
}

// Lane is one of the ways in.
type Lane struct {
	word      atomic.Uint64
	completed atomic.Uint64 // but for what the word says
	delivered atomic.Uint64 // likewise
	_         [64 - 3*8]byte
}

// The word of a lane:
//
//	delivered (21 bits) | completed (18) | inside (24) | closed
//
// Those inside a closed lane count with the census, and their number here counts no more. What is
// delivered and completed is carried over long before there is no room for it.
const (
	closed       = 1
	one          = 1 << 1
	oneCompleted = 1 << 25
	oneDelivered = 1 << 43
	carry        = 1<<63 | oneDelivered>>1 // the highest bits of delivered and completed
)

func completed(w uint64) uint64 { return w % oneDelivered / oneCompleted }
func delivered(w uint64) uint64 { return w / oneDelivered }

// MostDelivered is how many events one call may take out.
const MostDelivered = 1000

// Lane is the i-th of the ways in, of which there are not so many: several numbers share one.
func (c *Census) Lane(i uint32) *Lane { return &c.lanes[i%lanes] }

// EnterBy counts one in by l, and reports whether the census is open.
func (c *Census) EnterBy(l *Lane) (open bool) {
	if l.word.Add(one)&closed == 0 {
		return true
	}
	c.inside.Add(2)
	return false
}

// LeaveBy counts out one who came in by l, whose events were delivered, and who has completed once or
// not at all. It reports whether the census is closed and nobody is inside any more; that may be said
// more than once.
func (c *Census) LeaveBy(l *Lane, completed, delivered uint32) (last bool) {
	w := l.word.Add(uint64(completed)*oneCompleted + uint64(delivered)*oneDelivered - one)
	if w&(carry|closed) == 0 {
		return false
	}
	return c.left(l, w)
}

// left is what is left to do for who has left.
func (c *Census) left(l *Lane, w uint64) (last bool) {
	if w&carry != 0 {
		c.sums.Lock()
		w := l.word.Load()
		l.completed.Add(completed(w))
		l.delivered.Add(delivered(w))
		l.word.Add(-(completed(w)*oneCompleted + delivered(w)*oneDelivered))
		c.sums.Unlock()
	}
	return w&closed != 0 && c.Leave()
}

// Enter is EnterBy for those who have no lane.
func (c *Census) Enter() (open bool) {
	c.Add(1)
	return !c.Closed()
}

// Leave is LeaveBy for those who have no lane.
func (c *Census) Leave() (last bool) { return c.inside.Add(-2) == 1 }

// Add counts n more in who have no lane; or fewer, who are not the last.
func (c *Census) Add(n int) { c.inside.Add(2 * int64(n)) }

// Close has everybody who comes be told so, and reports whether nobody is inside. It may be called again.
func (c *Census) Close() (empty bool) {
	c.closing.Store(true)
	c.once.Do(func() {
		for i := range c.lanes {
			c.inside.Add(int64(c.lanes[i].word.Or(closed) % oneCompleted))
		}
		c.inside.Or(1) // now that all are counted there
	})
	return c.inside.Load() == 1
}

// Closed reports whether Close has been called.
func (c *Census) Closed() bool { return c.closing.Load() }

// Inside is how many are, once Close has returned.
func (c *Census) Inside() int { return int(c.inside.Load() / 2) }

// Completed and Delivered count what becomes of calls that have no lane, and of their events.
func (c *Census) Completed()           { c.lanes[0].completed.Add(1) }
func (c *Census) Delivered(events int) { c.lanes[0].delivered.Add(uint64(events)) }

// Sums is how many calls have completed, and how many events were delivered.
func (c *Census) Sums() (calls, events uint64) {
	c.sums.Lock()
	defer c.sums.Unlock()
	for i := range c.lanes {
		l := &c.lanes[i]
		w := l.word.Load()
		calls += l.completed.Load() + completed(w)
		events += l.delivered.Load() + delivered(w)
	}
	return calls, events
}
