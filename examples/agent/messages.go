package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
)

// messagesAPI is Anthropic's messages.
type messagesAPI struct{}

func (messagesAPI) callID(n int) string { return fmt.Sprintf("toolu_%02d", n+1) }

// malformed: arguments are an object, so what can be wrong is what stands in it.
func (messagesAPI) malformed() string { return `{"city":"Oslo","nights":"two"}` }

func (messagesAPI) read(header http.Header, body []byte) (*request, error) {
	if header.Get("X-Api-Key") == "" {
		return nil, &refusal{http.StatusUnauthorized, "x-api-key header is required"}
	}
	var in struct {
		request
		System    string
		Messages  []json.RawMessage
		MaxTokens int `json:"max_tokens"`
		Thinking  struct {
			Type         string
			BudgetTokens int `json:"budget_tokens"`
		}
		Tools []struct {
			Name, Description string
			InputSchema       json.RawMessage `json:"input_schema"`
		}
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	r := in.request
	r.history, r.thinks = in.Messages, in.Thinking.Type == "enabled"
	switch {
	case header.Get("Anthropic-Version") == "":
		return nil, refusef("anthropic-version: header is required")
	case r.Model == "":
		return nil, refusef("model: Field required")
	case in.MaxTokens <= 0:
		return nil, refusef("max_tokens: Field required")
	case r.thinks && (in.Thinking.BudgetTokens < 1024 || in.Thinking.BudgetTokens >= in.MaxTokens):
		return nil, refusef("thinking.budget_tokens: must be at least 1024 and less than max_tokens")
	case len(r.history) == 0 || roleOf(r.history[0]) != "user":
		return nil, refusef("messages.0: must be the user's")
	}
	for _, t := range in.Tools {
		r.tools = append(r.tools, tool{t.Name, t.InputSchema})
	}
	r.from = 1
	return &r, nil
}

// exchange: the message, then one of the user's that begins with a result for each call, in their order.
func (messagesAPI) exchange(history []json.RawMessage, at int, s said) (int, []told, error) {
	if role := roleOf(history[at]); role != "assistant" {
		return 0, nil, refusef("messages.%d: the role is %q: must be assistant", at, role)
	}
	if want := write(messageOf(s)); !bytes.Equal(history[at], want) {
		return 0, nil, refusef("messages.%d: is %s, but the model has said %s", at, history[at], want)
	}
	if len(s.calls) == 0 {
		return 1, nil, nil
	}
	var m struct {
		Role    string
		Content json.RawMessage
	}
	var content []struct {
		Type, Text string
		ToolUseID  string `json:"tool_use_id"`
		Content    string
		IsError    bool `json:"is_error"`
	}
	if at+1 < len(history) {
		if err := decode(history[at+1], &m); err != nil {
			return 0, nil, err
		}
		if bytes.HasPrefix(m.Content, []byte("[")) { // else it is text
			if err := decode(m.Content, &content); err != nil {
				return 0, nil, err
			}
		}
	}
	var answers []told
	for i, b := range content {
		switch {
		case m.Role != "user":
			return 0, nil, refusef("messages.%d: the role is %q: must be user", at+1, m.Role)
		case b.Type != "tool_result":
			continue
		case i >= len(s.calls):
			return 0, nil, refusef("messages.%d.content.%d: unexpected `tool_use_id` found in `tool_result` blocks: %s. Each `tool_result` block must have a corresponding `tool_use` block in the previous message.", at+1, i, b.ToolUseID)
		case b.ToolUseID != s.calls[i].id:
			return 0, nil, refusef("messages.%d.content.%d: answers %q: must answer %s", at+1, i, b.ToolUseID, s.calls[i].id)
		}
		a := told{text: b.Content}
		if kind := failure(b.Content); b.IsError {
			if a.error = kind; kind == "" {
				return 0, nil, refusef("messages.%d.content.%d: is an error that does not say which", at+1, i)
			}
		}
		answers = append(answers, a)
	}
	if n := len(answers); n < len(s.calls) {
		return 0, nil, refusef("messages.%d: `tool_use` ids were found without `tool_result` blocks immediately after: %s. Each `tool_use` block must have a corresponding `tool_result` block in the next message.", at, ids(s.calls[n:]))
	}
	return 2, answers, nil
}

// block is a part of a message.
type block struct {
	Type      string          `json:"type"`
	Thinking  *string         `json:"thinking,omitempty"`
	Signature *string         `json:"signature,omitempty"`
	Text      *string         `json:"text,omitempty"`
	ID        string          `json:"id,omitempty"`
	Name      string          `json:"name,omitempty"`
	Input     json.RawMessage `json:"input,omitempty"`
}

func blocks(s said) (list []block) {
	if s.thought != "" {
		signature := base64.StdEncoding.EncodeToString([]byte("signed: " + s.thought))
		list = append(list, block{Type: "thinking", Thinking: &s.thought, Signature: &signature})
	}
	if s.text != "" {
		list = append(list, block{Type: "text", Text: &s.text})
	}
	for _, c := range s.calls {
		list = append(list, block{Type: "tool_use", ID: c.id, Name: c.tool, Input: json.RawMessage(c.args)})
	}
	return list
}

// message is what the model says.
type message struct {
	Role    string  `json:"role"`
	Content []block `json:"content"`
}

func messageOf(s said) message { return message{"assistant", blocks(s)} }

// messageResponse is a response, or the beginning of a streamed one.
type messageResponse struct {
	ID    string `json:"id"`
	Type  string `json:"type"`
	Model string `json:"model"`
	message
	StopReason   *string      `json:"stop_reason"`
	StopSequence *string      `json:"stop_sequence"`
	Usage        messageUsage `json:"usage"`
}

type messageUsage struct {
	Input  int `json:"input_tokens,omitempty"`
	Output int `json:"output_tokens"`
}

func (messagesAPI) stop(s said) *string {
	why := "tool_use"
	if len(s.calls) == 0 {
		why = "end_turn"
	}
	return &why
}

func (a messagesAPI) whole(r *request, s said) []byte {
	return write(messageResponse{
		ID: "msg_1", Type: "message", Model: r.Model, message: messageOf(s), StopReason: a.stop(s), Usage: messageUsage{200, 50},
	})
}

// events: the message without its blocks, then each block, its text or its input cut anywhere, and why it stopped.
func (a messagesAPI) events(r *request, s said) (list []string) {
	type fields = map[string]any
	add := func(kind string, f fields) {
		f["type"] = kind
		list = append(list, event(kind, f))
	}
	add("message_start", fields{"message": messageResponse{
		ID: "msg_1", Type: "message", Model: r.Model, message: message{"assistant", []block{}}, Usage: messageUsage{200, 1},
	}})
	add("ping", fields{})
	for i, b := range blocks(s) {
		delta := func(kind, field, all string) {
			for _, p := range pieces(all) {
				add("content_block_delta", fields{"index": i, "delta": fields{"type": kind, field: p}})
			}
		}
		begin := b
		switch empty := ""; b.Type {
		case "thinking":
			begin.Thinking, begin.Signature = &empty, &empty
		case "text":
			begin.Text = &empty
		case "tool_use":
			begin.Input = json.RawMessage("{}")
		}
		add("content_block_start", fields{"index": i, "content_block": begin})
		switch b.Type {
		case "thinking":
			delta("thinking_delta", "thinking", *b.Thinking)
			add("content_block_delta", fields{"index": i, "delta": fields{"type": "signature_delta", "signature": *b.Signature}})
		case "text":
			delta("text_delta", "text", *b.Text)
		case "tool_use":
			delta("input_json_delta", "partial_json", "")
			delta("input_json_delta", "partial_json", string(b.Input))
		}
		add("content_block_stop", fields{"index": i})
	}
	add("message_delta", fields{"delta": fields{"stop_reason": a.stop(s), "stop_sequence": nil}, "usage": messageUsage{Output: 50}})
	add("message_stop", fields{})
	return list
}

func (messagesAPI) problem(e *refusal) any {
	kind := "invalid_request_error"
	switch e.status {
	case http.StatusUnauthorized:
		kind = "authentication_error"
	case http.StatusRequestEntityTooLarge:
		kind = "request_too_large"
	}
	return map[string]any{"type": "error", "error": map[string]any{"type": kind, "message": e.message}}
}
