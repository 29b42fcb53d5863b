package promises_test

import (
	"context"
	"errors"
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

// named are gates with a name of their own, so that errors can be told apart.
func limitNamed(name string, max int) *sluice.ConcurrencyLimiter {
	return sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: name, Limits: []sluice.Limit{{Max: max}}}))
}

func rateNamed(name string, n int64, per time.Duration) *sluice.RateLimiter {
	return sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: name, Rates: []sluice.Rate{{N: n, Per: per}}}))
}

// What one executor lists belongs to one domain: two that are live are not tied together, and
// the error names what would tie them and the gates of both. Once one of them has been closed,
// they are.
func TestDomain_LiveOnesAreNotTied(t *testing.T) {
	a, b := limitNamed("a", 1), rateNamed("b", 100, time.Second)
	sa, sb := scheduler(sluice.PrioritySchedulerConfig{Name: "first"}), scheduler(sluice.PrioritySchedulerConfig{Name: "second"})
	regA, regB := sluice.NewToolRegistry(), sluice.NewToolRegistry()
	other := limitNamed("other", 1)
	for name, tt := range map[string]struct {
		reg  *sluice.ToolRegistry
		list []sluice.Interceptor
		want string
	}{
		"two gates": {sluice.NewToolRegistry(), interceptors(other, b, a),
			"Config.Interceptors[1] (b) belongs to a live executor of [b second], and Config.Interceptors[2] (a) to another, of [a first]"},
		"a registry and a gate": {regB, interceptors(a, other),
			"the ToolRegistry belongs to a live executor of [b second], and Config.Interceptors[0] (a) to another, of [a first]"},
		"a registry and a scheduler": {regA, interceptors(sb),
			"the ToolRegistry belongs to a live executor of [a first], and Config.Interceptors[0] (second) to another, of [b second]"},
		"two schedulers of one registry": {regA, interceptors(scheduler(sluice.PrioritySchedulerConfig{Name: "third"})),
			`PrioritySchedulers "first" and "third" would order one queue`},
		"two schedulers of one gate": {sluice.NewToolRegistry(), interceptors(b, scheduler(sluice.PrioritySchedulerConfig{Name: "third"})),
			`PrioritySchedulers "second" and "third" would order one queue`},
	} {
		t.Run(name, func(t *testing.T) {
			ra := rigOver(t, regA, sluice.Config{Interceptors: interceptors(a, sa)})
			rb := rigOver(t, regB, sluice.Config{Interceptors: interceptors(b, sb)})
			_, err := sluice.NewExecutor(tt.reg, sluice.Config{Interceptors: tt.list})
			assert.ErrorContains(t, err, tt.want)
			// The refusal changed nothing: what it would have tied can be tied to either.
			e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(a, other)}))
			require.NoError(t, e.Close(t.Context()))
			ra.end()
			e, err = sluice.NewExecutor(tt.reg, sluice.Config{Interceptors: tt.list})
			if name != "two schedulers of one gate" {
				require.NoError(t, err)
				require.NoError(t, e.Close(t.Context()))
			} else if err == nil {
				t.Error("the second scheduler was accepted beside a live one")
			}
			rb.end()
		})
	}
}

