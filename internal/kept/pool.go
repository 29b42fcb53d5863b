package kept

import (
	"sync"
	"time"

	"github.com/sluice-go/sluice/internal/clock"
)

// Pool is where goroutines are taken from.
type Pool[J any] struct {
	clock        clock.Clock
	run          func(*Hand[J])
	starts, ends func()
	most         int // so many goroutines are kept

	mu       sync.Mutex
	closed   bool
	idle     []*Hand[J] // the latest last
	least    int        // how many have been idle all the time since the last sweep
	sweeper  *time.Timer
	sweeping bool // sweeper runs
	times    times[J]
}

// idleFor is for how long a goroutine is kept that nobody takes, at least, and at most for twice as long.
const idleFor = 10 * time.Second

// most is how many goroutines a Pool keeps.
const most = 64

// New returns a Pool of nobody whose instants are those of the clock c. The function run runs the code of
// the job of a goroutine, and does not panic. A goroutine is counted in by starts before it exists, and out by ends as the
// last it does. In a testing/synctest bubble, which waits for whoever is left, none is kept.
func New[J any](c clock.Clock, run func(*Hand[J]), starts, ends func()) *Pool[J] {
	p := &Pool[J]{clock: c, run: run, starts: starts, ends: ends, most: most}
	if c.IsVirtual() {
		p.most = 0
	}
	return p
}

// Term is a time that may be extended while code has it.
type Term interface {
	// Expire answers when the time is over. If that is no later than now, it is for good. The pool is locked.
	Expire(now int64) (due int64)
}

// Take answers a goroutine for code that begins at the instant now, or a little later, and has time until
// due, or for as long as x says then, if that is not nil. Whoever takes it says what its Job is and waits for it.
func (p *Pool[J]) Take(now, due int64, x Term) *Hand[J] {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle) - 1
	if n < 0 || now < 0 { // before the clock's zero: nobody from outside a bubble can help in it
		h := &Hand[J]{pool: p, in: make(chan struct{}, 1), out: make(chan bool, 1), foreign: now < 0, term: x}
		p.limit(h, due)
		return h
	}
	h := p.idle[n]
	p.idle[n], p.idle = nil, p.idle[:n]
	p.least = min(p.least, n)
	h.first.Store(nobody)
	h.term = x
	p.limit(h, due)
	return h
}

// keep keeps h, whose goroutine has nothing to do, and reports whether it has. The Pool is locked.
func (p *Pool[J]) keep(h *Hand[J]) bool {
	if p.closed || h.foreign || len(p.idle) >= p.most {
		return false
	}
	p.idle = append(p.idle, h)
	if p.sweeping {
		return true
	}
	p.sweeping = true
	if p.sweeper == nil {
		p.sweeper = time.AfterFunc(idleFor, p.sweep)
	} else {
		p.sweeper.Reset(idleFor)
	}
	return true
}

// sweep ends those that have been idle since the last time.
func (p *Pool[J]) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endIdle(min(p.least, len(p.idle)))
	p.least = len(p.idle)
	if p.sweeping = p.least > 0; p.sweeping {
		p.sweeper.Reset(idleFor)
	}
}

// endIdle ends the first n of those that are idle.
func (p *Pool[J]) endIdle(n int) {
	for _, h := range p.idle[:n] {
		close(h.in)
	}
	left := copy(p.idle, p.idle[n:])
	clear(p.idle[left:])
	p.idle = p.idle[:left]
}

// Close ends those that are idle, and has none be kept any more. Jobs that are under way go on.
func (p *Pool[J]) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.endIdle(len(p.idle))
	if p.sweeping {
		p.sweeper.Stop()
	}
	p.times.rest(true)
}
