package admit

import (
	"slices"

	"github.com/sluice-go/sluice/internal/latch"
)

// perErrand is how many corrections are said at once.
const perErrand = 16

// Errand is what to do for a cell where its bucket is kept.
type Errand struct {
	N, Per, Burst int64 // of the rate

	// Fetch Min to Max units, there or due within Ahead, and leave Spare for who is more urgent, by the name
	// Op. Nothing is to be fetched if Max is zero. Fails is how often that has failed in a row.
	Op                     Op
	Min, Max, Ahead, Spare int64
	Fails                  int

	// Say Corrections, all at once, by the name Saying. There may be none. They are the machine's.
	Corrections []Correction
	Saying      Op
}

// Supplied is what came of a fetch.
type Supplied struct {
	Units        int64 // none if it was denied, or failed
	After, Every int64 // until the first Min are there, and each further one
	Pause        int64 // nothing is fetched for so long
	Failed       bool
	Refused      bool // for certain, if it failed
}

// thirst has c looked at when the event is over.
func (m *Machine) thirst(c *Cell) {
	if !c.listed {
		c.listed = true
		m.thirsty = append(m.thirsty, c)
	}
}

// Errands has the Keepers make what errands there are, at an instant that is wall by the wall clock.
func (m *Machine) Errands(wall int64) {
	for i := 0; i < len(m.thirsty); i++ {
		c := m.thirsty[i]
		m.thirsty[i] = nil
		c.listed = false
		s := c.stock
		if s == nil {
			if c.lease != nil {
				m.attend(c, wall)
			} else {
				m.canvass(c)
			}
			m.drop(c)
			continue
		}
		c.shut()
		s.jump(m.now, wall)
		if m.tend(c) && !s.running {
			s.running = true
			c.class.Stock.Keeper.Run(c)
		}
		m.tellKeeper(c)
		m.drop(c)
	}
	m.thirsty = m.thirsty[:0]
}

// jump gives all back if the wall clock has gone further than the instants tell since it was looked at last:
// the process slept, and what it had is worth nothing.
func (s *stock) jump(now, wall int64) {
	offset := wall - now
	if offset-s.offset > second && s.offset != 0 {
		s.leave(Never)
	}
	s.offset = offset
}

// tend arms the timer for c, and reports whether there is something to do for it at once.
func (m *Machine) tend(c *Cell) bool {
	s := c.stock
	c.expire(m.now)
	at, now := Never, false
	if f := m.wants(c); f.Max > 0 {
		if s.next > m.now {
			at = s.next
		} else {
			now = true
		}
	}
	if len(s.back)|len(s.said) > 0 {
		if s.tell > m.now {
			at = min(at, s.tell)
		} else {
			now = true
		}
	}
	switch {
	case c.q == nil:
		if len(s.lots) > 0 {
			at = min(at, max(s.lots[0].at+c.class.Stock.Hold, m.now+1))
		}
	case c.opens(m.now) > m.now:
		at = min(at, c.opens(m.now))
	case c.q.n > 0:
		if due := c.pays(m.now, c.q.best(m.policy.Ageing).need(c)); due > m.now {
			at = min(at, due)
		}
	}
	if at < Never {
		m.arm(c, at)
	}
	return now
}

