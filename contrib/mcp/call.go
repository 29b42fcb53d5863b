package sluicemcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// The methods that the middleware knows.
const (
	callTool  = "tools/call"
	listTools = "tools/list"
)

// call is one tool call on its way.
type call struct {
	tool    string // by its name in the protocol
	args    json.RawMessage
	session mcp.Session // nil if there is none
	list    pages       // asks for the tools that there are now; nil if the tool is known for good

	next   mcp.MethodHandler // of a middleware
	req    mcp.Request
	direct bool // next is the library's own, which does not call runtime.Goexit
}

// run is the code of a middleware's call: it goes on to next.
func (x *call) run(ctx context.Context) (*mcp.CallToolResult, error) {
	res, err := passOn(ctx, x.next, callTool, x.req)
	if err == nil {
		report(ctx, res)
	}
	return res, err
}

// insideKey is for an [inside], in the context of a call that [Server] has admitted.
type insideKey struct{}

type inside struct {
	exec    *sluice.Executor
	tool    string
	session uintptr // where it is: contexts are kept longer than sessions
}

// insideOf is that of a call in a session s. A handler may hand its context on to a session with another server.
func insideOf(e *sluice.Executor, tool string, s *mcp.ServerSession) inside {
	return inside{e, tool, reflect.ValueOf(s).Pointer()}
}

// do makes a call whose code is run. Its error is a [setupError] if the tool could not be declared.
func do[T any](ctx context.Context, g *guard, x *call, run func(context.Context) (T, error)) (out T, err error) {
	on, err := g.onBehalf(ctx, x)
	if err != nil {
		return out, err
	}
	for again := true; ; again = false {
		k, err := g.declared(ctx, x)
		if err != nil {
			return out, setupError{err}
		}
		name := k.spec.Name
		code := run
		if !x.direct {
			code = func(ctx context.Context) (T, error) {
				a := &attempt[T]{ctx: ctx, code: run}
				if p := agent.Contain(name, a.run); p != nil {
					return a.out, p
				}
				return a.out, a.err
			}
		}
		out, err = sluice.Do(on, g.exec, sluice.Request{Tool: name, Args: x.args}, code)
		if err == nil || !again || !errors.Is(err, sluice.ErrRejected) { // else its code has run
			return out, err
		}
		switch {
		case errors.Is(err, sluice.ErrUnknownTool): // somebody has taken it out of the registry
			k.declared.Store(false)
		case errors.Is(err, sluice.ErrInvalidArguments) && g.changed(ctx, x, k):
		default:
			return out, err
		}
	}
}

// attempt is the code of a call in one attempt. There may be several at once.
type attempt[T any] struct {
	ctx  context.Context
	code func(context.Context) (T, error)
	out  T
	err  error
}

func (a *attempt[T]) run() { a.out, a.err = a.code(a.ctx) }

// setupError is of a tool that could not be declared: it is for whoever has written the server, not for models.
type setupError struct{ error }

func (e setupError) Unwrap() error { return e.error }

// handlerError marks what a tool's own code has returned, which the library knows what to do with.
type handlerError struct{ error }

func (e handlerError) Unwrap() error           { return e.error }
func (e handlerError) Outcome() sluice.Outcome { return outcomeOf(e.error) }

// toModel is an error with the text that the model reads.
type toModel struct {
	text string
	err  error
}

func (e toModel) Error() string { return e.text }
func (e toModel) Unwrap() error { return e.err }

// passOn is the code of a call that a middleware has: it goes on to next.
func passOn(ctx context.Context, next mcp.MethodHandler, method string, req mcp.Request) (*mcp.CallToolResult, error) {
	r, err := next(ctx, method, req)
	if err != nil {
		return nil, handlerError{err}
	}
	res, ok := r.(*mcp.CallToolResult)
	switch {
	case !ok:
		return nil, handlerError{fmt.Errorf("sluicemcp: the answer to tools/call is a %T: must be a *mcp.CallToolResult", r)}
	case res != nil && res.IsError && isLate(ctx):
		return nil, ctx.Err()
	case res != nil && res.IsError:
		return nil, &ResultError{res}
	}
	return res, nil
}

