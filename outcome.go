package sluice

import (
	"context"
	"time"

	"github.com/sluice-go/sluice/internal/breaker"
)

// Outcome is what an outcome means to breakers and retries.
type Outcome uint8

const (
	// OutcomeAuto lets the library decide: no error is a success; the caller's own
	// cancellation or deadline, and refusals of nested calls, are neutral; an error with a
	// RetryAfter() time.Duration method is an overload; all else is a failure, a timeout and
	// a panic too.
	OutcomeAuto Outcome = iota
	OutcomeSuccess
	OutcomeFailure
	OutcomeNeutral  // counts neither way
	OutcomeOverload // the backend is too busy: slow down; not a breaker's failure
)

// judge says what an outcome means to the breakers, and how long an upstream asked to
// pause. It runs user code, so it holds no lock.
func (a *admission) judge(r *running, c *Call, res Result, err error) (o breaker.Outcome, pause time.Duration) {
	class := OutcomeAuto
	if a.classify != nil && r.state.Load()&hasBegun != 0 {
		class = classified(a.classify, c.shown(), res, err)
	}
	if err != nil {
		if x, ok := asError[retryable](err); ok {
			if pause = retryAfter(x); class == OutcomeAuto && pause >= 0 {
				class = OutcomeOverload
			}
		}
	}
	switch class {
	case OutcomeSuccess:
		return breaker.Success, pause
	case OutcomeFailure:
		return breaker.Failure, pause
	case OutcomeNeutral:
		return breaker.Neutral, pause
	case OutcomeOverload:
		return breaker.Overload, pause
	}
	switch {
	case err == nil:
		return breaker.Success, pause
	case r.caller().Err() != nil, isReason(err, ErrRejected):
		return breaker.Neutral, pause
	}
	return breaker.Failure, pause
}

// caller is the context that the attempt was made with, without its timeout.
func (r *running) caller() context.Context {
	if x, ok := r.Context.(*timedRun); ok {
		return x.Context
	}
	return r.Context
}

// classified runs a classify function; one that panics leaves the decision to the library.
func classified(f func(Call, Result, error) Outcome, c Call, res Result, err error) (class Outcome) {
	defer func() {
		if recover() != nil || class > OutcomeOverload {
			class = OutcomeAuto
		}
	}()
	return f(c, res, err)
}

// retryable is an error that says when the upstream wants to be asked again.
type retryable interface {
	error
	RetryAfter() time.Duration
}

func retryAfter(x retryable) (d time.Duration) {
	defer func() {
		if recover() != nil {
			d = -1
		}
	}()
	return x.RetryAfter()
}
