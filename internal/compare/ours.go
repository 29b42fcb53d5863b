package compare

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-go/sluice"
)

// discard is a sink that takes every event and drops it.
type discard struct{}

func (discard) Enabled(sluice.EventKind) bool                   { return true }
func (discard) Emit(ctx context.Context, e *sluice.Event) error { return nil }

// gates are the four components of a full call, in the default configuration but for the
// limits.
type gates struct {
	breaker  *sluice.CircuitBreaker
	slots    *sluice.ConcurrencyLimiter
	rate     *sluice.RateLimiter
	priority *sluice.PriorityScheduler
}

func newGates(limit int) (g gates, err error) {
	if g.breaker, err = sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{}); err != nil {
		return g, err
	}
	g.slots, err = sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: limit}}})
	if err != nil {
		return g, err
	}
	g.rate, err = sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1e9, Per: time.Second}}})
	if err != nil {
		return g, err
	}
	g.priority, err = sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 10_000})
	return g, err
}

// guarded is an executor with the four gates and the tool.
type guarded struct {
	gates
	exec  *sluice.Executor
	typed *sluice.Tool[Input, int]
}

type oursConfig struct {
	limit   int
	sink    sluice.EventSink
	timeout time.Duration
}

func newGuarded(f toolFunc, c oursConfig) (*guarded, func(), error) {
	g, err := newGates(c.limit)
	if err != nil {
		return nil, nil, err
	}
	reg := sluice.NewToolRegistry()
	typed, err := sluice.Register(reg, sluice.Spec{Name: toolName}, f)
	if err != nil {
		return nil, nil, err
	}
	exec, err := sluice.NewExecutor(reg, sluice.Config{
		Interceptors: []sluice.Interceptor{g.breaker, g.slots, g.rate, g.priority},
		Sink:         c.sink,
		Timeout:      c.timeout,
	})
	if err != nil {
		return nil, nil, err
	}
	return &guarded{g, exec, typed}, func() { exec.Close(context.Background()) }, nil
}

// request is built once, as a model's call is decoded once.
var request = sluice.Request{ID: "call_1", Tool: toolName, Input: input}

// oursCall is exec.Invoke: the tool is found by its name.
func oursCall(f toolFunc, c oursConfig) func(int) (Body, func(), error) {
	return func(int) (Body, func(), error) {
		g, done, err := newGuarded(f, c)
		if err != nil {
			return nil, nil, err
		}
		ctx := context.Background()
		return func(_, n int) error {
			for range n {
				r, err := g.exec.Invoke(ctx, request)
				if err != nil {
					return err
				}
				if r.Value != any(answer) {
					return errWrong
				}
			}
			return nil
		}, done, nil
	}
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
		ctx := context.Background()
		return func(_, n int) error {
			for range n {
				_, err := g.exec.Invoke(ctx, request)
				if !errors.Is(err, sluice.ErrBreakerOpen) {
					return errWrong
				}
			}
			return nil
		}, done, nil
	}
}

// oursGate is exec.Invoke with one gate and no sink. A gate cannot be called without an
// executor, so this is more than what the peers of its rows do: a whole call.
func oursGate(make func() (sluice.Interceptor, error)) func(int) (Body, func(), error) {
	return func(int) (Body, func(), error) {
		exec, err := gateExecutor(make, tool)
		if err != nil {
			return nil, nil, err
		}
		ctx := context.Background()
		return func(_, n int) error {
			for range n {
				if _, err := exec.Invoke(ctx, request); err != nil {
					return err
				}
			}
			return nil
		}, func() { exec.Close(ctx) }, nil
	}
}

func gateExecutor[In any](make func() (sluice.Interceptor, error), f func(context.Context, In) (int, error)) (*sluice.Executor, error) {
	g, err := make()
	if err != nil {
		return nil, err
	}
	reg := sluice.NewToolRegistry()
	if _, err := sluice.Register(reg, sluice.Spec{Name: toolName}, f); err != nil {
		return nil, err
	}
	return sluice.NewExecutor(reg, sluice.Config{Interceptors: []sluice.Interceptor{g}})
}

// keyedRate is an executor whose rate counts by the input, a string, after one call for
// each of the inputs.
func keyedRate(inputs []any) (*sluice.Executor, error) {
	exec, err := gateExecutor(func() (sluice.Interceptor, error) {
		return sluice.NewRateLimiter(sluice.RateLimiterConfig{
			Scope:   sluice.ByKey("key", func(c sluice.Call) string { return c.Input.(string) }),
			Rates:   []sluice.Rate{{N: 1e9}},
			MaxKeys: len(inputs),
		})
	}, func(ctx context.Context, key string) (int, error) { return answer, nil })
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
