package sluice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/sluice-go/sluice/internal/deadline"
	"github.com/sluice-go/sluice/internal/eventtext"
	"github.com/sluice-go/sluice/internal/permit"
	"github.com/sluice-go/sluice/internal/stage"
)

// Stepper is an [Interceptor] for outside the gates whose part in a call is steps that do not wait. Where all
// that stand there are such, a call passes them on the goroutine that it has: one that was submitted has
// none while it waits, also to be made again, and is admitted in its turn.
type Stepper interface {
	Interceptor            // for where others stand too; see Steps.Wrap
	Steps(tool Spec) Steps // runs when Wrap would, and is as that
}

// Steps is what a [Stepper] does with each call: Before on its way in, and After on its way out. That does not come if
// Before has kept it from going further in. Neither may wait, and what is nil does nothing. A step is for one call and
// runs on one goroutine at a time; s is its own until it returns. A panic ends the call.
type Steps struct {
	Before, After func(ctx context.Context, s *Step)
}

// Step is a call as a step of [Steps] finds it.
type Step struct {
	Result Result // what there is on the way out, to change
	Err    error  // likewise
	State  any    // the interceptor's own for this call, from step to step; nil at first

	list    *[]Steps
	states  *[]any // of each of list; nil if none has any
	at      int32  // which of them has its turn, or is next on the way in
	hung    int32  // who was to have it go in again, from 1, when code of its last attempt went on; else zero
	out     bool   // the call is on its way out
	unseen  bool   // the outcome is of the first attempt, a success of which nothing is known
	does    deed
	wait    time.Duration
	instead Handler

	inv    *invocation
	input  any
	given  *Call           // what interceptors around have made of the call; nil if there are none but steps
	within *deadline.Bound // how the call is bounded by now
	own    deadline.Bound  // the first of those
	now    int64           // the present instant; zero if it is not known
	pause  *pause          // of a submitted call that rests
}

// deed is what a step wants.
type deed uint8

const (
	goesOn   deed = iota
	answers       // Result and Err are the outcome
	again         // the call is to go in once more
	replaces      // a Handler is to have the outcome
)

// Call is the call, to read.
func (s *Step) Call() Call {
	c := Call{Input: s.input}
	if s.given != nil {
		c = s.given.shown()
	} else if s.inv != nil {
		s.inv.fill(&c, false)
	}
	if s.inv != nil {
		c.Attempt = s.inv.begun()
	}
	return c
}

// Attempt is the attempt that the outcome is of, as [Call.AttemptOf].
func (s *Step) Attempt() Attempt {
	if s.unseen && s.Result.from.Attempt(uint64(s.inv.key), 1) == 1 {
		return Attempt{N: 1, Ran: true, Outcome: OutcomeSuccess}
	}
	return Call{inv: s.inv}.AttemptOf(s.Result, s.Err)
}

// Answer has r and err be the outcome, as one of the interceptor's own. In Before it keeps the call from going
// further in.
func (s *Step) Answer(r Result, err error) {
	r.from = 0
	s.Result, s.Err, s.does = r, err, answers
}

// Instead has h give the outcome once the step has returned, with the call as [Handler] gets it. It may wait,
// and use the Call's methods. In Before it keeps the call from going further in.
func (s *Step) Instead(h Handler) { s.instead, s.does = h, replaces }

// Again has the call go in once more after a wait, from where it has left this interceptor further in: another
// attempt, told as a [ToolRetrying]. It holds nothing meanwhile. If the context ends before that, After has a
// refusal next, of no attempt; if code of the last attempt goes on at the end of the wait, the same outcome once
// more. The wait ends with the time that is left, and with Close: the attempt after it is refused. Once any of
// these is over, and in Before, Again does nothing.
func (s *Step) Again(wait time.Duration) { s.wait, s.does = max(wait, 0), again }

// Within leaves what is further in no more than d from now on, as [Call.Within]. It is for Before.
func (s *Step) Within(d time.Duration, cause error) {
	if s.inv == nil {
		return
	}
	now := s.now
	if now == 0 {
		now = s.inv.plan.exec.clock.Now()
	}
	b, ok := s.within.Less(now, d, cause)
	if !ok {
		return
	}
	x := &s.own
	if x.Cause != nil || !s.inv.plan.single || s.given != nil { // it is taken, or others have the Call
		x = new(deadline.Bound)
	}
	*x, x.Layer = b, s.at
	s.within = x
}

