package sluicemcp

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

var (
	demo   = &mcp.Implementation{Name: "demo", Version: "1.0.0"}
	tester = &mcp.Implementation{Name: "test", Version: "1"}
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
func newServer(e *sluice.Executor, c Config) *mcp.Server {
	s := mcp.NewServer(demo, nil)
	s.AddReceivingMiddleware(Server(e, c))
	return s
}

// connect is a session of c, or of a client without options, with s in this process.
func connect(t testing.TB, s *mcp.Server, c *mcp.Client) *mcp.ClientSession {
	if c == nil {
		c = mcp.NewClient(tester, nil)
	}
	here, there := mcp.NewInMemoryTransports()
	ss, err := s.Connect(t.Context(), there, nil)
	require.NoError(t, err)
	cs, err := c.Connect(t.Context(), here, nil)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, cs.Close())
		_ = ss.Wait() // it may say that an answer to a cancelled request found nobody
	})
	return cs
}

// mustCall is what a tool with one argument, query, answers.
func mustCall(t testing.TB, c *mcp.ClientSession, tool, query string) *mcp.CallToolResult {
	res, err := c.CallTool(t.Context(), newParams(tool, query))
	require.NoError(t, err)
	return res
}

func newParams(tool, query string) *mcp.CallToolParams {
	return &mcp.CallToolParams{Name: tool, Arguments: map[string]any{"query": query}}
}

// textOf is the text of a result that is text alone, with whether it is an error.
func textOf(t testing.TB, res *mcp.CallToolResult) (text string, isError bool) {
	require.Len(t, res.Content, 1)
	c, ok := res.Content[0].(*mcp.TextContent)
	require.True(t, ok)
	return c.Text, res.IsError
}

// requireRefusal checks what a model reads of a refusal, and when it may try again.
func requireRefusal(t testing.TB, res *mcp.CallToolResult, kind string, retry time.Duration) {
	text, isError := textOf(t, res)
	require.True(t, isError, text)
	require.Nil(t, res.StructuredContent)
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

// Query and Hits are what the tool search takes and gives.
type Query struct {
	Query string `json:"query" jsonschema:"what to look for"`
}

type Hits struct {
	Hits int `json:"hits"`
}

// search is a tool without annotations.
func search() *mcp.Tool { return &mcp.Tool{Name: "search", Description: "search the web"} }

// readOnly is a tool that says it changes nothing.
func readOnly() *mcp.Tool {
	t := search()
	t.Annotations = &mcp.ToolAnnotations{ReadOnlyHint: true}
	return t
}

// handler is a typed handler.
type handler = mcp.ToolHandlerFor[Query, any]

// answers is a handler that answers text.
func answers(text string) handler {
	return func(context.Context, *mcp.CallToolRequest, Query) (*mcp.CallToolResult, any, error) {
		return textResult(text), nil, nil
	}
}

// textResult is a result of one text.
func textResult(text string) *mcp.CallToolResult {
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: text}}}
}

// A way is how a tool is guarded on a server: by the server's middleware, or each tool.
type way struct {
	name  string
	serve func(t testing.TB, e *sluice.Executor, c Config, tool *mcp.Tool, h handler) *mcp.Server
}

var ways = []way{
	{"Server", func(t testing.TB, e *sluice.Executor, c Config, tool *mcp.Tool, h handler) *mcp.Server {
		s := newServer(e, c)
		mcp.AddTool(s, tool, h)
		return s
	}},
	{"AddTool", func(t testing.TB, e *sluice.Executor, c Config, tool *mcp.Tool, h handler) *mcp.Server {
		s := mcp.NewServer(demo, nil)
		require.NoError(t, AddTool(s, e, tool, c, h))
		return s
	}},
}
