package sluiceotel_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-go/sluice"
	sluiceotel "github.com/sluice-go/sluice/contrib/otel"
)

// TestTwoAttemptsAtOnce_AreInOneSpan: a layer around the observer that makes two attempts at once, as a hedge does.
func TestTwoAttemptsAtOnce_AreInOneSpan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{})
		e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{hedge(), r.obs}, Sink: r.obs}))
		defer e.Close(context.Background())
		r.tool(e, sluice.Spec{Name: "search"}, func(ctx context.Context, _ string) (string, error) {
			_, s := r.tp.Tracer("http").Start(ctx, "GET")
			defer s.End()
			time.Sleep(time.Second)
			return "", nil
		})
		require.NoError(t, call(t.Context(), e, "", "search", ""))
		synctest.Wait()
		spans := r.take()
		require.Len(t, spans, 3)
		require.Contains(t, spans[0], `execute_tool search (internal) in "", 0s to 1s`)
		for _, s := range spans[1:] {
			require.Contains(t, s, `GET (internal) in "execute_tool search", 0s to 1s`)
		}
		require.Zero(t, r.obs.UnderWay())
	})
}

// hedge makes two attempts of each call at once, and answers with the one that ends last.
func hedge() sluice.Interceptor {
	return sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
			var wg sync.WaitGroup
			wg.Go(func() {
				defer func() { _ = recover() }()
				_, _ = next(ctx, c)
			})
			defer wg.Wait()
			return next(ctx, c)
		}
	})
}

// TestLoad_EachCallHasItsSpan: of 1,000 calls at once at a limit of 8, 8 run, and all are told of.
func TestLoad_EachCallHasItsSpan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls, limit = 1000, 8
		r := newRig(t, sluiceotel.Config{})
		e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{
			sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: limit}}})),
		}})
		var inside, peak atomic.Int64
		r.tool(e, sluice.Spec{Name: "search"}, func(ctx context.Context, _ string) (string, error) {
			n := inside.Add(1)
			defer inside.Add(-1)
			for was := peak.Load(); n > was && !peak.CompareAndSwap(was, n); was = peak.Load() {
			}
			time.Sleep(time.Second)
			return "", nil
		})
		var wg sync.WaitGroup
		for range calls {
			wg.Go(func() {
				if err := call(t.Context(), e, "", "search", ""); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, limit, peak.Load())
		require.Len(t, r.take(), calls)
		require.Zero(t, r.obs.UnderWay())
		m := r.collect()
		// the n-th of 125 rounds waits n-1 seconds, and runs one
		require.Equal(t, map[string]string{"gen_ai.tool.name=search gen_ai.tool.type=function": fmt.Sprintf("%d in %.4g", calls, float64(limit*125*126/2))},
			points(t, m["gen_ai.execute_tool.duration"]))
		require.Equal(t, map[string]string{"gen_ai.tool.name=search sluice.limiter=concurrency global sluice.priority=5": fmt.Sprintf("%d in %.4g", calls-limit, float64(limit*124*125/2))},
			points(t, m["sluice.queue.wait"]))
	})
}

// TestStorm: calls of every kind at once, some of which end in the worst ways, while tools change and metrics are
// collected. Each call has one span that ends, one duration, and leaves nothing behind.
func TestStorm(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed ", seed)
	for round := range uint64(4) {
		synctest.Test(t, func(t *testing.T) { storm(t, rand.New(rand.NewPCG(seed, round)), round%2 == 1) })
	}
}

