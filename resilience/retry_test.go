package resilience_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/require"
)

const ms = time.Millisecond

var errBoom = errors.New("boom")

// later is an upstream's word that it wants to be asked after so long.
type later time.Duration

func (later) Error() string               { return "later" }
func (d later) RetryAfter() time.Duration { return time.Duration(d) }

// never is an error that will come again.
type never struct{}

func (never) Error() string { return "never" }
func (never) NoRetry() bool { return true }

var readOnly = sluice.Hints{ReadOnly: true}

// rig is an executor whose calls are recorded.
type rig struct {
	*sluice.Executor
	t     *testing.T
	reg   *sluice.ToolRegistry
	ctx   context.Context
	rec   *sluice.Recorder
	start time.Time
}

func newRig(t *testing.T, c sluice.Config, layers ...sluice.Interceptor) *rig {
	t.Helper()
	pc, rec := sluice.NewTestPipelineContext()
	reg := sluice.NewToolRegistry()
	c.Interceptors = append(layers, c.Interceptors...)
	exec, err := sluice.NewExecutor(reg, c)
	require.NoError(t, err)
	return &rig{exec, t, reg, sluice.WithPipelineContext(t.Context(), pc), rec, time.Now()}
}

// tool registers f, which is told which attempt of all it is, from 1, and returns it guarded.
func (r *rig) tool(s sluice.Spec, f func(ctx context.Context, n int) error) func(context.Context) error {
	r.t.Helper()
	if s.Name == "" {
		s.Name = "x"
	}
	var runs atomic.Int64
	g, err := sluice.Wrap(r.Executor, s, func(ctx context.Context, _ struct{}) (int, error) {
		n := int(runs.Add(1))
		return n, f(ctx, n)
	})
	require.NoError(r.t, err)
	return func(ctx context.Context) error {
		_, err := g(ctx, struct{}{})
		return err
	}
}

// starts is when attempts began, in milliseconds from the beginning.
func (r *rig) starts() (list []int64) {
	for _, e := range r.rec.Events() {
		if e.Kind == sluice.ToolStarted {
			list = append(list, e.Time.Sub(r.start).Milliseconds())
		}
	}
	return list
}

// end closes the executor and holds that nothing is left and every call was reported.
func (r *rig) end() {
	r.t.Helper()
	require.NoError(r.t, r.Close(context.Background()))
	require.NoError(r.t, r.rec.Check())
	s := r.Snapshot()
	require.Zero(r.t, s.InFlight+s.Queued+s.Abandoned)
}

func retry(t *testing.T, c resilience.RetryConfig) *resilience.Retry {
	t.Helper()
	if c.Base == 0 {
		c.Base, c.Jitter = 100*ms, resilience.NoJitter
	}
	x, err := resilience.NewRetry(c)
	require.NoError(t, err)
	return x
}

