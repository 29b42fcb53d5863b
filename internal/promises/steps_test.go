package promises_test

import (
	"context"
	"encoding/json"
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

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// steps makes functions a Stepper.
type steps struct {
	before, after func(ctx context.Context, s *sluice.Step)
}

func (x *steps) Steps(sluice.Spec) sluice.Steps {
	return sluice.Steps{Before: x.before, After: x.after}
}

func (x *steps) Wrap(s sluice.Spec, next sluice.Handler) sluice.Handler {
	return x.Steps(s).Wrap(next)
}

// plainly passes calls on, and is no Stepper: whoever has one in the list goes through Wrap.
func plainly() sluice.Interceptor {
	return sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) { return next(ctx, c) }
	})
}

// comings are how a call can come to steps.
var comings = []struct {
	name            string
	submit          bool
	outside, inside bool // a plain interceptor stands there
	within          bool // one stands inside the gates
}{
	{name: "Invoke"},
	{name: "Submit", submit: true},
	{name: "Invoke through Wrap", outside: true},
	{name: "Submit through Wrap", submit: true, inside: true},
	{name: "Invoke with one inside", within: true},
	{name: "Submit with one inside", submit: true, within: true},
}

// eachWay runs f in a bubble for each way: do runs a call as it says, with the steps before the gates.
func eachWay(t *testing.T, f func(t *testing.T, r *rig, do func(ctx context.Context, tool string) (sluice.Result, error)), list []sluice.Interceptor, gates ...sluice.Interceptor) {
	t.Helper()
	for _, w := range comings {
		t.Run(w.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var all []sluice.Interceptor
				if w.outside {
					all = append(all, plainly())
				}
				all = append(all, list...)
				if w.inside {
					all = append(all, plainly())
				}
				all = append(all, gates...)
				if w.within {
					all = append(all, plainly())
				}
				r := newRig(t, sluice.Config{Interceptors: all})
				f(t, r, func(ctx context.Context, tool string) (sluice.Result, error) {
					if w.submit {
						return r.Submit(ctx, sluice.Request{Tool: tool}).Wait(context.Background())
					}
					return r.Invoke(ctx, sluice.Request{Tool: tool})
				})
				r.end()
			})
		})
	}
}

// Steps go in from the outermost to the innermost, and out again; each has its own state, and one that answers
// on the way in keeps all further in from running, and has no step on the way out.
func TestSteps_Order(t *testing.T) {
	var log []string
	layer := func(name string, answers func() bool) *steps {
		return &steps{
			before: func(_ context.Context, s *sluice.Step) {
				assert.Nil(t, s.State)
				s.State = name
				log = append(log, "in "+name)
				if answers() {
					s.Answer(sluice.Result{Value: json.RawMessage(`"` + name + `"`)}, nil)
				}
			},
			after: func(_ context.Context, s *sluice.Step) {
				assert.Equal(t, name, s.State)
				log = append(log, fmt.Sprintf("out %s %s", name, s.Result.Value))
			},
		}
	}
	answers := false
	no := func() bool { return false }
	list := []sluice.Interceptor{layer("a", no), layer("b", func() bool { return answers }), layer("c", no)}
	eachWay(t, func(t *testing.T, r *rig, do func(context.Context, string) (sluice.Result, error)) {
		rawResult(r, "x", func(context.Context) (json.RawMessage, error) {
			log = append(log, "tool")
			return json.RawMessage(`1`), nil
		})
		log, answers = nil, false
		res, err := do(r.ctx, "x")
		require.NoError(t, err)
		require.Equal(t, json.RawMessage(`1`), res.Value)
		require.Equal(t, "in a, in b, in c, tool, out c 1, out b 1, out a 1", strings.Join(log, ", "))
		log, answers = nil, true
		res, err = do(r.ctx, "x")
		require.NoError(t, err)
		require.Equal(t, json.RawMessage(`"b"`), res.Value)
		require.Equal(t, `in a, in b, out a "b"`, strings.Join(log, ", "))
	}, list)
}

func rawResult(r *rig, name string, f func(ctx context.Context) (json.RawMessage, error)) {
	r.t.Helper()
	_, err := sluice.Register(r.reg, sluice.Spec{Name: name}, func(ctx context.Context, _ json.RawMessage) (json.RawMessage, error) { return f(ctx) })
	require.NoError(r.t, err)
}

