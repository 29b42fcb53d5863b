package agent

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice"
)

// Steps of a usage change no map that somebody has, and never overflow or fall below zero.
func TestUsage_Steps(t *testing.T) {
	limit := &Usage{Calls: 2, Tools: map[string]int{"a": 1}, Time: 10, Bytes: 10, Units: map[string]int64{"x": 10}}
	none := Usage{}
	one, over := none.take(limit, "a")
	require.Nil(t, over)
	two, over := one.take(limit, "b")
	require.Nil(t, over)
	_, over = one.take(limit, "a")
	require.Equal(t, &UsageLimitError{Limit: "tools", Name: "a", Max: 1}, over)
	_, over = two.take(limit, "a")
	require.Equal(t, "calls", over.Limit, "what concerns all tools comes first")
	more := two.settle(limit, Usage{Time: 3, Bytes: 4, Units: map[string]int64{"x": 5, "y": 6}})
	again := more.settle(limit, Usage{Time: math.MaxInt64, Bytes: -1, Units: map[string]int64{"x": math.MaxInt64}})
	require.Equal(t, Usage{}, none)
	require.Equal(t, Usage{Calls: 1, Tools: map[string]int{"a": 1}}, one)
	require.Equal(t, Usage{Calls: 2, Tools: map[string]int{"a": 1}}, two)
	require.Equal(t, Usage{Calls: 2, Tools: map[string]int{"a": 1}, Time: 3, Bytes: 4, Units: map[string]int64{"x": 5}}, more)
	require.Equal(t, Usage{Calls: 2, Tools: map[string]int{"a": 1}, Time: math.MaxInt64, Bytes: 4, Units: map[string]int64{"x": math.MaxInt64}}, again)
	require.Equal(t, Usage{Calls: 1, Tools: map[string]int{"a": 0}}, two.give(limit, "a"))
	require.Equal(t, Usage{Tools: map[string]int{"a": 0}}, none.give(limit, "a"))
	require.Equal(t, Usage{Calls: 2, Tools: map[string]int{"a": 1}}, two, "and nothing has changed it since")
}

// However calls end, a run remembers none that is over, and its loops no more than their window.
func TestRun_KeepsNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	limits := sluice.Must(NewUsageLimits(UsageLimitsConfig{Run: Usage{Calls: 500, Tools: map[string]int{"panics": 20}}}))
	loops := sluice.Must(NewLoops(LoopsConfig{Window: 10}))
	gate := sluice.Must(sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: 2}}}))
	queue := sluice.Must(sluice.NewPriorityScheduler(sluice.PrioritySchedulerConfig{MaxQueue: 20}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: []sluice.Interceptor{limits, loops, gate, queue}}))
	for name, f := range map[string]func(context.Context, int) (int, error){
		"works":  func(_ context.Context, n int) (int, error) { return n, nil },
		"panics": func(context.Context, int) (int, error) { panic("no") },
		"exits":  func(context.Context, int) (int, error) { runtime.Goexit(); return 0, nil },
		"fails":  func(context.Context, int) (int, error) { return 0, fmt.Errorf("no") },
		"nests": func(ctx context.Context, n int) (int, error) {
			_, err := exec.Invoke(ctx, sluice.Request{Tool: "works", Input: n})
			return n, err
		},
	} {
		sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: name}, f))
	}
	ctx := WithRun(context.Background())
	part := WithRun(ctx)
	var all sync.WaitGroup
	for range 1000 {
		ctx, tool, n, leaves := []context.Context{ctx, part}[rnd.IntN(2)], []string{"works", "panics", "exits", "fails", "nests", "unknown"}[rnd.IntN(6)], rnd.IntN(50), rnd.IntN(4) == 0
		all.Go(func() {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			if leaves {
				go cancel()
			}
			_, _ = exec.Invoke(ctx, sluice.Request{Tool: tool, Input: n})
		})
	}
	all.Wait()
	require.NoError(t, exec.Close(t.Context()))
	for _, ctx := range []context.Context{ctx, part} {
		r := ctx.Value(runKey{}).(*run)
		require.Empty(t, r.open)
		require.Len(t, r.used, 1)
		require.LessOrEqual(t, r.used[limits].Calls, 500)
		require.Len(t, r.past[loops].list, 10)
	}
}
