package mcpgo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
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
	"github.com/sluice-go/sluice/resilience"
)

// The tests of this file are named after the traps that adapters fell into.

// TestTrapPanicEndsTheProcess: unguarded, a panic ends the process of a server in it, and a Goexit is never
// answered. Guarded, the model learns that it happened, and neither value nor stack.
func TestTrapPanicEndsTheProcess(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Minute} {
		t.Run(timeout.String(), func(t *testing.T) {
			e, _ := newExecutor(t, sluice.Config{Timeout: timeout})
			s := newServer(e, Config{}, server.WithRecovery())
			s.AddTool(searchTool(), func(_ context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
				switch r.GetString("query", "") {
				case "panic":
					panic("secret sk-123")
				case "panic with nil":
					panic(nil)
				case "exit":
					runtime.Goexit()
				}
				return mcp.NewToolResultText("3 hits"), nil
			})
			c := newClient(t, s)
			for query, want := range map[string]string{
				"panic":          `{"type":"panic","message":"the tool failed","retryable":false}`,
				"panic with nil": `{"type":"panic","message":"the tool failed","retryable":false}`,
				"exit":           `{"type":"goexit","message":"the tool failed","retryable":false}`,
				"go":             "3 hits",
			} {
				text, isError := textOf(t, mustCall(t, c, "search", query))
				require.Equal(t, want, text)
				require.Equal(t, query != "go", isError)
			}
			require.Zero(t, e.Snapshot().InFlight)
		})
	}
}

// TestTrapFunctionsOfConfigPanic: functions of Config that panic or exit end no goroutine of the server.
func TestTrapFunctionsOfConfigPanic(t *testing.T) {
	for name, fail := range map[string]func(){"panic": func() { panic("secret") }, "goexit": runtime.Goexit} {
		e, _ := newExecutor(t, sluice.Config{MaxArgBytes: 20})
		for _, c := range []Config{
			{Behalf: func(context.Context, sluice.PipelineContext) (pc sluice.PipelineContext) { fail(); return pc }},
			{Prefix: "policy.", Policy: func(string) (p sluice.Policy) { fail(); return p }},
			{Prefix: "text.", Text: func(error) string { fail(); return "" }},
		} {
			s := newServer(e, c)
			s.AddTool(searchTool(), answers("3 hits"))
			res, err := newClient(t, s).CallTool(t.Context(), newRequest("search", strings.Repeat("x", 100)))
			switch {
			case c.Behalf != nil:
				require.NoError(t, err)
				requireRefusal(t, res, name, 0)
			case c.Policy != nil:
				require.ErrorContains(t, err, "policy.search")
				require.NotContains(t, err.Error(), "secret")
			default:
				require.NoError(t, err)
				requireRefusal(t, res, "invalid_arguments", 0)
			}
		}
	}
}

// TestTrapArgumentsInABox: arguments that reach Sluice in a box of the adapter's pass by MaxArgBytes, and cost
// functions cannot read them.
func TestTrapArgumentsInABox(t *testing.T) {
	var input any
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 5, Scope: sluice.ByKey("query", func(c sluice.Call) string {
		input = c.Input
		return "all"
	})}}}))
	e, rec := newExecutor(t, sluice.Config{MaxArgBytes: 100, Interceptors: []sluice.Interceptor{limits}})
	s := newServer(e, Config{})
	s.AddTool(searchTool(), answers("3 hits"))
	c := newClient(t, s)
	requireRefusal(t, mustCall(t, c, "search", strings.Repeat("x", 1000)), "invalid_arguments", 0)
	require.False(t, mustCall(t, c, "search", "go").IsError)
	require.Equal(t, json.RawMessage(`{"query":"go"}`), input)
	events := rec.Events()
	require.Equal(t, len(`{"query":"go"}`), events[2].InputBytes)
}

