package resilience_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/stretchr/testify/require"
)

// timed is a hundred calls whose time is over: how the tool ends, and what it does about its context.
type timed struct {
	name    string
	attempt time.Duration // its time
	total   time.Duration // of the call
	coop    bool
	heeds   bool
	late    time.Duration // when code has ended that does not heed
}

var timeds = []timed{
	{name: "of attempts, ignored", attempt: time.Second, late: 10 * time.Second},
	{name: "of attempts, heeded", attempt: time.Second, heeds: true},
	{name: "of attempts, cooperative", attempt: time.Second, coop: true, heeds: true},
	{name: "of calls, ignored", total: time.Second, late: 10 * time.Second},
	{name: "of calls, heeded", total: time.Second, heeds: true},
	{name: "of calls, cooperative", total: time.Second, coop: true, heeds: true},
}

// A hundred timeouts at once fire at their time, each call is told so, and when the code has ended nothing is left of it.
func TestTimeouts_AHundredAtOnce(t *testing.T) {
	for _, tt := range timeds {
		for _, apart := range []time.Duration{0, 7 * ms} { // the same time for all, or each its own
			t.Run(fmt.Sprint(tt.name, ", ", apart, " apart"), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					const calls = 100
					var layers []sluice.Interceptor
					if tt.total > 0 {
						for i := range calls {
							layers = append(layers, timeout(t, resilience.TimeoutConfig{Total: tt.total + time.Duration(i)*apart,
								Tools: func(s sluice.Spec) bool { return s.Name == fmt.Sprint("x", i) }}))
						}
					}
					limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: calls}}}))
					r := newRig(t, sluice.Config{Interceptors: []sluice.Interceptor{limit}}, layers...)
					var inside, cleaned atomic.Int64
					for i := range calls {
						p := sluice.Policy{Cooperative: tt.coop}
						if tt.attempt > 0 {
							p.Timeout = tt.attempt + time.Duration(i)*apart
						}
						sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: fmt.Sprint("x", i), Policy: p}, func(ctx context.Context, _ int) (int, error) {
							inside.Add(1)
							defer cleaned.Add(1)
							defer inside.Add(-1)
							if tt.heeds {
								<-ctx.Done()
								return 0, ctx.Err()
							}
							time.Sleep(tt.late)
							return 1, nil
						}))
					}
					sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "next"}, func(context.Context, int) (int, error) { return 0, nil }))
					var wg sync.WaitGroup
					ends, errs := make([]time.Duration, calls), make([]error, calls)
					for i := range calls {
						req := sluice.Request{Tool: fmt.Sprint("x", i), Input: i}
						if i%2 == 0 {
							f := r.Submit(r.ctx, req)
							wg.Go(func() {
								_, errs[i] = f.Wait(context.Background())
								ends[i] = time.Since(r.start)
							})
							continue
						}
						wg.Go(func() {
							_, errs[i] = r.Invoke(r.ctx, req)
							ends[i] = time.Since(r.start)
						})
					}
					wg.Wait()
					for i := range calls {
						require.Equal(t, time.Second+time.Duration(i)*apart, ends[i], "%d", i)
						require.Equal(t, "timeout", sluice.CodeOf(errs[i]), "%d: %v", i, errs[i])
						require.ErrorIs(t, errs[i], context.DeadlineExceeded)
						require.NotErrorIs(t, errs[i], sluice.ErrRejected)
						var mine *resilience.TimeoutError
						if tt.total > 0 {
							require.ErrorAs(t, errs[i], &mine)
							require.Equal(t, ends[i], mine.Total)
						} else {
							require.NotErrorAs(t, errs[i], &mine)
						}
					}
					synctest.Wait()
					if !tt.heeds { // limits tell the truth: who goes on has its slot
						require.EqualValues(t, calls, inside.Load())
						require.Equal(t, calls, r.Snapshot().Abandoned)
						_, err := r.Invoke(r.ctx, sluice.Request{Tool: "next", Input: 0})
						require.NoError(t, err)
						require.Equal(t, tt.late, time.Since(r.start), "it waited for the first slot")
					}
					require.NoError(t, r.Close(context.Background()))
					require.Equal(t, max(ends[calls-1], tt.late), time.Since(r.start))
					require.Zero(t, inside.Load())
					require.EqualValues(t, calls, cleaned.Load())
					for _, g := range r.Snapshot().Gates {
						require.Zero(t, g.Used, g.Name)
					}
					r.end()
				})
			})
		}
	}
}

