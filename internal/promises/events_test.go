package promises_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

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
			r.trace("work: invoked started completed; work: invoked queued started completed; late: invoked queued started abandoned? failed; deaf: invoked queued started abandoned failed")
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
func TestReportRetryOutOfPlaceDoesNothing(t *testing.T) {
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

// Elapsed is how long ago tool.invoked was, exactly, in every form.
func TestElapsedIsTheTimeSinceInvoked(t *testing.T) {
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

// Every ending has one terminal event, and the caller of a panicking call is answered by
// the id it gave.
func TestOneTerminalEventForEveryEnding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pc, rec := sluice.NewTestPipelineContext()
		ctx := sluice.WithPipelineContext(t.Context(), pc)
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{atMost(1)}})
		sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "x", Policy: sluice.Policy{Timeout: time.Second}}, func(ctx context.Context, how string) (string, error) {
			switch how {
			case "panic":
				panic(how)
			case "exit":
				runtime.Goexit()
			case "late":
				time.Sleep(time.Minute)
			case "error":
				return "", errors.New(how)
			}
			return how, nil
		}))
		for _, how := range []string{"return", "panic", "exit", "error", "late"} {
			_, err := e.Invoke(ctx, sluice.Request{ID: "the " + how, Tool: "x", Input: how})
			assert.Equal(t, how == "return", err == nil, "%s: %v", how, err)
		}
		e.Invoke(ctx, sluice.Request{ID: "unknown", Tool: "nothing"})
		e.Invoke(ctx, sluice.Request{ID: "invalid", Tool: "x", Args: []byte("{")})
		assert.NoError(t, e.Close(t.Context()))
		e.Invoke(ctx, sluice.Request{ID: "closed", Tool: "x", Input: "return"})
		assert.NoError(t, rec.Check())
		ends := map[string]int{}
		for _, ev := range rec.Events() {
			if ev.Kind == sluice.ToolCompleted || ev.Kind == sluice.ToolFailed || ev.Kind == sluice.ToolDenied {
				ends[ev.Call.ID]++
			}
		}
		if got, want := fmt.Sprint(ends), "map[closed:1 invalid:1 the error:1 the exit:1 the late:1 the panic:1 the return:1 unknown:1]"; got != want {
			t.Errorf("terminal events %s, want %s", got, want)
		}
	})
}

