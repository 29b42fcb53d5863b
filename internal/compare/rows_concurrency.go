package compare

import (
	"context"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/sluice-go/sluice"
	"golang.org/x/sync/semaphore"
)

func concurrencyRows() []Row {
	return []Row{
		concurrencyRow("concurrency: acquire and release", "One slot taken and given back; there is always one.", wide, alone),
		concurrencyRow("concurrency: limit 64", "A hundred goroutines at 64 slots, taken and given back at once. Whoever finds none waits.", 64, hundred),
	}
}

func concurrencyRow(name, note string, limit int, l Load) Row {
	return Row{
		Section: "Parts",
		Name:    name,
		Note:    note,
		Loads:   []Load{l},
		Contestants: []Contestant{
			{"Invoke through a ConcurrencyLimiter, nil sink", Ours, oursGate(func() (sluice.Interceptor, error) {
				return sluice.NewConcurrencyLimiter(sluice.ConcurrencyLimiterConfig{Limits: []sluice.Limit{{Max: limit}}})
			})},
			{"admission machine, lock, clock", Part, func(int) (Body, func(), error) {
				s := newMachineSlots(int64(limit))
				return func(_, n int) error {
					for range n {
						s.release(s.acquire(4))
					}
					return nil
				}, nil, nil
			}},
			{"count and queue behind a lock", Floor, func(int) (Body, func(), error) {
				s := newFloorSemaphore(limit)
				return slotBody(s.acquire, s.release), nil, nil
			}},
			{"x/sync semaphore", Peer, func(int) (Body, func(), error) {
				s := semaphore.NewWeighted(int64(limit))
				return slotBody(
					func(ctx context.Context) error { return s.Acquire(ctx, 1) },
					func() { s.Release(1) }), nil, nil
			}},
			{"channel with select", Peer, func(int) (Body, func(), error) {
				ch := make(chan struct{}, limit)
				return slotBody(func(ctx context.Context) error {
					select {
					case ch <- struct{}{}:
						return nil
					case <-ctx.Done():
						return ctx.Err()
					}
				}, func() { <-ch }), nil, nil
			}},
			{"failsafe-go bulkhead, permits by hand", Peer, func(int) (Body, func(), error) {
				b := bulkhead.New[int](uint(limit))
				return slotBody(b.AcquirePermit, b.ReleasePermit), nil, nil
			}},
			{"failsafe-go bulkhead, its executor", Peer, func(int) (Body, func(), error) {
				e := failsafe.With[int](bulkhead.NewBuilder[int](uint(limit)).WithMaxWaitTime(longTimeout).Build())
				run := func() (int, error) { return answer, nil }
				return callBody(func(ctx context.Context) (int, error) { return e.WithContext(ctx).Get(run) }), nil, nil
			}},
		},
	}
}

// slotBody is n slots taken and given back.
func slotBody(acquire func(context.Context) error, release func()) Body {
	ctx := context.Background()
	return func(_, n int) error {
		for range n {
			if err := acquire(ctx); err != nil {
				return err
			}
			release()
		}
		return nil
	}
}
