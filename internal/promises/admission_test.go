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

// gateState is what a snapshot says of one gate.
func (r *rig) gateState(name, key string) sluice.GateState {
	r.t.Helper()
	for _, g := range r.Snapshot().Gates {
		if g.Name == name && g.Key == key {
			return g
		}
	}
	r.t.Errorf("no gate %q with key %q in the snapshot", name, key)
	return sluice.GateState{}
}

// as is the rig's context on behalf of somebody.
func (r *rig) as(p sluice.Priority, tenant string) context.Context {
	pc := r.pc
	pc.Priority, pc.Tenant = p, tenant
	return sluice.WithPipelineContext(r.t.Context(), pc)
}

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

// Promise 3: a limit holds also while it is changed.
func TestPromise03_LimitHoldsDuringResize(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := atMost(8)
		r := newRig(t, sluice.Config{Interceptors: interceptors(l)})
		defer r.end()
		r.ctx = t.Context()
		limit := atomic.Int64{}
		inside := atomic.Int64{}
		limit.Store(8)
		r.tool(sluice.Spec{Name: "work"}, func(context.Context) error {
			n := inside.Add(1)
			defer inside.Add(-1)
			if m := limit.Load(); n > m {
				t.Errorf("call number %d started at a limit of %d", n, m)
			}
			time.Sleep(10 * ms)
			return nil
		})
		wait := inOrder(500, func(i int) { assert.NoError(t, r.call("work")) })
		for i, n := range []int{3, 8, 1, 2, 20, 5, 1, 8} {
			time.Sleep(time.Duration(31+i) * ms)
			limit.Store(max(limit.Load(), int64(n))) // in between either holds
			require.NoError(t, sluice.Reconfigure("test", l.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: n}}})))
			limit.Store(int64(n))
			if n > int(inside.Load()) {
				synctest.Wait()
				assert.Equal(t, int64(n), inside.Load(), "in flight right after the limit grew to %d", n)
			}
		}
		wait()
	})
}

// In every window at most burst + rate × window starts.
func TestPromise03_WindowsNeverExceedBurstPlusRate(t *testing.T) {
	for seed := range uint64(8) {
		bubble(t, func(t *testing.T) {
			const n, burst, per = 7, 5, 100 * ms
			q := rates(sluice.Rate{N: n, Per: per, Burst: burst})
			r := newRig(t, sluice.Config{Interceptors: interceptors(q, atMost(3), scheduler(sluice.PrioritySchedulerConfig{}))})
			defer r.end()
			r.ctx = t.Context()
			var mu sync.Mutex
			var starts []time.Duration
			rnd := rand.New(rand.NewPCG(5, seed))
			r.tool(sluice.Spec{Name: "work"}, func(context.Context) error {
				mu.Lock()
				starts = append(starts, r.at())
				takes := time.Duration(len(starts)%20) * ms
				mu.Unlock()
				time.Sleep(takes)
				return nil
			})
			var wg sync.WaitGroup
			for range 400 {
				patience := time.Duration(rnd.IntN(int(400 * ms)))
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(r.ctx, patience)
					defer cancel()
					if _, err := r.Invoke(ctx, sluice.Request{Tool: "work"}); err != nil && !errors.Is(err, sluice.ErrRejected) {
						t.Error(err)
					}
				})
				if rnd.IntN(40) == 0 { // a change of anything but the rate makes no tokens
					require.NoError(t, sluice.Reconfigure("test", q.Change(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: n, Per: per, Burst: burst}}})))
				}
				if rnd.IntN(60) == 0 {
					time.Sleep(time.Second) // fills up, and not beyond
				}
				time.Sleep(time.Duration(rnd.IntN(int(20 * ms))))
			}
			wg.Wait()
			slices.Sort(starts)
			for i := range starts {
				for j := i; j < len(starts); j++ {
					if w := starts[j] - starts[i]; time.Duration(j-i+1-burst)*per > n*w {
						t.Fatalf("seed %d: %d starts in %v from %v on, with burst %d and %d per %v", seed, j-i+1, w, starts[i], burst, n, per)
					}
				}
			}
			if len(starts) < 200 {
				t.Errorf("only %d ran", len(starts))
			}
		})
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

