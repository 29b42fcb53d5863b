package sluice

import (
	"context"
	"sync/atomic"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/deadline"
	"github.com/sluice-go/sluice/internal/stack"
)

// timed runs the code of an admitted call on a goroutine of its own, and answers when that
// ends or the attempt's time is over, whichever comes first. What the call holds is given
// back when the code has really ended; what it means to the breakers is settled when its
// time is over.
func (a *admission) timed(r *running, c *Call) (Result, error) {
	exec := c.inv.plan.exec
	x := &timedRun{a: a, r: r, c: *c}
	x.Begin(&exec.deadlines, r.Context, a.timeout, x)
	r.Context = x
	exec.helperStarts()
	go x.do()
	if x.Wait() {
		res, err := x.res, x.err
		x.res, x.err = Result{}, nil
		return res, err
	}
	outcome := breaker.Failure
	if !r.state.Expire() || x.Borrowed() || x.Caller().Err() != nil {
		outcome = breaker.Neutral
	}
	s := a.stage.Lock()
	if r.live {
		now := s.Now()
		s.M.Judge(now, r.ticket, outcome)
		r.abandon(s, now)
	}
	s.Unlock()
	return Result{}, x.Cause()
}

// timedRun is an attempt on a goroutine of its own, and the context that its code gets. A tool
// may keep that, so it lets go of the call's input and result when they are no longer needed.
type timedRun struct {
	deadline.Context
	a    *admission
	r    *running
	c    Call
	res  Result // of the code
	err  error
	late atomic.Pointer[Error] // what it means that the time is over
}

func (x *timedRun) do() {
	stack.Grow()
	normal := false
	defer x.c.inv.plan.exec.helperEnds()
	defer x.hand()
	defer func() {
		if !normal {
			x.res, x.err = Result{}, caught(x.c.Tool, recover())
		}
		left := false
		defer func() {
			if !left { // what is asked about the outcome called Goexit
				x.res, x.err = Result{}, caught(x.c.Tool, recover())
			}
		}()
		x.err = x.a.leave(x.r, &x.c, x.res, x.err)
		left = true
	}()
	x.res, x.err = x.a.code(x.r, &x.c)
	normal = true
}

// hand gives the caller what the code answered, if it still waits.
func (x *timedRun) hand() {
	x.c.Input = nil
	if !x.Finish() {
		x.res, x.err = Result{}, nil
	}
}

// timedOut makes the error of code that gave up because the attempt's time was over the
// library's own.
func (x *timedRun) timedOut(err error) error {
	late := err != nil && x.Caller().Err() == nil && x.Err() == context.DeadlineExceeded
	if late && isReason(err, context.DeadlineExceeded) {
		return x.c.inv.refused(ErrTimeout, "", err)
	}
	return err
}

// Cause is the error of a call whose time is over.
func (x *timedRun) Cause() error {
	if x.late.Load() == nil {
		x.late.CompareAndSwap(nil, x.c.inv.refused(ErrTimeout, "", context.DeadlineExceeded))
	}
	return x.late.Load()
}

// help runs f on a goroutine that Close waits for.
func (e *Executor) help(f func()) {
	e.helperStarts()
	go func() {
		defer e.helperEnds()
		f()
	}()
}
