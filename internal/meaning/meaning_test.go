package meaning

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/errwalk"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// own is an error that says what it is.
type own struct{ Own }

func (e *own) Error() string { return "own text" }
func (e *own) Unwrap() error { return e.Cause }

var reader = Reader{
	Own: func(err error) Own {
		if x, ok := err.(*own); ok {
			return x.Own
		}
		return Own{}
	},
	MaxRetry: time.Hour,
}

func refusal(c errtext.Code) *own { return &own{Own{Kind: Refusal, Code: c}} }

// busy asks for time.
type busy time.Duration

func (busy) Error() string               { return "busy" }
func (d busy) RetryAfter() time.Duration { return time.Duration(d) }

// An error's code is that of the library's first own error in it, else of the context's.
func TestCodes(t *testing.T) {
	late, panicked := refusal(errtext.WaitTooLong), &own{Own{Kind: Panic, Code: errtext.Goexit}}
	gaveUp := refusal(errtext.Canceled)
	gaveUp.Cause = fmt.Errorf("x: %w", panicked)
	passed := &own{Own{Kind: PassedOn, Key: 7, Cause: &own{Own{Kind: Refusal, Code: errtext.Saturated, Key: 7}}}}
	nested := &own{Own{Kind: PassedOn, Key: 7, Cause: &own{Own{Kind: Refusal, Code: errtext.Saturated, Key: 8, Cause: context.Canceled}}}}
	for _, tt := range []struct {
		name string
		err  error
		key  uint64
		id   string
		want errtext.Code
	}{
		{"own", fmt.Errorf("x: %w", late), 0, "", errtext.WaitTooLong},
		{"the first of two", errors.Join(panicked, late), 0, "", errtext.Goexit},
		{"whose caller gave up", refusal(errtext.Canceled), 0, "", errtext.Canceled},
		{"by a panic", gaveUp, 0, "", errtext.Goexit},
		{"withheld", errors.Join(errtext.Withheld{Code: errtext.Denied}, late), 0, "", errtext.Denied},
		{"cancelled", fmt.Errorf("x: %w", context.Canceled), 0, "", errtext.Canceled},
		{"late", context.DeadlineExceeded, 0, "", errtext.Timeout},
		{"a tool's", errors.New("x"), 0, "", errtext.ToolError},
		{"own by id", &own{Own{Kind: Refusal, Code: errtext.Closed, ID: "a"}}, 0, "a", errtext.Closed},
		{"of another id", &own{Own{Kind: Refusal, Code: errtext.Closed, ID: "a"}}, 0, "b", errtext.ToolError},
		{"own by key, whatever the id", &own{Own{Kind: Refusal, Code: errtext.Closed, Key: 7, ID: "a"}}, 7, "b", errtext.Closed},
		{"of another key", &own{Own{Kind: Refusal, Code: errtext.Closed, Key: 7, ID: "a"}}, 8, "a", errtext.ToolError},
		{"passed on, of the call", passed, 7, "", errtext.Saturated},
		{"passed on by another call", passed, 9, "", errtext.ToolError},
		{"passed on, of a nested call that was cancelled", nested, 7, "", errtext.Canceled},
	} {
		assert.Equal(t, tt.want, reader.Code(tt.err, tt.key, tt.id), tt.name)
	}
}

// coded has a code of its own.
type coded string

func (coded) Error() string  { return "coded" }
func (c coded) Code() string { return string(c) }

