package sluice

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-go/sluice/internal/stage"
)

// throttled notes that an upstream asked the attempt to wait for d, or to slow down.
func (r *running) throttled(d time.Duration) {
	until := r.inv.plan.exec.clock.Now() + int64(min(d, stage.MaxPause)) + 1
	again := &r.inv.first.remembers().again
	for was := again.Load(); was < until && !again.CompareAndSwap(was, until); was = again.Load() {
	}
}

// attemptEnded notes how an attempt ended.
func (f *first) attemptEnded(err error) {
	if err != nil {
		f.remembers().failed.Store(&err)
	} else if x := f.aside.Load(); x != nil {
		x.failed.Store(nil)
	}
	f.done.Add(1)
}

// toldAfter notes that a retry is told after n attempts, and reports whether none had been.
func (f *first) toldAfter(n int32) bool {
	for was := f.retried.Load(); was < n; was = f.retried.Load() {
		if f.retried.CompareAndSwap(was, n) {
			return true
		}
	}
	return false
}

// emitRetry reports that the attempt c, which begins, is a retry, unless somebody has: all
// attempts before it have ended.
func (inv *invocation) emitRetry(ctx context.Context, c *Call) {
	before, f := c.Attempt-1, inv.first
	if before < 1 || f.done.Load() < before || !f.toldAfter(before) {
		return
	}
	var err error
	if x := f.aside.Load(); x != nil {
		if p := x.failed.Load(); p != nil {
			err = *p
		}
	}
	inv.emitRetrying(ctx, c, before, 0, err)
}

func (inv *invocation) emitRetrying(ctx context.Context, c *Call, attempt int32, wait time.Duration, err error) {
	t := inv.event(ToolRetrying, inv.plan.exec.clock.Now())
	t.Call.Priority, t.Call.Attempt = c.Priority, attempt
	t.Queued = time.Duration(inv.first.queued.Load())
	if t.Err = err; err != nil {
		t.By, _ = whose(err)
	}
	t.RetryAfter = wait
	inv.emit(inv.toSinks(ctx), t)
}

// ReportRetry reports, by [ToolRetrying], that an interceptor outside the gates is about
// to wait, and then to call its next again, since its latest attempt ended with err. Call
// it before the wait, on the Call that the interceptor was given. Without it the event
// comes when next is called again, with a wait of zero.
//
// It does not wait, but for the sinks. After the call has ended, a second time for one
// attempt, and for a Call that no interceptor was given it does nothing. A negative wait
// counts as zero. It is safe for concurrent use.
func (c Call) ReportRetry(ctx context.Context, wait time.Duration, err error) {
	inv := c.inv
	if inv == nil || !inv.loud || inv.first == nil {
		return
	}
	if n := inv.attempts(); inv.first.toldAfter(n) {
		inv.emitRetrying(ctx, &c, n, max(wait, 0), err)
	}
}

// begin is called when the tool's code is about to run. It fails if it must not: the
// attempt is over, or it has run already.
func (r *running) begin(ctx context.Context) error {
	if err := r.enterCode(ctx); err != nil {
		return err
	}
	if r.inv.fate.Or(hasRun)&isOver != 0 {
		r.callOff()
		return r.inv.refused(ErrRejected, "",
			errors.New("sluice: the call is over: an interceptor answered before its next had ended"))
	}
	return nil
}
