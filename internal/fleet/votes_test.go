package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/require"
)

// callee is a tool of several processes: what has reached it, and how.
type callee struct {
	mu      sync.Mutex
	begin   time.Time
	dead    bool
	fails   *rand.Rand // one call in five
	failed  int
	takes   time.Duration
	reached []time.Duration // when each call began
	by      []int           // of which process
	now     int
	most    int // at once
	mostOf  map[int]int
	at      map[int]int
}

func newCallee() *callee {
	return &callee{begin: time.Now(), dead: true, at: map[int]int{}, mostOf: map[int]int{}}
}

var errDead = errors.New("dead")

func (x *callee) call(who int) error {
	x.mu.Lock()
	x.reached = append(x.reached, time.Since(x.begin))
	x.by = append(x.by, who)
	x.now++
	x.at[who]++
	x.most, x.mostOf[who] = max(x.most, x.now), max(x.mostOf[who], x.at[who])
	takes := x.takes
	x.mu.Unlock()
	if takes > 0 {
		time.Sleep(takes)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.now--
	x.at[who]--
	if x.dead || x.fails != nil && x.fails.IntN(5) == 0 {
		x.failed++
		return errDead
	}
	return nil
}

func (x *callee) set(dead bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dead = dead
}

// since is how many calls have begun from that instant on.
func (x *callee) since(d time.Duration) (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, at := range x.reached {
		if at >= d {
			n++
		}
	}
	return n
}

// judge is a process with a breaker that it has with others.
type judge struct {
	fleet   *sluice.Fleet
	breaker *sluice.CircuitBreaker
	exec    *sluice.Executor
	tool    func(context.Context, struct{}) (int, error)
	heard   *sluice.Recorder
}

// about hears what breakers do, and nothing else.
type about struct{ *sluice.Recorder }

func (about) Enabled(k sluice.EventKind) bool { return k == sluice.BreakerStateChanged }

func newJudge(e engine.Engine, x *callee, who int, c sluice.CircuitBreakerConfig) *judge {
	p := &judge{heard: new(sluice.Recorder)} // of breakers alone
	if e != nil {
		p.fleet = sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: e, Origin: fmt.Sprintf("process%d", who)}))
		c.Fleet = p.fleet
	}
	p.breaker = sluice.Must(sluice.NewCircuitBreaker(c))
	p.exec = sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{p.breaker}, Sink: about{p.heard}}))
	p.tool = sluice.Must(sluice.Wrap(p.exec, sluice.Spec{Name: "work"}, func(context.Context, struct{}) (int, error) { return 0, x.call(who) }))
	return p
}

func (p *judge) close(t *testing.T) {
	require.NoError(t, p.exec.Close(context.Background()))
	if p.fleet != nil {
		require.NoError(t, p.fleet.Close(context.Background()))
	}
}

// paced has p call every so often until ctx ends, one call after the other.
func (p *judge) paced(ctx context.Context, every time.Duration) {
	for ctx.Err() == nil {
		_, _ = p.tool(ctx, struct{}{})
		select {
		case <-time.After(every):
		case <-ctx.Done():
		}
	}
}

// rail is how one process reaches an engine: it can be cut, and then it hears nothing either.
type rail struct {
	engine.Engine
	mu     sync.Mutex
	isCut  bool
	change chan struct{} // closed when that changes
	trips  int           // changes that were asked for
	lose   int           // so many of their answers are lost
	late   time.Duration // how long those take that come
	dead   bool          // for ever
}

func newRail(e engine.Engine) *rail { return &rail{Engine: e, change: make(chan struct{})} }

func (r *rail) cut(is bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.isCut != is {
		r.isCut = is
		close(r.change)
		r.change = make(chan struct{})
	}
}

// to puts another engine in the place of the one that there was, which has lost its data.
func (r *rail) to(e engine.Engine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Engine = e
	close(r.change)
	r.change = make(chan struct{})
}

