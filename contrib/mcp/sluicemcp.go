package sluicemcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"weak"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// Config says how tools are guarded. The zero value adds nothing to what the executor's own gates say.
type Config struct {
	Policy func(tool string) sluice.Policy                                             // limits of a tool by its name in the registry; nil means none of its own
	Behalf func(ctx context.Context, pc sluice.PipelineContext) sluice.PipelineContext // on whose behalf: tenant, user, priority; nil fills in the session alone
	Text   func(err error) string                                                      // what a model reads of an error; nil means sluice.ModelText
	Prefix string                                                                      // before a tool's name in the registry, as "github."; empty means none
	_      struct{}
}

// Server has every tool call that a server receives run through e: it is admitted by e's gates, and reported to its
// sink, as a call of the tool's name. It is for [mcp.Server.AddReceivingMiddleware]; list it after the server's other
// middleware, so that it is the innermost. A tool is declared in e's registry at its first call, with what the
// server's list says of it, and again when that has changed.
//
// A call waits in the middleware until it may start, the request is cancelled, or e refuses it; and while the tool
// runs, until its code ends or its time is over. A refusal is a result that is an error. Server is safe for
// concurrent use, and for several servers if their tools of one name are alike; others need a Server each, with a
// Prefix.
func Server(e *sluice.Executor, c Config) mcp.Middleware {
	g := newGuard(e, c)
	return func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			p, ok := req.GetParams().(*mcp.CallToolParamsRaw)
			if !ok || method != callTool {
				return g.seeing(next(ctx, method, req))
			}
			x := &call{tool: p.Name, args: p.Arguments, session: req.GetSession(), list: ownTools, next: next, req: req}
			res, err := do(ctx, g, x, func(ctx context.Context) (*mcp.CallToolResult, error) {
				s, _ := x.session.(*mcp.ServerSession)
				return x.run(context.WithValue(ctx, insideKey{}, insideOf(g.exec, x.tool, s)))
			})
			if res, err = g.answer(ctx, res, err); err != nil {
				return nil, err
			}
			return res, nil
		}
	}
}

// ownTools has a page of the tools of the server that x has come to.
func ownTools(ctx context.Context, x *call, cursor string) (*mcp.ListToolsResult, error) {
	s, _ := x.session.(*mcp.ServerSession)
	res, err := x.next(ctx, listTools, &mcp.ListToolsRequest{Session: s, Params: &mcp.ListToolsParams{Cursor: cursor}, Extra: x.req.GetExtra()})
	list, _ := res.(*mcp.ListToolsResult)
	return list, err
}

// Client has every tool call that a client sends run through e, of all its sessions: limits, queue, breakers and
// timeouts in front of somebody else's server. It is for [mcp.Client.AddSendingMiddleware]. Give it a Prefix if
// there are several clients: the tool "search" is then "github.search" in e's registry. A tool is declared at its
// first call, as the server has listed it; if nobody has asked for the list yet, Client does, for at most 30 s. What
// the server says of its tools is not trusted: their hints are [sluice.Hints.Untrusted].
//
// A call waits as [Server] says. A refusal is an error of [mcp.ClientSession.CallTool], which matches
// [sluice.ErrRejected]; [sluice.ModelText] has it in words for a model. Config.Text is not asked. A timeout tells the
// server that the request is cancelled. Client is safe for concurrent use. Clients of different servers need one each.
func Client(e *sluice.Executor, c Config) mcp.Middleware {
	g := newGuard(e, c)
	g.foreign = true
	return func(next mcp.MethodHandler) mcp.MethodHandler {
		direct := isSending(next)
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			p, ok := req.GetParams().(*mcp.CallToolParams)
			if !ok || method != callTool {
				return g.seeing(next(ctx, method, req))
			}
			x := &call{tool: p.Name, session: req.GetSession(), list: theirTools, next: next, req: req, direct: direct}
			var err error
			if x.args, err = json.Marshal(p.Arguments); err != nil {
				return nil, fmt.Errorf("sluicemcp: the arguments of the tool %q: %w", p.Name, err)
			}
			res, err := do(ctx, g, x, x.run)
			switch {
			case err == nil:
				return copied(res), nil
			case isOfSluice(err): // a timeout may have what the library said then as its cause
				return nil, err
			}
			if failed, ok := errors.AsType[*ResultError](err); ok {
				return copied(failed.Result), nil
			}
			if own, ok := errors.AsType[handlerError](err); ok {
				return nil, own.error
			}
			return nil, err
		}
	}
}

