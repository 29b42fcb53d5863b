package docs_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
)

// A tool that calls a tool with its context runs that on its own slot.
func Example_nested() {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits}}))
	defer exec.Close(context.Background())

	fetch := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "fetch"}, func(_ context.Context, url string) (string, error) {
		return "page of " + url, nil
	}))
	research := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "research"}, func(ctx context.Context, topic string) (string, error) {
		page, err := fetch(ctx, topic+".example") // with the context that it was given
		return "read the " + page, err
	}))
	fmt.Println(research(context.Background(), "go"))
	// Output: read the page of go.example <nil>
}

// A cycle of limits is refused, and nobody waits for ever.
func cycle() {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{
		{Max: 1, Scope: sluice.ForType("browser")}, {Max: 1, Scope: sluice.ForType("disk")},
	}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits}}))
	defer exec.Close(context.Background())
	for name, other := range map[string]string{"browser": "disk", "disk": "browser"} {
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: name, Type: name}, func(ctx context.Context, first bool) (string, error) {
			time.Sleep(time.Second) // both run by then
			if first {
				if _, err := exec.Invoke(ctx, sluice.Request{Tool: other, Input: false}); errors.Is(err, sluice.ErrNesting) {
					fmt.Println("refused: each would wait for the other's slot")
				}
			}
			return "", nil
		}))
	}
	a := exec.Submit(context.Background(), sluice.Request{Tool: "browser", Input: true})
	b := exec.Submit(context.Background(), sluice.Request{Tool: "disk", Input: true})
	for _, call := range []*sluice.Future{a, b} {
		_, err := call.Wait(context.Background())
		fmt.Println(err)
	}
}

// stranger has a tool that loses its context wait for itself.
func stranger() {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{limits},
		MaxWait:      2 * time.Minute,
		Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if e.Kind == sluice.LimitStalled {
				fmt.Println(e.By, "stalls:", e.Err)
			}
			return nil
		}),
	}))
	defer exec.Close(context.Background())
	fetch := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "fetch"}, func(context.Context, string) (string, error) { return "", nil }))
	research := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "research"}, func(context.Context, string) (string, error) {
		return fetch(context.Background(), "go.example") // a mistake: a stranger to the slot of research
	}))
	_, err := research(context.Background(), "go")
	fmt.Println(err)
}

// holding has a tool that answers with a stream.
func holding() {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits}}))
	defer exec.Close(context.Background())
	start := time.Now()
	tail := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "tail"}, func(ctx context.Context, file string) (<-chan string, error) {
		fmt.Println(file, "starts after", time.Since(start))
		stream, done, err := sluice.Hold(ctx)
		if err != nil {
			return nil, err
		}
		out := make(chan string)
		go func() {
			defer close(out)
			defer func() { done(context.Cause(stream)) }() // nil, unless somebody left
			for range 3 {
				select {
				case out <- "line":
				case <-stream.Done():
					return
				}
				time.Sleep(time.Second)
			}
		}()
		return out, nil
	}))
	for _, file := range []string{"a.log", "b.log"} {
		out, err := tail(context.Background(), file)
		if err != nil {
			fmt.Println(err)
			return
		}
		go func() {
			for range out {
			}
		}()
	}
}
