package sluice

import (
	"cmp"
	"context"
	"encoding/json"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/deadline"
	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/ids"
	"github.com/sluice-go/sluice/internal/kept"
	"github.com/sluice-go/sluice/internal/payload"
	"github.com/sluice-go/sluice/internal/permit"
	"github.com/sluice-go/sluice/internal/record"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
	"github.com/sluice-go/sluice/internal/strictjson"
	"github.com/sluice-go/sluice/internal/turn"
	"github.com/sluice-go/sluice/internal/typed"
)

// Handler runs one call.
type Handler func(ctx context.Context, c Call) (Result, error)

// Interceptor goes around calls, to see, change, repeat, refuse or answer them. Wrap runs when a tool's first call
// compiles its chain, once per tool and executor unless first calls meet, and may return next itself. Its Handler must be safe
// for concurrent use. Outside the gates it may call next several times, each an attempt that is
// admitted and charged, or not at all: its own error is then a denial. It may answer before its
// next has: that ends the call, code that still runs keeps its slots, and a later next is refused.
//
// A Wrap that takes long holds up first calls of its tool, until their contexts end, and Close.
type Interceptor interface {
	Wrap(tool Spec, next Handler) Handler
}

// InterceptorFunc makes a function an [Interceptor].
type InterceptorFunc func(tool Spec, next Handler) Handler

// Wrap calls f.
func (f InterceptorFunc) Wrap(tool Spec, next Handler) Handler { return f(tool, next) }

// Call is one attempt of one invocation. It is passed by value: copy it to change it.
type Call struct {
	ID       string  // Request.ID, or made up
	Key      CallKey // unique, as in events
	Tool     string
	Type     string           // the tool's Spec.Type
	Input    any              // the tool's In, decoded; json.RawMessage for a raw tool
	Priority Priority         // effective: 1 to 9, at least that of the call it is nested in
	Attempt  int32            // from 1; zero before the first
	Pipeline *PipelineContext // on whose behalf; never nil, read-only
	_        [0]func()        // not comparable: as a key of a map, one with code would panic
	inv      *invocation
	within   *deadline.Bound  // what interceptors have bounded it by; may be nil
	run      *running         // once it is admitted
	code     typed.Code       // of a declared tool
	args     *json.RawMessage // as they came, for a Check
}

// JSON encodes Input. In a Spec.Check it is a copy of the arguments as they came, if they came as JSON.
func (c Call) JSON() (json.RawMessage, error) {
	if c.args != nil {
		return strictjson.Raw(*c.args), nil
	}
	return strictjson.EncodeOwn(c.Input, defaultArgBytes)
}

// Result is what a call gave: a small value, to copy and share.
type Result struct {
	Value any // the tool's Out; nil after an error

	rec  *record.Record
	from permit.Source // no more than a word, with which it goes from hand to hand in registers
}

// JSON encodes Value, at most [Config].MaxResultBytes.
func (r Result) JSON() (json.RawMessage, error) {
	return strictjson.EncodeOwn(r.Value, cmp.Or(r.from.MaxBytes(), defaultResultBytes))
}

// invocation is one call: its identity, its place among nested calls, its events. A call that waits
// without a goroutine has little more, so it is small.
type invocation struct {
	plan     *plan // of no tool if that is unknown
	id       string
	pipeline *PipelineContext
	parent   atomic.Pointer[running] // the call it is nested in, or nil; see unnest
	first    *first                  // nil until there is something to say

	key      CallKey
	began    int64           // the instant of tool.invoked
	attempts permit.Attempts // how many, if they may be several; whether its end is reported, and it is kept
	emitting turn.Line       // of events
	seq      uint32          // of the last event; owned by who emits
	priority Priority
	tried    bool // it has begun its first attempt, of those that come one after the other
	wentOn   bool // after that; attempts are those that have come since
	loud     bool // some sink listens
	plain    bool // and that is the executor's alone, which does not look at values
	over     bool // the terminal event is out; owned by who emits
	shared   bool // others may find it whatever its code does; never changes once it is known
	same     bool // plan and pipeline are those of the call before, in one frame
}

