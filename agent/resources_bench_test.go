package agent_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// resourcesExec is an executor with one tool, with and without resources that its calls do not name.
func resourcesExec(t testing.TB, resources bool) *sluice.Executor {
	list := []sluice.Interceptor{sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))}
	if resources {
		list = append(list, sluice.Must(agent.NewResources(func(c sluice.Call) (reads, writes []string) { return nil, nil })))
	}
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: list}))
	_, err := sluice.Register(exec.Registry(), sluice.Spec{Name: "x"}, func(context.Context, int) (int, error) { return 0, nil })
	require.NoError(t, err)
	return exec
}

func BenchmarkResources_NoneNamed(b *testing.B) {
	for _, with := range []bool{false, true} {
		b.Run(map[bool]string{false: "without", true: "with"}[with], func(b *testing.B) {
			exec := resourcesExec(b, with)
			req := sluice.Request{Tool: "x", Input: 1}
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := exec.Invoke(ctx, req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
