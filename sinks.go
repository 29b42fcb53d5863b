package sluice

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"

	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/distinct"
	"github.com/sluice-go/sluice/internal/dropq"
	"github.com/sluice-go/sluice/internal/eventtext"
	"github.com/sluice-go/sluice/internal/few"
	"github.com/sluice-go/sluice/internal/payload"
	"github.com/sluice-go/sluice/internal/trace"
)

// EventSink receives events, those of one call in order, the last before the call returns. The
// goroutines of calls run it, many at once, and wait: put a slow sink behind an [AsyncSink]. Errors
// and panics are counted and otherwise ignored; runtime.Goexit ends the goroutine. A sink that an
// executor and a run list, or two executors, gets each event once, unless it is wrapped.
//
// Enabled is asked before each event and must be quick. Emit only reads the event, until it returns;
// whoever keeps it copies *e. Its context may have ended.
type EventSink interface {
	Enabled(k EventKind) bool
	Emit(ctx context.Context, e *Event) error
}

// EventSinkFunc makes a function an [EventSink] for every kind.
type EventSinkFunc func(ctx context.Context, e *Event) error

// Enabled is true.
func (f EventSinkFunc) Enabled(EventKind) bool { return true }

// Emit calls f.
func (f EventSinkFunc) Emit(ctx context.Context, e *Event) error { return f(ctx, e) }

// valueSink is a sink of this package that other sinks may stand behind. It gets two events: plain, for those
// that did not opt in to values, and full, with the caller's values, at which only [WithPayloads] looks. Its
// Emit, in contrast, takes the values of its event as meant to be seen.
type valueSink interface {
	EventSink
	wantsValues() bool                                      // a sink behind this one opted in
	emitBoth(ctx context.Context, plain, full *Event) error // Emit for the two
}

// freeze copies now what a sink of this package, and those behind it, want of the two, and returns what delivers
// the copy later.
func freeze(s valueSink, plain, full *Event) func(context.Context) error {
	switch s := s.(type) {
	case *multiSink:
		e := *plain
		frozen := few.Map(s.sinks, func(x EventSink) func(context.Context) error { return freezeFor(x, &e, full) })
		return func(ctx context.Context) error {
			var errs []error
			for i, x := range s.sinks {
				if err := deliverFrozen(ctx, x, e.Call.Tool, frozen[i]); err != nil {
					errs = append(errs, err)
				}
			}
			return errors.Join(errs...)
		}
	case *payloadFilter:
		e := *full
		s.replace(&e)
		return func(ctx context.Context) error { return s.next.Emit(ctx, &e) }
	case *errorTextFilter:
		return freeze(s.next.(valueSink), withoutErrorText(plain), withoutErrorText(full))
	default:
		a := s.(*AsyncSink)
		e, later := *plain, freeze(a.values, plain, full)
		return func(ctx context.Context) error { return a.put(&queuedEvent{ctx, e, later}) }
	}
}

// NewSlogSink logs events, never values, as "tool event": at Warn if a call failed, was denied or goes on
// abandoned, at Error if it panicked, else at Debug. A nil l discards. It is safe for concurrent use.
func NewSlogSink(l *slog.Logger) EventSink {
	if l == nil {
		return MultiSink()
	}
	return slogSink{eventtext.Log{H: l.Handler()}}
}

type slogSink struct{ log eventtext.Log }

func (s slogSink) Enabled(k EventKind) bool {
	return s.log.Enabled(k == ToolFailed || k == ToolDenied || k == ToolAbandoned)
}

func (s slogSink) Emit(ctx context.Context, e *Event) error {
	var x eventtext.Event
	e.text(&x)
	return s.log.Write(ctx, &x)
}

// NewJSONSink writes each event to w as one JSON object on a line, by one Write at a time, for which
// calls wait. Emit returns w's errors; a short write is one. A nil w discards. It is safe for
// concurrent use; w must not emit to it.
func NewJSONSink(w io.Writer) EventSink {
	if w == nil {
		return MultiSink()
	}
	return &jsonSink{eventtext.Lines{W: w}}
}

type jsonSink struct{ lines eventtext.Lines }

func (s *jsonSink) Enabled(EventKind) bool { return true }

func (s *jsonSink) Emit(_ context.Context, e *Event) error {
	var x eventtext.Event
	e.text(&x)
	return s.lines.Write(&x)
}

