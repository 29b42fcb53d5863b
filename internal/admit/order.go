package admit

import (
	"iter"
	"slices"
	"strings"

	"github.com/sluice-go/sluice/internal/heap"
)

// Order. At a cell of an ordered class nobody starts while a call waits that needs the cell and came
// earlier, wherever that one is parked: not by a higher level, and not for being narrower. So a call
// that needs much is not passed by those that need little, and whoever is first in line and finds room
// has it until it starts, whatever else it waits for. Calls of other cells are not held up.
//
// A call that needs several such cells starts when it is first in the line of each. Nobody who waits
// holds anything, and each waits for such as came earlier, so no two wait for each other.
//
// In a weighted class calls need much of one cell and little of another. There a call that needs half of a
// limit or less passes those that wait elsewhere, if it leaves room for all such calls in the line and nobody
// before it needs more: a reader does not wait for one that reads the same and waits to write something else.
//
// Levels and tenants do not count in a line, nor does a call that waits there lend its level to those
// before it.
//
// Nested calls: what an ancestor holds is there to run on, out of turn. For a cell of its own a nested
// call waits for its turn, unless it would wait for itself: whoever comes before it may need, at this
// cell or another, what its ancestors hold. Then it passes them, see passOn.

// line is the lanes that need a cell, wherever they are parked, the one whose head came first at the top.
type line struct {
	spots heap.Heap[uint64, *spot]
	load  int64 // slots that their calls need
	away  int   // calls that are out of the queue for as long as changes are made, see resume

	// Of a weighted class: the spots that need more than half of the limit, those of the others that are parked
	// at the cell, and how much of load is of others.
	wide, here heap.Heap[uint64, *spot]
	narrow     int64
}

// spot is where a lane stands in the line of a cell.
type spot struct {
	lane   *lane
	cell   *Cell
	n      int64 // what one of its calls takes there
	at     int32
	passes bool  // out of turn: it is of a nested call that would wait for itself
	wide   bool  // in a weighted class: it needs more than half of the limit
	also   int32 // place in wide or here of the line, -1 outside
}

// isWide reports whether n is so much of c that it passes nobody.
func (c *Cell) isWide(n int64) bool { return n > c.limit/2 }

// spot is where l stands in the line of c, or nil.
func (l *lane) spot(c *Cell) *spot {
	for i := range l.spots {
		if l.spots[i].cell == c {
			return &l.spots[i]
		}
	}
	return nil
}

func newLine() *line {
	l := new(line)
	l.spots.Place = func(s *spot, i int32) { s.at = i }
	l.wide.Place = func(s *spot, i int32) { s.also = i }
	l.here.Place = l.wide.Place
	return l
}

// setOrdered has c, for which nobody waits in the queue, keep order or not.
func (c *Cell) setOrdered(yes bool) {
	if c.ordered = yes; yes {
		c.line = newLine()
	} else {
		c.line = nil
	}
}

// first is the lane whose head is the first in line at c, or nil.
func (c *Cell) first() *lane {
	if c.line.spots.Len() == 0 {
		return nil
	}
	return c.line.spots.Top().lane
}

// inTurn reports whether no other call that needs the ordered c comes before t. One that waits is the
// head of its lane.
func (m *Machine) inTurn(c *Cell, t *Ticket) bool {
	if t.lane != nil && t.lane.passesAt(c) {
		return true
	}
	q := c.line
	return (q.spots.Len() == 0 || q.spots.Min() >= t.seq || c.mayPass(t)) && (q.away == 0 || t == m.returning)
}

// mayPass reports whether t may start before others that came earlier to c and wait elsewhere, since it takes
// nothing that they need.
func (c *Cell) mayPass(t *Ticket) bool {
	if !c.class.Weighted {
		return false
	}
	q, more := c.line, int64(0)
	if t.lane == nil {
		if more = t.needs.need(c); c.isWide(more) {
			return false
		}
	} else if t.lane.spot(c).wide {
		return false
	}
	return (q.wide.Len() == 0 || q.wide.Min() > t.seq) && c.used+q.narrow+more <= c.limit
}

