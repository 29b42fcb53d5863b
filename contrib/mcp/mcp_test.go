package sluicemcp

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

type ctxKey struct{}

// each runs a test for both ways of a server.
func each(t *testing.T, f func(t *testing.T, w way)) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { f(t, w) })
		})
	}
}

// What a tool gets and gives is what it would be without a guard: arguments to the last digit, _meta, context
// values, session, structured content.
func TestCallsAreKept(t *testing.T) {
	for _, guarded := range []bool{false, true} {
		e, rec := newExecutor(t, sluice.Config{})
		s := mcp.NewServer(demo, nil)
		if guarded {
			s.AddReceivingMiddleware(Server(e, Config{}))
		}
		s.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
			return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
				return next(context.WithValue(ctx, ctxKey{}, "value"), method, req)
			}
		})
		tool := search()
		tool.InputSchema = json.RawMessage(`{"type":"object"}`)
		s.AddTool(tool, func(ctx context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			require.Equal(t, "value", ctx.Value(ctxKey{}))
			require.NotNil(t, r.Session)
			require.Equal(t, `{"query":"go","n":9007199254740993}`, string(r.Params.Arguments))
			require.Equal(t, "here", r.Params.Meta["trace"])
			_, inside := sluice.CallFrom(ctx)
			require.Equal(t, guarded, inside)
			res := textResult("3 hits")
			res.StructuredContent, res.Meta = map[string]any{"hits": 3}, mcp.Meta{"cost": 2}
			return res, nil
		})
		c := connect(t, s, nil)
		p := &mcp.CallToolParams{Name: "search", Arguments: json.RawMessage(`{"query":"go","n":9007199254740993}`), Meta: mcp.Meta{"trace": "here"}}
		res, err := c.CallTool(t.Context(), p)
		require.NoError(t, err)
		require.Equal(t, map[string]any{"hits": float64(3)}, res.StructuredContent)
		require.EqualValues(t, 2, res.Meta["cost"])
		require.Contains(t, res.Meta, mcp.MetaKeyServerInfo)
		text, isError := textOf(t, res)
		require.Equal(t, "3 hits", text)
		require.False(t, isError)
		if guarded {
			events := rec.Events("search")
			require.Equal(t, sluice.ToolCompleted, events[len(events)-1].Kind)
			require.Equal(t, len(`{"query":"go","n":9007199254740993}`), events[0].InputBytes)
		}
	}
}

// Typed tools of AddTool are listed, and answer, as those of mcp.AddTool.
func TestTypedToolsAreKept(t *testing.T) {
	e, rec := newExecutor(t, sluice.Config{})
	h := func(ctx context.Context, r *mcp.CallToolRequest, q Query) (*mcp.CallToolResult, *Hits, error) {
		switch q.Query {
		case "nothing":
			return nil, nil, nil
		case "mistake":
			res := textResult("which?")
			res.IsError = true
			return res, &Hits{7}, nil
		case "fails":
			return nil, &Hits{8}, errors.New("no route")
		case "code":
			return nil, nil, &jsonrpc.Error{Code: -32050, Message: "mine"}
		}
		return nil, &Hits{len(q.Query)}, nil
	}
	plain, guarded := mcp.NewServer(demo, nil), mcp.NewServer(demo, nil)
	mcp.AddTool(plain, search(), h)
	require.NoError(t, AddTool(guarded, e, search(), Config{}, h))
	a, b := connect(t, plain, nil), connect(t, guarded, nil)
	want, err := a.ListTools(t.Context(), nil)
	require.NoError(t, err)
	got, err := b.ListTools(t.Context(), nil)
	require.NoError(t, err)
	require.Equal(t, want, got)
	spec, ok := e.Registry().Lookup("search")
	require.True(t, ok, "it is declared at once")
	in, err := json.Marshal(want.Tools[0].InputSchema)
	require.NoError(t, err)
	require.JSONEq(t, string(in), string(spec.InputSchema))
	require.Contains(t, string(spec.OutputSchema), `"hits"`)

	for _, args := range []any{map[string]any{"query": "go"}, map[string]any{"query": "nothing"}, map[string]any{"query": "mistake"},
		map[string]any{"query": "fails"}, map[string]any{"query": "code"}, map[string]any{"q": 1}, nil} {
		want, wanted := a.CallTool(t.Context(), &mcp.CallToolParams{Name: "search", Arguments: args})
		got, err := b.CallTool(t.Context(), &mcp.CallToolParams{Name: "search", Arguments: args})
		require.Equal(t, wanted, err, args)
		require.Equal(t, want, got, args)
	}
	events := rec.Events("search")
	require.Len(t, events, 15, "what does not fit the schema does not come here")
	require.Equal(t, "tool_error", sluice.CodeOf(events[8].Err))
	require.EqualError(t, events[8].Err, "which?")
}

