package verify

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-go/sluice"
)

// tick is what all durations are multiples of: a power of two, so that tokens stay whole
// nanoseconds when a rate changes.
const tick = int64(1 << 20)

var tenants = []string{"", "t1", "t2", "t3"}

// tool is one registered function and what its policy says.
type tool struct {
	name, typ string
	policy    sluice.Policy
	slots     *limit
	rates     []*limit
	learned   map[string]int64
	compiled  bool
}

// estimate is what calls are expected to cost that nobody said anything about.
func (t *tool) estimate(unit string) int64 {
	if n, ok := t.learned[unit]; ok {
		return max(1, n)
	}
	return 1
}

func (t *tool) learn(unit string, used int64) {
	if old, ok := t.learned[unit]; ok {
		used = old + (used-old)/8
	}
	t.learned[unit] = used
}

// used is what a call said it used of a unit.
type used struct {
	unit string
	n    int64
}

type call struct {
	seq      int
	exec     int
	tool     *tool
	tenant   string
	asked    sluice.Priority // by its own run
	priority sluice.Priority // at least that of the call around it
	cost     map[string]int64
	how      string // invoke or submit
	nested   bool
	parent   *call // the nearest around it that runs
	root     *call // the outermost, whether it runs or not
	kids     []*call
	needs    []need
	limit    int64 // latest instant to start
	requeued int   // the action in which its needs changed
	place    int   // among arrivals; the same for those of one action
	act      int   // of its arrival
	outside  bool  // refused before it came to admission

	ctx    context.Context
	cancel context.CancelFunc

	end     chan ending // tells the tool how to end
	inner   context.Context
	starts  int
	started int64
	over    *ending // how it ended
	expires int64   // when its caller goes on without it
	settled []used
	answers int
	racing  int // the action in which it was cancelled while others ended
}

// ending is what a tool is told to do.
type ending struct {
	how   string // return, error, panic, exit or throttle
	err   error
	pause time.Duration
}

// throttled is an error that an upstream's answer became.
type throttled struct{ d time.Duration }

func (t *throttled) Error() string             { return "slow down" }
func (t *throttled) RetryAfter() time.Duration { return t.d }

var errAborted = errors.New("the test is over")

// entry is what was seen: a start, or an answer.
type entry struct {
	x      *call
	start  bool
	at     int64
	err    error
	exited bool
	value  any
}

// world is the system and the model of one sequence.
type world struct {
	rt     *rapid.T
	counts *counts
	born   time.Time

	registry *sluice.ToolRegistry
	execs    []*sluice.Executor
	closing  []bool
	closed   []chan error
	last     int // the executor called last, -1 before
	rec      *sluice.Recorder
	lim      *sluice.ConcurrencyLimiter
	rates    []*sluice.RateLimiter
	sched    *sluice.PriorityScheduler

	tools   []*tool
	limits  []*limit   // of lim, in its order
	rate    [][]*limit // of each of rates
	weights bool       // calls say what they cost
	nests   bool
	timeout int64
	wait    int64 // the executors' bound on it; zero is none

	mu    sync.Mutex
	calls []*call
	log   []entry
	quit  chan struct{}

	act     int
	name    string
	trace   strings.Builder
	racy    bool  // what happened in the action has no order
	came    int   // who waited when it began
	fresh   *call // the arrival of the action, if it is one
	place   int
	waiting []*call
	running []*call
}

// counts shows that a run was not idle.
type counts struct {
	actions, starts, borrowed, ambiguous, waits             int
	rejected, cancelled, late, full, shed, saturated, keys  int
	limited, cycles, closed, timeouts, throttles, settles   int
	cuts                                                    int
	resizes, reratings, policies, replans, pauses, gaveBack int
	idleClaim, idleBucket, checks                           int
}

func (w *world) fatal(format string, a ...any) {
	w.rt.Helper()
	if w.last >= 0 {
		for _, l := range w.execs[w.last].Snapshot().Lanes {
			w.logf("%d wait, of %s, tenant %q, priority %d: for %s", l.Waiting, l.Tool, l.Tenant, l.Priority, l.By)
		}
	}
	for _, x := range w.waiting {
		w.logf("%v, place %d, waits:%s", x, x.place, describe(w.now(), x))
	}
	w.rt.Fatalf("action %d (%s), instant %d: %s\nWhat happened:\n%s", w.act, w.name, w.now(), fmt.Sprintf(format, a...), w.trace.String())
}

// logf keeps a line for the report of a failure: a race may not come about again.
func (w *world) logf(format string, a ...any) {
	fmt.Fprintf(&w.trace, format, a...)
	w.trace.WriteByte('\n')
}

func (w *world) now() int64 { return int64(time.Since(w.born)) }

func (x *call) String() string {
	return fmt.Sprintf("call %d (%s, tenant %q, priority %d)", x.seq, x.tool.name, x.tenant, x.priority)
}

// Draws.

var ranges = map[[2]int]*rapid.Generator[int]{}

func (w *world) draw(label string, lo, hi int) int {
	g := ranges[[2]int{lo, hi}]
	if g == nil {
		g = rapid.SampledFrom(span(lo, hi)) // not IntRange: that prefers small numbers
		ranges[[2]int{lo, hi}] = g
	}
	return g.Draw(w.rt, label)
}

func span(lo, hi int) []int {
	s := make([]int, 0, hi-lo+1)
	for n := lo; n <= hi; n++ {
		s = append(s, n)
	}
	return s
}

// one is true once in n.
func (w *world) one(label string, n int) bool { return w.draw(label, 1, n) == n }

