package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
)

// The reference model of a Hedge, which has two attempts made of one call, and of a Once, which has one of several
// calls make it, around one limit, one rate and one breaker. Who of those that wait is admitted first is admission's
// to say (TestAdmission): the model sees who has started, and knows of everything else when it must come.

// pairs is the system and the model of one sequence.
type pairs struct {
	rt     *rapid.T
	counts *pairCounts
	born   time.Time

	pairConf
	exec    *sluice.Executor
	rec     *sluice.Recorder
	lim     *sluice.ConcurrencyLimiter
	breaker *sluice.CircuitBreaker
	state   *sluice.SharedState
	once    *resilience.Once

	most     int64 // slots
	have, at int64 // of the bucket: what it holds at an instant, in nanoseconds
	budget   budget
	unpaid   bool // it was used up in this action
	tripped  bool
	closed   chan error // nil while it is open

	calls   []*errand
	lines   map[string]*line
	entries map[string]*entry1
	resets  map[string]int // when a key was free last though there may have been an effect
	order   int

	mu  sync.Mutex
	log []sight

	sights []sight          // of this action
	seen   map[[2]int]sight // starts that are to be booked
	told   map[[2]int]chan ending
	quit   chan struct{}
	act    int
	name   string
	trace  strings.Builder
}

// pairConf is what stands around the tool. No time of one kind is ever over at the instant of one of another kind,
// since each has a fraction of a tick of its own.
type pairConf struct {
	names      []string // the layers, outermost first
	hedges     bool
	after      int64
	share      int64 // of the budget
	repeats    bool  // a Retry, where no Hedge stands: one attempt more, after a wait
	rest       int64
	onces      bool
	inner      bool // its other part stands after the gates
	ttl, doubt int64
	total      int64 // of a Timeout; zero is none
	outside    bool  // which stands around the Once
	timeout    int64 // of each attempt; zero is none
	wait       int64 // MaxWait; zero is none
	per, burst int64 // of the rate; zero is none
}

type pairCounts struct {
	actions, starts, hedges, won, both, unpaid, refused, lost, late        int
	doubts, doubted, rescued, replays, mismatches, shared, next, kept      int
	replayedErrors, leftLine, leftLeading, timeouts, free, decided, broken int
	gone, closed, forgotten, asked, raced, again                           int
}

// errand is one call.
type errand struct {
	seq, args int
	key       string
	how       string
	ctx       context.Context
	cancel    context.CancelFunc

	due     int64 // when the time of the Timeout is over
	leads   bool  // it is past the Once
	begun   int64 // it has met the Hedge
	hedged  int64 // when its second attempt is due; never if it is not any more
	resume  int64 // when it is made again; never if it is not to be
	tries   []*try
	failed  bool  // its first attempt has
	because want  // with that
	also    *want // with what the second had failed before
	out     bool  // it has come out of the Hedge
	over    bool  // for its caller: what it has come to is known
	want    want
	told    bool // it has been answered so
	left    int  // the action in which its caller has

	order int      // among executions and what makes keys free
	gone  bool     // its caller went on while its code did
	value []string // what its code has given, though nobody may have waited for it
}

// ran reports whether some attempt of x has.
func (x *errand) ran() bool { return slices.ContainsFunc(x.tries, func(t *try) bool { return t.code }) }

// inside reports whether code of x goes on.
func (x *errand) inside() bool {
	return slices.ContainsFunc(x.tries, func(t *try) bool { return t.code && !t.out })
}

// try is one attempt.
type try struct {
	of     *errand
	n      int
	limit  int64 // until when it may wait
	code   bool  // it has begun
	out    bool  // and ended
	done   bool  // for its call: it has ended, or its time is over, or it was refused, or has lost
	lost   bool
	raced  bool // it has begun as its call was answered
	lapsed bool // its time was over before its code
	lapses int64
	inner  context.Context
}

func (t *try) String() string { return fmt.Sprintf("attempt %d of call %d", t.n, t.of.seq) }

