package sluicemcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// counts says how often each method was received.
type counts struct {
	mu sync.Mutex
	of map[string]int
}

func (c *counts) middleware(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
		c.mu.Lock()
		c.of[method]++
		c.mu.Unlock()
		return next(ctx, method, req)
	}
}

// newGuarded is a guarded client, connected to a server of those tools that is not, with what that receives.
func newGuarded(t testing.TB, e *sluice.Executor, c Config, add func(s *mcp.Server), middleware ...mcp.Middleware) (*mcp.ClientSession, *counts) {
	s := mcp.NewServer(demo, &mcp.ServerOptions{PageSize: 3})
	add(s)
	n := &counts{of: map[string]int{}}
	s.AddReceivingMiddleware(n.middleware)
	client := mcp.NewClient(tester, nil)
	client.AddSendingMiddleware(append(middleware, Client(e, c))...)
	return connect(t, s, client), n
}

// What a client sends and gets is what it would be without a guard, and tools are declared as they are listed.
func TestClient(t *testing.T) {
	e, rec := newExecutor(t, sluice.Config{})
	c, n := newGuarded(t, e, Config{Prefix: "web."}, func(s *mcp.Server) {
		for i := range 10 {
			mcp.AddTool(s, &mcp.Tool{Name: fmt.Sprint("tool", i)}, answers("other"))
		}
		mcp.AddTool(s, readOnly(), func(ctx context.Context, r *mcp.CallToolRequest, q Query) (*mcp.CallToolResult, *Hits, error) {
			require.Equal(t, "here", r.Params.Meta["trace"])
			if q.Query == "fails" {
				return nil, nil, errors.New("no route")
			}
			return &mcp.CallToolResult{Meta: mcp.Meta{"cost": 2}}, &Hits{len(q.Query)}, nil
		})
	})
	p := newParams("search", "go")
	p.Meta = mcp.Meta{"trace": "here"}
	for range 2 {
		res, err := c.CallTool(t.Context(), p)
		require.NoError(t, err)
		require.Equal(t, map[string]any{"hits": float64(2)}, res.StructuredContent)
		require.EqualValues(t, 2, res.Meta["cost"])
	}
	require.Equal(t, 4, n.of["tools/list"], "four pages, once")
	p.Arguments = map[string]any{"query": "fails"}
	res, err := c.CallTool(t.Context(), p)
	require.NoError(t, err)
	text, isError := textOf(t, res)
	require.Equal(t, "no route", text)
	require.True(t, isError)

	spec, ok := e.Registry().Lookup("web.search")
	require.True(t, ok)
	require.Equal(t, "search the web", spec.Description)
	require.Contains(t, string(spec.InputSchema), `"query"`)
	require.Contains(t, string(spec.OutputSchema), `"hits"`)
	require.Equal(t, sluice.Hints{ReadOnly: true, OpenWorld: true, Untrusted: true}, spec.Hints)
	events := rec.Events("web.search")
	require.Len(t, events, 9)
	require.Equal(t, len(`{"query":"go"}`), events[0].InputBytes)
	require.EqualError(t, events[8].Err, "no route")
	require.Equal(t, "tool_error", sluice.CodeOf(events[8].Err))
}

// A client that lists the tools, as agents do, is asked for nothing more.
func TestClientLists(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	c, n := newGuarded(t, e, Config{}, func(s *mcp.Server) { mcp.AddTool(s, search(), answers("3 hits")) })
	tools, err := c.ListTools(t.Context(), nil)
	require.NoError(t, err)
	tools.Tools[0].Name, tools.Tools[0].InputSchema = "mine now", nil // which changes nothing
	require.False(t, mustCall(t, c, "search", "go").IsError)
	require.Equal(t, 1, n.of["tools/list"])
}