// An executor belongs to its domain until its last call has ended, also if Close has given up
// waiting for that; what its gates counted stays with them.
func TestDomain_DissolvesWithItsLastCall(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slots, quota := limitNamed("slots", 1), rateNamed("quota", 10, time.Hour)
		brk := breakerOf(sluice.CircuitBreakerConfig{Scope: sluice.Global, Failures: 1, Cooldown: time.Hour})
		r := newRig(t, sluice.Config{Interceptors: interceptors(slots, quota, brk)})
		other := newRig(t, sluice.Config{Interceptors: interceptors(limitNamed("other", 1), rateNamed("else", 1, time.Second))})
		defer other.end()
		release := make(chan struct{})
		r.tool(sluice.Spec{Name: "long"}, func(context.Context) error { <-release; return errTool })
		for range 3 {
			go r.call("long") // one runs, and two wait
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(r.ctx, time.Second)
		defer cancel()
		require.ErrorIs(t, r.Close(ctx), context.DeadlineExceeded, "Close")
		mixed := interceptors(slots, quota, brk)
		_, err := sluice.NewExecutor(other.reg, sluice.Config{Interceptors: mixed})
		assert.ErrorContains(t, err, "Config.Interceptors[0] (slots)",
			"a call still runs, and its gates are taken to another domain")
		assert.Equal(t, 1, r.Snapshot().InFlight, "in flight")
		close(release)
		synctest.Wait()
		next := rigOver(t, other.reg, sluice.Config{Interceptors: mixed})
		defer next.end()
		next.tool(sluice.Spec{Name: "work"}, func(context.Context) error { return nil })
		wantRefusal(t, next.call("work"), sluice.ErrBreakerOpen, "breaker", time.Hour)
		require.NoError(t, brk.Reset(""))
		for range 9 {
			require.NoError(t, next.call("work"))
		}
		assert.Equal(t, int64(10), next.gateState("rate/quota calls per hour", "").Used,
			"of the quota are used: one of the first executor, nine of the next")
		assert.Zero(t, next.gateState("concurrency/slots global", "").Used, "slots are taken")
		require.NoError(t, r.Close(t.Context()))
	})
}

// A gate or a registry that no live executor lists any more is free for another domain, while the
// rest of its own lives on.
func TestDomain_MembersLeaveWithTheirExecutors(t *testing.T) {
	a, b, x := limitNamed("a", 1), limitNamed("b", 1), limitNamed("x", 1)
	stays := newRig(t, sluice.Config{Interceptors: interceptors(a)})
	defer stays.end()
	elsewhere := newRig(t, sluice.Config{Interceptors: interceptors(x)})
	defer elsewhere.end()
	goes := newRig(t, sluice.Config{Interceptors: interceptors(a, b)})
	both := sluice.Config{Interceptors: interceptors(b, x)}
	_, err := sluice.NewExecutor(sluice.NewToolRegistry(), both)
	assert.Error(t, err, "b was taken from a live domain")
	goes.end()
	e := sluice.Must(sluice.NewExecutor(goes.reg, both))
	defer e.Close(t.Context())
	_, err = sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(a, b)})
	assert.Error(t, err, "a and b are tied together, and belong to two live domains by now")
}

// A closed executor's snapshot still shows what its gates have counted, wherever they belong by
// then, and its calls are refused.
func TestDomain_ClosedExecutorCanBeLookedAt(t *testing.T) {
	quota := rateNamed("quota", 10, time.Hour)
	r := newRig(t, sluice.Config{Interceptors: interceptors(quota)})
	r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
	require.NoError(t, r.call("x"))
	r.end()
	look := func(used int64) {
		t.Helper()
		assert.Equal(t, used, r.gateState("rate/quota calls per hour", "").Used, "used")
		if p, ok := r.Plan("x"); !ok || p != "admit[quota] → x" {
			t.Errorf("plan %q %v", p, ok)
		}
		wantRefusal(t, r.call("x"), sluice.ErrClosed, "", 0)
		if d := r.Explain(r.ctx, sluice.Request{Tool: "x"}); d.Refusal == nil || d.Refusal.Reason != sluice.ErrClosed {
			t.Errorf("Explain: %+v", d)
		}
	}
	look(1)
	next := newRig(t, sluice.Config{Interceptors: interceptors(quota)})
	defer next.end()
	next.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
	require.NoError(t, next.call("x"))
	look(2)
}

