package sluice

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/enum"
	"github.com/sluice-go/sluice/internal/ids"
	"github.com/sluice-go/sluice/internal/nameof"
	"github.com/sluice-go/sluice/internal/record"
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
	t := e.registry.current().tools[tool]
	if t == nil {
		return "", false
	}
	if e.plan(tool) == nil && !e.wraps() {
		e.compile(context.Background(), tool) // and Snapshot shows its limits from now on
	}
	var parts []string
	for _, x := range e.outer {
		parts = append(parts, interceptorName(x))
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
	if len(names) > 0 {
		parts = append(parts, "admit["+strings.Join(names, " ")+"]")
	}
	for _, x := range e.inner {
		parts = append(parts, interceptorName(x))
	}
	return strings.Join(append(parts, t.spec.Name), " → "), true
}

// interceptorName is x's own name, if it has one and says it in time, else its type's.
func interceptorName(x Interceptor) string {
	if f, ok := x.(InterceptorFunc); ok {
		return nameof.Func(f)
	}
	return nameof.Value(x)
}

// Decision is how a call was admitted, or would be ([Executor.Explain]). It is a value, and marshals
// itself.
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
	type waitJSON struct {
		By string  `json:"by"`
		MS float64 `json:"ms"`
	}
	out := struct {
		Refusal   *Error     `json:"refusal,omitempty"`
		WaitMS    float64    `json:"wait_ms"`
		Waits     []waitJSON `json:"waits,omitempty"`
		Place     int        `json:"place,omitempty"`
		Overtaken int        `json:"overtaken,omitempty"`
		Attempts  int        `json:"attempts,omitempty"`
		Costs     []Cost     `json:"costs,omitempty"`
	}{d.Refusal, millis(d.Wait), nil, d.Place, d.Overtaken, d.Attempts, d.Costs}
	for _, w := range d.Waits {
		out.Waits = append(out.Waits, waitJSON{w.By, millis(w.For)})
	}
	return json.Marshal(out)
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Explain forecasts what [Executor.Invoke] would do now: Refusal if it would refuse, Waits with an
// estimate if it would wait. It decodes the arguments, asks the tool's Check, key and cost functions,
// and runs no tool and no interceptor. It changes nothing and waits only for an interceptor's Wrap,
// until ctx ends. For a rate the estimate is exact if nobody comes or leaves; for slots it is by
// how long calls held them lately, zero before the first.
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
	c.inv = inv
	if err = inv.resolve(ctx, &c, r, !e.closed(), depth, calls); err == nil {
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
	d.Costs = costs(record.Costs(nil, t.Needs(), nil))
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
	d := Decision{Wait: x.Wait, Place: int(x.Place), Overtaken: int(x.Overtaken), Attempts: int(x.Attempts), Costs: costs(x.Costs)}
	d.Waits = make([]Wait, len(x.Waits))
	for i, w := range x.Waits {
		d.Waits[i] = Wait(w)
	}
	slices.SortStableFunc(d.Waits, func(a, b Wait) int { return cmp.Compare(b.For, a.For) })
	return d
}

// costs is list for users; nil stays nil.
func costs(list []record.Cost) []Cost {
	if list == nil {
		return nil
	}
	out := make([]Cost, len(list))
	for i, c := range list {
		out[i] = Cost(c)
	}
	return out
}

// Snapshot is the state of an executor.
type Snapshot struct {
	At              time.Time   `json:"at"`
	InFlight        int         `json:"in_flight"` // their code has not ended
	Queued          int         `json:"queued"`
	Abandoned       int         `json:"abandoned"` // in flight, and nobody waits for them
	Completed       uint64      `json:"completed"`
	Failed          uint64      `json:"failed"`
	Denied          uint64      `json:"denied"`
	EventsDelivered uint64      `json:"events_delivered"`
	EventsDropped   uint64      `json:"events_dropped"` // by sinks that fail, or beyond a bound
	Gates           []GateState `json:"gates"`
	Lanes           []LaneState `json:"lanes"`
}

// GateState is one constraint under one key.
type GateState struct {
	Name      string       `json:"name"`
	Kind      GateKind     `json:"kind"`
	Scope     string       `json:"scope"` // as "per tool"
	Key       string       `json:"key,omitempty"`
	Limit     int64        `json:"limit,omitempty"` // of a rate Burst; zero means none
	Used      int64        `json:"used"`            // of a rate what is missing, over Limit in debt
	Waiting   int          `json:"waiting"`         // calls that wait here first
	State     BreakerState `json:"state,omitzero"`  // of a breaker
	Paused    bool         `json:"paused,omitempty"`
	Stalled   bool         `json:"stalled,omitempty"`   // see LimitStalled
	Until     time.Time    `json:"until,omitzero"`      // of an open State or a pause
	Unmatched []string     `json:"unmatched,omitempty"` // names in Scope that no registered tool has
}