// A call that is made again waits so long, holds nothing meanwhile, tells the retry before its wait, and
// sees what each attempt was.
func TestSteps_Again(t *testing.T) {
	var seen []sluice.Attempt
	retry := &steps{after: func(_ context.Context, s *sluice.Step) {
		if s.Call().Tool != "x" {
			return
		}
		if seen = append(seen, s.Attempt()); s.Err != nil {
			s.Again(time.Duration(len(seen)) * time.Second)
		}
	}}
	down := errors.New("down")
	eachWay(t, func(t *testing.T, r *rig, do func(context.Context, string) (sluice.Result, error)) {
		runs := 0
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error {
			time.Sleep(ms)
			if runs++; runs <= 2 {
				return down
			}
			return nil
		})
		r.tool(sluice.Spec{Name: "y"}, func(context.Context) error { return nil })
		seen = nil
		time.AfterFunc(500*ms, func() {
			assert.NoError(t, r.call("y"), "the slot is free in the wait")
		})
		_, err := do(r.ctx, "x")
		require.NoError(t, err)
		require.Equal(t, 3*time.Second+3*ms, r.at())
		require.Equal(t, []sluice.Attempt{
			{N: 1, Ran: true, Outcome: sluice.OutcomeFailure},
			{N: 2, Ran: true, Outcome: sluice.OutcomeFailure},
			{N: 3, Ran: true, Outcome: sluice.OutcomeSuccess},
		}, seen)
		var retries []string
		for _, e := range r.rec.Events() {
			if e.Kind == sluice.ToolRetrying {
				retries = append(retries, fmt.Sprint(e.Time.Sub(r.start), e.Call.Attempt, e.RetryAfter, e.Err))
			}
		}
		require.Equal(t, []string{"1ms 1 1s down", "1.002s 2 2s down"}, retries)
	}, []sluice.Interceptor{retry}, atMost(1))
}

// The end of a call's context ends its rest between attempts: the step on the way out has a refusal of no
// attempt, and cannot have the call made again.
func TestSteps_ContextEndsTheRest(t *testing.T) {
	var seen []string
	cause := errors.New("the caller left")
	retry := &steps{after: func(ctx context.Context, s *sluice.Step) {
		seen = append(seen, fmt.Sprint(s.Attempt().N, errors.Is(s.Err, sluice.ErrRejected), errors.Is(s.Err, cause), ctx.Err() != nil))
		s.Again(time.Hour)
	}}
	eachWay(t, func(t *testing.T, r *rig, do func(context.Context, string) (sluice.Result, error)) {
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return errors.New("down") })
		ctx, cancel := context.WithCancelCause(r.ctx)
		seen = nil
		time.AfterFunc(time.Second, func() { cancel(cause) })
		_, err := do(ctx, "x")
		require.ErrorIs(t, err, cause)
		require.NotErrorIs(t, err, sluice.ErrRejected, "its code has run")
		require.Equal(t, time.Second, r.at())
		require.Equal(t, []string{"1 false false false", "0 true true true"}, seen)
	}, []sluice.Interceptor{retry})
}

// Close ends a rest: the next attempt is refused.
func TestSteps_CloseEndsTheRest(t *testing.T) {
	down := errors.New("down")
	retry := &steps{after: func(_ context.Context, s *sluice.Step) {
		if s.Err != nil && errors.Is(s.Err, down) {
			s.Again(time.Hour)
		}
	}}
	eachWay(t, func(t *testing.T, r *rig, do func(context.Context, string) (sluice.Result, error)) {
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return down })
		done := make(chan error, 1)
		go func() {
			_, err := do(r.ctx, "x")
			done <- err
		}()
		time.Sleep(time.Second)
		require.NoError(t, r.Close(context.Background()))
		require.Equal(t, time.Second, r.at())
		err := <-done
		require.ErrorIs(t, err, sluice.ErrClosed)
		require.NotErrorIs(t, err, sluice.ErrRejected, "its code has run once")
	}, []sluice.Interceptor{retry})
}

