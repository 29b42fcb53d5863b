package sluice

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/rules"
)

// Snapshot is the state of an executor at one instant, ready for JSON.
type Snapshot struct {
	At              time.Time   `json:"at"`
	InFlight        int         `json:"in_flight"` // admitted calls of the stage whose code has not ended
	Queued          int         `json:"queued"`
	Abandoned       int         `json:"abandoned"` // of those in flight: nobody waits for them any more
	Completed       uint64      `json:"completed"`
	Failed          uint64      `json:"failed"`
	Denied          uint64      `json:"denied"`
	EventsDelivered uint64      `json:"events_delivered"`
	EventsDropped   uint64      `json:"events_dropped"` // refused by a failing or panicking sink, or beyond a bound
	Gates           []GateState `json:"gates"`
	Lanes           []LaneState `json:"lanes"`
}

// GateState is one constraint under one key. For rates Limit is the burst and Used what is
// missing of it, more than Limit in debt.
type GateState struct {
	Name    string       `json:"name"`
	Kind    GateKind     `json:"kind"`
	Scope   string       `json:"scope"` // what it counts by, such as "per tool"
	Key     string       `json:"key,omitempty"`
	Limit   int64        `json:"limit,omitempty"` // zero means none
	Used    int64        `json:"used"`
	Waiting int          `json:"waiting"`        // calls whose turn it is here first
	State   BreakerState `json:"state,omitzero"` // of a breaker
	Paused  bool         `json:"paused,omitempty"`
	Stalled bool         `json:"stalled,omitempty"` // a limit that has released nothing for a minute or more while calls wait
	Until   time.Time    `json:"until,omitzero"`    // when State may change by itself, or the pause ends

	// Unmatched is the names of a ForTool or ForType scope that no registered tool has. If it is
	// all of them the limit holds for nobody: a name may be misspelt.
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
		return fmt.Errorf("sluice: GateKind is %q: must be one of %q", cut(string(text), maxName), gateKinds)
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

// LaneState is one lane of the queue: calls that wait in one line, for one constraint. There is
// one for each combination of Tool, Tenant, Priority, By and Key.
type LaneState struct {
	Tool     string        `json:"tool"`
	Tenant   string        `json:"tenant,omitempty"`   // of its calls, whether a scheduler heeds it or not
	Priority Priority      `json:"priority,omitempty"` // so too
	Waiting  int           `json:"waiting"`
	Oldest   time.Duration `json:"oldest_ns"`     // how long the first of them has waited
	By       string        `json:"by"`            // the constraint that its first call waits for
	Key      string        `json:"key,omitempty"` // of that
}

// Snapshot is the state of the whole admission stage, which executors that share a registry, a
// gate or a scheduler have in common, with every key. InFlight and Queued are of one instant,
// and so is everything else where there are at most 1,000 keys and lanes; of more, each further
// thousand is read some microseconds later, so that calls get in between.
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
	for _, reg := range append(e.registry.stage.registries(), e.registry) {
		for name, t := range reg.current().tools {
			tools[name], types[t.spec.Type] = true, true
		}
	}
	return tools, types
}

// next reads on under one hold of the lock, up to n cells and lanes, and reports whether there
// are more.
func (r *reading) next(n int) bool {
	s := r.e.stage.lock()
	now := s.now()
	if !r.begun {
		r.begun = true
		r.snap.At = s.clock.Time(now)
		r.snap.InFlight, r.snap.Queued = s.m.Running(), s.m.Waiting()
		r.snap.EventsDropped += s.lost
		r.lanes = s.m.LaneCount()
	}
	for n > 0 && len(r.cores) > 0 {
		if x := r.cores[0].stage.p.Load(); x != s { // e is closed: its gates may have gone elsewhere
			s.unlock()
			s = r.cores[0].stage.lock()
			r.core(s, s.now(), n)
			s.unlock()
			return true
		}
		n = r.core(s, now, n)
	}
	if n > 0 && r.lanes > 0 {
		r.laneRows, r.lanes = s.m.LaneBatch(r.laneRows[:0], r.lanes, n)
		for _, l := range r.laneRows {
			r.lane(s, now, l)
		}
	}
	more := len(r.cores) > 0 || r.lanes > 0
	s.unlock()
	return more
}

// core reads on at the first of r's cores, and answers how many of n cells are left to read.
func (r *reading) core(s *stage, now int64, n int) int {
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
func (r *reading) limit(s *stage, now int64, l gateLimit, n int) int {
	first := r.from == 0
	if first {
		s.m.Prune(now, l.class)
		r.from = l.class.Len()
	}
	r.cells, r.from = l.class.Batch(r.cells[:0], r.from, n)
	if first && r.from > 0 {
		r.seen = make(map[string]int)
	}
	unmatched := r.unmatched(l.scope)
	for _, c := range r.cells {
		g := s.gateState(now, c)
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
		g := s.gateState(now, s.m.Peek(now, l.class, ""))
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
func (r *reading) lane(s *stage, now int64, l admit.Lane) {
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
		Tool:    planOf(l.Owner).tool.spec.Name,
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
	slices.SortFunc(snap.Gates, func(a, b GateState) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Key, b.Key)) })
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

func (s *stage) gateState(now int64, c *admit.Cell) GateState {
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
		g.Until = s.clock.Time(until)
	}
	return g
}

// Explain says what [Executor.Invoke] would do now, and runs no tool: Refusal if it would
// be refused, Waits with an estimate if it would wait, neither if it would start. It goes the
// way that Invoke goes up to the decision, but for the interceptors: it compiles the tool's
// chain, decodes the arguments, asks the tool's Check, key and cost functions, and refuses what
// Invoke would refuse. It changes nothing, makes and evicts no key, and takes a token from
// nobody. The estimate for a rate is exact as long as nobody comes or leaves; for slots it
// follows from how long calls held them lately, and is zero before the first. It does not
// wait, unless an interceptor's Wrap blocks, which ends with ctx.
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
	defer s.unlock()
	defer s.m.Free(t)
	d.Costs = costsOf(nil, t)
	f := s.m.Forecast(now, t)
	if f.Refusal.Reason != admit.NoReason {
		return d, a.refusal(s, c.inv, t, f.Refusal)
	}
	if f.By != nil {
		d.Place, d.Wait = f.Place, time.Duration(f.Wait)
		d.Waits = []Wait{{f.By.Class().Name, d.Wait}}
	}
	return d, nil
}
