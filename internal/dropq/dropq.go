// Package dropq is a bounded queue for what may get lost rather than make anybody wait:
// many put items in, one goroutine of the queue's own gives them, in order, to a function
// that may be slow, block, fail or call runtime.Goexit. Each item is counted once: as taken
// when the function has returned, or as lost.
//
// When the queue is full, the oldest item that is not marked as last goes (the new one
// included), and only if there is none the oldest that is.
//
// One mutex guards all; the function runs without it. Whoever puts an item in holds it for
// as long as copying the item takes, and wakes the worker only if that sleeps.
package dropq

import (
	"context"
	"errors"
	"sync"
)

// What became of an item that was not put in.
var (
	ErrFull   = errors.New("sluice: event dropped: the queue of the AsyncSink is full")
	ErrClosed = errors.New("sluice: event dropped: the AsyncSink is closed")
)

// Queue is such a queue. Make one with [New]; it is safe for concurrent use, also by the
// function that takes.
type Queue[T any] struct {
	take   func(*T) error
	size   int
	wake   chan struct{} // holds one token at most: only a sleeping worker is sent one
	done   chan struct{} // closed when the worker has ended
	quit   context.Context
	giveUp context.CancelFunc
	plain  context.Context // Context of the background context

	mu      sync.Mutex
	nodes   []node[T] // nodes[0] is unused, so that 0 means none
	free    int32
	passing list // items not marked as last
	last    list
	queued  int
	seq     uint64
	asleep  bool
	closing bool
	busy    bool // the function has an item
	gone    bool // it has been counted as lost
	counts  Counts
}

// Counts says what became of the items: Taken + Lost + those that the queue or the function
// still has is all of them.
type Counts struct {
	Taken, Failed, Lost uint64 // the failed ones are among those taken
}

type node[T any] struct {
	item T
	seq  uint64
	next int32
}

type list struct{ head, tail int32 }

// New starts the one goroutine that gives items, of which at most size wait, to take;
// [Queue.Close] ends it. An item is take's until take returns. An error or runtime.Goexit
// is counted as a failure; take must not panic.
func New[T any](size int, take func(*T) error) *Queue[T] {
	q := &Queue[T]{
		take:  take,
		size:  size,
		wake:  make(chan struct{}, 1),
		done:  make(chan struct{}),
		nodes: make([]node[T], 1, min(size, 64)+1),
	}
	q.quit, q.giveUp = context.WithCancel(context.Background())
	q.plain = &workContext{q.quit, context.Background(), q}
	go q.run()
	return q
}

// Put puts a copy of *v in, in place of another item if the queue is full, and does not
// wait. The error says that v itself is lost.
func (q *Queue[T]) Put(v *T, last bool) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closing {
		q.counts.Lost++
		return ErrClosed
	}
	var i int32
	switch {
	case q.queued < q.size:
		q.queued++
		i = q.freeLocked()
	case q.passing.head != 0:
		q.counts.Lost++
		i = q.popLocked(&q.passing)
	case last:
		q.counts.Lost++
		i = q.popLocked(&q.last)
	default:
		q.counts.Lost++
		return ErrFull
	}
	q.seq++
	n := &q.nodes[i]
	n.item, n.seq, n.next = *v, q.seq, 0
	l := &q.passing
	if last {
		l = &q.last
	}
	if l.head == 0 {
		l.head = i
	} else {
		q.nodes[l.tail].next = i
	}
	l.tail = i
	q.wakeLocked()
	return nil
}

// freeLocked is an unused node.
func (q *Queue[T]) freeLocked() int32 {
	if i := q.free; i != 0 {
		q.free = q.nodes[i].next
		return i
	}
	q.nodes = append(q.nodes, node[T]{})
	return int32(len(q.nodes) - 1)
}

func (q *Queue[T]) popLocked(l *list) int32 {
	i := l.head
	l.head = q.nodes[i].next
	return i
}