// waits reports whether t is in the queue.
func (t *try) waits() bool { return !t.code && !t.done }

// isDue reports whether t ends at the instant now because its time is over, in the queue or out of it.
func (t *try) isDue(now int64) bool {
	return t.waits() && t.limit <= now || t.code && !t.done && t.lapses <= now
}

// id is what the code of t gives.
func (t *try) id() string { return fmt.Sprintf("v%d.%d", t.of.seq, t.n) }

// want is what a caller is to be told.
type want struct {
	what  string // value, own, panic, exit, exited, refused, timeout, doubt, kept, mismatch or lost
	value string
	err   error // that it wraps
	since int64
	ran   bool // code of the tool, for it or for whom it shares the outcome of
}

// line is the calls of one key that are under way: one leads.
type line struct {
	args    int
	leader  *errand
	waiting []*errand
}

// entry1 is what is kept of one key.
type entry1 struct {
	state string // running, doubt, done or failed
	args  int
	by    *errand // which execution it is, while that may still change it
	since int64
	until int64
	value string
	code  string // of the error
}

// sight is what was seen: a start, or an answer.
type sight struct {
	seq, n int
	start  bool
	ctx    context.Context
	at     int64
	value  any
	err    error
	exited bool
}

var errKept, errPlain = errors.New("an error that is kept"), errors.New("the tool's own")

// keep is what is known of a key now.
func (p *pairs) keep(key string) *entry1 {
	e := p.entries[key]
	if e != nil && e.until <= p.now() {
		p.frees(key)
		p.counts.forgotten++
		return nil
	}
	return e
}

// frees makes a key free of which there may have been an effect.
func (p *pairs) frees(key string) {
	delete(p.entries, key)
	p.order++
	p.resets[key] = p.order
}

// comes has x come to the Once, or to what stands further in.
func (p *pairs) comes(x *errand) {
	x.due = never
	if p.total > 0 && p.outside {
		x.due = p.now() + p.total
	}
	if p.closed != nil {
		p.ends(x, want{what: "refused", err: sluice.ErrClosed})
		return
	}
	if x.key == "" || !p.onces {
		p.goesIn(x)
		return
	}
	l := p.lines[x.key]
	switch {
	case l == nil:
		p.lines[x.key] = &line{args: x.args, leader: x}
		p.leads(x)
	case l.args != x.args:
		p.counts.mismatches++
		p.ends(x, want{what: "mismatch"})
	default:
		l.waiting = append(l.waiting, x)
	}
}

// leads has x find out what there is for its key, or execute.
func (p *pairs) leads(x *errand) {
	e := p.keep(x.key)
	switch {
	case e == nil:
		x.leads = true
		p.order++
		x.order = p.order
		p.entries[x.key] = &entry1{state: "running", args: x.args, by: x, until: never}
		p.goesIn(x)
		return
	case e.args != x.args:
		p.counts.mismatches++
		p.ends(x, want{what: "mismatch"})
	case e.state == "doubt":
		p.counts.doubted++
		p.ends(x, want{what: "doubt", since: e.since, ran: true})
	case e.state == "done":
		p.counts.replays++
		p.ends(x, want{what: "value", value: e.value, ran: true})
	case e.state == "failed":
		p.counts.replayedErrors++
		p.ends(x, want{what: "kept", ran: true})
	default:
		p.fatal("a call leads while another does")
	}
	p.releases(x, nil)
}

// releases tells those who wait in the line of x what that has come to; nil has the next of them lead.
func (p *pairs) releases(x *errand, shared *want) {
	l := p.lines[x.key]
	for len(l.waiting) > 0 {
		y := l.waiting[0]
		l.waiting = l.waiting[1:]
		if shared == nil {
			p.counts.next++
			l.leader = y
			p.leads(y)
			return
		}
		p.counts.shared++
		p.ends(y, *shared)
	}
	delete(p.lines, x.key)
}

