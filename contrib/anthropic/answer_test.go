package sluiceanthropic_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	sluiceanthropic "github.com/sluice-go/sluice/contrib/anthropic"
)

// answersOfCalls is what the model reads of turnOfCalls; an error is a JSON object.
var answersOfCalls = []string{
	`1 hits`,
	`2 hits`,
	`{"type":"invalid_arguments","message":"the arguments do not fit the tool: $ has an unknown key \"quary\": allowed are \"query\"","retryable":false}`,
	`{"type":"unknown_tool","message":"there is no tool \"serach\"; did you mean \"search\"?","retryable":false}`,
	`{"type":"panic","message":"the tool failed","retryable":false}`,
	`{"type":"tool_error","message":"backend says no","retryable":false}`,
	`{"type":"timeout","message":"the tool did not finish in time","retryable":false}`,
	`{"type":"goexit","message":"the tool failed","retryable":false}`,
	`{"type":"rate_limited","message":"too many calls for now; try again in 10 s","retryable":true,"retry_after_ms":9990}`,
}

const thought = `{"type":"thinking","thinking":"hm","signature":"c2ln","x_new":9007199254740993}`

// result answers a call.
func result(id, text string) string {
	failed := ""
	if strings.HasPrefix(text, "{") {
		failed = `,"is_error":true`
	}
	return fmt.Sprintf(`{"type":"tool_result","tool_use_id":%q,"content":%s%s}`, id, quoted(text), failed)
}

func results(all ...string) string {
	return `{"role":"user","content":[` + strings.Join(all, ",") + `]}`
}

// loop is a user's. It gives back what the model has said at last.
func loop(ctx context.Context, client anthropic.Client, e *sluice.Executor, r *agent.Runner, c agent.CodecConfig) (string, error) {
	list, err := sluiceanthropic.MessageTools(c, e.Registry().Tools())
	if err != nil {
		return "", err
	}
	params := anthropic.MessageNewParams{Model: "m", MaxTokens: 100, Tools: list, Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("hi"))}}
	for {
		message, err := client.Messages.New(ctx, params)
		if err != nil {
			return "", err
		}
		turn, err := sluiceanthropic.Answer(ctx, r, c, message)
		if err != nil {
			return "", err
		}
		if params.Messages = append(params.Messages, turn.Messages...); turn.Done() {
			return turn.Message.Text(), nil
		}
	}
}

func message(t *testing.T, body string) *anthropic.Message {
	t.Helper()
	m := new(anthropic.Message)
	require.NoError(t, json.Unmarshal([]byte(body), m))
	return m
}

// The model's message goes back the same bytes, but for escapes, and each call has its result, whatever becomes of it.
func TestAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, rec, conf := time.Now(), new(sluice.Recorder), strict(t, 6)
		conf.Sink = rec
		exec, g := tools(t, conf)
		blocks, want := []string{thought}, []string{}
		for i, c := range turnOfCalls {
			blocks = append(blocks, toolUse(fmt.Sprint("toolu_", i), c.name, c.args))
			want = append(want, result(fmt.Sprint("toolu_", i), answersOfCalls[i]))
		}
		s := &script{bodies: []string{body("pause_turn", thought), body("tool_use", blocks...), end}}
		said, err := loop(t.Context(), s.client(), exec, runner(t, exec, agent.Config{}), agent.CodecConfig{})
		require.NoError(t, err)
		require.Equal(t, "done", said)
		require.Equal(t, []string{
			`{"role":"assistant","content":[` + thought + `]}`,
			escaped(`{"role":"assistant","content":[` + strings.Join(blocks, ",") + `]}`),
			results(want...),
		}, s.list(t, 2, "messages")[1:])
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
		require.Equal(t, "toolu_0 toolu_1 toolu_2 toolu_3 toolu_4 toolu_5 toolu_6 toolu_7 toolu_8", strings.Join(ids, " "))
		require.Equal(t, []string{`{"name":"search","description":"search the web","input_schema":` + querySchema + `}`}, s.list(t, 0, "tools"))
	})
}

var streamed = []string{
	`{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}`,
	`{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}`,
	`{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"a < b"}}`,
	`{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"c2ln"}}`,
	`{"type":"content_block_stop","index":0}`,
	`{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"a","name":"search","input":{}}}`,
	`{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"query\":"}}`,
	`{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"\"abc\"}"}}`,
	`{"type":"content_block_stop","index":1}`,
	`{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"b","name":"any","input":{}}}`,
	`{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"n\":90071992"}}`,
}

