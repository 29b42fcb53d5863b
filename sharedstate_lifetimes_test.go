package sluice

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLifetimesAreHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ctx := newState(t, SharedStateConfig{})
		k := Key[string]("k")
		_, err := k.Set(ctx, "v", TTL(time.Second))
		require.NoError(t, err)
		wantValue(t, ctx, k, "v")
		time.Sleep(time.Second - 1)
		wantValue(t, ctx, k, "v")
		time.Sleep(time.Nanosecond)
		wantAbsent(t, ctx, k)
		synctest.Wait()
		if keys, bytes := s.view.Scope.Usage(); keys != 0 || bytes != 0 {
			t.Errorf("%d keys and %d bytes are left at the instant of expiry, want none", keys, bytes)
		}
	})
}

// What each kind of write does to a lifetime.
func TestWhatWritesDoToALifetime(t *testing.T) {
	type write = func(ctx context.Context, k Key[int]) error
	for name, c := range map[string]struct {
		write write
		lives time.Duration // from the first write, which gives 10 s; the second comes at 1 s
	}{
		"Set":                {func(ctx context.Context, k Key[int]) error { return second(k.Set(ctx, 2)) }, forever},
		"Set shorter":        {func(ctx context.Context, k Key[int]) error { return second(k.Set(ctx, 2, TTL(time.Second))) }, 2 * time.Second},
		"Set longer":         {func(ctx context.Context, k Key[int]) error { return second(k.Set(ctx, 2, TTL(time.Minute))) }, 61 * time.Second},
		"Set, last counts":   {func(ctx context.Context, k Key[int]) error { return second(k.Set(ctx, 2, TTL(1), TTL(time.Second))) }, 2 * time.Second},
		"Increment":          {func(ctx context.Context, k Key[int]) error { return second(Increment(ctx, k, 1)) }, 10 * time.Second},
		"Increment with TTL": {func(ctx context.Context, k Key[int]) error { return second(Increment(ctx, k, 1, TTL(time.Minute))) }, 61 * time.Second},
		"CompareAndSwap":     {func(ctx context.Context, k Key[int]) error { return second(k.CompareAndSwap(ctx, 1, 2)) }, 10 * time.Second},
		"swap with TTL":      {func(ctx context.Context, k Key[int]) error { return second(k.CompareAndSwap(ctx, 1, 2, TTL(1))) }, time.Second + 1},
		"Update": {func(ctx context.Context, k Key[int]) error {
			return second(k.Update(ctx, func(old int, _ bool) (int, error) { return 2, nil }))
		}, 10 * time.Second},
		"Update with TTL": {func(ctx context.Context, k Key[int]) error {
			return second(k.Update(ctx, func(old int, _ bool) (int, error) { return 2, nil }, TTL(time.Second)))
		}, 2 * time.Second},
		"Delete and Increment": {func(ctx context.Context, k Key[int]) error {
			if err := k.Delete(ctx); err != nil {
				return err
			}
			return second(Increment(ctx, k, 2))
		}, forever},
		"Set for ever": {func(ctx context.Context, k Key[int]) error { return second(k.Set(ctx, 2, TTL(math.MaxInt64))) }, forever},
		"Txn": {func(ctx context.Context, k Key[int]) error {
			return StateFrom(ctx).Txn(ctx, func(ctx context.Context) error { return second(Increment(ctx, k, 1)) })
		}, 10 * time.Second},
		"Txn with TTL": {func(ctx context.Context, k Key[int]) error {
			return StateFrom(ctx).Txn(ctx, func(ctx context.Context) error {
				if err := second(k.Set(ctx, 1, TTL(time.Second))); err != nil {
					return err
				}
				return second(Increment(ctx, k, 1))
			})
		}, 2 * time.Second},
		"Txn with Set": {func(ctx context.Context, k Key[int]) error {
			return StateFrom(ctx).Txn(ctx, func(ctx context.Context) error { return second(k.Set(ctx, 2)) })
		}, forever},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, ctx := newState(t, SharedStateConfig{})
				k := Key[int]("k")
				start := time.Now()
				_, err := k.Set(ctx, 1, TTL(10*time.Second))
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
		s, ctx := newState(t, SharedStateConfig{MaxKeys: 1})
		k := Key[int]("k")
		old, err := k.Set(ctx, 7, TTL(time.Second))
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.ErrorIs(t, second(k.CompareAndSwap(ctx, old, 8)), ErrConflict)
		require.ErrorIs(t, k.CompareAndDelete(ctx, old), ErrConflict)
		if n, err := Increment(ctx, k, 1); n != 1 || err != nil {
			t.Errorf("Increment at expiry returned %d, %v; want 1", n, err)
		}
		_, version, _ := k.Get(ctx)
		if version <= old {
			t.Errorf("version %d after expiry, want above %d", version, old)
		}
		time.Sleep(time.Hour) // the new key has no lifetime
		wantValue(t, ctx, k, 1)

		// Bounds see through what has expired, even before the sweep.
		require.NoError(t, second(k.Set(ctx, 1, TTL(time.Second))))
		time.Sleep(time.Second)
		require.NoError(t, second(Key[int]("other").Set(ctx, 1, TTL(time.Second))))
		time.Sleep(time.Second)
		require.NoError(t, s.Txn(ctx, func(ctx context.Context) error { return second(k.Set(ctx, 1)) }))
	})
}

func TestReadsDoNotRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ctx := newState(t, SharedStateConfig{})
		k := Key[int]("k")
		k.Set(ctx, 1, TTL(time.Second))
		for range 9 {
			time.Sleep(100 * time.Millisecond)
			wantValue(t, ctx, k, 1)
		}
		time.Sleep(100 * time.Millisecond)
		wantAbsent(t, ctx, k)
	})
	// A refresh by CompareAndSwap cannot write an old copy back.
	_, ctx := newState(t, SharedStateConfig{})
	k := Key[int]("k")
	k.Set(ctx, 0, TTL(time.Hour))
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 100_000 {
			v, version, err := k.Get(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			k.CompareAndSwap(ctx, version, v, TTL(time.Hour))
		}
	})
	wg.Go(func() {
		for i := range 100_000 {
			_, err := k.Set(ctx, i, TTL(time.Hour))
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
		_, ctx := newState(t, SharedStateConfig{})
		k := Key[int]("k")
		k.Set(ctx, 0, TTL(time.Second))
		for i := range 10_000 {
			time.Sleep(time.Second - 1)
			if i%2 == 0 {
				n, err := Increment(ctx, k, 1, TTL(time.Second))
				require.Equal(t, i+1, n, "refresh %d", i)
				require.NoError(t, err, "refresh %d", i)
			} else if _, err := k.Update(ctx, func(n int, ok bool) (int, error) { return n + 1, nil }, TTL(time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		wantValue(t, ctx, k, 10_000)
	})
	// At the instant of expiry itself, the sweep and a new Set come in any order; the
	// Set must survive.
	synctest.Test(t, func(t *testing.T) {
		_, ctx := newState(t, SharedStateConfig{})
		k := Key[int]("k")
		for i := range 10_000 {
			k.Set(ctx, i, TTL(time.Second))
			time.Sleep(time.Second)
			require.NoError(t, second(k.Set(ctx, i)))
			synctest.Wait()
			wantValue(t, ctx, k, i)
		}
	})
}

func TestExpiredMemoryComesBackUntouched(t *testing.T) {
	const n = 100_000
	synctest.Test(t, func(t *testing.T) {
		s, ctx := newState(t, SharedStateConfig{MaxKeys: n})
		heap := func() int {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int(m.HeapAlloc)
		}
		empty := heap()
		for i := range n {
			k := Key[string](fmt.Sprint("session/", i))
			_, err := k.Set(ctx, "a value of some length", TTL(time.Duration(1+i%100)*time.Second))
			require.NoError(t, err)
		}
		full := heap()
		time.Sleep(50 * time.Second)
		synctest.Wait()
		keys, _ := s.view.Scope.Usage()
		assert.Equal(t, n/2, keys, "keys are left after half the time")
		time.Sleep(50 * time.Second)
		synctest.Wait()
		if keys, bytes := s.view.Scope.Usage(); keys != 0 || bytes != 0 {
			t.Errorf("%d keys, %d bytes are left, want none", keys, bytes)
		}
		if left := heap() - empty; left > (full-empty)/20 {
			t.Errorf("%d bytes of %d are still held", left, full-empty)
		}
		runtime.KeepAlive(s)
	})
}

// The store has timers only while something can expire, and none after Close: a bubble
// in which nothing waits would report the rest as a deadlock.
func TestPromise21_NothingIsLeftAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ctx := newState(t, SharedStateConfig{})
		for i := range 1000 {
			Key[int](fmt.Sprint(i)).Set(ctx, i, TTL(time.Duration(i+1)*time.Minute))
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		stacks := make([]byte, 1<<20)
		assert.Zero(t, strings.Count(string(stacks[:runtime.Stack(stacks, true)]), "sluice/internal/kv."),
			"frames of the store run between sweeps:\n%s", stacks)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() { s.Close() })
		}
		wg.Wait()
		start := time.Now()
		time.Sleep(1e6 * time.Hour) // nothing else can happen now
		assert.Equal(t, 1e6*time.Hour, time.Since(start), "woke after")
		for i := range s.view.Store.Timers() {
			t.Errorf("shard %d has a timer set", i)
		}
	})
}

// Deletions, refreshes, expiry, increments and Close against each other, on the real
// clock, with lifetimes short enough to end in the middle of everything.
func TestExpiryStorm(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	s, ctx := newState(t, SharedStateConfig{})
	var wg sync.WaitGroup
	for g := range 4 {
		r := rand.New(rand.NewPCG(seed, uint64(g)))
		wg.Go(func() {
			last := make(map[Key[int64]]uint64)
			for range 20_000 {
				k := Key[int64](fmt.Sprint("k", r.IntN(50)))
				ttl := TTL(time.Duration(1 + r.IntN(20_000)))
				var version uint64
				var err error
				switch r.IntN(6) {
				case 0:
					version, err = k.Set(ctx, 1, ttl)
				case 1:
					version, err = k.Set(ctx, 1)
				case 2:
					_, err = Increment(ctx, k, 1, ttl)
				case 3:
					_, err = Increment(ctx, k, 1)
				case 4:
					err = k.Delete(ctx)
				case 5:
					_, version, err = k.Get(ctx)
					if errors.Is(err, ErrAbsent) {
						err = nil
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
				if version != 0 && version < last[k] {
					t.Errorf("%s has version %d after %d", string(k), version, last[k])
					return
				}
				last[k] = max(version, last[k])
			}
		})
	}
	wg.Wait()
	n := 0
	for range s.List("") {
		n++
	}
	s.Clear()
	if keys, bytes := s.view.Scope.Usage(); keys != 0 || bytes != 0 {
		t.Errorf("after Clear %d keys and %d bytes are counted", keys, bytes)
	}
}
