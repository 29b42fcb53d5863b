package sluicemcp

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

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// The tests of this file are named after the traps that adapters fell into.

// TestTrapPanicEndsTheProcess: unguarded, a panic ends the process, and a Goexit is never answered. Guarded, the
// model learns that it happened, and neither value nor stack.
func TestTrapPanicEndsTheProcess(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		for _, timeout := range []time.Duration{0, time.Minute} {
			e, _ := newExecutor(t, sluice.Config{Timeout: timeout})
			s := w.serve(t, e, Config{}, search(), func(ctx context.Context, _ *mcp.CallToolRequest, q Query) (*mcp.CallToolResult, any, error) {
				switch q.Query {
				case "panic":
					panic("secret sk-123")
				case "panic with nil":
					panic(nil)
				case "exit":
					runtime.Goexit()
				}
				return textResult("3 hits"), nil, nil
			})
			c := connect(t, s, nil)
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
		}
	})
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
			mcp.AddTool(s, search(), answers("3 hits"))
			res, err := connect(t, s, nil).CallTool(t.Context(), newParams("search", strings.Repeat("x", 100)))
			switch {
			case c.Behalf != nil:
				require.NoError(t, err)
				requireRefusal(t, res, name, 0)
			case c.Policy != nil:
				require.ErrorContains(t, err, "policy.search")
				require.NotContains(t, err.Error(), "secret")
				require.ErrorContains(t, AddTool(s, e, search(), c, answers("")), "policy.search")
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
	each(t, func(t *testing.T, w way) {
		var input any
		limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 5, Scope: sluice.ByKey("query", func(c sluice.Call) string {
			input = c.Input
			return "all"
		})}}}))
		e, rec := newExecutor(t, sluice.Config{MaxArgBytes: 100, Interceptors: []sluice.Interceptor{limits}})
		c := connect(t, w.serve(t, e, Config{}, search(), answers("3 hits")), nil)
		requireRefusal(t, mustCall(t, c, "search", strings.Repeat("x", 1000)), "invalid_arguments", 0)
		require.False(t, mustCall(t, c, "search", "go").IsError)
		require.Equal(t, json.RawMessage(`{"query":"go"}`), input)
		require.Equal(t, len(`{"query":"go"}`), rec.Events()[2].InputBytes)
	})
}

// TestTrapMadeUpName: a name that a model has made up is never registered, and adds no series to metrics. It does
// not go by the limits, either.
func TestTrapMadeUpName(t *testing.T) {
	e, rec := newExecutor(t, sluice.Config{})
	conf := Config{Policy: func(tool string) (p sluice.Policy) {
		if tool == "_OTHER" {
			p.Breaker, p.Rates, p.MaxWait = &sluice.BreakerPolicy{Failures: 1}, []sluice.Rate{{N: 100, Per: time.Hour}}, sluice.NoWait
		}
		return p
	}}
	s := newServer(e, conf)
	mcp.AddTool(s, search(), answers("3 hits"))
	c := connect(t, s, nil)
	for i := range 100 {
		_, err := c.CallTool(t.Context(), newParams(fmt.Sprint("search", i), "go"))
		require.ErrorContains(t, err, fmt.Sprintf(`unknown tool "search%d"`, i))
	}
	text, isError := textOf(t, mustCall(t, c, "more", "go"))
	require.True(t, isError)
	require.Contains(t, text, `"type":"wait_too_long"`)
	require.False(t, mustCall(t, c, "search", "go").IsError)
	var there []string
	for spec := range e.Registry().Tools() {
		there = append(there, spec.Name)
	}
	require.Equal(t, []string{"_OTHER", "search"}, there)
	for _, x := range rec.Events() {
		require.Contains(t, there, x.Call.Tool)
	}
}

