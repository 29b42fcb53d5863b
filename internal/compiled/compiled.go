// Package compiled keeps what has been compiled for the tools of a registry: one plan for each
// tool that was asked for, made when it first is.
//
// The registry is a row of snapshots. A [Table] holds the plans for one of them; [Table.Find]
// reads it without a lock, and finds nothing once the registry has gone on. Who finds nothing
// asks [Table.Make], which first follows the registry:
//
//	the tool is as it was   its plan stays
//	the tool has gone       its plan is dropped
//	the tool was replaced   its plan is set aside, and dropped once the new tool has a plan or
//	                        has gone too: until then what it holds is not forgotten
//
// Making a plan may take code of others, which may block or call Goexit, and may itself ask for
// the tool. It runs on a goroutine of its own, and whoever asks stops waiting when it likes; the
// plan is kept for those who come later. Each plan that is made is found or dropped in the end,
// and dropped once.
//
// What a tool and a plan are the package does not know: it is told by a [Config]. One mutex
// guards changes. It is held while a plan is dropped, so that who clears the table has seen the
// last of it, and never while a plan is made.
package compiled

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sluice-go/sluice/internal/cow"
)

// Config is what a table is told. None of it may call the table, but for Finish.
type Config[S comparable, T, P any] struct {
	// Current is the registry's latest snapshot, which is never the zero S; equal ones are the
	// same. The table is locked.
	Current func() S
	// Tool is the tool of that name in a snapshot; nil if there is none.
	Tool func(s S, name string) *T
	// Change is the number of a snapshot, and the name of the one tool in which it may differ
	// from that with the number before. Number zero has no tools.
	Change func(S) (seq uint64, name string)

	Begin func(*T) *P     // makes a plan, but for what Finish does
	Of    func(*P) *T     // is the tool that it was made for
	Name  func(*T) string // is the tool's own: another of the same text may be part of something large
	// Finish runs the code of others that belongs to a plan. It may block and call Goexit, but
	// not panic; the plan is used as it leaves it. nil means that there is no such code.
	Finish func(*P)
	// Drop lets go of plans that nobody finds any more; who has found one before may still use
	// it. The table is locked, and no longer is when what Drop answers is called.
	Drop func([]*P) (then func())
	// A goroutine is counted in by Starts before it exists, and out by Ends as the last it does.
	// The table is locked when it starts.
	Starts, Ends func()
}

// Table is the plans of one user of a registry. It must be told its [Config] by [Table.Init]; then
// it is safe for concurrent use.
type Table[S comparable, T, P any] struct {
	conf Config[S, T, P]
	now  atomic.Pointer[version[S, P]]

	mu     sync.Mutex // guards the fields below, and is held by who writes now
	making map[*T]*making[P]
}

// version is the plans for one snapshot. It never changes once it is stored, but for what near has.
type version[S comparable, P any] struct {
	snap  S
	seq   uint64
	plans map[string]*P
	aside map[string]*P // of tools that were replaced
	near  *near[P]      // some of plans, found quicker
}

// near has plans where their names lead without hashing: the first that was asked for there.
type near[P any] [16]atomic.Pointer[named[P]]

type named[P any] struct {
	name string
	plan *P
}

// at is where the plan of that name would be.
func (n *near[P]) at(name string) *atomic.Pointer[named[P]] {
	last := len(name) - 1
	return &n[(int(name[0])+5*int(name[last])+last)%len(n)]
}

// making is a plan in the making, by one goroutine or two: the code of others may itself ask for
// the tool, and waits for another's plan then.
type making[P any] struct {
	done chan struct{} // closed when plan is there
	plan *P
	runs int // goroutines at it, guarded by the table's mu
}

// maxRuns is how many goroutines make one plan.
const maxRuns = 2

// Init makes x, which must be zero, an empty table.
func (x *Table[S, T, P]) Init(c Config[S, T, P]) {
	x.conf = c
	x.now.Store(new(version[S, P]))
}

// Find is the plan of the tool of that name in s, the registry's latest snapshot; nil if it was
// not made yet, or there is no such tool.
func (x *Table[S, T, P]) Find(s S, name string) *P {
	v := x.now.Load()
	if v.snap != s || name == "" {
		return nil
	}
	at := v.near.at(name)
	n := at.Load()
	if n != nil && n.name == name {
		return n.plan
	}
	p := v.plans[name]
	if n == nil && p != nil {
		at.CompareAndSwap(nil, &named[P]{x.conf.Name(x.conf.Of(p)), p})
	}
	return p
}

// Make is the plan of t, which was a tool of the latest snapshot, made if need be.
// It is nil if over is closed before it is there.
func (x *Table[S, T, P]) Make(t *T, over <-chan struct{}) *P {
	name := x.conf.Name(t)
	x.Follow()
	if p := x.now.Load().plans[name]; x.isOf(p, t) {
		return p
	}
	if x.conf.Finish == nil {
		return x.keep(name, t, x.conf.Begin(t))
	}
	m := x.join(name, t)
	select {
	case <-m.done:
		return m.plan
	case <-over:
		return nil
	}
}

