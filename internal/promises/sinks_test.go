package promises_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
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

// Promise 19: a sink that fails, panics, exits or calls the executor changes no call.
func TestPromise19_BadSinksChangeNoCall(t *testing.T) {
	var target *rig
	depth := atomic.Int64{}
	sinks := map[string]func() sluice.EventSink{
		"fails": func() sluice.EventSink {
			return sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { return errTool })
		},
		"panics": func() sluice.EventSink {
			return sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { panic("sink") })
		},
		"calls the executor": func() sluice.EventSink {
			return sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
				if depth.Add(1) < 50 {
					_, _ = target.Invoke(context.Background(), sluice.Request{Tool: "other"})
					_ = target.Snapshot()
					_ = target.Explain(ctx, sluice.Request{Tool: "other"})
				}
				return nil
			})
		},
	}
	for name, sink := range sinks {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				depth.Store(0)
				r := newRig(t, sluice.Config{Sink: sink(), Interceptors: interceptors(limitsOf(sluice.Limit{Max: 2, Scope: sluice.ByTool}),
					breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Second}))})
				target = r
				defer r.end()
				r.tool(sluice.Spec{Name: "other"}, sleeps(0))
				var g gauge
				r.tool(sluice.Spec{Name: "work"}, g.counts(10*ms))
				parallel(10, func(int) { assert.NoError(t, r.call("work")) })
				assert.Equal(t, 50*ms, r.at(), "took")
				r.slotsFree("work", &g, 2)
			})
		})
	}
}

// A sink that blocks blocks only who has to wait for it, and behind an AsyncSink nobody.
func TestPromise19_BlockingSinkBehindAQueueBlocksNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		unblock := make(chan struct{})
		a := sluice.Must(sluice.NewAsyncSink(sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { <-unblock; return nil }), sluice.AsyncSinkConfig{MaxQueue: 10}))
		r := newRig(t, sluice.Config{Sink: a, Interceptors: interceptors(atMost(1))})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, sleeps(10*ms))
		for range 100 {
			require.NoError(t, r.call("work"))
		}
		assert.Equal(t, time.Second, r.at(), "100 calls took")
		close(unblock)
		require.NoError(t, a.Close(t.Context()))
		if d, x := a.Delivered(), a.Dropped(); d+x != 300 || x == 0 {
			t.Errorf("%d delivered, %d dropped, want 300 in all", d, x)
		}
	})
}

// The sink of one run blocks: calls of others go on.
func TestPromise19_BlockingSinkOfOneRunLeavesOthersAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(2))})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, sleeps(10*ms))
		unblock := make(chan struct{})
		pc := r.pc
		pc.RunID = "other"
		pc.Sink = sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { <-unblock; return nil })
		done := make(chan error)
		go func() {
			done <- errOf(r.Invoke(sluice.WithPipelineContext(t.Context(), pc), sluice.Request{Tool: "work"}))
		}()
		synctest.Wait()
		for range 10 {
			require.NoError(t, r.call("work"))
		}
		assert.Equal(t, 100*ms, r.at(), "took")
		close(unblock)
		require.NoError(t, <-done)
	})
}

// Events outside calls are told by whoever changed something. A sink that ends its
// goroutine then leaks no probe and keeps no later event from anybody.
func TestPromise19_SinkThatExitsLosesNoEventOutsideCalls(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Second})
		var seen log
		l := atMost(2)
		r := newRig(t, sluice.Config{Interceptors: interceptors(b, l), Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if strings.HasPrefix(string(e.Kind), "tool.") {
				return nil
			}
			seen.add("%v%s>%v%s", e.From, e.OldLimit, e.To, e.NewLimit)
			runtime.Goexit()
			return nil
		})})
		defer r.end()
		fails := true
		var g gauge
		r.tool(sluice.Spec{Name: "work"}, func(ctx context.Context) error {
			if fails {
				return errTool
			}
			return g.counts(ms)(ctx)
		})
		_, err, returned := r.invokeApart(r.ctx, sluice.Request{Tool: "work"})
		if err != errTool || !returned {
			t.Errorf("returned %v with %v", returned, err)
		}
		fails = false
		time.Sleep(time.Second)
		f := r.Submit(r.ctx, sluice.Request{Tool: "work"})
		if _, err := f.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			assert.NoError(t, sluice.Reconfigure("me", l.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 3}}})))
			seen.add("returned")
		}()
		<-done
		assert.Equal(t, "closed>open open>half-open half-open>closed 2>3 returned", seen.String(), "events")
		time.Sleep(time.Minute)
		r.slotsFree("work", &g, 3)
	})
}

