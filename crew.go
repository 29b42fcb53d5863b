package sluice

import (
	"runtime"
	"sync"
)

// crew are the goroutines that carry on submitted calls which wait no longer. They start
// when there is something to do and end when there is nothing left.
//
// A call that runs may take as long as it likes, so there is always somebody on the way to
// the next one: as many goroutines as run code of others, and a few more. What has only to
// be told, the end of a call that did not run, is told by a few altogether.
type crew struct {
	mu      sync.Mutex
	runs    tasks // of calls that are admitted
	ends    tasks // of calls that are not
	looking int   // goroutines on the way to code of the next of runs
	enders  int   // goroutines that work on ends
	most    int   // of those
}

// task is a submitted call, and what is to be done for it.
type task struct {
	x    *submission
	what duty
}

type duty uint8

const (
	atOnce  duty = iota // it is admitted, and has not waited
	decided             // it has waited, and is admitted or refused
	gaveUp              // its context has ended
)

// tasks is a queue.
type tasks struct {
	list []task
	done int // of list
}

func (q *tasks) push(t task) { q.list = append(q.list, t) }

func (q *tasks) len() int { return len(q.list) - q.done }

func (q *tasks) pop() task {
	t := q.list[q.done]
	q.list[q.done] = task{}
	if q.done++; q.done == len(q.list) {
		q.list, q.done = nil, 0
	}
	return t
}

// run has t done at once, whatever else is being done.
func (e *Executor) run(t task) {
	w := &e.crew
	w.mu.Lock()
	w.runs.push(t)
	hire := w.hireLocked()
	w.mu.Unlock()
	if hire {
		e.startRunner()
	}
}

// hireLocked reports whether somebody must be started who looks for the next of runs.
func (w *crew) hireLocked() bool {
	if w.looking > 0 || w.runs.len() == 0 {
		return false
	}
	w.looking++
	return true
}

func (e *Executor) startRunner() {
	e.helperStarts()
	go func() {
		defer e.helperEnds()
		e.work()
	}()
}

// work does what is to run, until there is nothing left or others are enough. Whoever waits
// for a lock of the library's own is still on the way: somebody else would wait for it too.
func (e *Executor) work() {
	w := &e.crew
	looking := true
	found := func() {
		looking = false
		w.mu.Lock()
		w.looking--
		hire := w.hireLocked()
		w.mu.Unlock()
		if hire {
			e.startRunner()
		}
	}
	defer func() {
		if looking { // the context of the call called Goexit
			found()
		}
	}()
	for {
		w.mu.Lock()
		if w.runs.len() == 0 || w.looking > 1 {
			looking = false
			w.looking--
			w.mu.Unlock()
			return
		}
		t := w.runs.pop()
		w.mu.Unlock()
		r, err := t.x.admitted(t.what)
		found()
		t.x.goOn(r, err) // if that calls Goexit, nobody waits for this goroutine
		w.mu.Lock()
		w.looking++
		w.mu.Unlock()
		looking = true
	}
}

// finish has t done by one of a few.
func (e *Executor) finish(t task) {
	w := &e.crew
	w.mu.Lock()
	w.ends.push(t)
	if w.enders == 0 {
		w.most = 3 * runtime.GOMAXPROCS(0) // with whoever brings them work no more than four
	}
	hire := w.enders < w.most
	if hire {
		w.enders++
	}
	w.mu.Unlock()
	if hire {
		e.startEnder()
	}
}

func (e *Executor) startEnder() {
	e.helperStarts()
	go func() {
		defer e.helperEnds()
		for e.endNext() {
		}
	}()
}

// endNext does the next of ends, if there is one.
func (e *Executor) endNext() bool {
	w := &e.crew
	w.mu.Lock()
	if w.ends.len() == 0 {
		w.enders--
		w.mu.Unlock()
		return false
	}
	t := w.ends.pop()
	w.mu.Unlock()
	normal := false
	defer func() {
		if !normal { // a sink, or the call's context, called Goexit: another goes on
			e.startEnder()
		}
	}()
	if t.what == gaveUp {
		t.x.cancel()
	} else {
		t.x.goOn(t.x.admitted(t.what))
	}
	normal = true
	return true
}
