package sluice

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/compiled"
	"github.com/sluice-go/sluice/internal/cow"
	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/learned"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
	"github.com/sluice-go/sluice/internal/strictjson"
	"github.com/sluice-go/sluice/internal/typed"
)

// ErrUnknownTool is the reason of a call that names no tool.
var ErrUnknownTool = errors.New("unknown tool")

// ToolRegistry holds named tools; zero is empty. It is safe for concurrent use, and must not be
// copied. A call keeps the tool it resolved. Reading takes no lock; a change copies the names.
type ToolRegistry struct {
	tools cow.Map[tool]
	stage stage.Ref // of its executors and tools
}

// current is the tools that there are now.
func (r *ToolRegistry) current() map[string]*tool { return r.tools.Now().All }

// tool is one registered function under one policy.
type tool struct {
	spec     Spec
	in       reflect.Type
	accepts  func(in any) bool
	required []string // arguments, sorted
	decode   func(json.RawMessage, strictjson.Limits) (any, error)
	run      func(ctx context.Context, in any) (any, error) // nil if it comes with each call
	own      rules.Tool                                     // what the policy limits it to
	shared   *toolShared
}

// toolShared is what all versions of a tool's policy have in common.
type toolShared struct {
	id      uint64
	core    gateCore // the policy's own constraints; the first is the tool's slots
	learned learned.Costs
}

var toolIDs atomic.Uint64

// NewToolRegistry returns an empty one.
func NewToolRegistry() *ToolRegistry { return new(ToolRegistry) }

// Lookup returns the spec of a tool.
func (r *ToolRegistry) Lookup(name string) (Spec, bool) {
	if t := r.current()[name]; t != nil {
		return t.spec.clone(), true
	}
	return Spec{}, false
}

// Tools lists the specs of one instant, sorted.
func (r *ToolRegistry) Tools() iter.Seq[Spec] {
	tools := r.current()
	return func(yield func(Spec) bool) {
		for _, name := range slices.Sorted(maps.Keys(tools)) {
			if !yield(tools[name].spec.clone()) {
				return
			}
		}
	}
}

// Remove takes a tool out, and reports whether it was there; calls that resolved it still run.
// After the last its limits are forgotten, but debt, pause or open breaker of a ByTool or ByType
// limit when over, for the 1,000 tools that remember longest: one that comes back finds it.
func (r *ToolRegistry) Remove(name string) bool {
	if !r.tools.Remove(name) {
		return false
	}
	for _, c := range r.stage.Clients() {
		if e := executorOf(c); e.registry == r {
			e.plans.Follow()
		}
	}
	return true
}

// put adds t, or replaces the tool of that name, whichever is asked for.
func (r *ToolRegistry) put(t *tool, replace bool) error {
	return r.tools.Change(t.spec.Name, func(was *tool) (*tool, error) {
		switch {
		case was != nil && !replace:
			return nil, fmt.Errorf("sluice: tool %q is registered already: use Replace, or another name", t.spec.Name)
		case was == nil && replace:
			return nil, errtext.Unregistered("", t.spec.Name, r.current(), "use Register")
		}
		return t, nil
	})
}

// Spec describes a tool to models, to limits and to whoever calls it. Only Name is required.
type Spec struct {
	Name        string // [A-Za-z0-9_.-]{1,128}
	Description string
	Type        string // groups tools for limits, e.g. "web"

	// InputSchema is a JSON Schema, its type "object" or none. JSON arguments must have what its
	// top-level required names; the rest is for Check. OutputSchema, an object too, is only shown.
	InputSchema, OutputSchema json.RawMessage

	Hints  Hints
	Policy Policy

	// Check, by a schema or business rules, refuses calls with ErrInvalidArguments and its error as
	// the Cause, whose text reaches models and events. It runs once per call, also if typed, and for
	// Explain, after decoding and before interceptors, on the caller's goroutine, outside locks; it
	// may take time. c.JSON has the arguments as they came. A panic refuses.
	Check func(ctx context.Context, c Call) error

	decode func(json.RawMessage) (any, error) // a result; nil if the tool is declared
	_      struct{}
}

