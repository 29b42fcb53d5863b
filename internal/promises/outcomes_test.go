package promises_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type oddRetry struct{ *oddError }

func (e oddRetry) RetryAfter() time.Duration { e.in("RetryAfter"); return -1 }

// asked is every piece of foreign code that is asked what an outcome means.
var asked = []string{"Is", "As", "Unwrap", "RetryAfter", "Classify"}

// oddly registers a tool "odd" whose outcome is judged by code that does something first.
func (r *rig) oddly(method string, do func()) {
	r.t.Helper()
	odd, once := newOddError(method, do), new(sync.Once)
	p := sluice.Policy{}
	if method == "Classify" {
		p.Classify = func(sluice.Call, sluice.Result, error) sluice.Outcome { once.Do(do); return sluice.OutcomeFailure }
	}
	r.tool(sluice.Spec{Name: "odd", Policy: p}, func(context.Context) error {
		if method == "RetryAfter" {
			return oddRetry{odd}
		}
		return fmt.Errorf("wrapped: %w", odd)
	})
}

// What a call holds goes back when the judging of its outcome has taken a second; only the
// call's own caller waits for longer, and the breakers have the outcome when it is there.
func TestJudging_GivesBackAfterASecond(t *testing.T) {
	for _, method := range asked {
		for _, way := range ways {
			t.Run(method+"/"+way.name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour})
					r := newRig(t, sluice.Config{Interceptors: interceptors(b, atMost(1)), Timeout: way.timeout})
					r.oddly(method, func() { time.Sleep(5 * time.Second) })
					var g gauge
					r.tool(sluice.Spec{Name: "plain"}, g.counts(0))
					answered := make(chan time.Duration, 1)
					go func() {
						if way.submit {
							_, _ = r.Submit(r.ctx, sluice.Request{Tool: "odd"}).Wait(t.Context())
						} else {
							_ = r.call("odd")
						}
						answered <- r.at()
					}()
					synctest.Wait()
					assert.Equal(t, 1, r.Snapshot().InFlight, "in flight while the outcome is judged")
					require.NoError(t, r.call("plain"))
					assert.Equal(t, time.Second, r.at(), "the slot was free at")
					r.idle()
					s := sluice.Must(b.State("odd"))
					assert.Equal(t, sluice.BreakerClosed, s, "the breaker is %v before the outcome is known", s)
					assert.Equal(t, 5*time.Second, <-answered, "the caller was answered at")
					s = sluice.Must(b.State("odd"))
					assert.Equal(t, sluice.BreakerOpen, s, "the breaker is %v after a failure", s)
					r.end()
				})
			})
		}
	}
}

// A call whose judging goes on after its caller has left, and after what it holds was given back, has its memory for itself until
// then: others that begin meanwhile are not touched by its late outcome.
func TestJudging_LateOutcomeIsNobodyElses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour})
		r := newRig(t, sluice.Config{Interceptors: interceptors(b, atMost(1)), Timeout: time.Minute})
		r.oddly("Classify", func() { time.Sleep(5 * time.Second) })
		var g gauge
		r.tool(sluice.Spec{Name: "plain"}, g.counts(10*time.Second))
		ctx, cancel := context.WithTimeout(r.ctx, 1500*time.Millisecond)
		defer cancel()
		_, err := r.Invoke(ctx, sluice.Request{Tool: "odd"})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1500*time.Millisecond, r.at(), "the caller has left at")
		parallel(8, func(int) { require.NoError(t, r.call("plain")) }) // one of them with the memory, if it is used again
		require.EqualValues(t, 1, g.peak.Load(), "at once")
		require.Equal(t, 81500*time.Millisecond, r.at())
		require.Equal(t, sluice.BreakerOpen, sluice.Must(b.State("odd")), "its failure counts, late as it is")
		require.Equal(t, sluice.BreakerClosed, sluice.Must(b.State("plain")))
		r.idle()
		r.end()
	})
}

// An outcome that is known at the very moment at which judging it has taken a second counts once, and
// what the call holds goes back once.
func TestJudging_ThatEndsAsItHasTakenASecond(t *testing.T) {
	for range rounds(100) {
		bubble(t, func(t *testing.T) {
			b := breakerOf(sluice.CircuitBreakerConfig{Failures: 11})
			slow := func(sluice.Call, sluice.Result, error) sluice.Outcome {
				time.Sleep(time.Second)
				return sluice.OutcomeFailure
			}
			r := newRig(t, sluice.Config{Interceptors: interceptors(b, atMost(10)), Classify: slow})
			var g gauge
			r.tool(sluice.Spec{Name: "x"}, g.counts(0))
			parallel(10, func(int) { assert.NoError(t, r.call("x")) })
			assert.Equal(t, time.Second, r.at(), "answered after")
			synctest.Wait() // who gives back may not be the caller
			r.idle()
			assert.Equal(t, sluice.BreakerClosed, sluice.Must(b.State("x")), "after ten failures")
			require.NoError(t, r.call("x"))
			synctest.Wait()
			assert.Equal(t, sluice.BreakerOpen, sluice.Must(b.State("x")), "after eleven")
			r.end()
		})
	}
}

