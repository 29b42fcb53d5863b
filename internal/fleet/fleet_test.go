package fleet_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/require"
)

// usage is what calls of all processes have used, and when.
type usage struct {
	mu    sync.Mutex
	begin time.Time
	list  []use
}

type use struct {
	at time.Duration
	n  int64
}

func (u *usage) add(n int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.list = append(u.list, use{time.Since(u.begin), n})
}

// total is what was used before that time.
func (u *usage) total(before time.Duration) (n int64) {
	for _, x := range u.list {
		if x.at < before {
			n += x.n
		}
	}
	return n
}

// over is by how much the worst window, of any length, exceeds burst + rate*window.
func (u *usage) over(burst int64, rate float64) float64 {
	slices.SortStableFunc(u.list, func(a, b use) int { return int(a.at - b.at) })
	// level is what a bucket that may be overdrawn lacks: the worst window ends where it lacks most.
	level, last, worst := 0.0, time.Duration(0), -float64(burst)
	for _, x := range u.list {
		level = max(0, level-rate*(x.at-last).Seconds()) + float64(x.n)
		last = x.at
		worst = max(worst, level-float64(burst))
	}
	return worst
}

// process is an executor with one tool "work" and one rate limiter, of a fleet of its own.
type process struct {
	fleet *sluice.Fleet
	limit *sluice.RateLimiter
	exec  *sluice.Executor
	tool  func(context.Context, job) (int, error)
}

type job struct {
	Cost int64
	Real int64 // zero means Cost
	For  time.Duration
	Key  string
}

type processConfig struct {
	fleet  sluice.FleetConfig
	rate   sluice.RateLimiterConfig
	config sluice.Config
	with   []sluice.Interceptor
}

func newProcess(t *testing.T, e engine.Engine, u *usage, c processConfig) *process {
	t.Helper()
	c.fleet.Engine = e
	p := new(process)
	p.fleet = sluice.Must(sluice.NewFleet(c.fleet))
	c.rate.Fleet = p.fleet
	if c.rate.Name == "" {
		c.rate.Name = "quota"
	}
	p.limit = sluice.Must(sluice.NewRateLimiter(c.rate))
	c.config.Interceptors = append(c.with, p.limit)
	p.exec = sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), c.config))
	unit := c.rate.Rates[0].Unit
	p.tool = sluice.Must(sluice.Wrap(p.exec, sluice.Spec{Name: "work", Policy: sluice.Policy{
		Cost: func(c sluice.Call, u string) int64 {
			if j := c.Input.(job); u == unit && j.Cost > 0 {
				return j.Cost
			}
			return 1
		},
	}}, func(ctx context.Context, j job) (int, error) {
		n := max(1, j.Cost)
		if j.Real > 0 {
			n = j.Real
			defer sluice.ReportUsage(ctx, unit, n)
		}
		if u != nil {
			u.add(n)
		}
		time.Sleep(j.For)
		return 1, nil
	}))
	return p
}

func (p *process) close(t *testing.T) {
	t.Helper()
	require.NoError(t, p.exec.Close(context.Background()))
	require.NoError(t, p.fleet.Close(context.Background()))
}

func memory(t *testing.T) *engine.Memory {
	m, err := engine.NewMemory(engine.MemoryConfig{})
	require.NoError(t, err)
	return m
}

func (p *process) state() sluice.FleetState { return p.exec.Snapshot().Fleets[0] }

