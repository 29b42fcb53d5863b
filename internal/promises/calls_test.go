package promises_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

var errTool = errors.New("the tool's own error")

// ending is a way in which a tool's code can end.
type ending struct {
	name string
	do   func()
	err  error // the tool's own
}

var endings = []ending{
	{"return", func() {}, nil},
	{"error", func() {}, errTool},
	{"panic", func() { panic("secret value") }, nil},
	{"panic nil", func() { panic(nil) }, nil}, //nolint:govet
	{"panic error", func() { panic(errTool) }, nil},
	{"Goexit", func() { runtime.Goexit() }, nil},
}

// invokeApart runs a call on a goroutine of its own, so that a Goexit ends only that. It
// reports whether the call returned.
func (r *rig) invokeApart(ctx context.Context, q sluice.Request) (res sluice.Result, err error, returned bool) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		res, err = r.Invoke(ctx, q)
		returned = true
	}()
	<-done
	return res, err, returned
}

// Promise 10: everything taken is given back however the code ends.
func TestPromise10_GivenBackOnEveryEnding(t *testing.T) {
	const limit = 2
	for _, how := range []string{"inline", "timeout", "submit", "submit queued"} {
		for _, end := range endings {
			t.Run(how+"/"+end.name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					c := sluice.Config{Interceptors: interceptors(atMost(limit))}
					if how == "timeout" {
						c.Timeout = time.Second
					}
					r := newRig(t, c)
					defer r.end()
					var g gauge
					r.tool(sluice.Spec{Name: "odd"}, func(context.Context) error {
						time.Sleep(ms)
						end.do()
						return end.err
					})
					r.tool(sluice.Spec{Name: "plain"}, g.counts(10*ms))
					for range limit + 1 {
						var err error
						returned := true
						switch how {
						case "submit queued":
							for range limit {
								f := r.Submit(r.ctx, sluice.Request{Tool: "plain"})
								defer f.Wait(context.Background())
							}
							fallthrough
						case "submit":
							_, err = r.Submit(r.ctx, sluice.Request{Tool: "odd"}).Wait(t.Context())
						default:
							_, err, returned = r.invokeApart(r.ctx, sluice.Request{Tool: "odd"})
						}
						var p *sluice.PanicError
						switch {
						case end.name == "Goexit" && how == "inline":
							assert.False(t, returned,
								"the call returned: inline, Goexit ends the goroutine of the caller")
						case end.name == "return" && err != nil, end.name == "error" && err != errTool:
							t.Errorf("error is %v", err)
						case end.name == "return", end.name == "error":
						case !errors.As(err, &p):
							t.Errorf("error is %v, want a PanicError", err)
						case p.Goexit != (end.name == "Goexit") || len(p.Stack) == 0 || p.Tool != "odd":
							t.Errorf("Goexit %v, tool %q, %d bytes of stack", p.Goexit, p.Tool, len(p.Stack))
						case strings.Contains(err.Error(), "secret"):
							t.Errorf("the text holds the panic's value: %v", err)
						case errors.Is(err, sluice.ErrRejected):
							t.Error("matches ErrRejected although the code ran")
						}
					}
					time.Sleep(time.Second)
					r.idle()
					r.slotsFree("plain", &g, limit)
				})
			})
		}
	}
}

