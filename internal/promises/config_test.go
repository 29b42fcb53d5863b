package promises_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mostSlots is what one limit may allow: less where an int has 32 bits.
const mostSlots = min(1<<40, math.MaxInt>>1+1)

// Promise 22: nonsense in any field of any configuration is an error that names the
// field, the value and what is allowed.
func TestPromise22_EveryFieldIsChecked(t *testing.T) {
	exec := func(c sluice.Config) func() error {
		return func() error { return errOf(sluice.NewExecutor(sluice.NewToolRegistry(), c)) }
	}
	conc := func(c sluice.ConcurrencyLimiterConfig) func() error {
		return func() error { return errOf(sluice.NewConcurrencyLimiter(c)) }
	}
	one := func(l sluice.Limit) func() error {
		return conc(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{l}})
	}
	quota := func(c sluice.RateLimiterConfig) func() error {
		return func() error { return errOf(sluice.NewRateLimiter(c)) }
	}
	rated := func(r ...sluice.Rate) func() error { return quota(sluice.RateLimiterConfig{Rates: r}) }
	sched := func(c sluice.PrioritySchedulerConfig) func() error {
		return func() error { return errOf(sluice.NewPriorityScheduler(c)) }
	}
	brk := func(c sluice.CircuitBreakerConfig) func() error {
		return func() error { return errOf(sluice.NewCircuitBreaker(c)) }
	}
	work := func(context.Context, any) (int, error) { return 0, nil }
	reg := func(s sluice.Spec) func() error {
		return func() error { return errOf(sluice.Register(sluice.NewToolRegistry(), s, work)) }
	}
	pol := func(p sluice.Policy) func() error { return reg(sluice.Spec{Name: "x", Policy: p}) }
	gates := func(list ...sluice.Interceptor) func() error { return exec(sluice.Config{Interceptors: list}) }
	own := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler { return next })
	twice := atMost(1)
	ok := []sluice.Rate{{N: 1}}
	const decade = 10 * 365 * 24 * time.Hour
	long := strings.Repeat("x", 129)
	for _, tc := range []struct {
		make func() error
		want string
	}{
		{func() error { return errOf(sluice.NewExecutor(nil, sluice.Config{})) }, "the ToolRegistry is nil: use NewToolRegistry"},
		{exec(sluice.Config{Timeout: -1}), "Config.Timeout is -1ns: must be zero or positive, up to 87600h0m0s"},
		{exec(sluice.Config{Timeout: decade + 1}), "Config.Timeout is 87600h0m0.000000001s: must be zero or positive, up to 87600h0m0s"},
		{exec(sluice.Config{MaxWait: math.MinInt64}), "Config.MaxWait is -2562047h47m16.854775808s: must be zero or positive, up to 87600h0m0s, or NoWait"},
		{exec(sluice.Config{MaxArgBytes: -1}), "Config.MaxArgBytes is -1: must be zero (4194304) or positive, up to 1073741824"},
		{exec(sluice.Config{MaxResultBytes: -5}), "Config.MaxResultBytes is -5: must be zero (16777216) or positive, up to 1073741824"},
		{exec(sluice.Config{MaxDepth: math.MinInt}), fmt.Sprintf("Config.MaxDepth is %d: must be zero (32) or positive, up to 1073741824", math.MinInt)},
		{exec(sluice.Config{MaxCallsPerRoot: math.MaxInt}), fmt.Sprintf("Config.MaxCallsPerRoot is %d: must be zero (10000) or positive, up to 1073741824", math.MaxInt)},

		{gates(nil), "Config.Interceptors[0] is nil: must not be"},
		{gates(own, (*sluice.ConcurrencyLimiter)(nil)), "Config.Interceptors[1] is nil: must not be"},
		{gates((*sluice.RateLimiter)(nil)), "Config.Interceptors[0] is nil: must not be"},
		{gates((*sluice.CircuitBreaker)(nil)), "Config.Interceptors[0] is nil: must not be"},
		{gates((*sluice.PriorityScheduler)(nil)), "Config.Interceptors[0] is nil: must not be"},
		{gates(sluice.InterceptorFunc(nil)), "Config.Interceptors[0] is nil: must not be"},
		{gates(&sluice.ConcurrencyLimiter{}), "Config.Interceptors[0] is a zero *sluice.ConcurrencyLimiter: must be made by its New function"},
		{gates(own, &sluice.RateLimiter{}), "Config.Interceptors[1] is a zero *sluice.RateLimiter: must be made by its New function"},
		{gates(&sluice.CircuitBreaker{}), "Config.Interceptors[0] is a zero *sluice.CircuitBreaker: must be made by its New function"},
		{gates(&sluice.PriorityScheduler{}), "Config.Interceptors[0] is a zero *sluice.PriorityScheduler: must be made by its New function"},
		{gates(twice, twice), "Config.Interceptors[1] (concurrency) is listed twice: must be listed once"},
		{gates(atMost(1), own, rates(ok...)), "Config.Interceptors[2] (rate) stands apart from the other gates: gates and the scheduler must be adjacent, they decide together"},
		{gates(scheduler(sluice.PrioritySchedulerConfig{}), own, atMost(1)), "Config.Interceptors[2] (concurrency) stands apart from the other gates: gates and the scheduler must be adjacent, they decide together"},
		{gates(scheduler(sluice.PrioritySchedulerConfig{}), scheduler(sluice.PrioritySchedulerConfig{})), "Config.Interceptors[1] is a second PriorityScheduler: there must be at most one, it orders one queue"},

		{conc(sluice.ConcurrencyLimiterConfig{}), "ConcurrencyLimiterConfig.Limits is empty: must have at least one limit"},
		{conc(sluice.ConcurrencyLimiterConfig{Name: long}), "ConcurrencyLimiterConfig.Name has 129 bytes: must have at most 128"},
		{conc(sluice.ConcurrencyLimiterConfig{Name: "a\nb"}), `ConcurrencyLimiterConfig.Name "a\nb" has a control character: must be printable`},
		{one(sluice.Limit{}), fmt.Sprintf("ConcurrencyLimiterConfig.Limits[0].Max is 0: must be from 1 to %d", mostSlots)},
		{one(sluice.Limit{Max: 5, Adaptive: &sluice.Adaptive{Max: 8}}), "ConcurrencyLimiterConfig.Limits[0].Max is 5 with Adaptive: must be zero, Adaptive.Max bounds it"},
		{one(sluice.Limit{Adaptive: &sluice.Adaptive{}}), "ConcurrencyLimiterConfig.Limits[0].Adaptive.Min is 1: must be from 1 to Max (0)"},
		{one(sluice.Limit{Adaptive: &sluice.Adaptive{Min: -1, Max: 8}}), "ConcurrencyLimiterConfig.Limits[0].Adaptive.Min is -1: must be from 1 to Max (8)"},
		{one(sluice.Limit{Adaptive: &sluice.Adaptive{Min: 9, Max: 8}}), "ConcurrencyLimiterConfig.Limits[0].Adaptive.Min is 9: must be from 1 to Max (8)"},
		{one(sluice.Limit{Adaptive: &sluice.Adaptive{Max: math.MaxInt}}), fmt.Sprintf("ConcurrencyLimiterConfig.Limits[0].Adaptive.Max is %d: must be at most %d", math.MaxInt, mostSlots)},
		{one(sluice.Limit{Max: -3}), fmt.Sprintf("ConcurrencyLimiterConfig.Limits[0].Max is -3: must be from 1 to %d", mostSlots)},
		{one(sluice.Limit{Max: math.MaxInt}), fmt.Sprintf("ConcurrencyLimiterConfig.Limits[0].Max is %d: must be from 1 to %d", math.MaxInt, mostSlots)},
		{one(sluice.Limit{Max: 1, MaxKeys: -1}), "ConcurrencyLimiterConfig.Limits[0].MaxKeys is -1: must be zero (10000) or positive"},
		{one(sluice.Limit{Max: 1, Unit: "\x1b[31m"}), `ConcurrencyLimiterConfig.Limits[0].Unit "\x1b[31m" has a control character: must be printable`},
		{one(sluice.Limit{Max: 1, Scope: sluice.ForTool()}), "ConcurrencyLimiterConfig.Limits[0].Scope names nothing: must name at least one"},
		{one(sluice.Limit{Max: 1, Scope: sluice.ForType("a", "")}), "ConcurrencyLimiterConfig.Limits[0].Scope has an empty name at 1: must not be empty"},
		{one(sluice.Limit{Max: 1, Scope: sluice.ForType("a", "b", "a")}), `ConcurrencyLimiterConfig.Limits[0].Scope names "a" twice: must name each once`},
		{one(sluice.Limit{Max: 1, Scope: sluice.ByKey("", func(sluice.Call) string { return "" })}), "ConcurrencyLimiterConfig.Limits[0].Scope is ByKey without a name: must have one"},
		{one(sluice.Limit{Max: 1, Scope: sluice.ByKey("host", nil)}), `ConcurrencyLimiterConfig.Limits[0].Scope is ByKey("host") with a nil function: must not be nil`},
		{one(sluice.Limit{Max: 1, Scope: sluice.ByKey("ho\rst", func(sluice.Call) string { return "" })}), `ConcurrencyLimiterConfig.Limits[0].Scope "ho\rst" has a control character: must be printable`},
		{one(sluice.Limit{Max: 1, Scope: sluice.ByKeys("", func(sluice.Call) []string { return nil })}), "ConcurrencyLimiterConfig.Limits[0].Scope is ByKeys without a name: must have one"},
		{one(sluice.Limit{Max: 1, Scope: sluice.ByKeys("file", nil)}), `ConcurrencyLimiterConfig.Limits[0].Scope is ByKeys("file") with a nil function: must not be nil`},
		{one(sluice.Limit{Max: 1, Ordered: true, Refuse: true}), "ConcurrencyLimiterConfig.Limits[0].Ordered is true with Refuse: must be false, nobody waits there who could be passed"},
		{one(sluice.Limit{Max: 1, Ordered: true, Semaphore: semaphore.NewWeighted(1)}), "ConcurrencyLimiterConfig.Limits[0].Ordered is true with Semaphore: must be false, other code keeps no order"},
		{quota(sluice.RateLimiterConfig{Rates: ok, Scope: sluice.ByKeys("file", func(sluice.Call) []string { return nil })}), `RateLimiterConfig.Scope is ByKeys("file"): must have one key for each call, only Limit.Scope may be ByKeys`},
		{brk(sluice.CircuitBreakerConfig{Scope: sluice.ByKeys("file", func(sluice.Call) []string { return nil })}), `CircuitBreakerConfig.Scope is ByKeys("file"): must have one key for each call, only Limit.Scope may be ByKeys`},
		{one(sluice.Limit{Max: 1, Scope: sluice.ForTool("a\x00b")}), `ConcurrencyLimiterConfig.Limits[0].Scope "a\x00b" has a control character: must be printable`},
		{conc(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}, {Max: 2, Scope: sluice.Global}}}), "ConcurrencyLimiterConfig.Limits[1] has the Scope and Unit of Limits[0]: must differ in one"},

		{quota(sluice.RateLimiterConfig{}), "RateLimiterConfig.Rates is empty: must have at least one rate, or Limiter"},
		{quota(sluice.RateLimiterConfig{Rates: ok, Limiter: rate.NewLimiter(1, 1)}), "RateLimiterConfig.Rates and Limiter are both set: must be one of them"},
		{quota(sluice.RateLimiterConfig{Scope: sluice.ByTenant, Limiter: rate.NewLimiter(1, 1)}), "RateLimiterConfig.Scope is per tenant with Limiter: must be Global, ForTool or ForType"},
		{quota(sluice.RateLimiterConfig{Rates: ok, Name: "a\u202eb"}), `RateLimiterConfig.Name "a\u202eb" has a control character: must be printable`},
		{quota(sluice.RateLimiterConfig{Rates: ok, Name: "a\u200bb"}), `RateLimiterConfig.Name "a\u200bb" has a control character: must be printable`},
		{quota(sluice.RateLimiterConfig{Rates: ok, Name: "a\u2028b"}), `RateLimiterConfig.Name "a\u2028b" has a control character: must be printable`},
		{quota(sluice.RateLimiterConfig{Rates: ok, Scope: sluice.ForTool("")}), "RateLimiterConfig.Scope has an empty name at 0: must not be empty"},
		{quota(sluice.RateLimiterConfig{Rates: ok, MaxKeys: -9}), "RateLimiterConfig.MaxKeys is -9: must be zero (10000) or positive"},
		{rated(sluice.Rate{}), "RateLimiterConfig.Rates[0].N is 0: must be at least 1"},
		{rated(sluice.Rate{N: -1}), "RateLimiterConfig.Rates[0].N is -1: must be at least 1"},
		{rated(sluice.Rate{N: 1}, sluice.Rate{N: 1, Per: -time.Second, Unit: "x"}), "RateLimiterConfig.Rates[1].Per is -1s: must be zero (one second) or positive"},
		{rated(sluice.Rate{N: 1, Burst: -2}), "RateLimiterConfig.Rates[0].Burst is -2: must be zero (N) or positive"},
		{rated(sluice.Rate{N: 1, Per: math.MaxInt64}), "RateLimiterConfig.Rates[0].N 1 per 9223372036854775807 ns with Burst 1 takes more than 36 years to refill: lower Burst or Per"},
		{rated(sluice.Rate{N: 1, Burst: math.MaxInt64}), "RateLimiterConfig.Rates[0].N 1 per 1000000000 ns with Burst 9223372036854775807 takes more than 36 years to refill: lower Burst or Per"},
		{rated(sluice.Rate{N: 1, Unit: "to\tkens"}), `RateLimiterConfig.Rates[0].Unit "to\tkens" has a control character: must be printable`},
		{rated(sluice.Rate{N: 1}, sluice.Rate{N: 2, Per: time.Second}), "RateLimiterConfig.Rates[1] has the Per and Unit of [0]: must differ in one"},

		{sched(sluice.PrioritySchedulerConfig{Name: "\x7f"}), `PrioritySchedulerConfig.Name "\x7f" has a control character: must be printable`},
		{sched(sluice.PrioritySchedulerConfig{Ageing: -1}), "PrioritySchedulerConfig.Ageing is -1: must be zero (8) or positive, up to 1048576"},
		{sched(sluice.PrioritySchedulerConfig{Ageing: math.MaxInt}), fmt.Sprintf("PrioritySchedulerConfig.Ageing is %d: must be zero (8) or positive, up to 1048576", math.MaxInt)},
		{sched(sluice.PrioritySchedulerConfig{MaxQueue: -1}), "PrioritySchedulerConfig.MaxQueue is -1: must be zero (1000) or positive, up to 1073741824"},
		{sched(sluice.PrioritySchedulerConfig{MaxPerTenant: -1}), "PrioritySchedulerConfig.MaxPerTenant is -1: must be zero (1000) or positive, up to 1073741824"},
		{sched(sluice.PrioritySchedulerConfig{TenantWeights: map[string]int{"a": 0}}), `PrioritySchedulerConfig.TenantWeights["a"] is 0: must be from 1 to 1048576`},
		{sched(sluice.PrioritySchedulerConfig{TenantWeights: map[string]int{"a": 1, "b": 1<<20 + 1}}), `PrioritySchedulerConfig.TenantWeights["b"] is 1048577: must be from 1 to 1048576`},

		{brk(sluice.CircuitBreakerConfig{Name: long}), "CircuitBreakerConfig.Name has 129 bytes: must have at most 128"},
		{brk(sluice.CircuitBreakerConfig{Scope: sluice.ByKey("k", nil)}), `CircuitBreakerConfig.Scope is ByKey("k") with a nil function: must not be nil`},
		{brk(sluice.CircuitBreakerConfig{Failures: -1}), "CircuitBreakerConfig.Failures is -1: must be zero or positive, up to 1048576"},
		{brk(sluice.CircuitBreakerConfig{Ratio: math.NaN()}), "CircuitBreakerConfig.Ratio is NaN: must be from 0 (0.5, or off with Failures) to 1"},
		{brk(sluice.CircuitBreakerConfig{Ratio: math.Inf(1)}), "CircuitBreakerConfig.Ratio is +Inf: must be from 0 (0.5, or off with Failures) to 1"},
		{brk(sluice.CircuitBreakerConfig{Ratio: -0.5}), "CircuitBreakerConfig.Ratio is -0.5: must be from 0 (0.5, or off with Failures) to 1"},
		{brk(sluice.CircuitBreakerConfig{Ratio: 1.01}), "CircuitBreakerConfig.Ratio is 1.01: must be from 0 (0.5, or off with Failures) to 1; 1.01 % is 0.0101"},
		{brk(sluice.CircuitBreakerConfig{MaxKeys: -1}), "CircuitBreakerConfig.MaxKeys is -1: must be zero (10000) or positive"},
		{brk(sluice.CircuitBreakerConfig{Window: -1}), "CircuitBreakerConfig.Window is -1ns: must be zero (30s) or positive, up to 87600h0m0s"},
		{brk(sluice.CircuitBreakerConfig{Cooldown: decade + 1}), "CircuitBreakerConfig.Cooldown is 87600h0m0.000000001s: must be zero (5s) or positive, up to 87600h0m0s"},
		{brk(sluice.CircuitBreakerConfig{Lease: -time.Minute}), "CircuitBreakerConfig.Lease is -1m0s: must be zero (1m0s) or positive, up to 87600h0m0s"},

		{func() error { return errOf(sluice.Register(nil, sluice.Spec{Name: "x"}, work)) }, "the ToolRegistry is nil: use NewToolRegistry"},
		{func() error {
			return errOf(sluice.Register[any, int](sluice.NewToolRegistry(), sluice.Spec{Name: "x"}, nil))
		}, `the function of tool "x" is nil: must not be`},
		{func() error { return errOf(sluice.Wrap(nil, sluice.Spec{Name: "x"}, work)) }, "the Executor is nil: use NewExecutor"},
		{func() error {
			return errOf(sluice.Replace(sluice.NewToolRegistry(), sluice.Spec{Name: "x"}, work))
		}, `tool "x" is not registered: use Register`},
		{reg(sluice.Spec{}), `Spec.Name "" has 0 bytes: must have 1 to 128`},
		{reg(sluice.Spec{Name: long}), `Spec.Name "` + long[:128] + `…" has 129 bytes: must have 1 to 128`},
		{reg(sluice.Spec{Name: "a b"}), `Spec.Name "a b" has ' ' at 1: must be of A-Z a-z 0-9 _ . -`},
		{reg(sluice.Spec{Name: "a\x00"}), `Spec.Name "a\x00" has '\x00' at 1: must be of A-Z a-z 0-9 _ . -`},
		{reg(sluice.Spec{Name: "x", Type: "a\nb"}), `Spec.Type "a\nb" has a control character: must be printable`},
		{reg(sluice.Spec{Name: "x", InputSchema: json.RawMessage(`{`)}), `Spec.InputSchema of "x" is not JSON: must be a JSON Schema or empty`},
		{reg(sluice.Spec{Name: "x", OutputSchema: json.RawMessage(`nope`)}), `Spec.OutputSchema of "x" is not JSON: must be a JSON Schema or empty`},
		{pol(sluice.Policy{Priority: 10}), "Policy.Priority is 10: must be zero (5) or from 1 to 9"},
		{pol(sluice.Policy{Priority: -1}), "Policy.Priority is -1: must be zero (5) or from 1 to 9"},
		{pol(sluice.Policy{Priority: -128}), "Policy.Priority is -128: must be zero (5) or from 1 to 9"},
		{pol(sluice.Policy{Concurrency: -1}), fmt.Sprintf("Policy.Concurrency is -1: must be zero or positive, up to %d", mostSlots)},
		{pol(sluice.Policy{Timeout: -1}), "Policy.Timeout is -1ns: must be zero or positive, up to 87600h0m0s"},
		{pol(sluice.Policy{MaxWait: -1}), "Policy.MaxWait is -1ns: must be zero or positive, up to 87600h0m0s, or NoWait"},
		{pol(sluice.Policy{Rates: []sluice.Rate{{}}}), "Policy.Rates[0].N is 0: must be at least 1"},
		{pol(sluice.Policy{Rates: []sluice.Rate{{N: 1, Per: math.MaxInt64}}}), "Policy.Rates[0].N 1 per 9223372036854775807 ns with Burst 1 takes more than 36 years to refill: lower Burst or Per"},
		{pol(sluice.Policy{Breaker: &sluice.BreakerPolicy{Lease: -1}}), "Policy.Breaker.Lease is -1ns: must be zero (1m0s) or positive, up to 87600h0m0s"},
		{pol(sluice.Policy{Breaker: &sluice.BreakerPolicy{Ratio: 2}}), "Policy.Breaker.Ratio is 2: must be from 0 (0.5, or off with Failures) to 1; 2 % is 0.02"},
		{func() error { return errOf(sluice.NewSharedState(sluice.SharedStateConfig{MaxKeys: -1})) }, "SharedStateConfig.MaxKeys is -1: must be zero (100000) or positive"},
		{func() error { return errOf(sluice.NewSharedState(sluice.SharedStateConfig{MaxBytes: -1})) }, "SharedStateConfig.MaxBytes is -1: must be zero (268435456) or positive"},
		{func() error { return errOf(sluice.NewAsyncSink(nil, sluice.AsyncSinkConfig{})) }, "NewAsyncSink: s is nil: must be an EventSink"},
		{func() error {
			return errOf(sluice.NewAsyncSink(new(sluice.Recorder), sluice.AsyncSinkConfig{MaxQueue: -1}))
		}, "AsyncSinkConfig.MaxQueue is -1: must be zero (1000) or positive, up to 16777216"},
	} {
		assert.EqualError(t, tc.make(), "sluice: "+tc.want, "want sluice: %s", tc.want)
	}
	for _, f := range []string{"MinCalls", "Probes"} { // whose upper bounds may grow
		c := sluice.CircuitBreakerConfig{MinCalls: -1}
		if f == "Probes" {
			c = sluice.CircuitBreakerConfig{Probes: -1}
		}
		if err := brk(c)(); err == nil || !strings.HasPrefix(err.Error(), "sluice: CircuitBreakerConfig."+f+" is -1: must be zero (") {
			t.Errorf("%s: %v", f, err)
		}
	}
}

