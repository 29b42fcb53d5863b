package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing/synctest"

	"github.com/sluice-go/sluice"
)

// What is observed after each action, and what must hold of it.

// observe lets everything happen that can without time, and books and checks it.
func (w *world) observe() {
	synctest.Wait()
	w.mu.Lock()
	log := w.log
	w.log = nil
	for i, e := range log {
		if !e.start { // a second attempt may have been refused before it was booked
			log[i].x = e.x.first.tries[len(e.x.first.tries)-1]
		}
	}
	w.mu.Unlock()
	now := w.now()
	w.letGo()
	var started []*call
	w.leaving = nil
	for i := range log {
		w.unhide(now, &log[i])
		e := log[i]
		if !e.start {
			w.leaving = append(w.leaving, e.x)
		}
		w.logf("  at %d: %v started %v, err %v", e.at, e.x, e.start, e.err)
		if e.at != now {
			w.fatal("%v: seen at %d", e.x, e.at)
		}
		if e.start {
			started = append(started, e.x)
		}
	}
	w.began = started
	for _, x := range w.mayHaveStarted() { // and have kept others out until then
		x.blur()
		w.racy = w.racy || x.ctx.Err() == context.DeadlineExceeded || x.parent != nil
	}
	late := w.lapses(now, started)
	before := w.earlier(started, true)
	if w.fresh != nil && !w.racy {
		w.meets(now, before, log)
	}
	if w.fresh != nil { // its coming may be what lets others start, who take tokens after it was judged
		w.soonest = w.earliest(now, w.fresh)
	}
	w.start(now, before)
	w.served(now)
	w.start(now, w.earlier(started, false))
	for _, x := range late {
		w.lapse(now, x)
	}
	for _, e := range log {
		if !e.start {
			w.answer(now, e)
		}
	}
	w.unmake()
	w.standing(now)
	w.order(started)
	w.check(now)
	w.settleVague()
	w.untie()
}

// earlier is those of xs who came before the action, or in it.
func (w *world) earlier(xs []*call, before bool) []*call {
	return slices.DeleteFunc(slices.Clone(xs), func(x *call) bool { return (x.act < w.act) != before })
}

// meets works out who waited when the newcomer came: not who had started, unless somebody had
// to give way for that. Nobody knows of who was refused, but for the queue, nor of who was kept
// waiting for a claim or behind a bucket's first, which whoever gave way may have been, or for a shared limiter, whose
// instants are rounded, nor of anybody who is gone if
// somebody may have been shed as others started.
func (w *world) meets(now int64, started []*call, log []entry) {
	all := w.waiting
	w.waiting = w.earlier(all, true)
	defer func() { w.waiting = all }()
	full := func(e entry) bool { return errors.Is(last(e.err), sluice.ErrQueueFull) && e.x.act < w.act }
	stood := slices.ContainsFunc(log, func(e entry) bool { return full(e) && w.stood(now, e.x) })
	shed := slices.ContainsFunc(log, full)
	came := w.came
	w.came = nil
	for _, x := range came {
		switch {
		case slices.ContainsFunc(log, func(e entry) bool { return e.x == x && !e.start && (stood || !full(e)) }),
			stood && slices.Contains(started, x):
			w.went = append(w.went, x)
		case !slices.Contains(started, x) || shed && !w.could(now, x):
			w.came = append(w.came, x)
		case shed && (w.behindBucket(now, x) || w.claimant(now, []*call{x}) != nil || x.waitedForFresh(now)):
			w.went = append(w.went, x)
		}
	}
}

// served checks that when somebody came, who had waited and could start had started, whether
// the timer for that had fired or not.
func (w *world) served(now int64) {
	if w.fresh == nil || w.racy {
		return
	}
	all := w.waiting
	w.waiting = w.earlier(all, true)
	w.idle(now)
	w.waiting = all
}

// start books those who have started: first those whose code does not begin, since others may have what they gave back.
func (w *world) start(now int64, xs []*call) {
	gone := slices.DeleteFunc(slices.Clone(xs), func(x *call) bool { return !w.isTooLate(x) })
	w.book(now, gone)
	w.tooLate(gone)
	w.book(now, slices.DeleteFunc(slices.Clone(xs), w.isTooLate))
}