// saturate has so many callers of each process call until the time is over.
func saturate(list []*process, callers int, d time.Duration, what func(process, caller int) job) {
	var group sync.WaitGroup
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	for i, p := range list {
		for k := range callers {
			group.Go(func() {
				for ctx.Err() == nil {
					if _, err := p.tool(ctx, what(i, k)); err != nil {
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
	}
	group.Wait()
}

// Four processes share a rate: all of it is used, no window has more than burst and rate allow, and a trip
// serves several calls.
func TestFleet_SharesARate(t *testing.T) {
	for _, c := range []struct {
		stock int64
		trips float64
	}{{4, 0.5}, {16, 0.15}, {1, 1.1}} {
		t.Run(fmt.Sprint("stock ", c.stock), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, u := memory(t), &usage{begin: time.Now()}
				defer e.Close()
				var list []*process
				for range 4 {
					list = append(list, newProcess(t, e, u, processConfig{rate: sluice.RateLimiterConfig{
						Rates: []sluice.Rate{{N: 100, Burst: 20}}, Stock: c.stock,
					}}))
				}
				const d = 60 * time.Second
				saturate(list, 80, d, func(int, int) job { return job{} })
				used, trips := u.total(d), uint64(0)
				for _, p := range list {
					trips += p.state().Trips
				}
				most := int64(20 + 100*60)
				t.Logf("used %d of %d, over %.2f, trips per call %.3f", used, most, u.over(20, 100), float64(trips)/float64(used))
				require.GreaterOrEqual(t, used, most*99/100)
				require.LessOrEqual(t, u.over(20, 100), 0.0)
				require.LessOrEqual(t, float64(trips)/float64(used), c.trips)
				for _, p := range list {
					p.close(t)
				}
				synctest.Wait()
			})
		})
	}
}

// A throttle that one process meets holds the key for all, what they have in stock included; afterwards they
// re-open in a ramp, and share what comes in.
func TestFleet_AThrottleHoldsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, u := memory(t), &usage{begin: time.Now()}
		defer e.Close()
		var list []*process
		rec := new(sluice.Recorder)
		for range 3 {
			list = append(list, newProcess(t, e, u, processConfig{
				rate:   sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 100, Burst: 20}}, Stock: 4, Upstream: true},
				config: sluice.Config{Sink: rec},
			}))
		}
		throttled := sluice.Must(sluice.Wrap(list[0].exec, sluice.Spec{Name: "throttled"}, func(ctx context.Context, _ struct{}) (int, error) {
			sluice.ReportThrottle(ctx, 3*time.Second)
			return 0, nil
		}))
		const met = 2*time.Second + 5*time.Millisecond
		time.AfterFunc(met, func() {
			for { // until it is admitted
				if _, err := throttled(context.Background(), struct{}{}); err == nil {
					return
				}
			}
		})
		saturate(list, 10, 12*time.Second, func(int, int) job { return job{} })
		var last, first time.Duration
		for _, x := range u.list {
			if x.at < 4*time.Second {
				last = max(last, x.at)
			} else if first == 0 {
				first = x.at
			}
		}
		require.GreaterOrEqual(t, last, met)
		require.Less(t, last, met+time.Second, "it waited for its own turn at most so long")
		require.GreaterOrEqual(t, first, last+3*time.Second-time.Millisecond)
		require.Less(t, first, last+3*time.Second+50*time.Millisecond)
		require.LessOrEqual(t, u.total(first+time.Second)-u.total(first), int64(101), "the engine's bucket has one token then")
		require.GreaterOrEqual(t, u.total(12*time.Second)-u.total(first+time.Second), int64(99*(11*time.Second-first).Seconds())-1)
		paused := 0
		for _, x := range rec.Events() {
			if x.Kind == sluice.RateLimitPaused {
				paused++
				require.Equal(t, 3*time.Second, x.RetryAfter.Round(time.Millisecond))
			}
		}
		require.Equal(t, 3, paused, "each told once")

		require.NoError(t, list[1].limit.Pause("", time.Minute))
		synctest.Wait()
		require.True(t, list[0].exec.Snapshot().Gates[0].Paused)
		require.True(t, list[2].exec.Snapshot().Gates[0].Paused)
		require.NoError(t, list[2].limit.Lift(""))
		synctest.Wait()
		for _, p := range list {
			require.False(t, p.exec.Snapshot().Gates[0].Paused)
			begin := time.Now()
			_, err := p.tool(context.Background(), job{})
			require.NoError(t, err)
			require.Less(t, time.Since(begin), 100*time.Millisecond)
		}
		for _, p := range list {
			p.close(t)
		}
	})
}

