package resilience

import (
	"context"
	"time"

	"github.com/sluice-go/sluice"
)

// Unavailable is a tool that is not worth offering, and why.
type Unavailable struct {
	Spec   sluice.Spec
	Reason *sluice.Error // its RetryAfter says when the tool may be again; zero if nobody can know
}

// longWait is what a model does not wait for.
const longWait = 10 * time.Second

// Available is the tools of e that are worth offering to a model now, and the others, each list sorted by
// name. Not worth offering is what e would refuse with whatever arguments: by an open breaker, a full limit
// or rate with Refuse, a full queue, or for good; and what would have to wait for more than ten seconds, as
// for a rate that is paused: its reason is then ErrWaitTooLong. What would wait less is.
//
// It judges for calls with ctx: as urgent, of the same tenant, in the time that it leaves. What depends on
// arguments, as limits by a key of them, and what interceptors would say it does not know: see
// [sluice.Executor.ExplainTool]. It changes nothing, and calls may find another state than it has.
func Available(ctx context.Context, e *sluice.Executor) (offer []sluice.Spec, others []Unavailable) {
	if e.Registry() == nil {
		return nil, nil
	}
	for tool := range e.Registry().Tools() {
		if why := unavailable(e.ExplainTool(ctx, tool.Name), tool.Name); why != nil {
			others = append(others, Unavailable{tool, why})
		} else {
			offer = append(offer, tool)
		}
	}
	return offer, others
}

// unavailable is why a tool with that outlook is not worth offering, or nil.
func unavailable(d sluice.Decision, tool string) *sluice.Error {
	if d.Refusal != nil || d.Wait <= longWait {
		return d.Refusal
	}
	return &sluice.Error{Tool: tool, Reason: sluice.ErrWaitTooLong, By: d.Waits[0].By, RetryAfter: d.Wait}
}