// The scheduler goes with the last executor that lists it: the queue is in order of arrival
// again, and another scheduler may order it.
func TestDomain_SchedulerGoesWithItsExecutors(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := atMost(1)
		a, b := scheduler(sluice.PrioritySchedulerConfig{Name: "a"}), scheduler(sluice.PrioritySchedulerConfig{Name: "b"})
		plain := newRig(t, sluice.Config{Interceptors: interceptors(l)})
		defer plain.end()
		var order log
		plain.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error {
			c, _ := sluice.CallFrom(ctx)
			order.add("%d", c.Priority)
			time.Sleep(time.Second)
			return nil
		})
		burst := func(want string) {
			t.Helper()
			order.list = nil
			wait := inOrder(4, func(i int) {
				pc := plain.pc
				pc.Priority = []sluice.Priority{sluice.PriorityBatch, 2, 3, sluice.PriorityInteractive}[i]
				_, err := plain.Invoke(sluice.WithPipelineContext(t.Context(), pc), sluice.Request{Tool: "x"})
				assert.NoError(t, err)
			})
			wait()
			assert.Equal(t, want, order.String(), "order %s", &order)
		}
		burst("1 2 3 9")
		for _, s := range []*sluice.PriorityScheduler{a, b} {
			e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(s, l)}))
			burst("1 9 3 2")
			require.NoError(t, e.Close(t.Context()))
			burst("1 2 3 9")
		}
	})
}

// Gates can be used before an executor lists them; the first that does takes over what was done.
func TestDomain_TakesOverGatesThatWereUsedBefore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := rates(sluice.Rate{N: 1000})
		b := breakerOf(sluice.CircuitBreakerConfig{Cooldown: time.Minute}) // by tool
		l, s := atMost(1), scheduler(sluice.PrioritySchedulerConfig{})
		require.NoError(t, q.Pause("", time.Minute))
		require.NoError(t, b.Trip("broken"))
		require.NoError(t, sluice.Reconfigure("me", l.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}}}), s.Change(sluice.PrioritySchedulerConfig{MaxQueue: 1})))
		st := sluice.Must(b.State("broken"))
		assert.Equal(t, sluice.BreakerOpen, st, "the breaker is %v before there is an executor", st)
		assert.Equal(t, sluice.BreakerClosed, sluice.Must(b.State("other")), "another key")
		r := newRig(t, sluice.Config{Interceptors: interceptors(q, b, l, s)})
		defer r.end()
		r.tool(sluice.Spec{Name: "broken"}, func(context.Context) error { return nil })
		r.tool(sluice.Spec{Name: "work"}, sleeps(time.Second))
		wantRefusal(t, r.call("broken"), sluice.ErrBreakerOpen, "breaker", 0)
		wait := inOrder(2, func(i int) {
			if err := r.call("work"); i == 0 && err != nil || i == 1 && !errors.Is(err, sluice.ErrQueueFull) {
				t.Errorf("call %d: %v: the queue holds one", i, err)
			}
		})
		wait()
		if d := r.at().Truncate(time.Second); d != 61*time.Second {
			t.Errorf("the call ended at %v, want after the minute of the pause and a second", r.at())
		}
		var g gauge
		r.tool(sluice.Spec{Name: "count"}, g.counts(time.Second))
		require.NoError(t, sluice.Reconfigure("me", s.Change(sluice.PrioritySchedulerConfig{})))
		r.slotsFree("count", &g, 2)
	})
}

// Executors over one registry have its tools' own limits in common, from the start.
func TestDomain_OneRegistryMeansCommonLimitsOfItsTools(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := sluice.NewToolRegistry()
		a, b := rigOver(t, reg, sluice.Config{}), rigOver(t, reg, sluice.Config{Interceptors: interceptors(atMost(5))})
		var g gauge
		rawTool(t, reg, sluice.Spec{Name: "x", Policy: sluice.Policy{Concurrency: 2}}, g.counts(time.Second))
		parallel(8, func(i int) { assert.NoError(t, []*rig{a, b}[i%2].call("x")) })
		assert.Equal(t, int64(2), g.peak.Load(), "at once through two executors")
		a.end()
		parallel(4, func(i int) { assert.NoError(t, b.call("x")) })
		b.end()
		assert.Equal(t, int64(2), g.peak.Load(), "most at once")
	})
}

