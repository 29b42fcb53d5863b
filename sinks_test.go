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
	"sync"
	"testing"
)

func TestSlogSink(t *testing.T) {
	failure := errors.New("x")
	for _, tt := range []struct {
		kind EventKind
		err  error
		want string
	}{
		{ToolInvoked, nil, "DEBUG"},
		{ToolQueued, nil, "DEBUG"},
		{ToolStarted, nil, "DEBUG"},
		{ToolRetrying, failure, "DEBUG"},
		{ToolCompleted, nil, "DEBUG"},
		{ToolFailed, failure, "WARN"},
		{ToolFailed, &PanicError{}, "ERROR"},
		{ToolFailed, &PanicError{Goexit: true}, "ERROR"},
		{ToolDenied, &Error{Reason: ErrDenied}, "WARN"},
		{BreakerStateChanged, nil, "DEBUG"},
	} {
		for _, min := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError, slog.LevelError + 1} {
			var b bytes.Buffer
			s := NewSlogSink(slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{Level: min})))
			e := testEvent(tt.kind)
			e.Err = tt.err
			if _, err := deliverTo(t.Context(), s, e); err != nil {
				t.Fatal(err)
			}
			var level slog.Level
			if err := level.UnmarshalText([]byte(tt.want)); err != nil {
				t.Fatal(err)
			}
			if logged := b.Len() > 0; logged != (level >= min) {
				t.Errorf("%s %v at %v: logged %v: %s", tt.kind, tt.err, min, logged, b.String())
			}
			if b.Len() == 0 {
				continue
			}
			var got struct{ Level, Msg, Event, Time string }
			if err := json.Unmarshal(b.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if got.Level != tt.want || got.Msg != "tool event" || got.Event != string(tt.kind) || !strings.HasPrefix(got.Time, "2026-03-04T") {
				t.Errorf("%s: %s", tt.kind, b.String())
			}
		}
	}
	if NewSlogSink(nil).Enabled(ToolFailed) {
		t.Error("a sink without a logger is enabled")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestJSONSink(t *testing.T) {
	var lines []string
	inside := 0
	s := NewJSONSink(writerFunc(func(b []byte) (int, error) {
		inside++
		defer func() { inside-- }()
		if inside != 1 {
			t.Error("Write is called by two at once")
		}
		lines = append(lines, string(b))
		return len(b), nil
	}))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				e := testEvent(ToolFailed)
				e.Call.ID, e.Err = fmt.Sprint(i), errors.New(strings.Repeat("x\n", j))
				if ok, err := deliverTo(context.Background(), s, e); !ok || err != nil {
					t.Error(ok, err)
				}
			}
		})
	}
	wg.Wait()
	if len(lines) != 400 {
		t.Errorf("%d writes, want 400", len(lines))
	}
	for _, l := range lines {
		if strings.Count(l, "\n") != 1 || !strings.HasSuffix(l, "}\n") || !json.Valid([]byte(l)) {
			t.Fatalf("not one line of JSON: %q", l)
		}
	}
}

