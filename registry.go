package sluice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/bucket"
	"github.com/sluice-go/sluice/internal/check"
	"github.com/sluice-go/sluice/internal/compiled"
	"github.com/sluice-go/sluice/internal/cow"
	"github.com/sluice-go/sluice/internal/errtext"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
	"github.com/sluice-go/sluice/internal/strictjson"
)

// ErrUnknownTool is the reason of a call that names no tool of the registry.
var ErrUnknownTool = errors.New("unknown tool")

// ToolRegistry holds named tools. The zero value is empty and ready to use. It is safe
// for concurrent use, also while calls run: a call keeps the tool it resolved. Reading it
// takes no lock; a change copies the table of names, which takes some tenths of a millisecond
// with 10,000 tools. It must not be copied.
type ToolRegistry struct {
	mu    sync.Mutex                       // held by writers
	snap  atomic.Pointer[registrySnapshot] // nil until the first tool; read it through current
	stage stage.Ref                        // of the executors over it, and of the tools' own limits
}

// registrySnapshot never changes once it is stored.
type registrySnapshot struct {
	tools map[string]*tool
	seq   uint64 // of the registry's snapshots
	name  string // of the one tool that was another, or not there, in the one before
}

var noTools registrySnapshot

func (r *ToolRegistry) current() *registrySnapshot {
	if s := r.snap.Load(); s != nil {
		return s
	}
	return &noTools
}

// maxNear bounds among how many tools a near name is looked for.
const maxNear = 10_000

// near is the tools whose names are nearest to one that there is not; nil if none is near.
func (s *registrySnapshot) near(name string) error {
	if len(s.tools) > maxNear {
		return nil
	}
	if names := errtext.Nearest(name, maps.Keys(s.tools)); names != nil {
		return names
	}
	return nil
}

// tool is one registered function under one policy.
type tool struct {
	spec     Spec
	in       reflect.Type
	accepts  func(in any) bool
	required []string // arguments, sorted
	decode   func(args json.RawMessage, max int) (any, error)
	run      func(ctx context.Context, in any) (any, error) // nil if it comes with each call
	rates    []bucket.Rate                                  // of the policy
	shared   *toolShared
}

// toolShared is what all versions of a tool's policy have in common.
type toolShared struct {
	id      uint64
	core    gateCore // the policy's own constraints; the first is the tool's slots
	learned sync.Map // unit → *atomic.Int64: what calls turned out to cost
}

var toolIDs atomic.Uint64

// estimate is what calls of the tool are expected to use of a unit: what they used
// lately, 1 before anything is known.
func (t *toolShared) estimate(unit string) int64 {
	if v, ok := t.learned.Load(unit); ok {
		return max(1, v.(*atomic.Int64).Load())
	}
	return 1
}

// learn has the estimate follow what a call used.
func (t *toolShared) learn(unit string, used int64) {
	v, ok := t.learned.Load(unit)
	if !ok {
		v, ok = t.learned.LoadOrStore(unit, new(atomic.Int64))
	}
	est := v.(*atomic.Int64)
	if !ok {
		est.Store(used)
		return
	}
	old := est.Load()
	est.CompareAndSwap(old, bucket.Learn(old, used))
}

// NewToolRegistry returns an empty registry.
func NewToolRegistry() *ToolRegistry { return new(ToolRegistry) }

// Lookup returns the spec of a tool.
func (r *ToolRegistry) Lookup(name string) (Spec, bool) {
	if t := r.current().tools[name]; t != nil {
		return t.spec.clone(), true
	}
	return Spec{}, false
}

// Tools lists the specs, sorted by name, from one consistent snapshot.
func (r *ToolRegistry) Tools() iter.Seq[Spec] {
	tools := r.current().tools
	return func(yield func(Spec) bool) {
		for _, name := range slices.Sorted(maps.Keys(tools)) {
			if !yield(tools[name].spec.clone()) {
				return
			}
		}
	}
}

