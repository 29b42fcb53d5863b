package sluice_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/sluice-go/sluice"
	"golang.org/x/sync/semaphore"
)

// A database bears four connections. The web server that the agent runs in takes them from a
// semaphore; its tools do too, up to three at once, and wait in the same line.
func ExampleLimit_semaphore() {
	connections := semaphore.NewWeighted(4)
	database := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Name:   "database",
		Limits: []sluice.Limit{{Max: 3, Refuse: true, Semaphore: connections}}, // without Refuse calls wait
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{database},
	}))
	defer exec.Close(context.Background())
	query := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "query"},
		func(_ context.Context, sql string) (string, error) { return "rows of " + sql, nil }))

	ctx := context.Background()
	fmt.Println(query(ctx, "SELECT 1"))

	_ = connections.Acquire(ctx, 4) // the server is busy
	_, err := query(ctx, "SELECT 2")
	fmt.Println(errors.Is(err, sluice.ErrSaturated))
	connections.Release(4)
	// Output:
	// rows of SELECT 1 <nil>
	// true
}
