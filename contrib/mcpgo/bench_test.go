package mcpgo

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"testing"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// benchmark runs f for a server alone, and for one guarded by a limit that is never reached.
func benchmark(b *testing.B, f func(b *testing.B, s *server.MCPServer)) {
	run := func(b *testing.B, options ...server.ServerOption) {
		s := server.NewMCPServer("demo", "1.0.0", options...)
		s.AddTool(searchTool(mcp.WithNumber("limit")), answers("3 hits"))
		f(b, s)
	}
	b.Run("alone", func(b *testing.B) { run(b) })
	b.Run("guarded", func(b *testing.B) {
		limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits}}))
		defer exec.Close(context.Background())
		run(b, server.WithToolHandlerMiddleware(Middleware(exec, Config{})))
	})
}

// BenchmarkCall measures tools/call of 160 bytes, from the message to the response.
func BenchmarkCall(b *testing.B) {
	message := json.RawMessage(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"query":"go rate limit","limit":10},"_meta":{"progressToken":7}}}`)
	benchmark(b, func(b *testing.B, s *server.MCPServer) {
		ctx := s.WithContext(context.Background(), server.NewInProcessSession("one", nil))
		res, ok := s.HandleMessage(ctx, message).(mcp.JSONRPCResponse)
		require.True(b, ok)
		require.False(b, res.Result.(*mcp.CallToolResult).IsError)
		b.ReportAllocs()
		for b.Loop() {
			s.HandleMessage(ctx, message)
		}
	})
}

// BenchmarkHTTP measures the same from a client over streamable HTTP on this machine.
func BenchmarkHTTP(b *testing.B) {
	benchmark(b, func(b *testing.B, s *server.MCPServer) {
		web := httptest.NewServer(server.NewStreamableHTTPServer(s))
		defer web.Close()
		c, err := client.NewStreamableHttpClient(web.URL + "/mcp")
		require.NoError(b, err)
		start(b, c)
		mustCall(b, c, "search", "go")
		b.ReportAllocs()
		for b.Loop() {
			mustCall(b, c, "search", "go")
		}
	})
}
