package mcpgo

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// maxTools bounds how many tools of a server stay in the registry: sessions may have ever new ones.
const maxTools = 10_000

// guard knows which tools are declared, and how.
type guard struct {
	exec *sluice.Executor
	conf Config
	only *mcp.Tool // if it is for that tool alone
	max  int       // tools

	mu    sync.RWMutex
	tools map[string]*declared // by the server's name
	names map[string]string    // the server's name by that in the registry
	order []string             // the server's names, oldest first
}

// declared is a tool as it was declared; it does not change.
type declared struct {
	name string    // in the registry
	tool *mcp.Tool // nil if sessions have different ones: then by its name alone
}

func newGuard(e *sluice.Executor, c Config) *guard {
	return &guard{exec: e, conf: c, max: maxTools, tools: map[string]*declared{}, names: map[string]string{}}
}

// declared is the tool that is called, which has been declared as it is now, and its name in the registry. It is
// nil if sessions have different ones and it has just been taken away.
func (g *guard) declared(ctx context.Context, session server.ClientSession, called string) (name string, tool *mcp.Tool, err error) {
	tool, shared := g.only, true
	if tool == nil {
		tool, shared = find(ctx, session, called)
	}
	if tool != nil {
		called = tool.Name
	}
	g.mu.RLock()
	d := g.tools[called]
	g.mu.RUnlock()
	switch {
	case tool == nil && d != nil: // it has just been taken away, and this call still runs
		return d.name, d.tool, nil
	case tool == nil:
		return "", nil, fmt.Errorf("tool '%s' not found: %w", called, server.ErrToolNotFound)
	case d != nil && (d.tool == nil || shared && alike(d.tool, tool)):
		return d.name, tool, nil
	}
	if shared {
		name, err = g.declare(called, tool)
	} else {
		name, err = g.declare(called, nil)
	}
	return name, tool, err
}

// find is the tool of that name that the server runs; shared if it is all sessions'. A name that the server does
// not have is never declared.
func find(ctx context.Context, session server.ClientSession, name string) (tool *mcp.Tool, shared bool) {
	if s, ok := session.(server.SessionWithTools); ok {
		tools := s.GetSessionTools()
		if _, ok := tools[name]; ok { // few sessions have one, and a tool is half a kilobyte
			t := tools[name]
			return &t.Tool, false
		}
	}
	if s := server.ServerFromContext(ctx); s != nil {
		if t := s.GetTool(name); t != nil {
			return &t.Tool, true
		}
	}
	return nil, false
}

// declare declares a tool, by its name alone if it is nil. Several may do so at once: what the last one says holds,
// and the next call of a tool that is not as declared declares it again.
func (g *guard) declare(name string, tool *mcp.Tool) (string, error) {
	d := &declared{name: registryName(g.conf.Prefix, name), tool: tool}
	policy, err := g.conf.policy(d.name)
	if err != nil {
		return "", err
	}
	spec := sluice.Spec{Name: d.name, Policy: policy}
	r := g.exec.Registry()
	if r != nil { // what somebody has declared before stays what he said it is
		was, _ := r.Lookup(d.name)
		spec.Type, spec.Check = was.Type, was.Check
	}
	if tool != nil {
		describe(&spec, tool)
	}
	if err := g.reserve(name, d.name); err != nil {
		return "", err
	}
	err = sluice.Declare(r, spec)
	if err != nil { // a schema that is none, or none of an object, is not checked
		spec.InputSchema, spec.OutputSchema = nil, nil
		err = sluice.Declare(r, spec)
	}
	if err != nil {
		g.forget(d.name)
		return "", err
	}
	if oldest := g.enter(name, d); oldest != "" {
		r.Remove(oldest)
	}
	return d.name, nil
}

// reserve takes a name in the registry for a tool, unless another tool has it.
func (g *guard) reserve(name, inRegistry string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if was, ok := g.names[inRegistry]; ok && was != name {
		return fmt.Errorf("mcpgo: the tool %q would be %q in the registry, as %q is: rename one", name, inRegistry, was)
	}
	g.names[inRegistry] = name
	return nil
}

// enter notes that a tool is declared, and names the one that has to go from the registry for it, if any.
func (g *guard) enter(name string, d *declared) (oldest string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.tools[name] == nil {
		g.order = append(g.order, name)
	}
	g.tools[name], g.names[d.name] = d, name
	if len(g.order) > g.max {
		name := g.order[0]
		oldest = g.tools[name].name
		g.forgetLocked(name)
	}
	return oldest
}

// forget has the tool of that name in the registry declared when it is called again.
func (g *guard) forget(inRegistry string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forgetLocked(g.names[inRegistry])
}

func (g *guard) forgetLocked(name string) {
	delete(g.tools, name)
	delete(g.names, registryName(g.conf.Prefix, name))
	if i := slices.Index(g.order, name); i >= 0 {
		g.order = slices.Delete(g.order, i, i+1)
	}
}

// alike reports whether a tool is as it was declared. It is asked at each call, so it looks whether what a tool
// refers to is the same, not what is in it: what has been made anew only leads to Declare once more.
func alike(a, b *mcp.Tool) bool {
	return a.Description == b.Description && a.Annotations == b.Annotations &&
		same(a.RawInputSchema, b.RawInputSchema) && same(a.RawOutputSchema, b.RawOutputSchema) &&
		alikeSchemas((*mcp.ToolArgumentsSchema)(&a.InputSchema), (*mcp.ToolArgumentsSchema)(&b.InputSchema)) &&
		alikeSchemas((*mcp.ToolArgumentsSchema)(&a.OutputSchema), (*mcp.ToolArgumentsSchema)(&b.OutputSchema))
}

func alikeSchemas(a, b *mcp.ToolArgumentsSchema) bool {
	return a.Type == b.Type && same(a.Required, b.Required) && sameMap(a.Properties, b.Properties) && sameMap(a.Defs, b.Defs) &&
		(a.AdditionalProperties == nil && b.AdditionalProperties == nil || reflect.DeepEqual(a.AdditionalProperties, b.AdditionalProperties))
}

func same[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

func sameMap(a, b map[string]any) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
}

// describe fills in what a tool says of itself.
func describe(s *sluice.Spec, t *mcp.Tool) {
	s.Description, s.InputSchema, s.OutputSchema = t.Description, t.RawInputSchema, t.RawOutputSchema
	if len(s.InputSchema) == 0 && t.InputSchema.Type != "" {
		s.InputSchema, _ = json.Marshal(t.InputSchema)
	}
	if len(s.OutputSchema) == 0 && t.OutputSchema.Type != "" {
		s.OutputSchema, _ = json.Marshal(t.OutputSchema)
	}
	a := t.Annotations
	s.Hints = sluice.Hints{ReadOnly: says(a.ReadOnlyHint, false), Idempotent: says(a.IdempotentHint, false), OpenWorld: says(a.OpenWorldHint, true)}
	s.Hints.Destructive = !s.Hints.ReadOnly && says(a.DestructiveHint, true) // it means nothing of what only reads
}

// says is a hint, or the protocol's default.
func says(hint *bool, otherwise bool) bool {
	if hint == nil {
		return otherwise
	}
	return *hint
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
