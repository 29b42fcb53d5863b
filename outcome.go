package sluice

import (
	"context"
	"time"

	"github.com/sluice-go/sluice/internal/breaker"
)

// Class is what an outcome means to breakers and retries.
type Class uint8

const (
	// ClassAuto lets the library decide: no error is a success; the caller's own
	// cancellation or deadline, and refusals of nested calls, are neutral; an error with a
	// RetryAfter() time.Duration method is an overload; all else is a failure, a timeout and
	// a panic too.
	ClassAuto Class = iota
	ClassSuccess
	ClassFailure
	ClassNeutral  // counts neither way
	ClassOverload // the backend is too busy: slow down; not a breaker's failure
)

// judge says what an outcome means to the breakers, and how long an upstream asked to
// pause. It runs user code, so it holds no lock.
func (a *admission) judge(r *running, c *Call, res Result, err error) (o breaker.Outcome, pause time.Duration) {
	class := ClassAuto
	if a.classify != nil && r.ran() {
		class = classified(a.classify, c.shown(), res, err)
	}
	if err != nil {
		if x, ok := asError[retryable](err); ok {
			if pause = retryAfter(x); class == ClassAuto && pause >= 0 {
				class = ClassOverload
			}
		}
	}
	switch class {
	case ClassSuccess:
		return breaker.Success, pause
	case ClassFailure:
		return breaker.Failure, pause
	case ClassNeutral:
		return breaker.Neutral, pause
	case ClassOverload:
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
func classified(f func(Call, Result, error) Class, c Call, res Result, err error) (class Class) {
	defer func() {
		if recover() != nil || class > ClassOverload {
			class = ClassAuto
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
