package sluice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSlogSinkLogsAtTheLevelOfItsKind(t *testing.T) {
	failure := errors.New("x")
	for _, tt := range []struct {
		kind EventKind
		err  error
		want string
	}{
		{ToolInvoked, nil, "DEBUG"},
		{ToolQueued, nil, "DEBUG"},
		{ToolStarted, nil, "DEBUG"},
		{ToolRetrying, failure, "DEBUG"},
		{ToolCompleted, nil, "DEBUG"},
		{ToolFailed, failure, "WARN"},
		{ToolFailed, &PanicError{}, "ERROR"},
		{ToolFailed, &PanicError{Goexit: true}, "ERROR"},
		{ToolDenied, &Error{Reason: ErrDenied}, "WARN"},
		{BreakerStateChanged, nil, "DEBUG"},
	} {
		for _, min := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError, slog.LevelError + 1} {
			var b bytes.Buffer
			s := NewSlogSink(slog.New(slog.NewJSONHandler(&b, &slog.HandlerOptions{Level: min})))
			e := testEvent(tt.kind)
			e.Err = tt.err
			_, err := deliverTo(t.Context(), s, e)
			require.NoError(t, err)
			var level slog.Level
			require.NoError(t, level.UnmarshalText([]byte(tt.want)))
			if logged := b.Len() > 0; logged != (level >= min) {
				t.Errorf("%s %v at %v: logged %v: %s", tt.kind, tt.err, min, logged, b.String())
			}
			if b.Len() == 0 {
				continue
			}
			var got struct{ Level, Msg, Event, Time string }
			require.NoError(t, json.Unmarshal(b.Bytes(), &got))
			if got.Level != tt.want || got.Msg != "tool event" || got.Event != string(tt.kind) || !strings.HasPrefix(got.Time, "2026-03-04T") {
				t.Errorf("%s: %s", tt.kind, b.String())
			}
		}
	}
	assert.False(t, NewSlogSink(nil).Enabled(ToolFailed), "a sink without a logger is enabled")
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestJSONSinkWritesALineAtATime(t *testing.T) {
	var lines []string
	inside := 0
	s := NewJSONSink(writerFunc(func(b []byte) (int, error) {
		inside++
		defer func() { inside-- }()
		assert.Equal(t, 1, inside, "Write is called by two at once")
		lines = append(lines, string(b))
		return len(b), nil
	}))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				e := testEvent(ToolFailed)
				e.Call.ID, e.Err = fmt.Sprint(i), errors.New(strings.Repeat("x\n", j))
				if ok, err := deliverTo(context.Background(), s, e); !ok || err != nil {
					t.Error(ok, err)
				}
			}
		})
	}
	wg.Wait()
	assert.Len(t, lines, 400, "writes")
	for _, l := range lines {
		if strings.Count(l, "\n") != 1 || !strings.HasSuffix(l, "}\n") || !json.Valid([]byte(l)) {
			t.Fatalf("not one line of JSON: %q", l)
		}
	}
}

func TestJSONSinkReportsFailedWrites(t *testing.T) {
	full := errors.New("disk full")
	for name, tt := range map[string]struct {
		w    io.Writer
		want error
	}{
		"error":       {writerFunc(func([]byte) (int, error) { return 0, full }), full},
		"short write": {writerFunc(func(b []byte) (int, error) { return 1, nil }), io.ErrShortWrite},
		"nil":         {nil, nil},
	} {
		if _, err := deliverTo(t.Context(), NewJSONSink(tt.w), testEvent(ToolInvoked)); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
		assert.ErrorIs(t, emitTo(t.Context(), NewJSONSink(tt.w), testEvent(ToolInvoked)), tt.want, name)
	}
	// A writer that panicked does not leave the sink locked.
	first := true
	s := NewJSONSink(writerFunc(func(b []byte) (int, error) {
		if first {
			first = false
			panic("first")
		}
		return len(b), nil
	}))
	_, err := deliverTo(t.Context(), s, testEvent(ToolInvoked))
	assert.Error(t, err, "the panic was lost")
	if ok, err := deliverTo(t.Context(), s, testEvent(ToolInvoked)); !ok || err != nil {
		t.Error(ok, err)
	}
}

