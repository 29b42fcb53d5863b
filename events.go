package sluice

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// EventKind names an event, as in the JSON form.
type EventKind string

// The kinds of events. A call emits ToolInvoked first, then ToolQueued if it waits,
// ToolStarted once per attempt that runs, ToolRetrying between an attempt and the next (of
// which it has the number and the error of the first), and exactly one of ToolCompleted,
// ToolFailed and ToolDenied last. The others belong to no call.
const (
	ToolInvoked         EventKind = "tool.invoked"
	ToolQueued          EventKind = "tool.queued"
	ToolStarted         EventKind = "tool.started"
	ToolRetrying        EventKind = "tool.retrying"
	ToolCompleted       EventKind = "tool.completed"
	ToolFailed          EventKind = "tool.failed"
	ToolDenied          EventKind = "tool.denied" // only for ErrDenied; any other refusal is ToolFailed without ToolStarted
	BreakerStateChanged EventKind = "breaker.state_changed"
	LimitChanged        EventKind = "limit.changed"
	LimitStalled        EventKind = "limit.stalled" // a limit has released nothing for a minute while calls wait: told once
	RateLimitPaused     EventKind = "ratelimit.paused"
	RateLimitDebt       EventKind = "ratelimit.debt" // a report of use was cut: it would have closed the key for more than a day
)

// isTerminal reports whether k ends a call.
func isTerminal(k EventKind) bool {
	return k == ToolCompleted || k == ToolFailed || k == ToolDenied
}

// Event is one thing that happened. It is a value: whoever keeps one copies it, and
// nothing in it may be changed. It implements [json.Marshaler] and [slog.LogValuer].
//
// Call.Input and Result.Value are nil unless the sink opted in by [WithPayloads].
// Neither the JSON form nor the log form holds the value or stack of a panic. But both
// hold the text of a tool's or an interceptor's own error, cut to 1,024 bytes, whatever
// that text says: for a sink that must not see it there is [WithoutErrorText].
//
// The tool of a call with [ErrUnknownTool] is a name that its caller made up: it is no
// good as a metric's label.
type Event struct {
	Kind       EventKind
	Time       time.Time
	CallKey    CallKey       // the call's own, which no other has; zero outside calls
	Call       Call          // as it was invoked, with priority and number of the attempt; zero outside calls
	ParentKey  CallKey       // of the call that this one is nested in; zero if none
	ParentID   string        // its id, which others may have too; empty if none
	Seq        uint32        // within the call, from 1 without gaps; 0 outside calls
	Elapsed    time.Duration // since ToolInvoked of the call
	Queued     time.Duration // how long the call waited for admission, so far
	Duration   time.Duration // how long the tool ran; of terminal events
	Err        error         // of ToolFailed, ToolDenied and ToolRetrying; what LimitStalled means
	By         string        // the constraint that refused, queued or changed
	RetryAfter time.Duration // when a retry makes sense, the wait of a ToolRetrying, or how long a pause is; zero if unknown
	Result     Result        // of ToolCompleted
	// InputBytes and OutputBytes are the sizes of the encoded arguments and result; zero
	// if nothing had to encode them.
	InputBytes, OutputBytes int
	From, To                string // of BreakerStateChanged and LimitChanged
	Key                     string // of a breaker or a paused rate, in events outside calls
	Actor                   string // who changed it: Reconfigure's by; empty if it came about by itself

	hasData  bool // Result.Value was not nil before it was taken out
	overload bool // the call met an upstream's throttle
}

// withoutValues takes the argument and result values out of e.
func (e *Event) withoutValues() {
	e.hasData = e.hasData || e.Result.Value != nil
	e.Call.Input, e.Result.Value = nil, nil
}

// EventSink receives events, those of one call in order. Its methods are called on the
// goroutine of the call, from many goroutines at once, and the call waits for them: a
// sink that may be slow belongs behind an [AsyncSink]. An error or a panic is counted and
// otherwise ignored; runtime.Goexit in a sink ends the calling goroutine, as it does in
// any function.
//
// Enabled is asked before each event and must be quick. The context of Emit is the
// call's and may have ended.
type EventSink interface {
	Enabled(k EventKind) bool
	Emit(ctx context.Context, e Event) error
}

// EventSinkFunc makes a function an [EventSink] for every kind.
type EventSinkFunc func(ctx context.Context, e Event) error

// Enabled is always true.
func (f EventSinkFunc) Enabled(EventKind) bool { return true }

// Emit calls f.
func (f EventSinkFunc) Emit(ctx context.Context, e Event) error { return f(ctx, e) }

