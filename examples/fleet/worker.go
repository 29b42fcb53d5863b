package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/redis/rueidis"
	"github.com/sluice-go/sluice"
	sluiceredis "github.com/sluice-go/sluice/contrib/redis"
)

// addrEnv is the server's address, for a process of the fleet.
const addrEnv = "SLUICE_EXAMPLE_FLEET"

// The quota of the API key, of which each process keeps so many units at hand, and its callers.
var rate = sluice.Rate{N: 100, Burst: 20}

const (
	stock   = 4
	callers = 8
)

// work calls a tool as often as the fleet's quota lets it, until in ends. It writes down when each call starts.
func work(ctx context.Context, addr string, in io.Reader, out io.Writer) error {
	client, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, DisableCache: true})
	if err != nil {
		return err
	}
	defer client.Close()
	engine, err := sluiceredis.New(ctx, sluiceredis.Config{Client: client})
	if err != nil {
		return err
	}
	defer engine.Close()
	fleet, err := sluice.NewFleet(sluice.FleetConfig{Engine: engine, Name: "example"})
	if err != nil {
		return err
	}
	defer fleet.Close(context.Background())
	quota, err := sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name: "the API key", Rates: []sluice.Rate{rate}, Fleet: fleet, Stock: stock, // the last two make it everybody's
	})
	if err != nil {
		return err
	}
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{quota}})
	if err != nil {
		return err
	}
	defer exec.Close(context.Background())

	var mu sync.Mutex
	ask, err := sluice.Wrap(exec, sluice.Spec{Name: "ask"}, func(context.Context, string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		_, err := fmt.Fprintln(out, time.Now().UnixNano())
		return "42", err
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for ctx.Err() == nil {
				_, _ = ask(ctx, "what is it?") // which waits while the server is away
			}
		})
	}
	_, err = io.Copy(io.Discard, in)
	stop()
	group.Wait()
	return err
}
