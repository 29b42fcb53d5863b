package sluicehttp

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/sluice-go/sluice"
)

// Recent is a [sluice.EventSink] that keeps the latest refusals and changes of limits for a [Page]: 200 of each,
// without texts of errors. The zero value is ready, a nil one keeps nothing. It is safe for concurrent use, of several
// executors too, and never waits for anything but another event.
type Recent struct {
	mu      sync.Mutex
	refused ring
	changed ring
}

// remembered is how many entries a ring has.
const remembered = 200

// entry is one thing that happened.
type entry struct {
	At     time.Time        `json:"at"`
	Kind   sluice.EventKind `json:"kind"`
	Tool   string           `json:"tool,omitempty"`
	Tenant string           `json:"tenant,omitempty"`
	Code   string           `json:"code,omitempty"` // see sluice.CodeOf
	By     string           `json:"by,omitempty"`
	Key    string           `json:"key,omitempty"`
	Retry  time.Duration    `json:"retry_after_ns,omitempty"`
	Waited time.Duration    `json:"waited_ns,omitempty"`
	From   string           `json:"from,omitempty"`
	To     string           `json:"to,omitempty"`
	Actor  string           `json:"actor,omitempty"`
}

// ring is the latest entries.
type ring struct {
	list [remembered]entry
	n    uint64
}

func (r *ring) add(e entry) {
	r.list[r.n%remembered] = e
	r.n++
}

// latest is what there is, the newest first.
func (r *ring) latest() []entry {
	out := make([]entry, 0, min(r.n, remembered))
	for i := r.n; i > 0 && r.n-i < remembered; i-- {
		out = append(out, r.list[(i-1)%remembered])
	}
	return out
}

// Enabled is true for the ends of calls that did not succeed, and for what happens outside calls.
func (r *Recent) Enabled(k sluice.EventKind) bool {
	if r == nil {
		return false
	}
	switch k {
	case sluice.ToolFailed, sluice.ToolDenied, sluice.BreakerStateChanged, sluice.LimitChanged, sluice.LimitStalled,
		sluice.RateLimitPaused, sluice.RateLimitDebt, sluice.FleetChanged:
		return true
	}
	return false
}

// Emit keeps what a page shows of e.
func (r *Recent) Emit(_ context.Context, e *sluice.Event) error {
	if r == nil {
		return nil
	}
	call := e.Kind == sluice.ToolFailed || e.Kind == sluice.ToolDenied
	if call && !errors.Is(e.Err, sluice.ErrRejected) {
		return nil // its code ran: that is for a log
	}
	x := entry{At: e.Time, Kind: e.Kind, By: kept(e.By), Key: kept(e.Key), Retry: e.RetryAfter, Waited: e.Queued,
		From: kept(e.OldLimit), To: kept(e.NewLimit), Actor: kept(e.Actor)}
	switch {
	case call:
		x.Tool, x.Code = kept(e.Call.Tool), sluice.CodeOf(e.Err)
		if p := e.Call.Pipeline; p != nil {
			x.Tenant = kept(p.Tenant)
		}
	case e.Kind == sluice.BreakerStateChanged:
		x.From, x.To = e.From.String(), e.To.String()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if call {
		r.refused.add(x)
	} else {
		r.changed.add(x)
	}
	return nil
}

// kept is s, or a copy of its beginning, so that nothing large is held.
func kept(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.Clone(s[:maxText]) + "…"
}

// latest is what has been kept, the newest first.
func (r *Recent) latest() (refused, changed []entry) {
	if r == nil {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused.latest(), r.changed.latest()
}
