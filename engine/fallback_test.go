package engine_test

import (
	"context"
	"errors"
	"fmt"
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

// TestBackendDown: an engine that is gone costs every caller the budget and no more,
// then nothing; what is answered is what was chosen, Deny unless said otherwise, and it is
// said when that begins and ends.
func TestBackendDown(t *testing.T) {
	for mode, want := range map[engine.Mode]engine.Grant{
		engine.Deny: {}, engine.LocalShare: {Units: 1}, engine.Admit: {Units: 1},
	} {
		t.Run(mode.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := chaos(t, sluicetest.Gone)
				var said []string
				c := engine.FallbackConfig{Mode: mode, Trip: 3, Cooldown: 2 * time.Second, OnChange: func(away bool, cause error) {
					said = append(said, fmt.Sprint(away, " ", cause != nil))
					panic("its own affair")
				}}
				if mode == engine.LocalShare {
					c.Share = 2
				}
				f := fallback(t, x.Quota(), c)
				m := perSecond(1, 10_000) // a share of it is enough for the test
				take := func(wantTook time.Duration) {
					t.Helper()
					start := time.Now()
					g, err := f.Take(t.Context(), one(m, 0))
					assert.Equal(t, wantTook, time.Since(start), "an answer took")
					if g.Units != want.Units || (err != nil) != (mode == engine.Deny) {
						t.Errorf("got %+v, %v: want %+v", g, err, want)
					}
					if mode == engine.Deny {
						assert.ErrorIs(t, err, engine.ErrAway)
						assert.ErrorContains(t, err, "engine: away")
						sent := wantTook > 0
						if errors.Is(err, engine.ErrUnsure) != sent || errors.Is(err, engine.ErrRefused) == sent {
							t.Errorf("the engine was asked: %v, and the error says %v", sent, err)
						}
					}
				}
				const budget = 100 * time.Millisecond
				for range 3 {
					assert.False(t, f.Away(), "away before Trip failures")
					take(budget)
				}
				assert.True(t, f.Away(), "not away after Trip failures")
				for range 1000 {
					take(0)
				}
				n := x.Counts().Calls
				assert.Equal(t, 3, n, "an engine that is away was asked %d times", n)
				time.Sleep(2*time.Second - time.Nanosecond)
				take(0)
				time.Sleep(time.Nanosecond)
				take(budget) // one asks, in vain
				take(0)
				time.Sleep(2 * time.Second)
				x.Set(sluicetest.Healthy)
				for range 5 {
					g, err := f.Take(t.Context(), one(m, 0))
					wantGrant(t, g, err, engine.Grant{Units: 1})
				}
				if f.Away() || x.Counts().Calls != 9 {
					t.Errorf("away: %v after %d calls", f.Away(), x.Counts().Calls)
				}
				assert.Equal(t, "[true true false false]", fmt.Sprint(said), "OnChange was told")
				got, want := f.Counts(), engine.FallbackCounts{Asked: 9, Failed: 4, Instead: 1006, Granted: 1006 * want.Units, Trips: 1}
				assert.Equal(t, want, got)
			})
		})
	}
}

// TestLyingBackend: what cannot be true is an error, and the units count as spent.
func TestLyingBackend(t *testing.T) {
	for i, lie := range []engine.Grant{
		{Units: -1}, {Units: 6}, {Units: 1}, {Units: 5, After: time.Hour}, {Units: 5, After: -1}, {Units: 5, Every: time.Second},
		{Units: 5, Every: -1}, {Retry: -1}, {After: 1}, {Units: -1 << 63}, {Units: 1<<63 - 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := fallback(t, quotaFunc(func(context.Context, engine.Draw) (engine.Grant, error) { return lie, nil }), engine.FallbackConfig{Trip: 2})
			for range 2 {
				g, err := f.Take(t.Context(), some(perSecond(1, 10), 2, 5))
				if g.Units != 0 || !errors.Is(err, engine.ErrUnsure) || !errors.Is(err, engine.ErrAway) {
					t.Errorf("lie %d, %+v, was answered with %+v, %v", i, lie, g, err)
				}
			}
			assert.True(t, f.Away(), "lie %d, %+v, twice, and the engine is still trusted", i, lie)
		})
	}
}

