package sluice

import (
	"context"
	"sync"
)

// ctxWatches are the contexts of an executor's submitted calls that wait. Calls whose
// contexts end together are watched together: a context of the standard library would need
// more for each than the call itself. The zero value watches none.
type ctxWatches struct {
	mu     sync.Mutex
	byDone map[<-chan struct{}]*ctxWatch
}

// ctxWatch is the waiting calls of one Done channel.
type ctxWatch struct {
	done    <-chan struct{}
	stop    func() bool
	futures []*Future
}

// add has f.cancel called, on a goroutine of its own, once f.ctx ends.
func (w *ctxWatches) add(f *Future) {
	done := f.ctx.Done()
	if done == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.byDone[done]
	if x == nil {
		if w.byDone == nil {
			w.byDone = make(map[<-chan struct{}]*ctxWatch)
		}
		x = &ctxWatch{done: done}
		w.byDone[done] = x
		x.stop = context.AfterFunc(f.ctx, func() { w.fire(x) })
	}
	f.watch, f.watched = x, int32(len(x.futures))
	x.futures = append(x.futures, f)
}

// remove takes f out again, if its context has not ended meanwhile.
func (w *ctxWatches) remove(f *Future) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := f.watch
	if x == nil {
		return
	}
	f.watch = nil
	last := len(x.futures) - 1
	moved := x.futures[last]
	x.futures[f.watched], moved.watched = moved, f.watched
	x.futures[last] = nil
	x.futures = x.futures[:last]
	if last == 0 {
		delete(w.byDone, x.done)
		x.stop()
	}
}

func (w *ctxWatches) fire(x *ctxWatch) {
	w.mu.Lock()
	futures := x.futures
	x.futures = nil
	if w.byDone[x.done] == x {
		delete(w.byDone, x.done)
	}
	for _, f := range futures {
		f.watch = nil
	}
	w.mu.Unlock()
	for _, f := range futures {
		go f.cancel()
	}
}
