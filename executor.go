package sluice

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/census"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/clock"
	"github.com/sluice-go/sluice/internal/compiled"
	"github.com/sluice-go/sluice/internal/cow"
	"github.com/sluice-go/sluice/internal/crew"
	"github.com/sluice-go/sluice/internal/ctxwatch"
	"github.com/sluice-go/sluice/internal/deadline"
	"github.com/sluice-go/sluice/internal/ids"
	"github.com/sluice-go/sluice/internal/kept"
	"github.com/sluice-go/sluice/internal/oneshot"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
	"github.com/sluice-go/sluice/internal/typed"
)

// Config configures an [Executor]. The zero value limits nothing and runs tools safely.
type Config struct {
	Interceptors    []Interceptor                             // outermost first; gates and the scheduler adjacent
	Sink            EventSink                                 // sees every call; nil discards
	State           *SharedState                              // what tools share; nil means a new one
	Timeout         time.Duration                             // per attempt; zero means none
	MaxWait         time.Duration                             // in the queue; zero means until the context ends; or NoWait
	Classify        func(c Call, r Result, err error) Outcome // nil means OutcomeAuto for all
	MaxArgBytes     int                                       // of arguments; zero means 4 MiB
	MaxResultBytes  int                                       // of a result's JSON; zero means 16 MiB
	MaxDepth        int                                       // of nested calls; zero means 32
	MaxCallsPerRoot int                                       // under one outermost call; zero means 10,000
	_               struct{}
}

// NoWait as a MaxWait has a call start at once or be refused.
const NoWait time.Duration = -1 << 62

const (
	defaultArgBytes    = 4 << 20
	defaultResultBytes = 16 << 20
	defaultDepth       = 32
	defaultCalls       = 10_000
	maxSize            = 1 << 30 // of these
	// nestedWait bounds the wait of a nested call that has no bound: who waits for it may hold what it needs.
	nestedWait = time.Minute
)

func (c Config) validate() (Config, error) {
	err := cmp.Or(
		check.Duration("sluice: Config.Timeout", c.Timeout),
		check.Wait("sluice: Config.MaxWait", c.MaxWait, NoWait),
		check.Count("sluice: Config.MaxArgBytes", &c.MaxArgBytes, defaultArgBytes, maxSize),
		check.Count("sluice: Config.MaxResultBytes", &c.MaxResultBytes, defaultResultBytes, maxSize),
		check.Count("sluice: Config.MaxDepth", &c.MaxDepth, defaultDepth, maxSize),
		check.Count("sluice: Config.MaxCallsPerRoot", &c.MaxCallsPerRoot, defaultCalls, maxSize))
	c.Interceptors = slices.Clone(c.Interceptors)
	return c, err
}

// Executor runs a registry's tools through the interceptors. Make one with [NewExecutor];
// it is safe for concurrent use.
type Executor struct {
	// What every call needs.
	registry    *ToolRegistry
	conf        Config
	clock       clock.Clock
	ids         ids.Calls
	wantsValues bool // its sink does
	plans       compiled.Table[*cow.Snapshot[tool], tool, plan]

	state    *SharedState
	ownState bool
	client   *admit.Client // whose queue is bounded by itself
	stage    *stage.Stage
	members  []stage.Member // what ties it to other executors

	outer, inner []Interceptor // around admission, and inside it
	inSteps      bool          // all of outer are Steppers, and there are some
	gates        []*gateCore   // without the scheduler

	deadlines deadline.Timer             // of judging, of streams
	pauses    deadline.Timer             // between attempts
	kept      *kept.Pool[timedCall]      // goroutines for code that has a timeout
	watched   *ctxwatch.Set[*submission] // submitted calls that wait
	crew      *crew.Crew                 // who runs and ends submitted calls

	census  census.Census // of calls and helpers under way
	helpers atomic.Int64  // goroutines beside the calls' own
	idle    chan struct{}
	idled   sync.Once

	failed, denied, dropped atomic.Uint64
	abandoned               atomic.Int64
}

