package sluice

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A snapshot reads at most a thousand constraints under one hold of the lock, calls get in
// between, and each constraint is there once.
func TestSnapshotReadsInBatches(t *testing.T) {
	const keys = 3500
	if readAtOnce > 1000 {
		t.Errorf("%d are read at once, want 1,000 at most", readAtOnce)
	}
	limits := Must(NewConcurrencyLimiter(ConcurrencyLimiterConfig{Limits: []Limit{{Max: 1000, Scope: ByTenant}}}))
	quota := Must(NewRateLimiter(RateLimiterConfig{Scope: ByTenant, Rates: []Rate{{N: 1000}, {N: 1000, Per: 60e9}}}))
	e := Must(NewExecutor(NewToolRegistry(), Config{Interceptors: []Interceptor{limits, quota}}))
	x := Must(Wrap(e, Spec{Name: "x"}, func(context.Context, struct{}) (int, error) { return 0, nil }))
	call := func(i int) {
		t.Helper()
		_, err := x(WithPipelineContext(t.Context(), PipelineContext{Tenant: fmt.Sprint("tenant-", i)}), struct{}{})
		require.NoError(t, err)
	}
	for i := range keys {
		call(i)
	}
	r := e.read()
	holds, more := 0, true
	for ; more; holds++ {
		before := len(r.Cells)
		more = r.Next(readAtOnce)
		if n := len(r.Cells) - before; n > readAtOnce {
			t.Errorf("%d constraints read under one hold of the lock, want at most %d", n, readAtOnce)
		}
		call(1) // which would hang if the lock were held
	}
	if holds < 3*keys/readAtOnce {
		t.Errorf("the lock was held %d times for %d constraints", holds, 3*keys)
	}
	seen := make(map[string]int)
	for _, g := range r.Done().Cells {
		seen[g.Name+"\n"+g.Key]++
	}
	for k, n := range seen {
		assert.Equal(t, 1, n, "%q is there %d times", k, n)
	}
	if want := 3*keys + 1; len(seen) != want { // and the tool's own
		t.Errorf("%d constraints, want %d", len(seen), want)
	}
	assert.NoError(t, e.Close(t.Context()))
}
