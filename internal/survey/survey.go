// Package survey reads what an admission stage counts and who waits in it, for a snapshot: so many
// cells and lanes under one hold of the stage's lock, and more under the next, so that calls get in
// between. However it is interrupted, each cell and lane is read once.
//
// It locks stages of internal/stage, and none for longer than reading the batch takes. It forgets
// cells that hold nothing, as the machine does by itself, and changes nothing else.
package survey

import (
	"cmp"
	"runtime"
	"slices"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// Source is a component whose cells are read.
type Source struct {
	Stage  *stage.Ref
	Limits func() []Limit // its constraints; asked once, with the stage locked
}

// Limit is one constraint: its cells and what they count by.
type Limit = rules.Limit

// Cell is one constraint under one key.
type Cell struct {
	Name      string
	Kind      admit.Kind
	Scope     string
	Unmatched []string // names of the scope that nothing registered has, and what may have been meant
	Key       string
	Limit     int64 // zero means none
	Used      int64
	Waiting   int
	State     breaker.State // of a breaker
	Paused    bool
	Stalled   bool
	Ordered   bool
	Until     time.Time
	Full      time.Time // of a rate that is not full: when it is again

	kind rules.Kind // of the scope, if there are some
}

// Lane is calls that wait in one line, or in several that look alike.
type Lane struct {
	Tool, Tenant string
	Level        int8
	Waiting      int
	Oldest       time.Duration
	By, Key      string
}

// Survey is what was read. Of several batches each has its own instant; what is of the whole
// stage is of the first.
type Survey struct {
	At               time.Time
	Running, Waiting int
	Lost             uint64 // notices
	Cells            []Cell
	Lanes            []Lane
}

// Names is what is registered, to find names in scopes that nothing has; nil if nobody asks.
type Names struct{ Tools, Types map[string]bool }

// Reading is a survey in the making. Make one with [New]. It is for one goroutine.
type Reading struct {
	Survey
	stage *stage.Stage
	names *Names
	begun bool

	sources []Source // to read, the first of them is being read
	limits  []Limit  // of it
	from    int      // in the cells of the first of limits, from the end; 0 at the beginning
	seen    map[string]int
	cells   []*admit.Cell // scratch

	lanes     int // to read, from the end; 0 at the end
	lanesSeen map[uint64]bool
	laneRows  []admit.Lane // scratch
}

// New is a reading of a stage and of sources, which belong to it, and are its own from now on.
func New(at *stage.Stage, sources []Source, names *Names) *Reading {
	return &Reading{stage: at, sources: sources, names: names}
}

// Next reads on under one hold of the lock, up to n cells and lanes, and reports whether there
// are more.
func (r *Reading) Next(n int) bool {
	r.Cells, r.Lanes = room(r.Cells, n), room(r.Lanes, n) // not while the lock is held
	s := r.stage.Lock()
	now := s.Now()
	if !r.begun {
		r.begun = true
		r.At, r.Lost = s.Clock.Time(now), s.Lost()
		r.Running, r.Waiting = s.M.Running(), s.M.Waiting()
		r.lanes = s.M.LaneCount()
	}
	for n > 0 && len(r.sources) > 0 {
		if at := r.sources[0].Stage; !at.Leads(s) { // it has gone elsewhere
			s.Unlock()
			s = at.Lock()
			r.source(s, s.Now(), n)
			s.Unlock()
			runtime.Gosched() // whoever waits for the lock is next
			return true
		}
		n = r.source(s, now, n)
	}
	if n > 0 && r.lanes > 0 {
		r.laneRows, r.lanes = s.M.LaneBatch(r.laneRows[:0], r.lanes, n)
		for _, l := range r.laneRows {
			r.lane(now, l)
		}
	}
	more := len(r.sources) > 0 || r.lanes > 0
	s.Unlock()
	if more {
		runtime.Gosched()
	}
	return more
}

// room is s with room for n more, and for as many as there are if it has to be made.
func room[E any](s []E, n int) []E {
	if cap(s)-len(s) >= n {
		return s
	}
	return slices.Grow(s, max(n, len(s)))
}

// source reads on at the first of r's sources, and answers how many of n cells are left to read.
func (r *Reading) source(s *stage.Stage, now int64, n int) int {
	if r.limits == nil {
		r.limits = r.sources[0].Limits()
		n-- // so that many without cells are read in batches too
	}
	for len(r.limits) > 0 && n > 0 {
		n -= r.limit(s, now, r.limits[0], n)
	}
	if len(r.limits) == 0 {
		r.sources, r.limits = r.sources[1:], nil
	}
	return n
}

// limit reads up to n cells of l, which is done with then unless there are more. It answers how
// many it read.
func (r *Reading) limit(s *stage.Stage, now int64, l Limit, n int) int {
	first := r.from == 0
	if first {
		s.M.Prune(now, l.Class)
		r.from = l.Class.Len()
	}
	r.cells, r.from = l.Class.Batch(r.cells[:0], r.from, n)
	if first && r.from > 0 {
		r.seen = make(map[string]int)
	}
	unmatched := r.names.unmatched(l.Scope)
	for _, c := range r.cells {
		x := cellOf(s, now, c, l.Scope, unmatched)
		if i, twice := r.seen[x.Key]; twice {
			r.Cells[i] = x
			continue
		}
		if r.seen != nil {
			r.seen[x.Key] = len(r.Cells)
		}
		r.Cells = append(r.Cells, x)
	}
	if len(r.cells) == 0 && first && unmatched != nil {
		r.Cells = append(r.Cells, cellOf(s, now, s.M.Peek(now, l.Class, ""), l.Scope, unmatched))
	}
	if r.from == 0 {
		r.limits, r.seen = r.limits[1:], nil
	}
	return len(r.cells)
}

func cellOf(s *stage.Stage, now int64, c *admit.Cell, scope rules.Scope, unmatched []string) Cell {
	k, u := c.Class(), c.Usage(now)
	x := Cell{
		Name:      k.Name,
		Kind:      k.Kind,
		Scope:     scope.String(),
		Unmatched: unmatched,
		Key:       c.Key(),
		Limit:     u.Limit,
		Used:      u.Used,
		Waiting:   u.Waiting,
		Paused:    u.Paused > now,
		Stalled:   u.Stalled,
		Ordered:   k.Ordered,
	}
	if unmatched != nil {
		x.kind = scope.Kind()
	}
	if x.Limit == admit.Unlimited {
		x.Limit = 0
	}
	if k.Kind == admit.Breaker {
		x.State = c.BreakerState(now)
	}
	if until := max(u.Paused, u.Until); until > now && until < admit.Never {
		x.Until = s.Clock.Time(until)
	}
	if u.Full > now && u.Full < admit.Never {
		x.Full = s.Clock.Time(u.Full)
	}
	return x
}

// unmatched is the names of a scope that nothing registered has.
func (n *Names) unmatched(s rules.Scope) (out []string) {
	if n == nil {
		return nil
	}
	has := n.Tools
	if s.Kind() == rules.ForType {
		has = n.Types
	}
	for _, name := range s.Names() {
		if !has[name] {
			out = append(out, name)
		}
	}
	return out
}

// lane notes a lane unless it has been read before. Nested calls have lanes of their own, and
// others may differ by what they need elsewhere; Done makes one of those that look alike.
func (r *Reading) lane(now int64, l admit.Lane) {
	if r.lanesSeen[l.Born] {
		return
	}
	if r.lanesSeen == nil && r.lanes > 0 {
		r.lanesSeen = make(map[uint64]bool)
	}
	if r.lanesSeen != nil {
		r.lanesSeen[l.Born] = true
	}
	r.Lanes = append(r.Lanes, Lane{
		Tool:    l.Tool,
		Tenant:  l.Tenant,
		Level:   l.Level,
		Waiting: l.Waiting,
		Oldest:  time.Duration(now - l.Since),
		By:      l.At.Class().Name,
		Key:     l.At.Key(),
	})
}

// Done is what was read, in order.
func (r *Reading) Done() *Survey {
	slices.SortFunc(r.Cells, func(a, b Cell) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Key, b.Key))
	})
	slices.SortFunc(r.Lanes, Lane.compare)
	lanes := r.Lanes[:0]
	for _, l := range r.Lanes {
		if n := len(lanes); n > 0 && lanes[n-1].compare(l) == 0 {
			lanes[n-1].Waiting += l.Waiting
			lanes[n-1].Oldest = max(lanes[n-1].Oldest, l.Oldest)
		} else {
			lanes = append(lanes, l)
		}
	}
	r.Lanes = lanes
	r.names.explain(r.Cells)
	return &r.Survey
}

