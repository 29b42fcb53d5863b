package promises_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
	"github.com/sluice-go/sluice/resilience"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/sluice-go/sluice/upstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// mistakes is what a beginner has at hand when something goes wrong.
type mistakes struct {
	*rig
	find func(ctx context.Context, in finding) (string, error) // the tool search, guarded
}

type finding struct {
	Query string `json:"query"`
	Limit int64  `json:"limit"`
}

// invoke calls a tool with the arguments of a model.
func (m mistakes) invoke(tool, args string) error {
	return errOf(m.Invoke(m.ctx, sluice.Request{ID: "call_1", Tool: tool, Args: json.RawMessage(args)}))
}

// executor is one with these interceptors; its error.
func executorOf(list ...sluice.Interceptor) error {
	return errOf(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: list}))
}

// The mistakes that beginners make, and models: each text says what happened, names the field or
// the tool with its value, and says what to change.
func TestPromise22_MistakesAreExplained(t *testing.T) {
	nop := func(context.Context, finding) (string, error) { return "", nil }
	spec := func(s sluice.Spec) error { return errOf(sluice.Register(sluice.NewToolRegistry(), s, nop)) }
	quota := func(r sluice.Rate) error {
		return errOf(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{r}}))
	}
	limit := func(l sluice.Limit) error {
		return errOf(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{l}}))
	}
	breaker := func(c sluice.CircuitBreakerConfig) error { return errOf(sluice.NewCircuitBreaker(c)) }
	retry := func(c resilience.RetryConfig) error { return errOf(resilience.NewRetry(c)) }
	audit := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler { return next })
	const hits sluice.Key[int] = "hits"

	for _, tc := range []struct {
		name string
		make func(m mistakes) error
		want string
	}{
		// Numbers that were meant to be something else.
		{"seconds without a unit", func(mistakes) error {
			return errOf(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Timeout: 30}))
		}, `sluice: Config.Timeout is 30ns: must be at least 1µs; a Duration without a unit? 30 seconds are 30*time.Second`},
		{"milliseconds without a unit", func(mistakes) error { return spec(sluice.Spec{Name: "x", Policy: sluice.Policy{MaxWait: 500}}) }, `sluice: Policy.MaxWait is 500ns: must be at least 1µs; a Duration without a unit? 500 seconds are 500*time.Second`},
		{"a minute without a unit", func(mistakes) error { return quota(sluice.Rate{N: 10, Per: 60}) }, `sluice: RateLimiterConfig.Rates[0].Per is 60ns: must be at least 1µs; a Duration without a unit? 60 seconds are 60*time.Second`},
		{"percent", func(mistakes) error { return breaker(sluice.CircuitBreakerConfig{Ratio: 50}) }, `sluice: CircuitBreakerConfig.Ratio is 50: must be from 0 (0.5, or off with Failures) to 1; 50 % is 0.5`},
		{"no wait", func(mistakes) error { return spec(sluice.Spec{Name: "x", Policy: sluice.Policy{MaxWait: -1}}) }, `sluice: Policy.MaxWait is -1ns: must be zero or positive, up to 87600h0m0s, or NoWait`},
		{"a limit without a number", func(mistakes) error { return limit(sluice.Limit{Scope: sluice.ByTool}) }, fmt.Sprintf("sluice: ConcurrencyLimiterConfig.Limits[0].Max is 0: must be from 1 to %d", mostSlots)},
		{"a rate without a number", func(mistakes) error { return quota(sluice.Rate{Per: time.Minute, Burst: 5}) }, `sluice: RateLimiterConfig.Rates[0].N is 0: must be at least 1`},
		{"a negative burst", func(mistakes) error { return quota(sluice.Rate{N: 5, Burst: -1}) }, `sluice: RateLimiterConfig.Rates[0].Burst is -1: must be zero (N) or positive`},
		{"no limits", func(mistakes) error { return errOf(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{})) }, `sluice: ConcurrencyLimiterConfig.Limits is empty: must have at least one limit`},
		{"a priority out of range", func(mistakes) error { return spec(sluice.Spec{Name: "x", Policy: sluice.Policy{Priority: 10}}) }, `sluice: Policy.Priority is 10: must be zero (5) or from 1 to 9`},
		{"a weight of nothing", func(mistakes) error {
			return errOf(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{TenantWeights: map[string]int{"acme": 0}}))
		}, `sluice: PrioritySchedulerConfig.TenantWeights["acme"] is 0: must be from 1 to 1048576`},
		{"a longer time that is shorter", func(mistakes) error {
			return spec(sluice.Spec{Name: "x", Policy: sluice.Policy{Timeout: time.Minute, MaxTimeout: time.Second}})
		}, `sluice: Policy.MaxTimeout is 1s: must be zero, or at least Timeout, which is 1m0s`},

		// Interceptors.
		{"a gate apart", func(mistakes) error { return executorOf(atMost(1), audit, rates(sluice.Rate{N: 1})) }, `sluice: Config.Interceptors[2] (rate) stands apart from the other gates: gates and the scheduler must be adjacent, they decide together`},
		{"a zero gate", func(mistakes) error { return executorOf(&sluice.RateLimiter{}) }, `sluice: Config.Interceptors[0] is a zero *sluice.RateLimiter: must be made by its New function`},
		{"a gate twice", func(mistakes) error { l := atMost(1); return executorOf(l, l) }, `sluice: Config.Interceptors[1] (concurrency) is listed twice: must be listed once`},
		{"a nil interceptor", func(mistakes) error { return executorOf(nil) }, `sluice: Config.Interceptors[0] is nil: must not be`},
		{"no registry", func(mistakes) error { return errOf(sluice.NewExecutor(nil, sluice.Config{})) }, `sluice: the ToolRegistry is nil: use NewToolRegistry`},
		{"scope that names nothing", func(mistakes) error { return limit(sluice.Limit{Max: 1, Scope: sluice.ForType()}) }, `sluice: ConcurrencyLimiterConfig.Limits[0].Scope names nothing: must name at least one`},

		// Tools and their names.
		{"a name with a blank", func(mistakes) error { return spec(sluice.Spec{Name: "web search"}) }, `sluice: Spec.Name "web search" has ' ' at 3: must be of A-Z a-z 0-9 _ . -`},
		{"no name", func(mistakes) error { return spec(sluice.Spec{}) }, `sluice: Spec.Name "" has 0 bytes: must have 1 to 128`},
		{"a name that is taken", func(m mistakes) error { return errOf(sluice.Wrap(m.Executor, sluice.Spec{Name: "search"}, nop)) }, `sluice: tool "search" is registered already: use Replace, or another name`},
		{"no function", func(mistakes) error {
			return errOf(sluice.Register[finding, string](sluice.NewToolRegistry(), sluice.Spec{Name: "x"}, nil))
		}, `sluice: the function of tool "x" is nil: must not be`},
		{"replaced under another name", func(m mistakes) error { return errOf(sluice.Replace(m.reg, sluice.Spec{Name: "serch"}, nop)) }, `sluice: tool "serch" is not registered: use Register; did you mean "search"?`},
		{"changed under another name", func(m mistakes) error {
			return sluice.Reconfigure("tuning", m.reg.WithPolicy("serch", sluice.Policy{Concurrency: 1}))
		}, `sluice: WithPolicy: tool "serch" is not registered: must be; did you mean "search"?`},
		{"lifted under another name", func(m mistakes) error { return m.reg.Lift("searhc") }, `sluice: Lift: tool "searhc" is not registered: must be; did you mean "search"?`},
		{"a schema of a string", func(mistakes) error {
			return spec(sluice.Spec{Name: "x", InputSchema: json.RawMessage(`{"type":"string"}`)})
		}, `sluice: Spec.InputSchema of "x" has another type than "object": arguments are an object`},
		{"a schema that is a list", func(mistakes) error { return spec(sluice.Spec{Name: "x", InputSchema: json.RawMessage(`[]`)}) }, `sluice: Spec.InputSchema of "x": $ is an array: must be an object`},

		// Calls, as a model makes them.
		{"an unknown tool", func(m mistakes) error { return m.invoke("serch", `{}`) }, `sluice: tool "serch": unknown tool: did you mean "search"?`},
		{"an unknown tool, with a namespace", func(m mistakes) error { return m.invoke("functions.search", `{}`) }, `sluice: tool "functions.search": unknown tool: did you mean "search"?`},
		{"an unknown tool, of another kind", func(m mistakes) error { return m.invoke("weather", `{}`) }, `sluice: tool "weather": unknown tool`},
		{"a missing argument", func(m mistakes) error { return m.invoke("search", `{}`) }, `sluice: tool "search": invalid arguments: $ lacks "query": required`},
		{"a mistyped argument", func(m mistakes) error { return m.invoke("search", `{"qurey":"go"}`) }, `sluice: tool "search": invalid arguments: $ has an unknown key "qurey": allowed are "query", "limit"`},
		{"an argument of another type", func(m mistakes) error { return m.invoke("search", `{"query":"go","limit":"5"}`) }, `sluice: tool "search": invalid arguments: $.limit is a string: must be a whole number from -9223372036854775808 to 9223372036854775807`},
		{"an argument that is no whole number", func(m mistakes) error { return m.invoke("search", `{"query":"go","limit":1.5}`) }, `sluice: tool "search": invalid arguments: $.limit is a number with a fraction: must be a whole number from -9223372036854775808 to 9223372036854775807`},
		{"an argument twice", func(m mistakes) error { return m.invoke("search", `{"query":"go","query":"no"}`) }, `sluice: tool "search": invalid arguments: $ has the key "query" twice`},
		{"arguments that were cut off", func(m mistakes) error { return m.invoke("search", `{"query":"g`) }, `sluice: tool "search": invalid arguments: $.query ends at byte 11: must have the end of a string there`},
		{"arguments that are a list", func(m mistakes) error { return m.invoke("search", `["go"]`) }, `sluice: tool "search": invalid arguments: $ is an array: must be an object`},

		{"a tool in another registry", func(m mistakes) error {
			e, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{})
			require.NoError(m.t, err)
			return errOf(e.Invoke(m.ctx, sluice.Request{Tool: "search"}))
		}, `sluice: tool "search": unknown tool: the registry of the executor has no tools: register them in that one`},

		// Calls, as a program makes them.
		{"no context", func(m mistakes) error { return errOf(m.find(nil, finding{})) }, `sluice: tool "search": invalid arguments: sluice: the context is nil: must not be, context.Background() is one for any use`}, //nolint:staticcheck // the mistake
		{"an input of another type", func(m mistakes) error {
			return errOf(m.Invoke(m.ctx, sluice.Request{Tool: "search", Input: "go"}))
		}, `sluice: tool "search": invalid arguments: sluice: Request.Input is string: must be promises_test.finding`},
		{"arguments and an input", func(m mistakes) error {
			return errOf(m.Invoke(m.ctx, sluice.Request{Tool: "search", Args: json.RawMessage(`{}`), Input: finding{}}))
		}, `sluice: tool "search": invalid arguments: sluice: Request.Args and Request.Input are both set: must be one of them`},
		{"a run with a priority out of range", func(m mistakes) error {
			m.pc.Priority = -4
			return errOf(m.find(sluice.WithPipelineContext(m.ctx, m.pc), finding{}))
		}, `sluice: tool "search": invalid arguments: sluice: PipelineContext.Priority is -4: must be zero (the tool's) or from 1 to 9`},
		{"a declared tool without its code", func(m mistakes) error {
			require.NoError(m.t, sluice.Declare(m.reg, sluice.Spec{Name: "shell"}))
			return m.invoke("shell", `{}`)
		}, `sluice: tool "shell": invalid arguments: sluice: the tool is declared: must be called by Do, with the code of the call`},
		{"code for a tool that has its own", func(m mistakes) error {
			return errOf(sluice.Do(m.ctx, m.Executor, sluice.Request{Tool: "search", Args: json.RawMessage(`{"query":"go"}`)}, func(context.Context) (int, error) { return 0, nil }))
		}, `sluice: tool "search": invalid arguments: sluice: the tool has a function of its own: Do must call one that is declared`},
		{"an executor that is closed", func(m mistakes) error {
			require.NoError(m.t, m.Close(m.ctx))
			return m.invoke("search", `{"query":"go"}`)
		}, `sluice: tool "search": executor closed`},
		{"a tool for an executor that is closed", func(m mistakes) error {
			require.NoError(m.t, m.Close(m.ctx))
			return errOf(sluice.Wrap(m.Executor, sluice.Spec{Name: "fetch"}, nop))
		}, `sluice: Wrap of tool "fetch": executor closed`},
		{"a zero executor", func(m mistakes) error {
			return errOf(new(sluice.Executor).Invoke(m.ctx, sluice.Request{Tool: "search"}))
		}, `sluice: tool "search": rejected: sluice: the Executor is zero: use NewExecutor`},
		{"state without a store", func(mistakes) error { _, _, err := hits.Get(context.Background()); return err }, `sluice: shared state key "hits": no state: the context has none: use the context that a tool gets, or WithState`},
		{"state of another type", func(m mistakes) error {
			_, err := sluice.Key[string]("hits").Set(m.ctx, "many")
			require.NoError(m.t, err)
			_, _, err = hits.Get(m.ctx)
			return err
		}, `sluice: shared state key "hits": wrong type: it holds string, not int`},

		// What goes around calls, and stands beside them.
		{"retries without a unit", func(mistakes) error { return retry(resilience.RetryConfig{Base: 100}) }, `resilience: RetryConfig.Base is 100ns: must be at least 1µs; a Duration without a unit? 100 seconds are 100*time.Second`},
		{"retries that are no number", func(mistakes) error { return retry(resilience.RetryConfig{Attempts: -1}) }, `resilience: RetryConfig.Attempts is -1: must be zero (3) or from 1 to 100`},
		{"a budget of percent", func(mistakes) error { return errOf(resilience.NewBudget(resilience.BudgetConfig{Share: 20})) }, `resilience: BudgetConfig.Share is 20: must be zero (0.2) or from 0 to 10; 20 % is 0.2`},
		{"a cache without a unit", func(mistakes) error { return errOf(resilience.NewCache(resilience.CacheConfig{TTL: 300})) }, `resilience: CacheConfig.TTL is 300ns: must be at least 1µs; a Duration without a unit? 300 seconds are 300*time.Second`},
		{"a total without a unit", func(mistakes) error { return errOf(resilience.Standard(resilience.StandardConfig{Total: 60})) }, `resilience: StandardConfig.Total is 60ns: must be at least 1µs; a Duration without a unit? 60 seconds are 60*time.Second`},
		{"a fallback to nothing", func(mistakes) error { return errOf(resilience.NewFallback(resilience.FallbackConfig{})) }, `resilience: FallbackConfig: To and Func are both set, or neither: must be one of them`},
		{"a timeout without a time", func(mistakes) error { return errOf(resilience.NewTimeout(resilience.TimeoutConfig{})) }, `resilience: TimeoutConfig.Total is 0s: must be positive`},
		{"a runner without an executor", func(mistakes) error { return errOf(agent.New(nil, agent.Config{})) }, `agent: the Executor is nil or zero: use sluice.NewExecutor`},
		{"a turn's time without a unit", func(m mistakes) error { return errOf(agent.New(m.Executor, agent.Config{Deadline: 60})) }, `agent: Config.Deadline is 60ns: must be at least 1µs; a Duration without a unit? 60 seconds are 60*time.Second`},
		{"a runner that runs nothing", func(m mistakes) error { return errOf(agent.New(m.Executor, agent.Config{Parallel: -1})) }, `agent: Config.Parallel is -1: must be zero (any number) or positive`},
		{"a fleet without an engine", func(mistakes) error { return errOf(sluice.NewFleet(sluice.FleetConfig{Name: "prod"})) }, `sluice: FleetConfig.Engine is nil: must be an engine.Engine`},
		{"faults of percent", func(mistakes) error { return errOf(sluicetest.NewFaults(sluicetest.FaultsConfig{Errors: 20})) }, `sluicetest: FaultsConfig.Errors is 20: must be from 0 to 1`},
		{"a transport", func(mistakes) error { return errOf(upstream.NewTransport(upstream.TransportConfig{Backoff: 2})) }, `upstream: TransportConfig.Backoff is 2ns: must be at least 1µs; a Duration without a unit? 2 seconds are 2*time.Second`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{})
				find, err := sluice.Wrap(r.Executor, sluice.Spec{Name: "search", Type: "web", InputSchema: json.RawMessage(`{"required":["query"]}`)}, nop)
				require.NoError(t, err)
				err = tc.make(mistakes{r, find})
				assert.EqualError(t, err, tc.want)
				r.end()
			})
		})
	}
}
