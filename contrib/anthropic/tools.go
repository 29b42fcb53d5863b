package sluiceanthropic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/anthropics/anthropic-sdk-go/v2"

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

// Tools are ts for a tool runner, with every call of them run through e. Each is declared in e's registry, by its own
// name behind c.Prefix, with its description and schema; the model is told of it as before. Tools may be called
// again for the same ones: their limits stay, with what they have counted.
//
// A call waits while e has it wait, until it may start, the runner's context ends, or e refuses it; and while the
// tool runs, until its code ends or its time is over. An error of a call, a refusal and a panic too, is one that the
// runner shows to the model, as a result with is_error. The functions of c are called for each call, at once for
// several; one that panics fails the call.
//
// It is an error if a tool is nil, if two have one name, if one is registered with a function of its own, or if the
// registry does not take its name, schema or Policy.
func Tools(e *sluice.Executor, c Config, ts ...anthropic.BetaTool) ([]anthropic.BetaTool, error) {
	if e.Registry() == nil {
		return nil, errors.New("sluiceanthropic: the Executor is nil or zero: use sluice.NewExecutor")
	}
	out := make([]anthropic.BetaTool, len(ts))
	seen := map[string]bool{}
	for i, t := range ts {
		if t == nil {
			return nil, fmt.Errorf("sluiceanthropic: tool %d is nil: must not be", i)
		}
		g := &guarded{BetaTool: t, exec: e, conf: c, name: c.Prefix + t.Name()}
		if seen[g.name] {
			return nil, fmt.Errorf("sluiceanthropic: the tool %q is listed twice: names must differ", t.Name())
		}
		seen[g.name] = true
		if err := g.declare(); err != nil {
			return nil, fmt.Errorf("sluiceanthropic: the tool %q: %w", t.Name(), err)
		}
		out[i] = g
	}
	return out, nil
}

// guarded is a tool whose calls run through an executor.
type guarded struct {
	anthropic.BetaTool
	exec *sluice.Executor
	conf Config
	name string // in the registry
}

func (g *guarded) declare() error {
	schema, err := json.Marshal(g.InputSchema())
	if err != nil {
		return err
	}
	spec := sluice.Spec{Name: g.name, Description: g.Description(), InputSchema: schema}
	if g.conf.Policy != nil {
		spec.Policy = g.conf.Policy(g.name)
	}
	return sluice.Declare(g.exec.Registry(), spec)
}

// content is what a tool answers.
type content = []anthropic.BetaToolResultBlockParamContentUnion

// Execute runs the tool through the executor, on a goroutine of its own: a tool that calls runtime.Goexit must not
// end the runner's, which would answer with nothing.
func (g *guarded) Execute(ctx context.Context, input json.RawMessage) (out content, err error) {
	done := make(chan struct{})
	go func() {
		grow(len(input))
		normal := false
		defer func() {
			if !normal {
				v := recover()
				p := &sluice.PanicError{Tool: g.name, Value: v, Goexit: v == nil, Stack: debug.Stack()}
				out, err = nil, toModel{sluice.ModelText(p), p}
			}
			close(done)
		}()
		out, err = g.call(ctx, input)
		normal = true
	}()
	<-done
	return out, err
}

func (g *guarded) call(ctx context.Context, input json.RawMessage) (content, error) {
	on := ctx
	if g.conf.Behalf != nil {
		on = sluice.WithPipelineContext(ctx, g.conf.Behalf(ctx, sluice.PipelineContextFrom(ctx)))
	}
	out, err := sluice.Do(on, g.exec, sluice.Request{Tool: g.name, Args: input}, func(ctx context.Context) (content, error) {
		return g.BetaTool.Execute(ctx, input)
	})
	switch {
	case err == nil:
		return out, nil
	case g.conf.Text != nil:
		return nil, toModel{g.conf.Text(err), err}
	}
	return nil, toModel{sluice.ModelText(err), err}
}

// toModel is an error with the text that the runner shows to the model.
type toModel struct {
	text string
	err  error
}

func (e toModel) Error() string { return e.text }
func (e toModel) Unwrap() error { return e.err }

// grow has the stack of a new goroutine grow at once, while there is next to nothing on it that must be moved: else it
// does so deep inside a call, several times, which takes longer than all else that is done here.
//
//go:noinline
func grow(i int) byte {
	var room [8 << 10]byte
	room[i%len(room)] = 1
	return room[(i+1)%len(room)]
}
