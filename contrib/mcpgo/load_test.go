package mcpgo

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// A thousand calls at once at a limit of 8: eight run all the time, and each is answered.
func TestLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{limits}})
		s := newServer(e, Config{})
		var g gauge
		s.AddTool(searchTool(), func(_ context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			defer g.enter()()
			time.Sleep(10 * time.Millisecond)
			return mcp.NewToolResultText("hits of " + r.GetString("query", "")), nil
		})
		c := newClient(t, s)
		began := time.Now()
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				text, isError := textOf(t, mustCall(t, c, "search", fmt.Sprint(i)))
				require.False(t, isError)
				require.Equal(t, fmt.Sprint("hits of ", i), text)
			})
		}
		wg.Wait()
		require.EqualValues(t, 8, g.peak.Load())
		require.Equal(t, 1250*time.Millisecond, time.Since(began))
	})
}

// Calls of all kinds at once, of several sessions, some cancelled, while tools change and leave the registry: each
// is answered with what is its own, and nothing stays.
func TestStorm(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		e, rec := newExecutor(t, sluice.Config{})
		s := newServer(e, Config{Policy: func(string) sluice.Policy {
			return sluice.Policy{Concurrency: 3, Timeout: 50 * time.Millisecond, MaxWait: 200 * time.Millisecond}
		}})
		var g gauge
		handler := func(ctx context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			defer g.enter()()
			kind, _, _ := strings.Cut(r.GetString("query", ""), " ")
			switch kind {
			case "panic":
				panic("secret")
			case "exit":
				runtime.Goexit()
			case "slow":
				<-ctx.Done()
				return nil, ctx.Err()
			case "fail":
				return nil, fmt.Errorf("%s", r.GetString("query", ""))
			case "mistake":
				return mcp.NewToolResultError(r.GetString("query", "")), nil
			}
			time.Sleep(5 * time.Millisecond)
			return mcp.NewToolResultText(r.GetString("query", "")), nil
		}
		s.AddTool(searchTool(), handler)
		kinds := []string{"go", "panic", "exit", "slow", "fail", "mistake"}
		var wg sync.WaitGroup
		for w := range 16 {
			rnd := rand.New(rand.NewPCG(seed, uint64(w)))
			session := server.NewInProcessSession(fmt.Sprint("session ", w), nil)
			wg.Go(func() {
				for i := range 60 {
					switch rnd.IntN(20) {
					case 0:
						s.AddTool(searchTool(mcp.WithDescription(fmt.Sprint(rnd.IntN(3)))), handler)
					case 1:
						e.Registry().Remove("search")
					}
					ctx, cancel := context.WithCancel(s.WithContext(t.Context(), session))
					if rnd.IntN(5) == 0 {
						time.AfterFunc(time.Duration(rnd.IntN(20))*time.Millisecond, cancel)
					}
					query := fmt.Sprint(kinds[rnd.IntN(len(kinds))], " ", w, " ", i)
					m := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"search","arguments":{"query":%q}}}`, i, query)
					check(t, ctx, s.HandleMessage(ctx, json.RawMessage(m)), query)
					cancel()
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		x := e.Snapshot()
		require.Zero(t, x.InFlight+x.Queued)
		require.Zero(t, g.now.Load())
		require.NoError(t, rec.Check())
	})
}

// check is what an answer to that query may be.
func check(t *testing.T, ctx context.Context, answer mcp.JSONRPCMessage, query string) {
	switch r := answer.(type) {
	case mcp.JSONRPCError:
		if ctx.Err() == nil {
			require.True(t, strings.HasPrefix(query, "fail "), query)
			require.Equal(t, query, r.Error.Message)
		} else {
			require.Contains(t, []string{query, "context canceled"}, r.Error.Message)
		}
	case mcp.JSONRPCResponse:
		text, isError := textOf(t, r.Result.(*mcp.CallToolResult))
		if text == query {
			require.Equal(t, strings.HasPrefix(query, "mistake "), isError)
			return
		}
		require.True(t, isError)
		var said struct{ Type string }
		require.NoError(t, json.Unmarshal([]byte(text), &said), text)
		require.Contains(t, []string{"panic", "goexit", "timeout", "wait_too_long", "unknown_tool"}, said.Type)
		require.NotContains(t, text, "secret")
	default:
		require.Fail(t, "no answer", query)
	}
}
