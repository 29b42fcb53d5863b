package compare

import "encoding/json"

// A turn with encoding/json and plain structs, of the shape that the libraries' types have: what a program
// does that knows what comes.
//
// It leaves out: fields that this turn does not have, which are lost when the model's message is written
// again; keys that stand twice; what is not UTF-8; calls that were cut off; results other than text, and long
// ones; failures.

type plainChat struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	Model   string `json:"model"`
	Choices []struct {
		Index        int              `json:"index"`
		Message      plainChatMessage `json:"message"`
		FinishReason string           `json:"finish_reason"`
	} `json:"choices"`
	Usage struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
		Total      int `json:"total_tokens"`
	} `json:"usage"`
}

type plainChatMessage struct {
	Role      string  `json:"role"`
	Content   *string `json:"content"`
	Refusal   *string `json:"refusal"`
	ToolCalls []struct {
		ID       string `json:"id"`
		Type     string `json:"type"`
		Function struct {
			Name      string `json:"name"`
			Arguments string `json:"arguments"`
		} `json:"function"`
	} `json:"tool_calls"`
}

type plainChatAnswer struct {
	Role    string `json:"role"`
	ID      string `json:"tool_call_id"`
	Content string `json:"content"`
}

func plainChatTurn(t turn) ([]json.RawMessage, error) {
	var r plainChat
	if err := json.Unmarshal(t.body, &r); err != nil {
		return nil, err
	}
	message := &r.Choices[0].Message
	history := []any{message}
	for i := range message.ToolCalls {
		history = append(history, &plainChatAnswer{"tool", message.ToolCalls[i].ID, t.answers[i]})
	}
	return writeEach(history...)
}

type plainResponse struct {
	ID      string      `json:"id"`
	Object  string      `json:"object"`
	Created int64       `json:"created_at"`
	Status  string      `json:"status"`
	Model   string      `json:"model"`
	Output  []plainItem `json:"output"`
	Usage   struct {
		Input  int `json:"input_tokens"`
		Output int `json:"output_tokens"`
		Total  int `json:"total_tokens"`
	} `json:"usage"`
}

type plainItem struct {
	ID        string          `json:"id"`
	Type      string          `json:"type"`
	Status    string          `json:"status,omitempty"`
	CallID    string          `json:"call_id,omitempty"`
	Name      string          `json:"name,omitempty"`
	Arguments string          `json:"arguments,omitempty"`
	Summary   json.RawMessage `json:"summary,omitempty"`
}

type plainOutput struct {
	Type   string `json:"type"`
	CallID string `json:"call_id"`
	Output string `json:"output"`
}

func plainResponsesTurn(t turn) ([]json.RawMessage, error) {
	var r plainResponse
	if err := json.Unmarshal(t.body, &r); err != nil {
		return nil, err
	}
	var history, answers []any
	for i := range r.Output {
		item := &r.Output[i]
		history = append(history, item)
		if item.Type == "function_call" {
			answers = append(answers, &plainOutput{"function_call_output", item.CallID, t.answers[len(answers)]})
		}
	}
	return writeEach(append(history, answers...)...)
}

type plainAnthropic struct {
	ID      string       `json:"id"`
	Type    string       `json:"type"`
	Role    string       `json:"role"`
	Model   string       `json:"model"`
	Content []plainBlock `json:"content"`
	Stop    string       `json:"stop_reason"`
	Usage   struct {
		Input  int `json:"input_tokens"`
		Output int `json:"output_tokens"`
	} `json:"usage"`
}

type plainBlock struct {
	Type      string          `json:"type"`
	Thinking  string          `json:"thinking,omitempty"`
	Signature string          `json:"signature,omitempty"`
	ID        string          `json:"id,omitempty"`
	Name      string          `json:"name,omitempty"`
	Input     json.RawMessage `json:"input,omitempty"`
	ToolUseID string          `json:"tool_use_id,omitempty"`
	Content   string          `json:"content,omitempty"`
}

type plainMessage struct {
	Role    string       `json:"role"`
	Content []plainBlock `json:"content"`
}

func plainAnthropicTurn(t turn) ([]json.RawMessage, error) {
	var m plainAnthropic
	if err := json.Unmarshal(t.body, &m); err != nil {
		return nil, err
	}
	var answers []plainBlock
	for i := range m.Content {
		if m.Content[i].Type == "tool_use" {
			answers = append(answers, plainBlock{Type: "tool_result", ToolUseID: m.Content[i].ID, Content: t.answers[len(answers)]})
		}
	}
	return writeEach(&plainMessage{m.Role, m.Content}, &plainMessage{"user", answers})
}

type plainGemini struct {
	Candidates []struct {
		Content      plainContent `json:"content"`
		FinishReason string       `json:"finishReason"`
		Index        int          `json:"index"`
	} `json:"candidates"`
	Usage struct {
		Prompt     int `json:"promptTokenCount"`
		Candidates int `json:"candidatesTokenCount"`
		Total      int `json:"totalTokenCount"`
	} `json:"usageMetadata"`
	Model string `json:"modelVersion"`
	ID    string `json:"responseId"`
}

type plainContent struct {
	Role  string      `json:"role"`
	Parts []plainPart `json:"parts"`
}

type plainPart struct {
	Text             string                 `json:"text,omitempty"`
	Thought          bool                   `json:"thought,omitempty"`
	ThoughtSignature string                 `json:"thoughtSignature,omitempty"`
	FunctionCall     *plainFunctionCall     `json:"functionCall,omitempty"`
	FunctionResponse *plainFunctionResponse `json:"functionResponse,omitempty"`
}

type plainFunctionCall struct {
	ID   string          `json:"id,omitempty"`
	Name string          `json:"name"`
	Args json.RawMessage `json:"args"`
}

type plainFunctionResponse struct {
	ID       string `json:"id,omitempty"`
	Name     string `json:"name"`
	Response struct {
		Output string `json:"output"`
	} `json:"response"`
}

func plainGeminiTurn(t turn) ([]json.RawMessage, error) {
	var r plainGemini
	if err := json.Unmarshal(t.body, &r); err != nil {
		return nil, err
	}
	content := &r.Candidates[0].Content
	var answers []plainPart
	for _, part := range content.Parts {
		if call := part.FunctionCall; call != nil {
			a := &plainFunctionResponse{ID: call.ID, Name: call.Name}
			a.Response.Output = t.answers[len(answers)]
			answers = append(answers, plainPart{FunctionResponse: a})
		}
	}
	return writeEach(content, &plainContent{"user", answers})
}

// writeEach writes messages with encoding/json.
func writeEach(history ...any) ([]json.RawMessage, error) {
	out := make([]json.RawMessage, len(history))
	for i, m := range history {
		b, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		out[i] = b
	}
	return out, nil
}
