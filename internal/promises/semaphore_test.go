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
	"golang.org/x/sync/semaphore"
)

// sharedWith is a limiter of max calls, or of their weight, over the semaphore.
func sharedWith(w *semaphore.Weighted, max int, more ...sluice.Limit) *sluice.ConcurrencyLimiter {
	return limitsOf(append(more, sluice.Limit{Max: max, Semaphore: w})...)
}

// freeAgain holds that n can be had of w: nobody holds anything of that.
func freeAgain(t *testing.T, w *semaphore.Weighted, n int64) {
	t.Helper()
	if assert.True(t, w.TryAcquire(n), "something of the semaphore is still held") {
		w.Release(n)
	}
}

// Calls wait for what other code holds, in the order in which they and other code came, and
// what they hold other code waits for.
func TestSemaphore_OneLineWithOtherCode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := semaphore.NewWeighted(2)
		r := newRig(t, sluice.Config{Interceptors: interceptors(sharedWith(w, 2))})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, sleeps(time.Second))
		require.NoError(t, w.Acquire(t.Context(), 2))
		wait := inOrder(3, func(i int) {
			if i == 1 { // other code, between two calls
				assert.NoError(t, w.Acquire(t.Context(), 1))
				assert.Equal(t, time.Second, r.at(), "other code has its turn before the later call")
				time.Sleep(time.Second)
				w.Release(1)
				return
			}
			assert.NoError(t, r.call("work"))
			assert.Equal(t, time.Duration(2+i/2)*time.Second, r.at(), "call %d ended", i)
		})
		assert.Equal(t, 2, r.Snapshot().Queued)
		time.Sleep(time.Second)
		w.Release(2)
		wait()
		freeAgain(t, w, 2)
	})
}

// A call takes nothing of the semaphore unless all else agrees, and holds nothing of its other
// gates while it waits.
func TestSemaphore_IsAskedLast(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := semaphore.NewWeighted(5)
		l := sharedWith(w, 5, sluice.Limit{Max: 1, Scope: sluice.ForTool("work")})
		q := rates(sluice.Rate{N: 10})
		r := newRig(t, sluice.Config{Interceptors: interceptors(l, q)})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, sleeps(time.Second))
		var wg sync.WaitGroup
		for range 4 { // one runs, three wait for it
			wg.Go(func() { assert.NoError(t, r.call("work")) })
		}
		synctest.Wait()
		freeAgain(t, w, 4)
		wg.Wait()
		require.True(t, w.TryAcquire(5))
		wg.Go(func() { assert.NoError(t, r.call("work")) })
		synctest.Wait()
		for _, g := range r.Snapshot().Gates {
			assert.Zero(t, g.Used, "%s is held by a call that waits", g.Name)
		}
		w.Release(5)
		wg.Wait()
		freeAgain(t, w, 5)
	})
}

// The next call is chosen when the semaphore has a slot for it, by level; of one level none is
// ever overtaken by a later one, whatever becomes of others.
func TestSemaphore_KeepsTheOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := semaphore.NewWeighted(1)
		order := sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(sharedWith(w, 1), order)})
		defer r.end()
		var mu sync.Mutex
		var ran []string
		_, err := sluice.Register(r.reg, sluice.Spec{Name: "work"}, func(ctx context.Context, who string) (int, error) {
			mu.Lock()
			ran = append(ran, who)
			mu.Unlock()
			time.Sleep(ms)
			return 0, nil
		})
		require.NoError(t, err)
		call := func(ctx context.Context, p sluice.Priority, who string) error {
			pc := r.pc
			pc.Priority = p
			_, err := r.Invoke(sluice.WithPipelineContext(ctx, pc), sluice.Request{Tool: "work", Input: who})
			return err
		}
		require.NoError(t, w.Acquire(t.Context(), 1))
		leaves, cancel := context.WithCancel(t.Context())
		wait := inOrder(7, func(i int) {
			switch i {
			case 0, 3:
				assert.ErrorIs(t, call(leaves, sluice.PriorityNormal, "gives up"), sluice.ErrRejected)
			case 5:
				assert.NoError(t, call(t.Context(), sluice.PriorityInteractive, "urgent"))
			default:
				assert.NoError(t, call(t.Context(), sluice.PriorityNormal, fmt.Sprint(i)))
			}
		})
		cancel()
		synctest.Wait()
		w.Release(1)
		wait()
		assert.Equal(t, []string{"urgent", "1", "2", "4", "6"}, ran)
		freeAgain(t, w, 1)
	})
}

