package resilience_test

import (
	"context"
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
	"github.com/sluice-go/sluice/resilience"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/require"
)

// standard is an executor with the usual layers.
func standard(t *testing.T, c resilience.StandardConfig, sink sluice.EventSink) *sluice.Executor {
	t.Helper()
	conf, err := resilience.Standard(c)
	require.NoError(t, err)
	conf.Sink = sink
	exec, err := sluice.NewExecutor(sluice.NewToolRegistry(), conf)
	require.NoError(t, err)
	return exec
}

func limits(list ...sluice.Limit) *sluice.ConcurrencyLimiter {
	return sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: list}))
}

// queue is a scheduler that lets so many wait.
func queue(most int) *sluice.PriorityScheduler {
	return sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: most}))
}

// either makes a call by Submit or by Invoke.
func either(e *sluice.Executor, submit bool, ctx context.Context, r sluice.Request) (sluice.Result, error) {
	if submit {
		return e.Submit(ctx, r).Wait(context.Background())
	}
	return e.Invoke(ctx, r)
}

// What stands where, with everything and with nothing.
func TestStandard_Order(t *testing.T) {
	var all resilience.StandardConfig
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{MaxKeys: 1}))
	defer state.Close()
	all.Fallback = sluice.Must(resilience.NewFallback(resilience.FallbackConfig{To: "other"}))
	all.Once = sluice.Must(resilience.NewOnce(resilience.OnceConfig{State: state, Key: func(sluice.Call) (string, bool) { return "k", true }}))
	all.Cache, all.Join, all.Hedge = cache(t, resilience.CacheConfig{}), join(t, resilience.JoinConfig{}), sluice.Must(resilience.NewHedge(resilience.HedgeConfig{}))
	all.Gates = []sluice.Interceptor{limits(sluice.Limit{Max: 3})}
	for _, tt := range []struct {
		conf resilience.StandardConfig
		want []string
	}{
		{resilience.StandardConfig{}, []string{"timeout", "retry", "admit[breaker]", "x"}},
		{all, []string{"fallback", "once", "cache", "join", "timeout", "retry", "hedge", "admit[concurrency breaker]", "once inner", "x"}},
	} {
		exec := standard(t, tt.conf, nil)
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x"}, func(context.Context, int) (int, error) { return 1, nil }))
		plan, ok := exec.Plan("x")
		require.True(t, ok)
		require.Equal(t, strings.Join(tt.want, " → "), plan)
		v, err := exec.Invoke(context.Background(), sluice.Request{Tool: "x", Input: 1})
		require.NoError(t, err)
		require.Equal(t, 1, v.Value)
		require.NoError(t, exec.Close(context.Background()))
	}
}

// A wrong field is named, whichever layer it is of.
func TestStandard_Config(t *testing.T) {
	for want, c := range map[string]resilience.StandardConfig{
		"resilience: StandardConfig.Total is -1s: must be zero (3 min) or positive":               {Total: -time.Second},
		"resilience: StandardConfig.Attempt is -1s: must be zero (1 min) or up to Total, 3m0s":    {Attempt: -time.Second},
		"resilience: StandardConfig.Attempt is 1h0m0s: must be zero (1 min) or up to Total, 3m0s": {Attempt: time.Hour},
		"resilience: RetryConfig.Attempts is 101: must be zero (3) or from 1 to 100":              {Retry: resilience.RetryConfig{Attempts: 101}},
	} {
		_, err := resilience.Standard(c)
		require.EqualError(t, err, want)
	}
	_, err := resilience.Standard(resilience.StandardConfig{Breaker: sluice.CircuitBreakerConfig{Ratio: 2}})
	require.ErrorContains(t, err, "CircuitBreakerConfig.Ratio is 2")
	c, err := resilience.Standard(resilience.StandardConfig{Total: 10 * time.Second})
	require.NoError(t, err)
	require.Equal(t, 10*time.Second, c.Timeout, "no longer than the whole")
	gates := make([]sluice.Interceptor, 1, 10)
	gates[0] = limits(sluice.Limit{Max: 1})
	_, err = resilience.Standard(resilience.StandardConfig{Gates: gates})
	require.NoError(t, err)
	require.Nil(t, gates[:2][1], "the list is the user's")
}

