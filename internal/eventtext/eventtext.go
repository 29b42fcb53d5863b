// Package eventtext writes events: as one JSON object, as a line of JSON to a writer, and as the
// attributes of a log record. The fields stand in a fixed order, and nothing is found by
// reflection.
//
// It is given an event in plain values, bounds and escapes what it writes, and keeps nothing.
// [Log] calls a handler of log records. Only [Lines] locks, and calls foreign code under that lock: its
// writer, a line at a time.
package eventtext

import (
	"context"
	"log/slog"
	"time"

	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/ids"
	"github.com/sluice-go/sluice/internal/jsonx"
)

// Step is what an event is in the course of its call.
type Step uint8

// The steps. What is none of the others is Other.
const (
	Other Step = iota
	Invoked
	Started
	Completed
	Failed
	Denied
)

// StepOf is what an event of that kind is.
func StepOf(kind string) Step {
	switch kind {
	case "tool.invoked":
		return Invoked
	case "tool.started":
		return Started
	case "tool.completed":
		return Completed
	case "tool.failed":
		return Failed
	case "tool.denied":
		return Denied
	}
	return Other
}

// ends reports whether s ends a call.
func (s Step) ends() bool { return s >= Completed }

// Event is an event in plain values. What is empty is left out, unless a method says otherwise.
type Event struct {
	Kind     string
	Step     Step
	Time     time.Time
	InCall   bool // it is about a call, of which some fields are always there
	Key      uint64
	Seq      uint32
	ID       string
	Tool     string
	ToolType string
	Attempt  int
	Priority int
	Standard bool // the priority goes without saying in a log

	ParentKey uint64
	ParentID  string
	Run       Run

	Elapsed, Queued, Duration time.Duration
	InputBytes, OutputBytes   int
	Value                     any  // the arguments of Invoked, the result of Completed, as package payload copies them
	HasData                   bool // Completed with a result

	Err        bool // there is an error: Code, Message and Retryable count
	Code       errtext.Code
	Message    string
	Retryable  bool
	Why        string // a rule said no
	By         string
	RetryAfter time.Duration

	From, To, LimitKey, Actor string

	Attrs []slog.Attr // of a layer's own event
}

// Run is on whose behalf a call runs.
type Run struct {
	ID, Request, Parent, Session, User, Org, Interaction, Tenant, Topology, Service, Behavior string
}

// Attrs appends what a log record says of e: no argument, no result.
func Attrs(a []slog.Attr, e *Event) []slog.Attr {
	text := func(key, s string) {
		if s != "" {
			a = append(a, slog.String(key, jsonx.Cut(s, errtext.MaxName, "…")))
		}
	}
	span := func(key string, d time.Duration) {
		if d != 0 {
			a = append(a, slog.Duration(key, d))
		}
	}
	text("event", e.Kind)
	text("tool", e.Tool)
	text("call_id", e.ID)
	text("call_key", string(ids.KeyText(e.Key)))
	text("parent_id", e.ParentID)
	text("parent_key", string(ids.KeyText(e.ParentKey)))
	if e.Seq != 0 {
		a = append(a, slog.Uint64("seq", uint64(e.Seq)))
	}
	if e.Attempt != 0 {
		a = append(a, slog.Int("attempt", e.Attempt))
	}
	if e.Priority != 0 && !e.Standard {
		a = append(a, slog.Int("priority", e.Priority))
	}
	text("run_id", e.Run.ID)
	text("request_id", e.Run.Request)
	text("tenant", e.Run.Tenant)
	span("elapsed", e.Elapsed)
	span("wait", e.Queued)
	span("duration", e.Duration)
	if e.Err {
		a = append(a, slog.String("code", string(e.Code)), slog.String("err", e.Message))
	}
	text("by", e.By)
	span("retry_after", e.RetryAfter)
	text("from", e.From)
	text("to", e.To)
	text("key", e.LimitKey)
	text("actor", e.Actor)
	if list := said(e.Attrs); len(list) > 0 {
		a = append(a, slog.Attr{Key: "attrs", Value: slog.GroupValue(list...)})
	}
	return a
}

// Log writes events to H as "tool event": at Warn if a call failed, was denied or goes on
// abandoned, at Error if it panicked, else at Debug. It locks nothing, whatever H does.
type Log struct{ H slog.Handler }

// Enabled reports whether H wants such events as end a call without a result, or others.
func (l Log) Enabled(failed bool) bool {
	if failed {
		return l.H.Enabled(context.Background(), slog.LevelError) // as it may be
	}
	return l.H.Enabled(context.Background(), slog.LevelDebug)
}

// Write writes e, if H wants it.
func (l Log) Write(ctx context.Context, e *Event) error {
	level := e.level()
	if !l.H.Enabled(ctx, level) {
		return nil
	}
	r := slog.NewRecord(e.Time, level, "tool event", 0)
	var room [28]slog.Attr
	r.AddAttrs(Attrs(room[:0], e)...)
	return l.H.Handle(ctx, r)
}

func (e *Event) level() slog.Level {
	switch {
	case e.Step != Failed && e.Step != Denied && e.Kind != "tool.abandoned":
		return slog.LevelDebug
	case e.Code == errtext.Panic, e.Code == errtext.Goexit:
		return slog.LevelError
	}
	return slog.LevelWarn
}
