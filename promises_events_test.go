package sluice_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// Promise 18: every path begins with tool.invoked and ends with exactly one terminal
// event.
func TestPromise18_EveryPath(t *testing.T) {
	retry := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
		switch s.Name {
		case "retried":
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				res, err := next(ctx, c)
				for range 2 {
					if err != nil {
						res, err = next(ctx, c)
					}
				}
				return res, err
			}
		case "denied":
			return func(context.Context, sluice.Call) (sluice.Result, error) { return sluice.Result{}, errTool }
		case "cached":
			return func(context.Context, sluice.Call) (sluice.Result, error) { return sluice.Result{Value: 1}, nil }
		case "broken":
			return func(context.Context, sluice.Call) (sluice.Result, error) { panic("interceptor") }
		}
		return next
	})
	twice := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
		if s.Name != "twice" {
			return next
		}
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			_, _ = next(ctx, c)
			return next(ctx, c)
		}
	})
	for _, tc := range []struct {
		name string
		run  func(r *rig)
		want string
		code string // of the last event
	}{
		{"return", func(r *rig) { _ = r.call("fine") }, "fine: invoked started completed", ""},
		{"error", func(r *rig) { _ = r.call("fails") }, "fails: invoked started failed", "tool_error"},
		{"panic", func(r *rig) { _ = r.call("panics") }, "panics: invoked started failed", "panic"},
		{"Goexit", func(r *rig) { _, _, _ = r.invokeApart(r.ctx, sluice.Request{Tool: "exits"}) }, "exits: invoked started failed", "goexit"},
		{"unknown tool", func(r *rig) { _ = r.call("nobody") }, "nobody: invoked failed", "unknown_tool"},
		{"a name that is none", func(r *rig) { _ = r.call("no\nbody") }, `"no\nbody": invoked failed`, "unknown_tool"},
		{"invalid arguments", func(r *rig) {
			_, _ = r.Invoke(r.ctx, sluice.Request{Tool: "fine", Args: json.RawMessage(`{`)})
		}, "fine: invoked failed", "invalid_arguments"},
		{"timeout, deaf", func(r *rig) { _ = r.call("deaf") }, "deaf: invoked started failed", "timeout"},
		{"timeout, listens", func(r *rig) { _ = r.call("listens") }, "listens: invoked started failed", "timeout"},
		{"cancelled while it runs", func(r *rig) {
			ctx, cancel := context.WithTimeoutCause(r.ctx, 5*ms, context.Canceled)
			defer cancel()
			_, _ = r.Invoke(ctx, sluice.Request{Tool: "listens"})
		}, "listens: invoked started failed", "timeout"},
		{"cancelled before", func(r *rig) {
			ctx, cancel := context.WithCancel(r.ctx)
			cancel()
			_, _ = r.Invoke(ctx, sluice.Request{Tool: "fine"})
		}, "fine: invoked failed", "canceled"},
		{"cancelled while queued", func(r *rig) {
			r.busy("block")
			ctx, cancel := context.WithCancel(r.ctx)
			time.AfterFunc(ms, cancel)
			_, _ = r.Invoke(ctx, sluice.Request{Tool: "fine"})
		}, "block: invoked started completed; fine: invoked queued failed", "canceled"},
		{"deadline while queued", func(r *rig) {
			r.busy("block")
			ctx, cancel := context.WithTimeout(r.ctx, 5*ms)
			defer cancel()
			_, _ = r.Invoke(ctx, sluice.Request{Tool: "fine"})
		}, "block: invoked started completed; fine: invoked queued failed", "wait_too_long"},
		{"waits", func(r *rig) {
			r.busy("block")
			_ = r.call("fine")
		}, "block: invoked started completed; fine: invoked queued started completed", ""},
		{"MaxWait", func(r *rig) {
			r.busy("block")
			_ = r.call("hasty")
		}, "block: invoked started completed; hasty: invoked queued failed", "wait_too_long"},
		{"queue full", func(r *rig) {
			r.busy("block")
			r.busy("fine")
			_ = r.call("fine")
		}, "block: invoked started completed; fine: invoked queued started completed; fine: invoked failed", "queue_full"},
		{"rate", func(r *rig) { _, _ = r.call("rated"), r.call("rated") }, "rated: invoked started completed; rated: invoked failed", "wait_too_long"},
		{"breaker", func(r *rig) { _, _ = r.call("breaks"), r.call("breaks") }, "breaks: invoked started failed; breaks: invoked failed", "breaker_open"},
		{"too wide", func(r *rig) { _ = r.call("wide") }, "wide: invoked failed", "saturated"},
		{"cost function", func(r *rig) { _ = r.call("costly") }, "costly: invoked failed", "panic"},
		{"denied", func(r *rig) { _ = r.call("denied") }, "denied: invoked denied", "denied"},
		{"interceptor answers", func(r *rig) { _ = r.call("cached") }, "cached: invoked completed", ""},
		{"interceptor panics", func(r *rig) { _ = r.call("broken") }, "broken: invoked failed", "panic"},
		{"retried", func(r *rig) { _ = r.call("retried") }, "retried: invoked started retrying started retrying started failed", "tool_error"},
		{"next twice inside", func(r *rig) { _ = r.call("twice") }, "twice: invoked started failed", "tool_error"},
		{"nested", func(r *rig) { _ = r.call("outer") }, "outer: invoked started completed; fine: invoked started completed", ""},
		{"closed before", func(r *rig) {
			assert.NoError(r.t, r.Close(r.ctx))
			_ = r.call("fine")
		}, "fine: invoked failed", "closed"},
		{"closed while queued", func(r *rig) {
			r.busy("block")
			r.busy("fine")
			assert.NoError(r.t, r.Close(r.ctx))
		}, "block: invoked started completed; fine: invoked queued failed", "closed"},
	} {
		for _, submit := range []bool{false, true} {
			t.Run(fmt.Sprint(tc.name, " submit ", submit), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Interceptors: interceptors(retry,
						limitsOf(sluice.Limit{Max: 1}, sluice.Limit{Max: 5, Unit: "MB", Scope: sluice.ForTool("wide", "costly")}),
						scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 1}), twice)})
					defer r.end()
					tool := func(s sluice.Spec, f func(context.Context) error) { r.tool(s, f) }
					tool(sluice.Spec{Name: "fine"}, sleeps(0))
					tool(sluice.Spec{Name: "hasty", Policy: sluice.Policy{MaxWait: ms}}, sleeps(0))
					tool(sluice.Spec{Name: "block"}, sleeps(50*ms))
					tool(sluice.Spec{Name: "deaf", Policy: sluice.Policy{Timeout: 10 * ms}}, sleeps(time.Second))
					tool(sluice.Spec{Name: "listens", Policy: sluice.Policy{Timeout: 10 * ms}}, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
					tool(sluice.Spec{Name: "rated", Policy: sluice.Policy{Rates: []sluice.Rate{{N: 1}}, MaxWait: ms}}, sleeps(0))
					tool(sluice.Spec{Name: "breaks", Policy: sluice.Policy{Breaker: &sluice.CircuitBreakerConfig{Failures: 1}}}, func(context.Context) error { return errTool })
					tool(sluice.Spec{Name: "wide", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 6 }}}, sleeps(0))
					tool(sluice.Spec{Name: "costly", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { panic("cost") }}}, sleeps(0))
					tool(sluice.Spec{Name: "exits"}, func(context.Context) error { runtime.Goexit(); return nil })
					tool(sluice.Spec{Name: "panics"}, func(context.Context) error { panic("x") })
					for _, name := range []string{"fails", "retried", "denied", "cached", "broken", "twice"} {
						tool(sluice.Spec{Name: name}, func(context.Context) error { return errTool })
					}
					tool(sluice.Spec{Name: "outer"}, func(ctx context.Context) error { return errOf(r.Invoke(ctx, sluice.Request{Tool: "fine"})) })
					if submit { // the same through a future, as far as it is a plain call
						if strings.Contains(tc.want, ";") || strings.Contains(tc.name, "cancelled") || strings.Contains(tc.name, "closed") || tc.name == "invalid arguments" {
							return
						}
						name := strings.SplitN(tc.want, ":", 2)[0]
						if name == `"no\nbody"` {
							name = "no\nbody"
						}
						_, _ = r.Submit(r.ctx, sluice.Request{Tool: name}).Wait(context.Background())
					} else {
						tc.run(r)
					}
					time.Sleep(2 * time.Second)
					r.trace(tc.want)
					events := r.rec.Events()
					e := events[len(events)-1]
					for _, x := range events { // of the call that came last
						if strings.HasSuffix(string(x.Kind), "failed") || strings.HasSuffix(string(x.Kind), "denied") {
							e = x
						}
					}
					var got struct {
						Code string `json:"error_code"`
					}
					b, err := json.Marshal(e)
					require.NoError(t, err)
					require.NoError(t, json.Unmarshal(b, &got))
					if tc.code != "" && tc.code != "denied" && got.Code != tc.code {
						t.Errorf("code %q, want %q: %s", got.Code, tc.code, b)
					}
					for i := 1; i < len(events); i++ {
						if events[i].Time.Before(events[i-1].Time) {
							t.Errorf("%s is of %v, before %s", events[i].Kind, events[i].Time, events[i-1].Kind)
						}
					}
				})
			})
		}
	}
}

