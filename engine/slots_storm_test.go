package engine_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/engine"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// world counts the units that holders use, whatever engines think.
type world struct {
	mu        sync.Mutex
	now, most int
	given     int
}

func (w *world) add(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now += n
	w.most = max(w.most, w.now)
	w.given += max(n, 0)
}

// holder uses one lease after the other until ctx ends. It stops when its time is over, when
// it is told that it lost, and when its process stands still for longer than that.
func holder(ctx context.Context, s engine.Slots, ttl time.Duration, limit int, w *world, rnd *rand.Rand) {
	for ctx.Err() == nil {
		c := engine.Claim{Key: "k", Holder: engine.NewOpID().String(), Units: 1 + rnd.IntN(3), Limit: limit, TTL: ttl, Cold: true,
			MaxWait: time.Duration(rnd.Int64N(int64(2 * ttl)))}
		l, err := s.Acquire(ctx, c)
		if err != nil || rest(l) <= 0 {
			sleep(ctx, time.Duration(1+rnd.Int64N(int64(ttl/4))))
			continue
		}
		use(ctx, s, l, ttl, limit, w, rnd)
	}
}

func use(ctx context.Context, s engine.Slots, l engine.Lease, ttl time.Duration, limit int, w *world, rnd *rand.Rand) {
	w.add(l.Units)
	give := false
	defer func() {
		w.add(-l.Units) // before it says so
		if give {
			_ = s.Release(ctx, l)
		}
	}()
	for n := 1 + rnd.IntN(8); n > 0; n-- {
		wait := time.Duration(1 + rnd.Int64N(int64(ttl/2)))
		if left := rest(l); wait >= left {
			sleep(ctx, left)
			return
		}
		sleep(ctx, wait)
		// A call that outlasts the lease's end is left, as a holder does.
		mine, cancel := context.WithTimeout(ctx, rest(l))
		if rnd.IntN(3) == 0 {
			units := 1 + rnd.IntN(limit)
			if units < l.Units {
				w.add(units - l.Units) // first
				l.Units = units
				_, _ = s.Resize(mine, l, units, limit)
			} else if next, err := s.Resize(mine, l, units, limit); err == nil && mine.Err() == nil {
				w.add(next.Units - l.Units)
				l.Units = next.Units
			} else if errors.Is(err, engine.ErrLost) {
				cancel()
				return
			}
		} else if list, err := s.Renew(mine, ttl, l); err == nil && mine.Err() == nil {
			next := list[0]
			if next.Units == 0 {
				cancel()
				return
			}
			next.Units = min(next.Units, l.Units) // of a Resize that nobody knows of
			l = next
		}
		over := mine.Err() != nil
		cancel()
		if over {
			return
		}
	}
	give = true
}

// rest is for how long l can be used: at its end another may have it.
func rest(l engine.Lease) time.Duration { return l.Left(time.Now()) - 1 }

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// TestColdSlots_Storm: engines lose their data at any time, answers are lost and late, and no
// more units than the limit are ever used.
func TestColdSlots_Storm(t *testing.T) {
	rounds := 150
	if testing.Short() {
		rounds = 20
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	given := 0
	for round := range rounds {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, uint64(round)))
			const limit, ttl = 8, time.Second
			x, err := sluicetest.NewChaos(sluicetest.ChaosConfig{
				Open: func() (engine.Engine, error) { return engine.NewMemory(engine.MemoryConfig{}) },
				Seed: rnd.Uint64(), Delay: 300 * time.Millisecond,
			})
			require.NoError(t, err)
			defer x.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
			defer cancel()
			var w world
			var group sync.WaitGroup
			for range 6 {
				mine := rand.New(rand.NewPCG(rnd.Uint64(), 1))
				group.Go(func() { holder(ctx, x.Slots(), ttl, limit, &w, mine) })
			}
			for ctx.Err() == nil {
				sleep(ctx, time.Duration(rnd.Int64N(int64(3*time.Second))))
				switch rnd.IntN(4) {
				case 0:
					assert.NoError(t, x.Restart())
				case 1:
					x.Set(sluicetest.Restarting)
				case 2:
					x.Set(sluicetest.Slow)
				default:
					x.Set(sluicetest.Healthy)
				}
			}
			group.Wait()
			require.LessOrEqual(t, w.most, limit, "units in use (seed %d, round %d)", seed, round)
			given += w.given
		})
	}
	assert.Greater(t, given, 20*rounds, "units that were given")
}

