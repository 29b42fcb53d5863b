package sluiceotel_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-go/sluice"
	sluiceotel "github.com/sluice-go/sluice/contrib/otel"
	"github.com/sluice-go/sluice/sluicetest"
)

// nothing is a tool's code.
func nothing(context.Context, string) (string, error) { return "", nil }

// TestAnnotate_WritesOnTheFrameworksSpan: where the framework has opened the tool's span, that says what the call
// came to, and is left to the framework otherwise; a nested call, and one without a span, has its own.
func TestAnnotate_WritesOnTheFrameworksSpan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{Annotate: true})
		e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{
			sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Scope: sluice.ForTool("search"), Refuse: true}}})),
		}})
		r.tool(e, sluice.Spec{Name: "fetch"}, nothing)
		r.tool(e, sluice.Spec{Name: "search"}, func(ctx context.Context, in string) (string, error) {
			ctx, s := r.tp.Tracer("user").Start(ctx, "look")
			defer s.End()
			time.Sleep(time.Second)
			return "", call(ctx, e, "inner", "fetch", "")
		})
		framework := func(id string) {
			ctx, s := r.tp.Tracer("framework").Start(t.Context(), "execute_tool search", trace.WithAttributes(attribute.String("gen_ai.tool.name", "github.search")))
			defer s.End()
			call(ctx, e, id, "search", "")
		}
		go framework("1")
		synctest.Wait()
		time.Sleep(time.Millisecond)
		framework("2")
		time.Sleep(2 * time.Second)
		require.NoError(t, call(t.Context(), e, "3", "fetch", ""))
		require.Equal(t, []string{
			`execute_tool search (internal) in "", 0s to 1s
gen_ai.tool.name=github.search
sluice.attempts=1
sluice.priority=5
sluice.run.duration=1
@0s sluice.started sluice.attempt=1 sluice.queue.wait=0`,
			`look (internal) in "execute_tool search", 0s to 1s`,
			`execute_tool search (internal) in "", 1ms to 1ms, Error: sluice: tool "search": saturated by concurrency tool search: all of 1 are taken
error.type=saturated
gen_ai.tool.name=github.search
sluice.attempts=1
sluice.limiter=concurrency tool search
sluice.priority=5`,
			`execute_tool fetch (internal) in "look", 1s to 1s
gen_ai.operation.name=execute_tool
gen_ai.tool.call.id=inner
gen_ai.tool.name=fetch
gen_ai.tool.type=function
sluice.attempts=1
sluice.priority=5
sluice.run.duration=0
@1s sluice.started sluice.attempt=1 sluice.queue.wait=0`,
			`execute_tool fetch (internal) in "", 2.001s to 2.001s
gen_ai.operation.name=execute_tool
gen_ai.tool.call.id=3
gen_ai.tool.name=fetch
gen_ai.tool.type=function
sluice.attempts=1
sluice.priority=5
sluice.run.duration=0
@2.001s sluice.started sluice.attempt=1 sluice.queue.wait=0`,
		}, r.take())
	})
}

