package sluice

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
)

// story makes the events of one call from words like "invoked started completed".
func story(run, id, tool string, words ...string) (events []Event) {
	pc := &PipelineContext{RunID: run}
	attempt := int32(0)
	for i, w := range words {
		e := Event{Kind: EventKind("tool." + w), Seq: uint32(i + 1), Call: Call{ID: id, Tool: tool, Pipeline: pc}}
		switch e.Kind {
		case ToolInvoked:
			attempt = 1
		case ToolFailed:
			e.Err = errors.New("failed")
		case ToolDenied:
			e.Err = &Error{CallID: id, Reason: ErrDenied}
		}
		e.Call.Attempt = attempt
		events = append(events, e)
		if e.Kind == ToolRetrying { // which is of the attempt that failed
			attempt++
		}
	}
	return events
}

func TestPromise18_RecorderTellsEachBrokenPromiseApart(t *testing.T) {
	with := func(events []Event, f func([]Event)) []Event { f(events); return events }
	call := func(words ...string) []Event { return story("r", "c", "search", words...) }
	for _, tt := range []struct {
		name   string
		events []Event
		want   []string // one substring for each line; none means kept
	}{
		{"completed", call("invoked", "started", "completed"), nil},
		{"queued", call("invoked", "queued", "started", "completed"), nil},
		{"refused", call("invoked", "failed"), nil},
		{"denied", call("invoked", "denied"), nil},
		{"retried", call("invoked", "started", "retrying", "queued", "started", "failed"), nil},
		{"answered without running", call("invoked", "completed"), nil},
		{"nothing", nil, nil},
		{"outside calls", []Event{{Kind: BreakerStateChanged}, {Kind: LimitChanged}, {Kind: RateLimitPaused}}, nil},
		{"no terminal", call("invoked", "started"), []string{"0 terminal events, want one"}},
		{"two terminals", call("invoked", "started", "completed", "failed"), []string{"2 terminal events, want one"}},
		{"no invoked", call("started", "completed"), []string{"0 times tool.invoked"}},
		{"invoked twice", call("invoked", "invoked", "completed"), []string{"2 times tool.invoked"}},
		{"invoked late", call("queued", "invoked", "completed"), []string{"tool.invoked is not first"}},
		{"after the end", call("invoked", "completed", "started"), []string{"tool.started after the call had ended"}},
		{"started twice", call("invoked", "started", "started", "completed"), []string{"attempt 1 started twice"}},
		{"a gap", with(call("invoked", "started", "completed"), func(e []Event) { e[1].Seq, e[2].Seq = 3, 4 }), []string{"tool.started has seq 3, want 2"}},
		{"from zero", with(call("invoked", "completed"), func(e []Event) { e[0].Seq, e[1].Seq = 0, 1 }), []string{"tool.invoked has seq 0, want 1"}},
		{"same seq", with(call("invoked", "completed"), func(e []Event) { e[1].Seq = 1 }), []string{"tool.completed has seq 1, want 2"}},
		{"completed with an error", with(call("invoked", "completed"), func(e []Event) { e[1].Err = errors.New("x") }), []string{"tool.completed with an error: x"}},
		{"failed without an error", with(call("invoked", "failed"), func(e []Event) { e[1].Err = nil }), []string{"tool.failed without an error"}},
		{"denied without an error", with(call("invoked", "denied"), func(e []Event) { e[1].Err = nil }), []string{"tool.denied without an error"}},
		{"denied for a limit", with(call("invoked", "denied"), func(e []Event) { e[1].Err = &Error{Reason: ErrQueueFull} }), []string{"another reason than ErrDenied"}},
		{"another tool", with(call("invoked", "completed"), func(e []Event) { e[1].Call.Tool = "fetch" }), []string{"tool.completed is of tool fetch"}},
		{"no id", story("r", "", "search", "invoked", "completed"), []string{"no call id"}},
		{"one key, two ids", with(call("invoked", "completed"), func(e []Event) { e[0].CallKey, e[1].CallKey, e[1].Call.ID = 7, 7, "d" }), []string{`tool.completed has the call id "d"`}},
		{"two keys, one id", with(append(call("invoked", "completed"), call("invoked", "completed")...), func(e []Event) { e[0].CallKey, e[1].CallKey, e[2].CallKey, e[3].CallKey = 7, 7, 8, 8 }), nil},
		{"same id in two runs", append(call("invoked", "completed"), story("r2", "c", "fetch", "invoked", "failed")...), nil},
		{"same id twice in a run", append(call("invoked", "completed"), call("invoked", "completed")...),
			[]string{"seq 1, want 3", "tool.invoked after the call had ended", "2 times tool.invoked", "2 terminal events"}},
		{"one of two", append(call("invoked", "completed"), story("r", "d", "fetch", "invoked")...), []string{`call "d" of run "r" (fetch): 0 terminal events`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r Recorder
			for _, e := range tt.events {
				if err := emitTo(t.Context(), &r, e); err != nil {
					t.Fatal(err)
				}
			}
			err := r.Check()
			if err == nil {
				if tt.want != nil {
					t.Errorf("nothing broken, want %q", tt.want)
				}
				return
			}
			lines := strings.Split(err.Error(), "\n")
			if len(lines) != len(tt.want) {
				t.Fatalf("%d lines, want %q: %v", len(lines), tt.want, err)
			}
			for i := range lines {
				if !strings.Contains(lines[i], tt.want[i]) {
					t.Errorf("line %q, want %q", lines[i], tt.want[i])
				}
			}
		})
	}
}