// wants is what to fetch for c, whenever that may be: one unit for some that wait, and what the first of them
// needs; or as many as will be used soon.
func (m *Machine) wants(c *Cell) (f fetch) {
	s, k := c.stock, c.class.Stock
	switch {
	case s.closed || c.pause.ends() > m.now:
		return f
	case s.unsure && m.now-s.fetch.since < k.Repeat:
		return s.fetch
	}
	s.unsure = false
	have, head, goal, part := s.total(), int64(0), s.lent, int64(2)
	if f.urgent = s.urgent; !c.class.Refuse {
		f.Ahead = k.Ahead
	}
	if c.q != nil && c.q.n > 0 {
		l, per, load := c.q.best(m.policy.Ageing), int64(perUnit), int64(0)
		for i := range c.q.levels {
			load += c.q.levels[i].load
		}
		if c.class.Refuse || l.head.AtOnce { // they wait for an answer
			per, f.Ahead = 1, 0
		}
		part = 4 // what is left is booked, and need not be there at once
		head, f.urgent = l.need(c), max(l.level, l.declared) == Levels-1
		if k.Reserve > 0 && f.urgent { // nothing of the reserve is for others
			if load = head; m.policy.Ordered {
				load = c.q.levels[l.level].load
			}
			if s.first(m.now, head) > m.now { // what others have booked is no good
				have = s.hurried()
			}
		}
		goal = max(goal, head, min(k.Most, (load+per-1)/per))
	} else {
		goal = max(goal, min(k.Most, s.expects(m.now, k.Hold)))
	}
	if s.lent > 0 {
		have, f.Ahead = s.due(m.now), 0
	}
	if have >= max(head, s.lent) && have > goal/part || goal == 0 {
		return fetch{}
	}
	f.Min = min(max(1, head-have, s.lent-have), c.class.Rate.Burst(), maxFetch)
	f.Max = min(max(f.Min, goal-have), maxFetch)
	if f.Min > 1 && f.Ahead > 0 { // it would never come if others took it little by little
		f.Ahead = max(f.Ahead, 4*min(c.class.Rate.From(0, f.Min+1), maxAhead/4))
	}
	if !f.urgent {
		f.Spare = max(0, min(k.Reserve, c.class.Rate.Burst()-f.Min))
	}
	return f
}

// maxFetch bounds the units of a fetch, and maxAhead how far ahead those for one call are booked.
const (
	maxFetch = 1 << 30
	maxAhead = 60 * second
)

// hurried is how many units there are that were fetched for calls of the highest level.
func (s *stock) hurried() (n int64) {
	for i := range s.lots {
		if s.lots[i].urgent {
			n += s.lots[i].units
		}
	}
	return n
}

// Errand is what there is to do for c, or nothing: then it has been done, and the Keeper is told when there
// is more. What is begun gets the names op and saying, unless it is the repetition of what has a name. The
// Keeper tells what came of it by Supply, if something was to be fetched, and by Settled, if something was
// to be said.
func (m *Machine) Errand(now int64, c *Cell, op, saying Op) (e Errand, more bool) {
	m.advance(now)
	s := c.stock
	c.shut()
	e.N, e.Per, e.Burst = c.class.Rate.Terms()
	if !m.tend(c) {
		s.running = false
		m.drop(c)
		return e, false
	}
	if f := m.wants(c); f.Max > 0 && s.next <= m.now {
		if !s.unsure {
			f.Op, f.since = op, m.now
			s.fetch = f
		}
		e.Op, e.Min, e.Max, e.Ahead, e.Spare, e.Fails = s.fetch.Op, s.fetch.Min, s.fetch.Max, s.fetch.Ahead, s.fetch.Spare, s.fails
	}
	if s.tell <= m.now {
		if len(s.said) == 0 && len(s.back) > 0 {
			n := min(perErrand, len(s.back))
			s.said = append(s.said, s.back[:n]...)
			s.back = append(s.back[:0], s.back[n:]...)
			s.op, s.begun = saying, m.now
		}
		e.Corrections, e.Saying = s.said, s.op
	}
	return e, true
}

