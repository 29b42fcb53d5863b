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

// streams is a tool that answers at once, with a stream that lasts for d and ends with err.
func streams(t *testing.T, d time.Duration, err error) func(context.Context) error {
	return func(ctx context.Context) error {
		stream, done, herr := sluice.Hold(ctx)
		assert.NoError(t, herr)
		go func() {
			defer func() { done(err) }()
			select {
			case <-time.After(d):
			case <-stream.Done():
			}
		}()
		return nil
	}
}

// A stream holds its call open: the caller has the result at once, and the slot, the
// terminal event, the count and Close wait for the stream's end.
func TestHold_UntilTheStreamEnds(t *testing.T) {
	for _, way := range ways {
		for _, around := range []string{"nothing", "outside", "inside"} {
			for _, failure := range []error{nil, errTool} {
				t.Run(fmt.Sprint(way.name, " ", around, " ", failure), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour})
						list := interceptors(b, atMost(1))
						switch around {
						case "outside":
							list = append(interceptors(passing), list...)
						case "inside":
							list = append(list, passing)
						}
						r := newRig(t, sluice.Config{Interceptors: list, Timeout: way.timeout})
						r.tool(sluice.Spec{Name: "x"}, streams(t, 5*time.Second, failure))
						r.tool(sluice.Spec{Name: "plain"}, func(context.Context) error { return nil })
						var err error
						if way.submit {
							_, err = r.Submit(r.ctx, sluice.Request{Tool: "x"}).Wait(t.Context())
						} else {
							err = r.call("x")
						}
						require.NoError(t, err)
						if s := r.Snapshot(); r.at() != 0 || s.InFlight != 1 || s.Abandoned != 0 || s.Completed != 0 || s.Failed != 0 {
							t.Errorf("answered at %v; %d in flight, %d abandoned, %d ended; want 0s, 1, 0, 0", r.at(), s.InFlight, s.Abandoned, s.Completed+s.Failed)
						}
						r.trace("x: invoked started")
						go r.call("plain")
						require.NoError(t, r.Close(context.Background()))
						assert.Equal(t, 5*time.Second, r.at(), "Close returned at")
						want, state := "x: invoked started completed", sluice.BreakerClosed
						if failure != nil {
							want, state = "x: invoked started failed", sluice.BreakerOpen
						}
						got := r.rec.Trace()
						assert.True(t, strings.HasPrefix(got, want), "trace %s, want %s first", got, want)
						if e := r.terminal("x"); e.Duration != 5*time.Second || !e.Time.Equal(r.start.Add(5*time.Second)) || e.Err != failure {
							t.Errorf("the terminal event took %v, at %v, with %v; want 5s, 5s, %v", e.Duration, e.Time.Sub(r.start), e.Err, failure)
						}
						assert.Equal(t, state, sluice.Must(b.State("x")), "the breaker")
						r.end()
					})
				})
			}
		}
	}
}

// A waiter has the slot of a stream when that ends, not before.
func TestHold_KeepsTheSlot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
		r.tool(sluice.Spec{Name: "x"}, streams(t, 5*time.Second, nil))
		for i := range 3 {
			require.NoError(t, r.call("x"))
			assert.Equal(t, time.Duration(i)*5*time.Second, r.at(), "call %d began at", i)
		}
		r.end()
	})
}

