// Package learned remembers what calls turned out to cost, so that the cost of the next one can be
// estimated. It is safe for concurrent use; nobody waits.
package learned

import (
	"cmp"
	"sync"
	"sync/atomic"
)

// Costs is what the calls of one tool use of each unit. The zero value knows nothing.
type Costs struct{ units sync.Map } // unit → *atomic.Int64

// Estimate is what a call is expected to use of a unit: 1 at first, and never less.
func (c *Costs) Estimate(unit string) int64 {
	if v, ok := c.units.Load(unit); ok {
		return max(1, v.(*atomic.Int64).Load())
	}
	return 1
}

// Learn has the estimate follow what a call used: the first as it is, then an eighth of the way to
// each, and at least one, for units of which calls take few. Of several at once one may be passed over.
func (c *Costs) Learn(unit string, used int64) {
	v, ok := c.units.Load(unit)
	if !ok {
		v, ok = c.units.LoadOrStore(unit, new(atomic.Int64))
	}
	est := v.(*atomic.Int64)
	if !ok {
		est.Store(used)
		return
	}
	old := est.Load()
	step := (used - old) / 8
	if step == 0 {
		step = int64(cmp.Compare(used, old))
	}
	est.CompareAndSwap(old, old+step)
}
