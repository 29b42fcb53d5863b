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

func (g *gauge) running() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now
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

// Four processes share eight slots: never more run, hardly any is idle, each has its part, and few calls cost a trip.
func TestFleet_SharesSlots(t *testing.T) {
	for _, c := range []struct {
		callers     int // of each process
		call        time.Duration
		mean, trips float64 // at least, at most
		lease       time.Duration
	}{
		{callers: 10, call: 20 * time.Millisecond, mean: 7.9, trips: 0.2, lease: time.Second},
		{callers: 10, call: 20 * time.Millisecond, mean: 7.9, trips: 0.15, lease: 10 * time.Second},
		{callers: 6, call: 200 * time.Millisecond, mean: 7.9, trips: 1.2, lease: 10 * time.Second},
		{callers: 1, call: 20 * time.Millisecond, mean: 3.9, trips: 0.06, lease: 10 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := newServer()
			g := newGauge()
			var list []*holder
			for range 4 {
				l := atMost(8)
				l.Lease = c.lease
				list = append(list, newHolder(e.link(), g, holderConfig{limit: l}))
			}
			time.Sleep(c.lease) // the engine is cold until then
			var group sync.WaitGroup
			group.Go(func() { occupy(g, list, c.callers, 34*time.Second, work{For: c.call}) })
			time.Sleep(3 * time.Second) // who came first had all of them
			g.take()
			e.calls()
			time.Sleep(30 * time.Second)
			mean, most, calls := g.take()
			n := 0
			for _, c := range calls {
				n += c
			}
			trips := float64(e.calls()) / float64(n)
			t.Logf("%d callers, calls of %v, leases of %v: mean %.3f, most %d, calls %v, trips for each %.3f", c.callers, c.call, c.lease, mean, most, calls, trips)
			require.LessOrEqual(t, most, int64(8))
			require.Greater(t, mean, c.mean)
			for _, c := range calls {
				require.InEpsilon(t, float64(n)/4, c, 0.1)
			}
			require.LessOrEqual(t, trips, c.trips)
			group.Wait()
			for _, p := range list {
				p.close(t)
			}
			all, err := e.memory.Slots().Acquire(t.Context(), engine.Claim{Key: slotsKey, Holder: "x", Units: 8, Limit: 8, TTL: time.Second})
			require.NoError(t, err, "all is given back")
			require.Zero(t, all.Wanted)
			e.close(t)
		})
	}
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

// notes is what a sink has heard.
type notes struct {
	mu   sync.Mutex
	list []string
}

func (n *notes) add(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = append(n.list, s)
}

func (n *notes) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.list)
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
				var told notes
				p := newHolder(link, nil, holderConfig{limit: atMost(8), fleet: sluice.FleetConfig{Away: away.mode, Share: away.share,
					Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
						told.add(e.By + " " + e.NewLimit)
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
					require.Equal(t, []string{"fleet away"}, told.all())
					require.True(t, p.state().Away)
				}
				_, most, _ = g.take()
				if away.mode != engine.Admit {
					require.EqualValues(t, 8, most)
				}
				if away.for2 > time.Second {
					require.EqualValues(t, 8-away.cut, g.running())
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

// An engine that has lost its data leases nothing before whoever it does not hear of must have stopped.
func TestFleet_SlotsOfAnEngineWithoutItsData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newServer()
		links := []*sluicetest.Chaos{e.link(), e.link()}
		a, b := newHolder(links[0], nil, holderConfig{limit: atMost(2)}), newHolder(links[1], nil, holderConfig{limit: atMost(2)})
		time.Sleep(time.Second)
		var group sync.WaitGroup
		for range 2 {
			group.Go(func() {
				_, err := a.tool(t.Context(), work{For: time.Minute})
				require.ErrorIs(t, err, sluice.ErrLeaseLost)
			})
		}
		time.Sleep(10 * time.Millisecond)
		links[0].Set(sluicetest.Gone)
		lost := time.Now()
		e.lose(t, links...)
		_, err := b.tool(t.Context(), work{})
		require.NoError(t, err)
		require.GreaterOrEqual(t, time.Since(lost), time.Second)
		require.Less(t, time.Since(lost), 1100*time.Millisecond)
		group.Wait()
		links[0].Set(sluicetest.Healthy)
		a.close(t)
		b.close(t)
		e.close(t)
	})
}

