package remote_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/engine"
	"github.com/stretchr/testify/require"
)

// odd is an engine whose store does something else where a test says so.
type odd struct {
	*engine.Memory
	commit func(ctx context.Context, op engine.OpID, changes []engine.Change) ([]engine.Revision, error)
	read   func(ctx context.Context, key string) (engine.Record, error)
	add    func() error  // before an Add, which it may refuse
	cut    chan struct{} // ends what follows
	asked  atomic.Int64  // reads and commits
}

func (o *odd) Store() engine.Store { return storeOf{o} }

type storeOf struct{ o *odd }

func (s storeOf) inner() engine.Store { return s.o.Memory.Store() }

func (s storeOf) Read(ctx context.Context, key string) (engine.Record, error) {
	s.o.asked.Add(1)
	if s.o.read != nil {
		return s.o.read(ctx, key)
	}
	return s.inner().Read(ctx, key)
}

func (s storeOf) Write(ctx context.Context, key string, was engine.Revision, value []byte, ttl time.Duration) (engine.Revision, error) {
	return s.inner().Write(ctx, key, was, value, ttl)
}

func (s storeOf) Erase(ctx context.Context, key string, was engine.Revision) error {
	return s.inner().Erase(ctx, key, was)
}

func (s storeOf) Fetch(ctx context.Context, keys ...string) ([]engine.Record, error) {
	s.o.asked.Add(1)
	return s.inner().Fetch(ctx, keys...)
}

func (s storeOf) Commit(ctx context.Context, op engine.OpID, changes ...engine.Change) ([]engine.Revision, error) {
	s.o.asked.Add(1)
	if s.o.commit != nil {
		return s.o.commit(ctx, op, changes)
	}
	return s.inner().Commit(ctx, op, changes...)
}

func (s storeOf) Add(ctx context.Context, op engine.OpID, key string, delta int64, within *engine.Bound, ttl time.Duration) (int64, int64, error) {
	if s.o.add != nil {
		if err := s.o.add(); err != nil {
			return 0, 0, err
		}
	}
	return s.inner().Add(ctx, op, key, delta, within, ttl)
}

func (s storeOf) Follow(ctx context.Context, prefix string) iter.Seq2[engine.Record, error] {
	return func(yield func(engine.Record, error) bool) {
		if !strings.Contains(prefix, "-state/") {
			s.inner().Follow(ctx, prefix)(yield)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			select {
			case <-s.o.cut:
				cancel()
			case <-ctx.Done():
			}
		}()
		s.inner().Follow(ctx, prefix)(yield)
	}
}

// newState is one at an odd engine, and a context for its keys.
func newState(t *testing.T, c sluice.FleetStateConfig) (*odd, *sluice.SharedState, context.Context) {
	t.Helper()
	o := &odd{Memory: sluice.Must(engine.NewMemory(engine.MemoryConfig{})), cut: make(chan struct{})}
	f := sluice.Must(sluice.NewFleet(sluice.FleetConfig{Engine: o}))
	s, err := sluice.NewFleetState(f, c)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.NoError(t, f.Close(context.Background()))
		require.NoError(t, o.Memory.Close())
	})
	return o, s, sluice.WithState(context.Background(), s)
}

func second[T any](_ T, err error) error { return err }

