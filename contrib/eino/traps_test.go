package sluiceeino

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudwego/eino/components/tool"
	"github.com/cloudwego/eino/compose"
	"github.com/cloudwego/eino/schema"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// The tests of this file are named after the traps that adapters fell into.

// TestTrapPanicEndsTheProcess: unguarded, a panic of the first call ends the process, and a Goexit the run's
// goroutine; of another call it ends the run, with the value in its error. Guarded, the model learns that it
// happened, and neither value nor stack.
func TestTrapPanicEndsTheProcess(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Minute} {
		t.Run(timeout.String(), func(t *testing.T) {
			e, _ := newExecutor(t, sluice.Config{Timeout: timeout})
			n := newNode(t, e, Config{}, fourKinds(t, func(_ context.Context, in query) string {
				switch in.Query {
				case "panic":
					panic("secret sk-123")
				case "exit":
					runtime.Goexit()
				}
				return "3 hits"
			})...)
			for _, name := range []string{"invokable", "streamable", "enhanced", "enhanced_streamable"} {
				out, err := n.Invoke(t.Context(), calls(name, "panic", "exit", "go"))
				require.NoError(t, err)
				require.Equal(t, `{"type":"panic","message":"the tool failed","retryable":false}`, text(out[0]))
				require.Equal(t, `{"type":"goexit","message":"the tool failed","retryable":false}`, text(out[1]))
				require.Equal(t, "3 hits", text(out[2]))
			}
			require.Zero(t, e.Snapshot().InFlight)
		})
	}
}

// TestTrapLockedThread: a tool that leaves its goroutine locked to its thread, which is forbidden, does not end the
// process, even if the run's own goroutine is locked, as in a callback from C.
func TestTrapLockedThread(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	n := newNode(t, e, Config{}, invokable(t, "enter", func(context.Context, query) (string, error) {
		runtime.LockOSThread()
		return "entered", nil
	}))
	require.Equal(t, "entered", invoke(t, n, "enter", "net"))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	require.Equal(t, "entered", invoke(t, n, "enter", "net"))
}

// TestTrapInterceptorExits: code that the executor runs around a tool may exit, too.
func TestTrapInterceptorExits(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			runtime.Goexit()
			return next(ctx, c)
		}
	})}})
	n := newNode(t, e, Config{}, invokable(t, "search", func(context.Context, query) (string, error) { return "3 hits", nil }))
	requireRefusal(t, invoke(t, n, "search", "go"), "goexit")
}

// TestTrapFunctionsOfConfigPanic: functions of Config that panic or exit end no goroutine of the run. A Policy that
// does is an error, since no model can do anything about it.
func TestTrapFunctionsOfConfigPanic(t *testing.T) {
	for name, fail := range map[string]func(){"panic": func() { panic("secret") }, "goexit": runtime.Goexit} {
		e, _ := newExecutor(t, sluice.Config{MaxArgBytes: 20})
		x := invokable(t, "search", func(context.Context, query) (string, error) { return "3 hits", nil })
		behalf := Config{Behalf: func(context.Context, sluice.PipelineContext) (pc sluice.PipelineContext) { fail(); return pc }}
		policy := Config{Prefix: "policy.", Policy: func(string) (p sluice.Policy) { fail(); return p }}
		wording := Config{Prefix: "text.", Text: func(error) string { fail(); return "" }}
		requireRefusal(t, invoke(t, newNode(t, e, behalf, x), "search", "go"), name)
		requireRefusal(t, invoke(t, newNode(t, e, wording, x), "search", strings.Repeat("x", 100)), "invalid_arguments")
		_, err := newNode(t, e, policy, x).Invoke(t.Context(), calls("search", "go"))
		require.ErrorContains(t, err, "policy.search")
		require.NotContains(t, err.Error(), "secret")
		require.Error(t, Declare(t.Context(), e, policy, x))
	}
}