// payloadSink is a sink of this package that can hand values of a call on.
type payloadSink interface {
	EventSink

	// wantsPayloads reports whether any sink behind this one opted in to values.
	wantsPayloads() bool

	// emitPayloads is Emit for an event that still holds the caller's values. Emit, in
	// contrast, takes the values it is given as meant to be seen.
	emitPayloads(ctx context.Context, e Event) error

	// freeze copies now what the sinks behind this one want of e's values, and returns
	// what delivers the copy later.
	freeze(e Event) func(context.Context) error
}

// payloadSinkOf goes by concrete type: a user's type that embeds an AsyncSink would
// satisfy the interface too, and its own Emit would be passed over.
func payloadSinkOf(s EventSink) (p payloadSink, ok bool) {
	switch s.(type) {
	case *payloadFilter, *errorTextFilter, *multiSink, *AsyncSink:
		p = s.(payloadSink)
		return p, p.wantsPayloads()
	}
	return nil, false
}

// values are what an event is about that only sinks which opted in are shown.
type values struct{ input, result any }

// deliver hands e to s, and its values only to a sink that opted in. delivered is false
// with a nil error if s is nil or not interested, and with an error if s failed or
// panicked. It allocates nothing unless s does.
func deliver(ctx context.Context, s EventSink, e Event) (delivered bool, err error) {
	v := values{e.Call.Input, e.Result.Value}
	e.withoutValues()
	return deliverEvent(ctx, s, &e, &v)
}

// deliverEvent is deliver for an event whose values stand apart from it.
func deliverEvent(ctx context.Context, s EventSink, e *Event, v *values) (delivered bool, err error) {
	normal := false
	defer func() {
		if normal {
			return
		}
		if x := recover(); x != nil {
			delivered, err = false, newSinkPanic(s, e.Call.Tool, x)
		}
	}()
	if s != nil && s.Enabled(e.Kind) {
		if p, ok := payloadSinkOf(s); ok {
			err = emitValues(ctx, p, e, v)
		} else {
			err = s.Emit(ctx, *e)
		}
		delivered = err == nil
	}
	normal = true
	return delivered, err
}

func emitValues(ctx context.Context, p payloadSink, e *Event, v *values) error {
	full := *e
	full.Call.Input, full.Result.Value = v.input, v.result
	return p.emitPayloads(ctx, full)
}

// pass is deliver for an event whose values are meant to be seen by s.
func pass(ctx context.Context, s EventSink, e Event) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = newSinkPanic(s, e.Call.Tool, v)
		}
	}()
	if !s.Enabled(e.Kind) {
		return nil
	}
	return s.Emit(ctx, e)
}

// sinkPanic is the error of a sink that panicked.
type sinkPanic struct {
	sink  string
	panic *PanicError
}

func newSinkPanic(s EventSink, tool string, v any) error {
	return &sinkPanic{fmt.Sprintf("%T", s), &PanicError{Tool: tool, Value: v, Stack: debug.Stack()}}
}

func (e *sinkPanic) Error() string { return "sluice: event sink " + e.sink + " panicked" }
func (e *sinkPanic) Unwrap() error { return e.panic }

// LogValue is the event as a group, without argument and result values.
func (e Event) LogValue() slog.Value { return slog.GroupValue(e.attrs(nil)...) }

// attrs appends what a log record says of e; what is empty is left out.
func (e *Event) attrs(a []slog.Attr) []slog.Attr {
	text := func(key, s string) {
		if s != "" {
			a = append(a, slog.String(key, cut(s, maxName)))
		}
	}
	span := func(key string, d time.Duration) {
		if d != 0 {
			a = append(a, slog.Duration(key, d))
		}
	}
	text("event", string(e.Kind))
	text("tool", e.Call.Tool)
	text("call_id", e.Call.ID)
	text("call_key", e.CallKey.String())
	text("parent_id", e.ParentID)
	text("parent_key", e.ParentKey.String())
	if e.Seq != 0 {
		a = append(a, slog.Uint64("seq", uint64(e.Seq)))
	}
	if e.Call.Attempt != 0 {
		a = append(a, slog.Int("attempt", int(e.Call.Attempt)))
	}
	if e.Call.Priority != 0 && e.Call.Priority != PriorityNormal {
		a = append(a, slog.Int("priority", int(e.Call.Priority)))
	}
	if p := e.Call.Pipeline; p != nil {
		text("run_id", p.RunID)
		text("request_id", p.RequestID)
		text("tenant", p.tenant())
	}
	span("elapsed", e.Elapsed)
	span("wait", e.Queued)
	span("duration", e.Duration)
	if e.Err != nil {
		code := codeOf(e)
		a = append(a, slog.String("code", string(code)), slog.String("err", messageOf(code, e.Err)))
	}
	text("by", e.By)
	span("retry_after", e.RetryAfter)
	text("from", e.From)
	text("to", e.To)
	text("key", e.Key)
	text("actor", e.Actor)
	return a
}
