package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// formats are all, each with a response of calls as its provider documents it: %s is the list of calls.
var formats = []struct {
	format agent.Format
	body   string
	call   func(id, name, args string) string // args is JSON
}{
	{agent.OpenAIChat,
		`{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":null,"refusal":null,"tool_calls":[%s],"x_new":{"n":9007199254740993}},"logprobs":null,"finish_reason":"tool_calls"}],"usage":{"total_tokens":9}}`,
		func(id, name, args string) string {
			quoted, _ := json.Marshal(args)
			return fmt.Sprintf(`{"id":%q,"type":"function","function":{"name":%q,"arguments":%s}}`, id, name, quoted)
		}},
	{agent.OpenAIResponses,
		`{"id":"resp_1","object":"response","status":"completed","error":null,"output":[{"id":"rs_1","type":"reasoning","summary":[]},%s],"usage":{"total_tokens":9}}`,
		func(id, name, args string) string {
			quoted, _ := json.Marshal(args)
			return fmt.Sprintf(`{"id":"fc_%s","type":"function_call","call_id":%q,"name":%q,"arguments":%s,"status":"completed"}`, id, id, name, quoted)
		}},
	{agent.Anthropic,
		`{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[{"type":"thinking","thinking":"hm","signature":"c2ln"},%s],"stop_reason":"tool_use","stop_sequence":null,"usage":{"output_tokens":9}}`,
		func(id, name, args string) string {
			return fmt.Sprintf(`{"type":"tool_use","id":%q,"name":%q,"input":%s}`, id, name, args)
		}},
	{agent.Gemini,
		`{"candidates":[{"content":{"role":"model","parts":[{"text":"let me see","thought":true},%s]},"finishReason":"STOP","index":0}],"usageMetadata":{}}`,
		func(id, name, args string) string {
			return fmt.Sprintf(`{"functionCall":{"id":%q,"name":%q,"args":%s},"thoughtSignature":"c2ln"}`, id, name, args)
		}},
}

// echoed is what of the body a message repeats.
func echoed(m *agent.Message) string {
	var b strings.Builder
	for _, raw := range m.Echo {
		b.Write(raw)
		b.WriteByte('\n')
	}
	return b.String()
}

func values(all ...any) (out []agent.Reply) {
	for _, v := range all {
		r := agent.Reply{}
		if err, ok := v.(error); ok {
			r.Err = err
		} else {
			r.Result.Value = v
		}
		out = append(out, r)
	}
	return out
}

func texts(t *testing.T, all []json.RawMessage) (out []string) {
	t.Helper()
	for _, raw := range all {
		require.True(t, json.Valid(raw), "%s", raw)
		out = append(out, string(raw))
	}
	return out
}

func TestParse(t *testing.T) {
	for _, f := range formats {
		t.Run(f.format.String(), func(t *testing.T) {
			args := []string{`{"q":"go","n":9007199254740993}`, `{ "b":1, "a":2, "b":3 }`, `[1]`, `"text"`, `{}`, `{"q":"é\n\u00e9"}`}
			ids := []string{"a", "b", "a", "", "e", "f"}
			var calls []string
			for i, a := range args {
				calls = append(calls, f.call(ids[i], "search", a))
			}
			body := fmt.Sprintf(f.body, strings.Join(calls, ", "))
			m, err := f.format.Parse([]byte(body))
			require.NoError(t, err)
			require.False(t, m.Done())
			require.Len(t, m.Calls, len(args))
			for i, c := range m.Calls {
				require.NoError(t, c.Err, i)
				require.Equal(t, "search", c.Request.Tool)
				require.Equal(t, ids[i], c.Request.ID)
				require.Equal(t, args[i], string(c.Request.Args), "the same bytes")
			}
			for _, c := range calls {
				require.Contains(t, echoed(m), c, "what is repeated are the same bytes")
			}
			for _, raw := range m.Echo {
				require.True(t, json.Valid(raw))
			}
			require.Empty(t, m.Text(), "thoughts are no text")
			require.Empty(t, m.Others)
		})
	}
}

