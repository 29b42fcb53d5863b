package sluicegenkit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/firebase/genkit/go/ai"
	genkittool "github.com/firebase/genkit/go/ai/exp/tool"
	"github.com/firebase/genkit/go/core"
	"github.com/firebase/genkit/go/core/api"
	"github.com/firebase/genkit/go/genkit"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// Each call has its output, whatever becomes of it, in the order of the calls, and the run goes on.
func TestGenerate(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{limit(2)}, Timeout: 200 * time.Millisecond})
		var g gauge
		opts := define(t, w, gk, e, "search", Config{}, g.search)
		calls := append(asks("search", "a", "bb", "panic", "exit", "fail", "hang", "deaf"),
			ai.NewToolRequestPart(&ai.ToolRequest{Name: "search", Ref: "call_7", Input: map[string]any{"quary": "x", "limit": "3"}}),
			ai.NewToolRequestPart(&ai.ToolRequest{Name: "search", Ref: "call_8", Input: map[string]any{"query": "ccc", "limit": nil}}))
		require.Equal(t, []string{`{"hits":1}`, `{"hits":2}`, panicked, exited, failed, timedOut, timedOut,
			`{"error":{"message":"the arguments do not fit the tool: $ lacks \"query\": required","retryable":false,"type":"invalid_arguments"}}`,
			`{"hits":3}`}, outputsOf(t, gk, opts, calls...))
		require.EqualValues(t, 8, g.ran.Load())
		require.EqualValues(t, 2, g.peak.Load())
		time.Sleep(time.Second) // what does not hear of its timeout ends
		require.Zero(t, e.Snapshot().InFlight)
	})
}

// A refusal is an output that says when to try again; which of the calls it meets is genkit's choice.
func TestRefusal(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{perMinute(1)}})
		var g gauge
		got := outputsOf(t, gk, define(t, w, gk, e, "search", Config{}, g.search), asks("search", "a", "a")...)
		require.ElementsMatch(t, []string{`{"hits":1}`, limited}, got)
		require.EqualValues(t, 1, g.ran.Load())
	})
}

// Policy, Behalf, Text and Prefix do what they say.
func TestConfig(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		type key struct{}
		start := time.Now()
		e, _ := newExecutor(t, sluice.Config{})
		c := Config{
			Prefix: "crm.",
			Policy: func(tool string) sluice.Policy {
				require.Equal(t, "crm.whoami", tool)
				return sluice.Policy{Concurrency: 1}
			},
			Behalf: func(ctx context.Context, pc sluice.PipelineContext) sluice.PipelineContext {
				pc.Tenant = fmt.Sprint("acme-", ctx.Value(key{}))
				return pc
			},
			Text: func(err error) string { return "sorry: " + sluice.CodeOf(err) },
		}
		opts := define(t, w, gk, e, "whoami", c, func(tc *ai.ToolContext, in searchIn) (string, error) {
			time.Sleep(time.Second)
			if in.Query == "fail" {
				return "", errBackend
			}
			call, _ := sluice.CallFrom(tc)
			pc := sluice.PipelineContextFrom(tc)
			return fmt.Sprint(call.Tool, " ", pc.Tenant, " ", pc.RunID, " ", tc.Value(key{})), nil
		})
		ctx := sluice.WithPipelineContext(context.WithValue(t.Context(), key{}, 7), sluice.PipelineContext{RunID: "run-1"})
		_, outputs, err := generate(ctx, gk, opts, asks("whoami", "a", "fail")...)
		require.NoError(t, err)
		require.Equal(t, []string{`"crm.whoami acme-7 run-1 7"`, `{"error":"sorry: tool_error"}`}, outputs)
		require.Equal(t, 2*time.Second, time.Since(start), "one after the other")
	})
}