// TestTrapClassifyOfTheExecutor: what an adapter says of ends must not switch off what the executor's user says.
func TestTrapClassifyOfTheExecutor(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		e, _ := newExecutor(t, sluice.Config{Classify: func(sluice.Call, sluice.Result, error) sluice.Outcome { return sluice.OutcomeNeutral }})
		s := w.serve(t, e, Config{Policy: func(string) sluice.Policy { return sluice.Policy{Breaker: &sluice.BreakerPolicy{Failures: 2}} }}, search(),
			func(context.Context, *mcp.CallToolRequest, Query) (*mcp.CallToolResult, any, error) { panic("always") })
		c := connect(t, s, nil)
		for range 5 {
			requireRefusal(t, mustCall(t, c, "search", "go"), "panic", 0)
		}
	})
}

// TestTrapMistakesOpenBreakers: a tool tells a model's mistakes by results that are errors, and the library so tells
// those that it finds by the schema. They are failures for events, and neutral for breakers, unless a Policy says
// otherwise, or the handler. An error of a handler is one, though the library makes a result of it.
func TestTrapMistakesOpenBreakers(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		for _, c := range []struct {
			query  any
			counts bool // a Policy says so
			opens  bool
		}{{"mistake", false, false}, {"mistake", true, true}, {"other mistake", true, false}, {"fails", false, true}, {"fails quietly", false, false},
			{"reported", false, true}, {"reported", true, true}, {1, false, false}} {
			e, rec := newExecutor(t, sluice.Config{})
			p := sluice.Policy{Breaker: &sluice.BreakerPolicy{Failures: 2}}
			if c.counts {
				p.Classify = func(_ sluice.Call, _ sluice.Result, err error) sluice.Outcome {
					if f, ok := errors.AsType[*ResultError](err); ok && f.Error() == "mistake" {
						return sluice.OutcomeFailure
					}
					return sluice.OutcomeAuto
				}
			}
			s := w.serve(t, e, Config{Policy: func(string) sluice.Policy { return p }}, search(), func(ctx context.Context, _ *mcp.CallToolRequest, q Query) (*mcp.CallToolResult, any, error) {
				switch q.Query {
				case "fails":
					return nil, nil, errors.New("fails")
				case "fails quietly":
					return nil, nil, neutral{errors.New("fails")}
				case "reported":
					sluice.ReportOutcome(ctx, sluice.OutcomeFailure)
				}
				res := textResult(q.Query)
				res.IsError = true
				return res, nil, nil
			})
			session := connect(t, s, nil)
			var text string
			for i := range 3 {
				res, err := session.CallTool(t.Context(), &mcp.CallToolParams{Name: "search", Arguments: map[string]any{"query": c.query}})
				require.NoError(t, err)
				var isError bool
				text, isError = textOf(t, res)
				require.True(t, isError)
				if i < 2 {
					require.NotContains(t, text, "breaker_open")
				}
			}
			require.Equal(t, c.opens, strings.Contains(text, `"type":"breaker_open"`), text)
			if c.query == "mistake" {
				event := rec.Events("search")[2]
				require.Equal(t, sluice.ToolFailed, event.Kind)
				require.Equal(t, "tool_error", sluice.CodeOf(event.Err))
				require.EqualError(t, event.Err, "mistake")
			}
		}
	})
}

// neutral is an error that says what it means.
type neutral struct{ error }

func (neutral) Outcome() sluice.Outcome { return sluice.OutcomeNeutral }

