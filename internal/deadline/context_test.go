package deadline

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/internal/clock"
	"github.com/stretchr/testify/require"
)

var errLate = errors.New("late")

type because struct{ asked atomic.Int32 }

func (b *because) Cause() error { b.asked.Add(1); return errLate }

// A context is over when its own time is, or its caller's if that is sooner.
func TestContext_WhoseTimeItIs(t *testing.T) {
	for name, tt := range map[string]struct {
		own      time.Duration // the caller's timeout; -1 is before all clocks
		due      time.Duration
		borrowed bool
	}{
		"its own":                  {due: 2 * time.Second},
		"the caller's is sooner":   {own: time.Second, due: time.Second, borrowed: true},
		"the caller's is as soon":  {own: 2 * time.Second, due: 2 * time.Second, borrowed: true},
		"the caller's is later":    {own: time.Hour, due: 2 * time.Second},
		"the caller's is long ago": {own: -1, borrowed: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Second)
				k, start, caller := clock.New(), time.Now(), t.Context()
				if tt.own > 0 {
					caller = &until{caller, start.Add(tt.own)}
				} else if tt.own < 0 {
					caller = &until{caller, time.Time{}}
				}
				c, now := new(Context), k.Now()
				c.Begin(&k, caller, now, 2*time.Second, new(because))
				require.Equal(t, tt.due, time.Duration(c.Due()-now))
				require.Equal(t, tt.borrowed, c.Borrowed())
				if tt.own >= 0 {
					d, ok := c.Deadline()
					require.True(t, ok)
					require.Equal(t, tt.due, d.Sub(start))
				}
			})
		})
	}
}

// begin has a context begin that has a second.
func begin(caller context.Context, why Causer) (c *Context, end func()) {
	k := clock.New()
	c = new(Context)
	c.Begin(&k, caller, k.Now(), time.Second, why)
	return c, func() { c.End(k.Now()) }
}

// until has a deadline that nobody watches.
type until struct {
	context.Context
	at time.Time
}

func (u *until) Deadline() (time.Time, bool) { return u.at, true }

// A context that nobody asks makes nothing.
func TestContext_MadeOnceAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := new(because)
		c, end := begin(context.WithValue(t.Context(), key{}, "value"), why)
		require.Equal(t, nil, c.Err())
		require.Equal(t, "value", c.Value(key{}))
		require.Nil(t, c.made.Load())
		end()
		require.Same(t, &over, c.made.Load())
		require.Equal(t, 0, int(why.asked.Load()))
		require.Equal(t, context.Canceled, c.Err())
		require.Equal(t, context.Canceled, context.Cause(c))
		<-c.Done()
		require.Equal(t, "value", c.Value(key{}))
	})
}

type key struct{}

// The time that is over when the code ends stays the reason, whoever asks first and when.
func TestContext_LateForGood(t *testing.T) {
	for name, ask := range map[string]func(c *Context){
		"asked before": func(c *Context) { c.Done() },
		"not asked":    func(*Context) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				caller, cancel := context.WithCancel(t.Context())
				c, end := begin(caller, new(because))
				ask(c)
				time.Sleep(time.Second)
				synctest.Wait()
				end()
				cancel()
				require.Equal(t, context.DeadlineExceeded, c.Err())
				require.Equal(t, errLate, context.Cause(c))
			})
		})
	}
}

// curious asks the context that was made from it whenever it is asked itself.
type curious struct {
	context.Context
	of *Context
}

func (x *curious) asks() {
	if c := x.of; c != nil {
		x.of = nil
		done := make(chan struct{})
		go func() { defer close(done); _ = c.Err() }()
		<-done
		x.of = c
	}
}

func (x *curious) Deadline() (time.Time, bool) { x.asks(); return x.Context.Deadline() }
func (x *curious) Done() <-chan struct{}       { x.asks(); return x.Context.Done() }
func (x *curious) Err() error                  { x.asks(); return x.Context.Err() }
func (x *curious) Value(k any) any             { x.asks(); return x.Context.Value(k) }

// The caller's context is asked nothing under the lock: its methods may take as long as they
// like, or ask back.
func TestContext_AsksCallerWithoutLock(t *testing.T) {
	for name, use := range map[string]func(c *Context, end func()){
		"Deadline": func(c *Context, _ func()) { c.Deadline() },
		"Done":     func(c *Context, _ func()) { c.Done() },
		"Err":      func(c *Context, _ func()) { _ = c.Err() },
		"Value":    func(c *Context, _ func()) { c.Value(key{}) },
		"End":      func(_ *Context, end func()) { end() },
	} {
		for _, before := range []string{"", "asked", "ended", "over"} {
			t.Run(name+" "+before, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					own, cancel := context.WithCancel(context.Background())
					defer cancel()
					caller := &curious{Context: own}
					c, end := begin(caller, new(because))
					caller.of = c
					switch before {
					case "asked":
						c.Done()
					case "ended":
						end()
					case "over":
						time.Sleep(time.Second)
					}
					use(c, end)
					caller.of = nil // the standard library asks it when c is over
					end()
				})
			})
		}
	}
}

// Whoever asks while the code ends gets one and the same Done channel, which is closed.
func TestContext_AskedWhileItEnds(t *testing.T) {
	for range 200 {
		k, c := clock.New(), new(Context)
		c.Begin(&k, context.Background(), k.Now(), time.Hour, new(because))
		var all sync.WaitGroup
		var done [4]<-chan struct{}
		for i := range done {
			all.Go(func() { done[i] = c.Done() })
		}
		all.Go(func() { c.End(k.Now()) })
		all.Wait()
		for i := range done {
			require.Equal(t, done[0], done[i])
			<-done[i]
		}
		require.Equal(t, context.Canceled, c.Err())
	}
}

// One whose time was over when the code ended has ended by that, also if nobody has asked, and one
// whose caller had given up by that.
func TestContext_EndsByWhatWasFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, end := begin(t.Context(), new(because))
		time.Sleep(time.Second - 1)
		end()
		time.Sleep(time.Nanosecond)
		require.Equal(t, context.Canceled, c.Err())
		c, end = begin(t.Context(), new(because))
		time.Sleep(time.Second)
		end()
		require.Equal(t, errLate, context.Cause(c))
		mine := errors.New("the caller's")
		caller, cancel := context.WithCancelCause(t.Context())
		c, end = begin(caller, new(because))
		cancel(mine)
		end()
		require.Equal(t, mine, context.Cause(c))
	})
}
