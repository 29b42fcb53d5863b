package sluice_test

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
)

// A tool that works through many pages has a minute for each, and not more than an hour for all of them.
func ExampleExtend() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	defer exec.Close(context.Background())
	index := sluice.Must(sluice.Wrap(exec, sluice.Spec{
		Name: "index", Policy: sluice.Policy{Timeout: time.Minute, MaxTimeout: time.Hour},
	}, func(ctx context.Context, pages int) (string, error) {
		for n := range pages {
			if !sluice.Extend(ctx, time.Minute) { // the hour is over: what there is must do
				return fmt.Sprintf("%d of %d pages", n, pages), nil
			}
			// index page n, with ctx
		}
		end, _ := ctx.Deadline()
		return fmt.Sprintf("all, with %v left", time.Until(end).Round(time.Minute)), nil
	}))

	fmt.Println(index(context.Background(), 300))
	// Output: all, with 1m0s left <nil>
}

// A sink hears of code that goes on although its call is over: who calls has its answer, and the slot is taken.
func Example_abandoned() {
	watch := sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
		if e.Kind == sluice.ToolAbandoned {
			fmt.Printf("attempt %d of %s goes on\n", e.Call.Attempt, e.Call.Tool)
		}
		return nil
	})
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Timeout: time.Millisecond, Sink: watch}))
	stop := make(chan struct{})
	deaf := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "deaf"}, func(context.Context, string) (string, error) {
		<-stop // and not the context
		return "", nil
	}))

	_, err := deaf(context.Background(), "")
	fmt.Println(sluice.CodeOf(err), exec.Snapshot().Abandoned)
	close(stop)
	_ = exec.Close(context.Background()) // waits for it
	fmt.Println(exec.Snapshot().Abandoned)
	// Output:
	// attempt 1 of deaf goes on
	// timeout 1
	// 0
}