func (r *rail) now() (e engine.Engine, isCut bool, change chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.Engine, r.isCut, r.change
}

func (r *rail) taken() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.trips
}

func (r *rail) Store() engine.Store { return railStore{r} }
func (r *rail) Limits() engine.Limits {
	return engine.Limits{MinTTL: time.Millisecond, OpMemory: 2 * time.Minute, MaxValue: 1 << 20}
}

type railStore struct{ r *rail }

func (s railStore) inner(ctx context.Context) (engine.Store, error) {
	e, isCut, _ := s.r.now()
	if isCut {
		<-ctx.Done()
		return nil, fmt.Errorf("%w: %w", engine.ErrUnsure, context.Cause(ctx))
	}
	return e.Store(), nil
}

func (s railStore) Read(ctx context.Context, key string) (engine.Record, error) {
	i, err := s.inner(ctx)
	if err != nil {
		return engine.Record{}, err
	}
	return i.Read(ctx, key)
}

func (s railStore) Write(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
	i, err := s.inner(ctx)
	if err != nil {
		return 0, err
	}
	return i.Write(ctx, key, was, value, ttl)
}

func (s railStore) Erase(ctx context.Context, key string, was engine.Revision) error {
	i, err := s.inner(ctx)
	if err != nil {
		return err
	}
	return i.Erase(ctx, key, was)
}

func (s railStore) Fetch(ctx context.Context, keys ...string) ([]engine.Record, error) {
	i, err := s.inner(ctx)
	if err != nil {
		return nil, err
	}
	return i.Fetch(ctx, keys...)
}

func (s railStore) Commit(ctx context.Context, op engine.OpID, list ...engine.Change) ([]engine.Revision, error) {
	s.r.mu.Lock()
	s.r.trips++
	lost, late := s.r.lose > 0, s.r.late
	s.r.lose = max(0, s.r.lose-1)
	s.r.mu.Unlock()
	i, err := s.inner(ctx)
	if err != nil {
		return nil, err
	}
	revs, err := i.Commit(ctx, op, list...)
	if lost {
		return nil, fmt.Errorf("%w: the answer was lost", engine.ErrUnsure)
	}
	if late > 0 {
		time.Sleep(late)
	}
	return revs, err
}

func (s railStore) Add(ctx context.Context, op engine.OpID, key string, delta int64, within *engine.Bound, ttl time.Duration) (int64, int64, error) {
	i, err := s.inner(ctx)
	if err != nil {
		return 0, 0, err
	}
	return i.Add(ctx, op, key, delta, within, ttl)
}

// Follow ends whenever the rail is cut, or leads elsewhere.
func (s railStore) Follow(ctx context.Context, prefix string) iter.Seq2[engine.Record, error] {
	return func(yield func(engine.Record, error) bool) {
		e, isCut, change := s.r.now()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			select {
			case <-change:
				cancel()
			case <-ctx.Done():
			}
		}()
		if isCut {
			<-ctx.Done()
			yield(engine.Record{}, fmt.Errorf("%w: %w", engine.ErrUnsure, context.Cause(ctx)))
			return
		}
		for rec, err := range e.Store().Follow(ctx, prefix) {
			if !yield(rec, err) {
				return
			}
		}
	}
}

