package sluice_test

import (
	"context"
	"errors"
	"fmt"
	"os"
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

// free fails the test unless n calls of the limiter's executor can run at once.
func free(t *testing.T, e *sluice.Executor, n int) {
	t.Helper()
	if _, ok := e.Plan("free"); !ok {
		sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "free"}, func(ctx context.Context, gate chan bool) (bool, error) { return <-gate, nil }))
	}
	gate := make(chan bool)
	var calls []*sluice.Future
	for range n {
		calls = append(calls, e.Submit(t.Context(), sluice.Request{Tool: "free", Input: gate}))
	}
	synctest.Wait()
	if s := e.Snapshot(); s.InFlight != n || s.Queued != 0 {
		t.Errorf("%d run and %d wait, want %d free slots", s.InFlight, s.Queued, n)
	}
	close(gate)
	for _, c := range calls {
		_, err := c.Wait(t.Context())
		assert.NoError(t, err)
	}
}

func TestCancelledContextTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1}}}))
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{limiter(1), rates}})
		ran := 0
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(context.Context, string) (string, error) { ran++; return "", nil }))
		cause := errors.New("changed my mind")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		for range 10 {
			if _, err := f(ctx, ""); !errors.Is(err, sluice.ErrRejected) || !errors.Is(err, cause) {
				t.Errorf("got %v", err)
			}
			_, err := e.Submit(ctx, sluice.Request{Tool: "x", Input: ""}).Wait(t.Context())
			assert.ErrorIs(t, err, cause, "submitted")
		}
		start := time.Now()
		if _, err := f(t.Context(), ""); err != nil || ran != 1 || time.Since(start) != 0 {
			t.Errorf("%v, ran %d, after %v: want the slot and the token untouched", err, ran, time.Since(start))
		}
	})
}

func TestNonsenseLimitsAndWeights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, n := range []int{0, -1, -1 << 31} {
			_, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: n}}})
			assert.ErrorContains(t, err, "Limits[0].Max", "Max %d", n)
		}
		lim := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 4, Unit: "bytes"}}}))
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{lim}})
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x", Policy: sluice.Policy{Cost: func(c sluice.Call, _ string) int64 { return c.Input.(int64) }}},
			func(_ context.Context, n int64) (int64, error) { return n, nil }))
		for weight, want := range map[int64]error{-1: sluice.ErrInvalidArguments, -1 << 63: sluice.ErrInvalidArguments, 5: sluice.ErrSaturated, 1<<63 - 1: sluice.ErrSaturated, 0: nil, 4: nil} {
			_, err := f(t.Context(), weight)
			assert.ErrorIs(t, err, want, "weight %d", weight)
		}
		assert.Zero(t, e.Snapshot().InFlight, "in flight")
	})
}

// The context ends between the look at it and the wait: the waiter must return at once.
func TestCancelWhileParkingIsNotLost(t *testing.T) {
	for range 300 {
		synctest.Test(t, func(t *testing.T) {
			e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{limiter(1)}})
			block := make(chan struct{})
			f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(context.Context, string) (string, error) { <-block; return "", nil }))
			go f(t.Context(), "")
			synctest.Wait()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { _, err := f(ctx, ""); done <- err }()
			runtime.Gosched()
			cancel()
			assert.ErrorIs(t, <-done, context.Canceled)
			close(block)
		})
	}
}

func TestSlotIsHeldUntilTheCodeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{limiter(1)}, Timeout: time.Second})
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
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{limiter(limit)}, Sink: sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { return errors.New("sink") })})
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

func TestNestedCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{limiter(1)}})
		var inside, peak atomic.Int32
		leaf := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "leaf"}, func(context.Context, int) (int, error) {
			peak.Store(max(peak.Load(), inside.Add(1)))
			time.Sleep(time.Second)
			inside.Add(-1)
			return 0, nil
		}))
		var deep func(context.Context, int) (int, error)
		deep = sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "deep"}, func(ctx context.Context, n int) (int, error) {
			if n == 0 {
				return leaf(ctx, 0)
			}
			return deep(ctx, n-1)
		}))
		start := time.Now()
		if _, err := deep(t.Context(), 8); err != nil || time.Since(start) != time.Second {
			t.Errorf("depth 8 at limit 1: %v after %v", err, time.Since(start))
		}
		batch := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "batch"}, func(ctx context.Context, n int) (int, error) {
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					_, err := leaf(ctx, 0)
					assert.NoError(t, err)
				})
			}
			wg.Wait()
			return n, nil
		}))
		start = time.Now()
		if _, err := batch(t.Context(), 3); err != nil || time.Since(start) != 3*time.Second || peak.Load() != 1 {
			t.Errorf("batch of 3 at limit 1: %v after %v, peak %d", err, time.Since(start), peak.Load())
		}
		var bomb func(context.Context, int) (int, error)
		depth := 0
		bomb = sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "bomb"}, func(ctx context.Context, n int) (int, error) {
			depth = max(depth, n)
			return bomb(ctx, n+1)
		}))
		if _, err := bomb(t.Context(), 0); !errors.Is(err, sluice.ErrNesting) || errors.Is(err, sluice.ErrRejected) || depth != 32 {
			t.Errorf("bomb: %v at depth %d, want ErrNesting at 32", err, depth)
		}
		free(t, e, 1)
	})
}

