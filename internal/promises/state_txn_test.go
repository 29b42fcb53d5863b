package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTxnReadsItsOwnWrites(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	a, b, c := sluice.Key[string]("a"), sluice.Key[int]("b"), sluice.Key[int]("c")
	va, _ := a.Set(ctx, "old")
	c.Set(ctx, 7)
	var inside uint64
	err := s.Txn(ctx, func(tx context.Context) error {
		v, err := a.Set(tx, "new")
		if err != nil || v != va+1 {
			t.Errorf("Set returned version %d, %v; want %d", v, err, va+1)
		}
		wantValue(t, tx, a, "new")
		wantValue(t, ctx, a, "old") // outside, nothing has happened
		assert.ErrorIs(t, second(a.CompareAndSwap(tx, va, "x")), sluice.ErrConflict)
		v, err = a.CompareAndSwap(tx, v, "newer")
		assert.NoError(t, err)
		inside = v
		assert.NoError(t, second(sluice.Increment(tx, b, 2)))
		if n, err := sluice.Increment(tx, b, 3); n != 5 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
		if n, err := b.Update(tx, func(old int, ok bool) (int, error) { return old * 2, nil }); n != 10 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
		assert.NoError(t, c.Delete(tx))
		wantAbsent(t, tx, c)
		assert.ErrorIs(t, c.CompareAndDelete(tx, 1), sluice.ErrConflict)
		assert.ErrorIs(t, second(sluice.Increment(tx, sluice.Key[string2]("a"), 1)), sluice.ErrWrongType)
		assert.ErrorIs(t, second(sluice.Increment(tx, sluice.Key[int64]("b"), 1)), sluice.ErrWrongType)
		assert.ErrorIs(t, third(sluice.Key[int]("a").Get(tx)), sluice.ErrWrongType)
		assert.ErrorIs(t, second(sluice.Key[int]("a").CompareAndSwap(tx, v, 1)), sluice.ErrWrongType)
		return nil
	})
	require.NoError(t, err)
	v, version, _ := a.Get(ctx)
	if v != "newer" || version != inside {
		t.Errorf("a is %q version %d, want newer with the version %d that its write returned", v, version, inside)
	}
	wantValue(t, ctx, b, 10)
	wantAbsent(t, ctx, c)
}

// An Update in a transaction whose function writes the same key there runs again.
func TestTxnRunsAReentrantUpdateAgain(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	k := sluice.Key[int]("k")
	calls := 0
	err := s.Txn(ctx, func(ctx context.Context) error {
		return second(k.Update(ctx, func(old int, ok bool) (int, error) {
			if calls++; calls == 1 {
				if _, err := k.Set(ctx, 10); err != nil {
					return 0, err
				}
			}
			return old + 1, nil
		}))
	})
	require.NoError(t, err)
	wantValue(t, ctx, k, 11)
}

func TestTxnIsAllOrNothing(t *testing.T) {
	cause := errors.New("cause")
	for name, c := range map[string]struct {
		end   func(cancel context.CancelCauseFunc) error
		ended string
		err   error
	}{
		"error":  {func(context.CancelCauseFunc) error { return errors.ErrUnsupported }, "returned", errors.ErrUnsupported},
		"panic":  {func(context.CancelCauseFunc) error { panic("boom") }, "panicked: boom", nil},
		"goexit": {func(context.CancelCauseFunc) error { runtime.Goexit(); return nil }, "exited", nil},
		"cancel": {func(cancel context.CancelCauseFunc) error { cancel(cause); return nil }, "returned", cause},
	} {
		t.Run(name, func(t *testing.T) {
			s, ctx := newState(t, sluice.SharedStateConfig{})
			a, b := sluice.Key[int]("a"), sluice.Key[int]("b")
			va, _ := a.Set(ctx, 1)
			cctx, cancel := context.WithCancelCause(ctx)
			var leaked context.Context
			got := inGoroutine(func() {
				err := s.Txn(cctx, func(ctx context.Context) error {
					leaked = ctx
					a.Set(ctx, 2)
					b.Set(ctx, 2)
					return c.end(cancel)
				})
				assert.ErrorIs(t, err, c.err)
			})
			assert.Equal(t, c.ended, got, "Txn")
			if v, version, err := a.Get(ctx); v != 1 || version != va || err != nil {
				t.Errorf("a is %d version %d, %v: want it untouched", v, version, err)
			}
			wantAbsent(t, ctx, b)
			// The context of a transaction that is over does not reach the store.
			require.ErrorIs(t, second(a.Set(leaked, 3)), sluice.ErrNoState)
			require.ErrorIs(t, third(a.Get(leaked)), sluice.ErrNoState)
			require.ErrorIs(t, a.Delete(leaked), sluice.ErrNoState)
			require.ErrorIs(t, second(sluice.Increment(leaked, a, 1)), sluice.ErrNoState)
			require.ErrorIs(t, sluice.StateFrom(leaked).Txn(leaked, func(context.Context) error { return nil }), sluice.ErrNoState)
			require.NoError(t, sluice.StateFrom(leaked).Close())
			// And the keys are as usable as before.
			require.NoError(t, s.Txn(ctx, func(ctx context.Context) error { return second(sluice.Increment(ctx, a, 1)) }))
			wantValue(t, ctx, a, 2)
		})
	}
}

