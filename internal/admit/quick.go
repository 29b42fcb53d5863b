package admit

import (
	"slices"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/bucket"
	"github.com/sluice-go/sluice/internal/latch"
)

// The quick way. While nobody waits for a cell and nothing about it is unusual, its latch is open:
// calls take from it and give back without the lock. Whoever holds the lock shuts a cell before it
// reads or changes what calls change there (shut), so the machine never sees a cell that changes
// under its hands.
//
// Nobody is passed. A cell that somebody waits for, wherever that call is parked, is shut
// (Cell.lanes). What is given back there is given back under the lock, so whoever waits is served.
//
// A call that has come this way has no ticket. It gets one, as if it had been admitted with that,
// when something of it is to be known or changed under the lock ([Machine.Adopt]). Of such a call's
// rates a report of use gives back no more than if whoever came after it had come just then, and
// nothing once the rate has changed, a pause has emptied its bucket, or another has given back. Calls
// of a plan that makes such reports come by the lock from then on.

// Pass is what a call has got that came the quick way.
type Pass = latch.Pass

// latched is what a cell has for the quick way.
type latched struct {
	*latch.Latch
	own     bool // calls are counted here
	m       *Machine
	open    bool
	at      int    // in Machine.opened, if it is open
	was     int64  // Slots: used, when it was opened
	edition uint32 // Tokens: how often the balance was changed by more than calls, from 1
}

// shyFor is how many calls of a plan come by the lock once one had to be adopted: they will have to
// be, too. Tests change it.
var shyFor int32 = 64

// Quicken lets calls of s come the quick way, if what they need allows that. The first slot they
// need must be of a cell that each call of another set needs first or not at all: there they are
// counted.
func (m *Machine) Quicken(s *NeedSet) {
	var own *Cell
	rates, breakers := 0, 0
	for _, n := range s.set.list {
		c := n.Cell
		switch {
		case n.N != 1 || c.kind == Foreign || c.adaptive || c.shared || c.class.MaxKeys > 0:
			return
		case c.kind == Tokens:
			rates++
		case c.kind == Breaker:
			breakers++
		case own == nil:
			own = c
		}
	}
	if own == nil || rates > latch.MaxRates || breakers > latch.MaxBreakers {
		return
	}
	for _, n := range s.set.list {
		s.latched = append(s.latched, n.Cell)
	}
	slices.SortStableFunc(s.latched, func(a, b *Cell) int { return latchOrder[a.kind] - latchOrder[b.kind] })
	for _, c := range s.latched {
		if c.latch == nil {
			c.latch = &latched{Latch: latch.New(latch.Kind(c.kind)), edition: 1}
		}
		c.latch.m = m // it may have belonged to another
		s.latches = append(s.latches, c.latch.Latch)
	}
	own.latch.own = true
	s.quick = true
}

// latchOrder is that of [latch.Set].
var latchOrder = [...]int{Breaker: 0, Slots: 1, Tokens: 2}

// Retire has no call of s come the quick way any more: nobody keeps its cells.
func (m *Machine) Retire(s *NeedSet) {
	s.quick = false
	m.shutAll(&s.set)
}

// Take is [latch.Set.Take] of all that s says. It needs no lock.
func (s *NeedSet) Take(now int64, p *Pass) bool { return len(s.latches) > 0 && s.latches.Take(now, p) }

// Give is [latch.Set.Give], for a call that has held what it took for so long. It needs no lock. It
// answers how much is left to End: all, if it is worth remembering how long that was, since the
// estimates of waits are made of it.
func (s *NeedSet) Give(p *Pass, held int64) (left int) {
	if held >= worthBooking {
		return len(s.latches)
	}
	return len(s.latches) - s.latches.Give(p)
}

// worthBooking is how long a call takes beside which a lock is nothing.
const worthBooking = second / 1000

// End ends what Give has left of a call that was granted at that instant, and that succeeded.
func (m *Machine) End(now int64, s *NeedSet, p *Pass, left int, granted int64) {
	m.advance(now)
	m.shutAll(&s.set)
	breakers := 0
	for i, c := range s.latched {
		ended := i < len(s.latches)-left
		switch {
		case c.kind == Breaker:
			if breakers++; !ended {
				m.judgeAt(c, breaker.PermitOf(p.Generations[breakers-1]), breaker.Success)
			}
		case c.kind == Tokens && c.q != nil:
			m.mark(c)
		case c.kind == Slots && !ended:
			c.book(m.now - granted)
			c.calls--
			if c.used--; c.latch.own {
				m.running--
			}
			if c.q != nil {
				m.released(c)
			}
			if c.idle >= 0 {
				m.fallsIdle(c)
			}
		}
	}
	m.drain()
	m.reopen(&s.set)
}

