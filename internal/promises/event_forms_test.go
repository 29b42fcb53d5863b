package promises_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
)

var testTime = time.Date(2026, 3, 4, 5, 6, 7, 80_000_000, time.FixedZone("", 3600))

func testEvent(k sluice.EventKind) sluice.Event {
	return sluice.Event{
		Kind: k, Time: testTime, Seq: 3,
		Call: sluice.Call{ID: "call-1", Tool: "search", Type: "web", Attempt: 1, Pipeline: &sluice.PipelineContext{
			RunID: "run-1", RequestID: "req-1", SessionID: "s-1", UserID: "u-1", Tenant: "acme", ExecutionMode: "live",
		}},
	}
}

type selfWrapping struct{}

func (e selfWrapping) Error() string { return "self" }
func (e selfWrapping) Unwrap() error { return e }

type panickingError struct{}

func (panickingError) Error() string { panic("Error panics") }
func (panickingError) Unwrap() error { panic("Unwrap panics") }
func (panickingError) Is(error) bool { panic("Is panics") }
func (panickingError) As(any) bool   { panic("As panics") }

// Neither form holds the value or the stack of a panic, or values of the call.
func TestNoFormOfAnEventShowsASecret(t *testing.T) {
	for _, k := range []sluice.EventKind{sluice.ToolInvoked, sluice.ToolStarted, sluice.ToolRetrying, sluice.ToolCompleted, sluice.ToolFailed, sluice.ToolDenied} {
		e := testEvent(k)
		e.Call.Input, e.Result.Value = struct{ S string }{"hunter2"}, map[string]string{"s": "hunter2"}
		e.Err = fmt.Errorf("wrapped: %w", &sluice.PanicError{Tool: "search", Value: "hunter2", Stack: []byte("hunter2")})
		var logged bytes.Buffer
		slog.New(slog.NewTextHandler(&logged, nil)).Info("m", "event", e)
		for form, s := range map[string]string{"JSON": string(sluice.Must(e.MarshalJSON())), "log": logged.String(), "attrs": e.LogValue().String()} {
			assert.NotContains(t, s, "hunter2", "%s of %s shows a secret", form, k)
			assert.Contains(t, s, "panic", "%s of %s does not say panic", form, k)
		}
	}
}