// isKept reports whether somebody may find inv when it is over: it is never used again for another call
// then.
func (inv *invocation) isKept() bool { return inv.shared || inv.attempts.IsKept() }

// noContext stands for a context that is nil: the call is reported and refused.
var noContext context.Context = &nilContext{context.Background()}

type nilContext struct{ context.Context }

// prepare makes c the call of a request, and reports it. The instant it answers is the
// present one, or zero if foreign code has run since the clock was read.
func (e *Executor) prepare(ctx context.Context, r *Request, inv *invocation, open bool, c *Call) (int64, error) {
	depth, calls := inv.identify(ctx, e, r), 0
	now := e.clock.Now()
	inv.began = now
	if inv.key == 0 {
		inv.key = CallKey(ids.NextKey())
	}
	if inv.id == "" {
		if counted := inv.pipeline.ids; counted != nil {
			inv.id = counted.Call()
		} else {
			inv.id = e.ids.Next()
		}
	}
	if depth > 0 {
		root := inv.root()
		if calls = int(root.first.calls.Add(1)); calls > e.conf.MaxCallsPerRoot {
			root.first.calls.Add(-1) // it is refused, however often that happens
		}
	}
	if !inv.plan.single || inv.first == nil { // who ends it may be another goroutine
		inv.shared = true
	}
	if inv.loud = e.conf.Sink != nil || inv.pipeline.Sink != nil; inv.loud {
		inv.plain = inv.pipeline.Sink == nil && !e.wantsValues
		if f := inv.first; f != nil && inv.parent.Load() == nil { // whose context must not be kept here
			f.give(ctx)
		}
		t := inv.event(ToolInvoked, now, true)
		if t.InputBytes = len(r.Args); !inv.plain {
			if t.value = r.Input; r.Input == nil && len(r.Args) > 0 {
				t.value = r.Args
			}
		}
		inv.say(inv.toSinks(ctx), t) // nobody else can have anything to say yet
		now = 0
	}
	inv.fill(c, inv.same)
	if !inv.same || r.code != nil {
		c.inv, c.code = inv, r.code
	}
	if len(r.Args) > 0 || inv.plan.tool.spec.Check != nil {
		now = 0 // foreign code runs
	}
	err := inv.resolve(ctx, c, r, open, depth, calls)
	if err == nil && (r.code == nil) != (inv.plan.tool.run != nil) {
		err = inv.refused(ErrInvalidArguments, "", inv.plan.tool.wrongCode())
	}
	return now, err
}

// resolve gives c the value that the tool gets, if it takes that, or says why c must not be admitted
// whatever the gates say: depth calls run around it, the outermost of which has made so many calls.
func (inv *invocation) resolve(ctx context.Context, c *Call, r *Request, open bool, depth, calls int) error {
	if p := inv.plan; !open || p.refuse != nil || depth > 0 || inv.pipeline.Priority != 0 || ctx == noContext {
		if err := inv.barred(ctx, open, depth, calls); err != nil {
			return err
		}
	}
	t := inv.plan.tool
	in, err := t.input(r, inv.plan.exec.conf.MaxArgBytes)
	if err == nil {
		if c.Input = in; t.spec.Check != nil {
			err = t.checked(ctx, c.shown(), r)
		}
	}
	if err != nil {
		return inv.refused(ErrInvalidArguments, "", err)
	}
	return nil
}

