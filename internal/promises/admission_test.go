package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
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

// Promise 1: a waiting call holds nothing. Fifty callers of a tool of one call a second
// leave an unrelated tool behind the same global limit what it has alone.
func TestPromise01_WaitersHoldNothing(t *testing.T) {
	const span = 3*time.Second - 5*ms // not at an instant at which calls end
	count := func(t *testing.T, noisy bool, gates ...sluice.Interceptor) (n int64) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: gates})
			defer r.end()
			r.ctx = t.Context()
			r.tool(sluice.Spec{Name: "slow"}, sleeps(0))
			var g gauge
			r.tool(sluice.Spec{Name: "busy"}, g.counts(10*ms))
			ctx, cancel := context.WithDeadline(r.ctx, r.start.Add(span))
			defer cancel()
			var wg sync.WaitGroup
			if noisy {
				for range 50 {
					wg.Go(func() {
						for ctx.Err() == nil {
							_, _ = r.Invoke(ctx, sluice.Request{Tool: "slow"})
							time.Sleep(ms)
						}
					})
				}
				synctest.Wait()
				assert.Zero(t, r.gateState("concurrency global", "").Used, "slots held by callers that wait")
			}
			for range 8 {
				wg.Go(func() {
					for ctx.Err() == nil {
						_, _ = r.Invoke(ctx, sluice.Request{Tool: "busy"})
					}
				})
			}
			wg.Wait()
			n = g.total.Load()
		})
		return n
	}
	permutations([]int{0, 1, 2}, func(order []int) {
		gates := func() []sluice.Interceptor {
			all := interceptors(atMost(8), scheduler(sluice.PrioritySchedulerConfig{}),
				sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ForTool("slow"), Rates: []sluice.Rate{{N: 1}}})))
			return interceptors(all[order[0]], all[order[1]], all[order[2]])
		}
		alone, beside := count(t, false, gates()...), count(t, true, gates()...)
		if alone != 2400 || beside != 2400 { // what is slow takes no time once it has its token
			t.Errorf("order %v: %d calls alone, %d beside fifty waiters, want 2400 both", order, alone, beside)
		}
	})
}

// Promise 2: a call that one gate refuses has taken nothing from the others.
func TestPromise02_AllOrNothing(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: "slots",
				Limits: []sluice.Limit{{Max: 1, Refuse: refuse}, {Max: 4, Scope: sluice.ByTenant}, {Max: 40, Unit: "MB"}}}))
			first := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "first", Rates: []sluice.Rate{{N: 5, Per: time.Hour}, {N: 100, Per: time.Hour, Unit: "MB"}}, Refuse: refuse}))
			second := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "second", Scope: sluice.ByType, Rates: []sluice.Rate{{N: 3, Per: time.Hour}}, Refuse: refuse}))
			cuts := breakerOf(sluice.CircuitBreakerConfig{Name: "cuts", Scope: sluice.Global, Failures: 1, Cooldown: time.Second, Probes: 1})
			r := newRig(t, sluice.Config{Interceptors: interceptors(first, slots, cuts, second), MaxWait: time.Minute})
			defer r.end()
			fails := true
			r.tool(sluice.Spec{Name: "work", Policy: sluice.Policy{Cost: func(_ sluice.Call, unit string) int64 {
				return map[string]int64{"MB": 7, "": 1}[unit]
			}}}, func(context.Context) error {
				if fails {
					return errTool
				}
				time.Sleep(10 * time.Second)
				return nil
			})
			usage := func() string {
				var b strings.Builder
				for _, g := range r.Snapshot().Gates {
					if !strings.HasPrefix(g.Name, "tool/") {
						fmt.Fprintf(&b, "%s=%d ", strings.TrimPrefix(strings.TrimPrefix(g.Name, "concurrency/"), "rate/"), g.Used)
					}
				}
				return b.String()
			}
			want := func(when, w string) {
				t.Helper()
				assert.Equal(t, w, usage(), when)
			}
			if err := r.call("work"); err != errTool { // opens the breaker; no slot is held
				t.Error(err)
			}
			after := "breaker/cuts=0 slots MB global=0 slots global=0 slots per tenant=0 first MB per hour=7 first calls per hour=1 second calls per hour=1 "
			want("after a failure", after)
			for range 20 {
				wantRefusal(t, r.call("work"), sluice.ErrBreakerOpen, "breaker/cuts", time.Second)
			}
			want("refused by the breaker", after)
			fails = false
			time.Sleep(time.Second)
			r.busy("work") // the probe
			holding := "breaker/cuts=0 slots MB global=7 slots global=1 slots per tenant=1 first MB per hour=14 first calls per hour=2 second calls per hour=2 "
			want("while the probe runs", holding)
			for range 20 {
				_ = r.call("work")
			}
			want("refused while the probe runs", holding)
			time.Sleep(11 * time.Second)
			r.busy("work") // the recovering breaker lets one through
			held := "breaker/cuts=0 slots MB global=7 slots global=1 slots per tenant=1 first MB per hour=21 first calls per hour=3 second calls per hour=3 "
			want("in the recovery", held)
			time.Sleep(11 * time.Second)
			before := usage()
			for range 20 { // the second rate is empty now
				if refuse {
					wantRefusal(t, r.call("work"), sluice.ErrRateLimited, "rate/second calls per hour", time.Until(r.start.Add(20*time.Minute)))
				} else {
					wantRefusal(t, r.call("work"), sluice.ErrWaitTooLong, "rate/second calls per hour", time.Until(r.start.Add(20*time.Minute)))
				}
			}
			want("refused by a rate", before)
		})
	}
}