// Remove takes a tool out, and reports whether it was there. Calls that resolved it still run.
// What limits counted for it is forgotten once its last call has ended, the limits of its own
// Policy included; what a ByTool or ByType limit still remembers, as a debt, a pause or an open
// breaker, stays until that is over, of the 1,000 removed tools that remember longest: a tool
// that comes back at once finds it. It does not wait for calls.
func (r *ToolRegistry) Remove(name string) bool {
	r.mu.Lock()
	old := r.current().tools
	if old[name] == nil {
		r.mu.Unlock()
		return false
	}
	r.storeLocked(cow.Without(old, name), name)
	r.mu.Unlock()
	for _, e := range r.executors() {
		e.plans.Follow()
	}
	return true
}

// executors is the live ones over r.
func (r *ToolRegistry) executors() (list []*Executor) {
	for _, c := range r.stage.Clients() {
		if e := executorOf(c); e.registry == r {
			list = append(list, e)
		}
	}
	return list
}

// put adds t, or replaces the tool of that name, whichever is asked for.
func (r *ToolRegistry) put(t *tool, replace bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.current().tools
	switch was := old[t.spec.Name]; {
	case was != nil && !replace:
		return fmt.Errorf("sluice: tool %q is registered already: use Replace, or another name", t.spec.Name)
	case was == nil && replace:
		return fmt.Errorf("sluice: tool %q is not registered: use Register", t.spec.Name)
	}
	r.storeLocked(cow.With(old, t.spec.Name, t), t.spec.Name)
	return nil
}

// storeLocked makes tools, in which only that of the name has changed, the current ones.
func (r *ToolRegistry) storeLocked(tools map[string]*tool, name string) {
	r.snap.Store(&registrySnapshot{tools, r.current().seq + 1, name})
}

// Spec describes a tool. Only Name is required.
type Spec struct {
	Name        string // [A-Za-z0-9_.-]{1,128}, byte-exact
	Description string
	Type        string // groups tools for limits, e.g. "web"

	// InputSchema is a JSON Schema: an object whose type, if it has one, is "object". Of all it
	// says the library holds calls to one thing: arguments that come as JSON must have what its
	// top-level required names. Check is the place for the rest. OutputSchema, a JSON object
	// too, is for whoever asks. Empty means none.
	InputSchema, OutputSchema json.RawMessage

	Hints  Hints
	Policy Policy

	// Check refuses calls whose input is not right, with ErrInvalidArguments and its own error
	// as the Cause: a validator of JSON Schema, or a rule of the business. It runs once per
	// call, of JSON and of typed input, after decoding and before the interceptors and the
	// queue, outside all locks, in the goroutine that makes the call and with its context; so
	// it may take time, and is also asked by Explain. If it panics the call is refused. Its
	// error's text reaches models and events. nil means that all that can be decoded is right.
	Check func(ctx context.Context, c Call) error
	_     struct{}
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

// Hints are MCP's tool annotations. They promise nothing in the zero value, and nobody
// checks them; interceptors may act on them.
type Hints struct{ ReadOnly, Idempotent, Destructive, OpenWorld bool }

// Policy is what one tool needs without building an interceptor. Its limits join the
// executor's gates: all must agree, and executors that share the registry share them.
// Priority, Timeout, MaxWait, Cost and Classify replace the executor's settings.
type Policy struct {
	Priority    Priority              // for calls whose PipelineContext sets none; zero means PriorityNormal
	Concurrency int                   // most calls of this tool at once; zero means no limit of its own
	Rates       []Rate                // quotas of this tool alone
	Breaker     *CircuitBreakerConfig // of this tool alone, so without a Scope; nil means none of its own
	Timeout     time.Duration         // per attempt; zero means Config.Timeout
	MaxWait     time.Duration         // in the queue; zero means Config.MaxWait; or NoWait

	// Cost estimates what the call c will take of a unit, once per attempt for each unit
	// of the rates and limits it is subject to: Rate.Unit, or Limit.Unit unless empty. Zero
	// takes nothing, negative refuses the call, more than a bucket holds is cut to that.
	// It runs outside all locks; if it panics the call is refused. nil means 1 for
	// the empty unit, and for others what ReportUsage told of earlier calls, 1 at first.
	Cost func(c Call, unit string) int64

	// Classify says what an outcome means to breakers. It runs outside all locks, in the
	// goroutine of the call; if it panics the outcome counts as with OutcomeAuto. That, and
	// nil, leave it to Config.Classify, which leaves it to the library likewise.
	Classify func(c Call, r Result, err error) Outcome
	_        struct{}
}

// validate says what is wrong with s.
func (s *Spec) validate() ([]bucket.Rate, error) {
	if len(s.Name) == 0 || len(s.Name) > 128 {
		return nil, fmt.Errorf("sluice: Spec.Name %q has %d bytes: must have 1 to 128", cut(s.Name, 128), len(s.Name))
	}
	for i := range len(s.Name) {
		switch c := s.Name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.', c == '-':
		default:
			return nil, fmt.Errorf("sluice: Spec.Name %q has %q at %d: must be of A-Z a-z 0-9 _ . -", s.Name, c, i)
		}
	}
	if err := check.Name("sluice: Spec.Type", s.Type); err != nil {
		return nil, err
	}
	if _, err := s.schema("InputSchema", s.InputSchema); err != nil {
		return nil, err
	}
	if _, err := s.schema("OutputSchema", s.OutputSchema); err != nil {
		return nil, err
	}
	return s.Policy.validate()
}

