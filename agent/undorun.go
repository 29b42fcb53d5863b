package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/sluice-go/sluice"
)

type undoRunKey struct{}

// undoRun is code of a call that can be undone.
type undoRun struct {
	undo *Undo
	call sluice.Call

	in   *undoCall // nil until it has reported; guarded by Undo.mu, as left
	left bool
}

// undoCall is a call that has reported and whose code runs.
type undoCall struct {
	inside int         // code that has reported; guarded by Undo.mu
	beat   *time.Timer // renews the lease; likewise
}

// report keeps what the attempt c leaves.
func (r *undoRun) report(c sluice.Call, group string, data json.RawMessage) error {
	if len(group) > maxUndoGroup {
		return fmt.Errorf("the name of the group has %d bytes: must have at most %d", len(group), maxUndoGroup)
	}
	u, key := r.undo, c.Key.String()
	in, seq := r.enter(), int64(0)
	keep := func(e undoEntry, ok bool) (undoEntry, error) {
		now := time.Now()
		if !ok {
			if seq == 0 {
				return e, errUndoNew
			}
			p := c.Pipeline
			e = undoEntry{V: undoVersion, Seq: seq, N: uint64(c.Key), Tool: c.Tool, ID: c.ID, Run: p.RunID, Request: p.RequestID,
				Session: p.SessionID, User: p.UserID, Tenant: tenantOf(*p), Group: group, At: wall(now)}
		}
		if in.beat != nil {
			e.Running = wall(now.Add(u.conf.Lease))
		}
		return e, e.report(c.Attempt, data, u.conf.MaxBytes)
	}
	for {
		_, err := undoKey(undoPrefix+key).Update(u.kept, keep, sluice.TTL(u.conf.Lifetime))
		if !errors.Is(err, errUndoNew) {
			return err
		}
		if seq, err = sluice.Increment(u.kept, undoSequence, 1); err != nil {
			return err
		}
	}
}

// enter counts r among the code of its call that has reported, and runs. Once it has left it is not.
func (r *undoRun) enter() *undoCall {
	u, key := r.undo, r.call.Key
	u.mu.Lock()
	defer u.mu.Unlock()
	if r.in != nil && !r.left {
		return r.in
	}
	in := u.calls[key]
	if in == nil {
		in = new(undoCall)
	}
	if r.left {
		return in
	}
	if in.inside++; in.inside == 1 {
		u.calls[key] = in
		in.beat = time.AfterFunc(u.conf.Lease/3, func() { u.renew(key, in) })
	}
	r.in = in
	return in
}

// renew says that code of the call still runs.
func (u *Undo) renew(key sluice.CallKey, in *undoCall) {
	_ = u.change(key.String(), 0, func(e *undoEntry, now time.Time) error {
		if e.Running.IsZero() {
			return errUndoLost
		}
		e.Running = wall(now.Add(u.conf.Lease))
		return nil
	})
	u.mu.Lock()
	defer u.mu.Unlock()
	if in.inside > 0 {
		in.beat.Reset(u.conf.Lease / 3)
	}
}

// leave says that the code of r has ended, or goes on where nobody sees it: the lease tells then.
func (r *undoRun) leave(goesOn bool) {
	u, key := r.undo, r.call.Key
	u.mu.Lock()
	in := r.in
	r.left = true
	if in != nil {
		in.inside--
	}
	last := in != nil && in.inside == 0
	if last {
		in.beat.Stop()
		delete(u.calls, key)
	}
	u.mu.Unlock()
	if last && !goesOn {
		_ = u.change(key.String(), 0, func(e *undoEntry, _ time.Time) error {
			e.Running = time.Time{}
			return nil
		})
	}
}

