package sluice

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/blame"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/ids"
	"github.com/sluice-go/sluice/internal/permit"
	"github.com/sluice-go/sluice/internal/record"
	"github.com/sluice-go/sluice/internal/slab"
	"github.com/sluice-go/sluice/internal/stage"
	"github.com/sluice-go/sluice/internal/strictjson"
	"github.com/sluice-go/sluice/internal/turn"
)

// Handler runs one call.
type Handler func(ctx context.Context, c Call) (Result, error)

// Interceptor goes around calls. Wrap runs when a tool's first call compiles its chain, once
// per tool and executor unless first calls meet, and never per call. It may answer next
// itself for tools it has nothing to do with. The Handler it returns must be safe for concurrent use.
// It may call next several times (each is an attempt, admitted and charged anew), or not at
// all: an error of its own is then a denial. It may also answer before its next has: the call
// ends with that, next's context is whatever the interceptor gave it, and the code that still
// runs keeps its slots. A next that begins after the answer is refused.
//
// A Wrap that takes long holds up first calls of its tool alone, until their contexts end, and
// Close; one that never returns leaves its goroutine behind, at most two of each tool.
//
// An interceptor that implements fmt.Stringer is shown by that name in [Executor.Plan].
type Interceptor interface {
	Wrap(tool Spec, next Handler) Handler
}

// InterceptorFunc makes a function an [Interceptor].
type InterceptorFunc func(tool Spec, next Handler) Handler

// Wrap calls f.
func (f InterceptorFunc) Wrap(tool Spec, next Handler) Handler { return f(tool, next) }

// Call is one attempt of one invocation. It is passed by value: copy it to change it.
type Call struct {
	ID       string // Request.ID, or made up
	Tool     string
	Type     string           // the tool's Spec.Type
	Input    any              // the tool's In, decoded; json.RawMessage for a raw tool
	Priority Priority         // effective, so from 1 to 9: at least that of the call it is nested in
	Attempt  int32            // from 1; zero before the first
	Pipeline *PipelineContext // on whose behalf; never nil, read-only
	inv      *invocation
	run      *running                           // once it is admitted
	code     func(context.Context) (any, error) // of a declared tool
}

// JSON encodes Input.
func (c Call) JSON() (json.RawMessage, error) { return encodeJSON(c.Input, defaultArgBytes) }

// CallFrom returns the call that ctx belongs to, inside a tool. Its Input is nil: the tool
// has it, and a context that outlives the call should not keep it.
func CallFrom(ctx context.Context) (Call, bool) {
	r := scopeOf(ctx).call
	if r == nil {
		return Call{}, false
	}
	var c Call
	r.inv.fill(&c)
	c.Attempt = r.attempt
	return c, true
}

// Result is what a call gave: a small value, safe to copy and to share.
type Result struct {
	Value any // the tool's Out; nil after an error

	rec *record.Record
	max int
}

// JSON encodes Value, at most [Config].MaxResultBytes.
func (r Result) JSON() (json.RawMessage, error) {
	return encodeJSON(r.Value, cmp.Or(r.max, defaultResultBytes))
}

// encodeJSON is v as JSON, of bounded size and depth.
func encodeJSON(v any, max int) (json.RawMessage, error) {
	b, err := strictjson.Encode(v, max)
	if err != nil {
		return nil, fmt.Errorf("sluice: encoding %T: %w", v, err)
	}
	return b, nil
}

// outputBytes is the size of a result where it is known without encoding it.
func outputBytes(v any) int {
	switch v := v.(type) {
	case json.RawMessage:
		return len(v)
	case []byte:
		return len(v)
	case string:
		return len(v)
	}
	return 0
}

