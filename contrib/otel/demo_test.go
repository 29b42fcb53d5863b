package sluiceotel_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-go/sluice"
	sluiceotel "github.com/sluice-go/sluice/contrib/otel"
	"github.com/sluice-go/sluice/examples/demo/office"
	"github.com/sluice-go/sluice/resilience"
)

// everything is an executor like that of the demo: a scheduler, a rate for each provider, slots, a breaker for each
// tool, and retries; its tools are those of an office agent.
func everything(t *testing.T, r *rig) *sluice.Executor {
	t.Helper()
	e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{
		cache{},
		sluice.Must(resilience.NewRetry(resilience.RetryConfig{})),
		sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{TenantWeights: map[string]int{"acme": 2}, MaxQueue: 60})),
		sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
			Name: "provider", Scope: sluice.ByType, Rates: []sluice.Rate{{N: 10, Per: time.Second, Burst: 4}}, Upstream: true,
		})),
		sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: "backend", Limits: []sluice.Limit{{Max: 8}}})),
		sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 3, Cooldown: time.Second})),
	}, Timeout: time.Second, MaxWait: 5 * time.Second})
	for name, provider := range map[string]string{
		"search": "web", "fetch_page": "web", "get_weather": "weather", "query_crm": "office", "summarize": "office", "send_mail": "office",
	} {
		r.tool(e, sluice.Spec{Name: name, Type: provider, Description: "The tool " + name + ".", Hints: sluice.Hints{ReadOnly: name != "send_mail"}},
			func(ctx context.Context, in string) (string, error) {
				ctx, s := r.tp.Tracer("http").Start(ctx, "POST", trace.WithSpanKind(trace.SpanKindClient))
				defer s.End()
				time.Sleep(time.Duration(50+len(name)*10) * time.Millisecond)
				switch in {
				case "fail":
					return "", errors.New("HTTP 500")
				case "throttle":
					return "", throttled{}
				case "panic":
					panic("boom")
				case "hang":
					time.Sleep(3 * time.Second)
				case "nest":
					return "", call(ctx, e, "", "query_crm", "")
				}
				return "", nil
			})
	}
	return e
}

type throttled struct{}

func (throttled) Error() string             { return "HTTP 429" }
func (throttled) RetryAfter() time.Duration { return 2 * time.Second }

// runEverything makes 300 calls as agents do, in turns of several at once.
func runEverything(t *testing.T, e *sluice.Executor, seed uint64) (calls int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 0))
	tools := []string{"search", "fetch_page", "get_weather", "query_crm", "summarize", "send_mail", "made_up"}
	ins := []string{"", "", "", "", "fail", "throttle", "panic", "hang", "nest"}
	var wg sync.WaitGroup
	for calls < 300 {
		ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{
			RunID: fmt.Sprint("run-", calls), SessionID: "session", Tenant: []string{"acme", "globex", ""}[rnd.IntN(3)], Priority: sluice.Priority(rnd.IntN(10)),
		})
		ctx, cancel := context.WithTimeout(ctx, time.Duration(1+rnd.IntN(20))*time.Second)
		time.AfterFunc(30*time.Second, cancel)
		for i := range 1 + rnd.IntN(6) {
			tool, in := tools[rnd.IntN(len(tools))], ins[rnd.IntN(len(ins))]
			if tool == "made_up" {
				tool = fmt.Sprint(tool, rnd.Int())
			}
			calls++
			wg.Go(func() { call(ctx, e, fmt.Sprint("call_", i), tool, in) })
		}
		time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
	}
	wg.Wait()
	time.Sleep(10 * time.Second) // until what hangs has ended
	return calls
}

