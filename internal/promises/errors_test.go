package promises_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// endless is an error that wraps others of its kind, with no end.
type endless struct{ wraps *[]error }

func (endless) Error() string     { return "endless" }
func (e endless) Unwrap() []error { return *e.wraps }

// lasso is an error that wraps one other, which may be itself.
type lasso struct{ wraps *error }

func (lasso) Error() string   { return "lasso" }
func (e lasso) Unwrap() error { return *e.wraps }

// mine is an error each of whose methods panics.
type mine struct{}

func (mine) Error() string             { panic("secret") }
func (mine) Is(error) bool             { panic("secret") }
func (mine) As(any) bool               { panic("secret") }
func (mine) Unwrap() error             { panic("secret") }
func (mine) RetryAfter() time.Duration { panic("secret") }

// oddErrors is errors that are hard to look at.
func oddErrors() map[string]error {
	itself := lasso{new(error)}
	*itself.wraps = itself
	one, two := lasso{new(error)}, lasso{new(error)}
	*one.wraps, *two.wraps = two, one
	tree := endless{new([]error)}
	*tree.wraps = []error{tree, tree, tree}
	return map[string]error{"wraps itself": itself, "two wrap each other": one, "a tree without end": tree, "its methods panic": mine{}}
}

// Promise 12: every refusal names its reason, what refused and when to retry; the tool's
// code did not run.
func TestPromise12_EveryRefusal(t *testing.T) {
	type setting struct {
		*rig
		g *gauge
	}
	hour := sluice.Rate{N: 1, Per: time.Hour}
	for _, tc := range []struct {
		name   string
		config sluice.Config
		policy sluice.Policy
		call   func(s setting) error // the refused one
		reason error
		by     string
		after  time.Duration
		code   string
	}{
		{name: "unknown tool", call: func(s setting) error { return s.call("other") }, reason: sluice.ErrUnknownTool, code: "unknown tool"},
		{name: "invalid arguments", call: func(s setting) error {
			_, err := s.Invoke(s.ctx, sluice.Request{Tool: "work", Args: json.RawMessage(`{"a":1,"a":2}`)})
			return err
		}, reason: sluice.ErrInvalidArguments, code: "invalid arguments"},
		{name: "priority out of range", call: func(s setting) error {
			pc := s.pc
			pc.Priority = 10
			_, err := s.Invoke(sluice.WithPipelineContext(s.ctx, pc), sluice.Request{Tool: "work"})
			return err
		}, reason: sluice.ErrInvalidArguments, code: "invalid arguments"},
		{name: "negative cost", policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return -1 }},
			config: sluice.Config{Interceptors: interceptors(rates(sluice.Rate{N: 1, Unit: "tokens"}))},
			call:   func(s setting) error { return s.call("work") }, reason: sluice.ErrInvalidArguments, code: "invalid arguments"},
		{name: "breaker open", config: sluice.Config{Interceptors: interceptors(breakerOf(sluice.CircuitBreakerConfig{Name: "b", Failures: 1, Cooldown: time.Minute}))},
			call: func(s setting) error {
				_ = s.call("fail")
				time.Sleep(time.Second)
				return s.call("fail")
			}, reason: sluice.ErrBreakerOpen, by: "breaker/b", after: 59 * time.Second, code: "breaker open"},
		{name: "rate limited", config: sluice.Config{Interceptors: interceptors(sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "api", Refuse: true, Rates: []sluice.Rate{hour}})))},
			call: func(s setting) error {
				assert.NoError(s.t, s.call("work"))
				return s.call("work")
			}, reason: sluice.ErrRateLimited, by: "rate/api calls per hour", after: time.Hour, code: "rate limited"},
		{name: "saturated", config: sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, Refuse: true}))},
			call: func(s setting) error {
				s.busy("block")
				return s.call("work")
			}, reason: sluice.ErrSaturated, by: "concurrency global", code: "saturated"},
		{name: "too wide", config: sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 3, Unit: "MB", Scope: sluice.ByType}))},
			policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 4 }},
			call:   func(s setting) error { return s.call("work") }, reason: sluice.ErrSaturated, by: "concurrency MB per type", code: "saturated"},
		{name: "all keys busy", config: sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1, MaxKeys: 1, Scope: sluice.ByTenant}))},
			call: func(s setting) error {
				s.busy("block")
				pc := s.pc
				pc.Tenant = "another"
				_, err := s.Invoke(sluice.WithPipelineContext(s.ctx, pc), sluice.Request{Tool: "work"})
				return err
			}, reason: sluice.ErrSaturated, by: "concurrency per tenant", code: "saturated"},
		{name: "queue full", config: sluice.Config{Interceptors: interceptors(atMost(1), scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 1}))},
			call: func(s setting) error {
				s.busy("block")
				s.busy("work")
				return s.call("work")
			}, reason: sluice.ErrQueueFull, by: "queue", code: "queue full"},
		{name: "would wait longer than MaxWait", config: sluice.Config{MaxWait: time.Minute, Interceptors: interceptors(rates(hour))},
			call: func(s setting) error {
				assert.NoError(s.t, s.call("work"))
				return s.call("work")
			}, reason: sluice.ErrWaitTooLong, by: "rate calls per hour", after: time.Hour, code: "wait too long"},
		{name: "waited longer than MaxWait", config: sluice.Config{MaxWait: time.Minute, Interceptors: interceptors(atMost(1))},
			call: func(s setting) error {
				s.busy("block")
				err := s.call("work")
				assert.Equal(s.t, time.Minute, s.at(), "refused at")
				return err
			}, reason: sluice.ErrWaitTooLong, by: "concurrency global", code: "wait too long"},
		{name: "denied", config: sluice.Config{Interceptors: interceptors(sluice.InterceptorFunc(func(sp sluice.Spec, next sluice.Handler) sluice.Handler {
			if sp.Name != "work" {
				return next
			}
			return func(context.Context, sluice.Call) (sluice.Result, error) { return sluice.Result{}, errTool }
		}))},
			call: func(s setting) error { return s.call("work") }, reason: sluice.ErrDenied, code: "denied"},
		{name: "nesting", config: sluice.Config{MaxDepth: 1}, call: func(s setting) error {
			var inner error
			s.tool(sluice.Spec{Name: "outer"}, func(ctx context.Context) error {
				_, err := s.Invoke(ctx, sluice.Request{Tool: "middle"})
				return err
			})
			s.tool(sluice.Spec{Name: "middle"}, func(ctx context.Context) error {
				_, inner = s.Invoke(ctx, sluice.Request{Tool: "work"})
				return nil
			})
			assert.NoError(s.t, s.call("outer"))
			return inner
		}, reason: sluice.ErrNesting, code: "nesting"},
		{name: "closed", call: func(s setting) error {
			assert.NoError(s.t, s.Close(s.ctx))
			return s.call("work")
		}, reason: sluice.ErrClosed, code: "executor closed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, tc.config)
				s := setting{r, new(gauge)}
				r.tool(sluice.Spec{Name: "work", Policy: tc.policy}, s.g.counts(0))
				r.tool(sluice.Spec{Name: "fail"}, func(context.Context) error { return errTool })
				r.tool(sluice.Spec{Name: "block"}, func(ctx context.Context) error { time.Sleep(24 * time.Hour); return nil })
				before := int64(0)
				if tc.reason == sluice.ErrRateLimited || strings.HasPrefix(tc.name, "would") {
					before = 1
				}
				err := tc.call(s)
				e := wantRefusal(t, err, tc.reason, tc.by, tc.after)
				if e == nil {
					return
				}
				b, jerr := json.Marshal(e)
				var got struct {
					Tool   string `json:"tool_name"`
					CallID string `json:"action_id"`
					Reason string `json:"reason"`
					By     string `json:"by"`
					After  int64  `json:"retry_after_ms"`
				}
				if err := json.Unmarshal(b, &got); err != nil || jerr != nil {
					t.Fatal(err, jerr)
				}
				require.Equal(t, tc.code, got.Reason, "JSON %s", b)
				require.Equal(t, tc.by, got.By, "JSON %s", b)
				require.Equal(t, got.After, tc.after.Milliseconds(), "JSON %s", b)
				require.Equal(t, e.Tool, got.Tool, "JSON %s", b)
				require.NotEmpty(t, got.CallID, "JSON %s", b)
				assert.Equal(t, e.CallID, got.CallID, "JSON %s", b)
				if tc.name != "nesting" && tc.name != "queue full" && s.g.total.Load() != before {
					t.Errorf("the tool ran %d times, want %d", s.g.total.Load(), before)
				}
				time.Sleep(25 * time.Hour)
				r.end()
			})
		})
	}
}