// schema reads the schema v in the field of that name.
func (s *Spec) schema(field string, v json.RawMessage) (strictjson.Schema, error) {
	return strictjson.ReadSchema(s.subject(field), v)
}

// subject is what a field of s is called in errors.
func (s *Spec) subject(field string) string {
	return fmt.Sprintf("sluice: Spec.%s of %q", field, s.Name)
}

// required is the arguments that the input schema requires, sorted.
func (s *Spec) required() ([]string, error) {
	schema, err := s.schema("InputSchema", s.InputSchema)
	if err != nil {
		return nil, err
	}
	return schema.Required(s.subject("InputSchema"))
}

func (p *Policy) validate() ([]bucket.Rate, error) {
	if p.Priority != 0 && !p.Priority.valid() {
		return nil, fmt.Errorf("sluice: Policy.Priority is %d: must be zero (%d) or from %d to %d",
			p.Priority, PriorityNormal, PriorityBatch, PriorityInteractive)
	}
	if p.Concurrency < 0 || p.Concurrency > rules.MaxLimit {
		return nil, fmt.Errorf("sluice: Policy.Concurrency is %d: must be zero (no limit) or up to %d",
			p.Concurrency, rules.MaxLimit)
	}
	if err := check.Duration("sluice: Policy.Timeout", p.Timeout); err != nil {
		return nil, err
	}
	if err := checkWait("Policy.MaxWait", p.MaxWait); err != nil {
		return nil, err
	}
	rates, buckets, err := checkRates("Policy.Rates", p.Rates)
	if err != nil {
		return nil, err
	}
	p.Rates = rates
	if p.Breaker != nil {
		if s := p.Breaker.Scope; s != (Scope{}) && s != ByTool {
			return nil, fmt.Errorf("sluice: Policy.Breaker.Scope is %v: must be zero, it is the tool's own", p.Breaker.Scope)
		}
		c := *p.Breaker
		if c.Lease == 0 {
			c.Lease = p.Timeout
		}
		if c, err = c.validate("Policy.Breaker"); err != nil {
			return nil, err
		}
		p.Breaker = &c
	}
	return buckets, nil
}

func checkWait(field string, d time.Duration) error {
	switch {
	case d == NoWait:
		return nil
	case d < 0:
		return fmt.Errorf("sluice: %s is %v: must be zero or positive, up to %v, or NoWait", field, d, check.MaxDuration)
	}
	return check.Duration("sluice: "+field, d)
}

