package promises_test

import (
	"context"
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
