package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

type messagesClient struct {
	http   *http.Client
	key    string
	stream bool
	codec  agent.Codec     // agent.Anthropic, or one with other names and bounds
	runner *agent.Runner   // agent.New(exec, agent.Config{Parallel: 8})
	tools  json.RawMessage // codec.Tools(exec.Registry().Tools())
}

// ask has the model answer. It gives back the history with all that was said, and the text at its end.
func (c *messagesClient) ask(ctx context.Context, history []json.RawMessage) ([]json.RawMessage, string, error) {
	for range 20 { // turns at most
		m, err := c.post(ctx, map[string]any{
			"model": "claude-sonnet-5", "max_tokens": 4096, "messages": history, "tools": c.tools, "stream": c.stream,
		})
		if err != nil {
			return history, "", err
		}
		turn, err := c.runner.Answer(ctx, c.codec, m)
		if err != nil {
			return history, "", err
		}
		if history = append(history, turn.Messages...); turn.Done() {
			return history, m.Text(), nil
		}
	}
	return history, "", errors.New("the model has called tools 20 times")
}

func (c *messagesClient) post(ctx context.Context, request any) (*agent.Message, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, "POST", "https://api.anthropic.com/v1/messages", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header = http.Header{"X-Api-Key": {c.key}, "Anthropic-Version": {"2026-10-21"}, "Content-Type": {"application/json"}}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return nil, fmt.Errorf("%s: %s", resp.Status, text)
	}
	return agent.ReadMessage(c.codec, resp.Body)
}

// newMessagesClient speaks of the tools of exec by names that the model takes.
func newMessagesClient(client *http.Client, key string, exec *sluice.Executor, stream bool) *messagesClient {
	names := sluice.Must(agent.NewNames(exec.Registry().Tools()))
	codec := sluice.Must(agent.Anthropic.With(agent.CodecConfig{Names: names}))
	return &messagesClient{
		http: client, key: key, stream: stream, codec: codec,
		runner: sluice.Must(agent.New(exec, agent.Config{Parallel: 8})),
		tools:  sluice.Must(codec.Tools(exec.Registry().Tools())),
	}
}

// An agent on Anthropic's messages, whole and streamed, as docs/anthropic.md explains it.
func Example_anthropic() {
	exec := newPageTools()
	defer exec.Close(context.Background())
	for _, stream := range []bool{false, true} {
		history, text, err := messagesPage.ask(messagesPage.client(stream), exec, stream)
		fmt.Println(text, len(history), err)
	}
	// Output:
	// It is 12 degrees in Oslo. 5 <nil>
	// It is 12 degrees in Oslo. 5 <nil>
}

