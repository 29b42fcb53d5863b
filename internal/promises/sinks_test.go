package promises_test

import (
	"context"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Promise 19: a sink that fails, panics, exits or calls the executor changes no call.
func TestPromise19_BadSinks(t *testing.T) {
	var target *rig
	depth := atomic.Int64{}
	sinks := map[string]func() sluice.EventSink{
		"fails": func() sluice.EventSink {
			return sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { return errTool })
		},
		"panics": func() sluice.EventSink {
			return sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { panic("sink") })
		},
		"calls the executor": func() sluice.EventSink {
			return sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
				if depth.Add(1) < 50 {
					_, _ = target.Invoke(context.Background(), sluice.Request{Tool: "other"})
					_ = target.Snapshot()
					_ = target.Explain(ctx, sluice.Request{Tool: "other"})
				}
				return nil
			})
		},
	}
	for name, sink := range sinks {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				depth.Store(0)
				r := newRig(t, sluice.Config{Sink: sink(), Interceptors: interceptors(limitsOf(sluice.Limit{Max: 2, Scope: sluice.ByTool}),
					breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Second}))})
				target = r
				defer r.end()
				r.tool(sluice.Spec{Name: "other"}, sleeps(0))
				var g gauge
				r.tool(sluice.Spec{Name: "work"}, g.counts(10*ms))
				parallel(10, func(int) { assert.NoError(t, r.call("work")) })
				assert.Equal(t, 50*ms, r.at(), "took")
				r.slotsFree("work", &g, 2)
			})
		})
	}
}

// A sink that blocks blocks only who has to wait for it, and behind an AsyncSink nobody.
func TestPromise19_BlockingSinkBehindAQueue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		unblock := make(chan struct{})
		a := sluice.Must(sluice.NewAsyncSink(sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { <-unblock; return nil }), 10))
		r := newRig(t, sluice.Config{Sink: a, Interceptors: interceptors(atMost(1))})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, sleeps(10*ms))
		for range 100 {
			require.NoError(t, r.call("work"))
		}
		assert.Equal(t, time.Second, r.at(), "100 calls took")
		close(unblock)
		require.NoError(t, a.Close(t.Context()))
		if d, x := a.Delivered(), a.Dropped(); d+x != 300 || x == 0 {
			t.Errorf("%d delivered, %d dropped, want 300 in all", d, x)
		}
	})
}

// The sink of one run blocks: calls of others go on.
func TestPromise19_BlockingSinkOfOneRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(2))})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, sleeps(10*ms))
		unblock := make(chan struct{})
		pc := r.pc
		pc.RunID = "other"
		pc.Sink = sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { <-unblock; return nil })
		done := make(chan error)
		go func() {
			done <- errOf(r.Invoke(sluice.WithPipelineContext(t.Context(), pc), sluice.Request{Tool: "work"}))
		}()
		synctest.Wait()
		for range 10 {
			require.NoError(t, r.call("work"))
		}
		assert.Equal(t, 100*ms, r.at(), "took")
		close(unblock)
		require.NoError(t, <-done)
	})
}

// Events outside calls are told by whoever changed something. A sink that ends its
// goroutine then leaks no probe and keeps no later event from anybody.
func TestPromise19_SinkExitsOnEventsOutsideCalls(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Second})
		var seen log
		l := atMost(2)
		r := newRig(t, sluice.Config{Interceptors: interceptors(b, l), Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if strings.HasPrefix(string(e.Kind), "tool.") {
				return nil
			}
			seen.add("%s>%s", e.From, e.To)
			runtime.Goexit()
			return nil
		})})
		defer r.end()
		fails := true
		var g gauge
		r.tool(sluice.Spec{Name: "work"}, func(ctx context.Context) error {
			if fails {
				return errTool
			}
			return g.counts(ms)(ctx)
		})
		_, err, returned := r.invokeApart(r.ctx, sluice.Request{Tool: "work"})
		if err != errTool || !returned {
			t.Errorf("returned %v with %v", returned, err)
		}
		fails = false
		time.Sleep(time.Second)
		f := r.Submit(r.ctx, sluice.Request{Tool: "work"})
		if _, err := f.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			assert.NoError(t, sluice.Reconfigure("me", l.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 3}}})))
			seen.add("returned")
		}()
		<-done
		assert.Equal(t, "closed>open open>half-open half-open>closed 2>3 returned", seen.String(), "events")
		time.Sleep(time.Minute)
		r.slotsFree("work", &g, 3)
	})
}

