package verify

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// pairIn is what calls ask for: those with the same A ask for the same.
type pairIn struct {
	A   int
	Seq int `json:"-"`
}

func (p *pairs) now() int64 { return int64(time.Since(p.born)) }

func (p *pairs) logf(format string, a ...any) {
	fmt.Fprintf(&p.trace, format, a...)
	p.trace.WriteByte('\n')
}

func (p *pairs) fatal(format string, a ...any) {
	p.rt.Helper()
	p.rt.Fatalf("action %d (%s), instant %d: %s\nWhat happened:\n%s", p.act, p.name, p.now(), fmt.Sprintf(format, a...), p.trace.String())
}

func (p *pairs) draw(label string, lo, hi int) int { return draw(p.rt, label, lo, hi) }
func (p *pairs) one(label string, n int) bool      { return p.draw(label, 1, n) == n }

func pickOne[T any](p *pairs, label string, list []T) (v T) {
	if len(list) == 0 {
		p.rt.Skip("nothing to choose from")
	}
	return list[p.draw(label, 0, len(list)-1)]
}

// Building.

func newPairs(rt *rapid.T, c *pairCounts) *pairs {
	p := &pairs{rt: rt, counts: c, born: time.Now(), rec: new(sluice.Recorder), quit: make(chan struct{}), name: "setup",
		lines: map[string]*line{}, entries: map[string]*entry1{}, resets: map[string]int{}, seen: map[[2]int]sight{}, told: map[[2]int]chan ending{}}
	var list []sluice.Interceptor
	stands := func(name string, x sluice.Interceptor) {
		p.names = append(p.names, name)
		list = append(list, x)
	}
	which := p.draw("layers", 0, 3)
	p.hedges, p.onces = which&1 > 0, which&2 > 0
	times := p.one("timeout", 3)
	if times {
		p.total = int64(p.draw("total ticks", 10, 60))*tick + tick/8
		if p.outside = p.one("outside", 2); p.outside {
			stands("timeout", p.newTimeout())
		}
	}
	if p.onces {
		p.state = sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
		p.ttl, p.doubt = int64(p.draw("ttl ticks", 20, 80))*tick+tick/32, int64(p.draw("doubt ticks", 10, 60))*tick+tick/64
		p.once = sluice.Must(resilience.NewOnce(resilience.OnceConfig{Key: p.keyOf, State: p.state, TTL: time.Duration(p.ttl), DoubtTTL: time.Duration(p.doubt),
			Lease: 24 * time.Hour, Errors: func(err error) bool { return errors.Is(err, errKept) }}))
		stands("once", p.once)
	}
	if times && !p.outside {
		stands("timeout", p.newTimeout())
	}
	if p.hedges {
		p.after = int64(p.draw("after ticks", 1, 10)) * tick
		top, share := p.draw("budget", 1, 4), p.draw("share", 1, 8)
		p.share, p.budget = int64(share)*125_000, budget{top: int64(top) * 1_000_000, least: int64(top) * 1_000_000, most: int64(top) * 1_000_000}
		stands("hedge", sluice.Must(resilience.NewHedge(resilience.HedgeConfig{After: time.Duration(p.after),
			Budget: sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Share: float64(share) / 8, Min: top, Max: top}))})))
	}
	if p.repeats = !p.hedges && p.one("retry", 2); p.repeats {
		p.rest = int64(p.draw("rest ticks", 1, 10))*tick + tick/16
		stands("retry", sluice.Must(resilience.NewRetry(resilience.RetryConfig{Attempts: 2, Base: time.Duration(p.rest), Max: time.Duration(p.rest), Jitter: resilience.NoJitter,
			Budget: sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Min: 1 << 20})),
			If: func(_ sluice.Spec, _ sluice.Attempt, _ sluice.Result, err error) bool {
				return errors.Is(err, errPlain) || errors.Is(err, sluice.ErrTimeout)
			}})))
	}
	p.most = int64(p.draw("max", 1, 4))
	p.lim = sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Name: "lim", Limits: []sluice.Limit{{Max: int(p.most)}}}))
	p.breaker = sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 1000}))
	list = append(list, p.lim, p.breaker)
	if !times && p.one("rate", 3) {
		p.per, p.burst = int64(p.draw("rate ticks", 1, 4))*tick, int64(p.draw("burst", 1, 4))
		p.have = p.per * p.burst
		list = append(list, sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "rate", Rates: []sluice.Rate{{N: 1, Per: time.Duration(p.per), Burst: p.burst}}})))
	}
	if p.inner = p.onces && p.one("inner", 2); p.inner {
		list = append(list, p.once.Inner())
	}
	cfg := sluice.Config{Interceptors: list, Sink: p.rec}
	if p.one("attempts' timeout", 3) {
		p.timeout = int64(p.draw("timeout ticks", 2, 20))*tick + tick/4
		cfg.Timeout = time.Duration(p.timeout)
	}
	if p.one("max wait", 3) {
		p.wait = int64(p.draw("wait ticks", 4, 20))*tick + tick/2
		cfg.MaxWait = time.Duration(p.wait)
	}
	registry := sluice.NewToolRegistry()
	sluice.Must(sluice.Register(registry, sluice.Spec{Name: "x", Hints: sluice.Hints{ReadOnly: true}}, p.run))
	p.exec = sluice.Must(sluice.NewExecutor(registry, cfg))
	p.logf("%+v, %d slots", p.pairConf, p.most)
	rt.Cleanup(p.abort)
	return p
}

