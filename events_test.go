package sluice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// discarding is a sink that takes everything and does nothing.
type discarding struct{}

func (discarding) Enabled(EventKind) bool             { return true }
func (discarding) Emit(context.Context, *Event) error { return nil }

// sinkOf is a sink that is interested in some kinds only.
type sinkOf struct {
	enabled func(EventKind) bool
	emit    func(context.Context, *Event) error
}

func (s sinkOf) Enabled(k EventKind) bool                 { return s.enabled(k) }
func (s sinkOf) Emit(ctx context.Context, e *Event) error { return s.emit(ctx, e) }

// deliverTo delivers e, whose values only sinks that opted in are shown.
func deliverTo(ctx context.Context, s EventSink, e Event) (bool, error) {
	plain, full := e, e
	plain.hasData = e.hasData || e.Result.Value != nil
	plain.Call.Input, plain.Result.Value = nil, nil
	defer func() { plain, full = poisoned, poisoned }()
	return deliver(ctx, s, &plain, &full)
}

// emitTo has s emit e, and e poisoned afterwards.
func emitTo(ctx context.Context, s EventSink, e Event) error {
	defer func() { e = poisoned }()
	return s.Emit(ctx, &e)
}

// poisoned is what a sink finds that keeps an event for longer than it may.
var poisoned = Event{Kind: "poisoned", Call: Call{ID: "poisoned", Tool: "poisoned"}}

var testTime = time.Date(2026, 3, 4, 5, 6, 7, 80_000_000, time.FixedZone("", 3600))

func testEvent(k EventKind) Event {
	return Event{
		Kind: k, Time: testTime, Seq: 3,
		Call: Call{ID: "call-1", Tool: "search", Type: "web", Attempt: 1, Pipeline: &PipelineContext{
			RunID: "run-1", RequestID: "req-1", SessionID: "s-1", UserID: "u-1", Tenant: "acme", ExecutionMode: "live",
		}},
	}
}

func TestDeliverMakesPanicsErrors(t *testing.T) {
	failure := errors.New("disk full")
	on := func(EventKind) bool { return true }
	for _, tt := range []struct {
		name      string
		sink      EventSink
		delivered bool
		is        error
		panicked  bool
	}{
		{"nil sink", nil, false, nil, false},
		{"delivered", discarding{}, true, nil, false},
		{"not enabled", sinkOf{enabled: func(EventKind) bool { return false }}, false, nil, false},
		{"error", sinkOf{on, func(context.Context, *Event) error { return failure }}, false, failure, false},
		{"Emit panics", sinkOf{on, func(context.Context, *Event) error { panic("boom") }}, false, nil, true},
		{"Emit panics with nil", sinkOf{on, func(context.Context, *Event) error { panic(nil) }}, false, nil, true}, //nolint
		{"Enabled panics", sinkOf{enabled: func(EventKind) bool { panic("boom") }}, false, nil, true},
		{"nil func", EventSinkFunc(nil), false, nil, true},
		{"nil AsyncSink", (*AsyncSink)(nil), false, nil, true},
		{"nil Recorder", (*Recorder)(nil), false, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			delivered, err := deliverTo(t.Context(), tt.sink, testEvent(ToolInvoked))
			assert.Equal(t, tt.delivered, delivered, "delivered")
			var p *PanicError
			assert.Equal(t, tt.panicked, errors.As(err, &p), "error %v: panic", err)
			if tt.panicked {
				if strings.Contains(err.Error(), "boom") || len(p.Stack) == 0 {
					t.Errorf("error %q must hide the value, and keep a stack of %d bytes", err, len(p.Stack))
				}
			} else if !errors.Is(err, tt.is) || (err == nil) != (tt.is == nil) {
				t.Errorf("error %v, want %v", err, tt.is)
			}
		})
	}
}