// TestTrapInterruptsAreFailures: a tool that asks the user for more has neither succeeded nor failed. Each round is
// a call of its own, and holds nothing while the user thinks; only that a Server does, for clients of older protocols.
func TestTrapInterruptsAreFailures(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		for _, newest := range []bool{true, false} {
			e, rec := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{sluice.Must(resilience.NewCache(resilience.CacheConfig{TTL: time.Hour}))}})
			s := w.serve(t, e, Config{Policy: func(string) sluice.Policy {
				return sluice.Policy{Concurrency: 1, Breaker: &sluice.BreakerPolicy{Failures: 1}}
			}}, readOnly(), func(_ context.Context, r *mcp.CallToolRequest, q Query) (*mcp.CallToolResult, any, error) {
				if q.Query == "sign in" {
					return nil, nil, mcp.URLElicitationRequiredError([]*mcp.ElicitParams{{Mode: "url", Message: "sign in", URL: "https://example.org", ElicitationID: "1"}}).(*jsonrpc.Error)
				}
				if r.Params.RequestState == "" {
					return &mcp.CallToolResult{InputRequests: mcp.InputRequestMap{"roots": &mcp.ListRootsParams{}}, RequestState: "asked"}, nil, nil
				}
				return textResult("3 hits"), nil, nil
			})
			held := 0
			client := mcp.NewClient(tester, nil)
			client.AddRoots(&mcp.Root{URI: "file:///"})
			client.AddReceivingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
				return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
					if method == "roots/list" {
						held = e.Snapshot().InFlight
					}
					return next(ctx, method, req)
				}
			})
			if !newest {
				client.AddSendingMiddleware(older)
			}
			c := connect(t, s, client)
			for range 2 {
				text, isError := textOf(t, mustCall(t, c, "search", "go"))
				require.Equal(t, "3 hits", text)
				require.False(t, isError)
				if newest || w.name == "AddTool" {
					require.Zero(t, held)
				} else {
					require.Equal(t, 1, held)
				}
			}
			for _, x := range rec.Events("search") {
				require.NoError(t, x.Err)
			}
			for range 2 {
				_, err := c.CallTool(t.Context(), newParams("search", "sign in"))
				wire, ok := errors.AsType[*jsonrpc.Error](err)
				require.True(t, ok, err)
				require.EqualValues(t, mcp.CodeURLElicitationRequired, wire.Code)
			}
		}
	})
}

// older has a client speak protocol 2025-11-25.
func older(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
		if method == "server/discover" {
			return nil, &jsonrpc.Error{Code: jsonrpc.CodeMethodNotFound, Message: "not here"}
		}
		return next(ctx, method, req)
	}
}

// TestTrapIdsMeetAgain: two sessions number their requests alike, and nothing mixes up their calls.
func TestTrapIdsMeetAgain(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		e, rec := newExecutor(t, sluice.Config{})
		s := w.serve(t, e, Config{}, search(), func(context.Context, *mcp.CallToolRequest, Query) (*mcp.CallToolResult, any, error) {
			time.Sleep(time.Second)
			return textResult("3 hits"), nil, nil
		})
		var wg sync.WaitGroup
		for range 2 {
			c := connect(t, s, nil)
			wg.Go(func() { mustCall(t, c, "search", "go") })
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

// TestTrapRequiredArgumentIsAbsent: {} must not run a tool with an argument that is required, nor take anything of
// a limit. AddTool takes nothing for any mistake that a schema finds.
func TestTrapRequiredArgumentIsAbsent(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Refuse: true, Rates: []sluice.Rate{{N: 1, Per: time.Hour}}}))
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{rate}})
		c := connect(t, w.serve(t, e, Config{}, search(), answers("3 hits")), nil)
		all := []string{`{}`, `{"q":"go"}`, `null`, ``}
		if w.name == "AddTool" {
			all = append(all, `{"query":7}`)
		}
		for _, args := range all {
			p := &mcp.CallToolParams{Name: "search", Arguments: json.RawMessage(args)}
			if args == "" {
				p.Arguments = nil
			}
			res, err := c.CallTool(t.Context(), p)
			require.NoError(t, err)
			text, isError := textOf(t, res)
			require.True(t, isError)
			require.NotEqual(t, "3 hits", text)
		}
		require.False(t, mustCall(t, c, "search", "go").IsError)
	})
}

