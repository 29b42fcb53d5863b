package sluice_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
)

// Two processes share the quota of one API key: here in one program, on the engine that lives in it. Processes
// of their own have an engine module, such as that for Redis, in place of engine.Memory.
func ExampleFleet() {
	memory := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
	defer memory.Close()
	process := func(origin string) (search func() error, state func() sluice.FleetState, end func() error) {
		fleet := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: memory, Name: "agents", Origin: origin}))
		quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
			Name: "openai", Fleet: fleet, Refuse: true,
			Rates: []sluice.Rate{{N: 3, Per: time.Hour}},
		}))
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{quota}}))
		tool := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search"}, func(context.Context, struct{}) (string, error) { return "found", nil }))
		ctx := context.Background()
		search = func() error { _, err := tool(ctx, struct{}{}); return err }
		return search, func() sluice.FleetState { return exec.Snapshot().Fleets[0] }, func() error { return fleet.Close(ctx) }
	}
	a, state, endA := process("a")
	b, _, endB := process("b")
	fmt.Println(a(), b(), a())
	fmt.Println(errors.Is(b(), sluice.ErrRateLimited))
	s := state()
	fmt.Println(s.Name, s.Origin, s.Fetched, s.Away)
	fmt.Println(endA(), endB())
	// Output:
	// <nil> <nil> <nil>
	// true
	// agents a 2 false
	// <nil> <nil>
}

// sharedQuota is what docs/fleet.md shows.
func sharedQuota(shared engine.Engine) error {
	fleet, err := sluice.NewFleet(sluice.FleetConfig{Engine: shared, Name: "agents"})
	if err != nil {
		return err
	}
	quota, err := sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name: "openai", Scope: sluice.ForType("openai"), Upstream: true,
		Rates: []sluice.Rate{{N: 60, Per: time.Minute}, {N: 90_000, Per: time.Minute, Unit: "tokens"}},
		Fleet: fleet,
	})
	if err != nil {
		return err
	}
	fmt.Println(quota.Config().Stock, len(quota.Config().Rates))
	return fleet.Close(context.Background())
}

func ExampleNewFleet() {
	shared := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
	defer shared.Close()
	fmt.Println(sharedQuota(shared))
	// Output:
	// 0 2
	// <nil>
}

// A sink hears that the engine has come to be away. Calls wait until it is back, since Away is engine.Deny.
func ExampleFleetConfig() {
	memory := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
	changed := make(chan string, 1)
	fleet := sluice.Must(sluice.NewFleet(sluice.FleetConfig{
		Engine: memory, Name: "agents", Away: engine.Deny,
		Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if e.Kind == sluice.FleetChanged {
				changed <- fmt.Sprint(e.Kind, ": the engine of ", e.By, " is ", e.NewLimit)
			}
			return nil
		}),
	}))
	quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 10}}, Fleet: fleet}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{quota}}))
	search := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search"}, func(context.Context, struct{}) (string, error) { return "found", nil }))
	_ = memory.Close() // as if the server had gone
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { _, err := search(ctx, struct{}{}); done <- err }()
	fmt.Println(<-changed)
	cancel()
	fmt.Println(errors.Is(<-done, sluice.ErrRejected), fleet.Close(context.Background()))
	// Output:
	// fleet.changed: the engine of agents is away
	// true <nil>
}

// spend is what docs/fleet.md shows of a state: all processes spend from one budget.
func spend(ctx context.Context, fleet *sluice.Fleet, cents int64) (left int64, err error) {
	state, err := sluice.NewFleetState(fleet, sluice.FleetStateConfig{Name: "budgets"})
	if err != nil {
		return 0, err
	}
	defer state.Close()
	ctx = sluice.WithState(ctx, state)
	left, err = sluice.Increment(ctx, sluice.Key[int64]("left"), -cents)
	if errors.Is(err, sluice.ErrUnsure) {
		return 0, fmt.Errorf("the engine has not said whether %d were spent: %w", cents, err)
	}
	return left, err
}

func ExampleNewFleetState() {
	memory := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
	defer memory.Close()
	ctx := context.Background()
	process := func() *sluice.Fleet {
		return sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: memory, Name: "agents"}))
	}
	a, b := process(), process()
	fmt.Println(spend(ctx, a, -500))
	fmt.Println(spend(ctx, b, 120))
	fmt.Println(spend(ctx, a, 80))

	// What two keys hold changes together, in one process or the other.
	plans := sluice.Must(sluice.NewFleetState(a, sluice.FleetStateConfig{Name: "plans"}))
	in := sluice.WithState(ctx, plans)
	open, done := sluice.Key[[]string]("open"), sluice.Key[[]string]("done")
	_, err := open.Set(in, []string{"search", "write"}, sluice.TTL(time.Hour))
	fmt.Println(err, plans.Txn(in, func(ctx context.Context) error {
		list, _, err := open.Get(ctx)
		if err != nil {
			return err
		}
		if _, err = open.Set(ctx, list[1:], sluice.TTL(time.Hour)); err != nil {
			return err
		}
		_, err = done.Set(ctx, list[:1])
		return err
	}))
	for e := range plans.List("") {
		fmt.Printf("%s %s %v\n", e.Key, e.Value, e.Err)
	}
	_ = memory.Close() // as if the server had gone
	_, _, err = open.Get(in)
	fmt.Println(errors.Is(err, engine.ErrAway))
	fmt.Println(plans.Close(), a.Close(ctx), b.Close(ctx))
	// Output:
	// 500 <nil>
	// 380 <nil>
	// 300 <nil>
	// <nil> <nil>
	// done ["search"] <nil>
	// open ["write"] <nil>
	// true
	// <nil> <nil> <nil>
}
