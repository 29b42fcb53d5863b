package errors_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
)

var ctx = context.Background()

// search is a tool that finds something.
func search(_ context.Context, in struct {
	Query string `json:"query"`
}) (string, error) {
	return "found " + in.Query, nil
}

// An executor with one tool, and what a user lists in it.
func newExecutor(list ...sluice.Interceptor) *sluice.Executor {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: list}))
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search"}, search))
	return exec
}

func Example_unknownTool() {
	exec := newExecutor()
	defer exec.Close(ctx)

	_, err := exec.Invoke(ctx, sluice.Request{Tool: "serch", Args: json.RawMessage(`{"query":"go"}`)})
	fmt.Println(sluice.CodeOf(err))
	fmt.Println(err)
	// Output:
	// unknown_tool
	// sluice: tool "serch": unknown tool: did you mean "search"?
}

func Example_invalidArguments() {
	exec := newExecutor()
	defer exec.Close(ctx)

	_, err := exec.Invoke(ctx, sluice.Request{Tool: "search", Args: json.RawMessage(`{"qwery":"go"}`)})
	fmt.Println(sluice.CodeOf(err))
	fmt.Println(err)
	fmt.Println(sluice.ModelText(err)) // the model can put it right
	// Output:
	// invalid_arguments
	// sluice: tool "search": invalid arguments: $ has an unknown key "qwery": allowed are "query"
	// {"type":"invalid_arguments","message":"the arguments do not fit the tool: $ has an unknown key \"qwery\": allowed are \"query\"","retryable":false}
}

func Example_breakerOpen() {
	breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 3, Cooldown: 5 * time.Second}))
	exec := newExecutor(breaker)
	defer exec.Close(ctx)
	weather := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "weather"}, func(context.Context, string) (string, error) {
		return "", errors.New("connection refused")
	}))

	for range 3 {
		weather(ctx, "Oslo")
	}
	_, err := weather(ctx, "Oslo")
	fmt.Println(sluice.CodeOf(err))
	e, _ := errors.AsType[*sluice.Error](err)
	fmt.Println(e.By, "tries again within 10 s:", e.RetryAfter < 10*time.Second)
	// Output:
	// breaker_open
	// breaker tries again within 10 s: true
}

func Example_rateLimited() {
	quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name: "search api", Rates: []sluice.Rate{{N: 1, Per: time.Minute}},
		Refuse: true, // without it calls wait for their turn
	}))
	exec := newExecutor(quota)
	defer exec.Close(ctx)

	request := sluice.Request{Tool: "search", Args: json.RawMessage(`{"query":"go"}`)}
	exec.Invoke(ctx, request)
	_, err := exec.Invoke(ctx, request)
	fmt.Println(sluice.CodeOf(err))
	e, _ := errors.AsType[*sluice.Error](err)
	fmt.Println(e.By, "- again in", e.RetryAfter.Round(time.Second))
	// Output:
	// rate_limited
	// rate/search api calls per minute - again in 1m0s
}

// busy starts a call of a tool that runs until end is closed.
func busy(exec *sluice.Executor) (end chan bool) {
	begun, end := make(chan bool), make(chan bool)
	work := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "work"}, func(context.Context, string) (string, error) {
		close(begun)
		<-end
		return "", nil
	}))
	go work(ctx, "")
	<-begun
	return end
}

func Example_saturated() {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Limits: []sluice.Limit{{Max: 1, Refuse: true}}, // without Refuse calls wait for a slot
	}))
	exec := newExecutor(limits)
	defer exec.Close(ctx)
	defer close(busy(exec))

	_, err := exec.Invoke(ctx, sluice.Request{Tool: "search", Args: json.RawMessage(`{"query":"go"}`)})
	fmt.Println(sluice.CodeOf(err))
	fmt.Println(err)
	// Output:
	// saturated
	// sluice: tool "search": saturated by concurrency global: all of 1 are taken
}

func Example_queueFull() {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
	order := sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 1}))
	exec := newExecutor(limits, order)
	defer exec.Close(ctx)
	defer close(busy(exec)) // has the slot

	request := sluice.Request{Tool: "search", Args: json.RawMessage(`{"query":"go"}`)}
	exec.Submit(ctx, request) // has the place in the queue
	_, err := exec.Invoke(ctx, request)
	fmt.Println(sluice.CodeOf(err))
	fmt.Println(err)
	// Output:
	// queue_full
	// sluice: tool "search": queue full: 1 calls of the executor wait already, and MaxQueue and MaxPerTenant allow no more
}

func Example_waitTooLong() {
	quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name: "search api", Rates: []sluice.Rate{{N: 1, Per: time.Minute}},
	}))
	exec := newExecutor(quota)
	defer exec.Close(ctx)

	request := sluice.Request{Tool: "search", Args: json.RawMessage(`{"query":"go"}`)}
	exec.Invoke(ctx, request)
	soon, cancel := context.WithTimeout(ctx, 10*time.Second) // or Config.MaxWait, or the tool's Policy.MaxWait
	defer cancel()
	_, err := exec.Invoke(soon, request)
	fmt.Println(sluice.CodeOf(err))
	e, _ := errors.AsType[*sluice.Error](err)
	fmt.Println(e.By, "- again in", e.RetryAfter.Round(time.Second), "-", e.Cause)
	// Output:
	// wait_too_long
	// rate/search api calls per minute - again in 1m0s - it could not start before its caller's deadline
}

func Example_denied() {
	readOnly := sluice.InterceptorFunc(func(tool sluice.Spec, next sluice.Handler) sluice.Handler {
		if tool.Hints.ReadOnly {
			return next
		}
		return func(context.Context, sluice.Call) (sluice.Result, error) {
			return sluice.Result{}, errors.New("this run may only read")
		}
	})
	exec := newExecutor(readOnly)
	defer exec.Close(ctx)

	_, err := exec.Invoke(ctx, sluice.Request{Tool: "search", Args: json.RawMessage(`{"query":"go"}`)})
	fmt.Println(sluice.CodeOf(err))
	fmt.Println(err)
	// Output:
	// denied
	// sluice: tool "search": denied: this run may only read
}

func Example_nesting() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{MaxDepth: 3}))
	defer exec.Close(ctx)
	var plan func(context.Context, string) (string, error)
	plan = sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "plan"}, func(ctx context.Context, goal string) (string, error) {
		if _, err := plan(ctx, "a part of "+goal); sluice.CodeOf(err) == "nesting" {
			fmt.Println(sluice.CodeOf(err))
			fmt.Println(err)
		}
		return "planned", nil
	}))
	fmt.Println(plan(ctx, "a journey"))
	// Output:
	// nesting
	// sluice: tool "plan": nesting: sluice: nested 4 deep: Config.MaxDepth allows 3
	// planned <nil>
}

func Example_closed() {
	exec := newExecutor()
	exec.Close(ctx)

	_, err := exec.Invoke(ctx, sluice.Request{Tool: "search", Args: json.RawMessage(`{"query":"go"}`)})
	fmt.Println(sluice.CodeOf(err))
	fmt.Println(err)
	// Output:
	// closed
	// sluice: tool "search": executor closed
}
