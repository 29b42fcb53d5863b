package sluice

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/deadline"
	"github.com/sluice-go/sluice/internal/permit"
	"github.com/sluice-go/sluice/internal/stage"
)

// enterCode lets a next into the tool's code, unless that must not run any more.
func (r *running) enterCode(ctx context.Context) error {
	switch r.state.Begin() {
	case permit.Twice:
		return errors.New("sluice: an interceptor inside the gates called next twice: what retries must stand outside them, so that each attempt is admitted")
	case permit.Returned:
		return r.inv.refused(ErrRejected, "", errors.New("sluice: the attempt is over: an interceptor inside the gates answered before it called next"))
	case permit.Late:
		return r.inv.refused(ErrRejected, "", context.Cause(ctx))
	}
	return nil
}

// callOff takes back that r has begun.
func (r *running) callOff() {
	if r.state.CallOff() {
		r.adm.giveBack(r, nil)
	}
}

// leaveCode lets a next out of the tool's code.
func (r *running) leaveCode() {
	if r.state.Leave() {
		r.adm.giveBack(r, nil)
	}
}

// direct reports whether the handler of r's attempt is the tool's code itself, so that both
// end at once.
func (r *running) direct() bool { return r.adm.next == nil }

// attempt runs the code of an admitted call on the caller's goroutine. What the call holds
// is given back however it ends.
func (a *admission) attempt(r *running, c *Call) (res Result, err error) {
	normal := false
	defer func() {
		if !normal {
			res, err = Result{}, caught(c.Tool, recover())
		}
		a.leave(r, c, res, err)
	}()
	res, err = a.code(r, c)
	normal = true
	return res, err
}

// leave ends an attempt whose handler has returned. What it holds is given back as soon as
// no code is inside, and what its outcome means is known, or has not become known for as
// long as judging may take. The error that it answers is that of the call.
func (a *admission) leave(r *running, c *Call, res Result, err error) error {
	if err == nil {
		r.streams()
		if a.classify == nil {
			r.outcome = breaker.Success
			a.settle(r, r.state.ReturnJudged(r.direct()), nil)
			return nil
		}
	}
	r.state.Return(r.direct())
	if err != nil {
		defer r.endStreams(err)
	}
	outcome, pauses := breaker.Failure, []pause(nil)
	if err == nil {
		outcome = breaker.Success
	}
	x, _ := r.Context.(*timedRun)
	if a.classify == nil && tame(err) {
		defer func() { // also if the caller's context, which is asked, panics or calls Goexit
			r.outcome = outcome
			over, _ := r.state.Judge()
			a.settle(r, over, pauses)
		}()
		if x != nil {
			err = x.timedOut(err)
		}
		outcome, pauses = a.judge(r, c, res, err)
		return err
	}
	j := &judging{r: r}
	exec := r.inv.plan.exec
	exec.deadlines.Add(j, exec.clock.Now()+int64(maxJudging))
	defer func() { // also if the code that is asked calls Goexit
		exec.deadlines.Remove(j)
		r.outcome = outcome
		if over, inTime := r.state.Judge(); inTime {
			a.settle(r, over, pauses)
		} else {
			a.hindsight(r, pauses)
		}
	}()
	if x != nil {
		err = x.timedOut(err)
	}
	outcome, pauses = a.judge(r, c, res, err)
	return err
}

// maxJudging is how long the code that is asked about an outcome may keep what the attempt
// holds: the classify function, and methods of the error.
const maxJudging = time.Second

// judging is the question what an outcome means, while it is asked.
type judging struct {
	deadline.Entry
	r *running
}

// Expire gives back what the attempt holds. What its outcome means to the breakers follows.
func (j *judging) Expire() {
	if j.r.state.GiveUp() {
		j.r.adm.giveBack(j.r, nil)
	}
}

// tame reports whether nothing that is asked of err runs code of others.
func tame(err error) bool {
	if err == nil || err == context.Canceled || err == context.DeadlineExceeded {
		return true
	}
	if e, ok := err.(*Error); ok {
		return e != nil && e.Cause == nil
	}
	return reflect.TypeOf(err) == plainError
}

var plainError = reflect.TypeOf(errors.New(""))