// Promise 7: a waiter that leaves costs nothing and loses nobody's wake-up.
func TestPromise07_CancelledWaitersCostNothing(t *testing.T) {
	const n = 20
	orders := map[string]func([]context.CancelFunc){
		"first to last": func([]context.CancelFunc) {},
		"last to first": slices.Reverse[[]context.CancelFunc],
		"shuffled": func(l []context.CancelFunc) {
			rand.New(rand.NewPCG(1, 2)).Shuffle(len(l), func(i, j int) { l[i], l[j] = l[j], l[i] })
		},
	}
	for name, order := range orders {
		for _, submit := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " submit ", submit), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 1, Burst: 1}), atMost(1))})
					defer r.end()
					var g gauge
					r.tool(sluice.Spec{Name: "work"}, g.counts(0))
					require.NoError(t, r.call("work"))
					var cancels []context.CancelFunc
					var wg sync.WaitGroup
					for range n {
						ctx, cancel := context.WithCancel(r.ctx)
						cancels = append(cancels, cancel)
						f := func() (sluice.Result, error) { return r.Invoke(ctx, sluice.Request{Tool: "work"}) }
						if submit {
							fut := r.Submit(ctx, sluice.Request{Tool: "work"})
							f = func() (sluice.Result, error) { return fut.Wait(t.Context()) }
						}
						wg.Go(func() {
							_, err := f()
							if !errors.Is(err, context.Canceled) || !errors.Is(err, sluice.ErrRejected) || r.at() != 500*ms {
								t.Errorf("%v at %v, want cancelled at 500ms", err, r.at())
							}
						})
						synctest.Wait()
					}
					time.Sleep(500 * ms)
					order(cancels)
					for i, cancel := range cancels {
						cancel()
						synctest.Wait()
						assert.Equal(t, n-i-1, r.Snapshot().Queued, "queued after %d left", i+1)
					}
					wg.Wait()
					require.NoError(t, r.call("work"))
					if r.at() != time.Second || g.total.Load() != 2 {
						t.Errorf("the next call went at %v, want exactly one period, 1s", r.at())
					}
				})
			})
		}
	}
}

// The waiter that leaves is the front one, and those behind it fit.
func TestPromise07_FrontWaiterLeaves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		weight := map[string]int64{"hold": 1, "wide": 2, "narrow": 1}
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 2, Unit: "MB"}))})
		defer r.end()
		for name, w := range weight {
			r.tool(sluice.Spec{Name: name, Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return w }}}, sleeps(time.Second))
		}
		r.busy("hold")
		ctx, cancel := context.WithCancel(r.ctx)
		wide, narrow := make(chan error, 1), make(chan error, 1)
		go func() { wide <- errOf(r.Invoke(ctx, sluice.Request{Tool: "wide"})) }()
		synctest.Wait()
		go func() { narrow <- r.call("narrow") }()
		synctest.Wait()
		time.Sleep(100 * ms)
		cancel()
		err := <-wide
		assert.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, 100*ms, r.at())
		if err := <-narrow; err != nil || r.at() > 1100*ms {
			t.Errorf("the narrow call ended at %v, want 1.1s at the latest: %v", r.at(), err)
		}
	})
}

