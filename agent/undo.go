package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/sluice-go/sluice"
)

// Undo takes back what tools have done. A tool leaves data by [ReportUndo] that say how; Undo keeps them in a
// [sluice.SharedState], also if the call is then cancelled, times out or fails, and runs the tool's undo function with
// them when you ask for it. They are data and no closures, so a process that has restarted, or another one, can undo.
//
// It is an interceptor that stands last, after the gates. Before the gates it works as well, but does not see code that
// goes on when its call is over: it takes that to have ended a Lease later, and a submitted call of a tool that can be
// undone waits on a goroutine. To calls of a tool without an undo function it adds nothing of its own.
//
// An undo function runs once for each effect. If it fails, panics or exits, what was to be undone stays, and can be
// undone again. If its process dies while it runs, nobody knows whether it has had its effect: once the lease has run
// out the call is in doubt, nobody undoes it, and [Undo.Resolve] decides.
//
// What is kept counts for a tenant: who asks with a context of another does not find it. Make an Undo with [NewUndo]; it
// is safe for concurrent use.
type Undo struct {
	conf UndoConfig
	kept context.Context // with the state in which it keeps all

	mu    sync.Mutex
	calls map[sluice.CallKey]*undoCall // that have reported, and whose code runs here
}

// UndoConfig configures an [Undo]. State and Undo are required.
type UndoConfig struct {
	State *sluice.SharedState // which should outlive the runs; keys begin with "undo/"

	// Undo is how each tool is undone: the function gets the data that the tool has left. It may wait; its context has
	// the values of the caller's, and ends after Timeout only.
	Undo map[string]func(ctx context.Context, data json.RawMessage) error

	Lifetime time.Duration    // of what a call has left, from its latest report on; zero means 24 h
	Timeout  time.Duration    // of an undo function; zero means 30 s
	MaxCalls int              // that are kept, undone ones included; zero means 10,000
	MaxBytes int              // of the data of one call; zero means 64 KiB
	Sink     sluice.EventSink // is told of tool.undone and tool.undo_failed; may be nil

	// Lease is for how long a process that has not been heard of is taken to live; it is renewed three times in that,
	// while code of a call that has reported runs, or an undo function. Clocks of processes should differ by less. Zero
	// means 30 s; from 10 ms to 24 h.
	Lease time.Duration
	_     struct{}
}

// What bounds an UndoConfig.
const (
	minUndoLease = 10 * time.Millisecond
	maxUndoLease = 24 * time.Hour
	maxUndo      = 1 << 30
	maxUndoGroup = 255
)

// NewUndo returns an Undo, or an error that names the wrong field.
func NewUndo(c UndoConfig) (*Undo, error) {
	c.Lifetime, c.Timeout = cmp.Or(c.Lifetime, 24*time.Hour), cmp.Or(c.Timeout, 30*time.Second)
	c.MaxCalls, c.MaxBytes = cmp.Or(c.MaxCalls, 10_000), cmp.Or(c.MaxBytes, 64<<10)
	c.Lease = cmp.Or(c.Lease, 30*time.Second)
	switch {
	case c.State == nil:
		return nil, errors.New("agent: UndoConfig.State is nil: must be a state that outlives the runs")
	case len(c.Undo) == 0:
		return nil, errors.New("agent: UndoConfig.Undo is empty: must say how tools are undone")
	case c.Lifetime < 0:
		return nil, fmt.Errorf("agent: UndoConfig.Lifetime is %v: must be zero (24 h) or positive", c.Lifetime)
	case c.Timeout < 0:
		return nil, fmt.Errorf("agent: UndoConfig.Timeout is %v: must be zero (30 s) or positive", c.Timeout)
	case c.MaxCalls < 0 || c.MaxCalls > maxUndo:
		return nil, fmt.Errorf("agent: UndoConfig.MaxCalls is %d: must be zero (10,000) or up to %d", c.MaxCalls, maxUndo)
	case c.MaxBytes < 0 || c.MaxBytes > maxUndo:
		return nil, fmt.Errorf("agent: UndoConfig.MaxBytes is %d: must be zero (64 KiB) or up to %d", c.MaxBytes, maxUndo)
	case c.Lease < minUndoLease || c.Lease > maxUndoLease:
		return nil, fmt.Errorf("agent: UndoConfig.Lease is %v: must be zero (30 s) or from %v to %v", c.Lease, minUndoLease, maxUndoLease)
	}
	if err := cmp.Or(unit("UndoConfig.Lifetime", c.Lifetime), unit("UndoConfig.Timeout", c.Timeout)); err != nil {
		return nil, err
	}
	own := make(map[string]func(context.Context, json.RawMessage) error, len(c.Undo))
	for tool, f := range c.Undo {
		if f == nil {
			return nil, fmt.Errorf("agent: UndoConfig.Undo of %q is nil: must be a function", tool)
		}
		own[tool] = f
	}
	c.Undo = own
	view, err := c.State.View("undo/", sluice.SharedStateConfig{MaxKeys: c.MaxCalls + 1}) // and the counter
	if err != nil {
		return nil, fmt.Errorf("agent: UndoConfig.State: %w", err)
	}
	return &Undo{conf: c, kept: sluice.WithState(context.Background(), view), calls: map[sluice.CallKey]*undoCall{}}, nil
}

