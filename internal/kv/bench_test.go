package kv

import (
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"testing"
)

// The machine alone, without contexts and types, beside a sync.Map of atomics.
func BenchmarkMachine(b *testing.B) {
	var keys []string
	for i := range 1000 {
		keys = append(keys, fmt.Sprint("key/", i))
	}
	s, root := newTest(math.MaxInt, math.MaxInt)
	num := s.NumBox(number{}, Int64)
	var m sync.Map
	for _, k := range keys {
		s.Add(root, k, num, 1, Keep)
		m.Store(k, new(atomic.Int64))
	}
	for _, c := range []struct {
		name string
		op   func(k string)
	}{
		{"hash", func(k string) { maphash.String(s.seed, k) }},
		{"find", func(k string) { s.find(root, k) }},
		{"get/floor", func(k string) { v, _ := m.Load(k); v.(*atomic.Int64).Load() }},
		{"get", func(k string) { s.Get(root, k) }},
		{"add/floor", func(k string) { v, _ := m.Load(k); v.(*atomic.Int64).Add(1) }},
		{"add", func(k string) { s.Add(root, k, num, 1, Keep) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			i := 0
			for b.Loop() {
				c.op(keys[i%len(keys)])
				i++
			}
		})
	}
}