// Usage that is reported until the stream ends counts, and the terminal event's decision
// has it; what is reported later does not.
func TestHold_UsageUntilTheEnd(t *testing.T) {
	for _, before := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			quota := rates(sluice.Rate{N: 100, Per: time.Hour, Unit: "tokens"})
			var last sluice.Decision
			r := newRig(t, sluice.Config{Interceptors: interceptors(quota), Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
				if e.Kind == sluice.ToolCompleted {
					last = e.Result.Decision()
				}
				return nil
			})})
			used := func() int64 {
				for _, g := range r.Snapshot().Gates {
					if strings.Contains(g.Name, "tokens") {
						return g.Used
					}
				}
				return -1
			}
			var stream context.Context
			var done func(error)
			r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 10 }}}, func(ctx context.Context) (err error) {
				stream, done, err = sluice.Hold(ctx)
				if before {
					sluice.ReportUsage(ctx, "tokens", 20)
				}
				return err
			})
			require.NoError(t, r.call("x"))
			sluice.ReportUsage(stream, "tokens", 50)
			assert.Equal(t, int64(50), used(), "used while the stream is open")
			done(nil)
			sluice.ReportUsage(stream, "tokens", 90)
			assert.Equal(t, int64(50), used(), "used after the stream has ended")
			if len(last.Costs) != 1 || last.Costs[0].Estimate != 10 || last.Costs[0].Actual != 50 {
				t.Errorf("the terminal event tells costs %+v, want 10 and 50", last.Costs)
			}
			r.end()
		})
	}
}

// A hold lasts for ten minutes, or for the attempt's timeout: then it is given up, its
// context ends, and the call ends as timed out, whatever the stream does.
func TestHold_IsGivenUpAtItsBound(t *testing.T) {
	for _, tt := range []struct{ timeout, want time.Duration }{{0, 10 * time.Minute}, {time.Minute, time.Minute}, {time.Hour, 10 * time.Minute}} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1)), Timeout: tt.timeout})
			var stream context.Context
			var done func(error)
			r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) (err error) {
				stream, done, err = sluice.Hold(ctx)
				return err
			})
			require.NoError(t, r.call("x"))
			<-stream.Done()
			synctest.Wait()
			assert.Equal(t, tt.want, r.at(), "timeout %v", tt.timeout)
			assert.ErrorIs(t, context.Cause(stream), sluice.ErrTimeout, "timeout %v", tt.timeout)
			r.idle()
			if e := r.terminal("x"); e.Kind != sluice.ToolFailed || !errors.Is(e.Err, sluice.ErrTimeout) || e.Duration != tt.want {
				t.Errorf("%s after %v: %v", e.Kind, e.Duration, e.Err)
			}
			done(nil) // too late, and no harm
			r.end()
		})
	}
}

// A stream that the caller's own deadline gives up says nothing about the tool.
func TestPromise16_HoldUntilTheCallersDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1})
		r := newRig(t, sluice.Config{Interceptors: interceptors(b), Timeout: time.Hour})
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
			_, _, err := sluice.Hold(ctx)
			return err
		})
		ctx, cancel := context.WithTimeout(r.ctx, time.Second)
		defer cancel()
		_, err := r.Invoke(ctx, sluice.Request{Tool: "x"})
		require.NoError(t, err)
		time.Sleep(2 * time.Second)
		e := r.terminal("x")
		assert.Equal(t, time.Second, e.Duration)
		assert.ErrorIs(t, e.Err, sluice.ErrTimeout)
		assert.Equal(t, sluice.BreakerClosed, sluice.Must(b.State("x")), "the breaker")
		r.end()
	})
}

// What cannot be held open says why.
func TestHold_SaysWhyItCannotBe(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Timeout: time.Second})
		var kept context.Context
		var got sync.Map
		hold := func(when string, ctx context.Context) {
			if _, _, err := sluice.Hold(ctx); err != nil {
				got.Store(when, err.Error())
			}
		}
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error { kept = ctx; return nil })
		r.tool(sluice.Spec{Name: "late"}, func(ctx context.Context) error {
			time.Sleep(2 * time.Second)
			hold("late", ctx)
			return nil
		})
		r.tool(sluice.Spec{Name: "many"}, func(ctx context.Context) error {
			for range 1000 {
				_, _, err := sluice.Hold(ctx)
				assert.NoError(t, err)
			}
			hold("many", ctx)
			return errors.New("which ends them")
		})
		hold("outside", t.Context())
		require.NoError(t, r.call("x"))
		hold("returned", kept)
		for _, tool := range []string{"late", "many"} {
			assert.Error(t, r.call(tool), "%s: want an error", tool)
		}
		time.Sleep(2 * time.Second)
		want := map[string]string{
			"outside":  "sluice: Hold: the context belongs to no call: must be the one that a tool gets, or made from it",
			"returned": "sluice: Hold: the tool has returned: a call can be held open only while its code runs",
			"late":     "sluice: Hold: the time of the attempt is over: a call can be held open only before that",
			"many":     "sluice: Hold: the call is held open 1000 times: must be at most that at once",
		}
		for when, text := range want {
			if said, _ := got.Load(when); said != text {
				t.Errorf("%s: %q, want %q", when, said, text)
			}
		}
		r.end()
	})
}

