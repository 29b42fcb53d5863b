package sluice_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A Duration that can only be a number whose unit was forgotten is refused, with words that
// say so, in every field that holds one.
func TestDurationsWithoutAUnit(t *testing.T) {
	tool := func(p sluice.Policy) error {
		return errOf(sluice.Register(sluice.NewToolRegistry(), sluice.Spec{Name: "x", Policy: p}, func(context.Context, any) (int, error) { return 0, nil }))
	}
	exec := func(c sluice.Config) error { return errOf(sluice.NewExecutor(sluice.NewToolRegistry(), c)) }
	rate := func(d time.Duration) []sluice.Rate { return []sluice.Rate{{N: 1}, {N: 1, Per: d, Unit: "x"}} }
	fields := map[string]func(d time.Duration) error{
		"Config.Timeout":      func(d time.Duration) error { return exec(sluice.Config{Timeout: d}) },
		"Config.MaxWait":      func(d time.Duration) error { return exec(sluice.Config{MaxWait: d}) },
		"Policy.Timeout":      func(d time.Duration) error { return tool(sluice.Policy{Timeout: d}) },
		"Policy.MaxWait":      func(d time.Duration) error { return tool(sluice.Policy{MaxWait: d}) },
		"Policy.Rates[1].Per": func(d time.Duration) error { return tool(sluice.Policy{Rates: rate(d)}) },
		"RateLimiterConfig.Rates[1].Per": func(d time.Duration) error {
			return errOf(sluice.NewRateLimiter(sluice.RateLimiterConfig{Rates: rate(d)}))
		},
	}
	for name, set := range map[string]func(*sluice.CircuitBreakerConfig, time.Duration){
		"Window":   func(c *sluice.CircuitBreakerConfig, d time.Duration) { c.Window = d },
		"Cooldown": func(c *sluice.CircuitBreakerConfig, d time.Duration) { c.Cooldown = d },
		"Lease":    func(c *sluice.CircuitBreakerConfig, d time.Duration) { c.Lease = d },
	} {
		fields["CircuitBreakerConfig."+name] = func(d time.Duration) error {
			var c sluice.CircuitBreakerConfig
			set(&c, d)
			return errOf(sluice.NewCircuitBreaker(c))
		}
		fields["Policy.Breaker."+name] = func(d time.Duration) error {
			var c sluice.CircuitBreakerConfig
			set(&c, d)
			return tool(sluice.Policy{Breaker: &sluice.BreakerPolicy{Window: c.Window, Cooldown: c.Cooldown, Lease: c.Lease}})
		}
	}
	for field, set := range fields {
		for _, d := range []time.Duration{1, 5, 30, 60, 999} {
			want := fmt.Sprintf("sluice: %s is %v: must be at least 1µs; a Duration without a unit? %d seconds are %d*time.Second", field, d, d, d)
			assert.EqualError(t, set(d), want, "%s: %d", field, d)
		}
		for _, d := range []time.Duration{0, time.Microsecond, 30 * time.Second} {
			assert.NoError(t, set(d), "%s: %v", field, d)
		}
		if err := set(sluice.NoWait); strings.HasSuffix(field, "MaxWait") != (err == nil) {
			t.Errorf("%s: NoWait: %v", field, err)
		}
		assert.Error(t, set(-1), "%s: -1 was accepted", field)
	}

	// So are all there are.
	api, err := os.ReadFile("testdata/api.txt")
	require.NoError(t, err)
	api, _, _ = bytes.Cut(api, []byte("\npackage ")) // the other packages have tests of their own
	for _, m := range regexp.MustCompile(`(?m)^field ((?:\w*Config|Policy|Rate)\.\w+) time\.Duration$`).FindAllStringSubmatch(string(api), -1) {
		if field := strings.Replace(m[1], "Rate.", "RateLimiterConfig.Rates[1].", 1); fields[field] == nil {
			t.Errorf("%s is not tested here", m[1])
		}
	}

	// A change is checked like a beginning.
	q, b, reg := rates(sluice.Rate{N: 1}), breakerOf(sluice.CircuitBreakerConfig{}), sluice.NewToolRegistry()
	rawTool(t, reg, sluice.Spec{Name: "x"}, sleeps(0))
	for _, c := range []sluice.Change{
		q.Change(sluice.RateLimiterConfig{Rates: []sluice.Rate{{N: 1, Per: 60}}}),
		b.Change(sluice.CircuitBreakerConfig{Cooldown: 30}),
		reg.WithPolicy("x", sluice.Policy{Timeout: 30}),
	} {
		assert.ErrorContains(t, sluice.Reconfigure("test", c), "without a unit?")
	}

	// Pause is no configuration: every time that an upstream says is one.
	bubble(t, func(t *testing.T) {
		q := rates(sluice.Rate{N: 1})
		q.Pause("", 30)
		r := newRig(t, sluice.Config{Interceptors: interceptors(q)})
		r.tool(sluice.Spec{Name: "x"}, sleeps(0))
		require.NoError(t, r.call("x"))
		if r.at() < 30 {
			t.Errorf("started after %v, in a pause of 30ns", r.at())
		}
		r.end()
	})
}