// TestTrapToolsChange: a tool that the server has replaced, and one that somebody has taken out of the registry, is
// declared again as it is, with the limits that it had. Nobody has listed the tools for that.
func TestTrapToolsChange(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	s := newServer(e, Config{Policy: func(string) sluice.Policy { return sluice.Policy{Concurrency: 3} }})
	mcp.AddTool(s, search(), answers("old"))
	c := connect(t, s, nil)
	for range 3 {
		mustCall(t, c, "search", "go")
	}
	tool := search()
	tool.Description, tool.InputSchema = "search better", json.RawMessage(`{"type":"object","required":["q"]}`)
	ran := 0
	s.AddTool(tool, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		ran++
		return textResult("new"), nil
	})
	better := &mcp.CallToolParams{Name: "search", Arguments: map[string]any{"q": "go"}}
	for i := range 2 {
		res, err := c.CallTool(t.Context(), better)
		require.NoError(t, err)
		text, _ := textOf(t, res)
		require.Equal(t, "new", text)
		require.Equal(t, i+1, ran)
	}
	requireRefusal(t, mustCall(t, c, "search", "go"), "invalid_arguments", 0)
	spec, _ := e.Registry().Lookup("search")
	require.Equal(t, "search better", spec.Description)
	require.Equal(t, 3, spec.Policy.Concurrency)

	require.True(t, e.Registry().Remove("search"))
	res, err := c.CallTool(t.Context(), better)
	require.NoError(t, err)
	require.False(t, res.IsError)
	spec, _ = e.Registry().Lookup("search")
	require.Equal(t, "search better", spec.Description)

	s.RemoveTools("search")
	_, err = c.CallTool(t.Context(), better)
	require.ErrorContains(t, err, `unknown tool "search"`)
	mcp.AddTool(s, &mcp.Tool{Name: "later"}, answers("later"))
	require.False(t, mustCall(t, c, "later", "go").IsError)
	_, ok := e.Registry().Lookup("later")
	require.True(t, ok)
}

// TestTrapToolRunsTwice: a call is made again when its tool has left the registry or changed, and only if it has not
// run: what a call that the tool made was refused for says nothing of that.
func TestTrapToolRunsTwice(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		e, _ := newExecutor(t, sluice.Config{})
		sluice.Must(sluice.Register(e.Registry(), sluice.Spec{Name: "inner"}, func(context.Context, Query) (string, error) { return "", nil }))
		ran := 0
		c := connect(t, w.serve(t, e, Config{}, search(), func(ctx context.Context, _ *mcp.CallToolRequest, q Query) (*mcp.CallToolResult, any, error) {
			ran++
			_, err := e.Invoke(ctx, sluice.Request{Tool: q.Query, Args: json.RawMessage(`{"no":1}`)})
			return nil, nil, err
		}), nil)
		for i, tool := range []string{"not there", "inner"} {
			requireRefusal(t, mustCall(t, c, "search", tool), "tool_error", 0)
			require.Equal(t, i+1, ran)
		}
	})
}

// TestTrapRefusalsHaveOutput: the library fills in the structured content of a typed tool's results, also of errors.
// A refusal has none: it would be a made-up answer.
func TestTrapRefusalsHaveOutput(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	s := mcp.NewServer(demo, nil)
	conf := Config{Policy: func(string) sluice.Policy {
		return sluice.Policy{Rates: []sluice.Rate{{N: 2, Per: time.Hour}}, MaxWait: sluice.NoWait}
	}}
	require.NoError(t, AddTool(s, e, search(), conf, func(_ context.Context, _ *mcp.CallToolRequest, q Query) (*mcp.CallToolResult, Hits, error) {
		if q.Query == "panic" {
			panic("secret")
		}
		return nil, Hits{3}, nil
	}))
	c := connect(t, s, nil)
	require.Equal(t, map[string]any{"hits": float64(3)}, mustCall(t, c, "search", "go").StructuredContent)
	requireRefusal(t, mustCall(t, c, "search", "panic"), "panic", 0)
	res := mustCall(t, c, "search", "go")
	text, isError := textOf(t, res)
	require.True(t, isError)
	require.Contains(t, text, `"type":"wait_too_long"`)
	require.Nil(t, res.StructuredContent)
}

