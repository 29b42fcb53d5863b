package promises_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
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

// Promise 11: no panic of user code takes the process down or keeps a permit, and the
// caller gets a PanicError with the stack.
func TestPromise11_PanicsAnywhereBecomeErrors(t *testing.T) {
	const limit = 2
	around := func(before, after, inner bool) sluice.Interceptor {
		return sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			if s.Name != "odd" {
				return next
			}
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				if before {
					panic("secret before")
				}
				res, err := next(ctx, c)
				if after {
					panic("secret after")
				}
				return res, err
			}
		})
	}
	wrapPanics := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
		if s.Name == "odd" {
			panic("secret wrap")
		}
		return next
	})
	nilHandler := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
		if s.Name == "odd" {
			return nil
		}
		return next
	})
	for _, tc := range []struct {
		name         string
		outer, inner sluice.Interceptor
		policy       sluice.Policy
		scope        sluice.Scope
		ran          bool
	}{
		{name: "tool", ran: true},
		{name: "outer before next", outer: around(true, false, false)},
		{name: "outer after next", outer: around(false, true, false), ran: true},
		{name: "inner before next", inner: around(true, false, true)},
		{name: "inner after next", inner: around(false, true, true), ran: true},
		{name: "outer Wrap", outer: wrapPanics},
		{name: "inner Wrap", inner: wrapPanics},
		{name: "Wrap answers nil", outer: nilHandler},
		{name: "cost function", policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { panic("secret cost") }}},
		{name: "key function", scope: sluice.ByKey("host", func(c sluice.Call) string {
			if c.Tool == "odd" {
				panic("secret key")
			}
			return "k"
		})},
	} {
		for _, how := range []string{"inline", "timeout", "submit"} {
			t.Run(tc.name+"/"+how, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					gates := interceptors(limitsOf(sluice.Limit{Max: limit}, sluice.Limit{Max: 100, Scope: sluice.ByType, Unit: "bytes"},
						sluice.Limit{Max: 50, Scope: tc.scope, Unit: "x"}))
					if tc.outer != nil {
						gates = append(interceptors(tc.outer), gates...)
					}
					if tc.inner != nil {
						gates = append(gates, tc.inner)
					}
					c := sluice.Config{Interceptors: gates}
					if how == "timeout" {
						c.Timeout = time.Second
					}
					r := newRig(t, c)
					defer r.end()
					var g gauge
					ran := false
					r.tool(sluice.Spec{Name: "odd", Policy: tc.policy}, func(context.Context) error {
						ran = true
						if tc.name == "tool" {
							panic("secret tool")
						}
						return nil
					})
					r.tool(sluice.Spec{Name: "plain"}, g.counts(10*ms))
					for range limit + 1 {
						var err error
						if how == "submit" {
							_, err = r.Submit(r.ctx, sluice.Request{Tool: "odd"}).Wait(t.Context())
						} else {
							_, err = r.Invoke(r.ctx, sluice.Request{Tool: "odd"})
						}
						var p *sluice.PanicError
						if !errors.As(err, &p) || len(p.Stack) == 0 || p.Goexit || p.Value == nil {
							t.Errorf("error is %#v, want a PanicError with value and stack", err)
						}
						if err != nil && strings.Contains(err.Error(), "secret") {
							t.Errorf("the text holds the panic's value: %v", err)
						}
						if ran != tc.ran || errors.Is(err, sluice.ErrRejected) == tc.ran {
							t.Errorf("ran %v (want %v), matches ErrRejected: %v", ran, tc.ran, errors.Is(err, sluice.ErrRejected))
						}
					}
					for _, e := range r.rec.Events("odd") {
						if b, err := json.Marshal(e); err != nil || strings.Contains(string(b), "secret") {
							t.Errorf("event %s %v: the panic's value must not be in it", b, err)
						}
					}
					r.slotsFree("plain", &g, limit)
				})
			})
		}
	}
}

