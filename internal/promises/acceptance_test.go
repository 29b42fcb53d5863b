package promises_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The tests of this file are the nine of the stress report WORK-008, with exact
// expectations on the virtual clock, and what that report left out.

func TestWORK008_Sequential5(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(4))})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, sleeps(10*ms))
		_, err := sluice.Register(r.reg, sluice.Spec{Name: "work"}, func(context.Context, any) (int, error) { return 0, nil })
		assert.ErrorContains(t, err, `"work"`, "second registration, want an error that names the tool")
		for range 5 {
			assert.NoError(t, r.call("work"))
		}
		assert.Equal(t, 50*ms, r.at(), "took")
		r.trace(strings.Repeat("work: invoked started completed; ", 4) + "work: invoked started completed")
		events := r.rec.Events()
		require.Len(t, events, 15, "events")
		for i, e := range events {
			assert.Equal(t, uint32(i%3+1), e.Seq, "event %d has seq", i)
			if want := fmt.Sprint("call-", i/3+1); e.Call.ID != want {
				t.Errorf("event %d is of call %q, want %q", i, e.Call.ID, want)
			}
			at := time.Duration(i/3) * 10 * ms
			if i%3 == 2 {
				at += 10 * ms
				assert.Equal(t, 10*ms, e.Duration, "event %d", i)
				assert.Zero(t, e.Queued, "event %d", i)
			}
			assert.Equal(t, at, e.Time.Sub(r.start), "instant of event %d", i)
		}
	})
}

func TestWORK008_Parallel10(t *testing.T) {
	for _, tc := range []struct {
		gates []sluice.Interceptor
		limit int
		took  time.Duration
		peak  int64
	}{{nil, 0, 10 * ms, 10}, {nil, 4, 30 * ms, 4}} {
		t.Run(fmt.Sprint("limit ", tc.limit), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				if tc.limit > 0 {
					tc.gates = interceptors(atMost(tc.limit))
				}
				r := newRig(t, sluice.Config{Interceptors: tc.gates})
				defer r.end()
				var g gauge
				square := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "square"}, func(ctx context.Context, i int) (int, error) {
					return i * i, g.counts(10 * ms)(ctx)
				}))
				got := make([]int, 10)
				parallel(10, func(i int) {
					var err error
					if got[i], err = square(r.ctx, i); err != nil {
						t.Error(i, err)
					}
				})
				for i, v := range got {
					assert.Equal(t, i*i, v, "result %d", i)
				}
				if r.at() != tc.took || g.peak.Load() != tc.peak {
					t.Errorf("took %v with %d in flight, want %v with %d", r.at(), g.peak.Load(), tc.took, tc.peak)
				}
			})
		})
	}
}

func TestWORK008_Parallel25(t *testing.T) {
	for _, limit := range []int{1, 4, 25, 100} {
		t.Run(fmt.Sprint("limit ", limit), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(limit))})
				defer r.end()
				var g gauge
				r.tool(sluice.Spec{Name: "work"}, g.counts(10*ms))
				parallel(25, func(int) {
					assert.NoError(t, r.call("work"))
				})
				want := time.Duration((25+limit-1)/limit) * 10 * ms
				if r.at() != want || g.peak.Load() != int64(min(limit, 25)) {
					t.Errorf("took %v with %d in flight, want %v with %d", r.at(), g.peak.Load(), want, min(limit, 25))
				}
			})
		})
	}
}

func TestWORK008_HighConcurrency50(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(
			sluice.Limit{Max: 15}, sluice.Limit{Max: 10, Scope: sluice.ByType}))})
		defer r.end()
		var all, web, disk gauge
		both := func(g *gauge) func(context.Context) error {
			return func(ctx context.Context) error {
				all.enter()
				defer all.leave()
				return g.counts(10 * ms)(ctx)
			}
		}
		r.tool(sluice.Spec{Name: "fetch", Type: "web"}, both(&web))
		r.tool(sluice.Spec{Name: "read", Type: "disk"}, both(&disk))
		parallel(50, func(i int) {
			assert.NoError(t, r.call([]string{"fetch", "read"}[i%2]))
		})
		if all.peak.Load() != 15 || web.peak.Load() > 10 || disk.peak.Load() > 10 || web.peak.Load()+disk.peak.Load() < 15 {
			t.Errorf("in flight at most %d, web %d, disk %d: want 15, 10, 10", all.peak.Load(), web.peak.Load(), disk.peak.Load())
		}
		assert.Equal(t, int64(25), web.total.Load())
		assert.Equal(t, int64(25), disk.total.Load())
		assert.Equal(t, 40*ms, r.at(), "took: no slot may idle")
		ends := map[string]int{}
		for _, e := range r.rec.Events() {
			if e.Kind == sluice.ToolCompleted {
				ends[e.Call.ID]++
			}
		}
		for id, n := range ends {
			assert.Equal(t, 1, n, "call %s completed %d times", id, n)
		}
		assert.Len(t, ends, 50, "calls completed")
	})
}