// The order in which gates are listed changes nothing.
func TestPromise02_OrderOfGatesIsIrrelevant(t *testing.T) {
	var first string
	permutations([]int{0, 1, 2, 3}, func(order []int) {
		bubble(t, func(t *testing.T) {
			all := interceptors(
				breakerOf(sluice.CircuitBreakerConfig{Failures: 3, Cooldown: 200 * ms, Probes: 2}),
				limitsOf(sluice.Limit{Max: 3}, sluice.Limit{Max: 2, Scope: sluice.ByType}, sluice.Limit{Max: 2, Scope: sluice.ByTenant}),
				rates(sluice.Rate{N: 40, Burst: 4}, sluice.Rate{N: 900, Per: time.Minute, Burst: 20}),
				scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 12, Ageing: 2, TenantWeights: map[string]int{"b": 2}}))
			var list []sluice.Interceptor
			for _, i := range order {
				list = append(list, all[i])
			}
			r := newRig(t, sluice.Config{Interceptors: list, MaxWait: 300 * ms})
			defer r.end()
			var story log
			for _, name := range []string{"x", "y", "z"} {
				_, err := sluice.Register(r.reg, sluice.Spec{Name: name, Type: map[string]string{"x": "1", "y": "1", "z": "2"}[name]},
					func(_ context.Context, i int) (int, error) {
						story.add("%d@%v", i, r.at())
						time.Sleep(time.Duration(7+i%13) * ms)
						if i/50%3 == 1 {
							return 0, errTool
						}
						return i, nil
					})
				require.NoError(t, err)
			}
			rnd := rand.New(rand.NewPCG(3, 4))
			var wg sync.WaitGroup
			for i := range 300 {
				tool := []string{"x", "y", "z"}[rnd.IntN(3)]
				ctx := r.as(sluice.Priority(1+rnd.IntN(9)), []string{"a", "b", "c"}[rnd.IntN(3)])
				patience := time.Duration(1+rnd.IntN(400))*ms + 137*time.Microsecond
				wg.Go(func() {
					c, cancel := context.WithTimeout(ctx, patience)
					defer cancel()
					if _, err := r.Invoke(c, sluice.Request{ID: fmt.Sprint(i), Tool: tool, Input: i}); err != nil {
						story.add("%d@%v %v", i, r.at(), err)
					}
				})
				synctest.Wait()
				time.Sleep(time.Duration(1+rnd.IntN(30))*ms + time.Duration(i)) // no two things at one instant
			}
			wg.Wait()
			slices.Sort(story.list) // what happens at one instant happens in no order
			got := story.String()
			if first == "" {
				first = got
			}
			if got != first {
				i := 0
				for i < min(len(got), len(first)) && got[i] == first[i] {
					i++
				}
				i = max(0, i-100)
				t.Errorf("order %v tells another story from here:\n got %.300s\nwant %.300s", order, got[i:], first[i:])
			}
		})
	})
	if !strings.Contains(first, "breaker open") || !strings.Contains(first, "wait too long") {
		t.Error("the story has no refusals: the test compares too little")
	}
}

