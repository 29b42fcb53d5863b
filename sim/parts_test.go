package sim

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	xrate "golang.org/x/time/rate"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/internal/admit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestDists: means and percentiles are what the constructors were given.
func TestDists(t *testing.T) {
	near := func(got, want int64) bool { return math.Abs(float64(got)/float64(want)-1) < 0.03 }
	for _, c := range []struct {
		d             Dist
		p50, p99, avg int64 // zero: not asked
	}{
		{Constant(70), 70, 70, 70},
		{Uniform(100, 300), 200, 298, 200},
		{Exponential(time.Second), 693_147_181, int64(math.Log(100) * 1e9), 1e9},
		{LogNormal(time.Second, 5*time.Second), 1e9, 5e9, 0},
		{Pareto(1_000_000, 2), 1_414_214, 10e6, 2e6},
		{Samples(10, 20, 30), 20, 30, 20},
	} {
		r := rand.New(rand.NewPCG(1, 2))
		const n = 200_000
		list, sum := make([]int64, n), 0.0
		for i := range list {
			list[i] = c.d.draw(r)
			sum += float64(list[i])
		}
		slices.Sort(list)
		got := list[n/2]
		assert.True(t, near(got, c.p50), "%v: median %d, want about %d", c.d, got, c.p50)
		got = list[n/100*99]
		assert.True(t, near(got, c.p99), "%v: p99 %d, want about %d", c.d, got, c.p99)
		if got := int64(sum / n); c.avg > 0 && !near(got, c.avg) {
			t.Errorf("%v: mean %d, want about %d", c.d, got, c.avg)
		}
	}
}

// TestArrivals: as many calls come as the rates say, and none before its time.
func TestArrivals(t *testing.T) {
	for _, c := range []struct {
		a       Arrivals
		perHour float64
		near    float64
	}{
		{Steady(10), 36_000, 0},
		{Poisson(10), 36_000, 0.02},
		{Bursty(30, 10*time.Second, 20*time.Second), 36_000, 0.15},
		{HeavyTailed(10, 2.5), 36_000, 0.05},
		{Batches(2, Uniform(1, 9)), 36_000, 0.05},
		{Flood(100), 100, 0},
		{Replay(time.Second, 0, time.Minute), 3, 0},
		{Callers(5, Dist{}), 5, 0},
	} {
		s := source{Arrivals: c.a, rng: rand.New(rand.NewPCG(3, 4)), from: int64(time.Minute)}
		n, last := 0, int64(time.Minute)
		for {
			at, count, ok := s.next()
			if !ok || at >= int64(61*time.Minute) {
				break
			}
			if at < last {
				t.Fatalf("%v: %d after %d", c.a, at, last)
			}
			last = at
			n += count
		}
		if math.Abs(float64(n)-c.perHour) > c.near*c.perHour {
			t.Errorf("%v: %d calls in an hour, want %v within %v%%", c.a, n, c.perHour, 100*c.near)
		}
	}
}

// TestHist: percentiles are at most 1.6 % too high and never too low.
func TestHist(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, d := range []Dist{Constant(12345), Uniform(0, 100), Exponential(time.Second), Pareto(1, 0.5)} {
		var h, halves [2]hist
		list := make([]int64, 10_001)
		for i := range list {
			list[i] = d.draw(r)
			h[0].add(list[i])
			halves[i%2].add(list[i])
		}
		h[1].merge(&halves[0])
		h[1].merge(&halves[1])
		slices.Sort(list)
		for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999, 1} {
			want := list[max(0, int(math.Ceil(q*float64(len(list))))-1)]
			for i := range h {
				if got := int64(h[i].quantile(q)); got < want || float64(got) > 1.016*float64(want)+1 {
					t.Errorf("%v: quantile %v of histogram %d is %d, want %d to 1.6 %% more", d, q, i, got, want)
				}
			}
		}
	}
}

