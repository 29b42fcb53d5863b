package sluice_test

import (
	"context"
	"errors"
	"fmt"
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
func TestDomain_GatesBeforeAnyExecutor(t *testing.T) {
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
func TestDomain_OneRegistry(t *testing.T) {
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

type tagged struct {
	*sluice.RateLimiter
	tags []string // so that it cannot be compared
}

type denier struct{ *sluice.ConcurrencyLimiter }

func (denier) Wrap(sluice.Spec, sluice.Handler) sluice.Handler {
	return func(context.Context, sluice.Call) (sluice.Result, error) {
		return sluice.Result{}, errors.New("never")
	}
}

type ordered struct {
	sluice.PriorityScheduler
	_ []int
}

// A struct that has a gate inside is an interceptor like any other: its Wrap is called, wherever
// it stands, and nothing about it needs to be comparable or there.
func TestGates_KnownByTheirType(t *testing.T) {
	for name, tt := range map[string]struct {
		list []sluice.Interceptor
		want string // of the call's error
	}{
		"own Wrap":                 {interceptors(denier{atMost(1)}), "never"},
		"own Wrap of a pointer":    {interceptors(&denier{atMost(1)}), "never"},
		"own Wrap of a nil inside": {interceptors(denier{}, atMost(1)), "never"},
		"the gate's Wrap":          {interceptors(tagged{rates(sluice.Rate{N: 1}), nil}), `RateLimiter "rate" was called by hand, or by a struct that embeds it`},
		"twice":                    {interceptors(tagged{rates(sluice.Rate{N: 1}), nil}, tagged{rates(sluice.Rate{N: 1}), []string{"b"}}, atMost(1)), `RateLimiter "rate" was called by hand`},
		"inside the gates":         {interceptors(atMost(1), tagged{rates(sluice.Rate{N: 1}), nil}), `RateLimiter "rate" was called by hand`},
		"nil inside":               {interceptors(&tagged{}), `RateLimiter "nil" was called by hand`},
		"a scheduler by value":     {interceptors(&ordered{}), `PriorityScheduler "" was called by hand`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: tt.list})
			defer r.end()
			r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { t.Error("it ran"); return nil })
			_, ok := r.Plan("x")
			assert.True(t, ok, "no plan")
			assert.ErrorContains(t, r.call("x"), tt.want)
		})
	}
	// Between the gates it parts them, as any interceptor does.
	_, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(atMost(1), tagged{}, atMost(1))})
	assert.ErrorContains(t, err, "Config.Interceptors[2] (concurrency) stands apart from the other gates")
	for _, x := range interceptors((*sluice.RateLimiter)(nil), (*sluice.CircuitBreaker)(nil), (*sluice.PriorityScheduler)(nil), (*sluice.ConcurrencyLimiter)(nil)) {
		_, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(x)})
		assert.ErrorContains(t, err, "Config.Interceptors[0] is nil", "%T", x)
	}
}

// gateKeys is what an operator can do to a key.
func gateKeys(s sluice.Scope, maxKeys int) (gates []sluice.Interceptor, ops map[string]func(string) error) {
	q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: s, MaxKeys: maxKeys, Rates: []sluice.Rate{{N: 100}, {N: 1000, Per: time.Minute}}}))
	b := breakerOf(sluice.CircuitBreakerConfig{Scope: s, MaxKeys: maxKeys})
	return interceptors(q, b), map[string]func(string) error{
		"Pause": func(k string) error { return q.Pause(k, time.Nanosecond) },
		"lift":  func(k string) error { return q.Pause(k, 0) },
		"Trip":  b.Trip,
		"State": func(k string) error { _, err := b.State(k); return err },
		"Reset": b.Reset,
	}
}