// A sink that calls Goexit ends the goroutine that emits. What the call holds, or waits
// for, is given back all the same.
func TestPromise10_GivenBackWhenASinkExits(t *testing.T) {
	const limit = 2
	for _, kind := range []sluice.EventKind{sluice.ToolInvoked, sluice.ToolQueued, sluice.ToolStarted, sluice.ToolCompleted, sluice.ToolFailed} {
		for _, how := range []string{"inline", "timeout", "submit", "submit refused"} {
			t.Run(fmt.Sprint(kind, "/", how), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					exits := atomic.Bool{}
					c := sluice.Config{Interceptors: interceptors(atMost(limit)),
						Sink: sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
							if exits.Load() && e.Kind == kind && (e.Call.Tool == "odd" || e.Call.Tool == "nobody") {
								runtime.Goexit()
							}
							return nil
						})}
					if how == "timeout" {
						c.Timeout = time.Second
					}
					r := newRig(t, c)
					defer func() {
						assert.NoError(t, r.Close(context.Background()))
						r.idle()
						require.NoError(t, r.pc.State.Close())
					}()
					var g gauge
					r.tool(sluice.Spec{Name: "plain"}, g.counts(10*ms))
					r.tool(sluice.Spec{Name: "odd"}, func(ctx context.Context) error {
						if kind == sluice.ToolFailed {
							return errTool
						}
						return nil
					})
					exits.Store(true)
					var wg sync.WaitGroup
					for range limit {
						wg.Go(func() { assert.NoError(t, r.call("plain")) })
					}
					synctest.Wait()
					for range limit + 1 {
						wg.Go(func() {
							q := sluice.Request{Tool: "odd"}
							switch how {
							case "submit refused":
								q.Tool = "nobody"
								fallthrough
							case "submit":
								f := r.Submit(t.Context(), q)
								_, _ = f.Wait(t.Context())
								return
							}
							_, _ = r.Invoke(t.Context(), q)
						})
					}
					wg.Wait()
					exits.Store(false)
					time.Sleep(time.Second)
					r.idle()
					r.slotsFree("plain", &g, limit)
				})
			})
		}
	}
}

// exitingError calls Goexit when it is asked for its time to retry.
type exitingError struct{}

func (exitingError) Error() string             { return "exiting" }
func (exitingError) RetryAfter() time.Duration { runtime.Goexit(); return 0 }

// So does user code that is asked about an outcome.
func TestPromise10_GivenBackWhenAClassifierExits(t *testing.T) {
	const limit = 2
	for _, what := range []string{"Classify panics", "Classify exits", "RetryAfter exits"} {
		for _, timeout := range []time.Duration{0, time.Second} {
			t.Run(fmt.Sprint(what, " ", timeout), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(limit)), Timeout: timeout})
					defer r.end()
					var g gauge
					p := sluice.Policy{}
					switch what {
					case "Classify panics":
						p.Classify = func(sluice.Call, sluice.Result, error) sluice.Outcome { panic("secret") }
					case "Classify exits":
						p.Classify = func(sluice.Call, sluice.Result, error) sluice.Outcome { runtime.Goexit(); return 0 }
					}
					r.tool(sluice.Spec{Name: "odd", Policy: p}, func(context.Context) error {
						if what == "RetryAfter exits" {
							return exitingError{}
						}
						return nil
					})
					r.tool(sluice.Spec{Name: "plain"}, g.counts(10*ms))
					for range limit + 1 {
						_, err, _ := r.invokeApart(r.ctx, sluice.Request{Tool: "odd"})
						if what == "Classify panics" && err != nil {
							t.Errorf("a classifier that panics leaves the outcome to the library: %v", err)
						}
					}
					time.Sleep(2 * time.Second)
					r.idle()
					r.slotsFree("plain", &g, limit)
				})
			})
		}
	}
}

// An interceptor gets its Calls by value and may change them. Whatever it makes of them,
// the executor lives on.
func TestPromise11_InterceptorsChangeCalls(t *testing.T) {
	for name, change := range map[string]func(*sluice.Call){
		"priority 0":   func(c *sluice.Call) { c.Priority = 0 },
		"priority 99":  func(c *sluice.Call) { c.Priority = 99 },
		"priority -99": func(c *sluice.Call) { c.Priority = -99 },
		"no pipeline":  func(c *sluice.Call) { c.Pipeline = nil },
		"a new one":    func(c *sluice.Call) { *c = sluice.Call{Tool: c.Tool, Input: c.Input, Pipeline: c.Pipeline} },
		"an empty one": func(c *sluice.Call) { *c = sluice.Call{} },
		"other input":  func(c *sluice.Call) { c.Input = make(chan int) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				meddle := atomic.Bool{}
				r := newRig(t, sluice.Config{Interceptors: interceptors(
					sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
						return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
							if meddle.Load() {
								change(&c)
							}
							return next(ctx, c)
						}
					}),
					atMost(1), scheduler(sluice.PrioritySchedulerConfig{}),
					limitsOf(sluice.Limit{Max: 5, Scope: sluice.ByTenant}))})
				defer r.end()
				var g gauge
				add := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "add"}, func(ctx context.Context, i int) (int, error) {
					return i, g.counts(ms)(ctx)
				}))
				r.tool(sluice.Spec{Name: "plain"}, g.counts(ms))
				meddle.Store(true)
				parallel(5, func(i int) {
					v, err := add(r.ctx, i)
					if err == nil && v != i {
						t.Errorf("%d, want %d", v, i)
					}
					if err != nil && !errors.Is(err, sluice.ErrRejected) {
						t.Errorf("%v: want a refusal, the tool did not run", err)
					}
				})
				meddle.Store(false)
				v, err := add(r.ctx, 7)
				assert.Equal(t, 7, v, "afterwards")
				assert.NoError(t, err, "afterwards")
				r.slotsFree("plain", &g, 1)
			})
		})
	}
}