// TestMCP_ByItsConventions: requests tools/call have the names, kinds and durations of the Model Context Protocol.
func TestMCP_ByItsConventions(t *testing.T) {
	for kind, name := range map[trace.SpanKind]string{trace.SpanKindServer: "server", trace.SpanKindClient: "client"} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, sluiceotel.Config{MCP: kind, Attributes: func(context.Context, sluice.Call) []attribute.KeyValue {
				return []attribute.KeyValue{attribute.String("jsonrpc.request.id", "7"), attribute.String("network.transport", "pipe")}
			}})
			e := r.exec(sluice.Config{})
			r.tool(e, sluice.Spec{Name: "search", Description: "Search the web."}, func(context.Context, string) (string, error) {
				time.Sleep(3 * time.Second)
				return "", errors.New("no route")
			})
			ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{SessionID: "session-1"})
			require.Error(t, call(ctx, e, "toolu_1", "search", ""))
			require.Error(t, call(ctx, e, "toolu_2", "serach", ""))
			require.Equal(t, []string{
				`tools/call search (` + name + `) in "", 0s to 3s, Error: no route
error.type=tool_error
gen_ai.operation.name=execute_tool
gen_ai.tool.call.id=toolu_1
gen_ai.tool.description=Search the web.
gen_ai.tool.name=search
jsonrpc.request.id=7
mcp.method.name=tools/call
mcp.session.id=session-1
network.transport=pipe
sluice.attempts=1
sluice.priority=5
sluice.run.duration=3
@0s sluice.started sluice.attempt=1 sluice.queue.wait=0`,
				`tools/call _OTHER (` + name + `) in "", 3s to 3s, Error: sluice: tool "serach": unknown tool
error.type=unknown_tool
gen_ai.operation.name=execute_tool
gen_ai.tool.call.id=toolu_2
gen_ai.tool.name=_OTHER
jsonrpc.request.id=7
mcp.method.name=tools/call
mcp.session.id=session-1
network.transport=pipe
sluice.priority=5`,
			}, r.take())
			m := r.collect()
			require.NotContains(t, m, "gen_ai.execute_tool.duration")
			require.Equal(t, map[string]string{
				"error.type=tool_error gen_ai.operation.name=execute_tool gen_ai.tool.name=search mcp.method.name=tools/call":   "1 in 3",
				"error.type=unknown_tool gen_ai.operation.name=execute_tool gen_ai.tool.name=_OTHER mcp.method.name=tools/call": "1 in 0",
			}, points(t, m["mcp."+name+".operation.duration"]))
			require.Equal(t, []float64{.01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 120, 300}, bounds(t, m["mcp."+name+".operation.duration"]))
			require.Equal(t, "s", m["mcp."+name+".operation.duration"].Unit)
		})
	}
}

// bounds are the buckets of a histogram.
func bounds(t *testing.T, m metricdata.Metrics) []float64 {
	t.Helper()
	h, ok := m.Data.(metricdata.Histogram[float64])
	require.True(t, ok, "%T", m.Data)
	require.NotEmpty(t, h.DataPoints)
	return h.DataPoints[0].Bounds
}

func TestDuration_HasTheConventionsBuckets(t *testing.T) {
	r := newRig(t, sluiceotel.Config{})
	e := r.exec(sluice.Config{})
	r.tool(e, sluice.Spec{Name: "search"}, nothing)
	require.NoError(t, call(t.Context(), e, "", "search", ""))
	require.Equal(t, []float64{.01, .02, .04, .08, .16, .32, .64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92},
		bounds(t, r.collect()["gen_ai.execute_tool.duration"]))
}

func TestNew_NamesTheField(t *testing.T) {
	_, err := sluiceotel.New(sluiceotel.Config{MCP: trace.SpanKindProducer})
	require.EqualError(t, err, "sluiceotel: Config.MCP is producer: must be zero, trace.SpanKindServer or trace.SpanKindClient")
}

// TestNew_TakesTheGlobalProviders: those that are set when it is called.
func TestNew_TakesTheGlobalProviders(t *testing.T) {
	r := newRig(t, sluiceotel.Config{})
	tp, mp := otel.GetTracerProvider(), otel.GetMeterProvider()
	otel.SetTracerProvider(r.tp)
	otel.SetMeterProvider(r.mp)
	defer otel.SetTracerProvider(tp)
	defer otel.SetMeterProvider(mp)
	var err error
	r.obs, err = sluiceotel.New(sluiceotel.Config{})
	require.NoError(t, err)
	e := r.exec(sluice.Config{})
	r.tool(e, sluice.Spec{Name: "search"}, nothing)
	require.NoError(t, call(t.Context(), e, "", "search", ""))
	require.Len(t, r.take(), 1)
	require.Len(t, points(t, r.collect()["gen_ai.execute_tool.duration"]), 1)
}

// TestAttributes_HarmNobody: a function that panics adds none, one that exits ends the call, and the span ends in
// any case.
func TestAttributes_HarmNobody(t *testing.T) {
	var does func()
	r := newRig(t, sluiceotel.Config{Attributes: func(_ context.Context, c sluice.Call) []attribute.KeyValue {
		does()
		return []attribute.KeyValue{attribute.String("user", c.Pipeline.UserID), attribute.Bool("input", c.Input != nil)}
	}})
	sink, err := sluice.WithPayloads(r.obs, sluice.PayloadConfig{})
	require.NoError(t, err)
	e := r.exec(sluice.Config{Sink: sink})
	r.tool(e, sluice.Spec{Name: "search"}, nothing)
	ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{UserID: "ada"})
	for _, test := range []struct {
		does func()
		has  bool
	}{{func() {}, true}, {func() { panic("boom") }, false}, {runtime.Goexit, false}} {
		does = test.does
		done := make(chan struct{})
		go func() {
			defer close(done)
			call(ctx, e, "", "search", "")
		}()
		<-done
		spans := r.take()
		require.Len(t, spans, 1)
		require.Equal(t, test.has, strings.Contains(spans[0], "\nuser=ada"), spans[0])
		require.Equal(t, test.has, strings.Contains(spans[0], "\ninput=false"), spans[0])
		require.Zero(t, e.Snapshot().EventsDropped)
	}
	total := uint64(0)
	for _, n := range counts(t, r.collect()["gen_ai.execute_tool.duration"]) {
		total += n
	}
	require.EqualValues(t, 3, total)
}

