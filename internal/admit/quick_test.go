package admit

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/latch"
)

// side is one of two machines that are told the same: one lets calls come the quick way.
type side struct {
	*world
	quick   bool
	apart   bool // what a call holds is given back before the next starts
	classes []*Class
	sets    []*NeedSet // of plans without keys
	ways    []Way      // of those with keys
	plans   []*Plan
	known   map[string]*NeedSet // of plans and keys
}

// sideCall is a call as one side has it.
type sideCall struct {
	t     *Ticket // nil if it came the quick way and has not been adopted
	pass  Pass
	set   *NeedSet // nil if its needs were put together for it
	at    int64
	level int8

	refusal *Said // if it was refused without the lock
	after   int64
}

// twinCall is one call of both.
type twinCall struct {
	name   string
	plan   int
	keys   map[string]string // of classes with keys
	parent *twinCall
	slow   sideCall
	fast   sideCall
	state  State
	serial int // of its start
}

// twins is both, and what happened.
type twins struct {
	testing.TB
	r          *rand.Rand
	now        int64
	slow, fast *side
	calls      []*twinCall // that wait or run
	made       int
	starts     int
	last       map[string]int // of slow's buckets: the serial of the call charged last
	log        []string
	busy       bool  // calls come faster than they can run
	keyed      bool  // most calls have keys
	only       []int // the plans that calls have; all if it is empty
	came       int   // the quick way
	withKeys   int   // of them
	adopted    int
	turned     int // refused without the lock
	saturated  int // of them by a full limit
	full       int // calls refused by a full table of keys
}

// The plans, each by the places of its classes.
var twinPlans = [][]int{{0, 1, 4, 6}, {0, 2, 4, 5, 6}, {3, 4}, {2, 7}, {1, 4, 5}, {1, 8}, {2, 4, 9}, {3, 8, 9, 10}, {1, 5, 10}, {4, 11}, {11},
	{1, 7, 12}, {0, 3, 4, 7}, {2, 7, 13}, {2, 8, 12}}

// The classes that refuse calls, or may come to do so.
var twinLimits = []int{2, 4, 5, 6, 7, 8, 9, 12, 13}

// The keys that calls have. The empty one is that of a call that the rate by key does not count.
var twinKeys = []string{"", "a", "b", "c", "d"}

// cellName tells a cell from others of its side.
func cellName(c *Cell) string { return c.class.Name + "/" + c.key }

// twinCircuits is what the breaker of the plans may be like.
var twinCircuits = []*breaker.Config{
	{Failures: 2, Cooldown: 3 * sec},
	{Ratio: 0.5, MinCalls: 4, Window: 20 * sec, Cooldown: 3 * sec},
	{Failures: 3, Ratio: 0.3, MinCalls: 6, Window: 2 * sec, Cooldown: sec},
}

func newSide(t testing.TB, quick bool) *side {
	s := &side{world: newWorld(t, standard()), quick: quick}
	s.m.SetPolicy(0, Policy{Ordered: true, Ageing: 3, Claim: 2, MaxQueue: 6, MaxPerTenant: 6})
	refuses := slots("refuses", 2, 2)
	refuses.Refuse = true
	s.classes = []*Class{
		{Name: "circuit", Kind: Breaker, Breaker: twinCircuits[0]},
		slots("own a", 0, Unlimited), slots("own b", 0, 2), slots("own c", 0, Unlimited),
		slots("all", 7, 3), s.rate("rate", 1, 7, 2*sec, 4), s.rate("slow rate", 6, 3, sec, 5), refuses,
		slots("by tenant", 2, 2), s.rate("by key", 3, 5, 2*sec, 3), circuit("by user", breaker.Config{Failures: 2, Cooldown: 2 * sec}),
		units("wide", 3, 4), slots("refuses all", 7, 3), s.rate("refusing rate", 1, 9, 2*sec, 5),
	}
	s.classes[12].Refuse, s.classes[13].Refuse = true, true
	for i, n := range []int{3, 2, 2} {
		s.classes[8+i].MaxKeys = n
	}
	s.ways, s.known = make([]Way, len(twinPlans)), map[string]*NeedSet{}
	for i, p := range twinPlans {
		var list []Need
		var fixed []*Cell
		var keyed []*Class
		for _, k := range s.inOrder(p) {
			if k.MaxKeys > 0 {
				keyed = append(keyed, k)
				continue
			}
			n := int64(1)
			if k.Name == "wide" {
				n = int64(len(p)) // one of the two plans is wide
			}
			list, fixed = append(list, Need{s.cell(k), n}), append(fixed, s.cell(k))
		}
		if quick {
			s.ways[i] = QuickWay()
		}
		var set *NeedSet
		if keyed == nil {
			if set = NewNeedSet(list); quick {
				s.m.Quicken(set, &s.ways[i])
			}
		}
		s.m.Together(fixed, keyed)
		s.sets, s.plans = append(s.sets, set), append(s.plans, &Plan{Tool: uint64(i + 1), Client: s.me})
	}
	return s
}

// inOrder is the classes of a plan in the order in which they are asked.
func (s *side) inOrder(plan []int) (list []*Class) {
	for _, k := range plan {
		list = append(list, s.classes[k])
	}
	slices.SortStableFunc(list, func(x, y *Class) int { return x.order() - y.order() })
	return list
}