// Promise 11: no panic of user code takes the process down or keeps a permit, and the
// caller gets a PanicError with the stack.
func TestPromise11_PanicsAnywhere(t *testing.T) {
	const limit = 2
	around := func(before, after, inner bool) sluice.Interceptor {
		return sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			if s.Name != "odd" {
				return next
			}
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				if before {
					panic("secret before")
				}
				res, err := next(ctx, c)
				if after {
					panic("secret after")
				}
				return res, err
			}
		})
	}
	wrapPanics := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
		if s.Name == "odd" {
			panic("secret wrap")
		}
		return next
	})
	nilHandler := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
		if s.Name == "odd" {
			return nil
		}
		return next
	})
	for _, tc := range []struct {
		name         string
		outer, inner sluice.Interceptor
		policy       sluice.Policy
		scope        sluice.Scope
		ran          bool
	}{
		{name: "tool", ran: true},
		{name: "outer before next", outer: around(true, false, false)},
		{name: "outer after next", outer: around(false, true, false), ran: true},
		{name: "inner before next", inner: around(true, false, true)},
		{name: "inner after next", inner: around(false, true, true), ran: true},
		{name: "outer Wrap", outer: wrapPanics},
		{name: "inner Wrap", inner: wrapPanics},
		{name: "Wrap answers nil", outer: nilHandler},
		{name: "cost function", policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { panic("secret cost") }}},
		{name: "key function", scope: sluice.ByKey("host", func(c sluice.Call) string {
			if c.Tool == "odd" {
				panic("secret key")
			}
			return "k"
		})},
	} {
		for _, how := range []string{"inline", "timeout", "submit"} {
			t.Run(tc.name+"/"+how, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					gates := interceptors(limitsOf(sluice.Limit{Max: limit}, sluice.Limit{Max: 100, Scope: sluice.ByType, Unit: "bytes"},
						sluice.Limit{Max: 50, Scope: tc.scope, Unit: "x"}))
					if tc.outer != nil {
						gates = append(interceptors(tc.outer), gates...)
					}
					if tc.inner != nil {
						gates = append(gates, tc.inner)
					}
					c := sluice.Config{Interceptors: gates}
					if how == "timeout" {
						c.Timeout = time.Second
					}
					r := newRig(t, c)
					defer r.end()
					var g gauge
					ran := false
					r.tool(sluice.Spec{Name: "odd", Policy: tc.policy}, func(context.Context) error {
						ran = true
						if tc.name == "tool" {
							panic("secret tool")
						}
						return nil
					})
					r.tool(sluice.Spec{Name: "plain"}, g.counts(10*ms))
					for range limit + 1 {
						var err error
						if how == "submit" {
							_, err = r.Submit(r.ctx, sluice.Request{Tool: "odd"}).Wait(t.Context())
						} else {
							_, err = r.Invoke(r.ctx, sluice.Request{Tool: "odd"})
						}
						var p *sluice.PanicError
						if !errors.As(err, &p) || len(p.Stack) == 0 || p.Goexit || p.Value == nil {
							t.Errorf("error is %#v, want a PanicError with value and stack", err)
						}
						if err != nil && strings.Contains(err.Error(), "secret") {
							t.Errorf("the text holds the panic's value: %v", err)
						}
						if ran != tc.ran || errors.Is(err, sluice.ErrRejected) == tc.ran {
							t.Errorf("ran %v (want %v), matches ErrRejected: %v", ran, tc.ran, errors.Is(err, sluice.ErrRejected))
						}
					}
					for _, e := range r.rec.Events("odd") {
						if b, err := json.Marshal(e); err != nil || strings.Contains(string(b), "secret") {
							t.Errorf("event %s %v: the panic's value must not be in it", b, err)
						}
					}
					r.slotsFree("plain", &g, limit)
				})
			})
		}
	}
}