// ofSpan is which attributes a span of a call may have, and of which type: those of the conventions' table
// execute_tool, and the library's own; true if it must.
var ofSpan = map[attribute.Key]struct {
	kind attribute.Type
	must bool
}{
	"gen_ai.operation.name": {attribute.STRING, true}, "gen_ai.tool.name": {attribute.STRING, true}, "gen_ai.tool.type": {attribute.STRING, true},
	"gen_ai.tool.call.id": {attribute.STRING, true}, "gen_ai.tool.description": {attribute.STRING, false}, "error.type": {attribute.STRING, false},
	"gen_ai.conversation.id": {attribute.STRING, false},
	"sluice.call.key":        {attribute.STRING, true}, "sluice.priority": {attribute.INT64, true}, "sluice.attempts": {attribute.INT64, false},
	"sluice.run.duration": {attribute.FLOAT64, false}, "sluice.queue.wait": {attribute.FLOAT64, false}, "sluice.limiter": {attribute.STRING, false},
	"sluice.retry_after": {attribute.FLOAT64, false}, "sluice.tool.type": {attribute.STRING, false}, "sluice.tenant": {attribute.STRING, false},
	"sluice.run.id": {attribute.STRING, false},
}

// ofMetric is which labels the conventions, or the library, give a metric of events.
var ofMetric = map[string][]attribute.Key{
	"gen_ai.execute_tool.duration": {"error.type", "gen_ai.tool.name", "gen_ai.tool.type"},
	"sluice.queue.wait":            {"gen_ai.tool.name", "sluice.limiter", "sluice.priority"},
	"sluice.rejections":            {"error.type", "gen_ai.tool.name", "sluice.limiter"},
	"sluice.retries":               {"error.type", "gen_ai.tool.name"},
	"sluice.abandoned":             {"gen_ai.tool.name"},
	"sluice.breaker.transitions":   {"sluice.breaker.from", "sluice.breaker.to", "sluice.limiter"},
	"sluice.rate_limit.pauses":     {"sluice.limiter"},
}

// ofState is likewise of what Watch shows.
var ofState = map[string][]attribute.Key{
	"sluice.executor.running": nil, "sluice.executor.queued": nil, "sluice.executor.abandoned": nil, "sluice.events.dropped": nil,
	"sluice.in_flight": {"sluice.limiter"}, "sluice.limit": {"sluice.limiter"}, "sluice.limit.keys": {"sluice.limiter"}, "sluice.limit.stalled": {"sluice.limiter"},
	"sluice.queue.length": {"sluice.limiter", "sluice.priority"}, "sluice.queue.oldest": {"sluice.limiter", "sluice.priority"},
	"sluice.rate_limit.tokens": {"sluice.limiter"}, "sluice.rate_limit.paused": {"sluice.limiter"},
	"sluice.breaker.state": {"sluice.breaker.state", "sluice.limiter"},
	"sluice.layer.used":    {"sluice.layer"}, "sluice.layer.limit": {"sluice.layer"},
}

// TestDemo_ByTheConventions: of 300 calls of an office agent every span and every series has the attributes of the
// conventions' tables, and no other, and both tell the same story.
func TestDemo_ByTheConventions(t *testing.T) {
	met := map[string]bool{}
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			t.Log("seed ", seed)
			r := newRig(t, sluiceotel.Config{})
			e := everything(t, r)
			calls := runEverything(t, e, seed)
			for name := range r.byTheConventions(e, calls) {
				met[name] = true
			}
		})
	}
	require.Len(t, met, len(ofMetric), "the demo has some of each")
}

// TestDemo_OfTheRepository: the same of what make demo runs guarded, watched as well.
func TestDemo_OfTheRepository(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{})
		var e *sluice.Executor
		var mid metricdata.ResourceMetrics // as it is read while calls wait
		calls, failed, err := office.Observed(t.Context(), office.Observer{Interceptor: r.obs, Sink: r.obs, Watch: func(x *sluice.Executor) {
			e = x
			stop, err := r.obs.Watch("", x)
			require.NoError(t, err)
			t.Cleanup(stop)
			time.AfterFunc(3*time.Second, func() { _ = r.read.Collect(context.Background(), &mid) })
		}})
		require.NoError(t, err)
		require.Greater(t, calls, 200)
		require.Positive(t, failed, "the broken endpoint")
		r.byTheConventions(e, calls)
		m := named(t, mid)
		allKnown(t, m)
		for name := range ofMetric {
			if name != "sluice.rejections" && name != "sluice.abandoned" && name != "sluice.rate_limit.pauses" { // of which it has none by then
				require.True(t, m[name].Data != nil, name)
			}
		}
		for name := range ofState {
			require.True(t, m[name].Data != nil, name)
		}
		require.Equal(t, "8", points(t, m["sluice.limit"])["sluice.limiter=concurrency/backend global"])
		require.Equal(t, "1", points(t, m["sluice.breaker.state"])["sluice.breaker.state=open sluice.limiter=breaker"])
	})
}

