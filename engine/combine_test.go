package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
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

func TestCombineSharesTheNextTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := audit(t, memory(t).Quota())
		b := combine(t, after(10*time.Millisecond, a), engine.CombineConfig{})
		m, start := perSecond(1, 50), time.Now()
		var first, second, denied atomic.Int64
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				g, err := b.Take(t.Context(), one(m, 0))
				assert.NoError(t, err)
				switch d := time.Since(start); {
				case d == 10*time.Millisecond && g.Units == 1:
					first.Add(1)
				case d == 20*time.Millisecond && g.Units == 1:
					second.Add(1)
				case d == 20*time.Millisecond && g.Retry > 0:
					denied.Add(1)
				default:
					t.Errorf("%+v after %v", g, d)
				}
			})
		}
		wg.Wait()
		if first.Load() != 1 || second.Load() != 49 || denied.Load() != 50 {
			t.Errorf("the first trip served %d, the second %d and denied %d: want 1, 49, 50", first.Load(), second.Load(), denied.Load())
		}
		if c := a.Counts(); c.Takes != 2 || c.Units != 50 || b.Trips() != 2 {
			t.Errorf("100 callers made %+v, %d trips: want 2 draws of 50 units", c, b.Trips())
		}
	})
}

// TestCombineNeverAsksForMoreThanItsCallers: no unit is drawn before somebody wants it, and
// what is drawn arrives.
func TestCombineNeverAsksForMoreThanItsCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := perSecond(100, 40)
		inner := memory(t).Quota()
		var asking, drawn, got atomic.Int64
		var flying atomic.Int32
		q := quotaFunc(func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
			assert.Equal(t, int32(1), flying.Add(1), "two trips for the same meters at once")
			defer flying.Add(-1)
			if d.Max > asking.Load() {
				t.Errorf("a trip asks for %d units, callers for %d", d.Max, asking.Load())
			}
			g, err := after(5*time.Millisecond, inner)(ctx, d)
			drawn.Add(g.Units)
			return g, err
		})
		b := combine(t, q, engine.CombineConfig{})
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(i), 9))
				for range 50 {
					time.Sleep(time.Duration(rnd.IntN(20)) * time.Millisecond)
					d := some(m, 1, 2+rnd.Int64N(4))
					asking.Add(d.Max)
					g, err := b.Take(t.Context(), d)
					asking.Add(-d.Max)
					if err != nil || d.Check(g) != nil {
						t.Error(g, err, d.Check(g))
					}
					got.Add(g.Units)
				}
			})
		}
		wg.Wait()
		if drawn.Load() != got.Load() || b.Lost() != 0 {
			t.Errorf("%d units were drawn, %d arrived, %d were lost", drawn.Load(), got.Load(), b.Lost())
		}
		if b.Trips() >= 1000 || b.Trips() < 20 {
			t.Errorf("%d trips for 1000 draws", b.Trips())
		}
	})
}

func TestCombineFixedNumbersTravelTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := audit(t, memory(t).Quota())
		b := combine(t, after(time.Millisecond, a), engine.CombineConfig{})
		m := perSecond(1, 100)
		granted := map[int64]int{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 40 {
			size := int64(7 + i%2*3) // 7 or 10
			wg.Go(func() {
				g, err := b.Take(t.Context(), some(m, size, size))
				if err != nil || g.Units != 0 && g.Units != size {
					t.Errorf("asked for %d, got %+v, %v", size, g, err)
				}
				mu.Lock()
				granted[g.Units]++
				mu.Unlock()
			})
		}
		wg.Wait()
		if sum := 7*granted[7] + 10*granted[10]; sum < 91 || sum > 100 {
			t.Errorf("granted %v of 100 tokens: what is left must be too little for anybody", granted)
		}
		assert.Equal(t, int64(4), b.Trips(), "trips for two sizes")
	})
}

func TestCombineBooksForEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := combine(t, after(10*time.Millisecond, memory(t).Quota()), engine.CombineConfig{})
		m := perSecond(10, 1)
		start := time.Now()
		uses := make(chan time.Duration, 8)
		var wg sync.WaitGroup
		for i := range 8 {
			wait := time.Hour
			if i == 6 {
				wait = 200 * time.Millisecond
			}
			wg.Go(func() {
				g, err := b.Take(t.Context(), one(m, wait))
				assert.NoError(t, err)
				if i == 6 && g.Units == 0 {
					uses <- -1
					return
				}
				if g.After > wait {
					t.Errorf("a caller that waits %v was booked for %v", wait, g.After)
				}
				uses <- time.Since(start) + g.After
			})
			synctest.Wait() // they queue in this order
		}
		wg.Wait()
		close(uses)
		seen := map[time.Duration]int{}
		for u := range uses {
			seen[u]++
		}
		// The first unit is there at 10 ms; the others come every 100 ms from then on.
		for i := range 7 {
			at := 10*time.Millisecond + time.Duration(i)*100*time.Millisecond
			assert.Equal(t, 1, seen[at], "no unit is used at %v: %v", at, seen)
		}
		assert.Equal(t, 1, seen[-1], "the caller that waits 200ms behind six others was not denied: %v", seen)
		assert.Zero(t, b.Lost(), "units were lost")
	})
}

