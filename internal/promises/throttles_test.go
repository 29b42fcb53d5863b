package promises_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// throttledBy is an upstream's answer by pointer: no two of them are equal.
type throttledBy struct {
	d     time.Duration
	wraps error
}

func (e *throttledBy) Error() string             { return "429" }
func (e *throttledBy) RetryAfter() time.Duration { return e.d }
func (e *throttledBy) Unwrap() error             { return e.wraps }

// throttles is answers of which nobody can say whether they are equal.
type throttles []time.Duration

func (e throttles) Error() string             { return "429s" }
func (e throttles) RetryAfter() time.Duration { return e[0] }

// failed is a tool's own wrapper.
type failed struct {
	at  string
	err error
}

func (e *failed) Error() string { return e.at + ": " + e.err.Error() }
func (e *failed) Unwrap() error { return e.err }

// errQuota is a sentinel that everybody returns.
var errQuota error = &throttledBy{d: 30 * time.Second}

// upstreamOf mirrors the quota of what these tools talk to.
func upstreamOf(name string, tools ...string) *sluice.RateLimiter {
	return sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
		Name: name, Scope: sluice.ForTool(tools...), Upstream: true, Rates: []sluice.Rate{{N: 1e6}},
	}))
}

// paused is which gates are paused, and until when from now.
func (r *rig) paused() string {
	var list []string
	s := r.Snapshot()
	for _, g := range s.Gates {
		if g.Paused {
			list = append(list, strings.TrimSpace(fmt.Sprint(g.Name, " ", g.Key))+" "+g.Until.Sub(s.At).String())
		}
	}
	return strings.Join(list, ", ")
}

// gateNamed is the state of the first gate whose name begins so.
func (r *rig) gateNamed(prefix string) sluice.GateState {
	for _, g := range r.Snapshot().Gates {
		if strings.HasPrefix(g.Name, prefix) {
			return g
		}
	}
	r.t.Errorf("no gate %q in the snapshot", prefix)
	return sluice.GateState{}
}

const pausedFetch = "rate/web calls per second 30s"