// TestTrapRefusalEndsTheRun: an error of a call ends the node, and what its siblings have answered is lost. So a
// refusal is an answer. A tool's own error still ends the node, as its author has said.
func TestTrapRefusalEndsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := newExecutor(t, sluice.Config{Interceptors: limit(2), MaxWait: sluice.NoWait})
		n := newNode(t, e, Config{}, invokable(t, "search", func(_ context.Context, in query) (string, error) {
			time.Sleep(time.Second)
			if in.Query == "fail" {
				return "", fmt.Errorf("search: %w", errDown)
			}
			return "3 hits", nil
		}))
		out, err := n.Invoke(t.Context(), calls("search", "a", "b", "c", "d", "e"))
		require.NoError(t, err)
		hits := 0
		for i, m := range out {
			require.Equal(t, fmt.Sprint("call_", i), m.ToolCallID)
			if m.Content == "3 hits" {
				hits++
			} else {
				requireRefusal(t, m.Content, "wait_too_long")
			}
		}
		require.Equal(t, 2, hits)
		_, err = n.Invoke(t.Context(), calls("search", "fail", "b"))
		require.ErrorIs(t, err, errDown)
		require.NotContains(t, err.Error(), "sluice")
	})
}

// TestTrapRefusalOfANestedCall: a tool that returns the refusal of a call that it has made itself does not end the
// run either.
func TestTrapRefusalOfANestedCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := busy(t)
		inner, err := sluice.Wrap(e, sluice.Spec{Name: "inner"}, func(context.Context, query) (string, error) { return "", nil })
		require.NoError(t, err)
		n := newNode(t, e, Config{}, invokable(t, "search", func(ctx context.Context, in query) (string, error) { return inner(ctx, in) }))
		got := invoke(t, n, "search", "go")
		requireRefusal(t, got, "tool_error")
		require.Contains(t, got, "too many calls for now")
	})
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
	n := newNode(t, e, Config{}, invokable(t, "search", func(context.Context, query) (string, error) { return "3 hits", nil }))
	requireRefusal(t, invoke(t, n, "search", strings.Repeat("x", 1000)), "invalid_arguments")
	require.Equal(t, "3 hits", invoke(t, n, "search", "go"))
	require.Equal(t, json.RawMessage(`{"query":"go"}`), input)
	events := rec.Events("search")
	require.Equal(t, len(`{"query":"go"}`), events[2].InputBytes)
	require.Positive(t, events[4].OutputBytes)
}

// TestTrapMadeUpName: a name that a model has made up does not reach the middleware: eino says so itself, or asks
// its UnknownToolsHandler. It is registered nowhere.
func TestTrapMadeUpName(t *testing.T) {
	e, rec := newExecutor(t, sluice.Config{})
	x := invokable(t, "search", func(context.Context, query) (string, error) { return "3 hits", nil })
	_, err := newNode(t, e, Config{}, x).Invoke(t.Context(), calls("made_up", "go"))
	require.ErrorContains(t, err, "not found")
	n, err := compose.NewToolNode(t.Context(), &compose.ToolsNodeConfig{
		Tools:               []tool.BaseTool{x},
		UnknownToolsHandler: func(_ context.Context, name, _ string) (string, error) { return "no tool " + name, nil },
		ToolCallMiddlewares: []compose.ToolMiddleware{Middleware(e, Config{})},
	})
	require.NoError(t, err)
	for i := range 100 {
		name := fmt.Sprint("made_up", i)
		require.Equal(t, "no tool "+name, invoke(t, n, name, "go"))
	}
	require.Empty(t, slices.Collect(e.Registry().Tools()))
	require.Empty(t, rec.Events())
}

// TestTrapRequiredArgument: eino runs a tool whose argument is required without it. A tool that Declare has told of
// is not, and a call without it costs nothing.
func TestTrapRequiredArgument(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := busy(t)
		x := invokable(t, "search", func(_ context.Context, in query) (string, error) { return "ran with " + in.Query, nil })
		require.NoError(t, Declare(t.Context(), e, Config{}, x))
		spec, ok := e.Registry().Lookup("search")
		require.True(t, ok)
		require.Equal(t, "search the web", spec.Description)
		n := newNode(t, e, Config{}, x)
		for _, args := range []string{`{}`, ``, `{"query":`, `[]`} {
			out, err := n.Invoke(t.Context(), schema.AssistantMessage("", []schema.ToolCall{callOf("call_0", "search", args)}))
			require.NoError(t, err)
			requireRefusal(t, out[0].Content, "invalid_arguments")
		}
		require.Equal(t, "ran with go", invoke(t, n, "search", "go"))
		spec, ok = e.Registry().Lookup("search")
		require.True(t, ok)
		require.NotEmpty(t, spec.InputSchema, "a call changes nothing")
	})
}

