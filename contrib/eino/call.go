package sluiceeino

import (
	"context"
	"encoding/json"
	"errors"
	"runtime/pprof"
	"sync/atomic"

	"github.com/cloudwego/eino/compose"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// endpoint is what a call of a tool runs, which answers in that way.
type endpoint[Out any] func(ctx context.Context, in *compose.ToolInput) (Out, error)

// call makes a call of a tool, and answers as eino is to go on. What the model reads instead of a result is in the
// form that as gives it.
func call[Out any](ctx context.Context, g *guard, in *compose.ToolInput, as func(text string) Out, next endpoint[Out]) (out Out, err error) {
	for again := true; ; again = false {
		name, err := g.declared(in.Name)
		if err != nil {
			return out, err
		}
		x := &task[Out]{ctx: ctx, guard: g, name: name, in: in, next: next}
		if err = agent.Contain(name, x.run); err == nil {
			out, err = x.out, x.err
		}
		if again && err != nil && sluice.CodeOf(err) == "unknown_tool" { // somebody has taken it out of the registry
			g.forget(in.Name)
			continue
		}
		if err == nil {
			return out, nil
		}
		text, err := g.answer(ctx, err)
		if err != nil {
			return out, err
		}
		return as(text), nil
	}
}

// task is a call in the executor, and what came of it, in one piece.
type task[Out any] struct {
	ctx   context.Context
	guard *guard
	name  string // in the registry
	in    *compose.ToolInput
	next  endpoint[Out]

	begun atomic.Bool       // first is somebody's
	first compose.ToolInput // allocated with the task, since most calls have one attempt

	out Out
	err error
}

// run makes the call, on whose behalf Config says, with the labels of a profile that its context has.
func (x *task[Out]) run() {
	g, ctx := x.guard, x.ctx
	pprof.SetGoroutineLabels(ctx)
	defer pprof.SetGoroutineLabels(context.Background())
	if g.conf.Behalf != nil {
		ctx = sluice.WithPipelineContext(ctx, g.conf.Behalf(ctx, sluice.PipelineContextFrom(ctx)))
	}
	r := sluice.Request{ID: x.in.CallID, Tool: x.name, Args: json.RawMessage(x.in.Arguments)}
	x.out, x.err = sluice.Do(ctx, g.exec, r, x.attempt)
}

// attempt is the tool's code in one attempt. There may be several at once.
func (x *task[Out]) attempt(ctx context.Context) (Out, error) {
	its := &x.first
	if !x.begun.CompareAndSwap(false, true) {
		its = new(compose.ToolInput)
	}
	*its = *x.in // middleware may write to it
	return x.next(ctx, its)
}

// toolError marks what a tool's own code has returned, which ends the run as it does without a guard.
type toolError struct{ error }

func (e toolError) Unwrap() error { return e.error }

// interrupt marks an error by which a tool asks to interrupt the run. Its text tells nothing of the state that the
// tool keeps in it.
type interrupt struct{ err error }

func (interrupt) Error() string           { return "the tool has interrupted the run" }
func (interrupt) Code() string            { return "interrupted" }
func (interrupt) Outcome() sluice.Outcome { return sluice.OutcomeNeutral } // it asks to go on later
func (e interrupt) Unwrap() error         { return e.err }

var errNothing = errors.New("the tool has answered neither a result nor an error")

// failed is err of a tool, marked as what it is. A nil error is that the tool has answered nothing.
func failed(err error) error {
	if err == nil {
		return toolError{errNothing}
	}
	if _, ok := compose.IsInterruptRerunError(err); ok {
		return interrupt{err}
	}
	if _, ok := compose.ExtractInterruptInfo(err); ok { // of a graph that the tool has run
		return interrupt{err}
	}
	return toolError{err}
}

// answer is how eino goes on after a call that has failed: with a text that the model reads, or with an error that
// ends the run. Interrupts and a tool's own errors are left as they are, and a run that was cancelled ends.
func (g *guard) answer(ctx context.Context, err error) (text string, _ error) {
	if x, ok := errors.AsType[interrupt](err); ok {
		return "", x.err
	}
	if own, ok := errors.AsType[toolError](err); ok && !isOfSluice(err) {
		return "", own.error
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	return g.text(err), nil
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
