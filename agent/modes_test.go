package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// A tool runs in its modes only; the model reads which they are, and events say it by Stageflow's names.
func TestModes(t *testing.T) {
	modes := sluice.Must(agent.NewModes(func(tool sluice.Spec) []string {
		return map[string][]string{"write": {"act", "repair"}, "never": {}, "wrong": {strings.Repeat("x", 65)}, "many": make([]string, 65), "unset": {""}}[tool.Name]
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{modes}}))
	defer exec.Close(context.Background())
	ran := 0
	for _, name := range []string{"write", "read", "never", "wrong", "many", "unset"} {
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: name}, func(context.Context, struct{}) (int, error) { ran++; return 1, nil }))
	}
	call := func(tool, mode string) (*sluice.Recorder, error) {
		pc, rec := sluice.NewTestPipelineContext()
		pc.ExecutionMode = mode
		_, err := exec.Invoke(sluice.WithPipelineContext(t.Context(), pc), sluice.Request{Tool: tool, Args: json.RawMessage("{}")})
		require.NoError(t, rec.Check())
		return rec, err
	}
	for _, ok := range [][2]string{{"write", "act"}, {"write", "repair"}, {"read", "act"}, {"read", "plan"}, {"read", ""}, {"unset", ""}} {
		_, err := call(ok[0], ok[1])
		require.NoError(t, err)
	}
	require.Equal(t, 6, ran)
	for _, no := range [][3]string{
		{"write", "plan", `the tool is not allowed in mode "plan": it is in "act", "repair"`},
		{"write", "", `the tool is not allowed in mode "": it is in "act", "repair"`},
		{"write", "ACT", `the tool is not allowed in mode "ACT": it is in "act", "repair"`},
		{"never", "act", `the tool is not allowed in mode "act", nor in any other`},
		{"unset", "act", `the tool is not allowed in mode "act": it is in ""`},
		{"wrong", strings.Repeat("x", 65), "agent: Modes: mode 0 of the tool has 65 bytes: at most 64 are allowed"},
		{"many", "", "agent: Modes: the tool has 65 modes: at most 64 are allowed"},
	} {
		rec, err := call(no[0], no[1])
		require.ErrorIs(t, err, sluice.ErrDenied)
		require.ErrorContains(t, err, no[2])
		x, ok := errors.AsType[*sluice.Error](err)
		require.True(t, ok)
		require.Equal(t, no[2], x.Cause.Error())
		if no[0] == "wrong" || no[0] == "many" {
			continue
		}
		require.Equal(t, "mode_denied", sluice.CodeOf(err))
		require.Contains(t, sluice.ModelText(err), `"type":"mode_denied","message":"the call was denied: the tool is not allowed in mode`)
		events := rec.Events()
		require.Len(t, events, 3)
		own, err := json.Marshal(events[1])
		require.NoError(t, err)
		var said struct {
			Attrs struct {
				Reason   string  `json:"reason"`
				Behavior string  `json:"behavior"`
				Allowed  *string `json:"allowed_behaviors"`
			} `json:"attrs"`
		}
		require.NoError(t, json.Unmarshal(own, &said))
		require.EqualValues(t, "mode.denied", events[1].Kind)
		require.Equal(t, "mode_denied", said.Attrs.Reason)
		require.Equal(t, no[1], said.Attrs.Behavior)
		if no[0] == "write" {
			require.Equal(t, "act,repair", *said.Attrs.Allowed)
		}
		require.Equal(t, sluice.ToolDenied, events[2].Kind)
	}
	require.Equal(t, 6, ran)
}