// A throttle concerns the call that met it, however its ancestors pass it on: their keys and
// tools do not pause, their breakers and adaptive limits do not count it, and what they
// return is untouched.
func TestPromise16_ThrottleOfANestedCallIsNeutralForItsAncestors(t *testing.T) {
	type passing = func(context.Context, error) error
	meets := map[string]struct {
		fetch func(context.Context) error
		class func(sluice.Call, sluice.Result, error) sluice.Outcome
		quiet bool // it says nothing of a pause
	}{
		"an error by pointer":         {fetch: func(context.Context) error { return &throttledBy{d: 30 * time.Second} }},
		"an error by value":           {fetch: func(context.Context) error { return retryIn(30 * time.Second) }},
		"a sentinel":                  {fetch: func(context.Context) error { return errQuota }},
		"an error without comparison": {fetch: func(context.Context) error { return throttles{30 * time.Second} }},
		"one deep inside another":     {fetch: func(context.Context) error { return fmt.Errorf("get: %w", errors.Join(errors.New("x"), errQuota)) }},
		"one around another":          {fetch: func(context.Context) error { return &throttledBy{30 * time.Second, retryIn(time.Second)} }},
		"ReportThrottle and an error": {fetch: func(ctx context.Context) error {
			sluice.ReportThrottle(ctx, 30*time.Second)
			return errors.New("status 429")
		}},
		"Classify": {quiet: true, fetch: func(ctx context.Context) error {
			return fmt.Errorf("get: %w", errBusy)
		}, class: func(_ sluice.Call, _ sluice.Result, err error) sluice.Outcome {
			if errors.Is(err, errBusy) {
				return sluice.OutcomeOverload
			}
			return sluice.OutcomeAuto
		}},
	}
	passes := map[string]passing{
		"bare":            func(_ context.Context, err error) error { return err },
		"wrapped":         func(_ context.Context, err error) error { return fmt.Errorf("agent: %w", err) },
		"deep":            func(_ context.Context, err error) error { return wrapped(err, 40) },
		"joined":          func(_ context.Context, err error) error { return errors.Join(errors.New("also"), err) },
		"typed":           func(_ context.Context, err error) error { return &failed{"agent", err} },
		"typed, and asks": func(_ context.Context, err error) error { return &throttledBy{time.Hour, err} },
	}
	for meet, m := range meets {
		for pass, p := range passes {
			for _, levels := range []int{1, 3} {
				for _, how := range []string{"plain", "retried", "submitted", "timed"} {
					t.Run(fmt.Sprint(meet, " ", pass, " ", levels, " ", how), func(t *testing.T) {
						bubble(t, func(t *testing.T) {
							limit := limitsOf(sluice.Limit{Scope: sluice.ForTool("agent0", "agent1", "agent2"), Adaptive: &sluice.Adaptive{Min: 4, Max: 8}})
							list := interceptors(limit, upstreamOf("web", "fetch"), upstreamOf("model", "agent0", "agent1", "agent2"),
								breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Scope: sluice.ForTool("agent0", "agent1", "agent2")}))
							conf := sluice.Config{Classify: m.class}
							switch how {
							case "retried":
								list = append(interceptors(sluice.InterceptorFunc(twice)), list...)
							case "timed":
								conf.Timeout = time.Hour
							}
							conf.Interceptors = list
							r := newRig(t, conf)
							defer r.end()
							r.tool(sluice.Spec{Name: "fetch"}, m.fetch)
							var returned error
							calm := true
							for i := range levels {
								r.tool(sluice.Spec{Name: fmt.Sprint("agent", i)}, func(ctx context.Context) error {
									if calm {
										time.Sleep(ms)
										return nil
									}
									q, err := sluice.Request{Tool: "fetch"}, error(nil)
									if i > 0 {
										q.Tool = fmt.Sprint("agent", i-1)
									}
									if how == "submitted" {
										_, err = r.Submit(ctx, q).Wait(ctx)
									} else {
										_, err = r.Invoke(ctx, q)
									}
									returned = p(ctx, err)
									return returned
								})
							}
							for range 3 {
								parallel(8, func(int) { assert.NoError(t, r.call("agent0")) })
							}
							calm = false
							require.Equal(t, int64(8), r.gateNamed("concurrency tool").Limit,
								"the agents' adaptive limit, want 8 after successes alone")
							err := r.call(fmt.Sprint("agent", levels-1))
							if how != "retried" && !errors.Is(err, returned) && fmt.Sprintf("%T", err) != fmt.Sprintf("%T", throttles{}) {
								t.Errorf("the error is %v: want %v untouched", err, returned)
							}
							want := pausedFetch
							if m.quiet {
								want = ""
							}
							assert.Equal(t, want, r.paused(), "paused")
							assert.Equal(t, int64(8), r.gateNamed("concurrency tool").Limit,
								"the agents' adaptive limit")
							assert.Equal(t, sluice.BreakerClosed, r.gateNamed("breaker").State,
								"the agents' breaker")
						})
					})
				}
			}
		}
	}
}

func wrapped(err error, n int) error {
	for range n {
		err = fmt.Errorf("%w", err)
	}
	return err
}

// twice is a retry layer that tells in its own words what it met.
func twice(_ sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		res, first := next(ctx, c)
		if first == nil {
			return res, nil
		}
		_, last := next(ctx, c)
		if last == nil {
			return res, nil
		}
		return res, &failed{"given up", last}
	}
}

// A layer around a nested call may say in an error of its own when to come again, with or
// without an attempt: that is no throttle of the call that it is nested in.
func TestPromise16_LayersOfANestedCallSpeakForIt(t *testing.T) {
	for _, attempts := range []int{0, 1} {
		for _, pass := range []func(error) error{
			func(err error) error { return err },
			func(err error) error { var e *throttledBy; errors.As(err, &e); return e },
		} {
			bubble(t, func(t *testing.T) {
				layer := sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
					if s.Name != "fetch" {
						return next
					}
					return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
						for range attempts {
							_, _ = next(ctx, c)
						}
						return sluice.Result{}, &throttledBy{d: time.Hour}
					}
				})
				r := newRig(t, sluice.Config{Interceptors: interceptors(layer, upstreamOf("web", "fetch"), upstreamOf("model", "agent"))})
				defer r.end()
				r.tool(sluice.Spec{Name: "fetch"}, func(context.Context) error { return retryIn(30 * time.Second) })
				r.tool(sluice.Spec{Name: "agent"}, func(ctx context.Context) error {
					return pass(errOf(r.Invoke(ctx, sluice.Request{Tool: "fetch"})))
				})
				_ = r.call("agent")
				want := ""
				if attempts > 0 {
					want = pausedFetch
				}
				assert.Equal(t, want, r.paused(), "%d attempts: paused", attempts)
			})
		}
	}
}

