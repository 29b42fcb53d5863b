package compare

import (
	"context"
	"sync"
	"time"
)

// deadline is a context whose timer does not run until somebody asks for Done. A tool that
// only reads the deadline, or nothing, pays for one allocation.
//
// It leaves out: a cause of its own. Contexts derived from it with package context cost a
// goroutine, as with every context that is not of that package, unless they end first.
type deadline struct {
	context.Context
	at time.Time

	mu    sync.Mutex
	done  chan struct{}
	err   error
	timer *time.Timer
	leave func() bool // stops following the parent
}

func newDeadline(parent context.Context, d time.Duration) *deadline {
	return &deadline{Context: parent, at: time.Now().Add(d)}
}

func (d *deadline) Deadline() (time.Time, bool) {
	if t, ok := d.Context.Deadline(); ok && t.Before(d.at) {
		return t, true
	}
	return d.at, true
}

func (d *deadline) Done() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done != nil {
		return d.done
	}
	d.done = make(chan struct{})
	if d.err != nil {
		close(d.done)
		return d.done
	}
	d.timer = time.AfterFunc(time.Until(d.at), func() { d.finish(context.DeadlineExceeded) })
	if d.Context.Done() != nil {
		d.leave = context.AfterFunc(d.Context, func() { d.finish(d.Context.Err()) })
	}
	return d.done
}

func (d *deadline) Err() error {
	if err := d.Context.Err(); err != nil {
		d.finish(err)
	} else if !time.Now().Before(d.at) {
		d.finish(context.DeadlineExceeded)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// end is the cancellation that every attempt ends with.
func (d *deadline) end() { d.finish(context.Canceled) }

func (d *deadline) finish(err error) {
	d.mu.Lock()
	if d.err != nil {
		d.mu.Unlock()
		return
	}
	d.err = err
	if d.done != nil {
		close(d.done)
	}
	timer, leave := d.timer, d.leave
	d.timer, d.leave = nil, nil
	d.mu.Unlock()
	if timer != nil {
		timer.Stop()
	}
	if leave != nil {
		leave()
	}
}
