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

// parseDuration reads durations as Go writes them, with days besides: "6m0s", "12ms",
// "1d2h". Unlike [time.ParseDuration] it takes no sign, saturates, rounds up and does not
// build an error for what is none.
func parseDuration(s string) (time.Duration, bool) {
	if s == "" {
		return 0, false
	}
	var sum time.Duration
	for s != "" {
		n, rest := scanNumber(s)
		if rest == s {
			return 0, false
		}
		unit, width := durationUnit(rest)
		if unit == 0 {
			return 0, false
		}
		sum = plus(sum, n.times(unit))
		s = rest[width:]
	}
	return sum, true
}

func durationUnit(s string) (time.Duration, int) {
	for _, u := range [...]struct {
		name string
		unit time.Duration
	}{
		{"ms", time.Millisecond}, // before "m"
		{"ns", time.Nanosecond},
		{"us", time.Microsecond},
		{"\u00b5s", time.Microsecond}, // micro sign
		{"\u03bcs", time.Microsecond}, // Greek mu
		{"s", time.Second},
		{"m", time.Minute},
		{"h", time.Hour},
		{"d", 24 * time.Hour},
	} {
		if strings.HasPrefix(s, u.name) {
			return u.unit, len(u.name)
		}
	}
	return 0, 0
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
