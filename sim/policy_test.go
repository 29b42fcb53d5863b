package sim

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/internal/admit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// find is the group of that name.
func find(t *testing.T, list []Group, name string) Group {
	t.Helper()
	for _, g := range list {
		if g.Name == name {
			return g
		}
	}
	t.Fatalf("no group %q", name)
	return Group{}
}

// TestPromise05_SlowToolBesideFastTool: fifty callers of a tool that may start once a
// second cost its neighbour behind the same limit nothing.
func TestPromise05_SlowToolBesideFastTool(t *testing.T) {
	config := func(slow bool) Config {
		c := Config{
			Gates: []sluice.Interceptor{limiter(sluice.Limit{Max: 10})},
			Tools: []Tool{
				{Spec: sluice.Spec{Name: "slow", Policy: sluice.Policy{Rates: []sluice.Rate{{N: 1}}}}, Service: Constant(10 * time.Millisecond)},
				{Spec: sluice.Spec{Name: "fast"}, Service: Constant(10 * time.Millisecond)},
			},
			Traffic:  []Traffic{{Tool: "fast", Arrivals: Callers(20, Dist{})}},
			Duration: time.Minute,
		}
		if slow {
			c.Traffic = append(c.Traffic, Traffic{Tool: "slow", Arrivals: Callers(50, Dist{})})
		}
		return c
	}
	alone := simulate(t, config(false))
	beside := simulate(t, config(true))
	a, b, slow := find(t, alone.Tools, "fast"), find(t, beside.Tools, "fast"), find(t, beside.Tools, "slow")
	t.Logf("fast alone %d, beside the slow one %d (%.2f%%); slow %d", a.Started, b.Started, 100*float64(b.Started)/float64(a.Started), slow.Started)
	assert.Equal(t, int64(60_000), a.Started, "alone %d starts, ten slots of 10 ms for a minute", a.Started)
	if float64(b.Started) < 0.99*float64(a.Started) {
		t.Errorf("%d starts beside the slow tool: want at least 99%% of %d", b.Started, a.Started)
	}
	assert.Equal(t, int64(60), slow.Started,
		"the slow tool started %d times, one at once and one each second before the end", slow.Started)
	assert.Zero(t, beside.Idle.Claim, "idle %v of the time", beside.Idle.Claim)
}

// TestInteractiveBesideBatchBacklog: an interactive call waits no longer than the slots in
// use need to become free, whatever the backlog.
func TestInteractiveBesideBatchBacklog(t *testing.T) {
	for _, backlog := range []int{100, 10_000} {
		c := Config{
			Gates: []sluice.Interceptor{
				limiter(sluice.Limit{Max: 4}),
				scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 20_000}),
			},
			Tools: []Tool{
				{Spec: sluice.Spec{Name: "index", Policy: sluice.Policy{Priority: sluice.PriorityBatch}}, Service: Constant(100 * time.Millisecond)},
				{Spec: sluice.Spec{Name: "answer", Policy: sluice.Policy{Priority: sluice.PriorityInteractive}}, Service: Constant(20 * time.Millisecond)},
			},
			Traffic: []Traffic{
				{Tool: "index", Arrivals: Callers(backlog, Dist{})},
				{Tool: "answer", Arrivals: Poisson(20)},
			},
			Duration: 10 * time.Minute,
		}
		r := simulate(t, c)
		c.Gates = c.Gates[:1]
		c.Traffic[0].Arrivals = Callers(min(backlog, 900), Dist{}) // what the default queue holds
		fifo := simulate(t, c)
		w, f := find(t, r.Tools, "answer").Wait, find(t, fifo.Tools, "answer").Wait
		t.Logf("backlog %d: interactive waits p50 %v p99 %v max %v; first in, first out p50 %v", backlog, w.P50, w.P99, w.Max, f.P50)
		if w.Max > 100*time.Millisecond {
			t.Errorf("backlog %d: waited up to %v: want at most 100ms, what the calls that run need", backlog, w.Max)
		}
		if f.P50 < 20*w.P50 {
			t.Errorf("backlog %d: first in, first out waits p50 %v: want far more than %v, or this shows nothing", backlog, f.P50, w.P50)
		}
		if r.Beyond != 0 || r.Idle != (Idle{}) {
			t.Errorf("backlog %d: %d starts beyond the bound, idle %v: want none", backlog, r.Beyond, r.Idle)
		}
		batch, answer := find(t, r.Tools, "index"), find(t, r.Tools, "answer")
		if got, want := batch.Goodput*0.1+answer.Goodput*0.02, 4.0; math.Abs(got-want) > 0.01 {
			t.Errorf("backlog %d: %v slots did work on average: want %v", backlog, got, want)
		}
	}
}

