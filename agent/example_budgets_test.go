package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// newResearcher is an executor with tools to look things up and to change them, behind layers.
func newResearcher(layers ...sluice.Interceptor) *sluice.Executor {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: layers}))
	text := ""
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search", Hints: sluice.Hints{ReadOnly: true}}, func(ctx context.Context, query string) (string, error) {
		sluice.ReportUsage(ctx, "cents", 3)
		return "nothing about " + query, nil
	}))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "edit"}, func(_ context.Context, to string) (string, error) { text = to; return "ok", nil }))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "test"}, func(context.Context, struct{}) (string, error) {
		return fmt.Sprintf("%d of 3 tests pass", min(len(text), 2)), nil
	}))
	return exec
}

// asks is what a model says that makes calls, each a tool's name and its arguments.
func asks(calls ...string) []byte {
	list := []map[string]any{}
	for i := 0; i < len(calls); i += 2 {
		list = append(list, map[string]any{"id": fmt.Sprint("c", i/2+1), "type": "function", "function": map[string]string{"name": calls[i], "arguments": calls[i+1]}})
	}
	return sluice.Must(json.Marshal(map[string]any{"role": "assistant", "tool_calls": list}))
}

// said prints what answers the calls of a turn.
func said(t *agent.Turn) {
	for _, m := range t.Messages[1:] {
		var answer struct{ Content string }
		if err := json.Unmarshal(m, &answer); err != nil {
			panic(err)
		}
		fmt.Println(answer.Content)
	}
}

// A run may make three calls, two of them searches; a session so much more.
func ExampleUsageLimits() {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	limits := sluice.Must(agent.NewUsageLimits(agent.UsageLimitsConfig{
		Run:     agent.Usage{Calls: 3, Tools: map[string]int{"search": 2}},
		Session: agent.Usage{Calls: 100, Time: 10 * time.Minute},
		Exit:    agent.ExitEnd,
		State:   state,
	}))
	exec := newResearcher(limits) // outside approvals, retries and gates
	runner := sluice.Must(agent.New(exec, agent.Config{}))

	ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{SessionID: "s-1"})
	ctx = agent.WithRun(ctx)
	turn, err := runner.Turn(ctx, agent.OpenAIChat, asks("search", `"sluices"`, "search", `"locks"`, "search", `"weirs"`, "edit", `"x"`))
	if err != nil {
		panic(err)
	}
	said(turn)
	fmt.Println(turn.Done(), sluice.CodeOf(turn.Stop))
	run, session, err := limits.Used(ctx)
	fmt.Println(run.Calls, run.Tools, session.Calls, err)
	// Output:
	// nothing about sluices
	// nothing about locks
	// {"error":{"type":"usage_limit","message":"the call was denied: all 2 calls of this tool that are allowed have been made; do not call it again","retryable":false}}
	// ok
	// true usage_limit
	// 3 map[search:2] 3 <nil>
}

// What tools report of a unit counts if a RateLimiter counts it, however much that lets through.
func ExampleUsageLimits_units() {
	limits := sluice.Must(agent.NewUsageLimits(agent.UsageLimitsConfig{Run: agent.Usage{Units: map[string]int64{"cents": 5}}}))
	meter := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name: "costs", Rates: []sluice.Rate{{N: 1_000_000, Per: time.Second, Unit: "cents"}},
	}))
	exec := newResearcher(limits, meter)
	ctx := agent.WithRun(context.Background())
	for _, query := range []string{"sluices", "locks", "weirs"} {
		res, err := exec.Invoke(ctx, sluice.Request{Tool: "search", Input: query})
		if fmt.Println(res.Value); err != nil {
			fmt.Println(sluice.ModelText(err))
		}
	}
	run, _, _ := limits.Used(ctx)
	fmt.Println(run.Units)
	// Output:
	// nothing about sluices
	// nothing about locks
	// <nil>
	// {"type":"usage_limit","message":"the call was denied: the \"cents\" that tools may use are used up; make no more tool calls, and answer with what you have","retryable":false}
	// map[cents:6]
}

// A model that runs the same failing tests again and again is told so; after an edit it may run them again.
func ExampleLoops() {
	exec := newResearcher(sluice.Must(agent.NewLoops(agent.LoopsConfig{})))
	runner := sluice.Must(agent.New(exec, agent.Config{}))
	ctx := agent.WithRun(context.Background())
	for _, call := range [][]string{
		{"test", `{}`}, {"search", `"why"`}, {"test", `{}`}, {"search", `"why"`}, {"test", ` { } `},
		{"test", `{}`}, {"edit", `"x"`}, {"test", `{}`},
	} {
		turn, err := runner.Turn(ctx, agent.OpenAIChat, asks(call...))
		if err != nil {
			panic(err)
		}
		said(turn)
	}
	// Output:
	// 0 of 3 tests pass
	// nothing about why
	// 0 of 3 tests pass
	// nothing about why
	// 0 of 3 tests pass
	// {"error":{"type":"loop_detected","message":"the call was denied: this call has been made 3 times with the same arguments and the same result, and nothing has changed since; do not repeat it: use the result that you have, try another way, or say what is in the way","retryable":false}}
	// ok
	// 1 of 3 tests pass
}

// Tools that poll what stays the same for long may.
func ExampleLoopsConfig() {
	loops := sluice.Must(agent.NewLoops(agent.LoopsConfig{
		Repeats: 2,
		Exempt:  func(tool sluice.Spec) bool { return tool.Name == "test" },
		Exit:    agent.ExitError,
	}))
	runner := sluice.Must(agent.New(newResearcher(loops), agent.Config{}))
	ctx := agent.WithRun(context.Background())
	for range 3 {
		turn, err := runner.Turn(ctx, agent.OpenAIChat, asks("test", `{}`, "search", `"why"`))
		fmt.Println(turn.Done(), len(turn.Messages), err != nil)
	}
	// Output:
	// false 3 false
	// false 3 false
	// true 3 true
}

// An agent that is a tool of another has a run of its own, which is part of the other's.
func ExampleWithRun() {
	limits := sluice.Must(agent.NewUsageLimits(agent.UsageLimitsConfig{Run: agent.Usage{Calls: 4}}))
	exec := newResearcher(limits)
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "librarian"}, func(ctx context.Context, queries []string) (int, error) {
		ctx = agent.WithRun(ctx)
		for _, q := range queries {
			if _, err := exec.Invoke(ctx, sluice.Request{Tool: "search", Input: q}); err != nil {
				return 0, err
			}
		}
		own, _, _ := limits.Used(ctx)
		return own.Calls, nil
	}))
	ctx := agent.WithRun(context.Background())
	res, err := exec.Invoke(ctx, sluice.Request{Tool: "librarian", Input: []string{"sluices", "locks"}})
	fmt.Println(res.Value, err)
	all, _, _ := limits.Used(ctx)
	fmt.Println(all.Calls)
	res, err = exec.Invoke(ctx, sluice.Request{Tool: "librarian", Input: []string{"weirs"}})
	fmt.Println(res.Value, sluice.CodeOf(err))
	// Output:
	// 2 <nil>
	// 3
	// <nil> tool_error
}
