package verify

import (
	"math"
	"slices"
)

// The reference model of admission: what each limit counts and what each bucket holds,
// recounted from the starts and ends of calls. It shares no code with the library. An
// instant is nanoseconds of the bubble's clock.

const (
	never     = int64(math.MaxInt64)
	unlimited = int64(math.MaxInt64 / 4)
)

// limit is one bound of one component, or of one tool's policy, over all its keys.
type limit struct {
	name     string // refusals and snapshots name it so, or begin with it
	tokens   bool   // a bucket, else slots
	unit     string
	refuse   bool
	upstream bool
	key      func(*call) string
	keyed    bool // by what only a call knows
	maxKeys  int  // zero: no bound that is ever reached

	max        int64 // slots
	per, burst int64 // of a bucket: nanoseconds for one token, and how many it holds
	cells      map[string]*cell
}

// cell is one limit under one key.
type cell struct {
	of     *limit
	key    string
	real   bool  // the library has it too; else a call that would need it was refused before
	paused int64 // nobody starts before

	// A bucket's debt is how long it takes from the instant at until it is full. What a
	// pause has added to that is held.
	debt, at, held int64

	// families is who holds slots: for each outermost call the layouts that what was
	// seen leaves possible.
	families map[*call][]layout
}

func (l *limit) cell(key string) *cell {
	c := l.cells[key]
	if c == nil {
		c = &cell{of: l, key: key, families: map[*call][]layout{}}
		l.cells[key] = c
	}
	return c
}

