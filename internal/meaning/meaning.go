// Package meaning says what the error of a call means: the code that events write, whether it makes
// sense to try again and when, and what a model reads.
//
// An error may wrap those of nested calls, and be wrapped by foreign code. Which errors are the
// library's own, and what each says, the root package knows: it gives a [Reader] a function for that.
// The package keeps nothing and locks nothing. It calls methods of foreign errors, as package errwalk
// does.
package meaning

import (
	"cmp"
	"context"
	"time"

	"github.com/sluice-go/sluice/internal/blame"
	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/errwalk"
)

// Kind is what an error is, apart from what it wraps.
type Kind uint8

const (
	Foreign  Kind = iota // not the library's own
	Empty                // the library's, but nil: it says nothing
	Refusal              // the library's, about one call; a timeout too
	Panic                // of foreign code
	PassedOn             // a [Ran]
)

// Own is what an error of the library says, apart from what it wraps.
type Own struct {
	Kind  Kind
	Code  errtext.Code // of a Panic, or of a Refusal's reason: Canceled if that is none in particular
	Key   uint64       // of the call that was refused, or that a Ran ended; zero if nobody knows
	ID    string       // of the call that was refused; may be empty
	Tool  string
	Retry time.Duration // from the refusal on; not positive if nobody knows
	Cause error         // behind a Refusal, or what is passed on; may be nil
}

// Reader reads errors.
type Reader struct {
	Own      func(error) Own // what an error says; the zero value of a foreign one
	MaxRetry time.Duration   // the longest that a foreign error can ask for
}

// of is what err says, apart from what it wraps.
func (r *Reader) of(err error) Own {
	if x, ok := err.(Ran); ok {
		return Own{Kind: PassedOn, Key: x.Key, Cause: x.Err}
	}
	return r.Own(err)
}

// Ran is a refusal that a tool which did run returned, say of a call nested in it. It is what it was, but does
// not claim that the outer tool, whose call has that key, did not run.
type Ran struct {
	errwalk.Except
	Key uint64
}

// Elsewhere is an error of a tool that has run for another call.
type Elsewhere struct{ errwalk.Except }

// CameFrom is what err marks, and whether it is of a tool that has run for another call.
func (r *Reader) CameFrom(err error) (error, bool) {
	if x, ok := err.(Elsewhere); ok {
		return x.Err, true
	}
	_, there := errwalk.First[Elsewhere](err) // around which somebody has said more
	return err, there
}

// refusal is the first Refusal of err's tree, if there is one.
func (r *Reader) refusal(err error) (Own, bool) {
	x := errwalk.Find(err, func(x error) bool { return r.of(x).Kind == Refusal })
	if x == nil {
		return Own{}, false
	}
	return r.of(x), true
}

// Code is the code of err, which ended the call of that key and id, as far as they are known: that of
// the library's first own error in it, but of what a rule, or nobody but the tool, has said it is what
// that has by itself, if it does. It is empty for nil.
func (r *Reader) Code(err error, key uint64, id string) errtext.Code {
	if err == nil {
		return ""
	}
	code, name := r.Reason(err, key, id), errtext.Code("")
	switch code {
	case errtext.Denied:
		x, _ := r.refusal(err)
		name = errtext.Named(x.Cause)
	case errtext.ToolError:
		if r.own(err) == nil {
			name = errtext.Named(err)
		}
	}
	return cmp.Or(name, code)
}

// own is the first of the library's own errors in err that says something; nil if there is none.
func (r *Reader) own(err error) error {
	return errwalk.Find(err, func(x error) bool {
		_, withheld := x.(errtext.Withheld)
		return withheld || r.of(x).Kind > Empty
	})
}

// Reason is Code, but always one of the library's own.
func (r *Reader) Reason(err error, key uint64, id string) errtext.Code {
	if found := r.own(err); found != nil {
		if x, ok := found.(errtext.Withheld); ok {
			return x.Code
		}
		return r.ownCode(r.of(found), key, id)
	}
	switch {
	case errwalk.Is(err, context.Canceled):
		return errtext.Canceled
	case errwalk.Is(err, context.DeadlineExceeded):
		return errtext.Timeout
	}
	return errtext.ToolError
}

// Denial is why a rule refused, as err says: the text of a foreign error that is its cause, or a word.
func (r *Reader) Denial(err error) string {
	if x := r.Own(err); x.Kind == Refusal && x.Cause != nil && r.Reason(x.Cause, 0, "") == errtext.ToolError {
		if why := errwalk.Text(x.Cause); why != "" {
			return why
		}
	}
	return string(errtext.Denied)
}