// Supply tells what came of the fetch for c.
func (m *Machine) Supply(now int64, c *Cell, x Supplied) {
	m.advance(now)
	s, f := c.stock, c.stock.fetch
	c.shut()
	if s.lifted && x.Units == 0 && !x.Failed {
		x.Pause = 0
	}
	s.lifted = false
	s.next, s.denied = m.now+x.Pause, x.Units < f.Max && x.Pause > 0
	if x.Failed {
		s.fails++
		s.unsure = s.unsure || !x.Refused
	} else {
		s.fails, s.unsure = 0, false
	}
	if x.Units > 0 {
		at, first := m.now+x.After, x.Units
		if x.Every > 0 {
			first = min(first, max(f.Min, 1))
		}
		s.add(lot{first, at, 0, f.Op, f.urgent})
		if x.Units > first {
			s.add(lot{x.Units - first, at + x.Every, x.Every, f.Op, f.urgent})
		}
		if end := c.pause.ends(); end > m.now { // it was asked for before that, unless it is for later
			s.leave(end - 1)
		}
		if s.closed {
			s.leave(Never)
		}
	}
	if s.lent > 0 {
		if s.due(m.now) >= s.lent {
			s.take(m.now, s.lent, nil)
		} else {
			c.class.short += s.lentCalls
		}
		s.lent, s.lentCalls = 0, 0
	}
	m.thirst(c)
	m.mark(c)
	m.drain()
}

// Settled tells whether the corrections that were to be said for c have been. If not they are said again, but
// not before pause is over.
func (m *Machine) Settled(now int64, c *Cell, ok bool, pause int64) {
	m.advance(now)
	s := c.stock
	if ok || s.closed || m.now-s.begun >= c.class.Stock.Repeat {
		for _, x := range s.said {
			s.more -= max(0, x.Units)
		}
		s.said = s.said[:0]
		pause = 0
	}
	s.tell = m.now + pause
	m.thirst(c)
	m.mark(c)
	m.drain()
}

// CloseStock gives back all that the cells of k have. No call that takes of them starts any more.
func (m *Machine) CloseStock(now int64, k *Class) {
	m.advance(now)
	for _, c := range k.list {
		c.shut()
		c.stock.closed, c.stock.tell = true, 0
		c.stock.leave(Never)
		m.thirst(c)
		m.mark(c)
	}
	k.closed = true
	m.drain()
}

// SetStock changes how much the cells of k keep.
func (m *Machine) SetStock(now int64, k *Class, s *Stock) {
	m.advance(now)
	k.Stock = s
	for _, c := range k.list {
		c.shut()
		m.thirst(c)
	}
}

// Short is how many calls would have waited for a cell of k, or would have been refused, did they not only count.
func (k *Class) Short() uint64 { return k.short }

// stockPays is pays for a cell with a stock.
func (c *Cell) stockPays(now, n int64) int64 {
	s, k := c.stock, c.class
	switch {
	case s.closed:
		return Never
	case n == 0 || k.Stock.Shadow:
		return now
	case s.more > k.Rate.Burst(): // nobody knows yet what that has done to the bucket
		return Never
	}
	c.expire(now)
	return s.first(now, n)
}

// expire gives back what nobody has used for long.
func (c *Cell) expire(now int64) {
	s := c.stock
	if at := now - c.class.Stock.Hold; c.q == nil && len(s.lots) > 0 && s.lots[0].at <= at {
		s.leave(at)
	}
}

// isFar reports whether what c counts is kept elsewhere.
func (c *Cell) isFar() bool { return c.stock != nil || c.lease != nil }

// isClosed reports whether no call that takes of c starts any more.
func (c *Cell) isClosed() bool { return c.isFar() && c.class.closed }

// answered reports whether it is known of c, which has nothing at now, that there is nothing.
func (c *Cell) answered(now int64) bool {
	if s := c.lease; s != nil {
		return c.class.closed || s.denied && (s.running || now < s.next) || s.has() >= c.class.Limit
	}
	s := c.stock
	return c.class.closed || s.denied && now < s.next || len(s.lots) > 0 && s.lots[0].at > now
}

