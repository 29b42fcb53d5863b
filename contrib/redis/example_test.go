package sluiceredis_test

import (
	"context"
	"fmt"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"
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
