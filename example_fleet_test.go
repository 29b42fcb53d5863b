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

// At most one call of all processes deploys at a time. Each lease has a larger number than those before, so what is
// deployed to can refuse whoever comes too late: a process that stood still does not know that its lease has ended.
func ExampleFence() {
	memory := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
	defer memory.Close()
	var seen uint64 // where it is deployed to
	process := func() (deploy func(context.Context, struct{}) (bool, error), end func() error) {
		fleet := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: memory, Name: "agents"}))
		one := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
			Name: "deploy", Limits: []sluice.Limit{{Max: 1}}, Fleet: fleet,
		}))
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{one}}))
		deploy = sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "deploy"}, func(ctx context.Context, _ struct{}) (bool, error) {
			fence, ok := sluice.Fence(ctx, "deploy")
			if !ok || fence < seen {
				return false, errors.New("stale")
			}
			seen = fence
			return true, nil
		}))
		return deploy, func() error { return fleet.Close(context.Background()) }
	}
	ctx := context.Background()
	a, endA := process()
	fmt.Println(a(ctx, struct{}{}))
	first := seen
	fmt.Println(endA()) // its slot goes back
	b, endB := process()
	fmt.Println(b(ctx, struct{}{}))
	fmt.Println(seen > first, endB())
	// Output:
	// true <nil>
	// <nil>
	// true <nil>
	// true <nil>
}

// sharedBreaker is what docs/fleet.md shows.
func sharedBreaker(fleet *sluice.Fleet) (*sluice.CircuitBreaker, error) {
	breaker, err := sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{
		Name: "tools", Fleet: fleet, Quorum: 2, Cooldown: 5 * time.Second,
	})
	return breaker, err
}

// Somebody takes a tool out of service in one process: no other calls it either, until somebody puts it back.
func ExampleCircuitBreakerConfig_fleet() {
	shared := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
	defer shared.Close()
	process := func() (breaker *sluice.CircuitBreaker, changes chan sluice.BreakerState, end func() error) {
		fleet := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: shared, Name: "agents"}))
		breaker, changes = sluice.Must(sharedBreaker(fleet)), make(chan sluice.BreakerState, 2)
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
			Interceptors: []sluice.Interceptor{breaker},
			Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
				if e.Kind == sluice.BreakerStateChanged {
					changes <- e.To
				}
				return nil
			}),
		}))
		_ = sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "search"}, func(context.Context, struct{}) (string, error) { return "found", nil }))
		return breaker, changes, func() error { return fleet.Close(context.Background()) }
	}
	here, seenHere, endHere := process()
	there, seenThere, endThere := process()
	fmt.Println(here.Trip("search"), <-seenHere, <-seenThere)
	fmt.Println(there.Reset("search"), <-seenHere, <-seenThere)
	fmt.Println(endHere(), endThere())
	// Output:
	// <nil> open open
	// <nil> closed closed
	// <nil> <nil>
}

// sharedSlots is what docs/fleet.md shows.
func sharedSlots(shared engine.Engine) error {
	fleet, err := sluice.NewFleet(sluice.FleetConfig{Engine: shared, Name: "agents"})
	if err != nil {
		return err
	}
	limits, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{
		Name: "browser", Fleet: fleet, Lease: 10 * time.Second,
		Limits: []sluice.Limit{{Max: 8, Scope: sluice.ForType("browser")}, {Max: 2, Scope: sluice.ByTenant}},
	})
	if err != nil {
		return err
	}
	fmt.Println(limits.Config().Lease, len(limits.Config().Limits))
	return fleet.Close(context.Background())
}

// The slots of all processes are 8, and 2 for each tenant.
func ExampleConcurrencyLimiterConfig_fleet() {
	shared := sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
	defer shared.Close()
	fmt.Println(sharedSlots(shared))
	// Output:
	// 10s 2
	// <nil>
}

// write is what docs/fleet.md shows of a tool that writes to what a limit with a Max of 1 protects.
func write(ctx context.Context, to func(fence uint64) error) error {
	fence, ok := sluice.Fence(ctx, "deploy")
	if !ok {
		return errors.New("there is no lease")
	}
	if err := to(fence); err != nil { // which refuses a number smaller than it has seen
		return err
	}
	return context.Cause(ctx) // ErrLeaseLost, if the lease has ended meanwhile
}

func ExampleErrLeaseLost() {
	fmt.Println(write(context.Background(), nil))
	// Output:
	// there is no lease
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