// Decode makes a result of the tool's Out again of its JSON, for interceptors that store results. It is
// lenient, as encoding/json is. Of a declared tool, or a Spec that no registry gave, it is a copy of raw,
// a json.RawMessage, which [Do] and typed handles decode.
func (s Spec) Decode(raw json.RawMessage) (any, error) {
	if s.decode == nil {
		return slices.Clone(raw), nil
	}
	return s.decode(raw)
}

func (s Spec) clone() Spec {
	s.InputSchema, s.OutputSchema = slices.Clone(s.InputSchema), slices.Clone(s.OutputSchema)
	s.Policy.Rates = slices.Clone(s.Policy.Rates)
	if b := s.Policy.Breaker; b != nil {
		c := *b
		s.Policy.Breaker = &c
	}
	return s
}

// Hints are MCP's tool annotations, for interceptors; nobody checks them.
type Hints struct {
	ReadOnly, Idempotent, Destructive, OpenWorld bool
	Untrusted                                    bool // as of a server that nobody vouches for: no layer goes by them unasked
}

// Policy has limits and settings of one tool. Its limits join the gates, in all executors; its settings replace
// theirs.
type Policy struct {
	Priority    Priority       // unless the run sets one; zero means PriorityNormal
	Concurrency int            // most calls at once; zero means no limit
	Rates       []Rate         // of this tool alone
	Breaker     *BreakerPolicy // likewise
	Timeout     time.Duration  // per attempt; zero means Config.Timeout
	MaxTimeout  time.Duration  // per attempt, with what Extend adds; zero means Timeout
	Cooperative bool           // ends with its context: a timeout takes no goroutine
	MaxWait     time.Duration  // in the queue; zero means Config.MaxWait; or NoWait

	// Cost estimates what c takes of each Unit of its rates, and of its limits unless empty, once
	// per attempt, outside locks. Zero takes nothing, more than a bucket holds counts as that;
	// negative, or a panic, refuses. nil means 1, or what ReportUsage told of earlier calls.
	Cost func(c Call, unit string) int64

	// Classify runs outside locks. OutcomeAuto, a panic and nil leave it to Config.Classify.
	Classify func(c Call, r Result, err error) Outcome
	_        struct{}
}

// complete fills in the defaults of s, and is what its policy limits the tool to.
func (s *Spec) complete() (own rules.Tool, err error) {
	if err := cmp.Or(
		check.Tool("sluice: Spec.Name", s.Name),
		check.Name("sluice: Spec.Type", s.Type),
		strictjson.CheckSchema(s.field("OutputSchema"), s.OutputSchema)); err != nil {
		return own, err
	}
	return s.Policy.complete(s.Name)
}

// field is what a field of s is called in errors.
func (s *Spec) field(name string) string { return fmt.Sprintf("sluice: Spec.%s of %q", name, s.Name) }

// complete fills in the defaults of p, and is what it limits the tool to.
func (p *Policy) complete(tool string) (own rules.Tool, err error) {
	if p.Priority != 0 && !rules.IsPriority(p.Priority) {
		return own, fmt.Errorf("sluice: Policy.Priority is %d: must be zero (%d) or from %d to %d",
			p.Priority, PriorityNormal, PriorityBatch, PriorityInteractive)
	}
	if err := cmp.Or(
		check.Count("sluice: Policy.Concurrency", &p.Concurrency, 0, rules.MaxLimit),
		check.Duration("sluice: Policy.Timeout", p.Timeout),
		check.Most("sluice: Policy.MaxTimeout", p.MaxTimeout, "Timeout", p.Timeout),
		check.Wait("sluice: Policy.MaxWait", p.MaxWait, NoWait)); err != nil {
		return own, err
	}
	var b *rules.Breaker
	if p.Breaker != nil {
		b = new(rules.Breaker(*p.Breaker))
		p.Breaker = (*BreakerPolicy)(b)
	}
	return rules.CompleteTool("sluice: Policy", tool, p.Concurrency, &p.Rates, b, max(p.Timeout, p.MaxTimeout))
}

// Tool is a handle on a tool, for several executors. It calls what has its name then.
type Tool[In, Out any] struct{ name string }

