// Package rawjson walks over a JSON document without making values of it: whoever reads a few
// members of a large document gets those, and the bytes of the others as they stand there.
//
// A [Cursor] checks what it passes by the grammar of RFC 8259, also what it skips, and no
// recursion of its own follows the nesting of a document. Bytes that are no UTF-8 and surrogates
// without their partner are let pass. The package keeps nothing, locks nothing and calls no
// foreign code.
package rawjson

import (
	"bytes"
	"fmt"
	"iter"

	"github.com/sluice-go/sluice/internal/jsonx"
)

// Cursor stands somewhere in a document. After its first error it answers only that there is no
// more.
//
//	for more := c.Open('{'); more; more = c.More('}') {
//		switch key := c.Key(); string(key) {
//		case "name":
//			name, _ = c.String()
//		default:
//			c.Skip()
//		}
//	}
type Cursor struct {
	data []byte
	pos  int
	err  error
}

// New stands before the value of data.
func New(data []byte) Cursor { return Cursor{data: data} }

// Err is the first error: what the document is not.
func (c *Cursor) Err() error { return c.err }

// fail says once what must stand where the cursor is.
func (c *Cursor) fail(want string) {
	switch {
	case c.err != nil:
	case c.pos >= len(c.data):
		c.err = fmt.Errorf("ends at byte %d: must have %s there", len(c.data), want)
	default:
		c.err = fmt.Errorf("is not JSON at byte %d: must have %s there", c.pos, want)
	}
	c.pos = len(c.data)
}

// Pos is how many bytes the cursor has passed.
func (c *Cursor) Pos() int { return c.pos }

// Since is what stands between pos and the cursor.
func (c *Cursor) Since(pos int) []byte { return c.data[pos:c.pos:c.pos] }

// Kind is the byte that the next value begins with, 0 if there is none. It passes the space
// before it.
func (c *Cursor) Kind() byte {
	for c.pos < len(c.data) {
		switch b := c.data[c.pos]; b {
		case ' ', '\n', '\t', '\r':
			c.pos++
		default:
			return b
		}
	}
	return 0
}

// Open goes into the object or array that kind begins, '{' or '[', and reports whether there is
// something in it. Something else there is an error.
func (c *Cursor) Open(kind byte) bool {
	if c.err != nil {
		return false
	}
	if c.Kind() != kind {
		c.fail(string(rune(kind)))
		return false
	}
	c.pos++
	if c.Kind() == kind+2 { // the closing one, of both
		c.pos++
		return false
	}
	return true
}

// More reports whether another member or element follows, or else goes out by the closing byte.
func (c *Cursor) More(closing byte) bool {
	if c.err != nil {
		return false
	}
	switch c.Kind() {
	case ',':
		c.pos++
		return true
	case closing:
		c.pos++
	default:
		c.fail("a comma or the end")
	}
	return false
}

// Key is the name of a member, decoded. The cursor stands before its value then.
func (c *Cursor) Key() []byte {
	key, escaped := c.String()
	if c.err == nil && c.Kind() != ':' {
		c.fail("a colon")
	}
	if c.err != nil {
		return nil
	}
	c.pos++
	if escaped {
		return jsonx.AppendUnescaped(nil, key)
	}
	return key
}

// String is the inside of a string as it stands there, and whether it has escape sequences.
func (c *Cursor) String() (inside []byte, escaped bool) {
	if c.Kind() != '"' || c.err != nil {
		c.fail("a string")
		return nil, false
	}
	rest := c.data[c.pos:]
	if n := bytes.IndexByte(rest[1:min(len(rest), 64)], '"'); n >= 0 && plain(rest[1:1+n]) { // most are so
		c.pos += n + 2
		return rest[1 : 1+n : 1+n], false
	}
	n, escaped, ok := jsonx.String(rest)
	if !ok {
		c.pos += n
		c.fail("a character of a string, or its end")
		return nil, false
	}
	c.pos += n
	return rest[1 : n-1 : n-1], escaped
}

// plain reports whether s stands for itself in a string.
func plain(s []byte) bool {
	for _, b := range s {
		if b < ' ' || b == '\\' {
			return false
		}
	}
	return true
}

// Skip passes the next value, and is its bytes.
func (c *Cursor) Skip() []byte {
	kind := c.Kind()
	start := c.pos
	if kind == '"' { // most are
		if c.String(); c.err != nil {
			return nil
		}
		return c.Since(start)
	}
	var room [8]byte
	open := room[:0] // what is open around the cursor, by their closing bytes
	for c.err == nil {
		switch b := c.Kind(); {
		case b == '{', b == '[':
			if c.Open(b) {
				if open = append(open, b+2); b == '{' {
					c.colon()
				}
				continue
			}
		case b == '"':
			c.String()
		case b == '-' || b >= '0' && b <= '9':
			n, _, ok := jsonx.Number(c.data[c.pos:])
			if c.pos += n; !ok {
				c.fail("a digit")
			}
		default:
			n := jsonx.Word(c.data[c.pos:])
			if c.pos += n; n == 0 {
				c.fail("a value")
			}
		}
		for len(open) > 0 && !c.More(open[len(open)-1]) {
			open = open[:len(open)-1]
		}
		if len(open) == 0 {
			break
		}
		if open[len(open)-1] == '}' {
			c.colon()
		}
	}
	if c.err != nil {
		return nil
	}
	return c.Since(start)
}

// Members goes through the object at the cursor: each name, decoded, and its value. What is no object has none, and
// is an error. Whoever leaves the loop leaves the cursor behind that value.
func (c *Cursor) Members() iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		for more := c.Open('{'); more; more = c.More('}') {
			if key := c.Key(); !yield(key, c.Skip()) {
				return
			}
		}
	}
}

// Elements goes through the list at the cursor, likewise. Another value has none, and is passed.
func (c *Cursor) Elements() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		if c.Kind() != '[' {
			c.Skip()
			return
		}
		for more := c.Open('['); more; more = c.More(']') {
			if !yield(c.Skip()) {
				return
			}
		}
	}
}

// colon passes a member's name and what stands behind it.
func (c *Cursor) colon() {
	if c.String(); c.Kind() != ':' {
		c.fail("a colon")
		return
	}
	c.pos++
}

// End reports the first error, or that something follows the document.
func (c *Cursor) End() error {
	if c.Kind(); c.err == nil && c.pos < len(c.data) {
		c.fail("its end")
	}
	return c.err
}
