//go:build !race

package resilience_test

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A submitted call that waits has no goroutine. In the queue it takes at most 600 bytes, and between two attempts, where it knows
// what has become of the first, 1,100.
func TestStandard_WaiterBytes(t *testing.T) {
	const calls, tenants = 100_000, 100
	for _, tt := range []struct {
		name string
		gate sluice.Interceptor
		err  error // of the first attempt
		most float64
	}{
		{"in the queue", sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Hour}}})), nil, 600},
		{"between two attempts", limits(sluice.Limit{Max: calls}), errBoom, 1200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				exec := standard(t, resilience.StandardConfig{Total: 24 * time.Hour, Gates: []sluice.Interceptor{tt.gate, queue(calls)},
					Breaker: sluice.CircuitBreakerConfig{Failures: 10 * calls},
					Retry: resilience.RetryConfig{Base: time.Hour, Max: time.Hour, Jitter: resilience.NoJitter,
						Budget: sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Min: calls}))}}, nil)
				sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Hints: readOnly, Policy: sluice.Policy{Cooperative: true}}, func(context.Context, int) (int, error) {
					return 0, tt.err
				}))
				var ctxs [tenants]context.Context
				for i := range ctxs {
					ctxs[i] = sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Tenant: string(rune('A' + i))})
				}
				input := any(7)
				exec.Submit(ctxs[0], sluice.Request{Tool: "x", Input: input}) // takes the token
				synctest.Wait()
				routines, heap := goroutines(), heapBytes()
				list := make([]*sluice.Future, calls)
				for i := range list {
					list[i] = exec.Submit(ctxs[i%tenants], sluice.Request{Tool: "x", Input: input})
				}
				synctest.Wait()
				if n := exec.Snapshot(); tt.err == nil {
					require.Equal(t, calls, n.Queued)
				} else {
					require.Zero(t, n.InFlight+n.Queued+int(n.Failed), "all are between two attempts")
				}
				bytes := float64(heapBytes()-heap-8*calls) / calls
				t.Logf("%.0f bytes a waiting call", bytes)
				require.LessOrEqual(t, bytes, tt.most)
				require.LessOrEqual(t, goroutines(), routines+5)
				runtime.KeepAlive(list)
				require.NoError(t, exec.Close(context.Background()))
			})
		})
	}
}
