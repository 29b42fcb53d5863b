package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newState returns a store of the given bounds and a context that carries it.
func newState(t testing.TB, c sluice.SharedStateConfig) (*sluice.SharedState, context.Context) {
	t.Helper()
	if stateOfFleet {
		return newFleetState(t)
	}
	s, err := sluice.NewSharedState(c)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s, sluice.WithState(context.Background(), s)
}

// wantValue checks a key.
func wantValue[T comparable](t testing.TB, ctx context.Context, k sluice.Key[T], want T) {
	t.Helper()
	v, _, err := k.Get(ctx)
	require.NoError(t, err, string(k))
	require.Equal(t, want, v, string(k))
}

func wantAbsent[T any](t testing.TB, ctx context.Context, k sluice.Key[T]) {
	t.Helper()
	v, version, err := k.Get(ctx)
	require.ErrorIs(t, err, sluice.ErrAbsent, "%s is %v", string(k), v)
	require.Zero(t, version, "version of %s", string(k))
}

// inGoroutine runs fn in a goroutine of its own and tells how that ended.
func inGoroutine(fn func()) (ended string) {
	done := make(chan string)
	go func() {
		how := "exited"
		defer func() {
			if p := recover(); p != nil {
				how = fmt.Sprint("panicked: ", p)
			}
			done <- how
		}()
		fn()
		how = "returned"
	}()
	return <-done
}

func second[T any](_ T, err error) error { return err }

func third[A, B any](_ A, _ B, err error) error { return err }

func TestPromise20_NIncrementsAreN(t *testing.T) {
	const goroutines, each = 1000, 1000
	_, ctx := newState(t, sluice.SharedStateConfig{})
	hits := sluice.Key[int64]("hits")
	seen := make([]bool, goroutines*each+1) // each sum is written by whoever got it
	var twice atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for range each {
				n, err := sluice.Increment(ctx, hits, 1)
				if err != nil || n < 1 || int(n) >= len(seen) {
					twice.Add(1)
					return
				}
				if seen[n] {
					twice.Add(1)
				}
				seen[n] = true
			}
		})
	}
	wg.Wait()
	assert.Zero(t, twice.Load(), "sums were wrong or returned twice")
	if i := slices.Index(seen[1:], false); i >= 0 {
		t.Errorf("the sum %d was never returned", i+1)
	}
	n, version, err := hits.Get(ctx)
	require.NoError(t, err)
	assert.Equal(t, int64(goroutines*each), n)
	assert.Equal(t, uint64(goroutines*each), version)
}

