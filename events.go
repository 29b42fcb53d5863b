package sluice

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/errwalk"
	"github.com/sluice-go/sluice/internal/jsonx"
	"github.com/sluice-go/sluice/internal/payload"
	"github.com/sluice-go/sluice/internal/stage"
	"github.com/sluice-go/sluice/internal/turn"
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
	ToolDenied          EventKind = "tool.denied" // only for ErrDenied; other refusals are ToolFailed without ToolStarted
	BreakerStateChanged EventKind = "breaker.state_changed"
	LimitChanged        EventKind = "limit.changed"
	LimitStalled        EventKind = "limit.stalled" // once: a limit has released nothing for a minute while calls wait
	RateLimitPaused     EventKind = "ratelimit.paused"
	RateLimitDebt       EventKind = "ratelimit.debt" // a report of use was cut: it would have closed the key for over a day
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
	RetryAfter time.Duration // when a retry makes sense, how long a ToolRetrying or a pause is; zero if unknown
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

// inCall reports whether e belongs to a call.
func (e *Event) inCall() bool {
	return e.CallKey != 0 || e.Call.ID != "" || strings.HasPrefix(string(e.Kind), "tool.")
}

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

// eventSchema is raised when a field changes its meaning or goes.
const eventSchema = 1

// MarshalJSON writes one JSON object on one line. A field that has nothing to say is
// left out, except that each event of a call has tool_name, action_id (the call's id),
// pipeline_run_id, request_id (null if there is none) and timestamp (RFC 3339 in UTC,
// nanoseconds); event_id is the call's key, a slash and seq, and no other event of any
// process has it. Durations are in milliseconds; retry_after_ms is rounded up, so that a
// retry is never early.
//
// Control, bidirectional and invisible characters of names and messages are escaped.
// Arguments and results are written only as [WithPayloads] left them.
func (e Event) MarshalJSON() ([]byte, error) {
	return appendEvent(make([]byte, 0, 768), &e), nil
}

// appendEvent writes e without reflection. The order of the fields is fixed.
func appendEvent(b []byte, e *Event) []byte {
	c := &e.Call
	inCall := e.inCall()
	b = jsonx.AppendString(append(b, `{"type":`...), string(e.Kind), maxName)
	if inCall {
		b = append(b, `,"event_id":`...)
		if e.CallKey != 0 {
			b = append(e.CallKey.append(append(b, '"')), '/')
		} else { // made by hand
			b = jsonx.AppendString(b, c.ID, maxName)
			b = append(b[:len(b)-1], '/')
		}
		b = append(strconv.AppendUint(b, uint64(e.Seq), 10), '"')
		b = strconv.AppendUint(append(b, `,"seq":`...), uint64(e.Seq), 10)
	}
	b = strconv.AppendInt(append(b, `,"schema_version":`...), eventSchema, 10)
	b = append(jsonx.AppendTime(append(b, `,"timestamp":"`...), e.Time), '"')
	if inCall {
		b = jsonx.AppendString(append(b, `,"tool_name":`...), c.Tool, maxName)
		b = appendText(b, `,"tool_type":`, c.Type)
		b = jsonx.AppendString(append(b, `,"action_id":`...), c.ID, maxName)
		b = appendKey(b, `,"call_key":"`, e.CallKey)
		b = appendText(b, `,"parent_id":`, e.ParentID)
		b = appendKey(b, `,"parent_key":"`, e.ParentKey)
	} else {
		b = appendText(b, `,"tool_name":`, c.Tool)
	}
	b = appendPipeline(b, c.Pipeline, inCall)
	if inCall {
		if c.Attempt != 0 {
			b = strconv.AppendInt(append(b, `,"attempt":`...), int64(c.Attempt), 10)
		}
		b = strconv.AppendInt(append(b, `,"priority":`...), int64(c.Priority), 10)
	}
	b = appendOutcome(b, e)
	if inCall && e.Elapsed > 0 {
		b = jsonx.AppendMillis(append(b, `,"elapsed_ms":`...), e.Elapsed)
	}
	if e.Queued > 0 || e.Kind == ToolStarted || isTerminal(e.Kind) {
		b = jsonx.AppendMillis(append(b, `,"queue_wait_ms":`...), e.Queued)
	}
	b = appendCount(b, `,"input_bytes":`, e.InputBytes)
	b = appendCount(b, `,"output_bytes":`, e.OutputBytes)
	if e.Err != nil {
		b = appendError(b, e)
	}
	b = appendText(b, `,"by":`, e.By)
	if e.RetryAfter > 0 {
		b = strconv.AppendInt(append(b, `,"retry_after_ms":`...), errtext.CeilMillis(e.RetryAfter), 10)
	}
	b = appendText(b, `,"from":`, e.From)
	b = appendText(b, `,"to":`, e.To)
	b = appendText(b, `,"key":`, e.Key)
	b = appendText(b, `,"actor":`, e.Actor)
	return append(b, '}')
}

