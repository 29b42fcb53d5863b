package mcpgo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

type ctxKey struct{}

// What a tool gets and gives is what it would be without a guard: arguments to the last digit, _meta, context
// values, server and session, structured content.
func TestCallsAreKept(t *testing.T) {
	e, rec := newExecutor(t, sluice.Config{})
	s := newServer(e, Config{})
	session := ""
	s.AddTool(searchTool(), func(ctx context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		require.Equal(t, "value", ctx.Value(ctxKey{}))
		require.Same(t, s, server.ServerFromContext(ctx))
		session = server.ClientSessionFromContext(ctx).SessionID()
		require.JSONEq(t, `{"query":"go","n":9007199254740993}`, string(r.Params.RawArguments))
		require.Equal(t, "here", r.Params.Meta.AdditionalFields["trace"])
		c, ok := sluice.CallFrom(ctx)
		require.True(t, ok)
		require.Equal(t, "search", c.Tool)
		res := mcp.NewToolResultStructured(map[string]any{"hits": 3}, "3 hits")
		res.Meta = mcp.NewMetaFromMap(map[string]any{"cost": 2})
		return res, nil
	})
	c := newClient(t, s)
	r := newRequest("search", "")
	r.Params.Arguments = json.RawMessage(`{"query":"go","n":9007199254740993}`)
	r.Params.Meta = mcp.NewMetaFromMap(map[string]any{"trace": "here"})
	res, err := c.CallTool(context.WithValue(t.Context(), ctxKey{}, "value"), r)
	require.NoError(t, err)
	require.Equal(t, map[string]any{"hits": float64(3)}, res.StructuredContent)
	require.EqualValues(t, 2, res.Meta.AdditionalFields["cost"])
	text, isError := textOf(t, res)
	require.Equal(t, "3 hits", text)
	require.False(t, isError)

	events := rec.Events("search")
	require.Equal(t, sluice.ToolCompleted, events[len(events)-1].Kind)
	require.Equal(t, len(`{"query":"go","n":9007199254740993}`), events[0].InputBytes)
	require.NotEmpty(t, session)
	require.Equal(t, session, events[0].Call.Pipeline.SessionID)
}

// What a tool says of itself is in the registry, from its first call on, and as it is then.
func TestSpecsAreKept(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	s := newServer(e, Config{})
	s.AddTool(searchTool(mcp.WithReadOnlyHintAnnotation(true), mcp.WithIdempotentHintAnnotation(true), mcp.WithOpenWorldHintAnnotation(false),
		mcp.WithOutputSchema[struct{ Hits int }]()), answers("3 hits"))
	c := newClient(t, s)
	_, ok := e.Registry().Lookup("search")
	require.False(t, ok)
	mustCall(t, c, "search", "go")
	spec, ok := e.Registry().Lookup("search")
	require.True(t, ok)
	require.Equal(t, "search the web", spec.Description)
	require.Equal(t, sluice.Hints{ReadOnly: true, Idempotent: true}, spec.Hints)
	tools, err := c.ListTools(t.Context(), mcp.ListToolsRequest{})
	require.NoError(t, err)
	in, err := json.Marshal(tools.Tools[0].InputSchema)
	require.NoError(t, err)
	require.JSONEq(t, string(in), string(spec.InputSchema))
	require.Contains(t, string(spec.OutputSchema), `"Hits"`)
}

// Progress of a running tool reaches the client, all of it and in order.
func TestProgressIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newExecutor(t, sluice.Config{Timeout: time.Second})
		s := newServer(e, Config{})
		s.AddTool(searchTool(), func(ctx context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			for i := range 10 {
				err := server.ServerFromContext(ctx).SendNotificationToClient(ctx, "notifications/progress",
					map[string]any{"progressToken": r.Params.Meta.ProgressToken, "progress": i, "total": 10})
				require.NoError(t, err)
			}
			return mcp.NewToolResultText("3 hits"), nil
		})
		c := newClient(t, s)
		var seen []any
		c.OnNotification(func(n mcp.JSONRPCNotification) { seen = append(seen, n.Params.AdditionalFields["progress"]) })
		r := newRequest("search", "go")
		r.Params.Meta = &mcp.Meta{ProgressToken: "token"}
		_, err := c.CallTool(t.Context(), r)
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, []any{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, seen)
	})
}