// TestTrapMadeUpName: a name that a model has made up is never registered, and adds no series to metrics.
func TestTrapMadeUpName(t *testing.T) {
	e, rec := newExecutor(t, sluice.Config{})
	s := newServer(e, Config{})
	s.AddTool(searchTool(), answers("3 hits"))
	c := newClient(t, s)
	for i := range 1000 {
		_, err := c.CallTool(t.Context(), newRequest(fmt.Sprint("search", i), "go"))
		require.ErrorContains(t, err, "not found")
	}
	for range e.Registry().Tools() {
		t.Fatal("a tool is registered")
	}
	require.Empty(t, rec.Events())
	h := Middleware(e, Config{})(answers("3 hits")) // without a server nobody knows which tools there are
	_, err := h(t.Context(), newRequest("made-up", "go"))
	require.ErrorIs(t, err, server.ErrToolNotFound)
	_, ok := e.Registry().Lookup("made-up")
	require.False(t, ok)
}

// TestTrapClassifyOfTheExecutor: what an adapter says of ends must not switch off what the executor's user says.
func TestTrapClassifyOfTheExecutor(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{Classify: func(sluice.Call, sluice.Result, error) sluice.Outcome { return sluice.OutcomeNeutral }})
	s := newServer(e, Config{Policy: func(string) sluice.Policy { return sluice.Policy{Breaker: &sluice.BreakerPolicy{Failures: 2}} }})
	s.AddTool(searchTool(), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) { panic("always") })
	c := newClient(t, s)
	for range 5 {
		requireRefusal(t, mustCall(t, c, "search", "go"), "panic", 0)
	}
}

// TestTrapMistakesOpenBreakers: a tool tells a model's mistakes by results that are errors. They are failures for
// events, and neutral for breakers, unless a Policy says otherwise, or the tool itself.
func TestTrapMistakesOpenBreakers(t *testing.T) {
	for _, tt := range []struct {
		reports sluice.Outcome
		err     error
		opens   bool
	}{{}, {reports: sluice.OutcomeFailure, opens: true}, {err: errors.New("down"), opens: true}, {err: neutral{errors.New("no such page")}}} {
		e, _ := newExecutor(t, sluice.Config{})
		s := newServer(e, Config{Policy: func(string) sluice.Policy { return sluice.Policy{Breaker: &sluice.BreakerPolicy{Failures: 2}} }})
		s.AddTool(searchTool(), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			sluice.ReportOutcome(ctx, tt.reports)
			return mcp.NewToolResultError("mistake"), tt.err
		})
		c := newClient(t, s)
		for range 2 {
			_, err := c.CallTool(t.Context(), newRequest("search", "go"))
			require.Equal(t, tt.err != nil, err != nil)
		}
		res, err := c.CallTool(t.Context(), newRequest("search", "go"))
		opens := false
		if err == nil {
			text, _ := textOf(t, res)
			opens = strings.Contains(text, `"type":"breaker_open"`)
		}
		require.Equal(t, tt.opens, opens, "%v", tt)
	}
	mistakes := 0
	for _, counts := range []string{"", "mistake", "other mistake"} { // what a Policy says is a failure
		e, rec := newExecutor(t, sluice.Config{})
		p := sluice.Policy{Breaker: &sluice.BreakerPolicy{Failures: 2}}
		if counts != "" {
			p.Classify = func(_ sluice.Call, _ sluice.Result, err error) sluice.Outcome {
				if f, ok := err.(*ResultError); ok && f.Error() == counts {
					mistakes++
					return sluice.OutcomeFailure
				}
				return sluice.OutcomeAuto
			}
		}
		s := newServer(e, Config{Policy: func(string) sluice.Policy { return p }})
		s.AddTool(searchTool(), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return mcp.NewToolResultError("mistake"), nil
		})
		c := newClient(t, s)
		for range 2 {
			text, isError := textOf(t, mustCall(t, c, "search", "go"))
			require.Equal(t, "mistake", text)
			require.True(t, isError)
		}
		res := mustCall(t, c, "search", "go")
		if text, _ := textOf(t, res); counts != "mistake" {
			require.Equal(t, "mistake", text)
		} else {
			require.Contains(t, text, `"type":"breaker_open"`)
		}
		event := rec.Events("search")[2]
		require.Equal(t, sluice.ToolFailed, event.Kind)
		require.Equal(t, "tool_error", sluice.CodeOf(event.Err))
		require.EqualError(t, event.Err, "mistake")
	}
	require.Equal(t, 2, mistakes)
}

