package engine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPrefetchAnswersWithoutATrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := audit(t, memory(t).Quota())
		refills := 0
		p := prefetch(t, after(10*time.Millisecond, a), engine.PrefetchConfig{
			Size: 10, LowWater: 4, Hold: time.Minute, OnRefill: func() { refills++; panic("its own affair") },
		})
		m, start := perSecond(1, 100), time.Now()
		g, err := p.Take(t.Context(), some(m, 2, 2)) // nothing is held: it goes itself, and ten are fetched
		wantGrant(t, g, err, engine.Grant{Units: 2})
		assert.Equal(t, 10*time.Millisecond, time.Since(start), "the first draw took")
		synctest.Wait()
		assert.Equal(t, 1, refills, "OnRefill was called %d times", refills)
		for range 6 {
			g, ok := p.Try(one(m, 0))
			require.True(t, ok, "nothing is held after a fetch")
			wantGrant(t, g, nil, engine.Grant{Units: 1})
		}
		synctest.Wait()
		c := a.Counts()
		assert.Equal(t, uint64(2), c.Takes, "with 4 of 10 left nothing is fetched yet")
		assert.Equal(t, int64(12), c.Units, "with 4 of 10 left nothing is fetched yet")
		p.Try(one(m, 0))
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		want := engine.PrefetchCounts{Hits: 7, Misses: 1, Fetches: 2, Fetched: 17, Held: 10}
		assert.Equal(t, want, p.Counts())
		start = time.Now()
		g, err = p.Take(t.Context(), some(m, 3, 50))
		wantGrant(t, g, err, engine.Grant{Units: 10})
		assert.Zero(t, time.Since(start), "a draw from what is held took")
	})
}

func TestPrefetchHoldsNothingForLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := prefetch(t, after(10*time.Millisecond, memory(t).Quota()), engine.PrefetchConfig{Size: 8, LowWater: 1, Hold: time.Second})
		m := engine.Meter{Key: "m", N: 1, Per: time.Hour, Burst: 8}
		p.Try(one(m, 0))
		time.Sleep(time.Second - 1)
		_, ok := p.Try(some(m, 3, 3))
		assert.True(t, ok, "what was fetched was gone before Hold, counted from when it was asked for")
		time.Sleep(time.Nanosecond)
		if g, ok := p.Try(some(m, 1, 5)); ok {
			t.Errorf("%d units were used after Hold", g.Units)
		}
		if c := p.Counts(); c.Expired != 5 || c.Held != 0 {
			t.Errorf("%+v: want 5 expired, none held", c)
		}
		time.Sleep(time.Second) // the fetch found nothing
		c := p.Counts()
		assert.Zero(t, c.Held)
		assert.Equal(t, int64(8), c.Fetched)
	})
}

func TestPrefetchWaitsAsLongAsTheEngineSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := audit(t, memory(t).Quota())
		p := prefetch(t, a, engine.PrefetchConfig{Size: 4, Hold: time.Minute})
		m := perSecond(1, 1)
		try := func() bool {
			_, ok := p.Try(one(m, 0))
			synctest.Wait()
			return ok
		}
		try() // fetches one
		for range 5 {
			if !try() {
				break
			}
		}
		if c := a.Counts(); c.Takes > 2 {
			t.Errorf("an engine that said when to come again was asked %d times", c.Takes)
		}
		time.Sleep(time.Second - 1)
		before := a.Counts().Takes
		try()
		n := a.Counts().Takes
		assert.Equal(t, before, n, "asked %d times before the time the engine gave", n-before)
		time.Sleep(time.Nanosecond)
		try()
		assert.True(t, try(), "nothing was fetched when the time had come")
	})
}

// TestPrefetchBound runs N processes with a prefetch of L over one meter and looks at all
// windows of what they use: at most B + r*W + N*L, and more than B + r*W at times, or the
// test would not reach what it is about.
func TestPrefetchBound(t *testing.T) {
	const processes, size, rate, burst = 4, 25, 100, 50
	beyond := int64(0)
	for seed := range uint64(6) {
		synctest.Test(t, func(t *testing.T) {
			q := after(2*time.Millisecond, memory(t).Quota())
			m, start := perSecond(rate, burst), time.Now()
			var mu sync.Mutex
			var uses []time.Duration
			var wg sync.WaitGroup
			for i := range processes {
				p := prefetch(t, q, engine.PrefetchConfig{Size: size, LowWater: size, Hold: 2 * time.Second})
				rnd := rand.New(rand.NewPCG(seed, uint64(i)))
				take := func() (ok bool) {
					g, err := p.Take(t.Context(), some(m, 1, 1+rnd.Int64N(4)))
					if err != nil {
						t.Error(err)
						return false
					}
					mu.Lock()
					for range g.Units {
						uses = append(uses, time.Since(start))
					}
					mu.Unlock()
					if c := p.Counts(); c.Held > size {
						t.Errorf("%d units are held with a Size of %d", c.Held, size)
					}
					return g.Units > 0
				}
				wg.Go(func() {
					for range 3 {
						for range 20 { // a little, so that all hold what they can and the meter is full again
							take()
							time.Sleep(time.Duration(150+rnd.IntN(50)) * time.Millisecond)
						}
						for misses := 0; misses < 20; { // then all at once
							if !take() {
								misses++
							}
						}
						time.Sleep(time.Duration(rnd.IntN(1000)) * time.Millisecond)
					}
				})
			}
			wg.Wait()
			slices.Sort(uses)
			for i := range uses {
				for j := i; j < len(uses); j += 7 {
					n, window := int64(j-i+1), uses[j]-uses[i]
					exact := burst + int64(window*rate/time.Second)
					if n > exact+processes*size {
						t.Fatalf("%d units were used in %v: at most B + r*W + N*L = %d", n, window, exact+processes*size)
					}
					beyond = max(beyond, n-exact)
				}
			}
		})
	}
	if beyond <= size {
		t.Errorf("at most %d units beyond B + r*W were used: the test does not come near its bound of %d", beyond, processes*size)
	}
	t.Logf("at most %d units beyond B + r*W, the bound is %d", beyond, processes*size)
}

