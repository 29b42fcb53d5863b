package sluiceprom_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	sluiceprom "github.com/sluice-go/sluice/contrib/prometheus"
	"github.com/sluice-go/sluice/resilience"
)

// cache is an interceptor that says how full it is.
type cache struct{}

func (cache) Wrap(_ sluice.Spec, next sluice.Handler) sluice.Handler { return next }
func (cache) Inspect() []sluice.GateState {
	return []sluice.GateState{{Name: "cache entries", Limit: 100, Used: 7}, {Name: "cache entries", Limit: 50, Used: 1}}
}

// TestState: every number of a snapshot that is one, and zeros when all is over.
func TestState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceprom.Config{})
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "web", Rates: []sluice.Rate{{N: 10, Per: time.Hour}}, Scope: sluice.ForTool("search")}))
		e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{
			cache{},
			sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{})),
			sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 4}, {Max: 2, Scope: sluice.ByTenant}}})),
			rates,
			sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Scope: sluice.ByTool, Failures: 1, Cooldown: time.Minute})),
		}})
		r.tool(e, "search", func(context.Context, string) (string, error) {
			time.Sleep(10 * time.Second)
			return "", nil
		})
		r.tool(e, "broken", func(context.Context, string) (string, error) { return "", errors.New("no") })
		require.Error(t, call(sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: "0"}), e, "broken", ""))
		for i := range 6 { // two tenants of three calls
			ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: fmt.Sprint(i % 2), Priority: 3})
			go call(ctx, e, "search", "")
			synctest.Wait()
		}
		time.Sleep(3 * time.Second)
		want := map[string]string{
			`sluice_executor_running`:                                                     "4",
			`sluice_executor_queued`:                                                      "2",
			`sluice_executor_abandoned`:                                                   "0",
			`sluice_events_dropped_total`:                                                 "0",
			`sluice_in_flight{key="",limiter="concurrency global"}`:                       "4",
			`sluice_in_flight{key="0",limiter="concurrency per tenant"}`:                  "2",
			`sluice_in_flight{key="1",limiter="concurrency per tenant"}`:                  "2",
			`sluice_limit{key="",limiter="concurrency global"}`:                           "4",
			`sluice_limit{key="0",limiter="concurrency per tenant"}`:                      "2",
			`sluice_limit{key="1",limiter="concurrency per tenant"}`:                      "2",
			`sluice_limit{key="",limiter="rate/web calls per hour"}`:                      "10",
			`sluice_rate_limit_tokens{key="",limiter="rate/web calls per hour"}`:          "6",
			`sluice_limit_stalled{key="",limiter="concurrency global"}`:                   "0",
			`sluice_limit_stalled{key="0",limiter="concurrency per tenant"}`:              "0",
			`sluice_limit_stalled{key="1",limiter="concurrency per tenant"}`:              "0",
			`sluice_paused{key="",limiter="concurrency global"}`:                          "0",
			`sluice_paused{key="0",limiter="concurrency per tenant"}`:                     "0",
			`sluice_paused{key="1",limiter="concurrency per tenant"}`:                     "0",
			`sluice_paused{key="",limiter="rate/web calls per hour"}`:                     "0",
			`sluice_paused{key="broken",limiter="breaker"}`:                               "0",
			`sluice_paused{key="search",limiter="breaker"}`:                               "0",
			`sluice_breaker_state{breaker="breaker",key="broken",state="closed"}`:         "0",
			`sluice_breaker_state{breaker="breaker",key="broken",state="half-open"}`:      "0",
			`sluice_breaker_state{breaker="breaker",key="broken",state="open"}`:           "1",
			`sluice_breaker_state{breaker="breaker",key="search",state="closed"}`:         "1",
			`sluice_breaker_state{breaker="breaker",key="search",state="half-open"}`:      "0",
			`sluice_breaker_state{breaker="breaker",key="search",state="open"}`:           "0",
			`sluice_queue_length{limiter="concurrency per tenant",priority="3"}`:          "2",
			`sluice_queue_oldest_seconds{limiter="concurrency per tenant",priority="3"}`:  "3",
			`sluice_layer_used{layer="cache entries"}`:                                    "8",
			`sluice_layer_limit{layer="cache entries"}`:                                   "150",
			`sluice_calls_total{outcome="failed",reason="tool_error",tool="broken"}`:      "1",
			`sluice_call_duration_seconds_count{outcome="failed",tool="broken"}`:          "1",
			`sluice_call_duration_seconds_sum{outcome="failed",tool="broken"}`:            "0",
			`sluice_breaker_transitions_total{breaker="breaker",from="closed",to="open"}`: "1",
		}
		require.Equal(t, want, r.scrape())
		require.NoError(t, rates.Pause("", 20*time.Second))
		s := r.scrape()
		require.Equal(t, "1", s[`sluice_paused{key="",limiter="rate/web calls per hour"}`])
		require.Equal(t, "1", s[`sluice_rate_limit_pauses_total{limiter="rate/web calls per hour"}`])
		time.Sleep(time.Hour)
		s = r.scrape()
		require.Equal(t, "0", s[`sluice_executor_running`])
		require.Equal(t, map[string]string{
			`sluice_queue_length{limiter="concurrency per tenant",priority="3"}`:         "0",
			`sluice_queue_oldest_seconds{limiter="concurrency per tenant",priority="3"}`: "0",
		}, only(s, "sluice_queue_length", "sluice_queue_oldest"))
	})
}