// TestTrapDeclaredBefore: what somebody has said of a tool stays, and Declare adds what the tool says of itself.
func TestTrapDeclaredBefore(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	x := invokable(t, "search", func(context.Context, query) (string, error) { return "3 hits", nil })
	require.NoError(t, sluice.Declare(e.Registry(), sluice.Spec{
		Name: "search", Type: "web", Hints: sluice.Hints{ReadOnly: true}, Policy: sluice.Policy{Concurrency: 7},
		Check: func(_ context.Context, c sluice.Call) error {
			if args, _ := c.JSON(); strings.Contains(string(args), "rust") {
				return errors.New("not that")
			}
			return nil
		},
	}))
	c := Config{Policy: func(string) sluice.Policy { return sluice.Policy{Concurrency: 1} }}
	for range 2 {
		n := newNode(t, e, c, x)
		require.Equal(t, "3 hits", invoke(t, n, "search", "go"))
		require.Contains(t, invoke(t, n, "search", "rust"), "not that")
		spec, _ := e.Registry().Lookup("search")
		require.Equal(t, "web", spec.Type)
		require.Equal(t, sluice.Hints{ReadOnly: true}, spec.Hints)
		require.Equal(t, 7, spec.Policy.Concurrency)
		require.NoError(t, Declare(t.Context(), e, c, x))
		spec, _ = e.Registry().Lookup("search")
		require.Equal(t, "search the web", spec.Description)
	}
}

// TestTrapClassifyOfTheExecutor: what an adapter says of ends must not switch off what the executor's user says, nor
// what a Policy says.
func TestTrapClassifyOfTheExecutor(t *testing.T) {
	neutral := func(sluice.Call, sluice.Result, error) sluice.Outcome { return sluice.OutcomeNeutral }
	for name, c := range map[string]struct {
		executor, policy func(sluice.Call, sluice.Result, error) sluice.Outcome
	}{
		"executor": {executor: neutral}, "policy": {policy: neutral},
	} {
		t.Run(name, func(t *testing.T) {
			e, _ := newExecutor(t, sluice.Config{Classify: c.executor})
			n := newNode(t, e, Config{Policy: func(string) sluice.Policy {
				return sluice.Policy{Breaker: &sluice.BreakerPolicy{Failures: 2}, Classify: c.policy}
			}}, invokable(t, "search", func(context.Context, query) (string, error) { panic("always") }))
			for range 5 {
				requireRefusal(t, invoke(t, n, "search", "go"), "panic")
			}
		})
	}
}

// failures are what is tried again in these tests.
func failures(_ sluice.Spec, a sluice.Attempt, _ sluice.Result, err error) bool {
	return a.Outcome == sluice.OutcomeFailure && err.Error() != errDown.Error()
}

// TestTrapInterruptsAreFailures: an interrupt is neither success nor failure, and nothing tries it again. It reaches
// eino as it is, and events without the state that it carries.
func TestTrapInterruptsAreFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{If: failures}))
		e, rec := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{retry}})
		kinds := map[string]func(ctx context.Context) error{
			"plain":    func(ctx context.Context) error { return tool.Interrupt(ctx, "may I? secret") },
			"stateful": func(ctx context.Context) error { return tool.StatefulInterrupt(ctx, "may I?", "secret") },
			"wrapped":  func(ctx context.Context) error { return fmt.Errorf("wrapped: %w", tool.Interrupt(ctx, "may I?")) },
			"old":      func(ctx context.Context) error { return compose.InterruptAndRerun },
		}
		policy := Config{Policy: func(string) sluice.Policy { return sluice.Policy{Breaker: &sluice.BreakerPolicy{Failures: 1}} }}
		ask := func(ctx context.Context, in query) error {
			if in.Query == "down" {
				return errDown
			}
			return kinds[in.Query](ctx)
		}
		n := newNode(t, e, policy,
			invokable(t, "search", func(ctx context.Context, in query) (string, error) { return "", ask(ctx, in) }),
			streamable(t, "stream", func(ctx context.Context, in query) (*schema.StreamReader[string], error) { return nil, ask(ctx, in) }))
		for _, name := range []string{"search", "stream"} {
			tried := 0
			for kind := range kinds {
				tried++
				_, err := n.Invoke(t.Context(), calls(name, kind))
				_, is := compose.IsInterruptRerunError(err)
				require.True(t, is, err)
				x := last(t, rec, name)
				require.Equal(t, "interrupted", sluice.CodeOf(x.Err))
				require.EqualError(t, x.Err, "the tool has interrupted the run")
				require.Len(t, rec.Events(name), 3*tried)
			}
			_, err := n.Invoke(t.Context(), calls(name, "down"))
			require.ErrorIs(t, err, errDown)
			requireRefusal(t, invoke(t, n, name, "plain"), "breaker_open")
		}
	})
}

