package sluice

import (
	"context"

	"github.com/sluice-go/sluice/internal/eventtext"
	"github.com/sluice-go/sluice/internal/ids"
)

// PipelineContext says on whose behalf calls run: which run, user and tenant, how
// urgent, with which state and sink. Every field is optional and the zero value is an
// anonymous run.
//
// It is a value: change a copy and attach it with [WithPipelineContext]. Attaching is
// the only way for a priority or a tenant to reach the library; neither a [Request]
// nor a tool's arguments can set them. A PipelineContext may be attached to any number
// of contexts and read from any number of goroutines; Attrs must not change once it is.
type PipelineContext struct {
	RunID         string // this run; Fork makes a new one
	ParentRunID   string // the run that Fork was called on
	RequestID     string // the request that the run answers
	SessionID     string
	UserID        string
	OrgID         string
	InteractionID string
	Topology      string // what kind of pipeline runs, for events
	ExecutionMode string // reported as behavior in events
	Service       string // which program runs, for events

	Tenant   string            // who shares limits and fairness; empty means OrgID
	Priority Priority          // of every call of the run; zero means the tool's own
	Attrs    map[string]string // for the key functions of ByKey; read-only once attached
	State    *SharedState      // nil means the executor's
	Sink     EventSink         // in addition to the executor's; nil means none

	ids *ids.Counter // deterministic ids for tests; nil means the executor's
	_   struct{}
}

// WithPipelineContext returns a context that carries pc. Calls made with it, and calls
// nested in them, run on behalf of pc. Inside a tool it changes on whose behalf nested
// calls run, but not which call they are nested in.
func WithPipelineContext(ctx context.Context, pc PipelineContext) context.Context {
	n := &pipelineNode{Context: ctx}
	n.scope = scopeOf(ctx)
	n.scope.pipeline = &pc
	return n
}

// PipelineContextFrom returns the PipelineContext that ctx carries, or the zero value.
func PipelineContextFrom(ctx context.Context) PipelineContext { return *scopeOf(ctx).pipeline }

// Fork is pc for a child run: a new RunID, this one as ParentRunID, everything else kept.
// The new id is random unless pc came from [NewTestPipelineContext].
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

// NewTestPipelineContext returns a context for tests: the ids run-1, call-1, call-2 …
// in the order they are asked for, a fresh [SharedState], and the [Recorder] that is
// its sink. It needs no argument, starts no goroutine, and works inside a
// testing/synctest bubble.
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