// A key that a limit's scope cannot have is refused with words, and leaves nothing behind.
func TestGates_KeysOfTheirScopes(t *testing.T) {
	long := strings.Repeat("k", 1025)
	host := sluice.ByKey("host", func(sluice.Call) string { return "" })
	for name, tt := range map[string]struct {
		scope     sluice.Scope
		good, bad []string
	}{
		"Global":   {sluice.Global, []string{""}, []string{"x", "web", long}},
		"ForTool":  {sluice.ForTool("x"), []string{""}, []string{"x"}},
		"ForType":  {sluice.ForType("web"), []string{""}, []string{"web"}},
		"ByTool":   {sluice.ByTool, []string{"x", "bare"}, []string{"", "web", "y", "gone", long}},
		"ByType":   {sluice.ByType, []string{"web", ""}, []string{"x", "wbe", long}},
		"ByTenant": {sluice.ByTenant, []string{"", "t"}, []string{long}},
		"ByKey":    {host, []string{"h"}, []string{"", long}},
	} {
		t.Run(name, func(t *testing.T) {
			gates, ops := gateKeys(tt.scope, 0)
			r := newRig(t, sluice.Config{Interceptors: gates})
			defer r.end()
			for _, s := range []sluice.Spec{{Name: "x", Type: "web"}, {Name: "bare"}, {Name: "gone", Type: "old"}} {
				r.tool(s, func(context.Context) error { return nil })
			}
			r.reg.Remove("gone")
			before := len(r.Snapshot().Gates)
			for _, op := range []string{"Pause", "lift", "Trip", "State", "Reset"} {
				for _, k := range tt.bad {
					if err := ops[op](k); err == nil || !strings.Contains(err.Error(), "has no key") || len(err.Error()) > 400 {
						t.Errorf("%s(%.20q): %v", op, k, err)
					}
				}
			}
			if n := len(r.Snapshot().Gates); n != before {
				t.Errorf("%d constraints, %d before keys were refused", n, before)
			}
			for _, op := range []string{"Pause", "lift", "Trip", "State", "Reset"} {
				for _, k := range tt.good {
					assert.NoError(t, ops[op](k), "%s(%q)", op, k)
				}
			}
		})
	}
	for name, op := range map[string]func() error{
		"nil RateLimiter":     func() error { return (*sluice.RateLimiter)(nil).Pause("", time.Second) },
		"nil CircuitBreaker":  func() error { return (*sluice.CircuitBreaker)(nil).Trip("") },
		"zero RateLimiter":    func() error { return new(sluice.RateLimiter).Pause("", time.Second) },
		"zero CircuitBreaker": func() error { _, err := new(sluice.CircuitBreaker).State(""); return err },
	} {
		assert.ErrorContains(t, op(), "must be made by its New function", name)
	}
}

// Keys that an operator touches are bounded for every scope: by MaxKeys, idle ones making room,
// by the registered tools, and, before there is an executor, by a thousand.
func TestGates_KeysAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		gates, ops := gateKeys(sluice.ByTenant, 50)
		r := newRig(t, sluice.Config{Interceptors: gates})
		defer r.end()
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { return nil })
		for i := range 5000 {
			require.NoError(t, ops["Pause"](fmt.Sprint(i))) // of a nanosecond: idle a token's time after it
			time.Sleep(2 * time.Minute)
		}
		full := 0
		for i := range 5000 {
			if err := ops["Trip"](fmt.Sprint(i)); err != nil {
				if !strings.Contains(err.Error(), "no room for key") {
					t.Fatal(err)
				}
				full++
			}
		}
		if n := len(r.Snapshot().Gates); n > 3*50+10 || full != 5000-50 {
			t.Errorf("%d constraints, %d trips refused: want at most 150 of keys, and 4950", n, full)
		}

		_, ops = gateKeys(sluice.ByTool, 0)
		full = 0
		for i := range 5000 {
			if ops["Trip"](fmt.Sprint("tool-", i)) != nil {
				full++
			}
		}
		assert.Equal(t, 4000, full, "trips of tools that nobody has registered were refused, want 4000 of 5000")
	})
}

// Tools that come and go leave nothing behind, whatever their limits counted, once that is
// over; what runs meanwhile still counts.
func TestRemovedTools_LeaveNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(
			limitsOf(sluice.Limit{Max: 4, Scope: sluice.ByTool}, sluice.Limit{Max: 9, Scope: sluice.ByType}, sluice.Limit{Max: 100}),
			sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTool, Rates: []sluice.Rate{{N: 10}}})),
			breakerOf(sluice.CircuitBreakerConfig{}))})
		defer r.end()
		r.ctx = t.Context()
		release := make(chan struct{})
		for i := range 3000 {
			s := sluice.Spec{Name: fmt.Sprint("session-", i), Type: fmt.Sprint("type-", i), Policy: sluice.Policy{Rates: []sluice.Rate{{N: 5}}, Breaker: &sluice.BreakerPolicy{}}}
			r.tool(s, func(ctx context.Context) error {
				if i < 10 {
					<-release
				}
				if i%3 == 0 {
					return errTool // remembered for a while
				}
				return nil
			})
			if i < 10 {
				go r.call(s.Name)
				synctest.Wait()
			} else {
				_ = r.call(s.Name)
			}
			r.reg.Remove(s.Name)
		}
		s := r.Snapshot()
		assert.Equal(t, 10, s.InFlight, "in flight")
		if n := len(s.Gates); n > 2100 || n < 40 {
			t.Errorf("%d constraints while 3000 removed tools have just been called: want those that remember, at most 1,000 a limit", n)
		}
		close(release)
		time.Sleep(time.Hour)
		if s := r.Snapshot(); len(s.Gates) != 1 || s.Gates[0].Name != "concurrency global" {
			t.Errorf("no tool is registered, and there is %+v", s.Gates)
		}
	})
}

