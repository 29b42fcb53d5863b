package sim

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/learned"
	"github.com/sluice-go/sluice/internal/rules"
)

// This file makes of public components what the state machine understands, by the rules that
// the root package makes it by.

// constraint is one limit, rate or breaker: its cells and what they count by.
type constraint struct {
	class *admit.Class
	scope rules.Scope
	index int // in world.constraints

	max    int64 // of slots, what an adaptive limit can grow to; admit.Unlimited if there is none
	rate   sluice.Rate
	shadow map[string]*shadow
}

// world is everything that does not move.
type world struct {
	policy      admit.Policy
	client      *admit.Client
	constraints []*constraint
	tools       map[string]*tool
}

// tool is a Tool and its own constraints; the first is its slots, limited or not.
type tool struct {
	Tool
	plan    *admit.Plan
	own     []*constraint
	busy    int // calls that the backend works on
	learned learned.Costs
}

func newWorld(c *Config) (*world, error) {
	w := &world{client: admit.NewClient(), policy: rules.FirstInFirstOut, tools: make(map[string]*tool)}
	var gates []*constraint
	scheduled, seen := false, make(map[sluice.Interceptor]bool)
	for i, g := range c.Gates {
		field := fmt.Sprintf("Config.Gates[%d]", i)
		if s, ok := g.(*sluice.PriorityScheduler); ok && s != nil {
			if scheduled {
				return nil, fmt.Errorf("sim: %s is a second PriorityScheduler: must be at most one", field)
			}
			scheduled = true
			conf := s.Config()
			if conf.MaxQueue == 0 {
				return nil, notMade(field, "PriorityScheduler")
			}
			w.policy = admit.Policy{
				Ordered:      true,
				Claim:        rules.Claim,
				Ageing:       conf.Ageing,
				MaxQueue:     conf.MaxQueue,
				MaxPerTenant: conf.MaxPerTenant,
				Shed:         conf.Shed,
				Standing:     conf.ShedStanding,
				RefuseLate:   conf.RefuseLate,
				Weights:      conf.TenantWeights,
			}
			continue
		}
		list, err := w.gate(field, g)
		if err != nil {
			return nil, err
		}
		if seen[g] {
			return nil, fmt.Errorf("sim: %s is listed twice: must be listed once", field)
		}
		seen[g] = true
		gates = append(gates, list...)
	}
	for i := range c.Tools {
		t, err := w.tool(&c.Tools[i], c, uint64(i+1))
		if err != nil {
			return nil, fmt.Errorf("sim: Config.Tools[%d]: %w", i, err)
		}
		w.tools[t.Spec.Name] = t
	}
	w.constraints = append(w.constraints, gates...)
	for i, k := range w.constraints {
		k.index, k.shadow = i, make(map[string]*shadow)
		k.class.ByPlan = false // tools do not come and go here
	}
	for _, t := range w.tools { // each has what is its own and what applies of the gates
		for _, k := range gates {
			if _, counts := k.scope.Fixed(t.Spec.Name, t.Spec.Type); counts {
				t.own = append(t.own, k)
			}
		}
		slices.SortStableFunc(t.own, func(a, b *constraint) int { return cmp.Compare(a.class.Order(), b.class.Order()) })
	}
	return w, nil
}

func notMade(field, what string) error {
	return fmt.Errorf("sim: %s is a %s that New%s has not made: must be made by it", field, what, what)
}

func (w *world) gate(field string, g sluice.Interceptor) ([]*constraint, error) {
	switch g := g.(type) {
	case *sluice.ConcurrencyLimiter:
		if g == nil || len(g.Config().Limits) == 0 {
			return nil, notMade(field, "ConcurrencyLimiter")
		}
		return limits(field, g.Config())
	case *sluice.RateLimiter:
		if g == nil || len(g.Config().Rates) == 0 && g.Config().Limiter == nil {
			return nil, notMade(field, "RateLimiter")
		}
		return rates(field, g.Config())
	case *sluice.CircuitBreaker:
		if g == nil || g.Config().Cooldown == 0 {
			return nil, notMade(field, "CircuitBreaker")
		}
		return circuit(g.Config()), nil
	}
	return nil, fmt.Errorf("sim: %s is a %T: must be a ConcurrencyLimiter, RateLimiter, "+
		"CircuitBreaker or PriorityScheduler",
		field, g)
}

