package sluice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/kv"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newState returns a store of the given bounds and a context that carries it.
func newState(t testing.TB, c SharedStateConfig) (*SharedState, context.Context) {
	t.Helper()
	s, err := NewSharedState(c)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s, WithState(context.Background(), s)
}

// wantValue checks a key.
func wantValue[T comparable](t testing.TB, ctx context.Context, k Key[T], want T) {
	t.Helper()
	v, _, err := k.Get(ctx)
	require.NoError(t, err, string(k))
	require.Equal(t, want, v, string(k))
}

func wantAbsent[T any](t testing.TB, ctx context.Context, k Key[T]) {
	t.Helper()
	v, version, err := k.Get(ctx)
	require.ErrorIs(t, err, ErrAbsent, "%s is %v", string(k), v)
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

type cloneCalls struct{ Do func() }

func (c cloneCalls) Clone() cloneCalls {
	if c.Do != nil {
		c.Do()
	}
	return c
}

func TestPromise21_CloneRunsOutsideLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ctx := newState(t, SharedStateConfig{})
		n, k := Key[int]("n"), Key[cloneCalls]("k")
		calls := 0
		use := cloneCalls{Do: func() {
			calls++
			Increment(ctx, n, 1)
			s.view.Store.Clear(Must(s.View("none/", SharedStateConfig{})).view.Scope)
		}}
		require.NoError(t, second(k.Set(ctx, use)))
		_, _, err := k.Get(ctx)
		require.NoError(t, err)
		for range s.List("") {
		}
		wctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for range s.Watch(wctx, "k") {
			break
		}
		ended := inGoroutine(func() { k.Set(ctx, cloneCalls{Do: func() { panic("clone") }}) })
		assert.Equal(t, "panicked: clone", ended, "Set")
		if calls < 4 {
			t.Errorf("Clone was called %d times, want once for Set, Get, List and Watch", calls)
		}
		wantValue(t, ctx, n, calls)
	})
}

func second[T any](_ T, err error) error { return err }

func TestDeletesRaceEverything(t *testing.T) {
	s, ctx := newState(t, SharedStateConfig{})
	k := func(i int) Key[int] { return Key[int](fmt.Sprint("k", i%20)) }
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 3000 {
				switch (g + i) % 5 {
				case 0:
					k(i).Delete(ctx)
				case 1:
					k(i).Set(ctx, i)
				case 2:
					k(i).Get(ctx)
				default:
					_, err := Increment(ctx, k(i), 1)
					assert.NoError(t, err)
				}
			}
		})
	}
	wg.Wait()
	n := 0
	for e := range s.List("k") {
		if !strings.HasPrefix(e.Key, "k") || e.Version == 0 {
			t.Errorf("entry %+v", e)
		}
		n++
	}
	if keys, bytes := s.view.Scope.Usage(); keys != n || bytes < n*96 || bytes > n*110 {
		t.Errorf("%d keys and %d bytes are counted for %d keys", keys, bytes, n)
	}
	s.Clear()
	if keys, bytes := s.view.Scope.Usage(); keys != 0 || bytes != 0 {
		t.Errorf("%d keys and %d bytes are counted for none", keys, bytes)
	}
}

// A key that no snapshot could hold is refused when it is written, by every write.
func TestKeysAreUTF8(t *testing.T) {
	s, ctx := newState(t, SharedStateConfig{})
	v := Must(s.View("é/", SharedStateConfig{}))
	for _, key := range []string{"\xff", "a\xc3", "\xa9", "\xed\xa0\x80", "\xf8\x88\x80\x80\x80", "\xc0\x80"} {
		for name, write := range map[string]func(ctx context.Context) error{
			"Set":       func(ctx context.Context) error { return second(Key[string](key).Set(ctx, "x")) },
			"TTL":       func(ctx context.Context) error { return second(Key[string](key).Set(ctx, "x", TTL(1e9))) },
			"Swap":      func(ctx context.Context) error { return second(Key[int](key).CompareAndSwap(ctx, 0, 1)) },
			"Increment": func(ctx context.Context) error { return second(Increment(ctx, Key[float64](key), 1)) },
			"Update": func(ctx context.Context) error {
				return second(Key[int](key).Update(ctx, func(int, bool) (int, error) { return 1, nil }))
			},
			"Txn": func(ctx context.Context) error {
				return StateFrom(ctx).Txn(ctx, func(ctx context.Context) error {
					second(Key[int]("other").Set(ctx, 1))
					return second(Increment(ctx, Key[int](key), 1))
				})
			},
			"View": func(ctx context.Context) error { return second(StateFrom(ctx).View(key, SharedStateConfig{})) },
		} {
			for _, in := range []context.Context{ctx, WithState(ctx, v)} {
				err := write(in)
				if err == nil || !strings.Contains(err.Error(), "UTF-8") || !utf8.ValidString(err.Error()) {
					t.Errorf("%s of %q: got %v, want an error that says UTF-8", name, key, err)
				}
			}
		}
		wantAbsent(t, ctx, Key[int](key))
		require.NoError(t, Key[int](key).Delete(ctx))
	}
	if keys, bytes := s.view.Scope.Usage(); keys != 0 || bytes != 0 {
		t.Errorf("%d keys and %d bytes are counted for none", keys, bytes)
	}
	if err := s.Txn(ctx, func(ctx context.Context) error { // nor what the function makes light of
		second(Key[int]("\xff").Set(ctx, 1))
		return nil
	}); err != nil {
		t.Error(err)
	}
	Must(s.MarshalJSON())
}