// A context that has ended already runs nothing and takes nothing.
func TestPromise07_CancelledBeforeItCame(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 1, Per: time.Hour}), atMost(1))})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "work"}, g.counts(0))
		cause := errors.New("my reason")
		ctx, cancel := context.WithCancelCause(r.ctx)
		cancel(cause)
		for range 3 {
			_, err := r.Invoke(ctx, sluice.Request{Tool: "work"})
			_, err2 := r.Submit(ctx, sluice.Request{Tool: "work"}).Wait(t.Context())
			for _, err := range []error{err, err2} {
				assert.ErrorIs(t, err, cause)
				assert.ErrorIs(t, err, sluice.ErrRejected)
			}
		}
		require.NoError(t, r.call("work"))
		if g.total.Load() != 1 {
			t.Errorf("ran %d times, want 1", g.total.Load())
		}
	})
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

// Promise 9: nested calls run on what their ancestors hold.
func TestPromise09_DepthAtLimitOne(t *testing.T) {
	for _, submit := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1}, sluice.Limit{Max: 1, Scope: sluice.ByTool}), scheduler(sluice.PrioritySchedulerConfig{}))})
			defer r.end()
			depth := 0
			r.tool(sluice.Spec{Name: "deep", Policy: sluice.Policy{Concurrency: 1}}, func(ctx context.Context) error {
				time.Sleep(ms)
				if depth++; depth > 8 {
					return nil
				}
				if submit {
					_, err := r.Submit(ctx, sluice.Request{Tool: "deep"}).Wait(ctx)
					return err
				}
				return errOf(r.Invoke(ctx, sluice.Request{Tool: "deep"}))
			})
			require.NoError(t, r.call("deep"))
			assert.Equal(t, 9, depth)
			assert.Equal(t, 9*ms, r.at())
			var parents []string
			for _, e := range r.rec.Events() {
				if e.Kind == sluice.ToolInvoked {
					parents = append(parents, e.ParentID)
				}
			}
			if want := []string{"", "call-1", "call-2", "call-3", "call-4", "call-5", "call-6", "call-7", "call-8"}; !slices.Equal(parents, want) {
				t.Errorf("parents %v, want %v", parents, want)
			}
		})
	}
}

func TestPromise09_BatchAtLimitOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "leaf"}, g.counts(10*ms))
		r.tool(sluice.Spec{Name: "parent"}, func(ctx context.Context) error {
			parallel(3, func(int) { assert.NoError(t, errOf(r.Invoke(ctx, sluice.Request{Tool: "leaf"}))) })
			return nil
		})
		require.NoError(t, r.call("parent"))
		if g.peak.Load() != 1 || r.at() != 30*ms {
			t.Errorf("%d leaves at once, in %v: want 1, 30ms: a slot is lent to one at a time", g.peak.Load(), r.at())
		}
		r.slotsFree("leaf", &g, 1)
	})
}

func TestPromise09_NeverBelowTheWaitingAncestor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(
			limitsOf(sluice.Limit{Max: 1, Scope: sluice.ForTool("leaf")}), scheduler(sluice.PrioritySchedulerConfig{}))})
		defer r.end()
		var order log
		r.tool(sluice.Spec{Name: "leaf"}, func(ctx context.Context) error {
			c, _ := sluice.CallFrom(ctx)
			order.add("%s/%d", c.ID, c.Priority)
			time.Sleep(10 * ms)
			return nil
		})
		r.tool(sluice.Spec{Name: "parent"}, func(ctx context.Context) error {
			pc := sluice.PipelineContextFrom(ctx)
			pc.Priority = sluice.PriorityBatch // it cannot lower what the ancestor waits for
			return errOf(r.Invoke(sluice.WithPipelineContext(ctx, pc), sluice.Request{ID: "nested", Tool: "leaf"}))
		})
		var wg sync.WaitGroup
		call := func(ctx context.Context, id, tool string) {
			wg.Go(func() { assert.NoError(t, errOf(r.Invoke(ctx, sluice.Request{ID: id, Tool: tool}))) })
			synctest.Wait()
		}
		call(r.ctx, "first", "leaf")
		call(r.ctx, "normal1", "leaf")
		call(r.ctx, "normal2", "leaf")
		call(r.as(sluice.PriorityInteractive, ""), "outer", "parent")
		wg.Wait()
		assert.Equal(t, "first/5 nested/9 normal1/5 normal2/5", order.String(), "order")
	})
}

