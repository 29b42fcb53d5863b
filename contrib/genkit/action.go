package sluicegenkit

import (
	"context"
	"encoding/json"
	"sync/atomic"

	"github.com/firebase/genkit/go/ai"
	"github.com/firebase/genkit/go/core/api"

	"github.com/sluice-go/sluice"
)

// registrar is a registry that guards the tool which registers itself.
type registrar struct {
	api.Registry
	guard *guard
	tool  *tool
}

// RegisterAction registers the tool's action, guarded.
func (r registrar) RegisterAction(key string, a api.Action) {
	r.Registry.RegisterAction(key, &action{a, r.guard, r.tool})
}

// action is a tool's action whose runs are calls of an executor.
type action struct {
	api.Action
	guard *guard
	tool  *tool
}

type (
	streamed = func(context.Context, json.RawMessage) error
	result   = api.ActionRunResult[json.RawMessage]
)

// Register registers the action with another registry, guarded as well.
func (a *action) Register(r api.Registry) { a.Action.Register(registrar{r, a.guard, a.tool}) }

// RunJSON is what genkit calls for a model.
func (a *action) RunJSON(ctx context.Context, input json.RawMessage, cb streamed) (json.RawMessage, error) {
	res, err := a.RunJSONWithTelemetry(ctx, input, cb)
	if err != nil {
		return nil, err
	}
	return res.Result, nil
}

// RunJSONWithTelemetry is what genkit calls for the developer UI. A call that has not reached the tool has no trace.
func (a *action) RunJSONWithTelemetry(ctx context.Context, input json.RawMessage, cb streamed) (*result, error) {
	if ctx, ok := guarded(ctx, a.guard.exec, a.tool); ok {
		return a.Action.RunJSONWithTelemetry(ctx, input, cb)
	}
	var last atomic.Pointer[result] // there may be several attempts
	r := sluice.Request{Tool: a.tool.name, Args: input}
	out, err := call(ctx, a.guard, &calling{exec: a.guard.exec, tool: a.tool}, r, func(ctx context.Context) (json.RawMessage, error) {
		res, err := a.Action.RunJSONWithTelemetry(ctx, input, cb)
		if res == nil {
			return nil, err
		}
		last.Store(res)
		return res.Result, err
	})
	if err != nil {
		var told any
		if told, err = a.guard.answer(ctx, err); err == nil {
			out, err = json.Marshal(ai.MultipartToolResponse{Output: told})
		}
	}
	res := &result{Result: out}
	if x := last.Load(); x != nil {
		res.TraceId, res.SpanId = x.TraceId, x.SpanId
	}
	return res, err
}
