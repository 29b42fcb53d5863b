package verify

import (
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluice-go/sluice"
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
	name     string // refusals and snapshots name it so
	prefix   string // of a rate's
	tokens   bool   // a bucket, else slots
	unit     string
	refuse   bool
	upstream bool
	key      func(*call) string
	keyed    bool // by what only a call knows
	optional bool // calls without a key are not concerned
	maxKeys  int  // zero: no bound that is ever reached

	slow       bool  // takes minutes to refill
	max        int64 // slots
	adaptive   *sluice.Adaptive
	shared     *rate.Limiter // of tokens: that is not the library's
	twin       *rate.Limiter // that is asked the same at the same instants
	blurred    bool          // but perhaps for a token that was taken and given back unseen, after which its fractions are others
	born       time.Time     // which are counted from there
	per, burst int64         // of a bucket: nanoseconds for one token, and how many it holds
	count      int64         // N of its rate
	cells      map[string]*cell
}

// cell is one limit under one key.
type cell struct {
	of    *limit
	key   string
	real  bool    // the library has it too; else a call that would need it was refused before
	pause *pause  // the last one; nil if there was none
	looks []int64 // ends of pauses that were ended early: who would wait in vain may be refused only then
	aimd  aimd    // if adaptive
	held  mean    // how long slots were held

	began  beginning // of a bucket
	events []event

	// families is who holds slots: for each outermost call the layouts that what was
	// seen leaves possible.
	families map[*call][]layout
}

// beginning is what a bucket was at first.
type beginning struct {
	at, per, burst, have int64
	lost                 int // bits, see exact
}

