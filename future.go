package sluice

import (
	"context"
	"sync/atomic"

	"github.com/sluice-go/sluice/internal/admit"
)

// Future is a submitted call. It is safe for concurrent use.
//
// A million of them may wait, so it has nothing that a waiting call can do without.
type Future struct {
	inv    invocation
	ctx    context.Context
	input  any
	ticket *admit.Ticket // while it waits; guarded by the stage's lock
	watch  *ctxWatch     // what watches ctx meanwhile, and where; guarded by its executor's
	out    atomic.Pointer[outcome]

	watched int32
	phase   atomic.Int32 // who starts the goroutine of a call that waited
	ended   bool         // somebody has ended the call; owned by whoever may
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
	f := &Future{ctx: ctx}
	if len(e.outer) > 0 {
		go f.whole(e, r)
	} else {
		f.start(e, &r)
	}
	return f
}

// start makes the call and asks for admission.
func (f *Future) start(e *Executor, r *Request) {
	open, normal := e.enter(), false
	defer func() {
		if !normal && !f.ended { // a sink called Goexit, or ctx is nil
			f.end(Result{}, caught(r.Tool, recover()))
		}
	}()
	var c Call
	now, err := e.prepare(f.ctx, r, &f.inv, open, &c)
	if err != nil {
		f.end(Result{}, err)
	} else {
		f.input = c.Input
		f.submit(&c, now)
	}
	normal = true
}

// whole runs the whole chain on a goroutine of its own.
func (f *Future) whole(e *Executor, r Request) {
	res, err := Result{}, error(&PanicError{Tool: r.Tool, Goexit: true})
	defer func() { f.finish(res, err) }()
	res, err = e.invoke(f.ctx, &r, newInvocation())
}

const (
	submitting = iota
	submitted  // whoever decides starts the goroutine
	early      // decided already: the submitter does
)

// submit asks for admission, and has a goroutine started when it is granted.
func (f *Future) submit(c *Call, now int64) {
	if f.ctx.Err() != nil {
		f.end(Result{}, f.inv.gaveUp(f.ctx, ""))
		return
	}
	c.Attempt = f.inv.attempt()
	r, t, err := f.inv.plan.adm.arrive(f.ctx, c, now, f)
	switch {
	case err != nil:
		f.end(Result{}, err)
		return
	case t == nil:
		go f.perform(r)
		return
	}
	f.inv.plan.exec.watches.add(f)
	if !f.phase.CompareAndSwap(submitting, submitted) {
		go f.resume()
	}
}

// decided is called when the call, which waited, has been admitted or refused.
func (f *Future) decided() {
	if !f.phase.CompareAndSwap(submitting, early) {
		go f.resume()
	}
}

// cancel is called when ctx ends.
func (f *Future) cancel() {
	if err := f.inv.plan.adm.giveUp(f.ctx, &f.inv, &f.ticket); err != nil {
		f.end(Result{}, err)
	}
}

func (f *Future) resume() {
	f.inv.plan.exec.watches.remove(f)
	var c Call
	f.call(&c)
	r, err := f.inv.plan.adm.decided(f.ctx, &c, &f.ticket)
	if err != nil {
		f.end(Result{}, err)
		return
	}
	f.perform(r)
}

// call is the one attempt that there is.
func (f *Future) call(c *Call) {
	f.inv.call(c)
	c.Attempt, c.Input = 1, f.input
}

// perform runs the admitted call.
func (f *Future) perform(r *running) {
	res, err, normal := Result{}, error(nil), false
	defer func() {
		if !normal {
			res, err = Result{}, caught(f.inv.plan.tool.spec.Name, recover())
		}
		f.end(res, err)
	}()
	var c Call
	f.call(&c)
	res, err = r.adm.perform(r, &c)
	normal = true
}

// end reports the call's end and makes its outcome known.
func (f *Future) end(res Result, err error) {
	f.ended = true
	defer func() { f.finish(res, err) }() // also if a sink calls Goexit
	res, err = f.inv.plan.exec.end(f.ctx, &f.inv, res, err)
}

// closed is the done channel of an outcome that nobody asked for in time.
var closed = make(chan struct{})

func init() { close(closed) }

func (f *Future) finish(res Result, err error) {
	if err != nil {
		res.Value = nil
	}
	o := &outcome{closed, res, err}
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
