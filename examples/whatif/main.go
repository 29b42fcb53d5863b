// Whatif asks, before production does: what happens to my interactive calls if batch
// traffic doubles? It simulates half an hour of an agent platform twice, as it is and with
// twice the batch traffic, and prints the two side by side; then the same with a limit on
// what batch may hold, the change that one would make. It takes a second or two.
//
//	go run ./examples/whatif
package main

import (
	"fmt"
	"log"
	"os"
	"text/tabwriter"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sim"
)

// gates are the components of the platform's executor. The simulator takes them as they are.
func gates(perTenant int) []sluice.Interceptor {
	limits := []sluice.Limit{{Max: 24}, {Max: 12, Scope: sluice.ForType("web")}}
	if perTenant > 0 {
		limits = append(limits, sluice.Limit{Max: perTenant, Scope: sluice.ByTenant})
	}
	return []sluice.Interceptor{
		sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: limits})),
		sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
			Name:  "model",
			Scope: sluice.ForTool("ask"),
			Rates: []sluice.Rate{{N: 1_500, Per: time.Minute, Burst: 50}, {N: 1_200_000, Per: time.Minute, Unit: "tokens", Burst: 100_000}},
		})),
		sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 500, Shed: true})),
	}
}

// platform is the traffic, with the given multiple of today's batch calls.
func platform(batch float64, perTenant int) sim.Config {
	tokens := map[string]sim.Dist{"tokens": sim.LogNormal(600, 4000)}
	return sim.Config{
		Gates: gates(perTenant),
		Tools: []sim.Tool{
			{
				Spec:    sluice.Spec{Name: "search", Type: "web"},
				Service: sim.LogNormal(120*time.Millisecond, 900*time.Millisecond), // median and p99 of a dashboard
			},
			{
				Spec:    sluice.Spec{Name: "crawl", Type: "web"},
				Service: sim.Pareto(150*time.Millisecond, 1.6),
			},
			{
				Spec:    sluice.Spec{Name: "ask"},
				Service: sim.LogNormal(400*time.Millisecond, 3*time.Second),
			},
		},
		Traffic: []sim.Traffic{
			{Name: "chat: search", Tool: "search", Tenant: "chat", Priority: sluice.PriorityInteractive, Arrivals: sim.Poisson(15)},
			{Name: "chat: ask", Tool: "ask", Tenant: "chat", Priority: sluice.PriorityInteractive, Arrivals: sim.Poisson(8), Uses: tokens},
			{Name: "index: crawl", Tool: "crawl", Tenant: "index", Priority: sluice.PriorityBatch, Arrivals: sim.Bursty(40*batch, 20*time.Second, 40*time.Second)},
			{Name: "index: ask", Tool: "ask", Tenant: "index", Priority: sluice.PriorityBatch, Arrivals: sim.Batches(0.5*batch, sim.Pareto(6, 1.8)), Uses: tokens},
		},
		MaxWait:  30 * time.Second,
		Duration: 30 * time.Minute,
		Seed:     1,
	}
}

func main() {
	var reports []sim.Report
	for _, c := range []sim.Config{platform(1, 0), platform(2, 0), platform(2, 16)} {
		r, err := sim.Run(c)
		if err != nil {
			log.Fatal(err)
		}
		reports = append(reports, r)
	}
	fmt.Println("30 minutes of traffic: calls per second, waits (p50, p99) and refusals")
	fmt.Println()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\ttoday\t\t\t\ttwice the batch\t\t\t\tand 16 slots per tenant\t\t\t\t")
	fmt.Fprintln(w, "\t/s\tp50\tp99\trefused\t/s\tp50\tp99\trefused\t/s\tp50\tp99\trefused\t")
	for i, g := range reports[0].Traffic {
		fmt.Fprintf(w, "%s\t", g.Name)
		for _, r := range reports {
			x := r.Traffic[i]
			fmt.Fprintf(w, "%.1f\t%s\t%s\t%.1f%%\t", x.Goodput, ms(x.Wait.P50), ms(x.Wait.P99), 100*float64(x.Refused)/float64(x.Arrived))
		}
		fmt.Fprintln(w)
	}
	for _, l := range reports[2].Limits {
		fmt.Fprintf(w, "%s\t", l.Name)
		for _, r := range reports {
			fmt.Fprintf(w, "\t\t%s\t\t", used(r, l.Name))
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	fmt.Println()
	fmt.Println("the whole report of the second run:")
	fmt.Println()
	fmt.Print(reports[1])
}

func used(r sim.Report, limit string) string {
	for _, l := range r.Limits {
		if l.Name == limit {
			return fmt.Sprintf("%.0f%% used", 100*l.Used)
		}
	}
	return ""
}

func ms(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%dms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1fs", d.Seconds())
}
