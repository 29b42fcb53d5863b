package sluicehttp_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sluicehttp"
)

// quick is a call that succeeds, of an executor that is looked at as c says.
func quick(tb testing.TB, sink sluice.EventSink) (call func(), exec *sluice.Executor) {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 32}}}))
	exec = sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits}, Sink: sink}))
	tb.Cleanup(func() { _ = exec.Close(context.Background()) })
	x := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x"}, func(context.Context, struct{}) (int, error) { return 0, nil }))
	ctx := context.Background()
	return func() {
		if _, err := x(ctx, struct{}{}); err != nil {
			tb.Fatal(err)
		}
	}, exec
}

// While nobody looks a page costs calls nothing, and its Recent no memory; of refused calls neither.
func TestRecentAllocatesNothing(t *testing.T) {
	recent := new(sluicehttp.Recent)
	e := &sluice.Event{Kind: sluice.ToolFailed, By: "rate", Err: &sluice.Error{Tool: "x", Reason: sluice.ErrRateLimited, By: "rate"}}
	require.Zero(t, testing.AllocsPerRun(1000, func() { _ = recent.Emit(context.Background(), e) }))
	for k, want := range map[sluice.EventKind]bool{
		sluice.ToolInvoked: false, sluice.ToolQueued: false, sluice.ToolStarted: false, sluice.ToolCompleted: false, sluice.ToolRetrying: false,
		sluice.ToolAbandoned: false, "approval.requested": false, sluice.ToolFailed: true, sluice.ToolDenied: true, sluice.LimitChanged: true,
		sluice.LimitStalled: true, sluice.RateLimitPaused: true, sluice.RateLimitDebt: true, sluice.BreakerStateChanged: true, sluice.FleetChanged: true,
	} {
		require.Equal(t, want, recent.Enabled(k), k)
		require.False(t, (*sluicehttp.Recent)(nil).Enabled(k), "a nil Recent")
	}
	require.NoError(t, (*sluicehttp.Recent)(nil).Emit(context.Background(), e))
}

func BenchmarkCall(b *testing.B) {
	b.Run("alone", func(b *testing.B) {
		call, _ := quick(b, nil)
		b.ReportAllocs()
		for b.Loop() {
			call()
		}
	})
	b.Run("page, nobody looks", func(b *testing.B) {
		call, exec := quick(b, nil)
		page(b, sluicehttp.Config{Executor: exec})
		b.ReportAllocs()
		for b.Loop() {
			call()
		}
	})
	b.Run("and Recent", func(b *testing.B) {
		recent := new(sluicehttp.Recent)
		call, exec := quick(b, recent)
		page(b, sluicehttp.Config{Executor: exec, Recent: recent})
		b.ReportAllocs()
		for b.Loop() {
			call()
		}
	})
}

func BenchmarkRecent(b *testing.B) {
	recent := new(sluicehttp.Recent)
	e := &sluice.Event{Kind: sluice.ToolFailed, By: "rate", Err: &sluice.Error{Tool: "x", Reason: sluice.ErrRateLimited, By: "rate"}}
	b.ReportAllocs()
	for b.Loop() {
		_ = recent.Emit(context.Background(), e)
	}
}
