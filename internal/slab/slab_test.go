package slab

import (
	"sync"
	"testing"
)

func TestValuesAreZeroAndNobodyElses(t *testing.T) {
	var s Slab[[4]int]
	var mu sync.Mutex
	seen := make(map[*[4]int]bool)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 10 * size {
				v := s.Take()
				if *v != [4]int{} {
					t.Error("a value is not zero")
				}
				v[0] = 1
				mu.Lock()
				if seen[v] {
					t.Error("a value was taken twice")
				}
				seen[v] = true
				mu.Unlock()
			}
		})
	}
	all.Wait()
}

var sink *[32]int

// What a slab is for: compare with BenchmarkNew.
func BenchmarkTake(b *testing.B) {
	var s Slab[[32]int]
	b.ReportAllocs()
	for b.Loop() {
		sink = s.Take()
	}
}

func BenchmarkNew(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		sink = new([32]int)
	}
}
