package promises_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// emitTo has s emit e, and e poisoned afterwards.
func emitTo(ctx context.Context, s sluice.EventSink, e sluice.Event) error {
	defer func() { e = poisoned }()
	return s.Emit(ctx, &e)
}

// poisoned is what a sink finds that keeps an event for longer than it may.
var poisoned = sluice.Event{Kind: "poisoned", Call: sluice.Call{ID: "poisoned", Tool: "poisoned"}}

// story makes the events of one call from words like "invoked started completed".
func story(run, id, tool string, words ...string) (events []sluice.Event) {
	pc := &sluice.PipelineContext{RunID: run}
	attempt := int32(0)
	for i, w := range words {
		e := sluice.Event{Kind: sluice.EventKind("tool." + w), Seq: uint32(i + 1), Call: sluice.Call{ID: id, Tool: tool, Pipeline: pc}}
		switch e.Kind {
		case sluice.ToolInvoked:
			attempt = 1
		case sluice.ToolFailed:
			e.Err = errors.New("failed")
		case sluice.ToolDenied:
			e.Err = &sluice.Error{CallID: id, Reason: sluice.ErrDenied}
		}
		e.Call.Attempt = attempt
		events = append(events, e)
		if e.Kind == sluice.ToolRetrying { // which is of the attempt that failed
			attempt++
		}
	}
	return events
}

func TestPromise18_RecorderTellsEachBrokenPromiseApart(t *testing.T) {
	with := func(events []sluice.Event, f func([]sluice.Event)) []sluice.Event { f(events); return events }
	call := func(words ...string) []sluice.Event { return story("r", "c", "search", words...) }
	for _, tt := range []struct {
		name   string
		events []sluice.Event
		want   []string // one substring for each line; none means kept
	}{
		{"completed", call("invoked", "started", "completed"), nil},
		{"queued", call("invoked", "queued", "started", "completed"), nil},
		{"refused", call("invoked", "failed"), nil},
		{"denied", call("invoked", "denied"), nil},
		{"retried", call("invoked", "started", "retrying", "queued", "started", "failed"), nil},
		{"answered without running", call("invoked", "completed"), nil},
		{"nothing", nil, nil},
		{"outside calls", []sluice.Event{{Kind: sluice.BreakerStateChanged}, {Kind: sluice.LimitChanged}, {Kind: sluice.RateLimitPaused}}, nil},
		{"no terminal", call("invoked", "started"), []string{"0 terminal events, want one"}},
		{"two terminals", call("invoked", "started", "completed", "failed"), []string{"2 terminal events, want one"}},
		{"no invoked", call("started", "completed"), []string{"0 times tool.invoked"}},
		{"invoked twice", call("invoked", "invoked", "completed"), []string{"2 times tool.invoked"}},
		{"invoked late", call("queued", "invoked", "completed"), []string{"tool.invoked is not first"}},
		{"after the end", call("invoked", "completed", "started"), []string{"tool.started after the call had ended"}},
		{"started twice", call("invoked", "started", "started", "completed"), []string{"attempt 1 started twice"}},
		{"a gap", with(call("invoked", "started", "completed"), func(e []sluice.Event) { e[1].Seq, e[2].Seq = 3, 4 }), []string{"tool.started has seq 3, want 2"}},
		{"from zero", with(call("invoked", "completed"), func(e []sluice.Event) { e[0].Seq, e[1].Seq = 0, 1 }), []string{"tool.invoked has seq 0, want 1"}},
		{"same seq", with(call("invoked", "completed"), func(e []sluice.Event) { e[1].Seq = 1 }), []string{"tool.completed has seq 1, want 2"}},
		{"completed with an error", with(call("invoked", "completed"), func(e []sluice.Event) { e[1].Err = errors.New("x") }), []string{"tool.completed with an error: x"}},
		{"failed without an error", with(call("invoked", "failed"), func(e []sluice.Event) { e[1].Err = nil }), []string{"tool.failed without an error"}},
		{"denied without an error", with(call("invoked", "denied"), func(e []sluice.Event) { e[1].Err = nil }), []string{"tool.denied without an error"}},
		{"denied for a limit", with(call("invoked", "denied"), func(e []sluice.Event) { e[1].Err = &sluice.Error{Reason: sluice.ErrQueueFull} }), []string{"another reason than ErrDenied"}},
		{"another tool", with(call("invoked", "completed"), func(e []sluice.Event) { e[1].Call.Tool = "fetch" }), []string{"tool.completed is of tool fetch"}},
		{"no id", story("r", "", "search", "invoked", "completed"), []string{"no call id"}},
		{"one key, two ids", with(call("invoked", "completed"), func(e []sluice.Event) { e[0].CallKey, e[1].CallKey, e[1].Call.ID = 7, 7, "d" }), []string{`tool.completed has the call id "d"`}},
		{"two keys, one id", with(append(call("invoked", "completed"), call("invoked", "completed")...), func(e []sluice.Event) { e[0].CallKey, e[1].CallKey, e[2].CallKey, e[3].CallKey = 7, 7, 8, 8 }), nil},
		{"same id in two runs", append(call("invoked", "completed"), story("r2", "c", "fetch", "invoked", "failed")...), nil},
		{"same id twice in a run", append(call("invoked", "completed"), call("invoked", "completed")...),
			[]string{"seq 1, want 3", "tool.invoked after the call had ended", "2 times tool.invoked", "2 terminal events"}},
		{"one of two", append(call("invoked", "completed"), story("r", "d", "fetch", "invoked")...), []string{`call "d" of run "r" (fetch): 0 terminal events`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r sluice.Recorder
			for _, e := range tt.events {
				require.NoError(t, emitTo(t.Context(), &r, e))
			}
			err := r.Check()
			if err == nil {
				assert.Nil(t, tt.want, "nothing is broken")
				return
			}
			lines := strings.Split(err.Error(), "\n")
			require.Equal(t, len(tt.want), len(lines), "lines, want %q: %v", tt.want, err)
			for i := range lines {
				assert.Contains(t, lines[i], tt.want[i], "line")
			}
		})
	}
}

