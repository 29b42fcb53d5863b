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
)

// The reference model. It shares no code with the machine and trusts none of its
// judgement: after every event it recounts who holds what from the list of running calls,
// replays each bucket from the log of starts, and checks whatever the machine answered.
// What the algorithm leaves idle on purpose is counted, with its cause; idle capacity
// without a cause is a failure.

// tokenParts is how finely the model divides a token, so that rates need no fractions.
const tokenParts = 232792560 // divisible by 1 … 20

type modelCell struct {
	class *modelClass
	key   string
	cell  *Cell

	limit  int64 // slots
	debt   int64 // tokens missing, in parts
	at     int64 // instant that debt is of
	paused int64
	held   int64 // what that added to debt
	holds  []*hold
	calls  int // running calls that need it
	waits  int // waiting calls that need it
}

type modelClass struct {
	class         *Class
	m             *Machine
	kind          Kind
	n, per, burst int64
	refuse        bool
	cells         map[string]*modelCell
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
	t      *Ticket
	m      *Machine
	lane   string
	seq    int64
	level  int8
	tenant string
	needs  []modelNeed
	limit  int64
	nested bool // made under another, which may have ended
	parent *modelCall
	kids   []*modelCall
	since  int64
	used   map[string]int64 // settled
	found  [2]int           // calls that waited when it came, and of its tenant
}

type modelPlan struct {
	id     uint64
	world  int
	fixed  []modelNeed
	keyed  []*modelClass
	weight bool
}

type model struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	ms      []*Machine // one, or two until they become one
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
}

func (w *model) fatal(format string, a ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d, event %d (%s), now %d: %s", w.seed, w.counts.events, w.last, w.now, fmt.Sprintf(format, a...))
}

func (w *model) machine(world int) *Machine { return w.ms[min(world, len(w.ms)-1)] }

// class adds a class of one of the kinds.
func (w *model) class(world int, name string, kind Kind, rank uint8, unit string, keys int) *modelClass {
	r := w.rng
	k := &Class{Name: name, Kind: kind, Rank: rank, Unit: unit, MaxKeys: keys}
	mk := &modelClass{class: k, kind: kind, cells: map[string]*modelCell{}}
	switch kind {
	case Slots:
		k.Limit = int64(1 + r.IntN(5))
		k.Refuse = r.IntN(12) == 0
	case Tokens:
		mk.n, mk.per, mk.burst = int64(1+r.IntN(3)), int64(1+r.IntN(20)), int64(4+r.IntN(3))
		rate, err := bucket.NewRate(mk.n, mk.per, mk.burst)
		if err != nil {
			w.t.Fatal(err)
		}
		k.Rate = &rate
		k.Refuse = r.IntN(12) == 0
	case Breaker:
		k.Breaker = &breaker.Config{Failures: 3, Cooldown: 60, Window: 100, Lease: 50, Probes: 2}
	}
	mk.refuse = k.Refuse
	mk.m = w.machine(world)
	w.classes = append(w.classes, mk)
	return mk
}

func (w *model) cell(world int, k *modelClass, key string) *modelCell {
	c := w.machine(world).Cell(w.now, k.class, key)
	if c == nil {
		return nil
	}
	mc := k.cells[key]
	if mc == nil {
		mc = &modelCell{class: k, key: key, limit: k.class.Limit, at: w.now}
		k.cells[key] = mc
	}
	mc.cell = c // a new one, if the old one was idle and gave way
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
	worlds := 1
	if r.IntN(4) == 0 {
		worlds = 2
		w.ms = append(w.ms, NewMachine(w.policy))
	}
	for world := range worlds {
		w.topology(world, unit)
	}
	return w
}

