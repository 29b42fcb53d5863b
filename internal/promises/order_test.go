package promises_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Promise 5: whoever polls without waiting gets nothing that one who waits could have had at
// that instant, whether the timer that serves the waiter has fired or not.
func TestPromise05_PollersDoNotOvertakeWaiters(t *testing.T) {
	const period = 10 * ms
	perKey := func(n int64) *sluice.RateLimiter {
		return sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, Rates: []sluice.Rate{{N: n, Burst: 1}}}))
	}
	for name, gates := range map[string]func() []sluice.Interceptor{
		"in order of arrival": func() []sluice.Interceptor { return interceptors(rates(sluice.Rate{N: 100, Burst: 1})) },
		"by priority": func() []sluice.Interceptor {
			return interceptors(rates(sluice.Rate{N: 100, Burst: 1}), scheduler(sluice.PrioritySchedulerConfig{}))
		},
		"a rate for each key":     func() []sluice.Interceptor { return interceptors(perKey(100)) },
		"two rates":               func() []sluice.Interceptor { return interceptors(rates(sluice.Rate{N: 100, Burst: 1}), perKey(200)) },
		"a slot besides the rate": func() []sluice.Interceptor { return interceptors(rates(sluice.Rate{N: 100, Burst: 1}), atMost(5)) },
	} {
		for how, wait := range map[string]time.Duration{"not at all": sluice.NoWait, "for a microsecond": time.Microsecond} {
			t.Run(name+", pollers wait "+how, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Interceptors: gates()})
					defer r.end()
					r.ctx = t.Context()
					var live, polled atomic.Int64
					r.tool(sluice.Spec{Name: "live"}, func(context.Context) error { live.Add(1); return nil })
					r.tool(sluice.Spec{Name: "poll", Policy: sluice.Policy{MaxWait: wait}}, func(context.Context) error { polled.Add(1); return nil })
					require.NoError(t, r.call("live"))
					const span = 4 * time.Second
					ctx, cancel := context.WithDeadline(r.ctx, r.start.Add(span))
					defer cancel()
					var wg sync.WaitGroup
					for range 2 { // so that one of them waits whenever a token is due
						wg.Go(func() {
							for _, err := r.Invoke(ctx, sluice.Request{Tool: "live"}); err == nil; {
								_, err = r.Invoke(ctx, sluice.Request{Tool: "live"})
							}
						})
					}
					for range 20 {
						wg.Go(func() {
							for r.at() < span-period {
								time.Sleep(period - r.at()%period) // exactly when the next token is due
								_, _ = r.Invoke(r.ctx, sluice.Request{Tool: "poll"})
							}
						})
					}
					wg.Wait()
					if live.Load() != 400 || polled.Load() != 0 {
						t.Errorf("%d calls of those who wait and %d of those who poll started in 4 s, want all 400 of those who wait", live.Load(), polled.Load())
					}
				})
			})
		}
	}
}

