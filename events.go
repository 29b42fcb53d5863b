package sluice

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/blame"
	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/eventtext"
	"github.com/sluice-go/sluice/internal/ids"
	"github.com/sluice-go/sluice/internal/stage"
	"github.com/sluice-go/sluice/internal/turn"
)

// EventKind names an event, as in the JSON form.
type EventKind string

// The kinds of events. A call emits ToolInvoked first; ToolQueued if it waits; ToolStarted for each attempt that runs;
// ToolRetrying between two, with number and error of the first; ToolAbandoned for one that nobody waits for any more and
// that goes on, and holds its slots until it ends, of which nothing tells but [Snapshot]; and one of ToolCompleted,
// ToolFailed and ToolDenied last. Between them stand those of layers, see [Call.Emit]. The others belong to no call.
const (
	ToolInvoked         EventKind = "tool.invoked"
	ToolQueued          EventKind = "tool.queued"
	ToolStarted         EventKind = "tool.started"
	ToolRetrying        EventKind = "tool.retrying"
	ToolAbandoned       EventKind = "tool.abandoned"
	ToolCompleted       EventKind = "tool.completed"
	ToolFailed          EventKind = "tool.failed" // a refusal too, without ToolStarted
	ToolDenied          EventKind = "tool.denied" // only ErrDenied
	BreakerStateChanged EventKind = "breaker.state_changed"
	LimitChanged        EventKind = "limit.changed"
	LimitStalled        EventKind = "limit.stalled" // once: nothing released for a minute while calls wait
	RateLimitPaused     EventKind = "ratelimit.paused"
	RateLimitDebt       EventKind = "ratelimit.debt" // a report of use was cut
	FleetChanged        EventKind = "fleet.changed"  // its engine is away or there, or another process has another rate
)

// Event is one thing that happened. A copy shares nothing that anybody changes.
//
// JSON and logs hold the text of a tool's or an interceptor's own error, cut to 1,024 bytes, whatever
// it says; [WithoutErrorText] keeps it from a sink. They never hold a panic's value or stack. With
// [ErrUnknownTool], Call.Tool is what the caller made up: no good as a metric's label.
type Event struct {
	Kind                    EventKind
	Time                    time.Time
	CallKey                 CallKey       // unique; zero outside calls
	Call                    Call          // as invoked, Priority and Attempt apart; Input only by WithPayloads
	ParentKey               CallKey       // of the call around this one
	ParentID                string        // not unique
	Seq                     uint32        // within the call, from 1 without gaps
	From, To                BreakerState  // of BreakerStateChanged
	Elapsed                 time.Duration // since ToolInvoked
	Queued                  time.Duration // waited for admission so far
	Duration                time.Duration // of the tool's run, in the end, and when it is abandoned
	Err                     error         // of ToolFailed, ToolDenied, ToolRetrying and LimitStalled
	By                      string        // the constraint that refused, queued or changed
	RetryAfter              time.Duration // until a retry makes sense, or how long a wait or pause is
	Result                  Result        // of ToolCompleted; Value only by WithPayloads
	InputBytes, OutputBytes int           // of JSON; zero without
	OldLimit, NewLimit      string        // of LimitChanged: number, rate or range
	Key                     string        // under which By counts, outside calls
	Actor                   string        // who changed it, if anybody
	Attrs                   []slog.Attr   // of a layer's own event, see Call.Emit

	hasData  bool // the result had a value, whether it is shown or not
	overload bool // the call met an upstream's throttle
}

// CallKey tells a call from every other, whatever ids callers give, in this process and
// others. Zero belongs to no call.
type CallKey uint64

// String is the key as text; empty for zero.
func (k CallKey) String() string { return string(ids.KeyText(uint64(k))) }

// MarshalText is String.
func (k CallKey) MarshalText() ([]byte, error) { return ids.KeyText(uint64(k)), nil }

// inCall reports whether e belongs to a call.
func (e *Event) inCall() bool {
	return e.CallKey != 0 || e.Call.ID != "" || strings.HasPrefix(string(e.Kind), "tool.")
}

