package sluice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/deadline"
	"github.com/sluice-go/sluice/internal/eventtext"
	"github.com/sluice-go/sluice/internal/record"
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
	n, p := c.attemptOf(r)
	if n == 0 {
		return Attempt{}
	}
	x := Attempt{N: int(n), Outcome: OutcomeNeutral}
	if err != nil {
		if _, x.RetryAfter = whose(err); x.RetryAfter == 0 {
			x.RetryAfter = meanings.ForeignRetry(err)
		}
	}
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

// AfterStream has f called when the stream that r is, as an interceptor got it from its next, has ended, and
// reports whether it will: false means that r is no stream, see [Hold], or that it has ended. An interceptor
// that makes the context of an attempt lets go of it then. f runs before the call's last event, on the goroutine
// that ends the stream; it must not wait, and a panic of f ends no more than f.
func (c Call) AfterStream(r Result, f func()) bool {
	_, p := c.attemptOf(r)
	return p != nil && p.AfterStreams(f)
}

// attemptOf is the number of the attempt that r comes from, zero if that is none or is forgotten, and what it
// has, nil if it was not admitted.
func (c Call) attemptOf(r Result) (n int32, p *running) {
	if c.inv == nil {
		return 0, nil
	}
	last := c.inv.begun()
	if n = r.from.Attempt(uint64(c.inv.key), last); n <= 0 || n > 1 && last-n >= manyAttempts {
		return 0, nil
	}
	return n, c.inv.first.attempt(n)
}

// outcomeOf is o for users. They stand in the order of those of package breaker, behind OutcomeAuto.
func outcomeOf(o breaker.Outcome) Outcome { return Outcome(o) + OutcomeSuccess }

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

// By is r as an answer that is none of the tool's but of whoever has that name, say an interceptor.
func (r Result) By(name string) Result {
	by := any(record.By(name))
	r.rec, r.from = (*record.Record)(nil).WithPartial(&by), 0
	return r
}

// AnsweredBy is who has answered instead of the tool, and has said so by [Result.By]; empty if nobody has.
func (r Result) AnsweredBy() string { return string(r.rec.By()) }

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
		harmless(f)
	}()
	return true
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
