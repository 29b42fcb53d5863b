package promises_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Promise 3: a limit holds also while it is changed.
func TestPromise03_LimitHoldsDuringResize(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := atMost(8)
		r := newRig(t, sluice.Config{Interceptors: interceptors(l)})
		defer r.end()
		r.ctx = t.Context()
		limit := atomic.Int64{}
		inside := atomic.Int64{}
		limit.Store(8)
		r.tool(sluice.Spec{Name: "work"}, func(context.Context) error {
			n := inside.Add(1)
			defer inside.Add(-1)
			if m := limit.Load(); n > m {
				t.Errorf("call number %d started at a limit of %d", n, m)
			}
			time.Sleep(10 * ms)
			return nil
		})
		wait := inOrder(500, func(i int) { assert.NoError(t, r.call("work")) })
		for i, n := range []int{3, 8, 1, 2, 20, 5, 1, 8} {
			time.Sleep(time.Duration(31+i) * ms)
			limit.Store(max(limit.Load(), int64(n))) // in between either holds
			require.NoError(t, sluice.Reconfigure("test", l.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: n}}})))
			limit.Store(int64(n))
			if n > int(inside.Load()) {
				synctest.Wait()
				assert.Equal(t, int64(n), inside.Load(), "in flight right after the limit grew to %d", n)
			}
		}
		wait()
	})
}

// No weight is large enough to wrap around.
func TestPromise03_HugeWeightsDoNotWrapAround(t *testing.T) {
	bubble(t, func(t *testing.T) {
		weight := atomic.Int64{}
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 10, Unit: "MB"}))})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "work", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return weight.Load() }}}, g.counts(10*ms))
		for _, w := range []int64{1<<63 - 1, 1<<63 - 9, 1 << 62, 1<<62 + 1, 11} {
			weight.Store(1)
			r.busy("work")
			weight.Store(w)
			wantRefusal(t, r.call("work"), sluice.ErrSaturated, "concurrency MB global", 0)
			time.Sleep(20 * ms)
		}
		weight.Store(5)
		r.slotsFree("work", &g, 2)
	})
}

func TestNonsenseLimitsAndWeightsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, n := range []int{0, -1, -1 << 31} {
			_, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: n}}})
			assert.ErrorContains(t, err, "Limits[0].Max", "Max %d", n)
		}
		lim := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 4, Unit: "bytes"}}}))
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{lim}})
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x", Policy: sluice.Policy{Cost: func(c sluice.Call, _ string) int64 { return c.Input.(int64) }}},
			func(_ context.Context, n int64) (int64, error) { return n, nil }))
		for weight, want := range map[int64]error{-1: sluice.ErrInvalidArguments, -1 << 63: sluice.ErrInvalidArguments, 5: sluice.ErrSaturated, 1<<63 - 1: sluice.ErrSaturated, 0: nil, 4: nil} {
			_, err := f(t.Context(), weight)
			assert.ErrorIs(t, err, want, "weight %d", weight)
		}
		assert.Zero(t, e.Snapshot().InFlight, "in flight")
	})
}

// A smaller Max holds at once: what runs goes on, and nobody starts above it.
func TestAdaptive_ASmallerMaxHoldsAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limits := adaptive(8, 100)
		r := newRig(t, sluice.Config{Interceptors: interceptors(limits)})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "work"}, g.counts(time.Second))
		wait := inOrder(16, func(int) { assert.NoError(t, r.call("work")) })
		require.NoError(t, sluice.Reconfigure("test", limits.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Adaptive: &sluice.Adaptive{Min: 2, Max: 3}}}})))
		assert.Equal(t, int64(3), r.limitIs(), "limit")
		time.Sleep(time.Second + ms)
		assert.Equal(t, int64(3), g.inside.Load(), "run")
		wait()
		l := r.limitIs()
		assert.Equal(t, int64(3), l, "limit %d after successes, want 3 as before", l)
	})
}