// A sink that panics is none of the call's business.
func TestPromise11_SinkPanicsAreNotTheCalls(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1)),
			Sink: sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { panic("secret") })})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "plain"}, g.counts(ms))
		for range 3 {
			require.NoError(t, r.call("plain"))
		}
		r.slotsFree("plain", &g, 1)
		// invoked, started, completed; one of the two at once was queued too.
		s := r.Snapshot()
		assert.Equal(t, uint64(5*3+1), s.EventsDropped)
		assert.Equal(t, uint64(5*3+1), s.EventsDelivered)
	})
}

// Promise 13: one result for each call, in the order of the calls, whatever happens to
// their siblings.
func TestPromise13_ResultsInCallOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(8))})
		defer r.end()
		const n = 200
		var g gauge
		sluice.Must(sluice.Register(r.reg, sluice.Spec{Name: "odd"}, func(ctx context.Context, i int) (int, error) {
			assert.NoError(t, g.counts(time.Duration(n-i)*ms)(ctx))
			switch i % 5 {
			case 1:
				return 0, fmt.Errorf("error %d", i)
			case 2:
				panic(i)
			case 3:
				runtime.Goexit()
			}
			return i, nil
		}))
		futures := make([]*sluice.Future, n)
		ctx, cancel := context.WithCancel(r.ctx)
		for i := range futures {
			c := r.ctx
			if i%5 == 4 {
				c = ctx
			}
			futures[i] = r.Submit(c, sluice.Request{ID: fmt.Sprint("c", i), Tool: "odd", Args: fmt.Appendf(nil, "%d", i)})
		}
		synctest.Wait()
		cancel() // those that still queue never run
		for i, f := range futures {
			res, err := f.Wait(t.Context())
			again, err2 := f.Wait(t.Context())
			if res.Value != again.Value || err != err2 {
				t.Errorf("call %d answered twice: %v %v, %v %v", i, res.Value, err, again.Value, err2)
			}
			var p *sluice.PanicError
			ok := false
			switch i % 5 {
			case 0:
				ok = res.Value == i && err == nil
			case 1:
				ok = err != nil && err.Error() == fmt.Sprint("error ", i)
			case 2:
				ok = errors.As(err, &p) && p.Value == i
			case 3:
				ok = errors.As(err, &p) && p.Goexit
			case 4:
				ok = res.Value == i && err == nil && i < 8 || errors.Is(err, context.Canceled)
			}
			assert.True(t, ok, "call %d: %v, %v", i, res.Value, err)
		}
		assert.Equal(t, int64(8), g.peak.Load(), "most at once")
	})
}