// Who is asking is in the action context, as the documentation shows.
func TestBehalf_ActionContext(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		e, _ := newExecutor(t, sluice.Config{})
		c := Config{Behalf: func(ctx context.Context, pc sluice.PipelineContext) sluice.PipelineContext {
			if auth, ok := core.FromContext(ctx)["auth"].(map[string]any); ok {
				pc.Tenant, _ = auth["uid"].(string)
			}
			return pc
		}}
		opts := define(t, w, gk, e, "whoami", c, func(tc *ai.ToolContext, _ searchIn) (string, error) {
			return sluice.PipelineContextFrom(tc).Tenant, nil
		})
		ctx := core.WithActionContext(t.Context(), core.ActionContext{"auth": map[string]any{"uid": "ada"}})
		_, outputs, err := generate(ctx, gk, opts, asks("whoami", "a")...)
		require.NoError(t, err)
		require.Equal(t, []string{`"ada"`}, outputs)
		require.Equal(t, []string{`""`}, outputsOf(t, gk, opts, asks("whoami", "a")...))
	})
}

// An error of which a model reads nothing ends the run, as it would without a guard.
func TestTextOfNothing(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		e, _ := newExecutor(t, sluice.Config{})
		var g gauge
		c := Config{Text: func(err error) string {
			if errors.Is(err, errBackend) {
				return ""
			}
			return sluice.ModelText(err)
		}}
		opts := define(t, w, gk, e, "search", c, g.search)
		require.Equal(t, []string{panicked}, outputsOf(t, gk, opts, asks("search", "panic")...))
		_, _, err := generate(t.Context(), gk, opts, asks("search", "a", "fail")...)
		require.ErrorIs(t, err, errBackend)
		require.ErrorIs(t, err, ai.ErrToolFailed)
	})
}

