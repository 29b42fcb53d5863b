package admit

import (
	"math"
	"math/bits"
	"slices"

	"github.com/sluice-go/sluice/internal/heap"
)

// Levels is how many priorities there are.
const Levels = 9

// queue is the lanes parked at one cell, in the cell's own order. It exists only while
// somebody waits there, so a newcomer never stands behind the past. What every start reads or
// changes comes first, close together.
type queue struct {
	starts int         // given here; only differences count
	last   [Levels]int // starts at each level's last, or when it came to wait
	// ordered is a bit for each level with lanes in order: mostly that is one, and to find it one
	// word is looked at instead of all levels.
	ordered uint16
	known   uint16 // likewise, for those with flows
	stalled bool   // it has been told that none came back for long
	since   int64  // when somebody came to wait, slots came back, or a pause ends
	n       int    // lanes in order
	calls   int    // in all lanes parked here
	// aside are heads wider than what was free when they reached the front, oldest first, and
	// those that take no tokens and wait for the end of a pause.
	aside  []*lane
	kin    []*lane // lanes in order of nested calls, which may run on what others cannot
	levels [Levels]level
}

type level struct {
	v     float64 // virtual time: no active tenant's tag is smaller
	load  int64   // slots or tokens that the calls parked here need, aside included
	flows heap.Heap[float64, *flow]
	by    table[flow] // all of them
}

// flow is one tenant of one level at one cell.
type flow struct {
	tenant *tenant
	tag    float64 // start tag of its next call
	place  int32   // among the active flows, -1 if it has no lane here
	lanes  heap.Heap[uint64, *lane]
}

// best is the lane whose head is next at this cell. There must be one in order.
func (q *queue) best(ageing int) *lane { return q.levels[q.front(ageing)].flows.Top().lanes.Top() }

// front is the level that is next: that with the highest rank.
func (q *queue) front(ageing int) int {
	at, most := 0, math.MinInt
	for some := q.ordered; some != 0; some &= some - 1 {
		p := bits.TrailingZeros16(some)
		if r := p*ageing - q.last[p]; r >= most { // of equals the higher level
			at, most = p, r
		}
	}
	return at
}

// rank is what the level p, which has lanes in order, is compared by: each start given to others
// while it waits counts for something.
func (q *queue) rank(p, ageing int) int { return p*ageing + q.starts - q.last[p] }

func (q *queue) empty() bool { return q.n == 0 && len(q.aside) == 0 }

// now is the level's virtual time: the smallest tag of an active flow, never going back.
func (l *level) now() float64 {
	if l.flows.Len() > 0 {
		l.v = max(l.v, l.flows.Min())
	}
	return l.v
}

// of is t's flow of the level, or nil.
func (l *level) of(t *tenant) *flow {
	if t == nil {
		return nil
	}
	return l.by.find(t.hash, func(f *flow) bool { return f.tenant == t })
}

// flow returns t's flow of the level p of q, made if need be.
func (m *Machine) flow(q *queue, p int8, t *tenant) *flow {
	l := &q.levels[p]
	if f := l.of(t); f != nil {
		return f
	}
	if l.flows.Place == nil {
		l.flows.Place = func(f *flow, i int32) { f.place = i }
	}
	if l.by.n > 2*l.flows.Len()+16 { // tenants that came and went: those not ahead are as good as new
		now := l.now()
		for _, f := range slices.Collect(l.by.all) {
			if f.place < 0 && f.tag <= now {
				l.by.remove(f.tenant.hash, f)
				m.freeFlow(f)
			}
		}
	}
	f := m.freeFlows.get()
	if f.lanes.Place == nil {
		f.lanes.Place = func(l *lane, i int32) { l.place = i }
	}
	f.tenant, f.tag, f.place = t, l.now(), -1
	t.refs++
	l.by.add(t.hash, f)
	q.known |= 1 << p
	return f
}

