package compare

import (
	"encoding/json"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/responses"
	"google.golang.org/genai"
)

// openaiChat is a turn with the chat completions of openai-go.
func openaiChat(t turn) ([]json.RawMessage, error) {
	var r openai.ChatCompletion
	if err := json.Unmarshal(t.body, &r); err != nil {
		return nil, err
	}
	message := &r.Choices[0].Message
	history := []openai.ChatCompletionMessageParamUnion{message.ToParam()}
	for i := range message.ToolCalls {
		history = append(history, openai.ToolMessage(t.answers[i], message.ToolCalls[i].ID))
	}
	return marshalEach(history)
}

// openaiResponses is a turn with the responses of openai-go. A union of the output has no ToParam: its items
// are given back as they came, which is what those of its variants do, and reads none of them twice.
func openaiResponses(t turn) ([]json.RawMessage, error) {
	var r responses.Response
	if err := json.Unmarshal(t.body, &r); err != nil {
		return nil, err
	}
	var history, answers []responses.ResponseInputItemUnionParam
	for i := range r.Output {
		item := &r.Output[i]
		history = append(history, param.Override[responses.ResponseInputItemUnionParam](json.RawMessage(item.RawJSON())))
		if item.Type == "function_call" {
			a := responses.ResponseInputItemParamOfFunctionCallOutput(t.answers[len(answers)])
			a.OfFunctionCallOutput.CallID = param.NewOpt(item.CallID)
			answers = append(answers, a)
		}
	}
	return marshalEach(append(history, answers...))
}

// anthropicMessages is a turn with anthropic-sdk-go.
func anthropicMessages(t turn) ([]json.RawMessage, error) {
	var m anthropic.Message
	if err := json.Unmarshal(t.body, &m); err != nil {
		return nil, err
	}
	var answers []anthropic.ContentBlockParamUnion
	for i := range m.Content {
		if m.Content[i].Type == "tool_use" {
			answers = append(answers, anthropic.ContentBlockParamUnion{OfToolResult: &anthropic.ToolResultBlockParam{
				ToolUseID: m.Content[i].ID,
				Content:   []anthropic.ToolResultBlockParamContentUnion{{OfText: &anthropic.TextBlockParam{Text: t.answers[len(answers)]}}},
			}})
		}
	}
	return marshalEach([]anthropic.MessageParam{m.ToParam(), anthropic.NewUserMessage(answers...)})
}

// geminiContents is a turn with genai, whose types are both what comes and what is sent.
func geminiContents(t turn) ([]json.RawMessage, error) {
	var r genai.GenerateContentResponse
	if err := json.Unmarshal(t.body, &r); err != nil {
		return nil, err
	}
	var answers []*genai.Part
	for i, call := range r.FunctionCalls() {
		answers = append(answers, &genai.Part{FunctionResponse: &genai.FunctionResponse{
			ID: call.ID, Name: call.Name, Response: map[string]any{"output": t.answers[i]},
		}})
	}
	return writeEach(r.Candidates[0].Content, genai.NewContentFromParts(answers, genai.RoleUser))
}

// marshalEach writes messages as the libraries do in a request, without the second look that json.Marshal has.
func marshalEach[T json.Marshaler](history []T) ([]json.RawMessage, error) {
	out := make([]json.RawMessage, len(history))
	for i, m := range history {
		b, err := m.MarshalJSON()
		if err != nil {
			return nil, err
		}
		out[i] = b
	}
	return out, nil
}
