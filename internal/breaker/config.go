package breaker

import (
	"fmt"
	"math"
	"time"
)

// Config says when a breaker opens and how it recovers. Times are nanoseconds. The zero
// value of every field means its default.
type Config struct {
	// Failures in a row that open it; zero means never. They are in a row if no success came between, nor
	// an hour or a Window or an open time without a result.
	Failures int
	// Ratio is the share of failures among the results in Window that opens it, at most 1; zero means 0.5, or
	// never if Failures is set.
	Ratio    float64
	MinCalls int   // results in Window before Ratio counts; zero means 5
	Window   int64 // zero means 30 s
	Cooldown int64 // zero means 5 s
	Lease    int64 // zero means 1 min
	Probes   int   // zero means 1

	member *Member // of the one breaker that has it, which has no room of its own for what few have; see of
}

// of is a copy of c for the one breaker that is m.
func (c *Config) of(m *Member) *Config {
	own := *c
	own.member = m
	return &own
}

// Never is the instant that does not come.
const Never int64 = math.MaxInt64

// MaxProbes bounds Config.Probes, because every probe has a lease of its own.
const MaxProbes = 1024

const (
	second     int64 = 1e9
	maxOpen          = 120 * second // of doubled open times
	maxDoubled       = 64           // times, after which nothing is left to double
)

// Validate says which field is out of range and what is allowed. The message begins with
// name, the one under which the caller knows the Config.
func (c *Config) Validate(name string) error {
	switch {
	case c.Failures < 0:
		return fmt.Errorf("%s.Failures is %d: must be zero (off) or positive", name, c.Failures)
	case !(c.Ratio >= 0 && c.Ratio <= 1):
		return fmt.Errorf("%s.Ratio is %v: must be zero (0.5, or off if Failures is set) or at most 1", name, c.Ratio)
	case c.MinCalls < 0:
		return fmt.Errorf("%s.MinCalls is %d: must be zero (5) or positive", name, c.MinCalls)
	case c.Window < 0:
		return fmt.Errorf("%s.Window is %v: must be zero (30 s) or positive", name, time.Duration(c.Window))
	case c.Cooldown < 0:
		return fmt.Errorf("%s.Cooldown is %v: must be zero (5 s) or positive", name, time.Duration(c.Cooldown))
	case c.Lease < 0:
		return fmt.Errorf("%s.Lease is %v: must be zero (1 min) or positive", name, time.Duration(c.Lease))
	case c.Probes < 0 || c.Probes > MaxProbes:
		return fmt.Errorf("%s.Probes is %d: must be zero (1) or from 1 to %d", name, c.Probes, MaxProbes)
	}
	return nil
}

// The methods below give the default for what is zero, and for what Validate refuses.

func (c *Config) failures() uint32 {
	if c.Failures > 0 {
		return uint32(min(c.Failures, math.MaxInt32))
	}
	return math.MaxUint32
}

// ratio is zero if only failures in a row count.
func (c *Config) ratio() float64 {
	if c.Ratio == 0 && c.Failures <= 0 {
		return 0.5
	}
	return c.Ratio
}

func (c *Config) minCalls() uint32 {
	if c.MinCalls > 0 {
		return uint32(min(c.MinCalls, math.MaxInt32))
	}
	return 5
}

func (c *Config) probes() int32 {
	if c.Probes > 0 {
		return int32(min(c.Probes, MaxProbes))
	}
	return 1
}

func (c *Config) window() int64   { return orDefault(c.Window, 30*second) }
func (c *Config) cooldown() int64 { return orDefault(c.Cooldown, 5*second) }
func (c *Config) lease() int64    { return orDefault(c.Lease, 60*second) }

// rowLasts is how far apart two failures may be to be in a row, if no setting is longer.
const rowLasts int64 = 3600e9

// longest is the longest open time without jitter.
func (c *Config) longest() int64 { return max(c.cooldown(), maxOpen) }

// memory is how long what has happened counts if nothing more does.
func (c *Config) memory() int64 { return max(c.window(), c.longest(), rowLasts) }

// openFor is the open time after the breaker has opened again n times.
func (c *Config) openFor(n uint8) int64 {
	d, most := c.cooldown(), c.longest()
	for ; n > 0 && d < most; n-- {
		if d > most/2 {
			return most
		}
		d *= 2
	}
	return d
}

func orDefault(d, otherwise int64) int64 {
	if d > 0 {
		return d
	}
	return otherwise
}

// after is now+d, and never Never.
func after(now, d int64) int64 {
	if now > Never-1-d {
		return Never - 1
	}
	return now + d
}
