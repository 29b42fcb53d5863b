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

// ctxWatch is the waiting calls of one Done channel. While it is in byDone it has some, and
// has not fired.
type ctxWatch struct {
	exec  *Executor
	done  <-chan struct{}
	stop  func() bool
	fired bool
	calls []*submission
}

// add has c.cancel called once c.ctx ends. Contexts may be anybody's, so none is asked under
// the lock.
func (w *ctxWatches) add(c *submission) {
	ctx, exec := c.ctx, c.inv.plan.exec
	done := ctx.Done()
	if done == nil {
		return
	}
	w.mu.Lock()
	x := w.byDone[done]
	if x != nil {
		x.add(c)
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	x = w.begin(ctx, exec, done)
	w.mu.Lock()
	y := w.byDone[done]
	switch {
	case y != nil: // somebody else has begun meanwhile
		y.add(c)
		w.mu.Unlock()
		x.end()
	case x.fired:
		c.inv.fired = true
		w.mu.Unlock()
		exec.finish(task{c, gaveUp})
	default:
		if w.byDone == nil {
			w.byDone = make(map[<-chan struct{}]*ctxWatch)
		}
		w.byDone[done] = x
		w.most = max(w.most, len(w.byDone))
		x.add(c)
		w.mu.Unlock()
	}
}

// begin watches a context for calls to come.
func (w *ctxWatches) begin(ctx context.Context, exec *Executor, done <-chan struct{}) *ctxWatch {
	x := &ctxWatch{exec: exec, done: done}
	exec.helperStarts() // fire is a goroutine of its own
	normal := false
	defer func() {
		if !normal {
			exec.helperEnds()
		}
	}()
	x.stop = context.AfterFunc(ctx, func() { w.fire(x) })
	normal = true
	return x
}

// end has x not fire any more, unless it does.
func (x *ctxWatch) end() {
	if x.stop() {
		x.exec.helperEnds()
	}
}

// add has x watch c. The watches are locked.
func (x *ctxWatch) add(c *submission) {
	c.watch, c.watched = x, int32(len(x.calls))
	x.calls = append(x.calls, c)
}

// remove takes c out again, if its context has not ended meanwhile.
func (w *ctxWatches) remove(c *submission) {
	w.mu.Lock()
	x := c.watch
	if x == nil {
		w.mu.Unlock()
		return
	}
	c.watch = nil
	last := len(x.calls) - 1
	moved := x.calls[last]
	x.calls[c.watched], moved.watched = moved, c.watched
	x.calls[last] = nil
	x.calls = x.calls[:last]
	if last > 0 {
		w.mu.Unlock()
		return
	}
	w.dropLocked(x)
	w.mu.Unlock()
	x.end()
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
	x.calls, x.fired = nil, true
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
