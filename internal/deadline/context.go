package deadline

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/clock"
)

// Context is the context of code that has a timeout. Nobody can tell it from one that
// context.WithTimeoutCause makes, but nothing is made until somebody asks for what only a timer
// can give: then it stands for one of the standard library. It may be kept for ever. Make one with
// [Context.Begin], in place.
type Context struct {
	clock  *clock.Clock
	caller context.Context
	causer Causer
	due    int64
	made   atomic.Pointer[made] // nil until somebody asks, or the code has ended

	borrowed bool // the deadline is the caller's own
}

// made is what a Context stands for.
type made struct {
	context.Context
	stop context.CancelFunc
}

// over is what a Context is whose code has ended before somebody asked.
var over made

// Causer says why a context has ended whose time is over: what context.Cause answers. It is
// asked when that is needed, perhaps more than once, and gives the same error each time.
type Causer interface{ Cause() error }

// Begin has c begin at the instant now: the context of code that a caller gives so much time at
// most. If the caller's own deadline is earlier, that counts, with the caller's cause.
func (c *Context) Begin(t *clock.Clock, caller context.Context, now int64, timeout time.Duration, causer Causer) {
	c.clock, c.caller, c.causer, c.due = t, caller, causer, now+int64(timeout)
	if d, ok := caller.Deadline(); ok {
		if at := t.Instant(d); at <= c.due {
			c.due, c.borrowed = max(at, now), true
		}
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
	return c.clock.Time(c.due), true
}

// Done is closed when the time is over, the code has ended, or the caller's context has.
func (c *Context) Done() <-chan struct{} { return c.real().Done() }

// Err says why Done is closed, if it is.
func (c *Context) Err() error {
	switch m := c.made.Load(); {
	case m == &over:
		return context.Canceled
	case m != nil:
		return m.Err()
	case c.caller.Err() != nil, c.clock.Now() >= c.due:
		return c.real().Err() // which has ended, and knows the cause
	}
	return nil
}

// Value passes the question on.
func (c *Context) Value(key any) any {
	if m := c.made.Load(); m == nil {
		return c.caller.Value(key)
	}
	return c.real().Value(key)
}

// End ends the context: nobody is inside the code any more, at the instant now. One whose time was
// over before, or whose caller had given up, has ended by that.
func (c *Context) End(now int64) {
	m := c.made.Load()
	if m == nil {
		if c.caller.Err() == nil && now < c.due && c.made.CompareAndSwap(nil, &over) {
			return
		}
		m = c.real()
	}
	if m != &over {
		m.stop()
	}
}

// real is the context of the standard library that c stands for from now on. To make it asks the
// caller's, so others may make one too: the first counts.
func (c *Context) real() *made {
	for {
		was := c.made.Load()
		if was != nil && was != &over {
			return was
		}
		m := new(made)
		m.Context, m.stop = c.build(was == &over)
		if c.made.CompareAndSwap(was, m) {
			return m
		}
		m.stop()
	}
}

// build makes what real answers.
func (c *Context) build(ended bool) (context.Context, context.CancelFunc) {
	switch {
	case ended: // whatever becomes of the caller's context later
		ctx, stop := context.WithCancel(context.WithoutCancel(c.caller))
		stop()
		return ctx, stop
	case c.borrowed:
		return context.WithCancel(c.caller)
	}
	return context.WithDeadlineCause(c.caller, c.clock.Time(c.due), c.causer.Cause())
}
