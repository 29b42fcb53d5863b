package sluiceprom_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	sluiceprom "github.com/sluice-go/sluice/contrib/prometheus"
)

// TestTrap_MadeUpNamesAddNoSeries: 10,000 names that a model made up are one series of each metric, whatever else is
// wrong with their calls; and so are reasons, constraints and keys that foreign code makes.
func TestTrap_MadeUpNamesAddNoSeries(t *testing.T) {
	const made = 10_000
	r := newRig(t, sluiceprom.Config{})
	layer := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			if c.ID == "refused" {
				return sluice.Result{}, &sluice.Error{Reason: sluice.ErrDenied, By: c.Input.(string)}
			}
			return next(ctx, c)
		}
	})
	slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Scope: sluice.ByTenant, MaxKeys: 2 * made}}}))
	e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{layer, slots}})
	r.tool(e, "search", func(_ context.Context, in string) (string, error) {
		if in == "" {
			return "", nil
		}
		return "", coded{in}
	})
	refused := func(in string) error {
		_, err := e.Invoke(t.Context(), sluice.Request{ID: "refused", Tool: "search", Args: []byte(strconv.Quote(in))})
		return err
	}
	name := func(i int) string { return fmt.Sprintf("made_up_%d", i) }
	require.NoError(t, call(t.Context(), e, "search", ""))
	require.Error(t, call(t.Context(), e, "made_up", ""))
	before := len(r.scrape())
	for i := range made {
		require.ErrorIs(t, call(t.Context(), e, name(i), ""), sluice.ErrUnknownTool)
	}
	require.Equal(t, before, len(r.scrape()))
	for i := range made / 5 {
		ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: name(i), UserID: name(i), RunID: name(i), SessionID: name(i)})
		require.NoError(t, call(ctx, e, "search", ""))
		require.Error(t, call(nil, e, name(i), ""))
		require.Error(t, call(t.Context(), e, "search", name(i)), "a tool that makes up codes")
		require.Error(t, refused(name(i)), "a layer that makes up constraints")
	}
	require.NoError(t, e.Close(t.Context()))
	for i := range made / 5 {
		require.ErrorIs(t, call(t.Context(), e, name(i), ""), sluice.ErrClosed)
	}
	count := make(map[string]int)
	s := r.scrape()
	require.Equal(t, "2000", s[`sluice_calls_total{outcome="failed",reason="closed",tool="_other"}`])
	for k := range s {
		require.NotContains(t, k, `tool="made`)
		metric, _, _ := strings.Cut(k, "{")
		count[metric]++
	}
	require.Equal(t, map[string]int{
		"sluice_calls_total":          91,   // of search completed, denied, with 85 codes and _other; of _other unknown, invalid and closed
		"sluice_rejections_total":     1003, // of 1,000 constraints, and of none
		"sluice_in_flight":            102,  // of 100 tenants, and of the others
		"sluice_limit":                102,
		"sluice_limit_stalled":        102,
		"sluice_paused":               102,
		"sluice_events_dropped_total": 1, "sluice_executor_abandoned": 1, "sluice_executor_queued": 1, "sluice_executor_running": 1,
		"sluice_call_duration_seconds_count": 4, "sluice_call_duration_seconds_sum": 4,
	}, count)
}

// TestTrap_LimitZero: a tool that was called and has no limit of its own is none.
func TestTrap_LimitZero(t *testing.T) {
	r := newRig(t, sluiceprom.Config{})
	e := r.exec(sluice.Config{})
	_, err := sluice.Register(e.Registry(), sluice.Spec{Name: "own", Policy: sluice.Policy{Concurrency: 3}}, nothing)
	require.NoError(t, err)
	r.tool(e, "none", nothing)
	for _, tool := range []string{"own", "none"} {
		require.NoError(t, call(t.Context(), e, tool, ""))
	}
	zero := false
	for _, g := range e.Snapshot().Gates {
		zero = zero || g.Kind == "concurrency" && g.Limit == 0
	}
	t.Logf("the snapshot has a limit of zero: %v", zero)
	require.Equal(t, map[string]string{`sluice_limit{key="",limiter="tool/own concurrency"}`: "3"}, only(r.scrape(), "sluice_limit{"))
}

