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
// ([SourceRetryInfo]), a retry_after of the body itself, its error or its parameters
// ([SourceBody]), or GitHub's message about a secondary rate limit or abuse, which means a
// minute ([SourceSecondary]). Of several the longest counts; at most [MaxPause]. A body
// that says none of these, is no JSON or has more than [MaxBody] bytes gives zero and "".
// It never panics.
func ParseBody(body []byte) (pause time.Duration, source string) {
	b := readBody(body, time.Now())
	return b.pause, b.source
}

// bodySays is what a body says.
type bodySays struct {
	pause   time.Duration // at most MaxPause
	source  string
	limited bool // a limit on rates or a quota is why the request was refused
	noRetry bool // nothing but money makes it pass
}

func readBody(body []byte, now time.Time) (b bodySays) {
	body = bytes.TrimSpace(body)
	if len(body) == 0 || len(body) > MaxBody {
		return b
	}
	switch body[0] {
	case '{':
		var a answer
		if json.Unmarshal(body, &a) == nil {
			b.read(a, now)
		}
	case '[': // what a stream would have been
		var as []answer
		if json.Unmarshal(body, &as) == nil {
			for _, a := range as {
				b.read(a, now)
			}
		}
	}
	return b
}

// answer is the members of a JSON object. They are decoded on their own, so that one of a
// foreign type spoils nothing.
type answer map[string]json.RawMessage

// text is the member of that name if it is a string, in lower case.
func (a answer) text(name string) string {
	var s string
	if json.Unmarshal(a[name], &s) != nil {
		return ""
	}
	return strings.ToLower(s)
}

// object is the member of that name if it is an object.
func (a answer) object(name string) (o answer) {
	if json.Unmarshal(a[name], &o) != nil {
		return nil
	}
	return o
}

// list is the objects among the elements of the member of that name.
func (a answer) list(name string) (list []answer) {
	var all []json.RawMessage
	if json.Unmarshal(a[name], &all) != nil {
		return nil
	}
	for _, x := range all {
		var o answer
		if json.Unmarshal(x, &o) == nil && o != nil {
			list = append(list, o)
		}
	}
	return list
}

// read adds what one answer says.
func (b *bodySays) read(a answer, now time.Time) {
	failure := a.object("error")
	for _, detail := range failure.list("details") {
		kind := detail.text("@type")
		switch {
		case strings.HasSuffix(kind, "google.rpc.retryinfo"):
			b.wait(retryDelay(detail.text("retryDelay")), SourceRetryInfo)
		case strings.HasSuffix(kind, "google.rpc.errorinfo"):
			b.reason(detail.text("reason"))
		}
	}
	for _, one := range failure.list("errors") {
		b.reason(one.text("reason"))
	}
	b.reason(failure.text("status"))
	for _, o := range []answer{a, a.object("parameters"), failure, failure.object("parameters"), failure.object("metadata")} {
		b.retryAfter(o, now)
	}
	for _, o := range []answer{a, failure} {
		b.noRetry = b.noRetry || o.text("code") == "insufficient_quota" || o.text("type") == "insufficient_quota"
	}
	message, more := a.text("message"), a.text("documentation_url")
	switch {
	case strings.Contains(message, "secondary rate limit"), strings.Contains(message, "abuse detection"),
		strings.Contains(more, "secondary-rate-limit"), strings.Contains(more, "abuse-rate-limit"):
		if b.pause == 0 {
			b.pause, b.source = secondaryPause, SourceSecondary
		}
		b.limited = true
	case strings.HasPrefix(message, "api rate limit exceeded"):
		b.limited = true
	}
}

// wait adds a time that the body names.
func (b *bodySays) wait(d time.Duration, source string) {
	if d = min(d, MaxPause); d > b.pause {
		b.pause, b.source = d, source
	}
}

// reason adds why a Google API has refused: userRateLimitExceeded, RATE_LIMIT_EXCEEDED.
func (b *bodySays) reason(r string) {
	switch strings.ReplaceAll(r, "_", "") {
	case "ratelimitexceeded", "userratelimitexceeded", "quotaexceeded", "dailylimitexceeded", "servinglimitexceeded",
		"concurrentlimitexceeded", "variabletermlimitexceeded", "sharingratelimitexceeded", "resourceexhausted":
		b.limited = true
	}
}

// retryDelay reads the duration of a google.rpc.RetryInfo, as Protobuf's JSON writes it.
func retryDelay(v string) time.Duration {
	seconds, ok := strings.CutSuffix(v, "s")
	if n, valid := parseNumber(seconds); ok && valid {
		return n.times(time.Second)
	}
	return 0
}

// retryAfter adds a retry_after among the members of o, whatever its spelling: a number of
// seconds, or of what its name says, or a text in any of the forms of the header.
func (b *bodySays) retryAfter(o answer, now time.Time) {
	for name, raw := range o {
		unit := time.Second
		switch strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(name)) {
		case "retryafter", "retryafterseconds", "retryaftersecs", "retryaftersec":
		case "retryafterms", "retryaftermillis", "retryaftermilliseconds":
			unit = time.Millisecond
		default:
			continue
		}
		v := string(raw)
		if len(v) > 0 && v[0] == '"' && json.Unmarshal(raw, &v) != nil {
			continue
		}
		if d, ok := (clock{server: now}).later(v, unit); ok {
			b.wait(d, SourceBody)
		}
	}
}