func TestParseTakesAMessageAlone(t *testing.T) {
	for _, c := range []struct {
		format agent.Format
		body   string
	}{
		{agent.OpenAIChat, ` {"role":"assistant","content":"hello"}`},
		{agent.Anthropic, `{"role":"assistant","content":[{"type":"text","text":"hel"},{"type":"text","text":"lo"}]}`},
		{agent.Anthropic, `{"role":"assistant","content":"hello"}`},
		{agent.Gemini, `{"role":"model","parts":[{"text":"hello"}]}`},
	} {
		m, err := c.format.Parse([]byte(c.body))
		require.NoError(t, err)
		require.True(t, m.Done())
		require.Equal(t, "hello", m.Text())
		require.Equal(t, []string{strings.TrimSpace(c.body)}, texts(t, m.Echo))
	}
}

func TestParseOfWhatIsNoMessage(t *testing.T) {
	for _, f := range formats {
		for _, c := range []struct{ body, want string }{
			{``, "ends at byte 0: must have { there"},
			{`[]`, "is not JSON at byte 0: must have { there"},
			{`{}`, "has no message of that format"},
			{`{"error":{"message":"secret"}}`, "is an error of the provider, and no message"},
			{`{"a":1} x`, "is not JSON at byte 8: must have its end there"},
			{`{"a":01}`, "is not JSON at byte 6: must have a comma or the end there"},
			{fmt.Sprintf(f.body, f.call("a", "b", "{}"))[:60], "ends at byte 60"},
		} {
			_, err := f.format.Parse([]byte(c.body))
			require.ErrorContains(t, err, "agent: the "+f.format.String()+" message "+c.want, c.body)
		}
		codec, err := f.format.With(agent.CodecConfig{MaxBodyBytes: 10})
		require.NoError(t, err)
		_, err = codec.Parse([]byte(`{"a":"123456"}`))
		require.EqualError(t, err, "agent: the "+f.format.String()+" message has 14 bytes: at most 10 are allowed")

		many := strings.TrimSuffix(strings.Repeat(f.call("a", "b", "{}")+",", 4097), ",")
		_, err = f.format.Parse([]byte(fmt.Sprintf(f.body, many)))
		require.ErrorContains(t, err, "has 4097 calls: at most 4096 are allowed")
	}
	_, err := agent.OpenAIResponses.Parse([]byte(`{"output":[],"status":"failed","error":{"code":"server_error"}}`))
	require.ErrorContains(t, err, "is an error of the provider, and no message")
	m, err := agent.Anthropic.Parse([]byte(`{"content":[{"type":"tool_use","id":"a","name":"x","input":{}},{"type":"tool_use","id":"b","name":"x","input":{}}],"stop_reason":"refusal"}`))
	require.NoError(t, err)
	require.Len(t, m.Calls, 2)
	for _, c := range m.Calls {
		require.ErrorIs(t, c.Err, sluice.ErrInvalidArguments, "nothing of a refused answer runs")
	}
	for _, status := range []string{"queued", "in_progress"} {
		_, err := agent.OpenAIResponses.Parse([]byte(`{"output":[],"status":"` + status + `"}`))
		require.EqualError(t, err, `agent: the openai-responses message is not finished: its status is "`+status+`"`)
	}
	for format, body := range map[agent.Format]string{
		agent.OpenAIChat:      `{"role":"assistant","tool_calls":[],"tool_calls":[]}`,
		agent.OpenAIResponses: `{"output":[],"output":[]}`,
		agent.Anthropic:       `{"content":[],"content":[]}`,
		agent.Gemini:          `{"parts":[],"parts":[]}`,
	} {
		_, err := format.Parse([]byte(body))
		require.ErrorContains(t, err, "twice", format)
	}
	for format, body := range map[agent.Format]string{
		agent.OpenAIChat: `{"choices":[{"message":{"role":"assistant"}}],"role":"assistant"}`,
		agent.Gemini:     `{"candidates":[{"content":{"parts":[]}}],"parts":[]}`,
	} {
		_, err := format.Parse([]byte(body))
		require.ErrorContains(t, err, "is two messages: must be a response, or a message alone", format)
	}
}

func TestCallsThatAreNoList(t *testing.T) {
	for format, body := range map[agent.Format]string{
		agent.OpenAIChat:      `{"role":"assistant","tool_calls":%s}`,
		agent.OpenAIResponses: `{"output":%s}`,
		agent.Gemini:          `{"parts":%s}`,
	} {
		for _, value := range []string{`{}`, `"calls"`, `3`, `false`} {
			_, err := format.Parse(fmt.Appendf(nil, body, value))
			require.ErrorContains(t, err, "has calls that are no list", format)
		}
		m, err := format.Parse(fmt.Appendf(nil, body, "null"))
		if format == agent.OpenAIResponses {
			require.ErrorContains(t, err, "has no message of that format")
			continue
		}
		require.NoError(t, err, format)
		require.True(t, m.Done(), "null is none")
	}
}

