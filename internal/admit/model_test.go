package admit

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/bucket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The reference model. It shares no code with the machine and trusts none of its
// judgement: after every event it recounts who holds what from the list of running calls,
// replays each bucket from the log of starts with the amounts that they are known to have
// taken by then, and checks whatever the machine answered. Timers fire on time or late: what
// is due happens before the event that comes all the same.
// What the algorithm leaves idle on purpose is counted, with its cause; idle capacity
// without a cause is a failure.

// tokenParts is how finely the model divides a token, so that rates need no fractions.
const tokenParts = 232792560 // divisible by 1 … 20

type modelCell struct {
	class *modelClass
	key   string
	cell  *Cell

	limit int64 // slots
	base  int64 // tokens that were missing at the instant at, in parts
	at    int64
	log   []*modelEntry // since then
	pause modelPause
	holds []*hold
	calls int // running calls that need it
	waits int // waiting calls that need it
}

// modelEntry is a charge, or if n is zero for good the end of a pause that left one token, or
// another rate.
type modelEntry struct {
	at, n int64
	open  bool
	cap   bool
	rate  *modelRate
}

type modelRate struct{ n, per, burst int64 }

// modelPause is the last pause of a cell: nobody starts before end, and then as many at
// once as there were successes and one, or twice as many each second.
type modelPause struct {
	end    int64
	capped bool
	ran    []*modelCall
	won    int64
}

type modelClass struct {
	class *Class
	m     *Machine
	kind  Kind
	modelRate
	refuse bool
	cells  map[string]*modelCell
}

// hold is slots of one cell and the chain of calls that run on them, outermost first.
type hold struct {
	cell  *modelCell
	units int64
	chain []*modelCall
}

type modelNeed struct {
	cell *modelCell
	n    int64
}

type modelCall struct {
	t       *Ticket
	m       *Machine
	lane    string
	seq     int64
	level   int8
	tenant  string
	needs   []modelNeed
	limit   int64
	nested  bool // made under another, which may have ended
	parent  *modelCall
	kids    []*modelCall
	since   int64
	charges map[*modelCell]*modelEntry
	plan    *Plan
	found   [3]int // calls of its client that waited when it came, of its tool and of its tenant
}

type modelPlan struct {
	plan   *Plan
	fixed  []modelNeed
	keyed  []*modelClass
	files  *modelClass // by several keys, in order; nil without
	weight bool
}

type model struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	ms      []*Machine // one
	clients []*Client
	classes []*modelClass
	plans   []modelPlan
	policy  Policy
	now     int64
	seq     int64
	nested  bool
	running []*modelCall
	waiting []*modelCall
	by      map[*Ticket]*modelCall
	last    string
	counts  counts
	claims  map[*Machine]uint64 // made before the event, if none of them collected
}

type counts struct {
	events, starts, refused, keysFull        int
	idleEvents, idleClaim, idleBucket        int
	overtakes, cycles, sheds, lates, settles int
	replays                                  int
	ordered, passes                          int
}

func (c *counts) add(o counts) {
	c.events += o.events
	c.starts += o.starts
	c.refused += o.refused
	c.keysFull += o.keysFull
	c.idleEvents += o.idleEvents
	c.idleClaim += o.idleClaim
	c.idleBucket += o.idleBucket
	c.overtakes += o.overtakes
	c.cycles += o.cycles
	c.sheds += o.sheds
	c.lates += o.lates
	c.settles += o.settles
	c.replays += o.replays
	c.ordered += o.ordered
	c.passes += o.passes
}

func (w *model) fatal(format string, a ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d, event %d (%s), now %d: %s", w.seed, w.counts.events, w.last, w.now, fmt.Sprintf(format, a...))
}

// class adds a class of one of the kinds.
func (w *model) class(name string, kind Kind, rank uint8, unit string, keys int) *modelClass {
	r := w.rng
	k := &Class{Name: name, Kind: kind, Rank: rank, Unit: unit, MaxKeys: keys}
	mk := &modelClass{class: k, kind: kind, cells: map[string]*modelCell{}}
	switch kind {
	case Slots:
		k.Limit = int64(1 + r.IntN(5))
		k.Refuse = r.IntN(12) == 0
		k.Ordered = !k.Refuse && r.IntN(8) == 0
	case Tokens:
		mk.n, mk.per, mk.burst = int64(1+r.IntN(3)), int64(1+r.IntN(20)), int64(4+r.IntN(3))
		rate, err := bucket.NewRate(mk.n, mk.per, mk.burst)
		require.NoError(w.t, err)
		k.Rate = &rate
		k.Refuse = r.IntN(12) == 0
	case Breaker:
		k.Breaker = &breaker.Config{Failures: 3, Cooldown: 60, Window: 100, Lease: 50, Probes: 2}
	}
	mk.refuse = k.Refuse
	mk.m = w.ms[0]
	w.classes = append(w.classes, mk)
	return mk
}