func (p *pairs) newTimeout() sluice.Interceptor {
	return sluice.Must(resilience.NewTimeout(resilience.TimeoutConfig{Total: time.Duration(p.total)}))
}

func (p *pairs) keyOf(c sluice.Call) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.calls[c.Input.(pairIn).Seq].key
	return k, k != ""
}

// abort ends what a failure has left, so that the bubble can end.
func (p *pairs) abort() {
	close(p.quit)
	for _, x := range p.calls {
		x.cancel()
	}
	p.exec.Close(context.Background())
	if p.state != nil {
		p.state.Close()
	}
	synctest.Wait()
}

// run is the tool: it tells that it runs, and waits to be told how to end.
func (p *pairs) run(ctx context.Context, in pairIn) (string, error) {
	c, _ := sluice.CallFrom(ctx)
	n := int(c.Attempt)
	p.mu.Lock()
	p.log = append(p.log, sight{seq: in.Seq, n: n, start: true, ctx: ctx, at: p.now(), err: ctx.Err()})
	end := make(chan ending, 1)
	p.told[[2]int{in.Seq, n}] = end
	p.mu.Unlock()
	select {
	case e := <-end:
		switch e.how {
		case "panic":
			panic(e.err)
		case "exit":
			runtime.Goexit()
		case "return":
			return fmt.Sprintf("v%d.%d", in.Seq, n), nil
		}
		return "", e.err
	case <-p.quit:
		return "", errAborted
	}
}

// Actions.

func (p *pairs) begin(name string) {
	p.act++
	p.counts.actions++
	p.name = name
	p.logf("%d at %d: %s", p.act, p.now(), name)
}

func (p *pairs) calling() {
	for range p.draw("calls", 1, 3) {
		p.begin("call")
		x := &errand{seq: len(p.calls), due: never, hedged: never, resume: never, how: "invoke"}
		x.key, x.args = []string{"", "k1", "k1", "k1", "k2"}[p.draw("key", 0, 4)], 0
		if !p.onces {
			x.key = ""
		}
		if p.one("other arguments", 8) {
			x.args = 1
		}
		if p.one("submit", 2) {
			x.how = "submit"
		}
		x.ctx, x.cancel = context.WithCancel(context.Background())
		p.mu.Lock()
		p.calls = append(p.calls, x)
		p.mu.Unlock()
		p.logf("  call %d, key %q, arguments %d, %s", x.seq, x.key, x.args, x.how)
		p.send(x)
		p.observe(func() { p.comes(x) })
	}
}

func (p *pairs) send(x *errand) {
	req := sluice.Request{ID: fmt.Sprint("c", x.seq), Tool: "x", Input: pairIn{x.args, x.seq}}
	done := make(chan struct{})
	go func() {
		s := sight{seq: x.seq, exited: true}
		var r sluice.Result
		defer func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			s.at, s.value = p.now(), r.Value
			p.log = append(p.log, s)
		}()
		if close(done); x.how == "submit" {
			r, s.err = p.exec.Submit(x.ctx, req).Wait(context.Background())
		} else {
			r, s.err = p.exec.Invoke(x.ctx, req)
		}
		s.exited = false
	}()
	<-done
}

