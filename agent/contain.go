package agent

import (
	"context"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"time"

	"github.com/sluice-go/sluice"
)

// Contain runs f, which is somebody else's code, and waits until it has ended. Neither a panic nor
// runtime.Goexit leaves it: after either the error is a *sluice.PanicError with that tool; if f returns it is nil.
//
// It is for what stands between a framework and an executor. A Goexit cannot be stopped, and would end the
// framework's goroutine, for whose answer somebody then waits for ever. So f runs on a goroutine of Contain's, which
// is kept for the next: at most 64 that are idle, for two seconds at most, and none in a testing/synctest bubble. f
// must not leave it locked to its thread: whatever runs on it next would have that thread. It has no pprof labels.
// A nil f is one that panics. Contain is safe for concurrent use, and f may call it.
func Contain(tool string, f func()) error { return theCrew.run(tool, f) }

const (
	maxIdle = 64          // hands, of a crew
	idleFor = time.Second // at most twice that
)

var theCrew = newCrew()

// crew keeps hands that have nothing to do, for a while: that a new goroutine's stack grows takes longer than all else
// that is done here. It has no part in a testing/synctest bubble that it is not of: hands there are not kept, since a
// bubble ends with its goroutines.
type crew struct {
	mu    sync.Mutex
	idle  *hand // the one that was busy last, and from there on
	n     int32 // how many
	least int32 // how many have been idle all the time since the last sweep
	due   bool  // sweep runs
	began time.Time
	sweep *time.Timer
}

func newCrew() *crew { return &crew{began: time.Now()} }

func (c *crew) run(tool string, f func()) error {
	h := c.take()
	h.tool, h.f = tool, f
	h.turn <- struct{}{}
	<-h.turn
	err := h.err
	c.put(h)
	return err
}

// hand is a goroutine that does one job after the other.
type hand struct {
	tool string
	f    func()        // its job
	err  error         // what came of that
	turn chan struct{} // of the hand or of whoever has taken it, which own the fields above in turn
	next *hand         // that is idle
	once bool          // it is not kept
	gone bool          // it ends, since its job has called Goexit
}

// take is a hand that waits for a job.
func (c *crew) take() *hand {
	once := time.Since(c.began) < 0 // as it is in a bubble, whose time begins in the year 2000
	if !once {
		c.mu.Lock()
		if h := c.idle; h != nil {
			c.idle = h.next
			c.n--
			c.least = min(c.least, c.n)
			c.mu.Unlock()
			return h
		}
		c.mu.Unlock()
	}
	h := &hand{turn: make(chan struct{}), once: once}
	go h.work()
	return h
}

// put takes back a hand whose job is done.
func (c *crew) put(h *hand) {
	h.f, h.err = nil, nil
	if h.gone {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.once || c.n >= maxIdle {
		close(h.turn)
		return
	}
	h.next, c.idle = c.idle, h
	c.n++
	if c.due {
		return
	}
	c.due = true
	if c.sweep == nil {
		c.sweep = time.AfterFunc(idleFor, c.swept)
	} else {
		c.sweep.Reset(idleFor)
	}
}

// swept ends the hands that nobody has needed since the last time.
func (c *crew) swept() {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := &c.idle
	for range c.n - c.least {
		last = &(*last).next
	}
	for h := *last; h != nil; h = h.next {
		close(h.turn)
	}
	*last, c.n = nil, c.n-c.least
	c.least = c.n
	if c.due = c.n > 0; c.due {
		c.sweep.Reset(idleFor)
	}
}

// work is the goroutine. It has no labels of a profile: those of whoever has needed it first are not the next one's.
func (h *hand) work() {
	pprof.SetGoroutineLabels(context.Background())
	normal := false
	defer func() {
		if !normal { // a Goexit, which goes on if a panic in its course has been recovered
			h.gone = true
			h.turn <- struct{}{}
		}
	}()
	for range h.turn {
		h.do()
		h.turn <- struct{}{}
	}
	normal = true
}

func (h *hand) do() {
	normal := false
	defer func() {
		if !normal {
			v := recover()
			h.err = &sluice.PanicError{Tool: h.tool, Value: v, Goexit: v == nil, Stack: debug.Stack()}
		}
	}()
	h.f()
	normal = true
}