// Executors over common gates come and go while others are busy: each is made or refused with
// words, limits hold throughout, and in the end nothing is taken.
func TestDomain_ExecutorsComeAndGo(t *testing.T) {
	a, b := limitNamed("a", 2), limitNamed("b", 3)
	var ga, gb gauge
	var wg sync.WaitGroup
	var made, refused atomic.Int64
	for i := range 8 {
		wg.Go(func() {
			gates, gauges := interceptors(a), []*gauge{&ga}
			switch i % 4 {
			case 1:
				gates, gauges = interceptors(b), []*gauge{&gb}
			case 2, 3:
				gates, gauges = interceptors(b, a), []*gauge{&ga, &gb}
			}
			reg := sluice.NewToolRegistry()
			rawTool(t, reg, sluice.Spec{Name: "x"}, func(context.Context) error {
				for _, g := range gauges {
					g.enter()
					defer g.leave()
				}
				runtime.Gosched()
				return nil
			})
			for range rounds(60) {
				e, err := sluice.NewExecutor(reg, sluice.Config{Interceptors: gates})
				if err != nil {
					if !strings.Contains(err.Error(), "live executor") {
						t.Error(err)
					}
					refused.Add(1)
					runtime.Gosched()
					continue
				}
				made.Add(1)
				parallel(4, func(i int) {
					if i%2 == 0 {
						assert.NoError(t, errOf(e.Invoke(context.Background(), sluice.Request{Tool: "x"})))
					} else {
						assert.NoError(t, errOf(e.Submit(context.Background(), sluice.Request{Tool: "x"}).Wait(context.Background())))
					}
				})
				assert.NoError(t, e.Close(context.Background()))
			}
		})
	}
	wg.Go(func() {
		for range rounds(200) {
			assert.NoError(t, sluice.Reconfigure("storm", a.Change(a.Config()), b.Change(b.Config())))
			runtime.Gosched()
		}
	})
	wg.Wait()
	if ga.peak.Load() > 2 || gb.peak.Load() > 3 {
		t.Errorf("%d and %d at once, want at most 2 and 3", ga.peak.Load(), gb.peak.Load())
	}
	assert.NotZero(t, made.Load(), "no executor was made")
	r := newRig(t, sluice.Config{Interceptors: interceptors(a, b)})
	defer r.end()
	r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
	require.NoError(t, r.call("x"))
	r.idle()
}

// Events beyond the bound are counted while a sink blocks, and making executors does not lose
// the count.
func TestDomain_LostEventsStayCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		block, first := make(chan struct{}), true
		sink := sluice.EventSinkFunc(func(context.Context, *sluice.Event) error {
			if first {
				first = false
				<-block
			}
			return nil
		})
		q, other := rates(sluice.Rate{N: 1}), rateNamed("other", 1, time.Second)
		r := newRig(t, sluice.Config{Interceptors: interceptors(q), Sink: sink})
		defer r.end()
		go q.Pause("", time.Hour)
		synctest.Wait() // its event is being delivered
		for range 5000 {
			require.NoError(t, q.Pause("", time.Hour))
		}
		for range 2 {
			assert.Equal(t, uint64(4000), r.Snapshot().EventsDropped,
				"events dropped: of 5000 a thousand wait for the sink")
			e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(other, q)}))
			defer e.Close(t.Context())
		}
		close(block)
		synctest.Wait()
		s := r.Snapshot()
		assert.Equal(t, uint64(4000), s.EventsDropped)
		assert.Equal(t, uint64(1001), s.EventsDelivered)
	})
}

// Events outside calls are told in the order they happened, also if executors are made while a
// sink blocks.
func TestDomain_EventsStayInOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var order log
		block, first := make(chan struct{}), true
		sink := sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if first {
				first = false
				<-block
			}
			order.add("%s", e.Kind)
			return nil
		})
		conf := func(n int) sluice.ConcurrencyLimiterConfig {
			return sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: n}, {Max: n, Scope: sluice.ByTool}}}
		}
		l, q := sluice.Must(sluice.NewConcurrencyLimiter(conf(1))), rates(sluice.Rate{N: 1})
		r := newRig(t, sluice.Config{Interceptors: interceptors(l, q), Sink: sink})
		go sluice.Reconfigure("me", l.Change(conf(2))) // two events at one instant
		synctest.Wait()
		require.NoError(t, q.Pause("", time.Hour))
		e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(q, l)}))
		close(block)
		synctest.Wait()
		assert.Equal(t, "limit.changed limit.changed ratelimit.paused", order.String(),
			"told in the order %s", &order)
		require.NoError(t, e.Close(t.Context()))
		r.end()
	})
}
