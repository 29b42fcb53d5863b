package agent

import (
	"runtime/debug"
	"sync"
	"time"

	"github.com/sluice-go/sluice"
)

// Contain runs f, which is somebody else's code, and waits until it has ended. Neither a panic nor
// runtime.Goexit leaves it: the error is a *sluice.PanicError, which has tool as its Tool; else it is nil.
//
// It is for what stands between a framework and an executor. A Goexit cannot be stopped, and would end the
// framework's goroutine, for whose answer somebody then waits for ever. So f runs on a goroutine of Contain's, which
// is kept for the next: at most 64 that are idle, for two seconds at most, and none in a testing/synctest bubble. f
// must not end with it locked to its thread. Contain is safe for concurrent use, and f may call it.
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
	began time.Time

	mu    sync.Mutex
	idle  []*hand // the one that was busy last at the end
	least int     // how many have been idle all the time since the last sweep
	sweep *time.Timer
	due   bool // it runs
}

func newCrew() *crew { return &crew{began: time.Now()} }

func (c *crew) run(tool string, f func()) error {
	h := c.take()
	h.turn <- job{tool: tool, f: f}
	done := <-h.turn
	c.put(h)
	return done.err
}

// hand is a goroutine that does one job after the other.
type hand struct {
	turn chan job // takes a job to the hand and, when it is done, back: the two sides take turns
	once bool     // it is not kept
	gone bool     // its job has called Goexit
}

type job struct {
	tool string
	f    func()
	err  error // what came of it
}

// take is a hand that waits for a job.
func (c *crew) take() *hand {
	once := time.Since(c.began) < 0 // as it is in a bubble, whose time begins in the year 2000
	if !once {
		c.mu.Lock()
		if n := len(c.idle) - 1; n >= 0 {
			h := c.idle[n]
			c.idle[n], c.idle = nil, c.idle[:n]
			c.least = min(c.least, n)
			c.mu.Unlock()
			return h
		}
		c.mu.Unlock()
	}
	h := &hand{turn: make(chan job), once: once}
	go h.work()
	return h
}

// put takes back a hand whose job is done.
func (c *crew) put(h *hand) {
	if h.gone {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.once || len(c.idle) >= maxIdle {
		close(h.turn)
		return
	}
	c.idle = append(c.idle, h)
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
	for _, h := range c.idle[:c.least] {
		close(h.turn)
	}
	left := copy(c.idle, c.idle[c.least:])
	clear(c.idle[left:])
	c.idle, c.least = c.idle[:left], left
	if c.due = left > 0; c.due {
		c.sweep.Reset(idleFor)
	}
}

// work is the goroutine.
func (h *hand) work() {
	for j := range h.turn {
		h.do(j)
	}
}

func (h *hand) do(j job) {
	normal := false
	defer func() {
		if !normal {
			v := recover()
			h.gone = v == nil
			j.err = &sluice.PanicError{Tool: j.tool, Value: v, Goexit: h.gone, Stack: debug.Stack()}
		}
		h.turn <- j
	}()
	j.f()
	normal = true
}
