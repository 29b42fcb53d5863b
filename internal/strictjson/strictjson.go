// Package strictjson decodes the arguments of a call so that every parser that sees them
// reads the same, and so that nothing is dropped on the way.
//
// Names of fields are exact, byte for byte: encoding/json alone also takes other cases and
// letters that fold to ASCII (U+017F, U+212A), and lets the last of several equal keys win.
// Here duplicate and unknown keys are refused, at every level; in what a type decodes by
// itself (json.Unmarshaler) and in an any duplicates are refused as well. Two spellings of
// one key ("a" and "\u0061") are the same key, and so are integer keys of a map in two
// spellings, of which only the shortest is taken. Data after the value, invalid UTF-8, lone
// surrogates, too much depth and too many bytes are refused, and a JSON array that is longer
// than its Go array.
//
// Numbers: for an integer every spelling of a whole number is taken, 3.0 and 5e0 too, and
// exactly; one with a fraction is refused, and one that does not fit its target. A float
// target rounds, as floats do. In an any a number is a float64 if that, printed, has the same
// value again, and a json.Number if not: 2^53+1 stays itself.
//
// Null leaves its target as it is, that is zero. Empty input is read as {}, since that is
// what models send to a tool without parameters.
//
// The check is one pass over the bytes along the type, after which encoding/json converts.
// Errors name the place as a path, the kind of thing that is there, and what is allowed. They
// show no value: of names those that a struct declares, and an unknown one beside them, cut
// and escaped; the keys of maps are values, and counted instead.
package strictjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/jsonx"
)

// Limits bound what is decoded.
type Limits struct {
	MaxBytes int // zero means 4 MiB
	MaxDepth int // of objects and arrays; zero means 64, at most 10,000

	Required []string // keys of the object that it must be, sorted; none means that it may be anything
}

func (l Limits) withDefaults() Limits {
	if l.MaxBytes <= 0 {
		l.MaxBytes = 4 << 20
	}
	if l.MaxDepth <= 0 {
		l.MaxDepth = 64
	}
	l.MaxDepth = min(l.MaxDepth, 10_000) // where encoding/json stops
	return l
}

var empty = []byte("{}")

// Decode decodes data into v, a pointer to a zero value. On an error *v may hold a part. A
// panic of a decoding method is the caller's.
func Decode(data []byte, v any, l Limits) error {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() {
		return fmt.Errorf("strictjson: the target is a %T: must be a pointer that is not nil", v)
	}
	n := nodeOf(p.Type()) // with the pointer, whose methods count
	data, err := prepare(data, l)
	if err != nil {
		return err
	}
	s := scanner{data: data, max: l.withDefaults().MaxDepth, unique: true, required: l.Required}
	if err := s.whole(n); err != nil {
		return err
	}
	if len(s.edits) > 0 {
		data = s.edited()
	}
	if err := convert(data, v, s.inexact); err != nil {
		return locate(data, n, s.max, err)
	}
	if s.inexact {
		settle(p, n, 4*s.max)
	}
	return nil
}

// Into is Decode into a new T, as the input of a call. A json.RawMessage is a copy of the data as it
// came; of an interface that an object does not implement nothing is nil.
func Into[T any](data json.RawMessage, l Limits) (any, error) {
	switch any((*T)(nil)).(type) {
	case *json.RawMessage:
		if err := Check(data, l); err != nil {
			return nil, err
		}
		return Raw(data), nil
	case *any:
		if len(data) == 0 {
			return map[string]any{}, Require(nil, l.Required) // as Decode makes it
		}
	}
	var v T
	if t := reflect.TypeFor[T](); t.Kind() == reflect.Interface && t.NumMethod() > 0 && Blank(data) {
		return nil, Require(nil, l.Required)
	}
	if err := Decode(data, &v, l); err != nil {
		return nil, err
	}
	return v, nil
}

// Raw is a copy of data, which Decode or Check has taken; of nothing it is {}.
func Raw(data json.RawMessage) json.RawMessage {
	if Blank(data) {
		data = empty
	}
	return slices.Clone(data)
}

// Check reports whether data is JSON that Decode could take into an any.
func Check(data []byte, l Limits) error {
	data, err := prepare(data, l)
	if err != nil {
		return err
	}
	s := scanner{data: data, max: l.withDefaults().MaxDepth, unique: true, required: l.Required}
	return s.whole(&formNode)
}

func prepare(data []byte, l Limits) ([]byte, error) {
	if err := l.withDefaults().size(len(data)); err != nil {
		return nil, err
	}
	if !utf8.Valid(data) {
		return nil, &Error{Path: "$", Reason: "is not valid UTF-8"}
	}
	if Blank(data) {
		return empty, nil
	}
	return data, nil
}

// Blank reports whether there is nothing in data.
func Blank(data []byte) bool { return jsonx.Space(data) == len(data) }

// Require reports whether data, which a scanner has taken, is an object with all of these keys,
// sorted. Null and nothing are an object without any. Of no keys it asks nothing.
func Require(data []byte, names []string) error {
	if len(names) == 0 {
		return nil
	}
	s := scanner{data: data, max: 10_000}
	var room [16]bool
	found, missing := room[:], len(names)
	if missing > len(room) {
		found = make([]bool, missing)
	}
	switch c := s.next(); c {
	case 0, 'n':
	case '{':
		s.pos++
		for c := s.next(); c != '}' && missing > 0; c = s.next() {
			if c == ',' {
				s.pos++
				s.next()
			}
			key, _ := s.key()
			if i, ok := slices.BinarySearchFunc(names, key, compare); ok && !found[i] {
				found[i] = true
				missing--
			}
			s.next()
			s.pos++ // the colon
			s.value(&formNode, 0)
		}
	default:
		return &Error{Path: "$", Reason: foundBy(c) + ": must be an object"}
	}
	if missing == 0 {
		return nil
	}
	n := &node{}
	for i, name := range names {
		if !found[i] {
			n.fields = append(n.fields, field{name: name})
		}
	}
	return &Error{Path: "$", Reason: "lacks " + n.list() + ": required"}
}

// compare is cmp.Compare, for which key need not become a string.
func compare(name string, key []byte) int {
	switch {
	case name == string(key):
		return 0
	case name < string(key):
		return -1
	}
	return 1
}

// convert is json.Unmarshal.
func convert(data []byte, v any, numbers bool) error {
	if !numbers {
		return json.Unmarshal(data, v)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return d.Decode(v)
}

// locate finds the place of an error of encoding/json, by decoding once more, one by one,
// what the check had to leave to others.
func locate(data []byte, n *node, max int, err error) error {
	s := scanner{data: data, max: max, try: true}
	if !s.document(n) {
		return s.err
	}
	return &Error{Path: "$", Reason: "cannot be decoded into " + nameOf(n.typ), cause: err}
}
