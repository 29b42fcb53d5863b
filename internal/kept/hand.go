package kept

import (
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/stack"
)

// Hand is one goroutine, and the job that it has. Whoever has taken it owns Job until Wait, and again
// when Wait has answered that the code ended first; in between, and else, the code does.
type Hand[J any] struct {
	Job J

	pool    *Pool[J]
	in      chan struct{} // has the goroutine run Job, or end once it is closed
	out     chan bool     // tells whoever waits whether the code was first, once for each Wait
	first   atomic.Int32
	begun   bool // the goroutine has started
	gone    bool // it has ended with its code, by Goexit
	foreign bool // it is of a testing/synctest bubble and its Pool is not

	due        int64 // below, its place among others whose time is not over; guarded by the pool's lock
	term       Term  // which due may have come before; nil if it is the end
	next, prev *Hand[J]
	place      int32       // in times.early, from 1
	own        *time.Timer // if the common one cannot serve it
}

// Who was first.
const (
	nobody = iota
	code
	deadline
)

// Wait has the job's code run, and waits until that has ended or its time is over. It reports whether
// the code ended first: then h must be freed. Else h is the code's for good.
func (h *Hand[J]) Wait() bool {
	out := h.out
	if h.begun {
		h.in <- struct{}{}
	} else {
		h.begun = true
		h.pool.starts()
		go h.work()
	}
	return <-out
}

// Claim has the code be first, if the time is not over, and reports whether it is. Whoever waits does so
// until the code ends, then. The code calls it.
func (h *Hand[J]) Claim() bool { return h.first.CompareAndSwap(nobody, code) }

// Free ends what Wait has waited for. The goroutine is kept for the next.
func (h *Hand[J]) Free() {
	var none J
	h.Job = none
	p := h.pool
	p.mu.Lock()
	h.term = nil
	p.times.remove(h)
	p.times.rest(p.closed)
	if !h.gone && !p.keep(h) {
		close(h.in)
	}
	p.mu.Unlock()
}

// work is the goroutine.
func (h *Hand[J]) work() {
	defer h.pool.ends()
	stack.Grow()
	normal := false
	defer func() {
		if !normal {
			h.gone = true
			h.ended()
		}
	}()
	for more := true; more; _, more = <-h.in {
		h.pool.run(h)
		if !h.ended() && !h.free() {
			break
		}
	}
	normal = true
}

// ended tells whoever waits that the code has ended, and reports whether somebody does.
func (h *Hand[J]) ended() bool {
	inTime := h.first.Load() == code || h.Claim()
	if inTime {
		h.out <- true
	}
	return inTime
}

// free is Free if nobody waits any more. It reports whether the goroutine is kept.
func (h *Hand[J]) free() bool {
	var none J
	h.Job = none
	p := h.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	h.term = nil
	h.out = make(chan bool, 1) // whoever has waited may not have heard it yet
	return p.keep(h)
}
