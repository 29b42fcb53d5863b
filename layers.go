package sluice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/deadline"
	"github.com/sluice-go/sluice/internal/eventtext"
	"github.com/sluice-go/sluice/internal/permit"
)

// Attempt is what came of one attempt of a call, see [Call.AttemptOf].
type Attempt struct {
	N          int           // from 1; zero if an interceptor further in has answered, or eight later ones are made
	Ran        bool          // the tool's code has begun
	Running    bool          // and goes on, though nobody waits for it any more
	Held       bool          // a stream keeps the call open, see Hold
	Outcome    Outcome       // what the end means to breakers; of a refusal OutcomeNeutral
	RetryAfter time.Duration // that who refused it, or its error, asks for; zero if nobody does
}

// AttemptOf is the attempt that r and err come from, as an interceptor outside the gates got them from its
// next. It asks err, and does not wait.
func (c Call) AttemptOf(r Result, err error) Attempt {
	inv := c.inv
	if inv == nil {
		return Attempt{}
	}
	last := inv.begun()
	n := r.from.Attempt(uint64(inv.key), last)
	if n <= 0 || n > 1 && last-n >= manyAttempts { // it is forgotten
		return Attempt{}
	}
	x := Attempt{N: int(n), Outcome: OutcomeNeutral}
	if err != nil {
		if _, x.RetryAfter = whose(err); x.RetryAfter == 0 {
			x.RetryAfter = meanings.ForeignRetry(err)
		}
	}
	p := inv.first.attempt(n)
	if p == nil { // it was not admitted
		return x
	}
	begun, known, _ := p.Flags()
	x.Ran, x.Running, x.Held = begun, p.Inside(), p.IsHeld()
	switch {
	case !begun:
	case known && !x.Running:
		x.Outcome = outcomeOf(p.Outcome)
	case isReason(err, ErrTimeout):
		if l := p.limit(); l == nil || !l.isOthers() {
			x.Outcome = OutcomeFailure
		}
	}
	return x
}

// outcomeOf is o for users.
func outcomeOf(o breaker.Outcome) Outcome {
	return [...]Outcome{
		breaker.Success: OutcomeSuccess, breaker.Failure: OutcomeFailure,
		breaker.Neutral: OutcomeNeutral, breaker.Overload: OutcomeOverload,
	}[o]
}

// manyAttempts is how many of a call's attempts are remembered, the last ones, beside the first.
const manyAttempts = 8

// attempt is the n-th of f's call, which has ended and is not forgotten; nil if it was not admitted.
func (f *first) attempt(n int32) *running {
	switch {
	case f == nil:
		return nil
	case n == 1:
		if f.Attempt == 1 {
			return &f.running
		}
		return nil
	}
	x := f.aside.Load()
	if x == nil {
		return nil
	}
	if r := x.later[n%manyAttempts].Load(); r != nil && r.Attempt == n {
		return r
	}
	return nil
}

// keep has r, which is admitted, be found by its number.
func (f *first) keep(r *running) {
	if r.Attempt > 1 {
		f.keepLater(r)
	}
}

// forsakes tells of the attempts of f's call, which is over, that go on.
func (f *first) forsakes() {
	for n, last := int32(1), f.inv.begun(); n <= last; n = max(n+1, last-manyAttempts+1) {
		r := &f.running
		if n > 1 {
			r = f.attempt(n)
		}
		if r != nil && r.HasBegun() && r.Forsaken() {
			r.emitAbandoned()
		}
	}
}

func (f *first) keepLater(r *running) { f.remembers().later[r.Attempt%manyAttempts].Store(r) }

// Invoke runs a call of another tool, as [Executor.Invoke], on behalf of this one and nested in it: an
// interceptor outside the gates answers with what that gives, say, where the tool itself has failed. The
// call of the interceptor holds nothing meanwhile, unless an attempt of it goes on. Once it is over it
// makes no others.
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

