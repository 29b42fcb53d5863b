package office

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	"github.com/sluice-go/sluice/resilience"
)

// answer is how one tool call ended. Times count from the start of the replay.
type answer struct {
	Tenant   string
	Priority sluice.Priority
	Tool     string
	Provider string // whose API key it used
	Arrived  time.Duration
	Began    time.Duration // when it had waited for its turn, which took no time if unguarded
	Err      error
	Sent     json.RawMessage // what the model gets; nil if nothing answers the call in its place
}

// turnFunc makes the calls of one turn and renders what goes back to the model.
type turnFunc func(ctx context.Context, t turn) (*agent.Turn, error)

type closer func(ctx context.Context) error

// builder makes a turnFunc of tools; closer ends it. It counts in retried the calls that are made again.
type builder func(tools map[string]agentTool, retried *atomic.Int64) (turnFunc, closer)

// replay lets every turn arrive at its time and makes its calls at once, as an agent
// does. It returns the answers in the order of the calls, and the time that all took.
// An error of a call becomes its answer: the model reads it.
func replay(ctx context.Context, turns []turn, tools map[string]agentTool, live *progress, run turnFunc) ([]answer, time.Duration, error) {
	answers, errs := make([][]answer, len(turns)), make([]error, len(turns))
	start := time.Now()
	var wg sync.WaitGroup
	for i, t := range turns {
		sleep(ctx, t.At-time.Since(start))
		arrived := time.Since(start)
		live.arrived(len(t.Message.Calls))
		wg.Go(func() {
			done, err := run(ctx, t)
			if errs[i] = err; err != nil {
				return
			}
			answers[i] = answersTo(t, arrived, done, tools)
			for _, a := range answers[i] {
				if errors.Is(a.Err, sluice.ErrRejected) { // else its code has told
					live.ended(false, a.Err)
				}
			}
		})
	}
	wg.Wait()
	return slices.Concat(answers...), time.Since(start), errors.Join(errs...)
}

// answersTo says how the calls of t ended, which arrived then, and what the model gets of each.
func answersTo(t turn, arrived time.Duration, done *agent.Turn, tools map[string]agentTool) []answer {
	answers := make([]answer, len(t.Message.Calls))
	sent := answersIn(t.Format, done.Messages[len(t.Message.Echo):])
	for i, c := range t.Message.Calls {
		r := done.Replies[i]
		answers[i] = answer{
			Tenant: t.Tenant, Priority: t.Priority, Tool: c.Request.Tool, Provider: tools[c.Request.Tool].spec.Type,
			Arrived: arrived, Began: arrived + r.Result.Decision().Wait, Err: r.Err,
		}
		if len(sent) == len(answers) && isAnswer(sent[i], c.Request) {
			answers[i].Sent = sent[i]
		}
	}
	return answers
}

// unguarded calls the tools' functions: nothing stands between the model and the backend.
func unguarded(tools map[string]agentTool, _ *atomic.Int64) (turnFunc, closer) {
	return func(ctx context.Context, t turn) (*agent.Turn, error) {
		replies := make([]agent.Reply, len(t.Message.Calls))
		var wg sync.WaitGroup
		for i, c := range t.Message.Calls {
			wg.Go(func() {
				out, err := tools[c.Request.Tool].run(ctx, c.Request.Args)
				replies[i] = agent.Reply{Request: c.Request, Result: sluice.Result{Value: out}, Err: err}
			})
		}
		wg.Wait()
		answers, err := t.Format.Render(t.Message, replies)
		return &agent.Turn{Message: t.Message, Replies: replies, Messages: slices.Concat(t.Message.Echo, answers)}, err
	}, func(context.Context) error { return nil }
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

// guarded makes the turns' calls through Sluice. A call that did run and failed is reported as it
// is, in both runs: whether to repeat it is for the model to decide.
func guarded(tools map[string]agentTool, retried *atomic.Int64) (turnFunc, closer) {
	return guardedSeenBy(new(Observer))(tools, retried)
}

// guardedSeenBy is guarded, and o sees it.
func guardedSeenBy(o *Observer) builder {
	return func(tools map[string]agentTool, retried *atomic.Int64) (turnFunc, closer) {
		exec := newGuard(tools, retried, o)
		if o.Watch != nil {
			o.Watch(exec)
		}
		runner := sluice.Must(agent.New(exec, agent.Config{}))
		return func(ctx context.Context, t turn) (*agent.Turn, error) {
			return runner.Answer(sluice.WithPipelineContext(ctx, sluice.PipelineContext{
				Tenant: t.Tenant, Priority: t.Priority, UserID: t.User,
			}), t.Format, t.Message)
		}, exec.Close
	}
}

// newGuard returns an executor over tools with the four gates of the demo, and in front of them
// what waits for the broken endpoint. The order of gates has no meaning: one decision asks them all.
func newGuard(tools map[string]agentTool, retried *atomic.Int64, o *Observer) *sluice.Executor {
	order := sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{TenantWeights: tenantWeights}))
	rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name:     "provider",
		Scope:    sluice.ByType, // each provider's key apart
		Rates:    []sluice.Rate{{N: guardRate, Per: time.Second, Burst: guardBurst}},
		Upstream: true,
	}))
	slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Name:   "backend",
		Limits: []sluice.Limit{{Max: guardSlots}},
	}))
	breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{
		Failures: 3, // each tool apart, so that a broken one leaves the others alone
		Cooldown: time.Second,
		// Callers refused during a trial call are told to come back when its lease ends, at
		// the latest: the tools answer within 300 ms, so half a second is enough.
		Lease: 500 * time.Millisecond,
	}))
	registry := sluice.NewToolRegistry()
	for _, t := range tools {
		sluice.Must(sluice.Register(registry, t.spec, t.run))
	}
	interceptors := []sluice.Interceptor{newRetry(), order, rates, slots, breaker}
	if o.Interceptor != nil {
		interceptors = slices.Insert(interceptors, 0, o.Interceptor)
	}
	if o.Inner != nil {
		interceptors = append(interceptors, o.Inner)
	}
	o.listed = interceptors
	var sink sluice.EventSink = sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
		if e.Kind == sluice.ToolRetrying {
			retried.Add(1)
		}
		return nil
	})
	if o.Sink != nil {
		sink = sluice.MultiSink(sink, o.Sink)
	}
	return sluice.Must(sluice.NewExecutor(registry, sluice.Config{Interceptors: interceptors, Sink: sink}))
}

// patience is how long a call waits for a broken endpoint before the model hears of it.
const patience = 8 * time.Second

// newRetry makes calls again that the open breaker has refused, not before the refusal says. Their code
// did not run, so that is safe for every tool, and costs the backend nothing: the budget is large.
func newRetry() *resilience.Retry {
	return sluice.Must(resilience.NewRetry(resilience.RetryConfig{
		Attempts: 100, Base: 100 * time.Millisecond, Max: patience, Total: patience,
		Budget: sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Share: 10})),
		If: func(_ sluice.Spec, a sluice.Attempt, _ sluice.Result, err error) bool {
			return !a.Ran && errors.Is(err, sluice.ErrBreakerOpen)
		},
	}))
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
