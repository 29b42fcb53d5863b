package docs_test

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
)

// shutdown stops a program while calls run and wait.
func shutdown() {
	slot := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{slot}}))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "export"}, func(ctx context.Context, d time.Duration) (string, error) {
		select {
		case <-time.After(d):
			return "exported", nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}))
	ctx, cancelCalls := context.WithCancel(context.Background()) // of calls, not the signal's
	defer cancelCalls()
	running := exec.Submit(ctx, sluice.Request{Tool: "export", Input: time.Minute})
	waiting := exec.Submit(ctx, sluice.Request{Tool: "export", Input: time.Minute})

	// what main does after <-signalled.Done()
	grace, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := exec.Close(grace); err != nil { // no new calls; who waits is refused
		fmt.Println(err)
		cancelCalls() // who still runs is asked to end
		last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		fmt.Println(exec.Close(last)) // code that ignores its context is left behind
	}

	for _, c := range []*sluice.Future{running, waiting} {
		_, err := c.Wait(context.Background())
		fmt.Println(sluice.CodeOf(err))
	}
}