// TestTrapInterruptOfAnInnerGraph: the error of a graph that a tool has run, and that was interrupted, is an
// interrupt, also where the tool returns it as it is.
func TestTrapInterruptOfAnInnerGraph(t *testing.T) {
	g := compose.NewGraph[string, string]()
	require.NoError(t, g.AddLambdaNode("ask", compose.InvokableLambda(func(ctx context.Context, in string) (string, error) {
		return "", compose.Interrupt(ctx, "may I?")
	})))
	require.NoError(t, g.AddEdge(compose.START, "ask"))
	require.NoError(t, g.AddEdge("ask", compose.END))
	inner, err := g.Compile(t.Context())
	require.NoError(t, err)
	var ends []sluice.Outcome
	e, rec := newExecutor(t, sluice.Config{Interceptors: noting(&ends)})
	n := newNode(t, e, Config{}, invokable(t, "search", func(ctx context.Context, in query) (string, error) { return inner.Invoke(ctx, in.Query) }))
	_, err = n.Invoke(t.Context(), calls("search", "go"))
	_, is := compose.ExtractInterruptInfo(err)
	require.True(t, is, err)
	require.Equal(t, "interrupted", sluice.CodeOf(last(t, rec, "search").Err))
	require.Equal(t, []sluice.Outcome{sluice.OutcomeNeutral}, ends)
}

// TestTrapResume: a run that a tool has interrupted is resumed: that tool runs again, and gets what it is told, the
// others keep their answers, and refusals.
func TestTrapResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, rec := newExecutor(t, sluice.Config{Interceptors: limit(3)})
		n := newNode(t, e, Config{},
			invokable(t, "pay", func(ctx context.Context, in query) (string, error) {
				if was, _, state := tool.GetInterruptState[string](ctx); was {
					_, _, answer := tool.GetResumeContext[string](ctx)
					return state + " " + answer, nil
				}
				return "", tool.StatefulInterrupt(ctx, "may I?", "paid "+in.Query+":")
			}),
			invokable(t, "search", func(_ context.Context, in query) (string, error) { return "3 hits", nil }))
		g := compose.NewGraph[*schema.Message, []*schema.Message]()
		require.NoError(t, g.AddToolsNode("tools", n))
		require.NoError(t, g.AddEdge(compose.START, "tools"))
		require.NoError(t, g.AddEdge("tools", compose.END))
		run, err := g.Compile(t.Context(), compose.WithCheckPointStore(&store{}), compose.WithGraphName("test"))
		require.NoError(t, err)
		_, err = run.Invoke(t.Context(), schema.AssistantMessage("", []schema.ToolCall{
			callOf("a", "search", `{"query":"go"}`), callOf("b", "pay", `{"query":"bob"}`), callOf("c", "search", `{"query":`),
		}), compose.WithCheckPointID("1"))
		info, ok := compose.ExtractInterruptInfo(err)
		require.True(t, ok, err)
		require.Len(t, info.InterruptContexts, 1)
		require.Equal(t, "may I?", info.InterruptContexts[0].Info)
		require.Zero(t, e.Snapshot().InFlight, "nothing is held while the user thinks")

		ctx := compose.ResumeWithData(t.Context(), info.InterruptContexts[0].ID, "yes")
		out, err := run.Invoke(ctx, nil, compose.WithCheckPointID("1"))
		require.NoError(t, err)
		require.Equal(t, "3 hits", out[0].Content)
		require.Equal(t, "paid bob: yes", out[1].Content)
		requireRefusal(t, out[2].Content, "invalid_arguments")
		require.Len(t, rec.Events("search"), 5)
		require.Len(t, rec.Events("pay"), 6)
	})
}

// store keeps check points.
type store struct{ m sync.Map }

func (s *store) Get(_ context.Context, id string) ([]byte, bool, error) {
	b, ok := s.m.Load(id)
	if !ok {
		return nil, false, nil
	}
	return b.([]byte), true, nil
}

func (s *store) Set(_ context.Context, id string, b []byte) error {
	s.m.Store(id, b)
	return nil
}

