package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A change of a tool's policy, whatever else it adds, takes away or reorders, leaves what the
// rates that stay have counted; a rate that is new starts no fuller than the fullest of its unit.
func TestPolicyChange_RatesKeepWhatTheyCounted(t *testing.T) {
	hour, other := sluice.Rate{N: 10, Per: time.Hour}, sluice.Rate{N: 1000, Unit: "MB"}
	second := sluice.Rate{N: 1000}
	for name, x := range map[string]struct {
		from, to sluice.Policy
		more     int // calls that the new policy lets start at once
	}{
		"a breaker more":         {sluice.Policy{Rates: []sluice.Rate{hour}}, sluice.Policy{Rates: []sluice.Rate{hour}, Breaker: &sluice.BreakerPolicy{}}, 0},
		"a rate more":            {sluice.Policy{Rates: []sluice.Rate{hour}}, sluice.Policy{Rates: []sluice.Rate{hour, other}}, 0},
		"a rate more, in front":  {sluice.Policy{Rates: []sluice.Rate{hour}}, sluice.Policy{Rates: []sluice.Rate{other, hour}}, 0},
		"another order":          {sluice.Policy{Rates: []sluice.Rate{hour, second}}, sluice.Policy{Rates: []sluice.Rate{second, hour}}, 0},
		"a rate less":            {sluice.Policy{Rates: []sluice.Rate{second, hour}}, sluice.Policy{Rates: []sluice.Rate{hour}}, 0},
		"a breaker less":         {sluice.Policy{Rates: []sluice.Rate{hour}, Breaker: &sluice.BreakerPolicy{}}, sluice.Policy{Rates: []sluice.Rate{hour}}, 0},
		"a limit more":           {sluice.Policy{Rates: []sluice.Rate{hour}}, sluice.Policy{Rates: []sluice.Rate{hour}, Concurrency: 3}, 0},
		"another Per":            {sluice.Policy{Rates: []sluice.Rate{hour}}, sluice.Policy{Rates: []sluice.Rate{{N: 240, Per: day, Burst: 10}}}, 0},
		"another N":              {sluice.Policy{Rates: []sluice.Rate{hour}}, sluice.Policy{Rates: []sluice.Rate{{N: 20, Per: time.Hour}}}, 0},
		"one more of its unit":   {sluice.Policy{Rates: []sluice.Rate{hour}}, sluice.Policy{Rates: []sluice.Rate{hour, {N: 1000, Per: day}}}, 0},
		"another one, of a unit": {sluice.Policy{Rates: []sluice.Rate{hour}}, sluice.Policy{Rates: []sluice.Rate{{N: 10, Per: time.Hour, Unit: "MB"}}}, 10},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{MaxWait: sluice.NoWait})
				defer r.end()
				ran := 0
				cost := func(sluice.Call, string) int64 { return 1 }
				x.from.Cost, x.to.Cost = cost, cost
				r.tool(sluice.Spec{Name: "x", Policy: x.from}, func(context.Context) error { ran++; return nil })
				for r.call("x") == nil {
				}
				require.Equal(t, 10, ran, "ran")
				require.NoError(t, sluice.Reconfigure("me", r.reg.WithPolicy("x", x.to)))
				for range 1000 {
					if r.call("x") != nil {
						break
					}
				}
				assert.Equal(t, 10+x.more, ran, "ran at one instant")
			})
		})
	}
}

