package sluice

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/jsonx"
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

	key CallKey // of the call; zero if somebody else made the error
}

// Error is one line: the tool, what happened, by what, when to retry, and the cause.
// Names that a model made up are quoted and cut, and what would end the line or change how
// it reads is escaped.
func (e *Error) Error() string {
	b := make([]byte, 0, 128)
	b = append(b, "sluice: "...)
	if e.Tool != "" {
		b = append(b, "tool "...)
		b = strconv.AppendQuote(b, cut(e.Tool, 128))
		b = append(b, ": "...)
	}
	b = appendLine(b, e.what(), maxName)
	if e.By != "" && e.By != queueName {
		b = appendLine(append(b, " by "...), e.By, maxName)
	}
	if e.RetryAfter > 0 {
		b = append(append(b, ", retry in "...), e.RetryAfter.String()...)
	}
	if e.Cause != nil {
		b = append(b, ": "...)
		if e.endless() {
			return string(append(b, "errors without end"...))
		}
		b = appendLine(b, textOf(e.Cause), maxMessage)
	}
	return string(b)
}

// what is the text of the reason.
func (e *Error) what() string {
	if e.Reason == nil {
		return "failed"
	}
	return trimPrefix(textOf(e.Reason))
}

// endless reports whether e is among the errors behind it, whose text would not end, or may
// be: there are too many to tell.
func (e *Error) endless() bool {
	n := 0
	return findError(e.Cause, true, func(x error) bool { n++; return x == error(e) || n == maxNodes }) != nil
}

// appendLine appends at most limit bytes of s, escaped so that it stays on its line and
// changes nothing around it.
func appendLine(b []byte, s string, limit int) []byte {
	for _, r := range cut(s, limit) {
		if r < ' ' || r == 0x7f || jsonx.Unsafe(r) {
			b = jsonx.AppendEscaped(b, r)
		} else {
			b = utf8.AppendRune(b, r) // bytes that are no UTF-8 become U+FFFD
		}
	}
	return b
}

// Is reports whether target is e's Reason, or a parent of it.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrRejected:
		return e.Reason != ErrTimeout
	case context.DeadlineExceeded:
		return e.Reason == ErrTimeout
	}
	return same(target, e.Reason, false)
}

// Unwrap is Cause.
func (e *Error) Unwrap() error { return e.Cause }

// MarshalJSON writes names and milliseconds, and never a value of a call. Names are cut and
// escaped as in events.
func (e Error) MarshalJSON() ([]byte, error) {
	b := appendTextField([]byte{'{'}, `"tool_name":`, e.Tool, maxName)
	b = appendTextField(b, `"action_id":`, e.CallID, maxName)
	b = append(jsonx.AppendString(append(b, `"reason":`...), e.what(), maxName), ',')
	b = appendTextField(b, `"by":`, e.By, maxName)
	if e.RetryAfter > 0 {
		b = append(strconv.AppendInt(append(b, `"retry_after_ms":`...), ceilMillis(e.RetryAfter), 10), ',')
	}
	return append(jsonx.AppendString(append(b, `"message":`...), e.Error(), 2*maxMessage), '}'), nil
}

// appendTextField appends a field and a comma, unless it is empty.
func appendTextField(b []byte, key, s string, limit int) []byte {
	if s == "" {
		return b
	}
	return append(jsonx.AppendString(append(b, key...), s, limit), ',')
}

