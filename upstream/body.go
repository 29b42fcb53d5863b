package upstream

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"
)

// MaxBody is how much of a body [ParseBody] looks at. Read no more of a bad answer:
//
//	body, err := io.ReadAll(io.LimitReader(resp.Body, upstream.MaxBody))
const MaxBody = 64 << 10

// ParseBody reads the time to wait from the body of a refusal, for the providers that put
// it there, and tells where it found it: the retryDelay of a google.rpc.RetryInfo
// ([SourceRetryInfo]), or GitHub's message about a secondary rate limit, which means a
// minute ([SourceSecondary]). The pause is at most [MaxPause]. A body that says neither,
// is no JSON or has more than [MaxBody] bytes gives zero and "". It never panics.
func ParseBody(body []byte) (pause time.Duration, source string) {
	body = bytes.TrimSpace(body)
	if len(body) == 0 || len(body) > MaxBody {
		return 0, ""
	}
	switch body[0] {
	case '{':
		var a answer
		if json.Unmarshal(body, &a) == nil {
			return a.pause()
		}
	case '[': // what a stream would have been
		var as []answer
		if json.Unmarshal(body, &as) == nil && len(as) > 0 {
			return as[0].pause()
		}
	}
	return 0, ""
}

// answer is what is read of a body. Parts whose type varies between providers are decoded
// on their own, so that a foreign one spoils nothing.
type answer struct {
	Error   json.RawMessage `json:"error"`
	Message json.RawMessage `json:"message"`
}

func (a answer) pause() (time.Duration, string) {
	var google struct {
		Details []json.RawMessage `json:"details"`
	}
	if len(a.Error) > 0 && json.Unmarshal(a.Error, &google) == nil {
		for _, detail := range google.Details {
			if d, ok := retryDelay(detail); ok {
				return min(d, MaxPause), SourceRetryInfo
			}
		}
	}
	var message string
	if len(a.Message) > 0 && json.Unmarshal(a.Message, &message) == nil &&
		strings.Contains(strings.ToLower(message), "secondary rate limit") {
		return secondaryPause, SourceSecondary
	}
	return 0, ""
}

// retryDelay reads a google.rpc.RetryInfo, with the duration as Protobuf's JSON writes it.
func retryDelay(detail json.RawMessage) (time.Duration, bool) {
	var info struct {
		Type  string `json:"@type"`
		Delay string `json:"retryDelay"`
	}
	if json.Unmarshal(detail, &info) != nil || !strings.HasSuffix(info.Type, "google.rpc.RetryInfo") {
		return 0, false
	}
	seconds, ok := strings.CutSuffix(info.Delay, "s")
	n, valid := parseNumber(seconds)
	if !ok || !valid {
		return 0, false
	}
	d := n.times(time.Second)
	return d, d > 0
}
