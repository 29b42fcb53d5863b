package sluice

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/census"
	"github.com/sluice-go/sluice/internal/clock"
	"github.com/sluice-go/sluice/internal/deadline"
	"github.com/sluice-go/sluice/internal/eventtext"
	"github.com/sluice-go/sluice/internal/ids"
	"github.com/sluice-go/sluice/internal/permit"
	"github.com/sluice-go/sluice/internal/slab"
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
	n := &pipelineNode{Context: ctx, state: pc.State}
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
		RunID: counter.Run(), RequestID: "request-1", SessionID: "session-1", UserID: "user-1", OrgID: "org-1",
		State: Must(NewSharedState(SharedStateConfig{})), Sink: rec, ids: counter,
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
		return scope{pipeline: x.pipeline(), given: x}
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
	state *SharedState // the pipeline's
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
	id       string
	key      CallKey
	priority Priority
	timed    bool         // it is that of a timedContext
	sight    permit.Sight // whether the call can be found
}

// String keeps what prints the context from looking inside.
func (x *callContext) String() string { return "sluice: the context of a tool" }

// timedContext is a callContext that ends when the time of the code is over.
type timedContext struct {
	callContext
	deadline.Limit
	left any // nil, the error with which interceptors end it, or a *Bound if that may change
}

// limit is the context that ends in time for r's code, or nil.
func (r *running) limit() *timedContext {
	if x, ok := r.Context.(*timedContext); ok && x.key == r.inv.key { // else it is that of the call around
		return x
	}
	return nil
}

// Clock, Caller and Cause are what its limit asks.
func (x *timedContext) Clock() *clock.Clock     { return &x.plan.exec.clock }
func (x *timedContext) Caller() context.Context { return x.Context }
func (x *timedContext) Cause() error {
	switch left := x.left.(type) {
	case error:
		return x.timeout(left)
	case *deadline.Bound:
		if x.isLeft() {
			return x.timeout(left.Cause)
		}
	}
	return x.timeout(context.DeadlineExceeded)
}

// isOthers reports whether the time that ends is not the attempt's own.
func (x *timedContext) isOthers() bool { return x.isLeft() || x.Borrowed(x) }

// timeout is the error of a call whose time is over, which its code has answered with err.
func (x *timedContext) timeout(err error) error {
	return (&invocation{plan: x.plan, id: x.id, key: x.key}).refused(ErrTimeout, "", err)
}

// timedOut makes the error of code that gave up because its time was over the library's own.
func (x *timedContext) timedOut(err error) error {
	if x != nil && err != nil && x.Context.Err() == nil && x.Err() == context.DeadlineExceeded && isReason(err, context.DeadlineExceeded) {
		return x.timeout(err)
	}
	return err
}

// end says that the code has ended, at the instant now.
func (x *timedContext) end(now int64) {
	if x != nil {
		x.End(x, now)
	}
}

func (x *timedContext) Deadline() (time.Time, bool) { return x.Limit.Deadline(x) }
func (x *timedContext) Done() <-chan struct{}       { return x.Limit.Done(x) }
func (x *timedContext) Err() error                  { return x.Limit.Err(x) }

// Value is as that of a callContext, but for what only a context knows that ends in time.
func (x *timedContext) Value(key any) any {
	switch key.(type) {
	case scopeKey, callKey:
		return &x.callContext
	case timeKey:
		return x
	}
	return x.Limit.Value(x, key)
}

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
	x.Context, x.inv, x.plan, x.id, x.key, x.priority = ctx, inv, inv.plan, inv.id, inv.key, inv.priority
	return x
}

// pipeline is on whose behalf the call runs.
func (x *callContext) pipeline() *PipelineContext { return scopeOf(x.Context).pipeline }

// find is the call that x belongs to, which will never be used for another. If its attempt was over
// before anybody looked for it, it is what is left of it.
func (x *callContext) find() *invocation {
	if how := x.sight.Find(); how != permit.Found {
		return x.remains(how == permit.Gone)
	}
	return x.inv
}

// remains is what is left of x's call.
func (x *callContext) remains(reported bool) *invocation {
	w := &whole{invocation: invocation{plan: x.plan, id: x.id, pipeline: x.pipeline(), key: x.key, priority: x.priority, tried: true}}
	w.first, w.space.inv = &w.space, &w.invocation
	if reported {
		w.attempts.Report()
	}
	if x.plan.adm != nil {
		w.space.MakeOver(&x.plan.adm.at)
	}
	return &w.invocation
}

