package ctxwatch

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
)

// call is one that waits.
type call struct {
	place Place[*call]
	told  atomic.Int32 // that its context has ended
}

func (c *call) Place() *Place[*call] { return &c.place }

// counted is a Set whose goroutines are counted, as they are for whoever closes.
type counted struct {
	*Set[*call]
	now atomic.Int64
}

func newCounted() *counted {
	s := new(counted)
	s.Set = New(func() { s.now.Add(1) }, func() { s.now.Add(-1) }, func(c *call) { c.told.Add(1) })
	return s
}

// watches fails the test unless so many Done channels are watched, each of which is counted.
func (s *counted) watches(t *testing.T, want int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byDone) != want || s.now.Load() != int64(want) {
		t.Errorf("%d Done channels are watched and %d goroutines are to come, want %d", len(s.byDone), s.now.Load(), want)
	}
	for _, w := range s.byDone {
		if len(w.calls) == 0 || w.fired {
			t.Errorf("a watch has %d calls and fired is %v", len(w.calls), w.fired)
		}
		for i, c := range w.calls {
			if c.place.watch != w || int(c.place.index) != i {
				t.Errorf("call %d of a watch believes to be number %d", i, c.place.index)
			}
		}
	}
}

// is fails the test unless c was told, and says so, or was not.
func (c *call) is(t *testing.T, fired bool) {
	t.Helper()
	if n := c.told.Load(); (n == 1) != fired || n > 1 || c.place.Fired() != fired || c.place.watch != nil {
		t.Errorf("told %d times, Fired is %v, watched is %v; want fired %v, and watched no more",
			n, c.place.Fired(), c.place.watch != nil, fired)
	}
}

type key struct{}

func TestAdd_CallsOfOneDoneChannelAreWatchedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCounted()
		odd, cancel := context.WithCancel(t.Context())
		even, stop := context.WithCancel(t.Context())
		defer stop()
		var calls [50]call
		for i := range calls {
			s.Add(context.WithValue([]context.Context{even, odd}[i%2], key{}, i), &calls[i])
		}
		var never, unwatched call
		s.Add(context.Background(), &never)
		s.watches(t, 2)
		for _, c := range []*call{&never, &unwatched} {
			s.Remove(c)
			c.is(t, false)
		}
		s.Remove(&calls[25]) // odd
		cancel()
		synctest.Wait()
		s.watches(t, 1)
		for i := 1; i < len(calls); i += 2 {
			calls[i].is(t, i != 25)
			s.Remove(&calls[i]) // it is in the set no more
		}
		for i := 0; i < len(calls); i += 2 { // from the middle, the front and the end
			j := (i*7 + 20) % len(calls)
			s.Remove(&calls[j])
			calls[j].is(t, false)
			if i+2 < len(calls) {
				s.watches(t, 1)
			}
		}
		s.watches(t, 0)
	})
}

func TestAdd_AContextThatHasEndedIsToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCounted()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var c call
		s.Add(ctx, &c)
		synctest.Wait()
		s.watches(t, 0)
		c.is(t, true)
	})
}

// foreign is a context of somebody's own making.
type foreign struct {
	context.Context
	before, after func() // around its AfterFunc
	left          func() // before it is stopped
}

func do(f func()) {
	if f != nil {
		f()
	}
}

func (c foreign) AfterFunc(f func()) (stop func() bool) {
	do(c.before)
	end := context.AfterFunc(c.Context, f)
	do(c.after)
	return func() bool { do(c.left); return end() }
}

// Value hides what the standard library would ask instead.
func (foreign) Value(any) any { return nil }

// The watch fires before it is in the set, whether others of its Done channel are or not.
func TestOpen_BeginAgainstFire(t *testing.T) {
	for _, shared := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newCounted()
			ctx, cancel := context.WithCancel(t.Context())
			var c, other call
			w := s.begin(ctx, ctx.Done())
			if shared {
				s.Add(ctx, &other)
			}
			cancel()
			synctest.Wait()
			assert.True(t, s.open(w, &c), "a call whose context has ended was not told")
			c.is(t, true)
			other.is(t, shared)
			s.watches(t, 0)
		})
	}
}

// The context ends while another watches it, and before this one is stopped.
func TestStop_OfAWatchThatHasFired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCounted()
		ctx, cancel := context.WithCancel(t.Context())
		w := s.begin(ctx, ctx.Done())
		cancel()
		synctest.Wait()
		s.stop(w)
		s.watches(t, 0)
	})
}

