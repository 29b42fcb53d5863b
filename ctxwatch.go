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
	most   int // of those, since there were none
}

// ctxWatch is the waiting calls of one Done channel.
type ctxWatch struct {
	exec  *Executor
	done  <-chan struct{}
	stop  func() bool
	calls []*submission
}

// add has c.cancel called once c.ctx ends.
func (w *ctxWatches) add(c *submission) {
	done := c.ctx.Done()
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
		x = &ctxWatch{exec: c.inv.plan.exec, done: done}
		x.exec.helperStarts() // fire is a goroutine of its own
		x.stop = context.AfterFunc(c.ctx, func() { w.fire(x) })
		w.byDone[done] = x
		w.most = max(w.most, len(w.byDone))
	}
	c.watch, c.watched = x, int32(len(x.calls))
	x.calls = append(x.calls, c)
}

// remove takes c out again, if its context has not ended meanwhile.
func (w *ctxWatches) remove(c *submission) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := c.watch
	if x == nil {
		return
	}
	c.watch = nil
	last := len(x.calls) - 1
	moved := x.calls[last]
	x.calls[c.watched], moved.watched = moved, c.watched
	x.calls[last] = nil
	x.calls = x.calls[:last]
	if last == 0 {
		w.dropLocked(x)
		if x.stop() {
			x.exec.helperEnds()
		}
	}
}

// dropLocked forgets x, if another has not taken its place. A map keeps the room for as many as
// there ever were in it together.
func (w *ctxWatches) dropLocked(x *ctxWatch) {
	if w.byDone[x.done] != x {
		return
	}
	if delete(w.byDone, x.done); len(w.byDone) > 0 {
		return
	}
	if w.most > 1024 {
		w.byDone = nil
	}
	w.most = 0
}

func (w *ctxWatches) fire(x *ctxWatch) {
	w.mu.Lock()
	calls := x.calls
	x.calls = nil
	w.dropLocked(x)
	for _, c := range calls {
		c.watch, c.inv.fired = nil, true
	}
	w.mu.Unlock()
	for _, c := range calls {
		x.exec.finish(task{c, gaveUp})
	}
	x.exec.helperEnds()
}
