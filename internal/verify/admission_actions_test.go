package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/sluice-go/sluice"
)

// What a sequence is made of: each action does something, books it in the model, and
// observes what comes of it.

func (w *world) begin(name string) {
	w.act++
	w.counts.actions++
	w.name, w.racy, w.shed, w.fresh, w.perhaps, w.came, w.went = name, false, false, nil, nil, slices.Clone(w.waiting), nil
	clear(w.paused)
	w.logf("%d at %d: %s", w.act, w.now(), name)
}

// newCall draws a call, which is to be sent at once.
func (w *world) newCall(parent *call) *call {
	x := &call{seq: len(w.calls), parent: parent, nested: parent != nil, act: w.act, inside: "pass", end: make(chan ending, 1), leave: make(chan ending, 1), limit: never, expires: never, lapses: never, how: "invoke"}
	x.exec = w.draw("exec", 0, len(w.execs)-1)
	x.tool = w.tools[w.draw("tool", 0, len(w.tools)-1)]
	x.tenant = tenants[w.draw("tenant", 0, len(tenants)-1)]
	x.asked = []sluice.Priority{0, sluice.PriorityNormal, sluice.PriorityBatch, 7, sluice.PriorityInteractive}[w.draw("priority", 0, 4)]
	x.priority = cmp.Or(x.asked, sluice.PriorityNormal)
	if w.draw("how", 0, 1) == 1 {
		x.how = "submit"
	}
	x.policy = x.tool.policies
	x.first, x.tries, x.retries = x, []*call{x}, (w.outsides || w.rests) && w.one("retries", 2)
	x.falls = w.falls && w.one("falls", 2)
	if w.insides {
		x.inside = []string{"pass", "pass", "keep", "leave"}[w.draw("inside", 0, 3)]
	}
	x.host = hosts[w.draw("host", 0, len(hosts)-1)]
	x.cost = map[string]int64{"": 1, "tokens": int64(w.draw("tokens", 0, 4)), "bytes": int64(w.draw("bytes", 0, 4))}
	if w.weights && w.one("dear", 4) {
		x.cost[""] = 2
	}
	up := context.Background()
	x.root = x
	if parent != nil {
		up, x.root = parent.inner, parent.root
		parent.kids = append(parent.kids, x)
		x.priority = max(x.priority, parent.priority)
	}
	switch n := w.draw("context", 0, 7); {
	case n == 7:
		x.ctx, x.cancel = context.WithTimeout(up, ticks(w.draw("deadline", 1, 30)))
	case n == 6:
		if x.ctx, x.cancel = context.WithCancel(up); w.one("dead on arrival", 6) {
			x.cancel()
		}
	default:
		x.ctx, x.cancel = context.WithCancel(up)
	}
	x.outside = x.ctx.Err() != nil
	w.mu.Lock()
	w.calls = append(w.calls, x)
	w.mu.Unlock()
	w.arrives(x)
	return x
}

// arrives books that x asks for admission.
func (w *world) arrives(x *call) {
	now := w.now()
	switch d := int64(x.tool.policy.MaxWait); {
	case d > 0:
		x.limit = now + d
	case w.wait > 0:
		x.limit = now + w.wait
	case x.parent != nil:
		x.limit = now + int64(time.Minute)
	}
	if d, ok := x.ctx.Deadline(); ok && !w.joins {
		x.limit = min(x.limit, int64(d.Sub(w.born))-1)
	}
	w.bounds(now, x)
	if !w.closing[x.exec] {
		w.compile(x.tool)
	}
	w.last = x.exec
	x.needs = w.needs(x)
	w.waiting = append(w.waiting, x)
	x.place = w.place
	w.logf("  %v %s, costs %v, limit %d", x, x.how, x.cost, x.limit)
}

// again has an attempt of x, which has failed, follow.
func (w *world) again(x *call) {
	w.counts.retries++
	y := &call{seq: x.seq, exec: x.exec, tool: x.tool, tenant: x.tenant, host: x.host, asked: x.asked, priority: x.priority, cost: x.cost, how: x.how,
		nested: x.nested, parent: x.parent, root: x.root, limit: never, act: w.act, ctx: x.ctx, cancel: x.cancel, expires: never, lapses: never,
		inside: "pass", end: make(chan ending, 1), leave: make(chan ending, 1), first: x}
	if !w.each {
		y.due = x.due
	}
	if y.root == x {
		y.root = y
	}
	if y.parent != nil {
		y.parent.kids = append(y.parent.kids, y)
	}
	y.outside = y.ctx.Err() != nil
	w.mu.Lock()
	x.tries = append(x.tries, y)
	w.mu.Unlock()
	y.tries = x.tries
	w.place++
	w.racy = true // it comes after what the end of x lets start
	w.arrives(y)
}

