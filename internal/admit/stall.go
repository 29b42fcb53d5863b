package admit

// A limit whose slots never come back says nothing by itself: a tool that calls another
// without the context it was given, so that the call waits for its own caller, looks like a
// long queue. So a limit that has released nothing for stallAfter while calls wait is told
// once, until it releases again. Nothing is refused: a slow tool looks the same. While a pause
// holds everybody there is nothing to release.

const stallAfter = 60 * second

// waitsSince has the queue of c looked at once it has released nothing for long since the
// instant at. The look stays due when nobody waits any more, so that a queue that comes and goes
// arms no timer each time.
func (m *Machine) waitsSince(c *Cell, at int64) {
	c.q.since = at
	if c.kind != Slots || c.q.stalled {
		return
	}
	m.watch = min(m.watch, at+stallAfter) // one that is due already stays so until the next tick
}

// Rest forgets the look that is due if nobody waits.
func (m *Machine) Rest() {
	if m.waiting == 0 {
		m.watch = Never
	}
}

// look begins a pass over all lanes for limits that stall. It finds out when to look again: not
// at all if nobody waits for a limit that has not been told already.
func (m *Machine) look() {
	if m.watch > m.now {
		return
	}
	m.watch = Never
	if m.waiting > 0 {
		m.sweeps = append(m.sweeps, sweep{nil, len(m.all) - 1})
	}
}

// stalls looks at where l waits.
func (m *Machine) stalls(l *lane) {
	c := l.at
	if c.kind != Slots || c.q.stalled {
		return
	}
	if c.ordered && c.calls == 0 { // whoever is first in line waits elsewhere
		c.q.since = m.now
	}
	if at := c.q.since + stallAfter; at > m.now {
		m.watch = min(m.watch, at)
		return
	}
	c.q.stalled = true
	m.notices = append(m.notices, Notice{Kind: Stalled, Cell: c, Holding: int(c.calls), Waiting: c.q.calls})
}

// released notes that slots of c, where calls wait, came back.
func (m *Machine) released(c *Cell) {
	c.q.stalled = false
	m.waitsSince(c, m.now)
	m.mark(c)
}