func TestOneSinksTroubleDoesNotTouchTheOthers(t *testing.T) {
	a, b := new(Recorder), new(Recorder)
	failure := errors.New("full")
	s := MultiSink(nil,
		a,
		EventSinkFunc(func(context.Context, *Event) error { panic("boom") }),
		sinkOf{enabled: func(EventKind) bool { panic("boom") }},
		EventSinkFunc(func(context.Context, *Event) error { return failure }),
		sinkOf{enabled: func(EventKind) bool { return false }, emit: func(context.Context, *Event) error {
			t.Error("a sink got what it did not want")
			return nil
		}},
		MultiSink(b, nil),
	)
	opted := MultiSink(s, Must(WithPayloads(EventSinkFunc(func(context.Context, *Event) error { panic("boom") }), PayloadConfig{})))
	e := testEvent(ToolInvoked)
	for i, tt := range []struct {
		emit   func() error
		panics int
	}{
		{func() error { _, err := deliverTo(t.Context(), s, e); return err }, 2},
		{func() error { return emitTo(t.Context(), s, e) }, 2},
		{func() error { _, err := deliverTo(t.Context(), opted, e); return err }, 3},
		{func() error { return emitTo(t.Context(), opted, e) }, 3},
		{func() error { return freeze(opted.(valueSink), &e, &e)(t.Context()) }, 3},
	} {
		err := tt.emit()
		var p *PanicError
		if !errors.As(err, &p) || !errors.Is(err, failure) {
			t.Errorf("error %v must hold the panic and the failure", err)
		}
		assert.Equal(t, tt.panics, strings.Count(err.Error(), "panicked"), "panics reported: %v", err)
		require.Len(t, a.Events(), i+1)
		assert.Len(t, b.Events(), i+1)
	}
}

func TestMultiSinkIsEnabledForWhatOneWants(t *testing.T) {
	only := func(k EventKind) EventSink {
		return sinkOf{enabled: func(x EventKind) bool { return x == k }, emit: func(context.Context, *Event) error { return nil }}
	}
	s := MultiSink(only(ToolFailed), only(ToolDenied))
	for k, want := range map[EventKind]bool{ToolFailed: true, ToolDenied: true, ToolInvoked: false} {
		assert.Equal(t, want, s.Enabled(k), "Enabled(%s) = %v", k, !want)
	}
	if MultiSink().Enabled(ToolFailed) || MultiSink(nil, MultiSink()).Enabled(ToolFailed) {
		t.Error("a MultiSink of nothing is enabled")
	}
	assert.NoError(t, emitTo(t.Context(), MultiSink(), Event{}))
	// It keeps a copy of its arguments.
	a, b := new(Recorder), new(Recorder)
	list := []EventSink{a}
	s = MultiSink(list...)
	list[0] = b
	deliverTo(t.Context(), s, testEvent(ToolInvoked))
	require.Len(t, a.Events(), 1, "the caller's slice is shared")
	assert.Empty(t, b.Events(), "the caller's slice is shared")
}

// Each sink of a MultiSink sees what it asked for, however they are put together.
func TestMultiSinkShowsEachWhatItAskedFor(t *testing.T) {
	e := testEvent(ToolInvoked)
	e.Call.Input = map[string]any{"q": "go", "password": "hunter2", "ssn": "1"}
	plain, all, some, deep := new(Recorder), new(Recorder), new(Recorder), new(Recorder)
	s := MultiSink(plain, Must(WithPayloads(all, PayloadConfig{})), Must(WithPayloads(some, PayloadConfig{Redact: []string{"ssn"}})), MultiSink(Must(WithPayloads(MultiSink(deep), PayloadConfig{MaxBytes: 5}))))
	if ok, err := deliverTo(t.Context(), s, e); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for name, tt := range map[string]struct {
		r    *Recorder
		want string
	}{
		"plain": {plain, "<nil>"},
		"all":   {all, `{"password":"[redacted]","q":"go","ssn":"1"}`},
		"some":  {some, `{"password":"[redacted]","q":"go","ssn":"[redacted]"}`},
		"deep":  {deep, `{"pas…[truncated]`},
	} {
		got := tt.r.Events()[0].Call.Input
		if raw, ok := got.(json.RawMessage); ok {
			got = string(raw)
		}
		assert.Equal(t, tt.want, fmt.Sprint(got), "%s: got %v", name, got)
	}
}

