package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// end is what became of one call.
type end struct {
	started time.Duration // -1 if it did not
	outcome Outcome
}

// busy is what a backend answers that has too much to do.
type busy struct{ after time.Duration }

func (busy) Error() string               { return "too busy" }
func (b busy) RetryAfter() time.Duration { return b.after }

func newBackend(t *Tool) *tool { return &tool{Tool: *t} }

// TestSimulationIsTheExecutor runs the same traffic through the simulator and through a
// real Executor on virtual time: every call must start at the same nanosecond and end the
// same way. So whatever the simulator says holds for the library, and the constraints that
// it builds from public configurations are those that the library builds.
func TestSimulationIsTheExecutor(t *testing.T) {
	outcomes, reasons := make(map[Outcome]int), make(map[string]int64)
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c := script(seed)
			want := make(map[string]end)
			c.Each = func(k Call) {
				want[fmt.Sprint(k.Traffic, " ", int64(k.Arrived))] = end{k.Started, k.Outcome}
				outcomes[k.Outcome]++
			}
			s, err := newSimulation(&c, nil)
			require.NoError(t, err)
			service := make(map[string]time.Duration)
			s.begun = func(k *call) {
				service[fmt.Sprint(k.s.name, " ", k.arrived)] = time.Duration(k.service)
			}
			r, err := s.run()
			require.NoError(t, err)
			if r.All.Waiting > 0 {
				t.Fatalf("%d calls wait at the end: the script is too short", r.All.Waiting)
			}
			for _, f := range r.Refusals {
				reasons[f.Reason] += f.Count
			}
			synctest.Test(t, func(t *testing.T) {
				got := execute(t, c, service)
				wrong := 0
				for _, k := range slices.Sorted(maps.Keys(want)) {
					if g, ok := got[k]; !ok || g != want[k] {
						if wrong++; wrong <= 5 {
							t.Errorf("%s: the executor %v, the simulation %v", k, g, want[k])
						}
					}
				}
				if len(got) != len(want) || wrong > 0 {
					t.Errorf("%d calls differ of %d, of which the executor saw %d", wrong, len(want), len(got))
				}
			})
		})
	}
	t.Logf("outcomes %v, refusals %v", outcomes, reasons)
	for o := Succeeded; o <= Refused; o++ {
		assert.NotZero(t, outcomes[o], "no call %v: the scripts miss something", o)
	}
	for _, want := range []string{"wait too long", "breaker open", "queue full", "queue full, shed"} {
		assert.NotZero(t, reasons[want], "nothing was refused as %q: the scripts miss something", want)
	}
}

// TestWhatCostsNothingCountsByItsUse: a call that is taken to cost nothing is charged what it reports, as by an executor.
func TestWhatCostsNothingCountsByItsUse(t *testing.T) {
	const ms = time.Millisecond
	spec := sluice.Spec{Name: "work", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 0 }}}
	tokens := func() sluice.Interceptor {
		return rate("model", sluice.Global, sluice.Rate{N: 100, Burst: 10, Unit: "tokens"})
	}
	for name, input := range map[string]func(int64) any{"alike": nil, "each by its input": func(n int64) any { return n }} {
		var starts []time.Duration
		r := simulate(t, Config{
			Gates:    []sluice.Interceptor{tokens()},
			Tools:    []Tool{{Spec: spec, Service: Constant(10 * ms)}},
			Traffic:  []Traffic{{Tool: "work", Arrivals: Callers(1, Dist{}), Uses: map[string]Dist{"tokens": Constant(20)}, Input: input}},
			Duration: 10*time.Second - 1,
			Each:     func(c Call) { starts = append(starts, c.Started) },
		})
		require.Len(t, r.Limits, 1)
		require.Len(t, starts, 999, name) // nobody waits for nothing
		require.InDelta(t, 20_000/1_010.0, r.Limits[0].Used, 0.03, name)
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{tokens()}}))
			work := sluice.Must(sluice.Wrap(e, spec, func(ctx context.Context, _ int) (time.Duration, error) {
				at := time.Since(began)
				time.Sleep(10 * ms)
				sluice.ReportUsage(ctx, "tokens", 20)
				return at, nil
			}))
			for i, want := range starts[:100] {
				at, err := work(t.Context(), 0)
				require.NoError(t, err)
				require.Equal(t, want, at, "%s: start %d", name, i)
			}
			require.NoError(t, e.Close(t.Context()))
		})
	}
}

// TestCostsSeeTheInput: where a stream has inputs, the cost function is asked about calls with their inputs alone.
func TestCostsSeeTheInput(t *testing.T) {
	var asked []int64
	spec := sluice.Spec{Name: "work", Policy: sluice.Policy{Cost: func(c sluice.Call, _ string) int64 {
		asked = append(asked, c.Input.(int64))
		return 1
	}}}
	simulate(t, Config{
		Gates:    []sluice.Interceptor{rate("model", sluice.Global, sluice.Rate{N: 100, Unit: "tokens"})},
		Tools:    []Tool{{Spec: spec, Service: Constant(time.Millisecond)}},
		Traffic:  []Traffic{{Tool: "work", Arrivals: Flood(3), Input: func(n int64) any { return n }}},
		Duration: time.Second,
	})
	require.Equal(t, []int64{0, 1, 2}, asked)
}

