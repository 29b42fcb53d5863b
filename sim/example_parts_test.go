package sim_test

import (
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sim"
)

// When calls come decides how long they wait: the same two calls a second on average, and one slot.
func ExampleArrivals() {
	slot := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
	for _, x := range []struct {
		name     string
		arrivals sim.Arrivals
	}{
		{"steady", sim.Steady(2)},
		{"poisson", sim.Poisson(2)},
		{"bursty", sim.Bursty(4, 10*time.Second, 10*time.Second)},
		{"heavy-tailed", sim.HeavyTailed(2, 1.5)},
		{"batches of 4", sim.Batches(0.5, sim.Constant(4))},
		{"a flood", sim.Flood(1200)},
		{"a log", sim.Replay(0, time.Second, time.Second)},
		{"callers", sim.Callers(2, sim.Constant(800*time.Millisecond))},
	} {
		r := sluice.Must(sim.Run(sim.Config{
			Gates:    []sluice.Interceptor{slot},
			Tools:    []sim.Tool{{Spec: sluice.Spec{Name: "ask"}, Service: sim.Constant(200 * time.Millisecond)}},
			Traffic:  []sim.Traffic{{Tool: "ask", Arrivals: x.arrivals}},
			Duration: 10 * time.Minute,
			Seed:     1,
		}))
		fmt.Printf("%-12s %4d calls, wait p99 %v\n", x.name, r.All.Arrived, r.All.Wait.P99.Round(100*time.Millisecond))
	}
	// Output:
	// steady       1200 calls, wait p99 0s
	// poisson      1221 calls, wait p99 500ms
	// bursty       1246 calls, wait p99 1.6s
	// heavy-tailed 1254 calls, wait p99 100ms
	// batches of 4 1096 calls, wait p99 2.1s
	// a flood      1200 calls, wait p99 3m19.7s
	// a log           3 calls, wait p99 200ms
	// callers      1200 calls, wait p99 0s
}

// How long a backend takes, by what is known of it.
func ExampleDist() {
	for _, x := range []struct {
		name    string
		service sim.Dist
	}{
		{"constant", sim.Constant(time.Second)},
		{"uniform", sim.Uniform(500*time.Millisecond, 1500*time.Millisecond)},
		{"exponential", sim.Exponential(time.Second)},
		{"log-normal", sim.LogNormal(time.Second, 3*time.Second)},
		{"pareto", sim.Pareto(500*time.Millisecond, 2)},
		{"samples", sim.Samples(800*time.Millisecond, 900*time.Millisecond, 1300*time.Millisecond)},
	} {
		r := sluice.Must(sim.Run(sim.Config{
			Tools:    []sim.Tool{{Spec: sluice.Spec{Name: "ask"}, Service: x.service}},
			Traffic:  []sim.Traffic{{Tool: "ask", Arrivals: sim.Steady(1)}},
			Duration: 10 * time.Minute,
			Seed:     1,
		}))
		fmt.Printf("%-12s takes p50 %v, p99 %v\n", x.name, r.All.Total.P50.Round(100*time.Millisecond), r.All.Total.P99.Round(100*time.Millisecond))
	}
	// Output:
	// constant     takes p50 1s, p99 1s
	// uniform      takes p50 1s, p99 1.5s
	// exponential  takes p50 700ms, p99 4.8s
	// log-normal   takes p50 1s, p99 3.4s
	// pareto       takes p50 700ms, p99 6.5s
	// samples      takes p50 900ms, p99 1.3s
}