// A request that is on its way still when its repetition is refused may take effect later: a key that was to be absent
// may be so again. One that asked for a revision which is no more never will.
func TestRemote_ARequestThatIsOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, _, ctx := newState(t, sluice.FleetStateConfig{})
		k := sluice.Key[string]("k")
		var late func() error
		delay := func() {
			late = nil
			o.commit = func(_ context.Context, op engine.OpID, changes []engine.Change) ([]engine.Revision, error) {
				o.commit = nil
				late = func() error { return second(o.Memory.Store().Commit(context.Background(), op, changes...)) }
				return nil, errors.New("cut off")
			}
		}
		other := func(v string) { require.NoError(t, second(k.Set(ctx, v))) }

		delay()
		go func() {
			time.Sleep(time.Microsecond)
			other("theirs")
		}()
		_, err := k.CompareAndSwap(ctx, 0, "mine")
		require.ErrorIs(t, err, sluice.ErrUnsure, "not a conflict")
		require.NoError(t, k.Delete(ctx))
		require.NoError(t, late())
		v, version, err := k.Get(ctx)
		require.NoError(t, err)
		require.Equal(t, "mine", v, "so it did take effect")

		delay()
		go func() {
			time.Sleep(time.Microsecond)
			other("theirs")
		}()
		_, err = k.CompareAndSwap(ctx, version, "mine")
		require.ErrorIs(t, err, sluice.ErrConflict)
		require.NotErrorIs(t, err, sluice.ErrUnsure)
		require.ErrorIs(t, late(), engine.ErrConflict, "it never does")

		delay() // what is repeated has taken effect once when it arrives at last
		require.NoError(t, second(k.Set(ctx, "mine")))
		other("theirs")
		require.NoError(t, late())
		v, _, err = k.Get(ctx)
		require.NoError(t, err)
		require.Equal(t, "theirs", v)
	})
}

// An increment that an engine refuses, as it was away, is tried by reading and writing. If others come between it is an
// addition again, which nobody comes between. Its sum is told only where it is sure.
func TestRemote_AnIncrementThatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, _, ctx := newState(t, sluice.FleetStateConfig{})
		n := sluice.Key[int64]("n")
		refuse := func() { o.add = func() error { o.add = nil; return engine.ErrRefused } }
		o.commit = func(_ context.Context, op engine.OpID, changes []engine.Change) ([]engine.Revision, error) {
			o.commit = nil
			require.NoError(t, second(sluice.Increment(ctx, n, 10)))
			return o.Memory.Store().Commit(context.Background(), op, changes...)
		}
		refuse()
		before := o.asked.Load()
		sum, err := sluice.Increment(ctx, n, 1)
		require.NoError(t, err)
		require.EqualValues(t, 11, sum)
		require.EqualValues(t, 2, o.asked.Load()-before, "a read and a commit, of which others came between")

		refuse()
		o.commit = func(context.Context, engine.OpID, []engine.Change) ([]engine.Revision, error) {
			return nil, errors.New("cut off")
		}
		sum, err = sluice.Increment(ctx, n, 1)
		require.ErrorIs(t, err, sluice.ErrUnsure)
		require.Zero(t, sum)
	})
}

// An engine that hangs, and heeds no context, is left: an operation is over with two budgets, and none is asked for while
// many are left.
func TestRemote_AnEngineThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, _, ctx := newState(t, sluice.FleetStateConfig{})
		k := sluice.Key[int]("k")
		goOn := make(chan struct{})
		o.read = func(context.Context, string) (engine.Record, error) {
			<-goOn
			return engine.Record{}, engine.ErrAbsent
		}
		for range 16 {
			began := time.Now()
			_, _, err := k.Get(ctx)
			require.ErrorIs(t, err, engine.ErrAway)
			require.ErrorContains(t, err, "no answer within 100ms")
			require.Less(t, time.Since(began), 210*time.Millisecond)
		}
		asked := o.asked.Load()
		require.EqualValues(t, 32, asked)
		_, _, err := k.Get(ctx)
		require.ErrorContains(t, err, "has not returned from 32 earlier calls")
		require.Equal(t, asked, o.asked.Load())
		close(goOn)
		synctest.Wait()
		_, _, err = k.Get(ctx)
		require.ErrorIs(t, err, sluice.ErrAbsent)
	})
}

