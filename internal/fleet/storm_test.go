package fleet_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/require"
)

var (
	storms    = flag.Int("storms", stormsHere, "how many storms")
	stormSeed = flag.Uint64("storm-seed", 0, "the seed of the first; zero means a random one")
)

// Whatever the engine does, and calls, and whoever pauses: no window has more than burst, rate and stocks allow,
// and once the engine is well, all of the rate is used.
func TestFleet_Storm(t *testing.T) {
	seed := *stormSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	for i := range *storms {
		if !t.Run("", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { storm(t, seed+uint64(i)) }) }) {
			return
		}
	}
}

func storm(t *testing.T, seed uint64) {
	t.Logf("-storm-seed %d", seed)
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 0))
	n := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	rate := []sluice.Rate{{N: 100, Burst: 20}, {N: 10, Burst: 5}, {N: 1000, Burst: 40}, {N: 50, Per: 700 * time.Millisecond, Burst: 11}}[n(4)]
	stock, processes, dearest := int64(1+n(int(rate.Burst)/2)), 1+n(4), int64(1+n(4))
	if n(2) == 0 {
		dearest = 1
	}
	per := time.Second
	if rate.Per > 0 {
		per = rate.Per
	}
	perSecond := float64(rate.N) / per.Seconds()
	e := sluice.Must(sluicetest.NewChaos(sluicetest.ChaosConfig{
		Seed: seed, Delay: time.Duration(1+n(100)) * time.Millisecond,
		Open: func() (engine.Engine, error) { return engine.NewMemory(engine.MemoryConfig{}) },
	}))
	u := &usage{begin: time.Now()}
	var list []*process
	for range processes {
		p := newProcess(t, e, u, processConfig{
			fleet: sluice.FleetConfig{Budget: time.Duration(10+n(100)) * time.Millisecond},
			rate:  sluice.RateLimiterConfig{Rates: []sluice.Rate{rate}, Stock: stock, Refuse: n(5) == 0, Reserve: int64(n(3))},
		})
		list = append(list, p)
	}
	rest, stop := context.WithCancel(context.Background())
	var group sync.WaitGroup
	cost := func() int64 { return min(1+int64(n(int(dearest))), rate.Burst) }
	for _, p := range list {
		nested := sluice.Must(sluice.Wrap(p.exec, sluice.Spec{Name: "nested"}, func(ctx context.Context, _ struct{}) (int, error) {
			u.add(1)
			return p.tool(ctx, job{Cost: cost()})
		}))
		for range 1 + n(20) {
			group.Go(func() {
				for rest.Err() == nil {
					ctx, cancel := rest, func() {}
					if n(3) == 0 {
						ctx, cancel = context.WithTimeout(rest, time.Duration(n(int(time.Second))))
					}
					var err error
					if n(10) == 0 {
						_, err = nested(ctx, struct{}{})
					} else {
						_, err = p.tool(ctx, job{Cost: cost(), For: time.Duration(n(int(20 * time.Millisecond)))})
					}
					cancel()
					if err != nil {
						time.Sleep(time.Duration(1 + n(int(10*time.Millisecond))))
					}
					if n(10) == 0 {
						time.Sleep(time.Duration(n(3000)) * time.Millisecond)
					}
				}
			})
		}
	}
	faults := []sluicetest.Fault{sluicetest.Healthy, sluicetest.Slow, sluicetest.Gone, sluicetest.Refusing, sluicetest.LosingAcks,
		sluicetest.Dropping, sluicetest.Restarting, sluicetest.Lying, sluicetest.Panicking, sluicetest.Exiting, sluicetest.Healthy, sluicetest.Healthy}
	for range 40 {
		e.Set(faults[n(len(faults))])
		p := list[n(len(list))]
		switch n(6) {
		case 0:
			require.NoError(t, p.limit.Pause("", time.Duration(n(int(500*time.Millisecond)))))
		case 1:
			c := p.limit.Config()
			c.Stock = 1 + int64(n(int(stock)))
			require.NoError(t, sluice.Reconfigure("storm", p.limit.Change(c)))
		case 2:
			_ = p.exec.Snapshot()
			_ = p.exec.Explain(context.Background(), sluice.Request{Tool: "work", Input: job{Cost: cost()}})
		}
		time.Sleep(time.Duration(n(int(time.Second))))
	}
	e.Set(sluicetest.Healthy)
	stop()
	group.Wait()
	over := u.over(rate.Burst, perSecond)
	t.Logf("%d processes, %+v, stock %d, costs to %d: %d calls, over %.2f", processes, rate, stock, dearest, len(u.list), over)
	require.NotEmpty(t, u.list)
	require.LessOrEqual(t, over, float64(processes)*float64(max(stock, dearest))+1e-6)

	time.Sleep(12 * time.Second) // the ramp after a pause is over, and the bucket is full
	before, begin := u.total(1<<62), time.Since(u.begin)
	const d = 5 * time.Second
	saturate(list, int(rate.N)/10+5, d, func(int, int) job { return job{} })
	used := u.total(begin+d) - before
	require.GreaterOrEqual(t, float64(used), 0.9*(perSecond*d.Seconds()), "once all is well, of %v", perSecond*d.Seconds())
	require.LessOrEqual(t, u.over(rate.Burst, perSecond), float64(processes)*float64(max(stock, dearest))+1e-6)
	for _, p := range list {
		p.close(t)
	}
	require.NoError(t, e.Close())
}