// TestConfigErrors: each names the field, the value and what is allowed.
func TestConfigErrors(t *testing.T) {
	work := Tool{Spec: sluice.Spec{Name: "work"}, Service: Constant(time.Second)}
	good := func() Config {
		return Config{Tools: []Tool{work}, Traffic: []Traffic{{Tool: "work", Arrivals: Steady(1)}}, Duration: time.Second}
	}
	_, err := Run(good())
	require.NoError(t, err)
	slots, order := limiter(sluice.Limit{Max: 1}), scheduler(sluice.PrioritySchedulerConfig{})
	for want, spoil := range map[string]func(*Config){
		"Config.Duration is 0s: must be positive":                              func(c *Config) { c.Duration = 0 },
		"Config.MaxWait is 3ns: must be at least 1µs; a Duration without a":    func(c *Config) { c.MaxWait = 3 },
		"Config.Duration is 60ns: must be at least 1µs; a Duration without":    func(c *Config) { c.Duration = 60 },
		"Config.MaxWait is -1s: must be zero or positive":                      func(c *Config) { c.MaxWait = -time.Second },
		"Config.MaxCalls is -1: must be zero (100000000)":                      func(c *Config) { c.MaxCalls = -1 },
		"more than Config.MaxCalls 3 calls":                                    func(c *Config) { c.MaxCalls, c.Duration = 3, time.Minute },
		"Config.Tools is empty: must have":                                     func(c *Config) { c.Tools = nil },
		"Config.Traffic is empty: must have":                                   func(c *Config) { c.Traffic = nil },
		"Config.Tools[0].Service is missing: must be made by":                  func(c *Config) { c.Tools[0].Service = Dist{} },
		"Config.Tools[0].Service is -1s: must have a value from 0":             func(c *Config) { c.Tools[0].Service = Constant(-time.Second) },
		"Service is log-normal, median 2s, p99 1s: must have 0 < median":       func(c *Config) { c.Tools[0].Service = LogNormal(2*time.Second, time.Second) },
		"Service is Pareto, least 1s, alpha NaN: must have an alpha":           func(c *Config) { c.Tools[0].Service = Pareto(time.Second, math.NaN()) },
		"Service is 0 samples: must have at least one":                         func(c *Config) { c.Tools[0].Service = Samples[int]() },
		"Config.Tools[0].ErrorRate is 2: must be from 0 to 1":                  func(c *Config) { c.Tools[0].ErrorRate = 2 },
		"Config.Tools[0].Outages[0] is from 0s for 0s":                         func(c *Config) { c.Tools[0].Outages = []Outage{{}} },
		"Config.Tools[0].Capacity[1].From is 0s: must be after":                func(c *Config) { c.Tools[0].Capacity = []Step{{Max: 1}, {Max: 2}} },
		`Config.Tools[0].Calls[0] is "x": must name one of Tools`:              func(c *Config) { c.Tools[0].Calls = []string{"x"} },
		"Config.Tools[0].Calls leads back to itself":                           func(c *Config) { c.Tools[0].Calls = []string{"work"} },
		`Config.Tools[1].Spec.Name is "work": must differ`:                     func(c *Config) { c.Tools = append(c.Tools, work) },
		`Config.Tools[0]: sluice: Spec.Name "a b" has ' ' at 1`:                func(c *Config) { c.Tools[0].Spec.Name, c.Traffic[0].Tool = "a b", "a b" },
		"Config.Tools[0]: sluice: Policy.Concurrency is -1":                    func(c *Config) { c.Tools[0].Spec.Policy.Concurrency = -1 },
		`Config.Traffic[0].Tool is "": must name one of Tools`:                 func(c *Config) { c.Traffic[0].Tool = "" },
		"Config.Traffic[0].Arrivals is missing: must be made by":               func(c *Config) { c.Traffic[0].Arrivals = Arrivals{} },
		"Config.Traffic[0].Arrivals has 0 per second: must be above 0":         func(c *Config) { c.Traffic[0].Arrivals = Poisson(0) },
		"Config.Traffic[0].Arrivals has alpha 1: must be above 1":              func(c *Config) { c.Traffic[0].Arrivals = HeavyTailed(1, 1) },
		"Config.Traffic[0].Arrivals has 0 callers: must be from 1":             func(c *Config) { c.Traffic[0].Arrivals = Callers(0, Dist{}) },
		"Config.Traffic[0].Arrivals is on for 0s and off for 1s: both must be": func(c *Config) { c.Traffic[0].Arrivals = Bursty(1, 0, time.Second) },
		"Priority is 10: must be zero (the tool's) or from 1 to 9":             func(c *Config) { c.Traffic[0].Priority = 10 },
		`Config.Traffic[0].Uses["t"] is the zero Dist: must be made by`:        func(c *Config) { c.Traffic[0].Uses = map[string]Dist{"t": {}} },
		`Config.Traffic[1] is a second stream named "work"`:                    func(c *Config) { c.Traffic = append(c.Traffic, c.Traffic[0]) },
		"Config.Gates[1] is a second PriorityScheduler":                        func(c *Config) { c.Gates = []sluice.Interceptor{order, scheduler(sluice.PrioritySchedulerConfig{})} },
		"Config.Gates[1] is listed twice":                                      func(c *Config) { c.Gates = []sluice.Interceptor{slots, slots} },
		"Config.Gates[0] is a <nil>: must be a ConcurrencyLimiter":             func(c *Config) { c.Gates = []sluice.Interceptor{nil} },
		"Config.Gates[0] is a sluice.InterceptorFunc: must be":                 func(c *Config) { c.Gates = []sluice.Interceptor{sluice.InterceptorFunc(nil)} },
		"Config.Gates[0] is a RateLimiter that NewRateLimiter has not made":    func(c *Config) { c.Gates = []sluice.Interceptor{new(sluice.RateLimiter)} },
		`Policy.Cost of unit "" for work is -1: must not be negative`: func(c *Config) {
			c.Tools[0].Spec.Policy.Rates = []sluice.Rate{{N: 1}}
			c.Tools[0].Spec.Policy.Cost = func(sluice.Call, string) int64 { return -1 }
		},
	} {
		c := good()
		c.Tools = slices.Clone(c.Tools)
		spoil(&c)
		_, err := Run(c)
		if err == nil || !strings.HasPrefix(err.Error(), "sim: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error of sim with %q", err, want)
		}
	}
}