func TestFallbackFaults(t *testing.T) {
	for _, c := range []struct {
		fault sluicetest.Fault
		want  error
	}{
		{sluicetest.Refusing, engine.ErrRefused}, {sluicetest.Dropping, engine.ErrUnsure}, {sluicetest.LosingAcks, engine.ErrUnsure},
		{sluicetest.Lying, engine.ErrUnsure}, {sluicetest.Panicking, engine.ErrUnsure}, {sluicetest.Exiting, engine.ErrUnsure},
	} {
		t.Run(c.fault.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := chaos(t, c.fault)
				f := fallback(t, x.Quota(), engine.FallbackConfig{})
				start := time.Now()
				for i := range 10 {
					_, err := f.Take(t.Context(), one(perSecond(1, 100), 0))
					want := c.want
					if i >= 5 {
						want = engine.ErrRefused // not asked any more
					}
					assert.ErrorIs(t, err, want)
					assert.ErrorIs(t, err, engine.ErrAway)
				}
				d := time.Since(start)
				assert.Zero(t, d)
				assert.Equal(t, 5, x.Counts().Calls)
			})
		})
	}
}

// TestFallbackBudgetHoldsAgainstAnEngineThatDoesNotListen: the caller leaves on time.
func TestFallbackBudgetHoldsAgainstAnEngineThatDoesNotListen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := engine.NewFallback(quotaFunc(func(context.Context, engine.Draw) (engine.Grant, error) {
			time.Sleep(time.Hour)
			return engine.Grant{Units: 1}, nil
		}), engine.FallbackConfig{Budget: 30 * time.Millisecond, Mode: engine.Admit, Trip: 1})
		require.NoError(t, err)
		start := time.Now()
		g, err := f.Take(t.Context(), one(perSecond(1, 1), 0))
		wantGrant(t, g, err, engine.Grant{Units: 1})
		assert.Equal(t, 30*time.Millisecond, time.Since(start), "took")
		time.Sleep(2 * time.Hour) // its late answer is from before the engine went away
		synctest.Wait()
		assert.True(t, f.Away(), "a late answer brought the engine back")
		f.Close()
	})
}

// TestFallbackCallersWhoLeaveSayNothing: neither trip nor probe is decided by them.
func TestFallbackCallersWhoLeaveSayNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := chaos(t, sluicetest.Gone)
		f := fallback(t, x.Quota(), engine.FallbackConfig{Trip: 2, Cooldown: time.Second})
		m := perSecond(1, 9)
		leave := func(after time.Duration) {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			defer cancel()
			_, err := f.Take(ctx, one(m, 0))
			assert.ErrorIs(t, err, engine.ErrUnsure)
			assert.ErrorContains(t, err, "deadline exceeded")
			assert.NotErrorIs(t, err, engine.ErrAway, "a caller that left was told")
		}
		for range 10 {
			leave(time.Millisecond)
		}
		assert.False(t, f.Away(), "callers that left made the engine count as away")
		for range 2 {
			_, _ = f.Take(t.Context(), one(m, 0))
		}
		time.Sleep(time.Second)
		leave(time.Millisecond) // it was the one to ask
		x.Set(sluicetest.Healthy)
		g, err := f.Take(t.Context(), one(m, 0))
		wantGrant(t, g, err, engine.Grant{Units: 1})
		_, err = f.Take(canceled(), one(m, 0))
		assert.ErrorIs(t, err, engine.ErrRefused)
		assert.ErrorContains(t, err, "canceled")
		_, err = f.Take(t.Context(), engine.Draw{})
		assert.ErrorIs(t, err, engine.ErrRefused)
		assert.ErrorContains(t, err, "length of Draw.Meters is 0: must be from 1 to 16")
		assert.False(t, f.Away(), "a bad argument says nothing about the engine")
	})
}