// What a step has left a call further in bounds the queue, the run and the rest there, and nothing further
// out; the step finds that out.
func TestSteps_Within(t *testing.T) {
	cause := errors.New("too slow")
	var over []bool
	var left []time.Duration
	outer := &steps{after: func(ctx context.Context, s *sluice.Step) {
		_, bounded := s.Deadline(context.Background())
		over = append(over, s.IsOver(), bounded)
	}}
	total := &steps{
		before: func(_ context.Context, s *sluice.Step) { s.Within(time.Second, cause) },
		after:  func(_ context.Context, s *sluice.Step) { over = append(over, s.IsOver()) },
	}
	inner := &steps{
		before: func(ctx context.Context, s *sluice.Step) {
			at, ok := s.Deadline(ctx)
			assert.True(t, ok)
			left = append(left, time.Until(at))
		},
		after: func(_ context.Context, s *sluice.Step) {
			over = append(over, s.IsOver())
			if s.Err != nil {
				s.Again(700 * ms)
			}
		},
	}
	eachWay(t, func(t *testing.T, r *rig, do func(context.Context, string) (sluice.Result, error)) {
		r.tool(sluice.Spec{Name: "slow"}, func(ctx context.Context) error {
			<-ctx.Done()
			time.Sleep(ms)
			return context.Cause(ctx)
		})
		r.tool(sluice.Spec{Name: "quick"}, func(ctx context.Context) error { return nil })
		r.tool(sluice.Spec{Name: "fails"}, func(ctx context.Context) error { return errors.New("down") })

		over, left = nil, nil
		_, err := do(r.ctx, "quick")
		require.NoError(t, err)
		require.Equal(t, []bool{false, false, false, false}, over)
		require.Equal(t, []time.Duration{time.Second}, left)

		over, left = nil, nil
		from := r.at()
		_, err = do(r.ctx, "slow")
		require.ErrorIs(t, err, cause)
		require.Equal(t, time.Second, r.at()-from)
		require.Equal(t, []bool{false, true, false, false}, over, "the call cannot be made again then")
		time.Sleep(ms)

		over, left = nil, nil
		from = r.at()
		_, err = do(r.ctx, "fails")
		require.ErrorIs(t, err, cause)
		require.ErrorIs(t, err, sluice.ErrWaitTooLong)
		require.Equal(t, time.Second, r.at()-from)
	}, []sluice.Interceptor{outer, total, inner})
}

// A Handler that a step has take over may wait, in as many calls at once as there are, refused ones too, and
// its nested calls are the call's.
func TestSteps_Instead(t *testing.T) {
	const calls = 200
	down := errors.New("down")
	instead := &steps{after: func(_ context.Context, s *sluice.Step) {
		if s.Err == nil {
			return
		}
		a := s.Attempt()
		s.Instead(func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			assert.Equal(t, int32(1), c.Attempt)
			assert.Equal(t, 1, a.N)
			time.Sleep(time.Second)
			return c.Invoke(ctx, sluice.Request{Tool: "other"})
		})
	}}
	eachWay(t, func(t *testing.T, r *rig, do func(context.Context, string) (sluice.Result, error)) {
		r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Concurrency: 1, MaxWait: sluice.NoWait}}, func(context.Context) error { return down })
		rawResult(r, "other", func(ctx context.Context) (json.RawMessage, error) { return json.RawMessage(`"other"`), nil })
		parallel(calls, func(int) {
			res, err := do(r.ctx, "x")
			assert.NoError(t, err)
			assert.Equal(t, json.RawMessage(`"other"`), res.Value)
		})
		require.Equal(t, time.Second, r.at())
		parents := 0
		for _, e := range r.rec.Events() {
			if e.Kind == sluice.ToolCompleted && e.Call.Tool == "other" && e.ParentKey != 0 {
				parents++
			}
		}
		require.Equal(t, calls, parents)
	}, []sluice.Interceptor{instead})
}

// A Call that a Handler keeps is of no use once the call is over.
func TestSteps_KeptCall(t *testing.T) {
	var kept sluice.Call
	instead := &steps{after: func(_ context.Context, s *sluice.Step) {
		s.Instead(func(_ context.Context, c sluice.Call) (sluice.Result, error) {
			kept = c
			return sluice.Result{Value: json.RawMessage(`1`)}, nil
		})
	}}
	eachWay(t, func(t *testing.T, r *rig, do func(context.Context, string) (sluice.Result, error)) {
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
		_, err := do(r.ctx, "x")
		require.NoError(t, err)
		old := kept
		_, err = do(r.ctx, "x")
		require.NoError(t, err)
		require.False(t, old.Go(func() { t.Error("it ran") }))
		_, err = old.Invoke(r.ctx, sluice.Request{Tool: "x"})
		require.ErrorIs(t, err, sluice.ErrRejected)
		require.NotEqual(t, old.ID, kept.ID)
	}, []sluice.Interceptor{instead})
}

// What a kept Call says of its time stays true, whoever has kept it: a Handler, or an interceptor inside.
func TestSteps_KeptDeadline(t *testing.T) {
	var kept []sluice.Call
	left := time.Minute
	list := []sluice.Interceptor{&steps{
		before: func(_ context.Context, s *sluice.Step) { s.Within(left, errors.New("over")) },
	}, &steps{after: func(_ context.Context, s *sluice.Step) {
		s.Instead(func(_ context.Context, c sluice.Call) (sluice.Result, error) {
			kept = append(kept, c)
			return sluice.Result{}, nil
		})
	}}}
	inside := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			kept = append(kept, c)
			return next(ctx, c)
		}
	})
	for _, gates := range [][]sluice.Interceptor{nil, {atMost(1), inside}} {
		eachWay(t, func(t *testing.T, r *rig, do func(context.Context, string) (sluice.Result, error)) {
			r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
			kept, left = nil, time.Minute
			_, err := do(r.ctx, "x")
			require.NoError(t, err)
			first := kept
			for range 3 {
				left += time.Minute
				_, err = do(r.ctx, "x")
				require.NoError(t, err)
			}
			for _, c := range first {
				at, ok := c.Deadline(context.Background())
				require.True(t, ok)
				require.Equal(t, time.Minute, at.Sub(r.start))
			}
		}, list, gates...)
	}
}