// A panic in any code that a call runs leaves the process alive. The child process would
// exit with 2 otherwise.
func TestPanicsDoNotEndTheProcess(t *testing.T) {
	if os.Getenv("SLUICE_PANICS") != "" {
		panicEverywhere(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestPanicsDoNotEndTheProcess$")
	cmd.Env = append(os.Environ(), "SLUICE_PANICS=1")
	out, err := cmd.CombinedOutput()
	assert.NoError(t, err, "%s", out)
	assert.NotContains(t, string(out), "no tests to run")
}

type badError struct{}

func (badError) Error() string   { panic("in Error") }
func (badError) Is(error) bool   { panic("in Is") }
func (badError) As(any) bool     { panic("in As") }
func (badError) Unwrap() []error { panic("in Unwrap") }

func panicEverywhere(t *testing.T) {
	boom := func(sluice.Call) string { panic("in key") }
	sinks := sluice.MultiSink(sluice.NewJSONSink(new(strings.Builder)), sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { panic("in sink") }))
	around := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
		switch s.Name {
		case "before":
			return func(context.Context, sluice.Call) (sluice.Result, error) { panic("before") }
		case "after":
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				next(ctx, c)
				panic("after")
			}
		case "wrap":
			panic("in Wrap")
		case "nil":
			return nil
		}
		return next
	})
	keyed := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Scope: sluice.ByKey("k", func(c sluice.Call) string {
		if c.Tool == "key" {
			return boom(c)
		}
		return ""
	})}}}))
	one := atMost(1)
	e := newExec(t, sluice.Config{Sink: sinks, Interceptors: []sluice.Interceptor{around, keyed, one}})
	tool := func(name string, p sluice.Policy, f func() error) func(context.Context, string) (string, error) {
		return sluice.Must(sluice.Wrap(e, sluice.Spec{Name: name, Policy: p}, func(context.Context, string) (string, error) { return "", f() }))
	}
	fine := func() error { return nil }
	for _, f := range []func(context.Context, string) (string, error){
		tool("panic", sluice.Policy{}, func() error { panic("in tool") }),
		tool("nilpanic", sluice.Policy{}, func() error { panic(nil) }), //nolint:govet // a tool may
		tool("runtime", sluice.Policy{}, func() error { var m []int; return fmt.Errorf("%d", m[len(m)]) }),
		tool("timed", sluice.Policy{Timeout: time.Hour}, func() error { panic(errors.New("in timed tool")) }),
		tool("error", sluice.Policy{}, func() error { return badError{} }),
		tool("before", sluice.Policy{}, fine),
		tool("after", sluice.Policy{}, fine),
		tool("wrap", sluice.Policy{}, fine),
		tool("nil", sluice.Policy{}, fine),
		tool("key", sluice.Policy{}, fine),
		tool("cost", sluice.Policy{Rates: []sluice.Rate{{N: 9, Unit: "u"}}, Cost: func(sluice.Call, string) int64 { panic("in Cost") }}, fine),
	} {
		for range 2 { // the second finds the slot of the first free
			_, err := f(t.Context(), "")
			assert.Error(t, err, "no error")
		}
	}
	class := tool("classify", sluice.Policy{Classify: func(sluice.Call, sluice.Result, error) sluice.Outcome { panic("in Classify") }}, fine)
	for range 2 {
		_, err := class(t.Context(), "")
		assert.NoError(t, err)
	}
	assert.Zero(t, e.Snapshot().InFlight, "in flight")
}

// A tool that calls runtime.Goexit is answered for, wherever somebody can be answered.
func TestGoexitOfAToolIsAnsweredFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc, rec := sluice.NewTestPipelineContext()
		ctx := sluice.WithPipelineContext(t.Context(), pc)
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{atMost(1)}})
		quit := func(context.Context, string) (string, error) { runtime.Goexit(); return "", nil }
		inline := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "inline"}, quit))
		timed := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "timed", Policy: sluice.Policy{Timeout: time.Second}}, quit))
		returned := false
		var wg sync.WaitGroup
		wg.Go(func() {
			inline(ctx, "")
			returned = true
		})
		wg.Wait()
		assert.False(t, returned, "Goexit did not end the calling goroutine")
		check := func(err error) {
			t.Helper()
			var p *sluice.PanicError
			if !errors.As(err, &p) || !p.Goexit {
				t.Errorf("got %v, want a PanicError of Goexit", err)
			}
		}
		_, err := timed(ctx, "")
		check(err)
		_, err = e.Submit(ctx, sluice.Request{Tool: "inline", Input: ""}).Wait(t.Context())
		check(err)
		assert.NoError(t, rec.Check())
		assert.Zero(t, e.Snapshot().InFlight, "in flight")
	})
}

func TestClosedExecutorsLeaveNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 1000 {
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{atMost(1)}})
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, echo))
		_, err := f(context.Background(), "")
		require.NoError(t, err)
		require.NoError(t, e.Close(context.Background()))
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
}