// Register adds fn under s.Name, which must be free. fn must be safe for concurrent use and may
// panic or Goexit; it should return when its context is done. An In of json.RawMessage gets
// arguments undecoded, checked for form, size and required; such an Out passes unencoded.
func Register[In, Out any](r *ToolRegistry, s Spec, fn func(context.Context, In) (Out, error)) (*Tool[In, Out], error) {
	return put(r, s, fn, false)
}

// Replace is Register for a taken name. Calls of the old function go on; its limits end.
func Replace[In, Out any](r *ToolRegistry, s Spec, fn func(context.Context, In) (Out, error)) (*Tool[In, Out], error) {
	return put(r, s, fn, true)
}

func put[In, Out any](
	r *ToolRegistry, s Spec, fn func(context.Context, In) (Out, error), replace bool,
) (*Tool[In, Out], error) {
	t, err := newTool[In](r, s)
	if err != nil {
		return nil, err
	}
	if fn == nil {
		return nil, fmt.Errorf("sluice: the function of tool %q is nil: must not be", cut(s.Name, 128))
	}
	t.spec.decode, t.run = typed.Decode[Out], typed.Func(fn)
	if err := r.put(t, replace); err != nil {
		return nil, err
	}
	return &Tool[In, Out]{s.Name}, nil
}

// newTool is a tool of r without a function.
func newTool[In any](r *ToolRegistry, s Spec) (*tool, error) {
	if r == nil {
		return nil, errors.New("sluice: the ToolRegistry is nil: use NewToolRegistry")
	}
	s = s.clone()
	own, err := s.complete()
	required, wrong := strictjson.Required(s.field("InputSchema"), s.InputSchema)
	if err := cmp.Or(err, wrong); err != nil {
		return nil, err
	}
	t := &tool{
		spec: s, own: own, shared: &toolShared{id: toolIDs.Add(1)},
		in: reflect.TypeFor[In](), accepts: typed.Accepts[In], required: required, decode: strictjson.Into[In],
	}
	t.shared.core.name, t.shared.core.stage = rules.ToolLabel(s.Name), &r.stage
	t.shared.core.limits = own.Limits()
	return t, nil
}

// Declare adds a tool whose code comes with each call, by [Do]; a function's name is an error.
// Arguments come as a json.RawMessage, see [Register], or any Input. It does not wait and may be
// called again at any time: a later s replaces the earlier, but limits stay with their counts, see
// [ToolRegistry.WithPolicy]. If s differs, or has a Check, the next call compiles the chain again.
func Declare(r *ToolRegistry, s Spec) error {
	t, err := newTool[json.RawMessage](r, s)
	if err != nil {
		return err
	}
	t.accepts = func(any) bool { return true }
	return r.tools.Change(t.spec.Name, func(was *tool) (*tool, error) {
		if was == nil {
			return t, nil
		}
		if was.run != nil {
			return nil, fmt.Errorf("sluice: tool %q is registered with a function of its own: must be another name", t.spec.Name)
		}
		t.spec.Policy, t.own, t.shared = was.spec.Policy, was.own, was.shared
		if t.spec.alike(&was.spec) {
			return was, nil
		}
		return t, nil
	})
}

// wrongCode says why a call of t, whose code comes with it or does not, cannot be.
func (t *tool) wrongCode() error {
	if t.run == nil {
		return errors.New("sluice: the tool is declared: must be called by Do, with the code of the call")
	}
	return errors.New("sluice: the tool has a function of its own: Do must call one that is declared")
}

// alike reports whether s says what o does. Of two Checks nobody knows.
func (s *Spec) alike(o *Spec) bool {
	a, b := *s, *o
	a.Policy, b.Policy, a.decode, b.decode = Policy{}, Policy{}, nil, nil
	return a.Check == nil && b.Check == nil && reflect.DeepEqual(a, b)
}

// Do runs fn as this call of a declared tool, as [Executor.Invoke]; one that has a function refuses
// with [ErrInvalidArguments].
func Do[Out any](ctx context.Context, e *Executor, r Request, fn func(context.Context) (Out, error)) (Out, error) {
	r.code = typed.CodeOf[Out](fn)
	res, err := e.Invoke(ctx, r)
	return answered[Out](r.Tool, res, err)
}

