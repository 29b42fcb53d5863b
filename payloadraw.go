package sluice

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// document appends raw JSON without its blanks, checked on the way. It is a scanner of
// its own because one that checks the whole text first, as encoding/json does, would work
// by the size of the text and not by the room there is.
func (w *bounded) document(s []byte) bool {
	i, ok := w.raw(s, 0, 0)
	if !ok {
		return false
	}
	if i, ok = w.blank(s, i); !ok {
		return false
	}
	return i == len(s) || w.stop(whyInvalid)
}

// raw appends the value that starts at s[i] and returns where it ends.
func (w *bounded) raw(s []byte, i, depth int) (int, bool) {
	if depth > maxPayloadDepth {
		return i, w.stop(whyTooDeep)
	}
	i, ok := w.blank(s, i)
	if !ok {
		return i, false
	}
	if i == len(s) {
		return i, w.stop(whyInvalid)
	}
	switch s[i] {
	case '{':
		return w.rawObject(s, i, depth)
	case '[':
		return w.rawArray(s, i, depth)
	case '"':
		return w.rawString(s, i)
	}
	end := i
	for end < len(s) && !isDelimiter(s[end]) && end-i <= w.max-len(w.b) {
		end++
	}
	word := s[i:end]
	if end < len(s) && !isDelimiter(s[end]) {
		return end, w.stop(whyTruncated)
	}
	switch string(word) {
	case "true", "false", "null":
	default:
		if !isNumber(word) {
			return i, w.stop(whyInvalid)
		}
	}
	w.b = append(w.b, word...)
	return end, w.text("")
}

func (w *bounded) rawArray(s []byte, i, depth int) (int, bool) {
	w.b = append(w.b, '[')
	i, ok := w.blank(s, i+1)
	if ok && i < len(s) && s[i] == ']' {
		return i + 1, w.text("]")
	}
	for ok {
		if i, ok = w.raw(s, i, depth+1); !ok {
			break
		}
		if i, ok = w.blank(s, i); !ok {
			break
		}
		switch {
		case i < len(s) && s[i] == ',':
			i, ok = i+1, w.text(",")
		case i < len(s) && s[i] == ']':
			return i + 1, w.text("]")
		default:
			return i, w.stop(whyInvalid)
		}
	}
	return i, false
}

func (w *bounded) rawObject(s []byte, i, depth int) (int, bool) {
	w.b = append(w.b, '{')
	i, ok := w.blank(s, i+1)
	if ok && i < len(s) && s[i] == '}' {
		return i + 1, w.text("}")
	}
	for ok {
		if i, ok = w.blank(s, i); !ok {
			break
		}
		if i == len(s) || s[i] != '"' {
			return i, w.stop(whyInvalid)
		}
		start := len(w.b)
		if i, ok = w.rawString(s, i); !ok {
			break
		}
		secret := w.secretKey(w.b[start:])
		if i, ok = w.blank(s, i); !ok {
			break
		}
		if i == len(s) || s[i] != ':' {
			return i, w.stop(whyInvalid)
		}
		w.b = append(w.b, ':')
		if secret {
			if ok = w.text(redacted); ok {
				i, ok = w.skip(s, i+1)
			}
		} else {
			i, ok = w.raw(s, i+1, depth+1)
		}
		if !ok {
			break
		}
		if i, ok = w.blank(s, i); !ok {
			break
		}
		switch {
		case i < len(s) && s[i] == ',':
			i, ok = i+1, w.text(",")
		case i < len(s) && s[i] == '}':
			return i + 1, w.text("}")
		default:
			return i, w.stop(whyInvalid)
		}
	}
	return i, false
}

