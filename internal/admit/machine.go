package admit

import (
	"maps"
	"math"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/heap"
)

// Policy says how waiting calls are ordered and bounded.
type Policy struct {
	Ordered      bool // by level and tenant; else first in, first out
	Ageing       int  // starts given to others that are worth one level
	Claim        int  // failures at the front before a head claims slots
	MaxQueue     int
	MaxPerTenant int
	RefuseLate   bool // on arrival, by estimate, what would not be done in time
	Standing     bool // shed while the queue stands for long
	Shed         bool // when full, drop from whoever floods the lowest level instead of the newcomer
	Weights      map[string]int
	HandOff      bool // who gives back what calls wait for lets them run first
}

// Equal reports whether p and o are one order.
func (p *Policy) Equal(o *Policy) bool {
	return p.Ordered == o.Ordered && p.Ageing == o.Ageing && p.Claim == o.Claim && p.MaxQueue == o.MaxQueue &&
		p.MaxPerTenant == o.MaxPerTenant && p.RefuseLate == o.RefuseLate && p.Standing == o.Standing &&
		p.Shed == o.Shed && p.HandOff == o.HandOff && maps.Equal(p.Weights, o.Weights)
}

func (p *Policy) weight(tenant string) float64 {
	if w := p.Weights[tenant]; w > 0 {
		return float64(w)
	}
	return 1
}

// Machine admits calls. It is not safe for concurrent use. Every method that takes now
// first lets time pass up to it; a now before the last one counts as the last one.
//
// What every call reads or changes comes first, close together.
type Machine struct {
	now     int64
	over    int64  // waits that end by then are over, whether they were refused already or not
	seq     uint64 // arrivals
	starts  uint64
	waiting int
	running int
	queues  int // cells where somebody waits
	marked  int // in dirty

	arriving     *Ticket
	out, outLast *Ticket // decided
	watch        int64   // when to look for limits that stall
	work         Work

	freeTickets []*Ticket
	freeRecords spare[record]

	policy Policy
	ranks  uint8  // of dirty, a bit for each that is not empty
	frozen bool   // see Freeze
	cells  uint64 // made
	seed   uint64 // of breakers

	limits    heap.Heap[int64, *Ticket]
	timers    heap.Heap[int64, *Cell]
	claims    []*lane  // first come, first served; only the first collects
	rest      []*Cell  // whose serving goes on in the next drain
	knots     []*Cell  // where nested calls may have come to wait for themselves
	loose     []*Cell  // whose semaphores gave slots in this event
	sought    []*Cell  // with a semaphore, where somebody waits
	kinInLine []*lane  // nested calls that wait and need ordered cells
	lined     int      // lanes that do
	returning *Ticket  // that arrives again, see resume
	opened    []*Cell  // whose latch is open
	thirsty   []*Cell  // with a stock or leases, to be looked at
	ended     []func() // to be called: leases have ended
	notices   []Notice
	sweeps    []sweep

	dirty     [Ranks][]*Cell
	lanes     table[lane] // but those of nested calls
	all       []*lane
	tenants   table[tenant]
	everybody tenant    // who pays if the policy does not order
	refusals  int       // of waiting calls since drain began
	again     []*Ticket // what arrives again when Freeze ends
	returned  []loan    // slots that came back to an ancestor

	freeNeeds    []*needSet
	freeLanes    spare[lane]
	freeFlows    spare[flow]
	freeQueues   spare[queue]
	freeAccounts spare[account]
	shares       spare[share]
	freeTenants  spare[tenant]
	freeKin      spare[kin]
}

// Work counts what the machine did, for benchmarks and simulations.
type Work struct {
	Starts, Examined, Moved uint64
	Claims                  uint64
}

// Notice is something about a cell that somebody outside calls should be told.
type Notice struct {
	Kind     NoticeKind
	Cell     *Cell
	From, To breaker.State // StateChanged
	By       string        // StateChanged: who asked for it; empty if it came about by itself
	After    int64         // Debt: nanoseconds until it is paid
	Holding  int           // Stalled: calls that need the cell and run
	Waiting  int           // Stalled: calls parked at it
}

// NoticeKind is what a notice is about.
type NoticeKind uint8

const (
	StateChanged NoticeKind = iota // of a breaker
	Debt                           // a report of use was cut: it would have closed the bucket for too long
	Stalled                        // a limit has released nothing for long while calls wait
)

// NewMachine returns a machine with nobody waiting.
func NewMachine(p Policy) *Machine {
	m := &Machine{
		policy: p,
		over:   math.MinInt64,
		watch:  Never,
	}
	m.everybody = tenant{weight: 1, refs: 1}
	m.timers.Place = func(c *Cell, i int32) { c.timer = i }
	m.limits.Place = func(t *Ticket, i int32) { t.limit = i }
	return m
}