// lineUp has the new lane l, whose first call is t, stand in line wherever it needs an ordered cell.
func (m *Machine) lineUp(l *lane, t *Ticket) {
	for _, n := range l.needs.list {
		if n.Cell.ordered {
			l.spots = append(l.spots, spot{lane: l, cell: n.Cell, n: n.N, also: -1, wide: n.Cell.class.Weighted && n.Cell.isWide(n.N)})
		}
	}
	for i := range l.spots { // which do not move any more
		s := &l.spots[i]
		if s.cell.line.spots.Push(t.seq, 0, s); s.wide {
			s.cell.line.wide.Push(t.seq, 0, s)
		}
	}
	if m.lined++; l.nested {
		m.kinInLine = append(m.kinInLine, l)
	}
}

// passesAt reports whether l needs c out of turn.
func (l *lane) passesAt(c *Cell) bool {
	s := l.spot(c)
	return s != nil && s.passes
}

// load adds the needs of n calls more, or fewer, to the lines of l.
func (l *lane) load(n int64) {
	for i := range l.spots {
		s := &l.spots[i]
		if s.cell.line.load += n * s.n; !s.wide {
			s.cell.line.narrow += n * s.n
		}
	}
}

// comes is called when l is parked at c, where it stands in line, and goes when it is no more.
func (l *lane) comes(c *Cell) {
	if s := l.spot(c); c.class.Weighted && !s.wide {
		c.line.here.Push(l.head.seq, 0, s)
	}
}

func (l *lane) goes(c *Cell) {
	if s := l.spot(c); !s.wide && s.also >= 0 {
		c.line.here.Remove(s.also)
	}
}

// among is the heap of its line that s stands in besides, if any.
func (s *spot) among() *heap.Heap[uint64, *spot] {
	if s.wide {
		return &s.cell.line.wide
	}
	return &s.cell.line.here
}

// moveUp is called when the head of l, which stands in line, has gone. Others may be first now.
func (m *Machine) moveUp(l *lane) {
	for i := range l.spots {
		s := &l.spots[i]
		if l.head != nil {
			s.cell.line.spots.Fix(s.at, l.head.seq, 0)
			if s.also >= 0 {
				s.among().Fix(s.also, l.head.seq, 0)
			}
		} else {
			s.cell.line.spots.Remove(s.at)
			if s.also >= 0 {
				s.among().Remove(s.also)
			}
		}
		m.mark(s.cell)
	}
	if l.head != nil {
		return
	}
	if m.lined--; l.nested {
		i := slices.Index(m.kinInLine, l)
		m.kinInLine = slices.Delete(m.kinInLine, i, i+1)
	}
}

// fewer is called when a call that was not the head of l, which stands in line, has gone. There may be room for
// others now.
func (m *Machine) fewer(l *lane) {
	for i := range l.spots {
		if c := l.spots[i].cell; c.class.Weighted {
			m.mark(c)
		}
	}
}

// serveLine starts, moves or refuses whoever is first in line at the ordered c, until c refuses one, or
// the first waits elsewhere; then those who may pass that.
func (m *Machine) serveLine(c *Cell) {
	for l := c.first(); l != nil && c.used < c.limit; l = c.first() {
		more, elsewhere := m.serveHead(c, l)
		if elsewhere {
			break // where c stays its own: of all others only some may pass
		}
		if !more {
			return
		}
	}
	for here := &c.line.here; here.Len() > 0 && c.used < c.limit; {
		if more, elsewhere := m.serveHead(c, here.Top().lane); !more && !elsewhere {
			return
		}
	}
}

// serveHead starts, refuses or moves the head of l. It reports whether c may be served on, or it has come to
// wait elsewhere.
func (m *Machine) serveHead(c *Cell, l *lane) (more, elsewhere bool) {
	v := m.examine(l.head)
	if v.cell == nil && m.marked > 0 {
		v.cell = m.contested(l.head, c)
	}
	switch {
	case v.cell == nil:
		m.start(l, nil)
		return true, false
	case v.refuse:
		return m.turnAway(c, l, v), false
	case v.cell == c:
		if v.at != Never {
			m.arm(c, v.at)
		}
		return false, false
	}
	at := l.at
	if m.move(l, v.cell); at != c {
		m.mark(at) // it may have been the next there
	}
	return false, true
}

