package sluice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/errwalk"
	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/sluice-go/sluice/internal/meaning"
	"github.com/sluice-go/sluice/internal/permit"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// Reasons that an Executor gives.
var (
	// ErrRejected is the parent of every refusal: errors.Is(err, ErrRejected) if and only if the
	// tool's code did not run, in no attempt of the call.
	ErrRejected = errors.New("sluice: rejected")
	// ErrTimeout: the attempt was out of time. It is no refusal, since the tool ran, and matches
	// context.DeadlineExceeded.
	ErrTimeout = errors.New("tool timed out")
	// ErrDenied: an interceptor answered with an error instead of calling the tool.
	ErrDenied = errors.New("denied")
	// ErrInvalidArguments: they do not fit, Spec.Check refused them, the priority is out of range,
	// or the context is nil.
	ErrInvalidArguments = errors.New("invalid arguments")
	// ErrNesting: nested calls are too deep, too many, or wait for each other's limits.
	ErrNesting = errors.New("nesting")
	// ErrClosed: the executor has been closed.
	ErrClosed = errors.New("executor closed")
)

// Error is every error of the library about one call. A tool's own error reaches the caller as
// it is. errors.Is finds Reason, [ErrRejected] unless that is [ErrTimeout], and what Cause matches.
type Error struct {
	Tool       string
	CallID     string
	Reason     error         // one of this package's; ErrRejected if the caller gave up
	By         string        // the constraint, as "rate/openai tokens per minute"; empty if none
	RetryAfter time.Duration // from the refusal on; zero if nobody can know
	Cause      error         // may be nil

	key CallKey // of the call; zero if somebody else made the error
}

// Error is one line: tool, reason, constraint, retry, cause; names quoted and cut, the rest escaped.
func (e *Error) Error() string { return e.text().Line() }

// MarshalJSON writes milliseconds, and never a value of a call.
func (e Error) MarshalJSON() ([]byte, error) { return e.text().JSON(e.Error()), nil }

// text is e in plain values.
func (e *Error) text() errtext.Refusal {
	return errtext.Refusal{Tool: e.Tool, CallID: e.CallID, Reason: errtext.Reason(e.Reason), By: e.By, Retry: e.RetryAfter,
		Cause: errtext.Behind(e, e.Cause)}
}

// Is reports whether target is Reason or a parent of it.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrRejected:
		return e.Reason != ErrTimeout
	case context.DeadlineExceeded:
		return e.Reason == ErrTimeout
	}
	return errwalk.Same(target, e.Reason, false)
}

// Unwrap is Cause.
func (e *Error) Unwrap() error { return e.Cause }

// PanicError is a panic or a runtime.Goexit in a tool, an interceptor, or a key, cost or classify
// function. Its text and JSON never hold Value or Stack.
type PanicError struct {
	Tool   string
	Value  any  // nil for Goexit
	Goexit bool // runtime.Goexit was called
	Stack  []byte
}

// Error says what happened.
func (e *PanicError) Error() string { return errtext.Panicked(e.Tool, e.Goexit) }

// MarshalJSON says what happened.
func (e PanicError) MarshalJSON() ([]byte, error) {
	return errtext.Refusal{Tool: e.Tool, Reason: string(errtext.PanicCode(e.Goexit))}.JSON(e.Error()), nil
}

// Unwrap is Value, if that is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// Elsewhere marks err as what a tool has answered to another call, whose outcome an interceptor shares or
// has stored: a call that ends with it has failed with err, though its own tool has not run, and is not
// denied. Of a refusal, and of nil, it is err itself.
func Elsewhere(err error) error {
	if err == nil || isReason(err, ErrRejected) {
		return err
	}
	return meaning.Elsewhere{Except: errwalk.Except{Err: err, Not: ErrRejected}}
}

// passedOn is err, which a tool that did run has returned: it does not claim that the call of that key did not.
func passedOn(err error, key CallKey) meaning.Ran {
	return meaning.Ran{Except: errwalk.Except{Err: err, Not: ErrRejected}, Key: uint64(key)}
}

// isReason is errors.Is, of errors that may be anybody's.
func isReason(err, target error) bool {
	if e, ok := err.(*Error); ok && e != nil && (e.Cause == nil || e.Is(target)) { // as most are
		return e.Is(target)
	}
	return errwalk.Is(err, target)
}

// isRefusal reports whether err itself, apart from what it wraps, is a refusal.
func isRefusal(err error) bool {
	e, ok := err.(*Error)
	return ok && e != nil && e.Is(ErrRejected)
}

// ownError is the first of the library's own errors in err's tree; nil if there is none.
func ownError(err error) *Error {
	x, _ := errwalk.First[*Error](err)
	return x
}

// whose is the constraint behind an error, and when to retry.
func whose(err error) (by string, retry time.Duration) {
	if x := ownError(err); x != nil {
		return x.By, max(x.RetryAfter, 0)
	}
	return "", 0
}

