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
//
// The time may be extended, and that of the caller, with which it ends, too. The context that it stands for
// then ends at the time that there is in the end, and so does what is derived from it, whenever that was made.
type Limit struct {
	due  int64
	made atomic.Pointer[made] // nil until somebody asks, extends the time or finds it over, or the code has ended
}

// Owner is the context that has a limit. What it answers never changes, but for Cause, once the time has been
// extended.
type Owner interface {
	Clock() *clock.Clock        // what instants are of
	Caller() context.Context    // whose code it is
	Cause() error               // why the context has ended whose time is over
	Latest(due int64) (x int64) // until when the time can be extended that is over at due, if that is later
}

// made is what a Limit stands for. It never changes.
type made struct {
	context.Context // nil until somebody asks
	stop            context.CancelFunc
	parent          *parent // that of the context, if the time may change
	term            *term   // if it may
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

// Follow has l, which has just begun and ends with the time of its caller unless its own is over before, end
// when that of up is over, which is the caller's and may be extended.
func (l *Limit) Follow(up *Limit) { l.made.Store(&made{term: &term{due: l.due, up: up}}) }

// Due is when the time is over, as far as is known.
func (l *Limit) Due() int64 {
	if t := l.term(); t != nil {
		return t.at()
	}
	return l.due
}

// Moves reports whether the time of l may change, or has.
func (l *Limit) Moves(o Owner) bool { return o.Latest(l.due) > l.due || l.term() != nil }

// term is the time of l if it has changed, or has been found over when it could have; else nil.
func (l *Limit) term() *term {
	if m := l.made.Load(); m != nil {
		return m.term
	}
	return nil
}

// terms is the time of l, which may change; nil if it cannot any more.
func (l *Limit) terms() *term {
	if l.made.Load() == nil {
		l.made.CompareAndSwap(nil, &made{term: &term{due: l.due}})
	}
	return l.term()
}

// Expire answers when the time is over, of a limit that may change. If that is no later than now, it is for
// good: nobody can extend it any more.
func (l *Limit) Expire(now int64) (due int64) {
	if t := l.terms(); t != nil {
		return t.expire(now)
	}
	return l.due
}

// Extend has the time be over d from now at the earliest, or when it must be at the latest, unless it is over
// already or the context has ended. It reports whether there is so much time.
func (l *Limit) Extend(o Owner, d time.Duration) bool {
	if l.Err(o) != nil {
		return false
	}
	now := o.Clock().Now()
	want := now + int64(min(d, math.MaxInt64/4))
	if l.term() == nil && (want <= l.due || o.Latest(l.due) <= l.due) {
		return want <= l.due
	}
	t := l.terms()
	if t == nil {
		return false
	}
	due, ok := t.extend(now, min(want, o.Latest(l.due), Of(o.Caller(), o.Clock())))
	return ok && due >= want
}

// Borrowed reports whether that is the caller's own deadline.
func (l *Limit) Borrowed(o Owner) bool {
	_, borrowed := l.callers(o)
	return borrowed
}

// callers is the caller's deadline, if that is the one that counts.
func (l *Limit) callers(o Owner) (time.Time, bool) {
	d, ok := o.Caller().Deadline()
	return d, ok && o.Clock().Instant(d) <= l.Due()
}

// Deadline is when the time is over, as others read it.
func (l *Limit) Deadline(o Owner) (time.Time, bool) {
	if d, borrowed := l.callers(o); borrowed {
		return d, true
	}
	return o.Clock().Time(l.Due()), true
}

// Done is closed when the time is over, the code has ended, or the caller's context has.
func (l *Limit) Done(o Owner) <-chan struct{} { return l.real(o).Done() }

// Err says why Done is closed, if it is.
func (l *Limit) Err(o Owner) error {
	switch m := l.made.Load(); {
	case m == &over:
		return context.Canceled
	case m != nil && m.Context != nil:
		return m.err()
	case o.Caller().Err() != nil, o.Clock().Now() >= l.Due():
		return l.real(o).Err() // which has ended, and knows the cause
	}
	return nil
}

// err is Err of a context that is made.
func (m *made) err() error {
	err := m.Err()
	if p := m.parent; err == nil && p != nil && (p.Context.Err() != nil || p.owner.Clock().Now() >= p.limit.Due()) {
		p.look() // who tells it may be still to come
		err = m.Err()
	}
	return err
}

// Value passes the question on.
func (l *Limit) Value(o Owner, key any) any {
	if m := l.made.Load(); m == nil || m != &over && m.Context == nil {
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
		l.real(o).stop()
	}
}

// real is the context of the standard library that l stands for from now on. To make it asks the
// caller's, so others may make one too: the first counts.
func (l *Limit) real(o Owner) *made {
	for {
		was := l.made.Load()
		if was != nil && was.Context != nil {
			return was
		}
		m := l.build(o, was)
		if l.made.CompareAndSwap(was, m) {
			return m
		}
		m.stop()
	}
}

// build makes what real answers, of a limit that stood for was.
func (l *Limit) build(o Owner, was *made) *made {
	m := new(made)
	switch {
	case was == &over: // whatever becomes of the caller's context later
		m.Context, m.stop = context.WithCancel(context.WithoutCancel(o.Caller()))
		m.stop()
	case was != nil, o.Latest(l.due) > l.due:
		if m.term = new(term{due: l.due}); was != nil {
			m.term = was.term
		}
		m.parent = newParent(o, l, m.term)
		m.Context, m.stop = context.WithCancel(m.parent)
		m.parent.look()
	case l.Borrowed(o):
		m.Context, m.stop = context.WithCancel(o.Caller())
	default:
		m.Context, m.stop = context.WithDeadlineCause(o.Caller(), o.Clock().Time(l.due), o.Cause())
	}
	return m
}
