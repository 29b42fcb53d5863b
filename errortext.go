package sluice

import "context"

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
		if x != nil && reasonCode(x.Reason) != codeToolError {
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
	if x, ok := firstError[*Error](e.Err); ok && x != nil && reasonCode(x.Reason) != codeToolError {
		w.reason, w.rejected = x.Reason, isReason(e.Err, ErrRejected)
	}
	return w
}

// ownCause is what of a cause is the library's own text.
func ownCause(cause error) error {
	switch x := cause.(type) {
	case *refusalDetail, nearTools:
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
	code     errorCode
	reason   error // of a refusal or a timeout; else nil
	rejected bool
}

func (e withheldError) Error() string { return string(e.code) }

func (e withheldError) Is(target error) bool {
	switch target {
	case ErrRejected:
		return e.rejected
	case context.Canceled:
		return e.code == codeCanceled
	case context.DeadlineExceeded:
		return e.code == codeTimeout
	}
	return e.reason != nil && target == e.reason
}
