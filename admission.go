package sluice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sluice-go/sluice/internal/deadline"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stack"
	"github.com/sluice-go/sluice/internal/stage"
)

// admission is the stage of one tool in one executor: which cells a call needs, how it
// waits for them, and what is given back. It never changes once it is compiled.
type admission struct {
	tool             *tool
	stage            *stage.Stage
	dropped          bool    // its plan no longer keeps the cells of parts; guarded by the stage's lock
	next             Handler // what admitted calls run; nil means the tool itself
	plan             *admit.Plan
	parts            []part         // narrow before wide
	needs            *admit.NeedSet // if it is the same for every call
	keys             []rules.Scope  // to ask each call for
	units            []string       // to ask the cost of
	timeout, maxWait time.Duration
	classify         func(Call, Result, error) Outcome
	cost             func(Call, string) int64
}

// part is one constraint on the tool's calls.
type part struct {
	class *admit.Class
	cell  *admit.Cell // unless keyed
	key   int         // in keys
	unit  int         // in units, or -1: every call takes one
}

// newAdmission compiles what e's gates, and the tool's own policy, ask of it.
func newAdmission(e *Executor, t *tool) *admission {
	a := &admission{tool: t, stage: e.stage}
	s := a.stage.Lock()
	for _, g := range append([]*gateCore{&t.shared.core}, e.gates...) {
		for _, l := range g.limits {
			key, applies := l.scope.Fixed(t.spec.Name, t.spec.Type)
			if !applies {
				continue
			}
			p := part{class: l.class, unit: -1, key: -1}
			if l.scope.Keyed() {
				p.key = index(&a.keys, l.scope)
			} else {
				p.cell = s.M.Pin(s.Now(), l.class, key)
			}
			if l.class.Kind == admit.Tokens || l.class.Kind == admit.Slots && l.class.Unit != "" {
				p.unit = index(&a.units, l.class.Unit)
			}
			a.parts = append(a.parts, p)
		}
	}
	slices.SortStableFunc(a.parts, func(x, y part) int { return cmp.Compare(x.class.Order(), y.class.Order()) })
	var fixed []*admit.Cell
	var keyed []*admit.Class
	for _, p := range a.parts {
		if p.cell != nil {
			fixed = append(fixed, p.cell)
		} else {
			keyed = append(keyed, p.class)
		}
	}
	s.M.Together(fixed, keyed)
	s.Unlock()
	a.configure(e)
	return a
}

func index[T comparable](list *[]T, v T) int {
	if i := slices.Index(*list, v); i >= 0 {
		return i
	}
	*list = append(*list, v)
	return len(*list) - 1
}

// configure takes the settings of the tool's policy, else of the executor.
func (a *admission) configure(e *Executor) {
	p := &a.tool.spec.Policy
	a.plan = &admit.Plan{Tool: a.tool.shared.id, Client: e.client, Name: a.tool.spec.Name}
	a.timeout = cmp.Or(p.Timeout, e.conf.Timeout)
	a.maxWait = cmp.Or(p.MaxWait, e.conf.MaxWait)
	a.cost = p.Cost
	a.classify = firstOpinion(p.Classify, e.conf.Classify)
	if a.cost == nil && slices.Equal(a.units, []string{""}) {
		for i := range a.parts {
			a.parts[i].unit = -1
		}
		a.units = nil
	}
	if len(a.keys) == 0 && len(a.units) == 0 {
		list := make([]admit.Need, len(a.parts))
		for i, p := range a.parts {
			list[i] = admit.Need{Cell: p.cell, N: 1}
		}
		a.needs = admit.NewNeedSet(list)
	}
}

// firstOpinion asks the tool's own classify function, and the executor's where that has none.
func firstOpinion(own, common func(Call, Result, error) Outcome) func(Call, Result, error) Outcome {
	switch {
	case own == nil:
		return common
	case common == nil:
		return own
	}
	return func(c Call, r Result, err error) Outcome {
		if o := classified(own, c, r, err); o != OutcomeAuto {
			return o
		}
		return common(c, r, err)
	}
}

// handler is the admission stage around next.
func (a *admission) handler(next Handler) Handler {
	a.next = next
	return func(ctx context.Context, c Call) (Result, error) {
		if c.inv == nil {
			return Result{}, errors.New("sluice: a gate's Handler was called outside an Executor: list the gate in Config.Interceptors")
		}
		return a.do(ctx, &c, 0)
	}
}