// What a call weighs it holds of the semaphore. One that is wider than Max is refused; one behind
// which there is a narrower one is served first.
func TestSemaphore_Weights(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := semaphore.NewWeighted(10)
		l := limitsOf(sluice.Limit{Max: 8, Unit: "MB", Semaphore: w})
		r := newRig(t, sluice.Config{Interceptors: interceptors(l)})
		defer r.end()
		for name, mb := range map[string]int64{"small": 1, "large": 6, "huge": 9} {
			r.tool(sluice.Spec{Name: name, Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return mb }}}, sleeps(time.Second))
		}
		e := wantRefusal(t, r.call("huge"), sluice.ErrSaturated, "concurrency MB global", 0)
		require.NotNil(t, e)
		require.True(t, w.TryAcquire(5))
		wait := inOrder(2, func(i int) {
			assert.NoError(t, r.call([]string{"large", "small"}[i]))
		})
		synctest.Wait()
		assert.Equal(t, 2, r.Snapshot().Queued, "the small one waits behind the large one")
		w.Release(5)
		synctest.Wait()
		freeAgain(t, w, 3)
		assert.False(t, w.TryAcquire(4), "7 are held")
		wait()
		freeAgain(t, w, 10)
	})
}

// A call inside a call runs on its slot.
func TestSemaphore_NestedCallsHoldOneSlot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := semaphore.NewWeighted(1)
		r := newRig(t, sluice.Config{Interceptors: interceptors(sharedWith(w, 1))})
		defer r.end()
		r.tool(sluice.Spec{Name: "inner"}, sleeps(time.Second))
		r.tool(sluice.Spec{Name: "outer"}, func(ctx context.Context) error {
			_, err := r.Invoke(ctx, sluice.Request{Tool: "inner"})
			return err
		})
		require.NoError(t, r.call("outer"))
		assert.Equal(t, time.Second, r.at())
		freeAgain(t, w, 1)
	})
}

// A limit that refuses does not wait for the semaphore, nor does a forecast take of it.
func TestSemaphore_Refuses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := semaphore.NewWeighted(1)
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, Refuse: true, Semaphore: w}))})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, sleeps(0))
		assert.Nil(t, r.Explain(r.ctx, sluice.Request{Tool: "work"}).Refusal)
		require.NoError(t, r.call("work"))
		require.True(t, w.TryAcquire(1))
		wantRefusal(t, r.call("work"), sluice.ErrSaturated, "concurrency global", 0)
		d := r.Explain(r.ctx, sluice.Request{Tool: "work"})
		wantRefusal(t, d.Refusal, sluice.ErrSaturated, "concurrency global", 0)
		w.Release(1)
		freeAgain(t, w, 1)
	})
}

// Close refuses who waits for the semaphore, and leaves nobody in its line.
func TestSemaphore_CloseLeavesTheLine(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := semaphore.NewWeighted(1)
		l := sharedWith(w, 1)
		r, other := newRig(t, sluice.Config{Interceptors: interceptors(l)}), newRig(t, sluice.Config{Interceptors: interceptors(l)})
		for _, r := range []*rig{r, other} {
			r.tool(sluice.Spec{Name: "work"}, sleeps(0))
		}
		require.True(t, w.TryAcquire(1))
		wait := inOrder(3, func(int) { assert.ErrorIs(t, r.call("work"), sluice.ErrClosed) })
		f := r.Submit(r.ctx, sluice.Request{Tool: "work"})
		waitOther := inOrder(1, func(int) { assert.NoError(t, other.call("work")) })
		before := runtime.NumGoroutine()
		require.NoError(t, r.Close(t.Context()))
		wait()
		assert.ErrorIs(t, errOf(f.Wait(t.Context())), sluice.ErrClosed)
		synctest.Wait()
		assert.Less(t, runtime.NumGoroutine(), before)
		w.Release(1)
		waitOther()
		other.end()
		r.end()
		freeAgain(t, w, 1)
		// The limiter serves an executor that comes after.
		again := newRig(t, sluice.Config{Interceptors: interceptors(l)})
		again.tool(sluice.Spec{Name: "work"}, sleeps(0))
		require.NoError(t, again.call("work"))
		again.end()
		freeAgain(t, w, 1)
	})
}

// A slot comes back however the code ends, also if that is long after its time.
func TestSemaphore_ComesBackHoweverCodeEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := semaphore.NewWeighted(1)
		r := newRig(t, sluice.Config{Interceptors: interceptors(sharedWith(w, 1))})
		defer r.end()
		r.tool(sluice.Spec{Name: "panics"}, func(context.Context) error { panic("boom") })
		r.tool(sluice.Spec{Name: "exits"}, func(context.Context) error { runtime.Goexit(); return nil })
		r.tool(sluice.Spec{Name: "fails"}, func(context.Context) error { return errors.New("no") })
		r.tool(sluice.Spec{Name: "late", Policy: sluice.Policy{Timeout: time.Second}}, sleeps(time.Minute))
		for _, tool := range []string{"panics", "exits", "fails"} {
			parallel(1, func(int) { _ = r.call(tool) }) // on a goroutine that it may end
			freeAgain(t, w, 1)
		}
		assert.ErrorIs(t, r.call("late"), sluice.ErrTimeout)
		assert.False(t, w.TryAcquire(1), "its code has not ended")
		require.NoError(t, w.Acquire(t.Context(), 1))
		assert.Equal(t, time.Minute, r.at())
		w.Release(1)
	})
}