// No error is longer than one reads, whatever the key, or has more than one line.
func TestStateErrorsAreShort(t *testing.T) {
	s, ctx := newState(t, SharedStateConfig{MaxBytes: 1 << 20, MaxKeys: 2})
	long := strings.Repeat("\n\u202e\x00k", 100_000)
	key := Key[string](long)
	closed := Must(NewSharedState(SharedStateConfig{}))
	closed.Close()
	old := Must(NewSharedState(SharedStateConfig{}))
	defer old.Close()
	require.NoError(t, old.UnmarshalJSON([]byte(`{"keys":{"n":{"value":1`+strings.Repeat("0", 100_000)+`},"s":{"value":"x"}}}`)))
	for name, err := range map[string]error{
		"absent":    third(key.Get(ctx)),
		"conflict":  key.CompareAndDelete(ctx, 1),
		"swap":      second(key.CompareAndSwap(ctx, 1, "")),
		"full":      second(key.Set(ctx, string(make([]byte, 1<<20)))),
		"no state":  third(key.Get(context.Background())),
		"closed":    third(key.Get(WithState(ctx, closed))),
		"not UTF-8": second(Key[string]("\xff"+long).Set(ctx, "")),
		"tries":     stateErr(long, kv.GivenUp),
		"number":    third(Key[int]("n").Get(WithState(ctx, old))),
		"decoder":   third(Key[multiline]("s").Get(WithState(ctx, old))),
		"view":      second(s.View("\xff"+long, SharedStateConfig{})),
		"snapshot": func() error {
			s.Clear()
			second(Key[multiline](long).Set(ctx, multiline{}))
			return second(s.MarshalJSON())
		}(),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		if text := err.Error(); len(text) > 1500 || strings.ContainsFunc(text, unicode.IsControl) || strings.Contains(text, "\u202e") {
			t.Errorf("%s: the error has %d bytes and begins %.200q: want one short line", name, len(text), text)
		}
	}
}

// multiline is a value whose errors have many long lines.
type multiline struct{}

func (multiline) MarshalJSON() ([]byte, error) { return nil, (&multiline{}).UnmarshalJSON(nil) }
func (*multiline) UnmarshalJSON([]byte) error {
	return errors.New(strings.Repeat("a line\n", 100_000))
}

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

func third[A, B any](_ A, _ B, err error) error { return err }

