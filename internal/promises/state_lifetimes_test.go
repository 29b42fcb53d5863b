package promises_test

import (
	"context"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What each kind of write does to a lifetime.
func TestWhatWritesDoToALifetime(t *testing.T) {
	type write = func(ctx context.Context, k sluice.Key[int]) error
	for name, c := range map[string]struct {
		write write
		lives time.Duration // from the first write, which gives 10 s; the second comes at 1 s
	}{
		"Set": {func(ctx context.Context, k sluice.Key[int]) error { return second(k.Set(ctx, 2)) }, forever},
		"Set shorter": {func(ctx context.Context, k sluice.Key[int]) error {
			return second(k.Set(ctx, 2, sluice.TTL(time.Second)))
		}, 2 * time.Second},
		"Set longer": {func(ctx context.Context, k sluice.Key[int]) error {
			return second(k.Set(ctx, 2, sluice.TTL(time.Minute)))
		}, 61 * time.Second},
		"Set, last counts": {func(ctx context.Context, k sluice.Key[int]) error {
			return second(k.Set(ctx, 2, sluice.TTL(1), sluice.TTL(time.Second)))
		}, 2 * time.Second},
		"Increment": {func(ctx context.Context, k sluice.Key[int]) error { return second(sluice.Increment(ctx, k, 1)) }, 10 * time.Second},
		"Increment with TTL": {func(ctx context.Context, k sluice.Key[int]) error {
			return second(sluice.Increment(ctx, k, 1, sluice.TTL(time.Minute)))
		}, 61 * time.Second},
		"CompareAndSwap": {func(ctx context.Context, k sluice.Key[int]) error { return second(k.CompareAndSwap(ctx, 1, 2)) }, 10 * time.Second},
		"swap with TTL": {func(ctx context.Context, k sluice.Key[int]) error {
			return second(k.CompareAndSwap(ctx, 1, 2, sluice.TTL(1)))
		}, time.Second + 1},
		"Update": {func(ctx context.Context, k sluice.Key[int]) error {
			return second(k.Update(ctx, func(old int, _ bool) (int, error) { return 2, nil }))
		}, 10 * time.Second},
		"Update with TTL": {func(ctx context.Context, k sluice.Key[int]) error {
			return second(k.Update(ctx, func(old int, _ bool) (int, error) { return 2, nil }, sluice.TTL(time.Second)))
		}, 2 * time.Second},
		"Delete and Increment": {func(ctx context.Context, k sluice.Key[int]) error {
			if err := k.Delete(ctx); err != nil {
				return err
			}
			return second(sluice.Increment(ctx, k, 2))
		}, forever},
		"Set for ever": {func(ctx context.Context, k sluice.Key[int]) error {
			return second(k.Set(ctx, 2, sluice.TTL(math.MaxInt64)))
		}, forever},
		"Txn": {func(ctx context.Context, k sluice.Key[int]) error {
			return sluice.StateFrom(ctx).Txn(ctx, func(ctx context.Context) error { return second(sluice.Increment(ctx, k, 1)) })
		}, 10 * time.Second},
		"Txn with TTL": {func(ctx context.Context, k sluice.Key[int]) error {
			return sluice.StateFrom(ctx).Txn(ctx, func(ctx context.Context) error {
				if err := second(k.Set(ctx, 1, sluice.TTL(time.Second))); err != nil {
					return err
				}
				return second(sluice.Increment(ctx, k, 1))
			})
		}, 2 * time.Second},
		"Txn with Set": {func(ctx context.Context, k sluice.Key[int]) error {
			return sluice.StateFrom(ctx).Txn(ctx, func(ctx context.Context) error { return second(k.Set(ctx, 2)) })
		}, forever},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, ctx := newState(t, sluice.SharedStateConfig{})
				k := sluice.Key[int]("k")
				start := time.Now()
				_, err := k.Set(ctx, 1, sluice.TTL(10*time.Second))
				require.NoError(t, err)
				time.Sleep(time.Second)
				require.NoError(t, c.write(ctx, k))
				if c.lives == forever {
					time.Sleep(100 * 365 * 24 * time.Hour)
					wantValue(t, ctx, k, 2)
					return
				}
				time.Sleep(c.lives - time.Second - 1)
				wantValue(t, ctx, k, 2)
				time.Sleep(time.Nanosecond)
				wantAbsent(t, ctx, k)
				assert.Equal(t, c.lives, time.Since(start), "it took")
			})
		})
	}
}

