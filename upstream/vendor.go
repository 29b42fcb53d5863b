package upstream

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// secondaryPause is what GitHub asks for when it names no time.
const secondaryPause = time.Minute

// maxVendorFields bounds how many fields of providers are read. A response with more of
// them has none read, whatever the order they come in.
const maxVendorFields = 64

// vendorQuotas adds what the fields of providers say. They are found by their prefix, not
// by a list of names, since everybody who copies OpenAI's adds kinds of its own.
func vendorQuotas(h http.Header, c clock, qs []Quota) []Quota {
	var buf [maxVendorFields]string
	keys := buf[:0]
	for key := range h {
		if source, _ := family(key); source == "" {
			continue
		}
		if len(keys) == maxVendorFields {
			return qs
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return qs
	}
	slices.Sort(keys) // of a map: the answer must not depend on its order
	from := len(qs)
	for _, key := range keys {
		v := first(h, key)
		if len(v) > maxField {
			continue
		}
		source, rest := family(key)
		kind, of := fieldOf(rest)
		var q Quota
		var ok bool
		switch kind {
		case "Limit":
			q.Limit, ok = parseCount(v)
		case "Remaining":
			q.Remaining, ok = parseCount(v)
		case "Reset", "Reset-After":
			q.Reset, ok = c.until(v)
		}
		if !ok {
			continue
		}
		qs = addVendor(qs, from, source, of, kind, q)
	}
	if resource := trim(first(h, "X-Ratelimit-Resource")); resource != "" && len(resource) <= 64 {
		for i := from; i < len(qs); i++ {
			if qs[i].Source == SourceXRateLimit && qs[i].Name == "" {
				qs[i].Name = resource
			}
		}
	}
	return qs
}

// family is the Source of a field by its name, and the rest of the name.
func family(key string) (source, rest string) {
	switch {
	case len(key) < len("X-Ratelimit-"):
		return "", ""
	case strings.HasPrefix(key, "X-Ratelimit-"):
		return SourceXRateLimit, key[len("X-Ratelimit-"):]
	case strings.HasPrefix(key, "X-Rate-Limit-"):
		return SourceXRateLimit, key[len("X-Rate-Limit-"):]
	case strings.HasPrefix(key, "Anthropic-Ratelimit-"):
		return SourceAnthropic, key[len("Anthropic-Ratelimit-"):]
	}
	return "", ""
}

// fieldOf splits Remaining-Tokens and Tokens-Remaining alike.
func fieldOf(rest string) (kind, of string) {
	if rest == "Reset-After" {
		return rest, ""
	}
	for _, kind := range [...]string{"Limit", "Remaining", "Reset"} {
		if rest == kind {
			return kind, ""
		}
		if of, ok := strings.CutPrefix(rest, kind); ok && of[0] == '-' {
			return kind, of[1:]
		}
		if of, ok := strings.CutSuffix(rest, kind); ok && strings.HasSuffix(of, "-") {
			return kind, of[:len(of)-1]
		}
	}
	return "", ""
}

// addVendor puts one number to the quota it belongs to.
func addVendor(qs []Quota, from int, source, of, kind string, v Quota) []Quota {
	name, unit := nameOf(of)
	i := from
	for i < len(qs) && (qs[i].Source != source || qs[i].Name != name) {
		i++
	}
	if i == len(qs) {
		if len(qs) >= maxQuotas || len(name) > 64 {
			return qs
		}
		if qs == nil {
			qs = make([]Quota, 0, 4)
		}
		// A provider that counts several things at once counts them with buckets.
		qs = append(qs, Quota{Source: source, Name: name, Unit: unit, Limit: Unknown, Remaining: Unknown, Refills: name != ""})
	}
	switch q := &qs[i]; kind {
	case "Limit":
		q.Limit = v.Limit
	case "Remaining":
		q.Remaining = v.Remaining
	case "Reset":
		q.Reset = max(q.Reset, v.Reset)
	case "Reset-After": // finer than Reset
		q.Reset = v.Reset
	}
	return qs
}

// nameOf is the name and unit of a quota, of the end of a field's name.
func nameOf(of string) (name, unit string) {
	switch of {
	case "":
		return "", unitRequests
	case "Requests":
		return unitRequests, unitRequests
	case "Tokens":
		return unitTokens, unitTokens
	case "Input-Tokens":
		return "input-tokens", unitTokens
	case "Output-Tokens":
		return "output-tokens", unitTokens
	}
	name = strings.ToLower(of)
	switch {
	case strings.Contains(name, unitTokens):
		return name, unitTokens
	case strings.Contains(name, "req"):
		return name, unitRequests
	}
	return name, name
}

// isGitHub tells GitHub by fields that only it sends.
func isGitHub(h http.Header) bool {
	return len(h["X-Github-Request-Id"]) > 0 || len(h["X-Ratelimit-Resource"]) > 0
}
