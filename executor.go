package sluice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/clock"
	"github.com/sluice-go/sluice/internal/compiled"
	"github.com/sluice-go/sluice/internal/crew"
	"github.com/sluice-go/sluice/internal/ctxwatch"
	"github.com/sluice-go/sluice/internal/deadline"
	"github.com/sluice-go/sluice/internal/ids"
	"github.com/sluice-go/sluice/internal/record"
	"github.com/sluice-go/sluice/internal/stage"
)

// Config configures an [Executor]. The zero value limits nothing; it runs tools safely:
// panics are caught, calls are observed, sizes and depth are bounded.
type Config struct {
	Interceptors    []Interceptor                             // outermost first; gates and the scheduler must be adjacent
	Sink            EventSink                                 // sees every call; nil discards
	State           *SharedState                              // what tools share; nil means a new one of the default size
	Timeout         time.Duration                             // per attempt; zero means none
	MaxWait         time.Duration                             // in the queue; zero means until the caller's context ends; or NoWait
	Classify        func(c Call, r Result, err error) Outcome // what an outcome means; nil means OutcomeAuto for all
	MaxArgBytes     int                                       // of a call's arguments; zero means 4 MiB
	MaxResultBytes  int                                       // of a result's JSON; zero means 16 MiB
	MaxDepth        int                                       // of nested calls that run; zero means 32
	MaxCallsPerRoot int                                       // calls under one outermost call that runs; zero means 10,000
	_               struct{}
}

// NoWait as a MaxWait means not to wait at all: a call starts at once or is refused. It is
// no value that sums of durations have by mistake.
const NoWait time.Duration = -1 << 62

const (
	defaultArgBytes    = 4 << 20
	defaultResultBytes = 16 << 20
	defaultDepth       = 32
	defaultCalls       = 10_000
	// nestedWait bounds the wait of a nested call that has no bound of its own: what it
	// waits for may be held by whoever waits for it.
	nestedWait = time.Minute
)

func (c Config) validate() (Config, error) {
	if err := check.Duration("sluice: Config.Timeout", c.Timeout); err != nil {
		return c, err
	}
	if err := check.Wait("sluice: Config.MaxWait", c.MaxWait, NoWait); err != nil {
		return c, err
	}
	for _, f := range []struct {
		name string
		v    *int
		def  int
	}{
		{"MaxArgBytes", &c.MaxArgBytes, defaultArgBytes},
		{"MaxResultBytes", &c.MaxResultBytes, defaultResultBytes},
		{"MaxDepth", &c.MaxDepth, defaultDepth},
		{"MaxCallsPerRoot", &c.MaxCallsPerRoot, defaultCalls},
	} {
		if *f.v < 0 || *f.v > 1<<30 {
			return c, fmt.Errorf("sluice: Config.%s is %d: must be zero (%d) or positive, up to %d", f.name, *f.v, f.def, 1<<30)
		}
		if *f.v == 0 {
			*f.v = f.def
		}
	}
	c.Interceptors = slices.Clone(c.Interceptors)
	return c, nil
}

// Executor runs a registry's tools through the interceptors. Make one with [NewExecutor];
// it is safe for concurrent use.
type Executor struct {
	registry *ToolRegistry
	conf     Config
	state    *SharedState
	ownState bool
	clock    clock.Clock
	client   *admit.Client // whose queue is bounded by itself
	stage    *stage.Stage
	members  []stage.Member // what ties it to other executors

	outer, inner []Interceptor // around admission, and inside it
	gates        []*gateCore   // without the scheduler

	plans compiled.Table[*registrySnapshot, tool, plan]

	deadlines deadline.Timer             // of attempts, of judging, of streams
	watched   *ctxwatch.Set[*submission] // submitted calls that wait
	crew      *crew.Crew                 // who runs and ends submitted calls

	ids     ids.Calls
	active  atomic.Int64 // twice the calls and helpers under way, plus one once closed
	helpers atomic.Int64 // goroutines beside the calls' own
	idle    chan struct{}
	idled   sync.Once

	completed, failed, denied atomic.Uint64
	delivered, dropped        atomic.Uint64
	abandoned                 atomic.Int64
}

