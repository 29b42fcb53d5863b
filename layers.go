package sluice

import (
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