// Executors that share a gate must list the same scheduler.
func TestPromise22_TwoSchedulersOfOneQueueAreRefused(t *testing.T) {
	l := atMost(1)
	a, b := scheduler(sluice.PrioritySchedulerConfig{Name: "a"}), scheduler(sluice.PrioritySchedulerConfig{Name: "b"})
	make := func(list ...sluice.Interceptor) error {
		e, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: list})
		if err == nil {
			t.Cleanup(func() { require.NoError(t, e.Close(context.Background())) })
		}
		return err
	}
	require.NoError(t, make(l, a))
	err := make(l, b)
	if want := `sluice: PrioritySchedulers "a" and "b" would order one queue: executors that share a gate or a registry must list the same scheduler`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	require.NoError(t, make(l))
	require.NoError(t, make(l, a))
	require.NoError(t, make(b)) // the refusal changed nothing
}

// A nil context, a zero Request and a nil sink are no reason to end the process.
func TestPromise22_NonsenseCallsDoNoHarm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "work"}, g.counts(ms))
		var none context.Context
		for _, err := range []error{
			errOf(r.Invoke(none, sluice.Request{Tool: "work"})),
			errOf(r.Submit(none, sluice.Request{Tool: "work"}).Wait(t.Context())),
			errOf(r.Invoke(r.ctx, sluice.Request{})),
			errOf(r.Submit(r.ctx, sluice.Request{}).Wait(t.Context())),
			errOf(r.Invoke(r.ctx, sluice.Request{Tool: "work", Args: json.RawMessage("1"), Input: 1})),
			errOf(r.Invoke(r.ctx, sluice.Request{Tool: strings.Repeat("long", 1<<18)})),
		} {
			if err == nil || len(err.Error()) > 2000 {
				t.Errorf("error is %.300v", err)
			}
		}
		r.slotsFree("work", &g, 1)
	})
}