func TestTxnRunsAgainOnConflict(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	a, b, c := sluice.Key[int]("a"), sluice.Key[int]("b"), sluice.Key[int]("c")
	a.Set(ctx, 1)
	calls := 0
	err := s.Txn(ctx, func(tx context.Context) error {
		calls++
		n, _, err := a.Get(tx)
		if err != nil {
			return err
		}
		if calls == 1 { // seen at commit
			sluice.Increment(ctx, a, 1)
		}
		return second(b.Set(tx, n*10))
	})
	require.NoError(t, err)
	wantValue(t, ctx, b, 20)
	assert.Equal(t, 2, calls, "calls")

	calls = 0
	err = s.Txn(ctx, func(tx context.Context) error {
		calls++
		n, _, err := a.Get(tx)
		assert.NoError(t, err)
		if calls == 1 { // seen by the next read, which must not show a torn state
			sluice.Increment(ctx, a, 1)
			sluice.Increment(ctx, b, 10)
			_, _, err := b.Get(tx)
			assert.ErrorIs(t, err, sluice.ErrConflict)
			assert.ErrorIs(t, second(c.Set(tx, 1)), sluice.ErrConflict)
			return nil // even if fn does not mind
		}
		m, _, err := b.Get(tx)
		assert.Equal(t, n*10, m, "a is %d and b", n)
		return err
	})
	require.NoError(t, err)
	assert.Equal(t, 2, calls, "calls")
	wantAbsent(t, ctx, c)

	// A swap that loses inside the transaction is fn's own affair.
	calls = 0
	err = s.Txn(ctx, func(tx context.Context) error {
		calls++
		return second(a.CompareAndSwap(tx, 999, 1))
	})
	require.ErrorIs(t, err, sluice.ErrConflict)
	assert.Equal(t, 1, calls, "calls")
}

func TestTxnEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ctx := newState(t, sluice.SharedStateConfig{})
		k := sluice.Key[int]("k")
		ctx, cancel := context.WithTimeout(ctx, 950*time.Millisecond)
		defer cancel()
		start := time.Now()
		err := s.Txn(ctx, func(tx context.Context) error { // always in conflict
			n, _, _ := k.Get(tx)
			sluice.Increment(ctx, k, 1)
			time.Sleep(100 * time.Millisecond)
			return second(k.Set(tx, n+100))
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		if d := time.Since(start); d != time.Second { // when fn returns for the tenth time
			t.Errorf("it took %v, want 1s", d)
		}
	})
}

