package agent

import "container/heap"

// feed decides which call of a batch is submitted next. It is told what becomes of those that were, and has no
// lock and no clock of its own.
//
// Calls are submitted in their order, tool by tool: one that finds the queue full keeps back those of its own
// tool only. It is put back if calls of the batch itself were waiting then, and goes in again when one of them
// leaves the queue. So there is always one that waits, one that may go in, or one under way that has yet to end.
type feed struct {
	most  int // calls under way at once; zero means any number
	calls []fed

	ready   laneHeap // with calls of which one may be submitted now, as far as is known
	blocked laneHeap // with calls that found the queue full
	pending int      // calls in both

	under   int     // submitted and not ended
	waiting int     // of them those that wait for admission, or may
	started []int32 // of them those whose code has begun, in no order
	left    int     // not ended
	open    bool    // nothing keeps calls back any more
	stopped bool    // nothing is submitted any more
}

// fed is one call of the batch.
type fed struct {
	lane  *lane
	phase phase
	alone bool  // no other waited when it was submitted
	again bool  // its lane was shut then
	last  bool  // nothing was kept back any more then
	at    int32 // in started, from 1; zero if it is not there
}

// phase is what is known of a call.
type phase uint8

const (
	pending phase = iota // it is to be submitted
	arrived              // it was, and nothing is known of it
	queued               // it waits
	passed               // it does not: it runs, or has an attempt behind it
	over                 // it has ended
)

// lane is the calls of one tool that are to be submitted.
type lane struct {
	calls   []int32 // in order, those before first left out
	first   int
	shut    bool // one of them has found the queue full
	tickets int  // how many may be submitted though it is shut
	waiting int  // calls of the tool that were submitted and may wait
	index   int  // in one of the heaps
}

// newFeed returns a feed of calls of these tools, of which at most so many are under way at once.
func newFeed(tools []string, most int) *feed {
	f := &feed{most: most, calls: make([]fed, len(tools)), pending: len(tools), left: len(tools)}
	lanes := make(map[string]*lane)
	for i, tool := range tools {
		l := lanes[tool]
		if l == nil {
			l = &lane{index: len(f.ready)}
			lanes[tool] = l
			f.ready = append(f.ready, l) // a heap, since their first calls are in order
		}
		l.calls = append(l.calls, int32(i))
		f.calls[i].lane = l
	}
	return f
}

// mayGo reports whether next has a call.
func (f *feed) mayGo() bool {
	return len(f.ready) > 0 && !f.stopped && (f.open || f.most == 0 || f.under < f.most)
}

// next is the call that is submitted now.
func (f *feed) next() (i int, ok bool) {
	if !f.mayGo() {
		return 0, false
	}
	l := f.ready[0]
	i = l.head()
	l.first++
	if l.shut {
		l.tickets--
	}
	f.place(l, &f.ready)
	c := &f.calls[i]
	c.phase, c.alone, c.again, c.last = arrived, f.waiting == 0, l.shut, f.open
	l.waiting++
	f.waiting++
	f.pending--
	f.under++
	return i, true
}

// place puts l, which is in the heap or in none, where it belongs.
func (f *feed) place(l *lane, in *laneHeap) {
	to := &f.ready
	if l.shut && l.tickets == 0 {
		to = &f.blocked
	}
	switch {
	case in == to && !l.empty():
		heap.Fix(in, l.index)
		return
	case in != nil:
		heap.Remove(in, l.index)
	}
	if !l.empty() {
		heap.Push(to, l)
	}
}

// admit lets one more call of l go in, if calls of it are kept back.
func (f *feed) admit(l *lane) {
	if !l.shut || l.tickets >= len(l.calls)-l.first {
		return
	}
	in := &f.ready
	if l.tickets == 0 {
		in = &f.blocked
	}
	l.tickets++
	f.place(l, in)
}

// admitFirst lets one more of the calls go in that are kept back: the first there is.
func (f *feed) admitFirst() {
	switch {
	case len(f.blocked) > 0 && (len(f.ready) == 0 || !f.ready[0].shut || f.blocked[0].head() < f.ready[0].head()):
		f.admit(f.blocked[0])
	case len(f.ready) > 0:
		f.admit(f.ready[0])
	}
}

