package upstream

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/sluice-go/sluice"
)

// StatusError is a response whose status is no success, as an error. It holds nothing of
// the body, and of the URL only the host, so that no secret gets into a log or a model's
// context with it.
type StatusError struct {
	StatusCode int
	Method     string // of the request; may be empty
	Host       string // of the request; may be empty

	noRetry bool // the server asked not to be sent the request again
}

// NoRetry reports whether the same request will fail again: the server has said so, or the status blames
// the request, as 400, 401, 403 or 404 does, but not 408, 425 and 429.
func (e *StatusError) NoRetry() bool {
	switch c := e.StatusCode; c {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return e.noRetry
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return true
	default:
		return e.noRetry || c >= 400 && c < 500
	}
}

// Error is one line: "upstream: GET api.example.com: 404 Not Found".
func (e *StatusError) Error() string {
	where := cut(e.Method, 16)
	if e.Host != "" {
		if where != "" {
			where += " "
		}
		where += cut(e.Host, 128)
	}
	if where != "" {
		where += ": "
	}
	if text := http.StatusText(e.StatusCode); text != "" {
		return fmt.Sprintf("upstream: %s%d %s", where, e.StatusCode, text)
	}
	return fmt.Sprintf("upstream: %sstatus %d", where, e.StatusCode)
}

// ThrottledError is a response that refused its request because of a limit on rates. A
// tool that returns it, or an error that wraps it, tells the library that the provider is
// overloaded and when to go on. It wraps its StatusError, for [errors.As].
type ThrottledError struct {
	StatusError
	Signals Signals

	part sluice.ThrottlePart
}

// RetryAfter is how long to wait from when the response came; zero if nobody knows.
func (e *ThrottledError) RetryAfter() time.Duration { return e.Signals.Pause }

// ThrottledPart is what the refusal is about, as far as it tells: a "partition" or "policy" of
// the IETF draft, else a "resource" of the API, else the "host". A [sluice.RateLimiter] with
// Upstream set that counts by a key of that name pauses that key.
func (e *ThrottledError) ThrottledPart() (kind, key string) { return e.part.Kind, e.part.Key }

// NoRetry reports whether the server has asked not to be sent the request again.
func (e *ThrottledError) NoRetry() bool { return e.Signals.NoRetry }

// Error is one line: "upstream: GET api.example.com: 429 Too Many Requests, retry in 3s".
func (e *ThrottledError) Error() string {
	if e.Signals.Pause <= 0 {
		return e.StatusError.Error()
	}
	return e.StatusError.Error() + ", retry in " + e.Signals.Pause.String()
}

// Unwrap is the StatusError.
func (e *ThrottledError) Unwrap() error { return &e.StatusError }

// Check turns a response into an error: nil for a status below 400, a [*ThrottledError]
// for a refusal because of a rate, a [*StatusError] for any other. To be called when the
// response has come, since what it says counts from now.
//
// body is what the caller has read of the body, which [MaxBody] bytes are enough of, for
// the providers that name the time there; nil is fine. Check itself neither reads nor
// closes the body: that stays the caller's to do, whatever Check returns.
func Check(resp *http.Response, body []byte) error {
	if resp == nil {
		return errors.New("upstream: Check of a nil response: must not be nil")
	}
	if resp.StatusCode < http.StatusBadRequest {
		return nil
	}
	failed := StatusError{StatusCode: resp.StatusCode}
	if r := resp.Request; r != nil {
		failed.Method = r.Method
		if r.URL != nil {
			failed.Host = r.URL.Host
		}
	}
	now := time.Now()
	s := Parse(resp.Header, resp.StatusCode, now)
	if s.addBody(resp.StatusCode, readBody(body, now)) && resp.Request != nil {
		if g, ok := resp.Request.Context().Value(guessKey{}).(*guess); ok {
			g.corrected()
		}
	}
	failed.noRetry = s.NoRetry
	if !s.Throttled {
		return &failed
	}
	e := &ThrottledError{StatusError: failed, Signals: s}
	if parts := s.parts(failed.Host, resp.Header); len(parts) > 0 {
		e.part = parts[len(parts)-1]
	}
	return e
}

// addBody lets the body say what the headers did not, and answers whether it named a time.
func (s *Signals) addBody(status int, b bodySays) bool {
	s.NoRetry = s.NoRetry || b.noRetry
	busy := status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable || status == statusOverloaded
	if status == http.StatusForbidden && b.limited {
		s.Throttled = true
	}
	if s.Pause > 0 && s.Source != SourceSecondary {
		return false
	}
	switch b.source {
	case SourceRetryInfo:
		if !busy && status != http.StatusForbidden {
			return false
		}
	case SourceBody:
		if !busy && !s.Throttled {
			return false
		}
	case SourceSecondary:
		if status != http.StatusTooManyRequests && status != http.StatusForbidden {
			return false
		}
	default:
		return false
	}
	s.Throttled, s.Pause, s.Source = true, b.pause, b.source
	return b.source != SourceSecondary
}

// cut keeps at most n bytes of s, and says so.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 { // not inside a rune
		n--
	}
	return s[:n] + "…"
}
