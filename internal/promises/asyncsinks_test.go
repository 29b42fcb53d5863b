package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// gateSink blocks in Emit until opened, and records.
type gateSink struct {
	sluice.Recorder
	open chan struct{}
}

func (s *gateSink) Emit(ctx context.Context, e *sluice.Event) error {
	<-s.open
	return s.Recorder.Emit(ctx, e)
}

func asyncEvent(k sluice.EventKind, id string) sluice.Event {
	return sluice.Event{Kind: k, Call: sluice.Call{ID: id, Tool: "t"}}
}

func wantCounts(t *testing.T, a *sluice.AsyncSink, delivered, failed, dropped uint64) {
	t.Helper()
	assert.Equal(t, delivered, a.Delivered(), "delivered")
	assert.Equal(t, failed, a.Failed(), "failed")
	assert.Equal(t, dropped, a.Dropped(), "dropped")
}

// discarding is a sink that takes everything and does nothing.
type discarding struct{}

func (discarding) Enabled(sluice.EventKind) bool             { return true }
func (discarding) Emit(context.Context, *sluice.Event) error { return nil }

// callIDs lists the events' call ids.
func callIDs(events []sluice.Event) string {
	var s []string
	for _, e := range events {
		s = append(s, e.Call.ID)
	}
	return strings.Join(s, " ")
}

func TestAsyncSinkConfig(t *testing.T) {
	for _, tt := range []struct {
		s    sluice.EventSink
		size int
		want string
	}{
		{nil, 0, "sluice: NewAsyncSink: s is nil: must be an EventSink"},
		{discarding{}, -1, "sluice: NewAsyncSink: size is -1: must be zero (1,000) or from 1 to 16777216"},
		{discarding{}, 1<<24 + 1, "sluice: NewAsyncSink: size is 16777217: must be zero (1,000) or from 1 to 16777216"},
	} {
		_, err := sluice.NewAsyncSink(tt.s, tt.size)
		assert.EqualError(t, err, tt.want)
	}
	synctest.Test(t, func(t *testing.T) {
		s := &gateSink{open: make(chan struct{})}
		a := sluice.Must(sluice.NewAsyncSink(s, 0))
		for range 1 + 1000 { // the size that zero means
			require.NoError(t, emitTo(t.Context(), a, asyncEvent(sluice.ToolInvoked, "x")))
			synctest.Wait() // the first is in the sink's hands
		}
		wantCounts(t, a, 0, 0, 0)
		close(s.open)
		assert.NoError(t, a.Close(t.Context()))
		wantCounts(t, a, 1001, 0, 0)
	})
}

// Progress is dropped before terminal events, the oldest first; order is kept.
func TestProgressIsDroppedBeforeTerminalEvents(t *testing.T) {
	for _, tt := range []struct {
		emit string // one letter an event: capitals are terminal
		want string
		errs int // Emits that say that their own event was dropped
	}{
		{"abc", "abc", 0},
		{"abcd", "bcd", 0},
		{"abcdef", "def", 0},
		{"AbCD", "ACD", 0},
		{"AbCd", "ACd", 0},
		{"ABC", "ABC", 0},
		{"ABCd", "ABC", 1},
		{"ABCdef", "ABC", 3},
		{"ABCD", "BCD", 0},
		{"aBcDe", "BDe", 0},
		{"aBcDeF", "BDF", 0},
		{"aBcDeFgH", "DFH", 1},
		{"abcABCDdE", "CDE", 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := &gateSink{open: make(chan struct{})}
			a := sluice.Must(sluice.NewAsyncSink(s, 3))
			emitTo(t.Context(), a, asyncEvent(sluice.ToolInvoked, "-"))
			synctest.Wait() // in the sink's hands
			errs := 0
			for _, c := range tt.emit {
				k := sluice.ToolStarted
				if c < 'a' {
					k = []sluice.EventKind{sluice.ToolCompleted, sluice.ToolFailed, sluice.ToolDenied}[c%3]
				}
				if emitTo(t.Context(), a, asyncEvent(k, string(c))) != nil {
					errs++
				}
			}
			close(s.open)
			assert.NoError(t, a.Close(t.Context()))
			if got := strings.ReplaceAll(callIDs(s.Events()), " ", ""); got != "-"+tt.want || errs != tt.errs {
				t.Errorf("%s: got %s, want -%s; %d errors, want %d", tt.emit, got, tt.want, errs, tt.errs)
			}
			wantCounts(t, a, uint64(len(tt.want)+1), 0, uint64(len(tt.emit)-len(tt.want)))
		})
	}
}