// fill gives t the needs of c, or answers the class whose table is full. On the fast side calls with
// the same keys may share them from then on.
func (s *side) fill(w *twins, c *twinCall, t *Ticket) (full *Class) {
	for _, k := range s.inOrder(twinPlans[c.plan]) {
		key := c.keys[k.Name]
		if key == "" && k.Name == "by key" {
			continue
		}
		x := s.m.Cell(w.now, k, key)
		if x == nil {
			return k
		}
		s.m.Add(t, x, 1)
	}
	if t.Along(&s.ways[c.plan]); s.quick && w.r.IntN(3) > 0 {
		was := s.known[c.place()]
		if s.known[c.place()] = s.m.Share(t, &s.ways[c.plan]); was != nil {
			s.m.Unshare(was)
		}
	}
	return nil
}

// forget has the fast side forget what some calls with keys share.
func (s *side) forget(w *twins) {
	if len(s.known) > 0 {
		at := slices.Sorted(maps.Keys(s.known))[w.r.IntN(len(s.known))]
		s.m.Unshare(s.known[at])
		delete(s.known, at)
	}
}

// place tells calls with other keys, or of another plan, from c.
func (c *twinCall) place() string { return fmt.Sprint(c.plan, c.keys) }

func (w *twins) logf(format string, a ...any) {
	w.log = append(w.log, fmt.Sprintf("%v: ", w.now)+fmt.Sprintf(format, a...))
}

func (w *twins) fail(format string, a ...any) {
	w.Helper()
	for _, l := range w.log[max(0, len(w.log)-40):] {
		w.Log(l)
	}
	w.Fatalf(format, a...)
}

// arrive has a call come to both, on the fast side the quick way if that lets it.
func (w *twins) arrive(parent *twinCall) {
	w.made++
	c := &twinCall{name: fmt.Sprint("call ", w.made), plan: w.r.IntN(len(twinPlans)), parent: parent, keys: map[string]string{}}
	if w.keyed && w.r.IntN(4) > 0 {
		c.plan = 5 + w.r.IntN(4)
	}
	if len(w.only) > 0 {
		c.plan = w.only[w.r.IntN(len(w.only))]
	}
	for _, k := range twinPlans[c.plan] {
		if k := w.slow.classes[k]; k.MaxKeys > 0 {
			c.keys[k.Name] = twinKeys[min(w.r.IntN(len(twinKeys)), w.r.IntN(len(twinKeys)))]
		}
	}
	var full [2]string
	level, limit, tenant := int8(w.r.IntN(3)), Never, fmt.Sprint("tenant ", w.r.IntN(2))
	if w.r.IntN(4) == 0 {
		limit = w.now + w.r.Int64N(2*sec)
	}
	atOnce := w.r.IntN(8) == 0
	come := func(s *side, x *sideCall, up *sideCall) State {
		if x.set, x.at, x.level = s.sets[c.plan], w.now, level; x.set == nil {
			x.set = s.known[c.place()]
		}
		if s.quick && up == nil && x.set != nil && x.set.Take(w.now, &x.pass) {
			if w.came++; len(c.keys) > 0 {
				w.withKeys++
			}
			return Running
		}
		if s.quick && x.set != nil {
			if x.refusal, x.after = x.set.Refusal(w.now, up != nil); x.refusal != nil {
				if w.turned++; x.refusal.Limit > 0 {
					w.saturated++
				}
				return Refused
			}
		}
		x.t = s.m.Ticket()
		if x.set != nil && x.set.IsAlive() {
			s.m.Fixed(x.t, x.set)
		} else if k := s.fill(w, c, x.t); k != nil {
			full[map[bool]int{true: 1}[s == w.fast]] = k.Name
			return Refused
		}
		x.t.Owner, x.t.Plan, x.t.Level, x.t.Limit, x.t.Tenant, x.t.AtOnce = c.name, s.plans[c.plan], level, limit, tenant, atOnce
		if up != nil {
			x.t.Parent = s.ticketOf(w, up)
		}
		return s.m.Arrive(w.now, x.t)
	}
	var upSlow, upFast *sideCall
	if parent != nil {
		upSlow, upFast = &parent.slow, &parent.fast
	}
	a, b := come(w.slow, &c.slow, upSlow), come(w.fast, &c.fast, upFast)
	w.logf("%s of plan %d %v arrives (nested %v): %v, fast %v, quickly %v", c.name, c.plan, c.keys, parent != nil, a, b, c.fast.t == nil)
	if a != b {
		w.fail("%s is %v on the slow side and %v on the fast one, with the tables full of %q", c.name, a, b, full)
	}
	if a == Refused {
		if full != ([2]string{}) {
			w.full++
			if full[0] != full[1] {
				w.fail("%s finds the table of %q full, and on the fast side that of %q", c.name, full[0], full[1])
			}
		} else {
			w.sameRefusal(c)
		}
		w.free(c)
	} else {
		w.calls = append(w.calls, c)
		if c.state = a; a == Running {
			w.started(c)
		}
	}
	w.collect()
}