// Hedged attempts report from several goroutines: the order of one call's events holds,
// also if a sink ends the goroutine that happens to tell the others' events.
func TestPromise18_EventsFromSeveralGoroutines(t *testing.T) {
	for _, exits := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			hedge := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
				return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
					outs := make(chan error, 2)
					for range 2 {
						go func() {
							err := errors.New("exited")
							defer func() { outs <- err }()
							_, err = next(ctx, c)
						}()
						time.Sleep(ms)
					}
					return sluice.Result{}, <-outs
				}
			})
			first := atomic.Bool{}
			r := newRig(t, sluice.Config{Interceptors: interceptors(hedge, atMost(2)),
				Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
					if e.Kind == sluice.ToolStarted && first.CompareAndSwap(false, true) {
						time.Sleep(time.Second) // meanwhile the other attempt starts and ends
						if exits {
							runtime.Goexit()
						}
					}
					return nil
				})})
			defer func() {
				require.NoError(t, r.Close(context.Background()))
				require.NoError(t, r.pc.State.Close())
			}()
			r.tool(sluice.Spec{Name: "work"}, sleeps(10*ms))
			require.NoError(t, r.call("work"))
			time.Sleep(2 * time.Second)
			r.idle()
			want := "work: invoked started started completed"
			if exits { // the recorder comes after the sink, which kept the first from it
				want = "work: invoked started completed"
			}
			r.trace(want)
		})
	}
}

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
		a := sluice.Must(sluice.NewAsyncSink(sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { <-unblock; return nil }), sluice.AsyncSinkConfig{MaxQueue: 10}))
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
			seen.add("%v%s>%v%s", e.From, e.OldLimit, e.To, e.NewLimit)
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

