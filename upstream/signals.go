package upstream

import (
	"net/http"
	"time"

	"github.com/sluice-go/sluice"
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
	SourceBody         = "body"                // retry_after in a body
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
	// Status is the server's own word on the quota, as in "allowed" or "rejected", in lower
	// case; empty if not given.
	Status string
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
	s.Pause, s.Source = s.pause(asked, status)
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
func (s *Signals) pause(asked retryAfter, status int) (d time.Duration, source string) {
	if s.Throttled && asked.pause > 0 {
		return asked.pause, asked.source
	}
	lone := s.lone(status)
	for i := range s.Quotas {
		q := &s.Quotas[i]
		if source == SourceRateLimit && q.Source != SourceRateLimit {
			break // the IETF fields come first in Quotas
		}
		if p := q.pause(s.Throttled, i == lone); p > d {
			d, source = p, q.Source
		}
	}
	return d, source
}

// lone is the one window that a refusal because of a quota describes, if it says of none
// what is left: it is that one which is used up. Of several nobody knows which.
func (s *Signals) lone(status int) int {
	if status != http.StatusTooManyRequests {
		return -1
	}
	lone := -1
	for i := range s.Quotas {
		switch q := &s.Quotas[i]; {
		case q.Reset == 0 && q.Status == "":
		case lone >= 0 || q.Remaining != Unknown || q.Status != "":
			return -1
		default:
			lone = i
		}
	}
	return lone
}

// pause is how long q alone asks to wait: not at all unless it is said to be used up, by
// what remains, in a refusal also by its status, or as its only window.
func (q *Quota) pause(refused, lone bool) time.Duration {
	if q.Unit == unitConcurrent || q.Remaining != 0 && !lone && !(refused && q.Remaining == Unknown && usedUp(q.Status)) {
		return 0
	}
	if !refused && q.Refills && q.Unit == unitRequests && q.Limit > 1 && q.Reset > 0 {
		// The next request is possible long before the quota is full, and the one just
		// answered was let through, so nothing speaks for a longer wait.
		return (q.Reset-1)/time.Duration(q.Limit) + 1
	}
	return q.Reset
}

// usedUp reports whether a status says so.
func usedUp(status string) bool {
	switch status {
	case "rejected", "exceeded", "exhausted", "limited", "rate_limited", "rate-limited", "throttled", "blocked", "denied", "depleted":
		return true
	}
	return false
}

// parts is what a refusal or a pause is about, from wide to narrow, as far as the host, the
// headers and the quotas of its answer tell that apart.
func (s *Signals) parts(host string, h http.Header) (parts []sluice.ThrottlePart) {
	add := func(kind, key string) {
		if key != "" {
			parts = append(parts, sluice.ThrottlePart{Kind: kind, Key: key})
		}
	}
	add("host", host)
	add("resource", resourceOf(h))
	used := -1
	for i := range s.Quotas {
		if q := &s.Quotas[i]; q.Source == SourceRateLimit && q.Remaining == 0 && q.Unit != unitConcurrent && (used < 0 || q.Reset > s.Quotas[used].Reset) {
			used = i
		}
	}
	if used >= 0 {
		add("policy", s.Quotas[used].Name)
		add("partition", s.Quotas[used].Partition)
	}
	return parts
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
