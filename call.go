package sluice

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"

	"github.com/sluice-go/sluice/internal/admit"
)

// Handler runs one call.
type Handler func(ctx context.Context, c Call) (Result, error)

// Interceptor goes around calls. Wrap runs when a tool's first call compiles its chain, once
// per tool and executor unless first calls meet, and never per call. It may answer next
// itself for tools it has nothing to do with. The Handler it returns must be safe for concurrent use.
// It may call next several times (each is an attempt, admitted and charged anew), or not at
// all: an error of its own is then a denial.
//
// A Wrap that takes long holds up first calls of its tool alone, until their contexts end, and
// Close; one that never returns leaves its goroutine behind, at most two of each tool.
//
// An interceptor that implements fmt.Stringer is shown by that name in [Executor.Plan].
type Interceptor interface {
	Wrap(tool Spec, next Handler) Handler
}

// InterceptorFunc makes a function an [Interceptor].
type InterceptorFunc func(tool Spec, next Handler) Handler

// Wrap calls f.
func (f InterceptorFunc) Wrap(tool Spec, next Handler) Handler { return f(tool, next) }

// Call is one attempt of one invocation. It is passed by value: copy it to change it.
type Call struct {
	ID       string // Request.ID, or made up
	Tool     string
	Type     string           // the tool's Spec.Type
	Input    any              // the tool's In, decoded; json.RawMessage for a raw tool
	Priority Priority         // effective, so from 1 to 9: at least that of the call it is nested in
	Attempt  int32            // from 1; zero before the first
	Pipeline *PipelineContext // on whose behalf; never nil, read-only
	inv      *invocation
	run      *running // once it is admitted
}

// JSON encodes Input.
func (c Call) JSON() (json.RawMessage, error) { return encodeJSON(c.Input, defaultArgBytes) }

// CallFrom returns the call that ctx belongs to, inside a tool. Its Input is nil: the tool
// has it, and a context that outlives the call should not keep it.
func CallFrom(ctx context.Context) (Call, bool) {
	r := scopeOf(ctx).call
	if r == nil {
		return Call{}, false
	}
	var c Call
	r.inv.fill(&c)
	c.Attempt = r.attempt
	return c, true
}

// Result is what a call gave: a small value, safe to copy and to share.
type Result struct {
	Value any // the tool's Out; nil after an error

	rec *record
	max int
}

// JSON encodes Value, at most [Config].MaxResultBytes.
func (r Result) JSON() (json.RawMessage, error) {
	n := r.max
	if n == 0 {
		n = defaultResultBytes
	}
	return encodeJSON(r.Value, n)
}

// invocation is one call: its identity, its place among nested calls, its events. It is
// never used again for another, since a tool may keep the context that leads to it. A call
// that waits without a goroutine has little more, so it is small.
type invocation struct {
	plan     *plan // of no tool if that is unknown
	id       string
	pipeline *PipelineContext
	parent   *running // the call it is nested in, or nil
	first    *first   // nil until there is something to say
	late     atomic.Pointer[lateEvents]

	calls    atomic.Int32 // made under it, if it is not nested itself
	attempts int32        // so far; see attempt
	fate     int32        // hasRun, isOver; see mark
	emitting atomic.Int32 // quiet, busy or behind
	seq      uint32       // of the last event; owned by who emits
	depth    int32
	priority Priority
	loud     bool // some sink listens
	over     bool // the terminal event is out; owned by who emits
}

// first is a call's first attempt, and what all of its attempts add up to.
type first struct {
	running
	queued atomic.Int64 // how long attempts waited
	held   atomic.Int64 // how long attempts held what they needed
	ended  atomic.Int64 // when the latest attempt gave back what it held; zero before
	rec    *record      // nil until there is something to say, sealed in the end; see record
}

var noTotals first

// totals is what inv's attempts add up to so far; to read.
func (inv *invocation) totals() *first {
	if inv.first == nil {
		return &noTotals
	}
	return inv.first
}

// ownTotals is totals to add to, made if need be. Whoever asks is alone with the call, or holds the
// stage's lock while nobody else could be the first.
func (inv *invocation) ownTotals() *first {
	if inv.first == nil {
		inv.first = new(first)
	}
	return inv.first
}

// What follows is atomic where attempts of one call may be under way at once, and plain
// where nobody but who is in charge of the call ever touches it: an atomic operation is a
// fiftieth of a call.