// Eight processes, some of them with 20 calls a second and the others with 2, call a tool that is dead for a minute. Alone
// each of them has its threshold of failures and its probes. Together they have the thresholds of a quorum, whoever meets
// them, and one probe in each round.
func TestFleet_BreakersVote(t *testing.T) {
	for _, x := range []struct{ busy, quorum int }{{2, 0}, {2, 1}, {2, 2}, {8, 0}, {8, 1}, {8, 2}, {8, 3}} { // quorum 0: alone
		busy, quorum := x.busy, x.quorum
		t.Run(fmt.Sprintf("busy %d, quorum %d", busy, quorum), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const processes, threshold = 8, 5
				e := memory(t)
				x := newCallee()
				var list []*judge
				for i := range processes {
					var of engine.Engine = e
					if quorum == 0 {
						of = nil
					}
					list = append(list, newJudge(of, x, i, sluice.CircuitBreakerConfig{Failures: threshold, Quorum: quorum, Cooldown: time.Second}))
				}
				ctx, stop := context.WithTimeout(context.Background(), time.Minute)
				defer stop()
				var group sync.WaitGroup
				for i, p := range list {
					group.Go(func() {
						every := 50 * time.Millisecond
						time.Sleep(time.Duration(i) * time.Millisecond)
						if i >= busy {
							every = 500 * time.Millisecond
							time.Sleep(every)
						}
						p.paced(ctx, every)
					})
				}
				group.Wait()
				t.Logf("quorum %d: %d calls, by %v at %v", quorum, len(x.reached), x.by, x.reached)
				const rounds = 5 // of open times of 1, 2, 4, 8, 16 and 32 seconds
				switch quorum {
				case 0:
					require.Len(t, x.reached, processes*(threshold+rounds))
				default:
					require.Len(t, x.reached, quorum*threshold+rounds)
					require.Equal(t, rounds, x.since(time.Second), "one probe in each round")
				}
				require.Equal(t, 1, x.most)
				for _, p := range list {
					p.close(t)
				}
				_ = e.Close()
			})
		})
	}
}

// A tool of which one call in five fails is no dead one, however many processes meet the failures: a success of any of them
// ends the rows of all. And they say little of it.
func TestFleet_FailuresNowAndThen(t *testing.T) {
	for quorum := 1; quorum <= 2; quorum++ {
		synctest.Test(t, func(t *testing.T) {
			const processes = 40
			b := newBench(t, processes, sluice.CircuitBreakerConfig{Failures: 12, Quorum: quorum})
			defer b.close()
			b.x.dead, b.x.fails = false, rand.New(rand.NewPCG(1, uint64(quorum)))
			for i, p := range b.list {
				b.group.Go(func() {
					time.Sleep(time.Duration(i) * time.Millisecond)
					p.paced(b.ctx, 50*time.Millisecond)
				})
			}
			time.Sleep(secondsHere * time.Second)
			trips := 0
			for i, p := range b.list {
				require.Empty(t, p.heard.Events(), "process %d", i)
				trips += b.rails[i].taken()
			}
			b.x.mu.Lock()
			t.Logf("%d calls, %d failed, %d trips", len(b.x.reached), b.x.failed, trips)
			require.Greater(t, b.x.failed, 150*secondsHere)
			b.x.mu.Unlock()
			require.Less(t, trips, processes*3*(1+secondsHere/10))
			b.x.set(true)
			time.Sleep(time.Second)
			for i, s := range b.states() {
				require.NotEqual(t, closed, s, "process %d, now that it is dead", i)
			}
		})
	}
}

// bench is some processes that call one tool, in a bubble.
type bench struct {
	t     *testing.T
	x     *callee
	e     *engine.Memory
	rails []*rail
	list  []*judge
	ctx   context.Context
	stop  context.CancelFunc
	group sync.WaitGroup
}

func newBench(t *testing.T, n int, c sluice.CircuitBreakerConfig) *bench {
	b := &bench{t: t, x: newCallee(), e: sluice.Must(engine.NewMemory(engine.MemoryConfig{}))}
	b.ctx, b.stop = context.WithCancel(context.Background())
	for i := range n {
		b.rails = append(b.rails, newRail(b.e))
		b.list = append(b.list, newJudge(b.rails[i], b.x, i, c))
	}
	synctest.Wait() // all follow
	return b
}

func (b *bench) close() {
	b.stop()
	b.group.Wait()
	for _, p := range b.list {
		p.close(b.t)
	}
	require.NoError(b.t, b.e.Close())
}

