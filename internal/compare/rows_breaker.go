package compare

import (
	"context"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/sony/gobreaker/v2"
)

func breakerRows() []Row {
	return []Row{{
		Section: "Parts",
		Name:    "breaker: closed, success",
		Note:    "A closed breaker is asked and told of a success.",
		Loads:   []Load{alone, hundred},
		Contestants: []Contestant{
			{"its machine, own clock and lock", Part, oursBreaker(breaker.Config{Failures: 5})},
			{"its machine with a ratio, own clock and lock", Part, oursBreaker(breaker.Config{Ratio: 0.5})},
			{"failures in a row, own clock and lock", Floor, floorBreaker},
			{"gobreaker Execute", Peer, func(int) (Body, func(), error) {
				b := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{})
				run := func() (int, error) { return answer, nil }
				return callBody(func(context.Context) (int, error) { return b.Execute(run) }), nil, nil
			}},
			{"failsafe-go, failures in a row", Peer, failBreakerBody(failBreaker())},
			{"failsafe-go, ratio in a window", Peer, failBreakerBody(circuitbreaker.NewBuilder[int]().
				WithFailureRateThreshold(0.5, 20, 10*time.Second).Build())},
		},
	}}
}

func oursBreaker(c breaker.Config) func(int) (Body, func(), error) {
	return func(int) (Body, func(), error) {
		var mu sync.Mutex
		b := breaker.New(&c)
		return func(_, n int) error {
			for range n {
				mu.Lock()
				at := clock()
				ok, _ := b.Ready(at)
				p, _ := b.Take(at)
				mu.Unlock()
				if !ok {
					return errWrong
				}
				mu.Lock()
				b.Done(clock(), p, breaker.Success)
				mu.Unlock()
			}
			return nil
		}, nil, nil
	}
}

func floorBreaker(int) (Body, func(), error) {
	var mu sync.Mutex
	var t tripwire
	return func(_, n int) error {
		for range n {
			mu.Lock()
			ok := t.ready(clock())
			mu.Unlock()
			if !ok {
				return errWrong
			}
			mu.Lock()
			t.done(clock(), true)
			mu.Unlock()
		}
		return nil
	}, nil, nil
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
