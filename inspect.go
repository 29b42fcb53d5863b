package sluice

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/change"
	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/few"
	"github.com/sluice-go/sluice/internal/ids"
	"github.com/sluice-go/sluice/internal/nameof"
	"github.com/sluice-go/sluice/internal/record"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
	"github.com/sluice-go/sluice/internal/survey"
)

// Plan is the chain of a tool, outermost first, as "audit → admit[breaker concurrency rate] →
// search", with the gates that limit it, and whether there is such a tool. An interceptor whose
// String panics, or takes over 100 ms, is shown by its type.
func (e *Executor) Plan(tool string) (string, bool) {
	if e.isMade() != nil {
		return "", false
	}
	t := e.registry.current()[tool]
	if t == nil {
		return "", false
	}
	if e.plan(tool) == nil && !e.wraps() {
		e.compile(context.Background(), tool) // and Snapshot shows its limits from now on
	}
	var names []string
	for _, x := range e.conf.Interceptors {
		if g := coreOf(x); g != nil && g.limit(&t.spec) {
			names = append(names, g.name)
		}
	}
	if p := &t.spec.Policy; p.Concurrency > 0 || len(p.Rates) > 0 || p.Breaker != nil {
		names = append(names, t.shared.core.name)
	}
	return nameof.Chain(few.Map(e.outer, interceptorName), names, few.Map(e.inner, interceptorName), t.spec.Name), true
}

// interceptorName is x's own name, if it has one and says it in time, else its type's.
func interceptorName(x Interceptor) string {
	if f, ok := x.(InterceptorFunc); ok {
		return nameof.Func(f)
	}
	return nameof.Value(x)
}

// Decision is how a call was admitted, or would be ([Executor.Explain]). It is a value, and marshals itself.
type Decision struct {
	Refusal   *Error        // nil if it ran, or would
	Wait      time.Duration // of all attempts
	Waits     []Wait        // longest first
	Place     int           // in the queue on arrival, from 1; 0 means not queued
	Overtaken int           // by so many later calls, at least
	Attempts  int
	Costs     []Cost
}

// Wait is time spent on one constraint.
type Wait struct {
	By  string // as in Error
	For time.Duration
}

// Cost is what a call cost of one unit.
type Cost struct {
	Unit     string `json:"unit"` // empty: calls
	Estimate int64  `json:"estimate"`
	Actual   int64  `json:"actual"` // Estimate, unless use was reported
}

// MarshalJSON writes milliseconds.
func (d Decision) MarshalJSON() ([]byte, error) {
	return record.Decision[Error]{Refusal: d.Refusal, Wait: d.Wait, Place: d.Place, Overtaken: d.Overtaken, Attempts: d.Attempts,
		Waits: few.Map(d.Waits, func(w Wait) record.Wait { return record.Wait(w) }),
		Costs: few.Map(d.Costs, func(c Cost) record.Cost { return record.Cost(c) })}.MarshalJSON()
}

// Explain forecasts what [Executor.Invoke] would do now: Refusal if it would refuse, Waits with an
// estimate if it would wait. It decodes the arguments, asks the tool's Check, key and cost functions,
// and runs no tool and no interceptor. It changes nothing and waits only for an interceptor's Wrap,
// until ctx ends. For a rate the estimate is exact if nobody comes or leaves; for slots it is by
// how long calls held them lately, zero before the first, without what those before wait for elsewhere.
func (e *Executor) Explain(ctx context.Context, r Request) Decision {
	if err, ok := e.unmade(&r).(*Error); ok {
		return Decision{Refusal: err}
	}
	if ctx == nil {
		ctx = noContext
	}
	inv := &invocation{key: CallKey(ids.NextKey())}
	d, err := inv.explain(ctx, e, &r)
	if err != nil {
		d.Refusal = ownError(inv.verdict(err, false))
	}
	return d
}

// ExplainTool is [Executor.Explain] for a call whose arguments nobody knows yet. It asks nothing about
// them: scopes of [ByKey] do not count, Policy.Cost is one call, or what calls have cost lately.
func (e *Executor) ExplainTool(ctx context.Context, tool string) Decision {
	return e.Explain(ctx, Request{Tool: tool, Input: anyInput{}})
}

