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

// Event is one thing that happened. A copy of it shares nothing that anybody changes. It
// implements [json.Marshaler] and [slog.LogValuer].
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

	hasData  bool // the result had a value, whether it is shown or not
	overload bool // the call met an upstream's throttle
}

// EventSink receives events, those of one call in order. Its methods are called on the
// goroutine of the call, from many goroutines at once, and the call waits for them: a
// sink that may be slow belongs behind an [AsyncSink]. An error or a panic is counted and
// otherwise ignored; runtime.Goexit in a sink ends the calling goroutine, as it does in
// any function.
//
// Enabled is asked before each event and must be quick. The event that Emit is given is
// valid until Emit returns, and other sinks read it too: it is only read, and whoever keeps
// it, or hands it to another goroutine, makes a copy, *e. The context of Emit is the call's
// and may have ended.
type EventSink interface {
	Enabled(k EventKind) bool
	Emit(ctx context.Context, e *Event) error
}

// EventSinkFunc makes a function an [EventSink] for every kind.
type EventSinkFunc func(ctx context.Context, e *Event) error

// Enabled is always true.
func (f EventSinkFunc) Enabled(EventKind) bool { return true }

// Emit calls f.
func (f EventSinkFunc) Emit(ctx context.Context, e *Event) error { return f(ctx, e) }

// valueSink is a sink of this package that can hand the values of a call on. It gets two
// events: plain, for the sinks behind it that did not opt in, and full, with the caller's
// values, which nobody but [WithPayloads] looks at. Its Emit, in contrast, takes the values
// it is given as meant to be seen.
type valueSink interface {
	EventSink

	// wantsValues reports whether any sink behind this one opted in.
	wantsValues() bool

	// emitBoth is Emit for the two.
	emitBoth(ctx context.Context, plain, full *Event) error

	// freeze copies now what the sinks behind this one want of the two, and returns what
	// delivers the copy later.
	freeze(plain, full *Event) func(context.Context) error
}

// valueSinkOf is s if it wants values. It goes by concrete type: a user's type that embeds
// an AsyncSink would satisfy the interface too, and its own Emit would be passed over.
func valueSinkOf(s EventSink) (v valueSink, ok bool) {
	switch s.(type) {
	case *payloadFilter, *errorTextFilter, *multiSink, *AsyncSink:
		v = s.(valueSink)
		return v, v.wantsValues()
	}
	return nil, false
}

// deliver hands an event to s: plain, and if s opted in to values also full, which is nil if
// there are none. delivered is false with a nil error if s is nil or not interested, and with
// an error if s failed or panicked. It allocates nothing unless s does.
func deliver(ctx context.Context, s EventSink, plain, full *Event) (delivered bool, err error) {
	normal := false
	defer func() {
		if normal {
			return
		}
		if x := recover(); x != nil {
			delivered, err = false, newSinkPanic(s, plain.Call.Tool, x)
		}
	}()
	if s != nil && s.Enabled(plain.Kind) {
		err = deliverEnabled(ctx, s, plain, full)
		delivered = err == nil
	}
	normal = true
	return delivered, err
}

func deliverEnabled(ctx context.Context, s EventSink, plain, full *Event) error {
	if full != nil {
		if v, ok := valueSinkOf(s); ok {
			return v.emitBoth(ctx, plain, full)
		}
	}
	return s.Emit(ctx, plain)
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
