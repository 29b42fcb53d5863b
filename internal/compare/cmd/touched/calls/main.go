// Command calls makes some calls that meet everything a usual call meets: calls <n> [timeout].
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/sluice-go/sluice"
)

type input struct {
	Query string `json:"query"`
}

func main() {
	n, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	c := sluice.Config{
		Interceptors: []sluice.Interceptor{
			sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{})),
			sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}})),
			sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1e9}}})),
			sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{})),
		},
		Sink: sluice.NewJSONSink(io.Discard),
	}
	if len(os.Args) > 2 {
		c.Timeout = time.Hour
	}
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), c))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search"},
		func(_ context.Context, in input) (string, error) { return in.Query, nil }))
	for i := range n {
		r, err := exec.Invoke(context.Background(), sluice.Request{
			ID: fmt.Sprint("call_", i), Tool: "search", Args: json.RawMessage(`{"query":"go"}`)})
		if err != nil || r.Value != "go" {
			panic(fmt.Sprint(r.Value, err))
		}
	}
}
