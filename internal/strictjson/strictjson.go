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
// Numbers: an integer that does not fit its target is refused, and so is one with a fraction
// or an exponent. A float target rounds, as floats do. In an any a number is a float64 if
// that, printed, has the same value again, and a json.Number if not: 2^53+1 stays itself.
//
// Null leaves its target as it is, that is zero. Empty input is read as {}, since that is
// what models send to a tool without parameters.
//
// The check is one pass over the bytes along the type, after which encoding/json converts.
// Errors name the place as a path and what is allowed there; of values they show numbers
// alone.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"unicode/utf8"
)

// Limits bound what is decoded.
type Limits struct {
	MaxBytes int // zero means 4 MiB
	MaxDepth int // of objects and arrays; zero means 64, at most 10,000
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
// panic of a decoding method comes back as an error.
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
	s := scanner{data: data, max: l.withDefaults().MaxDepth, unique: true}
	if !s.document(n) {
		return s.err
	}
	if err := convert(data, v, s.inexact); err != nil {
		return locate(data, n, s.max, err)
	}
	if s.inexact {
		settle(p, n, 4*s.max)
	}
	return nil
}

// Check reports whether data is JSON that Decode could take into an any.
func Check(data []byte, l Limits) error {
	data, err := prepare(data, l)
	if err != nil {
		return err
	}
	s := scanner{data: data, max: l.withDefaults().MaxDepth, unique: true}
	if !s.document(&formNode) {
		return s.err
	}
	return nil
}

func prepare(data []byte, l Limits) ([]byte, error) {
	if err := l.withDefaults().size(len(data)); err != nil {
		return nil, err
	}
	if !utf8.Valid(data) {
		return nil, &Error{Path: "$", Reason: "is not valid UTF-8"}
	}
	if len(bytes.TrimLeft(data, " \t\r\n")) == 0 {
		return empty, nil
	}
	return data, nil
}

// convert is json.Unmarshal, safe from the panics of foreign methods.
func convert(data []byte, v any, numbers bool) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("decoding panicked: %s", cut(fmt.Sprint(r), 200))
		}
	}()
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
	e := &Error{Path: "$", Reason: err.Error(), cause: err}
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && t.Field != "" {
		e.Path += "." + cut(t.Field, 128)
	}
	return e
}