func TestRecorderTrace(t *testing.T) {
	r := sluice.NewRecorder()
	a, b := story("r", "a", "search", "invoked", "queued", "started", "completed"), story("r", "b", "fetch", "invoked", "failed")
	odd := story("r", "c", "no\nsuch", "invoked")
	for _, e := range []sluice.Event{a[0], b[0], a[1], {Kind: sluice.BreakerStateChanged}, b[1], a[2], a[3], odd[0]} {
		emitTo(t.Context(), r, e)
	}
	assert.Equal(t, `search: invoked queued started completed; fetch: invoked failed; "no\nsuch": invoked`, r.Trace())
	assert.Len(t, r.Events(), 8, "events")
	assert.Len(t, r.Events("fetch"), 2, "events of fetch")
	assert.Len(t, r.Events("fetch", "search"), 6, "events of both")
	// The events are a copy.
	r.Events()[0].Kind = "changed"
	assert.Equal(t, sluice.ToolInvoked, r.Events()[0].Kind, "the recorder's own events were handed out")
}

func TestRecorderZeroAndNil(t *testing.T) {
	var zero sluice.Recorder
	if zero.Trace() != "" || zero.Check() != nil || zero.Events() != nil || !zero.Enabled(sluice.ToolInvoked) {
		t.Error("the zero Recorder is not an empty one")
	}
	var none *sluice.Recorder
	if none.Enabled(sluice.ToolInvoked) || emitTo(t.Context(), none, sluice.Event{}) != nil || none.Events("x") != nil || none.Trace() != "" || none.Check() != nil {
		t.Error("a nil Recorder does not discard")
	}
}

func TestRecorderConcurrent(t *testing.T) {
	r := sluice.NewRecorder()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				for _, e := range story(string(rune('a'+g)), string(rune('a'+i)), "t", "invoked", "started", "completed") {
					emitTo(context.Background(), r, e)
				}
				r.Events("t")
			}
		})
	}
	wg.Wait()
	assert.NoError(t, r.Check())
	assert.Len(t, r.Events(), 8*50*3, "events")
}