// LogValue is the event as a group, without values.
func (e Event) LogValue() slog.Value {
	var x eventtext.Event
	e.text(&x)
	return slog.GroupValue(eventtext.Attrs(nil, &x)...)
}

// MarshalJSON writes one JSON object on one line. Empty fields are left out, but an event of a call has tool_name,
// action_id (the call's id), pipeline_run_id, request_id (null if there is none) and timestamp (RFC 3339 in UTC,
// nanoseconds). event_id, the call's key, a slash and seq, is unique everywhere. Durations are in milliseconds,
// retry_after_ms is rounded up. Control, bidirectional and invisible characters are escaped.
func (e Event) MarshalJSON() ([]byte, error) {
	var x eventtext.Event
	e.text(&x)
	return eventtext.AppendJSON(make([]byte, 0, 768), &x), nil
}

// text fills x, which is zero, with what is written of e.
func (e *Event) text(x *eventtext.Event) {
	c := &e.Call
	x.Kind, x.Time, x.InCall = string(e.Kind), e.Time, e.CallKey != 0 || e.inCall()
	x.Key, x.Seq, x.ParentKey, x.ParentID = uint64(e.CallKey), e.Seq, uint64(e.ParentKey), e.ParentID
	x.ID, x.Tool, x.ToolType, x.Attempt = c.ID, c.Tool, c.Type, int(c.Attempt)
	x.Priority, x.Standard = int(c.Priority), c.Priority == PriorityNormal
	x.Elapsed, x.Queued, x.Duration = e.Elapsed, e.Queued, e.Duration
	x.InputBytes, x.OutputBytes = e.InputBytes, e.OutputBytes
	x.By, x.RetryAfter, x.LimitKey, x.Actor = e.By, e.RetryAfter, e.Key, e.Actor
	x.From, x.To, x.Attrs = e.OldLimit, e.NewLimit, e.Attrs
	if p := c.Pipeline; p != nil {
		p.text(&x.Run)
	}
	if e.Err != nil {
		x.Err, x.Code = true, codeOf(e)
		x.Message = errtext.MessageOf(x.Code, e.Err)
		x.Retryable = e.Kind == ToolRetrying || e.overload || meanings.Passes(e.Err, x.Code, e.RetryAfter)
	}
	switch x.Step = eventtext.StepOf(x.Kind); x.Step {
	case eventtext.Invoked:
		x.Value = c.Input
	case eventtext.Completed:
		x.Value, x.HasData = e.Result.Value, e.hasData || e.Result.Value != nil || e.OutputBytes > 0
	case eventtext.Denied:
		x.Why = meanings.Denial(e.Err)
	}
	if e.Kind == BreakerStateChanged {
		x.From, x.To = e.From.String(), e.To.String()
	}
}

// callEvent is an event of a call on its way to the sinks, which read it where it stands.
type callEvent struct {
	Event       // as every sink may see it, without values
	full  Event // and with value, if a sink wants that
	value any   // the arguments of a ToolInvoked, the result of a ToolCompleted
	last  bool  // it is a terminal event
	ctx   context.Context
	frame *frame // that it is part of, or nil
}

// callEvents are reused: no sink keeps one. What is told by who is in charge of a call that has a frame
// is made there.
var callEvents = sync.Pool{New: func() any { return new(callEvent) }}

// event makes an event of inv's, at the instant now, for emit. It is told whether whoever asks is in
// charge of the call.
func (inv *invocation) event(k EventKind, now int64, own bool) *callEvent {
	var t *callEvent
	if f := inv.first; own && f != nil && f.frame != nil {
		t = &f.frame.event
	} else {
		t = callEvents.Get().(*callEvent)
	}
	if t.CallKey == 0 { // else it has told of the same call
		t.CallKey = inv.key
		inv.fill(&t.Call, inv.same && t.frame != nil)
		if p := inv.parent.Load(); p != nil {
			t.ParentID, t.ParentKey = p.inv.id, p.inv.key
		}
	}
	t.Kind, t.Elapsed = k, time.Duration(max(0, now-inv.began))
	t.Time = inv.plan.exec.clock.Time(now)
	return t
}