// An outcome that comes late is one of its own time: a breaker whose state has changed
// since the call began is not moved by it.
func TestJudging_LateOutcomeMovesNoNewerState(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour})
		r := newRig(t, sluice.Config{Interceptors: interceptors(b)})
		r.oddly("Is", func() {
			time.Sleep(3 * time.Second)
			b.Trip("odd")
			b.Reset("odd")
			time.Sleep(2 * time.Second)
		})
		_ = r.call("odd")
		s := sluice.Must(b.State("odd"))
		assert.Equal(t, sluice.BreakerClosed, s)
		assert.Equal(t, 5*time.Second, r.at())
		r.end()
	})
}

// Tokens of a call whose code did not run go back too, when it is known that late.
func TestJudging_LateDenialGivesTokensBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		odd := newOddError("Is", func() { time.Sleep(5 * time.Second) })
		r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 1, Per: time.Hour}), sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			if s.Name == "plain" {
				return next
			}
			return func(context.Context, sluice.Call) (sluice.Result, error) { return sluice.Result{}, odd }
		}))})
		r.tool(sluice.Spec{Name: "odd"}, func(context.Context) error { return nil })
		r.tool(sluice.Spec{Name: "plain"}, func(context.Context) error { return nil })
		go r.call("odd")
		synctest.Wait()
		require.NoError(t, r.call("plain"))
		assert.Equal(t, time.Second, r.at(), "the token was back at")
		r.end()
	})
}

// Code that is asked about an outcome and never answers delays its own caller, and nobody else.
func TestJudging_ForEverDelaysItsCallerAlone(t *testing.T) {
	for _, method := range asked {
		for _, way := range ways {
			t.Run(method+"/"+way.name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1)), Timeout: way.timeout})
					release := make(chan struct{})
					r.oddly(method, func() { <-release })
					r.tool(sluice.Spec{Name: "plain"}, func(context.Context) error { return nil })
					f := make(chan struct{})
					go func() {
						defer close(f)
						if way.submit {
							_, _ = r.Submit(r.ctx, sluice.Request{Tool: "odd"}).Wait(context.Background())
						} else {
							_ = r.call("odd")
						}
					}()
					synctest.Wait()
					for range 3 {
						require.NoError(t, r.call("plain"))
					}
					assert.Equal(t, time.Second, r.at(), "the others ran at")
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					defer cancel()
					assert.ErrorContains(t, r.Close(ctx), "1 calls still run",
						"Close, want that one call still runs")
					close(release)
					<-f
					r.end()
				})
			})
		}
	}
}

// Code that is asked about an outcome and calls Goexit ends its goroutine, and loses
// nothing: the slot is free, the terminal event is out, the future done, and Close ends.
func TestJudging_ExitLosesNothing(t *testing.T) {
	for _, method := range append([]string{"Error"}, asked...) {
		for _, way := range ways {
			t.Run(method+"/"+way.name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1)), Timeout: way.timeout,
						Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
							if e.Err != nil {
								_ = e.Err.Error()
							}
							return nil
						})})
					r.oddly(method, runtime.Goexit)
					r.tool(sluice.Spec{Name: "plain"}, func(context.Context) error { return nil })
					if way.submit {
						_, err := r.Submit(r.ctx, sluice.Request{Tool: "odd"}).Wait(t.Context())
						assert.Error(t, err, "the future has no error")
					} else if _, err, returned := r.invokeApart(r.ctx, sluice.Request{Tool: "odd"}); returned && err == nil {
						t.Error("the call has no error")
					}
					r.trace("odd: invoked started failed")
					require.NoError(t, r.call("plain"))
					assert.Zero(t, r.at(), "the slot was free at")
					r.end()
				})
			})
		}
	}
}

// The same while the end of the call is put into words, after the slot has gone back: an
// error that exits only when it is asked for the second time, and the third.
func TestJudging_ExitAtAnyQuestionLosesNothing(t *testing.T) {
	for nth := range 12 {
		for _, way := range ways {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1)), Timeout: way.timeout})
				asked := 0
				r.tool(sluice.Spec{Name: "odd"}, func(context.Context) error {
					return &countingError{&asked, nth}
				})
				if way.submit {
					_, err := r.Submit(r.ctx, sluice.Request{Tool: "odd"}).Wait(t.Context())
					assert.Error(t, err, "the future has no error")
				} else {
					_, _, _ = r.invokeApart(r.ctx, sluice.Request{Tool: "odd"})
				}
				r.trace("odd: invoked started failed")
				r.end()
			})
		}
	}
}

