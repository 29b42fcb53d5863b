package agent_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// streams are streamed answers as providers document them, with the message that comes out.
var streams = []struct {
	name   string
	format agent.Format
	events []string // what stands behind data
	want   string   // what is repeated
	calls  []string // id, tool and arguments of each
	text   string
}{
	{"chat", agent.OpenAIChat, []string{
		`{"choices":[{"index":0,"delta":{"role":"assistant","content":null,"refusal":null},"finish_reason":null}]}`,
		`{"choices":[{"index":0,"delta":{"reasoning_content":"h\ud83d"}}]}`,
		`{"choices":[{"index":0,"delta":{"reasoning_content":"\ude00m"}}]}`,
		`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","type":"function","function":{"name":"search","arguments":""},"extra_content":{"google":{"thought_signature":"c2ln"}}}]}}]}`,
		`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"q\":"}}]}}]}`,
		`{"choices":[{"index":1,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"of another choice"}}]}}]}`,
		`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"9007199254740993}"}},{"index":1,"id":"c2","type":"function","function":{"name":"fetch","arguments":"{\"u\":\"\\ud83d"}}]}}]}`,
		`{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"arguments":"\\ude00\"}"}}]}}]}`,
		`{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}`,
		`{"choices":[],"usage":{"total_tokens":9}}`,
		`[DONE]`,
	},
		`{"role":"assistant","content":null,"refusal":null,"reasoning_content":"h\ud83d\ude00m","tool_calls":[` +
			`{"id":"c1","type":"function","function":{"name":"search","arguments":"{\"q\":9007199254740993}"},"extra_content":{"google":{"thought_signature":"c2ln"}}},` +
			`{"id":"c2","type":"function","function":{"name":"fetch","arguments":"{\"u\":\"\\ud83d\\ude00\"}"}}]}` + "\n",
		[]string{`c1 search {"q":9007199254740993}`, `c2 fetch {"u":"\ud83d\ude00"}`}, ""},
	{"chat of a server without indexes", agent.OpenAIChat, []string{
		`{"choices":[{"delta":{"role":"assistant","content":"so"}}]}`,
		`{"choices":[{"delta":{"role":"assistant","content":"!","tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}},{"id":"b","function":{"name":"f","arguments":"{\"x\":"}}]}}]}`,
		`{"choices":[{"delta":{"tool_calls":[{"id":"","function":{"arguments":"1}"}}]}}]}`,
		`{"choices":[{"delta":{"tool_calls":null},"finish_reason":"tool_calls"}]}`,
	},
		`{"role":"assistant","content":"so!","tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}},{"id":"b","function":{"name":"f","arguments":"{\"x\":1}"}}]}` + "\n",
		[]string{`a f {}`, `b f {"x":1}`}, "so!"},
	{"chat of a server without indexes and ids", agent.OpenAIChat, []string{
		`{"choices":[{"delta":{"role":"assistant","tool_calls":[{"id":"","type":"function","function":{"name":"f","arguments":"{\"x\":"}}]}}]}`,
		`{"choices":[{"delta":{"tool_calls":[{"id":"","type":"function","function":{"name":"f","arguments":"1}"}},{"id":"","type":"function","function":{"name":"f","arguments":"{}"}}]}}]}`,
		`{"choices":[{"delta":{"tool_calls":[{"function":{"name":"g","arguments":"{}"}}]},"finish_reason":"stop"}]}`,
	},
		`{"role":"assistant","tool_calls":[{"id":"","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}},{"id":"","type":"function","function":{"name":"f","arguments":"{}"}},{"function":{"name":"g","arguments":"{}"}}]}` + "\n",
		[]string{` f {"x":1}`, ` f {}`, ` g {}`}, ""},
	{"chat of a server without indexes and ids, with arguments that are no text, or none", agent.OpenAIChat, []string{
		`{"choices":[{"delta":{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":{"x":1}}},{"function":{"name":"g","arguments":{"y":2}}}]}}]}`,
		`{"choices":[{"delta":{"tool_calls":[{"function":{"name":"g","arguments":{}}}]}}]}`,
		`{"choices":[{"delta":{"tool_calls":[{"index":null,"function":{"name":"h","arguments":""}},{"index":null,"function":{"name":"i"}}]}}]}`,
		`{"choices":[{"delta":{"tool_calls":[{"index":null,"function":{"name":"f"}}]},"finish_reason":"stop"}]}`,
	},
		`{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":{"x":1}}},{"function":{"name":"g","arguments":{"y":2}}},{"function":{"name":"g","arguments":{}}},{"function":{"name":"h","arguments":""}},{"function":{"name":"i"}},{"function":{"name":"f"}}]}` + "\n",
		[]string{` f {"x":1}`, ` g {"y":2}`, ` g {}`, ` h `, ` i `, ` f `}, ""},
	{"chat of a server with one index and repetitions", agent.OpenAIChat, []string{
		`{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]}}]}`,
		`{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"b","type":"function","function":{"name":"g","arguments":"{\"x\""}}]}}]}`,
		`{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"b","type":"function","function":{"name":"g","arguments":":1}"}}]}}]}`,
		`{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}`,
	},
		`{"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}},{"id":"b","type":"function","function":{"name":"g","arguments":"{\"x\":1}"}}]}` + "\n",
		[]string{`a f {}`, `b g {"x":1}`}, ""},
	{"anthropic", agent.Anthropic, []string{
		`{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","content":[],"stop_reason":null}}`,
		`{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}`,
		`{"type":"ping"}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"h"}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"m"}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"c2ln"}}`,
		`{"type":"content_block_stop","index":0}`,
		`{"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}`,
		`{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"let "}}`,
		`{"type":"content_block_delta","index":1,"delta":{"type":"citations_delta","citation":{"n":1}}}`,
		`{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"me"}}`,
		`{"type":"content_block_delta","index":1,"delta":{"type":"citations_delta","citation":{"n":2}}}`,
		`{"type":"content_block_stop","index":1}`,
		`{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"t1","name":"search","input":{}}}`,
		`{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":""}}`,
		`{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"n\": 90071992"}}`,
		`{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"54740993}"}}`,
		`{"type":"content_block_stop","index":2}`,
		`{"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"t2","name":"now","input":{},"caller":{"type":"direct"}}}`,
		`{"type":"content_block_stop","index":3}`,
		`{"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":9}}`,
		`{"type":"message_stop"}`,
	},
		`{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"c2ln"},{"type":"text","text":"let me","citations":[{"n":1},{"n":2}]},` +
			`{"type":"tool_use","id":"t1","name":"search","input":{"n": 9007199254740993}},{"type":"tool_use","id":"t2","name":"now","input":{},"caller":{"type":"direct"}}]}` + "\n",
		[]string{`t1 search {"n": 9007199254740993}`, `t2 now {}`}, "let me"},
	{"responses", agent.OpenAIResponses, []string{
		`{"type":"response.created","response":{"id":"resp_1","output":[],"status":"in_progress"}}`,
		`{"type":"response.output_item.added","output_index":0,"item":{"type":"function_call","id":"fc_1","call_id":"c1","name":"search","arguments":""}}`,
		`{"type":"response.function_call_arguments.delta","output_index":0,"item_id":"fc_1","delta":"{}"}`,
		`{"type":"response.output_item.done","output_index":0,"item":{"type":"function_call","id":"fc_1","call_id":"c1","name":"search","arguments":"{}","status":"completed"}}`,
		`{"type":"response.completed","response":{"id":"resp_1","status":"completed","output":[{"type":"function_call","id":"fc_1","call_id":"c1","name":"search","arguments":"{}","status":"completed","new":1}]}}`,
	},
		`{"type":"function_call","id":"fc_1","call_id":"c1","name":"search","arguments":"{}","status":"completed","new":1}` + "\n",
		[]string{`c1 search {}`}, ""},
	{"responses of a server that leaves the last event empty", agent.OpenAIResponses, []string{
		`{"type":"response.output_item.added","output_index":0,"item":{"type":"function_call","call_id":"c1","name":"search","arguments":""}}`,
		`{"type":"response.output_item.done","output_index":0,"item":{"type":"function_call","call_id":"c1","name":"search","arguments":"{}"}}`,
		`{"type":"response.completed","response":{"status":"completed","output":[ ]}}`,
	},
		`{"type":"function_call","call_id":"c1","name":"search","arguments":"{}"}` + "\n", []string{`c1 search {}`}, ""},
	{"gemini with two candidates", agent.Gemini, []string{
		`{"candidates":[{"index":0,"content":{"role":"model","parts":[{"text":"a"}]}},{"index":1,"content":{"role":"model","parts":[{"text":"x"}]}}]}`,
		`{"candidates":[{"index":1,"content":{"role":"model","parts":[{"text":"y"}]},"finishReason":"STOP"}]}`,
		`{"candidates":[{"index":0,"content":{"role":"model","parts":[{"text":"b"}]},"finishReason":"STOP"}]}`,
	},
		`{"role":"model","parts":[{"text":"a"},{"text":"b"}]}` + "\n", nil, "ab"},
	{"gemini", agent.Gemini, []string{
		`{"candidates":[{"content":{"role":"model","parts":[{"text":"let "}]}}]}`,
		`{"candidates":[{"content":{"role":"model","parts":[{"text":"me"},{"functionCall":{"name":"search","args":{"n":9007199254740993}},"thoughtSignature":"c2ln"}]}}]}`,
		`{"candidates":[{"content":{"role":"model","parts":[{"functionCall":{"id":"x","name":"now","args":{}}}]},"finishReason":"STOP"}],"usageMetadata":{}}`,
	},
		`{"role":"model","parts":[{"text":"let "},{"text":"me"},{"functionCall":{"name":"search","args":{"n":9007199254740993}},"thoughtSignature":"c2ln"},{"functionCall":{"id":"x","name":"now","args":{}}}]}` + "\n",
		[]string{` search {"n":9007199254740993}`, `x now {}`}, "let me"},
}

