package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// A context that is kept beyond its call says whose it was, whatever calls have been made since, and
// changes nothing of them.
func TestKeptContext_SpeaksOfItsOwnCall(t *testing.T) {
	for name, sink := range map[string]sluice.EventSink{"quiet": nil, "with a sink": new(sluice.Recorder)} {
		t.Run(name, func(t *testing.T) {
			state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
			exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: sink, State: state}))
			var kept []context.Context
			var inside func(context.Context)
			sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Type: "t", Policy: sluice.Policy{
				Rates: []sluice.Rate{{N: 1, Per: time.Hour, Burst: 100, Unit: "u"}},
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
			}
			require.NoError(t, exec.Close(kept[0]), "no call is under way")
		})
	}
}

// A sink that looks for the call in the context that it gets as the attempt begins, and then exits, has
// kept the code from running.
func TestKeptContext_ASinkLooksAndExits(t *testing.T) {
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
	tool := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x"}, func(_ context.Context, n int) (int, error) { ran++; return n, nil }))
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
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { return nil })}))
	type keep struct {
		ctx context.Context
		id  string
	}
	var mu sync.Mutex
	var kept []keep
	var nested atomic.Int64
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x"}, func(ctx context.Context, id string) (string, error) {
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
					assert.NoError(t, err)
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
	assert.NotZero(t, nested.Load())
	require.NoError(t, exec.Close(t.Context()))
	s := exec.Snapshot()
	require.EqualValues(t, 1+3*rounds+nested.Load(), s.Completed)
	require.EqualValues(t, 3*s.Completed, s.EventsDelivered)
}

// Who keeps a context, or nothing, keeps few other calls: what was made together does not lead from one
// call to the next for ever, however calls end.
func TestKeptContext_KeepsFewOthers(t *testing.T) {
	for name, sink := range map[string]sluice.EventSink{"quiet": nil, "with a sink": sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { return nil })} {
		for _, how := range []string{"plain", "nested", "panics", "streams", "errors", "finds itself", "timeout", "interceptor"} {
			t.Run(how+", "+name, func(t *testing.T) {
				conf := sluice.Config{Sink: sink}
				switch how {
				case "timeout":
					conf.Timeout = time.Hour
				case "interceptor":
					conf.Interceptors = interceptors(passing)
				}
				exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), conf))
				inner := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "inner"}, func(_ context.Context, n int) (int, error) { return n, nil }))
				var kept context.Context
				outer := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "outer"}, func(ctx context.Context, n int) (int, error) {
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
					case "finds itself":
						sluice.ReportUsage(ctx, "u", 1)
					}
					return n, nil
				}))
				const calls = 4000
				var gone atomic.Int64
				for i := range calls {
					v := new([64]byte)
					runtime.AddCleanup(v, func(int) { gone.Add(1) }, 0)
					_, _ = outer(context.WithValue(t.Context(), ctxKey{}, v), i)
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
