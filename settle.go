package sluice

import (
	"context"
	"sync/atomic"

	"github.com/sluice-go/sluice/internal/bucket"
)

// ReportUsage reports what the running call really used of a unit: the difference to the
// estimate is given back to its rates, or taken from them, into debt if need be. Calling
// it again replaces what it said before. Outside a call, and after it has ended, it does
// nothing; negative counts as zero. It does not block.
func ReportUsage(ctx context.Context, unit string, used int64) {
	r := scopeOf(ctx).call
	if r == nil {
		return
	}
	s := r.adm.stage.Lock()
	if r.live {
		s.M.Settle(s.Now(), r.ticket, unit, max(used, 0))
	}
	s.Unlock()
}

// estimate is what calls of the tool are expected to use of a unit: what they used
// lately, 1 before anything is known.
func (t *toolShared) estimate(unit string) int64 {
	if v, ok := t.learned.Load(unit); ok {
		return max(1, v.(*atomic.Int64).Load())
	}
	return 1
}

// learn has the estimate follow what a call used.
func (t *toolShared) learn(unit string, used int64) {
	v, ok := t.learned.Load(unit)
	if !ok {
		v, ok = t.learned.LoadOrStore(unit, new(atomic.Int64))
	}
	est := v.(*atomic.Int64)
	if !ok {
		est.Store(used)
		return
	}
	old := est.Load()
	est.CompareAndSwap(old, bucket.Learn(old, used))
}
