package sluiceotel_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/sluice-go/sluice"
	sluiceotel "github.com/sluice-go/sluice/contrib/otel"
)

// cache is an interceptor that says how full it is.
type cache struct{}

func (cache) Wrap(_ sluice.Spec, next sluice.Handler) sluice.Handler { return next }
func (cache) Inspect() []sluice.GateState {
	return []sluice.GateState{{Name: "cache entries", Limit: 100, Used: 7}}
}

// states are the metrics that Watch makes.
var states = []string{
	"sluice.executor.running", "sluice.executor.queued", "sluice.executor.abandoned", "sluice.events.dropped",
	"sluice.in_flight", "sluice.limit", "sluice.limit.keys", "sluice.limit.stalled", "sluice.queue.length", "sluice.queue.oldest",
	"sluice.rate_limit.tokens", "sluice.rate_limit.paused", "sluice.breaker.state", "sluice.layer.used", "sluice.layer.limit",
}

func (r *rig) states() map[string]map[string]string {
	all, out := r.collect(), map[string]map[string]string{}
	for _, name := range states {
		if m, ok := all[name]; ok {
			out[name] = points(r.t, m)
		}
	}
	return out
}

// TestWatch_ShowsTheState: every number of a snapshot that is one, and zeros when all is over.
func TestWatch_ShowsTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{})
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "web", Rates: []sluice.Rate{{N: 10, Per: time.Hour}}, Scope: sluice.ForTool("search")}))
		breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Scope: sluice.ByTool, Failures: 1, Cooldown: time.Minute}))
		e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{
			cache{},
			sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{})),
			sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{
				{Max: 4}, {Max: 2, Scope: sluice.ByTenant},
			}})),
			rates, breaker,
		}})
		r.tool(e, sluice.Spec{Name: "search"}, func(context.Context, string) (string, error) {
			time.Sleep(10 * time.Second)
			return "", nil
		})
		r.tool(e, sluice.Spec{Name: "broken"}, func(context.Context, string) (string, error) { return "", errors.New("no") })
		stop, err := r.obs.Watch("agents", e)
		require.NoError(t, err)
		require.Error(t, call(t.Context(), e, "", "broken", ""))
		for i := range 6 { // two tenants of three calls
			ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: fmt.Sprint(i % 2), Priority: 3})
			go call(ctx, e, "", "search", "")
			synctest.Wait()
		}
		time.Sleep(3 * time.Second)
		const all, global, tenant, web = "sluice.executor=agents", " sluice.limiter=concurrency global", " sluice.limiter=concurrency per tenant", " sluice.limiter=rate/web calls per hour"
		require.Equal(t, map[string]map[string]string{
			"sluice.executor.running":   {all: "4"},
			"sluice.executor.queued":    {all: "2"},
			"sluice.executor.abandoned": {all: "0"},
			"sluice.events.dropped":     {all: "0"},
			"sluice.in_flight":          {all + global: "4", all + tenant: "4"},
			"sluice.limit":              {all + global: "4", all + tenant: "6", all + web: "10"},
			"sluice.limit.keys":         {all + global: "1", all + tenant: "3", all + web: "1", all + " sluice.limiter=breaker": "2"},
			"sluice.limit.stalled":      {all + global: "0", all + tenant: "0"},
			"sluice.queue.length":       {all + tenant + " sluice.priority=3": "2"},
			"sluice.queue.oldest":       {all + tenant + " sluice.priority=3": "3"},
			"sluice.rate_limit.tokens":  {all + web: "6"},
			"sluice.rate_limit.paused":  {all + global: "0", all + tenant: "0", all + web: "0", all + " sluice.limiter=breaker": "0"},
			"sluice.breaker.state": {
				"sluice.breaker.state=closed " + all + " sluice.limiter=breaker": "1", "sluice.breaker.state=open " + all + " sluice.limiter=breaker": "1",
				"sluice.breaker.state=half-open " + all + " sluice.limiter=breaker": "0",
			},
			"sluice.layer.used":  {all + " sluice.layer=cache entries": "7"},
			"sluice.layer.limit": {all + " sluice.layer=cache entries": "100"},
		}, r.states())
		require.NoError(t, rates.Pause("", 20*time.Second))
		require.Equal(t, "1", r.states()["sluice.rate_limit.paused"][all+web])
		time.Sleep(time.Hour)
		s := r.states()
		require.Equal(t, map[string]string{all: "0"}, s["sluice.executor.running"])
		require.Equal(t, map[string]string{all + global: "0", all + tenant: "0"}, s["sluice.in_flight"])
		require.Equal(t, map[string]string{all + tenant + " sluice.priority=3": "0"}, s["sluice.queue.length"])
		require.Equal(t, map[string]string{all + tenant + " sluice.priority=3": "0"}, s["sluice.queue.oldest"])
		stop()
		stop()
		require.Empty(t, r.states())
	})
}

