package sluiceopenai_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	sluiceopenai "github.com/sluice-go/sluice/contrib/openai"
)

// Traps that whoever writes such an adapter falls into.

// Arguments are the call's own bytes: their size is counted, and bounded.
func TestTrap_ArgumentsInABox(t *testing.T) {
	rec := new(sluice.Recorder)
	exec, g := tools(t, sluice.Config{MaxArgBytes: 100, Sink: rec})
	long := `{"query":"` + strings.Repeat("x", 1000) + `"}`
	turn, err := sluiceopenai.Chat(t.Context(), runner(t, exec, agent.Config{}), agent.CodecConfig{},
		completion(t, chatBody(chatMessage(chatCall("a", "search", long), chatCall("b", "search", `{"query":"b"}`)), "tool_calls")))
	require.NoError(t, err)
	require.ErrorIs(t, turn.Replies[0].Err, sluice.ErrInvalidArguments)
	require.EqualValues(t, 1, g.ran.Load())
	bytes := map[string]int{}
	for _, e := range rec.Events() {
		bytes[e.Call.ID] += e.InputBytes
	}
	require.Equal(t, map[string]int{"a": len(long), "b": len(`{"query":"b"}`)}, bytes)
}

// Neither the value of a panic nor its stack reaches the model.
func TestTrap_PanicInJSON(t *testing.T) {
	exec, _ := tools(t, sluice.Config{})
	turn, err := sluiceopenai.Chat(t.Context(), runner(t, exec, agent.Config{}), agent.CodecConfig{},
		completion(t, chatBody(chatMessage(chatCall("a", "search", `{"query":"panic"}`)), "tool_calls")))
	require.NoError(t, err)
	var p *sluice.PanicError
	require.ErrorAs(t, turn.Replies[0].Err, &p)
	require.Equal(t, "secret sk-123", p.Value)
	require.Equal(t, []string{chatAnswer("a", `{"error":{"type":"panic","message":"the tool failed","retryable":false}}`)}, written(t, turn.Answers()))
}

// Calls of one id, or of none, are calls of their own, and so are their events.
func TestTrap_IDsTwice(t *testing.T) {
	rec := new(sluice.Recorder)
	exec, g := tools(t, sluice.Config{Sink: rec})
	turn, err := sluiceopenai.Chat(t.Context(), runner(t, exec, agent.Config{}), agent.CodecConfig{},
		completion(t, chatBody(chatMessage(chatCall("call_0", "search", `{"query":"a"}`), chatCall("call_0", "search", `{"query":"bb"}`), chatCall("", "search", `{"query":"ccc"}`)), "tool_calls")))
	require.NoError(t, err)
	require.Equal(t, []string{chatAnswer("call_0", `{"hits":1}`), chatAnswer("call_0", `{"hits":2}`), chatAnswer("", `{"hits":3}`)}, written(t, turn.Answers()))
	require.EqualValues(t, 3, g.ran.Load())
	require.NoError(t, rec.Check())
	keys := map[sluice.CallKey]int{}
	for _, e := range rec.Events() {
		keys[e.CallKey]++
	}
	require.Len(t, keys, 3)
}

// A required argument that is absent does not run the tool with a zero value.
func TestTrap_RequiredArgumentAbsent(t *testing.T) {
	exec, g := tools(t, sluice.Config{})
	turn, err := sluiceopenai.Chat(t.Context(), runner(t, exec, agent.Config{}), agent.CodecConfig{},
		completion(t, chatBody(chatMessage(chatCall("a", "search", `{}`), chatCall("b", "search", ``)), "tool_calls")))
	require.NoError(t, err)
	require.EqualValues(t, 0, g.ran.Load())
	for _, r := range turn.Replies {
		require.ErrorIs(t, r.Err, sluice.ErrInvalidArguments)
	}
}

// A name that the model has made up is refused, and registered nowhere.
func TestTrap_MadeUpName(t *testing.T) {
	exec, _ := tools(t, sluice.Config{})
	turn, err := sluiceopenai.Chat(t.Context(), runner(t, exec, agent.Config{}), agent.CodecConfig{},
		completion(t, chatBody(chatMessage(chatCall("a", "rm -rf /", `{}`)), "tool_calls")))
	require.NoError(t, err)
	require.ErrorIs(t, turn.Replies[0].Err, sluice.ErrUnknownTool)
	n := 0
	for range exec.Registry().Tools() {
		n++
	}
	require.Equal(t, 1, n)
}

// A tool whose name models do not take is listed by another, which leads back to it.
func TestTrap_NamesThatModelsDoNotTake(t *testing.T) {
	exec, _ := tools(t, sluice.Config{})
	ran := 0
	_, err := sluice.Wrap(exec, sluice.Spec{Name: "crm.lookup"}, func(context.Context, struct{}) (string, error) { ran++; return "Ada", nil })
	require.NoError(t, err)

	_, err = sluiceopenai.ChatTools(agent.CodecConfig{}, exec.Registry().Tools())
	require.EqualError(t, err, `agent: the tool "crm.lookup": models take [A-Za-z0-9_-]{1,64}: set CodecConfig.Names to the NewNames of all tools`)
	_, err = sluiceopenai.ResponseTools(agent.CodecConfig{MaxBodyBytes: -1})
	require.EqualError(t, err, "agent: CodecConfig.MaxBodyBytes is -1: must be zero (33554432) or 1 to 1073741824")

	names, err := agent.NewNames(exec.Registry().Tools())
	require.NoError(t, err)
	conf := agent.CodecConfig{Names: names, Strict: true}
	wire := names.Name("crm.lookup")
	s := &script{bodies: []string{chatBody(chatMessage(chatCall("a", wire, `{}`)), "tool_calls"), chatEnd}}
	_, err = chatLoop(t.Context(), s.client(), exec, runner(t, exec, agent.Config{}), conf)
	require.NoError(t, err)
	require.Equal(t, 1, ran)
	require.Equal(t, chatAnswer("a", "Ada"), s.list(t, 1, "messages")[2])
	require.Equal(t, `{"type":"function","function":{"name":"`+wire+`","parameters":{"type":"object","properties":{},"required":[],"additionalProperties":false},"strict":true}}`,
		s.list(t, 1, "tools")[0])
}

// What a context carries reaches the tool, and says on whose behalf it runs.
func TestTrap_ContextValues(t *testing.T) {
	type key struct{}
	exec, _ := tools(t, sluice.Config{})
	var value any
	var id, tenant string
	_, err := sluice.Wrap(exec, sluice.Spec{Name: "whoami"}, func(ctx context.Context, _ json.RawMessage) (string, error) {
		c, _ := sluice.CallFrom(ctx)
		value, id, tenant = ctx.Value(key{}), c.ID, sluice.PipelineContextFrom(ctx).Tenant
		return "", nil
	})
	require.NoError(t, err)
	ctx := sluice.WithPipelineContext(context.WithValue(t.Context(), key{}, 7), sluice.PipelineContext{Tenant: "acme"})
	_, err = sluiceopenai.Chat(ctx, runner(t, exec, agent.Config{}), agent.CodecConfig{}, completion(t, chatBody(chatMessage(chatCall("call_9", "whoami", `{}`)), "tool_calls")))
	require.NoError(t, err)
	require.Equal(t, []any{7, "call_9", "acme"}, []any{value, id, tenant})
}
