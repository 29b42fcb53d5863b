package resilience_test

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

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

func join(t *testing.T, c resilience.JoinConfig) *resilience.Join {
	t.Helper()
	x, err := resilience.NewJoin(c)
	require.NoError(t, err)
	return x
}

// outcome is how one of several calls has ended.
type outcome struct {
	page page
	err  error
	at   time.Duration
}

// together makes calls of f at once, one for each context, and answers how they end.
func together(f func(context.Context, string) (page, error), list ...context.Context) []outcome {
	out := make([]outcome, len(list))
	began := time.Now()
	var wg sync.WaitGroup
	for i, ctx := range list {
		wg.Go(func() {
			time.Sleep(time.Duration(i)) // one after the other
			p, err := f(ctx, "a")
			out[i] = outcome{p, err, time.Since(began).Truncate(ms)}
		})
	}
	wg.Wait()
	return out
}

// Calls that ask for the same at once have one execution, an outcome each, and events of their own.
func TestJoin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, join(t, resilience.JoinConfig{}))
		f := search(r, "x", readOnly, func(context.Context, int) error { time.Sleep(time.Second); return nil })
		for i, o := range together(f, r.ctx, r.ctx, r.ctx) {
			require.NoError(t, o.err)
			require.Equal(t, page{1, []string{"a"}}, o.page)
			require.Equal(t, time.Second, o.at, i)
			o.page.Links[0] = "changed"
		}
		p, err := f(r.ctx, "a")
		require.NoError(t, err)
		require.Equal(t, page{2, []string{"a"}}, p, "later calls have an execution of their own")
		kinds := map[sluice.EventKind]int{}
		for _, e := range r.rec.Events() {
			kinds[e.Kind]++
		}
		require.Equal(t, map[sluice.EventKind]int{sluice.ToolInvoked: 4, sluice.ToolStarted: 2, sluice.ToolCompleted: 4, "join.shared": 2}, kinds)
		r.end()
	})
}

// Who asks for something else shares nothing.
func TestJoin_Keys(t *testing.T) {
	for _, tt := range []struct {
		name  string
		conf  resilience.JoinConfig
		hints sluice.Hints
		other func(pc *sluice.PipelineContext)
		runs  int
	}{
		{"the same", resilience.JoinConfig{}, readOnly, func(*sluice.PipelineContext) {}, 1},
		{"idempotent", resilience.JoinConfig{}, sluice.Hints{Idempotent: true}, func(*sluice.PipelineContext) {}, 1},
		{"neither", resilience.JoinConfig{}, sluice.Hints{}, func(*sluice.PipelineContext) {}, 2},
		{"another tenant", resilience.JoinConfig{}, readOnly, func(pc *sluice.PipelineContext) { pc.Tenant = "other" }, 2},
		{"more urgent", resilience.JoinConfig{}, readOnly, func(pc *sluice.PipelineContext) { pc.Priority = sluice.PriorityInteractive }, 2},
		{"by a key of one's own", resilience.JoinConfig{Key: func(sluice.Call) (string, bool) { return "k", true }}, readOnly,
			func(pc *sluice.PipelineContext) { pc.Tenant = "other" }, 1},
		{"no key", resilience.JoinConfig{Key: func(sluice.Call) (string, bool) { return "k", false }}, readOnly, func(*sluice.PipelineContext) {}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{}, join(t, tt.conf))
				f := search(r, "x", tt.hints, func(context.Context, int) error { time.Sleep(time.Second); return nil })
				pc := sluice.PipelineContextFrom(r.ctx)
				tt.other(&pc)
				for _, o := range together(f, r.ctx, sluice.WithPipelineContext(r.ctx, pc)) {
					require.NoError(t, o.err)
				}
				require.Len(t, r.starts(), tt.runs)
				r.end()
			})
		})
	}
}