// When the engine's clock jumps ahead all leases have ended there at once. Who had them learns it with the next
// renewal, is told so, and all slots are used again.
func TestFleet_TheEnginesClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newServer()
		var told notes
		a := newHolder(e.link(), nil, holderConfig{limit: atMost(4), fleet: sluice.FleetConfig{
			Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
				told.add(fmt.Sprint(e.Kind, " ", e.By, ": ", e.OldLimit, " ", e.NewLimit))
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
		require.Equal(t, []string{"fleet.changed concurrency/slots global: 4 slots leased ended by the engine"}, told.all())
		g := newGauge()
		occupyCounted(g, []*holder{a, b}, 4, time.Second)
		mean, most, _ := g.take()
		require.LessOrEqual(t, most, int64(4))
		require.Greater(t, mean, 3.5)
		a.close(t)
		b.close(t)
		e.close(t)
	})
}

// A nested call runs on its ancestor's slot and has its fence; with a slot of its own it waits for that of another
// process.
func TestFleet_NestedCallsOnSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newServer()
		c := atMost(1)
		c.Limits[0].Scope = sluice.ForTool("work")
		a, b := newHolder(e.link(), nil, holderConfig{limit: c}), newHolder(e.link(), nil, holderConfig{limit: c})
		time.Sleep(time.Second)
		began := time.Now()
		fence, err := a.tool(t.Context(), work{For: 3 * time.Second, Do: func(ctx context.Context) error {
			outer, _ := sluice.Fence(ctx, "slots")
			inner, err := a.tool(ctx, work{For: time.Millisecond})
			require.NoError(t, err)
			require.Equal(t, outer, inner)
			return nil
		}})
		require.NoError(t, err)
		require.NotZero(t, fence)
		require.Equal(t, 3001*time.Millisecond, time.Since(began), "its lease was renewed")

		outer := sluice.Must(sluice.Wrap(a.exec, sluice.Spec{Name: "outer"}, func(ctx context.Context, _ struct{}) (uint64, error) { return b.tool(ctx, work{}) }))
		other, err := outer(t.Context(), struct{}{})
		require.NoError(t, err)
		require.Greater(t, other, fence)
		a.close(t)
		b.close(t)
		e.close(t)
	})
}

// A limit that is changed holds at the engine: less once calls end, also if no process waits for a slot, and more at once.
func TestFleet_ReconfigureSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newServer()
		g := newGauge()
		var list []*holder
		for range 4 {
			list = append(list, newHolder(e.link(), g, holderConfig{limit: atMost(8)}))
		}
		time.Sleep(time.Second)
		var group sync.WaitGroup
		group.Go(func() { occupy(g, list, 2, 9*time.Second, work{For: 20 * time.Millisecond}) })
		to := func(n int) {
			for _, p := range list {
				c := p.limit.Config()
				c.Limits[0].Max = n
				require.NoError(t, sluice.Reconfigure("test", p.limit.Change(c)))
			}
			time.Sleep(time.Second)
			g.take()
			time.Sleep(2 * time.Second)
			mean, most, _ := g.take()
			require.LessOrEqual(t, most, int64(n))
			require.Greater(t, mean, 0.93*float64(min(n, 8)))
		}
		to(4)
		to(8)
		to(3)
		group.Wait()
		for _, p := range list {
			p.close(t)
		}
		e.close(t)
	})
}