// book books and checks starts.
func (w *world) book(now int64, xs []*call) {
	type family struct {
		cell *cell
		root *call
	}
	starts := map[family][]need1{}
	for _, x := range xs {
		i := slices.Index(w.waiting, x)
		switch {
		case x.starts > 0:
			w.fatal("%v started twice", x)
		case i < 0:
			w.fatal("%v started after it had been answered", x)
		case x.ctx.Err() != nil && x.racing != w.act && !w.detached(): // which tells the execution a little later
			w.fatal("%v started though its context had ended", x)
		case now > x.limit:
			w.fatal("%v started after its limit %d", x, x.limit)
		}
		w.waiting = slices.Delete(w.waiting, i, i+1)
		w.running = append(w.running, x)
		w.counts.starts++
		if x.act < w.act {
			w.counts.waits++
			x.waited = true
		}
		x.starts, x.started = 1, now
		if b := w.circuitOf(x.tool); b != nil {
			if !b.lets(now) {
				w.fatal("%v started, its breaker says no: %+v", x, b)
			}
			b.starts(now, x)
		}
		w.clocks(now, x)
		for i := range x.needs {
			n := &x.needs[i]
			if at := n.cell.opens(now); at > now {
				w.fatal("%v started at %s %q, which is paused, or may start no more, until %d", x, n.cell.of.name, n.cell.key, at)
			}
			if p := n.cell.pause; p != nil {
				n.cell.reopen(now)
				p.running[x] = true
			}
			if !n.cell.of.tokens {
				n.cell.aimd.calls[x] = true
				f := family{n.cell, x.root}
				starts[f] = append(starts[f], need1{x, n.n})
				continue
			}
			if n.cell.pays(now, n.n) != now && !n.cell.of.onEdge(now) {
				w.fatal("%v started for %d tokens of %s %q, which has %d ns with %d ns for each, burst %d", x, n.n, n.cell.of.name, n.cell.key, n.cell.have(now), n.cell.of.per, n.cell.of.burst)
			}
			n.charge = n.cell.take(now, n.n)
		}
	}
	for f, xs := range starts {
		before := f.cell.families[f.root]
		f.cell.started(f.root, xs)
		for _, x := range w.mayHaveStarted() {
			if x.root == f.root && !slices.ContainsFunc(xs, func(n need1) bool { return n.x == x }) {
				f.cell.perhaps(x, before, xs)
			}
		}
		if e := w.paused[f.cell]; e.x != nil && e.x.root == f.root {
			f.cell.add(e.x, orders(e.before, xs))
		}
	}
	for f := range starts {
		if !f.cell.feasible(f.root) {
			least, _ := f.cell.used(nil)
			w.fatal("%s %q: %d slots are taken, the limit is %d", f.cell.of.name, f.cell.key, least, f.cell.max())
		}
		if ls := f.cell.families[f.root]; len(ls) > 1 {
			w.counts.ambiguous++
		} else if f.root.seq != starts[f][0].x.seq && len(ls[0].holds) == 1 {
			w.counts.borrowed++
		}
	}
}

// tooLate books of those who have started that their code does not begin, if an interceptor inside the gates was first.
func (w *world) tooLate(gone []*call) {
	for _, x := range gone {
		switch x.inside {
		case "pass":
			w.end(x, ending{how: "deny"})
		case "leave":
			x.coded = true
		}
	}
}

// isTooLate reports whether a Join has let the caller of x go just as x started, so that its code does not begin.
func (w *world) isTooLate(x *call) bool { return w.joins && x.ctx.Err() != nil && !x.code }

// mayHaveStarted is who may have been let through before the context ended, but did not run: who was cancelled as others
// ended, and whom a Join has let go when the time was over.
func (w *world) mayHaveStarted() (list []*call) {
	if x := w.perhaps; x != nil && x.starts == 0 {
		list = append(list, x)
	}
	for _, x := range w.leaving {
		if w.joins && x != w.perhaps && x.starts == 0 && x.ctx.Err() != nil {
			list = append(list, x)
		}
	}
	return list
}

