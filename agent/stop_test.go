package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// rewritten is a turn that has been stored and read again.
func rewritten(t *testing.T, turn *agent.Turn) *agent.Turn {
	t.Helper()
	text, err := json.Marshal(turn)
	require.NoError(t, err)
	again := new(agent.Turn)
	require.NoError(t, json.Unmarshal(text, again))
	return again
}

// What a refusal is to the turn, in each format: all calls are answered, and the turn can be stored.
func TestTurn_Stop(t *testing.T) {
	for _, f := range formats {
		for _, exit := range []agent.ExitBehavior{agent.ExitContinue, agent.ExitEnd, agent.ExitError} {
			d, _ := newBudget(t, agent.UsageLimitsConfig{Run: agent.Usage{Calls: 2}, Exit: exit})
			r := d.runner(agent.Config{})
			calls := []string{f.call("c1", "work", `{"millis":0}`), f.call("c2", "fails", `{"millis":0}`), f.call("c3", "work", `{"millis":0}`), f.call("c4", "nobody", `{}`)}
			body := []byte(fmt.Sprintf(f.body, strings.Join(calls, ",")))
			turn, err := r.Turn(agent.WithRun(d.ctx), f.format, body)
			if exit == agent.ExitError {
				require.Equal(t, "usage_limit", sluice.CodeOf(err))
				require.Equal(t, turn.Stop, err)
			} else {
				require.NoError(t, err)
			}
			for _, x := range []*agent.Turn{turn, rewritten(t, turn)} {
				require.Equal(t, exit != agent.ExitContinue, x.Done())
				require.Equal(t, exit != agent.ExitContinue, x.Stop != nil)
				require.Len(t, x.Replies, 4)
				require.Equal(t, turn.Messages, x.Messages)
				require.NotEmpty(t, x.Messages)
				if x.Stop != nil {
					require.Equal(t, x.Replies[2].Err, x.Stop)
					require.ErrorIs(t, x.Stop, sluice.ErrDenied)
					require.Equal(t, "usage_limit", sluice.CodeOf(x.Stop))
				}
			}
			require.ErrorIs(t, turn.Replies[1].Err, errOwn)
			require.ErrorIs(t, turn.Replies[3].Err, sluice.ErrUnknownTool)
			d.close()
		}
	}
}

// The error that ends a turn counts before what would only stop it, and what is nested in a call that ran is its own affair.
func TestTurn_StopOfSeveral(t *testing.T) {
	loops := sluice.Must(agent.NewLoops(agent.LoopsConfig{Repeats: 1, Exit: agent.ExitError}))
	d, _ := newBudget(t, agent.UsageLimitsConfig{Run: agent.Usage{Tools: map[string]int{"other": 1}}, Exit: agent.ExitEnd}, loops)
	register(d, "outer", sluice.Policy{}, func(ctx context.Context, _ workIn) (sluice.Result, error) {
		return d.exec.Invoke(ctx, request("", "other", 0))
	})
	r := d.runner(agent.Config{})
	ctx := agent.WithRun(d.ctx)
	for _, tool := range []string{"other", "work"} {
		turn, err := r.Turn(ctx, agent.OpenAIChat, asks(tool, `{"millis":0}`))
		require.NoError(t, err)
		require.NoError(t, turn.Stop)
		require.NoError(t, turn.Replies[0].Err)
	}
	turn, err := r.Turn(ctx, agent.OpenAIChat, asks("outer", `{"millis":0}`))
	require.NoError(t, err)
	require.Equal(t, "tool_error", sluice.CodeOf(turn.Replies[0].Err))
	require.NoError(t, turn.Stop)
	turn, err = r.Turn(ctx, agent.OpenAIChat, asks("other", `{"millis":1}`, "work", `{"millis":0}`, "other", `{"millis":2}`))
	require.Equal(t, "loop_detected", sluice.CodeOf(err))
	require.Equal(t, turn.Replies[1].Err, turn.Stop)
	require.Len(t, turn.Messages, 4)
	again := rewritten(t, turn)
	require.Equal(t, "loop_detected", sluice.CodeOf(again.Stop))
	require.True(t, again.Done())
	d.close()
}

// A turn that waits for approval is not done, and comes with its Stop when all is decided, in another process too.
func TestTurn_StopAndPending(t *testing.T) {
	for _, exit := range []agent.ExitBehavior{agent.ExitEnd, agent.ExitError} {
		state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
		approvals := sluice.Must(agent.NewApprovals(agent.ApprovalsConfig{State: state, Needs: func(c sluice.Call) (string, bool) { return "", c.Tool == "work" }}))
		conf := agent.UsageLimitsConfig{Session: agent.Usage{Tools: map[string]int{"other": 1, "work": 1}}, State: state, Exit: exit}
		d, _ := newBudget(t, conf, approvals)
		turn, err := d.runner(agent.Config{}).Turn(agent.WithRun(d.ctx), agent.OpenAIChat,
			asks("work", `{"millis":0}`, "other", `{"millis":0}`, "other", `{"millis":1}`))
		require.NoError(t, err, "it goes on")
		d.close()

		d, l := newBudget(t, conf, approvals)
		ctx := agent.WithRun(d.ctx)
		turn = rewritten(t, turn)
		require.Len(t, turn.Pending, 1)
		require.Equal(t, "usage_limit", sluice.CodeOf(turn.Stop))
		require.False(t, turn.Done())
		require.Empty(t, turn.Messages)
		turn, err = d.runner(agent.Config{}).Resume(ctx, agent.OpenAIChat, turn)
		require.NoError(t, err)
		require.Len(t, turn.Pending, 1)
		require.False(t, turn.Done())

		require.NoError(t, approvals.Decide(ctx, turn.Pending[0].ID, agent.Decision{Approve: true}))
		turn, err = d.runner(agent.Config{}).Resume(ctx, agent.OpenAIChat, turn)
		require.Equal(t, exit == agent.ExitError, err != nil)
		require.Empty(t, turn.Pending)
		require.True(t, turn.Done())
		require.Equal(t, "usage_limit", sluice.CodeOf(turn.Stop))
		require.Len(t, turn.Messages, 4)
		require.NoError(t, turn.Replies[0].Err)
		_, session, err := l.Used(ctx)
		require.NoError(t, err)
		require.Equal(t, map[string]int{"other": 1, "work": 1}, session.Tools)
		d.close()
		state.Close()
	}
}