// coded is a tool's error with a code of its own.
type coded struct{ code string }

func (c coded) Error() string { return "the text of a tool" }
func (c coded) Code() string  { return c.code }

// TestCounts: what counts a call, in each way in which it can end.
func TestCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceprom.Config{})
		layer := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				if tool.Name == "denied" {
					return sluice.Result{}, errors.New("not on Sundays")
				}
				return next(ctx, c)
			}
		})
		e := r.exec(sluice.Config{Timeout: time.Second, Interceptors: []sluice.Interceptor{
			sluice.Must(resilience.NewRetry(resilience.RetryConfig{Attempts: 2})), layer,
			sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: "slot", Limits: []sluice.Limit{{Max: 1, Scope: sluice.ForTool("slow")}}})),
			sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "web", Refuse: true, Rates: []sluice.Rate{{N: 1, Per: time.Hour}}, Scope: sluice.ForTool("rare")})),
		}})
		for name, run := range map[string]func(context.Context, string) (string, error){
			"search": nothing, "denied": nothing, "rare": nothing,
			"bug":   func(context.Context, string) (string, error) { panic("secret sk-123") },
			"coded": func(context.Context, string) (string, error) { return "", coded{"no_such_page"} },
			"slow": func(context.Context, string) (string, error) {
				time.Sleep(500 * time.Millisecond)
				return "", nil
			},
			"deaf": func(context.Context, string) (string, error) {
				time.Sleep(5 * time.Second)
				return "", nil
			},
		} {
			r.tool(e, name, run)
		}
		require.NoError(t, call(t.Context(), e, "search", ""))
		require.Error(t, call(t.Context(), e, "denied", ""))
		require.NoError(t, call(t.Context(), e, "rare", ""))
		require.ErrorIs(t, call(t.Context(), e, "rare", ""), sluice.ErrRateLimited)
		require.Error(t, call(t.Context(), e, "bug", ""))
		require.Error(t, call(t.Context(), e, "coded", ""))
		require.ErrorIs(t, call(t.Context(), e, "deaf", ""), sluice.ErrTimeout)
		require.ErrorIs(t, call(t.Context(), e, "serach", ""), sluice.ErrUnknownTool)
		_, err := e.Invoke(t.Context(), sluice.Request{Tool: "search", Args: []byte("{")})
		require.ErrorIs(t, err, sluice.ErrInvalidArguments)
		go call(t.Context(), e, "slow", "")
		synctest.Wait()
		time.Sleep(100 * time.Millisecond)
		require.NoError(t, call(t.Context(), e, "slow", ""))
		time.Sleep(time.Minute)
		require.Equal(t, map[string]string{
			`sluice_calls_total{outcome="completed",reason="",tool="search"}`:                    "1",
			`sluice_calls_total{outcome="denied",reason="denied",tool="denied"}`:                 "1",
			`sluice_calls_total{outcome="completed",reason="",tool="rare"}`:                      "1",
			`sluice_calls_total{outcome="failed",reason="rate_limited",tool="rare"}`:             "1",
			`sluice_calls_total{outcome="failed",reason="panic",tool="bug"}`:                     "1",
			`sluice_calls_total{outcome="failed",reason="no_such_page",tool="coded"}`:            "1",
			`sluice_calls_total{outcome="failed",reason="timeout",tool="deaf"}`:                  "1",
			`sluice_calls_total{outcome="failed",reason="unknown_tool",tool="_other"}`:           "1",
			`sluice_calls_total{outcome="failed",reason="invalid_arguments",tool="search"}`:      "1",
			`sluice_calls_total{outcome="completed",reason="",tool="slow"}`:                      "2",
			`sluice_rejections_total{limiter="",reason="denied"}`:                                "1",
			`sluice_rejections_total{limiter="",reason="invalid_arguments"}`:                     "1",
			`sluice_rejections_total{limiter="",reason="unknown_tool"}`:                          "1",
			`sluice_rejections_total{limiter="rate/web calls per hour",reason="rate_limited"}`:   "1",
			`sluice_panics_total{tool="bug"}`:                                                    "1",
			`sluice_abandoned_total{tool="deaf"}`:                                                "1",
			`sluice_queue_wait_seconds_count{limiter="concurrency/slot tool slow",priority="5"}`: "1",
			`sluice_queue_wait_seconds_sum{limiter="concurrency/slot tool slow",priority="5"}`:   "0.4",
		}, only(r.scrape(), "sluice_calls_", "sluice_rejections", "sluice_panics", "sluice_abandoned_total", "sluice_queue_wait", "sluice_retries"))
		s := r.scrape()
		require.Equal(t, "1.4", s[`sluice_call_duration_seconds_sum{outcome="completed",tool="slow"}`])
		require.Equal(t, "2", s[`sluice_call_duration_seconds_count{outcome="completed",tool="slow"}`])
		require.Zero(t, r.col.Waiting())
		for k := range s {
			require.NotContains(t, k, "secret")
		}
	})
}