// NewExecutor returns an executor, or an error that names the field of c that is out of
// range. Tools may be registered before or after. It starts nothing. In a testing/synctest
// bubble use an executor that was made there: for the queue and the rates of another no
// time passes in it.
//
// Executors that have a registry, a gate or a scheduler in common share one queue and one
// order, and what belongs together is fixed here: it is an error if r and the gates of c belong
// to live executors that share nothing so far, or if two schedulers would order one queue.
//
// An executor is live until it has been closed and its last call has ended, so it must be
// closed with [Executor.Close]. One that is not keeps what it lists tied together, and stays
// reachable, with its Sink and State, for as long as its registry or one of its gates is.
func NewExecutor(r *ToolRegistry, c Config) (*Executor, error) {
	if r == nil {
		return nil, errors.New("sluice: the ToolRegistry is nil: use NewToolRegistry")
	}
	c, err := c.validate()
	if err != nil {
		return nil, err
	}
	e := &Executor{registry: r, conf: c, state: c.State, clock: clock.New(), client: admit.NewClient(), idle: make(chan struct{})}
	e.deadlines.Clock, e.deadlines.Go = e.clock, e.help
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
	const before, among, after = 0, 1, 2
	place := before
	for i, x := range list {
		if isNil(x) {
			return nil, fmt.Errorf("sluice: Config.Interceptors[%d] is nil: must not be", i)
		}
		g := coreOf(x)
		switch {
		case g == nil && place == before:
			e.outer = append(e.outer, x)
			continue
		case g == nil:
			place = after
			e.inner = append(e.inner, x)
			continue
		case g.name == "":
			return nil, fmt.Errorf("sluice: Config.Interceptors[%d] is a zero %T: must be made by its New function", i, x)
		case place == after:
			return nil, fmt.Errorf("sluice: Config.Interceptors[%d] (%s) stands apart from the other gates: gates and the scheduler must be adjacent, they decide together", i, g.name)
		}
		place = among
		if s, ok := x.(*PriorityScheduler); ok {
			if sched != nil {
				return nil, fmt.Errorf("sluice: Config.Interceptors[%d] is a second PriorityScheduler: there must be at most one, it orders one queue", i)
			}
			sched = s
		} else if slices.Contains(e.gates, g) {
			return nil, fmt.Errorf("sluice: Config.Interceptors[%d] (%s) is listed twice: must be listed once", i, g.name)
		} else {
			e.gates = append(e.gates, g)
		}
		e.members = append(e.members, stage.Member{Ref: g.stage, Name: fmt.Sprintf("Config.Interceptors[%d] (%s)", i, g.name)})
	}
	return sched, nil
}

// Registry is where e finds its tools: what [NewExecutor] was given; nil if e has not been made
// by it.
func (e *Executor) Registry() *ToolRegistry {
	if e == nil {
		return nil
	}
	return e.registry
}

// inDomain is an executor as its domain sees it.
type inDomain Executor

// executorOf is who a domain knows as c.
func executorOf(c stage.Client) *Executor { return (*Executor)(c.(*inDomain)) }

// Members is what ties it to other executors.
func (e *inDomain) Members() []stage.Member { return e.members }

// Names is those of its gates and its scheduler.
func (e *inDomain) Names() []string {
	var names []string
	for _, x := range e.conf.Interceptors {
		if c := coreOf(x); c != nil {
			names = append(names, c.name)
		}
	}
	return names
}

// isNil also finds a nil pointer of one of the library's own components.
func isNil(x Interceptor) bool {
	switch g := x.(type) {
	case nil:
		return true
	case *ConcurrencyLimiter:
		return g == nil
	case *RateLimiter:
		return g == nil
	case *CircuitBreaker:
		return g == nil
	case *PriorityScheduler:
		return g == nil
	case InterceptorFunc:
		return g == nil
	}
	return false
}

// plan is one tool's chain in one executor, compiled once: interceptors, admission, tool.
type plan struct {
	exec   *Executor
	tool   *tool
	adm    *admission
	chain  Handler // nil if nothing goes around the admission
	alone  bool    // every event of a call comes from whoever is in charge of it: nobody else runs
	refuse error   // why every call is refused, if it is; and what came of it
	cause  error
}

