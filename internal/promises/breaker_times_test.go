package promises_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// By default half of five results open a breaker, for five seconds, then for twice as long each time, up to
// two minutes, until it has recovered.
func TestBreaker_Defaults(t *testing.T) {
	byDefault := breakerOf(sluice.CircuitBreakerConfig{})
	c := byDefault.Config()
	assert.Equal(t, 0.5, c.Ratio)
	assert.Equal(t, 5, c.MinCalls)
	assert.Equal(t, 30*time.Second, c.Window)
	assert.Equal(t, 20, c.Failures)
	assert.Equal(t, 5*time.Second, c.Cooldown)
	for name, own := range map[string]bool{"breaker": false, "tool/x breaker": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var conf sluice.Config
				var spec sluice.Spec
				if spec.Name = "x"; own {
					spec.Policy.Breaker = &sluice.BreakerPolicy{}
				} else {
					conf.Interceptors = interceptors(breakerOf(sluice.CircuitBreakerConfig{}))
				}
				r := newRig(t, conf)
				defer r.end()
				var answer error
				r.tool(spec, func(context.Context) error { return answer })
				calls := func(n int, err error) {
					t.Helper()
					answer = err
					for range n {
						require.Equal(t, err, r.call("x"))
					}
				}
				refused := func(after time.Duration) { t.Helper(); wantRefusal(t, r.call("x"), sluice.ErrBreakerOpen, name, after) }
				calls(5, nil)
				calls(4, errTool)
				calls(1, nil) // of ten, four have failed
				time.Sleep(30 * time.Second)
				calls(4, errTool)
				calls(1, errTool) // five of five
				for _, d := range []time.Duration{5, 10, 20, 40, 80, 120, 120} {
					refused(d * time.Second)
					time.Sleep(d*time.Second - 1)
					refused(1)
					time.Sleep(time.Nanosecond)
					calls(1, errTool) // the probe
				}
				time.Sleep(2 * time.Minute)
				calls(1, nil)
				time.Sleep(5 * time.Second) // it has recovered
				calls(4, nil)               // and has begun to count when it closed
				calls(3, errTool)
				calls(1, errTool)
				refused(5 * time.Second)
			})
		})
	}
}

// A backend that dies while it is busy is found by failures in a row, long before half of the last results have failed;
// with a Ratio of its own a breaker counts no row.
func TestBreaker_ADeadBackendIsFoundSoon(t *testing.T) {
	for ratio, want := range map[float64]int{0: 20, 0.5: 1000} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(breakerOf(sluice.CircuitBreakerConfig{Ratio: ratio}))})
			defer r.end()
			var answer error
			r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return answer })
			for range 1000 {
				require.NoError(t, r.call("x"))
			}
			answer = errTool
			failed := 0
			for ; r.call("x") == errTool; failed++ {
			}
			require.Equal(t, want, failed)
		})
	}
}

// Breakers that open together do not all try again together: each is open for up to 15 % more or less, another
// time each. In a bubble they are open for exactly so long.
func TestBreaker_OpenTimesDiffer(t *testing.T) {
	const n = 200
	open := func(t *testing.T) (times []time.Duration) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: 100 * time.Hour}))})
		defer r.end()
		for i := range n {
			name := fmt.Sprint("tool", i)
			r.tool(sluice.Spec{Name: name}, func(context.Context) error { return errTool })
			require.Equal(t, errTool, r.call(name))
			var e *sluice.Error
			require.ErrorAs(t, r.call(name), &e)
			require.ErrorIs(t, e, sluice.ErrBreakerOpen)
			times = append(times, e.RetryAfter)
		}
		slices.Sort(times)
		return times
	}
	bubble(t, func(t *testing.T) {
		times := open(t)
		require.Equal(t, slices.Repeat([]time.Duration{100 * time.Hour}, n), times)
	})
	one, other := open(t), open(t)
	for _, times := range [][]time.Duration{one, other} {
		require.Len(t, slices.Compact(times), n, "each its own")
		first, last := times[0], times[n-1]
		require.Greater(t, first, 84*time.Hour) // some time has passed since it opened
		require.Less(t, first, 90*time.Hour)
		require.Greater(t, last, 110*time.Hour)
		require.LessOrEqual(t, last, 115*time.Hour)
	}
	require.NotEqual(t, one, other, "two processes, or executors, differ")
}