// So it leaves a breaker's state, what a tool owes and its pause, and what calls that wait
// were told to cost.
func TestPolicyChange_KeepsBreakerDebtPauseAndCosts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &sluice.BreakerPolicy{Failures: 2, Cooldown: time.Hour}
		r := newRig(t, sluice.Config{MaxWait: sluice.NoWait})
		defer r.end()
		r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Breaker: b}}, func(context.Context) error { return errTool })
		change := func(p sluice.Policy) {
			t.Helper()
			require.NoError(t, sluice.Reconfigure("me", r.reg.WithPolicy("x", p)))
		}
		_ = r.call("x")
		change(sluice.Policy{Breaker: b, Rates: []sluice.Rate{{N: 1000}}})
		_ = r.call("x") // the second failure
		for i := range 3 {
			assert.ErrorIs(t, r.call("x"), sluice.ErrBreakerOpen, "%d, want ErrBreakerOpen", i)
			longer := *b
			longer.Cooldown += time.Duration(i) * time.Minute
			change(sluice.Policy{Breaker: &longer, Rates: []sluice.Rate{{N: 1000 + int64(i)}, {N: 5, Unit: "MB"}}[i%2 : 1+i%2]})
		}
	})
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{})
		defer r.end()
		p := sluice.Policy{Rates: []sluice.Rate{{N: 10, Per: 10 * time.Second, Unit: "tokens"}}, Cost: func(sluice.Call, string) int64 { return 1 }}
		r.tool(sluice.Spec{Name: "x", Policy: p}, func(ctx context.Context) error {
			if r.at() == 0 {
				sluice.ReportUsage(ctx, "tokens", 100) // 90 in debt
				return retryIn(50 * time.Second)
			}
			return nil
		})
		_ = r.call("x")
		wait := inOrder(2, func(int) { assert.NoError(t, r.call("x")) })
		p.Rates = append(p.Rates, sluice.Rate{N: 10, Per: time.Hour})
		p.Breaker = &sluice.BreakerPolicy{}
		require.NoError(t, sluice.Reconfigure("me", r.reg.WithPolicy("x", p)))
		wait()
		assert.Equal(t, "[0s 1m31s 1m32s]", fmt.Sprint(r.starts("x")), "starts: 91 tokens take 91 s")
	})
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
		defer r.end()
		asked := 0
		p := sluice.Policy{Rates: []sluice.Rate{{N: 100, Per: time.Hour, Unit: "tokens"}}, Cost: func(sluice.Call, string) int64 { asked++; return 30 }}
		r.tool(sluice.Spec{Name: "x", Policy: p}, sleeps(time.Second))
		r.busy("x")
		done := make(chan sluice.Decision, 1)
		go func() {
			res, err := r.Invoke(r.ctx, sluice.Request{Tool: "x"})
			assert.NoError(t, err)
			done <- res.Decision()
		}()
		synctest.Wait()
		p.Breaker, p.Rates = &sluice.BreakerPolicy{}, append([]sluice.Rate{{N: 10}}, p.Rates...)
		require.NoError(t, sluice.Reconfigure("me", r.reg.WithPolicy("x", p)))
		d := <-done
		if left := r.unitLeft("tool/x", "tokens"); left != 40 || asked != 2 {
			t.Errorf("%d tokens left, want 40; cost asked %d times, want 2; %+v", left, asked, d.Costs)
		}
	})
}

// A rate that is new and has no like before starts no fuller than the fullest of its unit.
func TestPolicyChange_ANewRateIsNoFullerThanTheOthers(t *testing.T) {
	for _, x := range []struct{ spent, next int }{{10, 0}, {5, 3}, {0, 6}} { // of ten, and then of six
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{MaxWait: sluice.NoWait})
			defer r.end()
			hour, week := sluice.Rate{N: 10, Per: time.Hour}, sluice.Rate{N: 6, Per: 7 * day}
			r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Rates: []sluice.Rate{hour}}}, sleeps(0))
			for range x.spent {
				require.NoError(t, r.call("x"))
			}
			require.NoError(t, sluice.Reconfigure("me", r.reg.WithPolicy("x", sluice.Policy{Rates: []sluice.Rate{hour, week}})))
			time.Sleep(time.Hour) // the first is full again
			n := 0
			for ; r.call("x") == nil; n++ {
			}
			assert.Equal(t, x.next, n, "%d of ten spent: the new rate of six let %d start", x.spent, n)
		})
	}
}

// Calls that run or wait while a policy changes count for the breaker that stays.
func TestPolicyChange_CallsUnderWayCountForTheBreaker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &sluice.BreakerPolicy{Failures: 2, Cooldown: time.Hour}
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
		defer r.end()
		r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Breaker: b}}, func(context.Context) error { time.Sleep(time.Second); return errTool })
		wait := inOrder(2, func(int) {
			assert.ErrorIs(t, r.call("x"), errTool, "want the tool's")
		})
		require.NoError(t, sluice.Reconfigure("me", r.reg.WithPolicy("x", sluice.Policy{Breaker: b, Rates: []sluice.Rate{{N: 1000}}})))
		wait()
		assert.ErrorIs(t, r.call("x"), sluice.ErrBreakerOpen, "after two failures, want ErrBreakerOpen")
	})
}

