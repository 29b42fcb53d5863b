package engine_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-go/sluice/engine"
)

// A worker renews all that it has at once, and gives up what others wait for.
func ExampleSlots() {
	m, _ := engine.NewMemory(engine.MemoryConfig{})
	defer m.Close()
	ctx, slots := context.Background(), m.Slots()
	var held []engine.Lease
	for _, key := range []string{"browsers", "printers"} {
		l, err := slots.Acquire(ctx, engine.Claim{Key: key, Holder: "worker-1", Units: 2, Limit: 2, TTL: time.Minute})
		if err != nil {
			fmt.Println(err)
			return
		}
		held = append(held, l)
	}
	got := make(chan engine.Lease)
	go func() { // another worker
		l, _ := slots.Acquire(ctx, engine.Claim{Key: "browsers", Holder: "worker-2", Limit: 2, TTL: time.Minute, MaxWait: time.Minute})
		got <- l
	}()
	for held[0].Wanted == 0 {
		time.Sleep(time.Millisecond)
		held, _ = slots.Renew(ctx, time.Minute, held...)
	}
	for _, l := range held {
		fmt.Println(l.Key, l.Units, "wanted:", l.Wanted)
		if l.Wanted > 0 {
			_, _ = slots.Resize(ctx, l, l.Units-1, 2)
		}
	}
	fmt.Println("worker-2 has", (<-got).Units)
	fmt.Println(slots.Release(ctx, held...))
	// Output:
	// browsers 2 wanted: 1
	// printers 2 wanted: 0
	// worker-2 has 1
	// <nil>
}

// A holder stops when no time is left, by whichever of its clocks says so.
func ExampleLease_Left() {
	m, _ := engine.NewMemory(engine.MemoryConfig{})
	defer m.Close()
	l, err := m.Slots().Acquire(context.Background(), engine.Claim{Key: "browsers", Holder: "worker-1", Limit: 2, TTL: time.Minute})
	fmt.Println(l.Left(time.Now()) > 59*time.Second, err)
	fmt.Println(l.Left(time.Now().Add(time.Hour)) > 0)
	// Output:
	// true <nil>
	// false
}

// Ten go from one account to another, if nobody has touched either meanwhile.
func ExampleChange() {
	m, _ := engine.NewMemory(engine.MemoryConfig{})
	defer m.Close()
	ctx, store := context.Background(), m.Store()
	_, err := store.Commit(ctx, engine.NewOpID(), engine.Change{Key: "a", Value: []byte("30")}, engine.Change{Key: "b", Value: []byte("0")})
	fmt.Println(err)
	was, err := store.Fetch(ctx, "a", "b")
	fmt.Println(string(was[0].Value), string(was[1].Value), err)
	move := []engine.Change{{Key: "a", Was: was[0].Rev, Value: []byte("20")}, {Key: "b", Was: was[1].Rev, Value: []byte("10")}}
	op := engine.NewOpID() // of this transfer, in every repetition
	for range 2 {
		_, err = store.Commit(ctx, op, move...)
		fmt.Println(err)
	}
	_, err = store.Commit(ctx, engine.NewOpID(), move...)
	fmt.Println(errors.Is(err, engine.ErrConflict))
	// Output:
	// <nil>
	// 30 0 <nil>
	// <nil>
	// <nil>
	// true
}

// Whoever follows knows when it has seen all that was there.
func ExampleFollower() {
	m, _ := engine.NewMemory(engine.MemoryConfig{})
	defer m.Close()
	ctx := context.Background()
	_, _ = m.Store().Write(ctx, "breaker/search/worker-7", engine.AnyRevision, []byte("open"), time.Minute)
	votes := 0
	for rec, err := range m.Store().Follow(ctx, "breaker/search/") {
		if err != nil || rec.Caught {
			fmt.Println("votes:", votes, err)
			break
		}
		votes++
	}
	// Output: votes: 1 <nil>
}
