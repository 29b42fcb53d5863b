package resilience_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// A tool that only reads is called again when it fails, and holds no slot while it waits for that.
func ExampleNewRetry() {
	retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{Base: time.Millisecond}))
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{retry, limits}, // outside the gates: each attempt is admitted anew
	}))
	defer exec.Close(context.Background())

	calls := 0
	weather := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "weather", Hints: sluice.Hints{ReadOnly: true}},
		func(_ context.Context, city string) (string, error) {
			if calls++; calls < 3 {
				return "", errors.New("connection reset")
			}
			return city + ": sunny", nil
		}))
	fmt.Println(weather(context.Background(), "Oslo"))

	calls = -10
	_, err := weather(context.Background(), "Oslo")
	fmt.Println(err)
	var gaveUp *resilience.RetryError
	fmt.Println(errors.As(err, &gaveUp), len(gaveUp.Tried))
	// Output:
	// Oslo: sunny <nil>
	// resilience: 3 attempts failed, no more are allowed: connection reset
	// true 3
}

// One budget bounds what all retries of a program add to the load.
func ExampleNewBudget() {
	budget := sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Share: 0.1, Min: 2}))
	retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{Base: time.Millisecond, Budget: budget}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{retry}}))
	defer exec.Close(context.Background())

	attempts := 0
	down := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "down", Hints: sluice.Hints{ReadOnly: true}},
		func(context.Context, string) (string, error) {
			attempts++
			return "", errors.New("down")
		}))
	for range 100 {
		down(context.Background(), "")
	}
	fmt.Println(attempts, "attempts of 100 calls")
	// Output: 112 attempts of 100 calls
}
