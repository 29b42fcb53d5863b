package slab

import (
	"sync"
	"testing"
)

// No value is given to two, and each is zero at first.
func TestEachIsNew(t *testing.T) {
	var s Slab[int]
	var mu sync.Mutex
	seen := map[*int]bool{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				v := s.Take()
				if *v != 0 {
					t.Error("one is not zero")
				}
				*v = 1
				mu.Lock()
				if seen[v] {
					t.Error("one was given twice")
				}
				seen[v] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func BenchmarkTake(b *testing.B) {
	b.ReportAllocs()
	var s Slab[[256]byte]
	for b.Loop() {
		s.Take()
	}
}
