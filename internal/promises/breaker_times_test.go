package promises_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// By default half of five results open a breaker, for five seconds, then for twice as long each time, up to
// two minutes, until it has recovered.
func TestBreaker_Defaults(t *testing.T) {
	byDefault := breakerOf(sluice.CircuitBreakerConfig{})
	c := byDefault.Config()
	assert.Equal(t, 0.5, c.Ratio)
	assert.Equal(t, 5, c.MinCalls)
	assert.Equal(t, 30*time.Second, c.Window)
	assert.Zero(t, c.Failures)
	assert.Equal(t, 5*time.Second, c.Cooldown)
	for name, own := range map[string]bool{"breaker": false, "tool/x breaker": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var conf sluice.Config
				var spec sluice.Spec
				if spec.Name = "x"; own {
					spec.Policy.Breaker = &sluice.BreakerPolicy{}
				} else {
					conf.Interceptors = interceptors(breakerOf(sluice.CircuitBreakerConfig{}))
				}
				r := newRig(t, conf)
				defer r.end()
				var answer error
				r.tool(spec, func(context.Context) error { return answer })
				calls := func(n int, err error) {
					t.Helper()
					answer = err
					for range n {
						require.Equal(t, err, r.call("x"))
					}
				}
				refused := func(after time.Duration) { t.Helper(); wantRefusal(t, r.call("x"), sluice.ErrBreakerOpen, name, after) }
				calls(5, nil)
				calls(4, errTool)
				calls(1, nil) // of ten, four have failed
				time.Sleep(30 * time.Second)
				calls(4, errTool)
				calls(1, errTool) // five of five
				for _, d := range []time.Duration{5, 10, 20, 40, 80, 120, 120} {
					refused(d * time.Second)
					time.Sleep(d*time.Second - 1)
					refused(1)
					time.Sleep(1)
					calls(1, errTool) // the probe
				}
				time.Sleep(2 * time.Minute)
				calls(1, nil)
				time.Sleep(5 * time.Second) // it has recovered
				calls(4, nil)               // and has begun to count when it closed
				calls(3, errTool)
				calls(1, errTool)
				refused(5 * time.Second)
			})
		})
	}
}

// Breakers that open together do not all try again together: each is open for up to 15 % more or less, another
// time each. In a bubble they are open for exactly so long.
func TestBreaker_OpenTimesDiffer(t *testing.T) {
	const n = 200
	open := func(t *testing.T) (times []time.Duration) {
		r := newRig(t, sluice.Config{Interceptors: interceptors(breakerOf(sluice.CircuitBreakerConfig{Failures: 1, Cooldown: 100 * time.Hour}))})
		defer r.end()
		for i := range n {
			name := fmt.Sprint("tool", i)
			r.tool(sluice.Spec{Name: name}, func(context.Context) error { return errTool })
			require.Equal(t, errTool, r.call(name))
			var e *sluice.Error
			require.ErrorAs(t, r.call(name), &e)
			require.ErrorIs(t, e, sluice.ErrBreakerOpen)
			times = append(times, e.RetryAfter)
		}
		slices.Sort(times)
		return times
	}
	bubble(t, func(t *testing.T) {
		times := open(t)
		require.Equal(t, slices.Repeat([]time.Duration{100 * time.Hour}, n), times)
	})
	one, other := open(t), open(t)
	for _, times := range [][]time.Duration{one, other} {
		require.Len(t, slices.Compact(times), n, "each its own")
		first, last := times[0], times[n-1]
		require.Greater(t, first, 84*time.Hour) // some time has passed since it opened
		require.Less(t, first, 90*time.Hour)
		require.Greater(t, last, 110*time.Hour)
		require.LessOrEqual(t, last, 115*time.Hour)
	}
	require.NotEqual(t, one, other, "two processes, or executors, differ")
}
