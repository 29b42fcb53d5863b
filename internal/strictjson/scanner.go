package strictjson

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/jsonx"
)

// scanner checks one document along a node. Its recursion is bounded by max.
type scanner struct {
	data    []byte
	pos     int
	max     int  // depth
	unique  bool // refuse duplicate keys
	inexact bool // a number of an any is no float64
	try     bool // decode what is opaque, to find what fails
	edits   []edit
	err     *Error

	required []string // keys of the whole, sorted
	met      int      // how many keys of the whole are such
}

func (s *scanner) fail(format string, args ...any) bool {
	s.err = &Error{Path: "$", Reason: fmt.Sprintf(format, args...)}
	return false
}

// syntax says what stands at pos instead of what must.
func (s *scanner) syntax(want string) bool {
	if s.pos >= len(s.data) {
		return s.fail("ends at byte %d: must have %s there", s.pos, want)
	}
	r, _ := utf8.DecodeRune(s.data[s.pos:])
	return s.fail("has %s at byte %d: must have %s there", kindOf(r), s.pos, want)
}

// kindOf says what r is, and which only of the characters that JSON is made of: others may
// be part of a value.
func kindOf(r rune) string {
	switch {
	case strings.ContainsRune(`{}[]:,"'`, r):
		return strconv.QuoteRune(r)
	case unicode.IsDigit(r):
		return "a digit"
	case unicode.IsLetter(r):
		return "a letter"
	case unicode.IsControl(r):
		return "a control character"
	case r == 0xfeff:
		return "a byte order mark"
	}
	return "another character"
}

// whole is document with the keys that are required. A key counts once, since none is there twice.
func (s *scanner) whole(n *node) error {
	if !s.document(n) {
		return s.err
	}
	if s.met < len(s.required) {
		return Require(s.data, s.required)
	}
	return nil
}

func (s *scanner) document(n *node) bool {
	if !s.value(n, 0) {
		return false
	}
	if s.space(); s.pos < len(s.data) {
		return s.syntax("its end")
	}
	return true
}

func (s *scanner) space() { s.pos += jsonx.Space(s.data[s.pos:]) }

// next is the byte at pos after white space, 0 at the end.
func (s *scanner) next() byte {
	if s.space(); s.pos < len(s.data) {
		return s.data[s.pos]
	}
	return 0
}

func (s *scanner) value(n *node, depth int) bool {
	c, ok := s.next(), false
	start := s.pos
	switch {
	case c == '"':
		if n.accepts&text == 0 {
			return s.fail("is a string: must be %s", n.want)
		}
		_, ok = s.text()
	case c == '{':
		if n.accepts&object == 0 {
			return s.fail("is an object: must be %s", n.want)
		}
		ok = s.object(n, depth)
	case c == '[':
		if n.accepts&array == 0 {
			return s.fail("is an array: must be %s", n.want)
		}
		ok = s.array(n, depth)
	case c == '-' || c >= '0' && c <= '9':
		if n.accepts&number == 0 {
			return s.fail("is a number: must be %s", n.want)
		}
		ok = s.number(n)
	case c == 't' || c == 'f':
		if n.accepts&boolean == 0 {
			return s.fail("is a boolean: must be %s", n.want)
		}
		ok = s.word()
	case c == 'n':
		ok = s.word()
	}
	switch {
	case !ok:
		if s.err == nil {
			s.syntax("a value")
		}
		return false
	case s.try && n.opaque && n.kind != hopeless:
		if err := n.try(s.data[start:s.pos]); err != nil {
			s.err = &Error{Path: "$", Reason: foundBy(c) + ": must be " + n.reads, cause: err}
			return false
		}
	}
	return true
}

// foundBy says what a value is that begins with c.
func foundBy(c byte) string {
	switch c {
	case '"':
		return "is a string"
	case '{':
		return "is an object"
	case '[':
		return "is an array"
	case 't', 'f':
		return "is a boolean"
	case 'n':
		return "is null"
	}
	return "is a number"
}

func (s *scanner) word() bool {
	n := jsonx.Word(s.data[s.pos:])
	s.pos += n
	return n > 0
}

