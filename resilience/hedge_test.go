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

func hedge(t *testing.T, c resilience.HedgeConfig) *resilience.Hedge {
	t.Helper()
	if c.After == 0 {
		c.After = 100 * ms
	}
	x, err := resilience.NewHedge(c)
	require.NoError(t, err)
	return x
}

// runs registers f, which is told which attempt of all it is, from 1, and answers with that if f has no error.
func (r *rig) runs(s sluice.Spec, f func(ctx context.Context, n int) error) func(context.Context) (int, error) {
	r.t.Helper()
	if s.Name == "" {
		s.Name, s.Hints = "x", readOnly
	}
	var runs atomic.Int64
	g, err := sluice.Wrap(r.Executor, s, func(ctx context.Context, _ struct{}) (int, error) {
		n := int(runs.Add(1))
		return n, f(ctx, n)
	})
	require.NoError(r.t, err)
	return func(ctx context.Context) (int, error) { return g(ctx, struct{}{}) }
}

// kinds counts what was told.
func (r *rig) kinds() map[sluice.EventKind]int {
	m := map[sluice.EventKind]int{}
	for _, e := range r.rec.Events() {
		m[e.Kind]++
	}
	return m
}

// sleeps takes so long, unless its context ends before.
func sleeps(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// try is what an attempt does: after so long it ends so.
type try struct {
	d    time.Duration
	ends func() error
}

// hedgeCase is a call, and how it ends.
type hedgeCase struct {
	name   string
	tries  []try
	starts []int64
	at     time.Duration
	value  int
	code   string
	is     error
}

// When there is a second attempt, whose result the call has, and when.
func TestHedge(t *testing.T) {
	errFirst, errSecond := errors.New("first"), errors.New("second")
	well := func() error { return nil }
	fails := func(err error) func() error { return func() error { return err } }
	panics, exits := func() error { panic("attempt") }, func() error { runtime.Goexit(); return nil }
	for _, tt := range []hedgeCase{
		{"fast", []try{{50 * ms, well}}, []int64{0}, 50 * ms, 1, "", nil},
		{"the second is faster", []try{{time.Second, well}, {50 * ms, well}}, []int64{0, 100}, 150 * ms, 2, "", nil},
		{"the first is faster", []try{{120 * ms, well}, {50 * ms, well}}, []int64{0, 100}, 120 * ms, 1, "", nil},
		{"fails early", []try{{50 * ms, fails(errFirst)}}, []int64{0}, 50 * ms, 0, "tool_error", errFirst},
		{"the first fails, the second does not", []try{{120 * ms, fails(errFirst)}, {50 * ms, well}}, []int64{0, 100}, 150 * ms, 2, "", nil},
		{"the second fails, the first does not", []try{{200 * ms, well}, {50 * ms, fails(errSecond)}}, []int64{0, 100}, 200 * ms, 1, "", nil},
		{"both fail, the first first", []try{{120 * ms, fails(errFirst)}, {50 * ms, fails(errSecond)}}, []int64{0, 100}, 150 * ms, 0, "tool_error", errFirst},
		{"both fail, the second first", []try{{200 * ms, fails(errFirst)}, {50 * ms, fails(errSecond)}}, []int64{0, 100}, 200 * ms, 0, "tool_error", errFirst},
		{"panics early", []try{{50 * ms, panics}}, []int64{0}, 50 * ms, 0, "panic", nil},
		{"the first panics, the second does not", []try{{120 * ms, panics}, {50 * ms, well}}, []int64{0, 100}, 150 * ms, 2, "", nil},
		{"the second panics, the first does not", []try{{200 * ms, well}, {50 * ms, panics}}, []int64{0, 100}, 200 * ms, 1, "", nil},
		{"both panic", []try{{120 * ms, panics}, {50 * ms, panics}}, []int64{0, 100}, 150 * ms, 0, "panic", nil},
		{"exits early", []try{{50 * ms, exits}}, []int64{0}, 50 * ms, 0, "goexit", nil},
		{"the first exits, the second does not", []try{{120 * ms, exits}, {50 * ms, well}}, []int64{0, 100}, 150 * ms, 2, "", nil},
		{"the first exits, the second fails", []try{{120 * ms, exits}, {50 * ms, fails(errSecond)}}, []int64{0, 100}, 150 * ms, 0, "goexit", nil},
		{"the second exits, the first fails", []try{{200 * ms, fails(errFirst)}, {50 * ms, exits}}, []int64{0, 100}, 200 * ms, 0, "tool_error", errFirst},
	} {
		for _, submit := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, " submit ", submit), func(t *testing.T) { testHedge(t, tt, submit) })
		}
	}
}
func testHedge(t *testing.T, tt hedgeCase, submit bool) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, hedge(t, resilience.HedgeConfig{}))
		f := r.runs(sluice.Spec{}, func(ctx context.Context, n int) error {
			if err := sleeps(ctx, tt.tries[n-1].d); err != nil {
				return err
			}
			return tt.tries[n-1].ends()
		})
		if submit {
			f = func(ctx context.Context) (int, error) {
				res, err := r.Submit(ctx, sluice.Request{Tool: "x", Input: struct{}{}}).Wait(ctx)
				v, _ := res.Value.(int)
				return v, err
			}
		}
		v, err := f(r.ctx)
		require.Equal(t, tt.at, time.Since(r.start))
		require.Equal(t, tt.code, sluice.CodeOf(err), "%v", err)
		require.Equal(t, tt.value, v)
		require.NotErrorIs(t, err, sluice.ErrRejected)
		if tt.is != nil {
			require.ErrorIs(t, err, tt.is)
		}
		r.end()
		require.Equal(t, tt.starts, r.starts())
		want := map[sluice.EventKind]int{sluice.ToolInvoked: 1, sluice.ToolStarted: len(tt.starts), sluice.ToolCompleted: 1}
		if err != nil {
			delete(want, sluice.ToolCompleted)
			want[sluice.ToolFailed] = 1
		}
		got := r.kinds()
		for _, k := range []sluice.EventKind{"hedge.started", "hedge.won", sluice.ToolAbandoned} { // of a loser, unless its code ends at once
			delete(got, k)
		}
		require.Equal(t, want, got, "attempts at once are no retries")
	})
}

