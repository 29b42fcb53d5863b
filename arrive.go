package sluice

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// enter waits for admission. The attempt that it answers holds what the call needs. The
// instant now is the present one, or zero.
func (a *admission) enter(ctx context.Context, c *Call, now int64) (*running, error) {
	r, t, err := a.arrive(ctx, c, now, nil)
	if t == nil {
		return r, err
	}
	return a.await(ctx, c, t)
}

// await waits until t is decided, or ctx ends. The context may be anybody's: if that panics or
// calls Goexit, nobody waits any more.
func (a *admission) await(ctx context.Context, c *Call, t *admit.Ticket) (*running, error) {
	normal := false
	defer func() {
		if !normal {
			a.forsake(&t)
		}
	}()
	r, err := a.outcome(ctx, c, &t)
	normal = true
	return r, err
}

// outcome is what becomes of the waiting ticket *p.
func (a *admission) outcome(ctx context.Context, c *Call, p **admit.Ticket) (*running, error) {
	var gone error
	if !stage.Await(ctx, *p, func() bool {
		gone = a.giveUp(ctx, c.inv, p)
		return gone != nil
	}) {
		return nil, gone
	}
	return a.decided(ctx, c, p)
}

// forsake gives back the ticket *p, which nobody waits with any more, if there is one. It is not
// used again: somebody may be about to wake its owner.
func (a *admission) forsake(p **admit.Ticket) {
	s := a.stage.Lock()
	if t := *p; t != nil {
		*p = nil
		s.M.Cancel(s.Now(), t)
	}
	s.Unlock()
}

// arrive asks for admission. It answers the attempt, if it may run, else the ticket with
// which the call waits: its owner is where, x, if that is not nil, or a waiter.
func (a *admission) arrive(ctx context.Context, c *Call, now int64, x *submission) (*running, *admit.Ticket, error) {
	inv := c.inv
	var q asked
	if err := a.question(ctx, c, &q); err != nil {
		return nil, nil, err
	}
	if now == 0 || a.needs == nil { // that was foreign code
		now = inv.plan.exec.clock.Now() // not under the lock, which others wait for
	}
	s, t, err := a.present(ctx, c, &q, now, (*admit.Machine).Cell)
	if err != nil {
		return nil, nil, err
	}
	switch s.M.Arrive(now, t) {
	case admit.Running:
		r := a.run(ctx, c, t, now)
		s.Unlock()
		return r, nil, nil
	case admit.Refused:
		err := a.turnedAway(s, inv, t, c.Attempt)
		s.M.Free(t)
		s.Unlock()
		return nil, nil, err
	}
	if x == nil {
		s.Waits(t)
	} else {
		t.Owner, x.ticket = x, t
	}
	by := t.WaitsAt().Class().Name
	s.Unlock()
	if inv.loud {
		a.tellQueued(ctx, c, t, by, now)
	}
	return nil, t, nil
}

// question is what user code says of c, or why c must not be admitted. It holds no lock.
func (a *admission) question(ctx context.Context, c *Call, q *asked) error {
	if ctx.Err() != nil {
		return c.inv.gaveUp(ctx, "")
	}
	if !c.Priority.valid() { // an interceptor's doing
		return c.inv.refused(ErrInvalidArguments, "", fmt.Errorf("sluice: Call.Priority is %d: must be from %d to %d", c.Priority, PriorityBatch, PriorityInteractive))
	}
	if c.Pipeline == nil {
		c.Pipeline = c.inv.pipeline
	}
	if a.needs != nil {
		return nil
	}
	return a.ask(c, q)
}

// present locks the stage and makes the ticket with which c comes to it. If it fails, nothing
// is locked.
func (a *admission) present(ctx context.Context, c *Call, q *asked, now int64, cell cellFunc) (*stage.Stage, *admit.Ticket, error) {
	deadline, bounded := ctx.Deadline()
	s := a.stage.Lock()
	if c.inv.plan.exec.closed() {
		s.Unlock()
		return nil, nil, c.inv.refused(ErrClosed, "", nil)
	}
	t, err := a.ticket(s, c, q, now, cell)
	if err != nil {
		s.Unlock()
		return nil, nil, err
	}
	if bounded {
		t.Finish = s.Clock.Instant(deadline) // by which it is to start, and to be done
		t.Limit = min(t.Limit, t.Finish-1)
	}
	return s, t, nil
}

// tellQueued reports that a call waits. If a sink calls Goexit, nobody waits any more.
func (a *admission) tellQueued(ctx context.Context, c *Call, t *admit.Ticket, by string, now int64) {
	normal := false
	defer func() {
		if normal {
			return
		}
		if !stage.Awaited(t) { // a submission withdraws by itself
			return
		}
		a.forsake(&t)
	}()
	told := c.inv.event(ToolQueued, now)
	told.of(c)
	told.By = by
	c.inv.emit(c.inv.toSinks(ctx), told)
	normal = true
}

// giveUp takes a call whose context has ended, and its ticket *p, out of the queue. It
// answers nil if the call has been decided already.
func (a *admission) giveUp(ctx context.Context, inv *invocation, p **admit.Ticket) error {
	s := a.stage.Lock()
	t := *p
	if t == nil {
		s.Unlock()
		return nil
	}
	now := s.Now()
	s.M.Advance(now) // what is due comes first, and may be its own start or refusal
	if t.State() != admit.Waiting {
		s.Unlock()
		return nil
	}
	by := t.WaitsAt().Class().Name
	s.M.Cancel(now, t)
	a.note(s, inv, t, inv.attempts())
	inv.ownTotals().queued.Add(now - t.Arrived())
	*p = nil
	s.Free(t)
	s.Unlock()
	return inv.gaveUp(ctx, by)
}