// TestNothingElseChanges: a stream has the same arrivals and service times whatever is
// added beside it.
func TestNothingElseChanges(t *testing.T) {
	type one struct{ arrived, took time.Duration }
	trace := func(gates []sluice.Interceptor, more ...Traffic) (out []one) {
		simulate(t, Config{
			Gates:    gates,
			Tools:    []Tool{{Spec: sluice.Spec{Name: "work"}, Service: Exponential(20 * time.Millisecond), ErrorRate: 0.1}},
			Traffic:  append([]Traffic{{Name: "mine", Tool: "work", Arrivals: Poisson(20)}}, more...),
			Duration: time.Minute,
			Each: func(c Call) {
				if c.Traffic == "mine" {
					out = append(out, one{c.Arrived, c.Ended - c.Started})
				}
			},
		})
		slices.SortFunc(out, func(a, b one) int { return int(a.arrived - b.arrived) })
		return out
	}
	alone := trace(nil)
	beside := trace([]sluice.Interceptor{limiter(sluice.Limit{Max: 3})}, Traffic{Name: "other", Tool: "work", Arrivals: Bursty(90, time.Second, time.Second)})
	n := min(len(alone), len(beside)) - 20 // the last may not have ended
	if n < 1000 || !slices.Equal(alone[:n], beside[:n]) {
		t.Errorf("the stream differs beside another: %d and %d calls", len(alone), len(beside))
	}
}

