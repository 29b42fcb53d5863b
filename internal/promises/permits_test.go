package promises_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
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
func TestPermit_TheOutcomeIsTheInterceptors(t *testing.T) {
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
func TestPermit_ANextThatBeginsTooLate(t *testing.T) {
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
func TestPermit_ReturnAndBeginAtOnce(t *testing.T) {
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
func TestPermit_ASinkExitsBeforeTheCode(t *testing.T) {
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
func TestPermit_TheLoserOfAHedge(t *testing.T) {
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
func TestPermit_CountsUnderLoad(t *testing.T) {
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
