package admit

import (
	"slices"
	"strings"
)

// Nested calls. A limit counts chains of calls: where an ancestor of a call holds slots
// of the same cell, the call runs on those, whatever its weight, unless the class is weighted and
// those are too few. A slot is lent to one
// descendant at a time; siblings beyond it queue for slots of their own, and the end of
// the one examines the others first. What an ancestor leaves behind while it is lent
// passes to the borrower, so a slot is given back when the last of a chain ends.

// kin is what ties a ticket to the calls around it. Tickets that neither are nested nor
// have nested calls go without.
type kin struct {
	joined bool // is among its parent's children
	runs   bool // counts among its parent's active children
	stuck  bool // runs, but every child waits or is stuck

	children []*Ticket // waiting and running
	active   int       // children in which somebody can run
	borrowed []loan    // from an ancestor
	lent     []loan    // to a descendant
	owned    []Need    // left behind by an ancestor that ended
}

// loan is one cell's slots, borrowed from or lent to another ticket.
type loan struct {
	cell *Cell
	with *Ticket
}

func find(loans []loan, c *Cell) int {
	for i := range loans {
		if loans[i].cell == c {
			return i
		}
	}
	return -1
}

// without is list without what is at i. The order of the others stays.
func without[T any](list []T, i int) []T {
	if last := len(list) - 1; i == last {
		clear(list[last:])
		return list[:last]
	}
	return slices.Delete(list, i, i+1)
}

// family is t's kin, made if need be.
func (m *Machine) family(t *Ticket) *kin {
	if t.kin == nil {
		t.kin = m.freeKin.get()
	}
	return t.kin
}

// clear makes k as good as new; its slices keep their room.
func (k *kin) clear() {
	clear(k.children)
	clear(k.borrowed)
	clear(k.lent)
	clear(k.owned)
	k.joined, k.runs, k.stuck, k.active = false, false, false, 0
	k.children, k.borrowed, k.lent, k.owned = k.children[:0], k.borrowed[:0], k.lent[:0], k.owned[:0]
}

func (t *Ticket) wants(c *Cell) bool {
	list := t.needs.list
	for i := range list {
		if list[i].Cell == c {
			return true
		}
	}
	return false
}

// charged is how many slots of c are booked in the name of the running t.
func (t *Ticket) charged(c *Cell, n int64) int64 {
	if find(t.kin.borrowed, c) >= 0 {
		return 0
	}
	for _, o := range t.kin.owned {
		if o.Cell == c {
			return o.N
		}
	}
	return n
}

// shares reports whether an ancestor of t holds slots of c that t may run on.
func (t *Ticket) shares(c *Cell) bool {
	for a := t.Parent; a != nil; a = a.Parent {
		if a.wants(c) {
			return !c.class.Weighted || a.runsOn(c) >= t.needs.need(c)
		}
	}
	return false
}

// lender is the ancestor whose slots of c are t's to run on: the nearest that has some,
// unless they are lent already.
func (t *Ticket) lender(c *Cell) *Ticket {
	a := t.reach(c)
	if a != nil && c.class.Weighted && a.runsOn(c) < t.needs.need(c) {
		return nil
	}
	return a
}

// reach is the lender of descendants of t for whom what there is is enough.
func (t *Ticket) reach(c *Cell) *Ticket {
	for a := t.Parent; a != nil; a = a.Parent {
		if a.wants(c) {
			if a.kin != nil && find(a.kin.lent, c) >= 0 {
				return nil
			}
			return a
		}
	}
	return nil
}

// runsOn is how many slots of c the running t has: its own, or an ancestor's.
func (t *Ticket) runsOn(c *Cell) int64 {
	for t.kin != nil {
		i := find(t.kin.borrowed, c)
		if i < 0 {
			return t.charged(c, t.needs.need(c))
		}
		t = t.kin.borrowed[i].with
	}
	return t.needs.need(c)
}

// borrow has t run on an ancestor's slots of c, if it may.
func (m *Machine) borrow(t *Ticket, c *Cell) bool {
	a := t.lender(c)
	if a == nil {
		return false
	}
	m.family(a).lent = append(a.kin.lent, loan{c, t})
	m.family(t).borrowed = append(t.kin.borrowed, loan{c, a})
	return true
}

