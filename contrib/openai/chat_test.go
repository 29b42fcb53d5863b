package sluiceopenai_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	sluiceopenai "github.com/sluice-go/sluice/contrib/openai"
)

// chatCall is a call as a completion has it, with a member that the library does not know.
func chatCall(id, name, args string) string {
	return fmt.Sprintf(`{"id":%q,"type":"function","function":{"name":%q,"arguments":%s},"x_new":9007199254740993}`, id, name, quoted(args))
}

func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// chatBody is a completion with a message.
func chatBody(message, reason string) string {
	return fmt.Sprintf(`{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"finish_reason":%q,"message":%s}]}`, reason, message)
}

func chatMessage(calls ...string) string {
	return fmt.Sprintf(`{"role":"assistant","content":null,"reasoning_content":"a < b","tool_calls":[%s]}`, strings.Join(calls, ","))
}

func chatAnswer(id, text string) string {
	return fmt.Sprintf(`{"role":"tool","tool_call_id":%q,"content":%s}`, id, quoted(text))
}

var chatEnd = chatBody(`{"role":"assistant","content":"done"}`, "stop")

// chatLoop is a user's loop. It gives back what the model has said at last.
func chatLoop(ctx context.Context, client openai.Client, e *sluice.Executor, r *agent.Runner, c agent.CodecConfig) (string, error) {
	list, err := sluiceopenai.ChatTools(c, e.Registry().Tools())
	if err != nil {
		return "", err
	}
	params := openai.ChatCompletionNewParams{Model: "m", Tools: list, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hi")}}
	for {
		completion, err := client.Chat.Completions.New(ctx, params)
		if err != nil {
			return "", err
		}
		turn, err := sluiceopenai.Chat(ctx, r, c, completion)
		if err != nil {
			return "", err
		}
		if params.Messages = append(params.Messages, turn.Messages...); turn.Done() {
			return turn.Message.Text(), nil
		}
	}
}

// completion is a body as the library reads it.
func completion(t *testing.T, body string) *openai.ChatCompletion {
	t.Helper()
	c := new(openai.ChatCompletion)
	require.NoError(t, json.Unmarshal([]byte(body), c))
	return c
}

// written are params as they go into a request.
func written[M any](t *testing.T, list []M) (out []string) {
	t.Helper()
	for _, m := range list {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false) // as the library does
		require.NoError(t, e.Encode(m))
		out = append(out, strings.TrimSuffix(b.String(), "\n"))
	}
	return out
}

// The model's message goes back the same bytes, and each call has its answer, whatever becomes of it.
func TestChat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, rec, conf := time.Now(), new(sluice.Recorder), strict(t)
		conf.Sink = rec
		exec, g := tools(t, conf)
		var calls, want []string
		for i, c := range turnOfCalls {
			calls = append(calls, chatCall(fmt.Sprint("call_", i), c.name, c.args))
			want = append(want, chatAnswer(fmt.Sprint("call_", i), answersOfCalls[i]))
		}
		s := &script{bodies: []string{chatBody(chatMessage(calls...), "tool_calls"), chatEnd}}
		text, err := chatLoop(t.Context(), s.client(), exec, runner(t, exec, agent.Config{}), agent.CodecConfig{})
		require.NoError(t, err)
		require.Equal(t, "done", text)
		got := s.list(t, 1, "messages")
		require.Equal(t, chatMessage(calls...), got[1])
		require.Equal(t, want, got[2:])
		require.EqualValues(t, 6, g.ran.Load())
		require.EqualValues(t, 2, g.peak.Load())
		require.Equal(t, 210*time.Millisecond, time.Since(start))
		require.NoError(t, rec.Check())
		var ids []string
		for _, e := range rec.Events() {
			if e.Kind == sluice.ToolInvoked {
				ids = append(ids, e.Call.ID)
			}
		}
		require.Equal(t, "call_0 call_1 call_2 call_3 call_4 call_5 call_6 call_7 call_8 call_9", strings.Join(ids, " "))
		require.Equal(t, []string{`{"type":"function","function":{"name":"search","description":"search the web","parameters":` + querySchema + `,"strict":false}}`},
			s.list(t, 1, "tools"))
	})
}

// Over a real connection, calls of many turns at once.
func TestChat_HTTP(t *testing.T) {
	exec, g := tools(t, sluice.Config{Interceptors: []sluice.Interceptor{limit(t, 2)}})
	r := runner(t, exec, agent.Config{})
	failed := make(chan error)
	for i := range 4 {
		s := &script{bodies: []string{
			chatBody(chatMessage(chatCall("a", "search", `{"query":"a"}`), chatCall("b", "search", `{"query":"bb"}`)), "tool_calls"),
			chatBody(chatMessage(chatCall("c", "search", `{"query":"ccc"}`)), "tool_calls"), chatEnd,
		}}
		client := s.dialled(t)
		go func() {
			text, err := chatLoop(context.Background(), client, exec, r, agent.CodecConfig{})
			if err == nil && (text != "done" || len(s.asked) != 3 || !strings.Contains(s.asked[2], chatAnswer("c", `{"hits":3}`))) {
				err = fmt.Errorf("loop %d: %q, %q", i, text, s.asked)
			}
			failed <- err
		}()
	}
	for range 4 {
		require.NoError(t, <-failed)
	}
	require.EqualValues(t, 12, g.ran.Load())
	require.LessOrEqual(t, g.peak.Load(), int64(2))
}