func ticks(n int) time.Duration { return time.Duration(int64(n) * tick) }

func pick[T any](w *world, label string, list []T) (v T) {
	if len(list) == 0 {
		w.rt.Skip("nothing to choose from")
	}
	return list[w.draw(label, 0, len(list)-1)]
}

// Building.

func global(*call) string     { return "" }
func byTool(x *call) string   { return x.tool.name }
func byType(x *call) string   { return x.tool.typ }
func byTenant(x *call) string { return x.tenant }

func newWorld(rt *rapid.T, c *counts) *world {
	w := &world{rt: rt, counts: c, born: time.Now(), registry: sluice.NewToolRegistry(), rec: sluice.NewRecorder(), quit: make(chan struct{}), last: -1, name: "setup"}
	w.weights = w.one("weights", 2)
	w.nests = w.one("nests", 2)
	var list []sluice.Interceptor
	conf := sluice.ConcurrencyLimiterConfig{Name: "lim"}
	for _, k := range []struct {
		scope sluice.Scope
		key   func(*call) string
	}{{sluice.Global, global}, {sluice.ByType, byType}, {sluice.ByTool, byTool}, {sluice.ByTenant, byTenant}} {
		if w.one("limit "+k.scope.String(), 2) {
			w.addLimit(&conf, k.scope, k.key, "", 4)
		}
	}
	if w.weights && w.one("bytes", 2) {
		w.addLimit(&conf, sluice.Global, global, "bytes", 8)
	}
	if len(conf.Limits) > 0 {
		w.lim = sluice.Must(sluice.NewConcurrencyLimiter(conf))
		list = append(list, w.lim)
	}
	for i, k := range []struct {
		scope sluice.Scope
		key   func(*call) string
	}{{sluice.Global, global}, {sluice.ByTenant, byTenant}, {sluice.ByTool, byTool}} {
		if w.one("rate "+k.scope.String(), 4) {
			list = append(list, w.addRates(fmt.Sprint("r", i), k.scope, k.key))
		}
	}
	if w.one("unordered", 4) {
		w.sched = nil
	} else {
		c := w.scheduling()
		w.logf("scheduler %+v", c)
		w.sched = sluice.Must(sluice.NewPriorityScheduler(c))
		list = append(list, w.sched)
	}
	cfg := sluice.Config{Interceptors: list, Sink: w.rec}
	if w.one("timeout", 5) {
		w.timeout = int64(w.draw("timeout ticks", 5, 20)) * tick
		cfg.Timeout = time.Duration(w.timeout)
	}
	if w.one("max wait", 5) {
		cfg.MaxWait = ticks(w.draw("max wait ticks", 3, 40))
		w.wait = int64(cfg.MaxWait)
	}
	w.execs = append(w.execs, sluice.Must(sluice.NewExecutor(w.registry, cfg)))
	if len(list) > 0 && w.one("two executors", 4) { // with nothing in common they would be apart
		w.execs = append(w.execs, sluice.Must(sluice.NewExecutor(w.registry, cfg)))
	}
	for _, l := range w.limitsAll() {
		w.logf("%s: %d, or one token in %d ns, burst %d; refuses %v, upstream %v, at most %d keys", l.name, l.max, l.per, l.burst, l.refuse, l.upstream, l.maxKeys)
	}
	w.closing, w.closed = make([]bool, len(w.execs)), make([]chan error, len(w.execs))
	for _, n := range []string{"a1", "a2", "b1"} {
		w.addTool(n, n[:1])
	}
	rt.Cleanup(w.abort)
	return w
}

func (w *world) addLimit(conf *sluice.ConcurrencyLimiterConfig, s sluice.Scope, key func(*call) string, unit string, most int) {
	l := sluice.Limit{Max: w.draw("max", 1, most), Scope: s, Unit: unit, Refuse: w.one("refuse", 12)}
	m := &limit{name: "concurrency/lim " + strings.TrimSpace(unit+" "+s.String()), unit: unit, refuse: l.Refuse, key: key, keyed: s == sluice.ByTenant, max: int64(l.Max), cells: map[string]*cell{}}
	if s == sluice.ByTenant && w.one("max keys", 5) {
		l.MaxKeys, m.maxKeys = 2, 2
	}
	conf.Limits = append(conf.Limits, l)
	w.limits = append(w.limits, m)
}

func (w *world) drawRate(unit string) sluice.Rate {
	n := int64(w.draw("rate n", 1, 3))
	return sluice.Rate{N: n, Per: time.Duration(n * tick << w.draw("rate per", 0, 3)), Burst: int64(w.draw("burst", 1, 5)), Unit: unit}
}

func (l *limit) takes(r sluice.Rate) { l.per, l.burst = int64(r.Per)/r.N, r.Burst }

func (w *world) addRates(name string, s sluice.Scope, key func(*call) string) sluice.Interceptor {
	conf := sluice.RateLimiterConfig{Name: name, Scope: s, Refuse: w.one("refuse", 12), Upstream: w.one("upstream", 2)}
	units := []string{""}
	if w.weights && w.one("token rate", 2) {
		units = append(units, "tokens")
	}
	var ls []*limit
	for _, u := range units {
		r := w.drawRate(u)
		conf.Rates = append(conf.Rates, r)
		if u == "" {
			u = "calls"
		}
		l := &limit{name: "rate/" + name + " " + u + " per ", tokens: true, unit: r.Unit, refuse: conf.Refuse, upstream: conf.Upstream, key: key, keyed: s == sluice.ByTenant, cells: map[string]*cell{}}
		l.takes(r)
		ls = append(ls, l)
	}
	rl := sluice.Must(sluice.NewRateLimiter(conf))
	w.rates, w.rate = append(w.rates, rl), append(w.rate, ls)
	return rl
}

