package sluice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"

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

// missing is the plan of a tool that there is not.
func (e *Executor) missing(name string) *plan {
	return &plan{exec: e, tool: &tool{spec: Spec{Name: name}}, alone: true, refuse: ErrUnknownTool, cause: e.nearTools(name)}
}

// planTable is the plans made so far for one snapshot of the registry.
type planTable struct {
	snap  *registrySnapshot
	plans map[string]*plan
}

// plan finds a tool's plan: two atomic loads and one look-up, unless the tool is new. It is
// nil if there is no such tool.
func (e *Executor) plan(name string) *plan {
	if t := e.plans.Load(); t != nil && t.snap == e.registry.current() {
		if p := t.plans[name]; p != nil {
			return p
		}
	}
	return e.compile(name)
}

// compile makes the plan of a tool that has none for the present registry. It holds no lock,
// so that a Wrap function may use the executor: when two first calls meet, both may compile,
// and one's plan is kept.
func (e *Executor) compile(name string) *plan {
	made := make(map[*tool]*plan)
	for {
		old, snap := e.plans.Load(), e.registry.current()
		tool := snap.tools[name]
		if tool == nil {
			return nil
		}
		t := &planTable{snap, make(map[string]*plan)}
		if old != nil {
			for n, p := range old.plans {
				if p.tool == snap.tools[n] {
					t.plans[n] = p
				}
			}
		}
		p := t.plans[name]
		if p == nil {
			if p = made[tool]; p == nil {
				p = e.newPlan(tool)
				made[tool] = p
			}
			t.plans[name] = p
		}
		if e.plans.CompareAndSwap(old, t) {
			return p
		}
	}
}

// newPlan compiles the chain of t.
func (e *Executor) newPlan(t *tool) *plan {
	gates := make([]*gateCore, 0, len(e.gates)+1)
	gates = append(gates, &t.shared.core)
	for _, g := range e.gates {
		gates = append(gates, g.gate())
	}
	adm, err := newAdmission(gates, &t.spec, e)
	if err != nil {
		return &plan{exec: e, tool: t, alone: true, refuse: ErrRejected, cause: err}
	}
	adm.tool = t
	adm.configure(e)
	around := len(e.outer)+len(e.inner) > 0
	p := &plan{exec: e, tool: t, adm: adm, alone: !around && adm.timeout == 0}
	if !around {
		return p
	}
	h := Handler(func(ctx context.Context, c Call) (Result, error) {
		if !t.accepts(c.Input) { // an interceptor's doing
			err := fmt.Errorf("sluice: Call.Input is %T: must be %v", c.Input, t.in)
			if c.inv == nil {
				return Result{}, &Error{Tool: t.spec.Name, CallID: c.ID, Reason: ErrInvalidArguments, Cause: err}
			}
			return Result{}, c.inv.refused(ErrInvalidArguments, "", err)
		}
		return runTool(ctx, &c, t)
	})
	wrapped := make(chan struct{})
	go func() { // a Wrap that calls Goexit ends this goroutine, not the first caller's
		defer close(wrapped)
		p.wrap(e, h)
	}()
	<-wrapped
	return p
}

// wrap puts the interceptors around h. One that panics makes the tool refuse calls, and
// say why.
func (p *plan) wrap(e *Executor, h Handler) {
	normal := false
	defer func() {
		if !normal {
			p.refuse, p.cause = ErrRejected, caught(p.tool.spec.Name, recover())
		}
	}()
	h = p.adm.handler(wrapAll(e.inner, p.tool.spec, h))
	p.chain = wrapAll(e.outer, p.tool.spec, h)
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

func failing(err error) Handler {
	return func(context.Context, Call) (Result, error) { return Result{}, err }
}

// runTool is the innermost handler: from here on the call has run.
func runTool(ctx context.Context, c *Call, t *tool) (Result, error) {
	if c.run == nil {
		return Result{}, &Error{Tool: t.spec.Name, Reason: ErrRejected,
			Cause: errors.New("sluice: an interceptor made a Call of its own: it must change a copy of the one it was given")}
	}
	if err := c.run.begin(ctx, c); err != nil {
		return Result{}, err
	}
	v, err := t.run(ctx, c.Input)
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

// funcName is the bare name of a function.
func funcName(f InterceptorFunc) string {
	name := runtime.FuncForPC(reflect.ValueOf(f).Pointer()).Name()
	return name[strings.LastIndexByte(name, '.')+1:]
}