// Whoever was cut off learns what is gone, what is new and what is another value, and of no other key.
func TestRemote_AWatchThatIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, s, ctx := newState(t, sluice.FleetStateConfig{})
		for _, k := range []sluice.Key[int]{"changes", "goes", "stays"} {
			require.NoError(t, second(k.Set(ctx, 1)))
		}
		var got []string
		var versions []uint64
		wctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for e := range s.Watch(wctx, "") {
				raw, _ := e.Value.(json.RawMessage)
				got, versions = append(got, fmt.Sprintf("%s=%s", e.Key, raw)), append(versions, e.Version)
			}
		}()
		synctest.Wait()
		require.Equal(t, []string{"changes=1", "goes=1", "stays=1"}, got)
		for range 3 {
			got = nil
			o.cut <- struct{}{}
			require.NoError(t, second(sluice.Key[int]("changes").Set(ctx, 2)))
			require.NoError(t, sluice.Key[int]("goes").Delete(ctx))
			require.NoError(t, second(sluice.Key[int]("new").Set(ctx, 1)))
			time.Sleep(time.Second)
			synctest.Wait()
			require.Equal(t, []string{"changes=2", "goes=", "new=1"}, got)
			got = nil
			require.NoError(t, second(sluice.Key[int]("goes").Set(ctx, 1)))
			require.NoError(t, sluice.Key[int]("new").Delete(ctx))
			synctest.Wait()
			require.Len(t, got, 2, "and of the changes from then on")
		}
		cancel()
		<-ended
		require.NotZero(t, versions)
	})
}

// Each write says how many trips it takes: one, and one more to learn which lifetime is to be kept.
func TestRemote_Trips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, s, ctx := newState(t, sluice.FleetStateConfig{})
		k, n := sluice.Key[string]("k"), sluice.Key[int]("n")
		var version uint64
		for _, tt := range []struct {
			what string
			want int64
			do   func() error
		}{
			{"Set", 1, func() (err error) { version, err = k.Set(ctx, "a", sluice.TTL(time.Hour)); return err }},
			{"Get", 1, func() error { _, _, err := k.Get(ctx); return err }},
			{"CompareAndSwap", 2, func() (err error) { version, err = k.CompareAndSwap(ctx, version, "b"); return err }},
			{"CompareAndSwap with a lifetime", 1, func() (err error) {
				version, err = k.CompareAndSwap(ctx, version, "b", sluice.TTL(time.Hour))
				return err
			}},
			{"CompareAndSwap of an absent key", 1, func() error { return second(sluice.Key[int]("x").CompareAndSwap(ctx, 0, 1)) }},
			{"Update", 2, func() error {
				return second(k.Update(ctx, func(string, bool) (string, error) { return "c", nil }))
			}},
			{"Increment", 0, func() error { return second(sluice.Increment(ctx, n, 1)) }}, // an Add
			{"Increment with a lifetime", 2, func() error { return second(sluice.Increment(ctx, n, 1, sluice.TTL(time.Hour))) }},
			{"Increment of another number", 2, func() error { return second(sluice.Increment(ctx, sluice.Key[float64]("f"), 0.5)) }},
			{"Txn", 3, func() error {
				return s.Txn(ctx, func(ctx context.Context) error {
					if err := second(sluice.Increment(ctx, n, 1)); err != nil {
						return err
					}
					return second(k.Set(ctx, "d"))
				})
			}},
			{"Delete", 1, func() error { return k.Delete(ctx) }},
		} {
			before := o.asked.Load()
			require.NoError(t, tt.do(), tt.what)
			require.Equal(t, tt.want, o.asked.Load()-before, tt.what)
		}
	})
}

// A write in place of a value keeps the lifetime, to the instant where trips take no time.
func TestRemote_LifetimesAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, ctx := newState(t, sluice.FleetStateConfig{})
		for name, write := range map[string]func(k sluice.Key[int]) error{
			"CompareAndSwap": func(k sluice.Key[int]) error {
				_, version, err := k.Get(ctx)
				if err != nil {
					return err
				}
				return second(k.CompareAndSwap(ctx, version, 7))
			},
			"Update": func(k sluice.Key[int]) error {
				return second(k.Update(ctx, func(int, bool) (int, error) { return 7, nil }))
			},
			"Increment": func(k sluice.Key[int]) error { return second(sluice.Increment(ctx, k, 6)) },
			"Txn": func(k sluice.Key[int]) error {
				return s.Txn(ctx, func(ctx context.Context) error {
					err := second(sluice.Increment(ctx, k, 6))
					time.Sleep(time.Second)
					return err
				})
			},
		} {
			k := sluice.Key[int](name)
			began := time.Now()
			require.NoError(t, second(k.Set(ctx, 1, sluice.TTL(10*time.Second))))
			time.Sleep(3 * time.Second)
			require.NoError(t, write(k), name)
			time.Sleep(10*time.Second - time.Since(began) - 1)
			v, _, err := k.Get(ctx)
			require.NoError(t, err, name)
			require.Equal(t, 7, v)
			time.Sleep(time.Nanosecond)
			_, _, err = k.Get(ctx)
			require.ErrorIs(t, err, sluice.ErrAbsent, name)
		}
	})
}

