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
	m.judge(t, o)
	if !m.affords(t.needs) {
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

// successor is the lane whose head may run on what t holds, as far as slots decide it, or nil.
func (m *Machine) successor(t *Ticket) *lane {
	if m.queues != 1 || t.kin != nil || t.rec.adaptive || len(m.claims)|len(m.rest) != 0 {
		return nil
	}
	var at *Cell
	for i := range t.needs.list {
		c := t.needs.list[i].Cell
		if c.pause != nil || c.shared || c.kind == Foreign || c.kind == Slots && c.used > c.limit {
			return nil
		}
		if c.q != nil {
			at = c
		}
	}
	if at == nil || at.kind != Slots || at.used < at.limit || len(at.q.aside)|len(at.q.kin) != 0 {
		return nil
	}
	l := at.q.best(m.policy.Ageing)
	if l.needs != t.needs || l.head.Limit <= m.over {
		return nil
	}
	return l
}

// affords reports whether the breakers and rates of s let one more call start.
func (m *Machine) affords(s *needSet) bool {
	for i := range s.list {
		c := s.list[i].Cell
		switch c.kind {
		case Tokens:
			if c.bucket.Ready(c.class.Rate, m.now, s.list[i].N) > m.now {
				return false
			}
		case Breaker:
			if ok, _ := c.breaker.Ready(m.now); !ok {
				return false
			}
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
			c.book(held)
		case Tokens:
			c.bucket.Close(&old.charges[charges])
			r.charges = r.charges[:charges+1]
			c.bucket.Open(&r.charges[charges], c.class.Rate, m.now, t.needs.list[i].N)
			charges++
		default:
			m.permit(c, r, permits)
			permits++
		}
	}
}
