package jsonschema

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// kind is what a JSON value is.
type kind uint8

const (
	null kind = iota
	boolean
	number
	text
	array
	object
)

// node is one value of a document. Those of a document stand in the order in which they begin, so that
// the values in an array or object follow it.
type node struct {
	kind    kind
	escaped bool // a string with escape sequences
	at, end int  // where it stands in the data
	next    int  // the node behind it, and behind all that is in it
	count   int  // values in it
	key     []byte
}

// maxDepth bounds arrays and objects within each other, as encoding/json does.
const maxDepth = 10_000

var (
	errSyntax = errors.New("is not JSON")
	errDepth  = errors.New("is nested too deep: at most " + strconv.Itoa(maxDepth) + " levels are allowed")
)

// document is JSON, taken apart.
type document struct {
	data  []byte
	nodes []node
}

// parse takes data apart, into room if that is enough. Data is taken to be JSON: of what is not some is read
// nevertheless, such as strings with wrong escape sequences.
func parse(data []byte, room []node) (document, error) {
	d := document{data, room[:0]}
	p := parser{data: data}
	var holders [32]int
	open := holders[:0] // what the next value is in
	var key []byte
next:
	for {
		i := len(d.nodes)
		d.nodes = append(d.nodes, node{key: key})
		n := &d.nodes[i]
		c := p.space()
		n.at = p.pos
		key = nil
		switch c {
		case '{', '[':
			n.kind = array
			if c == '{' {
				n.kind = object
			}
			p.pos++
			if p.space() == c+2 {
				p.pos++
				break
			}
			if len(open) == maxDepth {
				return d, errDepth
			}
			open = append(open, i)
			if c == '{' {
				if key = p.key(); key == nil {
					return d, errSyntax
				}
			}
			continue
		case '"':
			n.kind = text
			n.escaped = p.text()
		case 't':
			n.kind = boolean
			p.word("true")
		case 'f':
			n.kind = boolean
			p.word("false")
		case 'n':
			p.word("null")
		default:
			n.kind = number
			p.number()
		}
		n.end, n.next = p.pos, i+1
		if n.end == n.at {
			return d, errSyntax
		}
		for len(open) > 0 {
			in := &d.nodes[open[len(open)-1]]
			in.count++
			c := p.space()
			p.pos++
			switch {
			case c == ',':
				if in.kind == object {
					if key = p.key(); key == nil {
						return d, errSyntax
					}
				}
				continue next
			case c != ']' && c != '}':
				return d, errSyntax
			}
			in.end, in.next = p.pos, len(d.nodes)
			open = open[:len(open)-1]
		}
		if p.space(); p.pos != len(data) {
			return d, errSyntax
		}
		return d, nil
	}
}

// parser passes over data, from pos.
type parser struct {
	data []byte
	pos  int
}