// MultiSink delivers to each of sinks that is Enabled, in order, whatever becomes of the others;
// Emit joins their errors. Nils and repetitions are left out; without sinks it discards.
func MultiSink(sinks ...EventSink) EventSink {
	m := new(multiSink)
	for _, s := range sinks {
		m.sinks = distinct.Append(m.sinks, parts(s)...)
	}
	m.wants = slices.ContainsFunc(m.sinks, func(s EventSink) bool { return valueSinkOf(s) != nil })
	return m
}

// parts is what s consists of: the sinks of a MultiSink, else s; nothing if it is nil.
func parts(s EventSink) []EventSink {
	switch m := s.(type) {
	case nil:
		return nil
	case *multiSink:
		return m.sinks
	}
	return []EventSink{s}
}

// without is s without what is part of other too, which gets each event already; nil if nothing is left.
func without(s, other EventSink) EventSink {
	if s == nil || other == nil {
		return s
	}
	list := parts(s)
	switch left := distinct.Without(list, parts(other)); len(left) {
	case len(list):
		return s
	case 0:
		return nil
	default:
		return MultiSink(left...)
	}
}

type multiSink struct {
	sinks []EventSink
	wants bool // values
}

// Enabled is true if any sink is. One that panics is taken to be, so that Emit is tried and reports it.
func (m *multiSink) Enabled(k EventKind) (on bool) {
	defer func() {
		if recover() != nil {
			on = true
		}
	}()
	for _, s := range m.sinks {
		if s.Enabled(k) {
			return true
		}
	}
	return false
}

func (m *multiSink) Emit(ctx context.Context, e *Event) error { return m.emitBoth(ctx, e, nil) }

func (m *multiSink) wantsValues() bool { return m.wants }

