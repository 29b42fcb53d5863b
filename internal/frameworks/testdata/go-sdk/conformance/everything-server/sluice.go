package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/sluice-go/sluice"
	sluicemcp "github.com/sluice-go/sluice/contrib/mcp"
)

// guard has limits, rates, breakers and timeouts that are wide enough for one client, so that each call goes through
// them. It tells how each call ended.
func guard(s *mcp.Server) {
	e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{
			sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 100}}})),
			sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1000, Per: time.Second}}})),
			sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{})),
		},
		Timeout: time.Minute,
		Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			switch e.Kind {
			case sluice.ToolCompleted, sluice.ToolFailed, sluice.ToolDenied:
				fmt.Fprintln(os.Stderr, "guarded", e.Call.Tool, e.Kind, sluice.CodeOf(e.Err))
			}
			return nil
		}),
	}))
	s.AddReceivingMiddleware(sluicemcp.Server(e, sluicemcp.Config{}))
}
