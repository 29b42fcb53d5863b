package sluice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sluice-go/sluice/internal/dropq"
)

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