func TestWORK008_HighConcurrency100(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(10), scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 50}))})
		defer r.end()
		var g gauge
		var mu sync.Mutex
		started := map[int]time.Duration{}
		work := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "work"}, func(ctx context.Context, i int) (int, error) {
			mu.Lock()
			started[i] = r.at()
			mu.Unlock()
			err := g.counts(10 * ms)(ctx)
			if s := r.Snapshot(); s.Queued > 0 && s.InFlight != 10 {
				t.Errorf("%d in flight while %d wait, want 10", s.InFlight, s.Queued)
			}
			return i, err
		}))
		refused := atomic.Int64{}
		wait := inOrder(100, func(i int) {
			_, err := work(r.ctx, i)
			if err != nil {
				refused.Add(1)
				wantRefusal(t, err, sluice.ErrQueueFull, "queue", 0)
				if i < 60 {
					t.Errorf("call %d was refused, although there was room", i)
				}
			}
		})
		assert.Equal(t, int64(40), refused.Load(), "refused at once")
		wait()
		if refused.Load() != 40 || g.total.Load() != 60 || g.peak.Load() != 10 || r.at() != 60*ms {
			t.Errorf("%d refused, %d ran, %d at once, in %v: want 40, 60, 10, 60ms", refused.Load(), g.total.Load(), g.peak.Load(), r.at())
		}
		for i := range 60 {
			assert.Equal(t, time.Duration(i/10)*10*ms, started[i], "call %d started at: first in, first out", i)
		}
	})
}

func TestWORK008_RaceCondition20(t *testing.T) {
	const hits sluice.Key[int64] = "hits"
	for _, n := range []int{20, 10_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{})
				defer r.end()
				hit := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "hit"}, func(ctx context.Context, _ int) (int64, error) {
					return sluice.Increment(ctx, hits, 1)
				}))
				got := make([]int64, n)
				parallel(n, func(i int) {
					var err error
					if got[i], err = hit(r.ctx, i); err != nil {
						t.Error(err)
					}
				})
				slices.Sort(got)
				for i, v := range got {
					require.Equal(t, int64(i+1), v, "the values returned are not {1…%d}: number %d", n, i)
				}
				if v, _, err := hits.Get(r.ctx); v != int64(n) || err != nil {
					t.Errorf("final value %d, %v: want %d", v, err, n)
				}
			})
		})
	}
	t.Run("read, sleep, write", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{})
			defer r.end()
			require.NoError(t, errOf(hits.Set(r.ctx, 0)))
			conflicts := atomic.Int64{}
			r.tool(sluice.Spec{Name: "hit"}, func(ctx context.Context) error {
				for {
					v, version, err := hits.Get(ctx)
					if err != nil {
						return err
					}
					time.Sleep(ms)
					switch _, err = hits.CompareAndSwap(ctx, version, v+1); {
					case err == nil:
						return nil
					case !errors.Is(err, sluice.ErrConflict):
						return err
					}
					conflicts.Add(1)
				}
			})
			parallel(20, func(int) {
				assert.NoError(t, r.call("hit"))
			})
			v, _, err := hits.Get(r.ctx)
			assert.Equal(t, int64(20), v)
			assert.NoError(t, err)
			if conflicts.Load() != 190 || r.at() != 20*ms { // 19 + 18 + … + 1: one wins each round
				t.Errorf("%d conflicts in %v, want 190 in 20ms", conflicts.Load(), r.at())
			}
		})
	})
}