// Code that panics is an outcome like others to steps. A step that panics ends the call, and so does one
// that calls Goexit, wherever it runs.
func TestSteps_Break(t *testing.T) {
	type place struct{ before, after func() }
	exits := func() { runtime.Goexit() }
	panics := func() { panic("step") }
	var at place
	var outcome error
	outer := &steps{after: func(_ context.Context, s *sluice.Step) { outcome = s.Err }}
	breaks := &steps{
		before: func(context.Context, *sluice.Step) {
			if at.before != nil {
				at.before()
			}
		},
		after: func(context.Context, *sluice.Step) {
			if at.after != nil {
				at.after()
			}
		},
	}
	for name, p := range map[string]struct {
		place
		goexit, ran bool
	}{
		"panic before":  {place{before: panics}, false, false},
		"panic after":   {place{after: panics}, false, true},
		"goexit before": {place{before: exits}, true, false},
		"goexit after":  {place{after: exits}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			eachWay(t, func(t *testing.T, r *rig, do func(context.Context, string) (sluice.Result, error)) {
				runs := 0
				r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { runs++; return nil })
				var err error
				at = p.place
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, err = do(r.ctx, "x")
				}()
				<-done
				at = place{}
				_, again := do(r.ctx, "x")
				require.NoError(t, again)
				if n := 1; p.ran {
					require.Equal(t, n+1, runs)
				} else {
					require.Equal(t, n, runs)
				}
				var panicked *sluice.PanicError
				for _, e := range r.rec.Events() {
					if e.Seq > 1 && e.Err != nil {
						require.ErrorAs(t, e.Err, &panicked)
						require.Equal(t, p.goexit, panicked.Goexit)
						require.Equal(t, !p.ran, errors.Is(e.Err, sluice.ErrRejected))
					}
				}
				require.NotNil(t, panicked)
				if err != nil { // else the goroutine of Invoke has ended
					require.ErrorAs(t, err, &panicked)
				}
			}, []sluice.Interceptor{outer, breaks})
		})
	}
	t.Run("the tool panics", func(t *testing.T) {
		eachWay(t, func(t *testing.T, r *rig, do func(context.Context, string) (sluice.Result, error)) {
			at, outcome = place{}, nil
			r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { panic("tool") })
			_, err := do(r.ctx, "x")
			var panicked *sluice.PanicError
			require.ErrorAs(t, err, &panicked)
			require.Equal(t, "tool", panicked.Value)
			require.Equal(t, err, outcome)
		}, []sluice.Interceptor{outer, breaks})
	})
	t.Run("the tool calls Goexit", func(t *testing.T) {
		eachWay(t, func(t *testing.T, r *rig, do func(context.Context, string) (sluice.Result, error)) {
			at = place{}
			r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { runtime.Goexit(); return nil })
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = do(r.ctx, "x")
			}()
			<-done
			require.Equal(t, "x: invoked started failed", r.rec.Trace())
		}, []sluice.Interceptor{outer, breaks})
	})
}

// A success that a step makes a failure is one of a tool that has run, and a failure that it makes a success
// has a result.
func TestSteps_ChangeOutcomes(t *testing.T) {
	bad := errors.New("bad")
	turn := &steps{after: func(_ context.Context, s *sluice.Step) {
		if s.Err == nil {
			s.Result, s.Err = sluice.Result{}, bad
		} else {
			s.Result, s.Err = sluice.Result{Value: json.RawMessage(`"fine"`)}, nil
		}
	}}
	eachWay(t, func(t *testing.T, r *rig, do func(context.Context, string) (sluice.Result, error)) {
		r.tool(sluice.Spec{Name: "works"}, func(context.Context) error { return nil })
		r.tool(sluice.Spec{Name: "fails"}, func(context.Context) error { return errors.New("down") })
		_, err := do(r.ctx, "works")
		require.Equal(t, bad, err)
		res, err := do(r.ctx, "fails")
		require.NoError(t, err)
		require.Equal(t, json.RawMessage(`"fine"`), res.Value)
		require.Equal(t, "works: invoked started failed; fails: invoked started completed", r.rec.Trace())
	}, []sluice.Interceptor{turn})
}

