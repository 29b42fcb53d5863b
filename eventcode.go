package sluice

import "context"

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

// codeOf is the code of e.Err, whose methods are foreign code and may panic.
func codeOf(e *Event) (code errorCode) {
	defer func() {
		if recover() != nil {
			code = codeToolError
		}
	}()
	// From outside inwards, with a bound: an error may wrap itself.
	err, left := e.Err, 32
	for ; left > 0; left-- {
		switch x := err.(type) {
		case *PanicError:
			return panicCode(x)
		case *Error:
			return ownCode(e, x)
		}
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			break
		}
		err = u.Unwrap()
	}
	if left == 0 {
		return codeToolError
	}
	if x, ok := asError[*Error](e.Err); ok && x != nil {
		return ownCode(e, x)
	}
	switch {
	case isReason(e.Err, context.Canceled):
		return codeCanceled
	case isReason(e.Err, context.DeadlineExceeded):
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

// ownCode is the code of an error of this library's, which may be of another call.
func ownCode(e *Event, x *Error) errorCode {
	switch {
	case x.CallID == "" || e.Call.ID == "" || x.CallID == e.Call.ID:
		if x.Reason == ErrRejected {
			if p, ok := asError[*PanicError](x.Cause); ok && p != nil {
				return panicCode(p)
			}
		}
		return reasonCode(x.Reason)
	case isReason(x.Cause, context.Canceled):
		return codeCanceled
	}
	return codeToolError // of a nested call, passed on by a tool that did run
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
