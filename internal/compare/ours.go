package compare

import (
	"context"
	"slices"
	"time"

	"github.com/sluice-go/sluice"
)

// discard is a sink that takes every event and drops it.
type discard struct{}

func (discard) Enabled(sluice.EventKind) bool                   { return true }
func (discard) Emit(ctx context.Context, e *sluice.Event) error { return nil }

// oursConfig is what differs from the default configuration.
type oursConfig struct {
	limit       int
	refuse      bool // when the limit is full
	sink        sluice.EventSink
	timeout     time.Duration
	cooperative bool
	handOff     bool
	breaker     sluice.CircuitBreakerConfig
	more        []sluice.Interceptor // before the breaker
}

// guarded is an executor with all four gates and the tool.
type guarded struct {
	breaker *sluice.CircuitBreaker
	exec    *sluice.Executor
	typed   *sluice.Tool[Input, int]
}

func newGates(c oursConfig) (gates []sluice.Interceptor, b *sluice.CircuitBreaker, err error) {
	if c.breaker.Ratio == 0 {
		c.breaker.Failures = 5 // in a row, as peers count
	}
	if b, err = sluice.NewCircuitBreaker(c.breaker); err != nil {
		return nil, nil, err
	}
	slots, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Limits: []sluice.Limit{{Max: c.limit, Refuse: c.refuse}}})
	if err != nil {
		return nil, nil, err
	}
	rate, err := sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1e9, Per: time.Second}}})
	if err != nil {
		return nil, nil, err
	}
	priority, err := sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 10_000, HandOff: c.handOff})
	return append(slices.Clone(c.more), b, slots, rate, priority), b, err
}

func newGuarded(f toolFunc, c oursConfig) (*guarded, func(), error) {
	gates, breaker, err := newGates(c)
	if err != nil {
		return nil, nil, err
	}
	reg := sluice.NewToolRegistry()
	typed, err := sluice.Register(reg, sluice.Spec{Name: toolName, Policy: sluice.Policy{Cooperative: c.cooperative}}, f)
	if err != nil {
		return nil, nil, err
	}
	exec, err := sluice.NewExecutor(reg, sluice.Config{Interceptors: gates, Sink: c.sink, Timeout: c.timeout})
	if err != nil {
		return nil, nil, err
	}
	return &guarded{breaker, exec, typed}, func() { exec.Close(context.Background()) }, nil
}

// request is built once, as a model's call is decoded once.
var request = sluice.Request{ID: "call_1", Tool: toolName, Input: input}

// oursCall is exec.Invoke: the tool is found by its name.
func oursCall(f toolFunc, c oursConfig) func(int) (Body, func(), error) {
	return oursCallOf(context.Background(), request, f, c)
}

// oursCallOf is exec.Invoke of r on behalf of the run in ctx.
func oursCallOf(ctx context.Context, r sluice.Request, f toolFunc, c oursConfig) func(int) (Body, func(), error) {
	return func(int) (Body, func(), error) {
		g, done, err := newGuarded(f, c)
		if err != nil {
			return nil, nil, err
		}
		return func(_, n int) error { return invokes(ctx, g.exec, r, n) }, done, nil
	}
}

// invokes is n calls of r that must give the answer.
func invokes(ctx context.Context, e *sluice.Executor, r sluice.Request, n int) error {
	for range n {
		r, err := e.Invoke(ctx, r)
		if err != nil {
			return err
		}
		if r.Value != any(answer) {
			return errWrong
		}
	}
	return nil
}

// oursTyped is a typed handle's Invoke: values in, values out.
func oursTyped(f toolFunc, c oursConfig) func(int) (Body, func(), error) {
	return func(int) (Body, func(), error) {
		g, done, err := newGuarded(f, c)
		if err != nil {
			return nil, nil, err
		}
		return callBody(func(ctx context.Context) (int, error) { return g.typed.Invoke(ctx, g.exec, input) }), done, nil
	}
}

// oursRefused is exec.Invoke while the breaker is open.
func oursRefused(c oursConfig) func(int) (Body, func(), error) {
	return func(int) (Body, func(), error) {
		g, done, err := newGuarded(tool, c)
		if err != nil {
			return nil, nil, err
		}
		g.breaker.Trip(toolName)
		return invokeRefused(g.exec, sluice.ErrBreakerOpen), done, nil
	}
}

// oursFull is exec.Invoke while the only slot of a limit that refuses is taken.
func oursFull(c oursConfig) func(int) (Body, func(), error) {
	c.limit, c.refuse = 1, true
	return func(int) (Body, func(), error) {
		inside, leave := make(chan struct{}), make(chan struct{})
		g, done, err := newGuarded(func(ctx context.Context, in Input) (int, error) {
			close(inside)
			<-leave
			return answer, nil
		}, c)
		if err != nil {
			return nil, nil, err
		}
		holder := g.exec.Submit(context.Background(), request)
		<-inside
		return invokeRefused(g.exec, sluice.ErrSaturated), func() {
			close(leave)
			<-holder.Done()
			done()
		}, nil
	}
}

func invokeRefused(e *sluice.Executor, reason error) Body {
	return refusedBody(func(ctx context.Context) (int, error) {
		_, err := e.Invoke(ctx, request)
		return 0, err
	}, reason)
}

// keyedRate is an executor whose rate counts by the input, a string, after one call for
// each of the inputs.
func keyedRate(inputs []any) (*sluice.Executor, error) {
	rate, err := sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Scope:   sluice.ByKey("key", func(c sluice.Call) string { return c.Input.(string) }),
		Rates:   []sluice.Rate{{N: 1e9}},
		MaxKeys: len(inputs),
	})
	if err != nil {
		return nil, err
	}
	reg := sluice.NewToolRegistry()
	_, err = sluice.Register(reg, sluice.Spec{Name: toolName}, func(ctx context.Context, key string) (int, error) { return tool(ctx, input) })
	if err != nil {
		return nil, err
	}
	exec, err := sluice.NewExecutor(reg, sluice.Config{Interceptors: []sluice.Interceptor{rate}})
	if err != nil {
		return nil, err
	}
	for _, in := range inputs {
		if _, err := exec.Invoke(context.Background(), sluice.Request{ID: "call_1", Tool: toolName, Input: in}); err != nil {
			return nil, err
		}
	}
	return exec, nil
}

// boxed are keys as inputs, boxed before the clock runs.
func boxed(ks []string) []any {
	out := make([]any, len(ks))
	for i, k := range ks {
		out[i] = k
	}
	return out
}
