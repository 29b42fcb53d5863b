package sluice_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// eventJSON is what tests read of the JSON form of an event.
type eventJSON struct {
	EventID    string  `json:"event_id"`
	CallKey    string  `json:"call_key"`
	ParentKey  string  `json:"parent_key"`
	ActionID   string  `json:"action_id"`
	Tool       string  `json:"tool_name"`
	Code       string  `json:"error_code"`
	Message    string  `json:"error_message"`
	Retryable  bool    `json:"retryable"`
	RetryAfter int64   `json:"retry_after_ms"`
	Elapsed    float64 `json:"elapsed_ms"`
}

func readEvent(t *testing.T, e sluice.Event) (j eventJSON) {
	t.Helper()
	b, err := json.Marshal(e)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &j))
	return j
}

// Promise 18: events of one call share a key that no other call has, whatever ids callers
// give: the same in each turn, two at once, nested in a call of the same id, or so long that
// what tells them apart is cut off.
func TestPromise18_KeysTellCallsApart(t *testing.T) {
	long := strings.Repeat("x", 300)
	for name, ids := range map[string][]string{
		"repeated": {"call_0", "call_0", "call_0"},
		"long":     {long + "1", long + "2", long + "3"},
		"made up":  {"", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{})
				defer r.end()
				r.tool(sluice.Spec{Name: "leaf"}, sleeps(ms))
				nested := ""
				r.tool(sluice.Spec{Name: "work"}, func(ctx context.Context) error {
					return errOf(r.Invoke(ctx, sluice.Request{ID: nested, Tool: "leaf"}))
				})
				nested = ids[0]
				parallel(2, func(i int) { assert.NoError(t, errOf(r.Invoke(r.ctx, sluice.Request{ID: ids[i], Tool: "work"}))) })
				require.NoError(t, errOf(r.Invoke(r.ctx, sluice.Request{ID: ids[2], Tool: "work"})))
				require.NoError(t, errOf(r.Submit(r.ctx, sluice.Request{ID: ids[2], Tool: "leaf"}).Wait(t.Context())))
				_ = r.call("nobody")

				tools, events := make(map[string]string), make(map[string]bool)
				parents := make(map[string]string) // of the leaves
				for _, e := range r.rec.Events() {
					j := readEvent(t, e)
					require.NotEmpty(t, j.CallKey)
					require.Equal(t, j.CallKey, e.CallKey.String())
					require.Equal(t, j.EventID, fmt.Sprintf("%s/%d", j.CallKey, e.Seq))
					if events[j.EventID] {
						t.Errorf("two events are %s", j.EventID)
					}
					events[j.EventID] = true
					if was, ok := tools[j.CallKey]; ok && was != j.Tool {
						t.Errorf("call %s is of %s and of %s", j.CallKey, was, j.Tool)
					}
					tools[j.CallKey] = j.Tool
					if j.ParentKey != "" {
						parents[j.CallKey] = j.ParentKey
					}
					if id := e.Call.ID; id != "" && len(id) < 256 && j.ActionID != id {
						t.Errorf("action %q of the call %q", j.ActionID, id)
					}
				}
				if len(tools) != 8 || len(parents) != 3 {
					t.Errorf("%d calls, %d of them nested: want 8 and 3", len(tools), len(parents))
				}
				seen := make(map[string]bool)
				for leaf, parent := range parents {
					if tools[leaf] != "leaf" || tools[parent] != "work" || seen[parent] {
						t.Errorf("%s %s is nested in %s %s", tools[leaf], leaf, tools[parent], parent)
					}
					seen[parent] = true
				}
			})
		})
	}
}

