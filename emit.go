package sluice

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// describe makes e an event of inv's, at the instant now. Events are passed by pointer
// on their way to a sink, which gets the one copy.
func (inv *invocation) describe(e *Event, k EventKind, now int64) {
	e.Kind, e.Time = k, inv.plan.exec.clock.time(now)
	spec := &inv.plan.tool.spec
	e.Call.ID, e.Call.Tool, e.Call.Type = inv.id, spec.Name, spec.Type
	e.Call.Priority, e.Call.Attempt, e.Call.Pipeline = inv.priority, atomic.LoadInt32(&inv.attempts), inv.pipeline
	if inv.parent != nil {
		e.ParentID = inv.parent.inv.id
	}
	switch k {
	case ToolStarted:
		e.Queued = time.Duration(atomic.LoadInt64(&inv.totals().queued))
	case ToolCompleted, ToolFailed, ToolDenied:
		sum := inv.totals()
		e.Queued = time.Duration(atomic.LoadInt64(&sum.queued))
		e.Duration = time.Duration(atomic.LoadInt64(&sum.held))
	}
}

// What the emitting of one call's events can be.
const (
	quiet  = iota
	busy   // somebody emits
	behind // and more events wait for them
)

// lateEvent came while another event of its call was being emitted.
type lateEvent struct {
	event    Event
	values   values
	terminal bool
}

// emit gives e to the sinks, after those of the same call that came before it. The first
// terminal event is the last one.
func (inv *invocation) emit(ctx context.Context, e *Event, v values, terminal bool) {
	if inv.plan.alone {
		inv.emitOne(ctx, e, v, terminal)
		return
	}
	for !inv.emitting.CompareAndSwap(quiet, busy) {
		// Somebody else is emitting: leave it to them, unless they are just done.
		late := inv.latecomers()
		late.mu.Lock()
		left := inv.emitting.CompareAndSwap(busy, behind) || inv.emitting.Load() == behind
		if left {
			late.queue = append(late.queue, lateEvent{*e, v, terminal})
		}
		late.mu.Unlock()
		if left {
			return
		}
	}
	inv.emitNext(ctx, e, v, terminal)
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
		inv.emitNext(ctx, &next.event, next.values, next.terminal)
	}
}

// emitNext is emitOne where other events of the call may be waiting.
func (inv *invocation) emitNext(ctx context.Context, e *Event, v values, terminal bool) {
	normal := false
	defer func() {
		if !normal { // a sink called Goexit: the call's other events must still be told
			inv.emitLate(ctx)
		}
	}()
	inv.emitOne(ctx, e, v, terminal)
	normal = true
}

func (inv *invocation) emitOne(ctx context.Context, e *Event, v values, terminal bool) {
	if inv.over {
		return
	}
	inv.over = terminal
	inv.seq++
	e.Seq = inv.seq
	x := inv.plan.exec
	x.deliver(ctx, x.conf.Sink, e, v)
	if s := inv.pipeline.Sink; s != nil {
		x.deliver(ctx, s, e, v)
	}
}

// deliver counts what becomes of an event at a sink.
func (e *Executor) deliver(ctx context.Context, s EventSink, ev *Event, v values) {
	if s == nil {
		return
	}
	switch ok, err := deliverEvent(ctx, s, ev, v); {
	case err != nil:
		e.dropped.Add(1)
	case ok:
		e.delivered.Add(1)
	}
}

// begin is called when the tool's code is about to run. It fails if it must not: the
// attempt's time is over, or it has run already.
func (r *running) begin(ctx context.Context, c *Call) error {
	inv := r.inv
	for x := r; x != nil; x = x.up {
		switch {
		case inv.swap(&x.phase, fresh, begun):
		case !x.ran():
			r.callOff(x)
			return inv.refused(ErrRejected, "", context.Cause(ctx))
		case x.adm.tool != nil:
			return errors.New("sluice: an interceptor inside the gates called next twice: what retries must stand outside them, so that each attempt is admitted")
		}
	}
	if inv.mark(hasRun)&isOver != 0 {
		r.callOff(nil)
		return inv.refused(ErrRejected, "", errors.New("sluice: the call is over: an interceptor answered before its next had ended"))
	}
	if inv.loud {
		var ev Event
		inv.describe(&ev, ToolStarted, r.granted)
		ev.Call, ev.Call.Input, ev.Call.inv, ev.Call.run = *c, nil, nil, nil
		inv.emit(ctx, &ev, values{input: c.Input}, false)
	}
	return nil
}

// callOff takes back that r, and what is around it up to x, have begun.
func (r *running) callOff(x *running) {
	for ; r != x; r = r.up {
		atomic.CompareAndSwapInt32(&r.phase, begun, calledOff)
	}
}
