package permit

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// A result is of an attempt of its own call, as long as that is one of the last few.
func TestSource_OfWhichAttempt(t *testing.T) {
	const key = 0xfedcba9876543210
	require.Zero(t, Source(0).Attempt(key, 1), "of none")
	require.Zero(t, SourceOf(key, 0))
	for _, begun := range []int32{1, 2, toldApart, toldApart + 1, 1000} {
		for n := max(1, begun-toldApart+1); n <= begun; n++ {
			s := SourceOf(key, n)
			require.Equal(t, n, s.Attempt(key, begun), "attempt %d of %d", n, begun)
			require.Zero(t, s.Attempt(key+1, begun), "of another call")
			require.Zero(t, s.MaxBytes())
		}
	}
	require.Equal(t, math.MaxInt32, Source(math.MaxInt32).MaxBytes())
}
