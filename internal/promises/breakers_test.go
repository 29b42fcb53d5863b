package promises_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// remoteRig is an executor with a breaker and the tool "remote": its input says what
// happens: ok, fail, panic, Goexit, hang.
func remoteRig(t *testing.T, b *sluice.CircuitBreaker, c sluice.Config) (*rig, func(how string, takes time.Duration) error, *gauge) {
	t.Helper()
	c.Interceptors = append(c.Interceptors, b)
	r := newRig(t, c)
	g := new(gauge)
	type in struct {
		How   string
		Takes time.Duration
	}
	_, err := sluice.Register(r.reg, sluice.Spec{Name: "remote"}, func(ctx context.Context, i in) (int, error) {
		g.enter()
		defer g.leave()
		time.Sleep(i.Takes)
		switch i.How {
		case "fail":
			return 0, errTool
		case "panic":
			panic("remote")
		case "exit":
			runtime.Goexit()
		case "cancelled":
			<-ctx.Done()
			return 0, context.Cause(ctx)
		}
		return 1, nil
	})
	require.NoError(t, err)
	return r, func(how string, takes time.Duration) error {
		_, err, _ := r.invokeApart(r.ctx, sluice.Request{Tool: "remote", Input: in{how, takes}})
		return err
	}, g
}

func wantState(t *testing.T, b *sluice.CircuitBreaker, key string, want sluice.BreakerState) {
	t.Helper()
	assert.Equal(t, want, sluice.Must(b.State(key)), "the breaker")
}

// Promise 15: a call admitted before a change of state cannot move the state after it.
func TestPromise15_OldResultsMoveNoNewState(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 2, Cooldown: 10 * time.Second, Probes: 1})
		r, call, g := remoteRig(t, b, sluice.Config{})
		defer r.end()
		var wg sync.WaitGroup
		slow := func(how string, takes time.Duration) { wg.Go(func() { _ = call(how, takes) }) }
		for i := range 5 {
			slow("fail", 5*time.Second+time.Duration(i)) // end while it is open
			slow("ok", 6*time.Second)                    // likewise
			slow("ok", 12*time.Second)                   // end while a probe runs
			slow("fail", 13*time.Second)                 // likewise
			slow("fail", 40*time.Second)                 // end after it has closed
		}
		synctest.Wait()
		_, _ = call("fail", time.Second), call("fail", 0)
		wantState(t, b, "remote", sluice.BreakerOpen) // at 1 s
		time.Sleep(9 * time.Second)
		if err := call("ok", 0); !errors.Is(err, sluice.ErrBreakerOpen) || r.at() != 10*time.Second {
			t.Errorf("at %v: %v, want it open until 11s", r.at(), err)
		}
		time.Sleep(time.Second)
		wantState(t, b, "remote", sluice.BreakerHalfOpen)
		probe := make(chan error)
		go func() { probe <- call("ok", 5*time.Second) }() // until 16 s
		synctest.Wait()
		for range 4 {
			time.Sleep(time.Second)
			wantState(t, b, "remote", sluice.BreakerHalfOpen)
			before := g.total.Load()
			err := call("ok", 0)
			require.ErrorIs(t, err, sluice.ErrBreakerOpen, "a second probe beside the first")
			assert.Equal(t, before, g.total.Load(), "a second probe beside the first")
		}
		require.NoError(t, <-probe)
		wantState(t, b, "remote", sluice.BreakerClosed)
		wg.Wait() // five old failures at 40 s
		wantState(t, b, "remote", sluice.BreakerClosed)
	})
}

// Failures that take longer than the window count when they end.
func TestPromise15_FailuresSlowerThanTheWindowCount(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Ratio: 0.5, MinCalls: 10, Window: 10 * time.Second})
		r, call, _ := remoteRig(t, b, sluice.Config{})
		defer r.end()
		parallel(10, func(int) { _ = call("fail", 11*time.Second) })
		wantState(t, b, "remote", sluice.BreakerOpen)
	})
}

