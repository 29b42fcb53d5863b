package admit

import (
	"fmt"
	"iter"
	"slices"
)

// What the model knows of ordered limits, by several keys: who came earlier among those that need a
// cell, and whether anybody waits for its turn for himself.

// withFiles adds an ordered limit by key to the plans from the from-th on.
func (w *model) withFiles(from int, unit bool) {
	name := ""
	if !unit {
		name = "weight"
	}
	k := w.class("files", Slots, 3, name, 4)
	k.class.Refuse, k.refuse = false, false
	k.class.Ordered = true
	k.class.Weighted = w.rng.IntN(2) == 0
	for i := range w.plans[from:] {
		p := &w.plans[from+i]
		p.files = k
		var fixed []*Cell
		for _, n := range p.fixed {
			fixed = append(fixed, n.cell.cell)
		}
		w.ms[0].Together(fixed, []*Class{k.class})
	}
}

// open has x need up to three files, and reports whether there was room for all of them.
func (w *model) open(x *modelCall, k *modelClass) bool {
	w.late()
	var keys []string
	for range w.rng.IntN(4) {
		if key := fmt.Sprint("f", w.rng.IntN(5)); !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	weights := map[string]int64{}
	n := int64(1)
	if k.class.Unit != "" && w.rng.IntN(3) == 0 {
		n = k.class.Limit
	}
	for _, key := range keys {
		if weights[key] = 1; k.class.Weighted {
			n, weights[key] = 1, []int64{1, 1, 2, k.class.Limit}[w.rng.IntN(4)]
		}
	}
	var full string
	t := w.ms[0].Ticket()
	defer w.ms[0].Free(t)
	ok := w.ms[0].AddEach(w.now, t, k.class, weighing(keys, weights), n, func(_ *Machine, _ int64, _ *Class, key string) *Cell {
		c := w.cell(k, key)
		if c == nil {
			full = key
			return nil
		}
		x.needs = append(x.needs, modelNeed{c, n * weights[key]})
		return c.cell
	})
	if !ok {
		busy := 0
		for _, n := range x.needs { // those that it has found are kept for it
			if c := n.cell; c.class == k && c.calls+c.waits == 0 {
				busy++
			}
		}
		w.fullBut(k, full, busy)
	}
	return ok
}

// weighing is keys with their weights.
func weighing(keys []string, weights map[string]int64) iter.Seq2[string, int64] {
	return func(yield func(string, int64) bool) {
		for _, k := range keys {
			if !yield(k, max(1, weights[k])) {
				return
			}
		}
	}
}

// need is what x needs of c.
func (x *modelCall) need(c *modelCell) int64 {
	for _, n := range x.needs {
		if n.cell == c {
			return n.n
		}
	}
	return 0
}

// inTurn reports whether no call that waits, needs c and keeps order there came before x.
func (w *model) inTurn(x *modelCall, c *modelCell) bool { return w.ahead(x, c) == nil }

// ahead is the first such call, or nil.
func (w *model) ahead(x *modelCall, c *modelCell) *modelCall {
	if !c.class.class.Ordered || x.t.lane != nil && x.t.lane.passesAt(c.cell) {
		return nil
	}
	var first, wide *modelCall
	narrow := int64(0)
	for _, y := range w.waiting {
		if y == x || !y.needsCell(c) {
			continue
		}
		if !y.isWide(c) {
			narrow += y.need(c)
		}
		if y.seq < x.seq && (first == nil || y.seq < first.seq) {
			first = y
		}
		if y.seq < x.seq && y.isWide(c) && (wide == nil || y.seq < wide.seq) {
			wide = y
		}
	}
	if !c.class.class.Weighted || x.isWide(c) {
		return first
	}
	if !slices.Contains(w.running, x) {
		narrow += x.need(c)
	}
	if wide == nil && c.used()+narrow <= c.limit {
		return nil // there is room for all that are narrow
	}
	if wide != nil {
		return wide
	}
	return first
}

// isWide reports whether x needs more than half of what c had when it came to wait there.
func (x *modelCall) isWide(c *modelCell) bool {
	if !c.class.class.Weighted {
		return false
	}
	if x.t.lane != nil {
		return x.t.lane.spot(c.cell).wide
	}
	return x.need(c) > c.limit/2
}

func (x *modelCall) needsCell(c *modelCell) bool {
	return slices.ContainsFunc(x.needs, func(n modelNeed) bool { return n.cell == c })
}

// keptOrder checks that x, which has just started before those of later, passed nobody.
func (w *model) keptOrder(x *modelCall, later []*modelCall) {
	for _, n := range x.needs {
		c := n.cell
		if !c.class.class.Ordered || x.lends(c) != nil {
			continue
		}
		y := w.ahead(x, c)
		for _, z := range later {
			if c.class.class.Weighted && !z.isWide(c) && !x.isWide(c) {
				continue // both fit
			}
			if z.seq < x.seq && z.needsCell(c) && z.lends(c) == nil && !z.nested {
				y = z
			}
		}
		switch {
		case y == nil:
		case x.nested:
			w.counts.passes++
		default:
			w.fatal("call %d started at %s %s before %d, which came earlier", x.seq, c.class.class.Name, c.key, y.seq)
		}
	}
}

// checkTurns fails if somebody waits for himself by order alone.
func (w *model) checkTurns() {
	with := w.willEnd(true)
	if len(with) == len(w.waiting)+len(w.running) {
		return
	}
	without := w.willEnd(false)
	for x := range without {
		if !with[x] {
			w.fatal("call %d (nested %v) waits for its turn, and so for itself", x.seq, x.nested)
		}
	}
}

// willEnd is the calls of which it cannot be said yet that they wait in vain: those that run, unless all
// that they called do, and those that wait for time, or where there is room, or for one of whom it cannot
// be said either.
func (w *model) willEnd(order bool) map[*modelCall]bool {
	ends := map[*modelCall]bool{}
	waits := map[*modelCall]bool{}
	for _, x := range w.waiting {
		waits[x] = true
	}
	var active func(x *modelCall) bool
	active = func(x *modelCall) bool {
		return !waits[x] && (len(x.kids) == 0 || slices.ContainsFunc(x.kids, active))
	}
	starts := func(x *modelCall) bool {
		if w.behindBucket(x) {
			return true // for a time
		}
		full, behind := false, false
		for _, n := range x.needs {
			c := n.cell
			if w.shut(c) || c.class.kind != Slots && !w.agrees(x, n) {
				return true // likewise
			}
			if c.class.kind != Slots || x.lends(c) != nil {
				continue
			}
			if c.used()+n.n > c.limit {
				full = true
				if slices.ContainsFunc(c.holds, func(h *hold) bool {
					return slices.ContainsFunc(h.chain, func(y *modelCall) bool { return ends[y] })
				}) {
					return true
				}
			}
			if y := w.ahead(x, c); order && y != nil {
				behind = true
				if ends[y] { // the first of them
					return true
				}
			}
		}
		return !full && !behind
	}
	for more := true; more; {
		more = false
		for _, x := range slices.Concat(w.running, w.waiting) {
			if ends[x] {
				continue
			}
			if waits[x] {
				ends[x] = starts(x)
			} else {
				ends[x] = active(x) || slices.ContainsFunc(x.kids, func(k *modelCall) bool { return ends[k] })
			}
			if ends[x] {
				more = true
			} else {
				delete(ends, x)
			}
		}
	}
	return ends
}
