package sluice

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/sluice-go/sluice/internal/census"
	"github.com/sluice-go/sluice/internal/eventtext"
	"github.com/sluice-go/sluice/internal/ids"
)

// PipelineContext says on whose behalf calls run: which run, user and tenant, how urgent, with which
// state and sink. The zero value is an anonymous run.
//
// It is a value: change a copy and attach it with [WithPipelineContext], to any number of contexts.
type PipelineContext struct {
	RunID         string
	ParentRunID   string // the run that was forked
	RequestID     string // that the run answers
	SessionID     string
	UserID        string
	OrgID         string
	InteractionID string
	Topology      string // the kind of pipeline
	ExecutionMode string // behavior in events
	Service       string // the program that runs

	Tenant   string            // shares limits and fairness; empty means OrgID
	Priority Priority          // of its calls; zero means the tool's own
	Attrs    map[string]string // for ByKey; must not change once attached
	State    *SharedState      // nil means the executor's
	Sink     EventSink         // besides the executor's; may be nil

	ids *ids.Counter // for tests
	_   struct{}
}

// WithPipelineContext returns a context that carries pc. Calls made with it, and calls nested in
// them, run on behalf of pc. Inside a tool they stay nested in the running call.
func WithPipelineContext(ctx context.Context, pc PipelineContext) context.Context {
	n := &pipelineNode{Context: ctx}
	n.scope = scopeOf(ctx)
	n.scope.pipeline = &pc
	return n
}

// PipelineContextFrom returns what ctx carries, or the zero value.
func PipelineContextFrom(ctx context.Context) PipelineContext { return *scopeOf(ctx).pipeline }

// Fork is pc for a child run, with a new RunID, which is random except in tests.
func (pc PipelineContext) Fork() PipelineContext {
	pc.ParentRunID = pc.RunID
	if pc.ids != nil {
		pc.RunID = pc.ids.Run()
	} else {
		pc.RunID = ids.Random("run-")
	}
	return pc
}

// text fills x, which is zero, with what events write of pc.
func (pc *PipelineContext) text(x *eventtext.Run) {
	x.ID, x.Parent, x.Request, x.Session = pc.RunID, pc.ParentRunID, pc.RequestID, pc.SessionID
	x.User, x.Org, x.Interaction, x.Tenant = pc.UserID, pc.OrgID, pc.InteractionID, pc.tenant()
	x.Topology, x.Service, x.Behavior = pc.Topology, pc.Service, pc.ExecutionMode
}

// tenant is who pc's calls count for.
func (pc *PipelineContext) tenant() string {
	if pc.Tenant != "" {
		return pc.Tenant
	}
	return pc.OrgID
}

// NewTestPipelineContext is for tests: ids are run-1, call-1, call-2 … in order, the State is fresh,
// and the Sink is the [Recorder]. It starts no goroutine, and works in a testing/synctest bubble.
//
//	pc, rec := sluice.NewTestPipelineContext()
//	ctx := sluice.WithPipelineContext(t.Context(), pc)
func NewTestPipelineContext() (PipelineContext, *Recorder) {
	rec, counter := new(Recorder), new(ids.Counter)
	return PipelineContext{
		RunID:     counter.Run(),
		RequestID: "request-1",
		SessionID: "session-1",
		UserID:    "user-1",
		OrgID:     "org-1",
		State:     Must(NewSharedState(SharedStateConfig{})),
		Sink:      rec,
		ids:       counter,
	}, rec
}

// scope is what a context knows about the library: on whose behalf (always), and inside
// which call, if any.
type scope struct {
	pipeline *PipelineContext
	run      *running     // the attempt, or nil
	given    *callContext // instead of run: what the attempt's code got
}

// callOf is the attempt that ctx belongs to, or nil.
func callOf(ctx context.Context) *running {
	s := scopeOf(ctx)
	return s.call()
}

// call is the attempt that s is of, or nil.
func (s *scope) call() *running {
	if s.given != nil {
		return s.given.call()
	}
	return s.run
}

var anonymous = scope{pipeline: new(PipelineContext)}

// scopeKey asks a context for its innermost scope: one look-up finds run and call.
type scopeKey struct{}

func scopeOf(ctx context.Context) scope {
	if ctx == nil { // as an argument that was forgotten
		return anonymous
	}
	switch x := ctx.Value(scopeKey{}).(type) {
	case *callContext:
		return scope{pipeline: x.pipeline, given: x}
	case *running:
		return scope{pipeline: x.inv.pipeline, run: x}
	case *pipelineNode:
		return x.scope
	}
	return anonymous
}