// reset makes s, whose call was a single attempt, ready for another call.
func (s *Step) reset() {
	s.Result, s.Err, s.State = Result{}, nil, nil
	s.inv, s.input, s.out, s.unseen, s.states = nil, nil, false, false, nil
}

// IsOver reports, on the way out, whether the time is over that this interceptor has left by Within.
func (s *Step) IsOver() bool {
	w := s.within
	return s.isOwn(w) && s.inv.plan.exec.clock.Now() >= w.Due-1 // at which a wait in the queue ends
}

// Deadline is as [Call.Deadline], of what interceptors so far have left.
func (s *Step) Deadline(ctx context.Context) (at time.Time, ok bool) {
	return Call{inv: s.inv, within: s.within}.Deadline(ctx)
}

// Emit emits an event of the interceptor's own, as [Call.Emit].
func (s *Step) Emit(ctx context.Context, kind EventKind, attrs ...slog.Attr) error {
	if s.inv != nil {
		s.inv.ownTotals()
	}
	return Call{inv: s.inv, Priority: s.Call().Priority}.Emit(ctx, kind, attrs...)
}

// isOwn reports whether w is of the interceptor whose turn it is.
func (s *Step) isOwn(w *deadline.Bound) bool {
	return w != nil && w.Layer == s.at && (s.given == nil || w != s.given.within)
}

// move is what is to be done for a call between its steps.
type move uint8

const (
	isOut  move = iota // nothing: Result and Err are its outcome
	tries              // an attempt, which gives Result and Err
	runs               // instead, which gives them
	pauses             // a wait, before it goes on
)

// turn takes the call from step to step until there is something to do that may wait.
func (s *Step) turn(ctx context.Context) move {
	for {
		switch {
		case !s.out && int(s.at) == len(*s.list):
			s.out, s.hung, s.now = true, 0, 0
			return tries
		case !s.out:
			s.does = goesOn
			if f := (*s.list)[s.at].Before; f != nil {
				s.State = nil
				s.step(ctx, f)
			}
			if s.out = s.does == answers || s.does == replaces; !s.out {
				s.at++
				continue
			}
		case s.at == 0:
			return isOut
		default:
			s.at--
			s.does = goesOn
			if f := (*s.list)[s.at].After; f != nil {
				if s.State = nil; s.states != nil {
					s.State = (*s.states)[s.at]
				}
				s.step(ctx, f)
			}
			if s.does == again && s.hung != s.at+1 && s.mayGoOn(ctx) {
				s.at++
				s.out = false
				return pauses
			}
		}
		if w := s.within; s.isOwn(w) {
			if s.within = w.Up; w == &s.own {
				s.own.Cause = nil
			}
		}
		if s.does == replaces {
			return runs
		}
	}
}

// mayGoOn reports whether the call may be made again: its context and its time are not over, nor is the executor
// closed.
func (s *Step) mayGoOn(ctx context.Context) bool {
	w := s.within
	return s.inv != nil && ctx.Err() == nil && !s.inv.plan.exec.closed() && (w == nil || s.inv.plan.exec.clock.Now() < w.Due)
}

// step has the interceptor whose turn it is take a step.
func (s *Step) step(ctx context.Context, f func(context.Context, *Step)) {
	f(ctx, s)
	if s.State != nil && s.states == nil {
		states := make([]any, len(*s.list))
		s.states = &states
	}
	if s.states != nil {
		(*s.states)[s.at] = s.State
	}
}

// run has instead give the outcome of c.
func (s *Step) run(ctx context.Context, c Call) (Result, error) {
	h := s.instead
	s.instead, s.unseen, s.now = nil, false, 0
	if s.inv != nil {
		c.Attempt = s.inv.begun()
	}
	if w := s.within; w != nil {
		bounded, cancel := context.WithDeadlineCause(ctx, s.inv.plan.exec.clock.Time(w.Due), w.Cause)
		defer cancel()
		own := *w // who has c may keep it
		c.within, ctx = &own, bounded
	}
	return h(ctx, c)
}

// pause is the wait of a submitted call between attempts.
type pause struct {
	deadline.Entry
	call *submission
}

// Expire ends it.
func (p *pause) Expire() {
	if p.call.wakes() {
		p.call.inv.plan.exec.crew.Run(p.call)
	}
}

// begin reports that the call is made again, and says when.
func (s *Step) begin(ctx context.Context) (due int64) {
	s.inv.ownTotals()
	Call{inv: s.inv, Priority: s.inv.priority}.ReportRetry(ctx, s.wait, s.Err)
	return s.within.Until(s.inv.plan.exec.clock.Now() + int64(min(s.wait, deadline.Endless)))
}