// sse is a stream of server-sent events.
func sse(events []string, newline string) string {
	var b strings.Builder
	b.WriteString(": a comment" + newline + newline)
	for _, e := range events {
		b.WriteString("event: x" + newline + "data: " + e + newline + newline)
	}
	return b.String()
}

func asked(m *agent.Message) (out []string) {
	for _, c := range m.Calls {
		if c.Err != nil {
			out = append(out, fmt.Sprint(c.Request.ID, " ", c.Request.Tool, " failed"))
			continue
		}
		out = append(out, fmt.Sprint(c.Request.ID, " ", c.Request.Tool, " ", string(c.Request.Args)))
	}
	return out
}

func TestStreamCutAnywhere(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, x := range streams {
		t.Run(x.name, func(t *testing.T) {
			check := func(s *agent.Stream) {
				t.Helper()
				m, err := s.Message()
				require.NoError(t, err)
				require.Equal(t, x.want, echoed(m))
				require.Equal(t, x.calls, asked(m))
				require.Equal(t, x.text, m.Text())
			}
			s := x.format.Stream()
			for _, e := range x.events {
				data := []byte(e)
				require.NoError(t, s.Event(data))
				clear(data) // nothing of it is kept
			}
			check(s)
			for _, newline := range []string{"\n", "\r\n"} {
				body := sse(x.events, newline)
				for at := range len(body) {
					s := x.format.Stream()
					for _, part := range []string{body[:at], body[at:]} {
						data := []byte(part)
						n, err := s.Write(data)
						require.NoError(t, err)
						require.Equal(t, len(part), n)
						clear(data)
					}
					check(s)
				}
				for range 50 {
					s := x.format.Stream()
					for rest := body; rest != ""; {
						n := min(1+random.IntN(40), len(rest))
						_, err := s.Write([]byte(rest[:n]))
						require.NoError(t, err)
						rest = rest[n:]
					}
					check(s)
				}
			}
		})
	}
}