// ran reports whether some attempt of the call has.
func (x *call) ran() bool {
	return slices.ContainsFunc(x.first.tries, func(y *call) bool { return y.code })
}

// unseen lets time pass that nobody watches: at most until something is due, of which then
// nobody knows whether it comes before what follows.
func (w *world) unseen(due bool) {
	if !w.one("unseen", 4) {
		return
	}
	now := w.now()
	to := now + int64(w.draw("unseen ticks", 1, 12))*tick
	if at := w.next(now); at <= to {
		if to = at; !due || slices.ContainsFunc(w.waiting, func(x *call) bool { return x.limit == at || w.joins && w.leaves(x) == at }) || slices.ContainsFunc(w.resting, func(x *call) bool { return x.resume == at }) {
			to = max(now, at-tick)
		}
	}
	time.Sleep(time.Duration(to - now))
	w.logf("  unseen until %d", to)
	w.counts.unseen++
}

func (w *world) call() {
	for range w.draw("calls", 1, 3) {
		w.begin("call")
		w.unseen(true)
		w.place++
		w.fresh = w.newCall(nil)
		w.send(w.fresh)
		w.observe()
	}
}

func (w *world) nest() {
	if !w.nests {
		w.rt.Skip("no nested calls")
	}
	parent := pick(w, "parent", w.running)
	for range w.draw("calls", 1, 3) {
		w.begin("nest")
		w.place++
		w.fresh = w.newCall(parent)
		w.logf("  in %v", parent)
		w.send(w.fresh)
		w.observe()
	}
}

// burst sends calls while another ends, so that nobody knows what comes first.
func (w *world) burst() {
	w.begin("burst")
	w.racy = true
	w.place++
	var xs []*call
	for range w.draw("calls", 2, 3) {
		xs = append(xs, w.newCall(nil))
	}
	if ys := w.apart(); len(ys) > 0 {
		if y, e := pick(w, "ends", ys), w.drawQuiet(); len(y.settled) == 0 {
			w.finish(y, e)
		}
	}
	for _, x := range xs {
		w.send(x)
	}
	w.observe()
}

func (w *world) drawEnding() ending {
	e := ending{how: []string{"return", "return", "return", "error", "panic", "exit", "throttle"}[w.draw("ending", 0, 6)]}
	switch e.how {
	case "return", "exit":
	case "throttle":
		e.pause = w.drawPause()
		e.err = &throttled{e.pause}
		if w.one("of a part", 3) {
			p := w.drawPart()
			e.parts = append(e.parts, p)
			e.err = &throttledPart{throttled{e.pause}, p}
		}
	default:
		e.err = errors.New("the tool's own")
	}
	return e
}

// apart is who runs and has nobody in the family who waits: if one of them ended in a race
// nobody could tell on whose slots the other started.
func (w *world) apart() []*call {
	return slices.DeleteFunc(slices.Clone(w.running), func(x *call) bool {
		return x.inside != "pass" || x.retries || w.adaptive || slices.ContainsFunc(w.waiting, func(y *call) bool { return x.root == y.root })
	})
}

// tangled reports whether the end of x cancels some who wait in its family, but not all.
func (w *world) tangled(x *call) bool {
	inside := func(y *call) bool {
		for ; y != nil && y != x; y = y.parent {
		}
		return y != nil
	}
	in, out := 0, 0
	for _, y := range w.waiting {
		switch {
		case y.root != x.root:
		case inside(y):
			in++
		default:
			out++
		}
	}
	return w.away() && in > 0 && out > 0 || w.detached() && in > 1 // which may be let through before they are cancelled
}

// drawQuiet is an ending that pauses nothing.
func (w *world) drawQuiet() ending {
	e := w.drawEnding()
	if e.how == "throttle" || w.breaker != nil { // nor moves a breaker
		e = ending{how: "return"}
	}
	return e
}

