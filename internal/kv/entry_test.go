package kv

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newCounter is a store with one number, 1.
func newCounter(t *testing.T) (*Store, *Scope, *Box, *entry) {
	s, root := newTest(math.MaxInt, math.MaxInt)
	num := s.NumBox(number{}, Int64)
	_, _, c := s.Add(root, "n", num, 1, Keep)
	require.Equal(t, OK, c)
	e, _ := s.find(root, "n")
	return s, root, num, e
}

// isShut reports whether whoever writes the entry must hold the mutex of its shard.
func (e *entry) isShut() bool { return e.word.Load()&shut != 0 }

// A write that has read the entry before something happened to it, and comes to write it after that,
// must not.
func TestFastWritesAreNotLate(t *testing.T) {
	for name, happens := range map[string]func(s *Store, root *Scope, num *Box, e *entry){
		"an addition":    func(s *Store, root *Scope, num *Box, _ *entry) { s.Add(root, "n", num, 1, Keep) },
		"nothing in sum": func(s *Store, root *Scope, num *Box, _ *entry) { s.Add(root, "n", num, 0, Keep) },
		"a far addition": func(s *Store, root *Scope, num *Box, _ *entry) { s.Add(root, "n", num, 1<<40, Keep) },
		"another type":   func(s *Store, root *Scope, _ *Box, _ *entry) { s.Put(root, "n", Cond{}, val("x"), Keep) },
		"the same value": func(s *Store, root *Scope, num *Box, _ *entry) { s.Put(root, "n", Cond{}, Value{num, 1}, Keep) },
		"a lifetime": func(s *Store, root *Scope, num *Box, _ *entry) {
			s.Put(root, "n", Cond{}, Value{num, 1}, Life(1e9))
		},
		"a deletion":      func(s *Store, root *Scope, _ *Box, _ *entry) { s.Delete(root, "n", Cond{}) },
		"a commit begins": func(_ *Store, _ *Scope, _ *Box, e *entry) { e.lock() },
		"a commit": func(s *Store, root *Scope, num *Box, _ *entry) {
			s.Commit([]Op{{Scope: root, Key: "n", Kind: Write, Value: Value{num, 1}}})
		},
		"a snapshot": func(s *Store, root *Scope, _ *Box, _ *entry) { s.Snapshot(root) },
		"a restored one": func(s *Store, root *Scope, num *Box, _ *entry) {
			s.Replace(root, []Entry{{Key: "n", Value: Value{num, 1}, Version: 1 << 50}}, 1<<50)
		},
		"a watch": func(s *Store, root *Scope, _ *Box, _ *entry) {
			s.Watch(context.Background(), root, "n", func(Entry, int) bool { return false })
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, root, num, e := newCounter(t)
			w := e.word.Load()
			require.Zero(t, w&(locked|dead|shut), "a write needs the mutex")
			happens(s, root, num, e)
			assert.False(t, e.tryWrite(w, num, Value{num, 2}), "the number was written by its growth")
			assert.False(t, e.tryWrite(w, num, Value{num, 1 << 40}), "and under the lock bit")
			s.Close()
		})
	}
}

// The word of an entry says a little of its growth and of its writes; the rest is elsewhere.
func TestNumbersOutgrowTheWord(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	const edge = 1 << (64 - growthAt - 1)
	for range 200 {
		s, root, num, e := newCounter(t)
		if left := uint64(r.IntN(8)); r.IntN(2) == 0 { // so many writes before the word has no more room
			w := e.word.Load()
			e.base.Store(e.version(w) - (writes/step - left))
			e.word.Store(w&^writes | (writes/step-left)*step)
		}
		want, version := int64(1), uint64(1)
		for range 40 {
			d := []int64{1, -1, 0, edge, -edge, edge - 1, 1 - edge, r.Int64N(2*edge) - edge, r.Int64()>>16 - 1<<46}[r.IntN(9)]
			var got uint64
			var c Code
			if was := want; r.IntN(3) == 0 {
				want += d
				got, c = s.Put(root, "n", Cond{Must: true, Was: version}, Value{num, uint64(want)}, Keep)
				require.Equal(t, version+1, got, "version after %d, %d", was, d)
			} else {
				want += d
				var sum uint64
				sum, got, c = s.Add(root, "n", num, uint64(d), Keep)
				require.Equal(t, want, int64(sum), "%d and %d", was, d)
			}
			require.Equal(t, OK, c)
			version++
			require.Equal(t, version, got, "version")
			v, got := s.Get(root, "n")
			require.Equal(t, want, int64(v.Bits), "value")
			require.Equal(t, version, got, "version")
		}
		checkShards(t, s)
	}
}

