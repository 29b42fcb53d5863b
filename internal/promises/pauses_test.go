package promises_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// starts is when calls of a tool began, from the executor's beginning on.
func (r *rig) starts(tool string) (list []time.Duration) {
	for _, e := range r.rec.Events(tool) {
		if e.Kind == sluice.ToolStarted {
			list = append(list, e.Time.Sub(r.start))
		}
	}
	return list
}

// A pause holds its key and takes no quota: a rate that refills slowly has what it had, one
// that refills within the pause, or a minute, re-opens with one token at most.
func TestPause_TakesNoQuota(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Upstream: true,
			Rates: []sluice.Rate{{N: 10, Per: time.Minute}, {N: 250, Per: day}}}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
		defer r.end()
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
			if r.at() == 0 {
				sluice.ReportThrottle(ctx, 30*time.Second)
			}
			return nil
		})
		require.NoError(t, r.call("x"))
		parallel(240, func(int) { assert.NoError(t, r.call("x")) })
		// At 30 s one, and then one each 6 s, as the minute's rate refills.
		want := []time.Duration{0}
		for i := range 240 {
			want = append(want, 30*time.Second+time.Duration(i)*6*time.Second)
		}
		if got := r.starts("x"); !slices.Equal(got, want) {
			t.Errorf("starts %v, want %v", got[:min(len(got), 20)], want[:20])
		}
	})
}

// What running calls give back during a pause is not there at its end, whenever they end, and
// however little they used.
func TestPause_RefundsDoNotOpenIt(t *testing.T) {
	for _, unit := range []string{"", "tokens"} {
		for _, back := range []string{"report", "denial"} {
			t.Run(fmt.Sprintf("%q by %s", unit, back), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					q := rates(sluice.Rate{N: 10, Per: 10 * time.Second, Unit: unit})
					inside := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
						return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
							if s.Name == "long" && back == "denial" {
								time.Sleep(15 * time.Second)
								return sluice.Result{}, errTool
							}
							return next(ctx, c)
						}
					})
					r := newRig(t, sluice.Config{Interceptors: interceptors(q, inside)})
					defer r.end()
					one := sluice.Policy{Cost: func(sluice.Call, string) int64 { return 1 }}
					r.tool(sluice.Spec{Name: "long", Policy: one}, func(ctx context.Context) error {
						time.Sleep(15 * time.Second)
						sluice.ReportUsage(ctx, unit, 0)
						return nil
					})
					r.tool(sluice.Spec{Name: "x", Policy: one}, sleeps(0))
					wait := inOrder(8, func(int) { _ = r.call("long") })
					require.NoError(t, q.Pause("", 20*time.Second))
					var wg sync.WaitGroup
					for range 8 {
						wg.Go(func() { assert.NoError(t, r.call("x")) })
					}
					wg.Wait()
					wait()
					var want []time.Duration
					for i := range 8 {
						want = append(want, time.Duration(20+i)*time.Second)
					}
					assert.Equal(t, want, r.starts("x"), "starts")
				})
			})
		}
	}
}

// Who costs nothing waits for the end of a pause like others, whether it came before the pause
// or meanwhile: the upstream asked for quiet.
func TestPause_HoldsCallsThatCostNothing(t *testing.T) {
	for _, n := range []int64{0, 1} {
		bubble(t, func(t *testing.T) {
			q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Upstream: true, Rates: []sluice.Rate{{N: 1000, Unit: "tokens"}}}))
			r := newRig(t, sluice.Config{Interceptors: interceptors(q, limitsOf(sluice.Limit{Max: 1, Scope: sluice.ForTool("queued")}))})
			defer r.end()
			p := sluice.Policy{Cost: func(sluice.Call, string) int64 { return n }}
			r.tool(sluice.Spec{Name: "queued", Policy: p}, sleeps(2*time.Second))
			r.tool(sluice.Spec{Name: "x", Policy: p}, sleeps(0))
			r.tool(sluice.Spec{Name: "throttled", Policy: p}, func(context.Context) error { return retryIn(10 * time.Second) })
			wait := inOrder(2, func(int) { assert.NoError(t, r.call("queued")) }) // the second waits for its slot, then for the pause
			require.Error(t, r.call("throttled"), "not throttled")
			time.Sleep(5 * time.Second)
			require.NoError(t, r.call("x"))
			wait()
			// In the order in which they came, the second of the ramp a second later.
			assert.Equal(t, "[0s 10s] [11s]", fmt.Sprint(r.starts("queued"), r.starts("x")), "cost %d: starts", n)
		})
	}
}