// TestFallbackAnswersFromBeforeAChangeSayNothing: a call that began before the engine came
// to count as away does not bring it back, nor does one from before its return send it away.
func TestFallbackAnswersFromBeforeAChangeSayNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := memory(t).Quota()
		var delay time.Duration
		var fails bool
		f := fallback(t, quotaFunc(func(ctx context.Context, d engine.Draw) (engine.Grant, error) {
			fails := fails
			time.Sleep(delay)
			if fails {
				return engine.Grant{}, engine.ErrRefused
			}
			return inner.Take(ctx, d)
		}), engine.FallbackConfig{Trip: 1, Cooldown: time.Second, Budget: time.Minute})
		m := perSecond(1, 100)
		var wg sync.WaitGroup
		begin := func(takes time.Duration, bad bool) {
			delay, fails = takes, bad
			wg.Go(func() { _, _ = f.Take(t.Context(), one(m, 0)) })
			synctest.Wait()
		}
		begin(50*time.Millisecond, false)
		begin(3*time.Second, true)
		begin(0, true)
		require.True(t, f.Away(), "not away after a failure")
		time.Sleep(100 * time.Millisecond)
		assert.True(t, f.Away(), "an answer from before brought the engine back")
		time.Sleep(time.Second)
		begin(0, false)
		require.False(t, f.Away(), "away after an answer")
		time.Sleep(3 * time.Second)
		wg.Wait()
		assert.False(t, f.Away(), "a failure from before sent the engine away")
	})
}

// TestFallbackOneProbe: while one call asks, the others do not wait for it.
func TestFallbackOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := chaos(t, sluicetest.Gone)
		f := fallback(t, x.Quota(), engine.FallbackConfig{Trip: 1, Cooldown: time.Second})
		m := perSecond(1, 9)
		_, _ = f.Take(t.Context(), one(m, 0))
		time.Sleep(time.Second)
		start := time.Now()
		var mu sync.Mutex
		took := map[time.Duration]int{}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				_, err := f.Take(t.Context(), one(m, 0))
				assert.ErrorIs(t, err, engine.ErrAway)
				mu.Lock()
				defer mu.Unlock()
				took[time.Since(start)]++
			})
		}
		wg.Wait()
		if took[0] != 49 || took[100*time.Millisecond] != 1 || x.Counts().Calls != 2 {
			t.Errorf("took %v, %d calls: want one that asks and 49 that do not", took, x.Counts().Calls)
		}
	})
}

// TestFallbackLocalShareBound: k of N processes are cut off for D; all together use at most
// (B + r*D)*(1 + k/N), and the one that is cut off its share.
func TestFallbackLocalShareBound(t *testing.T) {
	const processes, cut, rate, burst = 4, 3, 40, 20
	const outage = 10 * time.Second
	synctest.Test(t, func(t *testing.T) {
		inner := memory(t).Quota()
		m := perSecond(rate, burst)
		totals := make([]int64, processes)
		var wg sync.WaitGroup
		start := time.Now()
		for i := range processes {
			q := inner
			if i < cut {
				q = chaos(t, sluicetest.Refusing).Quota()
			}
			f := fallback(t, q, engine.FallbackConfig{Mode: engine.LocalShare, Share: processes})
			wg.Go(func() {
				for time.Since(start) <= outage {
					g, err := f.Take(t.Context(), some(m, 1, 3))
					if err != nil {
						t.Error(err)
						return
					}
					totals[i] += g.Units
					time.Sleep(max(g.Retry, time.Millisecond))
				}
			})
		}
		wg.Wait()
		const all = burst + rate*int64(outage/time.Second)
		sum := int64(0)
		for i, n := range totals {
			sum += n
			if i < cut && (n > all/processes || n < all/processes*98/100) {
				t.Errorf("a process cut off used %d units: its share is %d", n, all/processes)
			}
		}
		if most := all * (processes + cut) / processes; sum > most || sum < most*98/100 {
			t.Errorf("all used %d units: want nearly, and at most, %d", sum, most)
		}
	})
}

func TestFallbackLocalShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := chaos(t, sluicetest.Refusing)
		f := fallback(t, x.Quota(), engine.FallbackConfig{Mode: engine.LocalShare, Share: 4, Trip: 1})
		m := perSecond(4, 12)
		first := some(m, 1, 12)
		first.Op = engine.NewOpID()
		g, err := f.Take(t.Context(), first)
		wantGrant(t, g, err, engine.Grant{Units: 3, Retry: time.Second})
		g, err = f.Take(t.Context(), one(m, 2*time.Second))
		wantGrant(t, g, err, engine.Grant{Units: 1, After: time.Second, Every: time.Second})
		assert.NoError(t, f.Settle(t.Context(), engine.OpID{}, []engine.Correction{{Of: first.Op, Meter: m, Delta: -2}}))
		g, err = f.Take(t.Context(), some(m, 1, 9))
		wantGrant(t, g, err, engine.Grant{Units: 1, Retry: time.Second})
		_, err = f.Take(t.Context(), some(m, 4, 12))
		assert.ErrorIs(t, err, engine.ErrAway)
		assert.ErrorContains(t, err, "its Burst is 3")
		_, err = f.Take(t.Context(), one(engine.Meter{Key: "year", N: 1, Per: engine.MaxWait / 2}, 0))
		assert.ErrorIs(t, err, engine.ErrAway)
		assert.ErrorContains(t, err, "such that Share times as long is at most a year")
		small := engine.Meter{Key: "small", N: 1, Per: time.Second}
		g, err = f.Take(t.Context(), one(small, 0)) // a share of one is one
		wantGrant(t, g, err, engine.Grant{Units: 1})
		g, err = f.Take(t.Context(), one(small, 0))
		wantGrant(t, g, err, engine.Grant{Retry: 4 * time.Second})
	})
}

func TestFallbackSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := chaos(t, sluicetest.Healthy)
		f := fallback(t, x.Quota(), engine.FallbackConfig{Trip: 1})
		ctx, m := t.Context(), perSecond(1, 10)
		assert.NoError(t, f.Settle(ctx, engine.OpID{}, []engine.Correction{{Meter: m, Delta: 7}}))
		g, err := x.Quota().Take(ctx, some(m, 1, 10))
		wantGrant(t, g, err, engine.Grant{Units: 3, Retry: time.Second})
		err = f.Settle(ctx, engine.OpID{}, []engine.Correction{{Meter: engine.Meter{}, Delta: 1}})
		assert.ErrorIs(t, err, engine.ErrRefused)
		assert.ErrorContains(t, err, "Meter.Key")
		err = f.Settle(ctx, engine.OpID{}, []engine.Correction{{Meter: m, Delta: -1 << 63}})
		assert.ErrorIs(t, err, engine.ErrRefused)
		assert.ErrorContains(t, err, "Correction.Delta is")
		x.Set(sluicetest.Gone)
		start := time.Now()
		err = f.Settle(ctx, engine.OpID{}, []engine.Correction{{Meter: m, Delta: 1}})
		assert.ErrorIs(t, err, engine.ErrAway)
		assert.ErrorIs(t, err, engine.ErrUnsure)
		assert.Equal(t, 100*time.Millisecond, time.Since(start), "took")
		err = f.Settle(ctx, engine.OpID{}, []engine.Correction{{Meter: m, Delta: 1}})
		assert.ErrorIs(t, err, engine.ErrRefused)
		assert.ErrorContains(t, err, "not asked")
	})
}

// TestFallbackSettlesWhereItWasCharged: a Take is corrected at the engine or in the local
// share, whichever answered it, and nothing is given back where nothing was charged.
func TestFallbackSettlesWhereItWasCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := chaos(t, sluicetest.Healthy)
		f := fallback(t, x.Quota(), engine.FallbackConfig{Mode: engine.LocalShare, Share: 2, Trip: 1, Cooldown: time.Millisecond})
		ctx, m := t.Context(), engine.Meter{Key: "m", N: 1, Per: 24 * time.Hour, Burst: 20}
		take := func(from engine.Quota, op engine.OpID, most, want int64) {
			t.Helper()
			d := some(m, 1, most)
			d.Op = op
			if g, err := from.Take(ctx, d); err != nil || g.Units != want {
				t.Errorf("Take of %d was granted %d, %v: want %d", most, g.Units, err, want)
			}
		}
		settle := func(of engine.OpID, delta int64) {
			t.Helper()
			assert.NoError(t, f.Settle(ctx, engine.OpID{}, []engine.Correction{{Of: of, Meter: m, Delta: delta}}))
		}
		there, here := engine.NewOpID(), engine.NewOpID()
		take(f, there, 8, 8)
		x.Set(sluicetest.Refusing)
		take(f, here, 9, 9) // of 10
		settle(there, -8)   // of that nothing was charged here
		take(f, engine.OpID{}, 20, 1)
		settle(here, -5)
		settle(there, 2) // somebody has to pay
		take(f, engine.OpID{}, 20, 3)

		x.Set(sluicetest.Healthy)
		time.Sleep(time.Millisecond)
		take(f, engine.OpID{}, 2, 2) // 10 of 20 are left there
		settle(here, -2)
		settle(there, -3)
		take(x.Quota(), engine.OpID{}, 20, 13)
		x.Set(sluicetest.Refusing)
		take(f, engine.OpID{}, 20, 2)
	})
}