// A result that its tool calls a failure is one: the other attempt may have a better.
func TestHedge_FailingResult(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Classify: func(_ sluice.Call, res sluice.Result, _ error) sluice.Outcome {
			if n, ok := res.Value.(int); ok && n%2 == 1 {
				return sluice.OutcomeFailure
			}
			return sluice.OutcomeAuto
		}}, hedge(t, resilience.HedgeConfig{}))
		f := r.runs(sluice.Spec{}, func(ctx context.Context, n int) error { return sleeps(ctx, []time.Duration{150, 200, 150}[n-1]*ms) })
		v, err := f(r.ctx)
		require.NoError(t, err)
		require.Equal(t, 2, v)
		require.Equal(t, 300*ms, time.Since(r.start))
		r.end()
	})
}

// By default only what reads is hedged; else what the config says.
func TestHedge_Tools(t *testing.T) {
	for _, tt := range []struct {
		name  string
		tools func(sluice.Spec) bool
		hints sluice.Hints
		want  int
	}{
		{"reads", nil, readOnly, 2},
		{"idempotent", nil, sluice.Hints{Idempotent: true}, 1},
		{"neither", nil, sluice.Hints{}, 1},
		{"said to be", func(s sluice.Spec) bool { return s.Name == "y" }, sluice.Hints{}, 2},
		{"said not to be", func(s sluice.Spec) bool { return s.Name == "z" }, readOnly, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{}, hedge(t, resilience.HedgeConfig{Tools: tt.tools}))
				f := r.runs(sluice.Spec{Name: "y", Hints: tt.hints}, func(ctx context.Context, n int) error { return sleeps(ctx, time.Second) })
				_, err := f(r.ctx)
				require.NoError(t, err)
				r.end()
				require.Len(t, r.starts(), tt.want)
			})
		})
	}
}