// fail has the i-th process call n times.
func (b *bench) fail(i, n int) {
	for range n {
		_, err := b.list[i].tool(b.ctx, struct{}{})
		require.ErrorIs(b.t, err, errDead)
	}
	synctest.Wait()
}

// refused is the time to retry of a call of the i-th process, which a breaker refuses.
func (b *bench) refused(i int) time.Duration {
	b.t.Helper()
	_, err := b.list[i].tool(b.ctx, struct{}{})
	require.ErrorIs(b.t, err, sluice.ErrBreakerOpen)
	synctest.Wait()
	return err.(*sluice.Error).RetryAfter
}

func (b *bench) states() (list []sluice.BreakerState) {
	synctest.Wait()
	for _, p := range b.list {
		s, err := p.breaker.State("work")
		require.NoError(b.t, err)
		list = append(list, s)
	}
	return list
}

const (
	closed   = sluice.BreakerClosed
	open     = sluice.BreakerOpen
	halfOpen = sluice.BreakerHalfOpen
)

// Votes open all processes at once, and no sooner. Nobody's own open time grows by it.
func TestFleet_AQuorumOpensAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 4, sluice.CircuitBreakerConfig{Failures: 3, Cooldown: time.Second})
		defer b.close()
		b.fail(0, 3)
		require.Equal(t, []sluice.BreakerState{open, closed, closed, closed}, b.states(), "one vote of two")
		b.fail(1, 2)
		require.Equal(t, []sluice.BreakerState{open, closed, closed, closed}, b.states())
		trips := b.rails[1].taken()
		b.fail(1, 1)
		require.Equal(t, []sluice.BreakerState{open, open, open, open}, b.states())
		require.Equal(t, time.Second, b.refused(3))
		require.LessOrEqual(t, b.rails[1].taken(), trips+1, "a vote with the opening, all at once")
		require.Zero(t, b.rails[2].taken()+b.rails[3].taken())
		for i, p := range b.list {
			n := 0
			for _, e := range p.heard.Events() {
				if e.Kind == sluice.BreakerStateChanged {
					n++
					require.Equal(t, closed, e.From)
					require.Equal(t, open, e.To)
					if i >= 2 {
						require.Contains(t, []string{"process0", "process1"}, e.Actor, "who has met failures")
					}
				}
			}
			require.Equal(t, 1, n, "process %d", i)
		}

		// The third process did not open itself: once all is well, its first own open time is one Cooldown.
		time.Sleep(time.Second)
		b.x.set(false)
		b.refused(0) // which has it take the turn
		_, err := b.list[0].tool(b.ctx, struct{}{})
		require.NoError(t, err)
		require.Equal(t, []sluice.BreakerState{closed, open, open, open}, b.states(), "one recovers for all")
		time.Sleep(time.Second)
		require.Equal(t, []sluice.BreakerState{closed, closed, closed, closed}, b.states())
		b.x.set(true)
		b.fail(2, 3)
		require.Equal(t, time.Second, b.refused(2))
	})
}

// A vote ends with the open time of who cast it, and when he recovers.
func TestFleet_VotesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, sluice.CircuitBreakerConfig{Failures: 3, Cooldown: time.Second})
		defer b.close()
		b.fail(0, 3)
		time.Sleep(time.Second) // the vote is over
		b.fail(1, 3)
		require.Equal(t, []sluice.BreakerState{halfOpen, open, closed}, b.states())
		b.x.set(false)
		_, err := b.list[0].tool(b.ctx, struct{}{}) // by its own judgement
		require.NoError(t, err)
		time.Sleep(time.Second)
		_, err = b.list[1].tool(b.ctx, struct{}{})
		require.NoError(t, err)
		require.Equal(t, []sluice.BreakerState{closed, closed, closed}, b.states())
		b.x.set(true)

		time.Sleep(time.Minute)
		b.fail(0, 3)
		b.x.set(false)
		require.NoError(t, b.list[0].breaker.Reset("work"))
		require.Equal(t, []sluice.BreakerState{closed, closed, closed}, b.states())
		b.x.set(true)
		b.fail(1, 3)
		require.Equal(t, []sluice.BreakerState{closed, open, closed}, b.states(), "the vote was taken back")
	})
}

