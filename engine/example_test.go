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

// What a call costs is known when it has ended: it was thought to be 500 words, and was 320.
func ExampleCorrection() {
	m, _ := engine.NewMemory(engine.MemoryConfig{})
	defer m.Close()
	ctx := context.Background()
	words := engine.Meter{Key: "words", N: 1000, Per: time.Hour}
	d := engine.Draw{Op: engine.NewOpID(), Meters: []engine.Meter{words}, Min: 500}
	_, err := m.Quota().Take(ctx, d)
	fmt.Println(err)
	fmt.Println(m.Quota().Settle(ctx, engine.NewOpID(), []engine.Correction{{Of: d.Op, Meter: words, Delta: 320 - 500}}))
	g, err := m.Quota().Take(ctx, engine.Draw{Meters: []engine.Meter{words}, Max: 1000})
	fmt.Println(g.Units, err)
	// Output:
	// <nil>
	// <nil>
	// 680 <nil>
}

// Batch work leaves 4 of 10 to what is more urgent.
func ExampleDraw() {
	m, _ := engine.NewMemory(engine.MemoryConfig{})
	defer m.Close()
	calls := []engine.Meter{{Key: "calls", N: 10, Per: time.Hour}}
	batch, err := m.Quota().Take(context.Background(), engine.Draw{Meters: calls, Max: 10, Keep: 4})
	fmt.Println(batch.Units, err)
	urgent, err := m.Quota().Take(context.Background(), engine.Draw{Meters: calls, Max: 10})
	fmt.Println(urgent.Units, err)
	// Output:
	// 6 <nil>
	// 4 <nil>
}

// A vote counts whatever was there: the one before may have ended, or not.
func ExampleAnyRevision() {
	m, _ := engine.NewMemory(engine.MemoryConfig{})
	defer m.Close()
	for _, vote := range []string{"open", "open again"} {
		_, err := m.Store().Write(context.Background(), "breaker/search/worker-7", engine.AnyRevision, []byte(vote), time.Minute)
		fmt.Println(err)
	}
	rec, err := m.Store().Read(context.Background(), "breaker/search/worker-7")
	fmt.Println(string(rec.Value), err)
	// Output:
	// <nil>
	// <nil>
	// open again <nil>
}

// What an engine can do, and since when it has its data.
func ExampleLimits() {
	m, _ := engine.NewMemory(engine.MemoryConfig{})
	defer m.Close()
	l := m.Limits()
	fmt.Println(l.OpMemory, l.MaxValue)
	id, _, err := m.Epoch(context.Background())
	fmt.Println(id != 0, err)
	// Output:
	// 2m0s 1048576
	// true <nil>
}

// A change whose answer was lost is asked for again under its name, and happens once.
func ExampleNewOpID() {
	m, err := engine.NewMemory(engine.MemoryConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Close()
	op := engine.NewOpID()
	for range 2 {
		total, _, err := m.Store().Add(context.Background(), op, "runs", 1, nil, 0)
		fmt.Println(total, err)
	}
	// Output:
	// 1 <nil>
	// 1 <nil>
}