// invocation is one call: its identity, its place among nested calls, its events. It is
// never used again for another, since a tool may keep the context that leads to it. A call
// that waits without a goroutine has little more, so it is small.
type invocation struct {
	plan     *plan // of no tool if that is unknown
	id       string
	pipeline *PipelineContext
	parent   atomic.Pointer[running] // the call it is nested in, or nil; see leaves
	first    *first                  // nil until there is something to say

	key      CallKey
	began    int64         // the instant of tool.invoked
	fate     atomic.Uint64 // what has become of it, and of its attempts
	calls    atomic.Int32  // made under it, while it is the outermost that runs
	emitting turn.Line     // of events
	seq      uint32        // of the last event; owned by who emits
	depth    int32         // how many of those around it ran when it was made
	priority Priority
	loud     bool         // some sink listens
	over     bool         // the terminal event is out; owned by who emits
	phase    atomic.Int32 // of a submission: submitting, submitted or early
}

// What has become of an invocation. Above it is how many of its attempts are under way,
// and above that how many it has begun.
const (
	hasRun  = 1 << iota // the tool's code has run, in some attempt
	isOver              // the caller has its answer: no attempt may begin any more
	hasTold             // its terminal event is out

	attemptUnderWay = 1 << 8
	attemptBegun    = 1 << 32
)

// noContext stands for a context that is nil: the call is reported and refused.
var noContext context.Context = &nilContext{context.Background()}

type nilContext struct{ context.Context }

// resolve gives c the value that the tool gets, if it takes that, or says why c must not be
// admitted whatever the gates say.
func (inv *invocation) resolve(ctx context.Context, c *Call, r *Request, open bool, calls int32) error {
	if err := inv.barred(ctx, open, calls); err != nil {
		return err
	}
	t := inv.plan.tool
	in, err := t.input(r, inv.plan.exec.conf.MaxArgBytes)
	if err != nil {
		return inv.refused(ErrInvalidArguments, "", err)
	}
	c.Input = in
	if t.spec.Check == nil {
		return nil
	}
	if err := t.checked(ctx, c.shown()); err != nil {
		return inv.refused(ErrInvalidArguments, "", err)
	}
	return nil
}

func (inv *invocation) tellInvoked(ctx context.Context, r *Request, now int64) {
	t := inv.event(ToolInvoked, now)
	if t.value, t.InputBytes = r.Input, len(r.Args); r.Input == nil && len(r.Args) > 0 {
		t.value = r.Args
	}
	inv.emit(inv.toSinks(ctx), t)
}

// identify says what inv is: which tool, on whose behalf, nested in what, how urgent.
func (inv *invocation) identify(ctx context.Context, e *Executor, r *Request) {
	inv.id = r.ID
	if inv.plan = e.plan(r.Tool); inv.plan == nil {
		inv.plan = e.refusing(&tool{spec: Spec{Name: r.Tool}}, ErrUnknownTool, nil) // should a method of ctx panic
		inv.plan = e.compile(ctx, r.Tool)
	}
	sc := scopeOf(ctx)
	inv.pipeline = sc.pipeline
	inv.priority = cmp.Or(inv.plan.tool.spec.Policy.Priority, PriorityNormal)
	if p := inv.pipeline.Priority; p.valid() { // else zero, or the call will be refused
		inv.priority = p
	}
	if sc.call == nil {
		return
	}
	inv.parent.Store(sc.call)
	up := sc.call.stillRunning()
	if up != nil {
		inv.priority = max(inv.priority, up.inv.priority)
	}
	for ; up != nil; up = up.inv.parent.Load().stillRunning() {
		inv.depth++
	}
}

// call makes c inv before its first attempt.
func (inv *invocation) call(c *Call) {
	inv.fill(c)
	c.inv = inv
}

func (inv *invocation) fill(c *Call) {
	spec := &inv.plan.tool.spec
	c.ID, c.Tool, c.Type, c.Priority, c.Pipeline = inv.id, spec.Name, spec.Type, inv.priority, inv.pipeline
}

// first is a call's first attempt, and what all of its attempts add up to. Its fields are
// guarded by the stage's lock while attempts are under way, and then belong to whoever is
// in charge of the call.
type first struct {
	running
	queued  atomic.Int64   // how long attempts waited
	held    int64          // how long attempts held what they needed
	ended   int64          // when the latest attempt gave back what it held; zero before
	rec     *record.Record // nil until there is something to say, sealed in the end
	waited  int32          // attempts that hold what they need and that somebody waits for
	counted bool           // those left are counted: the call is over
	given   callContext    // what sinks get
	aside   atomic.Pointer[aside]
	done    atomic.Int32 // attempts that have ended, if there may be more than one
	retried atomic.Int32 // after how many attempts a ToolRetrying came last
}