// A limiter's own change finds its rates by unit and period, in whatever order they are named.
func TestReconfigure_FindsRatesInAnyOrder(t *testing.T) {
	hour, second, day1 := sluice.Rate{N: 10, Per: time.Hour}, sluice.Rate{N: 1000}, sluice.Rate{N: 500, Per: day}
	permutations([]sluice.Rate{hour, second, day1}, func(from []sluice.Rate) {
		permutations([]sluice.Rate{hour, second, day1}, func(to []sluice.Rate) {
			bubble(t, func(t *testing.T) {
				q := rates(from...)
				r := newRig(t, sluice.Config{Interceptors: interceptors(q), MaxWait: sluice.NoWait})
				defer r.end()
				ran := 0
				r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { ran++; return nil })
				for r.call("x") == nil {
				}
				require.NoError(t, sluice.Reconfigure("me", q.Change(sluice.RateLimiterConfig{Rates: to})))
				_ = r.call("x")
				time.Sleep(6 * time.Minute)
				for r.call("x") == nil {
				}
				assert.Equal(t, 11, ran, "%v to %v: ran in six minutes of ten an hour", from, to)
			})
		})
	})
}

// A change to what is already so is told to nobody.
func TestReconfigure_NothingChangedIsNotTold(t *testing.T) {
	rec := new(sluice.Recorder)
	l, q := limitsOf(sluice.Limit{Max: 2}, sluice.Limit{Adaptive: &sluice.Adaptive{Min: 1, Max: 4}, Scope: sluice.ByTool}), rates(sluice.Rate{N: 1}, sluice.Rate{N: 5, Per: time.Hour, Unit: "MB"})
	s, b := scheduler(sluice.PrioritySchedulerConfig{TenantWeights: map[string]int{"a": 2}}), breakerOf(sluice.CircuitBreakerConfig{Failures: 3})
	p := sluice.Policy{Concurrency: 3, Rates: []sluice.Rate{{N: 7}, {N: 9, Unit: "MB"}}, Breaker: &sluice.BreakerPolicy{Failures: 2}}
	r := newRig(t, sluice.Config{Interceptors: interceptors(l, q, s, b), Sink: rec})
	r.tool(sluice.Spec{Name: "x", Policy: p}, sleeps(0))
	for range 2 {
		require.NoError(t, sluice.Reconfigure("me", l.Change(l.Config()), q.Change(q.Config()), s.Change(s.Config()), b.Change(b.Config()), r.reg.WithPolicy("x", p)))
	}
	for _, e := range rec.Events() {
		t.Errorf("nothing changed, and %s was told: %q from %q to %q", e.Kind, e.By, e.OldLimit, e.NewLimit)
	}
	p.Concurrency = 4
	require.NoError(t, sluice.Reconfigure("me", r.reg.WithPolicy("x", p)))
	assert.Len(t, rec.Events(), 1, "events of one change")
	r.end()
}

// A limiter's numbers are read while they change.
func TestReconfigure_FailsNoCallUnderWay(t *testing.T) {
	lim := atMost(2)
	rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1_000_000}}}))
	e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{lim, rates}})
	f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, echo))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 300 {
				_, err := f(context.Background(), "")
				assert.NoError(t, err)
			}
		})
	}
	wg.Go(func() {
		for i := range 300 {
			c, r := lim.Config(), rates.Config()
			c.Limits[0].Max = 1 + i%5
			r.Rates[0].N = int64(1_000_000 + i)
			assert.NoError(t, sluice.Reconfigure("test", lim.Change(c), rates.Change(r)))
			assert.NotEmpty(t, fmt.Sprint(e.Snapshot().InFlight), "no snapshot")
		}
	})
	wg.Wait()
}

// Whoever one change lets start starts, whatever a sink of another domain does that is told of it.
func TestReconfigure_ASinkHoldsUpNoOtherDomain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release := make(chan struct{})
		slow := sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if e.Kind == sluice.LimitChanged {
				<-release
			}
			return nil
		})
		var rigs [2]*rig
		var inside [2]gauge
		var changes []sluice.Change
		for i := range rigs {
			hold := atMost(1)
			rigs[i] = newRig(t, sluice.Config{Interceptors: interceptors(hold), Sink: slow})
			rigs[i].tool(sluice.Spec{Name: "x"}, inside[i].counts(time.Minute))
			for range 2 {
				rigs[i].Submit(rigs[i].ctx, sluice.Request{Tool: "x"})
			}
			changes = append(changes, hold.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}}}))
		}
		synctest.Wait()
		go func() {
			if err := sluice.Reconfigure("me", changes...); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		for i := range rigs {
			if n := inside[i].inside.Load(); n != 2 {
				t.Errorf("%d calls of domain %d run, want 2", n, i)
			}
		}
		close(release)
		for _, r := range rigs {
			r.end()
		}
	})
}