// What a pause held does not start at one instant when it ends: a key, or a tool without
// limits, re-opens with one call, then with one more for each success, and at least twice as
// many with each second.
func TestPause_ReopensInARamp(t *testing.T) {
	const calls, pause = 100, 30 * time.Second
	ramp := func(t *testing.T, takes time.Duration, fails bool) (peak []int64) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{})
			defer r.end()
			var g gauge
			r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
				if r.at() == 0 {
					return retryIn(pause)
				}
				defer func(err error) { _ = err }(g.counts(takes)(ctx))
				if fails {
					return errTool
				}
				return nil
			})
			_ = r.call("x")
			wait := inOrder(calls, func(int) { _ = r.call("x") })
			time.Sleep(pause - 1)
			assert.Zero(t, g.total.Load(), "started in the pause")
			time.Sleep(time.Nanosecond)
			for range 8 {
				synctest.Wait()
				peak = append(peak, g.total.Load())
				time.Sleep(time.Second)
			}
			wait()
		})
		return peak
	}
	// Calls of an hour: none has ended, so 1, 2, 4 … by the second.
	assert.Equal(t, []int64{1, 2, 4, 8, 16, 32, 64, 100}, ramp(t, time.Hour, false),
		"started by each second after the pause")
	// Those that fail say nothing good: as many at once as the seconds allow.
	assert.Equal(t, []int64{1, 2, 4, 8, 16, 32, 64, 100}, ramp(t, time.Hour, true),
		"started by each second after the pause, failing")
	// Calls of 100 ms that succeed: 1, 2, 3 … at once, one more for each success.
	assert.Equal(t, []int64{1, 100}, ramp(t, 100*ms, false)[:2],
		"started by each second after the pause, successes")
}

// Who is refused in the ramp is told when it lets one more start, whatever becomes of those
// that run.
func TestPause_RefusalsInTheRampSayWhen(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{MaxWait: sluice.NoWait})
		defer r.end()
		r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
			if r.at() == 0 {
				sluice.ReportThrottle(ctx, 5*time.Second)
				return nil
			}
			time.Sleep(time.Hour)
			return nil
		})
		require.NoError(t, r.call("x"))
		wantRefusal(t, r.call("x"), sluice.ErrWaitTooLong, "tool/x concurrency", 5*time.Second)
		time.Sleep(5 * time.Second)
		for _, n := range []int{1, 1, 2, 4} { // so many more each second
			for range n {
				r.busy("x")
			}
			time.Sleep(300 * ms)
			wantRefusal(t, r.call("x"), sluice.ErrWaitTooLong, "tool/x concurrency", 700*ms)
			time.Sleep(700 * ms)
		}
		time.Sleep(time.Hour)
	})
}

// An operator lifts a pause and what a key owes at once, without a ramp: of a limiter's key,
// and of a tool.
func TestPause_Lift(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, Rates: []sluice.Rate{{N: 10, Per: time.Hour, Unit: "tokens"}}}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
		defer r.end()
		one := sluice.Policy{Cost: func(sluice.Call, string) int64 { return 1 }, Rates: []sluice.Rate{{N: 10, Per: time.Hour, Unit: "tokens"}}}
		r.tool(sluice.Spec{Name: "x", Policy: one}, func(ctx context.Context) error {
			if r.at() == 0 {
				sluice.ReportUsage(ctx, "tokens", 1<<50)
				sluice.ReportThrottle(ctx, time.Hour)
			}
			return nil
		})
		require.NoError(t, r.call("x"))
		require.NoError(t, q.Pause(r.pc.OrgID, 20*time.Hour))
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { assert.NoError(t, r.call("x")) })
		}
		time.Sleep(30 * time.Minute)
		assert.Len(t, r.starts("x"), 1, "started")
		require.NoError(t, q.Lift(r.pc.OrgID))
		synctest.Wait()
		assert.Len(t, r.starts("x"), 1, "started though the tool owes")
		require.NoError(t, r.reg.Lift("x"))
		wg.Wait()
		// Both are empty then: a token each six minutes.
		want := []time.Duration{0, 36 * time.Minute, 42 * time.Minute, 48 * time.Minute}
		assert.Equal(t, want, r.starts("x"), "starts")
		for key, err := range map[string]error{"unknown tool": r.reg.Lift("y"), "nil": (*sluice.ToolRegistry)(nil).Lift("x")} {
			assert.Error(t, err, "%s: no error", key)
		}
	})
}