var noTotals first

// totals is what inv's attempts add up to so far; to read.
func (inv *invocation) totals() *first {
	if inv.first == nil {
		return &noTotals
	}
	return inv.first
}

// ownTotals is totals to add to, made if need be. Whoever asks is alone with the call, or holds the
// stage's lock while nobody else could be the first.
func (inv *invocation) ownTotals() *first {
	if inv.first == nil {
		inv.first = new(first)
	}
	return inv.first
}

// attempt counts one attempt more and answers its number. It fails if the call is over.
func (inv *invocation) attempt() (int32, error) {
	now := inv.fate.Add(attemptBegun + attemptUnderWay)
	if now&isOver != 0 {
		return 0, inv.refused(ErrRejected, "",
			errors.New("sluice: the call is over: an interceptor answered before it called next"))
	}
	return int32(now / attemptBegun), nil
}

// attempts is how many have begun.
func (inv *invocation) attempts() int32 { return int32(inv.fate.Load() / attemptBegun) }

// attemptEnds counts out an attempt that holds nothing any more.
func (inv *invocation) attemptEnds() { inv.fate.Add(^uint64(attemptUnderWay - 1)) }

// underWay reports whether attempts are, by the fate that it is given.
func underWay(fate uint64) bool { return fate%attemptBegun >= attemptUnderWay }

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
	for r != nil && r.state.Over() {
		r = r.inv.parent.Load()
	}
	return r
}

// leaves lets go of what inv was nested in: of a chain of calls each of which was made in
// the one before, those that have ended must not be kept by those that run.
func (inv *invocation) leaves() {
	if p := inv.parent.Load(); p != nil {
		inv.parent.Store(p.stillRunning())
	}
}

// within is the call of e, if any, that is under way and whose code or sink has ctx.
func (e *Executor) within(ctx context.Context) *invocation {
	r, ok := ctx.Value(callKey{}).(*running)
	if x, event := ctx.Value(callKey{}).(*callContext); event {
		if x.inv.plan.exec == e && x.inv.fate.Load()&hasTold == 0 {
			return x.inv
		}
		r, ok = x.inv.parent.Load(), true
	}
	for ; ok && r != nil; r = r.inv.parent.Load() {
		if r.inv.plan.exec == e && !r.state.Over() {
			return r.inv
		}
	}
	return nil
}

// book adds the time for which the attempt r held what it needed. The stage is locked.
func (inv *invocation) book(r *running, now int64) {
	inv.first.held += now - r.granted
	inv.first.ended = now
}

// callContext is what a sink gets: the caller's context, which also tells which call the
// event is of.
type callContext struct {
	context.Context
	inv *invocation
}

// callKey asks a context for the call whose code, or whose event, it belongs to.
type callKey struct{}

// Value answers the library's own question, and passes others on.
func (x *callContext) Value(key any) any {
	if _, ok := key.(callKey); ok {
		return x
	}
	return x.Context.Value(key)
}

// toSinks is the context for events of inv, which was made with ctx.
func (inv *invocation) toSinks(ctx context.Context) context.Context {
	f := inv.first
	if f == nil || inv.parent.Load() != nil { // whose context must not be kept here
		return &callContext{ctx, inv}
	}
	if f.given.inv == nil { // a sink may have kept it
		f.given = callContext{ctx, inv}
	}
	return &f.given
}

// running is one admitted attempt: the context that its code gets, and what it holds.
type running struct {
	context.Context
	inv     *invocation
	adm     *admission
	granted int64 // when it was admitted, or woke up to it
	attempt int32
	state   permit.State // who still needs what it holds

	// guarded by the stage's lock
	ticket *admit.Ticket
	live   bool // ticket still holds what it took
	left   bool // nobody waits for the attempt any more
	noted  bool // it is in the call's record

	outcome  breaker.Outcome // if state says that it is known
	reported atomic.Bool     // ReportThrottle has
}

