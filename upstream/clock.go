package upstream

import (
	"net/http"
	"time"
)

// clock is what time it is for the fields of one response.
type clock struct {
	server time.Time     // now, on the server's clock
	age    time.Duration // how old the response was on arrival
}

// clockOf trusts the response's Date over the local clock: whoever wrote the fields wrote
// it too. Date is rounded down to seconds, so a wait counted from it is never too short.
func clockOf(h http.Header, now time.Time) clock {
	c := clock{server: now}
	if n, ok := parseNumber(trim(first(h, "Age"))); ok {
		c.age = n.times(time.Second)
	}
	if t, ok := parseHTTPDate(trim(first(h, "Date"))); ok {
		c.server = t.Add(c.age)
	}
	return c
}

// until is the time from now to a reset in any of the forms that servers send; zero if it
// is over.
func (c clock) until(v string) (time.Duration, bool) {
	v = trim(v)
	if n, ok := parseNumber(v); ok {
		switch {
		case n.whole > 1e12:
			return c.left(time.UnixMilli(n.whole)), true
		case n.whole > 1e9:
			return c.left(time.Unix(n.whole, n.nano)), true
		}
		return c.after(n.times(time.Second)), true
	}
	if d, ok := parseDuration(v); ok {
		return c.after(d), true
	}
	if len(v) >= len("2006-01-02T15:04:05Z") && v[4] == '-' {
		if t, err := time.Parse(time.RFC3339, v); err == nil {
			return c.left(t), true
		}
		return 0, false
	}
	if t, ok := parseHTTPDate(v); ok {
		return c.left(t), true
	}
	return 0, false
}

func (c clock) left(t time.Time) time.Duration      { return max(0, t.Sub(c.server)) }
func (c clock) after(d time.Duration) time.Duration { return max(0, d-c.age) }

// parseHTTPDate reads the three formats of RFC 9110, 5.6.7.
func parseHTTPDate(v string) (time.Time, bool) {
	// The shortest is asctime's with 24 bytes, the longest RFC 850's with 33. All begin
	// with the name of a day; what does not is not worth an error that is thrown away.
	if len(v) < 24 || len(v) > 33 || v[0] < 'A' || v[0] > 'Z' {
		return time.Time{}, false
	}
	t, err := http.ParseTime(v)
	return t, err == nil
}