// goesIn has x come to the Timeout, if that stands further in, and to the Hedge.
func (p *pairs) goesIn(x *errand) {
	now := p.now()
	if p.total > 0 && !p.outside {
		x.due = now + p.total
	}
	x.begun, x.hedged, x.resume = now, never, never
	if p.hedges {
		p.budget.adds += p.share
		x.hedged = now + p.after
	}
	p.asks(x)
}

// asks has the next attempt of x ask for admission.
func (p *pairs) asks(x *errand) {
	now := p.now()
	t := &try{of: x, n: len(x.tries) + 1, limit: never, lapses: never}
	if p.wait > 0 {
		t.limit = now + p.wait
	}
	t.limit = min(t.limit, x.due-1)
	x.tries = append(x.tries, t)
	switch {
	case x.ctx.Err() != nil:
		p.turnsAway(t, context.Canceled)
	case p.closed != nil:
		p.turnsAway(t, sluice.ErrClosed)
	case p.tripped:
		p.counts.broken++
		p.turnsAway(t, sluice.ErrBreakerOpen)
	}
}

// pays is when there is a token.
func (p *pairs) pays(now int64) int64 {
	if p.per == 0 {
		return now
	}
	return now + max(0, p.per-p.holds(now))
}

func (p *pairs) holds(now int64) int64 { return min(p.burst*p.per, p.have+now-p.at) }

// used is how many slots are taken: by code, whoever still waits for it.
func (p *pairs) used() (n int64) {
	for _, x := range p.calls {
		for _, t := range x.tries {
			if t.code && !t.out {
				n++
			}
		}
	}
	return n
}

// turnsAway has admission refuse t.
func (p *pairs) turnsAway(t *try, why error) {
	p.counts.refused++
	p.logf("  %v is refused: %v", t, why)
	if t.n == 2 {
		p.gives()
	}
	p.triesEnd(t, want{what: "refused", err: why})
}

// gives has the budget get back what was not admitted.
func (p *pairs) gives() {
	p.budget.adds += 1_000_000
}

// budget is that of a Hedge, in millionths of an attempt: what it holds at least and at most. Of what happens to it at
// one instant nobody knows the order, which matters if it is full.
type budget struct{ top, least, most, adds, spent int64 }

// settle books what has happened to b.
func (b *budget) settle() {
	b.least, b.most = min(b.top, b.least+b.adds)-b.spent, min(b.top, b.most-b.spent+b.adds)
	b.least, b.adds, b.spent = max(b.least, 0), 0, 0
}

// starts has the code of t begin.
func (p *pairs) starts(t *try, s sight) {
	now := p.now()
	delete(p.seen, [2]int{t.of.seq, t.n})
	switch {
	case !t.waits():
		p.fatal("%v starts: it is not to: done %v, lost %v, code %v", t, t.done, t.lost, t.code)
	case now > t.limit:
		p.fatal("%v starts after its limit %d", t, t.limit)
	case p.used() >= p.most:
		p.fatal("%v starts: %d slots are taken of %d", t, p.used(), p.most)
	case p.pays(now) > now:
		p.fatal("%v starts: the bucket has %d of %d ns", t, p.holds(now), p.per)
	case p.tripped:
		p.fatal("%v starts: the breaker is open", t)
	case s.err != nil && t.of.left != p.act && !t.of.out:
		p.fatal("%v starts: its context has ended: %v", t, s.err)
	}
	p.counts.starts++
	if x := t.of; x.key != "" && p.onces {
		if e := p.keep(x.key); e == nil || e.by != x {
			p.fatal("%v starts: its call does not execute for its key: %+v", t, e)
		}
		for _, y := range p.calls {
			if y != x && y.key == x.key && y.order > p.resets[x.key] && (y.inside() || len(y.value) > 0) {
				p.fatal("%v starts: code of call %d goes on for the same key, or has had its effect", t, y.seq)
			}
		}
	}
	if p.per > 0 {
		p.have, p.at = p.holds(now)-p.per, now
	}
	t.code, t.inner = true, s.ctx
	if p.timeout > 0 {
		t.lapses = now + p.timeout
	}
	t.lapses = min(t.lapses, t.of.due)
}

