package sluicegenkit

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

	"github.com/firebase/genkit/go/ai"
	"github.com/firebase/genkit/go/genkit"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// newExecutor is an executor whose events are checked when the test ends.
func newExecutor(t testing.TB, c sluice.Config) (*sluice.Executor, *sluice.Recorder) {
	rec := new(sluice.Recorder)
	c.Sink = rec
	e, err := sluice.NewExecutor(sluice.NewToolRegistry(), c)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, e.Close(context.Background()))
		require.NoError(t, rec.Check())
	})
	return e, rec
}

// newGenkit must be made outside bubbles: it waits for signals.
func newGenkit() *genkit.Genkit { return genkit.Init(context.Background()) }

// gauge knows how many are inside at most.
type gauge struct{ now, peak, ran atomic.Int64 }

func (g *gauge) enter() func() {
	g.ran.Add(1)
	n := g.now.Add(1)
	for m := g.peak.Load(); n > m && !g.peak.CompareAndSwap(m, n); m = g.peak.Load() {
	}
	return func() { g.now.Add(-1) }
}

type searchIn struct {
	Query string `json:"query"`
	Limit int    `json:"limit,omitempty"`
}

type searchOut struct {
	Hits int `json:"hits"`
}

// search takes 10 ms, and does what it is asked for.
func (g *gauge) search(tc *ai.ToolContext, in searchIn) (searchOut, error) {
	defer g.enter()()
	switch in.Query {
	case "panic":
		panic("secret sk-123")
	case "exit":
		runtime.Goexit()
	case "fail":
		return searchOut{}, errBackend
	case "hang":
		<-tc.Done()
		return searchOut{}, tc.Err()
	case "deaf":
		time.Sleep(time.Second)
	case "interrupt":
		if !tc.IsResumed() {
			return searchOut{}, tc.Interrupt(&ai.InterruptOptions{Metadata: map[string]any{"ask": "may I? sk-123"}})
		}
	}
	time.Sleep(10 * time.Millisecond)
	return searchOut{len(in.Query)}, nil
}

var errBackend = errors.New("backend says no")

// a way to guard a tool.
type way string

const (
	byTool       way = "DefineTool"
	byMiddleware way = "Middleware"
)

// eachWay runs a test with both, in a bubble.
func eachWay(t *testing.T, f func(t *testing.T, w way, gk *genkit.Genkit)) {
	for _, w := range []way{byTool, byMiddleware} {
		t.Run(string(w), func(t *testing.T) {
			bubble(t, func(t *testing.T, gk *genkit.Genkit) { f(t, w, gk) })
		})
	}
}

// bubble runs a test in a bubble.
func bubble(t *testing.T, f func(t *testing.T, gk *genkit.Genkit)) {
	gk := newGenkit()
	synctest.Test(t, func(t *testing.T) { f(t, gk) })
}

// define is a tool, guarded as w has it, and what a Generate with it needs.
func define[In, Out any](t testing.TB, w way, g *genkit.Genkit, e *sluice.Executor, name string, c Config, fn ai.ToolFunc[In, Out]) []ai.GenerateOption {
	if w == byTool {
		tool, err := DefineTool(g, e, name, "search the web", c, fn)
		require.NoError(t, err)
		return []ai.GenerateOption{ai.WithTools(tool)}
	}
	return []ai.GenerateOption{ai.WithTools(genkit.DefineTool(g, name, "search the web", fn)), ai.WithUse(Middleware(e, c))}
}

// asks are calls of a tool, one for each query, with refs call_0 and so on.
func asks(name string, queries ...string) (parts []*ai.Part) {
	for i, q := range queries {
		parts = append(parts, ai.NewToolRequestPart(&ai.ToolRequest{Name: name, Ref: fmt.Sprint("call_", i), Input: map[string]any{"query": q}}))
	}
	return parts
}

var models atomic.Int64

// newModel calls what it is given, and says "done" when it has read the outputs, which it notes as JSON.
func newModel(g *genkit.Genkit, calls []*ai.Part, outputs *[]string) ai.Model {
	return genkit.DefineModelAction(g, fmt.Sprint("test/", models.Add(1)), &ai.ModelOptions{Supports: &ai.ModelSupports{Tools: true, Multiturn: true}},
		func(_ context.Context, req *ai.ModelRequest, _ any, _ ai.ModelStreamCallback) (*ai.ModelResponse, error) {
			last := req.Messages[len(req.Messages)-1]
			if last.Role != ai.RoleTool {
				return &ai.ModelResponse{Request: req, Message: ai.NewMessage(ai.RoleModel, nil, calls...)}, nil
			}
			for _, p := range last.Content {
				raw, err := json.Marshal(p.ToolResponse.Output)
				if err != nil {
					return nil, err
				}
				*outputs = append(*outputs, string(raw))
			}
			return &ai.ModelResponse{Request: req, Message: ai.NewModelTextMessage("done")}, nil
		})
}

// generate is a run whose model makes calls, and what that read of their outputs.
func generate(ctx context.Context, g *genkit.Genkit, opts []ai.GenerateOption, calls ...*ai.Part) (*ai.ModelResponse, []string, error) {
	var outputs []string
	res, err := genkit.Generate(ctx, g, append([]ai.GenerateOption{ai.WithModel(newModel(g, calls, &outputs)), ai.WithPrompt("hi")}, opts...)...)
	return res, outputs, err
}

// outputsOf is what a model reads of its calls' outputs in a run that must not fail.
func outputsOf(t *testing.T, g *genkit.Genkit, opts []ai.GenerateOption, calls ...*ai.Part) []string {
	res, outputs, err := generate(t.Context(), g, opts, calls...)
	require.NoError(t, err)
	require.Equal(t, "done", res.Text())
	return outputs
}

// limit is a gate that lets n calls run at once.
func limit(n int) sluice.Interceptor {
	return sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: n}}}))
}

// perMinute is a gate that lets n calls start in a minute, and refuses others.
func perMinute(n int64) sluice.Interceptor {
	return sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "web", Refuse: true, Rates: []sluice.Rate{{N: n, Per: time.Minute}}}))
}

const (
	panicked = `{"error":{"message":"the tool failed","retryable":false,"type":"panic"}}`
	exited   = `{"error":{"message":"the tool failed","retryable":false,"type":"goexit"}}`
	failed   = `{"error":{"message":"backend says no","retryable":false,"type":"tool_error"}}`
	limited  = `{"error":{"message":"too many calls for now; try again in 60 s","retry_after_ms":60000,"retryable":true,"type":"rate_limited"}}`
	timedOut = `{"error":{"message":"the tool did not finish in time","retryable":false,"type":"timeout"}}`
)