// answered is the typed outcome of a call of the tool.
func answered[Out any](tool string, res Result, err error) (Out, error) {
	if err != nil {
		out, _ := res.Partial().(Out)
		return out, err
	}
	if out, ok := res.Value.(Out); ok {
		return out, nil
	}
	return typed.Answer[Out](tool, res.Value)
}

// input is the value that the tool gets.
func (t *tool) input(r *Request, max int) (in any, err error) {
	if r.Input == nil && !r.typed {
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
	defer t.rescue(&err) // a foreign UnmarshalJSON may panic
	return t.decode(args, strictjson.Limits{MaxBytes: max, Required: t.required})
}

// rescue makes an error of a panic.
func (t *tool) rescue(err *error) {
	if v := recover(); v != nil {
		*err = caught(t.spec.Name, v)
	}
}

// checked is what the tool's Check says of c, which is r's.
func (t *tool) checked(ctx context.Context, c Call, r *Request) (err error) {
	defer t.rescue(&err)
	if r.Input == nil && !r.typed {
		c.args = new(r.Args)
	}
	return t.spec.Check(ctx, c)
}

// Wrap registers fn with e's registry and returns it guarded; a closed e answers [ErrClosed]. fn must pass its context
// on: else its calls are not nested, and may wait for ever for a limit that fn holds (see [LimitStalled]).
func Wrap[In, Out any](
	e *Executor, s Spec, fn func(context.Context, In) (Out, error),
) (func(context.Context, In) (Out, error), error) {
	if err := e.isMade(); err != nil {
		return nil, err
	}
	if e.closed() {
		return nil, fmt.Errorf("sluice: Wrap of tool %q: %w", cut(s.Name, 128), ErrClosed)
	}
	t, err := Register(e.registry, s, fn)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, in In) (Out, error) { return t.Invoke(ctx, e, in) }, nil
}

// Invoke runs the tool through e, as [Executor.Invoke].
func (t *Tool[In, Out]) Invoke(ctx context.Context, e *Executor, in In) (Out, error) {
	res, err := e.Invoke(ctx, Request{Tool: t.name, Input: in, typed: true})
	return answered[Out](t.name, res, err)
}

// Must returns v or panics: for program start.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// WithPolicy is the change of one tool's policy, applied by [Reconfigure]. Limits that come or go do
// so at once, for calls that wait too; calls that run count under new ones as far as old ones counted
// them. What stays keeps what it has counted; a new rate starts no fuller than the fullest of its unit.
func (r *ToolRegistry) WithPolicy(tool string, p Policy) Change {
	return Change{&policyChange{r: r, name: tool, to: p}}
}

// Lift ends the pause of a tool and forgives the debts of its own rates, as [RateLimiter.Lift] does
// for a key. It fails if there is no such tool. It does not block.
func (r *ToolRegistry) Lift(tool string) error {
	if r == nil {
		return errors.New("sluice: Lift: the ToolRegistry is nil")
	}
	t := r.current()[tool]
	if t == nil {
		return errtext.Unregistered("Lift: ", tool, r.current(), "must be")
	}
	s := t.shared.core.stage.Lock()
	var cells []*admit.Cell
	for _, l := range t.shared.core.limits {
		if c := l.Class.Lookup(""); c != nil {
			cells = append(cells, c)
		}
	}
	s.Lift(cells)
	s.Unlock()
	return nil
}

// plan is one tool's chain in one executor, compiled once: interceptors, admission, tool.
type plan struct {
	exec   *Executor
	tool   *tool
	adm    *admission
	chain  Handler // nil if nothing goes around the admission but steps
	steps  []Steps // that do
	around bool    // something does
	once   bool    // attempts come one after the other, and the next when there is nothing to do for the last
	single bool    // and nothing is inside the admission for it: every event of a call comes from whoever is in charge of it
	refuse error   // why every call is refused, if it is; and what came of it
	cause  error
}