// TestRetriesAndStalls: what is told between a call's beginning and its end, and outside calls.
func TestRetriesAndStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceprom.Config{})
		e := r.exec(sluice.Config{Timeout: time.Hour, MaxWait: time.Hour, Interceptors: []sluice.Interceptor{
			sluice.Must(resilience.NewRetry(resilience.RetryConfig{
				If: func(_ sluice.Spec, _ sluice.Attempt, _ sluice.Result, err error) bool { return err != nil },
			})),
			sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}})),
		}})
		tries := 0
		r.tool(e, "flaky", func(context.Context, string) (string, error) {
			if tries++; tries < 3 {
				return "", coded{"flaky"}
			}
			return "", nil
		})
		r.tool(e, "slow", func(context.Context, string) (string, error) {
			time.Sleep(3 * time.Minute)
			return "", nil
		})
		require.NoError(t, call(t.Context(), e, "flaky", ""))
		go call(t.Context(), e, "slow", "")
		synctest.Wait()
		go call(t.Context(), e, "slow", "")
		time.Sleep(2 * time.Minute)
		s := r.scrape()
		require.Equal(t, "1", s[`sluice_limit_stalls_total{limiter="concurrency global"}`])
		require.Equal(t, "1", s[`sluice_limit_stalled{key="",limiter="concurrency global"}`])
		require.Equal(t, map[string]string{
			`sluice_retries_total{reason="flaky",tool="flaky"}`:              "2",
			`sluice_calls_total{outcome="completed",reason="",tool="flaky"}`: "1",
		}, only(s, "sluice_retries", "sluice_calls"))
		time.Sleep(time.Hour)
	})
}

// TestWatch_OneExecutor: and two collectors in one registry are told apart as Prometheus has it.
func TestWatch_OneExecutor(t *testing.T) {
	r := newRig(t, sluiceprom.Config{})
	require.EqualError(t, r.col.Watch(nil), "sluiceprom: Watch: the Executor is nil: must not be")
	e := r.exec(sluice.Config{})
	require.NoError(t, r.col.Watch(e), "again")
	require.ErrorContains(t, r.col.Watch(r.unwatched(sluice.Config{})), "another Executor is watched: each needs a collector of its own")

	reg := prometheus.NewPedanticRegistry()
	for _, name := range []string{"a", "b"} {
		col, err := sluiceprom.NewCollector(sluiceprom.Config{})
		require.NoError(t, err)
		require.NoError(t, prometheus.WrapRegistererWith(prometheus.Labels{"executor": name}, reg).Register(col))
		x := r.unwatched(sluice.Config{Sink: col})
		require.NoError(t, col.Watch(x))
		r.tool(x, "search", nothing)
		require.NoError(t, call(t.Context(), x, "search", ""))
	}
	s := scrape(t, reg)
	for _, name := range []string{"a", "b"} {
		require.Equal(t, "1", s[fmt.Sprintf(`sluice_calls_total{executor=%q,outcome="completed",reason="",tool="search"}`, name)])
		require.Equal(t, "0", s[fmt.Sprintf(`sluice_executor_running{executor=%q}`, name)])
	}
}

// TestConfig names the wrong field.
func TestConfig(t *testing.T) {
	for want, c := range map[string]sluiceprom.Config{
		"sluiceprom: Config.MaxTools is -1: must be from 1 to 1000000, or zero for 1000":                 {MaxTools: -1},
		"sluiceprom: Config.MaxTools is 1000001: must be from 1 to 1000000, or zero for 1000":            {MaxTools: 1_000_001},
		"sluiceprom: Config.MaxKeys is -2: must be from 1 to 1000000, zero for 100, or -1 for none":      {MaxKeys: -2},
		"sluiceprom: Config.MaxKeys is 1000001: must be from 1 to 1000000, zero for 100, or -1 for none": {MaxKeys: 1_000_001},
	} {
		_, err := sluiceprom.NewCollector(c)
		require.EqualError(t, err, want)
	}
}

// TestBuckets_AreTheConventions: durations by the GenAI conventions, in seconds.
func TestBuckets_AreTheConventions(t *testing.T) {
	r := newRig(t, sluiceprom.Config{})
	e := r.exec(sluice.Config{})
	r.tool(e, "search", nothing)
	require.NoError(t, call(t.Context(), e, "search", ""))
	all, err := r.reg.Gather()
	require.NoError(t, err)
	var got []float64
	for _, f := range all {
		if f.GetName() == "sluice_call_duration_seconds" {
			for _, b := range f.GetMetric()[0].GetHistogram().GetBucket() {
				got = append(got, b.GetUpperBound())
			}
		}
		require.NotEmpty(t, f.GetHelp())
		require.True(t, strings.HasPrefix(f.GetName(), "sluice_"))
	}
	require.Equal(t, []float64{.01, .02, .04, .08, .16, .32, .64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92}, got)
}