// A tool that passes the refusal of a nested call on did run itself.
func TestPromise12_NestedRefusalPassedOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{})
		defer r.end()
		r.tool(sluice.Spec{Name: "outer"}, func(ctx context.Context) error {
			_, err := r.Invoke(ctx, sluice.Request{Tool: "nobody"})
			assert.ErrorIs(t, err, sluice.ErrRejected, "nested")
			return fmt.Errorf("outer: %w", err)
		})
		err := r.call("outer")
		var e *sluice.Error
		if errors.Is(err, sluice.ErrRejected) || !errors.Is(err, sluice.ErrUnknownTool) || !errors.As(err, &e) || e.Tool != "nobody" {
			t.Errorf("%v: want no ErrRejected, since outer ran, but what else it was", err)
		}
		r.trace("outer: invoked started failed; nobody: invoked failed")
	})
}

// A tool's own error passes through untouched, and a success is what it was.
func TestPromise12_OwnErrorsUntouched(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Timeout: time.Second})
		defer r.end()
		own := []error{errTool, context.Canceled, context.DeadlineExceeded, fmt.Errorf("x: %w", errTool), &sluice.Error{Reason: sluice.ErrTimeout}}
		f := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "own"}, func(_ context.Context, i int) (int, error) { return 1, own[i] }))
		for i, want := range own {
			if v, err := f(r.ctx, i); err != want || v != 0 {
				t.Errorf("got %d, %v, want 0, %v", v, err, want)
			}
		}
	})
}

func TestRefusalsAreTyped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rates := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "api", Rates: []sluice.Rate{{N: 1}}}))
		e := newExec(t, sluice.Config{Interceptors: []sluice.Interceptor{rates}})
		f := sluice.Must(sluice.Wrap(e, sluice.Spec{Name: "a"}, echo))
		if _, err := f(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		_, err := f(ctx, "")
		var x *sluice.Error
		if !errors.As(err, &x) {
			t.Fatalf("%T is no *Error", err)
		}
		if x.Reason != sluice.ErrWaitTooLong || x.RetryAfter != time.Second || x.By != "rate/api calls per second" || x.Tool != "a" {
			t.Errorf("got %+v", x)
		}
		for target, want := range map[error]bool{
			sluice.ErrRejected: true, sluice.ErrWaitTooLong: true,
			sluice.ErrRateLimited: false, sluice.ErrTimeout: false, context.DeadlineExceeded: false,
		} {
			assert.Equal(t, want, errors.Is(err, target), "errors.Is(err, %v)", target)
		}
	})
}
