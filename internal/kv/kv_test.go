package kv

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// text is a Datum for tests.
type text string

func (text) Fits(old Datum) bool { _, ok := old.(text); return ok }

// number is the Datum of the numbers.
type number struct{}

func (number) Fits(old Datum) bool { return old == number{} }

func val(s string) Value { return Value{Box: &Box{Datum: text(s), Size: int64(len(s))}} }

func newTest(maxKeys, maxBytes int) (*Store, *Scope) { return New(maxKeys, maxBytes, Std{}) }

// checkShards compares what each shard says of itself with what is in it.
func checkShards(t *testing.T, s *Store) {
	t.Helper()
	s.lockAll()
	defer s.unlockAll()
	keys, bytes := 0, int64(0)
	for i := range s.shards {
		sh := &s.shards[i]
		live, used, expiring := 0, 0, 0
		tab := sh.table.Load()
		for e := range tab.entries {
			live++
			keys++
			bytes += e.box.Load().cost(e.key)
			if w := e.word.Load(); w&(locked|dead) != 0 || e.version(w) == 0 {
				t.Errorf("%s: the word is %#x", e.key, w)
			}
			h := s.hash(e.key)
			require.Same(t, sh, s.shard(h), "%s is in the wrong shard", e.key)
			assert.Equal(t, e.hash, uint32(h), "%s is in the wrong shard", e.key)
			got, _ := s.find(s.root, e.key)
			assert.Same(t, e, got, "%s cannot be found", e.key)
			x := e.expires.Load()
			assert.Equal(t, e.heap != 0, (x != 0),
				"%s expires at %d and has place %d in the heap", e.key, x, e.heap)
			if e.heap != 0 {
				expiring++
				assert.Same(t, e, sh.heap[e.heap-1], "%s is not in its place in the heap", e.key)
			}
		}
		if tab != nil {
			for i := range tab.slots {
				if tab.slots[i].Load() != nil {
					used++
				}
			}
			if used*4 > len(tab.slots)*3+4 || len(tab.slots) > minSlots && live*8 < len(tab.slots) {
				t.Errorf("shard %d: %d entries in %d of %d slots", i, live, used, len(tab.slots))
			}
		}
		if live != sh.live || used != sh.used || expiring != len(sh.heap) {
			t.Errorf("shard %d counts %d, %d, %d and has %d, %d, %d", i, sh.live, sh.used, len(sh.heap), live, used, expiring)
		}
		for i, e := range sh.heap {
			if i > 0 && e.expires.Load() < sh.heap[(i-1)/2].expires.Load() {
				t.Errorf("the heap is no heap at %d", i)
			}
		}
		if (len(sh.heap) > 0) != (sh.armed != 0) || len(sh.heap) > 0 && sh.armed > sh.heap[0].expires.Load() {
			t.Errorf("shard %d: %d lifetimes, timer at %d", i, len(sh.heap), sh.armed)
		}
	}
	if k, b := s.root.Usage(); k != keys || int64(b) != bytes {
		t.Errorf("%d keys and %d bytes are counted, there are %d and %d", k, b, keys, bytes)
	}
}

// model is what a store should hold.
type model struct {
	v       string
	version uint64
	expires time.Duration
}

