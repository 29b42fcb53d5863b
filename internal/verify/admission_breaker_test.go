package verify

import (
	"slices"
	"time"

	"github.com/sluice-go/sluice"
)

// circuit is the reference model of one breaker: its state, and what it has heard.
type circuit struct {
	conf  sluice.CircuitBreakerConfig
	state sluice.BreakerState
	era   int   // changes of state so far: who started in another is not heard
	until int64 // of open: when probes may start; never if tripped
	floor int64 // not before that, as upstreams asked
	again int   // openings since it was well

	row     int       // failures in a row
	last    int64     // one
	results []verdict // that may count to the ratio

	recovers int64 // closed: until then at most so many run
	most     int
	running  map[*call]bool
	lapsed   int64 // when the time of one was over last: who came at that instant may have found it there
	vague    bool  // nobody knows whether that was its own time, or somebody else's

	passed int             // half-open: probes that ended well
	leases map[*call]int64 // and those that run, and until when they count
}

type verdict struct {
	at     int64
	failed bool
}

// fate is what a call's end means to a breaker.
type fate int

const (
	neutral fate = iota
	well
	failed
)

const longOpen, rowLasts = 120 * int64(time.Second), int64(time.Hour)

func newCircuit(conf sluice.CircuitBreakerConfig) *circuit {
	return &circuit{conf: conf, state: sluice.BreakerClosed, last: -rowLasts, lapsed: -1}
}

func (b *circuit) move(to sluice.BreakerState) {
	b.state = to
	b.era++
	b.passed, b.leases, b.running = 0, map[*call]int64{}, map[*call]bool{}
}

// lets reports whether one more call may start.
func (b *circuit) lets(now int64) bool {
	switch b.state {
	case sluice.BreakerClosed:
		return now >= b.recovers || len(b.running) < b.most
	case sluice.BreakerOpen:
		return now >= b.until
	}
	n := b.passed
	for _, until := range b.leases {
		if now < until {
			n++
		}
	}
	return n < b.conf.Probes
}

func (b *circuit) starts(now int64, x *call) {
	if b.state == sluice.BreakerOpen {
		b.move(sluice.BreakerHalfOpen)
	}
	x.era = b.era
	if b.state == sluice.BreakerHalfOpen {
		b.leases[x] = now + int64(time.Minute)
	} else if now < b.recovers {
		b.running[x] = true
	}
}

func (b *circuit) ends(now int64, x *call, f fate) {
	if x.era != b.era {
		return
	}
	if b.state == sluice.BreakerHalfOpen {
		delete(b.leases, x)
		if f == well {
			b.passed++
		}
		switch {
		case f == failed:
			b.opens(now, true)
		case b.passed == b.conf.Probes:
			b.closes()
			b.recovers, b.most = now+int64(b.conf.Cooldown), b.conf.Probes
		}
		return
	}
	delete(b.running, x)
	if now < b.recovers && f == well {
		b.most++
	}
	switch f {
	case well:
		b.row = 0
		b.results = append(b.results, verdict{now, false})
	case failed:
		if now >= b.last+rowLasts {
			b.row = 0
		}
		b.row, b.last = b.row+1, now
		b.results = append(b.results, verdict{now, true})
		if b.conf.Ratio == 0 && b.row >= b.conf.Failures || b.conf.Ratio > 0 && b.tooMany(now) {
			b.opens(now, now < b.recovers)
		}
	}
}

func (b *circuit) tooMany(now int64) bool {
	n, bad := 0, 0
	for _, r := range b.results {
		if r.at > now-int64(b.conf.Window) {
			if n++; r.failed {
				bad++
			}
		}
	}
	return n >= b.conf.MinCalls && float64(bad) >= b.conf.Ratio*float64(n)
}

// opens opens b, for twice as long if it was not well.
func (b *circuit) opens(now int64, again bool) {
	if b.again++; !again {
		b.again = 0
	}
	b.move(sluice.BreakerOpen)
	d := int64(b.conf.Cooldown)
	for range min(b.again, 40) {
		d = min(2*d, max(longOpen, int64(b.conf.Cooldown)))
	}
	b.until = max(now+d, b.floor)
}