// neutral is an error that says what it means.
type neutral struct{ error }

func (neutral) Outcome() sluice.Outcome { return sluice.OutcomeNeutral }

// TestTrapInterruptsAreFailures: a tool that asks the user for more has neither succeeded nor failed. Each round is
// a call of its own, and holds nothing while the user thinks.
func TestTrapInterruptsAreFailures(t *testing.T) {
	e, rec := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{sluice.Must(resilience.NewCache(resilience.CacheConfig{TTL: time.Hour}))}})
	s := newServer(e, Config{Policy: func(string) sluice.Policy {
		return sluice.Policy{Concurrency: 1, Breaker: &sluice.BreakerPolicy{Failures: 1}}
	}})
	s.AddTool(searchTool(mcp.WithReadOnlyHintAnnotation(true)), func(_ context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		if r.Params.RequestState == "" {
			return server.NewInputRequestBuilder("asked").Roots("roots").ToolResult(), nil
		}
		return mcp.NewToolResultText("3 hits"), nil
	})
	asks := mcp.URLElicitationRequiredError{}
	s.AddTool(mcp.NewTool("asks"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return nil, fmt.Errorf("sign in: %w", asks)
	})
	s.AddTool(mcp.NewTool("asks by pointer"), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) { return nil, &asks })

	ask := func(state string) *mcp.CallToolResult {
		m := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"query":"go"},%s"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"test","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}`, state)
		res, ok := s.HandleMessage(t.Context(), json.RawMessage(m)).(mcp.JSONRPCResponse)
		require.True(t, ok)
		return res.Result.(*mcp.CallToolResult)
	}
	for range 2 {
		require.True(t, ask("").NeedsInput(), "and it is not stored")
		require.Zero(t, e.Snapshot().InFlight)
	}
	text, isError := textOf(t, ask(`"requestState":"asked",`))
	require.Equal(t, "3 hits", text)
	require.False(t, isError)
	require.Equal(t, sluice.ToolCompleted, rec.Events("search")[2].Kind)

	c := newClient(t, s, "2025-11-25")
	for range 2 {
		for _, tool := range []string{"asks", "asks by pointer"} {
			_, err := c.CallTool(t.Context(), newRequest(tool, ""))
			require.ErrorAs(t, err, new(mcp.URLElicitationRequiredError))
		}
	}
}

// TestTrapIdsMeetAgain: two sessions number their requests alike, and nothing mixes up their calls.
func TestTrapIdsMeetAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, rec := newExecutor(t, sluice.Config{})
		s := newServer(e, Config{})
		s.AddTool(searchTool(), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			time.Sleep(time.Second)
			return mcp.NewToolResultText("3 hits"), nil
		})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				s.HandleMessage(t.Context(), json.RawMessage(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":{"query":"go"}}}`))
			})
		}
		wg.Wait()
		require.NoError(t, rec.Check())
		keys := map[sluice.CallKey]int{}
		for _, x := range rec.Events() {
			keys[x.CallKey]++
		}
		require.Len(t, keys, 2)
		require.Len(t, rec.Events(), 6)
	})
}

// TestTrapRequiredArgumentIsAbsent: {} must not run a tool with an argument that is required.
func TestTrapRequiredArgumentIsAbsent(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	s := newServer(e, Config{})
	s.AddTool(searchTool(), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) { panic("it ran") })
	s.AddTool(mcp.NewTool("free"), answers("ok"))
	c := newClient(t, s)
	for _, args := range []string{`{}`, `{"q":"go"}`, `null`, ``} {
		r := newRequest("search", "")
		r.Params.Arguments = json.RawMessage(args)
		if args == "" {
			r.Params.Arguments = nil
		}
		res, err := c.CallTool(t.Context(), r)
		require.NoError(t, err)
		text, _ := textOf(t, res)
		require.Contains(t, text, `\"query\"`)
		requireRefusal(t, res, "invalid_arguments", 0)

		r.Params.Name = "free"
		res, err = c.CallTool(t.Context(), r)
		require.NoError(t, err)
		text, _ = textOf(t, res)
		require.Equal(t, "ok", text, args)
	}
}

