package agent

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fill takes what may go in.
func fill(f *feed) (calls []int) {
	for {
		i, ok := f.next()
		if !ok {
			return calls
		}
		calls = append(calls, i)
	}
}

func TestFeed_PutsBackInOrder(t *testing.T) {
	f := newFeed([]string{"a", "b", "a", "b", "a"}, 0)
	require.Equal(t, []int{0, 1, 2, 3, 4}, fill(f))
	f.waits(0)
	require.True(t, f.full(4))
	require.True(t, f.full(2))
	require.True(t, f.full(3))
	require.Empty(t, fill(f), "0 and 1 may wait yet")
	f.starts(0)
	require.Equal(t, []int{2}, fill(f), "one place is free")
	f.starts(1)
	require.Empty(t, fill(f), "it was not known to wait")
	require.True(t, f.calls[2].phase == arrived)
	f.waits(2)
	f.starts(2)
	require.Equal(t, []int{3}, fill(f))
	f.starts(3)
	require.Equal(t, []int{4}, fill(f), "it took no place")
	require.False(t, f.full(4), "nobody else of the batch waits")
	f.ends(4)
	for i := range 4 {
		f.ends(i)
	}
	require.Zero(t, f.left)
}

func TestFeed_PutsBackBetweenOthers(t *testing.T) {
	f := newFeed([]string{"a", "a", "a", "a", "a"}, 0)
	require.Len(t, fill(f), 5)
	for _, i := range []int{4, 1, 3, 2} {
		require.True(t, f.full(i))
	}
	f.hurry()
	require.Equal(t, []int{1, 2, 3, 4}, fill(f))
}

// A call that went in again and did not have to wait has left the place to the next.
func TestFeed_APlaceThatIsNotTakenIsForTheNext(t *testing.T) {
	f := newFeed([]string{"a", "a", "a", "a", "a"}, 0)
	require.Len(t, fill(f), 5)
	f.waits(0)
	f.waits(1)
	for _, i := range []int{2, 3, 4} {
		require.True(t, f.full(i))
	}
	f.starts(0)
	require.Equal(t, []int{2}, fill(f))
	f.starts(2)
	require.Equal(t, []int{3}, fill(f), "though 1 waits")
	f.rests(3)
	require.Empty(t, fill(f), "it found the queue full, and tries again by itself")
}

func TestFeed_KeepsWithinParallel(t *testing.T) {
	f := newFeed([]string{"a", "b", "c", "d"}, 2)
	require.Equal(t, []int{0, 1}, fill(f))
	f.starts(0)
	require.Empty(t, fill(f))
	f.ends(1)
	require.Equal(t, []int{2}, fill(f))
	f.hurry()
	require.Equal(t, []int{3}, fill(f))
}

// TestFeed_AlwaysGoesOn plays random queues, of which others may have a part, and holds that every call ends, each once,
// and that none is refused while calls of the batch itself wait.
func TestFeed_AlwaysGoesOn(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 4_000 {
		tools := make([]string, rnd.IntN(20))
		for i := range tools {
			tools[i] = string(rune('a' + rnd.IntN(3)))
		}
		f := newFeed(tools, rnd.IntN(4))
		room, others := rnd.IntN(5), rnd.IntN(2) == 0
		var unseen, queue, running []int // submitted, of which nothing was told yet; and where they are
		ended := map[int]bool{}
		for f.left > 0 {
			if i, ok := f.next(); ok {
				require.False(t, ended[i])
				unseen = append(unseen, i)
				if rnd.IntN(2) == 0 {
					continue
				}
			}
			all := slices.Concat(unseen, queue, running)
			require.NotEmpty(t, all, "somebody is under way, or may go in")
			require.Len(t, all, f.under)
			take := func(from *[]int) int {
				at := rnd.IntN(len(*from))
				i := (*from)[at]
				*from = slices.Delete(*from, at, at+1)
				return i
			}
			end := func(i int) { f.ends(i); ended[i] = true }
			switch {
			case len(unseen) > 0 && rnd.IntN(2) == 0:
				i := take(&unseen)
				switch {
				case len(running) < 2:
					f.starts(i)
					running = append(running, i)
				case rnd.IntN(10) == 0: // it is refused for another reason
					end(i)
				case len(queue) < room:
					f.waits(i)
					queue = append(queue, i)
				case f.full(i):
				default:
					require.True(t, f.open || f.calls[i].alone && len(queue)+len(unseen) == 0, "only others have filled the queue")
					end(i)
				}
			case len(queue) > 0 && rnd.IntN(2) == 0:
				i := take(&queue)
				if rnd.IntN(5) == 0 && f.full(i) { // it had to go for another
					continue
				}
				f.starts(i)
				running = append(running, i)
			case len(running) > 0:
				i := take(&running)
				switch rnd.IntN(6) {
				case 0: // another attempt
					f.rests(i)
					f.waits(i)
					queue = append(queue, i)
				default:
					end(i)
				}
			}
			if others && rnd.IntN(4) == 0 {
				room = rnd.IntN(5)
			}
			if rnd.IntN(200) == 0 {
				f.hurry()
			}
		}
		require.Len(t, ended, len(tools))
		require.Zero(t, f.under)
		require.Zero(t, f.waiting)
		require.Zero(t, f.pending)
		require.Empty(t, f.started)
	}
}