// identify says what inv is: which tool, on whose behalf, nested in what, how urgent. It answers how
// many of the calls around it run.
func (inv *invocation) identify(ctx context.Context, e *Executor, r *Request) (depth int) {
	inv.id = r.ID
	p := e.plan(r.Tool)
	if inv.same = p != nil && p == inv.plan; !inv.same {
		if inv.plan = p; p == nil {
			inv.plan = e.refusing(&tool{spec: Spec{Name: r.Tool}}, ErrUnknownTool, nil) // should a method of ctx panic
			inv.plan = e.compile(ctx, r.Tool)
		}
	}
	sc := scopeOf(ctx)
	if sc.pipeline != inv.pipeline {
		inv.pipeline, inv.same = sc.pipeline, false
	}
	inv.priority = cmp.Or(inv.plan.tool.spec.Policy.Priority, PriorityNormal)
	if p := inv.pipeline.Priority; rules.IsPriority(p) { // else zero, or the call will be refused
		inv.priority = p
	}
	around := sc.call()
	if around == nil {
		return 0
	}
	inv.parent.Store(around)
	inv.shared = true // calls nested in it may find it
	up := around.stillRunning()
	if up != nil {
		inv.priority = max(inv.priority, up.inv.priority)
	}
	for ; up != nil; up = up.inv.parent.Load().stillRunning() {
		depth++
	}
	return depth
}

// fill writes into c what it says of inv. If it was a call of the same tool and run, most of that
// stands there already.
func (inv *invocation) fill(c *Call, same bool) {
	if c.ID, c.Key, c.Priority = inv.id, inv.key, inv.priority; !same {
		c.Tool, c.Type, c.Pipeline = inv.plan.tool.spec.Name, inv.plan.tool.spec.Type, inv.pipeline
	}
}

// first is a call's first attempt, and what all of its attempts add up to.
type first struct {
	running
	stage.Tally
	given   *callContext // what sinks get, and the code; nil until one does, and if it must not be kept here
	frame   *frame       // of who is in charge of the call; nil without one, and when more goroutines come in
	aside   atomic.Pointer[aside]
	calls   atomic.Int32 // made under the call, while it is the outermost that runs
	retries permit.Retries
}

var noTotals first

// completes counts the call, of e, as one that has completed. Whoever says so is in charge of it.
func (f *first) completes(e *Executor) {
	if f.frame != nil {
		f.frame.completed = 1
	} else {
		e.census.Completed()
	}
}

// ownTotals is what inv's attempts add up to so far, made if need be. Whoever asks is alone with
// the call, or holds the stage's lock while nobody else could be the first.
func (inv *invocation) ownTotals() *first {
	if inv.first == nil {
		inv.first = new(first)
		inv.first.inv = inv
	}
	return inv.first
}

// begun is how many attempts have.
func (inv *invocation) begun() int32 {
	if inv.tried {
		return 1 + inv.attempts.Begun()
	}
	return inv.attempts.Begun()
}

// root is the outermost of the calls that inv is nested in and that still run, or inv itself.
func (inv *invocation) root() *invocation {
	root := inv
	for p := inv.parent.Load().stillRunning(); p != nil; p = p.inv.parent.Load().stillRunning() {
		root = p.inv
	}
	return root
}

// stillRunning is the nearest attempt that still runs: r, or one of those around it.
func (r *running) stillRunning() *running {
	for r != nil && r.Over() {
		r = r.inv.parent.Load()
	}
	return r
}

// mayHold reports whether r, or an attempt around it, still runs and may hold something.
func (r *running) mayHold() bool {
	r = r.stillRunning()
	for r != nil && r.layer {
		r = r.inv.parent.Load().stillRunning()
	}
	return r != nil
}

// holder is the ticket, of this stage, of the nearest call around that still runs.
func (r *running) holder(s *stage.Stage) *admit.Ticket {
	for ; r != nil; r = r.inv.parent.Load() {
		if t := r.Ticket(s); t != nil {
			return t
		}
	}
	return nil
}

// unnest lets go of what inv was nested in: of a chain of calls each of which was made in
// the one before, those that have ended must not be kept by those that run.
func (inv *invocation) unnest() { inv.parent.Store(inv.parent.Load().stillRunning()) }

