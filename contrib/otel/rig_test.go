package sluiceotel_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/sluice-go/sluice"
	sluiceotel "github.com/sluice-go/sluice/contrib/otel"
)

// rig is an observer whose spans and metrics a test reads.
type rig struct {
	t     *testing.T
	spans *tracetest.InMemoryExporter
	tp    *sdk.TracerProvider
	read  *metric.ManualReader
	mp    *metric.MeterProvider
	obs   *sluiceotel.Observer
	start time.Time
}

func newRig(t *testing.T, c sluiceotel.Config) *rig {
	t.Helper()
	r := &rig{t: t, spans: tracetest.NewInMemoryExporter(), read: metric.NewManualReader(), start: time.Now()}
	r.tp = sdk.NewTracerProvider(sdk.WithSyncer(r.spans))
	r.mp = metric.NewMeterProvider(metric.WithReader(r.read))
	if c.TracerProvider == nil {
		c.TracerProvider = r.tp
	}
	c.MeterProvider = r.mp
	obs, err := sluiceotel.New(c)
	require.NoError(t, err)
	r.obs = obs
	return r
}

// exec is an executor that r observes, with what else is listed after it.
func (r *rig) exec(c sluice.Config) *sluice.Executor {
	r.t.Helper()
	c.Interceptors = append([]sluice.Interceptor{r.obs}, c.Interceptors...)
	if c.Sink == nil {
		c.Sink = r.obs
	}
	e, err := sluice.NewExecutor(sluice.NewToolRegistry(), c)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = e.Close(context.Background()) })
	return e
}

// tool registers a tool whose code gets the JSON string that it is called with.
func (r *rig) tool(e *sluice.Executor, s sluice.Spec, run func(ctx context.Context, in string) (string, error)) {
	r.t.Helper()
	_, err := sluice.Register(e.Registry(), s, run)
	require.NoError(r.t, err)
}

// call makes a call as a model does.
func call(ctx context.Context, e *sluice.Executor, id, tool, in string) error {
	b, _ := json.Marshal(in)
	_, err := e.Invoke(ctx, sluice.Request{ID: id, Tool: tool, Args: b})
	return err
}

// take is the spans that have ended since, as text, one after the other by their starts, and forgets them.
func (r *rig) take() []string {
	list := r.spans.GetSpans()
	r.spans.Reset()
	slices.Reverse(list) // those around others end later
	slices.SortStableFunc(list, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
	names := map[string]string{}
	for _, s := range list {
		names[s.SpanContext.SpanID().String()] = s.Name
	}
	var out []string
	for _, s := range list {
		out = append(out, r.text(s, names[s.Parent.SpanID().String()]))
	}
	return out
}

// text is all of a span.
func (r *rig) text(s tracetest.SpanStub, parent string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%v) in %q, %v to %v", s.Name, s.SpanKind, parent, s.StartTime.Sub(r.start), s.EndTime.Sub(r.start))
	if s.Status.Code != codes.Unset {
		fmt.Fprintf(&b, ", %v: %s", s.Status.Code, s.Status.Description)
	}
	b.WriteString("\n" + list(s.Attributes, "\n"))
	for _, e := range s.Events {
		fmt.Fprintf(&b, "\n@%v %s %s", e.Time.Sub(r.start), e.Name, list(e.Attributes, " "))
	}
	return strings.TrimSpace(b.String())
}

// list is attributes in order. A call's key, which is another each time, is left out.
func list(attrs []attribute.KeyValue, sep string) string {
	var out []string
	for _, a := range attrs {
		if a.Key != "sluice.call.key" {
			out = append(out, fmt.Sprintf("%s=%s", a.Key, a.Value.Emit()))
		}
	}
	slices.Sort(out)
	return strings.Join(out, sep)
}

// collect reads the metrics.
func (r *rig) collect() map[string]metricdata.Metrics {
	r.t.Helper()
	var rm metricdata.ResourceMetrics
	require.NoError(r.t, r.read.Collect(context.Background(), &rm))
	return named(r.t, rm)
}

// named is the metrics by their names.
func named(t *testing.T, rm metricdata.ResourceMetrics) map[string]metricdata.Metrics {
	t.Helper()
	out := map[string]metricdata.Metrics{}
	for _, s := range rm.ScopeMetrics {
		require.Equal(t, "github.com/sluice-go/sluice/contrib/otel", s.Scope.Name)
		for _, m := range s.Metrics {
			out[m.Name] = m
		}
	}
	return out
}

// points is a metric's values by their labels: of a histogram count and sum.
func points(t *testing.T, m metricdata.Metrics) map[string]string {
	t.Helper()
	out := map[string]string{}
	put := func(s attribute.Set, v string) {
		k := list(s.ToSlice(), " ")
		require.NotContains(t, out, k)
		out[k] = v
	}
	switch d := m.Data.(type) {
	case metricdata.Histogram[float64]:
		for _, p := range d.DataPoints {
			put(p.Attributes, fmt.Sprintf("%d in %.4g", p.Count, p.Sum))
		}
	case metricdata.Sum[int64]:
		for _, p := range d.DataPoints {
			put(p.Attributes, fmt.Sprint(p.Value))
		}
	case metricdata.Gauge[float64]:
		for _, p := range d.DataPoints {
			put(p.Attributes, fmt.Sprintf("%.4g", p.Value))
		}
	case nil:
	default:
		require.Failf(t, "no such data", "%T", d)
	}
	return out
}

// series is how many series there are, of all metrics.
func (r *rig) series() (n int) {
	for _, m := range r.collect() {
		n += len(points(r.t, m))
	}
	return n
}