// Follow makes the table that of the registry's latest snapshot: plans that are not needed any
// more have been dropped when it returns.
func (x *Table[S, T, P]) Follow() {
	x.mu.Lock()
	old := x.now.Load()
	v, gone := x.follow(old)
	if v.snap == old.snap {
		x.mu.Unlock()
		return
	}
	x.store(&v, gone)
}

// keep follows the registry and adds a plan of t, unless there is one already. It answers the
// plan that whoever asked for one is to use.
func (x *Table[S, T, P]) keep(name string, t *T, p *P) *P {
	x.mu.Lock()
	v, gone := x.follow(x.now.Load())
	switch was := v.plans[name]; {
	case x.isOf(was, t): // another was first
		p, gone = was, append(gone, p)
	case x.conf.Tool(v.snap, name) == t:
		v.plans = cow.With(v.plans, name, p)
		if old := v.aside[name]; old != nil {
			v.aside, gone = cow.Without(v.aside, name), append(gone, old)
		}
	default: // the tool has gone meanwhile, and the call that found it still runs
		gone = append(gone, p)
	}
	x.store(&v, gone)
	return p
}

// isOf reports whether p is a plan of t. There may be no plan.
func (x *Table[S, T, P]) isOf(p *P, t *T) bool { return p != nil && x.conf.Of(p) == t }

// Clear empties the table. It has dropped all plans that were kept when it returns.
func (x *Table[S, T, P]) Clear() {
	x.mu.Lock()
	var gone []*P
	v := x.now.Load()
	for _, list := range []map[string]*P{v.plans, v.aside} {
		gone = slices.AppendSeq(gone, maps.Values(list))
	}
	x.store(new(version[S, P]), gone)
}

// store makes v the table, drops what has gone, and unlocks it.
func (x *Table[S, T, P]) store(v *version[S, P], gone []*P) {
	v.near = new(near[P])
	x.now.Store(v)
	if len(gone) == 0 {
		x.mu.Unlock()
		return
	}
	then := x.conf.Drop(gone)
	x.mu.Unlock()
	then()
}

// follow is what comes of a version in the registry's latest snapshot, and the plans that nobody
// needs any more. With many tools it matters that nothing looks at each of them where one has
// changed. The maps of a version are those of the one before until they change.
func (x *Table[S, T, P]) follow(old *version[S, P]) (v version[S, P], gone []*P) {
	v = *old
	s := x.conf.Current()
	if s == old.snap {
		return v, nil
	}
	v.snap = s
	var changed string
	if v.seq, changed = x.conf.Change(s); v.seq == old.seq+1 {
		gone = x.followOne(&v, changed, nil)
		return v, gone
	}
	for n := range old.plans {
		gone = x.followOne(&v, n, gone)
	}
	for n := range old.aside {
		gone = x.followOne(&v, n, gone)
	}
	return v, gone
}

// followOne has v know what its snapshot has of the tool of that name, and adds to gone the
// plans that nobody needs any more.
func (x *Table[S, T, P]) followOne(v *version[S, P], name string, gone []*P) []*P {
	now := x.conf.Tool(v.snap, name)
	if p := v.plans[name]; p != nil && !x.isOf(p, now) {
		v.plans = cow.Without(v.plans, name)
		if now == nil {
			gone = append(gone, p)
		} else {
			v.aside = cow.With(v.aside, name, p) // what was there before was dropped when p came
		}
	}
	if p := v.aside[name]; p != nil && now == nil {
		v.aside = cow.Without(v.aside, name)
		gone = append(gone, p)
	}
	return gone
}

// join has the plan of t made, by one goroutine more if that is not too many.
func (x *Table[S, T, P]) join(name string, t *T) *making[P] {
	x.mu.Lock()
	defer x.mu.Unlock()
	m := x.making[t]
	if m == nil {
		m = &making[P]{done: make(chan struct{})}
		if x.making == nil {
			x.making = make(map[*T]*making[P])
		}
		x.making[t] = m
	}
	if m.runs < maxRuns {
		m.runs++
		x.conf.Starts()
		go x.run(m, name, t)
	}
	return m
}

// run makes the plan of t. The first who has done that has made it for all who wait.
func (x *Table[S, T, P]) run(m *making[P], name string, t *T) {
	defer x.conf.Ends()
	plan := x.conf.Begin(t)
	defer func() { // also after Goexit
		plan = x.keep(name, t, plan)
		x.mu.Lock()
		defer x.mu.Unlock()
		if m.plan == nil {
			m.plan = plan
			close(m.done)
		}
		if m.runs--; m.runs == 0 {
			delete(x.making, t)
		}
	}()
	x.conf.Finish(plan)
}
