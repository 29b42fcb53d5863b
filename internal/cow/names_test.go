package cow

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// set has a map's value of that name be n.
func set(n int) func(*int) (*int, error) { return func(*int) (*int, error) { return &n, nil } }

// A change is one snapshot more, which says what has changed; those before stay as they were.
func TestEachChangeIsASnapshot(t *testing.T) {
	var m Map[int]
	first := m.Now()
	require.Same(t, first, m.Now(), "until there is a change")
	require.Equal(t, Snapshot[int]{}, *first)
	require.NoError(t, m.Change("a", set(1)))
	one := m.Now()
	require.NoError(t, m.Change("b", set(2)))
	require.NoError(t, m.Change("a", func(was *int) (*int, error) { n := *was + 10; return &n, nil }))
	three := m.Now()
	require.Same(t, three, m.Now())
	require.True(t, m.Remove("b"))
	four := m.Now()
	for i, s := range []*Snapshot[int]{first, one, three, four} {
		got := map[string]int{}
		for name, v := range s.All {
			got[name] = *v
		}
		want := []map[string]int{{}, {"a": 1}, {"a": 11, "b": 2}, {"a": 11}}[i]
		require.Equal(t, want, got)
		require.Equal(t, []uint64{0, 1, 3, 4}[i], s.Seq)
		require.Equal(t, []string{"", "a", "a", "b"}[i], s.Name)
	}
}

// What is not to be leaves the snapshot that there is.
func TestWhatDoesNotChangeIsNoSnapshot(t *testing.T) {
	var m Map[int]
	require.NoError(t, m.Change("a", set(1)))
	now, failed := m.Now(), errors.New("failed")
	require.Equal(t, failed, m.Change("a", func(*int) (*int, error) { n := 2; return &n, failed }))
	require.NoError(t, m.Change("a", func(was *int) (*int, error) { return was, nil }))
	require.NoError(t, m.Change("b", func(was *int) (*int, error) { return was, nil }))
	require.False(t, m.Remove("b"))
	require.Same(t, now, m.Now())
	require.Panics(t, func() { _ = m.Change("a", func(*int) (*int, error) { panic("x") }) })
	require.NoError(t, m.Change("a", set(2)), "and the next has its turn")
}

// Writers take turns, and readers see each snapshot whole, in order.
func TestWritersTakeTurns(t *testing.T) {
	const writers, times = 4, 200
	var m Map[int]
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range times {
				_ = m.Change("sum", func(was *int) (*int, error) {
					n := 1
					if was != nil {
						n += *was
					}
					return &n, nil
				})
				name := fmt.Sprint(w)
				_ = m.Change(name, set(w))
				if !m.Remove(name) {
					t.Error("a name of its own has gone")
				}
			}
		})
	}
	var done atomic.Bool
	var reader sync.WaitGroup
	reader.Go(func() {
		last, sum := uint64(0), 0
		for !done.Load() {
			s := m.Now()
			if s.Seq < last {
				t.Errorf("snapshot %d after %d", s.Seq, last)
				return
			}
			if last = s.Seq; s.All["sum"] != nil {
				if *s.All["sum"] < sum {
					t.Errorf("%d after %d", *s.All["sum"], sum)
					return
				}
				sum = *s.All["sum"]
			}
		}
	})
	wg.Wait()
	done.Store(true)
	reader.Wait()
	require.Equal(t, uint64(writers*times*3), m.Now().Seq, "each change is a snapshot")
	require.Equal(t, writers*times, *m.Now().All["sum"], "no change is lost")
	require.Len(t, m.Now().All, 1)
}

// Who comes while another decides what to change has its turn afterwards, and finds what came of that.
func TestTheNextWriterFindsTheChange(t *testing.T) {
	var m Map[int]
	var next sync.WaitGroup
	var found *int
	require.NoError(t, m.Change("a", func(*int) (*int, error) {
		next.Go(func() {
			_ = m.Change("a", func(was *int) (*int, error) { found = was; n := 2; return &n, nil })
		})
		for range 1000 {
			runtime.Gosched() // it comes, and would be done by now
		}
		n := 1
		return &n, nil
	}))
	next.Wait()
	require.NotNil(t, found)
	require.Equal(t, 1, *found)
	require.Equal(t, 2, *m.Now().All["a"])
}
