package sluicehttp_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sluicehttp"
)

// large is an executor at which n calls wait under keys keys, and a tool, "quick", that meets none of them.
func large(tb testing.TB, keys, n int) *sluice.Executor {
	reg := sluice.NewToolRegistry()
	slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Scope: sluice.ByTenant, MaxKeys: 2 * keys}}}))
	rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, MaxKeys: 2 * keys, Rates: []sluice.Rate{{N: 1000, Per: time.Hour}}}))
	sched := sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 2 * n}))
	exec := sluice.Must(sluice.NewExecutor(reg, sluice.Config{Interceptors: []sluice.Interceptor{slots, rates, sched}}))
	ctx, cancel := context.WithCancel(context.Background())
	tb.Cleanup(func() { cancel(); _ = exec.Close(context.Background()) })
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "hold"}, func(ctx context.Context, _ struct{}) (int, error) { <-ctx.Done(); return 0, nil }))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "quick"}, func(context.Context, struct{}) (int, error) { return 0, nil }))
	for i := range keys + n {
		ctx := sluice.WithPipelineContext(ctx, sluice.PipelineContext{Tenant: fmt.Sprintf("tenant-%05d", i%keys)})
		exec.Submit(ctx, sluice.Request{Tool: "hold", Input: struct{}{}})
	}
	for exec.Snapshot().Queued < n {
		time.Sleep(time.Millisecond)
	}
	return exec
}

func BenchmarkSnapshotLarge(b *testing.B) {
	exec := large(b, 10_000, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		exec.Snapshot()
	}
}

// BenchmarkPageLarge is a page at 10,000 keys and 100,000 waiting calls, snapshot included.
func BenchmarkPageLarge(b *testing.B) {
	exec := large(b, 10_000, 100_000)
	for b.Loop() {
		p := page(b, sluicehttp.Config{Executor: exec})
		require.Equal(b, http.StatusOK, ask(b, p, "GET", "/", "").Code)
	}
}

// BenchmarkStallLarge is the longest that a call which needs the lock took while snapshots are taken one after the other.
func BenchmarkStallLarge(b *testing.B) {
	exec := large(b, 10_000, 100_000)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				exec.Snapshot()
			}
		}
	})
	ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Tenant: "other"})
	var worst, sum time.Duration
	n := 0
	for b.Loop() {
		at := time.Now()
		exec.ExplainTool(ctx, "quick")
		d := time.Since(at)
		worst, sum, n = max(worst, d), sum+d, n+1
	}
	close(done)
	wg.Wait()
	b.ReportMetric(float64(worst.Microseconds()), "worst-µs")
}
