package sim

import (
	"math"
	"math/bits"
	"time"
)

// hist counts durations in 64 steps per power of two, so a quantile is at most 1.6 %
// above the true one. Zero, count, sum and largest are exact.
type hist struct {
	zeros, n int64
	sum      float64
	max      int64
	pages    [64]*[64]int64
}

func (h *hist) add(v int64) {
	h.n++
	if v <= 0 {
		h.zeros++
		return
	}
	h.sum += float64(v)
	h.max = max(h.max, v)
	p, i := slot(v)
	if h.pages[p] == nil {
		h.pages[p] = new([64]int64)
	}
	h.pages[p][i]++
}

// slot is v's page and place: values below 64 have page 0 to themselves.
func slot(v int64) (page, i int) {
	shift := max(0, bits.Len64(uint64(v))-7)
	if v < 64 {
		return 0, int(v)
	}
	return shift + 1, int(v>>shift) - 64
}

// upper is the largest value of a slot.
func upper(page, i int) int64 {
	if page == 0 {
		return int64(i)
	}
	shift := page - 1
	return (int64(i+64)+1)<<shift - 1
}

func (h *hist) merge(o *hist) {
	h.n += o.n
	h.zeros += o.zeros
	h.sum += o.sum
	h.max = max(h.max, o.max)
	for p, page := range o.pages {
		if page == nil {
			continue
		}
		if h.pages[p] == nil {
			h.pages[p] = new([64]int64)
		}
		for i, n := range page {
			h.pages[p][i] += n
		}
	}
}

// quantile is the smallest value that at least the share q of all is not above.
func (h *hist) quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := max(1, int64(math.Ceil(q*float64(h.n))))
	seen := h.zeros
	if seen >= rank {
		return 0
	}
	for p, page := range h.pages {
		if page == nil {
			continue
		}
		for i, n := range page {
			if seen += n; n > 0 && seen >= rank {
				return time.Duration(min(upper(p, i), h.max))
			}
		}
	}
	return time.Duration(h.max)
}

// times is what a report says of h.
func (h *hist) times() Times {
	t := Times{
		Count: h.n,
		P50:   h.quantile(0.5),
		P90:   h.quantile(0.9),
		P99:   h.quantile(0.99),
		P999:  h.quantile(0.999),
		Max:   time.Duration(h.max),
	}
	if h.n > 0 {
		t.Mean = time.Duration(h.sum / float64(h.n))
	}
	return t
}
