package sluice_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sluice-go/sluice"
)

// What a limit counts by.
func ExampleScope() {
	type page struct {
		Host, Disk string
		Size       int64
	}
	host := func(c sluice.Call) string {
		p, _ := c.Input.(page)
		return p.Host
	}
	disk := func(c sluice.Call) map[string]int64 {
		p, _ := c.Input.(page)
		return map[string]int64{p.Disk: p.Size}
	}
	limits := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{
		{Max: 32, Scope: sluice.Global},                   // all calls together
		{Max: 4, Scope: sluice.ForType("web")},            // calls of tools of this type together
		{Max: 3, Scope: sluice.ForTool("fetch", "print")}, // calls of these tools together
		{Max: 2, Scope: sluice.ByTenant},                  // each tenant's
		{Max: 1, Scope: sluice.ByKey("host", host)},       // each host's
		{Max: 100, Scope: sluice.ByWeights("disk", disk)}, // each disk's, by size
	}}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits}}))
	defer exec.Close(context.Background())
	fetch := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "fetch", Type: "web"}, func(context.Context, page) (string, error) {
		for _, s := range exec.Snapshot().Gates {
			if s.Limit > 0 {
				fmt.Printf("%s %q: %d of %d\n", s.Scope, s.Key, s.Used, s.Limit)
			}
		}
		return "done", nil
	}))
	ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Tenant: "acme"})
	fmt.Println(fetch(ctx, page{"go.dev", "disk 1", 40}))
	// Unordered output:
	// global "": 1 of 32
	// per disk "disk 1": 40 of 100
	// per host "go.dev": 1 of 1
	// per tenant "acme": 1 of 2
	// tool fetch+print "": 1 of 3
	// type web "": 1 of 4
	// done <nil>
}

// The function of a tool is replaced while it is in use: calls that run go on, later ones get the new one.
func ExampleReplace() {
	registry := sluice.NewToolRegistry()
	exec := sluice.Must(sluice.NewExecutor(registry, sluice.Config{}))
	defer exec.Close(context.Background())
	ask := func() {
		res, err := exec.Invoke(context.Background(), sluice.Request{Tool: "greet", Args: json.RawMessage(`"Ada"`)})
		fmt.Println(res.Value, err)
	}

	greet := func(_ context.Context, name string) (string, error) { return "Hello, " + name, nil }
	sluice.Must(sluice.Register(registry, sluice.Spec{Name: "greet"}, greet))
	ask()
	_, err := sluice.Register(registry, sluice.Spec{Name: "greet"}, greet)
	fmt.Println(err)
	sluice.Must(sluice.Replace(registry, sluice.Spec{Name: "greet"}, func(_ context.Context, name string) (string, error) {
		return "Good morning, " + name, nil
	}))
	ask()
	// Output:
	// Hello, Ada <nil>
	// sluice: tool "greet" is registered already: use Replace, or another name
	// Good morning, Ada <nil>
}

// Several executors may run the tools of one registry, each under limits of its own.
func ExampleNewToolRegistry() {
	registry := sluice.NewToolRegistry()
	greet := sluice.Must(sluice.Register(registry, sluice.Spec{Name: "greet"}, func(_ context.Context, name string) (string, error) {
		return "Hello, " + name, nil
	}))
	one := sluice.Must(sluice.NewExecutor(registry, sluice.Config{}))
	other := sluice.Must(sluice.NewExecutor(registry, sluice.Config{}))
	other.Close(context.Background())
	for _, exec := range []*sluice.Executor{one, other} {
		fmt.Println(greet.Invoke(context.Background(), exec, "Ada"))
	}
	// Output:
	// Hello, Ada <nil>
	//  sluice: tool "greet": executor closed
}

// A tool may see who it runs for, and which call it is.
func ExamplePipelineContextFrom() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	defer exec.Close(context.Background())
	audit := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "audit"}, func(ctx context.Context, what string) (string, error) {
		return what + " for " + sluice.PipelineContextFrom(ctx).UserID, nil
	}))
	fmt.Println(audit(sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{UserID: "ada"}), "export"))
	fmt.Printf("%q\n", sluice.PipelineContextFrom(context.Background()).UserID)
	// Output:
	// export for ada <nil>
	// ""
}

// A tool may name its call, as in a log.
func ExampleCallFrom() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{}))
	defer exec.Close(context.Background())
	sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "look", Type: "web"}, func(ctx context.Context, _ struct{}) (string, error) {
		c, ok := sluice.CallFrom(ctx)
		return fmt.Sprint(c.Tool, " of ", c.Type, ", ", c.ID, ", ", ok), nil
	}))
	res, err := exec.Invoke(context.Background(), sluice.Request{ID: "call_1", Tool: "look"})
	fmt.Println(res.Value, err)
	_, ok := sluice.CallFrom(context.Background())
	fmt.Println(ok)
	// Output:
	// look of web, call_1, true <nil>
	// false
}

// A sink that does not see what a tool has written into its error.
func ExampleWithoutErrorText() {
	sink := sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error { // as one that writes
		if e.Err != nil {
			fmt.Println("the sink:", e.Err)
		}
		return nil
	})
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Sink: sluice.WithoutErrorText(sink),
	}))
	defer exec.Close(context.Background())
	login := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "login"}, func(context.Context, string) (string, error) {
		return "", errors.New("password hunter2 is wrong")
	}))
	_, err := login(context.Background(), "ada")
	fmt.Println("the caller:", err)
	// Output:
	// the sink: tool_error
	// the caller: password hunter2 is wrong
}
