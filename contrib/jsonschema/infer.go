package jsonschema

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The schema of a Go type is inferred here, and not by jsonschema-go's own For, so that it says what
// encoding/json does: that refuses types that hold themselves, and is of another mind about byte slices,
// raw JSON, big integers, types that encode themselves, embedded structs with a name, fields with the option
// "string", and maps with integer keys.

// doc is a JSON Schema to be written.
type doc struct {
	Ref             string      `json:"$ref,omitempty"`
	Type            any         `json:"type,omitempty"` // string or []string
	Description     string      `json:"description,omitempty"`
	Format          string      `json:"format,omitempty"`
	ContentEncoding string      `json:"contentEncoding,omitempty"`
	Minimum         json.Number `json:"minimum,omitempty"`
	Maximum         json.Number `json:"maximum,omitempty"`
	Items           *doc        `json:"items,omitempty"`
	MinItems        *int        `json:"minItems,omitempty"`
	MaxItems        *int        `json:"maxItems,omitempty"`
	Properties      members     `json:"properties,omitzero"`
	Required        []string    `json:"required,omitempty"`
	Additional      any         `json:"additionalProperties,omitempty"` // false or *doc
	AnyOf           []*doc      `json:"anyOf,omitempty"`
	Defs            members     `json:"$defs,omitzero"`
}

// members is an object of schemas, in order. Nil is none.
type members []named

type named struct {
	name string
	*doc
}

func (m members) IsZero() bool { return m == nil }

