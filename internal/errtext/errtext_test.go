package errtext

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-go/sluice/internal/errwalk"
	"github.com/stretchr/testify/assert"
)

// Whatever a call ended with, a model reads a sentence; of a tool's error its own text is that.
func TestEachCodeHasAMessage(t *testing.T) {
	codes := []Code{UnknownTool, InvalidArguments, BreakerOpen, RateLimited, Saturated, QueueFull,
		WaitTooLong, Denied, Nesting, Closed, Timeout, Canceled, Panic, Goexit}
	for _, c := range codes {
		soon, later := (&Failure{Code: c, Retry: time.Second}).Message(), (&Failure{Code: c}).Message()
		if soon == "" || later == "" || strings.Contains(soon, "in 1 s") != c.Passes() || strings.HasSuffix(later, "later") != c.Passes() {
			t.Errorf("%s: %q, %q", c, soon, later)
		}
	}
	if s := (&Failure{Code: ToolError, Detail: "x"}).Message(); s != "" || ToolError.Passes() {
		t.Errorf("a tool's error is told as %q", s)
	}
}

// When to retry is told in one unit, and never too early.
func TestRetriesAreRoundedUp(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-1: "later", 0: "later", 1: "in 1 ms", time.Second - 1: "in 1000 ms", time.Second: "in 1 s", 119*time.Second + 1: "in 120 s",
		2*time.Minute + 1: "in 3 min", 2 * time.Hour: "in 2 h", 25*time.Hour + 1: "in 26 h",
	} {
		assert.Equal(t, want, inWords(d), "%v", d)
	}
	n := CeilMillis(time.Millisecond + 1)
	assert.Equal(t, int64(2), n, "a millisecond and a nanosecond are %d ms", n)
}

// Names that somebody may have meant are few, near before far, and alike as a reader sees them.
func TestNearestNamesAreFewAndNear(t *testing.T) {
	names := []string{"search", "search_web", "fetch1", "fetch2", "fetch3", "fetch4"}
	for name, want := range map[string]Names{
		"serch":                           {"search"},
		"Sear-ch":                         {"search", "search_web"},
		"functions.search":                {"search"},
		"fetch":                           {"fetch1", "fetch2", "fetch3"},
		"weather":                         nil,
		"":                                nil,
		strings.Repeat("s", maxNameLen+1): nil,
	} {
		assert.Equal(t, want, Nearest(name, slices.Values(names)), "%q", name)
	}
}

// Nobody looks for a name among too many, and where none is near there is no error.
func TestMeantNamesAreLookedForAmongSome(t *testing.T) {
	tools := map[string]int{"search": 1}
	assert.Equal(t, Names{"search"}, Meant("serch", tools))
	assert.NoError(t, Meant("weather", tools))
	assert.Equal(t, ErrNoTools, Meant("serch", map[string]int{}))
	for i := range maxNear - 1 {
		tools[fmt.Sprint("another", i)] = i
	}
	assert.Equal(t, Names{"search"}, Meant("serch", tools))
	tools["more"] = 1
	assert.NoError(t, Meant("serch", tools))
}

// What is not registered is named, cut, with what to do and what was meant.
func TestUnregistered(t *testing.T) {
	tools := map[string]int{"search": 1}
	for _, tt := range []struct{ got, want error }{
		{Unregistered("", "serch", tools, "use Register"), errors.New(`sluice: tool "serch" is not registered: use Register; did you mean "search"?`)},
		{Unregistered("Lift: ", "weather", tools, "must be"), errors.New(`sluice: Lift: tool "weather" is not registered: must be`)},
		{Unregistered("Lift: ", strings.Repeat("x", 200), map[string]int{}, "must be"), errors.New(`sluice: Lift: tool "` + strings.Repeat("x", 128) + `…" is not registered: must be`)},
	} {
		assert.Equal(t, tt.want, tt.got)
	}
}

// Two bytes that have changed places are one mistake.
func TestEditDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "ab", 2}, {"ab", "ba", 1}, {"abc", "abd", 1}, {"abc", "ac", 1}, {"kitten", "sitting", 3}} {
		got := editDistance(tt.a, tt.b)
		assert.Equal(t, tt.want, got, "%q and %q", tt.a, tt.b)
		assert.Equal(t, got, editDistance(tt.b, tt.a), "%q and %q", tt.a, tt.b)
	}
}

// An error that stands for another matches what that matched, and says its code.
func TestWithheldErrorsMatchAsBefore(t *testing.T) {
	reason, parent := errors.New("reason"), errors.New("parent")
	w := Withheld{Code: Timeout, Reason: reason, Parent: parent}
	assert.EqualError(t, w, "timeout")
	for _, target := range []error{reason, parent, context.DeadlineExceeded} {
		assert.ErrorIs(t, w, target)
	}
	assert.NotErrorIs(t, w, context.Canceled)
	assert.False(t, Withheld{}.Is(nil), "nothing matches nil")
}

