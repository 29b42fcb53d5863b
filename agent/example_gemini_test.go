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

type geminiClient struct {
	http   *http.Client
	key    string
	stream bool
	codec  agent.Codec     // agent.Gemini, or one with other names and bounds
	runner *agent.Runner   // agent.New(exec, agent.Config{Parallel: 8})
	tools  json.RawMessage // codec.Tools(exec.Registry().Tools())
}

// ask has the model answer. It gives back the history with all that was said, and the text at its end.
func (c *geminiClient) ask(ctx context.Context, history []json.RawMessage) ([]json.RawMessage, string, error) {
	for range 20 { // turns at most
		m, err := c.post(ctx, map[string]any{"contents": history, "tools": c.tools})
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

func (c *geminiClient) post(ctx context.Context, request any) (*agent.Message, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	url := "https://generativelanguage.googleapis.com/v1beta/models/gemini-3.5-flash:generateContent"
	if c.stream {
		url = "https://generativelanguage.googleapis.com/v1beta/models/gemini-3.5-flash:streamGenerateContent?alt=sse"
	}
	r, err := http.NewRequestWithContext(ctx, "POST", url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header = http.Header{"X-Goog-Api-Key": {c.key}, "Content-Type": {"application/json"}}
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

// newGeminiClient speaks of the tools of exec by names that the model takes.
func newGeminiClient(client *http.Client, key string, exec *sluice.Executor, stream bool) *geminiClient {
	names := sluice.Must(agent.NewNames(exec.Registry().Tools()))
	codec := sluice.Must(agent.Gemini.With(agent.CodecConfig{Names: names}))
	return &geminiClient{
		http: client, key: key, stream: stream, codec: codec,
		runner: sluice.Must(agent.New(exec, agent.Config{Parallel: 8})),
		tools:  sluice.Must(codec.Tools(exec.Registry().Tools())),
	}
}

// An agent on Gemini, whole and streamed, as docs/gemini.md explains it.
func Example_gemini() {
	exec := newPageTools()
	defer exec.Close(context.Background())
	for _, stream := range []bool{false, true} {
		history, text, err := geminiPage.ask(geminiPage.client(stream), exec, stream)
		fmt.Println(text, len(history), err)
	}
	// Output:
	// It is 12 degrees in Oslo. 4 <nil>
	// It is 12 degrees in Oslo. 4 <nil>
}

var geminiPage = providerPage{
	name:   "gemini",
	format: agent.Gemini,
	urls: [2]string{"https://generativelanguage.googleapis.com/v1beta/models/gemini-3.5-flash:generateContent",
		"https://generativelanguage.googleapis.com/v1beta/models/gemini-3.5-flash:streamGenerateContent?alt=sse"},
	header: http.Header{"X-Goog-Api-Key": {"sk-test"}, "Content-Type": {"application/json"}},
	list:   "contents",
	bodies: []string{
		`{"candidates":[{"content":{"parts":[` + geminiCalls + `],"role":"model"},"finishReason":"STOP","index":0,"finishMessage":"Model generated function call(s)."}],"usageMetadata":{"totalTokenCount":99},"modelVersion":"gemini-3.5-flash","responseId":"r1"}`,
		`{"candidates":[{"content":{"parts":[{"text":"It is 12 degrees in Oslo.","thoughtSignature":"EtsC"}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"totalTokenCount":99}}`,
	},
	streams: []string{
		`data: {"candidates":[{"content":{"parts":[` + geminiCall1 + `],"role":"model"},"index":0}],"modelVersion":"gemini-3.5-flash"}` + "\r\n\r\n" +
			`data: {"candidates":[{"content":{"parts":[` + geminiCall2 + `],"role":"model"},"index":0}]}` + "\r\n\r\n" +
			`data: {"candidates":[{"content":{"parts":[{"text":""}],"role":"model"},"finishReason":"STOP","index":0}],"usageMetadata":{"totalTokenCount":99}}` + "\r\n\r\n",
		`data: {"candidates":[{"content":{"parts":[{"text":"It is 12 "}],"role":"model"},"index":0}]}` + "\r\n\r\n" +
			`data: {"candidates":[{"content":{"parts":[{"text":"degrees in Oslo."}],"role":"model"},"index":0}]}` + "\r\n\r\n" +
			`data: {"candidates":[{"content":{"parts":[{"text":"","thoughtSignature":"EtsC"}],"role":"model"},"finishReason":"STOP","index":0}]}` + "\r\n\r\n",
	},
	echoes: [2][][]string{
		{{`{"parts":[` + geminiCalls + `],"role":"model"}`}},
		{{`{"role":"model","parts":[` + geminiCalls + `]}`}},
	},
	answers: [][]string{{
		`{"role":"user","parts":[{"functionResponse":{"id":"8f2b1a3c","name":"weather","response":{"output":"12 degrees"}}},` +
			`{"functionResponse":{"name":"` + lookupName + `","response":{"output":{"id":9007199254740993,"name":"Ada"}}}}]}`,
	}},
	ask: func(client *http.Client, exec *sluice.Executor, stream bool) ([]json.RawMessage, string, error) {
		question := []json.RawMessage{[]byte(`{"role":"user","parts":[{"text":"How warm is it where Ada lives?"}]}`)}
		return newGeminiClient(client, "sk-test", exec, stream).ask(context.Background(), question)
	},
}

const (
	geminiCall1 = `{"functionCall":{"name":"weather","args":{"city":"Oslo"},"id":"8f2b1a3c"},"thoughtSignature":"EtsC"}`
	geminiCall2 = `{"functionCall":{"name":"` + lookupName + `","args":{}}}`
	geminiCalls = geminiCall1 + "," + geminiCall2
)