// Value answers the library's own questions, and passes others on.
func (r *running) Value(key any) any {
	switch key.(type) {
	case scopeKey, callKey:
		return r
	}
	return r.Context.Value(key)
}

// shown is c without what only the library may see of it: whoever keeps it keeps nothing
// else, and it can be run nowhere.
func (c *Call) shown() Call {
	d := *c
	d.inv, d.run, d.code = nil, nil, nil
	return d
}

// run makes c's attempt one that runs, with what the ticket t holds, from the instant now on.
// The stage is locked.
func (a *admission) run(ctx context.Context, c *Call, t *admit.Ticket, now int64) *running {
	inv := c.inv
	sum := inv.ownTotals()
	r := &sum.running
	if c.Attempt != 1 {
		r = new(running)
	}
	if x := sum.aside.Load(); x != nil {
		x.again.Store(0) // whatever an earlier attempt met
	}
	if p, ok := ctx.(*running); ok { // r answers for itself what p would: a chain of calls is no chain of contexts
		if _, timed := p.Context.(*timedRun); !timed {
			ctx = p.Context
		}
	}
	r.Context, r.inv, r.adm, r.attempt = ctx, inv, a, c.Attempt
	r.ticket, r.live, r.granted = t, true, now
	if sum.waited++; sum.counted { // it waited for longer than its call
		inv.plan.exec.abandoned.Add(1)
		inv.plan.exec.active.Add(2)
	}
	if t.Place() > 0 {
		sum.queued.Add(max(0, now-t.Arrived())) // the clock was read before the lock was taken
	}
	return r
}

// whole is a call that its caller waits for.
type whole struct {
	invocation
	space first
}

func newInvocation() *invocation {
	w := wholes.Take()
	w.first = &w.space
	return &w.invocation
}

var wholes slab.Slab[whole]

// CallKey tells a call from every other, whatever ids callers give: no other call of the
// process has it, and no other process writes it. Zero belongs to no call. It is
// comparable, and its text is what the JSON form of an [Event] has.
type CallKey uint64

// String is the key as text; empty for zero.
func (k CallKey) String() string { return string(k.append(nil)) }

// MarshalText is String.
func (k CallKey) MarshalText() ([]byte, error) { return k.append(nil), nil }

func (k CallKey) append(b []byte) []byte {
	if k == 0 {
		return b
	}
	return ids.AppendKey(b, uint64(k))
}

// aside is what few calls have to remember about their attempts.
type aside struct {
	again  atomic.Int64          // until when an upstream asked the latest attempt to wait, plus one; zero if none did
	failed atomic.Pointer[error] // of the attempt that ended last; nil if it did not fail
	late   atomic.Pointer[turn.Queue[*callEvent]]
	holds  atomic.Pointer[holds] // of those that a stream outlives, guarded by the stage's lock; nil without one

	nested blame.Ledger // throttles that calls nested in the attempts have been charged with
}

// remembers is what f remembers, made if need be.
func (f *first) remembers() *aside {
	if x := f.aside.Load(); x != nil {
		return x
	}
	f.aside.CompareAndSwap(nil, new(aside))
	return f.aside.Load()
}

// blames says what err, with which the attempt r ended, tells of throttles. Without an attempt it
// is what the call around has to know.
func (r *running) blames(err error) blame.Found {
	if r == nil {
		return blame.Of(err, nil, 0, isRefusal)
	}
	var l *blame.Ledger
	if x := r.inv.first.aside.Load(); x != nil {
		l = &x.nested
	}
	return blame.Of(err, l, r.attempt, isRefusal)
}

// passOn tells the attempt that inv is nested in, if any, which errors say that somebody
// else has been charged with a throttle already.
func (inv *invocation) passOn(carried []blame.Charge) {
	if r := inv.parent.Load(); r != nil {
		for _, c := range carried {
			r.inv.first.remembers().nested.Charge(r.attempt, c)
		}
	}
}

