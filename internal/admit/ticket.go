package admit

import "github.com/sluice-go/sluice/internal/breaker"

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
type Ticket struct {
	Plan   uint64 // which tool, as far as lanes are concerned
	Level  int8   // 0 … Levels-1, higher first
	Tenant string
	Limit  int64   // latest instant to start; Never if there is none
	Finish int64   // instant to be done by, for estimates; zero if there is none
	Parent *Ticket // the running ticket that this one is nested in
	Owner  any     // the caller's

	state        State
	adaptive     bool // some limit learns from its outcome
	judged       bool // the breakers have had its outcome
	level        int8 // effective
	seq          uint64
	needs        *needSet
	lane         *lane
	prev, next   *Ticket // in the lane
	older, newer *Ticket // in the account
	limit        int32   // place in the heap of limits
	out          *Ticket // next in the list of decided tickets
	permit       breaker.Permit
	permits      []breaker.Permit // of the second and further breakers
	settled      []Used

	parent *Ticket
	kin    *kin

	arrived, granted int64
	place            int32  // in the queue on arrival, from 1
	starts           uint64 // of the machine, when it arrived
	startedAs        uint64 // the how manieth start its own was
	by               *Cell  // where its lane was parked, for the record of waits
	since            int64
	waits            []WaitAt

	Refusal Refusal // if Refused
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
func (t *Ticket) Granted() int64 { return t.granted }

// Place is where in the queue t arrived, from 1; zero if it did not wait.
func (t *Ticket) Place() int { return int(t.place) }

// Waits is what t waited for, in the order it happened.
func (t *Ticket) Waits() []WaitAt { return t.waits }

// needSet is shared by a lane, its waiting tickets and the running ones that came from it.
type needSet struct {
	refs     int32
	breakers bool // some of list are breakers
	list     []Need
}

// NeedSet is what the calls of one plan take when it is the same for all of them.
type NeedSet struct{ set needSet }

// NewNeedSet keeps list, which must not change any more.
func NewNeedSet(list []Need) *NeedSet {
	s := &NeedSet{needSet{refs: 1, list: list}}
	for i := range list {
		s.set.breakers = s.set.breakers || list[i].Cell.kind == Breaker
	}
	return s
}

// Fixed gives t the needs of s.
func (m *Machine) Fixed(t *Ticket, s *NeedSet) {
	s.set.refs++
	t.needs = &s.set
}

// Add gives t one more need: breakers first, then narrow before wide, as [Class.Order] has
// it. n must be positive.
func (m *Machine) Add(t *Ticket, c *Cell, n int64) {
	if t.needs == nil {
		t.needs = m.newNeeds()
	}
	t.needs.list = append(t.needs.list, Need{c, n})
	t.needs.breakers = t.needs.breakers || c.kind == Breaker
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
		s.list, s.breakers = s.list[:0], false
		if len(m.freeNeeds) < keep {
			m.freeNeeds = append(m.freeNeeds, s)
		}
	}
}

// keep is how many spare objects of each kind a machine keeps for the next calls.
const keep = 1024

// Ticket returns a new ticket.
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
	if t.state == Left && t.place == 0 && t.parent == nil && t.Parent == nil && t.kin == nil && len(t.settled) == 0 {
		// It came, ran and went: little has to be undone.
		t.needs, t.state, t.judged, t.adaptive = nil, New, false, false
		t.Level, t.Tenant, t.Limit, t.Finish = 0, "", Never, 0
		t.granted, t.startedAs, t.permits = 0, 0, t.permits[:0]
	} else {
		clear(t.waits)
		clear(t.settled)
		*t = Ticket{limit: -1, Limit: Never, permits: t.permits[:0], waits: t.waits[:0], settled: t.settled[:0]}
	}
	if len(m.freeTickets) < keep {
		m.freeTickets = append(m.freeTickets, t)
	}
}

// waited books the time since the last booking on the cell that t waited for.
func (t *Ticket) waited(now int64) {
	if d := now - t.since; d > 0 && t.by != nil {
		if n := len(t.waits); n > 0 && t.waits[n-1].Cell == t.by {
			t.waits[n-1].For += d
		} else if n < 8 { // a record, not a ledger
			t.waits = append(t.waits, WaitAt{t.by, d})
		} else {
			t.waits[n-1].For += d
		}
	}
	t.since = now
}
