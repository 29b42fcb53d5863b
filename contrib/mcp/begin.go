package sluicemcp

import (
	"context"
	"runtime"
	"sync"
	"weak"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/sluice-go/sluice/agent"
)

// begin has calls of the tools that [AddTool] guards on one server begin on a goroutine of [agent.Contain], before the
// library decodes their arguments. A type's own UnmarshalJSON or MarshalJSON may panic, too, and a stack that grows
// takes longer there than all that the guard does. The handler gets one of its own nevertheless: what is between the
// two, as middleware and interceptors, has to see it return, and may call it from another goroutine.
type begin struct {
	tools sync.Map // of weak.Pointer[begun], by the tool's name in the protocol
	added sync.Once
}

// begun is a tool; the handler that the server has keeps it.
type begun struct {
	guard *guard
	name  string // in the registry
}

// begins has a begin of each server with such tools, by its weak.Pointer, until the server is collected. What it has
// leads to no server.
var begins sync.Map

// beginOf is that of s, which it is a middleware of.
func beginOf(s *mcp.Server) *begin {
	key := weak.Make(s)
	x, _ := begins.LoadOrStore(key, new(begin))
	b := x.(*begin)
	b.added.Do(func() {
		runtime.AddCleanup(s, func(key weak.Pointer[mcp.Server]) { begins.Delete(key) }, key)
		s.AddReceivingMiddleware(b.middleware)
	})
	return b
}

func (b *begin) middleware(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, req mcp.Request) (res mcp.Result, err error) {
		p, ok := req.GetParams().(*mcp.CallToolParamsRaw)
		if !ok || method != callTool {
			return next(ctx, method, req)
		}
		t := b.tool(p.Name)
		if t == nil {
			return next(ctx, method, req)
		}
		failed := agent.Contain(t.name, func() { res, err = next(ctx, method, req) })
		if failed == nil {
			return res, err
		}
		if res, err = t.guard.answer(ctx, nil, failed); err != nil {
			return nil, err
		}
		return res, nil
	}
}

// tool is what AddTool has last guarded under that name, or nil.
func (b *begin) tool(name string) *begun {
	w, ok := b.tools.Load(name)
	if !ok {
		return nil
	}
	t := w.(weak.Pointer[begun]).Value()
	if t == nil {
		b.tools.CompareAndDelete(name, w) // the server has it no more
	}
	return t
}
