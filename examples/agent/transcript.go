package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/agent"
)

// transcript prints what a model says, what it calls, and what it is told. It is a sink of events too, to know
// what has failed and was called again: neither the model nor the loop sees that.
type transcript struct {
	w io.Writer

	mu     sync.Mutex
	failed map[string]error // the first attempt, by the id of the call
}

// Enabled reports whether t wants events of that kind.
func (t *transcript) Enabled(k sluice.EventKind) bool { return k == sluice.ToolRetrying }

// Emit takes note of an attempt that has failed and is made again.
func (t *transcript) Emit(_ context.Context, e *sluice.Event) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed[e.Call.ID] = e.Err
	return nil
}

// show prints what a turn has come to.
func (t *transcript) show(_ context.Context, turn *agent.Turn) {
	who := "model"
	if s := turn.Message.Text(); s != "" {
		t.line(who, s)
		who = ""
	}
	for _, r := range turn.Replies {
		t.line(who, r.Request.Tool+" "+string(r.Request.Args)+t.effort(r))
		t.line("", "  "+outcome(r))
		who = ""
	}
}

// reply prints what a call has come to that was shown before.
func (t *transcript) reply(r agent.Reply) {
	t.line("model", r.Request.Tool+" "+string(r.Request.Args)+t.effort(r))
	t.line("", "  "+outcome(r))
}

// line prints what somebody says, or, with an empty who, goes on with it.
func (t *transcript) line(who, text string) { fmt.Fprintf(t.w, "  %-6s %s\n", who, text) }

// effort is what a call took that did not start at once, or not only once.
func (t *transcript) effort(r agent.Reply) (s string) {
	d := r.Result.Decision()
	if wait := d.Wait.Round(100 * time.Millisecond); wait > 0 {
		s += fmt.Sprintf(", waited %v for %s", wait, d.Waits[0].By)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.failed[r.Request.ID]; err != nil {
		s += fmt.Sprintf(", again after: %v", err)
	}
	return s
}

// outcome is what the model reads of a call.
func outcome(r agent.Reply) string {
	switch {
	case waits(r):
		return "waits for approval"
	case r.Err != nil:
		return sluice.ModelText(r.Err)
	}
	if s, ok := r.Result.Value.(string); ok {
		return s
	}
	out, err := r.Result.JSON()
	if err != nil {
		return sluice.ModelText(err)
	}
	return string(out)
}

// waits reports whether a call waits for somebody to approve it.
func waits(r agent.Reply) bool {
	x, ok := errors.AsType[*agent.ApprovalError](r.Err)
	return ok && x.Approval.State == agent.ApprovalPending
}
