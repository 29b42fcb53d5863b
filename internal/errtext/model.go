package errtext

import (
	"strconv"
	"strings"
	"time"

	"github.com/sluice-go/sluice/internal/errwalk"
	"github.com/sluice-go/sluice/internal/jsonx"
)

// Failed is all that a model reads of a call of which nothing else is to be said.
const Failed = "the call failed"

// Failure is the end of a call as a model reads of it.
type Failure struct {
	Code     Code
	Tool     string        // that the call named, of an UnknownTool
	Names    Names         // that it may have meant
	Detail   string        // why, of InvalidArguments and Denied
	TooWide  bool          // a Saturated call asks for more than the limit
	Retry    time.Duration // when that makes sense; not positive if nobody knows
	Unusable bool          // InvalidArguments could not even be read
	Final    bool          // it makes no sense to try again
}

// Message says what happened, and what to do. It is empty for a ToolError, whose own text says
// that.
func (f *Failure) Message() string {
	switch f.Code {
	case UnknownTool:
		return f.unknown()
	case InvalidArguments:
		if f.Unusable {
			return "the arguments could not be read"
		}
		return With("the arguments do not fit the tool", f.Detail)
	case Denied:
		return With("the call was denied", f.Detail)
	case RateLimited:
		return "too many calls for now" + f.again("; ")
	case Saturated:
		if f.TooWide {
			return "the call asks for more than is allowed at once; ask for less"
		}
		return "too many calls run at present" + f.again("; ")
	case QueueFull:
		return "too many calls wait at present" + f.again("; ")
	case WaitTooLong:
		return "the call could not start in time" + f.again("; ")
	case BreakerOpen:
		return "the tool keeps failing and is not called for now; do without it" + f.again(", or ")
	case Nesting:
		return "the call was refused: tools called each other too deeply, too often or in a circle"
	case Closed:
		return "the program is shutting down and takes no more calls"
	case Timeout:
		return "the tool did not finish in time"
	case Canceled:
		return "the call was cancelled"
	case Panic, Goexit:
		return "the tool failed"
	}
	return ""
}

// again is what to do after a refusal for a reason that passes, after what joins it to that.
func (f *Failure) again(join string) string {
	if f.Final {
		return ""
	}
	return join + "try again " + inWords(f.Retry)
}

func (f *Failure) unknown() string {
	s := "there is no such tool"
	if f.Tool != "" {
		s = `there is no tool "` + jsonx.Cut(f.Tool, 128, "…") + `"`
	}
	if len(f.Names) > 0 {
		s += "; " + f.Names.Error()
	}
	return s
}

// With is s and what is behind it, if anything is.
func With(s, detail string) string {
	if detail == "" {
		return s
	}
	return s + ": " + detail
}

// ForModel is the JSON object that a model reads: what happened, and when to retry, if anybody
// knows.
func ForModel(code Code, message string, retryable bool, retry time.Duration) string {
	b := append(append(make([]byte, 0, 256), `{"type":"`...), code...)
	b = jsonx.AppendString(append(b, `","message":`...), message, MaxMessage+len("…"))
	b = strconv.AppendBool(append(b, `,"retryable":`...), retryable)
	if retry > 0 {
		b = strconv.AppendInt(append(b, `,"retry_after_ms":`...), CeilMillis(retry), 10)
	}
	return string(append(b, '}'))
}

// maxNested bounds how many errors within an error Retell replaces.
const maxNested = 4

// Retell is the text of err, in which the text of some errors in its tree is replaced by what own
// says of them, and where to go on from there. Of others own says nothing.
func Retell(err error, own func(error) (text string, next errwalk.Step)) string {
	if err == nil {
		return ""
	}
	text, n := jsonx.Cut(errwalk.Text(err), 4*MaxMessage, "…"), 0
	errwalk.Walk(err, func(x error) errwalk.Step {
		with, next := own(x)
		if with == "" {
			return errwalk.Deeper
		}
		if was := errwalk.Text(x); was != "" {
			text = jsonx.Cut(strings.ReplaceAll(text, was, with), 4*MaxMessage, "…")
		}
		if n++; n == maxNested {
			return errwalk.Stop
		}
		return next
	})
	return jsonx.Cut(strings.ReplaceAll(text, "sluice: ", ""), MaxMessage, "…")
}

// inWords says when to try again, rounded up.
func inWords(d time.Duration) string {
	in := func(unit time.Duration, name string) string {
		return "in " + strconv.FormatInt(int64((d+unit-1)/unit), 10) + " " + name
	}
	switch {
	case d <= 0:
		return "later"
	case d < time.Second:
		return in(time.Millisecond, "ms")
	case d < 2*time.Minute:
		return in(time.Second, "s")
	case d < 2*time.Hour:
		return in(time.Minute, "min")
	}
	return in(time.Hour, "h")
}