// Promise 18: every path begins with tool.invoked and ends with exactly one terminal
// event.
func TestPromise18_EveryPathHasOneTerminalEvent(t *testing.T) {
	retry := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
		switch s.Name {
		case "retried":
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				res, err := next(ctx, c)
				for range 2 {
					if err != nil {
						res, err = next(ctx, c)
					}
				}
				return res, err
			}
		case "denied":
			return func(context.Context, sluice.Call) (sluice.Result, error) { return sluice.Result{}, errTool }
		case "cached":
			return func(context.Context, sluice.Call) (sluice.Result, error) { return sluice.Result{Value: 1}, nil }
		case "broken":
			return func(context.Context, sluice.Call) (sluice.Result, error) { panic("interceptor") }
		}
		return next
	})
	twice := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
		if s.Name != "twice" {
			return next
		}
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			_, _ = next(ctx, c)
			return next(ctx, c)
		}
	})
	for _, tc := range []struct {
		name string
		run  func(r *rig)
		want string
		code string // of the last event
	}{
		{"return", func(r *rig) { _ = r.call("fine") }, "fine: invoked started completed", ""},
		{"error", func(r *rig) { _ = r.call("fails") }, "fails: invoked started failed", "tool_error"},
		{"panic", func(r *rig) { _ = r.call("panics") }, "panics: invoked started failed", "panic"},
		{"Goexit", func(r *rig) { _, _, _ = r.invokeApart(r.ctx, sluice.Request{Tool: "exits"}) }, "exits: invoked started failed", "goexit"},
		{"unknown tool", func(r *rig) { _ = r.call("nobody") }, "nobody: invoked failed", "unknown_tool"},
		{"a name that is none", func(r *rig) { _ = r.call("no\nbody") }, `"no\nbody": invoked failed`, "unknown_tool"},
		{"invalid arguments", func(r *rig) {
			_, _ = r.Invoke(r.ctx, sluice.Request{Tool: "fine", Args: json.RawMessage(`{`)})
		}, "fine: invoked failed", "invalid_arguments"},
		{"timeout, deaf", func(r *rig) { _ = r.call("deaf") }, "deaf: invoked started abandoned failed", "timeout"},
		{"timeout, listens", func(r *rig) { _ = r.call("listens") }, "listens: invoked started abandoned? failed", "timeout"},
		{"cancelled while it runs", func(r *rig) {
			ctx, cancel := context.WithTimeoutCause(r.ctx, 5*ms, context.Canceled)
			defer cancel()
			_, _ = r.Invoke(ctx, sluice.Request{Tool: "listens"})
		}, "listens: invoked started abandoned? failed", "timeout"},
		{"cancelled before", func(r *rig) {
			ctx, cancel := context.WithCancel(r.ctx)
			cancel()
			_, _ = r.Invoke(ctx, sluice.Request{Tool: "fine"})
		}, "fine: invoked failed", "canceled"},
		{"cancelled while queued", func(r *rig) {
			r.busy("block")
			ctx, cancel := context.WithCancel(r.ctx)
			time.AfterFunc(ms, cancel)
			_, _ = r.Invoke(ctx, sluice.Request{Tool: "fine"})
		}, "block: invoked started completed; fine: invoked queued failed", "canceled"},
		{"deadline while queued", func(r *rig) {
			r.busy("block")
			ctx, cancel := context.WithTimeout(r.ctx, 5*ms)
			defer cancel()
			_, _ = r.Invoke(ctx, sluice.Request{Tool: "fine"})
		}, "block: invoked started completed; fine: invoked queued failed", "wait_too_long"},
		{"waits", func(r *rig) {
			r.busy("block")
			_ = r.call("fine")
		}, "block: invoked started completed; fine: invoked queued started completed", ""},
		{"MaxWait", func(r *rig) {
			r.busy("block")
			_ = r.call("hasty")
		}, "block: invoked started completed; hasty: invoked queued failed", "wait_too_long"},
		{"queue full", func(r *rig) {
			r.busy("block")
			r.busy("fine")
			_ = r.call("fine")
		}, "block: invoked started completed; fine: invoked queued started completed; fine: invoked failed", "queue_full"},
		{"rate", func(r *rig) { _, _ = r.call("rated"), r.call("rated") }, "rated: invoked started completed; rated: invoked failed", "wait_too_long"},
		{"breaker", func(r *rig) { _, _ = r.call("breaks"), r.call("breaks") }, "breaks: invoked started failed; breaks: invoked failed", "breaker_open"},
		{"too wide", func(r *rig) { _ = r.call("wide") }, "wide: invoked failed", "saturated"},
		{"cost function", func(r *rig) { _ = r.call("costly") }, "costly: invoked failed", "panic"},
		{"denied", func(r *rig) { _ = r.call("denied") }, "denied: invoked denied", "denied"},
		{"interceptor answers", func(r *rig) { _ = r.call("cached") }, "cached: invoked completed", ""},
		{"interceptor panics", func(r *rig) { _ = r.call("broken") }, "broken: invoked failed", "panic"},
		{"retried", func(r *rig) { _ = r.call("retried") }, "retried: invoked started retrying started retrying started failed", "tool_error"},
		{"next twice inside", func(r *rig) { _ = r.call("twice") }, "twice: invoked started failed", "tool_error"},
		{"nested", func(r *rig) { _ = r.call("outer") }, "outer: invoked started completed; fine: invoked started completed", ""},
		{"closed before", func(r *rig) {
			assert.NoError(r.t, r.Close(r.ctx))
			_ = r.call("fine")
		}, "fine: invoked failed", "closed"},
		{"closed while queued", func(r *rig) {
			r.busy("block")
			r.busy("fine")
			assert.NoError(r.t, r.Close(r.ctx))
		}, "block: invoked started completed; fine: invoked queued failed", "closed"},
	} {
		for _, submit := range []bool{false, true} {
			t.Run(fmt.Sprint(tc.name, " submit ", submit), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Interceptors: interceptors(retry,
						limitsOf(sluice.Limit{Max: 1}, sluice.Limit{Max: 5, Unit: "MB", Scope: sluice.ForTool("wide", "costly")}),
						scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 1}), twice)})
					defer r.end()
					tool := func(s sluice.Spec, f func(context.Context) error) { r.tool(s, f) }
					tool(sluice.Spec{Name: "fine"}, sleeps(0))
					tool(sluice.Spec{Name: "hasty", Policy: sluice.Policy{MaxWait: ms}}, sleeps(0))
					tool(sluice.Spec{Name: "block"}, sleeps(50*ms))
					tool(sluice.Spec{Name: "deaf", Policy: sluice.Policy{Timeout: 10 * ms}}, sleeps(time.Second))
					tool(sluice.Spec{Name: "listens", Policy: sluice.Policy{Timeout: 10 * ms}}, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
					tool(sluice.Spec{Name: "rated", Policy: sluice.Policy{Rates: []sluice.Rate{{N: 1}}, MaxWait: ms}}, sleeps(0))
					tool(sluice.Spec{Name: "breaks", Policy: sluice.Policy{Breaker: &sluice.BreakerPolicy{Failures: 1}}}, func(context.Context) error { return errTool })
					tool(sluice.Spec{Name: "wide", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 6 }}}, sleeps(0))
					tool(sluice.Spec{Name: "costly", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { panic("cost") }}}, sleeps(0))
					tool(sluice.Spec{Name: "exits"}, func(context.Context) error { runtime.Goexit(); return nil })
					tool(sluice.Spec{Name: "panics"}, func(context.Context) error { panic("x") })
					for _, name := range []string{"fails", "retried", "denied", "cached", "broken", "twice"} {
						tool(sluice.Spec{Name: name}, func(context.Context) error { return errTool })
					}
					tool(sluice.Spec{Name: "outer"}, func(ctx context.Context) error { return errOf(r.Invoke(ctx, sluice.Request{Tool: "fine"})) })
					if submit { // the same through a future, as far as it is a plain call
						if strings.Contains(tc.want, ";") || strings.Contains(tc.name, "cancelled") || strings.Contains(tc.name, "closed") || tc.name == "invalid arguments" {
							return
						}
						name := strings.SplitN(tc.want, ":", 2)[0]
						if name == `"no\nbody"` {
							name = "no\nbody"
						}
						_, _ = r.Submit(r.ctx, sluice.Request{Tool: name}).Wait(context.Background())
					} else {
						tc.run(r)
					}
					time.Sleep(2 * time.Second)
					r.trace(tc.want)
					events := r.rec.Events()
					e := events[len(events)-1]
					for _, x := range events { // of the call that came last
						if strings.HasSuffix(string(x.Kind), "failed") || strings.HasSuffix(string(x.Kind), "denied") {
							e = x
						}
					}
					var got struct {
						Code string `json:"error_code"`
					}
					b, err := json.Marshal(e)
					require.NoError(t, err)
					require.NoError(t, json.Unmarshal(b, &got))
					if tc.code != "" && tc.code != "denied" && got.Code != tc.code {
						t.Errorf("code %q, want %q: %s", got.Code, tc.code, b)
					}
					for i := 1; i < len(events); i++ {
						if events[i].Time.Before(events[i-1].Time) {
							t.Errorf("%s is of %v, before %s", events[i].Kind, events[i].Time, events[i-1].Kind)
						}
					}
				})
			})
		}
	}
}

