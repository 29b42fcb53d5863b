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
)

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
		{"refusal after it ran", ranError{&Error{CallID: "call-1", Reason: ErrQueueFull, Cause: text}, 0}, "queue_full", false, ErrQueueFull},
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
			kept, whole, queued := NewRecorder(), NewRecorder(), NewRecorder()
			async := Must(NewAsyncSink(WithoutErrorText(queued), 10))
			asyncInside := Must(NewAsyncSink(kept, 10))
			asyncPayloads := Must(NewAsyncSink(WithoutErrorText(WithPayloads(kept, 0)), 10))
			s := MultiSink(whole,
				WithoutErrorText(NewSlogSink(slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})))),
				WithoutErrorText(NewJSONSink(&lines)), WithoutErrorText(WithPayloads(kept, 0)), WithPayloads(WithoutErrorText(kept), 0),
				WithoutErrorText(MultiSink(kept, WithoutErrorText(MultiSink(kept)))), WithoutErrorText(asyncInside), async, asyncPayloads)
			for _, k := range []EventKind{ToolRetrying, ToolFailed, ToolDenied} {
				e := testEvent(k)
				e.Err = tt.err
				if ok, err := deliverTo(t.Context(), s, e); !ok || err != nil {
					t.Fatal(ok, err)
				}
			}
			for _, a := range []*AsyncSink{async, asyncInside, asyncPayloads} {
				if err := a.Close(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
			events := append(kept.Events(), queued.Events()...)
			if len(events) != 21 {
				t.Fatalf("%d events, want 21", len(events))
			}
			for _, e := range events {
				b := Must(json.Marshal(e))
				for form, s := range map[string]string{"JSON": string(b), "log": e.LogValue().String(), "Err": e.Err.Error(), "Go": fmt.Sprintf("%+v %#v", e.Err, e.Err)} {
					if strings.Contains(s, canary) {
						t.Errorf("%s of %s: %s", form, e.Kind, s)
					}
				}
				for err := e.Err; err != nil; err = errors.Unwrap(err) {
					if strings.Contains(err.Error(), canary) || errors.Is(err, text) {
						t.Errorf("the text is behind Err: %v", err)
					}
				}
				if errors.Is(e.Err, ErrRejected) != tt.rejected || tt.reason != nil && !errors.Is(e.Err, tt.reason) || CodeOf(e.Err) != tt.code {
					t.Errorf("%s is %s, rejected %v", e.Err, CodeOf(e.Err), errors.Is(e.Err, ErrRejected))
				}
				if !bytes.Contains(b, []byte(`"error_code":"`+tt.code+`"`)) {
					t.Errorf("code %s: %s", tt.code, b)
				}
			}
			if all := logged.String() + lines.String(); strings.Contains(all, canary) || strings.Count(all, tt.code) < 6 {
				t.Error(all)
			}
			if got := whole.Events()[0].Err; fmt.Sprintf("%T", got) != fmt.Sprintf("%T", tt.err) {
				t.Errorf("the sink beside it got %T", got)
			}
		})
	}
	if s := WithoutErrorText(nil); s.Enabled(ToolFailed) || emitTo(t.Context(), s, Event{}) != nil {
		t.Error("a nil sink does not discard")
	}
}

// A run's own sink can go without error texts, and what it is shown of values stays the same.
func TestWithoutErrorTextOfARun(t *testing.T) {
	plain, run := NewRecorder(), NewRecorder()
	e := Must(NewExecutor(NewToolRegistry(), Config{Sink: plain}))
	work := Must(Wrap(e, Spec{Name: "work"}, func(_ context.Context, in string) (string, error) {
		if in == "fail" {
			return "", errors.New("sk-CANARY")
		}
		return in, nil
	}))
	ctx := WithPipelineContext(t.Context(), PipelineContext{Sink: WithoutErrorText(WithPayloads(run, 0))})
	_, err := work(ctx, "fail")
	if err == nil || err.Error() != "sk-CANARY" {
		t.Errorf("the caller gets %v", err)
	}
	if _, err := work(ctx, "fine"); err != nil {
		t.Error(err)
	}
	events := run.Events()
	if got := events[2].Err.Error(); got != "tool_error" || plain.Events()[2].Err.Error() != "sk-CANARY" {
		t.Errorf("the run's sink reads %q, the executor's %q", got, plain.Events()[2].Err)
	}
	if got := fmt.Sprintf("%s %s", events[3].Call.Input, events[5].Result.Value); got != `"fine" "fine"` {
		t.Errorf("values %s", got)
	}
	if err := run.Check(); err != nil {
		t.Error(err)
	}
	if err := e.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// What keeps events is bounded: a recorder says that it has had enough.
func TestRecorderIsBounded(t *testing.T) {
	var r Recorder
	r.events = make([]Event, maxRecorded-1)
	e := Event{Kind: BreakerStateChanged, Time: time.Now()}
	if err := emitTo(t.Context(), &r, e); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := emitTo(t.Context(), &r, e); err == nil {
			t.Error("kept too many")
		}
	}
	if err := r.Check(); err == nil || !strings.Contains(err.Error(), "2 events came after the first 1000000") {
		t.Errorf("%v", err)
	}
}