// part says what has become of x's call, and reports whether nobody has found it, and so nobody will.
func (x *callContext) part(to permit.Seen) (alone bool) {
	if alone = x.sight.Part(to); alone {
		x.inv = nil // what is made together with x leads to none but calls that were found
	}
	return alone
}

// call is the attempt that x belongs to. Whoever has x is the attempt's code, or was, or is a sink that
// is told that it begins.
func (x *callContext) call() *running {
	r := &x.find().first.running
	r.Began()
	return r
}

// toSinks is the context for events of inv, which was made with ctx.
func (inv *invocation) toSinks(ctx context.Context) context.Context {
	if f := inv.first; f != nil && f.given != nil {
		return (*sinkContext)(f.given)
	}
	return (*sinkContext)(new(callContext).set(ctx, inv))
}

// give is the context for the code of r, and for sinks. Whoever asks is in charge of the call.
func (f *first) give(ctx context.Context) *callContext {
	if f.given != nil {
		return f.given
	}
	return f.giveNew(ctx)
}

func (f *first) giveNew(ctx context.Context) *callContext {
	if a := f.inv.plan.adm; a != nil && (a.timeout > 0 || a.bounded.Load()) {
		f.given = &f.frame.timed.Take(timedContexts).callContext
		f.given.timed = true
	} else {
		f.given = f.frame.contexts.Take(callContexts)
	}
	return f.given.set(ctx, f.inv)
}

// inside is ctx for an attempt, which answers for itself what the context of another would: a chain of
// calls is no chain of contexts.
func inside(ctx context.Context) context.Context {
	switch p := ctx.(type) {
	case *callContext:
		return p.Context
	case *running:
		if p.limit() == nil {
			return p.Context
		}
	}
	return ctx
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
		(&invocation{plan: x.plan, id: x.id, key: x.key, pipeline: s.pipeline, priority: x.priority}).fill(&c, false)
		c.Attempt = 1
	case s.run != nil:
		s.run.inv.fill(&c, false)
		c.Attempt = s.run.Attempt
	default:
		return c, false
	}
	return c, true
}

// Partial is what the tool has left by [ReportPartial], if the call has failed; else nil.
func (r Result) Partial() any {
	if r.rec == nil || r.rec.By() != "" {
		return nil
	}
	return r.rec.Partial
}

// ReportPartial leaves v as what the running call has of its result so far, in place of what it has left
// before. If the call fails, say because its time is over, v is [Result.Partial], and what a typed handle
// gives beside the error, if it is an Out. v must not change any more. Outside a tool it does nothing.
func ReportPartial(ctx context.Context, v any) {
	if r := callOf(ctx); r != nil {
		r.inv.first.remembers().partial.Store(&v)
	}
}

// Extend has the time of the running attempt be over d from now at the earliest, as far as Policy.MaxTimeout,
// the caller's deadline and [Call.Within] let it; a later end stays. It reports whether the attempt has d: if
// not, it has what ctx.Deadline says, or its time is over. Exactly one is first, the end or Extend.
//
// The attempt's context, and what is derived from it, end at the new time; whatever has read their deadline
// before knows the old one. A deadline that was set between the two times is lost. A call that is nested in the
// attempt and waits in the queue keeps to the old time, one that runs does not.
//
// Code that repeats it shows that it is alive. It asks for the time of the call that ctx belongs to, not of
// those around that. It does not wait; outside a tool it answers false.
func Extend(ctx context.Context, d time.Duration) bool {
	r := callOf(ctx)
	if r == nil || r.Over() || r.IsLate() {
		return false
	}
	if x := r.limit(); x != nil {
		return x.Extend(x, d)
	}
	at, ok := r.Context.Deadline()
	return r.Context.Err() == nil && (!ok || time.Until(at) >= d)
}

// whole is a call that its caller waits for.
type whole struct {
	invocation
	space first
}

// frame is what a goroutine that waits for its call makes it in. One call after another uses it. What every call
// touches comes first.
type frame struct {
	lane            uint32 // which of an executor's lanes its calls take
	told, completed uint32 // what becomes of the call, counted as it leaves
	stage           progress
	lent            bool         // code goes on that has c
	by              *census.Lane // that of exec which is lane
	exec            *Executor
	call            *whole // nil after one that is kept
	keys            ids.Keys
	refused         int64 // the instant at which the call was turned down
	contexts        slab.Some[callContext]
	c               Call // the attempt, if there can be one only at a time
	step            Step // where the call is among the steps of interceptors
	timed           slab.Some[timedContext]
	errs            slab.Some[Error]
	event           callEvent
}