// TestPromise06_LevelsAtOneConstraint: between two starts of a level at most
// Ageing*(pmax-p) + levels - 1 others, exactly reached where all levels always wait.
func TestPromise06_LevelsAtOneConstraint(t *testing.T) {
	for _, ageing := range []int{1, 4, 8, 16} {
		c := Config{
			Gates: []sluice.Interceptor{
				limiter(sluice.Limit{Max: 3}),
				scheduler(sluice.PrioritySchedulerConfig{Ageing: ageing}),
			},
			Tools:    []Tool{{Spec: sluice.Spec{Name: "work"}, Service: Exponential(10 * time.Millisecond)}},
			Duration: 3 * time.Minute,
		}
		for p := sluice.Priority(3); p <= 7; p++ {
			c.Traffic = append(c.Traffic, Traffic{Name: fmt.Sprint(p), Tool: "work", Priority: p, Arrivals: Callers(30, Dist{})})
		}
		r := simulate(t, c)
		t.Logf("ageing %d: %v", ageing, r.Passed)
		assert.Zero(t, r.Beyond, "ageing %d: starts beyond the bound: %v", ageing, r.Passed)
		for _, p := range r.Passed {
			if p.Worst < p.Bound/2 {
				t.Errorf("ageing %d: level %d was passed by %d at most, far from the bound %d: this shows nothing", ageing, p.Priority, p.Worst, p.Bound)
			}
		}
	}
}

// TestPromise06_TenantsAtOneConstraint: backlogged tenants share by weight, within
// 1/wi + 1/wj, also while others come and go.
func TestPromise06_TenantsAtOneConstraint(t *testing.T) {
	gates := map[string]sluice.Interceptor{
		"slots": limiter(sluice.Limit{Max: 4}),
		"rate":  rate("r", sluice.Global, sluice.Rate{N: 400, Burst: 1}),
	}
	for name, g := range gates {
		r := simulate(t, Config{
			Gates: []sluice.Interceptor{g, scheduler(sluice.PrioritySchedulerConfig{TenantWeights: map[string]int{"heavy": 3}, MaxQueue: 5000, MaxPerTenant: 1000})},
			Tools: []Tool{{Spec: sluice.Spec{Name: "work"}, Service: Exponential(10 * time.Millisecond)}},
			Traffic: []Traffic{
				{Tool: "work", Tenant: "heavy", Arrivals: Callers(100, Dist{})},
				{Tool: "work", Tenant: "light", Arrivals: Callers(100, Dist{})},
				{Tool: "work", Tenant: "now and then", Arrivals: Bursty(200, time.Second, 3*time.Second)},
			},
			Duration: 3 * time.Minute,
		})
		h, l := find(t, r.Tenants, "heavy"), find(t, r.Tenants, "light")
		ratio := float64(h.Started) / float64(l.Started)
		t.Logf("%s: heavy %.1f%%, light %.1f%% (ratio %.4f), apart by %.3f of the bound", name, 100*h.Share, 100*l.Share, ratio, r.Uneven)
		if math.Abs(ratio-3) > 0.01 {
			t.Errorf("%s: weight 3 got %.4f times as much as weight 1: want 3", name, ratio)
		}
		if r.Uneven > 1.0001 {
			t.Errorf("%s: tenants were %.3f of their bound apart: want at most 1", name, r.Uneven)
		}
	}
}

// crossing is three limits, each of which has enough callers of its own, and calls that
// need two or all three of them, at the same level or below.
func crossing(seed uint64, ageing int, oneLevel bool) Config {
	limit := func(name string, tools ...string) sluice.Interceptor {
		return sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: name, Limits: []sluice.Limit{{Max: 4, Scope: sluice.ForTool(tools...)}}}))
	}
	c := Config{
		Gates: []sluice.Interceptor{
			limit("x", "x", "xy", "zx", "xyz"),
			limit("y", "y", "xy", "yz", "xyz"),
			limit("z", "z", "yz", "zx", "xyz"),
			scheduler(sluice.PrioritySchedulerConfig{Ageing: ageing}),
		},
		Duration: time.Minute,
		Seed:     seed,
	}
	for _, name := range []string{"x", "y", "z", "xy", "yz", "zx", "xyz"} {
		c.Tools = append(c.Tools, Tool{Spec: sluice.Spec{Name: name}, Service: Exponential(10 * time.Millisecond)})
		n, p := 20, sluice.PriorityInteractive
		if len(name) == 2 {
			n, p = 5, sluice.PriorityNormal
		} else if len(name) == 3 {
			n, p = 5, sluice.PriorityBatch
		}
		if oneLevel {
			p = sluice.PriorityNormal
		}
		c.Traffic = append(c.Traffic, Traffic{Tool: name, Priority: p, Arrivals: Callers(n, Dist{})})
	}
	return c
}