// triesEnd has t end for its call, with w.
func (p *pairs) triesEnd(t *try, w want) {
	x := t.of
	if t.done {
		return
	}
	t.done = true
	switch {
	case x.over:
	case w.what == "value":
		if t.n == 2 {
			p.counts.won++
		}
		p.comesOut(x, w)
	case p.repeats:
		p.fails1(t, w)
	case !p.hedges:
		p.comesOut(x, w)
	case t.n == 1:
		if x.failed, x.because = true, w; !t.code && x.also != nil { // what the tool says tells more
			x.because = *x.also
		}
		if p.second(x) == nil || x.ctx.Err() != nil {
			p.comesOut(x, x.because)
		}
	case x.failed:
		p.counts.both++
		if w.ran = t.code; !x.tries[0].code && (t.code || x.ctx.Err() != nil) { // of both that are refused, the caller knows why
			x.because = w
		}
		p.comesOut(x, x.because)
	case t.code:
		x.also = &w
	}
}

// fails1 has an attempt that stands in a Retry fail.
func (p *pairs) fails1(t *try, w want) {
	x := t.of
	if w.ran = t.code; t.n == 2 {
		if t.code {
			x.because = w
		}
		p.comesOut(x, x.because)
		return
	}
	x.because = w
	if again := w.what == "timeout" || w.what == "own" && w.err != errKept; !again || x.ctx.Err() != nil || p.closed != nil || p.now()+p.rest >= x.due {
		p.comesOut(x, w)
		return
	}
	x.resume = p.now() + p.rest
}

// resumes has x made again, unless code of it goes on.
func (p *pairs) resumes(x *errand) {
	if x.resume = never; x.tries[0].code && !x.tries[0].out {
		p.comesOut(x, x.because)
		return
	}
	p.counts.again++
	p.asks(x)
}

// second is the second attempt of x, while that goes on.
func (p *pairs) second(x *errand) *try {
	if len(x.tries) == 2 && !x.tries[1].done {
		return x.tries[1]
	}
	return nil
}

// comesOut has x come out of the Hedge, with w: what else there is of it has lost.
func (p *pairs) comesOut(x *errand, w want) {
	x.hedged, x.resume, x.out = never, never, true
	for _, t := range x.tries {
		if t.done {
			continue
		}
		if s, ok := p.seen[[2]int{x.seq, t.n}]; ok && !t.code { // it was let through before it was cancelled
			p.starts(t, s)
			t.raced = true
			p.counts.raced++
		}
		t.done, t.lost = true, true
		p.counts.lost++
		if !t.code && t.n == 2 {
			p.gives()
		}
	}
	if w.ran = x.ran(); !x.leads {
		p.ends(x, w)
		return
	}
	p.concludes(x, w)
}