func TestPromise20_NReadModifyWritesAreN(t *testing.T) {
	_, ctx := newState(t, sluice.SharedStateConfig{})
	type counter struct{ N int }
	ways := map[string]func(sluice.Key[counter]) error{
		"Update": func(k sluice.Key[counter]) error {
			_, err := k.Update(ctx, func(old counter, ok bool) (counter, error) { return counter{old.N + 1}, nil })
			return err
		},
		"CompareAndSwap": func(k sluice.Key[counter]) error {
			for {
				old, version, err := k.Get(ctx)
				if err != nil && !errors.Is(err, sluice.ErrAbsent) {
					return err
				}
				if _, err = k.CompareAndSwap(ctx, version, counter{old.N + 1}); !errors.Is(err, sluice.ErrConflict) {
					return err
				}
			}
		},
		"Txn": func(k sluice.Key[counter]) error {
			return sluice.StateFrom(ctx).Txn(ctx, func(ctx context.Context) error {
				old, _, err := k.Get(ctx)
				if err != nil && !errors.Is(err, sluice.ErrAbsent) {
					return err
				}
				_, err = k.Set(ctx, counter{old.N + 1})
				return err
			})
		},
	}
	for name, add := range ways {
		t.Run(name, func(t *testing.T) {
			goroutines, each := 100, 200
			if stateOfFleet { // where each of them is a request, and so are those in vain
				each = 40
			}
			k := sluice.Key[counter]("n/" + name)
			var wg sync.WaitGroup
			for range goroutines {
				wg.Go(func() {
					for range each {
						if err := add(k); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			wantValue(t, ctx, k, counter{goroutines * each})
		})
	}
}

// All ways to count at once, on a key that goes and comes, with watches coming and
// going: the version tells how often it was written.
func TestPromise20_IncrementsOfAllKindsAddUp(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	k := sluice.Key[uint64]("n")
	const each = 2000
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range each {
				var err error
				switch (i + j) % 3 {
				case 0:
					_, err = sluice.Increment(ctx, k, 1)
				case 1:
					_, err = k.Update(ctx, func(old uint64, ok bool) (uint64, error) { return old + 1, nil })
				case 2:
					err = s.Txn(ctx, func(ctx context.Context) error {
						_, err := sluice.Increment(ctx, k, 1)
						return err
					})
				}
				assert.NoError(t, err)
			}
		})
	}
	wg.Go(func() {
		for range 200 {
			ctx, cancel := context.WithCancel(ctx)
			for range s.Watch(ctx, "") {
				break
			}
			cancel()
			_, err := s.MarshalJSON()
			assert.NoError(t, err)
		}
	})
	wg.Wait()
	wantValue(t, ctx, k, 8*each)
}

func TestIncrementNeverWrapsAround(t *testing.T) {
	_, ctx := newState(t, sluice.SharedStateConfig{})
	t.Run("int64", func(t *testing.T) {
		incrementCases(t, ctx, []incrementCase[int64]{
			{0, 1, 1, nil}, {5, -7, -2, nil}, {math.MaxInt64 - 1, 1, math.MaxInt64, nil},
			{math.MaxInt64, 1, 0, sluice.ErrOverflow}, {math.MinInt64, -1, 0, sluice.ErrOverflow},
			{math.MinInt64, math.MaxInt64, -1, nil}, {-1, math.MinInt64, 0, sluice.ErrOverflow},
			{1<<53 + 1, 0, 1<<53 + 1, nil},
		})
	})
	t.Run("int", func(t *testing.T) {
		incrementCases(t, ctx, []incrementCase[int]{{3, 4, 7, nil}, {math.MaxInt, 1, 0, sluice.ErrOverflow}, {math.MinInt, -1, 0, sluice.ErrOverflow}})
	})
	t.Run("uint64", func(t *testing.T) {
		incrementCases(t, ctx, []incrementCase[uint64]{{3, 4, 7, nil}, {math.MaxUint64 - 1, 1, math.MaxUint64, nil}, {math.MaxUint64, 1, 0, sluice.ErrOverflow}})
	})
	t.Run("float64", func(t *testing.T) {
		inf := math.Inf(1)
		incrementCases(t, ctx, []incrementCase[float64]{
			{0.5, 0.25, 0.75, nil}, {math.MaxFloat64, math.MaxFloat64, 0, sluice.ErrOverflow},
			{1, inf, 0, sluice.ErrOverflow}, {1, math.NaN(), 0, sluice.ErrOverflow}, {1, -inf, 0, sluice.ErrOverflow},
		})
	})
	type hits int64
	t.Run("defined", func(t *testing.T) {
		incrementCases(t, ctx, []incrementCase[hits]{{3, 4, 7, nil}, {-3, -4, -7, nil}, {math.MaxInt64, 1, 0, sluice.ErrOverflow}})
	})
	type weight float64
	t.Run("defined float", func(t *testing.T) {
		incrementCases(t, ctx, []incrementCase[weight]{{0.5, 1, 1.5, nil}})
	})
	type total uint64
	t.Run("defined unsigned", func(t *testing.T) {
		incrementCases(t, ctx, []incrementCase[total]{{1, math.MaxUint64 - 1, math.MaxUint64, nil}, {2, math.MaxUint64 - 1, 0, sluice.ErrOverflow}})
	})
}

type incrementCase[T sluice.Number] struct {
	from, delta, want T
	err               error
}

func incrementCases[T sluice.Number](t *testing.T, ctx context.Context, cases []incrementCase[T]) {
	for _, c := range cases {
		k := sluice.Key[T]("k")
		version, err := k.Set(ctx, c.from)
		require.NoError(t, err)
		got, err := sluice.Increment(ctx, k, c.delta)
		require.ErrorIs(t, err, c.err)
		after, now, err := k.Get(ctx)
		require.NoError(t, err)
		if c.err != nil {
			if got != 0 || after != c.from || now != version {
				t.Errorf("%v + %v returned %v and left %v version %d; want 0, and %v version %d", c.from, c.delta, got, after, now, c.from, version)
			}
			continue
		}
		if got != c.want || after != c.want || now <= version {
			t.Errorf("%v + %v returned %v and left %v version %d; want %v and a version above %d", c.from, c.delta, got, after, now, c.want, version)
		}
	}
	require.NoError(t, sluice.Key[T]("k").Delete(ctx))
}

func TestIncrementCountsFromZero(t *testing.T) {
	_, ctx := newState(t, sluice.SharedStateConfig{})
	if n, err := sluice.Increment(ctx, sluice.Key[int]("a"), -3); n != -3 || err != nil {
		t.Errorf("got %d, %v; want -3", n, err)
	}
	_, err := sluice.Increment(ctx, sluice.Key[float64]("b"), math.Inf(1))
	require.ErrorIs(t, err, sluice.ErrOverflow)
	wantAbsent(t, ctx, sluice.Key[float64]("b"))
}

func TestIntegersKeepAllTheirDigits(t *testing.T) {
	_, ctx := newState(t, sluice.SharedStateConfig{})
	k := sluice.Key[int64]("k")
	if _, err := k.Set(ctx, math.MaxInt64); err != nil {
		t.Fatal(err)
	}
	_, err := sluice.Increment(ctx, k, 1)
	require.ErrorIs(t, err, sluice.ErrOverflow)
	wantValue(t, ctx, k, math.MaxInt64)

	s2, ctx2 := newState(t, sluice.SharedStateConfig{})
	const odd int64 = 9007199254740993 // no float64
	if _, err := k.Set(ctx, odd); err != nil {
		t.Fatal(err)
	}
	data, err := sluice.StateFrom(ctx).MarshalJSON()
	require.NoError(t, err)
	require.NoError(t, s2.UnmarshalJSON(data))
	wantValue(t, ctx2, k, odd)
	if n, err := sluice.Increment(ctx2, k, 2); n != odd+2 || err != nil {
		t.Errorf("got %d, %v; want %d", n, err, odd+2)
	}
}

func TestCompareAndSwapWantsTheVersion(t *testing.T) {
	_, ctx := newState(t, sluice.SharedStateConfig{})
	k := sluice.Key[string]("k")
	_, err := k.CompareAndSwap(ctx, 1, "x")
	require.ErrorIs(t, err, sluice.ErrConflict)
	v1, err := k.CompareAndSwap(ctx, 0, "a")
	require.NoError(t, err)
	_, err = k.CompareAndSwap(ctx, 0, "b")
	require.ErrorIs(t, err, sluice.ErrConflict)
	v2, err := k.CompareAndSwap(ctx, v1, "bb")
	require.NoError(t, err)
	_, err = k.CompareAndSwap(ctx, v1, "c")
	require.ErrorIs(t, err, sluice.ErrConflict)
	wantValue(t, ctx, k, "bb")
	require.ErrorIs(t, k.CompareAndDelete(ctx, v1), sluice.ErrConflict)
	require.NoError(t, k.CompareAndDelete(ctx, v2))
	require.ErrorIs(t, k.CompareAndDelete(ctx, v2), sluice.ErrConflict)
	require.NoError(t, k.CompareAndDelete(ctx, 0))
	v3, err := k.Set(ctx, "bb")
	require.NoError(t, err)
	if v3 <= v2 || v2 <= v1 || v1 == 0 {
		t.Errorf("versions %d, %d, after a deletion %d: want them to grow", v1, v2, v3)
	}
	_, err = k.CompareAndSwap(ctx, v2, "c") // the same value, but not the same writing
	require.ErrorIs(t, err, sluice.ErrConflict)
}

func TestOneOfManySwapsWins(t *testing.T) {
	_, ctx := newState(t, sluice.SharedStateConfig{})
	k := sluice.Key[int]("k")
	for round := range 300 {
		_, version, err := k.Get(ctx)
		if err != nil && !errors.Is(err, sluice.ErrAbsent) {
			t.Fatal(err)
		}
		var won atomic.Int64
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				if _, err := k.CompareAndSwap(ctx, version, i); err == nil {
					won.Add(1)
				} else if !errors.Is(err, sluice.ErrConflict) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.Equal(t, int64(1), won.Load(), "round %d: swaps from version %d succeeded", round, version)
		if round%3 == 0 {
			require.NoError(t, k.Delete(ctx))
		}
	}
}

func TestSwapsAgainstAllOtherWrites(t *testing.T) {
	// A swap that succeeded must have replaced exactly what was read: the sum of what
	// swaps and increments added is what is there, though deletions take it away.
	_, ctx := newState(t, sluice.SharedStateConfig{})
	k := sluice.Key[int64]("k")
	var added, taken atomic.Int64
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			for range 3000 {
				old, version, err := k.Get(ctx)
				if err != nil && !errors.Is(err, sluice.ErrAbsent) {
					t.Error(err)
				}
				switch i % 3 {
				case 0:
					if _, err := k.CompareAndSwap(ctx, version, old+1); err == nil {
						added.Add(1)
					}
				case 1:
					if _, err := sluice.Increment(ctx, k, 1); err == nil {
						added.Add(1)
					}
				case 2:
					if version != 0 && k.CompareAndDelete(ctx, version) == nil {
						taken.Add(old)
					}
				}
			}
		})
	}
	wg.Wait()
	left, _, _ := k.Get(ctx)
	if added.Load() != taken.Load()+left {
		t.Errorf("%d were added, %d taken and %d left", added.Load(), taken.Load(), left)
	}
}