// limits is the policy's constraints, of which the slots come first.
func (t *tool) limits() []gateLimit {
	p, name, only := &t.spec.Policy, t.spec.Name, t.only()
	out := []gateLimit{{rules.ToolSlots(name, p.Concurrency), only}}
	for i, r := range p.Rates {
		out = append(out, gateLimit{rules.ToolRate(name, rules.Rate(r), &t.rates[i]), only})
	}
	if p.Breaker != nil {
		out = append(out, gateLimit{rules.ToolBreaker(name, p.Breaker.machine()), only})
	}
	return out
}

// only is the scope of the policy's constraints.
func (t *tool) only() rules.Scope { return rules.For(rules.ForTool, []string{t.spec.Name}) }

// Tool is a typed handle on a registered function, for a registry that several executors
// share. It calls by name: what is registered under it when it is called.
type Tool[In, Out any] struct{ name string }

// Register adds fn under s.Name. A taken name is an error and changes nothing. With In =
// json.RawMessage fn gets the arguments undecoded, checked for form, size and what s requires
// only; Out = json.RawMessage is passed on unencoded. fn must be safe for concurrent use. It may panic
// or call runtime.Goexit, and should return when its context is done.
func Register[In, Out any](r *ToolRegistry, s Spec, fn func(context.Context, In) (Out, error)) (*Tool[In, Out], error) {
	return put(r, s, fn, false)
}

// Replace is Register for a name that must be taken. The old function's calls end
// undisturbed; its limits are not carried over.
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
	t.run = func(ctx context.Context, in any) (any, error) {
		v, _ := in.(In) // accepted before
		return untyped(fn(ctx, v))
	}
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
	rates, err := s.validate()
	if err != nil {
		return nil, err
	}
	required, err := s.required()
	if err != nil {
		return nil, err
	}
	t := &tool{
		spec:     s,
		in:       reflect.TypeFor[In](),
		accepts:  acceptsInput[In],
		required: required,
		decode:   decodeInto[In],
		rates:    rates,
		shared:   &toolShared{id: toolIDs.Add(1)},
	}
	t.shared.core.name, t.shared.core.stage = rules.ToolLabel(s.Name), &r.stage
	t.shared.core.limits = t.limits()
	return t, nil
}

// Declare adds a tool whose code comes with each call, by [Do]: for frameworks that own the
// functions, of servers that come and go. It may be called again, before each call if need be:
// what s says of the tool replaces what was said before, and its limits stay, with what they have
// counted. They are those of the first s; [ToolRegistry.WithPolicy] changes them. It fails for a
// name under which a function is registered.
//
// What is said anew, and a Check whatever it is, has the next call compile the tool's chain again.
// The tool gets the arguments undecoded, checked for form, size and what s requires; a
// Request.Input may be of any type. It does not wait, and is safe for concurrent use.
func Declare(r *ToolRegistry, s Spec) error {
	t, err := newTool[json.RawMessage](r, s)
	if err != nil {
		return err
	}
	t.accepts = func(any) bool { return true }
	r.mu.Lock()
	defer r.mu.Unlock()
	name := t.spec.Name
	old := r.current().tools
	if was := old[name]; was != nil {
		if was.run != nil {
			return fmt.Errorf("sluice: tool %q is registered with a function of its own: must be another name", name)
		}
		t.spec.Policy, t.rates, t.shared = was.spec.Policy, was.rates, was.shared
		if t.spec.alike(&was.spec) {
			return nil
		}
	}
	r.storeLocked(cow.With(old, name, t), name)
	return nil
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
	a.Policy, b.Policy = Policy{}, Policy{}
	return a.Check == nil && b.Check == nil && reflect.DeepEqual(a, b)
}

