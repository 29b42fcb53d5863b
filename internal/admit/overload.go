package admit

// What the machine does about more work than can be done, if asked for: refuse on arrival
// what by estimate comes too late. (Dropping from a queue that stands is in client.go.)

// estimate is how long t would wait at c behind those who come before it there: for
// tokens when they will have come in, for slots how long calls held theirs lately.
func (m *Machine) estimate(c *Cell, t *Ticket) int64 {
	var own, ahead int64
	for _, n := range t.needs.list {
		if n.Cell == c {
			own = n.N
		}
	}
	if c.ordered {
		ahead = c.line.load
	} else if c.q != nil {
		for p := int(t.level); p < Levels; p++ {
			ahead += c.q.levels[p].load
		}
	}
	wait := max(0, c.pause.ends()-m.now)
	switch c.kind {
	case Tokens:
		if own == 0 {
			return wait
		}
		if c.stock != nil {
			return max(wait, c.waitsFor(m.now, ahead+own))
		}
		at := c.bucket.After(c.class.Rate, m.now, ahead+own)
		if p := c.pause; p != nil {
			at = max(at, p.pays(c, ahead+own))
		}
		return max(wait, at-m.now)
	case Slots:
		return wait + int64(float64(c.average())*float64(ahead+own)/float64(max(1, c.limit)))
	case Foreign:
		if at := c.pays(m.now, own); at != Never {
			wait = max(wait, at-m.now)
		}
	}
	return wait
}

// takes is how long calls like t held their slots lately.
func (t *Ticket) takes() int64 {
	for _, n := range t.needs.list {
		if n.Cell.kind == Slots {
			return n.Cell.average()
		}
	}
	return 0
}

// timely reports whether t, if it waits at c, is expected to start and to be done in time.
func (m *Machine) timely(t *Ticket, c *Cell) (Refusal, bool) {
	if t.AtOnce && !m.awaits(c) {
		return Refusal{Reason: TooLong, By: c, After: m.after(c, t)}, false
	}
	if !m.policy.RefuseLate || t.Limit == Never && t.Finish == 0 {
		return Refusal{}, true
	}
	latest := t.Limit
	if t.Finish > 0 {
		latest = min(latest, t.Finish-t.takes())
	}
	if start := m.now + m.estimate(c, t); start > latest {
		return Refusal{Reason: TooLong, By: c, After: start - max(latest, m.now)}, false
	}
	return Refusal{}, true
}