func TestWORK008_RateLimiting50(t *testing.T) {
	t.Run("refuse", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 10}}, Refuse: true}))
			r := newRig(t, sluice.Config{Interceptors: interceptors(quota)})
			defer r.end()
			var g gauge
			refused := atomic.Int64{}
			r.tool(sluice.Spec{Name: "api"}, g.counts(0))
			parallel(50, func(int) {
				if err := r.call("api"); err != nil {
					refused.Add(1)
					wantRefusal(t, err, sluice.ErrRateLimited, "rate calls per second", 100*ms)
				}
			})
			if g.total.Load() != 10 || refused.Load() != 40 || r.at() != 0 {
				t.Errorf("%d ran, %d refused, in %v: want 10, 40, 0s", g.total.Load(), refused.Load(), r.at())
			}
			time.Sleep(100*ms - 1)
			wantRefusal(t, r.call("api"), sluice.ErrRateLimited, "rate calls per second", 1)
			time.Sleep(time.Nanosecond)
			assert.NoError(t, r.call("api"), "exactly at RetryAfter")
		})
	})
	t.Run("wait", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 10}))})
			defer r.end()
			started := make([]time.Duration, 50)
			api := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "api"}, func(_ context.Context, i int) (int, error) {
				started[i] = r.at()
				return i, nil
			}))
			inOrder(50, func(i int) {
				_, err := api(r.ctx, i)
				assert.NoError(t, err)
			})()
			for i, got := range started {
				if want := max(0, time.Duration(i-9)*100*ms); got != want {
					t.Errorf("call %d started at %v, want %v", i, got, want)
				}
			}
			assert.Equal(t, 4*time.Second, r.at(), "took")
		})
	})
	t.Run("cancelled waiter", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 10, Burst: 1}))})
			defer r.end()
			started := make([]time.Duration, 4)
			api := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "api"}, func(_ context.Context, i int) (int, error) {
				started[i] = r.at()
				return i, nil
			}))
			ctx, cancel := context.WithCancel(r.ctx)
			wait := inOrder(4, func(i int) {
				c := r.ctx
				if i == 1 {
					c = ctx
				}
				_, err := api(c, i)
				if i == 1 {
					if r.at() != 50*ms || !errors.Is(err, context.Canceled) || !errors.Is(err, sluice.ErrRejected) {
						t.Errorf("cancelled waiter: %v at %v", err, r.at())
					}
				} else if err != nil {
					t.Error(err)
				}
			})
			time.Sleep(50 * ms)
			cancel()
			wait()
			assert.Equal(t, []time.Duration{0, 0, 100 * ms, 200 * ms}, started,
				"started at: the place is given back")
		})
	})
	t.Run("deadline shorter than the wait", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 10, Burst: 1}))})
			defer r.end()
			r.tool(sluice.Spec{Name: "api"}, sleeps(0))
			require.NoError(t, r.call("api"))
			ctx, cancel := context.WithTimeout(r.ctx, 99*ms)
			defer cancel()
			_, err := r.Invoke(ctx, sluice.Request{Tool: "api"})
			wantRefusal(t, err, sluice.ErrWaitTooLong, "rate calls per second", 100*ms)
			assert.Zero(t, r.at(), "refused at")
		})
	})
}

