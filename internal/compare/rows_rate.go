package compare

import (
	"context"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/ratelimiter"
	"github.com/sluice-go/sluice/internal/bucket"
	"golang.org/x/time/rate"
)

const second = int64(time.Second)

// allowBody is n questions that must be answered with yes.
func allowBody(allow func() bool) Body {
	return func(_, n int) error {
		for range n {
			if !allow() {
				return errWrong
			}
		}
		return nil
	}
}

func rateRows() []Row {
	return []Row{{
		Section: "Parts",
		Name:    "rate: allow, one key",
		Note:    "One token of a bucket that never runs dry.",
		Loads:   []Load{alone, hundred},
		Contestants: []Contestant{
			{"its bucket, own clock and lock", Part, func(int) (Body, func(), error) {
				r, err := bucket.NewRate(1e9, second, 1e9)
				var mu sync.Mutex
				var b bucket.Bucket
				return allowBody(func() bool {
					mu.Lock()
					now := clock()
					ok := b.Ready(&r, now, 1) <= now
					if ok {
						b.Take(&r, now, 1)
					}
					mu.Unlock()
					return ok
				}), nil, err
			}},
			{"one word, own clock and lock", Floor, func(int) (Body, func(), error) {
				var mu sync.Mutex
				var g gcra
				return allowBody(func() bool {
					mu.Lock()
					ok := g.allow(clock(), 1, second)
					mu.Unlock()
					return ok
				}), nil, nil
			}},
			{"x/time Limiter.Allow", Peer, func(int) (Body, func(), error) {
				return allowBody(rate.NewLimiter(1e9, 1e9).Allow), nil, nil
			}},
			{"failsafe-go TryAcquirePermit", Peer, func(int) (Body, func(), error) {
				return allowBody(ratelimiter.NewBursty[int](1e9, time.Second).TryAcquirePermit), nil, nil
			}},
		},
	}}
}

func keyedRows(s Size) []Row {
	return []Row{{
		Section: "The whole call",
		Name:    "whole call through a rate by key, 1e6 keys",
		Note:    "A bucket per key, a million keys that are all there already, asked in an order without a pattern, and then the tool. No other gate and no sink.",
		Loads:   []Load{alone, hundred},
		Contestants: []Contestant{
			{byInvokeNil, Ours, func(workers int) (Body, func(), error) { return oursKeyedRate(workers, s.Keys) }},
			{"flat table", Floor, func(workers int) (Body, func(), error) {
				f := newFlatRates(s.Keys)
				return keyedBody(workers, s.Keys, func(k string) bool { return f.allow(k, clock(), 1, second) }), nil, nil
			}},
			{"sharded map", Floor, func(workers int) (Body, func(), error) {
				m := newShardedRates()
				return keyedBody(workers, s.Keys, func(k string) bool { return m.allow(k, clock(), 1, second) }), nil, nil
			}},
			{"mutex map of x/time limiters", Peer, func(workers int) (Body, func(), error) {
				var mu sync.Mutex
				m := make(map[string]*rate.Limiter)
				return keyedBody(workers, s.Keys, func(k string) bool {
					mu.Lock()
					l := m[k]
					if l == nil {
						l = rate.NewLimiter(1e9, 1e9)
						m[k] = l
					}
					mu.Unlock()
					return l.Allow()
				}), nil, nil
			}},
			{"sync.Map of x/time limiters", Peer, func(workers int) (Body, func(), error) {
				var m sync.Map
				return keyedBody(workers, s.Keys, func(k string) bool {
					l, ok := m.Load(k)
					if !ok {
						l, _ = m.LoadOrStore(k, rate.NewLimiter(1e9, 1e9))
					}
					return l.(*rate.Limiter).Allow()
				}), nil, nil
			}},
		},
	}}
}

// keyedBody asks every key once, so that all are there, and then in each operation one, before it
// calls the tool.
func keyedBody(workers, n int, allow func(string) bool) Body {
	ks := keys(n)
	for _, k := range ks {
		allow(k)
	}
	all := newWalks(workers)
	ctx := context.Background()
	return func(worker, n int) error {
		w := all[worker].walk
		defer func() { all[worker].walk = w }()
		for range n {
			if !allow(ks[w.next(len(ks))]) {
				return errWrong
			}
			if v, err := tool(ctx, input); v != answer || err != nil {
				return errWrong
			}
		}
		return nil
	}
}

func oursKeyedRate(workers, n int) (Body, func(), error) {
	inputs := boxed(keys(n))
	exec, err := keyedRate(inputs)
	if err != nil {
		return nil, nil, err
	}
	ctx := context.Background()
	all := newWalks(workers)
	return func(worker, n int) error {
		w := all[worker].walk
		defer func() { all[worker].walk = w }()
		r := request
		for range n {
			r.Input = inputs[w.next(len(inputs))]
			out, err := exec.Invoke(ctx, r)
			if err != nil {
				return err
			}
			if out.Value != any(answer) {
				return errWrong
			}
		}
		return nil
	}, func() { exec.Close(ctx) }, nil
}