// rest waits until the call is to go in again, or its context ends.
func (s *Step) rest(ctx context.Context) {
	if due := s.begin(ctx); s.wait > 0 {
		s.inv.plan.exec.pauses.Sleep(ctx, due)
	}
	s.resume(ctx)
}

// resume has the call go in again, unless its context has ended or code of it goes on: then it goes out.
func (s *Step) resume(ctx context.Context) {
	s.does, s.now = goesOn, 0
	if s.out = ctx.Err() != nil; s.out {
		s.Result, s.Err, s.unseen = Result{}, s.inv.gaveUp(ctx, ""), false
	} else if s.out = s.Attempt().Running; s.out {
		s.hung = s.at
	}
}

// Wrap makes l a Handler around next, for the Wrap method of a [Stepper].
func (l Steps) Wrap(next Handler) Handler {
	if l.Before == nil && l.After == nil {
		return next
	}
	list := &[]Steps{l}
	return func(ctx context.Context, c Call) (Result, error) {
		s := &Step{list: list, inv: c.inv, given: &c, within: c.within}
		for {
			switch s.turn(ctx) {
			case tries:
				d := c
				d.within = s.within
				s.Result, s.Err = next(ctx, d)
			case runs:
				s.Result, s.Err = s.run(ctx, c)
			case pauses:
				s.rest(ctx)
			default:
				return s.Result, s.Err
			}
		}
	}
}

// climb takes the call of x through the steps of interceptors, and makes its attempts.
func (x *frame) climb(ctx context.Context, now int64) (Result, error) {
	inv, s := x.c.inv, &x.step
	s.list, s.inv, s.input, s.now = &inv.plan.steps, inv, x.c.Input, now
	var refused error // and nothing else has become of the call
	for {
		switch s.turn(ctx) {
		case tries:
			if !inv.tried && inv.plan.single {
				x.c.within = s.within
				s.Result, s.Err = x.try(ctx, now)
			} else {
				x.goesOn()
				c := x.c // which code of an attempt before may have
				c.within = s.within
				s.Result, s.Err = inv.plan.adm.do(ctx, &c, 0, nil)
				x.stage = underWay
			}
			if s.unseen = x.stage == succeeded; x.stage == turnedDown {
				refused = s.Err
			}
			s.Result.from = inv.latest()
		case runs:
			x.goesOn()
			now = 0
			s.Result, s.Err = s.run(ctx, x.c)
		case pauses:
			x.goesOn()
			now = 0
			s.rest(ctx)
		default:
			if s.Err != nil && x.stage == succeeded || x.stage == turnedDown && s.Err != refused {
				x.goesOn()
			}
			return s.Result, s.Err
		}
	}
}

// try makes the first attempt. A panic in it is its error.
func (x *frame) try(ctx context.Context, now int64) (res Result, err error) {
	a, normal := x.c.inv.plan.adm, false
	defer func() {
		if normal {
			return
		}
		if v := recover(); v != nil { // else all ends
			res, err = Result{}, caught(x.c.Tool, v)
			x.broken(res, err)
		}
	}()
	res, err = a.attempt(ctx, x, now)
	normal = true
	return res, err
}

// bound has the first attempt of x, at a, get a context that ends in time.
func (x *frame) bound(a *admission) {
	if a.timeout > 0 {
		return
	}
	if !a.bounded.Load() {
		a.bounded.Store(true) // and calls that begin have one from the beginning
	}
	if g := x.call.space.given; g != nil && !g.timed { // which sinks have
		x.call.attempts.Keep()
	}
}

// goesOn says that there is more to the call of x than an attempt that nobody has seen.
func (x *frame) goesOn() {
	w := x.call
	if x.stage == succeeded {
		w.space.Seen()
		w.space.given.sight.Ended()
		w.space.given = nil
	}
	x.stage, w.wentOn = underWay, true
	w.attempts.Keep()
}

// latest is where an outcome comes from that is of the latest attempt.
func (inv *invocation) latest() permit.Source { return permit.SourceOf(uint64(inv.key), inv.begun()) }

// step is where x is among the steps of interceptors; nil if there are none.
func (x *submission) step() *Step {
	if x.inv.plan.steps == nil {
		return nil
	}
	s, _ := x.input.(*Step)
	return s
}

