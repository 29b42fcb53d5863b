package admit

import (
	"math"
	"slices"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/bucket"
	"github.com/sluice-go/sluice/internal/heap"
	"github.com/sluice-go/sluice/internal/latch"
)

// Never is the instant that does not come: only a release or a change can help.
const Never int64 = math.MaxInt64

// Unlimited is a limit that never refuses.
const Unlimited int64 = math.MaxInt64 / 2

// Kind is what a cell counts.
type Kind uint8

const (
	Slots   Kind = iota // calls, or their weight, in flight
	Tokens              // starts, or their cost, over time
	Breaker             // outcomes; nobody waits at a breaker
	Foreign             // starts, as a limiter shared with other code counts them
)

// String is what users call it.
func (k Kind) String() string {
	return [...]string{"concurrency", "rate", "breaker", "shared limiter"}[k]
}

// Ranks is how many scopes there are, from narrow (0) to wide.
const Ranks = 8

// Class is what the cells of one limit have in common: they differ by key. A class
// belongs to one Machine at a time.
type Class struct {
	Name     string // what a refusal names
	Kind     Kind
	Rank     uint8  // breakers ask first whatever their rank
	Unit     string // what is counted; empty means calls
	Refuse   bool   // refuse at once instead of waiting
	Ordered  bool   // Slots; who comes later starts later, see order.go; not with Refuse or Semaphore
	Weighted bool   // Slots; a call takes its own number for each key, see order.go
	Upstream bool   // a throttle that a call reports pauses its cell
	MaxKeys  int    // bound of the table of keys; zero means the class is not keyed
	ByPlan   bool   // its cells live as long as some plan needs them, see [Machine.Pin]

	Limit    int64           // Slots; with Adaptive what a cell begins with
	Adaptive *Adaptive       // Slots; nil if the limit is fixed
	Rate     *bucket.Rate    // Tokens
	Breaker  *breaker.Config // Breaker
	Foreign  Limiter         // Foreign
	Stock    *Stock          // Tokens; nil if the buckets are the machine's own
	Votes    *Votes          // Breaker; nil if the breakers are the machine's own
	Leases   *Leases         // Slots; nil if they are the machine's own; else Limit is that of all processes

	Full func(*Cell) error // Slots; what is behind a refusal by a cell that is full; may be nil if nobody is told

	Semaphore Semaphore // Slots; shared with other code, which Limit bounds within; may be nil

	cells map[string]*Cell
	list  []*Cell                 // the same, to be read in batches
	idle  heap.Heap[int64, *Cell] // what may be evicted, by the instant from which: all of a keyed class, what no plan needs of one by plan

	closed bool     // see CloseStock, CloseLeases
	away   bool     // see SetAway
	short  uint64   // see Short
	given  []*Lease // see Given
	leases []*Lease // of all its cells
	busy   int      // cells for which somebody acquires slots
	common common   // of keyed classes: what all their cells share
}

// common is the cells of unit slots that every call which needs a certain cell needs as
// well, one slot each: where one of them is full, one waiting lane can stand for all.
type common struct {
	cells []*Cell
	known bool
}

func (s *common) meet(cells []*Cell) {
	if !s.known {
		s.known = true
		for _, c := range cells {
			if c.kind == Slots && c.class.Unit == "" && !c.shared {
				s.cells = append(s.cells, c)
			}
		}
		return
	}
	s.cells = slices.DeleteFunc(s.cells, func(c *Cell) bool { return !slices.Contains(cells, c) })
}

// Together tells the machine that calls of one plan need all of fixed and, where they
// have a key for it, one cell of each of keyed.
func (m *Machine) Together(fixed []*Cell, keyed []*Class) {
	for _, c := range fixed {
		c.common.meet(fixed)
	}
	for _, k := range keyed {
		k.common.meet(fixed)
	}
}

// implies reports whether every call that needs c needs one slot of d too.
func (c *Cell) implies(d *Cell) bool {
	return c != d && !d.ordered && slices.Contains(c.common.cells, d)
}

// Limiter is a limiter shared with other code. Its methods must not block.
type Limiter interface {
	Wait() int64      // nanoseconds until one token may be there; zero if one is, Never if none will be
	Take()            // takes a token, into debt if need be
	Give(since int64) // gives back one taken so long ago, as far as that can be
}

