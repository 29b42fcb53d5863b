package sluice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

func TestDeliver(t *testing.T) {
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

// Neither form holds the value or the stack of a panic, or values of the call.
func TestNoFormOfAnEventShowsASecret(t *testing.T) {
	for _, k := range []EventKind{ToolInvoked, ToolStarted, ToolRetrying, ToolCompleted, ToolFailed, ToolDenied} {
		e := testEvent(k)
		e.Call.Input, e.Result.Value = struct{ S string }{"hunter2"}, map[string]string{"s": "hunter2"}
		e.Err = fmt.Errorf("wrapped: %w", &PanicError{Tool: "search", Value: "hunter2", Stack: []byte("hunter2")})
		var logged bytes.Buffer
		slog.New(slog.NewTextHandler(&logged, nil)).Info("m", "event", e)
		for form, s := range map[string]string{"JSON": string(Must(e.MarshalJSON())), "log": logged.String(), "attrs": e.LogValue().String()} {
			assert.NotContains(t, s, "hunter2", "%s of %s shows a secret", form, k)
			assert.Contains(t, s, "panic", "%s of %s does not say panic", form, k)
		}
	}
}

func TestEventJSON(t *testing.T) {
	with := func(k EventKind, f func(*Event)) Event {
		e := testEvent(k)
		f(&e)
		return e
	}
	head := func(kind string) string {
		return `{"type":"` + kind + `","event_id":"call-1/3","seq":3,"schema_version":1,"timestamp":"2026-03-04T04:06:07.080000000Z",` +
			`"tool_name":"search","tool_type":"web","action_id":"call-1","pipeline_run_id":"run-1","request_id":"req-1",` +
			`"session_id":"s-1","user_id":"u-1","tenant":"acme","attempt":1,"priority":0`
	}
	for _, tt := range []struct {
		name string
		e    Event
		want string
	}{
		{"invoked", with(ToolInvoked, func(e *Event) { e.InputBytes, e.ParentID = 17, "" }),
			head("tool.invoked") + `,"payload_summary":null,"behavior":"live","input_bytes":17}`},
		{"invoked with payload", with(ToolInvoked, func(e *Event) { e.Call.Input = json.RawMessage("{\"q\":\n 1}") }),
			head("tool.invoked") + `,"payload_summary":{"q":1},"behavior":"live"}`},
		{"invoked with cut payload", with(ToolInvoked, func(e *Event) { e.Call.Input = `{"q…[truncated]` }),
			head("tool.invoked") + `,"payload_summary":"{\"q…[truncated]","behavior":"live"}`},
		{"invoked with foreign value", with(ToolInvoked, func(e *Event) { e.Call.Input = 17 }),
			head("tool.invoked") + `,"payload_summary":null,"behavior":"live"}`},
		{"invoked with broken payload", with(ToolInvoked, func(e *Event) { e.Call.Input = json.RawMessage(`{"q":`) }),
			head("tool.invoked") + `,"payload_summary":null,"behavior":"live"}`},
		{"queued", with(ToolQueued, func(e *Event) { e.By = "limit/web" }), head("tool.queued") + `,"by":"limit/web"}`},
		{"started", with(ToolStarted, func(e *Event) { e.Queued = 1500 * time.Microsecond }), head("tool.started") + `,"queue_wait_ms":1.5}`},
		{"retrying", with(ToolRetrying, func(e *Event) { e.Err, e.RetryAfter = errors.New("503"), 1001*time.Microsecond }),
			head("tool.retrying") + `,"error_code":"tool_error","error_message":"503","retryable":true,"retry_after_ms":2}`},
		{"completed", with(ToolCompleted, func(e *Event) {
			e.Duration, e.OutputBytes, e.Result.Value = 10*time.Millisecond, 4, json.RawMessage(`"ok"`)
		}),
			head("tool.completed") + `,"duration_ms":10,"output_summary":{"success":true,"has_data":true,"has_error":false,"has_artifacts":false,"has_undo_metadata":false},"artifacts_count":0,"output":"ok","queue_wait_ms":0,"output_bytes":4}`},
		{"completed without data", with(ToolCompleted, func(e *Event) { e.Duration = 1 }),
			head("tool.completed") + `,"duration_ms":0.000001,"output_summary":{"success":true,"has_data":false,"has_error":false,"has_artifacts":false,"has_undo_metadata":false},"artifacts_count":0,"queue_wait_ms":0}`},
		{"failed", with(ToolFailed, func(e *Event) { e.Err = errors.New("a\nb\x1b[31m\u202e") }),
			head("tool.failed") + `,"duration_ms":0,"queue_wait_ms":0,"error_code":"tool_error","error_message":"a\nb\u001b[31m\u202e","retryable":false}`},
		{"refused", with(ToolFailed, func(e *Event) {
			e.Err = &Error{Tool: "search", CallID: "call-1", Reason: ErrQueueFull, By: "priority"}
			e.By, e.RetryAfter = "priority", time.Second
		}),
			head("tool.failed") + `,"duration_ms":0,"queue_wait_ms":0,"error_code":"queue_full","error_message":"sluice: tool \"search\": queue full by priority","retryable":true,"by":"priority","retry_after_ms":1000}`},
		{"denied", with(ToolDenied, func(e *Event) { e.Err = &Error{Reason: ErrDenied, Cause: errors.New("not on Sundays")} }),
			head("tool.denied") + `,"duration_ms":0,"reason":"not on Sundays","behavior":"live","allowed_behaviors":null,"queue_wait_ms":0,"error_code":"denied","error_message":"sluice: denied: not on Sundays","retryable":false}`},
		{"bare", Event{Kind: ToolStarted, Time: testTime},
			`{"type":"tool.started","event_id":"/0","seq":0,"schema_version":1,"timestamp":"2026-03-04T04:06:07.080000000Z","tool_name":"","action_id":"","pipeline_run_id":null,"request_id":null,"priority":0,"queue_wait_ms":0}`},
		{"breaker", Event{Kind: BreakerStateChanged, Time: testTime, By: "breaker/web", From: BreakerClosed, To: BreakerOpen, Key: "search", Actor: "ops"},
			`{"type":"breaker.state_changed","schema_version":1,"timestamp":"2026-03-04T04:06:07.080000000Z","by":"breaker/web","from":"closed","to":"open","key":"search","actor":"ops"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := string(Must(tt.e.MarshalJSON()))
			assert.Equal(t, tt.want, got)
			_, err := json.Marshal(tt.e)
			assert.NoError(t, err)
		})
	}
}

func TestEventCode(t *testing.T) {
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

// Hostile error values are formatted once, with a bound, and cannot break the line.
func TestHostileErrors(t *testing.T) {
	calls := 0
	counted := countedError{&calls, strings.Repeat("é", 1<<20)}
	for name, err := range map[string]error{"panicking": panickingError{}, "huge": counted, "self": selfWrapping{}, "typed nil": (*Error)(nil)} {
		e := testEvent(ToolFailed)
		e.Err = err
		b := Must(e.MarshalJSON())
		if !json.Valid(b) || !utf8.Valid(b) || len(b) > 2048 {
			t.Errorf("%s: %d bytes, valid %v: %.100s", name, len(b), json.Valid(b), b)
		}
	}
	assert.Equal(t, 1, calls, "formatted %d times", calls)
}

type countedError struct {
	n    *int
	text string
}

func (e countedError) Error() string { *e.n++; return e.text }

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

func TestLogValue(t *testing.T) {
	e := testEvent(ToolFailed)
	e.ParentID, e.Queued, e.Duration, e.Err, e.By, e.RetryAfter = "call-0", time.Millisecond, time.Second, errors.New("no"), "b", time.Minute
	want := "[event=tool.failed tool=search call_id=call-1 parent_id=call-0 seq=3 attempt=1 run_id=run-1 request_id=req-1 tenant=acme wait=1ms duration=1s code=tool_error err=no by=b retry_after=1m0s]"
	assert.Equal(t, want, e.LogValue().String())
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
