//go:build !race

// The race detector allocates for its own sake, which this count would include.

package fleet_test

import (
	"context"
	"testing"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/require"
)

// stocked is a call of a tool with a rate that is the process's own, or a fleet's with much in stock.
func stocked(t testing.TB, shared bool) (call func()) {
	c := sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1e9, Burst: 1e8}}}
	if shared {
		e := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
		c.Fleet = sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: e}))
		c.Stock = 10_000
		t.Cleanup(func() {
			require.NoError(t, c.Fleet.Close(context.Background()))
			require.NoError(t, e.Close())
		})
	}
	limiter := sluice.Must(sluice.NewRateLimiter(c))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limiter}}))
	tool := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "work"}, func(context.Context, struct{}) (int, error) { return 1, nil }))
	ctx := context.Background()
	call = func() {
		if _, err := tool(ctx, struct{}{}); err != nil {
			t.Fatal(err)
		}
	}
	for range 100_000 { // until much is expected
		call()
	}
	return call
}

// A call that finds a unit in stock allocates nothing.
func TestFleet_ACallInStockAllocatesNothing(t *testing.T) {
	call := stocked(t, true)
	require.Zero(t, testing.AllocsPerRun(2000, call))
}

func BenchmarkCall(b *testing.B) {
	for _, x := range []struct {
		name   string
		shared bool
	}{{"local", false}, {"fleet", true}} {
		b.Run(x.name, func(b *testing.B) {
			call := stocked(b, x.shared)
			b.ReportAllocs()
			for b.Loop() {
				call()
			}
		})
	}
}

// guarded is a call of a tool with a breaker that is the process's own, or a fleet's.
func guarded(t testing.TB, shared bool) (call func()) {
	c := sluice.CircuitBreakerConfig{}
	if shared {
		e := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
		c.Fleet = sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: e}))
		t.Cleanup(func() {
			require.NoError(t, c.Fleet.Close(context.Background()))
			require.NoError(t, e.Close())
		})
	}
	breaker := sluice.Must(sluice.NewCircuitBreaker(c))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{breaker}}))
	tool := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "work"}, func(context.Context, struct{}) (int, error) { return 1, nil }))
	ctx := context.Background()
	call = func() {
		if _, err := tool(ctx, struct{}{}); err != nil {
			t.Fatal(err)
		}
	}
	call()
	return call
}

// A call that a closed breaker of a fleet lets through allocates nothing.
func TestFleet_ACallOfAClosedBreakerAllocatesNothing(t *testing.T) {
	call := guarded(t, true)
	require.Zero(t, testing.AllocsPerRun(2000, call))
}

func BenchmarkBreaker(b *testing.B) {
	for _, x := range []struct {
		name   string
		shared bool
	}{{"local", false}, {"fleet", true}} {
		b.Run(x.name, func(b *testing.B) {
			call := guarded(b, x.shared)
			b.ReportAllocs()
			for b.Loop() {
				call()
			}
		})
	}
}
