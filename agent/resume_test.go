package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// payTurn is a model's answer with calls of tools and their arguments, in turn.
func payTurn(format agent.Format, calls ...string) []byte {
	f := formats[format]
	var list []string
	for i := 0; i < len(calls); i += 2 {
		list = append(list, f.call(fmt.Sprint("c", i/2), calls[i], calls[i+1]))
	}
	return []byte(fmt.Sprintf(f.body, strings.Join(list, ",")))
}

func (b *bank) runner() *agent.Runner { return sluice.Must(agent.New(b.exec, agent.Config{})) }

// stored is a turn after it was stored and read again.
func stored(t *testing.T, turn *agent.Turn) *agent.Turn {
	t.Helper()
	raw, err := json.Marshal(turn)
	require.NoError(t, err)
	var again agent.Turn
	require.NoError(t, json.Unmarshal(raw, &again))
	raw2, err := json.Marshal(&again)
	require.NoError(t, err)
	require.JSONEq(t, string(raw), string(raw2), "it is stored again as it was")
	return &again
}

func idsOf(list []agent.Approval) (ids []string) {
	for _, a := range list {
		ids = append(ids, a.ID)
	}
	return ids
}

// A turn comes back, is stored, and goes on after a restart: the model reads the same as if nobody had stored it,
// in each format, once all is decided, and what has run does not run again.
func TestResume(t *testing.T) {
	for format := range formats {
		format := agent.Format(format)
		t.Run(format.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{Lifetime: time.Hour})
				body := payTurn(format, "look", `{}`, "pay", `{"to":"a","cents":1,"memo":"<&>\u00e9"}`, "pay", `{"to":"b","cents":2}`, "pay", `{"to":"c","cents":3}`,
					"nope", `{}`, "pay", `{"to":"d","cents":4}`, "pay", `{"to":"e","cents":5}`)
				turn, err := b.runner().Turn(b.ctx, format, body)
				require.NoError(t, err)
				require.False(t, turn.Done())
				require.Nil(t, turn.Messages)
				require.Len(t, turn.Pending, 5)
				require.Equal(t, 1, b.paid.looked)
				for i, to := range []string{"a", "b", "c", "d", "e"} {
					require.Contains(t, string(turn.Pending[i].Arguments), fmt.Sprintf(`"to":%q}`, to))
					require.Contains(t, string(turn.Pending[i].Arguments), fmt.Sprintf(`{"cents":%d,`, i+1))
				}
				ids := turn.Pending
				saved := stored(t, turn)
				require.Equal(t, idsOf(turn.Pending), idsOf(saved.Pending))

				// Nobody has decided: it waits on, also in another process.
				b = b.again(agent.ApprovalsConfig{Lifetime: time.Hour})
				turn, err = b.runner().Resume(b.ctx, format, saved)
				require.NoError(t, err)
				require.Nil(t, turn.Messages)
				require.Equal(t, idsOf(ids), idsOf(turn.Pending), "no further request was made")
				list, err := b.approvals.Pending(b.ctx)
				require.NoError(t, err)
				require.Len(t, list, 5)

				// Some are decided, and what is approved runs; the others wait on.
				require.NoError(t, b.approvals.Decide(b.ctx, ids[0].ID, agent.Decision{Approve: true}))
				require.NoError(t, b.approvals.Decide(b.ctx, ids[1].ID, agent.Decision{Reason: "b is blocked"}))
				require.NoError(t, b.approvals.Decide(b.ctx, ids[2].ID, agent.Decision{Approve: true, Arguments: json.RawMessage(`{"to":"c","cents":33}`)}))
				turn, err = b.runner().Resume(b.ctx, format, stored(t, turn))
				require.NoError(t, err)
				require.Nil(t, turn.Messages)
				require.Equal(t, idsOf(ids[3:]), idsOf(turn.Pending))
				require.ElementsMatch(t, []payment{{To: "a", Cents: 1, Memo: "<&>é"}, {To: "c", Cents: 33}}, b.paid.all())

				time.Sleep(30 * time.Minute)
				require.NoError(t, b.approvals.Cancel(b.ctx, ids[3].ID, "", "the order is gone"))
				b = b.again(agent.ApprovalsConfig{Lifetime: time.Hour})
				time.Sleep(30 * time.Minute) // e expires
				for range 2 {                // and again, from the same
					last, err := b.runner().Resume(b.ctx, format, stored(t, turn))
					require.NoError(t, err)
					require.Nil(t, last.Pending)
					require.Len(t, b.paid.all(), 2)
					require.Equal(t, 1, b.paid.looked)
					require.Equal(t, last.Message.Echo, last.Messages[:len(last.Message.Echo)])
					text := fmt.Sprintf("%s", last.Messages[len(last.Message.Echo):])
					at := 0
					for _, want := range []string{"0", "paid a", "approval was refused, so it has not run; do not repeat it unchanged: b is blocked", "paid c",
						"nope", "the request for approval was cancelled, so it has not run: the order is gone", "approval was not given in time, so it has not run; nobody refused it"} {
						n := strings.Index(text[at:], want)
						require.GreaterOrEqual(t, n, 0, "%s after byte %d of %s", want, at, text)
						at += n
					}
					require.NotContains(t, strings.Split(text, "approval was not given in time")[1], "denied")
					// It says what it would, had it never been stored.
					plain, err := format.Render(last.Message, last.Replies)
					require.NoError(t, err)
					require.Equal(t, fmt.Sprintf("%s", plain), text)
					require.Equal(t, fmt.Sprintf("%s", last.Messages), fmt.Sprintf("%s", stored(t, last).Messages))
				}
				b.close()
			})
		})
	}
}

