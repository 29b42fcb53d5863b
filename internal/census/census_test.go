package census

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whoever leaves a closed census last is told so, whichever way each came in.
func TestTheLastOneIsTold(t *testing.T) {
	var c Census
	a, b := c.Lane(3), c.Lane(3+lanes)
	require.Same(t, a, b, "two numbers share a lane")
	require.True(t, c.EnterBy(a))
	require.True(t, c.EnterBy(b))
	require.True(t, c.Enter())
	require.False(t, c.Closed())
	require.False(t, c.LeaveBy(b), "it is open")

	require.False(t, c.Close(), "two are inside")
	require.True(t, c.Closed())
	require.Equal(t, 2, c.Inside())
	require.False(t, c.LeaveBy(a), "one is inside")
	require.True(t, c.Leave())
	require.True(t, c.Close(), "nobody is inside")
}

// Who comes to a closed census is told so, and counts as long as it is inside.
func TestAClosedCensusCounts(t *testing.T) {
	var c Census
	require.True(t, c.EnterBy(c.Lane(0)))
	require.False(t, c.Close())
	require.False(t, c.EnterBy(c.Lane(0)))
	require.False(t, c.EnterBy(c.Lane(1)))
	require.False(t, c.Enter())
	c.Add(2)
	require.Equal(t, 6, c.Inside())
	require.False(t, c.Leave())
	require.False(t, c.LeaveBy(c.Lane(0)))
	require.False(t, c.LeaveBy(c.Lane(1)))
	c.Add(-2)
	require.True(t, c.LeaveBy(c.Lane(0)))
}

func TestSums(t *testing.T) {
	var c Census
	for i := range uint32(100) {
		c.Lane(i).Completed()
		c.Lane(i).Delivered(3)
	}
	require.EqualValues(t, 100, c.Completed())
	require.EqualValues(t, 300, c.Delivered())
}

// While some come and go, and hand over to others who have no lane, a census is closed: it is told
// to be empty only once nobody is inside who came before that, and somebody is told.
func TestStorm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range 300 {
		var c Census
		var busy atomic.Int64 // who found it open, and is inside
		var told atomic.Int64
		last := func(is bool) {
			if is {
				told.Add(1)
				require.Zero(t, busy.Load(), "inside when it is empty")
			}
		}
		var all sync.WaitGroup
		for g := range uint32(4) {
			r := rand.New(rand.NewPCG(seed, uint64(round)<<8|uint64(g)))
			all.Go(func() {
				for range 200 {
					l := c.Lane(r.Uint32N(3))
					open := c.EnterBy(l)
					if open {
						busy.Add(1)
					}
					if hands := open && r.IntN(3) == 0; hands {
						c.Add(1)
						busy.Add(1)
						all.Go(func() {
							busy.Add(-1)
							last(c.Leave())
						})
					}
					if open {
						busy.Add(-1)
					}
					last(c.LeaveBy(l))
				}
			})
		}
		for range 2 {
			all.Go(func() { last(c.Close()) })
		}
		all.Wait()
		require.Zero(t, c.Inside())
		require.NotZero(t, told.Load())
	}
}
