package sluicegenkit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/firebase/genkit/go/ai"
	"github.com/firebase/genkit/go/core/tracing"
	"github.com/firebase/genkit/go/genkit"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// The tests of this file are named after the traps that adapters fell into.

// TestTrapErrorsEndTheRun: without a guard an error of one tool ends the run, and nobody reads what the others say.
func TestTrapErrorsEndTheRun(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		e, _ := newExecutor(t, sluice.Config{})
		var g gauge
		plain := []ai.GenerateOption{ai.WithTools(genkit.DefineTool(gk, "plain", "", g.search))}
		_, outputs, err := generate(t.Context(), gk, plain, asks("plain", "a", "fail")...)
		require.ErrorIs(t, err, errBackend)
		require.Empty(t, outputs)
		opts := define(t, w, gk, e, "search", Config{}, g.search)
		require.Equal(t, []string{`{"hits":1}`, failed}, outputsOf(t, gk, opts, asks("search", "a", "fail")...))
	})
}

// TestTrapPanicInJSON: neither the value of a panic nor its stack is in what the model reads, in events, or in the
// error of a run that ends with it.
func TestTrapPanicInJSON(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		e, rec := newExecutor(t, sluice.Config{})
		var g gauge
		opts := define(t, w, gk, e, "search", Config{Text: func(error) string { return "" }}, g.search)
		_, _, err := generate(t.Context(), gk, opts, asks("search", "panic")...)
		var p *sluice.PanicError
		require.ErrorAs(t, err, &p)
		require.Equal(t, "secret sk-123", p.Value)
		require.NotContains(t, err.Error(), "sk-123")
		require.NotContains(t, string(sluice.Must(json.Marshal(err))), "sk-123")
		for _, e := range rec.Events() {
			require.NotContains(t, fmt.Sprint(e.Err), "sk-123")
		}
	})
}

// TestTrapInterruptsAreFailures: a tool that interrupts the run has neither failed nor succeeded: no breaker opens.
// The run stops with what is asked, its siblings' outputs wait, and a restart knows that it is one.
func TestTrapInterruptsAreFailures(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		e, rec := newExecutor(t, sluice.Config{})
		var g gauge
		c := Config{Policy: func(string) sluice.Policy {
			return sluice.Policy{Concurrency: 2, Breaker: &sluice.BreakerPolicy{Failures: 1}}
		}}
		opts := define(t, w, gk, e, "search", c, g.search)
		var res *ai.ModelResponse
		for range 3 {
			var err error
			res, _, err = generate(t.Context(), gk, opts, asks("search", "interrupt", "a")...)
			require.NoError(t, err)
			require.Equal(t, ai.FinishReasonInterrupted, res.FinishReason)
		}
		asked := res.Interrupts()
		require.Len(t, asked, 1)
		require.Equal(t, map[string]any{"ask": "may I? sk-123"}, asked[0].Metadata["interrupt"])
		require.Equal(t, map[string]any{"hits": 1.}, res.Message.Content[1].Metadata["pendingOutput"])
		ends := 0
		for _, event := range rec.Events("search") {
			if event.Kind == sluice.ToolFailed {
				ends++
				require.Equal(t, "interrupted", sluice.CodeOf(event.Err))
				require.NotContains(t, event.Err.Error(), "sk-123")
			}
		}
		require.Equal(t, 3, ends)

		restart := genkit.LookupTool(gk, "search").Restart(asked[0], nil)
		var outputs []string
		res, err := genkit.Generate(t.Context(), gk, append([]ai.GenerateOption{ai.WithModel(newModel(gk, nil, &outputs)),
			ai.WithMessages(res.History()...), ai.WithToolRestarts(restart)}, opts...)...)
		require.NoError(t, err)
		require.Equal(t, "done", res.Text())
		require.ElementsMatch(t, []string{`{"hits":9}`, `{"hits":1}`}, outputs)
	})
}

// TestTrapPanicsThatInterrupt: a panic is one, whatever its value.
func TestTrapPanicsThatInterrupt(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		e, _ := newExecutor(t, sluice.Config{})
		opts := define(t, w, gk, e, "search", Config{Policy: func(string) sluice.Policy {
			return sluice.Policy{Breaker: &sluice.BreakerPolicy{Failures: 1}}
		}}, func(tc *ai.ToolContext, _ searchIn) (string, error) { panic(tc.Interrupt(nil)) })
		require.Equal(t, []string{panicked}, outputsOf(t, gk, opts, asks("search", "a")...))
		require.Contains(t, outputsOf(t, gk, opts, asks("search", "a")...)[0], `"type":"breaker_open"`)
	})
}

