//go:build !race

package sluice_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/require"
)

// The race detector allocates on its own account, so these run without it.

// discard is a sink that listens and forgets.
type discard struct{}

func (discard) Enabled(sluice.EventKind) bool             { return true }
func (discard) Emit(context.Context, *sluice.Event) error { return nil }

// heapBytes is what is in use after a collection.
func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// fourGates is an executor whose gates all have to agree, and never refuse.
func fourGates(t testing.TB, c sluice.Config) (*sluice.Executor, *sluice.Tool[int, int]) {
	t.Helper()
	c.Interceptors = append(c.Interceptors,
		sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{})),
		sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1 << 20}}})),
		sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1e12}}})),
		sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{})))
	reg := sluice.NewToolRegistry()
	tool := sluice.Must(sluice.Register(reg, sluice.Spec{Name: "noop"}, func(_ context.Context, n int) (int, error) { return n, nil }))
	return sluice.Must(sluice.NewExecutor(reg, c)), tool
}

// TestAllocs: what a call through four gates allocates by itself. Calls take their contexts
// from chunks of seven, which is a seventh of an allocation each and rounds to none here;
// TestCallBytes bounds what that is in bytes.
func TestAllocs(t *testing.T) {
	ctx := context.Background()
	input := any(7)
	code := func(context.Context) (*int, error) { return nil, nil }
	for _, tt := range []struct {
		name string
		conf sluice.Config
		call func(*sluice.Executor, *sluice.Tool[int, int])
		want float64
	}{
		{"untyped, no sink", sluice.Config{}, func(e *sluice.Executor, _ *sluice.Tool[int, int]) {
			e.Invoke(ctx, sluice.Request{ID: "a", Tool: "noop", Input: input})
		}, 0},
		{"untyped, id made up", sluice.Config{}, func(e *sluice.Executor, _ *sluice.Tool[int, int]) {
			e.Invoke(ctx, sluice.Request{Tool: "noop", Input: input})
		}, 0},
		{"untyped, sink", sluice.Config{Sink: discard{}}, func(e *sluice.Executor, _ *sluice.Tool[int, int]) {
			e.Invoke(ctx, sluice.Request{ID: "a", Tool: "noop", Input: input})
		}, 0},
		{"typed, no sink", sluice.Config{}, func(e *sluice.Executor, tool *sluice.Tool[int, int]) {
			tool.Invoke(ctx, e, 1000)
		}, 2},
		{"declared", sluice.Config{}, func(e *sluice.Executor, _ *sluice.Tool[int, int]) {
			sluice.Do(ctx, e, sluice.Request{ID: "a", Tool: "declared", Input: input}, code)
		}, 0},
		{"interceptor", sluice.Config{Interceptors: []sluice.Interceptor{sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) { return next(ctx, c) }
		})}}, func(e *sluice.Executor, _ *sluice.Tool[int, int]) {
			e.Invoke(ctx, sluice.Request{ID: "a", Tool: "noop", Input: input})
		}, 1}, // the call, which interceptors may keep: it is made apart, see TestCallsAreLetGo
	} {
		t.Run(tt.name, func(t *testing.T) {
			e, tool := fourGates(t, tt.conf)
			require.NoError(t, sluice.Declare(e.Registry(), sluice.Spec{Name: "declared"}))
			if got := testing.AllocsPerRun(1000, func() { tt.call(e, tool) }); got > tt.want {
				t.Errorf("%v allocations, want at most %v", got, tt.want)
			}
		})
	}
}

// TestAllocsKeyed: keys and costs of a call that are known already cost nothing either.
func TestAllocsKeyed(t *testing.T) {
	ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Tenant: "acme"})
	exec := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{
		sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}, {Max: 4, Scope: sluice.ByTenant}}})),
		sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1e12}, {N: 1e12, Unit: "tokens"}}, Scope: sluice.ByKey("user", func(c sluice.Call) string { return c.Pipeline.Tenant })})),
	}})
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "noop", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 3 }}}, func(_ context.Context, n int) (int, error) { return n, nil }))
	input := any(7)
	// the record of the call's costs, which Result.Decision answers
	if got := testing.AllocsPerRun(1000, func() { exec.Invoke(ctx, sluice.Request{ID: "a", Tool: "noop", Input: input}) }); got > 2 {
		t.Errorf("%v allocations, want at most 2", got)
	}
}

// TestCallBytes bounds the memory of one call that nobody has looked for: its context.
func TestCallBytes(t *testing.T) {
	for name, c := range map[string]sluice.Config{
		"quiet": {}, "with a sink": {Sink: discard{}}, "with a timeout": {Timeout: time.Hour}, "with both": {Sink: discard{}, Timeout: time.Hour},
	} {
		e, _ := fourGates(t, c)
		most := int64(80)
		if c.Timeout > 0 {
			most = 96
		}
		input := any(7)
		r := testing.Benchmark(func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.Invoke(context.Background(), sluice.Request{ID: "a", Tool: "noop", Input: input})
			}
		})
		if got := r.AllocedBytesPerOp(); got > most {
			t.Errorf("%s: %d bytes a call, want at most %d", name, got, most)
		}
	}
}

