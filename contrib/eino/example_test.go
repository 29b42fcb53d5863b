package sluiceeino_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cloudwego/eino/components/tool"
	"github.com/cloudwego/eino/components/tool/utils"
	"github.com/cloudwego/eino/compose"
	"github.com/cloudwego/eino/schema"

	"github.com/sluice-go/sluice"
	sluiceeino "github.com/sluice-go/sluice/contrib/eino"
)

type query struct {
	Query string `json:"query" jsonschema:"required"`
}

func newTool(name string, f func(ctx context.Context, in query) (string, error)) tool.BaseTool {
	return sluice.Must(utils.InferTool(name, "search the web", f))
}

func search(context.Context, query) (string, error) { return "3 hits", nil }

// Tools that may be called once in ten seconds, all together.
func ExampleMiddleware() {
	ctx := context.Background()
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: 10 * time.Second}}, Refuse: true}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{rate}}))
	defer exec.Close(ctx)

	node := sluice.Must(compose.NewToolNode(ctx, &compose.ToolsNodeConfig{
		Tools: []tool.BaseTool{newTool("search", search)},

		ToolCallMiddlewares: []compose.ToolMiddleware{sluiceeino.Middleware(exec, sluiceeino.Config{})},
	}))

	for range 2 {
		ask(node, "search", `{"query":"go"}`)
	}
	// Output:
	// 3 hits
	// {"type":"rate_limited","message":"too many calls for now; try again in 10 s"
}

// Each tenant has a share of its own, and one tool a limit of its own. The executor's limits hold for all.
func ExampleConfig() {
	ctx := context.WithValue(context.Background(), tenantKey{}, "acme")
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, Rates: []sluice.Rate{{N: 60, Per: time.Minute}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{rate}, MaxWait: 10 * time.Second}))
	defer exec.Close(ctx)

	guard := sluiceeino.Middleware(exec, sluiceeino.Config{
		Behalf: func(ctx context.Context, pc sluice.PipelineContext) sluice.PipelineContext {
			pc.Tenant, _ = ctx.Value(tenantKey{}).(string)
			return pc
		},
		Policy: func(tool string) sluice.Policy {
			if tool == "export" {
				return sluice.Policy{Concurrency: 1, Timeout: time.Minute}
			}
			return sluice.Policy{Timeout: 10 * time.Second}
		},
	})

	node := sluice.Must(compose.NewToolNode(ctx, &compose.ToolsNodeConfig{
		Tools:               []tool.BaseTool{newTool("export", func(context.Context, query) (string, error) { panic("disk full") })},
		ToolCallMiddlewares: []compose.ToolMiddleware{guard},
	}))
	ask(node, "export", `{"query":"go"}`)
	fmt.Println(exec.Plan("export"))
	// Output:
	// {"type":"panic","message":"the tool failed"
	// admit[rate tool/export] → export true
}

type tenantKey struct{}

// A registry that knows what tools require refuses calls without it, before they cost anything.
func ExampleDeclare() {
	ctx := context.Background()
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	defer exec.Close(ctx)
	tools := []tool.BaseTool{newTool("search", search)}

	if err := sluiceeino.Declare(ctx, exec, sluiceeino.Config{}, tools...); err != nil {
		fmt.Println(err)
	}

	node := sluice.Must(compose.NewToolNode(ctx, &compose.ToolsNodeConfig{
		Tools: tools, ToolCallMiddlewares: []compose.ToolMiddleware{sluiceeino.Middleware(exec, sluiceeino.Config{})},
	}))
	ask(node, "search", `{}`)
	// Output:
	// {"type":"invalid_arguments","message":"the arguments do not fit the tool: $ lacks \"query\": required"
}

// A tool's own error ends a run. With a middleware before the guard the model reads it instead, and the guard has
// seen that the tool has failed.
func ExampleMiddleware_answerErrors() {
	ctx := context.Background()
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	defer exec.Close(ctx)

	answerErrors := compose.ToolMiddleware{Invokable: func(next compose.InvokableToolEndpoint) compose.InvokableToolEndpoint {
		return func(ctx context.Context, in *compose.ToolInput) (*compose.ToolOutput, error) {
			out, err := next(ctx, in)
			if _, interrupt := compose.IsInterruptRerunError(err); err == nil || interrupt || ctx.Err() != nil {
				return out, err
			}
			return &compose.ToolOutput{Result: sluice.ModelText(err)}, nil
		}
	}}

	node := sluice.Must(compose.NewToolNode(ctx, &compose.ToolsNodeConfig{
		Tools:               []tool.BaseTool{newTool("search", func(context.Context, query) (string, error) { return "", errors.New("backend down") })},
		ToolCallMiddlewares: []compose.ToolMiddleware{answerErrors, sluiceeino.Middleware(exec, sluiceeino.Config{})},
	}))
	ask(node, "search", `{"query":"go"}`)
	// Output:
	// {"type":"tool_error","message":"[LocalFunc] failed to invoke tool, toolName=search, err=backend down"
}

// ask calls a tool of a node and prints what the model reads.
func ask(node *compose.ToolsNode, tool, args string) {
	out, err := node.Invoke(context.Background(), schema.AssistantMessage("", []schema.ToolCall{
		{ID: "call_0", Function: schema.FunctionCall{Name: tool, Arguments: args}},
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	text, _, _ := strings.Cut(out[0].Content, `,"retryable"`) // and when to try again
	fmt.Println(text)
}
