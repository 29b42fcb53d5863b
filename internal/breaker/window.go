package breaker

import "math"

const buckets = 10

// window counts the results of the last Window, in constant memory: the current tenth,
// which began at a multiple of its width, and the nine before it. So what it counts is at
// most one Window old, and everything younger than 0.9 Windows is counted.
type window struct {
	ring  [buckets]uint64 // failures in the upper half, results in the lower
	total uint64          // sum of ring
	edge  int64           // end of the current tenth
	head  uint8           // the current tenth
}

const (
	oneResult  uint64 = 1
	oneFailure uint64 = 1<<32 | 1
)

// width of a tenth, rounded up so that ten of them hold a Window.
func width(span int64) int64 { return (span-1)/buckets + 1 }

// add counts one result (oneResult or oneFailure).
func (w *window) add(now, span int64, n uint64) {
	if now >= w.edge {
		w.advance(now, width(span))
	}
	if uint32(w.total) == math.MaxUint32 {
		return // more would spill into the failures
	}
	w.ring[w.head] += n
	w.total += n
}

// addSuccesses is add of so many successes.
func (w *window) addSuccesses(now, span int64, n uint64) {
	if now >= w.edge {
		w.advance(now, width(span))
	}
	n = min(n, uint64(math.MaxUint32-w.results())) * oneResult
	w.ring[w.head] += n
	w.total += n
}

// edge is the end of the tenth that holds now.
func edge(now, width int64) int64 {
	begin := now - now%width
	if now < 0 && begin != now {
		begin -= width
	}
	return after(begin, width)
}

// advance makes the tenth that holds now the current one and drops what is too old.
func (w *window) advance(now, width int64) {
	edge := edge(now, width)
	// Both are multiples of width; the difference is taken without a sign since it may
	// span the whole range.
	steps := (uint64(edge) - uint64(w.edge)) / uint64(width)
	if steps >= buckets || w.total == 0 {
		w.clear()
	} else {
		for ; steps > 0; steps-- {
			w.head = (w.head + 1) % buckets
			w.total -= w.ring[w.head]
			w.ring[w.head] = 0
		}
	}
	w.edge = edge
}

func (w *window) clear() { *w = window{edge: math.MinInt64} }

// emptyAt is the instant from which nothing that was counted is young enough, if anything was.
func (w *window) emptyAt(span int64) int64 { return after(w.edge, (buckets-1)*width(span)) }

func (w *window) failures() uint32 { return uint32(w.total >> 32) }
func (w *window) results() uint32  { return uint32(w.total) }
