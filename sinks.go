package sluice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"reflect"
	"slices"
	"sync"

	"github.com/sluice-go/sluice/internal/dropq"
	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/payload"
	"github.com/sluice-go/sluice/internal/trace"
)

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

// NewSlogSink logs events to l, with the constant message "tool event": a call that
// failed or was denied at Warn, one that panicked at Error, everything else at Debug.
// Argument and result values are never logged. A nil l discards. The sink is safe for
// concurrent use and as quick as l's handler.
func NewSlogSink(l *slog.Logger) EventSink {
	if l == nil {
		return slogSink{slog.DiscardHandler}
	}
	return slogSink{l.Handler()}
}

type slogSink struct{ h slog.Handler }

func (s slogSink) Enabled(k EventKind) bool {
	level := slog.LevelDebug
	if k == ToolFailed || k == ToolDenied {
		level = slog.LevelError // as it may be
	}
	return s.h.Enabled(context.Background(), level)
}

func (s slogSink) Emit(ctx context.Context, e *Event) error {
	level := slog.LevelDebug
	if e.Kind == ToolFailed || e.Kind == ToolDenied {
		level = slog.LevelWarn
		if code := codeOf(e); code == errtext.Panic || code == errtext.Goexit {
			level = slog.LevelError
		}
	}
	if !s.h.Enabled(ctx, level) {
		return nil
	}
	r := slog.NewRecord(e.Time, level, "tool event", 0)
	var room [28]slog.Attr
	r.AddAttrs(e.attrs(room[:0])...)
	return s.h.Handle(ctx, r)
}

// NewJSONSink writes each event to w as one JSON object on a line of its own, by one
// call of Write. Writes are serialized, and the calls whose events they are wait for
// them: put a sink with a slow w behind an [AsyncSink]. An error of w is returned, a
// short write is one. A nil w discards.
//
// The sink is safe for concurrent use. w must not emit to the same sink.
func NewJSONSink(w io.Writer) EventSink {
	return &jsonSink{w: w}
}

type jsonSink struct {
	w    io.Writer
	bufs sync.Pool // of *[]byte
	mu   sync.Mutex
}

func (s *jsonSink) Enabled(EventKind) bool { return s.w != nil }

func (s *jsonSink) Emit(_ context.Context, e *Event) error {
	if s.w == nil {
		return nil
	}
	buf, _ := s.bufs.Get().(*[]byte)
	if buf == nil {
		buf = new(make([]byte, 0, 1024))
	}
	// Errors are formatted by code of their own, so before the lock.
	*buf = append(appendEvent((*buf)[:0], e), '\n')
	err := s.write(*buf)
	if cap(*buf) <= 64<<10 {
		s.bufs.Put(buf)
	}
	return err
}

func (s *jsonSink) write(line []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.w.Write(line)
	if err == nil && n < len(line) {
		err = io.ErrShortWrite
	}
	return err
}

// MultiSink emits to each of sinks, in their order. One that fails or panics does not
// keep the event from the others; Emit returns all their errors, joined. Each is asked
// whether it is Enabled, and only those made by [WithPayloads] are shown values. Nils are
// left out, and so is a sink that is listed already; without sinks it discards. It is safe
// for concurrent use if they are.
func MultiSink(sinks ...EventSink) EventSink {
	m := new(multiSink)
	for _, s := range sinks {
		for s := range parts(s) {
			m.add(s)
		}
	}
	return m
}

// parts is what s consists of: the sinks of a MultiSink, else s; nothing if it is nil.
func parts(s EventSink) iter.Seq[EventSink] {
	return func(yield func(EventSink) bool) {
		switch m := s.(type) {
		case nil:
		case *multiSink:
			for _, s := range m.sinks {
				if !yield(s) {
					return
				}
			}
		default:
			yield(s)
		}
	}
}

// has reports whether s is part of list.
func has(list, s EventSink) bool {
	for x := range parts(list) {
		if sameSink(x, s) {
			return true
		}
	}
	return false
}

// sameSink reports whether a and b are one sink, as far as they can be compared.
func sameSink(a, b EventSink) bool {
	return reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.ValueOf(a).Comparable() && a == b
}

// without is s without what is part of other too, which gets each event already; nil if
// nothing is left.
func without(s, other EventSink) EventSink {
	if s == nil || other == nil {
		return s
	}
	m, isMulti := s.(*multiSink)
	if !isMulti {
		if has(other, s) {
			return nil
		}
		return s
	}
	if !slices.ContainsFunc(m.sinks, func(x EventSink) bool { return has(other, x) }) {
		return s
	}
	left := new(multiSink)
	for _, x := range m.sinks {
		if !has(other, x) {
			left.add(x)
		}
	}
	if left.sinks == nil {
		return nil
	}
	return left
}

