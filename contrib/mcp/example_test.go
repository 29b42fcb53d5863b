package sluicemcp_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/sluice-go/sluice"
	sluicemcp "github.com/sluice-go/sluice/contrib/mcp"
)

type query struct {
	Query string `json:"query" jsonschema:"what to look for"`
}

func search(context.Context, *mcp.CallToolRequest, query) (*mcp.CallToolResult, any, error) {
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "3 hits"}}}, nil, nil
}

// A server whose tools may be called once in ten seconds, all together.
func ExampleServer() {
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: 10 * time.Second}}, Refuse: true}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{rate}}))
	defer exec.Close(context.Background())
	server := mcp.NewServer(&mcp.Implementation{Name: "demo", Version: "1.0.0"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "search"}, search)

	server.AddReceivingMiddleware(sluicemcp.Server(exec, sluicemcp.Config{}))

	ask(server, nil, "search", "search")
	// Output:
	// false 3 hits
	// true {"type":"rate_limited","message":"too many calls for now; try again in 10 s"
}

// Each user has a share of their own. A middleware that is listed before the guard says who it is: here of the bearer
// token, if there is one.
func ExampleServer_tenants() {
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, Rates: []sluice.Rate{{N: 60, Per: time.Minute}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{rate}, MaxWait: 10 * time.Second}))
	defer exec.Close(context.Background())
	server := mcp.NewServer(&mcp.Implementation{Name: "demo", Version: "1.0.0"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "search"}, search)

	tenants := func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			pc := sluice.PipelineContext{Tenant: "guests"}
			if x := req.GetExtra(); x != nil && x.TokenInfo != nil {
				pc.Tenant = x.TokenInfo.UserID
			}
			return next(sluice.WithPipelineContext(ctx, pc), method, req)
		}
	}
	server.AddReceivingMiddleware(tenants, sluicemcp.Server(exec, sluicemcp.Config{}))

	ask(server, nil, "search")
	fmt.Println(exec.Plan("search"))
	// Output:
	// false 3 hits
	// admit[rate] → search true
}

// One tool has limits of its own, and another is not guarded.
func ExampleAddTool() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	defer exec.Close(context.Background())
	conf := sluicemcp.Config{Policy: func(tool string) sluice.Policy { return sluice.Policy{Concurrency: 1, Timeout: time.Minute} }}
	server := mcp.NewServer(&mcp.Implementation{Name: "demo", Version: "1.0.0"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "search"}, search)
	export := func(context.Context, *mcp.CallToolRequest, query) (*mcp.CallToolResult, any, error) {
		panic("disk full")
	}

	err := sluicemcp.AddTool(server, exec, &mcp.Tool{Name: "export"}, conf, export)

	if err != nil {
		panic(err)
	}
	ask(server, nil, "search", "export")
	// Output:
	// false 3 hits
	// true {"type":"panic","message":"the tool failed"
}

// An agent that calls somebody else's server at most once in ten seconds.
func ExampleClient() {
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: 10 * time.Second}}, Refuse: true}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{rate}}))
	defer exec.Close(context.Background())
	server := mcp.NewServer(&mcp.Implementation{Name: "demo", Version: "1.0.0"}, nil)
	mcp.AddTool(server, &mcp.Tool{Name: "search"}, search)
	client := mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1.0.0"}, nil)

	client.AddSendingMiddleware(sluicemcp.Client(exec, sluicemcp.Config{Prefix: "web."}))

	ask(server, client, "search", "search")
	fmt.Println(exec.Plan("web.search"))
	// Output:
	// false 3 hits
	// error {"type":"rate_limited","message":"too many calls for now; try again in 10 s"
	// admit[rate] → web.search true
}

// ResultError is what classify functions see of a result that is an error: here those of one tool say that a
// backend is down, and count for its breaker.
func ExampleResultError() {
	policy := func(tool string) (p sluice.Policy) {
		if tool == "search" {
			p.Classify = func(_ sluice.Call, _ sluice.Result, err error) sluice.Outcome {
				if _, ok := err.(*sluicemcp.ResultError); ok {
					return sluice.OutcomeFailure
				}
				return sluice.OutcomeAuto
			}
		}
		return p
	}
	breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 1}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{breaker}}))
	defer exec.Close(context.Background())
	server := mcp.NewServer(&mcp.Implementation{Name: "demo", Version: "1.0.0"}, nil)
	for _, tool := range []string{"search", "weather"} {
		mcp.AddTool(server, &mcp.Tool{Name: tool}, func(context.Context, *mcp.CallToolRequest, query) (*mcp.CallToolResult, any, error) {
			return &mcp.CallToolResult{IsError: true, Content: []mcp.Content{&mcp.TextContent{Text: "no such page"}}}, nil, nil
		})
	}
	server.AddReceivingMiddleware(sluicemcp.Server(exec, sluicemcp.Config{Policy: policy}))

	ask(server, nil, "search", "weather")
	fmt.Println("search", sluice.Must(breaker.State("search")))
	fmt.Println("weather", sluice.Must(breaker.State("weather")))
	// Output:
	// true no such page
	// true no such page
	// search open
	// weather closed
}

// ask calls tools of s and prints what they answer.
func ask(s *mcp.Server, c *mcp.Client, tools ...string) {
	ctx := context.Background()
	if c == nil {
		c = mcp.NewClient(&mcp.Implementation{Name: "agent", Version: "1.0.0"}, nil)
	}
	here, there := mcp.NewInMemoryTransports()
	if _, err := s.Connect(ctx, there, nil); err != nil {
		panic(err)
	}
	session, err := c.Connect(ctx, here, nil)
	if err != nil {
		panic(err)
	}
	defer session.Close()
	for _, tool := range tools {
		res, err := session.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: map[string]any{"query": "go"}})
		if err != nil {
			fmt.Println("error", first(sluice.ModelText(err)))
			continue
		}
		fmt.Println(res.IsError, first(res.Content[0].(*mcp.TextContent).Text))
	}
}

// first is a text without when to try again.
func first(text string) string {
	text, _, _ = strings.Cut(text, `,"retryable"`)
	return text
}
