package sluice_test

import (
	"context"
	"fmt"

	"github.com/sluice-go/sluice"
)

// Calls that name the same file run in the order they came: readers together, a writer alone. A reader
// that comes later does not pass a writer that waits, and calls of other files wait for nobody.
func ExampleByKeys() {
	type access struct {
		Name  string
		Files []string
		Write bool
		Until chan struct{}
	}
	const readers = 8 // at once
	files := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Limits: []sluice.Limit{{
			Max: readers, Unit: "file", Ordered: true,
			Scope: sluice.ByKeys("file", func(c sluice.Call) []string { return c.Input.(access).Files }),
		}},
	}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: []sluice.Interceptor{files},
	}))
	ctx := context.Background()
	defer exec.Close(ctx)
	sluice.Must(sluice.Register(exec.Registry(), sluice.Spec{Name: "open", Policy: sluice.Policy{
		Cost: func(c sluice.Call, unit string) int64 {
			if c.Input.(access).Write {
				return readers
			}
			return 1
		},
	}}, func(_ context.Context, x access) (string, error) {
		if x.Until != nil {
			<-x.Until
		}
		fmt.Println(x.Name)
		return "", nil
	}))

	done := make(chan struct{})
	var calls []*sluice.Future
	for _, x := range []access{
		{Name: "reads a.txt", Files: []string{"a.txt"}, Until: done},
		{Name: "writes a.txt and b.txt", Files: []string{"a.txt", "b.txt"}, Write: true},
		{Name: "reads b.txt, after the writer", Files: []string{"b.txt"}},
		{Name: "reads c.txt", Files: []string{"c.txt"}},
	} {
		calls = append(calls, exec.Submit(ctx, sluice.Request{Tool: "open", Input: x}))
	}
	<-calls[3].Done()
	close(done)
	for _, c := range calls {
		<-c.Done()
	}
	// Output:
	// reads c.txt
	// reads a.txt
	// writes a.txt and b.txt
	// reads b.txt, after the writer
}
