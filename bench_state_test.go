package sluice

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// The floor beside which SharedState is measured: a sync.Map of atomics, which has
// neither versions nor lifetimes nor bounds.
//
//	go test -run - -bench BenchmarkState -cpu 1,2

func benchKeys() (keys []Key[int64]) {
	for i := range 1000 {
		keys = append(keys, Key[int64](fmt.Sprint("key/", i)))
	}
	return keys
}

func benchFloor(keys []Key[int64]) *sync.Map {
	m := new(sync.Map)
	for _, k := range keys {
		m.Store(string(k), new(atomic.Int64))
	}
	return m
}

// parallel runs 100 goroutines per core.
func parallel(b *testing.B, keys []Key[int64], op func(k Key[int64])) {
	b.SetParallelism(100 / runtime.GOMAXPROCS(0))
	var start atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for i := int(start.Add(37)); pb.Next(); i++ {
			op(keys[i%len(keys)])
		}
	})
}

func alone(b *testing.B, keys []Key[int64], op func(k Key[int64])) {
	i := 0
	for b.Loop() {
		op(keys[i%len(keys)])
		i++
	}
}

func benchState(b *testing.B, floor func(m *sync.Map, k Key[int64]), op func(b *testing.B) func(k Key[int64])) {
	keys := benchKeys()
	for _, run := range []struct {
		name string
		fn   func(*testing.B, []Key[int64], func(Key[int64]))
	}{{"alone", alone}, {"100goroutines", parallel}} {
		if floor != nil {
			b.Run(run.name+"/floor", func(b *testing.B) {
				m := benchFloor(keys)
				b.ReportAllocs()
				run.fn(b, keys, func(k Key[int64]) { floor(m, k) })
			})
		}
		b.Run(run.name+"/sluice", func(b *testing.B) {
			op := op(b)
			b.ReportAllocs()
			for _, k := range keys {
				op(k)
			}
			run.fn(b, keys, op)
		})
	}
}

func BenchmarkStateIncrement(b *testing.B) {
	benchState(b, func(m *sync.Map, k Key[int64]) {
		v, _ := m.Load(string(k))
		v.(*atomic.Int64).Add(1)
	}, func(b *testing.B) func(Key[int64]) {
		_, ctx := newState(b, SharedStateConfig{})
		return func(k Key[int64]) {
			if _, err := Increment(ctx, k, 1); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkStateGet(b *testing.B) {
	benchState(b, func(m *sync.Map, k Key[int64]) {
		if v, ok := m.Load(string(k)); !ok || v.(*atomic.Int64).Load() < 0 {
			b.Error("absent")
		}
	}, func(b *testing.B) func(Key[int64]) {
		_, ctx := newState(b, SharedStateConfig{})
		for _, k := range benchKeys() {
			k.Set(ctx, 1)
		}
		return func(k Key[int64]) {
			if _, _, err := k.Get(ctx); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkStateGetString(b *testing.B) {
	benchState(b, nil, func(b *testing.B) func(Key[int64]) {
		_, ctx := newState(b, SharedStateConfig{})
		for _, k := range benchKeys() {
			Key[string](k).Set(ctx, string(k))
		}
		return func(k Key[int64]) {
			if _, _, err := Key[string](k).Get(ctx); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkStateSetString(b *testing.B) {
	benchState(b, func(m *sync.Map, k Key[int64]) { m.Store(string(k)+"", "value") }, func(b *testing.B) func(Key[int64]) {
		_, ctx := newState(b, SharedStateConfig{})
		return func(k Key[int64]) {
			if _, err := Key[string](k).Set(ctx, "value"); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkStateUpdate(b *testing.B) {
	benchState(b, func(m *sync.Map, k Key[int64]) {
		v, _ := m.Load(string(k))
		for n := v.(*atomic.Int64); ; {
			if old := n.Load(); n.CompareAndSwap(old, old+1) {
				return
			}
		}
	}, func(b *testing.B) func(Key[int64]) {
		_, ctx := newState(b, SharedStateConfig{})
		return func(k Key[int64]) {
			if _, err := k.Update(ctx, func(old int64, ok bool) (int64, error) { return old + 1, nil }); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkStateIncrementInView(b *testing.B) {
	benchState(b, nil, func(b *testing.B) func(Key[int64]) {
		s, _ := newState(b, SharedStateConfig{})
		ctx := WithState(b.Context(), Must(s.View("run/42/", SharedStateConfig{})))
		return func(k Key[int64]) {
			if _, err := Increment(ctx, k, 1); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkStateTxn(b *testing.B) {
	benchState(b, nil, func(b *testing.B) func(Key[int64]) {
		s, ctx := newState(b, SharedStateConfig{})
		return func(k Key[int64]) {
			if err := s.Txn(ctx, func(ctx context.Context) error {
				if _, err := Increment(ctx, k, 1); err != nil {
					return err
				}
				_, err := Increment(ctx, k+"/twin", 1)
				return err
			}); err != nil {
				b.Error(err)
			}
		}
	})
}

// A store of a million counters, for its bytes per key.
func BenchmarkStateBytesPerKey(b *testing.B) {
	const n = 1_000_000
	var before, after runtime.MemStats
	for b.Loop() {
		s, ctx := newState(b, SharedStateConfig{MaxKeys: n, MaxBytes: 1 << 30})
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range n {
			if _, err := Increment(ctx, Key[int64](fmt.Sprintf("key/%08d", i)), 1); err != nil {
				b.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/key")
		runtime.KeepAlive(s)
	}
}
