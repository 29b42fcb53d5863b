// Load shows what Sluice costs and what it promises when there is far too much to do: ten
// thousand calls at once, without a limit and with one; a million calls that wait in ten
// thousand lanes of one queue, and are then served; and one hour of a platform's traffic,
// simulated.
//
//	go run ./examples/load
//	go run ./examples/load -waiting 100000 -calls 1000
//
// The first three parts run in real time: their figures depend on the machine. A waiting
// call has no goroutine and takes less than 400 bytes, so that a million of them need 400 MB,
// and the garbage collector as much again to spare.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sim"
)

// load is how much of each there is.
type load struct {
	calls   int           // at once
	limit   int           // of them, in the second part
	waiting int           // in the queue
	hour    time.Duration // simulated
}

func main() {
	var l load
	flag.IntVar(&l.calls, "calls", 10_000, "calls at once of a tool that takes 10 ms")
	flag.IntVar(&l.limit, "limit", 100, "limit on them in the second run")
	flag.IntVar(&l.waiting, "waiting", 1_000_000, "calls that wait in one queue")
	flag.DurationVar(&l.hour, "simulate", time.Hour, "traffic to simulate; 0 leaves it out")
	flag.Parse()
	if err := l.run(os.Stdout, isTerminal(os.Stdout)); err != nil {
		log.Fatal(err)
	}
}

func (l load) run(w io.Writer, live bool) error {
	if l.calls < 1 || l.limit < 1 || l.waiting < 1 || l.hour < 0 {
		return errors.New("load: -calls, -limit and -waiting must be at least 1, -simulate not negative")
	}
	for _, part := range []func(io.Writer, bool) error{l.unlimited, l.limited, l.queue, l.simulate} {
		if err := part(w, live); err != nil {
			return err
		}
	}
	return nil
}

const toolTime = 10 * time.Millisecond

// unlimited has all calls at once.
func (l load) unlimited(w io.Writer, live bool) error {
	fmt.Fprintf(w, "%s calls at once of a tool that takes %v, without a limit\n", count(l.calls), toolTime)
	took, durations, err := l.storm(w, live, sluice.Config{})
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "  all done after      %v\n", took.Round(100*time.Microsecond))
	printTimes(w, "reported durations", durations)
	return nil
}

// limited has so many at once and the others wait.
func (l load) limited(w io.Writer, live bool) error {
	fmt.Fprintf(w, "\nthe same, at most %d at once\n", l.limit)
	limits, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: l.limit}}})
	if err != nil {
		return err
	}
	order, err := sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: l.calls})
	if err != nil {
		return err
	}
	took, durations, err := l.storm(w, live, sluice.Config{Interceptors: []sluice.Interceptor{limits, order}})
	if err != nil {
		return err
	}
	ideal := toolTime * time.Duration((l.calls+l.limit-1)/l.limit)
	fmt.Fprintf(w, "  all done after      %v, where %v is the least there can be\n", took.Round(100*time.Microsecond), ideal)
	printTimes(w, "reported durations", durations)
	return nil
}

// storm invokes everything at once, each call on a goroutine of its own, and answers how
// long that took and how long the calls' events say that the tool ran.
func (l load) storm(w io.Writer, live bool, c sluice.Config) (time.Duration, []time.Duration, error) {
	durations := make([]time.Duration, l.calls)
	var n atomic.Int64
	c.Sink = completions(func(e *sluice.Event) { durations[n.Add(1)-1] = e.Duration })
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), c)
	if err != nil {
		return 0, nil, err
	}
	defer exec.Close(context.Background())
	work, err := sluice.Wrap(exec, sluice.Spec{Name: "work"}, func(context.Context, struct{}) (struct{}, error) {
		time.Sleep(toolTime)
		return struct{}{}, nil
	})
	if err != nil {
		return 0, nil, err
	}
	bar := newProgress(w, live, l.calls, n.Load)
	begin := make(chan struct{})
	var g errgroup.Group
	for range l.calls {
		g.Go(func() error {
			<-begin
			_, err := work(context.Background(), struct{}{})
			return err
		})
	}
	start := time.Now()
	close(begin)
	err = g.Wait()
	took := time.Since(start)
	bar.Close()
	if err != nil {
		return 0, nil, err
	}
	return took, durations, nil
}