func (w *model) cell(k *modelClass, key string) *modelCell {
	c := w.ms[0].Cell(w.now, k.class, key)
	if c == nil {
		return nil
	}
	mc := k.cells[key]
	if mc == nil {
		mc = &modelCell{class: k, key: key, limit: k.class.Limit, at: w.now}
		k.cells[key] = mc
	}
	if mc.cell != c && mc.cell != nil { // the old one was idle and gave way
		if mc.calls > 0 || k.kind == Tokens && w.owed(mc) > 0 || mc.pause.end > 0 && w.now < mc.pause.end+ramp {
			w.fatal("%s %s gave way and was not idle", k.class.Name, key)
		}
		mc.pause = modelPause{}
	}
	mc.cell = c
	return mc
}

func newModel(t *testing.T, seed uint64, unit bool) *model {
	r := rand.New(rand.NewPCG(seed, 7))
	w := &model{t: t, seed: seed, rng: r, by: map[*Ticket]*modelCall{}, claims: map[*Machine]uint64{}, nested: r.IntN(2) == 0}
	w.policy = Policy{Ordered: r.IntN(5) > 0, Ageing: 8, Claim: []int{1, 4, 16}[r.IntN(3)], MaxQueue: 5 + r.IntN(40), MaxPerTenant: 1000, Shed: r.IntN(3) == 0,
		Weights: map[string]int{"t0": 1 + r.IntN(3)}}
	if r.IntN(4) == 0 {
		w.policy.MaxPerTenant = 15
	}
	w.policy.RefuseLate, w.policy.Standing = r.IntN(5) == 0, r.IntN(5) == 0
	w.ms = []*Machine{NewMachine(w.policy)}
	for range 1 + r.IntN(2) {
		w.clients = append(w.clients, NewClient())
	}
	for n := range 1 + r.IntN(4)/3 {
		w.topology(n, unit)
	}
	return w
}

// topology adds plans: tools of two types under a global limit, crossed by tenants and keys.
func (w *model) topology(n int, unit bool) {
	r := w.rng
	maybe := func(name string, rank uint8, one int) (out []*modelClass) {
		if r.IntN(3) > 0 {
			out = append(out, w.class(name, Slots, rank, "", 0))
		}
		if !unit && r.IntN(4) == 0 {
			out = append(out, w.class(name+" bytes", Slots, rank, "bytes", 0))
		}
		if r.IntN(one) == 0 {
			out = append(out, w.class(name+" rate", Tokens, rank, "", 0))
		}
		if !unit && r.IntN(6) == 0 {
			out = append(out, w.class(name+" tokens", Tokens, rank, "tokens", 0))
		}
		return out
	}
	from := len(w.plans)
	global := maybe(fmt.Sprint("global", n), 7, 3)
	var keyed []*modelClass
	if r.IntN(2) == 0 {
		keyed = append(keyed, w.class("tenant", Slots, 2, "", 4))
	}
	if r.IntN(3) == 0 {
		keyed = append(keyed, w.class("key rate", Tokens, 3, "", 3))
	}
	var brk *modelClass
	if r.IntN(2) == 0 {
		brk = w.class("breaker", Breaker, 0, "", 0)
	}
	for typ := range 2 {
		types := maybe(fmt.Sprint("type", typ), 4, 4)
		for tool := range 2 {
			name := fmt.Sprint("tool", typ, tool)
			tools := maybe(name, 0, 4)
			p := modelPlan{keyed: keyed, weight: !unit}
			if brk != nil {
				p.fixed = append(p.fixed, modelNeed{w.cell(brk, name), 1})
			}
			for _, k := range slices.Concat(tools, types, global) {
				p.fixed = append(p.fixed, modelNeed{w.cell(k, ""), 1})
			}
			slices.SortStableFunc(p.fixed, func(a, b modelNeed) int {
				return cmp.Compare(a.cell.class.class.Order(), b.cell.class.class.Order())
			})
			var cells []*Cell
			for _, n := range p.fixed {
				cells = append(cells, n.cell.cell)
			}
			var ks []*Class
			for _, k := range keyed {
				ks = append(ks, k.class)
			}
			w.ms[0].Together(cells, ks)
			for _, c := range w.clients {
				p.plan = &Plan{Tool: uint64(typ*2 + tool), Client: c}
				w.plans = append(w.plans, p)
			}
		}
	}
	if r.IntN(2) == 0 {
		w.withFiles(from, unit)
	}
}

// owed is the tokens missing from c now, in parts: replayed from what is known of each
// charge by now.
func (w *model) owed(c *modelCell) int64 {
	w.endPause(c)
	r := c.class.modelRate
	for i := len(c.log) - 1; i >= 0; i-- { // the rate at first
		if e := c.log[i]; e.rate != nil {
			r = *e.rate
		}
	}
	miss, at := c.base, c.at
	pass := func(to int64) {
		if to-at >= 10*ms { // no debt here lasts as long
			miss = 0
		} else {
			miss = max(0, miss-(to-at)*(tokenParts/r.per)*r.n)
		}
		at = to
	}
	settled := true
	for i, e := range c.log {
		settled = settled && !e.open
		pass(e.at)
		switch {
		case e.rate != nil:
			to := c.class.modelRate
			for _, l := range c.log[i+1:] {
				if l.rate != nil {
					to = *l.rate
					break
				}
			}
			have := min(r.burst*tokenParts-miss, to.burst*tokenParts)
			// what is missing is rounded up to the instants that the new rate knows
			grain := tokenParts / to.per
			miss, r = (to.burst*tokenParts-have+grain-1)/grain*grain, to
		case e.cap:
			miss = max(miss, (r.burst-1)*tokenParts)
		default:
			miss += e.n * tokenParts
		}
	}
	pass(w.now)
	if settled { // all of it is final
		c.base, c.at, c.log = miss, w.now, nil
	}
	return miss
}