func TestVersionsNeverRepeat(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	k := sluice.Key[int]("k")
	var mu sync.Mutex
	seen := make(map[uint64]bool)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 500 {
				v, err := k.Set(ctx, j)
				assert.NoError(t, err)
				mu.Lock()
				if seen[v] {
					t.Errorf("version %d was given twice", v)
				}
				seen[v] = true
				mu.Unlock()
				switch {
				case i == 0:
					k.Delete(ctx)
				case i == 1 && j%50 == 0:
					s.Clear()
				}
			}
		})
	}
	wg.Wait()
}

func TestUpdateIsAllOrNothing(t *testing.T) {
	endings := map[string]struct {
		fn    func() error
		ended string
	}{
		"error":  {func() error { return errors.ErrUnsupported }, "returned"},
		"panic":  {func() error { panic("boom") }, "panicked: boom"},
		"goexit": {func() error { runtime.Goexit(); return nil }, "exited"},
	}
	for name, e := range endings {
		t.Run(name, func(t *testing.T) {
			_, ctx := newState(t, sluice.SharedStateConfig{})
			k, other := sluice.Key[string]("k"), sluice.Key[string]("other")
			version, err := k.Set(ctx, "before")
			require.NoError(t, err)
			ended := inGoroutine(func() {
				_, err := k.Update(ctx, func(old string, ok bool) (string, error) { return "after", e.fn() })
				if err != errors.ErrUnsupported {
					t.Errorf("got %v, want fn's own error", err)
				}
			})
			assert.Equal(t, e.ended, ended, "Update")
			if v, now, err := k.Get(ctx); v != "before" || now != version || err != nil {
				t.Errorf("the key is %q version %d, %v; want before, %d", v, now, err, version)
			}
			for _, k := range []sluice.Key[string]{k, other} {
				if v, err := k.Update(ctx, func(string, bool) (string, error) { return "next", nil }); v != "next" || err != nil {
					t.Errorf("then Update of %s returned %q, %v", string(k), v, err)
				}
			}
		})
	}
}

