package sim_test

import (
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sim"
)

// What happens to my interactive calls if batch traffic doubles? With a scheduler nothing;
// without one they queue behind it.
func Example() {
	slots := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}}}))
	order := sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{}))
	search := sluice.Spec{Name: "search"}

	for _, gates := range [][]sluice.Interceptor{{slots}, {slots, order}} {
		for _, batch := range []float64{50, 100} {
			r, err := sim.Run(sim.Config{
				Gates: gates,
				Tools: []sim.Tool{{Spec: search, Service: sim.Constant(100 * time.Millisecond)}},
				Traffic: []sim.Traffic{
					{Name: "interactive", Tool: "search", Priority: sluice.PriorityInteractive, Arrivals: sim.Poisson(10)},
					{Name: "batch", Tool: "search", Priority: sluice.PriorityBatch, Arrivals: sim.Poisson(batch)},
				},
				Duration: 10 * time.Minute,
				Seed:     1,
			})
			if err != nil {
				fmt.Println(err)
				return
			}
			wait := r.Traffic[0].Wait
			fmt.Printf("scheduler %-5t  batch %3.0f/s  interactive waits p99 %v\n", len(gates) == 2, batch, wait.P99.Round(10*time.Millisecond))
		}
	}
	// Output:
	// scheduler false  batch  50/s  interactive waits p99 80ms
	// scheduler false  batch 100/s  interactive waits p99 12.5s
	// scheduler true   batch  50/s  interactive waits p99 30ms
	// scheduler true   batch 100/s  interactive waits p99 60ms
}

// A report says what was used, what was refused and why.
func ExampleReport() {
	quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name: "model", Rates: []sluice.Rate{{N: 60, Per: time.Minute, Burst: 10}}, Refuse: true,
	}))
	r := sluice.Must(sim.Run(sim.Config{
		Gates:    []sluice.Interceptor{quota},
		Tools:    []sim.Tool{{Spec: sluice.Spec{Name: "ask"}, Service: sim.Constant(time.Second)}},
		Traffic:  []sim.Traffic{{Tool: "ask", Arrivals: sim.Steady(2)}},
		Duration: time.Minute,
	}))
	fmt.Printf("%d of %d started; %d refused as %q by %s\n", r.All.Started, r.All.Arrived, r.Refusals[0].Count, r.Refusals[0].Reason, r.Refusals[0].By)
	fmt.Printf("%.1f%% of the %s used\n", 100*r.Limits[0].Used, r.Limits[0].Name)
	// Output:
	// 69 of 120 started; 51 refused as "rate limited" by rate/model calls per minute
	// 98.6% of the rate/model calls per minute used
}
