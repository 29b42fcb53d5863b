package sluiceanthropic_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/toolrunner"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	sluiceanthropic "github.com/sluice-go/sluice/contrib/anthropic"
)

type weatherIn struct {
	City string `json:"city" jsonschema:"required,description=the city's English name"`
}

func weather(_ context.Context, in weatherIn) (string, error) {
	switch in.City {
	case "Atlantis":
		return "", errors.New("no such city")
	case "Vineta":
		panic("under water")
	}
	return "12 degrees in " + in.City, nil
}

// newExecutor lets two calls run at once.
func newExecutor() *sluice.Executor {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}}}))
	return sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits}}))
}

// Tools of the library's runner, guarded: a panic, which would have ended the process, is a result.
func ExampleTools() {
	exec := newExecutor()
	defer exec.Close(context.Background())
	model := &script{bodies: []string{
		body("tool_use", `{"type":"tool_use","id":"toolu_1","name":"weather","input":{"city":"Oslo"}}`,
			`{"type":"tool_use","id":"toolu_2","name":"weather","input":{"city":"Atlantis"}}`,
			`{"type":"tool_use","id":"toolu_3","name":"weather","input":{"city":"Vineta"}}`,
			`{"type":"tool_use","id":"toolu_4","name":"weather","input":{}}`),
		body("end_turn", `{"type":"text","text":"It is 12 degrees."}`),
	}}
	client := model.client()
	tools := []anthropic.BetaTool{sluice.Must(toolrunner.NewBetaToolFromJSONSchema("weather", "the weather in a city",
		func(ctx context.Context, in weatherIn) (anthropic.BetaToolResultBlockParamContentUnion, error) {
			s, err := weather(ctx, in)
			return text(s), err
		}))}
	params := anthropic.BetaToolRunnerParams{DisableThread: true, BetaMessageNewParams: anthropic.BetaMessageNewParams{
		Model: "claude-sonnet-5", MaxTokens: 4096,
		Messages: []anthropic.BetaMessageParam{anthropic.NewBetaUserMessage(anthropic.NewBetaTextBlock("How warm is it?"))},
	}}

	runner := client.Beta.Messages.NewToolRunner(sluice.Must(sluiceanthropic.Tools(exec, sluiceanthropic.Config{}, tools...)), params)

	message, err := runner.RunToCompletion(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(message.Content[0].Text)
	for _, result := range runner.Messages()[2].OfUser.Content {
		fmt.Println(result.OfToolResult.IsError.Value, result.OfToolResult.Content[0].OfText.Text)
	}
	// Output:
	// It is 12 degrees.
	// false 12 degrees in Oslo
	// true Error: {"type":"tool_error","message":"no such city","retryable":false}
	// true Error: {"type":"panic","message":"the tool failed","retryable":false}
	// true Error: {"type":"invalid_arguments","message":"the arguments do not fit the tool: $ lacks \"city\": required","retryable":false}
}

// ask is an agent on messages. Answer is the line that runs the model's calls.
func ask(ctx context.Context, client anthropic.Client, exec *sluice.Executor, question string) (string, error) {
	runner := sluice.Must(agent.New(exec, agent.Config{}))
	params := anthropic.MessageNewParams{
		Model: "claude-sonnet-5", MaxTokens: 4096,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(question))},
		Tools:    sluice.Must(sluiceanthropic.MessageTools(agent.CodecConfig{}, exec.Registry().Tools())),
	}
	for {
		message, err := client.Messages.New(ctx, params)
		if err != nil {
			return "", err
		}
		turn, err := sluiceanthropic.Answer(ctx, runner, agent.CodecConfig{}, message)
		if err != nil {
			return "", err
		}
		if params.Messages = append(params.Messages, turn.Messages...); turn.Done() {
			return turn.Message.Text(), nil
		}
	}
}

// A loop of one's own.
func ExampleAnswer() {
	exec := newExecutor()
	defer exec.Close(context.Background())
	spec := sluice.Spec{Name: "weather", InputSchema: json.RawMessage(`{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}`)}
	sluice.Must(sluice.Wrap(exec, spec, weather))
	model := &script{bodies: []string{
		body("tool_use", `{"type":"tool_use","id":"toolu_1","name":"weather","input":{"city":"Oslo"}}`, `{"type":"tool_use","id":"toolu_2","name":"weather","input":{}}`),
		body("end_turn", `{"type":"text","text":"It is 12 degrees."}`),
	}}
	fmt.Println(ask(context.Background(), model.client(), exec, "How warm is it?"))

	var request struct {
		Messages []struct {
			Content []struct {
				Content json.RawMessage
				IsError bool `json:"is_error"`
			}
		}
	}
	_ = json.Unmarshal([]byte(model.asked[1]), &request)
	for _, result := range request.Messages[2].Content {
		fmt.Println(result.IsError, string(result.Content))
	}
	// Output:
	// It is 12 degrees. <nil>
	// false "12 degrees in Oslo"
	// true "{\"type\":\"invalid_arguments\",\"message\":\"the arguments do not fit the tool: $ lacks \\\"city\\\": required\",\"retryable\":false}"
}