// anyInput is the Input of a call that is not known.
type anyInput struct{}

func (inv *invocation) explain(ctx context.Context, e *Executor, r *Request) (d Decision, err error) {
	normal := false
	defer func() {
		if !normal {
			err = caught(r.Tool, recover())
		}
	}()
	depth, calls := inv.identify(ctx, e, r), 0
	if depth > 0 {
		calls = int(inv.root().first.calls.Load()) + 1
	}
	var c Call
	inv.fill(&c, false)
	c.inv, c.Input = inv, r.Input
	if err = inv.barred(ctx, !e.closed(), depth, calls); err == nil && c.Input != any(anyInput{}) {
		err = inv.resolve(ctx, &c, r, !e.closed(), depth, calls)
	}
	if err == nil {
		d, err = inv.plan.adm.explain(ctx, &c)
	}
	normal = true
	return d, err
}

func (a *admission) explain(ctx context.Context, c *Call) (d Decision, err error) {
	w, err := a.ask(ctx, c, 0)
	if err != nil {
		return d, err
	}
	var q stage.Answers
	x, w, err := a.answer(c, w, &q)
	if err != nil {
		return d, err
	}
	s, t, err := a.present(c, w, x, &q, (*admit.Machine).Peek)
	if err != nil {
		return d, err
	}
	d.Costs = few.Map(record.Costs(nil, t.Needs(), nil), func(c record.Cost) Cost { return Cost(c) })
	f := s.M.Forecast(w.now, t)
	why := s.Refusal(t, f.Refusal)
	if f.By != nil && f.Refusal.Reason == admit.NoReason {
		d.Place, d.Wait = f.Place, time.Duration(f.Wait)
		d.Waits = []Wait{{f.By.Class().Name, d.Wait}}
	}
	s.M.Free(t)
	s.Unlock()
	if why.Reason != admit.NoReason {
		err = a.refusal(c.inv, &why)
	}
	return d, err
}

// Decision is how the call was admitted; zero if it did not wait and cost nothing of its own.
func (r Result) Decision() Decision {
	if r.rec == nil || r.rec.Attempts == 0 {
		return Decision{}
	}
	x := r.rec
	return Decision{Wait: x.Wait, Place: int(x.Place), Overtaken: int(x.Overtaken), Attempts: int(x.Attempts),
		Waits: few.Map(x.Longest(), func(w record.Wait) Wait { return Wait(w) }),
		Costs: few.Map(x.Costs, func(c record.Cost) Cost { return Cost(c) })}
}

// By is r as an answer that is none of the tool's but of whoever has that name, say an interceptor.
func (r Result) By(name string) Result {
	by := any(record.By(name))
	r.rec, r.from = (*record.Record)(nil).WithPartial(&by), 0
	return r
}

// AnsweredBy is who has answered instead of the tool, and has said so by [Result.By]; empty if nobody has.
func (r Result) AnsweredBy() string { return string(r.rec.By()) }

// Snapshot is the state of an executor.
type Snapshot struct {
	At              time.Time    `json:"at"`
	InFlight        int          `json:"in_flight"` // their code has not ended
	Queued          int          `json:"queued"`
	Abandoned       int          `json:"abandoned"` // in flight, and nobody waits for them
	Completed       uint64       `json:"completed"`
	Failed          uint64       `json:"failed"`
	Denied          uint64       `json:"denied"`
	EventsDelivered uint64       `json:"events_delivered"`
	EventsDropped   uint64       `json:"events_dropped"` // by sinks that fail, or beyond a bound
	Gates           []GateState  `json:"gates"`
	Lanes           []LaneState  `json:"lanes"`
	Fleets          []FleetState `json:"fleets,omitempty"` // of limiters, and of the State
}