// chunk is one of a streamed completion.
func chunk(delta, reason string) string {
	return fmt.Sprintf(`{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":%s,"finish_reason":%s}]}`, delta, reason)
}

// accumulate is what the library makes of a stream.
func accumulate(t *testing.T, body string) *openai.ChatCompletion {
	t.Helper()
	s := &script{bodies: []string{body}}
	client := s.dialled(t)
	stream := client.Chat.Completions.NewStreaming(t.Context(), openai.ChatCompletionNewParams{Model: "m"})
	acc := new(openai.ChatCompletionAccumulator)
	for stream.Next() {
		require.True(t, acc.AddChunk(stream.Current()))
	}
	require.NoError(t, stream.Err())
	require.Empty(t, acc.RawJSON(), "if the library keeps JSON, so must we")
	return &acc.ChatCompletion
}

var streamedCalls = []string{
	chunk(`{"role":"assistant","content":"I "}`, "null"),
	chunk(`{"content":"look."}`, "null"),
	chunk(`{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"search","arguments":""}}]}`, "null"),
	chunk(`{"tool_calls":[{"index":0,"function":{"arguments":"{\"query\":"}}]}`, "null"),
	chunk(`{"tool_calls":[{"index":0,"function":{"arguments":"\"<a>\"}"}}]}`, "null"),
	chunk(`{"tool_calls":[{"index":1,"id":"b","function":{"name":"search","arguments":"{\"query\":\"b"}}]}`, "null"),
}

func TestChat_Accumulator(t *testing.T) {
	exec, g := tools(t, sluice.Config{})
	r := runner(t, exec, agent.Config{})
	message := func(last string) string {
		return `{"role":"assistant","content":"I look.","tool_calls":[` +
			`{"id":"a","type":"function","function":{"name":"search","arguments":"{\"query\":\"\u003ca\u003e\"}"}},` +
			`{"id":"b","type":"function","function":{"name":"search","arguments":` + quoted(last) + `}}]}`
	}

	t.Run("whole", func(t *testing.T) {
		c := accumulate(t, events(append(streamedCalls[:6:6], chunk(`{"tool_calls":[{"index":1,"function":{"arguments":"bb\"}"}}]}`, "null"), chunk(`{}`, `"tool_calls"`), "[DONE]")...))
		turn, err := sluiceopenai.Chat(t.Context(), r, agent.CodecConfig{}, c)
		require.NoError(t, err)
		require.Equal(t, []string{message(`{"query":"bbb"}`), chatAnswer("a", `{"hits":3}`), chatAnswer("b", `{"hits":3}`)}, written(t, turn.Messages))
		require.Equal(t, "I look.", turn.Message.Text())
	})
	t.Run("cut off by a limit of tokens", func(t *testing.T) {
		g.ran.Store(0)
		c := accumulate(t, events(append(streamedCalls[:6:6], chunk(`{}`, `"length"`), "[DONE]")...))
		turn, err := sluiceopenai.Chat(t.Context(), r, agent.CodecConfig{}, c)
		require.NoError(t, err)
		require.Equal(t, []string{message(`{"query":"b`), chatAnswer("a", `{"hits":3}`), chatAnswer("b", `{"error":{"type":"invalid_arguments","message":"the arguments do not fit the tool: they were cut off before their end, as the message was too long or was stopped; call again, with less","retryable":false}}`)},
			written(t, turn.Messages))
		require.EqualValues(t, 1, g.ran.Load())
	})
	t.Run("broken off", func(t *testing.T) {
		g.ran.Store(0)
		c := accumulate(t, events(streamedCalls[:5]...))
		_, err := sluiceopenai.Chat(t.Context(), r, agent.CodecConfig{}, c)
		require.EqualError(t, err, "sluiceopenai: Chat: the stream has broken off: the completion does not say why the model stopped, and may not be whole")
		require.EqualValues(t, 0, g.ran.Load())
	})
	t.Run("a text", func(t *testing.T) {
		c := accumulate(t, events(chunk(`{"role":"assistant","content":"done"}`, "null"), chunk(`{}`, `"stop"`), "[DONE]"))
		turn, err := sluiceopenai.Chat(t.Context(), r, agent.CodecConfig{}, c)
		require.NoError(t, err)
		require.True(t, turn.Done())
		require.Equal(t, []string{`{"role":"assistant","content":"done"}`}, written(t, turn.Messages))
		require.Empty(t, turn.Answers())
	})
}

