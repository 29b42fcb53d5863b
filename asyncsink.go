package sluice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
)

const (
	defaultAsyncSize = 1000
	maxAsyncSize     = 1 << 24
)

var (
	errEventDropped = errors.New("sluice: event dropped: the queue of the AsyncSink is full")
	errSinkClosed   = errors.New("sluice: event dropped: the AsyncSink is closed")
	errSinkExited   = errors.New("sluice: event sink called runtime.Goexit")
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
	sink     EventSink
	payloads payloadSink // sink, if it wants values; else nil
	size     int
	wake     chan struct{} // holds one token at most: only a sleeping worker is sent one
	done     chan struct{} // closed when the worker has ended
	quit     context.Context
	giveUp   context.CancelFunc
	plain    context.Context // the sink's, for calls made with the background context

	mu                 sync.Mutex
	nodes              []asyncNode // nodes[0] is unused, so that 0 means none
	free               int32
	progress, terminal asyncList
	queued             int
	seq                uint64
	worker             uint64 // goroutine id
	asleep             bool
	closing            bool
	busy               bool // an event is in the sink's hands
	lost               bool // it has been counted as dropped
	delivered, failed  uint64
	dropped            uint64
}

// asyncItem is a queued event.
type asyncItem struct {
	ctx   context.Context
	event Event
	later func(context.Context) error // delivers the event with its values; nil if it has none
}

type asyncNode struct {
	asyncItem
	seq  uint64
	next int32
}

type asyncList struct{ head, tail int32 }

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
	a := &AsyncSink{
		sink:  s,
		size:  size,
		wake:  make(chan struct{}, 1),
		done:  make(chan struct{}),
		nodes: make([]asyncNode, 1, min(size, 64)+1),
	}
	if p, ok := payloadSinkOf(s); ok {
		a.payloads = p
	}
	a.quit, a.giveUp = context.WithCancel(context.Background())
	a.plain = a.context(context.Background())
	go a.run()
	return a, nil
}

// Enabled is the sink's.
func (a *AsyncSink) Enabled(k EventKind) bool { return a.sink.Enabled(k) }

// Emit queues e and does not wait. The error says that e itself was dropped, because of
// a full queue or after Close; that an older event gave way to it shows only in Dropped.
// Of values that e holds, only JSON as [WithPayloads] makes it is kept.
func (a *AsyncSink) Emit(ctx context.Context, e Event) error {
	input, value := ownedJSON(e.Call.Input), ownedJSON(e.Result.Value)
	e.withoutValues()
	e.Call.Input, e.Result.Value = input, value
	return a.enqueue(ctx, &e, nil)
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

func (a *AsyncSink) wantsPayloads() bool { return a.payloads != nil }

func (a *AsyncSink) emitPayloads(ctx context.Context, e Event) error {
	later := a.payloads.freeze(e)
	e.withoutValues()
	return a.enqueue(ctx, &e, later)
}

func (a *AsyncSink) freeze(e Event) func(context.Context) error {
	later := a.payloads.freeze(e)
	e.withoutValues()
	return func(ctx context.Context) error { return a.enqueue(ctx, &e, later) }
}

// Delivered counts the events that were given to the sink, those it failed on included.
func (a *AsyncSink) Delivered() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.delivered
}

// Failed counts the delivered events for which the sink returned an error, panicked or
// called runtime.Goexit.
func (a *AsyncSink) Failed() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failed
}

// Dropped counts lost events.
func (a *AsyncSink) Dropped() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.dropped
}

// Close ends intake, delivers what is queued and waits for that until ctx ends. Then the
// rest is counted as dropped, with the event in the sink's hands, and Close returns
// ctx's error; the sink's context ends, and the goroutine ends when the sink returns.
// Once Close has returned, nothing more is given to the sink.
//
// Close may be called more than once and from many goroutines. From inside the sink it
// returns nil at once, and what is queued is delivered after the sink has returned.
func (a *AsyncSink) Close(ctx context.Context) error {
	me := goroutineID()
	a.mu.Lock()
	a.closing = true
	a.rouseLocked()
	inside := a.busy && a.worker == me
	a.mu.Unlock()
	if inside {
		return nil
	}
	select {
	case <-a.done:
		return nil
	default:
	}
	select {
	case <-a.done:
		return nil
	case <-ctx.Done():
	}

	a.mu.Lock()
	rest := a.queued
	a.dropped += uint64(rest)
	a.queued, a.nodes, a.free = 0, a.nodes[:1:1], 0
	a.progress, a.terminal = asyncList{}, asyncList{}
	busy := a.busy
	if busy && !a.lost {
		a.lost = true
		a.dropped++
	}
	a.mu.Unlock()
	a.giveUp()
	if !busy {
		<-a.done // no foreign code runs: the worker only has to notice
		if rest == 0 {
			return nil
		}
	}
	return ctx.Err()
}