// outage is a backend that is down from one instant to another, and what was told of its calls.
type outage struct {
	down, up                            time.Time
	calls, attempts, over, queued, runs atomic.Int64
	refused, answered, wrong            atomic.Int64
}

// emit holds, whenever a call ends, that there were no more attempts so far than 1.2 for each call and the minimum of the
// budget, as that has it. Those that are refused count.
func (x *outage) emit(_ context.Context, e *sluice.Event) error {
	switch e.Kind {
	case sluice.ToolInvoked:
		x.calls.Add(1)
	case sluice.ToolQueued:
		if !strings.HasPrefix(e.By, "breaker") { // else it is a second attempt that comes while a probe is under way
			x.queued.Add(1)
		}
	case sluice.ToolCompleted, sluice.ToolFailed:
		if n := x.attempts.Add(int64(e.Call.Attempt)); 10*n > 12*x.calls.Load()+100 {
			x.over.Add(1)
		}
	}
	return nil
}

func (x *outage) tool(context.Context, int) (int, error) {
	x.runs.Add(1)
	time.Sleep(50 * ms)
	if now := time.Now(); !now.Before(x.down) && now.Before(x.up) {
		return 0, errBoom
	}
	return 1, nil
}

// Of a backend that is down for ten minutes, from the first call on or after five minutes of ten calls a second:
// attempts are no more than 1.1 for each call and the budget's minimum; and whoever comes while the breaker is
// open has its answer from it at once, without a place in the queue. Once the backend is up again so is the tool.
func TestStandard_DeadBackend(t *testing.T) {
	const calls, every = 6000, 100 * ms
	for _, healthy := range []time.Duration{0, 5 * time.Minute} {
		for _, submit := range []bool{false, true} {
			t.Run(fmt.Sprintf("after %v, submit %v", healthy, submit), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					x := &outage{down: time.Now().Add(healthy), up: time.Now().Add(healthy + calls*every)}
					exec := standard(t, resilience.StandardConfig{Gates: []sluice.Interceptor{limits(sluice.Limit{Max: 100})}}, sluice.EventSinkFunc(x.emit))
					sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Hints: readOnly}, x.tool))
					isOpen := func() bool {
						return slices.ContainsFunc(exec.Snapshot().Gates, func(g sluice.GateState) bool {
							return g.Kind == "breaker" && g.Key == "x" && g.State == sluice.BreakerOpen
						})
					}
					var wg sync.WaitGroup
					for i := range int(healthy/every) + calls {
						open := isOpen()
						wg.Go(func() {
							began := time.Now()
							_, err := either(exec, submit, context.Background(), sluice.Request{Tool: "x", Input: i})
							switch took := time.Since(began); {
							case open:
								if x.refused.Add(1); !errors.Is(err, sluice.ErrBreakerOpen) || !errors.Is(err, sluice.ErrRejected) || took != 0 {
									x.wrong.Add(1)
								}
							case err == nil:
								x.answered.Add(1)
							}
						})
						time.Sleep(every)
					}
					wg.Wait()
					t.Logf("%d calls: %d attempts, %d runs, %d refused at once", x.calls.Load(), x.attempts.Load(), x.runs.Load(), x.refused.Load())
					fine := int64(healthy / every)
					require.EqualValues(t, fine+calls, x.calls.Load())
					require.Equal(t, fine, x.answered.Load())
					require.Zero(t, x.over.Load(), "attempts beyond the budget")
					require.LessOrEqual(t, 10*x.attempts.Load(), 11*x.calls.Load()+100, "attempts")
					require.Zero(t, x.queued.Load())
					require.Zero(t, x.wrong.Load(), "calls that an open breaker has not refused at once")
					require.Less(t, x.runs.Load()-fine, int64(50), "until it opens, and probes, each after twice the time, up to two minutes")
					require.Greater(t, x.refused.Load(), int64(calls-100))

					for began := time.Now(); ; time.Sleep(time.Second) {
						if _, err := either(exec, submit, context.Background(), sluice.Request{Tool: "x", Input: 0}); err == nil {
							break
						}
						require.LessOrEqual(t, time.Since(began), 138*time.Second, "the longest time that it is open, and 15 %")
					}
					require.NoError(t, exec.Close(context.Background()))
					n := exec.Snapshot()
					require.Zero(t, n.InFlight+n.Queued+n.Abandoned)
				})
			})
		}
	}
}