// Of a stream that breaks off no call runs, wherever that is; what has come can be sent again.
func TestStreamThatBreaksOff(t *testing.T) {
	for _, x := range streams {
		for n := range len(x.events) {
			if strings.Contains(strings.Join(x.events[:n], ""), `"finish_reason":"`) {
				continue
			}
			s := x.format.Stream()
			for _, e := range x.events[:n] {
				require.NoError(t, s.Event([]byte(e)))
			}
			ended := strings.Contains(strings.Join(x.events[:n], ""), "message_stop")
			m, err := s.Message()
			if err != nil {
				require.ErrorContains(t, err, "no message has come", "%s after %d", x.name, n)
				continue
			}
			for _, c := range m.Calls {
				if !ended {
					require.ErrorContains(t, c.Err, "cut off", "%s after %d", x.name, n)
				}
			}
			for _, raw := range m.Echo {
				texts(t, append(m.Echo[:0:0], raw))
			}
			_, err = x.format.Render(m, make([]agent.Reply, len(m.Calls)))
			require.NoError(t, err)
		}
	}
}

// A message is what had come when it was asked for, whatever comes later.
func TestMessageOfAStreamStaysAsItIs(t *testing.T) {
	for _, x := range streams {
		s := x.format.Stream()
		for _, e := range x.events {
			require.NoError(t, s.Event([]byte(e)))
		}
		m, err := s.Message()
		require.NoError(t, err)
		for _, e := range x.events {
			require.NoError(t, s.Event([]byte(strings.NewReplacer("search", "SEARCH", "c1", "C1").Replace(e))))
		}
		_, err = s.Message()
		require.NoError(t, err)
		require.Equal(t, x.want, echoed(m))
		require.Equal(t, x.calls, asked(m))
	}
}

