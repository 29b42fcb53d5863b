package docs_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
)

// outage has a tool fail for half a minute, and one call a second.
func outage() {
	start := time.Now()
	breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{
		Ratio: 0.5, MinCalls: 10, Window: 30 * time.Second,
		Cooldown: 5 * time.Second,
		Probes:   2,
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{breaker},
		Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if e.Kind == sluice.BreakerStateChanged {
				fmt.Printf("%3.0f s  %v, was %v\n", time.Since(start).Seconds(), e.To, e.From)
			}
			return nil
		}),
	}))
	defer exec.Close(context.Background())
	asked, failed := 0, 0
	fetch := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "fetch"}, func(context.Context, string) (string, error) {
		asked++
		if at := time.Since(start); at >= 10*time.Second && at < 40*time.Second {
			failed++
			return "", errors.New("502 bad gateway")
		}
		return "page", nil
	}))
	for range 60 {
		fetch(context.Background(), "https://go.dev")
		time.Sleep(time.Second)
	}
	fmt.Printf("of 60 calls %d reached the backend, %d of them in vain\n", asked, failed)
}

// errNotFound is an answer, and no failure of who gives it.
var errNotFound = errors.New("404 not found")

func Example_reportOutcome() {
	breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 3}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{breaker}}))
	defer exec.Close(context.Background())
	down := func(string) error { return errors.New("503") }
	weather := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "weather"}, func(ctx context.Context, city string) (string, error) {
		if err := down(city); err != nil {
			sluice.ReportOutcome(ctx, sluice.OutcomeFailure)
			return "The weather service is down, do not ask again.", nil // for the model
		}
		return "sunny", nil
	}))
	fmt.Println(weather(context.Background(), "Oslo"))
	for range 2 {
		weather(context.Background(), "Oslo")
	}
	fmt.Println(sluice.Must(breaker.State("weather")))
	// Output:
	// The weather service is down, do not ask again. <nil>
	// open
}

func Example_classify() {
	breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 3}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{breaker},
		Classify: func(_ sluice.Call, r sluice.Result, err error) sluice.Outcome {
			switch {
			case errors.Is(err, errNotFound):
				return sluice.OutcomeSuccess // the backend works
			case err == nil && r.Value == "":
				return sluice.OutcomeFailure // an empty page is none
			}
			return sluice.OutcomeAuto
		},
	}))
	defer exec.Close(context.Background())
	fetch := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "fetch"}, func(_ context.Context, path string) (string, error) {
		if path == "/missing" {
			return "", errNotFound
		}
		return "", nil
	}))
	for _, path := range []string{"/missing", "/empty"} {
		for range 3 {
			fetch(context.Background(), path)
		}
		fmt.Println(path, sluice.Must(breaker.State("fetch")))
	}
	// Output:
	// /missing closed
	// /empty open
}