// endPause notes that a pause has left one token, once it has ended.
func (w *model) endPause(c *modelCell) {
	if p := &c.pause; c.class.kind == Tokens && p.end > 0 && !p.capped && w.now >= p.end {
		p.capped = true
		c.log = append(c.log, &modelEntry{at: p.end, cap: true})
	}
}

// shut reports whether a pause of c, or what follows it, lets nobody start now.
func (w *model) shut(c *modelCell) bool {
	p := &c.pause
	switch {
	case p.end == 0 || w.now >= p.end+10*second:
		return false
	case w.now < p.end:
		return true
	}
	return int64(len(p.ran)) >= max(1+p.won, 1<<((w.now-p.end)/second))
}

// used is recounted from the holds.
func (c *modelCell) used() (n int64) {
	for _, h := range c.holds {
		n += h.units
	}
	return n
}

// lends is the hold of c that x may run on: that of its nearest ancestor with one, if
// nobody else runs on it.
func (x *modelCall) lends(c *modelCell) *hold {
	for a := x.parent; a != nil; a = a.parent {
		for _, h := range c.holds {
			if i := slices.Index(h.chain, a); i >= 0 {
				if i == len(h.chain)-1 && (!c.class.class.Weighted || h.units >= x.need(c)) {
					return h
				}
				return nil
			}
		}
	}
	return nil
}

// agrees reports whether c lets x start now, by the raw rules.
func (w *model) agrees(x *modelCall, n modelNeed) bool {
	c := n.cell
	if w.shut(c) {
		return false
	}
	switch c.class.kind {
	case Slots:
		return c.used()+n.n <= c.limit && w.inTurn(x, c) || x.lends(c) != nil
	case Tokens:
		return n.n == 0 || w.owed(c)+n.n*tokenParts <= c.class.burst*tokenParts
	}
	ok, _ := c.cell.breaker.Ready(w.now)
	return ok
}

// started checks and books a start.
func (w *model) started(x *modelCall) {
	w.counts.starts++
	if w.now > x.limit {
		w.fatal("started after its limit %d", x.limit)
	}
	for _, n := range x.needs {
		c := n.cell
		if w.shut(c) {
			w.fatal("started at %s, paused until %d, with %d of %d in its ramp", c.class.class.Name, c.pause.end, len(c.pause.ran), 1+c.pause.won)
		}
		switch c.class.kind {
		case Slots:
			if h := x.lends(c); h != nil && c.used()+n.n > c.limit {
				h.chain = append(h.chain, x)
			} else if h != nil && w.borrows(x, c) {
				h.chain = append(h.chain, x)
			} else {
				c.holds = append(c.holds, &hold{c, n.n, []*modelCall{x}})
				if c.used() > c.limit {
					w.fatal("%s: %d held, limit %d", c.class.class.Name, c.used(), c.limit)
				}
			}
		case Tokens:
			if n.n > 0 && w.owed(c)+n.n*tokenParts > c.class.burst*tokenParts {
				w.fatal("%s: overdrawn, owes %d parts", c.class.class.Name, w.owed(c))
			}
			w.endPause(c)
			e := &modelEntry{at: w.now, n: n.n, open: true}
			c.log = append(c.log, e)
			x.charges[c] = e
		}
		if c.pause.end > 0 {
			c.pause.ran = append(c.pause.ran, x)
		}
		c.calls++
	}
	for _, y := range w.waiting {
		if y != x && y.m == x.m && y.lane == x.lane && y.seq < x.seq && !y.nested && !x.nested {
			w.fatal("call %d of lane %s started before %d", x.seq, x.lane, y.seq)
		}
		if y.seq < x.seq {
			w.counts.overtakes++
		}
	}
	w.running = append(w.running, x)
}

// borrows: a chain always runs on the slot it has.
func (w *model) borrows(x *modelCall, c *modelCell) bool { return x.lends(c) != nil }

// ended takes x out of everything that runs.
func (w *model) ended(x *modelCall, refund, success bool) {
	w.running = slices.DeleteFunc(w.running, func(y *modelCall) bool { return y == x })
	for _, n := range x.needs {
		c := n.cell
		c.calls--
		if i := slices.Index(c.pause.ran, x); i >= 0 {
			c.pause.ran = slices.Delete(c.pause.ran, i, i+1)
			if success {
				c.pause.won++
			}
		}
		switch c.class.kind {
		case Slots:
			for _, h := range c.holds {
				if i := slices.Index(h.chain, x); i >= 0 {
					h.chain = slices.Delete(h.chain, i, i+1)
					break
				}
			}
			c.holds = slices.DeleteFunc(c.holds, func(h *hold) bool { return len(h.chain) == 0 })
		case Tokens:
			if refund {
				x.charges[c].n = 0
			}
			x.charges[c].open = false
		}
	}
	w.part(x)
}

