package sluiceredis_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
	sluiceredis "github.com/sluice-go/sluice/contrib/redis"
	"github.com/sluice-go/sluice/engine"
)

// process is an executor with a rate that it shares with others on one server, by a client of its own.
type process struct {
	fleet *sluice.Fleet
	exec  *sluice.Executor
	call  func(context.Context, time.Duration) (int, error) // which reports a throttle of so long, if any

	mu     sync.Mutex
	starts []time.Time
}

func newProcess(t *testing.T, c sluiceredis.Config, r sluice.Rate) *process {
	t.Helper()
	p := &process{}
	p.fleet = sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: open(t, c)}))
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Fleet: p.fleet, Stock: 4, Upstream: true, Rates: []sluice.Rate{r}}))
	p.exec = sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{rate}}))
	p.call = sluice.Must(sluice.Wrap(p.exec, sluice.Spec{Name: "work"}, func(ctx context.Context, d time.Duration) (int, error) {
		sluice.ReportThrottle(ctx, d)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.starts = append(p.starts, time.Now())
		return 0, nil
	}))
	t.Cleanup(func() {
		require.NoError(t, p.exec.Close(context.Background()))
		require.NoError(t, p.fleet.Close(context.Background()))
	})
	return p
}

// saturate has ten callers of each process call until ctx ends.
func saturate(ctx context.Context, list []*process) {
	var wg sync.WaitGroup
	for _, p := range list {
		for range 10 {
			wg.Go(func() {
				for ctx.Err() == nil {
					_, _ = p.call(ctx, 0)
				}
			})
		}
	}
	wg.Wait()
}

// within is how many calls have started in [from, to).
func within(list []*process, from, to time.Time) (n int) {
	for _, p := range list {
		p.mu.Lock()
		for _, at := range p.starts {
			if !at.Before(from) && at.Before(to) {
				n++
			}
		}
		p.mu.Unlock()
	}
	return n
}

// Four executors share a rate on a real server: no more than it allows start, and not much less. A throttle that one of
// them meets holds all.
func TestFleet_SharesARate(t *testing.T) {
	addr, prefix := server(t), "fleet-"+engine.NewOpID().String()
	var list []*process
	for range 4 {
		list = append(list, newProcess(t, sluiceredis.Config{Client: client(t, addr), Prefix: prefix}, sluice.Rate{N: 100, Burst: 20}))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	begun := time.Now()
	done := make(chan struct{})
	go func() { defer close(done); saturate(ctx, list) }()
	time.Sleep(2 * time.Second)

	ended := time.Now()
	n := within(list, begun, ended)
	t.Logf("%d started in %v", n, ended.Sub(begun))
	require.LessOrEqual(t, n, 20+int(100*ended.Sub(begun).Seconds())+1)
	require.GreaterOrEqual(t, n, 150, "of 220")

	const throttle = 1500 * time.Millisecond
	_, err := list[0].call(ctx, throttle)
	require.NoError(t, err)
	met := time.Now()
	time.Sleep(200 * time.Millisecond) // by which others have been told, also on a busy machine
	require.Zero(t, within(list, met.Add(200*time.Millisecond), met.Add(throttle-100*time.Millisecond)))
	<-done
	require.Zero(t, within(list, met.Add(200*time.Millisecond), met.Add(throttle-100*time.Millisecond)), "the key is held for all")
	require.Positive(t, within(list, met.Add(throttle), begun.Add(6*time.Second)), "and opens again")
}

// A throttle that one process meets stops the others as soon as they can have heard of it, on their own way to the
// server; and when it is over all of them together start no more than the rate, from one token on.
func TestFleet_AThrottleStopsAll(t *testing.T) {
	const throttle = 400 * time.Millisecond
	for _, far := range []time.Duration{0, 5 * time.Millisecond} { // there and back
		t.Run(far.String(), func(t *testing.T) {
			addr, prefix := server(t), "fleet-"+engine.NewOpID().String()
			var list []*process
			for range 4 {
				list = append(list, newProcess(t, sluiceredis.Config{Client: client(t, relay(t, addr, far/2)), Prefix: prefix}, sluice.Rate{N: 1000, Burst: 100}))
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			done := make(chan struct{})
			go func() { defer close(done); saturate(ctx, list) }()
			defer func() { cancel(); <-done }()
			time.Sleep(500 * time.Millisecond)
			var heard []time.Duration
			for i := range 12 {
				_, err := list[i%4].call(ctx, throttle)
				require.NoError(t, err)
				met := time.Now() // or a little later
				time.Sleep(throttle + 300*time.Millisecond)
				last, first := time.Duration(0), throttle+300*time.Millisecond
				for n, p := range list {
					p.mu.Lock()
					for _, at := range p.starts {
						switch after := at.Sub(met); {
						case after < throttle/2 && n != i%4:
							last = max(last, after)
						case after >= throttle/2:
							first = min(first, after)
						}
					}
					p.mu.Unlock()
				}
				heard = append(heard, last)
				require.Less(t, last, throttle/2-10*time.Millisecond, "others have not heard")
				require.Greater(t, first, throttle-50*time.Millisecond, "the key is held until the throttle is over")
				from := met.Add(throttle - 50*time.Millisecond)
				n := within(list, from, from.Add(300*time.Millisecond))
				require.LessOrEqual(t, n, 1+260, "they open again together, from one token on, not with a burst")
				require.Positive(t, n)
			}
			slices.Sort(heard)
			t.Logf("%v away, others started their last call %v (median), at most %v, after the throttle was met", far, heard[len(heard)/2], heard[len(heard)-1])
		})
	}
}

// The server's clock is the only one that counts, also if it is years off, and goes a little faster or slower than
// those of the processes.
func TestFleet_ClocksApart(t *testing.T) {
	for name, off := range map[string]time.Duration{"behind": -9 * 365 * 24 * time.Hour, "ahead": 9 * 365 * 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			m, _ := mini(t)
			begun, quit := time.Now(), make(chan struct{})
			tell := func() { m.SetTime(begun.Add(off + time.Since(begun)*105/100)) }
			tell()
			var clock sync.WaitGroup
			clock.Go(func() {
				for tick := time.NewTicker(time.Millisecond); ; {
					select {
					case <-tick.C:
						tell()
					case <-quit:
						tick.Stop()
						return
					}
				}
			})
			t.Cleanup(func() { close(quit); clock.Wait() })
			var list []*process
			for range 2 {
				c := client(t, m.Addr())
				list = append(list, newProcess(t, sluiceredis.Config{Client: c, Prefix: "fleet", NoEviction: true}, sluice.Rate{N: 100, Burst: 20}))
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			from := time.Now()
			saturate(ctx, list)
			d := time.Since(from)
			n := within(list, from, from.Add(d))
			require.LessOrEqual(t, float64(n), 20+100*1.05*d.Seconds()+2*4)
			require.GreaterOrEqual(t, n, 200, "of 335")
		})
	}
}
