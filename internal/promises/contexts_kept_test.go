package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// A context that is kept beyond its call says whose it was, whatever calls have been made since, and
// changes nothing of them.
func TestKeptContext_SpeaksOfItsOwnCall(t *testing.T) {
	for name, tt := range map[string]struct {
		sink        sluice.EventSink
		timeout     time.Duration
		cooperative bool
	}{
		"quiet": {}, "quiet, timeout": {timeout: time.Hour}, "quiet, cooperative": {timeout: time.Hour, cooperative: true},
		"with a sink":              {sink: new(sluice.Recorder)},
		"with a sink, timeout":     {sink: new(sluice.Recorder), timeout: time.Hour},
		"with a sink, cooperative": {sink: new(sluice.Recorder), timeout: time.Hour, cooperative: true},
	} {
		t.Run(name, func(t *testing.T) {
			state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
			exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: tt.sink, State: state}))
			var kept []context.Context
			var inside func(context.Context)
			sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Type: "t", Policy: sluice.Policy{
				Rates:   []sluice.Rate{{N: 1, Per: time.Hour, Burst: 100, Unit: "u"}},
				Timeout: tt.timeout, Cooperative: tt.cooperative,
			}}, func(ctx context.Context, n int) (int, error) {
				kept = append(kept, ctx)
				inside(ctx)
				return n, nil
			}))
			inside = func(context.Context) {}
			call := func(id, tenant string) sluice.Result {
				ctx := sluice.WithPipelineContext(context.WithValue(t.Context(), ctxKey{}, id), sluice.PipelineContext{Tenant: tenant, Priority: 7})
				res, err := exec.Invoke(ctx, sluice.Request{ID: id, Tool: "x", Input: 1})
				require.NoError(t, err)
				return res
			}
			call("first", "a")
			inside = func(context.Context) {
				for i, was := range kept[:1] {
					sluice.ReportUsage(was, "u", 50)
					sluice.ReportThrottle(was, time.Minute)
					_, _, err := sluice.Hold(was)
					assert.ErrorContains(t, err, "the tool has returned", "the context of call %d", i)
				}
			}
			res := call("second", "b")
			assert.Empty(t, res.Decision(), "what the first call reports is not the second's")

			for i, want := range []struct{ id, tenant string }{{"first", "a"}, {"second", "b"}} {
				ctx := kept[i]
				c, ok := sluice.CallFrom(ctx)
				require.True(t, ok)
				require.Equal(t, []any{want.id, "x", "t", sluice.Priority(7), int32(1), want.tenant},
					[]any{c.ID, c.Tool, c.Type, c.Priority, c.Attempt, c.Pipeline.Tenant})
				require.Equal(t, want.tenant, sluice.PipelineContextFrom(ctx).Tenant)
				require.Same(t, state, sluice.StateFrom(ctx))
				require.Equal(t, want.id, ctx.Value(ctxKey{}))
				if tt.timeout > 0 {
					require.Equal(t, context.Canceled, ctx.Err())
				}
			}
			require.NoError(t, exec.Close(context.WithoutCancel(kept[0])), "no call is under way")
		})
	}
}

// A sink that looks for the call in the context that it gets as the attempt begins, and then exits, has
// kept the code from running.
func TestKeptContext_ASinkLooksAndExits(t *testing.T) {
	t.Run("plain", func(t *testing.T) { aSinkLooksAndExits(t, sluice.Policy{}) })
	t.Run("timeout", func(t *testing.T) { aSinkLooksAndExits(t, sluice.Policy{Timeout: time.Hour}) })
	t.Run("cooperative", func(t *testing.T) { aSinkLooksAndExits(t, sluice.Policy{Timeout: time.Hour, Cooperative: true}) })
}

func aSinkLooksAndExits(t *testing.T, p sluice.Policy) {
	t.Helper()
	var exits atomic.Bool
	var end error
	ran := 0
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: interceptors(atMost(1)),
		Sink: sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
			switch {
			case e.Kind == sluice.ToolStarted && exits.Load():
				sluice.ReportThrottle(ctx, time.Nanosecond)
				runtime.Goexit()
			case e.Kind == sluice.ToolFailed:
				end = e.Err
			}
			return nil
		})}))
	tool := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Policy: p}, func(_ context.Context, n int) (int, error) { ran++; return n, nil }))
	_, err := tool(t.Context(), 1)
	require.NoError(t, err)
	exits.Store(true)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = tool(t.Context(), 1) })
	wg.Wait()
	require.ErrorIs(t, end, sluice.ErrRejected)
	require.Equal(t, 1, ran)
	exits.Store(false)
	for range 2 {
		_, err := tool(t.Context(), 1)
		require.NoError(t, err, "the slot is free")
	}
	require.Equal(t, 3, ran)
	require.NoError(t, exec.Close(t.Context()))
}