func (w *world) scheduling() sluice.PrioritySchedulerConfig {
	c := sluice.PrioritySchedulerConfig{Ageing: w.draw("ageing", 0, 2)}
	if w.one("small queue", 4) {
		c.MaxQueue = w.draw("max queue", 2, 8)
		c.Shed = w.one("shed", 2)
	}
	if w.one("tenant queue", 6) {
		c.MaxPerTenant = w.draw("max per tenant", 1, 3)
	}
	if w.one("weighted tenants", 3) {
		c.TenantWeights = map[string]int{"t1": w.draw("weight", 1, 4)}
	}
	return c
}

func (w *world) addTool(name, typ string) {
	t := &tool{name: name, typ: typ, learned: map[string]int64{}}
	t.slots = &limit{name: "tool/" + name + " concurrency", key: global, cells: map[string]*cell{}}
	t.policy = w.drawPolicy()
	w.adopt(t)
	sluice.Must(sluice.Register(w.registry, sluice.Spec{Name: name, Type: typ, Policy: t.policy}, w.run))
	w.tools = append(w.tools, t)
	w.logf("%s: concurrency %d, rates %v, wait %v", t.name, t.policy.Concurrency, t.policy.Rates, t.policy.MaxWait)
}

func (w *world) drawPolicy() (p sluice.Policy) {
	if w.one("policy concurrency", 4) {
		p.Concurrency = w.draw("concurrency", 1, 3)
	}
	if w.one("policy rate", 5) {
		p.Rates = append(p.Rates, w.drawRate(""))
	}
	if w.weights && w.one("policy tokens", 5) {
		p.Rates = append(p.Rates, w.drawRate("tokens"))
	}
	if w.one("policy wait", 8) {
		p.MaxWait = ticks(w.draw("policy wait ticks", 3, 40))
	}
	if w.weights && !w.one("no cost", 4) {
		p.Cost = func(c sluice.Call, unit string) int64 {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.calls[c.Input.(int)].cost[unit]
		}
	}
	return p
}

// adopt makes new limits of t's policy.
func (w *world) adopt(t *tool) {
	t.slots.max = unlimited
	if n := t.policy.Concurrency; n > 0 {
		t.slots.max = int64(n)
	}
	t.rates = nil
	for _, r := range t.policy.Rates {
		unit := r.Unit
		if unit == "" {
			unit = "calls"
		}
		l := &limit{name: "tool/" + t.name + " " + unit + " per ", tokens: true, unit: r.Unit, key: global, cells: map[string]*cell{}}
		l.takes(r)
		t.rates = append(t.rates, l)
	}
}

// limitsOf is every limit that calls of t are subject to.
func (w *world) limitsOf(t *tool) []*limit {
	out := append([]*limit{t.slots}, t.rates...)
	out = append(out, w.limits...)
	for _, ls := range w.rate {
		out = append(out, ls...)
	}
	return out
}

func (w *world) limitsAll() []*limit {
	out := slices.Clone(w.limits)
	for _, ls := range w.rate {
		out = append(out, ls...)
	}
	for _, t := range w.tools {
		out = append(append(out, t.slots), t.rates...)
	}
	return out
}

// needs is what x takes if it arrives now.
func (w *world) needs(x *call) (out []need) {
	for _, l := range w.limitsOf(x.tool) {
		n := int64(1)
		if l.tokens || l.unit != "" {
			switch {
			case x.tool.policy.Cost != nil:
				n = x.cost[l.unit]
			case l.unit != "":
				n = x.tool.estimate(l.unit)
			}
			if n == 0 {
				continue
			}
			if l.tokens {
				n = min(n, l.burst)
			}
		}
		out = append(out, need{l.cell(l.key(x)), n})
	}
	return out
}

// compile makes the cells that every call of t needs, as the first of them does.
func (w *world) compile(t *tool) {
	if t.compiled {
		return
	}
	t.compiled = true
	for _, l := range w.limitsOf(t) {
		if !l.keyed {
			l.cell(l.key(&call{tool: t})).real = true
		}
	}
}

// The tool: it tells that it runs, and waits to be told how to end.

func (w *world) run(ctx context.Context, seq int) (int, error) {
	w.mu.Lock()
	x := w.calls[seq]
	x.inner = ctx
	w.log = append(w.log, entry{x: x, start: true, at: w.now()})
	w.mu.Unlock()
	select {
	case e := <-x.end:
		switch e.how {
		case "panic":
			panic(e.err)
		case "exit":
			runtime.Goexit()
		case "return":
			return seq, nil
		}
		return 0, e.err
	case <-w.quit:
		return 0, errAborted
	}
}

// answered notes what a caller got.
func (w *world) answered(x *call, value any, err error, exited bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, entry{x: x, at: w.now(), err: err, value: value, exited: exited})
}

// send has x called.
func (w *world) send(x *call) {
	e := w.execs[x.exec]
	ctx := sluice.WithPipelineContext(x.ctx, sluice.PipelineContext{Tenant: x.tenant, Priority: x.asked})
	req := sluice.Request{ID: fmt.Sprint("c", x.seq), Tool: x.tool.name, Input: x.seq}
	if x.how == "submit" {
		f := e.Submit(ctx, req)
		go func() {
			r, err := f.Wait(context.Background())
			w.answered(x, r.Value, err, false)
		}()
		return
	}
	go func() {
		exited := true
		var r sluice.Result
		var err error
		defer func() { w.answered(x, r.Value, err, exited) }()
		r, err = e.Invoke(ctx, req)
		exited = false
	}()
}

