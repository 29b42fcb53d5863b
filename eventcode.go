package sluice

import (
	"context"
	"time"
)

// errorCode says in one word why a call failed: few values, good as a metric's label.
type errorCode string

const (
	codeUnknownTool      errorCode = "unknown_tool"
	codeInvalidArguments errorCode = "invalid_arguments"
	codeBreakerOpen      errorCode = "breaker_open"
	codeRateLimited      errorCode = "rate_limited"
	codeSaturated        errorCode = "saturated"
	codeQueueFull        errorCode = "queue_full"
	codeWaitTooLong      errorCode = "wait_too_long"
	codeDenied           errorCode = "denied"
	codeNesting          errorCode = "nesting"
	codeClosed           errorCode = "closed"
	codeTimeout          errorCode = "timeout"  // also a tool that reports context.DeadlineExceeded
	codeCanceled         errorCode = "canceled" // the caller gave up, in the queue or while the tool ran
	codePanic            errorCode = "panic"
	codeGoexit           errorCode = "goexit"
	codeToolError        errorCode = "tool_error"
)

// passes reports whether the reason goes away by itself.
func (c errorCode) passes() bool {
	switch c {
	case codeBreakerOpen, codeRateLimited, codeSaturated, codeQueueFull, codeWaitTooLong:
		return true
	}
	return false
}

// CodeOf is the code that events write for err, in one word that is good as a metric's
// label: unknown_tool, invalid_arguments, breaker_open, rate_limited, saturated, queue_full,
// wait_too_long, denied, nesting, closed, timeout, canceled, panic, goexit, or tool_error for
// all else; empty for nil. It is meant for what [Executor.Invoke] answered. A refusal that
// a tool passes on from a call nested in it is its tool_error; whose call was out of time
// or panicked makes no difference.
func CodeOf(err error) string {
	if err == nil {
		return ""
	}
	return string(codeFor(err, 0, ""))
}

// codeOf is the code of e.Err.
func codeOf(e *Event) errorCode { return codeFor(e.Err, e.CallKey, e.Call.ID) }

// codeFor is the code of err, which ended the call of that key and id, as far as they are
// known.
func codeFor(err error, key CallKey, id string) errorCode {
	found := findError(err, true, func(x error) bool {
		switch x := x.(type) {
		case *PanicError:
			return x != nil
		case *Error:
			return x != nil
		case ranError, withheldError:
			return true
		}
		return false
	})
	switch x := found.(type) {
	case *PanicError:
		return panicCode(x)
	case *Error:
		return errorCodeOf(x, key, id)
	case withheldError:
		return x.code
	case ranError:
		if e, ok := firstError[*Error](x.err); ok && e != nil && (key == 0 || x.key == key) {
			return errorCodeOf(e, x.key, id)
		}
		return foreignCode(x.err)
	}
	switch {
	case isReason(err, context.Canceled):
		return codeCanceled
	case isReason(err, context.DeadlineExceeded):
		return codeTimeout
	}
	return codeToolError
}

func panicCode(p *PanicError) errorCode {
	if p.Goexit {
		return codeGoexit
	}
	return codePanic
}

// errorCodeOf is the code of an error of this library's, which may be of another call.
func errorCodeOf(x *Error, key CallKey, id string) errorCode {
	own := x.CallID == "" || id == "" || x.CallID == id
	if x.key != 0 && key != 0 {
		own = x.key == key
	}
	if !own { // of a nested call, passed on by a tool that did run
		return foreignCode(x.Cause)
	}
	if x.Reason == ErrRejected {
		if p, ok := firstError[*PanicError](x.Cause); ok && p != nil {
			return panicCode(p)
		}
	}
	return reasonCode(x.Reason)
}

// foreignCode is the code of a call that passes on an error of another call.
func foreignCode(cause error) errorCode {
	if isReason(cause, context.Canceled) {
		return codeCanceled
	}
	return codeToolError
}

// findError is the first error of err's tree that yes says, as errors.Is goes; nil if there is
// none. What a tool that ran passes on is looked into only if ran says so.
func findError(err error, ran bool, yes func(error) bool) (found error) {
	walk(err, func(x error) step {
		if yes(x) {
			found = x
			return stop
		}
		if _, hides := x.(ranError); hides && !ran {
			return beside
		}
		return deeper
	})
	return found
}

// firstError is errors.AsType without foreign As methods.
func firstError[T error](err error) (x T, ok bool) {
	x, ok = findError(err, true, func(e error) bool { _, is := e.(T); return is }).(T)
	return x, ok
}

func reasonCode(reason error) errorCode {
	switch reason {
	case ErrUnknownTool:
		return codeUnknownTool
	case ErrInvalidArguments:
		return codeInvalidArguments
	case ErrBreakerOpen:
		return codeBreakerOpen
	case ErrRateLimited:
		return codeRateLimited
	case ErrSaturated:
		return codeSaturated
	case ErrQueueFull:
		return codeQueueFull
	case ErrWaitTooLong:
		return codeWaitTooLong
	case ErrDenied:
		return codeDenied
	case ErrNesting:
		return codeNesting
	case ErrClosed:
		return codeClosed
	case ErrTimeout:
		return codeTimeout
	case ErrRejected:
		return codeCanceled
	}
	return codeToolError
}

// passes reports whether it makes sense to try again what ended with err: after a refusal
// for a reason that passes, or if somebody said when.
func passes(err error, code errorCode, retry time.Duration) bool {
	if retry > 0 {
		return true
	}
	x, ok := firstError[*Error](err)
	return code.passes() && (!ok || x == nil || x.Cause != error(errTooWide))
}

// messageOf is what an event says of err: for a panic nothing but that, else its text, cut.
func messageOf(code errorCode, err error) string {
	if code == codePanic || code == codeGoexit {
		return string(code)
	}
	return cut(textOf(err), maxMessage)
}

const (
	maxMessage = 1024 // bytes of an error's text in an event
	maxName    = 256  // bytes of a name or id in an event
)