// Promise 4: no capacity idles while a call that needs only that waits.
func TestPromise04_WorkConserving(t *testing.T) {
	for seed := range uint64(5) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(
				limitsOf(sluice.Limit{Max: 6}, sluice.Limit{Max: 3, Scope: sluice.ByTool}), scheduler(sluice.PrioritySchedulerConfig{}))})
			defer r.end()
			r.ctx = t.Context()
			rnd := rand.New(rand.NewPCG(9, seed))
			tools := []string{"a", "b", "c", "d"}
			for i, name := range tools {
				r.tool(sluice.Spec{Name: name}, sleeps(time.Duration(3+5*i)*ms))
			}
			var wg sync.WaitGroup
			waited := 0
			for range 400 {
				tool, p := tools[min(rnd.IntN(5), 3)], sluice.Priority(1+rnd.IntN(9))
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(r.as(p, ""), time.Second)
					defer cancel()
					_, _ = r.Invoke(ctx, sluice.Request{Tool: tool})
				})
				synctest.Wait()
				s := r.Snapshot()
				used := map[string]int64{}
				for _, g := range s.Gates {
					used[g.Name+"/"+g.Key] = g.Used
				}
				for _, l := range s.Lanes {
					waited++
					if used["concurrency global/"] < 6 && used["concurrency per tool/"+l.Tool] < 3 {
						t.Errorf("seed %d: %s waits for %q while %d of 6 and %d of 3 slots are used", seed, l.Tool, l.By,
							used["concurrency global/"], used["concurrency per tool/"+l.Tool])
					}
				}
				time.Sleep(time.Duration(rnd.IntN(int(5 * ms))))
			}
			wg.Wait()
			assert.NotZero(t, waited, "nobody waited: the test checks nothing")
		})
	}
}

// Promise 8: who cannot start in time is refused on arrival, with the time to retry; an
// estimate of the queue ahead refuses nobody.
func TestPromise08_RefusedOnArrival(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{MaxWait: 3 * time.Second, Interceptors: interceptors(rates(sluice.Rate{N: 1, Burst: 4}))})
		defer r.end()
		cost := atomic.Int64{}
		cost.Store(1)
		r.tool(sluice.Spec{Name: "work", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return cost.Load() }}}, sleeps(0))
		for range 4 {
			require.NoError(t, r.call("work"))
		}
		cost.Store(4) // 4 s away at best
		wantRefusal(t, r.call("work"), sluice.ErrWaitTooLong, "rate calls per second", 4*time.Second)
		cost.Store(3)
		wait := inOrder(1, func(int) { assert.NoError(t, r.call("work")) }) // exactly MaxWait away: it may
		assert.Zero(t, r.at(), "the clock is at")
		// If those ahead left it could be in time, so it may try, until MaxWait.
		cost.Store(1)
		err := r.call("work")
		wantRefusal(t, err, sluice.ErrWaitTooLong, "rate calls per second", time.Second)
		assert.Equal(t, 3*time.Second, r.at(), "refused at")
		wait()
		// RetryAfter is never early.
		cost.Store(4)
		var e *sluice.Error
		if err := r.call("work"); !errors.As(err, &e) || e.RetryAfter != 4*time.Second {
			t.Errorf("%v, want to retry after 4s", err)
		}
		time.Sleep(e.RetryAfter)
		require.NoError(t, r.call("work"))
		assert.Equal(t, 7*time.Second, r.at())
	})
}

