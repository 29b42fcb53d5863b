package compare

import (
	"hash/maphash"
	"sync"
)

// gcra is a token bucket in one word, the generic cell rate algorithm (ITU-T I.371): the
// instant at which it will be full again. It is told the time and has no lock.
//
// It leaves out: exact fractions of nanoseconds, costs other than one, waiting.
type gcra struct{ full int64 }

func (g *gcra) allow(now, interval, burst int64) bool {
	at := max(g.full, now)
	if at-now > burst-interval {
		return false
	}
	g.full = at + interval
	return true
}

// flatRates is a bucket per key in one flat table: open addressing with linear probing,
// behind one lock. The table is made for a known number of keys.
//
// It leaves out: growth, eviction.
type flatRates struct {
	mu    sync.Mutex
	seed  maphash.Seed
	cells []flatCell
}

type flatCell struct {
	key  string // empty is free
	rate gcra
}

func newFlatRates(keys int) *flatRates {
	n := 1
	for n < keys*3/2 {
		n *= 2
	}
	return &flatRates{seed: maphash.MakeSeed(), cells: make([]flatCell, n)}
}

func (f *flatRates) allow(key string, now, interval, burst int64) bool {
	i := int(maphash.String(f.seed, key)) & (len(f.cells) - 1)
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch c := &f.cells[i]; c.key {
		case key:
			return c.rate.allow(now, interval, burst)
		case "":
			c.key = key
			return c.rate.allow(now, interval, burst)
		}
		i = (i + 1) & (len(f.cells) - 1)
	}
}

// shardedRates is a bucket per key in 64 maps, each behind a lock of its own.
//
// It leaves out: eviction.
type shardedRates struct {
	seed   maphash.Seed
	shards [64]struct {
		mu sync.Mutex
		m  map[string]*gcra
		_  [48]byte // a cache line each
	}
}

func newShardedRates() *shardedRates {
	s := &shardedRates{seed: maphash.MakeSeed()}
	for i := range s.shards {
		s.shards[i].m = make(map[string]*gcra)
	}
	return s
}

func (s *shardedRates) allow(key string, now, interval, burst int64) bool {
	sh := &s.shards[maphash.String(s.seed, key)%64]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	g := sh.m[key]
	if g == nil {
		g = new(gcra)
		sh.m[key] = g
	}
	return g.allow(now, interval, burst)
}