// TestTrapRepeatedIDs: servers that speak like OpenAI's repeat ids of calls. Each call has its own events.
func TestTrapRepeatedIDs(t *testing.T) {
	e, rec := newExecutor(t, sluice.Config{})
	n := newNode(t, e, Config{}, invokable(t, "search", func(_ context.Context, in query) (string, error) { return in.Query, nil }))
	out, err := n.Invoke(t.Context(), schema.AssistantMessage("", []schema.ToolCall{
		callOf("call_0", "search", `{"query":"a"}`), callOf("call_0", "search", `{"query":"b"}`), callOf("", "search", `{"query":"c"}`),
	}))
	require.NoError(t, err)
	keys := map[sluice.CallKey]bool{}
	for i, m := range out {
		require.Equal(t, string("abc"[i]), m.Content)
	}
	for _, x := range rec.Events() {
		keys[x.CallKey] = true
	}
	require.Len(t, keys, 3)
}

// TestTrapAnswersOfAttempts: a tool that is tried again gets the arguments that came, and its last answer is the
// model's; one that answers nothing has failed.
func TestTrapAnswersOfAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		retry := sluice.Must(resilience.NewRetry(resilience.RetryConfig{If: failures}))
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{retry}})
		tries := 0
		g := Middleware(e, Config{}).Invokable(func(_ context.Context, in *compose.ToolInput) (*compose.ToolOutput, error) {
			tries++
			in.Arguments += "!"
			if in.Name == "nothing" {
				return nil, nil
			}
			if tries < 3 {
				return nil, errors.New("try again")
			}
			return &compose.ToolOutput{Result: in.Arguments}, nil
		})
		out, err := g(t.Context(), &compose.ToolInput{Name: "search", Arguments: `{}`})
		require.NoError(t, err)
		require.Equal(t, `{}!`, out.Result)
		require.Equal(t, 3, tries)
		_, err = g(t.Context(), &compose.ToolInput{Name: "nothing", Arguments: `{}`})
		require.Equal(t, errNothing, err)
		require.Equal(t, 6, tries)
	})
}

// TestTrapStoredResults: interceptors that store results, or share them, give each call its own.
func TestTrapStoredResults(t *testing.T) {
	cache := sluice.Must(resilience.NewCache(resilience.CacheConfig{TTL: time.Hour, Tools: func(sluice.Spec) bool { return true }}))
	e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{cache}})
	ran := map[string]int{}
	n := newNode(t, e, Config{}, fourKinds(t, func(ctx context.Context, in query) string {
		c, _ := sluice.CallFrom(ctx)
		ran[c.Tool]++
		return "3 hits"
	})...)
	for range 3 {
		for _, name := range []string{"invokable", "streamable", "enhanced", "enhanced_streamable"} {
			require.Equal(t, "3 hits", invoke(t, n, name, "go"))
		}
	}
	require.Equal(t, 1, ran["invokable"])
	require.Equal(t, 1, ran["enhanced"])
	require.Equal(t, 6, ran["streamable"], "a stream is never stored; it asks twice a call")
	require.Equal(t, 6, ran["enhanced_streamable"])
}

// TestTrapRemovedTool: a tool that somebody takes out of the registry is declared at its next call. One that
// refuses because a tool it calls itself is not there does not run twice.
func TestTrapRemovedTool(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	ran := 0
	n := newNode(t, e, Config{}, invokable(t, "search", func(ctx context.Context, in query) (string, error) {
		ran++
		if in.Query == "nested" {
			_, err := e.Invoke(ctx, sluice.Request{Tool: "no_such_tool"})
			return "", err
		}
		return "3 hits", nil
	}))
	for range 3 {
		require.Equal(t, "3 hits", invoke(t, n, "search", "go"))
		require.True(t, e.Registry().Remove("search"))
	}
	requireRefusal(t, invoke(t, n, "search", "nested"), "tool_error")
	require.Equal(t, 4, ran)
}