// What a slow interceptor or sink takes is not the past that admission decides on.
func TestPromise08_AdmissionSeesThePresent(t *testing.T) {
	slow := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			time.Sleep(2 * time.Second)
			return next(ctx, c)
		}
	})
	slowSink := sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
		if e.Kind == sluice.ToolInvoked {
			time.Sleep(2 * time.Second)
		}
		return nil
	})
	for name, c := range map[string]sluice.Config{
		"interceptor": {Interceptors: interceptors(slow)},
		"sink":        {Sink: slowSink},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := breakerOf(sluice.CircuitBreakerConfig{Scope: sluice.Global, Failures: 1, Cooldown: time.Second})
				q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1}}, Refuse: true}))
				c.Interceptors = append(slices.Clone(c.Interceptors), b, q, atMost(1))
				c.MaxWait = time.Second
				r := newRig(t, c)
				defer r.end()
				n := 0
				r.tool(sluice.Spec{Name: "work"}, func(context.Context) error {
					if n++; n == 1 {
						return errTool // opens the breaker and uses up the rate, for a second
					}
					return nil
				})
				r.ctx = t.Context()
				if err := r.call("work"); err != errTool {
					t.Error(err)
				}
				// By the time it reaches the gates the second is over.
				assert.NoError(t, r.call("work"), "after 2s")
			})
		})
	}
}

// NoWait: a call starts at once or is refused, at every constraint, and nobody sees it queue.
func TestNoWait_StartsAtOnceOrIsRefused(t *testing.T) {
	for _, by := range []string{"config", "policy", "policy over config"} {
		for _, how := range []string{"Invoke", "Submit"} {
			t.Run(by+" "+how, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					c := sluice.Config{Interceptors: interceptors(
						limitsOf(sluice.Limit{Max: 2, Scope: sluice.ForTool("slow")}),
						sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ForTool("quick"), Rates: []sluice.Rate{{N: 1, Per: time.Minute}}})),
						scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 2, Shed: true}))}
					p := sluice.Policy{MaxWait: sluice.NoWait}
					switch by {
					case "config":
						c.MaxWait, p.MaxWait = sluice.NoWait, 0
					case "policy over config":
						c.MaxWait = time.Hour
					}
					r := newRig(t, c)
					defer r.end()
					r.tool(sluice.Spec{Name: "quick", Policy: p}, sleeps(0))
					r.tool(sluice.Spec{Name: "slow", Policy: p}, sleeps(time.Second))
					r.tool(sluice.Spec{Name: "patient", Policy: sluice.Policy{MaxWait: time.Hour, Concurrency: 1}}, sleeps(time.Second))
					call := func(tool string) error {
						if how == "Submit" {
							return errOf(r.Submit(r.ctx, sluice.Request{Tool: tool}).Wait(r.ctx))
						}
						return r.call(tool)
					}

					require.NoError(t, call("quick"))
					wantRefusal(t, call("quick"), sluice.ErrWaitTooLong, "rate calls per minute", time.Minute)
					wait := inOrder(2, func(int) { assert.NoError(t, call("slow")) })
					waitPatient := inOrder(3, func(int) { assert.NoError(t, call("patient")) }) // the queue is full
					wantRefusal(t, call("slow"), sluice.ErrWaitTooLong, "concurrency tool slow", 0)
					if d := r.Explain(r.ctx, sluice.Request{Tool: "slow"}); d.Refusal == nil || d.Refusal.Reason != sluice.ErrWaitTooLong || d.Refusal.By != "concurrency tool slow" {
						t.Errorf("Explain: %+v", d)
					}
					assert.Zero(t, r.at(), "that took")
					wait()
					require.NoError(t, call("slow")) // a slot is free again
					waitPatient()
					for _, e := range r.rec.Events() {
						if e.Kind == sluice.ToolQueued && e.Call.Tool != "patient" {
							t.Errorf("%s was queued", e.Call.Tool)
						}
					}
				})
			})
		}
	}
}