// settle goes on with an attempt whose outcome has just become known, and which is over by that
// or not.
func (a *admission) settle(r *running, over bool, pauses []pause) {
	if over {
		a.giveBack(r, pauses)
	} else {
		a.linger(r, pauses)
	}
}

// linger says what the outcome of an attempt is whose code has not ended, or whose stream
// has not.
func (a *admission) linger(r *running, pauses []pause) {
	s := a.stage.Lock()
	if r.live && len(pauses) > 0 {
		a.throttle(s, r, pauses)
	}
	inside := r.live && r.state.Inside()
	switch {
	case inside:
		now := s.Now()
		s.M.Judge(now, r.ticket, r.outcome)
		r.abandon(s, now)
	case r.live:
		r.note(s) // the caller gets the record now
	}
	s.Unlock()
	if x, ok := r.Context.(*timedRun); ok && inside {
		x.End()
	}
}

// note writes what admission knows of r into the record of its call, once. The stage is locked.
func (r *running) note(s *stage.Stage) {
	if !r.noted {
		r.noted = true
		r.adm.note(s, r.inv, r.ticket, r.attempt)
	}
}

// abandon says that nobody waits for r any more, although its code, or a stream, has not ended.
// Close waits for it from then on until it gives back what it holds. The stage is locked.
func (r *running) abandon(s *stage.Stage, now int64) {
	if r.left {
		return
	}
	r.left = true
	r.note(s)
	r.inv.book(r, now)
	r.inv.first.waited--
	if !r.inv.first.counted { // else it is with the call's others
		r.inv.plan.exec.abandoned.Add(1)
		r.inv.plan.exec.active.Add(2)
	}
}

// hindsight tells the breakers of an outcome that was long in coming. Whoever gives back what
// the attempt holds finds all that follows from it under the lock, or nothing.
func (a *admission) hindsight(r *running, pauses []pause) {
	s := a.stage.Lock()
	t := r.ticket
	if t != nil && len(pauses) > 0 {
		a.throttle(s, r, pauses)
	}
	r.state.Know()
	if r.live {
		s.Unlock()
		a.linger(r, nil)
		return
	}
	if t != nil {
		s.M.Judge(s.Now(), t, r.outcome)
		r.ticket = nil
		s.M.Free(t)
	}
	s.Unlock()
}

// giveBack gives back what an attempt holds, which nobody needs any more. If its outcome is
// not known yet, hindsight does the rest.
func (a *admission) giveBack(r *running, pauses []pause) {
	inv := r.inv
	exec := inv.plan.exec
	if !r.direct() || r.state.WasHeld() { // nobody may be left but this goroutine, which is not the call's
		exec.helperStarts()
		defer exec.helperEnds()
	}
	now := exec.clock.Now() // not under the lock, which others wait for
	if x, ok := r.Context.(*timedRun); ok {
		x.End()
	}
	s := a.stage.Lock()
	t, sum := r.ticket, inv.first
	if len(pauses) > 0 {
		a.throttle(s, r, pauses)
	}
	stream := sum.holds().of(r)
	streamed := stream != nil && stream.end != nil
	late := false
	switch {
	case !r.state.HasBegun():
		s.M.Cancel(now, t)
	case !r.state.IsKnown():
		s.M.Release(now, t)
		late = true
	case stream != nil && stream.err != nil:
		s.M.Finish(now, t, stream.outcome)
	default:
		s.M.Finish(now, t, r.outcome)
	}
	abandoned := r.left
	if !r.left {
		r.note(s)
		inv.book(r, now)
		if !streamed {
			sum.waited--
			abandoned = sum.counted
		}
	}
	if streamed {
		stream.end.res.rec = stream.end.res.rec.With(t)
	}
	r.live = false
	var settled []admit.Used
	if len(t.Settled()) > 0 {
		settled = slices.Clone(t.Settled())
	}
	if !late {
		r.ticket = nil
		s.M.Free(t)
	}
	s.Unlock()
	if abandoned {
		defer exec.leave() // also if a sink calls Goexit
	}
	if r.state.HasBegun() { // else what is said is that nothing was used
		for _, u := range settled {
			a.tool.shared.learned.Learn(u.Unit, u.N)
		}
	}
	inv.attemptEnds()
	if abandoned {
		exec.abandoned.Add(-1)
	}
	if streamed {
		inv.endStreamed(stream)
	}
}