func (s *scanner) object(n *node, depth int) bool {
	if depth >= s.max {
		return s.fail("is nested too deep: at most %d levels are allowed", s.max)
	}
	var small [2]uint64
	seen := small[:]
	if len(n.fields) > 128 {
		seen = make([]uint64, (len(n.fields)+63)/64)
	}
	var room [8][]byte
	keys := room[:0] // decoded; of a record seen is enough
	s.pos++
	if s.next() == '}' {
		s.pos++
		return true
	}
	for i := 1; ; i++ {
		if s.next() != '"' {
			return s.syntax("a key")
		}
		key, ok := s.key()
		if !ok {
			return false
		}
		if s.next() != ':' {
			return s.syntax("a colon")
		}
		s.pos++
		if depth == 0 && s.met < len(s.required) {
			if _, ok := slices.BinarySearchFunc(s.required, key, compare); ok {
				s.met++
			}
		}
		child := n
		switch n.kind {
		case record:
			f := n.field(key)
			if f < 0 {
				return s.fail("has an unknown key %s: %s", quote(key), n.names())
			}
			if seen[f/64]&(1<<(f%64)) != 0 && s.unique {
				return s.fail("has the key %s twice", quote(key))
			}
			seen[f/64] |= 1 << (f % 64)
			child = n.fields[f].node
		case mapping:
			if n.key != nil && !(canonical(key) && n.key.holds(key)) {
				s.fail("has the wrong name: must be %s in its shortest form", n.key.want)
				s.err.within(ordinalSegment(i))
				return false
			}
			child = n.elem
			fallthrough
		default:
			if n.kind == foreign {
				child = &formNode // the method that decodes n decodes it whole
			}
			if s.unique {
				keys = append(keys, key)
			}
		}
		if !s.value(child, depth+1) {
			if n.kind == record {
				s.err.within(keySegment(key))
			} else { // the name is a value of the caller's
				s.err.within(ordinalSegment(i))
			}
			return false
		}
		c := s.next()
		if c != ',' && c != '}' {
			return s.syntax("a comma or the end of the object")
		}
		s.pos++
		if c == '}' {
			return s.distinct(keys)
		}
	}
}

// distinct checks that no two keys are equal. It shows where they are and not what, since
// names that no type has declared are values.
func (s *scanner) distinct(keys [][]byte) bool {
	const twice = "has one key twice, as key %d and as key %d"
	if len(keys) <= 8 {
		for i, k := range keys {
			for j, other := range keys[:i] {
				if bytes.Equal(k, other) {
					return s.fail(twice, j+1, i+1)
				}
			}
		}
		return true
	}
	order := make([]int32, len(keys))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Or(bytes.Compare(keys[a], keys[b]), cmp.Compare(a, b)) })
	for i, k := range order[1:] {
		if bytes.Equal(keys[k], keys[order[i]]) {
			return s.fail(twice, order[i]+1, k+1)
		}
	}
	return true
}

func (s *scanner) array(n *node, depth int) bool {
	if depth >= s.max {
		return s.fail("is nested too deep: at most %d levels are allowed", s.max)
	}
	child := n
	switch n.kind {
	case list, fixed:
		child = n.elem
	case foreign:
		child = &formNode
	}
	s.pos++
	if s.next() == ']' {
		s.pos++
		return true
	}
	for i := 0; ; i++ {
		if n.kind == fixed && i == n.size {
			return s.fail("has more than %d elements: must be %s", n.size, n.want)
		}
		if !s.value(child, depth+1) {
			s.err.within(indexSegment(i))
			return false
		}
		c := s.next()
		if c != ',' && c != ']' {
			return s.syntax("a comma or the end of the array")
		}
		s.pos++
		if c == ']' {
			return true
		}
	}
}

// key is the string at pos, decoded.
func (s *scanner) key() (key []byte, ok bool) {
	start := s.pos + 1
	escaped, ok := s.text()
	if !ok {
		return nil, false
	}
	inside := s.data[start : s.pos-1]
	if escaped {
		return jsonx.Unescape(inside), true
	}
	return inside, true
}

// text passes over the string at pos.
func (s *scanner) text() (escaped, ok bool) {
	start := s.pos
	n, escaped, ok := jsonx.String(s.data[start:])
	s.pos += n
	switch {
	case ok && escaped:
		if lone := jsonx.Paired(s.data[start+1 : s.pos-1]); lone >= 0 {
			return true, s.fail("has a surrogate without its partner at byte %d", start+1+lone)
		}
	case ok:
	case s.at('\\'):
		if s.pos++; s.at('u') {
			return true, s.syntax("an escape sequence with four hexadecimal digits")
		}
		return true, s.syntax("an escape sequence")
	case s.pos < len(s.data):
		return escaped, s.syntax("an escape sequence for a control character")
	default:
		return escaped, s.syntax("the end of a string")
	}
	return escaped, true
}
