package sluicehttp

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice"
)

// reading is one snapshot, which all who look share until the next. What is derived from it is made once.
type reading struct {
	seq              uint64
	snap             sluice.Snapshot
	took             time.Time // when it began to be made; guarded by Page.mu
	points           []point   // of the last minutes, the oldest first; shared with later readings
	names            []string  // of the limits in points
	refused, changed []entry
	spent            atomic.Int64 // nanoseconds that it, and what was made of it, has cost

	sort  sync.Once
	gates map[string][]sluice.GateState // by view, what needs attention first
	lanes []sluice.LaneState            // most calls first

	mu       sync.Mutex
	rendered map[string]*rendering // by query, for streams
}

// longest is how old a reading may become, however expensive the next may be.
const longest = time.Minute

// share is the part of a processor, one in so many, that snapshots and what is made of them for streams may take.
const share = 40

// latest is the reading that is due, and for how long it is: nobody causes more of them than Interval allows, and fewer
// are made where they are expensive. Of those who ask at once one makes it, and the others wait for that. It is nil if
// ctx ends before, or the page closes.
func (p *Page) latest(ctx context.Context) (x *reading, left time.Duration) {
	for {
		p.mu.Lock()
		if x = p.now; x != nil {
			if left = x.lasts(p.conf.Interval) - time.Since(x.took); left > 0 {
				p.mu.Unlock()
				return x, left
			}
		}
		making := p.making
		if making == nil {
			p.making = make(chan struct{})
		}
		p.mu.Unlock()
		if making == nil {
			p.read()
			continue
		}
		select {
		case <-making:
		case <-ctx.Done():
			return nil, 0
		case <-p.done:
			return nil, 0
		}
	}
}

// read makes a reading. The executor's interceptors say what they have to say under no lock.
func (p *Page) read() {
	defer func() { // also if one of them ends the goroutine
		p.mu.Lock()
		defer p.mu.Unlock()
		close(p.making)
		p.making = nil
	}()
	p.mu.Lock()
	changed := p.changed
	p.mu.Unlock()
	began := time.Now()
	x := &reading{snap: p.conf.Executor.Snapshot(), took: began, rendered: make(map[string]*rendering)}
	x.refused, x.changed = p.conf.Recent.latest()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq++
	x.seq = p.seq
	p.history.add(&x.snap, p.conf.Interval)
	x.points, x.names = p.history.points, p.history.names
	x.spent.Store(int64(time.Since(began)))
	if p.now = x; changed != p.changed { // while it was made: it may be of before
		x.took = time.Time{}
	}
}

// stale has the next look read anew: something has been changed.
func (p *Page) stale() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed++; p.now != nil {
		p.now.took = time.Time{}
	}
}

// lasts is for how long x is what is shown.
func (x *reading) lasts(interval time.Duration) time.Duration {
	return max(interval, min(longest, time.Duration(share*x.spent.Load())))
}

// cost adds what f takes to what x has cost.
func (x *reading) cost(f func()) {
	began := time.Now()
	f()
	x.spent.Add(int64(time.Since(began)))
}

// order sorts what was read, once.
func (x *reading) order() {
	x.sort.Do(func() {
		x.gates = make(map[string][]sluice.GateState)
		for _, g := range x.snap.Gates {
			v := viewOf(g.Kind)
			x.gates[v] = append(x.gates[v], g)
		}
		for _, list := range x.gates {
			slices.SortFunc(list, func(a, b sluice.GateState) int {
				return cmp.Or(cmp.Compare(alarm(&b), alarm(&a)), cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(use(&b), use(&a)),
					cmp.Compare(a.Name, b.Name), cmp.Compare(a.Key, b.Key))
			})
		}
		x.lanes = slices.Clone(x.snap.Lanes)
		slices.SortFunc(x.lanes, func(a, b sluice.LaneState) int {
			return cmp.Or(cmp.Compare(b.Waiting, a.Waiting), cmp.Compare(b.Oldest, a.Oldest), cmp.Compare(b.Priority, a.Priority),
				cmp.Compare(a.Tool, b.Tool), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.By, b.By), cmp.Compare(a.Key, b.Key))
		})
	})
}