// Seed has the open times of breakers vary that are made from now on, see [breaker.Breaker.Seed]: those of
// two of them have nothing to do with each other. Zero, the default, means exact times.
func (m *Machine) Seed(seed uint64) { m.seed = seed }

// HandsOff reports whether who gives back what calls wait for is to let them run first.
func (m *Machine) HandsOff() bool { return m.policy.HandOff }

// Waiting and Running count calls.
func (m *Machine) Waiting() int { return m.waiting }

func (m *Machine) Running() int {
	m.shutEvery()
	return m.running
}

// Work is what the machine has done so far.
func (m *Machine) Work() Work { return m.work }

// Advance lets time pass: what is due by now happens, whether a timer has fired or not. So
// whoever comes now finds served who could have been before.
func (m *Machine) Advance(now int64) { m.advance(now) }

func (m *Machine) advance(now int64) {
	m.now = max(m.now, now)
	if m.limits.Len()|m.timers.Len()|m.marked == 0 { // as when nobody waits
		m.over = max(m.over, m.now-1)
		return
	}
	m.pass()
}

// pass does what is due by now.
func (m *Machine) pass() {
	m.expire(m.now - 1)
	if m.frozen {
		return
	}
	for m.timers.Len() > 0 && m.timers.Min() <= m.now {
		c := m.timers.Top()
		m.timers.Remove(0)
		m.mark(c)
		if c.isFar() || c.class.Votes != nil {
			m.thirst(c)
		}
		if c.lease != nil {
			m.endLeases(c)
		}
	}
	if m.marked > 0 {
		m.drain()
	}
}

// expire ends the waits that end by then. It is asked once for each instant, however many
// methods an event calls.
func (m *Machine) expire(over int64) {
	if over > m.over {
		m.over = over
		m.refuseLate()
	}
}

// refuseLate refuses up to batch calls whose wait is over: the others are refused in Step,
// or as they come to the front.
func (m *Machine) refuseLate() {
	for n := 0; n < batch && m.overdue(); n++ {
		m.late(m.limits.Top())
	}
}

// overdue reports whether somebody waits for whom it is too late.
func (m *Machine) overdue() bool { return m.limits.Len() > 0 && m.limits.Min() <= m.over }

func (m *Machine) late(t *Ticket) {
	by := t.lane.at
	m.take(t)
	m.refuse(t, Refusal{Reason: TooLong, By: by, After: m.after(by, t)})
	m.emit(t)
}

// after is how long c alone will keep refusing t, zero if nobody can know. The ramp after a
// pause may let it start earlier, if calls succeed.
func (m *Machine) after(c *Cell, t *Ticket) int64 {
	for _, n := range t.needs.list {
		if n.Cell == c {
			if at := c.own(m.now, n.N); c.stock == nil || c.pays(m.now, n.N) <= m.now {
				return m.until(max(at, c.opens(m.now)))
			}
			if at := c.again(m.now); at != Never {
				return m.until(max(at, c.opens(m.now)))
			}
			return 0
		}
	}
	return 0
}

// until is how long it takes until the instant at, zero if that does not come.
func (m *Machine) until(at int64) int64 {
	if at == Never {
		return 0
	}
	return max(0, at-m.now)
}

// Arrive decides on t: it is Running, Waiting or Refused afterwards.
func (m *Machine) Arrive(now int64, t *Ticket) State {
	if now > m.now { // else time has passed already
		m.advance(now)
	}
	t.arrived = m.now
	if t.needs == nil {
		t.needs = m.newNeeds()
	}
	m.shutAll(t.needs)
	if m.waiting == 0 && m.open(t) { // nobody to be fair to
		m.rank(t)
		m.grant(t)
		if len(m.loose) > 0 {
			m.returnLoose()
		}
		return Running
	}
	m.arriving = t
	m.arrive(t, false)
	m.drain()
	m.arriving = nil
	if t.state == Refused && t.rec.refusal.Reason == Saturated {
		m.reopen(t.needs) // the next is refused without the lock
	}
	return t.state
}

// open reports whether every cell agrees to t while nobody waits.
func (m *Machine) open(t *Ticket) bool {
	now, list := m.now, t.needs.list
	for i := range list {
		c := list[i].Cell
		if c.pause != nil && c.opens(m.now) > now {
			return false
		}
		switch c.kind {
		case Slots:
			switch {
			case t.Parent != nil && t.lender(c) != nil:
			case c.used+list[i].N > c.limit, c.shared && !m.obtains(c, t, list[i].N):
				return false
			}
		case Tokens, Foreign:
			if c.pays(now, list[i].N) > now {
				return false
			}
		default:
			if ok, _ := c.breaker.Ready(now); !ok {
				return false
			}
		}
	}
	return true
}

