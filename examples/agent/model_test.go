package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice/agent"
)

// spoken is the history of a whole conversation.
func spoken(t *testing.T, format agent.Format) (history []json.RawMessage) {
	synctest.Test(t, func(t *testing.T) {
		a, begun, ctx, _ := begin(t, format, false)
		var err error
		history, err = a.converse(ctx, begun)
		require.NoError(t, err)
	})
	return history
}

// post sends a history to the model, with a change of the body, and returns its answer.
func post(t *testing.T, format agent.Format, stream bool, history []json.RawMessage, header http.Header, change ...string) *httptest.ResponseRecorder {
	exec := newExecutor(nil)
	defer exec.Close(t.Context())
	tools, err := format.Tools(exec.Registry().Tools())
	require.NoError(t, err)
	req, err := (&client{format: format, stream: stream}).request(t.Context(), history, tools)
	require.NoError(t, err)
	body, err := io.ReadAll(req.Body)
	require.NoError(t, err)
	for i := 0; i < len(change); i += 2 {
		require.Equal(t, 1, strings.Count(string(body), change[i]), change[i])
	}
	r := httptest.NewRequest(req.Method, req.URL.String(), strings.NewReader(strings.NewReplacer(change...).Replace(string(body))))
	r.Header = req.Header
	for name, values := range header {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	(&model{}).handler().ServeHTTP(w, r)
	return w
}

// refused is the message of an error in the form of its provider.
func refused(t *testing.T, format agent.Format, status int, w *httptest.ResponseRecorder) string {
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	var e struct {
		Error struct{ Message string }
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &e))
	message := string(write(e.Error.Message))
	want := `{"error":{"code":null,"message":` + message + `,"param":null,"type":"invalid_request_error"}}`
	if format == agent.Anthropic {
		kind := map[int]string{400: "invalid_request_error", 401: "authentication_error", 413: "request_too_large"}[status]
		want = `{"error":{"message":` + message + `,"type":"` + kind + `"},"type":"error"}`
	}
	require.Equal(t, want, w.Body.String())
	require.Equal(t, status, w.Code)
	return e.Error.Message
}

// replaced is a history with another text at one place.
func replaced(t *testing.T, history []json.RawMessage, at int, old, new string) []json.RawMessage {
	require.Equal(t, 1, strings.Count(string(history[at]), old), "%s in %s", old, history[at])
	h := slices.Clone(history)
	h[at] = json.RawMessage(strings.Replace(string(h[at]), old, new, 1))
	return h
}

