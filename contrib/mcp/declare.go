package sluicemcp

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"golang.org/x/time/rate"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

const (
	maxTools = 10_000           // of one guard; the oldest goes first
	maxPages = 1_000            // of one list
	listTime = 30 * time.Second // for one list
	maxLists = 10               // at once, then one a second, so that wrong calls do not flood a server with them
	other    = "_OTHER"         // what the registry calls all tools that are not listed
)

// pages has one page of a list of tools, as x's server has it.
type pages func(ctx context.Context, x *call, cursor string) (*mcp.ListToolsResult, error)

// guard knows which tools there are, and which of them are declared.
type guard struct {
	exec    *sluice.Executor
	conf    Config
	lists   *rate.Limiter
	foreign bool // nobody vouches for what tools say of themselves
	max     int  // tools
	other   *tool

	mu      sync.RWMutex
	tools   map[string]*tool  // by the protocol's name
	names   map[string]string // the protocol's name by that in the registry, of declared ones
	order   []string          // the protocol's names, oldest first
	flights map[mcp.Session]*flight
}

// tool is a tool as it was listed. A change of what it says of itself makes it another.
type tool struct {
	listed   *mcp.Tool // only to know it again
	spec     sluice.Spec
	declared atomic.Bool // and it is in the registry as it is here
}

func newGuard(e *sluice.Executor, c Config) *guard {
	return &guard{
		exec: e, conf: c, max: maxTools, lists: rate.NewLimiter(1, maxLists), other: &tool{spec: sluice.Spec{Name: registryName(c.Prefix, other)}},
		tools: map[string]*tool{}, names: map[string]string{}, flights: map[mcp.Session]*flight{},
	}
}

// known is the tool of that name, if it has been listed.
func (g *guard) known(name string) *tool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.tools[name]
}

// declared is the tool that x calls, which is in the registry. Names that are not listed are one tool there, so
// that none that a model has made up is.
func (g *guard) declared(ctx context.Context, x *call) (*tool, error) {
	k := g.known(x.tool)
	if k == nil {
		if err := g.refresh(ctx, x); err != nil {
			return nil, err
		}
		k = g.known(x.tool)
	}
	name := x.tool
	if k == nil {
		k, name = g.other, other
	}
	if k.declared.Load() {
		return k, nil
	}
	return k, g.declare(name, k)
}

// changed asks for the list again, and reports whether it says something else of the tool.
func (g *guard) changed(ctx context.Context, x *call, k *tool) bool {
	return x.list != nil && g.refresh(ctx, x) == nil && g.known(x.tool) != k
}

// declare declares a tool. Several may do so at once; of several versions the one that was listed last holds.
func (g *guard) declare(name string, k *tool) error {
	spec := k.spec
	policy, err := g.conf.policy(spec.Name)
	if err != nil {
		return err
	}
	spec.Policy = policy
	r := g.exec.Registry()
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := g.tools[name]; now != k && k != g.other && now != nil { // which its own call declares
		return nil
	}
	if was, ok := g.names[spec.Name]; ok && was != name {
		return fmt.Errorf("sluicemcp: the tool %q would be %q in the registry, as %q is: rename one", name, spec.Name, was)
	}
	if r != nil { // what somebody has declared before stays what he said it is
		was, ok := r.Lookup(spec.Name)
		spec.Type, spec.Check = was.Type, was.Check
		if ok && g.foreign && !was.Hints.Untrusted {
			spec.Hints = was.Hints
		}
	}
	if err = sluice.Declare(r, spec); err != nil { // a schema that is none, or none of an object, is not checked
		spec.InputSchema, spec.OutputSchema = nil, nil
		err = sluice.Declare(r, spec)
	}
	if err != nil {
		return err
	}
	g.names[spec.Name] = name
	k.declared.Store(true)
	return nil
}

// seeing looks at a result on its way: what lists say of tools is noted.
func (g *guard) seeing(res mcp.Result, err error) (mcp.Result, error) {
	if list, ok := res.(*mcp.ListToolsResult); ok && list != nil && err == nil {
		g.note(list.Tools)
	}
	return res, err
}

// note takes notice of tools as they are now.
func (g *guard) note(list []*mcp.Tool) {
	for _, t := range list {
		if t == nil {
			continue
		}
		k := g.known(t.Name)
		if k != nil && k.listed == t {
			continue
		}
		spec := describe(g.conf.Prefix, t)
		spec.Hints.Untrusted = g.foreign
		if k == nil || !alike(&k.spec, &spec) {
			g.enter(t.Name, &tool{listed: t, spec: spec})
		}
	}
}

// enter has a tool in place of the one of that name, or of the oldest if there are too many.
func (g *guard) enter(name string, k *tool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.tools[name] == nil {
		g.order = append(g.order, name)
	}
	g.tools[name] = k
	if len(g.order) <= g.max {
		return
	}
	name = g.order[0]
	oldest := g.tools[name].spec.Name
	g.order = g.order[1:]
	delete(g.tools, name)
	if g.names[oldest] == name {
		delete(g.names, oldest)
		g.exec.Registry().Remove(oldest)
	}
}

// alike reports whether two specs that describe has made say the same.
func alike(a, b *sluice.Spec) bool {
	return a.Description == b.Description && a.Hints == b.Hints &&
		bytes.Equal(a.InputSchema, b.InputSchema) && bytes.Equal(a.OutputSchema, b.OutputSchema)
}

// flight is one list of tools that several calls wait for.
type flight struct {
	done chan struct{}
	err  error
}

// refresh asks for the tools that there are now, unless that has been done too often, and waits until they are noted
// or ctx ends.
func (g *guard) refresh(ctx context.Context, x *call) error {
	if x.list == nil {
		return nil
	}
	for range 2 { // a list that somebody has asked for before may not have it yet
		f, own := g.board(ctx, x)
		if f == nil {
			return nil
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if own || f.err != nil {
			return f.err
		}
	}
	return nil
}

// board is the flight of x's session, which is new if there was none; nil if there may be no other now.
func (g *guard) board(ctx context.Context, x *call) (f *flight, own bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f := g.flights[x.session]; f != nil {
		return f, false
	}
	if !g.lists.Allow() {
		return nil, false
	}
	f = &flight{done: make(chan struct{})}
	g.flights[x.session] = f
	go func() { // it goes on if this call's client gives up
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), listTime)
		defer cancel()
		if p := agent.Contain(listTools, func() { f.err = g.list(ctx, x) }); p != nil {
			f.err = p
		}
		g.mu.Lock()
		delete(g.flights, x.session)
		g.mu.Unlock()
		close(f.done)
	}()
	return f, true
}

// list notes all pages of a list.
func (g *guard) list(ctx context.Context, x *call) error {
	cursor, tools := "", 0
	for range maxPages {
		page, err := x.list(ctx, x, cursor)
		if err != nil {
			return fmt.Errorf("sluicemcp: listing the tools: %w", err)
		}
		if page == nil {
			return nil
		}
		g.note(page.Tools)
		if tools += len(page.Tools); page.NextCursor == "" || tools >= g.max {
			return nil
		}
		cursor = page.NextCursor
	}
	return nil
}