// What a tool says of itself is in the registry, from its first call on, as it was listed.
func TestSpecsAreKept(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	s := newServer(e, Config{})
	no := false
	tool := readOnly()
	tool.Annotations.IdempotentHint, tool.Annotations.OpenWorldHint = true, &no
	mcp.AddTool(s, tool, func(context.Context, *mcp.CallToolRequest, Query) (*mcp.CallToolResult, Hits, error) {
		return nil, Hits{3}, nil
	})
	c := connect(t, s, nil)
	_, ok := e.Registry().Lookup("search")
	require.False(t, ok)
	mustCall(t, c, "search", "go")
	spec, ok := e.Registry().Lookup("search")
	require.True(t, ok)
	require.Equal(t, "search the web", spec.Description)
	require.Equal(t, sluice.Hints{ReadOnly: true, Idempotent: true}, spec.Hints)
	tools, err := c.ListTools(t.Context(), nil)
	require.NoError(t, err)
	in, err := json.Marshal(tools.Tools[0].InputSchema)
	require.NoError(t, err)
	require.JSONEq(t, string(in), string(spec.InputSchema))
	require.Contains(t, string(spec.OutputSchema), `"hits"`)
}

// Progress of a running tool reaches the client, all of it and in order.
func TestProgressIsKept(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		e, _ := newExecutor(t, sluice.Config{Timeout: time.Second})
		s := w.serve(t, e, Config{}, search(), func(ctx context.Context, r *mcp.CallToolRequest, _ Query) (*mcp.CallToolResult, any, error) {
			for i := range 10 {
				require.NoError(t, r.Session.NotifyProgress(ctx, &mcp.ProgressNotificationParams{
					ProgressToken: r.Params.GetProgressToken(), Progress: float64(i), Total: 10}))
			}
			return textResult("3 hits"), nil, nil
		})
		var seen []float64
		c := connect(t, s, mcp.NewClient(tester, &mcp.ClientOptions{ProgressNotificationHandler: func(_ context.Context, r *mcp.ProgressNotificationClientRequest) {
			seen = append(seen, r.Params.Progress)
		}}))
		p := newParams("search", "go")
		p.SetProgressToken("token")
		_, err := c.CallTool(t.Context(), p)
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, []float64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, seen)
	})
}

// A refusal is a result that a model can read, for each reason.
func TestRefusalsAreResults(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "secret api", Refuse: true, Rates: []sluice.Rate{{N: 1, Per: 10 * time.Second}}}))
		e, rec := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{rate}})
		ran := 0
		s := w.serve(t, e, Config{}, search(), func(context.Context, *mcp.CallToolRequest, Query) (*mcp.CallToolResult, any, error) {
			ran++
			return nil, Hits{3}, nil
		})
		var seen []error
		s.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
			return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
				res, err := next(ctx, method, req)
				if r, ok := res.(*mcp.CallToolResult); ok {
					seen = append(seen, r.GetError())
				}
				return res, err
			}
		})
		c := connect(t, s, nil)
		res := mustCall(t, c, "search", "go")
		require.False(t, res.IsError)
		require.Equal(t, map[string]any{"hits": float64(3)}, res.StructuredContent)
		res = mustCall(t, c, "search", "go")
		text, _ := textOf(t, res)
		require.Equal(t, `{"type":"rate_limited","message":"too many calls for now; try again in 10 s","retryable":true,"retry_after_ms":10000}`, text)
		requireRefusal(t, res, "rate_limited", 10*time.Second)
		require.NoError(t, seen[0])
		require.ErrorIs(t, seen[1], sluice.ErrRateLimited, "the server's middleware sees why")
		require.NoError(t, rate.Lift(""))
		time.Sleep(10 * time.Second)
		require.NoError(t, e.Close(t.Context()))
		requireRefusal(t, mustCall(t, c, "search", "go"), "closed", 0)
		require.Equal(t, 1, ran)
		events := rec.Events()
		require.ErrorIs(t, events[len(events)-1].Err, sluice.ErrClosed)
	})
}

