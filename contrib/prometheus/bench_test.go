package sluiceprom_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	sluiceprom "github.com/sluice-go/sluice/contrib/prometheus"
)

// BenchmarkCall measures a call of a tool that does nothing: without a collector, with one, and what Prometheus itself
// takes for a counter and a histogram alike that are kept by hand around the same call.
func BenchmarkCall(b *testing.B) {
	run := func(name string, sink sluice.EventSink, after func()) {
		b.Run(name, func(b *testing.B) {
			e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: sink}))
			defer e.Close(context.Background())
			_, err := sluice.Register(e.Registry(), sluice.Spec{Name: "search"},
				func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, nil })
			require.NoError(b, err)
			r := sluice.Request{ID: "toolu_1", Tool: "search", Args: json.RawMessage(`{"query":"go"}`)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Invoke(b.Context(), r); err != nil {
					b.Fatal(err)
				}
				if after != nil {
					after()
				}
			}
		})
	}
	run("none", nil, nil)
	run("a sink that does nothing", sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { return nil }), nil)
	run("collector", sluice.Must(sluiceprom.NewCollector(sluiceprom.Config{})), nil)
	calls := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "calls"}, []string{"tool", "outcome", "reason"})
	duration := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "duration"}, []string{"tool", "outcome"})
	run("by hand", nil, func() {
		calls.WithLabelValues("search", "completed", "").Inc()
		duration.WithLabelValues("search", "completed").Observe(.001)
	})
}

// BenchmarkScrape measures a scrape of an executor that counts by so many tenants.
func BenchmarkScrape(b *testing.B) {
	for _, tenants := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprint(tenants), func(b *testing.B) {
			col := sluice.Must(sluiceprom.NewCollector(sluiceprom.Config{}))
			slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Scope: sluice.ByTenant}}}))
			e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{slots}, Sink: col}))
			defer e.Close(context.Background())
			require.NoError(b, col.Watch(e))
			_, err := sluice.Register(e.Registry(), sluice.Spec{Name: "search"}, nothing)
			require.NoError(b, err)
			for i := range tenants {
				ctx := sluice.WithPipelineContext(b.Context(), sluice.PipelineContext{Tenant: fmt.Sprint(i)})
				require.NoError(b, call(ctx, e, "search", ""))
			}
			reg := prometheus.NewPedanticRegistry()
			require.NoError(b, reg.Register(col))
			for b.Loop() {
				if _, err := reg.Gather(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
