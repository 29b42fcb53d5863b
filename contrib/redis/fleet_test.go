package sluiceredis_test

import (
	"context"
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

func newProcess(t *testing.T, addr, prefix string) *process {
	t.Helper()
	p := &process{}
	p.fleet = sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: open(t, sluiceredis.Config{Client: client(t, addr), Prefix: prefix})}))
	rate := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Fleet: p.fleet, Stock: 4, Upstream: true, Rates: []sluice.Rate{{N: 100, Burst: 20}}}))
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
		list = append(list, newProcess(t, addr, prefix))
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