// Actions.

func (w *world) begin(name string) {
	w.act++
	w.counts.actions++
	w.name, w.racy, w.fresh, w.came = name, false, nil, len(w.waiting)
	w.logf("%d at %d: %s", w.act, w.now(), name)
}

// newCall draws a call, which is to be sent at once.
func (w *world) newCall(parent *call) *call {
	x := &call{seq: len(w.calls), parent: parent, nested: parent != nil, act: w.act, end: make(chan ending, 1), limit: never, expires: never, how: "invoke"}
	x.exec = w.draw("exec", 0, len(w.execs)-1)
	x.tool = w.tools[w.draw("tool", 0, len(w.tools)-1)]
	x.tenant = tenants[w.draw("tenant", 0, len(tenants)-1)]
	x.asked = []sluice.Priority{0, 0, sluice.PriorityBatch, 2, sluice.PriorityInteractive}[w.draw("priority", 0, 4)]
	x.priority = x.asked
	if w.draw("how", 0, 1) == 1 {
		x.how = "submit"
	}
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
	switch w.draw("context", 0, 7) {
	case 7:
		x.ctx, x.cancel = context.WithTimeout(up, ticks(w.draw("deadline", 1, 30)))
	case 6:
		if x.ctx, x.cancel = context.WithCancel(up); w.one("dead on arrival", 6) {
			x.cancel()
		}
	default:
		x.ctx, x.cancel = context.WithCancel(up)
	}
	now := w.now()
	x.outside = x.ctx.Err() != nil
	switch d := int64(x.tool.policy.MaxWait); {
	case d > 0:
		x.limit = now + d
	case w.wait > 0:
		x.limit = now + w.wait
	case parent != nil:
		x.limit = now + int64(time.Minute)
	}
	if d, ok := x.ctx.Deadline(); ok {
		x.limit = min(x.limit, int64(d.Sub(w.born))-1)
	}
	w.compile(x.tool)
	w.last = x.exec
	x.needs = w.needs(x)
	w.mu.Lock()
	w.calls = append(w.calls, x)
	w.mu.Unlock()
	w.waiting = append(w.waiting, x)
	x.place = w.place
	w.logf("  %v %s, costs %v, limit %d", x, x.how, x.cost, x.limit)
	return x
}

func (w *world) call() {
	for range w.draw("calls", 1, 3) {
		w.begin("call")
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
		e.pause = ticks(w.draw("retry after", 0, 12))
		e.err = &throttled{e.pause}
	default:
		e.err = errors.New("the tool's own")
	}
	return e
}

// apart is who runs and has nobody in the family who waits: if one of them ended in a race
// nobody could tell on whose slots the other started.
func (w *world) apart() []*call {
	return slices.DeleteFunc(slices.Clone(w.running), func(x *call) bool {
		return slices.ContainsFunc(w.waiting, func(y *call) bool { return x.root == y.root })
	})
}

// tangled reports whether the end of x cancels some who wait in its family, but not all.
func (w *world) tangled(x *call) bool {
	inside := func(y *call) bool {
		for ; y != nil && y != x; y = y.parent {
		}
		return y != nil
	}
	in, out := false, false
	for _, y := range w.waiting {
		if y.root == x.root {
			in, out = in || inside(y), out || !inside(y)
		}
	}
	return w.timeout > 0 && in && out
}

