package mcpgo

import (
	"context"
	"strings"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// Config says how tools are guarded. The zero value adds nothing to what the executor's own gates say.
type Config struct {
	Policy func(tool string) sluice.Policy                                             // limits of a tool by its name in the registry; nil means none of its own
	Behalf func(ctx context.Context, pc sluice.PipelineContext) sluice.PipelineContext // on whose behalf: tenant, user, priority; nil fills in the session alone
	Text   func(err error) string                                                      // what a model reads of an error; nil means sluice.ModelText
	Prefix string                                                                      // before a tool's name in the registry, as "github."; empty means none
	_      struct{}
}

// Middleware has every tool of a server run through e: each call is admitted by e's gates, and reported to its
// sink, as a call of the tool's name. It is declared in e's registry at its first call. List it last, so that the
// server's other middlewares go around it; [server.WithRecovery] inside it would hide panics.
//
// A call waits in the middleware while e has it wait, until it may start, the request is cancelled, or e refuses
// it; and while the tool runs, until its code ends or its time is over. Middleware is safe for concurrent use, and
// for several servers if their tools of one name are alike; others need a Middleware each, with a Prefix.
func Middleware(e *sluice.Executor, c Config) server.ToolHandlerMiddleware {
	g := newGuard(e, c)
	return func(next server.ToolHandlerFunc) server.ToolHandlerFunc {
		return func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return g.call(ctx, &call{req: req, next: next})
		}
	}
}

// TaskTool is a tool for [server.MCPServer.AddTaskTools] whose handler runs through e. It needs that, since
// middleware does not see such tools: the server runs them without. All else is as for [Middleware]: a task that is
// refused has completed with a result that is an error. A tool of AddTool that a client runs as a task goes
// through Middleware like any call of it.
func TaskTool(e *sluice.Executor, c Config, t mcp.Tool, h server.TaskToolHandlerFunc) server.ServerTaskTool {
	g := newGuard(e, c)
	g.only = &t
	next := func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		res, err := h(ctx, req)
		if res == nil {
			return nil, err
		}
		return &mcp.CallToolResult{Result: res.Result, Content: res.Content, StructuredContent: res.StructuredContent, IsError: res.IsError}, err
	}
	return server.ServerTaskTool{Tool: t, Handler: func(ctx context.Context, req mcp.CallToolRequest) (*mcp.CreateTaskResult, error) {
		res, err := g.call(ctx, &call{req: req, next: next})
		if res == nil {
			return nil, err
		}
		return &mcp.CreateTaskResult{Result: res.Result, Content: res.Content, StructuredContent: res.StructuredContent, IsError: res.IsError}, err
	}}
}

// ResultError is the error of a call whose tool has answered with a result that is an error. Interceptors,
// events and classify functions see it; clients get the Result as it is.
type ResultError struct{ Result *mcp.CallToolResult }

// maxText bounds what a ResultError says of its Result, in bytes.
const maxText = 1024

// Error is the first text of Result, at most 1,024 bytes of it.
func (e *ResultError) Error() string {
	for _, c := range e.Result.Content {
		if t, ok := mcp.AsTextContent(c); ok && t.Text != "" {
			return strings.ToValidUTF8(t.Text[:min(len(t.Text), maxText)], "")
		}
	}
	return "the tool answered with an error that has no text"
}

// Outcome is neutral, since models make mistakes and this is how tools tell them. A tool's code says otherwise by
// [sluice.ReportOutcome].
func (e *ResultError) Outcome() sluice.Outcome { return sluice.OutcomeNeutral }

// policy is what Config says of a tool.
func (c *Config) policy(tool string) (p sluice.Policy, err error) {
	if c.Policy != nil {
		err = agent.Contain(tool, func() { p = c.Policy(tool) })
	}
	return p, err
}