// What loses is told why, keeps its slot until its code has ended, is charged for what it has used and is nobody's failure;
// Close waits for it. Its caller has the result at once.
func TestHedge_TheLoser(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Minute} {
		t.Run(fmt.Sprint(timeout), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}}}))
				rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 100, Per: time.Hour, Unit: "tokens"}}}))
				breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 1}))
				r := newRig(t, sluice.Config{Timeout: timeout, Interceptors: []sluice.Interceptor{breaker, limit, rate}}, hedge(t, resilience.HedgeConfig{}))
				var cause, plain error
				f := r.runs(sluice.Spec{}, func(ctx context.Context, n int) error {
					if n > 1 {
						return sleeps(ctx, 50*ms)
					}
					<-ctx.Done()
					cause, plain = context.Cause(ctx), ctx.Err()
					time.Sleep(10 * time.Second) // it takes its time
					sluice.ReportUsage(ctx, "tokens", 40)
					return ctx.Err()
				})
				v, err := f(r.ctx)
				require.NoError(t, err)
				require.Equal(t, 2, v)
				require.Equal(t, 150*ms, time.Since(r.start))
				synctest.Wait()
				require.ErrorIs(t, cause, resilience.ErrHedged)
				require.Equal(t, context.Canceled, plain)
				used := func() (list []int64) {
					for _, g := range r.Snapshot().Gates {
						if g.Kind == "concurrency" && g.Limit == 2 || g.Kind == "rate" {
							list = append(list, g.Used)
						}
					}
					return list
				}
				require.Equal(t, []int64{1, 2}, used(), "one slot; a token of each")
				require.NoError(t, r.Close(context.Background()))
				require.Equal(t, 10*time.Second+150*ms, time.Since(r.start), "Close waits for it")
				require.Equal(t, []int64{0, 41}, used())
				state, err := breaker.State("x")
				require.NoError(t, err)
				require.Equal(t, sluice.BreakerClosed, state)
				require.NoError(t, r.rec.Check())
			})
		})
	}
}

// tail is a stream, which is read as it comes.
type tail struct {
	stream context.Context
	done   func(error)
	closed atomic.Bool
}

func (s *tail) Close() error {
	s.closed.Store(true)
	s.done(nil)
	return nil
}

// A stream that wins goes on, as long as its caller does; one that loses is ended, whenever it comes.
func TestHedge_Streams(t *testing.T) {
	for _, second := range []time.Duration{50 * ms, 500 * ms} { // the loser ends after the first has answered; with it
		t.Run(second.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}}}))
				r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{limit}}, hedge(t, resilience.HedgeConfig{}))
				var made []*tail
				var mu sync.Mutex
				var runs atomic.Int64
				f := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "x", Hints: readOnly}, func(ctx context.Context, _ int) (*tail, error) {
					time.Sleep([]time.Duration{600 * ms, second}[runs.Add(1)-1]) // whatever ctx does
					s := &tail{}
					var err error
					s.stream, s.done, err = sluice.Hold(ctx)
					mu.Lock()
					defer mu.Unlock()
					made = append(made, s)
					return s, err
				}))
				ctx, leave := context.WithCancel(r.ctx)
				s, err := f(ctx, 1)
				require.NoError(t, err)
				time.Sleep(5 * time.Minute)
				require.NoError(t, s.stream.Err())
				require.False(t, s.closed.Load())
				mu.Lock()
				defer mu.Unlock()
				require.Len(t, made, 2)
				for _, x := range made {
					if x != s {
						require.True(t, x.closed.Load())
						require.Error(t, x.stream.Err())
					}
				}
				require.Equal(t, 1, r.Snapshot().InFlight)
				leave()
				synctest.Wait()
				require.ErrorIs(t, s.stream.Err(), context.Canceled)
				s.Close()
				r.end()
			})
		})
	}
}