// completions is a sink of the calls that have run to their end.
type completions func(*sluice.Event)

func (f completions) Enabled(k sluice.EventKind) bool { return k == sluice.ToolCompleted }

func (f completions) Emit(_ context.Context, e *sluice.Event) error { f(e); return nil }

const (
	tenants = 100
	tools   = 20
	slots   = 64
)

var priorities = []sluice.Priority{sluice.PriorityBatch, 3, sluice.PriorityNormal, 7, sluice.PriorityInteractive}

// arrival is what a waiting call is given: when it came.
type arrival struct{ at time.Duration }

// queue fills the queue while nothing can start, and then lets it drain.
func (l load) queue(w io.Writer, live bool) error {
	lanes := tenants * len(priorities) * tools
	fmt.Fprintf(w, "\n%s calls wait in %s lanes (%d tenants, %d priorities, %d tools)\n",
		count(l.waiting), count(min(lanes, l.waiting)), tenants, len(priorities), tools)
	limits, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: slots}}})
	if err != nil {
		return err
	}
	order, err := sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: l.waiting})
	if err != nil {
		return err
	}
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits, order}})
	if err != nil {
		return err
	}
	defer exec.Close(context.Background())

	start := time.Now()
	arrivals, waits := make([]arrival, l.waiting), make([]time.Duration, l.waiting)
	var done atomic.Int64
	var last atomic.Int64 // when the last one ran
	names := make([]string, tools)
	for i := range names {
		names[i] = fmt.Sprint("tool-", i)
		_, err := sluice.Wrap(exec, sluice.Spec{Name: names[i]}, func(_ context.Context, a *arrival) (struct{}, error) {
			now := time.Since(start)
			n := done.Add(1)
			waits[n-1] = now - a.at
			if n == int64(l.waiting) {
				last.Store(int64(now))
			}
			return struct{}{}, nil
		})
		if err != nil {
			return err
		}
	}
	release := make(chan struct{})
	hold, err := sluice.Wrap(exec, sluice.Spec{Name: "hold"}, func(context.Context, struct{}) (struct{}, error) {
		<-release
		return struct{}{}, nil
	})
	if err != nil {
		return err
	}
	var holders sync.WaitGroup
	for range slots {
		holders.Go(func() { _, _ = hold(context.Background(), struct{}{}) })
	}
	for exec.Snapshot().InFlight < slots {
		runtime.Gosched()
	}
	contexts := make([]context.Context, 0, tenants*len(priorities))
	for i := range tenants {
		for _, p := range priorities {
			contexts = append(contexts, sluice.WithPipelineContext(context.Background(),
				sluice.PipelineContext{Tenant: fmt.Sprint("tenant-", i), Priority: p}))
		}
	}

	heap, routines := memory(), runtime.NumGoroutine()
	var submitted atomic.Int64
	bar := newProgress(w, live, l.waiting, submitted.Load)
	from := time.Since(start)
	for i := range l.waiting {
		arrivals[i].at = time.Since(start)
		exec.Submit(contexts[i%len(contexts)], sluice.Request{Tool: names[i/len(contexts)%tools], Input: &arrivals[i]})
		submitted.Add(1)
	}
	filled := time.Since(start) - from
	bar.Close()
	more := runtime.NumGoroutine() - routines
	each := (memory() - heap) / int64(l.waiting)
	if s := exec.Snapshot(); s.Queued != l.waiting {
		close(release)
		return fmt.Errorf("load: %d calls wait, %d were refused: want all %d to wait", s.Queued, s.Failed, l.waiting)
	}
	fmt.Fprintf(w, "  queued              %s a second\n", perSecond(l.waiting, filled))
	fmt.Fprintf(w, "  memory              %d bytes per waiting call\n", each)
	fmt.Fprintf(w, "  goroutines          %d more than before\n", max(0, more))

	bar = newProgress(w, live, l.waiting, done.Load)
	from = time.Since(start)
	close(release)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for s := exec.Snapshot(); s.Completed+s.Failed < uint64(l.waiting+slots); {
		<-tick.C
		s = exec.Snapshot()
	}
	bar.Close()
	holders.Wait()
	if n := done.Load(); n != int64(l.waiting) {
		return fmt.Errorf("load: %d calls ran: want all %d", n, l.waiting)
	}
	fmt.Fprintf(w, "  started             %s a second, %d at once\n", perSecond(l.waiting, time.Duration(last.Load())-from), slots)
	printTimes(w, "time from Submit", waits)
	return nil
}

