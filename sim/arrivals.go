package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Arrivals says when calls come. Make one with [Steady], [Poisson], [Bursty], [HeavyTailed],
// [Batches], [Flood], [Replay] or [Callers]; the zero value is none. It is a value, safe to
// copy and to share.
type Arrivals struct {
	kind    arrivalKind
	rate    float64 // per second
	alpha   float64
	on, off time.Duration
	n       int
	dist    Dist
	times   []time.Duration // sorted, not changed
	bad     string
}

type arrivalKind uint8

const (
	noArrivals arrivalKind = iota
	steady
	poisson
	bursty
	heavyTailed
	batches
	flood
	replay
	callers
)

// mostPerSecond bounds rates: virtual time has nanoseconds.
const mostPerSecond = 1e9

func arrivals(kind arrivalKind, perSecond float64) Arrivals {
	a := Arrivals{kind: kind, rate: perSecond}
	if !(perSecond > 0 && perSecond <= mostPerSecond) {
		a.bad = fmt.Sprintf("has %v per second: must be above 0, up to 1e9", perSecond)
	}
	return a
}

// Steady is a call each 1/perSecond seconds, the first at once.
func Steady(perSecond float64) Arrivals { return arrivals(steady, perSecond) }

// Poisson is calls that know nothing of each other: many independent users.
func Poisson(perSecond float64) Arrivals { return arrivals(poisson, perSecond) }

// Bursty is Poisson arrivals while on and none while off; both last exponentially
// distributed times with these means. perSecond holds while on.
func Bursty(perSecond float64, on, off time.Duration) Arrivals {
	a := arrivals(bursty, perSecond)
	a.on, a.off = on, off
	if a.bad == "" && (on <= 0 || off <= 0) {
		a.bad = fmt.Sprintf("is on for %v and off for %v: both must be positive", on, off)
	}
	return a
}

// HeavyTailed has Pareto distributed gaps between calls with a mean of 1/perSecond
// seconds: clusters and long silences at every scale, more so the closer alpha is to 1.
func HeavyTailed(perSecond, alpha float64) Arrivals {
	a := arrivals(heavyTailed, perSecond)
	a.alpha = alpha
	if a.bad == "" && !(alpha > 1 && alpha <= 100) {
		a.bad = fmt.Sprintf("has alpha %v: must be above 1, up to 100", alpha)
	}
	return a
}

// Batches is Poisson arrivals of batches of size calls at one instant: at least one, at
// most 1,000,000. A turn of an agent that calls several tools is one; with [Pareto] sizes
// there are a few huge ones.
func Batches(perSecond float64, size Dist) Arrivals {
	a := arrivals(batches, perSecond)
	a.dist = size
	if a.bad == "" && (size.isZero() || size.bad != "") {
		a.bad = fmt.Sprintf("has sizes %v: must be a Dist of counts", size)
	}
	return a
}

// Flood is n calls at once, and no more.
func Flood(n int) Arrivals {
	a := Arrivals{kind: flood, n: n}
	if n < 1 || n > defaultMaxCalls {
		a.bad = fmt.Sprintf("has %d calls: must be from 1 to %d", n, defaultMaxCalls)
	}
	return a
}

// Replay is a call at each of these times after the start, in any order: what a log says.
func Replay(times ...time.Duration) Arrivals {
	a := Arrivals{kind: replay, times: slices.Sorted(slices.Values(times))}
	if len(times) == 0 || a.times[0] < 0 {
		a.bad = "has no times, or negative ones: must have at least one, none negative"
	}
	return a
}

// Callers is n loops, as agents are: each calls, waits for the answer, thinks, and calls
// again. After a refusal it also waits as long as the refusal advises, at least 1 ms. The
// zero Dist is no thinking; a loop makes at most one call each microsecond.
func Callers(n int, think Dist) Arrivals {
	a := Arrivals{kind: callers, n: n, dist: think}
	switch {
	case n < 1 || n > 1_000_000:
		a.bad = fmt.Sprintf("has %d callers: must be from 1 to 1000000", n)
	case think.bad != "":
		a.bad = "has a think time that " + think.bad
	}
	return a
}

// check says what is wrong with the a of a field.
func (a Arrivals) check(field string) error {
	if a.kind == noArrivals {
		return fmt.Errorf("sim: %s is missing: must be made by Steady, Poisson, Bursty, "+
			"HeavyTailed, Batches, Flood, Replay or Callers", field)
	}
	if a.bad != "" {
		return fmt.Errorf("sim: %s %s", field, a.bad)
	}
	return nil
}

// String is how a was made.
func (a Arrivals) String() string {
	switch a.kind {
	case steady:
		return fmt.Sprintf("steady %v/s", a.rate)
	case poisson:
		return fmt.Sprintf("Poisson %v/s", a.rate)
	case bursty:
		return fmt.Sprintf("bursty %v/s, on %v, off %v", a.rate, a.on, a.off)
	case heavyTailed:
		return fmt.Sprintf("heavy-tailed %v/s, alpha %v", a.rate, a.alpha)
	case batches:
		return fmt.Sprintf("batches %v/s of %v", a.rate, a.dist)
	case flood:
		return fmt.Sprintf("flood of %d", a.n)
	case replay:
		return fmt.Sprintf("replay of %d", len(a.times))
	case callers:
		return fmt.Sprintf("%d callers, think %v", a.n, a.dist)
	}
	return "none"
}

// source is where one stream's arrivals come from.
type source struct {
	Arrivals
	rng   *rand.Rand
	from  int64
	n     int64   // given out
	at    float64 // of the last arrival, relative to from
	until float64 // of the current burst
}

// next is when the next calls come, relative to nothing but the start of the simulation,
// and how many at once. ok is false after the last. Callers only start here.
func (s *source) next() (at int64, count int, ok bool) {
	count = 1
	switch s.kind {
	case steady:
		s.at = float64(s.n) * 1e9 / s.rate
	case poisson:
		s.at += s.rng.ExpFloat64() * 1e9 / s.rate
	case bursty:
		if s.n == 0 {
			s.until = s.rng.ExpFloat64() * float64(s.on)
		}
		// Memoryless: a gap that outlasts the burst is drawn anew in the next one.
		for {
			if s.at += s.rng.ExpFloat64() * 1e9 / s.rate; s.at <= s.until {
				break
			}
			s.at = s.until + s.rng.ExpFloat64()*float64(s.off)
			s.until = s.at + s.rng.ExpFloat64()*float64(s.on)
			if s.at > never {
				break
			}
		}
	case heavyTailed:
		least := 1e9 / s.rate * (s.alpha - 1) / s.alpha
		s.at += least * math.Pow(1-s.rng.Float64(), -1/s.alpha)
	case batches:
		s.at += s.rng.ExpFloat64() * 1e9 / s.rate
		count = int(min(max(1, s.dist.draw(s.rng)), 1_000_000))
	case flood, callers:
		if s.n > 0 {
			return 0, 0, false
		}
		count = s.Arrivals.n
	case replay:
		if s.n >= int64(len(s.times)) {
			return 0, 0, false
		}
		s.at = float64(s.times[s.n])
		s.n++
		return s.from + int64(s.times[s.n-1]), 1, true
	}
	s.n++
	if s.at > never {
		return 0, 0, false
	}
	return s.from + int64(s.at), count, true
}

// never is later than any simulation ends, with room to add to it.
const never = 1 << 61