// TestPayloads_OnlyOptIn: arguments and results are on spans only behind WithPayloads, bounded and redacted.
func TestPayloads_OnlyOptIn(t *testing.T) {
	type in struct {
		Query string `json:"query"`
		Key   string `json:"api_key"`
	}
	for _, opted := range []bool{false, true} {
		r := newRig(t, sluiceotel.Config{})
		var sink sluice.EventSink = r.obs
		if opted {
			sink = sluice.Must(sluice.WithPayloads(r.obs, sluice.PayloadConfig{Redact: []string{"api_key"}}))
		}
		e := r.exec(sluice.Config{Sink: sink})
		sluice.Must(sluice.Register(e.Registry(), sluice.Spec{Name: "search"}, func(context.Context, in) (map[string]int, error) {
			return map[string]int{"hits": 3}, nil
		}))
		_, err := e.Invoke(t.Context(), sluice.Request{Tool: "search", Args: []byte(`{"query":"go","api_key":"sk-123"}`)})
		require.NoError(t, err)
		span := r.take()[0]
		require.NotContains(t, span, "sk-123")
		require.Equal(t, opted, strings.Contains(span, "\ngen_ai.tool.call.result={\"hits\":3}\n"), span)
		require.Equal(t, opted, strings.Contains(span, "\ngen_ai.tool.call.arguments={\"query\":\"go\",\"api_key\":\"[redacted]\"}\n"), span)
	}
}

// TestWithoutErrorText_KeepsTheCode: what a tool says of its error can be kept from spans.
func TestWithoutErrorText_KeepsTheCode(t *testing.T) {
	r := newRig(t, sluiceotel.Config{})
	e := r.exec(sluice.Config{Sink: sluice.WithoutErrorText(r.obs)})
	r.tool(e, sluice.Spec{Name: "search"}, func(context.Context, string) (string, error) { return "", coded{"no_route"} })
	require.Error(t, call(t.Context(), e, "", "search", ""))
	require.NotContains(t, r.spans.GetSpans()[0].Status.Description, "the text of a tool")
	require.Contains(t, r.take()[0], "\nerror.type=no_route\n")
}

// TestErrorText_IsBounded: 1,024 bytes at most, whole runes; an error whose own code panics has none.
func TestErrorText_IsBounded(t *testing.T) {
	r := newRig(t, sluiceotel.Config{})
	e := r.exec(sluice.Config{})
	var err error
	r.tool(e, sluice.Spec{Name: "search"}, func(context.Context, string) (string, error) { return "", err })
	for _, test := range []struct {
		err  error
		want string
	}{
		{errors.New("a" + strings.Repeat("é", 1024)), "a" + strings.Repeat("é", 511)},
		{errors.New("a\xffb"), "a\uFFFDb"},
		{errors.New(strings.Repeat("\xffb", 1024)), strings.Repeat("\uFFFDb", 256)},
		{panics{}, ""},
	} {
		err = test.err
		require.Error(t, call(t.Context(), e, "", "search", ""))
		s := r.spans.GetSpans()
		r.spans.Reset()
		require.Len(t, s, 1)
		require.Equal(t, test.want, s[0].Status.Description)
		require.Equal(t, "Error", s[0].Status.Code.String())
	}
	require.Zero(t, e.Snapshot().EventsDropped)
	require.EqualValues(t, 4, counts(t, r.collect()["gen_ai.execute_tool.duration"])["error.type=tool_error gen_ai.tool.name=search gen_ai.tool.type=function"])
}