// A sink that panics is none of the call's business.
func TestPromise11_SinkPanics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(1)),
			Sink: sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { panic("secret") })})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "plain"}, g.counts(ms))
		for range 3 {
			require.NoError(t, r.call("plain"))
		}
		r.slotsFree("plain", &g, 1)
		// invoked, started, completed; one of the two at once was queued too.
		s := r.Snapshot()
		assert.Equal(t, uint64(5*3+1), s.EventsDropped)
		assert.Equal(t, uint64(5*3+1), s.EventsDelivered)
	})
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

// busy starts a call and waits until it is under way or queued.
func (r *rig) busy(tool string) {
	go func() { _ = r.call(tool) }()
	synctest.Wait()
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

// Interceptors that try to lie about it cannot.
func TestPromise12_AnInterceptorThatReturnsEarly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		// A total timeout made by hand: it gives up on next, which goes on, or begins only then.
		hasty := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
			if s.Name != "work" {
				return next
			}
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				done := make(chan struct{})
				var res sluice.Result
				var err error
				go func() {
					defer close(done)
					res, err = next(context.WithoutCancel(ctx), c)
				}()
				go func() {
					time.Sleep(20 * ms)
					_, err := next(context.WithoutCancel(ctx), c)
					assert.Error(t, err, "an attempt succeeds after the call was over")
				}()
				select {
				case <-done:
					return res, err
				case <-time.After(10 * ms):
					return sluice.Result{}, errTool
				}
			}
		})
		r := newRig(t, sluice.Config{Interceptors: interceptors(hasty, atMost(1))})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "work"}, g.counts(0))
		r.tool(sluice.Spec{Name: "block"}, sleeps(50*ms))
		r.busy("block")
		err := r.call("work")
		time.Sleep(time.Second)
		if ran := g.total.Load() > 0; ran == errors.Is(err, sluice.ErrRejected) {
			t.Errorf("%v, and the tool ran: %v", err, ran)
		}
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

// Promise 13: one result for each call, in the order of the calls, whatever happens to
// their siblings.
func TestPromise13_ResultsInCallOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(atMost(8))})
		defer r.end()
		const n = 200
		var g gauge
		sluice.Must(sluice.Register(r.reg, sluice.Spec{Name: "odd"}, func(ctx context.Context, i int) (int, error) {
			assert.NoError(t, g.counts(time.Duration(n-i)*ms)(ctx))
			switch i % 5 {
			case 1:
				return 0, fmt.Errorf("error %d", i)
			case 2:
				panic(i)
			case 3:
				runtime.Goexit()
			}
			return i, nil
		}))
		futures := make([]*sluice.Future, n)
		ctx, cancel := context.WithCancel(r.ctx)
		for i := range futures {
			c := r.ctx
			if i%5 == 4 {
				c = ctx
			}
			futures[i] = r.Submit(c, sluice.Request{ID: fmt.Sprint("c", i), Tool: "odd", Args: fmt.Appendf(nil, "%d", i)})
		}
		synctest.Wait()
		cancel() // those that still queue never run
		for i, f := range futures {
			res, err := f.Wait(t.Context())
			again, err2 := f.Wait(t.Context())
			if res.Value != again.Value || err != err2 {
				t.Errorf("call %d answered twice: %v %v, %v %v", i, res.Value, err, again.Value, err2)
			}
			var p *sluice.PanicError
			ok := false
			switch i % 5 {
			case 0:
				ok = res.Value == i && err == nil
			case 1:
				ok = err != nil && err.Error() == fmt.Sprint("error ", i)
			case 2:
				ok = errors.As(err, &p) && p.Value == i
			case 3:
				ok = errors.As(err, &p) && p.Goexit
			case 4:
				ok = res.Value == i && err == nil && i < 8 || errors.Is(err, context.Canceled)
			}
			assert.True(t, ok, "call %d: %v, %v", i, res.Value, err)
		}
		assert.Equal(t, int64(8), g.peak.Load(), "most at once")
	})
}