// appendOutcome writes what only events of its kind say.
func appendOutcome(b []byte, e *Event) []byte {
	if isTerminal(e.Kind) {
		b = jsonx.AppendMillis(append(b, `,"duration_ms":`...), e.Duration)
	}
	switch e.Kind {
	case ToolInvoked:
		b = appendPayload(append(b, `,"payload_summary":`...), e.Call.Input)
		return appendBehavior(b, e.Call.Pipeline)
	case ToolCompleted:
		return appendOutputSummary(b, e)
	case ToolDenied:
		return appendDenial(b, e)
	}
	return b
}

// appendPipeline writes on whose behalf the call runs.
func appendPipeline(b []byte, p *PipelineContext, inCall bool) []byte {
	if p == nil {
		if inCall {
			b = append(b, `,"pipeline_run_id":null,"request_id":null`...)
		}
		return b
	}
	b = appendID(b, `,"pipeline_run_id":`, p.RunID, inCall)
	b = appendID(b, `,"request_id":`, p.RequestID, inCall)
	b = appendText(b, `,"parent_run_id":`, p.ParentRunID)
	b = appendText(b, `,"session_id":`, p.SessionID)
	b = appendText(b, `,"user_id":`, p.UserID)
	b = appendText(b, `,"org_id":`, p.OrgID)
	b = appendText(b, `,"interaction_id":`, p.InteractionID)
	b = appendText(b, `,"tenant":`, p.tenant())
	b = appendText(b, `,"topology":`, p.Topology)
	return appendText(b, `,"service":`, p.Service)
}

func appendBehavior(b []byte, p *PipelineContext) []byte {
	if p == nil || p.ExecutionMode == "" {
		return append(b, `,"behavior":null`...)
	}
	return appendText(b, `,"behavior":`, p.ExecutionMode)
}

// appendOutputSummary says what kind of result there was. Sluice's tools have no
// artifacts and no undo data; the fields stand for readers that expect them.
func appendOutputSummary(b []byte, e *Event) []byte {
	b = append(b, `,"output_summary":{"success":`...)
	b = strconv.AppendBool(b, e.Err == nil)
	b = append(b, `,"has_data":`...)
	b = strconv.AppendBool(b, e.hasData || e.Result.Value != nil || e.OutputBytes > 0)
	b = append(b, `,"has_error":`...)
	b = strconv.AppendBool(b, e.Err != nil)
	b = append(b, `,"has_artifacts":false,"has_undo_metadata":false},"artifacts_count":0`...)
	if e.Result.Value != nil {
		b = appendPayload(append(b, `,"output":`...), e.Result.Value)
	}
	return b
}

// appendDenial says why a rule refused. Which modes would have been allowed only the
// rule knows.
func appendDenial(b []byte, e *Event) []byte {
	why := ""
	if x, ok := e.Err.(*Error); ok && x != nil && x.Cause != nil && codeOf(&Event{Err: x.Cause}) == errtext.ToolError {
		why = errwalk.Text(x.Cause)
	}
	if why == "" {
		why = string(errtext.Denied)
	}
	b = jsonx.AppendString(append(b, `,"reason":`...), why, maxMessage)
	b = appendBehavior(b, e.Call.Pipeline)
	return append(b, `,"allowed_behaviors":null`...)
}

// appendError says what went wrong, and whether to try again: that makes sense after a
// refusal for a reason that passes, after an upstream's throttle, or if somebody said when.
func appendError(b []byte, e *Event) []byte {
	code := codeOf(e)
	b = append(append(b, `,"error_code":"`...), code...)
	b = append(b, `","error_message":`...)
	b = jsonx.AppendString(b, messageOf(code, e.Err), maxMessage+len("…"))
	b = append(b, `,"retryable":`...)
	return strconv.AppendBool(b, e.Kind == ToolRetrying || e.overload || passes(e.Err, code, e.RetryAfter))
}

