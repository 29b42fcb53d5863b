package sluice

import (
	"context"
	"sync/atomic"

	"github.com/sluice-go/sluice/internal/admit"
)

// Future is the outcome of a submitted call, made by [Executor.Submit]; the zero value
// never comes to one. It is safe for concurrent use.
type Future struct{ out atomic.Pointer[outcome] }

// submission is a submitted call under way. A million of them may wait, so it has nothing
// that a waiting call can do without. The context that a tool gets leads to it, and not to
// its outcome.
type submission struct {
	inv    invocation
	ctx    context.Context
	input  any
	future *Future       // until somebody has ended the call; owned by whoever may
	ticket *admit.Ticket // while it waits; guarded by the stage's lock
	watch  *ctxWatch     // what watches ctx meanwhile, and where; guarded by its executor's

	watched int32
	phase   atomic.Int32 // who starts the goroutine of a call that waited
}

// outcome is how a call ended, if done is closed. It is there once somebody asks for it or
// the call has ended.
type outcome struct {
	done chan struct{}
	res  Result
	err  error
}

// Submit queues a call without a goroutine: one starts when the call does. It does not
// wait. The call ends as [Executor.Invoke] would end it, refusals included; ctx is the
// call's own. While it waits it takes less than 400 bytes. A tool that interceptors go
// around, outside the gates, has its goroutine from the start.
func (e *Executor) Submit(ctx context.Context, r Request) *Future {
	f := new(Future)
	if len(e.outer) > 0 {
		go f.whole(ctx, e, r)
	} else {
		x := &submission{ctx: ctx, future: f}
		x.start(e, &r)
	}
	return f
}

// whole runs the whole chain on a goroutine of its own.
func (f *Future) whole(ctx context.Context, e *Executor, r Request) {
	res, err := Result{}, error(&PanicError{Tool: r.Tool, Goexit: true})
	defer func() { f.finish(res, err) }()
	res, err = e.invoke(ctx, &r, newInvocation())
}

// start makes the call and asks for admission.
func (x *submission) start(e *Executor, r *Request) {
	open, normal := e.enter(), false
	defer func() {
		if !normal && x.future != nil { // a sink called Goexit, or ctx is nil
			err := caught(r.Tool, recover())
			x.withdraw()
			x.end(Result{}, err)
		}
	}()
	var c Call
	now, err := e.prepare(x.ctx, r, &x.inv, open, &c)
	if err != nil {
		x.end(Result{}, err)
	} else {
		x.input = c.Input
		x.submit(&c, now)
	}
	normal = true
}

const (
	submitting = iota
	submitted  // whoever decides starts the goroutine
	early      // decided already: the submitter does
)

// submit asks for admission, and has a goroutine started when it is granted.
func (x *submission) submit(c *Call, now int64) {
	if x.ctx.Err() != nil {
		x.end(Result{}, x.inv.gaveUp(x.ctx, ""))
		return
	}
	c.Attempt = x.inv.attempt()
	r, t, err := x.inv.plan.adm.arrive(x.ctx, c, now, x)
	switch {
	case err != nil:
		x.end(Result{}, err)
		return
	case t == nil:
		go x.perform(r)
		return
	}
	x.inv.plan.exec.watches.add(x)
	if !x.phase.CompareAndSwap(submitting, submitted) {
		go x.resume()
	}
}

// withdraw gives up a place in the queue that nobody waits at.
func (x *submission) withdraw() {
	if x.inv.plan == nil || x.inv.plan.adm == nil {
		return
	}
	s := x.inv.plan.adm.stage.lock()
	if x.ticket != nil {
		s.m.Cancel(s.now(), x.ticket) // and not used again: somebody may be about to wake x
		x.ticket = nil
	}
	s.unlock()
}

// decided is called when the call, which waited, has been admitted or refused.
func (x *submission) decided() {
	if !x.phase.CompareAndSwap(submitting, early) {
		go x.resume()
	}
}

// cancel is called when ctx ends.
func (x *submission) cancel() {
	if err := x.inv.plan.adm.giveUp(x.ctx, &x.inv, &x.ticket); err != nil {
		x.end(Result{}, err)
	}
}

func (x *submission) resume() {
	x.inv.plan.exec.watches.remove(x)
	var c Call
	x.call(&c)
	r, err := x.inv.plan.adm.decided(x.ctx, &c, &x.ticket)
	if err != nil {
		x.end(Result{}, err)
		return
	}
	x.perform(r)
}

// call makes c the one attempt that there is.
func (x *submission) call(c *Call) {
	x.inv.call(c)
	c.Attempt, c.Input = 1, x.input
}

// perform runs the admitted call.
func (x *submission) perform(r *running) {
	res, err, normal := Result{}, error(nil), false
	defer func() {
		if !normal {
			res, err = Result{}, caught(x.inv.plan.tool.spec.Name, recover())
		}
		x.end(res, err)
	}()
	var c Call
	x.call(&c)
	res, err = r.adm.perform(r, &c)
	normal = true
}

// end reports the call's end and makes its outcome known.
func (x *submission) end(res Result, err error) {
	f := x.future
	x.input, x.future = nil, nil
	defer func() { f.finish(res, err) }() // also if a sink calls Goexit
	res, err = x.inv.plan.exec.end(x.ctx, &x.inv, res, err)
}

// ended is the done channel of every outcome that nobody asked for in time.
var ended = make(chan struct{})

func init() { close(ended) }

func (f *Future) finish(res Result, err error) {
	if err != nil {
		res.Value = nil
	}
	o := &outcome{ended, res, err}
	if f.out.CompareAndSwap(nil, o) {
		return
	}
	o = f.out.Load()
	o.res, o.err = res, err
	close(o.done)
}

func (f *Future) outcome() *outcome {
	if f.out.Load() == nil {
		f.out.CompareAndSwap(nil, &outcome{done: make(chan struct{})})
	}
	return f.out.Load()
}

// Done is closed when the call has ended.
func (f *Future) Done() <-chan struct{} { return f.outcome().done }

// Wait returns the outcome, or ctx's error if ctx ends first; the call goes on then.
func (f *Future) Wait(ctx context.Context) (Result, error) {
	o := f.outcome()
	select {
	case <-o.done:
		return o.res, o.err
	case <-ctx.Done():
		return Result{}, context.Cause(ctx)
	}
}