// space is the byte at pos behind white space, 0 at the end.
func (p *parser) space() byte {
	for ; p.pos < len(p.data); p.pos++ {
		switch c := p.data[p.pos]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// word passes over w, if that is what there is.
func (p *parser) word(w string) {
	if bytes.HasPrefix(p.data[p.pos:], []byte(w)) {
		p.pos += len(w)
	}
}

// number passes over a number, if that is what there is.
func (p *parser) number() {
	start := p.pos
	p.one("-")
	ok := p.digits()
	if ok && p.one(".") {
		ok = p.digits()
	}
	if ok && p.one("eE") {
		p.one("+-")
		ok = p.digits()
	}
	if !ok {
		p.pos = start
	}
}

// one passes over a byte of the set, and reports whether there was one.
func (p *parser) one(set string) bool {
	if p.pos < len(p.data) && strings.IndexByte(set, p.data[p.pos]) >= 0 {
		p.pos++
		return true
	}
	return false
}

func (p *parser) digits() bool {
	start := p.pos
	for p.pos < len(p.data) && p.data[p.pos]-'0' <= 9 {
		p.pos++
	}
	return p.pos > start
}

// text passes over a string.
func (p *parser) text() (escaped bool) {
	for p.pos++; p.pos < len(p.data); p.pos++ {
		switch p.data[p.pos] {
		case '\\':
			escaped = true
			p.pos++
		case '"':
			p.pos++
			return escaped
		}
	}
	p.pos = len(p.data)
	return escaped
}

// key is the name at pos, and passes over the colon behind it. It is never nil unless there is none.
func (p *parser) key() []byte {
	if p.space() != '"' {
		return nil
	}
	at := p.pos
	escaped := p.text()
	raw := p.data[at:p.pos]
	if c := p.space(); c != ':' || len(raw) < 2 {
		return nil
	}
	p.pos++
	return unquoted(raw, escaped)
}

// unquoted is the content of the string raw.
func unquoted(raw []byte, escaped bool) []byte {
	if escaped {
		var s string
		if json.Unmarshal(raw, &s) == nil {
			return []byte(s)
		}
	}
	return raw[1:max(1, len(raw)-1)]
}

// raw is the value i as it is written.
func (d *document) raw(i int) []byte { return d.data[d.nodes[i].at:d.nodes[i].end] }

// text is the content of the string i.
func (d *document) text(i int) []byte { return unquoted(d.raw(i), d.nodes[i].escaped) }

// members yields the values in the array or object i.
func (d *document) members(i int) func(yield func(n, v int) bool) {
	return func(yield func(n, v int) bool) {
		for n, v := 0, i+1; n < d.nodes[i].count; n, v = n+1, d.nodes[v].next {
			if !yield(n, v) {
				return
			}
		}
	}
}

// member is the value of the last member of that name in the object i, as encoding/json takes it, or 0.
func (d *document) member(i int, name string) (found int) {
	for _, v := range d.members(i) {
		if string(d.nodes[v].key) == name {
			found = v
		}
	}
	return found
}

// canonical appends the value i so that equal values, and no others, are the same bytes: 1 and 1.0 are, and
// objects whose members stand in another order.
func (d *document) canonical(b []byte, i int) []byte {
	switch n := &d.nodes[i]; n.kind {
	case number:
		x := decimalOf(d.raw(i))
		if x.negative {
			b = append(b, '-')
		}
		b = append(append(b, x.digits...), 'e')
		return strconv.AppendInt(b, x.exp, 10)
	case text:
		s := d.text(i)
		b = append(strconv.AppendInt(append(b, '"'), int64(len(s)), 10), ':')
		return append(b, s...)
	case array:
		b = append(b, '[')
		for _, v := range d.members(i) {
			b = append(d.canonical(b, v), ',')
		}
		return append(b, ']')
	case object:
		list := make([]int, 0, n.count)
		for _, v := range d.members(i) {
			list = append(list, v)
		}
		slices.SortFunc(list, func(x, y int) int { return bytes.Compare(d.nodes[x].key, d.nodes[y].key) })
		b = append(b, '{')
		for _, v := range list {
			key := d.nodes[v].key
			b = append(append(strconv.AppendInt(b, int64(len(key)), 10), ':'), key...)
			b = append(d.canonical(b, v), ',')
		}
		return append(b, '}')
	}
	return append(b, d.raw(i)...)
}

// decimal is a number exactly: its digits without zeros at either end, none for zero, times ten to the exp.
type decimal struct {
	negative bool
	digits   []byte
	exp      int64
}

// maxExponent is where exponents end: no two numbers that somebody can write differ beyond.
const maxExponent = 1 << 50

func decimalOf(raw []byte) (x decimal) {
	if len(raw) > 0 && raw[0] == '-' {
		x.negative, raw = true, raw[1:]
	}
	if i := bytes.IndexAny(raw, "eE"); i >= 0 {
		x.exp, _ = strconv.ParseInt(string(raw[i+1:]), 10, 64) // out of range it is the nearest
		x.exp = min(max(x.exp, -maxExponent), maxExponent)
		raw = raw[:i]
	}
	if i := bytes.IndexByte(raw, '.'); i >= 0 {
		x.exp -= int64(len(raw) - i - 1)
		raw = slices.Concat(raw[:i], raw[i+1:])
	}
	raw = bytes.TrimLeft(raw, "0")
	x.digits = bytes.TrimRight(raw, "0")
	x.exp += int64(len(raw) - len(x.digits))
	if len(x.digits) == 0 {
		return decimal{}
	}
	return x
}

// whole reports whether x has no fraction.
func (x *decimal) whole() bool { return x.exp >= 0 }

// compare is below zero if x is less than y, above if it is more.
func (x *decimal) compare(y *decimal) int {
	if s := cmp.Compare(x.sign(), y.sign()); s != 0 || x.sign() == 0 {
		return s
	}
	s := cmp.Compare(int64(len(x.digits))+x.exp, int64(len(y.digits))+y.exp)
	if s == 0 {
		s = bytes.Compare(x.digits, y.digits) // a prefix is less: what it lacks are zeros
	}
	return s * x.sign()
}

func (x *decimal) sign() int {
	switch {
	case len(x.digits) == 0:
		return 0
	case x.negative:
		return -1
	}
	return 1
}

// maxDigits bounds what is divided.
const maxDigits = 1000

// multipleOf reports whether x is a whole number of times y, which is more than zero. Nothing is of what has
// too many digits.
func (x *decimal) multipleOf(y *decimal) bool {
	switch shift := x.exp - y.exp; {
	case x.sign() == 0:
		return true
	case len(x.digits) > maxDigits:
		return false
	case shift < 0: // x = digits, y = digits · 10^-shift; x has no zero at its end
		if -shift > int64(len(x.digits)) {
			return false
		}
		m := new(big.Int).Mul(y.int(), new(big.Int).Exp(big.NewInt(10), big.NewInt(-shift), nil))
		return m.Rem(x.int(), m).Sign() == 0
	default: // x = digits · 10^shift, which may be large: only what it leaves is computed
		m := y.int()
		r := new(big.Int).Exp(big.NewInt(10), big.NewInt(shift), m)
		return r.Rem(r.Mul(r, x.int()), m).Sign() == 0
	}
}

func (x *decimal) int() *big.Int {
	n, _ := new(big.Int).SetString(string(x.digits), 10)
	return n
}

// cut is s, of at most max bytes.
func cut(s string, max int) string {
	if len(s) <= max {
		return s
	}
	for max > 0 && !utf8.RuneStart(s[max]) {
		max--
	}
	return s[:max] + "…"
}
