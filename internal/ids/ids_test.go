package ids

import (
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Ids of calls do not repeat where a counter of fewer bits would begin anew.
func TestCallIDsDoNotRepeat(t *testing.T) {
	for _, bits := range []int{16, 24, 32, 48, 63} {
		var b Calls
		seen := make(map[string]bool)
		for _, made := range []uint64{0, 1<<bits - 70, 1 << bits, 1<<bits + 200} {
			b.mu.Lock()
			n := strconv.FormatUint(made, 32)
			copy(b.made[:], strings.Repeat("0", countLen-len(n))+n)
			b.block.Store(nil)
			b.mu.Unlock()
			var mu sync.Mutex
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					for range 35 {
						id := b.Next()
						mu.Lock()
						if seen[id] || len(id) != idLen {
							t.Errorf("the id %s came before, or has not %d bytes, near 1<<%d calls", id, idLen, bits)
						}
						seen[id] = true
						mu.Unlock()
					}
				})
			}
			wg.Wait()
		}
	}
}

// The counter counts as numbers to the base 32 do.
func TestCount(t *testing.T) {
	var c Calls
	copy(c.made[:], "0000000000000")
	for n := uint64(1); n < 100_000; n++ {
		c.count()
		if got := strings.TrimLeft(string(c.made[:]), "0"); got != strconv.FormatUint(n, 32) {
			t.Fatalf("%s after %d", got, n)
		}
	}
}

// No key of whoever takes some at a time is another's.
func TestKeysDoNotRepeat(t *testing.T) {
	var mu sync.Mutex
	seen := make(map[uint64]bool)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			var k Keys
			for range 3*keysAtOnce + 5 {
				key, other := k.Next(), NextKey()
				mu.Lock()
				if seen[key] || seen[other] || key == other || key == 0 {
					t.Errorf("key %d or %d came before", key, other)
				}
				seen[key], seen[other] = true, true
				mu.Unlock()
			}
		})
	}
	all.Wait()
}

// No key has no text.
func TestKeyText(t *testing.T) {
	if got := KeyText(0); got != nil {
		t.Errorf("%q of no key", got)
	}
	if got, want := string(KeyText(36)), process+"-10"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