// ticketOf is the ticket of a call that runs, which is adopted if need be.
func (s *side) ticketOf(w *twins, x *sideCall) *Ticket {
	if x.t == nil {
		w.adopted++
		x.t = s.m.Adopt(x.set, &x.pass, x.level, x.at)
		x.t.Plan = s.plans[0]
	}
	return x.t
}

func (w *twins) started(c *twinCall) {
	w.starts++
	c.serial = w.starts
	for _, n := range c.slow.t.needs.list {
		if n.Cell.kind == Tokens {
			w.last[cellName(n.Cell)] = c.serial
		}
	}
}

// newest reports whether nobody was charged after c by a rate of its own, nor that has changed or
// been paused: what is given back is exact then.
func (w *twins) newest(c *twinCall) bool {
	return !slices.ContainsFunc(c.slow.t.needs.list, func(n Need) bool {
		return n.Cell.kind == Tokens && w.last[cellName(n.Cell)] != c.serial
	})
}

func (w *twins) free(c *twinCall) {
	w.slow.m.Free(c.slow.t)
	if c.fast.t != nil {
		w.fast.m.Free(c.fast.t)
	}
	w.calls = slices.DeleteFunc(w.calls, func(x *twinCall) bool { return x == c })
}

func (w *twins) sameRefusal(c *twinCall) {
	a, b := c.slow.t.Refusal(), Refusal{}
	switch x := c.fast.refusal; {
	case x == nil:
		b = c.fast.t.Refusal()
	case x.Limit > 0:
		b.Reason, b.After = Saturated, c.fast.after
		if y := a.By; y != nil && y.kind == Slots && y.limit == x.Limit && y.class.Name == x.By {
			b.By = a.By
		}
	default:
		if b.Reason, b.After = BreakerOpen, c.fast.after; a.By.class.Name == x.By {
			b.By = a.By
		}
	}
	name := func(r Refusal) string {
		if r.By == nil {
			return ""
		}
		return r.By.class.Name
	}
	if a.Reason != b.Reason || name(a) != name(b) || a.After != b.After {
		w.fail("%s is refused with %v by %q after %d, and on the fast side with %v by %q after %d",
			c.name, a.Reason, name(a), a.After, b.Reason, name(b), b.After)
	}
}

// collect holds that both have decided on the same calls, in the same order.
func (w *twins) collect() {
	names := func(s *side) (list []string) {
		for s.m.Pending() {
			s.m.Step(w.now)
		}
		for t := s.m.Decided(); t != nil; t = t.Next() {
			list = append(list, fmt.Sprint(t.Owner, " ", t.State()))
		}
		return list
	}
	for w.slow.m.Pending() {
		w.slow.m.Step(w.now)
	}
	var list []*twinCall
	for a := w.slow.m.Decided(); a != nil; a = a.Next() {
		list = append(list, w.calls[slices.IndexFunc(w.calls, func(c *twinCall) bool { return c.slow.t == a })])
	}
	got := names(w.fast)
	var want []string
	for _, c := range list {
		want = append(want, fmt.Sprint(c.name, " ", c.slow.t.State()))
	}
	if !slices.Equal(got, want) {
		w.fail("decided are %v, and on the fast side %v", want, got)
	}
	for _, c := range list {
		w.logf("%s is decided: %v", c.name, c.slow.t.State())
		if c.state = c.slow.t.State(); c.state == Running {
			w.started(c)
			continue
		}
		w.sameRefusal(c)
		w.free(c)
	}
	for _, c := range w.calls {
		if c.slow.t.State() != Waiting || c.fast.t.State() != Waiting {
			continue
		}
		if a, b := c.slow.t.WaitsAt().class.Name, c.fast.t.WaitsAt().class.Name; a != b {
			w.fail("%s waits at %s, and on the fast side at %s", c.name, a, b)
		}
	}
}

// end ends a call that runs.
func (w *twins) end(c *twinCall, o breaker.Outcome) {
	w.logf("%s ends: %v, quickly %v", c.name, o, c.fast.t == nil)
	if m := w.slow.m; w.slow.apart {
		m.advance(w.now)
		m.finish(c.slow.t, o, true)
		m.drain()
	} else {
		m.Finish(w.now, c.slow.t, o)
	}
	if x := &c.fast; x.t == nil && o == breaker.Success {
		left := len(x.set.latched) // as if a cell were shut
		if w.r.IntN(2) == 0 {
			left = x.set.Give(w.now, &x.pass, x.at)
		}
		if left > 0 {
			w.fast.m.End(w.now, x.set, &x.pass, left, x.at)
		}
	} else {
		w.fast.m.Finish(w.now, w.fast.ticketOf(w, x), o)
	}
	if a, b := c.slow.t.State(), c.fast.t; a != Left || b != nil && b.State() != Left {
		w.fail("%s has ended and is %v", c.name, a)
	}
	w.free(c)
	w.collect()
}

// both does the same to both machines.
func (w *twins) both(what string, f func(s *side)) {
	w.logf("%s", what)
	f(w.slow)
	f(w.fast)
	w.collect()
}