// withValue is t with its value.
func (t *callEvent) withValue() *Event {
	t.full = t.Event
	if t.Kind == ToolInvoked {
		t.full.Call.Input = t.value
	} else {
		t.full.Result.Value = t.value
	}
	return &t.full
}

// free lets t be used again.
func (t *callEvent) free() {
	if t.full.Kind != "" {
		t.full = Event{}
	}
	t.value = nil
	if t.frame == nil {
		t.Event, t.last, t.ctx = Event{}, false, nil
		callEvents.Put(t)
	}
}

// throttled says when to try again what met a throttle.
func (t *callEvent) throttled(sum *first, now int64) {
	x := sum.aside.Load()
	if x == nil {
		return
	}
	if until := x.again.Load(); until != 0 {
		t.overload = true
		t.RetryAfter = max(t.RetryAfter, time.Duration(until-1-now))
	}
}

// maxLateEvents bounds the events of one call that wait while a sink blocks another of its
// attempts; terminal events, of which there is one, come on top.
const maxLateEvents = 1000

// emit delivers t to the sinks, after the events of the same call that came before it. The
// first terminal event is the last one, and is delivered when emit returns.
func (inv *invocation) emit(ctx context.Context, t *callEvent) {
	if inv.plan.single {
		inv.say(ctx, t)
	} else if t.ctx = ctx; !turn.Take(&inv.emitting, inv, t, t.last, maxLateEvents) {
		inv.plan.exec.dropped.Add(1)
	}
}

// Say delivers t, whose turn has come, unless the call's last event is out.
func (inv *invocation) Say(t *callEvent) {
	if inv.over {
		t.free()
		return
	}
	inv.over = t.last
	inv.say(t.ctx, t)
}

// say delivers t.
func (inv *invocation) say(ctx context.Context, t *callEvent) {
	inv.seq++
	t.Seq = inv.seq
	if !inv.plain {
		inv.sayFully(ctx, t)
		return
	}
	e, normal := inv.plan.exec, false
	defer func() {
		if !normal && recover() != nil { // of the sink, which has lost it
			e.dropped.Add(1)
		}
	}()
	if s := e.conf.Sink; s.Enabled(t.Kind) {
		if err := s.Emit(ctx, &t.Event); err == nil && t.frame != nil {
			t.frame.told++
		} else {
			e.count(t, err)
		}
	}
	if normal = true; t.frame == nil {
		t.free()
	}
}

// sayFully is say where more listen than the executor's sink, or where that looks at values.
func (inv *invocation) sayFully(ctx context.Context, t *callEvent) {
	e := inv.plan.exec
	run := without(inv.pipeline.Sink, e.conf.Sink)
	var full *Event
	if t.value != nil && (e.wantsValues || valueSinkOf(run) != nil) {
		full = t.withValue()
	}
	defer t.free()
	if t.last { // also if the executor's calls Goexit
		defer t.send(ctx, e, run, full)
	}
	t.send(ctx, e, e.conf.Sink, full)
	if !t.last {
		t.send(ctx, e, run, full)
	}
}

// Waiting is the queue of events while another of the call's attempts delivers its own.
func (inv *invocation) Waiting() *turn.Queue[*callEvent] {
	x := &inv.first.remembers().late
	if l := x.Load(); l != nil {
		return l
	}
	x.CompareAndSwap(nil, new(turn.Queue[*callEvent]))
	return x.Load()
}

// send has s, if it is not nil, emit t, and counts what becomes of that. If s calls Goexit, it does not return.
func (t *callEvent) send(ctx context.Context, e *Executor, s EventSink, full *Event) {
	if ok, err := deliver(ctx, s, &t.Event, full); ok || err != nil {
		e.count(t, err)
	}
}

// count counts what became of t at a sink.
func (e *Executor) count(t *callEvent, err error) {
	switch {
	case err != nil:
		e.dropped.Add(1)
	case t.frame == nil:
		e.census.Delivered(1)
	default:
		t.frame.told++
	}
}

