package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/sim"
)

// mix is what a file says: what to simulate, and under which policies.
type mix struct {
	title    string
	duration time.Duration
	seed     uint64
	maxCalls int
	tools    []sim.Tool
	traffic  []sim.Traffic
	policies []policy
}

// policy is one way to guard the tools.
type policy struct {
	name             string
	gates            []sluice.Interceptor
	maxWait, timeout time.Duration
	tools            map[string]sluice.Policy
}

// config is what to simulate under p.
func (m *mix) config(p *policy) sim.Config {
	tools := slices.Clone(m.tools)
	for i := range tools {
		tools[i].Spec.Policy = p.tools[tools[i].Spec.Name]
	}
	return sim.Config{Gates: p.gates, Tools: tools, Traffic: m.traffic, Duration: m.duration,
		MaxWait: p.maxWait, Timeout: p.timeout, Seed: m.seed, MaxCalls: m.maxCalls}
}

// read is the mix that a file says.
func read(file string) (*mix, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parse(file, data)
}

func parse(name string, data []byte) (*mix, error) {
	r := &reader{document: document{file: name, data: data}}
	if root := r.parse(); root != nil {
		r.mix(root)
	}
	if r.err != nil {
		return nil, r.err
	}
	return &r.out, nil
}

// reader reads a mix. A field is called as in packages sim and sluice, but in snake case.
type reader struct {
	document
	out          mix
	tools, types []string // that there are
	called       []func() // look whether what tools call is there, once all tools are known
}

func (r *reader) mix(n *node) {
	f := r.object(n)
	m := &r.out
	m.title = r.name(f.find("title"))
	if m.title == "" {
		m.title = "Policies compared"
	}
	m.duration = r.duration(f.need("duration"))
	if seed := f.find("seed"); seed != nil {
		v := r.whole(seed)
		if v < 0 {
			r.fail(seed, "is %d: must not be negative", v)
		}
		m.seed = uint64(v)
	}
	m.maxCalls = r.count(f.find("max_calls"))
	r.each(f.need("tools"), func(n *node) { m.tools = append(m.tools, r.tool(n)) })
	for _, look := range r.called {
		look()
	}
	r.each(f.need("traffic"), func(n *node) { m.traffic = append(m.traffic, r.stream(n)) })
	list := f.need("policies")
	r.each(list, func(n *node) { m.policies = append(m.policies, r.policy(n, len(m.policies))) })
	f.end()
	if r.err == nil && (len(m.policies) < 1 || len(m.policies) > len(looks)) {
		r.fail(list, "has %d entries: must have 1 or %d", len(m.policies), len(looks))
	}
	if len(m.policies) == 2 && m.policies[0].name == m.policies[1].name {
		r.fail(list.values[1], "has the name %s too: must have another", errtext.Quote(m.policies[1].name))
	}
}

func (r *reader) tool(n *node) (t sim.Tool) {
	f := r.object(n)
	t.Spec.Name, t.Spec.Type = r.name(f.need("name")), r.name(f.find("type"))
	if r.tools = append(r.tools, t.Spec.Name); t.Spec.Type != "" {
		r.types = append(r.types, t.Spec.Type)
	}
	if s := f.need("service"); s != nil {
		t.Service = dist(r, s, r.duration)
	}
	t.ErrorRate = r.number(f.find("error_rate"))
	r.each(f.find("outages"), func(n *node) {
		f := r.object(n)
		t.Outages = append(t.Outages, sim.Outage{From: r.duration(f.find("from")), For: r.duration(f.need("for")), After: r.times(f.find("after"))})
		f.end()
	})
	r.each(f.find("capacity"), func(n *node) {
		f := r.object(n)
		t.Capacity = append(t.Capacity, sim.Step{From: r.duration(f.find("from")), Max: r.count(f.need("max"))})
		f.end()
	})
	t.RejectAfter, t.RetryAfter = r.times(f.find("reject_after")), r.times(f.find("retry_after"))
	calls := f.find("calls")
	t.Calls = r.names(calls)
	for i, name := range t.Calls {
		r.called = append(r.called, func() { r.known(calls.values[i], name, "tool", r.tools) })
	}
	t.IgnoresTimeout = r.flag(f.find("ignores_timeout"))
	f.end()
	return t
}