func TestEventJSON(t *testing.T) {
	with := func(k sluice.EventKind, f func(*sluice.Event)) sluice.Event {
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
		e    sluice.Event
		want string
	}{
		{"invoked", with(sluice.ToolInvoked, func(e *sluice.Event) { e.InputBytes, e.ParentID = 17, "" }),
			head("tool.invoked") + `,"payload_summary":null,"behavior":"live","input_bytes":17}`},
		{"invoked with payload", with(sluice.ToolInvoked, func(e *sluice.Event) { e.Call.Input = json.RawMessage("{\"q\":\n 1}") }),
			head("tool.invoked") + `,"payload_summary":{"q":1},"behavior":"live"}`},
		{"invoked with cut payload", with(sluice.ToolInvoked, func(e *sluice.Event) { e.Call.Input = `{"q…[truncated]` }),
			head("tool.invoked") + `,"payload_summary":"{\"q…[truncated]","behavior":"live"}`},
		{"invoked with foreign value", with(sluice.ToolInvoked, func(e *sluice.Event) { e.Call.Input = 17 }),
			head("tool.invoked") + `,"payload_summary":null,"behavior":"live"}`},
		{"invoked with broken payload", with(sluice.ToolInvoked, func(e *sluice.Event) { e.Call.Input = json.RawMessage(`{"q":`) }),
			head("tool.invoked") + `,"payload_summary":null,"behavior":"live"}`},
		{"queued", with(sluice.ToolQueued, func(e *sluice.Event) { e.By = "limit/web" }), head("tool.queued") + `,"by":"limit/web"}`},
		{"started", with(sluice.ToolStarted, func(e *sluice.Event) { e.Queued = 1500 * time.Microsecond }), head("tool.started") + `,"queue_wait_ms":1.5}`},
		{"retrying", with(sluice.ToolRetrying, func(e *sluice.Event) { e.Err, e.RetryAfter = errors.New("503"), 1001*time.Microsecond }),
			head("tool.retrying") + `,"error_code":"tool_error","error_message":"503","retryable":true,"retry_after_ms":2}`},
		{"completed", with(sluice.ToolCompleted, func(e *sluice.Event) {
			e.Duration, e.OutputBytes, e.Result.Value = 10*time.Millisecond, 4, json.RawMessage(`"ok"`)
		}),
			head("tool.completed") + `,"duration_ms":10,"output_summary":{"success":true,"has_data":true,"has_error":false,"has_artifacts":false,"has_undo_metadata":false},"artifacts_count":0,"output":"ok","queue_wait_ms":0,"output_bytes":4}`},
		{"completed without data", with(sluice.ToolCompleted, func(e *sluice.Event) { e.Duration = 1 }),
			head("tool.completed") + `,"duration_ms":0.000001,"output_summary":{"success":true,"has_data":false,"has_error":false,"has_artifacts":false,"has_undo_metadata":false},"artifacts_count":0,"queue_wait_ms":0}`},
		{"failed", with(sluice.ToolFailed, func(e *sluice.Event) { e.Err = errors.New("a\nb\x1b[31m\u202e") }),
			head("tool.failed") + `,"duration_ms":0,"queue_wait_ms":0,"error_code":"tool_error","error_message":"a\nb\u001b[31m\u202e","retryable":false}`},
		{"refused", with(sluice.ToolFailed, func(e *sluice.Event) {
			e.Err = &sluice.Error{Tool: "search", CallID: "call-1", Reason: sluice.ErrQueueFull, By: "priority"}
			e.By, e.RetryAfter = "priority", time.Second
		}),
			head("tool.failed") + `,"duration_ms":0,"queue_wait_ms":0,"error_code":"queue_full","error_message":"sluice: tool \"search\": queue full by priority","retryable":true,"by":"priority","retry_after_ms":1000}`},
		{"denied", with(sluice.ToolDenied, func(e *sluice.Event) {
			e.Err = &sluice.Error{Reason: sluice.ErrDenied, Cause: errors.New("not on Sundays")}
		}),
			head("tool.denied") + `,"duration_ms":0,"reason":"not on Sundays","behavior":"live","allowed_behaviors":null,"queue_wait_ms":0,"error_code":"denied","error_message":"sluice: denied: not on Sundays","retryable":false}`},
		{"bare", sluice.Event{Kind: sluice.ToolStarted, Time: testTime},
			`{"type":"tool.started","event_id":"/0","seq":0,"schema_version":1,"timestamp":"2026-03-04T04:06:07.080000000Z","tool_name":"","action_id":"","pipeline_run_id":null,"request_id":null,"priority":0,"queue_wait_ms":0}`},
		{"breaker", sluice.Event{Kind: sluice.BreakerStateChanged, Time: testTime, By: "breaker/web", From: "closed", To: "open", Key: "search", Actor: "ops"},
			`{"type":"breaker.state_changed","schema_version":1,"timestamp":"2026-03-04T04:06:07.080000000Z","by":"breaker/web","from":"closed","to":"open","key":"search","actor":"ops"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := string(sluice.Must(tt.e.MarshalJSON()))
			assert.Equal(t, tt.want, got)
			_, err := json.Marshal(tt.e)
			assert.NoError(t, err)
		})
	}
}

// Hostile error values are formatted once, with a bound, and cannot break the line.
func TestHostileErrors(t *testing.T) {
	calls := 0
	counted := countedError{&calls, strings.Repeat("é", 1<<20)}
	for name, err := range map[string]error{"panicking": panickingError{}, "huge": counted, "self": selfWrapping{}, "typed nil": (*sluice.Error)(nil)} {
		e := testEvent(sluice.ToolFailed)
		e.Err = err
		b := sluice.Must(e.MarshalJSON())
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

func TestLogValue(t *testing.T) {
	e := testEvent(sluice.ToolFailed)
	e.ParentID, e.Queued, e.Duration, e.Err, e.By, e.RetryAfter = "call-0", time.Millisecond, time.Second, errors.New("no"), "b", time.Minute
	want := "[event=tool.failed tool=search call_id=call-1 parent_id=call-0 seq=3 attempt=1 run_id=run-1 request_id=req-1 tenant=acme wait=1ms duration=1s code=tool_error err=no by=b retry_after=1m0s]"
	assert.Equal(t, want, e.LogValue().String())
}