// Eight busy processes come back to a tool that bears little at first: while one recovers for all no more calls run at
// once than have succeeded since, and one for the probe. Alone each of them would do so.
func TestFleet_RecoversOnce(t *testing.T) {
	const processes, callers = 8, 5
	worst := map[bool]int{}
	for _, shared := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := sluice.CircuitBreakerConfig{Failures: 3, Cooldown: time.Second, Quorum: 2}
			var b *bench
			if shared {
				b = newBench(t, processes, c)
			} else {
				b = newBench(t, 0, c)
				c.Quorum = 0
				for i := range processes {
					b.list = append(b.list, newJudge(nil, b.x, i, c))
				}
			}
			defer b.close()
			var mu sync.Mutex
			healed, wins, over := time.Duration(-1), 0, 0
			for _, p := range b.list {
				for range callers {
					b.group.Go(func() {
						for b.ctx.Err() == nil {
							_, err := p.tool(b.ctx, struct{}{})
							mu.Lock()
							if err == nil {
								if wins++; healed < 0 {
									healed = time.Since(b.x.begin)
								}
							}
							if healed >= 0 && time.Since(b.x.begin) < healed+time.Second {
								b.x.mu.Lock()
								over = max(over, b.x.now-wins)
								b.x.mu.Unlock()
							}
							mu.Unlock()
							if err != nil {
								time.Sleep(20 * time.Millisecond)
							}
						}
					})
				}
			}
			b.x.mu.Lock()
			b.x.takes = 100 * time.Millisecond
			b.x.mu.Unlock()
			time.Sleep(5 * time.Second)
			b.x.set(false)
			time.Sleep(10*time.Second + 50*time.Millisecond)
			mu.Lock()
			worst[shared] = over
			mu.Unlock()
			require.Equal(t, processes, len(b.states()))
			for i, s := range b.states() {
				require.Equal(t, closed, s, "process %d", i)
			}
			from := time.Since(b.x.begin)
			time.Sleep(time.Second)
			require.InDelta(t, 10*processes*callers, b.x.since(from), processes*callers, "all are back")
		})
	}
	t.Logf("calls at once beyond one for each success: alone %d, together %d", worst[false], worst[true])
	require.LessOrEqual(t, worst[true], 1)
	require.Greater(t, worst[false], 1)
}

// The turn of a process that dies with it in its hand ends, and another takes it.
func TestFleet_ATurnEndsWithItsProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, sluice.CircuitBreakerConfig{Failures: 3, Cooldown: time.Second, Quorum: 1})
		defer b.close()
		b.fail(0, 3)
		time.Sleep(1010 * time.Millisecond) // nothing else happens at this instant
		require.Equal(t, 50*time.Millisecond, b.refused(0))
		require.Equal(t, []sluice.BreakerState{halfOpen, open, open}, b.states())
		b.rails[0].cut(true) // and never comes back
		b.x.set(false)
		died := time.Now()
		for {
			_, err := b.list[1].tool(b.ctx, struct{}{})
			if err == nil {
				break
			}
			require.ErrorIs(t, err, sluice.ErrBreakerOpen)
			time.Sleep(50 * time.Millisecond)
		}
		require.InDelta(t, 5, time.Since(died).Seconds(), 0.2)
		b.rails[0].cut(false)
	})
}