// answer books and checks what a caller got.
func (w *world) answer(now int64, e entry) {
	x := e.x
	if x.answers++; x.answers > 1 {
		w.fatal("%v was answered twice", x)
	}
	rejected := errors.Is(e.err, sluice.ErrRejected)
	if e.hidden {
		rejected = !x.ran()
	}
	if x.starts == 0 {
		if rejected == x.ran() || e.exited {
			w.fatal("%v did not run, yet its answer is %v (exited %v)", x, e.err, e.exited)
		}
		i := slices.Index(w.waiting, x)
		w.waiting = slices.Delete(w.waiting, i, i+1)
		w.justify(now, x, e.err)
		x.outside = x.outside || errors.Is(e.err, sluice.ErrClosed) && x.act == w.act
		w.part(x)
		return
	}
	if rejected == x.ran() && e.err != nil {
		w.fatal("%v ran: %v, yet its answer is %v", x, x.ran(), e.err)
	}
	var p *sluice.PanicError
	panicked := errors.As(e.err, &p)
	ok := false
	switch {
	case x.said == nil:
		w.counts.timeouts++
		reason := sluice.ErrTimeout
		if !x.code {
			reason = sluice.ErrWaitTooLong
		}
		ok = now == x.expires && (errors.Is(e.err, reason) || e.hidden || w.joins) && errors.Is(e.err, context.DeadlineExceeded) ||
			w.lets(x, e.err)
	case x.gone:
		ok = errors.Is(e.err, x.ctx.Err()) && (w.joins || errors.Is(e.err, x.said.err))
	case x.said.how == "return":
		ok = e.err == nil && e.value == x.seq
		x.first.kept = ok && w.keeps && x.code && x.inside == "pass" && x.ctx.Err() == nil
	case x.said.how == "deny":
		ok = (errors.Is(e.err, sluice.ErrDenied) || e.hidden || now == x.due-1) && errors.Is(e.err, x.said.err)
	case x.said.how == "exit" && x.how == "invoke" && !w.away():
		ok = e.exited
	case x.said.how == "exit":
		ok = panicked && p.Goexit && !e.exited
	case x.said.how == "panic":
		ok = panicked && p.Value == x.said.err
	default:
		ok = e.err == x.said.err || len(w.names) > 0 && errors.Is(e.err, x.said.err)
	}
	if !ok {
		w.fatal("%v ended by %v: the answer is %v, %v (exited %v)", x, x.said, e.value, e.err, e.exited)
	}
}

// justify checks the reason for which x was refused.
func (w *world) justify(now int64, x *call, err error) {
	w.counts.rejected++
	err, asks := w.refusal(x, err)
	if !asks {
		w.counts.gaveBack++
		return
	}
	var e *sluice.Error
	if !errors.As(err, &e) {
		w.fatal("%v was refused by %T: %v", x, err, err)
	}
	bad := func(format string, a ...any) {
		w.fatal("%v was refused: %v. But %s", x, err, fmt.Sprintf(format, a...))
	}
	if e.RetryAfter < 0 {
		bad("the time to retry is %v", e.RetryAfter)
	}
	switch e.Reason {
	case sluice.ErrClosed:
		if w.counts.closed++; !w.closing[x.exec] {
			bad("its executor is open")
		}
	case sluice.ErrRejected:
		if w.counts.gaveBack++; x.ctx.Err() != context.Canceled && !w.lets(x, err) {
			bad("its context says %v", x.ctx.Err())
		}
	case sluice.ErrWaitTooLong:
		w.counts.late++
		if w.guess(now, x) {
			w.counts.guessed++
			return
		}
		if now < x.limit && x.ctx.Err() != context.DeadlineExceeded && !(w.asked(x) && w.earliest(now, x)+w.slack() > x.limit) {
			bad("its limit is %d, and it can start at %d", x.limit, w.earliest(now, x))
		}
	case sluice.ErrBreakerOpen:
		w.counts.broken++
		if b := w.circuitOf(x.tool); b == nil || !w.racy && b.lapsed != now && b.lets(now) {
			bad("its breaker lets it start: %+v", b)
		}
	case sluice.ErrQueueFull:
		w.full(x, bad)
	case sluice.ErrSaturated, sluice.ErrRateLimited:
		w.saturated(now, x, e, bad)
	case sluice.ErrNesting:
		w.counts.cycles++
		if !x.nested {
			bad("it is not nested")
		}
		if w.racy {
			return
		}
		for _, n := range x.needs {
			if !n.cell.of.tokens && !n.cell.agrees(now, x, n.n) {
				return
			}
		}
		bad("there are slots")
	default:
		bad("for no reason of admission")
	}
}

