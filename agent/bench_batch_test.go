package agent_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// BenchmarkTurn is what a turn costs for each of its calls, beside their submission and a wait for each.
func BenchmarkTurn(b *testing.B) {
	for _, n := range []int{1, 8, 500} {
		reg := sluice.NewToolRegistry()
		_, err := sluice.Register(reg, sluice.Spec{Name: "nothing"}, func(context.Context, workIn) (int, error) { return 1, nil })
		if err != nil {
			b.Fatal(err)
		}
		limits := limited(8, sluice.PrioritySchedulerConfig{})
		exec := sluice.Must(sluice.NewExecutor(reg, sluice.Config{Interceptors: limits}))
		calls := make([]sluice.Request, n)
		for i := range calls {
			calls[i] = sluice.Request{ID: "x", Tool: "nothing", Input: workIn{}}
		}
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		perCall := func(b *testing.B) {
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/call")
		}
		b.Run(fmt.Sprintf("submit and wait/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			futures := make([]*sluice.Future, n)
			for b.Loop() {
				for i, c := range calls {
					futures[i] = exec.Submit(ctx, c)
				}
				for _, f := range futures {
					if _, err := f.Wait(ctx); err != nil {
						b.Fatal(err)
					}
				}
			}
			perCall(b)
		})
		for name, c := range map[string]agent.Config{"run": {}, "run in parallel of 4": {Parallel: 4}} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				r := sluice.Must(agent.New(exec, c))
				for b.Loop() {
					for _, x := range r.Run(ctx, calls) {
						if x.Err != nil {
							b.Fatal(x.Err)
						}
					}
				}
				perCall(b)
			})
		}
		b.Run(fmt.Sprintf("each/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			r := sluice.Must(agent.New(exec, agent.Config{}))
			for b.Loop() {
				for _, x := range r.Each(ctx, calls) {
					if x.Err != nil {
						b.Fatal(x.Err)
					}
				}
			}
			perCall(b)
		})
	}
}