// An event tells the call that was invoked, whatever an interceptor makes of it, and an
// error of the library's is taken for the call's own.
func TestPromise18_InterceptorsDoNotSplitCalls(t *testing.T) {
	changes := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			c.ID, c.Tool, c.Type = "other", "renamed", "odd"
			c.Pipeline = &sluice.PipelineContext{RunID: "elsewhere", Tenant: "else"}
			c.Priority = sluice.PriorityInteractive
			return next(ctx, c)
		}
	})
	for _, place := range []string{"outside", "inside"} {
		bubble(t, func(t *testing.T) {
			list := interceptors(changes, atMost(1))
			if place == "inside" {
				list = interceptors(atMost(1), changes)
			}
			r := newRig(t, sluice.Config{Interceptors: list})
			defer r.end()
			r.tool(sluice.Spec{Name: "work", Type: "web"}, sleeps(20*ms))
			r.tool(sluice.Spec{Name: "late", Type: "web", Policy: sluice.Policy{Timeout: 10 * ms}}, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
			r.tool(sluice.Spec{Name: "deaf", Type: "web", Policy: sluice.Policy{Timeout: 10 * ms}}, sleeps(20*ms))
			wait := inOrder(4, func(i int) {
				tool := []string{"work", "work", "late", "deaf"}[i]
				_, err := r.Invoke(r.ctx, sluice.Request{ID: fmt.Sprint("mine-", i), Tool: tool})
				if i > 1 && sluice.CodeOf(err) != "timeout" {
					t.Errorf("%s: %s: %v", tool, sluice.CodeOf(err), err)
				}
			})
			wait()
			time.Sleep(time.Second)
			r.trace("work: invoked started completed; work: invoked queued started completed; late: invoked queued started failed; deaf: invoked queued started failed")
			for _, e := range r.rec.Events() {
				if !strings.HasPrefix(e.Call.ID, "mine-") || e.Call.Type != "web" || e.Call.Pipeline.RunID != "run-1" {
					t.Errorf("%s: %s of call %q, type %q, run %q", place, e.Kind, e.Call.ID, e.Call.Type, e.Call.Pipeline.RunID)
				}
				if e.Kind == sluice.ToolStarted && (e.Call.Attempt != 1 || place == "outside" && e.Call.Priority != sluice.PriorityInteractive) {
					t.Errorf("%s: attempt %d at priority %d started", place, e.Call.Attempt, e.Call.Priority)
				}
				if e.Kind == sluice.ToolFailed && readEvent(t, e).Code != "timeout" {
					t.Errorf("%s: %s is told as %q", place, e.Err, readEvent(t, e).Code)
				}
			}
		})
	}
}

// A refusal that a tool passes on from a nested call of the same id is not the tool's own.
func TestCodeOfANestedRefusalOfTheSameID(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, Refuse: true, Scope: sluice.ForTool("leaf")}))})
		defer r.end()
		r.tool(sluice.Spec{Name: "leaf"}, sleeps(10*ms))
		r.tool(sluice.Spec{Name: "work"}, func(ctx context.Context) error {
			return errOf(r.Invoke(ctx, sluice.Request{ID: "call_0", Tool: "leaf"}))
		})
		r.tool(sluice.Spec{Name: "outer"}, func(ctx context.Context) error {
			return errOf(r.Invoke(ctx, sluice.Request{ID: "call_0", Tool: "work"}))
		})
		r.busy("leaf")
		err := errOf(r.Invoke(r.ctx, sluice.Request{ID: "call_0", Tool: "outer"}))
		if sluice.CodeOf(err) != "tool_error" || !errors.Is(err, sluice.ErrSaturated) || errors.Is(err, sluice.ErrRejected) {
			t.Errorf("%s: %v", sluice.CodeOf(err), err)
		}
		time.Sleep(time.Second)
		codes := make(map[string]string)
		for _, e := range r.rec.Events() {
			if e.Kind == sluice.ToolFailed {
				codes[e.Call.Tool] = readEvent(t, e).Code
			}
		}
		assert.Equal(t, "map[leaf:saturated outer:tool_error work:tool_error]", fmt.Sprint(codes),
			"codes %v", codes)
	})
}