// unmake forgets cells of calls that were refused before they came to admission.
func (w *world) unmake() {
	for _, first := range w.calls {
		for _, x := range first.tries {
			if x.act != w.act || x.outside {
				continue
			}
			for _, n := range x.needs {
				n.cell.real = true
			}
		}
	}
	for _, l := range w.limitsAll() {
		for k, c := range l.cells {
			if !c.real {
				delete(l.cells, k)
			}
		}
	}
}

// asked reports whether admission decided on x as on a newcomer, in this action.
func (w *world) asked(x *call) bool { return x.act == w.act || x.requeued == w.act }

// earliest is the instant at which x could start if everybody else left.
func (w *world) earliest(now int64, x *call) int64 {
	at := now
	for _, n := range x.needs {
		at = max(at, n.cell.own(now, n.n))
	}
	return at
}

// full checks that x had to be refused, or to give way to another.
func (w *world) full(x *call, bad func(string, ...any)) {
	if w.sched == nil {
		bad("its queue holds 1000")
	}
	if w.stood(w.now(), x) {
		w.counts.stood++
		w.shed = true // or for the newcomer
	} else if x.act != w.act {
		w.counts.shed++
		w.shed = true
		w.gaveWay(x, bad)
	} else if w.counts.full++; !w.racy && w.room(x, w.most) {
		bad("there is room: %d wait, %d of its tool, %d of its tenant", w.most(x, anyone), w.most(x, sameTool), w.most(x, sameTenant))
	}
}

// room reports whether there is room in the queue of x's executor, whose bounds are its own:
// what fills it is not to keep out a tool and a tenant of whom few wait.
func (w *world) room(x *call, beside func(x *call, alike func(x, y *call) bool) int) bool {
	c := w.sched.Config()
	few := min(16, c.MaxQueue)
	return (c.MaxPerTenant == c.MaxQueue || beside(x, sameTenant) < c.MaxPerTenant) &&
		(beside(x, anyone) < c.MaxQueue || beside(x, sameTool) < few || beside(x, sameTenant) < few)
}

func anyone(*call, *call) bool   { return true }
func sameTool(x, y *call) bool   { return x.tool == y.tool }
func sameTenant(x, y *call) bool { return x.tenant == y.tenant }

// least is how many calls of x's executor surely waited beside it when the newcomer came.
func (w *world) least(x *call, alike func(x, y *call) bool) int { return beside(w.came, x, alike) }

// most is how many may have.
func (w *world) most(x *call, alike func(x, y *call) bool) int {
	return w.least(x, alike) + beside(w.went, x, alike)
}

func beside(ys []*call, x *call, alike func(x, y *call) bool) (n int) {
	for _, y := range ys {
		if y != x && y.exec == x.exec && alike(x, y) {
			n++
		}
	}
	return n
}