// TestColdSlotsLearnAtOnce: holders renew at the instant in which the engine is warm, and
// claims wait for that instant.
func TestColdSlotsLearnAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		claim := func() engine.Claim {
			return engine.Claim{Key: "k", Holder: engine.NewOpID().String(), Limit: 2, TTL: time.Minute, Cold: true}
		}
		before := memory(t)
		time.Sleep(time.Minute)
		l, err := before.Slots().Acquire(ctx, claim())
		require.NoError(t, err)
		time.Sleep(time.Second)
		m := memory(t)
		begun := time.Now()
		var group sync.WaitGroup
		wait := func(most time.Duration) (at time.Duration, err error) {
			c := claim()
			c.MaxWait = most
			_, err = m.Slots().Acquire(ctx, c)
			return time.Since(begun), err
		}
		group.Go(func() {
			at, err := wait(time.Minute - 1)
			assert.ErrorIs(t, err, engine.ErrBusy)
			assert.Equal(t, time.Minute-1, at)
		})
		group.Go(func() {
			at, err := wait(time.Minute)
			assert.NoError(t, err, "its wait ends when the engine is warm")
			assert.Equal(t, time.Minute, at)
		})
		time.Sleep(time.Minute - 2*time.Second)
		list, err := m.Slots().Renew(ctx, time.Minute, l)
		require.NoError(t, err)
		require.Equal(t, 1, list[0].Units, "it had a second left")
		require.Equal(t, begun.Add(2*time.Minute-2*time.Second), list[0].Until)
		require.Equal(t, 2, list[0].Wanted)
		group.Wait()
		_, err = m.Slots().Acquire(ctx, claim())
		require.ErrorIs(t, err, engine.ErrBusy, "one was learned of, and one was given")
	})
}

// TestLeaseLeft: whichever clock says less.
func TestLeaseLeft(t *testing.T) {
	now := time.Now()
	require.Equal(t, time.Minute, engine.Lease{Until: now.Add(time.Minute)}.Left(now))
	require.Equal(t, -time.Minute, engine.Lease{Until: now.Add(-time.Minute)}.Left(now))
	// A machine that slept for an hour: its wall clock went on, its monotonic clock did not.
	slept := now.Round(0).Add(time.Hour)
	require.Equal(t, time.Minute-time.Hour, engine.Lease{Until: now.Add(time.Minute)}.Left(slept))
	require.Negative(t, engine.Lease{}.Left(now))
}

// TestLearnsOnlyWhatIsHeld: a lease that an engine does not know is not one because somebody
// says so.
func TestLearnsOnlyWhatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		before := memory(t)
		get := func(m *engine.Memory, key string) engine.Lease {
			l, err := m.Slots().Acquire(ctx, engine.Claim{Key: key, Holder: engine.NewOpID().String(), Limit: 9, TTL: time.Minute})
			require.NoError(t, err)
			return l
		}
		held, ended, given := get(before, "held"), get(before, "ended"), get(before, "given")
		time.Sleep(time.Second)
		m := memory(t)
		own := get(m, "own")
		require.NoError(t, m.Slots().Release(ctx, own))
		get(m, "given")
		ended.Until = time.Now()
		none, wide := held, held
		none.Holder, none.Units = "none", 0
		wide.Holder, wide.Units = "wide", 1<<31-1
		nobody := held
		nobody.Holder = ""
		list, err := m.Slots().Renew(ctx, time.Minute, held, ended, given, own, none, wide, nobody, engine.Lease{})
		require.NoError(t, err)
		for i, want := range []int{1, 0, 0, 0, 0, 0, 0, 0} {
			require.Equal(t, want, list[i].Units, "lease %d", i)
		}
		next := get(m, "held")
		require.Greater(t, next.Fence, held.Fence)
		other := get(before, "held") // from an engine that went on: its fence is of now
		list, err = m.Slots().Renew(ctx, time.Minute, other)
		require.NoError(t, err)
		require.Zero(t, list[0].Units)
	})
}
