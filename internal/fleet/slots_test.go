package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/require"
)

// counted is an engine that counts what is asked of its slots. It is none of the process: what it has begins cold.
type counted struct {
	engine.Engine
	asked atomic.Int64
}

func (c *counted) Slots() engine.Slots { return countedSlots{c.Engine.Slots(), &c.asked} }

type countedSlots struct {
	engine.Slots
	asked *atomic.Int64
}

func (c countedSlots) Acquire(ctx context.Context, x engine.Claim) (engine.Lease, error) {
	c.asked.Add(1)
	return c.Slots.Acquire(ctx, x)
}

func (c countedSlots) Renew(ctx context.Context, ttl time.Duration, l ...engine.Lease) ([]engine.Lease, error) {
	c.asked.Add(1)
	return c.Slots.Renew(ctx, ttl, l...)
}

func (c countedSlots) Resize(ctx context.Context, l engine.Lease, units, limit int) (engine.Lease, error) {
	c.asked.Add(1)
	return c.Slots.Resize(ctx, l, units, limit)
}

func (c countedSlots) Release(ctx context.Context, l ...engine.Lease) error {
	c.asked.Add(1)
	return c.Slots.Release(ctx, l...)
}

// gauge is how many calls of all processes run, at most and on average.
type gauge struct {
	mu    sync.Mutex
	begin time.Time
	last  time.Time
	area  float64
	now   int64
	most  int64
	calls map[int]int
	units func(ctx context.Context) int64
}

func newGauge() *gauge {
	return &gauge{begin: time.Now(), last: time.Now(), calls: make(map[int]int)}
}

func (g *gauge) add(n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.area += float64(g.now) * now.Sub(g.last).Seconds()
	g.last = now
	g.now += n
	g.most = max(g.most, g.now)
}

func (g *gauge) ran(process int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls[process]++
}

// take is the mean since the last take, and the most.
func (g *gauge) take() (mean float64, most int64, calls []int) {
	g.add(0)
	g.mu.Lock()
	defer g.mu.Unlock()
	mean, most = g.area/time.Since(g.begin).Seconds(), g.most
	for i := range len(g.calls) {
		calls = append(calls, g.calls[i])
	}
	g.begin, g.area, g.most, g.calls = time.Now(), 0, g.now, make(map[int]int)
	return mean, most, calls
}

// holder is an executor with one tool "work" and one concurrency limiter, of a fleet of its own.
type holder struct {
	fleet *sluice.Fleet
	limit *sluice.ConcurrencyLimiter
	exec  *sluice.Executor
	tool  func(context.Context, work) (uint64, error)
}

type work struct {
	For    time.Duration
	Weight int64
	Key    string
	Deaf   bool // it does not heed its context
	Do     func(ctx context.Context) error
}

type holderConfig struct {
	fleet  sluice.FleetConfig
	limit  sluice.ConcurrencyLimiterConfig
	config sluice.Config
	with   []sluice.Interceptor
	policy sluice.Policy
}

func newHolder(e engine.Engine, g *gauge, c holderConfig) *holder {
	c.fleet.Engine = e
	p := &holder{fleet: sluice.Must(sluice.NewFleet(c.fleet))}
	c.limit.Fleet = p.fleet
	if c.limit.Lease == 0 {
		c.limit.Lease = time.Second
	}
	p.limit = sluice.Must(sluice.NewConcurrencyLimiter(c.limit))
	c.config.Interceptors = append(c.with, p.limit)
	p.exec = sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), c.config))
	c.policy.Cost = func(c sluice.Call, unit string) int64 { return max(1, c.Input.(work).Weight) }
	p.tool = sluice.Must(sluice.Wrap(p.exec, sluice.Spec{Name: "work", Policy: c.policy}, func(ctx context.Context, w work) (uint64, error) {
		n := max(1, w.Weight)
		if g != nil {
			g.add(n)
			defer g.add(-n)
		}
		fence, _ := sluice.Fence(ctx, p.limit.String())
		if w.Do != nil {
			if err := w.Do(ctx); err != nil {
				return fence, err
			}
		}
		if w.Deaf {
			time.Sleep(w.For)
			return fence, nil
		}
		t := time.NewTimer(w.For)
		defer t.Stop()
		select {
		case <-t.C:
			return fence, nil
		case <-ctx.Done():
			return fence, ctx.Err()
		}
	}))
	return p
}

func (p *holder) close(t *testing.T) {
	t.Helper()
	require.NoError(t, p.exec.Close(context.Background()))
	require.NoError(t, p.fleet.Close(context.Background()))
}

func (p *holder) state() sluice.FleetState { return p.exec.Snapshot().Fleets[0] }

func atMost(n int) sluice.ConcurrencyLimiterConfig {
	return sluice.ConcurrencyLimiterConfig{Name: "slots", Limits: []sluice.Limit{{Max: n}}}
}

// occupy has so many callers of each process call until the time is over.
func occupy(g *gauge, list []*holder, callers int, d time.Duration, what work) {
	var group sync.WaitGroup
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	for i, p := range list {
		for range callers {
			group.Go(func() {
				for ctx.Err() == nil {
					if _, err := p.tool(ctx, what); err == nil {
						g.ran(i)
					} else {
						time.Sleep(10*time.Millisecond)
					}
				}
			})
		}
	}
	group.Wait()
}

// Four processes with ten callers each share eight slots: never more run, hardly any is idle, each has its part,
// and few calls cost a trip.
func TestFleet_SharesSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := memory(t)
		defer m.Close()
		e := &counted{Engine: m}
		g := newGauge()
		var list []*holder
		for range 4 {
			list = append(list, newHolder(e, g, holderConfig{limit: atMost(8)}))
		}
		time.Sleep(2 * time.Second) // the engine is cold until then
		g.take()
		occupy(g, list, 10, 20*time.Second, work{For: 20 * time.Millisecond})
		mean, most, calls := g.take()
		n := 0
		for _, c := range calls {
			n += c
		}
		scripts := float64(e.asked.Load()) / float64(n)
		t.Logf("mean %.3f, most %d, calls %v, scripts for each %.3f", mean, most, calls, scripts)
		require.EqualValues(t, 8, most)
		require.Greater(t, mean, 7.5)
		for _, c := range calls {
			require.InEpsilon(t, float64(n)/4, c, 0.1)
		}
		require.LessOrEqual(t, scripts, 0.4)
		for _, p := range list {
			p.close(t)
		}
		_, err := m.Slots().Acquire(t.Context(), engine.Claim{Key: "sluice1/fleet/slots/concurrency/slots global/", Holder: "x", Units: 8, Limit: 8, TTL: time.Second})
		require.NoError(t, err, "all is given back")
	})
}

var (
	_ = errors.Is
	_ = fmt.Sprint
	_ = rand.N[int]
	_ = runtime.Goexit
	_ = slices.Contains[[]int]
	_ = sluicetest.NewChaos
)