// TestTrapAdmittedTwice: a tool of AddTool on a server that has Server, too, would wait for its own slot.
func TestTrapAdmittedTwice(t *testing.T) {
	conf := Config{Policy: func(string) sluice.Policy { return sluice.Policy{Concurrency: 1} }}
	for _, same := range []bool{true, false} {
		e, rec := newExecutor(t, sluice.Config{})
		outer, outerRec := e, rec
		if !same {
			outer, outerRec = newExecutor(t, sluice.Config{})
		}
		s := newServer(outer, conf)
		require.NoError(t, AddTool(s, e, search(), conf, answers("3 hits")))
		text, isError := textOf(t, mustCall(t, connect(t, s, nil), "search", "go"))
		require.Equal(t, "3 hits", text)
		require.False(t, isError)
		require.Len(t, rec.Events(), 3)
		require.Len(t, outerRec.Events(), 3)
	}
}

// TestTrapNames: names that the registry does not take are mapped, always in the same way; two that would meet are
// an error.
func TestTrapNames(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	s := newServer(e, Config{Prefix: "github."})
	c := connect(t, s, nil)
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
		mcp.AddTool(s, &mcp.Tool{Name: name}, answers(name))
		text, _ := textOf(t, mustCall(t, c, name, ""))
		require.Equal(t, name, text)
	}
	var there []string
	for spec := range e.Registry().Tools() {
		there = append(there, spec.Name)
	}
	require.ElementsMatch(t, names, there)

	meets := strings.TrimPrefix(registryName("github.", "DuckDuckGo Search"), "github.")
	mcp.AddTool(s, &mcp.Tool{Name: meets}, answers("never"))
	_, err := c.CallTool(t.Context(), newParams(meets, ""))
	require.ErrorContains(t, err, `would be "github.`+meets+`" in the registry, as "DuckDuckGo Search" is: rename one`)
}

// TestTrapHints: nothing that a tool does not say is taken for a promise, and what means nothing is left out.
func TestTrapHints(t *testing.T) {
	no := false
	for _, c := range []struct {
		a    *mcp.ToolAnnotations
		want sluice.Hints
	}{
		{nil, sluice.Hints{Destructive: true, OpenWorld: true}},
		{&mcp.ToolAnnotations{}, sluice.Hints{Destructive: true, OpenWorld: true}},
		{&mcp.ToolAnnotations{ReadOnlyHint: true}, sluice.Hints{ReadOnly: true, OpenWorld: true}},
		{&mcp.ToolAnnotations{DestructiveHint: &no, OpenWorldHint: &no}, sluice.Hints{}},
		{&mcp.ToolAnnotations{IdempotentHint: true}, sluice.Hints{Idempotent: true, Destructive: true, OpenWorld: true}},
	} {
		require.Equal(t, c.want, describe("", &mcp.Tool{Name: "x", Annotations: c.a}).Hints)
	}
}

// unwritable is a schema that panics.
type unwritable struct{}

func (unwritable) MarshalJSON() ([]byte, error) { panic("secret") }

// TestTrapSchemas: a schema that Sluice does not take does not keep the tool from running.
func TestTrapSchemas(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	s := newServer(e, Config{})
	tool := search()
	tool.InputSchema = json.RawMessage(`{"type":"object"}`)
	tool.OutputSchema = json.RawMessage(`{"type":"array"}`) // the protocol takes it
	s.AddTool(tool, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
		return textResult("3 hits"), nil
	})
	require.False(t, mustCall(t, connect(t, s, nil), "search", "go").IsError)
	spec, ok := e.Registry().Lookup("search")
	require.True(t, ok)
	require.Equal(t, "search the web", spec.Description)
	for _, none := range []any{nil, json.RawMessage(nil), unwritable{}, func() {}} {
		require.Nil(t, describe("", &mcp.Tool{Name: "x", InputSchema: none}).InputSchema)
	}
}

