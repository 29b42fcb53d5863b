package sluice

import "testing"

// Each kind of event shows the values that it is about, and no others.
func TestPayloadsWhere(t *testing.T) {
	for _, k := range []EventKind{ToolInvoked, ToolQueued, ToolStarted, ToolRetrying, ToolCompleted, ToolFailed, ToolDenied} {
		rec := NewRecorder()
		e := testEvent(k)
		e.Call.Input, e.Result.Value = "in", "out"
		deliver(t.Context(), WithPayloads(rec, 0), e)
		got := rec.Events()[0]
		if (got.Call.Input != nil) != (k == ToolInvoked) || (got.Result.Value != nil) != (k == ToolCompleted) {
			t.Errorf("%s: input %v, value %v", k, got.Call.Input, got.Result.Value)
		}
	}
	if WithPayloads(nil, 0).Enabled(ToolInvoked) || WithPayloads(nil, 0).Emit(t.Context(), Event{}) != nil {
		t.Error("a nil sink does not discard")
	}
	only := WithPayloads(sinkOf{enabled: func(k EventKind) bool { return k == ToolFailed }}, 0)
	if only.Enabled(ToolInvoked) || !only.Enabled(ToolFailed) {
		t.Error("Enabled is not the sink's")
	}
}
