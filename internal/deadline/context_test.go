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

// Whoever waits goes on when the code ends or its time is over, whichever is first.
func TestContext_WaitsForWhoIsFirst(t *testing.T) {
	for name, tt := range map[string]struct {
		takes, own time.Duration // of the code, and the caller's timeout; -1 is before all clocks
		ended      bool
		waits      time.Duration
		borrowed   bool
	}{
		"in time":                  {takes: time.Second, ended: true, waits: time.Second},
		"late":                     {takes: 3 * time.Second, waits: 2 * time.Second},
		"the caller's is sooner":   {takes: 3 * time.Second, own: time.Second, waits: time.Second, borrowed: true},
		"the caller's is as soon":  {takes: 3 * time.Second, own: 2 * time.Second, waits: 2 * time.Second, borrowed: true},
		"the caller's is later":    {takes: 3 * time.Second, own: time.Hour, waits: 2 * time.Second},
		"the caller's is long ago": {takes: 3 * time.Second, own: -1, borrowed: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Second)
				timer, start, caller := &Timer{Clock: clock.New()}, time.Now(), t.Context()
				if tt.own > 0 {
					caller = &until{caller, start.Add(tt.own)}
				} else if tt.own < 0 {
					caller = &until{caller, time.Time{}}
				}
				c := new(Context)
				c.Begin(timer, caller, 2*time.Second, new(because))
				finished := make(chan bool, 1)
				go func() {
					time.Sleep(tt.takes)
					finished <- c.Finish()
				}()
				require.Equal(t, tt.ended, c.Wait())
				require.Equal(t, tt.waits, time.Since(start))
				require.Equal(t, tt.borrowed, c.Borrowed())
				require.Equal(t, tt.ended, <-finished)
				require.Equal(t, 0, timer.queue.Len())
				require.Equal(t, 1, len(timer.spare))
				timer.Close()
			})
		})
	}
}

// until has a deadline that nobody watches.
type until struct {
	context.Context
	at time.Time
}

func (u *until) Deadline() (time.Time, bool) { return u.at, true }

// A context that nobody asks makes nothing, and Finish does not end it: End does.
func TestContext_MadeOnceAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timer, why := &Timer{Clock: clock.New()}, new(because)
		c := new(Context)
		c.Begin(timer, context.WithValue(t.Context(), key{}, "value"), time.Second, why)
		require.Equal(t, nil, c.Err())
		require.Equal(t, "value", c.Value(key{}))
		c.Finish()
		require.Equal(t, true, c.Wait())
		require.Equal(t, nil, c.Err())
		require.Equal(t, nil, c.made)
		c.End()
		require.Equal(t, nil, c.made)
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
				c := new(Context)
				c.Begin(&Timer{Clock: clock.New()}, caller, time.Second, new(because))
				ask(c)
				require.Equal(t, false, c.Wait())
				synctest.Wait()
				c.End()
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
		go func() { defer close(done); c.known() }()
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
	for name, use := range map[string]func(c *Context){
		"Deadline": func(c *Context) { c.Deadline() },
		"Done":     func(c *Context) { c.Done() },
		"Err":      func(c *Context) { _ = c.Err() },
		"Value":    func(c *Context) { c.Value(key{}) },
		"End":      func(c *Context) { c.End() },
	} {
		for _, before := range []string{"", "asked", "ended", "over"} {
			t.Run(name+" "+before, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					own, cancel := context.WithCancel(context.Background())
					defer cancel()
					caller, c := &curious{Context: own}, new(Context)
					c.Begin(&Timer{Clock: clock.New()}, caller, time.Second, new(because))
					caller.of = c
					switch before {
					case "asked":
						c.Done()
					case "ended":
						c.End()
					case "over":
						c.Wait()
					}
					use(c)
					caller.of = nil // the standard library asks it when c is over
					c.End()
				})
			})
		}
	}
}

// Whoever asks while the code ends gets one and the same Done channel, which is closed.
func TestContext_AskedWhileItEnds(t *testing.T) {
	timer := &Timer{Clock: clock.New()}
	for range 200 {
		c := new(Context)
		c.Begin(timer, context.Background(), time.Hour, new(because))
		var all sync.WaitGroup
		var done [4]<-chan struct{}
		for i := range done {
			all.Go(func() { done[i] = c.Done() })
		}
		all.Go(c.End)
		all.Go(func() { c.Finish() })
		require.Equal(t, true, c.Wait())
		all.Wait()
		for i := range done {
			require.Equal(t, done[0], done[i])
			<-done[i]
		}
		require.Equal(t, context.Canceled, c.Err())
	}
	require.Equal(t, 1, len(timer.spare))
	timer.Close()
}

// A channel of a testing/synctest bubble that a Timer from outside is used in stays there.
func TestContext_ChannelStaysInItsBubble(t *testing.T) {
	timer := &Timer{Clock: clock.New()}
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			for _, takes := range []time.Duration{time.Second, time.Hour} {
				start, c := time.Now(), new(Context)
				c.Begin(timer, t.Context(), time.Minute, new(because))
				time.AfterFunc(takes, func() { c.Finish() })
				require.Equal(t, takes == time.Second, c.Wait())
				require.Equal(t, min(takes, time.Minute), time.Since(start))
				time.Sleep(time.Hour)
			}
		})
	}
	require.Equal(t, 0, len(timer.spare))
}