// drawQuiet is an ending that pauses nothing.
func (w *world) drawQuiet() ending {
	e := w.drawEnding()
	if e.how == "throttle" {
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
	w.finish(x, w.drawEnding())
	w.observe()
}

// finish has x end, and books that.
func (w *world) finish(x *call, e ending) {
	w.logf("  %v ends: %s %v", x, e.how, e.pause)
	if x.inner.Err() == nil && w.timeout > 0 && len(x.kids) > 0 {
		w.racy = true // its context ends with it, and with that who waits in it
	}
	x.over = &e
	w.running = slices.DeleteFunc(w.running, func(y *call) bool { return y == x })
	if e.pause > 0 {
		w.throttled(x, e.pause)
	}
	for _, n := range x.needs {
		if !n.cell.of.tokens {
			n.cell.ended(x)
		}
	}
	w.part(x)
	for _, u := range x.settled {
		x.tool.learn(u.unit, u.n)
	}
	x.end <- e
}

// part gives x's nested calls to who is around it.
func (w *world) part(x *call) {
	if p := x.parent; p != nil {
		p.kids = slices.DeleteFunc(p.kids, func(y *call) bool { return y == x })
		p.kids = append(p.kids, x.kids...)
	}
	for _, k := range x.kids {
		k.parent = x.parent
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
	w.racy, x.racing = true, w.act
	w.logf("  cancels %v", x)
	if w.draw("order", 0, 1) == 0 {
		x.cancel()
		w.finish(y, w.drawQuiet())
	} else {
		w.finish(y, w.drawQuiet())
		x.cancel()
	}
	w.observe()
}

func (w *world) time() {
	w.begin("time")
	w.sleep(w.now() + int64(w.draw("ticks", 0, 12))*tick)
}

// sleep lets time pass to each instant at which something may happen, up to until.
func (w *world) sleep(until int64) {
	for {
		now := w.now()
		to := min(until, w.next(now))
		time.Sleep(time.Duration(to - now))
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
		for _, n := range x.needs {
			take(n.cell.paused)
			if n.cell.of.tokens {
				take(n.cell.pays(now, n.n))
			}
		}
	}
	for _, x := range w.running {
		if x.answers == 0 {
			take(x.expires)
		}
	}
	return at
}

func (w *world) resize() {
	if w.lim == nil {
		w.rt.Skip("no limits")
	}
	w.begin("resize")
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
		if l := &c.Limits[i]; w.one("stays", 2) {
			l.Max = w.draw("max", 1, 6)
			w.logf("  %s: %d", w.limits[i].name, l.Max)
			w.limits[i].max = int64(l.Max)
		}
	}
	return w.lim.With(c)
}

// rerate changes the rates of a limiter, and often more, at one instant.
func (w *world) rerate() {
	i := w.drawRates()
	w.begin("rates")
	list := []func() sluice.Change{func() sluice.Change { return w.newRates(i) }}
	if w.one("policy too", 3) {
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
		r := w.drawRate(l.unit)
		if !l.exact(now, int64(r.Per)/r.N) {
			r.N, r.Per = c.Rates[j].N, c.Rates[j].Per
		}
		w.logf("  %s: %v", l.name, r)
		if r != c.Rates[j] { // else nothing happens, not even to a bucket that is paused in debt
			c.Rates[j] = r
			l.rate(now, int64(r.Per)/r.N, r.Burst)
			w.cut(l)
		}
	}
	return w.rates[i].With(c)
}

func (w *world) drawRates() int {
	if len(w.rates) == 0 {
		w.rt.Skip("no rates")
	}
	return w.draw("rates", 0, len(w.rates)-1)
}

func (w *world) repolicy() {
	w.begin("policy")
	w.reconfigure(w.newPolicy())
	w.observe()
}

func (w *world) newPolicy() sluice.Change {
	t := w.tools[w.draw("tool", 0, len(w.tools)-1)]
	now, p := w.now(), w.drawPolicy()
	same := len(p.Rates) == len(t.policy.Rates)
	for i := range p.Rates {
		same = same && p.Rates[i].Unit == t.policy.Rates[i].Unit
	}
	if same {
		for i, l := range t.rates {
			if r := &p.Rates[i]; !l.exact(now, int64(r.Per)/r.N) {
				r.N, r.Per = t.policy.Rates[i].N, t.policy.Rates[i].Per
			}
		}
	}
	w.logf("  %s: concurrency %d, rates %v, wait %v", t.name, p.Concurrency, p.Rates, p.MaxWait)
	w.counts.policies++
	was := t.policy.Rates
	t.policy = p
	gone, fresh := t.rates, *t
	w.adopt(&fresh)
	if same {
		for i, l := range t.rates {
			if p.Rates[i] != was[i] {
				l.rate(now, fresh.rates[i].per, fresh.rates[i].burst)
				w.cut(l)
			}
		}
		return w.registry.WithPolicy(t.name, p)
	}
	w.counts.replans++
	t.rates = fresh.rates
	for _, l := range t.rates {
		l.cell("").real = true
	}
	w.requeue(func(x *call) bool { return x.tool == t }, func(needs []need) []need {
		needs = slices.DeleteFunc(needs, func(n need) bool { return slices.Contains(gone, n.cell.of) })
		for _, l := range t.rates {
			n := int64(1)
			if l.unit != "" {
				n = min(t.estimate(l.unit), l.burst)
			}
			needs = append(needs, need{l.cell(""), n})
		}
		return needs
	})
	return w.registry.WithPolicy(t.name, p)
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
	key := ""
	switch x := (&call{tool: w.tools[w.draw("tool", 0, len(w.tools)-1)], tenant: tenants[w.draw("tenant", 0, len(tenants)-1)]}); w.rates[i].Config().Scope {
	case sluice.ByTool:
		key = x.tool.name
	case sluice.ByTenant:
		key = x.tenant
	}
	now, d := w.now(), max(0, w.draw("ticks", -3, 20))
	w.logf("  %v %q: %d ticks", w.rates[i], key, d)
	w.counts.pauses++
	w.rates[i].Pause(key, ticks(d))
	for _, l := range w.rate[i] {
		if d > 0 {
			l.cell(key).pause(now, now+int64(ticks(d)))
			l.cell(key).real = true
		} else if c := l.cells[key]; c != nil {
			c.lift(now)
		}
	}
	w.observe()
}

// throttled books what an upstream asked of x.
func (w *world) throttled(x *call, d time.Duration) {
	w.counts.throttles++
	found := false
	for _, n := range x.needs {
		if n.cell.of.upstream {
			n.cell.pause(w.now(), w.now()+int64(d))
			found = true
		}
	}
	if !found {
		x.tool.slots.cell("").pause(w.now(), w.now()+int64(d))
	}
}

func (w *world) throttle() {
	x := pick(w, "call", w.running)
	w.begin("throttle")
	d := ticks(w.draw("ticks", 1, 12))
	w.logf("  %v: %v", x, d)
	sluice.Throttle(x.inner, d)
	w.throttled(x, d)
	w.observe()
}

// settles has a call say what it used. One that has ended is not heard.
func (w *world) settles() {
	x := pick(w, "call", slices.DeleteFunc(slices.Clone(w.calls), func(x *call) bool { return x.starts == 0 }))
	if len(w.running) > 0 && w.one("running", 2) {
		x = pick(w, "running call", w.running)
	}
	w.begin("settle")
	unit := []string{"", "tokens", "tokens", "bytes"}[w.draw("unit", 0, 3)]
	n := int64(w.draw("used", 0, 9))
	w.logf("  %v: %d %q", x, n, unit)
	sluice.Settle(x.inner, unit, n)
	if x.over == nil {
		w.settled(x, unit, n)
	}
	w.observe()
}

func (w *world) settled(x *call, unit string, n int64) {
	w.counts.settles++
	i := slices.IndexFunc(x.settled, func(u used) bool { return u.unit == unit })
	for _, k := range x.needs {
		if !k.cell.of.tokens || k.cell.of.unit != unit {
			continue
		}
		had := k.n
		if i >= 0 {
			had = x.settled[i].n
		}
		if n > had {
			k.cell.take(w.now(), n-had)
		} else {
			k.cell.give(w.now(), had-n)
		}
	}
	if i >= 0 {
		x.settled[i].n = n
	} else {
		x.settled = append(x.settled, used{unit, n})
	}
}

func (w *world) reschedule() {
	if w.sched == nil {
		w.rt.Skip("no scheduler")
	}
	w.begin("schedule")
	c := w.scheduling()
	w.logf("  %+v", c)
	w.reconfigure(w.sched.With(c))
	w.observe()
}

func (w *world) close() {
	i := w.draw("exec", 0, len(w.execs)-1)
	if w.closing[i] || !w.one("close", 6) {
		w.rt.Skip("stays open")
	}
	w.begin("close")
	w.shut(i)
	w.observe()
}

func (w *world) shut(i int) {
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

// Observing and checking.

// observe lets everything happen that can without time, and books and checks it.
func (w *world) observe() {
	synctest.Wait()
	w.mu.Lock()
	log := w.log
	w.log = nil
	w.mu.Unlock()
	now := w.now()
	var started []*call
	for _, e := range log {
		w.logf("  at %d: %v started %v, err %v", e.at, e.x, e.start, e.err)
		if e.at != now {
			w.fatal("%v: seen at %d", e.x, e.at)
		}
		if e.start {
			started = append(started, e.x)
		}
	}
	w.book(now, started)
	for _, e := range log {
		if !e.start {
			w.answer(now, e)
		}
	}
	w.unmake()
	w.order(started)
	w.check(now)
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
		case x.ctx.Err() != nil && x.racing != w.act:
			w.fatal("%v started though its context had ended", x)
		case now > x.limit:
			w.fatal("%v started after its limit %d", x, x.limit)
		}
		w.waiting = slices.Delete(w.waiting, i, i+1)
		w.running = append(w.running, x)
		w.counts.starts++
		if x.act < w.act {
			w.counts.waits++
		}
		x.starts, x.started = 1, now
		if w.timeout > 0 {
			x.expires = now + w.timeout
			if d, ok := x.ctx.Deadline(); ok {
				x.expires = min(x.expires, int64(d.Sub(w.born)))
			}
		}
		for _, n := range x.needs {
			if n.cell.paused > now {
				w.fatal("%v started at %s %q, which is paused until %d", x, n.cell.of.name, n.cell.key, n.cell.paused)
			}
			if !n.cell.of.tokens {
				f := family{n.cell, x.root}
				starts[f] = append(starts[f], need1{x, n.n})
				continue
			}
			if n.cell.pays(now, n.n) != now {
				w.fatal("%v started for %d tokens of %s %q, whose debt is %d ns with %d ns for each, burst %d", x, n.n, n.cell.of.name, n.cell.key, n.cell.owed(now), n.cell.of.per, n.cell.of.burst)
			}
			n.cell.take(now, n.n)
		}
	}
	for f, xs := range starts {
		f.cell.started(f.root, xs)
	}
	for f := range starts {
		if !f.cell.feasible(f.root) {
			least, _ := f.cell.used(nil)
			w.fatal("%s %q: %d slots are taken, the limit is %d", f.cell.of.name, f.cell.key, least, f.cell.of.max)
		}
		if ls := f.cell.families[f.root]; len(ls) > 1 {
			w.counts.ambiguous++
		} else if f.root.seq != starts[f][0].x.seq && len(ls[0].holds) == 1 {
			w.counts.borrowed++
		}
	}
}