// What admission says to the second attempt is no matter of the first's; it goes by admission's own rules.
func TestHedge_Admission(t *testing.T) {
	slots := func(l sluice.Limit) sluice.Interceptor {
		return sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{l}}))
	}
	trips := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Name: "trips"}))
	for _, tt := range []struct {
		name   string
		gate   sluice.Interceptor
		tool   func(ctx context.Context) error // the first attempt
		starts []int64
		at     time.Duration
		left   int64 // of a budget of one
		err    error
	}{
		{"a full limit that refuses", slots(sluice.Limit{Max: 1, Refuse: true}), func(ctx context.Context) error { return sleeps(ctx, time.Second) }, []int64{0}, time.Second, 1, nil},
		{"and the first fails", slots(sluice.Limit{Max: 1, Refuse: true}), func(ctx context.Context) error { return errors.Join(sleeps(ctx, time.Second), errBoom) }, []int64{0}, time.Second, 1, errBoom},
		{"a rate that is used up", sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Minute}}})),
			func(ctx context.Context) error { return sleeps(ctx, time.Second) }, []int64{0}, time.Second, 1, nil},
		{"a full limit", slots(sluice.Limit{Max: 1}), func(ctx context.Context) error { return errors.Join(sleeps(ctx, time.Second), errBoom) }, []int64{0, 1000}, 1010 * ms, 0, nil},
		{"an open breaker", trips, func(ctx context.Context) error { return errors.Join(trips.Trip("x"), sleeps(ctx, time.Second)) }, []int64{0}, time.Second, 1, nil},
		{"room", slots(sluice.Limit{Max: 2}), func(ctx context.Context) error { return sleeps(ctx, time.Second) }, []int64{0, 100}, 110 * ms, 0, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				budget := sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Share: 1e-9, Min: 1, Max: 1}))
				h := hedge(t, resilience.HedgeConfig{Budget: budget})
				r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{tt.gate}}, h)
				f := r.runs(sluice.Spec{}, func(ctx context.Context, n int) error {
					if n == 1 {
						return tt.tool(ctx)
					}
					return sleeps(ctx, 10*ms)
				})
				_, err := f(r.ctx)
				require.ErrorIs(t, err, tt.err)
				require.Equal(t, tt.at, time.Since(r.start))
				r.end()
				require.Equal(t, tt.starts, r.starts())
				require.Zero(t, r.kinds()[sluice.ToolRetrying])
				g := h.Inspect()[0]
				require.Equal(t, tt.left, g.Limit-g.Used)
			})
		})
	}
}

// The second attempt goes behind what is as urgent as its call.
func TestHedge_GoesBehind(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}}}))
		queue := sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{}))
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{limit, queue}}, hedge(t, resilience.HedgeConfig{}))
		var order []string
		busy := r.runs(sluice.Spec{Name: "busy"}, func(ctx context.Context, n int) error { return sleeps(ctx, 500*ms) })
		f := r.runs(sluice.Spec{}, func(ctx context.Context, n int) error {
			if n == 2 {
				order = append(order, "hedge")
			}
			return sleeps(ctx, 10*time.Second)
		})
		other := r.runs(sluice.Spec{Name: "other"}, func(ctx context.Context, n int) error {
			order = append(order, fmt.Sprint("other ", n))
			return sleeps(ctx, 100*ms)
		})
		var wg sync.WaitGroup
		wg.Go(func() { f(r.ctx) })
		wg.Go(func() { busy(r.ctx) })
		time.Sleep(200 * ms) // the hedge waits
		for range 2 {
			wg.Go(func() { other(r.ctx) })
		}
		wg.Wait()
		r.end()
		require.Equal(t, []string{"other 1", "other 2", "hedge"}, order)
	})
}

// Both attempts end with their caller, who waits for them as for one; before the second is due there is none.
func TestHedge_TheCallerLeaves(t *testing.T) {
	for _, tt := range []struct {
		name   string
		after  time.Duration // the caller leaves
		tool   func(ctx context.Context, n int) error
		at     time.Duration
		starts int
		is     error
	}{
		{"before the second", 50 * ms, func(ctx context.Context, n int) error { return sleeps(ctx, time.Second) }, 50 * ms, 1, errBoom},
		{"while both run", 150 * ms, func(ctx context.Context, n int) error { return sleeps(ctx, time.Second) }, 150 * ms, 2, errBoom},
		{"and the first takes its time", 50 * ms, func(ctx context.Context, n int) error {
			err := sleeps(ctx, time.Second)
			time.Sleep(time.Minute)
			return err
		}, time.Minute + 50*ms, 1, errBoom},
		{"and the second takes its time", 150 * ms, func(ctx context.Context, n int) error {
			err := sleeps(ctx, time.Second)
			time.Sleep(time.Duration(n-1) * time.Minute)
			return err
		}, 150 * ms, 2, errBoom},
		{"when the first has failed", 300 * ms, func(ctx context.Context, n int) error {
			if n == 1 {
				time.Sleep(200 * ms)
				return never{}
			}
			time.Sleep(time.Minute)
			return nil
		}, 300 * ms, 2, never{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{}, hedge(t, resilience.HedgeConfig{}))
				f := r.runs(sluice.Spec{}, tt.tool)
				ctx, cancel := context.WithCancelCause(r.ctx)
				time.AfterFunc(tt.after, func() { cancel(errBoom) })
				_, err := f(ctx)
				require.ErrorIs(t, err, tt.is)
				require.Equal(t, tt.at, time.Since(r.start))
				r.end()
				require.Len(t, r.starts(), tt.starts)
			})
		})
	}
}