// same holds that both count the same. To look shuts the cells.
func (w *twins) same() {
	for i, k := range w.slow.classes {
		for _, key := range keysOf(k) {
			w.sameCell(i, key)
		}
		if k.MaxKeys > 0 {
			if a, b := w.slow.m.Vacancy(k), w.fast.m.Vacancy(w.fast.classes[i]); len(k.list) == len(w.fast.classes[i].list) && a != b {
				w.fail("a key of %s falls idle at %v, and on the fast side at %v", k.Name, a, b)
			}
		}
	}
	if a, b := w.slow.m.Running(), w.fast.m.Running(); a != b {
		w.fail("%d run, and on the fast side %d", a, b)
	}
	if a, b := w.slow.m.Waiting(), w.fast.m.Waiting(); a != b {
		w.fail("%d wait, and on the fast side %d", a, b)
	}
}

// keysOf is the keys that cells of k may have.
func keysOf(k *Class) []string {
	if k.MaxKeys > 0 {
		return twinKeys
	}
	return twinKeys[:1]
}

// sameCell holds that both count the same at the cell of one key. A key that remembers nothing may
// have been forgotten on one side: it counts as a new one.
func (w *twins) sameCell(i int, key string) {
	k, l := w.slow.classes[i], w.fast.classes[i]
	x, y := w.slow.m.Peek(w.now, k, key), w.fast.m.Peek(w.now, l, key)
	if x == nil || y == nil {
		if x != y {
			w.fail("%s has room for %q: %v, and on the fast side %v", k.Name, key, x != nil, y != nil)
		}
		return
	}
	if a, b := x.Usage(w.now), y.Usage(w.now); a != b {
		w.fail("of %s are used %+v, and on the fast side %+v", cellName(x), a, b)
	}
	if k.MaxKeys > 0 && x.calls != y.calls {
		w.fail("%d calls need %s, and on the fast side %d", x.calls, cellName(x), y.calls)
	}
	if k.Kind == Breaker && x.BreakerState(w.now) != y.BreakerState(w.now) {
		w.fail("the breakers %s differ", cellName(x))
	}
	if k.Kind == Breaker && k.Breaker == l.Breaker {
		if a, b := fmt.Sprint(*x.breaker), fmt.Sprint(*y.breaker); a != b {
			w.fail("the breakers %s count\n%s and\n%s", cellName(x), a, b)
		}
	}
	if k.Kind == Tokens && x.bucket.Ready(k.Rate, w.now, 1) != y.bucket.Ready(l.Rate, w.now, 1) {
		w.fail("the next token of %s comes at different times", cellName(x))
	}
}