// An Executor that NewExecutor has not made answers errors.
func TestZeroExecutorAnswersErrors(t *testing.T) {
	reg := sluice.NewToolRegistry()
	tool := sluice.Must(sluice.Register(reg, sluice.Spec{Name: "x"}, func(context.Context, int) (int, error) { return 0, nil }))
	for name, e := range map[string]*sluice.Executor{"zero": new(sluice.Executor), "nil": nil} {
		t.Run(name, func(t *testing.T) {
			q := sluice.Request{ID: "a", Tool: "x", Input: 1}
			for how, call := range map[string]func() error{
				"Invoke":      func() error { _, err := e.Invoke(t.Context(), q); return err },
				"Submit":      func() error { _, err := e.Submit(t.Context(), q).Wait(t.Context()); return err },
				"Explain":     func() error { return e.Explain(t.Context(), q).Refusal },
				"Tool.Invoke": func() error { _, err := tool.Invoke(t.Context(), e, 1); return err },
			} {
				if err := call(); !errors.Is(err, sluice.ErrRejected) || !strings.Contains(err.Error(), "use NewExecutor") {
					t.Errorf("%s: %v", how, err)
				}
			}
			assert.ErrorContains(t, e.Close(t.Context()), "use NewExecutor", "Close")
			_, err := sluice.Wrap(e, sluice.Spec{Name: "y"}, func(context.Context, int) (int, error) { return 0, nil })
			assert.ErrorContains(t, err, "use NewExecutor", "Wrap")
			if plan, ok := e.Plan("x"); ok || plan != "" {
				t.Errorf("Plan: %q, %v", plan, ok)
			}
			if s := e.Snapshot(); s.Gates == nil || s.Lanes == nil || s.InFlight != 0 {
				t.Errorf("Snapshot: %+v", s)
			}
		})
	}
}

