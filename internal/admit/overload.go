package admit

import "math"

// What the machine does about more work than can be done: refuse on arrival what by
// estimate comes too late, and drop from a queue that stands. Both are asked for.

// estimate is how long t would wait at c behind those who come before it there: for
// tokens when they will have come in, for slots how long calls held theirs lately.
func (m *Machine) estimate(c *Cell, t *Ticket) int64 {
	var own, ahead int64
	for _, n := range t.needs.list {
		if n.Cell == c {
			own = n.N
		}
	}
	if c.q != nil {
		for p := int(t.level); p < Levels; p++ {
			ahead += c.q.levels[p].load
		}
	}
	wait := max(0, c.paused-m.now)
	switch c.kind {
	case Tokens:
		return max(wait, c.bucket.After(c.class.Rate, m.now, ahead+own)-m.now)
	case Slots:
		return wait + int64(float64(c.held)*float64(ahead+own)/float64(max(1, c.limit)))
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
			return n.Cell.held
		}
	}
	return 0
}

// timely reports whether t, if it waits at c, is expected to start and to be done in time.
func (m *Machine) timely(t *Ticket, c *Cell) (Refusal, bool) {
	if t.AtOnce {
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

// codel is controlled delay (RFC 8289) on time in the queue. Its target is not 5 ms but as
// long as the tool itself takes, and its interval not 100 ms but twenty times that.
type codel struct {
	since int64 // when the queue will have stood for an interval; zero while it does not
	count int64 // drops since it does
	next  int64 // instant of the next drop
}

const codelInterval = 20

// stood looks at how long t, which starts, has waited. While calls of the lowest level
// that waits keep waiting longer than the target, the newest call of whoever has the
// most queued per weight there is dropped, ever more often.
func (m *Machine) stood(t *Ticket) {
	d := &m.codel
	low := m.lowest()
	if low < 0 {
		*d = codel{}
		return
	}
	if int(t.level) > low {
		return // it came before those who stand
	}
	target := t.takes()
	if target == 0 {
		return
	}
	if m.now-t.arrived < target {
		*d = codel{}
		return
	}
	switch {
	case d.since == 0:
		d.since = m.now + codelInterval*target
	case d.count == 0 && m.now >= d.since, d.count > 0 && m.now >= d.next:
		d.count++
		d.next = m.now + int64(codelInterval*float64(target)/math.Sqrt(float64(d.count)))
		m.shed(low)
	}
}

// lowest is the lowest level in which somebody waits, -1 if nobody does.
func (m *Machine) lowest() int {
	for p := range m.accounts {
		if m.accounts[p].Len() > 0 {
			return p
		}
	}
	return -1
}

// shed drops the newest call of whoever has the most queued per weight in the level.
func (m *Machine) shed(level int) {
	t := m.accounts[level].Top().lanes.Top().tail
	by := t.lane.at
	m.take(t)
	m.refuse(t, Refusal{Reason: Shed, By: by})
	m.emit(t)
}