// What the library's own errors in a text say is replaced, a few times, and cut.
func TestRetoldErrorsSayWhatOwnSays(t *testing.T) {
	inner := errors.New("sluice: inner")
	own := func(x error) (string, errwalk.Step) {
		if x == inner {
			return "told", errwalk.Beside
		}
		return "", errwalk.Deeper
	}
	assert.Equal(t, "a: told and told", Retell(fmt.Errorf("sluice: a: %w and %w", inner, inner), own))
	assert.Empty(t, Retell(nil, own))
	assert.Len(t, Retell(errors.New(strings.Repeat("x", 5000)), own), MaxMessage+len("…"))
}

// A refusal is one line and one object, whatever its names hold.
func TestRefusalsAreOneLine(t *testing.T) {
	r := Refusal{Tool: "a\nb", Reason: "queue full", By: QueueName, Retry: time.Second, Cause: "x\u2028y"}
	assert.Equal(t, `sluice: tool "a\nb": queue full, retry in 1s: x\u2028y`, r.Line())
	assert.JSONEq(t, `{"tool_name":"a\nb","reason":"queue full","by":"queue","retry_after_ms":1000,"message":"m"}`, string(r.JSON("m")))
}

// knot wraps whatever is tied to it.
type knot struct{ next error }

func (k *knot) Error() string { return "knot" }
func (k *knot) Unwrap() error { return k.next }

// The text of what lies behind an error ends, also where the error leads back to itself.
func TestTextsBehindAnErrorEnd(t *testing.T) {
	err := errors.New("err")
	assert.Empty(t, Behind(err, nil))
	assert.Equal(t, "knot", Behind(err, &knot{errors.New("other")}))
	assert.Equal(t, "errors without end", Behind(err, &knot{err}))
	ring := new(knot)
	ring.next = ring
	assert.Equal(t, "errors without end", Behind(err, ring))
}

// A reason has its code, whatever it is compared with; what is no reason is the tool's.
func TestReasonsHaveCodes(t *testing.T) {
	full, shut := errors.New("sluice: full"), errors.New("shut")
	r := Reasons{{full, QueueFull}, {shut, Closed}}
	assert.Equal(t, QueueFull, r.Code(full))
	assert.Equal(t, Closed, r.Code(shut))
	for _, err := range []error{nil, errors.New("shut"), fmt.Errorf("x: %w", full), Names{"x"}} {
		assert.Equal(t, ToolError, r.Code(err), "%v", err)
	}
	assert.Equal(t, "full", Reason(full))
	assert.Equal(t, "failed", Reason(nil))
}

// Of a panic nobody reads more than that there was one.
func TestPanicsSayNothing(t *testing.T) {
	text := errors.New(strings.Repeat("x", 2*MaxMessage))
	assert.Equal(t, Panic, PanicCode(false))
	assert.Equal(t, Goexit, PanicCode(true))
	assert.Equal(t, "panic", MessageOf(Panic, text))
	assert.Equal(t, "goexit", MessageOf(Goexit, text))
	assert.Equal(t, strings.Repeat("x", MaxMessage)+"…", MessageOf(ToolError, text))
	assert.Equal(t, `sluice: code of tool "a\nb" panicked`, Panicked("a\nb", false))
	assert.Equal(t, `sluice: code of tool "a" called runtime.Goexit`, Panicked("a", true))
}

// odd cannot be compared.
type odd []int

func (odd) Error() string { return "odd" }

// Of what is behind a refusal only text that nobody else has written is kept.
func TestOwnTextsAreKept(t *testing.T) {
	for _, err := range []error{&Bound{Waiting: 1}, Names{"a"}, ErrTooWide, ErrNoTools, context.Canceled, context.DeadlineExceeded} {
		assert.Equal(t, err, OwnText(err))
	}
	for _, err := range []error{nil, errors.New("x"), odd{1}, fmt.Errorf("x: %w", context.Canceled), NotBegun{}, Withheld{}} {
		assert.NoError(t, OwnText(err), "%v", err)
	}
}

// Of a call that was refused since its time was over, what is said beyond that is kept, but not that it ran.
func TestLateBy(t *testing.T) {
	timeout, over := errors.New("timed out"), errors.New("over")
	for _, err := range []error{nil, context.DeadlineExceeded} {
		assert.Equal(t, NotBegun{}, LateBy(err, timeout))
	}
	assert.Equal(t, over, LateBy(over, timeout))
	assert.Equal(t, odd{1}, LateBy(odd{1}, timeout))
	err := LateBy(fmt.Errorf("%w: %w", over, timeout), timeout)
	assert.EqualError(t, err, "over: timed out")
	assert.ErrorIs(t, err, over)
	assert.NotErrorIs(t, err, timeout)
}