// Where there is room for all, NoWait refuses nobody, however many come at once.
func TestNoWait_RefusesNobodyWithoutCause(t *testing.T) {
	const callers, each = 8, 200
	r := newRig(t, sluice.Config{MaxWait: sluice.NoWait, Interceptors: interceptors(limitsOf(sluice.Limit{Max: callers, Scope: sluice.ByTool}, sluice.Limit{Max: callers}))})
	r.ctx = t.Context()
	r.tool(sluice.Spec{Name: "x"}, sleeps(0))
	var refused atomic.Int32
	parallel(callers, func(int) {
		for range each {
			if err := r.call("x"); err != nil {
				refused.Add(1)
			}
		}
	})
	if n := refused.Load(); n > 0 {
		t.Errorf("%d of %d calls were refused, and the limit was never reached", n, callers*each)
	}
	r.end()
}

// A refusal of an attempt whose time was over before its code began says one thing.
func TestRefusalOfALateAttemptSaysOneThing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slow := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				<-ctx.Done()
				if c.ID == "gives up" {
					return sluice.Result{}, ctx.Err()
				}
				time.Sleep(time.Second)
				return next(ctx, c)
			}
		})
		r := newRig(t, sluice.Config{Timeout: time.Second, Interceptors: interceptors(atMost(1), slow)})
		ran := 0
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { ran++; return nil })
		for _, id := range []string{"gives up", "comes late"} {
			_, err := r.Invoke(r.ctx, sluice.Request{ID: id, Tool: "x"})
			assert.EqualError(t, err, `sluice: tool "x": wait too long: its time was over before its code began`,
				id)
			if !errors.Is(err, sluice.ErrRejected) || !errors.Is(err, sluice.ErrWaitTooLong) || errors.Is(err, sluice.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v is of another kind", id, err)
			}
			time.Sleep(time.Minute)
		}
		assert.Zero(t, ran, "the tool ran %d times", ran)
		r.end()
	})
}

// So it does where interceptors around the gates have said for how long it may go on, or wrap its error.
func TestRefusalOfALateAttemptSaysOneThing_Around(t *testing.T) {
	over := errors.New("the whole time is over")
	for _, tt := range []struct {
		name, text string
		leaves     time.Duration // by an interceptor
		gone       bool          // the one inside gives up, and does not come late
		cause      error
	}{
		{"comes late", `wrapped: sluice: tool "x": wait too long: its time was over before its code began`, time.Hour, false, context.DeadlineExceeded},
		{"comes late, bounded", `wrapped: sluice: tool "x": wait too long: the whole time is over`, time.Minute, false, over},
		{"gives up", `sluice: tool "x": wait too long: wrapped: sluice: tool "x": tool timed out: context deadline exceeded`, time.Hour, true, context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				around := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
					return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
						r, err := next(ctx, c.Within(tt.leaves, over))
						return r, fmt.Errorf("wrapped: %w", err)
					}
				})
				slow := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
					return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
						<-ctx.Done()
						if tt.gone {
							return sluice.Result{}, ctx.Err()
						}
						time.Sleep(time.Second)
						return next(ctx, c)
					}
				})
				r := newRig(t, sluice.Config{Timeout: 30 * time.Minute, Interceptors: interceptors(around, atMost(1), slow)})
				spec := sluice.Spec{Name: "x", Policy: sluice.Policy{Cooperative: tt.gone}} // else which of both ends is first nobody knows
				r.tool(spec, func(context.Context) error { t.Error("the tool ran"); return nil })
				_, err := r.Invoke(r.ctx, sluice.Request{Tool: "x"})
				require.EqualError(t, err, tt.text)
				require.ErrorIs(t, err, sluice.ErrRejected)
				require.ErrorIs(t, err, sluice.ErrWaitTooLong)
				require.ErrorIs(t, err, tt.cause)
				require.NotErrorIs(t, err, sluice.ErrTimeout)
				time.Sleep(time.Minute)
				r.end()
			})
		})
	}
}

// An interceptor that answers with an error of no value denies the call.
func TestTypedNilOfAnInterceptorIsADenial(t *testing.T) {
	bubble(t, func(t *testing.T) {
		deny := sluice.InterceptorFunc(func(sluice.Spec, sluice.Handler) sluice.Handler {
			return func(context.Context, sluice.Call) (sluice.Result, error) {
				return sluice.Result{}, (*sluice.Error)(nil)
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(deny, atMost(1))})
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { t.Error("the tool ran"); return nil })
		_, err := r.Invoke(r.ctx, sluice.Request{Tool: "x"})
		require.ErrorIs(t, err, sluice.ErrDenied)
		require.ErrorIs(t, err, sluice.ErrRejected)
		r.end()
	})
}

