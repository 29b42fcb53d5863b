package sluiceotel_test

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/sluice-go/sluice"
	sluiceotel "github.com/sluice-go/sluice/contrib/otel"
)

// An executor is observed by one value that is listed twice: as the first interceptor, and as the sink.
func Example() {
	spans := tracetest.NewInMemoryExporter() // in a program: an exporter to where you look at traces
	tp := trace.NewTracerProvider(trace.WithSyncer(spans))
	reader := metric.NewManualReader()
	mp := metric.NewMeterProvider(metric.WithReader(reader))

	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
	obs := sluice.Must(sluiceotel.New(sluiceotel.Config{TracerProvider: tp, MeterProvider: mp}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{obs, limits}, Sink: obs,
	}))
	defer exec.Close(context.Background())
	search := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search"}, func(ctx context.Context, q string) (string, error) {
		return "3 hits", nil
	}))

	_, _ = search(context.Background(), "go")
	_, _ = exec.Invoke(context.Background(), sluice.Request{Tool: "serach"}) // as a model may call it

	for _, s := range spans.GetSpans() {
		fmt.Println(s.Name, s.Status.Code)
	}
	var all metricdata.ResourceMetrics
	_ = reader.Collect(context.Background(), &all)
	for _, m := range all.ScopeMetrics[0].Metrics {
		if m.Name == "sluice.rejections" {
			for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
				fmt.Println(m.Name, p.Attributes.Encoded(attribute.DefaultEncoder()), p.Value)
			}
		}
	}
	// Output:
	// execute_tool search Unset
	// execute_tool _OTHER Error
	// sluice.rejections error.type=unknown_tool,gen_ai.tool.name=_OTHER 1
}

// The state of limits and breakers is shown whenever metrics are collected.
func ExampleObserver_Watch() {
	reader := metric.NewManualReader()
	obs := sluice.Must(sluiceotel.New(sluiceotel.Config{MeterProvider: metric.NewMeterProvider(metric.WithReader(reader))}))
	breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Scope: sluice.Global}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{obs, breaker}, Sink: obs,
	}))
	defer exec.Close(context.Background())
	stop := sluice.Must(obs.Watch("agents", exec))
	defer stop()

	_ = breaker.Trip("")
	var all metricdata.ResourceMetrics
	_ = reader.Collect(context.Background(), &all)
	for _, m := range all.ScopeMetrics[0].Metrics {
		if m.Name == "sluice.breaker.state" {
			for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
				state, _ := p.Attributes.Value("sluice.breaker.state")
				fmt.Println(state.AsString(), p.Value)
			}
		}
	}
	// Unordered output:
	// closed 0
	// open 1
	// half-open 0
}
