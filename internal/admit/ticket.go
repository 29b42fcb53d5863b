package admit

import (
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/bucket"
	"github.com/sluice-go/sluice/internal/latch"
)

// State is where a ticket stands.
type State uint8

const (
	New     State = iota
	Waiting       // holds nothing
	Running       // holds what it needs
	Refused       // see Refusal
	Left          // was cancelled, or has finished
)

// Reason is why a ticket was refused.
type Reason uint8

const (
	NoReason    Reason = iota
	Saturated          // a limit that refuses is full
	RateLimited        // a rate that refuses is used up
	BreakerOpen        // a breaker does not let it through
	QueueFull          // the queue, or the tenant's part of it, is full
	Shed               // was queued and gave way
	TooLong            // cannot start, or did not start, within its limit
	TooWide            // weighs more than the limit
	Cycle              // waits for itself through other nested calls
	Closed             // the owner closed
)

// Refusal says what refused a ticket.
type Refusal struct {
	Reason Reason
	By     *Cell  // nil for the queue
	After  int64  // nanoseconds until a retry makes sense; zero if unknown
	Detail string // the cells of a cycle
}

// Ticket is one call in admission. Fill in the exported fields, then pass it to
// [Machine.Arrive]. It is not safe for concurrent use; a Machine's tickets share its lock.
//
// There may be a million of them in the queue, so it has only what a waiting call needs;
// what else there is to know stands in its record.
type Ticket struct {
	Plan   *Plan // which tool, of which client
	Tenant string
	Limit  int64   // latest instant to start; Never if there is none
	Finish int64   // instant to be done by, for estimates; zero if there is none
	Parent *Ticket // the running ticket that this one is nested in; its own parent, if any, once it has ended
	Owner  any     // the caller's
	Level  int8    // 0 … Levels-1, higher first
	AtOnce bool    // it does not wait: it starts on arrival or is refused

	state      State
	level      int8   // effective
	limit      int32  // place in the heap of limits
	place      int32  // in the queue on arrival, from 1
	starts     uint32 // of the machine, when it arrived; differences count
	seq        uint64
	needs      *needSet
	lane       *lane
	prev, next *Ticket // in the lane; next also in the list of decided tickets
	kin        *kin
	arrived    int64
	since      int64 // the wait before has been booked
	by         *Cell // where its lane was parked then
	rec        *record
}

// record is what there is to know of a ticket beyond its waiting: at what it was the head
// of its lane, what it holds, why it was refused.
type record struct {
	adaptive  bool             // some limit learns from its outcome
	judged    bool             // the breakers have had its outcome
	severed   bool             // a lease has ended on which it ran
	end       func()           // see OnEnd
	first     breaker.Permit   // of the first breaker
	further   []breaker.Permit // of the others
	granted   int64
	startedAs uint64                 // the ordinal of its start
	charges   []bucket.Charge        // of its rates, in their order, while it runs; not moved then
	drawn     []drawn                // of stocks
	editions  [latch.MaxRates]uint32 // of the terms of those that came the quick way; else zero
	settled   []Used
	waits     []WaitAt
	refusal   Refusal
}

// permit is that of the n-th breaker, from 1.
func (r *record) permit(n int) breaker.Permit {
	if n == 1 {
		return r.first
	}
	return r.further[n-2]
}

// permits notes the permit of a call's n-th breaker.
func (r *record) permits(p breaker.Permit, n int) {
	if n == 0 {
		r.first = p
	} else {
		r.further = append(r.further, p)
	}
}

// room makes room for the charges of s.
func (r *record) room(s *needSet) {
	if n := int(s.rates); n > cap(r.charges) {
		r.charges = make([]bucket.Charge, 0, n)
	}
}

// record is t's, made if need be.
func (m *Machine) record(t *Ticket) *record {
	if t.rec == nil {
		t.rec = m.freeRecords.get()
	}
	return t.rec
}

// unrecord takes back the record of t, if nothing has been written into it.
func (m *Machine) unrecord(t *Ticket) {
	if t.rec == nil || t.place > 0 {
		return
	}
	m.freeRecords.put(t.rec)
	t.rec = nil
}

var noRecord record

// read is t's record, which must not be changed.
func (t *Ticket) read() *record {
	if t.rec == nil {
		return &noRecord
	}
	return t.rec
}

// WaitAt is time spent waiting for one cell.
type WaitAt struct {
	Cell *Cell
	For  int64
}

// State is where t stands.
func (t *Ticket) State() State { return t.state }

// Needs is what t takes; it must not be changed.
func (t *Ticket) Needs() []Need {
	if t.needs == nil {
		return nil
	}
	return t.needs.list
}

// Arrived and Granted are instants.
func (t *Ticket) Arrived() int64 { return t.arrived }

// Granted is the instant at which t started, after it did.
func (t *Ticket) Granted() int64 { return t.read().granted }

// Place is where in the queue t arrived, from 1; zero if it did not wait.
func (t *Ticket) Place() int { return int(t.place) }

// Waits is what t waited for, in the order it happened.
func (t *Ticket) Waits() []WaitAt { return t.read().waits }

// Refusal is why t was refused, if it was.
func (t *Ticket) Refusal() Refusal { return t.read().refusal }

// needSet is shared by a lane, its waiting tickets and the running ones that came from it.
type needSet struct {
	refs     int32
	breakers bool  // some of list are breakers
	rates    int16 // how many of list are
	list     []Need
	fixed    *NeedSet // whose it is; nil if it was put together for a call
	way      *Way     // how calls of its plan come; nil if all come by the lock
}

// need is how much of c a call takes.
func (s *needSet) need(c *Cell) int64 {
	for i := range s.list {
		if s.list[i].Cell == c {
			return s.list[i].N
		}
	}
	return 0
}

