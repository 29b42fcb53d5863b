package sluice_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

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
		"a breaker more":         {sluice.Policy{Rates: []sluice.Rate{hour}}, sluice.Policy{Rates: []sluice.Rate{hour}, Breaker: &sluice.CircuitBreakerConfig{}}, 0},
		"a rate more":            {sluice.Policy{Rates: []sluice.Rate{hour}}, sluice.Policy{Rates: []sluice.Rate{hour, other}}, 0},
		"a rate more, in front":  {sluice.Policy{Rates: []sluice.Rate{hour}}, sluice.Policy{Rates: []sluice.Rate{other, hour}}, 0},
		"another order":          {sluice.Policy{Rates: []sluice.Rate{hour, second}}, sluice.Policy{Rates: []sluice.Rate{second, hour}}, 0},
		"a rate less":            {sluice.Policy{Rates: []sluice.Rate{second, hour}}, sluice.Policy{Rates: []sluice.Rate{hour}}, 0},
		"a breaker less":         {sluice.Policy{Rates: []sluice.Rate{hour}, Breaker: &sluice.CircuitBreakerConfig{}}, sluice.Policy{Rates: []sluice.Rate{hour}}, 0},
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
		b := &sluice.CircuitBreakerConfig{Failures: 2, Cooldown: time.Hour}
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
		p.Breaker = &sluice.CircuitBreakerConfig{}
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
		p.Breaker, p.Rates = &sluice.CircuitBreakerConfig{}, append([]sluice.Rate{{N: 10}}, p.Rates...)
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
		b := &sluice.CircuitBreakerConfig{Failures: 2, Cooldown: time.Hour}
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
func TestLimiterChange_InAnyOrder(t *testing.T) {
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

// A lower MaxKeys takes effect as keys fall idle; a key that owes, waits or has failures stays.
func TestLimiterChange_LowerMaxKeys(t *testing.T) {
	bubble(t, func(t *testing.T) {
		conf := sluice.RateLimiterConfig{Name: "q", Scope: sluice.ByTenant, MaxKeys: 50, Rates: []sluice.Rate{{N: 1, Per: time.Minute}}}
		q := sluice.Must(sluice.NewRateLimiter(conf))
		r := newRig(t, sluice.Config{Interceptors: interceptors(q), MaxWait: sluice.NoWait})
		defer r.end()
		r.tool(sluice.Spec{Name: "x"}, sleeps(0))
		keys := func() (n int) {
			for _, g := range r.Snapshot().Gates {
				if g.Kind == sluice.GateRate {
					n++
				}
			}
			return n
		}
		call := func(tenant string) error {
			_, err := r.Invoke(r.as(0, tenant), sluice.Request{Tool: "x"})
			return err
		}
		for i := range 50 {
			require.NoError(t, call(fmt.Sprint("t", i)))
		}
		conf.MaxKeys = 10
		require.NoError(t, sluice.Reconfigure("me", q.Change(conf)))
		assert.Equal(t, 50, keys(), "keys: all of them are busy")
		var e *sluice.Error
		if err := call("new"); !errors.As(err, &e) || e.Reason != sluice.ErrSaturated || e.RetryAfter != time.Minute {
			t.Errorf("%v, want ErrSaturated for a minute", err)
		}
		assert.ErrorIs(t, call("t1"), sluice.ErrWaitTooLong, "want its own token to be spent")
		time.Sleep(time.Minute)
		require.NoError(t, call("new"))
		if n := keys(); n > 10 {
			t.Errorf("%d keys, want at most 10", n)
		}
	})
}

// A keyed breaker that has counted failures keeps its key while they count: a full table
// refuses others with the time, and evicts none of these.
func TestBreakerKeysWithFailuresStay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 3, Scope: sluice.ByTenant, MaxKeys: 4, Cooldown: time.Hour})
		r := newRig(t, sluice.Config{Interceptors: interceptors(b)})
		defer r.end()
		r.tool(sluice.Spec{Name: "bad"}, func(context.Context) error { return errTool })
		r.tool(sluice.Spec{Name: "good"}, sleeps(0))
		call := func(tool, tenant string) error {
			_, err := r.Invoke(r.as(0, tenant), sluice.Request{Tool: tool})
			return err
		}
		for i := range 4 {
			for range 2 {
				_ = call("bad", fmt.Sprint("t", i))
			}
		}
		for i := range 20 {
			var e *sluice.Error
			if err := call("good", fmt.Sprint("new", i)); !errors.As(err, &e) || e.Reason != sluice.ErrSaturated {
				t.Errorf("%v, want ErrSaturated", err)
			}
		}
		for i := range 4 {
			_ = call("bad", fmt.Sprint("t", i)) // the third failure in a row
			if s, err := b.State(fmt.Sprint("t", i)); err != nil || s != sluice.BreakerOpen {
				t.Errorf("t%d is %v, %v: want open after three failures", i, s, err)
			}
			require.NoError(t, b.Reset(fmt.Sprint("t", i)))
		}
		require.NoError(t, call("good", "new"))
	})
}

