package admit

// Used is what a call turned out to use of a unit.
type Used struct {
	Unit string
	N    int64
}

// Settle corrects what the running t was charged of a unit: the difference is given
// back, or taken, into debt if need be. Calling it again replaces what it said before.
func (m *Machine) Settle(now int64, t *Ticket, unit string, used int64) {
	if t.state != Running {
		return
	}
	m.advance(now)
	before, r := int64(-1), t.rec
	for i := range r.settled {
		if r.settled[i].Unit == unit {
			before, r.settled[i].N = r.settled[i].N, used
		}
	}
	if before < 0 {
		r.settled = append(r.settled, Used{unit, used})
	}
	for i := range t.needs.list {
		n := &t.needs.list[i]
		c := n.Cell
		if c.kind != Tokens || c.class.Unit != unit {
			continue
		}
		had := before
		if had < 0 {
			had = n.N
		}
		if used > had {
			c.bucket.Take(c.class.Rate, m.now, used-had)
		} else if used < had {
			c.bucket.Give(c.class.Rate, had-used)
		}
		m.mark(c)
	}
	m.drain()
}

// Settled is what t was last said to have used.
func (t *Ticket) Settled() []Used { return t.read().settled }