// A function of Config that panics or exits fails its call, and no more.
func TestConfigFails(t *testing.T) {
	for name, fail := range map[string]func(){"panic": func() { panic("secret") }, "goexit": runtime.Goexit} {
		eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
			e, _ := newExecutor(t, sluice.Config{})
			var g gauge
			opts := define(t, w, gk, e, "search", Config{Behalf: func(context.Context, sluice.PipelineContext) (pc sluice.PipelineContext) {
				fail()
				return pc
			}}, g.search)
			require.Equal(t, []string{map[string]string{"panic": panicked, "goexit": exited}[name]}, outputsOf(t, gk, opts, asks("search", "a")...))
			opts = define(t, w, gk, e, "search2", Config{Text: func(error) string { fail(); return "" }}, g.search)
			require.Equal(t, []string{failed}, outputsOf(t, gk, opts, asks("search2", "fail")...))
			require.EqualValues(t, 1, g.ran.Load())

			policy := Config{Policy: func(string) (p sluice.Policy) { fail(); return p }}
			if w == byTool {
				_, err := DefineTool(gk, e, "search3", "", policy, g.search)
				require.ErrorContains(t, err, `the tool "search3": `)
				require.NotContains(t, err.Error(), "secret")
				require.Nil(t, genkit.LookupTool(gk, "search3"))
				return
			}
			_, _, err := generate(t.Context(), gk, define(t, w, gk, e, "search3", policy, g.search), asks("search3", "a")...)
			require.ErrorContains(t, err, `tool "search3" failed`)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

// What is told of a tool is what genkit tells of it, with its schemas; so it is with options.
func TestDefinition(t *testing.T) {
	gk, plain := newGenkit(), newGenkit()
	e, _ := newExecutor(t, sluice.Config{})
	var g gauge
	loose := func(*ai.ToolContext, any) (any, error) { return "", nil }
	schema := map[string]any{"type": "object", "properties": map[string]any{"query": map[string]any{"type": "string"}}, "required": []any{"query"}}
	genkit.DefineSchema(gk, "Query", schema)
	genkit.DefineSchema(plain, "Query", schema)
	for i, pair := range [][2]ai.Tool{
		{genkit.DefineTool(plain, "t0", "search the web", g.search), sluice.Must(DefineTool(gk, e, "t0", "search the web", Config{}, g.search))},
		{genkit.DefineTool(plain, "t1", "", g.search, ai.WithStrictSchema(true)), sluice.Must(DefineTool(gk, e, "t1", "", Config{}, g.search, ai.WithStrictSchema(true)))},
		{genkit.DefineTool(plain, "t2", "", loose, ai.WithInputSchemaName("Query"), ai.WithOutputSchema(schema)),
			sluice.Must(DefineTool(gk, e, "t2", "", Config{}, loose, ai.WithInputSchemaName("Query"), ai.WithOutputSchema(schema)))},
	} {
		require.Equal(t, pair[0].Definition(), pair[1].Definition())
		key := api.KeyFromName(api.ActionTypeToolV2, fmt.Sprint("t", i))
		require.Equal(t, genkit.LookupAction(plain, key).Desc(), genkit.LookupAction(gk, key).Desc())
		spec, _ := e.Registry().Lookup(pair[0].Name())
		in, err := json.Marshal(pair[0].Definition().InputSchema)
		require.NoError(t, err)
		out, err := json.Marshal(pair[0].Definition().OutputSchema)
		require.NoError(t, err)
		require.JSONEq(t, string(in), string(spec.InputSchema))
		require.JSONEq(t, string(out), string(spec.OutputSchema))
		require.Equal(t, pair[0].Definition().Description, spec.Description)
	}
}

func TestDefineTool_Errors(t *testing.T) {
	gk := newGenkit()
	e, _ := newExecutor(t, sluice.Config{})
	var g gauge
	sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "own"}, func(context.Context, string) (string, error) { return "", nil }))
	sluice.Must(DefineTool(gk, e, "there", "", Config{}, g.search))
	for _, c := range []struct {
		define func(opts ...ai.ToolOption) (ai.Tool, error)
		want   string
	}{
		{func(...ai.ToolOption) (ai.Tool, error) { return DefineTool(nil, e, "x", "", Config{}, g.search) }, "sluicegenkit: the Genkit is nil: use genkit.Init"},
		{func(...ai.ToolOption) (ai.Tool, error) {
			return DefineTool[string, string](gk, e, "x", "", Config{}, nil)
		}, `sluicegenkit: the function of the tool "x" is nil: must not be`},
		{func(...ai.ToolOption) (ai.Tool, error) { return DefineTool(gk, e, "", "", Config{}, g.search) }, "sluicegenkit: the tool's name is empty: must have one"},
		{func(...ai.ToolOption) (ai.Tool, error) { return DefineTool(gk, e, "there", "", Config{}, g.search) }, `sluicegenkit: the tool "there" is defined already: must be another name`},
		{func(...ai.ToolOption) (ai.Tool, error) { return DefineTool(gk, nil, "x", "", Config{}, g.search) },
			`sluicegenkit: the tool "x": sluicegenkit: the Executor is nil or zero: use sluice.NewExecutor`},
		{func(...ai.ToolOption) (ai.Tool, error) {
			return DefineTool(gk, new(sluice.Executor), "x", "", Config{}, g.search)
		}, `sluicegenkit: the tool "x": sluicegenkit: the Executor is nil or zero: use sluice.NewExecutor`},
		{func(...ai.ToolOption) (ai.Tool, error) { return DefineTool(gk, e, "own", "", Config{}, g.search) },
			`sluicegenkit: the tool "own": sluice: tool "own" is registered with a function of its own: must be another name`},
		{func(...ai.ToolOption) (ai.Tool, error) {
			return DefineTool(gk, e, "x", "", Config{Policy: func(string) sluice.Policy { return sluice.Policy{Concurrency: -1} }}, g.search)
		}, `sluicegenkit: the tool "x": sluice: Policy.Concurrency is -1: must be zero or positive, up to 1099511627776`},
		{func(...ai.ToolOption) (ai.Tool, error) {
			return DefineTool(gk, e, "x", "", Config{}, g.search, ai.WithInputSchema(map[string]any{}))
		}, `sluicegenkit: the tool "x": ai.NewTool "x": WithInputSchema requires In to be of type 'any', but got sluicegenkit.searchIn`},
	} {
		tool, err := c.define()
		require.EqualError(t, err, c.want)
		require.Nil(t, tool)
	}
	require.Nil(t, genkit.LookupTool(gk, "x"), "nothing is left of what failed")
	require.Nil(t, genkit.LookupTool(gk, "own"))
	sluice.Must(DefineTool(gk, e, "x", "", Config{}, g.search))
}

