package resilience_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/sluice-go/sluice/upstream"
	"github.com/stretchr/testify/require"
)

// chain is three tools, each of which the next stands in for, with a breaker for each.
type chain struct {
	*rig
	breaker *sluice.CircuitBreaker
	call    func(context.Context, string) (string, error)
	down    [3]atomic.Bool
	runs    [3]atomic.Int64
}

var chainNames = []string{"primary", "second", "third"}

func newChain(t *testing.T, layers ...sluice.Interceptor) *chain {
	x := &chain{breaker: sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 3, Cooldown: 5 * time.Second}))}
	for i, name := range chainNames[:2] {
		layers = append(layers, fallback(t, resilience.FallbackConfig{Name: "instead of " + name, To: chainNames[i+1],
			Tools: func(s sluice.Spec) bool { return s.Name == name }}))
	}
	limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 200, Scope: sluice.ByTool}}}))
	x.rig = newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{limit, x.breaker}}, layers...)
	for i, name := range chainNames {
		f := sluice.Must(sluice.Wrap(x.Executor, sluice.Spec{Name: name, Hints: readOnly}, func(_ context.Context, q string) (string, error) {
			x.runs[i].Add(1)
			if time.Sleep(100 * ms); x.down[i].Load() {
				return "", fmt.Errorf("%s: %w", name, errBoom)
			}
			return name, nil
		}))
		if i == 0 {
			x.call = f
		}
	}
	return x
}

// answers holds who answers the next call, and how long that takes.
func (x *chain) answers(by string, took time.Duration) {
	x.t.Helper()
	began := time.Now()
	got, err := x.call(x.ctx, "q")
	require.NoError(x.t, err)
	require.Equal(x.t, by, got)
	require.Equal(x.t, took, time.Since(began))
}

// ran holds how often each tool has.
func (x *chain) ran(first, second, third int64) {
	x.t.Helper()
	require.Equal(x.t, []int64{first, second, third}, []int64{x.runs[0].Load(), x.runs[1].Load(), x.runs[2].Load()})
}

// pass lets the breaker of a tool become half-open.
func (x *chain) pass(tool string) {
	x.t.Helper()
	for _, g := range x.Snapshot().Gates {
		if g.Kind == "breaker" && g.Key == tool {
			require.Equal(x.t, sluice.BreakerOpen, g.State)
			time.Sleep(time.Until(g.Until))
		}
	}
}

func (x *chain) state(tool string) sluice.BreakerState {
	x.t.Helper()
	s, err := x.breaker.State(tool)
	require.NoError(x.t, err)
	return s
}

// A tool that is down is asked until its breaker opens; from then on the next in the chain answers at once; and when it is
// up again one probe finds out, and it answers.
func TestOutage_FallbackChain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		x := newChain(t)
		x.answers("primary", 100*ms)
		x.down[0].Store(true)
		for range 3 {
			x.answers("second", 200*ms)
		}
		x.ran(4, 3, 0)
		require.Equal(t, sluice.BreakerOpen, x.state("primary"))
		x.answers("second", 100*ms)
		x.ran(4, 4, 0)
		x.down[1].Store(true)
		for range 3 {
			x.answers("third", 200*ms)
		}
		require.Equal(t, sluice.BreakerOpen, x.state("second"))
		x.answers("third", 100*ms)
		x.ran(4, 7, 4)

		x.down[2].Store(true)
		_, err := x.call(x.ctx, "q") // whose own refusal is what it ends with: nothing of it has run
		require.ErrorIs(t, err, sluice.ErrBreakerOpen)
		require.ErrorIs(t, err, sluice.ErrRejected)
		var both, inner *resilience.FallbackError
		require.ErrorAs(t, err, &both)
		require.ErrorAs(t, both.Fallback, &inner)
		require.ErrorIs(t, inner.Fallback, errBoom)
		x.ran(4, 7, 5)
		x.down[2].Store(false)

		x.pass("primary")
		require.Equal(t, sluice.BreakerHalfOpen, x.state("primary"))
		x.answers("third", 200*ms) // the probe fails
		require.Equal(t, sluice.BreakerOpen, x.state("primary"))
		x.ran(5, 7, 6)
		x.down[0].Store(false)
		x.pass("primary")
		x.answers("primary", 100*ms)
		x.ran(6, 7, 6)
		require.Equal(t, sluice.BreakerClosed, x.state("primary"))
		x.end()
	})
}