// A call made with a context that was kept is nested in nothing, but its events name the call whose
// context it was.
func TestKeptContext_NamesTheParent(t *testing.T) {
	rec := new(sluice.Recorder)
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: rec}))
	var kept context.Context
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "outer", Policy: sluice.Policy{Priority: 9}}, func(ctx context.Context, n int) (int, error) {
		kept = ctx
		return n, nil
	}))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "inner"}, func(_ context.Context, n int) (int, error) { return n, nil }))
	for _, q := range []sluice.Request{{ID: "o1", Tool: "outer", Input: 1}, {ID: "other", Tool: "inner", Input: 1}} {
		_, err := exec.Invoke(t.Context(), q)
		require.NoError(t, err)
	}
	_, err := exec.Invoke(kept, sluice.Request{ID: "i1", Tool: "inner", Input: 1})
	require.NoError(t, err)
	require.NoError(t, rec.Check())
	outer, inner := rec.Events("outer")[0], rec.Events("inner")[3]
	require.Equal(t, "i1", inner.Call.ID)
	require.Equal(t, []any{"o1", outer.CallKey}, []any{inner.ParentID, inner.ParentKey})
	require.Equal(t, sluice.PriorityNormal, inner.Call.Priority, "a call that is over lends no urgency")
	require.NotEqual(t, rec.Events("inner")[0].CallKey, outer.CallKey)
}

// While calls come and go, others use contexts that they have kept, at any time: each speaks of its
// own call, and no call has what another reports.
func TestStorm_KeptContexts(t *testing.T) {
	t.Run("plain", func(t *testing.T) { stormOfKeptContexts(t, sluice.Policy{}) })
	t.Run("timeout", func(t *testing.T) { stormOfKeptContexts(t, sluice.Policy{Timeout: time.Hour}) })
	t.Run("cooperative", func(t *testing.T) { stormOfKeptContexts(t, sluice.Policy{Timeout: time.Hour, Cooperative: true}) })
}

func stormOfKeptContexts(t *testing.T, p sluice.Policy) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { return nil })}))
	type keep struct {
		ctx context.Context
		id  string
	}
	var mu sync.Mutex
	var kept []keep
	var nested, refused atomic.Int64
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Policy: p}, func(ctx context.Context, id string) (string, error) {
		mu.Lock()
		if kept = append(kept, keep{ctx, id}); len(kept) > 64 {
			kept = kept[1:]
		}
		mu.Unlock()
		if len(id)%3 == 0 {
			runtime.Gosched()
		}
		return id, nil
	}))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "y"}, func(_ context.Context, id string) (string, error) {
		nested.Add(1)
		return id, nil
	}))
	const rounds = 2000
	_, err := exec.Invoke(t.Context(), sluice.Request{Tool: "x", Input: "call"}) // so that there is one to use
	require.NoError(t, err)
	kept[0].id = func() string { c, _ := sluice.CallFrom(kept[0].ctx); return c.ID }()
	var all sync.WaitGroup
	for g := range 3 {
		all.Go(func() {
			for i := range rounds {
				id := fmt.Sprint("call-", g, "-", i)
				res, err := exec.Invoke(t.Context(), sluice.Request{ID: id, Tool: "x", Input: id})
				assert.NoError(t, err)
				assert.Equal(t, id, res.Value)
				assert.Empty(t, res.Decision().Costs)
			}
		})
	}
	for g := range uint64(2) {
		r := rand.New(rand.NewPCG(seed, g))
		all.Go(func() {
			for range rounds {
				mu.Lock()
				k := kept[r.IntN(len(kept))]
				mu.Unlock()
				switch r.IntN(5) {
				case 0:
					sluice.ReportUsage(k.ctx, "u", 5)
				case 1:
					if stream, done, err := sluice.Hold(k.ctx); err == nil {
						c, _ := sluice.CallFrom(stream)
						assert.Equal(t, k.id, c.ID)
						done(nil)
					}
				case 2:
					_, err := exec.Invoke(k.ctx, sluice.Request{Tool: "y", Input: k.id})
					if p.Timeout > 0 && errors.Is(err, sluice.ErrRejected) { // such a context ends with its code
						refused.Add(1)
						assert.Error(t, k.ctx.Err())
					} else {
						assert.NoError(t, err)
					}
				case 3:
					assert.NotNil(t, sluice.StateFrom(k.ctx))
				default:
					c, ok := sluice.CallFrom(k.ctx)
					assert.True(t, ok)
					assert.Equal(t, k.id, c.ID)
				}
			}
		})
	}
	all.Wait()
	assert.NotZero(t, nested.Load()+refused.Load())
	require.NoError(t, exec.Close(t.Context()))
	s := exec.Snapshot()
	require.EqualValues(t, 1+3*rounds+nested.Load(), s.Completed)
	require.EqualValues(t, 3*s.Completed+2*s.Failed, s.EventsDelivered)
	require.EqualValues(t, refused.Load(), s.Failed)
}