func (w *model) part(x *modelCall) {
	if p := x.parent; p != nil {
		p.kids = slices.DeleteFunc(p.kids, func(y *modelCall) bool { return y == x })
	}
	for _, k := range x.kids {
		k.parent = x.parent
		if x.parent != nil {
			x.parent.kids = append(x.parent.kids, k)
		}
	}
	x.kids = nil
	delete(w.by, x.t)
}

func (w *model) unwait(x *modelCall) {
	i := slices.Index(w.waiting, x)
	if i < 0 {
		w.fatal("call %d was decided but did not wait", x.seq)
	}
	w.waiting = slices.Delete(w.waiting, i, i+1)
	for _, n := range x.needs {
		n.cell.waits--
	}
}

// decided handles what the machines decided in the event that has just been, and arrived,
// if that was an arrival which did not have to wait. Starts come first, in their order:
// within an event they only take, so what they leave must justify the refusals.
func (w *model) decided(arrived ...*modelCall) {
	started, refused := []*modelCall{}, []*modelCall{}
	sort := func(x *modelCall) {
		if x.t.State() == Running {
			started = append(started, x)
		} else {
			refused = append(refused, x)
		}
	}
	for _, x := range arrived {
		sort(x)
	}
	for _, m := range w.ms {
		for more := true; more; more = m.Pending() {
			if m.Pending() {
				m.Step(w.now)
			}
			for t := m.Decided(); t != nil; t = t.Next() {
				x := w.by[t]
				if x == nil {
					w.fatal("an unknown or doubled ticket was decided")
				}
				w.unwait(x)
				sort(x)
			}
		}
		m.Notices(nil)
	}
	slices.SortFunc(started, func(a, b *modelCall) int { return cmp.Compare(a.t.rec.startedAs, b.t.rec.startedAs) })
	for i, x := range started {
		w.keptOrder(x, started[i+1:])
		w.started(x)
	}
	for _, x := range refused {
		w.refused(x)
	}
}

// refused checks that a refusal is justified.
func (w *model) refused(x *modelCall) {
	w.counts.refused++
	r := x.t.Refusal()
	name := "queue"
	if r.By != nil {
		name = r.By.Class().Name
	}
	need := func() *modelNeed {
		for i := range x.needs {
			if x.needs[i].cell.cell == r.By {
				return &x.needs[i]
			}
		}
		w.fatal("refused by %s, which it does not need", name)
		return nil
	}
	switch r.Reason {
	case Saturated, RateLimited:
		n := need()
		if !n.cell.class.refuse || w.agrees(x, *n) && x.m.work.Claims == w.claims[x.m] {
			w.fatal("refused by %s, which does not refuse (%v) or agrees (%v): used %d of %d, needs %d, borrows %v", name, !n.cell.class.refuse, w.agrees(x, *n), n.cell.used(), n.cell.limit, n.n, x.lends(n.cell) != nil)
		}
	case BreakerOpen:
		if n := need(); w.agrees(x, *n) {
			w.fatal("refused by the breaker %s, which agrees", name)
		}
	case QueueFull, Shed:
		if r.Reason == Shed {
			w.counts.sheds++
		}
		queued, tools, tenants := x.found[0], x.found[1], x.found[2]
		own := w.policy.Ordered && w.policy.MaxPerTenant != w.policy.MaxQueue && tenants >= w.policy.MaxPerTenant
		if floor := min(16, w.policy.MaxQueue); r.Reason == QueueFull && !own && (queued < w.policy.MaxQueue || tools < floor || tenants < floor) {
			w.fatal("queue full with %d waiting, %d of the tool, %d of the tenant", queued, tools, tenants)
		}
	case TooLong:
		w.counts.lates++
		if w.now < x.limit && r.After == 0 {
			w.fatal("too long at %d, limit %d, and no reason", w.now, x.limit)
		}
		if w.now < x.limit && w.now+r.After <= x.limit && !w.policy.RefuseLate {
			w.fatal("too long at %d, limit %d, yet ready in %d", w.now, x.limit, r.After)
		}
	case TooWide:
		if n := need(); n.n <= n.cell.limit {
			w.fatal("too wide for %s: %d of %d", name, n.n, n.cell.limit)
		}
	case Cycle:
		w.counts.cycles++
		if !x.nested {
			w.fatal("a call that is not nested was refused as a cycle")
		}
	default:
		w.fatal("refused with reason %d", r.Reason)
	}
	w.part(x)
	x.m.Free(x.t)
}