// What a rule has said, or nobody but the tool, may have a code of its own, which is none of the library's.
func TestCodesOfTheirOwn(t *testing.T) {
	denied, full := refusal(errtext.Denied), refusal(errtext.QueueFull)
	denied.Cause, full.Cause = fmt.Errorf("x: %w", coded("in_doubt")), coded("in_doubt")
	nested := &own{Own{Kind: Refusal, Code: errtext.Denied, Key: 8, Cause: coded("in_doubt")}}
	for _, tt := range []struct {
		name         string
		err          error
		code, reason errtext.Code
	}{
		{"of a rule", denied, "in_doubt", errtext.Denied},
		{"of a tool", fmt.Errorf("x: %w", coded("not_found2")), "not_found2", errtext.ToolError},
		{"the first that is one", errors.Join(coded("NotFound"), coded("not_found")), "not_found", errtext.ToolError},
		{"of a limit", full, errtext.QueueFull, errtext.QueueFull},
		{"of a retry", &own{Own{Kind: PassedOn, Key: 7, Cause: denied}}, "in_doubt", errtext.Denied},
		{"of a nested call", &own{Own{Kind: PassedOn, Key: 7, Cause: nested}}, errtext.ToolError, errtext.ToolError},
		{"beside a refusal", errors.Join(coded("in_doubt"), full), errtext.QueueFull, errtext.QueueFull},
		{"beside a cancellation", errors.Join(coded("in_doubt"), context.Canceled), errtext.Canceled, errtext.Canceled},
		{"the library's", coded("breaker_open"), errtext.ToolError, errtext.ToolError},
		{"too long", coded(strings.Repeat("a", 33)), errtext.ToolError, errtext.ToolError},
		{"as long as may be", coded(strings.Repeat("a", 32)), errtext.Code(strings.Repeat("a", 32)), errtext.ToolError},
		{"empty", coded(""), errtext.ToolError, errtext.ToolError},
		{"no word", coded("not found"), errtext.ToolError, errtext.ToolError},
		{"a number", coded("404"), errtext.ToolError, errtext.ToolError},
		{"nil", (*panicking)(nil), errtext.ToolError, errtext.ToolError},
	} {
		assert.Equal(t, tt.code, reader.Code(tt.err, 7, ""), tt.name)
		assert.Equal(t, tt.reason, reader.Reason(tt.err, 7, ""), tt.name)
	}
	assert.JSONEq(t, `{"type":"in_doubt","message":"the call was denied: x: coded","retryable":false}`, reader.ModelText(denied))
	assert.JSONEq(t, `{"type":"not_found","message":"coded","retryable":false}`, reader.ModelText(coded("not_found")))
}

// panicking is an error whose methods panic if it is nil.
type panicking struct{ code string }

func (*panicking) Error() string  { return "x" }
func (p *panicking) Code() string { return p.code }

// To try again makes sense after what passes by itself, and when somebody says so.
func TestRetries(t *testing.T) {
	full, wide := refusal(errtext.QueueFull), refusal(errtext.Saturated)
	wide.Cause = errtext.ErrTooWide
	assert.True(t, reader.Passes(full, errtext.QueueFull, 0))
	assert.False(t, reader.Passes(wide, errtext.Saturated, 0))
	assert.True(t, reader.Passes(wide, errtext.Saturated, 1))
	assert.False(t, reader.Passes(errors.New("x"), errtext.ToolError, 0))

	assert.Zero(t, reader.Retry(full))
	full.Own.Retry = time.Minute
	assert.Equal(t, time.Minute, reader.Retry(errors.Join(busy(time.Second), full)), "the library's word counts first")
	assert.Equal(t, time.Second, reader.Retry(busy(time.Second)))
	assert.Equal(t, time.Hour, reader.Retry(busy(48*time.Hour)), "it is bounded")
}