// TestCallID_IsBounded: 256 bytes at most, as UTF-8.
func TestCallID_IsBounded(t *testing.T) {
	r := newRig(t, sluiceotel.Config{})
	e := r.exec(sluice.Config{})
	r.tool(e, sluice.Spec{Name: "search"}, nothing)
	require.NoError(t, call(t.Context(), e, strings.Repeat("é", 1000), "search", ""))
	require.Contains(t, r.take()[0], "\ngen_ai.tool.call.id="+strings.Repeat("é", 128)+"\n")
}

// panics is an error whose methods do.
type panics struct{}

func (panics) Error() string { panic("boom") }
func (panics) Is(error) bool { panic("boom") }

// TestSpan_OfAStreamEndsWithIt: a call that a stream holds open has its span until the stream ends.
func TestSpan_OfAStreamEndsWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{})
		e := r.exec(sluice.Config{})
		r.tool(e, sluice.Spec{Name: "tail"}, func(ctx context.Context, _ string) (string, error) {
			_, done, err := sluice.Hold(ctx)
			time.AfterFunc(5*time.Second, func() { done(errors.New("cut off")) })
			return "", err
		})
		require.NoError(t, call(t.Context(), e, "1", "tail", ""))
		require.Empty(t, r.take())
		time.Sleep(6 * time.Second)
		require.Equal(t, []string{"execute_tool tail, Error: cut off\nerror.type=tool_error sluice.attempts=1 sluice.run.duration=5 [started]"},
			[]string{short(r.take()[0])})
	})
}

// TestSinkOnly_NamesWhatRuns: without the interceptor a tool is known from its first call that is admitted, and what
// it does is beside the span of the call.
func TestSinkOnly_NamesWhatRuns(t *testing.T) {
	r := newRig(t, sluiceotel.Config{})
	e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: r.obs}))
	defer e.Close(context.Background())
	r.tool(e, sluice.Spec{Name: "search"}, func(ctx context.Context, _ string) (string, error) {
		require.False(t, trace.SpanContextFromContext(ctx).IsValid())
		return "", nil
	})
	for range 2 {
		require.NoError(t, call(t.Context(), e, "", "search", ""))
		require.Equal(t, "execute_tool search\nsluice.attempts=1 sluice.run.duration=? [started]", runtimeOf(short(r.take()[0])))
	}
	require.Len(t, points(t, r.collect()["gen_ai.execute_tool.duration"]), 1)
}

// runtimeOf is a short span without how long its code ran on a clock that is not virtual.
func runtimeOf(s string) string {
	a, b, ok := strings.Cut(s, "sluice.run.duration=")
	if !ok {
		return s
	}
	_, b, _ = strings.Cut(b, " ")
	return a + "sluice.run.duration=? " + b
}

// TestInterceptorOnly_DoesNothing: nobody would end its spans.
func TestInterceptorOnly_DoesNothing(t *testing.T) {
	r := newRig(t, sluiceotel.Config{})
	e := r.exec(sluice.Config{Sink: sluice.MultiSink()})
	r.tool(e, sluice.Spec{Name: "search"}, nothing)
	require.NoError(t, call(t.Context(), e, "", "search", ""))
	require.Empty(t, r.take())
}

// TestInsideTheGates_SubmitHasNoGoroutine: listed last, the observer leaves a submitted call without a goroutine
// while it waits, and what the tool does is inside the call's span all the same.
func TestInsideTheGates_SubmitHasNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{})
		slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
		e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
			Interceptors: []sluice.Interceptor{slots, r.obs}, Sink: r.obs,
		}))
		defer e.Close(context.Background())
		r.tool(e, sluice.Spec{Name: "search"}, func(ctx context.Context, in string) (string, error) {
			_, s := r.tp.Tracer("http").Start(ctx, "GET")
			defer s.End()
			time.Sleep(time.Second)
			return "", nil
		})
		ctx, root := r.tp.Tracer("agent").Start(t.Context(), "invoke_agent")
		before := runtime.NumGoroutine()
		var list []*sluice.Future
		for range 100 {
			list = append(list, e.Submit(ctx, sluice.Request{Tool: "search", Args: []byte(`""`)}))
		}
		synctest.Wait()
		require.Less(t, runtime.NumGoroutine()-before, 10)
		for _, f := range list {
			_, err := f.Wait(t.Context())
			require.NoError(t, err)
		}
		root.End()
		inside := map[string]int{}
		for _, s := range r.take() {
			inside[s[:strings.Index(s, ",")]]++
		}
		require.Equal(t, map[string]int{
			`invoke_agent (internal) in ""`: 1, `execute_tool search (internal) in "invoke_agent"`: 100, `GET (internal) in "execute_tool search"`: 100,
		}, inside)
	})
}