// TestTrapClassifyOfTheExecutor: what an adapter says of ends must not switch off what the executor's user says, and
// a tool's own Policy may say otherwise.
func TestTrapClassifyOfTheExecutor(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		e, _ := newExecutor(t, sluice.Config{Classify: func(sluice.Call, sluice.Result, error) sluice.Outcome { return sluice.OutcomeNeutral }})
		var g gauge
		p := sluice.Policy{Breaker: &sluice.BreakerPolicy{Failures: 1}}
		opts := define(t, w, gk, e, "search", Config{Policy: func(string) sluice.Policy { return p }}, g.search)
		for range 3 {
			require.Equal(t, []string{failed}, outputsOf(t, gk, opts, asks("search", "fail")...))
		}
		p.Classify = func(_ sluice.Call, _ sluice.Result, err error) sluice.Outcome {
			if errors.Is(err, errBackend) {
				return sluice.OutcomeFailure
			}
			return sluice.OutcomeAuto
		}
		opts = define(t, w, gk, e, "search2", Config{Policy: func(string) sluice.Policy { return p }}, g.search)
		res, _, err := generate(t.Context(), gk, opts, asks("search2", "interrupt")...)
		require.NoError(t, err)
		require.Equal(t, ai.FinishReasonInterrupted, res.FinishReason)
		require.Equal(t, []string{failed}, outputsOf(t, gk, opts, asks("search2", "fail")...))
		require.Contains(t, outputsOf(t, gk, opts, asks("search2", "a")...)[0], `"type":"breaker_open"`)
	})
}

// TestTrapArgumentsInABox: arguments are the call's own bytes: their size is counted, and bounded, and cost and key
// functions can read them.
func TestTrapArgumentsInABox(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		var input any
		keyed := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 5, Scope: sluice.ByKey("query", func(c sluice.Call) string {
			input = c.Input
			return "all"
		})}}}))
		e, rec := newExecutor(t, sluice.Config{MaxArgBytes: 100, Interceptors: []sluice.Interceptor{keyed}})
		var g gauge
		opts := define(t, w, gk, e, "search", Config{}, g.search)
		require.Contains(t, outputsOf(t, gk, opts, asks("search", strings.Repeat("x", 1000))...)[0], `"type":"invalid_arguments"`)
		require.Equal(t, []string{`{"hits":2}`}, outputsOf(t, gk, opts, asks("search", "go")...))
		require.Equal(t, json.RawMessage(`{"query":"go"}`), input)
		require.EqualValues(t, 1, g.ran.Load())
		require.Equal(t, len(`{"query":"go"}`), rec.Events("search")[2].InputBytes)
	})
}

// TestTrapSchemaCheckedAfterAdmission: arguments that do not fit the schema cost no token, and open no breaker; what
// is wrong is told, and no more than can be read.
func TestTrapSchemaCheckedAfterAdmission(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{perMinute(1)}})
		var g gauge
		opts := define(t, w, gk, e, "search", Config{Policy: func(string) sluice.Policy {
			return sluice.Policy{Breaker: &sluice.BreakerPolicy{Failures: 1}}
		}}, g.search)
		input := map[string]any{"query": 7, "limit": "three"}
		for i := range 10 {
			input[fmt.Sprint("x", i)] = "sk-123"
		}
		got := outputsOf(t, gk, opts, ai.NewToolRequestPart(&ai.ToolRequest{Name: "search", Input: input}))[0]
		require.Contains(t, got, `"type":"invalid_arguments"`)
		require.Contains(t, got, "and 4 more")
		require.NotContains(t, got, "sk-123")
		got = outputsOf(t, gk, opts, ai.NewToolRequestPart(&ai.ToolRequest{Name: "search", Input: map[string]any{"query": "a", "limit": 1.5}}))[0]
		require.Equal(t, `{"error":{"message":"the arguments do not fit the tool: limit: Invalid type. Expected: integer, given: number","retryable":false,"type":"invalid_arguments"}}`, got)
		require.Equal(t, []string{`{"hits":1}`}, outputsOf(t, gk, opts, asks("search", "a")...))
	})
}

