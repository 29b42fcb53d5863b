package strictjson

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/sluice-go/sluice/internal/jsonx"
)

var (
	marshaler     = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// EncodeOwn is Encode, whose error says for the library what could not be encoded.
func EncodeOwn(v any, max int) ([]byte, error) {
	b, err := Encode(v, max)
	if err != nil {
		return nil, fmt.Errorf("sluice: encoding %T: %w", v, err)
	}
	return b, nil
}

// Encode encodes v as encoding/json does, but leaves <, > and & as they are. Before, v is
// checked by CheckValue, since encoding/json follows any depth and a stack overflow ends the
// process. A json.RawMessage is checked for its form and comes back as a copy; nil is null.
// A panic of an encoding method comes back as an error; what such methods do is not bounded.
// No error shows a value.
func Encode(v any, maxBytes int) (data []byte, err error) {
	l := Limits{MaxBytes: maxBytes}.withDefaults()
	if raw, ok := v.(json.RawMessage); ok && raw != nil {
		if err := l.size(len(raw)); err != nil {
			return nil, err
		}
		if !utf8.Valid(raw) {
			return nil, &Error{Path: "$", Reason: "is not valid UTF-8"}
		}
		s := scanner{data: raw, max: l.MaxDepth}
		if !s.document(&formNode) {
			return nil, s.err
		}
		return slices.Clone(raw), nil
	}
	if err := CheckValue(v, l); err != nil {
		return nil, err
	}
	defer func() {
		if r := recover(); r != nil {
			cause, _ := r.(error)
			data, err = nil, &Error{Path: "$", Reason: "holds what panicked when it was to encode itself", cause: cause}
		}
	}()
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, &Error{Path: "$", Reason: whyNot(err), cause: err}
	}
	data = bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if err := l.size(len(data)); err != nil {
		return nil, err
	}
	return data, nil
}

// whyNot says why encoding/json failed, without the value that its error shows.
func whyNot(err error) string {
	switch err := err.(type) {
	case *json.UnsupportedTypeError:
		return "holds a " + nameOf(err.Type) + ": JSON has none"
	case *json.UnsupportedValueError:
		return "holds a number that JSON does not have: NaN or an infinity"
	case *json.MarshalerError:
		return "holds a " + nameOf(err.Type) + " that did not encode itself"
	}
	return "cannot be encoded"
}

func (l Limits) size(n int) error {
	if n > l.MaxBytes {
		return &Error{Path: "$", Reason: fmt.Sprintf("is %d bytes: must be at most %d", n, l.MaxBytes)}
	}
	return nil
}

// CheckValue reports whether json.Marshal may be let loose on v: whether it is nested no
// deeper than allowed, and so has no cycle, and surely needs no more than MaxBytes. What
// encodes itself (json.Marshaler, encoding.TextMarshaler) is not looked into. It costs at
// most time in proportion to MaxBytes, also where v holds the same parts many times.
func CheckValue(v any, l Limits) error {
	l = l.withDefaults()
	m := measure{left: l.MaxBytes, deepest: l.MaxDepth}
	if !m.value(reflect.ValueOf(v), 0) {
		if m.tooDeep {
			return &Error{Path: "$", Reason: fmt.Sprintf(
				"is nested too deep or refers to itself: at most %d levels are allowed", l.MaxDepth)}
		}
		return &Error{Path: "$", Reason: fmt.Sprintf("takes more than %d bytes: must not", l.MaxBytes)}
	}
	return nil
}

// measure goes through a value and counts down what encoding it takes at least.
type measure struct {
	left    int // bytes
	deepest int
	tooDeep bool
}

func (m *measure) take(n int) bool {
	m.left -= n
	return m.left >= 0
}

// value goes through v, which lies in depth objects and arrays.
func (m *measure) value(v reflect.Value, depth int) bool {
	for hops := 0; v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface; hops++ {
		switch {
		case v.IsNil():
			return m.take(len("null"))
		case encodesItself(v):
			return m.take(1)
		case hops == maxPointers:
			m.tooDeep = true
			return false
		}
		v = v.Elem()
	}
	if !v.IsValid() { // nil
		return true
	}
	if encodesItself(v) {
		return m.take(1)
	}
	k := v.Kind()
	switch k {
	case reflect.String:
		if v.Type() == jsonNumber {
			return m.take(max(1, v.Len()))
		}
		return m.take(v.Len() + len(`""`))
	case reflect.Map, reflect.Slice:
		if v.IsNil() {
			return m.take(len("null"))
		}
		if k == reflect.Slice && inBase64(v.Type().Elem()) {
			return m.take((v.Len()+2)/3*4 + len(`""`))
		}
	case reflect.Array, reflect.Struct:
	default:
		return m.take(1)
	}
	if depth >= m.deepest {
		m.tooDeep = true
		return false
	}
	switch k {
	case reflect.Map:
		return m.mapping(v, depth+1)
	case reflect.Struct:
		return m.record(v, depth+1)
	}
	if !m.take(len("[]") + max(0, v.Len()-1)) {
		return false
	}
	if e := v.Type().Elem().Kind(); e >= reflect.Bool && e <= reflect.Complex128 {
		return m.take(v.Len())
	}
	for i := range v.Len() {
		if !m.value(v.Index(i), depth+1) {
			return false
		}
	}
	return true
}

func (m *measure) mapping(v reflect.Value, depth int) bool {
	if !m.take(len("{}") + max(0, v.Len()-1) + v.Len()*len(`"":`)) {
		return false
	}
	for it := v.MapRange(); it.Next(); {
		if key := it.Key(); key.Kind() == reflect.String && !m.take(key.Len()) || !m.value(it.Value(), depth) {
			return false
		}
	}
	return true
}

func (m *measure) record(v reflect.Value, depth int) bool {
	size := len("{}")
	for i, fields := 0, writtenFields(v.Type()); i < len(fields); i++ {
		f, err := v.FieldByIndexErr(fields[i].Path)
		if err != nil || (fields[i].OmitEmpty || fields[i].OmitZero) && blank(f) {
			continue
		}
		if size > len("{}") {
			size++ // a comma
		}
		if size += len(fields[i].Name) + len(`"":`); !m.value(f, depth) {
			return false
		}
	}
	return m.take(size)
}

// blank reports whether omitempty or omitzero may leave v out.
func blank(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	}
	return v.IsZero() || v.Kind() == reflect.Array && v.Len() == 0
}

// inBase64 reports whether encoding/json takes a slice of e for bytes.
func inBase64(e reflect.Type) bool {
	p := reflect.PointerTo(e)
	return e.Kind() == reflect.Uint8 && !p.Implements(marshaler) && !p.Implements(textMarshaler)
}

// encodesItself reports whether encoding/json calls a method of v.
func encodesItself(v reflect.Value) bool {
	t := v.Type()
	if t.Kind() == reflect.Interface {
		return false // the methods of its content count
	}
	if t.NumMethod() > 0 && (t.Implements(marshaler) || t.Implements(textMarshaler)) {
		return true
	}
	if t.Kind() == reflect.Pointer || t.Name() == "" || !v.CanAddr() {
		return false
	}
	p := reflect.PointerTo(t)
	return p.NumMethod() > 0 && (p.Implements(marshaler) || p.Implements(textMarshaler))
}

// written holds what jsonx.Fields says, for encoding.
var written sync.Map // reflect.Type -> []jsonx.Field

func writtenFields(t reflect.Type) []jsonx.Field {
	if f, ok := written.Load(t); ok {
		return f.([]jsonx.Field)
	}
	f, _ := written.LoadOrStore(t, jsonx.Fields(t))
	return f.([]jsonx.Field)
}