// TestTrapToolsChange: a tool that the server has replaced, and one that somebody has taken out of the registry, is
// declared again as it is, with the limits that it had.
func TestTrapToolsChange(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	asked := 0
	s := newServer(e, Config{Policy: func(string) sluice.Policy {
		asked++
		return sluice.Policy{Concurrency: asked}
	}})
	s.AddTool(searchTool(), answers("old"))
	c := newClient(t, s)
	for range 3 {
		mustCall(t, c, "search", "go")
	}
	require.Equal(t, 1, asked)
	s.AddTool(mcp.NewTool("search", mcp.WithDescription("search better"), mcp.WithString("q", mcp.Required())), answers("new"))
	requireRefusal(t, mustCall(t, c, "search", "go"), "invalid_arguments", 0)
	r := newRequest("search", "")
	r.Params.Arguments = map[string]any{"q": "go"}
	res, err := c.CallTool(t.Context(), r)
	require.NoError(t, err)
	text, _ := textOf(t, res)
	require.Equal(t, "new", text)
	spec, _ := e.Registry().Lookup("search")
	require.Equal(t, "search better", spec.Description)
	require.Equal(t, 1, spec.Policy.Concurrency)

	require.True(t, e.Registry().Remove("search"))
	res, err = c.CallTool(t.Context(), r)
	require.NoError(t, err)
	require.False(t, res.IsError)
	spec, _ = e.Registry().Lookup("search")
	require.Equal(t, "search better", spec.Description)
}

// TestTrapToolsVanish: a call whose tool is taken away while it is on its way runs as any other.
func TestTrapToolsVanish(t *testing.T) {
	e, rec := newExecutor(t, sluice.Config{})
	var s *server.MCPServer
	s = newServer(e, Config{}, server.WithToolHandlerMiddleware(func(next server.ToolHandlerFunc) server.ToolHandlerFunc {
		return func(ctx context.Context, r mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			if r.GetString("query", "") == "vanish" {
				s.DeleteTools("search")
			}
			r.Params.RawArguments, r.Params.Arguments = nil, map[string]any{"query": r.GetString("query", ""), "by": "middleware"}
			return next(ctx, r)
		}
	}))
	s.AddTool(searchTool(), answers("3 hits"))
	c := newClient(t, s)
	for _, query := range []string{"stay", "vanish"} {
		require.False(t, mustCall(t, c, "search", query).IsError)
	}
	require.Len(t, rec.Events("search"), 6)
	require.NotZero(t, rec.Events("search")[0].InputBytes, "arguments that a middleware has made are seen")
}

// TestTrapAlike: each thing that a tool says of itself counts when it changes.
func TestTrapAlike(t *testing.T) {
	base := mcp.NewTool("x", mcp.WithString("a", mcp.Required()), mcp.WithOutputSchema[struct{ Hits int }]())
	require.True(t, alike(&base, &base))
	same := base
	require.True(t, alike(&base, &same))
	yes := true
	for i, change := range []func(t *mcp.Tool){
		func(t *mcp.Tool) { t.Description = "x" },
		func(t *mcp.Tool) { t.Annotations.IdempotentHint = &yes },
		func(t *mcp.Tool) { t.RawInputSchema = json.RawMessage(`{}`) },
		func(t *mcp.Tool) { t.RawOutputSchema = json.RawMessage(`{}`) },
		func(t *mcp.Tool) { t.InputSchema.Required = []string{"b"} },
		func(t *mcp.Tool) { t.InputSchema.Properties = map[string]any{} },
		func(t *mcp.Tool) { t.InputSchema.Defs = map[string]any{} },
		func(t *mcp.Tool) { t.InputSchema.AdditionalProperties = false },
		func(t *mcp.Tool) { t.OutputSchema.Type = "array" },
	} {
		changed := base
		change(&changed)
		require.False(t, alike(&base, &changed), i)
	}
}

