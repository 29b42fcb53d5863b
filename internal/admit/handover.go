package admit

import "github.com/sluice-go/sluice/internal/breaker"

// handOver ends the running t and has the call that comes next run on what t held. It comes to what
// finish and drain come to where all that wait do so at one cell, whose slots are used up, and the next
// of them needs just what t did, and nothing about that is unusual: then nothing has to be given back
// and taken again, and nobody else could start. It answers no where that is not so; then it has told
// the breakers of the outcome, if anything.
func (m *Machine) handOver(t *Ticket, o breaker.Outcome) bool {
	if m.queues != 1 || t.kin != nil || t.rec.adaptive || len(m.claims)|len(m.rest) != 0 {
		return false
	}
	m.judge(t, o)
	c := m.passedOn(t.needs)
	if c == nil {
		return false
	}
	l := c.q.best(m.policy.Ageing)
	if l.needs != t.needs || l.head.Limit <= m.over { // else all of them are shut, since l needs them
		return false
	}
	c.q.stalled = false
	m.waitsSince(c, m.now)
	m.start(l, t)
	if m.marked > 0 { // it made others give way
		m.drain()
	}
	return true
}

// passedOn is the cell of s where calls wait, if what a call has taken by s may be another's at once, as
// far as cells decide it. Else it is nil.
func (m *Machine) passedOn(s *needSet) *Cell {
	var at *Cell
	now := m.now
	for i := range s.list {
		c := s.list[i].Cell
		if c.pause != nil {
			return nil
		}
		if c.q != nil {
			at = c
		}
		switch c.kind {
		case Slots:
			if c.used > c.limit || c.shared {
				return nil
			}
		case Tokens:
			if c.bucket.Ready(c.class.Rate, now, s.list[i].N) > now {
				return nil
			}
		case Breaker:
			if ok, _ := c.breaker.Ready(now); !ok {
				return nil
			}
		default:
			return nil
		}
	}
	if at == nil || at.kind != Slots || at.used < at.limit || len(at.q.aside)|len(at.q.kin) != 0 {
		return nil
	}
	return at
}

// inherit has t run on what from held, which ends.
func (m *Machine) inherit(t, from *Ticket) {
	r, old := m.begin(t), from.rec
	from.state = Left
	held := m.now - old.granted
	charges, permits := 0, 0
	for i := range t.needs.list {
		c := t.needs.list[i].Cell
		switch c.kind {
		case Slots:
			c.book(held)
		case Tokens:
			c.bucket.Close(&old.charges[charges])
			r.charges = r.charges[:charges+1]
			c.bucket.Open(&r.charges[charges], c.class.Rate, m.now, t.needs.list[i].N)
			charges++
		default:
			p, probes := c.breaker.Take(m.now)
			r.permits(p, permits)
			permits++
			if probes {
				m.changed(c, breaker.Open, "")
			}
		}
	}
}