func TestStreamOfAnInputThatIsNoJSON(t *testing.T) {
	s := agent.Anthropic.Stream()
	for _, e := range []string{
		`{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"a","name":"f","input":{}}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"{\"x\": \"y"}}`,
		`{"type":"content_block_stop","index":0}`,
		`{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"b","name":"f","input":{}}}`,
		`{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{}"}}`,
		`{"type":"content_block_stop","index":1}`,
		`{"type":"message_delta","delta":{"stop_reason":"tool_use"}}`,
		`{"type":"message_stop"}`,
	} {
		require.NoError(t, s.Event([]byte(e)))
	}
	m, err := s.Message()
	require.NoError(t, err)
	require.Equal(t, []string{"a f failed", "b f {}"}, asked(m))
	require.Equal(t, `{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":{"INVALID_JSON":"{\"x\": \"y"}},{"type":"tool_use","id":"b","name":"f","input":{}}]}`+"\n", echoed(m))
}

// Parts are looked for among each other, so there are only so many.
func TestPartsOfAStreamAreBounded(t *testing.T) {
	members := make([]string, 4097)
	for i := range members {
		members[i] = fmt.Sprintf(`"m%d":1`, i)
	}
	all := strings.Join(members, ",")
	for _, c := range []struct {
		format agent.Format
		event  func(i int) string
		most   int // events that are taken
	}{
		{agent.OpenAIChat, func(i int) string {
			return fmt.Sprintf(`{"choices":[{"delta":{"tool_calls":[{"index":%d,"id":"a"}]}}]}`, i)
		}, 4096},
		{agent.OpenAIChat, func(int) string { return `{"choices":[{"delta":{` + all + `}}]}` }, 0},
		{agent.OpenAIChat, func(int) string { return `{"choices":[{"delta":{"tool_calls":[{"function":{` + all + `}}]}}]}` }, 0},
		{agent.OpenAIResponses, func(i int) string {
			return fmt.Sprintf(`{"type":"response.output_item.added","output_index":%d,"item":{}}`, i)
		}, 4096},
		{agent.Anthropic, func(i int) string {
			return fmt.Sprintf(`{"type":"content_block_start","index":%d,"content_block":{}}`, i)
		}, 4096},
		{agent.Anthropic, func(int) string { return `{"type":"content_block_start","index":0,"content_block":{` + all + `}}` }, 0},
	} {
		s, n := c.format.Stream(), 0
		var err error
		for ; n < 5000 && err == nil; n++ {
			err = s.Event([]byte(c.event(n)))
		}
		require.EqualError(t, err, "agent: the "+c.format.String()+" stream: more than 4096 parts, or members of one")
		require.Equal(t, c.most, n-1)
	}
}

func TestStreamThatFails(t *testing.T) {
	for format, event := range map[agent.Format]string{
		agent.OpenAIChat:      `{"error":{"message":"secret"}}`,
		agent.OpenAIResponses: `{"type":"error","message":"secret"}`,
		agent.Anthropic:       `{"type":"error","error":{"type":"overloaded_error"}}`,
		agent.Gemini:          `{"error":{"code":429}}`,
	} {
		s := format.Stream()
		_, err := s.Write([]byte("data: " + event + "\n\n"))
		require.EqualError(t, err, "agent: the "+format.String()+" stream: an error of the provider")
		_, again := s.Message()
		require.Equal(t, err, again)

		s = format.Stream()
		require.ErrorContains(t, s.Event([]byte(`{"a":`)), "ends at byte 5")
		_, err = s.Message()
		require.ErrorContains(t, err, "ends at byte 5", "an event that is lost may be of any call")

		codec, err := format.With(agent.CodecConfig{MaxBodyBytes: 100})
		require.NoError(t, err)
		s, err = agent.NewStream(codec)
		require.NoError(t, err)
		for n := 0; n < 100; n += 10 {
			_, err = s.Write([]byte("data: xxxx"))
			require.NoError(t, err)
		}
		_, err = s.Write([]byte("x"))
		require.ErrorContains(t, err, "more than 100 bytes", "a line without an end is bounded")
	}
	_, err := new(agent.Stream).Message()
	require.EqualError(t, err, "agent: the Stream is not made: must come from Format.Stream or NewStream")
	_, err = agent.NewStream(nil)
	require.EqualError(t, err, "agent: NewStream: the codec is a <nil>: must be a Format, or made by Format.With")
	require.False(t, errors.Is(err, sluice.ErrRejected))
}