func TestUpdateEndsWithItsContext(t *testing.T) {
	_, ctx := newState(t, sluice.SharedStateConfig{})
	k := sluice.Key[int]("k")
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(ctx)
	calls := 0
	_, err := k.Update(ctx, func(int, bool) (int, error) {
		calls++
		cancel(why)
		return 1, nil
	})
	require.ErrorIs(t, err, why)
	wantAbsent(t, ctx, k)
	_, err = k.Update(ctx, func(int, bool) (int, error) { calls++; return 1, nil })
	require.ErrorIs(t, err, why)
	assert.Equal(t, 1, calls, "fn was called %d times: not with a context that is done", calls)
	// What does not wait does not mind: a cancelled tool can put things right.
	if _, err := k.Set(ctx, 2); err != nil {
		t.Errorf("Set with a cancelled context: %v", err)
	}
}

func TestUpdateThatPanicsLocksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a key that stays locked would be a deadlock
		_, ctx := newState(t, sluice.SharedStateConfig{})
		k, other := sluice.Key[[]int]("k"), sluice.Key[[]int]("other")
		for i := range 100 {
			ended := inGoroutine(func() {
				k.Update(ctx, func([]int, bool) ([]int, error) { panic(i) })
			})
			if want := fmt.Sprint("panicked: ", i); ended != want {
				t.Fatalf("Update %s, want %s", ended, want)
			}
			for _, k := range []sluice.Key[[]int]{k, other} {
				_, err := k.Update(ctx, func(old []int, ok bool) ([]int, error) { return append(slices.Clip(old), i), nil })
				require.NoError(t, err)
			}
		}
		v, _, _ := k.Get(ctx)
		assert.Len(t, v, 100, "updates arrived")
	})
}

func TestUpdateMayCallTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ctx := newState(t, sluice.SharedStateConfig{})
		k, other := sluice.Key[int]("k"), sluice.Key[int]("other")
		calls := 0
		got, err := k.Update(ctx, func(old int, ok bool) (int, error) {
			calls++
			if calls == 1 { // a write of the same key: fn must run again, and see it
				if _, err := k.Set(ctx, 10); err != nil {
					return 0, err
				}
				if _, err := k.Update(ctx, func(old int, _ bool) (int, error) { return old + 1, nil }); err != nil {
					return 0, err
				}
			}
			if _, err := sluice.Increment(ctx, other, 1); err != nil {
				return 0, err
			}
			for range s.List("") {
			}
			err := s.Txn(ctx, func(ctx context.Context) error { _, _, err := k.Get(ctx); return err })
			return old + 100, err
		})
		assert.Equal(t, 111, got)
		require.NoError(t, err)
		assert.Equal(t, 2, calls)
		wantValue(t, ctx, k, 111)
		wantValue(t, ctx, other, 2)
	})
}

func TestValuesOfEveryKind(t *testing.T) {
	_, ctx := newState(t, sluice.SharedStateConfig{})
	type pair struct {
		A []int
		F func()
	}
	swaps(t, ctx, []int{1}, []int{2})
	swaps(t, ctx, map[string][]int{"a": {1}}, nil)
	swaps(t, ctx, func() {}, nil)
	swaps(t, ctx, make(chan int), make(chan int))
	swaps(t, ctx, pair{A: []int{1}}, pair{F: func() {}})
	swaps[any](t, ctx, []int{1}, "x")
	swaps[error](t, ctx, nil, errors.New("x"))
	swaps(t, ctx, [3][]string{{"a"}}, [3][]string{})
	swaps(t, ctx, math.NaN(), math.Inf(1))
	swaps(t, ctx, struct{}{}, struct{}{})
	swaps(t, ctx, (*pair)(nil), &pair{})
	swaps(t, ctx, int32(1), int32(2))
	swaps(t, ctx, true, false)

	// A key keeps its type until Set or a deletion.
	k := sluice.Key[int64]("typed")
	version, err := k.Set(ctx, 1)
	require.NoError(t, err)
	asString, asInt := sluice.Key[string]("typed"), sluice.Key[int]("typed")
	_, got, err := asString.Get(ctx)
	require.ErrorIs(t, err, sluice.ErrWrongType)
	want := `sluice: shared state key "typed": wrong type: it holds int64, not string`
	assert.EqualError(t, err, want)
	assert.Equal(t, version, got)
	_, err = asString.CompareAndSwap(ctx, version, "x")
	require.ErrorIs(t, err, sluice.ErrWrongType)
	_, err = asString.Update(ctx, func(string, bool) (string, error) { return "", nil })
	require.ErrorIs(t, err, sluice.ErrWrongType)
	_, err = sluice.Increment(ctx, asInt, 1)
	require.ErrorIs(t, err, sluice.ErrWrongType)
	if v, now, err := k.Get(ctx); v != 1 || now != version || err != nil {
		t.Errorf("the key is %d version %d, %v: want it untouched", v, now, err)
	}
	_, err = asString.Set(ctx, "x")
	require.NoError(t, err)
	_, err = sluice.Increment(ctx, k, 1)
	require.ErrorIs(t, err, sluice.ErrWrongType)
	require.NoError(t, k.Delete(ctx))
	if n, err := sluice.Increment(ctx, k, 1); n != 1 || err != nil {
		t.Errorf("after a deletion Increment returned %d, %v", n, err)
	}
}