// One malformed call spoils only itself, and is answered.
func TestOneMalformedCallSpoilsOnlyItself(t *testing.T) {
	for _, f := range formats {
		t.Run(f.format.String(), func(t *testing.T) {
			good := f.call("g", "search", `{"q":1}`)
			bad := map[string]string{
				"invalid UTF-8": strings.Replace(f.call("b", "search", `{"q":"X"}`), "X", "\xff", 1),
				"no name":       f.call("b", "", `{}`),
				"name no text":  strings.Replace(f.call("b", "search", `{}`), `"search"`, `5`, 1),
				"id no text":    strings.Replace(f.call("b", "search", `{}`), `"b"`, `5`, 1),
				"name twice":    strings.Replace(f.call("b", "search", `{}`), `"name":`, `"name":"x","name":`, 1),
				"lone":          strings.Replace(f.call("b", "search", `{}`), `"search"`, `"\ud800"`, 1),
			}
			switch f.format {
			case agent.OpenAIChat:
				bad["null"] = `null`
				bad["number"] = `3`
				bad["no function"] = `{"id":"b","type":"function"}`
				bad["unknown kind"] = `{"id":"b","type":"mcp","function":{"name":"search","arguments":"{}"}}`
				bad["two kinds"] = `{"id":"b","function":{"name":"search"},"custom":{"name":"search"}}`
				bad["function no object"] = `{"id":"b","function":3}`
				bad["arguments lone"] = `{"id":"b","function":{"name":"search","arguments":"\ud800"}}`
			case agent.Gemini:
				bad["no object"] = `{"functionCall":3}`
				bad["in parts"] = `{"functionCall":{"name":"search","partialArgs":[{"jsonPath":"$.a"}],"willContinue":true}}`
			case agent.OpenAIResponses:
				bad["incomplete"] = strings.Replace(f.call("b", "search", `{}`), `"completed"`, `"incomplete"`, 1)
			}
			for name, b := range bad {
				body := fmt.Sprintf(f.body, good+","+b+","+good)
				m, err := f.format.Parse([]byte(body))
				require.NoError(t, err, name)
				require.Len(t, m.Calls, 3, name)
				require.NoError(t, m.Calls[0].Err, name)
				require.NoError(t, m.Calls[2].Err, name)
				require.ErrorIs(t, m.Calls[1].Err, sluice.ErrInvalidArguments, name)
				require.ErrorIs(t, m.Calls[1].Err, sluice.ErrRejected, name)
				require.Empty(t, m.Calls[1].Request.Args, name)
				require.Contains(t, echoed(m), b, name)
				out, err := f.format.Render(m, values("one", "must not be read", "three"))
				require.NoError(t, err, name)
				all := strings.Join(texts(t, out), "\n")
				require.NotContains(t, all, "must not be read", name)
				require.Contains(t, all, `invalid_arguments`, name)
				require.Less(t, strings.Index(all, "one"), strings.Index(all, "invalid_arguments"), name)
				require.Less(t, strings.Index(all, "invalid_arguments"), strings.Index(all, "three"), name)
			}
		})
	}
}

// A document as deep as you like neither blows the stack nor is changed.
func TestDepth(t *testing.T) {
	for _, f := range formats {
		deep := strings.Repeat(`{"a":[`, 5000) + strings.Repeat(`]}`, 5000)
		if f.format == agent.Gemini || f.format == agent.Anthropic {
			deep = strings.Repeat(`{"a":[`, 500_000) + strings.Repeat(`]}`, 500_000)
		}
		m, err := f.format.Parse([]byte(fmt.Sprintf(f.body, f.call("a", "search", deep))))
		require.NoError(t, err)
		require.Equal(t, deep, string(m.Calls[0].Request.Args))
		require.NoError(t, m.Calls[0].Err, "the executor says what is too deep")
	}
}