// accumulate is what the library makes of a stream.
func accumulate(t *testing.T, all ...string) *anthropic.Message {
	t.Helper()
	s := &script{bodies: []string{events(all...)}}
	client := s.dialled(t)
	stream := client.Messages.NewStreaming(t.Context(), anthropic.MessageNewParams{Model: "m", MaxTokens: 100})
	m := new(anthropic.Message)
	for stream.Next() {
		require.NoError(t, m.Accumulate(stream.Current()))
	}
	require.NoError(t, stream.Err())
	return m
}

func stop(reason string) []string {
	return []string{
		`{"type":"content_block_stop","index":2}`,
		`{"type":"message_delta","delta":{"stop_reason":"` + reason + `","stop_sequence":null},"usage":{"output_tokens":9}}`,
		`{"type":"message_stop"}`,
	}
}

func TestAnswer_Accumulate(t *testing.T) {
	exec, g := tools(t, sluice.Config{})
	anyRan := 0
	_, err := sluice.Wrap(exec, sluice.Spec{Name: "any"}, func(_ context.Context, in json.RawMessage) (json.RawMessage, error) { anyRan++; return in, nil })
	require.NoError(t, err)
	r := runner(t, exec, agent.Config{})
	content := func(input string) string {
		return escaped(`{"role":"assistant","content":[{"type":"thinking","thinking":"a < b","signature":"c2ln"},` +
			`{"type":"tool_use","id":"a","name":"search","input":{"query":"abc"}},{"type":"tool_use","id":"b","name":"any","input":` + input + `}]}`)
	}

	t.Run("whole", func(t *testing.T) {
		anyRan = 0
		m := accumulate(t, append(append(streamed[:11:11], `{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"54740993}"}}`), stop("tool_use")...)...)
		turn, err := sluiceanthropic.Answer(t.Context(), r, agent.CodecConfig{}, m)
		require.NoError(t, err)
		require.Equal(t, content(`{"n":9007199254740993}`), written(t, turn.Messages[0]))
		require.Equal(t, results(result("a", "3 hits"), `{"type":"tool_result","tool_use_id":"b","content":"{\"n\":9007199254740993}"}`), written(t, turn.Messages[1]))
		require.Equal(t, 1, anyRan)
	})
	t.Run("cut off by a limit of tokens", func(t *testing.T) { // of which the library makes {}
		anyRan = 0
		turn, err := sluiceanthropic.Answer(t.Context(), r, agent.CodecConfig{}, accumulate(t, append(streamed[:11:11], stop("max_tokens")...)...))
		require.NoError(t, err)
		require.Equal(t, content(`{}`), written(t, turn.Messages[0]))
		require.Zero(t, anyRan)
		require.ErrorIs(t, turn.Replies[1].Err, sluice.ErrInvalidArguments)
	})
	t.Run("broken off", func(t *testing.T) {
		anyRan = 0
		g.ran.Store(0)
		for _, n := range []int{9, 11} { // after a call that is whole, and inside one
			_, err := sluiceanthropic.Answer(t.Context(), r, agent.CodecConfig{}, accumulate(t, streamed[:n]...))
			require.EqualError(t, err, "sluiceanthropic: Answer: the stream has broken off: the message has no JSON of its content, which its last event completes")
		}
		require.Zero(t, anyRan)
		require.EqualValues(t, 0, g.ran.Load())
	})
	t.Run("nothing", func(t *testing.T) {
		turn, err := sluiceanthropic.Answer(t.Context(), r, agent.CodecConfig{}, accumulate(t, streamed[0], stop("end_turn")[1], stop("")[2]))
		require.NoError(t, err)
		require.True(t, turn.Done())
		require.Empty(t, turn.Messages)
	})
}

