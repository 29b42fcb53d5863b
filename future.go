package sluice

import (
	"context"
	"sync"
	"sync/atomic"
)

// Future is a submitted call. It is safe for concurrent use.
type Future struct {
	ctx   context.Context
	call  Call
	run   *running
	stop  func() bool  // ends the watch over ctx
	phase atomic.Int32 // who starts the goroutine of a call that waited
	ended bool         // somebody has ended the call; owned by whoever may

	mu   sync.Mutex
	done chan struct{} // made when somebody asks
	over bool
	res  Result
	err  error
}

// Submit queues a call without a goroutine: one starts when the call does. It does not
// wait. The call ends as [Executor.Invoke] would end it, refusals included; ctx is the
// call's own. A tool that interceptors go around, outside the gates, has its goroutine
// from the start.
func (e *Executor) Submit(ctx context.Context, r Request) *Future {
	inv := newInvocation()
	f := &Future{ctx: ctx, call: Call{inv: inv}}
	if len(e.outer) > 0 {
		go f.whole(e, r, inv)
	} else {
		f.start(e, &r, inv)
	}
	return f
}

// start makes the call and asks for admission.
func (f *Future) start(e *Executor, r *Request, inv *invocation) {
	open, normal := e.enter(), false
	defer func() {
		if !normal && !f.ended { // a sink called Goexit, or ctx is nil
			f.end(Result{}, caught(inv.tool, recover()))
		}
	}()
	c, err := e.prepare(f.ctx, r, inv, open)
	f.call = c
	if err != nil {
		f.end(Result{}, err)
	} else {
		f.submit(inv.plan.adm)
	}
	normal = true
}

// whole runs the whole chain on a goroutine of its own.
func (f *Future) whole(e *Executor, r Request, inv *invocation) {
	res, err := Result{}, error(&PanicError{Tool: r.Tool, Goexit: true})
	defer func() { f.finish(res, err) }()
	res, err = e.invoke(f.ctx, &r, inv)
}

const (
	submitting = iota
	submitted  // whoever decides starts the goroutine
	early      // decided already: the submitter does
)

// submit asks for admission, and has a goroutine started when it is granted.
func (f *Future) submit(a *admission) {
	inv := f.call.inv
	if f.ctx.Err() != nil {
		f.end(Result{}, inv.gaveUp(f.ctx, ""))
		return
	}
	f.call.Attempt = inv.attempts.Add(1)
	f.run = inv.newRunning(f.ctx, f.call.Attempt, nil)
	f.run.adm = a
	w, err := a.arrive(f.run, &f.call, f)
	switch {
	case err != nil:
		f.end(Result{}, err)
		return
	case w == nil:
		go f.perform()
		return
	}
	if f.ctx.Done() != nil {
		f.stop = context.AfterFunc(f.ctx, f.cancel)
	}
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
	if err := f.run.adm.giveUp(f.run, nil); err != nil {
		f.end(Result{}, err)
	}
}

func (f *Future) resume() {
	if f.stop != nil {
		f.stop()
	}
	if err := f.run.adm.decided(f.run, nil); err != nil {
		f.end(Result{}, err)
		return
	}
	f.perform()
}

// perform runs the admitted call.
func (f *Future) perform() {
	res, err, normal := Result{}, error(nil), false
	defer func() {
		if !normal {
			res, err = Result{}, caught(f.call.Tool, recover())
		}
		f.end(res, err)
	}()
	res, err = f.run.adm.perform(f.run, &f.call)
	inv := f.call.inv
	res.rec, res.max = inv.rec, inv.exec.conf.MaxResultBytes
	normal = true
}

// end reports the call's end and makes its outcome known.
func (f *Future) end(res Result, err error) {
	f.ended = true
	defer func() { // also if a sink calls Goexit
		if err != nil {
			res.Value = nil
		}
		f.finish(res, err)
	}()
	err = f.call.inv.exec.end(f.ctx, f.call.inv, res, err)
}

func (f *Future) finish(res Result, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.res, f.err, f.over = res, err, true
	if f.done != nil {
		close(f.done)
	}
}

// Done is closed when the call has ended.
func (f *Future) Done() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done == nil {
		f.done = make(chan struct{})
		if f.over {
			close(f.done)
		}
	}
	return f.done
}

// Wait returns the outcome, or ctx's error if ctx ends first; the call goes on then.
func (f *Future) Wait(ctx context.Context) (Result, error) {
	select {
	case <-f.Done():
		return f.res, f.err
	case <-ctx.Done():
		return Result{}, context.Cause(ctx)
	}
}
