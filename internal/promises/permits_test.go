package promises_test

import (
	"context"
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

// answersAfter is an interceptor that gives up on next after d and answers errTool, or a
// success if ok, while next goes on.
func answersAfter(d time.Duration, ok bool) sluice.Interceptor {
	return sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			done := make(chan struct{})
			var res sluice.Result
			var err error
			go func() {
				defer close(done)
				res, err = next(ctx, c)
			}()
			select {
			case <-done:
				return res, err
			case <-time.After(d):
			}
			if ok {
				return sluice.Result{Value: nil}, nil
			}
			return sluice.Result{}, errTool
		}
	})
}

// A slot is taken until the tool's code has ended, whoever has returned before: an
// interceptor inside the gates or outside, with and without a timeout, in whatever way the
// code ends. The call answers at once, and the limits tell the truth.
func TestPermit_HeldUntilTheCodeEnds(t *testing.T) {
	for _, place := range []string{"inside", "outside"} {
		for _, timeout := range []time.Duration{0, time.Minute, 20 * ms} {
			for _, how := range []string{"invoke", "submit"} {
				for _, end := range endings {
					t.Run(fmt.Sprint(place, " ", timeout, " ", how, " ", end.name), func(t *testing.T) {
						bubble(t, func(t *testing.T) {
							list := interceptors(atMost(1), answersAfter(10*ms, false))
							if place == "outside" {
								list[0], list[1] = list[1], list[0]
							}
							r := newRig(t, sluice.Config{Interceptors: list, Timeout: timeout})
							var g gauge
							r.tool(sluice.Spec{Name: "work"}, func(context.Context) error {
								g.enter()
								time.Sleep(time.Second)
								g.leave()
								end.do()
								return end.err
							})
							for i := range 3 {
								var err error
								if how == "invoke" {
									err = r.call("work")
								} else {
									_, err = r.Submit(r.ctx, sluice.Request{Tool: "work"}).Wait(t.Context())
								}
								// The first runs, and is given up on; outside the gates the others are while they wait.
								if place == "inside" && err != errTool {
									t.Errorf("call %d: %v, want the interceptor's error untouched", i, err)
								}
								if s := r.Snapshot(); s.InFlight != 1 || s.Abandoned != 1 {
									t.Errorf("after call %d: %d in flight, %d abandoned, want 1 and 1", i, s.InFlight, s.Abandoned)
								}
							}
							assert.Equal(t, int64(1), g.peak.Load(), "ran at once under a limit of 1")
							began := time.Since(r.start)
							require.NoError(t, r.Close(t.Context())) // waits for the code that runs
							if took := time.Since(r.start); g.inside.Load() != 0 || took == began {
								t.Errorf("Close returned at %v, called at %v, with %d inside", took, began, g.inside.Load())
							}
							r.end()
						})
					})
				}
			}
		}
	}
}

// Five calls in a row, each given up on after 10ms: one second each, one at a time.
func TestPermit_InnerTimeoutKeepsTheSlot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), answersAfter(10*ms, false))})
		var g gauge
		r.tool(sluice.Spec{Name: "work"}, g.counts(time.Second))
		for i := range 5 {
			if err := r.call("work"); err != errTool {
				t.Error(err)
			}
			assert.Equal(t, time.Duration(i)*time.Second+10*ms, r.at(), "call %d answered at", i)
		}
		require.NoError(t, r.Close(t.Context()))
		if g.peak.Load() != 1 || g.total.Load() != 5 || r.at() != 5*time.Second {
			t.Errorf("peak %d, %d ran, all over at %v; want 1, 5, 5s", g.peak.Load(), g.total.Load(), r.at())
		}
		r.end()
	})
}

// What breakers learn of such a call is the interceptor's outcome, at once, and only that.
func TestPermit_OutcomeIsTheInterceptors(t *testing.T) {
	for _, ok := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour})
			r := newRig(t, sluice.Config{Interceptors: interceptors(b, answersAfter(10*ms, ok))})
			r.tool(sluice.Spec{Name: "work"}, func(context.Context) error {
				time.Sleep(time.Second)
				if ok {
					return errors.New("nobody hears of it")
				}
				return nil
			})
			_ = r.call("work")
			want := sluice.BreakerClosed
			if !ok {
				want = sluice.BreakerOpen
			}
			for _, at := range []string{"at once", "when the code has ended"} {
				assert.Equal(t, want, sluice.Must(b.State("work")), at)
				time.Sleep(2 * time.Second)
			}
			r.end()
		})
	}
}