// gaveWay checks that x had to go for a newcomer: the queue was full, and nobody less urgent,
// nor a newer call of its tenant, waited there.
func (w *world) gaveWay(x *call, bad func(string, ...any)) {
	c := w.sched.Config()
	switch {
	case !c.Shed:
		bad("nobody gives way")
	case w.racy:
	case w.fresh == nil || w.fresh.exec != x.exec || w.fresh.priority < x.priority:
		bad("nobody more urgent has come")
	case w.most(w.fresh, anyone) < c.MaxQueue:
		bad("the queue held %d of %d", w.most(w.fresh, anyone), c.MaxQueue)
	case slices.ContainsFunc(w.came, func(y *call) bool { return y.exec == x.exec && y.priority < x.priority }):
		bad("there are less urgent ones")
	case slices.ContainsFunc(w.came, func(y *call) bool {
		return y.exec == x.exec && y.priority == x.priority && y.tenant == x.tenant && y.place > x.place
	}):
		bad("there are newer ones")
	}
}

func (w *world) saturated(now int64, x *call, e *sluice.Error, bad func(string, ...any)) {
	for _, n := range x.needs {
		c := n.cell
		if c.of.name != e.By {
			continue
		}
		if c.of.tokens != (e.Reason == sluice.ErrRateLimited) {
			bad("that is not what %s says", c.of.name)
		}
		switch {
		case strings.Contains(e.Error(), "keys are busy"):
			w.counts.keys++
			if x.outside = true; x.act != w.act || c.of.maxKeys == 0 || !w.racy && w.busy(now, c.of, c) < c.of.maxKeys {
				bad("%d keys are busy of %d", w.busy(now, c.of, c), c.of.maxKeys)
			}
		case !c.of.tokens && n.n > c.max() && !x.shares(c):
			w.counts.saturated++
		case w.racy:
		case !c.of.refuse:
			bad("that does not refuse")
		case !c.agrees(now, x, n.n), w.claimant(now, []*call{x}) != nil:
			w.counts.limited++
		default:
			bad("it agrees")
		}
		return
	}
	bad("it does not need that")
}

// shares reports whether a call around x holds slots of c.
func (x *call) shares(c *cell) bool {
	for a := x.parent; a != nil; a = a.parent {
		if slices.ContainsFunc(a.needs, func(n need) bool { return n.cell == c }) {
			return true
		}
	}
	return false
}

// busy is how many keys of l, but one, cannot make room.
func (w *world) busy(now int64, l *limit, but *cell) (n int) {
	for _, c := range l.cells {
		needs := func(x *call) bool {
			return slices.ContainsFunc(x.needs, func(n need) bool { return n.cell == c })
		}
		if c != but && (c.remembers(now) || slices.ContainsFunc(w.running, needs) || slices.ContainsFunc(w.waiting, needs)) {
			n++
		}
	}
	return n
}

// sameLane: calls of one tool that wait in one line.
func (w *world) sameLane(x, y *call) bool {
	return w.alike(x, y) && x.exec == y.exec && x.tenant == y.tenant && x.priority == y.priority
}

func (w *world) alike(x, y *call) bool {
	return x.tool == y.tool && !x.nested && !y.nested && slices.Equal(x.needs, y.needs)
}

// order checks that nobody in the same line was passed by who started. Lines that differ by
// executor alone, or without a scheduler by tenant and priority, should be one; how often they
// are not is counted, since a line may wait at a limit to which the other has yet to come.
func (w *world) order(started []*call) {
	for _, x := range started {
		for _, y := range w.waiting {
			switch {
			case y.place >= x.place || !w.alike(x, y):
			case w.sameLane(x, y):
				w.fatal("%v started before %v", x, y)
			case w.sched == nil, x.tenant == y.tenant && x.priority == y.priority:
				w.counts.passed++
			}
		}
	}
}

