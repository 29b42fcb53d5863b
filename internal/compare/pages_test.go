package compare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go/v2"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/v2/option"
	anthropicparam "github.com/anthropics/anthropic-sdk-go/v2/packages/param"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/responses"
	"google.golang.org/genai"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// The loops of docs/openai-chat.md, docs/openai-responses.md, docs/anthropic.md and docs/gemini.md with the providers' own
// libraries. A test of package agent holds that the pages show what stands here.

var errTurns = errors.New("the model calls tools again and again")

func askChat(ctx context.Context, client openai.Client, runner *agent.Runner, params openai.ChatCompletionNewParams) (string, error) {
	for range 20 {
		completion, err := client.Chat.Completions.New(ctx, params)
		if err != nil {
			return "", err
		}
		turn, err := runner.Turn(ctx, agent.OpenAIChat, []byte(completion.RawJSON()))
		if err != nil {
			return "", err
		}
		for _, m := range turn.Messages {
			params.Messages = append(params.Messages, param.Override[openai.ChatCompletionMessageParamUnion](m))
		}
		if turn.Done() {
			return turn.Message.Text(), nil
		}
	}
	return "", errTurns
}

func askResponses(ctx context.Context, client openai.Client, runner *agent.Runner, params responses.ResponseNewParams) (string, error) {
	for range 20 {
		response, err := client.Responses.New(ctx, params)
		if err != nil {
			return "", err
		}
		turn, err := runner.Turn(ctx, agent.OpenAIResponses, []byte(response.RawJSON()))
		if err != nil {
			return "", err
		}
		for _, m := range turn.Messages {
			item := param.Override[responses.ResponseInputItemUnionParam](m)
			params.Input.OfInputItemList = append(params.Input.OfInputItemList, item)
		}
		if turn.Done() {
			return turn.Message.Text(), nil
		}
	}
	return "", errTurns
}

func askMessages(ctx context.Context, client anthropic.Client, runner *agent.Runner, params anthropic.MessageNewParams) (string, error) {
	for range 20 {
		message, err := client.Messages.New(ctx, params)
		if err != nil {
			return "", err
		}
		turn, err := runner.Turn(ctx, agent.Anthropic, []byte(message.RawJSON()))
		if err != nil {
			return "", err
		}
		for _, m := range turn.Messages {
			params.Messages = append(params.Messages, anthropicparam.Override[anthropic.MessageParam](m))
		}
		if turn.Done() {
			return turn.Message.Text(), nil
		}
	}
	return "", errTurns
}

func askGemini(ctx context.Context, client *genai.Client, runner *agent.Runner, contents []*genai.Content, config *genai.GenerateContentConfig) (string, error) {
	for range 20 {
		response, err := client.Models.GenerateContent(ctx, "gemini-3.5-flash", contents, config)
		if err != nil {
			return "", err
		}
		body, err := json.Marshal(response)
		if err != nil {
			return "", err
		}
		turn, err := runner.Turn(ctx, agent.Gemini, body)
		if err != nil {
			return "", err
		}
		for _, m := range turn.Messages {
			content := new(genai.Content)
			if err := json.Unmarshal(m, content); err != nil {
				return "", err
			}
			contents = append(contents, content)
		}
		if turn.Done() {
			return turn.Message.Text(), nil
		}
	}
	return "", errTurns
}

// script is a provider that answers with one body after the other.
type script struct {
	kind   string
	bodies []string
	asked  []string
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if s.asked = append(s.asked, string(body)); len(s.asked) > len(s.bodies) {
		return nil, io.ErrUnexpectedEOF
	}
	return &http.Response{
		StatusCode: 200, Status: "200 OK", Header: http.Header{"Content-Type": {s.kind}}, Request: r,
		Body: io.NopCloser(strings.NewReader(s.bodies[len(s.asked)-1])),
	}, nil
}

// listed is a list of tools for a library.
func listed[T any](t *testing.T, list json.RawMessage, tool func(json.RawMessage) T) (out []T) {
	t.Helper()
	var all []json.RawMessage
	if err := json.Unmarshal(list, &all); err != nil {
		t.Fatal(err)
	}
	for _, raw := range all {
		out = append(out, tool(raw))
	}
	return out
}