func TestArgumentsThatWereCutOffNeverRun(t *testing.T) {
	for _, f := range formats {
		was, cut := `"tool_calls"}]`, `"length"}]`
		switch f.format {
		case agent.OpenAIResponses:
			was, cut = `"status":"completed","error"`, `"status":"incomplete","error"`
		case agent.Anthropic:
			was, cut = `"stop_reason":"tool_use"`, `"stop_reason":"max_tokens"`
		case agent.Gemini:
			was, cut = `"STOP"`, `"MAX_TOKENS"`
		}
		last := f.call("b", "search", `{}`)
		if f.format == agent.OpenAIResponses {
			last = strings.Replace(last, `,"status":"completed"`, ``, 1)
		}
		body := fmt.Sprintf(f.body, f.call("a", "search", `{}`)+","+last)
		require.Contains(t, body, was)
		m, err := f.format.Parse([]byte(strings.Replace(body, was, cut, 1)))
		require.NoError(t, err)
		require.Len(t, m.Calls, 2)
		require.NoError(t, m.Calls[0].Err, f.format)
		require.ErrorContains(t, m.Calls[1].Err, "cut off", f.format)
		require.JSONEq(t, `{"type":"invalid_arguments","message":"the arguments do not fit the tool: they were cut off before their end, as the message was too long or was stopped; call again, with less","retryable":false}`,
			sluice.ModelText(m.Calls[1].Err))
	}
}

func TestProvidersOwnItemsAreLeftAlone(t *testing.T) {
	for _, c := range []struct {
		format agent.Format
		body   string
		others []string
		echo   string
		paused bool
	}{
		{agent.Anthropic,
			`{"content":[{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{"query":"go"}},{"type":"web_search_tool_result","tool_use_id":"srvtoolu_1","content":[]}],"stop_reason":"pause_turn"}`,
			[]string{`{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{"query":"go"}}`, `{"type":"web_search_tool_result","tool_use_id":"srvtoolu_1","content":[]}`},
			`{"role":"assistant","content":[{"type":"server_tool_use","id":"srvtoolu_1","name":"web_search","input":{"query":"go"}},{"type":"web_search_tool_result","tool_use_id":"srvtoolu_1","content":[]}]}` + "\n", true},
		{agent.OpenAIResponses,
			`{"output":[{"type":"web_search_call","id":"ws_1","status":"completed"},{"type":"message","content":[{"type":"output_text","text":"hi"}]}],"status":"completed"}`,
			[]string{`{"type":"web_search_call","id":"ws_1","status":"completed"}`},
			`{"type":"web_search_call","id":"ws_1","status":"completed"}` + "\n" + `{"type":"message","content":[{"type":"output_text","text":"hi"}]}` + "\n", false},
		{agent.Gemini,
			`{"candidates":[{"content":{"parts":[{"executableCode":{"code":"1"}},{"text":"hi"}],"role":"model"}}]}`,
			[]string{`{"executableCode":{"code":"1"}}`}, `{"parts":[{"executableCode":{"code":"1"}},{"text":"hi"}],"role":"model"}` + "\n", false},
		{agent.OpenAIChat, `{"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{}"}}`,
			[]string{`{"name":"f","arguments":"{}"}`}, `{"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{}"}}` + "\n", false},
	} {
		m, err := c.format.Parse([]byte(c.body))
		require.NoError(t, err)
		require.Empty(t, m.Calls)
		require.Equal(t, c.others, texts(t, m.Others))
		require.Equal(t, c.echo, echoed(m))
		require.Equal(t, c.paused, m.Paused)
		require.Equal(t, !c.paused, m.Done(), "a turn that is paused is not over")
	}
}