// Each kind of event shows the values that it is about, and no others.
func TestPayloadsAreShownWhereTheyBelong(t *testing.T) {
	for _, k := range []EventKind{ToolInvoked, ToolQueued, ToolStarted, ToolRetrying, ToolCompleted, ToolFailed, ToolDenied} {
		rec := new(Recorder)
		e := testEvent(k)
		e.Call.Input, e.Result.Value = "in", "out"
		deliverTo(t.Context(), Must(WithPayloads(rec, PayloadConfig{})), e)
		got := rec.Events()[0]
		if (got.Call.Input != nil) != (k == ToolInvoked) || (got.Result.Value != nil) != (k == ToolCompleted) {
			t.Errorf("%s: input %v, value %v", k, got.Call.Input, got.Result.Value)
		}
	}
	if Must(WithPayloads(nil, PayloadConfig{})).Enabled(ToolInvoked) || emitTo(t.Context(), Must(WithPayloads(nil, PayloadConfig{})), Event{}) != nil {
		t.Error("a nil sink does not discard")
	}
	only := Must(WithPayloads(sinkOf{enabled: func(k EventKind) bool { return k == ToolFailed }}, PayloadConfig{}))
	if only.Enabled(ToolInvoked) || !only.Enabled(ToolFailed) {
		t.Error("Enabled is not the sink's")
	}
}

// gateSink blocks in Emit until opened, and records.
type gateSink struct {
	Recorder
	open chan struct{}
}

func (s *gateSink) Emit(ctx context.Context, e *Event) error {
	<-s.open
	return s.Recorder.Emit(ctx, e)
}

func asyncEvent(k EventKind, id string) Event { return Event{Kind: k, Call: Call{ID: id, Tool: "t"}} }

func wantCounts(t *testing.T, a *AsyncSink, delivered, failed, dropped uint64) {
	t.Helper()
	assert.Equal(t, delivered, a.Delivered(), "delivered")
	assert.Equal(t, failed, a.Failed(), "failed")
	assert.Equal(t, dropped, a.Dropped(), "dropped")
}

func TestPromise19_SinksBehindAsyncSinkTouchNobody(t *testing.T) {
	failure := errors.New("down")
	for _, tt := range []struct {
		name   string
		emit   func(ctx context.Context, n int) error
		failed uint64 // of 10, if all are delivered
	}{
		{"quick", func(context.Context, int) error { return nil }, 0},
		{"slow", func(context.Context, int) error { time.Sleep(time.Second); return nil }, 0},
		{"failing", func(context.Context, int) error { return failure }, 10},
		{"panicking", func(context.Context, int) error { panic("boom") }, 10},
		{"exiting", func(context.Context, int) error { runtime.Goexit(); return nil }, 10},
		{"exiting now and then", func(_ context.Context, n int) error {
			if n%2 == 0 {
				runtime.Goexit()
			}
			return nil
		}, 5},
		{"blocked", func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() }, 0},
	} {
		for _, size := range []int{4, 100} {
			t.Run(fmt.Sprint(tt.name, "/", size), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					seen := 0
					a := Must(NewAsyncSink(EventSinkFunc(func(ctx context.Context, e *Event) error {
						seen++
						return tt.emit(ctx, seen-1)
					}), AsyncSinkConfig{MaxQueue: size}))
					ctx, cancel := context.WithCancel(t.Context())
					start := time.Now()
					for range 10 {
						deliverTo(ctx, a, asyncEvent(ToolInvoked, "x"))
					}
					assert.Zero(t, time.Since(start), "the calls waited")
					cancel() // the call has ended; the sink's context has not
					wait, stop := context.WithTimeout(t.Context(), time.Minute)
					defer stop()
					err := a.Close(wait)
					assert.Equal(t, errors.Is(err, context.DeadlineExceeded), tt.name == "blocked",
						"Close: %v", err)
					delivered, dropped := a.Delivered(), a.Dropped()
					assert.Equal(t, uint64(10), delivered+dropped, "delivered %d + dropped %d", delivered, dropped)
					if size == 100 && tt.name != "blocked" {
						wantCounts(t, a, 10, tt.failed, 0)
					}
					synctest.Wait() // a goroutine that is left fails the bubble
					wantCounts(t, a, delivered, a.Failed(), dropped)
				})
			})
		}
	}
}

func TestAsyncSinkKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := new(Recorder)
		a := Must(NewAsyncSink(rec, AsyncSinkConfig{MaxQueue: 5000}))
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				for _, e := range story("r", fmt.Sprint(i), "t", "invoked", "queued", "started", "completed") {
					if ok, err := deliverTo(t.Context(), a, e); !ok || err != nil {
						t.Error(ok, err)
					}
				}
			})
		}
		wg.Wait()
		assert.NoError(t, a.Close(t.Context()))
		assert.NoError(t, rec.Check())
		wantCounts(t, a, 4000, 0, 0)
	})
}

func TestAsyncSinkDropsWhatComesAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := new(Recorder)
		a := Must(NewAsyncSink(rec, AsyncSinkConfig{MaxQueue: 10}))
		require.NoError(t, a.Close(t.Context()))
		for _, k := range []EventKind{ToolStarted, ToolCompleted} {
			if ok, err := deliverTo(t.Context(), a, asyncEvent(k, "late")); ok || err == nil {
				t.Error(ok, err)
			}
		}
		synctest.Wait()
		assert.Empty(t, rec.Events(), "delivered after Close")
		wantCounts(t, a, 0, 0, 2)
	})
}

func TestBlockedSinkCostsNothingMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &gateSink{open: make(chan struct{})}
		a := Must(NewAsyncSink(s, AsyncSinkConfig{MaxQueue: 100}))
		ctx := t.Context()
		e := asyncEvent(ToolStarted, "x")
		emit := func() { deliver(ctx, a, &e, nil) }
		for range 200 {
			emit()
		}
		goroutines := runtime.NumGoroutine()
		assert.Zero(t, testing.AllocsPerRun(1000, emit), "allocations for an event that takes another's place")
		if got := runtime.NumGoroutine(); got > goroutines {
			t.Errorf("%d goroutines, were %d", got, goroutines)
		}
		close(s.open)
		assert.NoError(t, a.Close(ctx))
	})
}

// Values are copied when an event is emitted, whatever stands between.
func TestAsyncSinkCopiesValuesAtEmit(t *testing.T) {
	for name, build := range map[string]func(rec, plain EventSink) EventSink{
		"payloads behind": func(rec, plain EventSink) EventSink { return Must(WithPayloads(rec, PayloadConfig{})) },
		"in a MultiSink behind": func(rec, plain EventSink) EventSink {
			return MultiSink(plain, Must(WithPayloads(rec, PayloadConfig{})))
		},
		"behind another": func(rec, plain EventSink) EventSink {
			return Must(NewAsyncSink(Must(WithPayloads(rec, PayloadConfig{})), AsyncSinkConfig{MaxQueue: 10}))
		},
		"MultiSink and another": func(rec, plain EventSink) EventSink {
			return MultiSink(plain, Must(NewAsyncSink(Must(WithPayloads(rec, PayloadConfig{})), AsyncSinkConfig{MaxQueue: 10})))
		},
		"payloads of a MultiSink": func(rec, plain EventSink) EventSink { return Must(WithPayloads(MultiSink(rec), PayloadConfig{})) },
	} {
		for _, outside := range []bool{false, true} {
			if outside && !strings.HasPrefix(name, "payloads") {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				rec, plain := new(Recorder), new(Recorder)
				hold := make(chan struct{})
				block := EventSinkFunc(func(context.Context, *Event) error { <-hold; return nil })
				inner := build(rec, plain)
				var a *AsyncSink
				var s EventSink
				if outside { // the values are made before the queue
					a = Must(NewAsyncSink(MultiSink(block, rec, plain), AsyncSinkConfig{MaxQueue: 10}))
					s = Must(WithPayloads(a, PayloadConfig{}))
				} else {
					a = Must(NewAsyncSink(MultiSink(block, inner), AsyncSinkConfig{MaxQueue: 10}))
					s = a
				}
				input := map[string]any{"q": "go", "token": "hunter2"}
				e := asyncEvent(ToolInvoked, "x")
				e.Call.Input = input
				if ok, err := deliverTo(t.Context(), s, e); !ok || err != nil {
					t.Fatal(ok, err)
				}
				input["q"] = "changed"
				close(hold)
				assert.NoError(t, a.Close(t.Context()))
				if b, ok := inner.(*AsyncSink); ok {
					b.Close(t.Context())
				}
				if m, ok := inner.(*multiSink); ok {
					for _, s := range m.sinks {
						if b, ok := s.(*AsyncSink); ok {
							b.Close(t.Context())
						}
					}
				}
				synctest.Wait()
				raw, _ := rec.Events()[0].Call.Input.(json.RawMessage)
				assert.Equal(t, `{"q":"go","token":"[redacted]"}`, string(raw), name)
				for _, e := range plain.Events() {
					if e.Call.Input != nil && !outside {
						t.Errorf("%s: the plain sink saw %v", name, e.Call.Input)
					}
				}
			})
		}
	}
	// Emit itself keeps no foreign values, and shares none.
	synctest.Test(t, func(t *testing.T) {
		rec := new(Recorder)
		a := Must(NewAsyncSink(rec, AsyncSinkConfig{MaxQueue: 10}))
		e, raw := asyncEvent(ToolCompleted, "x"), json.RawMessage(`1`)
		e.Call.Input, e.Result.Value = map[string]int{}, raw
		emitTo(t.Context(), a, e)
		raw[0] = '2'
		a.Close(t.Context())
		got := rec.Events()[0]
		if got.Call.Input != nil || string(got.Result.Value.(json.RawMessage)) != "1" {
			t.Errorf("%v, %v", got.Call.Input, got.Result.Value)
		}
	})
}