// Other code that gives back more than it holds breaks its semaphore, and no call.
func TestSemaphore_ReleasedTooOften(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := semaphore.NewWeighted(1)
		r := newRig(t, sluice.Config{Interceptors: interceptors(sharedWith(w, 1))})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, func(context.Context) error {
			w.Release(1)
			return nil
		})
		r.tool(sluice.Spec{Name: "other"}, sleeps(0))
		require.NoError(t, r.call("work"))
		for range 3 {
			require.NoError(t, r.call("other"))
		}
	})
}

// Which semaphore it is cannot change; what calls may take of it can.
func TestSemaphore_Change(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := semaphore.NewWeighted(3)
		l := sharedWith(w, 1)
		r := newRig(t, sluice.Config{Interceptors: interceptors(l)})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, sleeps(time.Second))
		for _, to := range []*semaphore.Weighted{nil, semaphore.NewWeighted(3)} {
			err := sluice.Reconfigure("test", l.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2, Semaphore: to}}}))
			assert.ErrorContains(t, err, "sluice: ConcurrencyLimiterConfig.Limits[0].Semaphore is another: it cannot change")
		}
		wait := inOrder(3, func(int) { assert.NoError(t, r.call("work")) })
		freeAgain(t, w, 2)
		c := l.Config()
		c.Limits[0].Max = 3
		require.NoError(t, sluice.Reconfigure("test", l.Change(c)))
		synctest.Wait()
		assert.False(t, w.TryAcquire(1), "three calls run")
		wait()
		assert.Equal(t, time.Second, r.at())
		freeAgain(t, w, 3)
	})
	_, err := sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{
		{Max: 1, Scope: sluice.ByTool, Semaphore: semaphore.NewWeighted(1)}}})
	assert.EqualError(t, err,
		"sluice: ConcurrencyLimiterConfig.Limits[0].Scope is per tool with Semaphore: must be Global, ForTool or ForType")
}

// Calls of all kinds beside other code: never more is held than the semaphore's size, every call
// comes to its end, and nothing is left.
func TestHandOver_SemaphoreBesideOtherCode(t *testing.T) {
	const size = 4
	calm := calmNow()
	w := semaphore.NewWeighted(size)
	seed, streams := stormSeed(t), atomic.Uint64{}
	dice := func() *rand.Rand { return rand.New(rand.NewPCG(seed, streams.Add(1))) }
	var held gauge
	hold := func(r *rand.Rand, n int64) {
		held.take(n)
		if r.IntN(4) == 0 {
			time.Sleep(time.Duration(r.IntN(100)) * time.Microsecond) // other code has a clock of its own: real time
		}
		held.give(n)
	}
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{
		Interceptors: interceptors(
			limitsOf(sluice.Limit{Max: 3, Scope: sluice.ForTool("narrow")}, sluice.Limit{Max: size, Unit: "units", Semaphore: w}),
			sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{}))),
	}))
	for name, n := range map[string]int64{"work": 1, "narrow": 1, "wide": 3} {
		cost := func(sluice.Call, string) int64 { return n }
		rawTool(t, exec.Registry(), sluice.Spec{Name: name, Policy: sluice.Policy{Cost: cost}}, func(ctx context.Context) error {
			r := dice()
			hold(r, n)
			switch r.IntN(20) {
			case 0:
				panic("boom")
			case 1:
				_, err := exec.Invoke(ctx, sluice.Request{Tool: "work"})
				return err
			}
			return nil
		})
	}
	var wg sync.WaitGroup
	for i := range 8 {
		r := dice()
		wg.Go(func() {
			for range many(5000) {
				pc := sluice.PipelineContext{Priority: sluice.Priority(r.IntN(10)), Tenant: fmt.Sprint(i % 3)}
				ctx, cancel := context.WithCancel(sluice.WithPipelineContext(context.Background(), pc))
				if r.IntN(4) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(200))*time.Microsecond)
				}
				req := sluice.Request{Tool: []string{"work", "work", "narrow", "wide"}[r.IntN(4)]}
				if r.IntN(3) == 0 {
					f := exec.Submit(ctx, req)
					_, _ = f.Wait(context.Background())
				} else {
					_, _ = exec.Invoke(ctx, req)
				}
				cancel()
			}
		})
	}
	for range 3 {
		r := dice()
		wg.Go(func() {
			for range many(5000) {
				n := 1 + r.Int64N(size)
				if !w.TryAcquire(n) && w.Acquire(context.Background(), n) != nil {
					return
				}
				hold(r, n)
				w.Release(n)
			}
		})
	}
	wg.Wait()
	assert.LessOrEqual(t, held.peak.Load(), int64(size), "held at once")
	s := exec.Snapshot()
	assert.Zero(t, s.Queued+s.InFlight, "left in the machine")
	assert.False(t, slices.ContainsFunc(s.Gates, func(g sluice.GateState) bool { return g.Used > 0 }), "slots are held: %v", s.Gates)
	require.NoError(t, exec.Close(context.Background()))
	freeAgain(t, w, size)
	exec, s = nil, sluice.Snapshot{}
	calm.returns(t)
}
