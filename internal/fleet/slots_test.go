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

// server is an engine for several processes, which can lose its data, or have all leases end at once.
type server struct {
	mu     sync.Mutex
	memory *engine.Memory
	asked  int // about slots
	leases []engine.Lease
}

func newServer() *server {
	return &server{memory: sluice.Must(engine.NewMemory(engine.MemoryConfig{}))}
}

// link is how one process reaches it.
func (s *server) link() *sluicetest.Chaos {
	return sluice.Must(sluicetest.NewChaos(sluicetest.ChaosConfig{Seed: 1, Delay: 50 * time.Millisecond, Open: func() (engine.Engine, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return served{s.memory, s}, nil
	}}))
}

// lose has it begin anew, without its data.
func (s *server) lose(t *testing.T, links ...*sluicetest.Chaos) {
	s.mu.Lock()
	old := s.memory
	s.memory = sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
	s.mu.Unlock()
	for _, l := range links {
		require.NoError(t, l.Restart())
	}
	require.NoError(t, old.Close())
}

// step has all leases end, as when its clock jumps ahead.
func (s *server) step(t *testing.T) {
	s.mu.Lock()
	list := s.leases
	s.leases = nil
	s.mu.Unlock()
	require.NoError(t, s.memory.Slots().Release(context.Background(), list...))
}

// calls is how often it was asked about slots since that was asked last.
func (s *server) calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.asked
	s.asked = 0
	return n
}

func (s *server) close(t *testing.T) { require.NoError(t, s.memory.Close()) }

// served is none of the process: what it has begins cold.
type served struct {
	engine.Engine
	server *server
}

func (e served) Slots() engine.Slots { return servedSlots{e.Engine.Slots(), e.server} }
func (e served) Close() error        { return nil }

type servedSlots struct {
	engine.Slots
	server *server
}

func (c servedSlots) count() {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	c.server.asked++
}

func (c servedSlots) Acquire(ctx context.Context, x engine.Claim) (engine.Lease, error) {
	c.count()
	l, err := c.Slots.Acquire(ctx, x)
	if err == nil {
		c.server.mu.Lock()
		c.server.leases = append(c.server.leases, l)
		c.server.mu.Unlock()
	}
	return l, err
}

func (c servedSlots) Renew(ctx context.Context, ttl time.Duration, l ...engine.Lease) ([]engine.Lease, error) {
	c.count()
	return c.Slots.Renew(ctx, ttl, l...)
}

func (c servedSlots) Resize(ctx context.Context, l engine.Lease, units, limit int) (engine.Lease, error) {
	c.count()
	return c.Slots.Resize(ctx, l, units, limit)
}

func (c servedSlots) Release(ctx context.Context, l ...engine.Lease) error {
	c.count()
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
						time.Sleep(10 * time.Millisecond)
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
		e := newServer()
		g := newGauge()
		var list []*holder
		for range 4 {
			list = append(list, newHolder(e.link(), g, holderConfig{limit: atMost(8)}))
		}
		time.Sleep(2 * time.Second) // the engine is cold until then
		occupy(g, list, 10, 2*time.Second, work{For: 20 * time.Millisecond})
		g.take()
		e.calls()
		occupy(g, list, 10, 20*time.Second, work{For: 20 * time.Millisecond})
		mean, most, calls := g.take()
		n := 0
		for _, c := range calls {
			n += c
		}
		scripts := float64(e.calls()) / float64(n)
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
		all, err := e.memory.Slots().Acquire(t.Context(), engine.Claim{Key: slotsKey, Holder: "x", Units: 8, Limit: 8, TTL: time.Second})
		require.NoError(t, err, "all is given back")
		require.Zero(t, all.Wanted)
		e.close(t)
	})
}

const slotsKey = "sluice1/fleet/slots/concurrency/slots global/"

// While nobody else wants any a process has as many slots as its calls need, and keeps those that it does not use
// for a while only.
func TestFleet_SlotsGoBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newServer()
		a, b := newHolder(e.link(), nil, holderConfig{limit: atMost(8)}), newHolder(e.link(), nil, holderConfig{limit: atMost(8)})
		time.Sleep(time.Second)
		g := newGauge()
		occupy(g, []*holder{a}, 6, time.Second, work{For: 100 * time.Millisecond})
		require.EqualValues(t, 6, a.state().Slots)
		time.Sleep(linger + 1001*time.Millisecond)
		require.Zero(t, a.state().Slots)

		occupy(g, []*holder{a}, 8, time.Second, work{For: 100 * time.Millisecond})
		require.EqualValues(t, 8, a.state().Slots)
		began := time.Now() // what is unused goes back at once if somebody wants it
		_, err := b.tool(t.Context(), work{})
		require.NoError(t, err)
		require.LessOrEqual(t, time.Since(began), 500*time.Millisecond)
		a.close(t)
		b.close(t)
		e.close(t)
	})
}