// A limit that has released nothing for a minute while calls wait is told once, and shown,
// until it releases: so whoever calls a tool from a tool without the context it was given, and
// waits for itself, can find out. Nothing is refused.
func TestStall_IsToldOnce(t *testing.T) {
	for name, x := range map[string]struct {
		limits []sluice.Limit
		by     string
	}{
		"of all":     {[]sluice.Limit{{Max: 1}}, "concurrency global"},
		"of a tool":  {[]sluice.Limit{{Max: 1, Scope: sluice.ByTool}}, "concurrency per tool"},
		"of a type":  {[]sluice.Limit{{Max: 1, Scope: sluice.ForType("web")}}, ""},
		"of several": {[]sluice.Limit{{Max: 1, Scope: sluice.ByTenant}, {Max: 1}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				rec := new(sluice.Recorder)
				r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(x.limits...)), Sink: rec})
				told := func() (list []sluice.Event) {
					for _, e := range rec.Events() {
						if e.Kind == sluice.LimitStalled {
							list = append(list, e)
						}
					}
					return list
				}
				shown := func() bool {
					return slices.ContainsFunc(r.Snapshot().Gates, func(g sluice.GateState) bool { return g.Stalled })
				}
				depth := 0
				stop, cancel := context.WithCancel(t.Context())
				r.tool(sluice.Spec{Name: "x", Type: "web"}, func(context.Context) error {
					if depth++; depth == 1 {
						_, err := r.Invoke(stop, sluice.Request{Tool: "x"}) // not the context it was given
						return err
					}
					return nil
				})
				done := make(chan error, 1)
				go func() { done <- r.call("x") }()
				time.Sleep(time.Minute - 1)
				synctest.Wait()
				if len(told()) != 0 || shown() {
					t.Errorf("told %v, shown %v before a minute had passed", told(), shown())
				}
				time.Sleep(time.Nanosecond)
				synctest.Wait()
				list := told()
				if len(list) != 1 || !shown() {
					t.Fatalf("told %v, shown %v after a minute, want once", list, shown())
				}
				e := list[0]
				if x.by != "" && e.By != x.by || e.Time.Sub(r.start) != time.Minute || e.Err == nil ||
					!strings.Contains(e.Err.Error(), "1 calls") || !strings.Contains(e.Err.Error(), "while 1 wait") || !strings.Contains(e.Err.Error(), "without the context") {
					t.Errorf("told %+v at %v: %v", e, e.Time.Sub(r.start), e.Err)
				}
				time.Sleep(time.Hour)
				n := len(told())
				assert.Equal(t, 1, n, "told %d times in an hour", n)
				cancel()
				assert.Error(t, <-done, "no error of the nested call")
				assert.False(t, shown(), "still shown, though the limit has released")
				n = len(told())
				assert.Equal(t, 1, n, "told %d times", n)
				r.end()
			})
		})
	}
}

// What moves is no stall, however long the queue; nor is what waits for a rate or a pause.
func TestStall_WhatMovesIsNotToldOf(t *testing.T) {
	bubble(t, func(t *testing.T) {
		rec := new(sluice.Recorder)
		q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ForTool("rated"), Rates: []sluice.Rate{{N: 1, Per: time.Hour}}}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, Scope: sluice.ForTool("slow")}), q), Sink: rec})
		defer r.end()
		r.tool(sluice.Spec{Name: "slow"}, sleeps(time.Minute-1))
		r.tool(sluice.Spec{Name: "rated"}, sleeps(0))
		wait := inOrder(20, func(int) { assert.NoError(t, r.call("slow")) })
		other := inOrder(3, func(int) { assert.NoError(t, r.call("rated")) })
		wait()
		other()
		for _, e := range rec.Events() {
			if e.Kind == sluice.LimitStalled {
				t.Errorf("%s was told at %v: %v", e.By, e.Time.Sub(r.start), e.Err)
			}
		}
	})
}
