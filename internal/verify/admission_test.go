package verify

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
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

var (
	tenants = []string{"", "t1", "t2", "t3"}
	hosts   = []string{"", "h1", "h2"}
)

// tool is one registered function and what its policy says.
type tool struct {
	name, typ string
	policy    sluice.Policy
	policies  int // before that
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
		switch eighth := (used - old) / 8; {
		case eighth != 0:
			used = old + eighth
		case used > old:
			used = old + 1
		case used < old:
			used = old - 1
		}
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
	host     string          // which of many the tool talks to, if it does
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

	first   *call       // the attempt before it all; itself unless it is a retry
	tries   []*call     // all of them, of the first
	policy  int         // that it was resolved with
	retries bool        // the interceptor outside the gates tries once more
	inside  string      // what the interceptor inside the gates does: pass it on, keep it, or leave it
	end     chan ending // tells the tool how to end
	leave   chan ending // tells the interceptor
	inner   context.Context
	code    bool    // the tool's code has begun
	passed  bool    // of a call that was kept: it need not be any more
	coded   bool    // of one that is to be left: its code has ended
	era     int     // of its breaker, when it started
	heard   bool    // the breaker has been told
	said    *ending // what its caller is to be told
	starts  int
	started int64
	waited  bool  // before that
	over    bool  // nothing of it runs any more
	expires int64 // when its caller goes on without it
	lapses  int64 // when its own time is over: after that nobody hears what its code comes to
	others  int64 // when the time of somebody else is that it depends on
	settled []used
	answers int

	due    int64 // when the time of a Timeout is over; never if there is none
	resume int64 // when the second attempt comes, of one that has failed
	falls  bool  // the Fallback has an answer
	hidden error // that it has answered for
	kept   bool  // the Cache has the result
	gone   bool  // its caller has left between two attempts

	racing int // the action in which it was cancelled just after another ended
}

// ending is what a tool is told to do.
type ending struct {
	how   string // return, error, panic, exit or throttle; of the interceptor also pass, deny or leave
	err   error
	pause time.Duration
	parts []sluice.ThrottlePart
}

// throttled is an error that an upstream's answer became.
type throttled struct{ d time.Duration }

func (t *throttled) Error() string             { return "slow down" }
func (t *throttled) RetryAfter() time.Duration { return t.d }

// throttledPart concerns a part of the upstream.
type throttledPart struct {
	throttled
	part sluice.ThrottlePart
}

func (t *throttledPart) ThrottledPart() (kind, key string) { return t.part.Kind, t.part.Key }

var errAborted = errors.New("the test is over")

// entry is what was seen: a start, or an answer.
type entry struct {
	x      *call
	start  bool
	at     int64
	err    error
	exited bool
	value  any
	hidden bool // what an interceptor saw, and not the call's own end
}

// world is the system and the model of one sequence.
type world struct {
	rt     *rapid.T
	counts *counts
	born   time.Time

	layers
	registry *sluice.ToolRegistry
	execs    []*sluice.Executor
	closing  []bool
	closed   []chan error
	last     int // the executor called last, -1 before
	rec      *sluice.Recorder
	lim      *sluice.ConcurrencyLimiter
	rates    []*sluice.RateLimiter
	sched    *sluice.PriorityScheduler
	breaker  *sluice.CircuitBreaker // by tool; nil if there is none
	circuit  sluice.CircuitBreakerConfig
	circuits map[*tool]*circuit

	tools    []*tool
	limits   []*limit   // of lim, in its order
	rate     [][]*limit // of each of rates
	shared   *limit     // a bucket that is not the library's; nil if there is none
	adaptive bool       // some limit is: then how a call ends is plain
	weights  bool       // calls say what they cost
	nests    bool
	outsides bool // and one outside that retries
	insides  bool // there is an interceptor inside the gates
	timeout  int64
	wait     int64 // the executors' bound on it; zero is none

	mu    sync.Mutex
	calls []*call
	log   []entry
	quit  chan struct{}

	act     int
	name    string
	trace   strings.Builder
	racy    bool            // what happened in the action has no order
	perhaps *call           // was cancelled in it, and may have been let through before that
	paused  map[*cell]ended // by whom, as it ended: others may have started just before its end
	came    []*call         // who waited when it began, or when the newcomer came
	went    []*call         // who may have, but is gone
	shed    bool            // somebody gave way in it
	fresh   *call           // the arrival of the action, if it is one
	soonest int64           // when that could start, as things were before others did
	began   []*call         // who started in the action
	leaving []*call         // who is answered in it
	place   int
	stands  []int64 // of each executor: since when somebody has waited there, never if nobody does
	quick   int64   // the least that calls have had slots of one cell for, on average; never before
	waiting []*call
	running []*call
}

