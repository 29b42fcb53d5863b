package sluice

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestCallsPerRoot_StayInRange: nested calls that are refused because there were too many
// do not count, so that the count cannot run over however many there are.
func TestCallsPerRoot_StayInRange(t *testing.T) {
	exec := Must(NewExecutor(NewToolRegistry(), Config{MaxCallsPerRoot: 3}))
	inner := Must(Wrap(exec, Spec{Name: "inner"}, func(_ context.Context, n int) (int, error) { return n, nil }))
	outer := Must(Wrap(exec, Spec{Name: "outer"}, func(ctx context.Context, n int) (int, error) {
		for i := range n {
			_, err := inner(ctx, i)
			assert.Equal(t, i >= 3, errors.Is(err, ErrNesting), "call %d: %v", i, err)
		}
		return int(scopeOf(ctx).call.inv.calls.Load()), nil
	}))
	if n, err := outer(t.Context(), 10); n != 3 || err != nil {
		t.Errorf("%d calls are counted, want 3; %v", n, err)
	}
}