func (m *Machine) freeFlow(f *flow) {
	m.release(f.tenant)
	f.tenant = nil
	m.freeFlows.put(f)
}

// park has l wait at c.
func (m *Machine) park(l *lane, c *Cell) {
	if c.q == nil {
		c.q = m.freeQueues.get()
		m.queues++
		m.waitsSince(c, max(m.now, c.pause.ends()))
		if c.shared {
			m.seek(c, true)
		}
	}
	q := c.q
	l.at, l.width = c, l.need(c)
	q.calls += l.n
	if c.lease != nil {
		m.thirst(c)
	}
	m.waited(l.head)
	l.head.by = c
	if c.ordered {
		l.comes(c)
	}
	if !c.inOrder(l.width) { // it has nobody to wait for but the end of the pause
		l.aside = true
		q.aside = append(q.aside, l)
		m.arm(c, c.opens(m.now))
		return
	}
	lv := &q.levels[l.level]
	f := m.flow(q, l.level, m.payer(l))
	l.flow = f
	f.lanes.Push(l.head.seq, 0, l)
	if f.place < 0 {
		f.tag = max(f.tag, lv.now())
		if lv.flows.Len() == 0 {
			q.last[l.level] = q.starts
			q.ordered |= 1 << l.level
		}
		lv.flows.Push(f.tag, f.lanes.Min(), f)
	} else {
		lv.flows.Fix(f.place, f.tag, f.lanes.Min())
	}
	q.n++
	lv.load += int64(l.n) * l.width
	if l.nested {
		q.kin = append(q.kin, l)
		if c.deputies > 0 {
			m.mark(c) // nobody can stand for it elsewhere: it may run on what others cannot
		}
	}
	if c.bucketLike() && q.best(m.policy.Ageing) == l {
		m.mark(c) // a new best may be payable now, or earlier
	}
	if at := c.opens(m.now); at > m.now {
		m.arm(c, at)
	} else if c.bucketLike() && q.n > 0 {
		b := q.best(m.policy.Ageing)
		if at := m.ready(c, b.head, b.width); at > m.now && at != Never {
			m.arm(c, at)
		}
	}
}

// putAside takes l out of the order: its head is wider than what is free.
func (m *Machine) putAside(l *lane) {
	c, q := l.at, l.at.q
	m.unorder(l, q)
	l.aside = true
	q.aside = append(q.aside, l)
	l.at = c
}

// unorder removes l from the order of q.
func (m *Machine) unorder(l *lane, q *queue) {
	f, lv := l.flow, &q.levels[l.level]
	lv.now()
	f.lanes.Remove(l.place)
	l.flow = nil
	q.n--
	if l.nested {
		i := slices.Index(q.kin, l)
		q.kin = slices.Delete(q.kin, i, i+1)
	}
	if f.lanes.Len() > 0 {
		lv.flows.Fix(f.place, f.tag, f.lanes.Min())
		return
	}
	lv.flows.Remove(f.place)
	if lv.flows.Len() == 0 {
		q.ordered &^= 1 << l.level
	}
}

// leave takes l out of where it is parked, and has the cell that it stood for looked at again.
func (m *Machine) leave(l *lane) {
	c, q := l.at, l.at.q
	q.levels[l.level].load -= int64(l.n) * l.width
	q.calls -= l.n
	if l.at = nil; c.ordered && len(l.spots) > 0 {
		l.goes(c)
	}
	if l.aside {
		l.aside = false
		q.aside = slices.Delete(q.aside, slices.Index(q.aside, l), slices.Index(q.aside, l)+1)
	} else {
		m.unorder(l, q)
	}
	if q.empty() {
		m.freeQueue(c)
	}
	m.standDown(l)
}

// standDown has the cell that l stood for, if it did, looked at again.
func (m *Machine) standDown(l *lane) {
	if c := l.stands; c != nil {
		l.stands = nil
		c.deputies--
		m.mark(c)
	}
}