// TestLayersEvents_AreOnTheSpan: what a layer tells in the course of a call stands where it told it.
func TestLayersEvents_AreOnTheSpan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{})
		e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{
			sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
				return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
					require.NoError(t, c.Emit(ctx, "audit.checked", slog.String("rule", "exports"), slog.Int("version", 3), slog.Bool("strict", true),
						slog.Float64("score", .5), slog.Duration("took", 1500*time.Millisecond), slog.Uint64("n", 1<<63), slog.Time("at", time.Unix(0, 0))))
					return next(ctx, c)
				}
			}),
		}})
		r.tool(e, sluice.Spec{Name: "search"}, nothing)
		require.NoError(t, call(t.Context(), e, "", "search", ""))
		require.Contains(t, r.take()[0], "\n@0s sluice.audit.checked at=1970-01-01T00:00:00Z n=9223372036854775808 rule=exports score=0.5 strict=true took=1.5 version=3\n")
	})
}

// TestNotSampled_IsCounted: a trace that is not sampled stays so, and its calls are counted.
func TestNotSampled_IsCounted(t *testing.T) {
	tp := sdk.NewTracerProvider(sdk.WithSampler(sdk.NeverSample()))
	r := newRig(t, sluiceotel.Config{TracerProvider: tp})
	e := r.exec(sluice.Config{})
	r.tool(e, sluice.Spec{Name: "search"}, func(ctx context.Context, _ string) (string, error) {
		c := trace.SpanContextFromContext(ctx)
		require.True(t, c.IsValid(), "what further in asks has the decision")
		require.False(t, c.IsSampled())
		return "", nil
	})
	require.NoError(t, call(t.Context(), e, "", "search", ""))
	require.Empty(t, r.take())
	require.Len(t, points(t, r.collect()["gen_ai.execute_tool.duration"]), 1)
}

// TestExemplar_IsTheCallsSpan: who looks at a slow bucket comes to a call that was in it.
func TestExemplar_IsTheCallsSpan(t *testing.T) {
	r := newRig(t, sluiceotel.Config{})
	e := r.exec(sluice.Config{})
	r.tool(e, sluice.Spec{Name: "search"}, nothing)
	require.NoError(t, call(t.Context(), e, "", "search", ""))
	id := r.spans.GetSpans()[0].SpanContext.SpanID()
	h := r.collect()["gen_ai.execute_tool.duration"].Data.(metricdata.Histogram[float64])
	require.Len(t, h.DataPoints[0].Exemplars, 1)
	require.Equal(t, id[:], h.DataPoints[0].Exemplars[0].SpanID)
}

// TestLateSink_HasTheTimes: events that come late make spans of the times of what happened.
func TestLateSink_HasTheTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{})
		first := true
		sink := sluice.Must(sluice.NewAsyncSink(sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
			if first { // and what comes behind it is late
				first = false
				time.Sleep(time.Minute)
			}
			return r.obs.Emit(ctx, e)
		}), sluice.AsyncSinkConfig{}))
		e := r.exec(sluice.Config{Sink: sink})
		r.tool(e, sluice.Spec{Name: "search"}, func(context.Context, string) (string, error) {
			time.Sleep(time.Second)
			return "", nil
		})
		require.NoError(t, call(t.Context(), e, "1", "search", ""))
		require.NoError(t, e.Close(t.Context()))
		require.NoError(t, sink.Close(t.Context()))
		require.Equal(t, []string{`execute_tool search (internal) in "", 0s to 1s
gen_ai.operation.name=execute_tool
gen_ai.tool.call.id=1
gen_ai.tool.name=search
gen_ai.tool.type=function
sluice.attempts=1
sluice.priority=5
sluice.run.duration=1
@0s sluice.started sluice.attempt=1 sluice.queue.wait=0`}, r.take())
		require.Equal(t, map[string]string{"gen_ai.tool.name=search gen_ai.tool.type=function": "1 in 1"}, points(t, r.collect()["gen_ai.execute_tool.duration"]))
	})
}