func swaps[T any](t *testing.T, ctx context.Context, a, b T) {
	t.Helper()
	k := sluice.Key[T](fmt.Sprintf("swap/%T", &a))
	version, err := k.CompareAndSwap(ctx, 0, a)
	require.NoError(t, err, "%T", a)
	if _, err := k.CompareAndSwap(ctx, version+1, b); !errors.Is(err, sluice.ErrConflict) {
		t.Errorf("%T: got %v, want a conflict", a, err)
	}
	if _, err := k.CompareAndSwap(ctx, version, b); err != nil {
		t.Errorf("%T: %v", a, err)
	}
	if _, err := k.Update(ctx, func(_ T, ok bool) (T, error) { return a, nil }); err != nil {
		t.Errorf("%T: %v", a, err)
	}
	if _, _, err := k.Get(ctx); err != nil {
		t.Errorf("%T: %v", a, err)
	}
}

type cloned struct{ Parts []int }

func (c cloned) Clone() cloned { return cloned{slices.Clone(c.Parts)} }

type clonedPtr struct{ N int }

func (c *clonedPtr) Clone() *clonedPtr { d := *c; return &d }

func TestValuesAreClonedInAndOut(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	k := sluice.Key[cloned]("k")
	mine := cloned{[]int{1, 2}}
	if _, err := k.Set(ctx, mine); err != nil {
		t.Fatal(err)
	}
	mine.Parts[0] = 100
	var wg sync.WaitGroup
	for range 4 { // under the race detector, shared parts would be a race
		wg.Go(func() {
			for range 100 {
				got, _, err := k.Get(ctx)
				if err != nil || got.Parts[0] != 1 {
					t.Errorf("got %v, %v: the stored value was changed from outside", got, err)
				}
				got.Parts[0] = 200
				for e := range s.List("") {
					e.Value.(cloned).Parts[0] = 300
				}
			}
		})
	}
	wg.Wait()
	updated, err := k.Update(ctx, func(old cloned, _ bool) (cloned, error) {
		old.Parts[0] = 7
		return old, nil
	})
	require.NoError(t, err)
	updated.Parts[0] = 8
	if got, _, _ := k.Get(ctx); got.Parts[0] != 7 {
		t.Errorf("got %v after Update, want 7", got)
	}
	_, err = k.Update(ctx, func(old cloned, _ bool) (cloned, error) {
		old.Parts[0] = 9
		return old, errors.ErrUnsupported
	})
	require.ErrorIs(t, err, errors.ErrUnsupported)
	if got, _, _ := k.Get(ctx); got.Parts[0] != 7 {
		t.Errorf("got %v after an Update that failed, want 7", got)
	}

	p := sluice.Key[*clonedPtr]("p")
	if _, err := p.Set(ctx, &clonedPtr{1}); err != nil {
		t.Fatal(err)
	}
	got, _, _ := p.Get(ctx)
	got.N = 2
	again, _, _ := p.Get(ctx)
	assert.Equal(t, 1, again.N, "the pointer was not cloned")
}