// giveBack ends t's use of n slots of c: they pass to who has borrowed them, or return
// to who lent them, or are free.
func (m *Machine) giveBack(t *Ticket, c *Cell, n int64) {
	k := t.kin
	if len(k.borrowed)|len(k.lent)|len(k.owned) == 0 {
		if c.used -= n; c.lease != nil {
			m.unbind(t, c)
		}
		return
	}
	var from *Ticket
	if i := find(k.borrowed, c); i >= 0 {
		from = k.borrowed[i].with
	}
	if i := find(k.lent, c); i >= 0 {
		heir := k.lent[i].with
		j := find(heir.kin.borrowed, c)
		if from != nil {
			heir.kin.borrowed[j].with = from
			from.kin.lent[find(from.kin.lent, c)].with = heir
			return
		}
		units := t.charged(c, n)
		heir.kin.borrowed = without(heir.kin.borrowed, j)
		heir.kin.owned = append(heir.kin.owned, Need{c, units})
		if c.lease != nil {
			c.rebind(t, heir)
		}
		if heir.kin.stuck {
			c.stuck += units
		}
		return
	}
	if from != nil {
		from.kin.lent = without(from.kin.lent, find(from.kin.lent, c))
		return
	}
	if c.used -= t.charged(c, n); c.lease != nil {
		m.unbind(t, c)
	}
}

// returns notes the slots that descendants of t's ancestors may run on once t has ended:
// what t gave back to them, and what was out of reach behind t.
func (m *Machine) returns(t *Ticket) {
	if t.Parent == nil || m.waiting == 0 {
		return
	}
	list := t.needs.list
	for i := range list {
		if c := list[i].Cell; c.kind == Slots {
			if a := t.reach(c); a != nil {
				m.returned = append(m.returned, loan{c, a})
			}
		}
	}
}

// serveSiblings has such slots used by the first descendant that waits for them.
func (m *Machine) serveSiblings() {
	for _, r := range m.returned {
		for {
			t := m.heir(r.with, r.with, r.cell, nil)
			if t == nil {
				break
			}
			l := t.lane
			v := m.examine(t)
			if v.cell == nil {
				m.start(l, nil)
				break
			}
			if v.refuse {
				if !m.turnAway(r.cell, l, v) {
					break
				}
			} else if v.cell == r.cell {
				break
			} else {
				m.move(l, v.cell)
			}
		}
	}
	clear(m.returned)
	m.returned = m.returned[:0]
}

// heir is the first of the descendants of t that wait at c and may run on what owner
// holds of it, or best if that came before.
func (m *Machine) heir(owner, t *Ticket, c *Cell, best *Ticket) *Ticket {
	if t.kin == nil {
		return best
	}
	for _, ch := range t.kin.children {
		if ch.state != Waiting {
			best = m.heir(owner, ch, c, best)
		} else if ch.lane.at == c && (best == nil || ch.seq < best.seq) && ch.lender(c) == owner {
			best = ch
		}
	}
	return best
}

// serveKin starts or moves the nested calls at c that may run on an ancestor's slots,
// whatever their place in the order.
func (m *Machine) serveKin(c *Cell) {
	if c.kind != Slots {
		return
	}
	for i := 0; c.q != nil && i < len(c.q.kin); {
		l := c.q.kin[i]
		if l.head.lender(c) == nil && !l.passesAt(c) {
			i++
			continue
		}
		switch v := m.examine(l.head); {
		case v.cell == c:
			i++
			continue
		case v.cell == nil:
			m.start(l, nil)
		case v.refuse:
			if !m.turnAway(c, l, v) {
				return
			}
		default:
			m.move(l, v.cell)
		}
		i = 0
	}
}

// join makes t a child of its parent, in which somebody can run if it runs.
func (m *Machine) join(t *Ticket, runs bool) {
	k := m.family(t)
	if k.joined {
		m.alive(t, runs)
		return
	}
	k.joined, k.runs = true, runs
	p := m.family(t.Parent)
	if p.children = append(p.children, t); runs {
		p.active++
	}
	m.regard(t.Parent)
}

// alive says whether somebody can run in t, for its parent's sake.
func (m *Machine) alive(t *Ticket, yes bool) {
	if t.Parent == nil || !t.kin.joined || t.kin.runs == yes {
		return
	}
	t.kin.runs = yes
	if yes {
		t.Parent.kin.active++
	} else {
		t.Parent.kin.active--
	}
	m.regard(t.Parent)
}

// regard works out anew whether anybody can run in p, which runs: not if it has called
// others and all of them wait. (A tool that goes on while a call it made waits is taken
// for one that waits too; the difference cannot be seen from here.)
func (m *Machine) regard(p *Ticket) {
	k := p.kin
	if stuck := len(k.children) > 0 && k.active == 0; stuck != k.stuck {
		m.setStuck(p, stuck)
		m.alive(p, !stuck)
	}
}

func (m *Machine) setStuck(p *Ticket, stuck bool) {
	p.kin.stuck = stuck
	list := p.needs.list
	for i := range list {
		n := &list[i]
		if n.Cell.kind != Slots {
			continue
		}
		if u := p.charged(n.Cell, n.N); stuck {
			n.Cell.stuck += u
			m.suspect(n.Cell)
		} else {
			n.Cell.stuck -= u
		}
	}
}