// NeedSet is what the calls of one plan take when it is the same for all of them, or for all that
// have the same keys.
type NeedSet struct {
	set     needSet
	hash    uint64
	recent  [Levels]*lane  // that its last call of the level joined, while it is there
	latches latch.Set      // of its cells, if its calls may come the quick way; not changed then
	latched []counted      // what they count, in their order
	slots   []*slotCount   // of its cells, likewise
	keyed   []*Cell        // its cells that may be forgotten, if it is shared
	mortal  []*latch.Latch // of those, if latches is of all
}

// NewNeedSet keeps list, which must not change any more.
func NewNeedSet(list []Need) *NeedSet {
	s := &NeedSet{set: needSet{refs: 1, list: list}}
	s.set.fixed, s.hash = s, s.set.hash()
	for i := range list {
		s.set.count(list[i].Cell.kind)
	}
	return s
}

// Fixed gives t the needs of s.
func (m *Machine) Fixed(t *Ticket, s *NeedSet) {
	s.set.refs++
	t.needs = &s.set
}

// IsFixed reports whether the needs of t are a NeedSet.
func (t *Ticket) IsFixed() bool { return t.needs != nil && t.needs.fixed != nil }

// Add gives t one more need: breakers first, then narrow before wide, as [Class.Order] has
// it. n must be positive.
func (m *Machine) Add(t *Ticket, c *Cell, n int64) {
	s := t.needs
	if s == nil {
		s = m.newNeeds()
		t.needs = s
	}
	s.list = append(s.list, Need{c, n})
	s.count(c.kind)
}

func (s *needSet) hash() (h uint64) {
	for i := range s.list {
		h = mix(mix(h, s.list[i].Cell.id), uint64(s.list[i].N))
	}
	return h
}

// Outline is what the calls of a plan need, one of each, where some cells differ by key.
type Outline struct{ needSet }

// Add appends a need of k: at c, or at a cell that is not known yet if c is nil. The order is that of
// [Machine.Add].
func (o *Outline) Add(k *Class, c *Cell) {
	o.list = append(o.list, Need{c, 1})
	o.count(k.Kind)
}

// Draw gives t what o says, and answers it: the caller fills in the cells that o does not know.
func (m *Machine) Draw(t *Ticket, o *Outline) []Need {
	s := m.newNeeds()
	s.list, s.breakers, s.rates = append(s.list, o.list...), o.breakers, o.rates
	t.needs = s
	return s.list
}

// count notes what one more of the list is.
func (s *needSet) count(k Kind) {
	switch k {
	case Breaker:
		s.breakers = true
	case Tokens:
		s.rates++
	}
}

func (m *Machine) newNeeds() *needSet {
	if n := len(m.freeNeeds); n > 0 {
		s := m.freeNeeds[n-1]
		m.freeNeeds = m.freeNeeds[:n-1]
		s.refs = 1
		return s
	}
	return &needSet{refs: 1}
}

func (m *Machine) unref(s *needSet) {
	if s.refs--; s.refs == 0 {
		clear(s.list)
		s.list, s.breakers, s.rates, s.way = s.list[:0], false, 0, nil
		if len(m.freeNeeds) < keep {
			m.freeNeeds = append(m.freeNeeds, s)
		}
	}
}

// Ticket returns a new ticket. Its Plan may be any.
func (m *Machine) Ticket() *Ticket {
	n := len(m.freeTickets)
	if n == 0 {
		return &Ticket{limit: -1, Limit: Never}
	}
	t := m.freeTickets[n-1]
	m.freeTickets = m.freeTickets[:n-1]
	return t
}

// Free takes back a ticket that is neither waiting nor running. Nobody may use it afterwards.
func (m *Machine) Free(t *Ticket) {
	if t.needs != nil {
		m.unref(t.needs)
	}
	rec := t.rec
	if t.state == Left && t.place == 0 && t.Parent == nil && t.kin == nil {
		// It came, ran and went: little has to be undone.
		t.needs, t.state, t.Level, t.Limit, t.Finish, t.AtOnce = nil, New, 0, Never, 0, false
		if t.Owner != nil {
			t.Owner = nil
		}
		if t.Tenant != "" {
			t.Tenant = ""
		}
	} else {
		*t = Ticket{limit: -1, Limit: Never, rec: rec}
	}
	if rec != nil {
		rec.clear()
	}
	if len(m.freeTickets) < keep {
		m.freeTickets = append(m.freeTickets, t)
	}
}

// clear makes r as good as new; its slices keep their room.
func (r *record) clear() {
	r.adaptive, r.judged, r.granted, r.startedAs = false, false, 0, 0
	r.severed, r.end = false, nil
	r.further, r.charges, r.drawn = r.further[:0], r.charges[:0], r.drawn[:0]
	r.editions = [latch.MaxRates]uint32{}
	if len(r.settled) > 0 {
		clear(r.settled)
		r.settled = r.settled[:0]
	}
	for i := range r.waits {
		r.waits[i].Cell = nil
	}
	r.waits = r.waits[:0]
	if r.refusal.Reason != NoReason {
		r.refusal = Refusal{}
	}
}

// waited books the time since the last booking on the cell that t waited for.
func (m *Machine) waited(t *Ticket) {
	if d := m.now - t.since; d > 0 && t.by != nil {
		r := m.record(t)
		if n := len(r.waits); n > 0 && r.waits[n-1].Cell == t.by {
			r.waits[n-1].For += d
		} else if n < 8 { // a record, not a ledger
			r.waits = append(r.waits, WaitAt{t.by, d})
		} else {
			r.waits[n-1].For += d
		}
	}
	t.since = m.now
}
