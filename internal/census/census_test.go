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
	require.False(t, c.LeaveBy(b, 0, 0), "it is open")

	require.False(t, c.Close(), "two are inside")
	require.True(t, c.Closed())
	require.Equal(t, 2, c.Inside())
	require.False(t, c.LeaveBy(a, 0, 0), "one is inside")
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
	require.False(t, c.LeaveBy(c.Lane(0), 0, 0))
	require.False(t, c.LeaveBy(c.Lane(1), 0, 0))
	c.Add(-2)
	require.True(t, c.LeaveBy(c.Lane(0), 0, 0))
}

func TestSums(t *testing.T) {
	var c Census
	for i := range uint32(100) {
		c.EnterBy(c.Lane(i))
		c.LeaveBy(c.Lane(i), i%2, 3)
	}
	c.Completed()
	c.Delivered(4)
	calls, events := c.Sums()
	require.EqualValues(t, 51, calls)
	require.EqualValues(t, 304, events)
}

// However many leave by one lane, it says how many are inside, and nothing is lost or counted twice.
func TestSums_CarriedOver(t *testing.T) {
	var c Census
	l := c.Lane(7)
	const most = 1 << 21 / MostDelivered // calls that fill the word, if nobody carries over
	for range 3 {
		c.EnterBy(l) // and stay
	}
	for i := range uint64(5 * most) {
		c.EnterBy(l)
		require.False(t, c.LeaveBy(l, 1, MostDelivered))
		if i%997 == 0 {
			calls, events := c.Sums()
			require.Equal(t, i+1, calls)
			require.Equal(t, MostDelivered*(i+1), events)
		}
	}
	for range 1 << 18 {
		c.EnterBy(l)
		c.LeaveBy(l, 1, 0)
	}
	calls, events := c.Sums()
	require.EqualValues(t, 5*most+1<<18, calls)
	require.EqualValues(t, 5*most*MostDelivered, events)
	require.False(t, c.Close())
	require.Equal(t, 3, c.Inside())
	require.False(t, c.LeaveBy(l, 1, 2))
	require.False(t, c.LeaveBy(l, 0, 0))
	require.True(t, c.LeaveBy(l, 0, 0))
	calls, events = c.Sums()
	require.EqualValues(t, 5*most+1<<18+1, calls)
	require.EqualValues(t, 5*most*MostDelivered+2, events)
}

// Who adds up while others carry over sees a number that never falls, and all of it in the end.
func TestSums_WhileOthersCarryOver(t *testing.T) {
	var c Census
	const goroutines, calls = 4, 100_000
	var all sync.WaitGroup
	for range goroutines {
		all.Go(func() {
			for range calls {
				c.EnterBy(c.Lane(1))
				c.LeaveBy(c.Lane(1), 1, MostDelivered)
			}
		})
	}
	for last := uint64(0); last < goroutines*calls; {
		n, events := c.Sums()
		require.GreaterOrEqual(t, n, last)
		require.Equal(t, MostDelivered*n, events, "of one instant")
		last = n
	}
	all.Wait()
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
					last(c.LeaveBy(l, 0, 0))
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