// TestBackend: outages, errors, capacity, timeouts and deadlines do what they say.
func TestBackend(t *testing.T) {
	base := func() Config {
		return Config{
			Tools:    []Tool{{Spec: sluice.Spec{Name: "work"}, Service: Constant(100 * time.Millisecond)}},
			Traffic:  []Traffic{{Tool: "work", Arrivals: Steady(100)}},
			Duration: 10 * time.Second,
		}
	}
	// 1,000 calls arrive; those of the last 0.1 s do not end: 990, or 10 more that end at 10 s sharp.
	for name, x := range map[string]struct {
		change func(*Config)
		want   Group
	}{
		"nothing": {func(c *Config) {}, Group{Succeeded: 990}},
		"outage": {func(c *Config) {
			c.Tools[0].Outages = []Outage{{From: 2 * time.Second, For: 3 * time.Second, After: Constant(time.Second)}}
		}, Group{Succeeded: 690, Failed: 300}},
		"capacity": {func(c *Config) {
			c.Tools[0].Capacity = []Step{{From: 5 * time.Second, Max: 5}}
			c.Tools[0].RejectAfter = Constant(time.Millisecond)
		}, Group{Succeeded: 745, Overloaded: 250}},
		"timeout":  {func(c *Config) { c.Timeout = 50 * time.Millisecond }, Group{TimedOut: 995}},
		"deadline": {func(c *Config) { c.Traffic[0].Deadline = 50 * time.Millisecond }, Group{Late: 995}},
		"ignored timeout": {func(c *Config) {
			c.Timeout = 50 * time.Millisecond
			c.Tools[0].IgnoresTimeout = true
		}, Group{TimedOut: 990}},
		"limit that refuses": {func(c *Config) { c.Gates = []sluice.Interceptor{limiter(sluice.Limit{Max: 5, Refuse: true})} }, Group{Succeeded: 495, Refused: 500}},
	} {
		c := base()
		x.change(&c)
		g := simulate(t, c).All
		got := Group{Succeeded: g.Succeeded, Failed: g.Failed, Overloaded: g.Overloaded, TimedOut: g.TimedOut, Late: g.Late, Refused: g.Refused}
		assert.Equal(t, x.want, got, name)
	}
}

// TestBreakerProtects: an open breaker spares a dead backend.
func TestBreakerProtects(t *testing.T) {
	c := Config{
		Tools: []Tool{{
			Spec:    sluice.Spec{Name: "work", Policy: sluice.Policy{Breaker: &sluice.BreakerPolicy{Failures: 5, Cooldown: 10 * time.Second}}},
			Service: Constant(10 * time.Millisecond),
			Outages: []Outage{{From: time.Minute, For: time.Minute}},
		}},
		Traffic:  []Traffic{{Tool: "work", Arrivals: Poisson(100)}},
		Duration: 5 * time.Minute,
	}
	r := simulate(t, c)
	c.Tools[0].Spec.Policy.Breaker = nil
	without := simulate(t, c)
	t.Logf("failed %d with a breaker, %d without; opened %d times", r.All.Failed, without.All.Failed, r.Openings)
	c.Tools[0].Spec.Policy.Breaker = &sluice.BreakerPolicy{}
	ratio := simulate(t, c)
	if r.Openings < 2 || r.All.Failed > without.All.Failed/100 {
		t.Errorf("%d openings and %d failures of %d: want several, and less than 1%%", r.Openings, r.All.Failed, without.All.Failed)
	}
	// By default it opens after 20 in a row, long before half of the results of the last 30 s are failures.
	assert.Equal(t, []int64{4, 24}, []int64{int64(ratio.Openings), int64(ratio.All.Failed)}, "openings and failures by default")
}

// TestSharedLimiter: a *rate.Limiter counts as a bucket of its limit and burst.
func TestSharedLimiter(t *testing.T) {
	shared := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Limiter: xrate.NewLimiter(2.5, 1)}))
	r := simulate(t, Config{
		Gates:    []sluice.Interceptor{shared},
		Tools:    []Tool{{Spec: sluice.Spec{Name: "work"}, Service: Constant(time.Millisecond)}},
		Traffic:  []Traffic{{Tool: "work", Arrivals: Callers(10, Dist{})}},
		Duration: time.Minute,
	})
	if r.All.Started != 150 || r.Limits[0].Name != "rate shared limiter" {
		t.Errorf("%d starts at %s: want 150 at rate shared limiter, one each 400 ms from the start on", r.All.Started, r.Limits[0].Name)
	}
}