// A sink that is told of a change, while two stages were changed at once, may use both.
func TestPromise21_SinkMayUseBothDomainsOfAChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := atMost(1), atMost(1)
		var rigs [2]*rig
		told := atomic.Int64{}
		sink := sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if e.Kind == sluice.LimitChanged {
				told.Add(1)
				for _, r := range rigs {
					assert.NoError(t, r.call("work"))
					if told.Load() < 5 {
						assert.NoError(t, sluice.Reconfigure("sink", a.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 3 + int(told.Load())}}})))
					}
				}
			}
			return nil
		})
		for i, l := range []*sluice.ConcurrencyLimiter{a, b} {
			rigs[i] = newRig(t, sluice.Config{Sink: sink, Interceptors: interceptors(l)})
			defer rigs[i].end()
			rigs[i].tool(sluice.Spec{Name: "work"}, sleeps(0))
		}
		two := sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}}}
		require.NoError(t, sluice.Reconfigure("test", a.Change(two), b.Change(two)))
		if told.Load() < 2 {
			t.Errorf("told %d times, want at least 2", told.Load())
		}
	})
}

// Events that wait while a sink blocks another of the call's attempts are bounded: further
// ones are dropped and counted, the terminal event never is.
func TestEventsBehindABlockedSinkAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const attempts = 1500
		many := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				go next(ctx, c)
				time.Sleep(ms)
				for range attempts {
					_, _ = next(ctx, c)
				}
				return sluice.Result{Value: 1}, nil
			}
		})
		first := atomic.Bool{}
		r := newRig(t, sluice.Config{Interceptors: interceptors(many), Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
			if e.Kind == sluice.ToolStarted && first.CompareAndSwap(false, true) {
				time.Sleep(time.Second)
			}
			return nil
		})})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, sleeps(0))
		require.NoError(t, r.call("work"))
		time.Sleep(2 * time.Second)
		const lost = attempts - 1000 + 1 // and that the first attempt is abandoned
		if got := len(r.rec.Events()); got != 1003 || r.Snapshot().EventsDropped != lost {
			t.Errorf("%d events told and %d dropped, want 1003 and %d", got, r.Snapshot().EventsDropped, lost)
		}
	})
}

// A sink that an executor and a run both have, in whatever list, gets each event once, and
// so does one of two executors that share a gate.
func TestOneSinkGetsEachEventOnce(t *testing.T) {
	plain, payloads := func(s sluice.EventSink) sluice.EventSink { return s }, func(s sluice.EventSink) sluice.EventSink {
		return sluice.Must(sluice.WithPayloads(s, sluice.PayloadConfig{}))
	}
	for _, wrap := range []func(sluice.EventSink) sluice.EventSink{plain, payloads} {
		rec, own := new(sluice.Recorder), new(sluice.Recorder)
		same := wrap(rec)
		for name, tt := range map[string]struct {
			exec, run sluice.EventSink
			own       bool // the run's own is listed too
		}{
			"both":             {same, same, false},
			"executor's list":  {sluice.MultiSink(sluice.NewSlogSink(nil), sluice.MultiSink(same)), same, false},
			"run's list":       {same, sluice.MultiSink(own, same), true},
			"both lists":       {sluice.MultiSink(same, nil), sluice.MultiSink(sluice.MultiSink(own, same), same), true},
			"twice in a list":  {sluice.MultiSink(same, same), nil, false},
			"cannot compare":   {uncomparableSink{nil, same}, sluice.MultiSink(uncomparableSink{}, own), true},
			"the run's alone":  {nil, sluice.MultiSink(same, own, same), true},
			"list in itself":   {sluice.MultiSink(same), sluice.MultiSink(same), false},
			"executor's alone": {same, nil, false},
		} {
			t.Run(name, func(t *testing.T) {
				*rec, *own = sluice.Recorder{}, sluice.Recorder{}
				l := atMost(1)
				e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: tt.exec, Interceptors: interceptors(l)}))
				other := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: tt.exec, Interceptors: interceptors(l)}))
				f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(context.Context, struct{}) (int, error) { return 1, nil }))
				_, err := f(sluice.WithPipelineContext(t.Context(), sluice.PipelineContext{Sink: tt.run}), struct{}{})
				require.NoError(t, err)
				require.NoError(t, rec.Check())
				assert.Equal(t, "x: invoked started completed", rec.Trace())
				got := own.Trace()
				assert.Equal(t, tt.own, (got == "x: invoked started completed"), "the run's own sink got %q", got)
				require.NoError(t, sluice.Reconfigure("me", l.Change(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}}})))
				want := 4
				if tt.exec == nil {
					want = 3
				} else if name == "cannot compare" {
					want = 5
				}
				assert.Len(t, rec.Events(), want, "events: the three of the call and a change for each sink")
				require.NoError(t, e.Close(t.Context()))
				require.NoError(t, other.Close(t.Context()))
			})
		}
	}
}