// Whatever is due at an instant goes to who waits for it, though others come at that instant,
// before its timer has fired, or one nanosecond late.
func TestPromise05_WhatIsDueGoesToWhoWaits(t *testing.T) {
	const due = time.Second
	perTool := sluice.RateLimiterConfig{Scope: sluice.ByTool, Rates: []sluice.Rate{{N: 1}}}
	quick := func() *sluice.RateLimiter { return rates(sluice.Rate{N: 1e6, Burst: 1}) }
	for name, begin := range map[string]func(t *testing.T) *rig{
		"a token": func(t *testing.T) *rig {
			return spent(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 1}))})
		},
		"a token of a key": func(t *testing.T) *rig {
			return spent(t, sluice.Config{Interceptors: interceptors(sluice.Must(sluice.NewRateLimiter(perTool)))})
		},
		"a token, at the end of MaxWait": func(t *testing.T) *rig {
			return spent(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 1})), MaxWait: due})
		},
		"the end of a limiter's pause": func(t *testing.T) *rig {
			q := quick()
			assert.NoError(t, q.Pause("", due))
			return spent(t, sluice.Config{Interceptors: interceptors(q)}, "free")
		},
		"the end of the pause of a tool without limits": func(t *testing.T) *rig {
			r := spent(t, sluice.Config{}, "free")
			_, err := r.Invoke(r.ctx, sluice.Request{ID: "throttled", Tool: "x"})
			assert.NoError(t, err)
			return r
		},
	} {
		for _, late := range []time.Duration{0, 1} {
			t.Run(fmt.Sprint(name, ", others ", late, " late"), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := begin(t)
					defer r.end()
					poll := func() {
						time.Sleep(due + late - r.at())
						ctx, cancel := context.WithDeadline(r.as(sluice.PriorityBatch, ""), r.start.Add(due+late+1)) // now or never
						defer cancel()
						_, _ = r.Invoke(ctx, sluice.Request{ID: "poll", Tool: "x"})
					}
					var wg sync.WaitGroup
					for range 30 { // their timers are older than the stage's
						wg.Go(poll)
					}
					synctest.Wait()
					wg.Go(func() {
						_, err := r.Invoke(r.ctx, sluice.Request{ID: "waiter", Tool: "x"})
						assert.NoError(t, err)
					})
					synctest.Wait()
					for range 30 { // and those younger
						wg.Go(poll)
					}
					wg.Wait()
					for _, e := range r.rec.Events("x") {
						if e.Kind == sluice.ToolStarted && e.Time.Sub(r.start) >= due {
							if at := e.Time.Sub(r.start); e.Call.ID != "waiter" || at != due {
								t.Errorf("%s started first, at %v: want who waited, at %v", e.Call.ID, at, due)
							}
							break
						}
					}
				})
			})
		}
	}
}

// spent is an executor with the tool x, which one call has taken the token of unless free is
// said. Its call "throttled" has it paused for a second.
func spent(t *testing.T, c sluice.Config, free ...string) *rig {
	c.Interceptors = append(c.Interceptors, scheduler(sluice.PrioritySchedulerConfig{}))
	r := newRig(t, c)
	r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
		if c, _ := sluice.CallFrom(ctx); c.ID == "throttled" {
			sluice.ReportThrottle(ctx, time.Second)
		}
		return nil
	})
	if len(free) == 0 {
		require.NoError(t, r.call("x"))
	}
	return r
}

// A deadline ends a wait before what is due at that instant comes, and MaxWait after it: who
// comes at that instant gets what is left, and nobody is served twice.
func TestPromise05_DeadlineEndsAWaitBeforeWhatIsDueThen(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := spent(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 1}))})
		defer r.end()
		ctx, cancel := context.WithDeadline(r.ctx, r.start.Add(2*time.Second))
		defer cancel()
		// The first takes the token of 1 s; that of 2 s comes too late for the second.
		wait := inOrder(2, func(int) { _, _ = r.Invoke(ctx, sluice.Request{Tool: "x"}) })
		time.Sleep(2 * time.Second)
		require.NoError(t, r.call("x"))
		assert.Equal(t, 2*time.Second, r.at(), "the newcomer started at: the token of that instant was nobody's")
		wait()
	})
}