// whoIsLate has two calls of the tool x under way when its breaker opens, for ten seconds: one that fails at
// once, and one that answers after four seconds as it is told.
func whoIsLate(t *testing.T, b *sluice.CircuitBreaker, answer func(ctx context.Context) error) *rig {
	t.Helper()
	r := newRig(t, sluice.Config{MaxWait: sluice.NoWait, Interceptors: interceptors(b)})
	n := 0
	r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
		switch n++; n {
		case 1:
			time.Sleep(4 * time.Second)
			return answer(ctx)
		case 2:
			return errTool
		}
		return nil
	})
	r.busy("x")
	require.Equal(t, errTool, r.call("x"))
	for i := range 3 * time.Second / time.Second { // the last ones without the lock
		refusedBy(t, r, "breaker", 10*time.Second-i*time.Second)
		refusedBy(t, r, "breaker", 10*time.Second-i*time.Second)
		time.Sleep(time.Second)
	}
	time.Sleep(time.Second)
	synctest.Wait()
	return r
}

func refusedBy(t *testing.T, r *rig, by string, after time.Duration) {
	t.Helper()
	wantRefusal(t, r.call("x"), sluice.ErrBreakerOpen, by, after)
}

// A throttle keeps open what is open: calls are told to come back when it is over, for a minute at most, and
// the first that does is the probe.
func TestBreaker_ALateThrottleKeepsItOpen(t *testing.T) {
	throttled := func(d time.Duration) func(context.Context) error {
		return func(context.Context) error { return &throttledBy{d: d} }
	}
	for name, tt := range map[string]struct {
		answer func(context.Context) error
		until  time.Duration
	}{
		"longer than the cooldown":  {throttled(30 * time.Second), 34 * time.Second},
		"no longer":                 {throttled(2 * time.Second), 10 * time.Second},
		"a minute at most":          {throttled(time.Hour), 64 * time.Second},
		"reported, and then failed": {func(ctx context.Context) error { sluice.ReportThrottle(ctx, 20*time.Second); return errTool }, 24 * time.Second},
		"reported by a success":     {func(ctx context.Context) error { sluice.ReportThrottle(ctx, 20*time.Second); return nil }, 24 * time.Second},
		"of a part": {func(ctx context.Context) error {
			sluice.ReportThrottle(ctx, 20*time.Second, sluice.ThrottlePart{Kind: "host", Key: "a"})
			return nil
		}, 24 * time.Second},
		"no throttle": {func(context.Context) error { return errTool }, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: 10 * time.Second})
				r := whoIsLate(t, b, tt.answer)
				defer r.end()
				for left := tt.until - r.at(); left > 0; left = tt.until - r.at() {
					refusedBy(t, r, "breaker", left)
					refusedBy(t, r, "breaker", left)
					assert.Equal(t, tt.until, r.gateState("breaker", "x").Until.Sub(r.start))
					wantState(t, b, "x", sluice.BreakerOpen)
					time.Sleep((left + 1) / 2)
				}
				wantState(t, b, "x", sluice.BreakerHalfOpen)
				require.NoError(t, r.call("x"))
				wantState(t, b, "x", sluice.BreakerClosed)
			})
		})
	}
}

// Reset lets calls start at once, whatever has been asked for. The tool itself still pauses.
func TestBreaker_ResetEndsWhatAThrottleKeepsOpen(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: 10 * time.Second})
		r := whoIsLate(t, b, func(context.Context) error { return &throttledBy{d: 30 * time.Second} })
		defer r.end()
		require.NoError(t, b.Reset("x"))
		wantRefusal(t, r.call("x"), sluice.ErrWaitTooLong, "tool/x concurrency", 30*time.Second)
	})
}