// A result says who has given it instead of the tool, whatever else there is to say of the call.
func TestSteps_AnsweredBy(t *testing.T) {
	answer := func() sluice.Result { return sluice.Result{Value: json.RawMessage(`1`)}.By("almanac") }
	list := []sluice.Interceptor{&steps{
		before: func(_ context.Context, s *sluice.Step) {
			if s.Call().Tool == "cached" {
				s.Answer(answer(), nil)
			}
		},
		after: func(_ context.Context, s *sluice.Step) {
			if s.Err != nil && s.Call().Tool == "fails" {
				s.Instead(func(context.Context, sluice.Call) (sluice.Result, error) { return answer(), nil })
			}
		},
	}}
	eachWay(t, func(t *testing.T, r *rig, do func(context.Context, string) (sluice.Result, error)) {
		r.tool(sluice.Spec{Name: "cached"}, func(context.Context) error { return nil })
		r.tool(sluice.Spec{Name: "works"}, func(context.Context) error { return nil })
		r.tool(sluice.Spec{Name: "fails"}, func(ctx context.Context) error {
			sluice.ReportPartial(ctx, "half")
			time.Sleep(ms)
			return errors.New("down")
		})
		for tool, want := range map[string]string{"cached": "almanac", "works": "", "fails": "almanac"} {
			res, err := do(r.ctx, tool)
			require.NoError(t, err)
			require.Equal(t, want, res.AnsweredBy(), tool)
			require.Nil(t, res.Partial())
		}
		parallel(2, func(int) { // one waits, of which there is more to say
			res, err := do(r.ctx, "fails")
			assert.NoError(t, err)
			assert.Equal(t, "almanac", res.AnsweredBy())
		})
	}, list, atMost(1))
}

// A refusal is an outcome with an attempt that has not run.
func TestSteps_Refusals(t *testing.T) {
	var seen []sluice.Attempt
	answers := false
	look := &steps{after: func(_ context.Context, s *sluice.Step) {
		if seen = append(seen, s.Attempt()); answers {
			s.Answer(sluice.Result{Value: json.RawMessage(`1`)}, nil)
		}
	}}
	b := breakerOf(sluice.CircuitBreakerConfig{Cooldown: time.Minute})
	eachWay(t, func(t *testing.T, r *rig, do func(context.Context, string) (sluice.Result, error)) {
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
		seen = nil
		require.NoError(t, b.Trip("x"))
		_, err := do(r.ctx, "x")
		require.ErrorIs(t, err, sluice.ErrBreakerOpen)
		require.Equal(t, []sluice.Attempt{{N: 1, Outcome: sluice.OutcomeNeutral}}, seen)
		require.Equal(t, "x: invoked failed", r.rec.Trace())
		answers = true
		res, err := do(r.ctx, "x")
		require.NoError(t, err)
		require.Equal(t, json.RawMessage(`1`), res.Value)
		answers = false
		require.NoError(t, b.Reset("x"))
	}, []sluice.Interceptor{look}, b)
}

// Whichever of its time, its context and Close comes first ends a rest, also if they come together, and
// the call goes on once.
func TestSteps_RestEndsOnce(t *testing.T) {
	for _, w := range comings[:2] {
		for who := range 8 {
			t.Run(fmt.Sprint(w.name, who), func(t *testing.T) {
				for range 200 {
					bubble(t, func(t *testing.T) {
						var ends atomic.Int64
						retry := &steps{after: func(ctx context.Context, s *sluice.Step) {
							if s.Attempt().N == 1 {
								s.Again(time.Second)
							} else {
								ends.Add(1)
							}
						}}
						r := newRig(t, sluice.Config{Interceptors: interceptors(retry)})
						r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return errors.New("down") })
						ctx, cancel := context.WithCancel(r.ctx)
						defer cancel()
						done := make(chan struct{})
						go func() {
							defer close(done)
							if w.submit {
								_, _ = r.Submit(ctx, sluice.Request{Tool: "x"}).Wait(context.Background())
							} else {
								_, _ = r.Invoke(ctx, sluice.Request{Tool: "x"})
							}
						}()
						if who&1 != 0 {
							time.AfterFunc(time.Second, cancel)
						}
						if who&2 != 0 {
							time.AfterFunc(time.Second, func() { assert.NoError(t, r.Close(context.Background())) })
						}
						<-done
						require.Equal(t, time.Second, r.at())
						require.Equal(t, int64(1), ends.Load())
						if who&4 != 0 {
							cancel()
						}
						r.end()
					})
				}
			})
		}
	}
}

