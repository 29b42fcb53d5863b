package sluiceeino

import (
	"fmt"
	"slices"
	"sync"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// maxTools bounds how many tools stay in the registry: a run may bring ever new ones.
const maxTools = 10_000

// guard knows which tools are declared.
type guard struct {
	exec *sluice.Executor
	conf Config
	max  int // tools

	mu    sync.RWMutex
	tools map[string]declared // by eino's name
	names map[string]string   // eino's name by that in the registry
	order []string            // eino's names, oldest first
}

// declared is a tool in the registry.
type declared struct {
	name string // there
	ours bool   // nobody else has declared it
}

func newGuard(e *sluice.Executor, c Config) *guard {
	return &guard{exec: e, conf: c, max: maxTools, tools: map[string]declared{}, names: map[string]string{}}
}

// declared is the name in the registry of the tool that is called, which is there.
func (g *guard) declared(called string) (string, error) {
	g.mu.RLock()
	d, ok := g.tools[called]
	g.mu.RUnlock()
	if ok {
		return d.name, nil
	}
	return g.declare(called, sluice.Spec{})
}

// declare has a tool be in the registry, which says what s does; what s leaves open stays what somebody has said
// before. Several may do so at once.
func (g *guard) declare(called string, s sluice.Spec) (string, error) {
	s.Name = registryName(g.conf.Prefix, called)
	r := g.exec.Registry()
	var was sluice.Spec
	known := false
	if r != nil {
		was, known = r.Lookup(s.Name)
	}
	if known {
		s.Type, s.Hints, s.OutputSchema, s.Check, s.Policy = was.Type, was.Hints, was.OutputSchema, was.Check, was.Policy
		if s.InputSchema == nil {
			s.InputSchema = was.InputSchema
		}
		if s.Description == "" {
			s.Description = was.Description
		}
	} else {
		var err error
		if s.Policy, err = g.conf.policy(s.Name); err != nil {
			return "", err
		}
	}
	if err := sluice.Declare(r, s); err != nil {
		return "", err
	}
	oldest, err := g.enter(called, declared{s.Name, !known})
	if oldest != "" {
		r.Remove(oldest)
	}
	return s.Name, err
}

// enter notes that a tool is declared, and names the one that has to go from the registry for it, if any.
func (g *guard) enter(called string, d declared) (oldest string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if was, ok := g.names[d.name]; ok {
		if was != called {
			return "", fmt.Errorf("sluiceeino: the tool %q would be %q in the registry, as %q is: rename one", called, d.name, was)
		}
		return "", nil
	}
	g.tools[called], g.names[d.name] = d, called
	if g.order = append(g.order, called); len(g.order) > g.max {
		if first := g.tools[g.order[0]]; first.ours {
			oldest = first.name
		}
		g.forgetLocked(g.order[0])
	}
	return oldest, nil
}

// forget has a tool declared when it is called again.
func (g *guard) forget(called string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgetLocked(called)
}

func (g *guard) forgetLocked(called string) {
	delete(g.names, g.tools[called].name)
	delete(g.tools, called)
	if i := slices.Index(g.order, called); i >= 0 {
		g.order = slices.Delete(g.order, i, i+1)
	}
}

// registryName is what the registry calls a tool: prefix and name, or, where it does not take that name, what
// [agent.NewNames] makes of it: what can be kept, and eight digits of its hash.
func registryName(prefix, name string) string {
	if fits(prefix + name) {
		return prefix + name
	}
	names, err := agent.NewNames(slices.Values([]sluice.Spec{{Name: name}}))
	if err != nil { // it is empty, which the registry says
		return prefix
	}
	return prefix + names.Name(name)
}

// fits reports whether the registry takes a name.
func fits(name string) bool {
	for _, c := range []byte(name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.', c == '-':
		default:
			return false
		}
	}
	return 0 < len(name) && len(name) <= 128
}
