package sluicemcp

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

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// A thousand calls at once at a limit of 8: eight run all the time, and each is answered.
func TestLoad(t *testing.T) {
	hits := func(g *gauge) handler {
		return func(_ context.Context, _ *mcp.CallToolRequest, q Query) (*mcp.CallToolResult, any, error) {
			defer g.enter()()
			time.Sleep(10 * time.Millisecond)
			return textResult("hits of " + q.Query), nil, nil
		}
	}
	load := func(t *testing.T, c *mcp.ClientSession, g *gauge) {
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
	}
	newLimited := func(t *testing.T) *sluice.Executor {
		limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{limits}})
		return e
	}
	each(t, func(t *testing.T, w way) {
		g := new(gauge)
		load(t, connect(t, w.serve(t, newLimited(t), Config{}, search(), hits(g)), nil), g)
	})
	t.Run("Client", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := new(gauge)
			c, _ := newGuarded(t, newLimited(t), Config{}, func(s *mcp.Server) { mcp.AddTool(s, search(), hits(g)) })
			load(t, c, g)
		})
	})
}

// Calls of all kinds at once, of several sessions of guarded clients, some cancelled, while tools change and leave
// the registries: each is answered with what is its own, and nothing stays.
func TestStorm(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	each(t, func(t *testing.T, w way) {
		e, rec := newExecutor(t, sluice.Config{})
		ahead, aheadRec := newExecutor(t, sluice.Config{})
		conf := Config{Policy: func(string) sluice.Policy {
			return sluice.Policy{Concurrency: 3, Timeout: 50 * time.Millisecond, MaxWait: 200 * time.Millisecond}
		}}
		var g gauge
		run := func(ctx context.Context, _ *mcp.CallToolRequest, q Query) (*mcp.CallToolResult, any, error) {
			defer g.enter()()
			kind, _, _ := strings.Cut(q.Query, " ")
			switch kind {
			case "panic":
				panic("secret")
			case "exit":
				runtime.Goexit()
			case "slow":
				<-ctx.Done()
				return nil, nil, ctx.Err()
			case "fail":
				return nil, nil, fmt.Errorf("%s", q.Query)
			case "mistake":
				res := textResult(q.Query)
				res.IsError = true
				return res, nil, nil
			}
			time.Sleep(5 * time.Millisecond)
			return textResult(q.Query), nil, nil
		}
		s := w.serve(t, e, conf, search(), run)
		client := mcp.NewClient(tester, nil)
		client.AddSendingMiddleware(Client(ahead, Config{Policy: func(string) sluice.Policy { return sluice.Policy{Concurrency: 12, MaxWait: 200 * time.Millisecond} }}))
		kinds := []string{"go", "panic", "exit", "slow", "fail", "mistake"}
		var wg sync.WaitGroup
		for worker := range 16 {
			rnd := rand.New(rand.NewPCG(seed, uint64(worker)))
			session := connect(t, s, client)
			wg.Go(func() {
				for i := range 40 {
					switch rnd.IntN(20) {
					case 0:
						tool := search()
						tool.Description = fmt.Sprint(rnd.IntN(3))
						if w.name == "Server" {
							mcp.AddTool(s, tool, run)
						} else {
							require.NoError(t, AddTool(s, e, tool, conf, run))
						}
					case 1:
						e.Registry().Remove("search")
					case 2:
						ahead.Registry().Remove("search")
					case 3:
						_, err := session.ListTools(t.Context(), nil)
						require.NoError(t, err)
					}
					ctx, cancel := context.WithCancel(t.Context())
					if rnd.IntN(5) == 0 {
						time.AfterFunc(time.Duration(rnd.IntN(20))*time.Millisecond, cancel)
					}
					query := fmt.Sprint(kinds[rnd.IntN(len(kinds))], " ", worker, " ", i)
					res, err := session.CallTool(ctx, newParams("search", query))
					check(t, ctx, res, err, query)
					cancel()
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Second) // what a client has given up may still run on the server
		synctest.Wait()
		for _, e := range []*sluice.Executor{e, ahead} {
			x := e.Snapshot()
			require.Zero(t, x.InFlight+x.Queued)
		}
		require.Zero(t, g.now.Load())
		require.NoError(t, rec.Check())
		require.NoError(t, aheadRec.Check())
	})
}

// check is what an answer to that query may be.
func check(t *testing.T, ctx context.Context, res *mcp.CallToolResult, err error, query string) {
	var text string
	switch {
	case err != nil && ctx.Err() != nil:
		return
	case err != nil:
		require.ErrorIs(t, err, sluice.ErrRejected)
		text = sluice.ModelText(err)
	default:
		var isError bool
		text, isError = textOf(t, res)
		if text == query {
			require.Equal(t, !strings.HasPrefix(query, "go "), isError)
			return
		}
		require.True(t, isError)
	}
	var said struct{ Type string }
	require.NoError(t, json.Unmarshal([]byte(text), &said), text)
	require.Contains(t, []string{"panic", "goexit", "timeout", "wait_too_long", "unknown_tool"}, said.Type)
	require.NotContains(t, text, "secret")
}
