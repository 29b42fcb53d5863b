// Package crew carries on calls that were submitted and have no goroutine of their own.
//
// A call waits without a goroutine. Once it is decided, something is to be done for it, and
// what that takes differs:
//
//   - A call that is admitted runs code of others, for as long as that likes. No call may wait
//     for another's code, so there are as many goroutines as are inside such code, and, while
//     calls are left to run, one that is on the way to the next. Whoever gets to a call's code
//     first sees to it that somebody else is on the way.
//   - A call that is not admitted has only its end to tell, and a million of them may end at
//     one instant. A few goroutines do that for all.
//
// Goroutines start when there is something to do and end when nothing is left. One that is
// ended by runtime.Goexit, called in code of others, has a successor.
//
// What a call is, the package does not know: it is told by the methods of [Call], and counts its
// goroutines with whoever must wait for them. One mutex guards the queues and the counts; it is
// never held while anything of a Call runs.
package crew

import (
	"runtime"
	"sync"
)

// Call is one that waited, or that was admitted at once. Its methods do not panic.
type Call interface {
	// Ready takes up what was decided about the call, and answers nil if its code may run now,
	// or why not. It is brief: it waits for locks that everybody else would wait for too, and
	// asks nobody but the call's context. If that calls Goexit, Ready has ended the call.
	Ready() error
	// Run runs the code of a call that is ready.
	Run()
	// End tells the end of a call whose code does not run.
	End(err error)
	// Cancel ends the call, whose context has ended, unless it has been decided meanwhile.
	Cancel()
}

// Crew is the goroutines that carry on calls. It is safe for concurrent use.
type Crew struct {
	starts, ends func() // count in a goroutine, and count it out

	mu       sync.Mutex
	admitted queue[Call]
	looking  int // goroutines on the way to the code of the next of admitted
	over     queue[ended]
	enders   int // goroutines that work on over
	most     int // of those
}

// ended is a call whose code does not run.
type ended struct {
	call   Call
	cancel bool // its context has ended; else it was refused
}

// New returns a crew of nobody. A goroutine is counted in by starts before it exists, and out by
// ends as the last it does.
func New(starts, ends func()) *Crew { return &Crew{starts: starts, ends: ends} }

// Run has the code of an admitted call run at once, whatever else is being done; or its end told,
// if it is not ready any more.
func (w *Crew) Run(c Call) {
	w.mu.Lock()
	w.admitted.push(c)
	needed := w.lookLocked()
	w.mu.Unlock()
	if needed {
		w.startRunner()
	}
}

// lookLocked reports whether one goroutine more must be on the way to the next of admitted. It
// is counted as such.
func (w *Crew) lookLocked() bool {
	if w.looking > 0 || w.admitted.len() == 0 {
		return false
	}
	w.looking++
	return true
}

func (w *Crew) startRunner() {
	w.starts()
	go func() {
		defer w.ends()
		w.runAll()
	}()
}

// runAll runs what is admitted, until there is nothing left or another is on the way to it.
// Whoever is here counts as on the way until it has a call that is ready: what keeps it until
// then would keep others too.
func (w *Crew) runAll() {
	looking := true
	arrived := func() {
		looking = false
		w.mu.Lock()
		w.looking--
		needed := w.lookLocked()
		w.mu.Unlock()
		if needed {
			w.startRunner()
		}
	}
	defer func() {
		if looking { // Ready called Goexit
			arrived()
		}
	}()
	for {
		w.mu.Lock()
		if w.admitted.len() == 0 || w.looking > 1 {
			looking = false
			w.looking--
			w.mu.Unlock()
			return
		}
		c := w.admitted.pop()
		w.mu.Unlock()
		err := c.Ready()
		arrived() // what follows may call Goexit: nobody waits for this goroutine
		if err == nil {
			c.Run()
		} else {
			c.End(err)
		}
		w.mu.Lock()
		w.looking++
		w.mu.Unlock()
		looking = true
	}
}

// End has the end told of a call that has been refused.
func (w *Crew) End(c Call) { w.end(ended{call: c}) }

// Cancel has a call end whose context has ended.
func (w *Crew) Cancel(c Call) { w.end(ended{call: c, cancel: true}) }

func (w *Crew) end(x ended) {
	w.mu.Lock()
	w.over.push(x)
	if w.enders == 0 {
		w.most = 3 * runtime.GOMAXPROCS(0) // with whoever brings them work no more than four for each processor
	}
	needed := w.enders < w.most
	if needed {
		w.enders++
	}
	w.mu.Unlock()
	if needed {
		w.startEnder()
	}
}

func (w *Crew) startEnder() {
	w.starts()
	go func() {
		defer w.ends()
		for w.endNext() {
		}
	}()
}

// endNext ends the next of over, and reports whether there was one.
func (w *Crew) endNext() bool {
	w.mu.Lock()
	if w.over.len() == 0 {
		w.enders--
		w.mu.Unlock()
		return false
	}
	x := w.over.pop()
	w.mu.Unlock()
	normal := false
	defer func() {
		if !normal { // code of others called Goexit: another takes this one's place
			w.startEnder()
		}
	}()
	x.end()
	normal = true
	return true
}

func (x ended) end() {
	if x.cancel {
		x.call.Cancel()
	} else if err := x.call.Ready(); err != nil {
		x.call.End(err)
	} else {
		x.call.Run()
	}
}

// queue is first in, first out. It keeps no room once it is empty.
type queue[T any] struct {
	list []T
	done int // of list
}

func (q *queue[T]) push(x T) { q.list = append(q.list, x) }

func (q *queue[T]) len() int { return len(q.list) - q.done }

func (q *queue[T]) pop() T {
	var none T
	x := q.list[q.done]
	q.list[q.done] = none
	if q.done++; q.done == len(q.list) {
		q.list, q.done = nil, 0
	}
	return x
}