// Of attempts that fail by chance, three in ten, six bring 99.9 % of the calls through at less than one and a half
// each, within a budget of a half, and the breaker does not stand in the way: neither of a few calls nor of many.
func TestStandard_TransientFailures(t *testing.T) {
	const seed = 20
	for _, tt := range []struct {
		calls, callers int
		think          time.Duration // between a caller's calls
	}{
		{200_000, 8, 500 * ms}, // by chance 146 of them fail six times; 200 would be four and a half deviations more
		{50_000, 100, 0},
		{20_000, 1, time.Second},
	} {
		t.Run(fmt.Sprintf("seed %d, %d callers", seed, tt.callers), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				faults := sluice.Must(sluicetest.NewFaults(sluicetest.FaultsConfig{Seed: seed, Latency: 50 * ms, Errors: 0.3}))
				exec := standard(t, resilience.StandardConfig{Retry: resilience.RetryConfig{Attempts: 6,
					Budget: sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Share: 0.5}))}}, nil)
				sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Hints: readOnly}, sluicetest.Faulty(faults, func(context.Context, int) (int, error) { return 1, nil })))
				var failed, open atomic.Int64
				var wg sync.WaitGroup
				for g := range tt.callers {
					wg.Go(func() {
						for i := range tt.calls / tt.callers {
							time.Sleep(tt.think)
							if _, err := either(exec, i%2 == g%2, context.Background(), sluice.Request{Tool: "x", Input: i}); err != nil {
								if failed.Add(1); errors.Is(err, sluice.ErrBreakerOpen) {
									open.Add(1)
								}
							}
						}
					})
				}
				wg.Wait()
				each := float64(faults.Counts().Calls) / float64(tt.calls)
				t.Logf("%.3f %% failed, %d calls at an open breaker, %.3f attempts each", 100*float64(failed.Load())/float64(tt.calls), open.Load(), each)
				require.LessOrEqual(t, each, 1.5)
				require.Zero(t, open.Load())
				if most := int64(tt.calls / 1000); tt.calls >= 200_000 {
					require.LessOrEqual(t, failed.Load(), most)
				} else { // too few for that to be more than luck
					require.LessOrEqual(t, failed.Load(), 2*most)
				}
				require.NoError(t, exec.Close(context.Background()))
			})
		})
	}
}