// What a call meets itself is its own, whatever calls nested in it met.
func TestPromise16_OwnThrottleCounts(t *testing.T) {
	own := func() error { return &throttledBy{d: 20 * time.Second} }
	for _, x := range []struct {
		name   string
		nested error
		agent  func(error) error
		pauses bool
	}{
		{"alone", nil, func(error) error { return own() }, true},
		{"instead", errQuota, func(error) error { return own() }, true},
		{"joined", errQuota, func(err error) error { return errors.Join(own(), err) }, true},
		{"joined behind", retryIn(30 * time.Second), func(err error) error { return fmt.Errorf("%w, then %w", err, own()) }, true},
		{"joined, not comparable", throttles{30 * time.Second}, func(err error) error { return errors.Join(throttles{20 * time.Second}, err) }, true},
		{"a list that asks itself", errQuota, func(err error) error { return &both{own(), err} }, true},
		{"its equal", retryIn(30 * time.Second), func(error) error { return retryIn(30 * time.Second) }, false},
		{"the same sentinel", errQuota, func(error) error { return fmt.Errorf("mine: %w", errQuota) }, false},
		{"its cause", errQuota, func(err error) error { return &throttledBy{20 * time.Second, err} }, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{Interceptors: interceptors(upstreamOf("web", "fetch"), upstreamOf("model", "agent"))})
				defer r.end()
				r.tool(sluice.Spec{Name: "fetch"}, func(context.Context) error { return x.nested })
				r.tool(sluice.Spec{Name: "agent"}, func(ctx context.Context) error {
					return x.agent(errOf(r.Invoke(ctx, sluice.Request{Tool: "fetch"})))
				})
				_ = r.call("agent")
				var want []string
				if x.pauses {
					want = append(want, "rate/model calls per second 20s")
				}
				if x.nested != nil {
					want = append(want, pausedFetch)
				}
				if got := r.paused(); got != strings.Join(want, ", ") {
					t.Errorf("paused: %q, want %q", got, want)
				}
			})
		})
	}
}

// both is two errors, and asks for a pause itself.
type both [2]error

func (*both) Error() string             { return "both" }
func (*both) RetryAfter() time.Duration { return time.Hour }
func (e *both) Unwrap() []error         { return e[:] }

// A refusal two levels down is as neutral as one of the next call.
func TestPromise16_RefusalOfANestedCallIsNeutralForAllAround(t *testing.T) {
	bubble(t, func(t *testing.T) {
		never := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ForTool("fetch"), Rates: []sluice.Rate{{N: 1, Per: time.Hour}}, Refuse: true}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(never, breakerOf(sluice.CircuitBreakerConfig{Failures: 1}))})
		defer r.end()
		r.tool(sluice.Spec{Name: "fetch"}, sleeps(0))
		for i, inner := range []string{"fetch", "agent0", "agent1"} {
			r.tool(sluice.Spec{Name: fmt.Sprint("agent", i)}, func(ctx context.Context) error {
				return errOf(r.Invoke(ctx, sluice.Request{Tool: inner}))
			})
		}
		require.NoError(t, r.call("agent2"))
		for range 3 {
			if err := r.call("agent2"); !errors.Is(err, sluice.ErrRateLimited) || errors.Is(err, sluice.ErrRejected) {
				t.Fatalf("%v, want the refusal passed on by a tool that ran", err)
			}
		}
	})
}

// So many different throttles of nested calls are remembered. Beyond that all count as theirs.
func TestPromise21_ThrottlesOfNestedCallsAreBounded(t *testing.T) {
	for calls, own := range map[int]bool{1: true, 32: true, 33: false, 500: false} {
		t.Run(fmt.Sprint(calls), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{Interceptors: interceptors(upstreamOf("model", "agent"))})
				defer r.end()
				r.tool(sluice.Spec{Name: "fetch"}, func(context.Context) error { return &throttledBy{} })
				r.tool(sluice.Spec{Name: "agent"}, func(ctx context.Context) error {
					var mu sync.Mutex
					errs := []error{&throttledBy{d: 20 * time.Second}}
					parallel(calls, func(int) {
						_, err := r.Invoke(ctx, sluice.Request{Tool: "fetch"})
						mu.Lock()
						defer mu.Unlock()
						errs = append(errs, err)
					})
					return errors.Join(errs...)
				})
				_ = r.call("agent")
				if got := r.paused(); (got != "") != own {
					t.Errorf("paused: %q, want the agent's: %v", got, own)
				}
			})
		})
	}
}

