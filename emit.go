package sluice

import (
	"context"
	"errors"
	"sync"
	"time"
)

// callEvent is an event of a call on its way to the sinks, which read it where it stands.
type callEvent struct {
	Event       // as every sink may see it, without values
	full  Event // and with value, if a sink wants that
	value any   // the arguments of a ToolInvoked, the result of a ToolCompleted
	last  bool  // it is a terminal event
}

// callEvents are reused: no sink keeps one.
var callEvents = sync.Pool{New: func() any { return new(callEvent) }}

// event makes an event of inv's, at the instant now. Who gets it gives it to emit.
func (inv *invocation) event(k EventKind, now int64) *callEvent {
	t := callEvents.Get().(*callEvent)
	t.Kind, t.Time = k, inv.plan.exec.clock.Time(now)
	t.CallKey, t.Elapsed = inv.key, time.Duration(max(0, now-inv.began))
	inv.fill(&t.Call)
	if p := inv.parent.Load(); p != nil {
		t.ParentID, t.ParentKey = p.inv.id, p.inv.key
	}
	return t
}

// of says what attempt t is about. What else an interceptor may have changed of the call,
// such as its id, is not told: an event always tells the call that was invoked.
func (t *callEvent) of(c *Call) {
	t.Call.Priority, t.Call.Attempt = c.Priority, c.Attempt
}

// withValue is t with its value, if it has one and one of the two sinks opted in; else nil.
func (t *callEvent) withValue(a, b EventSink) *Event {
	if t.value == nil {
		return nil
	}
	if _, ok := valueSinkOf(a); !ok {
		if _, ok = valueSinkOf(b); !ok {
			return nil
		}
	}
	t.full = t.Event
	if t.Kind == ToolInvoked {
		t.full.Call.Input = t.value
	} else {
		t.full.Result.Value = t.value
	}
	return &t.full
}

// free lets t be used again.
func (t *callEvent) free() {
	t.Event, t.value, t.last = Event{}, nil, false
	if t.full.Kind != "" {
		t.full = Event{}
	}
	callEvents.Put(t)
}

// throttled notes that an upstream asked the attempt to wait for d, or to slow down.
func (r *running) throttled(d time.Duration) {
	until := r.inv.plan.exec.clock.Now() + int64(min(d, maxPause)) + 1
	again := &r.inv.first.remembers().again
	for was := again.Load(); was < until && !again.CompareAndSwap(was, until); was = again.Load() {
	}
}

// throttled says when to try again what met a throttle.
func (t *callEvent) throttled(sum *first, now int64) {
	x := sum.aside.Load()
	if x == nil {
		return
	}
	if until := x.again.Load(); until != 0 {
		t.overload = true
		t.RetryAfter = max(t.RetryAfter, time.Duration(until-1-now))
	}
}

// attemptEnded notes how an attempt ended.
func (f *first) attemptEnded(err error) {
	if err != nil {
		f.remembers().failed.Store(&err)
	} else if x := f.aside.Load(); x != nil {
		x.failed.Store(nil)
	}
	f.done.Add(1)
}

// toldAfter notes that a retry is told after n attempts, and reports whether none had been.
func (f *first) toldAfter(n int32) bool {
	for was := f.retried.Load(); was < n; was = f.retried.Load() {
		if f.retried.CompareAndSwap(was, n) {
			return true
		}
	}
	return false
}

// tellRetry reports that the attempt c, which begins, is a retry, unless somebody has: all
// attempts before it have ended.
func (inv *invocation) tellRetry(ctx context.Context, c *Call) {
	before, f := c.Attempt-1, inv.first
	if before < 1 || f.done.Load() < before || !f.toldAfter(before) {
		return
	}
	var err error
	if x := f.aside.Load(); x != nil {
		if p := x.failed.Load(); p != nil {
			err = *p
		}
	}
	inv.tellRetrying(ctx, c, before, 0, err)
}

func (inv *invocation) tellRetrying(ctx context.Context, c *Call, attempt int32, wait time.Duration, err error) {
	t := inv.event(ToolRetrying, inv.plan.exec.clock.Now())
	t.Call.Priority, t.Call.Attempt = c.Priority, attempt
	t.Queued = time.Duration(inv.first.queued.Load())
	if t.Err = err; err != nil {
		t.By, _ = whose(err)
	}
	t.RetryAfter = wait
	inv.emit(inv.toSinks(ctx), t)
}

