package upstream

import (
	"net/http"
	"time"
)

// retryAfter is what the Retry-After fields of a response ask for.
type retryAfter struct {
	given  bool          // one of them is there and well-formed
	pause  time.Duration // zero names no time
	source string
}

// readRetryAfter reads the finer field first. A field that is malformed, or that names no
// time, leaves the word to the next.
func readRetryAfter(h http.Header, c clock) retryAfter {
	var r retryAfter
	for _, key := range [...]string{"Retry-After-Ms", "X-Ms-Retry-After-Ms"} {
		n, ok := parseNumber(trim(first(h, key)))
		if !ok {
			continue
		}
		r.given = true
		if d := n.times(time.Millisecond); d > 0 {
			r.pause, r.source = d, SourceRetryAfterMs
			return r
		}
	}
	v := trim(first(h, "Retry-After"))
	if v == "" {
		return r
	}
	d := time.Duration(0)
	if n, ok := parseNumber(v); ok {
		d = n.times(time.Second)
	} else if t, ok := parseHTTPDate(v); ok {
		d = t.Sub(c.server)
	} else {
		return r
	}
	r.given = true
	if d > 0 {
		r.pause, r.source = d, SourceRetryAfter
	}
	return r
}