// part takes t, which has ended, out of its family. Its children become its parent's.
func (m *Machine) part(t *Ticket) {
	k, p := t.kin, t.Parent
	if k == nil {
		return
	}
	if p != nil && k.joined {
		p.kin.children = without(p.kin.children, slices.Index(p.kin.children, t))
		if k.runs {
			p.kin.active--
		}
	}
	for _, ch := range k.children {
		ch.Parent = p
		if p == nil {
			continue
		}
		m.family(p).children = append(p.kin.children, ch)
		if ch.kin.runs {
			p.kin.active++
		}
	}
	t.Parent, t.kin = nil, nil
	if p != nil && p.kin != nil {
		m.regard(p)
	}
	for a := p; a != nil && m.waiting > 0; a = a.Parent { // t may have been what kept others from waiting in vain
		for _, n := range a.needs.list {
			m.suspect(n.Cell)
		}
	}
	var wide []*Ticket
	for _, ch := range k.children {
		wide = ch.tooWide(wide)
	}
	for _, ch := range wide {
		for _, n := range ch.needs.list {
			if !n.Cell.fits(n.N) && !ch.shares(n.Cell) {
				m.refuseHead(ch.lane, Refusal{Reason: TooWide, By: n.Cell})
				break
			}
		}
	}
	if cap(k.children) <= batch {
		k.clear()
		m.freeKin.put(k)
	}
}

// tooWide appends to list those of t and its descendants that wait and weigh more than a
// limit of which no ancestor holds slots any more.
func (t *Ticket) tooWide(list []*Ticket) []*Ticket {
	if t.state == Waiting {
		for _, n := range t.needs.list {
			if !n.Cell.fits(n.N) && !t.shares(n.Cell) {
				return append(list, t)
			}
		}
	}
	if t.kin != nil {
		for _, ch := range t.kin.children {
			list = ch.tooWide(list)
		}
	}
	return list
}

// suspect has the nested calls that wait at c examined for a cycle, once everything that
// can start has.
func (m *Machine) suspect(c *Cell) {
	if c.q != nil && c.kind == Slots && c.stuck > 0 && c.stuck >= c.used && !slices.Contains(m.knots, c) {
		m.knots = append(m.knots, c)
	}
}

// untie refuses the newest call that waits for itself, and reports whether there was one. If not own, it may be
// one that waits behind such.
func (m *Machine) untie(own bool) bool {
	for _, c := range slices.Backward(m.knots) {
		l := m.newest(c, nil)
		if l == nil {
			continue
		}
		in := m.cycle(l)
		if in == nil {
			continue
		}
		if own {
			l = m.newest(c, in)
		}
		if l != nil {
			m.refuseHead(l, Refusal{Reason: Cycle, By: c, Detail: namesOf(in)})
			return true
		}
	}
	return false
}

// newest is the newest nested call at c that waits for no more than slots there, and for whose ancestors some
// of in are booked, unless that is nil.
func (m *Machine) newest(c *Cell, in []*Cell) (last *lane) {
	for _, l := range m.all {
		if l.nested && l.at == c && !l.kept() && (last == nil || l.head.seq > last.head.seq) &&
			(in == nil || slices.ContainsFunc(in, l.head.holdsAbove)) {
			last = l
		}
	}
	return last
}

// namesOf is the cycle for people.
func namesOf(cycle []*Cell) string {
	names := make([]string, 0, len(cycle)+1)
	for _, c := range cycle {
		names = append(names, c.class.Name)
	}
	return strings.Join(append(names, names[0]), " -> ")
}

// cycle is the limits that wait for each other once the nested call of l waits where
// it is parked, or nil. There is one only if every holder of that limit is a
// chain in which nobody can run, and the same is true wherever those chains wait. Who waits
// for slots that are kept for a claim is in none: the claimant waits for somebody who runs. Who waits
// for its turn waits where whoever comes before it does.
func (m *Machine) cycle(l *lane) []*Cell {
	b := m.blocker(l)
	if b.kept() {
		return nil
	}
	seen := []*Cell{b.at}
	for i := 0; i < len(seen); i++ {
		c := seen[i]
		if c.kind != Slots || c.pause.ends() > m.now || c.stuck < c.used || c.used == 0 || c.lease != nil && c.lease.has() < c.class.Limit {
			return nil // time, somebody who runs, or another process, will help
		}
		for _, x := range m.all {
			if !x.nested || !x.head.holdsAbove(c) {
				continue
			}
			b := m.blocker(x)
			if b.kept() {
				return nil
			}
			if !slices.Contains(seen, b.at) {
				seen = append(seen, b.at)
			}
		}
	}
	return seen
}

// kept reports whether there are slots for l where it waits, kept from it for a claim.
func (l *lane) kept() bool {
	return l.at.kind == Slots && l.at.used+l.need(l.at) <= l.at.limit
}

// holdsAbove reports whether slots of c are booked in the name of an ancestor of t.
func (t *Ticket) holdsAbove(c *Cell) bool {
	for a := t.Parent; a != nil; a = a.Parent {
		if a.wants(c) && find(a.kin.borrowed, c) < 0 {
			return true
		}
	}
	return false
}