// Calls whose cost is known afterwards only: what they did not use is used by others, of all processes, and what
// they used beyond their estimate is paid.
func TestFleet_SettlesTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, u := memory(t), &usage{begin: time.Now()}
		defer e.Close()
		var list []*process
		for range 4 {
			list = append(list, newProcess(t, e, u, processConfig{rate: sluice.RateLimiterConfig{
				Rates: []sluice.Rate{{N: 90_000, Per: time.Minute, Unit: "tokens"}},
			}}))
		}
		const d = 10 * time.Minute
		var mu sync.Mutex
		random := rand.New(rand.NewPCG(1, 2))
		saturate(list, 8, d, func(int, int) job {
			mu.Lock()
			defer mu.Unlock()
			return job{Cost: 8000, Real: 500 + random.Int64N(7501), For: time.Duration(1+random.IntN(5)) * time.Second}
		})
		used, most := u.total(d), int64(90_000+90_000*10)
		t.Logf("used %d of %d, over %.0f", used, most, u.over(90_000, 1500))
		require.GreaterOrEqual(t, used, most*97/100)
		require.LessOrEqual(t, u.over(90_000, 1500), float64(4*8000))
		for _, p := range list {
			p.close(t)
		}
	})
}

// What the other processes' batch calls leave in reserve, interactive calls find: they hardly wait at what is
// more than their process's share.
func TestFleet_LeavesAReserve(t *testing.T) {
	for _, reserve := range []int64{0, 16} {
		synctest.Test(t, func(t *testing.T) {
			e, u := memory(t), &usage{begin: time.Now()}
			defer e.Close()
			var list []*process
			for i := range 4 {
				priority := sluice.PriorityBatch
				if i == 0 {
					priority = sluice.PriorityInteractive
				}
				list = append(list, newProcess(t, e, u, processConfig{
					rate: sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 100, Burst: 20}}, Stock: 1, Reserve: reserve},
					with: []sluice.Interceptor{prioritized(priority), sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{}))},
				}))
			}
			var waits []time.Duration
			var mu sync.Mutex
			var group sync.WaitGroup
			group.Go(func() { saturate(list[1:], 20, 20*time.Second, func(int, int) job { return job{} }) })
			for time.Since(u.begin) < 19*time.Second { // 50 a second
				group.Go(func() {
					begin := time.Now()
					if _, err := list[0].tool(context.Background(), job{}); err == nil {
						mu.Lock()
						waits = append(waits, time.Since(begin))
						mu.Unlock()
					}
				})
				time.Sleep(20 * time.Millisecond)
			}
			group.Wait()
			slices.Sort(waits)
			p50, p99 := waits[len(waits)/2], waits[len(waits)*99/100]
			t.Logf("reserve %d: %d interactive calls, waits p50 %v, p99 %v, used %d", reserve, len(waits), p50, p99, u.total(19*time.Second))
			if reserve > 0 {
				require.LessOrEqual(t, p99, 50*time.Millisecond)
				require.GreaterOrEqual(t, u.total(19*time.Second), int64(1900*97/100))
			} else {
				require.Greater(t, p50, 100*time.Millisecond, "the test can tell")
			}
			for _, p := range list {
				p.close(t)
			}
		})
	}
}

// prioritized gives calls a priority before they are admitted.
func prioritized(p sluice.Priority) sluice.Interceptor {
	return sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			c.Priority = p
			return next(ctx, c)
		}
	})
}

// What holds while the engine does not answer: nobody starts, or each process its share, or everybody; and when
// it is back, all share again, within a second. A sink hears of both.
func TestFleet_WhileTheEngineIsAway(t *testing.T) {
	for _, c := range []struct {
		away        engine.Mode
		share       int
		least, most int64 // in the four seconds that are clearly away
	}{{engine.Deny, 0, 0, 0}, {engine.LocalShare, 4, 190, 210}, {engine.Admit, 0, 2000, 1 << 40}} {
		t.Run(c.away.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := sluice.Must(sluicetest.NewChaos(sluicetest.ChaosConfig{Seed: 1, Open: func() (engine.Engine, error) { return engine.NewMemory(engine.MemoryConfig{}) }}))
				defer e.Close()
				u, rec := &usage{begin: time.Now()}, new(sluice.Recorder)
				var list []*process
				for range 2 {
					list = append(list, newProcess(t, e, u, processConfig{
						fleet: sluice.FleetConfig{Name: "f", Away: c.away, Share: c.share, Sink: rec},
						rate:  sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 100, Burst: 20}}, Stock: 4},
					}))
				}
				time.AfterFunc(5*time.Second, func() { e.Set(sluicetest.Gone) })
				time.AfterFunc(10*time.Second, func() { e.Set(sluicetest.Healthy) })
				saturate(list, 10, 15*time.Second, func(int, int) job { return job{For: time.Millisecond} })
				within := func(from, to time.Duration) int64 { return u.total(to) - u.total(from) }
				t.Logf("%d, away %d, then %d", within(0, 5*time.Second), within(6*time.Second, 10*time.Second), within(11*time.Second, 15*time.Second))
				require.InDelta(t, 500, within(0, 5*time.Second), 25)
				require.GreaterOrEqual(t, within(6*time.Second, 10*time.Second), c.least)
				require.LessOrEqual(t, within(6*time.Second, 10*time.Second), c.most)
				require.InDelta(t, 400, within(11*time.Second, 15*time.Second), 25)
				var heard []string
				for _, x := range rec.Events() {
					if x.Kind == sluice.FleetChanged {
						heard = append(heard, x.By+" "+x.NewLimit)
						require.Equal(t, x.NewLimit == "away", x.Err != nil)
					}
				}
				require.Equal(t, []string{"f away", "f away", "f there", "f there"}, heard)
				for _, p := range list {
					p.close(t)
				}
			})
		})
	}
}