// behind is the lane that has to start before l can where that is parked, or nil if it does not wait for its
// turn there.
func (l *lane) behind() *lane {
	c := l.at
	if !c.ordered || l.passesAt(c) || c.first() == l {
		return nil
	}
	if s, q := l.spot(c), c.line; c.class.Weighted && !s.wide {
		if q.wide.Len() > 0 && q.wide.Min() < l.head.seq {
			return q.wide.Top().lane
		}
		if c.used+s.n > c.limit {
			return nil // for room, as the first would
		}
	}
	return c.first()
}

// blocker is the lane that has to start first for l to start, that has not to wait for its turn and for
// which no other one stands: l itself, as a rule.
func (m *Machine) blocker(l *lane) *lane {
	for range m.all {
		x := l.behind()
		switch c := l.at; {
		case x != nil:
			l = x
		case c.deputies > 0 && !l.nested && (c.kind != Slots || l.kept()):
			l = m.all[slices.IndexFunc(m.all, func(x *lane) bool { return x.stands == c })]
		default:
			return l
		}
	}
	return l
}

// passOn finds a nested call that waits for its turn behind those who wait for its own ancestors, has it
// pass them, and reports whether there was one. If not own, it may wait behind others that wait for each other.
// Each such call is looked at whenever something has happened: who is first may have come to wait elsewhere.
func (m *Machine) passOn(own bool) bool {
	for _, l := range m.kinInLine {
		if l.behind() == nil {
			continue
		}
		if in := m.cycle(l); in != nil && (!own || slices.ContainsFunc(in, l.head.holdsAbove)) {
			l.spot(l.at).passes = true
			m.mark(l.at)
			return true
		}
	}
	return false
}

// ordered reports whether some cell of s keeps order.
func (s *needSet) ordered() bool {
	return slices.ContainsFunc(s.list, func(n Need) bool { return n.Cell.ordered })
}

// depart notes that calls are out of the queue for as long as changes are made: nobody passes them where
// they stand in line. It reports whether any do.
func (m *Machine) depart(list []*Ticket) (some bool) {
	for _, t := range list {
		for _, n := range t.needs.list {
			if n.Cell.ordered {
				n.Cell.line.away++
				some = true
			}
		}
	}
	return some
}

// comesBack is called when t, the first of those that are left, is about to arrive again.
func (m *Machine) comesBack(t *Ticket) {
	m.returning = t
	for _, n := range t.needs.list {
		if c := n.Cell; c.ordered {
			if c.line.away--; c.line.away == 0 {
				m.mark(c)
			}
		}
	}
}

// SetOrdered has the cells of k keep order from now on, or not. Calls that wait keep their places.
func (m *Machine) SetOrdered(now int64, k *Class, yes bool) {
	if k.Ordered == yes {
		return
	}
	m.advance(now)
	m.requeue(func(t *Ticket) bool {
		return slices.ContainsFunc(t.needs.list, func(n Need) bool { return n.Cell.class == k })
	}, func(list []Need) []Need { return list })
	k.Ordered = yes
	for _, c := range k.list {
		c.setOrdered(yes)
	}
	m.resume()
}

// AddEach gives t a need of n times its weight at k's cell of each key, as Add and cell do of one. It reports whether
// there was room for all of them: none has to make room for another.
func (m *Machine) AddEach(
	now int64, t *Ticket, k *Class, keys iter.Seq2[string, int64], n int64, cell func(*Machine, int64, *Class, string) *Cell,
) bool {
	if t.needs == nil {
		t.needs = m.newNeeds()
	}
	from, all := len(t.needs.list), true
	for key, weight := range keys {
		if k.cells[key] == nil {
			key = strings.Clone(key) // which may be a small part of something large
		}
		c := cell(m, now, k, key)
		if all = c != nil; !all {
			break
		}
		m.Add(t, c, n*weight)
		c.lanes++
	}
	for _, n := range t.needs.list[from:] {
		n.Cell.lanes--
		m.idlesSooner(n.Cell)
	}
	return all
}