// arrive decides on t. One that comes again has its place in the queue already, but is the last to have come,
// unless it stands in line.
func (m *Machine) arrive(t *Ticket, again bool) {
	if !again || !t.needs.ordered() {
		m.seq++
		t.seq = m.seq
	}
	m.rank(t)
	if r, ok := m.hopeless(t); ok {
		m.refuse(t, r)
		if r.Reason == BreakerOpen {
			m.asks(r.By)
			m.refuseQuickly(t, r.By)
		}
		return
	}
	var l *lane
	var at *Cell
	hash := uint64(0)
	if t.Parent == nil {
		l, hash = m.lane(t)
	}
	if l == nil {
		v := m.examine(t)
		if v.cell == nil {
			m.grant(t)
			m.charge(t, nil)
			return
		}
		at = v.cell
	} else {
		at = l.at
	}
	low := -1
	if !again {
		if r, ok := m.timely(t, at); !ok {
			m.refuse(t, r)
			return
		}
		var ok bool
		if low, ok = m.room(t, l); !ok {
			m.refuse(t, Refusal{Reason: QueueFull})
			return
		}
		if low >= 0 {
			m.shed(t.Plan.Client, low)
		}
	}
	if l == nil {
		l = m.newLane(t, hash)
		m.enqueue(t, l)
		m.park(l, at)
		if low >= 0 {
			m.mark(at) // who was shed may be why t has to wait
		}
		if l.nested {
			m.join(t, false)
			m.suspect(l.at)
		}
		return
	}
	m.enqueue(t, l)
}

// rank sets what t is ordered by: its own, at least its waiting ancestor's.
func (m *Machine) rank(t *Ticket) {
	t.level = t.Level
	if t.Parent != nil {
		t.level = max(t.level, t.Parent.level)
	}
	if !m.policy.Ordered {
		t.level = 0
	}
}

// hopeless says why t cannot start in time whoever else leaves.
func (m *Machine) hopeless(t *Ticket) (Refusal, bool) {
	start, by, now, list := m.now, (*Cell)(nil), m.now, t.needs.list
	for i := range list {
		c, n := list[i].Cell, list[i].N
		switch {
		case c.kind == Slots && n > c.most() && !t.shares(c):
			return Refusal{Reason: TooWide, By: c}, true
		case c.kind == Breaker || c.class.Refuse:
			if at := m.ready(c, t, n); at > now {
				if v := m.blocked(t, c, at); v.refuse {
					return m.refusal(c, v.at), true
				}
			}
		case c.isClosed():
			return m.refusal(c, Never), true
		case t.Limit < Never: // else it is never too late
			if at := c.own(now, n); at > start {
				start, by = at, c
			}
		}
	}
	if start > t.Limit {
		return Refusal{Reason: TooLong, By: by, After: m.until(start)}, true
	}
	return Refusal{}, false
}

// refusal is what c says when it refuses until at.
func (m *Machine) refusal(c *Cell, at int64) Refusal {
	r := Refusal{By: c, After: m.until(at)}
	switch c.kind {
	case Slots:
		r.Reason = Saturated
	case Tokens, Foreign:
		r.Reason = RateLimited
	default:
		if r.Reason = BreakerOpen; c.breaker.State(m.now) != breaker.Open {
			r.After = 0 // probes are out: nobody knows when they end
		}
	}
	return r
}

// verdict is what the cells of a call say: start (no cell), or wait at a cell, or refuse.
type verdict struct {
	cell         *Cell
	at           int64
	refuse, late bool // late only if refuse: for the call's own limit
}

// examine asks the cells of t from narrow to wide.
func (m *Machine) examine(t *Ticket) verdict {
	m.work.Examined++
	if t.state == Waiting && t.Limit <= m.over {
		return verdict{t.lane.at, Never, true, true}
	}
	list := t.needs.list
	for i := range list {
		n := &list[i]
		if at := m.ready(n.Cell, t, n.N); at > m.now {
			return m.blocked(t, n.Cell, at)
		}
	}
	return verdict{}
}

// begin makes t one that runs, but for what it takes.
func (m *Machine) begin(t *Ticket) *record {
	r := m.record(t)
	t.state, r.granted = Running, m.now
	m.starts++
	r.startedAs = m.starts
	m.work.Starts++
	r.room(t.needs)
	return r
}

