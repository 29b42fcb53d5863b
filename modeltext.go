package sluice

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-go/sluice/internal/jsonx"
)

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
	code := codeFor(err, 0, "")
	retry := retryIn(err)
	b := append(append(make([]byte, 0, 256), `{"type":"`...), code...)
	b = jsonx.AppendString(append(b, `","message":`...), modelMessage(err, code, 0), maxMessage+len("…"))
	b = append(b, `,"retryable":`...)
	_, throttled := firstError[retryable](err)
	b = strconv.AppendBool(b, throttled || passes(err, code, retry))
	if retry > 0 {
		b = strconv.AppendInt(append(b, `,"retry_after_ms":`...), ceilMillis(retry), 10)
	}
	return string(append(b, '}'))
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
func modelMessage(err error, code errorCode, depth int) string {
	if depth == maxTold {
		return "the call failed"
	}
	x, isOwn := firstError[*Error](err)
	isOwn = isOwn && x != nil
	var cause error
	if isOwn {
		cause = x.Cause
	}
	retry := retryIn(err)
	switch code {
	case codeUnknownTool:
		s := "there is no such tool"
		if isOwn && x.Tool != "" {
			s = `there is no tool "` + cut(x.Tool, 128) + `"`
		}
		if near, ok := firstError[nearTools](cause); ok {
			s += "; " + near.Error()
		}
		return s
	case codeInvalidArguments:
		if _, panicked := firstError[*PanicError](cause); panicked {
			return "the arguments could not be read"
		}
		return withCause("the arguments do not fit the tool", cause, depth)
	case codeDenied:
		return withCause("the call was denied", cause, depth)
	case codeRateLimited:
		return "too many calls for now; try again " + inWords(retry)
	case codeSaturated:
		if cause == error(errTooWide) {
			return "the call asks for more than is allowed at once; ask for less"
		}
		return "too many calls run at present; try again " + inWords(retry)
	case codeQueueFull:
		return "too many calls wait at present; try again " + inWords(retry)
	case codeWaitTooLong:
		return "the call could not start in time; try again " + inWords(retry)
	case codeBreakerOpen:
		return "the tool keeps failing and is not called for now; do without it, or try again " + inWords(retry)
	case codeNesting:
		return "the call was refused: tools called each other too deeply, too often or in a circle"
	case codeClosed:
		return "the program is shutting down and takes no more calls"
	case codeTimeout:
		return "the tool did not finish in time"
	case codeCanceled:
		return "the call was cancelled"
	case codePanic, codeGoexit:
		return "the tool failed"
	}
	switch r := err.(type) {
	case ranError:
		return "a call that the tool made was refused: " + plainText(r.err, depth)
	case *Error, withheldError:
		return withCause("the call failed", cause, depth)
	}
	return plainText(err, depth)
}

func withCause(s string, cause error, depth int) string {
	if cause == nil {
		return s
	}
	return s + ": " + plainText(cause, depth)
}

// plainText is the text of a foreign error, with what the library's own errors in it mean
// to a model in place of their text.
func plainText(err error, depth int) string {
	text := cut(textOf(err), 4*maxMessage)
	n := 0
	findError(err, false, func(x error) bool {
		switch x.(type) {
		case *Error, *PanicError, ranError:
			if own := textOf(x); own != "" {
				text = cut(strings.ReplaceAll(text, own, modelMessage(x, codeFor(x, 0, ""), depth+1)), 4*maxMessage)
			}
			n++
		}
		return n == maxTold
	})
	return cut(strings.ReplaceAll(text, "sluice: ", ""), maxMessage)
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

// nearTools is behind the refusal of an unknown tool: names that its caller may have meant.
type nearTools []string

func (n nearTools) Error() string {
	quoted := make([]string, len(n))
	for i, name := range n {
		quoted[i] = strconv.Quote(name)
	}
	return "did you mean " + strings.Join(quoted, " or ") + "?"
}

const (
	maxNear      = 3      // names told
	maxNearTools = 10_000 // tools to look among
)

// nearTools is the tools whose names are nearest to one that there is not; nil if none is
// near. Interceptors may hide tools from some callers, and the library cannot know which:
// where there are any it tells no names.
func (e *Executor) nearTools(name string) error {
	tools := e.registry.current().tools
	if len(name) > 256 || len(tools) > maxNearTools || len(e.outer)+len(e.inner) > 0 {
		return nil
	}
	type near struct {
		name string
		far  int
	}
	var list []near
	folded := string(jsonx.AppendFolded(nil, name))
	for t := range tools {
		if far := distance(folded, string(jsonx.AppendFolded(nil, t))); far >= 0 {
			list = append(list, near{t, far})
		}
	}
	if list == nil {
		return nil
	}
	slices.SortFunc(list, func(a, b near) int { return cmp.Or(a.far-b.far, strings.Compare(a.name, b.name)) })
	var names nearTools
	for _, n := range list[:min(len(list), maxNear)] {
		names = append(names, n.name)
	}
	return names
}

// distance is how far a folded name is from another, in changed, left out and added bytes;
// -1 if it is too far to be meant: more than a third of it, or than 3. One that only has more before
// or behind it, as "functions.search" has, is as far as the last that may be meant.
func distance(a, b string) int {
	most := min(max(len(a), len(b))/3, 3)
	short, long := a, b
	if len(short) > len(long) {
		short, long = long, short
	}
	affixed := len(short) >= 4 && (strings.HasPrefix(long, short) || strings.HasSuffix(long, short))
	if len(long)-len(short) <= most {
		if d := editDistance(a, b); d <= most {
			return d
		}
	}
	if affixed {
		return most
	}
	return -1
}

// editDistance counts bytes to change, leave out or add (Levenshtein 1966), and two that
// have changed places as one (Damerau 1964).
func editDistance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			d := min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				d = min(d, before[j-1]+1)
			}
			row[j+1] = d
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
