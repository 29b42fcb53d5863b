package promises_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What the package documentation lists under "Decisions" and no promise covers.

// A call that an interceptor inside the gates refused has been admitted, but has not run:
// its token goes back, and the breaker hears nothing of it.
func TestDecision_WhatDidNotRunSpendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1}}}))
		breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 1}))
		deny := true
		rule := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				if deny {
					return sluice.Result{}, errors.New("not now")
				}
				return next(ctx, c)
			}
		})
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{limiter(1), rates, breaker, rule}})
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, echo))
		start := time.Now()
		for range 3 {
			_, err := f(t.Context(), "")
			assert.ErrorIs(t, err, sluice.ErrDenied)
			assert.ErrorIs(t, err, sluice.ErrRejected)
		}
		deny = false
		if _, err := f(t.Context(), ""); err != nil || time.Since(start) != 0 {
			t.Errorf("%v after %v: want the token back and the breaker closed", err, time.Since(start))
		}
		if _, err := f(t.Context(), ""); err != nil || time.Since(start) != time.Second {
			t.Errorf("%v after %v: want a token spent by the call that ran", err, time.Since(start))
		}
	})
}

// A call may start at exactly arrival + MaxWait, and not at its context's deadline.
func TestDecision_LimitsOfWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1}}}))
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{rates}, MaxWait: time.Second})
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, echo))
		start := time.Now()
		for i := range 2 {
			_, err := f(t.Context(), "")
			require.NoError(t, err, "call %d", i)
			assert.Equal(t, time.Duration(i)*time.Second, time.Since(start), "call %d", i)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var refused *sluice.Error
		if _, err := f(ctx, ""); !errors.As(err, &refused) || refused.Reason != sluice.ErrWaitTooLong || refused.RetryAfter != time.Second || time.Since(start) != time.Second {
			t.Errorf("at its deadline: %v after %v", err, time.Since(start))
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second+time.Nanosecond)
		defer cancel()
		_, err := f(ctx, "")
		require.NoError(t, err, "a nanosecond before its deadline")
		assert.Equal(t, 2*time.Second, time.Since(start), "a nanosecond before its deadline")
	})
}

// Explain foretells what Invoke does from the same place: nested in an urgent call, nested
// too deep, and over a table of keys that is full.
func TestDecision_ExplainIsWhatInvokeDoes(t *testing.T) {
	t.Run("nested", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Second}}}))
			r := newRig(t, sluice.Config{MaxDepth: 1, MaxCallsPerRoot: 2, Interceptors: interceptors(rates, sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{})))})
			defer r.end()
			var asked []sluice.Priority // by one goroutine at a time
			queued := make(chan struct{})
			r.tool(sluice.Spec{Name: "leaf", Policy: sluice.Policy{Cost: func(c sluice.Call, _ string) int64 {
				asked = append(asked, c.Priority)
				return 1
			}}}, sleeps(0))
			r.tool(sluice.Spec{Name: "other"}, sleeps(0))
			same := func(ctx context.Context, tool string) {
				d, err := r.Explain(ctx, sluice.Request{Tool: tool}), errOf(r.Invoke(ctx, sluice.Request{Tool: tool}))
				if d.Refusal == nil || err == nil || d.Refusal.Error() != err.Error() || !errors.Is(err, sluice.ErrNesting) {
					t.Errorf("Explain says %v, Invoke %v, want the same ErrNesting", d.Refusal, err)
				}
			}
			r.tool(sluice.Spec{Name: "middle"}, func(ctx context.Context) error {
				same(ctx, "leaf")
				return nil
			})
			r.tool(sluice.Spec{Name: "urgent", Policy: sluice.Policy{Priority: sluice.PriorityInteractive}}, func(ctx context.Context) error {
				<-queued
				asked = nil
				if d := r.Explain(ctx, sluice.Request{Tool: "leaf"}); d.Place != 4 || d.Wait != time.Second {
					t.Errorf("Explain says place %d after %v, want 4, and to overtake: after 1s", d.Place, d.Wait)
				}
				assert.NoError(t, errOf(r.Invoke(ctx, sluice.Request{Tool: "leaf"})))
				if r.at() != time.Second || !slices.Equal(asked, []sluice.Priority{sluice.PriorityInteractive, sluice.PriorityInteractive}) {
					t.Errorf("it ran at %v, and the cost was asked for at %v, want 1s and both times as urgent as what it is nested in", r.at(), asked)
				}
				assert.NoError(t, errOf(r.Invoke(ctx, sluice.Request{Tool: "middle"})))
				same(ctx, "leaf") // the third under its root
				return nil
			})
			done := make(chan error, 1)
			go func() { done <- r.call("urgent") }()
			synctest.Wait()
			for range 3 {
				go func() { _ = r.call("other") }()
			}
			synctest.Wait()
			close(queued)
			require.NoError(t, <-done)
		})
	})
	t.Run("full table", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, MaxKeys: 1, Scope: sluice.ByTenant}))})
			defer r.end()
			r.tool(sluice.Spec{Name: "slow"}, sleeps(time.Second))
			done := make(chan error, 1)
			go func() { done <- errOf(r.Invoke(r.as(0, "a"), sluice.Request{Tool: "slow"})) }()
			synctest.Wait()
			d, err := r.Explain(r.as(0, "b"), sluice.Request{Tool: "slow"}), errOf(r.Invoke(r.as(0, "b"), sluice.Request{Tool: "slow"}))
			if d.Refusal == nil || err == nil || d.Refusal.Error() != err.Error() || !errors.Is(err, sluice.ErrSaturated) {
				t.Errorf("Explain says %v, Invoke %v, want the same ErrSaturated", d.Refusal, err)
			}
			require.NoError(t, <-done)
			if d := r.Explain(r.as(0, "b"), sluice.Request{Tool: "slow"}); d.Refusal != nil || d.Place != 0 {
				t.Errorf("Explain says %+v, want room: the only key is idle", d)
			}
		})
	})
	t.Run("two rates of one unit", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 5}, {N: 60, Per: time.Minute}}}))
			r := newRig(t, sluice.Config{Interceptors: interceptors(rates)})
			defer r.end()
			r.tool(sluice.Spec{Name: "x"}, sleeps(0))
			if d := r.Explain(r.ctx, sluice.Request{Tool: "x"}); len(d.Costs) != 1 || d.Costs[0] != (sluice.Cost{Unit: "", Estimate: 1, Actual: 1}) {
				t.Errorf("Explain says %+v, want one cost of one call", d.Costs)
			}
		})
	})
}

