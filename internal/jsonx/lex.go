package jsonx

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// Space is how many bytes of white space s begins with.
func Space(s []byte) int {
	for i, c := range s {
		if c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return i
		}
	}
	return len(s)
}

// Number measures the number that s begins with, by the grammar of RFC 8259: n bytes, in
// digits alone if it is whole. If it is none, n is where a digit is missing.
func Number(s []byte) (n int, whole, ok bool) {
	if n < len(s) && s[n] == '-' {
		n++
	}
	if n < len(s) && s[n] == '0' {
		n++
	} else if n, ok = digits(s, n); !ok {
		return n, false, false
	}
	whole = true
	if n < len(s) && s[n] == '.' {
		whole = false
		if n, ok = digits(s, n+1); !ok {
			return n, false, false
		}
	}
	if n < len(s) && (s[n] == 'e' || s[n] == 'E') {
		whole = false
		if n++; n < len(s) && (s[n] == '+' || s[n] == '-') {
			n++
		}
		if n, ok = digits(s, n); !ok {
			return n, false, false
		}
	}
	return n, whole, true
}

// digits is where the digits end that stand in s from i on, of which there must be one.
func digits(s []byte, i int) (end int, ok bool) {
	for end = i; end < len(s) && s[end] >= '0' && s[end] <= '9'; end++ {
	}
	return end, end > i
}

// Word measures the true, false or null that s begins with; 0 if it is none of them.
func Word(s []byte) int {
	for _, w := range [...]string{"true", "false", "null"} {
		if len(s) >= len(w) && string(s[:len(w)]) == w {
			return len(w)
		}
	}
	return 0
}

// String measures the string that s begins with, quotes included. If it is none, n is
// where what must not be in it begins: a control character, a backslash that begins no
// escape sequence, or the end of s. Bytes that are no UTF-8 and surrogates without their
// partner are let pass.
func String(s []byte) (n int, escaped, ok bool) {
	for n = 1; n < len(s); n++ {
		switch c := s[n]; {
		case c == '"':
			return n + 1, escaped, true
		case c == '\\':
			escaped = true
			e := escape(s[n:])
			if e == 0 {
				return n, true, false
			}
			n += e - 1
		case c < ' ':
			return n, escaped, false
		}
	}
	return n, escaped, false
}

// escape measures the escape sequence that s begins with; 0 if it is none.
func escape(s []byte) int {
	if len(s) < 2 {
		return 0
	}
	switch s[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if hex4(s[2:]) >= 0 {
			return 6
		}
	}
	return 0
}

// Paired finds a surrogate without its partner in the inside of a string that String has
// measured: where its escape sequence begins, -1 if there is none.
func Paired(inside []byte) (lone int) {
	for i := 0; i < len(inside); i++ {
		if inside[i] != '\\' {
			continue
		}
		r := unicodeEscape(inside[i:])
		if utf16.IsSurrogate(r) {
			if utf16.DecodeRune(r, unicodeEscape(inside[i+6:])) == utf8.RuneError {
				return i
			}
			i += 6
		}
		if r >= 0 {
			i += 4
		}
		i++
	}
	return -1
}

// Unescape decodes the inside of a string that String has measured. A surrogate without
// its partner becomes U+FFFD.
func Unescape(inside []byte) []byte {
	return AppendUnescaped(make([]byte, 0, len(inside)), inside)
}

// AppendUnescaped appends what Unescape makes of the inside of a string.
func AppendUnescaped(out, inside []byte) []byte {
	for {
		n := bytes.IndexByte(inside, '\\')
		if n < 0 {
			return append(out, inside...)
		}
		out = append(out, inside[:n]...)
		inside = inside[n:]
		if r := unicodeEscape(inside); r >= 0 {
			inside = inside[6:]
			if utf16.IsSurrogate(r) {
				if r = utf16.DecodeRune(r, unicodeEscape(inside)); r != utf8.RuneError {
					inside = inside[6:]
				}
			}
			out = utf8.AppendRune(out, r)
			continue
		}
		c := inside[1]
		inside = inside[2:]
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		}
		out = append(out, c)
	}
}

// unicodeEscape is what s means if it begins with \u and four digits, else -1.
func unicodeEscape(s []byte) rune {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return -1
	}
	return hex4(s[2:])
}

// hex4 is the value of four hexadecimal digits, -1 if there are not so many.
func hex4(b []byte) (r rune) {
	if len(b) < 4 {
		return -1
	}
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}
