package sluice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A model reads what happened and what to do, in one JSON object, and nothing of the
// operator's: no constraint, no name of this library, no nanoseconds, no value of a panic.
func TestModelText(t *testing.T) {
	own := func(reason, cause error) *Error {
		return &Error{Tool: "search", CallID: "call-1", Reason: reason, By: "rate/openai tokens per minute", Cause: cause}
	}
	in := func(e *Error, d time.Duration) *Error { e.RetryAfter = d; return e }
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"nil", nil, ""},
		{"rate", in(own(ErrRateLimited, nil), 333_333_334), `{"type":"rate_limited","message":"too many calls for now; try again in 334 ms","retryable":true,"retry_after_ms":334}`},
		{"rate, nobody knows", own(ErrRateLimited, nil), `{"type":"rate_limited","message":"too many calls for now; try again later","retryable":true}`},
		{"breaker", in(own(ErrBreakerOpen, nil), 29*time.Second+1), `{"type":"breaker_open","message":"the tool keeps failing and is not called for now; do without it, or try again in 30 s","retryable":true,"retry_after_ms":29001}`},
		{"queue", own(ErrQueueFull, &errtext.Bound{Waiting: 50}), `{"type":"queue_full","message":"too many calls wait at present; try again later","retryable":true}`},
		{"wait", in(own(ErrWaitTooLong, &errtext.Bound{Within: time.Second}), 5*time.Minute), `{"type":"wait_too_long","message":"the call could not start in time; try again in 5 min","retryable":true,"retry_after_ms":300000}`},
		{"saturated", in(own(ErrSaturated, &errtext.Bound{Limit: 4, Anonymous: true}), 3*time.Hour), `{"type":"saturated","message":"too many calls run at present; try again in 3 h","retryable":true,"retry_after_ms":10800000}`},
		{"too wide", own(ErrSaturated, errtext.ErrTooWide), `{"type":"saturated","message":"the call asks for more than is allowed at once; ask for less","retryable":false}`},
		{"unknown tool", &Error{Tool: "se\narch", Reason: ErrUnknownTool}, `{"type":"unknown_tool","message":"there is no tool \"se\narch\"","retryable":false}`},
		{"unknown tool, near", &Error{Tool: "serch", Reason: ErrUnknownTool, Cause: errtext.Names{"search", "fetch"}}, `{"type":"unknown_tool","message":"there is no tool \"serch\"; did you mean \"search\" or \"fetch\"?","retryable":false}`},
		{"arguments", own(ErrInvalidArguments, errors.New("sluice: $.limit is 1.5: must be a whole number")), `{"type":"invalid_arguments","message":"the arguments do not fit the tool: $.limit is 1.5: must be a whole number","retryable":false}`},
		{"arguments that panic", own(ErrInvalidArguments, &PanicError{Value: "hunter2"}), `{"type":"invalid_arguments","message":"the arguments could not be read","retryable":false}`},
		{"denied", own(ErrDenied, errors.New("not on Sundays")), `{"type":"denied","message":"the call was denied: not on Sundays","retryable":false}`},
		{"nesting", own(ErrNesting, errors.New("concurrency/a global -> concurrency/b global")), `{"type":"nesting","message":"the call was refused: tools called each other too deeply, too often or in a circle","retryable":false}`},
		{"closed", own(ErrClosed, nil), `{"type":"closed","message":"the program is shutting down and takes no more calls","retryable":false}`},
		{"timeout", own(ErrTimeout, context.DeadlineExceeded), `{"type":"timeout","message":"the tool did not finish in time","retryable":false}`},
		{"caller gave up", own(ErrRejected, context.Canceled), `{"type":"canceled","message":"the call was cancelled","retryable":false}`},
		{"cancelled", context.Canceled, `{"type":"canceled","message":"the call was cancelled","retryable":false}`},
		{"deadline", fmt.Errorf("get: %w", context.DeadlineExceeded), `{"type":"timeout","message":"the tool did not finish in time","retryable":false}`},
		{"panic", &PanicError{Tool: "search", Value: "hunter2", Stack: []byte("hunter2")}, `{"type":"panic","message":"the tool failed","retryable":false}`},
		{"cost function panicked", own(ErrRejected, &PanicError{Value: "hunter2"}), `{"type":"panic","message":"the tool failed","retryable":false}`},
		{"goexit", &PanicError{Goexit: true}, `{"type":"goexit","message":"the tool failed","retryable":false}`},
		{"tool", errors.New("no such \x00 city\u202e"), `{"type":"tool_error","message":"no such \u0000 city\u202e","retryable":false}`},
		{"tool, joined", errors.Join(errors.New("a"), errors.New("b")), `{"type":"tool_error","message":"a\nb","retryable":false}`},
		{"tool, throttled", throttled(1500 * time.Millisecond), `{"type":"tool_error","message":"429","retryable":true,"retry_after_ms":1500}`},
		{"nested refusal", passedOn(in(own(ErrRateLimited, nil), time.Second), 7), `{"type":"rate_limited","message":"too many calls for now; try again in 1 s","retryable":true,"retry_after_ms":1000}`},
		{"nested refusal, wrapped", fmt.Errorf("weather: %w", own(ErrSaturated, &errtext.Bound{Limit: 4})), `{"type":"saturated","message":"too many calls run at present; try again later","retryable":true}`},
		{"nested timeout", errors.Join(errors.New("a"), own(ErrTimeout, nil)), `{"type":"timeout","message":"the tool did not finish in time","retryable":false}`},
		{"hand-made", own(nil, nil), `{"type":"tool_error","message":"the call failed","retryable":false}`},
		{"hand-made with its own reason", own(errors.New("odd"), errors.New("why")), `{"type":"tool_error","message":"the call failed: why","retryable":false}`},
		{"typed nil", (*Error)(nil), `{"type":"tool_error","message":"the call failed","retryable":false}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, ModelText(tt.err))
		})
	}
}

type throttled time.Duration

func (e throttled) Error() string             { return "429" }
func (e throttled) RetryAfter() time.Duration { return time.Duration(e) }

// cyclic is an error behind itself, by way of others.
type cyclic struct {
	text string
	next []error
}

func (c *cyclic) Error() string   { return c.text }
func (c *cyclic) Unwrap() []error { return c.next }

// hostileErrors are errors whose methods do what they should not.
func hostileErrors() map[string]error {
	loop := &cyclic{text: "loop"}
	loop.next = []error{loop, errors.New("x"), loop}
	wide := &cyclic{text: "wide", next: make([]error, 1_000_000)}
	for i := range wide.next {
		wide.next[i] = wide
	}
	itself := &Error{Tool: "t", Reason: ErrDenied}
	itself.Cause = itself
	a, b := &Error{Reason: ErrDenied}, &Error{Reason: ErrInvalidArguments}
	a.Cause, b.Cause = fmt.Errorf("b: %w", error(b)), errors.Join(errors.New("a"), a)
	chain := &Error{Reason: ErrDenied}
	last := chain
	for range 1000 {
		last = &Error{Reason: ErrDenied, Cause: last}
	}
	chain.Cause = last
	passed := &cyclic{text: "passed"}
	passed.next = []error{passedOn(passed, 1)}
	return map[string]error{
		"panics": panickingError{}, "wraps itself": selfWrapping{}, "cycle": loop, "wide cycle": wide,
		"huge": errors.New(strings.Repeat("é\n", 50<<20)), "its own cause": itself, "two in a circle": a, "long circle": chain,
		"passed on in a circle": passed, "refusal passed on in a circle": passedOn(passed, 1),
		"odd reason": &Error{Reason: panickingError{}, Cause: panickingError{}}, "uncomparable": uncomparable{},
		"typed nil": (*Error)(nil), "typed nil panic": (*PanicError)(nil), "panic with itself": &PanicError{Value: loop},
		"joined with a panicking one": errors.Join(panickingError{}, &Error{Reason: ErrQueueFull}),
		"huge names":                  &Error{Tool: strings.Repeat("t", 1<<20), CallID: strings.Repeat("\u202e", 1<<20), By: strings.Repeat("\n", 1<<20), Reason: ErrDenied, Cause: errors.New("\xff\u2028\x1b")},
	}
}

// Hostile errors have a code, a text for models and a JSON form: valid, bounded, on one line.
func TestHostileErrorsHaveCodesAndTexts(t *testing.T) {
	for name, err := range hostileErrors() {
		t.Run(name, func(t *testing.T) {
			for _, err := range []error{err, passedOn(err, 1), &Error{Tool: "t", Reason: ErrDenied, Cause: err}, fmt.Errorf("%w", &Error{Reason: ErrInvalidArguments, Cause: err})} {
				assert.NotEmpty(t, CodeOf(err), "no code")
				text := ModelText(err)
				if !json.Valid([]byte(text)) || len(text) > 8<<10 || !utf8.ValidString(text) || strings.ContainsFunc(text, jsonx.Unsafe) {
					t.Errorf("a model reads %.200q of %d bytes", text, len(text))
				}
				e := testEvent(ToolFailed)
				e.Err = err
				for _, s := range []string{string(Must(e.MarshalJSON())), e.LogValue().String()} {
					if len(s) > 16<<10 {
						t.Errorf("an event of %d bytes", len(s))
					}
				}
				w := withoutText(&e)
				require.NotEmpty(t, CodeOf(w), "lost without its text")
				assert.NotEmpty(t, w.Error(), "lost without its text")
				x, ok := err.(*Error)
				if !ok || x == nil {
					continue
				}
				line := x.Error()
				if strings.ContainsAny(line, "\n\r\x1b") || strings.ContainsFunc(line, jsonx.Unsafe) || len(line) > 12<<10 || !utf8.ValidString(line) {
					t.Errorf("text %.200q of %d bytes", line, len(line))
				}
				if b := Must(json.Marshal(err)); len(b) > 16<<10 || strings.ContainsFunc(string(b), jsonx.Unsafe) {
					t.Errorf("JSON %.200s of %d bytes", b, len(b))
				}
			}
		})
	}
}

// A sink without error texts sees none, in no form, wherever it stands; codes, reasons and
// times are kept, and other sinks lose nothing.
func TestWithoutErrorText(t *testing.T) {
	const canary = "sk-CANARY"
	text := errors.New(canary)
	for _, tt := range []struct {
		name     string
		err      error
		code     string
		rejected bool
		reason   error
	}{
		{"tool", text, "tool_error", false, nil},
		{"wrapped", fmt.Errorf("x: %w", text), "tool_error", false, nil},
		{"joined", errors.Join(text, io.EOF), "tool_error", false, nil},
		{"denied", &Error{CallID: "call-1", Reason: ErrDenied, Cause: text}, "denied", true, ErrDenied},
		{"arguments", &Error{CallID: "call-1", Reason: ErrInvalidArguments, Cause: text}, "invalid_arguments", true, ErrInvalidArguments},
		{"wrapped refusal", fmt.Errorf(canary+": %w", &Error{CallID: "call-1", Reason: ErrQueueFull}), "queue_full", true, ErrQueueFull},
		{"refusal after it ran", passedOn(&Error{CallID: "call-1", Reason: ErrQueueFull, Cause: text}, 0), "queue_full", false, ErrQueueFull},
		{"timeout", &Error{CallID: "call-1", Reason: ErrTimeout, Cause: text}, "timeout", false, ErrTimeout},
		{"odd reason", &Error{CallID: "call-1", Reason: text}, "tool_error", false, nil},
		{"cancelled", fmt.Errorf(canary+": %w", context.Canceled), "canceled", false, context.Canceled},
		{"out of time", fmt.Errorf(canary+": %w", context.DeadlineExceeded), "timeout", false, context.DeadlineExceeded},
		{"panic", &PanicError{Tool: "search", Value: text, Stack: []byte(canary)}, "panic", false, nil},
		{"panic of a cost function", &Error{CallID: "call-1", Reason: ErrRejected, Cause: &PanicError{Value: text, Stack: []byte(canary)}}, "panic", true, nil},
		{"panics", panickingError{}, "tool_error", false, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var logged, lines bytes.Buffer
			kept, whole, queued := new(Recorder), new(Recorder), new(Recorder)
			async := Must(NewAsyncSink(WithoutErrorText(queued), AsyncSinkConfig{MaxQueue: 10}))
			asyncInside := Must(NewAsyncSink(kept, AsyncSinkConfig{MaxQueue: 10}))
			asyncPayloads := Must(NewAsyncSink(WithoutErrorText(Must(WithPayloads(kept, PayloadConfig{}))), AsyncSinkConfig{MaxQueue: 10}))
			s := MultiSink(whole,
				WithoutErrorText(NewSlogSink(slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})))),
				WithoutErrorText(NewJSONSink(&lines)),
				WithoutErrorText(Must(WithPayloads(kept, PayloadConfig{}))), Must(WithPayloads(WithoutErrorText(kept), PayloadConfig{})),
				WithoutErrorText(MultiSink(kept, WithoutErrorText(MultiSink(kept)))), WithoutErrorText(asyncInside), async, asyncPayloads)
			for _, k := range []EventKind{ToolRetrying, ToolFailed, ToolDenied} {
				e := testEvent(k)
				e.Err = tt.err
				if ok, err := deliverTo(t.Context(), s, e); !ok || err != nil {
					t.Fatal(ok, err)
				}
			}
			for _, a := range []*AsyncSink{async, asyncInside, asyncPayloads} {
				require.NoError(t, a.Close(context.Background()))
			}
			events := append(kept.Events(), queued.Events()...)
			require.Len(t, events, 21, "events")
			for _, e := range events {
				b := Must(json.Marshal(e))
				for form, s := range map[string]string{"JSON": string(b), "log": e.LogValue().String(), "Err": e.Err.Error(), "Go": fmt.Sprintf("%+v %#v", e.Err, e.Err)} {
					assert.NotContains(t, s, canary, "%s of %s", form, e.Kind)
				}
				for err := e.Err; err != nil; err = errors.Unwrap(err) {
					if strings.Contains(err.Error(), canary) || errors.Is(err, text) {
						t.Errorf("the text is behind Err: %v", err)
					}
				}
				if errors.Is(e.Err, ErrRejected) != tt.rejected || tt.reason != nil && !errors.Is(e.Err, tt.reason) || CodeOf(e.Err) != tt.code {
					t.Errorf("%s is %s, rejected %v", e.Err, CodeOf(e.Err), errors.Is(e.Err, ErrRejected))
				}
				assert.True(t, bytes.Contains(b, []byte(`"error_code":"`+tt.code+`"`)), "code %s: %s", tt.code, b)
			}
			if all := logged.String() + lines.String(); strings.Contains(all, canary) || strings.Count(all, tt.code) < 6 {
				t.Error(all)
			}
			got := whole.Events()[0].Err
			assert.Equal(t, fmt.Sprintf("%T", tt.err), fmt.Sprintf("%T", got), "the sink beside it got %T", got)
		})
	}
	if s := WithoutErrorText(nil); s.Enabled(ToolFailed) || emitTo(t.Context(), s, Event{}) != nil {
		t.Error("a nil sink does not discard")
	}
}
