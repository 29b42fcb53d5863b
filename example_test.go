package sluice_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
)

func ExampleNewExecutor() {
	reg := sluice.NewToolRegistry()
	exec, err := sluice.NewExecutor(reg, sluice.Config{Timeout: 30 * time.Second})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer exec.Close(context.Background())

	sluice.Must(sluice.Register(reg, sluice.Spec{Name: "add"}, func(_ context.Context, in struct{ A, B int }) (int, error) {
		return in.A + in.B, nil
	}))

	// as a model names it
	res, err := exec.Invoke(context.Background(), sluice.Request{
		ID: "call_1", Tool: "add", Args: json.RawMessage(`{"A":1,"B":2}`),
	})
	out, _ := res.JSON()
	fmt.Println(string(out), err)

	_, err = exec.Invoke(context.Background(), sluice.Request{Tool: "add", Args: json.RawMessage(`{"a":1}`)})
	fmt.Println(errors.Is(err, sluice.ErrInvalidArguments), errors.Is(err, sluice.ErrRejected))
	// Output:
	// 3 <nil>
	// true true
}

func ExampleRegister() {
	reg := sluice.NewToolRegistry()
	double, err := sluice.Register(reg, sluice.Spec{Name: "double"}, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
	if err != nil {
		fmt.Println(err)
		return
	}
	exec := sluice.Must(sluice.NewExecutor(reg, sluice.Config{}))
	fmt.Println(double.Invoke(context.Background(), exec, 21))

	_, err = sluice.Register(reg, sluice.Spec{Name: "double"}, func(_ context.Context, n int) (int, error) { return 0, nil })
	fmt.Println(err)
	// Output:
	// 42 <nil>
	// sluice: tool "double" is registered already: use Replace, or another name
}

func ExampleNewConcurrencyLimiter() {
	limits, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Limits: []sluice.Limit{
			{Max: 32}, // all calls together
			{Max: 4, Scope: sluice.ForType("web")},
			{Max: 2, Scope: sluice.ByTenant},
			{Max: 64 << 20, Unit: "bytes"}, // weighed by Policy.Cost
		},
	})
	fmt.Println(limits, err)

	_, err = sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Adaptive: &sluice.Adaptive{Min: 8, Max: 4}}}})
	fmt.Println(err)
	// Output:
	// concurrency <nil>
	// sluice: ConcurrencyLimiterConfig.Limits[0].Adaptive.Min is 8: must be from 1 to Max (4)
}

func ExampleNewRateLimiter() {
	quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name:   "openai",
		Rates:  []sluice.Rate{{N: 1, Per: time.Minute}, {N: 90_000, Per: time.Minute, Unit: "tokens"}},
		Refuse: true, // instead of waiting
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{quota}}))
	ask := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "ask", Policy: sluice.Policy{
		Cost: func(c sluice.Call, unit string) int64 { // an estimate
			if unit == "tokens" {
				return int64(len(c.Input.(string)))
			}
			return 1
		},
	}}, func(ctx context.Context, prompt string) (string, error) {
		sluice.ReportUsage(ctx, "tokens", 7) // what it really cost
		return "hello", nil
	}))
	fmt.Println(ask(context.Background(), "hi"))

	_, err := ask(context.Background(), "hi")
	var refused *sluice.Error
	if errors.As(err, &refused) {
		fmt.Println(refused.By, "|", refused.RetryAfter.Round(time.Minute))
	}
	// Output:
	// hello <nil>
	// rate/openai calls per minute | 1m0s
}

func ExampleNewPriorityScheduler() {
	order := sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{
		TenantWeights: map[string]int{"acme": 2},
		MaxQueue:      500,
		MaxPerTenant:  100,
	}))
	one := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{order, one}}))

	started, block := make(chan bool), make(chan bool)
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "work"}, func(ctx context.Context, name string) (string, error) {
		if name == "first" {
			close(started)
			<-block
		}
		fmt.Println(name)
		return name, nil
	}))
	submit := func(p sluice.Priority, name string) *sluice.Future {
		ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Priority: p})
		return exec.Submit(ctx, sluice.Request{Tool: "work", Input: name})
	}
	calls := []*sluice.Future{submit(sluice.PriorityNormal, "first")}
	<-started // the one slot is taken: who comes now waits
	calls = append(calls,
		submit(sluice.PriorityBatch, "batch"),
		submit(sluice.PriorityNormal, "normal"),
		submit(sluice.PriorityInteractive, "interactive"))
	close(block)
	for _, c := range calls {
		c.Wait(context.Background())
	}
	// Output:
	// first
	// interactive
	// normal
	// batch
}

func ExampleNewCircuitBreaker() {
	breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 2, Cooldown: time.Minute}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{breaker}}))
	fetch := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "fetch"}, func(context.Context, string) (string, error) {
		return "", errors.New("502 bad gateway")
	}))
	for range 3 {
		_, err := fetch(context.Background(), "https://go.dev")
		fmt.Println(errors.Is(err, sluice.ErrBreakerOpen), sluice.Must(breaker.State("fetch")))
	}
	breaker.Reset("fetch")
	fmt.Println(sluice.Must(breaker.State("fetch")))
	// Output:
	// false closed
	// false open
	// true open
	// closed
}

func ExampleNewTestPipelineContext() {
	pc, rec := sluice.NewTestPipelineContext()
	ctx := sluice.WithPipelineContext(context.Background(), pc)

	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	const seen sluice.Key[int] = "seen"
	look := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "look"}, func(ctx context.Context, _ string) (int, error) {
		return sluice.Increment(ctx, seen, 1)
	}))
	look(ctx, "here")
	look(ctx, "there")

	n, _, _ := seen.Get(ctx)
	fmt.Println(n, rec.Events()[0].Call.ID, rec.Check())
	fmt.Println(rec.Trace())
	// Output:
	// 2 call-1 <nil>
	// look: invoked started completed; look: invoked started completed
}