func (r *reader) stream(n *node) (t sim.Traffic) {
	f := r.object(n)
	t.Name, t.Tenant = r.name(f.find("name")), r.name(f.find("tenant"))
	if tool := f.need("tool"); tool != nil {
		t.Tool = r.name(tool)
		r.known(tool, t.Tool, "tool", r.tools)
	}
	t.Priority = r.priority(f.find("priority"))
	if a := f.need("arrivals"); a != nil {
		t.Arrivals = r.arrivals(a)
	}
	if u := f.find("uses"); u != nil {
		t.Uses = make(map[string]sim.Dist)
		o := r.object(u)
		for _, unit := range o.n.names {
			t.Uses[unit] = dist(r, o.find(unit), r.whole)
		}
	}
	t.Deadline, t.From, t.For = r.duration(f.find("deadline")), r.duration(f.find("from")), r.duration(f.find("for"))
	f.end()
	return t
}

// known refuses a name that is none of those that there are.
func (r *reader) known(n *node, name, what string, there []string) {
	if r.err != nil || slices.Contains(there, name) {
		return
	}
	meant := "there are " + quoted(there)
	if near := errtext.Nearest(name, slices.Values(there)); near != nil {
		meant = near.Error()
	}
	r.fail(n, "is %s: no %s is called that: %s", errtext.Quote(name), what, meant)
}

// quoted is a few of the names.
func quoted(names []string) string {
	const most = 8
	if len(names) == 0 {
		return "none"
	}
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	var out []string
	for _, n := range names[:min(len(names), most)] {
		out = append(out, errtext.Quote(n))
	}
	if len(names) > most {
		out = append(out, "…")
	}
	return strings.Join(out, ", ")
}

func (r *reader) priority(n *node) sluice.Priority {
	words := map[string]sluice.Priority{"batch": sluice.PriorityBatch, "normal": sluice.PriorityNormal, "interactive": sluice.PriorityInteractive}
	if n == nil {
		return 0
	}
	if n.kind == number {
		v := r.whole(n)
		if v < int64(sluice.PriorityBatch) || v > int64(sluice.PriorityInteractive) {
			r.fail(n, "is %d: must be from %d to %d", v, sluice.PriorityBatch, sluice.PriorityInteractive)
			return 0
		}
		return sluice.Priority(v)
	}
	p, ok := words[r.text(n)]
	if !ok {
		r.fail(n, "is %s: must be \"batch\", \"normal\", \"interactive\" or a number from %d to %d",
			n.shown(), sluice.PriorityBatch, sluice.PriorityInteractive)
	}
	return p
}

// times is a distribution of times; none if n is nil.
func (r *reader) times(n *node) sim.Dist {
	if n == nil {
		return sim.Dist{}
	}
	return dist(r, n, r.duration)
}

// dist is a distribution of what value reads.
func dist[N sim.Number](r *reader, n *node, value func(*node) N) (d sim.Dist) {
	kind, v := r.one(n, "constant", "uniform", "exponential", "log_normal", "pareto", "samples")
	if v == nil {
		return d
	}
	var f *fields
	at := func(name string) (x N) {
		if n := f.need(name); n != nil {
			x = value(n)
		}
		return x
	}
	switch kind {
	case "constant":
		d = sim.Constant(value(v))
	case "exponential":
		d = sim.Exponential(value(v))
	case "uniform":
		f = r.object(v)
		d = sim.Uniform(at("lo"), at("hi"))
	case "log_normal":
		f = r.object(v)
		d = sim.LogNormal(at("median"), at("p99"))
	case "pareto":
		f = r.object(v)
		d = sim.Pareto(at("least"), r.number(f.need("alpha")))
	case "samples":
		var list []N
		r.each(v, func(n *node) { list = append(list, value(n)) })
		d = sim.Samples(list...)
	}
	if f != nil {
		f.end()
	}
	return d
}

