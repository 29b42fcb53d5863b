package verify

import (
	"slices"

	"github.com/sluice-go/sluice"
)

// A call that was admitted without the lock leaves no trace of when others took tokens after it, or the rate was
// changed. What it reports then, if so, is not exact: more is taken from that instant on, and of less no more
// goes back than would have. Nobody outside can tell how a call was admitted, so the model asks the
// library which it was.

// outcome is one of what a report may come to.
type outcome struct {
	have  int64 // of the bucket
	apply func()
}

// quick reports whether x may have been admitted without the lock.
func (x *call) quick() bool {
	return !x.nested && !x.waited && x.tool.policy.Cost == nil
}

// since is how much others have taken after x, as it is by now.
func (c *cell) since(x *charge) (sum int64) {
	i := slices.IndexFunc(c.events, func(e event) bool { return e.charge == x })
	for _, e := range c.events[i+1:] {
		if e.charge != nil {
			sum += e.charge.taken()
		}
	}
	return sum
}

// isLast reports whether nothing has become of c since x: nobody has taken from it, nor has it been changed.
func (c *cell) isLast(x *charge) bool {
	n := len(c.events)
	return n > 0 && c.events[n-1].charge == x
}

// outcomes are what may become of x, which is not forgiven, if n is reported: as charged from the beginning,
// unless that was over with an earlier report; from now on; or as it is.
func (c *cell) outcomes(now int64, x *charge, n int64) (list []outcome) {
	before, events := *x, slices.Clone(c.events)
	was := x.n
	try := func(f func()) {
		f()
		list = append(list, outcome{c.have(now), f})
		*x, c.events = before, slices.Clone(events)
	}
	fix := func() { x.took, x.late = x.taken(), true }
	if !x.late {
		try(func() { c.report(now, x, n) })
	}
	if n > was {
		try(func() {
			fix()
			x.n = was + c.raise(now, c.take(now, 0), n-was)
		})
		return list
	}
	try(func() {
		fix()
		full := c.of.burst * c.of.per
		have := c.have(now)
		most := max(have, full-c.since(x)*c.of.per)
		if back := min(have+(was-n)*c.of.per, most) - have; back > 0 {
			c.note(now, event{back: back})
		}
		x.n = n
	})
	try(fix)
	return list
}

// inDoubt is what may become of what x is about to report to a bucket, if that is not plain, and which bucket
// that is. Where it could not be told apart later, it skips the action.
func (w *world) inDoubt(now int64, x *call, unit string, n int64) (at need, list []outcome) {
	for _, k := range x.needs {
		c := k.cell
		if k.charge == nil || c.of.unit != unit || c.of.shared != nil || k.charge.forgiven || x.over || !x.quick() || !k.charge.late && c.isLast(k.charge) {
			continue
		}
		if list != nil || slices.ContainsFunc(w.waiting, func(y *call) bool { return slices.ContainsFunc(y.needs, func(n need) bool { return n.cell == c }) }) {
			w.rt.Skip("what comes of it cannot be told apart")
		}
		c.reopen(now)
		at, list = k, c.outcomes(now, k.charge, n)
		for i, a := range list {
			for _, b := range list[:i] {
				if a.have != b.have && floorDiv(a.have, c.of.per) == floorDiv(b.have, c.of.per) {
					w.rt.Skip("what comes of it cannot be told apart")
				}
			}
		}
	}
	return at, list
}

// decide books which of list has become of a report at k.
func (w *world) decide(now int64, k need, list []outcome) {
	c := k.cell
	s := w.execs[w.last].Snapshot()
	i := slices.IndexFunc(s.Gates, func(g sluice.GateState) bool { return g.Key == c.key && g.Name == c.of.name })
	for j, o := range list {
		if i < 0 || c.of.burst-floorDiv(o.have, c.of.per) == s.Gates[i].Used { // else the tool's policy has it no more
			if o.apply(); j > 0 {
				w.logf("  it counts from now on, or gives nothing back")
				w.counts.lateReports++
			}
			return
		}
	}
	w.fatal("%s %q: what is reported comes to none of what it may: %d missing, of %v, %v", c.of.name, c.key, s.Gates[i].Used, list, c.events)
}
