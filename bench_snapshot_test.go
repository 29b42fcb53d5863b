package sluice

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkSnapshot_Hold is how long a snapshot of 10,000 keys under a limit and a rate, and of 100,000 waiting calls,
// holds the lock at a time: for each of its batches the shortest of the runs, which is without what else the machine
// does, and of these the longest.
func BenchmarkSnapshot_Hold(b *testing.B) {
	const keys, calls = 10_000, 100_000
	reg := NewToolRegistry()
	slots := Must(NewConcurrencyLimiter(ConcurrencyLimiterConfig{Limits: []Limit{{Max: 1, Scope: ByTenant, MaxKeys: 2 * keys}}}))
	rates := Must(NewRateLimiter(RateLimiterConfig{Scope: ByTenant, MaxKeys: 2 * keys, Rates: []Rate{{N: 1000, Per: time.Hour}}}))
	sched := Must(NewPriorityScheduler(PrioritySchedulerConfig{MaxQueue: 2 * calls}))
	e := Must(NewExecutor(reg, Config{Interceptors: []Interceptor{slots, rates, sched}}))
	ctx, cancel := context.WithCancel(context.Background())
	defer func() { cancel(); _ = e.Close(context.Background()) }()
	Must(Wrap(e, Spec{Name: "hold"}, func(ctx context.Context, _ struct{}) (int, error) { <-ctx.Done(); return 0, nil }))
	for i := range keys + calls {
		e.Submit(WithPipelineContext(ctx, PipelineContext{Tenant: fmt.Sprintf("tenant-%05d", i%keys)}), Request{Tool: "hold", Input: struct{}{}})
	}
	for e.Snapshot().Queued < calls {
		time.Sleep(time.Millisecond)
	}
	var least []time.Duration
	for b.Loop() {
		r := e.read()
		r.Cells, r.Lanes = slices.Grow(r.Cells, 4*keys), slices.Grow(r.Lanes, 2*keys) // which is not done with the lock held
		for i, more := 0, true; more; i++ {
			at := time.Now()
			more = r.Next(readAtOnce)
			if d := time.Since(at); i == len(least) {
				least = append(least, d)
			} else {
				least[i] = min(least[i], d)
			}
		}
		r.Done()
	}
	var sum, longest time.Duration
	for _, d := range least {
		sum, longest = sum+d, max(longest, d)
	}
	b.ReportMetric(float64(longest.Microseconds()), "hold-µs")
	b.ReportMetric(float64(sum.Microseconds()), "holds-µs/snapshot")
	b.ReportMetric(float64(len(least)), "holds/snapshot")
}
