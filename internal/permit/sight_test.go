package permit

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A call is found for good, or parted from for good.
func TestSight(t *testing.T) {
	t.Run("found", func(t *testing.T) {
		var s Sight
		require.Equal(t, Found, s.Find())
		require.False(t, s.Part(Ending))
		require.False(t, s.Part(Gone))
		s.Ended()
		require.Equal(t, Found, s.Find())
	})
	t.Run("parted while its end is told", func(t *testing.T) {
		var s Sight
		require.True(t, s.Part(Ending))
		require.Equal(t, Ending, s.Find())
		require.False(t, s.Part(Gone))
		s.Ended()
		require.Equal(t, Gone, s.Find())
	})
	t.Run("parted at once", func(t *testing.T) {
		var s Sight
		require.True(t, s.Part(Gone))
		require.Equal(t, Gone, s.Find())
		s.Ended()
		require.Equal(t, Gone, s.Find())
	})
	t.Run("over before it parted", func(t *testing.T) {
		var s Sight
		s.Ended()
		require.Equal(t, Found, s.Find())
	})
}

// Of several who look and one who parts, all learn the same.
func TestSight_AtOnce(t *testing.T) {
	for range 2000 {
		var s Sight
		var parted bool
		var saw [3]Seen
		var all sync.WaitGroup
		for i := range saw {
			all.Go(func() { saw[i] = s.Find() })
		}
		all.Go(func() { parted = s.Part(Gone) })
		all.Wait()
		want := Found
		if parted {
			want = Gone
		}
		require.Equal(t, [3]Seen{want, want, want}, saw)
	}
}