// TestLoopsDoNotWaitForIgnoredTimeouts: a loop has its answer when the time of its call is over, as in an executor, and the
// code that goes on keeps its slot.
func TestLoopsDoNotWaitForIgnoredTimeouts(t *testing.T) {
	const s = time.Second
	want := []time.Duration{0, 1 * s, 10 * s, 11 * s, 20 * s, 21 * s, 30 * s}
	spec := sluice.Spec{Name: "work", Policy: sluice.Policy{Timeout: s, Concurrency: 2}}
	var got []time.Duration
	c := Config{
		Tools:    []Tool{{Spec: spec, Service: Constant(10 * s), IgnoresTimeout: true}},
		Traffic:  []Traffic{{Tool: "work", Arrivals: Callers(1, Dist{})}},
		Duration: 25 * s,
	}
	x, err := newSimulation(&c, nil)
	require.NoError(t, err)
	x.begun = func(k *call) { got = append(got, time.Duration(k.started)) }
	_, err = x.run()
	require.NoError(t, err)
	require.Equal(t, want, got)
	synctest.Test(t, func(t *testing.T) {
		began, starts := time.Now(), make(chan time.Duration, len(want))
		e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
		work := sluice.Must(sluice.Wrap(e, spec, func(context.Context, int) (int, error) {
			starts <- time.Since(began)
			time.Sleep(10 * s)
			return 0, nil
		}))
		for i, at := range want {
			_, err := work(t.Context(), 0)
			require.ErrorIs(t, err, sluice.ErrTimeout)
			require.Equal(t, at, <-starts, "start %d", i)
		}
		require.NoError(t, e.Close(t.Context()))
	})
}

// script is a few seconds of traffic in which no two things happen at one instant.
func script(seed uint64) Config {
	r := rand.New(rand.NewPCG(seed, 99))
	order := scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 40, Shed: seed%2 == 0, RefuseLate: seed%3 == 0, ShedStanding: seed%4 == 1, TenantWeights: map[string]int{"a": 3}})
	first := sluice.Limit{Max: 6}
	if seed%2 == 1 {
		first = sluice.Limit{Adaptive: &sluice.Adaptive{Min: 2, Max: 8}}
	}
	c := Config{
		Gates: []sluice.Interceptor{
			limiter(first, sluice.Limit{Max: 3, Scope: sluice.ForType("web")}, sluice.Limit{Max: 4, Scope: sluice.ByTenant}, sluice.Limit{Max: 5, Scope: sluice.ForTool("fetch"), Unit: "weight"}),
			rate("keys", sluice.ByKey("region", func(c sluice.Call) string { return c.Pipeline.Attrs["region"] }), sluice.Rate{N: 30, Burst: 5}),
			rate("model", sluice.ForTool("ask"), sluice.Rate{N: 3000, Unit: "tokens", Burst: 900}),
			sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "upstream", Scope: sluice.ByType, Upstream: true, Rates: []sluice.Rate{{N: 1000}}})),
			sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 3, Cooldown: 150*time.Millisecond + 7})),
			order,
		},
		Tools: []Tool{
			{Spec: sluice.Spec{Name: "search", Type: "web"}, Service: Uniform(30*time.Millisecond, 50*time.Millisecond)},
			{Spec: sluice.Spec{Name: "fetch", Type: "web", Policy: sluice.Policy{
				Rates: []sluice.Rate{{N: 40, Burst: 4}},
				Cost: func(c sluice.Call, unit string) int64 {
					if unit == "weight" {
						return int64(1 + len(c.Tool+c.Pipeline.Tenant)%3)
					}
					return 1
				},
			}}, Service: Uniform(40*time.Millisecond, 65*time.Millisecond),
				Outages: []Outage{{From: time.Second, For: 300 * time.Millisecond}}},
			{Spec: sluice.Spec{Name: "ask", Policy: sluice.Policy{MaxWait: 200 * time.Millisecond, Concurrency: 3}}, Service: Uniform(20*time.Millisecond, 40*time.Millisecond),
				Capacity: []Step{{Max: 99}, {From: time.Second, Max: 0}, {From: 1200 * time.Millisecond, Max: 99}}, RejectAfter: Uniform(time.Millisecond, 2*time.Millisecond), RetryAfter: Constant(217_000_023 * time.Nanosecond),
				Outages: []Outage{{From: 960 * time.Millisecond, For: 40 * time.Millisecond}}}, // its breaker opens, and then it is throttled
			{Spec: sluice.Spec{Name: "plan", Policy: sluice.Policy{Priority: 7}}, Service: Uniform(3*time.Millisecond, 7*time.Millisecond), Calls: []string{"search", "note"}},
			{Spec: sluice.Spec{Name: "note"}, Service: Uniform(1*time.Millisecond, 3*time.Millisecond)},
			{Spec: sluice.Spec{Name: "slow", Policy: sluice.Policy{Timeout: 30_000_001}}, Service: Uniform(20*time.Millisecond, 40*time.Millisecond)},
		},
		MaxWait:  700 * time.Millisecond,
		Duration: 10 * time.Second,
		Seed:     seed,
	}
	replay := func(n int) Arrivals {
		times := make([]time.Duration, n)
		for i := range times {
			times[i] = time.Duration(r.Int64N(int64(3 * time.Second)))
		}
		return Replay(times...)
	}
	north, south := map[string]string{"region": "north"}, map[string]string{"region": "south"}
	c.Traffic = []Traffic{
		{Tool: "search", Tenant: "a", Priority: sluice.PriorityInteractive, Arrivals: replay(60), Attrs: north},
		{Tool: "search", Tenant: "b", Arrivals: replay(90), Attrs: south},
		{Tool: "fetch", Tenant: "a", Arrivals: replay(60)},
		{Tool: "fetch", Tenant: "b", Priority: sluice.PriorityBatch, Arrivals: replay(60), Attrs: north, Deadline: 400 * time.Millisecond},
		{Tool: "ask", Tenant: "a", Arrivals: replay(80), Uses: map[string]Dist{"tokens": Constant(70)}},
		{Tool: "ask", Tenant: "c", Priority: 6, Arrivals: replay(80), Uses: map[string]Dist{"tokens": Constant(45)}},
		{Tool: "plan", Tenant: "c", Arrivals: replay(30)},
		{Tool: "slow", Tenant: "b", Arrivals: replay(20)},
	}
	return c
}