func (w *model) arrive() {
	p := w.plans[w.rng.IntN(len(w.plans))]
	m := w.ms[0]
	x := &modelCall{m: m, seq: w.seq, level: int8(w.rng.IntN(Levels)), tenant: fmt.Sprint("t", w.rng.IntN(4)), limit: Never, since: w.now, charges: map[*modelCell]*modelEntry{}, plan: p.plan}
	w.seq++
	if w.nested && len(w.running) > 0 && w.rng.IntN(5) < 3 {
		if parent := w.running[w.rng.IntN(len(w.running))]; parent.m == m {
			x.parent, x.nested = parent, true
		}
	}
	x.needs = slices.Clone(p.fixed)
	for _, k := range p.keyed {
		key := fmt.Sprint("k", w.rng.IntN(6))
		if k.class.Rank == 2 {
			key = x.tenant
		}
		c := w.cell(k, key)
		if c == nil {
			w.full(k, key)
			return
		}
		x.needs = append(x.needs, modelNeed{c, 1})
	}
	if p.files != nil && !w.open(x, p.files) {
		w.part(x)
		return
	}
	for i := range x.needs {
		if n := &x.needs[i]; n.cell.class == p.files {
			w.counts.ordered++
		} else if p.weight && n.cell.class.class.Unit != "" {
			n.n = int64(1 + w.rng.IntN(3))
		} else if p.weight && n.cell.class.kind == Tokens && w.rng.IntN(4) == 0 {
			n.n = 2 * int64(w.rng.IntN(2))
		}
	}
	slices.SortStableFunc(x.needs, func(a, b modelNeed) int {
		return cmp.Compare(a.cell.class.class.Order(), b.cell.class.class.Order())
	})
	if w.rng.IntN(4) == 0 {
		x.limit = w.now + int64(w.rng.IntN(60))
	}
	t := m.Ticket()
	x.t = t
	t.Plan, t.Level, t.Tenant, t.Limit = p.plan, x.level, x.tenant, x.limit
	if x.parent != nil {
		t.Parent = x.parent.t
		x.parent.kids = append(x.parent.kids, x)
	}
	lane := fmt.Sprintf("%p %d %q", p.plan, x.level, x.tenant)
	for _, n := range x.needs {
		m.Add(t, n.cell.cell, n.n)
		lane += fmt.Sprintf(" %p %d", n.cell.cell, n.n)
	}
	x.lane = lane
	w.by[t] = x
	for _, y := range w.waiting {
		if y.plan.Client == p.plan.Client {
			x.found[0]++
			if y.plan.Tool == p.plan.Tool {
				x.found[1]++
			}
			if y.tenant == x.tenant {
				x.found[2]++
			}
		}
	}
	due := w.due()
	if m.Arrive(w.now, t) != Waiting {
		w.decided(x)
		if t.State() == Running {
			w.passed(x, due)
		}
		return
	}
	w.waiting = append(w.waiting, x)
	for _, n := range x.needs {
		n.cell.waits++
	}
}

// due is who could start already, since a timer is late.
func (w *model) due() (list []*modelCall) {
	if w.ms[0].Due() > w.now {
		return nil
	}
	for _, x := range w.heads() {
		if x.limit >= w.now && w.free(x) && !w.claimed(x) && !w.behindBucket(x) {
			list = append(list, x)
		}
	}
	return list
}

// passed fails if x, which came later than they were due, took the tokens with which one of
// them could have started.
func (w *model) passed(x *modelCall, due []*modelCall) {
	if x.m.work.Claims != w.claims[x.m] {
		return // slots were kept for one of them in between
	}
	for _, y := range due {
		if !slices.Contains(w.waiting, y) || w.free(y) {
			continue
		}
		could := true
		for _, o := range y.needs {
			c := o.cell
			if e := x.charges[c]; e != nil && o.n > 0 {
				could = could && !w.shut(c) && w.owed(c)-e.n*tokenParts+o.n*tokenParts <= c.class.burst*tokenParts
			} else {
				could = could && w.agrees(y, o)
			}
		}
		if could && !w.claimed(y) && !w.behindBucket(y) {
			w.fatal("call %d took the tokens that were due to %d", x.seq, y.seq)
		}
	}
}

// full checks that a key was refused because all keys are busy.
func (w *model) full(k *modelClass, key string) { w.fullBut(k, key, 0) }

// fullBut is full of a call that has found n others already.
func (w *model) fullBut(k *modelClass, key string, n int) {
	w.counts.keysFull++
	for _, c := range k.cells {
		if c.calls > 0 || c.waits > 0 || c.pause.end > 0 && w.now < c.pause.end+ramp || k.kind == Tokens && w.owed(c) > 0 {
			n++
		}
	}
	if n < k.class.MaxKeys {
		w.fatal("key %s of %s refused with %d of %d keys busy", key, k.class.Name, n, k.class.MaxKeys)
	}
}

// note remembers which machines had no claim before the event: there nothing is kept from
// anybody, unless a claim is made.
func (w *model) note() {
	clear(w.claims)
	for _, m := range w.ms {
		if len(m.claims) == 0 {
			w.claims[m] = m.work.Claims
		}
	}
}