// NewExecutor returns an executor, or an error that names the wrong field of c. It starts nothing. Tools may be
// registered before or after. One that is used in a testing/synctest bubble must be made there.
//
// Executors that have a registry, a gate or a scheduler in common share one queue and one order. That is fixed here: it
// is an error if r and the gates of c belong to live executors that share nothing, or if two schedulers would order one
// queue. Until it is closed and its last call has ended, an executor keeps what it lists tied together and reachable.
func NewExecutor(r *ToolRegistry, c Config) (*Executor, error) {
	if r == nil {
		return nil, errors.New("sluice: the ToolRegistry is nil: use NewToolRegistry")
	}
	c, err := c.validate()
	if err != nil {
		return nil, err
	}
	e := &Executor{
		registry: r, conf: c, state: c.State, clock: clock.New(), client: admit.NewClient(), idle: make(chan struct{}),
	}
	e.wantsValues = valueSinkOf(c.Sink) != nil
	e.deadlines.Clock, e.deadlines.Go = e.clock, e.help
	e.pauses.Clock, e.pauses.Brief = e.clock, true
	e.kept = kept.New(e.clock, runTimed, e.helperStarts, e.helperEnds)
	e.crew = crew.New(e.helperStarts, e.helperEnds)
	e.watched = ctxwatch.New(e.helperStarts, e.helperEnds, func(x *submission) { e.crew.Cancel(x) })
	e.members = []stage.Member{{Ref: &r.stage, Name: "the ToolRegistry"}}
	sched, err := e.arrange(c.Interceptors)
	if err != nil {
		return nil, err
	}
	e.initPlans()
	if e.state == nil {
		if e.state, err = NewSharedState(SharedStateConfig{}); err != nil {
			return nil, err
		}
		e.ownState = true
	}
	if e.stage, err = stage.Join((*inDomain)(e), sched.order()); err != nil {
		if e.ownState {
			_ = e.state.Close()
		}
		return nil, err
	}
	return e, nil
}

// arrange sorts the interceptors into those around admission, its gates, and those inside.
func (e *Executor) arrange(list []Interceptor) (sched *PriorityScheduler, err error) {
	a, err := rules.Arrange("sluice: Config.Interceptors", list, isNil, func(x Interceptor) (l rules.Listed[Interceptor]) {
		if g := coreOf(x); g != nil {
			l.Gate, l.Name = g, g.name
			_, l.Scheduler = x.(*PriorityScheduler)
		} else {
			_, l.Before = x.(Stepper)
		}
		return l
	})
	for i, x := range a.Gates {
		g := x.Gate.(*gateCore)
		if s, ok := x.Of.(*PriorityScheduler); ok {
			sched = s
		} else {
			e.gates = append(e.gates, g)
		}
		e.members = append(e.members, stage.Member{Ref: g.stage, Name: strings.TrimPrefix(a.Names[i], "sluice: ")})
	}
	e.outer, e.inner = a.Outer, a.Inner
	e.inSteps = len(e.outer) > 0 && !slices.ContainsFunc(e.outer, func(x Interceptor) bool { _, ok := x.(Stepper); return !ok })
	return sched, err
}

// Request names a tool as a model does. Priority, tenant and sink come from the context's [PipelineContext].
type Request struct {
	ID    string          // the model's tool-call id; empty means made up
	Tool  string          // as registered
	Args  json.RawMessage // decoded strictly: exact names, none twice, none unknown; blank is {}
	Input any             // instead of Args: a value of the tool's In
	typed bool            // Input counts also if it is nil
	code  typed.Code      // of a declared tool
	_     struct{}
}

// Invoke runs one call and waits for it: while it queues, until it may start, ctx ends, MaxWait
// is over or the executor closes; and while the tool runs, until its code ends or Timeout is over.
//
// The error is an *[Error] if the library refused the call or its time was over, a *[PanicError]
// if its code panicked, else the tool's own. [runtime.Goexit] in a tool without a timeout, or
// cooperative, ends the calling goroutine once all is reported; else it is a *PanicError.
func (e *Executor) Invoke(ctx context.Context, r Request) (Result, error) {
	if e == nil || e.registry == nil {
		return Result{}, e.unmade(&r)
	}
	return e.invoke(ctx, &r, nil)
}