// pick is a call of that state, or nil.
func (w *twins) pick(s State) *twinCall {
	var list []*twinCall
	for _, c := range w.calls {
		if c.state == s {
			list = append(list, c)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[w.r.IntN(len(list))]
}

func (w *twins) hasChildren(c *twinCall) bool {
	return slices.ContainsFunc(w.calls, func(x *twinCall) bool { return x.parent == c })
}

func (w *twins) step() {
	k, circuit := w.r.IntN(len(w.slow.classes)), 10*w.r.IntN(2)
	key := twinKeys[w.r.IntN(len(twinKeys))]
	if w.slow.classes[k].MaxKeys == 0 {
		key = ""
	}
	switch x := w.r.IntN(100); {
	case x < 30 || x < 40 && w.busy:
		w.arrive(nil)
	case x >= 40 && x < 44:
		if up := w.pick(Running); up != nil {
			w.arrive(up)
		}
	case x < 70:
		if !w.busy && w.r.IntN(2) == 0 {
			w.now += w.r.Int64N(sec)
			w.both("time passes", func(s *side) { s.m.Tick(w.now) })
		}
		if c := w.pick(Running); c != nil && !w.hasChildren(c) {
			o := breaker.Success
			if w.r.IntN(6) == 0 {
				o = breaker.Outcome(w.r.IntN(4))
			}
			w.end(c, o)
		}
	case x < 86 && !w.busy && w.r.IntN(5) > 0: // the same, but less of it
	case x < 73:
		if c := w.pick(Running); c != nil && w.newest(c) {
			n := w.r.Int64N(4)
			w.both(fmt.Sprint(c.name, " used ", n), func(s *side) {
				s.m.Settle(w.now, s.ticketOf(w, w.of(c, s)), "", n)
			})
		}
	case x < 75:
		if c := w.pick(Running); c != nil && w.newest(c) && !w.hasChildren(c) {
			w.both(c.name+" does not run after all", func(s *side) { s.m.Cancel(w.now, s.ticketOf(w, w.of(c, s))) })
			w.free(c)
		}
	case x < 78:
		if c := w.pick(Waiting); c != nil {
			w.both(c.name+" is cancelled", func(s *side) { s.m.Cancel(w.now, w.of(c, s).t) })
			if c.state == Waiting {
				w.free(c)
			}
		}
	case x < 80:
		d := w.r.Int64N(sec)
		delete(w.last, w.slow.classes[k].Name+"/"+key) // when it re-opens, its balance is what the pause says
		w.at(k, key, fmt.Sprint("is paused for ", d), func(s *side, c *Cell) { s.m.Pause(w.now, c, w.now+d) })
	case x < 81:
		w.at(k, key, "is lifted", func(s *side, c *Cell) { s.m.Lift(w.now, c) })
	case x < 82:
		w.at(circuit, key, "is tripped", func(s *side, c *Cell) { s.m.Trip(w.now, c, "me") })
	case x < 83:
		w.at(circuit, key, "is reset", func(s *side, c *Cell) { s.m.Reset(w.now, c, "me") })
	case x < 84:
		k, is := twinLimits[w.r.IntN(len(twinLimits))], w.r.IntN(2) == 0
		w.both(fmt.Sprint(w.slow.classes[k].Name, " refuses: ", is), func(s *side) { s.m.SetRefuse(s.classes[k], is) })
	case x < 85:
		n, k := 1+w.r.Int64N(4), []int{4, 8, 7, 12}[w.r.IntN(4)]
		w.both(fmt.Sprint(w.slow.classes[k].Name, " has ", n), func(s *side) { s.m.SetLimit(w.now, s.classes[k], n) })
	case x < 86:
		n, k := 1+w.r.IntN(4), 8+w.r.IntN(3)
		w.both(fmt.Sprint(w.slow.classes[k].Name, " has at most ", n, " keys"), func(s *side) { s.m.SetMaxKeys(w.now, s.classes[k], n) })
	case x < 87:
		n, k := 1+w.r.Int64N(9), 5+4*w.r.IntN(2)
		for _, key := range twinKeys {
			delete(w.last, w.slow.classes[k].Name+"/"+key)
		}
		w.both(fmt.Sprint(w.slow.classes[k].Name, " is ", n), func(s *side) {
			if s.m.Advance(w.now); s.classes[k].MaxKeys > 0 {
				s.m.shrink(s.classes[k], 0) // a full bucket lacks something of a larger burst, a new one does not
			}
			s.m.SetRate(w.now, s.classes[k], s.rate("", 0, n, sec, 1+n/2).Rate)
		})
	case x < 88 && w.r.IntN(3) == 0:
		b := twinCircuits[w.r.IntN(len(twinCircuits))]
		w.both(fmt.Sprintf("circuit is %+v", *b), func(s *side) { s.m.SetBreaker(w.now, s.classes[0], b) })
	case x < 88:
		w.fast.forget(w)
	case x < 89 && w.r.IntN(2) == 0:
		d := w.r.Int64N(8 * sec)
		w.at(circuit, key, fmt.Sprint("is throttled for ", d), func(s *side, c *Cell) { s.m.Throttle(w.now, c, w.now+d) })
	case x < 89:
		w.same()
	default:
		w.now += w.r.Int64N(int64(1) << (10 + w.r.IntN(20)))
		w.both("time passes", func(s *side) { s.m.Tick(w.now) })
	}
}

// wind ends all that run, until nobody waits.
func (w *twins) wind() {
	for c := w.pick(Running); c != nil; c = w.pick(Running) {
		for w.hasChildren(c) {
			c = w.calls[slices.IndexFunc(w.calls, func(x *twinCall) bool { return x.parent == c })]
			if c.state == Waiting {
				break
			}
		}
		if c.state == Waiting {
			w.both(c.name+" is cancelled", func(s *side) { s.m.Cancel(w.now, w.of(c, s).t) })
			w.free(c)
			continue
		}
		w.end(c, breaker.Success)
	}
}

// at does the same to a cell of both: that of the key, if its class is by key.
func (w *twins) at(k int, key, what string, f func(*side, *Cell)) {
	if w.slow.classes[k].MaxKeys == 0 {
		key = ""
	}
	var full [2]bool
	w.both(w.slow.classes[k].Name+"/"+key+" "+what, func(s *side) {
		if c := s.m.Cell(w.now, s.classes[k], key); c != nil {
			f(s, c)
			return
		}
		full[map[bool]int{true: 1}[s == w.fast]] = true
	})
	if full[0] != full[1] {
		w.fail("%s is full: %v, and on the fast side %v", w.slow.classes[k].Name, full[0], full[1])
	}
}

func (w *twins) of(c *twinCall, s *side) *sideCall {
	if s == w.fast {
		return &c.fast
	}
	return &c.slow
}

// Whoever comes the quick way, the same calls start, wait and are refused, in the same order, for the
// same reasons, as if all came by the lock: against waiters, pauses, trips, changed limits and rates,
// nested calls, cancelled ones and reports of use.
func TestQuick_TheSameAsByTheLock(t *testing.T) {
	defer func(n int32) { shyFor = n }(shyFor)
	shyFor = 3
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	came, withKeys, adopted, turned, saturated, made, full := 0, 0, 0, 0, 0, 0, 0
	for n := range uint64(400) {
		w := &twins{TB: t, r: rand.New(rand.NewPCG(seed, n)), slow: newSide(t, false), fast: newSide(t, true), last: map[string]int{}, busy: n%4 == 0, keyed: n%3 == 0}
		if n%5 == 0 {
			w.only = []int{3, 11, 12, 13, 14}
		}
		w.both("begins", func(s *side) { s.m.SetBreaker(0, s.classes[0], twinCircuits[n%3]) })
		for range 400 {
			w.step()
		}
		w.wind()
		w.same()
		came, withKeys, adopted, made, full = came+w.came, withKeys+w.withKeys, adopted+w.adopted, made+w.made, full+w.full
		turned, saturated = turned+w.turned, saturated+w.saturated
	}
	t.Logf("%d of %d calls came the quick way, %d of them with keys, %d of them were adopted; %d were refused quickly, %d of them by a full limit, %d found a table full",
		came, made, withKeys, adopted, turned, saturated, full)
	require.Greater(t, came, made/20, "calls that came the quick way")
	require.Greater(t, withKeys, came/10, "of them with keys")
	require.Greater(t, full, made/1000, "calls that found a table full")
	require.Greater(t, adopted, came/50, "of them adopted")
	require.Greater(t, turned, made/200, "refused without the lock")
	require.Greater(t, saturated, made/100, "of them by a full limit")
}

// Tokens are taken after slots that may be full, since they cannot always be given back: however narrow
// the rate.
func TestQuick_TokensComeAfterSlotsThatMayBeFull(t *testing.T) {
	s, lasts := newSide(t, true), 0
	for i, set := range s.sets {
		if set == nil || slices.ContainsFunc(set.set.list, func(n Need) bool { return n.N > 1 }) {
			continue // its calls come by the lock, or have keys
		}
		require.Len(t, set.latched, len(set.set.list), "plan %d", i)
		require.Equal(t, len(set.latched), set.latches.Len(), "plan %d", i)
		last := set.latches.Last
		require.True(t, slices.IsSortedFunc(set.latched, func(a, b counted) int {
			rank := func(x counted) int {
				if x.latch.Latch == last {
					return 3
				}
				return map[Kind]int{Breaker: 0, Slots: 1, Tokens: 2}[x.kind]
			}
			return rank(a) - rank(b)
		}), "plan %d", i)
		if last != nil {
			lasts++
		}
		for _, x := range set.latched {
			if x.kind == Slots && x.limit < latch.MostSlots && set.set.rates > 0 {
				require.NotSame(t, last, x.latch.Latch, "plan %d: %s may be full", i, x.class.Name)
			}
		}
	}
	require.Positive(t, lasts, "plans with a last one")
}

// What calls that take long add to the estimates is the same as by the lock, whether they end without it,
// or with some or all cells shut, and they add it once.
func TestQuick_LongCallsCountInEstimates(t *testing.T) {
	const plan = 1 // with a slot of its own, one of all, and rates
	slow, fast := newSide(t, false), newSide(t, true)
	held := func(s *side) (list []int64) {
		for _, n := range s.sets[plan].set.list {
			if n.Cell.kind == Slots {
				list = append(list, n.Cell.average())
			}
		}
		return list
	}
	set, lefts := fast.sets[plan], []int{}
	for i, d := range []int64{sec, 3 * sec, worthBooking, sec / 3, 2 * sec} {
		fast.open(plan)
		slow.open(plan)
		var p Pass
		require.True(t, set.Take(fast.now, &p), i)
		x, granted := slow.come(plan), slow.now
		slow.now += d
		fast.now += d
		switch i {
		case 3: // what is given back first is had without the lock
			set.latched[len(set.latched)-1].shut()
		case 4:
			fast.m.Running() // which shuts all
		}
		slow.m.Finish(slow.now, x, breaker.Success)
		left := set.Give(fast.now, &p, granted)
		if lefts = append(lefts, left); left > 0 {
			fast.m.End(fast.now, set, &p, left, granted)
		}
		if i != 1 { // what it adds is gathered by the next that comes by the lock
			require.Equal(t, held(slow), held(fast), "after %d calls", i+1)
		}
		slow.now, fast.now = slow.now+10*sec, fast.now+10*sec
	}
	require.Equal(t, []int{0, 0, 0, 1, len(set.latched)}, lefts)
}

// Calls look at a breaker once, and may take what else they need a little later: so all that they may be
// taking is shut before anybody knows that the breaker has changed.
func TestQuick_WhoeverChangesABreakerShutsAll(t *testing.T) {
	const guarded, apart = 0, 3 // plans with and without the breaker
	for name, change := range map[string]func(s *side, c *Cell){
		"trip":  func(s *side, c *Cell) { s.m.Trip(s.now, c, "me") },
		"pause": func(s *side, c *Cell) { s.m.Pause(s.now, c, s.now+sec) },
		"failures": func(s *side, c *Cell) {
			a, b := s.come(guarded), s.come(guarded)
			s.m.Finish(s.now, a, breaker.Failure)
			s.open(apart)
			s.m.Finish(s.now, b, breaker.Failure)
			require.Equal(t, breaker.Open, c.BreakerState(s.now))
		},
		"reset, which closes it": func(s *side, c *Cell) {
			s.m.Trip(s.now, c, "me")
			s.open(apart)
			s.m.Reset(s.now, c, "me")
		},
		"a probe": func(s *side, c *Cell) {
			s.m.Trip(s.now, c, "me")
			s.m.Reset(s.now, c, "me")
			for range 2 {
				s.m.Finish(s.now, s.come(guarded), breaker.Failure)
			}
			s.open(apart)
			s.now += 3 * sec
			require.Equal(t, Running, s.come(guarded).State())
			require.Equal(t, breaker.HalfOpen, c.BreakerState(s.now))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSide(t, true)
			s.open(guarded)
			s.open(apart)
			far := s.sets[apart].set.list[0].Cell
			require.True(t, s.sets[guarded].set.list[0].Cell.open && far.open)
			change(s, s.cell(s.classes[0]))
			require.False(t, far.open)
		})
	}
}

// come has a call of a plan without keys come by the lock.
func (s *side) come(plan int) *Ticket {
	t := s.m.Ticket()
	s.m.Fixed(t, s.sets[plan])
	t.Plan = s.plans[plan]
	s.m.Arrive(s.now, t)
	return t
}

// open has what calls of the plan need be open.
func (s *side) open(plan int) { s.m.Finish(s.now, s.come(plan), breaker.Success) }

// A breaker that refuses calls without the lock stops doing so with whatever lets one start, or changes
// what is to be said, and does so again once a call has been refused under the lock.
func TestQuick_ARefusingBreaker(t *testing.T) {
	const guarded = 0
	for name, c := range map[string]struct {
		change func(s *side, c *Cell)
		state  State // of the call that comes next, by the lock
		until  int64 // of the next refusal; zero if it is no more known when
	}{
		"looked at":         {func(s *side, c *Cell) { c.Usage(s.now) }, Refused, 3 * sec},
		"its state asked":   {func(s *side, c *Cell) { c.BreakerState(s.now) }, Refused, 3 * sec},
		"all looked at":     {func(s *side, c *Cell) { s.m.Running() }, Refused, 3 * sec},
		"reset":             {func(s *side, c *Cell) { s.m.Reset(s.now, c, "me") }, Running, 0},
		"tripped":           {func(s *side, c *Cell) { s.m.Trip(s.now, c, "me") }, Refused, Never},
		"reset and tripped": {func(s *side, c *Cell) { s.m.Reset(s.now, c, "me"); s.m.Trip(s.now, c, "me") }, Refused, Never},
		"reconfigured":      {func(s *side, c *Cell) { s.m.SetBreaker(s.now, c.class, &breaker.Config{Cooldown: 9 * sec}) }, Refused, 3 * sec},
		"throttled":         {func(s *side, c *Cell) { s.m.Throttle(s.now, c, s.now+5*sec) }, Refused, 5 * sec},
		"throttled shortly": {func(s *side, c *Cell) { s.m.Throttle(s.now, c, s.now+sec) }, Refused, 3 * sec},
		"paused":            {func(s *side, c *Cell) { s.m.Pause(s.now, c, s.now+5*sec) }, Refused, 0},
		"cooled down":       {func(s *side, c *Cell) { s.now += 3 * sec }, Running, 0},
		"retired":           {func(s *side, c *Cell) { s.m.Retire(&s.ways[guarded]) }, Refused, 3 * sec},
		"policy":            {func(s *side, c *Cell) { s.m.SetPolicy(s.now, Policy{RefuseLate: true, MaxQueue: 9}) }, Refused, 3 * sec},
		"renamed":           {func(s *side, c *Cell) { c.Usage(s.now); c.class.Name = "another" }, Refused, 3 * sec},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSide(t, true)
			s.open(guarded)
			cell, set := s.cell(s.classes[0]), s.sets[guarded]
			a, b := s.come(guarded), s.come(guarded)
			s.m.Finish(s.now, a, breaker.Failure)
			s.m.Finish(s.now, b, breaker.Failure)
			until := s.now + 3*sec
			refusal := func(now int64) *latch.Refusal { x, _ := set.Refusal(now, false); return x }
			require.Nil(t, refusal(s.now), "nobody has been refused yet")
			require.Equal(t, Refused, s.come(guarded).State())
			require.Equal(t, &latch.Refusal{Until: until, By: cell.class.Name}, refusal(s.now))
			require.NotNil(t, refusal(until-1))
			require.Nil(t, refusal(until), "a probe may start")
			require.False(t, set.Take(s.now, new(Pass)))
			x, after := set.Refusal(s.now+sec, false)
			require.NotNil(t, x)
			require.Equal(t, 2*sec, after)

			c.change(s, cell)
			require.Nil(t, refusal(s.now))
			u := s.come(guarded)
			require.Equal(t, c.state, u.State())
			if x, after := set.Refusal(s.now, false); c.until == 0 {
				require.Nil(t, x)
			} else {
				require.Equal(t, &latch.Refusal{Until: c.until, By: cell.class.Name}, x)
				require.Equal(t, u.Refusal().After, after)
			}
			if c.state == Refused {
				return
			}
			if v := s.come(guarded); cell.breaker.State(s.now) == breaker.HalfOpen {
				require.Equal(t, Refused, v.State(), "one probe at a time")
				require.Nil(t, refusal(s.now), "nobody knows when it ends")
			}
			s.m.Finish(s.now, u, breaker.Success)
			require.Nil(t, refusal(s.now))
		})
	}
}