// A call made inside code that has a time limit does not end that, nor take its time for its own.
func TestKeptContext_NestedInATimedCall(t *testing.T) {
	inner := map[string]sluice.Policy{
		"plain": {}, "timeout": {Timeout: time.Minute}, "cooperative": {Timeout: time.Minute, Cooperative: true},
	}
	for _, cooperative := range []bool{false, true} {
		for name, p := range inner {
			for _, fail := range []error{nil, errTool} {
				t.Run(fmt.Sprintf("%s in one that is cooperative: %v, %v", name, cooperative, fail), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						r := newRig(t, sluice.Config{})
						r.tool(sluice.Spec{Name: "inner", Policy: p}, func(ctx context.Context) error {
							time.Sleep(time.Second)
							return fail
						})
						r.tool(sluice.Spec{Name: "outer", Policy: sluice.Policy{Timeout: time.Hour, Cooperative: cooperative}}, func(ctx context.Context) error {
							for n := range time.Duration(3) {
								_, err := r.Invoke(ctx, sluice.Request{Tool: "inner"})
								assert.Equal(t, fail, err)
								assert.NoError(t, ctx.Err(), "after %d calls", n+1)
								d, _ := ctx.Deadline()
								assert.Equal(t, time.Hour-(n+1)*time.Second, time.Until(d))
							}
							assert.False(t, ctxDone(ctx))
							return nil
						})
						require.NoError(t, r.call("outer"))
						r.end()
					})
				})
			}
		}
	}
}

// Code that ends at the very instant at which its time is over has ended in time or not, and all agree
// on that, whenever they have looked at its context.
func TestKeptContext_EndsAtTheVeryInstant(t *testing.T) {
	for name, look := range map[string]func(context.Context){
		"nobody looks": func(context.Context) {},
		"finds":        func(ctx context.Context) { sluice.ReportUsage(ctx, "u", 1) },
		"waits":        func(ctx context.Context) { ctx.Done() },
	} {
		for _, when := range []string{"before", "at", "after"} {
			t.Run(name+" "+when, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Timeout: time.Second, Interceptors: interceptors(atMost(1))})
					var kept context.Context
					r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
						kept = ctx
						if when == "before" {
							look(ctx)
						}
						time.Sleep(time.Second)
						if when == "at" {
							look(ctx)
						}
						return nil
					})
					for range 100 {
						err := r.call("x")
						if err != nil {
							require.ErrorIs(t, err, sluice.ErrTimeout)
						}
						synctest.Wait()
						if when == "after" {
							look(kept)
						}
						if how := kept.Err(); how == context.Canceled { // only by who has asked for a timer, which comes too late
							require.Equal(t, "waits before", name+" "+when)
						} else {
							require.Equal(t, context.DeadlineExceeded, how)
							require.ErrorIs(t, context.Cause(kept), sluice.ErrTimeout)
						}
						r.idle()
						require.Equal(t, err != nil, r.terminal("x").Err != nil)
						c, ok := sluice.CallFrom(kept)
						require.True(t, ok)
						require.Equal(t, r.terminal("x").Call.ID, c.ID)
					}
					r.end()
				})
			})
		}
	}
}

