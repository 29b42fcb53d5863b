package sluice

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-go/sluice/internal/breaker"
)

// Attempt is what came of one attempt of a call, see [Call.AttemptOf].
type Attempt struct {
	N          int           // from 1; zero if there was none: an interceptor further in has answered
	Ran        bool          // the tool's code has begun
	Running    bool          // and goes on, though nobody waits for it any more
	Outcome    Outcome       // what the end means to breakers; of a refusal OutcomeNeutral
	RetryAfter time.Duration // that who refused it, or its error, asks for; zero if nobody does
}

// AttemptOf is the attempt that r and err come from, as an interceptor outside the gates got them from its
// next. It asks err, and does not wait.
func (c Call) AttemptOf(r Result, err error) Attempt {
	inv := c.inv
	if inv == nil || inv.first == nil || r.attempt == 0 || r.of != inv.key {
		return Attempt{}
	}
	x := Attempt{N: int(r.attempt), Outcome: OutcomeNeutral}
	if err != nil {
		if _, x.RetryAfter = whose(err); x.RetryAfter == 0 {
			x.RetryAfter = foreignRetry(err)
		}
	}
	p := inv.first.attempt(r.attempt)
	if p == nil { // it was not admitted
		return x
	}
	begun, known, _ := p.Flags()
	x.Ran, x.Running = begun, p.Inside()
	switch {
	case !begun:
	case known && !x.Running:
		x.Outcome = outcomeOf(p.Outcome)
	case isReason(err, ErrTimeout):
		x.Outcome = OutcomeFailure
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

// manyAttempts is how many of a call's attempts are remembered, beside the first.
const manyAttempts = 8

// attempt is the n-th of f's call, which has ended; nil if that was not admitted, or is forgotten.
func (f *first) attempt(n int32) *running {
	if n == 1 {
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
		f.remembers().later[r.Attempt%manyAttempts].Store(r)
	}
}

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
