package sluice

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// TestSubmit_ContextsThatEndTogether: calls whose contexts have one Done channel are
// watched together, end together, and leave nothing behind.
func TestSubmit_ContextsThatEndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		exec := Must(NewExecutor(NewToolRegistry(), Config{}))
		release := make(chan struct{})
		Must(Wrap(exec, Spec{Name: "x", Policy: Policy{Concurrency: 1}}, func(_ context.Context, n int) (int, error) {
			<-release
			return n, nil
		}))
		watched := func(want int) {
			t.Helper()
			synctest.Wait()
			exec.watches.mu.Lock()
			defer exec.watches.mu.Unlock()
			if got := len(exec.watches.byDone); got != want {
				t.Errorf("%d contexts are watched, want %d", got, want)
			}
		}
		holder := exec.Submit(t.Context(), Request{Tool: "x", Input: 0})
		watched(0) // it does not wait
		odd, cancel := context.WithCancelCause(t.Context())
		even, stop := context.WithCancel(t.Context())
		defer stop()
		mine := errors.New("mine")
		var futures []*Future
		for i := range 50 {
			ctx := WithPipelineContext([]context.Context{even, odd}[i%2], PipelineContext{Tenant: "a"})
			futures = append(futures, exec.Submit(ctx, Request{Tool: "x", Input: i}))
		}
		never := exec.Submit(context.Background(), Request{Tool: "x", Input: 50})
		watched(2)
		cancel(mine)
		watched(1)
		for i, f := range futures {
			select {
			case <-f.Done():
				if _, err := f.Wait(t.Context()); i%2 == 0 || !errors.Is(err, mine) || !errors.Is(err, ErrRejected) {
					t.Errorf("call %d ended with %v", i, err)
				}
			default:
				if i%2 == 1 {
					t.Errorf("call %d still waits", i)
				}
			}
		}
		close(release)
		for i, f := range append(futures, never, holder) {
			if r, err := f.Wait(t.Context()); i%2 == 0 && (err != nil || i < 50 && r.Value != i) {
				t.Errorf("call %d: %v, %v", i, r.Value, err)
			}
		}
		watched(0)
		late, err := exec.Submit(odd, Request{Tool: "x", Input: 1}).Wait(t.Context())
		if !errors.Is(err, mine) || late.Value != nil {
			t.Errorf("a call whose context has ended: %v, %v", late.Value, err)
		}
		watched(0)
		if err := exec.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