// Promise 21: no user code runs under a lock. Whatever it calls, it does not deadlock.
func TestPromise21_ReentrantUserCode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var r *rig
		var l *sluice.ConcurrencyLimiter
		q := rates(sluice.Rate{N: 1000, Unit: "tokens"})
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour})
		var entered log
		nesting := atomic.Int64{}
		var other *rig
		poke := func(who string) {
			if nesting.Add(1) > 1 {
				nesting.Add(-1)
				return
			}
			defer nesting.Add(-1)
			entered.add("%s", who)
			for _, x := range []*rig{r, other} {
				_ = x.call("leaf")
				_ = x.Snapshot()
				_ = x.Explain(x.ctx, sluice.Request{Tool: "leaf"})
				_, _ = x.Plan("leaf")
			}
			if err := sluice.Reconfigure(who, l.Change(l.Config()), q.Change(q.Config()), r.reg.WithPolicy("leaf", sluice.Policy{})); err != nil {
				t.Error(err)
			}
			e, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{State: r.pc.State, Interceptors: interceptors(l)})
			assert.NoError(t, err)
			assert.NoError(t, e.Close(t.Context()))
			_, _ = b.State("leaf")
			b.Reset("leaf")
		}
		l = limitsOf(sluice.Limit{Max: 50}, sluice.Limit{Max: 40, Scope: sluice.ByKey("host", func(c sluice.Call) string {
			if c.Tool == "work" {
				poke("key")
			}
			return "h"
		})})
		sink := sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if e.Call.Tool == "work" || e.Call.Tool == "" {
				poke(string(e.Kind))
			}
			return nil
		})
		r = newRig(t, sluice.Config{Sink: sink, Interceptors: interceptors(l, q, b)})
		defer r.end()
		ol := atMost(3)
		other = newRig(t, sluice.Config{Sink: sink, Interceptors: interceptors(ol)})
		defer other.end()
		other.tool(sluice.Spec{Name: "leaf"}, sleeps(0))
		r.tool(sluice.Spec{Name: "leaf"}, sleeps(0))
		r.tool(sluice.Spec{Name: "work", Policy: sluice.Policy{
			Cost: func(sluice.Call, string) int64 { poke("cost"); return 1 },
			Classify: func(sluice.Call, sluice.Result, error) sluice.Outcome {
				poke("classify")
				return sluice.OutcomeAuto
			},
		}}, func(context.Context) error { poke("tool"); return errTool })
		if err := r.call("work"); err != errTool {
			t.Error(err)
		}
		require.NoError(t, sluice.Reconfigure("both", l.Change(l.Config()), ol.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 4}}})))
		q.Pause("", ms)
		got := entered.String()
		for _, who := range []string{"tool.invoked", "key", "cost", "tool.started", "tool", "classify", "breaker.state_changed", "tool.failed", "limit.changed", "ratelimit.paused"} {
			assert.Contains(t, " "+got+" ", " "+who+" ", "%s was never asked: %s", who, got)
		}
		time.Sleep(time.Second)
	})
}

// A sink that is told of a change, while two stages were changed at once, may use both.
func TestPromise21_SinkUsesBothStagesOfAChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := atMost(1), atMost(1)
		var rigs [2]*rig
		told := atomic.Int64{}
		sink := sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if e.Kind == sluice.LimitChanged {
				told.Add(1)
				for _, r := range rigs {
					assert.NoError(t, r.call("work"))
					if told.Load() < 5 {
						assert.NoError(t, sluice.Reconfigure("sink", a.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 3 + int(told.Load())}}})))
					}
				}
			}
			return nil
		})
		for i, l := range []*sluice.ConcurrencyLimiter{a, b} {
			rigs[i] = newRig(t, sluice.Config{Sink: sink, Interceptors: interceptors(l)})
			defer rigs[i].end()
			rigs[i].tool(sluice.Spec{Name: "work"}, sleeps(0))
		}
		two := sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}}}
		require.NoError(t, sluice.Reconfigure("test", a.Change(two), b.Change(two)))
		if told.Load() < 2 {
			t.Errorf("told %d times, want at least 2", told.Load())
		}
	})
}