// Random operations against a map, one at a time and in virtual time.
func TestStoreAgainstAModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range uint64(6) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, round))
			s, root := newTest(math.MaxInt, math.MaxInt)
			defer s.Close()
			view := s.Nest(root, "v/", 20, math.MaxInt)
			start := time.Now()
			m, last := make(map[string]model), make(map[string]uint64)
			for i := range 2000 {
				time.Sleep(time.Duration(r.IntN(2)))
				now := time.Since(start)
				for k, v := range m {
					if v.expires != 0 && now >= v.expires {
						delete(m, k)
					}
				}
				sc, key := root, fmt.Sprint(r.IntN(300))
				if r.IntN(3) == 0 {
					sc = view
				}
				full := sc.Prefix + key
				old := m[full]
				life := []Life{Keep, Endless, Life(1 + r.IntN(200))}[r.IntN(3)]
				inView := 0
				for k := range m {
					if strings.HasPrefix(k, "v/") {
						inView++
					}
				}
				want := OK
				if sc == view && old.version == 0 && inView >= 20 {
					want = Full
				}
				n := model{v: fmt.Sprint("value", r.IntN(i+1)), expires: old.expires}
				switch {
				case life > 0:
					n.expires = now + time.Duration(life)
				case life == Endless || old.version == 0:
					n.expires = 0
				}
				var c Code
				switch r.IntN(5) {
				case 0, 1:
					n.version, c = s.Put(sc, key, Cond{}, val(n.v), life)
				case 2:
					cond := Cond{Must: true, Was: old.version}
					if r.IntN(2) == 0 {
						cond.Was = last[full]
						if cond.Was != old.version {
							want = Conflict
						}
					}
					n.version, c = s.Put(sc, key, cond, val(n.v), life)
				case 3:
					c = s.Delete(sc, key, Cond{})
					n, want = model{}, OK
				case 4:
					if v, version := s.Get(sc, key); version != old.version || version != 0 && string(v.Box.Datum.(text)) != old.v {
						t.Fatalf("step %d: %s is %v version %d, want %+v", i, full, v, version, old)
					}
					continue
				}
				require.Equal(t, want, c, "step %d: %s ended with", i, full)
				if c != OK {
					continue
				}
				if delete(m, full); n.v != "" {
					if n.version <= last[full] {
						t.Fatalf("step %d: version %d after %d", i, n.version, last[full])
					}
					m[full], last[full] = n, n.version
				}
				if i%100 == 0 {
					synctest.Wait()
					checkShards(t, s)
				}
			}
			synctest.Wait()
			checkShards(t, s)
			var want []string
			for k := range m {
				want = append(want, k)
			}
			slices.Sort(want)
			assert.Equal(t, want, s.Keys(root, ""))
			s.Clear(root)
			checkShards(t, s)
			for i := range s.shards {
				assert.Nil(t, s.shards[i].table.Load(), "shard %d keeps its slots", i)
			}
		})
	}
}

// Everything at once, and then the shards must be as they say.
func TestStoreStorm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	s, root := newTest(120, 120*200)
	view := s.Nest(root, "v/", 40, 40*200)
	num := s.NumBox(number{}, Int64)
	var wg sync.WaitGroup
	for g := range 6 {
		r := rand.New(rand.NewPCG(seed, uint64(g)))
		wg.Go(func() {
			for range 5000 {
				sc, key := root, fmt.Sprint(r.IntN(100))
				if r.IntN(2) == 0 {
					sc = view
				}
				life := []Life{Keep, Endless, Life(1 + r.IntN(50_000))}[r.IntN(3)]
				switch r.IntN(9) {
				case 0:
					s.Put(sc, key, Cond{}, val(strings.Repeat("x", r.IntN(200))), life)
				case 1:
					s.Delete(sc, key, Cond{})
				case 2:
					_, version := s.Get(sc, key)
					s.Put(sc, key, Cond{Must: true, Was: version}, val("swapped"), life)
				case 3:
					ops := []Op{
						{Scope: sc, Key: key, Kind: Write, Value: val("a"), Life: life},
						{Scope: root, Key: key + "'", Kind: Remove},
						{Scope: view, Key: key + "''", Kind: Check, Cond: Cond{Must: true}},
					}
					s.Commit(ops)
				case 4:
					if r.IntN(50) == 0 {
						s.Clear(sc)
					}
					s.Keys(sc, "")
				case 5:
					if r.IntN(50) == 0 {
						list, highest := s.Snapshot(view)
						s.Replace(view, list, highest)
					}
				case 6:
					if r.IntN(20) == 0 {
						s.CloseScope(s.Nest(view, fmt.Sprint(r.IntN(10)), 1, 1000))
					}
				default:
					s.Add(sc, key, num, 1, life)
				}
			}
		})
	}
	wg.Wait()
	s.Clear(view)
	checkShards(t, s)
	if k, b := view.Usage(); k != 0 || b != 0 {
		t.Errorf("%d keys and %d bytes are counted in an empty view", k, b)
	}
	s.Close()
	for range s.Timers() {
		t.Error("a timer is set after Close")
	}
}