// A Duration that can only be a number whose unit was forgotten is refused, with words that
// say so, in every field that holds one.
func TestDurationsWithoutAUnitAreRefused(t *testing.T) {
	tool := func(p sluice.Policy) error {
		return errOf(sluice.Register(sluice.NewToolRegistry(), sluice.Spec{Name: "x", Policy: p}, func(context.Context, any) (int, error) { return 0, nil }))
	}
	exec := func(c sluice.Config) error { return errOf(sluice.NewExecutor(sluice.NewToolRegistry(), c)) }
	rate := func(d time.Duration) []sluice.Rate { return []sluice.Rate{{N: 1}, {N: 1, Per: d, Unit: "x"}} }
	fields := map[string]func(d time.Duration) error{
		"FleetConfig.Budget": func(d time.Duration) error {
			m := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
			defer m.Close()
			f, err := sluice.NewFleet(sluice.FleetConfig{Engine: m, Budget: d})
			if err == nil {
				err = f.Close(context.Background())
			}
			return err
		},
		"ConcurrencyLimiterConfig.Lease": func(d time.Duration) error {
			m := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
			defer m.Close()
			f := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: m}))
			defer f.Close(context.Background())
			return errOf(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}, Fleet: f, Lease: d}))
		},
		"Config.Timeout":      func(d time.Duration) error { return exec(sluice.Config{Timeout: d}) },
		"Config.MaxWait":      func(d time.Duration) error { return exec(sluice.Config{MaxWait: d}) },
		"Policy.MaxTimeout":   func(d time.Duration) error { return tool(sluice.Policy{MaxTimeout: d}) },
		"Policy.Timeout":      func(d time.Duration) error { return tool(sluice.Policy{Timeout: d}) },
		"Policy.MaxWait":      func(d time.Duration) error { return tool(sluice.Policy{MaxWait: d}) },
		"Policy.Rates[1].Per": func(d time.Duration) error { return tool(sluice.Policy{Rates: rate(d)}) },
		"RateLimiterConfig.Rates[1].Per": func(d time.Duration) error {
			return errOf(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: rate(d)}))
		},
	}
	for name, set := range map[string]func(*sluice.CircuitBreakerConfig, time.Duration){
		"Window":   func(c *sluice.CircuitBreakerConfig, d time.Duration) { c.Window = d },
		"Cooldown": func(c *sluice.CircuitBreakerConfig, d time.Duration) { c.Cooldown = d },
		"Lease":    func(c *sluice.CircuitBreakerConfig, d time.Duration) { c.Lease = d },
	} {
		fields["CircuitBreakerConfig."+name] = func(d time.Duration) error {
			var c sluice.CircuitBreakerConfig
			set(&c, d)
			return errOf(sluice.NewCircuitBreaker(c))
		}
		fields["Policy.Breaker."+name] = func(d time.Duration) error {
			var c sluice.CircuitBreakerConfig
			set(&c, d)
			return tool(sluice.Policy{Breaker: &sluice.BreakerPolicy{Window: c.Window, Cooldown: c.Cooldown, Lease: c.Lease}})
		}
	}
	for field, set := range fields {
		for _, d := range []time.Duration{1, 5, 30, 60, 999} {
			want := fmt.Sprintf("sluice: %s is %v: must be at least 1µs; a Duration without a unit? %d seconds are %d*time.Second", field, d, d, d)
			assert.EqualError(t, set(d), want, "%s: %d", field, d)
		}
		for _, d := range []time.Duration{0, time.Microsecond, 30 * time.Second} {
			if field == "ConcurrencyLimiterConfig.Lease" && d == time.Microsecond { // nobody could renew it in time
				assert.EqualError(t, set(d), "sluice: ConcurrencyLimiterConfig.Lease is 1µs: must be zero (10s) or at least 20ms")
				continue
			}
			assert.NoError(t, set(d), "%s: %v", field, d)
		}
		if err := set(sluice.NoWait); strings.HasSuffix(field, "MaxWait") != (err == nil) {
			t.Errorf("%s: NoWait: %v", field, err)
		}
		assert.Error(t, set(-1), "%s: -1 was accepted", field)
	}

	// So are all there are.
	api, err := os.ReadFile("../../testdata/api.txt")
	require.NoError(t, err)
	api, _, _ = bytes.Cut(api, []byte("\npackage ")) // the other packages have tests of their own
	for _, m := range regexp.MustCompile(`(?m)^field ((?:\w*Config|Policy|Rate)\.\w+) time\.Duration$`).FindAllStringSubmatch(string(api), -1) {
		if field := strings.Replace(m[1], "Rate.", "RateLimiterConfig.Rates[1].", 1); fields[field] == nil {
			t.Errorf("%s is not tested here", m[1])
		}
	}

	// A change is checked like a beginning.
	q, b, reg := rates(sluice.Rate{N: 1}), breakerOf(sluice.CircuitBreakerConfig{}), sluice.NewToolRegistry()
	rawTool(t, reg, sluice.Spec{Name: "x"}, sleeps(0))
	for _, c := range []sluice.Change{
		q.Change(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: 60}}}),
		b.Change(sluice.CircuitBreakerConfig{Cooldown: 30}),
		reg.WithPolicy("x", sluice.Policy{Timeout: 30}),
	} {
		assert.ErrorContains(t, sluice.Reconfigure("test", c), "without a unit?")
	}

	// Pause is no configuration: every time that an upstream says is one.
	bubble(t, func(t *testing.T) {
		q := rates(sluice.Rate{N: 1})
		q.Pause("", 30)
		r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
		r.tool(sluice.Spec{Name: "x"}, sleeps(0))
		require.NoError(t, r.call("x"))
		if r.at() < 30 {
			t.Errorf("started after %v, in a pause of 30ns", r.at())
		}
		r.end()
	})
}