func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// What is repeated, when, and what the call ends with.
func TestRetry(t *testing.T) {
	fails := func(err error) func(context.Context, int) error {
		return func(context.Context, int) error { return err }
	}
	for _, tt := range []struct {
		name   string
		conf   resilience.RetryConfig
		spec   sluice.Spec
		tool   func(ctx context.Context, n int) error
		starts []int64 // in milliseconds
		why    string  // of a RetryError; else the error is the tool's own
		err    error
	}{
		{"success", resilience.RetryConfig{}, sluice.Spec{}, fails(nil), []int64{0}, "", nil},
		{"not safe", resilience.RetryConfig{}, sluice.Spec{}, fails(errBoom), []int64{0}, "", errBoom},
		{"read only", resilience.RetryConfig{}, sluice.Spec{Hints: readOnly}, fails(errBoom), []int64{0, 100, 300}, "no more are allowed", errBoom},
		{"idempotent", resilience.RetryConfig{}, sluice.Spec{Hints: sluice.Hints{Idempotent: true}}, fails(errBoom), []int64{0, 100, 300}, "no more are allowed", errBoom},
		{"destructive alone", resilience.RetryConfig{}, sluice.Spec{Hints: sluice.Hints{Destructive: true, OpenWorld: true}}, fails(errBoom), []int64{0}, "", errBoom},
		{"the second time", resilience.RetryConfig{}, sluice.Spec{Hints: readOnly}, func(_ context.Context, n int) error {
			if n == 1 {
				return errBoom
			}
			return nil
		}, []int64{0, 100}, "", nil},
		{"six attempts, to the longest wait", resilience.RetryConfig{Attempts: 6, Base: 100 * ms, Max: 250 * ms, Jitter: resilience.NoJitter},
			sluice.Spec{Hints: readOnly}, fails(errBoom), []int64{0, 100, 300, 550, 800, 1050}, "no more are allowed", errBoom},
		{"one attempt", resilience.RetryConfig{Attempts: 1}, sluice.Spec{Hints: readOnly}, fails(errBoom), []int64{0}, "", errBoom},
		{"no connection", resilience.RetryConfig{Attempts: 2}, sluice.Spec{}, fails(&net.OpError{Op: "dial", Err: errBoom}), []int64{0, 100}, "no more are allowed", errBoom},
		{"a connection that broke", resilience.RetryConfig{}, sluice.Spec{}, fails(&net.OpError{Op: "read", Err: errBoom}), []int64{0}, "", errBoom},
		{"no name", resilience.RetryConfig{Attempts: 2}, sluice.Spec{}, fails(&net.DNSError{Err: "x"}), []int64{0, 100}, "no more are allowed", nil},
		{"throttled", resilience.RetryConfig{}, sluice.Spec{}, fails(later(3 * time.Second)), []int64{0, 3000, 6000}, "no more are allowed", later(3 * time.Second)},
		{"throttled for less than the wait", resilience.RetryConfig{}, sluice.Spec{}, fails(later(30 * ms)), []int64{0, 100, 300}, "no more are allowed", later(30 * ms)},
		{"throttled for no time", resilience.RetryConfig{Attempts: 2}, sluice.Spec{}, fails(later(0)), []int64{0, 100}, "no more are allowed", later(0)},
		{"throttled for less than none, which says nothing", resilience.RetryConfig{}, sluice.Spec{}, fails(later(-time.Hour)), []int64{0}, "", later(-time.Hour)},
		{"throttled for too long", resilience.RetryConfig{}, sluice.Spec{}, fails(later(31 * time.Second)), []int64{0}, "", later(31 * time.Second)},
		{"throttled for ever", resilience.RetryConfig{}, sluice.Spec{}, fails(later(math.MaxInt64)), []int64{0}, "", later(math.MaxInt64)},
		{"never again", resilience.RetryConfig{}, sluice.Spec{Hints: readOnly}, fails(never{}), []int64{0}, "", never{}},
		{"a panic", resilience.RetryConfig{}, sluice.Spec{Hints: readOnly}, func(context.Context, int) error { panic(errBoom) }, []int64{0}, "", errBoom},
		{"by its own rule", resilience.RetryConfig{Attempts: 2, If: func(_ sluice.Spec, _ sluice.Attempt, _ sluice.Result, err error) bool { return err == errBoom }},
			sluice.Spec{}, fails(errBoom), []int64{0, 100}, "no more are allowed", errBoom},
		{"against its own rule", resilience.RetryConfig{If: func(sluice.Spec, sluice.Attempt, sluice.Result, error) bool { return false }},
			sluice.Spec{Hints: readOnly}, fails(errBoom), []int64{0}, "", errBoom},
		{"no budget", resilience.RetryConfig{Budget: sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Share: 0.001, Min: 1}))},
			sluice.Spec{Hints: readOnly}, fails(errBoom), []int64{0, 100}, "the budget is used up", errBoom},
		{"in all", resilience.RetryConfig{Total: 250 * ms}, sluice.Spec{Hints: readOnly}, fails(errBoom), []int64{0, 100}, "Total ends before the next", errBoom},
		{"in all, just", resilience.RetryConfig{Total: 300 * ms}, sluice.Spec{Hints: readOnly}, fails(errBoom), []int64{0, 100, 300}, "no more are allowed", errBoom},
		{"the second error", resilience.RetryConfig{}, sluice.Spec{Hints: readOnly}, func(_ context.Context, n int) error {
			if n == 2 {
				return never{}
			}
			return errBoom
		}, []int64{0, 100}, "this is not to be repeated", never{}},
		{"its code goes on", resilience.RetryConfig{}, sluice.Spec{Hints: readOnly, Policy: sluice.Policy{Timeout: time.Second}},
			func(context.Context, int) error { time.Sleep(time.Minute); return nil }, []int64{0}, "", context.DeadlineExceeded},
		{"late, but over", resilience.RetryConfig{Attempts: 2}, sluice.Spec{Hints: readOnly, Policy: sluice.Policy{Timeout: time.Second, Cooperative: true}},
			func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }, []int64{0, 1100}, "no more are allowed", context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{}, retry(t, tt.conf))
				err := r.tool(tt.spec, tt.tool)(r.ctx)
				require.Equal(t, tt.starts, r.starts())
				var x *resilience.RetryError
				require.Equal(t, tt.why != "", errors.As(err, &x), "%v", err)
				if x != nil {
					require.Equal(t, tt.why, x.Why)
					require.Len(t, x.Tried, len(tt.starts))
				}
				if tt.err != nil {
					require.ErrorIs(t, err, tt.err)
				} else if tt.why == "" {
					require.NoError(t, err)
				}
				require.NotErrorIs(t, err, sluice.ErrRejected)
				r.end()
			})
		})
	}
}