// Calls that are the same, and have the same id, have an approval each.
func TestResume_SameCallsTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{})
		defer b.close()
		f := formats[agent.OpenAIChat]
		call := f.call("c", "pay", five)
		turn, err := b.runner().Turn(b.ctx, agent.OpenAIChat, []byte(fmt.Sprintf(f.body, call+","+call+","+call)))
		require.NoError(t, err)
		require.NoError(t, b.approvals.Decide(b.ctx, turn.Pending[2].ID, agent.Decision{Approve: true}))
		require.NoError(t, b.approvals.Decide(b.ctx, turn.Pending[0].ID, agent.Decision{Reason: "once is enough"}))
		require.NoError(t, b.approvals.Decide(b.ctx, turn.Pending[1].ID, agent.Decision{Approve: true}))
		turn, err = b.runner().Resume(b.ctx, agent.OpenAIChat, stored(t, turn))
		require.NoError(t, err)
		require.Len(t, b.paid.all(), 2)
		require.ErrorContains(t, turn.Replies[0].Err, "once is enough")
		require.Equal(t, "paid ada", turn.Replies[1].Result.Value)
		require.Equal(t, "paid ada", turn.Replies[2].Result.Value)
	})
}

// The process dies at each point of Resume: what is known afterwards is what the state had then.
func TestResume_ProcessDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := agent.ApprovalsConfig{}
		b := newBank(t, nil, &ledger{}, c)
		turn, err := b.runner().Turn(b.ctx, agent.Anthropic, payTurn(agent.Anthropic, "pay", five))
		require.NoError(t, err)
		require.NoError(t, b.approvals.Decide(b.ctx, turn.Pending[0].ID, agent.Decision{Approve: true}))
		before, err := json.Marshal(b.state)
		require.NoError(t, err)
		var inside []byte
		b.paid.inside = func() {
			inside, err = json.Marshal(b.state)
			require.NoError(t, err)
		}
		_, err = b.runner().Resume(b.ctx, agent.Anthropic, stored(t, turn))
		require.NoError(t, err)
		require.Len(t, b.paid.all(), 1)
		after, err := json.Marshal(b.state)
		require.NoError(t, err)
		b.paid.inside = nil
		b.close()
		for name, x := range map[string]struct {
			snapshot []byte
			runs     int
			says     string
		}{
			"before it runs": {before, 1, `"paid ada"`}, // as the state knows; who needs more keeps that better
			"while it runs":  {inside, 0, "has begun before, and it is not known what became of it"},
			"after it ran":   {after, 0, `"paid ada"`},
		} {
			b := newBank(t, restored(t, x.snapshot), &ledger{}, c)
			turn, err := b.runner().Resume(b.ctx, agent.Anthropic, stored(t, turn))
			require.NoError(t, err)
			require.Nil(t, turn.Pending)
			require.Len(t, b.paid.all(), x.runs, name)
			require.Contains(t, fmt.Sprintf("%s", turn.Messages), x.says, name)
			b.close()
		}
	})
}