// Hedged attempts report from several goroutines: the order of one call's events holds,
// also if a sink ends the goroutine that happens to tell the others' events.
func TestPromise18_EventsFromSeveralGoroutinesAreInOrder(t *testing.T) {
	for _, exits := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			hedge := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
				return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
					outs := make(chan error, 2)
					for range 2 {
						go func() {
							err := errors.New("exited")
							defer func() { outs <- err }()
							_, err = next(ctx, c)
						}()
						time.Sleep(ms)
					}
					return sluice.Result{}, <-outs
				}
			})
			first := atomic.Bool{}
			r := newRig(t, sluice.Config{Interceptors: interceptors(hedge, atMost(2)),
				Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
					if e.Kind == sluice.ToolStarted && first.CompareAndSwap(false, true) {
						time.Sleep(time.Second) // meanwhile the other attempt starts and ends
						if exits {
							runtime.Goexit()
						}
					}
					return nil
				})})
			defer func() {
				require.NoError(t, r.Close(context.Background()))
				require.NoError(t, r.pc.State.Close())
			}()
			r.tool(sluice.Spec{Name: "work"}, sleeps(10*ms))
			require.NoError(t, r.call("work"))
			time.Sleep(2 * time.Second)
			r.idle()
			want := "work: invoked started started abandoned completed"
			if exits { // the recorder comes after the sink, which kept the first from it
				want = "work: invoked started abandoned completed"
			}
			r.trace(want)
		})
	}
}

var testTime = time.Date(2026, 3, 4, 5, 6, 7, 80_000_000, time.FixedZone("", 3600))

func testEvent(k sluice.EventKind) sluice.Event {
	return sluice.Event{
		Kind: k, Time: testTime, Seq: 3,
		Call: sluice.Call{ID: "call-1", Tool: "search", Type: "web", Attempt: 1, Pipeline: &sluice.PipelineContext{
			RunID: "run-1", RequestID: "req-1", SessionID: "s-1", UserID: "u-1", Tenant: "acme", ExecutionMode: "live",
		}},
	}
}