func TestTxnInsideATxnJoinsIt(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	v := sluice.Must(s.View("v/", sluice.SharedStateConfig{}))
	a, b := sluice.Key[int]("a"), sluice.Key[int]("b")
	err := s.Txn(ctx, func(tx context.Context) error {
		a.Set(tx, 1)
		assert.NoError(t, s.Txn(tx, func(tx context.Context) error {
			wantValue(t, tx, a, 1)
			return second(sluice.Increment(tx, a, 1))
		}))
		wantValue(t, tx, a, 2)
		// A view of the same store joins too, by its own names.
		assert.NoError(t, v.Txn(tx, func(tx context.Context) error { return second(a.Set(tx, 5)) }))
		wantValue(t, tx, sluice.Key[int]("v/a"), 5)
		assert.NoError(t, second(b.Set(sluice.WithState(tx, sluice.Must(sluice.StateFrom(tx).View("w/", sluice.SharedStateConfig{}))), 6)))
		// An inner one that fails, however it does, takes its writes back.
		assert.ErrorIs(t, s.Txn(tx, func(tx context.Context) error {
			a.Set(tx, 99)
			b.Set(tx, 99)
			return errors.ErrUnsupported
		}), errors.ErrUnsupported)
		func() {
			defer func() { recover() }()
			sluice.StateFrom(tx).Txn(tx, func(tx context.Context) error {
				a.Delete(tx)
				panic("boom")
			})
		}()
		wantValue(t, tx, a, 2)
		wantAbsent(t, tx, b)
		wantAbsent(t, ctx, a)
		return nil
	})
	require.NoError(t, err)
	got := ""
	for e := range s.List("") {
		got += fmt.Sprintf("%s=%v ", e.Key, e.Value)
	}
	assert.Equal(t, "a=2 v/a=5 w/b=6 ", got)
	// Another store does not join.
	other, octx := newState(t, sluice.SharedStateConfig{})
	err = s.Txn(ctx, func(tx context.Context) error {
		assert.NoError(t, other.Txn(tx, func(tx context.Context) error { return second(a.Set(tx, 1)) }))
		return errors.ErrUnsupported
	})
	require.ErrorIs(t, err, errors.ErrUnsupported)
	wantValue(t, octx, a, 1)
}

