package admit

import (
	"slices"
	"testing"

	"github.com/sluice-go/sluice/internal/breaker"
	"github.com/stretchr/testify/require"
)

// The open times of a machine's breakers are exact without a seed. With one each differs, and equal seeds give
// the same.
func TestOpenTimesGoByTheSeed(t *testing.T) {
	const n, cooldown = 100, 100 * sec
	times := func(seed uint64) (list []int64) {
		w := newWorld(t, standard())
		w.m.Seed(seed)
		k := circuit("breaker", breaker.Config{Failures: 1, Cooldown: cooldown})
		k.MaxKeys = n
		for i := range n {
			p := part{k, string(rune('a' + i)), 1}
			w.ended(w.arrive("fails", 4, "", p), breaker.Failure)
			list = append(list, w.m.Cell(w.now, k, p.key).Usage(w.now).Until-w.now)
		}
		return list
	}
	require.Equal(t, slices.Repeat([]int64{cooldown}, n), times(0))
	one := times(1)
	require.Equal(t, one, times(1))
	require.NotEqual(t, one, times(2))
	slices.Sort(one)
	require.Len(t, slices.Compact(one), n)
	require.GreaterOrEqual(t, one[0], 85*sec)
	require.Less(t, one[0], 88*sec)
	require.Greater(t, one[n-1], 112*sec)
	require.LessOrEqual(t, one[n-1], 115*sec)
}