var messagesPage = providerPage{
	name:    "anthropic",
	format:  agent.Anthropic,
	urls:    [2]string{"https://api.anthropic.com/v1/messages", "https://api.anthropic.com/v1/messages"},
	header:  http.Header{"X-Api-Key": {"sk-test"}, "Anthropic-Version": {"2026-10-21"}, "Content-Type": {"application/json"}},
	list:    "messages",
	members: map[string]string{"model": `"claude-sonnet-5"`, "max_tokens": `4096`, "stream": `STREAM`},
	bodies: []string{
		`{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5","content":[` + messagesSearch + `],"stop_reason":"pause_turn","stop_sequence":null,"usage":{"input_tokens":9,"output_tokens":9}}`,
		`{"id":"msg_2","type":"message","role":"assistant","model":"claude-sonnet-5","content":[` + messagesThought + `,{"type":"text","text":"\n\n"},` + messagesCalls + `],"stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":9,"output_tokens":9}}`,
		`{"id":"msg_3","type":"message","role":"assistant","model":"claude-sonnet-5","content":[{"type":"text","text":"It is 12 degrees in Oslo."}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":9,"output_tokens":9}}`,
	},
	streams: []string{
		messagesEvents(
			`{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-5","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":9,"output_tokens":1}}}`,
			`{"type":"content_block_start","index":0,"content_block":{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{}}}`,
			`{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":""}}`,
			`{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"query\":\"A"}}`,
			`{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"da\"}"}}`,
			`{"type":"content_block_stop","index":0}`,
			`{"type":"content_block_start","index":1,"content_block":{"type":"web_search_tool_result","tool_use_id":"srvtoolu_1","content":[{"type":"web_search_result","title":"Ada","url":"https://example.com","encrypted_content":"EqgB","page_age":null}]}}`,
			`{"type":"content_block_stop","index":1}`,
			`{"type":"message_delta","delta":{"stop_reason":"pause_turn","stop_sequence":null},"usage":{"output_tokens":9}}`,
			`{"type":"message_stop"}`),
		messagesEvents(
			`{"type":"message_start","message":{"id":"msg_2","type":"message","role":"assistant","model":"claude-sonnet-5","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":9,"output_tokens":1}}}`,
			`{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}`,
			`{"type":"ping"}`,
			`{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"She lives "}}`,
			`{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"in Oslo."}}`,
			`{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"EqQB"}}`,
			`{"type":"content_block_stop","index":0}`,
			`{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"toolu_1","name":"weather","input":{}}}`,
			`{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":""}}`,
			`{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"city\""}}`,
			`{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":":\"Oslo\"}"}}`,
			`{"type":"content_block_stop","index":1}`,
			`{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"toolu_2","name":"`+lookupName+`","input":{}}}`,
			`{"type":"content_block_stop","index":2}`,
			`{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":9}}`,
			`{"type":"message_stop"}`),
		messagesEvents(
			`{"type":"message_start","message":{"id":"msg_3","type":"message","role":"assistant","content":[],"stop_reason":null}}`,
			`{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`,
			`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"It is 12 "}}`,
			`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"degrees in Oslo."}}`,
			`{"type":"content_block_stop","index":0}`,
			`{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":9}}`,
			`{"type":"message_stop"}`),
	},
	echoes: [2][][]string{
		{{`{"role":"assistant","content":[` + messagesSearch + `]}`}, {`{"role":"assistant","content":[` + messagesThought + `,` + messagesCalls + `]}`}},
		{{`{"role":"assistant","content":[` + messagesSearch + `]}`}, {`{"role":"assistant","content":[` + messagesThought + `,` + messagesCalls + `]}`}},
	},
	answers: [][]string{{}, {
		`{"role":"user","content":[{"type":"tool_result","tool_use_id":"toolu_1","content":"12 degrees"},` +
			`{"type":"tool_result","tool_use_id":"toolu_2","content":"{\"id\":9007199254740993,\"name\":\"Ada\"}"}]}`,
	}},
	ask: func(client *http.Client, exec *sluice.Executor, stream bool) ([]json.RawMessage, string, error) {
		question := []json.RawMessage{[]byte(`{"role":"user","content":"How warm is it where Ada lives?"}`)}
		return newMessagesClient(client, "sk-test", exec, stream).ask(context.Background(), question)
	},
}

// messagesEvents are events as Anthropic writes them.
func messagesEvents(all ...string) string {
	var b strings.Builder
	for _, data := range all {
		kind, _, _ := strings.Cut(strings.TrimPrefix(data, `{"type":"`), `"`)
		fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", kind, data)
	}
	return b.String()
}

const (
	messagesSearch = `{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{"query":"Ada"}},` +
		`{"type":"web_search_tool_result","tool_use_id":"srvtoolu_1","content":[{"type":"web_search_result","title":"Ada","url":"https://example.com","encrypted_content":"EqgB","page_age":null}]}`
	messagesThought = `{"type":"thinking","thinking":"She lives in Oslo.","signature":"EqQB"}`
	messagesCalls   = `{"type":"tool_use","id":"toolu_1","name":"weather","input":{"city":"Oslo"}},{"type":"tool_use","id":"toolu_2","name":"` + lookupName + `","input":{}}`
)
