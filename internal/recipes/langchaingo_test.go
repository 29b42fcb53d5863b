package recipes

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tmc/langchaingo/agents"
	"github.com/tmc/langchaingo/chains"
	"github.com/tmc/langchaingo/llms/fake"
	"github.com/tmc/langchaingo/schema"
	"github.com/tmc/langchaingo/tools"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// The recipe of docs/langchaingo.md, to the next comment that stands alone.

// guard is tools whose calls run through exec, under names that its registry takes.
func guard(exec *sluice.Executor, ts ...tools.Tool) ([]tools.Tool, error) {
	var specs []sluice.Spec
	for _, t := range ts {
		specs = append(specs, sluice.Spec{Name: t.Name(), Description: t.Description()})
	}
	names, err := agent.NewNames(slices.Values(specs))
	if err != nil {
		return nil, err
	}
	var all []tools.Tool
	for i, spec := range specs {
		spec.Name = names.Name(spec.Name)
		if err := sluice.Declare(exec.Registry(), spec); err != nil {
			return nil, err
		}
		all = append(all, guarded{ts[i], exec, spec.Name})
	}
	return all, nil
}

type guarded struct {
	tools.Tool
	exec *sluice.Executor
	name string // in the registry
}

// Call answers an error of the call in words for the model, since an error would end the run.
func (g guarded) Call(ctx context.Context, input string) (string, error) {
	args, err := json.Marshal(input)
	if err != nil {
		return "", err
	}
	out, err := sluice.Do(ctx, g.exec, sluice.Request{Tool: g.name, Args: args}, func(ctx context.Context) (string, error) {
		return g.Tool.Call(ctx, input)
	})
	if err == nil || ctx.Err() != nil {
		return out, err
	}
	return sluice.ModelText(err), nil
}

// What follows is not of the recipe.

// search is a tool with a name that the registry does not take.
type search struct{ now, peak, ran *atomic.Int64 }

func newSearch() search { return search{new(atomic.Int64), new(atomic.Int64), new(atomic.Int64)} }

func (search) Name() string        { return "DuckDuckGo Search" }
func (search) Description() string { return "Searches the web." }
func (s search) Call(ctx context.Context, input string) (string, error) {
	s.ran.Add(1)
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for m := s.peak.Load(); n > m && !s.peak.CompareAndSwap(m, n); m = s.peak.Load() {
	}
	switch input {
	case "panic":
		panic("secret sk-123")
	case "fail":
		return "", fmt.Errorf("no such page")
	case "hang":
		<-ctx.Done()
		return "", ctx.Err()
	}
	time.Sleep(10 * time.Millisecond)
	return "3 hits for " + input, nil
}

// act is what a model says to call a tool.
func act(tool, input string) string {
	return fmt.Sprintf("Thought: search\nAction: %s\nAction Input: %s", tool, input)
}

// An agent that searches with a quota of four calls an hour.
func Example_langchaingo() {
	ctx := context.Background()
	quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name: "web", Refuse: true, Rates: []sluice.Rate{{N: 4, Per: time.Hour}},
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{quota}, Timeout: 100 * time.Millisecond,
	}))
	defer exec.Close(ctx)
	const name = "DuckDuckGo Search"
	llm := fake.NewFakeLLM([]string{act(name, "go"), act(name, "panic"), act(name, "fail"), act(name, "hang"), act(name, "more"), "Thought: done\nFinal Answer: enough"})

	ts := sluice.Must(guard(exec, newSearch(), tools.Calculator{}))
	executor := agents.NewExecutor(agents.NewOneShotAgent(llm, ts), agents.WithMaxIterations(10), agents.WithReturnIntermediateSteps())

	answer, err := chains.Call(ctx, executor, map[string]any{"input": "What is new in Go?"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, step := range answer["intermediateSteps"].([]schema.AgentStep) {
		observation, _, _ := strings.Cut(step.Observation, "; try again in") // the exact time is up to the clock
		fmt.Println(observation)
	}
	fmt.Println(answer["output"])
	// Output:
	// 3 hits for go
	// {"type":"panic","message":"the tool failed","retryable":false}
	// {"type":"tool_error","message":"no such page","retryable":false}
	// {"type":"timeout","message":"the tool did not finish in time","retryable":false}
	// {"type":"rate_limited","message":"too many calls for now
	// enough
}

func newExecutor(t *testing.T, c sluice.Config) (*sluice.Executor, *sluice.Recorder) {
	t.Helper()
	rec := new(sluice.Recorder)
	c.Sink = rec
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), c)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, exec.Close(context.Background()))
		require.NoError(t, rec.Check())
	})
	return exec, rec
}