// A sink that did not opt in sees no values.
func TestSinksThatDidNotOptInSeeNoValues(t *testing.T) {
	e := testEvent(ToolCompleted)
	e.Call.Input, e.Result.Value = "secret in", "secret out"
	var got Event
	keep := EventSinkFunc(func(_ context.Context, e *Event) error { got = *e; return nil })
	for name, s := range map[string]EventSink{
		"direct":          keep,
		"in a MultiSink":  MultiSink(discarding{}, keep),
		"beside payloads": MultiSink(Must(WithPayloads(discarding{}, PayloadConfig{})), keep),
	} {
		got = Event{}
		if ok, err := deliverTo(t.Context(), s, e); !ok || err != nil {
			t.Fatal(name, ok, err)
		}
		if got.Kind != ToolCompleted || got.Call.Input != nil || got.Result.Value != nil {
			t.Errorf("%s: saw %v and %v of %v", name, got.Call.Input, got.Result.Value, got.Kind)
		}
		assert.Contains(t, string(Must(got.MarshalJSON())), `"has_data":true`,
			"%s: lost that there was a result", name)
	}
	if e.Call.Input == nil {
		t.Error("the caller's event was changed")
	}
}

func TestEventCodeOfEachError(t *testing.T) {
	own := func(reason, cause error) error {
		return &Error{Tool: "search", CallID: "call-1", Reason: reason, Cause: cause}
	}
	nested := func(reason, cause error) error { return &Error{CallID: "call-2", Reason: reason, Cause: cause} }
	for _, tt := range []struct {
		name string
		err  error
		want errtext.Code
	}{
		{"unknown tool", own(ErrUnknownTool, nil), errtext.UnknownTool},
		{"arguments", own(ErrInvalidArguments, errors.New("x")), errtext.InvalidArguments},
		{"breaker", own(ErrBreakerOpen, nil), errtext.BreakerOpen},
		{"rate", own(ErrRateLimited, nil), errtext.RateLimited},
		{"saturated", own(ErrSaturated, nil), errtext.Saturated},
		{"queue", own(ErrQueueFull, nil), errtext.QueueFull},
		{"wait", own(ErrWaitTooLong, context.DeadlineExceeded), errtext.WaitTooLong},
		{"denied", own(ErrDenied, nil), errtext.Denied},
		{"nesting", own(ErrNesting, nil), errtext.Nesting},
		{"closed", own(ErrClosed, nil), errtext.Closed},
		{"timeout", own(ErrTimeout, context.DeadlineExceeded), errtext.Timeout},
		{"caller gave up", own(ErrRejected, context.Canceled), errtext.Canceled},
		{"caller gave up with a cause", own(ErrRejected, errors.New("user left")), errtext.Canceled},
		{"cost function panicked", own(ErrRejected, &PanicError{}), errtext.Panic},
		{"wrapped by an interceptor", fmt.Errorf("audit: %w", own(ErrQueueFull, nil)), errtext.QueueFull},
		{"refused after it ran", passedOn(own(ErrQueueFull, nil), 0), errtext.QueueFull},
		{"nested call refused", passedOn(nested(ErrQueueFull, nil), 0), errtext.ToolError},
		{"nested call out of time", nested(ErrTimeout, context.DeadlineExceeded), errtext.ToolError},
		{"nested call cancelled", passedOn(nested(ErrRejected, context.Canceled), 0), errtext.Canceled},
		{"panic", &PanicError{Value: own(ErrQueueFull, nil)}, errtext.Panic},
		{"goexit", &PanicError{Goexit: true}, errtext.Goexit},
		{"wrapped panic", fmt.Errorf("x: %w", &PanicError{}), errtext.Panic},
		{"tool cancelled", context.Canceled, errtext.Canceled},
		{"tool out of time", fmt.Errorf("x: %w", context.DeadlineExceeded), errtext.Timeout},
		{"joined", errors.Join(errors.New("a"), context.Canceled), errtext.Canceled},
		{"tool", errors.New("x"), errtext.ToolError},
		{"own without reason", own(nil, nil), errtext.ToolError},
		{"own with a foreign reason", own(uncomparable{}, nil), errtext.ToolError},
		{"wraps itself", selfWrapping{}, errtext.ToolError},
		{"panics", panickingError{}, errtext.ToolError},
		{"typed nil", (*Error)(nil), errtext.ToolError},
		{"typed nil panic", (*PanicError)(nil), errtext.ToolError},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := testEvent(ToolFailed)
			e.Err = tt.err
			assert.Equal(t, tt.want, codeOf(&e))
		})
	}
}