// A throttle opens nothing. A breaker that opens before its end stays open until then, if the call was subject
// to it; those of its ancestors have nothing to do with it.
func TestBreaker_AThrottleBeforeItOpens(t *testing.T) {
	bubble(t, func(t *testing.T) {
		breakers := map[string]*sluice.CircuitBreaker{}
		for name, s := range map[string]sluice.Scope{
			"both":  sluice.ForTool("x", "y"),
			"agent": sluice.ForTool("agent"),
			"other": sluice.ForTool("other"),
		} {
			breakers[name] = breakerOf(sluice.CircuitBreakerConfig{Name: name, Scope: s, Failures: 1, Cooldown: time.Second})
		}
		r := newRig(t, sluice.Config{MaxWait: sluice.NoWait, Interceptors: interceptors(breakers["both"], breakers["agent"], breakers["other"])})
		defer r.end()
		errThrottled := &throttledBy{d: 30 * time.Second}
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return errThrottled })
		works := false
		for _, name := range []string{"y", "other"} {
			r.tool(sluice.Spec{Name: name}, func(context.Context) error {
				if works {
					return nil
				}
				return errTool
			})
		}
		calls := true
		r.tool(sluice.Spec{Name: "agent"}, func(ctx context.Context) error {
			if !calls {
				return errTool
			}
			return errOf(r.Invoke(ctx, sluice.Request{Tool: "x"}))
		})
		require.Equal(t, errThrottled, r.call("agent"))
		for name, b := range breakers {
			assert.Equal(t, sluice.BreakerClosed, sluice.Must(b.State("")), name)
		}
		time.Sleep(25 * time.Second)
		calls = false
		for _, x := range []struct {
			tool, by string
			after    time.Duration
		}{{"y", "breaker/both", 5 * time.Second}, {"agent", "breaker/agent", time.Second}, {"other", "breaker/other", time.Second}} {
			require.Equal(t, errTool, r.call(x.tool))
			wantRefusal(t, r.call(x.tool), sluice.ErrBreakerOpen, x.by, x.after)
		}
		time.Sleep(5*time.Second - 1)
		wantRefusal(t, r.call("y"), sluice.ErrBreakerOpen, "breaker/both", 1)
		time.Sleep(time.Nanosecond)
		works = true
		require.NoError(t, r.call("y"))
	})
}

// A breaker's callers come and are refused without the lock while a throttle comes that keeps it open: once the
// throttle has been answered, and whoever was inside is gone, nobody starts.
func TestStorm_LateThrottles(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range rounds(50) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Duration(1+rnd.IntN(50_000))*time.Nanosecond + time.Microsecond})
		e := newExec(t, sluice.Config{MaxWait: sluice.NoWait, Interceptors: interceptors(b)})
		var ran atomic.Int64
		late := make(chan struct{})
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(_ context.Context, isLate bool) (int, error) {
			if ran.Add(1); isLate {
				<-late
				return 0, &throttledBy{d: time.Hour}
			}
			return 0, errTool
		}))
		var slow, others sync.WaitGroup
		slow.Go(func() { _, _ = f(t.Context(), true) })
		for ran.Load() == 0 {
			runtime.Gosched()
		}
		_, err := f(t.Context(), false) // opens it
		require.Equal(t, errTool, err)
		var done atomic.Bool
		for range 2 {
			others.Go(func() {
				for !done.Load() {
					_, _ = f(t.Context(), false)
					runtime.Gosched()
				}
			})
		}
		for range rnd.IntN(300) {
			runtime.Gosched()
		}
		close(late)
		slow.Wait()
		done.Store(true)
		others.Wait()
		before := ran.Load()
		for range 20 {
			_, err := f(t.Context(), false)
			var x *sluice.Error
			require.ErrorAs(t, err, &x)
			require.ErrorIs(t, err, sluice.ErrBreakerOpen)
			require.Greater(t, x.RetryAfter, 50*time.Second)
			require.LessOrEqual(t, x.RetryAfter, time.Minute)
		}
		require.Equal(t, before, ran.Load(), "calls that started")
		require.NoError(t, e.Close(t.Context()))
	}
}
