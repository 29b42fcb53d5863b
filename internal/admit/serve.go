package admit

import "math/bits"

// drain serves the marked cells, narrow before wide, until no head can start.
func (m *Machine) drain() {
	m.refusals = 0
	if m.frozen || m.marked|len(m.rest)|len(m.claims)|len(m.knots)|len(m.loose) == 0 {
		return
	}
	m.drainDirty()
	m.returnLoose()
}

func (m *Machine) drainDirty() {
	if len(m.rest) > 0 {
		for i, c := range m.rest {
			m.mark(c)
			m.rest[i] = nil
		}
		m.rest = m.rest[:0]
	}
	if m.waiting == 0 {
		m.settleDirty()
		return
	}
	for {
		m.claim()
		c := m.nextDirty()
		if c == nil {
			if m.passOn(true) || m.untie(true) || m.passOn(false) || m.untie(false) {
				continue
			}
			m.knots = m.knots[:0]
			return
		}
		c.dirty = false
		m.serve(c)
		m.suspect(c)
	}
}

func (m *Machine) nextDirty() *Cell {
	if m.marked == 0 {
		return nil
	}
	r := bits.TrailingZeros8(m.ranks)
	list := &m.dirty[r]
	last := len(*list) - 1
	c := (*list)[last]
	(*list)[last] = nil
	if *list = (*list)[:last]; last == 0 {
		m.ranks &^= 1 << r
	}
	m.marked--
	return c
}

// settleDirty unmarks everything: there is nobody to serve.
func (m *Machine) settleDirty() {
	for c := m.nextDirty(); c != nil; c = m.nextDirty() {
		c.dirty = false
	}
	m.knots = m.knots[:0]
}

// serve starts, moves or refuses the heads at c that come next, until c refuses one.
func (m *Machine) serve(c *Cell) {
	if c.q == nil || c.isFar() && !m.serveFar(c) || c.q == nil {
		return
	}
	if at := c.opens(m.now); at > m.now {
		m.arm(c, at)
		return
	}
	if len(c.q.aside)|len(c.q.kin) > 0 {
		m.serveAside(c)
		m.serveKin(c)
		if c.q == nil {
			return
		}
		if at := c.opens(m.now); at > m.now { // those were as many as its ramp lets start
			m.arm(c, at)
			return
		}
	}
	if c.ordered {
		m.serveLine(c)
		return
	}
	for c.q != nil && c.q.n > 0 {
		q := c.q
		if c.kind == Slots && c.used >= c.limit && len(q.kin) == 0 {
			return // none is left, and nobody may run on what an ancestor holds
		}
		l := q.best(m.policy.Ageing)
		t := l.head
		if at := m.ready(c, t, l.need(c)); at > m.now {
			if at != Never {
				m.arm(c, at)
				return
			}
			if c.kind == Slots && l.need(c) > 1 && c.used < c.limit && !c.shared {
				m.putAside(l)
				m.fail(l)
				continue
			}
			return
		}
		v, busy := m.examine(t), false
		if v.cell == nil && m.marked > 0 {
			v.cell = m.contested(t, c)
			busy = v.cell != nil
		}
		switch {
		case v.cell == nil:
			m.start(l, nil)
		case v.refuse:
			if !m.turnAway(c, l, v) {
				return
			}
		default:
			d := v.cell
			chain := c.implies(d)
			if !chain && !busy && !d.ordered { // there it has its turn
				m.fail(l)
			}
			if m.move(l, d); chain && c.q != nil && len(c.q.kin) == 0 {
				// Everybody here needs a slot of d too: one that waits there is enough.
				l.stands = c
				c.deputies++
				return
			}
		}
	}
}

// turnAway refuses the head of l for what v says, and answers no instead once there were
// enough refusals for one event: c is served on in the next, so that others get in between.
func (m *Machine) turnAway(c *Cell, l *lane, v verdict) bool {
	if m.refusals >= batch {
		m.rest = append(m.rest, c)
		return false
	}
	m.refusals++
	if v.late {
		m.late(l.head)
	} else {
		m.refuseHead(l, m.refusal(v.cell, v.at))
	}
	return true
}

// contested is a marked cell of t where others wait who come before it: t queues there,
// or its start would pass them by.
func (m *Machine) contested(t *Ticket, at *Cell) *Cell {
	for i := range t.needs.list {
		c := t.needs.list[i].Cell
		if c == at || c.ordered || !c.dirty || c.q == nil || c.q.n == 0 || m.outranks(c, t, c.q.best(m.policy.Ageing)) {
			continue
		}
		if t.Parent == nil || c.kind != Slots || t.lender(c) == nil { // what it borrows is its own
			return c
		}
	}
	return nil
}

// move parks l at c instead of where it is.
func (m *Machine) move(l *lane, c *Cell) {
	m.work.Moved++
	m.leave(l)
	m.park(l, c)
	if l.nested {
		m.suspect(c)
	}
}

// serveAside asks the wide heads again, oldest first.
func (m *Machine) serveAside(c *Cell) {
	for i := 0; c.q != nil && i < len(c.q.aside); {
		l := c.q.aside[i]
		v := m.examine(l.head)
		switch {
		case v.cell == c && !v.refuse:
			i++
		case v.cell == nil:
			m.start(l, nil)
			i = 0
		case v.refuse:
			if !m.turnAway(c, l, v) {
				return
			}
			i = 0
		default:
			m.fail(l)
			m.move(l, v.cell)
			i = 0
		}
	}
}

// refuseHead refuses the head of l, wherever it is parked.
func (m *Machine) refuseHead(l *lane, r Refusal) {
	t := l.head
	m.take(t)
	m.refuse(t, r)
	m.emit(t)
}
