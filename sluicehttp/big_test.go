package sluicehttp_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
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
	rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, MaxKeys: 2 * keys, Rates: []sluice.Rate{{N: 1e12, Per: time.Hour}}}))
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

// BenchmarkLookedAtLarge is what calls that meet none of the waiting ones lose while a page is open, one more is read at
// one byte a second, and a third searches: windows with viewers and without take turns.
func BenchmarkLookedAtLarge(b *testing.B) {
	exec := large(b, 10_000, 100_000)
	p := page(b, sluicehttp.Config{Executor: exec})
	l := make(pipes)
	s := &http.Server{Handler: p}
	go func() { _ = s.Serve(l) }()
	defer s.Close()
	calls := func(d time.Duration) (each time.Duration, longest time.Duration) {
		n, began := 0, time.Now()
		last := began
		for now := began; now.Sub(began) < d; n++ {
			if _, err := exec.Invoke(context.Background(), sluice.Request{Tool: "quick", Input: struct{}{}}); err != nil {
				b.Fatal(err)
			}
			now = time.Now()
			longest, last = max(longest, now.Sub(last)), now
		}
		return time.Since(began) / time.Duration(n), longest
	}
	const window = time.Second
	var alone, seen []time.Duration
	for b.Loop() {
		each, _ := calls(window)
		alone = append(alone, each)
		ctx, leave := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		for _, target := range []string{"/stream?view=overview", "/stream?view=queue&q=00042"} {
			wg.Go(func() { askUntil(ctx, p, target) })
		}
		client, server := net.Pipe()
		l <- server
		wg.Go(func() {
			_, _ = io.WriteString(client, "GET /queue?n=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
			for c := make([]byte, 1); ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
				_, _ = client.Read(c)
			}
		})
		each, _ = calls(window)
		seen = append(seen, each)
		leave()
		client.Close()
		wg.Wait()
	}
	slices.Sort(alone)
	slices.Sort(seen)
	b.ReportMetric(float64(alone[len(alone)/2]), "alone-ns/call")
	b.ReportMetric(float64(seen[len(seen)/2]), "seen-ns/call")
	b.ReportMetric(100*float64(seen[len(seen)/2])/float64(alone[len(alone)/2])-100, "%slower")
}