// counts shows that a run was not idle.
type counts struct {
	actions, starts, borrowed, ambiguous, waits             int
	rejected, cancelled, late, full, shed, saturated, keys  int
	limited, cycles, closed, timeouts, throttles, settles   int
	trips, broken                                           int
	denied, left, retries                                   int
	rests, leftRest, ended, replays, instead                int
	unseen, parts, lifts                                    int
	learned, others, guessed, stood                         int
	cuts, debts, lateReports, lapsed, overdue, vague        int
	resizes, reratings, policies, replans, pauses, gaveBack int
	idleClaim, idleBucket, idleRamp, passed, checks         int
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

func (w *world) draw(label string, lo, hi int) int { return draw(w.rt, label, lo, hi) }

func draw(rt *rapid.T, label string, lo, hi int) int {
	g := ranges[[2]int{lo, hi}]
	if g == nil {
		g = rapid.SampledFrom(span(lo, hi)) // not IntRange: that prefers small numbers
		ranges[[2]int{lo, hi}] = g
	}
	return g.Draw(rt, label)
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
func byHost(x *call) string   { return x.host }

func newWorld(rt *rapid.T, c *counts) *world {
	w := &world{rt: rt, counts: c, born: time.Now(), registry: sluice.NewToolRegistry(), rec: new(sluice.Recorder), quit: make(chan struct{}), quick: never, paused: map[*cell]ended{}, last: -1, name: "setup"}
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
			if !w.nests && w.one("adaptive", 4) {
				w.addAdaptive(&conf.Limits[len(conf.Limits)-1])
			}
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
	}{{sluice.Global, global}, {sluice.ByTenant, byTenant}, {sluice.ByTool, byTool}, {sluice.ByKey("host", w.hostOf), byHost}} {
		if w.one("rate "+k.scope.String(), 4) {
			list = append(list, w.addRates(i, k.scope, k.key))
		}
	}
	if w.one("shared limiter", 6) {
		list = append(list, w.addShared())
	}
	breaks := w.one("breaker", 3)
	if breaks {
		list = append(list, w.addBreaker())
	}
	if w.one("unordered", 4) {
		w.sched = nil
	} else {
		c := w.scheduling()
		w.logf("scheduler %+v", c)
		w.sched = sluice.Must(sluice.NewPriorityScheduler(c))
		list = append(list, w.sched)
	}
	if w.insides = len(list) > 0 && !w.adaptive && w.one("insides", 2); w.insides { // without gates all are outside
		list = append(list, sluice.InterceptorFunc(w.wrap))
	}
	var layers []sluice.Interceptor
	if len(list) > 0 {
		layers = w.stack()
	}
	if w.outsides = len(list) > 0 && !w.rests && w.one("outsides", 3); w.outsides {
		layers = append(layers, sluice.InterceptorFunc(w.retry))
	}
	list = append(layers, list...)
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
	if (w.lim != nil || len(w.rates) > 0 || w.sched != nil) && w.one("two executors", 4) { // with nothing in common they would be apart
		w.execs = append(w.execs, sluice.Must(sluice.NewExecutor(w.registry, cfg)))
	}
	for _, l := range w.limitsAll() {
		w.logf("%s: %d, or one token in %d ns, burst %d; refuses %v, upstream %v, at most %d keys", l.name, l.max, l.per, l.burst, l.refuse, l.upstream, l.maxKeys)
	}
	w.stands = slices.Repeat([]int64{never}, len(w.execs))
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

// drawRate draws one for l. A slow one takes a minute for each token.
func (w *world) drawRate(l *limit) sluice.Rate {
	n, slow := int64(w.draw("rate n", 1, 3)), 0
	if l.slow {
		slow = 16
	}
	return sluice.Rate{N: n, Per: time.Duration(n * tick << (slow + w.draw("rate per", 0, 3))), Burst: int64(w.draw("burst", 1, 5)), Unit: l.unit}
}

func (l *limit) takes(r sluice.Rate) {
	l.count, l.per, l.burst = r.N, int64(r.Per)/r.N, r.Burst
	l.name = l.prefix + " " + cmp.Or(r.Unit, "calls") + " per " + strings.TrimSuffix(r.Per.String(), "0s")
}

func (w *world) addRates(i int, s sluice.Scope, key func(*call) string) sluice.Interceptor {
	name := fmt.Sprint("r", i)
	conf := sluice.RateLimiterConfig{Name: name, Scope: s, Refuse: w.one("refuse", 12), Upstream: w.one("upstream", 2)}
	units := []string{""}
	if w.weights && w.one("token rate", 2) {
		units = append(units, "tokens")
	}
	var ls []*limit
	for _, u := range units {
		l := &limit{prefix: "rate/" + name, tokens: true, unit: u, slow: w.one("slow", 8), refuse: conf.Refuse, upstream: conf.Upstream, key: key, keyed: s == sluice.ByTenant || i == 3, optional: i == 3, cells: map[string]*cell{}}
		r := w.drawRate(l)
		conf.Rates = append(conf.Rates, r)
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
	c.RefuseLate, c.ShedStanding = w.one("refuse late", 4), w.one("shed standing", 4)
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
	t.slots.max = cmp.Or(int64(t.policy.Concurrency), unlimited)
	for _, r := range t.policy.Rates {
		t.rates = append(t.rates, t.newRate(r))
	}
	sluice.Must(sluice.Register(w.registry, sluice.Spec{Name: name, Type: typ, Policy: t.policy}, w.run))
	w.tools = append(w.tools, t)
	w.logf("%s: concurrency %d, rates %v, wait %v", t.name, t.policy.Concurrency, t.policy.Rates, t.policy.MaxWait)
}

func (w *world) drawPolicy() (p sluice.Policy) {
	if w.one("policy concurrency", 4) {
		p.Concurrency = w.draw("concurrency", 1, 3)
	}
	units := []string{}
	if w.one("policy rate", 5) {
		units = append(units, "")
		if w.one("another", 3) {
			units = append(units, "")
		}
	}
	if w.weights && w.one("policy tokens", 5) {
		units = append(units, "tokens")
	}
	if len(units) > 1 && w.one("other way round", 2) {
		slices.Reverse(units)
	}
	for _, u := range units {
		r := w.drawRate(&limit{unit: u})
		r.Burst = 1 << w.draw("burst of a policy", 0, 2) // so that a part of it is whole nanoseconds
		if !slices.ContainsFunc(p.Rates, func(o sluice.Rate) bool { return o.Unit == u && o.Per == r.Per }) {
			p.Rates = append(p.Rates, r)
		}
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

// newRate is a limit of t's policy.
func (t *tool) newRate(r sluice.Rate) *limit {
	l := &limit{prefix: "tool/" + t.name, tokens: true, unit: r.Unit, key: global, cells: map[string]*cell{}}
	l.takes(r)
	return l
}

// limitsOf is every limit that calls of t are subject to.
func (w *world) limitsOf(t *tool) []*limit {
	out := append([]*limit{t.slots}, t.rates...)
	out = append(out, w.limits...)
	for _, ls := range w.rate {
		out = append(out, ls...)
	}
	if w.shared != nil {
		out = append(out, w.shared)
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
	if w.shared != nil {
		out = append(out, w.shared)
	}
	return out
}

// needs is what x takes if it arrives now.
func (w *world) needs(x *call) (out []need) {
	for _, l := range w.limitsOf(x.tool) {
		if l.optional && l.key(x) == "" {
			continue
		}
		n := int64(1)
		if l.tokens && l.shared == nil || l.unit != "" {
			switch {
			case x.tool.policy.Cost != nil:
				n = x.cost[l.unit]
			case l.unit != "":
				n = x.tool.estimate(l.unit)
			}
			if n == 0 && !l.tokens {
				continue
			}
			if l.tokens {
				n = min(n, l.burst)
			}
		}
		out = append(out, need{cell: l.cell(l.key(x)), n: n})
	}
	return out
}

// compile makes the cells that every call of t needs, as the first of them does whatever
// becomes of it.
func (w *world) compile(t *tool) {
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
	x := w.attempt(ctx, seq)
	x.inner, x.code = ctx, true
	if !w.insides {
		w.log = append(w.log, entry{x: x, start: true, at: w.now()})
	}
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

// attempt is the one that runs with ctx.
func (w *world) attempt(ctx context.Context, seq int) *call {
	c, _ := sluice.CallFrom(ctx)
	for len(w.calls[seq].tries) < int(c.Attempt) { // its wait is over, and who books that has yet to wake
		w.mu.Unlock()
		runtime.Gosched()
		w.mu.Lock()
	}
	return w.calls[seq].tries[c.Attempt-1]
}

// retry is the interceptor outside the gates.
func (w *world) retry(_ sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		r, err := next(ctx, c)
		w.mu.Lock()
		again := len(w.calls[c.Input.(int)].tries) > 1
		w.mu.Unlock()
		if again {
			return next(ctx, c)
		}
		return r, err
	}
}

// wrap is the interceptor inside the gates. Some calls it keeps, and denies or answers them
// itself or passes them on later; some it leaves before their code has ended, or after.
func (w *world) wrap(_ sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		w.mu.Lock()
		x := w.attempt(ctx, c.Input.(int))
		x.inner = ctx
		w.log = append(w.log, entry{x: x, start: true, at: w.now()})
		w.mu.Unlock()
		switch x.inside {
		case "pass":
			return next(ctx, c)
		case "leave":
			go next(ctx, c)
		}
		select {
		case e := <-x.leave:
			if e.how == "pass" {
				return next(ctx, c)
			}
			return sluice.Result{Value: x.seq}, e.err
		case <-w.quit:
			return sluice.Result{}, errAborted
		}
	}
}

func (w *world) hostOf(c sluice.Call) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[c.Input.(int)].host
}

// answered notes what a caller got.
func (w *world) answered(x *call, value any, err error, exited bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, entry{x: x.tries[len(x.tries)-1], at: w.now(), err: err, value: value, exited: exited})
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

// wind lets everything end, inner calls before outer ones, and closes.
func (w *world) wind() {
	for n := 0; len(w.waiting)+len(w.running)+len(w.resting) > 0; n++ {
		if n > 10_000 {
			w.fatal("stuck: %v wait", w.waiting)
		}
		i := slices.IndexFunc(w.running, func(x *call) bool { return len(x.kids) == 0 })
		if i >= 0 {
			w.begin("wind down")
			w.goOn(w.running[i], w.drawQuiet)
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
		if n := x.tries[len(x.tries)-1].answers; n != 1 {
			w.fatal("%v was answered %d times", x, n)
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
		if started[fmt.Sprint("c", x.seq)] != x.ran() {
			w.fatal("%v ran: %v, its events say otherwise", x, x.code)
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
	if w.onces != nil {
		w.onces.Close()
	}
	synctest.Wait()
}

// gcPercent is that of tests which make much garbage and keep little.
const gcPercent = 400

// setChecks has rapid make so many, unless somebody has said how many.
func setChecks(t *testing.T, checks int) (given bool) {
	given = os.Getenv("RAPID_CHECKS") != ""
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		f := flag.Lookup("rapid.checks")
		was := f.Value.String()
		t.Cleanup(func() { f.Value.Set(was) })
		if err := f.Value.Set(fmt.Sprint(checks)); err != nil {
			t.Fatal(err)
		}
	}
	return given
}

// TestAdmission drives random sequences of everything that an Executor can be asked for,
// and holds each step against the model. Its sequences are others each time; rapid prints the
// seed of one that fails.
func TestAdmission(t *testing.T) {
	checks := 10_000
	if raceDetector {
		checks = 1000
	}
	given := setChecks(t, checks)
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	var c counts
	rapid.Check(t, func(rt *rapid.T) {
		rapid.SyncTest(rt, func(rt *rapid.T) {
			w := newWorld(rt, &c)
			rt.Repeat(map[string]func(*rapid.T){
				"others take": func(*rapid.T) { w.othersTake() },
				"call":        func(*rapid.T) { w.call() }, "call 2": func(*rapid.T) { w.call() }, "call 3": func(*rapid.T) { w.call() },
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
				"trip":     func(*rapid.T) { w.trip() },
				"lift":     func(*rapid.T) { w.lift() },
				"throttle": func(*rapid.T) { w.throttle() },
				"settle":   func(*rapid.T) { w.settles() },
				"schedule": func(*rapid.T) { w.reschedule() },
				"close":    func(*rapid.T) { w.close() },
				"replay":   func(*rapid.T) { w.replay() },
				"go":       func(*rapid.T) { w.leavesRest() },
				"unknown":  func(*rapid.T) { w.unknown() },
			})
			w.wind()
		})
	})
	t.Logf("%+v", c)
	if checks < 10_000 || given || testing.Short() {
		return // too few to have met everything
	}
	for name, n := range map[string]int{"waits": c.waits, "borrowed slots": c.borrowed, "late": c.late, "full queues": c.full, "shed": c.shed, "too wide": c.saturated, "busy keys": c.keys,
		"refusals by limits": c.limited, "cycles": c.cycles, "closed": c.closed, "timeouts": c.timeouts, "new plans": c.replans, "cuts": c.cuts, "kept for a claim": c.idleClaim, "behind a bucket's first": c.idleBucket, "kept back by a ramp": c.idleRamp,
		"lifts": c.lifts, "parts": c.parts, "debts that are cut": c.debts, "unseen time": c.unseen,
		"times that are over at a breaker": c.lapsed, "failures of breakers by time": c.overdue, "denials": c.denied, "calls that are left": c.left, "retries": c.retries, "retries after a wait": c.rests, "callers that left between attempts": c.leftRest, "and calls around that ended": c.ended, "replays": c.replays, "answers of fallbacks": c.instead, "changes of breakers": c.trips, "limits that learned": c.learned, "refusals by estimate": c.guessed, "calls shed from a queue that stood": c.stood, "tokens that others took": c.others, "refusals by breakers": c.broken} {
		if n == 0 {
			t.Errorf("no %s: the run tests less than it should", name)
		}
	}
}
