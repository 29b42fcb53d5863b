package resilience

import (
	"math"
	"math/rand/v2"
	"slices"
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
		"resilience: BudgetConfig.Share is 11: must be zero (0.2) or from 0 to 10; 11 % is 0.11":          {Share: 11},
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

func TestRecent_Quantile(t *testing.T) {
	count := func(from, to int) (list []time.Duration) {
		for i := from; i <= to; i++ {
			list = append(list, time.Duration(i))
		}
		return list
	}
	back := count(1, 100)
	slices.Reverse(back)
	for _, tt := range []struct {
		name string
		came []time.Duration
		q    float64
		want time.Duration // zero: not enough is known
	}{
		{"none", nil, 0.5, 0},
		{"not enough", count(1, 19), 0.5, 0},
		{"enough", count(1, 20), 0.5, 10},
		{"the last but one", count(1, 20), 0.95, 19},
		{"rounded up", count(1, 21), 0.95, 20},
		{"not enough for so rare a one", count(1, 99), 0.99, 0},
		{"enough for that", count(1, 100), 0.99, 99},
		{"in any order", back, 0.9, 90},
		{"the oldest are forgotten", count(1, 1000), 0.5, 872 + 64},
		{"all the same", slices.Repeat([]time.Duration{7}, 300), 0.95, 7},
		{"all the same now", append(count(1, 200), slices.Repeat([]time.Duration{7}, 128)...), 0.99, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r recent
			for _, d := range tt.came {
				r.add(d)
			}
			d, ok := r.quantile(tt.q)
			require.Equal(t, tt.want, d)
			require.Equal(t, tt.want > 0, ok)
		})
	}
}

// At random, against a sorted copy of the last ones.
func TestRecent_Random(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var r recent
	var all []time.Duration
	for range 3000 {
		d := time.Duration(rnd.IntN(50))
		r.add(d)
		all = append(all, d)
		last := slices.Sorted(slices.Values(all[max(0, len(all)-recentMany):]))
		require.Equal(t, last, r.ordered)
		q := 0.5 + rnd.Float64()*0.49
		if got, ok := r.quantile(q); ok {
			require.Equal(t, last[int(math.Ceil(float64(len(last))*q-1e-9))-1], got)
			over := 0
			for _, x := range last {
				if x > got {
					over++
				}
			}
			require.LessOrEqual(t, float64(over), float64(len(last))*(1-q)+1e-6)
		}
	}
}

// What is hedged counts with what it had taken until it was overtaken: so one call in ten is hedged for good, and not
// more and more.
func TestRecent_DoesNotDrift(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	took := func() time.Duration { return time.Duration(rnd.ExpFloat64() * float64(100*time.Millisecond)) }
	var r recent
	hedged := 0
	for i := range 20_000 {
		first, after := took(), time.Hour
		if d, ok := r.quantile(0.9); ok {
			after = d
		}
		if first > after {
			second := after + took()
			if first = min(first, second); i >= 10_000 {
				hedged++
			}
		}
		r.add(first)
	}
	require.InDelta(t, 1000, hedged, 150)
}
