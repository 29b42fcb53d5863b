package main

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// answer is how one tool call ended. Times count from the start of the replay.
type answer struct {
	Tenant   string
	Priority sluice.Priority
	Tool     string
	Provider string // whose API key it used
	Arrived  time.Duration
	Began    time.Duration // when the tool's code started; Arrived if it never did
	Ran      bool
	Err      error
	Message  toolMessage // what the model gets; every call must have one
}

// caller makes one tool call of t.
type caller func(ctx context.Context, t turn, c toolCall) (json.RawMessage, error)

// replay lets every turn arrive at its time and makes its calls at once, as an agent
// does. It returns the answers in the order of the calls, and the time that all took.
// An error of a call becomes its answer: the model reads it.
func replay(ctx context.Context, turns []turn, tools map[string]agentTool, live *progress, call caller) ([]answer, time.Duration) {
	answers := make([]answer, countCalls(turns))
	start := time.Now()
	var wg sync.WaitGroup
	next := 0
	for _, t := range turns {
		sleep(ctx, t.At-time.Since(start))
		for _, c := range t.Calls {
			a := &answers[next]
			next++
			live.arrived()
			wg.Go(func() {
				*a = answer{
					Tenant: t.Tenant, Priority: t.Priority,
					Tool: c.Function.Name, Provider: tools[c.Function.Name].spec.Type,
					Arrived: time.Since(start),
				}
				a.Began = a.Arrived
				ctx := context.WithValue(ctx, beganKey{}, func() {
					a.Began, a.Ran = time.Since(start), true
					live.began()
				})
				var result json.RawMessage
				result, a.Err = call(ctx, t, c)
				a.Message = toolMessage{Role: "tool", ToolCallID: c.ID, Content: content(result, a.Err)}
				live.ended(a.Ran, a.Err)
			})
		}
	}
	wg.Wait()
	return answers, time.Since(start)
}

// content is the text that the model gets for a result or an error.
func content(result json.RawMessage, err error) string {
	if err != nil {
		text, _ := json.Marshal(map[string]string{"error": err.Error()})
		return string(text)
	}
	return string(result)
}

// unguarded calls the tool's function: nothing stands between the model and the backend.
func unguarded(tools map[string]agentTool) caller {
	return func(ctx context.Context, _ turn, c toolCall) (json.RawMessage, error) {
		return tools[c.Function.Name].run(ctx, json.RawMessage(c.Function.Arguments))
	}
}

// The guard stands slightly inside what the server enforces.
//
// A request reaches the server some time after it was admitted here, and not always the
// same time: if that delay varies by up to d, the server sees at most
// guardBurst + rate*(window + d) requests in a window, and allows serverBurst + rate*window.
// So a burst smaller by 4 at 10/s forgives 400 ms of jitter; with equal bursts, two
// requests that bunch up on the way would cost a 429. Slots need no such margin: the
// server frees one before its answer leaves, and the guard only after it has arrived.
const (
	guardRate  = serverRate
	guardBurst = serverBurst - 4
	guardSlots = serverSlots
)

// tenantWeights: acme pays for twice the share; a tenant that is not named weighs 1.
var tenantWeights = map[string]int{"acme": 2}

// newGuard returns an executor over tools with the four gates of the demo, and in front of them
// what waits for the broken endpoint. The order of gates has no meaning: one decision asks them all.
func newGuard(tools map[string]agentTool, sink sluice.EventSink) (*sluice.Executor, error) {
	rates, err := sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name:     "provider",
		Scope:    sluice.ByType, // each provider's key apart
		Rates:    []sluice.Rate{{N: guardRate, Per: time.Second, Burst: guardBurst}},
		Upstream: true,
	})
	if err != nil {
		return nil, err
	}
	slots, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Name:   "backend",
		Limits: []sluice.Limit{{Max: guardSlots}},
	})
	if err != nil {
		return nil, err
	}
	order, err := sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{TenantWeights: tenantWeights})
	if err != nil {
		return nil, err
	}
	breaker, err := sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{
		Failures: 3, // each tool apart, so that a broken one leaves the others alone
		Cooldown: time.Second,
		// Callers refused during a trial call are told to come back when its lease ends, at
		// the latest: the tools answer within 300 ms, so half a second is enough.
		Lease: 500 * time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	again, err := newRetry()
	if err != nil {
		return nil, err
	}
	registry := sluice.NewToolRegistry()
	for _, t := range tools {
		if _, err := sluice.Register(registry, t.spec, t.run); err != nil {
			return nil, err
		}
	}
	return sluice.NewExecutor(registry, sluice.Config{
		Interceptors: []sluice.Interceptor{again, order, rates, slots, breaker},
		Sink:         sink,
	})
}

// patience is how long a call waits for a broken endpoint before the model hears of it.
const patience = 8 * time.Second

// newRetry makes calls again that the open breaker has refused, when the refusal says so. Their code
// did not run, so that is safe for every tool, and costs the backend nothing: the budget is large.
func newRetry() (*resilience.Retry, error) {
	budget, err := resilience.NewBudget(resilience.BudgetConfig{Share: 10})
	if err != nil {
		return nil, err
	}
	return resilience.NewRetry(resilience.RetryConfig{
		Attempts: 100, Base: 100 * time.Millisecond, Max: patience, Total: patience, Budget: budget,
		If: func(_ sluice.Spec, a sluice.Attempt, _ sluice.Result, err error) bool {
			return !a.Ran && errors.Is(err, sluice.ErrBreakerOpen)
		},
	})
}

// guarded makes the call through exec. A call that did run and failed is reported as it is, in
// both runs: whether to repeat it is for the model to decide.
func guarded(exec *sluice.Executor) caller {
	return func(ctx context.Context, t turn, c toolCall) (json.RawMessage, error) {
		ctx = sluice.WithPipelineContext(ctx, sluice.PipelineContext{
			Tenant: t.Tenant, Priority: t.Priority, UserID: t.User,
		})
		res, err := exec.Invoke(ctx, sluice.Request{
			ID: c.ID, Tool: c.Function.Name, Args: json.RawMessage(c.Function.Arguments),
		})
		if err != nil {
			return nil, err
		}
		return res.JSON()
	}
}

// sleep waits for d, or until ctx ends and then returns its cause.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
