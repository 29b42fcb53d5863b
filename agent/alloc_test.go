//go:build !race

package agent_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// Layers after a gate.
const (
	passing  = "a gate, and what passes calls on"
	unrated  = "undo after a rate"
	undoless = "undo after a gate"
	undoable = "undo after a gate, of a tool that leaves no data"
)

// passer answers what it is to go around: it is in no call's way.
type passer struct{}

func (passer) Wrap(_ sluice.Spec, next sluice.Handler) sluice.Handler { return next }

// idle are the layers of this package as they are for calls that they have nothing to do for.
func idle() map[string][]sluice.Interceptor {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	approvals := sluice.Must(agent.NewApprovals(agent.ApprovalsConfig{State: state, Needs: func(c sluice.Call) (string, bool) { return "", c.Tool == "pay" }}))
	act := sluice.Must(agent.NewModes(func(sluice.Spec) []string { return []string{"plan", "act"} }))
	all := sluice.Must(agent.NewModes(func(sluice.Spec) []string { return nil }))
	gate := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 4}}}))
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1_000_000, Per: time.Millisecond, Burst: 1 << 30}}}))
	undoOf := func(tool string) *agent.Undo {
		return sluice.Must(agent.NewUndo(agent.UndoConfig{State: state, Undo: map[string]func(context.Context, json.RawMessage) error{
			tool: func(context.Context, json.RawMessage) error { return nil }}}))
	}
	limits := sluice.Must(agent.NewUsageLimits(agent.UsageLimitsConfig{Run: agent.Usage{Calls: 1, Bytes: 1}}))
	others := sluice.Must(agent.NewUsageLimits(agent.UsageLimitsConfig{Run: agent.Usage{Tools: map[string]int{"pay": 1}}}))
	loops := sluice.Must(agent.NewLoops(agent.LoopsConfig{}))
	pass := sluice.Steps{Before: func(context.Context, *sluice.Step) {}}
	return map[string][]sluice.Interceptor{
		"none": nil, "a step": {stepper{pass}}, "approvals": {approvals}, "approvals after a step": {stepper{pass}, approvals},
		"modes": {act}, "modes after a step": {stepper{pass}, act}, "modes of all": {all},
		"usage limits": {limits}, "usage limits after a step": {stepper{pass}, limits}, "usage limits of others": {others},
		"loops": {loops}, "loops after a step": {stepper{pass}, loops},
		"a rate": {rate}, unrated: {rate, undoOf("pay")},
		"a gate": {gate}, passing: {gate, passer{}}, undoless: {gate, undoOf("pay")}, undoable: {gate, undoOf("look")},
	}
}

type stepper struct{ steps sluice.Steps }

func (s stepper) Steps(sluice.Spec) sluice.Steps { return s.steps }
func (s stepper) Wrap(_ sluice.Spec, next sluice.Handler) sluice.Handler {
	return s.steps.Wrap(next)
}

// idleCall makes calls through layers.
func idleCall(list []sluice.Interceptor) func() error {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: list}))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "look"}, func(context.Context, int) (int, error) { return 0, nil }))
	ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{ExecutionMode: "act"})
	var in any = 1
	return func() error {
		_, err := exec.Invoke(ctx, sluice.Request{ID: "a", Tool: "look", Input: in})
		return err
	}
}

// A layer that does nothing for a call allocates nothing.
func TestIdleLayersAllocateNothing(t *testing.T) {
	layers := idle()
	measure := func(name string) float64 {
		call := idleCall(layers[name])
		return testing.AllocsPerRun(1000, func() {
			if err := call(); err != nil {
				t.Error(err)
			}
		})
	}
	none := measure("none")
	for name := range layers {
		want := none
		if name == undoable {
			want += 3 // whose it is, its place in the context, and the call, which it is handed
		}
		require.Equal(t, want, measure(name), name)
	}
}

// BenchmarkIdleLayers is a call that a layer does nothing for. What a layer adds is the difference to a call without,
// or, if it is not the first, to one through a step that does nothing; of an Undo, to one through a gate.
func BenchmarkIdleLayers(b *testing.B) {
	for name, list := range idle() {
		call := idleCall(list)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := call(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
