package errtext

import (
	"context"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/errwalk"
	"github.com/sluice-go/sluice/internal/jsonx"
)

// Refusal is an error of the library about one call. What is empty is left out.
type Refusal struct {
	Tool   string
	CallID string
	Reason string
	By     string
	Retry  time.Duration
	Cause  string // the text of what lies behind it
}

// Reason is the text of a reason, which is nil in an error that somebody else has made.
func Reason(err error) string {
	if err == nil {
		return "failed"
	}
	return strings.TrimPrefix(errwalk.Text(err), "sluice: ")
}

// Panicked says that the code of a tool did not return.
func Panicked(tool string, goexit bool) string {
	what := "panicked"
	if goexit {
		what = "called runtime.Goexit"
	}
	return "sluice: code of tool " + Quote(tool) + " " + what
}

// Line says it on one line.
func (r Refusal) Line() string {
	b := append(make([]byte, 0, 128), "sluice: "...)
	if r.Tool != "" {
		b = append(b, "tool "...)
		b = strconv.AppendQuote(b, jsonx.Cut(r.Tool, maxQuote, "…"))
		b = append(b, ": "...)
	}
	b = appendLine(b, r.Reason, MaxName)
	if r.By != "" && r.By != QueueName { // which the reason names
		b = appendLine(append(b, " by "...), r.By, MaxName)
	}
	if r.Retry > 0 {
		b = append(append(b, ", retry in "...), r.Retry.String()...)
	}
	if r.Cause != "" {
		b = appendLine(append(b, ": "...), r.Cause, MaxMessage)
	}
	return string(b)
}

// JSON is the error as an object, with a message for operators.
func (r Refusal) JSON(message string) []byte {
	b := appendField([]byte{'{'}, `"tool_name":`, r.Tool)
	b = appendField(b, `"action_id":`, r.CallID)
	b = append(jsonx.AppendString(append(b, `"reason":`...), r.Reason, MaxName), ',')
	b = appendField(b, `"by":`, r.By)
	if r.Retry > 0 {
		b = append(strconv.AppendInt(append(b, `"retry_after_ms":`...), CeilMillis(r.Retry), 10), ',')
	}
	return append(jsonx.AppendString(append(b, `"message":`...), message, 2*MaxMessage), '}')
}

// Behind is the text of cause, which err wraps; empty if that is nil. It would not end if err is among
// the errors behind it, or may be: there are too many to know.
func Behind(err, cause error) string {
	if cause == nil {
		return ""
	}
	n := 0
	if errwalk.Find(cause, func(x error) bool { n++; return errwalk.Same(x, err, false) || n == errwalk.Max }) != nil {
		return "errors without end"
	}
	return errwalk.Text(cause)
}

// appendLine appends at most limit bytes of s, escaped so that it stays on its line and changes
// nothing around it.
func appendLine(b []byte, s string, limit int) []byte {
	for _, r := range jsonx.Cut(s, limit, "…") {
		if r < ' ' || r == 0x7f || jsonx.Unsafe(r) {
			b = jsonx.AppendEscaped(b, r)
		} else {
			b = utf8.AppendRune(b, r) // bytes that are no UTF-8 become U+FFFD
		}
	}
	return b
}

// appendField appends a field of a JSON object and a comma, unless s is empty.
func appendField(b []byte, key, s string) []byte {
	if s == "" {
		return b
	}
	return append(jsonx.AppendString(append(b, key...), s, MaxName), ',')
}

// OwnText is cause if its text is the library's own, or that of package context; else nil.
func OwnText(cause error) error {
	switch cause.(type) {
	case *Bound, Names:
		return cause
	}
	if cause == ErrTooWide || cause == ErrNoTools || cause == context.Canceled || cause == context.DeadlineExceeded {
		return cause
	}
	return nil
}

// NotBegun is why a call was refused whose attempt was out of time before it ran.
type NotBegun struct{}

func (NotBegun) Error() string { return "its time was over before its code began" }

// Is makes it a context.DeadlineExceeded.
func (NotBegun) Is(target error) bool { return target == context.DeadlineExceeded }

// LateBy is why a call was refused whose attempt was out of time before it ran, as far as err says more
// than that; it is no timeout, the error of an attempt that ran.
func LateBy(err, timeout error) error {
	switch {
	case err == nil || err == context.DeadlineExceeded:
		return NotBegun{}
	case errwalk.Is(err, timeout):
		return errwalk.Except{Err: err, Not: timeout}
	}
	return err
}

// SinkPanic is the error of an event sink of that type that panicked.
type SinkPanic struct {
	Sink string
	Err  error
}

func (e *SinkPanic) Error() string { return "sluice: event sink " + e.Sink + " panicked" }

// Unwrap is the panic.
func (e *SinkPanic) Unwrap() error { return e.Err }

// Withheld stands for an error whose text is not shown. It matches what the error matched of
// the library's own errors and of package context's.
type Withheld struct {
	Code   Code
	Reason error // of a refusal or a timeout; else nil
	Parent error // of the reason; nil if the error did not match it
}

func (w Withheld) Error() string { return string(w.Code) }

// Is reports whether the error matched target.
func (w Withheld) Is(target error) bool {
	switch target {
	case nil:
		return false
	case context.Canceled:
		return w.Code == Canceled
	case context.DeadlineExceeded:
		return w.Code == Timeout
	}
	return target == w.Parent || target == w.Reason
}
