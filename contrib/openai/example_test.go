package sluiceopenai_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/responses"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	sluiceopenai "github.com/sluice-go/sluice/contrib/openai"
)

type weatherIn struct {
	City string `json:"city"`
}

// newWeather is an executor with one tool, of which two calls run at once.
func newWeather() *sluice.Executor {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits}}))
	spec := sluice.Spec{Name: "weather", InputSchema: json.RawMessage(`{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}`)}
	sluice.Must(sluice.Wrap(exec, spec, func(_ context.Context, in weatherIn) (string, error) {
		if in.City == "Atlantis" {
			return "", errors.New("no such city")
		}
		return "12 degrees in " + in.City, nil
	}))
	return exec
}

// ask is an agent on chat completions. Chat is the line that runs the model's calls.
func ask(ctx context.Context, client openai.Client, exec *sluice.Executor, question string) (string, error) {
	runner := sluice.Must(agent.New(exec, agent.Config{}))
	params := openai.ChatCompletionNewParams{
		Model:    "gpt-5.1",
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(question)},
		Tools:    sluice.Must(sluiceopenai.ChatTools(agent.CodecConfig{}, exec.Registry().Tools())),
	}
	for {
		completion, err := client.Chat.Completions.New(ctx, params)
		if err != nil {
			return "", err
		}
		turn, err := sluiceopenai.Chat(ctx, runner, agent.CodecConfig{}, completion)
		if err != nil {
			return "", err
		}
		if params.Messages = append(params.Messages, turn.Messages...); turn.Done() {
			return turn.Message.Text(), nil
		}
	}
}

// A turn of three calls, of which one fails and one cannot be made: each has its answer.
func ExampleChat() {
	exec := newWeather()
	defer exec.Close(context.Background())
	model := &script{bodies: []string{
		chatBody(`{"role":"assistant","content":null,"tool_calls":[`+
			`{"id":"call_1","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Oslo\"}"}},`+
			`{"id":"call_2","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Atlantis\"}"}},`+
			`{"id":"call_3","type":"function","function":{"name":"wheather","arguments":"{}"}}]}`, "tool_calls"),
		chatBody(`{"role":"assistant","content":"It is 12 degrees."}`, "stop"),
	}}
	fmt.Println(ask(context.Background(), model.client(), exec, "How warm is it in Oslo and Atlantis?"))

	var request struct {
		Messages []struct{ Content string }
	}
	_ = json.Unmarshal([]byte(model.asked[1]), &request)
	for _, m := range request.Messages[2:] {
		fmt.Println(m.Content)
	}
	// Output:
	// It is 12 degrees. <nil>
	// 12 degrees in Oslo
	// {"error":{"type":"tool_error","message":"no such city","retryable":false}}
	// {"error":{"type":"unknown_tool","message":"there is no tool \"wheather\"; did you mean \"weather\"?","retryable":false}}
}

// With responses, where OpenAI keeps the history: what it has said itself is not sent again.
func ExampleResponse() {
	exec := newWeather()
	defer exec.Close(context.Background())
	runner := sluice.Must(agent.New(exec, agent.Config{}))
	model := &script{bodies: []string{
		`{"id":"resp_1","object":"response","status":"completed","output":[{"type":"function_call","id":"fc_1","call_id":"call_1","name":"weather","arguments":"{\"city\":\"Oslo\"}","status":"completed"}]}`,
		`{"id":"resp_2","object":"response","status":"completed","output":[{"type":"message","id":"msg_1","role":"assistant","status":"completed","content":[{"type":"output_text","text":"It is 12 degrees.","annotations":[]}]}]}`,
	}}
	client := model.client()

	ctx := context.Background()
	params := responses.ResponseNewParams{
		Model: "gpt-5.1",
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("How warm is it in Oslo?")},
		Tools: sluice.Must(sluiceopenai.ResponseTools(agent.CodecConfig{}, exec.Registry().Tools())),
	}
	for {
		response, err := client.Responses.New(ctx, params)
		if err != nil {
			fmt.Println(err)
			return
		}
		turn, err := sluiceopenai.Response(ctx, runner, agent.CodecConfig{}, response)
		if err != nil {
			fmt.Println(err)
			return
		}
		if turn.Done() {
			fmt.Println(turn.Message.Text())
			return
		}
		params.PreviousResponseID = openai.String(response.ID)
		params.Input = responses.ResponseNewParamsInputUnion{OfInputItemList: turn.Answers()}
	}
	// Output:
	// It is 12 degrees.
}