// Full slots that refuse calls do so without the lock once they have under it, until somebody looks at them or
// changes what is to be said, and nobody is refused whom the lock would let start or wait.
func TestQuick_AFullLimit(t *testing.T) {
	const plan, beside = 3, 13 // the second needs what the first does, and a rate that may refuse
	first := func(s *side) *Cell { return s.cell(s.classes[7]) }
	for name, c := range map[string]struct {
		change func(s *side, c *Cell)
		state  State // of the call that comes next, by the lock
		limit  int64 // of which the next but one is refused without it; zero if it is not
		nested bool
	}{
		"nothing":        {func(*side, *Cell) {}, Refused, 2, false},
		"looked at":      {func(s *side, c *Cell) { c.Usage(s.now) }, Refused, 2, false},
		"all looked at":  {func(s *side, c *Cell) { s.m.Running() }, Refused, 2, false},
		"more":           {func(s *side, c *Cell) { s.m.SetLimit(s.now, c.class, 3) }, Running, 0, false},
		"less":           {func(s *side, c *Cell) { s.m.SetLimit(s.now, c.class, 1) }, Refused, 1, false},
		"none":           {func(s *side, c *Cell) { s.m.SetLimit(s.now, c.class, 0) }, Refused, 0, false},
		"waiting":        {func(s *side, c *Cell) { s.m.SetRefuse(c.class, false) }, Waiting, 0, false},
		"waiting, twice": {func(s *side, c *Cell) { s.m.SetRefuse(c.class, false); s.m.SetRefuse(c.class, true) }, Refused, 2, false},
		"another first":  {func(s *side, c *Cell) { s.m.SetRefuse(s.classes[2], true) }, Refused, 0, false},
		"another, none":  {func(s *side, c *Cell) { s.m.SetLimit(s.now, s.classes[2], 0) }, Refused, 0, false},
		"paused":         {func(s *side, c *Cell) { s.m.Pause(s.now, c, s.now+sec) }, Refused, 0, false},
		"retired":        {func(s *side, c *Cell) { s.m.Retire(&s.ways[plan]) }, Refused, 0, false},
		"policy":         {func(s *side, c *Cell) { s.m.SetPolicy(s.now, Policy{RefuseLate: true, MaxQueue: 9}) }, Refused, 0, false},
		"nested":         {func(*side, *Cell) {}, Running, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSide(t, true)
			s.m.SetLimit(0, s.classes[2], 4)
			cell, set := first(s), s.sets[plan]
			holders := []*Ticket{s.come(plan), s.come(beside)}
			says := func(nested bool) *Said { x, _ := set.Refusal(s.now, nested); return x }
			require.Nil(t, says(false), "nobody has been refused yet")
			require.Equal(t, Refused, s.come(plan).State())
			require.Equal(t, &Said{Until: Never, Limit: 2, By: "refuses"}, says(false))
			require.Nil(t, says(true), "a nested call may have one that is taken")
			require.False(t, set.Take(s.now, new(Pass)))

			c.change(s, cell)
			u := s.m.Ticket()
			s.m.Fixed(u, set)
			if u.Plan = s.plans[plan]; c.nested {
				u.Parent = holders[0]
			} else if says(false) != nil {
				require.Equal(t, "nothing", name)
			}
			require.Equal(t, c.state, s.m.Arrive(s.now, u))
			if x := says(false); c.limit > 0 {
				require.Equal(t, &Said{Until: Never, Limit: c.limit, By: "refuses"}, x)
			} else {
				require.Nil(t, x)
			}
			if c.state == Refused && c.limit > 0 {
				require.Zero(t, u.Refusal().After)
				for _, h := range holders {
					s.m.Finish(s.now, h, breaker.Success)
				}
				require.Nil(t, says(false), "there is room")
				require.True(t, set.Take(s.now, new(Pass)))
			}
		})
	}
}