// A refusal is an error of CallTool that says what it is, and nothing is sent.
func TestClientRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Refuse: true, Rates: []sluice.Rate{{N: 1, Per: 10 * time.Second}}}))
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{rate}})
		c, n := newGuarded(t, e, Config{}, func(s *mcp.Server) { mcp.AddTool(s, search(), answers("3 hits")) })
		mustCall(t, c, "search", "go")
		_, err := c.CallTool(t.Context(), newParams("search", "go"))
		require.ErrorIs(t, err, sluice.ErrRejected)
		require.ErrorIs(t, err, sluice.ErrRateLimited)
		require.Equal(t, `{"type":"rate_limited","message":"too many calls for now; try again in 10 s","retryable":true,"retry_after_ms":10000}`, sluice.ModelText(err))
		_, err = c.CallTool(t.Context(), &mcp.CallToolParams{Name: "search", Arguments: func() {}})
		require.ErrorContains(t, err, `sluicemcp: the arguments of the tool "search": json: unsupported type`)
		require.Equal(t, 1, n.of["tools/call"])
	})
}

// A call that takes too long ends for the client, and the server is told.
func TestClientTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newExecutor(t, sluice.Config{})
		told := make(chan error, 1)
		c, _ := newGuarded(t, e, Config{Policy: func(string) sluice.Policy { return sluice.Policy{Timeout: time.Second} }}, func(s *mcp.Server) {
			mcp.AddTool(s, search(), func(ctx context.Context, _ *mcp.CallToolRequest, _ Query) (*mcp.CallToolResult, any, error) {
				<-ctx.Done()
				told <- ctx.Err()
				return nil, nil, ctx.Err()
			})
		})
		began := time.Now()
		_, err := c.CallTool(t.Context(), newParams("search", "go"))
		require.ErrorIs(t, err, sluice.ErrTimeout)
		require.Equal(t, time.Second, time.Since(began))
		require.ErrorIs(t, <-told, context.Canceled)
		synctest.Wait()
		require.Zero(t, e.Snapshot().InFlight)
	})
}

// TestTrapForeignHints: what a server says of its tools enables nothing. What the client's program has declared
// before does.
func TestTrapForeignHints(t *testing.T) {
	for _, vouched := range []bool{false, true} {
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{sluice.Must(resilience.NewCache(resilience.CacheConfig{TTL: time.Hour}))}})
		if vouched {
			require.NoError(t, sluice.Declare(e.Registry(), sluice.Spec{Name: "search", Hints: sluice.Hints{ReadOnly: true}}))
		}
		c, n := newGuarded(t, e, Config{}, func(s *mcp.Server) { mcp.AddTool(s, readOnly(), answers("3 hits")) })
		for range 3 {
			require.False(t, mustCall(t, c, "search", "go").IsError)
		}
		require.Equal(t, map[bool]int{false: 3, true: 1}[vouched], n.of["tools/call"])
		spec, _ := e.Registry().Lookup("search")
		require.Equal(t, "search the web", spec.Description)
	}
}

// TestTrapFirstCallsList: calls that come at once before there is a list ask for one, not for one each; those that
// come to one that began before they did wait for another if they are not in it.
func TestTrapFirstCallsList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newExecutor(t, sluice.Config{})
		slow := func(next mcp.MethodHandler) mcp.MethodHandler {
			return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
				res, err := next(ctx, method, req)
				if method == "tools/list" {
					time.Sleep(time.Second)
				}
				return res, err
			}
		}
		var server *mcp.Server
		c, n := newGuarded(t, e, Config{}, func(s *mcp.Server) {
			server = s
			mcp.AddTool(s, search(), answers("3 hits"))
			s.AddReceivingMiddleware(slow)
		})
		began := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { require.False(t, mustCall(t, c, "search", "go").IsError) })
		}
		synctest.Wait()
		mcp.AddTool(server, &mcp.Tool{Name: "later"}, answers("later"))
		wg.Go(func() { require.False(t, mustCall(t, c, "later", "go").IsError) })
		wg.Wait()
		require.Equal(t, 2*time.Second, time.Since(began))
		require.Equal(t, 2, n.of["tools/list"])
		_, ok := e.Registry().Lookup("later")
		require.True(t, ok)
	})
}