// TestCrossingConstraints prints the tables that the package documentation cites: how
// often a call that needs three saturated limits is overtaken, and what it costs to bound
// that, for several settings of ageing and claims.
func TestCrossingConstraints(t *testing.T) {
	const seeds, never = 1, math.MaxInt
	type row struct {
		over, starts int64
		idle, used   float64
	}
	rows := make(map[[2]int]row)
	measure := func(ageing, claim int, oneLevel bool) string {
		var r row
		for seed := range uint64(seeds) {
			rep, err := run(crossing(seed, ageing, oneLevel), func(p *admit.Policy) { p.Claim = claim })
			require.NoError(t, err)
			g := find(t, rep.Tools, "xyz")
			r.over = max(r.over, rep.Overtaken.Max)
			r.starts += g.Started
			r.idle += 100 * rep.Idle.Claim / seeds
			for _, l := range rep.Limits {
				r.used += 100 * l.Used / 3 / seeds
			}
		}
		if !oneLevel {
			rows[[2]int{ageing, claim}] = r
		}
		after, over := fmt.Sprint(claim), fmt.Sprint(r.over)
		if claim == never {
			after = "never"
			if r.starts == 0 {
				over = "for ever"
			}
		}
		return fmt.Sprintf("%6d  %12s  %15s  %10d  %8.2f%%  %9.2f%%\n", ageing, after, over, r.starts, r.idle, r.used)
	}
	const head = "ageing  claims after  worst overtakes  xyz starts  idle time  slots used\n"
	var b strings.Builder
	b.WriteString("\nxyz at the lowest of three levels\n" + head)
	ageings, claims := []int{4, 8, 16}, []int{1, 2, 4, 8, 16, never}
	if raced {
		ageings, claims = []int{8}, []int{4, never}
	}
	for _, a := range ageings {
		for _, claim := range claims {
			b.WriteString(measure(a, claim, false))
		}
	}
	b.WriteString("all at one level\n" + head)
	for _, claim := range claims {
		b.WriteString(measure(8, claim, true))
	}
	t.Log(b.String())
	for _, a := range ageings {
		none := rows[[2]int{a, never}]
		if none.idle != 0 || none.starts > 0 {
			t.Errorf("ageing %d without claims: idle %v%% of the time and %d starts: want none of both", a, none.idle, none.starts)
		}
		for _, claim := range claims[:len(claims)-1] {
			r := rows[[2]int{a, claim}]
			// Both follow the product of the two, as the documentation says.
			if most := int64(200 * a * claim); r.over > most {
				t.Errorf("ageing %d, claims after %d: overtaken by %d: want at most %d", a, claim, r.over, most)
			}
			if lost, most := 100-r.used, 12/float64(a*claim); lost > most {
				t.Errorf("ageing %d, claims after %d: %.2f%% of the slots not used: want at most %.2f%%", a, claim, lost, most)
			}
		}
	}
}

