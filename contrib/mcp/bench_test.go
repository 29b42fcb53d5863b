package sluicemcp

import (
	"context"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// guarded is a limit that is never reached.
func guarded(b *testing.B) *sluice.Executor {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits}}))
	b.Cleanup(func() { require.NoError(b, exec.Close(context.Background())) })
	return exec
}

// benchmark runs f for the library alone, and guarded in each way.
func benchmark(b *testing.B, f func(b *testing.B, s *mcp.Server, c *mcp.Client)) {
	h := answers("3 hits")
	for _, c := range []struct {
		name  string
		guard func(b *testing.B, s *mcp.Server, c *mcp.Client)
	}{
		{"alone", func(_ *testing.B, s *mcp.Server, _ *mcp.Client) { mcp.AddTool(s, search(), h) }},
		{"Server", func(b *testing.B, s *mcp.Server, _ *mcp.Client) {
			mcp.AddTool(s, search(), h)
			s.AddReceivingMiddleware(Server(guarded(b), Config{}))
		}},
		{"AddTool", func(b *testing.B, s *mcp.Server, _ *mcp.Client) {
			require.NoError(b, AddTool(s, guarded(b), search(), Config{}, h))
		}},
		{"Client", func(b *testing.B, s *mcp.Server, c *mcp.Client) {
			mcp.AddTool(s, search(), h)
			c.AddSendingMiddleware(Client(guarded(b), Config{}))
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			server, client := mcp.NewServer(demo, nil), mcp.NewClient(tester, nil)
			c.guard(b, server, client)
			f(b, server, client)
		})
	}
}

// BenchmarkCall measures tools/call in memory, from the client's call to its result.
func BenchmarkCall(b *testing.B) {
	benchmark(b, func(b *testing.B, s *mcp.Server, c *mcp.Client) {
		session := connect(b, s, c)
		require.False(b, mustCall(b, session, "search", "go").IsError)
		p := newParams("search", "go")
		b.ReportAllocs()
		for b.Loop() {
			_, _ = session.CallTool(context.Background(), p)
		}
	})
}

// BenchmarkHTTP measures the same over streamable HTTP on this machine.
func BenchmarkHTTP(b *testing.B) {
	benchmark(b, func(b *testing.B, s *mcp.Server, c *mcp.Client) {
		session, err := c.Connect(b.Context(), &mcp.StreamableClientTransport{Endpoint: serveHTTP(b, s)}, nil)
		require.NoError(b, err)
		defer session.Close()
		require.False(b, mustCall(b, session, "search", "go").IsError)
		p := newParams("search", "go")
		b.ReportAllocs()
		for b.Loop() {
			_, _ = session.CallTool(context.Background(), p)
		}
	})
}

// BenchmarkMiddleware measures a Server's own part: the handler behind it answers at once.
func BenchmarkMiddleware(b *testing.B) {
	res := textResult("3 hits")
	var next mcp.MethodHandler = func(_ context.Context, method string, _ mcp.Request) (mcp.Result, error) {
		if method == listTools {
			return &mcp.ListToolsResult{Tools: []*mcp.Tool{search()}}, nil
		}
		return res, nil
	}
	for _, guard := range []bool{false, true} {
		b.Run(map[bool]string{false: "alone", true: "Server"}[guard], func(b *testing.B) {
			h := next
			if guard {
				h = Server(guarded(b), Config{})(next)
			}
			req := &mcp.CallToolRequest{Session: new(mcp.ServerSession), Params: &mcp.CallToolParamsRaw{Name: "search", Arguments: []byte(`{"query":"go"}`)}}
			b.ReportAllocs()
			for b.Loop() {
				_, _ = h(context.Background(), callTool, req)
			}
		})
	}
}