// progress is how far a call has come.
type progress uint8

const (
	underWay   progress = iota // if it holds something, somebody sees to it
	inStart                    // it is reported that its one attempt begins
	inAttempt                  // that runs
	succeeded                  // and is over, which nobody has seen
	turnedDown                 // it was refused, and there is no more to it
	inEnd                      // its end is reported
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

// How many contexts and errors are made at once. Who keeps one keeps the others. Of what leads to calls, and calls to it,
// nothing else is made some at a time: what two kinds have in common would lead from one call to the next for ever.
const (
	callContexts  = 7
	timedContexts = 5
	callErrors    = 8
)

// begin is a new call of that tool of e, which is counted in. It reports whether e is open.
func (x *frame) begin(e *Executor) (inv *invocation, open bool) {
	w := x.call
	if w == nil {
		w = new(whole)
		x.call = w
		w.join(x)
	}
	w.key = CallKey(x.keys.Next())
	if x.stage = underWay; x.exec != e {
		x.exec, x.by = e, e.census.Lane(x.lane)
	}
	return &w.invocation, e.census.EnterBy(x.by)
}

// join makes w, which is zero, a call of x.
func (w *whole) join(x *frame) { w.first, w.space.inv, w.space.frame = &w.space, &w.invocation, x }

// leave counts the call out.
func (x *frame) leave() {
	told, completed := x.told, x.completed
	x.told, x.completed = 0, 0
	if x.exec.census.LeaveBy(x.by, completed, told) {
		x.exec.ended()
	}
}

// end takes x back when its call is over. That serves the next call unless somebody has found it.
func (x *frame) end() {
	w := x.call
	if w.isKept() || w.space.given != nil && !w.space.given.part(permit.Gone) {
		if w.loud {
			w.attempts.Report()
		}
		if w.space.frame != nil { // else others may be inside, and see to it
			w.space.frame = nil
		}
		x.call = nil
	} else {
		spare := w.space.Spare()
		*w = whole{}
		w.space.Reuse(spare)
		w.join(x)
	}
	if x.lent { // and nobody takes it back
		x.leave()
		return
	}
	if x.event.CallKey != 0 {
		x.event.Event, x.event.last = Event{}, false
	}
	x.c, x.step = Call{}, Step{}
	x.leave()
	frames.Put(x)
}

// endUnseen is end where nobody has seen the attempt, which succeeded or was turned down. What is said of its
// tool and its run stays: the next call may well be of the same.
func (x *frame) endUnseen(went progress) {
	w, t := x.call, &x.event
	if went == succeeded {
		if w.loud {
			w.space.given.sight.Ended()
		}
		w.space.Renew()
	} else if w.shared || w.loud && !w.space.given.part(permit.Gone) {
		x.end()
		return
	}
	w.space.given, w.space.Context = nil, nil
	w.id, w.seq, w.tried = "", 0, false
	if w.loud {
		w.loud, w.plain, w.over = false, false, false
		t.CallKey, t.Call.ID, t.Call.Attempt = 0, "", 0
		t.Duration, t.Result.from, t.OutputBytes, t.hasData, t.last = 0, 0, 0, false, false
		if t.Err != nil {
			t.Err, t.By, t.RetryAfter = nil, "", 0
		}
	}
	x.c.ID, x.c.Input, x.c.Attempt, x.c.code = "", nil, 0, nil
	if x.step.inv != nil {
		x.c.within = nil
		x.step.reset()
	}
	x.leave()
	frames.Put(x)
}

// rescue ends a call whose code, sink or context has panicked with v or, if that is nil, called Goexit.
// The frame is not used again.
func (x *frame) rescue(ctx context.Context, tool string, v any, res *Result, err *error, out *answer) {
	defer x.leave()
	if out != nil {
		defer func() { *out = answer{*res, *err} }()
	}
	inv := &x.call.invocation
	defer inv.attempts.Report()
	if x.stage == inEnd { // a sink has called Goexit
		if g := inv.first.given; g != nil {
			g.sight.Ended()
		}
		return
	}
	*res, *err = Result{}, caught(tool, v)
	defer x.exec.end(ctx, inv, res, err) // also if what is asked about the outcome calls Goexit
	x.broken(*res, *err)
}