// An executor that closes while the retry is told, before the rest, ends that at once.
func TestSteps_CloseBeforeTheRest(t *testing.T) {
	for _, w := range comings[:2] {
		t.Run(w.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var r *rig
				retry := &steps{after: func(_ context.Context, s *sluice.Step) {
					if s.Attempt().N == 1 {
						s.Again(time.Hour)
					}
				}}
				closed := make(chan error, 1)
				r = newRig(t, sluice.Config{Interceptors: interceptors(retry), Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
					if e.Kind == sluice.ToolRetrying {
						go func() { closed <- r.Close(context.Background()) }()
						time.Sleep(ms)
					}
					return nil
				})})
				r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return errors.New("down") })
				var err error
				if w.submit {
					_, err = r.Submit(r.ctx, sluice.Request{Tool: "x"}).Wait(context.Background())
				} else {
					_, err = r.Invoke(r.ctx, sluice.Request{Tool: "x"})
				}
				require.ErrorIs(t, err, sluice.ErrClosed)
				require.Equal(t, ms, r.at())
				require.NoError(t, <-closed)
				r.end()
			})
		})
	}
}

// A stream of an attempt that has been made again goes on beside later ones, and all that they held goes back.
func TestSteps_StreamsOfEarlierAttempts(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for _, w := range comings {
		t.Run(w.name, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 2))
			retry := &steps{after: func(_ context.Context, s *sluice.Step) {
				if n := s.Attempt().N; n > 0 && n < 4 {
					s.Again(time.Duration(n))
				}
			}}
			list := interceptors(retry)
			if w.outside {
				list = append(list, plainly())
			}
			list = append(list, atMost(3))
			if w.within {
				list = append(list, plainly())
			}
			r := newRig(t, sluice.Config{Interceptors: list})
			r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
				_, done, err := sluice.Hold(ctx)
				if err != nil {
					return err
				}
				go func() {
					runtime.Gosched()
					done(nil)
				}()
				return nil
			})
			waits := make([]int, 200)
			for i := range waits {
				waits[i] = rnd.IntN(3)
			}
			parallel(len(waits), func(i int) {
				for range waits[i] {
					runtime.Gosched()
				}
				var err error
				if w.submit {
					_, err = r.Submit(r.ctx, sluice.Request{Tool: "x"}).Wait(context.Background())
				} else {
					_, err = r.Invoke(r.ctx, sluice.Request{Tool: "x"})
				}
				assert.NoError(t, err)
			})
			r.end()
		})
	}
}

// Submitted calls that rest have no goroutine, however many they are, and end where the executor does.
func TestSteps_RestWithoutGoroutine(t *testing.T) {
	const calls = 10_000
	bubble(t, func(t *testing.T) {
		retry := &steps{after: func(_ context.Context, s *sluice.Step) {
			if s.Attempt().N == 1 {
				s.Again(time.Minute)
			}
		}}
		r := newRig(t, sluice.Config{Interceptors: interceptors(retry)})
		var runs atomic.Int64
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error {
			if runs.Add(1) <= calls {
				return errors.New("down")
			}
			return nil
		})
		futures := make([]*sluice.Future, calls)
		for i := range futures {
			futures[i] = r.Submit(r.ctx, sluice.Request{Tool: "x"})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, int64(calls), runs.Load())
		require.Less(t, runtime.NumGoroutine(), 50)
		for _, f := range futures {
			_, err := f.Wait(context.Background())
			require.NoError(t, err)
		}
		require.Equal(t, time.Minute, r.at())
		r.end()
	})
}

// script says what a layer does the n-th time that it is asked, for the scripted test.
type script struct {
	before, after []int
}

// scripted is a call by scripts.
type scripted struct {
	seed     uint64
	layers   int
	scripts  []script
	tool     []int
	cancel   time.Duration
	others   []time.Duration // another call takes the slot then, for half a second
	classify bool
	silent   bool // there is no sink
}

func newScripted(seed uint64) *scripted {
	rnd := rand.New(rand.NewPCG(seed, 1))
	x := &scripted{seed: seed, layers: 1 + rnd.IntN(3)}
	some := func(n, kinds int) (list []int) {
		for range n {
			list = append(list, rnd.IntN(kinds))
		}
		return list
	}
	for range x.layers {
		x.scripts = append(x.scripts, script{some(4, 8), some(8, 8)})
	}
	if x.tool = some(10, 6); rnd.IntN(3) == 0 {
		x.cancel = time.Duration(1+rnd.IntN(30)) * 100 * ms
	}
	if rnd.IntN(2) == 0 {
		for i := range 3 { // at no instant at which something else may happen
			x.others = append(x.others, time.Duration(rnd.IntN(15))*250*ms+time.Duration(13+17*i)*time.Microsecond)
		}
	}
	x.classify, x.silent = rnd.IntN(2) == 0, rnd.IntN(2) == 0
	return x
}

var errScript = errors.New("script")

