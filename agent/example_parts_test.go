package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// A result of text and a picture, as a provider's model gets it.
func ExamplePart() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	defer exec.Close(context.Background())
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "chart"}, func(context.Context, struct{}) (agent.Content, error) {
		return agent.Content{agent.Text("sales in May"), agent.Image("image/png", []byte("png"))}, nil
	}))
	runner := sluice.Must(agent.New(exec, agent.Config{}))
	turn, err := runner.Turn(context.Background(), agent.Anthropic, []byte(`{"role":"assistant","stop_reason":"tool_use","content":[
		{"type":"tool_use","id":"c1","name":"chart","input":{}}]}`))
	fmt.Println(string(turn.Messages[1]), err)
	// Output:
	// {"role":"user","content":[{"type":"tool_result","tool_use_id":"c1","content":[{"type":"text","text":"sales in May"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"cG5n"}}]}]} <nil>
}

// A stream in a format that differs from its provider's: here in the names that tools have.
func ExampleNewStream() {
	reg := sluice.NewToolRegistry()
	sluice.Must(sluice.Register(reg, sluice.Spec{Name: "clock.now"}, nothing))
	names := sluice.Must(agent.NewNames(reg.Tools()))
	codec := sluice.Must(agent.OpenAIChat.With(agent.CodecConfig{Names: names}))
	s := sluice.Must(agent.NewStream(codec))
	fmt.Fprintf(s, "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"c1\",\"function\":{\"name\":%q,\"arguments\":\"{}\"}}]}}]}\n\n", names.Name("clock.now"))
	fmt.Fprint(s, "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n")
	m, err := s.Message()
	fmt.Println(m.Calls[0].Request.Tool, err)
	// Output:
	// clock.now <nil>
}

// A large transfer waits for somebody's word, and holds nothing while it waits.
func ExampleNewApprovals() {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	approvals := sluice.Must(agent.NewApprovals(agent.ApprovalsConfig{
		State: state,
		Needs: func(c sluice.Call) (message string, needed bool) {
			t, ok := c.Input.(transfer)
			return fmt.Sprintf("transfer %d euros to %s", t.Euros, t.To), ok && t.Euros > 100
		},
		Lifetime: time.Hour,
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{approvals}, // outside retries and gates
	}))
	defer exec.Close(context.Background())
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "transfer"}, func(_ context.Context, t transfer) (string, error) {
		return fmt.Sprintf("%d euros are on their way", t.Euros), nil
	}))
	runner := sluice.Must(agent.New(exec, agent.Config{}))
	ctx := context.Background()
	replies := runner.Run(ctx, []sluice.Request{{ID: "c1", Tool: "transfer", Args: json.RawMessage(`{"to":"Ada","euros":500}`)}})
	fmt.Println(sluice.ModelText(replies[0].Err))
	for _, a := range sluice.Must(approvals.Pending(ctx)) {
		fmt.Println("somebody reads:", a.Message)
	}
	// Output:
	// {"type":"approval_pending","message":"the call was denied: it waits for approval, and has not run; do not repeat it","retryable":false}
	// somebody reads: transfer 500 euros to Ada
}
