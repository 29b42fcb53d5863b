package deadline

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Context is the context of code that has a timeout, and decides who is first: the code that
// ends, or its deadline. Nobody can tell it from one that context.WithTimeoutCause makes, but
// nothing is made until somebody asks for what only a timer can give: then it stands for one of
// the standard library. It may be kept for ever. Make one with [Context.Begin], in place.
type Context struct {
	Entry
	timer  *Timer
	caller context.Context
	causer Causer
	due    int64
	ready  chan struct{} // told when somebody was first

	first    atomic.Int32
	borrowed bool // the deadline is the caller's own
	ended    bool // the code has ended; under mu, as what follows

	mu   sync.Mutex
	made context.Context // nil until somebody asks
	stop context.CancelFunc
}

// Who was first.
const (
	nobody = iota
	codeFirst
	deadlineFirst
)

// Causer says why a context has ended whose time is over: what context.Cause answers. It is
// asked when that is needed, perhaps more than once, and gives the same error each time.
type Causer interface{ Cause() error }

// Begin has c begin now: the context of code that a caller gives so much time at most. If the
// caller's own deadline is earlier, that counts, with the caller's cause.
func (c *Context) Begin(t *Timer, caller context.Context, timeout time.Duration, causer Causer) {
	now := t.Clock.Now()
	c.timer, c.caller, c.causer, c.due = t, caller, causer, now+int64(timeout)
	if d, ok := caller.Deadline(); ok {
		if at := t.Clock.Instant(d); at <= c.due {
			c.due, c.borrowed = max(at, now), true
		}
	}
	c.quick = true
	t.watch(c, now)
}

// Wait waits until the code has ended or its time is over, and reports whether it ended first.
func (c *Context) Wait() bool {
	<-c.ready
	c.timer.forget(c)
	return c.first.Load() == codeFirst
}

// Finish says that the code has ended, and reports whether that was first. The context goes on
// until [Context.End]: others may use it still.
func (c *Context) Finish() bool {
	if !c.first.CompareAndSwap(nobody, codeFirst) {
		return false
	}
	c.ready <- struct{}{}
	return true
}

// Expire has the caller go on without the code, unless that has ended just now.
func (c *Context) Expire() {
	if c.first.CompareAndSwap(nobody, deadlineFirst) {
		c.ready <- struct{}{}
	}
}

// Caller is the context that c was begun with.
func (c *Context) Caller() context.Context { return c.caller }

// Due is when the time is over.
func (c *Context) Due() int64 { return c.due }

// Borrowed reports whether that is the caller's own deadline.
func (c *Context) Borrowed() bool { return c.borrowed }

// Deadline is when the time is over, as others read it.
func (c *Context) Deadline() (time.Time, bool) {
	if c.borrowed {
		return c.caller.Deadline()
	}
	return c.timer.Clock.Time(c.due), true
}

// Done is closed when the time is over, the code has ended, or the caller's context has.
func (c *Context) Done() <-chan struct{} { return c.real().Done() }

// Err says why Done is closed, if it is.
func (c *Context) Err() error {
	made, ended := c.known()
	switch {
	case made != nil:
		return made.Err()
	case ended:
		return context.Canceled
	case c.caller.Err() != nil, c.timer.Clock.Now() >= c.due:
		return c.real().Err() // which has ended, and knows the cause
	}
	return nil
}

// Value passes the question on.
func (c *Context) Value(key any) any {
	made, ended := c.known()
	switch {
	case made != nil:
		return made.Value(key)
	case ended:
		return c.real().Value(key)
	}
	return c.caller.Value(key)
}

// End ends the context: nobody is inside the code any more. One whose time was over before, or
// whose caller had given up, has ended by that.
func (c *Context) End() {
	_ = c.Err() // which makes that known for good
	c.mu.Lock()
	c.ended = true
	stop := c.stop
	c.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// known is the context that c stands for, if one has been made, and whether the code has ended.
func (c *Context) known() (made context.Context, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.made, c.ended
}

// real is the context of the standard library that c stands for from now on. It is made without
// the lock, since that asks the caller's, so others may make one too: the first counts.
func (c *Context) real() context.Context {
	for {
		made, ended := c.known()
		if made != nil {
			return made
		}
		made, stop := c.build(ended)
		c.mu.Lock()
		first := c.made == nil && c.ended == ended
		if first {
			c.made, c.stop = made, stop
		}
		c.mu.Unlock()
		if first {
			return made
		}
		stop()
	}
}

// build makes what real answers.
func (c *Context) build(ended bool) (context.Context, context.CancelFunc) {
	switch {
	case ended: // whatever becomes of the caller's context later
		made, stop := context.WithCancel(context.WithoutCancel(c.caller))
		stop()
		return made, stop
	case c.borrowed:
		return context.WithCancel(c.caller)
	}
	return context.WithDeadlineCause(c.caller, c.timer.Clock.Time(c.due), c.causer.Cause())
}

// watch adds c, and gives it the channel that it is told by.
func (t *Timer) watch(c *Context, now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.spare); n > 0 && now >= 0 {
		c.ready = t.spare[n-1]
		t.spare = t.spare[:n-1]
	} else {
		c.ready = make(chan struct{}, 1)
	}
	t.addLocked(c, c.due, now)
}

// maxSpare bounds how many channels are kept.
const maxSpare = 1024

// forget removes c, whose channel has been told, and keeps that for another. One of a bubble
// that t does not belong to stays there.
func (t *Timer) forget(c *Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	shared := c.own == nil
	t.removeLocked(c)
	if shared && len(t.spare) < maxSpare {
		t.spare = append(t.spare, c.ready)
	}
}