func TestMiddleware_Errors(t *testing.T) {
	gk := newGenkit()
	var g gauge
	for _, e := range []*sluice.Executor{nil, new(sluice.Executor)} {
		_, _, err := generate(t.Context(), gk, []ai.GenerateOption{ai.WithUse(Middleware(e, Config{}))})
		require.ErrorContains(t, err, "sluicegenkit: the Executor is nil or zero: use sluice.NewExecutor")
	}
	_, _, err := generate(t.Context(), gk, []ai.GenerateOption{ai.WithUse(new(middleware))})
	require.ErrorContains(t, err, "sluicegenkit: the middleware is zero: use Middleware")

	e, _ := newExecutor(t, sluice.Config{})
	sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "own"}, func(context.Context, string) (string, error) { return "", nil }))
	_, _, err = generate(t.Context(), gk, define(t, byMiddleware, gk, e, "own", Config{}, g.search), asks("own", "a")...)
	require.ErrorContains(t, err, `sluice: tool "own" is registered with a function of its own: must be another name`)
	require.Zero(t, g.ran.Load())
}

// Whoever runs the tool, it is guarded: by itself, by the developer UI, in another Genkit.
func TestDefineTool_Everywhere(t *testing.T) {
	other := newGenkit()
	bubble(t, func(t *testing.T, gk *genkit.Genkit) { testEverywhere(t, gk, other) })
}

func testEverywhere(t *testing.T, gk, other *genkit.Genkit) {
	e, rec := newExecutor(t, sluice.Config{})
	var g gauge
	tool := sluice.Must(DefineTool(gk, e, "search", "", Config{}, g.search))
	out, err := tool.RunRaw(t.Context(), map[string]any{"query": "a"})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"hits": 1.}, out)
	out, err = tool.RunRaw(t.Context(), map[string]any{"query": "panic"})
	require.NoError(t, err)
	require.JSONEq(t, panicked, string(sluice.Must(json.Marshal(out))))

	res, err := genkit.LookupAction(gk, "/tool/search").RunJSONWithTelemetry(t.Context(), json.RawMessage(`{"query":"bb"}`), nil)
	require.NoError(t, err)
	require.JSONEq(t, `{"output":{"hits":2}}`, string(res.Result))
	require.NotEmpty(t, res.TraceId)
	res, err = genkit.LookupAction(gk, "/tool.v2/search").RunJSONWithTelemetry(t.Context(), json.RawMessage(`{}`), nil)
	require.NoError(t, err)
	require.Contains(t, string(res.Result), "invalid_arguments")
	require.Empty(t, res.TraceId)

	require.Equal(t, []string{`{"hits":3}`}, outputsOf(t, other, []ai.GenerateOption{ai.WithTools(tool)}, asks("search", "ccc")...))
	invoked := 0
	for _, e := range rec.Events("search") {
		if e.Kind == sluice.ToolInvoked {
			invoked++
		}
	}
	require.Equal(t, 5, invoked)
}

// A tool of DefineTool in a Generate with Middleware is guarded once; what it calls itself is guarded again.
func TestGuardedOnce(t *testing.T) {
	gk := newGenkit()
	e, rec := newExecutor(t, sluice.Config{})
	var own ai.Tool
	own = sluice.Must(DefineTool(gk, e, "search", "", Config{Policy: func(string) sluice.Policy { return sluice.Policy{Concurrency: 1} }},
		func(tc *ai.ToolContext, in searchIn) (string, error) {
			if in.Query == "itself" {
				out, err := own.RunRaw(tc, map[string]any{"query": "x"})
				return string(sluice.Must(json.Marshal(out))), err
			}
			c, _ := sluice.CallFrom(tc)
			return c.ID, nil
		}))
	opts := []ai.GenerateOption{ai.WithTools(own), ai.WithUse(Middleware(e, Config{}))}
	require.Equal(t, []string{`"call_0"`}, outputsOf(t, gk, opts, asks("search", "a")...))
	require.Len(t, rec.Events("search"), 3)
	got := outputsOf(t, gk, opts, asks("search", "itself")...)
	require.NotContains(t, got[0], "call_0", "a call of its own")
	require.Len(t, rec.Events("search"), 3+6)
}