const linger = time.Second

// A process that vanishes has its slots used by others after a lease at most.
func TestFleet_SlotsOfAKilledProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newServer()
		g := newGauge()
		link := e.link()
		killed := newHolder(link, nil, holderConfig{limit: atMost(8)})
		others := []*holder{newHolder(e.link(), g, holderConfig{limit: atMost(8)}), newHolder(e.link(), g, holderConfig{limit: atMost(8)})}
		time.Sleep(time.Second)
		occupy(newGauge(), []*holder{killed}, 8, time.Second, work{For: 20 * time.Millisecond})
		require.EqualValues(t, 8, killed.state().Slots)
		link.Set(sluicetest.Gone)
		var group sync.WaitGroup
		group.Go(func() { occupy(g, others, 10, 5*time.Second, work{For: 20 * time.Millisecond}) })
		time.Sleep(time.Second)
		g.take()
		time.Sleep(3 * time.Second)
		mean, most, _ := g.take()
		group.Wait()
		require.EqualValues(t, 8, most)
		require.Greater(t, mean, 7.9)
		link.Set(sluicetest.Healthy)
		for _, p := range append(others, killed) {
			p.close(t)
		}
		e.close(t)
	})
}

// resource is what a limit protects: it refuses whoever comes with a smaller number than it has seen.
type resource struct {
	mu   sync.Mutex
	seen uint64
}

func (r *resource) write(fence uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if fence < r.seen {
		return errors.New("stale")
	}
	r.seen = fence
	return nil
}

// A holder that is cut off has its context canceled before its lease ends; if it goes on all the same, what the
// limit protects refuses it.
func TestFleet_StaleHolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newServer()
		links := []*sluicetest.Chaos{e.link(), e.link()}
		a, b := newHolder(links[0], nil, holderConfig{limit: atMost(1)}), newHolder(links[1], nil, holderConfig{limit: atMost(1)})
		time.Sleep(time.Second)
		var r resource
		began := time.Now()
		var cause error
		var lost time.Duration
		late := make(chan error, 1)
		_, err := a.tool(t.Context(), work{Do: func(ctx context.Context) error {
			fence, ok := sluice.Fence(ctx, "slots")
			require.True(t, ok)
			same, ok := sluice.Fence(ctx, "concurrency/slots global")
			require.True(t, ok)
			require.Equal(t, fence, same)
			_, ok = sluice.Fence(ctx, "another")
			require.False(t, ok)
			require.NoError(t, r.write(fence))
			links[0].Set(sluicetest.Gone)
			<-ctx.Done()
			cause, lost = context.Cause(ctx), time.Since(began)
			go func() { // as code does that does not know
				time.Sleep(2 * time.Second)
				late <- r.write(fence)
			}()
			return ctx.Err()
		}})
		require.ErrorIs(t, err, sluice.ErrLeaseLost)
		require.ErrorIs(t, err, context.Canceled)
		require.NotErrorIs(t, err, sluice.ErrRejected)
		require.ErrorIs(t, cause, sluice.ErrLeaseLost)
		require.Equal(t, 900*time.Millisecond, lost, "a tenth is left")
		fence, err := b.tool(t.Context(), work{})
		require.NoError(t, err)
		require.InDelta(t, time.Second, time.Since(began), float64(time.Millisecond))
		require.NoError(t, r.write(fence))
		require.EqualError(t, <-late, "stale")
		_, ok := sluice.Fence(t.Context(), "slots")
		require.False(t, ok)
		links[0].Set(sluicetest.Healthy)
		a.close(t)
		b.close(t)
		e.close(t)
	})
}