// running is all code that goes on.
func (p *pairs) running() (list []*try) {
	for _, x := range p.calls {
		for _, t := range x.tries {
			if t.code && !t.out {
				list = append(list, t)
			}
		}
	}
	return list
}

func (p *pairs) ending() {
	t := pickOne(p, "attempt", p.running())
	e := ending{how: []string{"return", "return", "error", "error", "kept", "panic", "exit"}[p.draw("ending", 0, 6)]}
	p.begin("end")
	p.finish(t, e)
}

func (p *pairs) finish(t *try, e ending) {
	switch e.how {
	case "error":
		e.err = errPlain
	case "panic":
		e.err = errors.New("a panic")
	case "kept":
		e.err = errKept
	}
	p.logf("  %v: %s", t, e.how)
	p.told[[2]int{t.of.seq, t.n}] <- e
	p.observe(func() { p.codeEnds(t, e) })
}

func (p *pairs) leaving() {
	x := pickOne(p, "call", slices.DeleteFunc(slices.Clone(p.calls), func(x *errand) bool { return x.over || x.ctx.Err() != nil }))
	p.begin("leave")
	p.logf("  call %d", x.seq)
	x.cancel()
	x.left = p.act
	p.observe(func() {
		if l := p.lines[x.key]; l != nil && slices.Contains(l.waiting, x) {
			p.counts.leftLine++
			p.leavesLine(x, context.Canceled)
			return
		}
		p.counts.leftLeading++
		for _, t := range x.tries {
			if _, starts := p.seen[[2]int{x.seq, t.n}]; t.waits() && !starts {
				p.turnsAway(t, context.Canceled)
			}
		}
		if !x.over && (x.failed || x.resume < never) {
			p.comesOut(x, x.because)
		}
	})
}

func (p *pairs) leavesLine(x *errand, why error) {
	l := p.lines[x.key]
	l.waiting = slices.DeleteFunc(l.waiting, func(y *errand) bool { return y == x })
	p.ends(x, want{what: "refused", err: why})
}

func (p *pairs) timing() {
	p.begin("time")
	n := int64(p.draw("ticks", 1, 12))
	p.sleep((p.now()/tick + n) * tick)
}

// sleep lets time pass to each instant at which something may happen, up to until.
func (p *pairs) sleep(until int64) {
	for {
		to := min(until, p.next())
		time.Sleep(time.Duration(to - p.now()))
		p.observe(func() {})
		if to == until {
			return
		}
		p.begin("time goes on")
	}
}

// next is the first instant from now on at which something may happen.
func (p *pairs) next() int64 {
	now, at := p.now(), never
	take := func(t int64) {
		if t > now {
			at = min(at, t)
		}
	}
	for _, x := range p.calls {
		if x.over {
			continue
		}
		take(x.hedged)
		take(x.due)
		take(x.resume)
		for _, t := range x.tries {
			if t.waits() {
				take(t.limit)
				take(p.pays(now))
			} else if !t.done {
				take(t.lapses)
			}
		}
	}
	return at
}

func (p *pairs) resizing() {
	p.begin("resize")
	p.most = int64(p.draw("max", 1, 4))
	p.logf("  %d", p.most)
	c := p.lim.Config()
	c.Limits[0].Max = int(p.most)
	if err := sluice.Reconfigure("test", p.lim.Change(c)); err != nil {
		p.fatal("Reconfigure: %v", err)
	}
	p.observe(func() {})
}

func (p *pairs) tripping() {
	do, to := p.breaker.Reset, false
	if !p.tripped {
		if !p.one("trips", 6) {
			p.rt.Skip("it stays as it is")
		}
		do, to = p.breaker.Trip, true
	}
	p.begin("trip")
	p.logf("  %v", to)
	if err := do("x"); err != nil {
		p.fatal("%v", err)
	}
	p.observe(func() {
		if p.tripped = to; to {
			p.refuses(sluice.ErrBreakerOpen)
		}
	})
}

// refuses has all who wait be refused.
func (p *pairs) refuses(why error) {
	for _, x := range p.calls {
		for _, t := range x.tries {
			if t.waits() {
				p.turnsAway(t, why)
			}
		}
	}
}

func (p *pairs) closing() {
	if p.closed != nil || !p.one("closes", 25) {
		p.rt.Skip("stays open")
	}
	p.begin("close")
	p.shut()
}

