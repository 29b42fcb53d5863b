package sluice

import (
	"context"
	"errors"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/ctxwatch"
	"github.com/sluice-go/sluice/internal/oneshot"
	"github.com/sluice-go/sluice/internal/stage"
)

// Future is the outcome of a submitted call, made by [Executor.Submit]; the zero value
// never comes to one. It is safe for concurrent use.
type Future struct{ answer oneshot.Value[answer] }

// answer is how a call ended.
type answer struct {
	res Result
	err error
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
		f.set(Result{}, err)
		return f
	}
	open := e.enter()
	if len(e.outer) > 0 {
		go f.invoke(ctx, e, r, open)
		return f
	}
	if ctx == nil {
		ctx = noContext
	}
	x := &submission{ctx: ctx, future: f}
	x.start(e, &r, open)
	return f
}

// Done is closed when the call has ended.
func (f *Future) Done() <-chan struct{} { return f.answer.Done() }

// Wait returns the outcome, or ctx's error if ctx ends before there is one; the call goes
// on then.
func (f *Future) Wait(ctx context.Context) (Result, error) {
	if ctx == nil {
		return Result{}, errors.New("sluice: Wait: the context is nil: must not be, " +
			"context.Background() waits for as long as it takes")
	}
	a, err := f.answer.Wait(ctx)
	if err != nil {
		return Result{}, err
	}
	return a.res, a.err
}

func (f *Future) set(res Result, err error) {
	if err != nil {
		res.Value = nil
	}
	f.answer.Set(answer{res, err})
}

// invoke runs a call that interceptors go around on a goroutine of its own.
func (f *Future) invoke(ctx context.Context, e *Executor, r Request, open bool) {
	defer e.leave()
	res, err := Result{}, error(&PanicError{Tool: r.Tool, Goexit: true})
	defer func() { f.set(res, err) }()
	res, err = e.invoke(ctx, &r, newInvocation(), open)
}

// submission is a submitted call under way. A million of them may wait, so it has nothing
// that a waiting call can do without. The context that a tool gets leads to it, and not to
// its outcome.
//
// Its goroutine is lent to it: start runs on the submitter's, decided on that of whoever
// decided about the call, and what [crew.Call] has on one of the crew's.
type submission struct {
	inv    invocation
	ctx    context.Context
	input  any
	future *Future       // until somebody has ended the call; owned by whoever may
	ticket *admit.Ticket // while it waits; guarded by the stage's lock
	place  ctxwatch.Place[*submission]
}

// Place is where the call stands among the executor's watched ones.
func (x *submission) Place() *ctxwatch.Place[*submission] { return &x.place }

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
		x.finish(Result{}, err)
	} else {
		x.input = c.Input
		x.submit(&c, now)
	}
	normal = true
}

// Who has the call carried on that waited: its submitter and whoever decides may come to that
// at one time, and it is the later of the two.
const (
	submitting = iota // also of a call that has not waited
	submitted         // whoever decides does
	early             // it is decided already: the submitter does
)

// submit asks for admission, and has the call run when it is granted.
func (x *submission) submit(c *Call, now int64) {
	if x.ctx.Err() != nil {
		x.finish(Result{}, x.inv.gaveUp(x.ctx, ""))
		return
	}
	n, err := x.inv.attempt()
	if err != nil {
		x.finish(Result{}, err)
		return
	}
	c.Attempt = n
	e := x.inv.plan.exec
	r, t, err := x.inv.plan.adm.arrive(x.ctx, c, now, x)
	switch {
	case err != nil:
		x.End(err)
		return
	case t == nil && r.granted < 0: // in a bubble, where the crew of an executor from outside is not
		go x.Run()
		return
	case t == nil:
		e.crew.Run(x)
		return
	}
	e.watched.Add(x.ctx, x)
	if !x.inv.phase.CompareAndSwap(submitting, submitted) {
		e.crew.Run(x)
	}
}

var _ stage.Submission = (*submission)(nil)

// Decided is called when the call, which waited, has been admitted or refused.
func (x *submission) Decided(admitted bool) {
	switch e := x.inv.plan.exec; {
	case x.inv.phase.CompareAndSwap(submitting, early):
	case admitted:
		e.crew.Run(x)
	default:
		e.crew.End(x)
	}
}

// Ready takes up what was decided, and answers why the call may not run, or nil. If the context,
// which is asked, calls Goexit, the call has ended.
func (x *submission) Ready() (err error) {
	if x.inv.phase.Load() == submitting {
		return nil // it has not waited
	}
	normal := false
	defer func() {
		if normal {
			return
		}
		v := recover()
		err = caught(x.inv.plan.tool.spec.Name, v)
		if x.inv.plan.adm.forsake(&x.ticket); v == nil {
			x.End(err)
		}
	}()
	x.inv.plan.exec.watched.Remove(x)
	var c Call
	x.call(&c)
	_, err = x.inv.plan.adm.decided(x.ctx, &c, &x.ticket)
	normal = true
	return err
}

// Run runs the admitted call.
func (x *submission) Run() {
	res, err, normal := Result{}, error(nil), false
	defer func() {
		if !normal {
			res, err = Result{}, caught(x.inv.plan.tool.spec.Name, recover())
		}
		x.finish(res, err)
	}()
	var c Call
	x.call(&c)
	res, err = x.inv.plan.adm.perform(&x.inv.first.running, &c)
	normal = true
}

// End ends the call, whose attempt holds nothing.
func (x *submission) End(err error) {
	x.inv.attemptEnds()
	x.finish(Result{}, err)
}

// Cancel ends the call, whose context has ended, unless it has been decided meanwhile.
func (x *submission) Cancel() {
	normal := false
	defer func() {
		if !normal && x.future != nil {
			x.fail(caught(x.inv.plan.tool.spec.Name, recover()))
		}
	}()
	if err := x.inv.plan.adm.giveUp(x.ctx, &x.inv, &x.ticket); err != nil {
		x.End(err)
	}
	normal = true
}

// fail ends the call, whose code does not run, and gives up its place in the queue.
func (x *submission) fail(err error) {
	if x.inv.plan != nil && x.inv.plan.adm != nil {
		x.inv.plan.adm.forsake(&x.ticket)
	}
	if underWay(x.inv.fate.Load()) {
		x.inv.attemptEnds()
	}
	x.finish(Result{}, err)
}

// call makes c the one attempt that there is.
func (x *submission) call(c *Call) {
	x.inv.call(c)
	c.Attempt, c.Input = 1, x.input
}

// finish reports the call's end and makes its outcome known.
func (x *submission) finish(res Result, err error) {
	f, e := x.future, x.inv.plan.exec
	x.input, x.future = nil, nil
	defer e.leave()
	defer func() { f.set(res, err) }() // also if a sink calls Goexit
	ctx := x.ctx
	if !x.place.Fired() { // else Cancel may be about to ask it
		x.ctx = nil // it may be that of a call that has ended
	}
	e.end(ctx, &x.inv, &res, &err)
}