// running is one admitted attempt: the context that its code gets, and what it holds.
type running struct {
	context.Context
	inv   *invocation
	layer bool          // it is an interceptor's, and holds nothing; see Call.Invoke
	said  atomic.Uint32 // the Outcome that its code has reported
	stage.Permit
}

// String keeps what prints the context from looking inside.
func (r *running) String() string { return "sluice: the context of a tool" }

// Value answers the library's own questions, and passes others on.
func (r *running) Value(key any) any {
	switch key.(type) {
	case scopeKey, callKey:
		return r
	}
	return r.Context.Value(key)
}

// shown is c without what only the library may see of it: whoever keeps it can run it nowhere.
func (c *Call) shown() Call {
	d := *c
	d.inv, d.within, d.run, d.code = nil, nil, nil, nil
	return d
}

// ending is how a call ended.
type ending struct {
	ctx   context.Context
	sum   *first // what its attempts add up to
	busy  bool   // some may be under way
	kind  EventKind
	value any // the result
	err   error
	by    string // the constraint behind err
	retry time.Duration
	stage.Conclusion
}

// end makes the call's outcome what it promises to be, and reports it, unless the result is a stream that holds the call
// open: endStreamed does then. Whoever counted the call in lets it go afterwards.
func (e *Executor) end(ctx context.Context, inv *invocation, res *Result, err *error) {
	sum := inv.first
	if sum == nil {
		sum = &noTotals
	}
	var ran, busy bool
	if inv.plan.once {
		ran, busy = sum.HasBegun(), sum.Attempt > 0 && !sum.IsGivenBack()
		if inv.wentOn {
			r, b := inv.attempts.Answer()
			ran, busy = ran || r, busy || b
		}
	} else {
		ran, busy = inv.attempts.Answer()
	}
	nested := inv.parent.Load() != nil
	if *err == nil && !busy && sum.IsPlain() && !(nested && inv.loud) { // there is nothing to say of its attempts
		if e.completed(ctx, inv, res, sum); nested {
			inv.unnest()
		}
		return
	}
	e.endFully(&ending{ctx: ctx, kind: ToolCompleted, sum: sum}, inv, res, err, ran, busy)
}

// completed reports the end of a call of which there is nothing to say but its result.
func (e *Executor) completed(ctx context.Context, inv *invocation, res *Result, sum *first) {
	if res.from = permit.Source(e.conf.MaxResultBytes); res.rec.By() == "" {
		res.rec = nil
	}
	if sum.completes(e); inv.loud {
		t := inv.lastEvent(ToolCompleted, sum, 0, sum.Held())
		inv.gave(t, res.Value)
		inv.emit(inv.toSinks(ctx), t)
	}
}

// turnedDown reports the end of a call of which there is nothing to say but err, its refusal.
func (e *Executor) turnedDown(ctx context.Context, inv *invocation, res *Result, err error, now int64) {
	e.failed.Add(1)
	if res.from = permit.Source(e.conf.MaxResultBytes); inv.loud {
		own, t := err.(*Error), inv.lastEvent(ToolFailed, inv.first, now, 0)
		t.Err, t.By, t.RetryAfter = err, own.By, own.RetryAfter
		inv.emit(inv.toSinks(ctx), t)
	}
}

// endFully is end where there may be something to say; ran says that the tool's code has run, and busy that
// attempts are under way.
func (e *Executor) endFully(x *ending, inv *invocation, res *Result, err *error, ran, busy bool) {
	if *err == nil {
		e.conclude(inv, busy, res, x)
		return
	}
	res.Value = nil
	normal := false
	defer func() {
		if !normal { // the error's own code called Goexit
			*err = caught(inv.plan.tool.spec.Name, recover())
			if !ran {
				*err = inv.refused(ErrRejected, "", *err)
			}
			x.kind = ToolFailed
		}
		x.err = *err
		e.conclude(inv, busy, res, x)
	}()
	there := false
	*err, there = meanings.CameFrom(*err)
	*err = inv.verdict(*err, ran || there)
	if x.kind = ToolFailed; !ran && !there && meanings.Reason(*err, uint64(inv.key), inv.id) == errtext.Denied {
		x.kind = ToolDenied
	}
	if inv.loud {
		if x.by, x.retry = whose(*err); !ran && x.retry == 0 { // an attempt that ran has asked its error already
			x.retry = meanings.ForeignRetry(*err)
		}
	}
	if inv.plan.around && inv.parent.Load() != nil { // which may have made it
		inv.passOn((*running)(nil).blames(*err).Carried)
	}
	normal = true
}