// topology adds plans: tools of two types under a global limit, crossed by tenants and keys.
func (w *model) topology(world int, unit bool) {
	r := w.rng
	maybe := func(name string, rank uint8, one int) (out []*modelClass) {
		if r.IntN(3) > 0 {
			out = append(out, w.class(world, name, Slots, rank, "", 0))
		}
		if !unit && r.IntN(4) == 0 {
			out = append(out, w.class(world, name+" bytes", Slots, rank, "bytes", 0))
		}
		if r.IntN(one) == 0 {
			out = append(out, w.class(world, name+" rate", Tokens, rank, "", 0))
		}
		if !unit && r.IntN(6) == 0 {
			out = append(out, w.class(world, name+" tokens", Tokens, rank, "tokens", 0))
		}
		return out
	}
	global := maybe(fmt.Sprint("global", world), 7, 3)
	var keyed []*modelClass
	if r.IntN(2) == 0 {
		keyed = append(keyed, w.class(world, "tenant", Slots, 2, "", 4))
	}
	if r.IntN(3) == 0 {
		keyed = append(keyed, w.class(world, "key rate", Tokens, 3, "", 3))
	}
	var brk *modelClass
	if r.IntN(2) == 0 {
		brk = w.class(world, "breaker", Breaker, 0, "", 0)
	}
	for typ := range 2 {
		types := maybe(fmt.Sprint("type", typ), 4, 4)
		for tool := range 2 {
			name := fmt.Sprint("tool", typ, tool)
			tools := maybe(name, 0, 4)
			p := modelPlan{id: uint64(len(w.plans) + 1), world: world, keyed: keyed, weight: !unit}
			if brk != nil {
				p.fixed = append(p.fixed, modelNeed{w.cell(world, brk, name), 1})
			}
			for _, k := range slices.Concat(tools, types, global) {
				p.fixed = append(p.fixed, modelNeed{w.cell(world, k, ""), 1})
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
			w.machine(world).Together(cells, ks)
			w.plans = append(w.plans, p)
		}
	}
}

// owed is the tokens missing from c now, in parts.
func (w *model) owed(c *modelCell) int64 {
	k := c.class
	return max(0, c.debt-(w.now-c.at)*(tokenParts/k.per)*k.n)
}

func (w *model) pay(c *modelCell, n int64) { c.debt, c.at = w.owed(c)+n*tokenParts, w.now }

func (w *model) refund(c *modelCell, n int64) {
	c.debt, c.at = c.debt-(w.now-c.at)*(tokenParts/c.class.per)*c.class.n-n*tokenParts, w.now
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
				if i == len(h.chain)-1 {
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
	if c.paused > w.now {
		return false
	}
	switch c.class.kind {
	case Slots:
		return c.used()+n.n <= c.limit || x.lends(c) != nil
	case Tokens:
		return w.owed(c)+n.n*tokenParts <= c.class.burst*tokenParts
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
		if c.paused > w.now {
			w.fatal("started at %s, paused until %d", c.class.class.Name, c.paused)
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
			if w.owed(c)+n.n*tokenParts > c.class.burst*tokenParts {
				w.fatal("%s: overdrawn, owes %d parts", c.class.class.Name, w.owed(c))
			}
			w.pay(c, n.n)
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
func (w *model) ended(x *modelCall, refund bool) {
	w.running = slices.DeleteFunc(w.running, func(y *modelCall) bool { return y == x })
	for _, n := range x.needs {
		c := n.cell
		c.calls--
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
				w.refund(c, n.n)
			}
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
		m.Changes(nil)
	}
	slices.SortFunc(started, func(a, b *modelCall) int { return cmp.Compare(a.t.rec.startedAs, b.t.rec.startedAs) })
	for _, x := range started {
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
		if queued, tenants := x.found[0], x.found[1]; r.Reason == QueueFull && queued < w.policy.MaxQueue && (tenants < w.policy.MaxPerTenant || !w.policy.Ordered) {
			w.fatal("queue full with %d waiting, %d of the tenant", queued, tenants)
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
	m := w.machine(p.world)
	x := &modelCall{m: m, seq: w.seq, level: int8(w.rng.IntN(Levels)), tenant: fmt.Sprint("t", w.rng.IntN(4)), limit: Never, since: w.now, used: map[string]int64{}}
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
		c := w.cell(p.world, k, key)
		if c == nil {
			w.full(k, key)
			return
		}
		x.needs = append(x.needs, modelNeed{c, 1})
	}
	for i := range x.needs {
		if n := &x.needs[i]; p.weight && n.cell.class.class.Unit != "" {
			n.n = int64(1 + w.rng.IntN(3))
		} else if p.weight && n.cell.class.kind == Tokens && w.rng.IntN(4) == 0 {
			n.n = 2
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
	t.Plan, t.Level, t.Tenant, t.Limit = p.id, x.level, x.tenant, x.limit
	if x.parent != nil {
		t.Parent = x.parent.t
		x.parent.kids = append(x.parent.kids, x)
	}
	lane := fmt.Sprint(p.id, x.level, x.tenant)
	if !w.policy.Ordered {
		lane = fmt.Sprint(p.id)
	}
	for _, n := range x.needs {
		m.Add(t, n.cell.cell, n.n)
		lane += fmt.Sprintf(" %p %d", n.cell.cell, n.n)
	}
	x.lane = lane
	w.by[t] = x
	for _, y := range w.waiting {
		if y.m == m {
			x.found[0]++
			if y.tenant == x.tenant {
				x.found[1]++
			}
		}
	}
	if m.Arrive(w.now, t) != Waiting {
		w.decided(x)
		return
	}
	w.waiting = append(w.waiting, x)
	for _, n := range x.needs {
		n.cell.waits++
	}
}

// full checks that a key was refused because all keys are busy.
func (w *model) full(k *modelClass, key string) {
	w.counts.keysFull++
	n := 0
	for _, c := range k.cells {
		if c.calls > 0 || c.waits > 0 || c.paused > w.now || k.kind == Tokens && w.owed(c) > 0 {
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
	if r.IntN(2) == 0 {
		w.pass(w.now + int64(r.IntN(12)))
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
			w.ended(x, false)
			o := breaker.Success
			if r.IntN(4) == 0 {
				o = breaker.Failure
			}
			x.m.Finish(w.now, x.t, o)
			w.decided()
			x.m.Free(x.t)
		}
	case n < 19:
		w.last = "cancel"
		if len(w.waiting) > 0 {
			x := w.waiting[r.IntN(len(w.waiting))]
			w.unwait(x)
			w.part(x)
			x.m.Cancel(w.now, x.t)
			w.decided()
			x.m.Free(x.t)
		}
	case n < 20:
		w.last = "give back"
		if len(w.running) > 0 {
			if x := w.running[len(w.running)-1]; len(x.used) == 0 {
				w.ended(x, true)
				x.m.Cancel(w.now, x.t)
				w.decided()
				x.m.Free(x.t)
			}
		}
	case n < 21:
		w.last = "resize"
		if c := pickCell(); c != nil && c.class.kind == Slots {
			k := c.class
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
			c.pauseUntil(w, until)
			c.class.m.Pause(w.now, c.cell, until)
		}
	case n < 23:
		w.last = "settle"
		if len(w.running) > 0 {
			w.settle(w.running[r.IntN(len(w.running))])
		}
	default:
		switch r.IntN(6) {
		case 0:
			w.last = "absorb"
			if len(w.ms) == 2 {
				w.absorb()
			}
		case 1:
			w.last = "rate"
			if c := pickCell(); c != nil && c.class.kind == Tokens {
				w.rate(c.class)
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
				c.class.m.Trip(w.now, c.cell, "test")
				w.decided()
				c.class.m.Reset(w.now, c.cell, "test")
			}
		}
	}
	w.decided()
	w.check()
}

func (c *modelCell) pauseUntil(w *model, until int64) {
	if until <= w.now {
		if c.paused > w.now && c.class.kind == Tokens {
			w.unhold(c)
			c.hold(w, w.now)
		}
		c.paused, c.held = 0, 0
		return
	}
	if c.paused <= w.now {
		c.held = 0
	}
	c.paused = max(c.paused, until)
	if c.class.kind == Tokens { // comes out of it empty
		c.hold(w, c.paused)
	}
}

// hold leaves c without a token at the instant, and unhold undoes that.
func (c *modelCell) hold(w *model, at int64) {
	k, owed := c.class, w.owed(c)
	c.debt, c.at = max(owed, k.burst*tokenParts+(at-w.now)*(tokenParts/k.per)*k.n), w.now
	c.held += c.debt - owed
}

func (w *model) unhold(c *modelCell) {
	c.debt -= c.held + (w.now-c.at)*(tokenParts/c.class.per)*c.class.n
	c.at, c.held = w.now, 0
}

func (w *model) settle(x *modelCall) {
	unit := "tokens"
	used := int64(w.rng.IntN(6))
	for _, n := range x.needs {
		if n.cell.class.kind != Tokens || n.cell.class.class.Unit != unit {
			continue
		}
		had := n.n
		if u, ok := x.used[unit]; ok {
			had = u
		}
		if used > had {
			w.pay(n.cell, used-had)
		} else {
			w.refund(n.cell, had-used)
		}
		w.counts.settles++
	}
	x.used[unit] = used
	x.m.Settle(w.now, x.t, unit, used)
}

func (w *model) rate(k *modelClass) {
	was := *k
	k.n, k.per, k.burst = int64(1+w.rng.IntN(3)), int64(1+w.rng.IntN(20)), int64(4+w.rng.IntN(3))
	for _, c := range k.cells {
		c.class = &was
		if c.paused > w.now {
			w.unhold(c)
		}
		have := min(was.burst*tokenParts-w.owed(c), k.burst*tokenParts)
		c.class = k
		// what is missing is rounded up to the instants that the new rate knows
		grain := tokenParts / k.per
		c.debt, c.at, c.held = (k.burst*tokenParts-have+grain-1)/grain*grain, w.now, 0
		if c.paused > w.now {
			c.hold(w, c.paused)
		}
	}
	rate, err := bucket.NewRate(k.n, k.per, k.burst)
	if err != nil {
		w.t.Fatal(err)
	}
	k.m.SetRate(w.now, k.class, &rate)
}

func (w *model) absorb() {
	a, b := w.ms[0], w.ms[1]
	w.ms = w.ms[:1]
	// who waited in b comes again, behind those of a
	for _, x := range w.waiting {
		if x.m == b {
			x.seq += 1 << 40
		}
	}
	for _, x := range slices.Concat(w.waiting, w.running) {
		x.m = a
	}
	for _, k := range w.classes {
		k.m = a
	}
	w.seq += 1 << 41
	a.Absorb(w.now, b)
}

// pass lets time go on to the instant, tick by tick.
func (w *model) pass(to int64) {
	for _, m := range w.ms {
		for m.Due() <= to {
			w.last = "tick"
			w.note()
			w.now = max(w.now, m.Due())
			for _, m := range w.ms {
				m.Tick(w.now)
			}
			w.decided()
			w.check()
		}
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
			if c.cell == k.class.cells[c.key] && k.kind == Slots && c.cell.used != c.used() {
				w.fatal("%s %s: the machine counts %d used, recount %d", k.class.Name, c.key, c.cell.used, c.used())
			}
		}
		if n := len(k.class.cells); k.class.MaxKeys > 0 && n > k.class.MaxKeys {
			w.fatal("%s has %d keys of %d", k.class.Name, n, k.class.MaxKeys)
		}
	}
	idle := false
	heads := map[string]*modelCall{}
	for _, x := range w.waiting {
		lane := fmt.Sprint(x.m == w.ms[0], x.lane)
		if x.nested {
			lane = fmt.Sprint("nested", x.seq)
		}
		if h := heads[lane]; h == nil || x.seq < h.seq {
			heads[lane] = x
		}
	}
	for _, x := range heads {
		free := true
		for _, n := range x.needs {
			if !w.agrees(x, n) {
				free = false
				break
			}
		}
		if !free {
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

// claimed: slots that x needs are kept for the one claim, and are what is missing.
func (w *model) claimed(x *modelCall) bool {
	if len(x.m.claims) == 0 || x.m.claims[0] == x.t.lane {
		return false
	}
	l := x.m.claims[0]
	for _, n := range x.needs {
		if n.cell.class.kind != Slots {
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
		if n.cell.class.kind != Tokens || c.q == nil || c.q.n == 0 {
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
			w.ended(x, false)
			x.m.Finish(w.now, x.t, breaker.Success)
			w.decided()
			x.m.Free(x.t)
		} else {
			due := Never
			for _, m := range w.ms {
				due = min(due, m.Due())
			}
			if due == Never {
				w.fatal("nothing runs, nothing is due, %d calls wait: a lost wake-up", len(w.waiting))
			}
			w.pass(due)
		}
		w.check()
	}
	for _, m := range w.ms {
		if len(m.all) > 0 || len(m.lanes) > 0 || len(m.tenants) > 0 || len(m.books) > 0 || len(m.claims) > 0 || m.limits.Len() > 0 || m.timers.Len() > 0 || len(m.sweeps) > 0 {
			w.fatal("left over: %d lanes, %d by hash, %d tenants, %d accounts, %d claims, %d limits, %d timers, %d sweeps", len(m.all), len(m.lanes), len(m.tenants), len(m.books), len(m.claims), m.limits.Len(), m.timers.Len(), len(m.sweeps))
		}
	}
	for _, k := range w.classes {
		for _, c := range k.class.cells {
			if c.used != 0 || c.stuck != 0 || c.calls != 0 || c.lanes != 0 || c.q != nil || c.dirty {
				w.fatal("%s %s left over: used %d stuck %d calls %d lanes %d", k.class.Name, c.key, c.used, c.stuck, c.calls, c.lanes)
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
			t.Logf("%d events, %d starts, %d refused, %d cycles, %d shed, %d late, %d settled, %d keys refused", sum.events, sum.starts, sum.refused, sum.cycles, sum.sheds, sum.lates, sum.settles, sum.keysFull)
			t.Logf("events with idle capacity %d (%.2f %%): heads behind the claim %d, behind a bucket's first %d; overtakes %d", sum.idleEvents, 100*float64(sum.idleEvents)/float64(sum.events), sum.idleClaim, sum.idleBucket, sum.overtakes)
			t.Logf("per start: %.2f examined, %.2f lanes moved; %d claims", float64(work.Examined)/float64(sum.starts), float64(work.Moved)/float64(sum.starts), work.Claims)
			for name, n := range map[string]int{"starts": sum.starts, "cycles": sum.cycles, "sheds": sum.sheds, "lates": sum.lates, "keys refused": sum.keysFull, "claims": int(work.Claims), "overtakes": sum.overtakes} {
				if n == 0 {
					t.Errorf("no %s: the run tests less than it should", name)
				}
			}
		})
	}
}