// TestSharedLimiter_Rates: slow and quick limiters have the rates that they have, and one that lets nobody start is refused.
func TestSharedLimiter_Rates(t *testing.T) {
	for _, x := range []struct {
		limit    xrate.Limit
		duration time.Duration
		want     int64
	}{
		{xrate.Every(30 * time.Minute), 6 * time.Hour, 12}, // one at the start, and one each half hour
		{xrate.Every(700 * time.Millisecond), 7000 * time.Second, 10_000},
		{1e16, time.Second, 10_000}, // ten callers that take a millisecond
		{xrate.Inf, time.Second, 10_000},
	} {
		r := simulate(t, Config{
			Gates:    []sluice.Interceptor{sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Limiter: xrate.NewLimiter(x.limit, 1)}))},
			Tools:    []Tool{{Spec: sluice.Spec{Name: "work"}, Service: Constant(time.Millisecond)}},
			Traffic:  []Traffic{{Tool: "work", Arrivals: Callers(10, Dist{})}},
			Duration: x.duration,
		})
		assert.Equal(t, x.want, r.All.Started, "%v/s", x.limit)
	}
	for want, l := range map[string]*xrate.Limiter{
		"sim: Config.Gates[0] has a *rate.Limiter of limit 0 and burst 1: both must be positive":                                   xrate.NewLimiter(0, 1),
		"sim: Config.Gates[0] has a *rate.Limiter of limit 2 and burst 0: both must be positive":                                   xrate.NewLimiter(2, 0),
		"sim: Config.Gates[0]: N 1 per 4611686018427387904 ns with Burst 1 takes more than 36 years to refill: lower Burst or Per": xrate.NewLimiter(1e-12, 1),
	} {
		_, err := Run(Config{
			Gates:    []sluice.Interceptor{sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Limiter: l}))},
			Tools:    []Tool{{Spec: sluice.Spec{Name: "work"}, Service: Constant(time.Millisecond)}},
			Traffic:  []Traffic{{Tool: "work", Arrivals: Steady(1)}},
			Duration: time.Second,
		})
		assert.EqualError(t, err, want)
	}
}

// TestEvictionRefreshesNoQuota: more keys than the table holds, each asked for more than
// its rate; the recount remembers what the table has forgotten.
func TestEvictionRefreshesNoQuota(t *testing.T) {
	perKey := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Scope:   sluice.ByKey("user", func(c sluice.Call) string { return c.Input.(string) }),
		Rates:   []sluice.Rate{{N: 1, Burst: 3}},
		MaxKeys: 30,
		Refuse:  true,
	}))
	r := simulate(t, Config{
		Gates:    []sluice.Interceptor{perKey},
		Tools:    []Tool{{Spec: sluice.Spec{Name: "work"}, Service: Constant(10 * time.Millisecond)}},
		Traffic:  []Traffic{{Tool: "work", Arrivals: Poisson(25), Input: func(n int64) any { return fmt.Sprint(n * n % 101) }}},
		Duration: 10 * time.Minute,
	})
	if r.Limits[0].Keys < 40 || r.All.Refused == 0 || r.All.Succeeded == 0 {
		t.Errorf("%d keys, %d refused, %d succeeded: want many, some, some", r.Limits[0].Keys, r.All.Refused, r.All.Succeeded)
	}
}