// NoWait: a call starts at once or is refused, at every constraint, and nobody sees it queue.
func TestNoWait(t *testing.T) {
	for _, by := range []string{"config", "policy", "policy over config"} {
		for _, how := range []string{"Invoke", "Submit"} {
			t.Run(by+" "+how, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					c := sluice.Config{Interceptors: interceptors(
						limitsOf(sluice.Limit{Max: 2, Scope: sluice.ForTool("slow")}),
						sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ForTool("quick"), Rates: []sluice.Rate{{N: 1, Per: time.Minute}}})),
						scheduler(sluice.PrioritySchedulerConfig{MaxQueue: 2, Shed: true}))}
					p := sluice.Policy{MaxWait: sluice.NoWait}
					switch by {
					case "config":
						c.MaxWait, p.MaxWait = sluice.NoWait, 0
					case "policy over config":
						c.MaxWait = time.Hour
					}
					r := newRig(t, c)
					defer r.end()
					r.tool(sluice.Spec{Name: "quick", Policy: p}, sleeps(0))
					r.tool(sluice.Spec{Name: "slow", Policy: p}, sleeps(time.Second))
					r.tool(sluice.Spec{Name: "patient", Policy: sluice.Policy{MaxWait: time.Hour, Concurrency: 1}}, sleeps(time.Second))
					call := func(tool string) error {
						if how == "Submit" {
							return errOf(r.Submit(r.ctx, sluice.Request{Tool: tool}).Wait(r.ctx))
						}
						return r.call(tool)
					}

					require.NoError(t, call("quick"))
					wantRefusal(t, call("quick"), sluice.ErrWaitTooLong, "rate calls per minute", time.Minute)
					wait := inOrder(2, func(int) { assert.NoError(t, call("slow")) })
					waitPatient := inOrder(3, func(int) { assert.NoError(t, call("patient")) }) // the queue is full
					wantRefusal(t, call("slow"), sluice.ErrWaitTooLong, "concurrency tool slow", 0)
					if d := r.Explain(r.ctx, sluice.Request{Tool: "slow"}); d.Refusal == nil || d.Refusal.Reason != sluice.ErrWaitTooLong || d.Refusal.By != "concurrency tool slow" {
						t.Errorf("Explain: %+v", d)
					}
					assert.Zero(t, r.at(), "that took")
					wait()
					require.NoError(t, call("slow")) // a slot is free again
					waitPatient()
					for _, e := range r.rec.Events() {
						if e.Kind == sluice.ToolQueued && e.Call.Tool != "patient" {
							t.Errorf("%s was queued", e.Call.Tool)
						}
					}
				})
			})
		}
	}
}