func TestSnapshotRestoreIsAllOrNothing(t *testing.T) {
	s, ctx := newState(t, SharedStateConfig{MaxKeys: 2, MaxBytes: 10_000})
	k := Key[int]("k")
	version, _ := k.Set(ctx, 1)
	for name, c := range map[string]struct {
		json string
		err  string
	}{
		"no JSON":       {`{"keys":`, "sluice: shared state snapshot: unexpected end of JSON input"},
		"array":         {`[]`, "sluice: shared state snapshot: it is no object"},
		"no value":      {`{"keys":{"a":{"version":1}}}`, `sluice: shared state snapshot: key "a" has no value`},
		"version":       {`{"keys":{"a":{"value":1,"version":1152921504606846977}}}`, `sluice: shared state snapshot: key "a" has version 1152921504606846977 of 0: must be at most 1152921504606846976`},
		"too many keys": {`{"keys":{"a":{"value":1},"b":{"value":1},"c":{"value":1}}}`, "sluice: shared state: full: the write would go over a bound of its SharedState"},
		"too big":       {`{"keys":{"a":{"value":"` + string(make10k()) + `"}}}`, "sluice: shared state: full: the write would go over a bound of its SharedState"},
	} {
		if err := s.UnmarshalJSON([]byte(c.json)); err == nil || err.Error() != c.err {
			t.Errorf("%s: got %v, want %s", name, err, c.err)
		}
		v, now, err := k.Get(ctx)
		assert.Equal(t, 1, v, name)
		assert.Equal(t, version, now, name)
		assert.NoError(t, err, name)
	}
	require.NoError(t, s.UnmarshalJSON([]byte(`{"version":9,"keys":{"a":{"value":1,"version":4},"b":{"value":2,"version":0,"expires":"2001-01-01T00:00:00Z"}}}`)))
	wantAbsent(t, ctx, k)
	wantAbsent(t, ctx, Key[int]("b"))
	if v, version, err := Key[int]("a").Get(ctx); v != 1 || version != 4 || err != nil {
		t.Errorf("got %d, version %d, %v", v, version, err)
	}
	keys, _ := s.view.Scope.Usage()
	assert.Equal(t, 1, keys, "keys are counted")
	if v, _ := k.Set(ctx, 1); v <= 9 {
		t.Errorf("a new key has version %d, want above 9", v)
	}
	require.NoError(t, s.UnmarshalJSON([]byte(`{}`)))
	for range s.List("") {
		t.Error("a key is left after restoring nothing")
	}
}

func make10k() []byte {
	b := make([]byte, 10_000)
	for i := range b {
		b[i] = 'x'
	}
	return b
}

// A document that is not what MarshalJSON writes is refused, and changes nothing: two
// readers could take it for two things.
func TestSnapshotIsReadStrictly(t *testing.T) {
	const p = "sluice: shared state snapshot: "
	for in, want := range map[string]string{
		`null`:                                                 "it is no object",
		`{"version":1,"version":2}`:                            `it has "version" twice`,
		`{"keys":{},"keys":{"a":{"value":1}}}`:                 `it has "keys" twice`,
		`{"keys":{},"\u006beys":{}}`:                           `it has "keys" twice`,
		`{"Version":1}`:                                        `it has an unknown name "Version": must be "version" or "keys"`,
		`{"keys":{},"note":[{"a":{}}]}`:                        `it has an unknown name "note": must be "version" or "keys"`,
		`{"key\u017f":{}}`:                                     `it has an unknown name "keyſ": must be "version" or "keys"`,
		`{"keys":null}`:                                        "keys is no object",
		`{"version":null}`:                                     "the version is null",
		`{"version":1152921504606846977}`:                      "the version is 1152921504606846977: must be at most 1152921504606846976",
		`{"keys":{"a":null}}`:                                  `key "a" is no object`,
		`{"keys":{"a":{"value":1},"a":{"value":2}}}`:           `keys has "a" twice`,
		`{"keys":{"a":{"value":1},"\u0061":{"value":2}}}`:      `keys has "a" twice`,
		`{"keys":{"a":{"value":1,"value":2}}}`:                 `key "a" has "value" twice`,
		`{"keys":{"a":{"value":1,"Value":2}}}`:                 `key "a" has an unknown name "Value": must be "value", "version" or "expires"`,
		`{"keys":{"a":{"value":1,"ttl":2}}}`:                   `key "a" has an unknown name "ttl": must be "value", "version" or "expires"`,
		`{"keys":{"a":{"value":1,"version":null}}}`:            `version of key "a" is null`,
		`{"keys":{"a":{"value":1,"expires":null}}}`:            `expires of key "a" is null`,
		"{\"keys\":{\"\xff\":{\"value\":1}}}":                  `keys has the name "\ufffd", which is not UTF-8`,
		`{"keys":{"\ud800":{"value":1}}}`:                      `keys has the name "\ufffd", which is not UTF-8`,
		`{"keys":{"` + strings.Repeat("k", 1<<20) + `":{}}}`:   `key "` + strings.Repeat("k", 128) + `…" has no value`,
		`{"version":1` + strings.Repeat("0", 1<<20) + `}`:      "",
		`{"keys":{"a":{"value":1,"expires":"soon\u000anow"}}}`: "",
	} {
		s, ctx := newState(t, SharedStateConfig{})
		k := Key[int]("k")
		version, _ := k.Set(ctx, 1)
		err := s.UnmarshalJSON([]byte(in))
		switch {
		case err == nil:
			t.Errorf("%.100s was taken", in)
		case want != "" && err.Error() != p+strings.ReplaceAll(want, `"\ufffd"`, `"�"`):
			t.Errorf("%.100s:\n got %s\nwant %s%s", in, err, p, want)
		case len(err.Error()) > 1000 || strings.Contains(err.Error(), "\n"):
			t.Errorf("%.100s: the error has %d bytes, and begins %.100q: want one short line", in, len(err.Error()), err)
		}
		if v, now, err := k.Get(ctx); v != 1 || now != version || err != nil {
			t.Errorf("%.100s: the key is %d, version %d, %v: want it untouched", in, v, now, err)
		}
		var zero SharedState
		if err := zero.UnmarshalJSON([]byte(in)); err == nil || zero.view.Store != nil {
			t.Errorf("%.100s made a store of the zero value: %v", in, err)
		}
	}
	// What a value holds is its own affair: whatever could be stored comes back.
	s, ctx := newState(t, SharedStateConfig{})
	odd := Key[json.RawMessage]("odd")
	odd.Set(ctx, json.RawMessage(`{"a":1,"a":"\ud800"}`))
	require.NoError(t, s.UnmarshalJSON(Must(s.MarshalJSON())))
	if v, _, err := odd.Get(ctx); string(v) != `{"a":1,"a":"\ud800"}` || err != nil {
		t.Errorf("got %s, %v", v, err)
	}
	// Versions without the snapshot's own go on above the highest.
	require.NoError(t, s.UnmarshalJSON([]byte(`{"keys":{"a":{"value":1,"version":7}}}`)))
	v, _ := Key[int]("new").Set(ctx, 1)
	assert.Equal(t, uint64(8), v, "a new key has version")
	require.ErrorIs(t, (*SharedState)(nil).UnmarshalJSON([]byte(`{}`)), ErrNoState)
}

