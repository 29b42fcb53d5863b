package sluicegenkit

import (
	"context"
	"errors"
	"fmt"

	"github.com/firebase/genkit/go/ai"
	"github.com/firebase/genkit/go/core/api"
	"github.com/firebase/genkit/go/genkit"

	"github.com/sluice-go/sluice"
)

// Config says how tools are guarded. The zero value adds nothing to what the executor's own gates say.
type Config struct {
	Policy func(tool string) sluice.Policy                                             // limits of a tool by its name in the registry; nil means none of its own
	Behalf func(ctx context.Context, pc sluice.PipelineContext) sluice.PipelineContext // on whose behalf: tenant, user, priority; nil changes nothing, as the library knows no session
	Text   func(err error) string                                                      // what a model reads of an error; nil means sluice.ModelText
	Prefix string                                                                      // before a tool's name in the registry, as "github."; empty means none
	_      struct{}
}

// DefineTool is [genkit.DefineTool] for a tool whose calls run through e, whoever makes them: a model, a flow, the
// developer UI, or RunRaw of the tool. The schemas, the description and all else that is told of the tool are as
// without e. It is declared in e's registry by its name behind c.Prefix.
//
// A call waits while e has it wait, until it may start, its context ends, or e refuses it; and while the tool runs,
// until its code ends or its time is over. An error of a call, a refusal and a panic too, is an output that the model
// reads; see the package documentation. The functions of c are called for each call, at once for several; one that
// panics or exits fails the call.
//
// It is an error if g or fn is nil, if e is nil or zero, if g has a tool of that name, if genkit does not take the
// types or options, if the name is registered with a function of its own, or if the registry does not take its Policy.
func DefineTool[In, Out any](
	g *genkit.Genkit, e *sluice.Executor, name, description string, c Config, fn ai.ToolFunc[In, Out], opts ...ai.ToolOption,
) (ai.Tool, error) {
	switch {
	case g == nil:
		return nil, errors.New("sluicegenkit: the Genkit is nil: use genkit.Init")
	case fn == nil:
		return nil, fmt.Errorf("sluicegenkit: the function of the tool %q is nil: must not be", name)
	case name == "":
		return nil, errors.New("sluicegenkit: the tool's name is empty: must have one")
	case genkit.LookupTool(g, name) != nil:
		return nil, fmt.Errorf("sluicegenkit: the tool %q is defined already: must be another name", name)
	}
	d := &definition{guard: newGuard(e, c)}
	err := d.guard.isMade()
	if err == nil {
		err = orPanic(func() error {
			d.tool = ai.NewTool(name, description, fn, opts...)
			genkit.RegisterAction(g, d)
			return d.err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("sluicegenkit: the tool %q: %w", name, err)
	}
	return genkit.LookupTool(g, name), nil
}

// Middleware has all tools of a [genkit.Generate], or of a prompt, run through e, those too that it is given for that
// one time, that answer with media, and that a plugin brings. The id of a call is its ref. A tool is declared in e's
// registry at its first call, by its name behind c.Prefix. All else is as for [DefineTool]; a tool of that is guarded
// once, as c says. List it once and last, so that genkit's other middleware goes around it.
//
//	genkit.Generate(ctx, g, ai.WithTools(search), ai.WithUse(sluicegenkit.Middleware(exec, sluicegenkit.Config{})))
//
// It may be made anew for each Generate, and be used by several at once. Given to [genkit.DefineMiddleware] it has the
// name "sluice". If e is nil or zero, Generate fails and says so.
func Middleware(e *sluice.Executor, c Config) ai.Middleware { return &middleware{newGuard(e, c)} }

// middleware is a pointer, so that genkit can read JSON into it, of which there is nothing to read.
type middleware struct{ guard *guard }

// Name is what prompts call it.
func (*middleware) Name() string { return "sluice" }

// New is asked for each Generate.
func (m *middleware) New(context.Context) (*ai.Hooks, error) {
	if m.guard == nil { // genkit asks a zero value for its name alone
		return nil, errors.New("sluicegenkit: the middleware is zero: use Middleware")
	}
	if err := m.guard.isMade(); err != nil {
		return nil, err
	}
	return &ai.Hooks{WrapTool: m.guard.hook}, nil
}

// policy is what Config says of a tool.
func (c *Config) policy(tool string) (p sluice.Policy, err error) {
	if c.Policy != nil {
		err = contained(tool, func() { p = c.Policy(tool) })
	}
	return p, err
}

// definition is a tool that is being defined. Of what it registers it keeps the registry from having anything that
// is not guarded.
type definition struct {
	guard *guard
	tool  interface {
		ai.Tool
		api.Action
	}
	err error
}

// Register registers the tool, unless it cannot be declared.
func (d *definition) Register(r api.Registry) {
	d.tool.Register(r.NewChild()) // so that it knows the schemas that it refers to
	var t *tool
	if t, d.err = d.guard.declare(d.tool); d.err == nil {
		d.tool.Register(registrar{r, d.guard, t})
	}
}

// orPanic is f's error, or what it panics with: genkit's own words about an option or a type.
func orPanic(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%v", v)
		}
	}()
	return f()
}