// GateKind says what a constraint is.
type GateKind uint8

const (
	GateConcurrency   GateKind = iota // calls or weight in flight
	GateRate                          // starts or cost over time
	GateBreaker                       // outcomes
	GateSharedLimiter                 // RateLimiterConfig.Limiter
	GateLayer                         // what an interceptor says of itself
)

var gateKinds = enum.Names[GateKind]{Type: "GateKind", List: []string{"concurrency", "rate", "breaker", "shared limiter", "layer"}}

// String is "concurrency", "rate", "breaker", "shared limiter" or "layer".
func (k GateKind) String() string { return gateKinds.Text(k) }

// MarshalText is String.
func (k GateKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (k *GateKind) UnmarshalText(text []byte) error { return gateKinds.Read(text, k) }

// gateKind is k for users.
func gateKind(k admit.Kind) GateKind {
	return [...]GateKind{
		admit.Slots: GateConcurrency, admit.Tokens: GateRate, admit.Breaker: GateBreaker, admit.Foreign: GateSharedLimiter,
	}[k]
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

// Snapshot is the state of all executors that share a registry, a gate or a scheduler with e; the
// counters are e's alone. It is of one instant, but of Gates and Lanes each thousand after the first
// is read some microseconds later. Last in Gates stands what e's interceptors say of themselves, by a
// method Inspect() []GateState that does not wait; a panic says nothing.
func (e *Executor) Snapshot() Snapshot {
	if e.isMade() != nil {
		return Snapshot{Gates: []GateState{}, Lanes: []LaneState{}}
	}
	out := Snapshot{
		Failed: e.failed.Load(), Denied: e.denied.Load(),
		Abandoned: int(e.abandoned.Load()), EventsDropped: e.dropped.Load(),
	}
	out.Completed, out.EventsDelivered = e.census.Sums()
	r := e.read()
	for r.Next(readAtOnce) {
	}
	s := r.Done()
	out.At, out.InFlight, out.Queued = s.At, s.Running, s.Waiting
	out.EventsDropped += s.Lost
	out.Gates, out.Lanes = make([]GateState, len(s.Cells)), make([]LaneState, len(s.Lanes))
	for i, c := range s.Cells {
		out.Gates[i] = gateState(c)
	}
	for _, x := range slices.Concat(e.outer, e.inner) {
		out.Gates = append(out.Gates, inspected(x)...)
	}
	for i, l := range s.Lanes {
		out.Lanes[i] = LaneState{l.Tool, l.Tenant, Priority(l.Level) + PriorityBatch, l.Waiting, l.Oldest, l.By, l.Key}
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
	list = slices.Clone(i.Inspect())
	for n := range list {
		list[n].Kind = GateLayer
	}
	return list
}

// readAtOnce is how many cells and lanes a snapshot reads under one hold of the lock.
const readAtOnce = 1000

// read begins to read what e's stage counts.
func (e *Executor) read() *survey.Reading {
	cores := slices.Clone(e.gates)
	for _, t := range e.registry.current().tools {
		cores = append(cores, &t.shared.core)
	}
	sources := make([]survey.Source, len(cores))
	for i, g := range cores {
		sources[i] = survey.Source{Stage: g.stage, Limits: func() []survey.Limit { return slices.Clone(g.limits) }}
	}
	var names *survey.Names
	for _, g := range e.gates {
		if slices.ContainsFunc(g.limits, func(l survey.Limit) bool { return l.Scope.Names() != nil }) {
			names = e.names()
			break
		}
	}
	return survey.New(e.stage, sources, names)
}

// names is the tools, and their types, that the executors of e's domain can call.
func (e *Executor) names() *survey.Names {
	n := &survey.Names{Tools: make(map[string]bool), Types: make(map[string]bool)}
	for _, c := range append(e.registry.stage.Clients(), (*inDomain)(e)) {
		for name, t := range executorOf(c).registry.current().tools {
			n.Tools[name], n.Types[t.spec.Type] = true, true
		}
	}
	return n
}

func gateState(c survey.Cell) GateState {
	g := GateState{
		Name: c.Name, Kind: gateKind(c.Kind), Scope: c.Scope, Key: c.Key, Unmatched: c.Unmatched,
		Limit: c.Limit, Used: c.Used, Waiting: c.Waiting, Paused: c.Paused, Stalled: c.Stalled, Until: c.Until,
	}
	if g.Kind == GateBreaker {
		g.State = breakerState(c.State)
	}
	return g
}
