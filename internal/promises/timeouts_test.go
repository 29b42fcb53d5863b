package promises_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTimed_ContextIsLikeTheStandardLibrarys: the context of an attempt with a timeout makes a timer only for who
// asks, and nobody can tell it from the standard library's.
func TestTimed_ContextIsLikeTheStandardLibrarys(t *testing.T) {
	const timeout = time.Second
	mine := errors.New("the caller's cause")
	asks := map[string]func(ctx context.Context) context.Context{
		"asked early": func(ctx context.Context) context.Context { ctx.Done(); return ctx },
		"asked late":  func(ctx context.Context) context.Context { return ctx },
		"never asked": func(ctx context.Context) context.Context { return ctx },
		"derived": func(ctx context.Context) context.Context {
			ctx, cancel := context.WithCancel(ctx)
			t.Cleanup(cancel)
			return ctx
		},
		"derived value": func(ctx context.Context) context.Context { return context.WithValue(ctx, ctxKey{}, 1) },
	}
	for _, tt := range []struct {
		name     string
		caller   func(ctx context.Context) (context.Context, context.CancelFunc)
		hold     time.Duration // how long the code runs
		deadline time.Duration
		during   error         // Err when the code has run for so long
		cause    error         // its Cause then
		after    error         // Err once it has ended
		took     time.Duration // the call
	}{
		{"ends in time", nil, timeout / 2, timeout, nil, nil, context.Canceled, timeout / 2},
		{"ends late", nil, 2 * timeout, timeout, context.DeadlineExceeded, sluice.ErrTimeout, context.DeadlineExceeded, timeout},
		{"the caller's deadline is earlier", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(ctx, timeout/4, mine)
		}, timeout / 2, timeout / 4, context.DeadlineExceeded, mine, context.DeadlineExceeded, timeout / 4},
		{"the caller gives up", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			time.AfterFunc(timeout/4, func() { cancel(mine) })
			return ctx, func() { cancel(nil) }
		}, timeout / 2, timeout, context.Canceled, mine, context.Canceled, timeout / 2},
	} {
		for how, ask := range asks {
			t.Run(tt.name+", "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					exec := newExec(t, sluice.Config{Timeout: timeout})
					start := time.Now()
					kept := make(chan context.Context, 1)
					f := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x"}, func(ctx context.Context, _ int) (int, error) {
						if d, ok := ctx.Deadline(); !ok || !d.Equal(start.Add(tt.deadline)) {
							t.Errorf("deadline %v %v, want %v", d.Sub(start), ok, tt.deadline)
						}
						ctx = ask(ctx)
						if ctx.Err() != nil || context.Cause(ctx) != nil {
							t.Errorf("at first Err is %v, Cause %v", ctx.Err(), context.Cause(ctx))
						}
						time.Sleep(tt.hold)
						synctest.Wait()
						if how == "never asked" {
							kept <- ctx
							return 0, nil
						}
						if err := ctx.Err(); err != tt.during {
							t.Errorf("after %v Err is %v, want %v", tt.hold, err, tt.during)
						}
						assert.ErrorIs(t, context.Cause(ctx), tt.cause, "after %v Cause", tt.hold)
						assert.Equal(t, tt.during != nil, ctxDone(ctx), "after %v Done is closed", tt.hold)
						kept <- ctx
						return 0, nil
					}))
					ctx, cancel := t.Context(), context.CancelFunc(func() {})
					if tt.caller != nil {
						ctx, cancel = tt.caller(ctx)
					}
					defer cancel()
					f(ctx, 1)
					if took := time.Since(start); took != tt.took {
						t.Errorf("the call took %v, want %v", took, tt.took)
					}
					after := <-kept
					synctest.Wait()
					if how != "never asked" && (after.Err() != tt.after || !ctxDone(after)) {
						t.Errorf("afterwards Err is %v, Done is closed: %v; want %v", after.Err(), ctxDone(after), tt.after)
					}
					time.Sleep(10 * timeout)
					child, stop := context.WithCancel(after)
					defer stop()
					if err := context.Cause(after); !errors.Is(err, cmp.Or(tt.cause, context.Canceled)) {
						t.Errorf("later Cause is %v, want %v", err, cmp.Or(tt.cause, context.Canceled))
					}
					if after.Err() != tt.after || child.Err() != tt.after {
						t.Errorf("later Err is %v, and %v of a context derived from it; want %v", after.Err(), child.Err(), tt.after)
					}
				})
			})
		}
	}
}