// Promise 16: what the caller does itself, and what other gates refuse, counts neither way.
func TestPromise16_CallersCancelIsNeutral(t *testing.T) {
	cause := errors.New("the user closed the window")
	for _, timeout := range []time.Duration{0, time.Minute} {
		for name, end := range map[string]func(context.Context) (context.Context, func()){
			"cancel": func(ctx context.Context) (context.Context, func()) {
				ctx, cancel := context.WithCancel(ctx)
				return ctx, func() { cancel() }
			},
			"cause": func(ctx context.Context) (context.Context, func()) {
				ctx, cancel := context.WithCancelCause(ctx)
				return ctx, func() { cancel(cause) }
			},
			"deadline": func(ctx context.Context) (context.Context, func()) {
				ctx, cancel := context.WithTimeout(ctx, time.Second)
				return ctx, func() { _ = cancel }
			},
		} {
			t.Run(fmt.Sprint(name, " ", timeout), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Ratio: 0.01, MinCalls: 1})
					r := newRig(t, sluice.Config{Interceptors: interceptors(b), Timeout: timeout})
					defer r.end()
					r.tool(sluice.Spec{Name: "listens"}, func(ctx context.Context) error {
						<-ctx.Done()
						return fmt.Errorf("stopped: %w", context.Cause(ctx))
					})
					parallel(50, func(int) {
						ctx, cancel := end(r.ctx)
						go func() { time.Sleep(time.Second); cancel() }()
						if _, err := r.Invoke(ctx, sluice.Request{Tool: "listens"}); err == nil || errors.Is(err, sluice.ErrRejected) {
							t.Errorf("error is %v", err)
						}
					})
					wantState(t, b, "listens", sluice.BreakerClosed)
				})
			})
		}
	}
}

func TestPromise16_RefusalsOfOtherGatesAreNeutral(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Ratio: 0.01, MinCalls: 1})
		q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Hour}}, Refuse: true}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(b, q, limitsOf(sluice.Limit{Max: 1, Refuse: true}))})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, sleeps(0))
		r.tool(sluice.Spec{Name: "outer"}, func(ctx context.Context) error {
			return errOf(r.Invoke(ctx, sluice.Request{Tool: "work"}))
		})
		require.NoError(t, r.call("work"))
		for range 100 {
			assert.ErrorIs(t, r.call("work"), sluice.ErrRateLimited)
		}
		wantState(t, b, "work", sluice.BreakerClosed)
		// A tool that passes the refusal of a nested call on has not failed either.
		q.Pause("", 0)
		time.Sleep(time.Hour)
		assert.ErrorIs(t, r.call("outer"), sluice.ErrRateLimited)
		wantState(t, b, "outer", sluice.BreakerClosed)
	})
}

// A neutral probe gives its place back.
func TestPromise16_NeutralProbeGivesItsPlaceBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Second})
		r, call, g := remoteRig(t, b, sluice.Config{})
		defer r.end()
		_ = call("fail", 0)
		time.Sleep(time.Second)
		whole := r.ctx
		var cancel context.CancelFunc
		r.ctx, cancel = context.WithTimeout(whole, 100*ms)
		assert.ErrorIs(t, call("cancelled", 0), context.DeadlineExceeded, "probe")
		cancel()
		r.ctx = whole
		wantState(t, b, "remote", sluice.BreakerHalfOpen)
		before := g.total.Load()
		require.NoError(t, call("ok", 0))
		assert.Equal(t, before+1, g.total.Load(), "the next call was no probe")
		wantState(t, b, "remote", sluice.BreakerClosed)
	})
}

// The library's own timeout is a failure at its instant; what the deaf code answers later
// counts no more.
func TestPromise16_TimeoutIsAFailure(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 2, Cooldown: time.Second})
		r, call, _ := remoteRig(t, b, sluice.Config{Timeout: time.Second})
		defer r.end()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { _ = call("ok", 5*time.Second) })
		}
		synctest.Wait()
		time.Sleep(time.Second - 1)
		wantState(t, b, "remote", sluice.BreakerClosed)
		wg.Wait()
		wantState(t, b, "remote", sluice.BreakerOpen)
		time.Sleep(time.Second)
		require.NoError(t, call("ok", 0)) // the probe
		wantState(t, b, "remote", sluice.BreakerClosed)
		time.Sleep(10 * time.Second)
		wantState(t, b, "remote", sluice.BreakerClosed)
	})
}

