package main

import (
	"time"

	"github.com/mark3labs/mcp-go/server"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/contrib/mcpgo"
)

// guarded lets two calls run at once, in all; three a day ask for a datasource; and a dashboard may take 500 ms.
func guarded() server.ServerOption {
	e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{
			sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}}})),
		},
		MaxWait: 20 * time.Second,
	}))
	return server.WithToolHandlerMiddleware(mcpgo.Middleware(e, mcpgo.Config{Policy: func(tool string) (p sluice.Policy) {
		switch tool {
		case "get_datasource":
			p.Rates = []sluice.Rate{{N: 3, Per: 24 * time.Hour}}
			p.MaxWait = sluice.NoWait
		case "get_dashboard_by_uid":
			p.Timeout = 500 * time.Millisecond
		}
		return p
	}}))
}
