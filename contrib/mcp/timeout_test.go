package sluicemcp

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// TestTrapTimeoutInTheToolsWords: a tool whose backend hangs often makes a result of its context's error, which
// names the limit; of an error the library makes one. It is a timeout nevertheless: the model reads the guard's
// words, and breakers count it.
func TestTrapTimeoutInTheToolsWords(t *testing.T) {
	inWords := func(ctx context.Context) *mcp.CallToolResult {
		<-ctx.Done()
		res := textResult("get web.example: " + context.Cause(ctx).Error())
		res.IsError = true
		return res
	}
	result := func(ctx context.Context, _ *mcp.CallToolRequest, _ Query) (*mcp.CallToolResult, any, error) {
		return inWords(ctx), nil, nil
	}
	failure := func(ctx context.Context, _ *mcp.CallToolRequest, _ Query) (*mcp.CallToolResult, any, error) {
		<-ctx.Done()
		return nil, nil, fmt.Errorf("get web.example: %w", context.Cause(ctx))
	}
	for name, add := range map[string]func(*mcp.Server, *sluice.Executor){
		"Server, raw": func(s *mcp.Server, e *sluice.Executor) {
			s.AddReceivingMiddleware(Server(e, Config{}))
			tool := search()
			tool.InputSchema = map[string]any{"type": "object"}
			s.AddTool(tool, func(ctx context.Context, _ *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				return inWords(ctx), nil
			})
		},
		"Server, result": func(s *mcp.Server, e *sluice.Executor) {
			s.AddReceivingMiddleware(Server(e, Config{}))
			mcp.AddTool(s, search(), result)
		},
		"Server, error": func(s *mcp.Server, e *sluice.Executor) {
			s.AddReceivingMiddleware(Server(e, Config{}))
			mcp.AddTool(s, search(), failure)
		},
		"AddTool, result": func(s *mcp.Server, e *sluice.Executor) { require.NoError(t, AddTool(s, e, search(), Config{}, result)) },
		"AddTool, error": func(s *mcp.Server, e *sluice.Executor) {
			require.NoError(t, AddTool(s, e, search(), Config{}, failure))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 2}))
				e, _ := newExecutor(t, sluice.Config{Timeout: time.Second, Interceptors: []sluice.Interceptor{breaker}})
				s := mcp.NewServer(&mcp.Implementation{Name: "demo", Version: "1.0.0"}, nil)
				add(s, e)
				c := connect(t, s, nil)
				for range 2 {
					began := time.Now()
					text, isError := textOf(t, mustCall(t, c, "search", "go"))
					require.True(t, isError)
					require.Equal(t, `{"type":"timeout","message":"the tool did not finish in time","retryable":false}`, text)
					require.Equal(t, time.Second, time.Since(began))
				}
				requireRefusal(t, mustCall(t, c, "search", "go"), "breaker_open", 5*time.Second)
			})
		})
	}
}