// An answer that asks for no time is an overload, and lifts no pause.
func TestThrottle_WithoutATimeLiftsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(upstreamOf("web", "fetch"))})
		defer r.end()
		r.tool(sluice.Spec{Name: "fetch"}, func(ctx context.Context) error {
			sluice.ReportThrottle(ctx, 30*time.Second)
			return errors.Join(busyError{}, retryIn(-1))
		})
		_ = r.call("fetch")
		assert.Equal(t, pausedFetch, r.paused(), "paused")
	})
}

// A call that takes nothing from an Upstream limiter counts under its key all the same.
func TestThrottle_OfAFreeCallPausesItsKey(t *testing.T) {
	for _, scope := range []sluice.Scope{byAPIKey, sluice.Global} {
		for _, submitted := range []bool{false, true} {
			t.Run(fmt.Sprint(scope, " ", submitted), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "api", Scope: scope, Upstream: true, MaxKeys: 3,
						Rates: []sluice.Rate{{N: 1000, Unit: "tokens"}, {N: 1000, Unit: "searches"}}}))
					r := newRig(t, sluice.Config{Interceptors: interceptors(q, atMost(100))})
					defer r.end()
					cost := func(n int64) sluice.Policy {
						return sluice.Policy{Cost: func(_ sluice.Call, unit string) int64 {
							if unit == "tokens" {
								return n
							}
							return 0
						}}
					}
					var starts log
					fails := true
					for name, n := range map[string]int64{"free": 0, "other": 1} {
						r.tool(sluice.Spec{Name: name, Policy: cost(n)}, func(ctx context.Context) error {
							c, _ := sluice.CallFrom(ctx)
							starts.add("%s of %s at %v", c.Tool, c.Pipeline.Attrs["api_key"], r.at())
							if fails {
								fails = false
								time.Sleep(time.Second)
								return retryIn(30 * time.Second)
							}
							return nil
						})
					}
					call := func(key, tool string) {
						if submitted {
							_, _ = r.Submit(r.withKey(key), sluice.Request{Tool: tool}).Wait(t.Context())
						} else {
							_, _ = r.Invoke(r.withKey(key), sluice.Request{Tool: tool})
						}
					}
					if submitted { // its key is unknown to the limiter, and others come and go meanwhile
						wait := inOrder(1, func(int) { call("a", "free") })
						for i := range 10 {
							_, _ = r.Invoke(r.withKey(fmt.Sprint("guest", i)), sluice.Request{Tool: "other"})
						}
						wait()
						starts = log{}
					} else {
						call("a", "free")
						starts = log{}
					}
					if scope == byAPIKey { // another key goes on, in the tool that met it too
						call("b", "free")
						call("b", "other")
						assert.Equal(t, "free of b at 1s other of b at 1s", starts.String())
						starts = log{}
					}
					inOrder(2, func(i int) { call("a", []string{"other", "free"}[i]) })()
					got := starts.String()
					assert.Equal(t, 2, strings.Count(got, " at 31"), "%s, want both once the pause is over", got)
				})
			})
		}
	}
	// While nothing pauses, and once the pause is over, a free call waits for nobody.
	t.Run("no place in the order", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: byAPIKey, Upstream: true, Rates: []sluice.Rate{{N: 1, Unit: "tokens"}}}))
			r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
			defer r.end()
			r.tool(sluice.Spec{Name: "dear", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 1 }}}, sleeps(0))
			r.tool(sluice.Spec{Name: "free", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 0 }}}, sleeps(0))
			wait := inOrder(5, func(int) { _, _ = r.Invoke(r.withKey("a"), sluice.Request{Tool: "dear"}) })
			_, err := r.Invoke(r.withKey("a"), sluice.Request{Tool: "free"})
			require.NoError(t, err)
			assert.Zero(t, r.at(), "the free call started at")
			wait()
		})
	})
}