// TestTrapNames: names that the registry does not take are mapped, always in the same way; two that would meet are
// an error.
func TestTrapNames(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	s := newServer(e, Config{Prefix: "github."})
	s.AddTool(mcp.NewTool("first"), answers("first"))
	c := newClient(t, s)
	var names []string
	for name, registry := range map[string]string{
		"search":                 "github.search",
		"DuckDuckGo Search":      "github.DuckDuckGo_Search_HASH",
		"suche/über":             "github.suche___ber_HASH",
		strings.Repeat("x", 130): "github." + strings.Repeat("x", 55) + "_HASH",
		strings.Repeat("y", 121): "github." + strings.Repeat("y", 121),
	} {
		sum := sha256.Sum256([]byte(name))
		registry = strings.Replace(registry, "HASH", hex.EncodeToString(sum[:4]), 1)
		require.Equal(t, registry, registryName("github.", name))
		names = append(names, registry)
		s.AddTool(mcp.NewTool(name), answers(name))
		text, _ := textOf(t, mustCall(t, c, name, ""))
		require.Equal(t, name, text)
	}
	var there []string
	for spec := range e.Registry().Tools() {
		there = append(there, spec.Name)
	}
	require.ElementsMatch(t, names, there)

	meets := strings.TrimPrefix(registryName("github.", "DuckDuckGo Search"), "github.")
	s.AddTool(mcp.NewTool(meets), answers("never"))
	_, err := c.CallTool(t.Context(), newRequest(meets, ""))
	require.ErrorContains(t, err, `would be "github.`+meets+`" in the registry, as "DuckDuckGo Search" is: rename one`)
}

// TestTrapHints: nothing that a tool does not say is taken for a promise, and what means nothing is left out.
func TestTrapHints(t *testing.T) {
	yes, no := true, false
	for _, c := range []struct {
		a    mcp.ToolAnnotation
		want sluice.Hints
	}{
		{mcp.ToolAnnotation{}, sluice.Hints{Destructive: true, OpenWorld: true}},
		{mcp.NewTool("x").Annotations, sluice.Hints{Destructive: true, OpenWorld: true}},
		{mcp.NewTool("x", mcp.WithReadOnlyHintAnnotation(true)).Annotations, sluice.Hints{ReadOnly: true, OpenWorld: true}},
		{mcp.ToolAnnotation{DestructiveHint: &no, OpenWorldHint: &no}, sluice.Hints{}},
		{mcp.ToolAnnotation{IdempotentHint: &yes}, sluice.Hints{Idempotent: true, Destructive: true, OpenWorld: true}},
	} {
		var s sluice.Spec
		describe(&s, &mcp.Tool{Annotations: c.a})
		require.Equal(t, c.want, s.Hints)
	}
}

// TestTrapSchemas: a schema that Sluice does not take does not keep the tool from running.
func TestTrapSchemas(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	s := newServer(e, Config{})
	s.AddTool(mcp.NewToolWithRawSchema("search", "raw", json.RawMessage(`{"type":["object"],"required":["query"]}`)), answers("3 hits"))
	require.False(t, mustCall(t, newClient(t, s), "search", "go").IsError)
	spec, ok := e.Registry().Lookup("search")
	require.True(t, ok)
	require.Equal(t, "raw", spec.Description)
	require.Empty(t, spec.InputSchema)
}