// A turn that two resume at once runs in one of them; the other says that it is not known what became of it.
func TestResume_TwiceAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, nil, &ledger{inside: func() { time.Sleep(time.Minute) }}, agent.ApprovalsConfig{})
		defer b.close()
		turn, err := b.runner().Turn(b.ctx, agent.OpenAIChat, payTurn(agent.OpenAIChat, "pay", five))
		require.NoError(t, err)
		require.NoError(t, b.approvals.Decide(b.ctx, turn.Pending[0].ID, agent.Decision{Approve: true}))
		resume := func() *agent.Turn {
			next, err := b.runner().Resume(b.ctx, agent.OpenAIChat, turn)
			require.NoError(t, err)
			require.Nil(t, next.Pending)
			return next
		}
		both := make(chan *agent.Turn, 2)
		for range 2 {
			go func() { both <- resume() }()
		}
		first, second := <-both, <-both // the one that does not run it is the first to end
		refusedFor(t, first.Replies[0].Err, agent.ApprovalUsed)
		require.Equal(t, "paid ada", second.Replies[0].Result.Value)
		require.Equal(t, "paid ada", resume().Replies[0].Result.Value)
		require.Len(t, b.paid.all(), 1)
		require.Len(t, turn.Pending, 1, "the turn that is resumed stays as it is")
	})
}

// A context that ends while it is resumed leaves undone what was not begun, and keeps the rest.
func TestResume_ContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := agent.ApprovalsConfig{}
		rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Hour}}}))
		b := newBank(t, nil, &ledger{}, c, rate)
		defer b.close()
		turn, err := b.runner().Turn(b.ctx, agent.Gemini, payTurn(agent.Gemini, "pay", five, "pay", five))
		require.NoError(t, err)
		for _, a := range turn.Pending {
			require.NoError(t, b.approvals.Decide(b.ctx, a.ID, agent.Decision{Approve: true}))
		}
		errGone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(b.ctx)
		time.AfterFunc(time.Minute, func() { cancel(errGone) })
		turn, err = b.runner().Resume(ctx, agent.Gemini, turn)
		require.ErrorIs(t, err, errGone)
		require.Len(t, turn.Pending, 1)
		require.Nil(t, turn.Messages)
		require.Len(t, b.paid.all(), 1)
		turn, err = b.runner().Resume(b.ctx, agent.Gemini, stored(t, turn))
		require.NoError(t, err)
		require.Len(t, b.paid.all(), 2)
		require.Nil(t, turn.Pending)
	})
}

// Waiting for approval is no failure, for which a turn that fails fast would cancel the others.
func TestResume_FailFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{})
		defer b.close()
		sluice.Must(sluice.Wrap(b.exec, sluice.Spec{Name: "slow"}, func(ctx context.Context, _ struct{}) (string, error) {
			select {
			case <-time.After(time.Second):
				return "slow", nil
			case <-ctx.Done():
				return "", context.Cause(ctx)
			}
		}))
		runner := sluice.Must(agent.New(b.exec, agent.Config{FailFast: true}))
		turn, err := runner.Turn(b.ctx, agent.OpenAIResponses, payTurn(agent.OpenAIResponses, "slow", "{}", "pay", five))
		require.NoError(t, err)
		require.Equal(t, "slow", turn.Replies[0].Result.Value)
		require.Len(t, turn.Pending, 1)
	})
}