func (m *multiSink) emitBoth(ctx context.Context, plain, full *Event) error {
	var errs []error
	for _, s := range m.sinks {
		if _, err := deliver(ctx, s, plain, full); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// freezeFor is freeze for any sink. A panic is reported when the event is delivered, as any other of the sink's.
func freezeFor(s EventSink, plain, full *Event) (emit func(context.Context) error) {
	v := valueSinkOf(s)
	if v == nil {
		return func(ctx context.Context) error { _, err := deliver(ctx, s, plain, nil); return err }
	}
	var err error
	defer func() {
		if catch(s, plain.Call.Tool, recover(), &err); err != nil {
			emit = func(context.Context) error { return err }
		}
	}()
	if !s.Enabled(plain.Kind) {
		return func(context.Context) error { return nil }
	}
	return freeze(v, plain, full)
}

// deliverFrozen calls emit, which gives a frozen event of a tool to s, and makes its panic an error.
func deliverFrozen(ctx context.Context, s EventSink, tool string, emit func(context.Context) error) (err error) {
	defer func() { catch(s, tool, recover(), &err) }()
	return emit(ctx)
}

// PayloadConfig configures [WithPayloads].
type PayloadConfig struct {
	MaxBytes int      // of each value's JSON; zero means 4,096
	Redact   []string // more names of secret fields
}

// WithPayloads opts s in to values: Call.Input of ToolInvoked and Result.Value of ToolCompleted are
// copies, as [encoding/json.RawMessage]; or strings, where JSON ends early: after MaxBytes
// ("…[truncated]"), at 64 levels or a cycle ("…[too deep]"). A nil s discards.
//
// A field whose name is in Redact, or ends in a usual name of a secret (password, token, apikey,
// privatekey, cookie, …), is "[redacted]" at any depth. Case, "_", "-", "." and blanks do not
// matter. Secrets in texts, or under other names, are shown. Broken JSON ends at its first secret.
//
// The goroutine of the call reads the values: nobody may write to them meanwhile. MaxBytes bounds
// the work (16 times that and 64 KiB are read), but for MarshalJSON and MarshalText of small values.
func WithPayloads(s EventSink, c PayloadConfig) (EventSink, error) {
	err := cmp.Or(check.Count("sluice: PayloadConfig.MaxBytes", &c.MaxBytes, 4096, 1<<26),
		payload.Names("sluice: PayloadConfig.Redact", c.Redact))
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		return MultiSink(), nil
	}
	return &payloadFilter{next: s, filter: payload.New(c.MaxBytes, c.Redact)}, nil
}

// payloadFilter replaces the values of events by bounded copies.
type payloadFilter struct {
	next   EventSink
	filter *payload.Filter
}

func (p *payloadFilter) Enabled(k EventKind) bool { return p.next.Enabled(k) }

func (p *payloadFilter) Emit(ctx context.Context, e *Event) error {
	if e.Call.Input == nil && e.Result.Value == nil {
		return p.next.Emit(ctx, e)
	}
	c := filtered.Get().(*Event)
	*c = *e
	p.replace(c)
	err := p.next.Emit(ctx, c)
	*c = Event{}
	filtered.Put(c)
	return err
}

// filtered are events with values replaced, to be used again: no sink keeps one.
var filtered = sync.Pool{New: func() any { return new(Event) }}

func (p *payloadFilter) wantsValues() bool { return true }

func (p *payloadFilter) emitBoth(ctx context.Context, _, full *Event) error { return p.Emit(ctx, full) }

// replace makes bounded copies of the values that an event like e is about, and takes others away.
func (p *payloadFilter) replace(e *Event) {
	input, value := e.Call.Input, e.Result.Value
	e.hasData = e.hasData || value != nil
	e.Call.Input, e.Result.Value = nil, nil
	switch e.Kind {
	case ToolInvoked:
		e.Call.Input = p.filter.Copy(input)
	case ToolCompleted:
		e.Result.Value = p.filter.Copy(value)
	}
}

// WithoutErrorText is s without what tools and interceptors write into errors, which may be an
// argument, an address or a key. Err says its code ([CodeOf]) alone and matches the same reasons; an
// [Error] loses a foreign Cause. It goes around or inside any sink. A nil s discards.
func WithoutErrorText(s EventSink) EventSink {
	if s == nil {
		return MultiSink()
	}
	return &errorTextFilter{s}
}

type errorTextFilter struct{ next EventSink }

func (f *errorTextFilter) Enabled(k EventKind) bool { return f.next.Enabled(k) }

func (f *errorTextFilter) Emit(ctx context.Context, e *Event) error {
	return f.next.Emit(ctx, withoutErrorText(e))
}

func (f *errorTextFilter) wantsValues() bool { return valueSinkOf(f.next) != nil }

func (f *errorTextFilter) emitBoth(ctx context.Context, plain, full *Event) error {
	return f.next.(valueSink).emitBoth(ctx, withoutErrorText(plain), withoutErrorText(full))
}

// withoutErrorText is e, or a copy of it if it has an error.
func withoutErrorText(e *Event) *Event {
	if e.Err == nil {
		return e
	}
	c := *e
	c.Err = withoutText(e)
	return &c
}

// AsyncSinkConfig configures [NewAsyncSink].
type AsyncSinkConfig struct {
	MaxQueue int // events that may wait; zero means 1,000
}

// AsyncSink is a bounded queue before a sink that may be slow, block, fail or panic: Emit never
// waits. Make one with [NewAsyncSink]. It is safe for concurrent use, also by the sink.
//
// Events keep their order. A full queue drops the oldest event that ends no call, the new one
// included; else the oldest. Each event is counted once, as delivered or dropped.
//
// Values that [WithPayloads] asks for are copied by Emit; the rest of an event is kept as it is. The
// sink's context has the values of the call's, and ends when Close gives up, not with the call.
type AsyncSink struct {
	sink   EventSink
	values valueSink // sink, or nil
	queue  *dropq.Queue[queuedEvent]
}

// queuedEvent is an event on its way to the sink.
type queuedEvent struct {
	ctx   context.Context
	event Event
	later func(context.Context) error // delivers the event with its values; nil if it has none
}

// NewAsyncSink starts the one goroutine that delivers to s, which must not be nil;
// [AsyncSink.Close] ends it.
func NewAsyncSink(s EventSink, c AsyncSinkConfig) (*AsyncSink, error) {
	if s == nil {
		return nil, errors.New("sluice: NewAsyncSink: s is nil: must be an EventSink")
	}
	if err := check.Count("sluice: AsyncSinkConfig.MaxQueue", &c.MaxQueue, 1000, 1<<24); err != nil {
		return nil, err
	}
	a := &AsyncSink{sink: s, values: valueSinkOf(s)}
	a.queue = dropq.New(c.MaxQueue, a.deliver)
	return a, nil
}

// Enabled asks the sink.
func (a *AsyncSink) Enabled(k EventKind) bool { return a.sink.Enabled(k) }

// Emit queues e. The error says that e was dropped, by a full queue or after Close. Values that e
// holds are kept if they are JSON as [WithPayloads] makes it.
func (a *AsyncSink) Emit(ctx context.Context, e *Event) error {
	x := queuedEvent{ctx, *e, nil}
	x.event.hasData = e.hasData || e.Result.Value != nil
	x.event.Call.Input, x.event.Result.Value = payload.Keep(e.Call.Input), payload.Keep(e.Result.Value)
	return a.put(&x)
}

func (a *AsyncSink) wantsValues() bool { return a.values != nil }

func (a *AsyncSink) emitBoth(ctx context.Context, plain, full *Event) error {
	return a.put(&queuedEvent{ctx, *plain, freeze(a.values, plain, full)})
}

// put queues x.
func (a *AsyncSink) put(x *queuedEvent) error {
	k := x.event.Kind
	return a.queue.Put(x, k == ToolCompleted || k == ToolFailed || k == ToolDenied)
}

// deliver delivers x to the sink.
func (a *AsyncSink) deliver(x *queuedEvent) error {
	ctx := a.queue.Context(x.ctx)
	if x.later != nil {
		return deliverFrozen(ctx, a.sink, x.event.Call.Tool, x.later)
	}
	_, err := deliver(ctx, a.sink, &x.event, nil)
	return err
}

// Delivered counts delivered events, failed ones too.
func (a *AsyncSink) Delivered() uint64 { return a.queue.Counts().Taken }

// Failed counts errors, panics and runtime.Goexits of the sink.
func (a *AsyncSink) Failed() uint64 { return a.queue.Counts().Failed }

// Dropped counts lost events.
func (a *AsyncSink) Dropped() uint64 { return a.queue.Counts().Lost }

// Close takes no more events and waits until the queued ones are delivered or ctx ends. Then it drops
// the rest, also the one at the sink, ends the sink's context and returns ctx's error. After Close
// nothing is delivered, and the goroutine ends when the sink returns. It may be called again.
//
// From the sink, Close with the sink's context returns nil at once; what is queued is delivered
// after the sink has returned.
func (a *AsyncSink) Close(ctx context.Context) error { return a.queue.Close(ctx) }

// Recorder is an [EventSink] for tests: it keeps events, a million at most, and checks them. The zero
// value is ready, a nil Recorder discards, and all methods are safe for concurrent use.
type Recorder struct{ log trace.Log[Event] }

// Enabled is true.
func (r *Recorder) Enabled(EventKind) bool { return r != nil }

// Emit keeps a copy of e, or fails if there are too many.
func (r *Recorder) Emit(_ context.Context, e *Event) error {
	if r == nil {
		return nil
	}
	return r.log.Keep(e)
}

// Events returns copies, in order; of calls of the named tools only, if any are.
func (r *Recorder) Events(tools ...string) []Event {
	if r == nil {
		return nil
	}
	other := func(e Event) bool { return len(tools) > 0 && !slices.Contains(tools, e.Call.Tool) }
	return slices.DeleteFunc(r.log.Events(), other)
}

// Trace is the story of each call, in the order of their first events:
//
//	search: invoked started completed; fetch: invoked failed
func (r *Recorder) Trace() string { return trace.Story(r.calls()) }

// Check reports broken promises about the calls seen so far, which must have ended: tool.invoked
// first and once, each attempt started and abandoned once at most, one of tool.completed, tool.failed and tool.denied, last;
// Seq without gaps from 1; one tool and id; an error unless completed, [ErrDenied] if denied. Events
// without a key go by run and call id. The error has 20 lines at most, and says if events were lost.
func (r *Recorder) Check() error {
	if r == nil {
		return nil
	}
	return trace.Check(r.calls(), r.log.Lost())
}

// calls sorts the events of calls by call.
func (r *Recorder) calls() []*trace.Call {
	var list []trace.Event
	for _, e := range r.Events() {
		if e.inCall() {
			x := trace.Event{Kind: string(e.Kind), Key: uint64(e.CallKey), ID: e.Call.ID, Tool: e.Call.Tool,
				Seq: e.Seq, Attempt: e.Call.Attempt, Wrong: e.wrong()}
			if e.Call.Pipeline != nil {
				x.Run = e.Call.Pipeline.RunID
			}
			list = append(list, x)
		}
	}
	return trace.Calls(list)
}