// TestNestedCalls_Repeated: two nested calls of one tool take times of their own, and the report tells them apart.
func TestNestedCalls_Repeated(t *testing.T) {
	took := make(map[string][]time.Duration)
	r := simulate(t, Config{
		Tools: []Tool{
			{Spec: sluice.Spec{Name: "plan"}, Service: Constant(time.Millisecond), Calls: []string{"search", "ask", "search"}},
			{Spec: sluice.Spec{Name: "search"}, Service: Exponential(20 * time.Millisecond)},
			{Spec: sluice.Spec{Name: "ask"}, Service: Constant(time.Millisecond)},
		},
		Traffic:  []Traffic{{Tool: "plan", Arrivals: Callers(1, Dist{})}},
		Duration: 10 * time.Second,
		Each:     func(c Call) { took[c.Traffic] = append(took[c.Traffic], c.Ended-c.Started) },
	})
	var names []string
	for _, g := range r.Traffic {
		names = append(names, g.Name)
	}
	require.Equal(t, []string{"plan", "plan > search", "plan > ask", "plan > search (2)"}, names)
	one, two := took["plan > search"], took["plan > search (2)"]
	require.Greater(t, len(two), 100)
	require.NotEqual(t, one[:100], two[:100])
}

// TestNestedCalls: chains run on one slot, and come to an end.
func TestNestedCalls(t *testing.T) {
	r := simulate(t, Config{
		Gates: []sluice.Interceptor{limiter(sluice.Limit{Max: 2}), scheduler(sluice.PrioritySchedulerConfig{})},
		Tools: []Tool{
			{Spec: sluice.Spec{Name: "plan"}, Service: Constant(10 * time.Millisecond), Calls: []string{"search", "search", "ask"}},
			{Spec: sluice.Spec{Name: "search"}, Service: Constant(20 * time.Millisecond)},
			{Spec: sluice.Spec{Name: "ask"}, Service: Constant(40 * time.Millisecond), Calls: []string{"leaf"}},
			{Spec: sluice.Spec{Name: "leaf"}, Service: Constant(10 * time.Millisecond)},
		},
		Traffic:  []Traffic{{Tool: "plan", Arrivals: Callers(8, Dist{})}},
		Duration: 10 * time.Second,
	})
	// A chain takes 10+20+20+40+10 = 100 ms, two at a time: 20 per second.
	plan, leaf := find(t, r.Tools, "plan"), find(t, r.Tools, "leaf")
	if plan.Succeeded < 198 || plan.Succeeded > 200 || leaf.Succeeded < plan.Succeeded || leaf.Wait.Max != 0 {
		t.Errorf("%d chains and %d leaves, leaves wait %v: want 198 to 200, as many or more, none", plan.Succeeded, leaf.Succeeded, leaf.Wait.Max)
	}
	if r.Limits[0].Peak != 2 || r.Limits[0].Used < 0.99 {
		t.Errorf("peak %d, used %v: want 2 slots always", r.Limits[0].Peak, r.Limits[0].Used)
	}
}

