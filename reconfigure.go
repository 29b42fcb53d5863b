package sluice

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/cow"
	"github.com/sluice-go/sluice/internal/rules"
	"github.com/sluice-go/sluice/internal/stage"
	"github.com/sluice-go/sluice/internal/survey"
)

// Change is a change to one component, made by its Change method and applied, and checked, by
// [Reconfigure].
type Change struct{ impl change }

type change interface {
	target() any        // what changes, at most once per Reconfigure
	check() error       // against the present
	refs() []*stage.Ref // whose locks apply needs, after check
	apply(*locked)      // cannot fail
}

// configuration is what a gate, or the scheduler, can be configured with.
type configuration[C any] interface {
	complete() (C, error) // with the defaults filled in
}

// configChange is the change of a gate, or of the scheduler, to another configuration.
type configChange[C configuration[C]] struct {
	gate any
	core *gateCore
	conf *C                                                     // the gate's, guarded by core.mu
	to   C                                                      // completed by the check
	fits func(was C, to *C) error                               // why it cannot become to; may put in what stays
	turn func(lk *locked, s *stage.Stage, now int64, was, to C) // has the machine follow; cannot fail
}

func (x *configChange[C]) target() any        { return x.gate }
func (x *configChange[C]) refs() []*stage.Ref { return []*stage.Ref{x.core.stage} }

func (x *configChange[C]) check() (err error) {
	x.core.mu.Lock()
	was := *x.conf
	x.core.mu.Unlock()
	if x.to, err = x.to.complete(); err != nil {
		return err
	}
	return x.fits(was, &x.to)
}

func (x *configChange[C]) apply(lk *locked) {
	s, now := lk.Stage(x.core.stage), lk.Now
	x.core.mu.Lock()
	was := *x.conf
	*x.conf = x.to
	x.core.mu.Unlock()
	x.turn(lk, s, now, was, x.to)
}

// locked is the stages that a Reconfigure holds.
type locked struct {
	*stage.Held
	by string
}

// changed has the sinks hear of a change.
func (lk *locked) changed(s *stage.Stage, name, from, to string) {
	s.Note(stage.Notice{Kind: stage.Changed, By: name, From: from, To: to, Actor: lk.by})
}

// Reconfigure applies all changes at one instant, or none: calls that wait feel it at once, and none
// is admitted by half of it. Events name by as who changed it. An error says which change is not
// possible, and why. It does not wait for calls, and is safe for concurrent use.
func Reconfigure(by string, changes ...Change) error {
	for _, c := range changes { // what is not the library's is not asked under its locks
		if x, ok := c.impl.(*ownChange); ok && x.fits != nil {
			if err := x.fits(); err != nil {
				return err
			}
		}
	}
	err := stage.LockAll(func() ([]*stage.Ref, error) { return checked(changes) }, func(h *stage.Held) {
		for _, c := range changes {
			c.impl.apply(&locked{h, by})
		}
	})
	if err != nil {
		return err
	}
	for _, c := range changes {
		if x, ok := c.impl.(*ownChange); ok {
			x.do()
		}
	}
	return nil
}

// NewChange is the change of a component of your own: check, which may be nil, says why it cannot be, and
// apply makes it, when all changes are possible, right after those of the library. Both run on the
// goroutine of [Reconfigure], outside locks. Of one component, a pointer as a rule, there may be one change.
func NewChange(component any, check func() error, apply func()) Change {
	return Change{&ownChange{component, check, apply}}
}

// ownChange is the change of what the library does not know.
type ownChange struct {
	component any
	fits      func() error
	do        func()
}

func (x *ownChange) target() any        { return x.component }
func (x *ownChange) refs() []*stage.Ref { return nil }
func (x *ownChange) apply(*locked)      {} // outside the locks

func (x *ownChange) check() error {
	switch {
	case x.do == nil:
		return errors.New("sluice: NewChange: apply is nil: must be a function")
	case x.component == nil || !reflect.TypeOf(x.component).Comparable():
		return fmt.Errorf("sluice: NewChange: the component is %T: must be one that can be compared, as a pointer", x.component)
	}
	return nil
}

