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
func TestPromise05_AnInstantThatEndsAWait(t *testing.T) {
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