// Promise 14: a timed-out tool does not hold its caller up, and keeps its slot until its
// code ends.
func TestPromise14_TimedOutToolKeepsItsSlot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: time.Hour})
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 1}), b)})
		defer r.end()
		r.tool(sluice.Spec{Name: "deaf", Policy: sluice.Policy{Timeout: time.Second}}, sleeps(10*time.Second))
		started := time.Duration(-1)
		r.tool(sluice.Spec{Name: "next"}, func(context.Context) error { started = r.at(); return nil })
		done := make(chan error)
		go func() { done <- r.call("deaf") }()
		synctest.Wait()
		time.Sleep(time.Second - 1)
		assert.Equal(t, sluice.BreakerClosed, sluice.Must(b.State("deaf")), "the breaker opened before the timeout")
		err := <-done
		assert.Equal(t, time.Second, r.at(), "returned at")
		var e *sluice.Error
		if !errors.Is(err, sluice.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, sluice.ErrRejected) || !errors.As(err, &e) || e.Tool != "deaf" {
			t.Errorf("error is %v", err)
		}
		got := sluice.Must(b.State("deaf"))
		assert.Equal(t, sluice.BreakerOpen, got, "the breaker is %v at the timeout", got)
		s := r.Snapshot()
		assert.Equal(t, 1, s.Abandoned)
		assert.Equal(t, 1, s.InFlight)
		require.NoError(t, r.call("next"))
		assert.Equal(t, 10*time.Second, started, "the next call started at, when the code ended")
		synctest.Wait()
		s = r.Snapshot()
		assert.Zero(t, s.Abandoned)
		assert.Zero(t, s.InFlight)
		r.trace("deaf: invoked started failed; next: invoked queued started completed")
		for _, e := range r.rec.Events("deaf") {
			if e.Kind == sluice.ToolFailed && (e.Duration != time.Second || e.Time.Sub(r.start) != time.Second) {
				t.Errorf("failed at %v after %v, want 1s", e.Time.Sub(r.start), e.Duration)
			}
		}
	})
}

// A tool that heeds its context ends at the timeout too, and the error is the same.
func TestPromise14_TimedOutToolThatListens(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Timeout: time.Second, Interceptors: interceptors(atMost(1))})
		defer r.end()
		r.tool(sluice.Spec{Name: "good"}, func(ctx context.Context) error {
			<-ctx.Done()
			assert.ErrorIs(t, context.Cause(ctx), sluice.ErrTimeout, "cause")
			return ctx.Err()
		})
		err := r.call("good")
		assert.ErrorIs(t, err, sluice.ErrTimeout)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, time.Second, r.at())
		synctest.Wait()
		r.idle()
	})
}

// The caller's own deadline is not the library's timeout: the breaker does not count it,
// whichever of the two timers fires first.
func TestPromise14_CallersDeadlineBeforeTheTimeout(t *testing.T) {
	for range 50 {
		bubble(t, func(t *testing.T) {
			b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1})
			r := newRig(t, sluice.Config{Timeout: time.Second, Interceptors: interceptors(b)})
			defer r.end()
			r.tool(sluice.Spec{Name: "deaf"}, sleeps(10*time.Second))
			ctx, cancel := context.WithTimeout(r.ctx, 100*ms)
			defer cancel()
			_, err := r.Invoke(ctx, sluice.Request{Tool: "deaf"})
			if r.at() != 100*ms || !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, sluice.ErrRejected) {
				t.Errorf("%v at %v, want a deadline exceeded at 100ms", err, r.at())
			}
			time.Sleep(20 * time.Second)
			assert.Equal(t, sluice.BreakerClosed, sluice.Must(b.State("deaf")),
				"the caller's deadline opened the breaker")
		})
	}
}

// Retried attempts are timed each on its own, and the events tell the time as it was.
func TestPromise14_SecondAttemptTimesOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		retry := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				res, err := next(ctx, c)
				if err != nil {
					time.Sleep(time.Minute)
					res, err = next(ctx, c)
				}
				return res, err
			}
		})
		r := newRig(t, sluice.Config{Timeout: time.Second, Interceptors: interceptors(retry, atMost(1))})
		defer r.end()
		n := 0
		r.tool(sluice.Spec{Name: "deaf"}, func(context.Context) error {
			if n++; n == 1 {
				time.Sleep(100 * ms)
				return errTool
			}
			time.Sleep(10 * time.Second)
			return nil
		})
		if err := r.call("deaf"); !errors.Is(err, sluice.ErrTimeout) || r.at() != time.Minute+1100*ms {
			t.Errorf("%v at %v", err, r.at())
		}
		r.trace("deaf: invoked started retrying started failed")
		var last time.Duration
		for _, e := range r.rec.Events() {
			at := e.Time.Sub(r.start)
			if at < last {
				t.Errorf("%s at %v, after %v", e.Kind, at, last)
			}
			last = at
		}
		assert.Equal(t, r.at(), last, "the last event is of")
		time.Sleep(10 * time.Second)
	})
}