// again makes n attempts, and has change look at each before it is made.
func again(n int, change func(attempt int, c *sluice.Call)) sluice.Interceptor {
	return sluice.InterceptorFunc(func(s sluice.Spec, next sluice.Handler) sluice.Handler {
		if s.Name == "fetch" {
			return next
		}
		return func(ctx context.Context, c sluice.Call) (res sluice.Result, err error) {
			for i := range n {
				change(i, &c)
				res, err = next(ctx, c)
			}
			return res, err
		}
	})
}

// What is remembered of an attempt is that attempt's: the key that it counted under without
// taking anything, and what calls nested in it have been charged with.
func TestThrottle_OfAttemptsAreApart(t *testing.T) {
	const attempts = 40
	t.Run("keys", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "api", Scope: byAPIKey, Upstream: true, Rates: []sluice.Rate{{N: 1000, Unit: "tokens"}}}))
			r := newRig(t, sluice.Config{Interceptors: interceptors(again(attempts, func(i int, c *sluice.Call) {
				pc := *c.Pipeline
				pc.Attrs = map[string]string{"api_key": fmt.Sprint("key", i)}
				c.Pipeline = &pc
			}), q)})
			defer r.end()
			n := 0
			r.tool(sluice.Spec{Name: "ask", Policy: sluice.Policy{Cost: func(sluice.Call, string) int64 { return 0 }}}, func(context.Context) error {
				if n++; n < attempts {
					return nil
				}
				return retryIn(30 * time.Second)
			})
			_ = r.call("ask")
			if got, want := r.paused(), fmt.Sprintf("rate/api tokens per second key%d 30s", attempts-1); got != want {
				t.Errorf("paused: %q, want %q", got, want)
			}
		})
	})
	t.Run("nested calls", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{Interceptors: interceptors(again(2, func(int, *sluice.Call) {}), upstreamOf("model", "agent"))})
			defer r.end()
			r.tool(sluice.Spec{Name: "fetch"}, func(context.Context) error { return errQuota })
			first := true
			r.tool(sluice.Spec{Name: "agent"}, func(ctx context.Context) error {
				if !first {
					return errQuota
				}
				first = false
				return errOf(r.Invoke(ctx, sluice.Request{Tool: "fetch"}))
			})
			_ = r.call("agent")
			assert.Equal(t, "rate/model calls per second 30s, tool/fetch concurrency 30s", r.paused(), "paused")
		})
	})
}

// hostThrottle is a throttle of one host.
type hostThrottle struct {
	host string
	d    time.Duration
}

func (e hostThrottle) Error() string                { return e.host + ": 429" }
func (e hostThrottle) RetryAfter() time.Duration    { return e.d }
func (e hostThrottle) ThrottledPart() (_, _ string) { return "host", e.host }