// A turn that its process does not use passes on to one that asks.
func TestFleet_ATurnPassesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, sluice.CircuitBreakerConfig{Failures: 3, Cooldown: time.Second, Quorum: 1})
		defer b.close()
		b.fail(0, 3)
		time.Sleep(1200 * time.Millisecond)
		b.refused(0)
		time.Sleep(30*time.Second + 100*time.Millisecond) // it is prolonged
		require.Equal(t, []sluice.BreakerState{halfOpen, open, open}, b.states())
		b.refused(1)
		b.x.set(false)
		_, err := b.list[1].tool(b.ctx, struct{}{})
		require.NoError(t, err, "it has been passed on at once: nobody has used it for more than a second")
		b.refused(0)

		time.Sleep(70 * time.Second) // that somebody has asked is forgotten
		require.Equal(t, []sluice.BreakerState{closed, closed, closed}, b.states())
		b.x.set(true)
		b.fail(0, 3)
		time.Sleep(1200 * time.Millisecond)
		b.refused(0)
		b.refused(1)
		b.refused(1)
		require.Equal(t, []sluice.BreakerState{halfOpen, open, open}, b.states(), "not so soon")
		time.Sleep(1010 * time.Millisecond) // nothing else happens at this instant
		require.Equal(t, []sluice.BreakerState{open, halfOpen, open}, b.states())
		b.refused(0)
		time.Sleep(1010 * time.Millisecond) // nothing else happens at this instant
		require.Equal(t, []sluice.BreakerState{open, halfOpen, open}, b.states(), "twice as long as the first time")
		time.Sleep(1010 * time.Millisecond) // nothing else happens at this instant
		require.Equal(t, []sluice.BreakerState{halfOpen, open, open}, b.states())
	})
}

// While the engine is away each process judges as if there were no other, and goes on where all are when it is back.
func TestFleet_BreakersWhileTheEngineIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, sluice.CircuitBreakerConfig{Failures: 3, Cooldown: time.Second, Quorum: 1})
		defer b.close()
		for _, r := range b.rails {
			r.cut(true)
		}
		b.fail(0, 3)
		require.Equal(t, []sluice.BreakerState{open, closed}, b.states())
		time.Sleep(time.Second)
		require.Equal(t, []sluice.BreakerState{halfOpen, closed}, b.states(), "it probes by itself")
		b.fail(0, 1)
		require.Equal(t, 2*time.Second, b.refused(0))
		require.True(t, b.list[0].exec.Snapshot().Fleets[0].Away)
		b.rails[0].cut(false)
		b.rails[1].cut(false)
		time.Sleep(500 * time.Millisecond)
		require.Equal(t, []sluice.BreakerState{open, open}, b.states())
		require.False(t, b.list[0].exec.Snapshot().Fleets[0].Away)

		// Away while all are open: each probes by itself when the open time is over.
		for _, r := range b.rails {
			r.cut(true)
		}
		b.x.set(false)
		time.Sleep(2 * time.Second)
		for i := range 2 {
			require.Eventually(t, func() bool { _, err := b.list[i].tool(b.ctx, struct{}{}); return err == nil }, 2*time.Second, 20*time.Millisecond)
		}
		require.Equal(t, []sluice.BreakerState{closed, closed}, b.states())
		for _, r := range b.rails {
			r.cut(false)
		}
		require.Eventually(t, func() bool {
			for i := range 2 {
				if _, err := b.list[i].tool(b.ctx, struct{}{}); err != nil {
					return false
				}
			}
			return true
		}, 10*time.Second, 20*time.Millisecond)
	})
}

