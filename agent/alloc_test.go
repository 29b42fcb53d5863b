//go:build !race

package agent_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// idle are the layers of this package as they are for calls that they have nothing to do for.
func idle() map[string][]sluice.Interceptor {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	approvals := sluice.Must(agent.NewApprovals(agent.ApprovalsConfig{State: state, Needs: func(c sluice.Call) (string, bool) { return "", c.Tool == "pay" }}))
	act := sluice.Must(agent.NewModes(func(sluice.Spec) []string { return []string{"plan", "act"} }))
	all := sluice.Must(agent.NewModes(func(sluice.Spec) []string { return nil }))
	pass := sluice.Steps{Before: func(context.Context, *sluice.Step) {}}
	return map[string][]sluice.Interceptor{
		"none": nil, "a step": {stepper{pass}}, "approvals": {approvals}, "approvals after a step": {stepper{pass}, approvals},
		"modes": {act}, "modes after a step": {stepper{pass}, act}, "modes of all": {all},
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
		require.Equal(t, none, measure(name), name)
	}
}

// BenchmarkIdleLayers is a call that a layer does nothing for. What a layer adds is the difference to a call without,
// or, if it is not the first, to one through a step that does nothing.
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