// What a slow interceptor or sink takes is not the past that admission decides on.
func TestPromise08_AdmissionSeesThePresent(t *testing.T) {
	slow := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
		return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
			time.Sleep(2 * time.Second)
			return next(ctx, c)
		}
	})
	slowSink := sluice.EventSinkFunc(func(_ context.Context, e *sluice.Event) error {
		if e.Kind == sluice.ToolInvoked {
			time.Sleep(2 * time.Second)
		}
		return nil
	})
	for name, c := range map[string]sluice.Config{
		"interceptor": {Interceptors: interceptors(slow)},
		"sink":        {Sink: slowSink},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := breakerOf(sluice.CircuitBreakerConfig{Scope: sluice.Global, Failures: 1, Cooldown: time.Second})
				q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1}}, Refuse: true}))
				c.Interceptors = append(slices.Clone(c.Interceptors), b, q, atMost(1))
				c.MaxWait = time.Second
				r := newRig(t, c)
				defer r.end()
				n := 0
				r.tool(sluice.Spec{Name: "work"}, func(context.Context) error {
					if n++; n == 1 {
						return errTool // opens the breaker and uses up the rate, for a second
					}
					return nil
				})
				r.ctx = t.Context()
				if err := r.call("work"); err != errTool {
					t.Error(err)
				}
				// By the time it reaches the gates the second is over.
				assert.NoError(t, r.call("work"), "after 2s")
			})
		})
	}
}

// A gate whose Wrap somebody else calls refuses every call, and says what to do.
func TestPromise22_GatesWrappedByHandRefuse(t *testing.T) {
	for name, x := range map[string]sluice.Interceptor{
		`ConcurrencyLimiter "concurrency"`: atMost(2),
		`RateLimiter "rate"`:               rates(sluice.Rate{N: 1}),
		`CircuitBreaker "breaker"`:         breakerOf(sluice.CircuitBreakerConfig{}),
		`PriorityScheduler "priority"`:     scheduler(sluice.PrioritySchedulerConfig{}),
		`RateLimiter "nil"`:                (*sluice.RateLimiter)(nil),
		`ConcurrencyLimiter ""`:            new(sluice.ConcurrencyLimiter),
	} {
		for place, list := range map[string][]sluice.Interceptor{
			"outside": interceptors(sluice.InterceptorFunc(x.Wrap), atMost(100)),
			"inside":  interceptors(atMost(100), sluice.InterceptorFunc(x.Wrap)),
			"alone":   interceptors(sluice.InterceptorFunc(x.Wrap)),
		} {
			r := newRig(t, sluice.Config{Interceptors: list})
			r.tool(sluice.Spec{Name: "work"}, func(context.Context) error { t.Error("it ran"); return nil })
			err := r.call("work")
			if want := "the Wrap of " + name + " was called by hand"; !errors.Is(err, sluice.ErrRejected) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "Config.Interceptors") {
				t.Errorf("%s, %s: %v", name, place, err)
			}
			r.end()
		}
	}
}

// No weight is large enough to wrap around.
func TestPromise03_HugeWeights(t *testing.T) {
	bubble(t, func(t *testing.T) {
		weight := atomic.Int64{}
		r := newRig(t, sluice.Config{Interceptors: interceptors(limitsOf(sluice.Limit{Max: 10, Unit: "MB"}))})
		defer r.end()
		var g gauge
		r.tool(sluice.Spec{Name: "work", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return weight.Load() }}}, g.counts(10*ms))
		for _, w := range []int64{1<<63 - 1, 1<<63 - 9, 1 << 62, 1<<62 + 1, 11} {
			weight.Store(1)
			r.busy("work")
			weight.Store(w)
			wantRefusal(t, r.call("work"), sluice.ErrSaturated, "concurrency MB global", 0)
			time.Sleep(20 * ms)
		}
		weight.Store(5)
		r.slotsFree("work", &g, 2)
	})
}
