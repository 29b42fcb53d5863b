// Package errtext holds what errors say: the code that an event writes, the line that an
// operator reads, the sentence that a model reads, and the names that somebody may have meant.
//
// It gets what happened in plain values and makes text of that; which error means what the root
// package decides. It keeps nothing and locks nothing. Of foreign code it calls methods of
// errors, as package errwalk does.
package errtext

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sluice-go/sluice/internal/errwalk"
	"github.com/sluice-go/sluice/internal/jsonx"
)

// What is shown at most, in bytes, of a name or id, and of an error's text.
const (
	MaxName    = 256
	MaxMessage = 1024
)

// QueueName is what refuses when the queue is full.
const QueueName = "queue"

// Code says in one word why a call failed: few values, good as a metric's label.
type Code string

const (
	UnknownTool      Code = "unknown_tool"
	InvalidArguments Code = "invalid_arguments"
	BreakerOpen      Code = "breaker_open"
	RateLimited      Code = "rate_limited"
	Saturated        Code = "saturated"
	QueueFull        Code = "queue_full"
	WaitTooLong      Code = "wait_too_long"
	Denied           Code = "denied"
	Nesting          Code = "nesting"
	Closed           Code = "closed"
	Timeout          Code = "timeout"  // also a tool that reports context.DeadlineExceeded
	Canceled         Code = "canceled" // the caller gave up, in the queue or while the tool ran
	Panic            Code = "panic"
	Goexit           Code = "goexit"
	ToolError        Code = "tool_error"
)

var codes = [...]Code{UnknownTool, InvalidArguments, BreakerOpen, RateLimited, Saturated, QueueFull, WaitTooLong,
	Denied, Nesting, Closed, Timeout, Canceled, Panic, Goexit, ToolError}

// IsOwn reports whether c is one of the library's own codes.
func (c Code) IsOwn() bool { return slices.Contains(codes[:], c) }

// Reasons are the errors that are the library's reasons, each with its code.
type Reasons []struct {
	Err  error
	Code Code
}

// Code is that of a reason; ToolError of what is none.
func (r Reasons) Code(reason error) Code {
	for _, x := range r {
		if x.Err == reason {
			return x.Code
		}
	}
	return ToolError
}

// PanicCode is the code of a panic, or of a runtime.Goexit.
func PanicCode(goexit bool) Code {
	if goexit {
		return Goexit
	}
	return Panic
}

// MessageOf is what an event says of err: for a panic nothing but that, else its text, cut.
func MessageOf(code Code, err error) string {
	if code == Panic || code == Goexit {
		return string(code)
	}
	return jsonx.Cut(errwalk.Text(err), MaxMessage, "…")
}

// maxCode bounds a code that an error has by itself.
const maxCode = 32

// Named is the code that err, or what it wraps, has by itself, by a method Code() string: a lower-case
// letter, then such letters, digits and underscores, and none of the library's own. Others are none:
// a foreign error may mean something else by its method. Without one it is empty.
func Named(err error) (code Code) {
	errwalk.Walk(err, func(x error) errwalk.Step {
		if c := named(x); c.isWord() && !c.IsOwn() {
			code = c
			return errwalk.Stop
		}
		return errwalk.Deeper
	})
	return code
}

// named is what err itself says that its code is.
func named(err error) (c Code) {
	defer func() {
		if recover() != nil {
			c = ""
		}
	}()
	if x, ok := err.(interface{ Code() string }); ok {
		c = Code(x.Code())
	}
	return c
}

func (c Code) isWord() bool {
	for i, b := range []byte(c) {
		if !(b >= 'a' && b <= 'z' || i > 0 && (b == '_' || b >= '0' && b <= '9')) {
			return false
		}
	}
	return c != "" && len(c) <= maxCode
}

// Passes reports whether the reason goes away by itself.
func (c Code) Passes() bool {
	switch c {
	case BreakerOpen, RateLimited, Saturated, QueueFull, WaitTooLong:
		return true
	}
	return false
}

// Bound is behind a refusal: the bound that was met. It becomes text when somebody reads it.
type Bound struct {
	Waiting   int           // calls in the full queue
	Limit     int64         // that is taken up
	Within    time.Duration // how long the call may wait; zero if its deadline bounds that
	Nested    bool          // because it is nested
	AtOnce    bool          // it was not to wait at all
	Anonymous bool          // it counts with all calls of runs without a tenant
}

func (b *Bound) Error() string {
	var s string
	switch {
	case b.Waiting > 0:
		return fmt.Sprintf("%d calls of the executor wait already, and MaxQueue and MaxPerTenant allow no more", b.Waiting)
	case b.Limit > 0:
		s = fmt.Sprintf("all of %d are taken", b.Limit)
	case b.AtOnce:
		s = "it could not start at once, and NoWait lets it not wait"
	case b.Nested:
		s = fmt.Sprintf("it could not start within %v, as long as a nested call waits without MaxWait", b.Within)
	case b.Within > 0:
		s = fmt.Sprintf("it could not start within MaxWait, %v", b.Within)
	default:
		s = "it could not start before its caller's deadline"
	}
	if b.Anonymous {
		s += "; the run has no tenant, and runs without one count together"
	}
	return s
}

// ErrTooWide is behind the refusal of a call that no waiting makes fit.
var ErrTooWide = errors.New("sluice: the call weighs more than the limit")

// CeilMillis rounds up: a retry is never early.
func CeilMillis(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}