// GateState is how one constraint stands under one key.
type GateState struct {
	Name      string       `json:"name"`
	Kind      string       `json:"kind"`  // "concurrency", "rate", "breaker", "shared limiter" or, of an interceptor, "layer"
	Scope     string       `json:"scope"` // as "per tool"
	Key       string       `json:"key,omitempty"`
	Limit     int64        `json:"limit,omitempty"` // of a rate Burst; zero means none
	Used      int64        `json:"used"`            // of a rate what is missing, over Limit in debt
	Waiting   int          `json:"waiting"`         // calls that wait here first
	State     BreakerState `json:"state,omitzero"`  // of a breaker
	Paused    bool         `json:"paused,omitempty"`
	Stalled   bool         `json:"stalled,omitempty"`   // see LimitStalled
	Ordered   bool         `json:"ordered,omitempty"`   // see Limit.Ordered
	Until     time.Time    `json:"until,omitzero"`      // of an open State or a pause
	Full      time.Time    `json:"full,omitzero"`       // when a rate's bucket is, if nobody comes; zero if it is
	Unmatched []string     `json:"unmatched,omitempty"` // names in Scope that no registered tool has, and what may be meant
}

// LaneState is the waiting calls that have Tool, Tenant, Priority, By and Key in common.
type LaneState struct {
	Tool     string        `json:"tool"`
	Tenant   string        `json:"tenant,omitempty"`   // heeded by a scheduler
	Priority Priority      `json:"priority,omitempty"` // so too
	Waiting  int           `json:"waiting"`
	Oldest   time.Duration `json:"oldest_ns"`     // its first call's wait
	By       string        `json:"by"`            // what that waits for
	Key      string        `json:"key,omitempty"` // of that
}

// Snapshot is the state of all executors that share a registry, a gate or a scheduler with e; the counters are e's alone.
// It is of one instant, but of Gates and Lanes each 200 after the first are read some microseconds later. Last in Gates
// stands what e's interceptors say of themselves, by a method Inspect() []GateState that does not wait; a panic says nothing.
func (e *Executor) Snapshot() Snapshot {
	out := Snapshot{Gates: []GateState{}, Lanes: []LaneState{}}
	if e.isMade() != nil {
		return out
	}
	out.Failed, out.Denied, out.EventsDropped, out.Abandoned = e.failed.Load(), e.denied.Load(), e.dropped.Load(), int(e.abandoned.Load())
	out.Completed, out.EventsDelivered = e.census.Sums()
	r := e.read()
	for r.Next(readAtOnce) {
	}
	s := r.Done()
	out.At, out.InFlight, out.Queued = s.At, s.Running, s.Waiting
	out.EventsDropped += s.Lost
	out.Gates = few.Map(s.Cells, gateState)
	out.Lanes = few.Map(s.Lanes, func(l survey.Lane) LaneState {
		return LaneState{l.Tool, l.Tenant, Priority(l.Level) + PriorityBatch, l.Waiting, l.Oldest, l.By, l.Key}
	})
	fleets := slices.DeleteFunc([]*Fleet{e.state.fleet}, func(f *Fleet) bool { return f == nil })
	for _, g := range e.gates {
		if g.fleet != nil {
			_ = few.Index(&fleets, g.fleet)
		}
	}
	out.Fleets = few.Map(fleets, (*Fleet).state)
	for _, x := range slices.Concat(e.outer, e.inner) {
		out.Gates = append(out.Gates, inspected(x)...)
	}
	return out
}

// inspected is what x says of itself, if it does.
func inspected(x Interceptor) (list []GateState) {
	defer func() {
		if recover() != nil {
			list = nil
		}
	}()
	i, ok := x.(interface{ Inspect() []GateState })
	if !ok {
		return nil
	}
	return few.Map(i.Inspect(), func(g GateState) GateState { g.Kind = "layer"; return g })
}

// readAtOnce is how many cells and lanes a snapshot reads under one hold of the lock.
const readAtOnce = 200

// read begins to read what e's stage counts.
func (e *Executor) read() *survey.Reading {
	cores := slices.Clone(e.gates)
	for _, t := range e.registry.current() {
		cores = append(cores, &t.shared.core)
	}
	sources := few.Map(cores, func(g *gateCore) survey.Source {
		return survey.Source{Stage: g.stage, Limits: func() []survey.Limit { return g.limits }}
	})
	var names *survey.Names
	if slices.ContainsFunc(e.gates, func(g *gateCore) bool {
		return slices.ContainsFunc(g.limits, func(l survey.Limit) bool { return l.Scope.Names() != nil })
	}) {
		names = e.names()
	}
	return survey.New(e.stage, sources, names)
}

