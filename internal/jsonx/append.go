package jsonx

import (
	"bytes"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"
)

// Cut keeps at most n bytes of s, never a part of a character, and adds mark to say so.
func Cut(s string, n int, mark string) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + mark
}

// plain are the bytes that stand for themselves in a string, wherever that is shown.
var plain = func() (t [256]bool) {
	for c := ' '; c < 0x7f; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

const hexDigits = "0123456789abcdef"

// AppendString quotes at most limit bytes of s, and says by … if that is not all. What
// cannot stand in a terminal or a log without harm is escaped; bytes that are no UTF-8
// become U+FFFD.
func AppendString(b []byte, s string, limit int) []byte {
	s = Cut(s, limit, "…")
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if plain[c] {
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if c < utf8.RuneSelf || r == utf8.RuneError && n == 1 || Unsafe(r) {
			b = append(b, s[start:i]...)
			b = AppendEscaped(b, r)
			start = i + n
		}
		i += n
	}
	return append(append(b, s[start:]...), '"')
}

// AppendSafe appends text, which is JSON, with what AppendString would escape escaped.
func AppendSafe(b, text []byte) []byte {
	start := 0
	for i := 0; i < len(text); {
		c := text[i]
		if c >= ' ' && c < 0x7f {
			i++
			continue
		}
		r, n := utf8.DecodeRune(text[i:])
		if c < utf8.RuneSelf || r == utf8.RuneError && n == 1 || Unsafe(r) {
			b = append(b, text[start:i]...)
			b = AppendEscaped(b, r)
			start = i + n
		}
		i += n
	}
	return append(b, text[start:]...)
}

// AppendEscaped appends r as an escape sequence, or two if one cannot hold it.
func AppendEscaped(b []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(b, '\\', byte(r))
	case '\n':
		return append(b, '\\', 'n')
	case '\t':
		return append(b, '\\', 't')
	case '\r':
		return append(b, '\\', 'r')
	}
	if r >= 0x10000 {
		r -= 0x10000
		return AppendEscaped(AppendEscaped(b, 0xd800+r>>10), 0xdc00+r&0x3ff)
	}
	return append(b, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}

// Unsafe reports characters that change how a reader sees the text around them: C1
// controls, line separators, bidirectional marks, invisible and tag characters.
func Unsafe(r rune) bool {
	switch {
	case r >= 0x80 && r <= 0x9f,
		r == 0x61c,
		r >= 0x200b && r <= 0x200f,
		r >= 0x2028 && r <= 0x202e,
		r >= 0x2060 && r <= 0x206f,
		r == 0xfeff,
		r >= 0xe0000 && r <= 0xe007f:
		return true
	}
	return false
}

// AppendFolded appends name without case, separators and what nobody sees: names that look
// alike, or that a decoder takes for one another, are equal then. Upper before lower also
// folds the long s and the Kelvin sign, which JSON decoders take for s and k.
func AppendFolded(b []byte, name string) []byte {
	for _, r := range name {
		switch {
		case r == '_' || r == '-' || r == '.' || r == ' ' || Unsafe(r):
		case r < utf8.RuneSelf:
			if r >= 'A' && r <= 'Z' {
				r += 'a' - 'A'
			}
			b = append(b, byte(r))
		default:
			b = utf8.AppendRune(b, unicode.ToLower(unicode.ToUpper(r)))
		}
	}
	return b
}

// AppendTime appends t in UTC by RFC 3339 with all nine decimals, so that text sorts as
// time.
func AppendTime(b []byte, t time.Time) []byte {
	start := len(b)
	b = t.UTC().AppendFormat(b, time.RFC3339Nano) // trims zeros; the layout with zeros is three times slower
	b = b[:len(b)-1]                              // Z
	point := bytes.IndexByte(b[start:], '.')
	decimals := 0
	if point < 0 {
		b = append(b, '.')
	} else {
		decimals = len(b) - start - point - 1
	}
	for ; decimals < 9; decimals++ {
		b = append(b, '0')
	}
	return append(b, 'Z')
}

// AppendMillis appends d in milliseconds with as many of six decimals as it takes; less
// than nothing, as a clock that was set back has it, is nothing.
func AppendMillis(b []byte, d time.Duration) []byte {
	d = max(d, 0)
	b = strconv.AppendInt(b, int64(d/time.Millisecond), 10)
	frac := int(d % time.Millisecond)
	if frac == 0 {
		return b
	}
	b = append(b, '.')
	for unit := 100_000; frac > 0; unit /= 10 {
		b = append(b, byte('0'+frac/unit))
		frac %= unit
	}
	return b
}
