// Package ctxwatch watches the contexts of many calls that wait without a goroutine.
//
// The standard library's context.AfterFunc takes more memory for each context than a waiting
// call has. Most calls of one run have one Done channel, though they have contexts of their own
// with values: here those are watched together, by one AfterFunc, and each costs the place of a
// pointer.
//
// A context may be of anybody's making. None is asked under the lock, and if its code panics or
// calls runtime.Goexit, the call of whoever asked is not watched, and nothing is left behind.
//
// What a call is, the package does not know: it keeps a [Place] in each, and tells who made the
// [Set] which calls' contexts have ended. One mutex guards the set and all its places.
package ctxwatch

import (
	"context"
	"sync"
)

// Call is one that can be watched: a pointer to what has a Place.
type Call[C any] interface{ Place() *Place[C] }

// Place is what a watched call keeps for the Set it is in. The zero value is in none.
type Place[C any] struct {
	watch *watch[C] // or nil
	index int32     // in watch.calls
	fired bool
}

// Fired reports whether the context has ended while it was watched, so that the Set's owner is
// told of it, or has been. It is for those who have removed the call, or have never added it, or
// have been told.
func (p *Place[C]) Fired() bool { return p.fired }

// Set is the calls whose contexts are watched. It is safe for concurrent use.
type Set[C Call[C]] struct {
	starts, ends func()
	ended        func(C)

	mu     sync.Mutex
	byDone map[<-chan struct{}]*watch[C]
	most   int // entries of byDone, since it was empty
}

// watch is the calls of one Done channel. While it is in byDone it has some, and has not fired.
type watch[C any] struct {
	done  <-chan struct{}
	stop  func() bool // of the context's AfterFunc; set before others can see the watch
	calls []C
	fired bool
}

// New returns a set of no calls. It tells each call whose context ends to ended, once, on a
// goroutine that is counted in by starts, before the context can start it, and out by ends.
func New[C Call[C]](starts, ends func(), ended func(C)) *Set[C] {
	return &Set[C]{starts: starts, ends: ends, ended: ended}
}

// Add watches ctx for c, which is in no set, until Remove or until ctx ends, at once if it has
// ended. A context that never ends is not watched.
func (s *Set[C]) Add(ctx context.Context, c C) {
	done := ctx.Done()
	if done == nil {
		return
	}
	for {
		if s.join(done, c) {
			return
		}
		w := s.begin(ctx, done)
		if s.open(w, c) {
			return
		}
		s.stop(w) // another began meanwhile: join that
	}
}

// join has c watched with others of its Done channel, if there are any.
func (s *Set[C]) join(done <-chan struct{}, c C) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.byDone[done]
	if w == nil {
		return false
	}
	s.addLocked(w, c)
	return true
}

// begin makes a watch that fires once ctx ends, which may be at once.
func (s *Set[C]) begin(ctx context.Context, done <-chan struct{}) *watch[C] {
	w := &watch[C]{done: done}
	s.starts() // fire is a goroutine of its own
	defer func() {
		if w.stop == nil { // the context panicked or called Goexit: it will not fire
			s.ends()
		}
	}()
	w.stop = context.AfterFunc(ctx, func() { s.fire(w) })
	return w
}

// open puts a new watch into the set, with c as its first call. It fails if another watches that
// Done channel already. If w has fired, so does c.
func (s *Set[C]) open(w *watch[C], c C) bool {
	s.mu.Lock()
	switch {
	case w.fired:
		c.Place().fired = true
		s.mu.Unlock()
		s.ended(c)
		return true
	case s.byDone[w.done] != nil:
		s.mu.Unlock()
		return false
	}
	if s.byDone == nil {
		s.byDone = make(map[<-chan struct{}]*watch[C])
	}
	s.byDone[w.done] = w
	s.most = max(s.most, len(s.byDone))
	s.addLocked(w, c)
	s.mu.Unlock()
	return true
}

// addLocked has w watch for c too.
func (s *Set[C]) addLocked(w *watch[C], c C) {
	p := c.Place()
	p.watch, p.index = w, int32(len(w.calls))
	w.calls = append(w.calls, c)
}

// Remove watches for c no more, if it did. Its context may have ended meanwhile.
func (s *Set[C]) Remove(c C) {
	s.mu.Lock()
	p := c.Place()
	w := p.watch
	if w == nil {
		s.mu.Unlock()
		return
	}
	p.watch = nil
	last := len(w.calls) - 1
	moved := w.calls[last]
	w.calls[p.index], moved.Place().index = moved, p.index
	var none C
	w.calls[last] = none
	w.calls = w.calls[:last]
	if last > 0 {
		s.mu.Unlock()
		return
	}
	s.dropLocked(w)
	s.mu.Unlock()
	s.stop(w)
}

// stop has w, which has no calls, not fire any more, unless it does.
func (s *Set[C]) stop(w *watch[C]) {
	stopped := true // also if code of the context, which is told of it, panics or calls Goexit
	defer func() {
		if stopped {
			s.ends()
		}
	}()
	stopped = w.stop()
}

// dropLocked takes w out of byDone. A map keeps the room for as many as there ever were in it
// together.
func (s *Set[C]) dropLocked(w *watch[C]) {
	if s.byDone[w.done] != w {
		return
	}
	if delete(s.byDone, w.done); len(s.byDone) > 0 {
		return
	}
	if s.most > 1024 {
		s.byDone = nil
	}
	s.most = 0
}

// fire tells of the calls whose context has ended.
func (s *Set[C]) fire(w *watch[C]) {
	s.mu.Lock()
	calls := w.calls
	w.calls, w.fired = nil, true
	s.dropLocked(w)
	for _, c := range calls {
		p := c.Place()
		p.watch, p.fired = nil, true
	}
	s.mu.Unlock()
	for _, c := range calls {
		s.ended(c)
	}
	s.ends()
}