// Cell is one counter. Its methods are the machine's. There may be millions, one for each
// key of a rate: what every decision about a rate reads comes first, close together, and what
// few cells have stands apart.
type Cell struct {
	class        *Class
	q            *queue // nil unless somebody waits here
	pause        *pause // nil unless there is one, or one ended lately
	bucket       bucket.Bucket
	calls, lanes int32 // running calls and waiting lanes that need this cell
	timer, idle  int32 // places in heaps, -1 outside
	kind         Kind  // class.Kind, read at every step
	adaptive     bool  // class.Adaptive is not nil
	shared       bool  // class.Semaphore is not nil
	ordered      bool  // class.Ordered
	dirty        bool
	listed       bool   // in Machine.thirsty
	open         bool   // its latch is
	edition      uint32 // Tokens: another when the balance is changed by more than calls
	deputies     int32  // lanes that wait elsewhere and stand for those here
	pins         int32  // plans that need it, if its class is by plan
	index        int32  // in class.list; gone if it has been forgotten

	idleFrom   int64 // its key in the heap of idle cells
	*slotCount       // Slots; else nil
	breaker    *breaker.Breaker
	stock      *stock  // Tokens, if the class says so; else nil
	lease      *tenure // Slots, likewise
	key        string
	id         uint64 // for hashing lanes
	common     *common
	latch      *latched // of what calls need that may come the quick way; else nil
}

// slotCount is what cells of slots count.
type slotCount struct {
	limit, used int64
	taken       int64 // of the semaphore, if shared: more than used only while an event lasts
	stuck       int64 // of used: held by chains in which nobody can run (nested calls)
	held        int64 // how long calls held theirs lately, on average, but for apart
	aimd        *aimd // if adaptive
	line        *line // if ordered

	apart latch.Samples // the same of calls that ended without the lock since
}

// Class is what c shares with its siblings.
func (c *Cell) Class() *Class { return c.class }

// Key tells c from its siblings; empty if there are none.
func (c *Cell) Key() string { return c.key }

// Need is what one call takes from one cell: N slots or tokens; N is 1 for breakers. A
// call that takes no tokens of a rate is subject to it all the same: it waits for the end of
// a pause, and what it is found to have used is charged.
type Need struct {
	Cell *Cell
	N    int64
}

func newCell(k *Class, key string) *Cell {
	var c *Cell
	var count *slotCount
	if k.Kind == Slots {
		x := new(struct { // one beside the other
			cell  Cell
			count slotCount
		})
		c, count = &x.cell, &x.count
		count.limit = k.Limit
	} else {
		c = new(Cell)
	}
	*c = Cell{class: k, kind: k.Kind, key: key, slotCount: count, adaptive: k.Adaptive != nil,
		shared: k.Semaphore != nil, timer: -1, idle: -1, common: &k.common}
	if k.MaxKeys == 0 {
		c.common = new(common)
	}
	if k.Kind == Breaker {
		c.breaker = breaker.New(k.Breaker)
		k.join(c)
	}
	if c.adaptive {
		c.aimd = new(aimd)
	}
	if k.Ordered {
		c.setOrdered(true)
	}
	if k.Stock != nil {
		c.stock = &stock{closed: k.closed}
	}
	if k.Leases != nil {
		c.lease = new(tenure)
		c.limit = c.leased()
	}
	return c
}

// Cell returns k's cell for key, made when it is asked for first. In a keyed class that
// is full of busy keys a new key gets nil: only an idle cell, one that remembers
// nothing, makes room.
func (m *Machine) Cell(now int64, k *Class, key string) *Cell {
	if c := k.cells[key]; c != nil {
		return c
	}
	m.advance(now)
	if k.MaxKeys > 0 && !m.shrink(k, k.MaxKeys-1) || k.ByPlan && !m.spare(k) {
		return nil
	}
	return m.makeCell(k, key)
}

// makeCell makes k's cell for key.
func (m *Machine) makeCell(k *Class, key string) *Cell {
	if k.cells == nil {
		k.cells = make(map[string]*Cell)
		k.idle.Place = func(c *Cell, i int32) { c.idle = i }
	}
	c := newCell(k, key)
	m.cells++
	c.id = m.cells
	if c.breaker != nil && m.seed != 0 {
		c.breaker.Seed(m.seed + c.id<<32)
	}
	k.cells[key] = c
	c.index = int32(len(k.list))
	k.list = append(k.list, c)
	if k.MaxKeys > 0 || k.ByPlan {
		m.mayIdle(c)
	}
	return c
}

