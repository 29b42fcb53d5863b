package admit

import (
	"cmp"
	"math/big"
	"slices"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/bucket"
)

// Freeze has nobody start until Thaw, so that changes made between them hold together.
// Nothing but Cell, Pause, Lift, Replan and the Set methods may be called meanwhile.
func (m *Machine) Freeze(now int64) {
	m.advance(now)
	m.frozen = true
}

// Thaw has the changes since Freeze felt.
func (m *Machine) Thaw(now int64) {
	m.advance(now)
	m.frozen = false
	m.resume()
}

// SetPolicy changes order and bounds. Calls that wait already stay.
func (m *Machine) SetPolicy(now int64, p Policy) {
	m.advance(now)
	m.policy = p
	if p.RefuseLate {
		m.shutEvery()
	}
	for t := range m.tenants.all {
		t.weight = p.weight(t.name)
	}
	m.rebook()
	for _, l := range m.all {
		m.mark(l.at)
	}
	m.drain()
}

// SetLimit changes how many slots every cell of k has. Who weighs more than that is refused.
func (m *Machine) SetLimit(now int64, k *Class, limit int64) {
	m.advance(now)
	was := k.Limit
	if k.Limit = limit; k.Leases != nil {
		m.resize(k, was)
	} else {
		for _, c := range k.Cells() {
			m.setLimit(c, limit)
		}
	}
	m.drain()
}

func (m *Machine) setLimit(c *Cell, limit int64) {
	c.shut()
	shrinks := limit < c.limit
	c.limit = limit
	c.declare()
	m.drop(c)
	m.mark(c)
	if shrinks && c.lanes > 0 {
		m.sweep(c)
	}
}

// SetRefuse has k refuse calls that come, where it lets none start, or has them wait.
func (m *Machine) SetRefuse(k *Class, refuse bool) {
	if k.Refuse == refuse {
		return
	}
	m.shutEvery() // which of several limits is the first to refuse is another
	k.Refuse = refuse
	for _, c := range k.list {
		c.declare()
	}
}

// SetRate changes the rate of every bucket of k. The tokens there are stay, clipped, and
// so is what waiting calls need.
func (m *Machine) SetRate(now int64, k *Class, r *bucket.Rate) {
	m.advance(now)
	old, cells := k.Rate, k.Cells()
	for _, c := range cells {
		c.shut()
		c.reopen(m.now)
		c.renew()
	}
	k.Rate = r
	for _, c := range cells {
		if c.bucket.Reconfigure(old, r, m.now); c.stock != nil {
			c.stock.unsure = false // it could not be asked for again: it counts as spent
			m.thirst(c)
		}
		m.drop(c)
		m.mark(c)
	}
	m.cut(k)
	m.resume()
}

// SetBreaker changes the settings of every breaker of k.
func (m *Machine) SetBreaker(now int64, k *Class, b *breaker.Config) {
	m.advance(now)
	k.Breaker = b
	for _, c := range k.Cells() {
		c.shut()
		c.breaker.Reconfigure(m.now, b)
		m.drop(c)
	}
	m.drain()
}

// Trip opens the breaker c until Reset; Reset closes it.
func (m *Machine) Trip(now int64, c *Cell, by string) {
	m.advance(now)
	c.shut()
	from := c.breaker.State(m.now)
	if c.breaker.Trip(m.now); from != c.breaker.State(m.now) {
		m.changed(c, from, by)
	} else {
		m.sweep(c) // its cooldown may be over: calls wait that it would have let start
	}
	m.tellOthers(c)
	m.drain()
}

// Reset closes the breaker c.
func (m *Machine) Reset(now int64, c *Cell, by string) {
	m.advance(now)
	c.shut()
	from := c.breaker.State(m.now)
	if c.breaker.Reset(m.now); from != c.breaker.State(m.now) {
		m.changed(c, from, by)
	}
	m.tellOthers(c)
	m.drop(c)
	m.drain()
}

// Throttle has the breaker c stay open until that instant at least, if it is open, or opens before.
func (m *Machine) Throttle(now int64, c *Cell, until int64) {
	m.advance(now)
	c.shut() // and it takes back until when it refuses
	c.breaker.Throttle(m.now, until)
	if c.breaker.State(m.now) == breaker.Open {
		m.sweep(c) // as in Trip
	}
	m.drain()
}

