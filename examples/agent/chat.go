package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
)

// chatAPI is OpenAI's chat completions.
type chatAPI struct{}

func (chatAPI) callID(n int) string { return "call_" + strconv.Itoa(n+1) }

// malformed: arguments are written into a string, and the last bracket is forgotten.
func (chatAPI) malformed() string { return `{"city":"Oslo","nights":2` }

func (chatAPI) read(header http.Header, body []byte) (*request, error) {
	if !strings.HasPrefix(header.Get("Authorization"), "Bearer sk-") {
		return nil, &refusal{http.StatusUnauthorized, "You didn't provide an API key."}
	}
	var in struct {
		request
		Messages      []json.RawMessage
		StreamOptions struct {
			IncludeUsage bool `json:"include_usage"`
		} `json:"stream_options"`
		Tools []struct {
			Type     string
			Function struct {
				Name, Description string
				Parameters        json.RawMessage
				Strict            bool
			}
		}
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	r := in.request
	r.history, r.usage = in.Messages, in.StreamOptions.IncludeUsage
	switch {
	case r.Model == "":
		return nil, refusef("you must provide a model parameter")
	case r.usage && !r.Stream:
		return nil, refusef("The 'stream_options' parameter is only allowed when 'stream' is enabled.")
	}
	for i, t := range in.Tools {
		if t.Type != "function" {
			return nil, refusef("tools[%d].type is %q: must be function", i, t.Type)
		}
		r.tools = append(r.tools, tool{t.Function.Name, t.Function.Parameters})
	}
	for r.from < len(r.history) && roleOf(r.history[r.from]) == "system" {
		r.from++
	}
	if r.from == len(r.history) || roleOf(r.history[r.from]) != "user" {
		return nil, refusef("messages[%d]: must be the user's", r.from)
	}
	r.from++
	return &r, nil
}

// exchange: the message, then one of role tool for each call, in their order.
func (chatAPI) exchange(history []json.RawMessage, at int, s said) (int, []told, error) {
	switch role := roleOf(history[at]); {
	case role == "tool":
		return 0, nil, refusef("messages[%d]: messages with role 'tool' must be a response to a preceding message with 'tool_calls'.", at)
	case role != "assistant":
		return 0, nil, refusef("messages[%d]: the role is %q: must be assistant", at, role)
	}
	if want := write(newChatMessage(s)); !bytes.Equal(history[at], want) {
		return 0, nil, refusef("messages[%d]: is %s, but the model has said %s", at, history[at], want)
	}
	var answers []told
	for i, c := range s.calls {
		var m struct {
			Role       string
			ToolCallID string `json:"tool_call_id"`
			Content    *string
		}
		n := at + 1 + i
		if n == len(history) || roleOf(history[n]) != "tool" {
			return 0, nil, refusef("An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: %s", ids(s.calls[i:]))
		}
		if err := decode(history[n], &m); err != nil {
			return 0, nil, err
		}
		if m.ToolCallID != c.id || m.Content == nil {
			return 0, nil, refusef("messages[%d]: answers %q: must have the content for %s", n, m.ToolCallID, c.id)
		}
		a := told{text: *m.Content}
		var e struct{ Error json.RawMessage }
		if json.Unmarshal([]byte(a.text), &e) == nil {
			a.error = failure(string(e.Error))
		}
		answers = append(answers, a)
	}
	return 1 + len(s.calls), answers, nil
}

func ids(calls []call) string {
	var list []string
	for _, c := range calls {
		list = append(list, c.id)
	}
	return strings.Join(list, ", ")
}

// chatMessage is what the model says.
type chatMessage struct {
	Role      string     `json:"role"`
	Content   *string    `json:"content"`
	Refusal   *string    `json:"refusal"`
	ToolCalls []chatCall `json:"tool_calls,omitempty"`
}

type chatCall struct {
	Index    *int         `json:"index,omitempty"` // in a stream
	ID       string       `json:"id,omitempty"`
	Type     string       `json:"type,omitempty"`
	Function chatFunction `json:"function"`
}

type chatFunction struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

func newChatMessage(s said) *chatMessage {
	m := &chatMessage{Role: "assistant"}
	if s.text != "" {
		m.Content = &s.text
	}
	for _, c := range s.calls {
		m.ToolCalls = append(m.ToolCalls, chatCall{ID: c.id, Type: "function", Function: chatFunction{c.tool, c.args}})
	}
	return m
}

// chatResponse is a response, or a chunk of a streamed one.
type chatResponse struct {
	ID      string       `json:"id"`
	Object  string       `json:"object"`
	Created int64        `json:"created"`
	Model   string       `json:"model"`
	Choices []chatChoice `json:"choices"`
	Usage   *chatUsage   `json:"usage,omitempty"`
}

type chatChoice struct {
	Index        int     `json:"index"`
	Message      any     `json:"message,omitempty"`
	Delta        any     `json:"delta,omitempty"`
	Logprobs     any     `json:"logprobs"`
	FinishReason *string `json:"finish_reason"`
}

type chatUsage struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
	Total      int `json:"total_tokens"`
}

func newChatResponse(r *request, object string, choices ...chatChoice) *chatResponse {
	if choices == nil {
		choices = []chatChoice{}
	}
	return &chatResponse{ID: "chatcmpl-1", Object: object, Created: 1764460800, Model: r.Model, Choices: choices}
}

func (chatAPI) finish(s said) *string {
	why := "tool_calls"
	if len(s.calls) == 0 {
		why = "stop"
	}
	return &why
}

func (a chatAPI) whole(r *request, s said) []byte {
	out := newChatResponse(r, "chat.completion", chatChoice{Message: newChatMessage(s), FinishReason: a.finish(s)})
	out.Usage = &chatUsage{200, 50, 250}
	return write(out)
}

// events: the role, text, calls with their arguments cut anywhere, why it stopped, what it cost, and the end.
func (a chatAPI) events(r *request, s said) (list []string) {
	chunk := func(c chatChoice) { list = append(list, event("", newChatResponse(r, "chat.completion.chunk", c))) }
	first := &chatMessage{Role: "assistant"}
	if s.text != "" {
		first.Content = new(string)
	}
	chunk(chatChoice{Delta: first})
	if s.text != "" {
		for _, p := range pieces(s.text) {
			chunk(chatChoice{Delta: map[string]string{"content": p}})
		}
	}
	for i, c := range s.calls {
		call := func(c chatCall) {
			c.Index = &i
			chunk(chatChoice{Delta: map[string][]chatCall{"tool_calls": {c}}})
		}
		call(chatCall{ID: c.id, Type: "function", Function: chatFunction{Name: c.tool}})
		for _, p := range pieces(c.args) {
			call(chatCall{Function: chatFunction{Arguments: p}})
		}
	}
	chunk(chatChoice{Delta: struct{}{}, FinishReason: a.finish(s)})
	if r.usage {
		last := newChatResponse(r, "chat.completion.chunk")
		last.Usage = &chatUsage{200, 50, 250}
		list = append(list, event("", last))
	}
	return append(list, "data: [DONE]\n\n")
}

func (chatAPI) problem(e *refusal) any {
	return map[string]any{"error": map[string]any{
		"message": e.message, "type": "invalid_request_error", "param": nil, "code": nil,
	}}
}
