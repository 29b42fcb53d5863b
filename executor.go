package sluice

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/blame"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/clock"
	"github.com/sluice-go/sluice/internal/crew"
	"github.com/sluice-go/sluice/internal/ctxwatch"
	"github.com/sluice-go/sluice/internal/deadline"
	"github.com/sluice-go/sluice/internal/ids"
	"github.com/sluice-go/sluice/internal/record"
	"github.com/sluice-go/sluice/internal/stage"
)

// Reasons that the executor itself gives.
var (
	// ErrInvalidArguments: the arguments do not fit the tool, its Spec.Check refused them, or
	// the run's priority is out of range.
	ErrInvalidArguments = errors.New("invalid arguments")
	// ErrNesting: nested calls are too deep, too many, or their limits wait for each other.
	ErrNesting = errors.New("nesting")
	// ErrClosed: the executor has been closed.
	ErrClosed = errors.New("executor closed")
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
	if err := checkWait("Config.MaxWait", c.MaxWait); err != nil {
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

	plans    atomic.Pointer[planTable]
	planning sync.Mutex // held by who writes plans
	making   map[*tool]*making

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

// Listeners is who is told what happens outside calls: each sink once, of however many of all it
// is.
func (e *inDomain) Listeners(all []stage.Client) (list []stage.Listener) {
	var told []EventSink
	for _, c := range all {
		x := (*Executor)(c.(*inDomain))
		s := x.conf.Sink
		for _, o := range told {
			s = without(s, o)
		}
		if s != nil {
			told, list = append(told, s), append(list, listener{x, s})
		}
	}
	return list
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

// noContext stands for a context that is nil: the call is reported and refused.
var noContext context.Context = &nilContext{context.Background()}

type nilContext struct{ context.Context }

// unmade is the error of a call of an executor that NewExecutor has not made.
func (e *Executor) unmade(r *Request) error {
	if err := e.isMade(); err != nil {
		return &Error{Tool: r.Tool, CallID: r.ID, Reason: ErrRejected, Cause: err}
	}
	return nil
}

func (e *Executor) isMade() error {
	switch {
	case e == nil:
		return errors.New("sluice: the Executor is nil: use NewExecutor")
	case e.registry == nil:
		return errors.New("sluice: the Executor is zero: use NewExecutor")
	}
	return nil
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

// resolve gives c the value that the tool gets, if it takes that, or says why c must not be
// admitted whatever the gates say.
func (inv *invocation) resolve(ctx context.Context, c *Call, r *Request, open bool, calls int32) error {
	if err := inv.unfit(ctx); err != nil {
		return err
	}
	if err := inv.barred(open, calls); err != nil {
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

// unfit is the error of a call with that context, if it cannot be one's.
func (inv *invocation) unfit(ctx context.Context) error {
	if ctx == noContext {
		return inv.refused(ErrInvalidArguments, "", errors.New("sluice: the context is nil: must not be, context.Background() is one for any use"))
	}
	return nil
}

// barred says why inv must not be admitted whatever its arguments are, if it is the one
// that makes it so many calls under its root.
func (inv *invocation) barred(open bool, calls int32) error {
	conf := &inv.plan.exec.conf
	switch {
	case !open:
		return inv.refused(ErrClosed, "", nil)
	case inv.plan.refuse != nil:
		return inv.refused(inv.plan.refuse, "", inv.plan.cause)
	case inv.pipeline.Priority != 0 && !inv.pipeline.Priority.valid():
		return inv.refused(ErrInvalidArguments, "", fmt.Errorf("sluice: PipelineContext.Priority is %d: must be zero (the tool's) or from %d to %d", inv.pipeline.Priority, PriorityBatch, PriorityInteractive))
	case int(inv.depth) > conf.MaxDepth:
		return inv.refused(ErrNesting, "", fmt.Errorf("sluice: nested %d deep: Config.MaxDepth allows %d", inv.depth, conf.MaxDepth))
	case int(calls) > conf.MaxCallsPerRoot:
		return inv.refused(ErrNesting, "", fmt.Errorf("sluice: call %d under call %q: Config.MaxCallsPerRoot allows %d", calls, cut(inv.root().id, 128), conf.MaxCallsPerRoot))
	}
	return nil
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

// whose is the constraint behind an error, and when to retry.
func whose(err error) (by string, retry time.Duration) {
	if x := ownError(err); x != nil {
		return x.By, max(x.RetryAfter, 0)
	}
	return "", 0
}

// foreignRetry is when to retry as an error with a RetryAfter method says; zero if none does.
func foreignRetry(err error) time.Duration {
	return min(blame.After(err), stage.MaxPause)
}

// verdict holds that an error matches ErrRejected if and only if the tool's code did not run.
func (inv *invocation) verdict(err error, ran bool) error {
	refusal := isReason(err, ErrRejected)
	switch {
	case ran && refusal:
		return passedOn(err, inv.key)
	case ran:
		if x, ok := err.(ranError); ok { // of a nested call
			return passedOn(x.Err, inv.key)
		}
		return err
	case refusal:
		return err
	}
	if e, ok := err.(*Error); ok && e.Reason == ErrTimeout { // of an attempt whose code had not begun
		return inv.refused(ErrWaitTooLong, "", notBegun{})
	}
	reason := ErrDenied
	if _, ok := err.(*PanicError); ok || isReason(err, context.Canceled) || isReason(err, context.DeadlineExceeded) {
		reason = ErrRejected
	}
	return inv.refused(reason, "", err)
}

// notBegun is why a call was refused whose attempt was out of time before it ran.
type notBegun struct{}

func (notBegun) Error() string        { return "its time was over before its code began" }
func (notBegun) Is(target error) bool { return target == context.DeadlineExceeded }

func (inv *invocation) refused(reason error, by string, cause error) *Error {
	return &Error{Tool: inv.plan.tool.spec.Name, CallID: inv.id, Reason: reason, By: by, Cause: cause, key: inv.key}
}

// caught is what recover gave as an error. It must be called by the deferred function
// that recovers, for the stack's sake.
func caught(tool string, v any) *PanicError {
	if v == nil {
		return &PanicError{Tool: tool, Goexit: true, Stack: debug.Stack()}
	}
	return &PanicError{Tool: tool, Value: v, Stack: debug.Stack()}
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
		e.dropPlans()
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