func (r *Reader) ownCode(x Own, key uint64, id string) errtext.Code {
	switch x.Kind {
	case Refusal:
		return r.refusalCode(x, key, id)
	case PassedOn:
		if y, ok := r.refusal(x.Cause); ok && (key == 0 || x.Key == key) {
			return r.refusalCode(y, x.Key, id)
		}
		return foreignCode(x.Cause)
	}
	return x.Code
}

// refusalCode is the code of a refusal, which may be of another call than the one that it ended.
func (r *Reader) refusalCode(x Own, key uint64, id string) errtext.Code {
	own := x.ID == "" || id == "" || x.ID == id
	if x.Key != 0 && key != 0 {
		own = x.Key == key
	}
	if !own { // of a nested call, returned by a tool that did run
		return foreignCode(x.Cause)
	}
	if x.Code == errtext.Canceled {
		if p := errwalk.Find(x.Cause, func(y error) bool { return r.of(y).Kind == Panic }); p != nil {
			return r.of(p).Code
		}
	}
	return x.Code
}

// foreignCode is the code of a call that returned an error of another call.
func foreignCode(cause error) errtext.Code {
	if errwalk.Is(cause, context.Canceled) {
		return errtext.Canceled
	}
	return errtext.ToolError
}

// Passes reports whether it makes sense to try again what ended with err: after a refusal for a
// reason that passes, or if somebody said when.
func (r *Reader) Passes(err error, code errtext.Code, retry time.Duration) bool {
	if retry > 0 {
		return true
	}
	if !code.Passes() {
		return false
	}
	x, _ := r.refusal(err)
	return x.Cause != errtext.ErrTooWide
}

// Retry is when to try again, as far as err says.
func (r *Reader) Retry(err error) time.Duration {
	if x, _ := r.refusal(err); x.Retry > 0 {
		return x.Retry
	}
	return r.ForeignRetry(err)
}

// ForeignRetry is when to try again as an error with a RetryAfter method says; zero if none does.
func (r *Reader) ForeignRetry(err error) time.Duration { return min(blame.After(err), r.MaxRetry) }

// ModelText is the JSON object that a model reads of err; empty for nil.
func (r *Reader) ModelText(err error) string {
	if err == nil {
		return ""
	}
	code, retry := r.Reason(err, 0, ""), r.Retry(err)
	_, throttled := errwalk.First[blame.Retryable](err)
	retryable := throttled || r.Passes(err, code, retry)
	return errtext.ForModel(r.Code(err, 0, ""), r.message(err, code, 0, !retryable), retryable, retry)
}

// maxInMessage bounds how many errors within each other a message says something of.
const maxInMessage = 4

// message says what happened, and what to do: not to try again, if that is final.
func (r *Reader) message(err error, code errtext.Code, depth int, final bool) string {
	if depth == maxInMessage {
		return errtext.Failed
	}
	x, _ := r.refusal(err)
	f := errtext.Failure{Code: code, Retry: r.Retry(err), Tool: x.Tool, TooWide: x.Cause == errtext.ErrTooWide, Final: final}
	switch code {
	case errtext.UnknownTool:
		f.Names, _ = errwalk.First[errtext.Names](x.Cause)
	case errtext.InvalidArguments:
		f.Unusable = errwalk.Find(x.Cause, func(y error) bool { return r.of(y).Kind == Panic }) != nil
		if !f.Unusable {
			f.Detail = r.text(x.Cause, depth, final)
		}
	case errtext.Denied:
		f.Detail = r.text(x.Cause, depth, final)
	case errtext.ToolError:
		return r.toolError(err, x.Cause, depth, final)
	}
	return f.Message()
}

// toolError says what happened to a call that ended with err, which is the tool's own; cause is
// behind the first refusal in it.
func (r *Reader) toolError(err, cause error, depth int, final bool) string {
	switch x := r.of(err); x.Kind {
	case PassedOn:
		return "a call that the tool made was refused: " + r.text(x.Cause, depth, final)
	case Refusal, Empty:
		return errtext.With(errtext.Failed, r.text(cause, depth, final))
	}
	if _, ok := err.(errtext.Withheld); ok {
		return errtext.Failed
	}
	return r.text(err, depth, final)
}

// text is the text of a foreign error, with what the library's own errors in it mean to a model in
// place of their text. What a tool returned of a nested call counts as one.
func (r *Reader) text(err error, depth int, final bool) string {
	return errtext.Retell(err, func(x error) (string, errwalk.Step) {
		next := errwalk.Deeper
		switch r.of(x).Kind {
		case Foreign:
			return "", next
		case PassedOn:
			next = errwalk.Beside
		}
		return r.message(x, r.Reason(x, 0, ""), depth+1, final), next
	})
}
