package sluice

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A limiter's change of MaxKeys reaches what its keys are counted in, of a keyed scope only.
func TestReconfigure_MaxKeysReachesWhatCountsTheKeys(t *testing.T) {
	conf := func(n int) ConcurrencyLimiterConfig {
		return ConcurrencyLimiterConfig{Limits: []Limit{{Max: 1, Scope: ByTenant, MaxKeys: n}, {Max: 1, MaxKeys: n}}}
	}
	l := Must(NewConcurrencyLimiter(conf(7)))
	q := Must(NewRateLimiter(RateLimiterConfig{Scope: ByTenant, MaxKeys: 7, Rates: []Rate{{N: 1}}}))
	b := Must(NewCircuitBreaker(CircuitBreakerConfig{Scope: ByTenant, MaxKeys: 7}))
	qc, bc := q.Config(), b.Config()
	qc.MaxKeys, bc.MaxKeys = 11, 11
	require.NoError(t, Reconfigure("me", l.Change(conf(11)), q.Change(qc), b.Change(bc)))
	for name, tt := range map[string][2]int{
		"limiter":        {l.core.limits[0].Class.MaxKeys, 11},
		"limiter global": {l.core.limits[1].Class.MaxKeys, 0},
		"rate":           {q.core.limits[0].Class.MaxKeys, 11},
		"breaker":        {b.core.limits[0].Class.MaxKeys, 11},
	} {
		assert.Equal(t, tt[1], tt[0], "%s: keys", name)
	}
}