func TestAnswer_Errors(t *testing.T) {
	exec, _ := tools(t, sluice.Config{})
	r := runner(t, exec, agent.Config{})
	for _, c := range []struct {
		runner  *agent.Runner
		conf    agent.CodecConfig
		message *anthropic.Message
		want    string
	}{
		{nil, agent.CodecConfig{}, message(t, end), "sluiceanthropic: the Runner is nil: use agent.New"},
		{r, agent.CodecConfig{MaxResultBytes: -1}, message(t, end), "agent: CodecConfig.MaxResultBytes is -1: must be zero (65536) or 1 to 1073741824"},
		{r, agent.CodecConfig{}, nil, "sluiceanthropic: Answer: the message is nil"},
		{r, agent.CodecConfig{}, new(anthropic.Message), "sluiceanthropic: Answer: the message has no JSON: must come from the API, or from Accumulate"},
		{r, agent.CodecConfig{}, message(t, `{"type":"error","error":{"message":"overloaded"}}`), "agent: the anthropic message is an error of the provider, and no message"},
	} {
		turn, err := sluiceanthropic.Answer(t.Context(), c.runner, c.conf, c.message)
		require.EqualError(t, err, c.want)
		require.Nil(t, turn)
	}
}

// A cancelled turn has a result for each call, so that the history stays one that the API takes.
func TestAnswer_Cancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exec, g := tools(t, sluice.Config{Interceptors: []sluice.Interceptor{limit(t, 1)}})
		cause := errors.New("the user has left")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		turn, err := sluiceanthropic.Answer(ctx, runner(t, exec, agent.Config{}), agent.CodecConfig{},
			message(t, body("tool_use", toolUse("a", "search", `{"query":"hang"}`), toolUse("b", "search", `{"query":"b"}`))))
		require.NoError(t, err)
		require.EqualValues(t, 1, g.ran.Load())
		require.ErrorIs(t, turn.Replies[1].Err, cause)
		const cancelled = `{"type":"canceled","message":"the call was cancelled","retryable":false}`
		require.Equal(t, results(result("a", cancelled), result("b", cancelled)), written(t, turn.Messages[1]))
	})
}

// A thousand calls of one message at limit 8: eight run at once, and each has its result.
func TestAnswer_Load(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		exec, g := tools(t, sluice.Config{Interceptors: []sluice.Interceptor{limit(t, 8)}})
		s, want := thousand()
		_, err := loop(t.Context(), s.client(), exec, runner(t, exec, agent.Config{}), agent.CodecConfig{})
		require.NoError(t, err)
		var all []string
		for i, text := range want {
			all = append(all, result(fmt.Sprint("toolu_", i), text))
		}
		require.Equal(t, results(all...), s.last(t, 1))
		require.EqualValues(t, 1000, g.ran.Load())
		require.EqualValues(t, 8, g.peak.Load())
		require.Equal(t, 125*10*time.Millisecond, time.Since(start))
	})
}

// thousand is a model that makes 1,000 calls, and what answers them.
func thousand() (*script, []string) {
	var blocks, want []string
	for i := range 1000 {
		blocks = append(blocks, toolUse(fmt.Sprint("toolu_", i), "search", fmt.Sprintf(`{"query":%q}`, strings.Repeat("x", 1+i%7))))
		want = append(want, fmt.Sprint(1+i%7, " hits"))
	}
	return &script{bodies: []string{body("tool_use", blocks...), end}}, want
}

// A tool whose name models do not take is listed by another, which leads back to it.
func TestTrap_NamesThatModelsDoNotTake(t *testing.T) {
	exec, _ := tools(t, sluice.Config{})
	_, err := sluice.Wrap(exec, sluice.Spec{Name: "crm.lookup"}, func(context.Context, struct{}) (string, error) { return "Ada", nil })
	require.NoError(t, err)
	_, err = sluiceanthropic.MessageTools(agent.CodecConfig{}, exec.Registry().Tools())
	require.EqualError(t, err, `agent: the tool "crm.lookup": models take [A-Za-z0-9_-]{1,64}: set CodecConfig.Names to the NewNames of all tools`)
	_, err = sluiceanthropic.MessageTools(agent.CodecConfig{MaxBodyBytes: -1})
	require.EqualError(t, err, "agent: CodecConfig.MaxBodyBytes is -1: must be zero (33554432) or 1 to 1073741824")

	names, err := agent.NewNames(exec.Registry().Tools())
	require.NoError(t, err)
	wire := names.Name("crm.lookup")
	s := &script{bodies: []string{body("tool_use", toolUse("a", wire, `{}`)), end}}
	_, err = loop(t.Context(), s.client(), exec, runner(t, exec, agent.Config{}), agent.CodecConfig{Names: names})
	require.NoError(t, err)
	require.Equal(t, results(result("a", "Ada")), s.last(t, 1))
	require.Equal(t, `{"name":"`+wire+`","input_schema":{"type":"object","properties":{}}}`, s.list(t, 0, "tools")[0])
}
