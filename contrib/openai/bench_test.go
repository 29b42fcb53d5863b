package sluiceopenai_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	sluiceopenai "github.com/sluice-go/sluice/contrib/openai"
)

// always answers each request with the same body.
type always string

func (a always) RoundTrip(r *http.Request) (*http.Response, error) {
	return (&script{bodies: []string{string(a)}}).RoundTrip(r)
}

// BenchmarkTurn measures a turn of eight calls: asking a model that answers at once, without a network, and what is
// to be sent back. Alone, the calls are made one after the other, in the loop of the library's own examples.
func BenchmarkTurn(b *testing.B) {
	const n = 8
	var calls []string
	for i := range n {
		calls = append(calls, chatCall(fmt.Sprint("call_", i), "search", `{"query":"go rate limit of an API, 2026"}`))
	}
	body := chatBody(chatMessage(calls...), "tool_calls")
	client := openai.NewClient(option.WithAPIKey("k"), option.WithMaxRetries(0), option.WithBaseURL("http://model/"),
		option.WithHTTPClient(&http.Client{Transport: always(body)}))
	search := func(_ context.Context, in in) (out, error) { return out{len(in.Query)}, nil }
	ctx := context.Background()
	turn := func(b *testing.B, answers func(*openai.ChatCompletion) []openai.ChatCompletionMessageParamUnion) {
		params := openai.ChatCompletionNewParams{Model: "m", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")}}
		b.ReportAllocs()
		for b.Loop() {
			completion, err := client.Chat.Completions.New(ctx, params)
			require.NoError(b, err)
			history := append(params.Messages[:1:1], answers(completion)...)
			text, err := json.Marshal(history)
			require.NoError(b, err)
			if len(history) != n+2 || strings.Count(string(text), "hits") != n {
				b.Fatal(string(text))
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/call")
	}
	b.Run("alone", func(b *testing.B) {
		turn(b, func(c *openai.ChatCompletion) []openai.ChatCompletionMessageParamUnion {
			m := c.Choices[0].Message
			history := []openai.ChatCompletionMessageParamUnion{m.ToParam()}
			for _, call := range m.ToolCalls {
				var in in
				text := ""
				if err := json.Unmarshal([]byte(call.Function.Arguments), &in); err != nil {
					text = err.Error()
				} else if out, err := search(ctx, in); err != nil {
					text = err.Error()
				} else if b, err := json.Marshal(out); err != nil {
					text = err.Error()
				} else {
					text = string(b)
				}
				history = append(history, openai.ToolMessage(text, call.ID))
			}
			return history
		})
	})
	b.Run("guarded", func(b *testing.B) {
		limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: n}}}))
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits}}))
		defer exec.Close(ctx)
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search"}, search))
		runner := sluice.Must(agent.New(exec, agent.Config{}))
		turn(b, func(c *openai.ChatCompletion) []openai.ChatCompletionMessageParamUnion {
			turn, err := sluiceopenai.Chat(ctx, runner, agent.CodecConfig{}, c)
			require.NoError(b, err)
			return turn.Messages
		})
	})
}
