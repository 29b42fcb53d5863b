package upstream

import (
	"net/http"
	"time"
)

// MaxPause bounds every pause unless another bound is given: a server that asks for a
// day, or for a century, holds calls back for this long and is then asked again.
const MaxPause = time.Hour

// Unknown stands for a number that the server did not give.
const Unknown = -1

// What a pause can come from, as Signals.Source tells it.
const (
	SourceRetryAfterMs = "retry-after-ms"      // Retry-After-Ms or X-Ms-Retry-After-Ms
	SourceRetryAfter   = "retry-after"         // Retry-After
	SourceRateLimit    = "ratelimit"           // the IETF fields, of any draft
	SourceXRateLimit   = "x-ratelimit"         // X-RateLimit-... and X-Rate-Limit-...
	SourceAnthropic    = "anthropic-ratelimit" // Anthropic-RateLimit-...
	SourceSecondary    = "github-secondary"    // GitHub's limit that names no time
	SourceRetryInfo    = "retry-info"          // google.rpc.RetryInfo in a body
	SourceBackoff      = "backoff"             // a Transport's own
)

// Signals is what one response says about rate limits. The zero value says nothing. It is
// a value; only Quotas is shared by copies.
type Signals struct {
	// Throttled says that the server refused the request because of a limit on rates.
	Throttled bool
	// Pause is how long to send nothing that counts against the same limit, from the
	// moment that was given to Parse. It can be set in an answer that is no refusal: the
	// request was the last that a quota allowed. Zero means that no time is known.
	Pause time.Duration
	// Source is where Pause comes from, one of the Source constants; empty if Pause is zero.
	Source string
	// NoRetry says that the server asked not to be sent this request again.
	NoRetry bool
	// Quotas is what is known of each limit, at most 32 of them; nil if nothing is.
	Quotas []Quota
}

// Quota is one limit of a server, as far as a response describes it. What remains is no
// promise: others may use the same quota.
type Quota struct {
	Source    string // SourceRateLimit, SourceXRateLimit or SourceAnthropic
	Name      string // the policy, the resource (GitHub) or the kind, as in "input-tokens"; may be empty
	Unit      string // what is counted: "requests", "tokens", or the server's own word
	Partition string // the partition key of the IETF draft, in base64 as it came; may be empty

	Limit     int64         // units per window; Unknown if not given
	Remaining int64         // units left; Unknown if not given
	Reset     time.Duration // until the quota is whole again; zero if not given, or over
	Window    time.Duration // zero if not given
	// Refills says that the quota comes back bit by bit, and Reset is when it is full. Else
	// it comes back all at once.
	Refills bool
}

// Parse reads the headers of a response with that status, received at now. It only looks:
// it never fails, panics or changes h, and what is malformed counts as absent. The pause
// is at most [MaxPause]. The keys of h must be in canonical form, as net/http gives them.
// Safe for concurrent use.
func Parse(h http.Header, status int, now time.Time) Signals {
	return ParseWithin(h, status, now, MaxPause)
}

// ParseWithin is [Parse] with another bound for the pause. A bound that is not positive
// means [MaxPause].
func ParseWithin(h http.Header, status int, now time.Time, bound time.Duration) Signals {
	if bound <= 0 {
		bound = MaxPause
	}
	c := clockOf(h, now)
	asked := readRetryAfter(h, c)
	s := Signals{
		NoRetry: first(h, "X-Should-Retry") == "false",
		Quotas:  vendorQuotas(h, c, ietfQuotas(h, c)),
	}
	s.Throttled = refused(status, asked.given, s.Quotas)
	s.Pause, s.Source = s.pause(asked)
	if s.Pause == 0 && s.Throttled && isGitHub(h) {
		s.Pause, s.Source = secondaryPause, SourceSecondary
	}
	s.Pause = min(s.Pause, bound)
	return s
}

// Empty reports whether the response said nothing about rate limits.
func (s Signals) Empty() bool {
	return !s.Throttled && s.Pause == 0 && !s.NoRetry && len(s.Quotas) == 0
}

// refused tells a refusal because of a rate from other answers.
func refused(status int, retryAfter bool, quotas []Quota) bool {
	switch status {
	case http.StatusTooManyRequests, statusOverloaded:
		return true
	case http.StatusServiceUnavailable:
		return retryAfter
	case http.StatusForbidden:
		if retryAfter {
			return true
		}
		for _, q := range quotas {
			if q.Source == SourceXRateLimit && q.Remaining == 0 {
				return true
			}
		}
	}
	return false
}

// statusOverloaded is no registered status; Anthropic and some proxies send it.
const statusOverloaded = 529

// pause is the pause by the order of precedence that the package comment gives.
func (s *Signals) pause(asked retryAfter) (time.Duration, string) {
	if s.Throttled && asked.pause > 0 {
		return asked.pause, asked.source
	}
	var d time.Duration
	source := ""
	for _, q := range s.Quotas {
		if source == SourceRateLimit && q.Source != SourceRateLimit {
			break // the IETF fields come first in Quotas
		}
		if p := q.pause(s.Throttled); p > d {
			d, source = p, q.Source
		}
	}
	return d, source
}

// pause is how long q alone asks to wait. In a refusal a quota that does not say what is
// left counts as used up.
func (q *Quota) pause(refused bool) time.Duration {
	if q.Remaining > 0 || q.Remaining == Unknown && !refused || q.Unit == unitConcurrent {
		return 0
	}
	if !refused && q.Refills && q.Unit == unitRequests && q.Limit > 1 && q.Reset > 0 {
		// The next request is possible long before the quota is full, and the one just
		// answered was let through, so nothing speaks for a longer wait.
		return (q.Reset-1)/time.Duration(q.Limit) + 1
	}
	return q.Reset
}

const (
	unitRequests   = "requests"
	unitTokens     = "tokens"
	unitConcurrent = "concurrent-requests" // a limit on concurrency: no time brings it back
)

// first is the first value of a header with a canonical key.
func first(h http.Header, key string) string {
	if v := h[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}