// Of a hundred calls that come when a breaker may try again, one does. The others are answered by the next in the chain,
// without a queue.
func TestOutage_OneProbeOfAHundred(t *testing.T) {
	bubble(t, func(t *testing.T) {
		x := newChain(t)
		x.down[0].Store(true)
		for range 3 {
			x.answers("second", 200*ms)
		}
		x.down[0].Store(false)
		x.pass("primary")
		began := time.Now()
		var by [3]atomic.Int64
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				got, err := x.call(x.ctx, "q")
				for i, name := range chainNames {
					if err == nil && got == name {
						by[i].Add(1)
					}
				}
			})
		}
		wg.Wait()
		require.Equal(t, 100*ms, time.Since(began))
		require.Equal(t, []int64{1, 99, 0}, []int64{by[0].Load(), by[1].Load(), by[2].Load()})
		x.ran(4, 102, 0)
		x.end()
	})
}

// Retries stop when the breaker opens, which they help to open; and a call that finds it open has its answer at once.
func TestOutage_RetriesStopAtAnOpenBreaker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 4, Cooldown: 5 * time.Second}))
		limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1, Scope: sluice.ForTool("dead")}}}))
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{breaker, limit}}, retry(t, resilience.RetryConfig{}))
		dead := r.tool(sluice.Spec{Name: "dead", Hints: readOnly}, func(context.Context, int) error { time.Sleep(time.Second); return errBoom })
		fine := r.tool(sluice.Spec{Name: "fine", Hints: readOnly}, func(context.Context, int) error { return nil })
		require.ErrorIs(t, dead(r.ctx), errBoom)
		require.Equal(t, 3300*ms, time.Since(r.start))

		began := time.Now()
		err := dead(r.ctx) // its second attempt is refused
		require.Equal(t, 1100*ms, time.Since(began))
		require.ErrorIs(t, err, errBoom, "the tool's own error is not hidden")
		require.NotErrorIs(t, err, sluice.ErrRejected)
		var gaveUp *resilience.RetryError
		require.ErrorAs(t, err, &gaveUp)
		require.Len(t, gaveUp.Tried, 2)
		require.ErrorIs(t, gaveUp.Tried[1].Err, sluice.ErrBreakerOpen)
		require.False(t, gaveUp.Tried[1].Ran)

		began = time.Now()
		for range 100 {
			err = dead(r.ctx)
			require.ErrorIs(t, err, sluice.ErrBreakerOpen)
			require.NotErrorAs(t, err, &gaveUp)
		}
		require.NoError(t, fine(r.ctx), "no other tool is affected")
		require.Zero(t, time.Since(began))
		require.Len(t, r.starts(), 5)
		r.end()
	})
}

// answered is the error that a tool makes of an upstream's answer.
func answered(status int, headers ...string) func() error {
	return func() error {
		h := http.Header{}
		for i := 0; i < len(headers); i += 2 {
			h.Set(headers[i], headers[i+1])
		}
		return upstream.Check(&http.Response{StatusCode: status, Header: h}, nil)
	}
}

// What an upstream's status says about whether to ask again, of a tool that only reads and of one that may have had an
// effect: what passes is repeated, what is about the request is not.
func TestRetry_ByStatus(t *testing.T) {
	for _, tt := range []struct {
		what    func() error
		reading bool // it is repeated
		writing bool
	}{
		{answered(400), false, false},
		{answered(401), false, false},
		{answered(403), false, false},
		{answered(404), false, false},
		{answered(409), false, false},
		{answered(410), false, false},
		{answered(422), false, false},
		{answered(501), false, false},
		{answered(408), true, false},
		{answered(425), true, false},
		{answered(500), true, false},
		{answered(502), true, false},
		{answered(504), true, false},
		{answered(429), true, true},
		{answered(503, "Retry-After", "0"), true, true},
		{answered(503, "Retry-After", "1"), true, true},
		{answered(429, "X-Should-Retry", "false"), false, false},
		{answered(500, "X-Should-Retry", "false"), false, false},
		{func() error { return fmt.Errorf("search: %w", answered(404)()) }, false, false},
		{func() error { return errors.Join(errBoom, answered(429)()) }, true, true},
		{func() error { return context.DeadlineExceeded }, true, false},
	} {
		for _, h := range []sluice.Hints{{ReadOnly: true}, {Idempotent: true}, {}, {Destructive: true}} {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{}, retry(t, resilience.RetryConfig{Attempts: 2}))
				err := r.tool(sluice.Spec{Hints: h}, func(context.Context, int) error { return tt.what() })(r.ctx)
				want := 1
				if tt.writing || tt.reading && (h.ReadOnly || h.Idempotent) {
					want = 2
				}
				require.Len(t, r.starts(), want, "%v %+v", tt.what(), h)
				require.ErrorContains(t, err, tt.what().Error())
				r.end()
			})
		}
	}
}

