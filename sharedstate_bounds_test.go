package sluice

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestKeysAreBounded(t *testing.T) {
	s, ctx := newState(t, SharedStateConfig{})
	first := Key[int]("first")
	require.NoError(t, second(first.Set(ctx, 1)))
	full := 0
	for i := range 150_000 {
		if _, err := Increment(ctx, Key[int64](fmt.Sprint("flood/", i)), 1); errors.Is(err, ErrFull) {
			full++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	keys, _ := s.view.Scope.Usage()
	assert.Equal(t, 100_000, keys)
	assert.Equal(t, 50_001, full)
	// No key is harmed: all can still be read, written and deleted.
	wantValue(t, ctx, first, 1)
	require.NoError(t, second(first.Set(ctx, 2)))
	require.NoError(t, second(Increment(ctx, "flood/7", int64(1))))
	require.ErrorIs(t, second(Key[int]("new").CompareAndSwap(ctx, 0, 1)), ErrFull)
	wantAbsent(t, ctx, Key[int]("new"))
	require.NoError(t, Key[int64]("flood/7").Delete(ctx))
	require.NoError(t, second(Key[int]("new").CompareAndSwap(ctx, 0, 1)))
}

func TestBytesAreBounded(t *testing.T) {
	s, ctx := newState(t, SharedStateConfig{MaxBytes: 1 << 20})
	k := Key[string]("k")
	small := strings.Repeat("x", 1000)
	version, err := k.Set(ctx, small)
	require.NoError(t, err)
	require.ErrorIs(t, second(k.Set(ctx, strings.Repeat("x", 1<<20))), ErrFull)
	if v, now, _ := k.Get(ctx); v != small || now != version {
		t.Errorf("the key has changed to %d bytes, version %d", len(v), now)
	}
	n := 0
	for ; n < 10_000; n++ {
		if _, err := Key[string](fmt.Sprint("k", n)).Set(ctx, small); errors.Is(err, ErrFull) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if want := 1 << 20 / 1170; n < want-30 || n > want+30 {
		t.Errorf("%d values of 1000 bytes fit into a MiB, want about %d", n, want)
	}
	// A value that shrinks always fits, and makes room.
	require.NoError(t, second(k.Set(ctx, small[:10])))
	require.NoError(t, second(Key[string]("j").Set(ctx, small[:10])))
	s.Clear()
	if keys, bytes := s.view.Scope.Usage(); keys != 0 || bytes != 0 {
		t.Errorf("%d keys and %d bytes are counted for none", keys, bytes)
	}
}

// Whatever is written at once, the bounds are never exceeded, nothing is counted twice,
// and a write that is refused changes nothing.
func TestBoundsHoldUnderRaces(t *testing.T) {
	s, _ := newState(t, SharedStateConfig{MaxKeys: 30, MaxBytes: 30 * 400})
	v := Must(s.View("v/", SharedStateConfig{MaxKeys: 10, MaxBytes: 10 * 300}))
	in, out := WithState(context.Background(), v), WithState(context.Background(), s)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	check := func() {
		for _, l := range []struct {
			s           *SharedState
			keys, bytes int
		}{{s, 30, 12_000}, {v, 10, 3_000}} {
			if keys, bytes := l.s.view.Scope.Usage(); keys < 0 || keys > l.keys || bytes < 0 || bytes > l.bytes {
				t.Errorf("%d keys and %d bytes, bounds are %d and %d", keys, bytes, l.keys, l.bytes)
			}
		}
	}
	var checker sync.WaitGroup
	checker.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				check()
				runtime.Gosched()
			}
		}
	})
	refused, done := 0, 0
	var mu sync.Mutex
	for g := range 4 {
		wg.Go(func() {
			for i := range 4000 {
				ctx, k := in, Key[string](fmt.Sprint("k", (i*7+g)%20))
				if i%2 == 0 {
					ctx, k = out, Key[string](fmt.Sprint("o", (i*7+g)%40))
				}
				var err error
				switch i % 7 {
				case 0:
					err = k.Delete(ctx)
				case 1:
					err = StateFrom(ctx).Txn(ctx, func(ctx context.Context) error {
						k.Delete(ctx)
						_, err := (k + "t").Set(ctx, strings.Repeat("y", i%300))
						return err
					})
				default:
					_, err = k.Set(ctx, strings.Repeat("x", i%300))
				}
				if err != nil && !errors.Is(err, ErrFull) {
					t.Error(err)
				}
				mu.Lock()
				if err != nil {
					refused++
				} else {
					done++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	close(stop)
	checker.Wait()
	if refused == 0 || done == 0 {
		t.Errorf("%d refused and %d done: the test has not tried the bounds", refused, done)
	}
	inside, all := 0, 0
	for range v.List("") {
		inside++
	}
	for range s.List("") {
		all++
	}
	if keys, _ := v.view.Scope.Usage(); keys != inside {
		t.Errorf("the view counts %d keys and holds %d", keys, inside)
	}
	if keys, _ := s.view.Scope.Usage(); keys != all {
		t.Errorf("the store counts %d keys and holds %d", keys, all)
	}
	s.Clear()
	for _, s := range []*SharedState{s, v} {
		if keys, bytes := s.view.Scope.Usage(); keys != 0 || bytes != 0 {
			t.Errorf("%d keys and %d bytes are counted for none", keys, bytes)
		}
	}
}

// A value that contains the same parts at several levels has an estimate beyond what a
// number holds. It is refused as anything that is too large, and nothing is miscounted.
func TestSizesBeyondAnyNumberAreTooLarge(t *testing.T) {
	s, ctx := newState(t, SharedStateConfig{MaxBytes: math.MaxInt})
	var v any = "the same"
	for range 12 {
		level := make([]any, 1000)
		for i := range level {
			level[i] = v
		}
		v = level
	}
	bounded, small := newState(t, SharedStateConfig{})
	require.ErrorIs(t, second(Key[any]("k").Set(small, v)), ErrFull)
	require.ErrorIs(t, bounded.Txn(small, func(ctx context.Context) error { return second(Key[any]("k").Set(ctx, v)) }), ErrFull)
	if keys, bytes := bounded.view.Scope.Usage(); keys != 0 || bytes != 0 {
		t.Errorf("%d keys and %d bytes are counted for none", keys, bytes)
	}
	for range 3 { // a bound that is none
		if err := second(Key[any]("k").Set(ctx, v)); err != nil && strconv.IntSize == 64 {
			t.Error(err)
		}
		require.NoError(t, Key[any]("k").Delete(ctx))
	}
	_, bytes := s.view.Scope.Usage()
	assert.Zero(t, bytes, "bytes are counted for none")
}

func TestViewIsAPartOfItsParent(t *testing.T) {
	s, ctx := newState(t, SharedStateConfig{})
	run := Must(s.View("run/42/", SharedStateConfig{MaxKeys: 3}))
	page := Must(run.View("page/", SharedStateConfig{MaxKeys: 2}))
	in, inner := WithState(ctx, run), WithState(ctx, page)
	a := Key[int]("a")
	require.NoError(t, second(a.Set(in, 1)))
	require.NoError(t, second(Key[int]("run/42/b").Set(ctx, 2))) // written from outside, and counted
	wantValue(t, in, Key[int]("b"), 2)
	wantValue(t, ctx, Key[int]("run/42/a"), 1)
	require.NoError(t, second(a.Set(inner, 3)))
	wantValue(t, in, Key[int]("page/a"), 3)
	require.ErrorIs(t, second(Key[int]("c").Set(in, 4)), ErrFull)
	require.ErrorIs(t, second(Increment(inner, "d", 1)), ErrFull) // by the bound around it
	require.NoError(t, second(Key[int]("elsewhere").Set(ctx, 5)))
	require.NoError(t, Key[int]("run/42/b").Delete(ctx))
	require.NoError(t, second(a.Set(in, 6)))
	require.NoError(t, second(Increment(inner, "d", 1)))
	require.NoError(t, a.Delete(in))
	require.ErrorIs(t, second(Increment(inner, "e", 1)), ErrFull) // by its own

	var keys []string
	for e := range run.List("page/") {
		keys = append(keys, e.Key)
	}
	assert.Equal(t, "[page/a page/d]", fmt.Sprint(keys), "the view lists")
	run.Clear()
	if keys, bytes := run.view.Scope.Usage(); keys != 0 || bytes != 0 {
		t.Errorf("%d keys and %d bytes are counted for none", keys, bytes)
	}
	wantValue(t, ctx, Key[int]("elsewhere"), 5)

	require.NoError(t, second(a.Set(inner, 1)))
	require.NoError(t, run.Close())
	require.NoError(t, run.Close())
	require.ErrorIs(t, second(a.Set(in, 1)), ErrNoState)
	require.ErrorIs(t, second(a.Set(inner, 1)), ErrNoState) // the view in the view
	wantValue(t, ctx, Key[int]("run/42/page/a"), 1)
	require.NoError(t, s.Close())
}

func TestViewsOfOnePrefixShareTheirCount(t *testing.T) {
	s, ctx := newState(t, SharedStateConfig{})
	for i := range 5 {
		Key[string](fmt.Sprint("p/", i)).Set(ctx, "there before")
	}
	one := Must(s.View("p/", SharedStateConfig{MaxKeys: 6}))
	two := Must(s.View("p/", SharedStateConfig{MaxKeys: 7}))
	outer := Must(s.View("p", SharedStateConfig{}))
	k := func(i int) Key[string] { return Key[string](fmt.Sprint("new/", i)) }
	require.NoError(t, second(k(1).Set(WithState(ctx, one), "")))
	require.ErrorIs(t, second(k(2).Set(WithState(ctx, one), "")), ErrFull)
	require.NoError(t, second(k(2).Set(WithState(ctx, two), "")))
	require.ErrorIs(t, second(k(3).Set(WithState(ctx, two), "")), ErrFull)
	require.NoError(t, one.Close())
	require.ErrorIs(t, second(k(3).Set(WithState(ctx, two), "")), ErrFull)
	require.NoError(t, second(k(3).Set(WithState(ctx, outer), "")))
	keys, _ := outer.view.Scope.Usage()
	assert.Equal(t, 8, keys, "the outer view counts %d keys", keys)
	two.Close()
	three := Must(s.View("p/", SharedStateConfig{MaxKeys: 1})) // counted anew
	keys, _ = three.view.Scope.Usage()
	assert.Equal(t, 7, keys, "a new view counts %d keys", keys)
	// What is over a bound already can still shrink and be replaced.
	require.NoError(t, second(k(1).Set(WithState(ctx, three), "")))
	require.NoError(t, k(1).Delete(WithState(ctx, three)))
}

func TestPromise21_ForgottenViewsAreCollected(t *testing.T) {
	s, ctx := newState(t, SharedStateConfig{})
	require.NoError(t, second(Key[int]("x").Set(ctx, 1)))
	for i := range 100 {
		v := Must(s.View(fmt.Sprint("run/", i, "/"), SharedStateConfig{}))
		inner := Must(v.View("in/", SharedStateConfig{}))
		require.NoError(t, second(Key[int]("k").Set(WithState(ctx, inner), i)))
	}
	left := 0
	for range 200 { // a cleanup runs some time after its collection
		runtime.GC()
		if left = s.view.Store.Scopes(); left == 0 {
			break
		}
		runtime.Gosched()
	}
	assert.Zero(t, left, "scopes of forgotten views are kept")
	keys, _ := s.view.Scope.Usage()
	assert.Equal(t, 101, keys, "keys: the keys stay")
}
