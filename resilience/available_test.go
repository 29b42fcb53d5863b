package resilience_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

// Which tools are worth offering, and when the others may be again.
func TestAvailable(t *testing.T) {
	type in struct {
		City string `json:"city"`
	}
	for _, tt := range []struct {
		name   string
		policy sluice.Policy
		conf   sluice.Config
		before func(r *rig, call func()) // a call takes a minute; none waits for it
		reason error                     // nil if it is worth offering
		by     string
		again  time.Duration
	}{
		{name: "idle"},
		{name: "a slot is taken", policy: sluice.Policy{Concurrency: 1}, before: func(r *rig, call func()) { call() }},
		{name: "which takes long", policy: sluice.Policy{Concurrency: 1},
			before: func(r *rig, call func()) { call(); time.Sleep(time.Minute); call() },
			reason: sluice.ErrWaitTooLong, by: "tool/x concurrency", again: time.Minute},
		{name: "it waits a bit", policy: sluice.Policy{Rates: []sluice.Rate{{N: 6, Per: time.Minute, Burst: 1}}}, before: func(r *rig, call func()) { call() }},
		{name: "a bit more", policy: sluice.Policy{Rates: []sluice.Rate{{N: 5, Per: time.Minute, Burst: 1}}}, before: func(r *rig, call func()) { call() },
			reason: sluice.ErrWaitTooLong, by: "tool/x calls per minute", again: 12 * time.Second},
		{name: "it must not wait", policy: sluice.Policy{Rates: []sluice.Rate{{N: 60, Per: time.Minute, Burst: 1}}, MaxWait: sluice.NoWait}, before: func(r *rig, call func()) { call() },
			reason: sluice.ErrWaitTooLong, by: "tool/x calls per minute", again: time.Second},
		{name: "full, and refuses", conf: sluice.Config{Interceptors: []sluice.Interceptor{sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Refuse: true}}}))}},
			before: func(r *rig, call func()) { call() }, reason: sluice.ErrSaturated, by: "concurrency global"},
		{name: "the queue is full", conf: sluice.Config{Interceptors: []sluice.Interceptor{sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 1}))}},
			policy: sluice.Policy{Concurrency: 1}, before: func(r *rig, call func()) { call(); call() }, reason: sluice.ErrQueueFull, by: "queue"},
		{name: "it is throttled", before: func(r *rig, call func()) {
			r.Invoke(r.ctx, sluice.Request{Tool: "x", Args: json.RawMessage(`{"city":"429"}`)})
		}, reason: sluice.ErrWaitTooLong, by: "tool/x concurrency", again: 30 * time.Second},
		{name: "closed", before: func(r *rig, call func()) { r.Close(context.Background()) }, reason: sluice.ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, tt.conf)
				required := json.RawMessage(`{"type":"object","required":["city"]}`)
				sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "x", InputSchema: required, Policy: tt.policy}, func(_ context.Context, c in) (int, error) {
					if c.City == "429" {
						return 0, later(30 * time.Second)
					}
					time.Sleep(time.Minute)
					return 0, nil
				}))
				if tt.before != nil {
					tt.before(r, func() {
						go r.Invoke(r.ctx, sluice.Request{Tool: "x", Input: in{"Oslo"}})
						synctest.Wait()
					})
				}
				offer, others := resilience.Available(r.ctx, r.Executor)
				if tt.reason == nil {
					require.Empty(t, others)
					require.Len(t, offer, 1)
					require.Equal(t, "x", offer[0].Name)
				} else {
					require.Empty(t, offer)
					require.Len(t, others, 1)
					require.Equal(t, "x", others[0].Spec.Name)
					why := others[0].Reason
					require.Equal(t, "x", why.Tool)
					require.Equal(t, tt.reason, why.Reason, "%v", why)
					require.Equal(t, tt.by, why.By)
					require.Equal(t, tt.again, why.RetryAfter)
				}
				r.end()
			})
		})
	}
}

