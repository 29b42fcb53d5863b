package sluice

import (
	"slices"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
)

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

// leave gives back what an attempt holds.
func (a *admission) leave(r *running, c *Call, res Result, err error) {
	if err == nil && a.classify == nil {
		a.giveBack(r, breaker.Success, 0)
		return
	}
	outcome, pause := breaker.Failure, time.Duration(0)
	if err == nil {
		outcome = breaker.Success
	}
	defer func() { a.giveBack(r, outcome, pause) }() // also if a classifier calls Goexit
	outcome, pause = a.judge(r, c, res, err)
	if pause > 0 || outcome == breaker.Overload {
		r.throttled(pause)
	}
}

func (a *admission) giveBack(r *running, outcome breaker.Outcome, pause time.Duration) {
	now := r.inv.plan.exec.clock.now() // not under the lock, which others wait for
	s := a.stage.lock()
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
		a.note(s, r.inv, t, r.attempt)
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