func TestPromise09_CrossingLimits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, Scope: sluice.ByTool}))})
		defer r.end()
		r.tool(sluice.Spec{Name: "leafA"}, sleeps(0))
		cross := func(other string) func(context.Context) error {
			return func(ctx context.Context) error {
				if c, _ := sluice.CallFrom(ctx); c.ID == "" || strings.HasPrefix(c.ID, "call") {
					return nil // the nested one
				}
				time.Sleep(ms)
				return errOf(r.Invoke(ctx, sluice.Request{Tool: other}))
			}
		}
		r.tool(sluice.Spec{Name: "a"}, cross("b"))
		r.tool(sluice.Spec{Name: "b"}, cross("a"))
		var errs [2]error
		parallel(2, func(i int) {
			_, errs[i] = r.Invoke(r.ctx, sluice.Request{ID: fmt.Sprint("outer", i), Tool: []string{"a", "b"}[i]})
		})
		refused := 0
		for _, err := range errs {
			var e *sluice.Error
			if errors.Is(err, sluice.ErrNesting) {
				refused++
				if !errors.As(err, &e) || !strings.Contains(err.Error(), "concurrency per tool -> concurrency per tool") || errors.Is(err, sluice.ErrRejected) {
					t.Errorf("%v: want the limits named, and no ErrRejected, since the outer call ran", err)
				}
			} else if err != nil {
				t.Error(err)
			}
		}
		if refused != 1 || r.at() != ms {
			t.Errorf("%d of two crossing calls refused at %v, want 1 at 1ms", refused, r.at())
		}
	})
}

func TestPromise09_ChildOutlivesParent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "child"}, g.counts(time.Second))
		var child *sluice.Future
		r.tool(sluice.Spec{Name: "parent"}, func(ctx context.Context) error {
			child = r.Submit(context.WithoutCancel(ctx), sluice.Request{Tool: "child"})
			return nil
		})
		started := time.Duration(0)
		r.tool(sluice.Spec{Name: "next"}, func(context.Context) error { started = r.at(); return nil })
		require.NoError(t, r.call("parent"))
		assert.Zero(t, r.at(), "the parent returned at")
		require.NoError(t, r.call("next"))
		assert.Equal(t, time.Second, started,
			"the next call started at: the slot is given back when the last of the chain ends")
		require.NoError(t, errOf(child.Wait(t.Context())))
		r.slotsFree("child", &g, 1)
	})
}

func TestPromise09_RecursionIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{MaxDepth: 5, MaxCallsPerRoot: 20, Interceptors: interceptors(atMost(1))})
		defer r.end()
		runs := 0
		r.tool(sluice.Spec{Name: "bomb"}, func(ctx context.Context) error {
			runs++
			return errOf(r.Invoke(ctx, sluice.Request{Tool: "bomb"}))
		})
		err := r.call("bomb")
		if !errors.Is(err, sluice.ErrNesting) || errors.Is(err, sluice.ErrRejected) || runs != 6 {
			t.Errorf("%v after %d runs, want ErrNesting after 6", err, runs)
		}
		fan, refused := 0, 0
		r.tool(sluice.Spec{Name: "leaf"}, func(context.Context) error { fan++; return nil })
		r.tool(sluice.Spec{Name: "fan"}, func(ctx context.Context) error {
			for range 30 {
				if err := errOf(r.Invoke(ctx, sluice.Request{Tool: "leaf"})); errors.Is(err, sluice.ErrNesting) {
					refused++
				}
			}
			return nil
		})
		require.NoError(t, r.call("fan"))
		require.NoError(t, r.call("fan")) // the budget is of each root
		if fan != 40 || refused != 20 {
			t.Errorf("%d nested calls ran, %d refused, want 40 and 20", fan, refused)
		}
	})
}