func (l *limit) cell(key string) *cell {
	c := l.cells[key]
	if c == nil {
		c = &cell{of: l, key: key, aimd: aimd{calls: map[*call]bool{}}, families: map[*call][]layout{}, began: beginning{per: l.per, burst: l.burst, have: l.per * l.burst}}
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
	cell   *cell
	n      int64
	charge *charge // of a bucket, once it runs
}

// Buckets. A bucket is what has happened to it, in order. What it holds is counted anew from
// that whenever somebody asks, in nanoseconds of its rate, so that a charge whose amount
// changes has been the new amount all along.

// charge is what one call is charged. Its amount changes with what the call reports.
type charge struct {
	n        int64
	forgiven bool  // it is what it is: only what is reported beyond it counts, from then on
	late     bool  // likewise, but it may give something back; see outcomes
	took     int64 // then: what it has taken when it started, whatever has been reported since
}

// taken is what x took when it started, as far as is known by now.
func (x *charge) taken() int64 {
	if x.late {
		return x.took
	}
	return x.n
}

// event is one thing that happened to a bucket.
type event struct {
	at         int64
	charge     *charge // takes its amount
	capped     bool    // at most one token is left
	forgiven   bool    // no debt is left
	back       int64   // nanoseconds that are given back
	per, burst int64   // the rate from here on, if it changes
}

func (e event) String() string {
	switch {
	case e.charge != nil:
		return fmt.Sprintf("%d: takes %d", e.at, e.charge.taken())
	case e.capped:
		return fmt.Sprintf("%d: one token at most", e.at)
	case e.forgiven:
		return fmt.Sprintf("%d: no debt", e.at)
	case e.back != 0:
		return fmt.Sprintf("%d: gets %d ns back", e.at, e.back)
	}
	return fmt.Sprintf("%d: one token in %d ns, burst %d", e.at, e.per, e.burst)
}

// have is what the bucket holds, negative in debt.
func (c *cell) have(now int64) int64 {
	if c.of.shared != nil {
		return 0 // nobody knows its nanoseconds
	}
	at, have, per, burst := c.began.at, c.began.have, c.began.per, c.began.burst
	for _, e := range c.events {
		have, at = min(burst*per, have+e.at-at), e.at
		switch {
		case e.charge != nil:
			have -= e.charge.taken() * per
		case e.capped:
			have = min(have, per)
		case e.forgiven:
			have = max(have, 0)
		case e.back != 0:
			have += e.back
		default:
			if e.per > per { // one is a multiple of the other
				have *= e.per / per
			} else {
				have /= per / e.per
			}
			per, burst = e.per, e.burst
			have = min(have, burst*per)
		}
	}
	return min(burst*per, have+now-at)
}

// note has e happen now, after what was due before.
func (c *cell) note(now int64, e event) {
	c.reopen(now)
	e.at = now
	c.events = append(c.events, e)
}

// take charges n tokens.
func (c *cell) take(now, n int64) *charge {
	x := &charge{n: n}
	if c.of.shared != nil {
		c.of.twin.ReserveN(c.of.instant(now), int(n))
		return x
	}
	c.note(now, event{charge: x})
	return x
}

const day = int64(24 * time.Hour)

// report makes x the amount n. An increase may bring the bucket a day into debt, or for as
// long as a refill takes; it is cut to that.
func (c *cell) report(now int64, x *charge, n int64) int64 {
	if c.of.shared != nil {
		return n // it is not told
	}
	c.reopen(now)
	old := x.n
	if x.forgiven {
		if n <= old {
			return old
		}
		x.n += c.raise(now, c.take(now, 0), n-old)
		return x.n
	}
	if n <= old {
		x.n = n
		return n
	}
	return c.raise(now, x, n)
}

// raise makes x as much of n as debt may be.
func (c *cell) raise(now int64, x *charge, n int64) int64 {
	bound, per := max(day, c.of.burst*c.of.per), min(c.began.per, c.of.per)
	for _, e := range c.events {
		if e.per > 0 {
			per = min(per, e.per)
		}
	}
	least := min(c.have(now), -bound)
	lo, hi := x.n, min(n, x.n+(now+2*bound)/per+1) // what time has brought, and twice the bound
	for lo < hi {
		if x.n = hi - (hi-lo)/2; c.have(now) >= least {
			lo = x.n
		} else {
			hi = x.n - 1
		}
	}
	x.n = lo
	return lo
}

// missing is how many tokens a snapshot shows as used: rounded up.
func (c *cell) missing(now int64) int64 {
	c.reopen(now)
	return c.of.burst - floorDiv(c.have(now), c.of.per)
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// pays is the earliest instant at which n tokens are there if nobody else takes any.
func (c *cell) pays(now, n int64) int64 {
	switch {
	case c.of.shared != nil:
		return c.of.sharedAt(now)
	case n > c.of.burst:
		return never
	case n == 0:
		return now
	}
	c.reopen(now)
	at, have := now, c.have(now)
	if p := c.pause; p != nil && p.end > now && c.caps() {
		at, have = p.end, min(c.have(p.end), c.of.per)
	}
	return at + max(0, n*c.of.per-have)
}

// Pauses. A pause keeps everybody out. Then a bucket that refills within the pause, or a
// minute, has one token at most, and calls start in a ramp: at a time one more than have ended
// well, or twice as many with each second, for ten seconds.
type pause struct {
	begun, end int64
	over       bool           // the bucket has been told
	running    map[*call]bool // that have started since
	won        int
}

const (
	minute = int64(time.Minute)
	ramp   = 10
)

func (c *cell) caps() bool {
	return c.of.tokens && c.of.burst*c.of.per <= max(minute, c.pause.end-c.pause.begun)
}

// reopen has what follows the end of a pause happen, at that instant.
func (c *cell) reopen(now int64) {
	p := c.pause
	if p == nil || p.over || p.end > now {
		return
	}
	p.over = true
	if c.caps() {
		c.events = append(c.events, event{at: p.end, capped: true})
	}
}

// opens is the earliest instant at which one more call may start, as far as pauses go.
func (c *cell) opens(now int64) int64 {
	p := c.pause
	switch {
	case p == nil || now >= p.end+ramp*int64(time.Second):
		return now
	case now < p.end:
		return p.end
	}
	s := (now - p.end) / int64(time.Second)
	if len(p.running) < max(1+p.won, 1<<s) {
		return now
	}
	return p.end + (s+1)*int64(time.Second)
}

func (c *cell) paused(now int64) bool { return c.pause != nil && c.pause.end > now }

// remembers reports whether something is left of a pause.
func (c *cell) remembers(now int64) bool {
	return c.pause != nil && now < c.pause.end+ramp*int64(time.Second)
}

// halt pauses c until the instant; the past ends a pause.
func (c *cell) halt(now, until int64) {
	c.reopen(now)
	switch held := c.paused(now); {
	case held && until <= now:
		c.looks = append(c.looks, c.pause.end)
		c.pause.end = now
		c.reopen(now)
	case held:
		c.pause.end = max(c.pause.end, until)
	case until > now:
		c.pause = &pause{begun: now, end: until, running: map[*call]bool{}}
	}
}

// lift ends a pause without what follows it, and forgives debt.
func (c *cell) lift(now int64) {
	c.reopen(now)
	c.pause = nil
	if !c.of.tokens || c.have(now) >= 0 {
		return
	}
	c.note(now, event{forgiven: true})
	for _, e := range c.events {
		if e.charge != nil {
			e.charge.forgiven = true
		}
	}
}

// exact reports whether the tokens of all buckets stay whole nanoseconds if the rate changes:
// up to three bits are lost each time, and five where one takes over from another.
func (l *limit) exact(now int64) bool {
	for _, c := range l.cells {
		if now%tick != 0 || c.lost() > 12 || slices.ContainsFunc(c.events, func(e event) bool { return e.at%tick != 0 }) {
			return false
		}
	}
	return true
}

func (c *cell) lost() int {
	n := c.began.lost
	for _, e := range c.events {
		if e.per > 0 {
			n += 3
		}
	}
	return n
}

// rate changes the rate of all buckets. The tokens that are there stay, clipped.
func (l *limit) rate(now int64, r sluice.Rate) {
	for _, c := range l.cells {
		c.note(now, event{per: int64(r.Per) / r.N, burst: r.Burst})
	}
	l.takes(r)
}

// follow makes the bucket of l, which joins old or replaces some, no fuller than the fullest
// of its unit.
func (l *limit) follow(now int64, old []*limit) {
	c := l.cell("")
	c.real, c.began.at = true, now
	full, most := c.began.have, int64(-1)
	for _, o := range old {
		if o.unit == l.unit {
			b := o.cell("")
			b.real = true
			have := max(0, b.have(now)) // of o.burst * o.per
			most = max(most, have*full/(o.burst*o.per))
			c.began.lost = max(c.began.lost, b.lost()+5)
		}
	}
	if most >= 0 {
		c.began.have = most
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

// perhaps adds the layouts that came of ls if x, of the same family, was let through too but
// was cancelled before it ran: another may have slots of its own since x ran on the family's.
func (c *cell) perhaps(x *call, ls []layout, xs []need1) {
	i := slices.IndexFunc(x.needs, func(n need) bool { return n.cell == c })
	if i < 0 {
		return
	}
	if ls == nil {
		ls = []layout{{}}
	}
	c.add(x, orders(ls, append(slices.Clone(xs), need1{x, x.needs[i].n})))
}

// ended is a call that has ended, and the layouts of its family before that.
type ended struct {
	x      *call
	before []layout
}

// add adds the layouts that come of ls by the end of x.
func (c *cell) add(x *call, ls []layout) {
	for _, l := range ls {
		c.families[x.root] = append(c.families[x.root], l.end(x))
	}
	c.families[x.root] = distinct(c.families[x.root])
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
		return l.grew && others+l.units() > c.max()
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
	if c.opens(now) > now {
		return false
	}
	if c.of.tokens {
		return c.pays(now, n) == now
	}
	_, most := c.used(nil)
	return most+n <= c.max() || c.lends(x)
}

// own is the earliest instant at which c lets n through if everybody else left.
func (c *cell) own(now, n int64) int64 {
	at := now
	if c.paused(now) {
		at = c.pause.end
	}
	if c.of.tokens {
		at = max(at, c.pays(now, n))
	}
	return at
}