// A breaker's probe goes by the same rule: whoever comes when the cooldown is over probes, one
// of them, and a call whose own time ends then is not it.
func TestPromise05_ProbesAreDueBeforeTheirTimer(t *testing.T) {
	for _, late := range []time.Duration{-1, 0, 1} {
		bubble(t, func(t *testing.T) {
			b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Second, Probes: 1})
			r := newRig(t, sluice.Config{Interceptors: interceptors(b)})
			defer r.end()
			var ran atomic.Int64
			r.tool(sluice.Spec{Name: "x"}, func(context.Context) error {
				if ran.Add(1) == 1 {
					return errTool
				}
				time.Sleep(ms)
				return nil
			})
			_ = r.call("x")
			var open, at time.Duration
			s, err := b.State("x")
			require.NoError(t, err)
			require.Equal(t, sluice.BreakerOpen, s, "the breaker")
			var e *sluice.Error
			if err := r.call("x"); !errors.As(err, &e) || e.Reason != sluice.ErrBreakerOpen {
				t.Fatal(err)
			}
			open, at = e.RetryAfter, r.at()
			time.Sleep(open + late)
			parallel(20, func(int) { _ = r.call("x") })
			want := int64(2)
			if late < 0 {
				want = 1
			}
			if n := ran.Load(); n != want {
				t.Errorf("%d ran by %v after the breaker opened, want %d", n, r.at()-at, want)
			}
		})
	}
}

// Promise 5: who is refused by what others do not share delays nobody, and a bucket is
// paid in its own order.
func TestPromise05_NoHeadOfLineBlocking(t *testing.T) {
	for _, ordered := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			gates := interceptors(atMost(2),
				sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ForTool("rated"), Rates: []sluice.Rate{{N: 1}}})),
				limitsOf(sluice.Limit{Max: 1, Scope: sluice.ForTool("narrow")}))
			if ordered {
				gates = append(gates, scheduler(sluice.PrioritySchedulerConfig{}))
			}
			r := newRig(t, sluice.Config{Interceptors: gates})
			defer r.end()
			var order log
			for name, takes := range map[string]time.Duration{"rated": 0, "narrow": 5 * time.Second, "free": 10 * ms} {
				r.tool(sluice.Spec{Name: name}, func(ctx context.Context) error {
					c, _ := sluice.CallFrom(ctx)
					order.add("%s@%v", c.ID, r.at())
					time.Sleep(takes)
					return nil
				})
			}
			var wg sync.WaitGroup
			call := func(id, tool string) {
				wg.Go(func() { assert.NoError(t, errOf(r.Invoke(r.ctx, sluice.Request{ID: id, Tool: tool}))) })
				synctest.Wait()
			}
			call("n1", "narrow")
			call("n2", "narrow") // waits for its own limit
			call("r1", "rated")
			call("r2", "rated") // waits for its own rate
			call("r3", "rated")
			call("f1", "free")
			call("f2", "free") // waits for the last slot
			call("f3", "free")
			wg.Wait()
			assert.Equal(t, "n1@0s r1@0s f1@0s f2@10ms f3@20ms r2@1s r3@2s n2@5s", order.String(),
				"ordered %v", ordered)
		})
	}
}

// Promise 6: tenants that both wait differ by at most 1/wi + 1/wj calls per weight, and
// neither a wide call nor one that needs two contended limits starves.
func TestPromise06_TenantsAreFair(t *testing.T) {
	bubble(t, func(t *testing.T) {
		weights := map[string]int{"one": 1, "two": 2, "five": 5}
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), scheduler(sluice.PrioritySchedulerConfig{TenantWeights: weights}))})
		defer r.end()
		done := map[string]float64{}
		var mu sync.Mutex
		r.tool(sluice.Spec{Name: "work"}, func(ctx context.Context) error {
			c, _ := sluice.CallFrom(ctx)
			mu.Lock()
			defer mu.Unlock()
			done[c.Pipeline.Tenant]++
			for i, wi := range weights {
				for j, wj := range weights {
					di, dj := done[i]/float64(wi), done[j]/float64(wj)
					if di-dj > 1/float64(wi)+1/float64(wj)+1e-9 {
						t.Errorf("%s had %v per weight, %s %v", i, di, j, dj)
					}
				}
			}
			return nil
		})
		r.tool(sluice.Spec{Name: "block"}, sleeps(time.Second))
		r.busy("block")
		var waits []func()
		for tenant, w := range weights {
			ctx := r.as(0, tenant)
			waits = append(waits, inOrder(40*w, func(int) { assert.NoError(t, errOf(r.Invoke(ctx, sluice.Request{Tool: "work"}))) }))
		}
		for _, wait := range waits {
			wait()
		}
	})
}

