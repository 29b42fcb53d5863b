package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

type transfer struct {
	To    string `json:"to"`
	Euros int    `json:"euros"`
}

// newTeller is a process with a tool that needs approval. It has the state of the one before.
func newTeller(state *sluice.SharedState) (*agent.Runner, *agent.Approvals) {
	approvals := sluice.Must(agent.NewApprovals(agent.ApprovalsConfig{
		State: state,
		Needs: func(c sluice.Call) (string, bool) {
			t, ok := c.Input.(transfer)
			return fmt.Sprintf("transfer %d euros to %s", t.Euros, t.To), ok && t.Euros > 100
		},
		Lifetime: 8 * time.Hour,
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{approvals}, // outside retries and gates
	}))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "transfer"}, func(_ context.Context, t transfer) (string, error) {
		return fmt.Sprintf("%d euros are on their way to %s", t.Euros, t.To), nil
	}))
	return sluice.Must(agent.New(exec, agent.Config{})), approvals
}

// A turn waits for a decision across a restart of the process.
func ExampleRunner_Resume() {
	ctx := context.Background()
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	runner, _ := newTeller(state)
	body := []byte(`{"role":"assistant","tool_calls":[
		{"id":"c1","type":"function","function":{"name":"transfer","arguments":"{\"to\":\"Ada\",\"euros\":20}"}},
		{"id":"c2","type":"function","function":{"name":"transfer","arguments":"{\"to\":\"Alan\",\"euros\":500}"}},
		{"id":"c3","type":"function","function":{"name":"transfer","arguments":"{\"to\":\"Eve\",\"euros\":900}"}}]}`)
	turn, err := runner.Turn(ctx, agent.OpenAIChat, body)
	if err != nil {
		panic(err)
	}
	for _, a := range turn.Pending {
		fmt.Println("asked:", a.Message)
	}
	saved := sluice.Must(json.Marshal(turn))
	snapshot := sluice.Must(json.Marshal(state)) // and the process ends

	state = new(sluice.SharedState)
	if err := json.Unmarshal(snapshot, state); err != nil {
		panic(err)
	}
	runner, approvals := newTeller(state)
	for _, a := range sluice.Must(approvals.Pending(ctx)) { // for people to see
		d := agent.Decision{Approve: true, By: "grace", Arguments: json.RawMessage(`{"to":"Alan","euros":400}`)}
		if a.Message == "transfer 900 euros to Eve" {
			d = agent.Decision{By: "grace", Reason: "nobody knows Eve"}
		}
		if err := approvals.Decide(ctx, a.ID, d); err != nil {
			panic(err)
		}
	}

	turn = new(agent.Turn)
	if err := json.Unmarshal(saved, turn); err != nil {
		panic(err)
	}
	turn, err = runner.Resume(ctx, agent.OpenAIChat, turn)
	if err != nil {
		panic(err)
	}
	for _, m := range turn.Messages[1:] {
		fmt.Println(string(m))
	}
	// Output:
	// asked: transfer 500 euros to Alan
	// asked: transfer 900 euros to Eve
	// {"role":"tool","tool_call_id":"c1","content":"20 euros are on their way to Ada"}
	// {"role":"tool","tool_call_id":"c2","content":"400 euros are on their way to Alan"}
	// {"role":"tool","tool_call_id":"c3","content":"{\"error\":{\"type\":\"approval_denied\",\"message\":\"the call was denied: approval was refused, so it has not run; do not repeat it unchanged: nobody knows Eve\",\"retryable\":false}}"}
}

// newGate is approvals of all calls, and an executor with a tool, behind interceptors of them.
func newGate(around func(*agent.Approvals) []sluice.Interceptor) (*agent.Approvals, func(context.Context, string) (string, error)) {
	approvals := sluice.Must(agent.NewApprovals(agent.ApprovalsConfig{
		State: sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{})),
		Needs: func(c sluice.Call) (string, bool) { return "delete " + c.Input.(string), true },
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: around(approvals)}))
	remove := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "delete"}, func(_ context.Context, file string) (string, error) { return file + " is gone", nil }))
	return approvals, remove
}

// Without a Runner, a call that is approved comes again with its approval.
func ExampleWithApproval() {
	ctx := context.Background()
	approvals, remove := newGate(func(a *agent.Approvals) []sluice.Interceptor { return []sluice.Interceptor{a} })
	_, err := remove(ctx, "a.txt")
	if x, ok := errors.AsType[*agent.ApprovalError](err); ok {
		fmt.Println(x.Approval.State, x.Approval.Message)
		_ = approvals.Decide(ctx, x.Approval.ID, agent.Decision{Approve: true, By: "grace"})
		ctx = agent.WithApproval(ctx, x.Approval.ID)
	}
	fmt.Println(remove(ctx, "a.txt"))
	_, err = remove(ctx, "b.txt") // which was not approved
	fmt.Println(sluice.CodeOf(err))
	// Output:
	// pending delete a.txt
	// a.txt is gone <nil>
	// approval_pending
}

// What nobody needs any more is cancelled, and is not approved by who comes too late.
func ExampleApprovals_Cancel() {
	ctx := context.Background()
	approvals, remove := newGate(func(a *agent.Approvals) []sluice.Interceptor { return []sluice.Interceptor{a} })
	_, _ = remove(ctx, "a.txt")
	id := sluice.Must(approvals.Pending(ctx))[0].ID
	fmt.Println(approvals.Cancel(ctx, id, "grace", "the run has ended"))
	fmt.Println(approvals.Decide(ctx, id, agent.Decision{Approve: true, By: "alan"}))
	now := sluice.Must(approvals.Get(ctx, id))
	fmt.Println(now.State, now.Decision.By)
	// Output:
	// <nil>
	// agent: Approvals.Decide: the approval is cancelled: must be pending: the request for approval was cancelled, so it has not run: the run has ended
	// cancelled grace
}

// A program at a terminal asks and waits.
func ExampleApprovals_Resolver() {
	_, remove := newGate(func(a *agent.Approvals) []sluice.Interceptor {
		ask := sluice.Must(a.Resolver(func(ctx context.Context, x agent.Approval) (agent.Decision, error) {
			fmt.Println(x.Message + "? yes") // wait for an answer, or for the end of ctx
			return agent.Decision{Approve: true, By: "user"}, nil
		}))
		return []sluice.Interceptor{ask, a}
	})
	fmt.Println(remove(context.Background(), "a.txt"))
	// Output:
	// delete a.txt? yes
	// a.txt is gone <nil>
}

// A program that only plans must not write.
func ExampleModes() {
	modes := sluice.Must(agent.NewModes(func(tool sluice.Spec) []string {
		if tool.Hints.ReadOnly {
			return nil // in all
		}
		return []string{"act"}
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{modes}}))
	write := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "write"}, func(context.Context, string) (string, error) { return "done", nil }))
	for _, mode := range []string{"plan", "act"} {
		ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{ExecutionMode: mode})
		out, err := write(ctx, "x")
		fmt.Println(out, sluice.ModelText(err))
	}
	// Output:
	//  {"type":"mode_denied","message":"the call was denied: the tool is not allowed in mode \"plan\": it is in \"act\"","retryable":false}
	// done
}