// answer books and checks what a caller got.
func (w *world) answer(now int64, e entry) {
	x := e.x
	if x.answers++; x.answers > 1 {
		w.fatal("%v was answered twice", x)
	}
	rejected := errors.Is(e.err, sluice.ErrRejected)
	if x.starts == 0 {
		if !rejected || e.exited {
			w.fatal("%v did not run, yet its answer is %v (exited %v)", x, e.err, e.exited)
		}
		i := slices.Index(w.waiting, x)
		w.waiting = slices.Delete(w.waiting, i, i+1)
		w.justify(now, x, e.err)
		x.outside = x.outside || errors.Is(e.err, sluice.ErrClosed) && x.act == w.act
		w.part(x)
		return
	}
	if rejected {
		w.fatal("%v ran, yet its answer is %v", x, e.err)
	}
	var p *sluice.PanicError
	panicked := errors.As(e.err, &p)
	ok := false
	switch {
	case x.over == nil:
		w.counts.timeouts++
		ok = now == x.expires && errors.Is(e.err, sluice.ErrTimeout) && errors.Is(e.err, context.DeadlineExceeded)
	case x.over.how == "return":
		ok = e.err == nil && e.value == x.seq
	case x.over.how == "exit" && x.how == "invoke" && w.timeout == 0:
		ok = e.exited
	case x.over.how == "exit":
		ok = panicked && p.Goexit && !e.exited
	case x.over.how == "panic":
		ok = panicked && p.Value == x.over.err
	default:
		ok = e.err == x.over.err
	}
	if !ok {
		w.fatal("%v ended by %v: the answer is %v, %v (exited %v)", x, x.over, e.value, e.err, e.exited)
	}
}