// TestWatch_CountsWhatHappensOutsideCalls: a breaker's changes, and pauses, by the constraint and not by its keys.
func TestWatch_CountsWhatHappensOutsideCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{})
		breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Scope: sluice.ByTenant, Failures: 1, Cooldown: time.Minute}))
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "web", Rates: []sluice.Rate{{N: 10, Per: time.Second}}, Scope: sluice.ByTenant, Upstream: true}))
		e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{breaker, rates}})
		r.tool(e, sluice.Spec{Name: "search"}, func(ctx context.Context, in string) (string, error) {
			if in == "429" {
				sluice.ReportThrottle(ctx, time.Second)
				return "", nil
			}
			return "", errors.New("no")
		})
		for i := range 3 {
			ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: fmt.Sprint(i)})
			require.Error(t, call(ctx, e, "", "search", "fail"))
		}
		ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: "9"})
		require.NoError(t, call(ctx, e, "", "search", "429"))
		synctest.Wait()
		m := r.collect()
		require.Equal(t, map[string]string{"sluice.breaker.from=closed sluice.breaker.to=open sluice.limiter=breaker": "3"}, points(t, m["sluice.breaker.transitions"]))
		require.Equal(t, map[string]string{"sluice.limiter=rate/web calls per second": "1"}, points(t, m["sluice.rate_limit.pauses"]))
	})
}

// TestWatch_ShowsWhatIsStalled: a limit that has released nothing for a minute while calls wait.
func TestWatch_ShowsWhatIsStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{})
		e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{
			sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}})),
		}})
		r.tool(e, sluice.Spec{Name: "slow"}, func(context.Context, string) (string, error) {
			time.Sleep(3 * time.Minute)
			return "", nil
		})
		_, err := r.obs.Watch("", e)
		require.NoError(t, err)
		go call(t.Context(), e, "", "slow", "")
		synctest.Wait()
		go call(t.Context(), e, "", "slow", "")
		time.Sleep(2 * time.Minute)
		m := r.collect()
		require.Equal(t, map[string]string{"sluice.limiter=concurrency global": "1"}, points(t, m["sluice.limit.stalled"]))
		require.Equal(t, map[string]string{"sluice.limiter=concurrency global": "1"}, points(t, m["sluice.limit.stalls"]))
		time.Sleep(5 * time.Minute)
		require.Equal(t, map[string]string{"sluice.limiter=concurrency global": "0"}, r.states()["sluice.limit.stalled"])
	})
}

