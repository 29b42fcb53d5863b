package sluiceotel_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/sluice-go/sluice"
	sluiceotel "github.com/sluice-go/sluice/contrib/otel"
)

// discard is an exporter behind which nothing is.
type discard struct{}

func (discard) OnStart(context.Context, sdk.ReadWriteSpan) {}
func (discard) OnEnd(sdk.ReadOnlySpan)                     {}
func (discard) Shutdown(context.Context) error             { return nil }
func (discard) ForceFlush(context.Context) error           { return nil }

// BenchmarkCall measures a call of a tool that does nothing: without an observer, with one, and what OpenTelemetry
// itself takes for a span and a duration alike that are made by hand around the same call.
func BenchmarkCall(b *testing.B) {
	always := sdk.NewTracerProvider(sdk.WithSpanProcessor(discard{}))
	never := sdk.NewTracerProvider(sdk.WithSpanProcessor(discard{}), sdk.WithSampler(sdk.NeverSample()))
	meters := func() metric.MeterProvider {
		return sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	}
	run := func(name string, c sluice.Config, around func(ctx context.Context, do func(context.Context))) {
		b.Run(name, func(b *testing.B) {
			e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), c))
			defer e.Close(context.Background())
			_, err := sluice.Register(e.Registry(), sluice.Spec{Name: "search", Description: "Search the web."},
				func(context.Context, json.RawMessage) (json.RawMessage, error) { return nil, nil })
			require.NoError(b, err)
			r := sluice.Request{ID: "toolu_1", Tool: "search", Args: json.RawMessage(`{"query":"go"}`)}
			do := func(ctx context.Context) {
				if _, err := e.Invoke(ctx, r); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				if around != nil {
					around(b.Context(), do)
				} else {
					do(b.Context())
				}
			}
		})
	}
	observed := func(tp trace.TracerProvider, mp metric.MeterProvider) sluice.Config {
		o := sluice.Must(sluiceotel.New(sluiceotel.Config{TracerProvider: tp, MeterProvider: mp}))
		return sluice.Config{Interceptors: []sluice.Interceptor{o}, Sink: o}
	}
	run("none", sluice.Config{}, nil)
	pass := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) { return next(ctx, c) }
	})
	run("an interceptor and a sink that do nothing", sluice.Config{Interceptors: []sluice.Interceptor{pass},
		Sink: sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { return nil })}, nil)
	run("without an SDK", observed(tracenoop.NewTracerProvider(), metricnoop.NewMeterProvider()), nil)
	run("not sampled", observed(never, meters()), nil)
	run("sampled", observed(always, meters()), nil)
	m := meters().Meter("")
	h, err := m.Float64Histogram("gen_ai.execute_tool.duration")
	require.NoError(b, err)
	byHand := func(tp *sdk.TracerProvider) func(context.Context, func(context.Context)) {
		tracer := tp.Tracer("")
		kind, attrs := trace.WithSpanKind(trace.SpanKindInternal), trace.WithAttributes(attribute.String("gen_ai.operation.name", "execute_tool"),
			attribute.String("gen_ai.tool.name", "search"), attribute.String("gen_ai.tool.type", "function"), attribute.String("gen_ai.tool.description", "Search the web."))
		labels := metric.WithAttributeSet(attribute.NewSet(attribute.String("gen_ai.tool.name", "search"), attribute.String("gen_ai.tool.type", "function")))
		return func(ctx context.Context, do func(context.Context)) {
			ctx, s := tracer.Start(ctx, "execute_tool search", kind, attrs, trace.WithAttributes(attribute.String("gen_ai.tool.call.id", "toolu_1")))
			if s.IsRecording() {
				s.AddEvent("sluice.started", trace.WithAttributes(attribute.Int("sluice.attempt", 1), attribute.Float64("sluice.queue.wait", 0)))
			}
			do(ctx)
			if s.IsRecording() {
				s.SetAttributes(attribute.String("sluice.call.key", "LLJZO5PE5NEWY-1zb"), attribute.Int("sluice.priority", 5),
					attribute.Int("sluice.attempts", 1), attribute.Float64("sluice.run.duration", .001))
			}
			s.End()
			h.Record(ctx, .001, labels)
		}
	}
	run("by hand, not sampled", sluice.Config{}, byHand(never))
	run("by hand, sampled", sluice.Config{}, byHand(always))
}