// Texts that say nothing are not sent again: models write them, and the API refuses them.
func TestAnthropicTextsThatSayNothing(t *testing.T) {
	const call = `{"type":"tool_use","id":"a","name":"f","input":{}}`
	const thought = `{"type":"thinking","thinking":"","signature":"c2ln"}`
	for content, want := range map[string]string{
		`[{"type":"text","text":""}, ` + call + `]`:                                              `[` + call + `]`,
		`[ ` + thought + ` ,{"text":" \n\t\u0020","type":"text","citations":null},` + call + `]`: `[` + thought + `,` + call + `]`,
		`[` + call + `,{"type":"text","text":"\r\n"}]`:                                           `[` + call + `]`,
		`[{"type":"text","text":"\n- x"}, {"type":"text"}]`:                                      `[{"type":"text","text":"\n- x"}, {"type":"text"}]`,
		`[{"type":"text","text":"\u00a0 x"}]`:                                                    `[{"type":"text","text":"\u00a0 x"}]`,
		`[{"type":"text","text":""}]`:                                                            ``,
		`[5, {"type":"text","text":""}]`:                                                         `[5]`,
	} {
		m, err := agent.Anthropic.Parse([]byte(`{"content":` + content + `,"stop_reason":"tool_use"}`))
		require.NoError(t, err)
		if want != "" {
			want = `{"role":"assistant","content":` + want + "}\n"
		}
		require.Equal(t, want, echoed(m))
		require.Len(t, m.Calls, strings.Count(content, "tool_use"))
	}
	s := agent.Anthropic.Stream()
	for _, e := range []string{
		`{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`,
		`{"type":"content_block_stop","index":0}`,
		`{"type":"content_block_start","index":1,"content_block":` + call + `}`,
		`{"type":"content_block_stop","index":1}`,
		`{"type":"message_stop"}`,
	} {
		require.NoError(t, s.Event([]byte(e)))
	}
	m, err := s.Message()
	require.NoError(t, err)
	require.Equal(t, `{"role":"assistant","content":[`+call+"]}\n", echoed(m))
}

func TestGeminiTextsThatSayNothing(t *testing.T) {
	const call = `{"functionCall":{"name":"f"},"thoughtSignature":"c2ln"}`
	for content, want := range map[string]string{
		`{"parts" : [ {"text":""}, ` + call + ` ] ,"role":"model"}`:                      `{"parts" : [` + call + `] ,"role":"model"}`,
		`{"role":"model","parts":[` + call + `,{"thought":true,"text":""}]}`:             `{"role":"model","parts":[` + call + `]}`,
		`{"role":"model","parts":[` + call + `, {"text":"","thoughtSignature":"c2ln"}]}`: `{"role":"model","parts":[` + call + `, {"text":"","thoughtSignature":"c2ln"}]}`,
		`{"role":"model","parts":[{"text":"\n"}, ` + call + `,{"text":""}]}`:             `{"role":"model","parts":[{"text":"\n"},` + call + `]}`,
		`{"role":"model","parts":[{"text":""}]}`:                                         ``,
		`{"role":"model","parts":[]}`:                                                    ``,
		`{"role":"model"}`:                                                               ``,
	} {
		for _, body := range []string{`{"candidates":[{"content":` + content + `,"finishReason":"STOP"}]}`, content} {
			m, err := agent.Gemini.Parse([]byte(body))
			if body == `{"role":"model"}` {
				require.EqualError(t, err, "agent: the gemini message has no message of that format")
				continue
			}
			require.NoError(t, err, body)
			require.Equal(t, want, strings.TrimSuffix(echoed(m), "\n"))
			require.Len(t, m.Calls, strings.Count(content, "functionCall"))
		}
	}
}

func TestCustomTools(t *testing.T) {
	m, err := agent.OpenAIChat.Parse([]byte(`{"role":"assistant","tool_calls":[{"id":"a","type":"custom","custom":{"name":"shell","input":"ls \"x\"\n"}}]}`))
	require.NoError(t, err)
	require.NoError(t, m.Calls[0].Err)
	require.Equal(t, `"ls \"x\"\n"`, string(m.Calls[0].Request.Args))
	out, err := agent.OpenAIChat.Render(m, values("done"))
	require.NoError(t, err)
	require.Equal(t, []string{`{"role":"tool","tool_call_id":"a","content":"done"}`}, texts(t, out))

	m, err = agent.OpenAIResponses.Parse([]byte(`{"output":[{"type":"custom_tool_call","call_id":"a","name":"shell","input":"ls","status":"completed","caller":{"type":"direct"},"namespace":"os"},` +
		`{"type":"function_call","call_id":"b","name":"f","arguments":"","caller":{"type":"program"},"namespace":"crm"}]}`))
	require.NoError(t, err)
	require.Equal(t, `"ls"`, string(m.Calls[0].Request.Args))
	require.Empty(t, m.Calls[1].Request.Args)
	out, err = agent.OpenAIResponses.Render(m, values("done", "too"))
	require.NoError(t, err)
	require.Equal(t, []string{
		`{"type":"custom_tool_call_output","call_id":"a","caller":{"type":"direct"},"output":"done"}`, // the API knows no namespace there
		`{"type":"function_call_output","call_id":"b","caller":{"type":"program"},"namespace":"crm","output":"too"}`,
	}, texts(t, out))
}

