package sluice

import (
	"context"
	"errors"
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
//
// What becomes of calls that wait is carried on by a few goroutines: those that are
// admitted run at once, whatever others do, and the ends of the others, refused or with a
// context that has ended, are told by at most four for each processor. So a sink that waits
// for another submitted call may wait for ever.
func (e *Executor) Submit(ctx context.Context, r Request) *Future {
	f := new(Future)
	if err := e.unmade(&r); err != nil {
		f.finish(Result{}, err)
		return f
	}
	open := e.enter()
	if len(e.outer) > 0 {
		go f.whole(ctx, e, r, open)
		return f
	}
	if ctx == nil {
		ctx = noContext
	}
	x := &submission{ctx: ctx, future: f}
	x.start(e, &r, open)
	return f
}

// whole runs the whole chain on a goroutine of its own.
func (f *Future) whole(ctx context.Context, e *Executor, r Request, open bool) {
	defer e.leave()
	res, err := Result{}, error(&PanicError{Tool: r.Tool, Goexit: true})
	defer func() { f.finish(res, err) }()
	res, err = e.invoke(ctx, &r, newInvocation(), open)
}

// start makes the call and asks for admission.
func (x *submission) start(e *Executor, r *Request, open bool) {
	normal := false
	defer func() {
		if !normal && x.future != nil { // a sink called Goexit, or the context is not the standard library's
			x.fail(caught(r.Tool, recover()))
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
	submitted  // whoever decides has the call go on
	early      // decided already: the submitter does
)

// submit asks for admission, and has the call run when it is granted.
func (x *submission) submit(c *Call, now int64) {
	if x.ctx.Err() != nil {
		x.end(Result{}, x.inv.gaveUp(x.ctx, ""))
		return
	}
	n, err := x.inv.attempt()
	if err != nil {
		x.end(Result{}, err)
		return
	}
	c.Attempt = n
	e := x.inv.plan.exec
	r, t, err := x.inv.plan.adm.arrive(x.ctx, c, now, x)
	switch {
	case err != nil:
		x.inv.attemptEnds()
		x.end(Result{}, err)
		return
	case t == nil && r.granted < 0: // in a bubble, where the crew of an executor from outside is not
		go x.perform(r)
		return
	case t == nil:
		e.run(task{x, atOnce})
		return
	}
	e.watches.add(x)
	if !x.phase.CompareAndSwap(submitting, submitted) {
		e.run(task{x, decided})
	}
}

// fail ends the call, whose code does not run, and gives up its place in the queue.
func (x *submission) fail(err error) {
	if x.inv.plan != nil && x.inv.plan.adm != nil {
		x.inv.plan.adm.forsake(&x.ticket)
	}
	if underWay(x.inv.fate.Load()) {
		x.inv.attemptEnds()
	}
	x.end(Result{}, err)
}

// Decided is called when the call, which waited, has been admitted or refused.
func (x *submission) Decided(admitted bool) {
	switch e := x.inv.plan.exec; {
	case x.phase.CompareAndSwap(submitting, early):
	case admitted:
		e.run(task{x, decided})
	default:
		e.finish(task{x, decided})
	}
}

// cancel is called when ctx ends.
func (x *submission) cancel() {
	normal := false
	defer func() {
		if !normal && x.future != nil {
			x.fail(caught(x.inv.plan.tool.spec.Name, recover()))
		}
	}()
	if err := x.inv.plan.adm.giveUp(x.ctx, &x.inv, &x.ticket); err != nil {
		x.inv.attemptEnds()
		x.end(Result{}, err)
	}
	normal = true
}

// admitted is the attempt that may run, or why none may. If the context that it asks calls
// Goexit, the call has ended.
func (x *submission) admitted(what duty) (r *running, err error) {
	if what == atOnce {
		return &x.inv.first.running, nil
	}
	normal := false
	defer func() {
		if normal {
			return
		}
		v := recover()
		err = caught(x.inv.plan.tool.spec.Name, v)
		if x.inv.plan.adm.forsake(&x.ticket); v == nil {
			x.goOn(nil, err)
		}
	}()
	x.inv.plan.exec.watches.remove(x)
	var c Call
	x.call(&c)
	r, err = x.inv.plan.adm.decided(x.ctx, &c, &x.ticket)
	normal = true
	return r, err
}

// goOn runs the call, or ends it.
func (x *submission) goOn(r *running, err error) {
	if err != nil {
		x.inv.attemptEnds()
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
	f, e := x.future, x.inv.plan.exec
	x.input, x.future = nil, nil
	defer e.leave()
	defer func() { f.finish(res, err) }() // also if a sink calls Goexit
	ctx := x.ctx
	if !x.inv.fired {
		x.ctx = nil // it may be that of a call that has ended
	}
	e.end(ctx, &x.inv, &res, &err)
}

// isDone is the done channel of every outcome that nobody asked for in time.
var isDone = make(chan struct{})

func init() { close(isDone) }

func (f *Future) finish(res Result, err error) {
	if err != nil {
		res.Value = nil
	}
	o := &outcome{isDone, res, err}
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

// Wait returns the outcome, or ctx's error if ctx ends before there is one; the call goes
// on then.
func (f *Future) Wait(ctx context.Context) (Result, error) {
	if ctx == nil {
		return Result{}, errors.New("sluice: Wait: the context is nil: must not be, context.Background() waits for as long as it takes")
	}
	o := f.outcome()
	select {
	case <-o.done:
		return o.res, o.err
	default:
	}
	select {
	case <-o.done:
		return o.res, o.err
	case <-ctx.Done():
	}
	select {
	case <-o.done: // meanwhile
		return o.res, o.err
	default:
		return Result{}, context.Cause(ctx)
	}
}