// Arguments that a limit of tokens has cut do not run, though what is there of them may be JSON.
func TestChat_CutOff(t *testing.T) {
	exec, g := tools(t, sluice.Config{})
	turn, err := sluiceopenai.Chat(t.Context(), runner(t, exec, agent.Config{}), agent.CodecConfig{},
		completion(t, chatBody(chatMessage(chatCall("a", "search", `{"query":"a"}`), chatCall("b", "search", `{"query":"b"}`)), "length")))
	require.NoError(t, err)
	require.EqualValues(t, 1, g.ran.Load())
	require.NoError(t, turn.Replies[0].Err)
	require.ErrorIs(t, turn.Replies[1].Err, sluice.ErrInvalidArguments)
	require.Len(t, turn.Answers(), 2)
}

func TestChat_Errors(t *testing.T) {
	exec, _ := tools(t, sluice.Config{})
	r := runner(t, exec, agent.Config{})
	whole := completion(t, chatEnd)
	for _, c := range []struct {
		runner     *agent.Runner
		conf       agent.CodecConfig
		completion *openai.ChatCompletion
		want       string
	}{
		{nil, agent.CodecConfig{}, whole, "sluiceopenai: the Runner is nil: use agent.New"},
		{r, agent.CodecConfig{MaxResultBytes: -1}, whole, "agent: CodecConfig.MaxResultBytes is -1: must be zero (65536) or 1 to 1073741824"},
		{r, agent.CodecConfig{}, nil, "sluiceopenai: Chat: the completion is nil"},
		{r, agent.CodecConfig{}, new(openai.ChatCompletion), "sluiceopenai: Chat: the completion has no choice, and no JSON: must come from the API, or from a ChatCompletionAccumulator"},
		{r, agent.CodecConfig{}, completion(t, `{"choices":[]}`), "agent: the openai-chat message has no message of that format"},
	} {
		turn, err := sluiceopenai.Chat(t.Context(), c.runner, c.conf, c.completion)
		require.EqualError(t, err, c.want)
		require.Nil(t, turn)
	}
}

// A cancelled turn has an answer for each call, so that the history stays one that the API takes.
func TestChat_Cancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exec, g := tools(t, sluice.Config{Interceptors: []sluice.Interceptor{limit(t, 1)}})
		cause := errors.New("the user has left")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		turn, err := sluiceopenai.Chat(ctx, runner(t, exec, agent.Config{}), agent.CodecConfig{},
			completion(t, chatBody(chatMessage(chatCall("a", "search", `{"query":"hang"}`), chatCall("b", "search", `{"query":"b"}`)), "tool_calls")))
		require.NoError(t, err)
		require.EqualValues(t, 1, g.ran.Load())
		require.ErrorIs(t, turn.Replies[0].Err, context.Canceled)
		require.ErrorIs(t, turn.Replies[1].Err, cause)
		const canceled = `{"error":{"type":"canceled","message":"the call was cancelled","retryable":false}}`
		require.Equal(t, []string{chatAnswer("a", canceled), chatAnswer("b", canceled)}, written(t, turn.Answers()))
	})
}

// What the Runner says of turns holds: deadlines, repair, and that one failure ends the others.
func TestChat_Runner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		exec, g := tools(t, sluice.Config{})
		r := runner(t, exec, agent.Config{Deadline: time.Second, Repair: func(_ context.Context, call sluice.Request, _ error) (sluice.Request, bool) {
			call.Tool = "search"
			return call, true
		}})
		turn, err := sluiceopenai.Chat(t.Context(), r, agent.CodecConfig{},
			completion(t, chatBody(chatMessage(chatCall("a", "Search", `{"query":"abc"}`), chatCall("b", "search", `{"query":"hang"}`)), "tool_calls")))
		require.NoError(t, err)
		require.Equal(t, chatAnswer("a", `{"hits":3}`), written(t, turn.Answers())[0])
		require.ErrorIs(t, turn.Replies[1].Err, context.DeadlineExceeded)
		require.EqualValues(t, 2, g.ran.Load())
		require.Equal(t, time.Second, time.Since(start))
	})
}

// A thousand calls of one message at limit 8: eight run at once, and each has its answer.
func TestChat_Load(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		exec, g := tools(t, sluice.Config{Interceptors: []sluice.Interceptor{limit(t, 8)}})
		var calls []string
		for i := range 1000 {
			calls = append(calls, chatCall(fmt.Sprint("call_", i), "search", fmt.Sprintf(`{"query":%q}`, strings.Repeat("x", 1+i%7))))
		}
		s := &script{bodies: []string{chatBody(chatMessage(calls...), "tool_calls"), chatEnd}}
		_, err := chatLoop(t.Context(), s.client(), exec, runner(t, exec, agent.Config{}), agent.CodecConfig{})
		require.NoError(t, err)
		got := s.list(t, 1, "messages")[2:]
		require.Len(t, got, 1000)
		for i := range got {
			require.Equal(t, chatAnswer(fmt.Sprint("call_", i), fmt.Sprintf(`{"hits":%d}`, 1+i%7)), got[i])
		}
		require.EqualValues(t, 1000, g.ran.Load())
		require.EqualValues(t, 8, g.peak.Load())
		require.Equal(t, 125*10*time.Millisecond, time.Since(start))
	})
}