func (w *world) ends() {
	x := pick(w, "call", w.running)
	if w.tangled(x) {
		w.rt.Skip("a race that cannot be told apart")
	}
	w.begin("end")
	w.goOn(x, w.drawEnding)
	w.observe()
}

// goOn has x, which runs, come a step nearer to its end.
func (w *world) goOn(x *call, draw func() ending) {
	switch {
	case x.inside == "keep" && !x.passed:
		w.keptOn(x)
	case x.inside == "leave":
		w.leftOn(x, draw)
	default:
		w.finish(x, draw())
	}
}

// keptOn has the interceptor that keeps x deny it, answer it, or pass it on.
func (w *world) keptOn(x *call) {
	e := ending{how: []string{"pass", "return", "deny"}[w.draw("kept", 0, 2)]}
	w.logf("  %v is kept no more: %s", x, e.how)
	if e.how == "deny" {
		e.err = errors.New("the interceptor's own")
		w.counts.denied++
	}
	if x.passed = true; e.how != "pass" {
		x.said = &e
		w.end(x, e)
	} else if x.answers > 0 { // its time was over, so it must not begin
		w.end(x, e)
	}
	x.leave <- e
}

// leftOn has the interceptor leave x, or its code end.
func (w *world) leftOn(x *call, draw func() ending) {
	e := draw()
	for e.how == "panic" || e.how == "exit" { // which would end more than the call
		e = ending{how: "return"}
	}
	if x.coded || x.said == nil && w.one("leave", 2) {
		w.logf("  %v is left: %s %v", x, e.how, e.pause)
		w.counts.left++
		if x.said = &e; e.pause > 0 {
			w.throttled(x, e.pause, e.parts...)
		}
		w.heard(x, e)
		w.stops(x)
		x.leave <- e
	} else {
		w.logf("  the code of %v ends: %s", x, e.how)
		x.coded = true
		x.end <- e
	}
	if x.coded && x.said != nil {
		w.end(x, *x.said)
	}
}

// finish has x end, and books that.
func (w *world) finish(x *call, e ending) {
	w.logf("  %v ends: %s %v", x, e.how, e.pause)
	x.said = &e
	if e.pause > 0 {
		w.throttled(x, e.pause, e.parts...)
	}
	w.end(x, e)
	// A call that is tried again goes by the policy that it was resolved with.
	if x.retries && x.policy == x.tool.policies && x.answers == 0 && (e.how == "error" || e.how == "throttle") {
		if w.rests {
			w.rest(x, e)
		} else {
			w.again(x)
		}
	}
	x.end <- e
}

// stops books that the context of x ends, and with that who waits in it.
func (w *world) stops(x *call) {
	if x.inner.Err() == nil && w.away() && len(x.kids) > 0 {
		w.racy = true
		for _, k := range x.kids { // they may start with what it gives back, before its context ends
			k.racing = w.act
		}
	}
}

// end books that nothing of x runs any more.
func (w *world) end(x *call, e ending) {
	w.heard(x, e)
	w.stops(x)
	x.over = true
	w.running = slices.DeleteFunc(w.running, func(y *call) bool { return y == x })
	for _, n := range x.needs {
		switch {
		case !n.cell.of.tokens:
			if n.cell.learn(x, e) {
				w.counts.learned++
			}
			if e.pause > 0 {
				w.paused[n.cell] = ended{x, n.cell.families[x.root]}
			}
			n.cell.ended(x)
			if x.code {
				n.cell.held.add(w.now() - x.started)
				if n.cell.held > 0 {
					w.quick = min(w.quick, int64(n.cell.held))
				}
			}
		case x.code:
		case n.cell.of.shared != nil:
			n.cell.of.giveBack(w.now(), x.started)
		default:
			n.cell.report(w.now(), n.charge, 0)
		}
		if p := n.cell.pause; p != nil && p.running[x] {
			delete(p.running, x)
			if e.how == "return" && x.code {
				p.won++
			}
		}
	}
	w.part(x)
	if x.code {
		for _, u := range x.settled {
			x.tool.learn(u.unit, u.n)
		}
	}
}

// part gives x's nested calls to who is around it.
func (w *world) part(x *call) {
	if p := x.parent; p != nil {
		p.kids = slices.DeleteFunc(p.kids, func(y *call) bool { return y == x })
		p.kids = append(p.kids, x.kids...)
	}
	for _, k := range append(x.kids, w.resting...) {
		if k.parent == x {
			k.parent = x.parent
		}
	}
	x.kids = nil
}