// Call undoes the call of that key, as [sluice.CallKey.String] and the call_key of events have it: it runs the undo
// function of its tool with what the attempts of the call have left, the latest first. nil means that the call is
// undone, and its function is not run with these data again; the error is an [*UndoError], or the cause of ctx.
//
// Of several at once one undoes, here and in other processes, and the others are told at once that somebody does. Call
// waits for the undo function, until its time is over or ctx ends. The function goes on then, and what it comes to
// counts.
func (u *Undo) Call(ctx context.Context, key string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e, err := u.look(ctx, key)
	if err != nil {
		return err
	}
	x := &undoing{undo: u, key: key, by: rand.Text(), entry: e, began: time.Now(), told: make(chan error, 2)}
	x.ctx = context.WithoutCancel(ctx)
	if x.f = u.conf.Undo[e.Tool]; x.f == nil {
		err := x.failure("no_function", nil)
		x.emit(err)
		return err
	}
	err = u.change(key, 0, func(e *undoEntry, now time.Time) error {
		var s UndoState
		if x.step, s = e.claim(x.by, now, u.conf.Lease); s != UndoOpen {
			return x.failure(string(s), nil)
		}
		return nil
	})
	if err != nil {
		err := x.explained(err)
		if err.Reason == string(UndoInDoubt) || err.Reason == "state" {
			x.emit(err)
		}
		return err
	}
	x.mu.Lock()
	x.beat = time.AfterFunc(u.conf.Lease/3, x.renew)
	x.mu.Unlock()
	go x.run()
	select {
	case err = <-x.told:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// undoing is a call that is being undone.
type undoing struct {
	undo  *Undo
	ctx   context.Context // the caller's, without its end
	key   string
	by    string
	entry undoEntry // as it was
	f     func(context.Context, json.RawMessage) error
	step  undoStep // in hand
	began time.Time
	told  chan error // what the caller is to know, the first that comes

	mu   sync.Mutex
	beat *time.Timer // renews the lease
	over bool
	late bool // the caller has been told that its time is over
}

func (x *undoing) failure(reason string, err error) *UndoError {
	return &UndoError{Key: x.key, Tool: x.entry.Tool, Reason: reason, Err: err}
}

// explained is why the state has not been changed.
func (x *undoing) explained(err error) *UndoError {
	var own *UndoError
	switch {
	case errors.As(err, &own):
		return own
	case errors.Is(err, errUndoAbsent):
		return x.failure(string(UndoUnknown), nil)
	}
	return x.failure("state", err)
}

// run undoes step after step, until there is none left or one fails.
func (x *undoing) run() {
	for x.undoOne() {
	}
}

// undoOne undoes the step in hand, and reports whether there is another.
func (x *undoing) undoOne() (more bool) {
	ctx, cancel := context.WithTimeout(x.ctx, x.undo.conf.Timeout)
	defer cancel()
	n := x.step.N
	stop := context.AfterFunc(ctx, func() { x.expire(n) })
	failed := x.failure("exited", nil)
	defer func() {
		stop()
		if v := recover(); v != nil {
			failed = x.failure("panicked", &sluice.PanicError{Tool: x.entry.Tool, Value: v, Stack: debug.Stack()})
		}
		more = x.settle(failed)
	}()
	switch err := x.f(ctx, bytes.Clone(x.step.Data)); {
	case err == nil:
		failed = nil
	case ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded):
		failed = x.failure("timeout", err)
	default:
		failed = x.failure("failed", err)
	}
	return false
}

// expire tells the caller that the time of a step is over, unless that has ended.
func (x *undoing) expire(step int64) {
	x.mu.Lock()
	late := !x.over && x.step.N == step
	x.late = x.late || late
	x.mu.Unlock()
	if late {
		err := x.failure("timeout", context.DeadlineExceeded)
		defer func() { x.told <- err }()
		x.emit(err)
	}
}

// renew says that the undo function still runs.
func (x *undoing) renew() {
	_ = x.undo.change(x.key, 0, func(e *undoEntry, now time.Time) error {
		if e.By != x.by {
			return errUndoLost
		}
		e.Lease = wall(now.Add(x.undo.conf.Lease))
		return nil
	})
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.over {
		x.beat.Reset(x.undo.conf.Lease / 3)
	}
}

// settle keeps what has become of the step in hand, and takes the next one. It reports whether there is one; if not,
// all is over.
func (x *undoing) settle(failed *UndoError) (more bool) {
	x.mu.Lock()
	late, left, runs, next := x.late, false, false, undoStep{}
	x.mu.Unlock()
	err := x.undo.change(x.key, 0, func(e *undoEntry, now time.Time) error {
		if e.By != x.by {
			return errUndoLost
		}
		e.settle(failed == nil)
		left = len(e.Steps) > 0
		runs = left && now.Before(e.Running) // a later attempt, which may have its effect yet
		if more = failed == nil && left && !late && !runs; more {
			next = e.take(x.by, now, x.undo.conf.Lease)
		} else {
			e.By, e.Lease = "", time.Time{}
		}
		return nil
	})
	// What was seen before another write came first does not count.
	more = more && err == nil
	gone := errors.Is(err, errUndoAbsent) || errors.Is(err, errUndoLost) // or was decided about
	if err != nil && failed == nil && !gone {
		failed = x.failure("state", err)
	}
	if err == nil && failed == nil && runs {
		failed = x.failure(string(UndoRunning), nil)
	}
	x.mu.Lock()
	if more {
		x.step = next
		x.mu.Unlock()
		return true
	}
	x.over, late = true, x.late
	x.beat.Stop()
	x.mu.Unlock()
	if failed == nil {
		defer func() { x.told <- nil }()
		if !left {
			x.emit(nil)
		}
	} else {
		defer func() { x.told <- failed }()
		if !late { // else that has been told
			x.emit(failed)
		}
	}
	return false
}

// emit tells the sink what has become of the undoing; nil is that the call is undone.
func (x *undoing) emit(failed *UndoError) {
	s := x.undo.conf.Sink
	if s == nil {
		return
	}
	o, now := &x.entry, time.Now()
	e := &sluice.Event{Kind: toolUndone, Time: now, Duration: now.Sub(x.began), Call: sluice.Call{ID: o.ID, Tool: o.Tool,
		Pipeline: &sluice.PipelineContext{RunID: o.Run, RequestID: o.Request, SessionID: o.Session, UserID: o.User, Tenant: o.Tenant}},
		Attrs: []slog.Attr{slog.String("call_key", x.key), slog.Time("original_action_timestamp", o.At)}}
	if k := sluice.CallKey(o.N); k.String() == x.key { // it ran here
		e.CallKey = k
	}
	if failed != nil {
		e.Kind, e.Err = toolUndoFailed, failed
		e.Attrs = append(e.Attrs, slog.String("reason", failed.Reason))
	}
	done := make(chan struct{})
	go func() { // whatever the sink does
		defer close(done)
		defer func() { _ = recover() }()
		if s.Enabled(e.Kind) {
			_ = s.Emit(x.ctx, e)
		}
	}()
	<-done
}
