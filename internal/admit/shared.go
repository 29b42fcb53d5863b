package admit

import "slices"

// A limit may be shared with code that is not the machine's: its class has a Semaphore, and its
// cells hold there what calls hold of them. The semaphore is asked last, when all else agrees,
// and what it gave is in use or goes back before the event ends. While it gives nothing, calls
// wait at the cell in strict order, also behind one that needs many slots: what other code holds
// comes back in an order that nobody here decides, so nothing is collected from it. Somebody who
// may wait, see [Machine.Sought], stands in the semaphore's own line for the first of them.

// Semaphore is one shared with other code. Its methods must not block.
type Semaphore interface {
	TryAcquire(n int64) bool
	Release(n int64)
}

// obtains reports whether the semaphore of c has the n slots that t would take, and takes them
// from it if they are not here already.
func (m *Machine) obtains(c *Cell, t *Ticket, n int64) bool {
	if c.q != nil && c.q.n > 0 && (t.lane == nil || t.lane.at != c) && !m.outranks(c, t, c.q.best(m.policy.Ageing)) {
		return false // those who wait there come first
	}
	if more := c.used + n - c.taken; more > 0 {
		if !c.class.Semaphore.TryAcquire(more) {
			return false
		}
		c.taken += more
		m.loose = append(m.loose, c)
	}
	return true
}

// returnLoose gives back what semaphores gave for calls that have not started after all.
func (m *Machine) returnLoose() {
	for _, c := range m.loose {
		c.giveBack()
	}
	m.loose = m.loose[:0]
}

// giveBack gives the semaphore of c what no call holds.
func (c *Cell) giveBack() {
	if n := c.taken - c.used; n > 0 {
		c.taken = c.used
		c.class.Semaphore.Release(n)
	}
}

// seek says that calls wait at the shared c from now on, or not any more.
func (m *Machine) seek(c *Cell, yes bool) {
	if yes {
		m.sought = append(m.sought, c)
		return
	}
	i := slices.Index(m.sought, c)
	m.sought = slices.Delete(m.sought, i, i+1)
}

// Sought is the cells with a semaphore at which calls wait. It is the machine's.
func (m *Machine) Sought() []*Cell { return m.sought }

// Lacks is how many slots the first call that waits at c needs of the semaphore: zero if nobody
// waits there, or not for the semaphore. Whoever acquires them tells it by Obtained.
func (m *Machine) Lacks(c *Cell) int64 {
	if c.q == nil || c.q.n == 0 || c.deputies > 0 || c.opens(m.now) > m.now {
		return 0
	}
	l := c.q.best(m.policy.Ageing)
	if len(m.claims) > 0 && m.claims[0].at == c {
		l = m.claims[0]
	}
	n := l.need(c)
	if c.used+n > c.limit-m.held(c, l.head) {
		return 0
	}
	return n
}

// Obtained tells that n slots of the semaphore of c have been acquired for those who wait there.
// What they do not take goes back.
func (m *Machine) Obtained(now int64, c *Cell, n int64) {
	m.advance(now)
	c.taken += n
	m.loose = append(m.loose, c)
	if c.q != nil {
		m.released(c)
	}
	m.drain()
}
