package sluice

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
)

// enter waits for admission. The attempt that it answers holds what the call needs.
func (a *admission) enter(ctx context.Context, c *Call) (*running, error) {
	if ctx.Err() != nil {
		return nil, c.inv.gaveUp(ctx, "")
	}
	r := c.inv.newRunning(ctx, c.Attempt, c.run)
	r.adm = a
	w, err := a.arrive(r, c, nil)
	if w == nil {
		return r, err
	}
	select {
	case <-w.ready:
	case <-ctx.Done():
		if err := a.giveUp(r, w); err != nil {
			return nil, err
		}
		<-w.ready // decided meanwhile
	}
	return r, a.decided(r, w)
}

// arrive asks for admission. It answers where to wait, if the call has to: at w, or, of a
// future, until that is told.
func (a *admission) arrive(r *running, c *Call, f *Future) (*waiter, error) {
	if !c.Priority.valid() { // an interceptor's doing
		return nil, c.inv.refused(ErrInvalidArguments, "", fmt.Errorf("sluice: Call.Priority is %d: must be from %d to %d", c.Priority, PriorityBatch, PriorityInteractive))
	}
	if c.Pipeline == nil {
		c.Pipeline = c.inv.pipeline
	}
	var q asked
	if a.needs == nil {
		if err := a.ask(c, &q); err != nil {
			return nil, err
		}
	}
	s := a.stage.lock()
	now := c.inv.start // one reading serves the door and admission, if no foreign code ran between
	if c.Attempt != 1 || a.needs == nil || c.inv.loud || len(c.inv.exec.outer) > 0 {
		now = s.now()
	}
	if c.inv.exec.closed() {
		s.unlock()
		return nil, c.inv.refused(ErrClosed, "", nil)
	}
	t := s.m.Ticket()
	if err := a.fill(s, t, c, &q, now, (*admit.Machine).Cell); err != nil {
		s.m.Free(t)
		s.unlock()
		return nil, err
	}
	t.Plan = a.plan
	t.Level = c.Priority.level()
	t.Tenant = c.Pipeline.tenant()
	if t.Parent = c.inv.parent.holder(s); c.run != nil {
		t.Parent = c.run.holder(s)
	}
	a.limit(r.Context, s, t, now)
	switch s.m.Arrive(now, t) {
	case admit.Running:
		r.ticket = t
		r.admitted(t, now)
		s.unlock()
		return nil, nil
	case admit.Refused:
		err := r.refused(s, t)
		s.m.Free(t)
		s.unlock()
		return nil, err
	}
	r.ticket = t
	w := s.newWaiter(c.inv.exec, c.Tool, f)
	t.Owner = w
	by := t.WaitsAt().Class().Name
	s.unlock()
	if c.inv.loud {
		a.tellQueued(r, c, by, now)
	}
	return w, nil
}

// tellQueued reports that a call waits. If a sink calls Goexit, nobody waits any more.
func (a *admission) tellQueued(r *running, c *Call, by string, now int64) {
	normal := false
	defer func() {
		if normal {
			return
		}
		s := a.stage.lock()
		s.m.Cancel(s.now(), r.ticket) // which is not used again: somebody may be about to wake it
		r.ticket = nil
		s.unlock()
	}()
	var ev Event
	c.inv.describe(&ev, ToolQueued, now)
	ev.Call, ev.By = *c, by
	ev.Call.inv, ev.Call.run = nil, nil
	c.inv.emit(r.Context, &ev, false)
	normal = true
}

// giveUp takes a call whose context has ended out of the queue. It answers nil if the call
// has been decided already.
func (a *admission) giveUp(r *running, w *waiter) error {
	s := a.stage.lock()
	t := r.ticket
	if t == nil || t.State() != admit.Waiting {
		s.unlock()
		return nil
	}
	by := t.WaitsAt().Class().Name
	now := s.now()
	s.m.Cancel(now, t)
	if t.State() != admit.Left { // it was too late just now, which says as much
		s.unlock()
		return nil
	}
	r.note(s, t)
	r.inv.queued.Add(now - t.Arrived())
	r.ticket = nil
	s.m.Free(t)
	s.freeWaiter(w)
	s.unlock()
	return r.inv.gaveUp(r.Context, by)
}