// However a call ends, its slot is there for the next.
func TestFleet_SlotsAreGivenBackHoweverCallsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newServer()
		p := newHolder(e.link(), nil, holderConfig{limit: atMost(1), config: sluice.Config{Timeout: time.Minute}})
		q := newHolder(e.link(), nil, holderConfig{limit: atMost(1)})
		time.Sleep(time.Second)
		for range 3 {
			for _, h := range []*holder{p, q} {
				for how, do := range []func(context.Context) error{
					func(context.Context) error { return nil },
					func(context.Context) error { return errors.New("no") },
					func(context.Context) error { panic("oh") },
					func(context.Context) error { runtime.Goexit(); return nil },
					func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
				} {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					if how == 4 {
						time.AfterFunc(2*time.Second, cancel)
					}
					ended := make(chan struct{})
					go func() { // Goexit may end it
						defer close(ended)
						_, err := h.tool(ctx, work{Do: do})
						require.Equal(t, how == 0, err == nil)
						require.NotErrorIs(t, err, sluice.ErrRejected)
						require.NotErrorIs(t, err, sluice.ErrLeaseLost)
					}()
					<-ended
					cancel()
				}
			}
		}
		waits, cancel := context.WithCancel(t.Context()) // nor does one that gives up waiting keep any
		var group sync.WaitGroup
		group.Go(func() { _, _ = p.tool(t.Context(), work{For: 6 * time.Second}) })
		time.Sleep(2 * time.Second)
		for range 5 {
			group.Go(func() {
				_, err := q.tool(waits, work{})
				require.ErrorIs(t, err, sluice.ErrRejected)
			})
		}
		time.Sleep(time.Second)
		cancel()
		group.Wait()
		p.close(t)
		q.close(t)
		_, err := e.memory.Slots().Acquire(t.Context(), engine.Claim{Key: slotsKey, Holder: "x", Limit: 1, TTL: time.Second})
		require.NoError(t, err)
		e.close(t)
	})
}

// Who does not wait is refused only once the engine has said that there is no slot.
func TestFleet_SlotsForWhoDoesNotWait(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e := newServer()
			c := holderConfig{limit: atMost(2)}
			if c.limit.Limits[0].Refuse = refuse; !refuse {
				c.config.MaxWait = sluice.NoWait
			}
			a, b := newHolder(e.link(), nil, c), newHolder(e.link(), nil, c)
			time.Sleep(time.Second)
			var group sync.WaitGroup
			for range 2 {
				group.Go(func() {
					_, err := a.tool(t.Context(), work{For: 2 * time.Second})
					require.NoError(t, err)
				})
			}
			time.Sleep(time.Second)
			for range 3 {
				began := time.Now()
				_, err := b.tool(t.Context(), work{})
				if refuse {
					require.ErrorIs(t, err, sluice.ErrSaturated)
				} else {
					require.ErrorIs(t, err, sluice.ErrWaitTooLong)
				}
				require.Zero(t, time.Since(began), "the engine answers at once")
			}
			group.Wait()
			time.Sleep(2 * time.Second)
			_, err := b.tool(t.Context(), work{})
			require.NoError(t, err)
			require.NoError(t, a.fleet.Close(t.Context()))
			_, err = a.tool(t.Context(), work{})
			require.ErrorIs(t, err, sluice.ErrSaturated, "its Fleet is closed")
			a.close(t)
			b.close(t)
			e.close(t)
		})
	}
}

// A Fleet that is closed refuses who waits for a slot, and leaves the line at the engine.
func TestFleet_CloseWhileSomebodyWaitsForASlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newServer()
		a, b := newHolder(e.link(), nil, holderConfig{limit: atMost(1)}), newHolder(e.link(), nil, holderConfig{limit: atMost(1)})
		time.Sleep(time.Second)
		var group sync.WaitGroup
		group.Go(func() {
			_, err := b.tool(t.Context(), work{For: time.Minute})
			require.ErrorIs(t, err, sluice.ErrLeaseLost, "nobody renews it any more")
		})
		synctest.Wait()
		group.Go(func() {
			_, err := a.tool(t.Context(), work{})
			require.ErrorIs(t, err, sluice.ErrSaturated)
		})
		time.Sleep(300 * time.Millisecond)
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		require.NoError(t, a.fleet.Close(ctx))
		require.Zero(t, time.Since(began))
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorContains(t, b.fleet.Close(short), "not all was given back", "a call runs on it")
		group.Wait()
		require.NoError(t, b.fleet.Close(t.Context()))
		require.NoError(t, a.exec.Close(t.Context()))
		require.NoError(t, b.exec.Close(t.Context()))
		e.close(t)
	})
}

