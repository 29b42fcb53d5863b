package compare

import (
	"runtime"
	"sync"
	"sync/atomic"

	cmap "github.com/orcaman/concurrent-map/v2"
	"github.com/puzpuzpuz/xsync/v4"
	"golang.org/x/time/rate"
)

// Table is something with an entry for each key, whose memory is of interest.
type Table struct {
	Section, Name string
	Role          Role
	Fill          func(ks []string) (table any, err error)
}

// Tables are the tables of the rows with many keys.
var Tables = []Table{
	{"state", "SharedState", Ours, func(ks []string) (any, error) {
		_, s, err := oursState(ks)
		return s, err
	}},
	{"state", "sync.Map of atomics", Peer, func(ks []string) (any, error) {
		m := new(sync.Map)
		for _, k := range ks {
			m.Store(k, new(atomic.Int64))
		}
		return m, nil
	}},
	{"state", "map of int64", Floor, func(ks []string) (any, error) {
		m := make(map[string]int64)
		for _, k := range ks {
			m[k] = 0
		}
		return m, nil
	}},
	{"state", "xsync v4, atomics", Peer, func(ks []string) (any, error) {
		m := xsync.NewMap[string, *atomic.Int64]()
		for _, k := range ks {
			m.Store(k, new(atomic.Int64))
		}
		return m, nil
	}},
	{"state", "concurrent-map v2", Peer, func(ks []string) (any, error) {
		m := cmap.New[int64]()
		for _, k := range ks {
			m.Set(k, 0)
		}
		return m, nil
	}},
	{"rate", "RateLimiter by key", Ours, func(ks []string) (any, error) { return keyedRate(boxed(ks)) }},
	{"rate", "map of x/time limiters", Peer, func(ks []string) (any, error) {
		m := make(map[string]*rate.Limiter)
		for _, k := range ks {
			m[k] = rate.NewLimiter(1e9, 1e9)
			m[k].Allow()
		}
		return m, nil
	}},
	{"rate", "flat table", Floor, func(ks []string) (any, error) {
		f := newFlatRates(len(ks))
		for _, k := range ks {
			f.allow(k, clock(), 1, second)
		}
		return f, nil
	}},
	{"rate", "sharded map", Floor, func(ks []string) (any, error) {
		m := newShardedRates()
		for _, k := range ks {
			m.allow(k, clock(), 1, second)
		}
		return m, nil
	}},
}

// Weight is what a table needs per key, in bytes, without the bytes of the keys.
type Weight struct {
	Table
	Bytes float64
	Err   error
}

// Weigh fills each table with n keys, one after the other.
func Weigh(s Size) []Weight {
	ks := keys(s.Keys)
	var out []Weight
	for _, t := range Tables {
		w := Weight{Table: t}
		before := heapSize()
		kept, err := t.fill(ks)
		w.Bytes, w.Err = float64(heapSize()-before)/float64(len(ks)), err
		runtime.KeepAlive(kept)
		out = append(out, w)
	}
	runtime.KeepAlive(ks)
	return out
}

func (t Table) fill(ks []string) (kept any, err error) {
	_, _, err = build(Contestant{Make: func(int) (Body, func(), error) {
		kept, err = t.Fill(ks)
		return nil, nil, err
	}}, 1)
	return kept, err
}

func heapSize() int64 {
	runtime.GC()
	runtime.GC() // what finalizers and pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
