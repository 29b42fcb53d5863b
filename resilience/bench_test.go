package resilience_test

import (
	"context"
	"testing"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// BenchmarkRetry is a call that succeeds, without interceptors, through one that passes it on, and through a retry.
func BenchmarkRetry(b *testing.B) {
	pass := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) { return next(ctx, c) }
	})
	for name, list := range map[string][]sluice.Interceptor{
		"none":  nil,
		"pass":  {pass},
		"retry": {sluice.Must(resilience.NewRetry(resilience.RetryConfig{}))},
	} {
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: list}))
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x"}, func(context.Context, int) (int, error) { return 0, nil }))
		var in any = 1
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := exec.Invoke(context.Background(), sluice.Request{ID: "a", Tool: "x", Input: in}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOnce is a call with an idempotency key: one that is answered with what is known, and one that executes.
func BenchmarkOnce(b *testing.B) {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{MaxKeys: 1}))
	defer state.Close()
	for _, name := range []string{"replay", "execution"} {
		once := sluice.Must(resilience.NewOnce(resilience.OnceConfig{State: state, Key: func(sluice.Call) (string, bool) { return "k", true }}))
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
			Interceptors: []sluice.Interceptor{once, anyNumber(), once.Inner()},
		}))
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x"}, func(context.Context, int) (int, error) { return 0, nil }))
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := exec.Invoke(context.Background(), sluice.Request{ID: "a", Tool: "x", Input: 1}); err != nil {
					b.Fatal(err)
				}
				if name == "execution" {
					state.Clear()
				}
			}
		})
	}
}
