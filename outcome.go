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
	// cancellation or deadline, refusals of nested calls, and throttles that nested calls have
	// been charged with, are neutral; an error with a RetryAfter() time.Duration method is an
	// overload; all else is a failure, a timeout and a panic too.
	OutcomeAuto Outcome = iota
	OutcomeSuccess
	OutcomeFailure
	OutcomeNeutral  // counts neither way
	OutcomeOverload // the backend is too busy: slow down; not a breaker's failure
)

// judge says what an outcome means to the breakers and limits, and what pauses an upstream
// asked for. It runs user code, so it holds no lock, and whoever calls it has a deferred
// function that goes on if that code calls Goexit.
func (a *admission) judge(r *running, c *Call, res Result, err error) (breaker.Outcome, []throttle) {
	class := OutcomeAuto
	if a.classify != nil && r.state.Load()&hasBegun != 0 {
		class = classified(a.classify, c.shown(), res, err)
	}
	if err == nil {
		if class == OutcomeOverload {
			r.throttled(0)
		}
		return means(class, breaker.Success), nil
	}
	b := r.blameOf(err)
	switch own := len(b.own) > 0; {
	case own && class == OutcomeAuto:
		class = OutcomeOverload
	case own:
	case class == OutcomeOverload && b.nested:
		class = OutcomeNeutral // the nested call has been charged with it
	case class == OutcomeOverload, r.reported.Load():
		b.carried = append(b.carried, charge{err: err, after: -1})
	}
	r.inv.passOn(b.carried)
	o := breaker.Failure
	if r.caller().Err() != nil || b.nested || b.refusal || isReason(err, ErrRejected) {
		o = breaker.Neutral
	}
	m := means(class, o)
	if len(b.own) > 0 || m == breaker.Overload {
		r.throttled(b.longest())
	}
	return m, b.own
}

// longest is the longest time for which an upstream asked the attempt to wait.
func (b *blame) longest() (d time.Duration) {
	for _, x := range b.own {
		d = max(d, x.after)
	}
	return d
}

// means is what class means to the machine, and auto if that is left to the library.
func means(class Outcome, auto breaker.Outcome) breaker.Outcome {
	switch class {
	case OutcomeSuccess:
		return breaker.Success
	case OutcomeFailure:
		return breaker.Failure
	case OutcomeNeutral:
		return breaker.Neutral
	case OutcomeOverload:
		return breaker.Overload
	}
	return auto
}

// caller is the context that the attempt was made with, without its timeout.
func (r *running) caller() context.Context {
	if x, ok := r.Context.(*timedRun); ok {
		return x.Caller()
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
