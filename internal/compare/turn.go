package compare

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// turn is a model's answer that asks for eight calls, and what the tools said.
type turn struct {
	format  agent.Format
	body    []byte
	answers []string
	replies []agent.Reply // the same, for Render
}

// turnFunc reads a turn, and gives what is to be appended to the history: the model's own message,
// and the answers.
type turnFunc func(turn) ([]json.RawMessage, error)

const (
	turnCalls = 8
	turnArgs  = `{"query":"the \"quick\" brown fox","limit":10,"filters":{"lang":["en","de"],"since":"2026-01-01"}}`
)

// turnBodies are responses as the providers document them: %s is the list of calls.
var turnBodies = map[agent.Format]string{
	agent.OpenAIChat: `{"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion","created":1741570283,"model":"gpt-4.1",` +
		`"choices":[{"index":0,"message":{"role":"assistant","content":null,"refusal":null,"annotations":[],"tool_calls":[%s]},"logprobs":null,"finish_reason":"tool_calls"}],` +
		`"usage":{"prompt_tokens":82,"completion_tokens":17,"total_tokens":99},"service_tier":"default"}`,
	agent.OpenAIResponses: `{"id":"resp_67ca09c5efe0819096d0511c92b8c890096610f474011cc0","object":"response","created_at":1741294021,"status":"completed","error":null,"incomplete_details":null,"model":"gpt-4.1",` +
		`"output":[{"id":"rs_6820f383d7c08191846711c5df8233bc0ac5ba57aafcbac7","type":"reasoning","summary":[]},%s],` +
		`"parallel_tool_calls":true,"usage":{"input_tokens":291,"output_tokens":23,"total_tokens":314}}`,
	agent.Anthropic: `{"id":"msg_01XFDUDYJgAACzvnptvVoYEL","type":"message","role":"assistant","model":"claude-sonnet-4-5",` +
		`"content":[{"type":"thinking","thinking":"I need to search.","signature":"EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds"},%s],` +
		`"stop_reason":"tool_use","stop_sequence":null,"usage":{"input_tokens":472,"output_tokens":89}}`,
	agent.Gemini: `{"candidates":[{"content":{"role":"model","parts":[{"text":"I need to search.","thought":true},%s]},"finishReason":"STOP","index":0}],` +
		`"usageMetadata":{"promptTokenCount":78,"candidatesTokenCount":18,"totalTokenCount":96},"modelVersion":"gemini-2.5-flash","responseId":"vz7cZ9rNBa2Aqt8Pma7imQk"}`,
}

// turnCall is a call as it stands in such a response.
func turnCall(format agent.Format, i int) string {
	id, quoted := fmt.Sprintf("call_%020d", i), jsonString(turnArgs)
	switch format {
	case agent.OpenAIChat:
		return fmt.Sprintf(`{"id":%q,"type":"function","function":{"name":%q,"arguments":%s}}`, id, toolName, quoted)
	case agent.OpenAIResponses:
		return fmt.Sprintf(`{"id":"fc_%020d","type":"function_call","call_id":%q,"name":%q,"arguments":%s,"status":"completed"}`, i, id, toolName, quoted)
	case agent.Anthropic:
		return fmt.Sprintf(`{"type":"tool_use","id":%q,"name":%q,"input":%s}`, id, toolName, turnArgs)
	}
	return fmt.Sprintf(`{"functionCall":{"id":%q,"name":%q,"args":%s},"thoughtSignature":"c2lnbmF0dXJl"}`, id, toolName, turnArgs)
}

func jsonString(s string) []byte {
	b, _ := json.Marshal(s) // a string always has a form
	return b
}

func newTurn(format agent.Format) turn {
	t := turn{format: format}
	var calls []string
	for i := range turnCalls {
		calls = append(calls, turnCall(format, i))
		answer := strings.Repeat(fmt.Sprintf("%d: a line of text that was found, and \"quoted\"\n", i), 6)
		t.answers = append(t.answers, answer)
		t.replies = append(t.replies, agent.Reply{Result: sluice.Result{Value: answer}})
	}
	t.body = fmt.Appendf(nil, turnBodies[format], strings.Join(calls, ","))
	return t
}

// oursTurn is Parse and Render.
func oursTurn(t turn) ([]json.RawMessage, error) {
	m, err := t.format.Parse(t.body)
	if err != nil {
		return nil, err
	}
	answers, err := t.format.Render(m, t.replies)
	return append(m.Echo, answers...), err
}

// doTurn is a contestant's Make. All of its turns must come to as many messages and bytes as the first.
func doTurn(t turn, do turnFunc) func(int) (Body, func(), error) {
	return func(int) (Body, func(), error) {
		want, err := do(t)
		if err != nil {
			return nil, nil, err
		}
		return func(_, n int) error {
			for range n {
				if got, err := do(t); err != nil {
					return err
				} else if len(got) != len(want) || bytesOf(got) != bytesOf(want) {
					return errWrong
				}
			}
			return nil
		}, nil, nil
	}
}

func bytesOf(all []json.RawMessage) (n int) {
	for _, raw := range all {
		n += len(raw)
	}
	return n
}
