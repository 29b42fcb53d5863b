package promises_test

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
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A paused or slow tool that has filled the queue with its waiters leaves 16 places to every
// other tool, and to every other tenant; its own calls are refused at exactly MaxQueue.
func TestQueueBound_OneToolFillsItForNobodyElse(t *testing.T) {
	const queue = 50
	for name, c := range map[string]*sluice.PrioritySchedulerConfig{
		"no scheduler": nil, "scheduler": {MaxQueue: queue}, "Shed": {MaxQueue: queue, Shed: true}, "a small queue": {MaxQueue: 5}, "a small queue, Shed": {MaxQueue: 5, Shed: true},
	} {
		for _, blocked := range []string{"paused", "slow"} {
			t.Run(name+", "+blocked, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					conf, n := sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, Scope: sluice.ByTool}))}, 1000
					if c != nil {
						conf.Interceptors, n = append(conf.Interceptors, scheduler(*c)), c.MaxQueue
					}
					r := newRig(t, conf)
					r.ctx = t.Context()
					tool := func(name string) {
						r.tool(sluice.Spec{Name: name}, func(ctx context.Context) error {
							if blocked == "paused" && r.at() == 0 {
								return retryIn(time.Minute)
							}
							time.Sleep(time.Minute)
							return nil
						})
					}
					tool("full")
					if blocked == "paused" {
						_ = r.call("full")
					} else {
						r.busy("full")
					}
					var list []*sluice.Future
					ctx := r.as(0, "flood")
					submit := func(tool string, n int) (refused int) {
						for range n {
							f := r.Submit(ctx, sluice.Request{Tool: tool})
							synctest.Wait()
							select {
							case <-f.Done():
								if _, err := f.Wait(t.Context()); !errors.Is(err, sluice.ErrQueueFull) {
									t.Errorf("%s: %v, want ErrQueueFull", tool, err)
								}
								refused++
							default:
								list = append(list, f)
							}
						}
						return refused
					}
					assert.Equal(t, 20, submit("full", n+20),
						"of %d refused of the tool that fills the queue", n+20)
					floor := min(16, n)
					for i := range 3 {
						other := fmt.Sprint("other", i)
						r.tool(sluice.Spec{Name: other}, sleeps(time.Minute))
						r.busy(other)
						assert.Equal(t, 3, submit(other, floor+3), "%s: of %d refused", other, floor+3)
					}
					ctx = r.as(0, "other tenant")
					assert.Zero(t, submit("full", floor), "another tenant: of %d refused", floor)
					for _, f := range list {
						if c != nil && c.Shed {
							<-f.Done() // one of the flood may have gone for another tenant's
							continue
						}
						_, err := f.Wait(t.Context())
						require.NoError(t, err)
					}
					r.end()
				})
			})
		}
	}
}

// The bound of the queue is each executor's own, also where both list the same gates and the
// same scheduler.
func TestQueueBound_IsEachExecutorsOwn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limit, s := atMost(1), scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 20})
		reg := sluice.NewToolRegistry()
		a := rigOver(t, reg, sluice.Config{Interceptors: interceptors(limit, s)})
		b := rigOver(t, reg, sluice.Config{Interceptors: interceptors(limit, s)})
		rawTool(t, reg, sluice.Spec{Name: "x"}, sleeps(ms))
		a.busy("x")
		for _, r := range []*rig{a, b} {
			refused := 0
			for range 30 {
				f := r.Submit(r.ctx, sluice.Request{Tool: "x"})
				synctest.Wait()
				select {
				case <-f.Done():
					refused++
				default:
				}
			}
			assert.Equal(t, 10, refused, "of 30 refused")
		}
		time.Sleep(time.Second)
		a.end()
		b.end()
	})
}