// Between two attempts a call holds nothing, and what is to come is told before the wait.
func TestRetry_HoldsNothingWhileItWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{limit}}, retry(t, resilience.RetryConfig{Attempts: 2}))
		x := r.tool(sluice.Spec{Name: "x", Hints: readOnly}, func(context.Context, int) error { return errBoom })
		y := r.tool(sluice.Spec{Name: "y"}, func(context.Context, int) error { time.Sleep(60 * ms); return nil })
		done := make(chan error)
		go func() { done <- x(r.ctx) }()
		synctest.Wait()
		require.Zero(t, r.Snapshot().Gates[0].Used)
		require.NoError(t, y(r.ctx))
		require.Equal(t, 60*ms, time.Since(r.start), "it did not wait")
		require.ErrorIs(t, <-done, errBoom)
		require.Equal(t, 100*ms, time.Since(r.start))
		var told []string
		for _, e := range r.rec.Events("x") {
			told = append(told, fmt.Sprint(e.Kind, " ", e.Call.Attempt, " ", e.RetryAfter, " ", e.Err, " ", e.Time.Sub(r.start)))
		}
		require.Equal(t, []string{
			"tool.invoked 0 0s <nil> 0s",
			"tool.started 1 0s <nil> 0s",
			"tool.retrying 1 100ms boom 0s",
			"tool.started 2 0s <nil> 100ms",
			"tool.failed 2 0s resilience: 2 attempts failed, no more are allowed: boom 100ms",
		}, told)
		r.end()
	})
}

