package stage

import (
	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/few"
	"github.com/sluice-go/sluice/internal/recall"
	"github.com/sluice-go/sluice/internal/record"
	"github.com/sluice-go/sluice/internal/rules"
)

// Part is one constraint on the calls of a tool.
type Part struct {
	Class *admit.Class
	Cell  *admit.Cell // unless keyed
	Key   int         // which of a call's keys, if keyed; else -1
	Some  bool        // calls whose key is empty do not count
	Each  bool        // that key is several, see rules.JoinKeys
	Unit  int         // which of a call's costs, or -1: every call takes one
}

// Answers is what is known of a call before the stage is locked: its keys, and its cost of each unit.
type Answers struct {
	Keys  recall.Keys
	Costs few.List[int64]
}

// Needs is what the calls of a tool need. For keys that come again and again it remembers that: calls
// find it without the lock, as they find out that they need not take the lock either.
type Needs struct {
	Parts []Part // narrow before wide; never changes

	tool    *Tool               // whose calls they are; never changes, nor do the next three
	outline admit.Outline       // of Parts, for calls that take one of each
	keyed   []int               // which of Parts are
	each    []int               // which of those have several keys
	lately  *recall.Table[Tool] // the tool as calls see it that have certain keys; nil if all need the same, or costs differ
	way     admit.Way           // of calls with keys
	dropped bool                // the plan keeps the cells of Parts no more
}

// Compile makes n ready for calls of x, which bring so many keys and costs. The stage is locked.
func (n *Needs) Compile(x *Tool, keys, costs int) {
	n.tool = x
	var fixed []*admit.Cell
	var keyed []*admit.Class
	var list []admit.Need
	for i, p := range n.Parts {
		if p.Each {
			n.each = append(n.each, i)
		}
		if n.outline.Add(p.Class, p.Cell); p.Cell == nil {
			n.keyed = append(n.keyed, i)
			keyed = append(keyed, p.Class)
			continue
		}
		fixed = append(fixed, p.Cell)
		list = append(list, admit.Need{Cell: p.Cell, N: 1})
	}
	m := x.Stage.M
	m.Together(fixed, keyed)
	switch {
	case costs > 0:
	case keys > 0:
		n.lately = &recall.Table[Tool]{
			Alive: func(x *Tool) bool { return x.Needs.IsAlive() },
			Left:  func(x *Tool) { m.Unshare(x.Needs) },
		}
	default:
		x.Costs = record.Costs([]record.Cost{}, list, nil)
		x.Needs = admit.NewNeedSet(list)
	}
}

// Quicken says that calls may come without the lock as far as their tool knows. That may turn out after Compile, once
// or again, before the first of them comes. The stage is locked.
func (n *Needs) Quicken() {
	if n.way != (admit.Way{}) || n.dropped {
		return
	}
	if n.way = admit.QuickWay(); n.tool.Needs != nil {
		n.tool.Stage.M.Quicken(n.tool.Needs, &n.way)
	}
}

// Of is the tool as a call sees it of which that is known: with its Needs, unless they have to be put
// together. It needs no lock.
func (n *Needs) Of(q *Answers) *Tool {
	if n.lately != nil {
		if x := n.lately.Find(&q.Keys); x != nil {
			return x
		}
	}
	return n.tool
}

// CellFunc finds or makes the cell of a key: Machine.Cell, or Machine.Peek for a forecast.
type CellFunc func(*admit.Machine, int64, *admit.Class, string) *admit.Cell

// Fill gives t what a call needs that sees the tool as x. It answers the constraint whose table of
// keys is full, or nil. The stage is locked.
func (n *Needs) Fill(now int64, t *admit.Ticket, x *Tool, q *Answers, cell CellFunc) (full *admit.Class) {
	m := n.tool.Stage.M
	if x.Needs != nil && !n.dropped && x.Needs.IsAlive() {
		m.Fixed(t, x.Needs)
		return nil
	}
	if n.lately == nil || n.dropped || n.skips(q) || n.several(q) {
		return n.fillEach(now, t, q, cell)
	}
	list := m.Draw(t, &n.outline)
	t.Along(&n.way)
	for _, i := range n.keyed {
		p := &n.Parts[i]
		if list[i].Cell = cell(m, now, p.Class, q.Keys.At(p.Key)); list[i].Cell == nil {
			return p.Class
		}
	}
	return nil
}

// skips reports whether a call with those keys is not subject to some part.
func (n *Needs) skips(q *Answers) bool {
	for _, i := range n.keyed {
		if p := &n.Parts[i]; p.Some && q.Keys.At(p.Key) == "" {
			return true
		}
	}
	return false
}

// several reports whether some key of a call is one of those that are several: they are put together for
// each call, which is likely to have others.
func (n *Needs) several(q *Answers) bool {
	for _, i := range n.each {
		if q.Keys.At(n.Parts[i].Key) != "" {
			return true
		}
	}
	return false
}

// fillEach is Fill where parts do not apply, or calls take more or less of them.
func (n *Needs) fillEach(now int64, t *admit.Ticket, q *Answers, cell CellFunc) (full *admit.Class) {
	m := n.tool.Stage.M
	for i := range n.Parts {
		p, need := &n.Parts[i], int64(1)
		if p.Unit >= 0 {
			switch need = q.Costs.At(p.Unit); {
			case p.Class.Kind == admit.Tokens:
				need = min(need, p.Class.Rate.Burst()) // zero too: what it turns out to use counts
			case need == 0:
				continue
			default:
				need = min(need, rules.MaxLimit+1) // too wide whatever it is, and sums stay in range
			}
		}
		c := p.Cell
		if c == nil || n.dropped {
			key := ""
			if c != nil {
				key = c.Key()
			} else if key = q.Keys.At(p.Key); key == "" && p.Some {
				continue
			}
			if p.Each {
				if !m.AddEach(now, t, p.Class, rules.EachKey(key), need, cell) {
					return p.Class
				}
				continue
			}
			if c = cell(m, now, p.Class, key); c == nil {
				return p.Class
			}
		}
		m.Add(t, c, need)
	}
	if n.lately != nil && !n.dropped {
		t.Along(&n.way)
	}
	return nil
}

// Note notes that a call with those keys came, and got its needs t by Fill, with cells that stay. If
// they come again and again, the next will find them. The stage is locked.
func (n *Needs) Note(t *admit.Ticket, q *Answers) {
	if n.lately == nil || n.dropped || t.IsFixed() || n.several(q) || !n.lately.ComesAgain(&q.Keys) {
		return
	}
	x := *n.tool
	x.Needs = x.Stage.M.Share(t, &n.way)
	x.Costs = record.Costs([]record.Cost{}, t.Needs(), nil)
	n.lately.Put(&q.Keys, &x)
}

// Drop has n keep no cell any more: nobody finds the plan. A call that has found it before finds its
// cells by their keys then. The stage is locked.
func (n *Needs) Drop() {
	m := n.tool.Stage.M
	n.dropped = true
	m.Retire(&n.way)
	if n.lately != nil {
		n.lately.Clear()
	}
	for _, p := range n.Parts {
		if p.Cell != nil {
			m.Unpin(n.tool.Stage.Now(), p.Cell)
		}
	}
}