type ctxKey struct{}

func ctxDone(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return true
	default:
		return false
	}
}

// TestTimed_AttemptsEndEachAtItsOwnTime: attempts end each at its own time, in whatever order their
// deadlines come, though one timer serves them all.
func TestTimed_AttemptsEndEachAtItsOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exec := newExec(t, sluice.Config{})
		start := time.Now()
		release := make(chan struct{})
		timeouts := []time.Duration{5, 1, 4, 4, 2, 3, 9, 1, 7}
		ends := make(chan [2]time.Duration, len(timeouts))
		for i, d := range timeouts {
			d *= time.Second
			name := string(rune('a' + i))
			f := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: name, Policy: sluice.Policy{Timeout: d}}, func(context.Context, int) (int, error) {
				<-release
				return 0, nil
			}))
			go func() {
				_, err := f(t.Context(), 1)
				assert.ErrorIs(t, err, sluice.ErrTimeout, "%s, want a timeout", name)
				ends <- [2]time.Duration{time.Since(start), d}
			}()
			synctest.Wait()
		}
		for range timeouts {
			if e := <-ends; e[0] != e[1] {
				t.Errorf("ended after %v, want %v", e[0], e[1])
			}
		}
		close(release)
	})
}

// TestTimed_TimeOfASinkIsNotTheAttempts: the time that a sink takes between a call's admission and its code
// is not the attempt's.
func TestTimed_TimeOfASinkIsNotTheAttempts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{
			Timeout:      100 * ms,
			Interceptors: interceptors(breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Second})),
			Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
				if e.Kind == sluice.BreakerStateChanged && e.To == sluice.BreakerHalfOpen {
					time.Sleep(time.Second)
				}
				return nil
			}),
		})
		calls := 0
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
			if calls++; calls == 1 {
				return errors.New("broken")
			}
			if d, _ := ctx.Deadline(); time.Until(d) != 100*ms || ctx.Err() != nil {
				t.Errorf("the code begins with %v left and Err %v, want 100ms and none", time.Until(d), ctx.Err())
			}
			time.Sleep(150 * ms)
			return nil
		})
		require.Error(t, r.call("x"), "the tool did not fail")
		time.Sleep(2 * time.Second)
		start := time.Now()
		err := r.call("x")
		assert.ErrorIs(t, err, sluice.ErrTimeout)
		assert.Equal(t, 1100*ms, time.Since(start))
		time.Sleep(time.Second)
		r.end()
	})
}

// TestTimed_CauseStays: a context that was never asked while its attempt ran says the same
// for ever, whatever becomes of the caller's.
func TestTimed_CauseStays(t *testing.T) {
	r := newRig(t, sluice.Config{Timeout: time.Hour})
	var kept context.Context
	r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error { kept = ctx; return nil })
	ctx, cancel := context.WithCancelCause(context.WithValue(r.ctx, ctxKey{}, "value"))
	_, err := r.Invoke(ctx, sluice.Request{Tool: "x"})
	require.NoError(t, err)
	cancel(errors.New("later"))
	for range 2 {
		if context.Cause(kept) != context.Canceled || kept.Err() != context.Canceled || kept.Value(ctxKey{}) != "value" {
			t.Errorf("Cause %v, Err %v, value %v", context.Cause(kept), kept.Err(), kept.Value(ctxKey{}))
		}
		<-kept.Done()
	}
}

