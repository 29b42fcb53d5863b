package sim

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// limiter, quota, breaker and scheduler make components for tests.

func limiter(l ...sluice.Limit) sluice.Interceptor {
	return sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: l}))
}

func rate(name string, scope sluice.Scope, r ...sluice.Rate) sluice.Interceptor {
	return sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: name, Scope: scope, Rates: r}))
}

func scheduler(c sluice.PrioritySchedulerConfig) sluice.Interceptor {
	return sluice.Must(sluice.NewPriorityScheduler(c))
}

func simulate(t *testing.T, c Config) Report {
	t.Helper()
	r, err := Run(c)
	require.NoError(t, err)
	return r
}

// mixed is an hour, or so, of everything at once.
func mixed(d time.Duration, seed uint64) Config {
	return Config{
		Gates: []sluice.Interceptor{
			limiter(sluice.Limit{Max: 64}, sluice.Limit{Max: 24, Scope: sluice.ForType("web")}, sluice.Limit{Max: 40, Scope: sluice.ByTenant}),
			rate("model", sluice.ForTool("ask"), sluice.Rate{N: 6000, Per: time.Minute, Burst: 100}, sluice.Rate{N: 6_000_000, Per: time.Minute, Unit: "tokens"}),
			sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{})),
			scheduler(sluice.PrioritySchedulerConfig{TenantWeights: map[string]int{"acme": 3}, MaxQueue: 2000, Shed: true}),
		},
		Tools: []Tool{
			{Spec: sluice.Spec{Name: "search", Type: "web"}, Service: LogNormal(60*time.Millisecond, 400*time.Millisecond), ErrorRate: 0.01},
			{Spec: sluice.Spec{Name: "fetch", Type: "web", Policy: sluice.Policy{Timeout: 2 * time.Second}}, Service: Pareto(40*time.Millisecond, 1.5),
				Capacity: []Step{{0, 30}, {20 * time.Minute, 10}, {25 * time.Minute, 30}}, RejectAfter: Constant(5 * time.Millisecond)},
			{Spec: sluice.Spec{Name: "ask"}, Service: Exponential(150 * time.Millisecond), Outages: []Outage{{From: 10 * time.Minute, For: time.Minute, After: Constant(time.Second)}}},
			{Spec: sluice.Spec{Name: "plan"}, Service: Constant(10 * time.Millisecond), Calls: []string{"search", "ask"}},
		},
		Traffic: []Traffic{
			{Tool: "search", Tenant: "acme", Priority: sluice.PriorityInteractive, Arrivals: Poisson(60)},
			{Tool: "search", Tenant: "bolt", Arrivals: Bursty(120, 10*time.Second, 20*time.Second)},
			{Tool: "fetch", Tenant: "acme", Arrivals: Poisson(50)},
			{Tool: "fetch", Tenant: "bolt", Priority: sluice.PriorityBatch, Arrivals: Callers(20, Exponential(200*time.Millisecond))},
			{Tool: "ask", Tenant: "acme", Arrivals: HeavyTailed(40, 1.5), Uses: map[string]Dist{"tokens": LogNormal(700, 6000)}},
			{Tool: "ask", Tenant: "cato", Arrivals: Batches(2, Pareto(5, 1.3)), Uses: map[string]Dist{"tokens": LogNormal(900, 6000)}},
			{Tool: "plan", Tenant: "cato", Priority: sluice.PriorityInteractive, Arrivals: Steady(5), Deadline: 5 * time.Second},
		},
		MaxWait:  3 * time.Second,
		Duration: d,
		Seed:     seed,
	}
}

// TestHourInSeconds is one hour of mixed traffic, at 300,000 calls per second of real time
// or more: the bound allows for slow and busy machines.
func TestHourInSeconds(t *testing.T) {
	d, least := time.Hour, int64(1_000_000)
	if raced {
		d, least = 5*time.Minute, 80_000
	}
	began := time.Now()
	r := simulate(t, mixed(d, 1))
	took := time.Since(began)
	t.Logf("%d calls in %v: %.0f calls/s\n%v", r.All.Arrived, took, float64(r.All.Arrived)/took.Seconds(), r)
	if r.All.Arrived < least {
		t.Errorf("%d calls: want at least %d", r.All.Arrived, least)
	}
	if took > 60*time.Second {
		t.Errorf("took %v: want seconds", took)
	}
	assert.Equal(t, r.All.Arrived, r.All.Started+r.All.Refused+r.All.Waiting,
		"those that arrived started, were refused or wait")
}

func TestSameSeedSameReport(t *testing.T) {
	report := func(seed uint64) (string, string) {
		r := simulate(t, mixed(5*time.Minute, seed))
		b, err := json.Marshal(r)
		require.NoError(t, err)
		return string(b), r.String()
	}
	j1, s1 := report(7)
	j2, s2 := report(7)
	assert.Equal(t, j2, j1, "two runs with one seed differ")
	assert.Equal(t, s2, s1, "two runs with one seed differ")
	j3, _ := report(8)
	assert.NotEqual(t, j1, j3, "another seed gives the same report")
}
