package resilience_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/resilience"
	"github.com/sluice-go/sluice/sluicetest"
	"github.com/stretchr/testify/require"
)

// stormSeed is SLUICE_SEED, or another each time. A test that fails prints it.
func stormSeed(t *testing.T) uint64 {
	seed, err := strconv.ParseUint(os.Getenv("SLUICE_SEED"), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("SLUICE_SEED=%d", seed)
	return seed
}

// tally counts calls and their attempts, and holds at each attempt that there are not too many.
type tally struct {
	t               *testing.T
	share           float64
	min             int64
	calls, attempts atomic.Int64
	over            atomic.Int64 // attempts beyond the bound
}

// outside counts calls, and inside attempts, those among them that are refused too.
func (n *tally) outside(_ sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		n.calls.Add(1)
		return next(ctx, c)
	}
}

func (n *tally) inside(_ sluice.Spec, next sluice.Handler) sluice.Handler {
	return func(ctx context.Context, c sluice.Call) (sluice.Result, error) {
		if a := n.attempts.Add(1); a > n.most(n.calls.Load()) {
			n.over.Add(1)
		}
		return next(ctx, c)
	}
}

// most is how many attempts so many calls may make.
func (n *tally) most(calls int64) int64 { return calls + int64(n.share*float64(calls)) + n.min }

// Everything fails now and then, and much of the time: calls by Invoke and Submit, of tools that heed their time and that
// do not, some of whose callers leave, of two executors that share one budget. Attempts are at no instant more than the
// calls, their share, and the minimum; most of what there is is used; and in the end nothing is left.
func TestStorm_AttemptsStayWithinTheBudget(t *testing.T) {
	seed := stormSeed(t)
	for _, share := range []float64{0.1, 0.5} {
		for round := range uint64(3) {
			t.Run(fmt.Sprintf("virtual clock, share %v, seed %d", share, seed+round), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					retryStorm(t, share, seed+round, 50*ms, resilience.RetryConfig{Attempts: 6, Base: 100 * ms, Jitter: resilience.Jitter(round)})
				})
			})
			t.Run(fmt.Sprintf("clock, share %v, seed %d", share, seed+round), func(t *testing.T) {
				retryStorm(t, share, seed+round, 0, resilience.RetryConfig{Attempts: 6, Base: time.Microsecond, Max: 100 * time.Microsecond})
			})
		}
	}
}

func retryStorm(t *testing.T, share float64, seed uint64, latency time.Duration, conf resilience.RetryConfig) {
	const callers, each = 32, 40
	n := &tally{t: t, share: share, min: 10}
	conf.Budget = sluice.Must(resilience.NewBudget(resilience.BudgetConfig{Share: share, Min: int(n.min)}))
	fc := sluicetest.FaultsConfig{Seed: seed, Latency: latency, Errors: 0.4, Lost: 0.1, Panics: 0.05, Exits: 0.05}
	if latency > 0 { // these take their time
		fc.Throttles, fc.Hangs, fc.RetryAfter = 0.02, 0.1, 200*ms
	}
	faults := sluice.Must(sluicetest.NewFaults(fc))
	var execs []*sluice.Executor
	var recs []*sluice.Recorder
	for range 2 {
		limit := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 8}, {Max: 2, Scope: sluice.ForTool("refuses"), Refuse: true}}}))
		pc, rec := sluice.NewTestPipelineContext()
		require.NoError(t, pc.State.Close())
		exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Sink: rec, Timeout: time.Second, Interceptors: []sluice.Interceptor{
			sluice.InterceptorFunc(n.outside), retry(t, conf), sluice.InterceptorFunc(n.inside), limit,
		}}))
		for name, p := range map[string]sluice.Policy{"x": {}, "cooperative": {Cooperative: true}, "refuses": {}, "hurries": {MaxWait: 10 * ms}} {
			sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: name, Hints: readOnly, Policy: p},
				sluicetest.Faulty(faults, func(context.Context, int) (int, error) { return 0, nil })))
		}
		execs, recs = append(execs, exec), append(recs, rec)
	}
	var wg sync.WaitGroup
	var left atomic.Int64
	for g := range callers {
		rnd := rand.New(rand.NewPCG(seed, uint64(g)))
		wg.Go(func() {
			for i := range each {
				ctx, cancel := context.WithCancel(context.Background())
				if rnd.IntN(10) == 0 {
					left.Add(1)
					time.AfterFunc(time.Duration(rnd.Int64N(int64(latency)*20+1000)), cancel)
				}
				exec := execs[rnd.IntN(2)]
				req := sluice.Request{Tool: []string{"x", "cooperative", "refuses", "hurries"}[rnd.IntN(4)], Input: i}
				f := make(chan struct{})
				if rnd.IntN(2) == 0 {
					_, _ = exec.Submit(ctx, req).Wait(context.Background())
				} else {
					go func() { // which a tool may end
						defer close(f)
						_, _ = exec.Invoke(ctx, req)
					}()
					<-f
				}
				cancel()
			}
		})
	}
	wg.Wait()
	calls := n.calls.Load()
	require.LessOrEqual(t, calls, int64(callers*each))
	require.GreaterOrEqual(t, calls+left.Load(), int64(callers*each), "all come this far whose callers have not left before")
	require.Zero(t, n.over.Load(), "attempts beyond the bound")
	require.LessOrEqual(t, n.attempts.Load(), n.most(calls))
	require.LessOrEqual(t, int64(faults.Counts().Calls), n.attempts.Load())
	require.GreaterOrEqual(t, n.attempts.Load()+left.Load(), n.most(calls)-20, "retries are made: %d attempts of %d calls", n.attempts.Load(), calls)
	for i, exec := range execs {
		require.NoError(t, exec.Close(context.Background()))
		require.NoError(t, recs[i].Check())
		s := exec.Snapshot()
		require.Zero(t, s.InFlight+s.Queued+s.Abandoned)
	}
}