func TestSinkMayEmitToAndCloseItsAsyncSink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a *sluice.AsyncSink
		seen := 0
		a = sluice.Must(sluice.NewAsyncSink(sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
			seen++
			for range 3 { // more than the queue holds
				emitTo(ctx, a, asyncEvent(sluice.ToolStarted, "again"))
			}
			if seen == 5 {
				// Not even one of its contexts that has no end makes it wait for itself.
				assert.NoError(t, a.Close(context.WithoutCancel(ctx)))
			}
			return nil
		}), 2))
		emitTo(t.Context(), a, asyncEvent(sluice.ToolInvoked, "first"))
		synctest.Wait()
		assert.NoError(t, a.Close(t.Context()))
		if seen != 7 { // and the two that were queued
			t.Errorf("the sink saw %d events, want 7", seen)
		}
		wantCounts(t, a, 7, 0, 1+7*3-7)
	})
}

func TestAsyncSinkClosesUnderLoad(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 30 {
		delay := time.Duration(rnd.IntN(3)) * time.Millisecond
		size, budget := 1+rnd.IntN(20), time.Duration(1+rnd.IntN(100))*time.Millisecond
		synctest.Test(t, func(t *testing.T) {
			var seen atomic.Uint64
			a := sluice.Must(sluice.NewAsyncSink(sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
				seen.Add(1)
				time.Sleep(delay)
				return nil
			}), size))
			var emitted, refused atomic.Uint64
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for i := range 100 {
						k := sluice.ToolStarted
						if i%3 == 0 {
							k = sluice.ToolCompleted
						}
						emitted.Add(1)
						if emitTo(t.Context(), a, asyncEvent(k, "x")) != nil {
							refused.Add(1)
						}
						if i%10 == 0 {
							time.Sleep(time.Millisecond)
						}
					}
				})
			}
			time.Sleep(5 * time.Millisecond)
			ctx, cancel := context.WithTimeout(t.Context(), budget)
			defer cancel()
			start := time.Now()
			err := a.Close(ctx)
			if took := time.Since(start); took > budget || err != nil && took != budget {
				t.Errorf("Close took %v of %v: %v", took, budget, err)
			}
			atClose := seen.Load()
			wg.Wait()
			time.Sleep(time.Second) // the sink's last call may still have to return
			if seen.Load() != atClose {
				t.Errorf("%d events were given to the sink after Close", seen.Load()-atClose)
			}
			if d, l := a.Delivered(), a.Dropped(); d+l != emitted.Load() || refused.Load() > l {
				t.Errorf("emitted %d, delivered %d, dropped %d, refused %d", emitted.Load(), d, l, refused.Load())
			}
		})
	}
}