// ceilMillis rounds up: a retry is never early.
func ceilMillis(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// PanicError is a panic or a runtime.Goexit in code that a call ran: a tool, an
// interceptor, a key, cost or classify function. Neither its text nor its JSON form holds
// the panic's value or stack; whoever wants those reads the fields.
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

// MarshalJSON writes what happened and where, without the panic's value and stack.
func (e PanicError) MarshalJSON() ([]byte, error) {
	b := appendTextField([]byte{'{'}, `"tool_name":`, e.Tool, maxName)
	b = append(append(append(b, `"reason":"`...), panicCode(&e)...), `",`...)
	return append(jsonx.AppendString(append(b, `"message":`...), e.Error(), maxMessage), '}'), nil
}

// Unwrap is the panic's value if that was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// queueName is what refuses when the queue is full.
const queueName = "queue"

// errTooWide is behind the refusal of a call that no waiting makes fit.
var errTooWide = errors.New("sluice: the call weighs more than the limit")

// refusalDetail is behind a refusal: the bound that was met. It becomes text when somebody
// reads it.
type refusalDetail struct {
	waiting   int           // calls in the full queue
	limit     int64         // that is taken up
	within    time.Duration // how long the call may wait; zero if its deadline bounds that
	nested    bool          // because it is nested
	atOnce    bool          // it was not to wait at all
	anonymous bool          // it counts with all calls of runs without a tenant
}

func (d *refusalDetail) Error() string {
	var s string
	switch {
	case d.waiting > 0:
		return fmt.Sprintf("%d calls of the executor wait already, and MaxQueue and MaxPerTenant allow no more", d.waiting)
	case d.limit > 0:
		s = fmt.Sprintf("all of %d are taken", d.limit)
	case d.atOnce:
		s = "it could not start at once, and NoWait lets it not wait"
	case d.nested:
		s = fmt.Sprintf("it could not start within %v, as long as a nested call waits without MaxWait", d.within)
	case d.within > 0:
		s = fmt.Sprintf("it could not start within MaxWait, %v", d.within)
	default:
		s = "it could not start before its caller's deadline"
	}
	if d.anonymous {
		s += "; the run has no tenant, and runs without one count together"
	}
	return s
}

// ranError is a refusal that a tool which did run passes on, say of a call nested in it.
// It is what it was, but does not claim that the outer tool did not run.
type ranError struct {
	err error
	key CallKey // of the outer call
}

func (e ranError) Error() string { return textOf(e.err) }
func (e ranError) Is(target error) bool {
	return target != ErrRejected && isReason(e.err, target)
}
func (e ranError) As(target any) (yes bool) {
	walk(e.err, func(err error) step {
		if yes = becomes(err, target); yes {
			return stop
		}
		return deeper
	})
	return yes
}

// The methods of a foreign error may panic, its tree may be endless or lead back to itself.
// What follows asks such errors: whatever panics has said nothing, and the search ends after
// maxNodes. A method that calls runtime.Goexit ends the goroutine, so whoever asks on behalf
// of a call that must end has a deferred function that goes on without the answer; a method
// that blocks keeps whoever asks, so nobody does who holds a lock.

// maxNodes bounds how much of an error's tree is looked at.
const maxNodes = 1000

// step is where to go on from a node of an error's tree.
type step uint8

const (
	deeper step = iota // what it wraps, then what is beside it
	beside
	stop
)

// walk shows the tree of err to visit, from the outside in, as errors.Is goes.
func walk(err error, visit func(error) step) {
	var space [8]error
	rest := append(space[:0], err)
	for left := maxNodes; left > 0 && len(rest) > 0; left-- {
		x := rest[len(rest)-1]
		rest = rest[:len(rest)-1]
		if x == nil {
			continue
		}
		switch visit(x) {
		case stop:
			return
		case beside:
			continue
		}
		many, one := unwrapped(x)
		if one != nil {
			rest = append(rest, one)
		}
		for i := min(len(many), left) - 1; i >= 0; i-- {
			rest = append(rest, many[i])
		}
		if len(rest) > left { // the others would not be visited any more
			rest = rest[len(rest)-left:]
		}
	}
}

// unwrapped is what err wraps.
func unwrapped(err error) (many []error, one error) {
	if r, ok := err.(ranError); ok {
		return nil, r.err
	}
	defer func() {
		if recover() != nil {
			many, one = nil, nil
		}
	}()
	switch x := err.(type) {
	case interface{ Unwrap() error }:
		return nil, x.Unwrap()
	case interface{ Unwrap() []error }:
		return x.Unwrap(), nil
	}
	return nil, nil
}

// isReason is errors.Is.
func isReason(err, target error) (yes bool) {
	if e, ok := err.(*Error); ok && e != nil && (e.Cause == nil || e.Is(target)) { // as most are
		return e.Is(target)
	}
	walk(err, func(x error) step {
		if _, hides := x.(ranError); hides && target == ErrRejected {
			return beside
		}
		if yes = is(x, target); yes {
			return stop
		}
		return deeper
	})
	return yes
}

// is reports whether err itself, apart from what it wraps, is target.
func is(err, target error) (yes bool) {
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	if err == target {
		return true
	}
	if _, ours := err.(ranError); ours {
		return false // what it wraps answers
	}
	x, ok := err.(interface{ Is(error) bool })
	return ok && x.Is(target)
}

// asError is errors.AsType.
func asError[T error](err error) (x T, yes bool) {
	walk(err, func(e error) step {
		if x, yes = as[T](e); yes {
			return stop
		}
		return deeper
	})
	return x, yes
}

// as reports whether err itself, apart from what it wraps, is a T, or says it is one.
func as[T error](err error) (x T, yes bool) {
	if x, yes = err.(T); yes {
		return x, true
	}
	if _, ours := err.(ranError); ours {
		return x, false
	}
	if a, ok := err.(interface{ As(any) bool }); ok {
		return says[T](a)
	}
	return x, false
}

func says[T error](a interface{ As(any) bool }) (x T, yes bool) {
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	yes = a.As(&x)
	return x, yes
}

// becomes is as for a target that only reflection knows, as errors.As has checked it.
func becomes(err error, target any) (yes bool) {
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	to := reflect.ValueOf(target).Elem()
	if reflect.TypeOf(err).AssignableTo(to.Type()) {
		to.Set(reflect.ValueOf(err))
		return true
	}
	if _, ours := err.(ranError); ours {
		return false
	}
	a, ok := err.(interface{ As(any) bool })
	return ok && a.As(target)
}

// textOf is err.Error(), or what there is to say instead.
func textOf(err error) (text string) {
	defer func() {
		if recover() != nil {
			text = fmt.Sprintf("%T, whose Error method panicked", err)
		}
	}()
	return err.Error()
}

// cut keeps at most n bytes of s, and says so.
func cut(s string, n int) string { return jsonx.Cut(s, n, "…") }

// trimPrefix is s without the library's name before it.
func trimPrefix(s string) string { return strings.TrimPrefix(s, "sluice: ") }
