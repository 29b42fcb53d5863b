// State lets tools share a counter, a cache with a lifetime, the best of many offers, and a
// booking of two keys that must change together. Each run works in its own view of the
// store, which goes away with the run.
//
//	go run ./examples/state
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-go/sluice"
)

// Keys carry the type of their value; their names are plain text.
const (
	hits  sluice.Key[int64] = "hits"
	best  sluice.Key[Offer] = "best"
	seats sluice.Key[int]   = "seats"
	paid  sluice.Key[int]   = "paid"
)

func page(url string) sluice.Key[string] { return sluice.Key[string]("page/" + url) }

type Offer struct {
	Shop  string
	Price int
}

// fetch counts itself and keeps what it fetched for five minutes.
func fetch(ctx context.Context, url string) (string, error) {
	n, err := sluice.Increment(ctx, hits, 1)
	if err != nil {
		return "", err
	}
	body, _, err := page(url).Get(ctx)
	if !errors.Is(err, sluice.ErrAbsent) {
		return body, err
	}
	body = fmt.Sprintf("body of fetch %d", n)
	_, err = page(url).Set(ctx, body, sluice.TTL(5*time.Minute))
	return body, err
}

// offer keeps the cheapest by compare-and-swap. Version 0 means absent, so that one loop
// creates and replaces.
func offer(ctx context.Context, o Offer) (bool, error) {
	for {
		old, version, err := best.Get(ctx)
		if err != nil && !errors.Is(err, sluice.ErrAbsent) {
			return false, err
		}
		if version != 0 && old.Price <= o.Price {
			return false, nil
		}
		_, err = best.CompareAndSwap(ctx, version, o)
		if !errors.Is(err, sluice.ErrConflict) { // on a conflict: look again
			return err == nil, err
		}
	}
}

// bid is offer with Update, which has the loop inside.
func bid(ctx context.Context, o Offer) (Offer, error) {
	return best.Update(ctx, func(old Offer, ok bool) (Offer, error) {
		if ok && old.Price <= o.Price {
			return old, nil
		}
		return o, nil
	})
}

// book takes seats and money together or not at all.
func book(ctx context.Context, n int) (struct{}, error) {
	return struct{}{}, sluice.StateFrom(ctx).Txn(ctx, func(ctx context.Context) error {
		left, err := sluice.Increment(ctx, seats, -n)
		if err != nil {
			return err
		}
		if left < 0 {
			return errors.New("sold out")
		}
		_, err = sluice.Increment(ctx, paid, n)
		return err
	})
}

func main() {
	store := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	exec := sluice.Must(sluice.NewExecutor(sluice.NewToolRegistry(), sluice.Config{State: store}))
	defer exec.Close(context.Background())
	fetch := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "fetch"}, fetch))
	offer := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "offer"}, offer))
	bid := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "bid"}, bid))
	book := sluice.Must(sluice.Wrap(exec, sluice.Spec{Name: "book"}, book))

	// Every key of run 42 stands under run/42/ in the store: the tools need not know.
	run := sluice.Must(store.View("run/42/", sluice.SharedStateConfig{MaxKeys: 100}))
	ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{RunID: "42", State: run})

	// One call fills the cache, and of 99 more at once no increment is lost.
	body, err := fetch(ctx, "https://go.dev")
	fmt.Printf("fetched: %q, %v\n", body, err)
	together(99, func(int) error {
		cached, err := fetch(ctx, "https://go.dev")
		if cached != body {
			return fmt.Errorf("not from the cache: %q, %w", cached, err)
		}
		return err
	})
	n, _, err := hits.Get(ctx)
	fmt.Println("hits:", n, err)

	// 50 offers at once, half of them by each tool: the cheapest wins.
	together(50, func(i int) error {
		o := Offer{Shop: fmt.Sprint("shop ", i), Price: 100 - i}
		if i%2 == 0 {
			_, err := offer(ctx, o)
			return err
		}
		_, err := bid(ctx, o)
		return err
	})
	cheapest, _, err := best.Get(ctx)
	fmt.Println("best:", cheapest, err)

	// Eight bookings of 3 for 20 seats: six fit, and seats + paid stay 20.
	if _, err := seats.Set(ctx, 20); err != nil {
		log.Fatal(err)
	}
	var refused sync.Map
	together(8, func(i int) error {
		if _, err := book(ctx, 3); err != nil {
			refused.Store(i, err)
		}
		return nil
	})
	refused.Range(func(_, err any) bool {
		fmt.Println("booking:", err)
		return true
	})
	left, _, _ := seats.Get(ctx)
	sold, _, _ := paid.Get(ctx)
	fmt.Println("seats left:", left, "paid:", sold)

	fmt.Println("the run's keys:")
	for e := range run.List("") {
		fmt.Printf("  %s = %v\n", e.Key, e.Value)
	}
	run.Clear()
	for e := range store.List("run/42/") {
		log.Fatal("still there: ", e.Key)
	}
	fmt.Println("after Clear: none")
}

// together runs fn n times at once.
func together(n int, fn func(i int) error) {
	var g errgroup.Group
	for i := range n {
		g.Go(func() error { return fn(i) })
	}
	if err := g.Wait(); err != nil {
		log.Fatal(err)
	}
}
