package sluice

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/change"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
)

// Change is a change to one component, made by its Change method and applied, and checked, by
// [Reconfigure].
type Change struct{ impl change.Change }

// Reconfigure applies all changes at one instant, or none: calls that wait feel it at once, and none
// is admitted by half of it. Events name by as who changed it. An error says which change is not
// possible, and why. It does not wait for calls, and is safe for concurrent use.
func Reconfigure(by string, changes ...Change) error {
	list := make([]change.Change, len(changes))
	for i, c := range changes {
		list[i] = c.impl
	}
	return change.All(by, list)
}

// NewChange is the change of a component of your own: check, which may be nil, says why it cannot be, and
// apply makes it, when all changes are possible, right after those of the library. Both run on the
// goroutine of [Reconfigure], outside locks. Of one component, a pointer as a rule, there may be one change.
func NewChange(component any, check func() error, apply func()) Change {
	return Change{change.Own(component, check, apply)}
}

// configChange is the change of a gate, or of the scheduler, to another configuration.
func configChange[C interface{ complete() (C, error) }](
	gate any, g *gateCore, conf *C, to C, fits func(C, *C) error, turn func(lk *change.Locked, s *stage.Stage, now int64, was, to C),
) Change {
	return Change{&change.Config[C]{
		Of: gate, Ref: g.stage, Mu: &g.mu, Conf: conf, To: to, Complete: C.complete, Fits: fits, Turn: turn,
	}}
}

// policyChange is the change of a tool's policy.
type policyChange struct {
	r    *ToolRegistry
	name string
	to   Policy
	own  rules.Tool  // of to
	tool *toolShared // that the check found
}

func (x *policyChange) Target() any { return [...]any{x.r, x.name} }

func (x *policyChange) Check() (err error) {
	if x.r == nil {
		return errors.New("sluice: WithPolicy: the ToolRegistry is nil")
	}
	t := x.r.current()[x.name]
	if t == nil {
		return fmt.Errorf("sluice: WithPolicy: tool %q is not registered", cut(x.name, 128))
	}
	x.tool = t.shared
	x.own, err = x.to.complete(x.name)
	return err
}

func (x *policyChange) Refs() []*stage.Ref { return []*stage.Ref{x.tool.core.stage} }

func (x *policyChange) Apply(lk *change.Locked) {
	_ = x.r.tools.Change(x.name, func(was *tool) (*tool, error) {
		if was == nil || was.shared != x.tool {
			return was, nil // removed or replaced meanwhile: there is nothing to change
		}
		t := *was
		t.spec.Policy, t.own = x.to, x.own
		core := &t.shared.core
		s := lk.Stage(core.stage)
		turn := rules.ToolChange{Machine: s.M, Now: lk.Now, ID: t.shared.id, Cost: t.shared.learned.Estimate,
			Changed: func(name, from, to string) { lk.Changed(s, name, from, to) }}
		core.limits = turn.Apply(&was.own, &t.own, core.limits)
		return &t, nil
	})
}

// gateCore is what gates, and the tools' own policies, have in common: the constraints they
// put on calls. Gates decide whether a call may start now: concurrency limiters, rate limiters
// and circuit breakers. Those that an executor lists, with the priority scheduler, are one
// admission stage. There are no others: foreign code would run under the stage's lock.
type gateCore struct {
	name   string     // shown in Plan; empty in a component that no New function made
	stage  *stage.Ref // of a tool's policy, its registry's
	limits []rules.Limit

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
	return len(g.limits) == 0 || slices.ContainsFunc(g.limits, func(l rules.Limit) bool {
		_, applies := l.Scope.Fixed(tool.Name, tool.Type)
		return applies
	})
}

// component is what the type of a gate is called in errors.
func component(gate Interceptor) string { return reflect.TypeOf(gate).Elem().Name() }

// nameOf is the name of a gate, which may be nil.
func nameOf(gate Interceptor) string {
	if isNil(gate) {
		return "nil"
	}
	return coreOf(gate).name
}

// outside is the Handler of a gate's Wrap. It decides nothing there: alone it would be a
// second place to wait, and hold what it took while its calls wait at the first.
func outside(gate Interceptor) Handler {
	return func(_ context.Context, c Call) (Result, error) {
		return Result{}, &Error{Tool: c.Tool, CallID: c.ID, Reason: ErrRejected, By: nameOf(gate),
			Cause: fmt.Errorf("sluice: the Wrap of %s %q was called by hand, or by a struct that embeds it: list it itself in Config.Interceptors, beside the other gates",
				component(gate), nameOf(gate))}
	}
}

// withCells runs f on the cells that a gate has for key, made if need be, under the stage's lock;
// without make there may be none.
func withCells(gate Interceptor, key string, make bool, f func(*stage.Stage, []*admit.Cell)) error {
	if isNil(gate) {
		return fmt.Errorf("sluice: the %s is nil: must be made by its New function", component(gate))
	}
	g := coreOf(gate)
	if g.name == "" {
		return fmt.Errorf("sluice: the %s is a zero value: must be made by its New function", component(gate))
	}
	return (&stage.Gate{Type: component(gate), Name: g.name, Ref: g.stage, Limits: g.limits}).Cells(key, make, f)
}

// Has reports whether e's registry has a tool of that name, or with ByType one of that type.
func (e *inDomain) Has(k rules.Kind, key string) bool {
	tools := e.registry.current()
	if k == rules.ByTool {
		return tools[key] != nil
	}
	for _, t := range tools {
		if t.spec.Type == key {
			return true
		}
	}
	return false
}

// isNil also finds a nil pointer of one of the library's own components.
func isNil(x Interceptor) bool {
	switch x.(type) {
	case nil:
		return true
	case *ConcurrencyLimiter, *RateLimiter, *CircuitBreaker, *PriorityScheduler, InterceptorFunc:
		return reflect.ValueOf(x).IsNil()
	}
	return false
}
