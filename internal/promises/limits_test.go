package promises_test

import (
	"context"
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
func TestPromise03_HugeWeights(t *testing.T) {
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

func TestNonsenseLimitsAndWeights(t *testing.T) {
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