// Keys have buckets of their own, which all processes share; a key's cell is kept no longer than its stock.
func TestFleet_Keys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, u := memory(t), &usage{begin: time.Now()}
		defer e.Close()
		var list []*process
		for range 2 {
			list = append(list, newProcess(t, e, u, processConfig{rate: sluice.RateLimiterConfig{
				Rates: []sluice.Rate{{N: 10, Burst: 2}}, MaxKeys: 3,
				Scope: sluice.ByKey("key", func(c sluice.Call) string { return c.Input.(job).Key }),
			}}))
		}
		const d = 10 * time.Second
		saturate(list, 8, d, func(_, k int) job { return job{Key: string(rune('a' + k%2))} })
		require.InDelta(t, 2*(2+100), u.total(d), 2)
		time.Sleep(5 * time.Second)
		for i, key := range []string{"c", "d", "e", "f"} { // there is room for new ones once the others are idle
			_, err := list[i%2].tool(context.Background(), job{Key: key + fmt.Sprint(make([]byte, 500))})
			require.NoError(t, err)
			time.Sleep(5 * time.Second)
		}
		for _, p := range list {
			p.close(t)
		}
	})
}

// Close gives back what is held: another process has it at once. Calls are refused afterwards.
func TestFleet_CloseGivesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memory(t)
		defer e.Close()
		conf := processConfig{rate: sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: time.Hour, Burst: 20}}, Stock: 10}}
		a := newProcess(t, e, nil, conf)
		for range 5 {
			_, err := a.tool(context.Background(), job{})
			require.NoError(t, err)
		}
		synctest.Wait()
		s := a.state()
		require.Greater(t, s.Fetched, int64(5), "it has some in stock")
		require.NoError(t, a.fleet.Close(context.Background()))
		require.Equal(t, s.Fetched-5, a.state().Returned)
		_, err := a.tool(context.Background(), job{})
		require.ErrorIs(t, err, sluice.ErrRateLimited)
		require.NoError(t, a.fleet.Close(context.Background()), "again")
		_, err = sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1}}, Fleet: a.fleet})
		require.ErrorContains(t, err, "sluice: RateLimiterConfig.Fleet is closed: must be open")
		b := newProcess(t, e, nil, conf)
		for range 15 {
			_, err := b.tool(context.Background(), job{})
			require.NoError(t, err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err = b.tool(ctx, job{})
		require.ErrorIs(t, err, sluice.ErrWaitTooLong)
		b.close(t)
		require.NoError(t, a.exec.Close(context.Background()))
	})
}

// An executor that closes leaves its process's stock to others.
func TestFleet_AnExecutorThatEndsGivesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memory(t)
		defer e.Close()
		a := newProcess(t, e, nil, processConfig{rate: sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 100, Burst: 20}}, Stock: 10}})
		for range 5 {
			_, err := a.tool(context.Background(), job{})
			require.NoError(t, err)
		}
		synctest.Wait()
		s := a.state()
		require.Greater(t, s.Fetched, int64(5))
		require.NoError(t, a.exec.Close(context.Background()))
		synctest.Wait()
		require.Equal(t, s.Fetched-5, a.state().Returned)
		require.NoError(t, a.fleet.Close(context.Background()))
	})
}