func (p *pairs) shut() {
	c := make(chan error, 1)
	go func() { c <- p.exec.Close(context.Background()) }()
	p.observe(func() {
		p.closed = c
		p.counts.closed++
		p.refuses(sluice.ErrClosed)
		for _, x := range p.calls {
			if !x.over && x.resume < never { // which ends its wait
				p.comesOut(x, x.because)
			}
		}
	})
}

// deciding is somebody who says what has become of a key.
func (p *pairs) deciding() {
	if !p.onces {
		p.rt.Skip("no keys")
	}
	k := []string{"k1", "k1", "k2"}[p.draw("key", 0, 2)]
	forgets := p.one("forget", 2)
	p.begin("decide")
	p.logf("  %s: forget %v", k, forgets)
	e := p.keep(k)
	can := e != nil && (e.state == "doubt" || forgets && e.state != "running")
	id := resilience.OnceKey{Tool: "x", Key: k}
	var err error
	if forgets {
		err = p.once.Forget(context.Background(), id)
	} else {
		err = p.once.Resolve(context.Background(), id, "decided")
	}
	if can != (err == nil) {
		p.fatal("it may be decided: %v, yet: %v; %+v", can, err, e)
	}
	p.observe(func() {
		switch {
		case !can:
		case forgets:
			p.counts.gone++
			p.frees(k)
		default:
			p.counts.gone++
			*e = entry1{state: "done", args: e.args, since: p.now(), until: p.now() + p.ttl, value: "decided"}
		}
	})
}

// What is observed after each action, and what must hold of it.

// observe lets everything happen that can without time, and then books what the action has done to the model, and
// what follows.
func (p *pairs) observe(book func()) {
	synctest.Wait()
	p.mu.Lock()
	log := p.log
	p.log, p.sights = nil, log
	p.mu.Unlock()
	now := p.now()
	for _, s := range log {
		p.logf("  at %d: call %d.%d started %v, value %v, err %v", s.at, s.seq, s.n, s.start, s.value, s.err)
		if s.at != now {
			p.fatal("call %d: seen at %d", s.seq, s.at)
		}
		if s.start {
			p.seen[[2]int{s.seq, s.n}] = s
		}
	}
	for book(); p.follows(now); {
	}
	for k := range p.seen {
		p.fatal("attempt %d of call %d has started, and was not to", k[1], k[0])
	}
	for _, s := range log {
		if !s.start {
			p.answered(s)
		}
	}
	p.check(now)
}

// follows books what happens by itself at the instant now, and reports whether anything does.
func (p *pairs) follows(now int64) (some bool) {
	for _, x := range p.calls {
		if l := p.lines[x.key]; !x.over && x.due <= now && l != nil && slices.Contains(l.waiting, x) {
			p.counts.leftLine++
			p.leavesLine(x, context.DeadlineExceeded)
			some = true
		}
		if x.hedged <= now {
			some, x.hedged = true, never
			switch is, may := p.isHedged(x), !x.over && x.ctx.Err() == nil && !x.tries[0].done; {
			case is && !may:
				p.fatal("call %d is hedged, and is not to be", x.seq)
			case is:
				p.budget.spent += 1_000_000
				p.counts.hedges++
				p.asks(x)
			case may && x.tries[0].isDue(now): // it ends at the same instant
			case may: // of several at one instant nobody knows who gets what the budget has
				p.counts.unpaid++
				p.unpaid = true
			}
		}
		if x.resume <= now && !x.over {
			p.resumes(x)
			some = true
		}
		for _, t := range x.tries {
			s, starts := p.seen[[2]int{x.seq, t.n}]
			switch {
			case t.waits() && starts:
				p.starts(t, s)
			case t.waits() && t.limit <= now:
				p.turnsAway(t, sluice.ErrWaitTooLong)
			case t.code && !t.done && t.lapses <= now:
				p.counts.timeouts++
				t.lapsed = true
				p.logf("  the time of %v is over", t)
				p.triesEnd(t, want{what: "timeout", ran: true})
			default:
				continue
			}
			some = true
		}
	}
	return some
}

// isHedged reports whether a second attempt of x has been told of.
func (p *pairs) isHedged(x *errand) bool {
	return slices.ContainsFunc(p.rec.Events(), func(e sluice.Event) bool { return e.Kind == "hedge.started" && e.Call.ID == fmt.Sprint("c", x.seq) })
}

