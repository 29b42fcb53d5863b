package admit

import "github.com/sluice-go/sluice/internal/breaker"

// Adaptive lets a limit find out what the callee bears: additive increase, multiplicative
// decrease (Chiu and Jain 1989), driven by overload outcomes alone. Time in the queue is
// no signal, and neither is a failure.
type Adaptive struct{ Min, Max int64 }

// aimd is the state of one adaptive limit. It begins at Min and doubles with each round of
// successes (slow start) until the first cut. From then on growEvery rounds that used
// the whole limit add one slot.
type aimd struct {
	cut    uint64 // starts before the last cut: an overload of one of those says nothing new
	credit int64  // successes since the limit last changed
	probed bool   // slow start is over
}

// growEvery is how many rounds of successes at the limit it takes to try one slot more: a
// callee that answers the try with an overload sees about one in ten rounds.
const growEvery = 10

// adapt moves the limits of t's adaptive cells by its outcome. It is called while t still
// holds its slots.
func (m *Machine) adapt(t *Ticket, o breaker.Outcome) {
	for i := range t.needs.list {
		c := t.needs.list[i].Cell
		a := c.class.Adaptive
		if a == nil || c.kind != Slots {
			continue
		}
		switch o {
		case breaker.Success:
			m.grow(c, a)
		case breaker.Overload:
			if c.aimd.cut <= m.starts && t.rec.startedAs <= c.aimd.cut { // a larger one is another machine's
				continue // admitted under the limit before the last cut
			}
			c.aimd.cut, c.aimd.probed, c.aimd.credit = m.starts, true, 0
			m.setLimit(c, max(a.Min, min(c.limit-1, c.limit*9/10)))
		}
	}
}

// grow counts a success. Only a limit that is used up learns from one.
func (m *Machine) grow(c *Cell, a *Adaptive) {
	if c.limit >= a.Max || c.used < c.limit {
		return
	}
	c.aimd.credit++
	if need := c.limit * growEvery; c.aimd.probed && c.aimd.credit < need {
		return
	}
	c.aimd.credit = 0
	m.setLimit(c, c.limit+1)
}

// SetAdaptive changes the bounds of every limit of k.
func (m *Machine) SetAdaptive(now int64, k *Class, a *Adaptive) {
	m.advance(now)
	k.Adaptive, k.Limit = a, a.Min
	for _, c := range k.Cells() {
		m.setLimit(c, min(max(c.limit, a.Min), a.Max))
	}
	m.drain()
}
