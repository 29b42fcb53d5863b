package sluice

import (
	"context"
	"fmt"
	"testing"
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
		if _, err := x(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	var units []any
	e.registry.current().tools["x"].shared.learned.Range(func(unit, _ any) bool { units = append(units, unit); return true })
	if fmt.Sprint(units) != "[tokens]" {
		t.Errorf("%d units are remembered, want that of the rate: %.80v", len(units), units)
	}
	if err := e.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