// TestWatch_NamesAreApart: two executors have a name each, and a name is free again once it is stopped.
func TestWatch_NamesAreApart(t *testing.T) {
	r := newRig(t, sluiceotel.Config{})
	a, b := r.exec(sluice.Config{}), r.exec(sluice.Config{})
	_, err := r.obs.Watch("a", nil)
	require.EqualError(t, err, "sluiceotel: Watch: the Executor is nil: must not be")
	stop, err := r.obs.Watch("a", a)
	require.NoError(t, err)
	_, err = r.obs.Watch("a", b)
	require.EqualError(t, err, `sluiceotel: Watch: "a" is watched already: must be another name, or the first must be stopped`)
	stopB, err := r.obs.Watch("", b)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"sluice.executor=a": "0", "": "0"}, r.states()["sluice.executor.running"])
	stop()
	require.Equal(t, map[string]string{"": "0"}, r.states()["sluice.executor.running"])
	stop, err = r.obs.Watch("a", b)
	require.NoError(t, err)
	require.Len(t, r.states()["sluice.executor.running"], 2)
	stop()
	stopB()
}

// TestWatch_SeveralReaders: each collects when it likes, and sees the same.
func TestWatch_SeveralReaders(t *testing.T) {
	readers := []*metric.ManualReader{metric.NewManualReader(), metric.NewManualReader(), metric.NewManualReader()}
	var options []metric.Option
	for _, x := range readers {
		options = append(options, metric.WithReader(x))
	}
	obs, err := sluiceotel.New(sluiceotel.Config{MeterProvider: metric.NewMeterProvider(options...)})
	require.NoError(t, err)
	slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
	e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{obs, slots}, Sink: obs}))
	defer e.Close(context.Background())
	sluice.Must(sluice.Register(e.Registry(), sluice.Spec{Name: "search"}, nothing))
	stop, err := obs.Watch("", e)
	require.NoError(t, err)
	defer stop()
	require.NoError(t, call(t.Context(), e, "", "search", ""))
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			var rm metricdata.ResourceMetrics
			if err := readers[i%len(readers)].Collect(t.Context(), &rm); err != nil {
				t.Error(err)
			}
			for _, m := range rm.ScopeMetrics[0].Metrics {
				if m.Name == "sluice.limit" {
					if got := points(t, m)["sluice.limiter=concurrency global"]; got != "1" {
						t.Errorf("the limit is %q", got)
					}
				}
			}
		})
		wg.Go(func() { _ = call(t.Context(), e, "", "search", "") })
	}
	wg.Wait()
}

// TestMetrics_HaveUnitsAndDescriptions: as the conventions want them.
func TestMetrics_HaveUnitsAndDescriptions(t *testing.T) {
	units := map[string]string{
		"gen_ai.execute_tool.duration": "s", "sluice.queue.wait": "s", "sluice.queue.oldest": "s", "sluice.rejections": "{call}",
		"sluice.retries": "{attempt}", "sluice.abandoned": "{attempt}", "sluice.breaker.transitions": "{transition}", "sluice.rate_limit.pauses": "{pause}",
		"sluice.executor.running": "{call}", "sluice.executor.queued": "{call}", "sluice.executor.abandoned": "{call}", "sluice.queue.length": "{call}",
		"sluice.events.dropped": "{event}", "sluice.in_flight": "1", "sluice.limit": "1", "sluice.limit.keys": "{key}", "sluice.limit.stalled": "{key}",
		"sluice.rate_limit.tokens": "1", "sluice.rate_limit.paused": "{key}", "sluice.breaker.state": "{key}", "sluice.layer.used": "1", "sluice.layer.limit": "1",
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceotel.Config{})
		e := everything(t, r)
		_, err := r.obs.Watch("", e)
		require.NoError(t, err)
		time.AfterFunc(time.Second, func() { r.collect() }) // when some wait
		runEverything(t, e, 1)
		got := map[string]string{}
		for name, m := range r.collect() {
			got[name] = m.Unit
			require.NotEmpty(t, m.Description, name)
			if s, ok := m.Data.(metricdata.Sum[int64]); ok {
				require.Equal(t, metricdata.CumulativeTemporality, s.Temporality)
			}
		}
		require.Equal(t, units, got)
	})
}