// shrink has idle cells of k make room until there are at most n. It removes a bounded number
// at a time, and reports whether that went as far as it may: else all that are left are busy.
func (m *Machine) shrink(k *Class, n int) bool {
	for left := batch; len(k.cells) > n && left > 0; left-- {
		c := m.idlest(k)
		if c == nil {
			return false
		}
		k.forget(c)
	}
	return true
}

// SetMaxKeys changes the bound of k's table, if it is keyed. More keys than that go as they
// fall idle.
func (m *Machine) SetMaxKeys(now int64, k *Class, n int) {
	m.advance(now)
	if k.MaxKeys = n; n > 0 && len(k.list) > n {
		for _, c := range k.list {
			c.shut() // until there are few enough: see usual
		}
		m.shrink(k, n)
	}
}

// Vacancy is the instant at which a key of k may fall idle, as far as time alone decides it:
// Never if all keys are in use.
func (m *Machine) Vacancy(k *Class) int64 {
	if m.idlest(k) != nil {
		return m.now
	}
	if k.idle.Len() == 0 || k.idle.Min() >= atLast {
		return Never
	}
	return k.idle.Min()
}

// mayIdle has c forgotten or evicted from the instant on at which it remembers nothing.
func (m *Machine) mayIdle(c *Cell) {
	c.idleFrom = m.idleAt(c)
	c.class.idle.Push(c.idleFrom, 0, c)
}

// gone is the index of a cell that has been forgotten.
const gone = -1

// forget takes c, which is shut and stays so, out of its class.
func (k *Class) forget(c *Cell) {
	if c.idle >= 0 {
		k.idle.Remove(c.idle)
	}
	delete(k.cells, c.key)
	last := len(k.list) - 1
	k.list[c.index] = k.list[last]
	k.list[c.index].index = c.index
	k.list[last] = nil
	c.index = gone
	if c.latch != nil {
		c.latch.Forget()
	}
	k.list = k.list[:last]
	if last == 0 && cap(k.list) > keep { // the room for as many as there ever were
		k.cells, k.list = nil, nil
	}
}

// idlest is a cell of k that is idle, at the top of k's heap, or nil. The heap's keys are
// lower bounds, corrected when a cell reaches the top, so that using a cell costs nothing
// here.
func (m *Machine) idlest(k *Class) *Cell {
	for k.idle.Len() > 0 {
		c := k.idle.Top()
		at := m.idleAt(c)
		if at <= m.now {
			return c
		}
		if at == k.idle.Min() {
			return nil
		}
		c.idleFrom = at
		k.idle.Fix(0, at, 0)
	}
	return nil
}

// idleAt is the earliest instant at which c could remember nothing: no holder, no
// waiter, a full bucket, a breaker without failures. Evicting it then refreshes no quota. It
// does not move as time passes, so that a heap of busy cells is not looked through again and
// again.
func (m *Machine) idleAt(c *Cell) int64 {
	c.shut()
	if c.calls > 0 || c.lanes > 0 {
		return Never
	}
	at := c.pause.over(c)
	switch {
	case c.stock != nil && !c.stock.isIdle(), c.lease != nil && !c.lease.isIdle():
		return Never
	case c.stock != nil:
	case c.kind == Tokens:
		at = max(at, c.bucket.FullAt())
	case c.kind == Breaker:
		at = max(at, c.breaker.IdleAt())
	case c.adaptive && c.class.ByPlan && c.limit != c.class.Limit:
		at = atLast // what it has learned makes room only where there is none
	}
	return max(m.now, min(at, atLast))
}

// atLast is after all instants at which something is over by itself.
const atLast = Never - 1

// drop is called when c may be idle sooner than was known: a call or lane that needed it
// has gone, or something was given back.
func (m *Machine) drop(c *Cell) {
	if c.idle < 0 || c.calls > 0 || c.lanes > 0 {
		return
	}
	m.idlesSooner(c)
	if k := c.class; k.MaxKeys > 0 && len(k.cells) > k.MaxKeys { // the bound has been lowered
		m.shrink(k, k.MaxKeys)
	}
}