func TestPromise06_WideAndCrossingCallsDoNotStarve(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(
			sluice.Limit{Max: 4, Unit: "MB"}, sluice.Limit{Max: 2, Scope: sluice.ForTool("left", "both")}, sluice.Limit{Max: 2, Scope: sluice.ForTool("right", "both")}),
			scheduler(sluice.PrioritySchedulerConfig{}))})
		defer r.end()
		r.ctx = t.Context()
		weigh := func(n int64) sluice.Policy {
			return sluice.Policy{Cost: func(sluice.Call, string) int64 { return n }}
		}
		var g gauge
		r.tool(sluice.Spec{Name: "left", Policy: weigh(1)}, sleeps(7*ms))
		r.tool(sluice.Spec{Name: "right", Policy: weigh(1)}, sleeps(11*ms))
		r.tool(sluice.Spec{Name: "both", Policy: weigh(1)}, g.counts(5*ms))
		r.tool(sluice.Spec{Name: "wide", Policy: weigh(4)}, g.counts(5*ms))
		stop := atomic.Bool{}
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * ms)
				for !stop.Load() {
					assert.NoError(t, r.call([]string{"left", "right"}[i%2]))
				}
			})
		}
		time.Sleep(100 * ms)
		for _, tool := range []string{"both", "wide", "both", "wide"} {
			came := r.at()
			require.NoError(t, r.call(tool))
			if waited := r.at() - came; waited > 300*ms {
				t.Errorf("%s waited %v among calls of 7 and 11 ms", tool, waited)
			}
		}
		stop.Store(true)
		wg.Wait()
	})
}

// A run's priority goes before its tool's, and zero asks for none; so each of the nine can
// be asked for. A nested call has at least its caller's.
func TestPriority_IsTheRunsThenTheToolsAndAtLeastTheCallers(t *testing.T) {
	const unset = sluice.Priority(0)
	for _, tc := range []struct{ run, tool, want sluice.Priority }{
		{unset, unset, sluice.PriorityNormal},
		{unset, sluice.PriorityBatch, sluice.PriorityBatch},
		{unset, sluice.PriorityInteractive, sluice.PriorityInteractive},
		{sluice.PriorityNormal, sluice.PriorityInteractive, sluice.PriorityNormal},
		{sluice.PriorityNormal, sluice.PriorityBatch, sluice.PriorityNormal},
		{sluice.PriorityBatch, unset, sluice.PriorityBatch},
		{sluice.PriorityInteractive, sluice.PriorityBatch, sluice.PriorityInteractive},
		{4, 6, 4},
	} {
		t.Run(fmt.Sprintf("run %d, tool %d", tc.run, tc.tool), func(t *testing.T) {
			r := newRig(t, sluice.Config{})
			var got [2]sluice.Priority
			seen := func(ctx context.Context, i int) {
				c, _ := sluice.CallFrom(ctx)
				got[i] = c.Priority
			}
			r.tool(sluice.Spec{Name: "inner", Policy: sluice.Policy{Priority: sluice.PriorityBatch}}, func(ctx context.Context) error {
				seen(ctx, 1)
				return nil
			})
			r.tool(sluice.Spec{Name: "outer", Policy: sluice.Policy{Priority: tc.tool}}, func(ctx context.Context) error {
				seen(ctx, 0)
				_, err := r.Invoke(sluice.WithPipelineContext(ctx, sluice.PipelineContext{}), sluice.Request{Tool: "inner"})
				return err
			})
			require.NoError(t, errOf(r.Invoke(r.as(tc.run, ""), sluice.Request{Tool: "outer"})))
			assert.Equal(t, [2]sluice.Priority{tc.want, tc.want}, got,
				"the call and the one nested in it ran at, want %d", tc.want)
		})
	}
}

