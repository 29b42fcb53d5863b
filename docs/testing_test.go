package docs_test

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/sluice-go/sluice/sluicetest"
)

// weather is slow where it works.
func weather(_ context.Context, city string) (string, error) {
	time.Sleep(200 * time.Millisecond)
	return "12 degrees in " + city, nil
}

// faults has a tool that hangs and fails, to see what an agent makes of it.
func faults() {
	bad := sluice.Must(sluicetest.NewFaults(sluicetest.FaultsConfig{
		Seed: 7, Errors: 0.2, Hangs: 0.1, Throttles: 0.1, RetryAfter: 2 * time.Second,
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Must(resilience.Standard(resilience.StandardConfig{
		Attempt: time.Second, Retry: resilience.RetryConfig{Attempts: 5, Jitter: resilience.NoJitter},
	}))))
	pc, rec := sluice.NewTestPipelineContext()
	ctx := sluice.WithPipelineContext(context.Background(), pc)
	ask := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "weather", Hints: sluice.Hints{ReadOnly: true}},
		sluicetest.Faulty(bad, weather)))

	start, answered := time.Now(), 0
	for range 50 {
		if _, err := ask(ctx, "Oslo"); err == nil {
			answered++
		}
	}
	n := bad.Counts()
	fmt.Printf("%d errors, %d throttles, %d hangs: %d of 50 answered after %v\n",
		n.Errors, n.Throttles, n.Hangs, answered, time.Since(start))
	exec.Close(context.Background())
	fmt.Println("check:", rec.Check())
}