// Code that is late goes on with its own call, whatever calls are made meanwhile in the place of that.
func TestKeptContext_LateCodeKeepsItsCall(t *testing.T) {
	for name, sink := range map[string]bool{"quiet": false, "with a sink": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var mu sync.Mutex
				judged := make(map[string]string)
				conf := sluice.Config{Interceptors: interceptors(atMost(50)), Classify: func(c sluice.Call, res sluice.Result, err error) sluice.Outcome {
					mu.Lock()
					defer mu.Unlock()
					judged[c.ID] = fmt.Sprint(c.Tool, c.Input, res.Value, err)
					return sluice.OutcomeAuto
				}}
				if sink {
					conf.Sink = sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { return nil })
				}
				exec := newExec(t, conf)
				late := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "late", Policy: sluice.Policy{Timeout: time.Second}}, func(ctx context.Context, in string) (string, error) {
					time.Sleep(time.Minute)
					c, _ := sluice.CallFrom(ctx)
					return c.ID, nil
				}))
				quick := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "quick", Policy: sluice.Policy{Timeout: time.Second}}, echo))
				for i := range 20 {
					in := fmt.Sprint("late ", i)
					_, err := late(t.Context(), in)
					require.ErrorIs(t, err, sluice.ErrTimeout)
					for range 3 {
						out, err := quick(t.Context(), in)
						require.NoError(t, err)
						require.Equal(t, in, out)
					}
				}
				require.Equal(t, 20, exec.Snapshot().Abandoned)
				require.NoError(t, exec.Close(t.Context()))
				n := 0
				for id, what := range judged {
					if strings.HasPrefix(what, "late") {
						n++
						require.Regexp(t, "^latelate [0-9]+ ?"+id+" ?<nil>$", what)
					}
				}
				require.Equal(t, 20, n)
			})
		})
	}
}

// Who keeps a context, or nothing, keeps few other calls: what was made together does not lead from one
// call to the next for ever, however calls end.
func TestKeptContext_KeepsFewOthers(t *testing.T) {
	for name, sink := range map[string]sluice.EventSink{"quiet": nil, "with a sink": sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { return nil })} {
		for _, how := range []string{"plain", "nested", "panics", "streams", "errors", "finds itself", "timeout", "timeout, finds itself",
			"timeouts by turns", "cooperative", "interceptor"} {
			t.Run(how+", "+name, func(t *testing.T) {
				conf := sluice.Config{Sink: sink}
				switch how {
				case "timeout", "timeout, finds itself":
					conf.Timeout = time.Hour
				case "interceptor":
					conf.Interceptors = interceptors(passing)
				}
				exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), conf))
				inner := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "inner"}, func(_ context.Context, n int) (int, error) { return n, nil }))
				var kept context.Context
				policy := sluice.Policy{}
				if how == "cooperative" {
					policy = sluice.Policy{Timeout: time.Hour, Cooperative: true}
				}
				outer := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "outer", Policy: policy}, func(ctx context.Context, n int) (int, error) {
					kept = ctx
					switch how {
					case "nested":
						return inner(ctx, n)
					case "panics":
						if n%5 == 0 {
							panic("no")
						}
						return inner(ctx, n)
					case "streams":
						_, done, err := sluice.Hold(ctx)
						if n%2 == 0 {
							done(nil)
						} else {
							defer func() { go done(nil) }()
						}
						return n, err
					case "errors":
						return n, errors.New("no")
					case "timeouts by turns":
						if n%3 == 0 {
							sluice.ReportUsage(ctx, "u", 1)
						}
					case "finds itself", "timeout, finds itself":
						sluice.ReportUsage(ctx, "u", 1)
					}
					return n, nil
				}))
				timed := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "timed", Policy: sluice.Policy{Timeout: time.Hour}}, func(ctx context.Context, n int) (int, error) {
					if n%5 == 0 {
						sluice.ReportUsage(ctx, "u", 1)
					}
					return n, nil
				}))
				const calls = 4000
				var gone atomic.Int64
				for i := range calls {
					v := new([64]byte)
					runtime.AddCleanup(v, func(int) { gone.Add(1) }, 0)
					ctx := context.WithValue(t.Context(), ctxKey{}, v)
					if how == "timeouts by turns" && i%2 == 0 {
						_, _ = timed(ctx, i)
					} else {
						_, _ = outer(ctx, i)
					}
					if i%200 == 199 {
						runtime.GC()
					}
				}
				for range 100 { // pools are used all the while, as they are where calls go on
					if gone.Load() > calls*3/4 {
						break
					}
					_, _ = outer(t.Context(), 1)
					runtime.GC() // cleanups run after it
				}
				assert.Greater(t, gone.Load(), int64(calls*3/4), "calls of which nothing is left")
				runtime.KeepAlive(kept)
				require.NoError(t, exec.Close(t.Context()))
			})
		}
	}
}