// TestFallbackHold: the share that a process keeps heeds holds as well, those that were made
// while the engine was there too; without a share nobody could.
func TestFallbackHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := chaos(t, sluicetest.Healthy)
		m := perSecond(10, 10)
		share := fallback(t, x.Quota(), engine.FallbackConfig{Mode: engine.LocalShare, Share: 2})
		require.NoError(t, share.Hold(t.Context(), m, 3*time.Second))
		x.Set(sluicetest.Refusing)
		g, err := share.Take(t.Context(), some(m, 1, 9))
		wantGrant(t, g, err, engine.Grant{Retry: 3 * time.Second})
		require.NoError(t, share.Hold(t.Context(), m, 5*time.Second))
		x.Set(sluicetest.Healthy)
		time.Sleep(4 * time.Second)
		g, err = share.Take(t.Context(), some(m, 1, 9)) // the engine knows of the first alone: 1 token at its end, and a second's
		wantGrant(t, g, err, engine.Grant{Units: 9})
		x.Set(sluicetest.Refusing)
		g, err = share.Take(t.Context(), some(m, 1, 9))
		wantGrant(t, g, err, engine.Grant{Retry: time.Second})

		deny := fallback(t, x.Quota(), engine.FallbackConfig{})
		assert.ErrorIs(t, deny.Hold(t.Context(), m, time.Second), engine.ErrAway)
		assert.ErrorContains(t, deny.Hold(t.Context(), m, -1), "d is -1ns: must be")
		assert.ErrorContains(t, deny.Hold(t.Context(), engine.Meter{}, 1), "Meter.Key")
	})
}

// TestFallbackSettlesAList: of one list each part is settled where it was charged, and once.
func TestFallbackSettlesAList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := chaos(t, sluicetest.Healthy)
		f := fallback(t, x.Quota(), engine.FallbackConfig{Mode: engine.LocalShare, Share: 2, Trip: 100})
		m := engine.Meter{Key: "m", N: 1, Per: 24 * time.Hour, Burst: 20}
		there, here := some(m, 8, 8), some(m, 8, 8)
		there.Op, here.Op = engine.NewOpID(), engine.NewOpID()
		_, err := f.Take(t.Context(), there)
		require.NoError(t, err)
		x.Set(sluicetest.Refusing)
		_, err = f.Take(t.Context(), here)
		require.NoError(t, err)
		list := []engine.Correction{{Of: there.Op, Meter: m, Delta: -5}, {Of: here.Op, Meter: m, Delta: -3}, {Meter: m, Delta: 1}}
		op := engine.NewOpID()
		x.Set(sluicetest.Healthy)
		for range 2 {
			require.NoError(t, f.Settle(t.Context(), op, list))
		}
		g, err := f.Take(t.Context(), some(m, 1, 99))
		require.NoError(t, err)
		assert.Equal(t, int64(16), g.Units, "the engine's: 20 - 8 + 5 - 1")
		x.Set(sluicetest.Refusing)
		for range 2 { // what is the engine's is charged here if it is more, and not given back here
			require.NoError(t, f.Settle(t.Context(), engine.OpID{1}, list))
		}
		g, err = f.Take(t.Context(), some(m, 1, 99))
		require.NoError(t, err)
		assert.Equal(t, int64(7), g.Units, "the share's: 10 - 8 + 3 + 3 - 1")
	})
}

func TestFallbackClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, err := engine.NewFallback(chaos(t, sluicetest.Gone).Quota(), engine.FallbackConfig{Budget: time.Hour, Mode: engine.Admit})
		require.NoError(t, err)
		var wg sync.WaitGroup
		wg.Go(func() {
			g, err := f.Take(t.Context(), one(perSecond(1, 1), 0))
			if g.Units != 0 || !errors.Is(err, engine.ErrUnsure) {
				t.Errorf("a call under way got %+v, %v", g, err)
			}
		})
		synctest.Wait()
		f.Close()
		wg.Wait()
		_, err = f.Take(t.Context(), one(perSecond(1, 1), 0))
		assert.ErrorIs(t, err, engine.ErrClosed)
	})
}

// TestFallbackRestarts: through an engine that restarts all the time, no unit is granted
// twice and none without the engine having charged it.
func TestFallbackRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := chaos(t, sluicetest.Restarting)
		f := fallback(t, x.Quota(), engine.FallbackConfig{Trip: 1 << 20})
		m := engine.Meter{Key: "m", N: 1, Per: time.Hour, Burst: 1000}
		var got, spent int64
		for range 400 {
			g, err := f.Take(t.Context(), one(m, 0))
			got += g.Units
			if err == nil || errors.Is(err, engine.ErrUnsure) {
				spent++ // an unsure unit counts as spent
			}
		}
		x.Set(sluicetest.Healthy)
		g, err := x.Quota().Take(t.Context(), some(m, 1, 1000))
		require.NoError(t, err)
		if charged := 1000 - g.Units; got == 0 || got > charged || charged > spent {
			t.Errorf("%d units were granted, %d charged, and callers must take %d as spent", got, charged, spent)
		}
	})
}

// hung is an engine that heeds no context: each call returns when it is let go.
type hung struct {
	calls chan chan struct{} // of calls that hang
	asked atomic.Int64
}

func newHung() *hung { return &hung{calls: make(chan chan struct{}, 1<<16)} }

func (h *hung) hang() {
	h.asked.Add(1)
	let := make(chan struct{})
	h.calls <- let
	<-let
}

// let lets n calls return, the oldest first.
func (h *hung) let(n int) {
	for range n {
		close(<-h.calls)
	}
	synctest.Wait()
}

func (h *hung) Take(context.Context, engine.Draw) (engine.Grant, error) {
	h.hang()
	return engine.Grant{Units: 1}, nil
}

func (h *hung) Settle(context.Context, engine.OpID, []engine.Correction) error {
	h.hang()
	return nil
}

func (h *hung) Hold(context.Context, engine.Meter, time.Duration) error {
	h.hang()
	return nil
}

// TestFallbackLeavesFewCallsBehind: while an engine that hangs has not returned from 32
// calls whose callers are gone, for whatever reason, it is not asked again.
func TestFallbackLeavesFewCallsBehind(t *testing.T) {
	m := perSecond(1, 1<<20)
	take := func(ctx context.Context, f *engine.Fallback) { _, _ = f.Take(ctx, one(m, 0)) }
	for name, c := range map[string]struct {
		trip int
		call func(f *engine.Fallback)
	}{
		"probes":  {5, func(f *engine.Fallback) { take(context.Background(), f) }},
		"no trip": {1 << 20, func(f *engine.Fallback) { take(context.Background(), f) }},
		"corrections": {1 << 20, func(f *engine.Fallback) {
			_ = f.Settle(context.Background(), engine.OpID{}, []engine.Correction{{Meter: m, Delta: 1}})
		}},
		"callers that leave": {1, func(f *engine.Fallback) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Microsecond)
			defer cancel()
			take(ctx, f)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHung()
				f := fallback(t, h, engine.FallbackConfig{Mode: engine.Admit, Budget: time.Millisecond, Cooldown: 2 * time.Millisecond, Trip: c.trip})
				for range 500 {
					c.call(f)
					time.Sleep(2 * time.Millisecond)
				}
				n := h.asked.Load()
				assert.Equal(t, int64(32), n, "an engine that hangs was asked %d times", n)
				start := time.Now()
				c.call(f)
				assert.Zero(t, time.Since(start), "beyond that an answer took")
				h.let(3)
				for range 50 {
					c.call(f)
					time.Sleep(2 * time.Millisecond)
				}
				n = h.asked.Load()
				assert.Equal(t, int64(35), n, "after 3 calls returned it was asked %d times", n)
				h.let(32)
			})
		})
	}
}

