package strictjson

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"

	"github.com/sluice-go/sluice/internal/jsonx"
)

// number passes over the number at pos and checks that n can hold it.
func (s *scanner) number(n *node) bool {
	start := s.pos
	size, whole, ok := jsonx.Number(s.data[start:])
	if s.pos += size; !ok {
		return s.syntax("a digit")
	}
	digits := s.data[start:s.pos]
	switch n.kind {
	case signed, unsigned:
		if whole && (n.kind == signed || digits[0] != '-') {
			return n.holds(digits) || s.fail("is a number out of range: must be %s", n.want)
		}
		plain, ok := integer(digits)
		switch {
		case !ok:
			return s.fail("is a number with a fraction: must be %s", n.want)
		case !n.holds(plain):
			return s.fail("is a number out of range: must be %s", n.want)
		}
		s.edits = append(s.edits, edit{start, s.pos, plain})
	case float:
		if len(digits) <= 38 && !bytes.ContainsAny(digits, "eE") {
			break // 10^38 fits a float32
		}
		if _, err := strconv.ParseFloat(string(digits), n.bits); err != nil {
			return s.fail("is a number out of range: must fit a float of %d bits", n.bits)
		}
	case dynamic:
		s.inexact = s.inexact || !exact(digits)
	}
	return true
}

// holds reports whether the integer n can be what digits say.
func (n *node) holds(digits []byte) (ok bool) {
	var err error
	if n.kind == signed {
		_, err = strconv.ParseInt(string(digits), 10, n.bits)
	} else {
		_, err = strconv.ParseUint(string(digits), 10, n.bits)
	}
	return err == nil
}

// integer spells a whole number as encoding/json takes it for an integer: 12 for 1.20e1. One
// of more than 20 digits may become another of more than 20.
func integer(num []byte) (plain []byte, whole bool) {
	digits, exp := significant(num)
	switch {
	case len(digits) == 0:
		return []byte("0"), true
	case exp < 0:
		return nil, false
	}
	if num[0] == '-' {
		plain = append(plain, '-')
	}
	plain = append(plain, digits...)
	return append(plain, bytes.Repeat([]byte("0"), min(exp, 20))...), true
}

// edit is another spelling of the bytes from start to end.
type edit struct {
	start, end int
	to         []byte
}

// edited is what s has passed over, with its edits.
func (s *scanner) edited() []byte {
	out, pos := make([]byte, 0, len(s.data)+20*len(s.edits)), 0
	for _, e := range s.edits {
		out = append(append(out, s.data[pos:e.start]...), e.to...)
		pos = e.end
	}
	return append(out, s.data[pos:]...)
}

func (s *scanner) at(c byte) bool { return s.pos < len(s.data) && s.data[s.pos] == c }

// canonical reports whether key is the one spelling of an integer.
func canonical(key []byte) bool {
	if len(key) > 0 && key[0] == '-' {
		if key = key[1:]; len(key) > 0 && key[0] == '0' {
			return false
		}
	}
	for _, c := range key {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(key) == 1 || len(key) > 1 && key[0] != '0'
}

// exact reports whether a float64 keeps the value of a JSON number: whether the shortest
// decimal that reads as that float64 equals it. Decimals of up to 15 digits always do.
func exact(num []byte) bool {
	if len(num) <= 15 && !bytes.ContainsAny(num, "eE") {
		return true
	}
	f, err := strconv.ParseFloat(string(num), 64)
	if err != nil {
		return false
	}
	var room [32]byte
	a, aExp := significant(num)
	b, bExp := significant(strconv.AppendFloat(room[:0], f, 'e', -1, 64))
	return bytes.Equal(a, b) && aExp == bExp
}

// significant is the digits of num between its first and its last that is not zero, and the
// power of ten of the last. Zero has none.
func significant(num []byte) (digits []byte, exp int) {
	if i := bytes.IndexAny(num, "eE"); i >= 0 {
		exp, _ = strconv.Atoi(string(num[i+1:])) // out of range only where every number is, or for zero
		exp = min(max(exp, -1<<30), 1<<30)
		num = num[:i]
	}
	digits = make([]byte, 0, 32)
	fraction := false
	for _, c := range num {
		switch {
		case c == '.':
			fraction = true
		case c >= '0' && c <= '9':
			digits = append(digits, c)
			if fraction {
				exp--
			}
		}
	}
	digits = bytes.TrimLeft(digits, "0")
	for len(digits) > 0 && digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
		exp++
	}
	if len(digits) == 0 {
		exp = 0
	}
	return digits, exp
}

// settle makes float64 of every json.Number in an any of v that can be one. depth bounds it
// should v, against the rules of Decode, hold more than what was decoded.
func settle(v reflect.Value, n *node, depth int) {
	if depth == 0 {
		return
	}
	for v.Kind() == reflect.Pointer {
		if v.IsNil() || n.kind == foreign || n.opaque && n.kind == scalar {
			return
		}
		v = v.Elem()
	}
	switch n.kind {
	case dynamic:
		if !v.IsNil() && v.CanSet() {
			v.Set(reflect.ValueOf(settled(v.Interface())))
		}
	case record:
		for i := range n.fields {
			if f, err := v.FieldByIndexErr(n.fields[i].path); err == nil {
				settle(f, n.fields[i].node, depth-1)
			}
		}
	case list, fixed:
		if n.elem.kind == scalar || n.elem.kind >= signed && n.elem.kind <= float {
			return
		}
		for i := range v.Len() {
			settle(v.Index(i), n.elem, depth-1)
		}
	case mapping:
		for it := v.MapRange(); it.Next(); {
			e := reflect.New(v.Type().Elem()).Elem()
			e.Set(it.Value())
			settle(e, n.elem, depth-1)
			v.SetMapIndex(it.Key(), e)
		}
	}
}

// settled is settle for what encoding/json decodes into an any.
func settled(x any) any {
	switch x := x.(type) {
	case json.Number:
		if exact([]byte(x)) {
			if f, err := x.Float64(); err == nil {
				return f
			}
		}
	case []any:
		for i := range x {
			x[i] = settled(x[i])
		}
	case map[string]any:
		for k, e := range x {
			x[k] = settled(e)
		}
	}
	return x
}
