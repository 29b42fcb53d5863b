// Package sluiceguard guards every server of the program that imports it.
package sluiceguard

import (
	"context"
	"os"
	"time"

	"github.com/mark3labs/mcp-go/server"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/contrib/mcpgo"
)

// calls gets a line for each guarded call, with how it ended.
var calls = sluice.Must(os.OpenFile(os.Getenv("SLUICE_CALLS"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600))

func init() { server.Guard = guard }

// guard has limits, rates, breakers and timeouts that are wide enough for tests, so that each call goes through them.
func guard() server.ToolHandlerMiddleware {
	e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{
			sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1000}}})),
			sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 100_000, Per: time.Second}}})),
			sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{})),
		},
		Timeout: time.Minute,
		Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			var err error
			switch e.Kind {
			case sluice.ToolCompleted, sluice.ToolFailed, sluice.ToolDenied:
				_, err = calls.WriteString(e.Call.Tool + " " + string(e.Kind) + " " + sluice.CodeOf(e.Err) + "\n")
			}
			return err
		}),
	}))
	return mcpgo.Middleware(e, mcpgo.Config{})
}