// What has been refused is asked for again when it may be had, unless a breaker has said no; and a refusal does not
// hide what the tool had failed with before.
func TestRetry_Refusals(t *testing.T) {
	bubble(t, func(t *testing.T) {
		rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: 2 * time.Second}}, Refuse: true, Scope: sluice.ForTool("rated")}))
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{rate}}, retry(t, resilience.RetryConfig{Attempts: 2}))
		x := r.tool(sluice.Spec{Name: "rated"}, func(context.Context, int) error { return nil })
		require.NoError(t, x(r.ctx))
		require.NoError(t, x(r.ctx))
		require.Equal(t, 2*time.Second, time.Since(r.start))
		r.end()
	})
	bubble(t, func(t *testing.T) {
		rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Hour}}, Refuse: true}))
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{rate}}, retry(t, resilience.RetryConfig{}))
		x := r.tool(sluice.Spec{Hints: readOnly}, func(context.Context, int) error { return errBoom })
		err := x(r.ctx)
		require.ErrorIs(t, err, errBoom)
		require.NotErrorIs(t, err, sluice.ErrRejected, "it ran")
		require.EqualError(t, err, "resilience: 2 attempts failed, the next was to wait longer than Max: boom")
		require.Equal(t, "tool_error", sluice.CodeOf(err))
		var e *resilience.RetryError
		require.ErrorAs(t, err, &e)
		require.ErrorIs(t, e.Tried[1].Err, sluice.ErrRateLimited)
		require.Equal(t, sluice.Attempt{N: 1, Ran: true, Outcome: sluice.OutcomeFailure}, e.Tried[0].Attempt)
		require.Equal(t, 100*ms, e.Tried[0].Wait)

		err = x(r.ctx)
		require.ErrorIs(t, err, sluice.ErrRejected, "it has not run")
		r.end()
	})
	bubble(t, func(t *testing.T) {
		breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{}))
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{breaker}}, retry(t, resilience.RetryConfig{}))
		x := r.tool(sluice.Spec{Hints: readOnly}, func(context.Context, int) error { return nil })
		require.NoError(t, x(r.ctx))
		require.NoError(t, breaker.Trip("x"))
		err := x(r.ctx)
		require.ErrorIs(t, err, sluice.ErrBreakerOpen)
		require.Zero(t, time.Since(r.start), "at once")
		r.end()
	})
}

// A result may be the failure: it is repeated, and stands if nothing better comes. A Classify function says so, or the
// tool's code itself.
func TestRetry_FailingResults(t *testing.T) {
	for _, reports := range []bool{false, true} {
		bubble(t, func(t *testing.T) { failingResults(t, reports) })
	}
}

func failingResults(t *testing.T, reports bool) {
	var classify func(sluice.Call, sluice.Result, error) sluice.Outcome
	if !reports {
		classify = func(_ sluice.Call, res sluice.Result, err error) sluice.Outcome {
			if s, _ := res.Value.(string); s == "failed" {
				return sluice.OutcomeFailure
			}
			return sluice.OutcomeAuto
		}
	}
	r := newRig(t, sluice.Config{Classify: classify}, retry(t, resilience.RetryConfig{}))
	n := 0
	good := 3
	f := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "x", Hints: readOnly}, func(ctx context.Context, _ string) (string, error) {
		if n++; n >= good {
			return fmt.Sprint("answer ", n), nil
		}
		if reports {
			sluice.ReportOutcome(ctx, sluice.OutcomeFailure)
		}
		return "failed", nil
	}))
	got, err := f(r.ctx, "")
	require.NoError(t, err)
	require.Equal(t, "answer 3", got)
	n, good = 0, 4
	got, err = f(r.ctx, "")
	require.NoError(t, err)
	require.Equal(t, "failed", got)
	require.Equal(t, 3, n)
	r.end()
}

// Whoever leaves while a call waits between attempts gets the last error, and why; and no wait is begun that a
// deadline makes useless.
func TestRetry_CallersWhoLeave(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, retry(t, resilience.RetryConfig{}))
		x := r.tool(sluice.Spec{Hints: readOnly}, func(context.Context, int) error { return errBoom })
		ctx, cancel := context.WithCancelCause(r.ctx)
		gone := errors.New("gone")
		time.AfterFunc(50*ms, func() { cancel(gone) })
		err := x(ctx)
		require.Equal(t, 50*ms, time.Since(r.start))
		require.ErrorIs(t, err, errBoom)
		require.ErrorIs(t, err, gone)
		require.EqualError(t, err, "resilience: an attempt failed, its caller left: boom")

		for _, left := range []time.Duration{100 * ms, 101 * ms} {
			began := time.Now()
			ctx, cancel := context.WithTimeout(r.ctx, left)
			err = x(ctx)
			cancel()
			require.ErrorIs(t, err, errBoom)
			if left == 100*ms {
				require.Zero(t, time.Since(began))
			} else {
				require.EqualError(t, err, "resilience: 2 attempts failed, its deadline comes before the next: boom")
				require.Equal(t, 100*ms, time.Since(began))
			}
		}
		r.end()
	})
}

