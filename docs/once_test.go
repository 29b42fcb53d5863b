package docs_test

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// Order is what somebody pays for.
type Order struct {
	No     string
	Amount int
}

func Example_once() {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{}))
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
	breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{}))
	once := sluice.Must(resilience.NewOnce(resilience.OnceConfig{
		Key:   func(c sluice.Call) (string, bool) { o, ok := c.Input.(Order); return o.No, ok },
		State: state, // a SharedState that outlives a run
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{once, retry, limits, breaker, once.Inner()},
	}))
	defer exec.Close(context.Background())
	pay := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "pay"}, func(_ context.Context, o Order) (string, error) {
		fmt.Println("paying", o.Amount)
		return "receipt 1", nil
	}))

	c := once.Config() // all but the Key
	c.TTL, c.Lease = 7*24*time.Hour, time.Minute
	err := sluice.Reconfigure("ops", once.Change(c))

	fmt.Println(err)
	for range 2 {
		fmt.Println(pay(context.Background(), Order{No: "A-17", Amount: 20}))
	}
	// Output:
	// <nil>
	// paying 20
	// receipt 1 <nil>
	// receipt 1 <nil>
}