func storm(t *testing.T, rnd *rand.Rand, annotate bool) {
	r := newRig(t, sluiceotel.Config{Annotate: annotate})
	var ended atomic.Int64
	e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{
			sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
				if tool.Name == "hedged" {
					return hedge().Wrap(tool, next)
				}
				return next
			}),
			r.obs,
			sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
				return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
					switch in := c.Input.(string); in {
					case "layer panics":
						panic("boom")
					case "layer exits":
						runtime.Goexit()
					case "denied":
						return sluice.Result{}, errors.New("no")
					case "twice":
						_, _ = next(ctx, c)
					}
					return next(ctx, c)
				}
			}),
			sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 100, Shed: true})),
			sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 16}, {Max: 3, Scope: sluice.ByTool}}})),
			sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Scope: sluice.ForTool("breaks"), Failures: 2, Cooldown: time.Second})),
		},
		Sink: sluice.MultiSink(r.obs, sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			switch e.Kind {
			case sluice.ToolCompleted, sluice.ToolFailed, sluice.ToolDenied:
				ended.Add(1)
			}
			return nil
		})),
		MaxWait: 5 * time.Second,
	}))
	code := func(ctx context.Context, in string) (string, error) {
		_, s := r.tp.Tracer("http").Start(ctx, "GET")
		defer s.End()
		c, _ := sluice.CallFrom(ctx)
		time.Sleep(time.Duration(uint64(c.Key)%100) * time.Millisecond)
		switch in {
		case "panic":
			panic("boom")
		case "exit":
			runtime.Goexit()
		case "fail":
			return "", errors.New("no")
		case "hang":
			time.Sleep(3 * time.Second)
		case "nest":
			return "", call(ctx, e, "call_0", "plain", "")
		case "stream":
			_, done, err := sluice.Hold(ctx)
			time.AfterFunc(time.Second, func() { done(nil) })
			return "", err
		}
		return "", nil
	}
	tools := []string{"plain", "hedged", "breaks", "timed", "made up"}
	for _, name := range tools[:4] {
		spec := sluice.Spec{Name: name}
		if name == "timed" {
			spec.Policy.Timeout = time.Second
		}
		r.tool(e, spec, code)
	}
	stop, err := r.obs.Watch("", e)
	require.NoError(t, err)
	ins := []string{"", "", "fail", "panic", "exit", "hang", "nest", "stream", "layer panics", "layer exits", "denied", "twice"}
	var wg sync.WaitGroup
	for i := range 500 {
		tool, in, submit, quick := tools[rnd.IntN(len(tools))], ins[rnd.IntN(len(ins))], rnd.IntN(3) == 0, rnd.IntN(5) == 0
		wg.Go(func() {
			ctx, s := r.tp.Tracer("framework").Start(t.Context(), "invoke_agent")
			defer s.End()
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			if quick {
				time.AfterFunc(50*time.Millisecond, cancel)
			}
			if submit {
				_, _ = e.Submit(ctx, sluice.Request{ID: "call_0", Tool: tool, Input: in}).Wait(context.WithoutCancel(ctx))
			} else {
				_ = call(ctx, e, "call_0", tool, in)
			}
		})
		if i%50 == 0 {
			wg.Go(func() { r.collect() })
			wg.Go(func() {
				_, _ = sluice.Replace(e.Registry(), sluice.Spec{Name: "plain", Description: fmt.Sprint("No. ", i)}, code)
			})
		}
		time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
	}
	wg.Wait()
	require.NoError(t, e.Close(context.Background()))
	time.Sleep(time.Minute)
	stop()

	require.Zero(t, r.obs.UnderWay())
	spans, keys, names := r.spans.GetSpans(), map[string]int{}, map[trace.SpanID]string{}
	for _, s := range spans {
		names[s.SpanContext.SpanID()] = s.Name
	}
	for _, s := range spans {
		for _, a := range s.Attributes {
			if a.Key == "sluice.call.key" {
				keys[a.Value.AsString()]++
			}
		}
		if s.Name == "GET" && !annotate {
			require.Contains(t, []string{"execute_tool plain", "execute_tool hedged", "execute_tool breaks", "execute_tool timed"}, names[s.Parent.SpanID()])
		}
	}
	require.EqualValues(t, ended.Load(), len(keys))
	for k, n := range keys {
		require.Equal(t, 1, n, k)
	}
	h, ok := r.collect()["gen_ai.execute_tool.duration"].Data.(metricdata.Histogram[float64])
	require.True(t, ok)
	total := uint64(0)
	for _, p := range h.DataPoints {
		total += p.Count
	}
	require.EqualValues(t, ended.Load(), total)
	require.Zero(t, e.Snapshot().EventsDropped)
}