// initPlans says how plans are made and dropped.
func (e *Executor) initPlans() {
	c := compiled.Config[*registrySnapshot, tool, plan]{
		Current: e.registry.current,
		Tool:    func(s *registrySnapshot, name string) *tool { return s.tools[name] },
		Change:  func(s *registrySnapshot) (uint64, string) { return s.seq, s.name },
		Begin:   e.newPlan,
		Of:      func(p *plan) *tool { return p.tool },
		Drop:    e.drop,
		Starts:  e.helperStarts,
		Ends:    e.helperEnds,
	}
	if e.wraps() {
		c.Finish = (*plan).wrap
	}
	e.plans.Init(c)
}

// wraps reports whether interceptors go around calls.
func (e *Executor) wraps() bool { return len(e.outer)+len(e.inner) > 0 }

// newPlan compiles what e's gates ask of t.
func (e *Executor) newPlan(t *tool) *plan {
	adm := newAdmission(e, t)
	return &plan{exec: e, tool: t, adm: adm, alone: !e.wraps() && adm.timeout == 0}
}

// drop has plans that nobody finds any more keep no cell of a limit. A call that has found one
// before finds its cells by their keys then.
func (e *Executor) drop(gone []*plan) (then func()) {
	s := e.stage.Lock()
	for _, p := range gone {
		p.adm.dropped = true
		for _, x := range p.adm.parts {
			if x.cell != nil {
				s.M.Unpin(s.Now(), x.cell)
			}
		}
	}
	return s.Release().Follow
}

// plan finds a tool's plan: two atomic loads and one look-up, unless the tool is new or there
// is none. Then it is nil; see compile.
func (e *Executor) plan(name string) *plan { return e.plans.Find(e.registry.current(), name) }

// compile finds or makes the plan of a tool that has none for the present registry. It answers
// one that refuses if there is no such tool, if the executor is closed, and if ctx ends while
// an interceptor's Wrap runs; the compiling goes on then, for later calls.
func (e *Executor) compile(ctx context.Context, name string) *plan {
	t := e.registry.current().tools[name]
	if t == nil {
		return e.missing(name)
	}
	defer e.leave()
	if !e.enter() { // nothing is made that nobody would take back
		return e.refusing(t, ErrClosed, nil)
	}
	var over <-chan struct{}
	if e.wraps() {
		over = ctx.Done()
	}
	if p := e.plans.Make(name, t, over); p != nil {
		return p
	}
	reason := ErrRejected
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		reason = ErrWaitTooLong
	}
	return e.refusing(t, reason,
		fmt.Errorf("sluice: the Wrap of an interceptor has not returned yet: %w", context.Cause(ctx)))
}

// missing is the plan of a tool that there is not. Interceptors may hide tools from some
// callers, and the library cannot know which: where there are any it names none.
func (e *Executor) missing(name string) *plan {
	var near error
	if !e.wraps() {
		near = e.registry.current().near(name)
	}
	return e.refusing(&tool{spec: Spec{Name: name}}, ErrUnknownTool, near)
}

// refusing is a plan that refuses every call.
func (e *Executor) refusing(t *tool, reason, cause error) *plan {
	return &plan{exec: e, tool: t, alone: true, refuse: reason, cause: cause}
}

// Request names a tool as a model does. Priority, tenant and sink come from the context's
// [PipelineContext], never from a request.
type Request struct {
	ID    string                             // the model's tool-call id; empty means made up
	Tool  string                             // as registered
	Args  json.RawMessage                    // decoded strictly: exact names, no duplicates, nothing unknown; blank is {}
	Input any                                // instead of Args: a value of the tool's In
	typed bool                               // Input counts also if it is nil
	code  func(context.Context) (any, error) // of a declared tool
	_     struct{}
}

// Invoke runs one call and waits for it. It blocks while the call queues, until it may
// start, ctx ends, MaxWait is over or the executor closes, and while the tool runs, until
// its code ends or Timeout is over.
//
// The error is a *[Error] if the library refused the call or its time was over, a
// *[PanicError] if its code panicked, and the tool's own otherwise. [runtime.Goexit] in a
// tool without a timeout ends the calling goroutine, as Go has it, after everything has
// been given back and reported; with a timeout, or through [Executor.Submit], it comes
// back as a *PanicError.
func (e *Executor) Invoke(ctx context.Context, r Request) (Result, error) {
	if err := e.unmade(&r); err != nil {
		return Result{}, err
	}
	open := e.enter()
	defer e.leave()
	return e.invoke(ctx, &r, newInvocation(), open)
}