// invoke runs a call. It has its outcome written into out, if that is not nil, also if the goroutine exits.
func (e *Executor) invoke(ctx context.Context, r *Request, out *answer) (res Result, err error) {
	x := frames.Get().(*frame)
	if ctx == nil {
		ctx = noContext
	}
	inv, open := x.begin(e)
	normal := false
	defer func() {
		if !normal {
			x.rescue(ctx, r.Tool, recover(), &res, &err, out)
		}
	}()
	now, err := e.prepare(ctx, r, inv, open, &x.c)
	switch p := inv.plan; {
	case err != nil:
	case p.steps != nil:
		res, err = x.climb(ctx, now)
	case p.single:
		res, err = p.adm.attempt(ctx, x, now)
	case p.chain == nil:
		res, err = p.adm.do(ctx, &x.c, now, nil)
	default:
		res, err = p.chain(ctx, x.c)
	}
	went := x.stage
	switch x.stage = inEnd; went {
	case succeeded:
		e.completed(ctx, inv, &res, inv.first)
	case turnedDown:
		e.turnedDown(ctx, inv, &res, err, x.refused)
	default:
		e.end(ctx, inv, &res, &err)
	}
	if out != nil {
		*out = answer{res, err}
	}
	if normal = true; went == underWay {
		x.end()
	} else {
		x.endUnseen(went)
	}
	return res, err
}

// invokeFor runs a call that is counted in, and makes f its outcome, also if the goroutine exits.
func (e *Executor) invokeFor(f *Future, ctx context.Context, r Request) {
	defer e.countOut()
	a := new(answer)
	defer f.set(a)
	_, _ = e.invoke(ctx, &r, a)
}

// Future is the outcome of a call that [Executor.Submit] has made. It is safe for
// concurrent use; the zero value never comes to one.
type Future struct{ answer oneshot.Value[answer] }

// answer is how a call ended.
type answer struct {
	res Result
	err error
}

// Submit queues a call, in less than 400 bytes and without a goroutine: one starts when the call
// does, or at once if an interceptor that is no [Stepper] stands outside the gates. It does not wait. The
// call ends as [Executor.Invoke] would end it, refusals included; ctx is the call's own.
//
// The ends of calls that are not admitted are reported by at most four goroutines for each
// processor: a sink that waits for another submitted call may wait for ever.
func (e *Executor) Submit(ctx context.Context, r Request) *Future {
	f := new(Future)
	if err := e.unmade(&r); err != nil {
		f.set(&answer{err: err})
		return f
	}
	open := e.census.Enter()
	if len(e.outer) > 0 && !e.inSteps {
		go e.invokeFor(f, ctx, r)
		return f
	}
	if ctx == nil {
		ctx = noContext
	}
	x := &submission{ctx: ctx, future: f}
	x.start(e, &r, open)
	return f
}

// Done is closed when the call has ended.
func (f *Future) Done() <-chan struct{} { return f.answer.Done() }

// Wait returns the outcome, or ctx's error if ctx ends before there is one; the call goes on.
func (f *Future) Wait(ctx context.Context) (Result, error) {
	if ctx == nil {
		return Result{}, errors.New("sluice: Wait: the context is nil: must not be, " +
			"context.Background() waits for as long as it takes")
	}
	a, err := f.answer.Wait(ctx)
	if err != nil {
		return Result{}, err
	}
	return a.res, a.err
}

func (f *Future) set(a *answer) {
	if a.err != nil {
		a.res.Value = nil
	}
	f.answer.Set(*a)
}

// submission is a submitted call under way. A million of them may wait, so it has nothing that a waiting call can do
// without. The context that a tool gets leads to it, and not to its outcome.
//
// Its goroutine is lent to it: start runs on the submitter's, decided on that of whoever
// decided about the call, and what [crew.Call] has on one of the crew's.
type submission struct {
	inv    invocation
	ctx    context.Context
	input  any           // if it goes through steps of interceptors, its *Step, which has that
	future *Future       // until somebody has ended the call; owned by whoever may
	ticket *admit.Ticket // while it waits; guarded by the stage's lock
	place  ctxwatch.Place[*submission]
	phase  atomic.Int32 // submitting, submitted, early or resting
}

// Place is where the call stands among the executor's watched ones.
func (x *submission) Place() *ctxwatch.Place[*submission] { return &x.place }

// start makes the call and asks for admission.
func (x *submission) start(e *Executor, r *Request, open bool) {
	x.guarded(func() {
		var c Call
		now, err := e.prepare(x.ctx, r, &x.inv, open, &c)
		switch {
		case err != nil:
			x.finish(Result{}, err)
		case x.inv.plan.steps != nil:
			s := &Step{list: &x.inv.plan.steps, inv: &x.inv, input: c.Input, now: now}
			x.input = s
			x.climb(s, now)
		default:
			x.input = c.Input
			x.submit(&c, now)
		}
	})
}