// Numbers of all kinds are kept as what they were and how far they are from that.
func TestNumbersOfAllKindsGrow(t *testing.T) {
	for _, c := range []struct {
		kind          Num
		start, d, sum uint64
	}{
		{Int64, math.MaxInt64 - 5, 5, math.MaxInt64},
		{Int64, 1 << 63, 3, 1<<63 + 3},
		{Int64, 3, ^uint64(4), ^uint64(1)}, // 3 - 5 = -2
		{Uint64, 0, math.MaxUint64, math.MaxUint64},
		{Uint64, 1<<63 - 1, 2, 1<<63 + 1},
		{Float64, math.Float64bits(1), math.Float64bits(0.5), math.Float64bits(1.5)},
		{Float64, math.Float64bits(1), math.Float64bits(1e-16), math.Float64bits(1)},
		{Float64, math.Float64bits(1), math.Float64bits(0x1p-52), math.Float64bits(1 + 0x1p-52)},
		{Float64, math.Float64bits(1), math.Float64bits(-1), 0},
	} {
		s, root := newTest(math.MaxInt, math.MaxInt)
		box := s.NumBox(number{}, c.kind)
		s.Put(root, "n", Cond{}, Value{box, c.start}, Keep)
		sum, version, code := s.Add(root, "n", box, c.d, Keep)
		require.Equal(t, OK, code, "%+v", c)
		assert.Equal(t, c.sum, sum, "%+v", c)
		assert.Equal(t, uint64(2), version, "%+v", c)
		v, _ := s.Get(root, "n")
		assert.Equal(t, c.sum, v.Bits, "%+v", c)
	}
}

// An entry is shut while somebody watches its key, and no longer than until the next write after that
// or after a snapshot.
func TestEntriesAreOpenedAgain(t *testing.T) {
	s, root, num, e := newCounter(t)
	add := func() {
		t.Helper()
		_, _, c := s.Add(root, "n", num, 1, Keep)
		require.Equal(t, OK, c)
	}
	s.Add(root, "other", num, 1, Keep)
	other, _ := s.find(root, "other")
	assert.False(t, e.isShut(), "a new entry")
	s.Snapshot(s.Nest(root, "other", math.MaxInt, math.MaxInt))
	assert.False(t, e.isShut(), "an entry that a snapshot was not of")
	assert.True(t, other.isShut(), "one that it was of")
	s.Snapshot(root)
	assert.True(t, e.isShut(), "after a snapshot")
	add()
	assert.False(t, e.isShut(), "after the next write")
	yields := 0
	s.Watch(context.Background(), root, "n", func(got Entry, lost int) bool {
		yields++
		assert.Equal(t, Value{num, uint64(1 + yields)}, got.Value, "the watch yields")
		assert.Zero(t, lost)
		assert.True(t, e.isShut(), "an entry that is watched")
		if yields == 1 {
			add()
			assert.True(t, e.isShut(), "and was written")
			_, c := s.Put(root, "n", Cond{}, Value{num, 4}, Keep)
			assert.Equal(t, OK, c)
			assert.True(t, e.isShut(), "and again")
			s.Add(root, "n2", num, 1, Keep)
			made, _ := s.find(root, "n2")
			assert.True(t, made.isShut(), "one made while it is watched")
			s.Add(root, "other", num, 1, Keep)
			assert.False(t, other.isShut(), "one that nobody watches")
			s.Commit([]Op{{Scope: root, Key: "n", Kind: Write, Value: Value{num, 5}}, {Scope: root, Key: "n3", Kind: Write, Value: Value{num, 1}}})
			made, _ = s.find(root, "n3")
			assert.True(t, made.isShut() && e.isShut(), "those of a commit")
		}
		return yields < 3
	})
	assert.True(t, e.isShut(), "until the first write after the watch")
	s.Put(root, "n", Cond{Must: true, Was: 99}, Value{num, 1}, Keep)
	assert.True(t, e.isShut(), "one that does not happen does not count")
	add()
	assert.False(t, e.isShut(), "after that")
	checkShards(t, s)
}