// emitStarted reports that the attempt begins.
func (r *running) emitStarted(ctx context.Context, c *Call) {
	inv := r.inv
	t := inv.event(ToolStarted, r.Granted, inv.plan.single)
	t.Call.Priority, t.Call.Attempt = c.Priority, c.Attempt  // whatever else an interceptor has changed
	t.InputBytes, t.Queued, t.By = 0, inv.first.Queued(), "" // it may be the event that has told before
	inv.emit(ctx, t)
}

// emitOwn reports what a layer says, in the course of its call.
func (inv *invocation) emitOwn(ctx context.Context, c *Call, k EventKind, attrs []slog.Attr) {
	t := inv.event(k, inv.plan.exec.clock.Now(), false)
	t.Call.Priority, t.Call.Attempt = c.Priority, cmp.Or(c.Attempt, inv.begun())
	t.Queued, t.Attrs = inv.first.Queued(), attrs
	inv.emit(inv.toSinks(ctx), t)
}

// emitAbandoned reports that nobody waits for the attempt any more, which goes on.
func (r *running) emitAbandoned() {
	inv, now := r.inv, r.inv.plan.exec.clock.Now()
	t := inv.event(ToolAbandoned, now, false)
	t.Call.Attempt, t.Queued, t.Duration = r.Attempt, inv.first.Queued(), time.Duration(max(0, now-r.Granted))
	inv.emit(inv.toSinks(r.caller()), t)
}

// listener is an executor, and what of its sink no listener before it has.
type listener struct {
	exec *Executor
	sink EventSink
}

// Listeners is who hears what happens outside calls: each sink once, of however many of all it is.
func (e *inDomain) Listeners(all []stage.Client) (list []stage.Listener) {
	var listed []EventSink
	for _, c := range all {
		x := executorOf(c)
		s := x.conf.Sink
		for _, o := range listed {
			s = without(s, o)
		}
		if s != nil {
			listed, list = append(listed, s), append(list, listener{x, s})
		}
	}
	return list
}

// Hear delivers what happened outside calls.
func (l listener) Hear(n *stage.Notice) {
	e := Event{Time: n.At, By: n.By, Key: n.Key, Actor: n.Actor, RetryAfter: n.After}
	switch n.Kind {
	case stage.Moved:
		e.Kind, e.From, e.To = BreakerStateChanged, breakerState(n.Was), breakerState(n.Is)
	case stage.Debt:
		e.Kind = RateLimitDebt
	case stage.Paused:
		e.Kind = RateLimitPaused
	case stage.Changed:
		e.Kind, e.OldLimit, e.NewLimit = LimitChanged, n.From, n.To
	case stage.Stalled:
		e.Kind, e.Err = LimitStalled, fmt.Errorf("sluice: %d calls hold it and released nothing for a minute, "+
			"while %d wait: does a tool call another without the context it was given?", n.Holding, n.Waiting)
	}
	if ok, err := deliver(context.Background(), l.sink, &e, nil); ok {
		l.exec.census.Delivered(1)
	} else if err != nil {
		l.exec.dropped.Add(1)
	}
}

// Missed counts an event at which the sink called Goexit.
func (l listener) Missed() { l.exec.dropped.Add(1) }

// valueSinkOf is s if it wants values, else nil. It goes by concrete type: a user's type that
// embeds an AsyncSink would satisfy the interface too, and its own Emit would not be called.
func valueSinkOf(s EventSink) valueSink {
	switch s.(type) {
	case *payloadFilter, *errorTextFilter, *multiSink, *AsyncSink:
		if v := s.(valueSink); v.wantsValues() {
			return v
		}
	}
	return nil
}

// deliver delivers an event to s: plain, or if s opted in to values full too, which is nil if
// there are none. delivered is false with a nil error if s is nil or not interested, and with
// an error if s failed or panicked. It allocates nothing unless s does.
func deliver(ctx context.Context, s EventSink, plain, full *Event) (delivered bool, err error) {
	normal := false
	defer func() {
		if !normal {
			catch(s, plain.Call.Tool, recover(), &err)
		}
	}()
	if s != nil && s.Enabled(plain.Kind) {
		if full == nil {
			err = s.Emit(ctx, plain)
		} else {
			err = emitFull(ctx, s, plain, full)
		}
		delivered = err == nil
	}
	normal = true
	return delivered, err
}