// TestTrapSchemasOfOthers: a schema that refers to a file or a server is not fetched by the guard, and one that is
// none does not keep the tool from running.
func TestTrapSchemasOfOthers(t *testing.T) {
	deep := func(to string) map[string]any {
		return map[string]any{"properties": map[string]any{"a": map[string]any{"anyOf": []any{map[string]any{"$ref": to}}}}}
	}
	file := filepath.Join(t.TempDir(), "x.json")
	require.NoError(t, os.WriteFile(file, []byte(`{"type":"string"}`), 0o600))
	require.Nil(t, newSchema(deep("file://"+file)))
	require.Nil(t, newSchema(deep("http://127.0.0.1:1/x.json")))
	require.Nil(t, newSchema(deep("genkit:Query")))
	require.Nil(t, newSchema(map[string]any{"type": 7}))
	require.Nil(t, newSchema(nil))
	require.NotNil(t, newSchema(map[string]any{"$ref": "#/$defs/x", "$defs": map[string]any{"x": map[string]any{"type": "object"}}}))
}

// TestTrapSchemaOfTheCaller: a tool that calls another one by Sluice has its call checked by nobody's schema but that
// tool's.
func TestTrapSchemaOfTheCaller(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		e, _ := newExecutor(t, sluice.Config{})
		var g gauge
		_ = define(t, byTool, gk, e, "inner", Config{}, func(*ai.ToolContext, map[string]any) (string, error) { return "", nil })
		opts := define(t, w, gk, e, "search", Config{}, func(tc *ai.ToolContext, in searchIn) (string, error) {
			return sluice.Do(tc, e, sluice.Request{Tool: "inner", Args: json.RawMessage(`{"n":1}`)}, func(context.Context) (string, error) {
				defer g.enter()()
				return in.Query, nil
			})
		})
		require.Equal(t, []string{`"a"`}, outputsOf(t, gk, opts, asks("search", "a")...))
		require.EqualValues(t, 1, g.ran.Load())
	})
}

// TestTrapRequiredArgumentAbsent: a required argument that is absent or null does not run the tool with a zero value.
func TestTrapRequiredArgumentAbsent(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		e, _ := newExecutor(t, sluice.Config{})
		var g gauge
		opts := define(t, w, gk, e, "search", Config{}, g.search)
		for _, in := range []any{map[string]any{}, map[string]any{"query": nil}, nil, []any{}, "x"} {
			got := outputsOf(t, gk, opts, ai.NewToolRequestPart(&ai.ToolRequest{Name: "search", Input: in}))
			require.Contains(t, got[0], `"type":"invalid_arguments"`)
		}
		require.Zero(t, g.ran.Load())
	})
}

// TestTrapMadeUpName: a name that the model has made up ends the run, as without a guard, and is never registered.
func TestTrapMadeUpName(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		e, rec := newExecutor(t, sluice.Config{})
		var g gauge
		opts := define(t, w, gk, e, "search", Config{}, g.search)
		for i := range 10 {
			_, _, err := generate(t.Context(), gk, opts, asks(fmt.Sprint("rm -rf /", i), "a")...)
			require.ErrorIs(t, err, ai.ErrToolNotFound)
		}
		for spec := range e.Registry().Tools() {
			require.Equal(t, "search", spec.Name)
		}
		require.Empty(t, rec.Events())
	})
}

// TestTrapNames: names that the registry does not take are mapped, always in the same way.
func TestTrapNames(t *testing.T) {
	gk := newGenkit()
	e, _ := newExecutor(t, sluice.Config{})
	var names []string
	for name, registry := range map[string]string{
		"search":                 "github.search",
		"plugin/search":          "github.plugin_search_HASH",
		"suche über":             "github.suche___ber_HASH",
		strings.Repeat("x", 130): "github." + strings.Repeat("x", 55) + "_HASH",
		strings.Repeat("y", 121): "github." + strings.Repeat("y", 121),
	} {
		sum := sha256.Sum256([]byte(name))
		registry = strings.Replace(registry, "HASH", hex.EncodeToString(sum[:4]), 1)
		names = append(names, registry)
		opts := define(t, byTool, gk, e, name, Config{Prefix: "github."}, func(*ai.ToolContext, searchIn) (string, error) { return name, nil })
		require.Equal(t, []string{string(sluice.Must(json.Marshal(name)))}, outputsOf(t, gk, opts, asks(name, "a")...))
	}
	var there []string
	for spec := range e.Registry().Tools() {
		there = append(there, spec.Name)
	}
	require.ElementsMatch(t, names, there)
	require.Equal(t, "github.", registryName("github.", ""))
}

