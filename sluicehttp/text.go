package sluicehttp

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxText bounds a name on the page, and maxWords what is no name: a plan, a description, a message; in bytes.
const (
	maxText  = 256
	maxWords = 8 << 10
)

// shown is s so that all of it is seen: what has no picture of its own, or moves what stands around it, is shown as its
// number. It is cut where it is long.
func shown(s string) string { return shownUpTo(s, maxText) }

// words is shown for what is no name.
func words(s string) string { return shownUpTo(s, maxWords) }

func shownUpTo(s string, most int) string {
	if len(s) <= most && isPlain(s) {
		return s
	}
	cut := len(s) > most
	if cut {
		s = s[:most]
	}
	var b strings.Builder
	marks := 0
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			if !cut || utf8.FullRuneInString(s[i:]) { // else the cut has made it
				fmt.Fprintf(&b, `\x%02x`, s[i])
			}
		case r < 0x20 || r == 0x7f: // fonts often lack pictures of them
			fmt.Fprintf(&b, `\x%02x`, r)
		case !unicode.IsGraphic(r) || blank(r):
			b.WriteString(escaped(r))
		case unicode.Is(unicode.Mn, r):
			if marks++; marks > 4 { // of one letter
				b.WriteString(escaped(r))
			} else {
				b.WriteRune(r)
			}
		default:
			marks = 0
			b.WriteRune(r)
		}
		i += n
	}
	if cut {
		b.WriteString("…")
	}
	return b.String()
}

// isPlain reports whether s, as most names, shows as it is.
func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

// blank reports whether r, which counts as a letter or a mark, shows nothing.
func blank(r rune) bool {
	switch r {
	case 0x034f, 0x115f, 0x1160, 0x17b4, 0x17b5, 0x2800, 0x3164, 0xffa0:
		return true
	}
	return unicode.Is(unicode.Variation_Selector, r) || r != ' ' && unicode.Is(unicode.Zs, r)
}

func escaped(r rune) string {
	if r > 0xffff {
		return fmt.Sprintf(`\U%08x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}

// harmless is JSON in which what shown would not show is written as its number.
func harmless(json []byte) []byte {
	var out []byte
	for i := 0; i < len(json); {
		r, n := utf8.DecodeRune(json[i:])
		if r < utf8.RuneSelf && r != 0x7f || unicode.IsGraphic(r) && !blank(r) {
			if out != nil {
				out = append(out, json[i:i+n]...)
			}
			i += n
			continue
		}
		if out == nil {
			out = append(make([]byte, 0, len(json)+64), json[:i]...)
		}
		if r > 0xffff {
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		} else {
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		i += n
	}
	if out == nil {
		return json
	}
	return out
}

// length is d for people, rounded.
func length(d time.Duration) string {
	switch {
	case d < 0:
		return "−" + length(-max(d, -math.MaxInt64)) // the least of all has no opposite
	case d == 0:
		return "0 s"
	case d < time.Millisecond:
		return "< 1 ms"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < 10*time.Second:
		return strconv.FormatFloat(float64(d.Milliseconds()/100)/10, 'f', -1, 64) + " s"
	case d < time.Minute:
		return strconv.Itoa(int(d/time.Second)) + " s"
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d d %d h", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// number is n for people.
func number[N int | int64 | uint64](n N) string {
	s := fmt.Sprint(n)
	sign := ""
	if n < 0 {
		sign, s = "−", s[1:]
	}
	var b strings.Builder
	for i, c := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	return sign + b.String()
}

// percent is a part of a whole for people. A debt may be any multiple of what a rate holds.
func percent(part float64) string { return number(int64(min(100*part, 1e15))) + " %" }

// count is n things.
func count[N int | int64 | uint64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}

// clock is an instant for people, with its day where that is not the one of now.
func clock(t, now time.Time) string {
	const day = "2006-01-02 "
	t, now = t.UTC(), now.UTC()
	if t.Format(day) == now.Format(day) {
		return t.Format("15:04:05 UTC")
	}
	return t.Format(day + "15:04:05 UTC")
}
