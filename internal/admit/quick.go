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
// A breaker that goes by a ratio has the successes counted in its latch, as long as they are of one tenth of
// its window: one later than that comes by the lock, and opens the latch for the next tenth.
//
// A breaker that refuses every call until its cooldown is over says so, and calls are refused without the
// lock: once one has been refused under it, until somebody shuts the cell. So are calls by open slots that
// are full, if their class refuses calls: nobody waits there.
//
// A call that has come this way has no ticket. It gets one, as if it had been admitted with that,
// when something of it is to be known or changed under the lock ([Machine.Adopt]). Of such a call's
// rates a report of use gives back no more than if whoever came after it had come just then, and
// nothing once the rate has changed, a pause has emptied its bucket, or another has given back. Calls
// of a plan that makes such reports come by the lock from then on.
//
// A cell of a key may be forgotten while nobody needs it. Who needs it is counted at its slots, or by
// a latch of its own. A cell that is forgotten has been shut and is never opened again, so whoever
// still leads to it finds it shut, and that it is forgotten: by that a call that would be refused all
// the same knows that it has to be seen first whether there is room for its key.

// Pass is what a call has got that came the quick way.
type Pass = latch.Pass

// Said is how such a call is refused.
type Said = latch.Refusal

// latched is what a cell has for the quick way.
type latched struct {
	*latch.Latch
	needing *latch.Latch // calls that need it, if it is of a key and has no slots; open while Latch is
	own     bool         // calls are counted here
	refuses bool         // the cell counts as open, but says no more than that it refuses calls
	sets    int32        // that are shared, if it is of a key
	m       *Machine     // of opened
	at      int          // in Machine.opened, if it is open
	was     int64        // Slots: used, when it was opened; Breaker: that instant
}

// shyFor is how many calls of a plan come by the lock once one had to be adopted: they will have to
// be, too. Tests change it.
var shyFor int32 = 64

// Way is how calls of one plan come, whatever their keys. The zero value is by the lock.
type Way struct {
	quick bool  // they may come the quick way
	shy   int32 // so many are to come by the lock
	known int8  // how many of those that came by the lock lately share their needs; see worthOpening
}

// worthOpening is what known must be at least for calls to open what they have shut. Each call that
// shares its needs counts two, up to mostKnown, and each that does not takes one away: such calls have
// to shut what they need, and if they are many that costs more than it saves.
const (
	worthOpening = 8
	mostKnown    = 2 * worthOpening
)

// QuickWay is the way of a plan whose calls may come without the lock.
func QuickWay() Way { return Way{quick: true, known: worthOpening} }

// Along says that the needs of t, which were put together for it, are those of a call that comes by w.
func (t *Ticket) Along(w *Way) {
	if t.needs != nil {
		t.needs.way = w
	}
}

// Share makes the needs of t, which were put together for it, a NeedSet for all calls that come by w
// and have the same keys.
func (m *Machine) Share(t *Ticket, w *Way) *NeedSet {
	s := NewNeedSet(slices.Clone(t.needs.list))
	for _, n := range s.set.list {
		if n.Cell.class.MaxKeys > 0 {
			s.keyed = append(s.keyed, n.Cell)
		}
	}
	m.unref(t.needs)
	m.Fixed(t, s)
	if w.quick {
		m.Quicken(s, w)
	}
	return s
}

// Unshare ends what Share began: nobody finds s any more. Whoever has found it finds it shut, if no
// other set has its keys.
func (m *Machine) Unshare(s *NeedSet) {
	for _, x := range s.latched {
		l := x.latch
		if x.needing || x.class.MaxKeys == 0 || l == nil {
			continue
		}
		if l.sets--; l.sets == 0 {
			x.shut()
			l.Forget()
			x.latch = nil
		}
	}
}

// IsAlive reports whether no cell of s has been forgotten, which is shared.
func (s *NeedSet) IsAlive() bool {
	for _, c := range s.keyed {
		if c.index == gone {
			return false
		}
	}
	return true
}

// counted is what one latch counts: the slots, tokens or state of a cell, or the calls that need it.
type counted struct {
	*Cell
	needing bool
}

// order is that of [latch.Set], where last is the cell of its Last.
func (x counted) order(last *Cell) int {
	switch {
	case x.needing:
		return 1
	case x.kind == Breaker:
		return 0
	case x.kind == Tokens:
		return 2
	case x.Cell == last:
		return 3
	}
	return 1
}

