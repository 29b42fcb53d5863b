package dropq

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// gate is a function that takes letters, once it is open.
type gate struct {
	open  chan struct{}
	taken strings.Builder
}

func (g *gate) take(c *rune) error {
	<-g.open
	g.taken.WriteRune(*c)
	return nil
}

// What may get lost goes first, the oldest before others; order is kept.
func TestLastItemsAreLostLast(t *testing.T) {
	for _, tt := range []struct {
		put  string // capitals are last items
		want string
		errs int // of Puts whose own item was lost
	}{
		{"abc", "abc", 0},
		{"abcdef", "def", 0},
		{"AbCD", "ACD", 0},
		{"AbCd", "ACd", 0},
		{"ABCdef", "ABC", 3},
		{"ABCD", "BCD", 0},
		{"aBcDeFgH", "DFH", 1},
		{"abcABCDdE", "CDE", 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := &gate{open: make(chan struct{})}
			q := New(3, g.take)
			first, errs := '-', 0
			q.Put(&first, false)
			synctest.Wait() // in the function's hands
			for _, c := range tt.put {
				if err := q.Put(&c, c < 'a'); err != nil {
					if err != ErrFull {
						t.Error(err)
					}
					errs++
				}
			}
			close(g.open)
			assert.NoError(t, q.Close(t.Context()))
			if got := g.taken.String(); got != "-"+tt.want || errs != tt.errs {
				t.Errorf("%s: got %s, want -%s; %d errors, want %d", tt.put, got, tt.want, errs, tt.errs)
			}
			assert.Equal(t, Counts{uint64(len(tt.want) + 1), 0, uint64(len(tt.put) - len(tt.want))}, q.Counts())
			if err := q.Put(&first, true); err != ErrClosed {
				t.Error(err)
			}
		})
	}
}

// A function that blocks costs no memory beyond the queue's, and no allocation.
func TestQueueThatIsFullCostsNothingMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		q := New(100, g.take)
		c := 'x'
		for range 200 {
			q.Put(&c, false)
		}
		assert.Zero(t, testing.AllocsPerRun(1000, func() { q.Put(&c, false) }),
			"allocations for an item that takes another's place")
		assert.Len(t, q.nodes, 101, "nodes for a queue of 100")
		close(g.open)
		assert.NoError(t, q.Close(t.Context()))
	})
}

// Each item is counted once, whatever the function does with it and whenever Close gives up.
func TestCountsAreExact(t *testing.T) {
	for name, tt := range map[string]struct {
		take func(ctx context.Context, n int) error
		want Counts
		err  error
	}{
		"fails": {func(context.Context, int) error { return errors.New("down") }, Counts{9, 9, 0}, nil},
		"exits": {func(_ context.Context, n int) error { runtime.Goexit(); return nil }, Counts{9, 9, 0}, nil},
		"is slow": {func(context.Context, int) error { time.Sleep(3 * time.Second); return nil },
			Counts{3, 0, 6}, context.DeadlineExceeded},
		"blocks": {func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() },
			Counts{0, 0, 9}, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var q *Queue[int]
				q = New(9, func(n *int) error { return tt.take(q.Context(context.Background()), *n) })
				for n := range 9 {
					q.Put(&n, false)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if err := q.Close(ctx); err != tt.err {
					t.Error(err)
				}
				assert.Equal(t, tt.want, q.Counts())
				time.Sleep(time.Minute) // a goroutine that is left fails the bubble
				assert.Equal(t, tt.want, q.Counts())
			})
		})
	}
}

// The function may close its own queue by the context that it was given, and waits for
// another one's.
func TestFunctionMayCloseItsOwnQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		inner := New(9, g.take)
		time.AfterFunc(time.Second, func() { close(g.open) })
		var outer *Queue[rune]
		outer = New(9, func(c *rune) error {
			ctx := outer.Context(t.Context())
			start := time.Now()
			err := outer.Close(context.WithoutCancel(ctx))
			took := time.Since(start)
			assert.Zero(t, took, "waited %v for itself", took)
			return errors.Join(err, inner.Put(c, false), inner.Close(ctx))
		})
		c := 'x'
		outer.Put(&c, false)
		assert.NoError(t, outer.Close(t.Context()))
		assert.Equal(t, Counts{1, 0, 0}, outer.Counts())
		assert.Equal(t, "x", g.taken.String(), "the inner queue's function took")
	})
}
