package mcpgo

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// newExecutor is an executor whose events are checked when the test ends.
func newExecutor(t testing.TB, c sluice.Config) (*sluice.Executor, *sluice.Recorder) {
	rec := new(sluice.Recorder)
	c.Sink = rec
	e, err := sluice.NewExecutor(sluice.NewToolRegistry(), c)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, e.Close(context.Background()))
		require.NoError(t, rec.Check())
	})
	return e, rec
}

// newServer is a guarded server.
func newServer(e *sluice.Executor, c Config, options ...server.ServerOption) *server.MCPServer {
	return server.NewMCPServer("demo", "1.0.0", append(options, server.WithToolHandlerMiddleware(Middleware(e, c)))...)
}

// newClient is a client of s in this process, of the newest protocol unless there is a version.
func newClient(t testing.TB, s *server.MCPServer, version ...string) *client.Client {
	c, err := client.NewInProcessClient(s)
	require.NoError(t, err)
	start(t, c, version...)
	return c
}

func start(t testing.TB, c *client.Client, version ...string) {
	require.NoError(t, c.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	var r mcp.InitializeRequest
	r.Params.ProtocolVersion = append(version, mcp.LATEST_PROTOCOL_VERSION)[0]
	r.Params.ClientInfo = mcp.Implementation{Name: "test", Version: "1"}
	_, err := c.Initialize(t.Context(), r)
	require.NoError(t, err)
}

// newRequest is a call of a tool with one argument, query.
func newRequest(tool, query string) (r mcp.CallToolRequest) {
	r.Params.Name, r.Params.Arguments = tool, map[string]any{"query": query}
	return r
}

// mustCall is what a tool answers.
func mustCall(t testing.TB, c *client.Client, tool, query string) *mcp.CallToolResult {
	res, err := c.CallTool(t.Context(), newRequest(tool, query))
	require.NoError(t, err)
	return res
}

// textOf is the text of a result that is text alone, with whether it is an error.
func textOf(t testing.TB, res *mcp.CallToolResult) (text string, isError bool) {
	require.Len(t, res.Content, 1)
	c, ok := mcp.AsTextContent(res.Content[0])
	require.True(t, ok)
	return c.Text, res.IsError
}

// requireRefusal checks what a model reads of a refusal, and when it may try again.
func requireRefusal(t testing.TB, res *mcp.CallToolResult, kind string, retry time.Duration) {
	text, isError := textOf(t, res)
	require.True(t, isError, text)
	var said struct {
		Type    string
		Message string
		Retry   bool  `json:"retryable"`
		After   int64 `json:"retry_after_ms"`
	}
	require.NoError(t, json.Unmarshal([]byte(text), &said), text)
	require.Equal(t, kind, said.Type, text)
	require.Equal(t, retry.Milliseconds(), said.After, text)
	require.NotContains(t, text, "sluice")
}

// searchTool has one argument, which is required.
func searchTool(options ...mcp.ToolOption) mcp.Tool {
	return mcp.NewTool("search", append([]mcp.ToolOption{mcp.WithDescription("search the web"), mcp.WithString("query", mcp.Required())}, options...)...)
}

// answers is a handler that answers text.
func answers(text string) server.ToolHandlerFunc {
	return func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return mcp.NewToolResultText(text), nil
	}
}
