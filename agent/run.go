package agent

import (
	"context"
	"errors"
	"sync"

	"github.com/sluice-go/sluice"
)

// runKey asks a context for the innermost run.
type runKey struct{}

// WithRun begins a run: one answer of an agent, with all the turns and calls that lead to it. [UsageLimits] and
// [Loops] count the calls that are made with the context, and calls nested in them, as those of one run. Without a
// run they do nothing.
//
// A run of a context that has one already, as that of an agent which is a tool of another, is part of it: its calls
// count for both.
//
// What is known of a run is in its context, and goes with it: a turn that is resumed in another process is of a
// new run. The run hears of its calls as a Sink of their [sluice.PipelineContext], so one that is attached later
// must have that Sink too, as [sluice.PipelineContextFrom] gives it; else the calls are refused. It may be used on
// several goroutines at once.
func WithRun(ctx context.Context) context.Context {
	r := &run{open: map[sluice.CallKey]*openCall{}, mu: new(sync.Mutex)}
	if r.around, _ = ctx.Value(runKey{}).(*run); r.around != nil {
		r.mu = r.around.mu
	}
	pc := sluice.PipelineContextFrom(ctx)
	if pc.Sink == nil {
		pc.Sink = r
	} else {
		pc.Sink = sluice.MultiSink(r, pc.Sink)
	}
	return sluice.WithPipelineContext(context.WithValue(ctx, runKey{}, r), pc)
}

// run is what layers know of a run. It is a sink of its calls' events, which say when they begin and end: on every
// path, and before they return.
type run struct {
	around *run // that it is part of; nil if it is part of none

	mu   *sync.Mutex // of all runs that are part of one
	open map[sluice.CallKey]*openCall
	used map[*UsageLimits]Usage
	past map[*Loops]*recent
}

// openCall is a call of a run that has not ended.
type openCall struct {
	tool    string
	started bool      // its code has begun
	placed  *openCall // that this call was made in place of, by a layer, say with other arguments; may be nil
	ran     bool      // the code of one in its place has
	claims  []claim
	bytes   int64 // of its result
}

// errLostRun is why a call is refused whose end the run would not hear of.
var errLostRun = errors.New("agent: WithRun: the call's PipelineContext has not the Sink of its run: attach it before WithRun, or change a copy of PipelineContextFrom")

// String keeps what prints the sink from looking inside.
func (r *run) String() string { return "agent: a run" }

// Enabled reports whether the run has to know of such events.
func (r *run) Enabled(k sluice.EventKind) bool {
	switch k {
	case sluice.ToolInvoked, sluice.ToolStarted, sluice.ToolCompleted, sluice.ToolFailed, sluice.ToolDenied:
		return true
	}
	return false
}

// Emit takes note of where a call is, and settles what it has used. It waits for nobody.
func (r *run) Emit(_ context.Context, e *sluice.Event) error {
	refused := isRefused(e.Err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Kind == sluice.ToolInvoked {
		r.open[e.CallKey] = &openCall{tool: e.Call.Tool}
		return nil
	}
	c := r.open[e.CallKey]
	switch {
	case c == nil:
	case e.Kind == sluice.ToolStarted:
		c.started = true
	default:
		delete(r.open, e.CallKey)
		if c.ran = c.ran || c.started && !refused; c.ran && c.placed != nil {
			c.placed.ran = true
		}
		for i := range c.claims {
			c.claims[i].settle(r, c, e)
		}
	}
	return nil
}

// isRefused reports whether err, which may be anybody's, says that no code has run.
func isRefused(err error) (refused bool) {
	if err == nil {
		return false
	}
	defer func() {
		if recover() != nil {
			refused = false
		}
	}()
	return errors.Is(err, sluice.ErrRejected)
}