// limits is what c bounds. A semaphore is taken to be used by nobody else.
func limits(field string, c sluice.ConcurrencyLimiterConfig) (out []*constraint, err error) {
	for _, l := range c.Limits {
		if rules.Scope(l.Scope).Several() {
			return nil, fmt.Errorf("sim: %s counts %v by several keys of a call: must be by one, as ByKey", field, l.Scope)
		}
		slots := rules.Slots{
			Scope: rules.Scope(l.Scope), Unit: l.Unit, Refuse: l.Refuse, Ordered: l.Ordered, Max: int64(l.Max), MaxKeys: l.MaxKeys,
		}
		most := slots.Max
		if a := l.Adaptive; a != nil {
			slots.Adaptive = &admit.Adaptive{Min: int64(a.Min), Max: int64(a.Max)}
			most = slots.Adaptive.Max
		}
		out = append(out, &constraint{class: slots.Class(c.Name), scope: slots.Scope, max: most})
	}
	return out, nil
}

func rates(field string, c sluice.RateLimiterConfig) (out []*constraint, err error) {
	list := c.Rates
	if l := c.Limiter; l != nil {
		perSecond := float64(l.Limit())
		switch {
		case math.IsInf(perSecond, 1) || perSecond == math.MaxFloat64:
			return nil, nil
		case !(perSecond > 0) || l.Burst() < 1:
			return nil, fmt.Errorf("sim: %s has a *rate.Limiter of limit %v and burst %d: both must be positive", field, perSecond, l.Burst())
		}
		list = []sluice.Rate{within(perSecond, int64(l.Burst()))}
	}
	quota := rules.Quota{
		Name: c.Name, Scope: rules.Scope(c.Scope), Refuse: c.Refuse, Upstream: c.Upstream, MaxKeys: c.MaxKeys,
	}
	for _, r := range list {
		b, err := rules.Rate(r).Bucket()
		if err != nil {
			return nil, fmt.Errorf("sim: %s: %w", field, err)
		}
		k := &constraint{class: quota.Class(rules.Rate(r), &b), scope: quota.Scope, rate: r}
		if c.Limiter != nil {
			k.class.Name = quota.Shared(nil).Name
		}
		out = append(out, k)
	}
	return out, nil
}

// within is a rate of so many a second, to a millionth.
func within(perSecond float64, burst int64) sluice.Rate {
	if perSecond <= 1000 {
		return sluice.Rate{N: 1, Per: time.Duration(min(math.Round(1e9/perSecond), 1<<62)), Burst: burst}
	}
	return sluice.Rate{N: int64(min(math.Round(1000*perSecond), 1<<53)), Per: 1000 * time.Second, Burst: burst}
}

func circuit(c sluice.CircuitBreakerConfig) []*constraint {
	scope, b := rules.Scope(c.Scope), rules.Breaker{
		Failures: c.Failures,
		Ratio:    c.Ratio,
		MinCalls: c.MinCalls,
		Window:   c.Window,
		Cooldown: c.Cooldown,
		Probes:   c.Probes,
		Lease:    c.Lease,
	}
	return []*constraint{{class: rules.Circuit(c.Name, scope, c.MaxKeys, b.Machine()), scope: scope}}
}

// tool has the root package check and complete the spec, and takes it from there.
func (w *world) tool(from *Tool, c *Config, plan uint64) (*tool, error) {
	r := sluice.NewToolRegistry()
	none := func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, nil }
	if _, err := sluice.Register(r, from.Spec, none); err != nil {
		return nil, err
	}
	t := &tool{Tool: *from, plan: &admit.Plan{Tool: plan, Client: w.client}}
	t.Spec, _ = r.Lookup(from.Spec.Name)
	p := &t.Spec.Policy
	p.Timeout, p.MaxWait = cmp.Or(p.Timeout, c.Timeout), cmp.Or(p.MaxWait, c.MaxWait)
	name, all := t.Spec.Name, rules.Of(rules.Global)
	slots := rules.ToolSlots(name, p.Concurrency)
	t.own = []*constraint{{class: slots, scope: all, max: slots.Limit}} // first, see tool.slots
	for _, r := range p.Rates {
		b, err := rules.Rate(r).Bucket()
		if err != nil {
			return nil, err
		}
		t.own = append(t.own, &constraint{class: rules.ToolRate(name, rules.Rate(r), &b), scope: all, rate: r})
	}
	if p.Breaker != nil {
		t.own = append(t.own, &constraint{class: rules.ToolBreaker(name, rules.Breaker(*p.Breaker).Machine()), scope: all})
	}
	w.constraints = append(w.constraints, t.own...)
	return t, nil
}

// metered reports whether calls can need other amounts than one.
func (k *constraint) metered() bool {
	return k.class.Kind == admit.Tokens || k.class.Kind == admit.Slots && k.class.Unit != ""
}
