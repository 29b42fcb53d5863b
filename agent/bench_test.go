package agent_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice/agent"
)

// Plain structs of the shape that an SDK has, with the fields that this turn needs and no others: what
// encoding/json takes at least.
type (
	plainChat struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Choices []struct {
			Index        int              `json:"index"`
			Message      plainChatMessage `json:"message"`
			FinishReason string           `json:"finish_reason"`
		} `json:"choices"`
		Usage struct {
			Total int `json:"total_tokens"`
		} `json:"usage"`
	}
	plainChatMessage struct {
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
	plainChatReply struct {
		Role    string `json:"role"`
		ID      string `json:"tool_call_id"`
		Content string `json:"content"`
	}
	plainAnthropic struct {
		ID      string       `json:"id"`
		Type    string       `json:"type"`
		Role    string       `json:"role"`
		Model   string       `json:"model"`
		Content []plainBlock `json:"content"`
		Stop    string       `json:"stop_reason"`
		Usage   struct {
			Output int `json:"output_tokens"`
		} `json:"usage"`
	}
	plainBlock struct {
		Type      string          `json:"type"`
		Thinking  string          `json:"thinking,omitempty"`
		Signature string          `json:"signature,omitempty"`
		ID        string          `json:"id,omitempty"`
		Name      string          `json:"name,omitempty"`
		Input     json.RawMessage `json:"input,omitempty"`
		ToolUseID string          `json:"tool_use_id,omitempty"`
		Content   string          `json:"content,omitempty"`
	}
	plainMessage struct {
		Role    string       `json:"role"`
		Content []plainBlock `json:"content"`
	}
)

// turn is a response of 8 calls, and their answers.
func turn(format agent.Format) ([]byte, []agent.Reply) {
	f := formats[format]
	var calls []string
	var replies []agent.Reply
	for i := range 8 {
		calls = append(calls, f.call(fmt.Sprintf("call_%020d", i), "search_documents", `{"query":"the \"quick\" brown fox","limit":10,"filters":{"lang":["en","de"],"since":"2026-01-01"}}`))
		r := agent.Reply{}
		r.Result.Value = strings.Repeat(`a line of text that was found, and "quoted"`+"\n", 6)
		replies = append(replies, r)
	}
	return []byte(fmt.Sprintf(f.body, strings.Join(calls, ","))), replies
}

// plain is the same with encoding/json: the model's message again, and the answers.
func plain(format agent.Format, body []byte, replies []agent.Reply) (out [][]byte, err error) {
	keep := func(v any) {
		b, e := json.Marshal(v)
		if err == nil {
			err = e
		}
		out = append(out, b)
	}
	if format == agent.Anthropic {
		var m plainAnthropic
		if err := json.Unmarshal(body, &m); err != nil {
			return nil, err
		}
		keep(plainMessage{m.Role, m.Content})
		answers := plainMessage{Role: "user"}
		for _, x := range m.Content {
			if x.Type == "tool_use" {
				answers.Content = append(answers.Content, plainBlock{Type: "tool_result", ToolUseID: x.ID, Content: replies[len(answers.Content)].Result.Value.(string)})
			}
		}
		keep(answers)
		return out, err
	}
	var m plainChat
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, err
	}
	message := m.Choices[0].Message
	keep(message)
	for i, x := range message.ToolCalls {
		keep(plainChatReply{"tool", x.ID, replies[i].Result.Value.(string)})
	}
	return out, err
}

func ours(format agent.Format, body []byte, replies []agent.Reply) ([]json.RawMessage, error) {
	m, err := format.Parse(body)
	if err != nil {
		return nil, err
	}
	answers, err := format.Render(m, replies)
	return append(m.Echo, answers...), err
}

// Both sides of the benchmark give the model the same to read.
func TestPlainStructsAgree(t *testing.T) {
	for _, format := range []agent.Format{agent.OpenAIChat, agent.Anthropic} {
		body, replies := turn(format)
		a, err := ours(format, body, replies)
		require.NoError(t, err)
		b, err := plain(format, body, replies)
		require.NoError(t, err)
		require.Len(t, a, len(b))
		for i := 1; i < len(a); i++ {
			require.JSONEq(t, string(b[i]), string(a[i]))
		}
	}
}

func BenchmarkTurnOfEight(b *testing.B) {
	for _, format := range []agent.Format{agent.OpenAIChat, agent.Anthropic} {
		body, replies := turn(format)
		b.Run(format.String()+"/agent", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ours(format, body, replies); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(format.String()+"/encoding-json", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := plain(format, body, replies); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
