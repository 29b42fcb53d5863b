package deadline

import (
	"context"
	"sync"
	"time"
)

// term is a time that may change: whoever extends it and whoever finds it over are told which of them was
// first. Nothing of others is called under its lock but another term, that of the caller.
type term struct {
	mu   sync.Mutex
	due  int64
	up   *Limit // of the caller, with whose time this one's is over too; nil if there is none
	over bool   // for good
}

// at is when the time is over, as far as is known.
func (t *term) at() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.atLocked()
}

func (t *term) atLocked() int64 {
	if t.up != nil {
		return min(t.due, t.up.Due())
	}
	return t.due
}

// expire answers when the time is over. If that is no later than now, it is for good.
func (t *term) expire(now int64) (due int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	due = t.due
	if t.up != nil {
		due = min(due, t.up.Expire(now))
	}
	if due <= now {
		t.due, t.up, t.over = due, nil, true
	}
	return due
}

// extend has the time be over no earlier than the instant until, unless it is over.
// It answers when it is over now, and reports whether it goes on.
func (t *term) extend(now, until int64) (due int64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over || t.atLocked() <= now {
		return t.due, false
	}
	t.due = max(t.due, until)
	return t.atLocked(), true
}

// parent is what the context is made from of code whose time may change. To the standard library it ends when
// that is over, or the caller's context has ended, and is asked nothing before.
type parent struct {
	context.Context // the caller's
	owner           Owner
	limit           *Limit
	term            *term
	done            chan struct{} // never closed: who waits has asked AfterFunc

	mu      sync.Mutex
	expired context.Context // what it is once the time is over; nil before
	end     func()          // ends the context that is made from it
	timer   *time.Timer
	stopped bool
}

// newParent is what ends when the time t of l, which is o's, is over.
func newParent(o Owner, l *Limit, t *term) *parent {
	return &parent{Context: o.Caller(), owner: o, limit: l, term: t, done: make(chan struct{})}
}

// now is what p stands for at present.
func (p *parent) now() context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.expired != nil {
		return p.expired
	}
	return p.Context
}

func (p *parent) Done() <-chan struct{} { return p.done }
func (p *parent) Err() error            { return p.now().Err() }
func (p *parent) Value(key any) any     { return p.now().Value(key) }

// AfterFunc has f called once p has ended, which the standard library asks for.
func (p *parent) AfterFunc(f func()) (stop func() bool) {
	p.end = f
	left := context.AfterFunc(p.Context, f)
	return func() bool {
		p.mu.Lock()
		if p.stopped = true; p.timer != nil {
			p.timer.Stop()
		}
		p.mu.Unlock()
		return left()
	}
}

// look ends what is made from p if it is to end at present, and comes again when its time is over.
func (p *parent) look() {
	if p.Context.Err() == nil {
		now := p.owner.Clock().Now()
		if due := p.term.expire(now); due > now {
			p.comeAgain(time.Duration(due - now))
			return
		}
		if p.limit.Borrowed(p.owner) { // the caller's context ends by itself
			return
		}
		expired, stop := context.WithDeadlineCause(p.Context, time.Unix(0, 0), p.owner.Cause())
		defer stop() // it has ended already
		p.mu.Lock()
		if p.expired == nil {
			p.expired = expired
		}
		p.mu.Unlock()
	}
	p.end()
}

func (p *parent) comeAgain(in time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.stopped:
	case p.timer == nil:
		p.timer = time.AfterFunc(in, p.look)
	default:
		p.timer.Reset(in)
	}
}