// An attempt that runs out of its own time has failed; a Timeout further out ends both.
func TestHedge_Time(t *testing.T) {
	hangs := func(ctx context.Context, n int) error {
		if n == 1 {
			time.Sleep(time.Minute)
		}
		return sleeps(ctx, 400*ms)
	}
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Timeout: 300 * ms}, hedge(t, resilience.HedgeConfig{}))
		_, err := r.runs(sluice.Spec{}, hangs)(r.ctx)
		require.ErrorIs(t, err, sluice.ErrTimeout)
		require.Equal(t, 400*ms, time.Since(r.start), "the second has its own time")
		r.end()
	})
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, timeout(t, resilience.TimeoutConfig{Total: 300 * ms}), hedge(t, resilience.HedgeConfig{}))
		_, err := r.runs(sluice.Spec{}, hangs)(r.ctx)
		var over *resilience.TimeoutError
		require.ErrorAs(t, err, &over)
		require.Equal(t, 300*ms, time.Since(r.start))
		r.end()
	})
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Timeout: 300 * ms}, hedge(t, resilience.HedgeConfig{}))
		v, err := r.runs(sluice.Spec{}, func(ctx context.Context, n int) error {
			if n == 1 {
				time.Sleep(time.Minute)
			}
			return sleeps(ctx, 250*ms)
		})(r.ctx)
		require.NoError(t, err)
		require.Equal(t, 2, v)
		require.Equal(t, 350*ms, time.Since(r.start))
		r.end()
	})
}

// An interceptor further in may panic, exit, or answer itself.
func TestHedge_FurtherIn(t *testing.T) {
	for code, f := range map[string]func() error{
		"panic":      func() error { panic("layer") },
		"goexit":     func() error { runtime.Goexit(); return nil },
		"":           func() error { return nil },
		"tool_error": func() error { return sluice.Elsewhere(errBoom) },
	} {
		t.Run(code, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				inner := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
					return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
						time.Sleep(50 * ms)
						return sluice.Result{}, f()
					}
				})
				r := newRig(t, sluice.Config{}, hedge(t, resilience.HedgeConfig{}), inner)
				r.runs(sluice.Spec{}, works)
				_, err := r.Invoke(r.ctx, sluice.Request{Tool: "x", Input: struct{}{}})
				var panicked *sluice.PanicError
				switch code {
				case "panic", "goexit":
					require.ErrorAs(t, err, &panicked)
					require.Equal(t, code == "goexit", panicked.Goexit)
				default:
					require.Equal(t, code, sluice.CodeOf(err))
				}
				require.Equal(t, 50*ms, time.Since(r.start))
				r.end()
			})
		})
	}
}

// Of many calls that all take long no more are hedged than the budget has; a Retry of the same budget counts the calls.
func TestHedge_Budget(t *testing.T) {
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprint("shared ", shared), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				budget := sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Share: 0.25, Min: 2}))
				layers := []sluice.Interceptor{hedge(t, resilience.HedgeConfig{Budget: budget})}
				if shared {
					layers = append([]sluice.Interceptor{retry(t, resilience.RetryConfig{Budget: budget})}, layers...)
				}
				r := newRig(t, sluice.Config{}, layers...)
				f := r.runs(sluice.Spec{}, func(ctx context.Context, n int) error { return sleeps(ctx, time.Second) })
				for range 40 {
					_, err := f(r.ctx)
					require.NoError(t, err)
				}
				r.end()
				require.Len(t, r.starts(), 40+2+10)
			})
		})
	}
}

