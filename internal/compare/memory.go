package compare

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	cmap "github.com/orcaman/concurrent-map/v2"
	"github.com/puzpuzpuz/xsync/v4"
	"golang.org/x/time/rate"
)

// Table is something with many entries, whose memory is of interest.
type Table struct {
	What string // an entry
	Name string
	Role Role
	Most int // entries; zero means as many as the size says
	// Fill makes a table with an entry for each of the keys, or as many entries as there are keys.
	// What it returns is closed, if it is a closer, once it is weighed.
	Fill func(ks []string) (table any, err error)
}

type closer interface{ Close(context.Context) error }

const (
	stateKey    = "key of the shared state"
	rateKey     = "key of a rate"
	waitingCall = "call that waits"
	idleTool    = "idle tool"
)

// Tables are the tables of the rows with many keys.
var Tables = []Table{
	{stateKey, "SharedState", Ours, 0, func(ks []string) (any, error) {
		_, s, err := oursState(ks)
		return s, err
	}},
	{stateKey, syncMap, Peer, 0, func(ks []string) (any, error) {
		m := new(sync.Map)
		for _, k := range ks {
			m.Store(k, new(atomic.Int64))
		}
		return m, nil
	}},
	{stateKey, "xsync v4, atomics", Peer, 0, func(ks []string) (any, error) {
		m := xsync.NewMap[string, *atomic.Int64]()
		for _, k := range ks {
			m.Store(k, new(atomic.Int64))
		}
		return m, nil
	}},
	{stateKey, "concurrent-map v2", Peer, 0, func(ks []string) (any, error) {
		m := cmap.New[int64]()
		for _, k := range ks {
			m.Set(k, 0)
		}
		return m, nil
	}},
	{rateKey, "RateLimiter by key", Ours, 0, func(ks []string) (any, error) { return keyedRate(boxed(ks)) }},
	{rateKey, "map of x/time limiters", Peer, 0, func(ks []string) (any, error) {
		m := make(map[string]*rate.Limiter)
		for _, k := range ks {
			m[k] = rate.NewLimiter(1e9, 1e9)
			m[k].Allow()
		}
		return m, nil
	}},
	{rateKey, "flat table", Floor, 0, func(ks []string) (any, error) {
		f := newFlatRates(len(ks))
		for _, k := range ks {
			f.allow(k, clock(), 1, second)
		}
		return f, nil
	}},
	{rateKey, "sharded map", Floor, 0, func(ks []string) (any, error) {
		m := newShardedRates()
		for _, k := range ks {
			m.allow(k, clock(), 1, second)
		}
		return m, nil
	}},
	{waitingCall, "Submit", Ours, 0, submitted},
	{waitingCall, "Invoke, its goroutine included", Ours, 10_000, queuedInvokes},
	{waitingCall, fusedOne + ", its goroutine included", Floor, 10_000, queuedFused},
	{idleTool, "with a limit of its own, never called", Ours, 10_000, func(ks []string) (any, error) { return idleTools(ks, false) }},
	{idleTool, "with a limit of its own, called once", Ours, 10_000, func(ks []string) (any, error) { return idleTools(ks, true) }},
	{"executor", "with a registry, four gates and a tool called once", Ours, 1000, idleExecutors},
}

// Weight is what a table needs per entry, in bytes of the heap and of stacks, without the bytes of
// the keys.
type Weight struct {
	Table
	Entries int
	Bytes   float64
	Err     error
}

// Weigh fills each table, one after the other.
func Weigh(s Size) []Weight {
	ks := keys(s.Keys)
	var out []Weight
	for _, t := range Tables {
		w := Weight{Table: t, Entries: len(ks)}
		if t.Most > 0 {
			w.Entries = min(w.Entries, t.Most)
		}
		before := memory()
		kept, err := t.fill(ks[:w.Entries])
		w.Bytes, w.Err = float64(memory()-before)/float64(w.Entries), err
		if c, ok := kept.(closer); ok && err == nil {
			w.Err = c.Close(context.Background())
		}
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

// memory is what the heap and the stacks take.
func memory() int64 {
	runtime.GC()
	runtime.GC() // what finalizers and pools held, and stacks that have become too large
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