// ReportRetry reports, by [ToolRetrying], that an interceptor outside the gates is about
// to wait, and then to call its next again, since its latest attempt ended with err. Call
// it before the wait, on the Call that the interceptor was given. Without it the event
// comes when next is called again, with a wait of zero.
//
// It does not wait, but for the sinks. After the call has ended, a second time for one
// attempt, and for a Call that no interceptor was given it does nothing. A negative wait
// counts as zero. It is safe for concurrent use.
func (c Call) ReportRetry(ctx context.Context, wait time.Duration, err error) {
	inv := c.inv
	if inv == nil || !inv.loud || inv.first == nil {
		return
	}
	if n := inv.attempts(); inv.first.toldAfter(n) {
		inv.tellRetrying(ctx, &c, n, max(wait, 0), err)
	}
}

// What the emitting of one call's events can be.
const (
	quiet  = iota
	busy   // somebody emits
	behind // and more events wait for them
)

// emit gives t to the sinks, after the events of the same call that came before it. The
// first terminal event is the last one, and is out when emit returns.
func (inv *invocation) emit(ctx context.Context, t *callEvent) {
	if inv.plan.alone {
		inv.emitOne(ctx, t)
	} else {
		inv.emitInTurn(ctx, t)
	}
}

func (inv *invocation) emitInTurn(ctx context.Context, t *callEvent) {
	isLast := t.last // once it is in the queue, t is somebody else's
	for !inv.emitting.CompareAndSwap(quiet, busy) {
		// Somebody else is emitting: leave it to them, unless they are just done.
		late := inv.latecomers()
		late.mu.Lock()
		left := inv.emitting.CompareAndSwap(busy, behind) || inv.emitting.Load() == behind
		if left && !isLast && len(late.queue) >= maxLateEvents {
			inv.plan.exec.dropped.Add(1)
		} else if left {
			late.queue = append(late.queue, t)
			if isLast {
				late.last = make(chan struct{})
			}
		}
		last := late.last
		late.mu.Unlock()
		if left {
			if isLast {
				<-last
			}
			return
		}
	}
	inv.emitNext(ctx, t)
	inv.emitLate(ctx)
}

// maxLateEvents bounds the events of one call that wait while a sink blocks another of its
// attempts; terminal events, of which there is one, come on top.
const maxLateEvents = 1000

// latecomers is what waits for who emits. Another of the call's attempts does, so there is one.
func (inv *invocation) latecomers() *lateEvents {
	x := &inv.first.remembers().late
	if l := x.Load(); l != nil {
		return l
	}
	x.CompareAndSwap(nil, new(lateEvents))
	return x.Load()
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
		inv.emitLast(ctx, next, late)
	}
}

// emitLast is emitNext for an event whose emitter waits for it if it is the last.
func (inv *invocation) emitLast(ctx context.Context, t *callEvent, late *lateEvents) {
	if t.last {
		defer close(late.last)
	}
	inv.emitNext(ctx, t)
}

// emitNext is emitOne where other events of the call may be waiting.
func (inv *invocation) emitNext(ctx context.Context, t *callEvent) {
	normal := false
	defer func() {
		if !normal { // a sink called Goexit: the call's other events must still be told
			inv.emitLate(ctx)
		}
	}()
	inv.emitOne(ctx, t)
	normal = true
}

// emitOne gives t to the sinks, unless the call's last event is out.
func (inv *invocation) emitOne(ctx context.Context, t *callEvent) {
	if !inv.over {
		inv.over = t.last
		inv.seq++
		t.Seq = inv.seq
		inv.deliver(ctx, t)
	}
	t.free()
}

// deliver gives t to the executor's sink and the run's own. If a sink calls Goexit, it does
// not return.
func (inv *invocation) deliver(ctx context.Context, t *callEvent) {
	x := inv.plan.exec
	own := x.conf.Sink
	run := without(inv.pipeline.Sink, own)
	full := t.withValue(own, run)
	if t.last && run != nil { // also if the other one calls Goexit
		defer x.deliver(ctx, run, &t.Event, full)
		run = nil
	}
	if own != nil {
		x.deliver(ctx, own, &t.Event, full)
	}
	if run != nil {
		x.deliver(ctx, run, &t.Event, full)
	}
}

// deliver counts what becomes of an event at a sink.
func (e *Executor) deliver(ctx context.Context, s EventSink, plain, full *Event) {
	switch ok, err := deliver(ctx, s, plain, full); {
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
	t := inv.event(ToolStarted, r.granted)
	t.of(c)
	t.Queued = time.Duration(inv.totals().queued.Load())
	inv.emit(ctx, t)
}