// TestPages_Libraries runs the pages' loops: what the model has said comes again with all its members, and so do answers.
func TestPages_Libraries(t *testing.T) {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	defer exec.Close(context.Background())
	type in struct {
		City string `json:"city"`
	}
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "weather"}, func(_ context.Context, in in) (string, error) { return "12 degrees in " + in.City, nil }))
	runner := sluice.Must(agent.New(exec, agent.Config{}))
	tools := exec.Registry().Tools()
	ctx := t.Context()
	for _, c := range []struct {
		name  string
		calls string // what the model has said, as it stands in the body
		body  string // around that
		end   string
		want  string // in the second request
		ask   func(client *http.Client) (string, error)
	}{
		{"openai-chat",
			`{"role":"assistant","content":"a < b","x_new":9007199254740993,"tool_calls":[{"id":"c1","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Oslo\"}"}}]}`,
			`{"id":"1","choices":[{"index":0,"message":%s,"finish_reason":"tool_calls"}]}`,
			`{"id":"2","choices":[{"index":0,"message":{"role":"assistant","content":"Warm."},"finish_reason":"stop"}]}`,
			`%s,{"role":"tool","tool_call_id":"c1","content":"12 degrees in Oslo"}`,
			func(client *http.Client) (string, error) {
				return askChat(ctx, openai.NewClient(option.WithAPIKey("k"), option.WithHTTPClient(client)), runner, openai.ChatCompletionNewParams{
					Model: "gpt-5.1", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("How warm is it?")},
					Tools: listed(t, sluice.Must(agent.OpenAIChat.Tools(tools)), func(raw json.RawMessage) openai.ChatCompletionToolUnionParam {
						return param.Override[openai.ChatCompletionToolUnionParam](raw)
					}),
				})
			}},
		{"openai-responses",
			`{"id":"rs_1","type":"reasoning","summary":[],"encrypted_content":"gAA"},{"id":"fc_1","type":"function_call","call_id":"c1","name":"weather","arguments":"{\"city\":\"Oslo\"}","status":"completed","x_new":9007199254740993}`,
			`{"id":"1","object":"response","status":"completed","error":null,"output":[%s]}`,
			`{"id":"2","object":"response","status":"completed","output":[{"type":"message","role":"assistant","status":"completed","content":[{"type":"output_text","text":"Warm.","annotations":[]}]}]}`,
			`%s,{"type":"function_call_output","call_id":"c1","output":"12 degrees in Oslo"}`,
			func(client *http.Client) (string, error) {
				return askResponses(ctx, openai.NewClient(option.WithAPIKey("k"), option.WithHTTPClient(client)), runner, responses.ResponseNewParams{
					Model: "gpt-5.1",
					Input: responses.ResponseNewParamsInputUnion{OfInputItemList: responses.ResponseInputParam{responses.ResponseInputItemParamOfMessage("How warm is it?", "user")}},
					Tools: listed(t, sluice.Must(agent.OpenAIResponses.Tools(tools)), func(raw json.RawMessage) responses.ToolUnionParam {
						return param.Override[responses.ToolUnionParam](raw)
					}),
				})
			}},
		{"anthropic",
			`[{"type":"thinking","thinking":"hm","signature":"c2ln"},{"type":"tool_use","id":"c1","name":"weather","input":{"city":"Oslo"},"x_new":9007199254740993}]`,
			`{"id":"1","type":"message","role":"assistant","content":%s,"stop_reason":"tool_use","usage":{}}`,
			`{"id":"2","type":"message","role":"assistant","content":[{"type":"text","text":"Warm."}],"stop_reason":"end_turn","usage":{}}`,
			`{"role":"assistant","content":%s},{"role":"user","content":[{"type":"tool_result","tool_use_id":"c1","content":"12 degrees in Oslo"}]}`,
			func(client *http.Client) (string, error) {
				return askMessages(ctx, anthropic.NewClient(anthropicoption.WithAPIKey("k"), anthropicoption.WithHTTPClient(client)), runner, anthropic.MessageNewParams{
					Model: "claude-sonnet-5", MaxTokens: 4096, Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("How warm is it?"))},
					Tools: listed(t, sluice.Must(agent.Anthropic.Tools(tools)), func(raw json.RawMessage) anthropic.ToolUnionParam {
						return anthropicparam.Override[anthropic.ToolUnionParam](raw)
					}),
				})
			}},
		{"gemini", // which has no members but those that the library knows
			`{"parts":[{"functionCall":{"args":{"city":"Oslo"},"id":"c1","name":"weather"},"thoughtSignature":"c2ln"}],"role":"model"}`,
			`{"candidates":[{"content":%s,"finishReason":"STOP"}]}`,
			`{"candidates":[{"content":{"role":"model","parts":[{"text":"Warm."}]},"finishReason":"STOP"}]}`,
			`%s,{"parts":[{"functionResponse":{"id":"c1","name":"weather","response":{"output":"12 degrees in Oslo"}}}],"role":"user"}`,
			func(client *http.Client) (string, error) {
				c, err := genai.NewClient(ctx, &genai.ClientConfig{APIKey: "k", Backend: genai.BackendGeminiAPI, HTTPClient: client})
				if err != nil {
					return "", err
				}
				var list []*genai.Tool
				if err := json.Unmarshal(sluice.Must(agent.Gemini.Tools(tools)), &list); err != nil {
					return "", err
				}
				return askGemini(ctx, c, runner, genai.Text("How warm is it?"), &genai.GenerateContentConfig{Tools: list})
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &script{kind: "application/json", bodies: []string{fmt.Sprintf(c.body, c.calls), c.end}}
			text, err := c.ask(&http.Client{Transport: s})
			if err != nil || text != "Warm." || len(s.asked) != 2 {
				t.Fatalf("%q, %v, after %d requests", text, err, len(s.asked))
			}
			if !strings.Contains(s.asked[0], `"name":"weather"`) {
				t.Errorf("the tools are not in %s", s.asked[0])
			}
			if want := fmt.Sprintf(c.want, c.calls); !strings.Contains(s.asked[1], want) {
				t.Errorf("got %s\nwant in it %s", s.asked[1], want)
			}
		})
	}
}