// However the execution ends, all who share it end so, and nobody is told that the tool has not run.
func TestJoin_Endings(t *testing.T) {
	for _, tt := range []struct {
		name string
		tool func(ctx context.Context, n int) error
		code string
		is   error
	}{
		{"an error", func(context.Context, int) error { return errBoom }, "tool_error", errBoom},
		{"a panic", func(context.Context, int) error { panic(errBoom) }, "panic", errBoom},
		{"an exit", func(context.Context, int) error { runtime.Goexit(); return nil }, "goexit", nil},
		{"a throttle", func(context.Context, int) error { return later(time.Second) }, "tool_error", later(time.Second)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r := newRig(t, sluice.Config{}, join(t, resilience.JoinConfig{}))
				f := search(r, "x", readOnly, func(ctx context.Context, n int) error { time.Sleep(time.Second); return tt.tool(ctx, n) })
				for i, o := range together(f, ctx, ctx, ctx) {
					require.Equal(t, tt.code, sluice.CodeOf(o.err), "%d: %v", i, o.err)
					require.NotErrorIs(t, o.err, sluice.ErrRejected)
					if tt.is != nil {
						require.ErrorIs(t, o.err, tt.is)
					}
				}
				r.end()
			})
		})
	}
	bubble(t, func(t *testing.T) { // a refusal stays one
		breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{}))
		limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{breaker, limit}}, join(t, resilience.JoinConfig{}))
		f := search(r, "x", readOnly, works)
		slow := search(r, "slow", readOnly, func(context.Context, int) error { time.Sleep(time.Second); return breaker.Trip("x") })
		_, err := f(r.ctx, "a")
		require.NoError(t, err)
		go slow(r.ctx, "a")
		synctest.Wait()
		for _, o := range together(f, r.ctx, r.ctx) {
			require.ErrorIs(t, o.err, sluice.ErrBreakerOpen)
			require.ErrorIs(t, o.err, sluice.ErrRejected)
		}
		r.end()
	})
}

// Who leaves takes nothing along from those who stay; when all have left the execution is told to end, and whoever comes
// then has one of its own.
func TestJoin_WhoLeaves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var ended []time.Duration
		r := newRig(t, sluice.Config{}, join(t, resilience.JoinConfig{}))
		f := search(r, "x", readOnly, func(ctx context.Context, n int) error {
			select {
			case <-ctx.Done():
				ended = append(ended, time.Since(r.start))
				time.Sleep(time.Second) // it takes its time
				return ctx.Err()
			case <-time.After(10 * time.Second):
				return nil
			}
		})
		within := func(d time.Duration) context.Context {
			ctx, cancel := context.WithTimeout(r.ctx, d)
			t.Cleanup(cancel)
			return ctx
		}
		list := together(f, within(time.Second), within(time.Minute), within(2*time.Second))
		require.ErrorIs(t, list[0].err, context.DeadlineExceeded)
		require.Equal(t, time.Second, list[0].at)
		require.NoError(t, list[1].err)
		require.Equal(t, 10*time.Second, list[1].at)
		require.ErrorIs(t, list[2].err, context.DeadlineExceeded)
		require.Empty(t, ended)

		began := time.Since(r.start)
		list = together(f, within(time.Second), within(3*time.Second))
		require.Equal(t, []time.Duration{time.Second, 3 * time.Second}, []time.Duration{list[0].at, list[1].at})
		require.NoError(t, func() error { _, err := f(r.ctx, "a"); return err }(), "one of its own, though the other goes on")
		require.Len(t, ended, 1)
		require.Equal(t, 3*time.Second, (ended[0] - began).Truncate(ms))
		r.end()
	})
}

// slowContext takes its time to say when it ends.
type slowContext struct{ context.Context }

func (c slowContext) Done() <-chan struct{} {
	time.Sleep(ms)
	return c.Context.Done()
}

// Who has left before begins no execution, however the goroutines run.
func TestJoin_WhoHasLeftBefore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, join(t, resilience.JoinConfig{}))
		f := search(r, "x", readOnly, works)
		_, err := f(r.ctx, "a")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(r.ctx)
		cancel()
		_, err = f(slowContext{ctx}, "a")
		require.Equal(t, "canceled", sluice.CodeOf(err), "%v", err)
		require.ErrorIs(t, err, sluice.ErrRejected)
		require.Len(t, r.starts(), 1)
		r.end()
	})
}

// Who leaves for a reason of its own has left: nobody has denied its call, and it is no error of the tool.
func TestJoin_WhoLeavesForAReason(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, join(t, resilience.JoinConfig{}))
		f := search(r, "x", readOnly, func(context.Context, int) error { time.Sleep(10 * time.Second); return nil })
		why := errors.New("the turn was aborted")
		ctx, cancel := context.WithCancelCause(r.ctx)
		time.AfterFunc(time.Second, func() { cancel(why) })
		list := together(f, ctx, ctx, r.ctx)
		for i, o := range list[:2] { // whose execution it is, and who shares it
			require.Equal(t, "canceled", sluice.CodeOf(o.err), "%d: %v", i, o.err)
			require.ErrorIs(t, o.err, why)
			require.ErrorIs(t, o.err, context.Canceled)
			require.NotErrorIs(t, o.err, sluice.ErrDenied)
			require.Equal(t, i == 1, errors.Is(o.err, sluice.ErrRejected), "only of the first the tool runs")
		}
		require.NoError(t, list[2].err)
		r.end()
	})
}