// TestTrap_LanesAreNotUnique: without a scheduler, and with several tenants, what waits for a limit is one series at
// each priority.
func TestTrap_LanesAreNotUnique(t *testing.T) {
	for _, scheduler := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, sluiceprom.Config{})
			gates := []sluice.Interceptor{sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))}
			if scheduler {
				gates = append(gates, sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{})))
			}
			e := r.exec(sluice.Config{Interceptors: gates})
			var wg sync.WaitGroup
			for i := range 12 {
				r.tool(e, fmt.Sprint("tool", i), func(context.Context, string) (string, error) {
					time.Sleep(time.Second)
					return "", nil
				})
				ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: fmt.Sprint("tenant", i%3), Priority: sluice.Priority(4 + i%2)})
				wg.Go(func() { call(ctx, e, fmt.Sprint("tool", i), "") })
				synctest.Wait()
			}
			require.Equal(t, map[string]string{
				`sluice_queue_length{limiter="concurrency global",priority="4"}`: "5",
				`sluice_queue_length{limiter="concurrency global",priority="5"}`: "6",
			}, only(r.scrape(), "sluice_queue_length"))
			wg.Wait()
			require.Equal(t, map[string]string{
				`sluice_queue_length{limiter="concurrency global",priority="4"}`: "0",
				`sluice_queue_length{limiter="concurrency global",priority="5"}`: "0",
			}, only(r.scrape(), "sluice_queue_length"))
		})
	}
}

// TestTrap_ManyKeys: the first MaxKeys are series, and stay; all others are one that is their sum.
func TestTrap_ManyKeys(t *testing.T) {
	for maxKeys, want := range map[int]map[string]string{
		2: {
			`sluice_in_flight{key="0",limiter="concurrency"}`: "1", `sluice_in_flight{key="1",limiter="concurrency"}`: "1",
			`sluice_in_flight{key="_other",limiter="concurrency"}`: "6",
		},
		-1: {`sluice_in_flight{key="_other",limiter="concurrency"}`: "8"},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, sluiceprom.Config{MaxKeys: maxKeys})
			e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{
				sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Scope: sluice.ByTenant}}})),
				sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Scope: sluice.ByTenant})),
			}})
			r.tool(e, "search", func(context.Context, string) (string, error) {
				time.Sleep(time.Second)
				return "", nil
			})
			for i := range 8 {
				go call(sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: fmt.Sprint(i)}), e, "search", "")
				synctest.Wait()
				if i < 2 {
					r.scrape()
				}
			}
			s := r.scrape()
			require.Equal(t, want, replaced(only(s, "sluice_in_flight"), `"concurrency per tenant"`, `"concurrency"`))
			others := strconv.Itoa(8 - max(maxKeys, 0))
			require.Equal(t, others, s[`sluice_limit{key="_other",limiter="concurrency per tenant"}`])
			require.Equal(t, others, s[`sluice_breaker_state{breaker="breaker",key="_other",state="closed"}`])
			require.Equal(t, "0", s[`sluice_breaker_state{breaker="breaker",key="_other",state="open"}`])
			require.Equal(t, want, replaced(only(r.scrape(), "sluice_in_flight"), `"concurrency per tenant"`, `"concurrency"`), "the same again")
			time.Sleep(time.Minute)
		})
	}
}

func replaced(m map[string]string, from, to string) map[string]string {
	out := make(map[string]string)
	for k, v := range m {
		out[strings.ReplaceAll(k, from, to)] = v
	}
	return out
}

// TestTrap_LabelsThatPrometheusRefuses: a key that is no UTF-8, one that is too long, two that are then the same, and
// one that is named as the rest is, do not fail a scrape.
func TestTrap_LabelsThatPrometheusRefuses(t *testing.T) {
	r := newRig(t, sluiceprom.Config{MaxKeys: 4})
	e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{
		sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Scope: sluice.ByTenant}}})),
		sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				if c.ID == "refused" {
					return sluice.Result{}, &sluice.Error{Reason: sluice.ErrDenied, By: "b\xffy"}
				}
				return next(ctx, c)
			}
		}),
	}})
	r.tool(e, "search", nothing)
	long := strings.Repeat("é", 150)
	for _, tenant := range []string{"a\xff", "a\xfe", long, "_other", "b", "c"} {
		require.NoError(t, call(sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: tenant}), e, "search", ""))
		r.scrape()
	}
	_, err := e.Invoke(t.Context(), sluice.Request{ID: "refused", Tool: "search", Args: []byte(`""`)})
	require.ErrorIs(t, err, sluice.ErrDenied)
	s := r.scrape()
	require.Equal(t, "1", s["sluice_rejections_total{limiter=\"b\uFFFDy\",reason=\"denied\"}"])
	require.Equal(t, map[string]string{
		`sluice_limit{key="",limiter="concurrency per tenant"}`:                   "1", // without a tenant
		"sluice_limit{key=\"a\uFFFD\",limiter=\"concurrency per tenant\"}":        "2",
		`sluice_limit{key="` + long[:200] + `",limiter="concurrency per tenant"}`: "1",
		`sluice_limit{key="_other",limiter="concurrency per tenant"}`:             "3",
	}, only(s, "sluice_limit{"))
}

