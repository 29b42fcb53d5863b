package stage

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/semaphore"

	"github.com/sluice-go/sluice/internal/admit"
)

// sharedOf is a limit of n over a semaphore of that size.
func sharedOf(n int64) (*semaphore.Weighted, []*admit.Class) {
	w := semaphore.NewWeighted(n)
	return w, []*admit.Class{{Name: "shared", Kind: admit.Slots, Limit: n, Semaphore: w}}
}

// acquirersOf is for how many slots somebody stands in line.
func acquirersOf(s *Stage) (list []int64) {
	s.Lock()
	defer s.mu.Unlock()
	for _, a := range s.acquirers {
		list = append(list, a.n)
	}
	return list
}

// Somebody stands in line for the first of those who wait, and for nobody else; calls and other
// code have their turns in the order in which they came.
func TestOneStandsInLineForAllWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := alone(t, nil), caller()
		w, shared := sharedOf(1)
		require.True(t, w.TryAcquire(1))
		assert.Empty(t, acquirersOf(s))
		a, b := submits(s, p, shared), submits(s, p, shared)
		assert.Equal(t, []int64{1}, acquirersOf(s))
		synctest.Wait()
		var others atomic.Int32
		go func() {
			_ = w.Acquire(background, 1)
			others.Add(1)
		}()
		synctest.Wait()
		w.Release(1)
		synctest.Wait()
		assert.Equal(t, admit.Running, a.state())
		finish(s, a.t)
		synctest.Wait()
		assert.EqualValues(t, 1, others.Load(), "it came before the second call's turn")
		assert.Equal(t, admit.Waiting, b.state())
		w.Release(1)
		synctest.Wait()
		assert.Equal(t, admit.Running, b.state())
		assert.Empty(t, acquirersOf(s))
		finish(s, b.t)
		assert.True(t, w.TryAcquire(1), "all is free in the end")
	})
}

// When nobody waits any more nobody stands in line, and what was acquired at that very moment is
// given back.
func TestNobodyStandsInLineForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := alone(t, nil), caller()
		w, shared := sharedOf(2)
		require.True(t, w.TryAcquire(2))
		last := arrives(s, p, shared)
		leaving(s, last)()
		assert.Empty(t, acquirersOf(s), "the last has left")
		for range 100 {
			a := arrives(s, p, shared)
			synctest.Wait()
			ctx, cancel := context.WithCancel(background)
			go w.Release(2)
			go cancel()
			if Await(ctx, a, leaving(s, a)) != admit.Left {
				finish(s, a)
			}
			synctest.Wait()
			assert.Empty(t, acquirersOf(s))
			require.True(t, w.TryAcquire(2), "all is free in the end")
		}
		w.Release(2)
	})
}

// The first call of others is for another number of slots: the turn is for that.
func TestTheTurnIsForWhoeverIsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := alone(t, nil), caller()
		w, shared := sharedOf(3)
		require.True(t, w.TryAcquire(3))
		c := &call{s: s}
		wide := func(tk *admit.Ticket) {
			s.M.Add(tk, s.M.Cell(s.Now(), shared[0], ""), 3)
			tk.Owner = c
		}
		c.t = arrives(s, p, nil, wide)
		one := submits(s, p, shared)
		assert.Equal(t, []int64{3}, acquirersOf(s))
		leaving(s, c.t)()
		assert.Equal(t, []int64{1}, acquirersOf(s))
		w.Release(1)
		synctest.Wait()
		assert.Equal(t, admit.Running, one.state())
		finish(s, one.t)
		w.Release(2)
		assert.True(t, w.TryAcquire(3))
	})
}

// slowly is a semaphore whose Acquire takes a second to notice the end of its context.
type slowly struct{ *semaphore.Weighted }

func (w slowly) Acquire(ctx context.Context, n int64) error {
	err := w.Weighted.Acquire(ctx, n)
	if err != nil {
		time.Sleep(time.Second)
	}
	return err
}

// The last client that parts leaves no goroutine behind, and waits for no longer than that takes.
func TestPartWaitsForWhoStoodInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, last := listing(map[string]*Ref{}, "gate"), new(member)
		last.lists = first.lists
		s, p := joined(t, first, Order{}), caller()
		joined(t, last, Order{})
		w, shared := sharedOf(1)
		shared[0].Semaphore = slowly{w}
		require.True(t, w.TryAcquire(1))
		a := arrives(s, p, shared)
		synctest.Wait()
		leaving(s, a)()
		start := time.Now()
		s.Part(first)
		assert.Zero(t, time.Since(start), "the first to part waits")
		s.Part(last)
		assert.Equal(t, time.Second, time.Since(start), "the last to part waited")
		w.Release(1)
		assert.True(t, w.TryAcquire(1))
	})
}

// Calls that come, start, give up and end, beside other code: the semaphore holds no more than its
// size, and in the end nothing.
func TestSharedSemaphoreStorm(t *testing.T) {
	const size = 3
	client := listing(map[string]*Ref{}, "gate")
	s := joined(t, client, Order{})
	w, shared := sharedOf(size)
	other := []*admit.Class{slotsOf("other", 2), shared[0]}
	var held, most atomic.Int64
	hold := func(n int64) {
		if now := held.Add(n); now > size {
			most.Store(now)
		}
		if rand.IntN(8) == 0 {
			time.Sleep(time.Duration(rand.IntN(50)) * time.Microsecond)
		}
		held.Add(-n)
	}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			p := &admit.Plan{Tool: uint64(i), Client: admit.NewClient()}
			for range 200 {
				needs := shared
				if i%3 == 0 {
					needs = other
				}
				ctx, cancel := context.WithCancel(background)
				if rand.IntN(3) == 0 {
					ctx, cancel = context.WithTimeout(background, time.Duration(rand.IntN(100))*time.Microsecond)
				}
				x := arrives(s, p, needs, func(t *admit.Ticket) { t.Level = int8(rand.IntN(3)) })
				if x.Owner != nil && Await(ctx, x, leaving(s, x)) == admit.Left {
					cancel()
					continue
				}
				cancel()
				hold(1)
				finish(s, x)
			}
		})
	}
	for range 4 {
		wg.Go(func() {
			for range 200 {
				n := 1 + rand.Int64N(size)
				if w.Acquire(background, n) == nil {
					hold(n)
					w.Release(n)
				}
			}
		})
	}
	wg.Wait()
	assert.Zero(t, most.Load(), "held at once, of %d", size)
	s.Part(client)
	assert.True(t, w.TryAcquire(size), "something is still held")
}