// conclude takes from the attempts of a call that has just ended what they add up to, counts
// those that nobody waits for any more, and reports the end, unless that has to wait for the
// stream that is its result; busy says that attempts are under way.
func (e *Executor) conclude(inv *invocation, busy bool, res *Result, x *ending) {
	var at *stage.Tool
	if busy {
		x.sum, at = inv.ownTotals(), &inv.plan.adm.at
		x.sum.frame = nil // who ends the stream may be at it
	}
	x.value, x.busy = res.Value, busy
	x.sum.Conclude(&x.Conclusion, at, x.err != nil, func() any { kept := *x; return &kept })
	by := res.rec.By()
	if res.rec, res.from = x.Record, permit.Source(e.conf.MaxResultBytes); by != "" && x.err == nil {
		res.rec = x.Record.WithPartial(new(any(by)))
	}
	if y := x.sum.aside.Load(); y != nil && x.err != nil {
		res.rec = x.Record.WithPartial(y.partial.Load())
	}
	if x.Err != nil { // the stream has ended already
		x.kind, x.err = ToolFailed, x.Err
	}
	switch {
	case !x.Waits:
		e.report(inv, x)
	case inv.loud && !inv.plan.single: // who ends the stream reports the end, and may be at it
		x.sum.forsakes()
	}
}

// endStreamed reports the end of a call that its stream x has held open.
func (inv *invocation) endStreamed(x *stage.Stream) {
	e := inv.plan.exec
	defer e.countOut()
	kept := x.Keeps.(*ending)
	end := *kept
	kept.value = nil // whoever keeps the call's context does not keep that
	inv.first.Sum(&end.Conclusion, &inv.plan.adm.at, x.Record)
	if x.Err != nil {
		end.kind, end.err, end.value = ToolFailed, x.Err, nil
	}
	e.report(inv, &end)
}

// report counts a call's end, and tells it.
func (e *Executor) report(inv *invocation, x *ending) {
	switch x.kind {
	case ToolCompleted:
		x.sum.completes(e)
	case ToolDenied:
		e.denied.Add(1)
	default:
		e.failed.Add(1)
	}
	nested := inv.parent.Load() != nil
	if !inv.loud {
		if nested {
			inv.unnest()
		}
		return
	}
	defer func() { // also if a sink calls Goexit
		if x.sum.frame == nil { // else the frame does
			inv.attempts.Report()
		}
		if nested {
			inv.unnest()
		}
	}()
	if x.busy {
		x.sum.forsakes()
	}
	t := inv.lastEvent(x.kind, x.sum, 0, x.Held)
	t.Queued, t.Result.rec = x.Queued, x.Record
	if t.Err, t.By, t.RetryAfter = x.err, x.by, x.retry; x.err != nil {
		t.throttled(x.sum, inv.began+int64(t.Elapsed))
	}
	if x.kind == ToolCompleted {
		inv.gave(t, x.value)
	} else {
		t.hasData = x.value != nil
	}
	inv.emit(inv.toSinks(x.ctx), t)
}

