package sluice

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/clock"
	"github.com/sluice-go/sluice/internal/stack"
)

// timed runs the code of an admitted call on a goroutine of its own, and answers when that
// ends or the attempt's time is over, whichever comes first. What the call holds is given
// back when the code has really ended; what it means to the breakers is settled when its
// time is over.
func (a *admission) timed(r *running, c *Call) (Result, error) {
	exec := c.inv.plan.exec
	now := exec.clock.Now() // a sink may have blocked since the call was admitted
	x := &timedRun{Context: r.Context, a: a, r: r, c: *c, due: now + int64(a.timeout)}
	if d, ok := x.Context.Deadline(); ok {
		if at := exec.clock.Instant(d); at <= x.due {
			x.due, x.borrowed = at, true
		}
	}
	r.Context = x
	exec.helperStarts()
	exec.deadlines.watch(x, exec.clock, now)
	go x.do()
	<-x.ready
	exec.deadlines.forget(x)
	if x.state.Load() == codeEnded {
		res, err := x.res, x.err
		x.res, x.err = Result{}, nil
		return res, err
	}
	outcome := breaker.Failure
	if was := r.state.Or(outOfTime); was&hasBegun == 0 || x.borrowed || x.Context.Err() != nil {
		outcome = breaker.Neutral
	}
	s := a.stage.lock()
	if r.live {
		now := s.now()
		s.m.Judge(now, r.ticket, outcome)
		r.abandon(s, now)
	}
	s.unlock()
	return Result{}, x.cause()
}

// timedRun is an attempt on a goroutine of its own, and the context that its code gets.
//
// As a context it costs nothing until somebody asks for what only a timer can give: Done
// makes the standard library's own, and everything is that one's from then on. A tool may
// keep it, so it lets go of the call's input and result when they are no longer needed.
type timedRun struct {
	context.Context // the caller's
	deadline
	a        *admission
	r        *running
	c        Call
	due      int64 // when its time is over
	borrowed bool  // and that is the caller's deadline, not the attempt's

	state atomic.Int32  // who was first
	ready chan struct{} // told then
	res   Result        // of the code
	err   error

	mu   sync.Mutex
	made context.Context // nil until somebody asks
	stop context.CancelFunc
	over error  // Err since the code has ended, if nobody had asked before
	late *Error // what it means that the time is over
}

// Who was first.
const (
	codeRuns = iota
	codeEnded
	timeOver
)

func (x *timedRun) clock() clock.Clock { return x.c.inv.plan.exec.clock }

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
	if x.state.CompareAndSwap(codeRuns, codeEnded) {
		x.ready <- struct{}{}
	} else {
		x.res, x.err = Result{}, nil
	}
}

// expire has the caller go on without the code, unless that has ended just now.
func (x *timedRun) expire() {
	if x.state.CompareAndSwap(codeRuns, timeOver) {
		x.ready <- struct{}{}
	}
}

// timedOut makes the error of code that gave up because the attempt's time was over the
// library's own.
func (x *timedRun) timedOut(err error) error {
	if err == nil || x.Context.Err() != nil || x.Err() != context.DeadlineExceeded || !isReason(err, context.DeadlineExceeded) {
		return err
	}
	return x.c.inv.refused(ErrTimeout, "", err)
}

// cause is the error of a call whose time is over.
func (x *timedRun) cause() *Error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.causeLocked()
}

func (x *timedRun) causeLocked() *Error {
	if x.late == nil {
		x.late = x.c.inv.refused(ErrTimeout, "", context.DeadlineExceeded)
	}
	return x.late
}

// realLocked is the context of the standard library that x stands for.
func (x *timedRun) realLocked() context.Context {
	if x.made != nil {
		return x.made
	}
	switch d, _ := x.Deadline(); {
	case x.over != nil: // whatever becomes of the caller's context later
		x.made, x.stop = context.WithCancel(context.WithoutCancel(x.Context))
		x.stop()
	case x.borrowed:
		x.made, x.stop = context.WithCancel(x.Context)
	default:
		x.made, x.stop = context.WithDeadlineCause(x.Context, d, x.causeLocked())
	}
	return x.made
}

// Deadline is when the attempt's time is over.
func (x *timedRun) Deadline() (time.Time, bool) {
	if x.borrowed {
		return x.Context.Deadline()
	}
	return x.clock().Time(x.due), true
}

// Done is closed when the attempt's time is over, its code has ended, or the caller's
// context has.
func (x *timedRun) Done() <-chan struct{} {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.realLocked().Done()
}

// Err says why Done is closed, if it is.
func (x *timedRun) Err() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.errLocked()
}

func (x *timedRun) errLocked() error {
	switch {
	case x.over != nil:
		return x.over
	case x.made != nil:
		return x.made.Err()
	case x.Context.Err() != nil, x.clock().Now() >= x.due:
		return x.realLocked().Err() // which has ended, and knows the cause
	}
	return nil
}

// Value passes the question on.
func (x *timedRun) Value(key any) any {
	x.mu.Lock()
	from := x.Context
	if x.made != nil || x.over != nil {
		from = x.realLocked()
	}
	x.mu.Unlock()
	return from.Value(key)
}

// end ends the context: the code has ended.
func (x *timedRun) end() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.made != nil {
		x.stop()
		return
	}
	if x.over = x.errLocked(); x.over == nil {
		x.over = context.Canceled
	}
}