// theirTools has a page of the tools of the server that x is sent to.
func theirTools(ctx context.Context, x *call, cursor string) (*mcp.ListToolsResult, error) {
	s, ok := x.session.(*mcp.ClientSession)
	if !ok {
		return nil, nil
	}
	return s.ListTools(ctx, &mcp.ListToolsParams{Cursor: cursor}) // which the middleware sees, too
}

// isSending reports whether next is the library's own code that sends what a client calls, and no middleware.
func isSending(next mcp.MethodHandler) bool {
	at := reflect.ValueOf(next).Pointer()
	return slices.Contains(senders(), at)
}

// senders are where that code is, with and without what answers servers that ask for more.
var senders = sync.OnceValue(func() (at []uintptr) {
	for _, without := range []bool{false, true} {
		o := &mcp.ClientOptions{MultiRoundTrip: &mcp.MultiRoundTripOptions{Disabled: without}}
		mcp.NewClient(&mcp.Implementation{Name: "sluice"}, o).AddSendingMiddleware(func(next mcp.MethodHandler) mcp.MethodHandler {
			at = append(at, reflect.ValueOf(next).Pointer())
			return next
		})
	}
	return at
})

// AddTool is [mcp.AddTool] with every call of the tool run through e. Unlike with [Server], arguments have been
// checked by the whole schema, and decoded, before the call is admitted: a model's mistake takes nothing of a limit,
// and is no event. And a tool that asks the user for more, by InputRequests, holds nothing while the user thinks, whatever the
// client's protocol is.
//
// A panic or exit of In's or Out's own code, as in UnmarshalJSON, and of middleware that s had before its first AddTool,
// is answered as one of the handler is, but is no event: it is not part of the call. For that, and to be quick, s gets a
// middleware at its first AddTool, which has nothing to do with calls of other names.
//
// The tool is declared in e's registry at once. It is an error if that does not take it or its Policy, or if
// [mcp.AddTool] would panic; the server is then as before. A call waits, and is refused, as [Server] says. On a server
// that has Server as well, with the same executor, a call is admitted once.
func AddTool[In, Out any](s *mcp.Server, e *sluice.Executor, t *mcp.Tool, c Config, h mcp.ToolHandlerFor[In, Out]) error {
	switch {
	case s == nil:
		return errors.New("sluicemcp: AddTool: the Server is nil: use mcp.NewServer")
	case e.Registry() == nil:
		return errors.New("sluicemcp: AddTool: the Executor is nil or zero: use sluice.NewExecutor")
	case t == nil:
		return errors.New("sluicemcp: AddTool: the Tool is nil: must not be")
	case h == nil:
		return fmt.Errorf("sluicemcp: AddTool: the handler of tool %q is nil: must not be", t.Name)
	}
	name := t.Name
	g := newGuard(e, c)
	whole := *t
	infer[In](&whole.InputSchema)
	infer[Out](&whole.OutputSchema)
	g.note([]*mcp.Tool{&whole})
	k := g.known(name)
	_, was := e.Registry().Lookup(k.spec.Name)
	if err := g.declare(name, k); err != nil {
		return fmt.Errorf("sluicemcp: AddTool: the tool %q: %w", name, err)
	}
	b := &begun{g, k.spec.Name}
	guarded := func(ctx context.Context, req *mcp.CallToolRequest, in In) (*mcp.CallToolResult, Out, error) {
		if ctx.Value(insideKey{}) == insideOf(e, name, req.Session) {
			return h(ctx, req, in)
		}
		x := &call{tool: name, args: req.Params.Arguments}
		if req.Session != nil {
			x.session = req.Session
		}
		a, err := do(ctx, b.guard, x, func(ctx context.Context) (*answer[Out], error) {
			return ask(ctx, h, req, in)
		})
		if err == nil {
			return copied(a.Result), a.Output, nil
		}
		var none Out
		if isOfSluice(err) {
			return nil, none, toModel{g.text(err), err}
		}
		if failed, ok := errors.AsType[*failedWith[Out]](err); ok {
			return copied(failed.Result), failed.out, nil
		}
		if own, ok := errors.AsType[handlerError](err); ok {
			return nil, none, own.error
		}
		return nil, none, toModel{g.text(err), err}
	}
	if err := agent.Contain(name, func() { mcp.AddTool(s, t, guarded) }); err != nil {
		if !was {
			e.Registry().Remove(k.spec.Name)
		}
		if p, ok := errors.AsType[*sluice.PanicError](err); ok && p.Value != nil {
			return fmt.Errorf("sluicemcp: %v", p.Value)
		}
		return err
	}
	beginOf(s).tools.Store(name, weak.Make(b))
	return nil
}