func TestCombineGivesTheUnitsOfWhoLeftToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := audit(t, memory(t).Quota())
		b := combine(t, after(10*time.Millisecond, a), engine.CombineConfig{})
		m := perSecond(1, 10)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		take := func(ctx context.Context, wantUnits int64, want error) {
			wg.Go(func() {
				g, err := b.Take(ctx, one(m, 0))
				if g.Units != wantUnits || !errors.Is(err, want) {
					t.Errorf("got %+v, %v: want %d units and %v", g, err, wantUnits, want)
				}
			})
			synctest.Wait()
		}
		take(t.Context(), 1, nil) // flies alone
		take(ctx, 0, engine.ErrUnsure)
		take(ctx, 0, engine.ErrUnsure)
		take(t.Context(), 1, nil)
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()           // the second trip has left, with three
		take(t.Context(), 1, nil) // waits for a third
		take(canceled(), 0, engine.ErrRefused)
		cancel()
		wg.Wait()
		synctest.Wait() // who split the answer counts what is left over after all have theirs
		if c := a.Counts(); c.Takes != 2 || c.Units != 4 || b.Lost() != 1 {
			t.Errorf("%+v and %d lost: want 2 trips, 4 units, and 1 that nobody was there for", c, b.Lost())
		}
	})
}

// TestCombineGivesNoBookingToWhoCannotWait: what is over goes to those in the queue whose
// own wait is long enough.
func TestCombineGivesNoBookingToWhoCannotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memory(t).Quota()
		b := combine(t, after(10*time.Millisecond, inner), engine.CombineConfig{})
		m, start := perSecond(1, 1), time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		take := func(ctx context.Context, wait, wantUse time.Duration) {
			wg.Go(func() {
				g, err := b.Take(ctx, one(m, wait))
				use := time.Since(start) + g.After
				if ctx.Err() == nil && (err != nil || g.Units != min(1, int64(wantUse)) || g.Units == 1 && use != wantUse) {
					t.Errorf("a caller that waits %v got %+v, %v, to use at %v: want %v", wait, g, err, use, wantUse)
				}
			})
			synctest.Wait()
		}
		take(t.Context(), time.Hour, 10*time.Millisecond)
		take(ctx, time.Hour, 0)
		take(t.Context(), time.Hour, 1010*time.Millisecond)
		time.Sleep(10 * time.Millisecond)
		synctest.Wait() // two are in the air
		take(t.Context(), 100*time.Millisecond, 0)
		take(t.Context(), time.Hour, 2010*time.Millisecond)
		cancel()
		wg.Wait()
		assert.Zero(t, b.Lost(), "units were lost")
	})
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestCombineLeavesAtOnceAndCallsTheTripBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := chaos(t, sluicetest.Gone)
		b := combine(t, x.Quota(), engine.CombineConfig{MaxWaiting: 2})
		m := perSecond(1, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := b.Take(ctx, one(m, 0))
			assert.ErrorIs(t, err, engine.ErrUnsure)
			assert.ErrorContains(t, err, "deadline exceeded")
		})
		synctest.Wait()
		wg.Go(func() {
			queued, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			_, err := b.Take(queued, one(m, 0))
			assert.ErrorIs(t, err, engine.ErrRefused)
			assert.ErrorContains(t, err, "deadline exceeded") // it never left
		})
		synctest.Wait()
		_, err := b.Take(t.Context(), one(m, 0))
		assert.ErrorIs(t, err, engine.ErrFull)
		assert.ErrorContains(t, err, "CombineConfig.MaxWaiting is 2")
		wg.Wait()
		assert.Equal(t, time.Second, time.Since(start), "callers of an engine that is gone left after")
		x.Set(sluicetest.Healthy)
		g, err := b.Take(t.Context(), one(m, 0))
		wantGrant(t, g, err, engine.Grant{Units: 1})
	})
}

