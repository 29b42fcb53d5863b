package resilience

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const ms = time.Millisecond

// The least and the most that each jitter makes of each wait.
func TestBackoff(t *testing.T) {
	for _, tt := range []struct {
		jitter      Jitter
		n           int
		last, floor time.Duration
		least, most time.Duration
	}{
		{NoJitter, 1, 0, 0, 100 * ms, 100 * ms},
		{NoJitter, 2, 100 * ms, 0, 200 * ms, 200 * ms},
		{NoJitter, 5, 800 * ms, 0, 1000 * ms, 1000 * ms},
		{NoJitter, math.MaxInt, 1000 * ms, 0, 1000 * ms, 1000 * ms},
		{NoJitter, 1, 0, 5000 * ms, 5000 * ms, 5000 * ms},
		{FullJitter, 1, 0, 0, 0, 100 * ms},
		{FullJitter, 3, 0, 0, 0, 400 * ms},
		{FullJitter, 9, 0, 0, 0, 1000 * ms},
		{FullJitter, 3, 0, 150 * ms, 150 * ms, 400 * ms},
		{FullJitter, 1, 0, 150 * ms, 150 * ms, 150 * ms},
		{EqualJitter, 1, 0, 0, 50 * ms, 100 * ms},
		{EqualJitter, 9, 0, 0, 500 * ms, 1000 * ms},
		{DecorrelatedJitter, 1, 0, 0, 100 * ms, 300 * ms},
		{DecorrelatedJitter, 2, 250 * ms, 0, 100 * ms, 750 * ms},
		{DecorrelatedJitter, 3, 334 * ms, 0, 100 * ms, 1000 * ms},
		{DecorrelatedJitter, 3, 1000 * ms, 0, 100 * ms, 1000 * ms},
	} {
		b := backoff{100 * ms, 1000 * ms, tt.jitter}
		require.Equal(t, tt.least, b.wait(tt.n, tt.last, tt.floor, 0), "%+v", tt)
		require.Equal(t, tt.most, b.wait(tt.n, tt.last, tt.floor, math.MaxUint64), "%+v", tt)
	}
}

// Whatever the settings, a wait is neither negative nor longer than the longest, or what was asked for.
func TestBackoff_Extremes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		b := backoff{1 + time.Duration(r.Int64()>>r.IntN(63)), 0, Jitter(r.IntN(4))}
		b.most = b.base + time.Duration(r.Int64N(math.MaxInt64-int64(b.base)+1))
		last, floor := time.Duration(r.Int64N(int64(b.most)+1)), time.Duration(r.Int64()>>r.IntN(63))
		d := b.wait(1+r.IntN(100), last, floor, r.Uint64())
		require.GreaterOrEqual(t, d, floor)
		require.LessOrEqual(t, d, max(b.most, floor), "%+v", b)
	}
}

// A full jitter is as likely in each tenth.
func TestBackoff_FullJitterIsEven(t *testing.T) {
	b, r := backoff{1000, 1000, FullJitter}, rand.New(rand.NewPCG(3, 4))
	var tenths [11]int
	for range 100_000 {
		tenths[b.wait(1, 0, 0, r.Uint64())/100]++
	}
	for _, n := range tenths[:10] {
		require.InDelta(t, 10_000, n, 600)
	}
}

// What is spent is never more than what there was and the share of what came in.
func TestBudget(t *testing.T) {
	b, err := NewBudget(BudgetConfig{Share: 0.5, Min: 2, Max: 3})
	require.NoError(t, err)
	require.True(t, b.spend())
	require.True(t, b.spend())
	require.False(t, b.spend())
	b.earn()
	require.False(t, b.spend())
	b.earn()
	require.EqualValues(t, 1, b.left())
	require.True(t, b.spend())
	require.False(t, b.spend())
	for range 100 {
		b.earn()
	}
	require.EqualValues(t, 3, b.left(), "no more is saved up")
}

// Who spends and earns at once neither makes nor loses an attempt.
func TestBudget_AtOnce(t *testing.T) {
	const goroutines, each = 8, 400_000
	b, err := NewBudget(BudgetConfig{Share: 0.5, Min: 1, Max: maxBudget})
	require.NoError(t, err)
	var spent atomic.Int64
	var wg sync.WaitGroup
	start := make(chan struct{})
	for range goroutines {
		wg.Go(func() {
			<-start
			for range each {
				b.earn()
				if b.spend() {
					spent.Add(1)
				}
			}
		})
	}
	close(start)
	wg.Wait()
	for b.spend() {
		spent.Add(1)
	}
	require.EqualValues(t, 1+goroutines*each/2, spent.Load())
}

func TestBudget_Config(t *testing.T) {
	for want, c := range map[string]BudgetConfig{
		"resilience: BudgetConfig.Share is -1: must be zero (0.2) or from 0 to 10":                        {Share: -1},
		"resilience: BudgetConfig.Share is NaN: must be zero (0.2) or from 0 to 10":                       {Share: math.NaN()},
		"resilience: BudgetConfig.Share is 11: must be zero (0.2) or from 0 to 10":                        {Share: 11},
		"resilience: BudgetConfig.Min is -1: must be zero (10) or up to 1073741824":                       {Min: -1},
		"resilience: BudgetConfig.Max is 3: must be zero (ten times Min) or from Min, 10, to 1073741824":  {Max: 3},
		"resilience: BudgetConfig.Max is -3: must be zero (ten times Min) or from Min, 10, to 1073741824": {Max: -3},
	} {
		_, err := NewBudget(c)
		require.EqualError(t, err, want)
	}
	b, err := NewBudget(BudgetConfig{})
	require.NoError(t, err)
	require.EqualValues(t, 10, b.left())
	for range 1000 {
		b.earn()
	}
	require.EqualValues(t, 100, b.left())
}