// step is one random event.
func (w *model) step() {
	r := w.rng
	w.counts.events++
	w.note()
	switch n := r.IntN(40); {
	case n < 14:
		w.pass(w.now + int64(r.IntN(12)))
	case n < 20: // the timer is late, by a nanosecond or more
		if d := w.ms[0].Due(); d < w.now+20 && r.IntN(2) == 0 {
			w.now = max(w.now, d+int64(r.IntN(2)))
		} else {
			w.now += int64(r.IntN(12))
		}
	case n == 20:
		w.pass(w.now + int64(r.IntN(4))*second)
	}
	pickCell := func() *modelCell {
		k := w.classes[r.IntN(len(w.classes))]
		keys := slices.Sorted(maps.Keys(k.cells))
		if len(keys) == 0 {
			return nil
		}
		if c := k.cells[keys[r.IntN(len(keys))]]; c.cell == k.class.cells[c.key] {
			return c
		}
		return nil
	}
	switch n := r.IntN(24); {
	case n < 11:
		w.last = "arrive"
		w.arrive()
	case n < 17:
		w.last = "finish"
		if len(w.running) > 0 {
			x := w.running[r.IntN(len(w.running))]
			o := breaker.Success
			if r.IntN(4) == 0 {
				o = breaker.Failure
			}
			w.late()
			w.ended(x, false, o == breaker.Success)
			x.m.Finish(w.now, x.t, o)
			w.decided()
			x.m.Free(x.t)
		}
	case n < 19:
		w.last = "cancel"
		if len(w.waiting) > 0 {
			x := w.waiting[r.IntN(len(w.waiting))]
			if w.late(); !slices.Contains(w.waiting, x) {
				break // it was due
			}
			w.unwait(x)
			w.part(x)
			x.m.Cancel(w.now, x.t)
			w.decided()
			x.m.Free(x.t)
		}
	case n < 20:
		w.last = "give back"
		if len(w.running) > 0 {
			x := w.running[r.IntN(len(w.running))]
			w.late()
			w.ended(x, true, false)
			x.m.Cancel(w.now, x.t)
			w.decided()
			x.m.Free(x.t)
		}
	case n < 21:
		w.last = "resize"
		if c := pickCell(); c != nil && c.class.kind == Slots {
			k := c.class
			w.late()
			limit := int64(1 + r.IntN(8))
			for _, c := range k.cells {
				c.limit = limit
			}
			k.m.SetLimit(w.now, k.class, limit)
		}
	case n < 22:
		w.last = "pause"
		if c := pickCell(); c != nil && c.class.kind != Breaker {
			until := w.now + int64(r.IntN(40))
			w.late()
			c.pauseUntil(w, until)
			c.class.m.Pause(w.now, c.cell, until)
		}
	case n < 23:
		w.last = "settle"
		if len(w.running) > 0 {
			x := w.running[r.IntN(len(w.running))]
			w.late()
			w.settle(x)
		}
	default:
		switch r.IntN(6) {
		case 5:
			w.last = "order"
			if c := pickCell(); c != nil && c.class.class.Name == "files" {
				w.late()
				c.class.m.SetOrdered(w.now, c.class.class, !c.class.class.Ordered)
			}
		case 0:
			w.last = "keys"
			if c := pickCell(); c != nil && c.class.class.MaxKeys > 0 {
				w.late()
				c.class.m.SetMaxKeys(w.now, c.class.class, 1+r.IntN(5))
			}
		case 1:
			w.last = "rate"
			if c := pickCell(); c != nil && c.class.kind == Tokens {
				w.late()
				w.rate(c.class)
			}
		case 4:
			w.last = "lift"
			if c := pickCell(); c != nil && c.class.kind == Slots {
				w.late()
				c.pause = modelPause{}
				c.class.m.Lift(w.now, c.cell)
			}
		case 2:
			w.last = "policy"
			w.policy.Shed = !w.policy.Shed
			w.policy.Weights = map[string]int{"t1": 1 + r.IntN(4)}
			for _, m := range w.ms {
				m.SetPolicy(w.now, w.policy)
			}
		case 3:
			w.last = "trip"
			if c := pickCell(); c != nil && c.class.kind == Breaker {
				if r.IntN(2) == 0 {
					w.last = "throttle"
					c.class.m.Throttle(w.now, c.cell, w.now+int64(r.IntN(90)))
					break
				}
				c.class.m.Trip(w.now, c.cell, "test")
				w.decided()
				c.class.m.Reset(w.now, c.cell, "test")
			}
		}
	}
	w.late()
	w.check()
}

// late has what is due happen before the event, which the machine does by itself too.
func (w *model) late() {
	last := w.last
	w.last += ", late"
	w.ms[0].Advance(w.now)
	w.decided()
	w.last = last
}

func (c *modelCell) pauseUntil(w *model, until int64) {
	p := &c.pause
	switch held := p.end > w.now; {
	case until <= w.now && held:
		p.end = w.now
	case until <= w.now:
	case held:
		p.end = max(p.end, until)
	default:
		w.endPause(c)
		c.pause = modelPause{end: until}
	}
}

func (w *model) settle(x *modelCall) {
	unit := []string{"", "tokens"}[w.rng.IntN(2)]
	used := int64(w.rng.IntN(6))
	for _, n := range x.needs {
		if n.cell.class.kind == Tokens && n.cell.class.class.Unit == unit {
			w.endPause(n.cell)
			x.charges[n.cell].n = used
			w.counts.settles++
		}
	}
	x.m.Settle(w.now, x.t, unit, used)
}

func (w *model) rate(k *modelClass) {
	was := k.modelRate
	for _, c := range k.cells {
		w.owed(c) // ends pauses, and forgets what is final
	}
	k.modelRate = modelRate{int64(1 + w.rng.IntN(3)), int64(1 + w.rng.IntN(20)), int64(4 + w.rng.IntN(3))}
	for _, c := range k.cells {
		c.log = append(c.log, &modelEntry{at: w.now, rate: &was})
	}
	rate, err := bucket.NewRate(k.n, k.per, k.burst)
	require.NoError(w.t, err)
	k.m.SetRate(w.now, k.class, &rate)
}