// answered checks what a caller was told.
func (p *pairs) answered(s sight) {
	x := p.calls[s.seq]
	w := x.want
	if !x.over || x.told {
		p.fatal("call %d is answered with %v, %v: it is over %v, answered before %v", x.seq, s.value, s.err, x.over, x.told)
	}
	x.told = true
	ok := p.right(s, w)
	if x.due == s.at && !x.leads { // whom the time of the same instant would have let go, too
		ok = ok || p.right(s, want{what: "refused", err: context.DeadlineExceeded}) || p.right(s, want{what: "doubt", since: s.at, ran: true})
	}
	if !ok {
		p.fatal("call %d is answered with %v, %v (exited %v), and was to be with %+v", x.seq, s.value, s.err, s.exited, w)
	}
}

// right reports whether s is what w says.
func (p *pairs) right(s sight, w want) bool {
	var panicked *sluice.PanicError
	var doubt *resilience.OnceInDoubtError
	var kept *resilience.OnceFailedError
	var mismatch *resilience.OnceMismatchError
	ok := errors.Is(s.err, sluice.ErrRejected) != w.ran || s.err == nil && w.ran || s.exited
	switch w.what {
	case "value":
		ok = ok && s.err == nil && s.value == w.value
	case "own":
		ok = ok && errors.Is(s.err, w.err)
	case "panic", "exit":
		ok = ok && errors.As(s.err, &panicked) && panicked.Goexit == (w.what == "exit") && !s.exited
	case "exited":
		ok = s.exited
	case "refused":
		ok = ok && (w.ran || errors.Is(s.err, w.err))
	case "timeout":
		ok = ok && errors.Is(s.err, sluice.ErrTimeout) && errors.Is(s.err, context.DeadlineExceeded)
	case "doubt":
		ok = ok && errors.As(s.err, &doubt) && doubt.Since.Equal(p.born.Add(time.Duration(w.since)))
	case "kept":
		ok = ok && errors.As(s.err, &kept)
	case "mismatch":
		ok = ok && errors.As(s.err, &mismatch)
	}
	return ok && s.exited == (w.what == "exited")
}

// check recounts everything.
func (p *pairs) check(now int64) {
	queued, slots := 0, p.used()
	for _, x := range p.calls {
		if x.over && !x.told {
			p.fatal("call %d is not answered; it is to be with %+v", x.seq, x.want)
		}
		for _, t := range x.tries {
			if t.waits() {
				queued++
				if slots < p.most && p.pays(now) == now && !p.tripped && p.closed == nil {
					p.fatal("%v could start, and does not", t)
				}
			}
			if t.lost && t.code && t.inner.Err() == nil {
				p.fatal("%v has lost, and its context goes on", t)
			}
		}
	}
	was := p.budget
	if p.budget.settle(); p.budget.most < 0 || p.unpaid && p.budget.least >= 1_000_000 && was.adds == 0 {
		p.fatal("calls are hedged, some are not %v: the budget had %+v, and has %+v", p.unpaid, was, p.budget)
	}
	p.unpaid = false
	s := p.exec.Snapshot()
	if int64(s.InFlight) != slots || s.Queued != queued {
		p.fatal("%d run and %d wait, the snapshot says %d and %d", slots, queued, s.InFlight, s.Queued)
	}
	for _, g := range s.Gates {
		want := g.Used
		switch g.Name {
		case "concurrency/lim global":
			want = slots
		case "hedge budget":
			want = g.Limit - min(max(g.Limit-g.Used, p.budget.least/1_000_000), p.budget.most/1_000_000)
		case "once":
			want = int64(len(p.lines))
		default:
			if g.Kind == "rate" {
				want = p.burst - floorDiv(p.holds(now), p.per)
			}
		}
		if g.Used != want {
			p.fatal("%s: %d, the snapshot says %d", g.Name, want, g.Used)
		}
	}
	if p.closed == nil {
		return
	}
	select {
	case err := <-p.closed:
		if p.closed <- err; err != nil || slots > 0 || slices.ContainsFunc(p.calls, func(x *errand) bool { return !x.told }) {
			p.fatal("Close answered %v, %d run", err, slots)
		}
	default:
		if slots == 0 && !slices.ContainsFunc(p.calls, func(x *errand) bool { return !x.told }) {
			p.fatal("Close has not returned, nothing runs")
		}
	}
}