// Who has less time than the call it shares with, by a Timeout further out, goes on when that is over.
func TestJoin_WithinATimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		total := timeout(t, resilience.TimeoutConfig{Total: 5 * time.Second, Tools: func(s sluice.Spec) bool { return s.Name == "y" }})
		r := newRig(t, sluice.Config{}, total, join(t, resilience.JoinConfig{Key: func(sluice.Call) (string, bool) { return "k", true }}))
		x := search(r, "x", readOnly, func(context.Context, int) error { time.Sleep(time.Minute); return nil })
		y := search(r, "y", readOnly, works)
		done := make(chan error)
		go func() {
			_, err := x(r.ctx, "a")
			done <- err
		}()
		time.Sleep(3 * time.Second)
		_, err := y(r.ctx, "a")
		require.Equal(t, 8*time.Second, time.Since(r.start))
		var over *resilience.TimeoutError
		require.ErrorAs(t, err, &over)
		require.NoError(t, <-done)
		require.Equal(t, time.Minute, time.Since(r.start))
		r.end()
	})
}

// Whose execution is refused since its own caller has left the queue goes on with one of another's.
func TestJoin_WhoLeavesTheQueue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{limit}}, join(t, resilience.JoinConfig{}))
		f := search(r, "x", readOnly, func(context.Context, int) error { time.Sleep(time.Second); return nil })
		slow := search(r, "slow", readOnly, func(context.Context, int) error { time.Sleep(10 * time.Second); return nil })
		go slow(r.ctx, "a")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(r.ctx, time.Second)
		defer cancel()
		list := together(f, ctx, r.ctx, r.ctx)
		require.ErrorIs(t, list[0].err, context.DeadlineExceeded)
		require.ErrorIs(t, list[0].err, sluice.ErrRejected)
		for _, o := range list[1:] {
			require.NoError(t, o.err)
			require.Equal(t, page{1, []string{"a"}}, o.page)
			require.Equal(t, 11*time.Second, o.at)
		}
		r.end()
	})
}

// Many who come and go at random: each has what is its own, and nothing is left.
func TestJoin_Storm(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	layer := join(t, resilience.JoinConfig{})
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{layer}}))
	var runs atomic.Int64
	f := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Hints: readOnly}, func(ctx context.Context, n int) (*page, error) {
		runs.Add(1)
		for range n * 10 {
			runtime.Gosched()
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
		if n == 3 {
			return nil, errBoom
		}
		return &page{N: n}, nil
	}))
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(g)))
			for range 300 {
				n := rnd.IntN(5)
				ctx, cancel := context.WithCancel(context.Background())
				if after := rnd.IntN(150); after < 50 {
					go func() {
						for range after {
							runtime.Gosched()
						}
						cancel()
					}()
				}
				p, err := f(ctx, n)
				switch {
				case ctx.Err() != nil:
				case n == 3:
					if !errors.Is(err, errBoom) || errors.Is(err, sluice.ErrRejected) {
						t.Errorf("%d: %v", n, err)
					}
				case err != nil:
					t.Errorf("%d: %v", n, err)
				default:
					if p.N != n {
						t.Errorf("%d: %+v", n, p)
					}
					p.N = -1
				}
				cancel()
			}
		})
	}
	wg.Wait()
	require.NoError(t, exec.Close(context.Background()))
	require.Zero(t, layer.Inspect()[0].Used)
	require.Zero(t, exec.Snapshot().Abandoned)
	t.Logf("%d executions of %d calls", runs.Load(), 16*300)
}

// Ten calls that ask for the same at once are one for the backend.
func ExampleNewJoin() {
	layer := sluice.Must(resilience.NewJoin(resilience.JoinConfig{}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{layer}}))
	defer exec.Close(context.Background())
	var asked atomic.Int64
	weather := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "weather", Hints: sluice.Hints{ReadOnly: true}},
		func(_ context.Context, city string) (string, error) {
			asked.Add(1)
			time.Sleep(100 * time.Millisecond)
			return city + ": sunny", nil
		}))
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { weather(context.Background(), "Oslo") })
	}
	wg.Wait()
	fmt.Println(asked.Load())
	// Output: 1
}
