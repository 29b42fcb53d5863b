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
		ReportUsage(ctx, fmt.Sprint("unit-", i), 1)
		ReportUsage(ctx, "tokens", 1)
		return 0, nil
	}))
	for i := range 2000 {
		_, err := x(t.Context(), i)
		require.NoError(t, err)
	}
	var units []any
	e.registry.current().tools["x"].shared.learned.Range(func(unit, _ any) bool { units = append(units, unit); return true })
	assert.Equal(t, "[tokens]", fmt.Sprint(units),
		"%d units are remembered, want that of the rate: %.80v", len(units), units)
	assert.NoError(t, e.Close(t.Context()))
}
