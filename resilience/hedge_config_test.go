package resilience_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

// With a quantile a call is hedged when it takes longer than that share of the tool's calls lately.
func TestHedge_Quantile(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hedge(t, resilience.HedgeConfig{Quantile: 0.9, After: time.Minute})
		r := newRig(t, sluice.Config{}, h)
		slow := time.Duration(0)
		f := r.runs(sluice.Spec{}, func(ctx context.Context, n int) error {
			d := time.Duration(n) * 10 * ms
			switch {
			case n == 21 || n == 23:
				d = slow
			case n > 20:
				d = 10 * ms
			}
			return sleeps(ctx, d)
		})
		for range 20 { // 10 ms to 200 ms
			_, err := f(r.ctx)
			require.NoError(t, err)
		}
		other := r.runs(sluice.Spec{Name: "other", Hints: readOnly}, func(ctx context.Context, n int) error { return sleeps(ctx, 30*time.Second) })
		began := time.Now()
		_, err := other(r.ctx)
		require.NoError(t, err)
		require.Equal(t, 30*time.Second, time.Since(began), "of another tool nothing is known")

		slow, began = time.Hour, time.Now()
		v, err := f(r.ctx)
		require.NoError(t, err)
		require.Equal(t, 22, v)
		require.Equal(t, 190*ms, time.Since(began), "hedged after 180 ms")
		began = time.Now()
		_, err = f(r.ctx)
		require.NoError(t, err)
		require.Equal(t, 200*ms, time.Since(began), "the one that was overtaken counts")
		r.end()
	})
}

func TestHedge_Config(t *testing.T) {
	for want, c := range map[string]resilience.HedgeConfig{
		"resilience: HedgeConfig.After is -1s: must be zero (1 s) or at least 1 ms":               {After: -time.Second},
		"resilience: HedgeConfig.After is 1µs: must be zero (1 s) or at least 1 ms":               {After: time.Microsecond},
		"resilience: HedgeConfig.Quantile is 0.4: must be zero (After alone) or from 0.5 to 0.99": {Quantile: 0.4},
		"resilience: HedgeConfig.Quantile is 1: must be zero (After alone) or from 0.5 to 0.99":   {Quantile: 1},
		"resilience: HedgeConfig.Quantile is NaN: must be zero (After alone) or from 0.5 to 0.99": {Quantile: math.NaN()},
	} {
		_, err := resilience.NewHedge(c)
		require.EqualError(t, err, want)
	}
	h, err := resilience.NewHedge(resilience.HedgeConfig{})
	require.NoError(t, err)
	c := h.Config()
	require.Equal(t, "hedge", c.Name)
	require.Equal(t, time.Second, c.After)
	require.Equal(t, []sluice.GateState{{Name: "hedge budget", Limit: 100, Used: 90}}, h.Inspect())
}

// What is changed holds for the next call; what is wrong changes nothing.
func TestHedge_Change(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := hedge(t, resilience.HedgeConfig{Name: "second"})
		r := newRig(t, sluice.Config{}, h)
		f := r.runs(sluice.Spec{}, func(ctx context.Context, n int) error { return sleeps(ctx, 10*time.Second) })
		plan, ok := r.Plan("x")
		require.True(t, ok)
		require.Equal(t, "second → x", plan)
		was := h.Config()
		for want, c := range map[string]resilience.HedgeConfig{
			`resilience: HedgeConfig.Name is "third": cannot change, it is "second"`:     {Name: "third"},
			"resilience: HedgeConfig.After is -1ns: must be zero (1 s) or at least 1 ms": {After: -1},
		} {
			require.ErrorContains(t, sluice.Reconfigure("ops", h.Change(c)), want)
			require.Equal(t, was.After, h.Config().After)
		}
		require.NoError(t, sluice.Reconfigure("ops", h.Change(resilience.HedgeConfig{After: 3 * time.Second})))
		require.Equal(t, was.Budget, h.Config().Budget)
		_, err := f(r.ctx)
		require.NoError(t, err)
		r.end()
		require.Equal(t, []int64{0, 3000}, r.starts())
		require.Equal(t, "second budget", h.Inspect()[0].Name)
	})
}