// TestTrapSessionsDiffer: a tool that sessions have each in their own way is declared by its name alone: what one
// session requires must not refuse another's calls. Its limits are one tool's.
func TestTrapSessionsDiffer(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	s := newServer(e, Config{Policy: func(string) sluice.Policy {
		return sluice.Policy{Rates: []sluice.Rate{{N: 4, Per: time.Hour}}, MaxWait: sluice.NoWait}
	}})
	s.AddTool(searchTool(), answers("server"))
	call := func(session server.ClientSession, args string) *mcp.CallToolResult {
		m := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search","arguments":%s}}`, args)
		return s.HandleMessage(s.WithContext(t.Context(), session), json.RawMessage(m)).(mcp.JSONRPCResponse).Result.(*mcp.CallToolResult)
	}
	plain := server.NewInProcessSession("plain", nil)
	require.False(t, call(plain, `{"query":"go"}`).IsError)
	for _, arg := range []string{"a", "b"} {
		own := &sessionWithTools{ClientSession: plain, tools: map[string]server.ServerTool{
			"search": {Tool: mcp.NewTool("search", mcp.WithString(arg, mcp.Required())), Handler: answers(arg)},
		}}
		text, isError := textOf(t, call(own, fmt.Sprintf(`{%q:"go"}`, arg)))
		require.Equal(t, arg, text)
		require.False(t, isError)
	}
	require.False(t, call(plain, `{"query":"go"}`).IsError)
	spec, _ := e.Registry().Lookup("search")
	require.Empty(t, string(spec.InputSchema)+spec.Description)
	text, _ := textOf(t, call(plain, `{"query":"go"}`))
	require.Contains(t, text, `"type":"wait_too_long"`)
}

type sessionWithTools struct {
	server.ClientSession
	tools map[string]server.ServerTool
}

func (s *sessionWithTools) GetSessionTools() map[string]server.ServerTool  { return s.tools }
func (s *sessionWithTools) SetSessionTools(t map[string]server.ServerTool) { s.tools = t }

// TestTrapRegistryGrows: sessions that bring ever new tools do not fill the registry for good.
func TestTrapRegistryGrows(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	g := newGuard(e, Config{})
	require.Equal(t, 10_000, g.max)
	g.max = 100
	for i := range g.max + 10 {
		_, err := g.declare(fmt.Sprint("tool ", i), nil)
		require.NoError(t, err)
	}
	n := 0
	for range e.Registry().Tools() {
		n++
	}
	require.Equal(t, g.max, n)
	require.Len(t, g.tools, g.max)
	require.Len(t, g.names, g.max)
	require.Len(t, g.order, g.max)
	_, ok := e.Registry().Lookup(registryName("", "tool 9"))
	require.False(t, ok)
	_, ok = e.Registry().Lookup(registryName("", "tool 10"))
	require.True(t, ok)
}

// TestTrapSharedResults: calls that share an outcome share a result, and the server writes into what it is given.
func TestTrapSharedResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		join, err := resilience.NewJoin(resilience.JoinConfig{})
		require.NoError(t, err)
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{join}})
		s := newServer(e, Config{})
		ran := 0
		shared := mcp.NewToolResultText("3 hits")
		shared.Meta = mcp.NewMetaFromMap(map[string]any{"cost": 2})
		s.AddTool(searchTool(mcp.WithReadOnlyHintAnnotation(true)), func(context.Context, mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			ran++
			time.Sleep(time.Second)
			return shared, nil
		})
		c := newClient(t, s)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				res := mustCall(t, c, "search", "go")
				require.False(t, res.IsError)
				require.EqualValues(t, 2, res.Meta.AdditionalFields["cost"])
			})
		}
		wg.Wait()
		require.Equal(t, 1, ran)
		require.Len(t, shared.Meta.AdditionalFields, 1)
	})
}

// TestTrapTimeoutInTheToolsWords: a tool whose backend hangs often makes a result of its context's error, which
// names the limit. It is a timeout nevertheless: the model reads the guard's words, and breakers count it.
func TestTrapTimeoutInTheToolsWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 2}))
		e, _ := newExecutor(t, sluice.Config{Timeout: time.Second, Interceptors: []sluice.Interceptor{breaker}})
		s := newServer(e, Config{})
		s.AddTool(searchTool(), func(ctx context.Context, _ mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			<-ctx.Done()
			return mcp.NewToolResultErrorFromErr("get web.example", context.Cause(ctx)), nil
		})
		c := newClient(t, s)
		for range 2 {
			began := time.Now()
			text, isError := textOf(t, mustCall(t, c, "search", "go"))
			require.True(t, isError)
			require.Equal(t, `{"type":"timeout","message":"the tool did not finish in time","retryable":false}`, text)
			require.Equal(t, time.Second, time.Since(began))
		}
		requireRefusal(t, mustCall(t, c, "search", "go"), "breaker_open", 5*time.Second)
	})
}