// byTheConventions checks what r has of so many calls of e, and answers its metrics.
func (r *rig) byTheConventions(e *sluice.Executor, calls int) map[string]metricdata.Metrics {
	t := r.t
	t.Helper()
	count, sum := map[string]uint64{}, map[string]float64{}
	byID, n := map[trace.SpanID]tracetest.SpanStub{}, 0
	for _, s := range r.spans.GetSpans() {
		byID[s.SpanContext.SpanID()] = s
	}
	for _, s := range byID {
		if s.Name == "POST" {
			require.Contains(t, byID[s.Parent.SpanID()].Name, "execute_tool ", "what a tool does is inside its call")
			continue
		}
		n++
		attrs := attribute.NewSet(s.Attributes...)
		for _, a := range s.Attributes {
			require.Contains(t, ofSpan, a.Key)
			require.Equal(t, ofSpan[a.Key].kind, a.Value.Type(), a.Key)
		}
		for k, of := range ofSpan {
			_, has := attrs.Value(k)
			require.True(t, has || !of.must, "%s has no %s", s.Name, k)
		}
		tool, _ := attrs.Value("gen_ai.tool.name")
		code, failed := attrs.Value("error.type")
		require.Equal(t, "execute_tool "+tool.AsString(), s.Name)
		require.Equal(t, trace.SpanKindInternal, s.SpanKind)
		require.Equal(t, failed, s.Status.Code == codes.Error)
		labels := "gen_ai.tool.name=" + tool.AsString() + " gen_ai.tool.type=function"
		if failed {
			labels = "error.type=" + code.AsString() + " " + labels
		}
		count[labels]++
		sum[labels] += s.EndTime.Sub(s.StartTime).Seconds()
	}
	require.GreaterOrEqual(t, n, calls)
	m := r.collect()
	allKnown(t, m)
	h := m["gen_ai.execute_tool.duration"].Data.(metricdata.Histogram[float64])
	require.Len(t, h.DataPoints, len(count))
	total := uint64(0)
	for _, p := range h.DataPoints {
		k := list(p.Attributes.ToSlice(), " ")
		require.Equal(t, count[k], p.Count, k)
		require.InDelta(t, sum[k], p.Sum, 1e-6, k)
		total += p.Count
	}
	s := e.Snapshot()
	require.Equal(t, s.Completed+s.Failed+s.Denied, total)
	require.Zero(t, s.EventsDropped)
	return m
}

// allKnown checks that each metric is one of the tables, and has the labels that it may have.
func allKnown(t *testing.T, m map[string]metricdata.Metrics) {
	t.Helper()
	for name, x := range m {
		allowed, ok := ofMetric[name]
		if !ok {
			allowed, ok = ofState[name]
		}
		require.True(t, ok, name)
		for k := range points(t, x) {
			require.NotContains(t, k, "made_up")
		}
		for _, set := range sets(x) {
			for _, a := range set.ToSlice() {
				require.Contains(t, allowed, a.Key, name)
			}
		}
	}
}

// sets are the labels of a metric's series.
func sets(m metricdata.Metrics) (list []attribute.Set) {
	switch d := m.Data.(type) {
	case metricdata.Histogram[float64]:
		for _, p := range d.DataPoints {
			list = append(list, p.Attributes)
		}
	case metricdata.Sum[int64]:
		for _, p := range d.DataPoints {
			list = append(list, p.Attributes)
		}
	case metricdata.Gauge[float64]:
		for _, p := range d.DataPoints {
			list = append(list, p.Attributes)
		}
	}
	return list
}
