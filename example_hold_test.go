package sluice_test

import (
	"context"
	"fmt"

	"github.com/sluice-go/sluice"
)

// A tool that answers with a stream has returned long before the stream ends. It holds its
// call open, so that its slot stays taken and what it used is counted.
func ExampleHold() {
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits}}))
	complete := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "complete"}, func(ctx context.Context, prompt string) (<-chan string, error) {
		stream, done, err := sluice.Hold(ctx)
		if err != nil {
			return nil, err
		}
		words := make(chan string)
		go func() {
			defer close(words)
			defer func() { done(context.Cause(stream)) }() // nil, unless somebody left
			for _, w := range []string{"once", "upon", "a", "time"} {
				select {
				case words <- w:
				case <-stream.Done():
					return
				}
			}
			sluice.ReportUsage(stream, "tokens", 4)
		}()
		return words, nil
	}))

	words, err := complete(context.Background(), "a story")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("in flight:", exec.Snapshot().InFlight)
	for w := range words {
		fmt.Println(w)
	}
	_ = exec.Close(context.Background()) // waits for streams too
	fmt.Println("in flight:", exec.Snapshot().InFlight)
	// Output:
	// in flight: 1
	// once
	// upon
	// a
	// time
	// in flight: 0
}