// again is when it may be worth asking c again, which has nothing.
func (c *Cell) again(now int64) int64 {
	at := Never
	if s := c.lease; s != nil {
		if s.denied && s.next > now && !c.class.closed {
			at = s.next
		}
		return at
	}
	s := c.stock
	if s.next > now {
		at = s.next
	}
	if len(s.lots) > 0 {
		at = min(at, max(now, s.lots[0].at))
	}
	if s.closed {
		return Never
	}
	return at
}

// serveFar refuses those that come next at c and that do not wait, once it is known that they would have to.
// It answers no instead once there were enough of that for one event.
func (m *Machine) serveFar(c *Cell) bool {
	for c.q != nil && c.q.n > 0 {
		l := c.q.best(m.policy.Ageing)
		t := l.head
		if !c.class.Refuse && !t.AtOnce && !c.isClosed() {
			return true
		}
		v := m.blocked(t, c, m.ready(c, t, l.need(c)))
		if v.at <= m.now || !v.refuse {
			return true
		}
		if !m.turnAway(c, l, v) {
			return false
		}
	}
	return true
}

// blocked is what c says to t, which it does not let start before at.
func (m *Machine) blocked(t *Ticket, c *Cell, at int64) verdict {
	v := verdict{c, at, c.class.Refuse || c.kind == Breaker, false}
	if t.AtOnce && t.state == Waiting { // for an answer
		v.refuse, v.late = true, !v.refuse
	}
	if c.isFar() && at == Never {
		v.refuse = v.refuse && c.answered(m.now) || c.isClosed()
		v.at = max(c.again(m.now), m.now+1)
	}
	return v
}

// drawn is what a call took of one fetch.
type drawn struct {
	charge    int32 // which of the call's
	op        Op
	units, at int64 // they were due at
}

// draw has the call of r take n units of c.
func (m *Machine) draw(r *record, c *Cell, n int64) {
	i := len(r.charges)
	r.charges = r.charges[:i+1]
	r.charges[i].Settle(n)
	if n == 0 {
		return
	}
	s, k := c.stock, c.class.Stock
	s.came(m.now, k.Hold, 1, n)
	m.thirst(c)
	if k.Shadow && s.first(m.now, n) > m.now {
		if c.answered(m.now) {
			c.class.short++
		} else {
			s.lent += n
			s.lentCalls++
		}
		return
	}
	s.take(m.now, n, func(op Op, n, at int64) { r.drawn = append(r.drawn, drawn{int32(i), op, n, at}) })
}

// correctDraw makes the i-th charge of r, at c, so many units. What it was less is said where the bucket is
// kept, since time has brought back some of that there; what it was more as well.
func (m *Machine) correctDraw(r *record, c *Cell, i int, units int64) {
	x := &r.charges[i]
	d, s := units-x.Tokens(), c.stock
	x.Settle(units)
	for j := len(r.drawn) - 1; j >= 0 && d != 0; j-- {
		y := &r.drawn[j]
		if y.charge != int32(i) {
			continue
		}
		k := max(d, -y.units)
		if k == 0 {
			continue
		}
		s.correct(y.op, k)
		y.units += k
		d -= k
	}
	if d > 0 {
		s.correct(Op{}, d)
		r.drawn = append(r.drawn, drawn{charge: int32(i), units: d})
	}
	m.thirst(c)
}

// undraw puts back what the i-th charge of r took of c: the call has not run.
func (m *Machine) undraw(r *record, c *Cell, i int) {
	r.charges[i].Settle(0)
	for j := range r.drawn {
		if y := &r.drawn[j]; y.charge == int32(i) && y.units > 0 {
			if y.op == (Op{}) || c.stock.closed {
				c.stock.correct(y.op, -y.units)
			} else {
				c.stock.add(lot{y.units, y.at, 0, y.op, false})
			}
			y.units = 0
		}
	}
	m.thirst(c)
}

// waitsFor is how long, as far as is known, it takes until n units are there.
func (c *Cell) waitsFor(now, n int64) int64 {
	if at := c.stockPays(now, n); at != Never {
		return at - now
	}
	if at := c.again(now); at != Never {
		return at - now
	}
	return 0
}

