package engine_test

import (
	"context"
	"fmt"
	"time"

	"github.com/sluice-go/sluice/engine"
)

func ExampleNewMemory() {
	m, err := engine.NewMemory(engine.MemoryConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close()
	ctx := context.Background()

	rev, err := m.Store().Write(ctx, "model", 0, []byte("a"), time.Hour)
	fmt.Println(err)
	_, err = m.Store().Write(ctx, "model", rev+1, []byte("b"), 0)
	fmt.Println(err)

	lease, err := m.Slots().Acquire(ctx, engine.Claim{Key: "gpu", Holder: "worker 7", Limit: 2, TTL: time.Minute})
	fmt.Println(lease.Units, err)
	// Output:
	// <nil>
	// engine: refused: the revision is not the current one
	// 1 <nil>
}

// One draw of one unit costs one call and 500 words: both meters are charged, or none.
func ExampleQuota() {
	m, err := engine.NewMemory(engine.MemoryConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close()
	d := engine.Draw{Meters: []engine.Meter{
		{Key: "calls", N: 60, Per: time.Minute},
		{Key: "words", N: 1200, Per: time.Minute, Each: 500},
	}}
	for range 3 {
		g, err := m.Quota().Take(context.Background(), d)
		fmt.Println(g.Units, g.Retry.Round(time.Second), err)
	}
	// Output:
	// 1 0s <nil>
	// 1 0s <nil>
	// 0 15s <nil>
}

func ExampleNewCombine() {
	m, _ := engine.NewMemory(engine.MemoryConfig{})
	defer m.Close()
	shared, err := engine.NewCombine(m.Quota(), engine.CombineConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer shared.Close()
	g, err := shared.Take(context.Background(), engine.Draw{Meters: []engine.Meter{{Key: "calls", N: 10, Per: time.Second}}})
	fmt.Println(g.Units, err, shared.Trips())
	// Output: 1 <nil> 1
}

func ExampleNewFallback() {
	down := quotaFunc(func(context.Context, engine.Draw) (engine.Grant, error) {
		return engine.Grant{}, fmt.Errorf("%w: connection refused", engine.ErrRefused)
	})
	f, err := engine.NewFallback(down, engine.FallbackConfig{Mode: engine.LocalShare, Share: 4})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	g, err := f.Take(context.Background(), engine.Draw{
		Meters: []engine.Meter{{Key: "calls", N: 100, Per: time.Hour}}, Min: 1, Max: 100,
	})
	fmt.Println(g.Units, err)
	// Output: 25 <nil>
}

func ExampleNewAudit() {
	m, _ := engine.NewMemory(engine.MemoryConfig{})
	defer m.Close()
	a, err := engine.NewAudit(m.Quota())
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		_, _ = a.Take(context.Background(), engine.Draw{Meters: []engine.Meter{{Key: "calls", N: 2, Per: time.Hour}}})
	}
	c := a.Counts()
	fmt.Println(c.Takes, c.Units, c.Denied)
	// Output: 3 2 1
}
