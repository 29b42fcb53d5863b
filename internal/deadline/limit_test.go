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

// limited is a context that has a limit.
type limited struct {
	limit  Limit
	clock  clock.Clock
	caller context.Context
	why    *because
	more   time.Duration // by which it may be extended
}

// begin has c begin now, which has so much time.
func (c *limited) begin(caller context.Context, timeout time.Duration, why *because) (now int64) {
	c.clock, c.caller, c.why = clock.New(), caller, why
	now = c.clock.Now()
	c.limit.Begin(now, timeout, Of(caller, &c.clock))
	return now
}

func (c *limited) end() { c.limit.End(c, c.clock.Now()) }

func (c *limited) Clock() *clock.Clock         { return &c.clock }
func (c *limited) Caller() context.Context     { return c.caller }
func (c *limited) Cause() error                { return c.why.Cause() }
func (c *limited) Latest(due int64) int64      { return due + int64(c.more) }
func (c *limited) Deadline() (time.Time, bool) { return c.limit.Deadline(c) }
func (c *limited) Done() <-chan struct{}       { return c.limit.Done(c) }
func (c *limited) Err() error                  { return c.limit.Err(c) }
func (c *limited) Value(k any) any             { return c.limit.Value(c, k) }

// A context is over when its own time is, or its caller's if that is sooner.
func TestLimit_WhoseTimeItIs(t *testing.T) {
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
				start, caller := time.Now(), t.Context()
				if tt.own > 0 {
					caller = &until{caller, start.Add(tt.own)}
				} else if tt.own < 0 {
					caller = &until{caller, time.Time{}}
				}
				c := new(limited)
				now := c.begin(caller, 2*time.Second, new(because))
				require.Equal(t, tt.due, time.Duration(c.limit.Due()-now))
				require.Equal(t, tt.borrowed, c.limit.Borrowed(c))
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
func begin(caller context.Context, why *because) (c *limited, end func()) {
	c = new(limited)
	c.begin(caller, time.Second, why)
	return c, c.end
}

// until has a deadline that nobody watches.
type until struct {
	context.Context
	at time.Time
}

func (u *until) Deadline() (time.Time, bool) { return u.at, true }

// A context that nobody asks makes nothing.
func TestLimit_MadeOnceAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		why := new(because)
		c, end := begin(context.WithValue(t.Context(), key{}, "value"), why)
		require.Equal(t, nil, c.Err())
		require.Equal(t, "value", c.Value(key{}))
		require.Nil(t, c.limit.made.Load())
		end()
		require.Same(t, &over, c.limit.made.Load())
		require.Equal(t, 0, int(why.asked.Load()))
		require.Equal(t, context.Canceled, c.Err())
		require.Equal(t, context.Canceled, context.Cause(c))
		<-c.Done()
		require.Equal(t, "value", c.Value(key{}))
	})
}

type key struct{}

// The time that is over when the code ends stays the reason, whoever asks first and when.
func TestLimit_LateForGood(t *testing.T) {
	for name, ask := range map[string]func(c *limited){
		"asked before": func(c *limited) { c.Done() },
		"not asked":    func(*limited) {},
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
	of *limited
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
func TestLimit_AsksCallerWithoutLock(t *testing.T) {
	for name, use := range map[string]func(c *limited, end func()){
		"Deadline": func(c *limited, _ func()) { c.Deadline() },
		"Done":     func(c *limited, _ func()) { c.Done() },
		"Err":      func(c *limited, _ func()) { _ = c.Err() },
		"Value":    func(c *limited, _ func()) { c.Value(key{}) },
		"End":      func(_ *limited, end func()) { end() },
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
func TestLimit_AskedWhileItEnds(t *testing.T) {
	for range 200 {
		c := new(limited)
		c.begin(context.Background(), time.Hour, new(because))
		var all sync.WaitGroup
		var done [4]<-chan struct{}
		for i := range done {
			all.Go(func() { done[i] = c.Done() })
		}
		all.Go(c.end)
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
func TestLimit_EndsByWhatWasFirst(t *testing.T) {
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
