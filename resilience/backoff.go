package resilience

import (
	"fmt"
	"math/bits"
	"time"
)

// Jitter is how waits between attempts vary, so that calls that failed together do not come back together.
type Jitter uint8

const (
	FullJitter         Jitter = iota // from zero to the whole wait
	EqualJitter                      // from half of the wait to the whole
	DecorrelatedJitter               // from Base to three times the wait before
	NoJitter                         // exactly the wait
)

var jitterNames = [...]string{"full", "equal", "decorrelated", "none"}

// String is "full", "equal", "decorrelated" or "none".
func (j Jitter) String() string {
	if int(j) < len(jitterNames) {
		return jitterNames[j]
	}
	return fmt.Sprintf("Jitter(%d)", j)
}

// backoff says how long to wait before the next attempt: base, doubled with each further one, at most most.
type backoff struct {
	base, most time.Duration
	jitter     Jitter
}

// wait is how long to wait after n failed attempts, from 1, the last wait having been that long. It is at
// least floor, which somebody has asked for. Chance is a number of any size, each as likely.
func (b backoff) wait(n int, last, floor time.Duration, chance uint64) time.Duration {
	whole := b.doubled(n - 1)
	var d time.Duration
	switch b.jitter {
	case NoJitter:
		d = whole
	case EqualJitter:
		d = whole/2 + part(whole-whole/2, chance)
	case DecorrelatedJitter:
		upper := max(b.base, last)
		if upper > b.most/3 {
			upper = b.most
		} else {
			upper *= 3
		}
		d = b.base + part(upper-b.base, chance)
	default:
		d = part(whole, chance)
	}
	return max(d, floor)
}

// doubled is base doubled so many times, at most most.
func (b backoff) doubled(times int) time.Duration {
	if times >= bits.LeadingZeros64(uint64(b.base))-1 {
		return b.most
	}
	return min(b.base<<times, b.most)
}

// part is a part of d, from none to all of it, as chance has it.
func part(d time.Duration, chance uint64) time.Duration {
	p, _ := bits.Mul64(uint64(d)+1, chance)
	return time.Duration(p)
}
