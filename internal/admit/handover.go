package admit

import "github.com/sluice-go/sluice/internal/breaker"

// handOver ends the running t and has the call that comes next run on what t held. It comes to what
// finish and drain come to where all that wait do so at one cell, whose slots are used up, and the next
// of them needs just what t did, and nothing about that is unusual: then nothing has to be given back
// and taken again, and nobody else could start. It answers no where that is not so; then it has told
// the breakers of the outcome, if anything.
func (m *Machine) handOver(t *Ticket, o breaker.Outcome) bool {
	l := m.successor(t)
	if l == nil {
		return false
	}
	if m.judge(t, o); !m.lets(l.needs) {
		return false
	}
	l.at.q.stalled = false
	m.waitsSince(l.at, m.now)
	m.start(l, t)
	if m.marked > 0 { // it made others give way
		m.drain()
	}
	return true
}

// successor is the lane whose head comes next, if that needs just what t holds and all that wait do so
// where it does. Else it is nil.
func (m *Machine) successor(t *Ticket) *lane {
	if m.queues != 1 || t.kin != nil || t.rec.adaptive || len(m.claims)|len(m.rest)|m.lined != 0 {
		return nil
	}
	list := t.needs.list
	for i := range list {
		c := list[i].Cell
		if c.lease != nil && c.lease.bound < c.used { // what t holds may be nobody's any more
			return nil
		}
		if c.q == nil {
			continue
		}
		if c.kind != Slots || c.used != c.limit || len(c.q.aside)|len(c.q.kin) != 0 {
			return nil
		}
		l := c.q.best(m.policy.Ageing)
		if l.needs != t.needs || l.head.Limit <= m.over {
			return nil
		}
		return l
	}
	return nil
}

// lets reports whether what a call holds by s may be another's at once. Somebody waits who needs all of
// s, so that all is shut.
func (m *Machine) lets(s *needSet) bool {
	now := m.now
	for i := range s.list {
		c := s.list[i].Cell
		if c.pause != nil {
			return false
		}
		switch c.kind {
		case Slots:
			if c.used > c.limit || c.shared {
				return false
			}
		case Tokens:
			switch {
			case c.stock != nil:
				if c.pays(now, s.list[i].N) > now {
					return false
				}
			case c.bucket.Ready(c.class.Rate, now, s.list[i].N) > now:
				return false
			}
		case Breaker:
			if ok, _ := c.breaker.Ready(now); !ok {
				return false
			}
		default:
			return false
		}
	}
	return true
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
			if c.book(held); c.lease != nil {
				c.rebind(from, t)
			}
		case Tokens:
			c.bucket.Close(&old.charges[charges])
			if charges++; c.stock != nil {
				m.draw(r, c, t.needs.list[i].N)
				break
			}
			r.charges = r.charges[:charges]
			c.bucket.Open(&r.charges[charges-1], c.class.Rate, m.now, t.needs.list[i].N)
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