// What an engine cannot keep is refused with words, and so is what nobody can.
func TestRemote_Limits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, ctx := newState(t, sluice.FleetStateConfig{})
		long := sluice.Key[string](strings.Repeat("k", 500))
		require.ErrorIs(t, second(long.Set(ctx, "x")), sluice.ErrFull)
		require.ErrorContains(t, second(long.Set(ctx, "x")), "the key has 500 bytes: must have at most 486 in this Fleet")
		require.ErrorIs(t, second(long.CompareAndSwap(ctx, 1, "x")), sluice.ErrConflict)
		require.NoError(t, long.Delete(ctx))
		_, _, err := long.Get(ctx)
		require.ErrorIs(t, err, sluice.ErrAbsent)
		require.ErrorContains(t, second(sluice.Key[string]("k").Set(ctx, string(make([]byte, 2<<20)))), "must have at most 1048576 at this engine")
		require.EqualError(t, second(sluice.Key[func()]("f").Set(ctx, func() {})), `sluice: shared state key "f": json: unsupported type: func()`)
		runs := 0
		err = s.Txn(ctx, func(ctx context.Context) error {
			runs++
			for i := range 300 {
				if err := second(sluice.Increment(ctx, sluice.Key[int](fmt.Sprint(i)), 1)); err != nil {
					return err
				}
			}
			return nil
		})
		require.ErrorIs(t, err, sluice.ErrFull)
		require.Equal(t, 1, runs)
		require.ErrorIs(t, s.UnmarshalJSON([]byte(`{"keys":{}}`)), errors.ErrUnsupported)
		for range s.List("") {
			t.Error("something was written")
		}
		// A function in its own way ends, as in the process.
		k := sluice.Key[int]("k")
		runs = 0
		began := time.Now()
		err = s.Txn(ctx, func(tx context.Context) error {
			runs++
			_, _, _ = k.Get(tx)
			require.NoError(t, second(k.Set(ctx, 1)))
			return second(k.Set(tx, 2))
		})
		require.ErrorIs(t, err, sluice.ErrConflict)
		require.ErrorContains(t, err, "given up after 1,000 tries")
		require.Equal(t, 1000, runs)
		require.Greater(t, time.Since(began), 10*time.Second, "with pauses")
	})
}

// What a transaction has read and not written has not changed when it commits.
func TestRemote_TxnWithASkew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, ctx := newState(t, sluice.FleetStateConfig{})
		a, b := sluice.Key[int]("a"), sluice.Key[int]("b")
		for _, there := range []bool{false, true} {
			runs := 0
			require.NoError(t, s.Txn(ctx, func(tx context.Context) error {
				runs++
				v, _, err := a.Get(tx)
				if err != nil && !errors.Is(err, sluice.ErrAbsent) {
					return err
				}
				if err := second(b.Set(tx, v+1)); err != nil {
					return err
				}
				if runs == 1 {
					return second(sluice.Increment(ctx, a, 5))
				}
				return nil
			}))
			require.Equal(t, 2, runs, there)
			v, _, err := b.Get(ctx)
			require.NoError(t, err)
			w, _, err := a.Get(ctx)
			require.NoError(t, err)
			require.Equal(t, w+1, v)
		}
	})
}

