package sluice

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What calls say they used of units that no rate counts is kept for nobody.
func TestUnitsThatNoRateCountsAreForgotten(t *testing.T) {
	e := Must(NewExecutor(NewToolRegistry(), Config{Interceptors: []Interceptor{Must(NewRateLimiter(RateLimiterConfig{Rates: []Rate{{N: 1e6, Unit: "tokens"}}}))}}))
	x := Must(Wrap(e, Spec{Name: "x"}, func(ctx context.Context, i int) (int, error) {
		ReportUsage(ctx, fmt.Sprint("unit-", i), 7)
		ReportUsage(ctx, "tokens", 7)
		return 0, nil
	}))
	for i := range 2000 {
		_, err := x(t.Context(), i)
		require.NoError(t, err)
	}
	learned := &e.registry.current()["x"].shared.learned
	assert.Equal(t, int64(7), learned.Estimate("tokens"), "of the unit of the rate")
	for i := range 2000 {
		require.Equal(t, int64(1), learned.Estimate(fmt.Sprint("unit-", i)), "of one that nothing counts")
	}
	assert.NoError(t, e.Close(t.Context()))
}