const forever = -1

// A write at the very instant of expiry finds the key absent.
func TestWritesAtExpiryFindTheKeyAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ctx := newState(t, sluice.SharedStateConfig{MaxKeys: 1})
		k := sluice.Key[int]("k")
		old, err := k.Set(ctx, 7, sluice.TTL(time.Second))
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.ErrorIs(t, second(k.CompareAndSwap(ctx, old, 8)), sluice.ErrConflict)
		require.ErrorIs(t, k.CompareAndDelete(ctx, old), sluice.ErrConflict)
		if n, err := sluice.Increment(ctx, k, 1); n != 1 || err != nil {
			t.Errorf("Increment at expiry returned %d, %v; want 1", n, err)
		}
		_, version, _ := k.Get(ctx)
		if version <= old {
			t.Errorf("version %d after expiry, want above %d", version, old)
		}
		time.Sleep(time.Hour) // the new key has no lifetime
		wantValue(t, ctx, k, 1)

		// Bounds see through what has expired, even before the sweep.
		require.NoError(t, second(k.Set(ctx, 1, sluice.TTL(time.Second))))
		time.Sleep(time.Second)
		require.NoError(t, second(sluice.Key[int]("other").Set(ctx, 1, sluice.TTL(time.Second))))
		time.Sleep(time.Second)
		require.NoError(t, s.Txn(ctx, func(ctx context.Context) error { return second(k.Set(ctx, 1)) }))
	})
}

func TestReadsDoNotRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ctx := newState(t, sluice.SharedStateConfig{})
		k := sluice.Key[int]("k")
		k.Set(ctx, 1, sluice.TTL(time.Second))
		for range 9 {
			time.Sleep(100 * time.Millisecond)
			wantValue(t, ctx, k, 1)
		}
		time.Sleep(100 * time.Millisecond)
		wantAbsent(t, ctx, k)
	})
	// A refresh by CompareAndSwap cannot write an old copy back.
	_, ctx := newState(t, sluice.SharedStateConfig{})
	k := sluice.Key[int]("k")
	k.Set(ctx, 0, sluice.TTL(time.Hour))
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 100_000 {
			v, version, err := k.Get(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			k.CompareAndSwap(ctx, version, v, sluice.TTL(time.Hour))
		}
	})
	wg.Go(func() {
		for i := range 100_000 {
			_, err := k.Set(ctx, i, sluice.TTL(time.Hour))
			assert.NoError(t, err)
			if v, _, err := k.Get(ctx); v != i {
				t.Errorf("read %d, %v after writing %d: an old copy came back", v, err, i)
				return
			}
		}
	})
	wg.Wait()
}

func TestRefreshBeatsTheSweeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ctx := newState(t, sluice.SharedStateConfig{})
		k := sluice.Key[int]("k")
		k.Set(ctx, 0, sluice.TTL(time.Second))
		for i := range 10_000 {
			time.Sleep(time.Second - 1)
			if i%2 == 0 {
				n, err := sluice.Increment(ctx, k, 1, sluice.TTL(time.Second))
				require.Equal(t, i+1, n, "refresh %d", i)
				require.NoError(t, err, "refresh %d", i)
			} else if _, err := k.Update(ctx, func(n int, ok bool) (int, error) { return n + 1, nil }, sluice.TTL(time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		wantValue(t, ctx, k, 10_000)
	})
	// At the instant of expiry itself, the sweep and a new Set come in any order; the
	// Set must survive.
	synctest.Test(t, func(t *testing.T) {
		_, ctx := newState(t, sluice.SharedStateConfig{})
		k := sluice.Key[int]("k")
		for i := range 10_000 {
			k.Set(ctx, i, sluice.TTL(time.Second))
			time.Sleep(time.Second)
			require.NoError(t, second(k.Set(ctx, i)))
			synctest.Wait()
			wantValue(t, ctx, k, i)
		}
	})
}