// A number that is none of the type is left as it is, and nothing is written through what was closed meanwhile.
func TestRemote_NothingIsChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, ctx := newState(t, sluice.FleetStateConfig{})
		require.NoError(t, second(sluice.Key[int]("n").Set(ctx, -5)))
		require.ErrorIs(t, second(sluice.Increment(ctx, sluice.Key[uint64]("n"), 3)), sluice.ErrWrongType)
		require.NoError(t, second(sluice.Key[int64]("n").Set(ctx, 1<<63-1)))
		require.ErrorIs(t, second(sluice.Increment(ctx, sluice.Key[int64]("n"), 1)), sluice.ErrOverflow)
		sum, err := sluice.Increment(ctx, sluice.Key[uint64]("n"), 1)
		require.NoError(t, err)
		require.Equal(t, uint64(1<<63), sum)

		v := sluice.Must(s.View("v/", sluice.SharedStateConfig{}))
		_, err = sluice.Key[int]("k").Update(sluice.WithState(ctx, v), func(int, bool) (int, error) {
			require.NoError(t, v.Close())
			return 1, nil
		})
		require.ErrorIs(t, err, sluice.ErrNoState)
		_, _, err = sluice.Key[int]("v/k").Get(ctx)
		require.ErrorIs(t, err, sluice.ErrAbsent)
	})
}

// A Clear takes away what is under a view, however much, and nothing else.
func TestRemote_ListAndClear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, ctx := newState(t, sluice.FleetStateConfig{})
		v := sluice.Must(s.View("v/", sluice.SharedStateConfig{}))
		in := sluice.WithState(ctx, v)
		for i := range 600 {
			require.NoError(t, second(sluice.Key[int](fmt.Sprintf("%03d", i)).Set(in, i)))
		}
		require.NoError(t, second(sluice.Key[int]("w").Set(ctx, 1)))
		n := 0
		for e := range v.List("") {
			require.Equal(t, fmt.Sprintf("%03d", n), e.Key)
			require.Equal(t, json.RawMessage(fmt.Sprint(n)), e.Value)
			n++
		}
		require.Equal(t, 600, n)
		v.Clear()
		for range v.List("") {
			t.Error("something is left")
		}
		data, err := s.MarshalJSON()
		require.NoError(t, err)
		require.JSONEq(t, `{"version":601,"keys":{"w":{"value":1,"version":601}}}`, string(data))
		require.NoError(t, v.Close())
		require.ErrorIs(t, second(sluice.Key[int]("x").Set(in, 1)), sluice.ErrNoState)
	})
}

// Values are kept as Marshal says, numbers as JSON.
func TestRemote_Codec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turned := func(b []byte) []byte {
			out := bytes.Clone(b)
			for i := range out {
				out[i] ^= 0xff
			}
			return out
		}
		o, s, ctx := newState(t, sluice.FleetStateConfig{
			Marshal:   func(v any) ([]byte, error) { b, err := json.Marshal(v); return turned(b), err },
			Unmarshal: func(b []byte, v any) error { return json.Unmarshal(turned(b), v) },
		})
		type pair struct{ A, B string }
		k, n := sluice.Key[pair]("k"), sluice.Key[int]("n")
		require.NoError(t, second(k.Set(ctx, pair{"a", "b"})))
		require.NoError(t, second(n.Set(ctx, 1)))
		before := o.asked.Load()
		require.NoError(t, second(sluice.Increment(ctx, n, 1)))
		require.Equal(t, before, o.asked.Load(), "the engine adds to it")
		v, _, err := k.Get(ctx)
		require.NoError(t, err)
		require.Equal(t, pair{"a", "b"}, v)
		require.NoError(t, second(k.Update(ctx, func(p pair, _ bool) (pair, error) { p.A = "c"; return p, nil })))
		data, err := s.MarshalJSON()
		require.NoError(t, err)
		require.JSONEq(t, `{"version":4,"keys":{"k":{"value":{"A":"c","B":"b"},"version":4},"n":{"value":2,"version":3}}}`, string(data))
	})
}
