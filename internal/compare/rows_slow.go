package compare

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-go/sluice"
)

// Calls of the row in which many take long at the same time.
const (
	slowCalls = 10_000
	slowFor   = 10 * time.Millisecond
)

// sleepingTool takes as long as a request to somebody else.
func sleepingTool(ctx context.Context, in Input) (int, error) {
	time.Sleep(slowFor)
	return len(in.Query), nil
}

func slowRows() []Row {
	ours := oursConfig{limit: slowCalls, sink: discard{}}
	return []Row{{
		Section: "The whole call",
		Name:    "slow calls: 10,000 at once",
		Note:    "From the start of the first of 10,000 calls to the end of the last. Each takes 10 ms, and all have a slot, so no time is below that. Allocations and bytes are those of all.",
		Loads:   []Load{{1, 2}},
		Contestants: []Contestant{
			{"Invoke, a goroutine each", Ours, func(int) (Body, func(), error) {
				g, done, err := newGuarded(sleepingTool, ours)
				if err != nil {
					return nil, nil, err
				}
				return slowBody(func(ctx context.Context) (int, error) {
					r, err := g.exec.Invoke(ctx, request)
					v, _ := r.Value.(int)
					return v, err
				}), done, nil
			}},
			{"Submit", Ours, func(int) (Body, func(), error) {
				g, done, err := newGuarded(sleepingTool, ours)
				if err != nil {
					return nil, nil, err
				}
				return submitBody(g.exec), done, nil
			}},
			{"goroutines that sleep", Floor, func(int) (Body, func(), error) {
				return slowBody(func(ctx context.Context) (int, error) { return sleepingTool(ctx, input) }), nil, nil
			}},
			{byHand, Peer, func(int) (Body, func(), error) {
				return slowBody(newHandmade(sleepingTool, slowCalls).call), nil, nil
			}},
		},
	}}
}

// slowBody is n times all the calls, each in a goroutine of its own.
func slowBody(call func(context.Context) (int, error)) Body {
	ctx := context.Background()
	return func(_, n int) error {
		for range n {
			var wg sync.WaitGroup
			var wrong atomic.Int64
			for range slowCalls {
				wg.Go(func() {
					if v, err := call(ctx); err != nil || v != answer {
						wrong.Add(1)
					}
				})
			}
			wg.Wait()
			if wrong.Load() != 0 {
				return errWrong
			}
		}
		return nil
	}
}

// submitBody is n times all the calls, each submitted.
func submitBody(e *sluice.Executor) Body {
	ctx := context.Background()
	futures := make([]*sluice.Future, slowCalls)
	return func(_, n int) error {
		for range n {
			for i := range futures {
				futures[i] = e.Submit(ctx, request)
			}
			for _, f := range futures {
				r, err := f.Wait(ctx)
				if err != nil {
					return err
				}
				if r.Value != any(answer) {
					return errWrong
				}
			}
		}
		return nil
	}
}
