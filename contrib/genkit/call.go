package sluicegenkit

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/firebase/genkit/go/ai"

	"github.com/sluice-go/sluice"
)

// calling is what a context knows of the call that it is of.
type calling struct {
	exec   *sluice.Executor
	tool   *tool
	hooked bool // by a Middleware
}

type callingKey struct{}

// guarded reports whether a Middleware has made the call of a tool already, and is the context of what is inside.
func guarded(ctx context.Context, e *sluice.Executor, t *tool) (context.Context, bool) {
	c, _ := ctx.Value(callingKey{}).(*calling)
	if c == nil || !c.hooked || c.exec != e || c.tool.title != t.title {
		return ctx, false
	}
	return context.WithValue(ctx, callingKey{}, (*calling)(nil)), true
}

// call makes a call of a tool, whose code f is. Neither a panic nor runtime.Goexit leaves it.
func call[Out any](
	ctx context.Context, g *guard, c *calling, r sluice.Request, f func(context.Context) (Out, error),
) (out Out, err error) {
	p := contained(r.Tool, func() {
		on := context.WithValue(ctx, callingKey{}, c)
		if g.conf.Behalf != nil {
			on = sluice.WithPipelineContext(on, g.conf.Behalf(ctx, sluice.PipelineContextFrom(ctx)))
		}
		out, err = sluice.Do(on, g.exec, r, func(ctx context.Context) (Out, error) {
			grow(len(r.Args))
			out, err := f(ctx)
			if is, _ := ai.IsToolInterruptError(err); is {
				err = interrupt{err}
			}
			return out, err
		})
	})
	if p != nil {
		err = p
	}
	return out, err
}

// grow has the stack of a goroutine grow at once to what a tool's code in genkit needs: else it does so deep inside,
// several times, which takes a tenth of the call. A call that waits has not done so yet.
//
//go:noinline
func grow(i int) byte {
	var room [32 << 10]byte
	room[i%len(room)] = 1
	return room[(i+1)%len(room)]
}

// interrupt is a tool's wish that somebody be asked first, as genkit has it. Its text has nothing of what is asked,
// as it is in events.
type interrupt struct{ error }

func (interrupt) Error() string           { return "the tool has interrupted the run, to ask first" }
func (interrupt) Code() string            { return "interrupted" }
func (interrupt) Outcome() sluice.Outcome { return sluice.OutcomeNeutral }
func (e interrupt) Unwrap() error         { return e.error }

// answer is how genkit goes on after a call that ended with err: with an output, or with an error, which is an
// interrupt, or ends the run. A run that has been cancelled ends: nobody reads what its tools say.
func (g *guard) answer(ctx context.Context, err error) (told map[string]any, _ error) {
	if i, ok := errors.AsType[interrupt](err); ok {
		return nil, i.error
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	text := g.text(err)
	if text == "" {
		return nil, err
	}
	var object map[string]any
	if json.Unmarshal([]byte(text), &object) == nil && object != nil {
		return map[string]any{"error": object}, nil
	}
	return map[string]any{"error": text}, nil
}

// text is what a model reads of err.
func (g *guard) text(err error) (text string) {
	if g.conf.Text != nil && contained("", func() { text = g.conf.Text(err) }) == nil {
		return text
	}
	return sluice.ModelText(err)
}