// leaves says that a call does not wait any more, and whether that makes room for another.
func (f *feed) leaves(c *fed, to phase, room bool) {
	was := c.phase
	c.phase = to
	if was != arrived && was != queued {
		return
	}
	c.lane.waiting--
	f.waiting--
	if room && (was == queued || c.again) {
		f.admitFirst()
	}
}

// settle lets the first call go in that is kept back if there is none whose leaving could.
func (f *feed) settle() {
	if f.waiting == 0 && len(f.ready) == 0 {
		f.admitFirst()
	}
}

// waits says that a call is in the queue.
func (f *feed) waits(i int) {
	switch c := &f.calls[i]; c.phase {
	case passed: // with another attempt
		c.lane.waiting++
		f.waiting++
		c.phase = queued
	case arrived:
		c.phase = queued
	}
}

// rests says that a call is going to make another attempt.
func (f *feed) rests(i int) {
	if c := &f.calls[i]; c.phase == arrived || c.phase == queued {
		f.leaves(c, passed, false)
		f.settle()
	}
}

// starts says that the code of a call begins.
func (f *feed) starts(i int) {
	c := &f.calls[i]
	if c.phase == pending || c.phase == over {
		return
	}
	f.leaves(c, passed, true)
	if c.at == 0 {
		f.started = append(f.started, int32(i))
		c.at = int32(len(f.started))
	}
	f.settle()
}

// full says that a call found the queue full. It reports whether calls of the batch may have filled it: then the
// call is to be submitted again.
func (f *feed) full(i int) bool {
	c := &f.calls[i]
	if c.phase == pending || c.phase == over {
		return false
	}
	others := f.waiting
	if c.phase != passed {
		others--
	}
	if c.last || c.alone && others == 0 {
		return false
	}
	f.leaves(c, pending, false)
	f.forget(c)
	l := c.lane
	in := &f.ready
	switch {
	case l.empty():
		in = nil
	case l.shut && l.tickets == 0:
		in = &f.blocked
	}
	l.putBack(int32(i))
	l.shut, l.tickets = !f.open, 0
	f.place(l, in)
	f.pending++
	f.under--
	f.settle()
	return true
}

// ends says that a call has ended.
func (f *feed) ends(i int) {
	c := &f.calls[i]
	if c.phase == pending || c.phase == over {
		return
	}
	f.leaves(c, over, true)
	f.forget(c)
	f.under--
	f.left--
	if c.lane.waiting == 0 { // what it held is for nobody else of its tool
		f.admit(c.lane)
	}
	f.settle()
}

// forget takes c out of those whose code has begun.
func (f *feed) forget(c *fed) {
	if c.at == 0 {
		return
	}
	last := len(f.started) - 1
	moved := f.started[last]
	f.started[c.at-1] = moved
	f.calls[moved].at = c.at
	f.started = f.started[:last]
	c.at = 0
}

// hurry keeps nothing back from now on.
func (f *feed) hurry() {
	f.open = true
	for len(f.blocked) > 0 {
		l := f.blocked[0]
		heap.Pop(&f.blocked)
		l.shut = false
		heap.Push(&f.ready, l)
	}
	for _, l := range f.ready {
		l.shut = false
	}
}

// head is the first of its calls.
func (l *lane) head() int { return int(l.calls[l.first]) }

func (l *lane) empty() bool { return l.first == len(l.calls) }

// putBack puts call i, which was one of l, into its place. There is room before the first.
func (l *lane) putBack(i int32) {
	at := l.first
	for ; at < len(l.calls) && l.calls[at] < i; at++ {
		l.calls[at-1] = l.calls[at]
	}
	l.calls[at-1] = i
	l.first--
}

// laneHeap has the lane first whose first call comes first.
type laneHeap []*lane

func (h laneHeap) Len() int           { return len(h) }
func (h laneHeap) Less(i, j int) bool { return h[i].head() < h[j].head() }

func (h laneHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *laneHeap) Push(x any) {
	l := x.(*lane)
	l.index = len(*h)
	*h = append(*h, l)
}

func (h *laneHeap) Pop() any {
	last := len(*h) - 1
	l := (*h)[last]
	*h = (*h)[:last]
	return l
}