// Promise 7: a waiter that leaves costs nothing and loses nobody's wake-up.
func TestPromise07_CancelledWaitersCostNothing(t *testing.T) {
	const n = 20
	orders := map[string]func([]context.CancelFunc){
		"first to last": func([]context.CancelFunc) {},
		"last to first": slices.Reverse[[]context.CancelFunc],
		"shuffled": func(l []context.CancelFunc) {
			rand.New(rand.NewPCG(1, 2)).Shuffle(len(l), func(i, j int) { l[i], l[j] = l[j], l[i] })
		},
	}
	for name, order := range orders {
		for _, submit := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " submit ", submit), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 1, Burst: 1}), atMost(1))})
					defer r.end()
					var g gauge
					r.tool(sluice.Spec{Name: "work"}, g.counts(0))
					require.NoError(t, r.call("work"))
					var cancels []context.CancelFunc
					var wg sync.WaitGroup
					for range n {
						ctx, cancel := context.WithCancel(r.ctx)
						cancels = append(cancels, cancel)
						f := func() (sluice.Result, error) { return r.Invoke(ctx, sluice.Request{Tool: "work"}) }
						if submit {
							fut := r.Submit(ctx, sluice.Request{Tool: "work"})
							f = func() (sluice.Result, error) { return fut.Wait(t.Context()) }
						}
						wg.Go(func() {
							_, err := f()
							if !errors.Is(err, context.Canceled) || !errors.Is(err, sluice.ErrRejected) || r.at() != 500*ms {
								t.Errorf("%v at %v, want cancelled at 500ms", err, r.at())
							}
						})
						synctest.Wait()
					}
					time.Sleep(500 * ms)
					order(cancels)
					for i, cancel := range cancels {
						cancel()
						synctest.Wait()
						assert.Equal(t, n-i-1, r.Snapshot().Queued, "queued after %d left", i+1)
					}
					wg.Wait()
					require.NoError(t, r.call("work"))
					if r.at() != time.Second || g.total.Load() != 2 {
						t.Errorf("the next call went at %v, want exactly one period, 1s", r.at())
					}
				})
			})
		}
	}
}

// The waiter that leaves is the front one, and those behind it fit.
func TestPromise07_FrontWaiterThatLeavesLetsTheNextStart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		weight := map[string]int64{"hold": 1, "wide": 2, "narrow": 1}
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 2, Unit: "MB"}))})
		defer r.end()
		for name, w := range weight {
			r.tool(sluice.Spec{Name: name, Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return w }}}, sleeps(time.Second))
		}
		r.busy("hold")
		ctx, cancel := context.WithCancel(r.ctx)
		wide, narrow := make(chan error, 1), make(chan error, 1)
		go func() { wide <- errOf(r.Invoke(ctx, sluice.Request{Tool: "wide"})) }()
		synctest.Wait()
		go func() { narrow <- r.call("narrow") }()
		synctest.Wait()
		time.Sleep(100 * ms)
		cancel()
		err := <-wide
		assert.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, 100*ms, r.at())
		if err := <-narrow; err != nil || r.at() > 1100*ms {
			t.Errorf("the narrow call ended at %v, want 1.1s at the latest: %v", r.at(), err)
		}
	})
}

// A context that has ended already runs nothing and takes nothing.
func TestPromise07_CancelledBeforeItCameTakesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 1, Per: time.Hour}), atMost(1))})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "work"}, g.counts(0))
		cause := errors.New("my reason")
		ctx, cancel := context.WithCancelCause(r.ctx)
		cancel(cause)
		for range 3 {
			_, err := r.Invoke(ctx, sluice.Request{Tool: "work"})
			_, err2 := r.Submit(ctx, sluice.Request{Tool: "work"}).Wait(t.Context())
			for _, err := range []error{err, err2} {
				assert.ErrorIs(t, err, cause)
				assert.ErrorIs(t, err, sluice.ErrRejected)
			}
		}
		require.NoError(t, r.call("work"))
		if g.total.Load() != 1 {
			t.Errorf("ran %d times, want 1", g.total.Load())
		}
	})
}

// The context ends between the look at it and the wait: the waiter must return at once.
func TestCancelWhileParkingIsNotLost(t *testing.T) {
	for range 300 {
		synctest.Test(t, func(t *testing.T) {
			e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{atMost(1)}})
			block := make(chan struct{})
			f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(context.Context, string) (string, error) { <-block; return "", nil }))
			go f(t.Context(), "")
			synctest.Wait()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { _, err := f(ctx, ""); done <- err }()
			runtime.Gosched()
			cancel()
			assert.ErrorIs(t, <-done, context.Canceled)
			close(block)
		})
	}
}

