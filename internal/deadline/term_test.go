package deadline

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-go/sluice/internal/clock"
	"github.com/stretchr/testify/require"
)

// beginLong has a context begin that has a second, and an hour if it is extended.
func beginLong(caller context.Context) *limited {
	c := &limited{more: time.Hour}
	c.begin(caller, time.Second, new(because))
	return c
}

// The end of a time and who extends it agree on which of them was first, however stale the instants are that
// they have read.
func TestTerm_TheEndOrMoreTime(t *testing.T) {
	for range 2000 {
		l := new(Limit)
		l.Begin(0, 10, 1<<62)
		o := &fixed{latest: 100}
		var all sync.WaitGroup
		var due int64
		var extended [2]bool
		all.Go(func() { due = l.Expire(10) })
		for i := range extended {
			all.Go(func() { _, extended[i] = l.terms().extend(9, o.latest) })
		}
		all.Wait()
		require.Equal(t, extended[0] || extended[1], due > 10, "%v, and it is over at %d", extended, due)
		if due <= 10 { // it stays so
			_, more := l.terms().extend(9, o.latest)
			require.False(t, more)
			require.Equal(t, int64(10), l.Due())
		} else {
			require.Equal(t, int64(100), l.Due())
			require.Equal(t, int64(100), l.Expire(99))
		}
	}
}

// fixed is an owner that nobody asks but for the latest instant.
type fixed struct {
	Owner
	latest int64
}

// A term that ends with that of its caller is over when that is, at the latest, and goes on with it; its own
// end stays.
func TestFollow_TheCallersTime(t *testing.T) {
	up, l := new(Limit), new(Limit)
	up.Begin(0, 10, 1<<62)
	l.Begin(0, 50, 1<<62)
	l.Follow(up)
	require.Equal(t, int64(10), l.Due())
	require.Equal(t, int64(10), l.Expire(9))
	_, ok := up.terms().extend(9, 30)
	require.True(t, ok)
	require.Equal(t, int64(30), l.Due())
	require.Equal(t, int64(30), l.Expire(10))
	due, ok := l.terms().extend(29, 40)
	require.True(t, ok)
	require.Equal(t, int64(30), due)
	_, ok = up.terms().extend(29, 99)
	require.True(t, ok)
	require.Equal(t, int64(50), l.Expire(50))
	_, ok = up.terms().extend(49, 200)
	require.True(t, ok, "the caller has more")
	require.Equal(t, int64(50), l.Due(), "and it has not")

	l.Begin(0, 50, 1<<62)
	l.Follow(up)
	require.Equal(t, int64(200), up.Expire(199))
	l.Begin(0, 300, 1<<62)
	l.Follow(up)
	require.Equal(t, int64(200), l.Expire(200))
	_, ok = up.terms().extend(199, 300)
	require.False(t, ok, "whoever ends with it has found it over")
}

// Extended, a context ends later, once, with the reason there is in the end, whatever was derived from it and
// when; it makes no goroutine.
func TestExtend_ContextEndsLater(t *testing.T) {
	mine := errors.New("the caller's")
	for name, tt := range map[string]struct {
		leaves time.Duration // the caller
		end    time.Duration
		err    error
		cause  error
	}{
		"its time is over":     {time.Hour, 6 * time.Second, context.DeadlineExceeded, errLate},
		"the caller leaves":    {3 * time.Second, 3 * time.Second, context.Canceled, mine},
		"the caller left then": {6 * time.Second, 6 * time.Second, nil, nil}, // at the same instant: either
	} {
		for _, early := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					caller, cancel := context.WithCancelCause(context.WithValue(t.Context(), key{}, "value"))
					time.AfterFunc(tt.leaves, func() { cancel(mine) })
					c := beginLong(caller)
					start := time.Now()
					child := context.Context(c)
					derive := func() {
						var stop context.CancelFunc
						child, stop = context.WithTimeout(context.WithValue(c, key{}, "own"), time.Minute)
						context.AfterFunc(child, stop)
					}
					if early {
						derive()
					}
					time.Sleep(time.Second - 1)
					require.True(t, c.limit.Extend(c, time.Second+1))
					time.Sleep(time.Second)
					require.True(t, c.limit.Extend(c, 4*time.Second+1))
					if !early {
						derive()
					}
					require.Equal(t, "value", c.Value(key{}))
					require.Equal(t, nil, c.Err())
					d, _ := child.Deadline()
					require.Equal(t, 6*time.Second, d.Sub(start))
					<-child.Done()
					require.Equal(t, tt.end, time.Since(start))
					<-c.Done()
					require.Equal(t, c.Err(), child.Err())
					require.Equal(t, context.Cause(c), context.Cause(child))
					if tt.err != nil {
						require.Equal(t, tt.err, c.Err())
						require.Equal(t, tt.cause, context.Cause(c))
					} else {
						require.Contains(t, []error{errLate, mine}, context.Cause(c))
					}
					require.False(t, c.limit.Extend(c, 0))
					was := context.Cause(c)
					c.end()
					cancel(nil)
					require.Equal(t, was, context.Cause(c))
				})
			})
		}
	}
}

