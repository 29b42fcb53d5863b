package mcpgo

import (
	"context"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"net/http/httptest"
	"testing"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

var rounds = flag.Int("rounds", 1, "how often each part of a benchmark is measured, by turns")

// benchmark measures calls of a server alone, and of one guarded by a limit that is never reached, by turns and in one
// process. Each time the server is new, and all that there is: part of what a call takes is garbage collection, whose
// share depends on what else there is. f makes what calls the tool once.
func benchmark(b *testing.B, f func(b *testing.B, s *server.MCPServer) (call func())) {
	parts := []struct {
		name    string
		options func(b *testing.B) []server.ServerOption
	}{
		{"alone", func(*testing.B) []server.ServerOption { return nil }},
		{"guarded", func(b *testing.B) []server.ServerOption {
			limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
			exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits}}))
			b.Cleanup(func() { require.NoError(b, exec.Close(context.Background())) })
			return []server.ServerOption{server.WithToolHandlerMiddleware(Middleware(exec, Config{}))}
		}},
	}
	order := rand.New(rand.NewPCG(1, 2))
	for range *rounds {
		for _, i := range order.Perm(len(parts)) {
			b.Run(parts[i].name, func(b *testing.B) {
				s := server.NewMCPServer("demo", "1.0.0", parts[i].options(b)...)
				s.AddTool(searchTool(mcp.WithNumber("limit")), answers("3 hits"))
				call := f(b, s)
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

// BenchmarkCall measures tools/call of 160 bytes, from the message to the response.
func BenchmarkCall(b *testing.B) {
	message := json.RawMessage(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"query":"go rate limit","limit":10},"_meta":{"progressToken":7}}}`)
	benchmark(b, func(b *testing.B, s *server.MCPServer) func() {
		ctx := s.WithContext(context.Background(), server.NewInProcessSession("one", nil))
		res, ok := s.HandleMessage(ctx, message).(mcp.JSONRPCResponse)
		require.True(b, ok)
		require.False(b, res.Result.(*mcp.CallToolResult).IsError)
		return func() { s.HandleMessage(ctx, message) }
	})
}

// BenchmarkHTTP measures the same from a client over streamable HTTP on this machine.
func BenchmarkHTTP(b *testing.B) {
	benchmark(b, func(b *testing.B, s *server.MCPServer) func() {
		web := httptest.NewServer(server.NewStreamableHTTPServer(s))
		b.Cleanup(web.Close)
		c, err := client.NewStreamableHttpClient(web.URL + "/mcp")
		require.NoError(b, err)
		start(b, c)
		return func() { mustCall(b, c, "search", "go") }
	})
}