// A next that begins after the interceptor has answered is refused, and the tool's code
// does not run: the slot is free already.
func TestPermit_NextThatBeginsTooLateIsRefused(t *testing.T) {
	for _, place := range []string{"inside", "outside"} {
		for _, timeout := range []time.Duration{0, time.Minute} {
			t.Run(fmt.Sprint(place, " ", timeout), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					late := make(chan error, 1)
					list := interceptors(atMost(1), sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
						return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
							go func() {
								time.Sleep(10 * ms)
								_, err := next(context.WithoutCancel(ctx), c)
								late <- err
							}()
							return sluice.Result{}, errTool
						}
					}))
					if place == "outside" {
						list[0], list[1] = list[1], list[0]
					}
					r := newRig(t, sluice.Config{Interceptors: list, Timeout: timeout})
					r.tool(sluice.Spec{Name: "work"}, func(context.Context) error {
						t.Error("the code ran")
						return nil
					})
					if err := r.call("work"); !errors.Is(err, sluice.ErrDenied) || !errors.Is(err, errTool) {
						t.Errorf("%v, want a denial for the interceptor's error", err)
					}
					r.idle()
					assert.ErrorIs(t, <-late, sluice.ErrRejected, "the late next, want a refusal")
					r.trace("work: invoked denied")
					r.end()
				})
			})
		}
	}
}

// An interceptor that returns at the very instant at which its next begins: either the code
// runs, on the slot, or it does not, and the error says which.
func TestPermit_ReturnAndBeginAtOnceAgree(t *testing.T) {
	r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			go next(ctx, c)
			runtime.Gosched()
			return sluice.Result{}, errTool
		}
	}))})
	var g gauge
	r.tool(sluice.Spec{Name: "work"}, g.counts(0))
	ran := int64(0)
	for range 2000 {
		if err := r.call("work"); !errors.Is(err, sluice.ErrRejected) {
			ran++
		}
	}
	require.NoError(t, r.Close(t.Context()))
	if g.peak.Load() > 1 || g.total.Load() != ran {
		t.Errorf("peak %d; the code ran %d times, and %d errors say so", g.peak.Load(), g.total.Load(), ran)
	}
	r.end()
}

// A sink that exits while it is told that the code begins leaves nobody inside.
func TestPermit_SinkThatExitsLeavesNobodyInside(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), passing),
			Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
				if e.Kind == sluice.ToolStarted {
					runtime.Goexit()
				}
				return nil
			})})
		r.tool(sluice.Spec{Name: "work"}, func(context.Context) error { return nil })
		_, _, returned := r.invokeApart(r.ctx, sluice.Request{Tool: "work"})
		assert.False(t, returned, "the call returned: inline, Goexit ends the goroutine of the caller")
		r.idle()
		require.NoError(t, r.Close(t.Context()))
		require.NoError(t, r.pc.State.Close())
	})
}

// hedges starts a second attempt after d and answers with the first that ends.
func hedges(d time.Duration) sluice.Interceptor {
	return sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			type out struct {
				res sluice.Result
				err error
			}
			outs := make(chan out, 2)
			for range 2 {
				go func() {
					res, err := next(ctx, c)
					outs <- out{res, err}
				}()
				select {
				case o := <-outs:
					return o.res, o.err
				case <-time.After(d):
				}
			}
			o := <-outs
			return o.res, o.err
		}
	})
}

// The attempt that lost a hedge is abandoned: it counts, and Close waits for it.
func TestPermit_LoserOfAHedgeCountsUntilItEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(hedges(100*ms), atMost(4))})
		attempts := atomic.Int64{}
		r.tool(sluice.Spec{Name: "work"}, func(context.Context) error {
			if attempts.Add(1) == 1 {
				time.Sleep(time.Minute)
			}
			return nil
		})
		require.NoError(t, r.call("work"))
		if s := r.Snapshot(); r.at() != 100*ms || s.InFlight != 1 || s.Abandoned != 1 {
			t.Errorf("at %v %d in flight, %d abandoned; want 100ms, 1, 1", r.at(), s.InFlight, s.Abandoned)
		}
		require.NoError(t, r.Close(t.Context()))
		assert.Equal(t, time.Minute, r.at(), "Close returned at")
		r.end()
	})
}