func TestWORK008_CascadingFailure20(t *testing.T) {
	broken := errors.New("broken")
	for _, with := range []bool{false, true} {
		t.Run(fmt.Sprint("breaker ", with), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var gates []sluice.Interceptor
				if with {
					gates = interceptors(breakerOf(sluice.CircuitBreakerConfig{Failures: 3, Cooldown: 10 * time.Second, Probes: 2}))
				}
				r := newRig(t, sluice.Config{Interceptors: gates})
				defer r.end()
				runs, healthy := atomic.Int64{}, atomic.Bool{}
				var probes gauge
				r.tool(sluice.Spec{Name: "flaky"}, func(context.Context) error {
					n := runs.Add(1)
					probes.enter()
					defer probes.leave()
					if n > 14 && !healthy.Load() {
						return broken
					}
					if healthy.Load() {
						time.Sleep(10 * ms)
					}
					return nil
				})
				r.tool(sluice.Spec{Name: "steady"}, sleeps(0))
				ok, failed, open := 0, 0, 0
				for range 20 {
					switch err := r.call("flaky"); {
					case err == nil:
						ok++
					case err == broken: // untouched
						failed++
					default:
						open++
						wantRefusal(t, err, sluice.ErrBreakerOpen, "breaker", 10*time.Second)
					}
				}
				got := fmt.Sprint(ok, failed, open, runs.Load())
				want := "14 6 0 20"
				if with {
					want = "14 3 3 17"
				}
				assert.Equal(t, want, got, "succeeded, failed, refused, ran")
				require.NoError(t, r.call("steady"))
				if !with {
					return
				}
				healthy.Store(true)
				time.Sleep(10*time.Second - 1)
				wantRefusal(t, r.call("flaky"), sluice.ErrBreakerOpen, "breaker", 1)
				time.Sleep(time.Nanosecond)
				before, refused := runs.Load(), atomic.Int64{}
				probes.peak.Store(0)
				parallel(100, func(int) {
					if err := r.call("flaky"); errors.Is(err, sluice.ErrBreakerOpen) {
						refused.Add(1)
					} else if err != nil {
						t.Error(err)
					}
				})
				if n := runs.Load() - before; n != 2 || refused.Load() != 98 || probes.peak.Load() != 2 {
					t.Errorf("after the cool-down %d probes ran, %d at once, %d refused: want 2, 2, 98", n, probes.peak.Load(), refused.Load())
				}
				require.NoError(t, r.call("flaky"))
			})
		})
	}
}

func TestWORK008_ResourceExhaustion5(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const size = 2 << 20
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 2 * size, Unit: "bytes"}))})
		defer r.end()
		var held gauge
		weigh := sluice.Policy{Cost: func(_ sluice.Call, unit string) int64 {
			assert.Equal(t, "bytes", unit, "asked for the cost of")
			return size
		}}
		r.tool(sluice.Spec{Name: "load", Policy: weigh}, func(context.Context) error {
			buf := make([]byte, size)
			held.take(size)
			defer held.give(size)
			time.Sleep(50 * ms)
			buf[0]++
			return nil
		})
		r.tool(sluice.Spec{Name: "crash", Policy: weigh}, func(context.Context) error { panic("out of memory, as it were") })
		for range 3 {
			var p *sluice.PanicError
			err := r.call("crash")
			assert.ErrorAs(t, err, &p, "%v, want a PanicError", err)
		}
		parallel(5, func(int) { assert.NoError(t, r.call("load")) })
		assert.Equal(t, int64(2*size), held.peak.Load())
		assert.Equal(t, 150*ms, r.at())
		quiet := func() (heap uint64, goroutines int) {
			synctest.Wait()
			var m runtime.MemStats
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc, runtime.NumGoroutine()
		}
		heap, routines := quiet()
		events := len(r.rec.Events())
		r.ctx = t.Context() // calls that nobody records
		parallel(200, func(int) { assert.NoError(t, r.call("load")) })
		heapNow, routinesNow := quiet()
		require.Equal(t, int64(2*size), held.peak.Load())
		assert.Len(t, r.rec.Events(), events)
		if routinesNow != routines || heapNow > heap+size/2 {
			t.Errorf("after 200 calls %d goroutines and %d bytes, before them %d and %d", routinesNow, heapNow, routines, heap)
		}
	})
}

// What nobody had tested.

func TestWORK008_PriorityOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), scheduler(sluice.PrioritySchedulerConfig{}))})
		defer r.end()
		var order log
		work := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "work"}, func(_ context.Context, name string) (int, error) {
			order.add("%s@%d", name, r.at()/ms)
			time.Sleep(10 * ms)
			return 0, nil
		}))
		queue := func(p sluice.Priority, names ...string) func() {
			pc := r.pc
			pc.Priority = p
			ctx := sluice.WithPipelineContext(t.Context(), pc)
			return inOrder(len(names), func(i int) { assert.NoError(t, errOf(work(ctx, names[i]))) })
		}
		busy := queue(sluice.PriorityNormal, "busy")
		low := queue(sluice.PriorityBatch, "low1", "low2", "low3", "low4", "low5")
		high := queue(sluice.PriorityInteractive, "high1", "high2", "high3")
		busy()
		low()
		high()
		want := "busy@0 high1@10 high2@20 high3@30 low1@40 low2@50 low3@60 low4@70 low5@80"
		assert.Equal(t, want, order.String(), "order\n got %v", &order)
	})
}