// A failing Reconfigure changes nothing and tells nobody.
func TestPromise22_FailingReconfigureChangesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: "l", Limits: []sluice.Limit{{Max: 1}}}))
		q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "q", Rates: []sluice.Rate{{N: 5, Unit: "tokens"}}}))
		b := breakerOf(sluice.CircuitBreakerConfig{Name: "b", Failures: 5})
		s := scheduler(sluice.PrioritySchedulerConfig{Name: "s"})
		sink := new(sluice.Recorder)
		r := newRig(t, sluice.Config{Sink: sink, Interceptors: interceptors(l, q, b, s)})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "work", Policy: sluice.Policy{Concurrency: 3}}, g.counts(ms))
		good := func() []sluice.Change {
			return []sluice.Change{
				l.Change(sluice.ConcurrencyLimiterConfig{Name: "l", Limits: []sluice.Limit{{Max: 9}}}),
				q.Change(sluice.RateLimiterConfig{Name: "q", Rates: []sluice.Rate{{N: 9, Unit: "tokens"}}}),
				b.Change(sluice.CircuitBreakerConfig{Name: "b", Failures: 9}),
				s.Change(sluice.PrioritySchedulerConfig{Name: "s", MaxQueue: 9}),
				r.reg.WithPolicy("work", sluice.Policy{Concurrency: 9}),
			}
		}
		for _, tc := range []struct {
			change sluice.Change
			want   string
		}{
			{sluice.Change{}, "Reconfigure: change 5 is the zero Change: make one with a Change method"},
			{l.Change(l.Config()), "Reconfigure: change 5 is the second of one component: there must be one for each"},
			{r.reg.WithPolicy("work", sluice.Policy{}), "Reconfigure: change 5 is the second of one component: there must be one for each"},
			{l.Change(sluice.ConcurrencyLimiterConfig{}), "ConcurrencyLimiterConfig.Limits is empty: must have at least one limit"},
			{l.Change(sluice.ConcurrencyLimiterConfig{Name: "l", Limits: []sluice.Limit{{Max: 0}}}), fmt.Sprintf("ConcurrencyLimiterConfig.Limits[0].Max is 0: must be from 1 to %d", mostSlots)},
			{l.Change(sluice.ConcurrencyLimiterConfig{Name: "m", Limits: []sluice.Limit{{Max: 1}}}), `ConcurrencyLimiterConfig.Name is "m": cannot change from "l"`},
			{l.Change(sluice.ConcurrencyLimiterConfig{Name: "l", Limits: []sluice.Limit{{Max: 1}, {Max: 1, Unit: "x"}}}), "ConcurrencyLimiterConfig.Limits has 2 entries, the component was made with 1: their number cannot change"},
			{l.Change(sluice.ConcurrencyLimiterConfig{Name: "l", Limits: []sluice.Limit{{Max: 1, Scope: sluice.ByTool}}}), "ConcurrencyLimiterConfig.Limits[0] changes its Scope or Unit: they cannot change"},
			{q.Change(sluice.RateLimiterConfig{Name: "q", Rates: []sluice.Rate{{N: 1}}}), `RateLimiterConfig.Rates[0].Unit is "": cannot change from "tokens"`},
			{q.Change(sluice.RateLimiterConfig{Name: "q", Upstream: true, Rates: []sluice.Rate{{N: 1, Unit: "tokens"}}}), "RateLimiterConfig.Upstream changes: it cannot change"},
			{q.Change(sluice.RateLimiterConfig{Name: "q", Scope: sluice.ByTool, Rates: []sluice.Rate{{N: 1, Unit: "tokens"}}}), "RateLimiterConfig.Scope changes: it cannot change"},
			{q.Change(sluice.RateLimiterConfig{Name: "z", Rates: []sluice.Rate{{N: 1, Unit: "tokens"}}}), "RateLimiterConfig.Name changes: it cannot change"},
			{b.Change(sluice.CircuitBreakerConfig{Name: "c"}), `CircuitBreakerConfig.Name is "c": cannot change from "b"`},
			{b.Change(sluice.CircuitBreakerConfig{Name: "b", Scope: sluice.Global}), "CircuitBreakerConfig.Scope changes: it cannot change"},
			{b.Change(sluice.CircuitBreakerConfig{Name: "b", Ratio: math.NaN()}), "CircuitBreakerConfig.Ratio is NaN: must be from 0 (0.5, or off with Failures) to 1"},
			{s.Change(sluice.PrioritySchedulerConfig{Name: "t"}), `PrioritySchedulerConfig.Name is "t": cannot change from "s"`},
			{s.Change(sluice.PrioritySchedulerConfig{Name: "s", MaxQueue: -1}), "PrioritySchedulerConfig.MaxQueue is -1: must be zero (1000) or positive, up to 1073741824"},
			{r.reg.WithPolicy("other", sluice.Policy{}), `WithPolicy: tool "other" is not registered: must be`},
			{r.reg.WithPolicy("work", sluice.Policy{Timeout: -1}), "Policy.Timeout is -1ns: must be zero or positive, up to 87600h0m0s"},
			{(*sluice.ToolRegistry)(nil).WithPolicy("work", sluice.Policy{}), "WithPolicy: the ToolRegistry is nil"},
		} {
			err := sluice.Reconfigure("test", append(good(), tc.change)...)
			assert.EqualError(t, err, "sluice: "+tc.want, "want sluice: %s", tc.want)
			spec, _ := r.reg.Lookup("work")
			require.Equal(t, 1, l.Config().Limits[0].Max, "a failing Reconfigure (%v) has changed something", err)
			require.Equal(t, int64(5), q.Config().Rates[0].N,
				"a failing Reconfigure (%v) has changed something", err)
			require.Equal(t, 5, b.Config().Failures, "a failing Reconfigure (%v) has changed something", err)
			require.Equal(t, 1000, s.Config().MaxQueue, "a failing Reconfigure (%v) has changed something", err)
			require.Equal(t, 3, spec.Policy.Concurrency, "a failing Reconfigure (%v) has changed something", err)
		}
		assert.Empty(t, sink.Events(), "events of changes that did not happen")
		r.slotsFree("work", &g, 1)
		require.NoError(t, sluice.Reconfigure("test", good()...))
		for _, e := range sink.Events() {
			if e.Kind == sluice.LimitChanged && e.Actor != "test" {
				t.Errorf("changed by %q", e.Actor)
			}
		}
		time.Sleep(time.Minute)
		r.slotsFree("work", &g, 9)
	})
}