// idlesSooner is drop where nobody has to make room.
func (m *Machine) idlesSooner(c *Cell) {
	if c.idle < 0 || c.calls > 0 || c.lanes > 0 {
		return
	}
	if at := m.idleAt(c); at < c.idleFrom {
		c.idleFrom = at
		c.class.idle.Fix(c.idle, at, 0)
	}
}

// fallsIdle is drop of a call that has gone, by which others may be forgotten as well.
func (m *Machine) fallsIdle(c *Cell) {
	if m.drop(c); c.class.ByPlan {
		m.prune(c.class)
	}
}

// pays is the earliest instant at which c has n tokens if nobody else takes any.
func (c *Cell) pays(now, n int64) int64 {
	if c.kind == Foreign {
		if d := c.class.Foreign.Wait(); d < Never-now {
			return now + d
		}
		return Never
	}
	if c.stock != nil {
		return c.stockPays(now, n)
	}
	at := c.bucket.Ready(c.class.Rate, now, n)
	if p := c.pause; p != nil && at != Never {
		at = max(at, p.pays(c, n))
	}
	return at
}

// bucketLike reports whether c is paid in queue order.
func (c *Cell) bucketLike() bool { return c.kind == Tokens || c.kind == Foreign }

// inOrder reports whether a call that takes n of c is served in the order of those who wait
// there. One that takes nothing waits for the end of a pause alone.
func (c *Cell) inOrder(n int64) bool { return n > 0 || !c.bucketLike() }

// ready is the earliest instant, as far as c alone is concerned, at which t may start:
// m.now means now, Never means that only a release or a change can help.
func (m *Machine) ready(c *Cell, t *Ticket, n int64) int64 {
	if c.pause != nil {
		if at := c.opens(m.now); at > m.now {
			return at
		}
	}
	switch c.kind {
	case Slots:
		room := c.used+n <= c.limit-m.held(c, t) && (!c.ordered || m.inTurn(c, t))
		switch {
		case room && !c.shared, t.Parent != nil && t.lender(c) != nil, room && m.obtains(c, t, n):
			return m.now
		}
		return Never
	case Tokens, Foreign:
		if n == 0 {
			return m.now
		}
		if c.stock != nil {
			c.stock.urgent = max(t.level, t.Level) == Levels-1
			m.thirst(c)
		}
		// A bucket is paid in queue order: tokens keep, so nothing idles.
		if c.q != nil && c.q.n > 0 && (t.lane == nil || t.lane.at != c) {
			if b := c.q.best(m.policy.Ageing); !m.outranks(c, t, b) {
				if at := c.pays(m.now, b.need(c)); at > m.now {
					return at
				}
			}
		}
		return c.pays(m.now, n)
	default:
		if ok, at := c.breaker.Ready(m.now); !ok {
			return max(at, m.now+1)
		}
		return m.now
	}
}

// book tells c how long a call held its slots: the average begins with the first of them
// and then moves an eighth of the way to each.
func (c *slotCount) book(d int64) {
	c.gather()
	c.learn(d)
}

// average is how long calls held theirs lately.
func (c *slotCount) average() int64 {
	c.gather()
	return c.held
}

// gather books what is known of those that ended without the lock.
func (c *slotCount) gather() {
	n, d := c.apart.Take()
	for range n {
		c.learn(d)
	}
}

func (c *slotCount) learn(d int64) {
	if c.held == 0 {
		c.held = d
		return
	}
	c.held += (d - c.held) >> 3
}

// fits reports whether n can ever be had from c.
func (c *Cell) fits(n int64) bool { return c.kind != Slots || n <= c.most() }

// own is the earliest instant at which c alone would agree if everybody ahead left.
func (c *Cell) own(now, n int64) int64 {
	now = max(now, c.pause.ends())
	if c.bucketLike() && n > 0 && c.stock == nil { // of a stock nobody knows what comes
		return c.pays(now, n)
	}
	return now
}

// mark has c served before the current event ends.
func (m *Machine) mark(c *Cell) {
	if !c.dirty && c.q != nil {
		c.dirty = true
		m.marked++
		m.ranks |= 1 << c.class.Rank
		m.dirty[c.class.Rank] = append(m.dirty[c.class.Rank], c)
	}
}

// arm has c served at the instant at.
func (m *Machine) arm(c *Cell, at int64) {
	if c.timer < 0 {
		m.timers.Push(at, 0, c)
	} else {
		m.timers.Fix(c.timer, at, 0)
	}
}