type selfWrapping struct{}

func (e selfWrapping) Error() string { return "self" }
func (e selfWrapping) Unwrap() error { return e }

type panickingError struct{}

func (panickingError) Error() string { panic("Error panics") }
func (panickingError) Unwrap() error { panic("Unwrap panics") }
func (panickingError) Is(error) bool { panic("Is panics") }
func (panickingError) As(any) bool   { panic("As panics") }

// Neither form holds the value or the stack of a panic, or values of the call.
func TestNoFormOfAnEventShowsASecret(t *testing.T) {
	for _, k := range []sluice.EventKind{sluice.ToolInvoked, sluice.ToolStarted, sluice.ToolRetrying, sluice.ToolCompleted, sluice.ToolFailed, sluice.ToolDenied} {
		e := testEvent(k)
		e.Call.Input, e.Result.Value = struct{ S string }{"hunter2"}, map[string]string{"s": "hunter2"}
		e.Err = fmt.Errorf("wrapped: %w", &sluice.PanicError{Tool: "search", Value: "hunter2", Stack: []byte("hunter2")})
		var logged bytes.Buffer
		slog.New(slog.NewTextHandler(&logged, nil)).Info("m", "event", e)
		for form, s := range map[string]string{"JSON": string(sluice.Must(e.MarshalJSON())), "log": logged.String(), "attrs": e.LogValue().String()} {
			assert.NotContains(t, s, "hunter2", "%s of %s shows a secret", form, k)
			assert.Contains(t, s, "panic", "%s of %s does not say panic", form, k)
		}
	}
}

