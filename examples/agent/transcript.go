package main

import (
	"context"
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
func (t *transcript) show(turn *agent.Turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	who := "model"
	line := func(text string) {
		fmt.Fprintf(t.w, "  %-6s %s\n", who, text)
		who = ""
	}
	if s := turn.Message.Text(); s != "" {
		line(s)
	}
	for _, r := range turn.Replies {
		line(fmt.Sprintf("%s %s%s", r.Request.Tool, r.Request.Args, t.effort(r)))
		line("  " + outcome(r))
	}
}

// effort is what a call took that did not start at once, or not only once.
func (t *transcript) effort(r agent.Reply) (s string) {
	d := r.Result.Decision()
	if wait := d.Wait.Round(100 * time.Millisecond); wait > 0 {
		s += fmt.Sprintf(", waited %v for %s", wait, d.Waits[0].By)
	}
	if err := t.failed[r.Request.ID]; err != nil {
		s += fmt.Sprintf(", again after: %v", err)
	}
	return s
}

// outcome is what the model reads of a call.
func outcome(r agent.Reply) string {
	if r.Err != nil {
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
