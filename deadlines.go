package sluice

import (
	"sync"
	"time"

	"github.com/sluice-go/sluice/internal/clock"
	"github.com/sluice-go/sluice/internal/heap"
)

// deadlines are what an executor's calls have to be told at some instant: that an attempt
// is out of time, that nobody can wait any longer for what an outcome means, that a stream
// has been open for too long. They have one timer together, and a lock of their own. The
// zero value has none.
type deadlines struct {
	mu    sync.Mutex
	all   heap.Heap[int64, expiring]
	clock clock.Clock
	timer *time.Timer
	armed int64           // when the timer fires, no later than the first needs; zero if it does not run
	spare []chan struct{} // for attempts to come
}

// expiring has a deadline: expire is called once that is over, if it is not removed before.
type expiring interface {
	expire()
	deadlineOf() *deadline
}

// deadline is the place of an expiring thing among the deadlines.
type deadline struct {
	timer *time.Timer // of its own, if the executor's may not serve it
	place int32
}

func (d *deadline) deadlineOf() *deadline { return d }

// add has x expire at the instant due. In a testing/synctest bubble, an executor from
// outside has no timer that it could share: its clock shows that by a time before it began.
func (d *deadlines) add(x expiring, c clock.Clock, due int64) {
	now := c.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addLocked(x, c, due, now)
}

func (d *deadlines) addLocked(x expiring, c clock.Clock, due, now int64) {
	if now < 0 {
		x.deadlineOf().timer = time.AfterFunc(time.Duration(due-now), x.expire)
		return
	}
	if d.all.Place == nil {
		d.all.Place = func(x expiring, i int32) { x.deadlineOf().place = i }
		d.clock = c
		d.timer = time.AfterFunc(time.Hour, d.fire)
		d.timer.Stop()
	}
	d.all.Push(due, 0, x)
	d.armLocked(now)
}

// watch is add for an attempt. Its ready channel is told of that, or of its end.
func (d *deadlines) watch(x *timedRun, c clock.Clock, now int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.spare); n > 0 && now >= 0 {
		x.ready = d.spare[n-1]
		d.spare = d.spare[:n-1]
	} else {
		x.ready = make(chan struct{}, 1)
	}
	d.addLocked(x, c, x.due, now)
}

// armLocked makes the timer fire in time for the first. That it fires for one that has
// ended since is cheaper than stopping it at each end.
func (d *deadlines) armLocked(now int64) {
	if d.all.Len() == 0 || d.armed != 0 && d.armed <= d.all.Min() {
		return
	}
	d.armed = d.all.Min()
	d.timer.Reset(time.Duration(d.armed - now))
}

// fire has those expire that are due. What that sets free may call sinks, which must not
// hold up the others: only an attempt, which just wakes its caller, expires here.
func (d *deadlines) fire() {
	var due []expiring
	d.mu.Lock()
	now := d.clock.Now()
	d.armed = 0
	for d.all.Len() > 0 && d.all.Min() <= now {
		due = append(due, d.all.Top())
		d.all.Remove(0)
	}
	d.armLocked(now)
	d.mu.Unlock()
	for _, x := range due {
		switch x.(type) {
		case *timedRun:
			x.expire()
		default:
			go x.expire()
		}
	}
}

// remove takes x out again, if it has not expired meanwhile.
func (d *deadlines) remove(x expiring) {
	d.mu.Lock()
	d.removeLocked(x)
	d.mu.Unlock()
}

func (d *deadlines) removeLocked(x expiring) {
	switch at := x.deadlineOf(); {
	case at.timer != nil:
		at.timer.Stop()
	case at.place >= 0:
		d.all.Remove(at.place)
	}
}

// forget is remove for an attempt whose ready channel has been told.
func (d *deadlines) forget(x *timedRun) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.removeLocked(x)
	if x.deadline.timer == nil && len(d.spare) < 1024 {
		d.spare = append(d.spare, x.ready)
	}
}

// close stops the timer, once there are no calls any more.
func (d *deadlines) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.armed != 0 {
		d.timer.Stop()
		d.armed = 0
	}
}