// What an attempt came to is told, too, if its code exits just as its caller leaves: it was no wait that ended.
func TestRetry_CodeExitsAsCallersLeave(t *testing.T) {
	bubble(t, func(t *testing.T) {
		hedge := sluice.Must(resilience.NewHedge(resilience.HedgeConfig{})) // has each attempt on a goroutine of its own
		r := newRig(t, sluice.Config{}, retry(t, resilience.RetryConfig{}), hedge)
		ctx, cancel := context.WithCancel(r.ctx)
		n := 0
		x := r.tool(sluice.Spec{Hints: readOnly}, func(context.Context, int) error {
			if n++; n == 1 {
				return errBoom
			}
			cancel()
			runtime.Goexit()
			return nil
		})
		err := x(ctx)
		var p *sluice.PanicError
		require.ErrorAs(t, err, &p)
		require.True(t, p.Goexit)
		require.EqualError(t, err, `resilience: 2 attempts failed, its caller left: sluice: code of tool "x" called runtime.Goexit`)
		r.end()
	})
}

// A retry is changed while calls run, and shows its budget.
func TestRetry_Change(t *testing.T) {
	bubble(t, func(t *testing.T) {
		layer := retry(t, resilience.RetryConfig{Name: "again"})
		r := newRig(t, sluice.Config{}, layer)
		x := r.tool(sluice.Spec{Hints: readOnly}, func(context.Context, int) error { return errBoom })
		require.ErrorIs(t, x(r.ctx), errBoom)
		plan, _ := r.Plan("x")
		require.Equal(t, "again → x", plan)
		gates := r.Snapshot().Gates
		require.Equal(t, sluice.GateState{Name: "again budget", Kind: "layer", Limit: 100, Used: 92}, gates[len(gates)-1])

		to := layer.Config()
		to.Attempts = 1
		require.NoError(t, sluice.Reconfigure("operator", layer.Change(to)))
		before := len(r.starts())
		require.Equal(t, errBoom, x(r.ctx))
		require.Len(t, r.starts(), before+1)
		require.Equal(t, 1, layer.Config().Attempts)
		to.Attempts = -1
		require.EqualError(t, sluice.Reconfigure("operator", layer.Change(to)), "resilience: RetryConfig.Attempts is -1: must be zero (3) or from 1 to 100")
		require.EqualError(t, sluice.Reconfigure("operator", layer.Change(resilience.RetryConfig{Name: "other"})), `resilience: RetryConfig.Name is "other": cannot change, it is "again"`)
		require.NoError(t, sluice.Reconfigure("operator", layer.Change(resilience.RetryConfig{})))
		require.Same(t, to.Budget, layer.Config().Budget, "it keeps the one that it has")
		require.Equal(t, 500*ms, layer.Config().Base)
		r.end()
	})
}

func TestRetry_Config(t *testing.T) {
	for want, c := range map[string]resilience.RetryConfig{
		"resilience: RetryConfig.Attempts is 101: must be zero (3) or from 1 to 100":  {Attempts: 101},
		"resilience: RetryConfig.Base is -1ns: must be zero (500 ms) or positive":     {Base: -1, Max: time.Hour},
		"resilience: RetryConfig.Max is 1s: must be zero (30 s) or at least Base, 2s": {Base: 2 * time.Second, Max: time.Second},
		"resilience: RetryConfig.Jitter is Jitter(4): must be one of the constants":   {Jitter: 4},
		"resilience: RetryConfig.Total is -1ns: must be zero (no bound) or positive":  {Total: -1},
	} {
		_, err := resilience.NewRetry(c)
		require.EqualError(t, err, want)
	}
	x, err := resilience.NewRetry(resilience.RetryConfig{Base: time.Minute})
	require.NoError(t, err)
	require.Equal(t, time.Minute, x.Config().Max)
}