// TestTrapListsFlood: a model that makes up names, or forgets arguments, does not have the server flooded with
// requests for lists, which no limit would stop.
func TestTrapListsFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newExecutor(t, sluice.Config{})
		var server *mcp.Server
		c, n := newGuarded(t, e, Config{}, func(s *mcp.Server) {
			server = s
			mcp.AddTool(s, search(), answers("3 hits"))
		})
		for i := range 50 {
			_, err := c.CallTool(t.Context(), newParams(fmt.Sprint("made-up", i), "go"))
			require.ErrorContains(t, err, "unknown tool")
			_, err = c.CallTool(t.Context(), &mcp.CallToolParams{Name: "search"})
			require.ErrorIs(t, err, sluice.ErrInvalidArguments)
		}
		require.Equal(t, 10, n.of["tools/list"])
		mcp.AddTool(server, &mcp.Tool{Name: "later"}, answers("later"))
		for _, wait := range []time.Duration{0, time.Second} {
			time.Sleep(wait)
			require.False(t, mustCall(t, c, "later", "go").IsError)
			_, ok := e.Registry().Lookup("later")
			require.Equal(t, wait > 0, ok)
		}
		require.Equal(t, 11, n.of["tools/list"])
	})
}

// TestTrapListHangs: a server that does not answer with its tools holds no call for ever, and a call that is given
// up does not end the list of others. A list that fails is asked for again.
func TestTrapListHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newExecutor(t, sluice.Config{})
		fail := func(context.Context) error { return nil }
		c, _ := newGuarded(t, e, Config{}, func(s *mcp.Server) {
			mcp.AddTool(s, search(), answers("3 hits"))
			s.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
				return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
					if method == "tools/list" {
						if err := fail(ctx); err != nil {
							return nil, err
						}
					}
					return next(ctx, method, req)
				}
			})
		})
		fail = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		given := make(chan error)
		go func() {
			_, err := c.CallTool(ctx, newParams("search", "go"))
			given <- err
		}()
		synctest.Wait()
		wait := make(chan error)
		go func() {
			_, err := c.CallTool(t.Context(), newParams("search", "go"))
			wait <- err
		}()
		require.ErrorIs(t, <-given, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		require.ErrorContains(t, <-wait, "sluicemcp: listing the tools: ")
		require.Equal(t, 30*time.Second, time.Since(began))
		for _, f := range []func(){func() { panic("secret") }, runtime.Goexit, func() {}} {
			fail = func(context.Context) error {
				return &jsonrpc.Error{Code: jsonrpc.CodeInternalError, Message: "not now"}
			}
			_, err := c.CallTool(t.Context(), newParams("search", "go"))
			require.ErrorContains(t, err, "not now")
			g := newGuard(e, Config{})
			err = g.refresh(t.Context(), &call{list: func(context.Context, *call, string) (*mcp.ListToolsResult, error) { f(); return nil, nil }})
			if err != nil {
				require.NotContains(t, err.Error(), "secret")
			}
			require.Empty(t, g.flights)
		}
		fail = func(context.Context) error { return nil }
		require.False(t, mustCall(t, c, "search", "go").IsError)
	})
}

// TestTrapClientMiddlewarePanics: middleware inside the guard that panics or exits ends the call alone.
func TestTrapClientMiddlewarePanics(t *testing.T) {
	for name, fail := range map[string]func(){"panic": func() { panic("secret") }, "goexit": runtime.Goexit} {
		e, _ := newExecutor(t, sluice.Config{})
		s := mcp.NewServer(demo, nil)
		mcp.AddTool(s, search(), answers("3 hits"))
		client := mcp.NewClient(tester, nil)
		client.AddSendingMiddleware(Client(e, Config{}), func(next mcp.MethodHandler) mcp.MethodHandler {
			return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
				if method == "tools/call" {
					fail()
				}
				return next(ctx, method, req)
			}
		})
		_, err := connect(t, s, client).CallTool(t.Context(), newParams("search", "go"))
		require.Equal(t, name, sluice.CodeOf(err))
		require.NotContains(t, err.Error(), "secret")
	}
}

