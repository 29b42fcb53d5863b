package sluice

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Reasons that the executor itself gives.
var (
	// ErrInvalidArguments: the arguments do not fit the tool, or the run's priority is out
	// of range.
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
	MaxWait         time.Duration                             // in the queue; zero means until the caller's context ends
	Classify        func(c Call, r Result, err error) Outcome // what an outcome means; nil means OutcomeAuto for all
	MaxArgBytes     int                                       // of a call's arguments; zero means 4 MiB
	MaxResultBytes  int                                       // of a result's JSON; zero means 16 MiB
	MaxDepth        int                                       // of nested calls; zero means 32
	MaxCallsPerRoot int                                       // calls under one outermost call; zero means 10,000
	_               struct{}
}

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
	if err := checkDuration("Config.Timeout", c.Timeout); err != nil {
		return c, err
	}
	if err := checkDuration("Config.MaxWait", c.MaxWait); err != nil {
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
	clock    clock
	stage    stageRef

	outer, inner []Interceptor // around admission, and inside it
	gates        []gate        // without the scheduler

	plans atomic.Pointer[planTable]

	deadlines deadlines  // of attempts
	watches   ctxWatches // over submitted calls
	recording sync.Mutex // of decisions, where attempts may end at once; taken last

	ids    idBlocks
	active atomic.Int64 // twice the calls under way, plus one once closed
	idle   chan struct{}
	idled  sync.Once

	completed, failed, denied atomic.Uint64
	delivered, dropped        atomic.Uint64
	abandoned                 atomic.Int64
}

// NewExecutor returns an executor, or an error that names the field of c that is out of
// range. Tools may be registered before or after. It starts nothing. In a testing/synctest
// bubble use an executor that was made there: for the queue and the rates of another no
// time passes in it.
func NewExecutor(r *ToolRegistry, c Config) (*Executor, error) {
	if r == nil {
		return nil, errors.New("sluice: the ToolRegistry is nil: use NewToolRegistry")
	}
	c, err := c.validate()
	if err != nil {
		return nil, err
	}
	e := &Executor{registry: r, conf: c, state: c.State, clock: newClock(), idle: make(chan struct{})}
	sched, err := e.arrange(c.Interceptors)
	if err != nil {
		return nil, err
	}
	refs := []*stageRef{&e.stage}
	for _, g := range e.gates {
		refs = append(refs, &g.gate().stage)
	}
	if sched != nil {
		refs = append(refs, &sched.core.stage)
	}
	if err := join(sched, refs...); err != nil {
		return nil, err
	}
	if e.state == nil {
		if e.state, err = NewSharedState(SharedStateConfig{}); err != nil {
			return nil, err
		}
		e.ownState = true
	}
	s := e.stage.lock()
	s.execs = append(s.execs, e)
	s.unlock()
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
		g, ok := x.(gate)
		switch {
		case !ok && place == before:
			e.outer = append(e.outer, x)
			continue
		case !ok:
			place = after
			e.inner = append(e.inner, x)
			continue
		case place == after:
			return nil, fmt.Errorf("sluice: Config.Interceptors[%d] (%v) stands apart from the other gates: gates and the scheduler must be adjacent, they decide together", i, x)
		}
		if g.gate().name == "" {
			return nil, fmt.Errorf("sluice: Config.Interceptors[%d] is a zero %T: must be made by its New function", i, x)
		}
		place = among
		if s, ok := x.(*PriorityScheduler); ok {
			if sched != nil {
				return nil, fmt.Errorf("sluice: Config.Interceptors[%d] is a second PriorityScheduler: there must be at most one, it orders one queue", i)
			}
			sched = s
			continue
		}
		if slices.Contains(e.gates, g) {
			return nil, fmt.Errorf("sluice: Config.Interceptors[%d] (%v) is listed twice: must be listed once", i, x)
		}
		e.gates = append(e.gates, g)
	}
	return sched, nil
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
	ID    string          // the model's tool-call id; empty means made up
	Tool  string          // as registered
	Args  json.RawMessage // decoded strictly: exact names, no duplicates, nothing unknown
	Input any             // instead of Args: a value of the tool's In
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
	return e.invoke(ctx, &r, newInvocation())
}

