package sluice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/blame"
	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/errwalk"
	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
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

// Reasons that the executor itself gives.
var (
	// ErrInvalidArguments: the arguments do not fit the tool, its Spec.Check refused them, or
	// the run's priority is out of range.
	ErrInvalidArguments = errors.New("invalid arguments")
	// ErrNesting: nested calls are too deep, too many, or their limits wait for each other.
	ErrNesting = errors.New("nesting")
	// ErrClosed: the executor has been closed.
	ErrClosed = errors.New("executor closed")
)

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
	b = errtext.AppendLine(b, e.what(), maxName)
	if e.By != "" && e.By != queueName {
		b = errtext.AppendLine(append(b, " by "...), e.By, maxName)
	}
	if e.RetryAfter > 0 {
		b = append(append(b, ", retry in "...), e.RetryAfter.String()...)
	}
	if e.Cause != nil {
		b = append(b, ": "...)
		if e.endless() {
			return string(append(b, "errors without end"...))
		}
		b = errtext.AppendLine(b, errwalk.Text(e.Cause), maxMessage)
	}
	return string(b)
}

// what is the text of the reason.
func (e *Error) what() string {
	if e.Reason == nil {
		return "failed"
	}
	return strings.TrimPrefix(errwalk.Text(e.Reason), "sluice: ")
}

// endless reports whether e is among the errors behind it, whose text would not end, or may
// be: there are too many to tell.
func (e *Error) endless() bool {
	n := 0
	return errwalk.Find(e.Cause, func(x error) bool { n++; return x == error(e) || n == errwalk.Max }) != nil
}

// Is reports whether target is e's Reason, or a parent of it.
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