// A Middleware that is made anew for each Generate keeps what limits have counted, and nothing is compiled again.
func TestMiddleware_MadeAnew(t *testing.T) {
	bubble(t, func(t *testing.T, gk *genkit.Genkit) {
		w := &wraps{}
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{w}})
		var g gauge
		c := Config{Policy: func(string) sluice.Policy {
			return sluice.Policy{MaxWait: sluice.NoWait, Rates: []sluice.Rate{{N: 2, Per: time.Minute}}}
		}}
		var got []string
		for range 3 { // the tool too
			tool := ai.NewTool("search", "search the web", g.search)
			got = append(got, outputsOf(t, gk, []ai.GenerateOption{ai.WithTools(tool), ai.WithUse(Middleware(e, c))}, asks("search", "a")...)...)
		}
		require.Equal(t, []string{`{"hits":1}`, `{"hits":1}`}, got[:2])
		require.Contains(t, got[2], `"type":"wait_too_long"`)
		require.Equal(t, 1, w.n)
	})
}

// wraps counts how often a chain is compiled.
type wraps struct{ n int }

func (w *wraps) Wrap(_ sluice.Spec, next sluice.Handler) sluice.Handler { w.n++; return next }

// What one Generate alone brings is guarded: tools with media, those of other kinds, and what they stream.
func TestMiddleware_Kinds(t *testing.T) {
	gk := newGenkit()
	e, rec := newExecutor(t, sluice.Config{})
	draw := genkit.DefineMultipartTool(gk, "draw", "", func(*ai.ToolContext, searchIn) (*ai.MultipartToolResponse, error) {
		return &ai.MultipartToolResponse{Output: "a plan", Content: []*ai.Part{ai.NewMediaPart("image/png", "data:,x")}, Metadata: map[string]any{"k": "v"}}, nil
	})
	name := ai.NewTool("name", "", func(tc *ai.ToolContext, in string) (string, error) {
		genkittool.SendPartial(tc, "halfway")
		return in + "!", nil
	})
	var responses []*ai.Part
	var partial []string
	calls := []*ai.Part{
		ai.NewToolRequestPart(&ai.ToolRequest{Name: "draw", Ref: "a", Input: map[string]any{"query": "x"}}),
		ai.NewToolRequestPart(&ai.ToolRequest{Name: "name", Ref: "b", Input: "Ada"}),
		ai.NewToolRequestPart(&ai.ToolRequest{Name: "name", Ref: "c", Input: map[string]any{"query": "x"}}),
	}
	res, outputs, err := generate(t.Context(), gk, []ai.GenerateOption{ai.WithTools(draw, name), ai.WithUse(Middleware(e, Config{})),
		ai.WithStreaming(func(_ context.Context, c *ai.ModelResponseChunk) error {
			for _, p := range c.Content {
				if p.IsToolResponse() && p.IsPartial() {
					partial = append(partial, fmt.Sprint(p.ToolResponse.Output))
				} else if p.IsToolResponse() {
					responses = append(responses, p)
				}
			}
			return nil
		})}, calls...)
	require.NoError(t, err)
	require.Equal(t, "done", res.Text())
	require.Equal(t, []string{`"a plan"`, `"Ada!"`,
		`{"error":{"message":"the arguments do not fit the tool: (root): Invalid type. Expected: string, given: object","retryable":false,"type":"invalid_arguments"}}`}, outputs)
	require.Equal(t, []string{"halfway"}, partial)
	require.Len(t, responses[0].ToolResponse.Content, 1)
	require.True(t, responses[0].ToolResponse.Content[0].IsMedia())
	require.Equal(t, "v", responses[0].Metadata["k"])
	for _, ref := range []string{"a", "b", "c"} {
		require.True(t, slices.ContainsFunc(rec.Events(), func(e sluice.Event) bool { return e.Call.ID == ref && e.Kind == sluice.ToolInvoked }))
	}
}