// viewOf is the view that has the constraints of a kind.
func viewOf(kind string) string {
	switch kind {
	case "rate", "shared limiter":
		return "rates"
	case "breaker":
		return "breakers"
	case "layer":
		return "layers"
	}
	return "limits"
}

// alarm is how much g needs attention.
func alarm(g *sluice.GateState) int {
	switch {
	case g.Stalled:
		return 6
	case g.State == sluice.BreakerOpen:
		return 5
	case g.State == sluice.BreakerHalfOpen:
		return 4
	case g.Paused:
		return 3
	case inDebt(g):
		return 2
	case len(g.Unmatched) > 0:
		return 1
	}
	return 0
}

func inDebt(g *sluice.GateState) bool { return g.Kind == "rate" && g.Used > g.Limit }

// use is how much of g is taken, from 0 to 1, or more in debt.
func use(g *sluice.GateState) float64 {
	if g.Limit <= 0 {
		return 0
	}
	return float64(g.Used) / float64(g.Limit)
}

// point is what is drawn of one snapshot.
type point struct {
	At        time.Time         `json:"at"`
	InFlight  int               `json:"in_flight"`
	Queued    int               `json:"queued"`
	Oldest    time.Duration     `json:"oldest_ns"`
	Completed uint64            `json:"completed"`
	Failed    uint64            `json:"failed"` // and denied
	use       [maxDrawn]float32 // of the limits that the history names, -1 where there was none
}

const (
	// span is how far back the pictures go.
	span = 5 * time.Minute
	// maxDrawn bounds the limits whose use is remembered.
	maxDrawn = 32
)

// history is the points of the last minutes.
type history struct {
	points []point
	names  []string
}

// add adds a point. What has been handed out stays as it is.
func (h *history) add(s *sluice.Snapshot, interval time.Duration) {
	x := point{At: s.At, InFlight: s.InFlight, Queued: s.Queued, Completed: s.Completed, Failed: s.Failed + s.Denied}
	for i := range x.use {
		x.use[i] = -1
	}
	for i := range s.Lanes {
		x.Oldest = max(x.Oldest, s.Lanes[i].Oldest)
	}
	at := make(map[string]int, len(h.names))
	for i, n := range h.names {
		at[n] = i
	}
	var gone []int // nil before it is asked for
	for i := range s.Gates {
		g := &s.Gates[i]
		if g.Limit <= 0 || g.Kind == "breaker" {
			continue
		}
		j, ok := at[g.Name]
		if !ok {
			if j = len(h.names); j < maxDrawn {
				h.names = append(h.names, g.Name)
			} else {
				if gone == nil {
					gone = h.gone()
				}
				for len(gone) > 0 && x.use[gone[0]] >= 0 {
					gone = gone[1:] // it is back
				}
				if len(gone) == 0 {
					continue
				}
				j, gone = gone[0], gone[1:]
				delete(at, h.names[j])
				h.names = slices.Clone(h.names) // readings have them
				h.names[j] = g.Name
			}
			at[g.Name] = j
		}
		x.use[j] = max(x.use[j], float32(use(g)))
	}
	old := 0
	for old < len(h.points) && (s.At.Sub(h.points[old].At) > span || len(h.points)-old >= int(span/interval)) {
		old++
	}
	if old == 0 || cap(h.points)-len(h.points) > 0 {
		h.points = append(h.points[old:], x)
	} else {
		h.points = append(append(make([]point, 0, 2*(len(h.points)-old)+16), h.points[old:]...), x)
	}
}

// gone is the places of limits that no point knows any more: tools come and go.
func (h *history) gone() []int {
	list := []int{}
	for j := range h.names {
		if !slices.ContainsFunc(h.points, func(x point) bool { return x.use[j] >= 0 }) {
			list = append(list, j)
		}
	}
	return list
}