func TestRender(t *testing.T) {
	type found struct {
		N    int64  `json:"n"`
		Text string `json:"text"`
	}
	picture := agent.Content{agent.Text("a plan"), agent.Image("image/png", []byte("png"))}
	replies := values("say \"hi\"", found{1<<53 + 1, "é"}, errors.New("no disk"), picture, json.RawMessage(`{"b":1,"a":9007199254740993}`))
	failed := `{"type":"tool_error","message":"no disk","retryable":false}`
	quoted, _ := json.Marshal(failed)
	wrapped, _ := json.Marshal(`{"error":` + failed + `}`)
	for _, f := range formats {
		var calls []string
		for i := range replies {
			calls = append(calls, f.call(fmt.Sprint("c", i), "search", `{}`))
		}
		m, err := f.format.Parse([]byte(fmt.Sprintf(f.body, strings.Join(calls, ","))))
		require.NoError(t, err)
		out, err := f.format.Render(m, replies)
		require.NoError(t, err)
		want := map[agent.Format][]string{
			agent.OpenAIChat: {
				`{"role":"tool","tool_call_id":"c0","content":"say \"hi\""}`,
				`{"role":"tool","tool_call_id":"c1","content":"{\"n\":9007199254740993,\"text\":\"é\"}"}`,
				`{"role":"tool","tool_call_id":"c2","content":` + string(wrapped) + `}`,
				`{"role":"tool","tool_call_id":"c3","content":[{"type":"text","text":"a plan"},{"type":"text","text":"[image 1]"}]}`,
				`{"role":"tool","tool_call_id":"c4","content":"{\"b\":1,\"a\":9007199254740993}"}`,
				`{"role":"user","content":[{"type":"text","text":"[image 1]"},{"type":"image_url","image_url":{"url":"data:image/png;base64,cG5n"}}]}`,
			},
			agent.OpenAIResponses: {
				`{"type":"function_call_output","call_id":"c0","output":"say \"hi\""}`,
				`{"type":"function_call_output","call_id":"c1","output":"{\"n\":9007199254740993,\"text\":\"é\"}"}`,
				`{"type":"function_call_output","call_id":"c2","output":` + string(wrapped) + `}`,
				`{"type":"function_call_output","call_id":"c3","output":[{"type":"input_text","text":"a plan"},{"type":"input_image","image_url":"data:image/png;base64,cG5n"}]}`,
				`{"type":"function_call_output","call_id":"c4","output":"{\"b\":1,\"a\":9007199254740993}"}`,
			},
			agent.Anthropic: {`{"role":"user","content":[` +
				`{"type":"tool_result","tool_use_id":"c0","content":"say \"hi\""},` +
				`{"type":"tool_result","tool_use_id":"c1","content":"{\"n\":9007199254740993,\"text\":\"é\"}"},` +
				`{"type":"tool_result","tool_use_id":"c2","content":` + string(quoted) + `,"is_error":true},` +
				`{"type":"tool_result","tool_use_id":"c3","content":[{"type":"text","text":"a plan"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"cG5n"}}]},` +
				`{"type":"tool_result","tool_use_id":"c4","content":"{\"b\":1,\"a\":9007199254740993}"}]}`},
			agent.Gemini: {`{"role":"user","parts":[` +
				`{"functionResponse":{"id":"c0","name":"search","response":{"output":"say \"hi\""}}},` +
				`{"functionResponse":{"id":"c1","name":"search","response":{"output":{"n":9007199254740993,"text":"é"}}}},` +
				`{"functionResponse":{"id":"c2","name":"search","response":{"error":` + failed + `}}},` +
				`{"functionResponse":{"id":"c3","name":"search","response":{"output":["a plan"]},"parts":[{"inlineData":{"mimeType":"image/png","data":"cG5n"}}]}},` +
				`{"functionResponse":{"id":"c4","name":"search","response":{"output":{"b":1,"a":9007199254740993}}}}]}`},
		}
		require.Equal(t, want[f.format], texts(t, out), f.format)
		all := bytes.Join([][]byte{[]byte(`[`), bytes.Join(anySlices(out), []byte(",")), []byte(`]`)}, nil)
		_ = append(out[0], " not in the next"...)
		require.Equal(t, string(all), "["+strings.Join(texts(t, out), ",")+"]", "messages share no room")

		_, err = f.format.Render(m, replies[1:])
		require.EqualError(t, err, "agent: Render: 4 replies for 5 calls: must be one for each, in their order")
		_, err = f.format.Render(nil, nil)
		require.EqualError(t, err, "agent: Render: the message is nil")
	}
}