// An engine that comes back without its data is told again by those that are open.
func TestFleet_VotesAreToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, sluice.CircuitBreakerConfig{Failures: 3, Cooldown: 10 * time.Second})
		defer b.close()
		anew := func() {
			was := b.e
			b.e = sluice.Must(engine.NewMemory(engine.MemoryConfig{}))
			for _, r := range b.rails {
				r.to(b.e)
			}
			require.NoError(t, was.Close())
			time.Sleep(time.Second) // they follow again
		}
		b.fail(0, 3)
		anew()
		require.Equal(t, []sluice.BreakerState{open, closed, closed}, b.states())
		b.fail(1, 3)
		require.Equal(t, []sluice.BreakerState{open, open, open}, b.states(), "the first vote was told again")
		anew()
		require.Equal(t, []sluice.BreakerState{open, open, open}, b.states())
		late := newJudge(newRail(b.e), b.x, 3, sluice.CircuitBreakerConfig{Failures: 3, Cooldown: 10 * time.Second})
		synctest.Wait()
		s, err := late.breaker.State("work")
		require.NoError(t, err)
		require.Equal(t, open, s, "who comes later learns of it")
		late.close(t)

		require.NoError(t, b.list[2].breaker.Trip("work"))
		anew()
		time.Sleep(time.Hour)
		require.Equal(t, []sluice.BreakerState{open, open, open}, b.states())
		require.NoError(t, b.list[1].breaker.Reset("work"))
		require.Equal(t, []sluice.BreakerState{closed, closed, closed}, b.states())
	})
}

// Trip and Reset are everybody's, here at once and elsewhere when they can be told.
func TestFleet_TripAndReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, sluice.CircuitBreakerConfig{Failures: 3, Cooldown: time.Second})
		defer b.close()
		b.x.set(false)
		b.rails[0].cut(true)
		require.NoError(t, b.list[0].breaker.Trip("work"))
		require.Equal(t, []sluice.BreakerState{open, closed, closed}, b.states())
		b.rails[0].cut(false)
		time.Sleep(time.Second)
		require.Equal(t, []sluice.BreakerState{open, open, open}, b.states())
		time.Sleep(24 * time.Hour)
		require.Equal(t, []sluice.BreakerState{open, open, open}, b.states())
		b.refused(2)
		require.NoError(t, b.list[2].breaker.Reset("work"))
		require.Equal(t, []sluice.BreakerState{closed, closed, closed}, b.states())
		require.Error(t, b.list[0].breaker.Trip("other"))
		b.rails[1].cut(true)
		require.NoError(t, b.list[0].breaker.Trip("work"))
		require.NoError(t, b.list[0].breaker.Reset("work"))
		require.Equal(t, []sluice.BreakerState{closed, closed, closed}, b.states())
		require.NoError(t, b.list[1].breaker.Trip("work"))
		b.rails[1].cut(false)
		time.Sleep(time.Second)
		require.Equal(t, []sluice.BreakerState{open, open, open}, b.states(), "who asked for it last has his way")
	})
}

// An answer that is lost is asked for again by the same name: what was done is done once.
func TestFleet_LostAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, sluice.CircuitBreakerConfig{Failures: 3, Cooldown: time.Second, Quorum: 1})
		defer b.close()
		for _, taken := range []int{3, 6, 9} { // each failure is told
			b.rails[0].loses(2)
			b.fail(0, 1)
			time.Sleep(50 * time.Millisecond)
			require.Equal(t, taken, b.rails[0].taken())
		}
		time.Sleep(950 * time.Millisecond)
		b.rails[0].loses(2)
		b.refused(0)
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, []sluice.BreakerState{halfOpen, open}, b.states())
		b.fail(0, 1)
		require.Equal(t, 2*time.Second, b.refused(1))
	})
}

// A closed breaker asks nobody, however many calls it lets through. Of failures between successes it tells two things in ten
// seconds: that there are some, and that there are none.
func TestFleet_NothingPerCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, sluice.CircuitBreakerConfig{Failures: 3})
		defer b.close()
		succeed := func(i int) {
			b.x.set(false)
			_, err := b.list[i].tool(b.ctx, struct{}{})
			require.NoError(t, err)
			b.x.set(true)
		}
		for range 1000 {
			succeed(0)
		}
		time.Sleep(time.Minute)
		require.Zero(t, b.rails[0].taken()+b.rails[1].taken())
		for n := 1; n <= 3; n++ {
			for range 1000 {
				b.fail(0, 1)
				succeed(0)
				succeed(1)
			}
			synctest.Wait()
			require.Equal(t, 2*n, b.rails[0].taken())
			require.Zero(t, b.rails[1].taken())
			time.Sleep(10 * time.Second)
		}
		require.Equal(t, []sluice.BreakerState{closed, closed}, b.states())
	})
}

