package sluiceanthropic

import (
	"context"
	"encoding/json"
	"errors"
	"iter"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/packages/param"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// Turn is what an answer of a model has come to: the [agent.Turn], with its messages as the library takes them.
// [agent.Turn.Done] says whether the model has had its say.
type Turn struct {
	*agent.Turn
	Messages []anthropic.MessageParam // to append to the history: the model's own message, then the answer to its calls
}

// MessageTools lists tools for the Tools of a message: [sluice.ToolRegistry.Tools] is such a list. A name that models
// do not take is an error that says so; [agent.CodecConfig] has Names for it.
func MessageTools(c agent.CodecConfig, lists ...iter.Seq[sluice.Spec]) ([]anthropic.ToolUnionParam, error) {
	codec, err := agent.Anthropic.With(c)
	if err != nil {
		return nil, err
	}
	list, err := codec.Tools(lists...)
	if err != nil {
		return nil, err
	}
	var all []json.RawMessage
	if err := json.Unmarshal(list, &all); err != nil {
		return nil, err
	}
	out := make([]anthropic.ToolUnionParam, len(all))
	for i, raw := range all {
		out[i] = param.Override[anthropic.ToolUnionParam](raw)
	}
	return out, nil
}

// Answer makes the calls of a message, and answers each of them, in their order, whatever becomes of it: see
// [agent.Runner.Turn], also for what it waits for. c must be what [MessageTools] was given.
//
// The message may be one that [anthropic.Message.Accumulate] has put together. If its stream broke off, before its
// last event, that is an error, and no call runs. Other errors are those of a message that cannot be read, say one
// that a program has made, and of a c that is wrong. There is no Turn beside an error.
func Answer(ctx context.Context, r *agent.Runner, c agent.CodecConfig, m *anthropic.Message) (*Turn, error) {
	switch {
	case r == nil:
		return nil, errors.New("sluiceanthropic: the Runner is nil: use agent.New")
	case m == nil:
		return nil, errors.New("sluiceanthropic: Answer: the message is nil")
	case m.RawJSON() == "":
		return nil, errors.New("sluiceanthropic: Answer: the message has no JSON: must come from the API, or from Accumulate")
	case !isWhole(m):
		return nil, errors.New("sluiceanthropic: Answer: the stream has broken off: the message has no JSON of its content, which its last event completes")
	}
	codec, err := agent.Anthropic.With(c)
	if err != nil {
		return nil, err
	}
	t, err := r.Turn(ctx, codec, []byte(m.RawJSON()))
	if err != nil {
		return nil, err
	}
	out := &Turn{t, make([]anthropic.MessageParam, len(t.Messages))}
	for i, raw := range t.Messages {
		out.Messages[i] = param.Override[anthropic.MessageParam](raw)
	}
	return out, nil
}

// isWhole reports whether the JSON of m has its content. Of a stream it gets that with the last event; until then
// it is that of the first one, which has none.
func isWhole(m *anthropic.Message) bool {
	if len(m.Content) == 0 || m.JSON.Content.Raw() != "[]" {
		return true
	}
	var raw struct {
		Content []json.RawMessage `json:"content"`
	}
	return json.Unmarshal([]byte(m.RawJSON()), &raw) == nil && len(raw.Content) > 0
}