// TestTrap_TwoKindsBeyondTheBound: limits and rates that have no label left share one, and what they say alike is
// added up.
func TestTrap_TwoKindsBeyondTheBound(t *testing.T) {
	r := newRig(t, sluiceprom.Config{})
	e := r.exec(sluice.Config{})
	for i := range 1000 {
		require.NoError(t, r.col.Emit(t.Context(), &sluice.Event{Kind: sluice.LimitStalled, By: fmt.Sprint("made up ", i)}))
	}
	for _, tool := range []string{"search", "fetch"} { // each with a limit and a rate
		_, err := sluice.Register(e.Registry(), sluice.Spec{Name: tool, Policy: sluice.Policy{
			Concurrency: 1, Rates: []sluice.Rate{{N: 10, Per: time.Hour}},
		}}, nothing)
		require.NoError(t, err)
		require.NoError(t, call(t.Context(), e, tool, ""))
	}
	require.Equal(t, map[string]string{
		`sluice_limit{key="",limiter="_other"}`: "22", `sluice_rate_limit_tokens{key="",limiter="_other"}`: "18",
	}, only(r.scrape(), "sluice_limit{", "sluice_rate_limit_tokens"))
}

// TestTrap_CallsOfOneIDAtOnce: calls that have one id are counted each for itself, with its own wait.
func TestTrap_CallsOfOneIDAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluiceprom.Config{})
		e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{
			sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}})),
		}})
		r.tool(e, "search", func(context.Context, string) (string, error) {
			time.Sleep(time.Second)
			return "", nil
		})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { _, _ = e.Invoke(t.Context(), sluice.Request{ID: "call_0", Tool: "search", Args: []byte(`""`)}) })
		}
		wg.Wait()
		s := r.scrape()
		require.Equal(t, "4", s[`sluice_calls_total{outcome="completed",reason="",tool="search"}`])
		require.Equal(t, "3", s[`sluice_queue_wait_seconds_count{limiter="concurrency global",priority="5"}`])
		require.Equal(t, "6", s[`sluice_queue_wait_seconds_sum{limiter="concurrency global",priority="5"}`])
		require.Equal(t, "10", s[`sluice_call_duration_seconds_sum{outcome="completed",tool="search"}`])
	})
}

// TestUnwatched_LearnsToolsFromTheirCalls: a sink alone does not know which tools there are, and takes no caller's word.
func TestUnwatched_LearnsToolsFromTheirCalls(t *testing.T) {
	r := newRig(t, sluiceprom.Config{MaxTools: 1})
	e := r.unwatched(sluice.Config{})
	r.tool(e, "search", nothing)
	r.tool(e, "fetch", nothing)
	_, err := e.Invoke(t.Context(), sluice.Request{Tool: "search", Args: []byte("{")})
	require.Error(t, err)
	for _, tool := range []string{"search", "fetch", "made_up"} {
		_ = call(t.Context(), e, tool, "")
	}
	require.Equal(t, map[string]string{
		`sluice_calls_total{outcome="failed",reason="invalid_arguments",tool="_other"}`: "1",
		`sluice_calls_total{outcome="completed",reason="",tool="search"}`:               "1",
		`sluice_calls_total{outcome="completed",reason="",tool="_other"}`:               "1",
		`sluice_calls_total{outcome="failed",reason="unknown_tool",tool="_other"}`:      "1",
	}, only(r.scrape(), "sluice_calls_total"))
}

