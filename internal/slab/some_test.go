package slab

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSome(t *testing.T) {
	var s Some[[4]int]
	seen := make(map[*[4]int]bool)
	for i := range 50 {
		v := s.Take(7)
		require.Zero(t, *v)
		require.False(t, seen[v], "value %d was taken before", i)
		require.Same(t, v, s.Last())
		seen[v], v[0] = true, 1
	}
	require.InDelta(t, 1.0/7, testing.AllocsPerRun(700, func() { s.Take(7) }), 0.2)
}
