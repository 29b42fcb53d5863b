package sluice

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"

	"github.com/sluice-go/sluice/internal/eventtext"
)

func BenchmarkDeliver(b *testing.B) {
	ctx := context.Background()
	for _, bb := range []struct {
		name string
		s    EventSink
	}{
		{"nil", nil},
		{"discard", discarding{}},
		{"off", sinkOf{enabled: func(EventKind) bool { return false }}},
		{"multi-2", MultiSink(discarding{}, discarding{})},
		{"slog-off", NewSlogSink(nil)},
		{"slog-json", NewSlogSink(slog.New(slog.NewJSONHandler(discardWriter{}, &slog.HandlerOptions{Level: slog.LevelDebug})))},
		{"json", NewJSONSink(discardWriter{})},
	} {
		e := testEvent(ToolStarted)
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				deliver(ctx, bb.s, &e, nil)
			}
		})
	}
}

func BenchmarkEventJSON(b *testing.B) {
	completed, failed := testEvent(ToolCompleted), testEvent(ToolFailed)
	failed.Err = &Error{Tool: "search", CallID: "call-1", Reason: ErrQueueFull, Cause: errors.New("x")}
	for name, e := range map[string]Event{"completed": completed, "failed": failed} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			buf := make([]byte, 0, 4096)
			for b.Loop() {
				var x eventtext.Event
				e.text(&x)
				buf = eventtext.AppendJSON(buf[:0], &x)
			}
		})
	}
}

type benchInput struct {
	Query    string   `json:"query"`
	Limit    int      `json:"limit"`
	Tags     []string `json:"tags,omitempty"`
	Password string   `json:"password"`
}

func BenchmarkWithPayloads(b *testing.B) {
	in := benchInput{"golang rate limit", 10, []string{"a", "b"}, "hunter2"}
	raw, _ := json.Marshal(in)
	for _, bb := range []struct {
		name string
		v    any
	}{
		{"struct", in},
		{"raw", json.RawMessage(raw)},
		{"1MB-list", make([]benchInput, 1<<14)},
	} {
		s := Must(WithPayloads(discarding{}, PayloadConfig{MaxBytes: 1000}))
		e := Event{Kind: ToolInvoked, Call: Call{Input: bb.v}}
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				deliver(context.Background(), s, &e, &e)
			}
		})
	}
}

// BenchmarkAsyncSink compares with a buffered channel of events that drops when full. A
// blocked sink shows the cost of dropping, a quick one that of handing over.
func BenchmarkAsyncSink(b *testing.B) {
	ctx := context.Background()
	e := testEvent(ToolStarted)
	b.Run("blocked/channel", func(b *testing.B) {
		c := make(chan Event, 1000)
		b.ReportAllocs()
		for b.Loop() {
			select {
			case c <- e:
			default:
			}
		}
	})
	for _, name := range []string{"blocked/async", "blocked/async-parallel"} {
		b.Run(name, func(b *testing.B) {
			hold := make(chan struct{})
			a := Must(NewAsyncSink(EventSinkFunc(func(context.Context, *Event) error { <-hold; return nil }), AsyncSinkConfig{MaxQueue: 1000}))
			b.ReportAllocs()
			if name == "blocked/async" {
				for b.Loop() {
					a.Emit(ctx, &e)
				}
			} else {
				b.RunParallel(func(p *testing.PB) {
					for p.Next() {
						a.Emit(ctx, &e)
					}
				})
			}
			close(hold)
			a.Close(ctx)
		})
	}
	b.Run("full-of-terminals/async", func(b *testing.B) {
		hold := make(chan struct{})
		a := Must(NewAsyncSink(EventSinkFunc(func(context.Context, *Event) error { <-hold; return nil }), AsyncSinkConfig{MaxQueue: 1000}))
		for range 1001 {
			emitTo(ctx, a, testEvent(ToolCompleted))
		}
		b.ReportAllocs()
		for b.Loop() {
			a.Emit(ctx, &e)
		}
		close(hold)
		a.Close(ctx)
	})
	b.Run("quick/channel", func(b *testing.B) {
		c, done := make(chan Event, 1000), make(chan struct{})
		go func() {
			defer close(done)
			for e := range c {
				discarding{}.Emit(ctx, &e)
			}
		}()
		b.ReportAllocs()
		for b.Loop() {
			select {
			case c <- e:
			default:
			}
		}
		close(c)
		<-done
	})
	b.Run("quick/async", func(b *testing.B) {
		a := Must(NewAsyncSink(discarding{}, AsyncSinkConfig{MaxQueue: 1000}))
		b.ReportAllocs()
		for b.Loop() {
			a.Emit(ctx, &e)
		}
		a.Close(ctx)
	})
}