// A component of the user's own is changed with the others or not at all, and its code runs outside every lock: it
// may ask the library what it likes.
func TestReconfigure_OwnComponents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limit := atMost(1)
		r := newRig(t, sluice.Config{Interceptors: interceptors(limit)})
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
		to := limit.Config()
		to.Limits[0].Max = 5
		var said []string
		say := func(s string) {
			require.NoError(t, r.call("x"), "the stage is free")
			require.NoError(t, sluice.Reconfigure("inner", limit.Change(limit.Config())), "so is what guards domains")
			said = append(said, fmt.Sprint(s, limit.Config().Limits[0].Max))
		}
		boom := errors.New("boom")
		a, b := new(int), new(int)
		change := func(c any, err error) sluice.Change {
			return sluice.NewChange(c, func() error { say("check"); return err }, func() { say("apply") })
		}
		require.ErrorIs(t, sluice.Reconfigure("x", limit.Change(to), change(a, nil), change(b, boom)), boom)
		require.Equal(t, []string{"check1", "check1"}, said)
		said = nil
		require.ErrorContains(t, sluice.Reconfigure("x", change(a, nil), change(a, nil)), "change 1 is the second of one component")
		bad := limit.Config()
		bad.Limits[0].Max = -1
		require.Error(t, sluice.Reconfigure("x", change(a, nil), limit.Change(bad)))
		require.Equal(t, []string{"check1", "check1", "check1"}, said)
		said = nil
		require.NoError(t, sluice.Reconfigure("x", change(a, nil), limit.Change(to), change(b, nil)))
		require.Equal(t, []string{"check1", "check1", "apply5", "apply5"}, said)
		require.NoError(t, sluice.Reconfigure("x", sluice.NewChange(a, nil, func() {})))
		require.EqualError(t, sluice.Reconfigure("x", sluice.NewChange(a, nil, nil)), "sluice: NewChange: apply is nil: must be a function")
		require.EqualError(t, sluice.Reconfigure("x", sluice.NewChange(nil, nil, func() {})),
			"sluice: NewChange: the component is <nil>: must be one that can be compared, as a pointer")
		require.ErrorContains(t, sluice.Reconfigure("x", sluice.NewChange([]int{}, nil, func() {})), "the component is []int")
		r.end()
	})
}