// Nor is one of a nested call's second attempt, which that call itself reports as its own.
func TestCodeOfANestedRetryThatIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limit := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ForTool("leaf"), Rates: []sluice.Rate{{N: 1}}, Refuse: true}))
		leafOnly := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			if s.Name != "leaf" {
				return next
			}
			return retriesOnce(0, false).Wrap(s, next)
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(leafOnly, limit)})
		defer r.end()
		r.tool(sluice.Spec{Name: "leaf"}, func(context.Context) error { return errTool })
		var leaf error
		r.tool(sluice.Spec{Name: "outer"}, func(ctx context.Context) error {
			leaf = errOf(r.Invoke(ctx, sluice.Request{Tool: "leaf"}))
			return leaf
		})
		outer := r.call("outer")
		if sluice.CodeOf(leaf) != "rate_limited" || sluice.CodeOf(outer) != "tool_error" {
			t.Errorf("%s, %s: want rate_limited, tool_error", sluice.CodeOf(leaf), sluice.CodeOf(outer))
		}
		for _, e := range r.rec.Events() {
			if want := map[string]string{"leaf": "rate_limited", "outer": "tool_error"}[e.Call.Tool]; e.Kind == sluice.ToolFailed && readEvent(t, e).Code != want {
				t.Errorf("%s is told as %s, want %s", e.Call.Tool, readEvent(t, e).Code, want)
			}
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
		if got := len(r.rec.Events()); got != 1003 || r.Snapshot().EventsDropped != attempts-1000 {
			t.Errorf("%d events told and %d dropped, want 1003 and %d", got, r.Snapshot().EventsDropped, attempts-1000)
		}
	})
}

// retriesOnce is an interceptor that tries twice: it reports the wait if it is told to.
func retriesOnce(wait time.Duration, reports bool) sluice.Interceptor {
	return sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			res, err := next(ctx, c)
			if err == nil {
				return res, nil
			}
			if reports {
				c.ReportRetry(ctx, wait, err)
				c.ReportRetry(ctx, wait, err) // told already
			}
			time.Sleep(wait)
			return next(ctx, c)
		}
	})
}

// A retry is told before the wait, with its length, by the layer that waits; else by the
// root when next is called again. It stands in its place in the order of the call's events.
func TestRetriesAreTold(t *testing.T) {
	type told struct {
		at, wait time.Duration
	}
	for _, tt := range []struct {
		name    string
		reports bool
		refused bool // the first attempt is refused, and never runs
		want    told
	}{
		{"by the layer", true, false, told{5 * ms, 30 * ms}},
		{"by the root", false, false, told{35 * ms, 0}},
		{"by the layer, of a refusal", true, true, told{0, 30 * ms}},
		{"by the root, of a refusal", false, true, told{30 * ms, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{Interceptors: interceptors(retriesOnce(30*ms, tt.reports), limitsOf(sluice.Limit{Max: 1, Refuse: true}))})
				defer r.end()
				first := true
				r.tool(sluice.Spec{Name: "work"}, func(context.Context) error {
					time.Sleep(5 * ms)
					if first && !tt.refused {
						first = false
						return errTool
					}
					return nil
				})
				r.tool(sluice.Spec{Name: "block"}, sleeps(10*ms))
				want, code := "work: invoked started retrying started completed", "tool_error"
				if tt.refused {
					r.busy("block")
					want, code = "block: invoked started completed; work: invoked retrying started completed", "saturated"
				}
				require.NoError(t, r.call("work"))
				r.trace(want)
				for _, e := range r.rec.Events("work") {
					switch e.Kind {
					case sluice.ToolRetrying:
						j := readEvent(t, e)
						if got := (told{e.Time.Sub(r.start), e.RetryAfter}); got != tt.want || e.Elapsed != got.at {
							t.Errorf("told at %v (%v after it began) with a wait of %v, want %v with %v", got.at, e.Elapsed, got.wait, tt.want.at, tt.want.wait)
						}
						if e.Call.Attempt != 1 || j.Code != code || !j.Retryable || j.RetryAfter != tt.want.wait.Milliseconds() {
							t.Errorf("attempt %d, %+v", e.Call.Attempt, j)
						}
					case sluice.ToolStarted:
						if e.Seq > 3 && e.Call.Attempt != 2 {
							t.Errorf("attempt %d starts after the retry", e.Call.Attempt)
						}
					}
				}
			})
		})
	}
}

// Attempts at once are no retries; one after all of them have ended is.
func TestHedgesAreNotRetries(t *testing.T) {
	bubble(t, func(t *testing.T) {
		hedge := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				parallel(3, func(i int) {
					time.Sleep(time.Duration(i) * ms)
					_, _ = next(ctx, c)
				})
				return next(ctx, c)
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(hedge, atMost(5))})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, func(context.Context) error { time.Sleep(10 * ms); return errTool })
		_ = r.call("work")
		r.trace("work: invoked started started started retrying started failed")
	})
}