// do admits c and runs it. The instant now is the present one, or zero.
func (a *admission) do(ctx context.Context, c *Call, now int64) (res Result, err error) {
	inv := c.inv
	if exec := inv.plan.exec; len(exec.outer) > 0 { // which may answer before it has ended
		exec.helperStarts()
		defer exec.helperEnds()
	}
	if c.Attempt, err = inv.attempt(); err != nil {
		return Result{}, err
	}
	entered := false
	defer func() {
		if !entered { // it was refused, or a sink called Goexit
			inv.attemptEnds()
		}
	}()
	if inv.loud && len(inv.plan.exec.outer) > 0 {
		inv.emitRetry(ctx, c)
		defer func() { inv.first.attemptEnded(err) }()
	}
	r, err := a.enter(ctx, c, now)
	if err != nil {
		return Result{}, err
	}
	entered = true
	return a.perform(r, c)
}

// code runs what an admitted call is for.
func (a *admission) code(r *running, c *Call) (Result, error) {
	if a.next == nil {
		return runTool(r, c, a.tool)
	}
	return a.next(r, *c)
}

// perform runs an admitted call.
func (a *admission) perform(r *running, c *Call) (Result, error) {
	c.run = r
	if a.timeout > 0 {
		return a.timed(r, c)
	}
	return a.attempt(r, c)
}

// asked is what user code said about a call before admission: its keys and costs.
type asked struct {
	keys  [4]string
	costs [4]int64
	more  []string
	extra []int64
}

func (q *asked) key(i int) string {
	if i < len(q.keys) {
		return q.keys[i]
	}
	return q.more[i-len(q.keys)]
}

func (q *asked) cost(i int) int64 {
	if i < len(q.costs) {
		return q.costs[i]
	}
	return q.extra[i-len(q.costs)]
}

// ask runs key and cost functions, outside every lock.
func (a *admission) ask(c *Call, q *asked) (err error) {
	normal := false
	defer func() {
		if !normal {
			err = c.inv.refused(ErrRejected, "", caught(c.Tool, recover()))
		}
	}()
	for i, s := range a.keys {
		k := keyOf(s, c)
		if len(k) > rules.MaxKeyBytes {
			normal = true
			return c.inv.refused(ErrInvalidArguments, s.String(), fmt.Errorf("sluice: key has %d bytes: must have at most %d", len(k), rules.MaxKeyBytes))
		}
		if i < len(q.keys) {
			q.keys[i] = k
		} else {
			q.more = append(q.more, k)
		}
	}
	for i, u := range a.units {
		n := int64(1)
		switch {
		case a.cost != nil:
			if n = a.cost(c.shown(), u); n < 0 {
				normal = true
				return c.inv.refused(ErrInvalidArguments, "", fmt.Errorf("sluice: Policy.Cost of unit %q is negative: must not be", u))
			}
		case u != "":
			n = a.tool.shared.learned.Estimate(u)
		}
		if i < len(q.costs) {
			q.costs[i] = n
		} else {
			q.extra = append(q.extra, n)
		}
	}
	normal = true
	return nil
}

// cellFunc finds or makes the cell of a key: Machine.Cell, or Machine.Peek for a forecast.
type cellFunc func(*admit.Machine, int64, *admit.Class, string) *admit.Cell

// fill gives t its needs, with cells of keys that are new made by cell. It answers the refusal
// by a table of keys that is full.
func (a *admission) fill(s *stage.Stage, t *admit.Ticket, c *Call, q *asked, now int64, cell cellFunc) error {
	if a.needs != nil && !a.dropped {
		s.M.Fixed(t, a.needs)
		return nil
	}
	for i := range a.parts {
		p := &a.parts[i]
		n := int64(1)
		if p.unit >= 0 {
			switch n = q.cost(p.unit); {
			case p.class.Kind == admit.Tokens:
				n = min(n, p.class.Rate.Burst()) // zero too: what it turns out to use counts
			case n == 0:
				continue
			default:
				n = min(n, rules.MaxLimit+1) // too wide whatever it is, and sums stay in range
			}
		}
		x, key := p.cell, ""
		if x != nil {
			key = x.Key()
		} else if key = q.key(p.key); key == "" && a.keys[p.key].Kind() == rules.ByKey {
			continue
		}
		if x == nil || a.dropped {
			if x = cell(s.M, now, p.class, key); x == nil {
				err := c.inv.refused(ErrSaturated, p.class.Name, errors.New("sluice: all its keys are busy"))
				if at := s.M.Vacancy(p.class); at != admit.Never {
					err.RetryAfter = time.Duration(max(0, at-now))
				}
				return err
			}
		}
		s.M.Add(t, x, n)
	}
	return nil
}

