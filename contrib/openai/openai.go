package sluiceopenai

import (
	"context"
	"encoding/json"
	"errors"
	"iter"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/responses"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// Turn is what an answer of a model has come to: the [agent.Turn], with its messages as the library takes them.
// [agent.Turn.Done] says whether the model has had its say.
type Turn[M any] struct {
	*agent.Turn
	Messages []M // to append to the history: the model's own message, then the answers to its calls
}

// Answers are the Messages without the model's own: for a history that OpenAI keeps, and has that.
func (t *Turn[M]) Answers() []M { return t.Messages[len(t.Message.Echo):] }

// ChatTools lists tools for the Tools of a chat completion: [sluice.ToolRegistry.Tools] is such a list. A name that
// models do not take is an error that says so; [agent.CodecConfig] has Names for it.
func ChatTools(c agent.CodecConfig, lists ...iter.Seq[sluice.Spec]) ([]openai.ChatCompletionToolUnionParam, error) {
	return tools[openai.ChatCompletionToolUnionParam](agent.OpenAIChat, c, lists)
}

// ResponseTools is [ChatTools] for the Tools of a response.
func ResponseTools(c agent.CodecConfig, lists ...iter.Seq[sluice.Spec]) ([]responses.ToolUnionParam, error) {
	return tools[responses.ToolUnionParam](agent.OpenAIResponses, c, lists)
}

// Chat makes the calls of a completion's first choice, and answers each of them, in their order, whatever becomes of
// it: see [agent.Runner.Turn], also for what it waits for. c must be what [ChatTools] was given.
//
// The completion may be that of an [openai.ChatCompletionAccumulator], of which the model's message is made anew. If
// its stream broke off, before the model said why it stopped, that is an error, and no call runs. Other errors are
// those of a completion that cannot be read, say one that a program has made, and of a c that is wrong. There is no
// Turn beside an error.
func Chat(
	ctx context.Context, r *agent.Runner, c agent.CodecConfig, completion *openai.ChatCompletion,
) (*Turn[openai.ChatCompletionMessageParamUnion], error) {
	if completion == nil {
		return nil, errors.New("sluiceopenai: Chat: the completion is nil")
	}
	body := []byte(completion.RawJSON())
	if len(body) == 0 {
		var err error
		if body, err = accumulated(completion); err != nil {
			return nil, err
		}
	}
	return turn[openai.ChatCompletionMessageParamUnion](ctx, r, agent.OpenAIChat, c, body)
}

// Response makes the calls of a response, and answers each of them, as [Chat] does those of a completion. c must be
// what [ResponseTools] was given.
//
// Of a stream, take the Response of its last event, response.completed or response.incomplete. Where that has no
// output, as on a WebSocket, [responses.ResponseAccumulator] has one that does. A response without its JSON is an
// error, and so is one that failed.
func Response(
	ctx context.Context, r *agent.Runner, c agent.CodecConfig, response *responses.Response,
) (*Turn[responses.ResponseInputItemUnionParam], error) {
	switch {
	case response == nil:
		return nil, errors.New("sluiceopenai: Response: the response is nil")
	case response.RawJSON() == "":
		return nil, errors.New("sluiceopenai: Response: the response has no JSON: must come from the API, or from a ResponseAccumulator")
	}
	return turn[responses.ResponseInputItemUnionParam](ctx, r, agent.OpenAIResponses, c, []byte(response.RawJSON()))
}

func tools[T param.ParamStruct, P param.InferPtr[T]](f agent.Format, c agent.CodecConfig, lists []iter.Seq[sluice.Spec]) ([]T, error) {
	codec, err := f.With(c)
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
	return overridden[T, P](all), nil
}

func turn[M param.ParamStruct, P param.InferPtr[M]](
	ctx context.Context, r *agent.Runner, f agent.Format, c agent.CodecConfig, body []byte,
) (*Turn[M], error) {
	if r == nil {
		return nil, errors.New("sluiceopenai: the Runner is nil: use agent.New")
	}
	codec, err := f.With(c)
	if err != nil {
		return nil, err
	}
	t, err := r.Turn(ctx, codec, body)
	if err != nil {
		return nil, err
	}
	return &Turn[M]{t, overridden[M, P](t.Messages)}, nil
}

// overridden are params that are written as they stand in list.
func overridden[M param.ParamStruct, P param.InferPtr[M]](list []json.RawMessage) []M {
	out := make([]M, len(list))
	for i, raw := range list {
		out[i] = param.Override[M, P](raw)
	}
	return out
}

// message is one that a ChatCompletionAccumulator has put together, which keeps no JSON, and of which the library's
// ToParam leaves out calls whose type the server has not said.
type message struct {
	Role      string  `json:"role"`
	Content   *string `json:"content"`
	Refusal   string  `json:"refusal,omitempty"`
	ToolCalls []call  `json:"tool_calls,omitempty"`
}

type call struct {
	ID       string `json:"id,omitempty"`
	Type     string `json:"type"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

// accumulated is the JSON of a completion that has none.
func accumulated(completion *openai.ChatCompletion) ([]byte, error) {
	if len(completion.Choices) == 0 {
		return nil, errors.New("sluiceopenai: Chat: the completion has no choice, and no JSON: must come from the API, or from a ChatCompletionAccumulator")
	}
	from := &completion.Choices[0]
	if from.FinishReason == "" {
		return nil, errors.New("sluiceopenai: Chat: the stream has broken off: the completion does not say why the model stopped, and may not be whole")
	}
	m := message{Role: "assistant", Refusal: from.Message.Refusal}
	if s := from.Message.Content; s != "" {
		m.Content = &s
	}
	for _, c := range from.Message.ToolCalls {
		to := call{ID: c.ID, Type: "function"}
		to.Function.Name, to.Function.Arguments = c.Function.Name, c.Function.Arguments
		m.ToolCalls = append(m.ToolCalls, to)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	reason, err := json.Marshal(from.FinishReason)
	if err != nil {
		return nil, err
	}
	b := append([]byte(`{"choices":[{"index":0,"message":`), raw...)
	return append(append(append(b, `,"finish_reason":`...), reason...), `}]}`...), nil
}