// pass lets time go on to the instant, tick by tick.
func (w *model) pass(to int64) {
	for m := w.ms[0]; m.Due() <= to; {
		w.last = "tick"
		w.note()
		w.now = max(w.now, m.Due())
		m.Tick(w.now)
		w.decided()
		w.check()
	}
	w.now = max(w.now, to)
}

// check recounts everything.
func (w *model) check() {
	waiting, running := 0, 0
	for _, m := range w.ms {
		waiting += m.Waiting()
		running += m.Running()
	}
	if waiting != len(w.waiting) || running != len(w.running) {
		w.fatal("%d wait and %d run, the machine says %d and %d", len(w.waiting), len(w.running), waiting, running)
	}
	for _, x := range w.waiting {
		if x.limit < w.now {
			w.fatal("call %d waits at %d, limit %d", x.seq, w.now, x.limit)
		}
		if x.t.State() != Waiting {
			w.fatal("call %d should wait, is %d", x.seq, x.t.State())
		}
	}
	for _, k := range w.classes {
		for _, c := range k.cells {
			if c.cell != k.class.cells[c.key] {
				continue
			}
			switch k.kind {
			case Slots:
				if c.cell.used != c.used() {
					w.fatal("%s %s: the machine counts %d used, recount %d", k.class.Name, c.key, c.cell.used, c.used())
				}
			case Tokens: // to the nanosecond at which nothing is missing
				c.cell.reopen(w.now)
				each := tokenParts / k.per * k.n
				if got, want := max(w.now, c.cell.bucket.FullAt()), w.now+(w.owed(c)+each-1)/each; got != want {
					w.fatal("%s %s: full at %d, by replay at %d", k.class.Name, c.key, got, want)
				}
				w.counts.replays++
			}
		}
		if n := len(k.class.cells); k.class.MaxKeys > 0 && n > 6 {
			w.fatal("%s has %d keys of %d", k.class.Name, n, k.class.MaxKeys)
		}
	}
	w.checkQueue()
	w.checkTurns()
	idle := false
	for _, x := range w.heads() {
		if !w.free(x) {
			continue
		}
		idle = true
		switch {
		case w.claimed(x):
			w.counts.idleClaim++
		case w.behindBucket(x):
			w.counts.idleBucket++
		default:
			names := ""
			for _, n := range x.needs {
				names += " " + n.cell.class.class.Name
			}
			w.fatal("call %d (level %d, tenant %s, needs%s) could start and does not: parked at %s, rep %v, aside %v, fails %d, nested %v with parent %v", x.seq, x.level, x.tenant, names,
				x.t.lane.at.class.Name, x.t.lane.stands != nil, x.t.lane.aside, x.t.lane.fails, x.nested, x.parent != nil)
		}
	}
	if idle {
		w.counts.idleEvents++
	}
}

// heads is the first waiting call of each lane.
func (w *model) heads() map[string]*modelCall {
	heads := map[string]*modelCall{}
	for _, x := range w.waiting {
		lane := x.lane
		if x.nested {
			lane = fmt.Sprint("nested", x.seq)
		}
		if h := heads[lane]; h == nil || x.seq < h.seq {
			heads[lane] = x
		}
	}
	return heads
}

// free reports whether every cell of x lets it start now.
func (w *model) free(x *modelCall) bool {
	for _, n := range x.needs {
		if !w.agrees(x, n) {
			return false
		}
	}
	return true
}

// checkQueue holds the queue to its bound: that of each client, and a few places for each
// tool and each tenant besides.
func (w *model) checkQueue() {
	parked := map[*Cell]int{}
	for _, x := range w.waiting {
		parked[x.t.lane.at]++
	}
	for c, n := range parked {
		if c.q.calls != n {
			w.fatal("%d calls are parked at %s %s, it counts %d", n, c.class.Name, c.key, c.q.calls)
		}
	}
	for _, c := range w.clients {
		n, tools, tenants := 0, map[uint64]bool{}, map[string]bool{}
		for _, x := range w.waiting {
			if x.plan.Client == c {
				n++
				tools[x.plan.Tool], tenants[x.tenant] = true, true
			}
		}
		if n != c.Waiting() {
			w.fatal("%d calls of a client wait, it counts %d", n, c.Waiting())
		}
		if most := w.policy.MaxQueue + 16*(len(tools)+len(tenants)); n > most {
			w.fatal("%d calls of a client wait, at most %d may", n, most)
		}
	}
}

// claimed: slots that x needs are kept for the one claim, and are what is missing.
func (w *model) claimed(x *modelCall) bool {
	if len(x.m.claims) == 0 || x.m.claims[0] == x.t.lane {
		return false
	}
	l := x.m.claims[0]
	for _, n := range x.needs {
		if n.cell.class.kind != Slots || n.cell.class.class.Ordered {
			continue
		}
		for _, k := range l.needs.list {
			if k.Cell == n.cell.cell && n.cell.used()+n.n+k.N > n.cell.limit {
				return true
			}
		}
	}
	return false
}

