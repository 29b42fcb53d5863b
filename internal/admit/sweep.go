package admit

// sweep is a pass over all lanes, for calls that one cell will never let start or for limits
// that stall.
type sweep struct {
	cell *Cell // nil: it looks for limits that stall
	next int   // lane to look at; downwards, since lanes are removed by moving the last one
}

// batch is how many calls, lanes or cells are dealt with while the lock is held.
const batch = 256

// sweep asks for a pass for c. The pass runs in Step, so that no lock is held for thousands of
// calls.
func (m *Machine) sweep(c *Cell) {
	if c.lanes > 0 {
		m.sweeps = append(m.sweeps, sweep{c, len(m.all) - 1})
	}
}

// Pending reports whether Step has something to do.
func (m *Machine) Pending() bool { return len(m.sweeps) > 0 || len(m.rest) > 0 || m.overdue() }

// Step does a bounded part of what is pending: after a breaker has opened, a limit has
// shrunk, or many waits have ended at one instant, the waiting calls that cannot start any
// more are refused, up to batch for each of these and up to batch as they come to the front.
func (m *Machine) Step(now int64) {
	m.now = max(m.now, now)
	m.over = max(m.over, m.now-1)
	m.refuseLate()
	left := batch
	for len(m.sweeps) > 0 && left > 0 {
		s := &m.sweeps[0]
		for s.next = min(s.next, len(m.all)-1); s.next >= 0 && left > 0; {
			l := m.all[s.next]
			if left--; s.cell == nil {
				m.stalls(l)
				s.next--
				continue
			}
			n := l.need(s.cell)
			refuses := n > 0 && !s.cell.fits(n) && !l.head.shares(s.cell)
			r := Refusal{Reason: TooWide, By: s.cell}
			if n > 0 && s.cell.kind == Breaker {
				ok, at := s.cell.breaker.Ready(m.now)
				refuses, r = !ok, Refusal{Reason: BreakerOpen, By: s.cell, After: m.until(at)}
			}
			if !refuses {
				s.next--
				continue
			}
			if l.n == 1 {
				s.next--
			}
			m.refuseHead(l, r)
		}
		if s.next < 0 {
			m.sweeps = m.sweeps[1:]
		}
	}
	m.drain()
}

// Expel refuses up to batch waiting calls of c, which has closed, and reports whether there may
// be more.
func (m *Machine) Expel(now int64, c *Client) bool {
	m.advance(now)
	left := batch
	for i := len(m.all) - 1; i >= 0; i = min(i-1, len(m.all)-1) {
		if m.all[i].plan.Client != c {
			continue
		}
		for t := m.all[i].head; t != nil; {
			if left == 0 {
				m.drain()
				return true
			}
			left--
			next := t.next
			m.take(t) // with the last of them the lane goes
			m.refuse(t, Refusal{Reason: Closed})
			m.emit(t)
			t = next
		}
	}
	m.drain()
	return false
}