func TestCombineTellsEverybodyWhatWentWrong(t *testing.T) {
	exits := quotaFunc(func(context.Context, engine.Draw) (engine.Grant, error) { runtime.Goexit(); return engine.Grant{}, nil })
	panics := quotaFunc(func(context.Context, engine.Draw) (engine.Grant, error) { panic("broken") })
	lies := quotaFunc(func(_ context.Context, d engine.Draw) (engine.Grant, error) {
		return engine.Grant{Units: d.Max + 1}, nil
	})
	silent := quotaFunc(func(context.Context, engine.Draw) (engine.Grant, error) {
		return engine.Grant{Units: 1}, errors.New("connection reset")
	})
	refuses := quotaFunc(func(context.Context, engine.Draw) (engine.Grant, error) { return engine.Grant{}, engine.ErrFull })
	for _, c := range []struct {
		name, want string
		q          engine.Quota
		target     error
	}{
		{"exits", "the engine ended the goroutine", exits, engine.ErrUnsure},
		{"panics", "the engine panicked: broken", panics, engine.ErrUnsure},
		{"lies", "the engine answered Grant.Units", lies, engine.ErrUnsure},
		{"says nothing", "connection reset", silent, engine.ErrUnsure},
		{"refuses", "the engine is full", refuses, engine.ErrFull},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := combine(t, c.q, engine.CombineConfig{})
				var wg sync.WaitGroup
				for range 10 {
					wg.Go(func() {
						g, err := b.Take(t.Context(), one(perSecond(1, 1), 0))
						assert.ErrorIs(t, err, c.target)
						assert.ErrorContains(t, err, c.want)
						assert.Equal(t, (engine.Grant{}), g, "a grant came with an error")
					})
				}
				wg.Wait()
			})
		})
	}
}

func TestCombineClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := engine.NewCombine(chaos(t, sluicetest.Gone).Quota(), engine.CombineConfig{})
		require.NoError(t, err)
		var wg sync.WaitGroup
		for i, want := range []error{engine.ErrUnsure, engine.ErrClosed} { // in the air, in the queue
			wg.Go(func() {
				_, err := b.Take(t.Context(), one(perSecond(1, 1), 0))
				assert.ErrorIs(t, err, want)
			})
			synctest.Wait()
			_ = i
		}
		b.Close()
		wg.Wait()
		_, err = b.Take(t.Context(), one(perSecond(1, 1), 0))
		assert.ErrorIs(t, err, engine.ErrClosed)
		_, err = b.Take(t.Context(), some(perSecond(1, 9), 2, 3))
		assert.ErrorIs(t, err, engine.ErrClosed)
		assert.ErrorIs(t, b.Settle(t.Context(), engine.OpID{}, []engine.Correction{{Meter: perSecond(1, 1), Delta: 1}}), engine.ErrClosed)
		b.Close()
	})
}

// TestCombineStorm mixes everything: draws of all kinds, leavers, a slow engine. Nobody may
// get what the engine did not give.
func TestCombineStorm(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				inner := memory(t).Quota()
				var given atomic.Int64
				b := combine(t, after(3*time.Millisecond, quotaFunc(func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
					g, err := inner.Take(ctx, d)
					given.Add(g.Units * max(1, d.Meters[0].Each))
					return g, err
				})), engine.CombineConfig{})
				m := perSecond(200, 20)
				var got, unsure atomic.Int64
				var wg sync.WaitGroup
				for i := range 16 {
					wg.Go(func() {
						rnd := rand.New(rand.NewPCG(seed, uint64(i)))
						for range 60 {
							d := some(m, 1, 1+rnd.Int64N(3))
							if rnd.IntN(4) == 0 {
								d.Min = d.Max
							}
							if rnd.IntN(2) == 0 {
								d.MaxWait = time.Duration(rnd.IntN(40)) * time.Millisecond
							}
							ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rnd.IntN(12))*time.Millisecond)
							g, err := b.Take(ctx, d)
							cancel()
							switch {
							case err == nil:
								if lie := d.Check(g); lie != nil {
									t.Error(d, lie)
								}
								got.Add(g.Units)
							case errors.Is(err, engine.ErrUnsure):
								unsure.Add(1)
							case !errors.Is(err, engine.ErrRefused):
								t.Error(err)
							}
							time.Sleep(time.Duration(rnd.IntN(15)) * time.Millisecond)
						}
					})
				}
				wg.Wait()
				if got.Load()+b.Lost() != given.Load() {
					t.Errorf("the engine gave %d units, %d arrived and %d are counted as lost", given.Load(), got.Load(), b.Lost())
				}
				if got.Load() < 100 || unsure.Load() == 0 {
					t.Errorf("%d units arrived, %d callers were left unsure: the storm says little", got.Load(), unsure.Load())
				}
			})
		})
	}
}