// TestFallbackCallsUnderWayAreBounded: beyond MaxCalls the answer is Mode's, and who is
// answered in time makes room at once.
func TestFallbackCallsUnderWayAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHung()
		f := fallback(t, h, engine.FallbackConfig{Budget: time.Hour, MaxCalls: 3})
		m := perSecond(1, 9)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				g, err := f.Take(t.Context(), one(m, 0))
				wantGrant(t, g, err, engine.Grant{Units: 1})
			})
		}
		synctest.Wait()
		_, err := f.Take(t.Context(), one(m, 0))
		assert.ErrorIs(t, err, engine.ErrAway)
		assert.ErrorContains(t, err, "not asked: too many calls are under way")
		assert.ErrorIs(t, f.Settle(t.Context(), engine.OpID{}, []engine.Correction{{Meter: m, Delta: 1}}), engine.ErrRefused)
		h.let(3)
		wg.Wait()
		for range 3 {
			wg.Go(func() {
				assert.NoError(t, f.Settle(t.Context(), engine.OpID{}, []engine.Correction{{Meter: m, Delta: 1}}))
			})
			synctest.Wait()
			h.let(1)
			wg.Wait()
		}
		if _, err := engine.NewFallback(h, engine.FallbackConfig{MaxCalls: -1}); err == nil || err.Error() != "engine: FallbackConfig.MaxCalls is -1: must be zero (1,000) or positive" {
			t.Errorf("got %v", err)
		}
	})
}

// TestFallbackAGoodAnswerEndsTheRow: only failures in a row make the engine count as away.
func TestFallbackAGoodAnswerEndsTheRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := chaos(t, sluicetest.Healthy)
		f := fallback(t, x.Quota(), engine.FallbackConfig{Trip: 3})
		for i, fault := range []sluicetest.Fault{
			sluicetest.Refusing, sluicetest.Dropping, sluicetest.Healthy, sluicetest.Refusing, sluicetest.Refusing,
			sluicetest.Healthy, sluicetest.Refusing, sluicetest.Lying, sluicetest.Dropping,
		} {
			require.False(t, f.Away(), "away after %d calls, of which no three in a row failed", i)
			x.Set(fault)
			_, _ = f.Take(t.Context(), one(perSecond(1, 100), 0))
		}
		assert.True(t, f.Away(), "not away after three failures in a row")
	})
}

// TestCombineLeavesFewTripsBehind: of an engine that hangs nobody waits for more than 32
// trips, however many meters there are.
func TestCombineLeavesFewTripsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHung()
		b := combine(t, h, engine.CombineConfig{})
		meter := func(i int) engine.Meter {
			m := perSecond(1, 9)
			m.Key = fmt.Sprint("key ", i)
			return m
		}
		leave := func(i int) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			_, err := b.Take(ctx, one(meter(i), 0))
			return err
		}
		for i := range 500 {
			want := engine.ErrUnsure
			if i >= 32 {
				want = engine.ErrFull
			}
			assert.ErrorIs(t, leave(i), want)
		}
		n := h.asked.Load()
		assert.Equal(t, int64(32), n, "an engine that hangs was asked %d times", n)
		err := leave(0) // waited behind its own meter's trip
		assert.ErrorIs(t, err, engine.ErrRefused)
		assert.ErrorContains(t, err, "deadline exceeded")
		h.let(2)
		assert.ErrorIs(t, leave(100), engine.ErrUnsure)
		assert.ErrorIs(t, leave(101), engine.ErrUnsure)
		err = leave(102)
		assert.ErrorIs(t, err, engine.ErrFull)
		assert.ErrorContains(t, err, "has not returned from 32 trips that nobody waits for")
		h.let(32)
		n = h.asked.Load()
		assert.Equal(t, int64(34), n, "asked %d times", n)
	})
}
