package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/sluice-go/sluice/agent"
)

// system is what the model is told before the user says anything.
const system = "You plan short trips."

// client asks a model over HTTP, in a provider's format.
type client struct {
	http   *http.Client
	url    string
	format agent.Format
	stream bool // answers come in parts
}

// ask sends a history and the list of tools to the model, and reads its answer.
func (c *client) ask(ctx context.Context, history []json.RawMessage, tools json.RawMessage) (*agent.Message, error) {
	req, err := c.request(ctx, history, tools)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		return nil, fmt.Errorf("the model answers %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	return agent.ReadMessage(c.format, resp.Body)
}

// request is what stands around the history and the tools.
func (c *client) request(ctx context.Context, history []json.RawMessage, tools json.RawMessage) (*http.Request, error) {
	path, header := "", http.Header{"Content-Type": {"application/json"}}
	body := map[string]any{"model": "scripted-1", "stream": c.stream}
	if string(tools) != "[]" { // which providers refuse
		body["tools"] = tools
	}
	if c.format == agent.Anthropic {
		path = "/v1/messages"
		header.Set("X-Api-Key", "sk-ant-example")
		header.Set("Anthropic-Version", "2023-06-01")
		body["system"], body["messages"] = system, history
		body["max_tokens"], body["thinking"] = 4096, map[string]any{"type": "enabled", "budget_tokens": 1024}
	} else {
		path = "/v1/chat/completions"
		header.Set("Authorization", "Bearer sk-example")
		body["messages"] = append([]json.RawMessage{text("system", system)}, history...)
		if c.stream {
			body["stream_options"] = map[string]any{"include_usage": true}
		}
	}
	raw, err := encode(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+path, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header = header
	return req, nil
}

// text is a message of text.
func text(role, content string) json.RawMessage {
	raw, _ := encode(map[string]string{"role": role, "content": content}) // no text is an error
	return raw
}

// encode is the JSON of v. It leaves <, > and & as they are: json.Marshal would change them inside raw
// messages too, and so what the model has said.
func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}