func (w *world) cancels() {
	x := pick(w, "call", w.waiting)
	w.begin("cancel")
	w.logf("  %v", x)
	w.counts.cancelled++
	x.cancel()
	w.observe()
}

// race cancels one who waits while another ends.
func (w *world) race() {
	x, y := pick(w, "call", w.waiting), pick(w, "ends", w.apart())
	w.begin("race")
	w.racy, w.perhaps = true, x
	w.logf("  cancels %v", x)
	if w.draw("order", 0, 1) == 0 {
		if w.joins { // whose execution is told to end a little later
			x.racing = w.act
		}
		x.cancel()
		w.finish(y, w.drawQuiet())
	} else {
		x.racing = w.act // it may start before it is cancelled
		w.finish(y, w.drawQuiet())
		x.cancel()
	}
	w.observe()
}

func (w *world) time() {
	w.begin("time")
	n := int64(w.draw("ticks", 0, 12))
	if w.one("seconds", 6) {
		n <<= 10
	}
	w.sleep(w.now() + n*tick)
}

// sleep lets time pass to each instant at which something may happen, up to until.
func (w *world) sleep(until int64) {
	for {
		now := w.now()
		to := min(until, w.next(now))
		time.Sleep(time.Duration(to - now))
		w.resume()
		w.observe()
		if to == until {
			return
		}
		w.begin("time goes on")
	}
}

// next is the first instant after now at which a call may start, or must be answered.
func (w *world) next(now int64) int64 {
	at := never
	take := func(t int64) {
		if t > now {
			at = min(at, t)
		}
	}
	for _, x := range w.waiting {
		take(x.limit)
		if w.joins {
			take(w.leaves(x))
		}
		for _, n := range x.needs {
			take(n.cell.opens(now))
			for _, at := range n.cell.looks {
				take(at)
			}
			if n.cell.of.tokens {
				take(n.cell.pays(now, n.n))
			}
			if n.cell.of.shared != nil {
				for d := int64(-1); d <= sharedLate; d++ { // its sums are of floating point
					take(n.cell.of.sharedAt(now-sharedLate) + d)
				}
			}
		}
	}
	for _, x := range w.running {
		if x.answers == 0 {
			take(x.expires)
		}
		if !x.heard {
			take(x.lapses)
		}
	}
	for _, x := range w.resting {
		take(x.resume)
		take(w.leaves(x))
	}
	return at
}

func (w *world) resize() {
	if w.lim == nil {
		w.rt.Skip("no limits")
	}
	w.begin("resize")
	w.unseen(false)
	w.reconfigure(w.newLimits())
	w.observe()
}

func (w *world) reconfigure(cs ...sluice.Change) {
	if err := sluice.Reconfigure("test", cs...); err != nil {
		w.fatal("Reconfigure: %v", err)
	}
}

func (w *world) newLimits() sluice.Change {
	w.counts.resizes++
	c := w.lim.Config()
	for i := range c.Limits {
		if l := &c.Limits[i]; l.Adaptive != nil {
			l.Adaptive = w.drawAdaptive()
			w.logf("  %s: %+v", w.limits[i].name, *l.Adaptive)
			w.limits[i].adapt(l.Adaptive)
		} else if w.one("stays", 2) {
			l.Max = w.draw("max", 1, 6)
			w.logf("  %s: %d", w.limits[i].name, l.Max)
			w.limits[i].max = int64(l.Max)
		}
		if l, m := &c.Limits[i], w.limits[i]; m.maxKeys > 0 && w.one("keys", 3) {
			l.MaxKeys = w.draw("max keys", 1, 3)
			w.logf("  %s: %d keys", m.name, l.MaxKeys)
			m.maxKeys = l.MaxKeys
		}
	}
	return w.lim.Change(c)
}

// rerate changes the rates of a limiter, and often more, at one instant.
func (w *world) rerate() {
	i := w.drawRates()
	w.begin("rates")
	w.unseen(false)
	list := []func() sluice.Change{func() sluice.Change { return w.newRates(i) }}
	if len(w.resting) == 0 && w.one("policy too", 3) {
		list = append(list, w.newPolicy)
	}
	if w.lim != nil && w.one("limits too", 2) {
		list = append(list, w.newLimits)
	}
	if w.one("other way round", 2) {
		slices.Reverse(list)
	}
	var cs []sluice.Change
	for _, f := range list {
		cs = append(cs, f())
	}
	w.reconfigure(cs...)
	w.observe()
}