// Twenty thousand tools that came and went leave no memory behind.
func TestRemovedTools_LeaveNoMemory(t *testing.T) {
	r := newRig(t, sluice.Config{Interceptors: interceptors(passing, limitsOf(sluice.Limit{Max: 4, Scope: sluice.ByTool}), breakerOf(sluice.CircuitBreakerConfig{}))})
	r.ctx = t.Context()
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	round := func(from int) {
		for i := range 10_000 {
			name := fmt.Sprint("session-", from+i)
			rawTool(t, r.reg, sluice.Spec{Name: name}, func(context.Context) error { return nil })
			require.NoError(t, r.call(name))
			r.reg.Remove(name)
		}
	}
	round(0)
	before := heap()
	round(10_000)
	if d := heap() - before; d > 1<<20 {
		t.Errorf("%d KiB more after ten thousand tools that came and went", d>>10)
	}
	n := len(r.Snapshot().Gates)
	assert.Zero(t, n, "no tool is registered, and there are %d constraints", n)
	r.end()
}

// A tool that is removed and comes back at once finds what limits by tool and by type remember:
// its debts, its pause, its open breaker, and the calls that still run.
func TestRemovedTools_FindWhatIsRemembered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTool, Refuse: true, Rates: []sluice.Rate{{N: 3, Per: time.Hour}}}))
		byType := breakerOf(sluice.CircuitBreakerConfig{Name: "type", Scope: sluice.ByType, Failures: 3, Cooldown: time.Hour})
		l := limitsOf(sluice.Limit{Max: 2, Scope: sluice.ByTool, Refuse: true})
		r := newRig(t, sluice.Config{Interceptors: interceptors(q, byType, l)})
		defer r.end()
		add := func(name string, f func(context.Context) error) {
			r.reg.Remove(name)
			r.tool(sluice.Spec{Name: name, Type: "type of " + name}, f)
		}
		ran := 0
		for range 10 {
			add("quota", func(context.Context) error { ran++; return nil })
			_ = r.call("quota")
		}
		assert.Equal(t, 3, ran, "calls ran under 3 an hour, of a tool that came and went")
		for i := range 4 {
			add("broken", func(context.Context) error { return errTool })
			err := r.call("broken")
			assert.Equal(t, i == 3, errors.Is(err, sluice.ErrBreakerOpen), "call %d: %v", i, err)
		}
		var g gauge
		for range 5 {
			add("slow", g.counts(time.Minute))
			go r.call("slow")
			synctest.Wait()
		}
		assert.Equal(t, int64(2), g.peak.Load(), "at once under a limit of 2, of a tool that came and went")
		time.Sleep(time.Minute)
	})
}

// A tool whose policy was changed keeps what limits by tool have of it until it is called again.
func TestRemovedTools_ChangedOnesAreKept(t *testing.T) {
	r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 3, Scope: sluice.ByTool}))})
	defer r.end()
	for _, n := range []string{"x", "y"} {
		r.tool(sluice.Spec{Name: n}, func(context.Context) error { return nil })
	}
	for i := range 3 {
		require.NoError(t, r.call("x"))
		require.NoError(t, sluice.Reconfigure("me", r.reg.WithPolicy("x", sluice.Policy{Concurrency: 5 + i})))
		require.NoError(t, r.call("y")) // compiles for the changed registry
		g := r.gateState("concurrency per tool", "x")
		assert.Equal(t, int64(3), g.Limit, "the limit's cell of a tool that was changed: %+v", g)
	}
	r.reg.Remove("x")
	for _, g := range r.Snapshot().Gates {
		assert.NotEqual(t, "x", g.Key, "the limit's cell of a tool that was removed: %+v", g)
	}
}

// A call that holds on to a tool that has been removed counts with the one that came after it.
func TestRemovedTools_LateAttemptsCount(t *testing.T) {
	bubble(t, func(t *testing.T) {
		late := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				time.Sleep(time.Second) // the tool is removed meanwhile
				return next(ctx, c)
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(late, limitsOf(sluice.Limit{Max: 1, Scope: sluice.ByTool}))})
		defer r.end()
		var g gauge
		var wg sync.WaitGroup
		for range 3 {
			r.reg.Remove("x")
			r.tool(sluice.Spec{Name: "x"}, g.counts(10*time.Second))
			wg.Go(func() { assert.NoError(t, r.call("x")) })
			synctest.Wait()
			r.reg.Remove("x")
		}
		wg.Wait()
		if g.peak.Load() != 1 || g.total.Load() != 3 || r.at() != 31*time.Second {
			t.Errorf("%d at once, %d ran, until %v: want 1, 3, 31s", g.peak.Load(), g.total.Load(), r.at())
		}
		assert.Empty(t, r.Snapshot().Gates, "constraints are left")
	})
}