// TestTrapOneNameForTwoTools: what different runs bring under one name is checked by its own schema, and neither can
// make the other's calls wrong. The registry then tells no schema of that name.
func TestTrapOneNameForTwoTools(t *testing.T) {
	gk := newGenkit()
	e, _ := newExecutor(t, sluice.Config{})
	type other struct {
		City string `json:"city"`
	}
	tools := []ai.Tool{
		ai.NewTool("search", "one", func(_ *ai.ToolContext, in searchIn) (string, error) { return in.Query, nil }),
		ai.NewTool("search", "other", func(_ *ai.ToolContext, in other) (string, error) { return in.City, nil }),
	}
	inputs := []map[string]any{{"query": "q"}, {"city": "c"}}
	shared := Middleware(e, Config{})
	for i := range 6 {
		m := shared
		if i >= 4 {
			m = Middleware(e, Config{})
		}
		opts := []ai.GenerateOption{ai.WithTools(tools[i%2]), ai.WithUse(m)}
		got := outputsOf(t, gk, opts, ai.NewToolRequestPart(&ai.ToolRequest{Name: "search", Input: inputs[i%2]}),
			ai.NewToolRequestPart(&ai.ToolRequest{Name: "search", Input: inputs[(i+1)%2]}))
		require.Equal(t, []string{`"q"`, `"c"`}[i%2], got[0])
		require.Contains(t, got[1], `"type":"invalid_arguments"`)
		spec, _ := e.Registry().Lookup("search")
		require.Equal(t, i > 0, len(spec.InputSchema) == 0)
	}
}

// TestTrapDeclaredBefore: what somebody has declared keeps its type, hints, check and limits, and one that somebody has
// removed is declared again.
func TestTrapDeclaredBefore(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		e, _ := newExecutor(t, sluice.Config{})
		var g gauge
		refuse := errors.New("not today")
		require.NoError(t, sluice.Declare(e.Registry(), sluice.Spec{Name: "typed", Type: "web", Hints: sluice.Hints{ReadOnly: true}, Policy: sluice.Policy{Concurrency: 7}}))
		require.NoError(t, sluice.Declare(e.Registry(), sluice.Spec{Name: "checked", Check: func(context.Context, sluice.Call) error { return refuse }}))
		never := Config{Policy: func(tool string) sluice.Policy { panic(tool) }}
		require.Equal(t, []string{`{"hits":1}`}, outputsOf(t, gk, define(t, w, gk, e, "typed", never, g.search), asks("typed", "a")...))
		spec, _ := e.Registry().Lookup("typed")
		require.Equal(t, []any{"web", sluice.Hints{ReadOnly: true}, 7, "search the web"}, []any{spec.Type, spec.Hints, spec.Policy.Concurrency, spec.Description})
		require.NotEmpty(t, spec.InputSchema)
		require.Contains(t, outputsOf(t, gk, define(t, w, gk, e, "checked", never, g.search), asks("checked", "a")...)[0], "not today")

		opts := define(t, w, gk, e, "gone", Config{}, g.search)
		require.Equal(t, []string{`{"hits":1}`}, outputsOf(t, gk, opts, asks("gone", "a")...))
		require.True(t, e.Registry().Remove("gone"))
		if got := outputsOf(t, gk, opts, asks("gone", "a")...); w == byMiddleware {
			require.Equal(t, []string{`{"hits":1}`}, got)
		} else {
			require.Contains(t, got[0], `"type":"unknown_tool"`)
		}
	})
}

// TestTrapMemory: however many tools there were, a guard remembers a bounded number.
func TestTrapMemory(t *testing.T) {
	e, _ := newExecutor(t, sluice.Config{})
	g := newGuard(e, Config{})
	for i := range maxTools {
		g.tools[fmt.Sprint(i)] = new(tool)
	}
	var gg gauge
	_, err := g.declared(ai.NewTool("search", "", gg.search))
	require.NoError(t, err)
	require.Len(t, g.tools, 1)
}

