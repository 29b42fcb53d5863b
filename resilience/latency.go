package resilience

import (
	"math"
	"slices"
	"sync"
	"time"
)

const (
	recentMany   = 128 // attempts that are remembered of a tool
	recentEnough = 20  // that there must be before anything is said of them
)

// recent is how long the last attempts of a tool took, as they came and in order. It takes 2 KB from the
// first on.
type recent struct {
	came, ordered []time.Duration
	next          int // where the next one goes in came, once there are many
}

// add notes d, in the place of the oldest if there are many.
func (r *recent) add(d time.Duration) {
	if len(r.came) < recentMany {
		if r.came == nil {
			r.came, r.ordered = make([]time.Duration, 0, recentMany), make([]time.Duration, 0, recentMany)
		}
		r.came = append(r.came, d)
	} else {
		at, _ := slices.BinarySearch(r.ordered, r.came[r.next])
		r.ordered = slices.Delete(r.ordered, at, at+1)
		r.came[r.next] = d
		r.next = (r.next + 1) % recentMany
	}
	at, _ := slices.BinarySearch(r.ordered, d)
	r.ordered = slices.Insert(r.ordered, at, d)
}

// quantile is how long a share q of them took at most. There are enough of them if one in so many took
// longer.
func (r *recent) quantile(q float64) (d time.Duration, ok bool) {
	const exact = 1e-9 // as far as shares are
	n := float64(len(r.ordered))
	if n < recentEnough || n*(1-q) < 1-exact {
		return 0, false
	}
	return r.ordered[int(math.Ceil(n*q-exact))-1], true
}

// latencies is recent for several goroutines. No more is done under its lock than a look, or moving
// 1 KB.
type latencies struct {
	mu sync.Mutex
	recent
}

func (l *latencies) add(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recent.add(d)
}

func (l *latencies) quantile(q float64) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.recent.quantile(q)
}