func TestAsyncSinkClose(t *testing.T) {
	t.Run("gives up, and counts what is in the sink's hands", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &gateSink{open: make(chan struct{})}
			a := sluice.Must(sluice.NewAsyncSink(s, 10))
			for i := range 5 {
				emitTo(t.Context(), a, asyncEvent(sluice.ToolInvoked, fmt.Sprint(i)))
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			start := time.Now()
			if err := a.Close(ctx); err != context.DeadlineExceeded {
				t.Error(err)
			}
			assert.Equal(t, time.Second, time.Since(start), "took")
			wantCounts(t, a, 0, 0, 5)
			if err := a.Close(ctx); err != context.DeadlineExceeded { // it still hangs
				t.Error(err)
			}
			close(s.open)
			assert.NoError(t, a.Close(t.Context()))
			wantCounts(t, a, 0, 0, 5)
		})
	})
	t.Run("with an ended context and nothing to do", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := sluice.Must(sluice.NewAsyncSink(discarding{}, 10))
			emitTo(t.Context(), a, asyncEvent(sluice.ToolInvoked, "x"))
			synctest.Wait()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			assert.NoError(t, a.Close(ctx))
			wantCounts(t, a, 1, 0, 0)
		})
	})
	t.Run("again and at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &gateSink{open: make(chan struct{})}
			a := sluice.Must(sluice.NewAsyncSink(s, 10))
			emitTo(t.Context(), a, asyncEvent(sluice.ToolInvoked, "x"))
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() {
					assert.NoError(t, a.Close(t.Context()))
				})
			}
			synctest.Wait()
			close(s.open)
			wg.Wait()
			assert.NoError(t, a.Close(t.Context()))
		})
	})
	t.Run("from a sink behind another", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			rec := sluice.NewRecorder()
			inner := sluice.Must(sluice.NewAsyncSink(rec, 10))
			outer := sluice.Must(sluice.NewAsyncSink(sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
				return errors.Join(inner.Emit(ctx, e), inner.Close(ctx))
			}), 10))
			emitTo(t.Context(), outer, asyncEvent(sluice.ToolInvoked, "x"))
			assert.NoError(t, outer.Close(t.Context()))
			assert.Equal(t, "x", callIDs(rec.Events()))
			wantCounts(t, outer, 1, 0, 0)
		})
	})
}

func TestTerminalEventsComeAfterAllOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := sluice.NewRecorder()
		a := sluice.Must(sluice.NewAsyncSink(rec, 8))
		for i := range 10_000 {
			for _, e := range story("r", fmt.Sprint(i), "t", "invoked", "started", "retrying", "started", "completed") {
				emitTo(t.Context(), a, e)
			}
			if i%2 == 0 {
				synctest.Wait()
			}
		}
		a.Close(t.Context())
		last := map[string]sluice.EventKind{}
		for _, e := range rec.Events() {
			require.NotContains(t, []sluice.EventKind{sluice.ToolCompleted, sluice.ToolFailed, sluice.ToolDenied}, last[e.Call.ID], "call %s: %s after its end", e.Call.ID, e.Kind)
			last[e.Call.ID] = e.Kind
		}
		if a.Delivered()+a.Dropped() != 50_000 || a.Delivered() < 25_000 {
			t.Errorf("delivered %d, dropped %d", a.Delivered(), a.Dropped())
		}
	})
}

func TestAsyncSinkContext(t *testing.T) {
	type key struct{}
	synctest.Test(t, func(t *testing.T) {
		a := sluice.Must(sluice.NewAsyncSink(sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
			if got := ctx.Value(key{}); e.Call.ID == "x" && got != "trace" {
				t.Errorf("value %v", got)
			}
			if ctx.Err() != nil || context.Cause(ctx) != nil {
				t.Errorf("the context has ended with the call: %v, %v", ctx.Err(), context.Cause(ctx))
			}
			_, ok := ctx.Deadline()
			assert.False(t, ok, "the context has the call's deadline")
			<-ctx.Done()
			if got := context.Cause(ctx); got != context.Canceled {
				t.Errorf("the sink's context ended for the call's cause: %v", got)
			}
			return ctx.Err()
		}), 10))
		ctx, stopCall := context.WithTimeout(context.WithValue(t.Context(), key{}, "trace"), time.Second)
		defer stopCall()
		ctx, cancel := context.WithCancelCause(ctx)
		emitTo(ctx, a, asyncEvent(sluice.ToolInvoked, "x"))
		cancel(errors.New("the caller left"))
		synctest.Wait()
		short, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := a.Close(short); err != context.DeadlineExceeded {
			t.Error(err)
		}
		synctest.Wait()
		wantCounts(t, a, 0, 0, 1)
	})
}