// A refusal is a result that a model can read, for each reason, also to clients that check output schemas.
func TestRefusalsAreResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "secret api", Refuse: true, Rates: []sluice.Rate{{N: 1, Per: 10 * time.Second}}}))
		e, rec := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{rate}, MaxArgBytes: 100})
		s := newServer(e, Config{}, server.WithOutputSchemaValidation())
		ran := 0
		s.AddTool(searchTool(mcp.WithOutputSchema[struct {
			Hits int `json:"hits"`
		}]()), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			ran++
			return mcp.NewToolResultStructured(map[string]any{"hits": 3}, "3 hits"), nil
		})
		c := newClient(t, s)
		_, isError := textOf(t, mustCall(t, c, "search", "go"))
		require.False(t, isError)
		res := mustCall(t, c, "search", "go")
		text, _ := textOf(t, res)
		require.Equal(t, `{"type":"rate_limited","message":"too many calls for now; try again in 10 s","retryable":true,"retry_after_ms":10000}`, text)
		requireRefusal(t, res, "rate_limited", 10*time.Second)
		require.NoError(t, rate.Lift(""))
		time.Sleep(10 * time.Second)
		require.NoError(t, e.Close(t.Context()))
		requireRefusal(t, mustCall(t, c, "search", "go"), "closed", 0)
		require.Equal(t, 1, ran)
		events := rec.Events()
		require.ErrorIs(t, events[len(events)-1].Err, sluice.ErrClosed)
	})
}

// A tool's own error goes to the server as it is: it is a protocol error, of the code that the error asks for.
func TestErrorsOfToolsAreKept(t *testing.T) {
	e, rec := newExecutor(t, sluice.Config{})
	own := errors.New("no route")
	var got error
	seen := func(next server.ToolHandlerFunc) server.ToolHandlerFunc {
		return func(ctx context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			res, err := next(ctx, r)
			got = err
			return res, err
		}
	}
	s := newServer(e, Config{}, server.WithToolHandlerMiddleware(seen))
	s.AddTool(mcp.NewTool("fails"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) { return nil, own })
	asks := mcp.URLElicitationRequiredError{Elicitations: []mcp.ElicitationParams{{Mode: "url", Message: "sign in", URL: "https://example.org"}}}
	s.AddTool(mcp.NewTool("asks"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) { return nil, asks })
	s.AddTool(mcp.NewTool("nothing"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) { return nil, nil })
	c := newClient(t, s, "2025-11-25")

	_, err := c.CallTool(t.Context(), newRequest("fails", ""))
	require.EqualError(t, err, "internal error: no route")
	require.True(t, got == own, "it is the same value")
	_, err = c.CallTool(t.Context(), newRequest("asks", ""))
	require.ErrorAs(t, err, new(mcp.URLElicitationRequiredError))
	_, err = c.CallTool(t.Context(), newRequest("nothing", ""))
	require.ErrorContains(t, err, "nothing")
	events := rec.Events("fails")
	require.ErrorIs(t, events[len(events)-1].Err, own)
	require.Equal(t, "tool_error", sluice.CodeOf(events[len(events)-1].Err))
}

// What Sluice has said of a call that the tool made itself is for the model, without the names of limits.
func TestNestedRefusalsAreResults(t *testing.T) {
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "secret api", Scope: sluice.ForTool("inner"), Refuse: true, Rates: []sluice.Rate{{N: 1, Per: time.Hour}}}))
	e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{rate}})
	inner := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "inner"}, func(context.Context, string) (string, error) { return "ok", nil }))
	s := newServer(e, Config{})
	s.AddTool(searchTool(), func(ctx context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		out, err := inner(ctx, "x")
		return mcp.NewToolResultText(out), err
	})
	c := newClient(t, s)
	mustCall(t, c, "search", "go")
	res := mustCall(t, c, "search", "go")
	text, isError := textOf(t, res)
	require.True(t, isError)
	require.Contains(t, text, "a call that the tool made was refused: too many calls for now")
	require.NotContains(t, text, "secret api")
}