// What holds while the engine is away: leases for as long as they last, and then what the Fleet says.
func TestFleet_SlotsWhileTheEngineIsAway(t *testing.T) {
	for _, away := range []struct {
		mode    engine.Mode
		share   int
		cut     int // calls of eight that are canceled
		done    int // of twenty that wait then
		for2    time.Duration
		without bool // its data
	}{
		{mode: engine.Deny, for2: 500 * time.Millisecond},
		{mode: engine.Deny, for2: 500 * time.Millisecond, without: true},
		{mode: engine.Deny, for2: 3 * time.Second, cut: 8},
		{mode: engine.Deny, for2: 3 * time.Second, cut: 8, without: true},
		{mode: engine.LocalShare, share: 4, for2: 3 * time.Second, cut: 6},
		{mode: engine.LocalShare, share: 100, for2: 3 * time.Second, cut: 7},
		{mode: engine.Admit, for2: 3 * time.Second, done: 20},
	} {
		t.Run(fmt.Sprint(away), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newServer()
				link := e.link()
				var told []string
				p := newHolder(link, nil, holderConfig{limit: atMost(8), fleet: sluice.FleetConfig{Away: away.mode, Share: away.share,
					Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
						told = append(told, e.By+" "+e.NewLimit)
						return nil
					})}})
				time.Sleep(time.Second)
				g := newGauge()
				var canceled, done atomic.Int64
				call := func(d time.Duration) {
					_, err := p.tool(t.Context(), work{For: d, Do: func(ctx context.Context) error {
						g.add(1)
						stop := context.AfterFunc(ctx, func() { g.add(-1) })
						if d > 0 {
							time.Sleep(d)
						} else {
							<-ctx.Done()
						}
						if stop() {
							g.add(-1)
						}
						return ctx.Err()
					}})
					if errors.Is(err, sluice.ErrLeaseLost) {
						canceled.Add(1)
					} else {
						require.NoError(t, err)
					}
				}
				var group sync.WaitGroup
				for range 8 {
					group.Go(func() { call(8 * time.Second) })
				}
				time.Sleep(10 * time.Millisecond)
				_, most, _ := g.take()
				require.EqualValues(t, 8, most)
				link.Set(sluicetest.Gone)
				if away.without {
					e.lose(t, link)
				}
				for range 20 {
					group.Go(func() {
						call(100 * time.Millisecond)
						done.Add(1)
					})
				}
				time.Sleep(away.for2 - time.Millisecond)
				if away.for2 > time.Second {
					require.Equal(t, []string{"fleet away"}, told)
					require.True(t, p.state().Away)
				}
				_, most, _ = g.take()
				if away.mode != engine.Admit {
					require.EqualValues(t, 8, most)
				}
				if away.for2 > time.Second {
					require.EqualValues(t, 8-away.cut, g.now)
					require.EqualValues(t, away.done, done.Load())
				}
				time.Sleep(time.Millisecond)
				link.Set(sluicetest.Healthy)
				group.Wait()
				require.EqualValues(t, away.cut, canceled.Load())
				if away.mode != engine.Admit {
					_, most, _ = g.take()
					require.LessOrEqual(t, most, int64(8))
				}
				require.False(t, p.state().Away)
				p.close(t)
				e.close(t)
			})
		})
	}
}

// When the engine's clock jumps ahead all leases have ended there at once. Who had them learns it with the next
// renewal, is told so, and all slots are used again.
func TestFleet_TheEnginesClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newServer()
		var told []string
		a := newHolder(e.link(), nil, holderConfig{limit: atMost(4), fleet: sluice.FleetConfig{
			Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
				told = append(told, fmt.Sprint(e.Kind, " ", e.By, ": ", e.OldLimit, " ", e.NewLimit))
				return nil
			})}})
		b := newHolder(e.link(), nil, holderConfig{limit: atMost(4)})
		time.Sleep(time.Second)
		var lost atomic.Int64
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				began := time.Now()
				_, err := a.tool(t.Context(), work{For: time.Minute})
				require.ErrorIs(t, err, sluice.ErrLeaseLost)
				require.Less(t, time.Since(began), 350*time.Millisecond)
				lost.Add(1)
			})
		}
		synctest.Wait()
		e.step(t)
		group.Wait()
		require.EqualValues(t, 4, lost.Load())
		synctest.Wait()
		require.Equal(t, []string{"fleet.changed concurrency/slots global: 4 slots leased ended by the engine"}, told)
		g := newGauge()
		occupy(g, []*holder{a, b}, 4, time.Second, work{For: 10 * time.Millisecond})
		mean, _, _ := g.take()
		_ = mean
		a.close(t)
		b.close(t)
		e.close(t)
	})
}

var (
	_ = rand.N[int]
	_ = runtime.Goexit
	_ = slices.Contains[[]int]
)
