package sluice

import (
	"fmt"
	"slices"
	"sync"

	"github.com/sluice-go/sluice/internal/admit"
)

// gate is a component that decides whether a call may start now: a concurrency limiter,
// a rate limiter or a circuit breaker. Gates listed beside each other, with the priority
// scheduler, are one admission stage. The interface is sealed: foreign code would run
// under the stage's lock.
type gate interface {
	Interceptor
	gate() *gateCore
}

// gateCore is what the gates have in common: the constraints they put on calls.
type gateCore struct {
	name    string // shown in Plan
	stage   stageRef
	limits  []gateLimit
	foreign *foreignLimiter // a *rate.Limiter of the caller's own, asked last

	mu sync.Mutex // guards the owner's configuration
}

// gateLimit is one constraint: its cells and what they count by.
type gateLimit struct {
	class *admit.Class
	scope Scope
}

// maxKeys is a MaxKeys field with its default.
func maxKeys(field string, n int) (int, error) {
	switch {
	case n < 0:
		return 0, fmt.Errorf("sluice: %s is %d: must be zero (10,000) or positive", field, n)
	case n == 0:
		return 10_000, nil
	}
	return n, nil
}

// tableSize is the bound that the cells of a scope need.
func tableSize(s Scope, keys int) int {
	if s.keyed() {
		return keys
	}
	return 0
}

// checkName says what is wrong with a component's name.
func checkName(field, name string) error {
	if len(name) > 128 {
		return fmt.Errorf("sluice: %s has %d bytes: must have at most 128", field, len(name))
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f || r == 0xfffd || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return fmt.Errorf("sluice: %s %q has a control character: must be printable", field, name)
		}
	}
	return nil
}

// label is kind, or kind/name.
func label(kind, name string) string {
	if name == "" || name == kind {
		return kind
	}
	return kind + "/" + name
}

// wrapAlone makes a handler of one gate used outside an executor's list of interceptors:
// an admission stage of its own around next.
func wrapAlone(g *gateCore, tool Spec, next Handler) Handler {
	a, err := newAdmission([]*gateCore{g}, &tool, nil)
	if err != nil {
		return failing(err)
	}
	return a.handler(next)
}

func sameShape(name string, n, m int) error {
	if n != m {
		return fmt.Errorf("sluice: %s has %d entries, the component was made with %d: their number cannot change", name, n, m)
	}
	return nil
}

// cells are the gate's cells for key, made if need be. The stage is locked.
func (g *gateCore) cells(s *stage, key string, make bool) []*admit.Cell {
	var out []*admit.Cell
	for _, l := range g.limits {
		c := l.class.Lookup(key)
		if c == nil && make {
			c = s.m.Cell(s.now(), l.class, key)
		}
		if c != nil && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out
}