// When the second attempt begins that an upstream's Retry-After asks for, whatever that says: a nonsense is none, the past
// and zero are the back-off's, and what is too far away is no wait at all.
func TestRetry_ByRetryAfter(t *testing.T) {
	for _, tt := range []struct {
		says string
		at   int64 // of the second attempt in milliseconds; zero if there is none
	}{
		{"", 100}, {"soon", 100}, {"-5", 100}, {"-99999999999999999999", 100}, {"NaN", 100}, {"1e", 100}, {"\x00", 100}, {"1,2", 100},
		{"0", 100}, {"0.0", 100}, {"00", 100}, {"0.05", 100},
		{"Sat, 01 Jan 2000 00:00:00 GMT", 100}, {"Fri, 31 Dec 1999 23:59:59 GMT", 100},
		{"1", 1000}, {"2.5", 2500}, {"30", 30_000}, {"Sat, 01 Jan 2000 00:00:20 GMT", 20_000},
		{"31", 0}, {"3600", 0}, {"Sun, 01 Jan 2040 00:00:00 GMT", 0}, {"9223372036854775807", 0}, {"99999999999999999999999999", 0},
	} {
		t.Run(tt.says, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{}, retry(t, resilience.RetryConfig{Attempts: 2}))
				x := r.tool(sluice.Spec{}, func(_ context.Context, n int) error {
					if n == 1 {
						return answered(429, "Retry-After", tt.says)()
					}
					return nil
				})
				err := x(r.ctx)
				if tt.at == 0 {
					var busy *upstream.ThrottledError
					require.ErrorAs(t, err, &busy)
					require.Equal(t, []int64{0}, r.starts())
					require.Zero(t, time.Since(r.start), "there is no wait")
				} else {
					require.NoError(t, err)
					require.Equal(t, []int64{0, tt.at}, r.starts())
				}
				r.end()
			})
		})
	}
}

// A hundred calls that wait to be repeated hold no slot, whichever way they were made.
func TestRetry_AHundredThatWaitHoldNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{limit}}, retry(t, resilience.RetryConfig{Attempts: 2, Base: time.Hour, Max: time.Hour, Jitter: resilience.NoJitter,
			Budget: sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Min: 100}))}))
		x := r.tool(sluice.Spec{Hints: readOnly}, func(context.Context, int) error { return errBoom })
		y := r.tool(sluice.Spec{Name: "y"}, func(context.Context, int) error { time.Sleep(time.Second); return nil })
		var wg sync.WaitGroup
		for i := range 100 {
			if i%2 == 0 {
				f := r.Submit(r.ctx, sluice.Request{Tool: "x", Input: struct{}{}})
				wg.Go(func() { _, _ = f.Wait(context.Background()) })
			} else {
				wg.Go(func() { _ = x(r.ctx) })
			}
		}
		synctest.Wait()
		s := r.Snapshot()
		require.Zero(t, s.InFlight+s.Queued)
		require.Zero(t, s.Gates[0].Used)
		require.NoError(t, y(r.ctx))
		require.Equal(t, time.Second, time.Since(r.start))
		wg.Wait()
		require.Equal(t, time.Hour, time.Since(r.start))
		r.end()
	})
}

// When a budget is used up, which two layers may share, a call ends with its tool's own error, and nothing else.
func TestRetry_AnExhaustedBudgetKeepsTheToolsError(t *testing.T) {
	bubble(t, func(t *testing.T) {
		budget := sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Share: 0.01, Min: 2, Max: 2}))
		only := func(name string) func(sluice.Spec, sluice.Attempt, sluice.Result, error) bool {
			return func(s sluice.Spec, a sluice.Attempt, r sluice.Result, err error) bool {
				return s.Name == name && resilience.Retryable(s, a, r, err)
			}
		}
		r := newRig(t, sluice.Config{},
			retry(t, resilience.RetryConfig{Name: "one", Budget: budget, If: only("x")}), retry(t, resilience.RetryConfig{Name: "two", Budget: budget, If: only("y")}))
		x := r.tool(sluice.Spec{Name: "x", Hints: readOnly}, func(context.Context, int) error { return errBoom })
		y := r.tool(sluice.Spec{Name: "y", Hints: readOnly}, func(context.Context, int) error { return errBoom })
		var gaveUp *resilience.RetryError
		err := x(r.ctx)
		require.ErrorAs(t, err, &gaveUp)
		require.Len(t, gaveUp.Tried, 3)
		for i := range 20 {
			f := x
			if i%2 == 1 {
				f = y
			}
			require.Equal(t, errBoom, f(r.ctx), "%d: as it is", i)
		}
		require.Len(t, r.starts(), 23)
		for _, e := range r.rec.Events("y") {
			require.NotEqual(t, sluice.ToolRetrying, e.Kind)
		}
		r.end()
	})
}
