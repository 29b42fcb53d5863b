package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

type chatClient struct {
	http   *http.Client
	key    string
	stream bool
	codec  agent.Codec     // agent.OpenAIChat, or one with other names and bounds
	runner *agent.Runner   // agent.New(exec, agent.Config{Parallel: 8})
	tools  json.RawMessage // codec.Tools(exec.Registry().Tools())
}

// ask has the model answer. It gives back the history with all that was said, and the text at its end.
func (c *chatClient) ask(ctx context.Context, history []json.RawMessage) ([]json.RawMessage, string, error) {
	for range 20 { // turns at most
		m, err := c.post(ctx, map[string]any{"model": "gpt-5.1", "messages": history, "tools": c.tools, "stream": c.stream})
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

func (c *chatClient) post(ctx context.Context, request any) (*agent.Message, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, "POST", "https://api.openai.com/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header = http.Header{"Authorization": {"Bearer " + c.key}, "Content-Type": {"application/json"}}
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

// newChatClient speaks of the tools of exec in strict mode, by names that the model takes.
func newChatClient(client *http.Client, key string, exec *sluice.Executor, stream bool) *chatClient {
	names := sluice.Must(agent.NewNames(exec.Registry().Tools()))
	codec := sluice.Must(agent.OpenAIChat.With(agent.CodecConfig{Names: names, Strict: true}))
	return &chatClient{
		http: client, key: key, stream: stream, codec: codec,
		runner: sluice.Must(agent.New(exec, agent.Config{Parallel: 8})),
		tools:  sluice.Must(codec.Tools(exec.Registry().Tools())),
	}
}

// An agent on OpenAI's chat completions, whole and streamed, as docs/openai-chat.md explains it.
func Example_openAIChat() {
	exec := newPageTools()
	defer exec.Close(context.Background())
	for _, stream := range []bool{false, true} {
		history, text, err := chatPage.ask(chatPage.client(stream), exec, stream)
		fmt.Println(text, len(history), err)
	}
	// Output:
	// It is 12 degrees in Oslo. 5 <nil>
	// It is 12 degrees in Oslo. 5 <nil>
}

var chatPage = providerPage{
	name:    "openai-chat",
	format:  agent.OpenAIChat,
	urls:    [2]string{"https://api.openai.com/v1/chat/completions", "https://api.openai.com/v1/chat/completions"},
	header:  http.Header{"Authorization": {"Bearer sk-test"}, "Content-Type": {"application/json"}},
	list:    "messages",
	members: map[string]string{"model": `"gpt-5.1"`, "stream": `STREAM`},
	bodies: []string{
		`{"id":"chatcmpl-1","object":"chat.completion","created":1795996800,"model":"gpt-5.1","choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[` +
			`{"id":"call_1","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Oslo\"}"}},` +
			`{"id":"call_2","type":"function","function":{"name":"` + lookupName + `","arguments":"{}"}}],"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"tool_calls"}],` +
			`"usage":{"prompt_tokens":82,"completion_tokens":17,"total_tokens":99},"service_tier":"default","system_fingerprint":null}`,
		`{"id":"chatcmpl-2","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"It is 12 degrees in Oslo."},"finish_reason":"stop"}]}`,
	},
	streams: []string{
		`data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"weather","arguments":""}}],"refusal":null},"logprobs":null,"finish_reason":null}],"obfuscation":"x"}` + "\n\n" +
			`data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"ci"}}]},"finish_reason":null}]}` + "\n\n" +
			`data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"ty\":\"Oslo\"}"}}]},"finish_reason":null}]}` + "\n\n" +
			`data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"call_2","type":"function","function":{"name":"` + lookupName + `","arguments":"{}"}}]},"finish_reason":null}]}` + "\n\n" +
			`data: {"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"tool_calls"}]}` + "\n\ndata: [DONE]\n\n",
		`data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"It is 12 "},"finish_reason":null}]}` + "\n\n" +
			`data: {"choices":[{"index":0,"delta":{"content":"degrees in Oslo."},"finish_reason":null}]}` + "\n\n" +
			`data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n" +
			`data: {"choices":[],"usage":{"total_tokens":99}}` + "\n\ndata: [DONE]\n\n",
	},
	echoes: [2][][]string{
		{{`{"role":"assistant","content":null,"tool_calls":[` + chatCalls + `],"refusal":null,"annotations":[]}`}},
		{{`{"role":"assistant","content":null,"refusal":null,"tool_calls":[` + chatCalls + `]}`}},
	},
	answers: [][]string{{
		`{"role":"tool","tool_call_id":"call_1","content":"12 degrees"}`,
		`{"role":"tool","tool_call_id":"call_2","content":"{\"id\":9007199254740993,\"name\":\"Ada\"}"}`,
	}},
	ask: func(client *http.Client, exec *sluice.Executor, stream bool) ([]json.RawMessage, string, error) {
		question := []json.RawMessage{[]byte(`{"role":"user","content":"How warm is it where Ada lives?"}`)}
		return newChatClient(client, "sk-test", exec, stream).ask(context.Background(), question)
	},
}

const chatCalls = `{"id":"call_1","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Oslo\"}"}},` +
	`{"id":"call_2","type":"function","function":{"name":"` + lookupName + `","arguments":"{}"}}`