// TestTimed_ExecutorFromOutsideServesBubbles: one that was made outside testing/synctest bubbles can be
// used inside them, in one after the other, as far as timeouts go.
func TestTimed_ExecutorFromOutsideServesBubbles(t *testing.T) {
	reg := sluice.NewToolRegistry()
	exec := sluice.Must(sluice.NewExecutor(reg, sluice.Config{Timeout: time.Second}))
	rawTool(t, reg, sluice.Spec{Name: "quick"}, func(context.Context) error { return nil })
	rawTool(t, reg, sluice.Spec{Name: "slow"}, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	_, err := exec.Invoke(t.Context(), sluice.Request{Tool: "quick"})
	require.NoError(t, err)
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			for range 2 {
				_, err := exec.Invoke(t.Context(), sluice.Request{Tool: "quick"})
				assert.NoError(t, err)
			}
			start := time.Now()
			_, err := exec.Invoke(t.Context(), sluice.Request{Tool: "slow"})
			assert.ErrorIs(t, err, sluice.ErrTimeout)
			assert.Equal(t, time.Second, time.Since(start))
		})
	}
	require.NoError(t, exec.Close(t.Context()))
}

// Promise 14: a timed-out tool does not hold its caller up, and keeps its slot until its
// code ends.
func TestPromise14_TimedOutToolKeepsItsSlot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour})
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1}), b)})
		defer r.end()
		r.tool(sluice.Spec{Name: "deaf", Policy: sluice.Policy{Timeout: time.Second}}, sleeps(10*time.Second))
		started := time.Duration(-1)
		r.tool(sluice.Spec{Name: "next"}, func(context.Context) error { started = r.at(); return nil })
		done := make(chan error)
		go func() { done <- r.call("deaf") }()
		synctest.Wait()
		time.Sleep(time.Second - 1)
		assert.Equal(t, sluice.BreakerClosed, sluice.Must(b.State("deaf")), "the breaker opened before the timeout")
		err := <-done
		assert.Equal(t, time.Second, r.at(), "returned at")
		var e *sluice.Error
		if !errors.Is(err, sluice.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, sluice.ErrRejected) || !errors.As(err, &e) || e.Tool != "deaf" {
			t.Errorf("error is %v", err)
		}
		got := sluice.Must(b.State("deaf"))
		assert.Equal(t, sluice.BreakerOpen, got, "the breaker is %v at the timeout", got)
		s := r.Snapshot()
		assert.Equal(t, 1, s.Abandoned)
		assert.Equal(t, 1, s.InFlight)
		require.NoError(t, r.call("next"))
		assert.Equal(t, 10*time.Second, started, "the next call started at, when the code ended")
		synctest.Wait()
		s = r.Snapshot()
		assert.Zero(t, s.Abandoned)
		assert.Zero(t, s.InFlight)
		r.trace("deaf: invoked started abandoned failed; next: invoked queued started completed")
		for _, e := range r.rec.Events("deaf") {
			if e.Kind == sluice.ToolFailed && (e.Duration != time.Second || e.Time.Sub(r.start) != time.Second) {
				t.Errorf("failed at %v after %v, want 1s", e.Time.Sub(r.start), e.Duration)
			}
		}
	})
}

// A tool that heeds its context ends at the timeout too, and the error is the same.
func TestPromise14_ToolThatListensEndsAtTheTimeout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Timeout: time.Second, Interceptors: interceptors(atMost(1))})
		defer r.end()
		r.tool(sluice.Spec{Name: "good"}, func(ctx context.Context) error {
			<-ctx.Done()
			assert.ErrorIs(t, context.Cause(ctx), sluice.ErrTimeout, "cause")
			return ctx.Err()
		})
		err := r.call("good")
		assert.ErrorIs(t, err, sluice.ErrTimeout)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Second, r.at())
		synctest.Wait()
		r.idle()
	})
}