// A caller who has left is seen at once, though the standard library tells of it on another goroutine.
func TestExtend_ErrSeesTheCallerLeave(t *testing.T) {
	mine := errors.New("the caller's")
	for range 100 {
		caller, cancel := context.WithCancelCause(context.Background())
		c := beginLong(caller)
		c.Done()
		cancel(mine)
		require.Equal(t, context.Canceled, c.Err())
		<-c.Done()
		require.Equal(t, mine, context.Cause(c))
	}
}

// The code's end ends its context, and what it asks for afterwards is too late; no timer is left.
func TestExtend_AfterTheEnd(t *testing.T) {
	for name, before := range map[string]func(c *limited){
		"never asked":        func(*limited) {},
		"asked":              func(c *limited) { c.Done() },
		"extended":           func(c *limited) { c.limit.Extend(c, time.Minute) },
		"asked and extended": func(c *limited) { c.Done(); c.limit.Extend(c, time.Minute) },
		"extended and asked": func(c *limited) { c.limit.Extend(c, time.Minute); c.Done() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := beginLong(t.Context())
				before(c)
				c.end()
				require.False(t, c.limit.Extend(c, 0))
				require.Equal(t, context.Canceled, c.Err())
				<-c.Done()
				time.Sleep(time.Hour)
				require.Equal(t, context.Canceled, context.Cause(c))
				require.Equal(t, 0, int(c.why.asked.Load()), "it has ended by its time")
			})
		})
	}
}

// Code that never asks for more makes nothing, although it could.
func TestExtend_NothingIsMadeWithoutIt(t *testing.T) {
	c := beginLong(context.Background())
	require.Equal(t, nil, c.Err())
	require.True(t, c.limit.Extend(c, time.Millisecond), "it has that")
	require.Nil(t, c.limit.made.Load())
	c.end()
	require.Same(t, &over, c.limit.made.Load())
	var l Limit
	require.Zero(t, testing.AllocsPerRun(100, func() {
		l.made.Store(nil)
		l.Begin(0, time.Hour, 1<<62)
		if l.Err(c) != nil {
			t.Error("it has ended")
		}
		l.End(c, 1)
	}))
}

// Whoever extends the time, asks, ends the code or finds the time over, at once: there is one Done channel,
// which is closed in the end, and one reason.
func TestExtend_Storm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for n := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, n))
		caller, cancel := context.WithCancel(context.Background())
		c := &limited{more: time.Hour}
		c.clock, c.caller, c.why = clock.New(), caller, new(because)
		c.limit.Begin(c.clock.Now(), time.Duration(r.IntN(100))*time.Microsecond, 1<<62)
		var all sync.WaitGroup
		var done [3]<-chan struct{}
		var more atomic.Bool
		for i := range done {
			d := time.Duration(r.IntN(200)) * time.Microsecond
			all.Go(func() {
				done[i] = c.Done()
				if c.limit.Extend(c, d) {
					more.Store(true)
				}
				_, stop := context.WithCancel(c)
				stop()
			})
		}
		end := r.IntN(3)
		all.Go(func() {
			switch end {
			case 0:
				c.end()
			case 1:
				cancel()
			default:
				c.limit.Expire(c.clock.Now())
			}
		})
		all.Wait()
		for i := range done {
			require.Equal(t, done[0], done[i])
		}
		if end == 2 {
			<-c.Done() // by its time
			require.Equal(t, context.DeadlineExceeded, c.Err())
			require.Equal(t, errLate, context.Cause(c))
		}
		c.end()
		<-c.Done()
		cancel()
	}
}
