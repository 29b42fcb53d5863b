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
	if t, ok := parseDate(plain(first(h, "Date"))); ok {
		c.server = t.Add(c.age)
	}
	return c
}

// until is the time from now to a reset in any of the forms that servers send, with numbers
// in unit; zero if it is over.
func (c clock) until(v string, unit time.Duration) (time.Duration, bool) {
	v = plain(v)
	if n, ok := parseNumber(v); ok {
		switch {
		case n.whole > 1e12, c.near(n.whole / 1000):
			return c.left(time.UnixMilli(n.whole)), true
		case unit == time.Second && (n.whole > 1e9 || c.near(n.whole)):
			return c.left(time.Unix(n.whole, n.nano)), true
		}
		return c.after(n.times(unit)), true
	}
	return c.unlessNumber(v)
}

// later is until for a Retry-After, which RFC 9110 has in seconds from now: a number is a
// point in time only where it is close to the present.
func (c clock) later(v string, unit time.Duration) (time.Duration, bool) {
	v = plain(v)
	if n, ok := parseNumber(v); ok {
		switch {
		case c.near(n.whole):
			return c.left(time.Unix(n.whole, n.nano)), true
		case c.near(n.whole / 1000):
			return c.left(time.UnixMilli(n.whole)), true
		}
		return n.times(unit), true
	}
	if d, ok := parseDuration(v); ok {
		return d, true
	}
	return c.unlessNumber(v)
}

func (c clock) unlessNumber(v string) (time.Duration, bool) {
	if d, ok := parseDuration(v); ok {
		return c.after(d), true
	}
	if t, ok := parseDate(v); ok {
		return c.left(t), true
	}
	return 0, false
}

// near reports whether so many seconds of the Unix epoch are within a year of the server's
// clock: nobody means a wait by a number like that, whatever year the clock is in.
func (c clock) near(seconds int64) bool {
	const year = 366 * 24 * 60 * 60
	d := seconds - c.server.Unix() // of which neither is near the ends of its range
	return seconds < 1<<62 && -year <= d && d <= year
}

func (c clock) left(t time.Time) time.Duration      { return max(0, t.Sub(c.server)) }
func (c clock) after(d time.Duration) time.Duration { return max(0, d-c.age) }

// plain is v without space and quotes around it.
func plain(v string) string {
	v = trim(v)
	if n := len(v); n >= 2 && v[0] == '"' && v[n-1] == '"' {
		v = trim(v[1 : n-1])
	}
	return v
}