// No goroutine and no timer outlives Close, and an executor that is not used costs none.
func TestPromise21_NothingOutlivesClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		before := runtime.NumGoroutine()
		for i := range 1000 {
			r := newRig(t, sluice.Config{Timeout: time.Second, Interceptors: interceptors(
				atMost(1), rates(sluice.Rate{N: 1}), breakerOf(sluice.CircuitBreakerConfig{}), scheduler(sluice.PrioritySchedulerConfig{}))})
			if i%100 == 0 {
				r.tool(sluice.Spec{Name: "work"}, sleeps(ms))
				var wg sync.WaitGroup
				for range 5 { // four of them wait for a token, on the one timer
					wg.Go(func() { _ = r.call("work") })
				}
				synctest.Wait()
				r.end()
				wg.Wait()
				continue
			}
			r.end()
		}
		synctest.Wait()
		if n := runtime.NumGoroutine(); n > before { // some of a test before may just have ended
			t.Errorf("%d goroutines, %d before", n, before)
		}
	})
}

// Close with an executor's own state leaves nothing either.
func TestPromise21_OwnStateIsClosed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for range 100 {
			e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
			put := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "put"}, func(ctx context.Context, _ int) (int64, error) {
				return sluice.Increment(ctx, sluice.Key[int64]("n"), 1, sluice.TTL(time.Hour))
			}))
			require.NoError(t, errOf(put(t.Context(), 1)))
			require.NoError(t, e.Close(t.Context()))
		}
	})
}

