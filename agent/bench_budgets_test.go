package agent_test

import (
	"context"
	"testing"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// BenchmarkRun is a call of a run, and what layers add to it.
func BenchmarkRun(b *testing.B) {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	defer state.Close()
	most := agent.Usage{Calls: 1 << 30}
	run := sluice.Must(agent.NewUsageLimits(agent.UsageLimitsConfig{Run: most}))
	session := sluice.Must(agent.NewUsageLimits(agent.UsageLimitsConfig{Session: most, State: state}))
	loops := sluice.Must(agent.NewLoops(agent.LoopsConfig{}))
	for name, list := range map[string][]sluice.Interceptor{"none": nil, "limits": {run}, "limits of a session": {session}, "loops": {loops}} {
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: list}))
		n := 0
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "count"}, func(context.Context, int) (int, error) { n++; return n, nil }))
		ctx := agent.WithRun(sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{SessionID: "s"}))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := exec.Invoke(ctx, sluice.Request{Tool: "count", Input: 1}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
