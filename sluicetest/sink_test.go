package sluicetest_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/assert"
)

func TestSinksOfTheLibrary(t *testing.T) {
	for name, open := range map[string]func() (sluice.EventSink, func() []sluice.Event){
		"recorder": func() (sluice.EventSink, func() []sluice.Event) {
			r := new(sluice.Recorder)
			return r, func() []sluice.Event { return r.Events() }
		},
		"slog": func() (sluice.EventSink, func() []sluice.Event) {
			return sluice.NewSlogSink(slog.New(slog.NewJSONHandler(io.Discard, nil))), nil
		},
		"nil slog": func() (sluice.EventSink, func() []sluice.Event) { return sluice.NewSlogSink(nil), nil },
		"json":     func() (sluice.EventSink, func() []sluice.Event) { return sluice.NewJSONSink(new(bytes.Buffer)), nil },
		"multi": func() (sluice.EventSink, func() []sluice.Event) {
			r := new(sluice.Recorder)
			return sluice.MultiSink(sluice.NewJSONSink(io.Discard), r), func() []sluice.Event { return r.Events() }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sluicetest.Sink(t, open, sluicetest.Options{Exact: true})
			})
		})
	}
}

func TestAsyncSinkPassesTheKit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sluicetest.Sink(t, func() (sluice.EventSink, func() []sluice.Event) {
			r := new(sluice.Recorder)
			a, err := sluice.NewAsyncSink(r, sluice.AsyncSinkConfig{})
			assert.NoError(t, err)
			t.Cleanup(func() {
				assert.NoError(t, a.Close(context.Background()))
			})
			return a, func() []sluice.Event {
				synctest.Wait()
				return r.Events()
			}
		}, sluicetest.Options{Exact: true})
	})
}

// brokenSink is a sink that a test can break.
type brokenSink struct {
	mu      sync.Mutex
	events  []sluice.Event
	kept    []*sluice.Event
	enabled func() bool
	emit    func(s *brokenSink, e *sluice.Event) error
}

func (s *brokenSink) Enabled(sluice.EventKind) bool { return s.enabled == nil || s.enabled() }

func (s *brokenSink) Emit(_ context.Context, e *sluice.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.emit(s, e)
}

func TestSinkKitCatchesMutants(t *testing.T) {
	for _, c := range []struct {
		name, rule, why string
		sink            func() *brokenSink
	}{
		{"panics", "Sink.AnyEvent", "a sink takes whatever comes", func() *brokenSink {
			return &brokenSink{emit: func(_ *brokenSink, e *sluice.Event) error { _ = e.Call.Tool[0]; return nil }}
		}},
		{"is slow", "Sink.Prompt", "calls wait for it", func() *brokenSink {
			return &brokenSink{emit: func(s *brokenSink, _ *sluice.Event) error {
				s.mu.Unlock() // nobody may wait for a lock while time passes in a bubble
				defer s.mu.Lock()
				time.Sleep(time.Nanosecond)
				return nil
			}}
		}},
		{"loses", "Sink.InOrder", "each once, in order", func() *brokenSink {
			return &brokenSink{emit: func(s *brokenSink, e *sluice.Event) error {
				if e.Kind != sluice.ToolQueued {
					s.events = append(s.events, *e)
				}
				return nil
			}}
		}},
		{"reorders", "Sink.Together", "each once, in order", func() *brokenSink {
			return &brokenSink{emit: func(s *brokenSink, e *sluice.Event) error {
				s.events = slices.Insert(s.events, 0, *e)
				return nil
			}}
		}},
		{"keeps events", "Sink.KeepsCopies", "keep a copy", func() *brokenSink {
			return &brokenSink{emit: func(s *brokenSink, e *sluice.Event) error {
				s.kept = append(s.kept, e)
				return nil
			}}
		}},
		{"changes events", "Sink.OnlyReads", "other sinks read it too", func() *brokenSink {
			return &brokenSink{emit: func(s *brokenSink, e *sluice.Event) error {
				s.events = append(s.events, *e)
				e.Call.Input = nil
				return nil
			}}
		}},
		{"changes its mind", "Sink.Enabled", "changes its mind", func() *brokenSink {
			on := false
			return &brokenSink{enabled: func() bool { on = !on; return on }, emit: func(*brokenSink, *sluice.Event) error { return nil }}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r record
				sluicetest.Sink(&r, func() (sluice.EventSink, func() []sluice.Event) {
					s := c.sink()
					return s, func() []sluice.Event {
						s.mu.Lock()
						defer s.mu.Unlock()
						events := slices.Clone(s.events)
						for _, e := range s.kept {
							events = append(events, *e)
						}
						return events
					}
				}, sluicetest.Options{Exact: true})
				r.caught(t, c.rule, c.why)
			})
		})
	}
}
