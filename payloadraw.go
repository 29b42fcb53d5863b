package sluice

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// document appends raw JSON without its blanks, checked on the way. It is a scanner of
// its own because one that checks the whole text first, as encoding/json does, would work
// by the size of the text and not by the room there is.
//
// Where a brace is lost or added nobody knows what belongs to a secret. So of a document that
// is broken, as far as it may be read, nothing is shown after its first secret.
func (w *bounded) document(s []byte) bool {
	w.secretEnd = 0
	i, ok := w.raw(s, 0, 0)
	if ok {
		i, ok = w.blank(s, i)
	}
	if ok && i == len(s) {
		return true
	}
	if ok || w.secretEnd > 0 && isBroken(s, 16*w.max+1<<16) {
		w.stop(whyInvalid)
	}
	if w.secretEnd > 0 && w.why == whyInvalid {
		w.b = w.b[:w.secretEnd]
	}
	return false
}

// isBroken reports whether s is no JSON, as far as scan bytes of it tell.
func isBroken(s []byte, scan int) bool {
	w := bounded{scan: scan}
	i, ok := w.skip(s, 0)
	if ok {
		i, ok = w.blank(s, i)
	}
	return ok && i < len(s) || w.why == whyInvalid
}

// raw appends the value that starts at s[i] and returns where it ends.
func (w *bounded) raw(s []byte, i, depth int) (int, bool) {
	i, ok := w.blank(s, i)
	if !ok {
		return i, false
	}
	if i == len(s) {
		return i, w.stop(whyInvalid)
	}
	switch c := s[i]; {
	case c == '"':
		return w.rawString(s, i)
	case (c == '{' || c == '[') && depth == maxPayloadDepth:
		return i, w.stop(whyTooDeep)
	case c == '{':
		return w.rawObject(s, i, depth)
	case c == '[':
		return w.rawArray(s, i, depth)
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
				if w.secretEnd == 0 {
					w.secretEnd = len(w.b)
				}
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

// skip passes over a value that is not shown, to any depth without recursion. It must be
// valid too.
func (w *bounded) skip(s []byte, i int) (int, bool) {
	var around nesting
	i, ok := w.blank(s, i)
	for ; ok && i < len(s); i, ok = w.blank(s, i) {
		// A value begins here.
		switch c := s[i]; c {
		case '{', '[':
			around.push(c == '{')
			if !w.passed(1) {
				return i, false
			}
			if i, ok = w.blank(s, i+1); !ok {
				return i, false
			}
			if i < len(s) && s[i] == c+2 { // } or ]
				break
			}
			if c == '{' {
				if i, ok = w.skipKey(s, i); !ok {
					return i, false
				}
			}
			continue
		default:
			if i, ok = w.skipScalar(s, i); !ok {
				return i, false
			}
		}
		// A value has ended here, or a container ends.
		for {
			if around.depth == 0 {
				return i, true
			}
			if i, ok = w.blank(s, i); !ok {
				return i, false
			}
			object := around.top()
			if i < len(s) && s[i] == ',' {
				i++
				if object {
					if i, ok = w.skipKey(s, i); !ok {
						return i, false
					}
				}
				break
			}
			if i == len(s) || object && s[i] != '}' || !object && s[i] != ']' {
				return i, w.stop(whyInvalid)
			}
			if i++; !w.passed(1) {
				return i, false
			}
			around.depth--
		}
	}
	if w.why == "" {
		w.stop(whyInvalid)
	}
	return i, false
}

// skipKey passes over a key and its colon.
func (w *bounded) skipKey(s []byte, i int) (int, bool) {
	i, ok := w.blank(s, i)
	if !ok {
		return i, false
	}
	if i == len(s) || s[i] != '"' {
		return i, w.stop(whyInvalid)
	}
	if i, ok = w.skipScalar(s, i); !ok {
		return i, false
	}
	if i, ok = w.blank(s, i); !ok {
		return i, false
	}
	if i == len(s) || s[i] != ':' {
		return i, w.stop(whyInvalid)
	}
	return i + 1, true
}

// skipScalar passes over a string, a number or a word.
func (w *bounded) skipScalar(s []byte, i int) (int, bool) {
	start := i
	if s[i] != '"' {
		for i < len(s) && !isDelimiter(s[i]) && i-start <= w.scan {
			i++
		}
		if !w.passed(i - start) {
			return i, false
		}
		switch word := s[start:i]; string(word) {
		case "true", "false", "null":
		default:
			if !isNumber(word) {
				return i, w.stop(whyInvalid)
			}
		}
		return i, true
	}
	for i++; i < len(s) && s[i] != '"'; {
		n := 1
		if s[i] == '\\' {
			n = escapeLen(s[i:])
		}
		if n == 0 || s[i] < ' ' {
			return i, w.stop(whyInvalid)
		}
		if i += n; i-start > w.scan {
			return i, w.stop(whyTruncated)
		}
	}
	if i == len(s) {
		return i, w.stop(whyInvalid)
	}
	return i + 1, w.passed(i + 1 - start)
}

// passed counts bytes that were passed over.
func (w *bounded) passed(n int) bool {
	w.scan -= n
	return w.scan >= 0 || w.stop(whyTruncated)
}

// nesting is the containers around a place in a document, a bit for each: set for objects.
type nesting struct {
	bits  []uint64
	depth int
}

func (n *nesting) push(object bool) {
	if n.depth/64 == len(n.bits) {
		n.bits = append(n.bits, 0)
	}
	bit := uint64(1) << (n.depth % 64)
	n.bits[n.depth/64] &^= bit
	if object {
		n.bits[n.depth/64] |= bit
	}
	n.depth++
}

// top reports whether the innermost is an object.
func (n *nesting) top() bool { return n.bits[(n.depth-1)/64]>>((n.depth-1)%64)&1 == 1 }

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
