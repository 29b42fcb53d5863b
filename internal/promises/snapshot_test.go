package promises_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What is not told because a sink blocks is counted.
func TestSnapshot_EventsBeyondTheBoundAreCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		block := make(chan struct{})
		var got int
		sink := sluice.EventSinkFunc(func(context.Context, *sluice.Event) error { <-block; got++; return nil })
		q := rates(sluice.Rate{N: 1})
		e := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{Interceptors: interceptors(q), Sink: sink}))
		var wg sync.WaitGroup
		wg.Go(func() { assert.NoError(t, q.Pause("", time.Hour)) }) // its goroutine tells all that come
		synctest.Wait()
		for range 5000 {
			require.NoError(t, q.Pause("", time.Hour))
		}
		assert.Equal(t, uint64(4000), e.Snapshot().EventsDropped, "events dropped: 1,000 are kept")
		close(block)
		wg.Wait()
		if s := e.Snapshot(); got != 1001 || s.EventsDropped != 4000 || s.EventsDelivered != 1001 {
			t.Errorf("%d told, %d delivered, %d dropped: want 1,001, 1,001 and 4,000", got, s.EventsDelivered, s.EventsDropped)
		}
		require.NoError(t, e.Close(t.Context()))
	})
}

// To explain a call makes no key, evicts none and takes nothing.
func TestExplainTakesNoKey(t *testing.T) {
	bubble(t, func(t *testing.T) {
		q := sluice.Must(sluice.NewRateLimiter(sluice.RateLimiterConfig{Scope: sluice.ByTenant, MaxKeys: 2, Rates: []sluice.Rate{{N: 1}}}))
		r := newRig(t, sluice.Config{Interceptors: interceptors(q, limitsOf(sluice.Limit{Max: 5, Scope: sluice.ByTenant, MaxKeys: 2}),
			breakerOf(sluice.CircuitBreakerConfig{Scope: sluice.ByTenant, MaxKeys: 2}))})
		defer r.end()
		r.tool(sluice.Spec{Name: "x"}, sleeps(0))
		explain := func() {
			for i := range 20 {
				d := r.Explain(r.as(0, fmt.Sprint("new", i)), sluice.Request{Tool: "x"})
				assert.Nil(t, d.Refusal, "%+v, want no refusal", d)
			}
		}
		keys := func() (list []string) {
			for _, g := range r.Snapshot().Gates {
				if g.Key != "" {
					list = append(list, g.Name+" "+g.Key)
				}
			}
			return list
		}
		before := keys()
		explain()
		for range 2 {
			if after := keys(); !slices.Equal(before, after) {
				t.Errorf("keys %q, were %q", after, before)
			}
			for _, tenant := range []string{"a", "b"} {
				require.NoError(t, errOf(r.Invoke(r.as(0, tenant), sluice.Request{Tool: "x"})))
			}
			time.Sleep(time.Hour) // both are idle
			before = keys()
			explain()
		}
		assert.Len(t, before, 6, "keys, want two of each gate")
	})
}

// A call waits for an interceptor's Wrap no longer than its context lasts.
func TestInvokeDoesNotWaitForWrapBeyondItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		block := make(chan struct{})
		slow := sluice.InterceptorFunc(func(_ sluice.Spec, next sluice.Handler) sluice.Handler { <-block; return next })
		r := newRig(t, sluice.Config{Interceptors: interceptors(slow)})
		r.tool(sluice.Spec{Name: "x"}, sleeps(0))
		for i := range 3 {
			ctx, cancel := context.WithTimeout(r.ctx, 20*ms)
			_, err := r.Invoke(ctx, sluice.Request{Tool: "x"})
			if want := time.Duration(i+1) * 20 * ms; !errors.Is(err, sluice.ErrRejected) || !errors.Is(err, context.DeadlineExceeded) || r.at() != want {
				t.Errorf("%v at %v, want its context's end at %v", err, r.at(), want)
			}
			cancel()
		}
		close(block)
		require.NoError(t, r.call("x"))
		r.end()
	})
}