// With attempts at once the terminal event is out before the call returns, even while a
// sink is busy with another of the call's events.
func TestPermit_TheTerminalEventIsOutBeforeTheCallReturns(t *testing.T) {
	for _, exits := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			block := atomic.Bool{}
			ends := atomic.Int64{}
			r := newRig(t, sluice.Config{Interceptors: interceptors(hedges(100*ms), atMost(4)),
				Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
					switch {
					case e.Kind == sluice.ToolStarted && block.CompareAndSwap(false, true):
						time.Sleep(time.Second) // meanwhile the other attempt starts and ends
						if exits {
							runtime.Goexit()
						}
					case e.Kind == sluice.ToolCompleted:
						ends.Add(1)
					}
					return nil
				})})
			r.tool(sluice.Spec{Name: "work"}, func(context.Context) error { return nil })
			require.NoError(t, r.call("work"))
			if ends.Load() != 1 || r.at() != time.Second {
				t.Errorf("the call returned at %v after %d terminal events; want 1s and 1", r.at(), ends.Load())
			}
			require.NoError(t, r.Close(t.Context()))
			require.NoError(t, r.pc.State.Close())
		})
	}
}

// Snapshot, ends of attempts and ends of calls at once: nothing is counted twice.
func TestPermit_CountsNothingTwiceUnderLoad(t *testing.T) {
	r := newRig(t, sluice.Config{Interceptors: interceptors(hedges(0), atMost(8), answersAfter(0, true))})
	r.tool(sluice.Spec{Name: "work"}, func(context.Context) error { runtime.Gosched(); return nil })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				_ = r.call("work")
				if s := r.Snapshot(); s.Abandoned < 0 || s.InFlight < 0 || s.InFlight > 8 {
					t.Errorf("%d abandoned, %d in flight", s.Abandoned, s.InFlight)
				}
			}
		})
	}
	wg.Wait()
	r.end()
}

// Promise 10: everything taken is given back however the code ends.
func TestPromise10_GivenBackOnEveryEnding(t *testing.T) {
	const limit = 2
	for _, how := range []string{"inline", "timeout", "submit", "submit queued"} {
		for _, end := range endings {
			t.Run(how+"/"+end.name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					c := sluice.Config{Interceptors: interceptors(atMost(limit))}
					if how == "timeout" {
						c.Timeout = time.Second
					}
					r := newRig(t, c)
					defer r.end()
					var g gauge
					r.tool(sluice.Spec{Name: "odd"}, func(context.Context) error {
						time.Sleep(ms)
						end.do()
						return end.err
					})
					r.tool(sluice.Spec{Name: "plain"}, g.counts(10*ms))
					for range limit + 1 {
						var err error
						returned := true
						switch how {
						case "submit queued":
							for range limit {
								f := r.Submit(r.ctx, sluice.Request{Tool: "plain"})
								defer f.Wait(context.Background())
							}
							fallthrough
						case "submit":
							_, err = r.Submit(r.ctx, sluice.Request{Tool: "odd"}).Wait(t.Context())
						default:
							_, err, returned = r.invokeApart(r.ctx, sluice.Request{Tool: "odd"})
						}
						var p *sluice.PanicError
						switch {
						case end.name == "Goexit" && how == "inline":
							assert.False(t, returned,
								"the call returned: inline, Goexit ends the goroutine of the caller")
						case end.name == "return" && err != nil, end.name == "error" && err != errTool:
							t.Errorf("error is %v", err)
						case end.name == "return", end.name == "error":
						case !errors.As(err, &p):
							t.Errorf("error is %v, want a PanicError", err)
						case p.Goexit != (end.name == "Goexit") || len(p.Stack) == 0 || p.Tool != "odd":
							t.Errorf("Goexit %v, tool %q, %d bytes of stack", p.Goexit, p.Tool, len(p.Stack))
						case strings.Contains(err.Error(), "secret"):
							t.Errorf("the text holds the panic's value: %v", err)
						case errors.Is(err, sluice.ErrRejected):
							t.Error("matches ErrRejected although the code ran")
						}
					}
					time.Sleep(time.Second)
					r.idle()
					r.slotsFree("plain", &g, limit)
				})
			})
		}
	}
}