// What a layer reports after the call has ended, of a Call it was not given, or without a
// sink, does nothing.
func TestReportRetryOutOfPlace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var kept sluice.Call
		keeps := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				kept = c
				return next(ctx, c)
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(keeps)})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, func(ctx context.Context) error {
			c, _ := sluice.CallFrom(ctx)
			c.ReportRetry(ctx, ms, errTool)
			return nil
		})
		require.NoError(t, r.call("work"))
		kept.ReportRetry(r.ctx, ms, errTool)
		sluice.Call{}.ReportRetry(r.ctx, ms, errTool)
		r.trace("work: invoked started completed")
		require.NoError(t, errOf(r.Invoke(context.Background(), sluice.Request{Tool: "work"})))
		kept.ReportRetry(context.Background(), ms, errTool)
		r.trace("work: invoked started completed")
	})
}

type throttledError struct{ after time.Duration }

func (e throttledError) Error() string             { return "429" }
func (e throttledError) RetryAfter() time.Duration { return e.after }

// An event of a call that met an upstream's throttle says that it may be tried again, and when.
func TestThrottledCallsAreRetryable(t *testing.T) {
	overload := func(sluice.Call, sluice.Result, error) sluice.Outcome { return sluice.OutcomeOverload }
	for _, tt := range []struct {
		name     string
		classify func(sluice.Call, sluice.Result, error) sluice.Outcome
		run      func(ctx context.Context) error
		after    int64 // ms
		no       bool
	}{
		{"RetryAfter", nil, func(context.Context) error { return throttledError{1500 * time.Microsecond} }, 2, false},
		{"RetryAfter, wrapped", nil, func(context.Context) error {
			return fmt.Errorf("x: %w", errors.Join(errTool, throttledError{time.Second}))
		}, 1000, false},
		{"RetryAfter of no time", nil, func(context.Context) error { return throttledError{} }, 0, false},
		{"RetryAfter of a year", nil, func(context.Context) error { return throttledError{9000 * time.Hour} }, 24 * 3600 * 1000, false},
		{"classified as overload", overload, func(context.Context) error { return errTool }, 0, false},
		{"ReportThrottle", nil, func(ctx context.Context) error { sluice.ReportThrottle(ctx, time.Second); return errTool }, 1000, false},
		{"ReportThrottle a while ago", nil, func(ctx context.Context) error {
			sluice.ReportThrottle(ctx, time.Second)
			time.Sleep(400 * ms)
			return errTool
		}, 600, false},
		{"another error", nil, func(context.Context) error { return errTool }, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1))})
				defer r.end()
				r.tool(sluice.Spec{Name: "work", Policy: sluice.Policy{Classify: tt.classify}}, tt.run)
				err := r.call("work")
				e := r.rec.Events()[2]
				j := readEvent(t, e)
				if j.Code != "tool_error" || j.Retryable == tt.no || j.RetryAfter != tt.after {
					t.Errorf("%+v, want retryable %v after %d ms", j, !tt.no, tt.after)
				}
				if !strings.HasPrefix(tt.name, "RetryAfter") {
					return
				}
				var m struct {
					Retryable  bool  `json:"retryable"`
					RetryAfter int64 `json:"retry_after_ms"`
				}
				require.NoError(t, json.Unmarshal([]byte(sluice.ModelText(err)), &m))
				if !m.Retryable || m.RetryAfter != tt.after {
					t.Errorf("a model reads %s", sluice.ModelText(err))
				}
			})
		})
	}
	// It is the latest attempt that counts.
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(retriesOnce(ms, false))})
		defer r.end()
		n := 0
		r.tool(sluice.Spec{Name: "work"}, func(context.Context) error {
			if n++; n == 1 {
				return throttledError{10 * ms}
			}
			return errTool
		})
		_ = r.call("work")
		events := r.rec.Events()
		if j := readEvent(t, events[len(events)-1]); n != 2 || j.Retryable || j.RetryAfter != 0 {
			t.Errorf("after %d attempts: %+v", n, j)
		}
	})
	// A refusal too, also of a later attempt.
	bubble(t, func(t *testing.T) {
		limit := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1}}, Refuse: true}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(retriesOnce(0, false), limit)})
		defer r.end()
		r.tool(sluice.Spec{Name: "work"}, func(context.Context) error { return errTool })
		_, _ = r.call("work"), r.call("work")
		for _, e := range r.rec.Events() {
			if j := readEvent(t, e); e.Kind == sluice.ToolFailed && (j.Code != "rate_limited" || !j.Retryable || j.RetryAfter != 1000) {
				t.Errorf("%+v", j)
			}
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

// Elapsed is how long ago tool.invoked was, exactly, in every form.
func TestElapsed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var logged bytes.Buffer
		r := newRig(t, sluice.Config{
			Sink:         sluice.NewSlogSink(slog.New(slog.NewJSONHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))),
			Interceptors: interceptors(retriesOnce(7*ms, true), atMost(1)),
		})
		defer r.end()
		time.Sleep(time.Hour) // before the call, which does not count
		r.tool(sluice.Spec{Name: "block"}, sleeps(20*ms))
		n := 0
		r.tool(sluice.Spec{Name: "work"}, func(context.Context) error {
			time.Sleep(5*ms + time.Microsecond)
			if n++; n == 1 {
				return errTool
			}
			return nil
		})
		r.busy("block")
		require.NoError(t, r.call("work"))
		us := time.Microsecond
		want := []time.Duration{0, 0, 20 * ms, 25*ms + us, 32*ms + us, 37*ms + 2*us}
		for i, e := range r.rec.Events("work") {
			assert.Equal(t, want[i], e.Elapsed, "%s after", e.Kind)
			assert.Equal(t, float64(want[i])/1e6, readEvent(t, e).Elapsed, "%s: elapsed_ms", e.Kind)
		}
		if line := fmt.Sprintf(`"elapsed":%d`, want[5]); !strings.Contains(logged.String(), line) {
			t.Errorf("no %s in the log:\n%s", line, logged.String())
		}
	})
}