// On behalf of whom calls run comes from the session and from Behalf, and limits count by it, also for those who
// have no session.
func TestBehalf(t *testing.T) {
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, Refuse: true, Rates: []sluice.Rate{{N: 1, Per: time.Hour}}}))
	e, rec := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{rate}})
	s := newServer(e, Config{Behalf: func(ctx context.Context, pc sluice.PipelineContext) sluice.PipelineContext {
		pc.UserID, _ = ctx.Value(ctxKey{}).(string)
		pc.Tenant, pc.Priority = pc.SessionID, sluice.PriorityInteractive
		return pc
	}})
	s.AddTool(searchTool(), answers("3 hits"))
	tenants := map[string]bool{}
	for range 2 {
		c := newClient(t, s)
		res, err := c.CallTool(context.WithValue(t.Context(), ctxKey{}, "ada"), newRequest("search", "go"))
		require.NoError(t, err)
		require.False(t, res.IsError)
		require.True(t, mustCall(t, c, "search", "go").IsError)
		events := rec.Events()
		pc := events[len(events)-1].Call.Pipeline
		require.Equal(t, pc.SessionID, pc.Tenant)
		tenants[pc.Tenant] = true
		require.Equal(t, sluice.PriorityInteractive, events[0].Call.Priority)
		require.Equal(t, "ada", events[0].Call.Pipeline.UserID)
	}
	require.Len(t, tenants, 2)
	message := json.RawMessage(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"query":"go"}}}`)
	for _, refused := range []bool{false, true} {
		res := s.HandleMessage(t.Context(), message).(mcp.JSONRPCResponse).Result.(*mcp.CallToolResult)
		require.Equal(t, refused, res.IsError, "those without a session count together")
	}
}

// Without a Behalf a run that the server's context says is kept, but for the session that it does not know.
func TestSessionAlone(t *testing.T) {
	e, rec := newExecutor(t, sluice.Config{})
	s := newServer(e, Config{})
	session := ""
	s.AddTool(searchTool(), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		session = server.ClientSessionFromContext(ctx).SessionID()
		return mcp.NewToolResultText("3 hits"), nil
	})
	c := newClient(t, s)
	ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{RunID: "run-7", Tenant: "acme"})
	_, err := c.CallTool(ctx, newRequest("search", "go"))
	require.NoError(t, err)
	pc := rec.Events()[0].Call.Pipeline
	require.Equal(t, []string{"run-7", "acme", session}, []string{pc.RunID, pc.Tenant, pc.SessionID})
}

// Policies are asked by the registry's name, once; a wrong one is an error that names what is wrong, and is not
// for the model.
func TestPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newExecutor(t, sluice.Config{})
		var asked []string
		s := newServer(e, Config{Prefix: "web.", Policy: func(tool string) sluice.Policy {
			asked = append(asked, tool)
			if tool == "web.wrong" {
				return sluice.Policy{Concurrency: -1}
			}
			return sluice.Policy{Timeout: time.Second}
		}})
		s.AddTool(searchTool(), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		s.AddTool(mcp.NewTool("wrong"), answers("never"))
		c := newClient(t, s)
		began := time.Now()
		for range 2 {
			requireRefusal(t, mustCall(t, c, "search", "go"), "timeout", 0)
		}
		require.Equal(t, 2*time.Second, time.Since(began))
		_, err := c.CallTool(t.Context(), newRequest("wrong", ""))
		require.EqualError(t, err, "internal error: sluice: Policy.Concurrency is -1: must be zero or positive, up to 1099511627776")
		require.Equal(t, []string{"web.search", "web.wrong"}, asked)
		spec, ok := e.Registry().Lookup("web.search")
		require.True(t, ok)
		require.Equal(t, time.Second, spec.Policy.Timeout)
	})
}

// Text says what a model reads, of refusals alone.
func TestText(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	s := newServer(e, Config{Text: func(err error) string { return "sorry: " + sluice.CodeOf(err) }})
	s.AddTool(searchTool(), func(_ context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if r.GetString("query", "") == "panic" {
			panic("secret")
		}
		return mcp.NewToolResultError("backend says no"), nil
	})
	c := newClient(t, s)
	text, isError := textOf(t, mustCall(t, c, "search", "panic"))
	require.Equal(t, "sorry: panic", text)
	require.True(t, isError)
	text, isError = textOf(t, mustCall(t, c, "search", "go"))
	require.Equal(t, "backend says no", text)
	require.True(t, isError)
}

// A tool that is declared before its first call keeps its Type, Check and Policy.
func TestDeclaredBefore(t *testing.T) {
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
	s := newServer(e, Config{Policy: func(string) sluice.Policy { return sluice.Policy{Concurrency: 9} }})
	s.AddTool(searchTool(), answers("3 hits"))
	c := newClient(t, s)
	require.False(t, mustCall(t, c, "search", "go").IsError)
	requireRefusal(t, mustCall(t, c, "search", "forbidden"), "invalid_arguments", 0)
	spec, _ := e.Registry().Lookup("search")
	require.Equal(t, "web", spec.Type)
	require.Equal(t, "search the web", spec.Description)
	require.Equal(t, 3, spec.Policy.Concurrency)
}

// A name that has a function of its own in the registry is not the server's to run.
func TestRegisteredBefore(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	sluice.Must(sluice.Register(e.Registry(), sluice.Spec{Name: "search"}, func(context.Context, string) (string, error) { return "", nil }))
	s := newServer(e, Config{})
	s.AddTool(searchTool(), answers("3 hits"))
	_, err := newClient(t, s).CallTool(t.Context(), newRequest("search", "go"))
	require.EqualError(t, err, `internal error: sluice: tool "search" is registered with a function of its own: must be another name`)
}

// A Middleware without an executor refuses calls with an error that says so.
func TestNilExecutor(t *testing.T) {
	s := newServer(nil, Config{})
	s.AddTool(searchTool(), answers("3 hits"))
	_, err := newClient(t, s).CallTool(t.Context(), newRequest("search", "go"))
	require.EqualError(t, err, "internal error: sluice: the ToolRegistry is nil: use NewToolRegistry")
}

// A layer that stores results has them for later calls, as results of tools are.
func TestCachedResults(t *testing.T) {
	cache, err := resilience.NewCache(resilience.CacheConfig{TTL: time.Minute})
	require.NoError(t, err)
	e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{cache}})
	s := newServer(e, Config{})
	ran := 0
	s.AddTool(searchTool(mcp.WithReadOnlyHintAnnotation(true)), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		ran++
		return mcp.NewToolResultStructured(map[string]any{"hits": ran}, "hits"), nil
	})
	c := newClient(t, s)
	for range 3 {
		res := mustCall(t, c, "search", "go")
		require.Equal(t, map[string]any{"hits": float64(1)}, res.StructuredContent)
		text, isError := textOf(t, res)
		require.Equal(t, "hits", text)
		require.False(t, isError)
	}
	require.Equal(t, 1, ran)
}

// A request that its client cancels leaves the queue, or its tool, at once.
func TestCancelledRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, rec := newExecutor(t, sluice.Config{})
		s := newServer(e, Config{Policy: func(string) sluice.Policy { return sluice.Policy{Concurrency: 1} }})
		s.AddTool(searchTool(mcp.WithTaskSupport(mcp.TaskSupportOptional)), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		handle := func(message string) mcp.JSONRPCMessage { return s.HandleMessage(t.Context(), json.RawMessage(message)) }
		answers := make(chan mcp.JSONRPCMessage, 1)
		go func() { // runs
			answers <- handle(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"query":"go"}}}`)
		}()
		synctest.Wait()
		queued := make(chan mcp.JSONRPCMessage, 1)
		go func() {
			queued <- handle(`{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"search","arguments":{"query":"go"}}}`)
		}()
		synctest.Wait()
		require.Equal(t, 1, e.Snapshot().Queued)
		require.Nil(t, handle(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}`))
		require.Equal(t, "context canceled", (<-queued).(mcp.JSONRPCError).Error.Message)
		require.Equal(t, 0, e.Snapshot().Queued)
		require.Equal(t, 1, e.Snapshot().InFlight)
		require.Nil(t, handle(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}`))
		require.Equal(t, "context canceled", (<-answers).(mcp.JSONRPCError).Error.Message)
		events := rec.Events()
		require.Equal(t, "canceled", sluice.CodeOf(events[len(events)-1].Err))
	})
}

