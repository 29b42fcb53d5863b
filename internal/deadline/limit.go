package deadline

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/clock"
)

// Limit is when the time of code is over. The code's context, its owner, has one and asks it for all
// that its deadline bears on. Nobody can tell such a context from one that context.WithTimeoutCause
// makes, but nothing is made until somebody asks for what only a timer can give: then the limit stands
// for a context of the standard library. It may be kept for ever. Begin it in place.
type Limit struct {
	due  int64
	made atomic.Pointer[made] // nil until somebody asks, or the code has ended
}

// Owner is the context that has a limit. What it answers never changes.
type Owner interface {
	Clock() *clock.Clock     // what instants are of
	Caller() context.Context // whose code it is
	Cause() error            // why the context has ended whose time is over
}

// made is what a Limit stands for.
type made struct {
	context.Context
	stop context.CancelFunc
}

// over is what a Limit stands for if the code has ended before somebody asked.
var over made

// Of is the deadline of a context, or an instant that does not come.
func Of(ctx context.Context, c *clock.Clock) int64 {
	if d, ok := ctx.Deadline(); ok {
		return c.Instant(d)
	}
	return math.MaxInt64
}

// Begin has l begin at the instant now: the code has so much time at most. If finish, its caller's own
// deadline, is earlier, that counts, with the caller's cause.
func (l *Limit) Begin(now int64, timeout time.Duration, finish int64) {
	l.due = min(now+int64(timeout), max(finish, now))
}

// Due is when the time is over.
func (l *Limit) Due() int64 { return l.due }

// Borrowed reports whether that is the caller's own deadline.
func (l *Limit) Borrowed(o Owner) bool {
	_, borrowed := l.callers(o)
	return borrowed
}

// callers is the caller's deadline, if that is the one that counts.
func (l *Limit) callers(o Owner) (time.Time, bool) {
	d, ok := o.Caller().Deadline()
	return d, ok && o.Clock().Instant(d) <= l.due
}

// Deadline is when the time is over, as others read it.
func (l *Limit) Deadline(o Owner) (time.Time, bool) {
	if d, borrowed := l.callers(o); borrowed {
		return d, true
	}
	return o.Clock().Time(l.due), true
}

// Done is closed when the time is over, the code has ended, or the caller's context has.
func (l *Limit) Done(o Owner) <-chan struct{} { return l.real(o).Done() }

// Err says why Done is closed, if it is.
func (l *Limit) Err(o Owner) error {
	switch m := l.made.Load(); {
	case m == &over:
		return context.Canceled
	case m != nil:
		return m.Err()
	case o.Caller().Err() != nil, o.Clock().Now() >= l.due:
		return l.real(o).Err() // which has ended, and knows the cause
	}
	return nil
}

// Value passes the question on.
func (l *Limit) Value(o Owner, key any) any {
	if m := l.made.Load(); m == nil {
		return o.Caller().Value(key)
	}
	return l.real(o).Value(key)
}

// End ends the context: nobody is inside the code any more, at the instant now. One whose time was
// over before, or whose caller had given up, has ended by that.
func (l *Limit) End(o Owner, now int64) {
	m := l.made.Load()
	if m == nil {
		if o.Caller().Err() == nil && now < l.due && l.made.CompareAndSwap(nil, &over) {
			return
		}
		m = l.real(o)
	}
	if m != &over {
		m.stop()
	}
}

// real is the context of the standard library that l stands for from now on. To make it asks the
// caller's, so others may make one too: the first counts.
func (l *Limit) real(o Owner) *made {
	for {
		was := l.made.Load()
		if was != nil && was != &over {
			return was
		}
		m := new(made)
		m.Context, m.stop = l.build(o, was == &over)
		if l.made.CompareAndSwap(was, m) {
			return m
		}
		m.stop()
	}
}

// build makes what real answers.
func (l *Limit) build(o Owner, ended bool) (context.Context, context.CancelFunc) {
	switch {
	case ended: // whatever becomes of the caller's context later
		ctx, stop := context.WithCancel(context.WithoutCancel(o.Caller()))
		stop()
		return ctx, stop
	case l.Borrowed(o):
		return context.WithCancel(o.Caller())
	}
	return context.WithDeadlineCause(o.Caller(), o.Clock().Time(l.due), o.Cause())
}