// appendPayload writes a value that WithPayloads made: JSON, or a string of cut JSON.
// Anything else is foreign and is not written.
func appendPayload(b []byte, v any) []byte {
	switch v := v.(type) {
	case json.RawMessage:
		if out, ok := payload.AppendJSON(b, v); ok {
			return out
		}
	case string:
		return jsonx.AppendString(b, v, len(v))
	}
	return append(b, "null"...)
}

func appendKey(b []byte, key string, k CallKey) []byte {
	if k == 0 {
		return b
	}
	return append(k.append(append(b, key...)), '"')
}

func appendText(b []byte, key, s string) []byte {
	if s == "" {
		return b
	}
	return jsonx.AppendString(append(b, key...), s, maxName)
}

func appendID(b []byte, key, s string, always bool) []byte {
	if s == "" && always {
		return append(append(b, key...), "null"...)
	}
	return appendText(b, key, s)
}

func appendCount(b []byte, key string, n int) []byte {
	if n <= 0 {
		return b
	}
	return strconv.AppendInt(append(b, key...), int64(n), 10)
}

// callEvent is an event of a call on its way to the sinks, which read it where it stands.
type callEvent struct {
	Event       // as every sink may see it, without values
	full  Event // and with value, if a sink wants that
	value any   // the arguments of a ToolInvoked, the result of a ToolCompleted
	last  bool  // it is a terminal event
	ctx   context.Context
}

// callEvents are reused: no sink keeps one.
var callEvents = sync.Pool{New: func() any { return new(callEvent) }}

// event makes an event of inv's, at the instant now. Who gets it gives it to emit.
func (inv *invocation) event(k EventKind, now int64) *callEvent {
	t := callEvents.Get().(*callEvent)
	t.Kind, t.Time = k, inv.plan.exec.clock.Time(now)
	t.CallKey, t.Elapsed = inv.key, time.Duration(max(0, now-inv.began))
	inv.fill(&t.Call)
	if p := inv.parent.Load(); p != nil {
		t.ParentID, t.ParentKey = p.inv.id, p.inv.key
	}
	return t
}

// of says what attempt t is about. What else an interceptor may have changed of the call,
// such as its id, is not told: an event always tells the call that was invoked.
func (t *callEvent) of(c *Call) {
	t.Call.Priority, t.Call.Attempt = c.Priority, c.Attempt
}