// A model reads what happened, and of the library's own errors not their text.
func TestModelTexts(t *testing.T) {
	deep := errors.New("sluice: deep")
	for range 2 * maxInMessage {
		deep = &own{Own{Kind: PassedOn, Cause: deep}}
	}
	invalid, unread := refusal(errtext.InvalidArguments), refusal(errtext.InvalidArguments)
	invalid.Cause, unread.Cause = errors.New("sluice: n is missing"), &own{Own{Kind: Panic, Code: errtext.Panic}}
	unknown := refusal(errtext.UnknownTool)
	unknown.Tool, unknown.Cause = "serch", errtext.Names{"search"}
	for _, tt := range []struct {
		name, message string
		err           error
	}{
		{"of a tool", "disk full", errors.New("disk full")},
		{"of a tool that another was refused to", "db: the call failed", fmt.Errorf("db: %w", refusal(errtext.ToolError))},
		{"passed on", "a call that the tool made was refused: too many calls wait at present",
			&own{Own{Kind: PassedOn, Key: 7, Cause: &own{Own{Kind: Refusal, Code: errtext.QueueFull, Key: 8}}}}},
		{"passed on, and it says when", "a call that the tool made was refused: too many calls wait at present; try again in 2 s",
			&own{Own{Kind: PassedOn, Key: 7, Cause: &own{Own{Kind: Refusal, Code: errtext.QueueFull, Key: 8, Retry: 2 * time.Second}}}}},
		{"passed on by a breaker", "a call that the tool made was refused: the tool keeps failing and is not called for now; do without it",
			&own{Own{Kind: PassedOn, Key: 7, Cause: &own{Own{Kind: Refusal, Code: errtext.BreakerOpen, Key: 8}}}}},
		{"nil", "the call failed", &own{Own{Kind: Empty}}},
		{"withheld", "the call failed", errtext.Withheld{Code: errtext.ToolError}},
		{"arguments", "the arguments do not fit the tool: n is missing", invalid},
		{"arguments that panic", "the arguments could not be read", unread},
		{"no such tool", `there is no tool "serch"; did you mean "search"?`, unknown},
		{"denied", "the call was denied: not now", &own{Own{Kind: Refusal, Code: errtext.Denied, Cause: errors.New("not now")}}},
	} {
		var got struct{ Message string }
		require.NoError(t, json.Unmarshal([]byte(reader.ModelText(tt.err)), &got), tt.name)
		assert.Equal(t, tt.message, got.Message, tt.name)
	}
	assert.LessOrEqual(t, len(reader.ModelText(deep)), 512, "it ends")
	assert.JSONEq(t, `{"type":"tool_error","message":"busy","retryable":true,"retry_after_ms":1000}`, reader.ModelText(busy(time.Second)))
}

// A refusal that a tool passed on is what it was, but for the outer call, and one that came from elsewhere is
// found also where somebody has said more.
func TestErrorsOfOtherCallsAreToldApart(t *testing.T) {
	rejected, full := errors.New("rejected"), refusal(errtext.QueueFull)
	full.Key = 7
	ran := Ran{errwalk.Except{Err: errors.Join(full, rejected), Not: rejected}, 7}
	require.NotErrorIs(t, ran, rejected)
	require.ErrorIs(t, ran, full)
	assert.Equal(t, errtext.QueueFull, reader.Code(ran, 7, ""))
	assert.Equal(t, errtext.ToolError, reader.Code(ran, 8, ""), "it is another call's")
	assert.Contains(t, reader.ModelText(ran), "too many calls wait at present")

	inner := Ran{errwalk.Except{Err: &own{Own{Kind: Refusal, Code: errtext.QueueFull, Key: 8}}, Not: rejected}, 7}
	assert.Equal(t, errtext.ToolError, reader.Code(inner, 0, ""), "the call was a nested one")
	assert.Contains(t, reader.ModelText(inner), "a call that the tool made was refused: too many calls wait at present")

	there := Elsewhere{errwalk.Except{Err: rejected, Not: rejected}}
	around := fmt.Errorf("x: %w", there)
	for _, tt := range []struct {
		err, want error
		there     bool
	}{{there, rejected, true}, {around, around, true}, {rejected, rejected, false}, {ran, ran, false}, {nil, nil, false}} {
		got, yes := reader.CameFrom(tt.err)
		assert.Equal(t, tt.want, got)
		assert.Equal(t, tt.there, yes, "%v", tt.err)
	}
}

// Of no error there is nothing to say.
func TestNilSaysNothing(t *testing.T) {
	assert.Empty(t, reader.Code(nil, 0, ""))
	assert.Empty(t, reader.ModelText(nil))
}

// A denial is told in the words of who denied, if those are its own.
func TestDenials(t *testing.T) {
	because := func(cause error) error { return &own{Own{Kind: Refusal, Code: errtext.Denied, Cause: cause}} }
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"in words", because(errors.New("not on Sundays")), "not on Sundays"},
		{"in none", because(errors.New("")), "denied"},
		{"without a cause", because(nil), "denied"},
		{"by another refusal", because(refusal(errtext.Saturated)), "denied"},
		{"by a context", because(context.Canceled), "denied"},
		{"that is wrapped", fmt.Errorf("x: %w", because(errors.New("not on Sundays"))), "denied"},
		{"that is foreign", errors.New("x"), "denied"},
		{"nil", nil, "denied"},
	} {
		assert.Equal(t, tt.want, reader.Denial(tt.err), tt.name)
	}
}