// All that waits is bounded, and freed at once when it leaves.
func TestPromise21_QueueIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))}) // no scheduler: 1,000
		defer r.end()
		r.ctx = t.Context()
		r.tool(sluice.Spec{Name: "block"}, sleeps(time.Hour))
		r.busy("block")
		ctx, cancel := context.WithCancel(r.ctx)
		full, gone := 0, 0
		var futures []*sluice.Future
		for range 5000 {
			f := r.Submit(ctx, sluice.Request{Tool: "block"})
			select {
			case <-f.Done():
				wantRefusal(t, errOf(f.Wait(t.Context())), sluice.ErrQueueFull, "queue", 0)
				full++
			default:
				futures = append(futures, f)
			}
		}
		q := r.Snapshot().Queued
		assert.Equal(t, 1000, q)
		assert.Equal(t, 4000, full)
		cancel()
		for _, f := range futures {
			if errors.Is(errOf(f.Wait(t.Context())), context.Canceled) {
				gone++
			}
		}
		q = r.Snapshot().Queued
		assert.Zero(t, q)
		assert.Equal(t, 1000, gone)
	})
}

// A tenant that has as many calls waiting as MaxPerTenant says gets ErrQueueFull for more,
// whatever room there is, and whatever their level; others do not.
func TestMaxPerTenantRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1), scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 1000, MaxPerTenant: 20}))})
		defer r.end()
		r.tool(sluice.Spec{Name: "one"}, sleeps(time.Second))
		r.tool(sluice.Spec{Name: "other"}, sleeps(time.Second))
		var wg sync.WaitGroup
		var ran, full atomic.Int64
		call := func(tool, tenant string, p sluice.Priority) {
			wg.Go(func() {
				ctx := sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Tenant: tenant, Priority: p})
				_, err := r.Invoke(ctx, sluice.Request{Tool: tool})
				switch {
				case err == nil:
					ran.Add(1)
				case errors.Is(err, sluice.ErrQueueFull):
					full.Add(1)
				default:
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		for i := range 21 { // one runs, twenty wait
			call([]string{"one", "other"}[i%2], "a", sluice.Priority(1+i%9))
		}
		require.Zero(t, full.Load(), "of the first were refused")
		for i := range 10 {
			call([]string{"one", "other"}[i%2], "a", sluice.PriorityInteractive)
		}
		assert.Equal(t, int64(10), full.Load(), "of 10 beyond the tenant's bound were refused")
		for range 20 {
			call("one", "b", sluice.PriorityBatch)
		}
		n := full.Load()
		assert.Equal(t, int64(10), n, "%d calls of another tenant were refused, want none", n-10)
		time.Sleep(time.Second) // one of a's starts, and makes room
		synctest.Wait()
		call("one", "a", sluice.PriorityBatch)
		call("one", "a", sluice.PriorityBatch)
		n = full.Load()
		assert.Equal(t, int64(11), n, "%d of two were refused after one place came free, want one", n-10)
		wg.Wait()
		assert.Equal(t, int64(42), ran.Load(), "ran")
	})
}

// What is said of a call that waited is of that call alone, also of calls that one goroutine makes one
// after the other.
func TestQueued_EachCallHasItsOwnDecision(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 1, Per: time.Second}))})
		r.tool(sluice.Spec{Name: "x"}, sleeps(0))
		pauses := []time.Duration{0, 0, 300 * ms, 0, 2 * time.Second, 0, 900 * ms}
		waits := []time.Duration{0, time.Second, 700 * ms, time.Second, 0, time.Second, 100 * ms}
		var results []sluice.Result
		for _, d := range pauses {
			time.Sleep(d)
			res, err := r.Invoke(r.ctx, sluice.Request{Tool: "x"})
			require.NoError(t, err)
			results = append(results, res)
		}
		var told []time.Duration
		for _, e := range r.rec.Events() {
			if e.Kind == sluice.ToolCompleted {
				told = append(told, e.Queued)
			}
		}
		require.Equal(t, waits, told, "as events have it")
		for i, res := range results {
			d := res.Decision()
			require.Equal(t, waits[i], d.Wait, "call %d", i+1)
			if waits[i] > 0 {
				require.Equal(t, []sluice.Wait{{By: "rate calls per second", For: waits[i]}}, d.Waits, "call %d", i+1)
			}
		}
		r.end()
	})
}