// String is its name.
func (u *Undo) String() string { return "undo" }

// Wrap makes u an interceptor.
func (u *Undo) Wrap(tool sluice.Spec, next sluice.Handler) sluice.Handler {
	if u.conf.Undo[tool.Name] == nil {
		return next
	}
	return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
		r := &undoRun{undo: u, call: c}
		defer func() { r.leave(c.Attempt == 0 && c.AttemptOf(res, err).Running) }()
		return next(context.WithValue(ctx, undoRunKey{}, r), c)
	}
}

// ReportUndo leaves data, which must have a JSON, for the tool's undo function, in place of what the running attempt
// has left before; nil takes that back. What has been left stays, whatever becomes of the call. Several attempts of a
// call, by retries or hedges, leave data of their own, and are all undone, the latest first.
//
// If it fails nothing has changed: there is no undo function for the tool, or the data cannot be kept. A tool that
// reports before its effect knows then, and need not have any; its undo function must bear that there was none. It does
// not wait, and does not mind that ctx has ended.
func ReportUndo(ctx context.Context, data any) error {
	r, _ := ctx.Value(undoRunKey{}).(*undoRun)
	c, ok := sluice.CallFrom(ctx)
	if r == nil || !ok || c.Key != r.call.Key {
		return errNoUndo
	}
	var raw json.RawMessage
	if data != nil {
		var err error
		if raw, err = json.Marshal(data); err != nil {
			return fmt.Errorf("agent: ReportUndo: the data have no JSON: %w", err)
		}
	}
	group, ok := ctx.Value(undoGroupKey{}).(string)
	if !ok {
		group = c.Pipeline.RunID
	}
	err := r.report(c, group, raw)
	if err != nil {
		err = fmt.Errorf("agent: ReportUndo: %w", err)
		_ = r.call.Emit(ctx, toolUndoFailed, slog.String("reason", "not_stored"), slog.String("error_message", err.Error()))
	}
	return err
}

var errNoUndo = errors.New("agent: ReportUndo: the context is of no call of a tool that an Undo has a function for")

// Kinds of events.
const (
	toolUndone     sluice.EventKind = "tool.undone"
	toolUndoFailed sluice.EventKind = "tool.undo_failed"
)

type undoGroupKey struct{}

// WithUndoGroup is ctx for calls that [Undo.Group] undoes together, say those of a turn. The name, of 255 bytes at most,
// counts for a tenant. Calls without one are a group by their RunID.
func WithUndoGroup(ctx context.Context, group string) context.Context {
	return context.WithValue(ctx, undoGroupKey{}, group)
}

// UndoEntry is a call that has left data.
type UndoEntry struct {
	Key    string // as [Undo.Call] takes it
	Tool   string
	CallID string
	At     time.Time // of its first report
	State  UndoState
}

// UndoState is how a call stands that has left data.
type UndoState string

