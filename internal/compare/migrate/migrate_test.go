// Package migrate_test has what docs/migrating.md shows side by side: limits by other libraries, and the same by Sluice.
package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/afex/hystrix-go/hystrix"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/fallback"
	"github.com/failsafe-go/failsafe-go/ratelimiter"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	"github.com/failsafe-go/failsafe-go/timeout"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// searchWeb is the function that all of them guard.
func searchWeb(ctx context.Context, query string) (string, error) { return "found " + query, nil }

func Example_handmade() {
	slots := semaphore.NewWeighted(8)
	limiter := rate.NewLimiter(10, 5)
	breaker := gobreaker.NewCircuitBreaker[string](gobreaker.Settings{
		Timeout:     5 * time.Second,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 20 },
	})
	search := func(ctx context.Context, query string) (string, error) {
		if err := slots.Acquire(ctx, 1); err != nil {
			return "", err
		}
		defer slots.Release(1)
		if err := limiter.Wait(ctx); err != nil { // with a slot in hand
			return "", err
		}
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		return breaker.Execute(func() (string, error) { return searchWeb(ctx, query) })
	}
	fmt.Println(search(context.Background(), "go"))
	// Output: found go <nil>
}

func Example_handmadeSluice() {
	slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Limits: []sluice.Limit{{Max: 8}},
	}))
	limiter := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Rates: []sluice.Rate{{N: 10, Burst: 5}},
	}))
	breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{
		Failures: 20, Cooldown: 5 * time.Second,
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{slots, limiter, breaker}, // one decision
		Timeout:      30 * time.Second,
	}))
	search := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search"}, searchWeb))
	fmt.Println(search(context.Background(), "go"))
	exec.Close(context.Background())
	// Output: found go <nil>
}

// One gate at a time: what there is stays shared with other code.
func Example_step() {
	slots := semaphore.NewWeighted(8)
	limiter := rate.NewLimiter(10, 5)

	shared := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Limits: []sluice.Limit{{Max: 8, Semaphore: slots}},
	}))
	rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Limiter: limiter}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{shared, rates},
	}))
	search := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search"}, searchWeb))
	fmt.Println(search(context.Background(), "go"))
	exec.Close(context.Background())
	// Output: found go <nil>
}

func Example_failsafe() {
	executor := failsafe.With[string](
		fallback.NewWithResult("nothing"),
		retrypolicy.NewBuilder[string]().WithMaxRetries(2).WithBackoff(500*time.Millisecond, 30*time.Second).Build(),
		circuitbreaker.NewBuilder[string]().WithFailureThreshold(20).WithDelay(5*time.Second).Build(),
		ratelimiter.NewBurstyBuilder[string](10, time.Second).WithMaxWaitTime(time.Minute).Build(),
		bulkhead.NewBuilder[string](8).WithMaxWaitTime(time.Minute).Build(),
		timeout.New[string](30*time.Second),
	)
	fmt.Println(executor.WithContext(context.Background()).GetWithExecution(func(e failsafe.Execution[string]) (string, error) {
		return searchWeb(e.Context(), "go")
	}))
	// Output: found go <nil>
}

func Example_failsafeSluice() {
	none := sluice.Must(resilience.NewFallback(resilience.FallbackConfig{
		Func: func(context.Context, sluice.Call, error) (any, error) { return "nothing", nil },
	}))
	retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{}))
	breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 20}))
	limiter := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 10}}}))
	slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{none, retry, breaker, limiter, slots},
		MaxWait:      time.Minute,
		Timeout:      30 * time.Second,
	}))
	search := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search", Hints: sluice.Hints{ReadOnly: true}}, searchWeb))
	fmt.Println(search(context.Background(), "go"))
	exec.Close(context.Background())
	// Output: found go <nil>
}

func Example_hystrix() {
	hystrix.ConfigureCommand("search", hystrix.CommandConfig{
		Timeout: 30_000, MaxConcurrentRequests: 8,
		RequestVolumeThreshold: 20, ErrorPercentThreshold: 50, SleepWindow: 5_000,
	})
	var out string
	err := hystrix.DoC(context.Background(), "search", func(ctx context.Context) (err error) {
		out, err = searchWeb(ctx, "go")
		return err
	}, func(_ context.Context, err error) error {
		out = "nothing"
		return nil
	})
	fmt.Println(out, err)
	// Output: found go <nil>
}

func Example_hystrixSluice() {
	none := sluice.Must(resilience.NewFallback(resilience.FallbackConfig{
		Func: func(context.Context, sluice.Call, error) (any, error) { return "nothing", nil },
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{none},
	}))
	search := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search", Policy: sluice.Policy{
		Timeout: 30 * time.Second, Concurrency: 8,
		MaxWait: sluice.NoWait, // hystrix refuses where all are in use
		Breaker: &sluice.BreakerPolicy{Ratio: 0.5, MinCalls: 20, Window: 10 * time.Second, Cooldown: 5 * time.Second},
	}}, searchWeb))
	fmt.Println(search(context.Background(), "go"))
	exec.Close(context.Background())
	// Output: found go <nil>
}

// Fifty callers of a tool that has one token a second, and another tool behind the same slots.
func TestSlotsAroundARate(t *testing.T) {
	others := func(t *testing.T, slow, fast func(context.Context) error) (n int) {
		busy, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { _ = slow(busy) })
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second+5*time.Millisecond) // which is between two calls
		defer cancel()
		for fast(ctx) == nil {
			n++
		}
		stop()
		wg.Wait()
		return n
	}
	work := func(ctx context.Context) error {
		time.Sleep(10 * time.Millisecond)
		return ctx.Err()
	}
	synctest.Test(t, func(t *testing.T) {
		slots, limiter := semaphore.NewWeighted(8), rate.NewLimiter(1, 1)
		n := others(t, func(ctx context.Context) error {
			if err := slots.Acquire(ctx, 1); err != nil {
				return err
			}
			defer slots.Release(1)
			return errors.Join(limiter.Wait(ctx), work(ctx))
		}, func(ctx context.Context) error {
			if err := slots.Acquire(ctx, 1); err != nil {
				return err
			}
			defer slots.Release(1)
			return work(ctx)
		})
		if n != 0 {
			t.Errorf("%d calls of the other tool in 3 s: the page says that there are none", n)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{slots}}))
		defer exec.Close(t.Context())
		tool := func(ctx context.Context, _ string) (string, error) { return "", work(ctx) }
		slow := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "slow", Policy: sluice.Policy{Rates: []sluice.Rate{{N: 1}}}}, tool))
		fast := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "fast"}, tool))
		n := others(t, func(ctx context.Context) error { _, err := slow(ctx, ""); return err },
			func(ctx context.Context) error { _, err := fast(ctx, ""); return err })
		if n != 300 {
			t.Errorf("%d calls of the other tool in 3 s: the page says that there are 300", n)
		}
	})
}