// invoke runs a call that has been counted in.
func (e *Executor) invoke(ctx context.Context, r *Request, inv *invocation, open bool) (res Result, err error) {
	if ctx == nil {
		ctx = noContext
	}
	normal := false
	defer func() {
		if !normal {
			res, err = Result{}, caught(r.Tool, recover())
		}
		e.end(ctx, inv, &res, &err)
	}()
	var c Call
	now, err := e.prepare(ctx, r, inv, open, &c)
	switch {
	case err != nil:
	case inv.plan.chain == nil:
		res, err = inv.plan.adm.do(ctx, &c, now)
	default:
		res, err = inv.plan.chain(ctx, c)
	}
	normal = true
	return res, err
}

// prepare makes c the call of a request, and reports it. The instant it answers is the
// present one, or zero if foreign code has run since the clock was read.
func (e *Executor) prepare(ctx context.Context, r *Request, inv *invocation, open bool, c *Call) (int64, error) {
	inv.identify(ctx, e, r)
	now := e.clock.Now()
	inv.key, inv.began = CallKey(ids.NextKey()), now
	if inv.id == "" {
		if counted := inv.pipeline.ids; counted != nil {
			inv.id = counted.Call()
		} else {
			inv.id = e.ids.Next()
		}
	}
	calls := int32(0)
	if inv.depth > 0 {
		root := inv.root()
		if calls = root.calls.Add(1); int(calls) > e.conf.MaxCallsPerRoot {
			root.calls.Add(-1) // it is refused, however often that happens
		}
	}
	if inv.loud = e.conf.Sink != nil || inv.pipeline.Sink != nil; inv.loud {
		inv.tellInvoked(ctx, r, now)
		now = 0
	}
	inv.call(c)
	c.code = r.code
	if len(r.Args) > 0 || inv.plan.tool.spec.Check != nil {
		now = 0 // foreign code runs
	}
	err := inv.resolve(ctx, c, r, open, calls)
	if err == nil && (r.code == nil) != (inv.plan.tool.run != nil) {
		err = inv.refused(ErrInvalidArguments, "", inv.plan.tool.wrongCode())
	}
	return now, err
}

// ending is how a call ended, to its sinks.
type ending struct {
	ctx    context.Context
	kind   EventKind
	res    Result
	err    error
	by     string // the constraint behind err
	retry  time.Duration
	queued time.Duration
	held   time.Duration
	at     int64 // when the last attempt ended; zero if there was none
}

// end makes the call's outcome what it promises to be, and reports it, unless the result
// is a stream that holds the call open: endStreamed does then. Whoever counted the call in
// lets it go afterwards.
func (e *Executor) end(ctx context.Context, inv *invocation, res *Result, err *error) {
	fate := inv.fate.Or(isOver)
	x := ending{ctx: ctx, kind: ToolFailed}
	normal := false
	defer func() {
		if !normal { // the error's own code called Goexit
			x.err = caught(inv.plan.tool.spec.Name, recover())
			if fate&hasRun == 0 {
				x.err = inv.refused(ErrRejected, "", x.err)
			}
			*err, res.Value = x.err, nil
		}
		if x.res = *res; !e.conclude(inv, fate, res, &x) {
			e.report(inv, &x)
		}
	}()
	if *err == nil {
		x.kind = ToolCompleted
	} else {
		ran := fate&hasRun != 0
		*err = inv.verdict(*err, ran)
		res.Value = nil
		if !ran && isReason(*err, ErrDenied) {
			x.kind = ToolDenied
		}
		if x.err = *err; inv.loud {
			if x.by, x.retry = whose(x.err); !ran && x.retry == 0 { // an attempt that ran has asked its error already
				x.retry = foreignRetry(x.err)
			}
		}
		if inv.parent.Load() != nil && len(e.outer) > 0 { // which may have made it
			inv.passOn((*running)(nil).blames(*err).Carried)
		}
	}
	normal = true
}