// checked says what is wrong with changes, or whose locks they need.
func checked(changes []Change) (refs []*stage.Ref, err error) {
	seen := make(map[any]bool, len(changes))
	for i, c := range changes {
		if c.impl == nil {
			return nil, fmt.Errorf("sluice: Reconfigure: change %d is the zero Change: make one with a Change method", i)
		}
		if err := c.impl.check(); err != nil {
			return nil, err
		}
		t := c.impl.target()
		if seen[t] {
			return nil, fmt.Errorf("sluice: Reconfigure: change %d is the second of one component: "+
				"there must be one for each", i)
		}
		seen[t] = true
	}
	for _, c := range changes {
		refs = append(refs, c.impl.refs()...)
	}
	return refs, nil
}

type policyChange struct {
	r    *ToolRegistry
	name string
	to   Policy
	own  rules.Tool  // of to
	tool *toolShared // that the check found
}

func (x *policyChange) target() any { return [...]any{x.r, x.name} }

func (x *policyChange) check() (err error) {
	if x.r == nil {
		return errors.New("sluice: WithPolicy: the ToolRegistry is nil")
	}
	t := x.r.current().tools[x.name]
	if t == nil {
		return fmt.Errorf("sluice: WithPolicy: tool %q is not registered", cut(x.name, 128))
	}
	x.tool = t.shared
	x.own, err = x.to.complete(x.name)
	return err
}

func (x *policyChange) refs() []*stage.Ref {
	return []*stage.Ref{x.tool.core.stage}
}

func (x *policyChange) apply(lk *locked) {
	x.r.mu.Lock()
	defer x.r.mu.Unlock()
	old := x.r.current()
	was := old.tools[x.name]
	if was == nil || was.shared != x.tool {
		return // removed or replaced meanwhile: there is nothing to change
	}
	t := *was
	t.spec.Policy, t.own = x.to, x.own
	core := &t.shared.core
	s := lk.Stage(core.stage)
	change := rules.ToolChange{Machine: s.M, Now: lk.Now, ID: t.shared.id, Cost: t.shared.learned.Estimate,
		Changed: func(name, from, to string) { lk.changed(s, name, from, to) }}
	var classes []*admit.Class
	for _, l := range core.limits {
		classes = append(classes, l.Class)
	}
	core.limits = t.limits(change.Apply(&was.own, &t.own, classes))
	x.r.storeLocked(cow.With(old.tools, x.name, &t), x.name)
}

// gateCore is what gates, and the tools' own policies, have in common: the constraints they
// put on calls. Gates decide whether a call may start now: concurrency limiters, rate limiters
// and circuit breakers. Those that an executor lists, with the priority scheduler, are one
// admission stage. There are no others: foreign code would run under the stage's lock.
type gateCore struct {
	name    string     // shown in Plan; empty in a component that no New function made
	stage   *stage.Ref // of a tool's policy, its registry's
	limits  []survey.Limit
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
	return len(g.limits) == 0 || slices.ContainsFunc(g.limits, func(l survey.Limit) bool {
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
	scope := g.limits[0].Scope
	wants, has := hasKey(scope, key, g.stage)
	s := g.stage.Lock()
	defer s.Unlock()
	now := s.Now()
	s.M.Advance(now) // which may forget keys: none goes between the first and the last
	var cells []*admit.Cell
	for _, l := range g.limits {
		c := l.Class.Lookup(key)
		if c == nil && !has {
			return fmt.Errorf("sluice: %s %q, which counts %s, has no key %q: must be %s", component(gate), g.name, scope, cut(key, 128), wants)
		}
		if c == nil && make {
			if c = s.M.Cell(now, l.Class, key); c == nil {
				return fmt.Errorf("sluice: %s %q has no room for key %q: all keys that it may have are busy", component(gate), g.name, cut(key, 128))
			}
		}
		if c != nil {
			cells = append(cells, c)
		}
	}
	f(s, cells)
	return nil
}

// hasKey says what a key of a gate of scope s can be, and whether key is one: of tools and
// their types, one that some executor's registry has, as long as there is an executor.
func hasKey(s rules.Scope, key string, r *stage.Ref) (wants string, has bool) {
	wants, has = s.Wants(key)
	clients := r.Clients()
	if !has || s.Kind() != rules.ByTool && s.Kind() != rules.ByType || len(clients) == 0 {
		return wants, has
	}
	return wants, slices.ContainsFunc(clients, func(c stage.Client) bool {
		tools := executorOf(c).registry.current().tools
		if s.Kind() == rules.ByTool {
			return tools[key] != nil
		}
		for _, t := range tools {
			if t.spec.Type == key {
				return true
			}
		}
		return false
	})
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