// A reader finds a key that is there all the time while the table around it is rebuilt.
func TestFindWhileTheTableChanges(t *testing.T) {
	s, root := newTest(math.MaxInt, math.MaxInt)
	for i := range 100 {
		s.Put(root, fmt.Sprint("stay", i), Cond{}, val("x"), Keep)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			for i := range 3000 {
				s.Put(root, fmt.Sprint(i), Cond{}, val("y"), Keep)
			}
			for i := range 3000 {
				s.Delete(root, fmt.Sprint(i), Cond{})
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for i := range 100_000 {
		k := fmt.Sprint("stay", i%100)
		_, version := s.Get(root, k)
		require.Equal(t, uint64(1), version, "%s has version", k)
	}
	close(stop)
	wg.Wait()
	checkShards(t, s)
}

// Whoever has found an entry and comes to write it after it was deleted must look again:
// the write would be lost.
func TestFastWritesLeaveDeadEntriesAlone(t *testing.T) {
	for name, remove := range map[string]func(s *Store, root *Scope) Code{
		"Delete": func(s *Store, root *Scope) Code { return s.Delete(root, "n", Cond{}) },
		"Commit": func(s *Store, root *Scope) Code {
			return s.Commit([]Op{{Scope: root, Key: "n", Kind: Remove}})
		},
	} {
		s, root := newTest(math.MaxInt, math.MaxInt)
		num := s.NumBox(number{}, Int64)
		s.Add(root, "n", num, 1, Keep)
		e, _ := s.find(root, "n")
		if sum, version, c, done := s.addFast(e, num, 1); sum != 2 || version != 2 || c != OK || !done {
			t.Fatalf("addFast of a live entry: %d, %d, %d, %v", sum, version, c, done)
		}
		require.Equal(t, OK, remove(s, root), name)
		_, _, _, done := s.addFast(e, num, 1)
		assert.False(t, done, "%s: addFast wrote a dead entry", name)
		_, _, done = s.putFast(e, Cond{}, Value{num, 1}, Keep)
		assert.False(t, done, "%s: putFast wrote a dead entry", name)
		_, _, ok := e.read(s)
		assert.False(t, ok, "%s: a dead entry was read", name)
		if sum, version, c := s.Add(root, "n", num, 5, Keep); sum != 5 || version <= 3 || c != OK {
			t.Errorf("%s: Add after it: %d, version %d, %d", name, sum, version, c)
		}
	}
}

// A reader never sees the value of one write with the version of another.
func TestReadsAreNotTorn(t *testing.T) {
	for _, delta := range []uint64{1, 1 << 40} { // near, and far
		s, root := newTest(math.MaxInt, math.MaxInt)
		num := s.NumBox(number{}, Int64)
		s.Add(root, "n", num, delta, Keep)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for range 250_000 {
					if sum, version, _ := s.Add(root, "n", num, delta, Keep); sum != version*delta {
						t.Errorf("Add returned %d with version %d", sum, version)
						return
					}
				}
			})
			wg.Go(func() {
				for range 250_000 {
					if v, version := s.Get(root, "n"); v.Bits != version*delta {
						t.Errorf("Get returned %d with version %d", v.Bits, version)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

// Two keys of the same hash are two keys.
func TestKeysOfOneHash(t *testing.T) {
	s, root := newTest(math.MaxInt, math.MaxInt)
	s.Put(root, "a key", Cond{}, val("x"), Keep)
	e, h := s.find(root, "a key")
	tab := s.shard(h).table.Load()
	assert.Same(t, e, tab.find(e.hash, "a key"))
	assert.Same(t, e, tab.findIn(e.hash, "a ", "key"))
	assert.Nil(t, tab.find(e.hash, "a bee"))
	assert.Nil(t, tab.findIn(e.hash, "a ", "bee"))
	assert.Nil(t, tab.findIn(e.hash, "b ", "key"))
}

func TestLongKeysInAScope(t *testing.T) {
	s, root := newTest(10, math.MaxInt)
	sc := s.Nest(root, strings.Repeat("p", 200), 10, math.MaxInt)
	long := strings.Repeat("k", 300)
	_, c := s.Put(sc, long, Cond{}, val("x"), Keep)
	require.Equal(t, OK, c)
	_, version := s.Get(root, sc.Prefix+long)
	assert.Equal(t, uint64(1), version, "version")
	_, version = s.Get(sc, long[1:])
	assert.Zero(t, version, "version")
}

func TestLifetimeEnds(t *testing.T) {
	for _, c := range []struct {
		now  int64
		d    time.Duration
		want int64
	}{{5, 3, 8}, {5, math.MaxInt64, math.MaxInt64}, {-5, 5, 1}, {-10, 3, -7}} {
		assert.Equal(t, c.want, after(c.now, Life(c.d)), "after(%d, %d)", c.now, c.d)
	}
}

// A bound that only expired keys fill is no bound, even before they are swept.
func TestExpiredKeysMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, write := range map[string]func(*Store, *Scope) Code{
			"Put": func(s *Store, sc *Scope) Code { _, c := s.Put(sc, "new", Cond{}, val("x"), Keep); return c },
			"Add": func(s *Store, sc *Scope) Code {
				_, _, c := s.Add(sc, "new", s.NumBox(number{}, Int64), 1, Keep)
				return c
			},
			"Commit": func(s *Store, sc *Scope) Code {
				return s.Commit([]Op{{Scope: sc, Key: "new", Kind: Write, Value: val("x")}})
			},
		} {
			s, root := newTest(3, math.MaxInt)
			for i := range 3 {
				s.Put(root, fmt.Sprint(i), Cond{}, val("x"), Life(time.Second))
			}
			c := write(s, root)
			assert.Equal(t, Full, c, "%s ended with %d in a full store", name, c)
			for i := range s.shards { // as if the sweeps were late
				if s.shards[i].armed != 0 && s.shards[i].timer.Stop() {
					s.timers.Done()
				}
			}
			time.Sleep(time.Second)
			c = write(s, root)
			assert.Equal(t, OK, c, "%s ended with %d in a store of expired keys", name, c)
			checkShards(t, s)
		}
	})
}

// One timer per shard serves all its lifetimes, and only while there are some.
func TestTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, root := newTest(math.MaxInt, math.MaxInt)
		timers := func() (n int) {
			for range s.Timers() {
				n++
			}
			return n
		}
		s.Put(root, "a", Cond{}, val("x"), Keep)
		assert.Zero(t, timers(), "timers without a lifetime")
		s.Put(root, "a", Cond{}, val("x"), Life(time.Minute))
		s.Put(root, "a", Cond{}, val("x"), Life(time.Second))
		s.Put(root, "a", Cond{}, val("x"), Life(time.Hour))
		assert.Equal(t, 1, timers(), "timers for one lifetime")
		s.Put(root, "a", Cond{}, val("x"), Endless)
		assert.Zero(t, timers(), "timers after the lifetime was cleared")
		s.Put(root, "a", Cond{}, val("x"), Life(time.Second))
		s.Delete(root, "a", Cond{})
		assert.Zero(t, timers(), "timers after the key was deleted")
		for i := range 10_000 {
			s.Put(root, fmt.Sprint(i), Cond{}, val("x"), Life(time.Second))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if k, _ := root.Usage(); k != 0 || timers() != 0 {
			t.Errorf("%d keys and %d timers are left", k, timers())
		}
		checkShards(t, s)
	})
}