// The library's own code, which does not exit, has no goroutine of its own on a client: what has called the tool sends
// it. Middleware inside has, and a panic of a transport ends the call alone all the same.
func TestClientSendsDirectly(t *testing.T) {
	for _, without := range []bool{false, true} {
		c := mcp.NewClient(tester, &mcp.ClientOptions{MultiRoundTrip: &mcp.MultiRoundTripOptions{Disabled: without}})
		c.AddSendingMiddleware(older, func(next mcp.MethodHandler) mcp.MethodHandler {
			require.True(t, isSending(next), without)
			return next
		})
		c.AddSendingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
			require.False(t, isSending(next), without)
			return next
		})
	}
	e, rec := newExecutor(t, sluice.Config{})
	s := mcp.NewServer(demo, nil)
	mcp.AddTool(s, search(), answers("3 hits"))
	client := mcp.NewClient(tester, nil)
	client.AddSendingMiddleware(Client(e, Config{}))
	here, there := mcp.NewInMemoryTransports()
	ss, err := s.Connect(t.Context(), there, nil)
	require.NoError(t, err)
	wire := &failing{Transport: here}
	session, err := client.Connect(t.Context(), wire, nil)
	require.NoError(t, err)
	require.False(t, mustCall(t, session, "search", "go").IsError)
	wire.panics.Store(true)
	_, err = session.CallTool(t.Context(), newParams("search", "go"))
	require.Equal(t, "panic", sluice.CodeOf(err))
	require.Zero(t, e.Snapshot().InFlight)
	require.Equal(t, sluice.ToolFailed, rec.Events("search")[5].Kind)
	require.NoError(t, ss.Close())
}

// failing is a transport that panics instead of sending, once it is told to.
type failing struct {
	mcp.Transport
	panics atomic.Bool
}

func (f *failing) Connect(ctx context.Context) (mcp.Connection, error) {
	c, err := f.Transport.Connect(ctx)
	return &failingConnection{c, f}, err
}

type failingConnection struct {
	mcp.Connection
	of *failing
}

func (c *failingConnection) Write(ctx context.Context, m jsonrpc.Message) error {
	if r, ok := m.(*jsonrpc.Request); ok && r.Method == "tools/call" && c.of.panics.Load() {
		panic("secret")
	}
	return c.Connection.Write(ctx, m)
}

// TestTrapClientBreaker: a server's protocol errors for a model's mistakes open no breaker, others do; and a name
// that a model has made up is guarded, though it is not registered.
func TestTrapClientBreaker(t *testing.T) {
	for code, opens := range map[int64]bool{jsonrpc.CodeInvalidParams: false, jsonrpc.CodeInternalError: true} {
		e, _ := newExecutor(t, sluice.Config{})
		c, n := newGuarded(t, e, Config{Policy: func(string) sluice.Policy { return sluice.Policy{Breaker: &sluice.BreakerPolicy{Failures: 2}} }}, func(s *mcp.Server) {
			tool := search()
			tool.InputSchema = json.RawMessage(`{"type":"object"}`)
			s.AddTool(tool, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				return nil, &jsonrpc.Error{Code: code, Message: "no"}
			})
		})
		for range 5 {
			_, err := c.CallTool(t.Context(), newParams("search", "go"))
			require.Error(t, err)
		}
		require.Equal(t, map[bool]int{false: 5, true: 2}[opens], n.of["tools/call"])
		for i := range 5 {
			_, err := c.CallTool(t.Context(), newParams(fmt.Sprint("made-up", i), "go"))
			require.ErrorContains(t, err, "unknown tool")
		}
		var there []string
		for spec := range e.Registry().Tools() {
			there = append(there, spec.Name)
		}
		require.Equal(t, []string{"_OTHER", "search"}, there)
	}
}

// The session's id is filled in, where there is one, as over HTTP before protocol 2026-07-28.
func TestSessionAlone(t *testing.T) {
	e, rec := newExecutor(t, sluice.Config{})
	s := newServer(e, Config{})
	mcp.AddTool(s, search(), answers("3 hits"))
	c := connectHTTP(t, serveHTTP(t, s), older)
	require.False(t, mustCall(t, c, "search", "go").IsError)
	require.NotEmpty(t, c.ID())
	require.Equal(t, c.ID(), rec.Events()[0].Call.Pipeline.SessionID)
}