// throttled notes that an upstream asked the attempt to wait for d, or to slow down.
func (r *running) throttled(d time.Duration) {
	until := r.inv.plan.exec.clock.Now() + int64(min(d, stage.MaxPause)) + 1
	again := &r.inv.first.remembers().again
	for was := again.Load(); was < until && !again.CompareAndSwap(was, until); was = again.Load() {
	}
}

// attemptEnded notes how an attempt ended.
func (f *first) attemptEnded(err error) {
	if err != nil {
		f.remembers().failed.Store(&err)
	} else if x := f.aside.Load(); x != nil {
		x.failed.Store(nil)
	}
	f.done.Add(1)
}

// toldAfter notes that a retry is told after n attempts, and reports whether none had been.
func (f *first) toldAfter(n int32) bool {
	for was := f.retried.Load(); was < n; was = f.retried.Load() {
		if f.retried.CompareAndSwap(was, n) {
			return true
		}
	}
	return false
}

// begin is called when the tool's code is about to run. It fails if it must not: the
// attempt is over, or it has run already.
func (r *running) begin(ctx context.Context) error {
	if err := r.enterCode(ctx); err != nil {
		return err
	}
	if r.inv.fate.Or(hasRun)&isOver != 0 {
		r.callOff()
		return r.inv.refused(ErrRejected, "",
			errors.New("sluice: the call is over: an interceptor answered before its next had ended"))
	}
	return nil
}

// wrap puts the interceptors around the tool. One that panics makes the tool refuse calls, and
// say why.
func (p *plan) wrap() {
	normal := false
	defer func() {
		if !normal {
			p.refuse, p.cause = ErrRejected, caught(p.tool.spec.Name, recover())
		}
	}()
	e, t := p.exec, p.tool
	h := p.adm.handler(wrapAll(e.inner, t.spec, func(ctx context.Context, c Call) (Result, error) {
		if !t.accepts(c.Input) { // an interceptor's doing
			err := fmt.Errorf("sluice: Call.Input is %T: must be %v", c.Input, t.in)
			if c.inv == nil {
				return Result{}, &Error{Tool: t.spec.Name, CallID: c.ID, Reason: ErrInvalidArguments, Cause: err}
			}
			return Result{}, c.inv.refused(ErrInvalidArguments, "", err)
		}
		return runTool(ctx, &c, t)
	}))
	p.chain = wrapAll(e.outer, t.spec, h)
	normal = true
}

// wrapAll puts a list of interceptors around h, the first of them outermost.
func wrapAll(list []Interceptor, s Spec, h Handler) Handler {
	for i := len(list) - 1; i >= 0; i-- {
		next := list[i].Wrap(s.clone(), h)
		if next == nil {
			panic(fmt.Sprintf("sluice: interceptor %s answered a nil Handler", interceptorName(list[i])))
		}
		h = next
	}
	return h
}

// runTool is the innermost handler: from here on the call has run.
func runTool(ctx context.Context, c *Call, t *tool) (Result, error) {
	if c.run == nil {
		return Result{}, &Error{Tool: t.spec.Name, Reason: ErrRejected,
			Cause: errors.New("sluice: an interceptor made a Call of its own: it must change a copy of the one it was given")}
	}
	if err := c.run.begin(ctx); err != nil {
		return Result{}, err
	}
	if c.run.direct() {
		return runCode(ctx, c, t)
	}
	return runInside(ctx, c, t)
}

// runInside is runCode for an interceptor inside the gates, which may have called next on a
// goroutine of its own: a panic must not be the end of that.
func runInside(ctx context.Context, c *Call, t *tool) (res Result, err error) {
	defer c.run.leaveCode()
	defer func() {
		if v := recover(); v != nil {
			res, err = Result{}, caught(c.Tool, v)
		}
	}()
	return runCode(ctx, c, t)
}

func runCode(ctx context.Context, c *Call, t *tool) (Result, error) {
	if c.run.inv.loud {
		c.run.emitStarted(ctx, c)
	}
	if c.code != nil {
		v, err := c.code(ctx)
		return Result{Value: v}, err
	}
	v, err := t.run(ctx, c.Input)
	return Result{Value: v}, err
}