type uncomparable struct{ _ []int }

func (uncomparable) Error() string { return "uncomparable" }

type selfWrapping struct{}

func (e selfWrapping) Error() string { return "self" }
func (e selfWrapping) Unwrap() error { return e }

type panickingError struct{}

func (panickingError) Error() string { panic("Error panics") }
func (panickingError) Unwrap() error { panic("Unwrap panics") }
func (panickingError) Is(error) bool { panic("Is panics") }
func (panickingError) As(any) bool   { panic("As panics") }

func FuzzEventJSON(f *testing.F) {
	f.Add("tool.invoked", "search", "call-1", "run", "boom", []byte(`{"a":1}`), int64(1), uint32(1))
	f.Add("tool.failed", "a\nb", "\xff\u2028", "\u202e\x00", "\\\"\x7f", []byte("{"), int64(-1), uint32(0))
	f.Add("x", "", "", "", "", []byte(nil), int64(1<<62), uint32(1<<31))
	f.Fuzz(func(t *testing.T, kind, tool, id, run, text string, payload []byte, n int64, seq uint32) {
		for _, k := range []EventKind{EventKind(kind), ToolInvoked, ToolCompleted, ToolFailed, ToolDenied} {
			e := Event{
				Kind: k, Time: time.Unix(n%1e11, n), Seq: seq, ParentID: id, By: tool, OldLimit: run, NewLimit: text,
				Queued: time.Duration(n), Duration: time.Duration(-n), RetryAfter: time.Duration(n >> 1), InputBytes: int(n),
				Call: Call{ID: id, Tool: tool, Type: run, Attempt: int32(n), Priority: Priority(n),
					Input: json.RawMessage(payload), Pipeline: &PipelineContext{RunID: run, Tenant: text, UserID: id, ExecutionMode: tool}},
				Result: Result{Value: text},
				Err:    &Error{Tool: tool, CallID: id, Reason: ErrDenied, By: run, Cause: errors.New(text)},
			}
			b := Must(e.MarshalJSON())
			require.True(t, json.Valid(b), "invalid: %q", b)
			for _, r := range string(b) {
				if r < ' ' || r == 0x7f || jsonx.Unsafe(r) {
					t.Fatalf("%U in %q", r, b)
				}
			}
			require.True(t, utf8.Valid(b), "no UTF-8: %q", b)
			var back struct {
				Tool string `json:"tool_name"`
				Kind string `json:"type"`
			}
			require.NoError(t, json.Unmarshal(b, &back))
			if want := strings.ToValidUTF8(cutEach(tool), "\ufffd"); len(tool) <= errtext.MaxName && isASCII(tool) && strings.HasPrefix(string(k), "tool.") && back.Tool != want {
				t.Fatalf("tool %q came back as %q", tool, back.Tool)
			}
		}
	})
}

func cutEach(s string) string { return cut(s, errtext.MaxName) }

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func TestEventAllocs(t *testing.T) {
	ctx := t.Context()
	e := testEvent(ToolInvoked)
	e.Call.Input = "q"
	failed := testEvent(ToolFailed)
	failed.Err = errors.New("x")
	var discard discardWriter
	for _, tt := range []struct {
		name string
		s    EventSink
		e    Event
		most float64
	}{
		{"discarding", discarding{}, e, 0},
		{"nil", nil, e, 0},
		{"func", EventSinkFunc(func(context.Context, *Event) error { return nil }), e, 0},
		{"multi", MultiSink(discarding{}, discarding{}), e, 0},
		{"slog off", NewSlogSink(nil), e, 0},
		{"JSON", NewJSONSink(discard), e, 1},
		{"JSON of an error", NewJSONSink(discard), failed, 2},
	} {
		if got := testing.AllocsPerRun(200, func() { deliver(ctx, tt.s, &tt.e, nil) }); got > tt.most {
			t.Errorf("%s: %v allocations, want at most %v", tt.name, got, tt.most)
		}
	}
}

type discardWriter struct{}

func (discardWriter) Write(b []byte) (int, error) { return len(b), nil }