// Processes that have different rates for one quota, as in a deploy, share one bucket, which fills no faster
// than the largest says; who has not the latest rate is told.
func TestFleet_DifferentRates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, u := memory(t), &usage{begin: time.Now()}
		defer e.Close()
		var list []*process
		var recs []*sluice.Recorder
		for _, n := range []int64{100, 200} {
			rec := new(sluice.Recorder)
			recs = append(recs, rec)
			list = append(list, newProcess(t, e, u, processConfig{
				fleet: sluice.FleetConfig{Sink: rec},
				rate:  sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: n, Burst: 20}}, Stock: 4},
			}))
			synctest.Wait()
		}
		saturate(list, 8, 6*time.Second, func(int, int) job { return job{} })
		used := u.total(6 * time.Second)
		t.Logf("used %d", used)
		require.GreaterOrEqual(t, used, int64(20+100*6)*99/100)
		require.LessOrEqual(t, used, int64(20+200*6+1))
		require.LessOrEqual(t, u.over(20, 200), 0.0)
		for i, rec := range recs {
			list := rec.Events()
			if i == 1 && len(list) == 0 { // it has the latest, and may not have heard what was before
				continue
			}
			require.Len(t, list, 1)
			texts := []string{"100 calls per second, burst 20", "200 calls per second, burst 20"}
			require.Equal(t, texts[i], list[0].OldLimit)
			require.Equal(t, texts[1-i], list[0].NewLimit)
			require.Equal(t, sluice.FleetChanged, list[0].Kind)
		}
		c := list[0].limit.Config()
		c.Rates[0].N = 200
		require.NoError(t, sluice.Reconfigure("deploy", list[0].limit.Change(c)))
		begin := time.Since(u.begin)
		saturate(list, 8, 4*time.Second, func(int, int) job { return job{} })
		require.GreaterOrEqual(t, u.total(begin+4*time.Second)-u.total(begin), int64(800*97/100))
		for _, p := range list {
			p.close(t)
		}
	})
}

// A limiter with Refuse asks the engine before it refuses, and so does a call that does not wait.
func TestFleet_Refuses(t *testing.T) {
	for _, conf := range []processConfig{
		{rate: sluice.RateLimiterConfig{Refuse: true}},
		{config: sluice.Config{MaxWait: sluice.NoWait}},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := memory(t)
			defer e.Close()
			conf.rate.Rates = []sluice.Rate{{N: 10, Burst: 2}}
			a, b := newProcess(t, e, nil, conf), newProcess(t, e, nil, conf)
			for i, p := range []*process{a, b, a, b} {
				begin := time.Now()
				_, err := p.tool(context.Background(), job{})
				require.Zero(t, time.Since(begin))
				if i < 2 {
					require.NoError(t, err)
					continue
				}
				require.ErrorIs(t, err, sluice.ErrRejected)
				var x *sluice.Error
				require.ErrorAs(t, err, &x)
				require.Equal(t, 100*time.Millisecond, x.RetryAfter)
			}
			time.Sleep(100 * time.Millisecond)
			_, err := b.tool(context.Background(), job{})
			require.NoError(t, err)
			a.close(t)
			b.close(t)
		})
	}
}

// In shadow nobody waits, and who would have is counted.
func TestFleet_Shadow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memory(t)
		defer e.Close()
		p := newProcess(t, e, nil, processConfig{
			fleet: sluice.FleetConfig{Shadow: true},
			rate:  sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Burst: 20}}},
		})
		for range 50 {
			_, err := p.tool(context.Background(), job{})
			require.NoError(t, err)
			synctest.Wait()
		}
		require.EqualValues(t, 30, p.state().Short)
		require.True(t, p.state().Shadow)
		p.close(t)
	})
}

