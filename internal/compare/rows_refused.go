package compare

import (
	"context"
	"time"

	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/sony/gobreaker/v2"
)

func refusedRows() []Row {
	return []Row{
		{
			Section: "The whole call",
			Name:    refusedOpen,
			Note:    "Sluice says which constraint refused and when to retry, and sends two events.",
			Loads:   []Load{alone, hundred},
			Contestants: []Contestant{
				{byInvoke, Ours, oursRefused(oursConfig{limit: wide, sink: discard{}})},
				{byInvokeNil, Ours, oursRefused(oursConfig{limit: wide})},
				{fusedOne, Floor, fusedRefused(errFloorOpen, func(x *fused) { x.open = clock() + int64(time.Hour) })},
				{byHand, Peer, func(int) (Body, func(), error) {
					h := newHandmade(tool, wide)
					h.open()
					return refusedBody(h.call, gobreaker.ErrOpenState), nil, nil
				}},
				{byFail, Peer, func(int) (Body, func(), error) {
					x := newFail(tool, failConfig{limit: wide})
					x.breaker.Open()
					return refusedBody(x.call, circuitbreaker.ErrOpen), nil, nil
				}},
			},
		},
		{
			Section: "The whole call",
			Name:    refusedFull,
			Note:    "One slot, which another call holds, and nobody waits for it. Sluice says which constraint refused, and sends two events. The peers ask for the slot first; hand-made is then one TryAcquire that fails.",
			Loads:   []Load{alone, hundred},
			Contestants: []Contestant{
				{byInvoke, Ours, oursFull(oursConfig{sink: discard{}})},
				{byInvokeNil, Ours, oursFull(oursConfig{})},
				{fusedOne, Floor, fusedRefused(errFloorFull, func(x *fused) { x.refuse, x.slots.used = true, x.slots.limit })},
				{byHand, Peer, func(int) (Body, func(), error) {
					h := newHandmade(tool, 1)
					h.refuse = true
					if !h.slots.TryAcquire(1) {
						return nil, nil, errWrong
					}
					return refusedBody(h.call, errHandmadeFull), nil, nil
				}},
				{byFail, Peer, func(int) (Body, func(), error) {
					x := newFail(tool, failConfig{limit: 1, refuse: true})
					if !x.slots.TryAcquirePermit() {
						return nil, nil, errWrong
					}
					return refusedBody(x.call, bulkhead.ErrFull), nil, nil
				}},
			},
		},
	}
}

// fusedRefused is the floor in a state in which it refuses for the reason.
func fusedRefused(reason error, set func(*fused)) func(int) (Body, func(), error) {
	return func(int) (Body, func(), error) {
		x := newFused(tool, wide, dropSink{})
		set(x)
		var in any = input
		return refusedBody(func(ctx context.Context) (int, error) {
			_, err := x.invoke(ctx, "call_1", toolName, in)
			return 0, err
		}, reason), nil, nil
	}
}