// The caller's own deadline is not the library's timeout: the breaker does not count it,
// whichever of the two timers fires first.
func TestPromise14_CallersDeadlineIsNoTimeout(t *testing.T) {
	for range 50 {
		bubble(t, func(t *testing.T) {
			b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1})
			r := newRig(t, sluice.Config{Timeout: time.Second, Interceptors: interceptors(b)})
			defer r.end()
			r.tool(sluice.Spec{Name: "deaf"}, sleeps(10*time.Second))
			ctx, cancel := context.WithTimeout(r.ctx, 100*ms)
			defer cancel()
			_, err := r.Invoke(ctx, sluice.Request{Tool: "deaf"})
			if r.at() != 100*ms || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, sluice.ErrRejected) {
				t.Errorf("%v at %v, want a deadline exceeded at 100ms", err, r.at())
			}
			time.Sleep(20 * time.Second)
			assert.Equal(t, sluice.BreakerClosed, sluice.Must(b.State("deaf")),
				"the caller's deadline opened the breaker")
		})
	}
}

// Retried attempts are timed each on its own, and the events tell the time as it was.
func TestPromise14_AttemptsAreTimedEachOnItsOwn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		retry := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				res, err := next(ctx, c)
				if err != nil {
					time.Sleep(time.Minute)
					res, err = next(ctx, c)
				}
				return res, err
			}
		})
		r := newRig(t, sluice.Config{Timeout: time.Second, Interceptors: interceptors(retry, atMost(1))})
		defer r.end()
		n := 0
		r.tool(sluice.Spec{Name: "deaf"}, func(context.Context) error {
			if n++; n == 1 {
				time.Sleep(100 * ms)
				return errTool
			}
			time.Sleep(10 * time.Second)
			return nil
		})
		if err := r.call("deaf"); !errors.Is(err, sluice.ErrTimeout) || r.at() != time.Minute+1100*ms {
			t.Errorf("%v at %v", err, r.at())
		}
		r.trace("deaf: invoked started retrying started abandoned failed")
		var last time.Duration
		for _, e := range r.rec.Events() {
			at := e.Time.Sub(r.start)
			if at < last {
				t.Errorf("%s at %v, after %v", e.Kind, at, last)
			}
			last = at
		}
		assert.Equal(t, r.at(), last, "the last event is of")
		time.Sleep(10 * time.Second)
	})
}

// A cooperative tool runs on its caller's goroutine, and has its time all the same: one that ends with its
// context has timed out, and one that does not is waited for, and is no failure.
func TestCooperative_RunsOnTheCallersGoroutine(t *testing.T) {
	for _, around := range [][]sluice.Interceptor{nil, {passing}} {
		bubble(t, func(t *testing.T) {
			b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Minute})
			r := newRig(t, sluice.Config{Interceptors: append(around, atMost(1), b)})
			defer r.end()
			own := sluice.Policy{Timeout: time.Second, Cooperative: true}
			on := ""
			r.tool(sluice.Spec{Name: "quick", Policy: own}, func(ctx context.Context) error {
				d, ok := ctx.Deadline()
				assert.True(t, ok)
				assert.Equal(t, time.Second, time.Until(d))
				assert.NoError(t, ctx.Err())
				on = goroutine()
				return nil
			})
			r.tool(sluice.Spec{Name: "heeds", Policy: own}, func(ctx context.Context) error {
				<-ctx.Done()
				assert.ErrorIs(t, context.Cause(ctx), sluice.ErrTimeout)
				return ctx.Err()
			})
			r.tool(sluice.Spec{Name: "deaf", Policy: own}, sleeps(3*time.Second))
			for range 3 {
				start := time.Now()
				require.NoError(t, r.call("quick"))
				require.Equal(t, goroutine(), on)
				require.NoError(t, r.call("deaf"))
				require.Equal(t, 3*time.Second, time.Since(start))
				assert.Equal(t, sluice.BreakerClosed, sluice.Must(b.State("deaf")))
				err := r.call("heeds")
				require.ErrorIs(t, err, sluice.ErrTimeout)
				require.NotErrorIs(t, err, sluice.ErrRejected)
				require.Equal(t, 4*time.Second, time.Since(start))
				assert.Equal(t, sluice.BreakerOpen, sluice.Must(b.State("heeds")))
				require.NoError(t, b.Reset("heeds"))
				r.idle()
			}
		})
	}
}