// A throttle pauses as much as it names: the key of that part if a limiter has one, and what
// is wider than that a minute at most.
func TestThrottle_OfAPartPausesThatPart(t *testing.T) {
	attr := func(name string) sluice.Scope {
		return sluice.ByKey(name, func(c sluice.Call) string { return c.Pipeline.Attrs[name] })
	}
	part := func(kind, key string) sluice.ThrottlePart { return sluice.ThrottlePart{Kind: kind, Key: key} }
	host, search := part("host", "b"), part("resource", "search")
	for _, x := range []struct {
		name   string
		scopes []sluice.Scope // of Upstream limiters
		parts  []sluice.ThrottlePart
		want   string
	}{
		{"no part", []sluice.Scope{attr("host")}, nil, "limit0 a 1h0m0s"},
		{"a host that is another's", []sluice.Scope{attr("host")}, []sluice.ThrottlePart{host}, "limit0 b 1h0m0s"},
		{"a host, and the key goes on", []sluice.Scope{attr("host"), sluice.Global}, []sluice.ThrottlePart{host}, "limit0 b 1h0m0s"},
		{"a host that nobody counts by", []sluice.Scope{attr("model"), sluice.Global}, []sluice.ThrottlePart{host}, "limit0 m 1m0s, limit1 1m0s"},
		{"a host, without any limiter", nil, []sluice.ThrottlePart{host}, "tool/fetch concurrency 1m0s"},
		{"no part, without any limiter", nil, nil, "tool/fetch concurrency 1m0s"},
		{"a resource of a host", []sluice.Scope{attr("host"), attr("resource")}, []sluice.ThrottlePart{host, search}, "limit1 search 1h0m0s"},
		{"a resource that nobody counts by", []sluice.Scope{attr("host")}, []sluice.ThrottlePart{host, search}, "limit0 b 1m0s"},
		{"by two limiters", []sluice.Scope{attr("host"), attr("host")}, []sluice.ThrottlePart{host}, "limit0 b 1h0m0s, limit1 b 1h0m0s"},
		{"a part that says nothing", []sluice.Scope{attr("host")}, []sluice.ThrottlePart{part("host", "")}, "limit0 a 1h0m0s"},
		{"a part that is too long", []sluice.Scope{attr("host")}, []sluice.ThrottlePart{part("host", strings.Repeat("x", 1025))}, "limit0 a 1h0m0s"},
		{"a tenant is no part", []sluice.Scope{sluice.ByTenant}, []sluice.ThrottlePart{part("tenant", "x")}, "limit0 org-1 1m0s"},
	} {
		t.Run(x.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var list []sluice.Interceptor
				for i, s := range x.scopes {
					list = append(list, sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{
						Name: fmt.Sprint("limit", i), Scope: s, Upstream: true, Rates: []sluice.Rate{{N: 1000}}})))
				}
				list = append(list, sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "mine", Scope: attr("host"), Rates: []sluice.Rate{{N: 1000}}})))
				r := newRig(t, sluice.Config{Interceptors: list})
				defer r.end()
				r.pc.Attrs = map[string]string{"host": "a", "model": "m", "resource": "core"}
				r.tool(sluice.Spec{Name: "fetch"}, func(ctx context.Context) error {
					sluice.ReportThrottle(ctx, time.Hour, x.parts...)
					return nil
				})
				_, err := r.Invoke(sluice.WithPipelineContext(t.Context(), r.pc), sluice.Request{Tool: "fetch"})
				require.NoError(t, err)
				got := strings.ReplaceAll(strings.ReplaceAll(r.paused(), "rate/", ""), " calls per second", "")
				assert.Equal(t, x.want, got, "paused")
			})
		})
	}
}

// Where there is no room for a part's key, the call's own waits, and no longer than what is wider
// than the part.
func TestThrottle_OfAPartWithoutRoomPausesTheCallsKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByKey("host", func(sluice.Call) string { return "a" }), MaxKeys: 1, Upstream: true, Rates: []sluice.Rate{{N: 1000}}}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
		defer r.end()
		r.tool(sluice.Spec{Name: "fetch"}, func(ctx context.Context) error {
			sluice.ReportThrottle(ctx, time.Hour, sluice.ThrottlePart{Kind: "host", Key: "b"})
			return nil
		})
		require.NoError(t, r.call("fetch"))
		assert.Equal(t, "rate calls per second a 1m0s", r.paused(), "paused")
	})
}

// An error says what it is about itself; several say it of several parts.
func TestThrottle_ErrorsNameTheirParts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByKey("host", func(c sluice.Call) string { return "a" }), Upstream: true, Rates: []sluice.Rate{{N: 1000}}}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
		defer r.end()
		r.tool(sluice.Spec{Name: "fetch"}, func(context.Context) error {
			return errors.Join(hostThrottle{"b", time.Hour}, fmt.Errorf("get: %w", hostThrottle{"c", 5 * time.Second}), &throttledBy{wraps: hostThrottle{"d", time.Hour}})
		})
		assert.Error(t, r.call("fetch"), "want the tool's error")
		assert.Equal(t, "rate calls per second b 1h0m0s, rate calls per second c 5s", r.paused(), "paused")
		assert.Error(t, r.call("fetch"), "want the call of a host that does not pause to go on")
		assert.Zero(t, r.at(), "it started at")
	})
}

