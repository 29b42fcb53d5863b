package mcpgo_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/contrib/mcpgo"
)

func search(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
	return mcp.NewToolResultText("3 hits"), nil
}

// A server whose tools may be called once in ten seconds, all together.
func ExampleMiddleware() {
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: 10 * time.Second}}, Refuse: true}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{rate}}))
	defer exec.Close(context.Background())

	s := server.NewMCPServer("demo", "1.0.0", server.WithToolHandlerMiddleware(mcpgo.Middleware(exec, mcpgo.Config{})))

	s.AddTool(mcp.NewTool("search", mcp.WithString("query", mcp.Required())), search)
	for range 2 {
		ask(s, "search")
	}
	// Output:
	// false 3 hits
	// true {"type":"rate_limited","message":"too many calls for now; try again in 10 s"
}

// Each session has a share of its own, and one tool a limit of its own. The executor's limits hold for all.
func ExampleConfig() {
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, Rates: []sluice.Rate{{N: 60, Per: time.Minute}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{rate}, MaxWait: 10 * time.Second}))
	defer exec.Close(context.Background())

	s := server.NewMCPServer("demo", "1.0.0", server.WithToolHandlerMiddleware(mcpgo.Middleware(exec, mcpgo.Config{
		Behalf: func(ctx context.Context, pc sluice.PipelineContext) sluice.PipelineContext {
			pc.Tenant = pc.SessionID
			return pc
		},
		Policy: func(tool string) sluice.Policy {
			if tool == "export" {
				return sluice.Policy{Concurrency: 1, Timeout: time.Minute}
			}
			return sluice.Policy{Timeout: 10 * time.Second}
		},
	})))

	s.AddTool(mcp.NewTool("search"), search)
	s.AddTool(mcp.NewTool("export"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) { panic("disk full") })
	ask(s, "search")
	ask(s, "export")
	fmt.Println(exec.Plan("export"))
	// Output:
	// false 3 hits
	// true {"type":"panic","message":"the tool failed"
	// admit[rate tool/export] → export true
}

// Tenants of a server over HTTP, by a header that the authentication in front of it has set: two calls a minute for each.
func ExampleConfig_tenants() {
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, Rates: []sluice.Rate{{N: 2, Per: time.Minute}}, Refuse: true}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{rate}}))
	defer exec.Close(context.Background())

	type tenant struct{} // the key of a context
	s := server.NewMCPServer("demo", "1.0.0", server.WithToolHandlerMiddleware(mcpgo.Middleware(exec, mcpgo.Config{
		Behalf: func(ctx context.Context, pc sluice.PipelineContext) sluice.PipelineContext {
			pc.Tenant, _ = ctx.Value(tenant{}).(string)
			return pc
		},
	})))
	h := server.NewStreamableHTTPServer(s, server.WithHTTPContextFunc(func(ctx context.Context, r *http.Request) context.Context {
		return context.WithValue(ctx, tenant{}, r.Header.Get("X-Tenant")) // which your authentication has checked
	}))

	s.AddTool(mcp.NewTool("search"), search)
	web := httptest.NewServer(h)
	defer web.Close()
	for _, who := range []string{"acme", "acme", "acme", "globex"} {
		c, err := client.NewStreamableHttpClient(web.URL+"/mcp", transport.WithHTTPHeaders(map[string]string{"X-Tenant": who}))
		if err != nil {
			panic(err)
		}
		fmt.Print(who, " ")
		askBy(c, "search")
	}
	// Output:
	// acme false 3 hits
	// acme false 3 hits
	// acme true {"type":"rate_limited","message":"too many calls for now; try again in 30 s"
	// globex false 3 hits
}

// A task tool goes by middleware, and is guarded where it is added.
func ExampleTaskTool() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Timeout: time.Minute}))
	defer exec.Close(context.Background())
	s := server.NewMCPServer("demo", "1.0.0", server.WithTaskCapabilities(true, true, true))

	report := mcp.NewTool("report", mcp.WithTaskSupport(mcp.TaskSupportRequired))
	write := func(context.Context, mcp.CallToolRequest) (*mcp.CreateTaskResult, error) { panic("disk full") }
	tool := mcpgo.TaskTool(exec, mcpgo.Config{}, report, write)
	s.AddTaskTools(tool)

	res, err := tool.Handler(context.Background(), mcp.CallToolRequest{})
	fmt.Println(res.IsError, res.Content[0].(mcp.TextContent).Text, err)
	// Output:
	// true {"type":"panic","message":"the tool failed","retryable":false} <nil>
}

// ResultError is what classify functions see of a result that is an error: here those of one tool say that a
// backend is down, and count for its breaker.
func ExampleResultError() {
	policy := func(tool string) (p sluice.Policy) {
		if tool == "search" {
			p.Classify = func(_ sluice.Call, _ sluice.Result, err error) sluice.Outcome {
				if _, ok := err.(*mcpgo.ResultError); ok {
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
	s := server.NewMCPServer("demo", "1.0.0", server.WithToolHandlerMiddleware(mcpgo.Middleware(exec, mcpgo.Config{Policy: policy})))
	for _, tool := range []string{"search", "weather"} {
		s.AddTool(mcp.NewTool(tool), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultError("no such page"), nil
		})
	}

	ask(s, "search")
	ask(s, "weather")
	fmt.Println("search", sluice.Must(breaker.State("search")))
	fmt.Println("weather", sluice.Must(breaker.State("weather")))
	// Output:
	// true no such page
	// true no such page
	// search open
	// weather closed
}

// ask calls a tool of s and prints what it answers.
func ask(s *server.MCPServer, tool string) {
	c, err := client.NewInProcessClient(s)
	if err != nil {
		panic(err)
	}
	askBy(c, tool)
}

// askBy calls a tool by c, which it closes, and prints what it is answered.
func askBy(c *client.Client, tool string) {
	ctx := context.Background()
	defer c.Close()
	if err := c.Start(ctx); err != nil {
		panic(err)
	}
	if _, err := c.Initialize(ctx, mcp.InitializeRequest{}); err != nil {
		panic(err)
	}
	r := mcp.CallToolRequest{}
	r.Params.Name, r.Params.Arguments = tool, map[string]any{"query": "go"}
	res, err := c.CallTool(ctx, r)
	if err != nil {
		panic(err)
	}
	text := res.Content[0].(mcp.TextContent).Text
	if res.IsError {
		text, _, _ = strings.Cut(text, `,"retryable"`) // and when to try again
	}
	fmt.Println(res.IsError, text)
}
