package upstream

import (
	"math"
	"math/bits"
	"strings"
	"time"
)

// number is a number without sign, exact to nine digits behind the point. A number that
// is too large is the largest there is.
type number struct {
	whole int64
	nano  int64 // billionths, rounded up
}

// parseNumber reads 1*DIGIT [ "." 1*DIGIT ], and nothing else.
func parseNumber(s string) (number, bool) {
	n, rest := scanNumber(s)
	return n, rest == "" && s != ""
}

// scanNumber reads a number at the start of s; rest is s itself if there is none.
func scanNumber(s string) (n number, rest string) {
	i := 0
	for ; i < len(s) && isDigit(s[i]); i++ {
		if d := int64(s[i] - '0'); n.whole > (math.MaxInt64-d)/10 {
			n.whole = math.MaxInt64
		} else {
			n.whole = n.whole*10 + d
		}
	}
	if i == 0 {
		return number{}, s
	}
	if i+1 >= len(s) || s[i] != '.' || !isDigit(s[i+1]) {
		return n, s[i:]
	}
	more := false
	scale := int64(1e8)
	for i++; i < len(s) && isDigit(s[i]); i++ {
		n.nano += scale * int64(s[i]-'0')
		more = more || scale == 0 && s[i] != '0'
		scale /= 10
	}
	if more {
		n.nano++ // up to a whole one, which times takes as it is
	}
	return n, s[i:]
}

// times is n units, rounded up.
func (n number) times(unit time.Duration) time.Duration {
	hi, lo := bits.Mul64(uint64(n.nano), uint64(unit))
	part, rem := bits.Div64(hi, lo, 1e9) // nano is at most 1e9 and unit a day: hi is small
	if rem > 0 {
		part++
	}
	return plus(product(n.whole, unit), time.Duration(part))
}

// product and plus saturate; their arguments are not negative.
func product(n int64, unit time.Duration) time.Duration {
	if unit > 0 && n > math.MaxInt64/int64(unit) {
		return math.MaxInt64
	}
	return time.Duration(n) * unit
}

func plus(a, b time.Duration) time.Duration {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// parseDuration reads durations as Go writes them, "6m0s", "12ms", with days besides and
// with units in words, "1 minute 30 seconds", and those of ISO 8601, "PT1M30S". Unlike
// [time.ParseDuration] it takes no sign, saturates, rounds up and does not build an error
// for what is none.
func parseDuration(s string) (time.Duration, bool) {
	iso := len(s) > 2 && s[0] == 'P'
	if iso {
		s = s[1:]
	}
	if s == "" {
		return 0, false
	}
	var sum time.Duration
	clock := false // behind the T of ISO 8601
	for s != "" {
		if iso && s[0] == 'T' && !clock {
			clock, s = true, s[1:]
		}
		n, rest := scanNumber(s)
		if rest == s {
			return 0, false
		}
		if !iso {
			rest = strings.TrimLeft(rest, " ")
		}
		word := 0
		for word < len(rest) && (isAlpha(rest[word]) || rest[word] >= 0x80) && !(iso && word == 1) {
			word++
		}
		unit := durationUnit(rest[:word])
		if iso {
			unit = isoUnit(rest[:word], clock)
		}
		if unit == 0 {
			return 0, false
		}
		sum = plus(sum, n.times(unit))
		if s = rest[word:]; !iso {
			s = strings.TrimLeft(s, " ")
		}
	}
	return sum, true
}

func durationUnit(s string) time.Duration {
	switch s {
	case "ns":
		return time.Nanosecond
	case "us", "\u00b5s", "\u03bcs": // micro sign, Greek mu
		return time.Microsecond
	case "ms", "msec", "msecs", "millis", "millisecond", "milliseconds":
		return time.Millisecond
	case "s", "sec", "secs", "second", "seconds":
		return time.Second
	case "m", "min", "mins", "minute", "minutes":
		return time.Minute
	case "h", "hr", "hrs", "hour", "hours":
		return time.Hour
	case "d", "day", "days":
		return 24 * time.Hour
	}
	return 0
}

func isoUnit(s string, clock bool) time.Duration {
	switch {
	case s == "D" && !clock:
		return 24 * time.Hour
	case s == "H" && clock:
		return time.Hour
	case s == "M" && clock:
		return time.Minute
	case s == "S" && clock:
		return time.Second
	}
	return 0
}

// parseCount reads the whole number that a count begins with, as in "100", "599.0" and
// "100, 100;w=60".
func parseCount(s string) (int64, bool) {
	s = trim(s)
	n, rest := scanNumber(s)
	if rest == s || rest != "" && rest[0] != ',' && rest[0] != ';' && rest[0] != ' ' {
		return 0, false
	}
	return n.whole, true
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// trim cuts the optional whitespace of HTTP fields.
func trim(s string) string { return strings.Trim(s, " \t") }