// A throttle pauses every waiter of the key at once, and no other key; the key re-opens
// with one token, at the configured rate.
func TestThrottle_PausesTheKey(t *testing.T) {
	const period = 100 * ms
	for _, x := range []struct {
		name  string
		retry time.Duration
		pause time.Duration // that is observed
	}{
		{"30s", 30 * time.Second, 30 * time.Second},
		{"zero", 0, 0},
		{"negative", -time.Hour, 0},
		{"24h", day, day},
		{"a month is cut to 24h", 30 * day, day},
	} {
		for _, asError := range []bool{false, true} {
			for _, upstream := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s error %v upstream %v", x.name, asError, upstream), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Name: "api", Scope: byAPIKey, Rates: []sluice.Rate{{N: 10, Burst: 1}}, Upstream: upstream}))
						r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
						defer r.end()
						var mu sync.Mutex
						starts := map[string][]time.Duration{}
						first := true
						fetch := func(ctx context.Context) error {
							c, _ := sluice.CallFrom(ctx)
							mu.Lock()
							key := c.Pipeline.Attrs["api_key"] + " " + c.Tool
							starts[key] = append(starts[key], r.at())
							throttles := first
							first = false
							mu.Unlock()
							if !throttles {
								return nil
							}
							time.Sleep(period / 2)
							if asError {
								return retryIn(x.retry)
							}
							sluice.ReportThrottle(ctx, x.retry)
							return nil
						}
						r.tool(sluice.Spec{Name: "fetch"}, fetch)
						r.tool(sluice.Spec{Name: "other"}, fetch)
						var fs []*sluice.Future
						for _, key := range []string{"a", "a", "a", "a", "b", "b"} {
							fs = append(fs, r.Submit(r.withKey(key), sluice.Request{Tool: "fetch"}))
							synctest.Wait()
						}
						fs = append(fs, r.Submit(r.withKey("c"), sluice.Request{Tool: "other"}), r.Submit(r.withKey("c"), sluice.Request{Tool: "other"}))
						for i, f := range fs {
							var e retryIn
							if _, err := f.Wait(t.Context()); asError && i == 0 {
								assert.ErrorAs(t, err, &e, "%v, want the tool's own error", err)
							} else if err != nil {
								t.Error(err)
							}
						}
						want := map[string][]time.Duration{
							"a fetch": {0, period, 2 * period, 3 * period},
							"b fetch": {0, period},
							"c other": {0, period},
						}
						if end := period/2 + x.pause; x.pause > 0 && upstream {
							want["a fetch"] = []time.Duration{0, end, end + period, end + 2*period}
						} else if x.pause > 0 { // the tool pauses, for all keys and a minute at most; buckets are none of its business
							end := period/2 + min(x.pause, time.Minute)
							want["a fetch"] = []time.Duration{0, end, end + period, end + 2*period}
							want["b fetch"] = []time.Duration{0, end}
						}
						assert.Equal(t, want, starts, "starts")
					})
				})
			}
		}
	}
}

// What the end of a call says of the time to retry counts from when the upstream's answer was reported,
// however long a sink takes to hear of the pause, and whichever of the tool's goroutines reports it.
func TestThrottle_CountsFromItsReport(t *testing.T) {
	report := func(ctx context.Context) { sluice.ReportThrottle(ctx, 20*time.Second) }
	for name, tt := range map[string]struct {
		report    func(ctx context.Context)
		ends      time.Duration
		retry     time.Duration
		toldFirst sluice.EventKind
	}{
		"by the tool": {report, 10 * time.Second, 10 * time.Second, sluice.RateLimitPaused},
		"aside": {func(ctx context.Context) {
			go report(ctx)
			time.Sleep(time.Second)
		}, time.Second, 19 * time.Second, sluice.ToolFailed},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				rec := new(sluice.Recorder)
				slow := sluice.EventSinkFunc(func(ctx context.Context, e *sluice.Event) error {
					if e.Kind == sluice.RateLimitPaused {
						time.Sleep(10 * time.Second)
					}
					return rec.Emit(ctx, e)
				})
				r := newRig(t, sluice.Config{Sink: slow})
				r.tool(sluice.Spec{Name: "x"}, func(ctx context.Context) error { tt.report(ctx); return errTool })
				require.ErrorIs(t, r.call("x"), errTool)
				assert.Equal(t, tt.ends, r.at(), "answered after")
				time.Sleep(time.Minute) // the sink may still be hearing of the pause
				var told []sluice.EventKind
				for _, e := range rec.Events() {
					switch e.Kind {
					case sluice.RateLimitPaused:
						assert.Equal(t, 20*time.Second, e.RetryAfter, "the pause")
					case sluice.ToolFailed:
						assert.Equal(t, tt.retry, e.RetryAfter, "the end")
					default:
						continue
					}
					told = append(told, e.Kind)
				}
				require.Len(t, told, 2)
				assert.Equal(t, tt.toldFirst, told[0])
				r.end()
			})
		})
	}
}