func TestRecorderCheckIsBounded(t *testing.T) {
	r := NewRecorder()
	for range 3 * maxBroken {
		emitTo(t.Context(), r, story("r", "c", "search", "invoked", "queued")[1])
	}
	if got := strings.Count(r.Check().Error(), "\n"); got != maxBroken {
		t.Errorf("%d lines, want %d", got+1, maxBroken+1)
	}
}

func TestRecorderTrace(t *testing.T) {
	r := NewRecorder()
	a, b := story("r", "a", "search", "invoked", "queued", "started", "completed"), story("r", "b", "fetch", "invoked", "failed")
	odd := story("r", "c", "no\nsuch", "invoked")
	for _, e := range []Event{a[0], b[0], a[1], {Kind: BreakerStateChanged}, b[1], a[2], a[3], odd[0]} {
		emitTo(t.Context(), r, e)
	}
	if got, want := r.Trace(), `search: invoked queued started completed; fetch: invoked failed; "no\nsuch": invoked`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := len(r.Events()); got != 8 {
		t.Errorf("%d events, want 8", got)
	}
	if got := len(r.Events("fetch")); got != 2 {
		t.Errorf("%d events of fetch, want 2", got)
	}
	if got := len(r.Events("fetch", "search")); got != 6 {
		t.Errorf("%d events of both, want 6", got)
	}
	// The events are a copy.
	r.Events()[0].Kind = "changed"
	if r.Events()[0].Kind != ToolInvoked {
		t.Error("the recorder's own events were handed out")
	}
}

func TestRecorderZeroAndNil(t *testing.T) {
	var zero Recorder
	if zero.Trace() != "" || zero.Check() != nil || zero.Events() != nil || !zero.Enabled(ToolInvoked) {
		t.Error("the zero Recorder is not an empty one")
	}
	var none *Recorder
	if none.Enabled(ToolInvoked) || emitTo(t.Context(), none, Event{}) != nil || none.Events("x") != nil || none.Trace() != "" || none.Check() != nil {
		t.Error("a nil Recorder does not discard")
	}
}

func TestRecorderConcurrent(t *testing.T) {
	r := NewRecorder()
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
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	if got := len(r.Events()); got != 8*50*3 {
		t.Errorf("%d events", got)
	}
}