// Adopt gives a call of s that has taken p, and has that level, a ticket, as if it had been granted
// that at that instant. The caller says its Plan.
func (m *Machine) Adopt(s *NeedSet, p *Pass, level int8, granted int64) *Ticket {
	t := m.Ticket()
	m.Fixed(t, s)
	m.shutAll(t.needs)
	s.shy = shyFor
	r := m.record(t)
	t.state, t.Level, t.level, t.arrived, r.granted = Running, level, level, granted, granted
	r.room(t.needs)
	rates, breakers := 0, 0
	for i := range t.needs.list {
		c := t.needs.list[i].Cell
		switch c.kind {
		case Slots:
			continue // it counts already, as the call does
		case Tokens:
			r.charges = r.charges[:rates+1]
			if x := c.latch.Terms(); x.Edition == p.Editions[rates] {
				r.charges[rates].Late(c.class.Rate, x.Base, p.Full[rates])
			} else {
				r.charges[rates].Settle(1)
			}
			r.editions[rates] = p.Editions[rates]
			rates++
		default:
			r.permits(breaker.PermitOf(p.Generations[breakers]), breakers)
			breakers++
		}
		c.calls++
	}
	return t
}

// charge is the n-th charge of the running t, at c, to be corrected. What came the quick way before
// the balance of c was changed by more than calls is past giving back.
func (t *Ticket) charge(c *Cell, n int) *bucket.Charge {
	x := &t.rec.charges[n]
	if t.cameQuickly(n) && t.rec.editions[n] != c.latch.edition {
		x.Settle(x.Tokens())
	}
	return x
}

// cameQuickly reports whether the n-th charge of t was taken the quick way.
func (t *Ticket) cameQuickly(n int) bool { return n < latch.MaxRates && t.rec.editions[n] != 0 }

// renew is called when the balance of c is changed by more than calls.
func (c *Cell) renew() {
	if c.latch != nil {
		c.latch.edition++
	}
}

// shutAll shuts the cells of s.
func (m *Machine) shutAll(s *needSet) {
	if len(m.opened) == 0 {
		return
	}
	for i := range s.list {
		if l := s.list[i].Cell.latch; l != nil && l.open {
			s.list[i].Cell.shut()
		}
	}
}

// shut has what calls change of c stand still, and makes the fields of c say it.
func (c *Cell) shut() {
	l := c.latch
	if l == nil || !l.open {
		return
	}
	l.open = false
	m := l.m
	last := len(m.opened) - 1
	m.opened[l.at] = m.opened[last]
	m.opened[l.at].latch.at = l.at
	m.opened[last] = nil
	m.opened = m.opened[:last]
	x := l.Shut()
	switch c.kind {
	case Slots:
		c.used += x - l.was
		c.calls += int32(x - l.was)
		if l.own {
			m.running += int(x - l.was)
		}
	case Tokens:
		c.bucket.Taken(c.class.Rate, m.now, l.Terms().Base, x)
	}
}

// reopen opens the cells of s about which nothing is unusual.
func (m *Machine) reopen(s *needSet) {
	if !s.fixed.quick || m.policy.RefuseLate { // which has to know how long calls take
		return
	}
	if s.fixed.shy > 0 {
		s.fixed.shy--
		return
	}
	for i := range s.list {
		if c := s.list[i].Cell; !c.latch.open && c.usual(m.now) {
			m.openCell(c)
		}
	}
}

// usual reports whether c may be open.
func (c *Cell) usual(now int64) bool {
	if c.lanes > 0 || c.q != nil || c.pause != nil {
		return false
	}
	switch c.kind {
	case Slots:
		return c.used < latch.MostSlots
	case Tokens:
		r := c.class.Rate
		most := latch.MostUnits / 4 / r.Scale()
		return r.Scale() <= maxScale && r.Refill() < most && c.bucket.FullAt()-now < most && c.bucket.Whole(r, now)
	}
	return c.breaker.IsClean(now)
}

// maxScale bounds how fine the units of an open bucket are.
const maxScale = 4096

func (m *Machine) openCell(c *Cell) {
	l := c.latch
	l.open, l.at = true, len(m.opened)
	m.opened = append(m.opened, c)
	switch c.kind {
	case Slots:
		l.was = c.used
		l.OpenSlots(c.used, c.limit)
	case Tokens:
		x, r := l.Terms(), c.class.Rate
		if x == nil || x.Edition != l.edition || m.now > x.Until {
			if x != nil && x.Edition == l.edition {
				l.edition++ // units count from another instant
			}
			x = &latch.Terms{Base: m.now, Until: m.now + latch.MostUnits/2/r.Scale(), Scale: r.Scale(), Edition: l.edition}
			x.One, x.Span = r.Units()
		}
		l.OpenTokens(c.bucket.FullIn(r, x.Base), x)
	default:
		l.OpenBreaker(c.breaker.Generation())
	}
}

// shutEvery shuts all cells.
func (m *Machine) shutEvery() {
	for _, c := range slices.Clone(m.opened) {
		c.shut()
	}
}
