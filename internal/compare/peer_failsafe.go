package compare

import (
	"context"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/ratelimiter"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	"github.com/failsafe-go/failsafe-go/timeout"
)

// fail is failsafe-go with three policies: With(breaker, rate, bulkhead).
type fail struct {
	exec    failsafe.Executor[int]
	breaker circuitbreaker.CircuitBreaker[int]
	slots   bulkhead.Bulkhead[int]
	run     func() (int, error)
	// runWith is set where the tool needs the context that the timeout policy ends.
	runWith func(failsafe.Execution[int]) (int, error)
}

// failConfig says what is around the three policies.
type failConfig struct {
	limit     int
	refuse    bool // when all slots are taken, instead of waiting: the slots are asked for first
	timeout   time.Duration
	listeners bool
	retry     bool          // three attempts, around these
	total     time.Duration // of all attempts, outermost
}

func newFail(f toolFunc, c failConfig) *fail {
	x := &fail{breaker: failBreaker(), slots: bulkhead.NewBuilder[int](uint(c.limit)).WithMaxWaitTime(time.Hour).Build()}
	rate := ratelimiter.NewBursty[int](1e9, time.Second)
	policies := []failsafe.Policy[int]{x.breaker, rate, x.slots}
	if c.refuse {
		x.slots = bulkhead.New[int](uint(c.limit))
		policies = []failsafe.Policy[int]{x.slots, x.breaker, rate}
	}
	if c.timeout > 0 {
		policies = append(policies, timeout.New[int](c.timeout))
	}
	if c.retry {
		policies = append([]failsafe.Policy[int]{failRetries()}, policies...)
	}
	if c.total > 0 {
		policies = append([]failsafe.Policy[int]{timeout.New[int](c.total)}, policies...)
	}
	x.exec = failsafe.With(policies...)
	if c.listeners {
		done := func(failsafe.ExecutionDoneEvent[int]) {}
		x.exec = x.exec.OnDone(done).OnSuccess(done).OnFailure(done)
	}
	if c.timeout > 0 {
		x.runWith = func(e failsafe.Execution[int]) (int, error) { return f(e.Context(), input) }
	} else {
		x.run = func() (int, error) { return f(context.Background(), input) }
	}
	return x
}

func (x *fail) call(ctx context.Context) (int, error) {
	if x.runWith != nil {
		return x.exec.WithContext(ctx).GetWithExecution(x.runWith)
	}
	return x.exec.WithContext(ctx).Get(x.run)
}

// failRetries makes up to three attempts.
func failRetries() failsafe.Policy[int] {
	return retrypolicy.NewBuilder[int]().WithMaxRetries(2).WithBackoff(500*time.Millisecond, 30*time.Second).Build()
}

// failRetryAlone is failsafe-go's retry policy around nothing but the tool.
func failRetryAlone(f toolFunc) func(int) (Body, func(), error) {
	return func(int) (Body, func(), error) {
		exec := failsafe.With(failRetries())
		run := func() (int, error) { return f(context.Background(), input) }
		return callBody(func(ctx context.Context) (int, error) { return exec.WithContext(ctx).Get(run) }), func() {}, nil
	}
}

// failBreaker opens after five failures in a row.
func failBreaker() circuitbreaker.CircuitBreaker[int] {
	return circuitbreaker.NewBuilder[int]().WithFailureThreshold(5).WithDelay(time.Hour).Build()
}
