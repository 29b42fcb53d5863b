package sluice

import (
	"context"

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
// which running call (nil outside).
type scope struct {
	pipeline *PipelineContext
	call     *running
}

var anonymous = scope{pipeline: new(PipelineContext)}

// scopeKey asks a context for its innermost scope: one look-up finds run and call.
type scopeKey struct{}

func scopeOf(ctx context.Context) scope {
	if ctx == nil { // as an argument that was forgotten
		return anonymous
	}
	switch x := ctx.Value(scopeKey{}).(type) {
	case *running:
		return scope{x.inv.pipeline, x}
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
	case s.call != nil:
		return s.call.inv.plan.exec.state
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

// callContext is what a sink gets: the caller's context, which also tells which call the
// event is of.
type callContext struct {
	context.Context
	inv *invocation
}

// Value answers the library's own question, and passes others on.
func (x *callContext) Value(key any) any {
	if _, ok := key.(callKey); ok {
		return x.inv
	}
	return x.Context.Value(key)
}

// toSinks is the context for events of inv, which was made with ctx.
func (inv *invocation) toSinks(ctx context.Context) context.Context {
	f := inv.first
	if f == nil || inv.parent.Load() != nil { // whose context must not be kept here
		return &callContext{ctx, inv}
	}
	if f.given == nil {
		f.given = new(callContext)
	}
	if f.given.inv == nil { // else a sink may have kept it
		*f.given = callContext{ctx, inv}
	}
	return f.given
}

// within is the call of e, if any, that is under way and whose code or sink has ctx.
func (e *Executor) within(ctx context.Context) *invocation {
	var r *running
	switch x := ctx.Value(callKey{}).(type) {
	case *running:
		r = x
	case *invocation:
		if x.plan.exec == e && !x.attempts.IsReported() {
			return x
		}
		r = x.parent.Load()
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
	r := scopeOf(ctx).call
	if r == nil {
		return Call{}, false
	}
	var c Call
	r.inv.fill(&c)
	c.Attempt = r.Attempt
	return c, true
}
