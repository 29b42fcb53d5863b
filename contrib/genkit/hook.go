package sluicegenkit

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/firebase/genkit/go/ai"

	"github.com/sluice-go/sluice"
)

// hook is how a Middleware makes a call of a tool.
func (g *guard) hook(ctx context.Context, params *ai.ToolParams, next ai.ToolNext) (*ai.MultipartToolResponse, error) {
	args, err := json.Marshal(params.Request.Input)
	if err != nil {
		return nil, err
	}
	for again := true; ; again = false {
		t, err := g.declared(params.Tool)
		if err != nil {
			return nil, err
		}
		ran := new(flag)
		r := sluice.Request{ID: params.Request.Ref, Tool: t.name, Args: args}
		res, err := call(ctx, g, &calling{exec: g.exec, tool: t, hooked: true}, r, func(ctx context.Context) (*ai.MultipartToolResponse, error) {
			res, err := next(&attempt{Context: ctx, ran: ran}, params)
			return res, ownError(t.title, err)
		})
		ran.raise()
		switch {
		case err == nil:
			return copied(res), nil
		case again && sluice.CodeOf(err) == "unknown_tool": // somebody has taken it out of the registry
			g.forget(t)
			continue
		}
		told, err := g.answer(ctx, err)
		if err != nil {
			return nil, err
		}
		return &ai.MultipartToolResponse{Output: told}, nil
	}
}

// ownError is what a tool has returned, without genkit's words before it.
func ownError(tool string, err error) error {
	own := errors.Unwrap(err)
	if own != nil && err.Error() == "error calling tool "+tool+": "+own.Error() {
		return own
	}
	return err
}

// copied is a response whose parts others may have as well: resilience.Join, say, gives one to several calls.
func copied(res *ai.MultipartToolResponse) *ai.MultipartToolResponse {
	if res == nil {
		return nil
	}
	return &ai.MultipartToolResponse{Output: res.Output, Content: slices.Clone(res.Content), Metadata: maps.Clone(res.Metadata)}
}

// flag is genkit's note that the tool of a call has begun. It is a bool in the context that is written, and then
// read, without a lock; but a call may have several attempts, and one may run on when the call is over. So each
// attempt gets a bool of its own, and genkit's is set when the call is.
type flag struct{ genkits atomic.Pointer[bool] }

// raise sets genkit's bool, if an attempt has set its own.
func (f *flag) raise() {
	if p := f.genkits.Load(); p != nil {
		*p = true
	}
}

// attempt is the context of one attempt of a call.
type attempt struct {
	context.Context
	ran   *flag
	asked atomic.Bool
}

// Value is the context's own, but the first time that genkit asks for its flag.
func (a *attempt) Value(key any) any {
	v := a.Context.Value(key)
	if p, ok := v.(*bool); ok {
		if _, ok := key.(*int); ok && a.asked.CompareAndSwap(false, true) { // as genkit's keys are
			a.ran.genkits.Store(p)
			return new(bool)
		}
	}
	return v
}