// TestOverload: at several times what can be done, as much is done as can be, and what is
// admitted has waited no longer than allowed.
func TestOverload(t *testing.T) {
	const capacity = 100.0 // ten slots of 100 ms
	for _, times := range []float64{2, 5, 10} {
		for _, d := range []Dist{Constant(100 * time.Millisecond), Exponential(100 * time.Millisecond), LogNormal(62*time.Millisecond, 583*time.Millisecond)} {
			r := simulate(t, Config{
				Gates: []sluice.Interceptor{
					limiter(sluice.Limit{Max: 10}),
					scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 150}),
				},
				Tools:    []Tool{{Spec: sluice.Spec{Name: "work"}, Service: d}},
				Traffic:  []Traffic{{Tool: "work", Arrivals: Poisson(times * capacity)}},
				MaxWait:  2 * time.Second,
				Duration: 3 * time.Minute,
			})
			// Slots may be slower or faster than 100 ms on average: capacity is what ten always
			// busy ones would have done.
			done := r.Limits[0].Used
			t.Logf("%2.0fx, %v: %.1f/s, slots %.2f%% used, waits p99 %v max %v, %d refused", times, d, r.All.Goodput, 100*done, r.All.Wait.P99, r.All.Wait.Max, r.All.Refused)
			if done < 0.95 {
				t.Errorf("%vx, %v: slots %.2f%% used: want at least 95%%", times, d, 100*done)
			}
			if d.kind == constant && r.All.Goodput < 0.95*capacity {
				t.Errorf("%vx: %.1f/s: want at least 95%% of %v/s", times, r.All.Goodput, capacity)
			}
			if r.All.Wait.P99 > 2*time.Second || r.All.Wait.Max > 2*time.Second {
				t.Errorf("%vx, %v: waits p99 %v, max %v: want at most MaxWait, 2s", times, d, r.All.Wait.P99, r.All.Wait.Max)
			}
			if got := r.All.Succeeded + r.All.Refused + r.All.Waiting; r.All.Arrived-got > 10 {
				t.Errorf("%vx, %v: %d calls of %d are accounted for", times, d, got, r.All.Arrived)
			}
		}
	}
}

// TestOverloadWithDeadlines: where callers give up, first in, first out works for those who
// have no time left; refusing by estimate does work that is still wanted.
func TestOverloadWithDeadlines(t *testing.T) {
	goodput := func(s sluice.PrioritySchedulerConfig) float64 {
		r := simulate(t, Config{
			Gates:    []sluice.Interceptor{limiter(sluice.Limit{Max: 10}), scheduler(s)},
			Tools:    []Tool{{Spec: sluice.Spec{Name: "work"}, Service: Constant(100 * time.Millisecond)}},
			Traffic:  []Traffic{{Tool: "work", Arrivals: Poisson(500), Deadline: time.Second}},
			Duration: 5 * time.Minute,
		})
		t.Logf("refuse late %v: %.1f/s in time, %d late, p99 %v", s.RefuseLate, r.All.Goodput, r.All.Late, r.All.Wait.P99)
		return r.All.Goodput
	}
	plain := goodput(sluice.PrioritySchedulerConfig{})
	if late := goodput(sluice.PrioritySchedulerConfig{RefuseLate: true}); late < 80 || plain > late/2 {
		t.Errorf("%.1f/s with RefuseLate and %.1f/s without: want at least 80 of 100/s, and less than half of it", late, plain)
	}
}

// TestAdaptiveFollowsCapacity: an adaptive limit finds a backend's capacity and follows it.
func TestAdaptiveFollowsCapacity(t *testing.T) {
	config := func(l sluice.Limit) Config {
		return Config{
			Gates: []sluice.Interceptor{limiter(l), scheduler(sluice.PrioritySchedulerConfig{})},
			Tools: []Tool{{
				Spec:        sluice.Spec{Name: "work"},
				Service:     Constant(100 * time.Millisecond),
				Capacity:    []Step{{Max: 20}, {From: 3 * time.Minute, Max: 8}, {From: 6 * time.Minute, Max: 20}},
				RejectAfter: Constant(50 * time.Millisecond),
			}},
			Traffic:  []Traffic{{Tool: "work", Arrivals: Callers(100, Dist{})}},
			Duration: 9 * time.Minute,
		}
	}
	fixed := simulate(t, config(sluice.Limit{Max: 50}))
	adaptive := simulate(t, config(sluice.Limit{Adaptive: &sluice.Adaptive{Min: 1, Max: 50}}))
	most := (20.0 + 8 + 20) / 3 / 0.1 // per second
	t.Logf("the backend can do %.0f/s: %.1f/s and %d overloads with an adaptive limit, %.1f/s and %d with 50", most, adaptive.All.Goodput, adaptive.All.Overloaded, fixed.All.Goodput, fixed.All.Overloaded)
	if adaptive.All.Goodput < 0.93*most {
		t.Errorf("%.1f/s: want at least 93%% of %.1f/s", adaptive.All.Goodput, most)
	}
	if share := float64(adaptive.All.Overloaded) / float64(adaptive.All.Started); share > 0.01 {
		t.Errorf("%.2f%% of the calls met an overload: want at most 1%%", 100*share)
	}
	if fixed.All.Overloaded < fixed.All.Started/2 {
		t.Errorf("%d of %d met an overload with a fixed limit: want most, or this shows nothing", fixed.All.Overloaded, fixed.All.Started)
	}
}
