package admit

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTable drives a table beside a map, with hashes that meet often.
func TestTable(t *testing.T) {
	type thing struct{ hash, key uint64 }
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for n := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, n))
		var tab table[thing]
		model := map[uint64]*thing{}
		span := 1 + r.Uint64N(60)
		for range 500 {
			key := r.Uint64N(span)
			hash := key % 7 << r.Uint64N(2)
			find := func(h uint64) *thing { return tab.find(h, func(x *thing) bool { return x.key == key }) }
			x := model[key]
			if x != nil {
				require.Same(t, x, find(x.hash))
				tab.remove(x.hash, x)
				require.Nil(t, find(x.hash))
				delete(model, key)
			} else {
				require.Nil(t, find(hash))
				x = &thing{hash, key}
				tab.add(hash, x)
				model[key] = x
			}
			seen := 0
			for x := range tab.all {
				seen++
				require.Same(t, model[x.key], x)
			}
			require.Equal(t, len(model), seen)
			require.Equal(t, len(model), tab.n)
		}
	}
}

// A table that was large once gives up its room when it is empty, a small one keeps it.
func TestAnEmptyTableKeepsLittleRoom(t *testing.T) {
	for _, n := range []int{keep / 4, 10 * keep} {
		var tab table[int]
		list := make([]int, n)
		for i := range list {
			tab.add(uint64(i), &list[i])
		}
		for i := range list {
			tab.remove(uint64(i), &list[i])
		}
		require.Equal(t, n > keep, tab.slots == nil, "after %d", n)
	}
}
