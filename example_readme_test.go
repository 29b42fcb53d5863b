package sluice_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
)

type SearchIn struct{ Query string }

type SearchOut struct{ URLs []string }

func searchWeb(ctx context.Context, in SearchIn) (SearchOut, error) {
	return SearchOut{[]string{"https://go.dev"}}, nil
}

// The program of the README.
func Example() {
	ctx := context.Background()

	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Limits: []sluice.Limit{{Max: 32}, {Max: 4, Scope: sluice.ForType("web")}},
	}))
	quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name: "search api", Rates: []sluice.Rate{{N: 10, Burst: 5}},
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{quota, limits}, // in any order: one joint decision
		Timeout:      30 * time.Second,
	}))
	defer exec.Close(context.Background())

	search := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search", Type: "web"}, searchWeb))

	out, err := search(ctx, SearchIn{Query: "go"}) // the same type as searchWeb, guarded
	if errors.Is(err, sluice.ErrRejected) {
		// refused: searchWeb certainly did not run
	}
	fmt.Println(out.URLs, err)
	// Output: [https://go.dev] <nil>
}