// wrapper is what users write: its Emit must be called although it embeds an AsyncSink.
type wrapper struct {
	*AsyncSink
	seen int
}

func (w *wrapper) Emit(ctx context.Context, e *Event) error {
	w.seen++
	if e.Call.Input != nil {
		panic("saw values")
	}
	return w.AsyncSink.Emit(ctx, e)
}

func TestAsyncSinkEmbeddedIsCalledByItsWrapper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &wrapper{AsyncSink: Must(NewAsyncSink(Must(WithPayloads(discarding{}, PayloadConfig{})), AsyncSinkConfig{MaxQueue: 10}))}
		e := asyncEvent(ToolInvoked, "x")
		e.Call.Input = 1
		if ok, err := deliverTo(t.Context(), w, e); !ok || err != nil || w.seen != 1 {
			t.Error(ok, err, w.seen)
		}
		w.Close(t.Context())
	})
}

// A storm of everything at once, on a real clock.
func TestAsyncSinkCountsAllInAStorm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, round))
		var seen, concurrent atomic.Int64
		var a *AsyncSink
		mode := rnd.IntN(3)
		inner := EventSinkFunc(func(ctx context.Context, e *Event) error {
			assert.Equal(t, int64(1), concurrent.Add(1), "the sink was called by two at once")
			defer concurrent.Add(-1)
			n := seen.Add(1)
			switch {
			case mode == 0 && n%50 == 0:
				panic("boom")
			case mode == 1 && n%50 == 0:
				runtime.Goexit()
			case n%20 == 0:
				runtime.Gosched()
			}
			return nil
		})
		a = Must(NewAsyncSink(MultiSink(inner), AsyncSinkConfig{MaxQueue: 1 + rnd.IntN(64)}))
		var emitted atomic.Uint64
		var wg sync.WaitGroup
		closeAfter := uint64(rnd.IntN(4000))
		for g := range 4 {
			wg.Go(func() {
				for i := range 1000 {
					k := []EventKind{ToolInvoked, ToolStarted, ToolCompleted}[(i+g)%3]
					deliverTo(context.Background(), a, asyncEvent(k, "x"))
					if emitted.Add(1) == closeAfter {
						a.Close(context.Background())
					}
				}
			})
		}
		wg.Wait()
		assert.NoError(t, a.Close(context.Background()))
		if d, l := a.Delivered(), a.Dropped(); d+l != 4000 || int64(d) != seen.Load() {
			t.Errorf("round %d: delivered %d, dropped %d, the sink saw %d", round, d, l, seen.Load())
		}
	}
}

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

func TestRecorderCheckIsBounded(t *testing.T) {
	r := new(Recorder)
	for range 60 {
		emitTo(t.Context(), r, story("r", "c", "search", "invoked", "queued")[1])
	}
	got := strings.Count(r.Check().Error(), "\n")
	assert.Equal(t, 20, got, "lines after the first")
}
