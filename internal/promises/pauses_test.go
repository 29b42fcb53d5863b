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
func TestPause_LiftsPauseAndDebtAtOnce(t *testing.T) {
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

// RateLimiter.Pause holds a key without a call; a longer pause stays, zero ends it, and
// the key re-opens with one token either way.
func TestPause_HoldsAKeyWithoutACall(t *testing.T) {
	type step struct {
		at, d time.Duration
	}
	for _, x := range []struct {
		name  string
		steps []step
		want  time.Duration // of the first start after; one token takes 1 s, burst 3
	}{
		{"once", []step{{0, 10 * time.Second}}, 10 * time.Second},
		{"a shorter one changes nothing", []step{{0, 10 * time.Second}, {2 * time.Second, time.Second}}, 10 * time.Second},
		{"a longer one holds", []step{{0, 10 * time.Second}, {2 * time.Second, 20 * time.Second}}, 22 * time.Second},
		{"ended", []step{{0, time.Hour}, {2 * time.Second, 0}}, 2 * time.Second},
		{"ended by a negative one", []step{{0, time.Hour}, {2 * time.Second, -1}}, 2 * time.Second},
		{"ended, and again", []step{{0, time.Hour}, {2 * time.Second, 0}, {2500 * time.Millisecond, 5 * time.Second}}, 2 * time.Second},
		{"ended after two", []step{{0, time.Hour}, {time.Second, 2 * time.Hour}, {2 * time.Second, 0}}, 2 * time.Second},
		{"at most a day", []step{{0, 1 << 62}}, day},
		{"ended without one", []step{{0, 0}}, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: byAPIKey, Rates: []sluice.Rate{{N: 1, Burst: 3}}}))
				r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
				defer r.end()
				var mu sync.Mutex
				var starts []time.Duration
				r.tool(sluice.Spec{Name: "fetch"}, func(context.Context) error {
					mu.Lock()
					defer mu.Unlock()
					starts = append(starts, r.at())
					return nil
				})
				r.tool(sluice.Spec{Name: "else"}, sleeps(0))
				q.Pause("a", x.steps[0].d)
				wait := inOrder(3, func(int) { assert.NoError(t, errOf(r.Invoke(r.withKey("a"), sluice.Request{Tool: "fetch"}))) })
				came := r.at()
				require.NoError(t, errOf(r.Invoke(r.withKey("b"), sluice.Request{Tool: "else"})))
				if r.at() != came {
					t.Errorf("another key waited %v", r.at()-came)
				}
				for _, s := range x.steps[1:] {
					time.Sleep(s.at - r.at())
					q.Pause("a", s.d)
				}
				wait()
				gap := time.Second
				if x.want == 0 {
					gap = 0
				}
				want := []time.Duration{x.want, x.want + gap, x.want + 2*gap}
				if x.name == "ended, and again" { // the first was at 2 s
					want[1], want[2] = 7500*ms, 8500*ms
				}
				assert.Equal(t, want, starts, "starts")
			})
		})
	}
}

// Debt is owed through a pause, and is still owed when that is lifted.
func TestPause_ForgivesNoDebt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := rates(sluice.Rate{N: 1, Unit: "tokens", Burst: 10})
		r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
		defer r.end()
		r.tool(sluice.Spec{Name: "ask", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 1 }}}, func(ctx context.Context) error {
			sluice.ReportUsage(ctx, "tokens", 100) // 90 in debt
			return nil
		})
		r.tool(sluice.Spec{Name: "next", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 1 }}}, sleeps(0))
		require.NoError(t, r.call("ask"))
		q.Pause("", 10*time.Second)
		time.Sleep(5 * time.Second)
		q.Pause("", 0)
		require.NoError(t, r.call("next"))
		assert.Equal(t, 91*time.Second, r.at(), "the next call went at")
	})
}

// Nobody starts between the pause of one key of a throttle and that of the next: not even
// who waited for slots that were kept for another, whom the first of them holds.
func TestPause_HoldsAllItsKeysBeforeAnybodyStarts(t *testing.T) {
	for _, how := range []string{"Pause", "ReportThrottle"} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "api", Upstream: true,
					Rates: []sluice.Rate{{N: 1000, Unit: "a"}, {N: 1000, Unit: "b"}}}))
				r := newRig(t, sluice.Config{Interceptors: interceptors(q, limitsOf(sluice.Limit{Max: 4, Unit: "weight"}))})
				defer r.end()
				tool := func(name string, costs map[string]int64, f func(context.Context) error) {
					r.tool(sluice.Spec{Name: name, Policy: sluice.Policy{Cost: func(_ sluice.Call, u string) int64 { return costs[u] }}}, f)
				}
				pause := make(chan struct{})
				tool("holder", map[string]int64{"weight": 2}, func(ctx context.Context) error {
					<-pause
					if how == "Pause" {
						q.Pause("", 30*time.Second)
					} else {
						sluice.ReportThrottle(ctx, 30*time.Second)
					}
					time.Sleep(time.Second)
					return nil
				})
				var last time.Duration
				tool("wide", map[string]int64{"weight": 4, "a": 1}, sleeps(0))
				tool("small", map[string]int64{"weight": 1, "b": 1}, func(context.Context) error { last = r.at(); return nil })
				var wg sync.WaitGroup
				for _, tool := range []string{"holder", "wide"} {
					wg.Go(func() { assert.NoError(t, r.call(tool)) })
					synctest.Wait()
				}
				for r.Snapshot().Queued < 2 { // until the slots are kept for the wide one
					if r.at() > time.Second {
						t.Fatal("nothing is kept for the wide call")
					}
					time.Sleep(ms)
					wg.Go(func() { assert.NoError(t, r.call("small")) })
					synctest.Wait()
				}
				at := r.at()
				close(pause)
				wg.Wait()
				if last < at+30*time.Second {
					t.Errorf("a small call started at %v, want none before %v", last, at+30*time.Second)
				}
			})
		})
	}
}

// Calls that wait for the end of a pause do not make a limit look stalled: it has released
// nothing because nobody held it. What follows the pause is watched from its end on.
func TestPause_IsNoStall(t *testing.T) {
	for _, end := range []string{"by itself", "lifted"} {
		t.Run(end, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				reg := sluice.NewToolRegistry()
				var told []time.Duration
				var r *rig
				r = rigOver(t, reg, sluice.Config{Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
					if e.Kind == sluice.LimitStalled {
						told = append(told, r.at())
					}
					return nil
				})})
				defer r.end()
				r.ctx = t.Context()
				first := true
				r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Concurrency: 1}}, func(ctx context.Context) error {
					if first {
						first = false
						sluice.ReportThrottle(ctx, time.Minute)
						return nil
					}
					time.Sleep(100 * time.Second)
					return nil
				})
				require.NoError(t, r.call("x"))
				time.Sleep(ms)
				wait := inOrder(2, func(int) { assert.NoError(t, r.call("x")) })
				from := time.Minute
				if end == "lifted" {
					time.Sleep(50 * time.Second)
					from = r.at()
					require.NoError(t, reg.Lift("x"))
				}
				wait()
				if len(told) != 1 || told[0] != from+time.Minute {
					t.Errorf("told at %v, want once, a minute after %v: the limit's only call runs for 100 s from then on", told, from)
				}
			})
		})
	}
}