func (w *world) newRates(i int) sluice.Change {
	w.counts.reratings++
	now, c := w.now(), w.rates[i].Config()
	for j, l := range w.rate[i] {
		r := w.drawRate(l)
		if !l.exact(now) {
			r.N, r.Per = c.Rates[j].N, c.Rates[j].Per
		}
		w.logf("  %s: %v", l.name, r)
		if r != c.Rates[j] {
			c.Rates[j] = r
			l.rate(now, r)
			w.cut(l)
		}
	}
	return w.rates[i].Change(c)
}

func (w *world) drawRates() int {
	if len(w.rates) == 0 {
		w.rt.Skip("no rates")
	}
	return w.draw("rates", 0, len(w.rates)-1)
}

func (w *world) repolicy() {
	if len(w.resting) > 0 {
		w.rt.Skip("second attempts go by the policy of the first")
	}
	w.begin("policy")
	w.unseen(false)
	w.reconfigure(w.newPolicy())
	w.observe()
}

func (w *world) newPolicy() sluice.Change {
	t := w.tools[w.draw("tool", 0, len(w.tools)-1)]
	now, p := w.now(), w.drawPolicy()
	if slices.ContainsFunc(t.rates, func(l *limit) bool { return !l.exact(now) }) {
		p.Rates = t.policy.Rates
	}
	w.logf("  %s: concurrency %d, rates %v, wait %v", t.name, p.Concurrency, p.Rates, p.MaxWait)
	w.counts.policies++
	old, rates := t.rates, make([]*limit, len(p.Rates))
	for _, alike := range []func(l *limit, r sluice.Rate) bool{
		func(l *limit, r sluice.Rate) bool { return l.unit == r.Unit && l.per*l.count == int64(r.Per) },
		func(l *limit, r sluice.Rate) bool { return l.unit == r.Unit },
	} {
		for i, r := range p.Rates {
			for _, l := range old {
				if rates[i] == nil && !slices.Contains(rates, l) && alike(l, r) {
					rates[i] = l
				}
			}
		}
	}
	var fresh []*limit
	for i, r := range p.Rates {
		if rates[i] == nil {
			rates[i] = t.newRate(r)
			rates[i].follow(now, old)
			fresh = append(fresh, rates[i])
		}
	}
	for i, r := range p.Rates {
		if l := rates[i]; l.per != int64(r.Per)/r.N || l.burst != r.Burst || l.count != r.N {
			l.rate(now, r)
			w.cut(l)
		}
	}
	gone := slices.DeleteFunc(slices.Clone(old), func(l *limit) bool { return slices.Contains(rates, l) })
	t.policy, t.rates = p, rates
	t.policies++
	t.slots.max = cmp.Or(int64(p.Concurrency), unlimited)
	if len(gone)+len(fresh) > 0 {
		w.counts.replans++
		w.replan(t, gone, fresh)
	}
	return w.registry.WithPolicy(t.name, p)
}

// replan has the waiting calls of t need nothing of the limits gone, and of fresh what they
// were said to cost, as far as that is known.
func (w *world) replan(t *tool, gone, fresh []*limit) {
	w.requeue(func(x *call) bool { return x.tool == t }, func(needs []need) []need {
		var more []need
		for _, l := range fresh {
			cost := int64(-1)
			for _, n := range needs {
				if n.cell.of.tokens && n.cell.of.unit == l.unit {
					cost = max(cost, n.n)
				}
			}
			switch {
			case cost >= 0:
			case l.unit == "":
				cost = 1
			default:
				cost = t.estimate(l.unit)
			}
			more = append(more, need{cell: l.cell(""), n: min(cost, l.burst)})
		}
		return append(slices.DeleteFunc(needs, func(n need) bool { return slices.Contains(gone, n.cell.of) }), more...)
	})
}