// latchOf is what counts x.
func (x counted) latchOf() *latch.Latch {
	if x.needing {
		return x.latch.needing
	}
	return x.latch.Latch
}

// Quicken lets calls of s come by the quick way w, if what they need allows that. The first slot they
// need must be of a cell that each call of another set needs first or not at all: there they are
// counted.
func (m *Machine) Quicken(s *NeedSet, w *Way) {
	var own *Cell
	rates, breakers := 0, 0
	for _, n := range s.set.list {
		c := n.Cell
		switch {
		case n.N != 1 || c.kind == Foreign || c.adaptive || c.shared || c.lease != nil:
			return
		case c.kind == Tokens:
			rates++
		case c.kind == Breaker:
			breakers++
		case own == nil:
			own = c
		}
	}
	if own == nil || own.class.MaxKeys > 0 || rates > latch.MaxRates || breakers > latch.MaxBreakers {
		return
	}
	for _, n := range s.set.list {
		c := n.Cell
		if c.latch == nil {
			c.latch = newLatched(c)
			c.declare()
		}
		c.latch.sets++
		s.latched = append(s.latched, counted{c, false})
		if c.latch.needing != nil {
			s.latched = append(s.latched, counted{c, true})
		}
		if c.kind == Slots {
			s.slots = append(s.slots, c.slotCount)
		}
	}
	last := own
	if own.limit < latch.MostSlots && rates > 0 { // it may be full: that is to be known before tokens are taken
		last = nil
	}
	s.arrange(last)
	own.latch.own = true
	s.set.way = w
}

// arrange brings what is latched into the order in which calls take from it.
func (s *NeedSet) arrange(last *Cell) {
	slices.SortStableFunc(s.latched, func(a, b counted) int { return a.order(last) - b.order(last) })
	l := &s.latches
	for _, n := range s.set.list {
		if n.Cell.kind != Breaker {
			l.Asked = append(l.Asked, n.Cell.latch.Latch)
		}
	}
	for _, x := range s.latched {
		if x.class.MaxKeys > 0 && !x.needing {
			s.mortal = append(s.mortal, x.latch.Latch)
		}
		switch at := x.latchOf(); x.order(last) {
		case 0:
			l.Breakers = append(l.Breakers, at)
		case 1:
			l.Slots = append(l.Slots, at)
		case 2:
			l.Tokens = append(l.Tokens, at)
		default:
			l.Last = at
		}
	}
}

func newLatched(c *Cell) *latched {
	l := &latched{Latch: latch.New(latch.Kind(c.kind))}
	if c.countsCalls() {
		l.needing = latch.New(latch.Slots)
	}
	return l
}

// countsCalls reports whether a latch of its own counts the calls that need c and come the quick way:
// c may be forgotten, and has no slots that say it.
func (c *Cell) countsCalls() bool { return c.class.MaxKeys > 0 && c.kind != Slots }

// Retire has no call come by w any more: nobody keeps the cells of its plan.
func (m *Machine) Retire(w *Way) {
	w.quick = false
	m.shutEvery()
}

// Take is [latch.Set.Take] of all that s says. It needs no lock.
func (s *NeedSet) Take(now int64, p *Pass) bool { return len(s.latched) > 0 && s.latches.Take(now, p) }

// MayTake reports whether Take would take now, if nobody else came.
func (s *NeedSet) MayTake(now int64) bool { return len(s.latched) > 0 && s.latches.MayTake(now) }

// Give is [latch.Set.Give], at the instant now, for a call that was granted at that instant. It needs no
// lock. It answers how much is left to End.
func (s *NeedSet) Give(now int64, p *Pass, granted int64) (left int) {
	if d := now - granted; d >= worthBooking {
		for _, c := range s.slots {
			c.apart.Add(d)
		}
	}
	return s.latches.Give(now, p)
}

// worthBooking is how long a call takes that ends without the lock if it is to count in the estimates of
// waits: what all calls write takes time, and who estimates by calls that take less has Policy.RefuseLate.
const worthBooking = second / 1000

