package sluice

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"reflect"
	"slices"
	"sync"

	"github.com/sluice-go/sluice/internal/errtext"
)

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

// listener is an executor, and what of its sink no listener before it has.
type listener struct {
	exec *Executor
	sink EventSink
}

// listeners is who is told what happens outside calls: each sink once, of however many of
// execs it is.
func listeners(execs []*Executor) (list []listener) {
	for _, x := range execs {
		s := x.conf.Sink
		for _, l := range list {
			s = without(s, l.sink)
		}
		if s != nil {
			list = append(list, listener{x, s})
		}
	}
	return list
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
	frozen := make([]func(context.Context) error, len(m.sinks))
	for i, s := range m.sinks {
		if v, ok := valueSinkOf(s); ok {
			frozen[i] = freezeFor(v, plain, full)
		}
	}
	e := *plain
	return func(ctx context.Context) error {
		var errs []error
		for i, s := range m.sinks {
			var err error
			if frozen[i] != nil {
				err = deliverFrozen(ctx, s, e.Call.Tool, frozen[i])
			} else {
				_, err = deliver(ctx, s, &e, nil)
			}
			if err != nil {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	}
}

// freezeFor is s.freeze if s is interested in the event; its panic is reported when that is
// delivered, as any other sink's.
func freezeFor(s valueSink, plain, full *Event) (emit func(context.Context) error) {
	defer func() {
		if x := recover(); x != nil {
			err := newSinkPanic(s, plain.Call.Tool, x)
			emit = func(context.Context) error { return err }
		}
	}()
	if !s.Enabled(plain.Kind) {
		return func(context.Context) error { return nil }
	}
	return s.freeze(plain, full)
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