// Whatever ends a call, what the tool has deferred runs, once, before Close returns.
func TestTimeouts_CleanupAlwaysRuns(t *testing.T) {
	for name, code := range map[string]func(ctx context.Context) error{
		"it ignores its context": func(context.Context) error { time.Sleep(time.Minute); return nil },
		"it heeds its context":   func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"it panics":              func(context.Context) error { time.Sleep(time.Second / 2); panic(errBoom) },
		"it panics too late":     func(context.Context) error { time.Sleep(time.Minute); panic(errBoom) },
		"it exits":               func(context.Context) error { runtime.Goexit(); return nil },
		"it exits too late":      func(context.Context) error { time.Sleep(time.Minute); runtime.Goexit(); return nil },
		"it fails":               func(context.Context) error { return errBoom },
	} {
		for _, attempt := range []time.Duration{0, time.Second} {
			t.Run(fmt.Sprint(name, ", ", attempt), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := newRig(t, sluice.Config{Timeout: attempt}, append(usualStack(t), timeout(t, resilience.TimeoutConfig{Name: "inner", Total: 2 * time.Second}))...)
					var begun, cleaned atomic.Int64
					sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "x", Hints: readOnly}, func(ctx context.Context, _ int) (string, error) {
						begun.Add(1)
						defer cleaned.Add(1)
						return "", code(ctx)
					}))
					for i := range 100 {
						ctx := r.ctx
						if i%3 == 0 {
							leaves, cancel := context.WithCancel(ctx)
							time.AfterFunc(100*ms, cancel)
							ctx = leaves
						}
						r.Submit(ctx, sluice.Request{Tool: "x", Input: i})
					}
					synctest.Wait()
					require.NoError(t, r.Close(context.Background()))
					require.GreaterOrEqual(t, begun.Load(), int64(100))
					require.Equal(t, begun.Load(), cleaned.Load())
					r.end()
				})
			})
		}
	}
}

// What a tool has reported of its result reaches the caller beside the error, whatever layers stand between and whoever's
// time it is.
func TestTimeouts_PartialResultsSurvive(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy sluice.Policy
		layers func(t *testing.T) []sluice.Interceptor
		at     time.Duration
	}{
		{"of an attempt", sluice.Policy{Timeout: 2500 * ms}, func(*testing.T) []sluice.Interceptor { return nil }, 2500 * ms},
		{"of an attempt, within layers", sluice.Policy{Timeout: 2500 * ms}, func(t *testing.T) []sluice.Interceptor { return usualStack(t)[1:] }, 2600 * ms}, // with the wait after which its code still runs
		{"of the call", sluice.Policy{}, func(t *testing.T) []sluice.Interceptor {
			return one(timeout(t, resilience.TimeoutConfig{Total: 2500 * ms}))
		}, 2500 * ms},
		{"of the call, within layers", sluice.Policy{}, func(t *testing.T) []sluice.Interceptor {
			return append(usualStack(t)[1:3], timeout(t, resilience.TimeoutConfig{Total: 2500 * ms}), retry(t, resilience.RetryConfig{}))
		}, 2500 * ms},
		{"of the last of several attempts", sluice.Policy{Timeout: 2500 * ms, Cooperative: true}, func(t *testing.T) []sluice.Interceptor {
			return one(retry(t, resilience.RetryConfig{Attempts: 2}))
		}, 5100 * ms},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, sluice.Config{}, tt.layers(t)...)
				f := sluice.Must(sluice.Wrap(r.Executor, sluice.Spec{Name: "x", Hints: readOnly, Policy: tt.policy}, func(ctx context.Context, _ int) ([]int, error) {
					var list []int
					for n := range 5 {
						list = append(list[:n:n], n)
						sluice.ReportPartial(ctx, list)
						select {
						case <-ctx.Done():
							if tt.policy.Cooperative {
								return nil, ctx.Err()
							}
							time.Sleep(time.Second)
						case <-time.After(time.Second):
						}
					}
					return list, nil
				}))
				res, err := r.Invoke(r.ctx, sluice.Request{Tool: "x", Input: 1})
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Nil(t, res.Value)
				require.Equal(t, []int{0, 1, 2}, res.Partial())
				require.Equal(t, tt.at, time.Since(r.start))
				res, err = r.Submit(r.ctx, sluice.Request{Tool: "x", Input: 2}).Wait(context.Background())
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Equal(t, []int{0, 1, 2}, res.Partial())
				list, err := f(r.ctx, 3)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.Equal(t, []int{0, 1, 2}, list)
				r.end()
			})
		})
	}
}
