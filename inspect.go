package sluice

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/nameof"
	"github.com/sluice-go/sluice/internal/record"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
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
	if t.spec.Policy.limits() {
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

func (p *Policy) limits() bool {
	return p.Concurrency > 0 || len(p.Rates) > 0 || p.Breaker != nil
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
// and runs no tool and no interceptor. It changes nothing, makes and evicts no key, and takes no
// token. The estimate is exact for a rate as long as nobody comes or leaves; for slots it follows
// from how long calls held them lately, and is zero before the first. It does not wait, unless an
// interceptor's Wrap blocks, until ctx ends.
func (e *Executor) Explain(ctx context.Context, r Request) Decision {
	if err, ok := e.unmade(&r).(*Error); ok {
		return Decision{Refusal: err}
	}
	if ctx == nil {
		ctx = noContext
	}
	inv := newInvocation()
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
	inv.identify(ctx, e, r)
	calls := int32(0)
	if inv.depth > 0 {
		calls = inv.root().calls.Load() + 1
	}
	var c Call
	inv.call(&c)
	if err = inv.resolve(ctx, &c, r, !e.closed(), calls); err == nil {
		d, err = inv.plan.adm.explain(ctx, &c)
	}
	normal = true
	return d, err
}

func (a *admission) explain(ctx context.Context, c *Call) (d Decision, err error) {
	var q asked
	if err := a.question(ctx, c, &q); err != nil {
		return d, err
	}
	now := c.inv.plan.exec.clock.Now()
	s, t, err := a.present(ctx, c, &q, now, (*admit.Machine).Peek)
	if err != nil {
		return d, err
	}
	defer s.Unlock()
	defer s.M.Free(t)
	d.Costs = costs(record.Costs(nil, t))
	f := s.M.Forecast(now, t)
	if f.Refusal.Reason != admit.NoReason {
		return d, a.refusal(s, c.inv, t, f.Refusal)
	}
	if f.By != nil {
		d.Place, d.Wait = f.Place, time.Duration(f.Wait)
		d.Waits = []Wait{{f.By.Class().Name, d.Wait}}
	}
	return d, nil
}

// Decision is how the call was admitted; zero if it did not wait and cost nothing of its own.
func (r Result) Decision() Decision {
	if r.rec == nil {
		return Decision{}
	}
	d := Decision{
		Wait:      r.rec.Wait,
		Place:     int(r.rec.Place),
		Overtaken: int(r.rec.Overtaken),
		Attempts:  int(r.rec.Attempts),
		Costs:     costs(r.rec.Costs),
	}
	d.Waits = make([]Wait, len(r.rec.Waits))
	for i, w := range r.rec.Waits {
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

// note writes what admission knows of the ticket of an attempt into the record of its call.
// The stage is locked.
func (a *admission) note(s *stage.Stage, inv *invocation, t *admit.Ticket, attempt int32) {
	if t.Place() == 0 && a.cost == nil && len(t.Settled()) == 0 {
		return
	}
	sum := inv.ownTotals()
	switch sum.rec {
	case record.Sealed: // the caller has it: an attempt that nobody waited for ends late
		return
	case nil:
		sum.rec = record.New()
	}
	sum.rec.Note(s.M, t, attempt)
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
	Name    string       `json:"name"`
	Kind    GateKind     `json:"kind"`
	Scope   string       `json:"scope"` // as "per tool"
	Key     string       `json:"key,omitempty"`
	Limit   int64        `json:"limit,omitempty"` // of a rate Burst; zero means none
	Used    int64        `json:"used"`            // of a rate what is missing, over Limit in debt
	Waiting int          `json:"waiting"`         // calls that wait here first
	State   BreakerState `json:"state,omitzero"`  // of a breaker
	Paused  bool         `json:"paused,omitempty"`
	Stalled bool         `json:"stalled,omitempty"` // see LimitStalled
	Until   time.Time    `json:"until,omitzero"`    // of an open State or a pause

	// Unmatched names of a ForTool or ForType scope are of no registered tool: misspelt?
	Unmatched []string `json:"unmatched,omitempty"`
}

// GateKind says what a constraint is.
type GateKind uint8

const (
	GateConcurrency   GateKind = iota // calls, or their weight, in flight
	GateRate                          // starts, or their cost, over time
	GateBreaker                       // outcomes
	GateSharedLimiter                 // starts, as RateLimiterConfig.Limiter counts them
)

var gateKinds = [...]string{"concurrency", "rate", "breaker", "shared limiter"}

// String is "concurrency", "rate", "breaker" or "shared limiter".
func (k GateKind) String() string {
	if int(k) < len(gateKinds) {
		return gateKinds[k]
	}
	return fmt.Sprintf("GateKind(%d)", uint8(k))
}

// MarshalText is String.
func (k GateKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (k *GateKind) UnmarshalText(text []byte) error {
	i := slices.Index(gateKinds[:], string(text))
	if i < 0 {
		return fmt.Errorf("sluice: GateKind is %q: must be one of %q", cut(string(text), 128), gateKinds)
	}
	*k = GateKind(i)
	return nil
}

func gateKind(k admit.Kind) GateKind {
	switch k {
	case admit.Tokens:
		return GateRate
	case admit.Breaker:
		return GateBreaker
	case admit.Foreign:
		return GateSharedLimiter
	}
	return GateConcurrency
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
// is read some microseconds later.
func (e *Executor) Snapshot() Snapshot {
	if e.isMade() != nil {
		return Snapshot{Gates: []GateState{}, Lanes: []LaneState{}}
	}
	r := e.read()
	for r.next(readAtOnce) {
	}
	return r.done()
}

// readAtOnce is how many cells and lanes a snapshot reads under one hold of the lock.
const readAtOnce = 1000

// reading is a snapshot in the making.
type reading struct {
	e     *Executor
	snap  Snapshot
	begun bool

	cores  []*gateCore // to read, the first of them is being read
	limits []gateLimit // of it
	from   int         // in the cells of the first of limits, from the end; 0 at the beginning
	seen   map[string]int
	cells  []*admit.Cell // scratch

	lanes     int // to read, from the end; 0 at the end
	lanesSeen map[uint64]bool
	laneRows  []admit.Lane // scratch

	tools, types map[string]bool // that are registered; nil if no scope asks for them
}

func (e *Executor) read() *reading {
	r := &reading{e: e, cores: slices.Clone(e.gates), snap: Snapshot{
		Completed:       e.completed.Load(),
		Failed:          e.failed.Load(),
		Denied:          e.denied.Load(),
		Abandoned:       int(e.abandoned.Load()),
		EventsDelivered: e.delivered.Load(),
		EventsDropped:   e.dropped.Load(),
		Gates:           []GateState{},
		Lanes:           []LaneState{},
	}}
	for _, t := range e.registry.current().tools {
		r.cores = append(r.cores, &t.shared.core)
	}
	for _, g := range e.gates {
		if slices.ContainsFunc(g.limits, func(l gateLimit) bool { return l.scope.Names() != nil }) {
			r.tools, r.types = e.names()
			break
		}
	}
	return r
}

// names is the tools, and their types, that the executors of e's domain can call.
func (e *Executor) names() (tools, types map[string]bool) {
	tools, types = make(map[string]bool), make(map[string]bool)
	for _, c := range append(e.registry.stage.Clients(), (*inDomain)(e)) {
		for name, t := range executorOf(c).registry.current().tools {
			tools[name], types[t.spec.Type] = true, true
		}
	}
	return tools, types
}

// next reads on under one hold of the lock, up to n cells and lanes, and reports whether there
// are more.
func (r *reading) next(n int) bool {
	s := r.e.stage.Lock()
	now := s.Now()
	if !r.begun {
		r.begun = true
		r.snap.At = s.Clock.Time(now)
		r.snap.InFlight, r.snap.Queued = s.M.Running(), s.M.Waiting()
		r.snap.EventsDropped += s.Lost()
		r.lanes = s.M.LaneCount()
	}
	for n > 0 && len(r.cores) > 0 {
		if !r.cores[0].stage.Leads(s) { // e is closed: its gates may have gone elsewhere
			s.Unlock()
			s = r.cores[0].stage.Lock()
			r.core(s, s.Now(), n)
			s.Unlock()
			return true
		}
		n = r.core(s, now, n)
	}
	if n > 0 && r.lanes > 0 {
		r.laneRows, r.lanes = s.M.LaneBatch(r.laneRows[:0], r.lanes, n)
		for _, l := range r.laneRows {
			r.lane(s, now, l)
		}
	}
	more := len(r.cores) > 0 || r.lanes > 0
	s.Unlock()
	return more
}

// core reads on at the first of r's cores, and answers how many of n cells are left to read.
func (r *reading) core(s *stage.Stage, now int64, n int) int {
	g := r.cores[0]
	if r.limits == nil {
		r.limits = g.limits
		n-- // so that many without cells are read in batches too
	}
	for len(r.limits) > 0 && n > 0 {
		n -= r.limit(s, now, r.limits[0], n)
	}
	if len(r.limits) == 0 {
		r.cores, r.limits = r.cores[1:], nil
	}
	return n
}

// limit reads up to n cells of l, which is done with then unless there are more. It answers how
// many it read.
func (r *reading) limit(s *stage.Stage, now int64, l gateLimit, n int) int {
	first := r.from == 0
	if first {
		s.M.Prune(now, l.class)
		r.from = l.class.Len()
	}
	r.cells, r.from = l.class.Batch(r.cells[:0], r.from, n)
	if first && r.from > 0 {
		r.seen = make(map[string]int)
	}
	unmatched := r.unmatched(l.scope)
	for _, c := range r.cells {
		g := gateState(s, now, c)
		g.Scope, g.Unmatched = l.scope.String(), unmatched
		if i, twice := r.seen[c.Key()]; twice {
			r.snap.Gates[i] = g
			continue
		}
		if r.seen != nil {
			r.seen[c.Key()] = len(r.snap.Gates)
		}
		r.snap.Gates = append(r.snap.Gates, g)
	}
	if len(r.cells) == 0 && first && unmatched != nil {
		g := gateState(s, now, s.M.Peek(now, l.class, ""))
		g.Scope, g.Unmatched = l.scope.String(), unmatched
		r.snap.Gates = append(r.snap.Gates, g)
	}
	if r.from == 0 {
		r.limits, r.seen = r.limits[1:], nil
	}
	return len(r.cells)
}

// unmatched is the names of a scope that nothing registered has.
func (r *reading) unmatched(s rules.Scope) []string {
	if r.tools == nil {
		return nil
	}
	has := r.tools
	if s.Kind() == rules.ForType {
		has = r.types
	}
	var out []string
	for _, n := range s.Names() {
		if !has[n] {
			out = append(out, n)
		}
	}
	return out
}

// lane notes a lane unless it has been read before. Nested calls have lanes of their own, and
// others may differ by what they need elsewhere; done makes one of those that look alike.
func (r *reading) lane(s *stage.Stage, now int64, l admit.Lane) {
	if r.lanesSeen[l.Born] {
		return
	}
	if r.lanesSeen == nil && r.lanes > 0 {
		r.lanesSeen = make(map[uint64]bool)
	}
	if r.lanesSeen != nil {
		r.lanesSeen[l.Born] = true
	}
	x := LaneState{
		Tool:    l.Tool,
		Tenant:  l.Tenant,
		Waiting: l.Waiting,
		Oldest:  time.Duration(now - l.Since),
		By:      l.At.Class().Name,
		Key:     l.At.Key(),
	}
	x.Priority = Priority(l.Level) + PriorityBatch
	r.snap.Lanes = append(r.snap.Lanes, x)
}

// done is what was read, in order.
func (r *reading) done() Snapshot {
	snap := r.snap
	slices.SortFunc(snap.Gates, func(a, b GateState) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Key, b.Key))
	})
	slices.SortFunc(snap.Lanes, LaneState.compare)
	lanes := snap.Lanes[:0]
	for _, l := range snap.Lanes {
		if n := len(lanes); n > 0 && lanes[n-1].compare(l) == 0 {
			lanes[n-1].Waiting += l.Waiting
			lanes[n-1].Oldest = max(lanes[n-1].Oldest, l.Oldest)
		} else {
			lanes = append(lanes, l)
		}
	}
	snap.Lanes = lanes
	return snap
}

func (l LaneState) compare(o LaneState) int {
	return cmp.Or(cmp.Compare(o.Priority, l.Priority), cmp.Compare(l.Tool, o.Tool), cmp.Compare(l.Tenant, o.Tenant),
		cmp.Compare(l.By, o.By), cmp.Compare(l.Key, o.Key))
}

func gateState(s *stage.Stage, now int64, c *admit.Cell) GateState {
	k := c.Class()
	u := c.Usage(now)
	g := GateState{Name: k.Name, Kind: gateKind(k.Kind), Key: c.Key(), Limit: u.Limit, Used: u.Used, Waiting: u.Waiting}
	if g.Limit == admit.Unlimited {
		g.Limit = 0
	}
	if k.Kind == admit.Breaker {
		g.State = breakerState(c.BreakerState(now))
	}
	g.Paused = u.Paused > now
	g.Stalled = u.Stalled
	if until := max(u.Paused, u.Until); until > now && until < admit.Never {
		g.Until = s.Clock.Time(until)
	}
	return g
}
