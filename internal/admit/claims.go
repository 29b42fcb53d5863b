package admit

import "slices"

// A head that reached a front and failed elsewhere Claim times, or that is wider than
// what gets free at once, joins the claims. The first of them collects: slots that are
// freed where it needs some are kept for it. It collects slots only, and only while
// nothing else stands in its way, so that nothing idles for a token.

// fail counts a failure of l's head at a front.
func (m *Machine) fail(l *lane) {
	if l.fails++; l.fails >= m.policy.Claim && !l.claimed && m.collectable(l) {
		l.claimed = true
		m.work.Claims++
		m.claims = append(m.claims, l)
	}
}

// collectable reports whether slots are all that l's head waits for.
func (m *Machine) collectable(l *lane) bool {
	for _, n := range l.needs.list {
		c := n.Cell
		switch {
		case c.opens(m.now) > m.now, !c.fits(n.N):
			return false
		case c.kind != Slots && m.ready(c, l.head, n.N) > m.now:
			return false
		case c.kind == Slots && c.class.Refuse, c.ordered && !m.inTurn(c, l.head):
			return false
		case c.kind == Slots && c.stuck > 0 && c.stuck >= c.used && c.used+n.N > c.limit:
			return false // who holds c waits as well, perhaps for what would be kept
		}
	}
	return true
}

// held is how many slots of c are kept from t for the claim that collects.
func (m *Machine) held(c *Cell, t *Ticket) int64 {
	if len(m.claims) == 0 {
		return 0
	}
	l := m.claims[0]
	if l == t.lane {
		return 0
	}
	n := l.need(c)
	if n > 0 && l.nested && l.head.lender(c) != nil {
		return 0
	}
	return n
}

// claim asks the claim that collects, and drops claims that something else refuses.
func (m *Machine) claim() {
	for len(m.claims) > 0 {
		l := m.claims[0]
		if !m.collectable(l) {
			m.unclaim(l)
			l.fails = m.policy.Claim - 1
			continue
		}
		if v := m.examine(l.head); v.cell != nil {
			if v.cell != l.at && (v.cell.shared || l.at.shared) { // somebody stands in line where it waits
				m.move(l, v.cell)
			}
			return
		}
		m.start(l, nil)
	}
}

// unclaim takes l out of the claims. What was kept for it is free for others.
func (m *Machine) unclaim(l *lane) {
	if !l.claimed {
		return
	}
	l.claimed = false
	i := slices.Index(m.claims, l)
	m.claims = slices.Delete(m.claims, i, i+1)
	if i > 0 {
		return
	}
	for _, n := range l.needs.list {
		m.mark(n.Cell)
	}
	if len(m.claims) > 0 {
		for _, n := range m.claims[0].needs.list {
			m.mark(n.Cell)
		}
	}
}
