// Package census counts who is inside an executor, and what became of calls, on cache lines that
// processors need not share.
//
// A call comes in by a [Lane], which is a line, and leaves by the same. What is seldom, goroutines
// beside the calls' own for one, counts in one word for all. Once the census is closed everybody
// counts there, so that whoever leaves last knows it.
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
	once    sync.Once // the lanes are closed
}

// Lane is one of the ways in.
type Lane struct {
	inside    atomic.Int64 // twice those inside; once it is odd they count with the census, and this no more
	completed atomic.Uint64
	delivered atomic.Uint64
	_         [64 - 3*8]byte
}

// Lane is the i-th of the ways in, of which there are not so many: several numbers share one.
func (c *Census) Lane(i uint32) *Lane { return &c.lanes[i%lanes] }

// EnterBy counts one in by l, and reports whether the census is open.
func (c *Census) EnterBy(l *Lane) (open bool) {
	if l.inside.Add(2)&1 == 0 {
		return true
	}
	c.inside.Add(2)
	return false
}

// LeaveBy counts out one who came in by l. It reports whether the census is closed and nobody is
// inside any more; that may be said more than once.
func (c *Census) LeaveBy(l *Lane) (last bool) {
	return l.inside.Add(-2)&1 == 1 && c.Leave()
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
			c.inside.Add(c.lanes[i].inside.Or(1))
		}
		c.inside.Or(1) // now that all are counted there
	})
	return c.inside.Load() == 1
}

// Closed reports whether Close has been called.
func (c *Census) Closed() bool { return c.closing.Load() }

// Inside is how many are, once Close has returned.
func (c *Census) Inside() int { return int(c.inside.Load() / 2) }

// Completed and Delivered count what becomes of calls, and of their events.
func (l *Lane) Completed()           { l.completed.Add(1) }
func (l *Lane) Delivered(events int) { l.delivered.Add(uint64(events)) }

// Completed is how many calls have.
func (c *Census) Completed() (n uint64) {
	for i := range c.lanes {
		n += c.lanes[i].completed.Load()
	}
	return n
}

// Delivered is how many events have been.
func (c *Census) Delivered() (n uint64) {
	for i := range c.lanes {
		n += c.lanes[i].delivered.Load()
	}
	return n
}