// wind lets everything end, and closes.
func (p *pairs) wind() {
	for n := 0; ; n++ {
		if n > 10_000 {
			p.fatal("stuck")
		}
		if list := p.running(); len(list) > 0 {
			p.begin("wind down")
			p.finish(list[p.draw("ends", 0, len(list)-1)], ending{how: []string{"return", "error"}[p.draw("how", 0, 1)]})
			continue
		}
		if !slices.ContainsFunc(p.calls, func(x *errand) bool { return !x.over }) {
			break
		}
		at := p.next()
		if at == never {
			p.fatal("nothing is due and nobody runs, yet calls wait: a lost wake-up")
		}
		p.begin("wait")
		p.sleep(at)
	}
	if p.closed == nil {
		p.begin("close at last")
		p.shut()
	}
	s := p.exec.Snapshot()
	if s.InFlight+s.Queued != 0 || s.Abandoned != 0 {
		p.fatal("something is left: %+v", s)
	}
	if err := p.rec.Check(); err != nil {
		p.fatal("the recorder: %v", err)
	}
	starts := map[string]int{}
	for _, e := range p.rec.Events() {
		if e.Kind == sluice.ToolStarted {
			starts[e.Call.ID]++
		}
	}
	for _, x := range p.calls {
		n, raced := 0, 0 // of which nobody may hear, since nothing is told of a call that is over
		for _, t := range x.tries {
			if t.raced {
				raced++
			} else if t.code {
				n++
			}
		}
		if got := starts[fmt.Sprint("c", x.seq)]; got < n || got > n+raced {
			p.fatal("call %d has started %d attempts, %d of them as it ended, and its events say %d", x.seq, n+raced, raced, got)
		}
	}
}

// TestHedgeAndOnce drives random sequences of calls through a Hedge, a Once, or both, and holds each step against the model.
func TestHedgeAndOnce(t *testing.T) {
	checks := 3000
	if raceDetector {
		checks = 400
	}
	given := setChecks(t, checks)
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	var c pairCounts
	rapid.Check(t, func(rt *rapid.T) {
		rapid.SyncTest(rt, func(rt *rapid.T) {
			p := newPairs(rt, &c)
			rt.Repeat(map[string]func(*rapid.T){
				"call": func(*rapid.T) { p.calling() }, "call 2": func(*rapid.T) { p.calling() },
				"end": func(*rapid.T) { p.ending() }, "end 2": func(*rapid.T) { p.ending() }, "end 3": func(*rapid.T) { p.ending() }, "end 4": func(*rapid.T) { p.ending() },
				"time": func(*rapid.T) { p.timing() }, "time 2": func(*rapid.T) { p.timing() }, "time 3": func(*rapid.T) { p.timing() },
				"leave":  func(*rapid.T) { p.leaving() },
				"resize": func(*rapid.T) { p.resizing() },
				"trip":   func(*rapid.T) { p.tripping() },
				"decide": func(*rapid.T) { p.deciding() },
				"close":  func(*rapid.T) { p.closing() },
			})
			p.wind()
		})
	})
	t.Logf("%+v", c)
	if checks < 3000 || given || testing.Short() {
		return // too few to have met everything
	}
	for name, n := range map[string]int{"second attempts": c.hedges, "that win": c.won, "calls whose attempts both fail": c.both, "second attempts that the budget does not have": c.unpaid,
		"refusals": c.refused, "losers": c.lost, "code that goes on when nobody waits": c.late, "doubts": c.doubts, "calls in doubt": c.doubted, "late results that are kept": c.rescued + c.decided,
		"replays": c.replays, "other arguments": c.mismatches, "shared outcomes": c.shared, "calls that execute next": c.next, "errors that are kept": c.kept, "and answer": c.replayedErrors,
		"calls made again": c.again, "calls that leave a line": c.leftLine, "calls that leave while they execute": c.leftLeading, "attempts whose time is over": c.timeouts, "keys that are free again": c.free,
		"open breakers": c.broken, "decisions": c.gone, "lifetimes that are over": c.forgotten} {
		if n == 0 {
			t.Errorf("no %s: the run tests less than it should", name)
		}
	}
}