// What is fetched is used or given back, also where many calls come and leave.
func TestFleet_LosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, u := memory(t), &usage{begin: time.Now()}
		defer e.Close()
		var list []*process
		for range 3 {
			list = append(list, newProcess(t, e, u, processConfig{rate: sluice.RateLimiterConfig{
				Rates: []sluice.Rate{{N: 100, Burst: 20}}, Stock: 6,
			}}))
		}
		var group sync.WaitGroup
		for i := range 3000 {
			group.Go(func() {
				random := rand.New(rand.NewPCG(uint64(i), 3))
				time.Sleep(time.Duration(random.Int64N(int64(10 * time.Second))))
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.Int64N(int64(300*time.Millisecond))))
				defer cancel()
				if i%2 == 0 { // not its deadline, which would be known
					var stop context.CancelFunc
					ctx, stop = context.WithCancel(context.Background())
					time.AfterFunc(time.Duration(random.Int64N(int64(300*time.Millisecond))), stop)
				}
				_, _ = list[i%3].tool(ctx, job{Cost: 1 + int64(i%7)})
			})
		}
		group.Wait()
		require.LessOrEqual(t, u.over(20, 100), 3*7.0)
		require.Zero(t, list[0].exec.Snapshot().Queued)
		left := int64(0)
		for _, p := range list {
			p.close(t)
		}
		for _, p := range list {
			s := p.state()
			require.Zero(t, s.Failed)
			left += s.Fetched - s.Returned
		}
		require.Equal(t, u.total(1<<62), left)
		require.GreaterOrEqual(t, left, int64(900), "nearly all of the rate is used")
	})
}

// Explain, Snapshot, Reconfigure and nested calls see a shared rate as one of the process's own.
func TestFleet_IsARateAsAnyOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := memory(t)
		defer e.Close()
		p := newProcess(t, e, nil, processConfig{rate: sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 10, Burst: 4}}, Stock: 2}})
		ctx, request := context.Background(), sluice.Request{Tool: "work", Input: job{}}
		d := p.exec.Explain(ctx, request)
		require.Nil(t, d.Refusal)
		require.Equal(t, "rate/quota calls per second", d.Waits[0].By, "nothing is at hand yet")
		for range 4 {
			_, err := p.tool(ctx, job{})
			require.NoError(t, err)
			synctest.Wait()
		}
		d = p.exec.Explain(ctx, request)
		require.Nil(t, d.Refusal)
		require.Equal(t, 100*time.Millisecond, d.Wait, "what is booked")
		s := p.exec.Snapshot()
		require.Len(t, s.Gates, 1+1)
		require.Equal(t, "rate", s.Gates[0].Kind)
		require.EqualValues(t, []int64{4, 4}, []int64{s.Gates[0].Limit, s.Gates[0].Used})
		require.Equal(t, "fleet", s.Fleets[0].Name)
		require.NotEmpty(t, s.Fleets[0].Origin)

		outer := sluice.Must(sluice.Wrap(p.exec, sluice.Spec{Name: "outer"}, func(ctx context.Context, _ struct{}) (int, error) {
			return p.tool(ctx, job{})
		}))
		begin := time.Now()
		_, err := outer(ctx, struct{}{})
		require.NoError(t, err)
		require.Equal(t, 200*time.Millisecond, time.Since(begin))

		c := p.limit.Config()
		c.Rates[0].N, c.Rates[0].Burst = 100, 50
		require.NoError(t, sluice.Reconfigure("test", p.limit.Change(c)))
		require.EqualValues(t, 50, p.exec.Snapshot().Gates[0].Limit)
		begin = time.Now()
		for range 100 {
			_, err := p.tool(ctx, job{})
			require.NoError(t, err)
		}
		require.InDelta(t, 1.0, time.Since(begin).Seconds(), 0.25) // two units had been booked at the old rate
		p.close(t)
	})
}

// hanging is an engine whose calls do not return, whatever their contexts say, until it is let go.
type hanging struct {
	*engine.Memory
	go_ chan struct{}
}

func (h hanging) Quota() engine.Quota { return hangingQuota{h.Memory.Quota(), h.go_} }

type hangingQuota struct {
	engine.Quota
	go_ chan struct{}
}

func (h hangingQuota) Take(ctx context.Context, d engine.Draw) (engine.Grant, error) {
	<-h.go_
	return h.Quota.Take(ctx, d)
}

// Close ends when its context does, though the engine heeds none, and says so.
func TestFleet_CloseDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := hanging{memory(t), make(chan struct{})}
		p := newProcess(t, e, nil, processConfig{rate: sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 10, Burst: 4}}}})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := p.tool(ctx, job{})
		require.ErrorIs(t, err, sluice.ErrWaitTooLong)
		begin := time.Now()
		late, end := context.WithTimeout(context.Background(), 2*time.Second)
		defer end()
		err = p.fleet.Close(late)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, time.Since(begin), 3*time.Second)
		close(e.go_)
		require.NoError(t, p.fleet.Close(context.Background()))
		require.NoError(t, p.exec.Close(context.Background()))
		require.NoError(t, e.Memory.Close())
	})
}