// grant takes everything for t.
func (m *Machine) grant(t *Ticket) {
	r := m.begin(t)
	m.running++
	permits, now, list := 0, m.now, t.needs.list
	for i := range list {
		c := list[i].Cell
		c.calls++
		if c.pause != nil {
			c.pause.started(m.starts)
		}
		switch c.kind {
		case Slots:
			if t.Parent == nil || !m.borrow(t, c) {
				if c.used += list[i].N; c.lease != nil {
					m.bind(t, c, list[i].N)
				}
			}
			if c.adaptive {
				r.adaptive = true
			}
		case Tokens:
			if c.stock != nil {
				m.draw(r, c, list[i].N)
				break
			}
			r.charges = r.charges[:len(r.charges)+1]
			c.bucket.Open(&r.charges[len(r.charges)-1], c.class.Rate, now, list[i].N)
		case Foreign:
			c.class.Foreign.Take()
		default:
			p, probes := c.breaker.Take(now)
			r.permits(p, permits)
			permits++
			if probes {
				m.changed(c, breaker.Open, "")
			}
		}
	}
	if t.Parent != nil {
		m.join(t, true)
	}
}

// start has the head of l run, on what from holds, if that is not nil. What is left of l waits on where
// it is parked.
func (m *Machine) start(l *lane, from *Ticket) {
	t, c := l.head, l.at
	if l.n == 1 || l.aside {
		m.leave(l)
	} else { // it stays, so that its tenant never counts as new
		m.standDown(l)
	}
	if from != nil {
		m.inherit(t, from)
	} else {
		m.grant(t)
	}
	m.charge(t, c)
	m.unlink(t)
	m.emit(t)
	switch {
	case l.n == 0:
		m.dropLane(l)
	case l.at == nil:
		m.park(l, c)
		m.mark(c)
	default:
		m.rekey(l)
		if from == nil { // else it is as full as it was
			m.mark(c)
		}
	}
	if m.policy.Standing {
		m.stood(t)
	}
}

// refuse ends t, which is not in the queue.
func (m *Machine) refuse(t *Ticket, r Refusal) {
	t.state = Refused
	m.record(t).refusal = r
	if t.kin != nil {
		m.part(t)
	}
}

// emit puts t on the list of those whose waiting is over.
func (m *Machine) emit(t *Ticket) {
	if t == m.arriving {
		return // Arrive answers
	}
	t.next = nil
	if m.outLast != nil {
		m.outLast.next = t
	} else {
		m.out = t
	}
	m.outLast = t
}

// Decided returns the tickets whose waiting has ended since the last call: Running or
// Refused. Walk them with Next, and read it before letting one go.
func (m *Machine) Decided() *Ticket {
	t := m.out
	if t != nil {
		m.out, m.outLast = nil, nil
	}
	return t
}

// Next is the one after t in the list that Decided returned.
func (t *Ticket) Next() *Ticket { return t.next }

// Notices appends to buf what has come about since the last call.
func (m *Machine) Notices(buf []Notice) []Notice {
	if len(m.notices) == 0 {
		return buf
	}
	buf = append(buf, m.notices...)
	clear(m.notices)
	m.notices = m.notices[:0]
	return buf
}

// changed is called when the breaker c, which is shut, has changed. Nobody knows before every latch has
// been shut: see [latch.Set].
func (m *Machine) changed(c *Cell, from breaker.State, by string) {
	m.shutEvery()
	to := c.breaker.State(m.now)
	m.notices = append(m.notices, Notice{Kind: StateChanged, Cell: c, From: from, To: to, By: by})
	if to == breaker.Open {
		m.sweep(c)
	}
	m.tellOthers(c)
}

// Tick lets time pass: due tokens, ended pauses, expired limits.
func (m *Machine) Tick(now int64) {
	m.advance(now)
	m.look()
	m.expire(m.now)
	m.drain()
}

// Due is the instant at which Tick has something to do, Never if there is none.
func (m *Machine) Due() int64 {
	at := Never
	if m.timers.Len() > 0 {
		at = m.timers.Min()
	}
	if m.limits.Len() > 0 {
		at = min(at, m.limits.Min())
	}
	return min(at, m.watch)
}

// order is the order in which cells are asked: breakers, then from narrow to wide, then
// who is asked last: a semaphore has to be taken from to be asked.
func (k *Class) order() int {
	switch {
	case k.Kind == Breaker:
		return int(k.Rank)
	case k.Kind == Foreign:
		return 2*Ranks + int(k.Rank)
	case k.Semaphore != nil:
		return 3*Ranks + int(k.Rank)
	}
	return Ranks + int(k.Rank)
}