// How the last attempt ended is what a call ends with, also if a layer further in has caught that.
func TestRetry_TheLastEndCounts(t *testing.T) {
	for _, layers := range [][]sluice.Interceptor{
		{timeout(t, resilience.TimeoutConfig{Total: time.Hour})},
		{join(t, resilience.JoinConfig{})},
	} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{}, append([]sluice.Interceptor{retry(t, resilience.RetryConfig{})}, layers...)...)
			err := r.tool(sluice.Spec{Hints: readOnly}, func(_ context.Context, n int) error {
				if n == 2 {
					runtime.Goexit()
				}
				return errBoom
			})(r.ctx)
			require.Equal(t, "goexit", sluice.CodeOf(err), "%v", err)
			require.Equal(t, []int64{0, 100}, r.starts())
			var gaveUp *resilience.RetryError
			require.ErrorAs(t, err, &gaveUp)
			require.Equal(t, errBoom, gaveUp.Tried[0].Err)
			r.end()
		})
	}
}

// A tool that exits takes no other attempt with it, and the call ends.
func TestRetry_Goexit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, retry(t, resilience.RetryConfig{}))
		x := r.tool(sluice.Spec{Hints: readOnly}, func(context.Context, int) error { runtime.Goexit(); return nil })
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = x(r.ctx)
		}()
		<-done
		require.Equal(t, []int64{0}, r.starts())
		r.end()
	})
}

// When everything fails, attempts stay within the budget.
func TestRetry_Storm(t *testing.T) {
	for _, share := range []float64{0.1, 0.5} {
		for seed := range uint64(3) {
			bubble(t, func(t *testing.T) {
				budget := sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Share: share, Min: 10}))
				faults := sluice.Must(sluicetest.NewFaults(sluicetest.FaultsConfig{Seed: seed, Errors: 0.9, Latency: 50 * ms}))
				layer := sluice.Must(resilience.NewRetry(resilience.RetryConfig{Attempts: 6, Budget: budget}))
				r := newRig(t, sluice.Config{}, layer)
				f := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "x", Hints: readOnly}, sluicetest.Faulty(faults, func(context.Context, int) (int, error) { return 0, nil })))
				const calls = 2000
				done := make(chan error)
				for i := range calls {
					go func() {
						time.Sleep(time.Duration(i) * 3 * ms)
						_, err := f(r.ctx, i)
						done <- err
					}()
				}
				for range calls {
					<-done
				}
				most := calls + int(share*calls) + 10
				require.LessOrEqual(t, faults.Counts().Calls, most)
				require.Greater(t, faults.Counts().Calls, most-20, "they are made")
				r.end()
			})
		}
	}
}

// Thirty in a hundred attempts fail: nearly every call succeeds, at half an attempt more each.
func TestRetry_TransientFailures(t *testing.T) {
	bubble(t, func(t *testing.T) {
		budget := sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Share: 0.5}))
		faults := sluice.Must(sluicetest.NewFaults(sluicetest.FaultsConfig{Seed: 5, Errors: 0.3}))
		layer := sluice.Must(resilience.NewRetry(resilience.RetryConfig{Attempts: 6, Budget: budget}))
		r := newRig(t, sluice.Config{}, layer)
		f := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "x", Hints: readOnly}, sluicetest.Faulty(faults, func(context.Context, int) (int, error) { return 0, nil })))
		const calls = 10_000
		good := 0
		for i := range calls {
			if _, err := f(r.ctx, i); err == nil {
				good++
			}
		}
		require.GreaterOrEqual(t, good, calls*999/1000)
		require.LessOrEqual(t, faults.Counts().Calls, calls*3/2)
		r.end()
	})
}

// A retry that a call does not need takes no memory.
func TestRetry_AllocatesNothing(t *testing.T) {
	measure := func(layer sluice.Interceptor) float64 {
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{layer}}))
		defer exec.Close(context.Background())
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x"}, func(context.Context, int) (int, error) { return 0, nil }))
		var in any = 1
		return testing.AllocsPerRun(1000, func() {
			if _, err := exec.Invoke(context.Background(), sluice.Request{ID: "a", Tool: "x", Input: in}); err != nil {
				t.Fatal(err)
			}
		})
	}
	pass := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) { return next(ctx, c) }
	})
	require.LessOrEqual(t, measure(retry(t, resilience.RetryConfig{})), measure(pass))
}