// behindBucket: a bucket that x needs has another for its next payer, who cannot pay yet.
func (w *model) behindBucket(x *modelCall) bool {
	for _, n := range x.needs {
		c := n.cell.cell
		if n.cell.class.kind != Tokens || n.n == 0 || c.q == nil || c.q.n == 0 {
			continue
		}
		b := c.q.best(w.policy.Ageing)
		if b != x.t.lane && w.owed(n.cell)+b.need(c)*tokenParts > n.cell.class.burst*tokenParts {
			return true
		}
	}
	return false
}

// wind lets everything end, and checks that nothing is left.
func (w *model) wind() {
	w.last = "wind down"
	for _, k := range w.classes {
		if k.kind == Slots {
			for _, c := range k.cells {
				c.limit = 8
			}
			k.m.SetLimit(w.now, k.class, 8)
			w.decided()
		}
	}
	for n := 0; len(w.waiting)+len(w.running) > 0; n++ {
		if n > 100_000 {
			w.fatal("stuck: %d wait", len(w.waiting))
		}
		if len(w.running) > 0 {
			x := w.running[0]
			w.ended(x, false, true)
			x.m.Finish(w.now, x.t, breaker.Success)
			w.decided()
			x.m.Free(x.t)
		} else {
			m := w.ms[0]
			due := m.Due()
			if m.timers.Len()+m.limits.Len() == 0 {
				w.fatal("nothing runs, nothing is due, %d calls wait: a lost wake-up", len(w.waiting))
			}
			w.pass(due)
		}
		w.check()
	}
	for _, m := range w.ms {
		if len(m.all) > 0 || m.lanes.n > 0 || m.tenants.n > 0 || w.clients[0].books.n+w.clients[0].shares.n > 0 || len(m.claims) > 0 || m.limits.Len() > 0 || m.timers.Len() > 0 || len(m.sweeps) > 0 {
			w.fatal("left over: %d lanes, %d by hash, %d tenants, %d accounts, %d claims, %d limits, %d timers, %d sweeps", len(m.all), m.lanes.n, m.tenants.n, w.clients[0].books.n, len(m.claims), m.limits.Len(), m.timers.Len(), len(m.sweeps))
		}
	}
	if m := w.ms[0]; m.lined+len(m.kinInLine) > 0 || m.returning != nil {
		w.fatal("left over: %d lanes in line, %d of nested calls, one returning %v", m.lined, len(m.kinInLine), m.returning != nil)
	}
	for _, k := range w.classes {
		for _, c := range k.class.cells {
			if c.ordered && (c.line.spots.Len() > 0 || c.line.load != 0 || c.line.away != 0) {
				w.fatal("%s %s left over: %d in line, load %d, away %d", k.class.Name, c.key, c.line.spots.Len(), c.line.load, c.line.away)
			}
			if n := c.count(); n.used != 0 || n.stuck != 0 || c.calls != 0 || c.lanes != 0 || c.q != nil || c.dirty {
				w.fatal("%s %s left over: used %d stuck %d calls %d lanes %d", k.class.Name, c.key, n.used, n.stuck, c.calls, c.lanes)
			}
		}
	}
}

// TestModel drives random events, a million of them unless -short, through many machines.
func TestModel(t *testing.T) {
	seeds := uint64(4000)
	if testing.Short() || raceDetector {
		seeds = 300 // make test runs it whole too, without the race detector
	}
	for _, mode := range []struct {
		name string
		unit bool
	}{{"unit weights", true}, {"mixed weights", false}} {
		t.Run(mode.name, func(t *testing.T) {
			var sum counts
			var work Work
			for seed := uint64(1); seed <= seeds/2; seed++ {
				w := newModel(t, seed, mode.unit)
				for range 300 {
					w.step()
				}
				w.wind()
				sum.add(w.counts)
				for _, m := range w.ms {
					work.Moved += m.work.Moved
					work.Examined += m.work.Examined
					work.Claims += m.work.Claims
				}
			}
			t.Logf("%d events, %d starts, %d refused, %d cycles, %d shed, %d late, %d settled, %d keys refused, %d buckets replayed, %d ordered needs, %d passed out of turn", sum.events, sum.starts, sum.refused, sum.cycles, sum.sheds, sum.lates, sum.settles, sum.keysFull, sum.replays, sum.ordered, sum.passes)
			t.Logf("events with idle capacity %d (%.2f %%): heads behind the claim %d, behind a bucket's first %d; overtakes %d", sum.idleEvents, 100*float64(sum.idleEvents)/float64(sum.events), sum.idleClaim, sum.idleBucket, sum.overtakes)
			t.Logf("per start: %.2f examined, %.2f lanes moved; %d claims", float64(work.Examined)/float64(sum.starts), float64(work.Moved)/float64(sum.starts), work.Claims)
			for name, n := range map[string]int{"starts": sum.starts, "cycles": sum.cycles, "sheds": sum.sheds, "lates": sum.lates, "keys refused": sum.keysFull, "claims": int(work.Claims), "overtakes": sum.overtakes, "ordered needs": sum.ordered, "passed out of turn": sum.passes} {
				assert.NotZero(t, n, "no %s: the run tests less than it should", name)
			}
		})
	}
}