// state is the store that keys use under this scope: the run's, else the executor's
// of the running call, else nil.
func (s scope) state() *SharedState {
	switch {
	case s.pipeline.State != nil:
		return s.pipeline.State
	case s.given != nil:
		return s.given.plan.exec.state
	case s.run != nil:
		return s.run.inv.plan.exec.state
	}
	return nil
}

// pipelineNode is the context that WithPipelineContext returns.
type pipelineNode struct {
	context.Context
	scope scope
}

func (n *pipelineNode) Value(key any) any {
	if _, ok := key.(scopeKey); ok {
		return n
	}
	return n.Context.Value(key)
}

// callKey asks a context for the call whose code, or whose event, it belongs to.
type callKey struct{}

// callContext is the caller's context, which also tells which call it belongs to: what the code of
// most calls gets and, as a sinkContext, what sinks do. It may be kept for ever, so it leads to the
// call's memory only as long as that is the call's: see frame. What it says of the call never changes.
type callContext struct {
	context.Context
	inv      *invocation // to be found by find only
	plan     *plan
	pipeline *PipelineContext
	id       string
	key      CallKey
	priority Priority
	over     atomic.Bool // the call is, and nobody had found it
}

// String keeps what prints the context from looking inside.
func (x *callContext) String() string { return "sluice: the context of a tool" }

// sinkContext is a callContext whose code is not inside the call.
type sinkContext callContext

// Value answers the library's own questions, and passes others on.
func (x *callContext) Value(key any) any {
	switch key.(type) {
	case scopeKey, callKey:
		return x
	}
	return x.Context.Value(key)
}

// String is as that of a callContext.
func (x *sinkContext) String() string { return "sluice: the context of a sink" }

// Value answers one question, and passes others on.
func (x *sinkContext) Value(key any) any {
	if _, ok := key.(callKey); ok {
		return x
	}
	return x.Context.Value(key)
}

// set makes x the context of inv, which was made with ctx.
func (x *callContext) set(ctx context.Context, inv *invocation) *callContext {
	x.Context, x.inv, x.plan, x.pipeline = ctx, inv, inv.plan, inv.pipeline
	x.id, x.key, x.priority = inv.id, inv.key, inv.priority
	return x
}

// find is the call that x belongs to, which will never be used for another. If it has ended before
// anybody looked for it, it is what is left of it.
func (x *callContext) find() *invocation {
	if inv := x.inv; !x.over.Load() {
		if !inv.attempts.IsKept() {
			inv.attempts.Keep()
		}
		if !x.over.Load() { // part has seen it, or will
			return inv
		}
	}
	w := &whole{invocation: invocation{plan: x.plan, id: x.id, pipeline: x.pipeline, key: x.key, priority: x.priority, tried: true}}
	w.first, w.space.inv = &w.space, &w.invocation
	w.attempts.Report()
	if x.plan.adm != nil {
		w.space.MakeOver(&x.plan.adm.at)
	}
	return &w.invocation
}

// part lets go of x's call, which is over, and reports whether nobody has found it.
func (x *callContext) part() (alone bool) {
	x.over.Store(true)
	if x.inv.isKept() {
		x.over.Store(false) // as nobody has been told otherwise who goes by it
		return false
	}
	return true
}

// call is the attempt that x belongs to.
func (x *callContext) call() *running { return &x.find().first.running }

// toSinks is the context for events of inv, which was made with ctx.
func (inv *invocation) toSinks(ctx context.Context) context.Context {
	if f := inv.first; f != nil && f.given != nil {
		return (*sinkContext)(f.given)
	}
	return (*sinkContext)(new(callContext).set(ctx, inv))
}

// give is the context for the code of r, and for sinks. Whoever asks is in charge of the call.
func (f *first) give(ctx context.Context) *callContext {
	if x := f.frame; f.given == nil {
		if len(x.rest) == 0 {
			x.rest = make([]callContext, callContexts)
		}
		f.given = x.rest[0].set(ctx, f.inv)
		x.rest = x.rest[1:]
	}
	return f.given
}

// within is the call of e, if any, that is under way and whose code or sink has ctx.
func (e *Executor) within(ctx context.Context) *invocation {
	var r *running
	switch x := ctx.Value(callKey{}).(type) {
	case *running:
		r = x
	case *callContext:
		r = x.call()
	case *sinkContext:
		inv := (*callContext)(x).find()
		if inv.plan.exec == e && !inv.attempts.IsReported() {
			return inv
		}
		r = inv.parent.Load()
	}
	for ; r != nil; r = r.inv.parent.Load() {
		if r.inv.plan.exec == e && !r.Over() {
			return r.inv
		}
	}
	return nil
}

