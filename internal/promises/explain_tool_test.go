package promises_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/require"
)

// A tool is judged without arguments: nothing is asked that would need them, and nothing is refused for the
// lack of them.
func TestExplainTool_AsksNothingAboutArguments(t *testing.T) {
	bubble(t, func(t *testing.T) {
		type in struct {
			Host string `json:"host"`
		}
		asked := func(c sluice.Call) string {
			t.Errorf("asked about the arguments of %s", c.Tool)
			return ""
		}
		byHost := limitsOf(sluice.Limit{Max: 1, Refuse: true, Scope: sluice.ByKey("host", asked)}, sluice.Limit{Max: 2})
		r := newRig(t, sluice.Config{Interceptors: interceptors(byHost)})
		sluice.Must(sluice.Register(r.reg, sluice.Spec{Name: "typed",
			InputSchema: json.RawMessage(`{"type":"object","required":["host"]}`),
			Check:       func(_ context.Context, c sluice.Call) error { asked(c); return nil },
			Policy: sluice.Policy{Rates: []sluice.Rate{{N: 10, Per: time.Minute, Unit: "tokens"}},
				Cost: func(c sluice.Call, _ string) int64 { asked(c); return 1 }},
		}, func(context.Context, in) (int, error) { return 0, nil }))
		d := r.ExplainTool(r.ctx, "typed")
		require.Nil(t, d.Refusal)
		require.Equal(t, []sluice.Cost{{Unit: "tokens", Estimate: 1, Actual: 1}}, d.Costs)
		require.Zero(t, d.Wait)
		r.end()
	})
}

// What does not depend on arguments is judged as a call would be.
func TestExplainTool_JudgesTheRest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{})
		type in struct{ Host string }
		register := func(s sluice.Spec) {
			sluice.Must(sluice.Register(r.reg, s, func(_ context.Context, _ in) (int, error) { time.Sleep(time.Second); return 0, nil }))
		}
		register(sluice.Spec{Name: "full", Policy: sluice.Policy{Concurrency: 1, MaxWait: sluice.NoWait}})
		register(sluice.Spec{Name: "slow", Policy: sluice.Policy{Rates: []sluice.Rate{{N: 1, Per: time.Minute}}}})
		go r.Invoke(r.ctx, sluice.Request{Tool: "full", Input: in{}})
		go r.Invoke(r.ctx, sluice.Request{Tool: "slow", Input: in{}})
		time.Sleep(time.Millisecond)

		d := r.ExplainTool(r.ctx, "full")
		require.ErrorIs(t, d.Refusal, sluice.ErrWaitTooLong)
		require.Equal(t, "tool/full concurrency", d.Refusal.By)
		d = r.ExplainTool(r.ctx, "slow")
		require.Nil(t, d.Refusal)
		require.Equal(t, time.Minute-time.Millisecond, d.Wait)
		require.ErrorIs(t, r.ExplainTool(r.ctx, "none").Refusal, sluice.ErrUnknownTool)

		late, cancel := context.WithTimeout(r.ctx, 30*time.Second)
		defer cancel()
		require.ErrorIs(t, r.ExplainTool(late, "slow").Refusal, sluice.ErrWaitTooLong)
		r.end()
		require.ErrorIs(t, r.ExplainTool(r.ctx, "slow").Refusal, sluice.ErrClosed)
		require.Error(t, new(sluice.Executor).ExplainTool(r.ctx, "slow").Refusal)
	})
}