// uncomparableSink would panic if it were compared. Its next may be nil.
type uncomparableSink struct {
	_    []int
	next sluice.EventSink
}

func (s uncomparableSink) Enabled(sluice.EventKind) bool { return s.next != nil }
func (s uncomparableSink) Emit(ctx context.Context, e *sluice.Event) error {
	return s.next.Emit(ctx, e)
}

// What is not told because a sink blocks is counted.
func TestSnapshot_EventsBeyondTheBoundAreCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		block := make(chan struct{})
		var got int
		sink := sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { <-block; got++; return nil })
		q := rates(sluice.Rate{N: 1})
		e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(q), Sink: sink}))
		var wg sync.WaitGroup
		wg.Go(func() { assert.NoError(t, q.Pause("", time.Hour)) }) // its goroutine tells all that come
		synctest.Wait()
		for range 5000 {
			require.NoError(t, q.Pause("", time.Hour))
		}
		assert.Equal(t, uint64(4000), e.Snapshot().EventsDropped, "events dropped: 1,000 are kept")
		close(block)
		wg.Wait()
		if s := e.Snapshot(); got != 1001 || s.EventsDropped != 4000 || s.EventsDelivered != 1001 {
			t.Errorf("%d told, %d delivered, %d dropped: want 1,001, 1,001 and 4,000", got, s.EventsDelivered, s.EventsDropped)
		}
		require.NoError(t, e.Close(t.Context()))
	})
}

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

func TestAsyncSinkBoundIsChecked(t *testing.T) {
	for _, tt := range []struct {
		s    sluice.EventSink
		size int
		want string
	}{
		{nil, 0, "sluice: NewAsyncSink: s is nil: must be an EventSink"},
		{discarding{}, -1, "sluice: AsyncSinkConfig.MaxQueue is -1: must be zero (1000) or positive, up to 16777216"},
		{discarding{}, 1<<24 + 1, "sluice: AsyncSinkConfig.MaxQueue is 16777217: must be zero (1000) or positive, up to 16777216"},
	} {
		_, err := sluice.NewAsyncSink(tt.s, sluice.AsyncSinkConfig{MaxQueue: tt.size})
		assert.EqualError(t, err, tt.want)
	}
	synctest.Test(t, func(t *testing.T) {
		s := &gateSink{open: make(chan struct{})}
		a := sluice.Must(sluice.NewAsyncSink(s, sluice.AsyncSinkConfig{}))
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
			a := sluice.Must(sluice.NewAsyncSink(s, sluice.AsyncSinkConfig{MaxQueue: 3}))
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
		}), sluice.AsyncSinkConfig{MaxQueue: 2}))
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
			}), sluice.AsyncSinkConfig{MaxQueue: size}))
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

func TestAsyncSinkCloseEndsWithItsContext(t *testing.T) {
	t.Run("gives up, and counts what is in the sink's hands", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := &gateSink{open: make(chan struct{})}
			a := sluice.Must(sluice.NewAsyncSink(s, sluice.AsyncSinkConfig{MaxQueue: 10}))
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
			a := sluice.Must(sluice.NewAsyncSink(discarding{}, sluice.AsyncSinkConfig{MaxQueue: 10}))
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
			a := sluice.Must(sluice.NewAsyncSink(s, sluice.AsyncSinkConfig{MaxQueue: 10}))
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
			rec := new(sluice.Recorder)
			inner := sluice.Must(sluice.NewAsyncSink(rec, sluice.AsyncSinkConfig{MaxQueue: 10}))
			outer := sluice.Must(sluice.NewAsyncSink(sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
				return errors.Join(inner.Emit(ctx, e), inner.Close(ctx))
			}), sluice.AsyncSinkConfig{MaxQueue: 10}))
			emitTo(t.Context(), outer, asyncEvent(sluice.ToolInvoked, "x"))
			assert.NoError(t, outer.Close(t.Context()))
			assert.Equal(t, "x", callIDs(rec.Events()))
			wantCounts(t, outer, 1, 0, 0)
		})
	})
}

func TestTerminalEventsComeAfterAllOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := new(sluice.Recorder)
		a := sluice.Must(sluice.NewAsyncSink(rec, sluice.AsyncSinkConfig{MaxQueue: 8}))
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
		terminal := map[sluice.EventKind]bool{sluice.ToolCompleted: true, sluice.ToolFailed: true, sluice.ToolDenied: true}
		for _, e := range rec.Events() {
			require.False(t, terminal[last[e.Call.ID]], "call %s: %s after its end", e.Call.ID, e.Kind)
			last[e.Call.ID] = e.Kind
		}
		if a.Delivered()+a.Dropped() != 50_000 || a.Delivered() < 25_000 {
			t.Errorf("delivered %d, dropped %d", a.Delivered(), a.Dropped())
		}
	})
}

func TestAsyncSinkContextOutlivesTheCall(t *testing.T) {
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
		}), sluice.AsyncSinkConfig{MaxQueue: 10}))
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

func TestRecorderTraceTellsCallsApart(t *testing.T) {
	r := new(sluice.Recorder)
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

func TestRecorderZeroIsEmptyAndNilDiscards(t *testing.T) {
	var zero sluice.Recorder
	if zero.Trace() != "" || zero.Check() != nil || zero.Events() != nil || !zero.Enabled(sluice.ToolInvoked) {
		t.Error("the zero Recorder is not an empty one")
	}
	var none *sluice.Recorder
	if none.Enabled(sluice.ToolInvoked) || emitTo(t.Context(), none, sluice.Event{}) != nil || none.Events("x") != nil || none.Trace() != "" || none.Check() != nil {
		t.Error("a nil Recorder does not discard")
	}
}

func TestRecorderKeepsAllOfManyGoroutines(t *testing.T) {
	r := new(sluice.Recorder)
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

func TestPayloadConfig(t *testing.T) {
	quiet := sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { return nil })
	for _, tt := range []struct {
		c    sluice.PayloadConfig
		want string
	}{
		{sluice.PayloadConfig{MaxBytes: -1}, "sluice: PayloadConfig.MaxBytes is -1: must be zero (4096) or positive, up to 67108864"},
		{sluice.PayloadConfig{MaxBytes: 1<<26 + 1}, "sluice: PayloadConfig.MaxBytes is 67108865: must be zero (4096) or positive, up to 67108864"},
		{sluice.PayloadConfig{Redact: []string{"ssn", "_."}}, `sluice: PayloadConfig.Redact[1] is "_.": must be the name of a field, of 256 bytes at most`},
	} {
		_, err := sluice.WithPayloads(quiet, tt.c)
		assert.EqualError(t, err, tt.want)
	}
	_, err := sluice.WithPayloads(quiet, sluice.PayloadConfig{Redact: []string{strings.Repeat("x", 257)}})
	assert.Error(t, err, "a name is looked at by its end only")
}

// A sink that ends the goroutine as the tool starts keeps its code from running: the call is refused,
// and nothing of it is kept or spent.
func TestSinkThatExitsAsTheToolStarts(t *testing.T) {
	pass := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) { return next(ctx, c) }
	})
	for name, around := range map[string][2][]sluice.Interceptor{
		"plain":   {},
		"outside": {{pass}, nil},
		"inside":  {nil, {pass}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				exits := sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
					if e.Kind == sluice.ToolStarted {
						runtime.Goexit()
					}
					return nil
				})
				quota := rates(sluice.Rate{N: 1, Per: time.Hour})
				slots := atMost(1)
				broken := breakerOf(sluice.CircuitBreakerConfig{Failures: 1})
				list := append(append(slices.Clone(around[0]), quota, slots, broken), around[1]...)
				e := newExec(t, sluice.Config{Sink: exits, Interceptors: list})
				sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x"}, func(context.Context, int) (int, error) {
					t.Error("the code runs")
					return 0, nil
				}))
				for range 3 { // each finds the token, the slot and the breaker as the first did
					_, err := e.Submit(t.Context(), sluice.Request{Tool: "x", Input: 1}).Wait(t.Context())
					require.ErrorIs(t, err, sluice.ErrRejected)
					require.NotErrorIs(t, err, sluice.ErrBreakerOpen)
				}
			})
		})
	}
}