// A priority out of range is refused, and no event tells one.
func TestPriority_OutOfRangeIsRefused(t *testing.T) {
	for _, p := range []sluice.Priority{-128, -4, -1, 10, 127} {
		r := newRig(t, sluice.Config{})
		r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Priority: 3}}, func(context.Context) error { return nil })
		_, err := r.Invoke(r.as(p, ""), sluice.Request{Tool: "x"})
		want := fmt.Sprintf(`sluice: tool "x": invalid arguments: sluice: PipelineContext.Priority is %d: must be zero (the tool's) or from 1 to 9`, p)
		assert.ErrorIs(t, err, sluice.ErrInvalidArguments)
		assert.ErrorIs(t, err, sluice.ErrRejected)
		assert.EqualError(t, err, want)
		for _, e := range r.rec.Events() {
			assert.Equal(t, sluice.Priority(3), e.Call.Priority,
				"priority %d asked for: %s tells priority", p, e.Kind)
		}
	}
}

// Waiters of one instant go in the order they came.
func TestWaitersOfOneInstantStartInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Millisecond}}}))
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{rates}})
		var mu sync.Mutex
		var order []int
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "a"}, func(_ context.Context, i int) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, i)
			return i, nil
		}))
		_, err := f(t.Context(), 0)
		require.NoError(t, err)
		var wg sync.WaitGroup
		for i := 1; i <= 50; i++ {
			wg.Go(func() {
				_, err := f(t.Context(), i)
				assert.NoError(t, err)
			})
			synctest.Wait()
		}
		wg.Wait()
		for i, n := range order {
			require.Equal(t, i, n, "order %v", order)
		}
	})
}

// A wide call among narrow ones starts after at most 4 overtakes and the time that those
// who run then need to end.
func TestPromise06_WideCallStartsWithinItsClaim(t *testing.T) {
	for _, width := range []int64{2, 5, 8} {
		t.Run(fmt.Sprint("width ", width), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const call = 8 * ms
				r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 8, Unit: "MB"}), scheduler(sluice.PrioritySchedulerConfig{}))})
				defer r.end()
				r.ctx = t.Context()
				weigh := func(n int64) sluice.Policy {
					return sluice.Policy{Cost: func(sluice.Call, string) int64 { return n }}
				}
				var order log
				r.tool(sluice.Spec{Name: "narrow", Policy: weigh(1)}, func(ctx context.Context) error {
					c, _ := sluice.CallFrom(ctx)
					order.add("%s", c.ID)
					time.Sleep(call)
					return nil
				})
				started, overtakes := time.Duration(0), 0
				r.tool(sluice.Spec{Name: "wide", Policy: weigh(width)}, func(context.Context) error {
					started = r.at()
					order.mu.Lock()
					for _, id := range order.list {
						if id == "later" {
							overtakes++
						}
					}
					order.mu.Unlock()
					return nil
				})
				var wg sync.WaitGroup
				send := func(tool, id string) {
					f := r.Submit(r.ctx, sluice.Request{Tool: tool, ID: id})
					wg.Go(func() { assert.NoError(t, errOf(f.Wait(r.ctx))) })
					synctest.Wait()
				}
				for range 8 { // one ends each millisecond
					send("narrow", "earlier")
					time.Sleep(ms)
				}
				for range 3 {
					send("narrow", "earlier")
				}
				came := r.at()
				send("wide", "wide")
				for range 40 {
					send("narrow", "later")
					send("narrow", "later")
					time.Sleep(ms)
				}
				wg.Wait()
				t.Logf("weight %d of 8 waited %v and was overtaken %d times", width, started-came, overtakes)
				if overtakes > 4 {
					t.Errorf("overtaken %d times, want at most 4", overtakes)
				}
				// 3 that came earlier and 4 that overtake, at one a millisecond; then those that run end.
				if most := 7*ms + call; started-came > most {
					t.Errorf("waited %v, want at most %v", started-came, most)
				}
			})
		})
	}
}
