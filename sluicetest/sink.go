package sluicetest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice"
)

// Sink checks what a [sluice.EventSink] must do: take any event from many goroutines at
// once without a panic or a wait, lose and reorder none of a call, keep none but by a copy,
// and change none. open is called once
// per rule. The function it returns reads back what the sink was given, oldest first; nil
// if that cannot be read. It may wait until what was emitted has arrived.
func Sink(t T, open func() (sluice.EventSink, func() []sluice.Event), o Options) {
	t.Helper()
	each(t, "Sink", o, func() sink { s, read := open(); return sink{s, read} }, sinkRules)
}

type sink struct {
	sluice.EventSink
	read func() []sluice.Event
}

var sinkRules = []rule[sink]{
	{"Enabled", sinkEnabled},
	{"AnyEvent", sinkAnyEvent},
	{"Prompt", sinkPrompt},
	{"InOrder", sinkInOrder},
	{"Together", sinkTogether},
	{"KeepsCopies", sinkKeepsCopies},
	{"OnlyReads", sinkOnlyReads},
}

var eventKinds = []sluice.EventKind{
	sluice.ToolInvoked, sluice.ToolQueued, sluice.ToolStarted, sluice.ToolRetrying, sluice.ToolAbandoned, sluice.ToolCompleted,
	sluice.ToolFailed, sluice.ToolDenied, sluice.BreakerStateChanged, sluice.LimitChanged, sluice.RateLimitPaused,
}

func sinkEnabled(r *run, s sink) {
	for _, k := range append(eventKinds, "", "tool.unheard_of") {
		first := s.Enabled(k)
		for range 3 {
			r.must(s.Enabled(k) == first, "Enabled(%q) changes its mind: what a call's first event said must hold for its last", k)
		}
	}
}

func sinkAnyEvent(r *run, s sink) {
	for _, k := range append(eventKinds, "", "tool.unheard_of") {
		for what, e := range map[string]sluice.Event{
			"an empty event": {Kind: k},
			"an event with everything": {Kind: k, Time: time.Unix(1, 0), CallKey: 7, ParentKey: 1, ParentID: "p", Seq: 9, Elapsed: -1, Queued: -1, Duration: 1 << 62,
				Err: errors.New("\x00\xff"), By: "\n", RetryAfter: -1, From: sluice.BreakerClosed, To: 99, OldLimit: "a", NewLimit: "b", Key: "\u2028", Actor: "x",
				Call: sluice.Call{ID: "\"", Tool: "tool\xff"}, Attrs: []slog.Attr{slog.Any("\x00", r), {}}},
		} {
			r.tried(r.ctx, s, e, fmt.Sprintf("%s of kind %q", what, k))
		}
	}
}

// poisoned is what a sink finds that keeps the event it was given.
var poisoned = sluice.Event{Kind: "kit.poisoned", Call: sluice.Call{ID: "kit.poisoned", Tool: "kit.poisoned"}}

// give has s emit e, as an executor does: the event is valid until Emit returns.
func (s sink) give(ctx context.Context, e sluice.Event) error {
	given := new(e)
	defer func() { *given = poisoned }()
	return s.Emit(ctx, given)
}

// tried emits e; an error is the sink's right, a panic is not.
func (r *run) tried(ctx context.Context, s sink, e sluice.Event, what string) {
	defer func() {
		if v := recover(); v != nil {
			r.fail("Emit of %s panicked: %v: a sink takes whatever comes", what, v)
		}
	}()
	_ = s.give(ctx, e)
}

func sinkPrompt(r *run, s sink) {
	for what, ctx := range map[string]context.Context{"a live": r.ctx, "an ended": endedContext()} {
		before := r.Now()
		r.tried(ctx, s, sluice.Event{Kind: sluice.ToolCompleted, Call: sluice.Call{ID: "prompt", Tool: "t"}, Seq: 1},
			"an event with "+what+" context")
		took := r.Now().Sub(before)
		r.must(took <= r.Slack, "Emit with %s context took %v: calls wait for it; put a slow sink behind an AsyncSink", what, took)
	}
}

func (r *run) emit(s sink, call string, n int) error {
	kind := []sluice.EventKind{sluice.ToolInvoked, sluice.ToolQueued, sluice.ToolStarted, sluice.ToolCompleted}[min(n-1, 3)]
	return s.give(r.ctx, sluice.Event{Kind: kind, Time: r.Now(), Seq: uint32(n), Call: sluice.Call{ID: call, Tool: "kit"}})
}

// of are the sequence numbers of call's events that were read back.
func (s sink) of(call string) (seqs []int) {
	for _, e := range s.read() {
		if e.Call.ID == call {
			seqs = append(seqs, int(e.Seq))
		}
	}
	return seqs
}

func (s sink) enabledAll() bool {
	return s.Enabled(sluice.ToolInvoked) && s.Enabled(sluice.ToolQueued) && s.Enabled(sluice.ToolStarted) && s.Enabled(sluice.ToolCompleted)
}

func sinkInOrder(r *run, s sink) {
	call := r.key("call")
	for n := range 4 {
		err := r.emit(s, call, n+1)
		r.must(err == nil, "Emit of an ordinary event returned %v", err)
	}
	if s.read == nil || !s.enabledAll() {
		r.t.Logf("%s: the order is not checked: what arrived cannot be read, or not all kinds are enabled", r.name)
		return
	}
	want := []int{1, 2, 3, 4}
	got := s.of(call)
	r.must(slices.Equal(got, want), "events 1 to 4 of a call arrived as %v: each once, in order", got)
}

func sinkTogether(r *run, s sink) {
	const clients = 8
	calls := make([]string, clients)
	for i := range calls {
		calls[i] = r.key("call")
	}
	var failed atomic.Int64
	r.together(clients, func(i int) {
		for n := range 4 {
			if r.emit(s, calls[i], n+1) != nil {
				failed.Add(1)
			}
		}
	})
	r.must(failed.Load() == 0, "Emit from %d goroutines at once returned %d errors", clients, failed.Load())
	if s.read == nil || !s.enabledAll() {
		return
	}
	for _, call := range calls {
		got := s.of(call)
		r.must(slices.Equal(got, []int{1, 2, 3, 4}), "events 1 to 4 of a call, emitted beside other calls, arrived as %v: each once, in order", got)
	}
}

// sinkKeepsCopies emits events and reuses their memory. A sink that hands an event itself to
// another goroutine races with that, which the race detector says.
func sinkKeepsCopies(r *run, s sink) {
	for n := range 4 {
		_ = r.emit(s, r.key("call"), n+1)
	}
	if s.read == nil {
		return
	}
	for _, e := range s.read() {
		r.must(e.Kind != poisoned.Kind, "the sink kept an event that it was given: an event is valid until Emit returns; keep a copy of it, *e")
	}
}

func sinkOnlyReads(r *run, s sink) {
	call := sluice.Call{ID: r.key("call"), Tool: "kit", Input: "input", Attempt: 1}
	for _, k := range eventKinds {
		e := sluice.Event{Kind: k, Time: r.Now(), Seq: 1, Call: call, Result: sluice.Result{Value: "value"}, Err: errors.New("an error"),
			Attrs: []slog.Attr{slog.String("key", "value")}}
		given := e
		given.Attrs = slices.Clone(e.Attrs)
		_ = s.Emit(r.ctx, &given)
		r.must(reflect.DeepEqual(given, e), "Emit changed an event of kind %q: other sinks read it too", k)
	}
}