// gateCore is what gates, and the tools' own policies, have in common: the constraints they
// put on calls. Gates decide whether a call may start now: concurrency limiters, rate limiters
// and circuit breakers. Those that an executor lists, with the priority scheduler, are one
// admission stage. There are no others: foreign code would run under the stage's lock.
type gateCore struct {
	name    string     // shown in Plan; empty in a component that no New function made
	stage   *stage.Ref // of a tool's policy, its registry's
	limits  []gateLimit
	foreign *foreignLimiter // a *rate.Limiter of the caller's own, asked last

	mu sync.Mutex // guards the owner's configuration
}

// coreOf is x's if x itself is a gate or the scheduler. What only has one inside, as a struct
// that embeds it, is an interceptor like any other.
func coreOf(x Interceptor) *gateCore {
	switch g := x.(type) {
	case *ConcurrencyLimiter:
		return &g.core
	case *RateLimiter:
		return &g.core
	case *CircuitBreaker:
		return &g.core
	case *PriorityScheduler:
		return &g.core
	}
	return nil
}

// limit reports whether g limits calls of a tool, as far as their keys are not needed to know
// it. A scheduler orders those of all.
func (g *gateCore) limit(tool *Spec) bool {
	return len(g.limits) == 0 || slices.ContainsFunc(g.limits, func(l gateLimit) bool {
		_, applies := l.scope.Fixed(tool.Name, tool.Type)
		return applies
	})
}

// gateLimit is one constraint: its cells and what they count by.
type gateLimit struct {
	class *admit.Class
	scope rules.Scope
}

// outside is the Handler of a gate's Wrap. It decides nothing there: alone it would be a
// second place to wait, and hold what it took while its calls wait at the first.
func outside(component, name string) Handler {
	return func(_ context.Context, c Call) (Result, error) {
		return Result{}, &Error{Tool: c.Tool, CallID: c.ID, Reason: ErrRejected, By: name,
			Cause: fmt.Errorf("sluice: the Wrap of %s %q was called by hand, or by a struct that embeds it: list it itself in Config.Interceptors, beside the other gates", component, name)}
	}
}

func sameShape(name string, n, m int) error {
	if n != m {
		return fmt.Errorf("sluice: %s has %d entries, the component was made with %d: their number cannot change", name, n, m)
	}
	return nil
}

func errNilGate(component string) error {
	return fmt.Errorf("sluice: the %s is nil: must be made by its New function", component)
}

// at locks g's stage and answers g's cells for key, made if need be; without make there may be
// none. If it fails, nothing is locked.
func (g *gateCore) at(component, key string, make bool) (*stage.Stage, []*admit.Cell, error) {
	if g.name == "" {
		return nil, nil, fmt.Errorf("sluice: the %s is a zero value: must be made by its New function", component)
	}
	scope := g.limits[0].scope
	wants, has := hasKey(scope, key, g.stage)
	s := g.stage.Lock()
	now := s.Now()
	s.M.Advance(now) // which may forget keys: none goes between the first and the last
	var out []*admit.Cell
	for _, l := range g.limits {
		c := l.class.Lookup(key)
		if c == nil && !has {
			s.Unlock()
			return nil, nil, fmt.Errorf("sluice: %s %q, which counts %s, has no key %q: must be %s", component, g.name, scope, cut(key, 128), wants)
		}
		if c == nil && make {
			if c = s.M.Cell(now, l.class, key); c == nil {
				s.Unlock()
				return nil, nil, fmt.Errorf("sluice: %s %q has no room for key %q: all keys that it may have are busy", component, g.name, cut(key, 128))
			}
		}
		if c != nil {
			out = append(out, c)
		}
	}
	return s, out, nil
}

