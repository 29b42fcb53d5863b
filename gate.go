package sluice

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/rules"
)

// gateCore is what gates, and the tools' own policies, have in common: the constraints they
// put on calls. Gates decide whether a call may start now: concurrency limiters, rate limiters
// and circuit breakers. Those that an executor lists, with the priority scheduler, are one
// admission stage. There are no others: foreign code would run under the stage's lock.
type gateCore struct {
	name    string    // shown in Plan; empty in a component that no New function made
	stage   *stageRef // of a tool's policy, its registry's
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

// maxKeys is a MaxKeys field with its default.
func maxKeys(field string, n int) (int, error) {
	switch {
	case n < 0:
		return 0, fmt.Errorf("sluice: %s is %d: must be zero (10,000) or positive", field, n)
	case n == 0:
		return rules.DefaultKeys, nil
	}
	return n, nil
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
func (g *gateCore) at(component, key string, make bool) (*stage, []*admit.Cell, error) {
	if g.name == "" {
		return nil, nil, fmt.Errorf("sluice: the %s is a zero value: must be made by its New function", component)
	}
	scope := g.limits[0].scope
	wants, has := hasKey(scope, key, g.stage)
	s := g.stage.lock()
	now := s.now()
	s.m.Advance(now) // which may forget keys: none goes between the first and the last
	var out []*admit.Cell
	for _, l := range g.limits {
		c := l.class.Lookup(key)
		if c == nil && !has {
			s.unlock()
			return nil, nil, fmt.Errorf("sluice: %s %q, which counts %s, has no key %q: must be %s", component, g.name, scope, cut(key, 128), wants)
		}
		if c == nil && make {
			if c = s.m.Cell(now, l.class, key); c == nil {
				s.unlock()
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
func hasKey(s rules.Scope, key string, r *stageRef) (wants string, has bool) {
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
func registered(r *stageRef, s *Spec, has func(map[string]*tool) bool) bool {
	regs := r.registries()
	if regs == nil {
		_, err := s.validate()
		return err == nil
	}
	return slices.ContainsFunc(regs, func(r *ToolRegistry) bool { return has(r.current().tools) })
}
