package sluice

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
)

// throttle pauses what an upstream's answer speaks of: the keys of the call's Upstream
// rate limiters, or, without one, the tool.
func (a *admission) throttle(s *stage, t *admit.Ticket, d time.Duration) {
	s.m.Freeze() // all of them, before anybody starts
	defer func() { s.m.Thaw(s.now()) }()
	found := false
	for _, n := range t.Needs() {
		if n.Cell.Class().Upstream {
			s.pause(n.Cell, d)
			found = true
		}
	}
	if found || a.tool == nil {
		return
	}
	for _, n := range t.Needs() {
		if n.Cell.Class() == a.tool.shared.core.limits[0].class {
			s.pause(n.Cell, d)
		}
	}
}

// ReportUsage reports what the running call really used of a unit: the difference to the
// estimate is given back to its rates, or taken from them, into debt if need be. Calling
// it again replaces what it said before. Outside a call, and after it has ended, it does
// nothing; negative counts as zero. It does not block.
func ReportUsage(ctx context.Context, unit string, used int64) {
	for r := scopeOf(ctx).call; r != nil; r = r.up {
		s := r.adm.stage.lock()
		if r.live {
			s.m.Settle(s.now(), r.ticket, unit, max(used, 0))
		}
		s.unlock()
	}
}

// ReportThrottle reports that the upstream asked for a pause, as an error with a
// RetryAfter() time.Duration method does: the keys of the call's Upstream rate limiters
// pause for every waiter, or, if it has none, its tool pauses. Outside a call, after it
// has ended, and for a duration that is not positive it does nothing. At most 24 hours
// are observed. It does not block.
func ReportThrottle(ctx context.Context, retryAfter time.Duration) {
	if retryAfter <= 0 {
		return
	}
	for r := scopeOf(ctx).call; r != nil; r = r.up {
		s := r.adm.stage.lock()
		if r.live {
			r.throttled(retryAfter)
			r.adm.throttle(s, r.ticket, retryAfter)
		}
		s.unlock()
	}
}

// estimate is what calls of the tool are expected to use of a unit: what they used
// lately, 1 before anything is known.
func (t *toolShared) estimate(unit string) int64 {
	if v, ok := t.learned.Load(unit); ok {
		return max(1, v.(*atomic.Int64).Load())
	}
	return 1
}

// learn moves the estimate an eighth of the way to what a call used.
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
	est.CompareAndSwap(old, old+(used-old)/8)
}