// ResultError is the error of a call whose tool has answered with a result that is an error. Interceptors,
// events and classify functions see it; clients get the Result as it is.
type ResultError struct{ Result *mcp.CallToolResult }

// maxText bounds what a ResultError says of its Result, in bytes.
const maxText = 1024

// Error is the first text of Result, at most 1,024 bytes of it.
func (e *ResultError) Error() string {
	for _, c := range e.Result.Content {
		if t, ok := c.(*mcp.TextContent); ok && t.Text != "" {
			return strings.ToValidUTF8(t.Text[:min(len(t.Text), maxText)], "")
		}
	}
	return "the tool answered with an error that has no text"
}

// Unwrap is the error that the Result was made of, by [mcp.CallToolResult.SetError], as the library makes one of
// every error of a typed handler. On a client it is nil.
func (e *ResultError) Unwrap() error { return e.Result.GetError() }

// Outcome is neutral, since models make mistakes and this is how tools tell them, unless a handler's error is behind
// it: then it is what that says of itself. A tool's code says otherwise by [sluice.ReportOutcome].
func (e *ResultError) Outcome() sluice.Outcome {
	if cause := e.Unwrap(); cause != nil && !isWrongArguments(cause) {
		return outcomeOf(cause)
	}
	return sluice.OutcomeNeutral
}

// outcomeOf is what a tool's own error means to breakers and retries, where the protocol says it: one for wrong
// parameters, or that asks the user for more, is neutral. Else it is what the error says of itself.
func outcomeOf(err error) sluice.Outcome {
	if e, ok := errors.AsType[*jsonrpc.Error](err); ok && (e.Code == jsonrpc.CodeInvalidParams || e.Code == mcp.CodeURLElicitationRequired) {
		return sluice.OutcomeNeutral
	}
	if e, ok := errors.AsType[speaker](err); ok {
		return e.Outcome()
	}
	return sluice.OutcomeAuto
}

// speaker is an error that says what it means.
type speaker interface {
	error
	Outcome() sluice.Outcome
}

// report says that a result which asks the user for more is neutral.
func report(ctx context.Context, res *mcp.CallToolResult) {
	if res != nil && (res.InputRequests != nil || res.NeedsInput()) {
		sluice.ReportOutcome(ctx, sluice.OutcomeNeutral)
	}
}

// isWrongArguments reports whether err is what the library makes of arguments that do not fit the schema.
func isWrongArguments(err error) bool {
	return strings.HasPrefix(err.Error(), `validating "arguments": `)
}

// policy is what Config says of a tool.
func (c *Config) policy(tool string) (p sluice.Policy, err error) {
	if c.Policy != nil {
		err = agent.Contain(tool, func() { p = c.Policy(tool) })
	}
	return p, err
}
