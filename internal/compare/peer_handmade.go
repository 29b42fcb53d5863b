package compare

import (
	"context"
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// handmade is the stack that people put together: slots of x/sync, a rate of x/time, a
// breaker of gobreaker, and a context with a timeout where they want one. It has no
// registry, no events, no priorities, and lets panics through.
type handmade struct {
	slots   *semaphore.Weighted
	rate    *rate.Limiter
	breaker *gobreaker.CircuitBreaker[int]
	timeout time.Duration
	refuse  bool // when all slots are taken, instead of waiting
	tool    toolFunc
	run     func() (int, error) // the tool with the input of every call
}

var errHandmadeFull = errors.New("handmade: full")

func newHandmade(f toolFunc, limit int) *handmade {
	h := &handmade{
		slots:   semaphore.NewWeighted(int64(limit)),
		rate:    rate.NewLimiter(1e9, 1e9),
		breaker: gobreaker.NewCircuitBreaker[int](gobreaker.Settings{Name: toolName}),
		tool:    f,
	}
	h.run = func() (int, error) { return f(context.Background(), input) }
	return h
}

func (h *handmade) call(ctx context.Context) (int, error) {
	if h.refuse {
		if !h.slots.TryAcquire(1) {
			return 0, errHandmadeFull
		}
	} else if err := h.slots.Acquire(ctx, 1); err != nil {
		return 0, err
	}
	defer h.slots.Release(1)
	if err := h.rate.Wait(ctx); err != nil {
		return 0, err
	}
	run := h.run
	if h.timeout > 0 {
		ctx, cancel := context.WithTimeout(ctx, h.timeout)
		defer cancel()
		run = func() (int, error) { return h.tool(ctx, input) }
	}
	return h.breaker.Execute(run)
}

// open makes the breaker refuse from now on.
func (h *handmade) open() {
	for range 10 {
		h.breaker.Execute(func() (int, error) { return 0, errWrong })
	}
}