// TestPrefetchCrash: a process that dies takes at most Size units with it.
func TestPrefetchCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 10
		inner := memory(t).Quota()
		m := engine.Meter{Key: "m", N: 1, Per: time.Hour, Burst: 100}
		var used int64
		for i := range 5 {
			p, err := engine.NewPrefetch(after(time.Millisecond, inner), engine.PrefetchConfig{Size: size})
			require.NoError(t, err)
			for range i {
				if g, err := p.Take(t.Context(), one(m, 0)); err == nil {
					used += g.Units
				}
			}
			time.Sleep(time.Duration(i%2) * time.Millisecond) // with a fetch under way, or not
			p.Close()
			_, ok := p.Try(one(m, 0))
			assert.False(t, ok, "a unit was used after Close")
			_, err = p.Take(t.Context(), one(m, 0))
			assert.ErrorIs(t, err, engine.ErrClosed)
		}
		g, err := inner.Take(t.Context(), some(m, 1, 100))
		require.NoError(t, err)
		if lost := 100 - used - g.Units; lost < 1 || lost > 5*size {
			t.Errorf("5 crashes lost %d units: at most %d each", lost, size)
		}
	})
}

func TestPrefetchWithAnEngineInTrouble(t *testing.T) {
	for _, f := range []sluicetest.Fault{sluicetest.Gone, sluicetest.Refusing, sluicetest.LosingAcks, sluicetest.Lying, sluicetest.Panicking, sluicetest.Exiting} {
		t.Run(f.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := chaos(t, f)
				p := prefetch(t, x.Quota(), engine.PrefetchConfig{Size: 10, Hold: time.Second, Budget: 50 * time.Millisecond})
				m := perSecond(1, 100)
				for range 5 {
					if g, ok := p.Try(one(m, 0)); ok {
						t.Fatalf("an engine that is %v let %d units be used", f, g.Units)
					}
					synctest.Wait()
				}
				n := x.Counts().Calls
				assert.Equal(t, 1, n, "an engine that is %v was asked %d times at once", f, n)
				time.Sleep(50 * time.Millisecond)
				synctest.Wait()
				c := p.Counts()
				assert.Equal(t, uint64(1), c.Failed)
				assert.Zero(t, c.Held)
				x.Set(sluicetest.Healthy)
				time.Sleep(time.Second)
				p.Try(one(m, 0))
				synctest.Wait()
				if g, ok := p.Try(some(m, 1, 10)); !ok || g.Units != 10 {
					t.Errorf("back in order, an engine gave %+v", g)
				}
			})
		})
	}
}

func TestPrefetchPools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := prefetch(t, memory(t).Quota(), engine.PrefetchConfig{Size: 10, Hold: time.Second, MaxPools: 3})
		meter := func(i int) engine.Meter { return engine.Meter{Key: fmt.Sprint(i), N: 1, Per: time.Hour, Burst: 100} }
		held := func(i int) bool {
			p.Try(one(meter(i), 0))
			synctest.Wait()
			_, ok := p.Try(one(meter(i), 0))
			return ok
		}
		for i := range 5 {
			assert.Equal(t, i < 3, held(i), "meter %d is held", i)
		}
		other := meter(0)
		other.Each = 2
		g, err := p.Take(t.Context(), one(other, 0)) // goes to the engine itself
		wantGrant(t, g, err, engine.Grant{Units: 1})
		d := one(meter(0), 0)
		d.Op = engine.NewOpID()
		before := p.Counts().Misses
		g, err = p.Take(t.Context(), d)
		wantGrant(t, g, err, engine.Grant{Units: 1})
		assert.Equal(t, before+1, p.Counts().Misses,
			"a draw with an Op was answered without the engine that remembers it")
		time.Sleep(time.Second) // idle pools give way
		assert.True(t, held(4), "a pool that holds nothing did not give way")
	})
}

func TestPrefetchCloseWhileItFetches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Bool
		p, err := engine.NewPrefetch(quotaFunc(func(ctx context.Context, _ engine.Draw) (engine.Grant, error) {
			<-ctx.Done()
			time.Sleep(time.Second) // it takes a while to notice
			ended.Store(true)
			return engine.Grant{}, ctx.Err()
		}), engine.PrefetchConfig{Size: 1})
		require.NoError(t, err)
		p.Try(one(perSecond(1, 1), 0))
		synctest.Wait()
		p.Close()
		assert.True(t, ended.Load(), "Close returned before the goroutine had ended")
		assert.ErrorIs(t, p.Settle(t.Context(), engine.OpID{}, engine.OpID{}, perSecond(1, 1), 1), engine.ErrClosed)
	})
}