// A call that an interceptor inside the gates refused has been admitted, but has not run:
// its token goes back, and the breaker hears nothing of it.
func TestWhatDidNotRunSpendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1}}}))
		breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 1}))
		deny := true
		rule := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				if deny {
					return sluice.Result{}, errors.New("not now")
				}
				return next(ctx, c)
			}
		})
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{atMost(1), rates, breaker, rule}})
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, echo))
		start := time.Now()
		for range 3 {
			_, err := f(t.Context(), "")
			assert.ErrorIs(t, err, sluice.ErrDenied)
			assert.ErrorIs(t, err, sluice.ErrRejected)
		}
		deny = false
		if _, err := f(t.Context(), ""); err != nil || time.Since(start) != 0 {
			t.Errorf("%v after %v: want the token back and the breaker closed", err, time.Since(start))
		}
		if _, err := f(t.Context(), ""); err != nil || time.Since(start) != time.Second {
			t.Errorf("%v after %v: want a token spent by the call that ran", err, time.Since(start))
		}
	})
}

// A call may start at exactly arrival + MaxWait, and not at its context's deadline.
func TestWaitingMayLastForMaxWaitAndLessThanToTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1}}}))
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{rates}, MaxWait: time.Second})
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, echo))
		start := time.Now()
		for i := range 2 {
			_, err := f(t.Context(), "")
			require.NoError(t, err, "call %d", i)
			assert.Equal(t, time.Duration(i)*time.Second, time.Since(start), "call %d", i)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var refused *sluice.Error
		if _, err := f(ctx, ""); !errors.As(err, &refused) || refused.Reason != sluice.ErrWaitTooLong || refused.RetryAfter != time.Second || time.Since(start) != time.Second {
			t.Errorf("at its deadline: %v after %v", err, time.Since(start))
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second+time.Nanosecond)
		defer cancel()
		_, err := f(ctx, "")
		require.NoError(t, err, "a nanosecond before its deadline")
		assert.Equal(t, 2*time.Second, time.Since(start), "a nanosecond before its deadline")
	})
}

func TestCancelledContextTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1}}}))
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{atMost(1), rates}})
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

// A full queue is a typed refusal, also for a tool that calls others.
func TestFullQueueIsATypedRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		order := sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 1}))
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{atMost(1), order}})
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

// A slow handler of one tool must hold up nothing that another needs.
func TestSlowToolHoldsNoLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExec(t, sluice.Config{})
		block := make(chan struct{})
		slow := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "slow"}, func(ctx context.Context, _ string) (string, error) {
			<-block
			return "", nil
		}))
		done := make(chan error, 1)
		go func() { _, err := slow(t.Context(), ""); done <- err }()
		synctest.Wait()
		start := time.Now()
		fast := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "fast"}, echo))
		got, err := fast(t.Context(), "x")
		assert.Equal(t, "x", got, "fast")
		assert.NoError(t, err, "fast")
		assert.Equal(t, 1, e.Snapshot().InFlight, "in flight")
		_, ok := e.Plan("slow")
		assert.True(t, ok, "no plan of slow")
		assert.Zero(t, time.Since(start), "took")
		close(block)
		assert.NoError(t, <-done)
	})
}

// How long a call held its slot is what the next one's wait is estimated by, whether it came by the
// lock or not.
func TestPromise08_EstimatesKnowEveryCall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
		defer r.end()
		var takes time.Duration
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { time.Sleep(takes); return nil })
		require.NoError(t, r.call("x"))
		takes = time.Second
		require.NoError(t, r.call("x"))
		wait := inOrder(1, func(int) { assert.NoError(t, r.call("x")) })
		synctest.Wait()
		d := r.Explain(r.ctx, sluice.Request{Tool: "x"})
		assert.Equal(t, []any{1, time.Second}, []any{d.Place, d.Wait})
		wait()
	})
}