// Who has the call carried on that waited: its submitter and whoever decides may come to that
// at one time, and it is the later of the two.
const (
	submitting = iota // also of a call that has not waited
	submitted         // whoever decides does
	toRest            // as submitting, where its time decides, or its context
	resting           // as submitted, likewise
	early             // it is decided already: the submitter does
)

// submit asks for admission, and has the call run when it is granted.
func (x *submission) submit(c *Call, now int64) {
	c.begin()
	if x.ctx.Err() != nil {
		x.End(x.inv.gaveUp(x.ctx, ""))
		return
	}
	e := x.inv.plan.exec
	w, err := x.inv.plan.adm.ask(x.ctx, c, now)
	if err != nil {
		x.End(err)
		return
	}
	var q stage.Answers
	at, w, err := x.inv.plan.adm.answer(c, w, &q)
	if err != nil {
		x.End(err)
		return
	}
	var r *running
	var t *admit.Ticket
	if at.Needs != nil && at.Needs.MayTake(w.now) { // else it may have to wait, and has no more than that takes
		x.inv.ownTotals()
		r = x.inv.plan.adm.quickly(x.ctx, c, w, at)
	}
	if r == nil {
		r, t, err = x.inv.plan.adm.arrive(x.ctx, c, w, at, &q, x)
	}
	switch {
	case err != nil:
		x.End(err)
	case t != nil:
		if e.watched.Add(x.ctx, x); !x.phase.CompareAndSwap(submitting, submitted) {
			e.crew.Run(x)
		}
	case r.Granted < 0: // in a bubble, where the crew of an executor from outside is not
		go x.Run()
	default:
		e.crew.Run(x)
	}
}

var _ stage.Submission = (*submission)(nil)

// Decided is called when the call, which waited, has been admitted or refused.
func (x *submission) Decided(admitted bool) {
	switch e := x.inv.plan.exec; {
	case x.phase.CompareAndSwap(submitting, early):
	case admitted:
		e.crew.Run(x)
	default:
		e.crew.End(x)
	}
}

// Ready takes up what was decided, and answers why the call may not run, or nil. If the context,
// which is asked, calls Goexit, the call has ended.
func (x *submission) Ready() (err error) {
	if x.phase.Load() == submitting {
		return nil // it has not waited
	}
	normal := false
	defer func() {
		if normal {
			return
		}
		v := recover()
		err = caught(x.inv.plan.tool.spec.Name, v)
		if x.inv.plan.adm.at.Stage.Forsake(&x.ticket); v == nil {
			x.End(err)
		}
	}()
	x.inv.plan.exec.watched.Remove(x)
	var c Call
	x.call(&c)
	_, err = x.inv.plan.adm.decided(x.ctx, &c, &x.ticket)
	normal = true
	return err
}

// Run runs the admitted call, or what gives its outcome instead of an attempt, or takes it up again that has rested.
func (x *submission) Run() {
	s := x.step()
	if s != nil && s.does == again {
		x.resume()
		return
	}
	res, err, normal := Result{}, error(nil), false
	defer func() {
		if !normal {
			res, err = Result{}, caught(x.inv.plan.tool.spec.Name, recover())
		}
		x.ended(res, err)
	}()
	var c Call
	if x.call(&c); s != nil && s.does == replaces {
		res, err = s.run(x.ctx, c)
	} else {
		res, err = x.inv.plan.adm.do(x.ctx, &c, 0, x.inv.first.attempt(c.Attempt))
	}
	normal = true
}

// End ends the attempt, which holds nothing.
func (x *submission) End(err error) {
	if x.inv.begun() > 1 {
		x.inv.attempts.End()
	}
	x.ended(Result{}, err)
}

// ended takes an outcome to the steps that are left, if there are any.
func (x *submission) ended(res Result, err error) {
	s := x.step()
	if s == nil {
		x.finish(res, err)
		return
	}
	if s.Result, s.Err = res, err; s.does != replaces {
		s.Result.from = x.inv.latest()
	}
	x.guarded(func() { x.climb(s, 0) })
}

// Cancel ends the attempt, whose context has ended, unless it has been decided meanwhile.
func (x *submission) Cancel() {
	x.guarded(func() {
		if x.wakes() {
			x.resume()
		} else if err := x.inv.plan.adm.giveUp(x.ctx, &x.inv, &x.ticket); err != nil {
			x.End(err)
		}
	})
}