// The page shows the recipe, and the line of the example that uses it, and what a model reads of a refusal.
func TestLangchaingo_Page(t *testing.T) {
	code, texts := blocks(t, "langchaingo")
	require.Len(t, code, 2)
	source := unindented(t, "langchaingo_test.go")
	for _, block := range code {
		require.Contains(t, source, block)
	}
	recipe := source[strings.Index(source, "// guard is tools"):strings.Index(source, "// What follows is not of the recipe.")]
	require.Equal(t, strings.TrimSpace(recipe), strings.TrimSpace(code[1]), "the whole of it")

	synctest.Test(t, func(t *testing.T) {
		quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Refuse: true, Rates: []sluice.Rate{{N: 1, Per: 10 * time.Second}}}))
		exec, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{quota}})
		ts, err := guard(exec, newSearch())
		require.NoError(t, err)
		_, err = ts[0].Call(t.Context(), "go")
		require.NoError(t, err)
		refusal, err := ts[0].Call(t.Context(), "go")
		require.NoError(t, err)
		require.Equal(t, []string{refusal + "\n"}, texts)
	})
}

// What is told of a tool is its own, and the registry has it by another name where it must.
func TestLangchaingo_Names(t *testing.T) {
	exec, rec := newExecutor(t, sluice.Config{MaxArgBytes: 100})
	ts, err := guard(exec, newSearch(), tools.Calculator{})
	require.NoError(t, err)
	require.Equal(t, "DuckDuckGo Search", ts[0].Name())
	require.Equal(t, "Searches the web.", ts[0].Description())
	var there []string
	for spec := range exec.Registry().Tools() {
		there = append(there, spec.Name)
	}
	require.Equal(t, []string{"DuckDuckGo_Search_a89548ea", "calculator"}, there)

	for _, input := range []string{"1 + 2", "\"quoted\"\n"} {
		_, err = ts[1].Call(t.Context(), input)
		require.NoError(t, err)
	}
	out, err := ts[0].Call(t.Context(), strings.Repeat("x", 100))
	require.NoError(t, err)
	require.Contains(t, out, `"type":"invalid_arguments"`)
	require.Equal(t, len(`"1 + 2"`), rec.Events()[0].InputBytes)
	_, err = guard(exec, newSearch(), newSearch())
	require.EqualError(t, err, `agent: the tool "DuckDuckGo Search" is listed twice: names must differ`)
}

// A run that is cancelled ends.
func TestLangchaingo_Cancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exec, _ := newExecutor(t, sluice.Config{})
		ts, err := guard(exec, newSearch())
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		llm := fake.NewFakeLLM([]string{act("DuckDuckGo Search", "hang"), "Final Answer: never"})
		_, err = chains.Call(ctx, agents.NewExecutor(agents.NewOneShotAgent(llm, ts)), map[string]any{"input": "hi"})
		require.ErrorIs(t, err, context.Canceled)
	})
}

// A thousand agents' calls at once at limit 8: eight run all the time, and each is answered.
func TestLangchaingo_Load(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
		exec, _ := newExecutor(t, sluice.Config{Interceptors: []sluice.Interceptor{limits}})
		s := newSearch()
		ts, err := guard(exec, s)
		require.NoError(t, err)
		start := time.Now()
		answers := make([]string, 1000)
		var wg sync.WaitGroup
		for i := range answers {
			wg.Go(func() { answers[i], _ = ts[0].Call(t.Context(), fmt.Sprint(i)) })
		}
		wg.Wait()
		for i, answer := range answers {
			require.Equal(t, fmt.Sprint("3 hits for ", i), answer)
		}
		require.EqualValues(t, 8, s.peak.Load())
		require.Equal(t, 1250*time.Millisecond, time.Since(start))
	})
}