// Promise 17: no ending of a probe wedges the breaker.
func TestPromise17_NoEndOfAProbeWedgesTheBreaker(t *testing.T) {
	for _, how := range []string{"fail", "panic", "exit", "hang", "hang with timeout"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Second, Lease: 10 * time.Second})
				c := sluice.Config{}
				if how == "hang with timeout" {
					c.Timeout = 5 * time.Second
				}
				r, call, g := remoteRig(t, b, c)
				defer r.end()
				_ = call("fail", 0)
				time.Sleep(time.Second)
				probed := r.at()
				if how == "hang" || how == "hang with timeout" {
					go func() { _ = call("ok", 1000*time.Hour) }()
				} else {
					_ = call(how, 0)
				}
				synctest.Wait()
				require.Equal(t, int64(2), g.total.Load(), "runs: the probe did not run")
				// Refused for as long as stated, never longer: the second opening doubles.
				again := map[string]time.Duration{"fail": 2 * time.Second, "panic": 2 * time.Second, "exit": 2 * time.Second,
					"hang": 10 * time.Second, "hang with timeout": 7 * time.Second}[how]
				time.Sleep(again - 1)
				if err := call("ok", 0); !errors.Is(err, sluice.ErrBreakerOpen) {
					t.Errorf("%v after the probe: %v", r.at()-probed, err)
				}
				time.Sleep(time.Nanosecond)
				if err := call("ok", 0); err != nil {
					t.Errorf("%v after the probe: %v, want another probe", r.at()-probed, err)
				}
				wantState(t, b, "remote", sluice.BreakerClosed)
			})
		})
	}
}

// At the instant at which it re-opens, exactly Probes of a thousand run, whatever they
// find; when it has closed, calls come back as it can bear them.
func TestPromise17_RecoveryIsRamped(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: 10 * time.Second, Probes: 3})
		r, call, g := remoteRig(t, b, sluice.Config{})
		defer r.end()
		r.ctx = t.Context()
		_ = call("fail", 0)
		time.Sleep(10*time.Second - 1)
		assert.ErrorIs(t, call("ok", 0), sluice.ErrBreakerOpen, "1 ns early")
		time.Sleep(time.Nanosecond)
		herd := func() (ran, refused int64) {
			before, no := g.total.Load(), atomic.Int64{}
			g.peak.Store(0)
			parallel(1000, func(int) {
				if err := call("ok", 10*ms); errors.Is(err, sluice.ErrBreakerOpen) {
					no.Add(1)
				} else if err != nil {
					t.Error(err)
				}
			})
			return g.total.Load() - before, no.Load()
		}
		if ran, refused := herd(); ran != 3 || refused != 997 {
			t.Errorf("%d probes ran, %d refused, want 3 and 997", ran, refused)
		}
		wantState(t, b, "remote", sluice.BreakerClosed)
		allowed := int64(3)
		for range 6 { // one more for each success
			ran, refused := herd()
			if ran != allowed || ran+refused != 1000 {
				t.Errorf("%d ran in the recovery, want %d", ran, allowed)
			}
			allowed += ran
		}
		time.Sleep(10 * time.Second)
		if ran, refused := herd(); ran != 1000 || refused != 0 {
			t.Errorf("%d ran after the recovery, want 1000", ran)
		}
	})
}

// Waiting calls are refused when their breaker opens, those of other tools are not.
func TestPromise17_OpeningRefusesWhoWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Minute})
		r := newRig(t, sluice.Config{Interceptors: interceptors(b, atMost(1), scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 5000}))})
		defer r.end()
		r.ctx = t.Context()
		var g gauge
		r.tool(sluice.Spec{Name: "bad"}, func(context.Context) error {
			g.enter()
			time.Sleep(time.Second)
			return errTool
		})
		r.tool(sluice.Spec{Name: "good"}, sleeps(0))
		var wg sync.WaitGroup
		open := atomic.Int64{}
		for range 1500 {
			wg.Go(func() {
				if err := r.call("bad"); errors.Is(err, sluice.ErrBreakerOpen) {
					open.Add(1)
					assert.Equal(t, time.Second, r.at(), "refused at")
				}
			})
		}
		synctest.Wait()
		for range 10 {
			wg.Go(func() { assert.NoError(t, r.call("good")) })
		}
		wg.Wait()
		assert.Equal(t, int64(1499), open.Load())
		assert.Equal(t, int64(1), g.total.Load())
	})
}