// A tool's own error goes to the library as it is.
func TestErrorsOfToolsAreKept(t *testing.T) {
	e, rec := newExecutor(t, sluice.Config{})
	own := errors.New("no route")
	var got error
	s := newServer(e, Config{})
	s.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			res, err := next(ctx, method, req)
			got = err
			return res, err
		}
	})
	tool := search()
	tool.InputSchema = json.RawMessage(`{"type":"object"}`)
	s.AddTool(tool, func(_ context.Context, r *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		switch string(r.Params.Arguments) {
		case `{"query":"fails"}`:
			return nil, own
		case `{"query":"nothing"}`:
			return nil, nil
		}
		return nil, mcp.URLElicitationRequiredError([]*mcp.ElicitParams{{Mode: "url", Message: "sign in", URL: "https://example.org", ElicitationID: "1"}})
	})
	c := connect(t, s, nil)
	_, err := c.CallTool(t.Context(), newParams("search", "fails"))
	require.EqualError(t, err, `calling "tools/call": no route`)
	require.True(t, got == own, "it is the same value")
	events := rec.Events("search")
	require.ErrorIs(t, events[len(events)-1].Err, own)
	require.Equal(t, "tool_error", sluice.CodeOf(events[len(events)-1].Err))
	_, err = c.CallTool(t.Context(), newParams("search", "asks"))
	wire, ok := errors.AsType[*jsonrpc.Error](err)
	require.True(t, ok)
	require.EqualValues(t, mcp.CodeURLElicitationRequired, wire.Code)
}

// What Sluice has said of a call that the tool made itself is for the model, without the names of limits.
func TestNestedRefusalsAreResults(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "secret api", Scope: sluice.ForTool("inner"), Refuse: true, Rates: []sluice.Rate{{N: 1, Per: time.Hour}}}))
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{rate}})
		inner := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "inner"}, func(context.Context, string) (string, error) { return "ok", nil }))
		s := w.serve(t, e, Config{}, search(), func(ctx context.Context, _ *mcp.CallToolRequest, _ Query) (*mcp.CallToolResult, any, error) {
			out, err := inner(ctx, "x")
			return textResult(out), nil, err
		})
		c := connect(t, s, nil)
		require.False(t, mustCall(t, c, "search", "go").IsError)
		text, isError := textOf(t, mustCall(t, c, "search", "go"))
		require.True(t, isError)
		require.Contains(t, text, "a call that the tool made was refused: too many calls for now")
		require.NotContains(t, text, "secret api")
	})
}

// On behalf of whom calls run comes from the context and from Behalf, and limits count by it.
func TestBehalf(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, Refuse: true, Rates: []sluice.Rate{{N: 1, Per: time.Hour}}}))
		e, rec := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{rate}})
		s := w.serve(t, e, Config{Behalf: func(ctx context.Context, pc sluice.PipelineContext) sluice.PipelineContext {
			pc.UserID, _ = ctx.Value(ctxKey{}).(string)
			pc.Priority = sluice.PriorityInteractive
			return pc
		}}, search(), answers("3 hits"))
		s.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
			return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
				if p := req.GetParams(); p != nil && p.GetMeta()["tenant"] != nil {
					ctx = context.WithValue(ctx, ctxKey{}, "ada")
					ctx = sluice.WithPipelineContext(ctx, sluice.PipelineContext{RunID: "run-7", Tenant: p.GetMeta()["tenant"].(string)})
				}
				return next(ctx, method, req)
			}
		})
		c := connect(t, s, nil)
		for _, tenant := range []string{"acme", "umbrella"} {
			for _, refused := range []bool{false, true} {
				p := newParams("search", "go")
				p.Meta = mcp.Meta{"tenant": tenant}
				res, err := c.CallTool(t.Context(), p)
				require.NoError(t, err)
				require.Equal(t, refused, res.IsError)
			}
			events := rec.Events()
			call := events[len(events)-1].Call
			require.Equal(t, []string{"run-7", tenant, "ada"}, []string{call.Pipeline.RunID, call.Pipeline.Tenant, call.Pipeline.UserID})
			require.Equal(t, sluice.PriorityInteractive, call.Priority)
		}
	})
}