// The zero ToolRegistry is an empty one, for readers and for executors made before its
// first tool.
func TestDecision_ZeroRegistryIsEmpty(t *testing.T) {
	var reg sluice.ToolRegistry
	e := sluice.Must(sluice.NewExecutor(&reg, sluice.Config{}))
	defer func() { require.NoError(t, e.Close(t.Context())) }()
	if _, ok := reg.Lookup("x"); ok || reg.Remove("x") || len(e.Snapshot().Gates) != 0 {
		t.Error("the zero registry has something")
	}
	_, err := e.Invoke(t.Context(), sluice.Request{Tool: "x"})
	assert.ErrorIs(t, err, sluice.ErrUnknownTool, "want ErrUnknownTool")
	sluice.Must(sluice.Register(&reg, sluice.Spec{Name: "x"}, echo))
	require.NoError(t, errOf(e.Invoke(t.Context(), sluice.Request{Tool: "x", Input: ""})))
}

// TestDecision_IsFinal: an attempt that ends after its call has, as a hedged one does, does
// not change what the caller was told.
func TestDecision_IsFinal(t *testing.T) {
	hedge := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			first := make(chan sluice.Result, 2)
			for range 2 {
				go func() {
					r, _ := next(ctx, c)
					first <- r
				}()
				time.Sleep(time.Millisecond)
			}
			return <-first, nil
		}
	})
	synctest.Test(t, func(t *testing.T) {
		exec := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{hedge}})
		var calls atomic.Int64
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Policy: sluice.Policy{
			Rates: []sluice.Rate{{N: 1e6, Unit: "tokens"}},
			Cost:  func(sluice.Call, string) int64 { return 5 },
		}}, func(ctx context.Context, n int) (int, error) {
			i := calls.Add(1)
			time.Sleep(time.Duration(i) * time.Second) // the second comes later, and takes longer
			sluice.ReportUsage(ctx, "tokens", i)
			return n, nil
		}))
		r, err := exec.Invoke(t.Context(), sluice.Request{Tool: "x", Input: 7})
		want := sluice.Decision{Attempts: 1, Waits: []sluice.Wait{}, Costs: []sluice.Cost{{Unit: "tokens", Estimate: 5, Actual: 1}}}
		if d := r.Decision(); err != nil || r.Value != 7 || !reflect.DeepEqual(d, want) {
			t.Fatalf("%v, %v, %+v: want %+v", r.Value, err, d, want)
		}
		time.Sleep(time.Hour)
		assert.Equal(t, want, r.Decision(), "later the decision")
	})
}