// conclude takes from the attempts of a call that has just ended what they add up to, and
// counts those that nobody waits for any more. It reports whether the call's end has to
// wait for the stream that is its result.
func (e *Executor) conclude(inv *invocation, fate uint64, res *Result, x *ending) (streamed bool) {
	if underWay(fate) {
		s := inv.plan.adm.stage.Lock()
		defer s.Unlock()
	}
	sum := inv.totals()
	res.rec, res.max = sum.rec, e.conf.MaxResultBytes
	x.res = *res
	x.queued, x.held, x.at = time.Duration(sum.queued.Load()), time.Duration(sum.held), sum.ended
	h := sum.holds()
	held := h != nil && h.r != nil && x.err == nil
	if underWay(fate) {
		sum = inv.ownTotals()
		sum.rec, sum.counted = record.Sealed, true
		if streamed = held && h.r.live; streamed {
			if !h.r.left {
				sum.waited--
			}
			end := *x
			h.end = &end
			e.active.Add(2)
		}
		e.abandoned.Add(int64(sum.waited))
		e.active.Add(2 * int64(sum.waited))
	}
	if held && !streamed && h.err != nil { // it has ended already
		x.kind, x.err = ToolFailed, h.err
	}
	return streamed
}

// endStreamed reports the end of a call that its stream x has held open.
func (inv *invocation) endStreamed(x *stream) {
	e := inv.plan.exec
	defer e.leave()
	end := *x.end
	end.held, end.at = time.Duration(inv.first.held), inv.first.ended
	x.end.res.Value = nil // whoever keeps the call's context does not keep that
	if x.err != nil {
		end.kind, end.err, end.res.Value = ToolFailed, x.err, nil
	}
	e.report(inv, &end)
}

// report counts a call's end, and tells it.
func (e *Executor) report(inv *invocation, x *ending) {
	switch x.kind {
	case ToolCompleted:
		e.completed.Add(1)
	case ToolDenied:
		e.denied.Add(1)
	default:
		e.failed.Add(1)
	}
	if !inv.loud {
		inv.leaves()
		return
	}
	defer func() { // also if a sink calls Goexit
		inv.fate.Or(hasTold)
		inv.leaves()
	}()
	now := x.at
	if now == 0 || len(e.outer) > 0 { // there was no attempt, or it was not the end
		now = e.clock.Now()
	}
	t := inv.event(x.kind, now)
	t.last = true
	t.Call.Attempt = inv.attempts()
	t.Queued, t.Duration = x.queued, x.held
	if t.Err, t.By, t.RetryAfter = x.err, x.by, x.retry; x.err != nil {
		t.throttled(inv.totals(), now)
	}
	t.Result.rec, t.Result.max = x.res.rec, x.res.max
	if t.hasData = x.res.Value != nil; x.kind == ToolCompleted {
		t.value, t.OutputBytes = x.res.Value, outputBytes(x.res.Value)
	}
	inv.emit(inv.toSinks(x.ctx), t)
}

// enter counts a call in, and reports whether the executor is open.
func (e *Executor) enter() bool { return e.active.Add(2)&1 == 0 }

// leave counts it out.
func (e *Executor) leave() {
	if e.active.Add(-2) == 1 {
		e.ended()
	}
}

// ended is called when e has been closed and nobody is inside.
func (e *Executor) ended() {
	e.idled.Do(func() {
		e.plans.Clear()
		e.stage.Part((*inDomain)(e))
		close(e.idle)
	})
}

func (e *Executor) closed() bool { return e.active.Load()&1 == 1 }

// helperStarts counts in a goroutine that Close waits for, and helperEnds counts it out.
func (e *Executor) helperStarts() {
	e.active.Add(2)
	e.helpers.Add(1)
}

func (e *Executor) helperEnds() {
	e.helpers.Add(-1)
	e.leave()
}

// Close refuses new and queued calls with [ErrClosed] and waits until the running ones have
// ended, abandoned tools and held streams included, or ctx ends; its error then says how
// many are left. It may be called several times, and from several goroutines. When it has
// returned nil, no goroutine and no timer of the executor is left, every call has reported
// its end, and every [Future] has come to its outcome. Gates and a SharedState that the
// caller made stay usable.
//
// From inside a tool or a sink of a call of this executor, Close would wait for itself. It
// knows that by the context that those get, and answers an error at once, after which the
// executor is as open as before. With another context, such as [context.Background], it
// waits until that ends.
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
	if e.active.Or(1) == 0 {
		e.ended()
	}
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
			return fmt.Errorf("sluice: Close: %d calls still run: %w", max(1, e.active.Load()/2-e.helpers.Load()), context.Cause(ctx))
		}
	}
	e.deadlines.Close()
	if e.ownState {
		return e.state.Close()
	}
	return nil
}