// verdict holds that an error matches ErrRejected if and only if the tool's code did not run.
func (inv *invocation) verdict(err error, ran bool) error {
	refusal := isReason(err, ErrRejected)
	switch x, nested := err.(meaning.Ran); {
	case ran && refusal:
		return passedOn(err, inv.key)
	case ran && nested: // of a nested call
		return passedOn(x.Err, inv.key)
	case ran || refusal:
		return err
	}
	if isReason(err, ErrTimeout) { // of an attempt whose code had not begun
		if e, ok := err.(*Error); ok {
			err = e.Cause
		}
		return inv.refused(ErrWaitTooLong, "", errtext.LateBy(err, ErrTimeout))
	}
	reason := ErrDenied
	if _, ok := err.(*PanicError); ok || isReason(err, context.Canceled) || isReason(err, context.DeadlineExceeded) {
		reason = ErrRejected
	}
	return inv.refused(reason, "", err)
}

func (inv *invocation) refused(reason error, by string, cause error) *Error {
	return &Error{Tool: inv.plan.tool.spec.Name, CallID: inv.id, Reason: reason, By: by, Cause: cause, key: inv.key}
}

// refusedPlainly is the error of a call that y refuses at the instant now. It leads to no call, so it is made some at a time.
func (inv *invocation) refusedPlainly(now int64, y *admit.Said, retry int64) *Error {
	var e *Error
	if f := inv.first; inv.plan.once && f.frame != nil { // else the call may be over: its frame is not even looked at
		x := f.frame
		if inv.parent.Load() == nil {
			x.stage, x.refused = turnedDown, now
		}
		e = x.errs.Take(callErrors)
	} else {
		e = new(Error)
	}
	e.By, e.Cause, e.RetryAfter, e.key = y.By, y.Cause, time.Duration(retry), inv.key
	if e.Tool, e.CallID, e.Reason = inv.plan.tool.spec.Name, inv.id, ErrBreakerOpen; y.Limit > 0 {
		e.Reason = ErrSaturated
	}
	return e
}

// caught is what recover gave as an error. The deferred function that recovers calls it, for the stack's sake.
func caught(tool string, v any) *PanicError {
	return &PanicError{Tool: tool, Value: v, Goexit: v == nil, Stack: debug.Stack()}
}

// unmade is the error of a call of an executor that NewExecutor has not made.
func (e *Executor) unmade(r *Request) error {
	if err := e.isMade(); err != nil {
		return &Error{Tool: r.Tool, CallID: r.ID, Reason: ErrRejected, Cause: err}
	}
	return nil
}

func (e *Executor) isMade() error {
	switch {
	case e == nil:
		return errors.New("sluice: the Executor is nil: use NewExecutor")
	case e.registry == nil:
		return errors.New("sluice: the Executor is zero: use NewExecutor")
	}
	return nil
}

// barred says why inv, which was made with ctx, must not be admitted whatever its arguments are; see resolve.
func (inv *invocation) barred(ctx context.Context, open bool, depth, calls int) error {
	conf, priority := &inv.plan.exec.conf, inv.pipeline.Priority
	reason, cause := ErrInvalidArguments, error(nil)
	switch {
	case ctx == noContext:
		cause = errors.New("sluice: the context is nil: must not be, context.Background() is one for any use")
	case !open:
		reason = ErrClosed
	case inv.plan.refuse != nil:
		reason, cause = inv.plan.refuse, inv.plan.cause
	case priority != 0 && !rules.IsPriority(priority):
		cause = fmt.Errorf("sluice: PipelineContext.Priority is %d: must be zero (the tool's) or from %d to %d",
			priority, PriorityBatch, PriorityInteractive)
	case depth > conf.MaxDepth:
		reason, cause = ErrNesting, fmt.Errorf("sluice: nested %d deep: Config.MaxDepth allows %d", depth, conf.MaxDepth)
	case calls > conf.MaxCallsPerRoot:
		reason, cause = ErrNesting, fmt.Errorf("sluice: call %d under call %q: Config.MaxCallsPerRoot allows %d",
			calls, cut(inv.root().id, 128), conf.MaxCallsPerRoot)
	default:
		return nil
	}
	return inv.refused(reason, "", cause)
}

// CodeOf is the code that events write for an error of [Executor.Invoke], good as a metric's label: unknown_tool,
// invalid_arguments, breaker_open, rate_limited, saturated, queue_full, wait_too_long, denied, nesting, closed, timeout,
// canceled, panic, goexit, or tool_error for all else; empty for nil. Instead of denied and tool_error, an error may have
// a code of its own, by a method Code() string: [a-z][a-z0-9_]{0,31}. A refusal of a nested call that a tool returns is
// its tool_error; its timeout or panic stays one.
func CodeOf(err error) string { return string(meanings.Code(err, 0, "")) }

// codeOf is the code of e.Err.
func codeOf(e *Event) errtext.Code { return meanings.Code(e.Err, uint64(e.CallKey), e.Call.ID) }

// meanings reads what errors mean.
var meanings = meaning.Reader{Own: ownMeaning, MaxRetry: stage.MaxPause}