func (m members) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, x := range m {
		if i > 0 {
			b.WriteByte(',')
		}
		if err := write(&b, x.name); err != nil {
			return nil, err
		}
		b.WriteByte(':')
		if err := write(&b, x.doc); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// write is json.Marshal that leaves <, > and & as they are.
func write(b *bytes.Buffer, v any) error {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	b.Truncate(len(bytes.TrimRight(b.Bytes(), "\n")))
	return err
}

func (d *doc) isAny() bool { return reflect.ValueOf(*d).IsZero() }

// orNull lets d be null too.
func (d *doc) orNull() *doc {
	switch t := d.Type.(type) {
	case string:
		d.Type = []string{t, "null"}
	case nil:
		if d.Ref != "" {
			return &doc{AnyOf: []*doc{d, {Type: "null"}}}
		}
	}
	return d
}

// maxDocs bounds a schema: one of a type that holds others many times, and they again others, would have no end
// that matters.
const maxDocs = 10_000

// inferer makes the schema of one type.
type inferer struct {
	out  bool // of what the type encodes, not of what it decodes
	root reflect.Type
	open map[reflect.Type]bool // those around the one at hand
	refs map[reflect.Type]string
	defs members
	docs int
}

// infer is the schema of t, nil if any value fits it.
func infer(t reflect.Type, out bool) (json.RawMessage, error) {
	in := inferer{out: out, open: map[reflect.Type]bool{}, refs: map[reflect.Type]string{}}
	plain, err := pointee(t)
	if err != nil {
		return nil, fmt.Errorf("$ %w", err)
	}
	in.root = plain
	d, err := in.bare(plain, "$")
	if err != nil {
		return nil, err
	}
	if out && nilable(t) {
		d = d.orNull()
	}
	if d.isAny() {
		return nil, nil
	}
	d.Defs = in.defs
	var b bytes.Buffer
	if err := write(&b, d); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// pointee is t without pointers to it.
func pointee(t reflect.Type) (reflect.Type, error) {
	for n := 0; t.Kind() == reflect.Pointer; n++ {
		if n == 32 {
			return nil, fmt.Errorf("is a %v, which has no end", t)
		}
		t = t.Elem()
	}
	return t, nil
}

// nilable reports whether encoding/json writes null for a value of t that is nil.
func nilable(t reflect.Type) bool {
	k := t.Kind()
	return k == reflect.Pointer || k == reflect.Slice || k == reflect.Map
}

// of is the schema of t, with null if that is a value of it. path leads to it, for errors.
func (in *inferer) of(t reflect.Type, path string) (*doc, error) {
	plain, err := pointee(t)
	if err != nil {
		return nil, fmt.Errorf("%s %w", path, err)
	}
	d, err := in.bare(plain, path)
	if err == nil && nilable(t) {
		d = d.orNull()
	}
	return d, err
}

// bare is the schema of t without null.
func (in *inferer) bare(t reflect.Type, path string) (*doc, error) {
	if in.docs++; in.docs > maxDocs {
		return nil, fmt.Errorf("%s is too large: a schema of more than %d parts is not made", cut(path, maxPath), maxDocs)
	}
	if ref := in.refs[t]; ref != "" {
		return &doc{Ref: ref}, nil
	}
	if in.open[t] {
		in.refs[t] = in.nameOf(t)
		return &doc{Ref: in.refs[t]}, nil
	}
	if t.Name() != "" {
		in.open[t] = true
		defer delete(in.open, t)
	}
	d, err := in.whole(t, path)
	if ref := in.refs[t]; err == nil && ref != "" && ref != "#" {
		for i := range in.defs {
			if "#/$defs/"+in.defs[i].name == ref {
				in.defs[i].doc = d
			}
		}
		d = &doc{Ref: ref}
	}
	return d, err
}

// nameOf is a new name for t, which holds itself.
func (in *inferer) nameOf(t reflect.Type) string {
	if t == in.root {
		return "#"
	}
	base := regexp.MustCompile(`[^A-Za-z0-9_]+`).ReplaceAllString(cut(t.Name(), maxName), "_")
	name := base
	for n := 2; in.taken(name); n++ {
		name = base + strconv.Itoa(n)
	}
	in.defs = append(in.defs, named{name: name})
	return "#/$defs/" + name
}

func (in *inferer) taken(name string) bool {
	for _, d := range in.defs {
		if d.name == name {
			return true
		}
	}
	return false
}

var (
	marshaler       = reflect.TypeFor[json.Marshaler]()
	unmarshaler     = reflect.TypeFor[json.Unmarshaler]()
	textMarshaler   = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// known is the schema of a type of the standard library.
func known(t reflect.Type) *doc {
	switch t {
	case reflect.TypeFor[time.Time]():
		return &doc{Type: "string", Format: "date-time"}
	case reflect.TypeFor[time.Duration]():
		return &doc{Type: "integer", Description: "nanoseconds"}
	case reflect.TypeFor[json.RawMessage]():
		return &doc{}
	case reflect.TypeFor[json.Number]():
		return &doc{Type: "number"}
	case reflect.TypeFor[big.Int]():
		return &doc{Type: "integer"}
	case reflect.TypeFor[slog.Level]():
		return &doc{Type: "string"}
	}
	return nil
}

// itself is the schema of a type that encodes or decodes itself: a string if it does so as text, any if not.
func (in *inferer) itself(t reflect.Type) *doc {
	asJSON, asText := unmarshaler, textUnmarshaler
	if in.out {
		asJSON, asText = marshaler, textMarshaler
	}
	switch p := reflect.PointerTo(t); {
	case t.Kind() == reflect.Interface:
	case p.Implements(asJSON):
		return &doc{}
	case p.Implements(asText):
		return &doc{Type: "string"}
	}
	return nil
}

// whole is the schema of t in full.
func (in *inferer) whole(t reflect.Type, path string) (*doc, error) {
	if d := known(t); d != nil {
		return d, nil
	}
	if d := in.itself(t); d != nil {
		return d, nil
	}
	switch k := t.Kind(); k {
	case reflect.Bool:
		return &doc{Type: "boolean"}, nil
	case reflect.String:
		return &doc{Type: "string"}, nil
	case reflect.Float32, reflect.Float64:
		return &doc{Type: "number"}, nil
	case reflect.Int, reflect.Int64:
		return &doc{Type: "integer"}, nil
	case reflect.Uint, reflect.Uint64, reflect.Uintptr:
		return &doc{Type: "integer", Minimum: "0"}, nil
	case reflect.Int8, reflect.Int16, reflect.Int32:
		most := int64(1)<<(t.Bits()-1) - 1
		return &doc{Type: "integer", Minimum: decimalText(-most - 1), Maximum: decimalText(most)}, nil
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return &doc{Type: "integer", Minimum: "0", Maximum: decimalText(int64(1)<<t.Bits() - 1)}, nil
	case reflect.Interface:
		return &doc{}, nil
	case reflect.Slice, reflect.Array:
		return in.list(t, path)
	case reflect.Map:
		return in.mapping(t, path)
	case reflect.Struct:
		return in.record(t, path)
	}
	return nil, fmt.Errorf("%s is a %v: JSON has none", cut(path, maxPath), t)
}

func decimalText(n int64) json.Number { return json.Number(strconv.FormatInt(n, 10)) }

func (in *inferer) list(t reflect.Type, path string) (*doc, error) {
	e := t.Elem()
	if p := reflect.PointerTo(e); t.Kind() == reflect.Slice && e.Kind() == reflect.Uint8 &&
		!p.Implements(marshaler) && !p.Implements(textMarshaler) {
		return &doc{Type: "string", ContentEncoding: "base64"}, nil
	}
	items, err := in.of(e, path+"[]")
	if err != nil {
		return nil, err
	}
	d := &doc{Type: "array"}
	if !items.isAny() {
		d.Items = items
	}
	if t.Kind() == reflect.Array {
		n := t.Len()
		d.MaxItems = &n
		if in.out {
			d.MinItems = &n
		}
	}
	return d, nil
}

func (in *inferer) mapping(t reflect.Type, path string) (*doc, error) {
	key, asText := t.Key(), textUnmarshaler
	if in.out {
		asText = textMarshaler
	}
	if k := key.Kind(); k != reflect.String && !(k >= reflect.Int && k <= reflect.Uintptr) &&
		!key.Implements(asText) && !reflect.PointerTo(key).Implements(asText) {
		return nil, fmt.Errorf("%s is a %v: its keys must be strings or integers", cut(path, maxPath), t)
	}
	values, err := in.of(t.Elem(), path+".*")
	if err != nil {
		return nil, err
	}
	d := &doc{Type: "object"}
	if !values.isAny() {
		d.Additional = values
	}
	return d, nil
}

// option is what a description may not begin with, as in jsonschema-go.
var option = regexp.MustCompile("^[^ \t\n]*=")

func (in *inferer) record(t reflect.Type, path string) (*doc, error) {
	d := &doc{Type: "object", Properties: members{}, Additional: false}
	for _, f := range fieldsOf(t) {
		at := path + "." + f.name
		p, err := in.field(&f, at)
		if err != nil {
			return nil, err
		}
		if says, ok := f.Tag.Lookup("jsonschema"); ok {
			if wrong := describable(says); wrong != nil {
				return nil, fmt.Errorf("%s: the tag jsonschema:%q %w", cut(at, maxPath), cut(says, maxPath), wrong)
			}
			if p.Ref != "" { // beside which some providers take nothing
				p = &doc{AnyOf: []*doc{p}}
			}
			p.Description = says
		}
		d.Properties = append(d.Properties, named{f.name, p})
		if !f.optional && !f.maybe {
			d.Required = append(d.Required, f.name)
		}
	}
	return d, nil
}

func describable(says string) error {
	switch {
	case strings.TrimSpace(says) == "":
		return errors.New("is empty: must be a description")
	case option.MatchString(says):
		return errors.New("begins like an option: must be a description, whose first word has no =")
	}
	return nil
}

func (in *inferer) field(f *field, path string) (*doc, error) {
	switch {
	case f.quoted && nilable(f.Type) && !f.optional:
		return &doc{Type: []string{"string", "null"}}, nil
	case f.quoted:
		return &doc{Type: "string"}, nil
	case f.optional: // nil is left out
		plain, err := pointee(f.Type)
		if err != nil {
			return nil, fmt.Errorf("%s %w", path, err)
		}
		return in.bare(plain, path)
	}
	return in.of(f.Type, path)
}
