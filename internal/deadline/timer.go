package deadline

import (
	"context"
	"sync"
	"time"

	"github.com/sluice-go/sluice/internal/clock"
	"github.com/sluice-go/sluice/internal/heap"
)

// Timer calls what has a deadline once that is over. The zero value is ready when its Clock is
// set; it starts nothing until something is added.
type Timer struct {
	Clock clock.Clock // what instants are of

	// Go starts a goroutine that runs f; nil means the go statement. It is called before
	// anybody can learn, by Remove, that an entry has expired, so it can count who is at work.
	Go func(f func())

	// Brief says that Expire methods are: they take no more than a few locks, and are called in the order of
	// their deadlines without goroutines of their own, while Add or Hurry waits or the timer's own does.
	Brief bool

	mu    sync.Mutex
	queue heap.Heap[int64, Expirer]
	timer *time.Timer
	armed int64 // when the timer fires, no later than the first needs; zero if it does not run
	hurry bool  // nobody has any time left
}

// Expirer is what has a deadline. It embeds an [Entry].
type Expirer interface {
	Expire() // called once the deadline is over, if it has not been removed before
	entry() *Entry
}

// Entry is the place of an [Expirer] in a [Timer]. The zero value is in none.
type Entry struct {
	own   *time.Timer // if the common one may not serve it
	place int32       // in the queue, from one on; zero if it is not there
	due   int64       // while it is there
}

func (e *Entry) entry() *Entry { return e }

// Add has x.Expire called at the instant due, on a goroutine of its own unless those are brief. If x is there
// already, that is when it was to be, or due if that comes before.
func (t *Timer) Add(x Expirer, due int64) {
	now := t.Clock.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := x.entry(); e.own != nil || e.place > 0 {
		due = min(due, e.due)
		t.removeLocked(x)
	}
	t.addLocked(x, due, now)
}

func (t *Timer) addLocked(x Expirer, due, now int64) {
	x.entry().due = due
	if t.hurry {
		t.startLocked(x)
		return
	}
	if now < 0 {
		t.addOwnLocked(x, due, now)
		return
	}
	if t.timer == nil {
		t.queue.Place = func(x Expirer, i int32) { x.entry().place = i + 1 }
		t.timer = time.AfterFunc(time.Hour, t.fire)
		t.timer.Stop()
	}
	t.queue.Push(due, 0, x)
	t.armLocked(now)
}

// addOwnLocked gives x a timer of its own: in a testing/synctest bubble, a Timer from outside
// has none that it could share. Its clock shows that by a time before it began.
func (t *Timer) addOwnLocked(x Expirer, due, now int64) {
	e := x.entry()
	var own *time.Timer
	own = time.AfterFunc(time.Duration(due-now), func() {
		t.mu.Lock()
		if e.own == own { // else it has been removed
			e.own = nil
			t.startLocked(x)
		}
		t.mu.Unlock()
	})
	e.own = own
}

// Remove takes x out again. It reports whether x was there: if not, it has expired or does so now.
func (t *Timer) Remove(x Expirer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.removeLocked(x)
}

func (t *Timer) removeLocked(x Expirer) bool {
	switch e := x.entry(); {
	case e.own != nil:
		e.own.Stop()
		e.own = nil
	case e.place > 0:
		t.queue.Remove(e.place - 1)
	default:
		return false
	}
	return true
}

// Sleep waits until the instant due, or ctx ends. It is for a Timer whose Expire methods are brief.
func (t *Timer) Sleep(ctx context.Context, due int64) {
	s := &sleeper{over: make(chan struct{})}
	t.Add(s, due)
	select {
	case <-s.over:
	case <-ctx.Done():
		t.Remove(s)
	}
}

// sleeper is who sleeps.
type sleeper struct {
	Entry
	over chan struct{}
}

func (s *sleeper) Expire() { close(s.over) }

// Hurry has all expire now, and whatever is added later at once, but for what has a timer of its own.
func (t *Timer) Hurry() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hurry = true
	for t.queue.Len() > 0 {
		x := t.queue.Top()
		t.queue.Remove(0)
		t.startLocked(x)
	}
}

// Close stops the timer, once nothing is added any more.
func (t *Timer) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.armed != 0 {
		t.timer.Stop()
		t.armed = 0
	}
}

// armLocked makes the timer fire in time for the first. That it fires for one that has been
// removed since is cheaper than stopping it at each removal.
func (t *Timer) armLocked(now int64) {
	if t.queue.Len() == 0 || t.armed != 0 && t.armed <= t.queue.Min() {
		return
	}
	t.armed = t.queue.Min()
	t.timer.Reset(time.Duration(t.armed - now))
}

// fire has those expire that are due.
func (t *Timer) fire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.Clock.Now()
	t.armed = 0
	for t.queue.Len() > 0 && t.queue.Min() <= now {
		x := t.queue.Top()
		t.queue.Remove(0)
		t.startLocked(x)
	}
	t.armLocked(now)
}

// startLocked has x expire, on a goroutine of its own unless that is brief. That is begun under the lock, so
// that whoever finds x gone finds the goroutine counted.
func (t *Timer) startLocked(x Expirer) {
	switch {
	case t.Brief:
		x.Expire()
	case t.Go != nil:
		t.Go(x.Expire)
	default:
		go x.Expire()
	}
}