// However the code of a cooperative tool ends, what it held is given back, and its context has ended.
func TestCooperative_GivesBackHoweverItEnds(t *testing.T) {
	for _, end := range endings {
		t.Run(end.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
				var kept context.Context
				r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Timeout: time.Second, Cooperative: true}}, func(ctx context.Context) error {
					kept = ctx
					end.do()
					return end.err
				})
				for range 3 {
					_, err, returned := r.invokeApart(r.ctx, sluice.Request{Tool: "x"})
					assert.Equal(t, end.name != "Goexit", returned)
					assert.NotErrorIs(t, err, sluice.ErrRejected)
					r.idle()
					assert.Equal(t, context.Canceled, kept.Err())
				}
				r.end()
			})
		})
	}
}

// The caller's own deadline is no timeout of a cooperative tool, and what it holds open ends with its time.
func TestCooperative_OthersDeadlines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1})
		r := newRig(t, sluice.Config{Interceptors: interceptors(b)})
		own := sluice.Policy{Timeout: time.Second, Cooperative: true}
		r.tool(sluice.Spec{Name: "heeds", Policy: own}, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		r.tool(sluice.Spec{Name: "streams", Policy: own}, func(ctx context.Context) error { _, _, err := sluice.Hold(ctx); return err })
		ctx, cancel := context.WithTimeout(r.ctx, 100*ms)
		defer cancel()
		_, err := r.Invoke(ctx, sluice.Request{Tool: "heeds"})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, sluice.ErrTimeout)
		require.Equal(t, 100*ms, r.at())
		require.Equal(t, sluice.BreakerClosed, sluice.Must(b.State("heeds")))
		require.NoError(t, r.call("streams"))
		require.Equal(t, 1, r.Snapshot().InFlight)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Zero(t, r.Snapshot().InFlight)
		require.Equal(t, "timeout", sluice.CodeOf(r.terminal("streams").Err))
		r.end()
	})
}

// What a tool has reported of its result reaches who called it if the call fails, in time or not; a success has
// nothing partial.
func TestReportPartial(t *testing.T) {
	boom := errors.New("boom")
	for _, tt := range []struct {
		name string
		tool func(ctx context.Context) ([]string, error)
		want any
		err  error
	}{
		{"time over", func(ctx context.Context) ([]string, error) {
			for i := range 5 {
				sluice.ReportPartial(ctx, []string{"page 1", "page 2", "page 3", "page 4", "page 5"}[:i+1])
				time.Sleep(2 * time.Second)
			}
			return []string{"late"}, nil
		}, []string{"page 1", "page 2", "page 3"}, sluice.ErrTimeout},
		{"cooperative", func(ctx context.Context) ([]string, error) {
			sluice.ReportPartial(ctx, []string{"page 1"})
			<-ctx.Done()
			return nil, ctx.Err()
		}, []string{"page 1"}, context.DeadlineExceeded},
		{"own error", func(ctx context.Context) ([]string, error) {
			sluice.ReportPartial(ctx, []string{"page 1"})
			return nil, boom
		}, []string{"page 1"}, boom},
		{"panic", func(ctx context.Context) ([]string, error) {
			sluice.ReportPartial(ctx, []string{"page 1"})
			panic(boom)
		}, []string{"page 1"}, boom},
		{"of another type", func(ctx context.Context) ([]string, error) {
			sluice.ReportPartial(ctx, 7)
			return nil, boom
		}, 7, boom},
		{"nothing", func(ctx context.Context) ([]string, error) { return []string{"x"}, boom }, nil, boom},
		{"success", func(ctx context.Context) ([]string, error) {
			sluice.ReportPartial(ctx, []string{"page 1"})
			return []string{"all"}, nil
		}, nil, nil},
	} {
		for _, timeout := range []time.Duration{0, 5 * time.Second} {
			if timeout == 0 && (tt.err == sluice.ErrTimeout || tt.err == context.DeadlineExceeded) {
				continue
			}
			t.Run(fmt.Sprint(tt.name, timeout), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Timeout: timeout})
					f := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "x", Policy: sluice.Policy{Cooperative: tt.name == "cooperative"}},
						func(ctx context.Context, _ string) ([]string, error) { return tt.tool(ctx) }))
					res, err := r.Invoke(r.ctx, sluice.Request{Tool: "x", Input: ""})
					require.ErrorIs(t, err, tt.err)
					require.Equal(t, tt.want, res.Partial())
					require.Equal(t, err != nil, res.Value == nil)
					out, err := f(r.ctx, "")
					require.ErrorIs(t, err, tt.err)
					if list, ok := tt.want.([]string); ok || err != nil {
						require.Equal(t, list, out)
					}
					res, err = r.Submit(r.ctx, sluice.Request{Tool: "x", Input: ""}).Wait(r.ctx)
					require.ErrorIs(t, err, tt.err)
					require.Equal(t, tt.want, res.Partial())
					r.end()
				})
			})
		}
	}
	sluice.ReportPartial(context.Background(), 1) // which nobody hears
}