// Each key has its slots, which are kept no longer than calls need them; and a call that needs all slots of a key
// gets them, however many others there are that need one.
func TestFleet_KeysAndWeights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newServer()
		running := make(map[string]int64)
		var mu sync.Mutex
		limit := sluice.ConcurrencyLimiterConfig{Name: "slots", Limits: []sluice.Limit{{Max: 4, Unit: "weight", MaxKeys: 10,
			Scope: sluice.ByKey("key", func(c sluice.Call) string { return c.Input.(work).Key })}}}
		list := []*holder{newHolder(e.link(), nil, holderConfig{limit: limit}), newHolder(e.link(), nil, holderConfig{limit: limit})}
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var group sync.WaitGroup
		var wide, narrow atomic.Int64
		for _, p := range list {
			for i := range 12 {
				group.Go(func() {
					for ctx.Err() == nil {
						w := work{Key: fmt.Sprint("k", i%3), Weight: 1}
						if i < 3 {
							w.Weight = 4
						}
						run := func(n int64) {
							mu.Lock()
							defer mu.Unlock()
							running[w.Key] += n
							require.LessOrEqual(t, running[w.Key], int64(4))
						}
						w.Do = func(context.Context) error {
							run(w.Weight)
							defer run(-w.Weight)
							time.Sleep(20 * time.Millisecond)
							return nil
						}
						_, err := p.tool(ctx, w)
						if err == nil {
							if w.Weight > 1 {
								wide.Add(1)
							} else {
								narrow.Add(1)
							}
						} else {
							time.Sleep(time.Millisecond)
						}
					}
				})
			}
		}
		group.Wait()
		t.Logf("%d wide, %d narrow", wide.Load(), narrow.Load())
		require.Greater(t, wide.Load(), int64(60))
		require.Greater(t, narrow.Load(), int64(600))
		for i := range 30 { // more keys than there is room for at once
			_, err := list[0].tool(t.Context(), work{Key: fmt.Sprint("other", i)})
			require.NoError(t, err)
			time.Sleep(300 * time.Millisecond)
		}
		for _, p := range list {
			p.close(t)
		}
		e.close(t)
	})
}

// Nobody waits in shadow, and those who would have are counted.
func TestFleet_SlotsInShadow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newServer()
		p := newHolder(e.link(), nil, holderConfig{limit: atMost(2), fleet: sluice.FleetConfig{Shadow: true}})
		time.Sleep(time.Second)
		var group sync.WaitGroup
		for range 5 {
			group.Go(func() {
				_, err := p.tool(t.Context(), work{For: 2 * time.Second})
				require.NoError(t, err)
			})
			time.Sleep(time.Millisecond)
		}
		s := p.state()
		require.EqualValues(t, []any{int64(2), uint64(3)}, []any{s.Slots, s.Short})
		group.Wait()
		p.close(t)
		e.close(t)
	})
}

// Whatever the engine does, and calls: at no instant more of them run that have not been told to end than there are
// slots, and once the engine is well, all slots are used.
func TestFleet_SlotsStorm(t *testing.T) {
	seed := *stormSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	for i := range *storms {
		if !t.Run("", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { slotsStorm(t, seed+uint64(i)) }) }) {
			return
		}
	}
}