// concludes says what becomes of the key that x has executed for, and what it and those who wait for it are told.
func (p *pairs) concludes(x *errand, w want) {
	now := p.now()
	e := p.keep(x.key)
	ran := x.ran()
	defer func() { p.ends(x, w) }()
	hangs := x.inside()
	if !p.inner { // nobody knows what has become of code whose time was over, nor what a Hedge has made an error of
		hangs = hangs || slices.ContainsFunc(x.tries, func(t *try) bool { return t.lapsed }) || w.what == "exit" && p.hedges && !p.apart()
	}
	if t := x.tries[len(x.tries)-1]; !p.inner && t.n == 2 && !t.code && x.left == p.act && !hangs { // nobody knows whether it is cancelled before that is looked at
		p.counts.asked++
		if len(p.lines[x.key].waiting) == 0 {
			p.forgets(x.key)
			p.releases(x, nil)
			return
		}
		hangs = p.isInDoubt(p.lines[x.key].waiting[0])
	}
	switch {
	case w.what == "value":
		p.settles(x, w.value)
		w := want{what: "value", value: w.value, ran: true}
		p.releases(x, &w)
	case hangs:
		p.counts.doubts++
		x.gone = true
		e.state, e.since, e.until = "doubt", now, now+p.doubt
		p.releases(x, &want{what: "doubt", since: now, ran: true})
	case p.inner && len(x.value) > 0:
		p.counts.rescued++
		p.settles(x, x.value[len(x.value)-1])
		p.releases(x, &want{what: "value", value: x.value[len(x.value)-1], ran: true})
	case w.err == errKept:
		p.counts.kept++
		p.fails(x)
		p.releases(x, &w)
	default:
		p.counts.free++
		delete(p.entries, x.key)
		if ran && x.ctx.Err() == nil && w.what != "panic" && w.what != "exit" && w.what != "exited" {
			w := w
			p.releases(x, &w)
		} else {
			p.releases(x, nil)
		}
	}
}

// isInDoubt reports whether x, who waits for a key, is told now that it is in doubt.
func (p *pairs) isInDoubt(x *errand) bool {
	var doubt *resilience.OnceInDoubtError
	return slices.ContainsFunc(p.sights, func(s sight) bool { return s.seq == x.seq && !s.start && errors.As(s.err, &doubt) })
}

// forgets makes a key free of which nobody knows what has become.
func (p *pairs) forgets(key string) {
	err := p.once.Forget(context.Background(), resilience.OnceKey{Tool: "x", Key: key})
	p.logf("  nobody knows what has become of %s; there was something: %v", key, err == nil)
	p.frees(key)
}

// mine is the entry of x's key, if it is still x that may change it; anew says that it may be made.
func (p *pairs) mine(x *errand) *entry1 {
	e := p.keep(x.key)
	if e == nil {
		e = &entry1{args: x.args, by: x}
		p.entries[x.key] = e
	}
	if e.by != x {
		return nil
	}
	return e
}

// settles keeps what x has come to.
func (p *pairs) settles(x *errand, value string) {
	if e := p.mine(x); e != nil {
		*e = entry1{state: "done", args: x.args, since: p.now(), until: p.now() + p.ttl, value: value}
	}
}

// fails keeps that x has failed.
func (p *pairs) fails(x *errand) {
	if e := p.mine(x); e != nil {
		*e = entry1{state: "failed", args: x.args, since: p.now(), until: p.now() + p.ttl}
	}
}

// ends says what x's caller is to be told.
func (p *pairs) ends(x *errand, w want) {
	if x.over {
		p.fatal("call %d ends twice: %+v, %+v", x.seq, x.want, w)
	}
	x.over, x.want = true, w
}

// codeEnds has the code of t end, as told, whoever still waits for it.
func (p *pairs) codeEnds(t *try, e ending) {
	x := t.of
	t.out = true
	if t.done {
		p.counts.late++
	}
	if e.how == "return" {
		x.value = append(x.value, t.id())
	}
	if x.gone && p.inner && !x.inside() { // its caller has gone: the key is in doubt no longer
		p.counts.decided++
		switch {
		case len(x.value) > 0:
			p.settles(x, x.value[len(x.value)-1])
		case e.how == "kept":
			p.fails(x)
		default:
			if k := p.keep(x.key); k != nil && k.by == x {
				delete(p.entries, x.key)
			}
		}
	}
	w := want{what: e.how, err: e.err, ran: true}
	switch {
	case e.how == "return":
		w.what, w.value = "value", t.id()
	case e.how == "kept", e.how == "error":
		w.what = "own"
	case e.how == "exit" && !p.hedges && !p.apart() && x.how == "invoke":
		w.what = "exited"
	}
	p.triesEnd(t, w)
}

// apart reports whether code has a goroutine of its own, for which nobody need wait.
func (p *pairs) apart() bool { return p.timeout > 0 || p.total > 0 }