// cut has nobody wait for more tokens than a bucket of l holds.
func (w *world) cut(l *limit) {
	needs := func(x *call) bool {
		return slices.ContainsFunc(x.needs, func(n need) bool { return n.cell.of == l })
	}
	wide := func(x *call) bool {
		return slices.ContainsFunc(x.needs, func(n need) bool { return n.cell.of == l && n.n > l.burst })
	}
	if !slices.ContainsFunc(w.waiting, wide) {
		return
	}
	w.counts.cuts++
	w.requeue(needs, func(ns []need) []need {
		for i, n := range ns {
			if n.cell.of == l {
				ns[i].n = min(n.n, l.burst)
			}
		}
		return ns
	})
}

// requeue changes the needs of waiting calls. They keep their order among themselves, and
// are the last to have come.
func (w *world) requeue(pick func(*call) bool, edit func([]need) []need) {
	xs := slices.DeleteFunc(slices.Clone(w.waiting), func(x *call) bool { return !pick(x) })
	slices.SortStableFunc(xs, func(x, y *call) int { return x.place - y.place })
	was := -1
	for _, x := range xs {
		x.needs = edit(slices.Clone(x.needs))
		if x.requeued == w.act {
			continue
		}
		x.requeued = w.act
		if x.place != was {
			was = x.place
			w.place++
		}
		x.place = w.place
	}
}

func (w *world) pause() {
	i := w.drawRates()
	w.begin("pause")
	w.unseen(false)
	key := w.drawKey(i)
	now, d := w.now(), max(0, w.draw("ticks", -3, 20))
	w.logf("  %v %q: %d ticks", w.rates[i], key, d)
	w.counts.pauses++
	if err := w.rates[i].Pause(key, ticks(d)); err != nil {
		w.fatal("Pause: %v", err)
	}
	for _, l := range w.rate[i] {
		if d > 0 {
			l.cell(key).halt(now, now+int64(ticks(d)))
			l.cell(key).real = true
		} else if c := l.cells[key]; c != nil {
			c.halt(now, now)
		}
	}
	w.observe()
}

// drawKey is a key that the limiter may have.
func (w *world) drawKey(i int) string {
	return w.rate[i][0].key(&call{
		tool:   w.tools[w.draw("tool", 0, len(w.tools)-1)],
		tenant: tenants[w.draw("tenant", 0, len(tenants)-1)],
		host:   hosts[w.draw("host", 1, len(hosts)-1)],
	})
}

// lift ends the pause and the debt of a key, or of a tool.
func (w *world) lift() {
	w.begin("lift")
	w.unseen(false)
	now, err := w.now(), error(nil)
	var cells []*cell
	if len(w.rates) == 0 || w.one("of a tool", 3) {
		t := w.tools[w.draw("tool", 0, len(w.tools)-1)]
		w.logf("  %s", t.name)
		err = w.registry.Lift(t.name)
		for _, l := range append([]*limit{t.slots}, t.rates...) {
			cells = append(cells, l.cells[""])
		}
	} else {
		i := w.drawRates()
		key := w.drawKey(i)
		w.logf("  %v %q", w.rates[i], key)
		err = w.rates[i].Lift(key)
		for _, l := range w.rate[i] {
			cells = append(cells, l.cells[key])
		}
	}
	if err != nil {
		w.fatal("Lift: %v", err)
	}
	for _, c := range cells {
		if c != nil {
			w.counts.lifts++
			c.lift(now)
		}
	}
	w.observe()
}

// throttled books what an upstream asked of x.
func (w *world) throttled(x *call, d time.Duration, parts ...sluice.ThrottlePart) {
	w.counts.throttles++
	if b := w.circuitOf(x.tool); b != nil {
		b.throttled(w.now() + int64(min(d, time.Minute)))
	}
	for _, p := range slices.Backward(parts) {
		for i, ls := range w.rate {
			if s := w.rates[i].Config().Scope; s.String() != "per "+p.Kind || !ls[0].upstream {
				continue
			}
			w.counts.parts++
			for _, l := range ls {
				l.cell(p.Key).real = true
				l.cell(p.Key).halt(w.now(), w.now()+int64(d))
			}
			return
		}
		d = min(d, time.Minute) // what is wider than a part
	}
	found := false
	for _, n := range x.needs {
		if n.cell.of.upstream {
			n.cell.halt(w.now(), w.now()+int64(d))
			found = true
		}
	}
	if !found {
		x.tool.slots.cell("").halt(w.now(), w.now()+int64(min(d, time.Minute)))
	}
}