func anySlices(in []json.RawMessage) (out [][]byte) {
	for _, raw := range in {
		out = append(out, raw)
	}
	return out
}

// What a provider demands to see again in an answer is there.
func TestToolsetNameIsRepeated(t *testing.T) {
	m, err := agent.Anthropic.Parse([]byte(`{"content":[{"type":"tool_use","id":"a","name":"f","input":{},"toolset_name":"crm","caller":{"type":"direct"}}]}`))
	require.NoError(t, err)
	out, err := agent.Anthropic.Render(m, values("x"))
	require.NoError(t, err)
	require.Equal(t, []string{`{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","toolset_name":"crm","content":"x"}]}`}, texts(t, out))

	m, err = agent.Gemini.Parse([]byte(`{"parts":[{"functionCall":{"name":"f"}}]}`))
	require.NoError(t, err)
	out, err = agent.Gemini.Render(m, values(nil))
	require.NoError(t, err)
	require.Equal(t, []string{`{"role":"user","parts":[{"functionResponse":{"name":"f","response":{"output":null}}}]}`}, texts(t, out))
}

func TestLongResultsAreCutAndSayThatTheyAre(t *testing.T) {
	c, err := agent.Anthropic.With(agent.CodecConfig{MaxResultBytes: 10, MaxImageBytes: 3})
	require.NoError(t, err)
	body := []byte(`{"content":[{"type":"tool_use","id":"a","name":"f","input":{}}]}`)
	for _, x := range []struct {
		value any
		want  string
	}{
		{"0123456789", `"0123456789"`},
		{"0123456789a", `"0123456789… [cut: 10 of 11 bytes are shown]"`},
		{"012345678é", `"012345678… [cut: 9 of 11 bytes are shown]"`},
		{[]int{1000, 2000, 3000}, `"[1000,2000… [cut: 10 of 16 bytes are shown]"`},
		{"bad \xff", `"bad \ufffd"`},
		{agent.Content{}, `""`},
		{agent.Content{agent.Text(""), agent.Text(" \n")}, `""`},
		{agent.Content{agent.Text(""), agent.Image("image/png", []byte("1")), agent.Text("x")},
			`[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"MQ=="}},{"type":"text","text":"x"}]`},
		{agent.Text("x"), `"x"`},
		{agent.Content{agent.Text("01234567"), agent.Text("abcd"), agent.Text("e"), agent.Text("f")},
			`[{"type":"text","text":"01234567"},{"type":"text","text":"ab… [cut: 2 of 4 bytes are shown]"},{"type":"text","text":"[cut: 2 more parts are not shown]"}]`},
		{[]agent.Part{agent.Image("image/png", []byte("12345"))}, `"[an image of 5 bytes is left out: at most 3 can be shown]"`},
		{agent.Image("application/pdf", []byte("1")), `"[a part of 1 bytes is left out: only text and images can be shown]"`},
	} {
		m, err := c.Parse(body)
		require.NoError(t, err)
		out, err := c.Render(m, values(x.value))
		require.NoError(t, err)
		require.Equal(t, []string{`{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":` + x.want + `}]}`}, texts(t, out))
	}
	m, err := c.Parse(body)
	require.NoError(t, err)
	out, err := c.Render(m, values(func() {}))
	require.NoError(t, err)
	require.Contains(t, string(out[0]), `"is_error":true`, "what is no JSON is an error, and no hole")
}