func TestNoStateIsOneErrorForAll(t *testing.T) {
	ctx := context.Background()
	closed, _ := newState(t, sluice.SharedStateConfig{})
	closed.Close()
	closed.Close()
	require.NoError(t, (*sluice.SharedState)(nil).Close())
	for name, c := range map[string]struct {
		ctx  context.Context
		text string
	}{
		"none":   {ctx, `sluice: shared state key "k": no state: the context has none: use the context that a tool gets, or WithState`},
		"zero":   {sluice.WithState(ctx, new(sluice.SharedState)), `sluice: shared state key "k": no state: the SharedState was not made by NewSharedState`},
		"closed": {sluice.WithState(ctx, closed), `sluice: shared state key "k": no state: the SharedState is closed`},
	} {
		t.Run(name, func(t *testing.T) {
			k, n := sluice.Key[string]("k"), sluice.Key[int]("k")
			_, _, err := k.Get(c.ctx)
			if require.ErrorIs(t, err, sluice.ErrNoState); err.Error() != c.text {
				t.Errorf("got %q, want %q", err, c.text)
			}
			require.ErrorIs(t, second(k.Set(c.ctx, "")), sluice.ErrNoState)
			require.ErrorIs(t, second(k.CompareAndSwap(c.ctx, 0, "")), sluice.ErrNoState)
			require.ErrorIs(t, second(k.Update(c.ctx, func(string, bool) (string, error) { return "", nil })), sluice.ErrNoState)
			require.ErrorIs(t, k.Delete(c.ctx), sluice.ErrNoState)
			require.ErrorIs(t, k.CompareAndDelete(c.ctx, 1), sluice.ErrNoState)
			require.ErrorIs(t, second(sluice.Increment(c.ctx, n, 1)), sluice.ErrNoState)
			s := sluice.StateFrom(c.ctx)
			require.ErrorIs(t, s.Txn(c.ctx, func(context.Context) error { return nil }), sluice.ErrNoState)
			require.ErrorIs(t, second(s.View("p", sluice.SharedStateConfig{})), sluice.ErrNoState)
			s.Clear()
			for range s.List("") {
				t.Error("List yielded something")
			}
			for range s.Watch(c.ctx, "") {
				t.Error("Watch yielded something")
			}
			if s != nil {
				require.ErrorIs(t, second(s.MarshalJSON()), sluice.ErrNoState)
			}
		})
	}
	require.ErrorIs(t, closed.UnmarshalJSON([]byte(`{}`)), sluice.ErrNoState)
}

// Another state changes nothing else that a context says, and none is the executor's.
func TestWithStateKeepsOnWhoseBehalfCallsRun(t *testing.T) {
	own, ctx := newState(t, sluice.SharedStateConfig{})
	other, _ := newState(t, sluice.SharedStateConfig{})
	ctx = sluice.WithPipelineContext(ctx, sluice.PipelineContext{RunID: "r", Tenant: "acme", State: own})
	pc := sluice.PipelineContextFrom(sluice.WithState(ctx, other))
	if pc.RunID != "r" || pc.Tenant != "acme" || pc.State != other || sluice.StateFrom(ctx) != own {
		t.Errorf("got %+v, and the context before has another state than its own", pc)
	}
	reg := sluice.NewToolRegistry()
	exec := sluice.Must(sluice.NewExecutor(reg, sluice.Config{State: own}))
	k := sluice.Key[int]("k")
	sluice.Must(sluice.Register(reg, sluice.Spec{Name: "outer"}, func(ctx context.Context, _ struct{}) (int, error) {
		assert.NoError(t, second(k.Set(ctx, 1)))
		assert.NoError(t, second(k.Set(sluice.WithState(ctx, other), 2)))
		assert.NoError(t, second(sluice.Increment(sluice.WithState(sluice.WithState(ctx, other), nil), k, 10)))
		_, err := exec.Invoke(sluice.WithState(ctx, other), sluice.Request{Tool: "inner"})
		return 0, err
	}))
	sluice.Must(sluice.Register(reg, sluice.Spec{Name: "inner"}, func(ctx context.Context, _ struct{}) (int, error) {
		return sluice.Increment(ctx, k, 100)
	}))
	require.NoError(t, second(exec.Invoke(context.Background(), sluice.Request{Tool: "outer"})))
	wantValue(t, sluice.WithState(context.Background(), own), k, 11)
	wantValue(t, sluice.WithState(context.Background(), other), k, 102)
}