// check recounts everything.
func (w *world) check(now int64) {
	w.counts.checks++
	for _, x := range w.waiting {
		switch {
		case x.ctx.Err() != nil:
			w.fatal("%v waits, its context has ended", x)
		case x.limit <= now:
			w.fatal("%v waits, its limit is %d", x, x.limit)
		case w.closing[x.exec]:
			w.fatal("%v waits, its executor is closed", x)
		case x == w.fresh && w.soonest-w.slack() > x.limit:
			w.fatal("%v waits, it could not start before %d and its limit is %d", x, w.soonest, x.limit)
		}
		for _, n := range x.needs {
			if !n.cell.of.tokens && n.n > n.cell.max() && !x.shares(n.cell) {
				w.fatal("%v waits for %d slots of %s, which has %d", x, n.n, n.cell.of.name, n.cell.max())
			}
		}
	}
	for _, x := range w.running {
		if x.answers == 0 && x.expires <= now {
			w.fatal("%v is not answered, its time was over at %d", x, x.expires)
		}
	}
	for _, x := range w.calls {
		if x = x.tries[len(x.tries)-1]; x.said != nil && x.answers != 1 && !slices.Contains(w.resting, x) {
			w.fatal("%v has ended and was answered %d times", x, x.answers)
		}
	}
	if x := w.fresh; w.sched != nil && x != nil && slices.Contains(w.waiting, x) && !w.room(x, w.least) && !w.shed {
		w.fatal("%v waits beyond the bounds: %d wait, %d of its tool, %d of its tenant", x, w.least(x, anyone), w.least(x, sameTool), w.least(x, sameTenant))
	}
	w.idle(now)
	w.compare(now)
	for i := range w.execs {
		w.checkClosed(i)
	}
}

func (w *world) checkClosed(i int) {
	if !w.closing[i] {
		return
	}
	runs := slices.ContainsFunc(append(slices.Clone(w.running), w.resting...), func(x *call) bool { return x.exec == i })
	select {
	case err := <-w.closed[i]:
		if err != nil || runs {
			w.fatal("Close answered %v, calls run: %v", err, runs)
		}
		w.closed[i] <- nil
	default:
		if !runs {
			w.fatal("Close has not returned, nothing runs")
		}
	}
}

// idle checks that nobody waits who could start, but for a claim and a bucket's first. How
// often that is why somebody waits is counted, and the ramp after a pause.
func (w *world) idle(now int64) {
	var kept []*call
	for _, x := range w.waiting {
		if !w.first(x) {
			continue
		}
		if !w.could(now, x) {
			if slices.ContainsFunc(x.needs, func(n need) bool { return !n.cell.paused(now) && n.cell.opens(now) > now }) {
				w.counts.idleRamp++
			}
			continue
		}
		if w.behindBucket(now, x) {
			w.counts.idleBucket++
			continue
		}
		if x.waitedForFresh(now) {
			continue
		}
		kept = append(kept, x)
	}
	if len(kept) == 0 {
		return
	}
	if w.claimant(now, kept) == nil {
		w.fatal("%v could start and does not; needs %s", kept, describe(now, kept[0]))
	}
	w.counts.idleClaim += len(kept)
}

func describe(now int64, x *call) string {
	var b strings.Builder
	for _, n := range x.needs {
		least, most := n.cell.used(nil)
		fmt.Fprintf(&b, "\n\t%d of %s %q: slots %d..%d of %d, %d ns of %d x %d, opens %d, agrees %v", n.n, n.cell.of.name, n.cell.key, least, most, n.cell.max(), n.cell.have(now), n.cell.of.burst, n.cell.of.per, n.cell.opens(now), n.cell.agrees(now, x, n.n))
	}
	return b.String()
}

// first reports whether x is the head of its line.
func (w *world) first(x *call) bool {
	return !slices.ContainsFunc(w.waiting, func(y *call) bool { return y.place < x.place && w.sameLane(x, y) })
}

func (w *world) could(now int64, x *call) bool {
	if b := w.circuitOf(x.tool); b != nil && !b.lets(now) {
		return false
	}
	for _, n := range x.needs {
		if !n.cell.agrees(now, x, n.n) {
			return false
		}
	}
	return true
}

// behindBucket: somebody waits for more tokens of a bucket than there are yet.
func (w *world) behindBucket(now int64, x *call) bool {
	for _, n := range x.needs {
		if !n.cell.of.tokens || n.n == 0 {
			continue
		}
		for _, y := range w.waiting {
			if w.sched == nil && y.place > x.place {
				continue
			}
			for _, k := range y.needs {
				if k.cell == n.cell && k.n > n.n {
					if at := k.cell.pays(now, k.n); at > now && at != never {
						return true
					}
				}
			}
		}
	}
	return false
}