func (w *world) drawPause() time.Duration {
	if w.one("long", 8) {
		return 90 * time.Second
	}
	return ticks(w.draw("retry after", 0, 12))
}

// drawPart is a host, or something that no limiter tells apart.
func (w *world) drawPart() sluice.ThrottlePart {
	return []sluice.ThrottlePart{{Kind: "host", Key: "h1"}, {Kind: "host", Key: "h2"}, {Kind: "resource", Key: "x"}}[w.draw("part", 0, 2)]
}

func (w *world) throttle() {
	x := pick(w, "call", w.running)
	w.begin("throttle")
	w.unseen(false)
	d := w.drawPause()
	var parts []sluice.ThrottlePart
	for range w.draw("parts", 0, 2) {
		parts = append(parts, w.drawPart())
	}
	w.logf("  %v: %v %v", x, d, parts)
	sluice.ReportThrottle(x.inner, d, parts...)
	if d > 0 {
		w.throttled(x, d, parts...)
	}
	w.observe()
}

// settles has a call say what it used. One that has ended is not heard.
func (w *world) settles() {
	x := pick(w, "call", slices.DeleteFunc(slices.Clone(w.calls), func(x *call) bool { return x.starts == 0 }))
	if len(w.running) > 0 && w.one("running", 2) {
		x = pick(w, "running call", w.running)
	}
	w.begin("settle")
	w.unseen(false)
	unit := []string{"", "tokens", "tokens", "bytes"}[w.draw("unit", 0, 3)]
	n := int64(w.draw("used", 0, 9))
	if w.one("absurd", 20) {
		n = []int64{1 << 30, 1 << 50, math.MaxInt64}[w.draw("how absurd", 0, 2)]
	}
	w.logf("  %v: %d %q", x, n, unit)
	k, list := w.inDoubt(w.now(), x, unit, n)
	sluice.ReportUsage(x.inner, unit, n)
	if list != nil {
		w.decide(w.now(), k, list)
	}
	if !x.over {
		w.settled(x, unit, n, k.cell)
	}
	w.observe()
}

// settled books that x has used so much of a unit; of one bucket that is booked already, if that is not nil.
func (w *world) settled(x *call, unit string, n int64, booked *cell) {
	w.counts.settles++
	most := int64(-1)
	for _, k := range x.needs {
		if k.charge != nil && k.cell.of.unit == unit {
			got := k.charge.n
			if k.cell != booked {
				got = k.cell.report(w.now(), k.charge, n)
			}
			most = max(most, got)
			if got < n {
				w.counts.debts++
			}
		}
	}
	if most < 0 {
		return // no rate counts that
	}
	if i := slices.IndexFunc(x.settled, func(u used) bool { return u.unit == unit }); i >= 0 {
		x.settled[i].n = most
	} else {
		x.settled = append(x.settled, used{unit, most})
	}
}

func (w *world) reschedule() {
	if w.sched == nil {
		w.rt.Skip("no scheduler")
	}
	w.begin("schedule")
	c := w.scheduling()
	w.logf("  %+v", c)
	w.reconfigure(w.sched.Change(c))
	w.observe()
}

func (w *world) close() {
	i := w.draw("exec", 0, len(w.execs)-1)
	if w.closing[i] || !w.one("close", 20/len(w.execs)) {
		w.rt.Skip("stays open")
	}
	w.begin("close")
	w.shut(i)
	w.observe()
}

// shut has an executor closed. That ends the waits between attempts.
func (w *world) shut(i int) {
	for _, x := range slices.Clone(w.resting) {
		if x.exec == i {
			w.stay(x)
			w.again(x)
		}
	}
	w.closing[i], w.closed[i] = true, make(chan error, 1)
	go func() { w.closed[i] <- w.execs[i].Close(context.Background()) }()
}

func (w *world) unknown() {
	i := w.draw("exec", 0, len(w.execs)-1)
	w.begin("unknown")
	_, err := w.execs[i].Invoke(context.Background(), sluice.Request{ID: fmt.Sprint("u", w.act), Tool: "nobody"})
	want := sluice.ErrUnknownTool
	if w.closing[i] {
		want = sluice.ErrClosed
	}
	if !errors.Is(err, want) || !errors.Is(err, sluice.ErrRejected) {
		w.fatal("an unknown tool answers %v", err)
	}
	w.last = i
	w.observe()
}