// A gate says what it is, by what it counts, and, if it is a breaker, its state; and a
// snapshot can be read back.
func TestGateStateKindAndScope(t *testing.T) {
	bubble(t, func(t *testing.T) {
		quota := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "openai", Scope: sluice.ForType("web"), Rates: []sluice.Rate{{N: 5}}}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(quota, limitsOf(sluice.Limit{Max: 3, Scope: sluice.ByTenant}), breakerOf(sluice.CircuitBreakerConfig{Failures: 1}))})
		defer r.end()
		r.tool(sluice.Spec{Name: "work", Type: "web", Policy: sluice.Policy{Concurrency: 2, Rates: []sluice.Rate{{N: 9}}, Breaker: &sluice.CircuitBreakerConfig{}}},
			func(context.Context) error { return errTool })
		_ = r.call("work")
		quota.Pause("", time.Minute)
		b, err := json.Marshal(r.Snapshot())
		require.NoError(t, err)
		var snap sluice.Snapshot
		require.NoError(t, json.Unmarshal(b, &snap))
		var got []string
		for _, g := range snap.Gates {
			got = append(got, fmt.Sprintf("%s: %v %s %q %v", g.Name, g.Kind, g.Scope, g.State, g.Paused))
		}
		want := []string{
			`breaker: breaker per tool "open" false`,
			`concurrency per tenant: concurrency per tenant "" false`,
			`rate/openai calls per second: rate type web "" true`,
			`tool/work breaker: breaker tool work "closed" false`,
			`tool/work calls per second: rate tool work "" false`,
			`tool/work concurrency: concurrency tool work "" false`,
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"), b)
		}
		for _, s := range []string{`"kind":"breaker","scope":"per tool"`, `"state":"open"`, `"paused":true`} {
			assert.True(t, bytes.Contains(b, []byte(s)), "no %s in %s", s, b)
		}
		var k sluice.GateKind
		var s sluice.BreakerState
		require.Error(t, k.UnmarshalText([]byte("odd")), "reads what is none")
		assert.Error(t, s.UnmarshalText([]byte("odd")), "reads what is none")
	})
}