// What is looked at, at most, to find what was meant by names that nothing has.
const (
	maxExplained = 8 // names of a survey
	maxAmong     = 1000
)

// explain adds to unmatched names what may have been meant by them: others, or the other kind of scope. It holds
// no lock.
func (n *Names) explain(cells []Cell) {
	if n == nil || max(len(n.Tools), len(n.Types)) > maxAmong {
		return
	}
	left := maxExplained
	for i := range cells {
		c := &cells[i]
		if len(c.Unmatched) == 0 {
			continue
		}
		c.Unmatched = slices.Clone(c.Unmatched)
		for j := range c.Unmatched[:min(left, len(c.Unmatched))] {
			c.Unmatched[j] += n.hint(c.kind, c.Unmatched[j])
			left--
		}
	}
}

// hint is what may have been meant by a name that a scope has and nothing else.
func (n *Names) hint(kind rules.Kind, name string) string {
	has, other, is := n.Tools, n.Types, "a type: ForType"
	if kind == rules.ForType {
		has, other, is = n.Types, n.Tools, "a tool: ForTool"
	}
	if other[name] {
		return " (there is " + is + "?)"
	}
	if near, ok := errtext.Meant(name, has).(errtext.Names); ok {
		return " (" + near.Error() + ")"
	}
	return ""
}

func (l Lane) compare(o Lane) int {
	return cmp.Or(cmp.Compare(o.Level, l.Level), cmp.Compare(l.Tool, o.Tool), cmp.Compare(l.Tenant, o.Tenant),
		cmp.Compare(l.By, o.By), cmp.Compare(l.Key, o.Key))
}