// They count for as long as the breaker itself goes by them, an hour without a result: until then
// a full table refuses others with what is left of it, and from then on the keys make room.
func TestBreakerKeysWithFailuresStayForAnHour(t *testing.T) {
	const keys = 4
	for _, idle := range []time.Duration{time.Minute, 2 * time.Minute, time.Hour - 1, time.Hour} {
		t.Run(fmt.Sprint("after ", idle), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := breakerOf(sluice.CircuitBreakerConfig{Failures: 3, Scope: sluice.ByTenant, MaxKeys: keys})
				r := newRig(t, sluice.Config{Interceptors: interceptors(b)})
				defer r.end()
				r.tool(sluice.Spec{Name: "bad"}, func(context.Context) error { return errTool })
				r.tool(sluice.Spec{Name: "good"}, sleeps(0))
				call := func(tool, tenant string) error {
					_, err := r.Invoke(r.as(0, tenant), sluice.Request{Tool: tool})
					return err
				}
				tenant := func(i int) string { return fmt.Sprint("t", i) }
				for i := range keys {
					_ = call("bad", tenant(i))
					_ = call("bad", tenant(i))
				}
				time.Sleep(idle)
				refused, state := 2*keys, sluice.BreakerOpen
				if idle == time.Hour {
					refused, state = 0, sluice.BreakerClosed
				}
				n := 0
				for i := range 2 * keys {
					var e *sluice.Error
					switch err := call("good", fmt.Sprint("new", i)); {
					case err == nil:
					case errors.As(err, &e) && e.Reason == sluice.ErrSaturated && e.RetryAfter == time.Hour-idle:
						n++
					default:
						t.Errorf("%v, want ErrSaturated for %v", err, time.Hour-idle)
					}
				}
				assert.Equal(t, refused, n, "new keys were refused")
				for i := range keys {
					_ = call("bad", tenant(i)) // the third failure in a row, or the first of another
					if s, err := b.State(tenant(i)); err != nil || s != state {
						t.Errorf("%s is %v, %v, want %v", tenant(i), s, err, state)
					}
				}
			})
		})
	}
}