// A snapshot is of one instant: of numbers that are counted up in turn, none is ahead of those
// before it. Nothing that is counted meanwhile is lost.
func TestSnapshotsAmongFastWrites(t *testing.T) {
	s, root := newTest(math.MaxInt, math.MaxInt)
	num := s.NumBox(number{}, Int64)
	var keys []string
	for i := range 8 {
		keys = append(keys, fmt.Sprint(i))
		s.Add(root, keys[i], num, 0, Keep)
	}
	var wg sync.WaitGroup
	var all atomic.Uint64
	stop := make(chan struct{})
	for by := range 2 {
		wg.Go(func() {
			for i := by; ; i += 2 {
				d := uint64(1)
				if i%3 == 0 {
					d = 1 << 20
				}
				all.Add(d)
				for _, k := range keys {
					s.Add(root, k, num, d, Keep)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range 1000 {
		list, highest := s.Snapshot(root)
		require.Len(t, list, len(keys))
		for i, e := range list {
			require.LessOrEqual(t, e.Version, highest)
			if i > 0 {
				require.LessOrEqual(t, e.Version, list[i-1].Version, "number %d is ahead", i)
				require.GreaterOrEqual(t, e.Version+2, list[i-1].Version, "number %d is behind", i)
			}
		}
	}
	close(stop)
	wg.Wait()
	for _, k := range keys {
		v, _ := s.Get(root, k)
		assert.Equal(t, all.Load(), v.Bits, "number %s", k)
	}
}

// A watch that begins among writes that need no mutex tells every change after its first entries.
func TestWatchesBeginAmongFastWrites(t *testing.T) {
	s, root, num, _ := newCounter(t)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				s.Add(root, "n", num, 1, Keep)
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range 20 {
		var last uint64
		n := 0
		s.Watch(context.Background(), root, "n", func(e Entry, lost int) bool {
			require.Equal(t, e.Version, e.Value.Bits, "the version of each number is")
			if last != 0 {
				require.Equal(t, last+uint64(lost)+1, e.Version, "after %d and %d lost comes", last, lost)
			}
			last = e.Version
			n++
			return n < 10
		})
	}
	close(stop)
	wg.Wait()
	v, version := s.Get(root, "n")
	assert.Equal(t, version, v.Bits)
}

// What an addition reads of two instants is not taken for an overflow.
func TestSumsAreOfOneInstant(t *testing.T) {
	s, root, num, _ := newCounter(t)
	const most = 1<<(63-growthAt) - 1
	put := func(v int64) { s.Put(root, "n", Cond{}, Value{num, uint64(v)}, Keep) }
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			put(1 << 40) // is far
			put(0)       // is far
			put(most)    // is near
			put(math.MaxInt64 - most)
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for i := range 150_000 {
		if _, _, c := s.Add(root, "n", num, uint64(1-i%2*2), Keep); !assert.Equal(t, OK, c) {
			break
		}
	}
	close(stop)
	wg.Wait()
}

// A number whose lifetime is over is none, even before it is swept.
func TestFastWritesLeaveExpiredEntriesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, root := newTest(math.MaxInt, math.MaxInt)
		num := s.NumBox(number{}, Int64)
		for _, key := range []string{"added", "set", "swapped", "read"} {
			s.Put(root, key, Cond{}, Value{num, 7}, Life(time.Second))
		}
		for i := range s.shards { // as if the sweeps were late
			if s.shards[i].armed != 0 && s.shards[i].timer.Stop() {
				s.timers.Done()
			}
		}
		time.Sleep(time.Second - 1)
		sum, version, c := s.Add(root, "added", num, 1, Keep)
		assert.Equal(t, []any{uint64(8), uint64(2), OK}, []any{sum, version, c}, "just before")
		time.Sleep(time.Nanosecond)
		sum, version, c = s.Add(root, "added", num, 1, Keep)
		assert.Equal(t, []any{uint64(1), uint64(4), OK}, []any{sum, version, c})
		version, c = s.Put(root, "set", Cond{}, Value{num, 1}, Keep)
		assert.Equal(t, OK, c)
		assert.GreaterOrEqual(t, version, uint64(3), "the version of a new value")
		_, c = s.Put(root, "swapped", Cond{Must: true, Was: 1}, Value{num, 1}, Keep)
		assert.Equal(t, Conflict, c)
		_, version = s.Get(root, "read")
		assert.Zero(t, version)
	})
}
