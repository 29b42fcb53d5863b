package promises_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// settled reports whether a future has come to its outcome.
func settled(f *sluice.Future) bool {
	select {
	case <-f.Done():
		return true
	default:
		return false
	}
}

// When Close has returned nil, every submitted call has told its last event, and its future
// has come to its outcome, whether the call had begun by then or not.
func TestClose_AfterSubmit(t *testing.T) {
	for name, list := range map[string][]sluice.Interceptor{
		"no interceptor":             nil,
		"an interceptor outside":     interceptors(passing),
		"a limit":                    interceptors(atMost(1)),
		"an interceptor and a limit": interceptors(passing, atMost(1)),
	} {
		t.Run(name, func(t *testing.T) {
			for range 200 {
				rec := new(sluice.Recorder)
				e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: rec, Interceptors: list}))
				sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(context.Context, struct{}) (int, error) { return 1, nil }))
				var futures []*sluice.Future
				for range 3 {
					futures = append(futures, e.Submit(t.Context(), sluice.Request{Tool: "x"}))
				}
				require.NoError(t, e.Close(t.Context()))
				for i, f := range futures {
					require.True(t, settled(f), "Close has returned nil, and future %d is not done", i)
				}
				n := len(rec.Events())
				runtime.Gosched()
				if err := rec.Check(); err != nil || len(rec.Events()) != n {
					t.Fatalf("%d events, then %d: %v", n, len(rec.Events()), err)
				}
			}
		})
	}
}

// Submissions, the ends of their contexts, and Close, all at once: no goroutine outlives
// Close, and every future is done when it returns.
func TestClose_WhileContextsEnd(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Millisecond} {
		for range 5 {
			bubble(t, func(t *testing.T) { // which fails if a goroutine is left
				r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(2), scheduler(sluice.PrioritySchedulerConfig{})), Timeout: timeout})
				r.tool(sluice.Spec{Name: "x"}, sleeps(ms))
				var mu sync.Mutex
				var futures []*sluice.Future
				var wg sync.WaitGroup
				for range 4 {
					wg.Go(func() {
						for i := range 50 {
							ctx, cancel := context.WithCancel(r.ctx)
							wg.Go(func() {
								if i%3 == 0 {
									time.Sleep(time.Duration(i) * 100 * time.Microsecond)
								}
								cancel()
							})
							f := r.Submit(ctx, sluice.Request{Tool: "x"})
							mu.Lock()
							futures = append(futures, f)
							mu.Unlock()
						}
					})
				}
				time.Sleep(2 * ms)
				require.NoError(t, r.Close(context.Background()))
				mu.Lock()
				for i, f := range futures {
					assert.True(t, settled(f), "Close has returned nil, and future %d is not done", i)
				}
				mu.Unlock()
				wg.Wait()
				r.end()
			})
		}
	}
}

// Close of one executor refuses its own calls that wait, and leaves those of another that
// shares a gate with it.
func TestClose_LeavesTheCallsOfOthers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		gate := atMost(1)
		mine := newRig(t, sluice.Config{Interceptors: interceptors(gate)})
		other := newRig(t, sluice.Config{Interceptors: interceptors(gate)})
		mine.tool(sluice.Spec{Name: "x"}, sleeps(time.Second))
		other.tool(sluice.Spec{Name: "x"}, sleeps(time.Second))
		var got [3]error
		var futures []*sluice.Future
		wait := inOrder(3, func(i int) {
			switch i {
			case 0:
				got[i] = other.call("x") // runs
			case 1:
				got[i] = mine.call("x")
			default:
				got[i] = other.call("x")
			}
		})
		for _, r := range []*rig{mine, other} {
			futures = append(futures, r.Submit(r.ctx, sluice.Request{Tool: "x"}))
		}
		require.NoError(t, mine.Close(t.Context()))
		if mine.at() != 0 || !settled(futures[0]) || settled(futures[1]) {
			t.Errorf("Close returned at %v; futures done: %v, %v; want at once, true, false", mine.at(), settled(futures[0]), settled(futures[1]))
		}
		wait()
		require.NoError(t, got[0])
		require.NoError(t, got[2])
		assert.ErrorIs(t, got[1], sluice.ErrClosed, "the closed executor's waiting call")
		_, err := futures[0].Wait(t.Context())
		assert.ErrorIs(t, err, sluice.ErrClosed, "the closed executor's submitted call")
		if _, err := futures[1].Wait(t.Context()); err != nil || other.at() != 3*time.Second {
			t.Errorf("the other's submitted call: %v at %v, want none at 3s", err, other.at())
		}
		mine.end()
		other.end()
	})
}