// Policies are asked by the registry's name, once; a wrong one is an error that names what is wrong, and is not
// for the model.
func TestPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newExecutor(t, sluice.Config{})
		var asked []string
		conf := Config{Prefix: "web.", Policy: func(tool string) sluice.Policy {
			asked = append(asked, tool)
			if tool == "web.wrong" {
				return sluice.Policy{Concurrency: -1}
			}
			return sluice.Policy{Timeout: time.Second}
		}}
		s := newServer(e, conf)
		mcp.AddTool(s, search(), func(ctx context.Context, _ *mcp.CallToolRequest, _ Query) (*mcp.CallToolResult, any, error) {
			<-ctx.Done()
			return nil, nil, ctx.Err()
		})
		mcp.AddTool(s, &mcp.Tool{Name: "wrong"}, answers("never"))
		c := connect(t, s, nil)
		began := time.Now()
		for range 2 {
			requireRefusal(t, mustCall(t, c, "search", "go"), "timeout", 0)
		}
		require.Equal(t, 2*time.Second, time.Since(began))
		_, err := c.CallTool(t.Context(), newParams("wrong", ""))
		require.ErrorContains(t, err, "sluice: Policy.Concurrency is -1: must be zero or positive, up to 1099511627776")
		require.Equal(t, []string{"web.search", "web.wrong"}, asked)
		spec, ok := e.Registry().Lookup("web.search")
		require.True(t, ok)
		require.Equal(t, time.Second, spec.Policy.Timeout)
		err = AddTool(s, e, &mcp.Tool{Name: "wrong"}, conf, answers("never"))
		require.EqualError(t, err, `sluicemcp: AddTool: the tool "wrong": sluice: Policy.Concurrency is -1: must be zero or positive, up to 1099511627776`)
	})
}

// Text says what a model reads, of refusals alone.
func TestText(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		e, _ := newExecutor(t, sluice.Config{})
		s := w.serve(t, e, Config{Text: func(err error) string { return "sorry: " + sluice.CodeOf(err) }}, search(),
			func(_ context.Context, _ *mcp.CallToolRequest, q Query) (*mcp.CallToolResult, any, error) {
				if q.Query == "panic" {
					panic("secret")
				}
				return nil, nil, errors.New("backend says no")
			})
		c := connect(t, s, nil)
		for query, want := range map[string]string{"panic": "sorry: panic", "go": "backend says no"} {
			text, isError := textOf(t, mustCall(t, c, "search", query))
			require.Equal(t, want, text)
			require.True(t, isError)
		}
	})
}

// A tool that is declared before its first call keeps its Type, Check and Policy.
func TestDeclaredBefore(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		e, _ := newExecutor(t, sluice.Config{})
		require.NoError(t, sluice.Declare(e.Registry(), sluice.Spec{
			Name: "search", Type: "web", Policy: sluice.Policy{Concurrency: 3},
			Check: func(_ context.Context, c sluice.Call) error {
				if in, _ := c.JSON(); string(in) == `{"query":"forbidden"}` {
					return errors.New("$.query is forbidden")
				}
				return nil
			},
		}))
		s := w.serve(t, e, Config{Policy: func(string) sluice.Policy { return sluice.Policy{Concurrency: 9} }}, search(), answers("3 hits"))
		c := connect(t, s, nil)
		require.False(t, mustCall(t, c, "search", "go").IsError)
		requireRefusal(t, mustCall(t, c, "search", "forbidden"), "invalid_arguments", 0)
		spec, _ := e.Registry().Lookup("search")
		require.Equal(t, "web", spec.Type)
		require.Equal(t, "search the web", spec.Description)
		require.Equal(t, 3, spec.Policy.Concurrency)
	})
}

// A name that has a function of its own in the registry is not the server's to run.
func TestRegisteredBefore(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	sluice.Must(sluice.Register(e.Registry(), sluice.Spec{Name: "search"}, func(context.Context, string) (string, error) { return "", nil }))
	s := newServer(e, Config{})
	mcp.AddTool(s, search(), answers("3 hits"))
	_, err := connect(t, s, nil).CallTool(t.Context(), newParams("search", "go"))
	require.ErrorContains(t, err, `sluice: tool "search" is registered with a function of its own: must be another name`)
	require.ErrorContains(t, AddTool(s, e, search(), Config{}, answers("3 hits")), `must be another name`)
}