// A sink that calls Goexit ends the goroutine that emits. What the call holds, or waits
// for, is given back all the same.
func TestPromise10_GivenBackWhenASinkExits(t *testing.T) {
	const limit = 2
	for _, kind := range []sluice.EventKind{sluice.ToolInvoked, sluice.ToolQueued, sluice.ToolStarted, sluice.ToolCompleted, sluice.ToolFailed} {
		for _, how := range []string{"inline", "timeout", "submit", "submit refused"} {
			t.Run(fmt.Sprint(kind, "/", how), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					exits := atomic.Bool{}
					c := sluice.Config{Interceptors: interceptors(atMost(limit)),
						Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
							if exits.Load() && e.Kind == kind && (e.Call.Tool == "odd" || e.Call.Tool == "nobody") {
								runtime.Goexit()
							}
							return nil
						})}
					if how == "timeout" {
						c.Timeout = time.Second
					}
					r := newRig(t, c)
					defer func() {
						assert.NoError(t, r.Close(context.Background()))
						r.idle()
						require.NoError(t, r.pc.State.Close())
					}()
					var g gauge
					r.tool(sluice.Spec{Name: "plain"}, g.counts(10*ms))
					r.tool(sluice.Spec{Name: "odd"}, func(ctx context.Context) error {
						if kind == sluice.ToolFailed {
							return errTool
						}
						return nil
					})
					exits.Store(true)
					var wg sync.WaitGroup
					for range limit {
						wg.Go(func() { assert.NoError(t, r.call("plain")) })
					}
					synctest.Wait()
					for range limit + 1 {
						wg.Go(func() {
							q := sluice.Request{Tool: "odd"}
							switch how {
							case "submit refused":
								q.Tool = "nobody"
								fallthrough
							case "submit":
								f := r.Submit(t.Context(), q)
								_, _ = f.Wait(t.Context())
								return
							}
							_, _ = r.Invoke(t.Context(), q)
						})
					}
					wg.Wait()
					exits.Store(false)
					time.Sleep(time.Second)
					r.idle()
					r.slotsFree("plain", &g, limit)
				})
			})
		}
	}
}

// So does user code that is asked about an outcome.
func TestPromise10_GivenBackWhenAClassifierExits(t *testing.T) {
	const limit = 2
	for _, what := range []string{"Classify panics", "Classify exits", "RetryAfter exits"} {
		for _, timeout := range []time.Duration{0, time.Second} {
			t.Run(fmt.Sprint(what, " ", timeout), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(limit)), Timeout: timeout})
					defer r.end()
					var g gauge
					p := sluice.Policy{}
					switch what {
					case "Classify panics":
						p.Classify = func(sluice.Call, sluice.Result, error) sluice.Outcome { panic("secret") }
					case "Classify exits":
						p.Classify = func(sluice.Call, sluice.Result, error) sluice.Outcome { runtime.Goexit(); return 0 }
					}
					r.tool(sluice.Spec{Name: "odd", Policy: p}, func(context.Context) error {
						if what == "RetryAfter exits" {
							return exitingError{}
						}
						return nil
					})
					r.tool(sluice.Spec{Name: "plain"}, g.counts(10*ms))
					for range limit + 1 {
						_, err, _ := r.invokeApart(r.ctx, sluice.Request{Tool: "odd"})
						if what == "Classify panics" && err != nil {
							t.Errorf("a classifier that panics leaves the outcome to the library: %v", err)
						}
					}
					time.Sleep(2 * time.Second)
					r.idle()
					r.slotsFree("plain", &g, limit)
				})
			})
		}
	}
}

func TestSlotIsHeldUntilTheCodeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{atMost(1)}, Timeout: time.Second})
		start := time.Now()
		var mu sync.Mutex
		var began []time.Duration
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "deaf"}, func(context.Context, string) (string, error) {
			mu.Lock()
			began = append(began, time.Since(start))
			mu.Unlock()
			time.Sleep(10 * time.Second)
			return "", nil
		}))
		_, err := f(t.Context(), "")
		assert.ErrorIs(t, err, sluice.ErrTimeout)
		assert.Equal(t, time.Second, time.Since(start))
		_, err = f(t.Context(), "")
		assert.ErrorIs(t, err, sluice.ErrTimeout)
		assert.Equal(t, 11*time.Second, time.Since(start))
		err = e.Close(t.Context())
		require.NoError(t, err, "Close")
		assert.Equal(t, 20*time.Second, time.Since(start), "Close")
		assert.Equal(t, []time.Duration{0, 10 * time.Second}, began, "began at")
	})
}

func TestEachEndingGivesBackOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 3
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{atMost(limit)}, Sink: sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { return errors.New("sink") })})
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x", Policy: sluice.Policy{Classify: func(sluice.Call, sluice.Result, error) sluice.Outcome { panic("twice") }}},
			func(_ context.Context, how string) (string, error) {
				switch how {
				case "panic":
					panic(how)
				case "exit":
					runtime.Goexit()
				case "error":
					return "", errors.New(how)
				}
				return "", nil
			}))
		for range limit + 1 {
			for _, how := range []string{"panic", "exit", "error", "return"} {
				var wg sync.WaitGroup
				wg.Go(func() { f(t.Context(), how) })
				wg.Wait()
			}
		}
		free(t, e, limit)
	})
}

// Whatever the tree of a tool's error is, the call ends, its error passes through untouched,
// and what it held is there again.
func TestPromise10_GivenBackWhateverTheErrorWraps(t *testing.T) {
	for name, odd := range oddErrors() {
		for _, timeout := range []time.Duration{0, time.Second} {
			for _, how := range []string{"invoke", "submit", "nested"} {
				t.Run(fmt.Sprint(name, " ", timeout, " ", how), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), breakerOf(sluice.CircuitBreakerConfig{})), Timeout: timeout})
						defer r.end()
						var g gauge
						bad := error(nil)
						r.tool(sluice.Spec{Name: "odd"}, func(context.Context) error { return bad })
						r.tool(sluice.Spec{Name: "around"}, func(ctx context.Context) error {
							_, err := r.Invoke(ctx, sluice.Request{Tool: "odd"})
							return err
						})
						r.tool(sluice.Spec{Name: "plain"}, g.counts(ms))
						for _, bad = range []error{odd, fmt.Errorf("outer: %w", odd), errors.Join(errors.New("beside"), odd)} {
							var err error
							switch how {
							case "invoke":
								err = r.call("odd")
							case "submit":
								_, err = r.Submit(r.ctx, sluice.Request{Tool: "odd"}).Wait(t.Context())
							case "nested":
								err = r.call("around")
							}
							if err != bad {
								t.Errorf("the error is %T: want it untouched", err)
							}
							r.slotsFree("plain", &g, 1)
						}
					})
				})
			}
		}
	}
}

// exitingError calls Goexit when it is asked for its time to retry.
type exitingError struct{}

func (exitingError) Error() string             { return "exiting" }
func (exitingError) RetryAfter() time.Duration { runtime.Goexit(); return 0 }

// endless is an error that wraps others of its kind, with no end.
type endless struct{ wraps *[]error }

func (endless) Error() string     { return "endless" }
func (e endless) Unwrap() []error { return *e.wraps }

// lasso is an error that wraps one other, which may be itself.
type lasso struct{ wraps *error }

func (lasso) Error() string   { return "lasso" }
func (e lasso) Unwrap() error { return *e.wraps }

// mine is an error each of whose methods panics.
type mine struct{}

func (mine) Error() string             { panic("secret") }
func (mine) Is(error) bool             { panic("secret") }
func (mine) As(any) bool               { panic("secret") }
func (mine) Unwrap() error             { panic("secret") }
func (mine) RetryAfter() time.Duration { panic("secret") }

// oddErrors is errors that are hard to look at.
func oddErrors() map[string]error {
	itself := lasso{new(error)}
	*itself.wraps = itself
	one, two := lasso{new(error)}, lasso{new(error)}
	*one.wraps, *two.wraps = two, one
	tree := endless{new([]error)}
	*tree.wraps = []error{tree, tree, tree}
	return map[string]error{"wraps itself": itself, "two wrap each other": one, "a tree without end": tree, "its methods panic": mine{}}
}