func TestWORK008_Starvation(t *testing.T) {
	bubble(t, func(t *testing.T) {
		// A = 3: between two starts of a waiting level at most 3*8 + 8 others.
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), scheduler(sluice.PrioritySchedulerConfig{Ageing: 3}))})
		defer r.end()
		others, worst, lows := 0, 0, 0 // of the one call that runs
		counting := atomic.Bool{}
		work := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "work"}, func(ctx context.Context, low bool) (int, error) {
			if low {
				worst, others, lows = max(worst, others), 0, lows+1
			} else if counting.Load() {
				others++
			}
			time.Sleep(10 * ms)
			return 0, nil
		}))
		as := func(p sluice.Priority) context.Context {
			pc := r.pc
			pc.Priority = p
			return sluice.WithPipelineContext(t.Context(), pc)
		}
		var wg sync.WaitGroup
		stop := atomic.Bool{}
		for range 2 { // one runs, one waits: high load at 100 %
			wg.Go(func() {
				for !stop.Load() {
					assert.NoError(t, errOf(work(as(sluice.PriorityInteractive), false)))
				}
			})
		}
		synctest.Wait()
		wait := inOrder(10, func(int) { assert.NoError(t, errOf(work(as(sluice.PriorityBatch), true))) })
		counting.Store(true)
		wait()
		stop.Store(true)
		wg.Wait()
		if lows != 10 || worst > 3*8+8 || worst < 3*8 {
			t.Errorf("%d low calls, at most %d others between two of them: want 10, from 24 to 32", lows, worst)
		}
	})
}

func TestWORK008_BackPressure(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(2), scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 8}))})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "slow"}, g.counts(100*ms))
		ok, full := atomic.Int64{}, atomic.Int64{}
		stop := make(chan struct{})
		watch := make(chan struct{})
		go func() {
			defer close(watch)
			for {
				select {
				case <-stop:
					return
				case <-time.After(7 * ms):
				}
				if s := r.Snapshot(); s.Queued > 8 || s.InFlight > 2 {
					t.Errorf("queued %d, in flight %d: want at most 8 and 2", s.Queued, s.InFlight)
				}
			}
		}()
		// Callers that wait are slowed to the tool's pace; the rest is refused at once.
		parallel(50, func(int) {
			for range 20 {
				switch err := r.call("slow"); {
				case err == nil:
					ok.Add(1)
				case errors.Is(err, sluice.ErrQueueFull):
					full.Add(1)
					time.Sleep(50 * ms)
				default:
					t.Error(err)
				}
			}
		})
		close(stop)
		<-watch
		if ok.Load()+full.Load() != 1000 || ok.Load() != g.total.Load() || full.Load() == 0 || g.peak.Load() != 2 {
			t.Errorf("%d done, %d refused, tool ran %d times, %d at once", ok.Load(), full.Load(), g.total.Load(), g.peak.Load())
		}
		// Before the load ends the tool never idles.
		if took := r.at(); took < time.Duration(ok.Load()/2)*100*ms || took > time.Duration(ok.Load()/2+1)*100*ms+time.Second {
			t.Errorf("%d calls took %v at 2 per 100ms", ok.Load(), took)
		}
	})
}

func TestWORK008_BatchDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(10))})
		defer r.end()
		const deadline = 250 * ms
		ctx, cancel := context.WithTimeout(r.ctx, deadline)
		defer cancel()
		starts := atomic.Int64{}
		r.tool(sluice.Spec{Name: "work"}, func(ctx context.Context) error {
			starts.Add(1)
			if r.at() >= deadline {
				t.Errorf("started at %v, after the deadline", r.at())
			}
			time.Sleep(60 * ms) // deaf to its context
			return nil
		})
		ran, refused := atomic.Int64{}, atomic.Int64{}
		parallel(100, func(int) {
			_, err := r.Invoke(ctx, sluice.Request{Tool: "work"})
			switch {
			case err == nil:
				ran.Add(1)
			case errors.Is(err, sluice.ErrWaitTooLong) && errors.Is(err, sluice.ErrRejected):
				refused.Add(1)
			default:
				t.Error(err)
			}
			if r.at() > deadline+100*ms {
				t.Errorf("returned at %v, want by %v", r.at(), deadline+100*ms)
			}
		})
		// Rounds at 0, 60, 120, 180 and 240 ms.
		if starts.Load() != 50 || ran.Load() != 50 || refused.Load() != 50 || r.at() != 300*ms {
			t.Errorf("%d started, %d ran, %d refused, in %v: want 50, 50, 50, 300ms", starts.Load(), ran.Load(), refused.Load(), r.at())
		}
	})
}