func TestJSONSinkErrors(t *testing.T) {
	full := errors.New("disk full")
	for name, tt := range map[string]struct {
		w    io.Writer
		want error
	}{
		"error":       {writerFunc(func([]byte) (int, error) { return 0, full }), full},
		"short write": {writerFunc(func(b []byte) (int, error) { return 1, nil }), io.ErrShortWrite},
		"nil":         {nil, nil},
	} {
		if _, err := deliverTo(t.Context(), NewJSONSink(tt.w), testEvent(ToolInvoked)); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		if err := emitTo(t.Context(), NewJSONSink(tt.w), testEvent(ToolInvoked)); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	// A writer that panicked does not leave the sink locked.
	first := true
	s := NewJSONSink(writerFunc(func(b []byte) (int, error) {
		if first {
			first = false
			panic("first")
		}
		return len(b), nil
	}))
	if _, err := deliverTo(t.Context(), s, testEvent(ToolInvoked)); err == nil {
		t.Error("the panic was lost")
	}
	if ok, err := deliverTo(t.Context(), s, testEvent(ToolInvoked)); !ok || err != nil {
		t.Error(ok, err)
	}
}

func TestT74_OneSinksTroubleDoesNotTouchTheOthers(t *testing.T) {
	a, b := NewRecorder(), NewRecorder()
	failure := errors.New("full")
	s := MultiSink(nil,
		a,
		EventSinkFunc(func(context.Context, *Event) error { panic("boom") }),
		sinkOf{enabled: func(EventKind) bool { panic("boom") }},
		EventSinkFunc(func(context.Context, *Event) error { return failure }),
		sinkOf{enabled: func(EventKind) bool { return false }, emit: func(context.Context, *Event) error {
			t.Error("a sink got what it did not want")
			return nil
		}},
		MultiSink(b, nil),
	)
	opted := MultiSink(s, WithPayloads(EventSinkFunc(func(context.Context, *Event) error { panic("boom") }), 0))
	e := testEvent(ToolInvoked)
	for i, tt := range []struct {
		emit   func() error
		panics int
	}{
		{func() error { _, err := deliverTo(t.Context(), s, e); return err }, 2},
		{func() error { return emitTo(t.Context(), s, e) }, 2},
		{func() error { _, err := deliverTo(t.Context(), opted, e); return err }, 3},
		{func() error { return emitTo(t.Context(), opted, e) }, 3},
		{func() error { return opted.(valueSink).freeze(&e, &e)(t.Context()) }, 3},
	} {
		err := tt.emit()
		var p *PanicError
		if !errors.As(err, &p) || !errors.Is(err, failure) {
			t.Errorf("error %v must hold the panic and the failure", err)
		}
		if n := strings.Count(err.Error(), "panicked"); n != tt.panics {
			t.Errorf("%d panics reported, want %d: %v", n, tt.panics, err)
		}
		if len(a.Events()) != i+1 || len(b.Events()) != i+1 {
			t.Errorf("%d and %d events, want %d each", len(a.Events()), len(b.Events()), i+1)
		}
	}
}

func TestMultiSink(t *testing.T) {
	only := func(k EventKind) EventSink {
		return sinkOf{enabled: func(x EventKind) bool { return x == k }, emit: func(context.Context, *Event) error { return nil }}
	}
	s := MultiSink(only(ToolFailed), only(ToolDenied))
	for k, want := range map[EventKind]bool{ToolFailed: true, ToolDenied: true, ToolInvoked: false} {
		if s.Enabled(k) != want {
			t.Errorf("Enabled(%s) = %v", k, !want)
		}
	}
	if MultiSink().Enabled(ToolFailed) || MultiSink(nil, MultiSink()).Enabled(ToolFailed) {
		t.Error("a MultiSink of nothing is enabled")
	}
	if err := emitTo(t.Context(), MultiSink(), Event{}); err != nil {
		t.Error(err)
	}
	// It keeps a copy of its arguments.
	a, b := NewRecorder(), NewRecorder()
	list := []EventSink{a}
	s = MultiSink(list...)
	list[0] = b
	deliverTo(t.Context(), s, testEvent(ToolInvoked))
	if len(a.Events()) != 1 || len(b.Events()) != 0 {
		t.Error("the caller's slice is shared")
	}
}

// Each sink of a MultiSink sees what it asked for, however they are put together.
func TestMultiSinkPayloads(t *testing.T) {
	e := testEvent(ToolInvoked)
	e.Call.Input = map[string]any{"q": "go", "password": "hunter2", "ssn": "1"}
	plain, all, some, deep := NewRecorder(), NewRecorder(), NewRecorder(), NewRecorder()
	s := MultiSink(plain, WithPayloads(all, 0), WithPayloads(some, 0, "ssn"), MultiSink(WithPayloads(MultiSink(deep), 5)))
	if ok, err := deliverTo(t.Context(), s, e); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for name, tt := range map[string]struct {
		r    *Recorder
		want string
	}{
		"plain": {plain, "<nil>"},
		"all":   {all, `{"password":"[redacted]","q":"go","ssn":"1"}`},
		"some":  {some, `{"password":"[redacted]","q":"go","ssn":"[redacted]"}`},
		"deep":  {deep, `{"pas…[truncated]`},
	} {
		got := tt.r.Events()[0].Call.Input
		if raw, ok := got.(json.RawMessage); ok {
			got = string(raw)
		}
		if fmt.Sprint(got) != tt.want {
			t.Errorf("%s: got %v, want %s", name, got, tt.want)
		}
	}
}