// Where there is room for all, NoWait refuses nobody, however many come at once.
func TestNoWaitRefusesNobodyWithoutCause(t *testing.T) {
	const callers, each = 8, 200
	r := newRig(t, sluice.Config{MaxWait: sluice.NoWait, Interceptors: interceptors(limitsOf(sluice.Limit{Max: callers, Scope: sluice.ByTool}, sluice.Limit{Max: callers}))})
	r.ctx = t.Context()
	r.tool(sluice.Spec{Name: "x"}, sleeps(0))
	var refused atomic.Int32
	parallel(callers, func(int) {
		for range each {
			if err := r.call("x"); err != nil {
				refused.Add(1)
			}
		}
	})
	if n := refused.Load(); n > 0 {
		t.Errorf("%d of %d calls were refused, and the limit was never reached", n, callers*each)
	}
	r.end()
}

// A refusal of an attempt whose time was over before its code began says one thing.
func TestTimeOverBeforeTheCode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		slow := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler {
			return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
				<-ctx.Done()
				if c.ID == "gives up" {
					return sluice.Result{}, ctx.Err()
				}
				time.Sleep(time.Second)
				return next(ctx, c)
			}
		})
		r := newRig(t, sluice.Config{Timeout: time.Second, Interceptors: interceptors(atMost(1), slow)})
		ran := 0
		r.tool(sluice.Spec{Name: "x"}, func(context.Context) error { ran++; return nil })
		for _, id := range []string{"gives up", "comes late"} {
			_, err := r.Invoke(r.ctx, sluice.Request{ID: id, Tool: "x"})
			assert.EqualError(t, err, `sluice: tool "x": wait too long: its time was over before its code began`,
				id)
			if !errors.Is(err, sluice.ErrRejected) || !errors.Is(err, sluice.ErrWaitTooLong) || errors.Is(err, sluice.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v is of another kind", id, err)
			}
			time.Sleep(time.Minute)
		}
		assert.Zero(t, ran, "the tool ran %d times", ran)
		r.end()
	})
}

// A tool's classify function that has no opinion leaves it to the executor's, and that one to
// the library.
func TestClassifyFallsThrough(t *testing.T) {
	errNotFound, errQuota, errOther := errors.New("not found"), errors.New("quota"), errors.New("other")
	answer := func(on error, o sluice.Outcome) func(sluice.Call, sluice.Result, error) sluice.Outcome {
		return func(_ sluice.Call, _ sluice.Result, err error) sluice.Outcome {
			if errors.Is(err, on) {
				return o
			}
			return sluice.OutcomeAuto
		}
	}
	for _, tc := range []struct {
		name  string
		own   func(sluice.Call, sluice.Result, error) sluice.Outcome
		err   error
		opens bool // after one failure
	}{
		{"own opinion", answer(errNotFound, sluice.OutcomeSuccess), errNotFound, false},
		{"own opinion goes first", answer(errQuota, sluice.OutcomeFailure), errQuota, true},
		{"none of its own", answer(errNotFound, sluice.OutcomeSuccess), errQuota, false},
		{"no opinion at all", answer(errNotFound, sluice.OutcomeSuccess), errOther, true},
		{"a panic", func(sluice.Call, sluice.Result, error) sluice.Outcome { panic("classify") }, errQuota, false},
		{"nonsense", func(sluice.Call, sluice.Result, error) sluice.Outcome { return 77 }, errQuota, false},
		{"no function", nil, errQuota, false},
		{"no function, no opinion", nil, errOther, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := breakerOf(sluice.CircuitBreakerConfig{Failures: 1})
				r := newRig(t, sluice.Config{Classify: answer(errQuota, sluice.OutcomeNeutral), Interceptors: interceptors(b)})
				defer r.end()
				r.tool(sluice.Spec{Name: "x", Policy: sluice.Policy{Classify: tc.own}}, func(context.Context) error { return tc.err })
				if err := r.call("x"); !errors.Is(err, tc.err) {
					t.Fatal(err)
				}
				assert.Equal(t, tc.opens, sluice.Must(b.State("x")) == sluice.BreakerOpen, "the breaker opened")
			})
		})
	}
}
