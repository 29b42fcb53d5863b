package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// turnFormats are the codecs, with an answer of a model in each: calls of these tools with these arguments, whose ids are c0,
// c1 and so on, and how the ids of what answers them are found.
var turnFormats = []struct {
	codec agent.Format
	body  func(tools, args []string) string
	ids   func(t *testing.T, answers []json.RawMessage) []string
}{
	{agent.OpenAIChat, func(tools, args []string) string {
		return `{"role":"assistant","content":null,"tool_calls":[` + joined(tools, func(i int) string {
			return fmt.Sprintf(`{"id":"c%d","type":"function","function":{"name":%q,"arguments":%q}}`, i, tools[i], args[i])
		}) + `]}`
	}, func(t *testing.T, answers []json.RawMessage) []string { return members(t, answers, "tool_call_id") }},
	{agent.OpenAIResponses, func(tools, args []string) string {
		return `{"output":[` + joined(tools, func(i int) string {
			return fmt.Sprintf(`{"type":"function_call","call_id":"c%d","name":%q,"arguments":%q}`, i, tools[i], args[i])
		}) + `]}`
	}, func(t *testing.T, answers []json.RawMessage) []string { return members(t, answers, "call_id") }},
	{agent.Anthropic, func(tools, args []string) string {
		return `{"role":"assistant","content":[` + joined(tools, func(i int) string {
			return fmt.Sprintf(`{"type":"tool_use","id":"c%d","name":%q,"input":%s}`, i, tools[i], args[i])
		}) + `]}`
	}, func(t *testing.T, answers []json.RawMessage) []string {
		require.Len(t, answers, 1)
		var m struct{ Content []json.RawMessage }
		require.NoError(t, json.Unmarshal(answers[0], &m))
		return members(t, m.Content, "tool_use_id")
	}},
	{agent.Gemini, func(tools, args []string) string {
		return `{"candidates":[{"content":{"role":"model","parts":[` + joined(tools, func(i int) string {
			return fmt.Sprintf(`{"functionCall":{"id":"c%d","name":%q,"args":%s}}`, i, tools[i], args[i])
		}) + `]}}]}`
	}, func(t *testing.T, answers []json.RawMessage) []string {
		require.Len(t, answers, 1)
		var m struct {
			Parts []struct{ FunctionResponse json.RawMessage }
		}
		require.NoError(t, json.Unmarshal(answers[0], &m))
		var list []json.RawMessage
		for _, p := range m.Parts {
			list = append(list, p.FunctionResponse)
		}
		return members(t, list, "id")
	}},
}

func joined(tools []string, f func(i int) string) string {
	var list []string
	for i := range tools {
		list = append(list, f(i))
	}
	return strings.Join(list, ",")
}

func members(t *testing.T, list []json.RawMessage, name string) (values []string) {
	t.Helper()
	for _, raw := range list {
		var m map[string]any
		require.NoError(t, json.Unmarshal(raw, &m))
		values = append(values, fmt.Sprint(m[name]))
	}
	return values
}

// A turn is the model's own message and an answer to each of its calls, in every format, whatever becomes of a call.
func TestTurn_AnswersEveryCall(t *testing.T) {
	for _, f := range turnFormats {
		t.Run(f.codec.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t, sluice.Config{})
				body := f.body([]string{"work", "nobody", "work", "panics", "work"}, []string{`{"millis":3}`, `{}`, `{"millis":"x"}`, `{}`, `{"millis":1}`})
				turn, err := d.runner(agent.Config{}).Turn(d.ctx, f.codec, []byte(body))
				require.NoError(t, err)
				require.False(t, turn.Done())
				require.Len(t, turn.Replies, 5)
				require.Equal(t, 3, turn.Replies[0].Result.Value)
				require.ErrorIs(t, turn.Replies[1].Err, sluice.ErrUnknownTool)
				require.ErrorIs(t, turn.Replies[2].Err, sluice.ErrInvalidArguments)
				require.ErrorAs(t, turn.Replies[3].Err, new(*sluice.PanicError))
				require.Equal(t, 1, turn.Replies[4].Result.Value)
				n := len(turn.Message.Echo)
				require.Equal(t, turn.Message.Echo, turn.Messages[:n])
				require.Equal(t, []string{"c0", "c1", "c2", "c3", "c4"}, f.ids(t, turn.Messages[n:]))
				d.close()
			})
		})
	}
}