// countingError exits when it is asked anything for the nth time.
type countingError struct {
	asked *int
	nth   int
}

func (e *countingError) count() {
	n := *e.asked
	if *e.asked++; n == e.nth {
		runtime.Goexit()
	}
}

func (e *countingError) Error() string { return "counting" }
func (e *countingError) Is(error) bool { e.count(); return false }
func (e *countingError) As(any) bool   { e.count(); return false }
func (e *countingError) Unwrap() error { e.count(); return nil }

// Judging costs nobody a goroutine, and leaves no timer behind.
func TestJudging_CostsNoGoroutineAndNoTimer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const calls = 1000
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(calls))})
		r.tool(sluice.Spec{Name: "odd", Policy: sluice.Policy{Classify: func(sluice.Call, sluice.Result, error) sluice.Outcome {
			time.Sleep(5 * time.Second)
			return sluice.OutcomeSuccess
		}}}, func(context.Context) error { return nil })
		before := runtime.NumGoroutine()
		wait := inOrder(1, func(int) { parallel(calls, func(int) { assert.NoError(t, r.call("odd")) }) })
		if n := runtime.NumGoroutine() - before; n > calls+10 {
			t.Errorf("%d goroutines for %d calls", n, calls)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		r.idle()
		wait()
		assert.Equal(t, 5*time.Second, r.at(), "over at")
		r.end()
	})
}

// A tool's classify function that has no opinion leaves it to the executor's, and that one to
// the library.
func TestClassifyWithoutAnOpinionFallsThrough(t *testing.T) {
	errNotFound, errQuota, errOther := errors.New("not found"), errors.New("quota"), errors.New("other")
	answer := func(on error, o sluice.Outcome) func(sluice.Call, sluice.Result, error) sluice.Outcome {
		return func(_ sluice.Call, _ sluice.Result, err error) sluice.Outcome {
			if errors.Is(err, on) {
				return o
			}
			return sluice.OutcomeAuto
		}
	}
	for _, tc := range []struct {
		name  string
		own   func(sluice.Call, sluice.Result, error) sluice.Outcome
		err   error
		opens bool // after one failure
	}{
		{"own opinion", answer(errNotFound, sluice.OutcomeSuccess), errNotFound, false},
		{"own opinion goes first", answer(errQuota, sluice.OutcomeFailure), errQuota, true},
		{"none of its own", answer(errNotFound, sluice.OutcomeSuccess), errQuota, false},
		{"no opinion at all", answer(errNotFound, sluice.OutcomeSuccess), errOther, true},
		{"a panic", func(sluice.Call, sluice.Result, error) sluice.Outcome { panic("classify") }, errQuota, false},
		{"nonsense", func(sluice.Call, sluice.Result, error) sluice.Outcome { return 77 }, errQuota, false},
		{"no function", nil, errQuota, false},
		{"no function, no opinion", nil, errOther, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1})
				r := newRig(t, sluice.Config{Classify: answer(errQuota, sluice.OutcomeNeutral), Interceptors: interceptors(b)})
				defer r.end()
				r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Classify: tc.own}}, func(context.Context) error { return tc.err })
				if err := r.call("x"); !errors.Is(err, tc.err) {
					t.Fatal(err)
				}
				assert.Equal(t, tc.opens, sluice.Must(b.State("x")) == sluice.BreakerOpen, "the breaker opened")
			})
		})
	}
}

// A classify function that panics is called once, and the outcome counts as what it is.
func TestClassifyThatPanicsIsAskedOnce(t *testing.T) {
	asked := 0
	b := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 2}))
	e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{b}, Classify: func(sluice.Call, sluice.Result, error) sluice.Outcome { asked++; panic("in Classify") }})
	fails := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(_ context.Context, ok bool) (bool, error) {
		if !ok {
			return false, errors.New("no")
		}
		return true, nil
	}))
	for i, step := range []struct {
		ok   bool
		want sluice.BreakerState
	}{{false, sluice.BreakerClosed}, {true, sluice.BreakerClosed}, {false, sluice.BreakerClosed}, {false, sluice.BreakerOpen}} {
		fails(t.Context(), step.ok)
		got := sluice.Must(b.State("x"))
		assert.Equal(t, step.want, got, "step %d", i)
		assert.Equal(t, i+1, asked, "step %d", i)
	}
}