func (x *scripted) layer(t *testing.T, name int, log func(string, ...any)) *steps {
	in, out := 0, 0
	next := func(list []int, i *int) int {
		if *i >= len(list) {
			return 0
		}
		*i++
		return list[*i-1]
	}
	answer := func(context.Context, sluice.Call) (sluice.Result, error) {
		time.Sleep(50 * ms)
		return sluice.Result{Value: json.RawMessage(fmt.Sprint(name))}, nil
	}
	return &steps{
		before: func(_ context.Context, s *sluice.Step) {
			if s.Call().Tool != "x" {
				return
			}
			s.State = in
			switch log("in %d", name); next(x.scripts[name].before, &in) {
			case 1:
				s.Answer(sluice.Result{Value: json.RawMessage(fmt.Sprint(name))}, nil)
			case 2:
				s.Answer(sluice.Result{}, errScript)
			case 3:
				s.Instead(answer)
			case 4, 5:
				s.Within(time.Second+time.Duration(name), fmt.Errorf("within %d", name))
			}
		},
		after: func(ctx context.Context, s *sluice.Step) {
			if s.Call().Tool != "x" {
				return
			}
			log("out %d state %v attempt %+v over %v err %v value %s", name, s.State, s.Attempt(), s.IsOver(), s.Err, s.Result.Value)
			switch next(x.scripts[name].after, &out) {
			case 1, 2:
				if s.Err != nil || out%2 == 0 {
					s.Again(time.Duration(200+100*name) * ms)
				}
			case 3:
				s.Again(0)
			case 4:
				s.Answer(sluice.Result{Value: json.RawMessage(`"answer"`)}, nil)
			case 5:
				s.Err = fmt.Errorf("layer %d: %w", name, errScript)
			case 6:
				s.Instead(answer)
			}
		},
	}
}

// run is what becomes of x one way.
func (x *scripted) run(t *testing.T, way int) (trace string) {
	w := comings[way]
	bubble(t, func(t *testing.T) {
		var list []sluice.Interceptor
		var mu sync.Mutex // code that nobody waits for any more goes on
		var lines []string
		var start time.Time
		log := func(f string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, fmt.Sprint(time.Since(start), " ", fmt.Sprintf(f, args...)))
		}
		if w.outside {
			list = append(list, plainly())
		}
		for i := range x.layers {
			list = append(list, x.layer(t, i, log))
		}
		if w.inside {
			list = append(list, plainly())
		}
		list = append(list, atMost(1))
		if w.within {
			list = append(list, plainly())
		}
		r := newRig(t, sluice.Config{Interceptors: list, MaxWait: 100 * ms})
		start = r.start
		var runs atomic.Int64
		p := sluice.Policy{}
		if x.classify {
			p.Classify = func(_ sluice.Call, _ sluice.Result, err error) sluice.Outcome {
				if n := int(runs.Load()); err == nil && n <= len(x.tool) && x.tool[n-1] == 5 {
					return sluice.OutcomeFailure
				}
				return sluice.OutcomeAuto
			}
		}
		took := 0
		r.tool(sluice.Spec{Name: "other"}, func(context.Context) error {
			took++
			time.Sleep(500*ms + time.Duration(took)*time.Nanosecond)
			return nil
		})
		other := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{})
		for _, at := range x.others {
			time.AfterFunc(at, func() { _, _ = r.Invoke(other, sluice.Request{Tool: "other"}) })
		}
		if len(x.others) > 0 {
			time.Sleep(100 * time.Microsecond)
		}
		r.tool(sluice.Spec{Name: "x", Policy: p}, func(ctx context.Context) error {
			log("tool")
			n := int(runs.Add(1))
			if n > len(x.tool) {
				return nil
			}
			switch x.tool[n-1] {
			case 1:
				return errScript
			case 2:
				panic("script")
			case 3:
				time.Sleep(300*ms + 3*time.Nanosecond)
			case 4:
				time.Sleep(2 * time.Second)
				return context.Cause(ctx)
			}
			return nil
		})
		ctx, cancel := context.WithCancel(r.ctx)
		if x.silent {
			ctx, cancel = context.WithCancel(context.Background())
		}
		defer cancel()
		if x.cancel > 0 {
			time.AfterFunc(x.cancel+7*time.Microsecond, cancel)
		}
		var res sluice.Result
		var err error
		if w.submit {
			res, err = r.Submit(ctx, sluice.Request{Tool: "x"}).Wait(context.Background())
		} else {
			res, err = r.Invoke(ctx, sluice.Request{Tool: "x"})
		}
		log("end %s %v rejected %v attempts %d", res.Value, err, errors.Is(err, sluice.ErrRejected), res.Decision().Attempts)
		time.Sleep(10 * time.Second)
		for _, e := range r.rec.Events() {
			log("event %s at %v attempt %d err %v after %v queued %v ran %v", e.Kind, e.Elapsed, e.Call.Attempt, e.Err, e.RetryAfter, e.Queued, e.Duration)
		}
		r.end()
		trace = strings.Join(lines, "\n")
	})
	return trace
}

