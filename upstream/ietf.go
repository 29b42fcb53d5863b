package upstream

import (
	"net/http"
	"strings"
	"time"
)

// maxQuotas bounds what is kept of one response.
const maxQuotas = 32

// maxField bounds what is read of one field. No honest one is near it.
const maxField = 4 << 10

// ietfQuotas reads the fields of draft-ietf-httpapi-ratelimit-headers, of its current form
// and of the earlier ones that are still in use.
func ietfQuotas(h http.Header, c clock) []Quota {
	qs, _ := readField(h["Ratelimit-Policy"], nil, policyForm, c)
	if lines := h["Ratelimit"]; len(lines) > 0 {
		var ok bool
		if qs, ok = readField(lines, qs, limitForm, c); !ok {
			qs, _ = readField(lines, qs, dictionaryForm, c)
		}
	}
	for _, q := range earlierQuotas(h, c) {
		qs = addUnnamed(qs, q)
	}
	return qs
}

// earlierQuotas reads the three fields of the earlier drafts. What they list stands for one
// quota after the other.
func earlierQuotas(h http.Header, c clock) (qs []Quota) {
	at := func(i int) *Quota {
		for len(qs) <= i {
			qs = append(qs, Quota{Source: SourceRateLimit, Unit: unitRequests, Limit: Unknown, Remaining: Unknown})
		}
		return &qs[i]
	}
	eachItem(h["Ratelimit-Limit"], func(i int, v string) {
		if n, ok := parseCount(v); ok {
			at(i).Limit = n
		}
	})
	eachItem(h["Ratelimit-Remaining"], func(i int, v string) {
		if n, ok := parseCount(v); ok {
			at(i).Remaining = n
		}
	})
	eachItem(h["Ratelimit-Reset"], func(i int, v string) {
		if d, ok := c.until(v, time.Second); ok {
			at(i).Reset = d
		}
	})
	return qs
}

// eachItem shows visit the items of a field that is a list, on one line or on several: up
// to maxQuotas of them. The comma behind the name of a day belongs to a date. Where an
// item without a window stands first, as in "100, 100;w=60", those with one tell what
// policies there are, and are no items.
func eachItem(lines []string, visit func(i int, v string)) {
	i, bare := 0, false
	for _, line := range lines {
		if len(line) > maxField {
			continue
		}
		for more := true; more && i < maxQuotas; {
			var v string
			v, line, more = strings.Cut(line, ",")
			if more && nameOfList(trim(v), weekdays[:]) > 0 {
				var rest string
				rest, line, more = strings.Cut(line, ",")
				v += "," + rest
			}
			window := strings.Contains(v, ";")
			if window && bare {
				continue
			}
			bare = bare || i == 0 && !window
			visit(i, trim(v))
			i++
		}
	}
}

// form is what a field looks like.
type form uint8

const (
	policyForm form = iota
	limitForm
	dictionaryForm
)

// readField reads all lines of a field, or, if one of them is malformed, none and gives qs
// back: the draft demands that a malformed field is ignored.
func readField(lines []string, qs []Quota, as form, c clock) ([]Quota, bool) {
	if len(lines) == 0 {
		return qs, true
	}
	size := 0
	for _, line := range lines {
		size += len(line)
	}
	if size > maxField || len(lines) > maxQuotas {
		return qs, false
	}
	// What the field says is written to a copy, so that nothing of it stays if it is bad.
	next := append(make([]Quota, 0, len(qs)+2), qs...)
	for _, line := range lines {
		f := newFields(line)
		switch as {
		case policyForm:
			next = policyList(&f, next)
		case limitForm:
			next = limitList(&f, next, c)
		case dictionaryForm:
			next = limitDictionary(&f, next, c)
		}
		if f.bad {
			return qs, false
		}
	}
	return next, true
}