// TestAsyncSink_IsSafe: behind a queue, a call's span is opened while the call runs.
func TestAsyncSink_IsSafe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{})
		sink := sluice.Must(sluice.NewAsyncSink(r.obs, sluice.AsyncSinkConfig{}))
		e := r.exec(sluice.Config{Sink: sink})
		r.tool(e, sluice.Spec{Name: "search"}, nothing)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { _ = call(t.Context(), e, "", "search", "") })
		}
		wg.Wait()
		require.NoError(t, e.Close(t.Context()))
		require.NoError(t, sink.Close(t.Context()))
		require.Len(t, r.take(), 100)
		require.Zero(t, r.obs.UnderWay())
	})
}

// TestLostBeginning_HasTheTimes: a call of which only the end is told has a span from its beginning on.
func TestLostBeginning_HasTheTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{})
		e := r.exec(sluice.Config{Sink: sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
			if e.Kind == sluice.ToolInvoked {
				return nil
			}
			return r.obs.Emit(ctx, e)
		})})
		r.tool(e, sluice.Spec{Name: "search"}, func(context.Context, string) (string, error) {
			time.Sleep(time.Second)
			return "", nil
		})
		require.NoError(t, call(t.Context(), e, "1", "search", ""))
		require.Equal(t, `execute_tool search (internal) in "", 0s to 1s`, strings.SplitN(r.take()[0], "\n", 2)[0])
	})
}

// TestBounds_NoCallIsLost: beyond so many calls under way, which a sink that drops events has made, a call has its span
// at its end; beyond so many tools one is _OTHER.
func TestBounds_NoCallIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{})
		e := r.exec(sluice.Config{})
		r.tool(e, sluice.Spec{Name: "search"}, func(context.Context, string) (string, error) {
			time.Sleep(time.Second)
			return "", errors.New("no route")
		})
		r.obs.Fill()
		before := r.obs.UnderWay()
		require.Error(t, call(t.Context(), e, "1", "search", ""))
		require.Equal(t, before, r.obs.UnderWay())
		require.Equal(t, []string{`execute_tool search (internal) in "", 0s to 1s, Error: no route
error.type=tool_error
gen_ai.operation.name=execute_tool
gen_ai.tool.call.id=1
gen_ai.tool.name=search
gen_ai.tool.type=function
sluice.attempts=1
sluice.priority=5`}, r.take())
	})
	r := newRig(t, sluiceotel.Config{})
	e := r.exec(sluice.Config{})
	const most = 10_000
	for i := range most + 10 {
		spec := sluice.Spec{Name: fmt.Sprint("tool", i)}
		r.obs.Wrap(spec, nil) // as an executor does at a tool's first call
		if i >= most {
			r.tool(e, spec, nothing)
			require.NoError(t, call(t.Context(), e, "", spec.Name, ""))
		}
	}
	require.Equal(t, map[string]uint64{"gen_ai.tool.name=_OTHER gen_ai.tool.type=function": 10}, counts(t, r.collect()["gen_ai.execute_tool.duration"]))
}

// counts are how many a histogram has counted, by labels.
func counts(t *testing.T, m metricdata.Metrics) map[string]uint64 {
	t.Helper()
	h, ok := m.Data.(metricdata.Histogram[float64])
	require.True(t, ok, "%T", m.Data)
	out := map[string]uint64{}
	for _, p := range h.DataPoints {
		out[list(p.Attributes.ToSlice(), " ")] = p.Count
	}
	return out
}

// TestSink_DoesWhatASinkMust: it takes whatever comes, does not wait, and keeps and changes no event.
func TestSink_DoesWhatASinkMust(t *testing.T) {
	for _, annotate := range []bool{false, true} {
		sluicetest.Sink(t, func() (sluice.EventSink, func() []sluice.Event) {
			return newRig(t, sluiceotel.Config{Annotate: annotate}).obs, nil
		}, sluicetest.Options{})
	}
}

// TestPlan_NamesIt: operators see where it stands.
func TestPlan_NamesIt(t *testing.T) {
	r := newRig(t, sluiceotel.Config{})
	e := r.exec(sluice.Config{})
	r.tool(e, sluice.Spec{Name: "search"}, nothing)
	plan, ok := e.Plan("search")
	require.True(t, ok)
	require.Equal(t, "otel → search", plan)
}