func (e *Executor) invoke(ctx context.Context, r *Request, inv *invocation) (res Result, err error) {
	open, normal := e.enter(), false
	defer func() {
		if !normal {
			res, err = Result{}, caught(r.Tool, recover())
		}
		res, err = e.end(ctx, inv, res, err)
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
	now := e.clock.now()
	inv.key, inv.began = newCallKey(), now
	if inv.id == "" {
		if ids := inv.pipeline.ids; ids != nil {
			inv.id = ids.call()
		} else {
			inv.id = e.ids.next()
		}
	}
	calls := int32(0)
	if inv.parent != nil {
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
	if err := inv.barred(open, calls); err != nil {
		return now, err
	}
	in, err := inv.plan.tool.input(r, e.conf.MaxArgBytes)
	if err != nil {
		return now, inv.refused(ErrInvalidArguments, "", err)
	}
	if c.Input = in; len(r.Args) > 0 {
		now = 0
	}
	return now, nil
}

func (inv *invocation) tellInvoked(ctx context.Context, r *Request, now int64) {
	var t telling
	inv.describe(&t, ToolInvoked, now)
	if t.input, t.InputBytes = r.Input, len(r.Args); r.Input == nil && len(r.Args) > 0 {
		t.input = r.Args
	}
	inv.emit(ctx, &t)
}

// identify says what inv is: which tool, on whose behalf, nested in what, how urgent.
func (inv *invocation) identify(ctx context.Context, e *Executor, r *Request) {
	inv.id = r.ID
	if inv.plan = e.plan(r.Tool); inv.plan == nil {
		inv.plan = e.missing(r.Tool)
	}
	sc := scopeOf(ctx) // panics if ctx is nil
	inv.pipeline = sc.pipeline
	inv.priority = cmp.Or(inv.plan.tool.spec.Policy.Priority, PriorityNormal)
	if p := inv.pipeline.Priority; p.valid() { // else zero, or the call will be refused
		inv.priority = p
	}
	if sc.call != nil {
		up := sc.call.inv
		inv.parent, inv.depth = sc.call, up.depth+1
		inv.priority = max(inv.priority, up.priority)
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

// input is the value that the tool gets.
func (t *tool) input(r *Request, max int) (in any, err error) {
	if r.Input == nil {
		return t.decoded(r.Args, max)
	}
	if len(r.Args) > 0 {
		return nil, errors.New("sluice: Request.Args and Request.Input are both set: must be one of them")
	}
	if !t.accepts(r.Input) {
		return nil, fmt.Errorf("sluice: Request.Input is %T: must be %v", r.Input, t.in)
	}
	return r.Input, nil
}

// decoded is the value that args say.
func (t *tool) decoded(args json.RawMessage, max int) (in any, err error) {
	defer func() { // a foreign UnmarshalJSON may panic
		if v := recover(); v != nil {
			in, err = nil, caught(t.spec.Name, v)
		}
	}()
	if len(args) == 0 && t.accepts(nil) {
		return nil, nil
	}
	return t.decode(args, max)
}

// end makes the call's outcome what it promises to be, reports it, and lets the call go.
func (e *Executor) end(ctx context.Context, inv *invocation, res Result, err error) (Result, error) {
	defer e.leave() // also if a sink calls Goexit
	sum := inv.totals()
	ran := inv.mark(isOver)&hasRun != 0
	kind := ToolCompleted
	if err != nil {
		err = inv.verdict(err, ran)
		res.Value = nil
	}
	switch {
	case err == nil:
		e.completed.Add(1)
	case isReason(err, ErrDenied) && !ran:
		kind = ToolDenied
		e.denied.Add(1)
	default:
		kind = ToolFailed
		e.failed.Add(1)
	}
	res.rec, res.max = inv.seal(), e.conf.MaxResultBytes
	if inv.loud {
		now := sum.ended.Load()
		if now == 0 || len(e.outer) > 0 { // there was no attempt, or it was not the end
			now = e.clock.now()
		}
		t := telling{last: true}
		inv.describe(&t, kind, now)
		t.Call.Attempt = inv.attempts()
		t.Queued = time.Duration(sum.queued.Load())
		t.Duration = time.Duration(sum.held.Load())
		t.Err, t.Result.rec, t.Result.max = err, res.rec, res.max
		if t.result, t.hasData = res.Value, res.Value != nil; kind == ToolCompleted {
			t.OutputBytes = outputBytes(res.Value)
		}
		defer inv.emit(ctx, &t) // also if a RetryAfter method calls Goexit
		if err != nil {
			t.By, t.RetryAfter = whose(err)
			t.throttled(sum, now)
			if !ran && t.RetryAfter == 0 { // an attempt that ran has asked its error already
				t.RetryAfter = foreignRetry(err)
			}
		}
	}
	return res, err
}

// whose is the constraint behind an error, and when to retry.
func whose(err error) (by string, retry time.Duration) {
	if x, ok := firstError[*Error](err); ok && x != nil {
		return x.By, max(x.RetryAfter, 0)
	}
	return "", 0
}

// foreignRetry is when to retry as an error with a RetryAfter method says; zero if none does.
func foreignRetry(err error) time.Duration {
	if x, ok := firstError[retryable](err); ok {
		return min(max(retryAfter(x), 0), maxPause)
	}
	return 0
}

// verdict holds that an error matches ErrRejected if and only if the tool's code did not run.
func (inv *invocation) verdict(err error, ran bool) error {
	refusal := isReason(err, ErrRejected)
	switch {
	case ran && refusal:
		return ranError{err, inv.key}
	case ran:
		if x, ok := err.(ranError); ok { // of a nested call
			return ranError{x.err, inv.key}
		}
		return err
	case refusal:
		return err
	}
	reason := ErrDenied
	if _, ok := err.(*PanicError); ok || isReason(err, context.Canceled) || isReason(err, context.DeadlineExceeded) {
		reason = ErrRejected
	}
	return inv.refused(reason, "", err)
}

func (inv *invocation) refused(reason error, by string, cause error) *Error {
	return &Error{Tool: inv.plan.tool.spec.Name, CallID: inv.id, Reason: reason, By: by, Cause: cause, key: inv.key}
}

// isReason is errors.Is on an error of foreign code, whose methods may panic.
func isReason(err, target error) (yes bool) {
	if err == target {
		return true
	}
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	if e, ok := err.(*Error); ok && (e.Cause == nil || e.Is(target)) { // as most are
		return e.Is(target)
	}
	return errors.Is(err, target)
}

// asError is errors.AsType likewise.
func asError[T error](err error) (x T, yes bool) {
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	return errors.AsType[T](err)
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
		e.idled.Do(func() { close(e.idle) })
	}
}

func (e *Executor) closed() bool { return e.active.Load()&1 == 1 }

// Close refuses new and queued calls with [ErrClosed] and waits until the running ones have
// ended, abandoned tools included, or ctx ends; its error then says how many are left. It
// may be called several times, from several goroutines, and from inside a tool, where it
// can only end with ctx. When it has returned nil, no goroutine and no timer of the
// executor is left, and every call has reported its end. Gates and a SharedState that the
// caller made stay usable.
func (e *Executor) Close(ctx context.Context) error {
	if e.active.Or(1) == 0 {
		e.idled.Do(func() { close(e.idle) })
	}
	for more := true; more; {
		s := e.stage.lock()
		more = s.m.Expel(s.now(), func(owner any) bool { return planOf(owner).exec == e })
		s.unlock()
	}
	select {
	case <-e.idle:
	default:
		select {
		case <-e.idle:
		case <-ctx.Done():
			return fmt.Errorf("sluice: Close: %d calls still run: %w", e.active.Load()/2, context.Cause(ctx))
		}
	}
	e.deadlines.close()
	s := e.stage.lock()
	s.execs = slices.DeleteFunc(s.execs, func(x *Executor) bool { return x == e })
	s.unlock()
	if e.ownState {
		return e.state.Close()
	}
	return nil
}

// Plan is the compiled chain of a tool, outermost first, as in
// "audit → admit[breaker concurrency rate] → search", and whether there is such a tool.
func (e *Executor) Plan(tool string) (string, bool) {
	p := e.plan(tool)
	if p == nil {
		return "", false
	}
	var parts []string
	for _, x := range e.outer {
		parts = append(parts, interceptorName(x))
	}
	names := make([]string, 0, len(e.gates))
	for _, x := range e.conf.Interceptors {
		if g, ok := x.(gate); ok {
			names = append(names, g.gate().name)
		}
	}
	if p.tool.spec.Policy.limits() {
		names = append(names, p.tool.shared.core.name)
	}
	if len(names) > 0 {
		parts = append(parts, "admit["+strings.Join(names, " ")+"]")
	}
	for _, x := range e.inner {
		parts = append(parts, interceptorName(x))
	}
	return strings.Join(append(parts, p.tool.spec.Name), " → "), true
}

func (p *Policy) limits() bool {
	return p.Concurrency > 0 || len(p.Rates) > 0 || p.Breaker != nil
}

func interceptorName(x Interceptor) string {
	if s, ok := x.(fmt.Stringer); ok {
		return s.String()
	}
	if f, ok := x.(InterceptorFunc); ok {
		return funcName(f)
	}
	t := fmt.Sprintf("%T", x)
	return t[strings.LastIndexByte(t, '.')+1:]
}
