package sluiceredis_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"
	"github.com/sluice-go/sluice"
	sluiceredis "github.com/sluice-go/sluice/contrib/redis"
	"github.com/sluice-go/sluice/engine"
)

// Two processes draw from one meter; here they are two engines, and the server is inside the
// program. One of them meets a throttle: nobody draws until it is over.
func Example() {
	server, err := miniredis.Run()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	ctx := context.Background()
	process := func() (*sluiceredis.Engine, func()) {
		client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Addr()}, DisableCache: true, ForceSingleClient: true})
		if err != nil {
			panic(err)
		}
		// This server does not say whether it evicts keys; a real one is asked.
		e, err := sluiceredis.New(ctx, sluiceredis.Config{Client: client, Prefix: "agents", NoEviction: true})
		if err != nil {
			panic(err)
		}
		return e, func() { _ = e.Close(); client.Close() }
	}
	one, closeOne := process()
	defer closeOne()
	two, closeTwo := process()
	defer closeTwo()

	quota := engine.Meter{Key: "openai", N: 60, Per: time.Hour, Burst: 10}
	g, err := one.Quota().Take(ctx, engine.Draw{Meters: []engine.Meter{quota}, Min: 1, Max: 7})
	fmt.Println(g.Units, err)
	g, err = two.Quota().Take(ctx, engine.Draw{Meters: []engine.Meter{quota}, Min: 1, Max: 7})
	fmt.Println(g.Units, err)

	fmt.Println(one.Quota().Hold(ctx, quota, 30*time.Minute))
	g, err = two.Quota().Take(ctx, engine.Draw{Meters: []engine.Meter{quota}})
	fmt.Println(g.Units, g.Retry.Round(time.Minute), err)
	// Output:
	// 7 <nil>
	// 3 <nil>
	// <nil>
	// 0 30m0s <nil>
}

// setUp is what docs/fleet.md shows: all that a process has in common with the others of its fleet.
func setUp(ctx context.Context, server rueidis.ClientOption, conf sluiceredis.Config) error {
	client, err := rueidis.NewClient(server) // rueidis.ClientOption{InitAddress: []string{"redis:6379"}}
	if err != nil {
		return err
	}
	conf.Client = client // of a sluiceredis.Config{Prefix: "agents"}
	eng := sluice.Must(sluiceredis.New(ctx, conf))
	fleet := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: eng}))
	state := sluice.Must(sluice.NewFleetState(fleet, sluice.FleetStateConfig{}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{State: state, Interceptors: []sluice.Interceptor{
		sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "openai", Fleet: fleet,
			Scope: sluice.ForType("openai"), Rates: []sluice.Rate{{N: 60, Per: time.Minute}}})),
		sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: "browser", Fleet: fleet,
			Limits: []sluice.Limit{{Max: 8, Scope: sluice.ForType("browser")}}})),
	}}))

	// On a new server a quota fills from empty, and slots wait for a lease: this tool has neither.
	visit := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "visit"}, func(ctx context.Context, page string) (int64, error) {
		return sluice.Increment(ctx, sluice.Key[int64](page), 1)
	}))
	n, err := visit(ctx, "sluice")
	fmt.Println("visits of all processes:", n, err)
	defer client.Close()
	return errors.Join(exec.Close(ctx), state.Close(), fleet.Close(ctx), eng.Close())
}

// Two processes, one after the other, that share a quota, slots and a state: here the second counts on.
func Example_fleet() {
	server, err := miniredis.Run()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	for range 2 {
		// What this server, which is inside the program, does not do and does not say.
		option := rueidis.ClientOption{InitAddress: []string{server.Addr()}, DisableCache: true, ForceSingleClient: true}
		if err := setUp(context.Background(), option, sluiceredis.Config{Prefix: "agents", NoEviction: true}); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// visits of all processes: 1 <nil>
	// visits of all processes: 2 <nil>
}