func TestEventJSONOfEachKind(t *testing.T) {
	with := func(k sluice.EventKind, f func(*sluice.Event)) sluice.Event {
		e := testEvent(k)
		f(&e)
		return e
	}
	head := func(kind string) string {
		return `{"type":"` + kind + `","event_id":"call-1/3","seq":3,"schema_version":1,"timestamp":"2026-03-04T04:06:07.080000000Z",` +
			`"tool_name":"search","tool_type":"web","action_id":"call-1","pipeline_run_id":"run-1","request_id":"req-1",` +
			`"session_id":"s-1","user_id":"u-1","tenant":"acme","attempt":1,"priority":0`
	}
	for _, tt := range []struct {
		name string
		e    sluice.Event
		want string
	}{
		{"invoked", with(sluice.ToolInvoked, func(e *sluice.Event) { e.InputBytes, e.ParentID = 17, "" }),
			head("tool.invoked") + `,"payload_summary":null,"behavior":"live","input_bytes":17}`},
		{"invoked with payload", with(sluice.ToolInvoked, func(e *sluice.Event) { e.Call.Input = json.RawMessage("{\"q\":\n 1}") }),
			head("tool.invoked") + `,"payload_summary":{"q":1},"behavior":"live"}`},
		{"invoked with cut payload", with(sluice.ToolInvoked, func(e *sluice.Event) { e.Call.Input = `{"q…[truncated]` }),
			head("tool.invoked") + `,"payload_summary":"{\"q…[truncated]","behavior":"live"}`},
		{"invoked with foreign value", with(sluice.ToolInvoked, func(e *sluice.Event) { e.Call.Input = 17 }),
			head("tool.invoked") + `,"payload_summary":null,"behavior":"live"}`},
		{"invoked with broken payload", with(sluice.ToolInvoked, func(e *sluice.Event) { e.Call.Input = json.RawMessage(`{"q":`) }),
			head("tool.invoked") + `,"payload_summary":null,"behavior":"live"}`},
		{"queued", with(sluice.ToolQueued, func(e *sluice.Event) { e.By = "limit/web" }), head("tool.queued") + `,"by":"limit/web"}`},
		{"started", with(sluice.ToolStarted, func(e *sluice.Event) { e.Queued = 1500 * time.Microsecond }), head("tool.started") + `,"queue_wait_ms":1.5}`},
		{"retrying", with(sluice.ToolRetrying, func(e *sluice.Event) { e.Err, e.RetryAfter = errors.New("503"), 1001*time.Microsecond }),
			head("tool.retrying") + `,"error_code":"tool_error","error_message":"503","retryable":true,"retry_after_ms":2}`},
		{"completed", with(sluice.ToolCompleted, func(e *sluice.Event) {
			e.Duration, e.OutputBytes, e.Result.Value = 10*time.Millisecond, 4, json.RawMessage(`"ok"`)
		}),
			head("tool.completed") + `,"duration_ms":10,"output_summary":{"success":true,"has_data":true,"has_error":false,"has_artifacts":false,"has_undo_metadata":false},"artifacts_count":0,"output":"ok","queue_wait_ms":0,"output_bytes":4}`},
		{"completed without data", with(sluice.ToolCompleted, func(e *sluice.Event) { e.Duration = 1 }),
			head("tool.completed") + `,"duration_ms":0.000001,"output_summary":{"success":true,"has_data":false,"has_error":false,"has_artifacts":false,"has_undo_metadata":false},"artifacts_count":0,"queue_wait_ms":0}`},
		{"failed", with(sluice.ToolFailed, func(e *sluice.Event) { e.Err = errors.New("a\nb\x1b[31m\u202e") }),
			head("tool.failed") + `,"duration_ms":0,"queue_wait_ms":0,"error_code":"tool_error","error_message":"a\nb\u001b[31m\u202e","retryable":false}`},
		{"refused", with(sluice.ToolFailed, func(e *sluice.Event) {
			e.Err = &sluice.Error{Tool: "search", CallID: "call-1", Reason: sluice.ErrQueueFull, By: "priority"}
			e.By, e.RetryAfter = "priority", time.Second
		}),
			head("tool.failed") + `,"duration_ms":0,"queue_wait_ms":0,"error_code":"queue_full","error_message":"sluice: tool \"search\": queue full by priority","retryable":true,"by":"priority","retry_after_ms":1000}`},
		{"denied", with(sluice.ToolDenied, func(e *sluice.Event) {
			e.Err = &sluice.Error{Reason: sluice.ErrDenied, Cause: errors.New("not on Sundays")}
		}),
			head("tool.denied") + `,"duration_ms":0,"reason":"not on Sundays","behavior":"live","allowed_behaviors":null,"queue_wait_ms":0,"error_code":"denied","error_message":"sluice: denied: not on Sundays","retryable":false}`},
		{"bare", sluice.Event{Kind: sluice.ToolStarted, Time: testTime},
			`{"type":"tool.started","event_id":"/0","seq":0,"schema_version":1,"timestamp":"2026-03-04T04:06:07.080000000Z","tool_name":"","action_id":"","pipeline_run_id":null,"request_id":null,"priority":0,"queue_wait_ms":0}`},
		{"breaker", sluice.Event{Kind: sluice.BreakerStateChanged, Time: testTime, By: "breaker/web", From: sluice.BreakerClosed, To: sluice.BreakerOpen, Key: "search", Actor: "ops"},
			`{"type":"breaker.state_changed","schema_version":1,"timestamp":"2026-03-04T04:06:07.080000000Z","by":"breaker/web","from":"closed","to":"open","key":"search","actor":"ops"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := string(sluice.Must(tt.e.MarshalJSON()))
			assert.Equal(t, tt.want, got)
			_, err := json.Marshal(tt.e)
			assert.NoError(t, err)
		})
	}
}

// Hostile error values are formatted once, with a bound, and cannot break the line.
func TestHostileErrorsCannotBreakALine(t *testing.T) {
	calls := 0
	counted := countedError{&calls, strings.Repeat("é", 1<<20)}
	for name, err := range map[string]error{"panicking": panickingError{}, "huge": counted, "self": selfWrapping{}, "typed nil": (*sluice.Error)(nil)} {
		e := testEvent(sluice.ToolFailed)
		e.Err = err
		b := sluice.Must(e.MarshalJSON())
		if !json.Valid(b) || !utf8.Valid(b) || len(b) > 2048 {
			t.Errorf("%s: %d bytes, valid %v: %.100s", name, len(b), json.Valid(b), b)
		}
	}
	assert.Equal(t, 1, calls, "formatted %d times", calls)
}

type countedError struct {
	n    *int
	text string
}

func (e countedError) Error() string { *e.n++; return e.text }

func TestLogValueOfAnEvent(t *testing.T) {
	e := testEvent(sluice.ToolFailed)
	e.ParentID, e.Queued, e.Duration, e.Err, e.By, e.RetryAfter = "call-0", time.Millisecond, time.Second, errors.New("no"), "b", time.Minute
	want := "[event=tool.failed tool=search call_id=call-1 parent_id=call-0 seq=3 attempt=1 run_id=run-1 request_id=req-1 tenant=acme wait=1ms duration=1s code=tool_error err=no by=b retry_after=1m0s]"
	assert.Equal(t, want, e.LogValue().String())
}