// guarded runs f. The call ends if that panics or calls Goexit: a sink may have, or a context of somebody's
// own, or a step of an interceptor.
func (x *submission) guarded(f func()) {
	normal := false
	defer func() {
		if !normal && x.future != nil {
			x.fail(caught(x.inv.plan.tool.spec.Name, recover()))
		}
	}()
	f()
	normal = true
}

// fail ends the call, whose code does not run, and gives up its place in the queue.
func (x *submission) fail(err error) {
	if x.inv.plan != nil && x.inv.plan.adm != nil {
		x.inv.plan.adm.at.Stage.Forsake(&x.ticket)
	}
	x.finish(Result{}, err)
}

// call makes c the latest attempt.
func (x *submission) call(c *Call) {
	x.inv.fill(c, false)
	c.inv, c.Attempt, c.Input = &x.inv, x.inv.begun(), x.input
	if s := x.step(); s != nil {
		c.Input, c.within = s.input, s.within
	}
}

// finish reports the call's end and makes its outcome known.
func (x *submission) finish(res Result, err error) {
	f, e := x.future, x.inv.plan.exec
	x.input, x.future = nil, nil
	defer e.countOut()
	a := &answer{res, err}
	defer f.set(a) // also if a sink calls Goexit
	ctx := x.ctx
	if !x.place.Fired() { // else Cancel may be about to ask it
		x.ctx = nil // it may be that of a call that has ended
	}
	e.end(ctx, &x.inv, &a.res, &a.err)
}

// countOut counts it out.
func (e *Executor) countOut() {
	if e.census.Leave() {
		e.ended()
	}
}

// countMore counts calls that Close waits for beside those that were counted in, and attempts that
// nobody waits for any more.
func (e *Executor) countMore(calls, abandoned int) {
	e.census.Add(calls)
	e.abandoned.Add(int64(abandoned))
}

// ended is called when e has been closed and nobody is inside.
func (e *Executor) ended() {
	e.idled.Do(func() {
		e.plans.Clear()
		e.stage.Part((*inDomain)(e))
		close(e.idle)
	})
}

func (e *Executor) closed() bool { return e.census.Closed() }

// helperStarts counts in a goroutine that Close waits for, and helperEnds counts it out.
func (e *Executor) helperStarts() {
	e.census.Add(1)
	e.helpers.Add(1)
}

func (e *Executor) helperEnds() {
	e.helpers.Add(-1)
	e.countOut()
}

// Close refuses new and queued calls with [ErrClosed] and waits until the running ones have ended, abandoned tools
// and held streams included, or ctx ends; its error says how many are left. It may be called again, and concurrently.
// When it has returned nil, no goroutine and no timer is left, every call has reported its end, and every [Future]
// has its outcome. Gates and a SharedState that the caller made stay usable.
//
// With the context of a call of this executor, in its tool or a sink, it answers an error at once and closes nothing.
func (e *Executor) Close(ctx context.Context) error {
	if err := e.isMade(); err != nil {
		return err
	}
	if ctx == nil {
		return errors.New("sluice: Close: the context is nil: must not be, context.Background() waits for as long as it takes")
	}
	if inv := e.within(ctx); inv != nil {
		return fmt.Errorf("sluice: Close was called with the context of call %q of tool %q, which it would wait for: it must be called after the call, or with a context of another's", cut(inv.id, 128), cut(inv.plan.tool.spec.Name, 128))
	}
	if e.census.Close() {
		e.ended()
	}
	e.kept.Close()
	e.pauses.Hurry()
	for more := true; more; {
		s := e.stage.Lock()
		more = s.M.Expel(s.Now(), e.client)
		s.Unlock()
	}
	select {
	case <-e.idle:
	default:
		select {
		case <-e.idle:
		case <-ctx.Done():
			return fmt.Errorf("sluice: Close: %d calls still run: %w", max(1, int64(e.census.Inside())-e.helpers.Load()), context.Cause(ctx))
		}
	}
	e.deadlines.Close()
	e.pauses.Close()
	if e.ownState {
		return e.state.Close()
	}
	return nil
}

// help runs f on a goroutine that Close waits for.
func (e *Executor) help(f func()) {
	e.helperStarts()
	go func() {
		defer e.helperEnds()
		f()
	}()
}