// Calls made side by side: whatever happens to one, each has its own result.
func TestSiblingsKeepTheirResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, limit = 500, 8
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{atMost(limit)}})
		var g gauge
		sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(_ context.Context, i int) (int, error) {
			g.enter()
			defer g.leave()
			time.Sleep(time.Millisecond)
			switch i {
			case 0, n / 2, n - 1:
				panic(i)
			case 2:
				return 0, errors.New("no")
			}
			return i, nil
		}))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var calls []*sluice.Future
		for i := range n {
			calls = append(calls, e.Submit(ctx, sluice.Request{Tool: "x", Input: i}))
		}
		time.Sleep(40*time.Millisecond + time.Microsecond)
		cancel() // in the middle
		done := 0
		for i, c := range calls {
			res, err := c.Wait(t.Context())
			switch {
			case (err == nil) == (res.Value == nil):
				t.Errorf("call %d: value %v and error %v, want one of them", i, res.Value, err)
			case err == nil && res.Value != i:
				t.Errorf("call %d has the result of %v", i, res.Value)
			case err == nil:
				done++
			}
		}
		if g.peak.Load() != limit || done < 41*limit-4 || done > n-4 {
			t.Errorf("peak %d, %d done", g.peak.Load(), done)
		}
	})
}

// Promise 21: no user code runs under a lock. Whatever it calls, it does not deadlock.
func TestPromise21_ReentrantUserCodeDoesNotDeadlock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var r *rig
		var l *sluice.ConcurrencyLimiter
		q := rates(sluice.Rate{N: 1000, Unit: "tokens"})
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour})
		var entered log
		nesting := atomic.Int64{}
		var other *rig
		poke := func(who string) {
			if nesting.Add(1) > 1 {
				nesting.Add(-1)
				return
			}
			defer nesting.Add(-1)
			entered.add("%s", who)
			for _, x := range []*rig{r, other} {
				_ = x.call("leaf")
				_ = x.Snapshot()
				_ = x.Explain(x.ctx, sluice.Request{Tool: "leaf"})
				_, _ = x.Plan("leaf")
			}
			if err := sluice.Reconfigure(who, l.Change(l.Config()), q.Change(q.Config()), r.reg.WithPolicy("leaf", sluice.Policy{})); err != nil {
				t.Error(err)
			}
			e, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{State: r.pc.State, Interceptors: interceptors(l)})
			assert.NoError(t, err)
			assert.NoError(t, e.Close(t.Context()))
			_, _ = b.State("leaf")
			b.Reset("leaf")
		}
		l = limitsOf(sluice.Limit{Max: 50}, sluice.Limit{Max: 40, Scope: sluice.ByKey("host", func(c sluice.Call) string {
			if c.Tool == "work" {
				poke("key")
			}
			return "h"
		})})
		sink := sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if e.Call.Tool == "work" || e.Call.Tool == "" {
				poke(string(e.Kind))
			}
			return nil
		})
		r = newRig(t, sluice.Config{Sink: sink, Interceptors: interceptors(l, q, b)})
		defer r.end()
		ol := atMost(3)
		other = newRig(t, sluice.Config{Sink: sink, Interceptors: interceptors(ol)})
		defer other.end()
		other.tool(sluice.Spec{Name: "leaf"}, sleeps(0))
		r.tool(sluice.Spec{Name: "leaf"}, sleeps(0))
		r.tool(sluice.Spec{Name: "work", Policy: sluice.Policy{
			Cost: func(sluice.Call, string) int64 { poke("cost"); return 1 },
			Classify: func(sluice.Call, sluice.Result, error) sluice.Outcome {
				poke("classify")
				return sluice.OutcomeAuto
			},
		}}, func(context.Context) error { poke("tool"); return errTool })
		if err := r.call("work"); err != errTool {
			t.Error(err)
		}
		require.NoError(t, sluice.Reconfigure("both", l.Change(l.Config()), ol.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 4}}})))
		q.Pause("", ms)
		got := entered.String()
		for _, who := range []string{"tool.invoked", "key", "cost", "tool.started", "tool", "classify", "breaker.state_changed", "tool.failed", "limit.changed", "ratelimit.paused"} {
			assert.Contains(t, " "+got+" ", " "+who+" ", "%s was never asked: %s", who, got)
		}
		time.Sleep(time.Second)
	})
}