// CallFrom returns the call that ctx belongs to, inside a tool. Its Input is nil.
func CallFrom(ctx context.Context) (Call, bool) {
	var c Call
	switch s := scopeOf(ctx); {
	case s.given != nil: // which need not be found for that
		x := s.given
		(&invocation{plan: x.plan, id: x.id, pipeline: x.pipeline, priority: x.priority}).fill(&c)
		c.Attempt = 1
	case s.run != nil:
		s.run.inv.fill(&c)
		c.Attempt = s.run.Attempt
	default:
		return c, false
	}
	return c, true
}

// whole is a call that its caller waits for.
type whole struct {
	invocation
	space first
}

// frame is what a goroutine that waits for its call makes it in. One call after another uses it.
type frame struct {
	lane  uint32       // which of an executor's lanes its calls take
	by    *census.Lane // that
	exec  *Executor
	ctx   context.Context
	stage progress
	c     Call          // the attempt, if there can be one only
	call  *whole        // nil after one that is kept
	rest  []callContext // new ones
	key   CallKey       // of the next call
	keys  int           // that are left from there on
	event callEvent
	told  int // events that are not counted yet
}

// progress is how far a call has come.
type progress uint8

const (
	underWay  progress = iota // if it holds something, somebody sees to it
	inAttempt                 // its one attempt runs
	inEnd                     // its end is reported
)

var (
	frames    = sync.Pool{New: newFrame}
	lastFrame atomic.Uint32
)

func newFrame() any {
	x := &frame{lane: lastFrame.Add(1)}
	x.event.frame = x
	return x
}

// How many contexts and keys are made at once. Who keeps a context keeps the others. Of what leads to
// calls, and calls to it, nothing else is made some at a time: what two kinds have in common would lead
// from one call to the next for ever.
const (
	callContexts = 7
	callKeys     = 64
)

// begin is a new call of that tool of e, which is counted in. It reports whether e is open.
func (x *frame) begin(e *Executor, ctx context.Context, tool string) (inv *invocation, open bool) {
	if x.keys == 0 {
		x.key, x.keys = CallKey(ids.NextKeys(callKeys)), callKeys
	}
	if x.call == nil {
		x.call = new(whole)
	}
	w := x.call
	w.key, w.first, w.space.inv, w.space.frame = x.key, &w.space, &w.invocation, x
	x.key++
	x.keys--
	x.exec, x.ctx, x.stage, x.c.Tool = e, ctx, underWay, tool
	x.by = e.census.Lane(x.lane)
	return &w.invocation, e.census.EnterBy(x.by)
}

// leave counts the call out.
func (x *frame) leave() {
	if x.exec.census.LeaveBy(x.by) {
		x.exec.ended()
	}
}

// end takes x back when its call is over.
func (x *frame) end() {
	w := x.call
	if w.loud {
		if x.told > 0 {
			x.by.Delivered(x.told)
			x.told = 0
		}
		x.event.Event, x.event.last = Event{}, false
	}
	if w.isKept() || w.space.given != nil && !w.space.given.part() {
		if w.loud {
			w.attempts.Report()
		}
		if w.space.frame != nil { // else others may be inside, and see to it
			w.space.frame = nil
		}
		x.call = nil
	} else {
		w.space = first{}
		w.plan, w.id, w.pipeline = nil, "", nil
		w.seq, w.tried, w.loud, w.over = 0, false, false, false
	}
	x.leave()
	x.exec, x.by, x.ctx = nil, nil, nil
	x.c.inv, x.c.run, x.c.code, x.c.Input, x.c.Pipeline = nil, nil, nil, nil, nil
	x.c.Attempt = 0 // prepare writes the rest
	frames.Put(x)
}

// rescue ends a call whose code, sink or context has panicked with v or, if that is nil, called Goexit.
// The frame is not used again.
func (x *frame) rescue(v any, res *Result, err *error, out *answer) {
	defer x.leave()
	if out != nil {
		defer func() { *out = answer{*res, *err} }()
	}
	inv := &x.call.invocation
	defer inv.attempts.Report()
	if x.stage == inEnd { // a sink has called Goexit
		return
	}
	*res, *err = Result{}, caught(x.c.Tool, v)
	defer x.exec.end(x.ctx, inv, res, err) // also if what is asked about the outcome calls Goexit
	if x.stage == inAttempt {
		inv.plan.adm.returned(x.c.run, &x.c, *res, *err)
	}
}