// TestLoad: of 1,000 calls at once at a limit of 8, 8 run, all are answered and counted.
func TestLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls, limit = 1000, 8
		r := newRig(t, sluiceprom.Config{})
		e := r.exec(sluice.Config{MaxWait: time.Hour, Interceptors: []sluice.Interceptor{
			sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: limit}}})),
		}})
		var inside, peak atomic.Int64
		r.tool(e, "search", func(context.Context, string) (string, error) {
			n := inside.Add(1)
			defer inside.Add(-1)
			for was := peak.Load(); n > was && !peak.CompareAndSwap(was, n); was = peak.Load() {
			}
			time.Sleep(time.Second)
			return "", nil
		})
		var wg sync.WaitGroup
		for range calls {
			wg.Go(func() {
				if err := call(t.Context(), e, "search", ""); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		s := r.scrape()
		require.Equal(t, "8", s[`sluice_in_flight{key="",limiter="concurrency global"}`])
		require.Equal(t, "992", s[`sluice_queue_length{limiter="concurrency global",priority="5"}`])
		wg.Wait()
		require.EqualValues(t, limit, peak.Load())
		s = r.scrape()
		require.Equal(t, "1000", s[`sluice_calls_total{outcome="completed",reason="",tool="search"}`])
		require.Equal(t, "992", s[`sluice_queue_wait_seconds_count{limiter="concurrency global",priority="5"}`])
		require.Zero(t, r.col.Waiting())
	})
}

// TestStorm: whatever calls, scrapes and changes of tools meet, each scrape is whole, and what is counted is what
// callers were told.
func TestStorm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := newRig(t, sluiceprom.Config{MaxTools: 5, MaxKeys: 3})
	e := r.exec(sluice.Config{Interceptors: []sluice.Interceptor{
		sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 4})),
		sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}, {Max: 1, Scope: sluice.ByTenant}}})),
		sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 3, Cooldown: time.Millisecond})),
	}})
	for i := range 7 {
		r.tool(e, fmt.Sprint("tool", i), func(_ context.Context, in string) (string, error) {
			switch in {
			case "fail":
				return "", coded{"no_such_page"}
			case "panic":
				panic("boom")
			}
			return "", nil
		})
	}
	var told sync.Map // reason → *atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		rnd := rand.New(rand.NewPCG(seed, uint64(w)))
		wg.Go(func() {
			for range 200 {
				ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: fmt.Sprint(rnd.IntN(6)), Priority: sluice.Priority(rnd.IntN(10))})
				ctx, cancel := context.WithCancel(ctx)
				if rnd.IntN(10) == 0 {
					cancel()
				}
				err := call(ctx, e, fmt.Sprint("tool", rnd.IntN(9)), []string{"", "", "fail", "panic"}[rnd.IntN(4)])
				cancel()
				n, _ := told.LoadOrStore(sluice.CodeOf(err), new(atomic.Int64))
				n.(*atomic.Int64).Add(1)
			}
		})
	}
	done := make(chan struct{})
	var scrapers sync.WaitGroup
	for range 2 {
		scrapers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					if _, err := r.reg.Gather(); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	close(done)
	scrapers.Wait()
	counted, tools := make(map[string]int64), make(map[string]bool)
	for k, v := range only(r.scrape(), "sluice_calls_total") {
		n, err := strconv.ParseInt(v, 10, 64)
		require.NoError(t, err)
		_, k, _ = strings.Cut(k, `reason="`)
		reason, k, _ := strings.Cut(k, `"`)
		counted[reason] += n
		tools[k] = true
	}
	want := make(map[string]int64)
	told.Range(func(k, v any) bool {
		want[k.(string)] = v.(*atomic.Int64).Load()
		return true
	})
	require.Equal(t, want, counted)
	require.Len(t, tools, 6)
	require.Zero(t, r.col.Waiting())
}

// awkward is an error whose own code panics.
type awkward struct{}

func (awkward) Error() string { return "awkward" }
func (awkward) Is(error) bool { panic("no") }

// TestTrap_ErrorsThatPanic: are counted as others are, and no event is lost.
func TestTrap_ErrorsThatPanic(t *testing.T) {
	r := newRig(t, sluiceprom.Config{})
	e := r.exec(sluice.Config{})
	r.tool(e, "search", func(context.Context, string) (string, error) { return "", awkward{} })
	require.Error(t, call(t.Context(), e, "search", ""))
	s := r.scrape()
	require.Equal(t, "1", s[`sluice_calls_total{outcome="failed",reason="tool_error",tool="search"}`])
	require.Equal(t, "0", s["sluice_events_dropped_total"])
}
