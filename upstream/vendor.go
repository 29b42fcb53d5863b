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
		source, rest := family(key)
		kind, of, unit := fieldOf(rest)
		if kind == "" {
			continue
		}
		name, counts := nameOf(of)
		eachItem(h[key], func(i int, v string) {
			var q Quota
			ok := true
			switch kind {
			case "Limit":
				q.Limit, ok = parseCount(v)
			case "Remaining":
				q.Remaining, ok = parseCount(v)
			case "Reset", "Reset-After":
				q.Reset, ok = c.until(v, unit)
			case "Status":
				if q.Status = strings.ToLower(plain(v)); len(q.Status) > 64 {
					ok = false
				}
			}
			if ok {
				q.Source, q.Name, q.Unit = source, name, counts
				qs = addVendor(qs, from, i, kind, q)
			}
		})
	}
	if resource := resourceOf(h); resource != "" {
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

// resourceOf is the part of an API that GitHub, and who is like it, says an answer is about.
func resourceOf(h http.Header) string {
	if r := trim(first(h, "X-Ratelimit-Resource")); len(r) <= 64 {
		return r
	}
	return ""
}

// fieldOf splits Remaining-Tokens and Tokens-Remaining alike. A reset may have words behind
// it that say how it is written: Reset-After, Reset-Ms, Requests-Reset-Seconds. One that is
// finer than a plain Reset is Reset-After.
func fieldOf(rest string) (kind, of string, unit time.Duration) {
	unit = time.Second
	if strings.Contains(rest, "Reset") {
		finer := false
		if rest, unit = cutUnit(rest); unit < time.Second {
			finer = true
		}
		for _, word := range [...]string{"-After", "-In", "-At", "-Time", "-Timestamp", "-Date", "-Epoch", "-Utc"} {
			if cut, ok := strings.CutSuffix(rest, word); ok {
				rest, finer = cut, finer || word == "-After" || word == "-In"
				break
			}
		}
		if of, ok := nameBeside(rest, "Reset"); ok {
			if finer {
				return "Reset-After", of, unit
			}
			return "Reset", of, unit
		}
		return "", "", 0
	}
	for _, kind := range [...]string{"Limit", "Remaining"} {
		if of, ok := nameBeside(rest, kind); ok {
			return kind, of, unit
		}
	}
	if of, ok := strings.CutSuffix(rest, "-Status"); ok {
		return "Status", of, unit
	}
	return "", "", 0
}

// nameBeside is what stands in rest before or behind kind.
func nameBeside(rest, kind string) (of string, ok bool) {
	if rest == kind {
		return "", true
	}
	if of, ok := strings.CutPrefix(rest, kind); ok && of[0] == '-' {
		return of[1:], true
	}
	if of, ok := strings.CutSuffix(rest, kind); ok && strings.HasSuffix(of, "-") {
		return of[:len(of)-1], true
	}
	return "", false
}

// addVendor puts what one field says to the i-th of the quotas of that name.
func addVendor(qs []Quota, from, i int, kind string, v Quota) []Quota {
	at := from
	for ; at < len(qs); at++ {
		if qs[at].Source == v.Source && qs[at].Name == v.Name {
			if i == 0 {
				break
			}
			i--
		}
	}
	for at == len(qs) { // the i before it say nothing else
		if len(qs) >= maxQuotas || len(v.Name) > 64 {
			return qs
		}
		if qs == nil {
			qs = make([]Quota, 0, 4)
		}
		// A provider that counts several things at once counts them with buckets.
		qs = append(qs, Quota{Source: v.Source, Name: v.Name, Unit: v.Unit, Limit: Unknown, Remaining: Unknown, Refills: v.Name != ""})
		if i > 0 {
			i--
			at++
		}
	}
	switch q := &qs[at]; kind {
	case "Limit":
		q.Limit = v.Limit
	case "Remaining":
		q.Remaining = v.Remaining
	case "Reset":
		q.Reset = max(q.Reset, v.Reset)
	case "Reset-After": // finer than Reset
		q.Reset = v.Reset
	case "Status":
		q.Status = v.Status
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
