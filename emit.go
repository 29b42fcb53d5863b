package sluice

import (
	"context"
	"errors"
	"time"
)

// telling is an event of a call on its way to the sinks, each of which gets a copy.
type telling struct {
	Event
	values
	last bool // it is a terminal event
}

// describe makes t an event of inv's, at the instant now.
func (inv *invocation) describe(t *telling, k EventKind, now int64) {
	t.Kind, t.Time = k, inv.plan.exec.clock.time(now)
	if p := inv.parent.Load(); p != nil {
		t.ParentID = p.inv.id
	}
}

// of says what attempt t is about, without what only the library may see of it.
func (t *telling) of(c *Call) {
	t.Call.ID, t.Call.Tool, t.Call.Type = c.ID, c.Tool, c.Type
	t.Call.Priority, t.Call.Attempt, t.Call.Pipeline = c.Priority, c.Attempt, c.Pipeline
	t.input = c.Input
}

// What the emitting of one call's events can be.
const (
	quiet  = iota
	busy   // somebody emits
	behind // and more events wait for them
)

// emit gives t to the sinks, after the events of the same call that came before it. The
// first terminal event is the last one, and is out when emit returns.
func (inv *invocation) emit(ctx context.Context, t *telling) {
	if inv.plan.alone {
		inv.emitOne(ctx, t)
	} else {
		inv.emitInTurn(ctx, t)
	}
}

func (inv *invocation) emitInTurn(ctx context.Context, t *telling) {
	for !inv.emitting.CompareAndSwap(quiet, busy) {
		// Somebody else is emitting: leave it to them, unless they are just done.
		late := inv.latecomers()
		late.mu.Lock()
		left := inv.emitting.CompareAndSwap(busy, behind) || inv.emitting.Load() == behind
		if left {
			late.queue = append(late.queue, *t)
			if t.last {
				late.last = make(chan struct{})
			}
		}
		last := late.last
		late.mu.Unlock()
		if left {
			if t.last {
				<-last
			}
			return
		}
	}
	inv.emitNext(ctx, t)
	inv.emitLate(ctx)
}

func (inv *invocation) latecomers() *lateEvents {
	if l := inv.late.Load(); l != nil {
		return l
	}
	inv.late.CompareAndSwap(nil, new(lateEvents))
	return inv.late.Load()
}

// emitLate gives the sinks what came meanwhile, and ends the emitting.
func (inv *invocation) emitLate(ctx context.Context) {
	for !inv.emitting.CompareAndSwap(busy, quiet) {
		late := inv.latecomers()
		late.mu.Lock()
		next := late.queue[0]
		if late.queue = late.queue[1:]; len(late.queue) == 0 {
			inv.emitting.Store(busy)
		}
		late.mu.Unlock()
		inv.emitLast(ctx, &next, late)
	}
}

// emitLast is emitNext for an event whose emitter waits for it if it is the last.
func (inv *invocation) emitLast(ctx context.Context, t *telling, late *lateEvents) {
	if t.last {
		defer close(late.last)
	}
	inv.emitNext(ctx, t)
}

// emitNext is emitOne where other events of the call may be waiting.
func (inv *invocation) emitNext(ctx context.Context, t *telling) {
	normal := false
	defer func() {
		if !normal { // a sink called Goexit: the call's other events must still be told
			inv.emitLate(ctx)
		}
	}()
	inv.emitOne(ctx, t)
	normal = true
}

func (inv *invocation) emitOne(ctx context.Context, t *telling) {
	if inv.over {
		return
	}
	inv.over = t.last
	inv.seq++
	t.Seq = inv.seq
	x := inv.plan.exec
	own, run := x.conf.Sink, inv.pipeline.Sink
	if t.last && run != nil { // also if the other one calls Goexit
		defer x.deliver(ctx, run, &t.Event, &t.values)
		run = nil
	}
	if own != nil {
		x.deliver(ctx, own, &t.Event, &t.values)
	}
	if run != nil {
		x.deliver(ctx, run, &t.Event, &t.values)
	}
}

// deliver counts what becomes of an event at a sink.
func (e *Executor) deliver(ctx context.Context, s EventSink, ev *Event, v *values) {
	switch ok, err := deliverEvent(ctx, s, ev, v); {
	case ok:
		e.delivered.Add(1)
	case err != nil:
		e.dropped.Add(1)
	}
}

// begin is called when the tool's code is about to run. It fails if it must not: the
// attempt is over, or it has run already.
func (r *running) begin(ctx context.Context) error {
	if err := r.enterCode(ctx); err != nil {
		return err
	}
	if r.inv.fate.Or(hasRun)&isOver != 0 {
		r.callOff()
		return r.inv.refused(ErrRejected, "", errors.New("sluice: the call is over: an interceptor answered before its next had ended"))
	}
	return nil
}

func (r *running) tellStarted(ctx context.Context, c *Call) {
	inv := r.inv
	var t telling
	inv.describe(&t, ToolStarted, r.granted)
	t.of(c)
	t.Queued = time.Duration(inv.totals().queued.Load())
	inv.emit(ctx, &t)
}