// MarshalJSON writes names and milliseconds, and never a value of a call. Names are cut and
// escaped as in events.
func (e Error) MarshalJSON() ([]byte, error) {
	b := errtext.AppendField([]byte{'{'}, `"tool_name":`, e.Tool, maxName)
	b = errtext.AppendField(b, `"action_id":`, e.CallID, maxName)
	b = append(jsonx.AppendString(append(b, `"reason":`...), e.what(), maxName), ',')
	b = errtext.AppendField(b, `"by":`, e.By, maxName)
	if e.RetryAfter > 0 {
		b = append(strconv.AppendInt(append(b, `"retry_after_ms":`...), errtext.CeilMillis(e.RetryAfter), 10), ',')
	}
	return append(jsonx.AppendString(append(b, `"message":`...), e.Error(), 2*maxMessage), '}'), nil
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
	b := errtext.AppendField([]byte{'{'}, `"tool_name":`, e.Tool, maxName)
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

// ranError is a refusal that a tool which did run passes on, say of a call nested in it.
// It is what it was, but does not claim that the outer tool did not run.
type ranError struct {
	errwalk.Except
	key CallKey // of the outer call
}

func passedOn(err error, key CallKey) ranError {
	return ranError{errwalk.Except{Err: err, Not: ErrRejected}, key}
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

// foreignRetry is when to retry as an error with a RetryAfter method says; zero if none does.
func foreignRetry(err error) time.Duration {
	return min(blame.After(err), stage.MaxPause)
}

// verdict holds that an error matches ErrRejected if and only if the tool's code did not run.
func (inv *invocation) verdict(err error, ran bool) error {
	refusal := isReason(err, ErrRejected)
	switch {
	case ran && refusal:
		return passedOn(err, inv.key)
	case ran:
		if x, ok := err.(ranError); ok { // of a nested call
			return passedOn(x.Err, inv.key)
		}
		return err
	case refusal:
		return err
	}
	if e, ok := err.(*Error); ok && e.Reason == ErrTimeout { // of an attempt whose code had not begun
		return inv.refused(ErrWaitTooLong, "", notBegun{})
	}
	reason := ErrDenied
	if _, ok := err.(*PanicError); ok || isReason(err, context.Canceled) || isReason(err, context.DeadlineExceeded) {
		reason = ErrRejected
	}
	return inv.refused(reason, "", err)
}

// notBegun is why a call was refused whose attempt was out of time before it ran.
type notBegun struct{}

func (notBegun) Error() string        { return "its time was over before its code began" }
func (notBegun) Is(target error) bool { return target == context.DeadlineExceeded }

func (inv *invocation) refused(reason error, by string, cause error) *Error {
	return &Error{Tool: inv.plan.tool.spec.Name, CallID: inv.id, Reason: reason, By: by, Cause: cause, key: inv.key}
}

// caught is what recover gave as an error. It must be called by the deferred function
// that recovers, for the stack's sake.
func caught(tool string, v any) *PanicError {
	if v == nil {
		return &PanicError{Tool: tool, Goexit: true, Stack: debug.Stack()}
	}
	return &PanicError{Tool: tool, Value: v, Stack: debug.Stack()}
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

// barred says why inv, which was made with ctx, must not be admitted whatever its arguments are,
// if it is the one that makes it so many calls under its root.
func (inv *invocation) barred(ctx context.Context, now standing) error {
	conf, priority := &inv.plan.exec.conf, inv.pipeline.Priority
	switch {
	case ctx == noContext:
		return inv.refused(ErrInvalidArguments, "",
			errors.New("sluice: the context is nil: must not be, context.Background() is one for any use"))
	case !now.open:
		return inv.refused(ErrClosed, "", nil)
	case inv.plan.refuse != nil:
		return inv.refused(inv.plan.refuse, "", inv.plan.cause)
	case priority != 0 && !priority.valid():
		return inv.refused(ErrInvalidArguments, "",
			fmt.Errorf("sluice: PipelineContext.Priority is %d: must be zero (the tool's) or from %d to %d",
				priority, PriorityBatch, PriorityInteractive))
	case now.depth > conf.MaxDepth:
		return inv.refused(ErrNesting, "",
			fmt.Errorf("sluice: nested %d deep: Config.MaxDepth allows %d", now.depth, conf.MaxDepth))
	case now.calls > conf.MaxCallsPerRoot:
		return inv.refused(ErrNesting, "",
			fmt.Errorf("sluice: call %d under call %q: Config.MaxCallsPerRoot allows %d",
				now.calls, cut(inv.root().id, 128), conf.MaxCallsPerRoot))
	}
	return nil
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
func codeOf(e *Event) errtext.Code { return codeFor(e.Err, e.CallKey, e.Call.ID) }

// codeFor is the code of err, which ended the call of that key and id, as far as they are
// known.
func codeFor(err error, key CallKey, id string) errtext.Code {
	found := errwalk.Find(err, func(x error) bool {
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
		return errorCode(x, key, id)
	case withheldError:
		return x.code
	case ranError:
		if e := ownError(x.Err); e != nil && (key == 0 || x.key == key) {
			return errorCode(e, x.key, id)
		}
		return foreignCode(x.Err)
	}
	switch {
	case isReason(err, context.Canceled):
		return errtext.Canceled
	case isReason(err, context.DeadlineExceeded):
		return errtext.Timeout
	}
	return errtext.ToolError
}

func panicCode(p *PanicError) errtext.Code {
	if p.Goexit {
		return errtext.Goexit
	}
	return errtext.Panic
}

// errorCode is the code of an error of this library's, which may be of another call.
func errorCode(x *Error, key CallKey, id string) errtext.Code {
	own := x.CallID == "" || id == "" || x.CallID == id
	if x.key != 0 && key != 0 {
		own = x.key == key
	}
	if !own { // of a nested call, passed on by a tool that did run
		return foreignCode(x.Cause)
	}
	if x.Reason == ErrRejected {
		if p, ok := errwalk.First[*PanicError](x.Cause); ok && p != nil {
			return panicCode(p)
		}
	}
	return reasonCode(x.Reason)
}

// foreignCode is the code of a call that passes on an error of another call.
func foreignCode(cause error) errtext.Code {
	if isReason(cause, context.Canceled) {
		return errtext.Canceled
	}
	return errtext.ToolError
}

func reasonCode(reason error) errtext.Code {
	switch reason {
	case ErrUnknownTool:
		return errtext.UnknownTool
	case ErrInvalidArguments:
		return errtext.InvalidArguments
	case ErrBreakerOpen:
		return errtext.BreakerOpen
	case ErrRateLimited:
		return errtext.RateLimited
	case ErrSaturated:
		return errtext.Saturated
	case ErrQueueFull:
		return errtext.QueueFull
	case ErrWaitTooLong:
		return errtext.WaitTooLong
	case ErrDenied:
		return errtext.Denied
	case ErrNesting:
		return errtext.Nesting
	case ErrClosed:
		return errtext.Closed
	case ErrTimeout:
		return errtext.Timeout
	case ErrRejected:
		return errtext.Canceled
	}
	return errtext.ToolError
}

// passes reports whether it makes sense to try again what ended with err: after a refusal
// for a reason that passes, or if somebody said when.
func passes(err error, code errtext.Code, retry time.Duration) bool {
	if retry > 0 {
		return true
	}
	x := ownError(err)
	return code.Passes() && (x == nil || x.Cause != error(errTooWide))
}

// messageOf is what an event says of err: for a panic nothing but that, else its text, cut.
func messageOf(code errtext.Code, err error) string {
	if code == errtext.Panic || code == errtext.Goexit {
		return string(code)
	}
	return cut(errwalk.Text(err), maxMessage)
}

const (
	maxMessage = 1024 // bytes of an error's text in an event
	maxName    = 256  // bytes of a name or id in an event
)

// cut keeps at most n bytes of s, and says so.
func cut(s string, n int) string { return jsonx.Cut(s, n, "…") }

// ModelText is what a model should read of an error of a call: one JSON object that says
// what happened and what to do about it,
//
//	{"type":"rate_limited","message":"too many calls for now; try again in 2 s","retryable":true,"retry_after_ms":1200}
//
// type is [CodeOf] the error, and retry_after_ms is left out where nobody knows. The message
// names no constraint, no library and no value of a panic. A tool's own error is told by
// its text, cut to 1,024 bytes: return from a tool what a model may read. Control,
// bidirectional and invisible characters are escaped. It is empty for nil.
func ModelText(err error) string {
	if err == nil {
		return ""
	}
	code, retry := codeFor(err, 0, ""), retryIn(err)
	_, throttled := errwalk.First[blame.Retryable](err)
	again := throttled || passes(err, code, retry)
	return errtext.ForModel(code, modelMessage(err, code, 0), maxMessage+len("…"), again, retry)
}

// retryIn is when to retry, as far as err says.
func retryIn(err error) time.Duration {
	if _, retry := whose(err); retry > 0 {
		return retry
	}
	return foreignRetry(err)
}

// maxTold bounds how many errors within each other a message tells of.
const maxTold = 4

// modelMessage says what happened, and what to do.
func modelMessage(err error, code errtext.Code, depth int) string {
	if depth == maxTold {
		return errtext.Failed
	}
	f, cause := errtext.Failure{Code: code, Retry: retryIn(err)}, error(nil)
	if x := ownError(err); x != nil {
		f.Tool, cause, f.TooWide = x.Tool, x.Cause, x.Cause == error(errTooWide)
	}
	switch code {
	case errtext.UnknownTool:
		f.Names, _ = errwalk.First[errtext.Names](cause)
	case errtext.InvalidArguments:
		if _, f.Unusable = errwalk.First[*PanicError](cause); !f.Unusable {
			f.Detail = plainText(cause, depth)
		}
	case errtext.Denied:
		f.Detail = plainText(cause, depth)
	case errtext.ToolError:
		switch x := err.(type) {
		case ranError:
			return "a call that the tool made was refused: " + plainText(x.Err, depth)
		case *Error, withheldError:
			return errtext.With(errtext.Failed, plainText(cause, depth))
		}
		return plainText(err, depth)
	}
	return f.Message()
}

// plainText is the text of a foreign error, with what the library's own errors in it mean
// to a model in place of their text. What a tool that ran passes on is told as one.
func plainText(err error, depth int) string {
	if err == nil {
		return ""
	}
	text := cut(errwalk.Text(err), 4*maxMessage)
	n := 0
	errwalk.Walk(err, func(x error) errwalk.Step {
		_, ran := x.(ranError)
		switch x.(type) {
		case *Error, *PanicError, ranError:
			if own := errwalk.Text(x); own != "" {
				text = cut(strings.ReplaceAll(text, own, modelMessage(x, codeFor(x, 0, ""), depth+1)), 4*maxMessage)
			}
			n++
		}
		switch {
		case n == maxTold:
			return errwalk.Stop
		case ran:
			return errwalk.Beside
		}
		return errwalk.Deeper
	})
	return cut(strings.ReplaceAll(text, "sluice: ", ""), maxMessage)
}

// WithoutErrorText is s for one that must not see what tools and interceptors write into
// their errors, which may be an argument, an address or a key. The Err of an event becomes
// one that says its code ([CodeOf]) and nothing else, in every form; it matches the same
// reasons and [ErrRejected], and the library's own [Error] keeps all but its Cause. It goes
// around any sink or inside one: a [MultiSink], an [AsyncSink], [WithPayloads], a run's own.
// A nil s discards. The sink is as safe for concurrent use as s.
func WithoutErrorText(s EventSink) EventSink { return &errorTextFilter{s} }

type errorTextFilter struct{ next EventSink }

func (f *errorTextFilter) Enabled(k EventKind) bool { return f.next != nil && f.next.Enabled(k) }

func (f *errorTextFilter) Emit(ctx context.Context, e *Event) error {
	if f.next == nil {
		return nil
	}
	return f.next.Emit(ctx, withoutErrorText(e))
}

func (f *errorTextFilter) wantsValues() bool {
	_, wants := valueSinkOf(f.next)
	return wants
}

func (f *errorTextFilter) emitBoth(ctx context.Context, plain, full *Event) error {
	return f.next.(valueSink).emitBoth(ctx, withoutErrorText(plain), withoutErrorText(full))
}

func (f *errorTextFilter) freeze(plain, full *Event) func(context.Context) error {
	return f.next.(valueSink).freeze(withoutErrorText(plain), withoutErrorText(full))
}

// withoutErrorText is e, or a copy of it if it has an error.
func withoutErrorText(e *Event) *Event {
	if e.Err == nil {
		return e
	}
	c := *e
	c.Err = withoutText(e)
	return &c
}

// withoutText is e.Err without any text of foreign code.
func withoutText(e *Event) error {
	if e.Err == nil {
		return nil
	}
	code := codeOf(e)
	switch x := e.Err.(type) {
	case *Error:
		if x != nil && reasonCode(x.Reason) != errtext.ToolError {
			y := *x
			y.Cause = ownCause(x.Cause)
			return &y
		}
	case *PanicError:
		if x != nil {
			return &PanicError{Tool: x.Tool, Goexit: x.Goexit}
		}
	case withheldError:
		return x
	}
	w := withheldError{code: code}
	if x := ownError(e.Err); x != nil && reasonCode(x.Reason) != errtext.ToolError {
		w.reason, w.rejected = x.Reason, isReason(e.Err, ErrRejected)
	}
	return w
}

// ownCause is what of a cause is the library's own text.
func ownCause(cause error) error {
	switch x := cause.(type) {
	case *errtext.Bound, errtext.Names:
		return cause
	case *PanicError:
		if x != nil {
			return &PanicError{Tool: x.Tool, Goexit: x.Goexit}
		}
	}
	if cause == error(errTooWide) || cause == context.Canceled || cause == context.DeadlineExceeded {
		return cause
	}
	return nil
}

// withheldError stands for an error whose text is not shown.
type withheldError struct {
	code     errtext.Code
	reason   error // of a refusal or a timeout; else nil
	rejected bool
}

func (e withheldError) Error() string { return string(e.code) }

func (e withheldError) Is(target error) bool {
	switch target {
	case ErrRejected:
		return e.rejected
	case context.Canceled:
		return e.code == errtext.Canceled
	case context.DeadlineExceeded:
		return e.code == errtext.Timeout
	}
	return e.reason != nil && target == e.reason
}

// refusal is what f is to the caller. What its details say becomes text only when somebody reads it.
func (a *admission) refusal(inv *invocation, f *stage.Refusal) error {
	e := inv.refused(ErrQueueFull, cmp.Or(f.Name, queueName), nil)
	e.RetryAfter = time.Duration(min(f.After, math.MaxInt64/2))
	switch f.Reason {
	case admit.QueueFull:
		e.Cause = &errtext.Bound{Waiting: f.Waiting}
	case admit.Saturated:
		e.Reason, e.Cause = ErrSaturated, &errtext.Bound{Limit: f.Limit, Anonymous: a.anonymous(f.By)}
	case admit.TooWide:
		e.Reason, e.Cause = ErrSaturated, errTooWide
	case admit.RateLimited:
		e.Reason = ErrRateLimited
	case admit.BreakerOpen:
		e.Reason = ErrBreakerOpen
	case admit.TooLong:
		d := &errtext.Bound{Anonymous: a.anonymous(f.By), AtOnce: f.AtOnce}
		if !f.AtOnce && !f.Deadline {
			d.Within, d.Nested = cmp.Or(a.maxWait, nestedWait), a.maxWait == 0
		}
		e.Reason, e.Cause = ErrWaitTooLong, d
	case admit.Cycle:
		e.Reason, e.Cause = ErrNesting, fmt.Errorf("sluice: nested calls wait for each other: %s", f.Detail)
	case admit.Closed:
		e.Reason, e.By = ErrClosed, ""
	}
	return e
}

// anonymous reports whether c counts calls by tenant, and those without one.
func (a *admission) anonymous(c *admit.Cell) bool {
	if c == nil || c.Key() != "" {
		return false
	}
	for i := range a.parts {
		if p := &a.parts[i]; p.class == c.Class() {
			return p.key >= 0 && a.keys[p.key].Kind() == rules.ByTenant
		}
	}
	return false
}

// gaveUp is the error of a call whose own context ended before its code ran.
func (inv *invocation) gaveUp(ctx context.Context, by string) error {
	cause, reason := context.Cause(ctx), ErrRejected
	if isReason(ctx.Err(), context.DeadlineExceeded) {
		reason = ErrWaitTooLong
	}
	return inv.refused(reason, by, cause)
}
