package compare

import (
	"context"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/sluice-go/sluice"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sony/gobreaker/v2"
)

func breakerRows() []Row {
	return []Row{{
		Section: "Parts",
		Name:    "breaker: closed, success",
		Note:    "A closed breaker is asked and told of a success. A part that is told the time reads no clock.",
		Loads:   []Load{alone, hundred},
		Contestants: []Contestant{
			{"Invoke through a CircuitBreaker, nil sink", Ours, oursGate(func() (sluice.Interceptor, error) {
				return sluice.NewCircuitBreaker(sluice.CircuitBreakerConfig{})
			})},
			{"its machine, own clock and lock", Part, oursBreaker(breaker.Config{}, clock)},
			{"its machine with a ratio, own clock and lock", Part, oursBreaker(breaker.Config{Ratio: 0.5}, clock)},
			{"its machine, told the time, under a lock", Part, oursBreaker(breaker.Config{}, nil)},
			{"failures in a row, own clock and lock", Floor, floorBreaker(clock)},
			{"failures in a row, told the time, under a lock", Floor, floorBreaker(nil)},
			{"gobreaker Execute", Peer, func(int) (Body, func(), error) {
				b := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{})
				run := func() (int, error) { return answer, nil }
				return callBody(func(context.Context) (int, error) { return b.Execute(run) }), nil, nil
			}},
			{"failsafe-go, failures in a row", Peer, failBreakerBody(failBreaker())},
			{"failsafe-go, ratio in a window", Peer, failBreakerBody(circuitbreaker.NewBuilder[int]().
				WithFailureRateThreshold(0.5, 20, 10*time.Second).Build())},
			{"hystrix-go (slots and timeout too)", Peer, func(int) (Body, func(), error) {
				return callBody(newHystrix(tool, "breaker", wide)), nil, nil
			}},
		},
	}}
}

// ticking is a clock for parts that are told the time; their lock guards it.
func ticking() func() int64 {
	var now int64
	return func() int64 {
		now += 100
		return now
	}
}

func oursBreaker(c breaker.Config, now func() int64) func(int) (Body, func(), error) {
	return func(int) (Body, func(), error) {
		now := now
		if now == nil {
			now = ticking()
		}
		var mu sync.Mutex
		b := breaker.New(&c)
		return func(_, n int) error {
			for range n {
				mu.Lock()
				at := now()
				ok, _ := b.Ready(at)
				p, _ := b.Take(at)
				mu.Unlock()
				if !ok {
					return errWrong
				}
				mu.Lock()
				b.Done(now(), p, breaker.Success)
				mu.Unlock()
			}
			return nil
		}, nil, nil
	}
}

func floorBreaker(now func() int64) func(int) (Body, func(), error) {
	return func(int) (Body, func(), error) {
		now := now
		if now == nil {
			now = ticking()
		}
		var mu sync.Mutex
		var t tripwire
		return func(_, n int) error {
			for range n {
				mu.Lock()
				ok := t.ready(now())
				mu.Unlock()
				if !ok {
					return errWrong
				}
				mu.Lock()
				t.done(now(), true)
				mu.Unlock()
			}
			return nil
		}, nil, nil
	}
}

func failBreakerBody(b circuitbreaker.CircuitBreaker[int]) func(int) (Body, func(), error) {
	return func(int) (Body, func(), error) {
		return func(_, n int) error {
			for range n {
				if !b.TryAcquirePermit() {
					return errWrong
				}
				b.RecordSuccess()
			}
			return nil
		}, nil, nil
	}
}