// A prompt may use the middleware by its name.
func TestMiddleware_InPrompts(t *testing.T) {
	gk := newGenkit()
	e, rec := newExecutor(t, sluice.Config{})
	var g gauge
	genkit.DefineTool(gk, "search", "", g.search)
	genkit.DefineMiddleware(gk, "guards tools", Middleware(e, Config{}))
	var outputs []string
	m := newModel(gk, asks("search", "panic"), &outputs)
	for i, use := range []string{"sluice", "{name: sluice, config: {}}"} {
		p, err := genkit.LoadPromptFromSource(gk, fmt.Sprintf("---\nmodel: %s\ntools: [search]\nuse:\n  - %s\n---\nhi\n", m.Name(), use), fmt.Sprint("ask", i), "")
		require.NoError(t, err)
		res, err := p.Execute(t.Context())
		require.NoError(t, err)
		require.Equal(t, "done", res.Text())
	}
	require.Equal(t, []string{panicked, panicked}, outputs)
	require.Len(t, rec.Events("search"), 6)
}

// A run that is cancelled ends at once: calls that run see their contexts end, and those that wait do not start.
func TestCancelled(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		start := time.Now()
		e, rec := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{limit(1)}})
		var g gauge
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, outputs, err := generate(ctx, gk, define(t, w, gk, e, "search", Config{}, g.search), asks("search", "hang", "hang")...)
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, time.Second, time.Since(start))
		require.Empty(t, outputs, "a cancelled run asks no more")
		synctest.Wait()
		require.EqualValues(t, 1, g.ran.Load())
		codes := map[string]int{}
		for _, e := range rec.Events() {
			if e.Kind == sluice.ToolFailed {
				codes[sluice.CodeOf(e.Err)]++
			}
		}
		require.Equal(t, map[string]int{"canceled": 2}, codes)
	})
}

// A thousand calls of one message at limit 8: eight run at once, and each has its output.
func TestLoad(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		start := time.Now()
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{limit(8)}})
		var g gauge
		var queries, want []string
		for i := range 1000 {
			queries = append(queries, fmt.Sprintf("%*d", i%7+1, i%10))
			want = append(want, fmt.Sprintf(`{"hits":%d}`, i%7+1))
		}
		require.Equal(t, want, outputsOf(t, gk, define(t, w, gk, e, "search", Config{}, g.search), asks("search", queries...)...))
		require.EqualValues(t, 1000, g.ran.Load())
		require.EqualValues(t, 8, g.peak.Load())
		require.Equal(t, 125*10*time.Millisecond, time.Since(start))
	})
}

// Several runs at once use one tool.
func TestRunsAtOnce(t *testing.T) {
	eachWay(t, func(t *testing.T, w way, gk *genkit.Genkit) {
		e, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{limit(2)}})
		var g gauge
		opts := define(t, w, gk, e, "search", Config{}, g.search)
		var wg sync.WaitGroup
		outputs, errs := make([][]string, 8), make([]error, 8)
		for i := range errs {
			wg.Go(func() {
				_, outputs[i], errs[i] = generate(context.Background(), gk, opts, asks("search", "a", "bb", "panic")...)
			})
		}
		wg.Wait()
		for i := range errs {
			require.NoError(t, errs[i])
			require.Equal(t, []string{`{"hits":1}`, `{"hits":2}`, panicked}, outputs[i])
		}
		require.LessOrEqual(t, g.peak.Load(), int64(2))
	})
}