// TestNestedCallsEndWithTheOuter: a nested call has no more time than the call around it, in
// the queue and while it runs.
func TestNestedCallsEndWithTheOuter(t *testing.T) {
	const ms = time.Millisecond
	type end struct {
		Started, Ended time.Duration
		Outcome        Outcome
	}
	for name, x := range map[string]struct {
		deadline, timeout time.Duration
		limit             int // of leaf
		want              map[string][]end
	}{
		"deadline": {deadline: 100 * ms, limit: 9, want: map[string][]end{
			"plan": {{0, 100 * ms, Late}, {50 * ms, 150 * ms, Late}}, "leaf": {{10 * ms, 100 * ms, Late}, {60 * ms, 150 * ms, Late}},
		}},
		"timeout": {timeout: 100 * ms, limit: 9, want: map[string][]end{
			"plan": {{0, 100 * ms, TimedOut}, {50 * ms, 150 * ms, TimedOut}}, "leaf": {{10 * ms, 100 * ms, Late}, {60 * ms, 150 * ms, Late}},
		}},
		"timeout before the deadline": {deadline: 500 * ms, timeout: 100 * ms, limit: 9, want: map[string][]end{
			"plan": {{0, 100 * ms, TimedOut}, {50 * ms, 150 * ms, TimedOut}}, "leaf": {{10 * ms, 100 * ms, Late}, {60 * ms, 150 * ms, Late}},
		}},
		"deadline before the timeout": {deadline: 100 * ms, timeout: 500 * ms, limit: 9, want: map[string][]end{
			"plan": {{0, 100 * ms, Late}, {50 * ms, 150 * ms, Late}}, "leaf": {{10 * ms, 100 * ms, Late}, {60 * ms, 150 * ms, Late}},
		}},
		"none": {limit: 9, want: map[string][]end{
			"plan": {{0, 1010 * ms, Succeeded}, {50 * ms, 1060 * ms, Succeeded}}, "leaf": {{10 * ms, 1010 * ms, Succeeded}, {60 * ms, 1060 * ms, Succeeded}},
		}},
		// The second leaf waits for the first one's slot; it may start before its caller's time
		// is over, and not then.
		"deadline in the queue": {deadline: 100 * ms, limit: 1, want: map[string][]end{
			"plan": {{0, 100 * ms, Late}, {50 * ms, 150 * ms, Late}}, "leaf": {{10 * ms, 100 * ms, Late}, {100 * ms, 150 * ms, Late}},
		}},
	} {
		got := map[string][]end{}
		simulate(t, Config{
			Gates: []sluice.Interceptor{limiter(sluice.Limit{Max: x.limit, Scope: sluice.ForTool("leaf")})},
			Tools: []Tool{
				{Spec: sluice.Spec{Name: "plan", Policy: sluice.Policy{Timeout: x.timeout}}, Service: Constant(10 * ms), Calls: []string{"leaf"}},
				{Spec: sluice.Spec{Name: "leaf"}, Service: Constant(time.Second)},
			},
			Traffic:  []Traffic{{Tool: "plan", Arrivals: Replay(0, 50*ms), Deadline: x.deadline}},
			Duration: time.Minute,
			Each:     func(c Call) { got[c.Tool] = append(got[c.Tool], end{c.Started, c.Ended, c.Outcome}) },
		})
		if fmt.Sprint(got) != fmt.Sprint(x.want) {
			t.Errorf("%s:\n got %v\nwant %v", name, got, x.want)
		}
	}
}

// TestIgnoredTimeoutsAreJudgedInTime: a breaker hears of a call whose code goes on after its
// time when that is over, not when the code ends.
func TestIgnoredTimeoutsAreJudgedInTime(t *testing.T) {
	const ms = time.Millisecond
	run := func(timeout, deadline time.Duration) (first time.Duration, openings int64) {
		first = -1
		r := simulate(t, Config{
			Gates: []sluice.Interceptor{sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 3, Cooldown: time.Hour}))},
			Tools: []Tool{{
				Spec:           sluice.Spec{Name: "work", Policy: sluice.Policy{Timeout: timeout}},
				Service:        Constant(10 * time.Second),
				IgnoresTimeout: true,
			}},
			Traffic:  []Traffic{{Tool: "work", Arrivals: Steady(100), Deadline: deadline}},
			Duration: 5 * time.Second,
			Each: func(c Call) {
				if c.Outcome == Refused && first < 0 {
					first = c.Arrived
				}
			},
		})
		return first, r.Openings
	}
	// Calls come every 10 ms from 0 on; those of 0, 10 and 20 ms are over by 75 ms.
	at, n := run(55*ms, 0)
	assert.Equal(t, 80*ms, at, "a timeout of 55 ms")
	assert.Equal(t, int64(1), n, "a timeout of 55 ms")
	at, n = run(55*ms, 30*ms)
	assert.Equal(t, time.Duration(-1), at, "a caller's deadline before it")
	assert.Zero(t, n, "a caller's deadline before it")
}

