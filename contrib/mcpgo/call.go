package mcpgo

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"sync/atomic"

	"github.com/mark3labs/mcp-go/mcp"
	"github.com/mark3labs/mcp-go/server"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// call is one tool call on its way.
type call struct {
	req  mcp.CallToolRequest
	next server.ToolHandlerFunc
	name string // in the registry

	begun atomic.Bool // first is somebody's
	first attempt     // allocated with the call, since most have one attempt
}

// call makes a call of a tool, and answers as the server is to go on.
func (g *guard) call(ctx context.Context, x *call) (*mcp.CallToolResult, error) {
	session := server.ClientSessionFromContext(ctx)
	on, err := g.onBehalf(ctx, session, x.req.Params.Name)
	if err != nil {
		return mcp.NewToolResultError(g.text(err)), nil
	}
	for again := true; ; again = false {
		name, tool, err := g.declared(ctx, session, x.req.Params.Name)
		if err != nil {
			return nil, err
		}
		if g.only != nil || runsAsTask(tool, &x.req) { // its context ends when the request has been answered: mcp-go#897
			ctx, on = context.WithoutCancel(ctx), context.WithoutCancel(on)
		}
		x.name = name
		res, err := sluice.Do(on, g.exec, request(name, &x.req), x.run)
		if again && err != nil && sluice.CodeOf(err) == "unknown_tool" { // somebody has taken it out of the registry
			g.forget(name)
			continue
		}
		return g.answer(ctx, res, err)
	}
}

// runsAsTask reports whether the server runs a tool as a task, as it decides that.
func runsAsTask(tool *mcp.Tool, req *mcp.CallToolRequest) bool {
	if req.Params.Task == nil || tool == nil || tool.Execution == nil {
		return false
	}
	x := tool.Execution
	return x.TaskSupport == mcp.TaskSupportOptional || x.TaskSupport == mcp.TaskSupportRequired
}

// onBehalf is ctx with on whose behalf the call runs. Many sessions have no id, and to look through a context takes
// longer than to ask for it.
func (g *guard) onBehalf(ctx context.Context, s server.ClientSession, tool string) (context.Context, error) {
	id := ""
	if s != nil {
		id = s.SessionID()
	}
	if id == "" && g.conf.Behalf == nil {
		return ctx, nil
	}
	pc := sluice.PipelineContextFrom(ctx)
	if pc.SessionID == "" {
		pc.SessionID = id
	}
	if g.conf.Behalf != nil {
		return g.ask(ctx, pc, tool)
	}
	return sluice.WithPipelineContext(ctx, pc), nil
}

func (g *guard) ask(ctx context.Context, pc sluice.PipelineContext, tool string) (context.Context, error) {
	if err := agent.Contain(tool, func() { pc = g.conf.Behalf(ctx, pc) }); err != nil {
		return nil, err
	}
	return sluice.WithPipelineContext(ctx, pc), nil
}

// request has the arguments as they came, or as the server's middleware has made them.
func request(tool string, req *mcp.CallToolRequest) sluice.Request {
	r := sluice.Request{Tool: tool, Args: req.Params.RawArguments}
	if len(r.Args) == 0 && req.Params.Arguments != nil {
		var err error
		if r.Args, err = json.Marshal(req.Params.Arguments); err != nil {
			r.Args, r.Input = nil, req.Params.Arguments
		}
	}
	return r
}

// handlerError marks what a tool's own code has returned, which the server knows what to do with.
type handlerError struct{ error }

func (e handlerError) Unwrap() error { return e.error }

// Outcome is neutral if the error asks the user for more, and else what it says of itself.
func (e handlerError) Outcome() sluice.Outcome {
	_, asks := errors.AsType[mcp.URLElicitationRequiredError](e.error)
	_, asksByPointer := errors.AsType[*mcp.URLElicitationRequiredError](e.error)
	if asks || asksByPointer {
		return sluice.OutcomeNeutral
	}
	if x, ok := errors.AsType[speaker](e.error); ok {
		return x.Outcome()
	}
	return sluice.OutcomeAuto
}

// speaker is an error that says what it means to breakers and retries.
type speaker interface {
	error
	Outcome() sluice.Outcome
}

// attempt is the tool's code in one attempt of a call. There may be several at once.
type attempt struct {
	*call
	ctx context.Context
	res *mcp.CallToolResult
	err error
}

func (a *attempt) run() { a.res, a.err = a.next(a.ctx, a.req) }

// run is the tool's code.
func (x *call) run(ctx context.Context) (*mcp.CallToolResult, error) {
	a := &x.first
	if !x.begun.CompareAndSwap(false, true) {
		a = new(attempt)
	}
	a.call, a.ctx = x, ctx
	if p := agent.Contain(x.name, a.run); p != nil {
		return nil, p
	}
	switch res, err := a.res, a.err; {
	case err != nil:
		return nil, handlerError{err}
	case res != nil && res.IsError && errors.Is(context.Cause(ctx), sluice.ErrTimeout): // the tool tells it in its own words
		return nil, ctx.Err()
	case res != nil && res.IsError:
		return nil, &ResultError{res}
	case res.NeedsInput(): // it has only asked
		sluice.ReportOutcome(ctx, sluice.OutcomeNeutral)
	}
	return a.res, nil
}

// answer is how the server goes on after a call. A tool's results are left as they are, and so are its own errors;
// a request that was cancelled ends with an error, since nobody reads it; all else is for the model to read.
func (g *guard) answer(ctx context.Context, res *mcp.CallToolResult, err error) (*mcp.CallToolResult, error) {
	if err == nil {
		return copied(res), nil
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
	return mcp.NewToolResultError(g.text(err)), nil
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

// copied is a result that the server may write to, as it does: resilience.Join, say, gives one to several calls.
func copied(res *mcp.CallToolResult) *mcp.CallToolResult {
	if res == nil {
		return nil
	}
	c := *res
	if c.Meta != nil {
		m := *c.Meta
		m.AdditionalFields = maps.Clone(m.AdditionalFields)
		c.Meta = &m
	}
	return &c
}
