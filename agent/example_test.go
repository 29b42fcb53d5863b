package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

func nothing(context.Context, struct{}) (string, error) { return "noon", nil }

// A turn by hand: the model's answer is parsed, its calls run, and their answers are rendered.
func ExampleFormat() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	defer exec.Close(context.Background())
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "now"}, nothing))

	body := []byte(`{"content":[{"type":"tool_use","id":"toolu_1","name":"now","input":{}}],"stop_reason":"tool_use"}`)
	m, err := agent.Anthropic.Parse(body)
	if err != nil {
		fmt.Println(err)
		return
	}
	var replies []agent.Reply
	for _, c := range m.Calls {
		r := agent.Reply{Request: c.Request, Err: c.Err}
		if r.Err == nil {
			r.Result, r.Err = exec.Invoke(context.Background(), c.Request)
		}
		replies = append(replies, r)
	}
	answers, err := agent.Anthropic.Render(m, replies)
	for _, raw := range append(m.Echo, answers...) {
		fmt.Printf("%s\n", raw)
	}
	fmt.Println(m.Done(), err)
	// Output:
	// {"role":"assistant","content":[{"type":"tool_use","id":"toolu_1","name":"now","input":{}}]}
	// {"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":"noon"}]}
	// false <nil>
}

// A whole turn in one call: what is to be sent back with the history.
func ExampleRunner_Turn() {
	exec := newLookup()
	defer exec.Close(context.Background())
	runner := sluice.Must(agent.New(exec, agent.Config{}))

	turn, err := runner.Turn(context.Background(), agent.OpenAIChat, []byte(`{"choices":[{"message":{"role":"assistant","tool_calls":[
		{"id":"c1","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Oslo\"}"}},
		{"id":"c2","type":"function","function":{"name":"wether","arguments":"{\"city\":\"Rome\"}"}}]}}]}`))
	for _, raw := range turn.Messages[1:] { // the first is the model's own
		fmt.Printf("%s\n", raw)
	}
	fmt.Println(turn.Done(), err)
	// Output:
	// {"role":"tool","tool_call_id":"c1","content":"sunny in Oslo"}
	// {"role":"tool","tool_call_id":"c2","content":"{\"error\":{\"type\":\"unknown_tool\",\"message\":\"there is no tool \\\"wether\\\"; did you mean \\\"weather\\\"?\",\"retryable\":false}}"}
	// false <nil>
}

// What a model got wrong in a call can be put right before the turn begins.
func ExampleConfig_repair() {
	exec := newLookup()
	defer exec.Close(context.Background())
	runner := sluice.Must(agent.New(exec, agent.Config{
		Repair: func(_ context.Context, call sluice.Request, why error) (sluice.Request, bool) {
			fmt.Println(sluice.CodeOf(why))
			call.Tool = "weather"
			return call, errors.Is(why, sluice.ErrUnknownTool)
		},
	}))
	replies := runner.Run(context.Background(), []sluice.Request{{Tool: "wether", Args: json.RawMessage(`{"city":"Oslo"}`)}})
	fmt.Println(replies[0].Result.Value)
	// Output:
	// unknown_tool
	// sunny in Oslo
}

// Tools whose names models do not take are listed under others, and called by their own.
func ExampleNewNames() {
	reg := sluice.NewToolRegistry()
	sluice.Must(sluice.Register(reg, sluice.Spec{Name: "crm.now"}, nothing))

	names := sluice.Must(agent.NewNames(reg.Tools()))
	codec := sluice.Must(agent.OpenAIChat.With(agent.CodecConfig{Names: names}))
	fmt.Printf("%s\n", sluice.Must(codec.Tools(reg.Tools())))

	m := sluice.Must(codec.Parse([]byte(`{"role":"assistant","tool_calls":[{"id":"c1","function":{"name":"crm_now_77397f33","arguments":"{}"}}]}`)))
	fmt.Println(m.Calls[0].Request.Tool)
	// Output:
	// [{"type":"function","function":{"name":"crm_now_77397f33","parameters":{"type":"object","properties":{}},"strict":false}}]
	// crm.now
}

// A streamed answer: the bytes go in as they come.
func ExampleStream() {
	s := agent.OpenAIChat.Stream()
	for _, part := range []string{
		`data: {"choices":[{"delta":{"role":"assistant","tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"now","argum`,
		"ents\":\"{\"}}]}}]}\n\ndata: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"}\"}}]}}]}\n\n",
		"data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n",
	} {
		if _, err := s.Write([]byte(part)); err != nil {
			fmt.Println(err)
		}
	}
	m, err := s.Message()
	fmt.Println(m.Calls[0].Request.Tool, string(m.Calls[0].Request.Args), err)
	// Output: now {} <nil>
}

// An answer is read from the response, whole or streamed.
func ExampleReadMessage() {
	for _, body := range []string{
		`{"content":[{"type":"text","text":"Good morning."}],"stop_reason":"end_turn"}`,
		`data: {"type":"message_start"}

data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Good "}}

data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"morning."}}

data: {"type":"message_stop"}

`,
	} {
		m, err := agent.ReadMessage(agent.Anthropic, strings.NewReader(body))
		fmt.Println(m.Text(), m.Done(), err)
	}
	// Output:
	// Good morning. true <nil>
	// Good morning. true <nil>
}

// A result of several parts.
func ExampleContent() {
	m := &agent.Message{Calls: []agent.Asked{{Request: sluice.Request{ID: "c1", Tool: "plan"}}}}
	var reply agent.Reply
	reply.Result.Value = agent.Content{agent.Text("the plan"), agent.Image("image/png", []byte("…"))}
	answers, err := agent.OpenAIResponses.Render(m, []agent.Reply{reply})
	fmt.Printf("%s %v\n", answers[0], err)
	// Output: {"type":"function_call_output","call_id":"c1","output":[{"type":"input_text","text":"the plan"},{"type":"input_image","image_url":"data:image/png;base64,4oCm"}]} <nil>
}