// A stream that ends when its hold has been given up is told to nobody.
func TestHold_EndAfterItsBoundIsToldToNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		asked := 0
		r := newRig(t, sluice.Config{Classify: func(sluice.Call, sluice.Result, error) sluice.Outcome { asked++; return sluice.OutcomeAuto }})
		var done func(error)
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) (err error) {
			_, done, err = sluice.Hold(ctx)
			return err
		})
		require.NoError(t, r.call("x"))
		require.NoError(t, r.Close(context.Background()))
		before := asked
		done(hostThrottle{"b", time.Hour})
		assert.Equal(t, before, asked, "the classify function was asked after Close had returned")
		r.end()
	})
}

// The context of a stream lives on when its tool has returned, with a timeout too, carries
// the caller's values and end, and ends when done is called.
func TestHold_ContextLivesUntilDone(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Hour} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Timeout: timeout})
			var stream context.Context
			var done func(error)
			r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) (err error) {
				stream, done, err = sluice.Hold(context.WithValue(ctx, ctxKey{}, 7))
				return err
			})
			call := func() context.CancelCauseFunc {
				ctx, cancel := context.WithCancelCause(r.ctx)
				_, err := r.Invoke(ctx, sluice.Request{Tool: "x"})
				require.NoError(t, err)
				time.Sleep(time.Second)
				if c, ok := sluice.CallFrom(stream); stream.Err() != nil || stream.Value(ctxKey{}) != 7 || !ok || c.Tool != "x" {
					t.Errorf("while it is held: Err %v, value %v, call %v", stream.Err(), stream.Value(ctxKey{}), c)
				}
				return cancel
			}
			cancel := call()
			done(nil)
			if stream.Err() != context.Canceled {
				t.Errorf("after done: Err %v", stream.Err())
			}
			cancel(nil)
			cancel = call()
			cancel(errTool)
			<-stream.Done()
			if context.Cause(stream) != errTool {
				t.Errorf("the caller has left: cause %v", context.Cause(stream))
			}
			done(context.Cause(stream))
			r.end()
		})
	}
}

// Only the first done counts, from whichever goroutine; a call with several holds ends with
// the last of them.
func TestHold_EndsWithTheLastAndEachOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
		dones := make([]func(error), 3)
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) (err error) {
			for i := range dones {
				if _, dones[i], err = sluice.Hold(ctx); err != nil {
					return err
				}
			}
			return nil
		})
		require.NoError(t, r.call("x"))
		for i, done := range dones {
			if s := r.Snapshot(); s.InFlight != 1 || s.Completed != 0 {
				t.Errorf("before the end of stream %d: %d in flight, %d completed", i, s.InFlight, s.Completed)
			}
			parallel(10, func(int) { done(nil) })
			done(errTool)
		}
		r.idle()
		r.trace("x: invoked started completed")
		r.end()
	})
}

// A tool that fails, panics or exits has no stream: its holds end with it.
func TestHold_EndsWithAToolThatFails(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Hour} {
		for _, end := range endings {
			if end.name == "return" {
				continue
			}
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1)), Timeout: timeout})
				var stream context.Context
				r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) (err error) {
					stream, _, err = sluice.Hold(ctx)
					assert.NoError(t, err)
					end.do()
					return end.err
				})
				_, _, _ = r.invokeApart(r.ctx, sluice.Request{Tool: "x"})
				assert.Error(t, stream.Err(), "%s: the stream's context has not ended", end.name)
				r.idle()
				r.trace("x: invoked started failed")
				r.end()
			})
		}
	}
}

