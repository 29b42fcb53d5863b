package admit

// Used is what a call turned out to use of a unit.
type Used struct {
	Unit string
	N    int64
}

// maxDebt bounds how long a report of use may close a bucket, unless a refill takes longer.
const maxDebt = 24 * 60 * 60 * second

// Settle corrects what the running t was charged of a unit, as if it had been that from the
// start: the difference is given back, as far as time has not brought it back already, or
// taken, into debt if need be, up to a bound. Calling it again replaces what it said before.
// A unit that no rate of t counts is forgotten.
func (m *Machine) Settle(now int64, t *Ticket, unit string, used int64) {
	if t.state != Running {
		return
	}
	m.advance(now)
	most, r, i := int64(-1), t.rec, 0
	for _, n := range t.needs.list {
		c := n.Cell
		if c.kind != Tokens {
			continue
		}
		if i++; c.class.Unit != unit {
			continue
		}
		c.shut()
		if c.stock != nil {
			if t.cameQuickly(i - 1) {
				t.needs.way.quick = false
			}
			m.correctDraw(r, c, i-1, used)
			most = max(most, used)
			continue
		}
		c.reopen(m.now)
		if t.cameQuickly(i - 1) {
			t.needs.way.quick = false // the next to come are corrected as well, and exactly then
		}
		got := m.correct(t, c, i-1, used)
		if got < used {
			m.notices = append(m.notices, Notice{Kind: Debt, Cell: c, After: c.bucket.Ready(c.class.Rate, m.now, 1) - m.now})
		}
		most = max(most, got)
		m.mark(c)
	}
	if most >= 0 {
		r.settle(unit, most)
	}
	m.drain()
}

func (r *record) settle(unit string, used int64) {
	for i := range r.settled {
		if r.settled[i].Unit == unit {
			r.settled[i].N = used
			return
		}
	}
	r.settled = append(r.settled, Used{unit, used})
}

// correct makes the n-th charge of t, at c, so many tokens, and answers how many it is now.
func (m *Machine) correct(t *Ticket, c *Cell, n int, tokens int64) int64 {
	x := t.charge(c, n)
	was := x.Tokens()
	got := c.bucket.Correct(c.class.Rate, m.now, x, tokens, maxDebt)
	if got < was {
		c.renew()
		if t.cameQuickly(n) {
			t.rec.editions[n] = c.edition
		}
	}
	return got
}

// takeBack undoes what was charged at c, the n-th of t, a call whose code did not run.
func (m *Machine) takeBack(t *Ticket, c *Cell, n int) {
	if c.stock != nil {
		m.undraw(t.rec, c, n)
		return
	}
	c.reopen(m.now)
	m.correct(t, c, n, 0)
}

// Settled is what t was last said to have used.
func (t *Ticket) Settled() []Used { return t.read().settled }