// What a call has left of its result before it failed stands beside the error.
func TestPartialResultsAreShown(t *testing.T) {
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{})
	require.NoError(t, err)
	defer exec.Close(context.Background())
	_, err = sluice.Wrap(exec, sluice.Spec{Name: "f"}, func(ctx context.Context, _ struct{}) (string, error) {
		sluice.ReportPartial(ctx, []int{1, 2})
		return "", errors.New("no more")
	})
	require.NoError(t, err)
	res, err := exec.Invoke(context.Background(), sluice.Request{Tool: "f"})
	m := &agent.Message{Calls: []agent.Asked{{Request: sluice.Request{ID: "a", Tool: "f"}}}}
	failed := `{"error":{"type":"tool_error","message":"no more","retryable":false},"partial":[1,2]}`
	quoted, _ := json.Marshal(failed)
	for format, want := range map[agent.Format]string{
		agent.OpenAIChat:      `{"role":"tool","tool_call_id":"a","content":` + string(quoted) + `}`,
		agent.OpenAIResponses: `{"type":"function_call_output","call_id":"a","output":` + string(quoted) + `}`,
		agent.Anthropic:       `{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":` + string(quoted) + `,"is_error":true}]}`,
		agent.Gemini:          `{"role":"user","parts":[{"functionResponse":{"id":"a","name":"f","response":` + failed + `}}]}`,
	} {
		out, err := format.Render(m, []agent.Reply{{Result: res, Err: err}})
		require.NoError(t, err)
		require.Equal(t, []string{want}, texts(t, out))
	}
}

func TestOneImageIsAListOfOnePart(t *testing.T) {
	m := &agent.Message{Calls: []agent.Asked{{Request: sluice.Request{ID: "a", Tool: "f"}}}}
	for format, want := range map[agent.Format][]string{
		agent.OpenAIChat: {`{"role":"tool","tool_call_id":"a","content":[{"type":"text","text":"[image 1]"}]}`,
			`{"role":"user","content":[{"type":"text","text":"[image 1]"},{"type":"image_url","image_url":{"url":"data:image/png;base64,cG5n"}}]}`},
		agent.OpenAIResponses: {`{"type":"function_call_output","call_id":"a","output":[{"type":"input_image","image_url":"data:image/png;base64,cG5n"}]}`},
		agent.Anthropic: {`{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":` +
			`[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"cG5n"}}]}]}`},
		agent.Gemini: {`{"role":"user","parts":[{"functionResponse":{"id":"a","name":"f","response":{"output":[]},"parts":[{"inlineData":{"mimeType":"image/png","data":"cG5n"}}]}}]}`},
	} {
		out, err := format.Render(m, values(agent.Image("image/png", []byte("png"))))
		require.NoError(t, err)
		require.Equal(t, want, texts(t, out))
	}
}

func TestContentCanBeStored(t *testing.T) {
	was := agent.Content{agent.Text("a \"plan\""), agent.Image("image/png", []byte{0, 255}), agent.Text("")}
	b, err := json.Marshal(was)
	require.NoError(t, err)
	var now agent.Content
	require.NoError(t, json.Unmarshal(b, &now))
	require.Equal(t, was, now)
}

// A codec is for any number of goroutines, and a message for as many readers.
func TestCodecsAreShared(t *testing.T) {
	names, err := agent.NewNames(slices.Values(specs("crm.get")))
	require.NoError(t, err)
	for _, f := range formats {
		codec, err := f.format.With(agent.CodecConfig{Names: names})
		require.NoError(t, err)
		body := []byte(fmt.Sprintf(f.body, f.call("a", names.Name("crm.get"), `{"q":"\n"}`)))
		shared, err := codec.Parse(body)
		require.NoError(t, err)
		want, err := codec.Render(shared, values("x"))
		require.NoError(t, err)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				m, err := codec.Parse(body)
				assert.NoError(t, err)
				assert.Equal(t, shared, m)
				out, err := codec.Render(shared, values("x"))
				assert.NoError(t, err)
				assert.Equal(t, want, out)
			})
		}
		all.Wait()
	}
}

func TestConfigOfCodecs(t *testing.T) {
	for _, c := range []struct {
		conf agent.CodecConfig
		want string
	}{
		{agent.CodecConfig{MaxBodyBytes: -1}, "agent: CodecConfig.MaxBodyBytes is -1: must be zero (33554432) or 1 to 1073741824"},
		{agent.CodecConfig{MaxResultBytes: -1}, "agent: CodecConfig.MaxResultBytes is -1: must be zero (65536) or 1 to 1073741824"},
		{agent.CodecConfig{MaxImageBytes: 1<<30 + 1}, "agent: CodecConfig.MaxImageBytes is 1073741825: must be zero (5242880) or 1 to 1073741824"},
	} {
		_, err := agent.Gemini.With(c.conf)
		require.EqualError(t, err, c.want)
	}
	_, err := agent.Format(9).Parse(nil)
	require.EqualError(t, err, "agent: Format(9): must be OpenAIChat, OpenAIResponses, Anthropic or Gemini")
}