// ownMeaning is what err says, apart from what it wraps, if it is one of the library's own.
func ownMeaning(err error) meaning.Own {
	switch x := err.(type) {
	case *PanicError:
		if x != nil {
			return meaning.Own{Kind: meaning.Panic, Code: errtext.PanicCode(x.Goexit)}
		}
	case *Error:
		if x != nil {
			return meaning.Own{Kind: meaning.Refusal, Code: reasonCodes.Code(x.Reason), Key: uint64(x.key), ID: x.CallID,
				Tool: x.Tool, Retry: x.RetryAfter, Cause: x.Cause}
		}
	default:
		return meaning.Own{}
	}
	return meaning.Own{Kind: meaning.Empty}
}

// reasonCodes has the code of each Reason.
var reasonCodes = errtext.Reasons{
	{ErrUnknownTool, errtext.UnknownTool}, {ErrInvalidArguments, errtext.InvalidArguments},
	{ErrBreakerOpen, errtext.BreakerOpen}, {ErrRateLimited, errtext.RateLimited},
	{ErrSaturated, errtext.Saturated}, {ErrQueueFull, errtext.QueueFull},
	{ErrWaitTooLong, errtext.WaitTooLong}, {ErrDenied, errtext.Denied},
	{ErrNesting, errtext.Nesting}, {ErrClosed, errtext.Closed},
	{ErrTimeout, errtext.Timeout}, {ErrRejected, errtext.Canceled},
}

// cut keeps at most n bytes of s, and says so.
func cut(s string, n int) string { return jsonx.Cut(s, n, "…") }

// ModelText is what a model should read of an error, empty for nil: one JSON object that says what
// happened and what to do,
//
//	{"type":"rate_limited","message":"too many calls for now; try again in 2 s","retryable":true,"retry_after_ms":1200}
//
// with [CodeOf] as type. It names no constraint, no library and no value of a panic, and escapes what is invisible. Of a
// tool's own error it has the text, cut to 1,024 bytes: let tools return what a model may read.
func ModelText(err error) string { return meanings.ModelText(err) }

// withoutText is an error of e's without any text of foreign code.
func withoutText(e *Event) error {
	switch x := e.Err.(type) {
	case *Error:
		if x != nil && reasonCodes.Code(x.Reason) != errtext.ToolError {
			y := *x
			y.Cause = cmp.Or(errtext.OwnText(x.Cause), bare(x.Cause))
			return &y
		}
	case *PanicError:
		if x != nil {
			return bare(x)
		}
	case errtext.Withheld:
		return x
	}
	w := errtext.Withheld{Code: codeOf(e)}
	if x := ownError(e.Err); x != nil && reasonCodes.Code(x.Reason) != errtext.ToolError {
		w.Reason = x.Reason
		if isReason(e.Err, ErrRejected) {
			w.Parent = ErrRejected
		}
	}
	return w
}

// bare is a panic without its value and stack; nil of what is none.
func bare(err error) error {
	if x, ok := err.(*PanicError); ok && x != nil {
		return &PanicError{Tool: x.Tool, Goexit: x.Goexit}
	}
	return nil
}

// refusals are the reasons of what a stage refuses.
var refusals = [...]error{
	admit.Saturated: ErrSaturated, admit.TooWide: ErrSaturated, admit.RateLimited: ErrRateLimited, admit.BreakerOpen: ErrBreakerOpen,
	admit.QueueFull: ErrQueueFull, admit.Shed: ErrQueueFull, admit.TooLong: ErrWaitTooLong, admit.Cycle: ErrNesting, admit.Closed: ErrClosed,
}

// refusal is what f is to the caller. What its details say becomes text only when somebody reads it.
func (a *admission) refusal(inv *invocation, f *stage.Refusal) error {
	e := inv.refused(refusals[f.Reason], cmp.Or(f.Name, errtext.QueueName), f.Behind(a.maxWait, nestedWait))
	if e.RetryAfter = time.Duration(min(f.After, math.MaxInt64/2)); f.Reason == admit.Closed {
		e.By = ""
	}
	return e
}

// gaveUp is the error of a call whose own context ended before its code ran.
func (inv *invocation) gaveUp(ctx context.Context, by string) error {
	cause, reason := context.Cause(ctx), ErrRejected
	if isReason(ctx.Err(), context.DeadlineExceeded) {
		reason = ErrWaitTooLong
	}
	return inv.refused(reason, by, cause)
}

// mustNotBegin is why the tool's code must not.
func (r *running) mustNotBegin(ctx context.Context, why permit.Refusal) error {
	switch why {
	case permit.Twice:
		return errors.New("sluice: an interceptor inside the gates called next twice: what retries must stand outside them, so that each attempt is admitted")
	case permit.Returned:
		return r.inv.refused(ErrRejected, "", errors.New("sluice: the attempt is over: an interceptor inside the gates answered before it called next"))
	}
	return r.inv.refused(ErrRejected, "", context.Cause(ctx)) // it is late
}
