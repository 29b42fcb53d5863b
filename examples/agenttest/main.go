// Agenttest is a tiny agent, and how to test one: the test beside it runs the agent with
// its real limits inside a testing/synctest bubble, where seconds pass in no time and every
// wait can be compared with ==.
//
//	go run ./examples/agenttest && go test -v ./examples/agenttest
package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/sluice-go/sluice"
)

// seen counts the searches of a run, in the run's own state.
const seen sluice.Key[int] = "seen"

// agent answers questions with one tool, which its provider allows twice a second.
type agent struct {
	exec   *sluice.Executor
	search func(ctx context.Context, query string) (int, error)
}

func newAgent() (*agent, error) {
	rates, err := sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Rates: []sluice.Rate{{N: 2, Per: time.Second, Burst: 1}},
	})
	if err != nil {
		return nil, err
	}
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{rates},
	})
	if err != nil {
		return nil, err
	}
	search, err := sluice.Wrap(exec, sluice.Spec{Name: "search"}, searchWeb)
	if err != nil {
		return nil, err
	}
	return &agent{exec, search}, nil
}

// searchWeb takes 10 ms and returns how many searches the run has made.
func searchWeb(ctx context.Context, query string) (int, error) {
	time.Sleep(10 * time.Millisecond)
	return sluice.Increment(ctx, seen, 1)
}

// ask searches for each word in turn.
func (a *agent) ask(ctx context.Context, words ...string) error {
	for _, w := range words {
		if _, err := a.search(ctx, w); err != nil {
			return fmt.Errorf("search for %q: %w", w, err)
		}
	}
	return nil
}

func main() {
	a, err := newAgent()
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	start := time.Now()
	if err := a.ask(ctx, "go", "sluice", "gate"); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("3 searches at 2/s took %d ms\n", time.Since(start).Milliseconds())
	if err := a.exec.Close(ctx); err != nil {
		log.Fatal(err)
	}
}