// A turn that is cancelled, before it or in its middle, answers every call, too, and is no error.
func TestTurn_CancelledAnswersEveryCall(t *testing.T) {
	for _, f := range turnFormats {
		for _, after := range []time.Duration{0, 2 * time.Millisecond} {
			t.Run(fmt.Sprint(f.codec, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDesk(t, sluice.Config{Interceptors: limited(2, sluice.PrioritySchedulerConfig{})})
					left := errors.New("the user has left")
					ctx, cancel := context.WithCancelCause(d.ctx)
					if after == 0 {
						cancel(left)
					} else {
						time.AfterFunc(after, func() { cancel(left) })
					}
					body := f.body([]string{"work", "work", "work"}, []string{`{"millis":1}`, `{"millis":9}`, `{"millis":9}`})
					turn, err := d.runner(agent.Config{}).Turn(ctx, f.codec, []byte(body))
					require.NoError(t, err)
					require.Equal(t, []string{"c0", "c1", "c2"}, f.ids(t, turn.Messages[len(turn.Message.Echo):]))
					for i, r := range turn.Replies {
						if i == 0 && after > 0 {
							require.NoError(t, r.Err)
						} else {
							require.ErrorIs(t, r.Err, left)
						}
					}
					d.close()
				})
			})
		}
	}
}

// What calls nothing makes no calls; it is the end, unless the provider has paused.
func TestTurn_NothingToCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, sluice.Config{})
		for body, done := range map[string]bool{
			`{"role":"assistant","content":[{"type":"text","text":"Hello."}],"stop_reason":"end_turn"}`:                   true,
			`{"role":"assistant","content":[{"type":"server_tool_use","id":"s1","input":{}}],"stop_reason":"pause_turn"}`: false,
		} {
			turn, err := d.runner(agent.Config{}).Turn(d.ctx, agent.Anthropic, []byte(body))
			require.NoError(t, err)
			require.Equal(t, done, turn.Done())
			require.Empty(t, turn.Replies)
			require.Len(t, turn.Messages, 1)
		}
		d.close()
	})
}

// A call that was cut off does not run, and neither, where the first failure ends all, does another.
func TestTurn_CutOff(t *testing.T) {
	for _, failFast := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t, sluice.Config{})
			asked := 0
			r := d.runner(agent.Config{FailFast: failFast, Repair: func(_ context.Context, q sluice.Request, _ error) (sluice.Request, bool) {
				asked++
				return q, true
			}})
			turn, err := r.Turn(d.ctx, agent.OpenAIChat, []byte(`{"choices":[{"finish_reason":"length","message":{"role":"assistant","tool_calls":[
				{"id":"c0","function":{"name":"work","arguments":"{\"millis\":1}"}},
				{"id":"c1","function":{"name":"work","arguments":"{\"millis\":12"}}]}}]}`))
			require.NoError(t, err)
			require.Len(t, turn.Messages, 3)
			require.ErrorIs(t, turn.Replies[1].Err, sluice.ErrInvalidArguments)
			require.Contains(t, sluice.ModelText(turn.Replies[1].Err), "cut off")
			if failFast {
				require.ErrorIs(t, turn.Replies[0].Err, agent.ErrSiblingFailed)
				require.ErrorIs(t, turn.Replies[0].Err, sluice.ErrRejected)
				require.Empty(t, d.starts())
			} else {
				require.NoError(t, turn.Replies[0].Err)
				require.Equal(t, []string{"c0"}, d.starts())
			}
			require.Zero(t, asked, "about what was cut off")
			d.close()
		})
	}
}

// mute is a codec that has nothing to answer with.
type mute struct{ agent.Codec }

func (mute) Render(*agent.Message, []agent.Reply) ([]json.RawMessage, error) { return nil, errOwn }

func TestTurn_Errors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, sluice.Config{})
		r := d.runner(agent.Config{})
		_, err := r.Turn(d.ctx, nil, nil)
		require.EqualError(t, err, "agent: the codec is nil: must be a Format, or made by Format.With")
		_, err = r.Answer(d.ctx, nil, &agent.Message{})
		require.EqualError(t, err, "agent: the codec is nil: must be a Format, or made by Format.With")
		_, err = r.Answer(d.ctx, agent.OpenAIChat, nil)
		require.EqualError(t, err, "agent: Answer: the message is nil")
		turn, err := r.Turn(d.ctx, agent.OpenAIChat, []byte(`{"choices":`))
		require.Error(t, err)
		require.Nil(t, turn)

		body := []byte(turnFormats[0].body([]string{"work"}, []string{`{"millis":1}`}))
		turn, err = r.Turn(d.ctx, mute{agent.OpenAIChat}, body)
		require.Equal(t, errOwn, err)
		require.NoError(t, turn.Replies[0].Err, "what has run is known")
		var none context.Context
		turn, err = r.Turn(none, agent.OpenAIChat, body)
		require.NoError(t, err)
		require.ErrorIs(t, turn.Replies[0].Err, sluice.ErrRejected)
		require.Len(t, turn.Messages, 2)
		d.close()
	})
}

