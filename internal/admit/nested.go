package admit

import (
	"slices"
	"strings"
)

// Nested calls. A limit counts chains of calls: where an ancestor of a call holds slots
// of the same cell, the call runs on those, whatever its weight. A slot is lent to one
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

func (t *Ticket) family() *kin {
	if t.kin == nil {
		t.kin = new(kin)
	}
	return t.kin
}

func (t *Ticket) wants(c *Cell) bool {
	for i := range t.needs.list {
		if t.needs.list[i].Cell == c {
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

// lender is the ancestor whose slots of c are t's to run on: the nearest that has some,
// unless they are lent already.
func (m *Machine) lender(t *Ticket, c *Cell) *Ticket {
	for a := t.parent; a != nil; a = a.parent {
		if a.wants(c) {
			if a.kin != nil && find(a.kin.lent, c) >= 0 {
				return nil
			}
			return a
		}
	}
	return nil
}

// borrow has t run on an ancestor's slots of c, if it may.
func (m *Machine) borrow(t *Ticket, c *Cell) bool {
	a := m.lender(t, c)
	if a == nil {
		return false
	}
	a.family().lent = append(a.kin.lent, loan{c, t})
	t.family().borrowed = append(t.kin.borrowed, loan{c, a})
	return true
}

// giveBack ends t's use of n slots of c: they pass to who has borrowed them, or return
// to who lent them, or are free.
func (m *Machine) giveBack(t *Ticket, c *Cell, n int64) {
	k, units := t.kin, t.charged(c, n)
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
		heir.kin.borrowed = slices.Delete(heir.kin.borrowed, j, j+1)
		heir.kin.owned = append(heir.kin.owned, Need{c, units})
		if heir.kin.stuck {
			c.stuck += units
		}
		return
	}
	if from != nil {
		i := find(from.kin.lent, c)
		from.kin.lent = slices.Delete(from.kin.lent, i, i+1)
		m.returned = append(m.returned, loan{c, from})
		return
	}
	c.used -= units
}

// serveSiblings has the slots that came back to an ancestor used by the next of its
// descendants that waits for them.
func (m *Machine) serveSiblings() {
	for len(m.returned) > 0 {
		r := m.returned[0]
		m.returned = m.returned[1:]
		for {
			t := r.with.heir(r.cell, nil)
			if t == nil {
				break
			}
			l := t.lane
			v := m.examine(t)
			if v.cell == nil {
				m.leave(l)
				m.start(l, r.cell)
				break
			}
			if v.refuse {
				m.refuseHead(l, m.refusal(v.cell, v.at))
			} else if v.cell == r.cell {
				break
			} else {
				m.move(l, v.cell)
			}
		}
	}
	m.returned = nil
}

// heir is the first descendant of t that waits at c, or best if that came before.
func (t *Ticket) heir(c *Cell, best *Ticket) *Ticket {
	if t.kin == nil {
		return best
	}
	for _, ch := range t.kin.children {
		if ch.state == Waiting {
			if ch.lane.at == c && (best == nil || ch.seq < best.seq) {
				best = ch
			}
		} else {
			best = ch.heir(c, best)
		}
	}
	return best
}

// join makes t a child of its parent.
func (m *Machine) join(t *Ticket) {
	if t.parent == nil || t.family().joined {
		return
	}
	t.kin.joined = true
	p := t.parent.family()
	p.children = append(p.children, t)
	m.regard(t.parent)
}

// alive says whether somebody can run in t, for its parent's sake.
func (m *Machine) alive(t *Ticket, yes bool) {
	if t.parent == nil || !t.kin.joined || t.kin.runs == yes {
		return
	}
	t.kin.runs = yes
	if yes {
		t.parent.kin.active++
	} else {
		t.parent.kin.active--
	}
	m.regard(t.parent)
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
	for _, n := range p.needs.list {
		if n.Cell.class.Kind != Slots {
			continue
		}
		if u := p.charged(n.Cell, n.N); stuck {
			n.Cell.stuck += u
		} else {
			n.Cell.stuck -= u
		}
	}
}

// part takes t, which has ended, out of its family. Its children become its parent's.
func (m *Machine) part(t *Ticket) {
	k, p := t.kin, t.parent
	if k == nil {
		return
	}
	if p != nil && k.joined {
		i := slices.Index(p.kin.children, t)
		p.kin.children = slices.Delete(p.kin.children, i, i+1)
		if k.runs {
			p.kin.active--
		}
	}
	for _, ch := range k.children {
		ch.parent = p
		if p == nil {
			continue
		}
		p.family().children = append(p.kin.children, ch)
		if ch.kin.runs {
			p.kin.active++
		}
	}
	t.parent, t.kin = nil, nil
	if p != nil && p.kin != nil {
		m.regard(p)
	}
}

// cycle names the limits that wait for each other once the nested call of l waits where
// it is parked, or answers "". There is one only if every holder of that limit is a
// chain in which nobody can run, and the same is true wherever those chains wait.
func (m *Machine) cycle(l *lane) string {
	seen := []*Cell{l.at}
	for i := 0; i < len(seen); i++ {
		c := seen[i]
		if c.class.Kind != Slots || c.paused > m.now || c.stuck < c.used || c.used == 0 {
			return "" // time, or somebody who runs, will help
		}
		for _, x := range m.all {
			if x.nested && x.head.holdsAbove(c) && !slices.Contains(seen, x.at) {
				seen = append(seen, x.at)
			}
		}
	}
	names := make([]string, 0, len(seen)+1)
	for _, c := range seen {
		names = append(names, c.class.Name)
	}
	return strings.Join(append(names, names[0]), " -> ")
}

// holdsAbove reports whether slots of c are booked in the name of an ancestor of t.
func (t *Ticket) holdsAbove(c *Cell) bool {
	for a := t.parent; a != nil; a = a.parent {
		if a.wants(c) && find(a.kin.borrowed, c) < 0 {
			return true
		}
	}
	return false
}