// execute runs the traffic of c through an Executor. service is how long the tools take.
func execute(t *testing.T, c Config, service map[string]time.Duration) map[string]end {
	epoch := time.Now()
	// Gates of their own: these are used, not only read, and a bubble's are not another's.
	fresh := script(c.Seed)
	e, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: fresh.Gates, MaxWait: c.MaxWait, Timeout: c.Timeout})
	require.NoError(t, err)
	var mu sync.Mutex
	got := make(map[string]end)
	type key struct{}
	type attempt struct {
		name    string
		service time.Duration
		started atomic.Int64
	}
	invoke := func(ctx context.Context, name, toolName string) error {
		id := fmt.Sprint(name, " ", int64(time.Since(epoch)))
		a := &attempt{name: name, service: service[id]}
		a.started.Store(-1)
		ctx = context.WithValue(ctx, key{}, a)
		_, err := e.Invoke(ctx, sluice.Request{Tool: toolName, Input: 0})
		out, b := Succeeded, busy{}
		switch {
		case errors.Is(err, sluice.ErrRejected):
			out = Refused
		case errors.Is(err, sluice.ErrTimeout):
			out = TimedOut
		case errors.Is(err, context.DeadlineExceeded):
			out = Late
		case errors.As(err, &b):
			out = Overloaded
		case err != nil:
			out = Failed
		}
		mu.Lock()
		got[id] = end{time.Duration(a.started.Load()), out}
		mu.Unlock()
		return err
	}
	uses := make(map[string]map[string]Dist)
	for _, tr := range c.Traffic {
		uses[tr.name()] = tr.Uses
	}
	for i := range c.Tools {
		tool := &c.Tools[i]
		backend := newBackend(tool)
		var running atomic.Int64
		wait := func(ctx context.Context, d time.Duration) error {
			timer := time.NewTimer(d)
			defer timer.Stop()
			select {
			case <-timer.C:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		_, err := sluice.Wrap(e, tool.Spec, func(ctx context.Context, _ int) (int, error) {
			now := time.Since(epoch)
			a := ctx.Value(key{}).(*attempt)
			a.started.Store(int64(now))
			settle := func(zero bool) {
				for unit, d := range uses[a.name] {
					if zero {
						d.a = 0
					}
					sluice.ReportUsage(ctx, unit, int64(d.a))
				}
			}
			if running.Load() >= int64(backend.capacity(int64(now))) {
				if err := wait(ctx, a.service); err != nil {
					return 0, err
				}
				settle(true)
				return 0, busy{time.Duration(tool.RetryAfter.a)}
			}
			running.Add(1)
			failed := backend.outage(int64(now)) != nil
			err := wait(ctx, a.service)
			running.Add(-1)
			if err != nil {
				return 0, err
			}
			for _, sub := range tool.Calls {
				if !failed {
					invoke(ctx, a.name+" > "+sub, sub)
				}
			}
			settle(false)
			if failed {
				return 0, errors.New("outage")
			}
			return 0, nil
		})
		require.NoError(t, err)
	}
	var group sync.WaitGroup
	for _, tr := range c.Traffic {
		for _, d := range tr.Arrivals.times {
			group.Go(func() {
				time.Sleep(d)
				ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: tr.Tenant, Priority: tr.Priority, Attrs: tr.Attrs})
				if tr.Deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tr.Deadline)
					defer cancel()
				}
				invoke(ctx, tr.name(), tr.Tool)
			})
		}
	}
	group.Wait()
	assert.NoError(t, e.Close(t.Context()))
	return got
}