// Emit emits an event of a layer's own, in the call's order: an interceptor calls it on the Call that it was
// given. Its kind is none of the library's, but like them: two words or more with points between them, each of
// [a-z0-9_] and from a letter on. It has 16 attrs at most, strings, numbers, bools, times and durations, that the
// layer itself has to say, never of arguments and results; texts are cut to 256 bytes. Else Emit answers what is
// wrong, and nothing is emitted.
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
		defer func() { _ = recover() }()
		f()
	}()
	return true
}

// endless is longer than any time that is bounded.
const endless time.Duration = math.MaxInt64 / 2

// within is for how long a call may go on, as an interceptor has said.
type within struct {
	due   int64 // an instant
	cause error
	up    *within // what the interceptors further out have said
	layer int32   // whose step has said it, if one has
}

// Within is c bounded in time: an interceptor outside the gates that hands it on to its next leaves what is
// further in d from now on, in the queue, between attempts and while the tool runs, unless it had less.
// Beyond that no attempt begins, and who waits for one goes on without it: the error is an [ErrTimeout],
// whose cause is cause. To breakers that is nobody's failure. A tool that is not cooperative runs on a
// goroutine of its own.
func (c Call) Within(d time.Duration, cause error) Call {
	if c.inv == nil {
		return c
	}
	if w, less := c.within.bounded(c.inv.plan.exec.clock.Now(), d, cause); less {
		c.within = &w
	}
	return c
}

// bounded is what d leaves from the instant now on, and whether that is less than w.
func (w *within) bounded(now int64, d time.Duration, cause error) (y within, less bool) {
	due := now + int64(min(max(d, 0), endless))
	if w != nil && w.due <= due {
		return y, false
	}
	return within{due: due, cause: cmp.Or[error](cause, context.DeadlineExceeded), up: w}, true
}

// Deadline is when the time of ctx, with which an interceptor was called, or that of c is over, whichever
// comes first, if there is such a time.
func (c Call) Deadline(ctx context.Context) (at time.Time, ok bool) {
	at, ok = ctx.Deadline()
	if c.inv != nil && c.within != nil {
		if due := c.inv.plan.exec.clock.Time(c.within.due); !ok || due.Before(at) {
			return due, true
		}
	}
	return at, ok
}

// Stepper is an [Interceptor] for outside the gates whose part in a call is steps that do not wait. Where all
// that stand there are such, a call passes them on the goroutine that it has: one that was submitted has
// none while it waits, also to be made again, and is admitted in its turn.
type Stepper interface {
	Interceptor            // for where others stand too; see Steps.Wrap
	Steps(tool Spec) Steps // runs when Wrap would, and is as that
}

// Steps is what a [Stepper] does with each call: Before on its way in, and After on its way out, unless Before
// has kept it from going further in. Neither may wait, and what is nil does nothing. A step is for one call and
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
	out     bool   // the call is on its way out
	hung    bool   // code of its last attempt went on when it was to go in again
	unseen  bool   // the outcome is of the first attempt, a success of which nothing is known
	does    deed
	wait    time.Duration
	instead Handler

	inv    *invocation
	input  any
	given  *Call   // what interceptors around have made of the call; nil if there are none but steps
	within *within // how the call is bounded by now
	own    within  // the first of those
	now    int64   // the present instant; zero if it is not known
	pause  *pause  // of a submitted call that rests
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
	var c Call
	switch {
	case s.given != nil:
		c = s.given.shown()
	case s.inv != nil:
		s.inv.fill(&c, false)
		c.Input = s.input
	}
	if s.inv != nil {
		c.Attempt = s.inv.begun()
	}
	return c
}

// Attempt is the attempt that the outcome is of, as [Call.AttemptOf].
func (s *Step) Attempt() Attempt {
	c := Call{inv: s.inv}
	if s.unseen && s.Result.from.Attempt(uint64(s.inv.key), 1) == 1 {
		return Attempt{N: 1, Ran: true, Outcome: OutcomeSuccess}
	}
	return c.AttemptOf(s.Result, s.Err)
}