// RetryAfter is zero where nobody can know, and never beyond what a clock can say.
func TestRetryAfterIsNeverAbsurd(t *testing.T) {
	sane := func(t *testing.T, err error, want ...time.Duration) {
		t.Helper()
		var e *sluice.Error
		if !errors.As(err, &e) || !errors.Is(err, sluice.ErrRejected) {
			t.Errorf("%v: want a refusal", err)
			return
		}
		for _, w := range want {
			if e.RetryAfter == w {
				return
			}
		}
		t.Errorf("RetryAfter %v, want %v (%v)", e.RetryAfter, want, err)
	}
	bubble(t, func(t *testing.T) { // tripped over waiters
		b := breakerOf(sluice.CircuitBreakerConfig{Cooldown: time.Minute, Scope: sluice.Global})
		r := newRig(t, sluice.Config{Interceptors: interceptors(b, atMost(1))})
		defer r.end()
		r.tool(sluice.Spec{Name: "x"}, sleeps(time.Second))
		r.busy("x")
		errs := make(chan error, 10)
		for range 10 {
			go func() { errs <- r.call("x") }()
		}
		synctest.Wait()
		require.NoError(t, b.Trip(""))
		for range 10 {
			sane(t, <-errs, 0, time.Minute)
		}
		sane(t, r.call("x"), 0, time.Minute)
		time.Sleep(time.Second)
	})
	bubble(t, func(t *testing.T) { // what never refills
		for name, lim := range map[string]*rate.Limiter{"no rate": rate.NewLimiter(0, 1), "burst 0": rate.NewLimiter(1, 0), "hardly ever": rate.NewLimiter(1e-12, 1)} {
			q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Limiter: lim}))
			r := newRig(t, sluice.Config{Interceptors: interceptors(q), MaxWait: time.Minute})
			r.tool(sluice.Spec{Name: "x"}, sleeps(0))
			if lim.Burst() > 0 {
				require.NoError(t, r.call("x"))
			}
			start := time.Now()
			err := r.call("x")
			var e *sluice.Error
			if !errors.As(err, &e) || e.RetryAfter < 0 || e.RetryAfter > 100*365*day || time.Since(start) > time.Minute {
				t.Errorf("%s: %v after %v", name, err, time.Since(start))
			}
			r.end()
		}
	})
	bubble(t, func(t *testing.T) { // a cost above the burst is all of it, a width above the limit never fits
		r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 10, Unit: "tokens"}), limitsOf(sluice.Limit{Max: 4, Unit: "GB"})), MaxWait: sluice.NoWait})
		defer r.end()
		r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Cost: func(_ sluice.Call, unit string) int64 { return map[string]int64{"tokens": 1 << 60, "GB": 1}[unit] }}}, sleeps(0))
		r.tool(sluice.Spec{Name: "wide", Policy: sluice.Policy{Cost: func(_ sluice.Call, unit string) int64 { return map[string]int64{"tokens": 1, "GB": 1 << 60}[unit] }}}, sleeps(0))
		require.NoError(t, r.call("x"))
		sane(t, r.call("x"), time.Second)
		sane(t, r.call("wide"), 0)
	})
}

// A token of a limiter that other code shares goes back for a call whose code did not run, at
// once and whole.
func TestSharedLimiter_TokenOfACallThatDidNotRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		lim := rate.NewLimiter(rate.Every(time.Hour), 10)
		deny := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				if c.ID == "deny" {
					return sluice.Result{}, errTool
				}
				return next(ctx, c)
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Limiter: lim})), deny)})
		defer r.end()
		r.tool(sluice.Spec{Name: "x"}, sleeps(0))
		for range 5 {
			_, err := r.Invoke(r.ctx, sluice.Request{ID: "deny", Tool: "x"})
			require.ErrorIs(t, err, sluice.ErrRejected)
		}
		assert.Equal(t, float64(10), lim.Tokens(), "tokens left")
		require.NoError(t, r.call("x"))
		assert.Equal(t, float64(9), lim.Tokens(), "tokens left")
	})
}

// A change to what is already so is told to nobody.
func TestReconfigure_NothingChangedIsNotTold(t *testing.T) {
	rec := new(sluice.Recorder)
	l, q := limitsOf(sluice.Limit{Max: 2}, sluice.Limit{Adaptive: &sluice.Adaptive{Min: 1, Max: 4}, Scope: sluice.ByTool}), rates(sluice.Rate{N: 1}, sluice.Rate{N: 5, Per: time.Hour, Unit: "MB"})
	s, b := scheduler(sluice.PrioritySchedulerConfig{TenantWeights: map[string]int{"a": 2}}), breakerOf(sluice.CircuitBreakerConfig{Failures: 3})
	p := sluice.Policy{Concurrency: 3, Rates: []sluice.Rate{{N: 7}, {N: 9, Unit: "MB"}}, Breaker: &sluice.CircuitBreakerConfig{Failures: 2}}
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