// A history as the provider demands it is answered, anything else refused, with where and why.
func TestModel_TakesNoOtherHistory(t *testing.T) {
	type h = []json.RawMessage
	chat, anthropic := spoken(t, agent.OpenAIChat), spoken(t, agent.Anthropic)
	chat, anthropic = chat[:len(chat)-1], anthropic[:len(anthropic)-1]
	without := func(history h, i int) h { return slices.Delete(slices.Clone(history), i, i+1) }
	twice := func(history h, i int) h { return slices.Insert(slices.Clone(history), i, history[i]) }
	swapped := func(history h, i, j int) h {
		history = slices.Clone(history)
		history[i], history[j] = history[j], history[i]
		return history
	}
	result := func(i int) string { // of the first turn
		var m struct{ Content []json.RawMessage }
		require.NoError(t, json.Unmarshal(anthropic[2], &m))
		return string(m.Content[i])
	}
	const unanswered = "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
	const notFound = "`tool_use` ids were found without `tool_result` blocks immediately after: "
	const inNext = ". Each `tool_use` block must have a corresponding `tool_result` block in the next message."
	for _, c := range []struct {
		name    string
		format  agent.Format
		history h
		want    string // empty if it is taken
	}{
		{"as it is", agent.OpenAIChat, chat, ""},
		{"only the question", agent.OpenAIChat, chat[:1], ""},
		{"a turn", agent.OpenAIChat, chat[:6], ""},
		{"nothing", agent.OpenAIChat, h{}, "messages[1]: must be the user's"},
		{"an answer first", agent.OpenAIChat, chat[2:], "messages[1]: must be the user's"},
		{"no answers", agent.OpenAIChat, chat[:2], unanswered + "call_1, call_2, call_3, call_4"},
		{"the last answer is missing", agent.OpenAIChat, chat[:5], unanswered + "call_4"},
		{"the last answer of a turn is missing", agent.OpenAIChat, without(chat, 5), unanswered + "call_4"},
		{"an answer is missing", agent.OpenAIChat, without(chat, 3), `messages[4]: answers "call_3": must have the content for call_2`},
		{"an answer twice", agent.OpenAIChat, twice(chat, 2), `messages[4]: answers "call_1": must have the content for call_2`},
		{"the last answer twice", agent.OpenAIChat, twice(chat, 5), "messages[7]: messages with role 'tool' must be a response to a preceding message with 'tool_calls'."},
		{"another order", agent.OpenAIChat, swapped(chat, 3, 4), `messages[4]: answers "call_3": must have the content for call_2`},
		{"an answer of another turn", agent.OpenAIChat, swapped(chat, 5, 7), `messages[6]: answers "call_5": must have the content for call_4`},
		{"an answer without an id", agent.OpenAIChat, replaced(t, chat, 2, `"tool_call_id":"call_1",`, ``), `messages[3]: answers "": must have the content for call_1`},
		{"an answer without content", agent.OpenAIChat, replaced(t, chat, 2, `"sunny, 7 °C"`, `null`), `messages[3]: answers "call_1": must have the content for call_1`},
		{"an answer by the user", agent.OpenAIChat, replaced(t, chat, 3, `"tool"`, `"user"`), unanswered + "call_2, call_3, call_4"},
		{"an answer with a field that is not known", agent.OpenAIChat, replaced(t, chat, 3, `"role"`, `"is_error":false,"role"`), `the body cannot be read: unknown field "is_error"`},
		{"the user in between", agent.OpenAIChat, slices.Insert(slices.Clone(chat), 6, chat[0]), `messages[7]: the role is "user": must be assistant`},
		{"the message changed", agent.OpenAIChat, replaced(t, chat, 9, `2`, `3`), "messages[10]: is " +
			`{"role":"assistant","content":null,"refusal":null,"tool_calls":[{"id":"call_7","type":"function","function":{"name":"book_hotel","arguments":"{\"city\":\"Oslo\",\"nights\":3}"}}]}, but the model has said ` +
			`{"role":"assistant","content":null,"refusal":null,"tool_calls":[{"id":"call_7","type":"function","function":{"name":"book_hotel","arguments":"{\"city\":\"Oslo\",\"nights\":2}"}}]}`},
		{"a field of the message is lost", agent.OpenAIChat, replaced(t, chat, 9, `"refusal":null,`, ``), "messages[10]: is " +
			`{"role":"assistant","content":null,"tool_calls":[{"id":"call_7","type":"function","function":{"name":"book_hotel","arguments":"{\"city\":\"Oslo\",\"nights\":2}"}}]}, but the model has said ` +
			`{"role":"assistant","content":null,"refusal":null,"tool_calls":[{"id":"call_7","type":"function","function":{"name":"book_hotel","arguments":"{\"city\":\"Oslo\",\"nights\":2}"}}]}`},
		{"an error that is none", agent.OpenAIChat, replaced(t, chat, 5, `{\"error\":`, `{\"result\":`), "the result of call_4 is \"{\\\"result\\\":{\\\"type\\\":\\\"unknown_tool\\\",\\\"message\\\":\\\"there is no tool \\\\\\\"exchange_rates\\\\\\\"\\\",\\\"retryable\\\":false}}\": must be an error, of the type unknown_tool"},
		{"it is over", agent.OpenAIChat, spoken(t, agent.OpenAIChat), "messages[12]: the conversation is over"},

		{"as it is", agent.Anthropic, anthropic, ""},
		{"only the question", agent.Anthropic, anthropic[:1], ""},
		{"a turn", agent.Anthropic, anthropic[:3], ""},
		{"text after the answers", agent.Anthropic, replaced(t, anthropic, 6, `"}]}`, `"},{"type":"text","text":"Go on."}]}`), ""},
		{"nothing", agent.Anthropic, h{}, "messages.0: must be the user's"},
		{"an answer first", agent.Anthropic, anthropic[1:], "messages.0: must be the user's"},
		{"no answers", agent.Anthropic, anthropic[:2], "messages.1: " + notFound + "toolu_01, toolu_02, toolu_03, toolu_04" + inNext},
		{"the user goes on", agent.Anthropic, append(slices.Clone(anthropic[:2]), text("user", "Well?")), "messages.1: " + notFound + "toolu_01, toolu_02, toolu_03, toolu_04" + inNext},
		{"the last answer is missing", agent.Anthropic, replaced(t, anthropic, 2, ","+result(3), ``), "messages.1: " + notFound + "toolu_04" + inNext},
		{"an answer is missing", agent.Anthropic, replaced(t, anthropic, 2, result(1)+",", ``), `messages.2.content.1: answers "toolu_03": must answer toolu_02`},
		{"an answer twice", agent.Anthropic, replaced(t, anthropic, 2, result(0), result(0)+","+result(0)), `messages.2.content.1: answers "toolu_01": must answer toolu_02`},
		{"the last answer twice", agent.Anthropic, replaced(t, anthropic, 2, result(3), result(3)+","+result(3)), "messages.2.content.4: unexpected `tool_use_id` found in `tool_result` blocks: toolu_04. Each `tool_result` block must have a corresponding `tool_use` block in the previous message."},
		{"another order", agent.Anthropic, replaced(t, anthropic, 2, result(1)+","+result(2), result(2)+","+result(1)), `messages.2.content.1: answers "toolu_03": must answer toolu_02`},
		{"text before the answers", agent.Anthropic, replaced(t, anthropic, 2, result(0), `{"type":"text","text":"Here:"},`+result(0)), `messages.2.content.1: answers "toolu_01": must answer toolu_02`},
		{"a message for each answer", agent.Anthropic, slices.Insert(replaced(t, anthropic, 2, ","+result(3), ``), 3, json.RawMessage(`{"role":"user","content":[`+result(3)+`]}`)), "messages.1: " + notFound + "toolu_04" + inNext},
		{"an answer by the model", agent.Anthropic, replaced(t, anthropic, 2, `"user"`, `"assistant"`), `messages.2: the role is "assistant": must be user`},
		{"the answers twice", agent.Anthropic, twice(anthropic, 2), `messages.3: the role is "user": must be assistant`},
		{"space in the message, which encoding/json leaves out again", agent.Anthropic, replaced(t, anthropic, 5, `2}`, `2 }`), ""},
		{"a number is written in another way", agent.Anthropic, replaced(t, anthropic, 5, `2}`, `2.0}`), "messages.5: is " +
			`{"role":"assistant","content":[{"type":"thinking","thinking":"Left to do: 1.","signature":"c2lnbmVkOiBMZWZ0IHRvIGRvOiAxLg=="},{"type":"tool_use","id":"toolu_07","name":"book_hotel","input":{"city":"Oslo","nights":2.0}}]}, but the model has said ` +
			`{"role":"assistant","content":[{"type":"thinking","thinking":"Left to do: 1.","signature":"c2lnbmVkOiBMZWZ0IHRvIGRvOiAxLg=="},{"type":"tool_use","id":"toolu_07","name":"book_hotel","input":{"city":"Oslo","nights":2}}]}`},
		{"the thought is lost", agent.Anthropic, replaced(t, anthropic, 5, `{"type":"thinking","thinking":"Left to do: 1.","signature":"c2lnbmVkOiBMZWZ0IHRvIGRvOiAxLg=="},`, ``), "messages.5: is " +
			`{"role":"assistant","content":[{"type":"tool_use","id":"toolu_07","name":"book_hotel","input":{"city":"Oslo","nights":2}}]}, but the model has said ` +
			`{"role":"assistant","content":[{"type":"thinking","thinking":"Left to do: 1.","signature":"c2lnbmVkOiBMZWZ0IHRvIGRvOiAxLg=="},{"type":"tool_use","id":"toolu_07","name":"book_hotel","input":{"city":"Oslo","nights":2}}]}`},
		{"an error that is not marked", agent.Anthropic, replaced(t, anthropic, 2, `,"is_error":true`, ``), "the result of toolu_04 is \"{\\\"type\\\":\\\"unknown_tool\\\",\\\"message\\\":\\\"there is no tool \\\\\\\"exchange_rates\\\\\\\"\\\",\\\"retryable\\\":false}\": must be an error, of the type unknown_tool"},
		{"an error that does not say which", agent.Anthropic, replaced(t, anthropic, 2, `\"message\"`, `\"text\"`), "messages.2.content.3: is an error that does not say which"},
		{"it is over", agent.Anthropic, spoken(t, agent.Anthropic), "messages[7]: the conversation is over"},
	} {
		for _, stream := range []bool{false, true} {
			t.Run(c.format.String()+"/"+c.name, func(t *testing.T) {
				w := post(t, c.format, stream, c.history, nil)
				if c.want != "" {
					require.Equal(t, c.want, refused(t, c.format, http.StatusBadRequest, w))
					return
				}
				require.Equal(t, http.StatusOK, w.Code, w.Body)
				m, err := agent.ReadMessage(c.format, w.Body)
				require.NoError(t, err)
				require.Equal(t, len(c.history) > 7 || c.format == agent.Anthropic && len(c.history) == 7, m.Done())
			})
		}
	}
}

