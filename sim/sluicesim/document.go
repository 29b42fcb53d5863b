package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-go/sluice/internal/errtext"
)

// What a file may have at most.
const (
	maxBytes = 16 << 20
	maxDepth = 16
)

// node is one value of the file, and where it stands.
type node struct {
	path   string // as traffic[0].arrivals
	line   int
	kind   kind
	text   string   // of a string, number or literal
	names  []string // of an object's fields
	values []*node  // of those, or of a list
}

type kind uint8

const (
	object kind = iota
	list
	text
	number
	literal
)

func (k kind) String() string {
	return [...]string{"an object", "a list", "a string", "a number", "true, false or null"}[k]
}

// document reads values of one file. Its first error stays, and what is read after that is zero.
type document struct {
	file string
	data []byte
	dec  *json.Decoder
	err  error
}

// fail notes what is wrong with n.
func (d *document) fail(n *node, format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%s:%d: %s %s", d.file, n.line, n.path, fmt.Sprintf(format, args...))
	}
}

// parse is the file as nodes: one object, no field twice.
func (d *document) parse() *node {
	if len(d.data) > maxBytes {
		d.err = fmt.Errorf("%s: has %d bytes: must have at most %d", d.file, len(d.data), maxBytes)
		return nil
	}
	d.dec = json.NewDecoder(bytes.NewReader(d.data))
	d.dec.UseNumber()
	root, err := d.value("the file", 0)
	if err == nil {
		if _, err = d.dec.Token(); err == nil {
			err = fmt.Errorf("%s:%d: has more after its object: must be one object", d.file, d.line(d.dec.InputOffset()))
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err == nil && root.kind != object {
		d.fail(root, "is %v: must be an object", root.kind)
		err = d.err
	}
	if d.err = d.located(err); d.err != nil {
		return nil
	}
	return root
}

// located says where in the file JSON ends to be JSON.
func (d *document) located(err error) error {
	at := int64(len(d.data))
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		at = syntax.Offset
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return err
	}
	return fmt.Errorf("%s:%d: is not JSON: %w", d.file, d.line(at), err)
}

func (d *document) line(offset int64) int {
	return 1 + bytes.Count(d.data[:min(int(offset), len(d.data))], []byte("\n"))
}

// value reads one value.
func (d *document) value(path string, depth int) (*node, error) {
	t, err := d.dec.Token()
	if err != nil {
		return nil, err
	}
	n := &node{path: path, line: d.line(d.dec.InputOffset())}
	switch t := t.(type) {
	case string:
		n.kind, n.text = text, t
	case json.Number:
		n.kind, n.text = number, t.String()
	case json.Delim:
		if depth == maxDepth {
			return nil, fmt.Errorf("%s:%d: %s is nested too deep: at most %d levels are allowed", d.file, n.line, path, maxDepth)
		}
		if n.kind = list; t == '{' {
			n.kind = object
		}
		for d.dec.More() {
			if err := d.member(n, depth); err != nil {
				return nil, err
			}
		}
		_, err = d.dec.Token()
	default:
		n.kind, n.text = literal, fmt.Sprint(t)
	}
	return n, err
}

// member reads the next field or entry of n.
func (d *document) member(n *node, depth int) error {
	path := fmt.Sprintf("%s[%d]", n.path, len(n.values))
	if n.kind == object {
		t, err := d.dec.Token()
		if err != nil {
			return err
		}
		name := t.(string)
		if path = errtext.Line(name); depth > 0 {
			path = n.path + "." + path
		}
		if slices.Contains(n.names, name) {
			return fmt.Errorf("%s:%d: %s is there twice: must be once", d.file, d.line(d.dec.InputOffset()), path)
		}
		n.names = append(n.names, name)
	}
	v, err := d.value(path, depth+1)
	if err == nil {
		n.values = append(n.values, v)
	}
	return err
}

// fields reads the fields of an object, each by its name.
type fields struct {
	d     *document
	n     *node
	known []string
}

// object is the fields of n, all of which have to be asked for before end.
func (d *document) object(n *node) *fields {
	if n.kind != object {
		d.fail(n, "is %v: must be an object", n.kind)
		n = &node{path: n.path, line: n.line}
	}
	return &fields{d: d, n: n}
}

// find is the field of that name; nil if it is not there.
func (f *fields) find(name string) *node {
	f.known = append(f.known, name)
	if i := slices.Index(f.n.names, name); i >= 0 {
		return f.n.values[i]
	}
	return nil
}

// need is find, for what must be there.
func (f *fields) need(name string) *node {
	n := f.find(name)
	if n == nil {
		hint := ""
		if near := errtext.Nearest(name, slices.Values(f.n.names)); near != nil {
			hint = "; is " + errtext.Quote(near[0]) + " meant to be it?"
		}
		f.d.fail(f.n, "has no field %q: must have one%s", name, hint)
	}
	return n
}

// end refuses the fields that nobody has asked for.
func (f *fields) end() {
	for i, name := range f.n.names {
		if slices.Contains(f.known, name) {
			continue
		}
		meant := "can be " + strings.Join(f.known, ", ")
		if near := errtext.Nearest(name, slices.Values(f.known)); near != nil {
			meant = near.Error()
		}
		f.d.fail(f.n.values[i], "is no field that there is: %s", meant)
	}
}

// one is the only field of an object that says by its name what it is; nil after an error.
func (d *document) one(n *node, names ...string) (string, *node) {
	f := d.object(n)
	var out *node
	for _, name := range names {
		if v := f.find(name); v != nil {
			out = v
		}
	}
	f.end()
	if d.err == nil && len(n.values) != 1 {
		d.fail(n, "has %d fields: must have one of %s", len(n.values), strings.Join(names, ", "))
	}
	if d.err != nil {
		return "", nil
	}
	return n.names[0], out
}

// each reads the entries of a list; nil is an empty one.
func (d *document) each(n *node, do func(*node)) {
	switch {
	case n == nil || d.err != nil:
	case n.kind != list:
		d.fail(n, "is %v: must be a list", n.kind)
	default:
		for _, v := range n.values {
			do(v)
		}
	}
}

// text is a string; empty if n is nil.
func (d *document) text(n *node) string {
	if n == nil {
		return ""
	}
	if n.kind != text {
		d.fail(n, "is %v: must be a string", n.kind)
		return ""
	}
	return n.text
}

// name is text that can be shown.
func (d *document) name(n *node) string {
	s := d.text(n)
	if err := checkName(s); err != nil {
		d.fail(n, "%v", err)
	}
	return s
}

// names is a list of texts.
func (d *document) names(n *node) (out []string) {
	d.each(n, func(n *node) { out = append(out, d.name(n)) })
	return out
}

// duration is a string as time.ParseDuration reads it; zero if n is nil.
func (d *document) duration(n *node) time.Duration {
	switch {
	case n == nil:
		return 0
	case n.kind == number:
		d.fail(n, "is %s: must be a string with a unit, as \"%[1]ss\" or \"%[1]sms\"", n.text)
		return 0
	}
	s := d.text(n)
	if d.err != nil {
		return 0
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		d.fail(n, "is %s: must be a time with a unit, as \"250ms\", \"30s\" or \"1h30m\"", errtext.Quote(s))
	}
	return v
}

// whole is a whole number; zero if n is nil.
func (d *document) whole(n *node) int64 {
	if n == nil {
		return 0
	}
	v, err := strconv.ParseInt(n.text, 10, 64)
	if n.kind != number || err != nil {
		d.fail(n, "is %s: must be a whole number", n.shown())
	}
	return v
}

// count is whole, for a field of the type int.
func (d *document) count(n *node) int {
	v := d.whole(n)
	if v != int64(int(v)) {
		d.fail(n, "is %d: must be at most %d", v, int(^uint(0)>>1))
		return 0
	}
	return int(v)
}

// number is a number; zero if n is nil.
func (d *document) number(n *node) float64 {
	if n == nil {
		return 0
	}
	v, err := strconv.ParseFloat(n.text, 64)
	if n.kind != number || err != nil {
		d.fail(n, "is %s: must be a number", n.shown())
	}
	return v
}

// flag is true or false; false if n is nil.
func (d *document) flag(n *node) bool {
	if n == nil {
		return false
	}
	if n.kind != literal || n.text != "true" && n.text != "false" {
		d.fail(n, "is %s: must be true or false", n.shown())
	}
	return n.text == "true"
}

// shown is n as an error shows it.
func (n *node) shown() string {
	switch n.kind {
	case text:
		return errtext.Quote(n.text)
	case number:
		return errtext.Line(n.text)
	}
	return n.kind.String()
}
