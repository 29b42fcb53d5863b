package sluice_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/sluice-go/sluice"
)

// sampleEvents is what an executor emits for one call.
func sampleEvents() []sluice.Event {
	pc := &sluice.PipelineContext{RunID: "run-1", Tenant: "acme"}
	call := sluice.Call{ID: "call-1", Tool: "search", Priority: sluice.PriorityNormal, Attempt: 1, Pipeline: pc}
	invoked, completed := call, call
	invoked.Input = map[string]string{"query": "go", "api_key": "k-123"}
	return []sluice.Event{
		{Kind: sluice.ToolInvoked, Seq: 1, Call: invoked},
		{Kind: sluice.ToolStarted, Seq: 2, Call: call},
		{Kind: sluice.ToolCompleted, Seq: 3, Call: completed},
	}
}

func emitAll(s sluice.EventSink, events ...sluice.Event) {
	for _, e := range events {
		if s.Enabled(e.Kind) {
			if err := s.Emit(context.Background(), &e); err != nil {
				fmt.Println(err)
			}
		}
	}
}

func ExampleEventSinkFunc() {
	emitAll(sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
		fmt.Println(e.Seq, e.Kind, e.Call.Tool)
		return nil
	}), sampleEvents()...)
	// Output:
	// 1 tool.invoked search
	// 2 tool.started search
	// 3 tool.completed search
}

func ExampleNewSlogSink() {
	h := slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelInfo})
	failed := sampleEvents()[2]
	failed.Kind, failed.Err = sluice.ToolFailed, errors.New("no route\nto host")
	emitAll(sluice.NewSlogSink(slog.New(h)), append(sampleEvents(), failed)...)
	// Output:
	// level=WARN msg="tool event" event=tool.failed tool=search call_id=call-1 seq=3 attempt=1 run_id=run-1 tenant=acme code=tool_error err="no route\nto host"
}

func ExampleNewJSONSink() {
	emitAll(sluice.NewJSONSink(os.Stdout), sampleEvents()[1])
	// Output:
	// {"type":"tool.started","event_id":"call-1/2","seq":2,"schema_version":1,"timestamp":"0001-01-01T00:00:00.000000000Z","tool_name":"search","action_id":"call-1","pipeline_run_id":"run-1","request_id":null,"tenant":"acme","attempt":1,"priority":5,"queue_wait_ms":0}
}

func ExampleMultiSink() {
	failures := 0
	count := sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
		failures++
		return errors.New("the disk is full")
	})
	rec := new(sluice.Recorder)
	emitAll(sluice.MultiSink(count, rec), sampleEvents()[0])
	fmt.Println(failures, rec.Trace())
	// Output:
	// the disk is full
	// 1 search: invoked
}

func ExampleWithPayloads() {
	show := sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
		switch in := e.Call.Input.(type) {
		case json.RawMessage:
			fmt.Printf("%s\n", in)
		case string: // had to be cut
			fmt.Println(in)
		}
		return nil
	})
	emitAll(sluice.Must(sluice.WithPayloads(show, sluice.PayloadConfig{MaxBytes: 100})), sampleEvents()...)
	emitAll(sluice.Must(sluice.WithPayloads(show, sluice.PayloadConfig{MaxBytes: 20, Redact: []string{"query"}})), sampleEvents()...)
	// Output:
	// {"api_key":"[redacted]","query":"go"}
	// {"api_key":"[redacte…[truncated]
}

func ExampleNewAsyncSink() {
	var log bytes.Buffer // as if it were slow
	a, err := sluice.NewAsyncSink(sluice.NewJSONSink(&log), sluice.AsyncSinkConfig{MaxQueue: 10_000})
	if err != nil {
		fmt.Println(err)
		return
	}
	emitAll(a, sampleEvents()...)
	if err := a.Close(context.Background()); err != nil {
		fmt.Println(err)
	}
	fmt.Println(a.Delivered(), "delivered,", a.Dropped(), "dropped,", bytes.Count(log.Bytes(), []byte("\n")), "lines")
	// Output:
	// 3 delivered, 0 dropped, 3 lines
}

func ExampleRecorder() {
	rec := new(sluice.Recorder)
	emitAll(rec, sampleEvents()...)
	fmt.Println(rec.Trace(), rec.Check())
	emitAll(rec, sampleEvents()[2])
	fmt.Println(rec.Check())
	// Output:
	// search: invoked started completed <nil>
	// sluice: call "call-1" of run "run-1" (search): tool.completed has seq 3, want 4
	// sluice: call "call-1" of run "run-1" (search): 2 terminal events, want one
}
