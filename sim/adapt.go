package sim

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/bucket"
)

// This file makes of public components what the state machine understands, as the root
// package does of the same components.

// constraint is one limit, rate or breaker: its cells and what they count by.
type constraint struct {
	class *admit.Class
	scope sluice.Scope
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
	busy    int              // calls that the backend works on
	learned map[string]int64 // what calls turned out to use
}

// firstInFirstOut is the order without a scheduler.
var firstInFirstOut = admit.Policy{Ageing: 8, Claim: 4, MaxQueue: 1000, MaxPerTenant: 1000}

func newWorld(c *Config) (*world, error) {
	w := &world{client: admit.NewClient(), policy: firstInFirstOut, tools: make(map[string]*tool)}
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
				Ageing:       conf.Ageing,
				Claim:        firstInFirstOut.Claim,
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
	}
	for _, t := range w.tools { // each has what is its own and what applies of the gates
		for _, k := range gates {
			if _, counts := k.fixed(&t.Spec); counts {
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
		return limits(g.Config()), nil
	case *sluice.RateLimiter:
		if g == nil || len(g.Config().Rates) == 0 && g.Config().Limiter == nil {
			return nil, notMade(field, "RateLimiter")
		}
		return rates(g.Config())
	case *sluice.CircuitBreaker:
		if g == nil || g.Config().Cooldown == 0 {
			return nil, notMade(field, "CircuitBreaker")
		}
		c := g.Config()
		return []*constraint{circuit(label("breaker", c.Name), c)}, nil
	}
	return nil, fmt.Errorf("sim: %s is a %T: must be a ConcurrencyLimiter, RateLimiter, CircuitBreaker or PriorityScheduler", field, g)
}

func limits(c sluice.ConcurrencyLimiterConfig) (out []*constraint) {
	prefix := label("concurrency", c.Name)
	for _, l := range c.Limits {
		name := prefix
		if l.Unit != "" {
			name += " " + l.Unit
		}
		k := &constraint{class: &admit.Class{
			Name:    name + " " + l.Scope.String(),
			Kind:    admit.Slots,
			Rank:    rank(l.Scope),
			Unit:    l.Unit,
			Refuse:  l.Refuse,
			MaxKeys: tableSize(l.Scope, l.MaxKeys),
			Limit:   int64(l.Max),
		}, scope: l.Scope, max: int64(l.Max)}
		if a := l.Adaptive; a != nil {
			k.class.Adaptive = &admit.Adaptive{Min: int64(a.Min), Max: int64(a.Max)}
			k.class.Limit, k.max = int64(a.Min), int64(a.Max)
		}
		out = append(out, k)
	}
	return out
}

func rates(c sluice.RateLimiterConfig) (out []*constraint, err error) {
	prefix, list := label("rate", c.Name), c.Rates
	if c.Limiter != nil {
		if math.IsInf(float64(c.Limiter.Limit()), 1) || float64(c.Limiter.Limit()) == math.MaxFloat64 {
			return nil, nil
		}
		list = []sluice.Rate{{N: max(1, int64(float64(c.Limiter.Limit())*1000)), Per: 1000 * time.Second, Burst: int64(max(1, c.Limiter.Burst()))}}
	}
	for _, r := range list {
		k, err := quota(prefix, r)
		if err != nil {
			return nil, err
		}
		if c.Limiter != nil {
			k.class.Name = prefix + " shared limiter"
		}
		k.scope = c.Scope
		k.class.Rank, k.class.Refuse, k.class.Upstream = rank(c.Scope), c.Refuse, c.Upstream
		k.class.MaxKeys = tableSize(c.Scope, c.MaxKeys)
		out = append(out, k)
	}
	return out, nil
}

// quota is one rate. Its name says what it counts, as the rate's own String does.
func quota(prefix string, r sluice.Rate) (*constraint, error) {
	b, err := bucket.NewRate(r.N, int64(r.Per), r.Burst)
	if err != nil {
		return nil, err
	}
	what := strings.TrimLeft(r.String(), "0123456789")
	what = what[:strings.LastIndex(what, ", burst")]
	return &constraint{class: &admit.Class{Name: prefix + what, Kind: admit.Tokens, Unit: r.Unit, Rate: &b}, rate: r}, nil
}

func circuit(name string, c sluice.CircuitBreakerConfig) *constraint {
	return &constraint{class: &admit.Class{
		Name:    name,
		Kind:    admit.Breaker,
		Rank:    rank(c.Scope),
		MaxKeys: tableSize(c.Scope, c.MaxKeys),
		Breaker: &breaker.Config{
			Failures: c.Failures,
			Ratio:    c.Ratio,
			MinCalls: c.MinCalls,
			Window:   int64(c.Window),
			Cooldown: int64(c.Cooldown),
			Lease:    int64(c.Lease),
			Probes:   c.Probes,
		},
	}, scope: c.Scope}
}

// tool has the root package check and complete the spec, and takes it from there.
func (w *world) tool(from *Tool, c *Config, plan uint64) (*tool, error) {
	r := sluice.NewToolRegistry()
	if _, err := sluice.Register(r, from.Spec, func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, nil }); err != nil {
		return nil, err
	}
	t := &tool{Tool: *from, plan: &admit.Plan{Tool: plan, Client: w.client}, learned: make(map[string]int64)}
	t.Spec, _ = r.Lookup(from.Spec.Name)
	p := &t.Spec.Policy
	p.Timeout, p.MaxWait = cmp.Or(p.Timeout, c.Timeout), cmp.Or(p.MaxWait, c.MaxWait)
	name := "tool/" + t.Spec.Name
	slots := &constraint{class: &admit.Class{Name: name + " concurrency", Kind: admit.Slots, Limit: admit.Unlimited}, scope: sluice.Global, max: admit.Unlimited}
	if p.Concurrency > 0 {
		slots.class.Limit, slots.max = int64(p.Concurrency), int64(p.Concurrency)
	}
	t.own = []*constraint{slots} // first, see tool.slots
	for _, r := range p.Rates {
		k, err := quota(name, r)
		if err != nil {
			return nil, err
		}
		k.scope = sluice.Global
		t.own = append(t.own, k)
	}
	if p.Breaker != nil {
		b := *p.Breaker
		b.Scope = sluice.Global
		k := circuit(name+" breaker", b)
		k.class.Rank = 0
		t.own = append(t.own, k)
	}
	w.constraints = append(w.constraints, t.own...)
	return t, nil
}