// TestPages_LibrariesStream holds that what a stream of a library gives out is what Stream.Event takes.
func TestPages_LibrariesStream(t *testing.T) {
	events := func(all ...string) *http.Client {
		return &http.Client{Transport: &script{kind: "text/event-stream", bodies: []string{"data: " + strings.Join(all, "\n\ndata: ") + "\n\n"}}}
	}
	check := func(s *agent.Stream, errs ...error) {
		t.Helper()
		m, err := s.Message()
		if err := errors.Join(append(errs, err)...); err != nil {
			t.Fatal(err)
		}
		if len(m.Calls) != 1 || m.Calls[0].Err != nil || string(m.Calls[0].Request.Args) != `{"n":9007199254740993}` {
			t.Errorf("%+v", m.Calls)
		}
	}
	var errs []error

	client := openai.NewClient(option.WithAPIKey("k"), option.WithHTTPClient(events(
		`{"choices":[{"index":0,"delta":{"role":"assistant","tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"f","arguments":"{\"n\":"}}]}}]}`,
		`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"9007199254740993}"}}]},"finish_reason":"tool_calls"}]}`, `[DONE]`,
	)))
	chat := client.Chat.Completions.NewStreaming(t.Context(), openai.ChatCompletionNewParams{})
	s := agent.OpenAIChat.Stream()
	for chat.Next() {
		errs = append(errs, s.Event([]byte(chat.Current().RawJSON())))
	}
	check(s, append(errs, chat.Err())...)

	client = openai.NewClient(option.WithAPIKey("k"), option.WithHTTPClient(events(
		`{"type":"response.created","response":{"id":"1","status":"in_progress","output":[]}}`,
		`{"type":"response.completed","response":{"id":"1","status":"completed","output":[{"type":"function_call","call_id":"c1","name":"f","arguments":"{\"n\":9007199254740993}","status":"completed"}]}}`,
	)))
	response := client.Responses.NewStreaming(t.Context(), responses.ResponseNewParams{})
	s = agent.OpenAIResponses.Stream()
	for response.Next() {
		errs = append(errs, s.Event([]byte(response.Current().RawJSON())))
	}
	check(s, append(errs, response.Err())...)

	claude := anthropic.NewClient(anthropicoption.WithAPIKey("k"), anthropicoption.WithHTTPClient(&http.Client{Transport: &script{kind: "text/event-stream", bodies: []string{
		"event: message_start\ndata: " + `{"type":"message_start","message":{"id":"1","type":"message","role":"assistant","content":[],"usage":{}}}` + "\n\n" +
			"event: content_block_start\ndata: " + `{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"c1","name":"f","input":{}}}` + "\n\n" +
			"event: content_block_delta\ndata: " + `{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"n\":9007199254740993}"}}` + "\n\n" +
			"event: content_block_stop\ndata: " + `{"type":"content_block_stop","index":0}` + "\n\n" +
			"event: message_delta\ndata: " + `{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{}}` + "\n\n" +
			"event: message_stop\ndata: " + `{"type":"message_stop"}` + "\n\n"}}}))
	message := claude.Messages.NewStreaming(t.Context(), anthropic.MessageNewParams{})
	s = agent.Anthropic.Stream()
	for message.Next() {
		errs = append(errs, s.Event([]byte(message.Current().RawJSON())))
	}
	check(s, append(errs, message.Err())...)
}
