package compare

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"
	"sync/atomic"

	cmap "github.com/orcaman/concurrent-map/v2"
	"github.com/puzpuzpuz/xsync/v4"
	"github.com/sluice-go/sluice"
)

// stateKeys is how many keys the state rows use.
const stateKeys = 1000

const (
	mixedDeletes = "state: mixed with deletes"
	fixedMap     = "a map that never changes, of atomics"
)

// counters is a table of numbers under names, as a state row uses it. The keys are there
// already.
type counters struct {
	add func(k string) error
	get func(k string) (int64, error)
	set func(k string, v int64) error
	del func(k string) error
}

var errNoKey = errors.New("compare: key is not there")

type stateContestant struct {
	name string
	role Role
	make func(ks []string) (counters, func(), error)
}

var stateContestants = []stateContestant{
	{"SharedState", Ours, func(ks []string) (counters, func(), error) {
		ctx, s, err := oursState(ks)
		if err != nil {
			return counters{}, nil, err
		}
		return counters{
			add: func(k string) error { _, err := sluice.Increment(ctx, sluice.Key[int64](k), 1); return err },
			get: func(k string) (int64, error) { v, _, err := sluice.Key[int64](k).Get(ctx); return v, err },
			set: func(k string, v int64) error { _, err := sluice.Key[int64](k).Set(ctx, v); return err },
			del: func(k string) error { return sluice.Key[int64](k).Delete(ctx) },
		}, func() { s.Close() }, nil
	}},
	{fixedMap, Floor, func(ks []string) (counters, func(), error) {
		m := make(map[string]*atomic.Int64, len(ks)) // leaves out new keys, deletion, versions, lifetimes
		for _, k := range ks {
			m[k] = new(atomic.Int64)
		}
		return counters{
			add: func(k string) error { m[k].Add(1); return nil },
			get: func(k string) (int64, error) { return m[k].Load(), nil },
			set: func(k string, v int64) error { m[k].Store(v); return nil },
		}, nil, nil
	}},
	{"64 shards, a lock and a map each", Floor, func(ks []string) (counters, func(), error) {
		s := newShardedCounters() // leaves out versions, lifetimes, bounds
		for _, k := range ks {
			s.set(k, 0)
		}
		return counters{
			add: func(k string) error { s.add(k, 1); return nil },
			get: func(k string) (int64, error) { return s.get(k), nil },
			set: func(k string, v int64) error { s.set(k, v); return nil },
			del: func(k string) error { s.del(k); return nil },
		}, nil, nil
	}},
	{syncMap, Peer, func(ks []string) (counters, func(), error) {
		m := new(sync.Map)
		cell := func(k string) *atomic.Int64 {
			c, ok := m.Load(k)
			if !ok {
				c, _ = m.LoadOrStore(k, new(atomic.Int64))
			}
			return c.(*atomic.Int64)
		}
		for _, k := range ks {
			cell(k)
		}
		return counters{
			add: func(k string) error { cell(k).Add(1); return nil },
			get: func(k string) (int64, error) {
				c, ok := m.Load(k)
				if !ok {
					return 0, errNoKey
				}
				return c.(*atomic.Int64).Load(), nil
			},
			set: func(k string, v int64) error { cell(k).Store(v); return nil },
			del: func(k string) error { m.Delete(k); return nil }, // loses increments that race it
		}, nil, nil
	}},
	{"mutex map", Peer, func(ks []string) (counters, func(), error) {
		var mu sync.Mutex
		m := make(map[string]int64)
		for _, k := range ks {
			m[k] = 0
		}
		return counters{
			add: func(k string) error { mu.Lock(); m[k]++; mu.Unlock(); return nil },
			get: func(k string) (int64, error) {
				mu.Lock()
				v, ok := m[k]
				mu.Unlock()
				if !ok {
					return 0, errNoKey
				}
				return v, nil
			},
			set: func(k string, v int64) error { mu.Lock(); m[k] = v; mu.Unlock(); return nil },
			del: func(k string) error { mu.Lock(); delete(m, k); mu.Unlock(); return nil },
		}, nil, nil
	}},
	{"xsync v4, atomics", Peer, func(ks []string) (counters, func(), error) {
		m := xsync.NewMap[string, *atomic.Int64]()
		cell := func(k string) *atomic.Int64 {
			c, ok := m.Load(k)
			if !ok {
				c, _ = m.LoadOrStore(k, new(atomic.Int64))
			}
			return c
		}
		for _, k := range ks {
			cell(k)
		}
		return counters{
			add: func(k string) error { cell(k).Add(1); return nil },
			get: func(k string) (int64, error) {
				c, ok := m.Load(k)
				if !ok {
					return 0, errNoKey
				}
				return c.Load(), nil
			},
			set: func(k string, v int64) error { cell(k).Store(v); return nil },
			del: func(k string) error { m.Delete(k); return nil }, // loses increments that race it
		}, nil, nil
	}},
	{"xsync v4, Compute", Peer, func(ks []string) (counters, func(), error) {
		m := xsync.NewMap[string, int64]()
		for _, k := range ks {
			m.Store(k, 0)
		}
		one := func(old int64, _ bool) (int64, xsync.ComputeOp) { return old + 1, xsync.UpdateOp }
		return counters{
			add: func(k string) error { m.Compute(k, one); return nil },
			get: func(k string) (int64, error) {
				v, ok := m.Load(k)
				if !ok {
					return 0, errNoKey
				}
				return v, nil
			},
			set: func(k string, v int64) error { m.Store(k, v); return nil },
			del: func(k string) error { m.Delete(k); return nil },
		}, nil, nil
	}},
	{"concurrent-map v2, Upsert", Peer, func(ks []string) (counters, func(), error) {
		m := cmap.New[int64]()
		for _, k := range ks {
			m.Set(k, 0)
		}
		one := func(_ bool, old, delta int64) int64 { return old + delta }
		return counters{
			add: func(k string) error { m.Upsert(k, 1, one); return nil },
			get: func(k string) (int64, error) {
				v, ok := m.Get(k)
				if !ok {
					return 0, errNoKey
				}
				return v, nil
			},
			set: func(k string, v int64) error { m.Set(k, v); return nil },
			del: func(k string) error { m.Remove(k); return nil },
		}, nil, nil
	}},
}