// rekey tells l's place that its head has changed.
func (m *Machine) rekey(l *lane) {
	if l.head.by != l.at { // its lane has moved since it came
		m.waited(l.head)
		l.head.by = l.at
	}
	if l.flow == nil {
		return
	}
	l.flow.lanes.Fix(l.place, l.head.seq, 0)
	f := l.flow
	l.at.q.levels[l.level].flows.Fix(f.place, f.tag, f.lanes.Min())
}

func (m *Machine) freeQueue(c *Cell) {
	q := c.q
	c.q = nil
	m.queues--
	if c.shared {
		m.seek(c, false)
	}
	if c.timer >= 0 {
		m.timers.Remove(c.timer)
	}
	if c.isFar() {
		m.thirst(c) // what it has is kept no longer than for a while
	}
	q.stalled, q.calls = false, 0
	for ; q.known != 0; q.known &= q.known - 1 {
		l := &q.levels[bits.TrailingZeros16(q.known)]
		l.by.empty(m.freeFlow)
		l.v, l.load = 0, 0
	}
	m.freeQueues.put(q)
}

// outranks reports whether t, if it waited at c, would be before lane b, c's best.
func (m *Machine) outranks(c *Cell, t *Ticket, b *lane) bool {
	q, a := c.q, m.policy.Ageing
	if t.level != b.level {
		// Had t's own level aged here beyond b's, b would not be the best: so it need not be asked.
		x, y := int(t.level)*a, q.rank(int(b.level), a)
		return x > y || x == y && t.level > b.level
	}
	l := &q.levels[t.level]
	tag := l.now()
	if f := l.of(m.payerOf(t)); f != nil {
		if f == b.flow {
			return t.seq < b.head.seq
		}
		tag = max(f.tag, tag)
	}
	if tag != b.flow.tag {
		return tag < b.flow.tag
	}
	return t.seq < b.head.seq
}

// payerOf is who t's start is charged to, nil if nobody has heard of it.
func (m *Machine) payerOf(t *Ticket) *tenant {
	if m.policy.Ordered {
		return m.tenant(t)
	}
	return &m.everybody
}

// charge books the start of t, which waited at from or nowhere, at each of its cells where
// others wait.
func (m *Machine) charge(t *Ticket, from *Cell) {
	if m.queues == 1 && from != nil && from.q != nil {
		m.chargeAt(from, t, t.lane.width, true)
		return
	}
	for i := range t.needs.list {
		if n := &t.needs.list[i]; n.Cell.q != nil {
			m.chargeAt(n.Cell, t, n.N, n.Cell == from)
		}
	}
}

// chargeAt books it at c, where it takes n, and where it waited or did not.
func (m *Machine) chargeAt(c *Cell, t *Ticket, n int64, waited bool) {
	if !c.inOrder(n) || c.ordered {
		return
	}
	if c.bucketLike() {
		m.mark(c)
	}
	q := c.q
	q.starts++
	q.last[t.level] = q.starts
	l := &q.levels[t.level]
	var f *flow
	if t.lane != nil && t.lane.at == c {
		f = t.lane.flow // nil if it is set aside
	}
	if f == nil {
		f = m.flowOf(t, q)
	}
	v := l.v // of when t was the next here
	if !waited {
		v = l.now()
	}
	f.tag = max(f.tag, v) + float64(n)/f.tenant.weight
	if f.place >= 0 {
		l.flows.Fix(f.place, f.tag, f.lanes.Min())
	}
	for _, x := range q.aside {
		if x != t.lane && x.width > 0 {
			m.fail(x)
		}
	}
}

// flowOf is the flow of q that t's start is charged to, made if need be.
func (m *Machine) flowOf(t *Ticket, q *queue) *flow {
	tn := &m.everybody
	if m.policy.Ordered {
		tn = m.intern(t)
		defer m.release(tn)
	}
	return m.flow(q, t.level, tn)
}