// Repair is asked about what would be refused for its arguments or its tool's name, before any call starts, and
// about nothing else.
func TestRepair(t *testing.T) {
	calls := []sluice.Request{
		request("good", "work", 1),
		{ID: "args", Tool: "work", Args: json.RawMessage(`{"millis":"2"}`)},
		{ID: "json", Tool: "work", Args: json.RawMessage(`{"millis":3`)},
		{ID: "name", Tool: "wrok", Args: json.RawMessage(`{"millis":4}`)},
		{ID: "hopeless", Tool: "work", Args: json.RawMessage(`[]`)},
		{ID: "still bad", Tool: "work", Args: json.RawMessage(`{"seconds":1}`)},
		{ID: "panic", Tool: "work", Args: json.RawMessage(`[1]`)},
		request("fails", "fails", 0),
	}
	for _, ranged := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t, sluice.Config{})
			begin := time.Now()
			var asked []string
			r := d.runner(agent.Config{Repair: func(ctx context.Context, q sluice.Request, why error) (sluice.Request, bool) {
				require.Empty(t, d.started)
				require.ErrorIs(t, why, sluice.ErrRejected)
				asked = append(asked, q.ID)
				time.Sleep(time.Second)
				switch id := q.ID; id {
				case "args", "json", "still bad":
					q.ID, q.Args = "another", json.RawMessage(map[string]string{"args": `{"millis":2}`, "json": `{"millis":3}`, "still bad": `{}x`}[id])
				case "name":
					require.ErrorIs(t, why, sluice.ErrUnknownTool)
					q.Tool = "work"
				case "panic":
					panic("of the hook")
				default:
					return sluice.Request{Tool: "work"}, false
				}
				return q, true
			}})
			var got []agent.Reply
			if ranged {
				got, _ = collected(t, r.Each(d.ctx, calls), len(calls))
			} else {
				got = r.Run(d.ctx, calls)
			}
			require.Equal(t, []string{"args", "json", "name", "hopeless", "still bad", "panic"}, asked)
			require.Equal(t, 6*time.Second+4*time.Millisecond, time.Since(begin))
			for i, want := range []any{1, 2, 3, 4} {
				require.NoError(t, got[i].Err)
				require.Equal(t, want, got[i].Result.Value)
			}
			for i, g := range got {
				require.Equal(t, calls[i].ID, g.Request.ID)
			}
			require.Equal(t, "work", got[3].Request.Tool)
			for i := 4; i < 7; i++ {
				require.ErrorIs(t, got[i].Err, sluice.ErrInvalidArguments)
				require.ErrorIs(t, got[i].Err, sluice.ErrRejected)
			}
			var p *sluice.PanicError
			require.ErrorAs(t, got[6].Err, &p)
			require.Equal(t, "of the hook", p.Value)
			require.Equal(t, sluice.ModelText(got[4].Err), sluice.ModelText(got[6].Err))
			require.Equal(t, errOwn, got[7].Err)
			require.JSONEq(t, `{"millis":"2"}`, string(calls[1].Args), "the caller's own list")
			d.close()
		})
	}
}

// The time of a turn is that of its repairs, too; when it is over, nobody is asked any more.
func TestRepair_OutOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, sluice.Config{})
		asked := 0
		r := d.runner(agent.Config{Deadline: time.Second, Repair: func(ctx context.Context, q sluice.Request, _ error) (sluice.Request, bool) {
			asked++
			<-ctx.Done()
			return request("", "work", 1), true
		}})
		bad := sluice.Request{Tool: "work", Args: json.RawMessage(`[]`)}
		for _, reply := range r.Run(d.ctx, []sluice.Request{request("", "work", 1), bad, bad}) {
			require.ErrorIs(t, reply.Err, sluice.ErrRejected)
		}
		require.Equal(t, 1, asked)
		require.Empty(t, d.starts())
		d.close()
	})
}

// A hook that ends its goroutine ends that of Run, and leaves nothing behind.
func TestRepair_Goexit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, sluice.Config{})
		ended := make(chan bool)
		go func() {
			defer close(ended)
			d.runner(agent.Config{Repair: func(context.Context, sluice.Request, error) (sluice.Request, bool) {
				runtime.Goexit()
				return sluice.Request{}, false
			}}).Run(d.ctx, []sluice.Request{request("", "work", 1), {Tool: "nobody"}})
			t.Error("Run has returned")
		}()
		<-ended
		require.Empty(t, d.starts())
		d.close()
	})
}