// enqueue puts a copy of e into the queue, in place of another event if that is full.
func (a *AsyncSink) enqueue(ctx context.Context, e *Event, later func(context.Context) error) error {
	terminal := isTerminal(e.Kind)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closing {
		a.dropped++
		return errSinkClosed
	}
	var i int32
	switch {
	case a.queued < a.size:
		a.queued++
		i = a.freeLocked()
	case a.progress.head != 0:
		a.dropped++
		i = a.popLocked(&a.progress)
	case terminal:
		a.dropped++
		i = a.popLocked(&a.terminal)
	default:
		a.dropped++
		return errEventDropped
	}
	a.seq++
	n := &a.nodes[i]
	n.ctx, n.event, n.later, n.seq, n.next = ctx, *e, later, a.seq, 0
	list := &a.progress
	if terminal {
		list = &a.terminal
	}
	if list.head == 0 {
		list.head = i
	} else {
		a.nodes[list.tail].next = i
	}
	list.tail = i
	a.rouseLocked()
	return nil
}

// freeLocked is an unused node.
func (a *AsyncSink) freeLocked() int32 {
	if i := a.free; i != 0 {
		a.free = a.nodes[i].next
		return i
	}
	a.nodes = append(a.nodes, asyncNode{})
	return int32(len(a.nodes) - 1)
}

func (a *AsyncSink) popLocked(l *asyncList) int32 {
	i := l.head
	l.head = a.nodes[i].next
	return i
}

// rouseLocked wakes the worker if it sleeps. The channel has room: nobody else sends
// until it sleeps again.
func (a *AsyncSink) rouseLocked() {
	if a.asleep {
		a.asleep = false
		a.wake <- struct{}{}
	}
}

// run delivers until Close. A sink that ends the goroutine ends only that: another
// takes over.
func (a *AsyncSink) run() {
	normal := false
	defer func() {
		if normal {
			a.giveUp()
			close(a.done)
			return
		}
		a.settle(errSinkExited)
		go a.run()
	}()
	me := goroutineID()
	a.mu.Lock()
	a.worker = me
	a.mu.Unlock()
	for {
		it, ok := a.next()
		if !ok {
			break
		}
		a.settle(a.hand(&it))
	}
	normal = true
}

// next waits for the oldest event; false after Close, when none is left.
func (a *AsyncSink) next() (it asyncItem, ok bool) {
	a.mu.Lock()
	for a.queued == 0 {
		if a.closing {
			a.mu.Unlock()
			return asyncItem{}, false
		}
		a.asleep = true
		a.mu.Unlock()
		<-a.wake
		a.mu.Lock()
	}
	defer a.mu.Unlock()
	list := &a.progress
	if t := a.terminal.head; list.head == 0 || t != 0 && a.nodes[t].seq < a.nodes[list.head].seq {
		list = &a.terminal
	}
	i := a.popLocked(list)
	n := &a.nodes[i]
	it = n.asyncItem
	*n = asyncNode{next: a.free}
	a.free = i
	a.queued--
	a.busy = true
	return it, true
}

// hand gives the event to the sink.
func (a *AsyncSink) hand(it *asyncItem) error {
	ctx := a.plain
	if it.ctx != nil && it.ctx != context.Background() {
		ctx = a.context(it.ctx)
	}
	if it.later != nil {
		return guard(ctx, a.sink, it.event.Call.Tool, it.later)
	}
	return pass(ctx, a.sink, it.event)
}

func (a *AsyncSink) settle(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy = false
	if a.lost {
		a.lost = false
		return
	}
	a.delivered++
	if err != nil {
		a.failed++
	}
}

// context is that of the sink for an event of a call with the context ctx.
func (a *AsyncSink) context(ctx context.Context) context.Context {
	return &sinkContext{Context: a.quit, values: context.WithoutCancel(ctx)}
}

// sinkContext ends with the AsyncSink and knows what the call's context knows.
type sinkContext struct {
	context.Context
	values context.Context
}

func (c *sinkContext) Value(key any) any { return c.values.Value(key) }

// goroutineID tells whether Close is called by the sink, that is, whether waiting for
// the sink would be waiting for itself. The number stands in the first line of a stack;
// there is no other way to learn it.
func goroutineID() (id uint64) {
	var buf [40]byte
	s := buf[:runtime.Stack(buf[:], false)]
	s = bytes.TrimPrefix(s, []byte("goroutine "))
	for _, c := range s {
		if c < '0' || c > '9' {
			break
		}
		id = id*10 + uint64(c-'0')
	}
	return id
}