func (l *limit) sorted() []*cell {
	var keys []string
	for k := range l.cells {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out := make([]*cell, 0, len(keys))
	for _, k := range keys {
		out = append(out, l.cells[k])
	}
	return out
}

// need is what one call takes of one cell.
type need struct {
	cell *cell
	n    int64
}

// Buckets.

func (c *cell) owed(now int64) int64 { return max(0, c.debt-(now-c.at)) }

func (c *cell) take(now, n int64) { c.debt, c.at = c.owed(now)+n*c.of.per, now }

// give may leave more than a full bucket until time is next looked at: a debt below zero.
func (c *cell) give(now, n int64) { c.debt, c.at = c.debt-(now-c.at)-n*c.of.per, now }

// missing is how many tokens a snapshot shows as used: rounded up.
func (c *cell) missing(now int64) int64 { return (c.owed(now) + c.of.per - 1) / c.of.per }

// pays is the earliest instant at which n tokens are there if nobody else takes any.
func (c *cell) pays(now, n int64) int64 {
	if n > c.of.burst {
		return never
	}
	return now + max(0, c.owed(now)-(c.of.burst-n)*c.of.per)
}

// pause keeps everybody out until the instant, and has a bucket empty then.
func (c *cell) pause(now, until int64) {
	if c.paused <= now {
		c.held = 0
	}
	c.paused = max(c.paused, until)
	c.empty(now, c.paused)
}

// lift ends a pause: a bucket gets back what that would have cost, and begins empty.
func (c *cell) lift(now int64) {
	if c.paused > now && c.of.tokens {
		c.release(now)
		c.empty(now, now)
	}
	c.paused, c.held = 0, 0
}

// empty leaves no token at the instant.
func (c *cell) empty(now, instant int64) {
	if !c.of.tokens {
		return
	}
	owed := c.owed(now)
	c.debt, c.at = max(owed, c.of.burst*c.of.per+instant-now), now
	c.held += c.debt - owed
}

// release undoes what empty did.
func (c *cell) release(now int64) { c.debt, c.at, c.held = c.debt-(now-c.at)-c.held, now, 0 }

// exact reports whether the tokens of all buckets are whole nanoseconds at another rate too.
func (l *limit) exact(now, per int64) bool {
	for _, c := range l.cells {
		if c.owed(now)*per%l.per != 0 || (c.debt-c.held-(now-c.at))*per%l.per != 0 {
			return false
		}
	}
	return true
}

// rate changes the rate of all buckets. The tokens that are there stay, clipped.
func (l *limit) rate(now, per, burst int64) {
	old := *l
	l.per, l.burst = per, burst
	for _, c := range l.cells {
		if c.paused > now {
			c.release(now)
		}
		have := old.burst*old.per - c.owed(now)
		c.debt, c.at, c.held = max(0, burst*per-have*per/old.per), now, 0
		if c.paused > now {
			c.empty(now, c.paused)
		}
	}
}

// Slots. A limit counts chains of nested calls: where an ancestor holds slots of a cell a
// call runs on those, unless another does already. If several calls of one family start
// at one instant it cannot be seen which of them got them, so each order is kept as a
// layout of its own.

// hold is slots and the calls that run on them, outermost first.
type hold struct {
	units int64
	chain []*call
}

type layout struct {
	holds []hold
	grew  bool // in this event
}

func (l layout) units() (n int64) {
	for _, h := range l.holds {
		n += h.units
	}
	return n
}

// lends is the hold that x may run on, or -1.
func (l layout) lends(x *call) int {
	for a := x.parent; a != nil; a = a.parent {
		for i, h := range l.holds {
			if at := slices.Index(h.chain, a); at >= 0 {
				if at == len(h.chain)-1 {
					return i
				}
				return -1
			}
		}
	}
	return -1
}

func (l layout) clone() layout {
	l.holds = slices.Clone(l.holds)
	return l
}

// start is l after the start of x.
func (l layout) start(x *call, n int64) layout {
	l = l.clone()
	if i := l.lends(x); i >= 0 {
		l.holds[i].chain = append(slices.Clone(l.holds[i].chain), x)
		return l
	}
	l.holds = append(l.holds, hold{n, []*call{x}})
	l.grew = true
	return l
}

// end is l after the end of x.
func (l layout) end(x *call) layout {
	l = l.clone()
	for i, h := range l.holds {
		if at := slices.Index(h.chain, x); at >= 0 {
			if l.holds[i].chain = slices.Delete(slices.Clone(h.chain), at, at+1); len(h.chain) == 1 {
				l.holds = slices.Delete(l.holds, i, i+1)
			}
			break
		}
	}
	return l
}

func (l layout) equal(o layout) bool {
	if l.grew != o.grew || len(l.holds) != len(o.holds) {
		return false
	}
	for _, h := range l.holds {
		if !slices.ContainsFunc(o.holds, func(g hold) bool { return h.units == g.units && slices.Equal(h.chain, g.chain) }) {
			return false
		}
	}
	return true
}

func distinct(ls []layout) []layout {
	var out []layout
	for _, l := range ls {
		if !slices.ContainsFunc(out, l.equal) {
			out = append(out, l)
		}
	}
	return out
}

// used is the fewest and the most slots that may be taken, of all families but one.
func (c *cell) used(but *call) (least, most int64) {
	for f, ls := range c.families {
		if f == but {
			continue
		}
		lo, hi := ls[0].units(), ls[0].units()
		for _, l := range ls[1:] {
			lo, hi = min(lo, l.units()), max(hi, l.units())
		}
		least, most = least+lo, most+hi
	}
	return least, most
}

// started books the calls of one family that started at one instant.
func (c *cell) started(family *call, xs []need1) {
	ls := c.families[family]
	if ls == nil {
		ls = []layout{{}}
	}
	for i := range ls {
		ls[i].grew = false
	}
	c.families[family] = distinct(orders(ls, xs))
}

// need1 is one call and what it takes of the cell at hand.
type need1 struct {
	x *call
	n int64
}

// orders is ls after the starts of xs in every order.
func orders(ls []layout, xs []need1) []layout {
	if len(xs) == 0 {
		return ls
	}
	var out []layout
	for i, x := range xs {
		var next []layout
		for _, l := range ls {
			next = append(next, l.start(x.x, x.n))
		}
		out = append(out, orders(distinct(next), slices.Delete(slices.Clone(xs), i, i+1))...)
	}
	return out
}

// feasible drops what cannot have been, since slots beyond the limit were taken, and
// reports whether anything is left.
func (c *cell) feasible(family *call) bool {
	others, _ := c.used(family)
	ls := slices.DeleteFunc(slices.Clone(c.families[family]), func(l layout) bool {
		return l.grew && others+l.units() > c.of.max
	})
	if len(ls) == 0 {
		return false
	}
	for i := range ls {
		ls[i].grew = false
	}
	c.families[family] = distinct(ls)
	return true
}

// ended takes x out.
func (c *cell) ended(x *call) {
	ls := c.families[x.root]
	var out []layout
	for _, l := range ls {
		out = append(out, l.end(x))
	}
	if len(out) == 0 || len(out[0].holds) == 0 {
		delete(c.families, x.root)
		return
	}
	c.families[x.root] = distinct(out)
}

// lends reports whether an ancestor surely has slots for x to run on.
func (c *cell) lends(x *call) bool {
	ls := c.families[x.root]
	for _, l := range ls {
		if l.lends(x) < 0 {
			return false
		}
	}
	return len(ls) > 0
}

// agrees reports whether c, by the raw rules, surely lets x start.
func (c *cell) agrees(now int64, x *call, n int64) bool {
	if c.paused > now {
		return false
	}
	if c.of.tokens {
		return c.pays(now, n) == now
	}
	_, most := c.used(nil)
	return most+n <= c.of.max || c.lends(x)
}

// own is the earliest instant at which c lets n through if everybody else left.
func (c *cell) own(now, n int64) int64 {
	at := max(now, c.paused)
	if c.of.tokens {
		at = max(at, c.pays(now, n))
	}
	return at
}
