package sluiceprom_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sluice-go/sluice"
	sluiceprom "github.com/sluice-go/sluice/contrib/prometheus"
)

// A collector is the executor's sink, watches it, and is registered.
func Example() {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
	col := sluice.Must(sluiceprom.NewCollector(sluiceprom.Config{}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{limits}, Sink: col,
	}))
	defer exec.Close(context.Background())
	_ = col.Watch(exec)
	registry := prometheus.NewRegistry() // or prometheus.DefaultRegisterer
	registry.MustRegister(col)

	search := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search"}, func(ctx context.Context, q string) (string, error) {
		return "3 hits", nil
	}))
	_, _ = search(context.Background(), "go")
	_, _ = exec.Invoke(context.Background(), sluice.Request{Tool: "serach"}) // as a model may call it

	page := httptest.NewRecorder() // in a program: http.Handle("/metrics", promhttp.Handler())
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(page, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(page.Body.String()) {
		if strings.HasPrefix(line, "sluice_calls_total") || strings.HasPrefix(line, "sluice_limit{") {
			fmt.Print(line)
		}
	}
	// Output:
	// sluice_calls_total{outcome="completed",reason="",tool="search"} 1
	// sluice_calls_total{outcome="failed",reason="unknown_tool",tool="_other"} 1
	// sluice_limit{key="",limiter="concurrency global"} 8
}
