// Package turn has what several goroutines have to say said one at a time, in the order in which
// they came, by whoever came first: the others leave it to that one and go on. It holds no lock
// while something is said.
package turn

import (
	"sync"
	"sync/atomic"
)

// Line is where they stand. The zero value is empty.
type Line struct{ state atomic.Int32 }

// What a line can be.
const (
	quiet  = iota
	busy   // somebody speaks
	behind // and more waits to be said
)

// Speaker says things.
type Speaker[T any] interface {
	// Say may block. If it calls runtime.Goexit, what waits is said all the same.
	Say(T)
	// Waiting is where things wait that others have left behind: the same each time. It is asked
	// only if there are others.
	Waiting() *Queue[T]
}

// Queue is what waits to be said. The zero value is empty.
type Queue[T any] struct {
	mu   sync.Mutex
	list []waiting[T]
	last chan struct{} // closed when the last thing has been said
}

type waiting[T any] struct {
	x    T
	last bool
}

// Take has s say x after what came before it, and reports whether that was left out since most
// things wait already. The last thing is never left out, and has been said when Take returns: of
// what comes later it is for Say to make nothing.
func Take[T any](l *Line, s Speaker[T], x T, last bool, most int) (ok bool) {
	for !l.state.CompareAndSwap(quiet, busy) {
		q := s.Waiting()
		if left, ok := q.leave(l, x, last, most); left {
			return ok
		}
	}
	say(l, s, x)
	rest(l, s)
	return true
}

// leave leaves x to who speaks, unless that one is just done.
func (q *Queue[T]) leave(l *Line, x T, last bool, most int) (left, ok bool) {
	q.mu.Lock()
	left = l.state.CompareAndSwap(busy, behind) || l.state.Load() == behind
	if ok = left && (last || len(q.list) < most); ok {
		q.list = append(q.list, waiting[T]{x, last})
		if last {
			q.last = make(chan struct{})
		}
	}
	said := q.last
	q.mu.Unlock()
	if ok && last {
		<-said
	}
	return left, ok
}

// rest has everything said that has been left meanwhile, and ends the turn.
func rest[T any](l *Line, s Speaker[T]) {
	for !l.state.CompareAndSwap(busy, quiet) {
		q := s.Waiting()
		q.mu.Lock()
		next := q.list[0]
		q.list[0] = waiting[T]{}
		if q.list = q.list[1:]; len(q.list) == 0 {
			q.list = nil
			l.state.Store(busy)
		}
		q.mu.Unlock()
		q.say(l, s, next)
	}
}

// say has x said, and tells whoever waits for the last thing.
func (q *Queue[T]) say(l *Line, s Speaker[T], x waiting[T]) {
	if x.last {
		defer close(q.last)
	}
	say(l, s, x.x)
}

func say[T any](l *Line, s Speaker[T], x T) {
	normal := false
	defer func() {
		if !normal {
			rest(l, s)
		}
	}()
	s.Say(x)
	normal = true
}