// withValue is t with its value, if it has one and one of the two sinks opted in; else nil.
func (t *callEvent) withValue(a, b EventSink) *Event {
	if t.value == nil {
		return nil
	}
	if _, ok := valueSinkOf(a); !ok {
		if _, ok = valueSinkOf(b); !ok {
			return nil
		}
	}
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
	t.Event, t.value, t.last, t.ctx = Event{}, nil, false, nil
	if t.full.Kind != "" {
		t.full = Event{}
	}
	callEvents.Put(t)
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

// emit gives t to the sinks, after the events of the same call that came before it. The
// first terminal event is the last one, and is out when emit returns.
func (inv *invocation) emit(ctx context.Context, t *callEvent) {
	t.ctx = ctx
	if inv.plan.alone {
		inv.Say(t)
	} else if !turn.Take(&inv.emitting, inv, t, t.last, maxLateEvents) {
		inv.plan.exec.dropped.Add(1)
	}
}

// Say gives t to the sinks, unless the call's last event is out. Its turn has come.
func (inv *invocation) Say(t *callEvent) {
	if !inv.over {
		inv.over = t.last
		inv.seq++
		t.Seq = inv.seq
		inv.deliver(t.ctx, t)
	}
	t.free()
}

// Waiting is where events wait for who emits. Another of the call's attempts does, so there is one.
func (inv *invocation) Waiting() *turn.Queue[*callEvent] {
	x := &inv.first.remembers().late
	if l := x.Load(); l != nil {
		return l
	}
	x.CompareAndSwap(nil, new(turn.Queue[*callEvent]))
	return x.Load()
}

// deliver gives t to the executor's sink and the run's own. If a sink calls Goexit, it does
// not return.
func (inv *invocation) deliver(ctx context.Context, t *callEvent) {
	x := inv.plan.exec
	own := x.conf.Sink
	run := without(inv.pipeline.Sink, own)
	full := t.withValue(own, run)
	if t.last && run != nil { // also if the other one calls Goexit
		defer x.deliver(ctx, run, &t.Event, full)
		run = nil
	}
	if own != nil {
		x.deliver(ctx, own, &t.Event, full)
	}
	if run != nil {
		x.deliver(ctx, run, &t.Event, full)
	}
}

// emitStarted reports that the attempt begins.
func (r *running) emitStarted(ctx context.Context, c *Call) {
	inv := r.inv
	t := inv.event(ToolStarted, r.Granted)
	t.of(c)
	t.Queued = inv.totals().Queued()
	inv.emit(ctx, t)
}

// deliver counts what becomes of an event at a sink.
func (e *Executor) deliver(ctx context.Context, s EventSink, plain, full *Event) {
	switch ok, err := deliver(ctx, s, plain, full); {
	case ok:
		e.delivered.Add(1)
	case err != nil:
		e.dropped.Add(1)
	}
}

// listener is an executor, and what of its sink no listener before it has.
type listener struct {
	exec *Executor
	sink EventSink
}

// Listeners is who is told what happens outside calls: each sink once, of however many of all it
// is.
func (e *inDomain) Listeners(all []stage.Client) (list []stage.Listener) {
	var told []EventSink
	for _, c := range all {
		x := executorOf(c)
		s := x.conf.Sink
		for _, o := range told {
			s = without(s, o)
		}
		if s != nil {
			told, list = append(told, s), append(list, listener{x, s})
		}
	}
	return list
}

// Hear gives the sink what happened outside calls.
func (l listener) Hear(n *stage.Notice) {
	e := noticed(n)
	l.exec.deliver(context.Background(), l.sink, &e, nil)
}

// Missed counts an event at which the sink called Goexit.
func (l listener) Missed() { l.exec.dropped.Add(1) }

// noticed is the event of n.
func noticed(n *stage.Notice) Event {
	e := Event{Time: n.At, By: n.By, Key: n.Key, Actor: n.Actor, From: n.From, To: n.To, RetryAfter: n.After}
	switch n.Kind {
	case stage.Moved:
		e.Kind, e.From, e.To = BreakerStateChanged, breakerState(n.Was).String(), breakerState(n.Is).String()
	case stage.Debt:
		e.Kind = RateLimitDebt
	case stage.Paused:
		e.Kind = RateLimitPaused
	case stage.Changed:
		e.Kind = LimitChanged
	case stage.Stalled:
		e.Kind, e.Err = LimitStalled, &stalled{n.Holding, n.Waiting}
	}
	return e
}

// stalled is what LimitStalled says.
type stalled struct{ holding, waiting int }

func (e *stalled) Error() string {
	return fmt.Sprintf("sluice: %d calls hold it and released nothing for a minute, while %d wait: does a tool call another without the context it was given?", e.holding, e.waiting)
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

// emitRetry reports that the attempt c, which begins, is a retry, unless somebody has: all
// attempts before it have ended.
func (inv *invocation) emitRetry(ctx context.Context, c *Call) {
	before, f := c.Attempt-1, inv.first
	if f.done.Load() < before || !f.toldAfter(before) {
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
	t := inv.event(ToolRetrying, inv.plan.exec.clock.Now())
	t.Call.Priority, t.Call.Attempt = c.Priority, attempt
	t.Queued = inv.first.Queued()
	if t.Err = err; err != nil {
		t.By, _ = whose(err)
	}
	t.RetryAfter = wait
	inv.emit(inv.toSinks(ctx), t)
}

// ReportRetry reports, by [ToolRetrying], that an interceptor outside the gates is about
// to wait, and then to call its next again, since its latest attempt ended with err. Call
// it before the wait, on the Call that the interceptor was given. Without it the event
// comes when next is called again, with a wait of zero.
//
// It does not wait, but for the sinks. After the call has ended, a second time for one
// attempt, and for a Call that no interceptor was given it does nothing. A negative wait
// counts as zero. It is safe for concurrent use.
func (c Call) ReportRetry(ctx context.Context, wait time.Duration, err error) {
	inv := c.inv
	if inv == nil || !inv.loud || inv.first == nil {
		return
	}
	if n := inv.attempts.Begun(); inv.first.toldAfter(n) {
		inv.emitRetrying(ctx, &c, n, max(wait, 0), err)
	}
}