// lastEvent makes the event of a call's end, which is now, unless that is zero: its attempts held what they
// needed for so long.
func (inv *invocation) lastEvent(k EventKind, sum *first, now int64, held time.Duration) *callEvent {
	e := inv.plan.exec
	if inv.plan.once && held > 0 && !inv.wentOn { // its one attempt was the end
		now = sum.Granted + int64(held)
	} else if now == 0 {
		now = e.clock.Now()
	}
	t := inv.event(k, now, true)
	t.last, t.Call.Attempt, t.InputBytes = true, inv.begun(), 0
	t.Duration, t.Result.from = held, permit.Source(e.conf.MaxResultBytes)
	return t
}

// gave has t say what the call's result is.
func (inv *invocation) gave(t *callEvent, v any) {
	if t.hasData = v != nil; !t.hasData {
		return
	}
	if t.OutputBytes = payload.Bytes(v); !inv.plain {
		t.value = v
	}
}

// timed runs the code of an admitted call, which gets ctx, on a goroutine of its own, and answers when
// that ends or the attempt's time is over, whichever comes first, and whether that goroutine sees to the
// attempt's end: else it is a success, which is still to be ended. What the time means to breakers it says.
func (a *admission) timed(ctx context.Context, r *running, c *Call) (res Result, ended bool, err error) {
	x := r.limit()
	var term kept.Term
	if x.Moves(x) {
		term = x
	}
	h := r.inv.plan.exec.kept.Take(r.Granted, x.Due(), term)
	h.Job.ctx, h.Job.r, h.Job.c = ctx, r, c
	if h.Wait() {
		res, ended, err = h.Job.res, h.Job.ended, h.Job.err
		h.Free()
		return res, ended, err
	}
	if x.find(); a.next == nil {
		r.Began()
	}
	outcome, err := breaker.Failure, x.Cause()
	if !r.Expire() {
		outcome, err = breaker.Neutral, r.inv.verdict(err, false)
	} else if x.isOthers() || x.Context.Err() != nil {
		outcome = breaker.Neutral
	}
	r.lingers(false, r.Abandon(outcome))
	return Result{}, true, err
}

// limited makes x, or a new one, the context of r that ends when its time is over, which begins now, or
// at its caller's deadline, or when what interceptors have left it is over.
func (a *admission) limited(r *running, x *timedContext, finish int64, left *deadline.Bound) *timedContext {
	exec, now := r.inv.plan.exec, r.Granted
	if !r.IsQuick() {
		now = exec.clock.Now() // sinks may have heard of others' starts since
	}
	if x == nil {
		x = new(timedContext)
		x.set(r.Context, r.inv)
	}
	own := cmp.Or(a.timeout, deadline.Endless)
	x.Begin(now, own, finish)
	if moves := x.Moves(x) || finish <= x.Due(); left != nil && (left.Due < x.Due() || moves) {
		if x.left = left.Cause; moves {
			x.left = &deadline.Bound{Due: left.Due, Cause: left.Cause}
		}
		x.Begin(now, own, left.Until(finish))
	}
	if finish <= x.Due() {
		x.follow(now, own)
	}
	r.Context = x
	return x
}

// timedCall is what a goroutine of its own runs, and what came of it.
type timedCall struct {
	ctx   context.Context
	r     *running
	c     *Call // nobody else's until the code has ended
	res   Result
	err   error
	ended bool // see timed
}

// runTimed is what that goroutine does.
func runTimed(h *kept.Hand[timedCall]) {
	j, normal := &h.Job, false
	r, a := j.r, j.r.admission()
	defer func() {
		if !normal {
			j.res, j.err = Result{}, caught(j.c.Tool, recover())
		}
		if j.err == nil && a.classify == nil && h.Claim() {
			return
		}
		settled := false
		defer func() {
			if !settled { // what is asked about the outcome called Goexit
				j.res, j.err = Result{}, caught(j.c.Tool, recover())
			}
		}()
		if j.ended = true; a.next == nil {
			r.Began()
		}
		j.err = a.settled(r, j.c, j.res, j.err)
		settled = true
	}()
	j.res, j.err = a.code(j.ctx, j.c)
	normal = true
}
