package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/sluice-go/sluice"
)

// repair has r's Config.Repair asked about the calls of b, none of which has been submitted.
func (r *Runner) repair(b *batch) {
	if r.conf.Repair == nil {
		return
	}
	changed := false
	for i, call := range b.calls {
		if b.ctx.Err() != nil { // they are refused for that
			break
		}
		why := b.exec.Explain(b.ctx, call).Refusal
		if why == nil || !errors.Is(why, sluice.ErrInvalidArguments) && !errors.Is(why, sluice.ErrUnknownTool) {
			continue
		}
		better, ok, err := r.repaired(b.ctx, call, why)
		if err != nil {
			if b.broken == nil {
				b.broken = make(map[int]error)
			}
			b.broken[i] = err
		}
		if !ok {
			continue
		}
		if !changed {
			changed, b.calls = true, slices.Clone(b.calls)
		}
		better.ID = call.ID
		b.calls[i] = better
	}
	if changed {
		b.feed = newFeed(toolsOf(b.calls), b.feed.most)
	}
}

// repaired is what Config.Repair makes of one call. A panic repairs nothing.
func (r *Runner) repaired(ctx context.Context, call sluice.Request, why error) (better sluice.Request, ok bool, err error) {
	defer func() {
		if v := recover(); v != nil {
			ok, err = false, fmt.Errorf("agent: Config.Repair: %w", &sluice.PanicError{Tool: call.Tool, Value: v, Stack: debug.Stack()})
		}
	}()
	better, ok = r.conf.Repair(ctx, call, why)
	return better, ok, nil
}