// rawString copies the string at s[i], with its escapes as they are.
func (w *bounded) rawString(s []byte, i int) (int, bool) {
	w.b = append(w.b, '"')
	for i++; i < len(s); {
		if len(w.b) > w.max {
			return i, w.stop(whyTruncated)
		}
		c := s[i]
		switch {
		case c == '"':
			return i + 1, w.text(`"`)
		case c == '\\':
			n := escapeLen(s[i:])
			if n == 0 {
				return i, w.stop(whyInvalid)
			}
			w.b = append(w.b, s[i:i+n]...)
			i += n
		case c < ' ':
			return i, w.stop(whyInvalid)
		case c == 0x7f:
			w.b = appendEscaped(w.b, rune(c))
			i++
		case c < utf8.RuneSelf:
			w.b = append(w.b, c)
			i++
		default:
			r, n := utf8.DecodeRune(s[i:])
			if r == utf8.RuneError && n == 1 || unsafeRune(r) {
				w.b = appendEscaped(w.b, r)
			} else {
				w.b = append(w.b, s[i:i+n]...)
			}
			i += n
		}
	}
	return i, w.stop(whyInvalid)
}

// escapeLen is the length of the escape that s starts with; 0 if it is none.
func escapeLen(s []byte) int {
	if len(s) < 2 {
		return 0
	}
	switch s[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2
	case 'u':
		if len(s) < 6 {
			return 0
		}
		for _, c := range s[2:6] {
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return 0
			}
		}
		return 6
	}
	return 0
}

// secretKey is redact.secret of a quoted key, whose escapes may hide a name.
func (w *bounded) secretKey(quoted []byte) bool {
	if w.redact == nil {
		return false
	}
	if bytes.IndexByte(quoted, '\\') >= 0 {
		var s string
		return json.Unmarshal(quoted, &s) != nil || w.redact.secret(s)
	}
	return w.redact.secret(string(quoted[1 : len(quoted)-1]))
}

// blank passes over white space.
func (w *bounded) blank(s []byte, i int) (int, bool) {
	start := i
	for i < len(s) && (s[i] == ' ' || s[i] == '\n' || s[i] == '\t' || s[i] == '\r') {
		i++
		if i-start > w.scan {
			return i, w.stop(whyTruncated)
		}
	}
	w.scan -= i - start
	return i, true
}

// skip passes over a value that is not shown, to any depth without recursion. It need
// not be valid inside; that what follows it is, the caller checks.
func (w *bounded) skip(s []byte, i int) (int, bool) {
	i, ok := w.blank(s, i)
	if !ok {
		return i, false
	}
	start, open := i, 0
	for i < len(s) {
		if i-start > w.scan {
			return i, w.stop(whyTruncated)
		}
		switch c := s[i]; {
		case c == '"':
			for i++; i < len(s) && s[i] != '"'; i++ {
				if s[i] == '\\' {
					i++
				}
				if i-start > w.scan {
					return i, w.stop(whyTruncated)
				}
			}
			i++
			if i > len(s) {
				return len(s), w.stop(whyInvalid)
			}
		case c == '{' || c == '[':
			open++
			i++
		case (c == '}' || c == ']') && open > 0:
			open--
			i++
		case isDelimiter(c) && open == 0:
			w.scan -= i - start
			if i == start {
				return i, w.stop(whyInvalid)
			}
			return i, true
		default:
			i++
			continue
		}
		if open == 0 {
			w.scan -= i - start
			return i, true
		}
	}
	return i, w.stop(whyInvalid)
}

func isDelimiter(c byte) bool {
	switch c {
	case ',', ':', ']', '}', ' ', '\n', '\t', '\r', '"', '[', '{':
		return true
	}
	return false
}

// isNumber follows the grammar of RFC 8259.
func isNumber(s []byte) bool {
	i := 0
	digits := func() bool {
		start := i
		for i < len(s) && s[i] >= '0' && s[i] <= '9' {
			i++
		}
		return i > start
	}
	if i < len(s) && s[i] == '-' {
		i++
	}
	if i < len(s) && s[i] == '0' {
		i++
	} else if !digits() {
		return false
	}
	if i < len(s) && s[i] == '.' {
		i++
		if !digits() {
			return false
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		i++
		if i < len(s) && (s[i] == '+' || s[i] == '-') {
			i++
		}
		if !digits() {
			return false
		}
	}
	return i == len(s) && i > 0
}