func (r *reader) arrivals(n *node) (a sim.Arrivals) {
	kind, v := r.one(n, "steady", "poisson", "bursty", "heavy_tailed", "batches", "flood", "replay", "callers")
	if v == nil {
		return a
	}
	var f *fields
	rate := func() float64 { return r.number(f.need("per_second")) }
	switch kind {
	case "steady":
		return sim.Steady(r.number(v))
	case "poisson":
		return sim.Poisson(r.number(v))
	case "flood":
		return sim.Flood(r.count(v))
	case "replay":
		var list []time.Duration
		r.each(v, func(n *node) { list = append(list, r.duration(n)) })
		return sim.Replay(list...)
	case "bursty":
		f = r.object(v)
		a = sim.Bursty(rate(), r.duration(f.need("on")), r.duration(f.need("off")))
	case "heavy_tailed":
		f = r.object(v)
		a = sim.HeavyTailed(rate(), r.number(f.need("alpha")))
	case "batches":
		f = r.object(v)
		if s := f.need("size"); s != nil {
			a = sim.Batches(rate(), dist(r, s, r.whole))
		}
	case "callers":
		f = r.object(v)
		a = sim.Callers(r.count(f.need("n")), r.times(f.find("think")))
	}
	f.end()
	return a
}

func (r *reader) policy(n *node, i int) (p policy) {
	f := r.object(n)
	if p.name = r.name(f.find("name")); p.name == "" {
		p.name = fmt.Sprintf("policy %d", i+1)
	}
	p.maxWait, p.timeout = r.wait(f.find("max_wait")), r.duration(f.find("timeout"))
	if l := f.find("limits"); l != nil {
		var c sluice.ConcurrencyLimiterConfig
		r.each(l, func(n *node) { c.Limits = append(c.Limits, r.limit(n)) })
		made(r, l, &p, sluice.NewConcurrencyLimiter, c)
	}
	seen := make(map[string]bool) // a limit's name is how it is found in reports, and in those of the other policy
	r.each(f.find("rate_limiters"), func(n *node) {
		c := r.rateLimiter(n)
		if c.Name == "" {
			c.Name = "rate"
		}
		if seen[c.Name] {
			r.fail(n, "has the name %s too: must have another", errtext.Quote(c.Name))
		}
		seen[c.Name] = true
		made(r, n, &p, sluice.NewRateLimiter, c)
	})
	r.each(f.find("breakers"), func(n *node) {
		f := r.object(n)
		b := r.breaker(f)
		made(r, n, &p, sluice.NewCircuitBreaker, sluice.CircuitBreakerConfig{Name: r.name(f.find("name")), Scope: r.scope(f.find("scope")),
			Ratio: b.Ratio, MinCalls: b.MinCalls, Window: b.Window, Failures: b.Failures, Cooldown: b.Cooldown, Probes: b.Probes, Lease: b.Lease})
		f.end()
	})
	if s := f.find("scheduler"); s != nil {
		made(r, s, &p, sluice.NewPriorityScheduler, r.scheduler(s))
	}
	if t := f.find("tools"); t != nil {
		p.tools = make(map[string]sluice.Policy)
		o := r.object(t)
		for _, name := range o.n.names {
			v := o.find(name)
			r.known(v, name, "tool", r.tools)
			p.tools[name] = r.toolPolicy(v)
		}
	}
	f.end()
	return p
}

// made adds to p the component that c configures.
func made[C any, X sluice.Interceptor](r *reader, n *node, p *policy, make func(C) (X, error), c C) {
	if r.err != nil {
		return
	}
	x, err := make(c)
	if err != nil {
		r.fail(n, "cannot be: %v", strings.TrimPrefix(err.Error(), "sluice: "))
		return
	}
	p.gates = append(p.gates, x)
}

func (r *reader) limit(n *node) (l sluice.Limit) {
	f := r.object(n)
	l.Max, l.Scope, l.Unit = r.count(f.need("max")), r.scope(f.find("scope")), r.name(f.find("unit"))
	l.Refuse, l.MaxKeys, l.Ordered = r.flag(f.find("refuse")), r.count(f.find("max_keys")), r.flag(f.find("ordered"))
	f.end()
	return l
}