// claimant is a call for which slots may be kept from all of xs: it lacks nothing else.
func (w *world) claimant(now int64, xs []*call) *call {
	for _, y := range w.waiting {
		if b := w.circuitOf(y.tool); y.act == w.act || !w.first(y) || !collects(now, y) || b != nil && !b.lets(now) {
			continue
		}
		all := true
		for _, x := range xs {
			all = all && keeps(y, x)
		}
		if all {
			return y
		}
	}
	return nil
}

func collects(now int64, y *call) bool {
	lacks := false
	for _, n := range y.needs {
		agrees := n.cell.agrees(now, y, n.n)
		switch c := n.cell; {
		case c.paused(now), c.of.tokens && !agrees:
			return false
		case !c.of.tokens && (c.of.refuse || n.n > c.max()):
			return false
		}
		lacks = lacks || !agrees
	}
	return lacks
}

// keeps reports whether slots kept for y can be what x lacks.
func keeps(y, x *call) bool {
	for _, n := range x.needs {
		for _, k := range y.needs {
			if k.cell != n.cell || n.cell.of.tokens || n.cell.lends(x) || n.cell.lends(y) {
				continue
			}
			if _, most := n.cell.used(nil); most+n.n+k.n > n.cell.max() {
				return true
			}
		}
	}
	return false
}

// compare holds what the library says of itself against the model.
func (w *world) compare(now int64) {
	if w.last < 0 {
		return
	}
	s := w.execs[w.last].Snapshot()
	if s.InFlight != len(w.running) || s.Queued != len(w.waiting) {
		w.fatal("%d run and %d wait, the snapshot says %d and %d", len(w.running), len(w.waiting), s.InFlight, s.Queued)
	}
	w.checkCircuits(now, s)
	for _, l := range w.limits {
		n := 0
		for _, g := range s.Gates {
			if g.Name == l.name {
				n++
			}
		}
		if most := max(l.maxKeys, w.busy(now, l, nil)); l.maxKeys > 0 && n > most { // a bound that was lowered waits for keys to fall idle
			w.fatal("%s has %d keys, at most %d are needed", l.name, n, most)
		}
	}
	for _, l := range w.limitsAll() {
		if slices.ContainsFunc(w.tools, func(t *tool) bool { return !t.compiled && (l == t.slots || slices.Contains(t.rates, l)) }) {
			continue // no executor knows it
		}
		for _, c := range l.sorted() {
			if l.shared != nil {
				continue // what it holds is not the library's to say
			}
			i := slices.IndexFunc(s.Gates, func(g sluice.GateState) bool {
				return g.Key == c.key && g.Name == l.name
			})
			if i < 0 {
				if lo, _ := c.used(nil); lo > 0 || l.tokens && c.missing(now) > 0 || c.remembers(now) {
					w.fatal("%s %q is not in the snapshot", l.name, c.key)
				}
				delete(l.cells, c.key) // it has been forgotten, and may come again
				continue
			}
			g := s.Gates[i]
			if l.tokens && l.shared == nil {
				if g.Used != c.missing(now) || g.Limit != l.burst {
					w.fatal("%s %q: %d tokens of %d are missing, the snapshot says %d of %d: %v", l.name, c.key, c.missing(now), l.burst, g.Used, g.Limit, c.events)
				}
			} else if lo, hi := c.used(nil); !l.tokens && (g.Used < lo || g.Used > hi) {
				w.fatal("%s %q: %d to %d slots are taken, the snapshot says %d", l.name, c.key, lo, hi, g.Used)
			} else if !l.tokens && c.max() < unlimited && g.Limit != c.max() {
				w.fatal("%s %q: the limit is %d, the snapshot says %d", l.name, c.key, c.max(), g.Limit)
			}
			if paused := c.paused(now); paused != g.Paused {
				w.fatal("%s %q: paused is %v, the snapshot says %v", l.name, c.key, paused, g.Paused)
			}
		}
	}
}