// slow is an engine behind a link on which a trip takes so long.
type slow struct {
	*engine.Memory
	trip time.Duration
}

func (s slow) Quota() engine.Quota { return slowQuota{s.Memory.Quota(), s.trip} }

type slowQuota struct {
	engine.Quota
	trip time.Duration
}

func (s slowQuota) Take(ctx context.Context, d engine.Draw) (engine.Grant, error) {
	time.Sleep(s.trip / 2)
	defer time.Sleep(s.trip / 2)
	return s.Quota.Take(ctx, d)
}

func (s slowQuota) Settle(ctx context.Context, op engine.OpID, list []engine.Correction) error {
	time.Sleep(s.trip)
	return s.Quota.Settle(ctx, op, list)
}

// Behind a slow link calls hardly wait at 60 % of the rate, and all of it is used where there is more to do.
func TestFleet_BehindASlowLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, u := slow{memory(t), 5 * time.Millisecond}, &usage{begin: time.Now()}
		defer e.Memory.Close()
		var list []*process
		for range 4 {
			list = append(list, newProcess(t, e, u, processConfig{rate: sluice.RateLimiterConfig{
				Rates: []sluice.Rate{{N: 100, Burst: 20}}, Stock: 4,
			}}))
		}
		var group sync.WaitGroup
		waits := make(chan time.Duration, 10_000)
		random := rand.New(rand.NewPCG(3, 4))
		for _, p := range list {
			seed := random.Uint64()
			group.Go(func() {
				random := rand.New(rand.NewPCG(seed, 5))
				for range 15 * 30 { // 30 s at 15 a second, at random times
					group.Go(func() {
						begin := time.Now()
						if _, err := p.tool(context.Background(), job{}); err == nil {
							waits <- time.Since(begin)
						}
					})
					time.Sleep(time.Duration(random.ExpFloat64() * float64(time.Second/15)))
				}
			})
		}
		group.Wait()
		close(waits)
		var all []time.Duration
		for w := range waits {
			all = append(all, w)
		}
		require.Len(t, all, 4*15*30)
		slices.Sort(all)
		trips := uint64(0)
		for _, p := range list {
			trips += p.state().Trips
		}
		t.Logf("waits p50 %v, p90 %v, p99 %v; %.2f trips per call", all[len(all)/2], all[len(all)*9/10], all[len(all)*99/100], float64(trips)/float64(len(all)))
		require.Zero(t, all[len(all)/2])
		require.LessOrEqual(t, all[len(all)*9/10], 10*time.Millisecond)

		time.Sleep(time.Minute)
		u.list, u.begin = nil, time.Now()
		saturate(list, 40, 20*time.Second, func(int, int) job { return job{} })
		require.GreaterOrEqual(t, u.total(20*time.Second), int64(2020*98/100))
		require.LessOrEqual(t, u.over(20, 100), 16.0)
		for _, p := range list {
			p.close(t)
		}
	})
}

// What a call gives back late is only what time has not brought back by then: it is not there to be used twice.
func TestFleet_LateReportsGiveNothingTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, u := memory(t), &usage{begin: time.Now()}
		defer e.Close()
		p := newProcess(t, e, u, processConfig{rate: sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 100, Burst: 100, Unit: "tokens"}}, Stock: 10}})
		var group sync.WaitGroup
		for range 20 { // they are charged 1,000 in the first nine seconds, use 20, and say so later
			group.Go(func() { _, _ = p.tool(context.Background(), job{Cost: 50, Real: 1, For: 16 * time.Second}) })
		}
		time.Sleep(14 * time.Second) // the bucket is full again
		begin := time.Since(u.begin)
		saturate([]*process{p}, 20, 14*time.Second, func(int, int) job { return job{Cost: 1} })
		group.Wait()
		used := u.total(begin+14*time.Second) - u.total(begin)
		require.GreaterOrEqual(t, used, int64(100+1400-10))
		require.LessOrEqual(t, used, int64(100+1400+10))
		p.close(t)
	})
}