// climb takes the call from step to step until it has to wait, or its code is to run, or it is over.
func (x *submission) climb(s *Step, now int64) {
	switch s.turn(x.ctx) {
	case tries:
		x.phase.Store(submitting)
		var c Call
		x.call(&c)
		x.submit(&c, now)
	case runs:
		x.goesOn()
		x.phase.Store(submitting)
		x.inv.plan.exec.crew.Run(x)
	case pauses:
		x.goesOn()
		x.rest(s)
	default:
		x.finish(s.Result, s.Err)
	}
}

// goesOn says that the call is not over with an attempt.
func (x *submission) goesOn() {
	x.inv.ownTotals()
	x.inv.wentOn = true
}

// rest begins the wait for the next attempt.
func (x *submission) rest(s *Step) {
	e, p := x.inv.plan.exec, &pause{call: x}
	due := s.begin(x.ctx)
	s.pause = p
	x.phase.Store(toRest)
	e.watched.Add(x.ctx, x)
	if e.pauses.Add(p, due); !x.phase.CompareAndSwap(toRest, resting) {
		x.phase.Store(submitting)
		e.crew.Run(x)
	}
}

// wakes ends the wait between attempts, and reports whether whoever asks is to carry the call on.
func (x *submission) wakes() bool {
	if x.phase.CompareAndSwap(resting, submitting) {
		return true
	}
	x.phase.CompareAndSwap(toRest, early)
	return false
}

// resume carries the call on after that.
func (x *submission) resume() {
	x.guarded(func() {
		s := x.step()
		x.inv.plan.exec.watched.Remove(x)
		x.inv.plan.exec.pauses.Remove(s.pause)
		s.resume(x.ctx)
		x.climb(s, 0)
	})
}

// isApart reports whether the code of c has a goroutine of its own, so that who waits for it can go on without.
func (a *admission) isApart(c *Call) bool {
	return a.apart || c.within != nil && !a.tool.spec.Policy.Cooperative
}

// isOnly reports whether c, whose attempt has begun, is the first of those that come one after the other: there
// may be others, but none is under way.
func (c *Call) isOnly() bool { return c.Attempt == 1 && c.inv.plan.once }

// begin begins an attempt of c, unless the call is over.
func (c *Call) begin() (open bool) {
	inv := c.inv
	if inv.plan.once && !inv.tried {
		c.Attempt, inv.tried = 1, true
		return true
	}
	if c.Attempt, open = inv.attempts.Begin(); inv.tried {
		c.Attempt++
	}
	return open
}

// broken gives back what the attempt of x holds, whose code, sink or context has not returned.
func (x *frame) broken(res Result, err error) {
	went := x.stage
	x.stage = underWay
	switch r := &x.call.space.running; went {
	case inStart: // the code does not run
		r.CallOff()
		x.c.inv.plan.adm.returned(r, &x.c, res, err)
	case succeeded:
		x.stage = went
		x.goesOn()
	case inAttempt:
		r.Began()
		x.c.inv.plan.adm.returned(r, &x.c, res, err)
	}
}

// Invoke runs a call of another tool, as [Executor.Invoke], on behalf of this one and nested in it: an interceptor
// outside the gates answers with what that gives, say, where the tool itself has failed. The call of the interceptor
// holds nothing meanwhile, unless an attempt of it goes on. Once it is over it makes no others.
func (c Call) Invoke(ctx context.Context, r Request) (Result, error) {
	inv := c.inv
	if inv == nil || inv.first == nil {
		return Result{}, &Error{Tool: r.Tool, CallID: r.ID, Reason: ErrRejected,
			Cause: errors.New("sluice: Call.Invoke: the Call is of no interceptor outside the gates: must be the one that such an interceptor was given")}
	}
	if inv.attempts.IsAnswered() {
		return Result{}, &Error{Tool: r.Tool, CallID: r.ID, Reason: ErrRejected,
			Cause: errors.New("sluice: Call.Invoke: the call is over: an interceptor has answered")}
	}
	inv.attempts.Keep() // whoever has a context of the other call may look for this one
	x := &running{Context: inside(ctx), inv: inv, layer: true}
	defer x.Permit.State.MakeOver()
	return inv.plan.exec.Invoke(x, r)
}