// Through a limit of one come 2,000 submitted calls of twenty producers: each in its turn, and those whose first attempt
// fails once more, in their order, too. Nobody has a goroutine while it waits, in the queue or to be made again.
func TestStandard_SubmitKeepsTheOrder(t *testing.T) {
	const producers, each = 20, 100
	const aFew = 5 // of the runtime's own, say
	for _, tenants := range []int{1, producers} {
		t.Run(fmt.Sprint("tenants ", tenants), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				exec := standard(t, resilience.StandardConfig{Total: time.Hour,
					Gates: []sluice.Interceptor{limits(sluice.Limit{Max: 1}), queue(producers * each)},
					Retry: resilience.RetryConfig{Attempts: 2, Base: time.Minute, Max: time.Minute, Jitter: resilience.NoJitter,
						Budget: sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Min: producers * each}))},
					Breaker: sluice.CircuitBreakerConfig{Failures: 1000},
				}, nil)
				type seat struct{ by, n int }
				var mu sync.Mutex
				var starts [2][]seat // first attempts, and second ones
				seen := map[seat]bool{}
				free := make(chan struct{})
				sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "x", Hints: readOnly, Policy: sluice.Policy{Cooperative: true}}, func(_ context.Context, s seat) (int, error) {
					<-free
					time.Sleep(ms)
					mu.Lock()
					defer mu.Unlock()
					again := seen[s]
					seen[s] = true
					if again {
						starts[1] = append(starts[1], s)
						return 0, nil
					}
					starts[0] = append(starts[0], s)
					if s.n%4 == 0 {
						return 0, errBoom
					}
					return 0, nil
				}))
				ctxs := make([]context.Context, tenants)
				for i := range ctxs {
					ctxs[i] = sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{Tenant: fmt.Sprint(i)})
				}
				go exec.Invoke(context.Background(), sluice.Request{Tool: "x", Input: seat{-1, 1}})
				synctest.Wait()
				routines := goroutines()
				var came []seat
				var calls []*sluice.Future
				var wg sync.WaitGroup
				for p := range producers {
					wg.Go(func() {
						for n := range each {
							mu.Lock()
							s := seat{p, n}
							came = append(came, s)
							calls = append(calls, exec.Submit(ctxs[p%tenants], sluice.Request{Tool: "x", Input: s}))
							mu.Unlock()
							runtime.Gosched()
						}
					})
				}
				wg.Wait()
				synctest.Wait()
				require.Equal(t, producers*each, exec.Snapshot().Queued)
				require.LessOrEqual(t, goroutines(), routines+aFew, "nobody waits on a goroutine")
				close(free)
				time.Sleep(30 * time.Second)
				synctest.Wait()
				mu.Lock()
				first, second := len(starts[0]), len(starts[1])
				mu.Unlock()
				require.Equal(t, producers*each+1, first)
				require.Zero(t, second)
				require.LessOrEqual(t, goroutines(), routines+aFew, "nor to be made again")
				for _, f := range calls {
					_, err := f.Wait(context.Background())
					require.NoError(t, err)
				}
				mu.Lock()
				defer mu.Unlock()
				require.Len(t, starts[1], producers*each/4)

				for tenant := range tenants { // whose calls are in order; among tenants they take turns
					of := func(list []seat, some func(s seat) bool) (out []seat) {
						for _, s := range list {
							if s.by >= 0 && s.by%tenants == tenant && some(s) {
								out = append(out, s)
							}
						}
						return out
					}
					all := func(seat) bool { return true }
					require.True(t, slices.Equal(of(came, all), of(starts[0], all)), "first attempts of tenant %d", tenant)
					require.True(t, slices.Equal(of(came, func(s seat) bool { return s.n%4 == 0 }), of(starts[1], all)), "second attempts of tenant %d", tenant)
				}
				if tenants > 1 {
					for n := 1; n+tenants <= len(starts[0]); n += tenants { // each once in each round
						round := slices.Clone(starts[0][n : n+tenants])
						slices.SortFunc(round, func(a, b seat) int { return a.by - b.by })
						for i, s := range round {
							require.Equal(t, i, s.by)
						}
					}
				}
				require.NoError(t, exec.Close(context.Background()))
			})
		})
	}
}

// goroutines is how many there are, as far as they do not end soon.
func goroutines() int {
	least := runtime.NumGoroutine()
	for range 1000 {
		runtime.Gosched()
		least = min(least, runtime.NumGoroutine())
	}
	return least
}

// One line for a total time, retries of what is safe to repeat, an attempt's time, and a breaker for each tool.
func ExampleStandard() {
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Must(resilience.Standard(resilience.StandardConfig{
		Retry: resilience.RetryConfig{Base: time.Millisecond},
	}))))
	defer exec.Close(context.Background())
	fails := 1
	weather := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "weather", Hints: sluice.Hints{ReadOnly: true}},
		func(_ context.Context, city string) (string, error) {
			if fails--; fails >= 0 {
				return "", errors.New("connection reset")
			}
			return city + ": sunny", nil
		}))
	fmt.Println(weather(context.Background(), "Oslo"))
	plan, _ := exec.Plan("weather")
	fmt.Println(plan)
	// Output:
	// Oslo: sunny <nil>
	// timeout → retry → admit[breaker] → weather
}
