package sluicemcp

import (
	"context"
	"flag"
	"math/rand/v2"
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

var rounds = flag.Int("rounds", 1, "how often each part of a benchmark is measured, by turns")

// benchmark measures calls of the library alone, and guarded in each way, by turns and in one process. Each time the
// server and its client are new, and all that there is: half of what a call takes is garbage collection, whose share
// depends on what else there is. f makes what calls the tool once.
func benchmark(b *testing.B, f func(b *testing.B, s *mcp.Server, c *mcp.Client) (call func())) {
	h := answers("3 hits")
	parts := []struct {
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
	}
	order := rand.New(rand.NewPCG(1, 2))
	for range *rounds {
		for _, i := range order.Perm(len(parts)) {
			b.Run(parts[i].name, func(b *testing.B) {
				server, client := mcp.NewServer(demo, nil), mcp.NewClient(tester, nil)
				parts[i].guard(b, server, client)
				call := f(b, server, client)
				for range 20 { // until it has all that it keeps
					call()
				}
				b.ReportAllocs()
				for b.Loop() {
					call()
				}
			})
		}
	}
}

// calls is a call of the tool in a session, which works.
func calls(b *testing.B, session *mcp.ClientSession) func() {
	require.False(b, mustCall(b, session, "search", "go").IsError)
	p := newParams("search", "go")
	return func() { _, _ = session.CallTool(context.Background(), p) }
}

// BenchmarkCall measures tools/call in memory, from the client's call to its result.
func BenchmarkCall(b *testing.B) {
	benchmark(b, func(b *testing.B, s *mcp.Server, c *mcp.Client) func() { return calls(b, connect(b, s, c)) })
}

// BenchmarkHTTP measures the same over streamable HTTP on this machine.
func BenchmarkHTTP(b *testing.B) {
	benchmark(b, func(b *testing.B, s *mcp.Server, c *mcp.Client) func() {
		session, err := c.Connect(b.Context(), &mcp.StreamableClientTransport{Endpoint: serveHTTP(b, s)}, nil)
		require.NoError(b, err)
		b.Cleanup(func() { _ = session.Close() })
		return calls(b, session)
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