func oursState(ks []string) (context.Context, *sluice.SharedState, error) {
	s, err := sluice.NewSharedState(sluice.SharedStateConfig{MaxKeys: max(len(ks), stateKeys), MaxBytes: 1 << 40})
	if err != nil {
		return nil, nil, err
	}
	ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{State: s})
	for _, k := range ks {
		if _, err := sluice.Key[int64](k).Set(ctx, 0); err != nil {
			return nil, nil, err
		}
	}
	return ctx, s, nil
}

func stateRows() []Row {
	loads := []Load{alone, {8, 2}, hundred}
	return []Row{
		stateRow("state: increment", "One added to one of 1,000 numbers, chosen without a pattern.", loads,
			func(c counters, ks []string, w *walk, n int) error {
				for range n {
					if err := c.add(ks[w.next(len(ks))]); err != nil {
						return err
					}
				}
				return nil
			}),
		stateRow("state: increment, one key", "One added to the same number by everybody.", loads,
			func(c counters, ks []string, _ *walk, n int) error {
				for range n {
					if err := c.add(ks[0]); err != nil {
						return err
					}
				}
				return nil
			}),
		stateRow("state: get", "One of 1,000 numbers read.", loads,
			func(c counters, ks []string, w *walk, n int) error {
				for range n {
					if _, err := c.get(ks[w.next(len(ks))]); err != nil {
						return err
					}
				}
				return nil
			}),
		stateRow("state: mixed", "Of ten operations, eight reads, an increment and a write, over 1,000 numbers.", loads,
			func(c counters, ks []string, w *walk, n int) error {
				for i := range n {
					k := ks[w.next(len(ks))]
					var err error
					switch i % 10 {
					case 0:
						err = c.add(k)
					case 5:
						err = c.set(k, int64(i))
					default:
						_, err = c.get(k)
					}
					if err != nil {
						return err
					}
				}
				return nil
			}),
		stateRow(mixedDeletes, "Of ten operations, six reads, two increments, a write and a deletion, over 1,000 numbers. A number that is not there reads as none and counts from zero. Maps of atomics lose increments that a deletion meets; the others do not.", loads,
			func(c counters, ks []string, w *walk, n int) error {
				for i := range n {
					k := ks[w.next(len(ks))]
					var err error
					switch i % 10 {
					case 0, 3:
						err = c.add(k)
					case 5:
						err = c.set(k, int64(i))
					case 7:
						err = c.del(k)
					default:
						if _, err = c.get(k); errors.Is(err, errNoKey) || errors.Is(err, sluice.ErrAbsent) {
							err = nil
						}
					}
					if err != nil {
						return err
					}
				}
				return nil
			}),
	}
}

func stateRow(name, note string, loads []Load, do func(c counters, ks []string, w *walk, n int) error) Row {
	r := Row{Section: "Shared state", Name: name, Note: note, Loads: loads}
	for _, sc := range stateContestants {
		if name == mixedDeletes && sc.name == fixedMap {
			continue // deletes nothing
		}
		r.Contestants = append(r.Contestants, Contestant{sc.name, sc.role, func(workers int) (Body, func(), error) {
			ks := keys(stateKeys)
			c, done, err := sc.make(ks)
			all := newWalks(workers)
			return func(worker, n int) error {
				w := all[worker].walk
				defer func() { all[worker].walk = w }()
				return do(c, ks, &w, n)
			}, done, err
		}})
	}
	return r
}

// shardedCounters are numbers in 64 maps, each behind a lock of its own.
type shardedCounters struct {
	seed   maphash.Seed
	shards [64]struct {
		mu sync.Mutex
		m  map[string]int64
		_  [48]byte // a cache line each
	}
}

func newShardedCounters() *shardedCounters {
	s := &shardedCounters{seed: maphash.MakeSeed()}
	for i := range s.shards {
		s.shards[i].m = make(map[string]int64)
	}
	return s
}

func (s *shardedCounters) add(k string, d int64) {
	sh := &s.shards[maphash.String(s.seed, k)%64]
	sh.mu.Lock()
	sh.m[k] += d
	sh.mu.Unlock()
}

func (s *shardedCounters) get(k string) int64 {
	sh := &s.shards[maphash.String(s.seed, k)%64]
	sh.mu.Lock()
	v := sh.m[k]
	sh.mu.Unlock()
	return v
}

func (s *shardedCounters) set(k string, v int64) {
	sh := &s.shards[maphash.String(s.seed, k)%64]
	sh.mu.Lock()
	sh.m[k] = v
	sh.mu.Unlock()
}

func (s *shardedCounters) del(k string) {
	sh := &s.shards[maphash.String(s.seed, k)%64]
	sh.mu.Lock()
	delete(sh.m, k)
	sh.mu.Unlock()
}