// TestTrapStored: results that are stored as JSON come back as they were, and who shares one may change it.
func TestTrapStored(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		cache, err := resilience.NewCache(resilience.CacheConfig{Tools: func(sluice.Spec) bool { return true }})
		require.NoError(t, err)
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{cache}})
		var g gauge
		opts := define(t, w, gk, e, "search", Config{}, g.search)
		for range 2 {
			require.Equal(t, []string{`{"hits":2}`}, outputsOf(t, gk, opts, asks("search", "go")...))
		}
		require.EqualValues(t, 1, g.ran.Load())
	})
	own := &ai.MultipartToolResponse{Output: 1, Content: []*ai.Part{nil}, Metadata: map[string]any{"k": 1}}
	other := copied(own)
	require.Equal(t, own, other)
	other.Metadata["k"], other.Content[0] = 2, ai.NewTextPart("x")
	require.Equal(t, &ai.MultipartToolResponse{Output: 1, Content: []*ai.Part{nil}, Metadata: map[string]any{"k": 1}}, own)
	require.Nil(t, copied(nil))
}

// spans counts ended spans by name.
type spans struct {
	mu sync.Mutex
	n  map[string]int
}

func (s *spans) Save(_ context.Context, d *tracing.Data) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range d.Spans {
		s.n[x.DisplayName]++
	}
	return nil
}

// TestTrapToolHasBegun: genkit notes without a lock that a tool has begun. Attempts that run on or at once with others
// do not write that note where it is read, and each attempt has one span, as has a call that was refused.
func TestTrapToolHasBegun(t *testing.T) {
	s := &spans{n: map[string]int{}}
	tracing.WriteTelemetryImmediate(s)
	bubble(t, func(t *testing.T, gk *genkit.Genkit) {
		hedge, err := resilience.NewHedge(resilience.HedgeConfig{After: 5 * time.Millisecond, Tools: func(sluice.Spec) bool { return true }})
		require.NoError(t, err)
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{hedge}, MaxArgBytes: 100})
		key, mine := new(int), new(bool)
		opts := define(t, byMiddleware, gk, e, "span-a", Config{}, func(tc *ai.ToolContext, in searchIn) (string, error) {
			if tc.Value(key) != mine {
				return "", errors.New("not my value")
			}
			time.Sleep(20 * time.Millisecond)
			return in.Query, nil
		})
		_, outputs, err := generate(context.WithValue(t.Context(), key, mine), gk, opts, asks("span-a", "a", strings.Repeat("x", 100))...)
		require.NoError(t, err)
		require.Equal(t, `"a"`, outputs[0])
		require.Contains(t, outputs[1], "invalid_arguments")

		late, _ := newExecutor(t, sluice.Config{Timeout: 5 * time.Millisecond})
		opts = define(t, byMiddleware, gk, late, "span-b", Config{}, func(*ai.ToolContext, searchIn) (string, error) {
			time.Sleep(30 * time.Millisecond)
			return "", nil
		})
		require.Equal(t, []string{timedOut}, outputsOf(t, gk, opts, asks("span-b", "b")...))
		time.Sleep(time.Second) // all attempts end
		s.mu.Lock()
		defer s.mu.Unlock()
		require.Equal(t, []int{2 + 1, 1}, []int{s.n["span-a"], s.n["span-b"]})
	})
}

// TestTrapOrderOfHooks: other middleware of the run goes around the guard or inside it, as it is listed.
func TestTrapOrderOfHooks(t *testing.T) { bubble(t, testOrderOfHooks) }

func testOrderOfHooks(t *testing.T, gk *genkit.Genkit) {
	e, _ := newExecutor(t, sluice.Config{})
	var g gauge
	var seen []string
	hook := func(name string) ai.Middleware {
		return ai.MiddlewareFunc(func(context.Context) (*ai.Hooks, error) {
			return &ai.Hooks{WrapTool: func(ctx context.Context, p *ai.ToolParams, next ai.ToolNext) (*ai.MultipartToolResponse, error) {
				_, within := sluice.CallFrom(ctx)
				seen = append(seen, fmt.Sprint(name, " ", within))
				return next(ctx, p)
			}}, nil
		})
	}
	opts := []ai.GenerateOption{ai.WithTools(genkit.DefineTool(gk, "search", "", g.search)), ai.WithUse(hook("outer"), Middleware(e, Config{}), hook("inner"))}
	require.Equal(t, []string{`{"hits":1}`}, outputsOf(t, gk, opts, asks("search", "a")...))
	require.True(t, slices.Equal([]string{"outer false", "inner true"}, seen), seen)
}