func (r *reader) rateLimiter(n *node) (c sluice.RateLimiterConfig) {
	f := r.object(n)
	c.Name, c.Scope, c.Rates = r.name(f.find("name")), r.scope(f.find("scope")), r.rates(f.need("rates"))
	c.Refuse, c.Upstream, c.MaxKeys = r.flag(f.find("refuse")), r.flag(f.find("upstream")), r.count(f.find("max_keys"))
	f.end()
	return c
}

func (r *reader) rates(n *node) (out []sluice.Rate) {
	r.each(n, func(n *node) {
		f := r.object(n)
		out = append(out, sluice.Rate{N: r.whole(f.need("n")), Per: r.duration(f.find("per")), Burst: r.whole(f.find("burst")), Unit: r.name(f.find("unit"))})
		f.end()
	})
	return out
}

func (r *reader) breaker(f *fields) sluice.BreakerPolicy {
	return sluice.BreakerPolicy{
		Ratio: r.number(f.find("ratio")), MinCalls: r.count(f.find("min_calls")), Window: r.duration(f.find("window")),
		Failures: r.count(f.find("failures")), Cooldown: r.duration(f.find("cooldown")),
		Probes: r.count(f.find("probes")), Lease: r.duration(f.find("lease")),
	}
}

func (r *reader) scheduler(n *node) (c sluice.PrioritySchedulerConfig) {
	f := r.object(n)
	c.Ageing, c.MaxQueue, c.MaxPerTenant = r.count(f.find("ageing")), r.count(f.find("max_queue")), r.count(f.find("max_per_tenant"))
	c.Shed, c.ShedStanding, c.RefuseLate = r.flag(f.find("shed")), r.flag(f.find("shed_standing")), r.flag(f.find("refuse_late"))
	if w := f.find("tenant_weights"); w != nil {
		c.TenantWeights = make(map[string]int)
		o := r.object(w)
		for _, tenant := range o.n.names {
			c.TenantWeights[tenant] = r.count(o.find(tenant))
		}
	}
	f.end()
	return c
}

func (r *reader) toolPolicy(n *node) (p sluice.Policy) {
	f := r.object(n)
	p.Priority, p.Concurrency, p.Rates = r.priority(f.find("priority")), r.count(f.find("concurrency")), r.rates(f.find("rates"))
	p.Timeout, p.MaxTimeout, p.MaxWait = r.duration(f.find("timeout")), r.duration(f.find("max_timeout")), r.wait(f.find("max_wait"))
	if b := f.find("breaker"); b != nil {
		f := r.object(b)
		p.Breaker = new(r.breaker(f))
		f.end()
	}
	f.end()
	return p
}

// wait is how long calls may wait: a time, or none for not at all.
func (r *reader) wait(n *node) time.Duration {
	if n != nil && n.kind == text && n.text == "none" {
		return sluice.NoWait
	}
	return r.duration(n)
}

// scope is what a limit counts by: a word, or an object that names tools or types.
func (r *reader) scope(n *node) (s sluice.Scope) {
	if n == nil {
		return s
	}
	if n.kind == object {
		kind, v := r.one(n, "for_tool", "for_type")
		what, there := "tool", r.tools
		if kind == "for_type" {
			what, there = "type of a tool", r.types
		}
		names := r.names(v)
		for i, name := range names {
			r.known(v.values[i], name, what, there)
		}
		if kind == "for_type" {
			return sluice.ForType(names...)
		}
		return sluice.ForTool(names...)
	}
	words := map[string]sluice.Scope{"global": sluice.Global, "by_tool": sluice.ByTool, "by_type": sluice.ByType, "by_tenant": sluice.ByTenant}
	s, ok := words[r.text(n)]
	if !ok {
		r.fail(n, `is %s: must be "global", "by_tool", "by_type", "by_tenant", {"for_tool": [names]} or {"for_type": [types]}`, n.shown())
	}
	return s
}

// checkName refuses what cannot be shown.
func checkName(s string) error {
	err := check.Name("", s)
	if err == nil {
		return nil
	}
	return errors.New(strings.TrimPrefix(err.Error(), " "))
}