// hasKey says what a key of a gate of scope s can be, and whether key is one: of tools and
// their types, one that some executor's registry has, as long as there is an executor.
func hasKey(s rules.Scope, key string, r *stage.Ref) (wants string, has bool) {
	switch s.Kind() {
	case rules.ByTool:
		return "the name of a registered tool", registered(r, &Spec{Name: key}, func(tools map[string]*tool) bool { return tools[key] != nil })
	case rules.ByType:
		return "the Type of a registered tool", registered(r, &Spec{Name: "x", Type: key}, func(tools map[string]*tool) bool {
			for _, t := range tools {
				if t.spec.Type == key {
					return true
				}
			}
			return false
		})
	case rules.ByTenant:
		return fmt.Sprintf("at most %d bytes", rules.MaxKeyBytes), len(key) <= rules.MaxKeyBytes
	case rules.ByKey:
		return fmt.Sprintf("from 1 to %d bytes", rules.MaxKeyBytes), key != "" && len(key) <= rules.MaxKeyBytes
	}
	return "empty", key == ""
}

// registered reports whether some registry of r's domain has what is asked for, or, if r
// belongs to no executor, whether one could: whether s is a possible Spec.
func registered(r *stage.Ref, s *Spec, has func(map[string]*tool) bool) bool {
	clients := r.Clients()
	if len(clients) == 0 {
		_, err := s.complete()
		return err == nil
	}
	return slices.ContainsFunc(clients, func(c stage.Client) bool { return has(executorOf(c).registry.current().tools) })
}

// timed runs the code of an admitted call on a goroutine of its own, and answers when that
// ends or the attempt's time is over, whichever comes first. What the call holds is given
// back when the code has really ended; what it means to the breakers is settled when its
// time is over.
func (a *admission) timed(r *running, c *Call) (Result, error) {
	exec := c.inv.plan.exec
	x := &timedRun{a: a, r: r, c: *c}
	x.Begin(&exec.deadlines, r.Context, a.timeout, x)
	r.Context = x
	exec.helperStarts()
	go x.do()
	if x.Wait() {
		res, err := x.res, x.err
		x.res, x.err = Result{}, nil
		return res, err
	}
	outcome := breaker.Failure
	if !r.state.Expire() || x.Borrowed() || x.Caller().Err() != nil {
		outcome = breaker.Neutral
	}
	s := a.stage.Lock()
	if r.live {
		now := s.Now()
		s.M.Judge(now, r.ticket, outcome)
		r.abandon(s, now)
	}
	s.Unlock()
	return Result{}, x.Cause()
}

// timedRun is an attempt on a goroutine of its own, and the context that its code gets. A tool
// may keep that, so it lets go of the call's input and result when they are no longer needed.
type timedRun struct {
	deadline.Context
	a    *admission
	r    *running
	c    Call
	res  Result // of the code
	err  error
	late atomic.Pointer[Error] // what it means that the time is over
}

func (x *timedRun) do() {
	stack.Grow()
	normal := false
	defer x.c.inv.plan.exec.helperEnds()
	defer x.hand()
	defer func() {
		if !normal {
			x.res, x.err = Result{}, caught(x.c.Tool, recover())
		}
		left := false
		defer func() {
			if !left { // what is asked about the outcome called Goexit
				x.res, x.err = Result{}, caught(x.c.Tool, recover())
			}
		}()
		x.err = x.a.leave(x.r, &x.c, x.res, x.err)
		left = true
	}()
	x.res, x.err = x.a.code(x.r, &x.c)
	normal = true
}

// hand gives the caller what the code answered, if it still waits.
func (x *timedRun) hand() {
	x.c.Input = nil
	if !x.Finish() {
		x.res, x.err = Result{}, nil
	}
}

// timedOut makes the error of code that gave up because the attempt's time was over the
// library's own.
func (x *timedRun) timedOut(err error) error {
	late := err != nil && x.Caller().Err() == nil && x.Err() == context.DeadlineExceeded
	if late && isReason(err, context.DeadlineExceeded) {
		return x.c.inv.refused(ErrTimeout, "", err)
	}
	return err
}

// Cause is the error of a call whose time is over.
func (x *timedRun) Cause() error {
	if x.late.Load() == nil {
		x.late.CompareAndSwap(nil, x.c.inv.refused(ErrTimeout, "", context.DeadlineExceeded))
	}
	return x.late.Load()
}

// help runs f on a goroutine that Close waits for.
func (e *Executor) help(f func()) {
	e.helperStarts()
	go func() {
		defer e.helperEnds()
		f()
	}()
}