// A probe that is granted and never runs gives its permit back at once, not after its lease:
// it was denied inside the gates, or its context had ended.
func TestPromise17_ProbeThatNeverRunsGivesItsPermitBack(t *testing.T) {
	for _, how := range []string{"denied", "cancelled", "panics"} {
		bubble(t, func(t *testing.T) {
			b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Second, Probes: 1, Lease: time.Hour})
			inside := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
				return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
					switch c.ID {
					case "denied":
						return sluice.Result{}, errTool
					case "cancelled":
						<-ctx.Done()
						return sluice.Result{}, ctx.Err()
					case "panics":
						panic("inside the gates")
					}
					return next(ctx, c)
				}
			})
			r := newRig(t, sluice.Config{Interceptors: interceptors(b, inside)})
			defer r.end()
			broken := true
			r.tool(sluice.Spec{Name: "x"}, func(context.Context) error {
				if broken {
					return errTool
				}
				return nil
			})
			_ = r.call("x")
			broken = false
			time.Sleep(2 * time.Second)
			at := r.at()
			for range 3 {
				ctx, cancel := context.WithTimeout(r.ctx, ms)
				if _, err := r.Invoke(ctx, sluice.Request{ID: how, Tool: "x"}); err == nil || errors.Is(err, sluice.ErrBreakerOpen) {
					t.Errorf("%s: %v, want it to be granted and not to run", how, err)
				}
				cancel()
			}
			if err := r.call("x"); err != nil || r.at() > at+3*ms {
				t.Errorf("%s: the next call: %v at %v, want it to probe at once", how, err, r.at()-at)
			}
			wantState(t, b, "x", sluice.BreakerClosed)
		})
	}
}

// Sinks may read the breaker and call tools from the event of its change, and may panic.
func TestBreakerEventsHoldNoLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 1}))
		var e *sluice.Executor
		var seen []string
		e = newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{b}, Sink: sluice.EventSinkFunc(func(ctx context.Context, ev *sluice.Event) error {
			if ev.Kind != sluice.BreakerStateChanged {
				return nil
			}
			seen = append(seen, ev.From.String()+" "+ev.To.String()+" "+sluice.Must(b.State("bad")).String())
			_, err := e.Invoke(ctx, sluice.Request{Tool: "good", Input: ""})
			assert.NoError(t, err)
			panic("in sink")
		})})
		sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "good"}, echo))
		bad := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "bad"}, func(context.Context, string) (string, error) { return "", errors.New("bad") }))
		if _, err := bad(t.Context(), ""); err == nil || errors.Is(err, sluice.ErrRejected) {
			t.Errorf("got %v", err)
		}
		assert.Equal(t, []string{"closed open open"}, seen, "what the listener saw")
	})
}

// A breaker that opens refuses all who wait for it, at one instant, while the lock is let
// go: a call of another tool gets through before the last of them, and a sink that blocks
// on the news of the opening holds none of them up.
func TestOverload_BreakerOpensOverManyWaiters(t *testing.T) {
	for _, byHand := range []bool{false, true} {
		t.Run(fmt.Sprint("tripped by hand ", byHand), func(t *testing.T) { bubble(t, func(t *testing.T) { breakerOpens(t, byHand) }) })
	}
}

func breakerOpens(t *testing.T, byHand bool) {
	const waiters = 5000
	release := make(chan struct{})
	sink := sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
		if e.Kind == sluice.BreakerStateChanged {
			<-release
		}
		return nil
	})
	br := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Scope: sluice.ByTool})
	r := newRig(t, sluice.Config{Sink: sink, Interceptors: interceptors(
		limitsOf(sluice.Limit{Max: 1, Scope: sluice.ByTool}),
		br,
		scheduler(sluice.PrioritySchedulerConfig{MaxQueue: waiters}))})
	defer r.end()
	r.ctx = t.Context()
	r.tool(sluice.Spec{Name: "down"}, func(context.Context) error { time.Sleep(time.Second); return errors.New("down") })
	r.tool(sluice.Spec{Name: "up"}, sleeps(0))
	first := r.Submit(r.ctx, sluice.Request{Tool: "down"})
	var list []*sluice.Future
	for range waiters {
		list = append(list, r.Submit(r.ctx, sluice.Request{Tool: "down"}))
	}
	synctest.Wait()
	require.Equal(t, waiters, r.Snapshot().Queued, "queued")
	want := time.Second
	if byHand {
		want = 0
		go br.Trip("down")
	} else {
		time.Sleep(want)
	}
	synctest.Wait() // the sink blocks
	left := 0
	for _, f := range list {
		if !isDone(f) {
			left++
		}
	}
	if left != 0 || r.at() != want {
		t.Errorf("%d have not been refused at %v, while a sink blocks", left, r.at())
	}
	require.NoError(t, r.call("up"))
	for _, f := range list {
		_, err := f.Wait(r.ctx)
		require.ErrorIs(t, err, sluice.ErrBreakerOpen, "want ErrBreakerOpen")
	}
	close(release)
	_, err := first.Wait(r.ctx)
	assert.EqualError(t, err, "down", "want the tool's own error")
}
