package sluice

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
)

// Snapshot is the state of an executor at one instant, ready for JSON.
type Snapshot struct {
	At              time.Time   `json:"at"`
	InFlight        int         `json:"in_flight"` // admitted calls of the stage whose code has not ended
	Queued          int         `json:"queued"`
	Abandoned       int         `json:"abandoned"` // of those in flight: out of time, nobody waits for them
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
	Until   time.Time    `json:"until,omitzero"` // when State may change by itself, or the pause ends
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

// LaneState is one lane of the queue: calls that wait in one line.
type LaneState struct {
	Tool     string        `json:"tool"`
	Tenant   string        `json:"tenant,omitempty"`
	Priority Priority      `json:"priority"`
	Waiting  int           `json:"waiting"`
	Oldest   time.Duration `json:"oldest_ns"`
	By       string        `json:"by"` // the constraint that its first call waits for
}

// Snapshot is the state of everything at one instant: of the whole admission stage, which
// executors that share a gate have in common. It does not block calls for longer than
// reading takes, and includes every key.
func (e *Executor) Snapshot() Snapshot {
	snap := Snapshot{
		Completed:       e.completed.Load(),
		Failed:          e.failed.Load(),
		Denied:          e.denied.Load(),
		Abandoned:       int(e.abandoned.Load()),
		EventsDelivered: e.delivered.Load(),
		EventsDropped:   e.dropped.Load(),
		Gates:           []GateState{},
		Lanes:           []LaneState{},
	}
	tools := e.registry.current().tools
	s := e.stage.lock()
	defer s.unlock()
	now := s.now()
	snap.At = s.clock.time(now)
	snap.InFlight, snap.Queued = s.m.Running(), s.m.Waiting()
	snap.EventsDropped += s.lost
	cores := make([]*gateCore, 0, len(e.gates)+len(tools))
	for _, g := range e.gates {
		cores = append(cores, g.gate())
	}
	for _, t := range tools {
		if t.shared.core.stage.p.Load().is(s) {
			cores = append(cores, &t.shared.core)
		}
	}
	for _, g := range cores {
		for _, l := range g.limits {
			for _, c := range l.class.Cells() {
				state := s.gateState(now, c)
				state.Scope = l.scope.String()
				snap.Gates = append(snap.Gates, state)
			}
		}
	}
	slices.SortFunc(snap.Gates, func(a, b GateState) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Key, b.Key)) })
	for l := range s.m.Lanes() {
		snap.Lanes = append(snap.Lanes, LaneState{
			Tool:     planOf(l.Owner).tool.spec.Name,
			Tenant:   l.Tenant,
			Priority: Priority(l.Level) + PriorityBatch,
			Waiting:  l.Waiting,
			Oldest:   time.Duration(now - l.Since),
			By:       l.At.Class().Name,
		})
	}
	slices.SortFunc(snap.Lanes, func(a, b LaneState) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Tool, b.Tool), cmp.Compare(a.Tenant, b.Tenant))
	})
	return snap
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
	if until := max(u.Paused, u.Until); until > now && until < admit.Never {
		g.Until = s.clock.time(until)
	}
	return g
}

// Explain says what [Executor.Invoke] would do now, and runs no tool: Refusal if it would
// be refused, Waits with an estimate if it would wait, neither if it would start. It asks
// the tool's key and cost functions, changes nothing, and takes a token from nobody. The
// estimate for a rate is exact as long as nobody comes or leaves; for slots it follows
// from how long calls held them lately, and is zero before the first.
func (e *Executor) Explain(ctx context.Context, r Request) Decision {
	inv := newInvocation()
	inv.identify(ctx, e, &r)
	var c Call
	inv.call(&c)
	err := inv.barred(!e.closed(), inv.root().calls.Load()+1)
	if err == nil && (r.Input != nil || len(r.Args) > 0) {
		if c.Input, err = inv.plan.tool.input(&r, e.conf.MaxArgBytes); err != nil {
			err = inv.refused(ErrInvalidArguments, "", err)
		}
	}
	var d Decision
	if err == nil {
		d, err = inv.plan.adm.explain(ctx, &c)
	}
	if err != nil {
		d.Refusal, _ = asError[*Error](err)
	}
	return d
}

func (a *admission) explain(ctx context.Context, c *Call) (d Decision, err error) {
	var q asked
	if a.needs == nil {
		if err := a.ask(c, &q); err != nil {
			return d, err
		}
	}
	deadline, bounded := ctx.Deadline()
	s := a.stage.lock()
	defer s.unlock()
	now := s.now()
	t, err := a.ticket(s, c, &q, now, (*admit.Machine).Peek)
	if err != nil {
		return d, err
	}
	defer s.m.Free(t)
	if bounded {
		s.deadline(t, deadline)
	}
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
