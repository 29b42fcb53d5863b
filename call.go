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
	Priority Priority         // effective: at least that of the call it is nested in
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
	if r := scopeOf(ctx).call; r != nil {
		return r.call(), true
	}
	return Call{}, false
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

// invocation is one Invoke: its identity, its place among nested calls, its events. It is
// never used again for another, since a tool may keep the context that leads to it.
type invocation struct {
	exec     *Executor
	plan     *plan // nil if the tool is unknown
	tool     string
	id       string
	pipeline *PipelineContext
	parent   *running     // the call it is nested in, or nil
	root     *invocation  // of the chain; itself if not nested
	calls    atomic.Int64 // of the root: calls made under it

	start  int64 // at the door
	queued atomic.Int64
	held   atomic.Int64 // how long attempts held what they needed
	ended  atomic.Int64 // when the latest attempt gave back what it held; zero before
	rec    *record      // nil until there is something to say

	depth    int32
	attempts atomic.Int32
	fate     atomic.Int32 // hasRun, isOver
	emitting atomic.Int32 // quiet, busy or behind
	seq      uint32       // of the last event; owned by who emits
	priority Priority
	loud     bool                       // some sink listens
	over     bool                       // the terminal event is out; owned by who emits
	late     atomic.Pointer[lateEvents] // made when attempts emit at once

	first running // the first attempt, so that it costs nothing apart
}

// What has become of an invocation.
const (
	hasRun = 1 << iota // the tool's code has run, in some attempt
	isOver             // the caller has its answer: no attempt may begin any more
)

// book adds the time for which the attempt r held what it needed.
func (inv *invocation) book(r *running, now int64) {
	inv.held.Add(now - r.granted)
	inv.ended.Store(now)
}

// lateEvents are events of one call that come while another is being emitted, as hedged
// attempts can make them.
type lateEvents struct {
	mu    sync.Mutex
	queue []lateEvent
}

// running is one admitted attempt: the context that its code gets, and what it holds.
type running struct {
	context.Context
	scope   scope
	inv     *invocation
	adm     *admission
	granted int64           // when it was admitted, or woke up to it
	outside context.Context // the caller's, if the attempt has a timeout of its own
	up      *running        // the attempt around this one, if a gate is wrapped by hand
	attempt int32
	phase   atomic.Int32 // fresh, begun, or called off

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
func (r *running) ran() bool { return r.phase.Load() == begun }

// Value answers the library's own question, and passes others on.
func (r *running) Value(key any) any {
	if _, ok := key.(scopeKey); ok {
		return &r.scope
	}
	return r.Context.Value(key)
}

func (r *running) call() Call {
	c := r.inv.call()
	c.Attempt = r.attempt
	return c
}

func (inv *invocation) typ() string {
	if inv.plan != nil {
		return inv.plan.tool.spec.Type
	}
	return ""
}

// newRunning is the context of the attempt n of inv, inside the attempt up.
func (inv *invocation) newRunning(ctx context.Context, n int32, up *running) *running {
	r := &inv.first
	if n != 1 || up != nil {
		r = new(running)
	}
	r.Context, r.inv, r.attempt, r.up = ctx, inv, n, up
	r.scope = scope{pipeline: inv.pipeline, call: r}
	return r
}

// chunk is some values allocated together: one allocation serves so many calls, and who
// keeps one keeps no more than its few neighbours alive.
type chunk[T any] struct {
	next int
	list [chunkSize]T
}

const chunkSize = 8

func take[T any](pool *sync.Pool) *T {
	c := pool.Get().(*chunk[T])
	v := &c.list[c.next]
	if c.next++; c.next < chunkSize {
		pool.Put(c)
	}
	return v
}

var (
	invocations = sync.Pool{New: func() any { return new(chunk[invocation]) }}
	records     = sync.Pool{New: func() any { return new(chunk[record]) }}
)

func newInvocation() *invocation { return take[invocation](&invocations) }