// A retry further out tells of what it repeats, and of nothing else.
func TestHedge_InsideARetry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, retry(t, resilience.RetryConfig{}), hedge(t, resilience.HedgeConfig{}))
		f := r.runs(sluice.Spec{}, func(ctx context.Context, n int) error {
			if err := sleeps(ctx, 200*ms); err != nil || n > 2 {
				return err
			}
			return errBoom
		})
		v, err := f(r.ctx)
		require.NoError(t, err)
		require.Equal(t, 3, v)
		require.Equal(t, 600*ms, time.Since(r.start), "two that fail, the wait, and the first of two")
		require.Equal(t, []int64{0, 100, 400, 500}, r.starts())
		var retries []sluice.Event
		for _, e := range r.rec.Events() {
			if e.Kind == sluice.ToolRetrying {
				retries = append(retries, e)
			}
		}
		require.Len(t, retries, 1)
		require.Equal(t, 100*ms, retries[0].RetryAfter)
		r.end()
	})
}

// Many calls that end in all ways: each has one outcome, which is its own, and nothing is left.
func TestHedge_Storm(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 12}}}))
	budget := sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Share: 0.5, Min: 10}))
	bubble(t, func(t *testing.T) {
		layer := hedge(t, resilience.HedgeConfig{After: 2 * ms, Quantile: 0.8, Budget: budget})
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{limit}}, layer)
		var runs atomic.Int64
		f := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "x", Hints: readOnly}, func(ctx context.Context, in uint64) (uint64, error) {
			rnd := rand.New(rand.NewPCG(in, uint64(runs.Add(1))))
			d := time.Duration(rnd.IntN(5000)) * time.Microsecond
			if rnd.IntN(20) == 0 {
				d *= 20
			}
			err := error(nil)
			if rnd.IntN(3) > 0 {
				err = sleeps(ctx, d)
			} else {
				time.Sleep(d) // whatever its context does
			}
			switch rnd.IntN(12) {
			case 0:
				return 0, errBoom
			case 1:
				panic("storm")
			case 2:
				runtime.Goexit()
			}
			return in, err
		}))
		const calls = 16 * 150
		var wg sync.WaitGroup
		for g := range uint64(16) {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, g))
				for range 150 {
					in := rnd.Uint64()
					ctx, cancel := context.WithTimeoutCause(r.ctx, time.Duration(1+rnd.IntN(20_000))*time.Microsecond, errBoom)
					out, err := f(ctx, in)
					if errors.Is(err, resilience.ErrHedged) {
						t.Errorf("the loser's error: %v", err)
					}
					if err == nil && out != in {
						t.Errorf("%d answered with %d", in, out)
					}
					cancel()
				}
			})
		}
		wg.Wait()
		r.end()
		kinds := r.kinds()
		require.Equal(t, calls, kinds[sluice.ToolInvoked])
		require.Equal(t, calls, kinds[sluice.ToolCompleted]+kinds[sluice.ToolFailed]+kinds[sluice.ToolDenied])
		require.LessOrEqual(t, kinds[sluice.ToolStarted], calls+calls/2+10)
		require.Greater(t, kinds[sluice.ToolStarted], kinds[sluice.ToolCompleted])
		t.Logf("%d executions of %d calls, %v", runs.Load(), calls, kinds)
	})
}

// A replica that hangs costs a call no more than the time after which it is asked for twice.
func ExampleNewHedge() {
	hedge := sluice.Must(resilience.NewHedge(resilience.HedgeConfig{After: 20 * time.Millisecond}))
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{hedge, limits}, // outside the gates: each attempt takes a slot of its own
	}))
	defer exec.Close(context.Background())

	var attempts atomic.Int64
	weather := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "weather", Hints: sluice.Hints{ReadOnly: true}},
		func(ctx context.Context, city string) (string, error) {
			if attempts.Add(1) == 1 {
				<-ctx.Done() // it hangs
				return "", ctx.Err()
			}
			return city + ": sunny", nil
		}))
	fmt.Println(weather(context.Background(), "Oslo"))
	fmt.Println(attempts.Load(), "attempts")
	// Output:
	// Oslo: sunny <nil>
	// 2 attempts
}