// justify checks the reason for which x was refused.
func (w *world) justify(now int64, x *call, err error) {
	w.counts.rejected++
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
		if w.counts.gaveBack++; x.ctx.Err() != context.Canceled {
			bad("its context says %v", x.ctx.Err())
		}
	case sluice.ErrWaitTooLong:
		w.counts.late++
		if now < x.limit && x.ctx.Err() != context.DeadlineExceeded && !(w.asked(x) && w.earliest(now, x) > x.limit) {
			bad("its limit is %d, and it can start at %d", x.limit, w.earliest(now, x))
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
	for _, x := range w.calls {
		if x.act != w.act || x.outside {
			continue
		}
		for _, n := range x.needs {
			n.cell.real = true
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

func (w *world) full(x *call, bad func(string, ...any)) {
	if w.sched == nil {
		bad("its queue holds 1000")
	}
	c := w.sched.Config()
	if x.act != w.act {
		if w.counts.shed++; !c.Shed || !w.racy && w.came < c.MaxQueue {
			bad("the queue held %d of %d, and sheds: %v", w.came, c.MaxQueue, c.Shed)
		}
		return
	}
	if w.counts.full++; w.racy {
		return
	}
	mine := 0
	for _, y := range w.waiting {
		if y.tenant == x.tenant {
			mine++
		}
	}
	if w.came < c.MaxQueue && mine < c.MaxPerTenant {
		bad("%d waited, %d of its tenant, of %d and %d", w.came, mine, c.MaxQueue, c.MaxPerTenant)
	}
}

func (w *world) saturated(now int64, x *call, e *sluice.Error, bad func(string, ...any)) {
	for _, n := range x.needs {
		c := n.cell
		if c.of.name != e.By && !(c.of.tokens && strings.HasPrefix(e.By, c.of.name)) {
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
		case !c.of.tokens && n.n > c.of.max && !x.shares(c):
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
		if c != but && (c.paused > now || slices.ContainsFunc(w.running, needs) || slices.ContainsFunc(w.waiting, needs)) {
			n++
		}
	}
	return n
}

// sameLane: calls of one tool that wait in one line.
func (w *world) sameLane(x, y *call) bool {
	return x.tool == y.tool && !x.nested && !y.nested && slices.Equal(x.needs, y.needs) &&
		(w.sched == nil || x.tenant == y.tenant && x.priority == y.priority)
}

// order checks that nobody in the same line was passed by who started.
func (w *world) order(started []*call) {
	for _, x := range started {
		for _, y := range w.waiting {
			if w.sameLane(x, y) && y.place < x.place {
				w.fatal("%v started before %v", x, y)
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
		case x == w.fresh && w.earliest(now, x) > x.limit:
			w.fatal("%v waits, it cannot start before %d and its limit is %d", x, w.earliest(now, x), x.limit)
		}
		for _, n := range x.needs {
			if !n.cell.of.tokens && n.n > n.cell.of.max && !x.shares(n.cell) {
				w.fatal("%v waits for %d slots of %s, which has %d", x, n.n, n.cell.of.name, n.cell.of.max)
			}
		}
	}
	for _, x := range w.running {
		if x.answers == 0 && x.expires <= now {
			w.fatal("%v is not answered, its time was over at %d", x, x.expires)
		}
	}
	for _, x := range w.calls {
		if x.over != nil && x.answers != 1 {
			w.fatal("%v has ended and was answered %d times", x, x.answers)
		}
	}
	if w.sched != nil {
		if c := w.sched.Config(); !w.racy && len(w.waiting) > max(w.came, c.MaxQueue) {
			w.fatal("%d wait, the queue holds %d", len(w.waiting), c.MaxQueue)
		}
	}
	for _, l := range w.limits {
		if n := w.busy(now, l, nil); l.maxKeys > 0 && n > l.maxKeys {
			w.fatal("%s has %d keys of %d", l.name, n, l.maxKeys)
		}
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
	runs := slices.ContainsFunc(w.running, func(x *call) bool { return x.exec == i })
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

// idle checks that nobody waits who could start, but for a claim and a bucket's first.
func (w *world) idle(now int64) {
	var kept []*call
	for _, x := range w.waiting {
		if !w.first(x) || !w.could(now, x) {
			continue
		}
		if w.behindBucket(now, x) {
			w.counts.idleBucket++
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
		fmt.Fprintf(&b, "\n\t%d of %s %q: slots %d..%d of %d, debt %d of %d x %d, agrees %v", n.n, n.cell.of.name, n.cell.key, least, most, n.cell.of.max, n.cell.owed(now), n.cell.of.burst, n.cell.of.per, n.cell.agrees(now, x, n.n))
	}
	return b.String()
}

// first reports whether x is the head of its line.
func (w *world) first(x *call) bool {
	return !slices.ContainsFunc(w.waiting, func(y *call) bool { return y.place < x.place && w.sameLane(x, y) })
}

func (w *world) could(now int64, x *call) bool {
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
		if !n.cell.of.tokens {
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
		if y.act == w.act || !w.first(y) || !collects(now, y) {
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
		case c.paused > now, c.of.tokens && !agrees:
			return false
		case !c.of.tokens && (c.of.refuse || n.n > c.of.max):
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
			if _, most := n.cell.used(nil); most+n.n+k.n > n.cell.of.max {
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
	for _, l := range w.limitsAll() {
		if slices.ContainsFunc(w.tools, func(t *tool) bool { return !t.compiled && (l == t.slots || slices.Contains(t.rates, l)) }) {
			continue // no executor knows it
		}
		for _, c := range l.sorted() {
			i := slices.IndexFunc(s.Gates, func(g sluice.GateState) bool {
				return g.Key == c.key && (g.Name == l.name || l.tokens && strings.HasPrefix(g.Name, l.name))
			})
			if i < 0 {
				if lo, _ := c.used(nil); lo > 0 || l.tokens && c.owed(now) > 0 {
					w.fatal("%s %q is not in the snapshot", l.name, c.key)
				}
				continue
			}
			g := s.Gates[i]
			if l.tokens {
				if g.Used != c.missing(now) || g.Limit != l.burst {
					w.fatal("%s %q: %d tokens of %d are missing, the snapshot says %d of %d", l.name, c.key, c.missing(now), l.burst, g.Used, g.Limit)
				}
			} else if lo, hi := c.used(nil); g.Used < lo || g.Used > hi {
				w.fatal("%s %q: %d to %d slots are taken, the snapshot says %d", l.name, c.key, lo, hi, g.Used)
			}
			if paused := c.paused > now; paused != (g.State == "paused") {
				w.fatal("%s %q: paused is %v, the snapshot says %q", l.name, c.key, paused, g.State)
			}
		}
	}
}

// wind lets everything end, inner calls before outer ones, and closes.
func (w *world) wind() {
	for n := 0; len(w.waiting)+len(w.running) > 0; n++ {
		if n > 10_000 {
			w.fatal("stuck: %v wait", w.waiting)
		}
		i := slices.IndexFunc(w.running, func(x *call) bool { return len(x.kids) == 0 })
		if i >= 0 {
			w.begin("wind down")
			w.finish(w.running[i], ending{how: "return"})
			w.observe()
			continue
		}
		at := w.next(w.now())
		if at == never {
			w.fatal("nothing is due and nobody can end, yet %v wait: a lost wake-up; the first needs %s", w.waiting, describe(w.now(), w.waiting[0]))
		}
		w.begin("wait")
		w.sleep(at)
	}
	w.begin("close all")
	for i := range w.execs {
		if !w.closing[i] {
			w.shut(i)
		}
	}
	w.observe()
	w.begin("after all")
	w.record()
	for _, x := range w.calls {
		if x.answers != 1 {
			w.fatal("%v was answered %d times", x, x.answers)
		}
	}
}

// record checks what was recorded.
func (w *world) record() {
	if err := w.rec.Check(); err != nil {
		w.fatal("the recorder: %v", err)
	}
	started := map[string]bool{}
	for _, e := range w.rec.Events() {
		if e.Kind == sluice.ToolStarted {
			started[e.Call.ID] = true
		}
	}
	for _, x := range w.calls {
		if started[fmt.Sprint("c", x.seq)] != (x.starts > 0) {
			w.fatal("%v ran: %v, its events say otherwise", x, x.starts > 0)
		}
	}
}

// abort ends what a failure has left, so that the bubble can end.
func (w *world) abort() {
	close(w.quit)
	for _, x := range w.calls {
		x.cancel()
	}
	for _, e := range w.execs {
		e.Close(context.Background())
	}
	synctest.Wait()
}

// TestAdmission drives random sequences of everything that an Executor can be asked for,
// and holds each step against the model.
func TestAdmission(t *testing.T) {
	checks := 10_000
	if raceDetector {
		checks = 1000
	}
	given := os.Getenv("RAPID_CHECKS") != ""
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if f := flag.Lookup("rapid.checks"); !given {
		was := f.Value.String()
		defer f.Value.Set(was)
		if err := f.Value.Set(fmt.Sprint(checks)); err != nil {
			t.Fatal(err)
		}
	}
	var c counts
	rapid.Check(t, func(rt *rapid.T) {
		rapid.SyncTest(rt, func(rt *rapid.T) {
			w := newWorld(rt, &c)
			rt.Repeat(map[string]func(*rapid.T){
				"call": func(*rapid.T) { w.call() }, "call 2": func(*rapid.T) { w.call() }, "call 3": func(*rapid.T) { w.call() },
				"nest": func(*rapid.T) { w.nest() }, "nest 2": func(*rapid.T) { w.nest() },
				"end": func(*rapid.T) { w.ends() }, "end 2": func(*rapid.T) { w.ends() }, "end 3": func(*rapid.T) { w.ends() },
				"time": func(*rapid.T) { w.time() }, "time 2": func(*rapid.T) { w.time() },
				"burst":    func(*rapid.T) { w.burst() },
				"cancel":   func(*rapid.T) { w.cancels() },
				"race":     func(*rapid.T) { w.race() },
				"resize":   func(*rapid.T) { w.resize() },
				"rerate":   func(*rapid.T) { w.rerate() },
				"policy":   func(*rapid.T) { w.repolicy() },
				"pause":    func(*rapid.T) { w.pause() },
				"throttle": func(*rapid.T) { w.throttle() },
				"settle":   func(*rapid.T) { w.settles() },
				"schedule": func(*rapid.T) { w.reschedule() },
				"close":    func(*rapid.T) { w.close() },
				"unknown":  func(*rapid.T) { w.unknown() },
			})
			w.wind()
		})
	})
	t.Logf("%+v", c)
}
