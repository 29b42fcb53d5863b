// Package record notes what admission knows of a call: for how long it waited and for what, who
// overtook it, what it cost. It reads tickets of internal/admit, so whoever owns their machine
// calls it, under the same lock; once the caller has a record nobody writes into it.
package record

import (
	"cmp"
	"slices"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/slab"
)

// Record is what is known of one call. The zero value says nothing; see [New].
type Record struct {
	Wait      time.Duration // of all attempts
	Place     int32         // in the queue on arrival, from 1; 0 means not queued
	Overtaken int32
	Attempts  int32
	shared    bool   // Costs is others' as well
	Partial   any    // that the tool has left of its result, or By
	Waits     []Wait // in the order in which they began
	Costs     []Cost

	waits [1]Wait // where most of them fit
}

// priced is a record of a call whose costs are its own.
type priced struct {
	Record
	costs [2]Cost // where most of them fit
}

// Wait is time spent on one constraint.
type Wait struct {
	By  string
	For time.Duration
}

// Cost is one unit's estimate and its actual use: the estimate, if nothing was reported.
type Cost struct {
	Unit     string `json:"unit"`
	Estimate int64  `json:"estimate"`
	Actual   int64  `json:"actual"`
}

var (
	records slab.Slab[Record]
	ofOwn   slab.Slab[priced]
)

// New is an empty record of a call that costs what others like it do, which is not changed.
func New(costs []Cost) *Record {
	r := records.Take()
	r.Waits, r.Costs, r.shared = r.waits[:0], costs, true
	return r
}

// NewPriced is one of a call whose costs are its own.
func NewPriced() *Record {
	r := ofOwn.Take()
	r.Waits, r.Costs = r.waits[:0], r.costs[:0]
	return &r.Record
}

// Note adds what m knows of t, the ticket of that attempt, which waits no more. The stage is locked: a
// constraint may get another name.
func (r *Record) Note(m *admit.Machine, t *admit.Ticket, attempt int32) {
	r.Attempts = max(r.Attempts, attempt)
	r.Place = int32(t.Place())
	r.Overtaken += int32(m.Overtaken(t))
	for _, w := range t.Waits() {
		d, name := time.Duration(w.For), w.Cell.Class().Name
		r.Wait += d
		if i := slices.IndexFunc(r.Waits, func(x Wait) bool { return x.By == name }); i >= 0 {
			r.Waits[i].For += d
		} else {
			r.Waits = append(r.Waits, Wait{name, d})
		}
	}
	r.charge(t)
}

// Longest is the waits of r, the longest first, as a list of its own.
func (r *Record) Longest() []Wait {
	list := slices.Clone(r.Waits)
	slices.SortStableFunc(list, func(a, b Wait) int { return cmp.Compare(b.For, a.For) })
	return list
}

// charge notes what t costs, and has turned out to use.
func (r *Record) charge(t *admit.Ticket) {
	used := t.Settled()
	if r.shared {
		if len(used) == 0 {
			return
		}
		r.Costs, r.shared = nil, false
	}
	r.Costs = Costs(r.Costs[:0], t.Needs(), used)
}

// With is a copy of r, which may be nil, with the costs of t as they are now; nil if there is
// nothing to say.
func (r *Record) With(t *admit.Ticket) *Record {
	if r == nil && len(t.Settled()) == 0 {
		return nil
	}
	c := Record{Attempts: 1}
	if r != nil {
		c = *r
	}
	c.Costs = Costs(nil, t.Needs(), t.Settled())
	return &c
}

// By is who has answered instead of the tool, as a Record's Partial.
type By string

// By is who that is; empty if it is the tool, or r is nil.
func (r *Record) By() By {
	if r == nil {
		return ""
	}
	by, _ := r.Partial.(By)
	return by
}

// WithPartial is a copy of r, which may be nil, with what a tool has left; r itself if it has left
// nothing. The copy is made alone: what v leads to is nobody else's.
func (r *Record) WithPartial(v *any) *Record {
	if v == nil {
		return r
	}
	c := new(Record)
	if r != nil {
		*c = *r
	}
	c.Partial = *v
	return c
}

// Costs appends what a call is charged of each unit to list, and what it turned out to use.
func Costs(list []Cost, needs []admit.Need, used []admit.Used) []Cost {
	for _, n := range needs {
		k := n.Cell.Class()
		if k.Kind != admit.Tokens && (k.Kind != admit.Slots || k.Unit == "") {
			continue
		}
		if slices.ContainsFunc(list, func(c Cost) bool { return c.Unit == k.Unit }) {
			continue
		}
		c, said := Cost{k.Unit, n.N, n.N}, n.N > 0
		for _, u := range used {
			if u.Unit == k.Unit {
				c.Actual, said = u.N, true
			}
		}
		if said {
			list = append(list, c)
		}
	}
	return list
}
