package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"
)

// Dist is a distribution of times or of amounts. Make one with [Constant], [Uniform],
// [Exponential], [LogNormal], [Pareto] or [Samples]; the zero value is none. It is a value,
// safe to copy and to share.
type Dist struct {
	kind    distKind
	times   bool // of durations, for String
	a, b    float64
	samples []int64 // not changed
	bad     string  // what the constructor was given, if that makes no sense
}

type distKind uint8

const (
	noDist distKind = iota
	constant
	uniform
	exponential
	logNormal
	pareto
	sampled
)

// Number is what a [Dist] is about: time.Duration, or amounts such as tokens.
type Number interface{ ~int | ~int64 }

// most bounds every draw: about 104 days, or 9e15 units.
const most = 1 << 53

func dist[N Number](kind distKind, a, b N, ok bool, want string) Dist {
	d := Dist{kind: kind, a: float64(a), b: float64(b)}
	_, d.times = any(a).(time.Duration)
	if !ok || d.a > most || d.b > most {
		d.bad = fmt.Sprintf("is %v: must have %s", d, want)
	}
	return d
}

// Constant is always v, which must not be negative.
func Constant[N Number](v N) Dist { return dist(constant, v, 0, v >= 0, "a value from 0 to 2^53") }

// Uniform is from lo to hi, all equally likely.
func Uniform[N Number](lo, hi N) Dist {
	return dist(uniform, lo, hi, lo >= 0 && lo <= hi, "0 <= lo <= hi <= 2^53")
}

// Exponential has the given mean: the time that a memoryless server takes.
func Exponential[N Number](mean N) Dist {
	return dist(exponential, mean, 0, mean > 0, "a mean from 1 to 2^53")
}

// LogNormal has the given median and 99th percentile, as most latencies of services do,
// roughly. Both are what dashboards show.
func LogNormal[N Number](median, p99 N) Dist {
	return dist(logNormal, median, p99, median > 0 && p99 >= median, "0 < median <= p99 <= 2^53")
}

// Pareto is at least least, and more than k times that with probability k^-alpha. Up to
// alpha 2 its variance is infinite, up to 1 its mean. Draws are cut off at 2^53, for times
// 104 days.
func Pareto[N Number](least N, alpha float64) Dist {
	d := dist(pareto, least, 0, least > 0, "least from 1 to 2^53")
	d.b = alpha
	if d.bad == "" && !(alpha > 0 && alpha <= 100) {
		d.bad = fmt.Sprintf("is %v: must have an alpha above 0, up to 100", d)
	}
	return d
}

// Samples draws from what was measured, each value equally likely.
func Samples[N Number](values ...N) Dist {
	d := Dist{kind: sampled, samples: make([]int64, len(values))}
	_, d.times = any(*new(N)).(time.Duration)
	for i, v := range values {
		d.samples[i] = int64(v)
	}
	if len(values) == 0 || slices.Min(values) < 0 || int64(slices.Max(values)) > most {
		d.bad = fmt.Sprintf("is %v: must have at least one value, each from 0 to 2^53", d)
	}
	return d
}

func (d Dist) isZero() bool { return d.kind == noDist }

// check says what is wrong with the d of a field.
func (d Dist) check(field string) error {
	if d.bad != "" {
		return fmt.Errorf("sim: %s %s", field, d.bad)
	}
	return nil
}

// draw is the next value.
func (d *Dist) draw(r *rand.Rand) int64 {
	switch d.kind {
	case constant:
		return int64(d.a)
	case uniform:
		return int64(d.a) + r.Int64N(int64(d.b)-int64(d.a)+1)
	case exponential:
		return cut(d.a * r.ExpFloat64())
	case logNormal:
		return cut(d.a * math.Exp(math.Log(d.b/d.a)/z99*r.NormFloat64()))
	case pareto:
		return cut(d.a * math.Pow(1-r.Float64(), -1/d.b))
	case sampled:
		return d.samples[r.IntN(len(d.samples))]
	}
	return 0
}

// z99 is how many standard deviations the 99th percentile of a normal distribution is away.
const z99 = 2.3263478740408408

func cut(x float64) int64 { return int64(min(x, most)) }

// String is how d was made.
func (d Dist) String() string {
	v := func(x float64) string {
		if d.times {
			return time.Duration(x).String()
		}
		return strconv.FormatInt(int64(x), 10)
	}
	switch d.kind {
	case constant:
		return v(d.a)
	case uniform:
		return "uniform " + v(d.a) + " to " + v(d.b)
	case exponential:
		return "exponential, mean " + v(d.a)
	case logNormal:
		return "log-normal, median " + v(d.a) + ", p99 " + v(d.b)
	case pareto:
		return fmt.Sprintf("Pareto, least %s, alpha %v", v(d.a), d.b)
	case sampled:
		return fmt.Sprintf("%d samples", len(d.samples))
	}
	return "none"
}