// Whatever a reply is, a model reads the same of it after the turn was stored.
func TestTurn_Stored(t *testing.T) {
	b := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{})
	defer b.close()
	tools := map[string]any{
		"text": "a \"text\"", "number": int64(1<<53 + 1), "null": nil, "list": []any{1.5, "x"}, "object": map[string]any{"b": 1, "a": "<&>"},
		"part": agent.Image("image/png", []byte("png")), "parts": agent.Content{agent.Text("a"), agent.Image("image/png", []byte("b"))}, "none": agent.Content{},
		"plain": []agent.Part{agent.Text("p")}, "raw": json.RawMessage(`{"n":1.50}`), "func": func() {}, "json-text": json.RawMessage(`"quoted \u00e9"`),
	}
	var calls []string
	for name, v := range tools {
		if name != "raw" {
			sluice.Must(sluice.Wrap(b.exec, sluice.Spec{Name: name}, func(context.Context, struct{}) (any, error) { return v, nil }))
			calls = append(calls, name, "{}")
		}
	}
	errs := map[string]func(ctx context.Context) error{
		"fails":  func(context.Context) error { return errors.New("no \"credit\"") },
		"coded":  func(context.Context) error { return &agent.ModeError{Mode: "x"} },
		"panics": func(context.Context) error { panic("no") },
		"half": func(ctx context.Context) error {
			sluice.ReportPartial(ctx, map[string]int{"n": 1})
			return errors.New("half")
		},
	}
	for name, f := range errs {
		sluice.Must(sluice.Wrap(b.exec, sluice.Spec{Name: name}, func(ctx context.Context, _ struct{}) (string, error) { return "", f(ctx) }))
		calls = append(calls, name, "{}")
	}
	calls = append(calls, "unknown", "{}", "text", `{"unknown":1}`, "text", `[]`)
	for format, f := range formats {
		format := agent.Format(format)
		if f.format != format {
			continue
		}
		for _, most := range []int{0, 8} { // bytes of a result
			codec := sluice.Must(format.With(agent.CodecConfig{MaxResultBytes: most}))
			turn, err := b.runner().Turn(b.ctx, codec, payTurn(format, calls...))
			require.NoError(t, err)
			require.Nil(t, turn.Pending)
			again := stored(t, turn)
			require.Equal(t, fmt.Sprintf("%s", turn.Messages), fmt.Sprintf("%s", again.Messages))
			require.Equal(t, turn.Message.Text(), again.Message.Text())
			require.Equal(t, turn.Message.Stop, again.Message.Stop)
			rendered, err := codec.Render(again.Message, again.Replies)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("%s", turn.Messages[len(turn.Message.Echo):]), fmt.Sprintf("%s", rendered), format.String())
			for i := range turn.Replies {
				if calls[2*i] == "func" { // whose result has no JSON: a model reads an error, and so does who stores it
					require.Equal(t, "tool_error", sluice.CodeOf(again.Replies[i].Err))
					continue
				}
				require.Equal(t, sluice.CodeOf(turn.Replies[i].Err), sluice.CodeOf(again.Replies[i].Err), calls[2*i])
				require.Equal(t, errors.Is(turn.Replies[i].Err, sluice.ErrRejected), errors.Is(again.Replies[i].Err, sluice.ErrRejected))
			}
			same, err := b.runner().Resume(b.ctx, codec, again)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprintf("%s", turn.Messages), fmt.Sprintf("%s", same.Messages), "nothing waits: it says the same")
		}
	}
}

func TestTurn_StoredWrong(t *testing.T) {
	for text, want := range map[string]string{
		`{`:                         "unexpected end of JSON input",
		`{"v":2}`:                   "agent: the stored turn is of version 2: must be 1",
		`{"v":1,"calls":[{}]}`:      "agent: the stored turn has 0 replies for 1 calls: must be one for each",
		`{"v":1,"echo":["\u0000"]}`: "agent: the stored turn: illegal base64",
	} {
		turn := agent.Turn{Pending: []agent.Approval{{ID: "x"}}}
		require.ErrorContains(t, json.Unmarshal([]byte(text), &turn), want)
		require.Equal(t, "x", turn.Pending[0].ID, "it stays as it was")
	}
	_, err := json.Marshal(agent.Turn{})
	require.ErrorContains(t, err, "agent: the turn has no message")
	b := newBank(t, nil, &ledger{}, agent.ApprovalsConfig{})
	defer b.close()
	_, err = b.runner().Resume(b.ctx, agent.OpenAIChat, nil)
	require.ErrorContains(t, err, "agent: Resume: the turn is nil")
	_, err = b.runner().Resume(b.ctx, nil, &agent.Turn{})
	require.ErrorContains(t, err, "agent: the codec is nil")
	var none context.Context
	_, err = b.runner().Resume(none, agent.OpenAIChat, &agent.Turn{})
	require.EqualError(t, err, "agent: Resume: the context is nil")
}