// Two begin to watch one Done channel: the later joins the earlier, and stops its own.
func TestAdd_BeginAgainstBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCounted()
		base, cancel := context.WithCancel(t.Context())
		defer cancel()
		var first, later call
		asked, stopped := 0, 0
		s.Add(foreign{Context: base, before: func() {
			asked++
			s.Add(base, &first)
		}, left: func() { stopped++ }}, &later)
		s.watches(t, 1)
		if asked != 1 || stopped != 1 || later.place.watch != first.place.watch {
			t.Errorf("asked %d times, stopped %d times, together: %v", asked, stopped, later.place.watch == first.place.watch)
		}
		s.Remove(&first)
		s.watches(t, 1)
		s.Remove(&later)
		s.watches(t, 0)
	})
}

// The earlier is gone again when the later comes to join it: the later begins anew.
func TestAdd_BeginAgainstBeginAndRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCounted()
		base, cancel := context.WithCancel(t.Context())
		defer cancel()
		var first, later call
		asked := 0
		s.Add(foreign{Context: base, before: func() {
			if asked++; asked == 1 {
				s.Add(base, &first)
			}
		}, left: func() { s.Remove(&first) }}, &later)
		s.watches(t, 1)
		first.is(t, false)
		assert.Equal(t, 2, asked, "asked %d times", asked)
		s.Remove(&later)
		s.watches(t, 0)
	})
}

// A context that panics or calls Goexit leaves the call unwatched, and nothing that is counted.
func TestContext_ThatMisbehaves(t *testing.T) {
	for name, how := range map[string]func(){"panic": func() { panic("odd") }, "Goexit": runtime.Goexit} {
		for _, when := range []string{"asked", "stopped since another began", "removed"} {
			t.Run(name+" "+when, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newCounted()
					base, cancel := context.WithCancel(t.Context())
					defer cancel()
					var c, other call
					ctx := foreign{Context: base}
					left := 0
					switch when {
					case "asked":
						ctx.before = how
					case "removed":
						ctx.left = how
					default:
						ctx.before, ctx.left, left = func() { s.Add(base, &other) }, how, 1
					}
					go func() {
						defer func() { recover() }()
						s.Add(ctx, &c)
						s.Remove(&c)
						t.Error("the context's code has not ended it")
					}()
					synctest.Wait()
					c.is(t, false)
					s.watches(t, left)
					s.Remove(&other)
					s.watches(t, 0)
				})
			})
		}
	}
}

func TestContext_IsAskedUnderNoLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCounted()
		asked := 0
		look := func() {
			if asked++; !s.mu.TryLock() {
				t.Error("the context is asked under the lock")
				return
			}
			s.mu.Unlock()
		}
		base, cancel := context.WithCancel(t.Context())
		defer cancel()
		var c call
		s.Add(foreign{base, look, look, look}, &c)
		s.Remove(&c)
		assert.Equal(t, 3, asked, "the context was asked %d times", asked)
		s.watches(t, 0)
	})
}

// A call is removed while its context ends: it is told, once, or it is not, and says which.
func TestRemove_FinishAgainstFire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCounted()
		for range 500 {
			ctx, cancel := context.WithCancel(context.Background())
			var calls [4]call
			var fired [4]bool
			for i := range calls {
				s.Add(ctx, &calls[i])
			}
			var wg sync.WaitGroup
			for i := range calls[:3] {
				wg.Go(func() {
					s.Remove(&calls[i])
					fired[i] = calls[i].place.Fired() // from here on that is fixed
				})
			}
			wg.Go(cancel)
			wg.Wait()
			synctest.Wait()
			for i := range calls {
				calls[i].is(t, fired[i] || i == 3)
			}
			s.watches(t, 0)
		}
	})
}

// Calls of one Done channel come and go while it ends.
func TestSet_EverythingAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCounted()
		for range 200 {
			ctx, cancel := context.WithCancel(context.Background())
			var calls [6][5]call
			var wg sync.WaitGroup
			for n := range calls {
				wg.Go(func() {
					for i := range calls[n] {
						s.Add(ctx, &calls[n][i])
						if n%2 == 0 {
							s.Remove(&calls[n][i])
						}
					}
				})
			}
			wg.Go(cancel)
			wg.Wait()
			synctest.Wait()
			for n := range calls {
				for i := range calls[n] {
					c := &calls[n][i]
					c.is(t, n%2 == 1 || c.place.Fired())
				}
			}
			s.watches(t, 0)
		}
	})
}

// A map keeps the room for as many as it ever had.
func TestSet_KeepsNoRoomForManyThatAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCounted()
		for _, n := range []int{1024, 1025} {
			calls, cancels := make([]call, n), make([]context.CancelFunc, n)
			for i := range calls {
				var ctx context.Context
				ctx, cancels[i] = context.WithCancel(context.Background())
				s.Add(ctx, &calls[i])
			}
			s.watches(t, n)
			for i := range calls {
				if i%2 == 0 {
					s.Remove(&calls[i])
				}
				cancels[i]()
			}
			synctest.Wait()
			s.watches(t, 0)
			assert.Equal(t, n == 1024, s.byDone != nil, "after %d the map is kept", n)
		}
	})
}
