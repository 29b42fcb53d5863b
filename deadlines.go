package sluice

import (
	"sync"
	"time"

	"github.com/sluice-go/sluice/internal/heap"
)

// deadlines are the attempts of an executor that have a timeout. They have one timer
// together, and a lock of their own. The zero value has none.
type deadlines struct {
	mu    sync.Mutex
	runs  heap.Heap[int64, *timedRun]
	timer *time.Timer
	armed int64           // when the timer fires, no later than the first needs; zero if it does not run
	spare []chan struct{} // for runs to come
}

// watch has x expire when it is due. Its ready channel is told of that, or of its end. In a
// testing/synctest bubble, an executor from outside has nothing that it could share: its
// clock shows that by a time before it began.
func (d *deadlines) watch(x *timedRun, now int64) {
	if now < 0 {
		x.ready = make(chan struct{}, 1)
		x.timer = time.AfterFunc(time.Duration(x.due-now), x.expire)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.spare); n > 0 {
		x.ready = d.spare[n-1]
		d.spare = d.spare[:n-1]
	} else {
		x.ready = make(chan struct{}, 1)
	}
	if d.runs.Place == nil {
		d.runs.Place = func(x *timedRun, i int32) { x.place = i }
		c := x.clock()
		d.timer = time.AfterFunc(time.Hour, func() { d.fire(c) })
		d.timer.Stop()
	}
	d.runs.Push(x.due, 0, x)
	d.armLocked(now)
}

// armLocked makes the timer fire in time for the first. That it fires for one that has
// ended since is cheaper than stopping it at each end.
func (d *deadlines) armLocked(now int64) {
	if d.runs.Len() == 0 || d.armed != 0 && d.armed <= d.runs.Min() {
		return
	}
	d.armed = d.runs.Min()
	d.timer.Reset(time.Duration(d.armed - now))
}

// fire has those expire that are due.
func (d *deadlines) fire(c clock) {
	var due []*timedRun
	d.mu.Lock()
	now := c.now()
	d.armed = 0
	for d.runs.Len() > 0 && d.runs.Min() <= now {
		due = append(due, d.runs.Top())
		d.runs.Remove(0)
	}
	d.armLocked(now)
	d.mu.Unlock()
	for _, x := range due {
		x.expire()
	}
}

// forget lets x go, whose ready channel has been told.
func (d *deadlines) forget(x *timedRun) {
	if x.timer != nil {
		x.timer.Stop()
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if x.place >= 0 {
		d.runs.Remove(x.place)
	}
	if len(d.spare) < 1024 {
		d.spare = append(d.spare, x.ready)
	}
}

// close stops the timer, once there are no attempts any more.
func (d *deadlines) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.armed != 0 {
		d.timer.Stop()
		d.armed = 0
	}
}
