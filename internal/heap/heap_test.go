package heap

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

type item struct {
	key   int
	sub   uint64
	place int32
}

// TestHeap drives a heap beside a sorted slice.
func TestHeap(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		h := Heap[int, *item]{Place: func(x *item, i int32) { x.place = i }}
		var model []*item
		for step := range 300 {
			key, sub := rnd.IntN(40), rnd.Uint64N(4)
			switch n := rnd.IntN(10); {
			case n < 5 || len(model) == 0:
				x := &item{key, sub, -1}
				h.Push(key, sub, x)
				model = append(model, x)
			case n < 7:
				x := model[rnd.IntN(len(model))]
				x.key, x.sub = key, sub
				h.Fix(x.place, key, sub)
			default:
				i := rnd.IntN(len(model))
				x := model[i]
				h.Remove(x.place)
				model = slices.Delete(model, i, i+1)
				require.Equal(t, int32(-1), x.place, "seed %d, step %d: what has left is at", seed, step)
			}
			require.NoError(t, check(&h, model), "seed %d, step %d", seed, step)
		}
	}
}

func check(h *Heap[int, *item], model []*item) error {
	if h.Len() != len(model) || len(slices.Collect(h.All())) != len(model) {
		return fmt.Errorf("%d elements, want %d", h.Len(), len(model))
	}
	first := h.Len() == 0
	for _, x := range model {
		if h.a[x.place].key != x.key {
			return fmt.Errorf("at %d the key is %d, want %d", x.place, h.a[x.place].key, x.key)
		}
		if top := h.Top(); x.key < top.key || x.key == top.key && x.sub < top.sub {
			return fmt.Errorf("the top is %d.%d, but there is %d.%d", top.key, top.sub, x.key, x.sub)
		}
		first = first || x == h.Top() && h.Min() == x.key
	}
	if !first {
		return fmt.Errorf("the top is %d of none that is there", h.Min())
	}
	return nil
}

// A heap that was large once gives up its room when it is empty, a small one keeps it.
func TestAnEmptyHeapKeepsLittleRoom(t *testing.T) {
	for _, n := range []int{keep / 2, 10 * keep} {
		h := Heap[int, int]{Place: func(int, int32) {}}
		for i := range n {
			h.Push(i, 0, i)
		}
		for h.Len() > 0 {
			h.Remove(int32(h.Len() - 1))
		}
		if c := cap(h.a); c > 2*keep || n <= keep && c < n {
			t.Errorf("after %d elements there is room for %d", n, c)
		}
	}
}