// A flood of keys finds a table of bounded size: idle keys make room, busy ones do not,
// and no key that is still limited is forgotten.
func TestPromise21_KeyFlood(t *testing.T) {
	const keys = 100
	bubble(t, func(t *testing.T) {
		key := sluice.ByKey("host", func(c sluice.Call) string { return c.ID })
		r := newRig(t, sluice.Config{MaxWait: sluice.NoWait, Interceptors: interceptors(
			limitsOf(sluice.Limit{Max: 1, Scope: key, MaxKeys: keys}),
			sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: key, MaxKeys: keys, Rates: []sluice.Rate{{N: 1, Per: time.Hour, Burst: 1}}})),
			sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Scope: key, MaxKeys: keys})))})
		defer r.end()
		r.ctx = t.Context()
		r.tool(sluice.Spec{Name: "work"}, sleeps(0))
		flood := func(n int, prefix string) (ok, full, late int) {
			for i := range n {
				_, err := r.Invoke(r.ctx, sluice.Request{ID: fmt.Sprint(prefix, i), Tool: "work"})
				switch {
				case err == nil:
					ok++
				case errors.Is(err, sluice.ErrSaturated):
					full++
					wantRefusal(t, err, sluice.ErrSaturated, "rate calls per hour", time.Hour)
				case errors.Is(err, sluice.ErrWaitTooLong):
					late++
				default:
					t.Error(err)
				}
			}
			return
		}
		want := func(what string, ok, full, late, wok, wfull, wlate int) {
			t.Helper()
			if ok != wok || full != wfull || late != wlate {
				t.Errorf("%s: %d ran, %d found no room, %d too late: want %d, %d, %d", what, ok, full, late, wok, wfull, wlate)
			}
		}
		ok, full, late := flood(100_000, "a")
		want("first flood", ok, full, late, keys, 100_000-keys, 0)
		ok, full, late = flood(keys, "a")
		want("the same keys are still limited", ok, full, late, 0, 0, keys)
		if n := len(r.Snapshot().Gates); n > 3*keys+1 {
			t.Errorf("%d cells, want at most %d", n, 3*keys+1)
		}
		time.Sleep(time.Hour) // all buckets are full again
		ok, full, late = flood(1000, "b")
		want("after an hour", ok, full, late, keys, 1000-keys, 0)
		if n := len(r.Snapshot().Gates); n > 3*keys+1 {
			t.Errorf("%d cells, want at most %d", n, 3*keys+1)
		}
	})
}

// All that waits is bounded, and freed at once when it leaves.
func TestPromise21_QueueIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))}) // no scheduler: 1,000
		defer r.end()
		r.ctx = t.Context()
		r.tool(sluice.Spec{Name: "block"}, sleeps(time.Hour))
		r.busy("block")
		ctx, cancel := context.WithCancel(r.ctx)
		full, gone := 0, 0
		var futures []*sluice.Future
		for range 5000 {
			f := r.Submit(ctx, sluice.Request{Tool: "block"})
			select {
			case <-f.Done():
				wantRefusal(t, errOf(f.Wait(t.Context())), sluice.ErrQueueFull, "queue", 0)
				full++
			default:
				futures = append(futures, f)
			}
		}
		q := r.Snapshot().Queued
		assert.Equal(t, 1000, q)
		assert.Equal(t, 4000, full)
		cancel()
		for _, f := range futures {
			if errors.Is(errOf(f.Wait(t.Context())), context.Canceled) {
				gone++
			}
		}
		q = r.Snapshot().Queued
		assert.Zero(t, q)
		assert.Equal(t, 1000, gone)
	})
}
