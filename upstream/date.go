package upstream

import (
	"strings"
	"time"
)

// parseDate reads a date with a time of day in the forms that programs print: the three of
// HTTP (RFC 9110, 5.6.7) with or without the weekday, RFC 3339 and ISO 8601, and what C, Go,
// Ruby and JavaScript make of a date. Seconds may be missing, and so may the zone, which is
// UTC then; a zone is an offset, or one of the names of UTC.
func parseDate(s string) (time.Time, bool) {
	p := date{rest: trim(s), year: -1, hour: -1}
	if len(p.rest) < len("20060102T1504") || len(p.rest) > 80 {
		return time.Time{}, false
	}
	if n := digits(p.rest); n == 4 || n == 8 {
		p.iso(n)
	} else {
		for p.rest != "" && !p.bad {
			p.word()
		}
	}
	return p.time()
}

// date is a date that is being read.
type date struct {
	rest string
	bad  bool

	year, month, day int
	hour, min, sec   int
	nano             int
	zone             int // seconds east of UTC
	zoned            bool
}

func (p *date) time() (time.Time, bool) {
	if p.bad || p.rest != "" || p.year < 0 || p.hour < 0 || p.month == 0 || p.day == 0 || p.hour > 23 || p.min > 59 || p.sec > 60 {
		return time.Time{}, false
	}
	day := time.Date(p.year, time.Month(p.month), p.day, 0, 0, 0, 0, time.UTC)
	if day.Day() != p.day || int(day.Month()) != p.month {
		return time.Time{}, false
	}
	return time.Date(p.year, time.Month(p.month), p.day, p.hour, p.min, p.sec-p.zone, p.nano, time.UTC), true
}

// iso reads 2006-01-02T15:04:05Z and 20060102T150405Z.
func (p *date) iso(n int) {
	p.year = p.number(4)
	if n == 4 {
		p.expect("-/")
	}
	if p.month = p.number(2); n == 4 {
		p.expect("-/")
	}
	p.day = p.number(2)
	p.expect("Tt _")
	if p.bad || digits(p.rest) < 2 {
		p.bad = true
		return
	}
	p.clock(digits(p.rest) >= 4)
	for p.rest != "" && !p.bad {
		p.after()
	}
}

// word reads the next part of a date in words.
func (p *date) word() {
	switch b := p.rest[0]; {
	case b == ' ' || b == ',' || b == '-' && p.hour < 0:
		p.rest = p.rest[1:]
	case isAlpha(b) && p.month == 0:
		name := p.letters()
		if m := nameOfList(name, months[:]); m > 0 {
			p.month = m
		} else if nameOfList(name, weekdays[:]) == 0 || p.day > 0 {
			p.bad = true
		}
	case isDigit(b) && digits(p.rest) <= 2 && p.hour < 0 && strings.HasPrefix(p.rest[digits(p.rest):], ":"):
		p.clock(false)
	case isDigit(b) && p.day == 0 && digits(p.rest) <= 2:
		p.day = p.number(digits(p.rest))
	case isDigit(b) && p.year < 0 && digits(p.rest) == 4:
		p.year = p.number(4)
	case isDigit(b) && p.year < 0 && digits(p.rest) == 2 && p.month > 0 && p.hour < 0:
		if p.year = p.number(2); p.year < 69 {
			p.year += 100
		}
		p.year += 1900
	default:
		p.after()
	}
}

// after reads what follows the time of day: the zone.
func (p *date) after() {
	b := p.rest[0]
	switch {
	case b == ' ':
		p.rest = p.rest[1:]
	case p.hour < 0:
		p.bad = true
	case b == '(' && p.rest[len(p.rest)-1] == ')': // the name of the zone
		p.rest = ""
	case isAlpha(b):
		switch p.letters() {
		case "GMT", "UTC", "UT", "Z", "z", "gmt", "utc":
		default:
			p.bad = true
		}
	case (b == '+' || b == '-') && !p.zoned:
		p.rest = p.rest[1:]
		p.zoned = true
		p.zone = p.number(2) * 3600
		if strings.HasPrefix(p.rest, ":") {
			p.rest = p.rest[1:]
			p.zone += p.number(2) * 60
		} else if digits(p.rest) > 0 {
			p.zone += p.number(2) * 60
		}
		if p.zone >= 24*3600 {
			p.bad = true
		}
		if b == '-' {
			p.zone = -p.zone
		}
	default:
		p.bad = true
	}
}

// clock reads 15:04:05.999, or without colons, and without the seconds.
func (p *date) clock(packed bool) {
	p.hour = p.number(min(digits(p.rest), 2))
	if !packed {
		p.expect(":")
	}
	p.min = p.number(2)
	switch {
	case packed && digits(p.rest) > 0:
	case !packed && strings.HasPrefix(p.rest, ":"):
		p.rest = p.rest[1:]
	default:
		return
	}
	p.sec = p.number(2)
	if p.bad || len(p.rest) < 2 || p.rest[0] != '.' && p.rest[0] != ',' || !isDigit(p.rest[1]) {
		return
	}
	n := digits(p.rest[1:])
	scale := 100_000_000
	for _, b := range []byte(p.rest[1 : 1+n]) {
		p.nano += scale * int(b-'0')
		scale /= 10
	}
	p.rest = p.rest[1+n:]
}

// number reads exactly n digits.
func (p *date) number(n int) (v int) {
	if n == 0 || digits(p.rest) < n {
		p.bad, p.rest = true, ""
		return 0
	}
	for _, b := range []byte(p.rest[:n]) {
		v = v*10 + int(b-'0')
	}
	p.rest = p.rest[n:]
	return v
}

// expect reads one of the bytes of set.
func (p *date) expect(set string) {
	if p.rest == "" || strings.IndexByte(set, p.rest[0]) < 0 {
		p.bad, p.rest = true, ""
		return
	}
	p.rest = p.rest[1:]
}

func (p *date) letters() string {
	n := 0
	for n < len(p.rest) && isAlpha(p.rest[n]) {
		n++
	}
	word := p.rest[:n]
	p.rest = p.rest[n:]
	return word
}

// digits is how many digits s begins with.
func digits(s string) (n int) {
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	return n
}

var (
	months   = [...]string{"January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"}
	weekdays = [...]string{"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"}
)

// nameOfList is which name, from 1, word is or abbreviates; zero for none.
func nameOfList(word string, names []string) int {
	if len(word) < 3 {
		return 0
	}
	for i, name := range names {
		if len(word) <= len(name) && strings.EqualFold(word, name[:len(word)]) {
			return i + 1
		}
	}
	return 0
}
