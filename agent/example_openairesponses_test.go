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

type responsesClient struct {
	http   *http.Client
	key    string
	stream bool
	codec  agent.Codec     // agent.OpenAIResponses, or one with other names and bounds
	runner *agent.Runner   // agent.New(exec, agent.Config{Parallel: 8})
	tools  json.RawMessage // codec.Tools(exec.Registry().Tools())
}

// ask has the model answer. It gives back the history with all that was said, and the text at its end.
func (c *responsesClient) ask(ctx context.Context, history []json.RawMessage) ([]json.RawMessage, string, error) {
	for range 20 { // turns at most
		m, err := c.post(ctx, map[string]any{
			"model": "gpt-5.1", "input": history, "tools": c.tools, "stream": c.stream,
			"store": false, "include": []string{"reasoning.encrypted_content"},
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

func (c *responsesClient) post(ctx context.Context, request any) (*agent.Message, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, "POST", "https://api.openai.com/v1/responses", bytes.NewReader(body))
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

// newResponsesClient speaks of the tools of exec in strict mode, by names that the model takes.
func newResponsesClient(client *http.Client, key string, exec *sluice.Executor, stream bool) *responsesClient {
	names := sluice.Must(agent.NewNames(exec.Registry().Tools()))
	codec := sluice.Must(agent.OpenAIResponses.With(agent.CodecConfig{Names: names, Strict: true}))
	return &responsesClient{
		http: client, key: key, stream: stream, codec: codec,
		runner: sluice.Must(agent.New(exec, agent.Config{Parallel: 8})),
		tools:  sluice.Must(codec.Tools(exec.Registry().Tools())),
	}
}

// An agent on OpenAI's responses, whole and streamed, as docs/openai-responses.md explains it.
func Example_openAIResponses() {
	exec := newPageTools()
	defer exec.Close(context.Background())
	for _, stream := range []bool{false, true} {
		history, text, err := responsesPage.ask(responsesPage.client(stream), exec, stream)
		fmt.Println(text, len(history), err)
	}
	// Output:
	// It is 12 degrees in Oslo. 8 <nil>
	// It is 12 degrees in Oslo. 8 <nil>
}

var responsesPage = providerPage{
	name:   "openai-responses",
	format: agent.OpenAIResponses,
	urls:   [2]string{"https://api.openai.com/v1/responses", "https://api.openai.com/v1/responses"},
	header: http.Header{"Authorization": {"Bearer sk-test"}, "Content-Type": {"application/json"}},
	list:   "input",
	members: map[string]string{"model": `"gpt-5.1"`, "stream": `STREAM`, "store": `false`,
		"include": `["reasoning.encrypted_content"]`},
	bodies: []string{
		`{"id":"resp_1","object":"response","created_at":1795996800,"status":"completed","error":null,"incomplete_details":null,"model":"gpt-5.1","output":[` +
			responsesItems + `],"parallel_tool_calls":true,"previous_response_id":null,"reasoning":{"effort":"medium","summary":null},"store":false,"usage":{"total_tokens":99}}`,
		`{"id":"resp_2","object":"response","status":"completed","error":null,"output":[` + responsesEnd + `]}`,
	},
	streams: []string{
		`event: response.created` + "\n" + `data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_1","object":"response","status":"in_progress","output":[]}}` + "\n\n" +
			`event: response.output_item.added` + "\n" + `data: {"type":"response.output_item.added","sequence_number":1,"output_index":2,"item":{"id":"fc_1","type":"function_call","status":"in_progress","arguments":"","call_id":"call_1","name":"weather"}}` + "\n\n" +
			`event: response.function_call_arguments.delta` + "\n" + `data: {"type":"response.function_call_arguments.delta","sequence_number":2,"item_id":"fc_1","output_index":2,"delta":"{\"ci","obfuscation":"x"}` + "\n\n" +
			`event: response.function_call_arguments.delta` + "\n" + `data: {"type":"response.function_call_arguments.delta","sequence_number":3,"item_id":"fc_1","output_index":2,"delta":"ty\":\"Oslo\"}"}` + "\n\n" +
			`event: response.output_item.done` + "\n" + `data: {"type":"response.output_item.done","sequence_number":4,"output_index":2,"item":{"id":"fc_1","type":"function_call","status":"completed","arguments":"{\"city\":\"Oslo\"}","call_id":"call_1","name":"weather"}}` + "\n\n" +
			`event: response.completed` + "\n" + `data: {"type":"response.completed","sequence_number":9,"response":{"id":"resp_1","object":"response","status":"completed","error":null,"output":[` + responsesItems + `]}}` + "\n\n",
		`event: response.completed` + "\n" + `data: {"type":"response.completed","sequence_number":1,"response":{"id":"resp_2","object":"response","status":"completed","error":null,"output":[` + responsesEnd + `]}}` + "\n\n",
	},
	echoes: [2][][]string{
		{{responsesReasoning, responsesSearch, responsesCall, responsesCustom}},
		{{responsesReasoning, responsesSearch, responsesCall, responsesCustom}},
	},
	answers: [][]string{{
		`{"type":"function_call_output","call_id":"call_1","output":"12 degrees"}`,
		`{"type":"custom_tool_call_output","call_id":"call_2","output":"3 rows"}`,
	}},
	ask: func(client *http.Client, exec *sluice.Executor, stream bool) ([]json.RawMessage, string, error) {
		question := []json.RawMessage{[]byte(`{"role":"user","content":"How warm is it where Ada lives?"}`)}
		return newResponsesClient(client, "sk-test", exec, stream).ask(context.Background(), question)
	},
}

const (
	responsesReasoning = `{"id":"rs_1","type":"reasoning","content":[],"encrypted_content":"gAAAAABo","summary":[]}`
	responsesSearch    = `{"id":"ws_1","type":"web_search_call","status":"completed","action":{"type":"search","query":"Ada"}}`
	responsesCall      = `{"id":"fc_1","type":"function_call","status":"completed","arguments":"{\"city\":\"Oslo\"}","call_id":"call_1","name":"weather"}`
	responsesCustom    = `{"id":"ctc_1","type":"custom_tool_call","status":"completed","call_id":"call_2","input":"select * from towns","name":"sql"}`
	responsesItems     = responsesReasoning + "," + responsesSearch + "," + responsesCall + "," + responsesCustom
	responsesEnd       = `{"id":"msg_1","type":"message","status":"completed","content":[{"type":"output_text","annotations":[],"logprobs":[],"text":"It is 12 degrees in Oslo."}],"role":"assistant"}`
)