// TestTrapSessionsDiffer: what one session's list says is required must not refuse another's calls.
func TestTrapSessionsDiffer(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	middleware := Server(e, Config{})
	var sessions []*mcp.ClientSession
	for _, arg := range []string{"a", "b"} { // a middleware for two servers
		s := mcp.NewServer(demo, nil)
		s.AddReceivingMiddleware(middleware)
		tool := search()
		tool.InputSchema = json.RawMessage(fmt.Sprintf(`{"type":"object","required":[%q]}`, arg))
		s.AddTool(tool, func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) { return textResult(arg), nil })
		sessions = append(sessions, connect(t, s, nil))
	}
	for range 3 {
		for i, arg := range []string{"a", "b"} {
			res, err := sessions[i].CallTool(t.Context(), &mcp.CallToolParams{Name: "search", Arguments: map[string]any{arg: 1}})
			require.NoError(t, err)
			text, _ := textOf(t, res)
			require.Equal(t, arg, text)
		}
	}
}

// TestTrapRegistryGrows: servers that list ever new tools do not fill the registry, or the guard, for good.
func TestTrapRegistryGrows(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	g := newGuard(e, Config{})
	require.Equal(t, 10_000, g.max)
	g.max = 100
	for i := range g.max + 10 {
		name := fmt.Sprint("tool ", i)
		g.note([]*mcp.Tool{{Name: name}, nil})
		require.NoError(t, g.declare(name, g.known(name)))
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
	asked := 0
	endless := func(context.Context, *call, string) (*mcp.ListToolsResult, error) {
		asked++
		return &mcp.ListToolsResult{NextCursor: "more"}, nil
	}
	require.NoError(t, g.list(t.Context(), &call{list: endless}))
	require.Equal(t, 1_000, asked)
}

// TestTrapSharedResults: calls that share an outcome share a result, and the library writes into what it is given.
func TestTrapSharedResults(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		join, err := resilience.NewJoin(resilience.JoinConfig{})
		require.NoError(t, err)
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{join}})
		ran := 0
		shared := textResult("3 hits")
		shared.Meta = mcp.Meta{"cost": 2}
		s := w.serve(t, e, Config{}, readOnly(), func(context.Context, *mcp.CallToolRequest, Query) (*mcp.CallToolResult, any, error) {
			ran++
			time.Sleep(time.Second)
			return shared, nil, nil
		})
		c := connect(t, s, nil)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				res := mustCall(t, c, "search", "go")
				require.False(t, res.IsError)
				require.EqualValues(t, 2, res.Meta["cost"])
			})
		}
		wg.Wait()
		require.Equal(t, 1, ran)
		require.Len(t, shared.Meta, 1)
	})
}

// TestTrapPools: the library has no pool of its own, so calls wait in one place, and calls of a tool without a limit
// do not wait behind those of one that has.
func TestTrapPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newExecutor(t, sluice.Config{})
		s := newServer(e, Config{Policy: func(tool string) (p sluice.Policy) {
			if tool == "search" {
				p.Concurrency = 1
			}
			return p
		}})
		mcp.AddTool(s, search(), func(ctx context.Context, _ *mcp.CallToolRequest, _ Query) (*mcp.CallToolResult, any, error) {
			time.Sleep(time.Second)
			return textResult("3 hits"), nil, nil
		})
		mcp.AddTool(s, &mcp.Tool{Name: "fast"}, answers("fast"))
		c := connect(t, s, nil)
		var wg sync.WaitGroup
		for range 300 {
			wg.Go(func() { mustCall(t, c, "search", "go") })
		}
		synctest.Wait()
		require.Equal(t, 299, e.Snapshot().Queued)
		began := time.Now()
		require.False(t, mustCall(t, c, "fast", "go").IsError)
		require.Zero(t, time.Since(began))
		wg.Wait()
		require.Equal(t, 300*time.Second, time.Since(began))
	})
}