// Events that wait while a sink blocks another of the call's attempts are bounded: further
// ones are dropped and counted, the terminal event never is.
func TestEventsBehindABlockedSinkAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const attempts = 1500
		many := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				go next(ctx, c)
				time.Sleep(ms)
				for range attempts {
					_, _ = next(ctx, c)
				}
				return sluice.Result{Value: 1}, nil
			}
		})
		first := atomic.Bool{}
		r := newRig(t, sluice.Config{Interceptors: interceptors(many), Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if e.Kind == sluice.ToolStarted && first.CompareAndSwap(false, true) {
				time.Sleep(time.Second)
			}
			return nil
		})})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, sleeps(0))
		require.NoError(t, r.call("work"))
		time.Sleep(2 * time.Second)
		if got := len(r.rec.Events()); got != 1003 || r.Snapshot().EventsDropped != attempts-1000 {
			t.Errorf("%d events told and %d dropped, want 1003 and %d", got, r.Snapshot().EventsDropped, attempts-1000)
		}
	})
}

// A sink that an executor and a run both have, in whatever list, gets each event once, and
// so does one of two executors that share a gate.
func TestOneSinkGetsEachEventOnce(t *testing.T) {
	plain, payloads := func(s sluice.EventSink) sluice.EventSink { return s }, func(s sluice.EventSink) sluice.EventSink { return sluice.WithPayloads(s, 0) }
	for _, wrap := range []func(sluice.EventSink) sluice.EventSink{plain, payloads} {
		rec, own := sluice.NewRecorder(), sluice.NewRecorder()
		same := wrap(rec)
		for name, tt := range map[string]struct {
			exec, run sluice.EventSink
			own       bool // the run's own is listed too
		}{
			"both":             {same, same, false},
			"executor's list":  {sluice.MultiSink(sluice.NewSlogSink(nil), sluice.MultiSink(same)), same, false},
			"run's list":       {same, sluice.MultiSink(own, same), true},
			"both lists":       {sluice.MultiSink(same, nil), sluice.MultiSink(sluice.MultiSink(own, same), same), true},
			"twice in a list":  {sluice.MultiSink(same, same), nil, false},
			"cannot compare":   {uncomparableSink{nil, same}, sluice.MultiSink(uncomparableSink{}, own), true},
			"the run's alone":  {nil, sluice.MultiSink(same, own, same), true},
			"list in itself":   {sluice.MultiSink(same), sluice.MultiSink(same), false},
			"executor's alone": {same, nil, false},
		} {
			t.Run(name, func(t *testing.T) {
				*rec, *own = sluice.Recorder{}, sluice.Recorder{}
				l := atMost(1)
				e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: tt.exec, Interceptors: interceptors(l)}))
				other := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: tt.exec, Interceptors: interceptors(l)}))
				f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(context.Context, struct{}) (int, error) { return 1, nil }))
				_, err := f(sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Sink: tt.run}), struct{}{})
				require.NoError(t, err)
				require.NoError(t, rec.Check())
				assert.Equal(t, "x: invoked started completed", rec.Trace())
				got := own.Trace()
				assert.Equal(t, tt.own, (got == "x: invoked started completed"), "the run's own sink got %q", got)
				require.NoError(t, sluice.Reconfigure("me", l.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}}})))
				want := 4
				if tt.exec == nil {
					want = 3
				} else if name == "cannot compare" {
					want = 5
				}
				assert.Len(t, rec.Events(), want, "events: the three of the call and a change for each sink")
				require.NoError(t, e.Close(t.Context()))
				require.NoError(t, other.Close(t.Context()))
			})
		}
	}
}

// uncomparableSink would panic if it were compared. Its next may be nil.
type uncomparableSink struct {
	_    []int
	next sluice.EventSink
}

func (s uncomparableSink) Enabled(sluice.EventKind) bool { return s.next != nil }
func (s uncomparableSink) Emit(ctx context.Context, e *sluice.Event) error {
	return s.next.Emit(ctx, e)
}

// What is not told because a sink blocks is counted.
func TestSnapshot_EventsBeyondTheBoundAreCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		block := make(chan struct{})
		var got int
		sink := sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { <-block; got++; return nil })
		q := rates(sluice.Rate{N: 1})
		e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(q), Sink: sink}))
		var wg sync.WaitGroup
		wg.Go(func() { assert.NoError(t, q.Pause("", time.Hour)) }) // its goroutine tells all that come
		synctest.Wait()
		for range 5000 {
			require.NoError(t, q.Pause("", time.Hour))
		}
		assert.Equal(t, uint64(4000), e.Snapshot().EventsDropped, "events dropped: 1,000 are kept")
		close(block)
		wg.Wait()
		if s := e.Snapshot(); got != 1001 || s.EventsDropped != 4000 || s.EventsDelivered != 1001 {
			t.Errorf("%d told, %d delivered, %d dropped: want 1,001, 1,001 and 4,000", got, s.EventsDelivered, s.EventsDropped)
		}
		require.NoError(t, e.Close(t.Context()))
	})
}