// names is the tools, and their types, that the executors of e's domain can call.
func (e *Executor) names() *survey.Names {
	n := &survey.Names{Tools: make(map[string]bool), Types: make(map[string]bool)}
	for _, c := range append(e.registry.stage.Clients(), (*inDomain)(e)) {
		for name, t := range executorOf(c).registry.current() {
			n.Tools[name], n.Types[t.spec.Type] = true, true
		}
	}
	return n
}

// gateState is c for users.
func gateState(c survey.Cell) GateState {
	g := GateState{
		Name: c.Name, Kind: c.Kind.String(), Scope: c.Scope, Key: c.Key, Unmatched: c.Unmatched,
		Limit: c.Limit, Used: c.Used, Waiting: c.Waiting, Paused: c.Paused, Stalled: c.Stalled, Ordered: c.Ordered, Until: c.Until, Full: c.Full,
	}
	if c.Kind == admit.Breaker {
		g.State = breakerState(c.State)
	}
	return g
}

// Change is a change to one component, made by its Change method and applied, and checked, by [Reconfigure].
type Change struct{ impl change.Change }

// Reconfigure applies all changes at one instant, or none: calls that wait feel it at once, and none
// is admitted by half of it. Events name by as who changed it. An error says which change is not
// possible, and why. It does not wait for calls, and is safe for concurrent use.
func Reconfigure(by string, changes ...Change) error {
	list := make([]change.Change, len(changes))
	for i, c := range changes {
		list[i] = c.impl
	}
	return change.All(by, list)
}

// NewChange is the change of a component of your own: check, which may be nil, says why it cannot be, and
// apply makes it, when all changes are possible, right after those of the library. Both run on the
// goroutine of [Reconfigure], outside locks. Of one component, a pointer as a rule, there may be one change.
func NewChange(component any, check func() error, apply func()) Change {
	return Change{change.Own(component, check, apply)}
}

// configChange is the change of a gate, or of the scheduler, to another configuration.
func configChange[C interface{ complete() (C, error) }](
	gate any, g *gateCore, conf *C, to C, fits func(C, *C) error, turn func(lk *change.Locked, s *stage.Stage, now int64, was, to C),
) Change {
	return Change{&change.Config[C]{
		Of: gate, Ref: g.stage, Mu: &g.mu, Conf: conf, To: to, Complete: C.complete, Fits: fits, Turn: turn,
	}}
}

// policyChange is the change of a tool's policy.
type policyChange struct {
	r    *ToolRegistry
	name string
	to   Policy
	own  rules.Tool  // of to
	tool *toolShared // that the check found
}

func (x *policyChange) Target() any { return [...]any{x.r, x.name} }

func (x *policyChange) Check() (err error) {
	if x.r == nil {
		return errors.New("sluice: WithPolicy: the ToolRegistry is nil")
	}
	t := x.r.current()[x.name]
	if t == nil {
		return errtext.Unregistered("WithPolicy: ", x.name, x.r.current(), "must be")
	}
	x.tool = t.shared
	x.own, err = x.to.complete(x.name)
	return err
}

func (x *policyChange) Refs() []*stage.Ref { return []*stage.Ref{x.tool.core.stage} }

func (x *policyChange) Apply(lk *change.Locked) {
	_ = x.r.tools.Change(x.name, func(was *tool) (*tool, error) {
		if was == nil || was.shared != x.tool {
			return was, nil // removed or replaced meanwhile: there is nothing to change
		}
		t := *was
		t.spec.Policy, t.own = x.to, x.own
		core := &t.shared.core
		s := lk.Stage(core.stage)
		turn := rules.ToolChange{Machine: s.M, Now: lk.Now, ID: t.shared.id, Cost: t.shared.learned.Estimate,
			Changed: func(name, from, to string) { lk.Changed(s, name, from, to) }}
		core.limits = turn.Apply(&was.own, &t.own, core.limits)
		return &t, nil
	})
}