// wakeLocked wakes the worker if it sleeps. The channel has room: nobody else sends until
// it sleeps again.
func (q *Queue[T]) wakeLocked() {
	if q.asleep {
		q.asleep = false
		q.wake <- struct{}{}
	}
}

// Counts is what has become of the items so far.
func (q *Queue[T]) Counts() Counts {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.counts
}

// Close ends intake, has what is queued taken and waits for that until ctx ends. Then the
// rest is counted as lost, with the one that the function has, and Close returns ctx's
// error; the function's context ends, and the goroutine ends when the function returns. Once
// Close has returned, nothing more is taken.
//
// Close may be called more than once and from many goroutines. By the function itself, with
// the context that it was given or one made of it, Close returns nil at once.
func (q *Queue[T]) Close(ctx context.Context) error {
	within := ctx.Value(queueKey{}) == any(q)
	q.mu.Lock()
	q.closing = true
	q.wakeLocked()
	within = within && q.busy
	q.mu.Unlock()
	if within {
		return nil
	}
	select {
	case <-q.done:
		return nil
	default:
	}
	select {
	case <-q.done:
		return nil
	case <-ctx.Done():
	}
	rest, busy := q.abandon()
	if !busy {
		<-q.done // no foreign code runs: the worker only has to notice
		if rest == 0 {
			return nil
		}
	}
	return ctx.Err()
}

// abandon counts as lost what has not been taken.
func (q *Queue[T]) abandon() (rest int, busy bool) {
	defer q.giveUp()
	q.mu.Lock()
	defer q.mu.Unlock()
	rest = q.queued
	q.counts.Lost += uint64(rest)
	q.queued, q.nodes, q.free = 0, q.nodes[:1:1], 0
	q.passing, q.last = list{}, list{}
	if q.busy && !q.gone {
		q.gone = true
		q.counts.Lost++
	}
	return rest, q.busy
}

// run takes until Close. A function that ends the goroutine ends only that: another takes
// over.
func (q *Queue[T]) run() {
	normal := false
	defer func() {
		if normal {
			q.giveUp()
			close(q.done)
			return
		}
		q.taken(true)
		go q.run()
	}()
	var item T
	for q.next(&item) {
		err := q.take(&item)
		q.taken(err != nil)
	}
	normal = true
}

// next waits for the oldest item and moves it to *item; false after Close, when none is
// left.
func (q *Queue[T]) next(item *T) bool {
	q.mu.Lock()
	for q.queued == 0 {
		if q.closing {
			q.mu.Unlock()
			return false
		}
		var none T
		*item = none // what has been taken is not kept
		q.asleep = true
		q.mu.Unlock()
		<-q.wake
		q.mu.Lock()
	}
	defer q.mu.Unlock()
	l := &q.passing
	if i := q.last.head; l.head == 0 || i != 0 && q.nodes[i].seq < q.nodes[l.head].seq {
		l = &q.last
	}
	i := q.popLocked(l)
	n := &q.nodes[i]
	*item = n.item
	*n = node[T]{next: q.free}
	q.free = i
	q.queued--
	q.busy = true
	return true
}

// taken counts the item that the function had.
func (q *Queue[T]) taken(failed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy = false
	if q.gone {
		q.gone = false
		return
	}
	q.counts.Taken++
	if failed {
		q.counts.Failed++
	}
}

// Context is the context for the function that takes what was put in with the context
// from, or nil: it knows what from knows, ends when Close gives up, and does not end with
// from.
func (q *Queue[T]) Context(from context.Context) context.Context {
	if from == nil || from == context.Background() {
		return q.plain
	}
	return &workContext{q.quit, context.WithoutCancel(from), q}
}

type workContext struct {
	context.Context
	values context.Context
	queue  any
}

// queueKey asks a context for the queue that it was made by.
type queueKey struct{}

func (c *workContext) Value(key any) any {
	if _, ok := key.(queueKey); ok {
		return c.queue
	}
	return c.values.Value(key)
}