// Outside a call, and when the tool has returned, there is nothing to hold.
func TestHold_OutsideACallThereIsNothingToHold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{})
		var kept context.Context
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error { kept = ctx; return nil })
		require.NoError(t, r.call("x"))
		var none context.Context
		for _, ctx := range []context.Context{none, t.Context(), r.ctx, kept} {
			if stream, done, err := sluice.Hold(ctx); err == nil || stream != nil || done != nil {
				t.Errorf("Hold answered %v, %v", stream, err)
			}
		}
		r.end()
	})
}

// An error of a stream whose own code never answers keeps the slot for a second.
func TestHold_ErrorThatNeverAnswersKeepsTheSlotForASecond(t *testing.T) {
	for _, do := range []func(){func() { time.Sleep(5 * time.Second) }, runtime.Goexit} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
			r.tool(sluice.Spec{Name: "plain"}, func(context.Context) error { return nil })
			odd := newOddError("Is", do)
			r.tool(sluice.Spec{Name: "x"}, streams(t, 0, fmt.Errorf("wrapped: %w", odd)))
			require.NoError(t, r.call("x"))
			require.NoError(t, r.call("plain"))
			if r.at() > time.Second {
				t.Errorf("the slot was free at %v, want 1s at most", r.at())
			}
			r.end()
			time.Sleep(5 * time.Second) // until the stream's own goroutine is back
			assert.Equal(t, sluice.ToolFailed, r.terminal("x").Kind, "the stream failed, and the call")
		})
	}
}

// A stream that ends with a refusal, of a call nested in it, did run.
func TestHold_ThatEndsWithANestedRefusalDidRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{})
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
			stream, done, err := sluice.Hold(ctx)
			assert.NoError(t, err)
			go func() {
				time.Sleep(time.Second)
				_, err := r.Invoke(stream, sluice.Request{Tool: "nobody"})
				done(err)
			}()
			return nil
		})
		require.NoError(t, r.call("x"))
		time.Sleep(2 * time.Second)
		r.end()
		r.trace("x: invoked started failed; nobody: invoked failed")
		if e := r.terminal("x"); errors.Is(e.Err, sluice.ErrRejected) || !errors.Is(e.Err, sluice.ErrUnknownTool) {
			t.Errorf("the call ended with %v", e.Err)
		}
		assert.Equal(t, "call-1", r.terminal("nobody").ParentID, "the nested call's parent")
	})
}

// A stream that has failed before its tool returns has failed all the same.
func TestHold_MayFailBeforeTheToolReturns(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Hour} {
		bubble(t, func(t *testing.T) {
			b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour})
			r := newRig(t, sluice.Config{Interceptors: interceptors(b), Timeout: timeout})
			r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
				_, done, err := sluice.Hold(ctx)
				done(errTool)
				return err
			})
			require.NoError(t, r.call("x"))
			if e := r.terminal("x"); e.Kind != sluice.ToolFailed || e.Err != errTool || sluice.Must(b.State("x")) != sluice.BreakerOpen {
				t.Errorf("%s for %v, the breaker is %v", e.Kind, e.Err, sluice.Must(b.State("x")))
			}
			r.end()
		})
	}
}

// Ends of streams, of calls and of their contexts, all at once.
func TestHold_AllAtOnce(t *testing.T) {
	for range 5 {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(3)), Timeout: 20 * ms})
			r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
				var wg sync.WaitGroup
				for i := range 3 {
					_, done, err := sluice.Hold(ctx)
					if err != nil {
						return err
					}
					if i == 0 {
						wg.Go(func() { done(nil) })
					} else {
						go func() {
							time.Sleep(time.Duration(i) * 10 * ms) // the second with the timeout
							done(nil)
						}()
					}
				}
				wg.Wait()
				return nil
			})
			parallel(30, func(i int) {
				if i%2 == 0 {
					_ = r.call("x")
				} else {
					_, _ = r.Submit(r.ctx, sluice.Request{Tool: "x"}).Wait(t.Context())
				}
			})
			r.end()
		})
	}
}