// fixed is the key under which every call of the tool counts, and whether any counts at
// all; of a keyed constraint each call has to be asked.
func (k *constraint) fixed(s *sluice.Spec) (key string, counts bool) {
	if k.keyed() {
		return "", true
	}
	return k.scope.Key(*s, sluice.Call{Tool: s.Name, Type: s.Type})
}

func (k *constraint) keyed() bool { return keyed(k.scope) }

// metered reports whether calls can need other amounts than one.
func (k *constraint) metered() bool {
	return k.class.Kind == admit.Tokens || k.class.Kind == admit.Slots && k.class.Unit != ""
}

// rank orders scopes from narrow to wide. Those with names are told by their text.
func rank(s sluice.Scope) uint8 {
	switch {
	case s == sluice.ByTool:
		return 0
	case s == sluice.ByTenant:
		return 2
	case s == sluice.ByType:
		return 4
	case strings.HasPrefix(s.String(), "tool "):
		return 1
	case strings.HasPrefix(s.String(), "per "):
		return 3
	case strings.HasPrefix(s.String(), "type "):
		return 5
	}
	return 7
}

func keyed(s sluice.Scope) bool { return rank(s) == 2 || rank(s) == 3 }

func tableSize(s sluice.Scope, keys int) int {
	if keyed(s) {
		return keys
	}
	return 0
}

func label(kind, name string) string {
	if name == "" || name == kind {
		return kind
	}
	return kind + "/" + name
}
