package deadline

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Who bounds what is bounded already leaves less or changes nothing, and no time overflows.
func TestBound(t *testing.T) {
	var none *Bound
	require.Equal(t, int64(7), none.Until(7))
	outer, ok := none.Less(100, 50, errLate)
	require.True(t, ok)
	require.Equal(t, Bound{Due: 150, Cause: errLate}, outer)
	_, ok = outer.Less(110, 40, nil)
	require.False(t, ok, "as much")
	inner, ok := outer.Less(110, 39, nil)
	require.True(t, ok)
	require.Equal(t, Bound{Due: 149, Cause: context.DeadlineExceeded, Up: &outer}, inner)
	require.Equal(t, int64(149), inner.Until(1000))
	require.Equal(t, int64(7), inner.Until(7))
	past, ok := outer.Less(110, -time.Hour, nil)
	require.True(t, ok)
	require.Equal(t, int64(110), past.Due)
	far, ok := none.Less(110, math.MaxInt64, nil)
	require.True(t, ok)
	require.Greater(t, far.Due, int64(math.MaxInt64/4))
}
