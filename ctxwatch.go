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
		delete(w.byDone, x.done)
		if x.stop() {
			x.exec.helperEnds()
		}
	}
}

func (w *ctxWatches) fire(x *ctxWatch) {
	w.mu.Lock()
	calls := x.calls
	x.calls = nil
	if w.byDone[x.done] == x {
		delete(w.byDone, x.done)
	}
	for _, c := range calls {
		c.watch, c.inv.fired = nil, true
	}
	w.mu.Unlock()
	for _, c := range calls {
		x.exec.finish(task{c, gaveUp})
	}
	x.exec.helperEnds()
}