// TestAllocsTimed: a timeout costs its context, of which some are made at a time.
func TestAllocsTimed(t *testing.T) {
	for name, c := range map[string]sluice.Config{"quiet": {Timeout: time.Hour}, "with a sink": {Timeout: time.Hour, Sink: discard{}}} {
		e, _ := fourGates(t, c)
		input := any(7)
		got := testing.AllocsPerRun(1000, func() {
			e.Invoke(context.Background(), sluice.Request{ID: "a", Tool: "noop", Input: input})
		})
		require.Zero(t, got, "%s: allocations", name)
	}
}

// TestCallsAreLetGo: what calls are made of is let go of while others come. What is made some at a time
// must not lead from one call to the next.
func TestCallsAreLetGo(t *testing.T) {
	passing := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) { return next(ctx, c) }
	})
	for name, c := range map[string]sluice.Config{
		"plain": {}, "timeout": {Timeout: time.Hour}, "timeout, sink": {Timeout: time.Hour, Sink: discard{}},
		"interceptor": {Interceptors: []sluice.Interceptor{passing}}, "interceptor, sink": {Interceptors: []sluice.Interceptor{passing}, Sink: discard{}},
	} {
		e, tool := fourGates(t, c)
		nested := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "outer"}, func(ctx context.Context, n int) (int, error) { return tool.Invoke(ctx, e, n) }))
		for kind, call := range map[string]func(){
			"calls":        func() { e.Invoke(context.Background(), sluice.Request{ID: "a", Tool: "noop", Input: 7}) },
			"nested calls": func() { nested(context.Background(), 7) },
		} {
			var in [3]runtime.MemStats
			for i := range in {
				for range 30_000 {
					call()
				}
				runtime.GC()
				runtime.ReadMemStats(&in[i])
			}
			grown := int64(in[2].HeapAlloc) - int64(in[0].HeapAlloc)
			require.Less(t, grown, int64(2<<20), "%s, %s: bytes that 60,000 have left behind", name, kind)
		}
	}
}

// TestWaiterBytes: a call that waits through Submit has no goroutine and takes at most 400
// bytes, its place in the queue, its id and its future included, whether a sink listens or not.
func TestWaiterBytes(t *testing.T) {
	const calls, tenants, tools = 200_000, 100, 20
	stoppable, stop := context.WithTimeout(context.Background(), time.Hour)
	defer stop()
	for _, tt := range []struct {
		name string
		conf sluice.Config
		ctx  context.Context
	}{
		{"plain", sluice.Config{}, context.Background()},
		{"with a sink", sluice.Config{Sink: discard{}}, context.Background()},
		{"with MaxWait", sluice.Config{MaxWait: time.Hour}, context.Background()},
		{"of a run with a deadline", sluice.Config{}, stoppable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			order := sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: calls}))
			rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Minute}}}))
			reg := sluice.NewToolRegistry()
			tt.conf.Interceptors = []sluice.Interceptor{rate, order}
			exec := sluice.Must(sluice.NewExecutor(reg, tt.conf))
			names := make([]string, tools)
			for i := range names {
				names[i] = "tool-" + string(rune('a'+i))
				sluice.Must(sluice.Register(reg, sluice.Spec{Name: names[i]}, func(_ context.Context, n int) (int, error) { return n, nil }))
			}
			var ctxs [tenants]context.Context
			for i := range ctxs {
				ctxs[i] = sluice.WithPipelineContext(tt.ctx, sluice.PipelineContext{Tenant: string(rune('A' + i))})
			}
			if _, err := exec.Invoke(ctxs[0], sluice.Request{Tool: names[0], Input: 1}); err != nil { // takes the token
				t.Fatal(err)
			}
			input := any(7)
			routines, heap := runtime.NumGoroutine(), heapBytes()
			for i := range calls {
				exec.Submit(ctxs[i%tenants], sluice.Request{Tool: names[i/tenants%tools], Input: input})
			}
			each, more := float64(heapBytes()-heap)/calls, runtime.NumGoroutine()-routines
			require.Equal(t, calls, exec.Snapshot().Queued, "calls wait")
			t.Logf("%.0f bytes a waiting call", each)
			if each > 400 || more > 0 {
				t.Errorf("%.0f bytes a waiting call and %d goroutines, want at most 400 and none", each, more)
			}
			require.NoError(t, exec.Close(context.Background()))
		})
	}
}

// TestAllocsRefused: what a call that a breaker refuses allocates by itself, on average.
func TestAllocsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		sink sluice.EventSink
		want float64
	}{
		"quiet":       {nil, 0.15},              // an eighth of the errors
		"with a sink": {discard{}, 0.15 + 1./7}, // and a seventh of the contexts
	} {
		breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{}))
		e, _ := fourGates(t, sluice.Config{Sink: c.sink, Interceptors: []sluice.Interceptor{breaker}})
		require.NoError(t, breaker.Trip("noop"))
		const calls = 8000
		input := any(7)
		all := testing.AllocsPerRun(1, func() { // which counts one run of its own before
			for range calls {
				if _, err := e.Invoke(context.Background(), sluice.Request{ID: "a", Tool: "noop", Input: input}); err == nil {
					t.Fatal("not refused")
				}
			}
		})
		require.LessOrEqual(t, all/calls, c.want, name)
	}
}