// Replan has the waiting calls of a tool need other cells: those of the classes gone no
// more, and those of add as well. They keep their order.
func (m *Machine) Replan(now int64, tool uint64, gone map[*Class]bool, add []Need) {
	m.advance(now)
	m.requeue(func(t *Ticket) bool { return t.Plan.Tool == tool }, func(list []Need) []Need {
		more := slices.Clone(add)
		for i := range more { // what its cost was said to be of a unit, it is, as far as some burst has not cut it
			k, cost := more[i].Cell.class, int64(-1)
			for _, n := range list {
				if n.Cell.kind == Tokens && n.Cell.class.Unit == k.Unit {
					cost = max(cost, n.N)
				}
			}
			if k.Kind == Tokens && cost >= 0 {
				more[i].N = min(cost, k.Rate.Burst())
			}
		}
		return append(slices.DeleteFunc(list, func(n Need) bool { return gone[n.Cell.class] }), more...)
	})
	m.resume()
}

// requeue takes the waiting calls that pick names out of the queue and changes their
// needs. They arrive again, in their order, in resume.
func (m *Machine) requeue(pick func(*Ticket) bool, edit func([]Need) []Need) {
	var out []*Ticket
	for _, l := range m.all {
		for t := l.head; t != nil; t = t.next {
			if pick(t) {
				out = append(out, t)
			}
		}
	}
	slices.SortFunc(out, func(a, b *Ticket) int { return cmp.Compare(a.seq, b.seq) })
	for _, t := range out {
		m.keep(t.needs, 1)
		m.take(t)
		t.state = New
	}
	m.again = append(m.again, out...)
	for _, t := range m.again {
		if !pick(t) {
			continue
		}
		set := m.newNeeds()
		set.list = edit(append(set.list, t.needs.list...))
		slices.SortStableFunc(set.list, func(a, b Need) int { return cmp.Compare(a.Cell.class.order(), b.Cell.class.order()) })
		for _, n := range set.list {
			set.count(n.Cell.kind)
		}
		m.keep(set, 1)
		m.keep(t.needs, -1)
		m.unref(t.needs)
		t.needs = set
	}
}

// keep has the cells of set count as needed by a waiting call, or no more: a call that is out
// of the queue for as long as changes are made comes back to the cells that it had.
func (m *Machine) keep(set *needSet, d int32) {
	for i := range set.list {
		c := set.list[i].Cell
		if c.lanes += d; c.lanes == 0 {
			m.drop(c)
		}
	}
}

// resume serves who waits, then has those that requeue took out arrive again, unless more
// changes are to come.
func (m *Machine) resume() {
	if m.frozen {
		return
	}
	again := m.again
	if m.depart(again) {
		slices.SortFunc(again, func(a, b *Ticket) int { return cmp.Compare(a.seq, b.seq) })
	}
	m.drain()
	m.again = nil
	for _, t := range again {
		m.comesBack(t)
		m.arrive(t, true)
		m.keep(t.needs, -1)
		if t.state != Waiting {
			m.emit(t)
		}
	}
	m.returning = nil
	m.drain()
}

// cut has no waiting call need more than a bucket of k holds: it would wait for ever, and
// others behind it.
func (m *Machine) cut(k *Class) {
	wide := func(t *Ticket) bool {
		return slices.ContainsFunc(t.needs.list, func(n Need) bool { return n.Cell.class == k && n.N > k.Rate.Burst() })
	}
	if !slices.ContainsFunc(m.all, func(l *lane) bool { return wide(l.head) }) && !slices.ContainsFunc(m.again, wide) {
		return
	}
	m.requeue(func(t *Ticket) bool { // all of them, so that they keep their order
		return slices.ContainsFunc(t.needs.list, func(n Need) bool { return n.Cell.class == k })
	}, func(list []Need) []Need {
		for i, n := range list {
			if n.Cell.class == k {
				list[i].N = min(n.N, k.Rate.Burst())
			}
		}
		return list
	})
}

// Fill has the new c start no fuller than the fullest of like, which it joins or replaces.
func (m *Machine) Fill(now int64, c *Cell, like []*Cell) {
	m.advance(now)
	var most *big.Rat
	c.shut()
	for _, o := range like {
		o.shut()
		if s := o.bucket.Share(o.class.Rate, m.now); most == nil || most.Cmp(s) < 0 {
			most = s
		}
	}
	if most != nil {
		c.renew()
		c.bucket.Fill(c.class.Rate, m.now, most)
	}
}