// throttled keeps b open until then, if it is, or opens before.
func (b *circuit) throttled(until int64) {
	if b.floor = max(b.floor, until); b.state == sluice.BreakerOpen {
		b.until = max(b.until, until)
	}
}

func (b *circuit) closes() {
	b.move(sluice.BreakerClosed)
	b.row, b.results, b.recovers = 0, nil, 0
}

func (b *circuit) trip() {
	if b.state != sluice.BreakerOpen {
		b.move(sluice.BreakerOpen)
	}
	b.until = never
}

func (b *circuit) reset() {
	era, running := b.era, b.state == sluice.BreakerClosed
	b.floor = 0
	b.closes()
	if running { // calls that run are heard
		b.era = era
	}
}

// shown is the state that a snapshot shows: a cooldown that is over counts as half-open.
func (b *circuit) shown(now int64) sluice.BreakerState {
	if b.state == sluice.BreakerOpen && now >= b.until {
		return sluice.BreakerHalfOpen
	}
	return b.state
}

// stale reports whether b may have been forgotten: nothing has happened for long.
func (b *circuit) stale(now int64) bool {
	at := b.last
	if b.state == sluice.BreakerOpen {
		at = b.until
	}
	for _, until := range b.leases {
		at = max(at, until)
	}
	return at < never && now >= at+rowLasts
}

// onlySuccesses reports whether all that b remembers is calls that went well, as it does not have to
// where no executor that is open knows its tool.
func (b *circuit) onlySuccesses(now int64) bool {
	return b.state == sluice.BreakerClosed && now >= max(b.floor, b.recovers) && (b.row == 0 || now >= b.last+rowLasts) &&
		!slices.ContainsFunc(b.results, func(r verdict) bool { return r.failed && r.at > now-int64(b.conf.Window) })
}

// What the world does with breakers.

func (w *world) addBreaker() sluice.Interceptor {
	c := sluice.CircuitBreakerConfig{Name: "br", Failures: w.draw("failures", 1, 3), Cooldown: ticks(w.draw("cooldown", 1, 30)), Probes: w.draw("probes", 1, 2)}
	if w.one("ratio", 2) {
		c.Failures, c.Ratio, c.MinCalls, c.Window = 0, 0.5, w.draw("min calls", 1, 4), time.Hour
	}
	w.logf("breaker: %+v", c)
	w.breaker = sluice.Must(sluice.NewCircuitBreaker(c))
	w.circuits, w.circuit = map[*tool]*circuit{}, c
	return w.breaker
}

// circuitOf is that of a tool, nil without a breaker.
func (w *world) circuitOf(t *tool) *circuit {
	if w.breaker == nil {
		return nil
	}
	b := w.circuits[t]
	if b == nil {
		b = newCircuit(w.circuit)
		w.circuits[t] = b
	}
	return b
}

// heard has the breaker of x know how it has ended, once.
func (w *world) heard(x *call, e ending) {
	b := w.circuitOf(x.tool)
	if b == nil || x.heard {
		return
	}
	x.heard = true
	f := failed
	switch {
	case !x.code || e.how == "throttle":
		f = neutral
	case e.how == "return":
		f = well
	case x.ctx.Err() != nil:
		f = neutral
	}
	was := b.state
	if b.ends(w.now(), x, f); b.state != was {
		w.counts.trips++
	}
}

// clocks books until when x, which starts now, may go on, and its caller waits for it.
func (w *world) clocks(now int64, x *call) {
	x.others = w.leaves(x)
	switch {
	case w.joins: // the execution does not know of its caller's deadline
		x.lapses = x.due
	case w.timed():
		x.lapses = x.others
	default:
		return
	}
	if w.timeout > 0 {
		x.lapses = min(x.lapses, now+w.timeout)
	}
	x.expires = min(x.lapses, x.others)
}

// leaves is when the time is over that a Timeout, or the caller, has set for x or what it is nested in.
func (w *world) leaves(x *call) int64 {
	at := x.due
	if d, ok := x.ctx.Deadline(); ok {
		at = min(at, int64(d.Sub(w.born)))
	}
	for a := x.parent; a != nil && w.joins; a = a.parent {
		at = min(at, a.expires)
	}
	return at
}

