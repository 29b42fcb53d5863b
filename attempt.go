package sluice

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
)

// attempt runs next on the caller's goroutine. What the call holds is given back however
// it ends.
func (a *admission) attempt(r *running, c *Call, next Handler) (res Result, err error) {
	normal := false
	defer func() {
		if !normal {
			res, err = Result{}, caught(c.Tool, recover())
		}
		a.leave(r, c, res, err)
	}()
	res, err = next(r, *c)
	normal = true
	return res, err
}

// timed runs next on a goroutine of its own, and answers when that ends or the attempt's
// time is over, whichever comes first. What the call holds is given back when the code has
// really ended; what it means to the breakers is settled when its time is over.
func (a *admission) timed(r *running, c Call, next Handler) (Result, error) {
	caller := r.Context
	late := &Error{Tool: c.Tool, CallID: c.ID, Reason: ErrTimeout, Cause: context.DeadlineExceeded}
	ctx, cancel := context.WithTimeoutCause(caller, a.timeout, late)
	r.Context, r.outside = ctx, caller
	end, own := a.timeout, true
	if d, ok := caller.Deadline(); ok {
		if left := time.Until(d); left <= end {
			end, own = left, false
		}
	}
	timer := time.NewTimer(end)
	defer timer.Stop()
	run := &timedRun{done: make(chan struct{})}
	c.inv.exec.active.Add(2)
	go run.do(a, r, c, next, cancel)
	select {
	case <-run.done:
		return run.res, run.err
	case <-timer.C:
	}
	if !run.abandon(c.inv.exec) {
		<-run.done // both at once: its answer counts
		return run.res, run.err
	}
	outcome := breaker.Failure
	if r.phase.CompareAndSwap(fresh, calledOff) || !own || caller.Err() != nil {
		outcome = breaker.Neutral
	}
	s := a.stage.lock()
	r.left = true
	if r.live {
		now := s.now()
		s.m.Judge(now, r.ticket, outcome)
		r.inv.book(r, now)
	}
	s.unlock()
	return Result{}, late
}

// timedRun is an attempt on a goroutine of its own.
type timedRun struct {
	state atomic.Int32 // who was first: 1 the code ended, 2 the caller left
	done  chan struct{}
	res   Result
	err   error
}

func (run *timedRun) do(a *admission, r *running, c Call, next Handler, cancel context.CancelFunc) {
	exec, normal := c.inv.exec, false
	defer exec.leave()
	defer func() {
		if !run.state.CompareAndSwap(0, 1) {
			exec.abandoned.Add(-1)
		}
		close(run.done)
	}()
	defer func() {
		cancel()
		a.leave(r, &c, run.res, run.err)
	}()
	defer func() {
		if !normal {
			run.res, run.err = Result{}, caught(c.Tool, recover())
		}
		run.err = timedOut(r, &c, run.err)
	}()
	run.res, run.err = next(r, c)
	normal = true
}

// abandon has the caller go on without the code, unless that has ended just now.
func (run *timedRun) abandon(e *Executor) bool {
	e.abandoned.Add(1)
	if run.state.CompareAndSwap(0, 2) {
		return true
	}
	e.abandoned.Add(-1)
	return false
}

// timedOut makes the error of code that gave up because the attempt's time was over the
// library's own.
func timedOut(r *running, c *Call, err error) error {
	if err == nil || r.outside.Err() != nil || r.Context.Err() != context.DeadlineExceeded || !isReason(err, context.DeadlineExceeded) {
		return err
	}
	return &Error{Tool: c.Tool, CallID: c.ID, Reason: ErrTimeout, Cause: err}
}

// leave gives back what an attempt holds.
func (a *admission) leave(r *running, c *Call, res Result, err error) {
	outcome, pause := breaker.Failure, time.Duration(0)
	if err == nil {
		outcome = breaker.Success
	}
	defer func() { a.giveBack(r, outcome, pause) }() // also if a classifier calls Goexit
	outcome, pause = a.judge(r, c, res, err)
}

func (a *admission) giveBack(r *running, outcome breaker.Outcome, pause time.Duration) {
	s := a.stage.lock()
	now := s.now()
	t := r.ticket
	if pause > 0 {
		a.throttle(s, t, pause)
	}
	if r.ran() {
		s.m.Finish(now, t, outcome)
	} else {
		s.m.Cancel(now, t)
	}
	if !r.left {
		r.note(s, t)
		r.inv.book(r, now)
	}
	r.live, r.ticket = false, nil
	var settled []admit.Used
	if a.tool != nil && len(t.Settled()) > 0 {
		settled = slices.Clone(t.Settled())
	}
	s.m.Free(t)
	s.unlock()
	for _, u := range settled {
		a.tool.shared.learn(u.Unit, u.N)
	}
}