// The order of interceptors: outermost first, gates anywhere among them.
func ExampleInterceptor() {
	say := func(name string) sluice.Interceptor {
		return sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				fmt.Println(name, "before")
				defer fmt.Println(name, "after")
				return next(ctx, c)
			}
		})
	}
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{say("observe"), say("retry"), limits, say("trace")},
	}))
	f := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "tool"}, func(context.Context, string) (string, error) {
		fmt.Println("the tool")
		return "", nil
	}))
	f(context.Background(), "")
	// Output:
	// observe before
	// retry before
	// trace before
	// the tool
	// trace after
	// retry after
	// observe after
}

func ExampleReconfigure() {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
	rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 10}}}))

	l, r := limits.Config(), rates.Config()
	l.Limits[0].Max = 4
	r.Rates[0].N = 0 // a mistake: nothing changes
	fmt.Println(sluice.Reconfigure("alice", limits.Change(l), rates.Change(r)))
	fmt.Println(limits.Config().Limits[0].Max)

	r.Rates[0].N = 5
	fmt.Println(sluice.Reconfigure("alice", limits.Change(l), rates.Change(r)))
	fmt.Println(limits.Config().Limits[0].Max)
	// Output:
	// sluice: RateLimiterConfig.Rates[0].N is 0: must be at least 1
	// 8
	// <nil>
	// 4
}

func ExampleExecutor_Explain() {
	rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Hour}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{rates}}))
	f := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "tool"}, func(context.Context, string) (string, error) { return "", nil }))

	now := exec.Explain(context.Background(), sluice.Request{Tool: "tool", Input: ""})
	fmt.Println("would wait:", now.Wait)
	f(context.Background(), "")
	then := exec.Explain(context.Background(), sluice.Request{Tool: "tool", Input: ""})
	fmt.Println("would wait:", then.Wait.Round(time.Minute), "on", then.Waits[0].By)
	// Output:
	// would wait: 0s
	// would wait: 1h0m0s on rate calls per hour
}

// Whether it is worth while to tell a model of a tool now, whatever it would call it with.
func ExampleExecutor_ExplainTool() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	export := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "export", Policy: sluice.Policy{
		Rates: []sluice.Rate{{N: 1, Per: time.Hour}}, MaxWait: sluice.NoWait,
	}}, func(_ context.Context, table string) (string, error) { return table + ".csv", nil }))

	fmt.Println("refused:", exec.ExplainTool(context.Background(), "export").Refusal != nil)
	export(context.Background(), "users")
	why := exec.ExplainTool(context.Background(), "export").Refusal
	fmt.Println("refused:", sluice.CodeOf(why), "for", why.RetryAfter.Round(time.Minute))
	// Output:
	// refused: false
	// refused: wait_too_long for 1h0m0s
}

func ExampleExecutor_Submit() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "square"}, func(_ context.Context, n int) (int, error) { return n * n, nil }))
	var calls []*sluice.Future
	for n := range 4 {
		calls = append(calls, exec.Submit(context.Background(), sluice.Request{Tool: "square", Input: n}))
	}
	for _, c := range calls { // in the order of the calls
		res, err := c.Wait(context.Background())
		fmt.Println(res.Value, err)
	}
	// Output:
	// 0 <nil>
	// 1 <nil>
	// 4 <nil>
	// 9 <nil>
}

// A tool that talks to many hosts names the one that throttled it: a limiter that counts by
// host holds back the calls of that host, and no others.
func ExampleReportThrottle() {
	type fetch struct{ Host, Path string }
	hosts := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name:     "hosts",
		Upstream: true,
		Scope:    sluice.ByKey("host", func(c sluice.Call) string { return c.Input.(fetch).Host }),
		Rates:    []sluice.Rate{{N: 10}},
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{hosts}}))
	defer exec.Close(context.Background())
	get := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "get"}, func(ctx context.Context, f fetch) (string, error) {
		if f.Path == "/busy" { // answered 429, Retry-After: 600
			sluice.ReportThrottle(ctx, 10*time.Minute, sluice.ThrottlePart{Kind: "host", Key: f.Host})
			return "", errors.New("too many requests")
		}
		return f.Host + f.Path, nil
	}))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, f := range []fetch{{"a.example", "/busy"}, {"b.example", "/x"}, {"a.example", "/y"}} {
		page, err := get(ctx, f)
		var refused *sluice.Error
		if errors.As(err, &refused) {
			fmt.Println("refused by", refused.By)
			continue
		}
		fmt.Println(page, err)
	}
	// Output:
	//  too many requests
	// b.example/x <nil>
	// refused by rate/hosts calls per second
}

// A framework owns the functions: the tool is declared, and its code comes with each call.
func ExampleDo() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	defer exec.Close(context.Background())

	// As often as the server says what its tools are.
	err := sluice.Declare(exec.Registry(), sluice.Spec{Name: "search", Policy: sluice.Policy{Concurrency: 4}})
	if err != nil {
		panic(err)
	}

	// In the framework's middleware, around a call that it is about to make.
	out, err := sluice.Do(context.Background(), exec, sluice.Request{ID: "call_1", Tool: "search", Args: []byte(`{"q":"go"}`)},
		func(ctx context.Context) (string, error) {
			return "found", nil
		})
	fmt.Println(out, err)
	// Output: found <nil>
}