// Close gives back the turn, so that nobody waits for its end.
func TestFleet_CloseGivesBackTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, sluice.CircuitBreakerConfig{Failures: 3, Cooldown: time.Second, Quorum: 1})
		defer b.close()
		b.fail(0, 3)
		time.Sleep(time.Second)
		b.refused(0)
		require.NoError(t, b.list[0].fleet.Close(context.Background()))
		b.refused(1)
		require.Equal(t, halfOpen, b.states()[1])
		_, err := b.list[0].tool(b.ctx, struct{}{})
		require.ErrorIs(t, err, errDead, "it judges by itself from then on")
	})
}

// What a breaker of a fleet cannot be.
func TestFleet_BreakerConfig(t *testing.T) {
	e := memory(t)
	f := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: e}))
	for text, c := range map[string]sluice.CircuitBreakerConfig{
		"sluice: CircuitBreakerConfig.Quorum is 2 without Fleet: must be zero":                  {Quorum: 2},
		"sluice: CircuitBreakerConfig.Quorum is -1: must be zero (2) or positive, up to 1024":   {Quorum: -1, Fleet: f},
		"sluice: CircuitBreakerConfig.Quorum is 1025: must be zero (2) or positive, up to 1024": {Quorum: 1025, Fleet: f},
		"sluice: CircuitBreakerConfig.Fleet is a zero value: must be made by NewFleet":          {Fleet: new(sluice.Fleet)},
	} {
		_, err := sluice.NewCircuitBreaker(c)
		require.EqualError(t, err, text)
	}
	b := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Fleet: f}))
	c := b.Config()
	require.Equal(t, 2, c.Quorum)
	c.Quorum = 3
	require.NoError(t, sluice.Reconfigure("test", b.Change(c)))
	require.Equal(t, 3, b.Config().Quorum)
	c.Fleet, c.Quorum = nil, 0
	require.EqualError(t, sluice.Reconfigure("test", b.Change(c)), "sluice: CircuitBreakerConfig.Fleet changes: it cannot change")
	require.NoError(t, f.Close(t.Context()))
	_, err := sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Fleet: f})
	require.EqualError(t, err, "sluice: CircuitBreakerConfig.Fleet is closed: must be open")
}

// Failures of others hold no room in the table of keys: calls of one's own keys find it.
func TestFleet_RowsHoldNoKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 2, sluice.CircuitBreakerConfig{Failures: 3, Scope: sluice.ByTenant, MaxKeys: 2})
		defer b.close()
		call := func(i int, tenant string) error {
			_, err := b.list[i].tool(sluice.WithPipelineContext(b.ctx, sluice.PipelineContext{Tenant: tenant}), struct{}{})
			synctest.Wait()
			return err
		}
		for _, tenant := range []string{"a", "b"} {
			require.ErrorIs(t, call(0, tenant), errDead)
		}
		require.ErrorIs(t, call(1, "c"), errDead, "not that the table is full")
	})
}

// Calls that run at once fail at once: whoever opens while its first failures are being told counts as open all the same.
func TestFleet_FailuresAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, 3, sluice.CircuitBreakerConfig{Failures: 5, Cooldown: time.Minute})
		defer b.close()
		b.x.takes = time.Second
		for _, r := range b.rails[:2] {
			r.late = 10 * time.Millisecond
		}
		for i := range 2 {
			for range 5 {
				b.group.Go(func() { _, _ = b.list[i].tool(b.ctx, struct{}{}) })
			}
		}
		time.Sleep(2 * time.Second)
		require.Equal(t, []sluice.BreakerState{open, open, open}, b.states())
	})
}
