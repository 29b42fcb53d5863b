package sluice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sluice-go/sluice/internal/cow"
	"github.com/sluice-go/sluice/internal/stage"
	"github.com/sluice-go/sluice/internal/strictjson"
)

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

// missing is the plan of a tool that there is not. Interceptors may hide tools from some
// callers, and the library cannot know which: where there are any it names none.
func (e *Executor) missing(name string) *plan {
	var near error
	if len(e.outer)+len(e.inner) == 0 {
		near = e.registry.current().near(name)
	}
	return e.refusing(&tool{spec: Spec{Name: name}}, ErrUnknownTool, near)
}

// refusing is a plan that refuses every call.
func (e *Executor) refusing(t *tool, reason, cause error) *plan {
	return &plan{exec: e, tool: t, alone: true, refuse: reason, cause: cause}
}

// planTable is the plans made so far for one snapshot of the registry.
type planTable struct {
	snap  *registrySnapshot
	plans map[string]*plan
	// before are those of tools that were changed since, until they are called again: the cells
	// of their limits stay.
	before map[string]*plan
}

// plan finds a tool's plan: two atomic loads and one look-up, unless the tool is new or there
// is none. Then it is nil; see compile.
func (e *Executor) plan(name string) *plan {
	if t := e.plans.Load(); t != nil && t.snap == e.registry.current() {
		return t.plans[name]
	}
	return nil
}

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
	e.keep(nil)
	if p := e.plans.Load().plans[name]; p != nil && p.tool == t {
		return p
	}
	if len(e.outer)+len(e.inner) == 0 {
		return e.keep(e.newPlan(t))
	}
	m := e.make(t)
	var over <-chan struct{}
	if ctx != nil {
		over = ctx.Done()
	}
	select {
	case <-m.done:
		return m.plan
	case <-over:
		reason := ErrRejected
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			reason = ErrWaitTooLong
		}
		return e.refusing(t, reason, fmt.Errorf("sluice: the Wrap of an interceptor has not returned yet: %w", context.Cause(ctx)))
	}
}

// keep makes e's table that of the present registry: plans of tools that are gone are dropped,
// those of tools that were changed are set aside, and p, if it is not nil, is added unless
// another first call's plan is there already. It answers the plan that the caller's call is to
// use. With many tools it matters that nothing looks at each of them where one has changed.
func (e *Executor) keep(p *plan) *plan {
	e.planning.Lock()
	old, snap := e.plans.Load(), e.registry.current()
	if old == nil {
		old = new(planTable)
	} else if p == nil && old.snap == snap {
		e.planning.Unlock()
		return nil
	}
	t := &planTable{snap, old.plans, old.before}
	var gone []*plan
	if old.snap != nil && snap.seq == old.snap.seq+1 {
		gone = t.follow(gone, snap.name)
	} else if old.snap != snap {
		for n := range old.plans {
			gone = t.follow(gone, n)
		}
		for n := range old.before {
			gone = t.follow(gone, n)
		}
	}
	if p != nil {
		n := p.tool.spec.Name
		switch q := t.plans[n]; {
		case q != nil && q.tool == p.tool:
			gone, p = append(gone, p), q
		case snap.tools[n] == p.tool:
			t.plans = cow.With(t.plans, n, p)
			if q := t.before[n]; q != nil {
				gone = append(gone, q)
				t.before = cow.Without(t.before, n)
			}
		default: // it has gone meanwhile, and the call that resolved it still runs
			gone = append(gone, p)
		}
	}
	e.plans.Store(t)
	if len(gone) == 0 {
		e.planning.Unlock()
		return p
	}
	s := e.stage.Lock()
	for _, q := range gone {
		q.drop(s)
	}
	a := s.Release()
	e.planning.Unlock()
	a.Follow()
	return p
}

// dropPlans has e, which is closed and whose last call has ended, keep no cell any more.
func (e *Executor) dropPlans() {
	e.planning.Lock()
	s := e.stage.Lock()
	if t := e.plans.Swap(new(planTable)); t != nil {
		for _, list := range []map[string]*plan{t.plans, t.before} {
			for _, p := range list {
				p.drop(s)
			}
		}
	}
	a := s.Release()
	e.planning.Unlock()
	a.Follow()
}

// follow has t know what became of the tool of that name, and adds to gone the plans that
// nobody needs any more. The maps of t are those of the table before until they change.
func (t *planTable) follow(gone []*plan, name string) []*plan {
	now := t.snap.tools[name]
	if q := t.plans[name]; q != nil && q.tool != now {
		t.plans = cow.Without(t.plans, name)
		if now == nil {
			gone = append(gone, q)
		} else {
			t.before = cow.With(t.before, name, q) // one that was there before has gone when q came
		}
	}
	if q := t.before[name]; q != nil && now == nil {
		t.before = cow.Without(t.before, name)
		gone = append(gone, q)
	}
	return gone
}

// drop has p keep no cell of a limit any more. The stage is locked. A call that has resolved p
// finds its cells by their keys then.
func (p *plan) drop(s *stage.Stage) {
	if a := p.adm; !a.dropped {
		a.dropped = true
		for _, x := range a.parts {
			if x.cell != nil {
				s.M.Unpin(s.Now(), x.cell)
			}
		}
	}
}

// newPlan compiles what e's gates ask of t.
func (e *Executor) newPlan(t *tool) *plan {
	adm := newAdmission(e, t)
	return &plan{exec: e, tool: t, adm: adm, alone: len(e.outer)+len(e.inner) == 0 && adm.timeout == 0}
}

// making is a plan in the making, by one goroutine or two: a Wrap function may itself call the
// tool, and waits for another's plan then.
type making struct {
	done chan struct{} // closed when plan is there
	plan *plan
	runs int // goroutines at it, guarded by the executor's planning
}

// make has the plan of t made, on a goroutine of its own: a Wrap may block, or call Goexit.
func (e *Executor) make(t *tool) *making {
	e.planning.Lock()
	defer e.planning.Unlock()
	m := e.making[t]
	if m == nil {
		m = &making{done: make(chan struct{})}
		if e.making == nil {
			e.making = make(map[*tool]*making)
		}
		e.making[t] = m
	}
	if m.runs < 2 {
		m.runs++
		e.active.Add(2) // Close waits for it; whoever asks has not left yet
		go m.run(e, t)
	}
	return m
}

func (m *making) run(e *Executor, t *tool) {
	defer e.leave()
	p := e.newPlan(t)
	defer func() {
		p = e.keep(p)
		e.planning.Lock()
		defer e.planning.Unlock()
		if m.plan == nil {
			m.plan = p
			close(m.done)
		}
		if m.runs--; m.runs == 0 {
			delete(e.making, t)
		}
	}()
	p.wrap(e)
}

// wrap puts the interceptors around the tool. One that panics makes the tool refuse calls, and
// say why.
func (p *plan) wrap(e *Executor) {
	normal := false
	defer func() {
		if !normal {
			p.refuse, p.cause = ErrRejected, caught(p.tool.spec.Name, recover())
		}
	}()
	t := p.tool
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
	var v any
	var err error
	if c.code != nil {
		v, err = c.code(ctx)
	} else {
		v, err = t.run(ctx, c.Input)
	}
	return Result{Value: v}, err
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