func slotsStorm(t *testing.T, seed uint64) {
	t.Logf("-storm-seed %d", seed)
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 1))
	n := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	limit, processes := 1+n(10), 1+n(4)
	lease := time.Duration(200+n(2000)) * time.Millisecond
	e, g := newServer(), newGauge()
	var list []*holder
	var links []*sluicetest.Chaos
	var calls, lost atomic.Int64
	for range processes {
		c := atMost(limit)
		c.Lease, c.Limits[0].Refuse, c.Limits[0].Unit = lease, n(5) == 0, "weight"
		links = append(links, e.link())
		list = append(list, newHolder(links[len(links)-1], nil, holderConfig{limit: c, fleet: sluice.FleetConfig{Budget: time.Duration(10+n(50)) * time.Millisecond}}))
	}
	rest, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	do := func(p *holder, w work) func(context.Context) error {
		how, d := n(30), time.Duration(n(int(30*time.Millisecond)))
		if n(20) == 0 {
			d *= 100
		}
		nested := n(10) == 0
		return func(ctx context.Context) error {
			calls.Add(1)
			g.add(w.Weight)
			left := sync.OnceFunc(func() { g.add(-w.Weight) }) // whichever is first, its end or that it is told to
			defer context.AfterFunc(ctx, left)()
			defer left()
			if nested { // on the same slots
				inner := work{Weight: 1, For: time.Duration(n(int(10 * time.Millisecond)))}
				_, _ = p.tool(ctx, inner)
			}
			timer := time.NewTimer(d)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				if errors.Is(context.Cause(ctx), sluice.ErrLeaseLost) {
					lost.Add(1)
				}
				if how%2 == 0 { // it does not heed that
					time.Sleep(d)
				}
				return ctx.Err()
			}
			switch how {
			case 0:
				panic("storm")
			case 1:
				runtime.Goexit()
			}
			return nil
		}
	}
	for _, p := range list {
		for range 1 + n(12) {
			group.Go(func() {
				for rest.Err() == nil {
					done := make(chan error, 1)
					go func() { // Goexit ends it
						err := errors.New("ended")
						defer func() { done <- err }()
						ctx, cancel := rest, func() {}
						if n(3) == 0 {
							ctx, cancel = context.WithTimeout(rest, time.Duration(n(int(time.Second))))
						}
						defer cancel()
						w := work{Weight: 1}
						if n(10) == 0 {
							w.Weight = int64(1 + n(limit))
						}
						w.Do = do(p, w)
						_, err = p.tool(ctx, w)
					}()
					if <-done != nil {
						time.Sleep(time.Duration(1 + n(int(20*time.Millisecond))))
					}
					if n(10) == 0 {
						time.Sleep(time.Duration(n(2000)) * time.Millisecond)
					}
				}
			})
		}
	}
	faults := []sluicetest.Fault{sluicetest.Healthy, sluicetest.Slow, sluicetest.Gone, sluicetest.Refusing, sluicetest.LosingAcks,
		sluicetest.Dropping, sluicetest.Restarting, sluicetest.Lying, sluicetest.Panicking, sluicetest.Exiting, sluicetest.Healthy, sluicetest.Healthy}
	for range 40 {
		if n(2) == 0 {
			f := faults[n(len(faults))]
			for _, l := range links {
				l.Set(f)
			}
		} else {
			links[n(len(links))].Set(faults[n(len(faults))])
		}
		switch n(8) {
		case 0:
			e.lose(t, links...)
		case 1:
			_ = list[0].exec.Snapshot()
			_ = list[0].exec.Explain(t.Context(), sluice.Request{Tool: "work", Input: work{}})
		}
		time.Sleep(time.Duration(n(int(time.Second))))
	}
	for _, l := range links {
		l.Set(sluicetest.Healthy)
	}
	stop()
	group.Wait()
	_, most, _ := g.take()
	t.Logf("%d processes, limit %d, lease %v: %d calls, %d lost their leases, at most %d at once", processes, limit, lease, calls.Load(), lost.Load(), most)
	require.LessOrEqual(t, most, int64(limit))

	for _, p := range list {
		c := p.limit.Config()
		c.Limits[0].Refuse = false
		require.NoError(t, sluice.Reconfigure("storm", p.limit.Change(c)))
	}
	time.Sleep(2*lease + 3*time.Second)
	all := newGauge()
	look := time.AfterFunc(2*time.Second, func() {
		for i, p := range list {
			s := p.exec.Snapshot()
			t.Logf("process %d has %d slots, %d run, %d wait; %+v %+v", i, s.Fleets[0].Slots, s.InFlight, s.Queued, s.Gates, s.Fleets)
		}
	})
	defer look.Stop()
	occupyCounted(all, list, limit+3, 3*time.Second)
	mean, most, _ := all.take()
	require.LessOrEqual(t, most, int64(limit))
	require.Greater(t, mean, 0.85*float64(limit), "once all is well")
	for _, p := range list {
		p.close(t)
	}
	e.close(t)
}

// occupyCounted is occupy of processes that have no gauge.
func occupyCounted(g *gauge, list []*holder, callers int, d time.Duration) {
	occupy(g, list, callers, d, work{Do: func(ctx context.Context) error {
		g.add(1)
		defer g.add(-1)
		time.Sleep(20 * time.Millisecond)
		return nil
	}})
}