// A tool, an event's sink, and a call nested in either, call Close with the context they
// were given: it would wait for itself, says so at once, and closes nothing.
func TestClose_FromInside(t *testing.T) {
	kinds := []sluice.EventKind{sluice.ToolInvoked, sluice.ToolQueued, sluice.ToolStarted, sluice.ToolCompleted}
	for _, where := range []string{"tool", "nested", "sink"} {
		for _, kind := range kinds {
			for _, way := range ways {
				if where != "sink" && kind != sluice.ToolInvoked {
					continue
				}
				t.Run(fmt.Sprint(where, " ", kind, " ", way.name), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						var r *rig
						var got []error
						closes := func(ctx context.Context) {
							ctx = sluice.WithPipelineContext(context.WithoutCancel(ctx), sluice.PipelineContext{RunID: "other"})
							got = append(got, r.Close(ctx))
						}
						r = newRig(t, sluice.Config{Interceptors: interceptors(atMost(1)), Timeout: way.timeout,
							Sink: sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
								if where == "sink" && e.Kind == kind && e.Call.Tool == "x" {
									closes(ctx)
								}
								return nil
							})})
						r.tool(sluice.Spec{Name: "busy"}, sleeps(ms))
						r.tool(sluice.Spec{Name: "inner"}, func(ctx context.Context) error { closes(ctx); return nil })
						r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
							switch where {
							case "tool":
								closes(ctx)
							case "nested":
								_, err := r.Invoke(ctx, sluice.Request{Tool: "inner"})
								return err
							}
							return nil
						})
						go r.call("busy")
						synctest.Wait()
						var err error
						if way.submit {
							_, err = r.Submit(r.ctx, sluice.Request{Tool: "x"}).Wait(t.Context())
						} else {
							err = r.call("x")
						}
						require.NoError(t, err)
						tool := "x"
						if where == "nested" {
							tool = "inner"
						}
						if len(got) != 1 || got[0] == nil || !strings.Contains(got[0].Error(), fmt.Sprintf("of tool %q", tool)) || r.at() != ms {
							t.Errorf("Close: %v, all over at %v; want an error that names tool %q, at 1ms", got, r.at(), tool)
						}
						require.NoError(t, r.call("busy")) // it is open
						r.end()
					})
				})
			}
		}
	}
}

// A sink that is told of a retry has a context that Close knows too, whoever tells of it.
func TestClose_FromASinkOfARetry(t *testing.T) {
	for _, told := range []bool{false, true} {
		t.Run(fmt.Sprint("by the layer that waits ", told), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var r *rig
				var got []error
				again := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
					return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
						_, err := next(ctx, c)
						if told {
							c.ReportRetry(ctx, 0, err)
						}
						return next(ctx, c)
					}
				})
				r = newRig(t, sluice.Config{Interceptors: interceptors(again), Sink: sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
					if e.Kind == sluice.ToolRetrying {
						ctx, cancel := context.WithTimeout(ctx, time.Hour)
						defer cancel()
						got = append(got, r.Close(ctx))
					}
					return nil
				})})
				r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
				require.NoError(t, r.call("x"))
				if len(got) != 1 || got[0] == nil || !strings.Contains(got[0].Error(), `of tool "x"`) || r.at() != 0 {
					t.Errorf("Close: %v, all over at %v; want an error that names the tool, at once", got, r.at())
				}
				r.end()
			})
		})
	}
}

// With another context Close inside a tool waits until that ends. A context that a tool has
// kept beyond its call is as good as any, and so is that of another executor's call.
func TestClose_WithAnotherContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, other := newRig(t, sluice.Config{}), newRig(t, sluice.Config{Sink: sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { return nil })})
		var kept context.Context
		var inside error
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
			kept = ctx
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			inside = r.Close(ctx)
			return other.Close(kept)
		})
		require.NoError(t, r.call("x"))
		if !errors.Is(inside, context.DeadlineExceeded) || r.at() != time.Second {
			t.Errorf("Close inside: %v at %v, want a deadline exceeded at 1s", inside, r.at())
		}
		require.NoError(t, r.Close(kept))
		r.end()
		other.end()
	})
}