func TestWORK008_Goodput(t *testing.T) {
	for _, overload := range []int{2, 5, 10} {
		t.Run(fmt.Sprint(overload, "x"), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const (
					slots   = 10
					takes   = 100 * ms // so the capacity is 100 a second
					maxWait = 300 * ms
					span    = 20 * time.Second
				)
				r := newRig(t, sluice.Config{MaxWait: maxWait,
					Interceptors: interceptors(atMost(slots), scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 50}))})
				defer r.end()
				r.tool(sluice.Spec{Name: "work"}, sleeps(takes))
				r.ctx = t.Context()
				rnd := rand.New(rand.NewPCG(1, uint64(overload)))
				var wg sync.WaitGroup
				var mu sync.Mutex
				var latency []time.Duration
				for r.at() < span {
					wg.Go(func() {
						came := r.at()
						if r.call("work") == nil {
							mu.Lock()
							latency = append(latency, r.at()-came)
							mu.Unlock()
						}
					})
					time.Sleep(time.Duration(rnd.ExpFloat64() * float64(time.Second) / float64(100*overload)))
				}
				wg.Wait()
				capacity := int(span/takes) * slots
				if len(latency) < capacity*95/100 {
					t.Errorf("%d calls done, want at least 95 %% of %d", len(latency), capacity)
				}
				slices.Sort(latency)
				if p99 := latency[len(latency)*99/100]; p99 > maxWait+takes {
					t.Errorf("99 %% of admitted calls took up to %v, want at most %v", p99, maxWait+takes)
				}
			})
		})
	}
}

func TestWORK008_ThunderingHerd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		quota := rates(sluice.Rate{N: 100, Burst: 5})
		r := newRig(t, sluice.Config{Interceptors: interceptors(quota, atMost(3))})
		defer r.end()
		var g gauge
		var mu sync.Mutex
		starts := map[time.Duration]int{}
		r.tool(sluice.Spec{Name: "work"}, func(ctx context.Context) error {
			mu.Lock()
			starts[r.at()]++
			mu.Unlock()
			return g.counts(10 * ms)(ctx)
		})
		quota.Pause("", time.Second)
		wait := inOrder(200, func(int) { assert.NoError(t, r.call("work")) })
		assert.Zero(t, g.total.Load(), "started during the pause")
		wait()
		// The key re-opens empty: one token each 10 ms from there on, not a stampede.
		for at, n := range starts {
			if n != 1 || at < time.Second || at%(10*ms) != 0 {
				t.Errorf("%d started at %v", n, at)
			}
		}
		if g.total.Load() != 200 || g.peak.Load() > 3 || r.at() != time.Second+2010*ms && r.at() != time.Second+2000*ms {
			t.Errorf("%d ran, %d at once, until %v", g.total.Load(), g.peak.Load(), r.at())
		}
	})
}

func TestWORK008_AllToolsWriteOneKey(t *testing.T) {
	const ledger sluice.Key[[]string] = "ledger"
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(25))})
		defer r.end()
		const tools, calls = 10, 20
		for n := range tools {
			name := fmt.Sprint("tool", n)
			_, err := sluice.Register(r.reg, sluice.Spec{Name: name}, func(ctx context.Context, i int) (json.RawMessage, error) {
				time.Sleep(ms)
				_, err := ledger.Update(ctx, func(old []string, _ bool) ([]string, error) {
					return append(slices.Clone(old), fmt.Sprint(name, "/", i)), nil
				})
				return nil, err
			})
			require.NoError(t, err)
		}
		parallel(tools*calls, func(i int) {
			_, err := r.Invoke(r.ctx, sluice.Request{Tool: fmt.Sprint("tool", i%tools), Input: i / tools})
			assert.NoError(t, err)
		})
		got, _, err := ledger.Get(r.ctx)
		require.NoError(t, err)
		slices.Sort(got)
		assert.Len(t, slices.Compact(got), tools*calls, "different entries")
		assert.Equal(t, tools*calls/25*ms, r.at(), "took")
	})
}