// ticket is what c asks of admission, but for its caller's deadline. It answers the refusal
// by a table of keys that is full.
func (a *admission) ticket(s *stage.Stage, c *Call, q *asked, now int64, cell cellFunc) (*admit.Ticket, error) {
	s.M.Advance(now) // what is due comes first
	t := s.M.Ticket()
	if err := a.fill(s, t, c, q, now, cell); err != nil {
		s.M.Free(t)
		return nil, err
	}
	t.Plan, t.Level, t.Tenant = a.plan, c.Priority.level(), c.Pipeline.tenant()
	if t.Parent = c.inv.parent.Load().holder(s); c.run != nil {
		t.Parent = c.run.holder(s)
	}
	switch {
	case a.maxWait == NoWait:
		t.AtOnce = true
	case a.maxWait > 0:
		t.Limit = now + int64(a.maxWait)
	case t.Parent != nil:
		t.Limit = now + int64(nestedWait)
	}
	return t, nil
}

// holder is the ticket, of this stage, of the nearest call around that still runs.
func (r *running) holder(s *stage.Stage) *admit.Ticket {
	for ; r != nil; r = r.inv.parent.Load() {
		if r.adm != nil && r.adm.stage == s && r.live {
			return r.ticket
		}
	}
	return nil
}

// decided is what became of a call that waited with the ticket *p: an attempt that may run,
// or an error.
func (a *admission) decided(ctx context.Context, c *Call, p **admit.Ticket) (*running, error) {
	over := ctx.Err() != nil
	s := a.stage.Lock()
	t := *p
	s.Woken(t)
	*p = nil
	switch {
	case t.State() == admit.Refused:
		err := a.turnedAway(s, c.inv, t, c.Attempt)
		s.M.Free(t)
		s.Unlock()
		return nil, err
	case over: // it must not run any more: all goes back
		s.M.Cancel(s.Now(), t)
		a.note(s, c.inv, t, c.Attempt)
		s.M.Free(t)
		s.Unlock()
		return nil, c.inv.gaveUp(ctx, "")
	}
	r := a.run(ctx, c, t, s.Now())
	s.Unlock()
	return r, nil
}

// turnedAway is the error of a refused ticket, which it writes into the record of the call.
func (a *admission) turnedAway(s *stage.Stage, inv *invocation, t *admit.Ticket, attempt int32) error {
	a.note(s, inv, t, attempt)
	if t.Place() > 0 {
		inv.ownTotals().queued.Add(s.Now() - t.Arrived())
	}
	return a.refusal(s, inv, t, t.Refusal())
}

// refusal is what the machine's refusal of t is to the caller. The stage is locked, so
// details become text only when somebody reads it.
func (a *admission) refusal(s *stage.Stage, inv *invocation, t *admit.Ticket, f admit.Refusal) error {
	e := inv.refused(ErrQueueFull, errtext.QueueName, nil)
	if f.By != nil {
		e.By = f.By.Class().Name
	}
	e.RetryAfter = time.Duration(min(f.After, math.MaxInt64/2))
	switch f.Reason {
	case admit.QueueFull:
		e.Cause = &errtext.Bound{Waiting: t.Plan.Client.Waiting()}
	case admit.Saturated:
		e.Reason = ErrSaturated
		e.Cause = &errtext.Bound{Limit: f.By.Usage(s.Now()).Limit, Anonymous: a.anonymous(f.By)}
	case admit.TooWide:
		e.Reason, e.Cause = ErrSaturated, errTooWide
	case admit.RateLimited:
		e.Reason = ErrRateLimited
	case admit.BreakerOpen:
		e.Reason = ErrBreakerOpen
	case admit.TooLong:
		e.Reason = ErrWaitTooLong
		d := &errtext.Bound{Anonymous: a.anonymous(f.By)}
		if d.AtOnce = t.AtOnce; !t.AtOnce && (t.Finish == 0 || t.Limit < t.Finish-1) { // else it is the caller's deadline
			d.Within, d.Nested = cmp.Or(a.maxWait, nestedWait), a.maxWait == 0
		}
		e.Cause = d
	case admit.Cycle:
		e.Reason, e.Cause = ErrNesting, fmt.Errorf("sluice: nested calls wait for each other: %s", f.Detail)
	case admit.Closed:
		e.Reason, e.By = ErrClosed, ""
	}
	return e
}

// anonymous reports whether c counts calls by tenant, and those without one.
func (a *admission) anonymous(c *admit.Cell) bool {
	if c == nil || c.Key() != "" {
		return false
	}
	for i := range a.parts {
		if p := &a.parts[i]; p.class == c.Class() {
			return p.key >= 0 && a.keys[p.key].Kind() == rules.ByTenant
		}
	}
	return false
}

// gaveUp is the error of a call whose own context ended before its code ran.
func (inv *invocation) gaveUp(ctx context.Context, by string) error {
	cause, reason := context.Cause(ctx), ErrRejected
	if isReason(ctx.Err(), context.DeadlineExceeded) {
		reason = ErrWaitTooLong
	}
	return inv.refused(reason, by, cause)
}
