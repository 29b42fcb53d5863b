package sluice_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
)

func newExec(t testing.TB, c sluice.Config) *sluice.Executor {
	t.Helper()
	return sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), c))
}

func limiter(n int) *sluice.ConcurrencyLimiter {
	return sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: n}}}))
}

func benchGates() []sluice.Interceptor {
	return []sluice.Interceptor{
		sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 1 << 20})),
		sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1 << 20}}})),
		sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1e12}}})),
		sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 5})),
	}
}

func noop(_ context.Context, n int) (int, error) { return n, nil }

var nothing = sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { return nil })

// BenchmarkInvoke is the whole call of a tool that does nothing.
func BenchmarkInvoke(b *testing.B) {
	input := any(7)
	key := sluice.ByKey("tenant", func(c sluice.Call) string { return c.Pipeline.Tenant })
	for _, bb := range []struct {
		name string
		conf sluice.Config
		spec sluice.Spec
	}{
		{"no gates", sluice.Config{}, sluice.Spec{}},
		{"four gates", sluice.Config{Interceptors: benchGates()}, sluice.Spec{}},
		{"four gates, ratio", sluice.Config{Interceptors: append(benchGates(), sluice.Must(sluice.NewCircuitBreaker(
			sluice.CircuitBreakerConfig{Name: "ratio", Ratio: 0.5})))}, sluice.Spec{}},
		{"four gates, sink", sluice.Config{Interceptors: benchGates(), Sink: nothing}, sluice.Spec{}},
		{"four gates, timeout", sluice.Config{Interceptors: benchGates(), Timeout: time.Hour}, sluice.Spec{}},
		{"four gates, cooperative", sluice.Config{Interceptors: benchGates()}, sluice.Spec{Policy: sluice.Policy{Timeout: time.Hour, Cooperative: true}}},
		{"four gates, timeout, sink", sluice.Config{Interceptors: benchGates(), Timeout: time.Hour, Sink: nothing}, sluice.Spec{}},
		{"four gates, key", sluice.Config{Interceptors: append(benchGates(), sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
			Name: "keyed", Limits: []sluice.Limit{{Max: 1 << 20, Scope: key}}})))}, sluice.Spec{}},
		{"four gates, policy", sluice.Config{Interceptors: benchGates()}, sluice.Spec{Policy: sluice.Policy{Concurrency: 1 << 20, Rates: []sluice.Rate{{N: 1e12}}}}},
	} {
		bb.spec.Name = "noop"
		exec := newExec(b, bb.conf)
		sluice.Must(sluice.Wrap(exec, bb.spec, noop))
		ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Tenant: "acme"})
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := exec.Invoke(ctx, sluice.Request{ID: "a", Tool: "noop", Input: input}); err != nil {
					b.Fatal(err)
				}
			}
		})
		for _, g := range []int{100, 1000} {
			b.Run(fmt.Sprintf("%s, %d goroutines", bb.name, g), func(b *testing.B) {
				b.ReportAllocs()
				b.SetParallelism(g / 2)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := exec.Invoke(ctx, sluice.Request{ID: "a", Tool: "noop", Input: input}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}

// BenchmarkKeyed is the whole call where a limit and a rate count by tenant, of so many tenants in an
// order without a pattern.
func BenchmarkKeyed(b *testing.B) {
	for _, n := range []int{1, 100, 100_000} {
		b.Run(fmt.Sprint(n, " tenants"), func(b *testing.B) {
			exec := newExec(b, sluice.Config{Interceptors: append(benchGates(),
				sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
					Name: "keyed limit", Limits: []sluice.Limit{{Max: 1 << 20, MaxKeys: n, Scope: sluice.ByTenant}}})),
				sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
					Name: "keyed rate", Scope: sluice.ByTenant, Rates: []sluice.Rate{{N: 1e12}}, MaxKeys: n})))})
			sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "noop"}, noop))
			tenants := make([]context.Context, n)
			input := any(7)
			for i := range tenants {
				tenants[i] = sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Tenant: fmt.Sprint("tenant ", i)})
				for range 3 {
					exec.Invoke(tenants[i], sluice.Request{ID: "a", Tool: "noop", Input: input})
				}
			}
			b.ReportAllocs()
			for i := uint32(1); b.Loop(); i = i*1664525 + 1013904223 {
				if _, err := exec.Invoke(tenants[int(i>>4)%n], sluice.Request{ID: "a", Tool: "noop", Input: input}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkTyped is the same through a wrapped function.
func BenchmarkTyped(b *testing.B) {
	exec := newExec(b, sluice.Config{Interceptors: benchGates()})
	f := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "noop"}, noop))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f(context.Background(), 1000); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkQueued is calls that have to wait: 100 goroutines at a limit of 1.
func BenchmarkQueued(b *testing.B) {
	exec := newExec(b, sluice.Config{Interceptors: append(benchGates(), limiter(1))})
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "noop"}, noop))
	input := any(7)
	b.ReportAllocs()
	b.SetParallelism(50)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := exec.Invoke(context.Background(), sluice.Request{ID: "a", Tool: "noop", Input: input}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkRefused is calls that a tripped breaker turns away.
func BenchmarkRefused(b *testing.B) { benchRefused(b, nil) }

// BenchmarkRefusedTold is the same with a sink.
func BenchmarkRefusedTold(b *testing.B) { benchRefused(b, nothing) }

func benchRefused(b *testing.B, sink sluice.EventSink) {
	breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{}))
	exec := newExec(b, sluice.Config{Interceptors: []sluice.Interceptor{breaker}, Sink: sink})
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "noop"}, noop))
	breaker.Trip("noop")
	input := any(7)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := exec.Invoke(context.Background(), sluice.Request{ID: "a", Tool: "noop", Input: input}); err == nil {
			b.Fatal("not refused")
		}
	}
}

// BenchmarkNested is a call inside a call, on its slot.
func BenchmarkNested(b *testing.B) {
	exec := newExec(b, sluice.Config{Interceptors: append(benchGates(), limiter(1))})
	inner := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "inner"}, noop))
	outer := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "outer"}, func(ctx context.Context, n int) (int, error) { return inner(ctx, n) }))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := outer(context.Background(), 1); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIndependentTools are tools without a common limit, each with callers of its own: they meet
// nowhere while nobody waits.
func BenchmarkIndependentTools(b *testing.B) {
	exec := newExec(b, sluice.Config{})
	for i := range 64 {
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: fmt.Sprint("tool", i), Policy: sluice.Policy{Concurrency: 8}}, noop))
	}
	input := any(7)
	for _, g := range []int{1, 8, 64} {
		b.Run(fmt.Sprint(g, " goroutines"), func(b *testing.B) {
			var goroutine atomic.Int64
			b.SetParallelism(g)
			b.RunParallel(func(pb *testing.PB) {
				name := fmt.Sprint("tool", goroutine.Add(1)%64)
				for pb.Next() {
					if _, err := exec.Invoke(context.Background(), sluice.Request{ID: "a", Tool: name, Input: input}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkSubmit is a million calls waiting at once, with nobody waiting for them.
func BenchmarkSubmit(b *testing.B) {
	rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: 24 * time.Hour}}}))
	order := sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 1 << 30}))
	exec := newExec(b, sluice.Config{Interceptors: []sluice.Interceptor{rates, order}})
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "noop"}, noop))
	input := any(7)
	b.ReportAllocs()
	for b.Loop() {
		exec.Submit(context.Background(), sluice.Request{ID: "a", Tool: "noop", Input: input})
	}
	b.StopTimer()
	if err := exec.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
}
