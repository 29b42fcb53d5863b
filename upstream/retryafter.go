package upstream

import (
	"net/http"
	"strings"
	"time"
)

// retryAfter is what the Retry-After fields of a response ask for.
type retryAfter struct {
	given  bool          // one of them is there and well-formed
	pause  time.Duration // zero names no time
	source string
}

// readRetryAfter reads the finer fields first. A field that is malformed, or that names no
// time, leaves the word to the others; of several the longest counts.
func readRetryAfter(h http.Header, c clock) retryAfter {
	var r retryAfter
	var coarse, fine time.Duration
	for key, lines := range h {
		unit := retryAfterUnit(key)
		if unit == 0 {
			continue
		}
		for _, line := range lines[:min(len(lines), maxQuotas)] {
			if len(line) > maxField {
				continue
			}
			d, ok := c.later(line, unit)
			if !ok {
				continue
			}
			if unit == time.Millisecond {
				fine = max(fine, d)
			} else {
				coarse = max(coarse, d)
			}
			r.given = r.given || d > 0 || key == "Retry-After" || unit == time.Millisecond
		}
	}
	switch {
	case fine > 0:
		r.pause, r.source = fine, SourceRetryAfterMs
	case coarse > 0:
		r.pause, r.source = coarse, SourceRetryAfter
	}
	return r
}

// retryAfterUnit is the unit of the numbers in a field of that name; zero if it is none that
// asks to come back later.
func retryAfterUnit(key string) time.Duration {
	const name = "Retry-After"
	i := strings.Index(key, name)
	if i < 0 || i > 0 && key[i-1] != '-' {
		return 0
	}
	rest, unit := cutUnit(key[i+len(name):])
	if rest != "" {
		return 0
	}
	return unit
}

// cutUnit splits the unit off a field's name that ends with one. Without one it is seconds.
func cutUnit(name string) (rest string, unit time.Duration) {
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return name, time.Second
	}
	switch name[i+1:] {
	case "Ms", "Msec", "Msecs", "Millis", "Milliseconds":
		return name[:i], time.Millisecond
	case "S", "Sec", "Secs", "Seconds":
		return name[:i], time.Second
	case "Minutes":
		return name[:i], time.Minute
	}
	return name, time.Second
}
