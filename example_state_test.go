package sluice_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-go/sluice"
)

func ExampleNewSharedState() {
	state, err := sluice.NewSharedState(sluice.SharedStateConfig{MaxKeys: 1000})
	if err != nil {
		panic(err)
	}
	defer state.Close()
	ctx := sluice.WithState(context.Background(), state)

	const page sluice.Key[string] = "page/go.dev"
	_, _, err = page.Get(ctx)
	fmt.Println(err, errors.Is(err, sluice.ErrAbsent))

	version, _ := page.Set(ctx, "body 1", sluice.TTL(5*time.Minute))
	_, err = page.CompareAndSwap(ctx, version+1, "body 2")
	fmt.Println(err, errors.Is(err, sluice.ErrConflict))

	body, _, _ := page.Get(ctx)
	fmt.Println(body)
	// Output:
	// sluice: shared state key "page/go.dev": absent true
	// sluice: shared state key "page/go.dev": conflict: the version is another true
	// body 1
}

func ExampleIncrement() {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	ctx := sluice.WithState(context.Background(), state)
	const hits sluice.Key[int64] = "hits"
	for range 3 {
		n, err := sluice.Increment(ctx, hits, 1)
		fmt.Println(n, err)
	}
	// Output:
	// 1 <nil>
	// 2 <nil>
	// 3 <nil>
}

func ExampleKey_Update() {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	ctx := sluice.WithState(context.Background(), state)
	type Offer struct {
		Shop  string
		Price int
	}
	const best sluice.Key[Offer] = "best"
	offer := func(o Offer) {
		now, err := best.Update(ctx, func(old Offer, ok bool) (Offer, error) {
			if ok && old.Price <= o.Price {
				return old, nil
			}
			return o, nil
		})
		fmt.Println(now, err)
	}
	offer(Offer{"a", 20})
	offer(Offer{"b", 30})
	offer(Offer{"c", 10})
	// Output:
	// {a 20} <nil>
	// {a 20} <nil>
	// {c 10} <nil>
}

func ExampleSharedState_Txn() {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	ctx := sluice.WithState(context.Background(), state)
	const seats, paid sluice.Key[int] = "seats", "paid"
	seats.Set(ctx, 3)

	book := func(n int) error {
		return sluice.StateFrom(ctx).Txn(ctx, func(ctx context.Context) error {
			left, err := sluice.Increment(ctx, seats, -n)
			if err != nil {
				return err
			}
			if left < 0 {
				return errors.New("sold out") // neither key changes
			}
			_, err = sluice.Increment(ctx, paid, n)
			return err
		})
	}
	fmt.Println(book(2))
	fmt.Println(book(2))
	left, _, _ := seats.Get(ctx)
	sold, _, _ := paid.Get(ctx)
	fmt.Println(left, sold)
	// Output:
	// <nil>
	// sold out
	// 1 2
}

func ExampleSharedState_List() {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	ctx := sluice.WithState(context.Background(), state)
	for _, url := range []string{"b", "a", "c"} {
		sluice.Key[string]("page/"+url).Set(ctx, "body of "+url)
	}
	sluice.Increment(ctx, sluice.Key[int]("hits"), 1)
	for e := range state.List("page/") {
		fmt.Println(e.Key, e.Value, e.Version)
	}
	// Output:
	// page/a body of a 1
	// page/b body of b 1
	// page/c body of c 1
}

func ExampleSharedState_Watch() {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	ctx := sluice.WithState(context.Background(), state)
	const step sluice.Key[string] = "progress/step"
	step.Set(ctx, "search")

	for e := range state.Watch(ctx, "progress/") {
		fmt.Println(e.Key, e.Value, e.Lost)
		switch e.Value {
		case "search":
			step.Set(ctx, "read")
		case "read":
			step.Delete(ctx)
		case nil:
			return
		}
	}
	// Output:
	// progress/step search 0
	// progress/step read 0
	// progress/step <nil> 0
}

func ExampleSharedState_View() {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	run := sluice.Must(state.View("run/42/", sluice.SharedStateConfig{MaxKeys: 1}))
	ctx := sluice.WithPipelineContext(context.Background(), sluice.PipelineContext{RunID: "42", State: run})

	_, err := sluice.Key[string]("note").Set(ctx, "a note")
	fmt.Println(err)
	_, err = sluice.Key[string]("another").Set(ctx, "b")
	fmt.Println(errors.Is(err, sluice.ErrFull))
	for e := range state.List("") {
		fmt.Println(e.Key, e.Value)
	}
	run.Clear() // when the run ends
	for e := range state.List("") {
		fmt.Println(e.Key, e.Value)
	}
	// Output:
	// <nil>
	// true
	// run/42/note a note
}

func ExampleSharedState_MarshalJSON() {
	state := sluice.Must(sluice.NewSharedState(sluice.SharedStateConfig{}))
	ctx := sluice.WithState(context.Background(), state)
	const hits sluice.Key[int64] = "hits"
	hits.Set(ctx, 9007199254740993)
	data, err := json.Marshal(state)
	fmt.Println(string(data), err)

	var restored sluice.SharedState
	if err := json.Unmarshal(data, &restored); err != nil {
		panic(err)
	}
	ctx = sluice.WithState(ctx, &restored)
	fmt.Println(sluice.Increment(ctx, hits, 1))
	// Output:
	// {"version":1,"keys":{"hits":{"value":9007199254740993,"version":1}}} <nil>
	// 9007199254740994 <nil>
}
