// Package clock reads the monotonic clock as nanoseconds since an epoch: what the machines are
// told the time in.
//
// All clocks outside testing/synctest bubbles have one epoch, and so have all clocks inside
// them, so that whoever shares a machine agrees on the time. A [Clock] never changes and takes
// no lock.
package clock

import "time"

// Clock reads the time since its epoch. The zero value is not usable; see [New].
type Clock struct {
	epoch time.Time
	unix  int64 // of the epoch, in nanoseconds
	zone  *time.Location
}

var (
	processEpoch = time.Now()
	bubbleEpoch  = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) // where bubbles begin
)

// New is the clock of where it is called: of the process or, in a bubble, whose instants have
// no monotonic reading, of all bubbles.
func New() Clock {
	if t := time.Now(); t == t.Round(0) {
		return Clock{bubbleEpoch, bubbleEpoch.UnixNano(), time.UTC}
	}
	return Clock{processEpoch, processEpoch.UnixNano(), time.Local}
}

// IsVirtual reports whether the clock is that of a bubble.
func (c *Clock) IsVirtual() bool { return c.epoch == bubbleEpoch }

// Now is the present instant. It is before zero where no time passes for the clock: in a bubble,
// for a clock of the process.
func (c *Clock) Now() int64 { return int64(time.Since(c.epoch)) }

// Time is the instant ns as others read it, without a monotonic reading: two such times are as far
// apart as their instants all the same.
func (c *Clock) Time(ns int64) time.Time {
	t := time.Unix(0, c.unix+ns)
	if c.zone != time.Local { // which it has
		t = t.In(c.zone)
	}
	return t
}

// Instant is the instant t.
func (c *Clock) Instant(t time.Time) int64 { return int64(t.Sub(c.epoch)) }