// Of several attempts that failed the caller has what was reported last.
func TestReportPartial_OfAttempts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		again := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
				for range 3 {
					res, err = next(ctx, c)
				}
				return res, err
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(again)})
		n := 0
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
			if n++; n < 3 {
				sluice.ReportPartial(ctx, n)
			}
			return errors.New("boom")
		})
		res, err := r.Invoke(r.ctx, sluice.Request{Tool: "x"})
		require.EqualError(t, err, "boom")
		require.Equal(t, 2, res.Partial())
		r.end()
	})
}

// What an interceptor leaves of a call's time bounds what is further in, each time anew, and the least of several
// counts; none is left of what is negative.
func TestWithin(t *testing.T) {
	mine := errors.New("mine")
	for _, tt := range []struct {
		name   string
		bounds []time.Duration
		took   time.Duration
		ran    bool
		is     []error
	}{
		{"enough", []time.Duration{3 * time.Second}, 2 * time.Second, true, nil},
		{"too little", []time.Duration{time.Second}, time.Second, true, []error{mine, sluice.ErrTimeout, context.DeadlineExceeded}},
		{"the least", []time.Duration{3 * time.Second, time.Second, time.Hour}, time.Second, true, []error{mine, sluice.ErrTimeout}},
		{"none", []time.Duration{0}, 0, false, []error{mine, sluice.ErrWaitTooLong, sluice.ErrRejected}},
		{"less than none", []time.Duration{-time.Hour}, 0, false, []error{sluice.ErrWaitTooLong, sluice.ErrRejected}},
		{"for ever", []time.Duration{1<<63 - 1}, 2 * time.Second, true, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				bound := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
					return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
						_, ok := c.Deadline(ctx)
						require.False(t, ok)
						for _, d := range tt.bounds {
							c = c.Within(d, mine)
						}
						at, ok := c.Deadline(ctx)
						require.True(t, ok)
						if d := max(0, slices.Min(tt.bounds)); d < time.Hour {
							require.Equal(t, d, time.Until(at))
						}
						res, err := next(ctx, c)
						if errors.Is(err, sluice.ErrTimeout) {
							require.Equal(t, sluice.Attempt{N: 1, Ran: true, Running: true, Outcome: sluice.OutcomeNeutral}, c.AttemptOf(res, err))
						}
						return res, err
					}
				})
				r := newRig(t, sluice.Config{Interceptors: interceptors(bound)})
				var ran atomic.Bool
				r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
					ran.Store(true)
					time.Sleep(2 * time.Second)
					return nil
				})
				err := r.call("x")
				require.Equal(t, tt.took, r.at())
				for _, is := range tt.is {
					require.ErrorIs(t, err, is)
				}
				require.Equal(t, tt.is == nil, err == nil, "%v", err)
				require.Equal(t, tt.ran, ran.Load())
				r.end()
				c := sluice.Call{}.Within(time.Second, mine)
				_, ok := c.Deadline(context.Background())
				require.False(t, ok, "no interceptor was given it")
			})
		})
	}
}