// TestTrapNames: names that the registry does not take keep what can be kept, and two that meet are an error.
func TestTrapNames(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	answer := func(context.Context, query) (string, error) { return "3 hits", nil }
	for name, want := range map[string]string{
		"search.v2": "x.search.v2", "DuckDuckGo Search": "x.DuckDuckGo_Search_a89548ea", strings.Repeat("a", 200): "",
	} {
		require.Equal(t, "3 hits", invoke(t, newNode(t, e, Config{Prefix: "x."}, invokable(t, name, answer)), name, "go"))
		if want != "" {
			_, ok := e.Registry().Lookup(want)
			require.True(t, ok, slices.Collect(e.Registry().Tools()))
		}
	}
	for x := range e.Registry().Tools() {
		require.LessOrEqual(t, len(x.Name), 128)
	}
	a, b := invokable(t, "a b", answer), invokable(t, registryName("", "a b"), answer)
	n := newNode(t, e, Config{}, a, b)
	require.Equal(t, "3 hits", invoke(t, n, "a b", "go"))
	_, err := n.Invoke(t.Context(), calls(registryName("", "a b"), "go"))
	require.ErrorContains(t, err, "rename one")
	_, err = newNode(t, e, Config{}, invokable(t, "", answer)).Invoke(t.Context(), calls("", "go"))
	require.ErrorContains(t, err, "Spec.Name")
}

// TestTrapManyTools: runs may bring ever new tools. At most so many stay, and none that somebody else has declared
// goes.
func TestTrapManyTools(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	require.NoError(t, sluice.Declare(e.Registry(), sluice.Spec{Name: "tool_0", Type: "web"}))
	g := newGuard(e, Config{})
	g.max = 3
	for i := range 10 {
		name, err := g.declared(fmt.Sprint("tool_", i))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint("tool_", i), name)
	}
	var names []string
	for x := range e.Registry().Tools() {
		names = append(names, x.Name+x.Type)
	}
	require.Equal(t, []string{"tool_0web", "tool_7", "tool_8", "tool_9"}, names)
	require.Len(t, g.tools, 3)
	require.Len(t, g.names, 3)
	_, err := g.declared("tool_0")
	require.NoError(t, err)
	require.Len(t, g.order, 3)
}

// TestTrapWrongConfig: what is wrong is an error of the first call, or of Declare, that says what.
func TestTrapWrongConfig(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	x := invokable(t, "search", func(context.Context, query) (string, error) { return "3 hits", nil })
	bad := Config{Policy: func(string) sluice.Policy { return sluice.Policy{Concurrency: -1} }}
	_, err := newNode(t, e, bad, x).Invoke(t.Context(), calls("search", "go"))
	require.ErrorContains(t, err, "Policy.Concurrency is -1")
	require.ErrorContains(t, Declare(t.Context(), e, bad, x), "Policy.Concurrency is -1")
	require.ErrorContains(t, Declare(t.Context(), e, Config{}, x, nil), "tool 1 is nil")
	require.ErrorContains(t, Declare(t.Context(), e, Config{}, noInfo{}), "tool 0: backend down")
	require.ErrorContains(t, Declare(t.Context(), nil, Config{}, x), "ToolRegistry is nil")
	_, err = sluice.Register(e.Registry(), sluice.Spec{Name: "own"}, func(context.Context, query) (string, error) { return "", nil })
	require.NoError(t, err)
	_, err = newNode(t, e, Config{}, invokable(t, "own", func(context.Context, query) (string, error) { return "", nil })).Invoke(t.Context(), calls("own", "go"))
	require.ErrorContains(t, err, "function of its own")
	_, err = Middleware(nil, Config{}).Invokable(nil)(t.Context(), &compose.ToolInput{Name: "search"})
	require.ErrorContains(t, err, "ToolRegistry is nil")
}

type noInfo struct{ tool.BaseTool }

func (noInfo) Info(context.Context) (*schema.ToolInfo, error) { return nil, errDown }

// TestTrapPanicWithAnInterrupt: a panic whose value is an interrupt is a panic.
func TestTrapPanicWithAnInterrupt(t *testing.T) {
	var ends []sluice.Outcome
	e, rec := newExecutor(t, sluice.Config{Interceptors: noting(&ends)})
	n := newNode(t, e, Config{}, invokable(t, "search", func(ctx context.Context, _ query) (string, error) { panic(tool.Interrupt(ctx, "may I?")) }))
	requireRefusal(t, invoke(t, n, "search", "go"), "panic")
	require.Equal(t, []sluice.Outcome{sluice.OutcomeFailure}, ends)
	require.True(t, errors.Is(last(t, rec, "search").Err, sluice.ErrRejected) == false)
}

// noting notes what the ends of attempts mean.
func noting(ends *[]sluice.Outcome) []sluice.Interceptor {
	return []sluice.Interceptor{sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			res, err := next(ctx, c)
			*ends = append(*ends, c.AttemptOf(res, err).Outcome)
			return res, err
		}
	}), sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))}
}