// policyList reads "name";q=100;w=60;qu="requests";pk=:cGs=:, and 100;w=60 of earlier
// drafts.
func policyList(f *fields, qs []Quota) []Quota {
	for at := true; f.more(at); at = false {
		q := Quota{Source: SourceRateLimit, Unit: unitRequests, Limit: Unknown, Remaining: Unknown}
		name := f.item()
		switch {
		case f.bad:
			return qs
		case name.kind == 'i' && name.num >= 0:
			q.Limit = name.num
		case name.kind == 's' || name.kind == 't':
			q.Name = name.text
		default:
			f.fail()
			return qs
		}
		for {
			key, v, ok := f.param()
			if !ok {
				break
			}
			switch key {
			case "q":
				q.Limit = f.count(v)
			case "w":
				q.Window = product(f.count(v), time.Second)
			case "qu":
				q.Unit = f.text(v)
			case "pk":
				q.Partition = f.partition(v)
			}
		}
		if q.Limit == Unknown { // q is required
			f.fail()
		}
		if f.bad {
			return qs
		}
		if len(qs) < maxQuotas {
			qs = append(qs, q)
		}
	}
	return qs
}

// limitList reads "name";r=50;t=30;pk=:cGs=:, and puts it beside the policy of that name.
func limitList(f *fields, qs []Quota, c clock) []Quota {
	for at := true; f.more(at); at = false {
		name := f.item()
		if f.bad || name.kind != 's' && name.kind != 't' {
			f.fail()
			return qs
		}
		q := Quota{Source: SourceRateLimit, Name: name.text, Unit: unitRequests, Limit: Unknown, Remaining: Unknown}
		for {
			key, v, ok := f.param()
			if !ok {
				break
			}
			switch key {
			case "r":
				q.Remaining = f.count(v)
			case "t":
				q.Reset = c.after(product(f.count(v), time.Second))
			case "pk":
				q.Partition = f.partition(v)
			}
		}
		if q.Remaining == Unknown { // r is required
			f.fail()
		}
		if f.bad {
			return qs
		}
		qs = addNamed(qs, q)
	}
	return qs
}

// limitDictionary reads limit=100, remaining=50, reset=30 of an earlier draft. No field is
// well-formed as one of these and as a list of today.
func limitDictionary(f *fields, qs []Quota, c clock) []Quota {
	q := Quota{Source: SourceRateLimit, Unit: unitRequests, Limit: Unknown, Remaining: Unknown}
	for at := true; f.more(at); at = false {
		key, valued := f.key()
		if f.bad || !valued {
			f.fail()
			return qs
		}
		v := f.item()
		f.skipParams()
		switch key {
		case "limit":
			q.Limit = f.count(v)
		case "remaining":
			q.Remaining = f.count(v)
		case "reset":
			q.Reset = c.after(product(f.count(v), time.Second))
		}
	}
	if f.bad || q.Remaining == Unknown {
		return qs
	}
	return addUnnamed(qs, q)
}

// count, text and partition are values of parameters; one of another type makes the field
// malformed.
func (f *fields) count(v bareItem) int64 {
	if v.kind != 'i' || v.num < 0 {
		f.fail()
		return 0
	}
	return v.num
}

func (f *fields) text(v bareItem) string {
	if v.kind != 's' && v.kind != 't' {
		f.fail()
	}
	return v.text
}

func (f *fields) partition(v bareItem) string {
	if v.kind != 'b' {
		f.fail()
	}
	return v.text
}

// addNamed puts what a RateLimit item says to the policy that it belongs to.
func addNamed(qs []Quota, q Quota) []Quota {
	for i := range qs {
		p := &qs[i]
		if p.Name == q.Name && p.Remaining == Unknown && (p.Partition == q.Partition || p.Partition == "" || q.Partition == "") {
			p.Remaining, p.Reset = q.Remaining, q.Reset
			if p.Partition == "" {
				p.Partition = q.Partition
			}
			return qs
		}
	}
	if len(qs) < maxQuotas {
		qs = append(qs, q)
	}
	return qs
}

// addUnnamed puts what the earlier drafts say to the policy with the same limit; they have
// no names.
func addUnnamed(qs []Quota, q Quota) []Quota {
	for i := range qs {
		p := &qs[i]
		if p.Name == "" && p.Limit == q.Limit && p.Remaining == Unknown {
			p.Remaining, p.Reset = q.Remaining, q.Reset
			return qs
		}
	}
	if len(qs) < maxQuotas {
		qs = append(qs, q)
	}
	return qs
}