// initPlans says how plans are made and dropped.
func (e *Executor) initPlans() {
	c := compiled.Config[*cow.Snapshot[tool], tool, plan]{
		Current: e.registry.tools.Now,
		Tool:    func(s *cow.Snapshot[tool], name string) *tool { return s.All[name] },
		Change:  func(s *cow.Snapshot[tool]) (uint64, string) { return s.Seq, s.Name },
		Begin:   e.newPlan,
		Of:      func(p *plan) *tool { return p.tool },
		Name:    func(t *tool) string { return t.spec.Name },
		Drop:    e.drop,
		Starts:  e.helperStarts, Ends: e.helperEnds,
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
	p := &plan{exec: e, tool: t, adm: adm, around: len(e.outer) > 0, once: len(e.outer) == 0 || e.inSteps}
	p.single = p.once && len(e.inner) == 0
	return p
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
	if e.inSteps {
		for _, x := range e.outer {
			if l := x.(Stepper).Steps(t.spec.clone()); l.Before != nil || l.After != nil {
				p.steps = append(p.steps, l)
			}
		}
	}
	run := func(ctx context.Context, c Call) (Result, error) {
		if !t.accepts(c.Input) { // an interceptor's doing
			err := fmt.Errorf("sluice: Call.Input is %T: must be %v", c.Input, t.in)
			if c.inv == nil {
				return Result{}, &Error{Tool: t.spec.Name, CallID: c.ID, Reason: ErrInvalidArguments, Cause: err}
			}
			return Result{}, c.inv.refused(ErrInvalidArguments, "", err)
		}
		return runTool(ctx, &c, t)
	}
	inside := wrapAll(e.inner, t.spec, run)
	if p.single = p.once && compiled.Same(inside, run); p.single {
		p.adm.needs.Quicken()
	} else if h := p.adm.handler(inside); !e.inSteps {
		p.chain = wrapAll(e.outer, t.spec, h)
	}
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

// drop has plans that nobody finds any more keep no cell of a limit. A call that has found one
// before finds its cells by their keys then.
func (e *Executor) drop(gone []*plan) (then func()) {
	s := e.stage.Lock()
	for _, p := range gone {
		p.adm.needs.Drop()
	}
	return s.Release().Follow
}

// plan finds a tool's plan: two atomic loads and one look-up, unless the tool is new or there
// is none. Then it is nil; see compile.
func (e *Executor) plan(name string) *plan { return e.plans.Find(e.registry.tools.Now(), name) }

// compile finds or makes the plan of a tool that has none for the present registry. It answers
// one that refuses if there is no such tool, if the executor is closed, and if ctx ends while
// an interceptor's Wrap runs; the compiling goes on then, for later calls.
func (e *Executor) compile(ctx context.Context, name string) *plan {
	t := e.registry.current()[name]
	if t == nil {
		return e.missing(name)
	}
	defer e.countOut()
	if !e.census.Enter() { // nothing is made that nobody would take back
		return e.refusing(t, ErrClosed, nil)
	}
	var over <-chan struct{}
	if e.wraps() {
		over = ctx.Done()
	}
	if p := e.plans.Make(t, over); p != nil {
		return p
	}
	reason := ErrRejected
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		reason = ErrWaitTooLong
	}
	return e.refusing(t, reason,
		fmt.Errorf("sluice: the Wrap of an interceptor has not returned yet: %w", context.Cause(ctx)))
}

// missing is the plan of a tool that there is not. It names none where interceptors may hide some from callers.
func (e *Executor) missing(name string) *plan {
	var meant error
	if tools := e.registry.current(); !e.wraps() {
		meant = errtext.Meant(name, tools)
	}
	return e.refusing(&tool{spec: Spec{Name: name}}, ErrUnknownTool, meant)
}

// refusing is a plan that refuses every call.
func (e *Executor) refusing(t *tool, reason, cause error) *plan {
	return &plan{exec: e, tool: t, once: len(e.outer) == 0, single: true, refuse: reason, cause: cause}
}

// Registry is what [NewExecutor] was given; nil for an executor that it has not made.
func (e *Executor) Registry() *ToolRegistry {
	if e == nil {
		return nil
	}
	return e.registry
}