// What a single operation on a key allocates is its value, if that is no number.
func TestStateAllocations(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	n, str := sluice.Key[int64]("n"), sluice.Key[string]("s")
	type weight float64
	w := sluice.Key[weight]("w")
	add := func(old int64, _ bool) (int64, error) { return old + 1, nil }
	for name, c := range map[string]struct {
		op   func() error
		want float64
	}{
		"Set of a number":             {func() error { return second(n.Set(ctx, 1<<40)) }, 0},
		"Set of a string":             {func() error { return second(str.Set(ctx, "value")) }, 1},
		"Get of a number":             {func() error { return third(n.Get(ctx)) }, 0},
		"Get of a string":             {func() error { return third(str.Get(ctx)) }, 0},
		"Increment":                   {func() error { return second(sluice.Increment(ctx, n, 1)) }, 0},
		"Increment of a defined type": {func() error { return second(sluice.Increment(ctx, w, 1)) }, 0},
		"Update":                      {func() error { return second(n.Update(ctx, add)) }, 0},
		"Txn of one key": {func() error {
			return s.Txn(ctx, func(ctx context.Context) error { return second(sluice.Increment(ctx, n, 1)) })
		}, 11},
	} {
		require.NoError(t, second(n.Set(ctx, 1)))
		require.NoError(t, second(str.Set(ctx, "value")))
		if got := testing.AllocsPerRun(500, func() {
			if err := c.op(); err != nil {
				t.Error(err)
			}
		}); got > c.want {
			t.Errorf("%s: %v allocations, want at most %v", name, got, c.want)
		}
	}
}

func TestPromise22_BadStateConfig(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	cases := map[string]error{
		"sluice: SharedStateConfig.MaxKeys is -1: must be zero (100000) or positive":     second(sluice.NewSharedState(sluice.SharedStateConfig{MaxKeys: -1})),
		"sluice: SharedStateConfig.MaxBytes is -5: must be zero (268435456) or positive": second(sluice.NewSharedState(sluice.SharedStateConfig{MaxBytes: -5})),
		"sluice: SharedStateConfig.MaxBytes is -6: must be zero (268435456) or positive": second(s.View("p", sluice.SharedStateConfig{MaxBytes: -6})),
		`sluice: the prefix of a view is "": must be UTF-8, and not empty`:               second(s.View("", sluice.SharedStateConfig{})),
		"sluice: TTL is 0s: must be positive":                                            second(sluice.Key[int]("k").Set(ctx, 1, sluice.TTL(0))),
		"sluice: TTL is -1ns: must be positive":                                          second(sluice.Increment(ctx, "k", 1, sluice.TTL(-1))),
		"sluice: TTL is -2ns: must be positive":                                          second(sluice.Key[int]("k").CompareAndSwap(ctx, 0, 1, sluice.TTL(-2))),
		"sluice: TTL is -3ns: must be positive":                                          second(sluice.Key[int]("k").Update(ctx, func(int, bool) (int, error) { return 1, nil }, sluice.TTL(-3))),
	}
	for want, err := range cases {
		assert.EqualError(t, err, want)
	}
	wantAbsent(t, ctx, sluice.Key[int]("k"))
	require.NoError(t, second(sluice.Key[int]("k").Set(ctx, 1)))
}

func TestStateErrorsNameTheKey(t *testing.T) {
	_, ctx := newState(t, sluice.SharedStateConfig{})
	_, _, err := sluice.Key[int]("a \"b\"\n").Get(ctx)
	assert.EqualError(t, err, `sluice: shared state key "a \"b\"\n": absent`)
}