// lapses has the breakers know of those whose time is over, unless others have started that could not have after that:
// these it answers.
func (w *world) lapses(now int64, started []*call) (late []*call) {
	for _, x := range w.running {
		if x.lapses != now || x.heard {
			continue
		}
		if b := w.circuitOf(x.tool); b != nil && w.fails(x) && slices.ContainsFunc(started, func(y *call) bool { return y.tool == x.tool }) {
			late = append(late, x)
			continue
		}
		w.lapse(now, x)
	}
	return late
}

// fails reports whether it is a failure that the time of x is over: it is its own, and its code has begun.
func (w *world) fails(x *call) bool {
	return x.code && w.timeout > 0 && x.lapses == x.started+w.timeout && x.lapses < x.others && x.ctx.Err() == nil
}

// lapse has the breaker of x know that its time is over, and what its code comes to is not heard. If a Timeout or the
// caller has set that time, it is nobody's failure, and only lets others start at that instant.
func (w *world) lapse(now int64, x *call) {
	b := w.circuitOf(x.tool)
	if x.heard || b == nil {
		return
	}
	x.heard = true
	b.lapsed = now
	f, was := neutral, b.state
	if w.fails(x) {
		f = failed
		w.counts.overdue++
	} else if x.code && w.timeout > 0 && x.lapses == x.started+w.timeout && x.lapses == x.others {
		b.vague = true
	}
	if b.ends(now, x, f); b.state != was {
		w.counts.trips++
	}
	w.counts.lapsed++
}

// settleVague has the breakers of which nobody knows what they have heard be as new: so who has started before is not heard.
func (w *world) settleVague() {
	for _, t := range w.tools {
		b := w.circuits[t]
		if b == nil || !b.vague {
			continue
		}
		w.begin("nobody knows whose time was over")
		w.logf("  %s", t.name)
		b.trip()
		b.reset()
		b.vague = false
		for _, do := range []func(string) error{w.breaker.Trip, w.breaker.Reset} {
			if err := do(t.name); err != nil {
				w.fatal("%v", err)
			}
		}
		w.counts.vague++
		w.observe()
	}
}

func (w *world) trip() {
	if w.breaker == nil {
		w.rt.Skip("no breaker")
	}
	w.begin("trip")
	w.unseen(false)
	t := w.tools[w.draw("tool", 0, len(w.tools)-1)]
	reset := w.draw("reset", 0, 2) > 0
	do := w.breaker.Trip
	if reset {
		do = w.breaker.Reset
	}
	w.logf("  %s: reset %v", t.name, reset)
	if err := do(t.name); err != nil {
		w.fatal("%v", err)
	}
	if b := w.circuitOf(t); reset {
		b.reset()
	} else {
		b.trip()
	}
	w.observe()
}

// checkCircuits holds what a snapshot says of the breakers against the model.
func (w *world) checkCircuits(now int64, s sluice.Snapshot) {
	if w.breaker == nil {
		return
	}
	for _, x := range w.waiting {
		if b := w.circuitOf(x.tool); b.shown(now) == sluice.BreakerOpen && !b.vague {
			w.fatal("%v waits, its breaker is open", x)
		}
	}
	for t, b := range w.circuits {
		i := slices.IndexFunc(s.Gates, func(g sluice.GateState) bool { return g.Kind == "breaker" && g.Key == t.name })
		got := sluice.BreakerClosed
		if i >= 0 {
			got = s.Gates[i].State
		} else if slices.Contains(w.closing, true) && b.onlySuccesses(now) {
			w.circuits[t] = newCircuit(w.circuit) // it may have been forgotten, and may come again
			continue
		}
		if want := b.shown(now); got == want || b.vague {
			continue
		} else if got == sluice.BreakerClosed && b.stale(now) {
			w.circuits[t] = newCircuit(w.circuit)
		} else {
			w.fatal("the breaker of %s is %v, the snapshot says %v: %+v", t.name, want, got, b)
		}
	}
}