// Do runs fn as this call of a tool that was declared, through e, and waits for it, as
// [Executor.Invoke] does. The call is refused with [ErrUnknownTool] if the tool has not been
// declared, and with [ErrInvalidArguments] if it has a function of its own.
func Do[Out any](ctx context.Context, e *Executor, r Request, fn func(context.Context) (Out, error)) (Out, error) {
	r.code = func(ctx context.Context) (any, error) {
		if fn == nil {
			return nil, errors.New("sluice: Do: the function is nil: must not be")
		}
		return untyped(fn(ctx))
	}
	res, err := e.Invoke(ctx, r)
	return answered[Out](r.Tool, res, err)
}

// untyped is what a typed function gave.
func untyped[Out any](out Out, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return out, nil
}

// answered is the typed outcome of a call of the tool.
func answered[Out any](tool string, res Result, err error) (Out, error) {
	var zero Out
	if err != nil {
		return zero, err
	}
	out, ok := res.Value.(Out)
	if !ok && res.Value != nil {
		return zero, fmt.Errorf("sluice: tool %q answered %T: want %T, was it replaced?", tool, res.Value, zero)
	}
	return out, nil
}

// acceptsInput reports whether in is an In. A nil interface is the zero value of one.
func acceptsInput[In any](in any) bool {
	_, ok := in.(In)
	return ok || in == nil && reflect.TypeFor[In]().Kind() == reflect.Interface
}

// decodeInto decodes arguments strictly: exact names, no duplicates, nothing unknown,
// bounded size and depth, no lost precision. No arguments are an object without any.
func decodeInto[In any](args json.RawMessage, max int) (any, error) {
	limits := strictjson.Limits{MaxBytes: max}
	var in In
	switch p := any(&in).(type) {
	case *json.RawMessage:
		if err := strictjson.Check(args, limits); err != nil {
			return nil, err
		}
		if strictjson.Blank(args) {
			args = json.RawMessage("{}")
		}
		*p = slices.Clone(args)
		return in, nil
	case *any:
		if len(args) == 0 {
			*p = map[string]any{} // as Decode makes it
			return in, nil
		}
	}
	if t := reflect.TypeFor[In](); t.Kind() == reflect.Interface && t.NumMethod() > 0 && strictjson.Blank(args) {
		return nil, nil // an object is none of those
	}
	if err := strictjson.Decode(args, &in, limits); err != nil {
		return nil, err
	}
	return in, nil
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
	defer func() { // a foreign UnmarshalJSON may panic
		if v := recover(); v != nil {
			in, err = nil, caught(t.spec.Name, v)
		}
	}()
	if in, err = t.decode(args, max); err == nil && len(t.required) > 0 {
		err = strictjson.Require(args, t.required)
	}
	if err != nil {
		return nil, err
	}
	return in, nil
}

// checked is what the tool's Check says.
func (t *tool) checked(ctx context.Context, c Call) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = caught(t.spec.Name, v)
		}
	}()
	return t.spec.Check(ctx, c)
}

// Wrap registers fn with e's registry and returns a function of the same type that runs
// through e: one line per tool, and no other line of the agent changes. A closed executor
// takes none: the error is [ErrClosed].
//
// A function that calls others must pass its context on: without it the call is a stranger's, and
// under a limit that its caller holds it waits for that for ever (see [LimitStalled]).
func Wrap[In, Out any](e *Executor, s Spec, fn func(context.Context, In) (Out, error)) (func(context.Context, In) (Out, error), error) {
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
	return t.Func(e), nil
}

// Invoke runs the tool through e and waits for it, as [Executor.Invoke] does.
func (t *Tool[In, Out]) Invoke(ctx context.Context, e *Executor, in In) (Out, error) {
	res, err := e.Invoke(ctx, Request{Tool: t.name, Input: in, typed: true})
	return answered[Out](t.name, res, err)
}

// Func binds the tool to e: a plain function again.
func (t *Tool[In, Out]) Func(e *Executor) func(context.Context, In) (Out, error) {
	return func(ctx context.Context, in In) (Out, error) { return t.Invoke(ctx, e, in) }
}

// Must returns v or panics: for program start-up, like template.Must.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
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
