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
	tool  *tool
	adm   *admission
	chain Handler
	err   error // an interceptor's Wrap failed
}

// planTable is the plans for one snapshot of the registry.
type planTable struct {
	snap  *registrySnapshot
	plans map[string]*plan
}

// plan finds a tool's plan: two atomic loads and one look-up, unless the registry changed.
func (e *Executor) plan(name string) *plan {
	if t := e.plans.Load(); t != nil && t.snap == e.registry.snap.Load() {
		return t.plans[name]
	}
	return e.recompile().plans[name]
}

// recompile makes plans for what has changed in the registry, and keeps the others.
func (e *Executor) recompile() *planTable {
	e.compile.Lock()
	defer e.compile.Unlock()
	old, snap := e.plans.Load(), e.registry.snap.Load()
	if old != nil && old.snap == snap {
		return old
	}
	t := &planTable{snap, make(map[string]*plan, len(snap.tools))}
	for name, tool := range snap.tools {
		if old != nil {
			if p := old.plans[name]; p != nil && p.tool == tool {
				t.plans[name] = p
				continue
			}
		}
		t.plans[name] = e.newPlan(tool)
	}
	e.plans.Store(t)
	return t
}

// newPlan compiles the chain of t. Wrap functions run here, outside all locks but the
// compiler's own; one that panics makes the tool refuse calls, and says why.
func (e *Executor) newPlan(t *tool) (p *plan) {
	p = &plan{tool: t}
	gates := make([]*gateCore, 0, len(e.gates)+2)
	gates = append(gates, &t.shared.core)
	for _, g := range e.gates {
		gates = append(gates, g.gate())
	}
	adm, err := newAdmission(gates, &t.spec, e)
	if err != nil {
		p.err = err
		return p
	}
	p.adm = adm
	adm.tool = t
	adm.configure(e)
	normal := false
	defer func() {
		if !normal {
			p.err = caught(t.spec.Name, recover())
		}
	}()
	around := len(e.outer)+len(e.inner) > 0
	h := Handler(func(ctx context.Context, c Call) (Result, error) {
		if around && !t.accepts(c.Input) { // an interceptor's doing
			return Result{}, &Error{Tool: c.Tool, CallID: c.ID, Reason: ErrInvalidArguments,
				Cause: fmt.Errorf("sluice: Call.Input is %T: must be %v", c.Input, t.in)}
		}
		return runTool(ctx, c, t)
	})
	h = wrapAll(e.inner, t.spec, h)
	h = adm.handler(h)
	p.chain = wrapAll(e.outer, t.spec, h)
	normal = true
	return p
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
func runTool(ctx context.Context, c Call, t *tool) (Result, error) {
	if c.run == nil {
		return Result{}, &Error{Tool: c.Tool, CallID: c.ID, Reason: ErrRejected,
			Cause: errors.New("sluice: an interceptor made a Call of its own: it must change a copy of the one it was given")}
	}
	if err := c.run.begin(ctx, &c); err != nil {
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
