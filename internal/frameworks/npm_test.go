package frameworks

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	sluicemcp "github.com/sluice-go/sluice/contrib/mcp"
)

// TestNPMServer_GuardedClient calls the tools of MCP's reference server, a process of node's, by a guarded client.
func TestNPMServer_GuardedClient(t *testing.T) {
	n := withNode(t)
	e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	guard := sluicemcp.Client(e, sluicemcp.Config{Prefix: "everything.", Policy: func(tool string) (p sluice.Policy) {
		switch tool {
		case "everything.get-sum":
			p.Rates, p.MaxWait = []sluice.Rate{{N: 2, Per: 24 * time.Hour}}, sluice.NoWait
		case "everything.trigger-long-running-operation":
			p.Concurrency, p.Timeout = 2, 5*time.Second
		}
		return p
	}})
	progress := make(chan float64, 100)
	running := new(inFlight)
	plain, guarded := connect(t, n, nil), connect(t, n, progress, guard, running.middleware)
	const long = "trigger-long-running-operation"

	t.Run("answers are as without a guard", func(t *testing.T) {
		for _, c := range []struct{ tool, args string }{
			{"echo", `{"message":"grüße, 世界"}`},
			{"echo", `{"message":1}`}, // which the server refuses
			{"get-sum", `{"a":2,"b":0.5}`},
			{"get-tiny-image", `{}`},
			{"get-structured-content", `{"location":"Chicago"}`},
			{"get-annotated-message", `{"messageType":"error","includeImage":true}`},
			{"get-resource-links", `{"count":3}`},
			{"get-resource-reference", `{"resourceType":"Text","resourceId":1}`},
			{"no-such-tool", `{}`},
		} {
			want, wantErr := call(t, plain, c.tool, c.args)
			got, err := call(t, guarded, c.tool, c.args)
			assert.Equal(t, wantErr, err, c.tool)
			assert.Equal(t, want, got, c.tool)
			assert.NotEmpty(t, want+wantErr, c.tool)
		}
	})
	t.Run("what the server says of its tools is not trusted", func(t *testing.T) {
		s, ok := e.Registry().Lookup("everything.echo")
		require.True(t, ok)
		assert.Equal(t, sluice.Hints{ReadOnly: true, Idempotent: true, Untrusted: true}, s.Hints)
		_, ok = e.Registry().Lookup("everything.no-such-tool")
		assert.False(t, ok, "a made-up name is registered")
	})
	t.Run("a missing argument is refused before the call", func(t *testing.T) {
		_, err := guarded.CallTool(t.Context(), &mcp.CallToolParams{Name: "echo", Arguments: json.RawMessage(`{}`)})
		require.ErrorIs(t, err, sluice.ErrInvalidArguments)
	})
	t.Run("a rate refuses", func(t *testing.T) { // its first call was above
		_, err := call(t, guarded, "get-sum", `{"a":1,"b":1}`)
		require.Empty(t, err)
		_, refused := guarded.CallTool(t.Context(), &mcp.CallToolParams{Name: "get-sum", Arguments: json.RawMessage(`{"a":1,"b":1}`)})
		require.ErrorIs(t, refused, sluice.ErrWaitTooLong)
		require.ErrorIs(t, refused, sluice.ErrRejected)
	})
	t.Run("progress comes through", func(t *testing.T) {
		p := &mcp.CallToolParams{Name: long, Arguments: json.RawMessage(`{"duration":0.2,"steps":4}`)}
		p.SetProgressToken("p")
		res, err := guarded.CallTool(t.Context(), p)
		require.NoError(t, err)
		require.False(t, res.IsError)
		for i := range 4 {
			assert.InEpsilon(t, i+1, <-progress, 0)
		}
	})
	t.Run("two at once", func(t *testing.T) {
		running.restart()
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				got, err := call(t, guarded, long, `{"duration":0.1,"steps":1}`)
				assert.Empty(t, err)
				assert.Contains(t, got, "completed")
			})
		}
		all.Wait()
		assert.Equal(t, 2, running.restart())
	})
	t.Run("a timeout, and the server goes on", func(t *testing.T) {
		_, err := guarded.CallTool(t.Context(), &mcp.CallToolParams{Name: long, Arguments: json.RawMessage(`{"duration":600,"steps":1}`)})
		require.ErrorIs(t, err, sluice.ErrTimeout)
		got, failed := call(t, guarded, "echo", `{"message":"still there"}`)
		require.Empty(t, failed)
		require.Contains(t, got, "still there")
	})
	require.NoError(t, e.Close(t.Context()))
}

// connect starts a server of its own.
func connect(t *testing.T, n node, progress chan<- float64, guard ...mcp.Middleware) *mcp.ClientSession {
	t.Helper()
	c := mcp.NewClient(&mcp.Implementation{Name: "frameworks"}, &mcp.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) { progress <- r.Params.Progress },
	})
	c.AddSendingMiddleware(guard...)
	server := n.command(context.Background(), "@modelcontextprotocol/server-everything/dist/index.js", "stdio")
	s, err := c.Connect(t.Context(), &mcp.CommandTransport{Command: server, TerminateDuration: time.Second}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() }) // a call that runs on keeps the process, which is then terminated
	return s
}

// middleware goes inside the guard.
func (f *inFlight) middleware(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
		if method == "tools/call" {
			f.enter(1)
			defer f.enter(-1)
		}
		return next(ctx, method, req)
	}
}
