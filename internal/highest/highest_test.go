package highest

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRaise(t *testing.T) {
	var x atomic.Int32
	require.False(t, Raise(&x, int32(0)), "it was that already")
	require.True(t, Raise(&x, int32(5)))
	require.False(t, Raise(&x, int32(5)))
	require.False(t, Raise(&x, int32(-7)))
	require.Equal(t, int32(5), x.Load())
}

// raced is a number that another raises, once, right before whoever has read it does.
type raced struct {
	atomic.Int64
	to int64
}

func (x *raced) CompareAndSwap(was, n int64) bool {
	if x.to != 0 {
		x.Store(x.to)
		x.to = 0
	}
	return x.Int64.CompareAndSwap(was, n)
}

// Who is overtaken tries again, unless the other was higher.
func TestRaiseThatIsOvertaken(t *testing.T) {
	x := &raced{to: 3}
	require.True(t, Raise(x, int64(4)))
	require.Equal(t, int64(4), x.Load())
	x = &raced{to: 5}
	require.False(t, Raise(x, int64(4)))
	require.Equal(t, int64(5), x.Load())
}

// Of many who raise it to the same, one has.
func TestOneHasRaisedIt(t *testing.T) {
	const goroutines, steps = 4, 2000
	var x, raised atomic.Int64
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(func() {
			for n := int64(1); n <= steps; n++ {
				if Raise(&x, n) {
					raised.Add(1)
				}
			}
		})
	}
	wg.Wait()
	require.Equal(t, int64(steps), x.Load())
	require.LessOrEqual(t, raised.Load(), int64(steps), "no number is anybody's twice")
}