// gateCore is what gates, and the tools' own policies, have in common: the constraints they
// put on calls. Gates decide whether a call may start now: concurrency limiters, rate limiters
// and circuit breakers. Those that an executor lists, with the priority scheduler, are one
// admission stage. There are no others: foreign code would run under the stage's lock.
type gateCore struct {
	name   string     // shown in Plan; empty in a component that no New function made
	stage  *stage.Ref // of a tool's policy, its registry's
	limits []rules.Limit
	fleet  *Fleet // nil without one; never changes

	mu sync.Mutex // guards the owner's configuration
}

// coreOf is x's if x itself is a gate or the scheduler. What only has one inside, as a struct
// that embeds it, is an interceptor like any other.
func coreOf(x Interceptor) *gateCore {
	switch g := x.(type) {
	case *ConcurrencyLimiter:
		return &g.core
	case *RateLimiter:
		return &g.core
	case *CircuitBreaker:
		return &g.core
	case *PriorityScheduler:
		return &g.core
	}
	return nil
}

// limit reports whether g limits calls of a tool, as far as their keys are not needed to know
// it. A scheduler orders those of all.
func (g *gateCore) limit(tool *Spec) bool {
	return len(g.limits) == 0 || slices.ContainsFunc(g.limits, func(l rules.Limit) bool {
		_, applies := l.Scope.Fixed(tool.Name, tool.Type)
		return applies
	})
}

// component is what the type of a gate is called in errors.
func component(gate Interceptor) string { return reflect.TypeOf(gate).Elem().Name() }

// nameOf is the name of a gate, which may be nil.
func nameOf(gate Interceptor) string {
	if isNil(gate) {
		return "nil"
	}
	return coreOf(gate).name
}

// outside is the Handler of a gate's Wrap. It decides nothing there: alone it would be a
// second place to wait, and hold what it took while its calls wait at the first.
func outside(gate Interceptor) Handler {
	return func(_ context.Context, c Call) (Result, error) {
		return Result{}, &Error{Tool: c.Tool, CallID: c.ID, Reason: ErrRejected, By: nameOf(gate),
			Cause: fmt.Errorf("sluice: the Wrap of %s %q was called by hand, or by a struct that embeds it: list it itself in Config.Interceptors, beside the other gates",
				component(gate), nameOf(gate))}
	}
}

// withCells runs f on the cells that a gate has for key, made if need be, under the stage's lock;
// without make there may be none.
func withCells(gate Interceptor, key string, make bool, f func(*stage.Stage, []*admit.Cell)) error {
	if isNil(gate) {
		return fmt.Errorf("sluice: the %s is nil: must be made by its New function", component(gate))
	}
	g := coreOf(gate)
	if g.name == "" {
		return fmt.Errorf("sluice: the %s is a zero value: must be made by its New function", component(gate))
	}
	return (&stage.Gate{Type: component(gate), Name: g.name, Ref: g.stage, Limits: g.limits}).Cells(key, make, f)
}

// Has reports whether e's registry has a tool of that name, or with ByType one of that type.
func (e *inDomain) Has(k rules.Kind, key string) bool {
	tools := e.registry.current()
	if k == rules.ByTool {
		return tools[key] != nil
	}
	for _, t := range tools {
		if t.spec.Type == key {
			return true
		}
	}
	return false
}

// isNil also finds a nil pointer of one of the library's own components.
func isNil(x Interceptor) bool {
	switch x.(type) {
	case nil:
		return true
	case *ConcurrencyLimiter, *RateLimiter, *CircuitBreaker, *PriorityScheduler, InterceptorFunc:
		return reflect.ValueOf(x).IsNil()
	}
	return false
}

// inDomain is an executor as its domain sees it.
type inDomain Executor

// executorOf is who a domain knows as c.
func executorOf(c stage.Client) *Executor { return (*Executor)(c.(*inDomain)) }

// Members is what ties it to other executors.
func (e *inDomain) Members() []stage.Member { return e.members }

// Names is those of its gates and its scheduler.
func (e *inDomain) Names() []string {
	var names []string
	for _, x := range e.conf.Interceptors {
		if c := coreOf(x); c != nil {
			names = append(names, c.name)
		}
	}
	return names
}