// End ends what Give has left of a call that was granted at that instant, and that succeeded.
func (m *Machine) End(now int64, s *NeedSet, p *Pass, left int, granted int64) {
	m.advance(now)
	m.shutAll(&s.set)
	breakers := 0
	for i, x := range s.latched {
		c, ended := x.Cell, i < len(s.latched)-left
		switch {
		case x.needing:
			if !ended {
				c.calls--
			}
		case c.kind == Breaker:
			if breakers++; !ended {
				m.judgeAt(c, breaker.PermitOf(p.Generations[breakers-1]), breaker.Success)
			}
		case c.kind == Tokens && c.q != nil:
			m.mark(c)
		case c.kind == Slots && !ended:
			if now-granted < worthBooking { // else Give has said it
				c.book(now - granted)
			}
			c.calls--
			if c.used--; c.latch != nil && c.latch.own {
				m.running--
			}
			if c.q != nil {
				m.released(c)
			}
		}
	}
	for i := range s.set.list {
		if c := s.set.list[i].Cell; c.idle >= 0 {
			m.fallsIdle(c)
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
	s.set.way.shy = shyFor
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
			if c.stock != nil {
				r.charges[rates].Settle(1)
			} else if x := s.latches.Tokens[rates].Terms(); x.Edition == p.Editions[rates] {
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
		if !c.countsCalls() { // else it counts already, too
			c.calls++
		}
	}
	return t
}

// charge is the n-th charge of the running t, at c, to be corrected. What came the quick way before
// the balance of c was changed by more than calls is past giving back.
func (t *Ticket) charge(c *Cell, n int) *bucket.Charge {
	x := &t.rec.charges[n]
	if t.cameQuickly(n) && t.rec.editions[n] != c.edition {
		x.Settle(x.Tokens())
	}
	return x
}

// cameQuickly reports whether the n-th charge of t was taken the quick way.
func (t *Ticket) cameQuickly(n int) bool { return n < latch.MaxRates && t.rec.editions[n] != 0 }

// renew is called when the balance of c is changed by more than calls. No edition is zero.
func (c *Cell) renew() { c.edition = max(c.edition+1, 1) }

// shutAll shuts the cells of s.
func (m *Machine) shutAll(s *needSet) {
	if len(m.opened) == 0 {
		return
	}
	for i := range s.list {
		if s.list[i].Cell.open {
			shutFrom(s.list[i:])
			return
		}
	}
}

func shutFrom(list []Need) {
	for i := range list {
		list[i].Cell.shut()
	}
}

// shut has what calls change of c stand still, and makes the fields of c say it.
func (c *Cell) shut() {
	if !c.open {
		return
	}
	c.open = false
	l := c.latch
	m := l.m
	last := len(m.opened) - 1
	m.opened[l.at] = m.opened[last]
	m.opened[l.at].latch.at = l.at
	m.opened[last] = nil
	m.opened = m.opened[:last]
	if l.refuses {
		l.refuses = false
		l.Refuse(nil)
		return
	}
	x := l.Shut()
	switch c.kind {
	case Slots:
		c.used += x - l.was
		c.calls += int32(x - l.was)
		if l.own {
			m.running += int(x - l.was)
		}
	case Tokens:
		if s := c.stock; s != nil {
			s.take(m.now, x, nil)
			s.came(m.now, c.class.Stock.Hold, x, x)
			m.thirst(c)
		} else {
			c.bucket.Taken(c.class.Rate, m.now, l.Terms().Base, x)
		}
	default:
		c.breaker.Succeeded(l.was, x)
	}
	if l.needing != nil {
		c.calls = int32(l.needing.Shut())
	}
}

// reopen opens the cells of s about which nothing is unusual. Those of keys are left shut by a call
// that was not known to have them: nobody comes for them in any other way.
func (m *Machine) reopen(s *needSet) {
	w := s.way
	if w == nil || !w.quick || m.policy.RefuseLate { // which has to know how long calls take
		return
	}
	if w.shy > 0 {
		w.shy--
		return
	}
	if s.fixed != nil {
		w.known = min(w.known+2, mostKnown)
	} else {
		w.known = max(w.known-1, 0)
	}
	if w.known < worthOpening {
		return
	}
	for i := range s.list {
		if c := s.list[i].Cell; c.latch != nil && !c.open && (s.fixed != nil || c.class.MaxKeys == 0) && c.usual(m.now) {
			m.openCell(c)
		}
	}
}

// usual reports whether c may be open.
func (c *Cell) usual(now int64) bool {
	if c.lanes > 0 || c.q != nil || c.pause != nil || c.index == gone {
		return false
	}
	if k := c.class; k.MaxKeys > 0 && len(k.list) > k.MaxKeys { // it has to go once it is idle
		return false
	}
	switch c.kind {
	case Slots:
		return c.used < latch.MostSlots
	case Tokens:
		if c.stock != nil {
			return c.inHand(now) > 0
		}
		r := c.class.Rate
		most := latch.MostUnits / 4 / r.Scale()
		return r.Scale() <= maxScale && r.Refill() < most && c.bucket.FullAt()-now < most && c.bucket.Whole(r, now)
	}
	return c.breaker.IsClean(now)
}

// maxScale bounds how fine the units of an open bucket are.
const maxScale = 4096

// opens notes that the latch of c opens.
func (m *Machine) opens(c *Cell) {
	c.open, c.latch.m, c.latch.at = true, m, len(m.opened)
	m.opened = append(m.opened, c)
}

// refuseQuickly has calls be refused by the breaker c without the lock, as t has been under it, for as long
// as nothing but time changes that.
func (m *Machine) refuseQuickly(t *Ticket, c *Cell) {
	s := t.needs.fixed
	if s == nil || len(s.latched) == 0 || c.open || c.pause != nil || c.breaker.State(m.now) != breaker.Open {
		return
	}
	if ok, until := c.breaker.Ready(m.now); !ok {
		m.opens(c)
		c.latch.refuses = true
		c.latch.Refuse(&latch.Refusal{Until: until, By: c.class.Name})
	}
}

// declare has the latch of c, which is shut, say whether c refuses calls, if it is no breaker.
func (c *Cell) declare() {
	switch l := c.latch; {
	case l == nil || c.kind == Breaker:
	case c.kind == Slots && c.limit < 1:
		l.Refuse(&latch.Refusal{Until: Never}) // for another reason
	case !c.class.Refuse:
		l.Refuse(nil)
	case c.kind == Slots:
		x := &latch.Refusal{Until: Never, Limit: c.limit, By: c.class.Name}
		if k := c.class; k.Full != nil {
			x.Cause = k.Full(c)
		}
		l.Refuse(x)
	default:
		l.Refuse(&latch.Refusal{Until: Never})
	}
}

// Refusal is how a call of s is refused at the instant now, which is present, and after how long it may be
// tried again, zero if nobody knows; nil if that is to be asked under the lock. It needs none. A nested call
// may use slots of those around it: by slots it is refused under the lock alone.
func (s *NeedSet) Refusal(now int64, nested bool) (_ *Said, after int64) {
	x := s.latches.Refusal(now)
	if x == nil && !nested {
		x = s.latches.Full()
	}
	if x == nil {
		return nil, 0
	}
	for _, l := range s.mortal { // none of which was forgotten then
		if l.IsForgotten() { // there may be no room for a new one
			return nil, 0
		}
	}
	if x.Until == Never {
		return x, 0
	}
	return x, x.Until - now
}

func (m *Machine) openCell(c *Cell) {
	l := c.latch
	m.opens(c)
	if c.idle >= 0 && c.idleFrom == Never { // it may fall idle without the lock
		c.idleFrom = m.now
		c.class.idle.Fix(c.idle, m.now, 0)
	}
	switch c.kind {
	case Slots:
		l.was = c.used
		l.OpenSlots(c.used, c.limit)
	case Tokens:
		if s := c.stock; s != nil { // its units are those of a bucket in which time brings nothing
			c.renew()
			l.OpenTokens(0, &latch.Terms{Base: m.now, Until: s.lots[0].at + c.class.Stock.Hold - 1, One: 1, Span: c.inHand(m.now), Edition: c.edition})
			break
		}
		x, r := l.Terms(), c.class.Rate
		if x == nil || x.Edition != c.edition || m.now > x.Until {
			if c.edition == 0 || x != nil && x.Edition == c.edition {
				c.renew() // units count from another instant
			}
			x = &latch.Terms{Base: m.now, Until: m.now + latch.MostUnits/2/r.Scale(), Scale: r.Scale(), Edition: c.edition}
			x.One, x.Span = r.Units()
		}
		l.OpenTokens(c.bucket.FullIn(r, x.Base), x)
	default:
		l.was = m.now
		l.OpenBreaker(c.breaker.Generation(), c.breaker.CountsUntil(m.now))
	}
	if l.needing != nil {
		l.needing.OpenSlots(int64(c.calls), latch.MostSlots)
	}
}

// shutEvery shuts all cells.
func (m *Machine) shutEvery() {
	for _, c := range slices.Clone(m.opened) {
		c.shut()
	}
}