// attempt counts one attempt more and answers its number.
func (inv *invocation) attempt() int32 {
	if inv.plan.alone {
		inv.attempts++
		return inv.attempts
	}
	return atomic.AddInt32(&inv.attempts, 1)
}

// mark adds to what has become of inv, and answers what had before.
func (inv *invocation) mark(what int32) (before int32) {
	if inv.plan.alone {
		before = inv.fate
		inv.fate |= what
		return before
	}
	return atomic.OrInt32(&inv.fate, what)
}

// swap changes the phase of one of inv's attempts from one to another, if it is that.
func (inv *invocation) swap(phase *int32, from, to int32) bool {
	if inv.plan.alone {
		if *phase != from {
			return false
		}
		*phase = to
		return true
	}
	return atomic.CompareAndSwapInt32(phase, from, to)
}

// root is the outermost of the calls that inv is nested in, or inv itself.
func (inv *invocation) root() *invocation {
	for inv.parent != nil {
		inv = inv.parent.inv
	}
	return inv
}

// What has become of an invocation.
const (
	hasRun = 1 << iota // the tool's code has run, in some attempt
	isOver             // the caller has its answer: no attempt may begin any more
)

// book adds the time for which the attempt r held what it needed.
func (inv *invocation) book(r *running, now int64) {
	inv.first.held.Add(now - r.granted)
	inv.first.ended.Store(now)
}

// lateEvents are events of one call that come while another is being emitted, as hedged
// attempts can make them.
type lateEvents struct {
	mu    sync.Mutex
	queue []telling
}

// running is one admitted attempt: the context that its code gets, and what it holds.
type running struct {
	context.Context
	inv     *invocation
	adm     *admission
	up      *running // the attempt around this one, if a gate is wrapped by hand
	granted int64    // when it was admitted, or woke up to it
	attempt int32
	phase   int32 // fresh, begun, or called off; see swap

	// guarded by the stage's lock
	ticket *admit.Ticket
	live   bool // ticket is still this attempt's
	left   bool // nobody waits for the attempt any more
}

// What an attempt's code can be.
const (
	fresh     = iota
	begun     // it has run
	calledOff // its time was over before it had begun: it must not run
)

// ran reports whether the tool's code has run.
func (r *running) ran() bool { return atomic.LoadInt32(&r.phase) == begun }

// Value answers the library's own question, and passes others on.
func (r *running) Value(key any) any {
	if _, ok := key.(scopeKey); ok {
		return r
	}
	return r.Context.Value(key)
}

// shown is c without what only the library may see of it: whoever keeps it keeps nothing
// else, and it can be run nowhere.
func (c *Call) shown() Call {
	d := *c
	d.inv, d.run = nil, nil
	return d
}

// run makes c's attempt one that runs, with what the ticket t holds, from the instant now on.
func (a *admission) run(ctx context.Context, c *Call, t *admit.Ticket, now int64) *running {
	inv := c.inv
	sum := inv.ownTotals()
	r := &sum.running
	if a.tool == nil || c.Attempt != 1 {
		r = new(running)
	}
	r.Context, r.inv, r.adm, r.up, r.attempt = ctx, inv, a, c.run, c.Attempt
	r.ticket, r.live, r.granted = t, true, now
	if t.Place() > 0 {
		sum.queued.Add(max(0, now-t.Arrived())) // the clock was read before the lock was taken
	}
	return r
}

// whole is a call that its caller waits for.
type whole struct {
	invocation
	space first
}

func newInvocation() *invocation {
	w := take[whole](&wholes)
	w.first = &w.space
	return &w.invocation
}

// chunk is some values allocated together: one allocation serves so many calls, and who
// keeps one keeps no more than its few neighbours alive.
type chunk[T any] struct {
	used int
	list *[chunkSize]T
}

// chunkSize makes the most of the allocator's size classes for a whole.
const chunkSize = 7

func take[T any](pool *sync.Pool) *T {
	c := pool.Get().(*chunk[T])
	if c.list == nil || c.used == chunkSize {
		c.list, c.used = new([chunkSize]T), 0
	}
	v := &c.list[c.used]
	c.used++
	pool.Put(c)
	return v
}

var (
	wholes  = sync.Pool{New: func() any { return new(chunk[whole]) }}
	records = sync.Pool{New: func() any { return new(chunk[record]) }}
)