// A sink that has kept the context of an event may close the executor after the call.
func TestClose_WithAKeptEventContext(t *testing.T) {
	var kept []context.Context
	r := newRig(t, sluice.Config{Sink: sluice.EventSinkFunc(func(ctx context.Context, _ *sluice.Event) error {
		kept = append(kept, ctx)
		return nil
	})})
	r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
	require.NoError(t, r.call("x"))
	assert.Len(t, kept, 3, "events")
	for _, ctx := range kept {
		require.NoError(t, r.Close(ctx))
	}
	r.end()
}

// So may one that has kept that of a call of which there was nothing to tell but that it completed.
func TestClose_WithAKeptEventContextOfAPlainCall(t *testing.T) {
	var kept []context.Context
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Sink: sluice.EventSinkFunc(func(ctx context.Context, _ *sluice.Event) error {
			kept = append(kept, ctx)
			return nil
		})}))
	tool := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x"}, func(_ context.Context, n int) (int, error) { return n, nil }))
	for range 3 {
		_, err := tool(t.Context(), 1)
		require.NoError(t, err)
	}
	assert.Len(t, kept, 9, "events")
	for _, ctx := range kept {
		require.NoError(t, exec.Close(ctx))
	}
}

func TestClose_MayBeCalledInsideAndManyTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExec(t, sluice.Config{})
		var inside error
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(ctx context.Context, _ string) (string, error) {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			inside = e.Close(ctx) // would wait for itself
			return "", nil
		}))
		start := time.Now()
		_, err := f(t.Context(), "")
		assert.NoError(t, err)
		require.ErrorContains(t, inside, `tool "x"`, "Close inside")
		assert.Zero(t, time.Since(start), "Close inside")
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				assert.NoError(t, e.Close(t.Context()))
			})
		}
		wg.Wait()
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

// A context that panics or calls Goexit when it is to be watched, or is watched no more, ends its
// call by that, and Close waits for nothing that is left of it.
func TestClose_AfterAContextThatMisbehavesAsItIsWatched(t *testing.T) {
	for name, how := range map[string]func(){"panic": func() { panic("asked") }, "Goexit": runtime.Goexit} {
		for _, when := range []string{"asked", "left"} {
			t.Run(name+" "+when, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
					r.tool(sluice.Spec{Name: "x"}, sleeps(ms))
					holder := r.Submit(r.ctx, sluice.Request{Tool: "x"})
					base, cancel := context.WithCancel(r.ctx)
					defer cancel()
					ctx := askedContext{base, func() {}, func() {}}
					if when == "asked" {
						ctx.asked = how
					} else {
						ctx.left = how
					}
					go r.Submit(ctx, sluice.Request{Tool: "x"}) // which may exit
					_, err := holder.Wait(r.ctx)
					require.NoError(t, err)
					synctest.Wait()
					require.NoError(t, r.Close(t.Context()))
					r.end()
				})
			})
		}
	}
}

// slowly is a sink that takes a minute over events of that kind.
func slowly(kind sluice.EventKind) sluice.EventSink {
	return sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
		if e.Kind == kind {
			time.Sleep(time.Minute)
		}
		return nil
	})
}

// Close waits for a call whose attempt was left behind and has ended, as long as a sink is told what that
// did to a breaker. Who is left is counted before the sink is told.
func TestClose_WaitsForASinkThatHearsOfAnAttemptLeftBehind(t *testing.T) {
	leaves := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			go next(ctx, c)
			time.Sleep(time.Second)
			return sluice.Result{}, errTool
		}
	})
	for name, c := range map[string]sluice.Config{
		"out of time":            {Timeout: time.Second, Interceptors: interceptors(opensAtOnce())},
		"left by an interceptor": {Interceptors: interceptors(opensAtOnce(), leaves)},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c.Sink = slowly(sluice.BreakerStateChanged)
				r := newRig(t, c)
				r.tool(sluice.Spec{Name: "x"}, sleeps(2*time.Second))
				go r.call("x")
				for _, want := range []int{0, 1, 0} { // in the code, left, and with the sink
					time.Sleep(900 * ms)
					assert.Equal(t, want, r.Snapshot().Abandoned, "abandoned after %v", r.at())
				}
				require.NoError(t, r.Close(t.Context()))
				assert.Equal(t, 61*time.Second, r.at(), "closed after")
				r.trace("x: invoked started abandoned failed")
				r.end()
			})
		})
	}
}

func opensAtOnce() *sluice.CircuitBreaker { return breakerOf(sluice.CircuitBreakerConfig{Failures: 1}) }