// States of calls. A call that is running, or in the middle of being undone, is not undone by anybody else.
const (
	UndoOpen    UndoState = "open"    // it can be undone
	UndoRunning UndoState = "running" // its own code runs
	UndoUndoing UndoState = "undoing" // its undo function runs
	UndoInDoubt UndoState = "in_doubt"
	UndoDone    UndoState = "undone"
	UndoUnknown UndoState = "unknown" // it has left nothing, or its lifetime is over
)

// UndoError is why a call has not been undone. Its code is undo_ and the Reason, unless Err, say a panic, has one of the
// library's own.
type UndoError struct {
	Key    string
	Tool   string // empty if the call is unknown
	Reason string // an UndoState, or: failed, panicked, exited, timeout, no_function, state
	Err    error  // of the undo function, or of the state; may be nil
}

// Error is one line.
func (e *UndoError) Error() string {
	text := fmt.Sprintf("agent: call %.64q is not undone: %s", e.Key, undoReasons[e.Reason])
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap is Err.
func (e *UndoError) Unwrap() error { return e.Err }

// Code is undo_ and the Reason.
func (e *UndoError) Code() string { return "undo_" + e.Reason }

var undoReasons = map[string]string{
	string(UndoRunning): "its own code runs",
	string(UndoUndoing): "somebody is undoing it",
	string(UndoInDoubt): "it is not known whether it was, as a process died while its undo function ran",
	string(UndoDone):    "it was before",
	string(UndoUnknown): "nothing is known of it",
	"failed":            "its undo function failed",
	"panicked":          "its undo function panicked",
	"exited":            "its undo function called runtime.Goexit",
	"timeout":           "its undo function is out of time",
	"no_function":       "its tool has no undo function",
	"state":             "the state failed",
}

// List is what the calls of a group have left, the latest first; none if the group is unknown. It reads all that is
// kept.
func (u *Undo) List(ctx context.Context, group string) (list []UndoEntry) {
	for _, e := range u.entries(tenantOf(sluice.PipelineContextFrom(ctx)), group) {
		list = append(list, UndoEntry{Key: e.key, Tool: e.Tool, CallID: e.ID, At: e.At, State: e.state(time.Now())})
	}
	return list
}

// entries are those of a group, the latest first.
func (u *Undo) entries(tenant, group string) (list []undoKept) {
	for x := range sluice.StateFrom(u.kept).List(undoPrefix) {
		key := undoKey(x.Key)
		e, _, err := key.Get(u.kept)
		if err == nil && e.Tenant == tenant && e.Group == group {
			list = append(list, undoKept{e, x.Key[len(undoPrefix):]})
		}
	}
	slices.SortFunc(list, func(a, b undoKept) int { return cmp.Compare(b.Seq, a.Seq) })
	return list
}

// Group undoes the calls of a group, one after the other, the latest first, by when they first reported. Those that are
// undone are passed over. It stops at the first that cannot be undone, since what came before may be what that builds
// on, and answers why, and how many it has undone. It waits as Call does.
func (u *Undo) Group(ctx context.Context, group string) (undone int, err error) {
	for _, e := range u.entries(tenantOf(sluice.PipelineContextFrom(ctx)), group) {
		var x *UndoError
		err := u.Call(ctx, e.key)
		if errors.As(err, &x) && (x.Reason == string(UndoDone) || x.Reason == string(UndoUnknown)) {
			continue
		}
		if err != nil {
			return undone, err
		}
		undone++
	}
	return undone, nil
}

// Resolve decides about a call in doubt: its undo function, which ran when the process died, has had its effect, or has
// not. It fails, with an [*UndoError], if the call is not in doubt.
func (u *Undo) Resolve(ctx context.Context, key string, undone bool) error {
	if _, err := u.look(ctx, key); err != nil {
		return err
	}
	return u.change(key, 0, func(e *undoEntry, now time.Time) error {
		if s := e.state(now); s != UndoInDoubt {
			return &UndoError{Key: key, Tool: e.Tool, Reason: string(s)}
		}
		e.settle(undone)
		e.By, e.Lease = "", time.Time{}
		return nil
	})
}