// Answer has r and err be the outcome, as one of the interceptor's own. In Before it keeps the call from going
// further in.
func (s *Step) Answer(r Result, err error) {
	s.Result, s.Err, s.does = Result{Value: r.Value}, err, answers
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
	w, less := s.within.bounded(now, d, cause)
	if !less {
		return
	}
	x := &s.own
	if x.cause != nil || !s.inv.plan.single || s.given != nil { // it is taken, or others have the Call
		x = new(within)
	}
	*x, x.layer = w, s.at
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
	return s.isOwn(w) && s.inv.plan.exec.clock.Now() >= w.due-1 // at which a wait in the queue ends
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
func (s *Step) isOwn(w *within) bool {
	return w != nil && w.layer == s.at && (s.given == nil || w != s.given.within)
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
			s.out, s.hung, s.now = true, false, 0
			return tries
		case !s.out:
			s.does = goesOn
			if f := (*s.list)[s.at].Before; f != nil {
				s.State = nil
				s.step(ctx, f)
			}
			if s.does == goesOn || s.does == again {
				s.at++
				continue
			}
			s.out = true
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
			if s.does == again && !s.hung && s.mayGoOn(ctx) {
				s.at++
				s.out = false
				return pauses
			}
		}
		if w := s.within; s.isOwn(w) {
			if s.within = w.up; w == &s.own {
				s.own.cause = nil
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
	if s.inv == nil || ctx.Err() != nil || s.inv.plan.exec.closed() {
		return false
	}
	w := s.within
	return w == nil || s.inv.plan.exec.clock.Now() < w.due
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
		bounded, cancel := context.WithDeadlineCause(ctx, s.inv.plan.exec.clock.Time(w.due), w.cause)
		defer cancel()
		own := *w // who has c may keep it
		c.within, ctx = &own, bounded
	}
	r, err := h(ctx, c)
	return Result{Value: r.Value}, err
}

// pause is a wait between attempts, which nobody is in who waits without a goroutine.
type pause struct {
	deadline.Entry
	over chan struct{} // closed when it is
	call *submission   // instead, whose wait it is
}

// Expire ends it.
func (p *pause) Expire() {
	switch x := p.call; {
	case x == nil:
		close(p.over)
	case x.wakes():
		x.inv.plan.exec.crew.Run(x)
	}
}

// begin reports that the call is made again, and says when.
func (s *Step) begin(ctx context.Context) (due int64) {
	e := s.inv.plan.exec
	s.inv.ownTotals()
	Call{inv: s.inv, Priority: s.inv.priority}.ReportRetry(ctx, s.wait, s.Err)
	due = e.clock.Now() + int64(min(s.wait, endless))
	if w := s.within; w != nil {
		due = min(due, w.due)
	}
	return due
}

// rest waits until the call is to go in again, or its context ends.
func (s *Step) rest(ctx context.Context) {
	due := s.begin(ctx)
	if s.wait > 0 && ctx.Err() == nil {
		e, p := s.inv.plan.exec, &pause{over: make(chan struct{})}
		e.pauses.Add(p, due)
		select {
		case <-p.over:
		case <-ctx.Done():
			e.pauses.Remove(p)
		}
	}
	s.resume(ctx)
}

// resume has the call go in again, unless its context has ended or code of it goes on: then it goes out.
func (s *Step) resume(ctx context.Context) {
	s.does, s.now = goesOn, 0
	if s.out = ctx.Err() != nil; s.out {
		s.Result, s.Err, s.unseen = Result{}, s.inv.gaveUp(ctx, ""), false
	} else if s.hung = s.Attempt().Running; s.hung {
		s.out = true
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
		if w.space.Seen(); w.space.given != nil {
			w.space.given.sight.Ended()
			w.space.given = nil
		}
	}
	x.stage, w.wentOn = underWay, true
	w.attempts.Keep()
}

// latest is where an outcome comes from that is of the latest attempt.
func (inv *invocation) latest() permit.Source { return permit.SourceOf(uint64(inv.key), inv.begun()) }