// Emit emits an event of a layer's own, in the call's order: an interceptor calls it on the Call that it was given. Its
// kind is none of the library's, but like them: two words or more with points between them, each of [a-z0-9_] and from a
// letter on. It has 16 attrs at most, strings, numbers, bools, times and durations, that the layer itself has to say,
// never of arguments and results; texts are cut to 256 bytes. Else Emit answers what is wrong, and nothing is emitted.
//
// It waits for sinks only, and does nothing once the call has ended.
func (c Call) Emit(ctx context.Context, kind EventKind, attrs ...slog.Attr) error {
	said, err := eventtext.Check(string(kind), attrs)
	if err == nil && c.inv == nil {
		err = errors.New("the Call is of no interceptor: must be the one that such a one was given")
	}
	if err != nil {
		return fmt.Errorf("sluice: Call.Emit: %w", err)
	}
	if c.inv.loud && c.inv.first != nil {
		c.inv.emitOwn(ctx, &c, kind, said)
	}
	return nil
}

// Go runs f on a goroutine that [Executor.Close] waits for, and reports whether it does: not once the call
// is over, nor on a Call that no interceptor outside the gates was given. An interceptor that answers
// before its next has ended calls that there. A panic of f ends no more than f.
func (c Call) Go(f func()) bool {
	inv := c.inv
	if inv == nil || inv.first == nil {
		return false
	}
	e := inv.plan.exec
	e.helperStarts()
	if inv.attempts.IsAnswered() { // else the call is still counted in, so that Close has not returned
		e.helperEnds()
		return false
	}
	go func() {
		defer e.helperEnds()
		stage.Harmless(f)
	}()
	return true
}

// Within is c bounded in time: an interceptor outside the gates that hands it on to its next leaves what is further in d
// from now on, in the queue, between attempts and while the tool runs, unless it had less. Beyond that no attempt begins,
// and who waits for one goes on without it: the error is an [ErrTimeout], whose cause is cause. To breakers that is
// nobody's failure. A tool that is not cooperative runs on a goroutine of its own.
func (c Call) Within(d time.Duration, cause error) Call {
	if c.inv == nil {
		return c
	}
	if b, ok := c.within.Less(c.inv.plan.exec.clock.Now(), d, cause); ok {
		c.within = &b
	}
	return c
}

// Deadline is when the time of ctx, with which an interceptor was called, or that of c is over, whichever
// comes first, if there is such a time.
func (c Call) Deadline(ctx context.Context) (at time.Time, ok bool) {
	at, ok = ctx.Deadline()
	if c.inv != nil && c.within != nil {
		if due := c.inv.plan.exec.clock.Time(c.within.Due); !ok || due.Before(at) {
			return due, true
		}
	}
	return at, ok
}

// timeKey asks a context for the innermost that ends in time.
type timeKey struct{}

// isLeft reports whether it is what interceptors have left that ends.
func (x *timedContext) isLeft() bool {
	if w, moves := x.left.(*deadline.Bound); moves {
		return w.Due <= x.Due()
	}
	return x.left != nil
}

// most is until when interceptors let it go on, if it may change.
func (x *timedContext) most() int64 {
	w, _ := x.left.(*deadline.Bound)
	return w.Until(math.MaxInt64)
}

// Latest is until when code can extend its time, which is over at due otherwise, as far as others let it.
func (x *timedContext) Latest(due int64) int64 {
	if _, ends := x.left.(error); ends {
		return due
	}
	return min(due+int64(x.plan.adm.more), x.most())
}

// follow has x, which begins now, has so much time of its own and ends with the time of its caller, end when
// that does, also if it is that of an attempt around which is extended.
func (x *timedContext) follow(now int64, own time.Duration) {
	up, ok := x.Context.Value(timeKey{}).(*timedContext)
	if !ok || !up.Moves(up) || up.Due() != deadline.Of(x.Context, x.Clock()) {
		return
	}
	x.Begin(now, own, x.most())
	x.Follow(&up.Limit)
}

// ReportRetry emits [ToolRetrying]. An interceptor outside the gates, whose latest attempt ended with
// err, calls it on the Call that it was given, before it waits to call its next again. Without it that
// next emits the event, with a wait of zero. Attempts at once are no retries.
//
// It waits for sinks only, and does nothing once the call has ended, again for one attempt, or on a
// Call that no interceptor was given.
func (c Call) ReportRetry(ctx context.Context, wait time.Duration, err error) {
	inv := c.inv
	if inv == nil || !inv.loud || inv.first == nil {
		return
	}
	if n := inv.begun(); inv.first.retries.Tell(n) {
		inv.emitRetrying(ctx, &c, n, max(wait, 0), err)
	}
}
