package sluicemcp

import (
	"context"
	"runtime"
	"sync"
	"weak"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/sluice-go/sluice"
)

// begin has calls of the tools that [AddTool] guards on one server begin on a hand, before the library decodes their
// arguments. A type's own UnmarshalJSON or MarshalJSON may panic, too, and a stack that grows takes longer there than
// all that the guard does.
type begin struct{ tools sync.Map } // of begun, by the tool's name in the protocol

type begun struct {
	*guard
	name string // in the registry
}

// begins has a begin of each server with such tools, by its weak.Pointer, until the server is collected.
var begins sync.Map

// beginOf is that of s, which it is a middleware of.
func beginOf(s *mcp.Server) *begin {
	key := weak.Make(s)
	b, found := begins.LoadOrStore(key, new(begin))
	if !found {
		runtime.AddCleanup(s, func(key weak.Pointer[mcp.Server]) { begins.Delete(key) }, key)
		s.AddReceivingMiddleware(b.(*begin).middleware)
	}
	return b.(*begin)
}

func (b *begin) middleware(next mcp.MethodHandler) mcp.MethodHandler {
	return func(ctx context.Context, method string, req mcp.Request) (res mcp.Result, err error) {
		p, ok := req.GetParams().(*mcp.CallToolParamsRaw)
		if !ok || method != callTool {
			return next(ctx, method, req)
		}
		t, ok := b.tools.Load(p.Name)
		if !ok || placeOf(ctx) != nil {
			return next(ctx, method, req)
		}
		tool := t.(begun)
		failed := contained(tool.name, func() { res, err = next(context.WithValue(ctx, placeKey{}, onHand), method, req) })
		if failed == nil {
			return res, err
		}
		if res, err = tool.answer(ctx, nil, failed); err != nil {
			return nil, err
		}
		return res, nil
	}
}

// placeKey is for a *place, in the context of what runs on a hand of a server.
type placeKey struct{}

// place is where a call of a server has come to.
type place struct {
	exec *sluice.Executor // that Server has admitted it to, or nil
	tool string           // by the protocol's name
}

var onHand = new(place)

// placeOf is that of ctx, or nil if the goroutine is the library's own.
func placeOf(ctx context.Context) *place {
	p, _ := ctx.Value(placeKey{}).(*place)
	return p
}
