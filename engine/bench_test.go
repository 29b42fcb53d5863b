package engine_test

import (
	"context"
	"testing"
	"time"

	"github.com/sluice-go/sluice/engine"
)

func BenchmarkMemoryTake(b *testing.B) {
	q, d := memory(b).Quota(), one(engine.Meter{Key: "m", N: 1 << 40, Per: time.Second, Burst: 1 << 40, Each: 1}, 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := q.Take(context.Background(), d); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCombineAlone(b *testing.B) {
	c := combine(b, memory(b).Quota(), engine.CombineConfig{})
	d := one(engine.Meter{Key: "m", N: 1 << 40, Per: time.Second, Burst: 1 << 40, Each: 1}, 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Take(context.Background(), d); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFallback(b *testing.B) {
	f := fallback(b, memory(b).Quota(), engine.FallbackConfig{Budget: time.Minute})
	d := one(engine.Meter{Key: "m", N: 1 << 40, Per: time.Second, Burst: 1 << 40, Each: 1}, 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.Take(context.Background(), d); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSlots(b *testing.B) {
	s := memory(b).Slots()
	c := engine.Claim{Key: "k", Holder: "h", Limit: 1, TTL: time.Minute}
	b.ReportAllocs()
	for b.Loop() {
		l, err := s.Acquire(context.Background(), c)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Release(context.Background(), l); err != nil {
			b.Fatal(err)
		}
	}
}