// Which of several limits is the first to refuse is asked once, and whether it is full a little later: so all
// that says so is shut before anybody knows that it is another.
func TestQuick_WhoeverChangesWhatRefusesShutsAll(t *testing.T) {
	const apart = 0
	for name, c := range map[string]struct {
		class int
		to    bool
		open  bool
	}{"more do": {2, true, false}, "fewer do": {7, false, false}, "as before": {7, true, true}} {
		t.Run(name, func(t *testing.T) {
			s := newSide(t, true)
			s.open(apart)
			far := s.sets[apart].set.list[1].Cell
			require.True(t, far.open)
			s.m.SetRefuse(s.classes[c.class], c.to)
			require.Equal(t, c.open, far.open)
			require.Equal(t, c.to, s.classes[c.class].Refuse)
		})
	}
}

// Calls whose keys are known are refused without the lock, but not once one of the keys has been forgotten:
// then it has to be seen whether there is room for it.
func TestQuick_CallsWithKeysAreRefused(t *testing.T) {
	for name, forget := range map[string]func(s *side, tenant *Cell, set *NeedSet){
		"the key":         func(s *side, tenant *Cell, _ *NeedSet) { s.m.shrink(tenant.class, 0) },
		"what they share": func(s *side, _ *Cell, set *NeedSet) { s.m.Unshare(set) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSide(t, true)
			broken := circuit("broken", breaker.Config{})
			cell, tenant, w := s.cell(broken), s.m.Cell(s.now, s.classes[8], "a"), QuickWay()
			u := s.m.Ticket()
			for _, c := range []*Cell{cell, s.cell(s.classes[1]), tenant} {
				s.m.Add(u, c, 1)
			}
			set := s.m.Share(u, &w)
			u.Plan = s.plans[0]
			s.m.Trip(s.now, cell, "me")
			s.m.Arrive(s.now, u)
			require.Equal(t, Refused, u.State())
			x, _ := set.Refusal(s.now, false)
			require.Equal(t, &latch.Refusal{Until: Never, By: "broken"}, x)
			forget(s, tenant, set)
			x, _ = set.Refusal(s.now, false)
			require.Nil(t, x)
		})
	}
}