// answer is what a typed handler answers.
type answer[Out any] struct {
	Result *mcp.CallToolResult `json:"result,omitempty"`
	Output Out                 `json:"output"`
}

// failedWith is a ResultError with the typed result beside it.
type failedWith[Out any] struct {
	*ResultError
	out Out
}

func (e *failedWith[Out]) Unwrap() error { return e.ResultError }

// ask is the code of a call that AddTool guards.
func ask[In, Out any](ctx context.Context, h mcp.ToolHandlerFor[In, Out], req *mcp.CallToolRequest, in In) (*answer[Out], error) {
	res, out, err := h(ctx, req, in)
	switch {
	case err != nil:
		return nil, handlerError{err}
	case res != nil && res.IsError && isLate(ctx):
		return nil, ctx.Err()
	case res != nil && res.IsError:
		return nil, &failedWith[Out]{&ResultError{res}, out}
	}
	report(ctx, res)
	return &answer[Out]{res, out}, nil
}

// isLate reports whether the call's time is over. What a tool says of that, in words of its own, is not its answer.
func isLate(ctx context.Context) bool { return errors.Is(context.Cause(ctx), sluice.ErrTimeout) }

// onBehalf is ctx with on whose behalf the call runs. Many sessions have no id, and to look through a context takes
// longer than to ask for it.
func (g *guard) onBehalf(ctx context.Context, x *call) (context.Context, error) {
	id := ""
	if x.session != nil {
		id = x.session.ID()
	}
	if id == "" && g.conf.Behalf == nil {
		return ctx, nil
	}
	pc := sluice.PipelineContextFrom(ctx)
	if pc.SessionID == "" {
		pc.SessionID = id
	}
	if g.conf.Behalf != nil {
		return g.ask(ctx, pc, x.tool)
	}
	return sluice.WithPipelineContext(ctx, pc), nil
}

func (g *guard) ask(ctx context.Context, pc sluice.PipelineContext, tool string) (context.Context, error) {
	if err := agent.Contain(tool, func() { pc = g.conf.Behalf(ctx, pc) }); err != nil {
		return nil, err
	}
	return sluice.WithPipelineContext(ctx, pc), nil
}

// answer is how a server goes on after a call. A tool's results are left as they are, and so are its own errors;
// a request that was cancelled ends with an error, since nobody reads it; all else is for the model to read.
func (g *guard) answer(ctx context.Context, res *mcp.CallToolResult, err error) (*mcp.CallToolResult, error) {
	if err == nil {
		return copied(res), nil
	}
	if setup, ok := err.(setupError); ok {
		return nil, setup.error
	}
	if !isOfSluice(err) {
		if failed, ok := errors.AsType[*ResultError](err); ok {
			return copied(failed.Result), nil
		}
		if own, ok := errors.AsType[handlerError](err); ok {
			return nil, own.error
		}
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, ctx.Err()
	}
	refusal := &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: g.text(err)}}}
	refusal.SetError(err) // for the server's other middleware
	return refusal, nil
}

// isOfSluice reports whether Sluice has said why the call, or one that the tool made itself, did not do what it
// should: that names limits, and ModelText has it in words for a model.
func isOfSluice(err error) bool {
	_, refused := errors.AsType[*sluice.Error](err)
	_, panicked := errors.AsType[*sluice.PanicError](err)
	return refused || panicked
}

// text is what a model reads of err.
func (g *guard) text(err error) (text string) {
	if g.conf.Text != nil && agent.Contain("", func() { text = g.conf.Text(err) }) == nil {
		return text
	}
	return sluice.ModelText(err)
}

// copied is a result that the library may write to, as it does: resilience.Join, say, gives one to several calls.
func copied(res *mcp.CallToolResult) *mcp.CallToolResult {
	if res == nil {
		return nil
	}
	c := *res
	if c.Meta != nil {
		c.Meta = make(mcp.Meta, len(res.Meta)+1) // a clone would be as large as the decoder has made it
		maps.Copy(c.Meta, res.Meta)
	}
	return &c
}