// A full queue is a typed refusal, also for a tool that calls others.
func TestOverloadRunsNothingElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		order := sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 1}))
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{limiter(1), order}})
		gate := make(chan string)
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(context.Context, string) (string, error) { return <-gate, nil }))
		done := make(chan error, 2)
		for range 2 {
			go func() { _, err := f(t.Context(), ""); done <- err }()
			synctest.Wait()
		}
		_, err := f(t.Context(), "")
		assert.ErrorIs(t, err, sluice.ErrQueueFull)
		close(gate)
		for range 2 {
			assert.NoError(t, <-done)
		}
	})
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

// A classify function that panics is called once, and the outcome counts as what it is.
func TestClassifierPanics(t *testing.T) {
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

// Every ending has one terminal event, and the caller of a panicking call is answered by
// the id it gave.
func TestOneTerminalEventForEveryEnding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc, rec := sluice.NewTestPipelineContext()
		ctx := sluice.WithPipelineContext(t.Context(), pc)
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{limiter(1)}})
		sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x", Policy: sluice.Policy{Timeout: time.Second}}, func(ctx context.Context, how string) (string, error) {
			switch how {
			case "panic":
				panic(how)
			case "exit":
				runtime.Goexit()
			case "late":
				time.Sleep(time.Minute)
			case "error":
				return "", errors.New(how)
			}
			return how, nil
		}))
		for _, how := range []string{"return", "panic", "exit", "error", "late"} {
			_, err := e.Invoke(ctx, sluice.Request{ID: "the " + how, Tool: "x", Input: how})
			assert.Equal(t, how == "return", err == nil, "%s: %v", how, err)
		}
		e.Invoke(ctx, sluice.Request{ID: "unknown", Tool: "nothing"})
		e.Invoke(ctx, sluice.Request{ID: "invalid", Tool: "x", Args: []byte("{")})
		assert.NoError(t, e.Close(t.Context()))
		e.Invoke(ctx, sluice.Request{ID: "closed", Tool: "x", Input: "return"})
		assert.NoError(t, rec.Check())
		ends := map[string]int{}
		for _, ev := range rec.Events() {
			if ev.Kind == sluice.ToolCompleted || ev.Kind == sluice.ToolFailed || ev.Kind == sluice.ToolDenied {
				ends[ev.Call.ID]++
			}
		}
		if got, want := fmt.Sprint(ends), "map[closed:1 invalid:1 the error:1 the exit:1 the late:1 the panic:1 the return:1 unknown:1]"; got != want {
			t.Errorf("terminal events %s, want %s", got, want)
		}
	})
}

// Calls made side by side: whatever happens to one, each has its own result.
func TestSiblingsKeepTheirResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, limit = 500, 8
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{limiter(limit)}})
		var inside, peak atomic.Int32
		sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(_ context.Context, i int) (int, error) {
			peak.Store(max(peak.Load(), inside.Add(1)))
			defer inside.Add(-1)
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
		if peak.Load() != limit || done < 41*limit-4 || done > n-4 {
			t.Errorf("peak %d, %d done", peak.Load(), done)
		}
	})
}

// A rule that refuses at call time cannot be got around by naming the tool, and looks the
// same for every tool it hides.
func TestRulesHoldAtCallTime(t *testing.T) {
	hide := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
		if tool.Hints.Destructive {
			return func(_ context.Context, c sluice.Call) (sluice.Result, error) {
				return sluice.Result{}, &sluice.Error{Tool: c.Tool, CallID: c.ID, Reason: sluice.ErrUnknownTool}
			}
		}
		return next
	})
	e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{hide}})
	sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "drop", Hints: sluice.Hints{Destructive: true}}, func(context.Context, string) (string, error) {
		t.Error("the hidden tool ran")
		return "", nil
	}))
	_, hidden := e.Invoke(t.Context(), sluice.Request{ID: "1", Tool: "drop", Input: ""})
	_, unknown := e.Invoke(t.Context(), sluice.Request{ID: "1", Tool: "none", Input: ""})
	if got, want := strings.ReplaceAll(hidden.Error(), "drop", "none"), unknown.Error(); got != want {
		t.Errorf("hidden %q, unknown %q", got, want)
	}
}

// A stopped timer is never drained: since Go 1.23 that would block for ever.
func TestNoTimerIsDrained(t *testing.T) {
	files, err := os.ReadDir(".")
	require.NoError(t, err)
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		text, err := os.ReadFile(f.Name())
		require.NoError(t, err)
		for n, line := range strings.Split(string(text), "\n") {
			if strings.Contains(line, "Stop() {") && strings.Contains(line, "!") {
				t.Errorf("%s:%d drains a timer: %s", f.Name(), n+1, line)
			}
		}
	}
}

// Wrap is user code: it may use the executor, and may end in any way.
func TestPromise21_WrapHoldsNoLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var e *sluice.Executor
		wraps := 0
		e = newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			switch s.Name {
			case "curious":
				wraps++
				_, err := e.Invoke(t.Context(), sluice.Request{Tool: "plain", Input: ""})
				assert.NoError(t, err)
			case "exits":
				runtime.Goexit()
			}
			return next
		})}})
		for _, name := range []string{"curious", "plain", "exits"} {
			sluice.Must(sluice.Wrap(e, sluice.Spec{Name: name}, echo))
		}
		for range 2 {
			for _, name := range []string{"curious", "plain"} {
				_, err := e.Invoke(t.Context(), sluice.Request{Tool: name, Input: ""})
				assert.NoError(t, err, name)
			}
			_, err := e.Invoke(t.Context(), sluice.Request{Tool: "exits", Input: ""})
			var p *sluice.PanicError
			if !errors.As(err, &p) || !p.Goexit || !errors.Is(err, sluice.ErrRejected) {
				t.Errorf("exits: %v", err)
			}
		}
		assert.Equal(t, 1, wraps, "wrapped %d times", wraps)
	})
}