func TestTxnMoneyIsKept(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s, ctx := newState(t, sluice.SharedStateConfig{})
	const accounts, each = 10, 100
	k := func(i int) sluice.Key[int] { return sluice.Key[int](fmt.Sprint("account/", i)) }
	for i := range accounts {
		k(i).Set(ctx, each)
	}
	var again, refused atomic.Int64
	short := errors.New("not enough")
	var wg sync.WaitGroup
	for g := range 6 {
		r := rand.New(rand.NewPCG(seed, uint64(g)))
		wg.Go(func() {
			for i := range 2000 {
				from, to, n := k(r.IntN(accounts)), k(r.IntN(accounts)), r.IntN(50)
				calls := 0
				move := func() error {
					return s.Txn(ctx, func(ctx context.Context) error {
						if calls++; calls > 1 {
							again.Add(1)
						}
						left, err := sluice.Increment(ctx, from, -n)
						if err != nil {
							return err
						}
						if left < 0 {
							return short
						}
						switch i % 100 {
						case 0:
							panic("in the middle")
						case 1:
							runtime.Goexit()
						}
						_, err = sluice.Increment(ctx, to, n)
						return err
					})
				}
				if i%100 < 2 {
					inGoroutine(func() { move() })
				} else if err := move(); errors.Is(err, short) {
					refused.Add(1)
				} else if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for range 500 {
				sum := 0
				if err := s.Txn(ctx, func(ctx context.Context) error {
					sum = 0
					for i := range accounts {
						n, _, err := k(i).Get(ctx)
						if err != nil {
							return err
						}
						if n < 0 {
							t.Errorf("account %d is %d", i, n)
						}
						sum += n
					}
					return nil
				}); err != nil || sum != accounts*each {
					t.Errorf("a transaction saw %d, %v; want %d", sum, err, accounts*each)
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for i := range accounts {
		n, _, _ := k(i).Get(ctx)
		sum += n
	}
	assert.Equal(t, accounts*each, sum, "in the end")
	t.Logf("%d runs again, %d refused", again.Load(), refused.Load())
	assert.NotZero(t, refused.Load(), "no transfer was refused: the test has not tried it")
}

// Keys that come and go together are never seen apart.
func TestTxnCreatesAndDeletesTogether(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	k := func(i int) sluice.Key[int] { return sluice.Key[int](fmt.Sprint("k", i)) }
	const keys = 16
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := s.Txn(ctx, func(ctx context.Context) error {
				for i := range keys {
					if n%2 == 1 {
						k(i).Delete(ctx)
					} else if _, err := k(i).Set(ctx, n); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Error(err)
				return
			}
			runtime.Gosched()
		}
	})
	there, absent := 0, 0
	for n := 0; n < 200_000 && (n < 20_000 || there == 0 || absent == 0); n++ {
		a, b := k(n%keys), k((n*7+3)%keys)
		var first, other int
		var errFirst, errOther error
		if err := s.Txn(ctx, func(ctx context.Context) error {
			first, _, errFirst = a.Get(ctx)
			other, _, errOther = b.Get(ctx)
			return nil
		}); err != nil {
			t.Error(err)
			break
		}
		if first != other || errors.Is(errFirst, sluice.ErrAbsent) != errors.Is(errOther, sluice.ErrAbsent) {
			t.Errorf("%s is %d, %v and %s is %d, %v at one instant", string(a), first, errFirst, string(b), other, errOther)
			break
		}
		if errFirst == nil {
			there++
		} else {
			absent++
		}
	}
	close(stop)
	wg.Wait()
	if there == 0 || absent == 0 {
		t.Errorf("seen %d times there and %d times absent: the test has not tried it", there, absent)
	}
}

// A function that uses its context from several goroutines.
func TestTxnMayUseSeveralGoroutines(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	err := s.Txn(ctx, func(ctx context.Context) error {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for range 100 {
					_, err := sluice.Increment(ctx, sluice.Key[int](fmt.Sprint(i%2)), 1)
					assert.NoError(t, err)
				}
			})
		}
		wg.Wait()
		return nil
	})
	require.NoError(t, err)
	wantValue(t, ctx, sluice.Key[int]("0"), 400)
	wantValue(t, ctx, sluice.Key[int]("1"), 400)
}

func TestTxnReadsRestoredValues(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	require.NoError(t, s.UnmarshalJSON([]byte(`{"keys":{"n":{"value":9007199254740993,"version":3},"s":{"value":"x","version":4}}}`)))
	err := s.Txn(ctx, func(ctx context.Context) error {
		if n, err := sluice.Increment(ctx, sluice.Key[int64]("n"), 1); n != 9007199254740994 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
		assert.ErrorIs(t, second(sluice.Increment(ctx, sluice.Key[int64]("s"), 1)), sluice.ErrWrongType)
		return second(sluice.Key[string]("s").CompareAndSwap(ctx, 4, "y"))
	})
	require.NoError(t, err)
	wantValue(t, ctx, sluice.Key[int64]("n"), 9007199254740994)
	wantValue(t, ctx, sluice.Key[string]("s"), "y")
}

// A view's bounds hold for what is written through it, whoever looked at the key before, and
// for nothing else.
func TestTxnKeepsTheBoundsOfViews(t *testing.T) {
	small := sluice.SharedStateConfig{MaxKeys: 1, MaxBytes: 1000}
	type test struct {
		s         *sluice.SharedState
		out, in   context.Context // of the transaction, and of a view in it
		inner     context.Context // of a view of the view, that is bounded no further
		transient context.Context // of another view of the same prefix, that is not bounded
	}
	big := string(make([]byte, 2000))
	for name, c := range map[string]struct {
		do   func(x test) error
		full bool
	}{
		"written": {func(x test) error {
			second(sluice.Key[int]("a").Set(x.in, 1))
			return second(sluice.Key[int]("b").Set(x.in, 1))
		}, true},
		"read outside before": {func(x test) error {
			sluice.Key[int]("v/a").Get(x.out)
			sluice.Key[int]("v/b").Get(x.out)
			second(sluice.Key[int]("a").Set(x.in, 1))
			return second(sluice.Key[int]("b").Set(x.in, 1))
		}, true},
		"written outside before": {func(x test) error {
			sluice.Key[int]("v/a").Set(x.out, 1)
			sluice.Key[int]("v/b").Set(x.out, 1)
			return second(sluice.Increment(x.in, sluice.Key[int]("b"), 1))
		}, true},
		"through a view in the view": {func(x test) error {
			sluice.Key[int]("v/w/a").Get(x.out)
			second(sluice.Key[int]("a").Set(x.inner, 1))
			return second(sluice.Key[int]("b").Set(x.inner, 1))
		}, true},
		"through two views": {func(x test) error {
			second(sluice.Key[int]("a").Set(x.transient, 1))
			second(sluice.Key[int]("a").Set(x.in, 1))
			return second(sluice.Key[int]("b").Set(x.transient, 1))
		}, true},
		"bytes, updated": {func(x test) error {
			sluice.Key[string]("v/a").Set(x.out, "small")
			return second(sluice.Key[string]("a").Update(x.in, func(string, bool) (string, error) { return big, nil }))
		}, true},
		"in an inner transaction": {func(x test) error {
			sluice.Key[int]("v/a").Get(x.out)
			sluice.Key[int]("v/b").Set(x.out, 1)
			return sluice.StateFrom(x.in).Txn(x.in, func(ctx context.Context) error { return second(sluice.Key[int]("a").Set(ctx, 1)) })
		}, true},
		"what goes elsewhere makes no room": {func(x test) error {
			for _, k := range []sluice.Key[int]{"v/there/1", "v/there/2"} {
				k.Delete(x.out)
			}
			return second(sluice.Key[int]("a").Set(x.in, 1))
		}, true},
		"taken back": {func(x test) error {
			sluice.Key[int]("v/a").Set(x.out, 1)
			sluice.StateFrom(x.in).Txn(x.in, func(ctx context.Context) error {
				second(sluice.Key[int]("a").Set(ctx, 1))
				second(sluice.Key[int]("b").Set(ctx, 1))
				return errors.New("no")
			})
			return second(sluice.Key[int]("v/b").Set(x.out, 1))
		}, false},
		"written outside, read inside": {func(x test) error {
			sluice.Key[int]("a").Get(x.in)
			sluice.Key[int]("b").Get(x.in)
			sluice.Key[string]("v/a").Set(x.out, big)
			return second(sluice.Key[int]("v/b").Set(x.out, 1))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, ctx := newState(t, sluice.SharedStateConfig{})
			if name == "what goes elsewhere makes no room" {
				for i := range 4 {
					sluice.Key[int](fmt.Sprint("v/there/", i)).Set(ctx, 1)
				}
			}
			before := string(sluice.Must(s.MarshalJSON()))
			err := s.Txn(ctx, func(ctx context.Context) error {
				v := sluice.Must(sluice.StateFrom(ctx).View("v/", small))
				return c.do(test{s, ctx, sluice.WithState(ctx, v), sluice.WithState(ctx, sluice.Must(v.View("w/", sluice.SharedStateConfig{}))),
					sluice.WithState(ctx, sluice.Must(sluice.StateFrom(ctx).View("v/", sluice.SharedStateConfig{})))})
			})
			if errors.Is(err, sluice.ErrFull) != c.full || err != nil && !c.full {
				t.Errorf("got %v, want ErrFull: %v", err, c.full)
			}
			if after := string(sluice.Must(s.MarshalJSON())); c.full && after != before {
				t.Errorf("a refused transaction left %s", after)
			}
		})
	}
}

// A view that a transaction has used lasts as long as that, whoever still refers to it.
func TestTxnOutlivesWhoeverMadeItsView(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{})
	n := sluice.Key[int]("n")
	collect := func() {
		// One that nobody refers to is collected, and so its cleanup ran.
		gone := make(chan struct{})
		func() {
			runtime.AddCleanup(sluice.Must(s.View("other/", sluice.SharedStateConfig{})), func(done chan struct{}) { close(done) }, gone)
		}()
		for range 2 {
			for again := true; again; {
				runtime.GC()
				select {
				case <-gone:
					again = false
				default:
					runtime.Gosched()
				}
			}
		}
	}
	use := map[string]func(ctx context.Context) error{
		"written": func(ctx context.Context) error { return second(n.Set(ctx, 1)) },
		"read":    func(ctx context.Context) error { _, _, err := sluice.Key[int]("absent").Get(ctx); return err },
		"counted": func(ctx context.Context) error { return second(sluice.Increment(ctx, n, 1)) },
	}
	for name, use := range use {
		t.Run(name, func(t *testing.T) {
			for outside := range 2 {
				if err := s.Txn(ctx, func(ctx context.Context) error {
					if outside == 1 {
						sluice.Key[int]("run/in/n").Get(ctx)
					}
					func() {
						v := sluice.Must(sluice.Must(sluice.StateFrom(ctx).View("run/", sluice.SharedStateConfig{})).View("in/", sluice.SharedStateConfig{}))
						if err := use(sluice.WithState(ctx, v)); err != nil && !errors.Is(err, sluice.ErrAbsent) {
							t.Error(err)
						}
						v.Close()
					}()
					collect()
					return second(sluice.Key[int]("last").Set(ctx, 1)) // looks at all keys once more
				}); err != nil {
					t.Errorf("nobody closed anything, and the transaction fails: %v", err)
				}
			}
			late := collecting{ctx, collect}
			assert.NoError(t, sluice.Must(s.View("run/", sluice.SharedStateConfig{})).Txn(late, func(ctx context.Context) error {
				return second(n.Set(ctx, 1))
			}), "the transaction of a view that nobody else refers to fails")
		})
	}
}

// collecting is a context that collects garbage whenever it is asked whether it has ended.
type collecting struct {
	context.Context
	collect func()
}

func (c collecting) Err() error {
	c.collect()
	return c.Context.Err()
}

// What a transaction has read is bounded too: one that never ends cannot fill the memory.
func TestTxnReadsAreBounded(t *testing.T) {
	s, ctx := newState(t, sluice.SharedStateConfig{MaxKeys: 1, MaxBytes: 1 << 20})
	err := s.Txn(ctx, func(ctx context.Context) error {
		long := strings.Repeat("k", 1<<20)
		for i := 0; ; i++ {
			if _, _, err := sluice.Key[int](fmt.Sprint(long, i)).Get(ctx); !errors.Is(err, sluice.ErrAbsent) {
				if i < 10 || i > 64 {
					t.Errorf("refused after %d keys of a megabyte, want 64 at most", i)
				}
				return err
			}
		}
	})
	require.ErrorIs(t, err, sluice.ErrFull)
}

// What can never take effect ends: a function that writes, past its transaction or update,
// what that has used.
func TestSelfConflictsEnd(t *testing.T) {
	const tries = 10_000 // as the comments of Update and Txn say
	s, ctx := newState(t, sluice.SharedStateConfig{})
	k, other := sluice.Key[int]("k"), sluice.Key[int]("other")
	runs := 0
	add := func(old int, _ bool) (int, error) { return old + 1, nil }
	for name, c := range map[string]struct {
		do   func() error
		want int // of k: how often it was written past what was given up
	}{
		"an update that sets its key": {func() error {
			return second(k.Update(ctx, func(old int, _ bool) (int, error) {
				runs++
				return 0, second(k.Set(ctx, old+1))
			}))
		}, tries},
		"an update in an update": {func() error {
			return second(k.Update(ctx, func(old int, _ bool) (int, error) {
				runs++
				return k.Update(ctx, add)
			}))
		}, tries},
		"an update in an update in an update": {func() error {
			return second(k.Update(ctx, func(int, bool) (int, error) {
				return k.Update(ctx, func(int, bool) (int, error) {
					runs++
					return k.Update(ctx, add)
				})
			}))
		}, tries},
		"an update in a transaction, of both": {func() error {
			return s.Txn(ctx, func(in context.Context) error {
				return second(k.Update(in, func(old int, _ bool) (int, error) {
					runs++
					return k.Update(in, add)
				}))
			})
		}, 0}, // nothing of the transaction
		"an increment past the transaction": {func() error {
			return s.Txn(ctx, func(in context.Context) error {
				runs++
				k.Get(in)
				if _, err := sluice.Increment(ctx, k, 1); err != nil {
					return err
				}
				return second(other.Set(in, 1))
			})
		}, tries},
		"an update past the transaction": {func() error {
			return s.Txn(ctx, func(in context.Context) error {
				runs++
				if _, err := k.Update(in, add); err != nil {
					return err
				}
				return second(k.Update(ctx, add))
			})
		}, tries},
		"a transaction past the transaction": {func() error {
			return s.Txn(ctx, func(in context.Context) error {
				runs++
				if _, err := sluice.Increment(in, k, 1); err != nil {
					return err
				}
				return s.Txn(ctx, func(ctx context.Context) error { return second(sluice.Increment(ctx, k, 1)) })
			})
		}, tries},
		"a transaction that reads on after its key was written": {func() error {
			return s.Txn(ctx, func(in context.Context) error {
				runs++
				k.Get(in)
				k.Set(ctx, runs)
				other.Get(in)
				return nil
			})
		}, tries},
		"a transaction in an update": {func() error {
			return second(k.Update(ctx, func(int, bool) (int, error) {
				runs++
				return 0, s.Txn(ctx, func(in context.Context) error { return second(sluice.Increment(in, k, 1)) })
			}))
		}, tries},
	} {
		s.Clear()
		runs = 0
		err := c.do()
		if !errors.Is(err, sluice.ErrConflict) || !strings.Contains(err.Error(), "given up after 10,000 tries") {
			t.Errorf("%s: got %v, want ErrConflict after so many tries", name, err)
		}
		assert.Equal(t, tries, runs, "%s: ran %d times", name, runs)
		if v, _, err := k.Get(ctx); v != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("%s: the key is %d, %v; want %d", name, v, err, c.want)
		}
	}
	wantAbsent(t, ctx, other)
}