// What stands around the history is looked at, too.
func TestModel_TakesNoOtherRequest(t *testing.T) {
	const weatherSchema = `{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}`
	history := []json.RawMessage{text("user", trip.question)}
	for _, c := range []struct {
		format agent.Format
		stream bool
		header http.Header
		change []string
		status int
		want   string
	}{
		{agent.OpenAIChat, false, http.Header{"Authorization": nil}, nil, 401, "You didn't provide an API key."},
		{agent.OpenAIChat, false, nil, []string{`"model":"scripted-1",`, ``}, 400, "you must provide a model parameter"},
		{agent.OpenAIChat, false, nil, []string{`"model":`, `"system":"x","model":`}, 400, `the body cannot be read: unknown field "system"`},
		{agent.OpenAIChat, true, nil, []string{`"stream":true,`, ``}, 400, "The 'stream_options' parameter is only allowed when 'stream' is enabled."},
		{agent.OpenAIChat, false, nil, []string{`"tools":[{"type":"function",`, `"tools":[{"type":"custom",`}, 400, `tools[0].type is "custom": must be function`},
		{agent.OpenAIChat, false, nil, []string{`"tools":[`, `"tools":[{"name":"now"},`}, 400, `the body cannot be read: unknown field "name"`},
		{agent.OpenAIChat, false, nil, []string{`"name":"weather"`, `"name":"weather now"`}, 400, `tools[3]: the name "weather now" does not match ^[a-zA-Z0-9_-]{1,64}$`},
		{agent.OpenAIChat, false, nil, []string{`"name":"weather"`, `"name":"flights"`}, 400, `tools[3]: the name "flights" is there twice`},
		{agent.OpenAIChat, false, nil, []string{`"name":"weather"`, `"name":"weather2"`}, 400, "tools: the script needs weather"},
		{agent.OpenAIChat, false, nil, []string{weatherSchema, `{"type":"object"}`}, 400, "tools[3]: the schema of weather must be of type object, with properties"},
		{agent.Anthropic, false, http.Header{"X-Api-Key": nil}, nil, 401, "x-api-key header is required"},
		{agent.Anthropic, false, http.Header{"Anthropic-Version": nil}, nil, 400, "anthropic-version: header is required"},
		{agent.Anthropic, false, nil, []string{`"model":"scripted-1",`, ``}, 400, "model: Field required"},
		{agent.Anthropic, false, nil, []string{`"max_tokens":4096,`, ``}, 400, "max_tokens: Field required"},
		{agent.Anthropic, false, nil, []string{`"budget_tokens":1024`, `"budget_tokens":4096`}, 400, "thinking.budget_tokens: must be at least 1024 and less than max_tokens"},
		{agent.Anthropic, false, nil, []string{`"tools":[`, `"tools":[{"type":"function","function":{}},`}, 400, `the body cannot be read: unknown field "type"`},
		{agent.Anthropic, false, nil, []string{weatherSchema, `null`}, 400, "tools[3]: the schema of weather must be of type object, with properties"},
		{agent.Anthropic, false, nil, []string{trip.question, strings.Repeat("x", 1<<20)}, 413, "the request is too large"},
	} {
		w := post(t, c.format, c.stream, history, c.header, c.change...)
		require.Equal(t, c.want, refused(t, c.format, c.status, w))
	}
}
