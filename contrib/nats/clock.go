package sluicenats

import (
	"context"
	"sync"
	"time"
)

// clock knows the server's time within bounds. The server stamps its answer to a question about
// the bucket; that was not before the question was sent, nor after the answer came. So at any
// instant the time there is from lo to hi, which are as far apart as that took, and a little
// more as the answer ages, since no two clocks run alike.
//
// A decision is made as of hi, before it is sent, and told when lo has reached that: so it counts
// as of an instant at which it really was under way, by the server's clock, as if the server had
// made it.
type clock struct {
	mu     sync.Mutex
	anchor time.Time
	lo, hi time.Duration // server's time less ours, since 1970 and since anchor
	at     time.Duration // when that was learned, since anchor
	wall   time.Time     // and by the wall clock
	asking chan struct{} // closed when whoever asks has its answer
}

const (
	drift = 2000 // a clock gains or loses less than one part in so many
	stale = time.Minute
)

// fresh is for how long what is known is used: as it ages it gets no wider than by half of what it
// was, unless that is very little.
func (c *clock) fresh() time.Duration {
	return max(100*time.Millisecond, min(drift/4*(c.hi-c.lo), 5*time.Second))
}

// bounds are what the server's clock shows now, nanoseconds since 1970; false if nobody knows.
func (c *clock) bounds() (lo, hi int64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boundsLocked(c.fresh())
}

func (c *clock) boundsLocked(oldest time.Duration) (lo, hi int64, ok bool) {
	if c.anchor.IsZero() || c.at == 0 {
		return 0, 0, false
	}
	t := time.Now()
	now := t.Sub(c.anchor)
	age := now - c.at
	slept := t.Round(0).Sub(c.wall.Round(0)) - age // the machine, or somebody set its clock
	if age > oldest || slept > 100*time.Millisecond || slept < -100*time.Millisecond {
		return 0, 0, false
	}
	wide := age/drift + 1
	return int64(now + c.lo - wide), int64(now + c.hi + wide), true
}

// forget has the next who asks ask the server.
func (c *clock) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = 0
}

// learn notes that the server stamped an answer with stamp, between sent and now.
func (c *clock) learn(sent time.Time, stamp time.Time) {
	t := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.anchor.IsZero() {
		c.anchor = sent.Add(-1)
	}
	was, is := sent.Sub(c.anchor), t.Sub(c.anchor)
	lo, hi := time.Duration(stamp.UnixNano())-is, time.Duration(stamp.UnixNano())-was
	if _, _, ok := c.boundsLocked(stale); ok {
		// What was known before may be narrower, unless the clock was set meanwhile.
		wide := (is-c.at)/drift + 1
		if l, h := max(lo, c.lo-wide), min(hi, c.hi+wide); l <= h {
			lo, hi = l, h
		}
	}
	c.lo, c.hi, c.at, c.wall = lo, hi, is, t
}

// now is what bounds are, asked of the server if need be. Of those who ask at once one asks.
func (e *Engine) now(ctx context.Context) (lo, hi int64, err error) {
	c := &e.clock
	for {
		c.mu.Lock()
		lo, hi, ok := c.boundsLocked(c.fresh())
		if ok {
			c.mu.Unlock()
			return lo, hi, nil
		}
		asking := c.asking
		if asking == nil {
			c.asking = make(chan struct{})
		}
		c.mu.Unlock()
		if asking == nil {
			err := e.sample(ctx)
			c.mu.Lock()
			close(c.asking)
			c.asking = nil
			c.mu.Unlock()
			if err != nil {
				return 0, 0, err
			}
			continue
		}
		select {
		case <-asking:
		case <-ctx.Done():
		case <-e.quit.Done():
		}
		if err := e.enter(ctx); err != nil {
			return 0, 0, err
		}
	}
}

// sample asks the server what time it is.
func (e *Engine) sample(ctx context.Context) error {
	return e.ask(ctx, func(ctx context.Context) error {
		sent := time.Now()
		info, err := e.stored().Info(ctx)
		if err == nil {
			e.clock.learn(sent, info.TimeStamp)
		}
		return err
	})
}

// past waits until the server's time is past t, which is a matter of a trip: t was not later than
// it could be when somebody began.
func (e *Engine) past(t int64) {
	for range 50 {
		lo, _, ok := e.clock.bounds()
		if !ok {
			if lo, _, ok = e.staleBounds(); !ok {
				return
			}
		}
		if lo >= t {
			return
		}
		// A trip to the server takes less than the shortest sleep.
		wait := min(time.Duration(t-lo), time.Second)
		if wait > time.Millisecond/2 || e.conn.FlushTimeout(wait+time.Millisecond) != nil {
			time.Sleep(wait)
		}
	}
}

// staleBounds are bounds from a sample that is too old to begin with.
func (e *Engine) staleBounds() (lo, hi int64, ok bool) {
	e.clock.mu.Lock()
	defer e.clock.mu.Unlock()
	return e.clock.boundsLocked(stale)
}