// Who keeps the context of an attempt that is over has that of a call that is, as far as it knows, whatever
// becomes of the call: Close is no matter of the call's own.
func TestSteps_KeptContext(t *testing.T) {
	var kept context.Context
	retry := &steps{after: func(_ context.Context, s *sluice.Step) {
		if s.Attempt().N == 1 {
			s.Again(time.Second)
		}
	}}
	eachWay(t, func(t *testing.T, r *rig, do func(context.Context, string) (sluice.Result, error)) {
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error { kept = ctx; return nil })
		done := make(chan error, 1)
		go func() {
			_, err := do(r.ctx, "x")
			done <- err
		}()
		time.Sleep(500 * ms)
		synctest.Wait()
		require.NoError(t, r.Close(kept))
		err := <-done
		require.ErrorIs(t, err, sluice.ErrClosed)
		require.NotErrorIs(t, err, sluice.ErrRejected, "its code has run")
		require.Equal(t, 500*ms, r.at())
	}, []sluice.Interceptor{retry})
}

// Whatever layers do, a call becomes the same however it comes to them: invoked or submitted, step by step or
// through Wrap.
func TestSteps_AllWaysAreOne(t *testing.T) {
	n := 400
	if underRace || testing.Short() {
		n = 60
	}
	first := rand.Uint64()
	for i := range n {
		x := newScripted(first + uint64(i))
		want := x.run(t, 0)
		for way := 1; way < len(comings); way++ {
			require.Equal(t, want, x.run(t, way), "seed %d, %s beside %s", x.seed, comings[way].name, comings[0].name)
		}
	}
}

// Many calls at once, each made again, cancelled and answered at random instants that often coincide, by
// Invoke and by Submit, while the executor may close: each has one outcome and one end, and nothing is left.
func TestStorm_Steps(t *testing.T) {
	rounds := 60
	if underRace || testing.Short() {
		rounds = 12
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range rounds {
		bubble(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, uint64(round)))
			var asked atomic.Uint64
			asked.Store(rnd.Uint64())
			chance := func() uint64 { return asked.Add(0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9 >> 60 } // one of sixteen
			layer := func() *steps {
				return &steps{
					before: func(_ context.Context, s *sluice.Step) {
						if c := chance(); c == 0 {
							s.Answer(sluice.Result{}, errScript)
						} else if c < 3 {
							s.Within(time.Duration(c)*3*ms, errScript)
						}
					},
					after: func(_ context.Context, s *sluice.Step) {
						switch c := chance(); {
						case s.Err != nil && c < 10:
							s.Again(time.Duration(c%4) * ms)
						case c == 10:
							s.Instead(func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
								time.Sleep(ms)
								return sluice.Result{}, ctx.Err()
							})
						}
					},
				}
			}
			list := interceptors(layer(), layer())
			if round%3 == 0 {
				list = append(list, plainly())
			}
			list = append(list, atMost(3), breakerOf(sluice.CircuitBreakerConfig{Failures: 5, Cooldown: 2 * ms}))
			if round%4 == 0 {
				list = append(list, plainly())
			}
			r := newRig(t, sluice.Config{Interceptors: list, MaxWait: 7 * ms})
			r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
				switch c := chance(); {
				case c < 5:
					return errScript
				case c == 5:
					panic("storm")
				case c < 9:
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(time.Duration(c) * ms):
					}
				case c == 9:
					time.Sleep(5 * ms)
				}
				return nil
			})
			var outcomes atomic.Int64
			const calls = 60
			closes := rnd.IntN(3) == 0
			for i := range calls {
				ctx, cancel := context.WithCancel(r.ctx)
				at, until := time.Duration(rnd.IntN(10))*ms, time.Duration(rnd.IntN(40))*ms
				submit := rnd.IntN(2) == 0
				time.AfterFunc(at+until, cancel)
				go func() {
					time.Sleep(at)
					q := sluice.Request{Tool: "x", ID: fmt.Sprint(i)}
					if submit {
						_, _ = r.Submit(ctx, q).Wait(context.Background())
					} else {
						_, _ = r.Invoke(ctx, q)
					}
					outcomes.Add(1)
				}()
			}
			if closes {
				time.Sleep(12 * ms)
				assert.NoError(t, r.Close(context.Background()))
			}
			time.Sleep(time.Second)
			require.Equal(t, int64(calls), outcomes.Load())
			r.end()
		})
	}
}
