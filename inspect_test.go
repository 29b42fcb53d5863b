package sluice

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sluice-go/sluice/internal/admit"
	"github.com/sluice-go/sluice/internal/survey"
)

// A snapshot reads no more than it says under one hold of the lock, of keys, of tools and of
// lanes. What comes and goes between two holds is neither missed nor read twice.
func TestSnapshot_ReadsInBatchesWhileThingsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const tenants, tools, size = 250, 140, 100
		l := Must(NewConcurrencyLimiter(ConcurrencyLimiterConfig{Limits: []Limit{{Max: 1, Scope: ByTenant}, {Max: 1000, Scope: ByTool}}}))
		q := Must(NewRateLimiter(RateLimiterConfig{Scope: ByTenant, Rates: []Rate{{N: 10}, {N: 100, Per: time.Minute}}}))
		reg := NewToolRegistry()
		e := Must(NewExecutor(reg, Config{Interceptors: []Interceptor{l, q}}))
		name := func(i int) string { return fmt.Sprint("tool-", i) }
		for i := range tools {
			Must(Wrap(e, Spec{Name: name(i)}, func(context.Context, struct{}) (int, error) { time.Sleep(time.Second); return 0, nil }))
			e.Plan(name(i)) // which makes its cells; the first twenty are not called
		}
		ctx, cancels := t.Context(), []context.CancelFunc{}
		for i := range 2 * tenants { // one runs and one waits, of each tenant
			ctx := WithPipelineContext(ctx, PipelineContext{Tenant: fmt.Sprint(i % tenants)})
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			e.Submit(ctx, Request{Tool: name(20 + i%(tools-20)), Input: struct{}{}})
			if i >= tenants {
				cancels = append(cancels, cancel)
			}
		}
		synctest.Wait()
		r, holds, last := e.read(), 0, 0
		for more := true; more; holds++ {
			more = r.Next(size)
			now := len(r.Cells) + len(r.Lanes)
			if now-last > size {
				t.Fatalf("%d were read under one hold of the lock, want at most %d", now-last, size)
			}
			last = now
			cancels[holds]()        // its lane goes, and another takes its place
			reg.Remove(name(holds)) // and so does a cell
			synctest.Wait()
		}
		s := r.Done()
		if n := len(s.Cells); n < 3*tenants+2*(tools-20) || n > 3*tenants+2*tools {
			t.Errorf("%d constraints, want one for each tenant under three limits, and for each tool under two", n)
		}
		seen := map[string]bool{}
		for _, g := range s.Cells {
			if at := g.Name + " " + g.Key; seen[at] {
				t.Errorf("%s is there twice", at)
			} else {
				seen[at] = true
			}
		}
		for i := range tenants {
			for _, k := range []string{"concurrency per tenant", "rate calls per second", "rate calls per minute"} {
				if at := fmt.Sprint(k, " ", i); !seen[at] {
					t.Errorf("%s is not there", at)
				}
			}
		}
		if n := len(s.Lanes); n < tenants-holds || n > tenants {
			t.Errorf("%d lanes, want %d, but for those that went meanwhile", n, tenants)
		}
		for _, x := range s.Lanes {
			if x.Waiting != 1 || x.By != "concurrency per tenant" {
				t.Errorf("lane %+v, want one call that waits for its tenant's slot", x)
			}
		}
		if want := (last + size - 1) / size; holds < want || holds > 2*want {
			t.Errorf("%d holds of the lock for %d rows", holds, last)
		}
		if readAtOnce != 200 {
			t.Errorf("Snapshot reads %d at once, its comment says 200", readAtOnce)
		}
		time.Sleep(time.Minute)
		assert.NoError(t, e.Close(t.Context()))
	})
}

// A snapshot reads at most a thousand constraints under one hold of the lock, calls get in
// between, and each constraint is there once.
func TestSnapshot_LetsCallsInBetweenBatches(t *testing.T) {
	const keys = 3500
	if readAtOnce > 200 {
		t.Errorf("%d are read at once, want 200 at most", readAtOnce)
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

// Each kind of constraint that the machine has is named for users.
func TestGateKindsAreTheMachines(t *testing.T) {
	for is, want := range map[admit.Kind]string{
		admit.Slots: "concurrency", admit.Tokens: "rate", admit.Breaker: "breaker", admit.Foreign: "shared limiter",
	} {
		require.Equal(t, want, gateState(survey.Cell{Kind: is}).Kind)
	}
}

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