func TestTxnCannotExceedTheBounds(t *testing.T) {
	s, ctx := newState(t, SharedStateConfig{MaxKeys: 10, MaxBytes: 10_000})
	k := func(i int) Key[string] { return Key[string](fmt.Sprint(i)) }
	for i := range 9 {
		k(i).Set(ctx, "")
	}
	// Too much at the end, and nothing happens.
	err := s.Txn(ctx, func(ctx context.Context) error {
		k(20).Set(ctx, "")
		return second(k(21).Set(ctx, ""))
	})
	require.ErrorIs(t, err, ErrFull)
	wantAbsent(t, ctx, k(20))
	// What it removes makes room for what it adds.
	err = s.Txn(ctx, func(ctx context.Context) error {
		for i := 20; i < 25; i++ {
			k(i).Set(ctx, "")
		}
		for i := range 4 {
			k(i).Delete(ctx)
		}
		return nil
	})
	require.NoError(t, err)
	keys, _ := s.view.Scope.Usage()
	assert.Equal(t, 10, keys, "keys")
	// A function that never ends cannot fill the memory.
	err = s.Txn(ctx, func(ctx context.Context) error {
		for i := 0; ; i++ {
			if _, err := k(i).Set(ctx, ""); err != nil {
				assert.Equal(t, 10, i, "refused after %d keys", i)
				return err
			}
		}
	})
	require.ErrorIs(t, err, ErrFull)
	err = s.Txn(ctx, func(ctx context.Context) error { return second(k(0).Set(ctx, string(make([]byte, 20_000)))) })
	require.ErrorIs(t, err, ErrFull)
}

// A body that panics or exits leaves no watch behind: increments are fast again.
func TestWatchBodyThatPanicsLeavesNoWatch(t *testing.T) {
	s, ctx := newState(t, SharedStateConfig{})
	Key[int]("k").Set(ctx, 1)
	for want, body := range map[string]func(){
		"panicked: boom": func() { panic("boom") },
		"exited":         func() { runtime.Goexit() },
	} {
		assert.Equal(t, want, inGoroutine(func() {
			for range s.Watch(ctx, "") {
				body()
			}
		}), "the watch")
	}
	assert.Zero(t, s.view.Store.Watches(), "watches are left")
}