// The end of a stream whose call was answered while the tool's code ran leaves nothing behind,
// also if a sink that is told of it ends the goroutine.
func TestHold_ExitingSinkAfterAnEarlyAnswerLeavesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		open := make(chan struct{})
		early := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				go next(ctx, c)
				<-open
				return sluice.Result{}, nil
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), early), Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if e.Kind == sluice.ToolCompleted {
				runtime.Goexit()
			}
			return nil
		})})
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
			err := streams(t, 2*time.Second, nil)(ctx)
			close(open)
			time.Sleep(time.Second)
			return err
		})
		require.NoError(t, r.call("x"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		require.NoError(t, r.Close(ctx))
		assert.Equal(t, 2*time.Second, r.at(), "closed when the stream ended")
		r.end()
	})
}

// slowAt is a context that is slow to say, at some instant, whether it has ended.
type slowAt struct {
	context.Context
	at time.Time
}

func (c *slowAt) Err() error {
	if time.Now().Equal(c.at) {
		time.Sleep(5 * ms)
	}
	return c.Context.Err()
}

// longAsked is an error that takes half a second to say what it is.
type longAsked struct{ error }

func (longAsked) Is(error) bool { time.Sleep(500 * ms); return false }

// Close waits for an attempt that a stream holds open also if its code returns between the end of
// its time and the moment at which its caller goes on without it.
func TestHold_CloseWaitsForWhoReturnsAsItsTimeIsOver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Timeout: 10 * ms})
		ctx := &slowAt{r.ctx, time.Now().Add(10 * ms)} // when its caller is about to go on
		r.tool(sluice.Spec{Name: "x"}, func(inner context.Context) error {
			_, done, err := sluice.Hold(inner)
			assert.NoError(t, err)
			go func() {
				time.Sleep(9 * ms)
				done(longAsked{errTool})
			}()
			time.Sleep(12 * ms)
			return nil
		})
		_, err := r.Invoke(ctx, sluice.Request{Tool: "x"})
		require.ErrorIs(t, err, sluice.ErrTimeout)
		require.Equal(t, 15*ms, r.at())
		require.Equal(t, 1, r.Snapshot().Abandoned)
		require.NoError(t, r.Close(t.Context()))
		s := r.Snapshot()
		assert.Zero(t, s.Abandoned, "calls are left after Close")
		assert.Zero(t, s.InFlight, "slots are held after Close")
		assert.GreaterOrEqual(t, r.at(), 509*ms)
		time.Sleep(time.Minute)
	})
}

// An attempt that nobody waits for ends at the moment at which the stream ends that another attempt has
// answered: the call ends once, and Close waits for both.
func TestHold_EndsAsAnotherAttemptDoes(t *testing.T) {
	hedge := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			go next(ctx, c)
			time.Sleep(time.Second)
			return next(ctx, c)
		}
	})
	for range rounds(100) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(hedge, atMost(2))})
			var attempts atomic.Int64
			r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
				if attempts.Add(1) == 1 {
					time.Sleep(10 * time.Second)
					return nil
				}
				return streams(t, 9*time.Second, nil)(ctx)
			})
			require.NoError(t, r.call("x"))
			assert.Equal(t, time.Second, r.at(), "answered after")
			assert.Equal(t, 2, r.Snapshot().InFlight)
			require.NoError(t, r.Close(t.Context()))
			assert.Equal(t, 10*time.Second, r.at(), "closed after")
			assert.Equal(t, sluice.ToolCompleted, r.terminal("x").Kind)
			r.end()
		})
	}
}