type multiSink struct {
	sinks []EventSink
	wants bool // values
}

func (m *multiSink) add(s EventSink) {
	if has(m, s) {
		return
	}
	m.sinks = append(m.sinks, s)
	if _, ok := valueSinkOf(s); ok {
		m.wants = true
	}
}

// Enabled is true if any sink is. One that panics is taken to be, so that Emit is tried
// and reports it.
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

func (m *multiSink) freeze(plain, full *Event) func(context.Context) error {
	e := *plain
	frozen := make([]func(context.Context) error, len(m.sinks))
	for i, s := range m.sinks {
		frozen[i] = freezeFor(s, &e, full)
	}
	return func(ctx context.Context) error {
		var errs []error
		for i, s := range m.sinks {
			if err := deliverFrozen(ctx, s, e.Call.Tool, frozen[i]); err != nil {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	}
}

// freezeFor is freeze for any sink. A panic is reported when the event is delivered, as any
// other of the sink's.
func freezeFor(s EventSink, plain, full *Event) (emit func(context.Context) error) {
	v, ok := valueSinkOf(s)
	if !ok {
		return func(ctx context.Context) error { _, err := deliver(ctx, s, plain, nil); return err }
	}
	defer func() {
		if x := recover(); x != nil {
			err := newSinkPanic(s, plain.Call.Tool, x)
			emit = func(context.Context) error { return err }
		}
	}()
	if !s.Enabled(plain.Kind) {
		return func(context.Context) error { return nil }
	}
	return v.freeze(plain, full)
}

// deliverFrozen calls emit, which gives a frozen event of a tool to s, and makes its panic an
// error.
func deliverFrozen(ctx context.Context, s EventSink, tool string, emit func(context.Context) error) (err error) {
	defer func() {
		if x := recover(); x != nil {
			err = newSinkPanic(s, tool, x)
		}
	}()
	return emit(ctx)
}

// WithPayloads opts s in to argument and result values. They arrive as copies that share
// nothing with the call: Call.Input of ToolInvoked and Result.Value of ToolCompleted are
// a [json.RawMessage], or, where the JSON had to be
// cut, a string that ends in "…[truncated]". Each holds at most max bytes of JSON before
// such a mark; max below 1 means 4,096. Deeper than 64 levels it ends in "…[too deep]";
// a cycle ends so too.
//
// The value of a field whose name is in redact, or ends in a usual name of a secret
// (password, secret, token, authorization, apikey, accesskey, privatekey, cookie, …), is
// replaced by "[redacted]" at any depth, in structs, maps with keys of any type and raw
// JSON. Case, "_", "-", "." and blanks of names do not matter. Only names are looked at: a
// secret inside a text, or under another name, is shown. Raw JSON that is broken ends at its
// first secret, since nobody knows where that ends; a document of more than 64 KiB and 16
// times max is read no further to find out.
//
// The work is bounded by max, not by the size of the value, except in values with a
// MarshalJSON or MarshalText method of their own; these are called only if they are
// small, and may panic. Values are read on the goroutine of the call, so nobody else may
// write to them meanwhile. The sink is as safe for concurrent
// use as s.
func WithPayloads(s EventSink, max int, redact ...string) EventSink {
	return &payloadFilter{next: s, filter: payload.New(max, redact)}
}

// payloadFilter replaces the values of events by bounded copies.
type payloadFilter struct {
	next   EventSink // nil discards
	filter *payload.Filter
}

func (p *payloadFilter) Enabled(k EventKind) bool { return p.next != nil && p.next.Enabled(k) }

func (p *payloadFilter) Emit(ctx context.Context, e *Event) error {
	if p.next == nil {
		return nil
	}
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

func (p *payloadFilter) wantsValues() bool { return p.next != nil }

func (p *payloadFilter) emitBoth(ctx context.Context, _, full *Event) error { return p.Emit(ctx, full) }

func (p *payloadFilter) freeze(_, full *Event) func(context.Context) error {
	e := *full
	p.replace(&e)
	return func(ctx context.Context) error { return p.next.Emit(ctx, &e) }
}

// replace makes bounded copies of the values that an event like e is about, and takes others
// away.
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

const (
	defaultAsyncSize = 1000
	maxAsyncSize     = 1 << 24
)

var (
	errEventDropped = errors.New("sluice: event dropped: the queue of the AsyncSink is full")
	errSinkClosed   = errors.New("sluice: event dropped: the AsyncSink is closed")
)

// AsyncSink is a bounded queue before a sink, for one that may be slow, block, fail or
// panic. Emit never waits for it. Make one with [NewAsyncSink]; the zero value is not
// usable. It is safe for concurrent use, also by the sink behind it.
//
// Events come out in the order they went in. When the queue is full, the oldest event
// that does not end a call (the new one included) is dropped; only if there is none, the
// oldest that does. Every event is counted once: it is delivered, or dropped, or still
// in the queue or in the sink's hands.
//
// Values that [WithPayloads] asks for are copied by Emit, the rest of an event (such as
// its Err) is kept as it is until delivered. The sink's context carries the values of the
// call's, ends when Close gives up, and does not end with the call.
type AsyncSink struct {
	sink   EventSink
	values valueSink // sink, if it wants values; else nil
	queue  *dropq.Queue[queuedEvent]
}

// queuedEvent is an event on its way to the sink.
type queuedEvent struct {
	ctx   context.Context
	event Event
	later func(context.Context) error // delivers the event with its values; nil if it has none
}

// NewAsyncSink starts the one goroutine that delivers to s; [AsyncSink.Close] ends it.
// size is how many events may wait; zero means 1,000. It is an error if s is nil or size
// is negative or larger than 1<<24. Enabled is passed on to s on the goroutine of the
// call, so that it must be quick even here.
func NewAsyncSink(s EventSink, size int) (*AsyncSink, error) {
	if s == nil {
		return nil, errors.New("sluice: NewAsyncSink: s is nil: must be an EventSink")
	}
	if size < 0 || size > maxAsyncSize {
		return nil, fmt.Errorf("sluice: NewAsyncSink: size is %d: must be zero (1,000) or from 1 to %d", size, maxAsyncSize)
	}
	if size == 0 {
		size = defaultAsyncSize
	}
	a := &AsyncSink{sink: s}
	if v, ok := valueSinkOf(s); ok {
		a.values = v
	}
	a.queue = dropq.New(size, a.take)
	return a, nil
}

// Enabled is the sink's.
func (a *AsyncSink) Enabled(k EventKind) bool { return a.sink.Enabled(k) }

// Emit queues e and does not wait. The error says that e itself was dropped, because of
// a full queue or after Close; that an older event gave way to it shows only in Dropped.
// Of values that e holds, only JSON as [WithPayloads] makes it is kept.
func (a *AsyncSink) Emit(ctx context.Context, e *Event) error {
	x := queuedEvent{ctx, *e, nil}
	x.event.hasData = e.hasData || e.Result.Value != nil
	x.event.Call.Input, x.event.Result.Value = ownedJSON(e.Call.Input), ownedJSON(e.Result.Value)
	return a.put(&x)
}

// ownedJSON is a copy of v if it is JSON or text, else nil.
func ownedJSON(v any) any {
	switch v := v.(type) {
	case json.RawMessage:
		return json.RawMessage(bytes.Clone(v))
	case string:
		return v
	}
	return nil
}

func (a *AsyncSink) wantsValues() bool { return a.values != nil }

func (a *AsyncSink) emitBoth(ctx context.Context, plain, full *Event) error {
	return a.put(&queuedEvent{ctx, *plain, a.values.freeze(plain, full)})
}

func (a *AsyncSink) freeze(plain, full *Event) func(context.Context) error {
	e, later := *plain, a.values.freeze(plain, full)
	return func(ctx context.Context) error { return a.put(&queuedEvent{ctx, e, later}) }
}

// put queues x.
func (a *AsyncSink) put(x *queuedEvent) error {
	switch a.queue.Put(x, isTerminal(x.event.Kind)) {
	case dropq.ErrFull:
		return errEventDropped
	case dropq.ErrClosed:
		return errSinkClosed
	}
	return nil
}

// take gives x to the sink.
func (a *AsyncSink) take(x *queuedEvent) error {
	ctx := a.queue.Context(x.ctx)
	if x.later != nil {
		return deliverFrozen(ctx, a.sink, x.event.Call.Tool, x.later)
	}
	_, err := deliver(ctx, a.sink, &x.event, nil)
	return err
}

// Delivered counts the events that were given to the sink, those it failed on included.
func (a *AsyncSink) Delivered() uint64 { return a.queue.Counts().Taken }

// Failed counts the delivered events for which the sink returned an error, panicked or
// called runtime.Goexit.
func (a *AsyncSink) Failed() uint64 { return a.queue.Counts().Failed }

// Dropped counts lost events.
func (a *AsyncSink) Dropped() uint64 { return a.queue.Counts().Lost }

// Close ends intake, delivers what is queued and waits for that until ctx ends. Then the
// rest is counted as dropped, with the event in the sink's hands, and Close returns
// ctx's error; the sink's context ends, and the goroutine ends when the sink returns.
// Once Close has returned, nothing more is given to the sink.
//
// Close may be called more than once and from many goroutines. The sink itself must call it
// with the context that it was given, or one made of it, since it would wait for itself:
// with that Close returns nil at once, and what is queued is delivered after the sink has
// returned.
func (a *AsyncSink) Close(ctx context.Context) error { return a.queue.Close(ctx) }

// Recorder is an [EventSink] for tests: it keeps every event, and checks them. After a
// million events Emit refuses more, and Check says so. The zero value is ready to use, a
// nil Recorder discards, and all methods are safe for concurrent use. To see values, record
// through [WithPayloads].
type Recorder struct {
	mu     sync.Mutex
	events []Event
	lost   int
}

const (
	maxRecorded = 1_000_000
	maxBroken   = 20 // broken promises that Check lists
)

// NewRecorder returns an empty Recorder.
func NewRecorder() *Recorder { return new(Recorder) }

// Enabled is true for every kind.
func (r *Recorder) Enabled(EventKind) bool { return r != nil }

// Emit keeps a copy of e; the error says that there are too many.
func (r *Recorder) Emit(_ context.Context, e *Event) error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.events) >= maxRecorded {
		r.lost++
		return fmt.Errorf("sluice: the Recorder has %d events already: it keeps no more", maxRecorded)
	}
	r.events = append(r.events, *e)
	return nil
}

// Events returns a copy of the events in the order they came; if tools are named, only
// those of calls of these.
func (r *Recorder) Events(tools ...string) []Event {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(tools) == 0 {
		return slices.Clone(r.events)
	}
	var found []Event
	for _, e := range r.events {
		if slices.Contains(tools, e.Call.Tool) {
			found = append(found, e)
		}
	}
	return found
}

// Trace is the story of each call, in the order of their first events:
//
//	search: invoked started completed; fetch: invoked failed
//
// Events outside calls are left out.
func (r *Recorder) Trace() string { return trace.Story(r.calls()) }

// Check reports broken promises about the calls seen so far, each of which must have
// ended: tool.invoked comes first and once, exactly one of tool.completed, tool.failed
// and tool.denied comes last, tool.started at most once per attempt; Seq counts from 1
// without gaps; all are of one tool and id; a call completed if and only if it has no
// error, and was denied only with [ErrDenied]. Calls are told apart by their keys, and
// events made by hand, which have none, by the ids of run and call. The error has a line
// for each, 20 at most.
func (r *Recorder) Check() error {
	var errs []error
	lines, more := trace.Broken(r.calls(), maxBroken)
	for _, line := range lines {
		errs = append(errs, errors.New("sluice: "+line))
	}
	if r != nil {
		r.mu.Lock()
		if r.lost > 0 {
			errs = append(errs, fmt.Errorf("sluice: %d events came after the first %d and were not kept", r.lost, maxRecorded))
		}
		r.mu.Unlock()
	}
	if more > 0 {
		errs = append(errs, fmt.Errorf("sluice: and %d more", more))
	}
	return errors.Join(errs...)
}

// calls sorts the events of calls by call.
func (r *Recorder) calls() []*trace.Call {
	var list []trace.Event
	for _, e := range r.Events() {
		if !e.inCall() {
			continue
		}
		x := trace.Event{Kind: string(e.Kind), Key: uint64(e.CallKey), ID: e.Call.ID, Tool: e.Call.Tool,
			Seq: e.Seq, Attempt: e.Call.Attempt, Wrong: e.wrong()}
		if e.Call.Pipeline != nil {
			x.Run = e.Call.Pipeline.RunID
		}
		switch e.Kind {
		case ToolInvoked:
			x.Step = trace.Invoked
		case ToolStarted:
			x.Step = trace.Started
		case ToolCompleted, ToolFailed, ToolDenied:
			x.Step = trace.Ended
		}
		list = append(list, x)
	}
	return trace.Calls(list)
}

// wrong is what is wrong with e alone: how its kind and its error go together.
func (e *Event) wrong() string {
	switch {
	case e.Kind == ToolCompleted && e.Err != nil:
		return "tool.completed with an error: " + messageOf(codeOf(e), e.Err)
	case (e.Kind == ToolFailed || e.Kind == ToolDenied) && e.Err == nil:
		return string(e.Kind) + " without an error"
	case e.Kind == ToolDenied && codeOf(e) != errtext.Denied:
		return "tool.denied for another reason than ErrDenied: " + messageOf(codeOf(e), e.Err)
	}
	return ""
}