// emitFull has s emit an event that has values, which it sees if it opted in.
func emitFull(ctx context.Context, s EventSink, plain, full *Event) error {
	if v := valueSinkOf(s); v != nil {
		return v.emitBoth(ctx, plain, full)
	}
	return s.Emit(ctx, plain)
}

// catch makes err the error of s, which panicked with x at an event of that tool, if it did.
func catch(s EventSink, tool string, x any, err *error) {
	if x != nil {
		*err = &errtext.SinkPanic{Sink: fmt.Sprintf("%T", s), Err: &PanicError{Tool: tool, Value: x, Stack: debug.Stack()}}
	}
}

// emitRetry reports that the attempt c, which begins, is a retry, unless somebody has: all
// attempts before it have ended.
func (inv *invocation) emitRetry(ctx context.Context, c *Call) {
	before, f := c.Attempt-1, inv.first
	if !f.retries.Follows(before) {
		return
	}
	var err error
	if x := f.aside.Load(); x != nil {
		if p := x.failed.Load(); p != nil {
			err = *p
		}
	}
	inv.emitRetrying(ctx, c, before, 0, err)
}

func (inv *invocation) emitRetrying(ctx context.Context, c *Call, attempt int32, wait time.Duration, err error) {
	t := inv.event(ToolRetrying, inv.plan.exec.clock.Now(), false)
	t.Call.Priority, t.Call.Attempt = c.Priority, attempt
	t.Queued = inv.first.Queued()
	if t.Err = err; err != nil {
		t.By, _ = whose(err)
	}
	t.RetryAfter = wait
	inv.emit(inv.toSinks(ctx), t)
}

// emitQueued reports that a call waits. If a sink calls Goexit, nobody waits any more.
func (a *admission) emitQueued(ctx context.Context, c *Call, t *admit.Ticket, by string, now int64) {
	normal := false
	defer func() {
		if !normal && stage.Awaited(t) { // else it runs on, or is a submission, which withdraws by itself
			a.at.Stage.Forsake(&t)
		}
	}()
	x := c.inv.event(ToolQueued, now, c.inv.plan.single)
	x.Call.Priority, x.Call.Attempt, x.InputBytes = c.Priority, c.Attempt, 0
	x.By, x.Queued = by, 0 // it may be the event that has told before
	c.inv.emit(c.inv.toSinks(ctx), x)
	normal = true
}

// aside is what few calls have to remember about their attempts.
type aside struct {
	again  atomic.Int64          // until when an upstream asked the latest attempt to wait, plus one; zero if none did
	failed atomic.Pointer[error] // of the attempt that ended last; nil if it did not fail
	late   atomic.Pointer[turn.Queue[*callEvent]]

	partial atomic.Pointer[any]                   // what the tool has reported of its result
	later   [manyAttempts]atomic.Pointer[running] // attempts after the first, by their numbers

	nested blame.Ledger // throttles that calls nested in the attempts have been charged with
}

// remembers is what f remembers, made if need be.
func (f *first) remembers() *aside {
	if x := f.aside.Load(); x != nil {
		return x
	}
	f.aside.CompareAndSwap(nil, new(aside))
	return f.aside.Load()
}

// attemptEnded notes how an attempt ended.
func (f *first) attemptEnded(err error) {
	if err != nil {
		f.remembers().failed.Store(&err)
	} else if x := f.aside.Load(); x != nil {
		x.failed.Store(nil)
	}
	f.retries.Ended()
}

// wrong is what is wrong with e alone: how its kind and its error go together.
func (e *Event) wrong() string {
	switch {
	case e.Kind == ToolCompleted && e.Err != nil:
		return "tool.completed with an error: " + errtext.MessageOf(codeOf(e), e.Err)
	case (e.Kind == ToolFailed || e.Kind == ToolDenied) && e.Err == nil:
		return string(e.Kind) + " without an error"
	case e.Kind == ToolDenied && meanings.Reason(e.Err, uint64(e.CallKey), e.Call.ID) != errtext.Denied:
		return "tool.denied for another reason than ErrDenied: " + errtext.MessageOf(codeOf(e), e.Err)
	}
	return ""
}