// TestCheckerFinds plants what the machine must never do, and sees the checker object.
func TestCheckerFinds(t *testing.T) {
	config := func(g ...sluice.Interceptor) Config {
		return Config{
			Gates:    g,
			Tools:    []Tool{{Spec: sluice.Spec{Name: "work"}, Service: Constant(10 * time.Millisecond)}},
			Traffic:  []Traffic{{Tool: "work", Arrivals: Poisson(500)}},
			Duration: time.Minute,
		}
	}
	find := func(s *simulation, kind admit.Kind) *constraint {
		i := slices.IndexFunc(s.constraints, func(k *constraint) bool {
			return k.class.Kind == kind && !strings.HasPrefix(k.class.Name, "tool/work ")
		})
		return s.constraints[i]
	}
	for want, x := range map[string]struct {
		gates []sluice.Interceptor
		plant func(*simulation)
	}{
		"concurrency global holds 3 of 2": {
			[]sluice.Interceptor{limiter(sluice.Limit{Max: 3})},
			func(s *simulation) { find(s, admit.Slots).max = 2 },
		},
		"charged more than its burst and rate allow": {
			[]sluice.Interceptor{rate("r", sluice.Global, sluice.Rate{N: 101})},
			func(s *simulation) { find(s, admit.Tokens).rate.N = 100 },
		},
		"could start, and nothing is kept": {
			[]sluice.Interceptor{limiter(sluice.Limit{Max: 3})},
			func(s *simulation) { find(s, admit.Slots).max = 4 },
		},
		"1 wait and 2 run, the machine says 0 and 2": {
			[]sluice.Interceptor{limiter(sluice.Limit{Max: 3})},
			func(s *simulation) {
				s.begun = func(*call) {
					if s.total == 100 {
						s.waiting++
					}
				}
			},
		},
		"started while rate/r calls per second is paused": {
			[]sluice.Interceptor{rate("r", sluice.Global, sluice.Rate{N: 100})},
			func(s *simulation) { s.shadow(find(s, admit.Tokens), "").paused = int64(time.Second) },
		},
	} {
		c := config(x.gates...)
		s, err := newSimulation(&c, nil)
		require.NoError(t, err)
		x.plant(s)
		if _, err = s.run(); err == nil {
			t.Errorf("nothing found: want %q", want)
		} else if !strings.Contains(err.Error(), want) && !strings.Contains(want, "wait and") {
			t.Errorf("got %v, want %q", err, want)
		} else if !strings.Contains(err.Error(), "sim: invariant broken at ") {
			t.Errorf("got %v, want the instant and the seed", err)
		}
	}
}

// TestReportJSON: a report survives JSON.
func TestReportJSON(t *testing.T) {
	r := simulate(t, mixed(time.Minute, 3))
	b, err := json.Marshal(r)
	require.NoError(t, err)
	var back Report
	require.NoError(t, json.Unmarshal(b, &back))
	if back.String() != r.String() {
		t.Errorf("after JSON:\n%v\nbefore:\n%v", back, r)
	}
}

// BenchmarkSimulate is calls of mixed traffic, one per op.
func BenchmarkSimulate(b *testing.B) {
	b.ReportAllocs()
	calls := int64(0)
	for b.Loop() {
		r, err := Run(mixed(time.Minute, 1))
		if err != nil {
			b.Fatal(err)
		}
		calls += r.All.Arrived
	}
	b.ReportMetric(float64(calls)/b.Elapsed().Seconds(), "calls/s")
}

// With NoWait a call starts at once or is refused: as many as fit, and nobody waits.
func TestNoWait(t *testing.T) {
	for name, c := range map[string]Config{
		"config": {MaxWait: sluice.NoWait},
		"policy": {MaxWait: time.Hour, Tools: []Tool{{Spec: sluice.Spec{Name: "work", Policy: sluice.Policy{MaxWait: sluice.NoWait}}, Service: Constant(time.Second)}}},
	} {
		c.Gates = []sluice.Interceptor{limiter(sluice.Limit{Max: 2})}
		if c.Tools == nil {
			c.Tools = []Tool{{Spec: sluice.Spec{Name: "work"}, Service: Constant(time.Second)}}
		}
		c.Traffic = []Traffic{{Tool: "work", Arrivals: Steady(8)}}
		c.Duration = 100 * time.Second
		r := simulate(t, c)
		assert.Zero(t, r.All.Wait.Max, name)
		assert.NotZero(t, r.All.Refused, name)
	}
}