// What AddTool is given is checked, and a server and a registry that it fails for are as before.
func TestAddToolFails(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	s := mcp.NewServer(demo, nil)
	require.EqualError(t, AddTool(nil, e, search(), Config{}, answers("")), "sluicemcp: AddTool: the Server is nil: use mcp.NewServer")
	require.EqualError(t, AddTool(s, nil, search(), Config{}, answers("")), "sluicemcp: AddTool: the Executor is nil or zero: use sluice.NewExecutor")
	require.EqualError(t, AddTool(s, e, nil, Config{}, answers("")), "sluicemcp: AddTool: the Tool is nil: must not be")
	require.EqualError(t, AddTool(s, e, search(), Config{}, handler(nil)), `sluicemcp: AddTool: the handler of tool "search" is nil: must not be`)
	require.ErrorContains(t, AddTool(s, e, &mcp.Tool{}, Config{}, answers("")), "sluice: Spec.Name")
	err := AddTool(s, e, search(), Config{}, func(context.Context, *mcp.CallToolRequest, []int) (*mcp.CallToolResult, any, error) {
		return nil, nil, nil
	})
	require.ErrorContains(t, err, `sluicemcp: AddTool "search": input schema must have type "object"`)
	for range e.Registry().Tools() {
		t.Fatal("a tool is declared")
	}
	tools, err := connect(t, s, nil).ListTools(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, tools.Tools)
}

// A Server without an executor refuses calls with an error that says so.
func TestNilExecutor(t *testing.T) {
	s := newServer(nil, Config{})
	mcp.AddTool(s, search(), answers("3 hits"))
	_, err := connect(t, s, nil).CallTool(t.Context(), newParams("search", "go"))
	require.ErrorContains(t, err, "sluice: the ToolRegistry is nil: use NewToolRegistry")
}

// A layer that stores results has them for later calls, as results of tools are.
func TestCachedResults(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		cache, err := resilience.NewCache(resilience.CacheConfig{TTL: time.Minute})
		require.NoError(t, err)
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{cache}})
		ran := 0
		s := w.serve(t, e, Config{}, readOnly(), func(context.Context, *mcp.CallToolRequest, Query) (*mcp.CallToolResult, any, error) {
			ran++
			return nil, Hits{ran}, nil
		})
		c := connect(t, s, nil)
		for range 3 {
			res := mustCall(t, c, "search", "go")
			require.Equal(t, map[string]any{"hits": float64(1)}, res.StructuredContent)
			text, isError := textOf(t, res)
			require.Equal(t, `{"hits":1}`, text)
			require.False(t, isError)
		}
		require.Equal(t, 1, ran)
	})
}

// A request that its client cancels leaves the queue, or its tool, at once.
func TestCancelledRequests(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		e, rec := newExecutor(t, sluice.Config{})
		s := w.serve(t, e, Config{Policy: func(string) sluice.Policy { return sluice.Policy{Concurrency: 1} }}, search(),
			func(ctx context.Context, _ *mcp.CallToolRequest, _ Query) (*mcp.CallToolResult, any, error) {
				<-ctx.Done()
				return nil, nil, ctx.Err()
			})
		var told []error
		s.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
			return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
				res, err := next(ctx, method, req)
				if method == callTool {
					told = append(told, err)
				}
				return res, err
			}
		})
		c := connect(t, s, nil)
		start := func() (cancel func() error) {
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() {
				_, err := c.CallTool(ctx, newParams("search", "go"))
				ended <- err
			}()
			synctest.Wait()
			return func() error { stop(); err := <-ended; synctest.Wait(); return err }
		}
		first := start()
		second := start()
		require.Equal(t, 1, e.Snapshot().Queued)
		require.ErrorIs(t, second(), context.Canceled)
		require.Equal(t, 0, e.Snapshot().Queued)
		require.Equal(t, 1, e.Snapshot().InFlight)
		require.ErrorIs(t, first(), context.Canceled)
		require.Equal(t, 0, e.Snapshot().InFlight)
		events := rec.Events()
		require.Equal(t, "canceled", sluice.CodeOf(events[len(events)-1].Err))
		if w.name == "Server" {
			require.Equal(t, []error{context.Canceled, nil}, told, "the tool has made a result of it")
		}
	})
}