// simulate has an hour of traffic that is more than the platform can do, through the same
// decisions on virtual time.
func (l load) simulate(w io.Writer, live bool) error {
	if l.hour == 0 {
		return nil
	}
	var seen atomic.Int64
	bar := newProgress(w, live, int(l.hour/time.Second), func() int64 { return seen.Load() / int64(time.Second) })
	start := time.Now()
	r, err := sim.Run(sim.Config{
		Gates: []sluice.Interceptor{
			sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 16}}})),
			sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "model", Scope: sluice.ForTool("ask"), Rates: []sluice.Rate{{N: 600, Per: time.Minute, Burst: 20}}})),
			sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 500, Shed: true})),
		},
		Tools: []sim.Tool{
			{Spec: sluice.Spec{Name: "search"}, Service: sim.LogNormal(120*time.Millisecond, 900*time.Millisecond)},
			{Spec: sluice.Spec{Name: "ask"}, Service: sim.LogNormal(400*time.Millisecond, 3*time.Second)},
		},
		Traffic: []sim.Traffic{
			{Name: "chat: search", Tool: "search", Tenant: "chat", Priority: sluice.PriorityInteractive, Arrivals: sim.Poisson(15)},
			{Name: "chat: ask", Tool: "ask", Tenant: "chat", Priority: sluice.PriorityInteractive, Arrivals: sim.Poisson(6)},
			{Name: "index: search", Tool: "search", Tenant: "index", Priority: sluice.PriorityBatch, Arrivals: sim.Bursty(120, 20*time.Second, 20*time.Second)},
		},
		MaxWait:  30 * time.Second,
		Duration: l.hour,
		Seed:     1,
		Each:     func(c sim.Call) { seen.Store(int64(c.Ended)) },
	})
	bar.Close()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%v of traffic, simulated in %v: %s calls, %s refused\n", l.hour,
		time.Since(start).Round(10*time.Millisecond), count(int(r.All.Arrived)), count(int(r.All.Refused)))
	for _, g := range r.Traffic {
		fmt.Fprintf(w, "  %-18s  %5.1f/s done, waits p50 %v, p99 %v, %.1f%% refused\n", g.Name, g.Goodput,
			g.Wait.P50.Round(time.Millisecond), g.Wait.P99.Round(time.Millisecond), 100*float64(g.Refused)/float64(max(1, g.Arrived)))
	}
	for _, x := range r.Limits {
		fmt.Fprintf(w, "  %.0f%% of %s used\n", 100*x.Used, x.Name)
	}
	return nil
}

// memory is what is in use once everything unused has been collected.
func memory() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func printTimes(w io.Writer, what string, times []time.Duration) {
	slices.Sort(times)
	at := func(share float64) time.Duration {
		return times[int(share*float64(len(times)-1))].Round(10 * time.Microsecond)
	}
	fmt.Fprintf(w, "  %-18s  p50 %v, p99 %v, max %v\n", what, at(0.5), at(0.99), at(1))
}

func perSecond(n int, d time.Duration) string { return count(int(float64(n) / d.Seconds())) }

// count writes n with its thousands apart.
func count(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
