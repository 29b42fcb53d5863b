package sluice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// ErrRejected is the parent of every refusal: errors.Is(err, ErrRejected) if and only if
// the tool's code did not run, in no attempt of the call.
var ErrRejected = errors.New("sluice: rejected")

// ErrTimeout is the reason of a call whose attempt was out of time. The tool ran, so it
// is no refusal. It matches context.DeadlineExceeded.
var ErrTimeout = errors.New("tool timed out")

// ErrDenied is the reason of a call that a rule refused: an interceptor that answered
// with an error instead of calling the tool.
var ErrDenied = errors.New("denied")

// Error is every error of the library's own about one call. A tool's own error is
// passed through untouched and is not one.
//
// errors.Is finds [ErrRejected] unless Reason is [ErrTimeout], the Reason itself, and
// whatever Cause matches.
type Error struct {
	Tool   string
	CallID string
	// Reason is one of ErrUnknownTool, ErrInvalidArguments, ErrBreakerOpen,
	// ErrRateLimited, ErrSaturated, ErrQueueFull, ErrWaitTooLong, ErrDenied, ErrNesting,
	// ErrClosed and ErrTimeout, or ErrRejected where the caller itself gave up.
	Reason error
	// By names the constraint, as in "rate/openai tokens per minute"; empty if none did.
	By string
	// RetryAfter is when a retry makes sense, from the moment of the refusal; zero if
	// nobody can know.
	RetryAfter time.Duration
	Cause      error // what lies behind it; may be nil
}

// Error is one line: the tool, what happened, by what, when to retry, and the cause.
// Names that a model made up are quoted and cut.
func (e *Error) Error() string {
	b := make([]byte, 0, 128)
	b = append(b, "sluice: "...)
	if e.Tool != "" {
		b = append(b, "tool "...)
		b = strconv.AppendQuote(b, cut(e.Tool, 128))
		b = append(b, ": "...)
	}
	if e.Reason != nil {
		b = append(b, trimPrefix(e.Reason.Error())...)
	} else {
		b = append(b, "failed"...)
	}
	if e.By != "" {
		b = append(append(b, " by "...), e.By...)
	}
	if e.RetryAfter > 0 {
		b = append(append(b, ", retry in "...), e.RetryAfter.String()...)
	}
	if e.Cause != nil {
		b = append(append(b, ": "...), cut(textOf(e.Cause), 1024)...)
	}
	return string(b)
}

// Is reports whether target is e's Reason, or a parent of it.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrRejected:
		return e.Reason != ErrTimeout
	case context.DeadlineExceeded:
		return e.Reason == ErrTimeout
	}
	return target == e.Reason
}

// Unwrap is Cause.
func (e *Error) Unwrap() error { return e.Cause }

// MarshalJSON writes names and milliseconds, and never a value of a call.
func (e *Error) MarshalJSON() ([]byte, error) {
	type errorJSON struct {
		Tool         string `json:"tool_name,omitempty"`
		CallID       string `json:"action_id,omitempty"`
		Reason       string `json:"reason"`
		By           string `json:"by,omitempty"`
		RetryAfterMS int64  `json:"retry_after_ms,omitempty"`
		Message      string `json:"message"`
	}
	reason := "failed"
	if e.Reason != nil {
		reason = trimPrefix(e.Reason.Error())
	}
	return json.Marshal(errorJSON{cut(e.Tool, 128), e.CallID, reason, e.By, ceilMillis(e.RetryAfter), e.Error()})
}

// ceilMillis rounds up: a retry is never early.
func ceilMillis(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// PanicError is a panic or a runtime.Goexit in code that a call ran: a tool, an
// interceptor, a key, cost or classify function. Its text never holds the panic's value
// or stack; whoever wants those reads the fields.
type PanicError struct {
	Tool   string
	Value  any    // what was given to panic; nil for Goexit
	Goexit bool   // the code called runtime.Goexit, as testing.T.FailNow does
	Stack  []byte // where
}

// Error says what happened and where, without the panic's value.
func (e *PanicError) Error() string {
	what := "panicked"
	if e.Goexit {
		what = "called runtime.Goexit"
	}
	return fmt.Sprintf("sluice: code of tool %q %s", cut(e.Tool, 128), what)
}

// Unwrap is the panic's value if that was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// ranError is a refusal that a tool which did run passes on, say of a call nested in it.
// It is what it was, but does not claim that the outer tool did not run.
type ranError struct{ err error }

func (e ranError) Error() string { return textOf(e.err) }
func (e ranError) Is(target error) bool {
	return target != ErrRejected && errors.Is(e.err, target)
}
func (e ranError) As(target any) bool { return errors.As(e.err, target) }

// textOf is err.Error() of foreign code, which may panic.
func textOf(err error) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("%T, whose Error method panicked", err)
		}
	}()
	return err.Error()
}

// cut keeps at most n bytes of s, and says so.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 { // not inside a rune
		n--
	}
	return s[:n] + "…"
}

func trimPrefix(s string) string {
	const p = "sluice: "
	if len(s) > len(p) && s[:len(p)] == p {
		return s[len(p):]
	}
	return s
}