// A tool whose breaker is open is offered again when that tries; one whose rate is paused when the pause is nearly over.
func TestAvailable_Again(t *testing.T) {
	bubble(t, func(t *testing.T) {
		breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: 20 * time.Second}))
		rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "api", Scope: sluice.ForType("api"), Rates: []sluice.Rate{{N: 100, Per: time.Second}}}))
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{breaker, rate}})
		a := r.tool(sluice.Spec{Name: "a"}, func(context.Context, int) error { return errBoom })
		r.tool(sluice.Spec{Name: "b", Type: "api"}, works)
		r.tool(sluice.Spec{Name: "c", Type: "api"}, works)
		names := func() (offer []string, others map[string]time.Duration) {
			list, rest := resilience.Available(r.ctx, r.Executor)
			for _, s := range list {
				offer = append(offer, s.Name)
			}
			others = map[string]time.Duration{}
			for _, u := range rest {
				others[u.Spec.Name] = u.Reason.RetryAfter
			}
			return offer, others
		}
		offer, others := names()
		require.Equal(t, []string{"a", "b", "c"}, offer)
		require.Empty(t, others)

		require.ErrorIs(t, a(r.ctx), errBoom)
		require.NoError(t, rate.Pause("", time.Minute))
		offer, others = names()
		require.Empty(t, offer)
		require.Equal(t, time.Minute, others["b"])
		require.Equal(t, time.Minute, others["c"])
		again := others["a"]
		require.Positive(t, again)

		time.Sleep(again - 1)
		offer, others = names()
		require.NotContains(t, offer, "a")
		require.Equal(t, time.Duration(1), others["a"])
		time.Sleep(time.Nanosecond)
		offer, _ = names()
		require.Contains(t, offer, "a")
		time.Sleep(time.Minute - again - 10*time.Second)
		offer, others = names()
		require.Equal(t, []string{"a", "b", "c"}, offer)
		require.Empty(t, others)
		r.end()
	})
}

// It judges for the caller: by the time and the tenant that its context has.
func TestAvailable_ForItsCaller(t *testing.T) {
	bubble(t, func(t *testing.T) {
		rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, Rates: []sluice.Rate{{N: 12, Per: time.Minute, Burst: 1}}}))
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{rate}})
		x := r.tool(sluice.Spec{}, works)
		of := func(tenant string) context.Context {
			pc := sluice.PipelineContextFrom(r.ctx)
			pc.Tenant = tenant
			return sluice.WithPipelineContext(r.ctx, pc)
		}
		require.NoError(t, x(of("one")))
		late, cancel := context.WithTimeout(of("one"), 3*time.Second)
		defer cancel()
		for _, tt := range []struct {
			ctx  context.Context
			want int
		}{{of("one"), 1}, {of("two"), 1}, {late, 0}} {
			offer, others := resilience.Available(tt.ctx, r.Executor)
			require.Len(t, offer, tt.want)
			require.Len(t, others, 1-tt.want)
		}
		_, others := resilience.Available(late, r.Executor)
		require.Equal(t, sluice.ErrWaitTooLong, others[0].Reason.Reason)
		r.end()
	})
}

func TestAvailable_NoExecutor(t *testing.T) {
	for _, e := range []*sluice.Executor{nil, new(sluice.Executor)} {
		offer, others := resilience.Available(t.Context(), e)
		require.Empty(t, offer)
		require.Empty(t, others)
	}
}

// A model is told of the tools that work, and not of the one that will be refused.
func ExampleAvailable() {
	breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Minute}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{breaker}}))
	defer exec.Close(context.Background())
	for _, name := range []string{"news", "search", "weather"} {
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: name}, func(_ context.Context, query string) (string, error) {
			return query, errors.New("down")
		}))
	}
	exec.Invoke(context.Background(), sluice.Request{Tool: "news", Input: "Oslo"})

	offer, others := resilience.Available(context.Background(), exec)
	for _, tool := range offer {
		fmt.Println("offer", tool.Name)
	}
	for _, u := range others {
		fmt.Println("not", u.Spec.Name, "-", sluice.CodeOf(u.Reason), u.Reason.RetryAfter > 0)
	}
	// Output:
	// offer search
	// offer weather
	// not news - breaker_open true
}