// limit sets the latest instant at which t may start.
func (a *admission) limit(ctx context.Context, s *stage, t *admit.Ticket, now int64) {
	if a.maxWait > 0 {
		t.Limit = now + int64(a.maxWait)
	} else if t.Parent != nil {
		t.Limit = now + int64(nestedWait)
	}
	if d, ok := ctx.Deadline(); ok {
		t.Finish = s.clock.instant(d)
		t.Limit = min(t.Limit, t.Finish-1)
	}
}

// holder is the ticket, of this stage, of the nearest call around that still runs.
func (r *running) holder(s *stage) *admit.Ticket {
	for ; r != nil; r = r.around() {
		if r.adm != nil && r.adm.stage.p.Load().is(s) && r.live {
			return r.ticket
		}
	}
	return nil
}

// around is the attempt that r is in: of the same call, else of the one it is nested in.
func (r *running) around() *running {
	if r.up != nil {
		return r.up
	}
	return r.inv.parent
}

// is reports whether s is, or has become part of, the locked stage t.
func (s *stage) is(t *stage) bool {
	for s != nil && s != t {
		s = s.into.Load()
	}
	return s == t
}

// decided is what became of a call that waited.
func (a *admission) decided(r *running, w *waiter) (err error) {
	s := a.stage.lock()
	defer s.unlock()
	t := r.ticket
	s.freeWaiter(w)
	switch {
	case t.State() == admit.Refused:
		err = r.refused(s, t)
	case r.Context.Err() != nil: // it must not run any more: all goes back
		s.m.Cancel(s.now(), t)
		r.note(s, t)
		err = r.inv.gaveUp(r.Context, "")
	default:
		r.admitted(t, s.now())
		return nil
	}
	r.ticket = nil
	s.m.Free(t)
	return err
}

// admitted makes r an attempt that runs from the instant now on.
func (r *running) admitted(t *admit.Ticket, now int64) {
	r.live, r.granted = true, now
	if t.Place() > 0 {
		r.inv.queued.Add(now - t.Arrived())
	}
}

// refused is the error of a refused ticket.
func (r *running) refused(s *stage, t *admit.Ticket) error {
	r.note(s, t)
	if t.Place() > 0 {
		r.inv.queued.Add(s.now() - t.Arrived())
	}
	return r.inv.refusal(t.Refusal())
}

// refusal is what the machine's refusal is to the caller.
func (inv *invocation) refusal(f admit.Refusal) error {
	e := inv.refused(ErrQueueFull, "queue", nil)
	if f.By != nil {
		e.By = f.By.Class().Name
	}
	e.RetryAfter = time.Duration(min(f.After, math.MaxInt64/2))
	switch f.Reason {
	case admit.Saturated:
		e.Reason = ErrSaturated
	case admit.TooWide:
		e.Reason, e.Cause = ErrSaturated, errors.New("sluice: the call weighs more than the limit")
	case admit.RateLimited:
		e.Reason = ErrRateLimited
	case admit.BreakerOpen:
		e.Reason = ErrBreakerOpen
	case admit.TooLong:
		e.Reason = ErrWaitTooLong
	case admit.Cycle:
		e.Reason, e.Cause = ErrNesting, fmt.Errorf("sluice: nested calls wait for each other: %s", f.Detail)
	case admit.Closed:
		e.Reason, e.By = ErrClosed, ""
	}
	return e
}

func reasonOf(k admit.Kind) error {
	switch k {
	case admit.Tokens, admit.Foreign:
		return ErrRateLimited
	}
	return ErrSaturated
}

// gaveUp is the error of a call whose own context ended before its code ran.
func (inv *invocation) gaveUp(ctx context.Context, by string) error {
	cause, reason := context.Cause(ctx), ErrRejected
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		reason = ErrWaitTooLong
	}
	return inv.refused(reason, by, cause)
}
