package resilience_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

func timeout(t *testing.T, c resilience.TimeoutConfig) *resilience.Timeout {
	t.Helper()
	x, err := resilience.NewTimeout(c)
	require.NoError(t, err)
	return x
}

// Whose time it is that ends a call can be told apart, by who called and by the tool, whatever the tool does about it.
func TestTimeout(t *testing.T) {
	const ignores, heeds, fails = 0, 1, 2
	for _, tt := range []struct {
		name    string
		total   time.Duration
		attempt time.Duration
		caller  time.Duration
		coop    bool
		tool    int
		took    time.Duration
		mine    bool // it is a TimeoutError
		code    string
	}{
		{"in time", time.Hour, 0, 0, false, fails, 10 * time.Second, false, "tool_error"},
		{"ignored", 5 * time.Second, 0, 0, false, ignores, 5 * time.Second, true, "timeout"},
		{"heeded", 5 * time.Second, 0, 0, false, heeds, 5 * time.Second, true, "timeout"},
		{"heeded, cooperative", 5 * time.Second, 0, 0, true, heeds, 5 * time.Second, true, "timeout"},
		{"ignored, cooperative", 5 * time.Second, 0, 0, true, fails, 10 * time.Second, true, "timeout"},
		{"before the attempt's", 5 * time.Second, 7 * time.Second, 0, false, ignores, 5 * time.Second, true, "timeout"},
		{"after the attempt's", 7 * time.Second, 5 * time.Second, 0, false, ignores, 5 * time.Second, false, "timeout"},
		{"before the caller's", 5 * time.Second, 0, 7 * time.Second, false, ignores, 5 * time.Second, true, "timeout"},
		{"after the caller's", 7 * time.Second, 0, 5 * time.Second, false, ignores, 5 * time.Second, false, "timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				breaker := sluice.Must(sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{Failures: 1}))
				r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{breaker}, Timeout: tt.attempt}, timeout(t, resilience.TimeoutConfig{Total: tt.total}))
				var cause error
				f := r.tool(sluice.Spec{Policy: sluice.Policy{Cooperative: tt.coop}}, func(ctx context.Context, _ int) error {
					switch tt.tool {
					case ignores:
						time.Sleep(time.Minute)
					case heeds:
						<-ctx.Done()
						cause = context.Cause(ctx)
						return ctx.Err()
					}
					time.Sleep(10 * time.Second)
					return errBoom
				})
				ctx := r.ctx
				if tt.caller > 0 {
					c, cancel := context.WithTimeout(ctx, tt.caller)
					defer cancel()
					ctx = c
				}
				err := f(ctx)
				require.Equal(t, tt.took, time.Since(r.start))
				require.Equal(t, tt.code, sluice.CodeOf(err), "%v", err)
				require.NotErrorIs(t, err, sluice.ErrRejected)
				var mine *resilience.TimeoutError
				require.Equal(t, tt.mine, errors.As(err, &mine), "%v", err)
				if tt.code == "timeout" {
					require.ErrorIs(t, err, context.DeadlineExceeded)
				}
				if tt.mine {
					require.Equal(t, tt.total, mine.Total)
					state, err := breaker.State("x")
					require.NoError(t, err)
					require.Equal(t, sluice.BreakerClosed, state, "it is nobody's failure")
				}
				synctest.Wait()
				if tt.tool == heeds {
					require.ErrorAs(t, cause, &mine)
					require.ErrorIs(t, cause, context.DeadlineExceeded)
				}
				s := r.Snapshot()
				require.Equal(t, tt.tool == ignores, s.InFlight == 1, "who goes on keeps its slot")
				require.Equal(t, s.InFlight, s.Abandoned)
				r.end()
			})
		})
	}
}

// The time counts in the queue, in all attempts and between them, and no wait is begun that it makes useless.
func TestTimeout_OfAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 1}}}))
		r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{limit}},
			timeout(t, resilience.TimeoutConfig{Total: 5 * time.Second, Tools: func(s sluice.Spec) bool { return s.Name != "slow" }}),
			retry(t, resilience.RetryConfig{Base: time.Second, Max: time.Second, Jitter: resilience.NoJitter, Attempts: 100}))
		f := r.tool(sluice.Spec{Name: "x", Hints: readOnly}, func(context.Context, int) error { time.Sleep(900 * ms); return errBoom })
		err := f(r.ctx)
		require.Equal(t, 4700*ms, time.Since(r.start))
		require.ErrorIs(t, err, errBoom)
		var gaveUp *resilience.RetryError
		require.ErrorAs(t, err, &gaveUp)
		require.Len(t, gaveUp.Tried, 3)
		require.Equal(t, []int64{0, 1900, 3800}, r.starts())

		slow := r.tool(sluice.Spec{Name: "slow"}, func(context.Context, int) error { time.Sleep(time.Minute); return nil })
		go slow(r.ctx)
		synctest.Wait()
		began := time.Now()
		err = f(r.ctx)
		require.Equal(t, 5*time.Second-1, time.Since(began))
		require.ErrorIs(t, err, sluice.ErrRejected, "it has waited only")
		var mine *resilience.TimeoutError
		require.ErrorAs(t, err, &mine)
		r.end()
	})
}

// A hundred calls whose time ends at once end then, and leave nothing.
func TestTimeout_Together(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, sluice.Config{}, timeout(t, resilience.TimeoutConfig{Total: time.Second}))
		f := r.tool(sluice.Spec{}, func(context.Context, int) error { time.Sleep(10 * time.Second); return nil })
		done := make(chan time.Duration)
		for range 100 {
			go func() {
				_ = f(r.ctx)
				done <- time.Since(r.start)
			}()
		}
		for range 100 {
			require.Equal(t, time.Second, <-done)
		}
		require.Equal(t, 100, r.Snapshot().Abandoned)
		r.end()
		require.Equal(t, 10*time.Second, time.Since(r.start))
	})
}

// The least of several bounds counts.
func TestTimeout_Nested(t *testing.T) {
	for _, list := range [][2]time.Duration{{time.Second, time.Minute}, {time.Minute, time.Second}} {
		bubble(t, func(t *testing.T) {
			r := newRig(t, sluice.Config{}, timeout(t, resilience.TimeoutConfig{Total: list[0]}), timeout(t, resilience.TimeoutConfig{Total: list[1]}))
			err := r.tool(sluice.Spec{}, func(context.Context, int) error { time.Sleep(time.Hour); return nil })(r.ctx)
			require.Equal(t, time.Second, time.Since(r.start))
			var mine *resilience.TimeoutError
			require.ErrorAs(t, err, &mine)
			require.Equal(t, time.Second, mine.Total)
			r.end()
		})
	}
}

func TestTimeout_Config(t *testing.T) {
	for _, d := range []time.Duration{0, -1} {
		_, err := resilience.NewTimeout(resilience.TimeoutConfig{Total: d})
		require.EqualError(t, err, fmt.Sprintf("resilience: TimeoutConfig.Total is %v: must be positive", d))
	}
}

// The whole call has so much time, however often it is tried.
func ExampleNewTimeout() {
	total := sluice.Must(resilience.NewTimeout(resilience.TimeoutConfig{Total: 50 * time.Millisecond}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{total}}))
	defer exec.Close(context.Background())
	crawl := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "crawl"}, func(ctx context.Context, site string) (string, error) {
		<-ctx.Done()
		return "", context.Cause(ctx)
	}))
	_, err := crawl(context.Background(), "example.org")
	var over *resilience.TimeoutError
	fmt.Println(errors.As(err, &over), errors.Is(err, context.DeadlineExceeded))
	// Output: true true
}