// inHand is how many units calls may take of c the quick way: none if something is unusual. Unless more are on
// the way, some are left to whoever notices that more are wanted.
func (c *Cell) inHand(now int64) int64 {
	s, k := c.stock, c.class.Stock
	if s.closed || k.Shadow || s.lent > 0 || s.more > c.class.Rate.Burst() {
		return 0
	}
	c.expire(now)
	n := s.due(now)
	if len(s.lots) > 0 && s.lots[0].at > now { // else the first are due
		return 0
	}
	if !s.running {
		n -= min(k.Most, s.expects(now, k.Hold)) / 2
	}
	return min(n, latch.MostUnits/2)
}

// pauseStock gives back what c has, which is about to be paused, and has everybody paused. If the pause ends at
// once, so does everybody's.
func (m *Machine) pauseStock(c *Cell, until int64) {
	s := c.stock
	if until <= m.now {
		m.liftStock(c)
		return
	}
	m.thirst(c)
	s.leave(Never)
	s.hold = holds
}

// Lifted tells that everybody has been let go at the bucket of c: what was denied before is asked for again.
func (m *Machine) Lifted(now int64, c *Cell) {
	m.advance(now)
	c.stock.anew(m.now)
	m.thirst(c)
	m.mark(c)
	m.drain()
}

// anew has s forget that something was denied, or is about to be.
func (s *stock) anew(now int64) { s.next, s.denied, s.lifted = now, false, s.running }

// liftStock has everybody go on, and c asked for anew: what it was denied was because of the pause, maybe.
func (m *Machine) liftStock(c *Cell) {
	m.thirst(c)
	c.stock.hold = lifts
	c.stock.anew(m.now)
}

// Told is what has been done to c, Pause or Lift, because all are to do so: nobody needs to be told.
func (m *Machine) Told(c *Cell) { c.stock.hold = nothing }

// awaits reports whether a call that does not wait has to all the same until c is answered: it is not known
// whether there is something for it.
func (m *Machine) awaits(c *Cell) bool {
	alone := c.q == nil || c.lease != nil && c.q.n > 0 && c.q.best(m.policy.Ageing).head.AtOnce // which awaits that, too
	return c.isFar() && alone && c.pause.ends() <= m.now && !c.answered(m.now)
}

// RestStocks gives back what cells have in stock at which nobody waits, and lets go of these cells: they may
// come to belong to another machine, and this one touches them no more until they are used again.
func (m *Machine) RestStocks() {
	for _, c := range slices.Collect(m.timers.All()) { // each that has something has a timer
		if c.stock != nil && c.q == nil {
			c.shut()
			m.timers.Remove(c.timer)
			c.stock.leave(Never)
			m.thirst(c)
		} else if c.lease != nil {
			m.restLeases(c)
		} else if c.class.Votes != nil {
			m.timers.Remove(c.timer)
		}
	}
	for i, c := range m.thirsty {
		m.thirsty[i] = nil
		c.listed = false
		s := c.stock
		if s == nil {
			if c.lease != nil {
				m.restLeases(c)
			}
			continue
		}
		s.tell = 0
		if len(s.back)|len(s.said) > 0 && !s.running {
			s.running = true
			c.class.Stock.Keeper.Run(c)
		}
		m.tellKeeper(c)
	}
	m.thirsty = m.thirsty[:0]
}

// tellKeeper tells the Keeper of c what it is to do about a pause.
func (m *Machine) tellKeeper(c *Cell) {
	s, k := c.stock, c.class.Stock.Keeper
	switch s.hold {
	case holds:
		k.Hold(c, max(1, c.pause.ends()-m.now))
	case lifts:
		k.Hold(c, 0)
	}
	s.hold = nothing
}

// Thirsty reports whether Errands has something to look at.
func (m *Machine) Thirsty() bool { return len(m.thirsty) > 0 }