// TestAttemptsAtOnce: attempts of one call that run at once have contexts and results of their own.
func TestAttemptsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hedge, err := resilience.NewHedge(resilience.HedgeConfig{After: 5 * time.Millisecond, Tools: func(sluice.Spec) bool { return true }})
		require.NoError(t, err)
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{hedge}})
		s := newServer(e, Config{})
		s.AddTool(searchTool(), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			c, _ := sluice.CallFrom(ctx)
			time.Sleep(time.Duration(30-10*c.Attempt) * time.Millisecond) // the first until 20 ms, the second until 15
			return mcp.NewToolResultText(fmt.Sprint(c.Attempt)), nil
		})
		text, isError := textOf(t, mustCall(t, newClient(t, s), "search", "go"))
		require.False(t, isError)
		require.Equal(t, "2", text)
		time.Sleep(time.Second) // both have ended
	})
}

// TestAnswersKeepNothing: who keeps an answer does not keep its request, nor the context of that.
func TestAnswersKeepNothing(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	var kept *mcp.CallToolResult
	s := newServer(e, Config{}, server.WithToolHandlerMiddleware(func(next server.ToolHandlerFunc) server.ToolHandlerFunc {
		return func(ctx context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			res, err := next(ctx, r)
			kept = res
			return res, err
		}
	}))
	s.AddTool(searchTool(), answers("3 hits"))
	var freed atomic.Bool
	func() {
		value := new([64]byte)
		runtime.AddCleanup(value, func(int) { freed.Store(true) }, 0)
		ctx := context.WithValue(s.WithContext(t.Context(), server.NewInProcessSession("one", nil)), ctxKey{}, value)
		s.HandleMessage(ctx, json.RawMessage(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"query":"go"}}}`))
	}()
	require.Eventually(t, func() bool { runtime.GC(); return freed.Load() }, time.Minute, time.Millisecond)
	text, _ := textOf(t, kept)
	require.Equal(t, "3 hits", text)
}
